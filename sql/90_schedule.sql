/*
 * 90_schedule.sql
 *		pg_cron: our jobs, in whichever database it lives.  One bare CALL per job,
 *		because a procedure that commits must stand alone.
 */

CREATE FUNCTION _purge() RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_before timestamptz := clock_timestamp() - make_interval(days => setting('retention_days')::integer);
BEGIN
    -- Small bites, so that it never holds up anybody for long; the rest goes tomorrow.
    DELETE FROM api_calls WHERE id IN (SELECT id FROM api_calls WHERE at < v_before ORDER BY id LIMIT 100000);
    DELETE FROM sync_changes WHERE id IN (SELECT id FROM sync_changes WHERE at < v_before ORDER BY id LIMIT 100000);
    DELETE FROM sync_runs WHERE id IN (SELECT id FROM sync_runs WHERE started_at < v_before ORDER BY id LIMIT 100000);
    DELETE FROM webhook_deliveries WHERE id IN (SELECT id FROM webhook_deliveries WHERE received_at < v_before AND state IN ('done', 'ignored') ORDER BY id LIMIT 100000);
    DELETE FROM drift_findings WHERE resolved_at < v_before;
    DELETE FROM reconcile_results WHERE finished_at < v_before;
    DELETE FROM refused_rows WHERE at < v_before;
    DELETE FROM looks WHERE done_at < v_before AND id <> ALL (SELECT max(id) FROM looks WHERE done_at IS NOT NULL GROUP BY what, reason);
END
$$;
COMMENT ON FUNCTION _purge() IS 'Removes journal rows older than retention_days.';

CREATE PROCEDURE nightly()
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM exact_pd_sync._purge();
    -- What failed for reasons of Pipedrive's is tried once more, and so is what waits for nothing.
    INSERT INTO exact_pd_sync.job_signals (kind, reason, argument)
    SELECT 'replay', 'nightly', '{"by": "nightly"}' WHERE EXISTS (SELECT FROM exact_pd_sync.jobs j WHERE j.state IN ('dead', 'blocked'));
    -- Prices and sales periods begin and end by the calendar, without a change at Exact.
    INSERT INTO exact_pd_sync.job_signals (kind, division, exact_id, reason)
    SELECT DISTINCT 'product', p.division, p.item, 'calendar' FROM exact_pd_sync.exact_item_prices p
     WHERE p.account IS NULL AND (p.start_date BETWEEN exact_pd_sync.today(p.division) - 2 AND exact_pd_sync.today(p.division) OR p.end_date BETWEEN exact_pd_sync.today(p.division) - 3 AND exact_pd_sync.today(p.division) - 1);
    PERFORM exact_pd_sync.wake_worker('delivery');
END
$$;
COMMENT ON PROCEDURE nightly() IS 'Removes old journal rows and looks at products whose price begins or ends today.';

CREATE VIEW schedule_jobs AS
SELECT * FROM (VALUES
    ('poll_orders', '*/5 * * * *', 'CALL exact_pd_sync.poll_orders()'),
    ('poll_products', '*/15 * * * *', 'CALL exact_pd_sync.poll_products()'),
    ('poll_customers', '7-59/15 * * * *', 'CALL exact_pd_sync.poll_customers()'),
    ('webhooks', '11 5 * * *', 'CALL exact_pd_sync.subscribe_webhooks()'),
    ('nightly', '23 2 * * *', 'CALL exact_pd_sync.nightly()'),
    ('reconcile', '41 3 * * *', 'CALL exact_pd_sync.reconcile()')) AS j(name, schedule, command);
COMMENT ON VIEW schedule_jobs IS 'What schedule() puts into pg_cron.';

CREATE FUNCTION _cron_job_name(p_name text) RETURNS text
    LANGUAGE sql STABLE
    AS $$ SELECT 'exact_pd_sync ' || p_name || ' ' || current_database() $$;
COMMENT ON FUNCTION _cron_job_name(text) IS 'Name of a job in pg_cron: one database, one set of jobs.';

CREATE FUNCTION schedule_list() RETURNS TABLE (jobname text, schedule text, command text)
    -- As the owner: the worker's role, for which verify() asks, may not look into pg_cron's schema.
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    -- Not to_regclass(), which is an ERROR where the schema may not be used.
    IF EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'cron' AND c.relname = 'job' AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')) THEN
        RETURN QUERY EXECUTE 'SELECT j.jobname::text, j.schedule::text, j.command::text FROM cron.job j WHERE j.jobname = ANY ($1)'
            USING (SELECT array_agg(exact_pd_sync._cron_job_name(s.name)) FROM exact_pd_sync.schedule_jobs s);
    END IF;
END
$$;
COMMENT ON FUNCTION schedule_list() IS 'Our jobs in pg_cron, when it lives in this database.';

CREATE FUNCTION schedule() RETURNS SETOF text
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    v      record;
    v_user text := coalesce(nullif(current_setting('exact_pd_sync.role', true), ''), current_user);
BEGIN
    IF to_regclass('cron.job') IS NOT NULL THEN
        -- pg_cron tells jobs apart by name and user: those of another user would run beside these.
        EXECUTE 'SELECT cron.unschedule(j.jobid) FROM cron.job j WHERE j.jobname = ANY ($1) AND j.username <> $2'
            USING (SELECT array_agg(exact_pd_sync._cron_job_name(s.name)) FROM exact_pd_sync.schedule_jobs s), v_user;
    END IF;
    FOR v IN SELECT exact_pd_sync._cron_job_name(s.name) AS jobname, s.schedule, s.command FROM exact_pd_sync.schedule_jobs s LOOP
        IF to_regprocedure('cron.schedule_in_database(text,text,text,text,text,boolean)') IS NOT NULL THEN
            EXECUTE 'SELECT cron.schedule_in_database($1, $2, $3, $4, $5, true)' USING v.jobname, v.schedule, v.command, current_database()::text, v_user;
            RETURN NEXT format('%s: %s %s', v.jobname, v.schedule, v.command);
        ELSE
            -- pg_cron lives in another database: a person runs this there.
            RETURN NEXT format('SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname = %L AND username <> %L;', v.jobname, v_user);
            RETURN NEXT format('SELECT cron.schedule_in_database(%L, %L, %L, %L, %L, true);', v.jobname, v.schedule, v.command, current_database(), v_user);
        END IF;
    END LOOP;
    IF to_regprocedure('cron.schedule_in_database(text,text,text,text,text,boolean)') IS NULL THEN
        RAISE NOTICE 'pg_cron is not in this database'
            USING DETAIL = format('cron.database_name is "%s".', coalesce((SELECT s.setting FROM pg_settings s WHERE s.name = 'cron.database_name'), 'not known here')),
                  HINT = 'Run the returned statements in the database where pg_cron lives; psql does it with \gexec.';
    END IF;
END
$$;
COMMENT ON FUNCTION schedule() IS 'Puts our jobs into pg_cron: orders every 5 minutes, products every 15, customers every 15, the two nightly ones. Where pg_cron lives in another database it returns the statements to run there. Safe to repeat.';

CREATE FUNCTION unschedule() RETURNS SETOF text
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    v text;
BEGIN
    IF to_regclass('cron.job') IS NULL THEN
        RETURN QUERY SELECT format('SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname = %L;', exact_pd_sync._cron_job_name(s.name)) FROM exact_pd_sync.schedule_jobs s;
        RETURN;
    END IF;
    FOR v IN SELECT l.jobname FROM exact_pd_sync.schedule_list() l LOOP
        EXECUTE 'SELECT cron.unschedule(j.jobid) FROM cron.job j WHERE j.jobname = $1' USING v;
        RETURN NEXT v;
    END LOOP;
END
$$;
COMMENT ON FUNCTION unschedule() IS 'Removes exactly our jobs of this database from pg_cron, or returns the statements that do it there.';
