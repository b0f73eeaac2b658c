/*
 * 75_verify.sql
 *		verify(): which calls prove that everything is right, and what their
 *		answers mean.  C makes the calls and brings the answers back as they are.
 */

CREATE FUNCTION _verify_probes() RETURNS TABLE (probe text, side text, division integer, path text, follow boolean)
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    SELECT 'me', 'exact', NULL::integer, '/api/v1/current/Me?$select=CurrentDivision,FullName,ServerTime,ServerUtcOffset', false
     WHERE setting('exact_base_url') IS NOT NULL
    UNION ALL
    SELECT 'division', 'exact', d.division, format('/api/v1/%s/system/Divisions?', d.division) || _odata_query(format('$filter=Code eq %s&$select=Code,Description,Currency,Status,BlockingStatus,DivisionMoveDate', d.division)), false
      FROM divisions d
    UNION ALL
    -- One row of each feed proves scope, rights and field names.
    SELECT 'feed:' || f.feed, 'exact', d.division,
           format('/api/v1/%s/%s?', d.division, f.path) || _odata_query('$top=1&' || CASE f.mode WHEN 'sync' THEN format('$filter=Timestamp gt %sL&', 1) ELSE '' END
               || '$select=' || f.fields || CASE WHEN f.optional_fields IS NOT NULL AND NOT coalesce(p.short_select, false) THEN ',' || f.optional_fields ELSE '' END), false
      FROM divisions d CROSS JOIN feed_definitions f LEFT JOIN feed_positions p ON p.division = d.division AND p.feed = f.feed
     WHERE f.mode IN ('sync', 'whole')
    UNION ALL
    SELECT 'statuses', 'exact', d.division, format('/api/v1/%s/bulk/SalesOrder/SalesOrders?', d.division)
           || _odata_query(format('$filter=OrderDate ge datetime''%s''&$select=OrderID,Status,DeliveryStatus,InvoiceStatus,Salesperson,SalespersonFullName', to_char(today(d.division) - interval '12 months', 'YYYY-MM-DD'))), true
      FROM divisions d
    UNION ALL
    SELECT 'page', 'exact', d.division, format('/api/v1/%s/bulk/SalesOrder/SalesOrders?', d.division)
           || _odata_query('$top=25&$expand=SalesOrderLines&' || format('$filter=OrderDate ge datetime''%s''', to_char(today(d.division) - interval '1 month', 'YYYY-MM-DD')) || '&$select=' || f.fields), false
      FROM divisions d JOIN feed_definitions f ON f.feed = 'bulk_orders'
    UNION ALL
    SELECT p.probe, 'pipedrive', NULL, p.path, false
      FROM (VALUES ('pd_me', '/api/v1/users/me'), ('pd_stages', '/api/v2/stages?limit=500&pipeline_id=' || (SELECT min(pipeline_id) FROM pipedrive_stages)),
                   ('pd_deal_fields', '/api/v2/dealFields?limit=500'), ('pd_organization_fields', '/api/v2/organizationFields?limit=500'), ('pd_product_fields', '/api/v2/productFields?limit=500')) AS p(probe, path)
     WHERE setting('pipedrive_base_url') IS NOT NULL AND p.path IS NOT NULL
    $$;
COMMENT ON FUNCTION _verify_probes() IS 'The calls that verify() makes: few, and none of them writes.';

CREATE FUNCTION _first_run_cost(OUT deals bigint, OUT organizations bigint, OUT products bigint, OUT tokens bigint, OUT days numeric)
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    SET jit = off
    AS $$
    WITH d AS MATERIALIZED (
        SELECT l.division, l.exact_id, o.ordered_by, s.lines, c.closing
          FROM deal_lanes l JOIN exact_sales_orders o ON o.division = l.division AND o.id = l.exact_id
         CROSS JOIN LATERAL (SELECT count(*) AS lines FROM exact_sales_order_lines x WHERE x.division = o.division AND x.order_id = o.id AND x.deleted_at IS NULL) s
         -- Rounding cents that one more call closes.
         CROSS JOIN LATERAL (SELECT _closing_discount(sum(p.quantity * p.item_price * (1 - p.discount / 100)), max(z.total)) IS NOT NULL AS closing
                               FROM order_sums z JOIN wanted_deal_products p ON p.division = z.division AND p.order_id = z.order_id WHERE z.division = o.division AND z.order_id = o.id OFFSET 0) c
         WHERE l.in_window AND NOT EXISTS (SELECT FROM links k WHERE k.kind = 'deal' AND k.division = l.division AND k.exact_id = l.exact_id)),
    c AS (
        SELECT (SELECT count(*) FROM d) AS deals,
               (SELECT count(DISTINCT (d.division, d.ordered_by)) FROM d WHERE d.ordered_by IS NOT NULL AND NOT EXISTS (SELECT FROM links k WHERE k.kind = 'organization' AND k.division = d.division AND k.exact_id = d.ordered_by)) AS organizations,
               (SELECT count(*) FROM exact_items i WHERE NOT EXISTS (SELECT FROM links k WHERE k.kind = 'product' AND k.division = i.division AND k.exact_id = i.id)) AS products,
               (SELECT coalesce(sum(5 + 25 * (d.lines / 100) + least(5 * (d.lines % 100), CASE WHEN d.lines % 100 > 0 THEN 25 ELSE 0 END) + CASE WHEN d.closing THEN 5 ELSE 0 END), 0) FROM d)
               -- Missing options of Artikelgroep go with one call.
               + (SELECT coalesce(sum(g.tokens), 0) FROM _calls_groups() g) AS deal_tokens)
    SELECT c.deals, c.organizations, c.products, (c.deal_tokens + 5 * (c.organizations + c.products))::bigint,
           round((c.deal_tokens + 5 * (c.organizations + c.products))
                 / (coalesce((SELECT b.limit_value FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'day'), setting('daily_tokens')::integer, 30000) * (100 - setting('live_reserve_percent')::numeric) / 100), 1)
      FROM c $$;
COMMENT ON FUNCTION _first_run_cost() IS 'What is still to be created, and what that costs in tokens and in days of the budget.';

CREATE FUNCTION _verify_report(p_results text) RETURNS TABLE (check_name text, state text, detail text, hint text)
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    SET jit = off
    AS $$
DECLARE
    v_results  jsonb := p_results::jsonb;
    v          record;
    v_body     jsonb;
    v_count    bigint;
    v_text     text;
    v_cost     record;
BEGIN
    -- ------------------------------------------------------------ this server
    check_name := 'library';
    IF preloaded() THEN state := 'ok'; detail := 'preloaded'; hint := NULL;
    ELSE state := 'error'; detail := 'the library is not in shared_preload_libraries: there are no workers'; hint := 'shared_preload_libraries = ''exact_pd_sync'' in postgresql.conf, then restart'; END IF;
    RETURN NEXT;
    check_name := 'workers';
    IF worker_pid('delivery') > 0 AND worker_pid('intake') > 0 THEN state := 'ok'; detail := format('delivery %s, intake %s', worker_pid('delivery'), worker_pid('intake')); hint := NULL;
    ELSE state := 'error'; detail := format('workers of database "%s" do not run', current_database());
         hint := format('exact_pd_sync.databases = ''%s'' in postgresql.conf and reload; max_worker_processes (now %s) needs 1 + 2 per database to spare', current_database(), current_setting('max_worker_processes')); END IF;
    RETURN NEXT;
    check_name := 'instance';
    IF _instance_ok() THEN state := 'ok'; detail := 'this is the database that was confirmed'; hint := NULL;
    ELSE state := 'error'; detail := format('this database is a copy, restored or promoted (%s): nothing goes out', _instance_difference()); hint := 'SELECT exact_pd_sync.confirm_instance(); if the other one is off'; END IF;
    RETURN NEXT;
    check_name := 'role';
    IF _role_without_secrets() IS NOT NULL THEN
        state := 'error'; detail := format('role "%s" has no policy on the table of secrets; a dump does not carry one', _role_without_secrets()); hint := format('SELECT exact_pd_sync.grant_worker(%L);', _role_without_secrets());
    ELSIF EXISTS (SELECT FROM pg_roles r WHERE r.rolsuper AND r.rolname = coalesce(nullif(current_setting('exact_pd_sync.role', true), ''),
                 (SELECT pg_get_userbyid(e.extowner) FROM pg_extension e WHERE e.extname = 'exact_pd_sync'))) THEN
        state := 'warning'; detail := 'the workers run as a superuser'; hint := 'CREATE ROLE sync_worker; SELECT exact_pd_sync.grant_worker(''sync_worker''); exact_pd_sync.role = ''sync_worker''';
    ELSE state := 'ok'; detail := 'the workers run as an ordinary role'; hint := NULL; END IF;
    RETURN NEXT;
    check_name := 'secrets at rest';
    IF NOT EXISTS (SELECT FROM credentials) THEN state := 'ok'; detail := 'none are stored yet'; hint := NULL;
    ELSIF NOT EXISTS (SELECT FROM credentials c WHERE NOT c.sealed) THEN state := 'ok'; detail := 'sealed with the key file'; hint := NULL;
    ELSE state := 'warning'; detail := 'secrets are stored as they are, readable in base backups and the data directory'; hint := 'exact_pd_sync.key_file = a file outside the data directory, then enter them again'; END IF;
    RETURN NEXT;
    check_name := 'schedule';
    IF EXISTS (SELECT FROM schedule_list()) THEN state := 'ok'; detail := (SELECT string_agg(l.jobname, ', ' ORDER BY l.jobname) FROM schedule_list() l); hint := NULL;
    ELSE state := 'warning'; detail := 'pg_cron runs none of our jobs in this database, as far as can be seen from here'; hint := 'SELECT exact_pd_sync.schedule();'; END IF;
    RETURN NEXT;
    -- pg_settings leaves out what the role may not see, where current_setting() is an error.
    IF EXISTS (SELECT FROM pg_settings s WHERE s.name = 'cron.use_background_workers' AND s.setting = 'on') THEN
        check_name := 'pg_cron mode'; state := 'warning'; detail := 'cron.use_background_workers is on: pg_cron 1.4 runs one job at a time that way'; hint := 'turn it off, or leave long imports to a person'; RETURN NEXT;
    END IF;

    -- ------------------------------------------------------------------ Exact
    IF setting('exact_base_url') IS NULL THEN
        check_name := 'exact app'; state := 'error'; detail := 'not configured'; hint := 'SELECT exact_pd_sync.set_exact_app(…);'; RETURN NEXT;
    END IF;
    IF NOT EXISTS (SELECT FROM divisions) THEN
        check_name := 'division'; state := 'error'; detail := 'none is configured'; hint := 'SELECT exact_pd_sync.add_division(123456);'; RETURN NEXT;
    END IF;
    FOR v IN SELECT r->>'probe' AS probe, (r->>'division')::integer AS division, coalesce((r->>'status')::integer, 0) AS status, r->>'result' AS result, r->>'error' AS error, r->'headers' AS headers,
                    (r->>'ms')::integer AS ms, r->'bodies' AS bodies
               FROM jsonb_array_elements(v_results) r LOOP
        v_body := NULL;
        IF v.status = 200 THEN
            BEGIN
                v_body := (v.bodies->>0)::jsonb;
            EXCEPTION WHEN data_exception THEN
                v.error := 'the answer is not JSON'; v.status := 0;
            END;
        END IF;
        check_name := CASE v.probe WHEN 'me' THEN 'exact login' WHEN 'pd_me' THEN 'pipedrive login' ELSE replace(replace(v.probe, 'feed:', 'feed '), 'pd_', 'pipedrive ') END
                   || CASE WHEN v.division IS NOT NULL AND (SELECT count(*) FROM divisions) > 1 THEN ' (' || v.division || ')' ELSE '' END;
        state := 'ok'; hint := NULL; detail := NULL;
        IF v.status <> 200 OR v_body IS NULL THEN
            state := CASE WHEN v.probe LIKE 'feed:%' AND (SELECT f.optional FROM feed_definitions f WHERE 'feed:' || f.feed = v.probe) THEN 'warning' ELSE 'error' END;
            detail := coalesce(v.error, left(v.bodies->>0, 300), 'no answer') || CASE WHEN v.status > 0 THEN format(' (status %s)', v.status) ELSE '' END;
            hint := CASE WHEN v.status = 0 AND v.probe NOT LIKE 'pd%' AND (SELECT c.state FROM exact_consent c) IS DISTINCT FROM 'ok' THEN 'a person must consent: open exact_authorize_url(), then CALL exact_authorize()'
                         WHEN v.status = 0 AND v.error LIKE 'there is no access token%' THEN 'CALL exact_pd_sync.poll_customers() asks for one; then verify() again'
                         WHEN v.status = 401 AND v.probe LIKE 'pd%' THEN 'enter the API token again: set_pipedrive_account()'
                         WHEN v.status = 401 THEN 'open exact_authorize_url() again: the consent is gone or the user has no rights in this division'
                         WHEN v.status = 403 THEN 'the app lacks the scope, or the user the right: ask for it at Exact, then consent again'
                         WHEN v.status = 400 AND v.probe LIKE 'feed:%lines' THEN 'the first poll leaves the optional fields out by itself'
                         WHEN v.status = 429 THEN 'a limit; try again in a minute'
                         ELSE 'see api_calls and the server log' END;
        ELSIF v.probe = 'me' THEN
            detail := format('%s, current division %s', v_body->'d'->'results'->0->>'FullName', v_body->'d'->'results'->0->>'CurrentDivision');
            RETURN NEXT;
            check_name := 'exact clock';
            v_text := v_body->'d'->'results'->0->>'ServerTime';
            IF v_text ~ '^/?\\?/Date' THEN v_text := exact_wall_clock(v_text)::text; END IF;
            BEGIN
                SELECT round(extract(epoch FROM v_text::timestamp - (clock_timestamp() AT TIME ZONE coalesce((SELECT min(d.time_zone) FROM divisions d), 'Europe/Amsterdam'))))::bigint INTO v_count;
                detail := format('Exact''s wall clock differs by %s s from ours', v_count);
                IF abs(v_count) > 300 THEN state := 'warning'; hint := 'wrong time zone of the division (add_division) or wrong clock of this server: dates and times would be off'; END IF;
            EXCEPTION WHEN data_exception THEN
                state := 'warning'; detail := format('ServerTime "%s" cannot be read', v_text); hint := 'the zone of the division cannot be checked';
            END;
        ELSIF v.probe = 'division' THEN
            IF coalesce(jsonb_array_length(_page_rows(v_body)), 0) = 0 THEN
                state := 'error'; detail := format('division %s is not among those of this user', v.division); hint := 'a wrong number, or no rights';
            ELSE
                v_body := _page_rows(v_body)->0;
                detail := format('%s %s, %s', v.division, v_body->>'Description', v_body->>'Currency');
                UPDATE divisions d SET name = coalesce(d.name, v_body->>'Description'), currency = coalesce(nullif(btrim(v_body->>'Currency'), ''), d.currency) WHERE d.division = v.division;
                IF (v_body->>'Status')::integer IS DISTINCT FROM 1 THEN state := 'warning'; hint := 'the division is not active'; END IF;
            END IF;
        ELSIF v.probe = 'page' THEN
            SELECT count(*), count(*) FILTER (WHERE s.ok) INTO v.ms, v_count
              FROM jsonb_array_elements(_page_rows(v_body)) o
             CROSS JOIN LATERAL (SELECT abs(coalesce((o->>'AmountFCExclVat')::numeric, 0) - coalesce(sum((l->>'AmountFC')::numeric), 0)) <= 0.02 + 0.005 * count(*) OR
                                        abs(coalesce((o->>'AmountFCExclVat')::numeric, 0) - coalesce(sum((l->>'AmountFC')::numeric / (1 + coalesce((l->>'VATPercentage')::numeric, 0))), 0)) <= 0.02 + 0.005 * count(*) OR
                                        coalesce((o->>'AmountDiscountExclVat')::numeric, 0) <> 0 AS ok
                                   FROM jsonb_array_elements(CASE WHEN jsonb_typeof(o->'SalesOrderLines'->'results') = 'array' THEN o->'SalesOrderLines'->'results' WHEN jsonb_typeof(o->'SalesOrderLines') = 'array' THEN o->'SalesOrderLines' END) l) s;
            check_name := 'orders parsed'; detail := format('%s of %s orders of a real page add up with their lines', v_count, v.ms);
            IF v_count < v.ms THEN state := 'warning'; hint := 'their deals carry the header''s total; see order_sums.adds_up after the import'; END IF;
        ELSIF v.probe = 'statuses' THEN
            FOR v_text, v_count, detail IN
                SELECT format('%s / %s / %s', coalesce(x.s, 'null'), coalesce(x.d, 'null'), coalesce(x.i, 'null')), x.n,
                       coalesce((SELECT d.deal_status FROM _status_rule(x.s, x.d, x.i) d) || ', ' || (SELECT g.stage FROM _stage_rule(x.s, x.d, x.i) g), 'no rule')
                  FROM (SELECT o->>'Status' AS s, o->>'DeliveryStatus' AS d, o->>'InvoiceStatus' AS i, count(*) AS n
                          FROM jsonb_array_elements_text(v.bodies) b, jsonb_array_elements(_page_rows(b::jsonb)) o GROUP BY 1, 2, 3) x
                 ORDER BY x.n DESC LOOP
                check_name := 'status ' || v_text;
                state := CASE WHEN detail = 'no rule' THEN 'warning' ELSE 'ok' END;
                hint := CASE WHEN detail = 'no rule' THEN 'add a row to status_rules, or CALL setup_pipedrive() for the default ones' END;
                detail := format('%s orders in twelve months: %s', v_count, detail);
                RETURN NEXT;
            END LOOP;
            check_name := 'salespeople'; hint := NULL;
            SELECT count(*), count(*) FILTER (WHERE x.active), string_agg(x.name, ', ') FILTER (WHERE NOT x.active) INTO v_count, v.ms, v_text
              FROM (SELECT DISTINCT o->>'Salesperson' AS id, o->>'SalespersonFullName' AS name,
                           coalesce((SELECT u.active FROM owner_map m JOIN pipedrive_users u ON u.user_id = m.pipedrive_user_id WHERE m.exact_id = (o->>'Salesperson')::uuid), false) AS active
                      FROM jsonb_array_elements_text(v.bodies) b, jsonb_array_elements(_page_rows(b::jsonb)) o WHERE o->>'Salesperson' IS NOT NULL) x;
            state := CASE WHEN v.ms < v_count THEN 'warning' ELSE 'ok' END;
            detail := format('%s of %s salespeople are mapped to an active user', v.ms, v_count) || coalesce('; not: ' || v_text, '');
            hint := CASE WHEN v.ms < v_count THEN 'SELECT * FROM exact_pd_sync.unmapped_salespeople; map_salesperson(), else the default owner takes them' END;
        ELSIF v.probe = 'pd_me' THEN
            detail := format('%s, company %s', v_body->'data'->>'name', coalesce(v_body->'data'->>'company_name', v_body->'data'->>'company_domain'));
            PERFORM _pipedrive_headers(jsonb_build_object(
                'daily_limit', CASE WHEN v.headers->>'x-daily-ratelimit-token-limit' ~ '^[0-9]+$' THEN (v.headers->>'x-daily-ratelimit-token-limit')::bigint END,
                'daily_remaining', CASE WHEN v.headers->>'x-daily-ratelimit-token-remaining' ~ '^[0-9]+$' THEN (v.headers->>'x-daily-ratelimit-token-remaining')::bigint END,
                'burst_limit', CASE WHEN v.headers->>'x-ratelimit-limit' ~ '^[0-9]+$' THEN (v.headers->>'x-ratelimit-limit')::bigint END));
        ELSIF v.probe = 'pd_stages' THEN
            SELECT string_agg(s.name, ', ') INTO v_text
              FROM (SELECT p.name, p.stage_id FROM pipedrive_stages p
                    UNION SELECT r.stage, NULL FROM status_rules r
                     WHERE r.stage IS NOT NULL AND NOT EXISTS (SELECT FROM pipedrive_stages p WHERE p.name = r.stage)) s
             WHERE s.stage_id IS NULL OR NOT EXISTS (SELECT FROM jsonb_array_elements(v_body->'data') x WHERE (x->>'id')::bigint = s.stage_id AND NOT coalesce((x->>'is_deleted')::boolean, false));
            detail := CASE WHEN v_text IS NULL THEN 'all stages are there' ELSE 'missing: ' || v_text END;
            IF v_text IS NOT NULL THEN state := 'error'; hint := 'CALL exact_pd_sync.setup_pipedrive();'; END IF;
        ELSIF v.probe LIKE 'pd\_%\_fields' THEN
            SELECT string_agg(format('%s (%s)', f.name, CASE WHEN x.t IS NULL THEN 'missing' ELSE 'is ' || x.t || ', should be ' || f.field_type END), ', ') INTO v_text
              FROM pipedrive_fields f
              LEFT JOIN LATERAL (SELECT e->>'field_type' AS t FROM jsonb_array_elements(v_body->'data') e WHERE e->>'field_code' = f.code) x ON true
             WHERE f.entity = split_part(v.probe, '_', 2) AND x.t IS DISTINCT FROM f.field_type;
            detail := CASE WHEN v_text IS NULL THEN 'all fields are there, with their types' ELSE v_text END;
            IF v_text IS NOT NULL OR NOT EXISTS (SELECT FROM pipedrive_fields f WHERE f.entity = split_part(v.probe, '_', 2)) THEN
                state := 'error'; hint := 'CALL exact_pd_sync.setup_pipedrive();'; detail := coalesce(v_text, 'not set up yet'); END IF;
        ELSE
            detail := format('readable, %s ms', v.ms);
        END IF;
        IF v.probe <> 'statuses' OR check_name = 'salespeople' OR v.status <> 200 THEN
            RETURN NEXT;
        END IF;
    END LOOP;

    -- -------------------------------------------------------------- Pipedrive
    hint := NULL;
    IF setting('pipedrive_base_url') IS NULL THEN
        check_name := 'pipedrive account'; state := 'error'; detail := 'not configured'; hint := 'SELECT exact_pd_sync.set_pipedrive_account(…);'; RETURN NEXT;
    END IF;
    check_name := 'default owner'; hint := NULL;
    SELECT u.name INTO v_text FROM pipedrive_users u WHERE u.user_id = setting('default_owner_id')::bigint AND u.active;
    state := CASE WHEN v_text IS NULL THEN 'warning' ELSE 'ok' END; detail := coalesce(v_text, 'none, or no longer active'); hint := CASE WHEN v_text IS NULL THEN 'SELECT exact_pd_sync.set_default_owner(user_id);' END;
    RETURN NEXT;
    check_name := 'item groups'; state := 'ok'; hint := NULL;
    SELECT count(*), count(*) FILTER (WHERE o.option_id IS NOT NULL) INTO v_count, v.ms FROM exact_item_groups g LEFT JOIN pipedrive_options o ON o.label = left(g.description, 255) WHERE g.deleted_at IS NULL;
    detail := format('%s staged, %s of them are options of Artikelgroep already', v_count, v.ms);
    RETURN NEXT;

    SELECT * INTO v_cost FROM _first_run_cost();
    check_name := 'first run'; state := 'ok';
    detail := format('%s deals, %s organizations, %s products to be created: %s tokens, %s days of the budget', v_cost.deals, v_cost.organizations, v_cost.products, v_cost.tokens, v_cost.days);
    hint := CASE WHEN v_cost.deals > 0 AND is_paused('sending') THEN 'switch off automations and assignment mails in Pipedrive during the first run, then SELECT exact_pd_sync.resume();' END;
    IF hint IS NOT NULL THEN state := 'warning'; END IF;
    RETURN NEXT;
    check_name := 'token budget'; state := 'ok'; hint := NULL;
    SELECT format('%s of %s tokens left today', b.remaining, b.limit_value) INTO v_text FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'day';
    detail := coalesce(v_text, 'not known yet'); IF v_text IS NULL THEN state := 'warning'; hint := 'set daily_tokens if the answers do not tell: SELECT exact_pd_sync.configure(''daily_tokens'', …);'; END IF;
    RETURN NEXT;
    check_name := 'deal capacity'; hint := NULL;
    SELECT count(*) INTO v_count FROM links l WHERE l.kind = 'deal' AND l.gone_at IS NULL;
    IF setting('deal_capacity') IS NULL THEN
        state := 'warning'; detail := format('not known; %s deals after the first run', v_count + v_cost.deals);
        hint := 'SELECT exact_pd_sync.configure(''deal_capacity'', plan x seats): Lite 2,500, Growth 5,000, Premium 15,000, Ultimate 20,000 per seat; won and lost deals count unless archived';
    ELSE
        state := CASE WHEN (v_count + v_cost.deals) * 100 > setting('deal_capacity')::bigint * setting('history_capacity_percent')::integer THEN 'warning' ELSE 'ok' END;
        detail := format('%s of %s after the first run (%s percent)', v_count + v_cost.deals, setting('deal_capacity'), round((v_count + v_cost.deals) * 100.0 / greatest(setting('deal_capacity')::bigint, 1)));
        hint := CASE WHEN state = 'warning' THEN 'history beyond history_capacity_percent is not sent; import fewer months or raise the plan' END;
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION _verify_report(text) IS 'What the answers of the probes mean: one row per check.';

CREATE FUNCTION verify(OUT check_name text, OUT state text, OUT detail text, OUT hint text) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'epds_verify';
COMMENT ON FUNCTION verify() IS 'The live check of everything, before the first write and any time after: one row per check, state ok, warning or error. Few calls, none of them writes. Not inside a transaction block.';
