-- Deletions: marked, never removed; before or after the row they concern; not
-- when the key came back.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

CREATE FUNCTION t.deleted(n integer, p_type integer, p_key uuid, p_timestamp bigint) RETURNS jsonb LANGUAGE sql IMMUTABLE
    AS $$ SELECT jsonb_build_object('ID', t.id('de', n), 'EntityType', p_type, 'EntityKey', p_key, 'DeletedDate', t.day('2026-03-06'), 'Timestamp', p_timestamp) $$;
SELECT t.catalogue(2);
SELECT t.order(1, 2), t.order(2, 1), t.order(3, 1);
DELETE FROM job_signals;

-- A line, an order (by either of its keys), a customer, an item.
SELECT t.stage('deleted', t.deleted(1, 33, t.lid(1, 2), 9001), t.deleted(2, 32, t.oid(2), 9002), t.deleted(3, 32, t.id('bb', 3), 9003), t.deleted(4, 2, t.aid(2), 9004), t.deleted(5, 9, t.iid(2), 9005));
SELECT 'order' AS what, right(id::text, 2) AS id, deleted_at IS NOT NULL AS deleted FROM exact_sales_orders
UNION ALL SELECT 'line', right(id::text, 4), deleted_at IS NOT NULL FROM exact_sales_order_lines
UNION ALL SELECT 'account', right(id::text, 2), deleted_at IS NOT NULL FROM exact_accounts
UNION ALL SELECT 'item', right(id::text, 2), deleted_at IS NOT NULL FROM exact_items ORDER BY 1, 2;
SELECT kind, right(exact_id::text, 2) AS id FROM job_signals ORDER BY 1, 2;

-- What it does: the line is no longer wanted, the deal of a deleted order is lost.
SELECT count(*) FROM wanted_deal_products WHERE order_id = t.oid(1);
SELECT status, lost_reason, in_window FROM wanted_deals WHERE exact_id = t.oid(2);

-- Read again (polls overlap): nothing happens twice.
DELETE FROM job_signals;
SELECT t.stage('deleted', t.deleted(1, 33, t.lid(1, 2), 9001), t.deleted(2, 32, t.oid(2), 9002));
SELECT count(*) FROM job_signals;

-- A row older than its deletion stays deleted; one that is newer came back, and is a change.
SELECT t.stage('sales_order_headers', t.header(2, '{"Timestamp": 8000, "Description": "late"}'));
SELECT deleted_at IS NOT NULL AS deleted FROM exact_sales_orders WHERE id = t.oid(2);
SELECT t.stage('sales_order_headers', t.header(2, '{"Timestamp": 9100}'));
SELECT deleted_at IS NOT NULL AS deleted FROM exact_sales_orders WHERE id = t.oid(2);
SELECT kind, right(exact_id::text, 2) AS id FROM job_signals ORDER BY 1, 2;

-- So it is with a row that came by bulk: its deletion stays when it is read once more.
SELECT t.body('bulk_orders', t.page(ARRAY[t.header(9, '{"Timestamp": null}')]));
SELECT t.stage('deleted', t.deleted(16, 32, t.oid(9), 9200));
SELECT t.body('bulk_orders', t.page(ARRAY[t.header(9, '{"Timestamp": null}')]));
SELECT deleted_at IS NOT NULL AS deleted FROM exact_sales_orders WHERE id = t.oid(9);

-- A deletion older than the stored row is ignored, for good.
SELECT t.stage('deleted', t.deleted(6, 32, t.oid(1), 10));
SELECT deleted_at IS NOT NULL AS deleted FROM exact_sales_orders WHERE id = t.oid(1);
SELECT applied FROM exact_deleted WHERE id = t.id('de', 6);

-- A deletion that comes before its row waits for it.
SELECT t.stage('deleted', t.deleted(7, 32, t.oid(7), 9500), t.deleted(8, 33, t.lid(7, 1), 9501));
SELECT applied FROM exact_deleted WHERE id IN (t.id('de', 7), t.id('de', 8));
SELECT t.stage('sales_order_headers', t.header(7, '{"Timestamp": 9400}'));
SELECT t.stage('sales_order_lines', t.line(7, 1, '{"Timestamp": 9401}'));
SELECT t.body('deleted', '{"d":[]}') AS the_next_poll;
SELECT deleted_at IS NOT NULL AS deleted FROM exact_sales_orders WHERE id = t.oid(7);
SELECT deleted_at IS NOT NULL AS deleted FROM exact_sales_order_lines WHERE id = t.lid(7, 1);
-- It does not wait for ever.
SELECT t.stage('deleted', t.deleted(9, 32, t.oid(99), 9600));
UPDATE exact_deleted SET seen_at = seen_at - interval '3 days' WHERE id = t.id('de', 9);
SELECT t.body('deleted', '{"d":[]}') AS the_next_poll;
SELECT applied FROM exact_deleted WHERE id = t.id('de', 9);

-- A row that came by bulk has no rowversion: its deletion counts.
SELECT t.body('bulk_orders', t.page(ARRAY[t.header(8, '{"Timestamp": null}')]));
SELECT t.stage('deleted', t.deleted(10, 32, t.oid(8), 5));
SELECT deleted_at IS NOT NULL AS deleted FROM exact_sales_orders WHERE id = t.oid(8);

-- Types we do not know are kept, and nothing is done.
SELECT t.stage('deleted', t.deleted(11, 5, t.oid(1), 9700), t.deleted(12, 999, t.oid(1), 9701));
SELECT entity_type, applied FROM exact_deleted WHERE entity_type NOT IN (2, 9, 32, 33) ORDER BY entity_type;
SELECT deleted_at IS NOT NULL AS deleted FROM exact_sales_orders WHERE id = t.oid(1);
-- Nor is a deletion that does not say of what.
SELECT t.stage('deleted', t.deleted(13, NULL, t.oid(1), 9800), t.deleted(14, 32, NULL, 9801));

-- Of another division, it is another record.
INSERT INTO divisions (division) VALUES (200);
SELECT _feed_next(200, 'deleted', 0) IS NOT NULL AS asked;
SELECT taken, changed FROM _stage_page(200, 'deleted', 0, t.page(ARRAY[t.deleted(15, 32, t.oid(1), 99999)]));
SELECT deleted_at IS NOT NULL AS deleted FROM exact_sales_orders WHERE id = t.oid(1);
ROLLBACK;
