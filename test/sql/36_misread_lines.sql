-- An answer to added lines that never names what was sent: read back and added
-- again, but not for ever.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

SELECT t.catalogue(6);
SELECT t.order(90, 6), t.send() IS NOT NULL AS all_products_there;
SELECT t.order(1, 5);
SELECT count(*) FROM t.take();
SELECT t.answer('{"n":2,"ids":[11,12,13,14]}');
SELECT misreads, lines_unread FROM links WHERE kind = 'deal' AND exact_id = t.oid(1);

-- Nothing is found when they are read back, so they are added again, and once more.
CREATE FUNCTION t.again() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM count(*) FROM t.take();
    PERFORM _look_take((SELECT max(id) FROM looks WHERE done_at IS NULL), 200, '{"success":true,"data":[]}');
    PERFORM count(*) FROM t.take();
    PERFORM t.answer('{"n":1,"ids":[21,22,23,24]}');
END $$;
SELECT t.again();
SELECT misreads, (SELECT state FROM jobs) AS job FROM links WHERE kind = 'deal' AND exact_id = t.oid(1);
SELECT t.again();
SELECT misreads, (SELECT state FROM jobs) AS job FROM links WHERE kind = 'deal' AND exact_id = t.oid(1);
SELECT kind, class, reason FROM dead_letters;

-- A person says go on, and the answer is good: forgotten.
SELECT replay();
SELECT _fold_signals(10);
SELECT count(*) FROM t.take();
SELECT _look_take((SELECT max(id) FROM looks WHERE done_at IS NULL), 200, '{"success":true,"data":[]}');
SELECT count(*) FROM t.take();
SELECT t.answer();
SELECT misreads, lines_unread, (SELECT count(*) FROM jobs) AS jobs, (SELECT count(*) FROM line_links WHERE order_id = t.oid(1)) AS lines FROM links WHERE kind = 'deal' AND exact_id = t.oid(1);
ROLLBACK;
