-- Headers that do not come along with their lines, and a division that Exact
-- moved to another database.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

-- A line changes and its header does not come in the same poll: the header is read singly.
SELECT t.order(1, 1), t.order(2, 1), t.order(3, 1);
DELETE FROM stale_headers;
UPDATE exact_sales_orders SET changed_at = changed_at - interval '1 hour';
SELECT t.stage('sales_order_lines', t.line(1, 1, '{"QuantityDelivered": 1}'), t.line(2, 1));
SELECT right(order_id::text, 2) AS id FROM stale_headers;
-- It came along, before its lines: nothing to do.
SELECT t.run() > 0 AS run;
SELECT _feed_next(100, f, (SELECT id FROM t.run)) IS NOT NULL AS asked FROM unnest(ARRAY['sales_order_headers', 'sales_order_lines']) f;
SELECT changed FROM _stage_page(100, 'sales_order_headers', (SELECT id FROM t.run), t.page(ARRAY[t.header(3, '{"DeliveryStatus": 21}')]));
SELECT changed FROM _stage_page(100, 'sales_order_lines', (SELECT id FROM t.run), t.page(ARRAY[t.line(3, 1, '{"QuantityDelivered": 1}')]));
SELECT right(order_id::text, 2) AS id FROM stale_headers;
-- What progress moves is taken, the rest and the rowversion are left to the feed.
SELECT t.run() > 0 AS run;
SELECT position('OrderID%20eq%20guid%27' || t.oid(1) IN _feed_next(100, 'stale_headers', (SELECT id FROM t.run))) > 0 AS asked;
DELETE FROM job_signals;
SELECT rows, taken, changed FROM _stage_page(100, 'stale_headers', (SELECT id FROM t.run), t.page(ARRAY[t.header(1, '{"DeliveryStatus": 21, "OrderedByName": "not taken"}') - 'Timestamp']));
SELECT delivery_status, ordered_by_name, timestamp IS NOT NULL AS rowversion FROM exact_sales_orders WHERE id = t.oid(1);
SELECT kind, right(exact_id::text, 2) AS id FROM job_signals;
SELECT count(*) FROM stale_headers;
SELECT _feed_next(100, 'stale_headers', (SELECT id FROM t.run)) AS nothing_more;

-- A move of the division renumbers everything: all feeds begin anew, once; rows are compared, not doubled.
SELECT t.stage('accounts', t.account(1, '{"Timestamp": 900000}'));
SELECT t.run() > 0 AS run;
SELECT regexp_replace(_feed_next(100, 'division', (SELECT id FROM t.run)), '&\$select.*', '') AS asked;
SELECT changed FROM _stage_page(100, 'division', (SELECT id FROM t.run), t.page(ARRAY[jsonb_build_object('Code', 100, 'Description', 'Testbedrijf', 'Currency', 'EUR', 'DivisionMoveDate', t.day('2025-01-01'))]));
SELECT feed, last_timestamp IS NULL AS anew FROM feed_positions WHERE feed = 'accounts';
SELECT t.run() > 0 AS run;
SELECT _feed_next(100, 'division', (SELECT id FROM t.run)) AS once_a_day;
UPDATE feed_positions SET last_success = last_success - interval '1 day' WHERE feed = 'division';
SELECT t.run() > 0 AS run, _feed_next(100, 'division', (SELECT id FROM t.run)) IS NOT NULL AS asked;
SELECT changed FROM _stage_page(100, 'division', (SELECT id FROM t.run), t.page(ARRAY[jsonb_build_object('Code', 100, 'Description', 'Testbedrijf', 'Currency', 'EUR', 'DivisionMoveDate', t.day('2026-03-01'))]));
SELECT feed, coalesce(last_timestamp, 1) <= 1 AS anew FROM feed_positions WHERE feed = 'accounts';
-- Rows with the new, lower numbers are taken; what is as it was is no change.
DELETE FROM job_signals;
SELECT t.stage('accounts', t.account(1, '{"Timestamp": 17}'));
SELECT timestamp FROM exact_accounts WHERE id = t.aid(1);
SELECT t.stage('accounts', t.account(1, '{"Timestamp": 18, "Name": "Nieuw"}'));
SELECT kind FROM job_signals;
ROLLBACK;
