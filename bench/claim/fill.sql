-- A queue of :jobs jobs of every state, for orders that are staged and whose
-- customers and items are linked, so that a claimed job is planned as in daily
-- life; and the means to measure what the worker asks of it.

CREATE SCHEMA bench;
CREATE UNLOGGED TABLE bench.claim (n serial, scene text, what text, ms numeric, buffers bigint);

SET search_path = exact_pd_sync, pg_catalog;
INSERT INTO settings (name, value) VALUES ('pipedrive_base_url', 'https://company.pipedrive.com'), ('default_owner_id', '1'), ('daily_tokens', '999999999');
INSERT INTO pipedrive_users (user_id, name, email, active, is_me) VALUES (1, 'bench', 'bench@example.com', true, true);
SELECT count(_setup_begin());
UPDATE pipedrive_stages SET pipeline_id = 5, stage_id = 10 + order_nr, state = 'made';
UPDATE pipedrive_fields SET code = entity || '_' || purpose, state = 'made';
INSERT INTO parts (part, paused) VALUES ('sending', false);
INSERT INTO looks (what, reason, done_at) SELECT w, 'scan', clock_timestamp() FROM unnest(ARRAY['organizations', 'products', 'deals', 'archived_deals']) w;
INSERT INTO exact_accounts (division, id, code, name) SELECT 123456, md5('account' || n)::uuid, n::text, 'Klant ' || n FROM generate_series(0, 499) n;
INSERT INTO exact_items (division, id, code, description) SELECT 123456, md5('item' || n)::uuid, n::text, 'Artikel ' || n FROM generate_series(0, 999) n;
INSERT INTO links (kind, division, exact_id, pipedrive_id, sent) SELECT 'organization', a.division, a.id, row_number() OVER (), '{}' FROM exact_accounts a;
INSERT INTO links (kind, division, exact_id, pipedrive_id, sent) SELECT 'product', i.division, i.id, row_number() OVER (), '{}' FROM exact_items i;
ALTER TABLE exact_sales_orders DISABLE TRIGGER USER;
ALTER TABLE exact_sales_order_lines DISABLE TRIGGER USER;
DELETE FROM job_signals;

CREATE PROCEDURE bench.fill(p_jobs integer) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO exact_pd_sync.exact_sales_orders (division, id, order_number, status, delivery_status, invoice_status, ordered_by, ordered_by_name, order_date, currency, amount_fc_excl_vat, timestamp)
    SELECT 123456, md5('order' || n)::uuid, n, 12, 12, 12, md5('account' || n % 500)::uuid, 'Klant', date '2026-11-01' - n % 1000, 'EUR', 100, n FROM generate_series(1, p_jobs) n
    ON CONFLICT DO NOTHING;
    INSERT INTO exact_pd_sync.exact_sales_order_lines (division, id, order_id, order_number, line_number, item, quantity, net_price, amount_fc, vat_percentage, timestamp)
    SELECT 123456, md5('line' || n)::uuid, md5('order' || n)::uuid, n, 1, md5('item' || n % 1000)::uuid, 1, 100, 100, 0.21, n FROM generate_series(1, p_jobs) n
    ON CONFLICT DO NOTHING;
    -- Of ten jobs six are ready; one waits for tokens, one for a list, one is blocked, one is dead.
    INSERT INTO exact_pd_sync.jobs (kind, division, exact_id, lane, priority, state, next_attempt_at, class, reason)
    SELECT 'deal', 123456, md5('order' || n)::uuid, CASE WHEN n % 100 = 1 THEN 2 ELSE 3 END, 4 * (26999 + n % 1000) + 3, x.state,
           CASE WHEN x.state = 'waiting' THEN CASE WHEN n % 10 = 6 THEN 'infinity'::timestamptz ELSE clock_timestamp() + make_interval(secs => 3600 + n % 3600) END END,
           CASE x.state WHEN 'waiting' THEN 'limit' WHEN 'dead' THEN 'ours' END, CASE WHEN x.state <> 'ready' THEN 'bench' END
      FROM generate_series(1, p_jobs) n CROSS JOIN LATERAL (SELECT (ARRAY['ready', 'ready', 'ready', 'ready', 'ready', 'ready', 'waiting', 'waiting', 'blocked', 'dead'])[n % 10 + 1] AS state) x;
    INSERT INTO exact_pd_sync.job_needs (job_id, kind, division, exact_id)
    SELECT j.id, 'organization', j.division, md5('missing' || j.id % 100)::uuid FROM exact_pd_sync.jobs j WHERE j.state = 'blocked';
END
$$;

-- What is measured, once, and committed; the answers are all good.
CREATE PROCEDURE bench.once(p_scene text, p_what text, p_sql text, p_times integer) LANGUAGE plpgsql AS $$
DECLARE
    v_at    timestamptz;
    v_plan  jsonb;
BEGIN
    FOR i IN 1 .. p_times LOOP
        v_at := clock_timestamp();
        EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) ' || p_sql INTO v_plan;
        INSERT INTO bench.claim (scene, what, ms, buffers)
        VALUES (p_scene, p_what, extract(epoch FROM clock_timestamp() - v_at) * 1000,
                (v_plan->0->'Plan'->>'Shared Hit Blocks')::bigint + (v_plan->0->'Plan'->>'Shared Read Blocks')::bigint);
        PERFORM bench.answer();
        COMMIT;
    END LOOP;
END
$$;
CREATE SEQUENCE bench.remote START 1000000;
CREATE FUNCTION bench.answer() RETURNS void LANGUAGE sql VOLATILE AS $$
    SELECT exact_pd_sync._settle(jsonb_agg(jsonb_build_object('call', i.id, 'outcome', 'ok', 'status', 200, 'ms', 1)
            || CASE i.operation WHEN 'create' THEN jsonb_build_object('ids', jsonb_build_array(nextval('bench.remote')))
                                WHEN 'line_add' THEN jsonb_build_object('ids', jsonb_build_array(nextval('bench.remote')), 'products', jsonb_build_array(i.body->'product_id')) ELSE '{}' END)::text, '{}')
      FROM (SELECT * FROM exact_pd_sync.intents ORDER BY id) i $$;
-- Jobs done as the worker does them, batch by batch, until so many have left.
CREATE PROCEDURE bench.work_off(p_jobs integer) LANGUAGE plpgsql AS $$
DECLARE
    v_done  integer := 0;
BEGIN
    WHILE v_done < p_jobs LOOP
        PERFORM exact_pd_sync._take_batch(200);
        COMMIT;
        PERFORM bench.answer();
        COMMIT;
        v_done := v_done + 200;
    END LOOP;
END
$$;
