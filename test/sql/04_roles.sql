-- Reader, operator, worker and nobody: what each may, and what not.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture
CREATE ROLE regress_nobody;
CREATE ROLE regress_reader;
CREATE ROLE regress_operator;
CREATE ROLE regress_worker;
CREATE ROLE regress_everything IN ROLE pg_read_all_data;
SELECT grant_reader('regress_reader'), grant_operator('regress_operator'), grant_worker('regress_worker');
GRANT USAGE ON SCHEMA t TO PUBLIC;
SELECT t.catalogue(2);
SELECT t.order(1, 2);
INSERT INTO credentials (name, value, sealed) VALUES ('pipedrive_api_token', 'secret', false);
SET LOCAL search_path = t, pg_catalog;
-- Tries a statement as somebody and takes it back: yes, or why not.
CREATE FUNCTION t.may(p_role text, p_sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_said text;
BEGIN
    BEGIN
        EXECUTE format('SET LOCAL ROLE %I', p_role);
        EXECUTE p_sql;
        RAISE EXCEPTION USING ERRCODE = 'TT000', MESSAGE = 'yes';
    EXCEPTION
        WHEN SQLSTATE 'TT000' THEN v_said := SQLERRM;
        WHEN insufficient_privilege THEN v_said := 'no';
        WHEN OTHERS THEN v_said := 'yes, but ' || SQLERRM;
    END;
    RETURN v_said;
END
$$;
CREATE VIEW t.role AS SELECT r, n FROM unnest(ARRAY['nobody', 'reader', 'operator', 'worker']) WITH ORDINALITY x(r, n);

-- Every view can be read by a reader, with the functions it uses.
SELECT c.relname AS not_for_readers, t.may('regress_reader', format('SELECT count(*) FROM (SELECT * FROM exact_pd_sync.%I OFFSET 0) x', c.relname))
  FROM pg_class c
 WHERE c.relnamespace = 'exact_pd_sync'::regnamespace AND c.relkind IN ('v', 'r')
   AND t.may('regress_reader', format('SELECT count(*) FROM (SELECT * FROM exact_pd_sync.%I OFFSET 0) x', c.relname)) <> 'yes' ORDER BY 1;
-- Every view, too, when its columns are looked at (a function in a column is asked for only then).
SELECT c.relname AS not_for_readers FROM pg_class c
 WHERE c.relnamespace = 'exact_pd_sync'::regnamespace AND c.relkind = 'v'
   AND t.may('regress_reader', format('SELECT count(x::text) FROM exact_pd_sync.%I x', c.relname)) <> 'yes' ORDER BY 1;
SELECT string_agg(c.relname, ', ') AS readable_by_nobody FROM pg_class c
 WHERE c.relnamespace = 'exact_pd_sync'::regnamespace AND c.relkind IN ('v', 'r') AND t.may('regress_nobody', format('SELECT count(*) FROM exact_pd_sync.%I', c.relname)) <> 'no';

-- What each may do.
SELECT s.what,
       (SELECT string_agg(r.r, ', ' ORDER BY r.n) FROM t.role r WHERE t.may('regress_' || r.r, s.sql) LIKE 'yes%') AS who_may,
       (SELECT string_agg(DISTINCT t.may('regress_' || r.r, s.sql), '; ') FROM t.role r WHERE t.may('regress_' || r.r, s.sql) LIKE 'yes,%') AS but
  FROM (VALUES
    (1, 'plan', 'SELECT count(p::text) FROM exact_pd_sync.plan() p'),
    (2, 'trace', 'SELECT count(p::text) FROM exact_pd_sync.trace(1001) p'),
    (3, 'orders', 'SELECT count(*) FROM exact_pd_sync.exact_sales_orders'),
    (4, 'change an order', 'UPDATE exact_pd_sync.exact_sales_orders SET status = 12'),
    (5, 'change a rule', 'UPDATE exact_pd_sync.status_rules SET note = NULL'),
    (6, 'change a link', 'UPDATE exact_pd_sync.links SET sent = ''{}'''),
    (7, 'change the queue', 'DELETE FROM exact_pd_sync.jobs'),
    (8, 'pause', 'SELECT exact_pd_sync.pause()'),
    (9, 'resume', 'SELECT exact_pd_sync.resume()'),
    (10, 'replay', 'SELECT exact_pd_sync.replay()'),
    (11, 'resync', 'SELECT exact_pd_sync.resync(''deal'')'),
    (12, 'map', 'SELECT exact_pd_sync.map_salesperson(t.sid(1), 2)'),
    (13, 'configure', 'SELECT exact_pd_sync.configure(''max_attempts'', ''5'')'),
    (14, 'write settings', 'INSERT INTO exact_pd_sync.settings VALUES (''max_attempts'', ''5'')'),
    (15, 'confirm a copy', 'SELECT exact_pd_sync.confirm_instance()'),
    (17, 'store a secret directly', 'SELECT exact_pd_sync.store_secret(''pipedrive_api_token'', ''x'')'),
    (18, 'set the account', 'SELECT exact_pd_sync.set_pipedrive_account(''x'', ''https://company.pipedrive.com'')'),
    (19, 'consent url', 'SELECT exact_pd_sync.exact_authorize_url()'),
    (20, 'take a batch', 'SELECT count(*) FROM exact_pd_sync._take_batch(1)'),
    (21, 'stage a page', 'SELECT exact_pd_sync._stage_page(100, ''accounts'', 1, ''{"d":[]}'')'),
    (22, 'signal', 'INSERT INTO exact_pd_sync.job_signals (kind, reason) VALUES (''all_deals'', ''x'')'),
    (23, 'read the consent', 'SELECT count(*) FROM exact_pd_sync.exact_consent'),
    (24, 'schedule', 'SELECT count(*) FROM exact_pd_sync.schedule()')) AS s(n, what, sql)
 ORDER BY s.n;

-- Procedures: EXECUTE alone decides (what they read, they read as the worker's role).
SELECT p.proname, string_agg(r.r, ', ' ORDER BY r.n) FILTER (WHERE has_function_privilege('regress_' || r.r, p.oid, 'EXECUTE')) AS who_may
  FROM pg_proc p CROSS JOIN t.role r
 WHERE p.pronamespace = 'exact_pd_sync'::regnamespace AND p.prokind = 'p' GROUP BY p.proname ORDER BY p.proname;

-- Secrets: the worker alone; row security keeps out even who may read all data.
SELECT r.r, t.may('regress_' || r.r, 'SELECT count(*) FROM exact_pd_sync.credentials') FROM t.role r ORDER BY r.n;
GRANT USAGE ON SCHEMA exact_pd_sync TO regress_everything;
SET LOCAL ROLE regress_everything;
SELECT count(*) AS visible FROM exact_pd_sync.credentials;
RESET ROLE;
SET LOCAL ROLE regress_worker;
SELECT count(*) AS visible FROM exact_pd_sync.credentials;
RESET ROLE;
SELECT relrowsecurity FROM pg_class WHERE oid = 'exact_pd_sync.credentials'::regclass;

-- A rule changed by an operator reaches the worker: its trigger runs with the operator's rights.
DELETE FROM exact_pd_sync.job_signals;
SET LOCAL ROLE regress_operator;
UPDATE exact_pd_sync.status_rules SET note = 'mine' WHERE priority = 10;
RESET ROLE;
SELECT kind, reason FROM exact_pd_sync.job_signals;

-- What an operator sees in plan() inside its own transaction.
SET LOCAL ROLE regress_operator;
SELECT count(*) > 0 AS seen FROM exact_pd_sync.plan();
RESET ROLE;

-- Nobody but the owner hands out rights: what a worker tries has no effect.
SET LOCAL client_min_messages = error;
SELECT t.may('regress_operator', 'SELECT exact_pd_sync.grant_reader(''regress_nobody'')') AS operator;
SET LOCAL ROLE regress_worker;
SELECT exact_pd_sync.grant_reader('regress_nobody');
RESET ROLE;
SET LOCAL client_min_messages = warning;
SELECT t.may('regress_nobody', 'SELECT count(*) FROM exact_pd_sync.exact_sales_orders') AS nobody;

-- Rights can be given again, after an update that made new objects.
CREATE TABLE exact_pd_sync.added_later (x integer);
SELECT exact_pd_sync.grant_worker('regress_worker'), exact_pd_sync.grant_reader('regress_reader');
SELECT has_table_privilege('regress_worker', 'exact_pd_sync.added_later', 'INSERT') AS worker, has_table_privilege('regress_reader', 'exact_pd_sync.added_later', 'SELECT') AS reader;

-- The worker can do all that delivery does.
SET LOCAL ROLE regress_worker;
SELECT exact_pd_sync._fold_signals(100) > 0 AS folded;
SELECT count(*) > 0 AS taken FROM exact_pd_sync._take_batch(10);
SELECT exact_pd_sync._delivery_start() IS NOT NULL AS settled;
SELECT may_send, reason FROM exact_pd_sync._delivery_gate();
RESET ROLE;
ROLLBACK;
