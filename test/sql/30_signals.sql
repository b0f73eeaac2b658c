-- Signals become jobs: many to one, in the right lane; a rule is one signal for
-- all deals.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

SELECT t.catalogue(3);
SELECT t.fold();
SELECT kind, count(*), min(lane) AS lane FROM jobs GROUP BY kind ORDER BY kind;
DELETE FROM jobs;

-- Coalescing: header, lines, and again: one deal, with the customer and the products it needs, all live.
SELECT t.order(1, 2), t.order(1, 3);
SELECT count(*) > 2 AS many_signals FROM job_signals WHERE kind = 'deal';
SELECT t.fold();
SELECT kind, id, lane, state FROM t.waiting;
SELECT count(*) FROM job_signals;
-- What an order needs goes just before it.
SELECT j.kind, row_number() OVER (ORDER BY j.lane, j.priority) AS goes FROM jobs j WHERE j.kind <> 'product' OR j.exact_id = t.iid(1) ORDER BY 2;
-- Newer orders go before older ones of their lane.
DELETE FROM jobs;
SELECT t.order(2, 0, jsonb_build_object('OrderDate', t.day('2026-05-01'))), t.order(3, 0, jsonb_build_object('OrderDate', t.day('2026-01-01'))), t.order(4, 0, jsonb_build_object('OrderDate', t.day('2026-03-01'))), t.order(5, 0, '{"OrderDate": null}');
SELECT t.fold();
SELECT right(exact_id::text, 2) AS id FROM jobs WHERE kind = 'deal' ORDER BY lane, priority;

-- Lanes: 1 live; 2 open, not live; 3 the rest.
DELETE FROM jobs;
SELECT t.order(11, 0), t.order(12, 0), t.order(13, 0, '{"InvoiceStatus": 21}'), t.order(14, 0, '{"Status": 45}');
UPDATE exact_sales_orders SET changed_at = changed_at - interval '2 days' WHERE id <> t.oid(11);
INSERT INTO job_signals (kind, reason) VALUES ('all_deals', 'test');
SELECT t.fold();
SELECT right(exact_id::text, 2) AS id, lane FROM jobs WHERE kind = 'deal' AND exact_id >= t.oid(11) ORDER BY 1;
-- The better lane wins, and its place in it.
SELECT t.stage('sales_order_headers', t.header(13, '{"InvoiceStatus": 21, "Description": "changed now"}'));
SELECT t.fold();
SELECT lane FROM jobs WHERE exact_id = t.oid(13);
UPDATE exact_sales_orders SET changed_at = changed_at - interval '2 days' WHERE id = t.oid(13);
SELECT t.fold();
SELECT lane AS still FROM jobs WHERE exact_id = t.oid(13);

-- Outside the window: closed and old is not sent, unless there is a deal already.
DELETE FROM jobs;
UPDATE divisions SET send_since = '2026-04-01';
INSERT INTO job_signals (kind, reason) VALUES ('all_deals', 'test');
SELECT t.fold();
SELECT count(*) FROM jobs WHERE kind = 'deal' AND exact_id IN (t.oid(13), t.oid(14));
INSERT INTO links (kind, division, exact_id, pipedrive_id, sent) VALUES ('deal', 100, t.oid(13), 1, '{}');
INSERT INTO job_signals (kind, reason) VALUES ('all_deals', 'test');
SELECT t.fold();
SELECT right(exact_id::text, 2) AS id FROM jobs WHERE kind = 'deal' AND exact_id IN (t.oid(13), t.oid(14));

-- Customers: only those that are linked, or that a deal waits for.
DELETE FROM jobs;
DELETE FROM job_signals;
SELECT t.stage('accounts', t.account(1, '{"Name": "Nieuwe naam"}'), t.account(2, '{"Name": "Andere naam"}'));
INSERT INTO links (kind, division, exact_id, pipedrive_id, sent) VALUES ('organization', 100, t.aid(1), 1, '{}');
SELECT t.fold();
SELECT kind, id, lane FROM t.waiting;

-- A deal that waits for a customer or an item that comes later: the customer wakes it, also an item that is not for sale.
DELETE FROM jobs;
SELECT t.stage('sales_order_headers', t.header(20, jsonb_build_object('OrderedBy', t.aid(9), 'OrderDate', t.day('2026-06-01'))));
SELECT t.stage('sales_order_lines', t.line(20, 9));
SELECT count(*) AS calls FROM t.take();
SELECT kind, id, state, reason FROM t.waiting;
SELECT kind, right(exact_id::text, 2) AS needs FROM job_needs ORDER BY 1;
SELECT t.stage('accounts', t.account(9));
SELECT t.stage('items', t.item(9, '{"IsSalesItem": false}'));
SELECT call FROM t.take();
SELECT t.answer();
SELECT kind, id, state, reason FROM t.waiting;
SELECT call FROM t.take();
SELECT t.answer();
SELECT count(*) FROM jobs;
-- A need that is none any more does not hold it back.
SELECT t.send() IS NOT NULL AS everything_else;
SELECT t.stage('sales_order_headers', t.header(21, jsonb_build_object('OrderedBy', t.aid(31), 'OrderDate', t.day('2026-06-01'), 'AmountFCExclVat', 200)));
SELECT t.stage('sales_order_lines', t.line(21, 1), t.line(21, 44));
SELECT call FROM t.take();
SELECT t.answer();
SELECT kind, right(exact_id::text, 2) AS needs FROM job_needs ORDER BY 1;
UPDATE exact_sales_order_lines SET deleted_at = clock_timestamp(), changed_at = clock_timestamp() WHERE id = t.lid(21, 44);
UPDATE exact_sales_orders SET amount_fc_excl_vat = 100 WHERE id = t.oid(21);
SELECT count(*) FROM t.take();
SELECT kind, right(exact_id::text, 2) AS needs FROM job_needs ORDER BY 1;
SELECT t.stage('accounts', t.account(31));
SELECT t.send();
SELECT count(*) FROM jobs;

-- Item groups: one job for all, before everything else; a renamed group is its products, too.
DELETE FROM jobs;
SELECT t.stage('item_groups', jsonb_build_object('ID', t.gid(1), 'Description', 'Tafel'), jsonb_build_object('ID', t.gid(2), 'Description', 'Keuken'));
SELECT t.fold();
SELECT kind, lane FROM t.waiting;
DELETE FROM jobs;
SELECT t.stage('item_groups', jsonb_build_object('ID', t.gid(1), 'Description', 'Tafelen'), jsonb_build_object('ID', t.gid(2), 'Description', 'Keuken'));
SELECT t.fold();
SELECT kind, count(*) FROM jobs GROUP BY kind ORDER BY kind;

-- Prices: for everybody they concern the product, of one account they do not.
DELETE FROM jobs;
SELECT t.stage('item_prices', jsonb_build_object('ID', t.id('c0', 1), 'Item', t.iid(1), 'Price', 5), jsonb_build_object('ID', t.id('c0', 2), 'Item', t.iid(2), 'Price', 5, 'Account', t.aid(1)));
SELECT t.fold();
SELECT kind, id FROM t.waiting;

-- A job that is being sent is not taken twice: it is marked, and looked at once more afterwards.
DELETE FROM jobs;
UPDATE divisions SET send_since = '2020-01-01';
SELECT t.stage('sales_order_headers', t.header(30, '{"OrderedBy": null, "AmountFCExclVat": 0}'));
SELECT count(*) FROM t.take();
SELECT t.stage('sales_order_headers', t.header(30, '{"OrderedBy": null, "AmountFCExclVat": 0, "DeliveryStatus": 21}'));
SELECT t.fold();
SELECT state, dirty FROM jobs WHERE exact_id = t.oid(30);
SELECT count(*) FROM _take_batch(10);
SELECT t.answer();
SELECT state, dirty FROM jobs WHERE exact_id = t.oid(30);
SELECT call, body FROM t.take();
SELECT t.answer();
SELECT count(*) FROM jobs WHERE exact_id = t.oid(30);

-- resync(): one record whole once more, its lines read first; or all of a kind compared.
SELECT resync('deal', t.oid(30)) AS one, resync('organization', t.aid(1)) AS customer, resync('deal') AS all_deals;
SELECT t.fold();
SELECT lines_unread, sent FROM links WHERE kind = 'deal' AND exact_id = t.oid(30);
SELECT call, body ? 'name' AS whole FROM t.take();
SELECT t.answer();
SELECT what, reason FROM looks WHERE done_at IS NULL;
SELECT _look_take((SELECT look_id FROM _look_next()), 200, '{"data": []}') IS NULL AS nothing_to_say;
SELECT call, body ? 'title' AS whole FROM t.take();
SELECT t.answer();

-- Few at a time when asked for.
SELECT t.order(31, 0), t.order(32, 0), t.order(33, 0);
SELECT count(*) FROM job_signals;
SELECT _fold_signals(2), _fold_signals(2), _fold_signals(2);
ROLLBACK;
