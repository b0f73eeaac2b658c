/*
 * 55_deliver.sql
 *		The delivery worker's half in SQL: signals become jobs, jobs become
 *		announced calls, answers become links.
 *
 * Only the delivery worker calls these functions; it is the only writer of
 * jobs, intents, links and line_links.
 */

CREATE FUNCTION _pipedrive_account(OUT base_url text, OUT ready boolean)
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$ SELECT setting('pipedrive_base_url'),
                 setting('pipedrive_base_url') IS NOT NULL AND EXISTS (SELECT FROM pipedrive_stages WHERE stage_id IS NOT NULL)
                 AND EXISTS (SELECT FROM pipedrive_fields WHERE purpose = 'exact_id' AND state IN ('found', 'made')) $$;
COMMENT ON FUNCTION _pipedrive_account() IS 'Address of the company, and whether setup_pipedrive() has been through.';

CREATE FUNCTION _burst_limit() RETURNS integer
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$ SELECT coalesce((SELECT b.limit_value FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'burst'), setting('burst_limit')::integer, 20) $$;
COMMENT ON FUNCTION _burst_limit() IS 'Requests per rolling 2 seconds: learned from the headers, else the setting, else that of the smallest plan (pipedrive 3.2).';

CREATE FUNCTION _pipedrive_day(OUT available bigint, OUT day_limit bigint, OUT blocked_until timestamptz, OUT blocked_reason text)
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v     budgets;
BEGIN
    INSERT INTO budgets (side, division, kind, limit_value, remaining, reset_at)
    SELECT 'pipedrive', 0, 'day', coalesce(setting('daily_tokens')::integer, 30000), coalesce(setting('daily_tokens')::integer, 30000),
           (date_trunc('day', v_now AT TIME ZONE 'UTC') + interval '1 day') AT TIME ZONE 'UTC'
    ON CONFLICT DO NOTHING;
    -- Past the reset the day starts full; the next answer's headers correct it.
    UPDATE budgets b SET remaining = b.limit_value, spent_today = 0,
           reset_at = b.reset_at + make_interval(days => 1 + floor(extract(epoch FROM v_now - b.reset_at) / 86400)::integer)
     WHERE b.side = 'pipedrive' AND b.kind = 'day' AND b.reset_at <= v_now;
    SELECT * INTO v FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'day' FOR UPDATE;
    available := v.remaining - v.booked;
    -- Refused for want of tokens, and the silence is over: nobody knows for certain when the service's day begins, so one job tries.
    IF available <= 0 AND v.booked = 0 AND v.blocked_until <= v_now AND v.blocked_reason = _plain_reason('daily', NULL, NULL, NULL) THEN
        available := 30;
    END IF;
    day_limit := v.limit_value;
    blocked_until := v.blocked_until;
    blocked_reason := v.blocked_reason;
END
$$;
COMMENT ON FUNCTION _pipedrive_day() IS 'Tokens of the day that are neither spent nor booked, after starting a new day if one is due.';

CREATE FUNCTION _pipedrive_reserve(p_tokens integer, p_lane integer) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v record;
BEGIN
    SELECT * INTO v FROM _pipedrive_day();
    -- A token that was refused is no limit: a person who tries it is told at once.
    IF v.blocked_until > clock_timestamp() AND v.blocked_reason IS DISTINCT FROM _plain_reason('auth', NULL, NULL, NULL) THEN
        RETURN ceil(extract(epoch FROM v.blocked_until - clock_timestamp()) * 1000)::bigint;
    END IF;
    -- What may wait leaves live orders their reserve, as in _take_batch().
    IF v.available - (CASE WHEN p_lane <= 1 THEN 0 ELSE v.day_limit * setting('live_reserve_percent')::bigint / CASE WHEN p_lane = 2 THEN 200 ELSE 100 END END) < p_tokens THEN
        RETURN (SELECT ceil(extract(epoch FROM b.reset_at - clock_timestamp()) * 1000)::bigint FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'day');
    END IF;
    -- Single calls are few and their answer corrects the figure: spent at once.
    UPDATE budgets SET remaining = remaining - p_tokens, spent_today = spent_today + p_tokens WHERE side = 'pipedrive' AND kind = 'day';
    RETURN 0;
END
$$;
COMMENT ON FUNCTION _pipedrive_reserve(integer, integer) IS 'Books tokens for a single call of a lane; returns 0, or the milliseconds until there are some.';

CREATE FUNCTION _pipedrive_headers(p_headers jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_now    timestamptz := clock_timestamp();
    v_old    integer;
    v_new    integer := (p_headers->>'daily_remaining')::integer;
BEGIN
    IF v_new IS NOT NULL THEN
        SELECT remaining INTO v_old FROM budgets WHERE side = 'pipedrive' AND kind = 'day' FOR UPDATE;
        UPDATE budgets b
           SET remaining = v_new, learned_at = v_now,
               limit_value = coalesce((p_headers->>'daily_limit')::integer, b.limit_value),
               -- The reset is learned: it is when what is left jumps up (pipedrive 3.1).
               spent_today = CASE WHEN v_new > v_old + greatest(100, b.limit_value / 10) THEN 0 ELSE b.spent_today END,
               reset_at = CASE WHEN v_new > v_old + greatest(100, b.limit_value / 10) AND b.learned_at IS NOT NULL THEN v_now + interval '1 day' ELSE b.reset_at END
         WHERE b.side = 'pipedrive' AND b.kind = 'day';
    ELSIF p_headers->>'daily_limit' IS NOT NULL THEN
        UPDATE budgets b SET limit_value = (p_headers->>'daily_limit')::integer WHERE b.side = 'pipedrive' AND b.kind = 'day';
    END IF;
    IF p_headers->>'server_time' IS NOT NULL THEN
        UPDATE budgets b SET server_time = to_timestamp((p_headers->>'server_time')::bigint) WHERE b.side = 'pipedrive' AND b.kind = 'day';
    END IF;
    IF (p_headers->>'burst_limit')::integer > 0 THEN
        INSERT INTO budgets AS b (side, division, kind, limit_value, learned_at) VALUES ('pipedrive', 0, 'burst', least((p_headers->>'burst_limit')::bigint, 2000000000)::integer, v_now)
        ON CONFLICT (side, division, kind) DO UPDATE SET limit_value = excluded.limit_value, learned_at = v_now
         WHERE b.limit_value IS DISTINCT FROM excluded.limit_value;
    END IF;
END
$$;
COMMENT ON FUNCTION _pipedrive_headers(jsonb) IS 'Takes over what the answers'' headers say about limits; it is the only way to see other integrations spend.';

-- ----------------------------------------------------------------- life cycle

CREATE FUNCTION _delivery_times_ahead(p_back_ms bigint DEFAULT 0) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_back  interval := make_interval(secs => p_back_ms / 1000.0);
    v_now   timestamptz := clock_timestamp();
BEGIN
    IF p_back_ms > 0 THEN
        UPDATE jobs j SET next_attempt_at = j.next_attempt_at - v_back WHERE j.state = 'waiting' AND j.next_attempt_at BETWEEN v_now AND 'infinity'::timestamptz - interval '1 day';
        UPDATE budgets b SET blocked_until = b.blocked_until - v_back WHERE b.side = 'pipedrive' AND b.blocked_until > v_now;
        UPDATE looks k SET not_before = k.not_before - v_back WHERE k.done_at IS NULL AND k.not_before > v_now;
    ELSIF p_back_ms < 0 THEN
        -- Set ahead: the seconds that a list needs to know of a record have not passed.
        UPDATE intents i SET unknown_at = v_now WHERE i.state = 'unknown';
        UPDATE looks k SET not_before = v_now + make_interval(secs => setting('list_lag')::integer) WHERE k.done_at IS NULL AND k.not_before IS NOT NULL;
    END IF;
    -- Whatever the clock said then, it was before now.  A list that was begun before now says nothing of what is announced from now on.
    UPDATE intents i SET announced_at = least(i.announced_at, v_now), unknown_at = least(i.unknown_at, v_now) WHERE i.announced_at > v_now OR i.unknown_at > v_now;
    UPDATE looks k SET started_at = v_now WHERE k.done_at IS NULL AND k.started_at > v_now;
    -- When it is not known by how much the clock was set back: a job waits for an hour at most, for a limit a day, like the day itself.
    UPDATE jobs j SET next_attempt_at = v_now
     WHERE j.state = 'waiting' AND j.next_attempt_at > v_now + CASE WHEN j.class = 'limit' THEN interval '25 hours' ELSE interval '65 minutes' END AND j.next_attempt_at < 'infinity';
    UPDATE budgets b
       SET blocked_until = CASE WHEN b.blocked_until <= v_now + interval '25 hours' THEN b.blocked_until END,
           reset_at = CASE WHEN b.reset_at > v_now + interval '25 hours' THEN v_now + interval '1 day' ELSE b.reset_at END
     WHERE b.side = 'pipedrive' AND (b.blocked_until > v_now + interval '25 hours' OR b.reset_at > v_now + interval '25 hours');
    UPDATE looks k SET not_before = v_now WHERE k.done_at IS NULL AND k.not_before > v_now + interval '20 minutes';
END
$$;
COMMENT ON FUNCTION _delivery_times_ahead(bigint) IS 'Jobs, limits and lists that wait for a time that lies too far ahead because the clock was set back: they go on. Called when the worker starts, and with the milliseconds when it sees the clock being set back (negative: ahead).';

CREATE FUNCTION _delivery_start() RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_unknown  integer;
    v_again    integer;
BEGIN
    PERFORM _note_promotion();
    PERFORM _delivery_times_ahead();
    -- A former life announced these and did not book an answer: creates are looked up, the rest is worked out anew.
    UPDATE intents SET state = 'unknown', unknown_at = clock_timestamp() WHERE is_create AND state = 'announced';
    GET DIAGNOSTICS v_unknown = ROW_COUNT;
    PERFORM _doubt(array_agg(i.id)) FROM intents i WHERE NOT i.is_create HAVING count(*) > 0;
    DELETE FROM intents WHERE NOT is_create;
    UPDATE links l SET lines_unread = true
      FROM intents i
     WHERE i.operation = 'line_add' AND l.kind = 'deal' AND l.division = i.division AND l.exact_id = i.exact_id;
    -- Lines of a deal that was itself only announced are read once the deal is found.
    DELETE FROM intents i USING links l
     WHERE i.operation = 'line_add' AND l.kind = 'deal' AND l.division = i.division AND l.exact_id = i.exact_id;
    UPDATE jobs j SET state = CASE WHEN EXISTS (SELECT FROM intents i WHERE i.job_id = j.id) THEN 'unknown' ELSE 'ready' END,
           next_attempt_at = NULL, lease_until = NULL, updated_at = clock_timestamp()
     WHERE j.state IN ('sending', 'unknown')
        OR (j.state = 'waiting' AND j.next_attempt_at = 'infinity'
            -- These wait for a list that is read in this life, too.
            AND NOT EXISTS (SELECT FROM links g WHERE g.kind = j.kind AND g.division = j.division AND g.exact_id = j.exact_id AND g.gone_at IS NOT NULL));
    GET DIAGNOSTICS v_again = ROW_COUNT;
    UPDATE budgets SET booked = 0 WHERE side = 'pipedrive' AND booked <> 0;
    -- What links are verified against after a restore goes on where it was.
    DELETE FROM looks WHERE done_at IS NULL AND reason NOT IN ('verify', 'again');
    PERFORM _ask_looks();
    IF v_unknown > 0 THEN
        RETURN format('%s announced calls of a former run have no booked answer and are looked up first; %s jobs go on', v_unknown, v_again);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _delivery_start() IS 'Settles what a former worker left behind; says so when creates have to be looked up.';

CREATE FUNCTION _delivery_gate(OUT may_send boolean, OUT reason text, OUT wait_ms bigint)
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v record;
BEGIN
    may_send := false; wait_ms := -1;
    IF is_paused('sending') THEN
        reason := 'paused';
    ELSIF NOT _instance_ok() THEN
        reason := 'this database is a copy, restored or promoted';
    ELSE
        PERFORM _note_promotion();
        PERFORM _note_fresh_staging();
        SELECT * INTO v FROM _pipedrive_account();
        IF NOT v.ready THEN
            reason := 'not set up';
        ELSE
            -- Read, not locked: a turn that finds nothing to do writes nothing.
            SELECT b.blocked_until, b.blocked_reason INTO v FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'day';
            IF v.blocked_until > clock_timestamp() THEN
                reason := coalesce(v.blocked_reason, 'blocked');
                wait_ms := ceil(extract(epoch FROM v.blocked_until - clock_timestamp()) * 1000)::bigint;
            ELSE
                may_send := true;
                wait_ms := 0;
            END IF;
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION _delivery_gate() IS 'May anything be sent now; if not, why and for how long.';

-- ------------------------------------------------------- where the queue begins
-- Rows that are gone stay in the indexes until no snapshot is older, which may
-- be hours: a search from the beginning passes all of them.  So where it ended
-- is remembered for a moment.  Whether a job is found never depends on that, only
-- how soon, and by seconds.

CREATE FUNCTION _floor(p_what text) RETURNS queue_floors
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$ SELECT f FROM queue_floors f WHERE f.what = p_what AND f.until > clock_timestamp() AND f.until < clock_timestamp() + interval '10 s' $$;
COMMENT ON FUNCTION _floor(text) IS 'Where to begin a search in the queue; NULL = at the beginning.';

CREATE FUNCTION _floor_set(p_what text, p_began timestamptz, p_found boolean, p_lane integer, p_priority bigint, p_id bigint, p_at timestamptz DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_took interval := clock_timestamp() - p_began;
BEGIN
    -- A quick search is simply made again each time: in quiet times nothing is remembered and nothing written.
    IF v_took > interval '4 ms' THEN
        INSERT INTO queue_floors AS f (what, lane, priority, id, at, until)
        VALUES (p_what, p_lane, p_priority, p_id, p_at, clock_timestamp() + CASE WHEN p_found THEN least(20 * v_took, interval '5 s') ELSE interval '5 s' END)
        ON CONFLICT (what) DO UPDATE SET lane = excluded.lane, priority = excluded.priority, id = excluded.id, at = excluded.at, until = excluded.until;
    END IF;
END
$$;
COMMENT ON FUNCTION _floor_set(text, timestamptz, boolean, integer, bigint, bigint, timestamptz) IS 'Remembers where a search from the beginning ended, if that took long, for twenty times as long as it took, so that such searches take a twentieth of the time at most; five seconds when it found nothing.';

CREATE FUNCTION _floor_lower(p_lane integer, p_priority bigint) RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$ UPDATE queue_floors f SET lane = p_lane, priority = p_priority, id = 0 WHERE f.what = 'ready' AND (f.lane, f.priority) >= (p_lane, p_priority) $$;
COMMENT ON FUNCTION _floor_lower(integer, bigint) IS 'A job became ready that goes before all others: the search for ready ones begins there.';

CREATE FUNCTION _job_floor() RETURNS trigger
    LANGUAGE plpgsql SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    IF NEW.state = 'ready' THEN
        PERFORM _floor_lower(NEW.lane, NEW.priority);
    ELSE
        DELETE FROM queue_floors f WHERE f.what = 'waiting' AND f.at > NEW.next_attempt_at;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _job_floor() IS 'A job became ready, or due: no search begins beyond it.  New jobs are told by _want_jobs().';
CREATE TRIGGER job_floor AFTER UPDATE OF state, next_attempt_at ON jobs FOR EACH ROW
    WHEN (NEW.state = 'ready' AND OLD.state <> 'ready' OR NEW.state = 'waiting' AND NEW.next_attempt_at <= clock_timestamp()) EXECUTE FUNCTION _job_floor();

CREATE FUNCTION _ready_jobs(p_limit integer, p_max_lane integer) RETURNS bigint[]
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    -- Keys only: tables that fill and empty fool the statistics.
    SET enable_seqscan = off
    SET jit = off
    AS $$
DECLARE
    v_began  timestamptz := clock_timestamp();
    v_floor  queue_floors := _floor('ready');
    v_jobs   bigint[];
    v_first  jobs;
BEGIN
    v_jobs := ARRAY(SELECT j.id FROM jobs j
                     WHERE j.state = 'ready' AND j.lane <= p_max_lane AND (j.lane, j.priority, j.id) >= (coalesce(v_floor.lane, 0), coalesce(v_floor.priority, '-9223372036854775808'::bigint), coalesce(v_floor.id, 0))
                     ORDER BY j.lane, j.priority, j.id LIMIT p_limit);
    IF v_floor.what IS NULL THEN
        SELECT * INTO v_first FROM jobs j WHERE j.id = v_jobs[1];
        PERFORM _floor_set('ready', v_began, FOUND, coalesce(v_first.lane, p_max_lane + 1), coalesce(v_first.priority, '-9223372036854775808'::bigint), coalesce(v_first.id, 0));
    END IF;
    RETURN v_jobs;
END
$$;
COMMENT ON FUNCTION _ready_jobs(integer, integer) IS 'The ready jobs to claim next, in order, up to a lane.';

CREATE FUNCTION _due_jobs(p_limit integer) RETURNS bigint[]
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    -- Keys only: tables that fill and empty fool the statistics.
    SET enable_seqscan = off
    SET jit = off
    AS $$
DECLARE
    v_began  timestamptz := clock_timestamp();
    v_floor  queue_floors := _floor('waiting');
    v_jobs   bigint[];
BEGIN
    v_jobs := ARRAY(SELECT j.id FROM jobs j
                     WHERE j.state = 'waiting' AND j.next_attempt_at <= v_began AND j.next_attempt_at >= coalesce(v_floor.at, '-infinity')
                     ORDER BY j.next_attempt_at LIMIT p_limit);
    IF v_floor.what IS NULL THEN
        PERFORM _floor_set('waiting', v_began, v_jobs <> '{}', NULL, NULL, NULL, coalesce((SELECT j.next_attempt_at FROM jobs j WHERE j.id = v_jobs[1]), v_began));
    END IF;
    RETURN v_jobs;
END
$$;
COMMENT ON FUNCTION _due_jobs(integer) IS 'Jobs that have waited long enough.';

CREATE FUNCTION _suspect_job() RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_lane  integer := _lane_limit();
    v_jobs  bigint[] := _due_jobs(1000) || _ready_jobs(1, v_lane);
BEGIN
    RETURN (SELECT j.id FROM jobs j WHERE j.id = ANY (v_jobs) AND j.lane <= v_lane ORDER BY j.lane, j.priority, j.id LIMIT 1);
END
$$;
COMMENT ON FUNCTION _suspect_job() IS 'The job that _take_batch(1) claims: when that fails, the one to blame.';

-- -------------------------------------------------------------- signals → jobs

CREATE FUNCTION _want_jobs(p_kind text, p_division integer[], p_id uuid[], p_lane integer[], p_priority bigint[], p_changed boolean DEFAULT true) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    -- Keys only: tables that fill and empty fool the statistics.
    SET enable_seqscan = off
    SET jit = off
    AS $$
BEGIN
    INSERT INTO jobs AS j (kind, division, exact_id, lane, priority)
    SELECT p_kind, x.division, x.id, min(x.lane), min(x.priority)
      FROM unnest(p_division, p_id, p_lane, p_priority) AS x(division, id, lane, priority)
     GROUP BY x.division, x.id
    ON CONFLICT (kind, division, exact_id) DO UPDATE
       SET lane = least(j.lane, excluded.lane),
           priority = CASE WHEN excluded.lane < j.lane THEN excluded.priority WHEN excluded.lane = j.lane THEN least(j.priority, excluded.priority) ELSE j.priority END,
           dirty = j.dirty OR j.state IN ('sending', 'unknown') OR coalesce(j.next_attempt_at = 'infinity', false),
           -- New content is a new chance, but for what a person deleted or archived at Pipedrive: that waits for replay(),
           -- or for reconcile() to see it there again.  What waits for a limit or after a failure keeps waiting.
           state = CASE WHEN j.state = 'dead' AND (NOT p_changed OR EXISTS (SELECT FROM links l WHERE l.kind = j.kind AND l.division = j.division AND l.exact_id = j.exact_id AND (l.gone_at IS NOT NULL OR l.archived_at IS NOT NULL))) THEN 'dead'
                        WHEN j.state IN ('dead', 'blocked') OR j.state = 'waiting' AND coalesce(j.class = 'sums', false) THEN 'ready' ELSE j.state END,
           attempts = CASE WHEN j.state = 'dead' AND p_changed THEN 0 ELSE j.attempts END,
           -- Since when it is dead is told.
           updated_at = CASE WHEN j.state = 'dead' AND NOT p_changed THEN j.updated_at ELSE clock_timestamp() END;
    IF EXISTS (SELECT FROM queue_floors f WHERE f.what = 'ready') THEN
        PERFORM _floor_lower(m.lane, m.priority) FROM (SELECT x.lane, x.priority FROM unnest(p_lane, p_priority) AS x(lane, priority) ORDER BY x.lane, x.priority LIMIT 1) m;
    END IF;
END
    $$;
COMMENT ON FUNCTION _want_jobs(text, integer[], uuid[], integer[], bigint[], boolean) IS 'Queues objects to be looked at, one row each; the better lane wins. Not changed but needed by another: a dead letter stays one.';

CREATE FUNCTION _want_deals(p_division integer[], p_id uuid[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    -- Keys only: tables that fill and empty fool the statistics.
    SET enable_seqscan = off
    SET jit = off
    AS $$
DECLARE
    v_d  integer[];
    v_i  uuid[];
    v_l  integer[];
    v_p  bigint[];
    v_most  integer := setting('live_orders_most')::integer;
BEGIN
    SELECT array_agg(x.division), array_agg(x.id), array_agg(x.lane), array_agg(x.priority) INTO v_d, v_i, v_l, v_p
      FROM (SELECT DISTINCT k.division, k.id, w.lane, w.priority
              FROM unnest(p_division, p_id) AS k(division, id)
             CROSS JOIN LATERAL (SELECT * FROM deal_lanes x WHERE x.division = k.division AND x.exact_id = k.id OFFSET 0) w
             WHERE w.in_window OR EXISTS (SELECT FROM links l WHERE l.kind = 'deal' AND l.division = k.division AND l.exact_id = k.id)) x;
    IF v_d IS NULL THEN
        RETURN;
    END IF;
    -- So many at once are no orders that come in: all were changed at Exact.  They must not use what is kept for those that do.
    IF (SELECT count(*) FROM unnest(v_l) AS l(lane) WHERE l.lane = 1) + (SELECT count(*) FROM (SELECT FROM jobs j WHERE j.state = 'ready' AND j.lane <= 1 AND j.kind = 'deal' LIMIT v_most) x) > v_most THEN
        SELECT array_agg(CASE WHEN x.lane = 1 AND o.order_date < today(x.division) - 7 THEN 2 ELSE x.lane END ORDER BY x.n) INTO v_l
          FROM unnest(v_d, v_i, v_l) WITH ORDINALITY AS x(division, id, lane, n)
         CROSS JOIN LATERAL (SELECT y.order_date FROM exact_sales_orders y WHERE y.division = x.division AND y.id = x.id OFFSET 0) o;
    END IF;
    PERFORM _want_jobs('deal', v_d, v_i, v_l, v_p);
    -- What they need and has no link yet, just before them in the same lane.
    PERFORM _want_jobs('organization', array_agg(o.division), array_agg(o.ordered_by), array_agg(k.lane), array_agg(k.priority - 3), false)
       FROM unnest(v_d, v_i, v_l, v_p) AS k(division, id, lane, priority)
       JOIN exact_sales_orders o ON o.division = k.division AND o.id = k.id
      WHERE o.ordered_by IS NOT NULL
        AND NOT EXISTS (SELECT FROM links l WHERE l.kind = 'organization' AND l.division = o.division AND l.exact_id = o.ordered_by)
     HAVING count(*) > 0;
    PERFORM _want_jobs('product', array_agg(x.division), array_agg(x.item), array_agg(x.lane), array_agg(x.priority), false)
       FROM (SELECT s.division, coalesce(s.item, '00000000-0000-0000-0000-000000000000') AS item, min(k.lane) AS lane, min(k.priority - 2) AS priority
               FROM unnest(v_d, v_i, v_l, v_p) AS k(division, id, lane, priority)
               JOIN exact_sales_order_lines s ON s.division = k.division AND s.order_id = k.id AND s.deleted_at IS NULL
              GROUP BY 1, 2) x
      WHERE NOT EXISTS (SELECT FROM links l WHERE l.kind = 'product' AND l.division = x.division AND l.exact_id = x.item)
     HAVING count(*) > 0;
END
$$;
COMMENT ON FUNCTION _want_deals(integer[], uuid[]) IS 'Queues deals with the organizations and products they need.';

CREATE FUNCTION _fold_signals(p_limit integer) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_signals  job_signals[];
    v_signal   job_signals;
    v_d        integer[];
    v_i        uuid[];
    v_began    timestamptz := clock_timestamp();
    v_floor    queue_floors := _floor('signals');
    v_ids      bigint[];
    v_gone     bigint[];
BEGIN
    v_ids := ARRAY(SELECT x.id FROM job_signals x WHERE x.id > coalesce(v_floor.id, 0) ORDER BY x.id LIMIT p_limit);
    IF v_floor.what IS NULL THEN
        -- What commits late with a lower number is found by the next search from the beginning.
        PERFORM _floor_set('signals', v_began, v_ids <> '{}', NULL, NULL, coalesce(v_ids[1] - 1, pg_sequence_last_value('job_signals_id_seq'), 0));
    END IF;
    IF v_ids = '{}' THEN
        RETURN 0;
    END IF;
    WITH taken AS (
        DELETE FROM job_signals s WHERE s.id = ANY (v_ids) RETURNING s.*)
    SELECT array_agg(t::job_signals ORDER BY t.id) INTO v_signals FROM taken t;
    IF v_signals IS NULL THEN
        RETURN 0;
    END IF;

    FOR v_signal IN SELECT * FROM unnest(v_signals) s WHERE s.kind IN ('replay') LOOP
        WITH again AS (
            -- What the sync itself tries again gets one attempt, not a new row of them.
            UPDATE jobs j SET state = 'ready', attempts = CASE WHEN v_signal.argument ? 'by' THEN j.attempts ELSE 0 END,
                   class = NULL, reason = NULL, error = NULL, next_attempt_at = NULL, updated_at = clock_timestamp()
             WHERE j.state IN ('dead', 'waiting') AND j.next_attempt_at IS DISTINCT FROM 'infinity'
               AND (v_signal.argument->>'job' IS NULL OR j.id = (v_signal.argument->>'job')::bigint)
               AND (v_signal.argument->>'kind' IS NULL OR j.kind = v_signal.argument->>'kind')
               AND (v_signal.argument->>'class' IS NULL OR j.class = v_signal.argument->>'class')
               AND (v_signal.argument->>'cause' IS NULL OR (_dead_cause(j.reason)).cause = v_signal.argument->>'cause')
               AND (v_signal.argument->>'by' IS NULL OR j.state = 'dead' AND v_signal.argument->>'by' = ANY (string_to_array((_dead_cause(j.reason)).revived_by, ' ')))
               -- What still fails for all must not cost the tokens of all, night after night.
               AND (v_signal.argument->>'by' IS DISTINCT FROM 'nightly' OR j.id IN (
                    SELECT x.id FROM (SELECT d.id, row_number() OVER (PARTITION BY (_dead_cause(d.reason)).cause ORDER BY d.lane, d.priority, d.id) AS n FROM jobs d WHERE d.state = 'dead') x WHERE x.n <= 1000))
            RETURNING j.id, j.kind, j.division, j.exact_id
        ), unarchived AS (
            -- Perhaps a person took it out of the archive; if not, the next refusal says so.
            UPDATE links l SET archived_at = NULL FROM again a
             WHERE l.kind = a.kind AND l.division = a.division AND l.exact_id = a.exact_id AND l.archived_at IS NOT NULL)
        SELECT array_agg(a.id) INTO v_gone
          FROM again a JOIN links l ON l.kind = a.kind AND l.division = a.division AND l.exact_id = a.exact_id AND l.gone_at IS NOT NULL;
        -- What is gone at Pipedrive is made anew, unless a person took it out of the bin meanwhile.
        IF v_gone IS NOT NULL THEN
            UPDATE jobs j SET state = 'waiting', next_attempt_at = 'infinity', reason = 'whether it is still gone at Pipedrive is looked up first' WHERE j.id = ANY (v_gone);
            INSERT INTO looks (what, reason, deal_ids)
            SELECT x.kind || 's', 'again', array_agg(x.pipedrive_id)
              FROM (SELECT y.kind, y.pipedrive_id, row_number() OVER (PARTITION BY y.kind ORDER BY y.pipedrive_id) AS n
                      FROM (SELECT DISTINCT l.kind, l.pipedrive_id FROM jobs j JOIN links l ON l.kind = j.kind AND l.division = j.division AND l.exact_id = j.exact_id WHERE j.id = ANY (v_gone)) y) x
             GROUP BY x.kind, (x.n - 1) / 100;
        END IF;
    END LOOP;

    IF EXISTS (SELECT FROM unnest(v_signals) s WHERE s.kind = 'replay' AND s.argument->>'by' = 'nightly') THEN
        -- Nobody else would wake who waits for a piece that is there, or that is queued nowhere: worked out anew.
        UPDATE jobs j SET state = 'ready', reason = NULL, updated_at = clock_timestamp()
         WHERE j.state = 'blocked'
           AND (NOT EXISTS (SELECT FROM job_needs n WHERE n.job_id = j.id)
                OR EXISTS (SELECT FROM job_needs n
                            WHERE n.job_id = j.id
                              AND (NOT EXISTS (SELECT FROM jobs x WHERE x.kind = n.kind AND x.division = n.division AND x.exact_id = n.exact_id)
                                   OR EXISTS (SELECT FROM links l WHERE l.kind = n.kind AND l.division = n.division AND l.exact_id = n.exact_id AND l.gone_at IS NULL))));
    END IF;

    IF EXISTS (SELECT FROM unnest(v_signals) s WHERE s.argument ? 'drift') THEN
        PERFORM _take_drift(v_signals);
    END IF;

    UPDATE links l SET sent = '{}', lines_unread = (l.kind = 'deal')
      FROM unnest(v_signals) s
     WHERE s.argument->>'whole' = 'true' AND NOT l.follower AND l.kind = s.kind AND l.division = s.division AND l.exact_id = s.exact_id;

    IF EXISTS (SELECT FROM unnest(v_signals) s WHERE s.kind = 'compare') THEN
        -- A dump brings the links and no jobs: what was gone then waits for a person as before.
        INSERT INTO jobs (kind, division, exact_id, lane, priority, state, class, reason)
        SELECT l.kind, l.division, l.exact_id, 4, 0, 'dead', 'ours', _plain_reason('gone', NULL, NULL, NULL) FROM links l WHERE l.gone_at IS NOT NULL
        ON CONFLICT (kind, division, exact_id) DO NOTHING;
    END IF;
    IF EXISTS (SELECT FROM unnest(v_signals) s WHERE s.kind IN ('all_deals', 'compare')) THEN
        SELECT array_agg(o.division), array_agg(o.id) INTO v_d, v_i FROM exact_sales_orders o;
    ELSE
        SELECT array_agg(x.division), array_agg(x.exact_id) INTO v_d, v_i
          FROM (SELECT DISTINCT s.division, s.exact_id FROM unnest(v_signals) s WHERE s.kind = 'deal') x;
    END IF;
    IF v_d IS NOT NULL THEN
        PERFORM _want_deals(v_d, v_i);
    END IF;

    -- Organizations: what is linked (a change must follow) or waited for.  Others come with their first order.
    PERFORM _want_jobs('organization', array_agg(x.division), array_agg(x.exact_id), array_agg(2), array_agg(0::bigint))
       FROM (SELECT s.division, s.exact_id FROM unnest(v_signals) s WHERE s.kind = 'organization'
             UNION SELECT l.division, l.exact_id FROM links l
              WHERE l.kind = 'organization' AND EXISTS (SELECT FROM unnest(v_signals) s WHERE s.kind IN ('all_organizations', 'compare'))) x
      WHERE EXISTS (SELECT FROM links l WHERE l.kind = 'organization' AND l.division = x.division AND l.exact_id = x.exact_id)
         OR EXISTS (SELECT FROM job_needs n WHERE n.kind = 'organization' AND n.division = x.division AND n.exact_id = x.exact_id)
         OR EXISTS (SELECT FROM jobs j WHERE j.kind = 'organization' AND j.division = x.division AND j.exact_id = x.exact_id)
     HAVING count(*) > 0;
    -- Products: what is linked, and every item for sale unless only ordered ones are wanted.
    PERFORM _want_jobs('product', array_agg(x.division), array_agg(x.exact_id), array_agg(4), array_agg(0::bigint))
       FROM (SELECT s.division, s.exact_id FROM unnest(v_signals) s WHERE s.kind = 'product'
             UNION SELECT l.division, l.exact_id FROM links l
              WHERE l.kind = 'product' AND EXISTS (SELECT FROM unnest(v_signals) s WHERE s.kind IN ('all_products', 'compare'))) x
      WHERE EXISTS (SELECT FROM links l WHERE l.kind = 'product' AND l.division = x.division AND l.exact_id = x.exact_id)
         OR EXISTS (SELECT FROM job_needs n WHERE n.kind = 'product' AND n.division = x.division AND n.exact_id = x.exact_id)
         OR EXISTS (SELECT FROM jobs j WHERE j.kind = 'product' AND j.division = x.division AND j.exact_id = x.exact_id)
         OR (SELECT setting('products')) = 'all'
            AND (SELECT w.for_sale FROM (SELECT * FROM wanted_products y WHERE y.division = x.division AND y.exact_id = x.exact_id OFFSET 0) w)
     HAVING count(*) > 0;
    IF EXISTS (SELECT FROM unnest(v_signals) s WHERE s.kind IN ('groups', 'compare')) THEN
        PERFORM _want_jobs('groups', ARRAY[0], ARRAY['00000000-0000-0000-0000-000000000000'::uuid], ARRAY[0], ARRAY[0::bigint]);
    END IF;
    RETURN cardinality(v_signals);
END
$$;
COMMENT ON FUNCTION _fold_signals(integer) IS 'Turns signals into jobs, many to one; returns how many were folded.';

-- ---------------------------------------------------------- jobs → announced calls

CREATE FUNCTION _ask_look(p_what text, p_reason text, p_since timestamptz, p_deals bigint[] DEFAULT NULL, p_not_before timestamptz DEFAULT NULL) RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    INSERT INTO looks (what, reason, since, deal_ids, not_before)
    SELECT p_what, p_reason, p_since, p_deals, p_not_before
     WHERE p_deals IS NOT NULL OR NOT EXISTS (SELECT FROM looks k WHERE k.what = p_what AND k.done_at IS NULL AND k.cursor IS NULL AND k.rows = 0 AND (k.since IS NULL OR k.since <= p_since)
                                                 AND (p_not_before IS NULL OR coalesce(k.not_before, k.started_at) >= p_not_before))
    $$;
COMMENT ON FUNCTION _ask_look(text, text, timestamptz, bigint[], timestamptz) IS 'Asks for a list of Pipedrive to be read, unless one that is not begun yet covers it.';

CREATE FUNCTION _ask_looks() RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    -- Clocks differ, and ours may jump: as old as the oldest announcement is by either clock, and five minutes more.
    -- Lists lag: not before what was made last stands in them.
    SELECT _ask_look(CASE i.kind WHEN 'organization' THEN 'organizations' WHEN 'product' THEN 'products' WHEN 'deal' THEN 'deals' ELSE 'options' END,
                     'unknown', min(least(i.announced_at, i.server_time)) - interval '5 minutes', NULL,
                     CASE WHEN i.kind <> 'groups' THEN max(i.unknown_at) + make_interval(secs => setting('list_lag')::integer) END)
      FROM intents i WHERE i.state = 'unknown' AND i.operation IN ('create', 'options_add') GROUP BY i.kind;
    SELECT _ask_look('discounts', 'unknown', NULL, ARRAY[l.pipedrive_id])
      FROM intents i JOIN links l ON l.kind = 'deal' AND l.division = i.division AND l.exact_id = i.exact_id
     WHERE i.state = 'unknown' AND i.operation = 'discount_add'
       AND NOT EXISTS (SELECT FROM looks k WHERE k.what = 'discounts' AND k.done_at IS NULL AND k.deal_ids = ARRAY[l.pipedrive_id])
    $$;
COMMENT ON FUNCTION _ask_looks() IS 'Asks for the lists that settle creates of unknown outcome: one list for many.';

CREATE FUNCTION _scan_state(p_kind text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN max(k.done_at) IS NULL THEN 'never' WHEN max(k.done_at) < pg_postmaster_start_time() THEN 'stale' ELSE 'fresh' END
      FROM looks k
     WHERE k.what = p_kind || 's' AND k.reason IN ('scan', 'start', 'verify') AND k.done_at IS NOT NULL $$;
COMMENT ON FUNCTION _scan_state(text) IS 'Has what is at Pipedrive been looked through since the server started: never, stale or fresh.';

CREATE FUNCTION _verifying() RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$ SELECT EXISTS (SELECT FROM looks k WHERE k.done_at IS NULL AND k.reason = 'verify') OR EXISTS (SELECT FROM instance i WHERE i.stale_since IS NOT NULL) $$;
COMMENT ON FUNCTION _verifying() IS 'After a restore: are the links still to be verified against Pipedrive, or is staging to be read again from Exact? Then nothing is sent yet.';

CREATE FUNCTION _lane_limit() RETURNS integer
    LANGUAGE sql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN d.available <= 0 THEN -1
                WHEN d.available > d.reserve THEN CASE WHEN is_paused('history') THEN 2 ELSE 4 END
                WHEN d.available > d.reserve / 2 THEN 2 ELSE 1 END
      FROM (SELECT x.available, x.day_limit * setting('live_reserve_percent')::bigint / 100 AS reserve FROM _pipedrive_day() x) d $$;
COMMENT ON FUNCTION _lane_limit() IS 'The last lane that may be sent with the tokens that are left: live orders keep a reserve (setting live_reserve_percent), open orders half of it.';

CREATE FUNCTION _take_batch(p_jobs integer) RETURNS TABLE (call_id bigint, job_id bigint, method text, path text, body text, tokens integer, is_create boolean)
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    -- Keys only: tables that fill and empty fool the statistics.
    SET enable_seqscan = off
    SET jit = off
    AS $$
DECLARE
    v_now       timestamptz := clock_timestamp();
    v_day       record;
    v_max_lane  integer;
    v_reserve   bigint;
    v_jobs      jobs[];
    v_kind      text;
    v_d         integer[];
    v_i         uuid[];
    v_ids       bigint[];
    v_first     bigint;
    v_scan      text;
    v_drop      bigint[];
    v_deals     bigint[];
    v_sum       bigint;
    v_heard     timestamptz;
BEGIN
    -- A turn that finds nothing to do writes nothing, nor waits for the disk.
    v_ids := _due_jobs(1000);
    IF v_ids = '{}' AND _ready_jobs(1, 9) = '{}' THEN
        RETURN;
    END IF;
    -- What the links say is not trusted until they have been verified.
    IF _verifying() THEN
        RETURN;
    END IF;
    SELECT * INTO v_day FROM _pipedrive_day();
    v_heard := (SELECT b.server_time FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'day');
    v_max_lane := _lane_limit();
    IF v_max_lane < 0 THEN
        RETURN;
    END IF;

    UPDATE jobs j SET state = 'ready', next_attempt_at = NULL, updated_at = v_now WHERE j.id = ANY (v_ids);

    v_ids := _ready_jobs(p_jobs, v_max_lane);
    WITH claimed AS (
        UPDATE jobs j SET state = 'sending', attempts = j.attempts + 1, dirty = false, lease_until = v_now + interval '10 minutes', updated_at = v_now
         WHERE j.id = ANY (v_ids) RETURNING j.*)
    SELECT array_agg(c::jobs ORDER BY c.lane, c.priority, c.id) INTO v_jobs FROM claimed c;
    IF v_jobs IS NULL THEN
        RETURN;
    END IF;

    -- Products get their group's option with the first call: options go first, alone.
    IF EXISTS (SELECT FROM jobs j WHERE j.kind = 'groups' AND j.division = 0 AND j.exact_id = '00000000-0000-0000-0000-000000000000' AND j.state IN ('sending', 'unknown')) THEN
        SELECT array_agg(j.id) INTO v_drop FROM unnest(v_jobs) j WHERE j.kind IN ('product', 'deal');
        UPDATE jobs j SET state = 'ready', attempts = j.attempts - 1, lease_until = NULL WHERE j.id = ANY (v_drop);
        SELECT array_agg(j) INTO v_jobs FROM unnest(v_jobs) j WHERE j.kind NOT IN ('product', 'deal');
    END IF;

    v_first := coalesce(pg_sequence_last_value('intents_id_seq'), 0);
    FOREACH v_kind IN ARRAY ARRAY['groups', 'organization', 'product', 'deal'] LOOP
        SELECT array_agg(j.division ORDER BY n), array_agg(j.exact_id ORDER BY n), array_agg(j.id ORDER BY n) INTO v_d, v_i, v_ids
          FROM unnest(v_jobs) WITH ORDINALITY AS j(id, kind, division, exact_id, lane, priority, state, dirty, attempts, next_attempt_at, lease_until, class, reason, error, created_at, updated_at, n)
         WHERE j.kind = v_kind;
        CONTINUE WHEN v_ids IS NULL;

        IF v_kind = 'deal' THEN
            -- Lines that are not known are read first, a hundred deals a list.
            SELECT array_agg(x.id), array_agg(l.pipedrive_id) INTO v_drop, v_deals
              FROM unnest(v_ids, v_d, v_i) AS x(id, division, exact_id)
              JOIN links l ON l.kind = 'deal' AND l.division = x.division AND l.exact_id = x.exact_id AND l.lines_unread AND l.gone_at IS NULL AND l.archived_at IS NULL AND NOT l.follower;
            IF v_drop IS NOT NULL THEN
                INSERT INTO looks (what, reason, deal_ids)
                SELECT 'lines', 'readback', array_agg(d.deal) FROM unnest(v_deals) WITH ORDINALITY AS d(deal, n)
                 WHERE NOT EXISTS (SELECT FROM looks k WHERE (k.what = 'lines' OR k.what = 'discounts' AND k.reason = 'readback') AND k.done_at IS NULL AND d.deal = ANY (k.deal_ids))
                 GROUP BY (d.n - 1) / 100;
                UPDATE jobs j SET state = 'waiting', next_attempt_at = 'infinity', attempts = j.attempts - 1, reason = 'its lines at Pipedrive are read first', lease_until = NULL WHERE j.id = ANY (v_drop);
            END IF;
            -- An order that does not add up is awaited once more per header Timestamp, then sent as it is.
            WITH odd AS MATERIALIZED (
                SELECT x.id, x.division, x.exact_id, fresh.timestamp
                  FROM unnest(v_ids, v_d, v_i) AS x(id, division, exact_id)
                 CROSS JOIN LATERAL (SELECT z.timestamp FROM exact_sales_orders z
                                      WHERE z.division = x.division AND z.id = x.exact_id AND z.timestamp IS NOT NULL AND z.deleted_at IS NULL
                                        AND NOT EXISTS (SELECT FROM awaited_orders w WHERE w.division = z.division AND w.order_id = z.id AND w.timestamp = z.timestamp) OFFSET 0) fresh
                 CROSS JOIN LATERAL (SELECT s.adds_up, s.lines, s.total FROM order_sums s WHERE s.division = x.division AND s.order_id = x.exact_id OFFSET 0) s
                 WHERE NOT s.adds_up AND NOT (s.lines = 0 AND s.total = 0) AND x.id <> ALL (coalesce(v_drop, '{}'))
            ), noted AS (
                INSERT INTO awaited_orders (division, order_id, timestamp) SELECT x.division, x.exact_id, x.timestamp FROM odd x
                ON CONFLICT (division, order_id) DO UPDATE SET timestamp = excluded.timestamp)
            SELECT coalesce(v_drop, '{}') || coalesce(array_agg(x.id), '{}') INTO v_drop FROM odd x;
            UPDATE jobs j SET state = 'waiting', class = 'sums', attempts = j.attempts - 1, lease_until = NULL,
                   next_attempt_at = v_now + interval '6 minutes', reason = 'lines and header do not add up yet: it is read once more'
             WHERE j.id = ANY (v_drop) AND j.state = 'sending';
            SELECT array_agg(x.division), array_agg(x.exact_id), array_agg(x.id) INTO v_d, v_i, v_ids
              FROM unnest(v_ids, v_d, v_i) AS x(id, division, exact_id) WHERE x.id <> ALL (v_drop);
            CONTINUE WHEN v_ids IS NULL;
        END IF;

        INSERT INTO intents (job_id, kind, division, exact_id, operation, method, path, body, old_value, tokens, is_create, line_ids, state, server_time)
        SELECT k.id, c.kind, c.division, c.exact_id, c.operation, coalesce(c.method, 'NEED'), c.path, c.body, c.old_value, c.tokens, c.is_create, c.line_ids, 'announced', v_heard
          FROM _calls_for(v_kind, v_d, v_i) c
          JOIN unnest(v_ids, v_d, v_i) WITH ORDINALITY AS k(id, division, exact_id, n) ON v_kind = 'groups' OR (k.division = c.division AND k.exact_id = c.exact_id)
         ORDER BY k.n, c.step;

        IF v_kind = 'deal' THEN
            -- A missing piece holds back its own deal only, and is queued itself in the deal's lane.
            DELETE FROM job_needs n WHERE n.job_id = ANY (v_ids);
            INSERT INTO job_needs (job_id, kind, division, exact_id)
            SELECT i.job_id, i.path, i.division, i.line_ids[1] FROM intents i WHERE i.id > v_first AND i.operation = 'need'
            ON CONFLICT DO NOTHING;
            PERFORM _want_jobs(n.path, array_agg(n.division), array_agg(n.line_ids[1]), array_agg(j.lane::integer), array_agg(j.priority - 2))
               FROM intents n JOIN jobs j ON j.id = n.job_id
              WHERE n.id > v_first AND n.operation = 'need'
                AND NOT EXISTS (SELECT FROM jobs x WHERE x.kind = n.path AND x.division = n.division AND x.exact_id = n.line_ids[1])
              GROUP BY n.path;
            UPDATE jobs j SET state = 'blocked', attempts = j.attempts - 1, lease_until = NULL, updated_at = v_now,
                   reason = 'waits for ' || (SELECT string_agg(DISTINCT n.path, ' and ') FROM intents n WHERE n.id > v_first AND n.job_id = j.id AND n.operation = 'need')
             WHERE j.id IN (SELECT n.job_id FROM intents n WHERE n.id > v_first AND n.operation = 'need');
            DELETE FROM intents n WHERE n.id > v_first AND n.operation = 'need';
        END IF;

        -- What was seen at Pipedrive before its Exact record was staged is there already.
        IF v_kind <> 'groups' AND EXISTS (SELECT FROM unclaimed_records u WHERE u.kind = v_kind) THEN
            SELECT array_agg(DISTINCT i.job_id) INTO v_drop
              FROM intents i CROSS JOIN LATERAL (SELECT FROM unclaimed_records x WHERE x.kind = i.kind AND x.exact_id = i.exact_id OFFSET 0) u
             WHERE i.id > v_first AND i.kind = v_kind AND i.operation = 'create';
            IF v_drop IS NOT NULL THEN
                PERFORM _claim_records(v_kind, v_drop);
                DELETE FROM intents i WHERE i.job_id = ANY (v_drop) AND i.id > v_first;
                UPDATE jobs j SET state = 'ready', attempts = j.attempts - 1, lease_until = NULL WHERE j.id = ANY (v_drop);
            END IF;
        END IF;

        -- Before the first create of a kind, what is there already is looked through.
        IF v_kind <> 'groups' AND EXISTS (SELECT FROM intents i WHERE i.id > v_first AND i.kind = v_kind AND i.operation = 'create') THEN
            v_scan := _scan_state(v_kind);
            IF v_scan <> 'fresh' OR EXISTS (SELECT FROM intents u WHERE u.state = 'unknown' AND u.kind = v_kind AND u.operation = 'create') THEN
                IF v_scan = 'never' THEN
                    PERFORM _ask_look(v_kind || 's', 'scan', NULL);
                    IF v_kind = 'deal' THEN PERFORM _ask_look('archived_deals', 'scan', NULL); END IF;
                ELSIF v_scan = 'stale' THEN
                    PERFORM _ask_look(v_kind || 's', 'start', (SELECT least(max(l.last_sent), max(v_heard)) - interval '10 minutes' FROM links l WHERE l.kind = v_kind));
                END IF;
                PERFORM _ask_looks();
                SELECT array_agg(DISTINCT i.job_id) INTO v_drop FROM intents i WHERE i.id > v_first AND i.kind = v_kind AND i.operation = 'create';
                DELETE FROM intents i WHERE i.job_id = ANY (v_drop) AND i.id > v_first;
                UPDATE jobs j SET state = 'waiting', next_attempt_at = 'infinity', attempts = j.attempts - 1, lease_until = NULL, reason = 'what is at Pipedrive already is looked through first'
                 WHERE j.id = ANY (v_drop);
            END IF;
        END IF;
        -- History leaves room in the plan's deals for the orders to come.
        IF v_kind = 'deal' AND setting('deal_capacity') IS NOT NULL THEN
            SELECT greatest(0, setting('deal_capacity')::bigint * setting('history_capacity_percent')::integer / 100 - count(*)) INTO v_sum
              FROM links l WHERE l.kind = 'deal' AND l.gone_at IS NULL;
            SELECT array_agg(x.job_id) INTO v_drop
              FROM (SELECT i.job_id, j.lane, row_number() OVER (ORDER BY j.lane, i.id) AS n
                      FROM intents i JOIN jobs j ON j.id = i.job_id WHERE i.id > v_first AND i.kind = 'deal' AND i.operation = 'create') x
             WHERE x.lane = 3 AND x.n > v_sum;
            DELETE FROM intents i WHERE i.job_id = ANY (v_drop) AND i.id > v_first;
            UPDATE jobs j SET state = 'waiting', class = 'capacity', attempts = j.attempts - 1, lease_until = NULL, next_attempt_at = v_now + interval '1 hour',
                   reason = format('history stops at %s percent of the %s deals of the Pipedrive plan; configure history_capacity_percent or deal_capacity', setting('history_capacity_percent'), setting('deal_capacity'))
             WHERE j.id = ANY (v_drop);
        END IF;
        -- The plan's deals are full: creates wait, the rest goes on.
        IF v_kind = 'deal' AND EXISTS (SELECT FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'creates' AND b.blocked_until IS NOT NULL)
           AND EXISTS (SELECT FROM intents i WHERE i.id > v_first AND i.kind = 'deal' AND i.operation = 'create') THEN
            SELECT array_agg(x.job_id) INTO v_drop
              FROM (SELECT i.job_id, row_number() OVER (ORDER BY i.id) AS n FROM intents i WHERE i.id > v_first AND i.kind = 'deal' AND i.operation = 'create') x
             -- When the time is over, one create asks whether there is room; the others wait for what it learns.
             WHERE x.n > 1 OR EXISTS (SELECT FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'creates' AND b.blocked_until > v_now);
            UPDATE budgets b SET blocked_until = v_now + interval '1 minute' WHERE b.side = 'pipedrive' AND b.kind = 'creates' AND b.blocked_until <= v_now;
            DELETE FROM intents i WHERE i.job_id = ANY (v_drop) AND i.id > v_first;
            UPDATE jobs j SET state = 'waiting', class = 'capacity', attempts = j.attempts - 1, lease_until = NULL, reason = 'the deals of the Pipedrive plan are full',
                   next_attempt_at = (SELECT b.blocked_until FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'creates')
             WHERE j.id = ANY (v_drop);
        END IF;
    END LOOP;

    -- What the day cannot pay goes back, from the end, and so does what would eat into the reserve of live orders.
    v_reserve := v_day.day_limit * setting('live_reserve_percent')::bigint / 100;
    SELECT array_agg(x.job_id), max(x.total) INTO v_drop, v_sum
      FROM (SELECT i.job_id, sum(sum(i.tokens)) OVER (ORDER BY min(i.id)) AS total FROM intents i WHERE i.id > v_first GROUP BY i.job_id) x
      JOIN jobs j ON j.id = x.job_id
     WHERE x.total > v_day.available - CASE WHEN j.lane <= 1 THEN 0 WHEN j.lane = 2 THEN v_reserve / 2 ELSE v_reserve END;
    IF v_drop IS NOT NULL THEN
        DELETE FROM intents i WHERE i.id > v_first AND i.job_id = ANY (v_drop);
        UPDATE jobs j SET state = 'waiting', class = 'limit', attempts = j.attempts - 1, lease_until = NULL,
               reason = CASE WHEN j.lane <= 1 THEN 'the tokens of the day are used up' ELSE 'the tokens left today are kept for live orders' END,
               next_attempt_at = (SELECT least(b.reset_at, v_now + interval '5 minutes') FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'day')
         WHERE j.id = ANY (v_drop);
    END IF;

    -- Nothing is sent of what a person deleted there: that is told, and not forgotten.
    UPDATE jobs j SET state = 'dead', class = 'ours', attempts = j.attempts - 1, reason = _plain_reason('gone', NULL, NULL, NULL), lease_until = NULL, updated_at = v_now
     WHERE j.id = ANY (ARRAY(SELECT x.id FROM unnest(v_jobs) x)) AND j.state = 'sending' AND (SELECT true FROM intents i WHERE i.job_id = j.id LIMIT 1) IS NULL
       AND (SELECT l.gone_at FROM links l WHERE l.kind = j.kind AND l.division = j.division AND l.exact_id = j.exact_id) IS NOT NULL;
    -- Nothing to do: the wanted state is what was sent.
    DELETE FROM jobs j
     WHERE j.id = ANY (ARRAY(SELECT x.id FROM unnest(v_jobs) x)) AND j.state = 'sending' AND (SELECT true FROM intents i WHERE i.job_id = j.id LIMIT 1) IS NULL;

    UPDATE budgets b SET booked = b.booked + coalesce((SELECT sum(i.tokens) FROM intents i WHERE i.id > v_first), 0)
     WHERE b.side = 'pipedrive' AND b.kind = 'day';

    RETURN QUERY
    SELECT i.id, i.job_id, i.method, i.path, i.body::text, i.tokens, i.is_create
      FROM intents i WHERE i.id > v_first ORDER BY i.id;
END
$$;
COMMENT ON FUNCTION _take_batch(integer) IS 'Claims jobs, works out their calls, announces them and books the tokens, all in one transaction; returns the calls in the order to make them.';

CREATE FUNCTION _delivery_wait() RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    -- Keys only: tables that fill and empty fool the statistics.
    SET enable_seqscan = off
    SET jit = off
    AS $$
DECLARE
    v_now    timestamptz := clock_timestamp();
    v_ready  bigint[] := _ready_jobs(1, 9);
BEGIN
    IF EXISTS (SELECT FROM job_signals s WHERE s.id > coalesce((_floor('signals')).id, 0))
       OR EXISTS (SELECT FROM looks k WHERE k.done_at IS NULL AND (k.not_before IS NULL OR k.not_before <= v_now))
       OR NOT _verifying() AND EXISTS (SELECT FROM jobs j WHERE j.id = v_ready[1] AND j.lane <= _lane_limit()) THEN
        RETURN 0;
    END IF;
    RETURN coalesce((SELECT greatest(0, ceil(extract(epoch FROM min(d.t) - v_now) * 1000))::bigint
                       FROM (SELECT min(j.next_attempt_at) AS t FROM jobs j
                              WHERE j.state = 'waiting' AND j.next_attempt_at < 'infinity' AND j.next_attempt_at >= coalesce((_floor('waiting')).at, '-infinity')
                             UNION ALL
                             SELECT min(k.not_before) FROM looks k WHERE k.done_at IS NULL
                             UNION ALL
                             SELECT b.reset_at FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'day' AND v_ready <> '{}'
                             UNION ALL
                             -- A search that began later than at the beginning is made again.
                             SELECT f.until FROM queue_floors f WHERE f.until > v_now) d
                     HAVING min(d.t) IS NOT NULL), -1);
END
$$;
COMMENT ON FUNCTION _delivery_wait() IS 'Milliseconds until something is due; -1 = nothing.';
