/*
 * 80_views.sql
 *		The operator's windows: status, queue, dead letters, budget, progress,
 *		coverage, trace.  They turn red by themselves: staleness is computed.
 */

CREATE VIEW queue AS
SELECT j.id AS job, j.kind, j.division, j.exact_id,
       CASE j.kind WHEN 'deal' THEN 'Order ' || (SELECT o.order_number FROM exact_sales_orders o WHERE o.division = j.division AND o.id = j.exact_id)
                   WHEN 'organization' THEN (SELECT coalesce(a.code || ' ', '') || a.name FROM exact_accounts a WHERE a.division = j.division AND a.id = j.exact_id)
                   WHEN 'product' THEN (SELECT coalesce(i.code || ' ', '') || coalesce(i.description, '') FROM exact_items i WHERE i.division = j.division AND i.id = j.exact_id)
                   ELSE 'Artikelgroep' END AS object,
       (ARRAY['urgent', 'live', 'open', 'history', 'catalogue'])[j.lane + 1] AS lane, j.state, j.attempts, j.next_attempt_at, j.reason,
       (SELECT string_agg(n.kind || ' ' || n.exact_id, ', ') FROM job_needs n WHERE n.job_id = j.id AND j.state = 'blocked') AS waits_for,
       j.error, j.created_at, j.updated_at
  FROM jobs j;
COMMENT ON VIEW queue IS 'What is still to be looked at, and why it waits.';

CREATE VIEW dead_letters AS
SELECT j.id AS job, j.kind, j.division, j.exact_id, q.object, j.class, j.reason, j.error AS servers_words, j.attempts, j.updated_at AS since,
       CASE j.kind WHEN 'deal' THEN (SELECT count(*) FROM job_needs n WHERE false) ELSE (SELECT count(*) FROM job_needs n WHERE n.kind = j.kind AND n.division = j.division AND n.exact_id = j.exact_id) END AS holds_back,
       format('SELECT exact_pd_sync.replay(job => %s);', j.id) AS then_do
  FROM jobs j JOIN queue q ON q.job = j.id
 WHERE j.state = 'dead'
UNION ALL
SELECT NULL, 'row of ' || r.feed, r.division, NULL, left(r.row_text, 80), 'ours', 'a row of Exact cannot be stored; the rest of its page was', r.reason, 1, r.at, 0,
       'look at refused_rows; the row is read again when it changes at Exact'
  FROM refused_rows r;
COMMENT ON VIEW dead_letters IS 'What needs a person: the reason in plain words, the server''s own words, and what to do.';

CREATE VIEW budget AS
SELECT b.side, nullif(b.division, 0) AS division, b.kind, b.limit_value, b.remaining, b.booked, b.spent_today, b.reset_at,
       CASE WHEN b.blocked_until > clock_timestamp() THEN b.blocked_until END AS blocked_until,
       CASE WHEN b.blocked_until > clock_timestamp() OR b.kind LIKE 'errors:%' THEN b.blocked_reason END AS reason, b.learned_at
  FROM budgets b
 WHERE NOT (b.kind LIKE 'errors:%' AND b.reset_at < clock_timestamp());
COMMENT ON VIEW budget IS 'What both services still allow.';

CREATE VIEW status_coverage AS
SELECT o.division, o.status, o.delivery_status, o.invoice_status, count(*) AS orders, min(o.order_date) AS first_order, max(o.order_date) AS last_order,
       st.deal_status, sg.stage,
       CASE WHEN st.deal_status IS NULL OR sg.stage IS NULL THEN 'unmapped'
            WHEN o.status = 45 AND o.invoice_status IN (20, 21) THEN 'odd: cancelled after it was invoiced'
            WHEN o.delivery_status = 21 AND o.status = 21 AND o.invoice_status = 12 AND count(*) FILTER (WHERE o.order_date < today(o.division) - 30) > 0 THEN 'odd: delivered and complete, not invoiced for 30 days'
            ELSE 'ok' END AS verdict
  FROM exact_sales_orders o
  LEFT JOIN LATERAL _status_rule(o.status::text, o.delivery_status::text, o.invoice_status::text) st ON true
  LEFT JOIN LATERAL _stage_rule(o.status::text, o.delivery_status::text, o.invoice_status::text) sg ON true
 WHERE o.deleted_at IS NULL
 GROUP BY o.division, o.status, o.delivery_status, o.invoice_status, st.deal_status, sg.stage;
COMMENT ON VIEW status_coverage IS 'Every combination of Exact''s three status codes seen in staging, what the rules make of it, and the odd ones worth a look.';

CREATE VIEW unmapped_salespeople AS
SELECT o.salesperson AS exact_id, max(o.salesperson_name) AS name, count(*) AS orders, max(o.order_date) AS last_order,
       CASE WHEN bool_or(m.pipedrive_user_id IS NOT NULL) THEN 'the mapped user is inactive' ELSE 'not mapped' END AS reason,
       format('SELECT exact_pd_sync.map_salesperson(%L, user_id);', o.salesperson) AS then_do
  FROM exact_sales_orders o
  LEFT JOIN owner_map m ON m.exact_id = o.salesperson
  LEFT JOIN pipedrive_users u ON u.user_id = m.pipedrive_user_id
 WHERE o.salesperson IS NOT NULL AND o.deleted_at IS NULL AND NOT coalesce(u.active, false)
 GROUP BY o.salesperson;
COMMENT ON VIEW unmapped_salespeople IS 'Salespeople on orders whose deals go to the default owner.';

CREATE VIEW progress AS
WITH rate AS (
    SELECT sum(c.tokens) / greatest(0.1, extract(epoch FROM clock_timestamp() - min(c.at)) / 60) AS tokens_per_minute FROM api_calls c
     WHERE c.side = 'pipedrive' AND c.at > clock_timestamp() - interval '10 minutes'
), q AS (
    SELECT j.lane, j.kind, count(*) AS jobs, count(*) FILTER (WHERE j.state = 'dead') AS dead, count(*) FILTER (WHERE j.state = 'blocked') AS blocked FROM jobs j GROUP BY j.lane, j.kind
)
SELECT (ARRAY['urgent', 'live', 'open', 'history', 'catalogue'])[q.lane + 1] AS lane, q.kind,
       (SELECT count(*) FROM links l WHERE l.kind = q.kind) AS linked, q.jobs - q.dead AS to_do, q.blocked, q.dead,
       CASE WHEN q.kind = 'deal' THEN 30 ELSE 5 END * (q.jobs - q.dead) AS tokens_about,
       CASE WHEN is_paused('sending') THEN NULL
            WHEN r.tokens_per_minute > 0 THEN clock_timestamp() + make_interval(secs => least(86400 * 365, 60.0 * CASE WHEN q.kind = 'deal' THEN 30 ELSE 5 END * (q.jobs - q.dead) / r.tokens_per_minute)::double precision) END AS done_about
  FROM q CROSS JOIN rate r
 ORDER BY q.lane, q.kind;
COMMENT ON VIEW progress IS 'How much is sent, how much is left, and about when it is done at the pace of the last ten minutes.';

CREATE FUNCTION _age(p_at timestamptz) RETURNS text
    LANGUAGE sql STABLE
    AS $$ SELECT CASE WHEN p_at IS NULL THEN 'never' ELSE date_trunc('second', clock_timestamp() - p_at)::text || ' ago' END $$;
COMMENT ON FUNCTION _age(timestamptz) IS 'How long ago, for people.';

CREATE FUNCTION _status_rows() RETURNS TABLE (part text, state text, since timestamptz, last_success timestamptz, detail text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v       record;
    v_gate  text;
    v_n     bigint;
    v_dead  bigint;
BEGIN
    -- The consent at Exact.
    SELECT * INTO v FROM exact_consent;
    part := 'exact consent';
    IF v IS NULL OR v.issued_at IS NULL THEN state := 'red'; since := NULL; last_success := NULL; detail := 'no consent yet: exact_authorize_url(), then CALL exact_authorize()';
    ELSIF v.state <> 'ok' THEN state := 'red'; since := v.issued_at; last_success := v.issued_at; detail := CASE v.refused WHEN 'app' THEN 'Exact does not accept the app: SELECT exact_pd_sync.set_exact_app(…) with the right id and secret. '
                                                                                                                       WHEN 'consent' THEN 'a person must consent again: exact_authorize_url(). '
                                                                                                                       ELSE 'a person must consent again: exact_authorize_url(), or set_exact_app() if the secret is another one by now. ' END || coalesce(v.last_error, '');
    ELSIF v.failures > 0 AND v.access_expires_at < clock_timestamp() THEN state := 'red'; since := v.access_expires_at; last_success := v.issued_at; detail := format('no valid token: %s refreshes brought none. %s%s', v.failures, coalesce(v.last_error, 'The last answer was not seen.'), ' It is tried again' || to_char(v.retry_at, ' "at" HH24:MI:SS'));
    ELSIF v.issued_at < clock_timestamp() - interval '20 days' THEN state := 'yellow'; since := v.issued_at; last_success := v.issued_at; detail := 'the refresh token ends 30 days after its last use';
    ELSE state := 'green'; since := v.issued_at; last_success := v.issued_at; detail := format('token pair %s, %s', v.generation, _age(v.issued_at)); END IF;
    RETURN NEXT;

    -- The polls: a part is red when its feeds have not been drained for too long.
    FOR v IN SELECT g.part, g.max_age, min(p.last_success) AS last_success, string_agg(p.feed || ': ' || p.last_error, '; ') FILTER (WHERE p.last_error IS NOT NULL) AS error, bool_or(p.last_success IS NULL OR p.feed IS NULL) AS never,
                    (SELECT r.error FROM sync_runs r WHERE r.what LIKE 'poll_' || g.part OR r.what = 'poll_all' ORDER BY r.id DESC LIMIT 1) AS run_error
               FROM (VALUES ('orders', interval '20 minutes', ARRAY['sales_order_headers', 'sales_order_lines', 'deleted']), ('customers', interval '2 hours', ARRAY['accounts']), ('products', interval '1 hour', ARRAY['item_groups', 'items'])) AS g(part, max_age, feeds)
              CROSS JOIN LATERAL unnest(g.feeds) f(feed)
               LEFT JOIN divisions d ON true
               LEFT JOIN feed_positions p ON p.feed = f.feed AND p.division = d.division
              GROUP BY g.part, g.max_age LOOP
        part := v.part; last_success := v.last_success; since := v.last_success;
        IF is_paused(v.part) THEN state := 'yellow'; since := (SELECT x.since FROM parts x WHERE x.part = v.part); detail := 'paused';
        ELSIF v.never THEN state := 'red'; detail := coalesce('never read to the end. ' || v.run_error, 'never read to the end');
        ELSIF v.last_success < clock_timestamp() - v.max_age THEN state := 'red'; detail := format('last read %s. %s', _age(v.last_success), coalesce(v.run_error, v.error, 'Does pg_cron run? SELECT exact_pd_sync.schedule();'));
        ELSIF v.run_error IS NOT NULL THEN state := 'yellow'; detail := v.run_error;
        ELSE state := 'green'; detail := format('last read %s', _age(v.last_success)); END IF;
        RETURN NEXT;
    END LOOP;

    part := 'history'; since := NULL;
    SELECT min(d.imported_at) INTO last_success FROM divisions d HAVING bool_and(d.imported_at IS NOT NULL);
    IF last_success IS NULL THEN state := 'yellow'; detail := 'not imported: CALL exact_pd_sync.import_history()';
    ELSE state := 'green'; since := last_success; detail := format('imported %s', _age(last_success)); END IF;
    RETURN NEXT;

    -- Sending.
    part := 'sending';
    SELECT max(l.last_sent) INTO last_success FROM links l;
    SELECT count(*) FILTER (WHERE j.state <> 'dead'), count(*) FILTER (WHERE j.state = 'dead') INTO v_n, v_dead FROM jobs j;
    SELECT b.blocked_reason INTO v_gate FROM budgets b WHERE b.side = 'pipedrive' AND b.blocked_until > clock_timestamp() ORDER BY b.kind = 'day' DESC LIMIT 1;
    since := NULL;
    IF setting('pipedrive_base_url') IS NULL THEN
        state := 'yellow'; detail := 'not connected yet: set_pipedrive_account(), then CALL setup_pipedrive()';
    ELSIF NOT _instance_ok() THEN
        state := 'red'; detail := 'this database is a copy, restored or promoted: SELECT exact_pd_sync.confirm_instance() if it is the one that goes on';
    ELSIF is_paused('sending') THEN
        state := 'yellow'; since := (SELECT x.since FROM parts x WHERE x.part = 'sending'); detail := format('paused; %s jobs wait. SELECT exact_pd_sync.resume()', v_n);
    ELSIF worker_pid('delivery') = 0 THEN
        state := 'red'; detail := format('the delivery worker does not run: %s; %s jobs wait', worker_trouble('delivery'), v_n);
    ELSIF worker_trouble('delivery') IS NOT NULL THEN
        state := 'red'; detail := format('the delivery worker cannot work: %s; %s jobs wait', worker_trouble('delivery'), v_n);
    ELSIF v_gate IS NOT NULL THEN
        state := 'red'; since := (SELECT max(b.blocked_until) FROM budgets b WHERE b.side = 'pipedrive'); detail := format('%s; %s jobs wait', v_gate, v_n);
    ELSIF EXISTS (SELECT FROM budgets b JOIN jobs j ON j.state = 'ready' AND j.lane >= CASE WHEN b.remaining - b.booked <= b.limit_value::bigint * setting('live_reserve_percent')::integer / 200 THEN 2 ELSE 3 END
                   WHERE b.side = 'pipedrive' AND b.kind = 'day' AND b.remaining - b.booked <= b.limit_value::bigint * setting('live_reserve_percent')::integer / 100) THEN
        state := 'yellow'; since := (SELECT b.learned_at FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'day');
        detail := format('%s jobs wait for tokens until %s: what is left of the day is kept for live orders', v_n, (SELECT to_char(b.reset_at, 'YYYY-MM-DD HH24:MI') FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'day'));
    ELSIF is_paused('history') AND EXISTS (SELECT FROM jobs j WHERE j.lane >= 3 AND j.state = 'ready') THEN
        state := 'yellow'; since := (SELECT x.since FROM parts x WHERE x.part = 'history'); detail := format('history is paused; %s jobs wait. SELECT exact_pd_sync.resume(''history'')', v_n);
    ELSIF EXISTS (SELECT FROM jobs j WHERE j.lane <= 1 AND j.state IN ('ready', 'sending') AND j.updated_at < clock_timestamp() - interval '15 minutes') THEN
        state := 'red'; detail := 'live orders have been waiting for more than 15 minutes';
    ELSE
        state := 'green'; detail := CASE WHEN v_n = 0 THEN 'everything is sent' ELSE format('%s jobs in the queue', v_n) END;
    END IF;
    RETURN NEXT;

    part := 'dead letters'; last_success := NULL;
    v_dead := v_dead + (SELECT count(*) FROM refused_rows);
    SELECT min(j.updated_at) INTO since FROM jobs j WHERE j.state = 'dead';
    state := CASE WHEN v_dead = 0 THEN 'green' ELSE 'yellow' END;
    detail := CASE WHEN v_dead = 0 THEN 'none' ELSE format('%s: SELECT * FROM exact_pd_sync.dead_letters', v_dead) END;
    RETURN NEXT;

    part := 'reconcile'; since := NULL; last_success := NULL;
    SELECT r.finished_at, r.equal, r.summary INTO v FROM reconcile_results r ORDER BY r.run_id DESC LIMIT 1;
    last_success := v.finished_at;
    SELECT count(*), min(f.first_seen) INTO v_n, since FROM drift_findings f WHERE f.resolved_at IS NULL AND f.action NOT IN ('restored', 'left', 'followed') AND f.what <> 'archived';
    v_gate := (SELECT r.error FROM sync_runs r WHERE r.what = 'reconcile' AND r.state <> 'running' ORDER BY r.id DESC LIMIT 1);
    IF v_gate IS NOT NULL THEN state := 'yellow'; detail := 'the last run failed: ' || v_gate;
    ELSIF v.finished_at IS NULL THEN
        state := CASE WHEN EXISTS (SELECT FROM links l WHERE l.first_sent < clock_timestamp() - interval '2 days') THEN 'yellow' ELSE 'green' END;
        detail := 'never compared yet: CALL exact_pd_sync.reconcile(), or schedule()';
    ELSIF v.finished_at < clock_timestamp() - interval '48 hours' AND EXISTS (SELECT FROM schedule_list() s WHERE s.command ~ 'reconcile') THEN
        state := 'yellow'; detail := format('last compared %s although it is scheduled every night', _age(v.finished_at));
    ELSIF v_n > 0 THEN state := 'yellow'; detail := v.summary;
    ELSIF NOT v.equal THEN state := 'yellow'; detail := v.summary;
    ELSE state := 'green'; detail := format('%s, compared %s', v.summary, _age(v.finished_at)); END IF;
    RETURN NEXT;

    part := 'budget'; since := NULL;
    SELECT b.learned_at, b.remaining, b.limit_value, b.reset_at INTO v FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'day';
    last_success := v.learned_at;
    IF v.limit_value IS NULL THEN state := 'green'; detail := 'nothing spent yet';
    ELSE
        state := CASE WHEN v.remaining <= 0 THEN 'red' WHEN v.remaining < v.limit_value / 10 THEN 'yellow' ELSE 'green' END;
        detail := format('%s of %s Pipedrive tokens left until %s', v.remaining, v.limit_value, to_char(v.reset_at, 'YYYY-MM-DD HH24:MI'));
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION _status_rows() IS 'The rows of view status.';

CREATE VIEW status AS SELECT * FROM _status_rows();
COMMENT ON VIEW status IS 'One row per part: green, yellow or red, since when, last success, and what is the matter. Turns red by itself when something stops.';

CREATE FUNCTION trace(order_number bigint, division integer DEFAULT NULL) RETURNS TABLE (at timestamptz, what text, detail text, value jsonb)
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    WITH o AS (
        SELECT s.* FROM exact_sales_orders s
         WHERE s.order_number = trace.order_number AND (trace.division IS NULL OR s.division = trace.division)
    ), t AS (
        SELECT o.created AT TIME ZONE coalesce(d.time_zone, 'Europe/Amsterdam') AS at, 'exact: created' AS what, format('division %s, order %s, customer %s', o.division, o.order_number, coalesce(o.ordered_by_name, 'none')) AS detail, NULL::jsonb AS value
          FROM o LEFT JOIN divisions d ON d.division = o.division
        UNION ALL
        SELECT o.changed_at, 'exact: as staged', format('status %s / delivery %s / invoice %s, %s %s without VAT, rowversion %s', o.status, o.delivery_status, o.invoice_status, round(o.amount_fc_excl_vat, 2), o.currency, coalesce(o.timestamp::text, 'none (bulk)')), NULL FROM o
        UNION ALL
        SELECT max(l.changed_at), 'exact: lines as staged', format('%s lines, %s deleted', count(*) FILTER (WHERE l.deleted_at IS NULL), count(l.deleted_at)), NULL
          FROM o JOIN exact_sales_order_lines l ON l.division = o.division AND l.order_id = o.id GROUP BY o.division, o.id
        UNION ALL
        SELECT o.deleted_at, 'exact: deleted', NULL, NULL FROM o WHERE o.deleted_at IS NOT NULL
        UNION ALL
        SELECT s.at, 'signal', s.reason, NULL FROM o JOIN job_signals s ON s.kind = 'deal' AND s.division = o.division AND s.exact_id = o.id
        UNION ALL
        SELECT c.at, 'pipedrive: ' || c.operation, format('deal %s, %s tokens', c.pipedrive_id, c.tokens), jsonb_strip_nulls(jsonb_build_object('old', c.old_value, 'new', c.new_value))
          FROM o JOIN sync_changes c ON c.kind = 'deal' AND c.division = o.division AND c.exact_id = o.id
        UNION ALL
        SELECT c.at, 'pipedrive: organization ' || c.operation, format('organization %s', c.pipedrive_id), NULL
          FROM o JOIN sync_changes c ON c.kind = 'organization' AND c.division = o.division AND c.exact_id = o.ordered_by
        UNION ALL
        SELECT a.at, 'call: ' || a.what, format('%s %s: %s %s', a.method, a.path, coalesce(a.status::text, ''), a.outcome), CASE WHEN a.error IS NOT NULL THEN jsonb_build_object('error', a.error, 'request_id', a.request_id) END
          FROM o JOIN api_calls a ON a.exact_id = o.id AND a.outcome <> 'ok'
        UNION ALL
        SELECT j.updated_at, 'job: ' || j.state, coalesce(j.reason, 'in lane ' || j.lane), CASE WHEN j.error IS NOT NULL THEN jsonb_build_object('error', j.error) END
          FROM o JOIN jobs j ON j.kind = 'deal' AND j.division = o.division AND j.exact_id = o.id
        UNION ALL
        SELECT i.announced_at, 'announced: ' || i.operation, i.state, i.body FROM o JOIN intents i ON i.kind = 'deal' AND i.division = o.division AND i.exact_id = o.id
        UNION ALL
        SELECT l.last_sent, 'pipedrive: now', format('deal %s %s', l.pipedrive_id, CASE WHEN l.gone_at IS NOT NULL THEN 'is gone' WHEN l.adopted THEN 'was adopted' ELSE '' END), l.sent
          FROM o JOIN links l ON l.kind = 'deal' AND l.division = o.division AND l.exact_id = o.id
    )
    SELECT t.at, t.what, t.detail, t.value FROM t ORDER BY t.at NULLS FIRST
    $$;
COMMENT ON FUNCTION trace(bigint, integer) IS 'Everything that ever happened to one order, in order of time.';
