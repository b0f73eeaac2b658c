-- Pages and positions: what is asked next, when a feed is drained, and that the
-- position moves with the page or not at all.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

CREATE FUNCTION t.next(p_feed text) RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT regexp_replace(_feed_next(100, p_feed, (SELECT id FROM t.run)), '&\$select=[A-Za-z0-9,/]+', '&$select=...') $$;
CREATE FUNCTION t.take_page(p_feed text, p_next text, VARIADIC p_rows jsonb[]) RETURNS text LANGUAGE sql VOLATILE
    AS $$ SELECT format('%s rows, %s', s.rows, CASE WHEN s.done THEN 'done' ELSE 'more' END) FROM _stage_page(100, p_feed, (SELECT id FROM t.run), t.page(p_rows, p_next)) s $$;
CREATE VIEW t.position AS SELECT feed, last_timestamp, cursor_timestamp, next_url, rows_total, last_success IS NOT NULL AS succeeded, drained_run = (SELECT id FROM t.run) AS drained FROM feed_positions;

-- Sync: from 1 at first, then page by page behind the highest rowversion.
SELECT t.run() > 0 AS run;
SELECT t.next('accounts');
SELECT t.take_page('accounts', 'https://start.exactonline.nl/next', t.account(2, '{"Timestamp": 7000}'), t.account(1, '{"Timestamp": 6500}'));
SELECT * FROM t.position;
SELECT t.next('accounts');
-- An exact multiple of the page size ends with an empty page that offers another.
SELECT t.take_page('accounts', 'https://start.exactonline.nl/next', VARIADIC '{}');
SELECT * FROM t.position;
SELECT t.next('accounts') AS drained;
-- The next run reads a little of what it had.
SELECT t.run() > 0 AS run;
SELECT t.next('accounts');
SELECT t.take_page('accounts', NULL, t.account(3, '{"Timestamp": 7100}'));
SELECT * FROM t.position;
-- A page of old rows does not take the position back.
SELECT t.run() > 0 AS run, t.next('accounts');
SELECT t.take_page('accounts', NULL, t.account(3, '{"Timestamp": 6000}'));
SELECT last_timestamp FROM t.position;

-- A feed that offers another page and does not move is an error, not an endless loop.
SELECT t.run() > 0 AS run, t.next('accounts');
SELECT t.error($$SELECT t.take_page('accounts', 'https://start.exactonline.nl/next', t.account(3, '{"Timestamp": 5100}'))$$);

-- A page that is thrown away moves nothing.
SELECT cursor_timestamp, rows_total FROM t.position;
SAVEPOINT page;
SELECT t.take_page('accounts', NULL, t.account(4, '{"Timestamp": 8000}'));
ROLLBACK TO page;
SELECT cursor_timestamp, rows_total FROM t.position;
SELECT count(*) FROM exact_accounts WHERE id = t.aid(4);

-- A small list is read whole, by Exact's own continuation.
DELETE FROM feed_positions;
SELECT t.run() > 0 AS run;
SELECT t.next('item_groups');
SELECT t.take_page('item_groups', 'https://start.exactonline.nl/api/v1/100/logistics/ItemGroups?$skiptoken=1', jsonb_build_object('ID', t.gid(1), 'Code', 'T', 'Description', 'Tafel'));
SELECT t.next('item_groups');
SELECT t.take_page('item_groups', NULL, jsonb_build_object('ID', t.gid(2), 'Code', 'K', 'Description', 'Keuken'));
SELECT t.next('item_groups') AS drained;
-- Cut off in the middle, the next run begins it anew.
SELECT t.run() > 0 AS run, t.next('item_groups') IS NOT NULL AS begun;
SELECT t.take_page('item_groups', 'https://start.exactonline.nl/api/v1/100/logistics/ItemGroups?$skiptoken=1', jsonb_build_object('ID', t.gid(1), 'Code', 'T', 'Description', 'Tafel'));
SELECT t.run() > 0 AS run;
SELECT t.next('item_groups');

-- Bulk: from the day of the window on; an import that was cut off goes on at its last page while that is fresh.
DELETE FROM feed_positions;
UPDATE divisions SET send_since = '2025-11-23', stage_since = '2023-11-23';
SELECT t.run() > 0 AS run;
SELECT t.next('bulk_orders');
SELECT t.next('bulk_orders_past');
SELECT t.take_page('bulk_orders', 'https://start.exactonline.nl/api/v1/100/bulk/SalesOrder/SalesOrders?$skiptoken=x', t.header(1, '{"Timestamp": null}'));
SELECT t.run() > 0 AS run;
SELECT t.next('bulk_orders');
UPDATE feed_positions SET last_page_at = last_page_at - interval '7 hours' WHERE feed = 'bulk_orders';
SELECT t.next('bulk_orders');
SELECT t.take_page('bulk_orders', NULL, t.header(1, '{"Timestamp": null}'));
SELECT t.next('bulk_orders') AS drained;
-- No past to stage: nothing is asked.
UPDATE divisions SET stage_since = send_since;
SELECT t.next('bulk_orders_past') AS nothing;

-- Where to start: only a feed without a position is given one; no answer means from the beginning.
DELETE FROM feed_positions;
SELECT regexp_replace(t.next('start_headers'), '[0-9]{4}-[0-9]{2}-[0-9]{2}', 'yesterday') AS next;
SELECT rows, done FROM _stage_page(100, 'start_headers', (SELECT id FROM t.run), '{"d":{"results":[{"Modified":null,"TimeStampAsBigInt":13470000001}]}}');
SELECT feed, last_timestamp FROM feed_positions WHERE last_timestamp IS NOT NULL;
SELECT t.next('start_headers') AS known;
SELECT t.next('start_lines') IS NOT NULL AS asked;
SELECT rows, done FROM _stage_page(100, 'start_lines', (SELECT id FROM t.run), '{"d":[]}');
SELECT feed, last_timestamp FROM feed_positions WHERE last_timestamp IS NOT NULL ORDER BY feed;
-- The headers go on just before what was given.
SELECT t.run() > 0 AS run;
SELECT t.next('sales_order_headers');

-- What a refusal leads to: fewer fields, later, from the beginning, or a failure.
DELETE FROM feed_positions;
SELECT t.next('sales_order_lines') IS NOT NULL AND t.next('employees') IS NOT NULL AND t.next('start_headers') IS NOT NULL AND t.next('item_groups') IS NOT NULL AS asked;
SELECT position('QuantityDelivered' IN _feed_next(100, 'sales_order_lines', 0)) > 0 AS optional_fields;
SELECT _feed_refused(100, 'sales_order_lines', 0, 400, 'unknown field') AS first;
SELECT position('QuantityDelivered' IN _feed_next(100, 'sales_order_lines', 0)) > 0 AS optional_fields;
-- Refused without them, too: they were not the reason.
SELECT _feed_refused(100, 'sales_order_lines', 0, 400, 'unknown field') AS again;
SELECT position('QuantityDelivered' IN _feed_next(100, 'sales_order_lines', 0)) > 0 AS optional_fields;
SELECT _feed_refused(100, 'employees', 0, 403, 'no scope') AS optional_feed, _feed_next(100, 'employees', 0) AS left_alone;
SELECT _feed_refused(100, 'start_headers', 0, 404, 'no function') AS no_function;
SELECT last_timestamp FROM feed_positions WHERE feed = 'sales_order_headers';
SELECT _feed_refused(100, 'accounts', 0, 403, 'no scope') AS needed_feed;
-- A continuation that is not understood any more is not asked for again.
SELECT taken FROM _stage_page(100, 'item_groups', (SELECT id FROM t.run), t.page(ARRAY[jsonb_build_object('ID', t.gid(1))], 'https://start.exactonline.nl/old'));
SELECT _feed_refused(100, 'item_groups', 0, 400, 'bad token') AS said;
SELECT next_url FROM feed_positions WHERE feed = 'item_groups';

-- The feeds of a group, in the order to read them; none while the part is paused.
SELECT string_agg(feed, ', ') AS orders FROM (SELECT feed FROM _poll_feeds('orders')) x;
SELECT string_agg(feed, ', ') AS history FROM (SELECT feed FROM _poll_feeds('history')) x;
SELECT string_agg(feed, ', ') AS customers FROM (SELECT feed FROM _poll_feeds('customers')) x;
SELECT string_agg(feed, ', ') AS products FROM (SELECT feed FROM _poll_feeds('products')) x;
SELECT pause('orders');
SELECT count(*) FROM _poll_feeds('orders');
ROLLBACK;
