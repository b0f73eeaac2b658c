-- Where the worker begins to search its queue: a hint that never loses a job, and
-- that what goes first goes first in spite of it.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

CREATE VIEW t.floor AS SELECT what, lane, priority, id IS NOT NULL AS id, at <= clock_timestamp() AS at, until > clock_timestamp() AS valid FROM queue_floors ORDER BY what;
CREATE FUNCTION t.names(p_jobs bigint[]) RETURNS text LANGUAGE sql AS $$ SELECT string_agg(right(j.exact_id::text, 2), ' ' ORDER BY u.n) FROM unnest(p_jobs) WITH ORDINALITY u(id, n) JOIN jobs j USING (id) $$;
INSERT INTO jobs (kind, division, exact_id, lane, priority) SELECT 'deal', 100, t.oid(n), 2 + n % 2, 1000 - n FROM generate_series(1, 6) n;

-- In order: lane, then priority.
SELECT t.names(_ready_jobs(10, 9)) AS all, t.names(_ready_jobs(2, 9)) AS two, t.names(_ready_jobs(10, 2)) AS lane_2, t.names(_ready_jobs(10, 1)) AS lane_1;
-- A search that took long is remembered, where it found the first; the next begins there.
SELECT _floor_set('ready', clock_timestamp() - interval '1 s', true, 3, 997, 0);
SELECT * FROM t.floor;
SELECT t.names(_ready_jobs(10, 9)) AS above;
-- What is queued with a better place lowers it at once ...
SELECT _want_jobs('deal', ARRAY[100], ARRAY[t.oid(9)], ARRAY[1], ARRAY[5000::bigint]);
SELECT t.names(_ready_jobs(10, 9)) AS all;
SELECT _floor_set('ready', clock_timestamp() - interval '1 s', true, 3, 997, 0);
-- ... and a worse one does not.
SELECT _want_jobs('deal', ARRAY[100], ARRAY[t.oid(10)], ARRAY[4], ARRAY[0::bigint]);
SELECT t.names(_ready_jobs(10, 9)) AS above;
-- So does what becomes ready again, whoever does it.
UPDATE jobs SET state = 'dead', class = 'ours' WHERE exact_id = t.oid(2);
SELECT replay();
SELECT t.fold();
SELECT t.names(_ready_jobs(10, 9)) AS all;
-- Whatever else is there below it is found when it is no longer believed; a clock that was set back does not make it believed for long.
SELECT _floor_set('ready', clock_timestamp() - interval '1 s', false, 5, 0, 0);
SELECT t.names(_ready_jobs(10, 9)) AS none, _delivery_wait() BETWEEN 1 AND 5000 AS looked_again_soon;
UPDATE queue_floors SET until = clock_timestamp() WHERE what = 'ready';
SELECT t.names(_ready_jobs(10, 9)) AS all;
UPDATE queue_floors SET lane = 5, until = clock_timestamp() + interval '1 hour' WHERE what = 'ready';
SELECT t.names(_ready_jobs(10, 9)) AS all;
DELETE FROM queue_floors;

-- Waiting jobs: the same by time.
UPDATE jobs SET state = 'waiting', next_attempt_at = clock_timestamp() - make_interval(secs => priority) WHERE lane = 3;
SELECT t.names(_due_jobs(10)) AS due, t.names(_due_jobs(1)) AS one;
SELECT _floor_set('waiting', clock_timestamp() - interval '1 s', true, NULL, NULL, NULL, clock_timestamp() - interval '998.9 s');
SELECT t.names(_due_jobs(10)) AS due;
UPDATE jobs SET next_attempt_at = clock_timestamp() - interval '2000 s' WHERE exact_id = t.oid(1);
SELECT t.names(_due_jobs(10)) AS due_before;

-- The job to blame is the one that a claim of one takes: of those that may be sent, due ones among them.
SELECT t.names(ARRAY[_suspect_job()]) AS suspect;
UPDATE jobs SET state = 'blocked' WHERE lane < 3;
SELECT t.names(ARRAY[_suspect_job()]) AS suspect;
SELECT t.names(_due_jobs(10)) IS NOT NULL AS due;
INSERT INTO parts (part, paused) VALUES ('history', true);
SELECT _suspect_job() AS history_is_paused;
DELETE FROM parts WHERE part = 'history';

-- Signals: what is numbered below what was folded is seen a little later, never lost.
DELETE FROM jobs;
DELETE FROM job_signals;
DELETE FROM queue_floors;
SELECT t.catalogue(1), t.order(1, 1);
SELECT count(*) > 0 AS signals FROM job_signals;
SELECT _floor_set('signals', clock_timestamp() - interval '1 s', true, NULL, NULL, (SELECT max(id) FROM job_signals));
SELECT _fold_signals(100) AS none, _delivery_wait() BETWEEN 1 AND 5000 AS soon;
UPDATE queue_floors SET until = clock_timestamp();
SELECT _delivery_wait() AS now, _fold_signals(100) > 0 AS folded, count(*) > 0 AS jobs FROM jobs;
SELECT count(*) > 0 AS jobs FROM jobs;
ROLLBACK;
