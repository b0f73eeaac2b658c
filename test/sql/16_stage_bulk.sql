-- History by bulk: no rowversion, lines within, some of them deferred; it never
-- overwrites what a sync feed brought.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

CREATE FUNCTION t.bulk(p_header jsonb, p_lines jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT p_header - 'Timestamp' - 'ID' - 'VATAmount' || jsonb_build_object('SalesOrderLines', p_lines) $$;
CREATE FUNCTION t.results(VARIADIC p jsonb[]) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT jsonb_build_object('results', to_jsonb(p)) $$;
CREATE VIEW t.orders AS SELECT order_number, description, timestamp, lines_deferred, (SELECT count(*) FROM exact_sales_order_lines l WHERE l.order_id = o.id) AS lines FROM exact_sales_orders o ORDER BY order_number;

-- As after the first page of an import.
UPDATE divisions SET imported_at = NULL, stage_since = send_since;

-- Lines come with their order, in either shape, or not at all.
SELECT t.body('bulk_orders', t.page(ARRAY[
    t.bulk(t.header(1), t.results(t.line(1, 1) - 'Timestamp', t.line(1, 2) - 'Timestamp')),
    t.bulk(t.header(2), jsonb_build_array(t.line(2, 1) - 'Timestamp')),
    t.bulk(t.header(3), '{"results": []}'),
    t.bulk(t.header(4), 'null'),
    t.bulk(t.header(5), '{"__deferred": {"uri": "https://start.exactonline.nl/x"}}')]));
SELECT * FROM t.orders;

-- Read again: bulk rows are taken again (they carry no version), and only a difference is a change.
DELETE FROM job_signals;
SELECT t.body('bulk_orders', t.page(ARRAY[t.bulk(t.header(1, '{"Description": "anders"}'), t.results(t.line(1, 1) - 'Timestamp', t.line(1, 2) - 'Timestamp')), t.bulk(t.header(3), '{"results": []}')]));
SELECT kind, right(exact_id::text, 2) AS id, reason FROM job_signals ORDER BY id;

-- A row of a sync feed replaces a bulk row; a bulk row never replaces it.
SELECT t.stage('sales_order_headers', t.header(1, '{"Timestamp": 7000, "Description": "from the feed"}'));
SELECT t.stage('sales_order_lines', t.line(1, 1, '{"Timestamp": 7001, "Quantity": 9}'));
SELECT t.body('bulk_orders', t.page(ARRAY[t.bulk(t.header(1, '{"Description": "old"}'), t.results(t.line(1, 1) - 'Timestamp', t.line(1, 2) - 'Timestamp'))]));
SELECT * FROM t.orders WHERE order_number = 1001;
SELECT line_number, trim_scale(quantity) AS quantity, timestamp FROM exact_sales_order_lines WHERE order_id = t.oid(1) ORDER BY line_number;

-- Deferred lines are asked for by their orders, at most forty at once.
SELECT t.body('bulk_orders', t.page((SELECT array_agg(t.bulk(t.header(n), '{"__deferred": {}}') ORDER BY n) FROM generate_series(101, 160) n)));
SELECT t.run() > 0 AS run;
SELECT (length(u) - length(replace(u, 'OrderID%20eq', ''))) / length('OrderID%20eq') AS asked FROM _feed_next(100, 'deferred_lines', (SELECT id FROM t.run)) u;
-- Only what was asked for is done, and only when its list is at its end.
SELECT rows, done FROM _stage_page(100, 'deferred_lines', (SELECT id FROM t.run), t.page(ARRAY[t.line(5, 1) - 'Timestamp', t.line(101, 1) - 'Timestamp'], 'https://start.exactonline.nl/more'));
SELECT count(*) FILTER (WHERE lines_deferred) AS waiting FROM exact_sales_orders;
SELECT _feed_next(100, 'deferred_lines', (SELECT id FROM t.run));
SELECT rows, done FROM _stage_page(100, 'deferred_lines', (SELECT id FROM t.run), t.page(ARRAY[t.line(102, 1) - 'Timestamp']));
SELECT count(*) FILTER (WHERE lines_deferred) AS waiting FROM exact_sales_orders;
SELECT (length(u) - length(replace(u, 'OrderID%20eq', ''))) / length('OrderID%20eq') AS asked FROM _feed_next(100, 'deferred_lines', (SELECT id FROM t.run)) u;
SELECT rows, done FROM _stage_page(100, 'deferred_lines', (SELECT id FROM t.run), t.page(ARRAY[t.line(140, 1) - 'Timestamp']));
SELECT _feed_next(100, 'deferred_lines', (SELECT id FROM t.run)) AS all_done;
SELECT count(*) FILTER (WHERE lines_deferred) AS waiting FROM exact_sales_orders;
-- Cut off in the middle of a list, the next run asks for the same orders again.
SELECT t.body('bulk_orders', t.page(ARRAY[t.bulk(t.header(201), '{"__deferred": {}}')]));
SELECT t.body('deferred_lines', t.page(ARRAY[t.line(201, 1) - 'Timestamp'], 'https://start.exactonline.nl/more'));
SELECT t.run() > 0 AS run;
SELECT position(t.oid(201)::text IN _feed_next(100, 'deferred_lines', (SELECT id FROM t.run))) > 0 AS asked_again;

-- History is history until the import ends: not live, and won at noon of its own day.
SELECT t.body('bulk_orders', t.page(ARRAY[t.bulk(t.header(301, '{"InvoiceStatus": 21}'), '{"results": []}')]));
SELECT lane, closed_at FROM wanted_deals WHERE order_number = 1301;
SELECT _run_begin('import_history') AS import \gset
SELECT _run_end(:import, 'broken off');
SELECT imported_at IS NOT NULL AS imported FROM divisions;
SELECT t.stage('sales_order_headers', t.header(302, '{"InvoiceStatus": 21}'));
SELECT lane, closed_at ~ '^2026-03-' AS by_its_own_day FROM wanted_deals WHERE order_number = 1302;
SELECT _run_end(:import, NULL);
SELECT imported_at IS NOT NULL AS imported FROM divisions;
SELECT lane, closed_at FROM wanted_deals WHERE order_number = 1302;
ROLLBACK;
