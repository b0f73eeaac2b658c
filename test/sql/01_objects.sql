-- What CREATE EXTENSION makes: described, closed to the public, and dumped as
-- meant.
\pset format unaligned
\pset fieldsep ' | '
\pset footer off
SET search_path = pg_catalog;

-- Every object that a person can see says what it is for.
WITH member AS (
    SELECT d.classid, d.objid FROM pg_depend d
     WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
       AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'exact_pd_sync'))
SELECT pg_describe_object(m.classid, m.objid, 0) AS without_comment
  FROM member m
 WHERE m.classid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass)
   AND obj_description(m.objid, m.classid::regclass::name) IS NULL
   AND NOT EXISTS (SELECT FROM pg_class c WHERE m.classid = 'pg_class'::regclass AND c.oid = m.objid AND c.relkind IN ('S', 'i', 'c'))
   -- row types and array types come with their tables
   AND NOT EXISTS (SELECT FROM pg_type y LEFT JOIN pg_class c ON c.oid = y.typrelid
                    WHERE m.classid = 'pg_type'::regclass AND y.oid = m.objid AND (y.typelem <> 0 OR c.relkind IN ('r', 'v')))
 ORDER BY 1;

-- Every column of a table does, too.
SELECT c.relname, a.attname AS column_without_comment
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
 WHERE c.relnamespace = 'exact_pd_sync'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
   AND col_description(c.oid, a.attnum) IS NULL
 ORDER BY 1, a.attnum;

-- No comment was forgotten to be finished.
SELECT c.relname, d.description FROM pg_description d JOIN pg_class c ON c.oid = d.objoid AND d.classoid = 'pg_class'::regclass
 WHERE c.relnamespace = 'exact_pd_sync'::regnamespace AND btrim(d.description) = '';

-- PUBLIC may execute nothing and read nothing, and may not even look into the schema.
SELECT p.oid::regprocedure AS open_to_public FROM pg_proc p
 WHERE p.pronamespace = 'exact_pd_sync'::regnamespace
   AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x WHERE x.grantee = 0)
 ORDER BY 1;
SELECT c.oid::regclass AS open_to_public FROM pg_class c
 WHERE c.relnamespace = 'exact_pd_sync'::regnamespace AND c.relkind IN ('r', 'v', 'S')
   AND EXISTS (SELECT FROM aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))) x WHERE x.grantee = 0)
 ORDER BY 1;
SELECT x.privilege_type AS schema_open_to_public FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) x
 WHERE n.nspname = 'exact_pd_sync' AND x.grantee = 0;

-- A dump brings configuration, links, staging and positions; it leaves out
-- secrets, calls, the queue, signals, pauses and the identity.
SELECT string_agg(c.relname, ', ' ORDER BY c.relname) AS dumped
  FROM pg_extension e, unnest(e.extconfig) x(oid) JOIN pg_class c ON c.oid = x.oid
 WHERE e.extname = 'exact_pd_sync';
SELECT string_agg(c.relname, ', ' ORDER BY c.relname) AS not_dumped
  FROM pg_class c JOIN pg_extension e ON e.extname = 'exact_pd_sync'
 WHERE c.relnamespace = 'exact_pd_sync'::regnamespace AND c.relkind = 'r' AND c.oid <> ALL (e.extconfig);
SELECT DISTINCT f AS only_whole_tables FROM pg_extension e, unnest(e.extcondition) f WHERE e.extname = 'exact_pd_sync';

-- What is dumped has no identity column whose sequence would be left behind,
-- and no foreign key that the order of a restore could break.
SELECT c.relname AS identity_not_dumped
  FROM pg_extension e, unnest(e.extconfig) x(oid) JOIN pg_class c ON c.oid = x.oid JOIN pg_attribute a ON a.attrelid = c.oid
 WHERE e.extname = 'exact_pd_sync' AND a.attidentity <> ''
   AND pg_get_serial_sequence(c.oid::regclass::text, a.attname)::regclass::oid <> ALL (e.extconfig);
SELECT k.conname AS foreign_key FROM pg_constraint k JOIN pg_extension e ON e.extname = 'exact_pd_sync'
 WHERE k.contype = 'f' AND k.conrelid = ANY (e.extconfig);

-- Rows that the script put into a dumped table would collide on restore; in
-- fact it fills no table at all.
DO $$
DECLARE
    v_table  regclass;
    v_count  bigint;
BEGIN
    FOR v_table IN SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'exact_pd_sync'::regnamespace AND c.relkind = 'r' LOOP
        EXECUTE format('SELECT count(*) FROM %s', v_table) INTO v_count;
        IF v_count > 0 THEN
            RAISE WARNING 'the script filled %', v_table;
        END IF;
    END LOOP;
END
$$;

-- A function that runs with its owner's rights looks nowhere else for names,
-- and last of all where anybody can put something.
SELECT p.oid::regprocedure AS loose_search_path, p.proconfig
  FROM pg_proc p
 WHERE p.pronamespace = 'exact_pd_sync'::regnamespace AND p.prosecdef
   AND NOT coalesce(p.proconfig @> ARRAY['search_path=exact_pd_sync, pg_catalog, pg_temp'] OR p.proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false);
-- Where another function has a search_path, it is one of these.
SELECT DISTINCT c AS search_path FROM pg_proc p, unnest(p.proconfig) c
 WHERE p.pronamespace = 'exact_pd_sync'::regnamespace AND c LIKE 'search_path%' ORDER BY 1;
-- A procedure that commits can have neither.
SELECT p.oid::regprocedure AS cannot_commit FROM pg_proc p
 WHERE p.pronamespace = 'exact_pd_sync'::regnamespace AND p.prokind = 'p' AND (p.prosecdef OR p.proconfig IS NOT NULL);

-- The names of the contract are there, with their arguments and defaults.
SELECT c.call AS missing_from_the_contract
  FROM unnest(ARRAY[
    'set_exact_app(client_id text, client_secret text, redirect_uri text, webhook_secret text DEFAULT NULL::text, base_url text DEFAULT ''https://start.exactonline.nl''::text)',
    'exact_authorize_url()', 'exact_authorize(IN code_or_redirect_url text)', 'set_pipedrive_account(api_token text, base_url text)', 'setup_pipedrive()',
    'map_salesperson(exact_id uuid, pipedrive_user_id bigint)', 'set_default_owner(pipedrive_user_id bigint)',
    'verify(OUT check_name text, OUT state text, OUT detail text, OUT hint text)',
    'poll_orders()', 'poll_customers()', 'poll_products()', 'poll_all()', 'import_history(IN months integer DEFAULT 12, IN staging_months integer DEFAULT 36)',
    'schedule()', 'unschedule()', 'plan()', 'trace(order_number bigint, division integer DEFAULT NULL::integer)',
    'pause(part text DEFAULT ''sending''::text)', 'resume(part text DEFAULT ''sending''::text)',
    'replay(job bigint DEFAULT NULL::bigint, kind text DEFAULT NULL::text, class text DEFAULT NULL::text)', 'resync(kind text, exact_id uuid DEFAULT NULL::uuid)',
    'confirm_instance()', 'stop_worker()', 'start_worker()', 'grant_reader(role text)', 'grant_operator(role text)', 'grant_worker(role text)']) AS c(call)
 WHERE NOT EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = 'exact_pd_sync'::regnamespace AND p.proname || '(' || pg_get_function_arguments(p.oid) || ')' = c.call);
SELECT v.name AS missing_from_the_contract
  FROM unnest(ARRAY['status', 'queue', 'dead_letters', 'sync_runs', 'sync_changes', 'budget', 'progress', 'status_coverage', 'unmapped_salespeople']) AS v(name)
 WHERE to_regclass('exact_pd_sync.' || v.name) IS NULL;

-- Fixed schema, for ever.
SELECT extrelocatable, extnamespace::regnamespace FROM pg_extension WHERE extname = 'exact_pd_sync';
