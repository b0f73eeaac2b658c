-- pg_cron: our jobs, and nothing else, in whichever database it lives. A stand-in
-- for its tables and functions is enough here.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

-- The jobs: each a bare CALL, because a procedure that commits must stand alone; no import among them.
SELECT name, schedule, command FROM schedule_jobs ORDER BY name;
SELECT count(*) AS not_bare FROM schedule_jobs WHERE command !~ '^CALL exact_pd_sync\.[a-z_]+\(\)$';
SELECT s.name AS no_such_procedure FROM schedule_jobs s
 WHERE NOT EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = 'exact_pd_sync'::regnamespace AND p.prokind = 'p' AND s.command = format('CALL exact_pd_sync.%s()', p.proname) AND p.pronargs = p.pronargdefaults);
SELECT count(*) AS needs_seconds FROM schedule_jobs WHERE schedule ~ 'second';

-- pg_cron lives elsewhere: the statements to run there.
SET LOCAL client_min_messages = error;
SELECT replace(replace(s, format('%L', current_user), '''USER'''), current_database(), 'DATABASE') FROM schedule() s ORDER BY 1;
SELECT replace(u, current_database(), 'DATABASE') FROM unschedule() u ORDER BY 1;
SELECT count(*) FROM schedule_list();
SET LOCAL client_min_messages = warning;

-- It lives here.
SELECT to_regnamespace('cron') IS NULL AS nothing_there;
CREATE SCHEMA cron;
CREATE TABLE cron.job (jobid bigserial PRIMARY KEY, schedule text, command text, nodename text DEFAULT 'localhost', database text, username text, active boolean, jobname text);
CREATE FUNCTION cron.schedule_in_database(job_name text, schedule text, command text, database text, username text DEFAULT NULL, active boolean DEFAULT true) RETURNS bigint LANGUAGE sql AS $$
    DELETE FROM cron.job WHERE jobname = job_name AND job.username = coalesce(schedule_in_database.username, current_user);
    INSERT INTO cron.job (schedule, command, database, username, active, jobname) VALUES (schedule, command, database, coalesce(username, current_user), active, job_name) RETURNING jobid $$;
CREATE FUNCTION cron.unschedule(job_id bigint) RETURNS boolean LANGUAGE sql AS $$ DELETE FROM cron.job WHERE jobid = job_id RETURNING true $$;
INSERT INTO cron.job (schedule, command, database, username, active, jobname) VALUES ('0 3 * * *', 'VACUUM', current_database(), current_user, true, 'somebody else''s'), ('0 4 * * *', 'SELECT 1', 'another', current_user, true, 'exact_pd_sync poll_orders another');
SELECT replace(s, current_database(), 'DATABASE') FROM schedule() s ORDER BY 1;
SELECT replace(jobname, current_database(), 'DATABASE') AS jobname, schedule, command, database = current_database() AS here, username = current_user AS as_me, active FROM cron.job WHERE jobname LIKE 'exact%' ORDER BY 1;
-- Safe to repeat.
SELECT count(*) FROM schedule();
SELECT count(*) FROM cron.job;
SELECT replace(jobname, current_database(), 'DATABASE') AS jobname FROM schedule_list() ORDER BY 1;
-- The worker's role runs them when there is one; nobody runs them twice.
CREATE ROLE regress_cron_worker;
SELECT set_config('exact_pd_sync.role', 'regress_cron_worker', true);
SELECT count(*) FROM schedule();
SELECT username, count(*) FROM cron.job WHERE database = current_database() AND jobname LIKE 'exact%' GROUP BY username;
-- unschedule() removes exactly ours.
SELECT replace(u, current_database(), 'DATABASE') FROM unschedule() u ORDER BY 1;
SELECT jobname FROM cron.job ORDER BY 1;
SELECT count(*) FROM unschedule();
ROLLBACK;

-- The nightly job: old journal rows go, products whose price begins or ends are looked at.
BEGIN;
\i :fixture
INSERT INTO api_calls (at, side, what, method, path, outcome) VALUES (clock_timestamp() - interval '91 days', 'exact', 'x', 'GET', '/', 'ok'), (clock_timestamp(), 'exact', 'x', 'GET', '/', 'ok');
INSERT INTO sync_changes (at, kind, division, exact_id, operation) VALUES (clock_timestamp() - interval '91 days', 'deal', 100, t.oid(1), 'create'), (clock_timestamp(), 'deal', 100, t.oid(1), 'create');
INSERT INTO sync_runs (started_at, what) VALUES (clock_timestamp() - interval '91 days', 'poll_orders'), (clock_timestamp(), 'poll_orders');
INSERT INTO refused_rows (at, division, feed, reason, row_text) VALUES (clock_timestamp() - interval '91 days', 100, 'items', 'x', '{}'), (clock_timestamp(), 100, 'items', 'x', '{}');
INSERT INTO looks (what, reason, done_at) VALUES ('deals', 'unknown', clock_timestamp());
UPDATE looks SET done_at = done_at - interval '91 days' WHERE reason = 'scan';
INSERT INTO exact_item_prices (division, id, item, start_date, end_date) VALUES (100, t.id('c0', 1), t.iid(1), today(100), NULL), (100, t.id('c0', 2), t.iid(2), today(100) - 300, today(100) - 1), (100, t.id('c0', 3), t.iid(3), today(100) - 300, NULL);
DELETE FROM job_signals;
CALL nightly();
SELECT (SELECT count(*) FROM api_calls) AS calls, (SELECT count(*) FROM sync_changes) AS changes, (SELECT count(*) FROM sync_runs) AS runs, (SELECT count(*) FROM refused_rows) AS refused;
SELECT kind, right(exact_id::text, 2) AS id, reason FROM job_signals ORDER BY 2;
-- What was looked through once is not forgotten: it would be read again for nothing.
SELECT k, _scan_state(k) <> 'never' AS known FROM unnest(ARRAY['organization', 'product', 'deal']) k;
ROLLBACK;
