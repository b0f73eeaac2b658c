-- What is read at Pipedrive for one deal holds up no other, and nobody waits for
-- a list that nobody reads.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

SELECT t.catalogue(1);
SELECT t.order(1, 1), t.send() IS NOT NULL AS sent;
-- Its closing discount was sent without an answer.
INSERT INTO jobs (kind, division, exact_id, lane, priority, state) SELECT 'deal', division, exact_id, 1, 0, 'unknown' FROM links WHERE kind = 'deal';
INSERT INTO intents (job_id, kind, division, exact_id, operation, method, path, body, tokens, is_create, state, unknown_at)
SELECT j.id, 'deal', j.division, j.exact_id, 'discount_add', 'POST', '/api/v2/deals/1/discounts', '{"amount": 0.01}', 5, true, 'unknown', clock_timestamp() FROM jobs j;
SELECT _ask_looks();
SELECT what, reason FROM looks WHERE done_at IS NULL;
-- Another deal is made meanwhile.
SELECT t.order(2, 1);
SELECT call FROM t.take();
SELECT t.answer();

-- One that waits for lists all the same goes on when the last of them is read.
SELECT t.order(3, 1);
SELECT t.fold();
UPDATE jobs SET state = 'waiting', next_attempt_at = 'infinity' WHERE exact_id = t.oid(3);
SELECT _look_take((SELECT look_id FROM _look_next()), 200, '{"success": true, "data": []}');
SELECT count(*) FROM looks WHERE done_at IS NULL;
SELECT id, state FROM t.waiting;
SELECT call FROM t.take();
ROLLBACK;
