-- One order costs one order: with twenty thousand staged, nothing that works on
-- one key reads a whole table of staging, links or queue.  Counted by the
-- server's own figures of this transaction, and looked up in EXPLAIN.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

ALTER TABLE exact_sales_orders DISABLE TRIGGER USER;
ALTER TABLE exact_sales_order_lines DISABLE TRIGGER USER;
ALTER TABLE exact_accounts DISABLE TRIGGER USER;
ALTER TABLE exact_items DISABLE TRIGGER USER;
INSERT INTO exact_accounts (division, id, code, name) SELECT 100, t.aid(n), n::text, 'Klant ' || n FROM generate_series(1, 5000) n;
INSERT INTO exact_items (division, id, code, description, is_sales_item) SELECT 100, t.iid(n), 'ART-' || n, 'Artikel ' || n, true FROM generate_series(1, 5000) n;
INSERT INTO exact_sales_orders (division, id, row_id, order_number, status, delivery_status, invoice_status, ordered_by, order_date, currency, amount_fc_excl_vat, salesperson, timestamp, changed_at)
SELECT 100, t.oid(n), t.id('bb', n), n, 12, 12, 12, t.aid(1 + n % 5000), date '2026-01-01' + n % 300, 'EUR', 200, t.sid(1), n, clock_timestamp() - interval '3 days' FROM generate_series(1, 20000) n;
INSERT INTO exact_sales_order_lines (division, id, order_id, line_number, item, quantity, amount_fc, vat_percentage, timestamp)
SELECT 100, t.lid(n, m), t.oid(n), m, t.iid(1 + (n + m) % 5000), 1, 100, 0.21, n FROM generate_series(1, 20000) n, generate_series(1, 2) m;
ALTER TABLE exact_sales_orders ENABLE TRIGGER USER;
ALTER TABLE exact_sales_order_lines ENABLE TRIGGER USER;
ALTER TABLE exact_accounts ENABLE TRIGGER USER;
ALTER TABLE exact_items ENABLE TRIGGER USER;
INSERT INTO links (kind, division, exact_id, pipedrive_id, sent) SELECT 'organization', 100, t.aid(n), n, '{}' FROM generate_series(1, 5000) n;
INSERT INTO links (kind, division, exact_id, pipedrive_id, sent) SELECT 'product', 100, t.iid(n), n, '{}' FROM generate_series(1, 5000) n;
INSERT INTO links (kind, division, exact_id, pipedrive_id, sent) SELECT 'deal', 100, t.oid(n), n, '{}' FROM generate_series(1, 20000) n;
INSERT INTO line_links (division, order_id, line_id, pipedrive_id, product_id, quantity, item_price) SELECT 100, t.oid(n), t.lid(n, m), 2 * n + m, 1 + (n + m) % 5000, 1, 100 FROM generate_series(1, 20000) n, generate_series(1, 2) m;
ANALYZE;

-- Rows that sequential scans of large tables have read since the last look.
CREATE TABLE t.scans AS SELECT relname, 0::bigint AS seen FROM pg_stat_xact_user_tables WHERE false;
CREATE FUNCTION t.scanned() RETURNS TABLE (scanned name, rows bigint) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    SELECT s.relname, s.seq_tup_read - coalesce(x.seen, 0)
      FROM pg_stat_xact_user_tables s LEFT JOIN t.scans x ON x.relname = s.relname
     WHERE s.schemaname = 'exact_pd_sync' AND s.seq_tup_read - coalesce(x.seen, 0) > 1000 ORDER BY 1;
    DELETE FROM t.scans;
    INSERT INTO t.scans SELECT s.relname, s.seq_tup_read FROM pg_stat_xact_user_tables s WHERE s.schemaname = 'exact_pd_sync';
END
$$;
SELECT count(*) >= 0 AS from_here FROM t.scanned();
-- The figures show what they should.
SELECT count(*) AS all_orders FROM exact_sales_orders WHERE description IS NULL;
SELECT * FROM t.scanned();

-- The views, one key each.
SELECT status FROM wanted_deals WHERE division = 100 AND exact_id = t.oid(77);
SELECT count(*) FROM wanted_deal_products WHERE division = 100 AND order_id = t.oid(77);
SELECT total FROM order_sums WHERE division = 100 AND order_id = t.oid(77);
SELECT lane FROM deal_lanes WHERE division = 100 AND exact_id = t.oid(77);
SELECT name FROM wanted_organizations WHERE division = 100 AND exact_id = t.aid(77);
SELECT name FROM wanted_products WHERE division = 100 AND exact_id = t.iid(77);
SELECT * FROM t.scanned();

-- In EXPLAIN: no sequential scan of staging, links or lines.
CREATE FUNCTION t.seq_scans(p_sql text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    v text;
BEGIN
    FOR v IN EXECUTE 'EXPLAIN (COSTS OFF) ' || p_sql LOOP
        IF v ~ 'Seq Scan on (exact_|links|line_links|jobs)' THEN RETURN NEXT btrim(v); END IF;
    END LOOP;
END
$$;
SELECT t.seq_scans($$SELECT * FROM wanted_deals WHERE division = 100 AND exact_id = t.oid(77)$$);
SELECT t.seq_scans($$SELECT * FROM wanted_deal_products WHERE division = 100 AND order_id = t.oid(77)$$);
SELECT t.seq_scans($$SELECT * FROM deal_lanes WHERE division = 100 AND exact_id = t.oid(77)$$);
SELECT t.seq_scans($$SELECT * FROM exact_sales_orders$$) AS it_would_show;

-- The calls of one deal, of thirty, of one customer.
SELECT count(*) > 0 AS planned FROM _calls_deals(ARRAY[100], ARRAY[t.oid(77)], false);
SELECT count(*) > 0 AS planned FROM _calls_deals(array_fill(100, ARRAY[30]), (SELECT array_agg(t.oid(n)) FROM generate_series(101, 130) n), false);
SELECT count(*) > 0 AS planned FROM _calls_objects('organization', ARRAY[100], ARRAY[t.aid(77)]);
SELECT * FROM t.scanned();

-- From a signal to an announced call and its answer, and plan() of that one.
DELETE FROM job_signals;
SELECT t.stage('sales_order_headers', t.header(77, jsonb_build_object('Timestamp', 90000, 'AmountFCExclVat', 200, 'OrderedBy', t.aid(78))));
SELECT count(*) > 0 AS planned FROM plan();
SELECT * FROM t.scanned();
SELECT _fold_signals(100);
SELECT count(*) > 0 AS taken FROM t.take(10);
SELECT t.answer();
SELECT count(*) FROM jobs;
SELECT * FROM t.scanned();

-- A poll that finds nothing, and one that finds a little.
SELECT t.body('sales_order_headers', '{"d":[]}');
SELECT t.body('sales_order_lines', '{"d":[]}');
SELECT t.body('deleted', '{"d":[]}');
SELECT t.stage('sales_order_lines', t.line(78, 1, '{"Timestamp": 90001}'), t.line(79, 9, '{"Timestamp": 90002}'));
SELECT t.stage('deleted', jsonb_build_object('ID', t.id('de', 1), 'EntityType', 32, 'EntityKey', t.id('bb', 80), 'Timestamp', 90003), jsonb_build_object('ID', t.id('de', 2), 'EntityType', 33, 'EntityKey', t.lid(81, 1), 'Timestamp', 90004));
SELECT deleted_at IS NOT NULL AS deleted FROM exact_sales_orders WHERE division = 100 AND id = t.oid(80);
SELECT count(*) FROM _missing_keys(100, 'missing_items');
SELECT count(*) FROM _missing_keys(100, 'deferred_lines');
SELECT * FROM t.scanned();

-- With twenty thousand jobs waiting, claiming reads what it claims.
INSERT INTO jobs (kind, division, exact_id, lane, priority) SELECT 'deal', 100, t.oid(n), 3, n FROM generate_series(1, 20000) n ON CONFLICT DO NOTHING;
ANALYZE jobs;
SELECT count(*) >= 0 AS from_here FROM t.scanned();
SELECT count(DISTINCT job_id) FROM _take_batch(10);
SELECT * FROM t.scanned();

-- An order by its number, for a person.
SELECT count(*) > 0 AS traced FROM trace(78);
SELECT * FROM t.scanned();
ROLLBACK;
