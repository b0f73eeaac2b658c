-- What a page may change: only newer rows are taken, only a difference in
-- content is a change, and only a change is a signal.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

CREATE VIEW t.header AS SELECT right(id::text, 2) AS id, order_number, description, timestamp, changed_at = (SELECT min(changed_at) FROM exact_sales_orders) AS unchanged FROM exact_sales_orders ORDER BY id;
CREATE FUNCTION t.signals() RETURNS text LANGUAGE sql VOLATILE AS $$
    WITH d AS (DELETE FROM job_signals RETURNING kind, exact_id) SELECT coalesce(string_agg(kind || ' ' || coalesce(right(exact_id::text, 2), ''), ', ' ORDER BY kind, exact_id), 'none') FROM d $$;

-- A new row is a change, and one signal.
SELECT t.stage('sales_order_headers', t.header(1, '{"Timestamp": 100, "Description": "first"}'));
SELECT t.signals();

-- The same row once more (each poll reads a little of what it had): nothing.
SELECT t.stage('sales_order_headers', t.header(1, '{"Timestamp": 100, "Description": "first"}'));
SELECT t.signals();

-- The same content with a higher Timestamp: the position moves, nobody is told.
SELECT t.stage('sales_order_headers', t.header(1, '{"Timestamp": 200, "Description": "first"}'));
SELECT t.signals();
SELECT * FROM t.header;

-- An older row is not taken, whatever it says.
SELECT t.stage('sales_order_headers', t.header(1, '{"Timestamp": 150, "Description": "old"}'));
SELECT * FROM t.header;
SELECT t.signals();

-- Content that differs is a change.
SELECT t.stage('sales_order_headers', t.header(1, '{"Timestamp": 300, "Description": "second"}'));
SELECT * FROM t.header;
SELECT t.signals();

-- A value that goes away is a change; an empty text and none are the same.
SELECT t.stage('sales_order_headers', t.header(1, '{"Timestamp": 301, "Description": null}'));
SELECT t.stage('sales_order_headers', t.header(1, '{"Timestamp": 302, "Description": "  "}'));

-- A key twice in a page counts once, the newest, wherever it stands.
SELECT t.stage('sales_order_headers', t.header(2, '{"Timestamp": 402, "Description": "newest"}'), t.header(2, '{"Timestamp": 401, "Description": "older"}'), t.header(3, '{"Timestamp": 403}'));
SELECT * FROM t.header;

-- Modified is a wall clock and never decides; only Timestamp does.
SELECT t.stage('sales_order_headers', t.header(2, jsonb_build_object('Timestamp', 500, 'Description', 'earlier by the clock', 'Modified', t.day('2020-01-01'))));
SELECT description FROM t.header WHERE id = '02';

-- A rowversion above 2^53 keeps every digit, also as a quoted string.
SELECT t.stage('sales_order_headers', t.header(4, '{"Timestamp": 9007199254740993}'));
SELECT t.stage('sales_order_headers', t.header(4, '{"Timestamp": "9007199254740995", "Description": "quoted"}'));
SELECT * FROM t.header WHERE id = '04';
SELECT last_timestamp, _feed_next(100, 'sales_order_headers', 0) AS next FROM feed_positions WHERE feed = 'sales_order_headers';

-- Lines: the order is told, once per page.
SELECT t.signals() IS NOT NULL AS cleared;
SELECT t.stage('sales_order_lines', t.line(1, 1), t.line(1, 2), t.line(2, 1));
SELECT t.signals();
SELECT t.stage('sales_order_lines', t.line(1, 1), t.line(1, 2), t.line(2, 1, '{"Quantity": 2}'));
SELECT t.signals();

-- The optional quantities: a row without them does not wipe what was read.
SELECT t.stage('sales_order_lines', t.line(3, 1, '{"QuantityDelivered": 4, "QuantityInvoiced": 3}'));
SELECT t.stage('sales_order_lines', t.line(3, 1, '{"Quantity": 5}'));
SELECT quantity, quantity_delivered, quantity_invoiced FROM exact_sales_order_lines WHERE order_id = t.oid(3);

-- Divisions do not meet: the same GUID in two is two records.
INSERT INTO divisions (division) VALUES (200);
SELECT _feed_next(200, 'accounts', 0) IS NOT NULL AS asked;
SELECT t.stage('accounts', t.account(7));
SELECT taken FROM _stage_page(200, 'accounts', 0, t.page(ARRAY[t.account(7, '{"Name": "Andere firma"}')]));
SELECT division, name FROM exact_accounts ORDER BY division;
ROLLBACK;
