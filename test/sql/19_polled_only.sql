-- A division that is polled without an import: what its feeds bring until they
-- first come to their end is history; what changes then is live.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

UPDATE divisions SET imported_at = NULL;
INSERT INTO divisions (division, imported_at) VALUES (200, NULL);

SELECT t.stage('sales_order_headers', t.header(1), t.header(2, '{"InvoiceStatus": 21}'));
SELECT order_number, lane, closed_at ~ '^2026-03-' AS by_its_own_day FROM wanted_deals ORDER BY 1;
-- A page of lines that is not the last one is not the end.
SELECT t.body('sales_order_lines', t.page(ARRAY[t.line(1, 1)], 'https://start.exactonline.nl/more'));
SELECT division, live_since IS NOT NULL AS live FROM divisions ORDER BY 1;
SELECT t.stage('sales_order_lines', t.line(2, 1));
SELECT division, live_since IS NOT NULL AS live FROM divisions ORDER BY 1;
SELECT order_number, lane, closed_at ~ '^2026-03-' AS by_its_own_day FROM wanted_deals ORDER BY 1;

-- From now on: new and changed orders are live, and won when we saw it.
SELECT t.stage('sales_order_headers', t.header(1, '{"InvoiceStatus": 21}'), t.header(3));
SELECT order_number, lane, closed_at ~ '^2026-03-' AS by_its_own_day FROM wanted_deals ORDER BY 1;
-- The end is noted once.
SELECT live_since AS before FROM divisions WHERE division = 100 \gset
SELECT t.stage('sales_order_lines', t.line(3, 1));
SELECT live_since = :'before' AS as_before FROM divisions WHERE division = 100;

-- An import that begins makes all of it history until it has come to its end.
SELECT _run_begin('import_history') AS import \gset
SELECT _import_begin(:import, 12, 36);
SELECT order_number, lane FROM wanted_deals ORDER BY 1;
SELECT t.stage('sales_order_headers', t.header(2, '{"Description": "changed meanwhile"}'));
SELECT t.stage('sales_order_lines', t.line(2, 2));
SELECT order_number, lane FROM wanted_deals ORDER BY 1;
SELECT _run_end(:import, NULL);
SELECT order_number, lane FROM wanted_deals ORDER BY 1;
SELECT t.stage('sales_order_headers', t.header(3, '{"Description": "changed after the import"}'));
SELECT t.stage('sales_order_lines', t.line(3, 2));
SELECT order_number, lane FROM wanted_deals ORDER BY 1;
SELECT live_since FROM divisions WHERE division = 100;
ROLLBACK;
