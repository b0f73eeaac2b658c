/*
 * 80_views.sql
 *		The operator's windows: status, queue, dead letters, budget, progress,
 *		coverage, trace.  They turn red by themselves: staleness is computed.
 */

CREATE VIEW queue AS
SELECT j.id AS job, j.kind, j.division, j.exact_id, (SELECT _object_text(j.kind, n.number, n.name) FROM _object_name(j.kind, j.division, j.exact_id) n) AS object,
       (ARRAY['urgent', 'live', 'open', 'history', 'catalogue'])[j.lane + 1] AS lane, j.state, j.attempts, j.next_attempt_at, j.reason,
       -- Pieces that are dead letters themselves first: somebody has to see to these.
       CASE WHEN j.state = 'blocked' THEN (
            SELECT string_agg(w.text, ', ' ORDER BY w.ordinal, w.text)
              FROM (SELECT concat(d.kind, ' ', _object_text(d.kind, x.number, x.name), CASE WHEN p.state = 'dead' THEN ' (dead letter: ' || p.reason || ')' END) AS text, CASE WHEN p.state = 'dead' THEN 1 ELSE 2 END AS ordinal
                      FROM job_needs d
                     CROSS JOIN LATERAL _object_name(d.kind, d.division, d.exact_id) x
                      LEFT JOIN jobs p ON p.kind = d.kind AND p.division = d.division AND p.exact_id = d.exact_id
                     WHERE d.job_id = j.id) w) END AS waits_for,
       j.error, j.created_at, j.updated_at
  FROM jobs j;
COMMENT ON VIEW queue IS 'What is still to be looked at, and why it waits.';

CREATE VIEW dead_letters AS
SELECT j.id AS job, j.kind, j.division, j.exact_id, n.number, n.name, _object_text(j.kind, n.number, n.name) AS object,
       j.class, c.cause, j.reason, c.hint, j.error AS servers_words, j.attempts, j.updated_at AS since, h.holds_back,
       CASE WHEN h.holds_back > 5 THEN h.held_back || format(' and %s more', h.holds_back - 5) ELSE h.held_back END AS held_back,
       c.leaves_when, format('SELECT exact_pd_sync.replay(job => %s);', j.id) AS then_do
  FROM jobs j
 CROSS JOIN LATERAL _object_name(j.kind, j.division, j.exact_id) n
 CROSS JOIN LATERAL _dead_cause(j.reason) c
 CROSS JOIN LATERAL (
        SELECT count(*) AS holds_back,
               (SELECT string_agg('Order ' || x.order_number, ', ' ORDER BY x.priority, x.order_number)
                  FROM (SELECT w.priority, o.order_number FROM job_needs d JOIN jobs w ON w.id = d.job_id JOIN exact_sales_orders o ON o.division = w.division AND o.id = w.exact_id
                         WHERE j.kind <> 'deal' AND d.kind = j.kind AND d.division = j.division AND d.exact_id = j.exact_id ORDER BY w.priority, o.order_number LIMIT 5) x) AS held_back
          FROM job_needs d WHERE j.kind <> 'deal' AND d.kind = j.kind AND d.division = j.division AND d.exact_id = j.exact_id) h
 -- What waits for room in the plan or for a token is not dead, but needs a person all the same.
 WHERE j.state = 'dead' OR j.state = 'waiting' AND j.class IN ('capacity', 'auth')
UNION ALL
SELECT NULL, 'row of ' || r.feed, r.division, r.key, r.number, r.name, coalesce(nullif(concat_ws(' ', r.number, r.name), ''), left(r.row_text, 80)),
       'ours', 'row', 'a row of Exact cannot be stored; the rest of its page was',
       'Look at its text in refused_rows and mend the value in Exact; the record is then read again. Nothing to mend: dismiss it.', r.reason, 1, r.at, 0, NULL,
       CASE WHEN r.key IS NULL THEN 'it is dismissed, or retention_days are over' ELSE 'the record is read well, or deleted in Exact' END,
       format('SELECT exact_pd_sync.dismiss_refused_row(%s);', r.id)
  FROM refused_rows r;
COMMENT ON VIEW dead_letters IS 'What needs a person: which record, the reason in plain words, what to do, the server''s own words, and who waits for it. Many at once: dead_letter_groups.';
COMMENT ON COLUMN dead_letters.class IS 'theirs (Pipedrive does not answer as it should), ours (the record or the set-up), capacity (the plan is full), auth (the token).';
COMMENT ON COLUMN dead_letters.held_back IS 'The orders that wait for it, five at most.';
COMMENT ON COLUMN dead_letters.leaves_when IS 'What takes it out of here without replay().';

CREATE VIEW dead_letter_groups AS
SELECT d.class, d.cause, d.kind, count(*) AS letters, sum(d.holds_back) AS holds_back, min(d.since) AS first, max(d.since) AS last,
       min(d.reason) AS reason, min(d.hint) AS hint,
       array_to_string((array_agg(d.object ORDER BY d.since DESC))[1:5], ', ') AS examples,
       (array_agg(d.servers_words ORDER BY d.since DESC))[1] AS servers_words_last,
       CASE WHEN d.cause IN ('gone', 'row') THEN 'SELECT * FROM exact_pd_sync.dead_letters WHERE cause = ' || quote_literal(d.cause) || ';'
            ELSE format('SELECT exact_pd_sync.replay_cause(%L, %L);', d.cause, d.kind) END AS then_do
  FROM dead_letters d
 GROUP BY d.class, d.cause, d.kind;
COMMENT ON VIEW dead_letter_groups IS 'The dead letters by cause, for when there are hundreds: one thing to do for each row.';

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
WITH q AS (
    -- A deal that is there usually needs one call or two, one to be made its lines as well.
    SELECT j.lane, j.kind, count(*) AS jobs, count(*) FILTER (WHERE j.state = 'dead') AS dead, count(*) FILTER (WHERE j.state = 'blocked') AS blocked,
           sum(CASE WHEN j.state = 'dead' THEN 0 WHEN j.kind <> 'deal' THEN 5 WHEN l.exact_id IS NOT NULL THEN 7 ELSE 30 END)::bigint AS tokens
      FROM jobs j
      LEFT JOIN links l ON l.kind = j.kind AND l.division = j.division AND l.exact_id = j.exact_id
     GROUP BY j.lane, j.kind
), linked AS (
    SELECT l.kind, count(*) AS n FROM links l GROUP BY l.kind
), day AS (
    SELECT b.limit_value::numeric AS day_limit, greatest(0, b.remaining - b.booked)::numeric AS available, b.reset_at, greatest(b.blocked_until, clock_timestamp()) AS starts,
           b.limit_value::numeric * setting('live_reserve_percent')::integer / 100 AS reserve
      FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'day'
), pace AS (
    -- Of the minutes of the last ten in which something was sent; else what the burst limit allows.
    SELECT coalesce(nullif((SELECT sum(c.tokens) / greatest(1, count(DISTINCT date_trunc('minute', c.at))) FROM api_calls c
                             WHERE c.side = 'pipedrive' AND c.at > clock_timestamp() - interval '10 minutes'), 0), 30 * 5 * coalesce((SELECT nullif(b.limit_value, 0) FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'burst'), 20)) AS tokens_per_minute
), sum AS (
    SELECT q.*, sum(q.tokens) OVER (ORDER BY q.lane) AS until_here,
           -- The part of a day that this lane may use.
           CASE WHEN q.lane <= 1 THEN 0 WHEN q.lane = 2 THEN d.reserve / 2 ELSE d.reserve END AS kept, d.*, p.tokens_per_minute
      FROM q CROSS JOIN pace p LEFT JOIN day d ON true
)
SELECT (ARRAY['urgent', 'live', 'open', 'history', 'catalogue'])[s.lane + 1] AS lane, s.kind,
       coalesce(l.n, 0) AS linked, s.jobs - s.dead AS to_do, s.blocked, s.dead, s.tokens AS tokens_about,
       CASE WHEN is_paused('sending') OR s.lane >= 3 AND is_paused('history') THEN NULL
            WHEN s.day_limit IS NULL OR s.until_here <= greatest(0, s.available - s.kept)
                THEN coalesce(s.starts, clock_timestamp()) + make_interval(secs => least(86400 * 365, 60 * s.until_here / s.tokens_per_minute)::double precision)
            -- More than today allows: whole days first, then the rest of the last one.
            ELSE s.reset_at + make_interval(days => least(3650, floor(x.left / x.per_day))::integer, secs => least(86400, 60 * (x.left - x.per_day * floor(x.left / x.per_day)) / s.tokens_per_minute)::double precision) END AS done_about
  FROM sum s
  LEFT JOIN linked l ON l.kind = s.kind
 CROSS JOIN LATERAL (SELECT s.until_here - greatest(0, s.available - s.kept) AS left, greatest(1, s.day_limit - s.kept) AS per_day) x
 ORDER BY s.lane, s.kind;
COMMENT ON VIEW progress IS 'How much is sent, how much is left, and about when it is done: at the pace of the last minutes, and with the tokens of each day.';
COMMENT ON COLUMN progress.done_about IS 'When this lane is done, with those that go before it; NULL while it is paused.';

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
    v_jobs  text;
    v_dead  bigint;
BEGIN
    -- The consent at Exact.
    SELECT * INTO v FROM exact_consent;
    part := 'exact consent';
    IF v.issued_at IS NOT NULL AND NOT _instance_ok() THEN state := 'red'; since := v.issued_at; last_success := v.issued_at; detail := 'not used: this database is a copy, restored or promoted';
    ELSIF v IS NULL OR v.issued_at IS NULL THEN state := 'red'; since := NULL; last_success := NULL; detail := 'no consent yet: exact_authorize_url(), then CALL exact_authorize()';
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

    -- Notifications make it faster; without them the polls do the work.
    part := 'notifications'; since := NULL;
    SELECT max(w.received_at) INTO last_success FROM webhook_deliveries w;
    -- What missing and silent mean, the view says.
    SELECT string_agg(w.topic || ': ' || coalesce(w.last_error, 'there is none'), '; ' ORDER BY w.side, w.division, w.topic) FILTER (WHERE w.state = 'missing') AS missing,
           string_agg(DISTINCT format('%s at %s', w.topic, initcap(w.side)), ', ') FILTER (WHERE w.state = 'silent') AS silent,
           min(w.checked_at) AS checked, count(*) FILTER (WHERE w.side = 'exact') AS exact, count(*) FILTER (WHERE w.side = 'pipedrive') AS pipedrive
      INTO v FROM webhook_subscriptions w;
    IF (worker_pid('listener') = 0 OR worker_trouble('listener') IS NOT NULL) AND strpos(',' || replace(current_setting('exact_pd_sync.listen', true), ' ', ''), ',' || current_database() || '=') > 0
        THEN state := 'yellow'; detail := concat_ws(': ', CASE WHEN worker_pid('listener') = 0 THEN 'the listener does not run' ELSE 'the listener takes nothing in' END, worker_trouble('listener'));
    ELSIF v.exact > 0 AND NOT EXISTS (SELECT FROM credentials c WHERE c.name = 'exact_webhook_secret')
        THEN state := 'yellow'; detail := 'there is no webhook secret, so every notification of Exact is turned away: set_exact_app(…, webhook_secret => …)';
    ELSIF v.missing IS NOT NULL THEN state := 'yellow'; detail := v.missing;
    ELSIF setting('webhook_callback_url') IS NOT NULL AND v.exact = 0 OR setting('pipedrive_callback_url') IS NOT NULL AND v.pipedrive = 0
        THEN state := 'yellow'; detail := 'asked for, and none is there: CALL exact_pd_sync.subscribe_webhooks()';
    ELSIF v.exact + v.pipedrive = 0 THEN state := 'green'; detail := 'off: changes are seen by the polls';
    ELSIF v.checked < clock_timestamp() - interval '2 days' THEN state := 'yellow'; since := v.checked; detail := format('last looked at %s: CALL exact_pd_sync.subscribe_webhooks()', _age(v.checked));
    ELSIF v.silent IS NOT NULL THEN state := 'yellow'; detail := format('no notification came within a day although much changed (%s): does the address lead here?', v.silent);
    ELSE state := 'green'; detail := CASE WHEN last_success IS NULL THEN 'none came yet' ELSE format('last one %s', _age(last_success)) END; END IF;
    RETURN NEXT;

    part := 'history'; since := NULL;
    SELECT min(d.imported_at) INTO last_success FROM divisions d HAVING bool_and(d.imported_at IS NOT NULL);
    IF last_success IS NULL THEN state := 'yellow'; detail := 'not imported: CALL exact_pd_sync.import_history()';
    ELSE state := 'green'; since := last_success; detail := format('imported %s', _age(last_success)); END IF;
    RETURN NEXT;

    -- Sending.
    part := 'sending';
    -- By the journal, which knows the last one at once.
    last_success := coalesce((SELECT c.at FROM sync_changes c WHERE c.operation <> 'adopt' ORDER BY c.id DESC LIMIT 1), (SELECT max(l.last_sent) FROM links l));
    -- Counted as far as people read: "more than 10000" is as good as the exact number, which costs a look at each.
    SELECT count(*) INTO v_dead FROM (SELECT FROM jobs j WHERE j.state = 'dead' LIMIT 10001) x;
    SELECT count(*) INTO v_n FROM (SELECT FROM jobs j WHERE j.state <> 'dead' LIMIT 10001) x;
    v_jobs := CASE WHEN v_n > 10000 THEN 'more than 10000' ELSE v_n::text END;
    SELECT b.blocked_reason INTO v_gate FROM budgets b WHERE b.side = 'pipedrive' AND b.blocked_until > clock_timestamp() ORDER BY b.kind = 'day' DESC LIMIT 1;
    since := NULL;
    IF setting('pipedrive_base_url') IS NULL THEN
        state := 'yellow'; detail := 'not connected yet: set_pipedrive_account(), then CALL setup_pipedrive()';
    ELSIF NOT _instance_ok() THEN
        state := 'red'; detail := format('this database is a copy, restored or promoted (%s): SELECT exact_pd_sync.confirm_instance() if it is the one that goes on', _instance_difference());
    ELSIF is_paused('sending') THEN
        state := 'yellow'; since := (SELECT x.since FROM parts x WHERE x.part = 'sending'); detail := coalesce((SELECT x.reason || '. ' FROM parts x WHERE x.part = 'sending'), '') || format('paused; %s jobs wait. SELECT exact_pd_sync.resume()', v_jobs);
    ELSIF worker_pid('delivery') = 0 THEN
        state := 'red'; detail := format('the delivery worker does not run: %s; %s jobs wait', worker_trouble('delivery'), v_jobs);
    ELSIF worker_trouble('delivery') IS NOT NULL THEN
        state := 'red'; detail := format('the delivery worker cannot work: %s; %s jobs wait', worker_trouble('delivery'), v_jobs);
    ELSIF v_gate IS NOT NULL THEN
        state := 'red'; since := (SELECT max(b.blocked_until) FROM budgets b WHERE b.side = 'pipedrive'); detail := format('%s; %s jobs wait', v_gate, v_jobs);
    ELSIF _verifying() THEN
        SELECT string_agg(k.what, ', ' ORDER BY k.id) AS lists, max(k.last_error) AS error INTO v FROM looks k WHERE k.done_at IS NULL AND k.reason = 'verify';
        state := 'yellow'; since := (SELECT i.confirmed_at FROM instance i);
        detail := concat_ws('; ', 'restored: before anything is sent, both sides are read anew', 'from Pipedrive still ' || v.lists, v.error, 'from Exact still ' || _stale_feeds() || ': CALL exact_pd_sync.poll_all(), if nothing else does');
    ELSIF EXISTS (SELECT FROM budgets b JOIN jobs j ON j.state = 'ready' AND j.lane >= CASE WHEN b.remaining - b.booked <= b.limit_value::bigint * setting('live_reserve_percent')::integer / 200 THEN 2 ELSE 3 END
                   WHERE b.side = 'pipedrive' AND b.kind = 'day' AND b.remaining - b.booked <= b.limit_value::bigint * setting('live_reserve_percent')::integer / 100) THEN
        state := 'yellow'; since := (SELECT b.learned_at FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'day');
        detail := format('%s jobs wait for tokens until %s: what is left of the day is kept for live orders', v_jobs, (SELECT to_char(b.reset_at, 'YYYY-MM-DD HH24:MI') FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'day'));
    ELSIF is_paused('history') AND EXISTS (SELECT FROM jobs j WHERE j.lane >= 3 AND j.state = 'ready') THEN
        state := 'yellow'; since := (SELECT x.since FROM parts x WHERE x.part = 'history'); detail := format('history is paused; %s jobs wait. SELECT exact_pd_sync.resume(''history'')', v_jobs);
    ELSIF EXISTS (SELECT FROM jobs j WHERE j.lane <= 1 AND j.state IN ('ready', 'sending') AND j.updated_at < clock_timestamp() - interval '15 minutes') THEN
        state := 'red'; detail := 'live orders have been waiting for more than 15 minutes';
    ELSE
        state := 'green'; detail := CASE WHEN v_n = 0 THEN 'everything is sent' ELSE format('%s jobs in the queue', v_jobs) END;
    END IF;
    RETURN NEXT;

    part := 'dead letters'; last_success := NULL;
    v_dead := v_dead + (SELECT count(*) FROM refused_rows) + (SELECT count(*) FROM (SELECT FROM jobs j WHERE j.state = 'waiting' AND j.class IN ('capacity', 'auth') LIMIT 10001) x);
    SELECT min(x.updated_at) INTO since FROM (SELECT j.updated_at FROM jobs j WHERE j.state = 'dead' LIMIT 10001) x;
    state := CASE WHEN v_dead = 0 THEN 'green' ELSE 'yellow' END;
    detail := CASE WHEN v_dead = 0 THEN 'none' ELSE format('%s: SELECT * FROM exact_pd_sync.%s', CASE WHEN v_dead > 10000 THEN 'more than 10000' ELSE v_dead::text END, CASE WHEN v_dead > 20 THEN 'dead_letter_groups' ELSE 'dead_letters' END) END;
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
