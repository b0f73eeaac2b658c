/*
 * 21_runs.sql
 *		What ran, what changed, which calls were made, and what they may cost:
 *		the journals and the budgets (law 6).
 */

CREATE TABLE sync_runs (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    what         text NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at  timestamptz,
    state        text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'ok', 'failed')),
    rows         bigint NOT NULL DEFAULT 0,
    changed      bigint NOT NULL DEFAULT 0,
    refused      bigint NOT NULL DEFAULT 0,
    calls        integer NOT NULL DEFAULT 0,
    error        text,
    pid          integer NOT NULL DEFAULT pg_backend_pid()
);
COMMENT ON TABLE sync_runs IS 'One row per poll, import or set-up. A run with gaps is failed, never ok. Kept for retention_days.';
COMMENT ON COLUMN sync_runs.id IS 'Number of the run.';
COMMENT ON COLUMN sync_runs.what IS 'poll_orders, import_history, setup_pipedrive …';
COMMENT ON COLUMN sync_runs.started_at IS 'Start.';
COMMENT ON COLUMN sync_runs.finished_at IS 'End; NULL while running. A session that died in the middle is noticed, and its run closed, when the next run begins.';
COMMENT ON COLUMN sync_runs.state IS 'running, ok, failed.';
COMMENT ON COLUMN sync_runs.rows IS 'Rows read from Exact.';
COMMENT ON COLUMN sync_runs.changed IS 'Rows whose content was new.';
COMMENT ON COLUMN sync_runs.refused IS 'Rows that could not be staged, see refused_rows.';
COMMENT ON COLUMN sync_runs.calls IS 'API calls made.';
COMMENT ON COLUMN sync_runs.error IS 'Why it failed.';
COMMENT ON COLUMN sync_runs.pid IS 'Backend that ran it.';
CREATE INDEX sync_runs_started ON sync_runs (started_at);
CREATE INDEX sync_runs_what ON sync_runs (what, id);
CREATE INDEX sync_runs_running ON sync_runs (pid) WHERE state = 'running';

CREATE TABLE sync_changes (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind       text NOT NULL,
    division   integer NOT NULL,
    exact_id   uuid NOT NULL,
    operation  text NOT NULL,
    pipedrive_id bigint,
    old_value  jsonb,
    new_value  jsonb,
    tokens     integer NOT NULL DEFAULT 0
);
COMMENT ON TABLE sync_changes IS 'What was changed at Pipedrive: one row per call that was accepted, and per adoption. Kept for retention_days.';
COMMENT ON COLUMN sync_changes.id IS 'Number, in order.';
COMMENT ON COLUMN sync_changes.at IS 'When the answer was booked.';
COMMENT ON COLUMN sync_changes.kind IS 'organization, product, deal or groups.';
COMMENT ON COLUMN sync_changes.division IS 'Exact division.';
COMMENT ON COLUMN sync_changes.exact_id IS 'GUID at Exact.';
COMMENT ON COLUMN sync_changes.operation IS 'create, update, line_add, line_change, line_delete, discount_add …, adopt.';
COMMENT ON COLUMN sync_changes.pipedrive_id IS 'Record at Pipedrive (the deal for lines).';
COMMENT ON COLUMN sync_changes.old_value IS 'Values that were replaced, as far as known.';
COMMENT ON COLUMN sync_changes.new_value IS 'Values that were sent.';
COMMENT ON COLUMN sync_changes.tokens IS 'Price of the call in API tokens.';
CREATE INDEX sync_changes_object ON sync_changes (kind, division, exact_id);
CREATE INDEX sync_changes_at ON sync_changes (at);

CREATE TABLE api_calls (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    side        text NOT NULL CHECK (side IN ('exact', 'pipedrive')),
    division    integer,
    what        text NOT NULL,
    method      text NOT NULL,
    path        text NOT NULL,
    status      integer,
    outcome     text NOT NULL,
    tokens      integer NOT NULL DEFAULT 0,
    ms          integer,
    bytes       bigint,
    error       text,
    request_id  text,
    job_id      bigint,
    exact_id    uuid
);
COMMENT ON TABLE api_calls IS 'Every call to either service, without bodies or secrets. Kept for retention_days.';
COMMENT ON COLUMN api_calls.id IS 'Number.';
COMMENT ON COLUMN api_calls.at IS 'When its answer was booked.';
COMMENT ON COLUMN api_calls.side IS 'exact or pipedrive.';
COMMENT ON COLUMN api_calls.division IS 'Exact division, when it concerns one.';
COMMENT ON COLUMN api_calls.what IS 'Feed, operation, step or probe.';
COMMENT ON COLUMN api_calls.method IS 'HTTP method.';
COMMENT ON COLUMN api_calls.path IS 'Path and query, cut at 500 characters.';
COMMENT ON COLUMN api_calls.status IS 'HTTP status; NULL when there was none.';
COMMENT ON COLUMN api_calls.outcome IS 'ok, or the class of what went wrong.';
COMMENT ON COLUMN api_calls.tokens IS 'Pipedrive tokens booked for it.';
COMMENT ON COLUMN api_calls.ms IS 'Milliseconds.';
COMMENT ON COLUMN api_calls.bytes IS 'Size of the answer.';
COMMENT ON COLUMN api_calls.error IS 'The server''s or the transport''s words.';
COMMENT ON COLUMN api_calls.request_id IS 'x-correlation-id, to quote at support.';
COMMENT ON COLUMN api_calls.job_id IS 'The job it was made for.';
COMMENT ON COLUMN api_calls.exact_id IS 'GUID at Exact of the object it was made for.';
CREATE INDEX api_calls_at ON api_calls (at);
CREATE INDEX api_calls_failed ON api_calls (exact_id) WHERE outcome <> 'ok' AND exact_id IS NOT NULL;

CREATE TABLE budgets (
    side           text NOT NULL CHECK (side IN ('exact', 'pipedrive')),
    division       integer NOT NULL DEFAULT 0,
    kind           text NOT NULL,
    limit_value    integer,
    remaining      integer,
    booked         integer NOT NULL DEFAULT 0,
    spent_today    integer NOT NULL DEFAULT 0,
    reset_at       timestamptz,
    blocked_until  timestamptz,
    blocked_reason text,
    learned_at     timestamptz,
    server_time    timestamptz,
    PRIMARY KEY (side, division, kind)
-- A few rows that every batch of calls changes.
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
COMMENT ON TABLE budgets IS 'Limits of both services as rows: reserved before a call, corrected by its answer, kept over a restart (law 6). Look at view budget.';
COMMENT ON COLUMN budgets.side IS 'exact or pipedrive.';
COMMENT ON COLUMN budgets.division IS 'Exact division; 0 for Pipedrive.';
COMMENT ON COLUMN budgets.kind IS 'exact: minute, day (calls), errors:FEED (refusals this hour). pipedrive: day (tokens), burst (requests per 2 s), creates (capacity).';
COMMENT ON COLUMN budgets.limit_value IS 'The limit as the service''s headers tell it, else the documented one.';
COMMENT ON COLUMN budgets.remaining IS 'What is left until reset_at (for errors: how many happened).';
COMMENT ON COLUMN budgets.booked IS 'Reserved for calls that are under way.';
COMMENT ON COLUMN budgets.spent_today IS 'What we ourselves spent since the last reset.';
COMMENT ON COLUMN budgets.reset_at IS 'When it starts anew.';
COMMENT ON COLUMN budgets.blocked_until IS 'Nothing is sent before.';
COMMENT ON COLUMN budgets.blocked_reason IS 'Why.';
COMMENT ON COLUMN budgets.learned_at IS 'When a header last told us.';
COMMENT ON COLUMN budgets.server_time IS 'Pipedrive''s own clock in its last answer (Date header): lists of what changed since are asked for in its time, whatever our clock does.';

CREATE FUNCTION _exact_times_ahead() RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    -- No reset is further away than its period is long; if it is, the clock was set back since it was noted.
    UPDATE budgets b SET reset_at = clock_timestamp() + p.period
      FROM (VALUES ('minute', interval '1 minute', interval '3 minutes'), ('day', interval '1 day', interval '25 hours'), ('errors', interval '1 hour', interval '65 minutes')) p(kind, period, most)
     WHERE b.side = 'exact' AND p.kind = split_part(b.kind, ':', 1) AND b.reset_at > clock_timestamp() + p.most;
    UPDATE feed_positions f
       SET unavailable_until = CASE WHEN f.unavailable_until <= clock_timestamp() + interval '25 hours' THEN f.unavailable_until END,
           last_success = least(f.last_success, clock_timestamp()), last_page_at = least(f.last_page_at, clock_timestamp())
     WHERE f.unavailable_until > clock_timestamp() + interval '25 hours' OR f.last_success > clock_timestamp() + interval '1 hour' OR f.last_page_at > clock_timestamp() + interval '1 hour' $$;
COMMENT ON FUNCTION _exact_times_ahead() IS 'Limits and feeds whose noted times lie too far ahead, because the clock was set back: they are brought to where they would stand today, so that nothing stops for ever.';

CREATE FUNCTION _run_begin(p_what text) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_id  bigint;
BEGIN
    -- We hold the lock of this kind of run, so none of it runs; others have ended when their process is gone.
    UPDATE sync_runs r
       SET state = 'failed', finished_at = clock_timestamp(),
           error = 'the session ended in the middle (killed, disconnected, or the server stopped); what it had read is stored, and the next run goes on there'
     WHERE r.state = 'running' AND (r.what = p_what OR r.pid = pg_backend_pid() OR NOT EXISTS (SELECT FROM pg_stat_get_activity(r.pid)));
    PERFORM _exact_times_ahead();
    INSERT INTO sync_runs (what) VALUES (p_what) RETURNING id INTO v_id;
    RETURN v_id;
END
$$;
COMMENT ON FUNCTION _run_begin(text) IS 'Opens a row in sync_runs, and closes those of sessions that ended in the middle.';

CREATE FUNCTION _analyze_staging() RETURNS void
    -- As the owner: nobody else may, and the worker's role need not be the owner.
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    -- Tables that were empty a minute ago: the planner must not believe it any longer.
    ANALYZE exact_sales_orders, exact_sales_order_lines, exact_accounts, exact_items, exact_item_prices, job_signals;
END
$$;
COMMENT ON FUNCTION _analyze_staging() IS 'Statistics for the staging tables, after an import has filled them.';

CREATE FUNCTION _run_end(p_run bigint, p_error text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_what text;
BEGIN
    UPDATE sync_runs
       SET finished_at = clock_timestamp(), state = CASE WHEN p_error IS NULL THEN 'ok' ELSE 'failed' END, error = left(p_error, 2000)
     WHERE id = p_run
    RETURNING what INTO v_what;
    IF v_what = 'import_history' AND p_error IS NULL THEN
        -- Until here everything was history, whichever feed brought it.
        UPDATE divisions SET imported_at = clock_timestamp();
        PERFORM _analyze_staging();
    END IF;
END
$$;
COMMENT ON FUNCTION _run_end(bigint, text) IS 'Closes a row in sync_runs; an error text makes it failed.';

-- ------------------------------------------------- Exact's minute, day, errors

CREATE FUNCTION _exact_reserve(p_division integer, p_feed text, p_importing boolean) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_now     timestamptz := clock_timestamp();
    v_minute  budgets;
    v_day     budgets;
    v_errors  budgets;
    v_floor   integer;
BEGIN
    SELECT * INTO v_errors FROM budgets WHERE side = 'exact' AND division = p_division AND kind = 'errors:' || p_feed;
    IF v_errors.reset_at > v_now AND v_errors.remaining >= 5 THEN
        RAISE EXCEPTION 'feed "%" of division % is stopped after % refusals within an hour', p_feed, p_division, v_errors.remaining
            USING ERRCODE = 'configuration_limit_exceeded',
                  DETAIL = coalesce('Last refusal: ' || v_errors.blocked_reason, 'Exact blocks a key after ten refusals an hour; we stop at five.'),
                  HINT = format('Mend the cause (rights of the app, division). It goes on at %s.', to_char(v_errors.reset_at, 'HH24:MI'));
    END IF;

    INSERT INTO budgets (side, division, kind, limit_value, remaining, reset_at)
    VALUES ('exact', p_division, 'minute', 60, 60, date_trunc('minute', v_now) + interval '1 minute'),
           ('exact', p_division, 'day', 5000, 5000, (date_trunc('day', v_now AT TIME ZONE 'UTC') + interval '1 day') AT TIME ZONE 'UTC')
    ON CONFLICT DO NOTHING;

    SELECT * INTO v_day FROM budgets WHERE side = 'exact' AND division = p_division AND kind = 'day' FOR UPDATE;
    SELECT * INTO v_minute FROM budgets WHERE side = 'exact' AND division = p_division AND kind = 'minute' FOR UPDATE;
    IF v_day.reset_at <= v_now THEN
        v_day.remaining := v_day.limit_value;
        UPDATE budgets SET remaining = limit_value, spent_today = 0,
               reset_at = (date_trunc('day', v_now AT TIME ZONE 'UTC') + interval '1 day') AT TIME ZONE 'UTC'
         WHERE side = 'exact' AND division = p_division AND kind = 'day';
    END IF;
    -- An import leaves a tenth of the day to the polls.
    v_floor := CASE WHEN p_importing THEN v_day.limit_value / 10 ELSE 0 END;
    IF v_day.remaining <= v_floor THEN
        RAISE EXCEPTION 'the daily calls of Exact division % are used up', p_division
            USING ERRCODE = 'configuration_limit_exceeded',
                  DETAIL = format('%s of %s calls are left; they start anew at %s.', v_day.remaining, v_day.limit_value, v_day.reset_at),
                  HINT = 'Nothing is lost: the next poll after that goes on where this one stopped.';
    END IF;
    IF v_minute.reset_at <= v_now THEN
        v_minute.remaining := v_minute.limit_value;
        UPDATE budgets SET remaining = limit_value, reset_at = date_trunc('minute', v_now) + interval '1 minute'
         WHERE side = 'exact' AND division = p_division AND kind = 'minute';
        v_minute.reset_at := date_trunc('minute', v_now) + interval '1 minute';
    END IF;
    v_floor := CASE WHEN p_importing THEN v_minute.limit_value / 2 ELSE 0 END;
    IF v_minute.remaining <= v_floor THEN
        -- A second on top: the two clocks need not agree.
        RETURN greatest(1, ceil(extract(epoch FROM v_minute.reset_at - v_now) * 1000))::bigint + 1000;
    END IF;
    UPDATE budgets SET remaining = remaining - 1, spent_today = spent_today + 1
     WHERE side = 'exact' AND division = p_division AND kind IN ('minute', 'day');
    RETURN 0;
END
$$;
COMMENT ON FUNCTION _exact_reserve(integer, text, boolean) IS 'Books one call; returns 0, or how many milliseconds to wait first. ERROR 53400 when the day is used up or the feed is stopped after refusals (exact-online 3).';

CREATE FUNCTION _exact_settle(p_division integer, p_feed text, p_method text, p_path text, p_status integer,
                              p_result text, p_error text, p_headers jsonb, p_ms integer, p_bytes bigint) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_now  timestamptz := clock_timestamp();
    v_reset numeric;
BEGIN
    INSERT INTO api_calls (side, division, what, method, path, status, outcome, ms, bytes, error)
    VALUES ('exact', p_division, p_feed, p_method, left(p_path, 500), nullif(p_status, 0),
            CASE WHEN p_status BETWEEN 200 AND 299 AND p_error IS NULL THEN 'ok' ELSE coalesce(p_result, 'failed') END,
            p_ms, p_bytes, left(p_error, 500));
    UPDATE sync_runs SET calls = calls + 1
     WHERE id = (SELECT r.id FROM sync_runs r WHERE r.pid = pg_backend_pid() AND r.state = 'running' ORDER BY r.id DESC LIMIT 1);

    IF p_headers ? 'x-ratelimit-remaining' AND (p_headers->>'x-ratelimit-remaining') ~ '^[0-9]{1,9}$' THEN
        v_reset := CASE WHEN (p_headers->>'x-ratelimit-reset') ~ '^[0-9]{10,15}$' THEN (p_headers->>'x-ratelimit-reset')::numeric END;
        UPDATE budgets SET remaining = (p_headers->>'x-ratelimit-remaining')::integer,
               limit_value = CASE WHEN (p_headers->>'x-ratelimit-limit') ~ '^[0-9]{1,9}$' THEN (p_headers->>'x-ratelimit-limit')::integer ELSE limit_value END,
               reset_at = CASE WHEN v_reset / 1000 BETWEEN extract(epoch FROM v_now) AND extract(epoch FROM v_now) + 90000
                               THEN to_timestamp(v_reset / 1000) ELSE reset_at END,
               learned_at = v_now
         WHERE side = 'exact' AND division = p_division AND kind = 'day';
    END IF;
    IF p_headers ? 'x-ratelimit-minutely-remaining' AND (p_headers->>'x-ratelimit-minutely-remaining') ~ '^[0-9]{1,9}$' THEN
        v_reset := CASE WHEN (p_headers->>'x-ratelimit-minutely-reset') ~ '^[0-9]{10,15}$' THEN (p_headers->>'x-ratelimit-minutely-reset')::numeric END;
        UPDATE budgets SET remaining = (p_headers->>'x-ratelimit-minutely-remaining')::integer,
               limit_value = CASE WHEN (p_headers->>'x-ratelimit-minutely-limit') ~ '^[0-9]{1,9}$' THEN (p_headers->>'x-ratelimit-minutely-limit')::integer ELSE limit_value END,
               reset_at = CASE WHEN v_reset / 1000 BETWEEN extract(epoch FROM v_now) AND extract(epoch FROM v_now) + 120
                               THEN to_timestamp(v_reset / 1000) ELSE reset_at END,
               learned_at = v_now
         WHERE side = 'exact' AND division = p_division AND kind = 'minute';
    ELSIF p_status = 429 AND NOT (p_headers ? 'x-ratelimit-remaining') THEN
        -- A 429 without a word (exact-online 3): treat the minute as used up.
        UPDATE budgets SET remaining = 0 WHERE side = 'exact' AND division = p_division AND kind = 'minute';
    END IF;

    IF p_status IN (400, 401, 403, 404) THEN
        INSERT INTO budgets AS b (side, division, kind, limit_value, remaining, reset_at, blocked_reason)
        VALUES ('exact', p_division, 'errors:' || p_feed, 5, 1, v_now + interval '1 hour', left(p_error, 300))
        ON CONFLICT (side, division, kind) DO UPDATE
           SET remaining = CASE WHEN b.reset_at <= v_now THEN 1 ELSE b.remaining + 1 END,
               reset_at = CASE WHEN b.reset_at <= v_now THEN v_now + interval '1 hour' ELSE b.reset_at END,
               blocked_reason = left(p_error, 300);
    END IF;
END
$$;
COMMENT ON FUNCTION _exact_settle(integer, text, text, text, integer, text, text, jsonb, integer, bigint) IS 'Books the answer of a call: journal, limits from its headers, refusals of the hour.';

-- ------------------------------------------------------------------ the token

CREATE FUNCTION _token_state(OUT state text, OUT issued_at timestamptz, OUT access_expires_at timestamptz, OUT generation bigint)
    LANGUAGE sql STABLE
    AS $$ SELECT coalesce(max(c.state) FILTER (WHERE c.issued_at IS NOT NULL OR c.state <> 'ok'), 'none'), max(c.issued_at), max(c.access_expires_at), coalesce(max(c.generation), 0)
            FROM exact_pd_sync.exact_consent c $$;
COMMENT ON FUNCTION _token_state() IS 'How the token pair stands: none, ok or auth_required, with its times.';

CREATE FUNCTION _token_wait() RETURNS bigint
    LANGUAGE sql VOLATILE
    -- Further ahead than the longest pause: the clock was set back meanwhile, and nobody waits for that.
    AS $$ SELECT coalesce(max(ceil(extract(epoch FROM c.retry_at - clock_timestamp()) * 1000)) FILTER (WHERE c.retry_at BETWEEN clock_timestamp() AND clock_timestamp() + interval '16 minutes'), 0)::bigint
            FROM exact_pd_sync.exact_consent c $$;
COMMENT ON FUNCTION _token_wait() IS 'Milliseconds until the token endpoint may be asked again after a failure; 0: now.';

CREATE FUNCTION _token_announce() RETURNS void
    LANGUAGE sql VOLATILE
    AS $$ UPDATE exact_pd_sync.exact_consent AS c
             SET failures = c.failures + 1,
                 retry_at = clock_timestamp() + make_interval(secs => least(900, 5 * 2 ^ least(c.failures, 10))) $$;
COMMENT ON FUNCTION _token_announce() IS 'A refresh is about to be asked for: until a pair is stored it counts as failed, and the next one waits 5 s, 10 s … 15 minutes.';

CREATE FUNCTION _token_stored(p_expires_in integer, p_how text) RETURNS void
    LANGUAGE sql VOLATILE
    AS $$ INSERT INTO exact_pd_sync.exact_consent AS c (state, generation, issued_at, access_expires_at)
          VALUES ('ok', 1, clock_timestamp(), clock_timestamp() + make_interval(secs => p_expires_in))
          ON CONFLICT (only_row) DO UPDATE
             SET state = 'ok', generation = c.generation + 1, issued_at = excluded.issued_at, access_expires_at = excluded.access_expires_at,
                 last_error = NULL, refused = NULL, failures = 0, retry_at = NULL;
          -- A person consented anew: what was refused for want of a consent is no reason to stop any longer.
          DELETE FROM exact_pd_sync.budgets b
           WHERE p_how = 'consent' AND b.side = 'exact' AND b.kind LIKE 'errors:%' AND b.blocked_reason LIKE 'HTTP 401%' $$;
COMMENT ON FUNCTION _token_stored(integer, text) IS 'A new token pair was stored in this transaction.';

CREATE FUNCTION _token_failed(p_state text, p_error text, p_refused text DEFAULT NULL) RETURNS void
    LANGUAGE sql VOLATILE
    AS $$ INSERT INTO exact_pd_sync.exact_consent AS c (state, last_error, refused) VALUES (p_state, left(p_error, 500), p_refused)
          ON CONFLICT (only_row) DO UPDATE SET state = excluded.state, last_error = excluded.last_error, refused = excluded.refused $$;
COMMENT ON FUNCTION _token_failed(text, text, text) IS 'The token endpoint refused; state ok when that may pass.';

CREATE FUNCTION _token_too_early() RETURNS void
    LANGUAGE sql VOLATILE
    -- Up to now it was a failure in the books: it is none, but each such question counts as an error at Exact.
    -- Half a minute, one, two, two …: at most six questions until the pair is due, whatever our clock did.
    AS $$ UPDATE exact_pd_sync.exact_consent AS c
             SET issued_at = clock_timestamp() - (0.95 - p.part) * (c.access_expires_at - c.issued_at),
                 access_expires_at = clock_timestamp() + (0.05 + p.part) * (c.access_expires_at - c.issued_at), retry_at = NULL
            FROM (SELECT least(0.2, 0.05 * 2 ^ least(greatest(x.failures - 1, 0), 10)) AS part FROM exact_pd_sync.exact_consent x) p
           WHERE c.state = 'ok' $$;
COMMENT ON FUNCTION _token_too_early() IS 'The service says that the pair in use is younger than we think (a clock was moved): it is placed a little before its time.';

CREATE FUNCTION _token_app_changed() RETURNS void
    LANGUAGE sql VOLATILE
    -- A refresh token that is known to be spent is not sent again.
    AS $$ UPDATE exact_pd_sync.exact_consent AS c
             SET state = CASE WHEN c.issued_at IS NOT NULL AND c.refused IS DISTINCT FROM 'consent' THEN 'ok' ELSE c.state END,
                 failures = 0, retry_at = NULL $$;
COMMENT ON FUNCTION _token_app_changed() IS 'Id, secret or site of the app were set: what was refused because of them is tried again.';

CREATE FUNCTION _token_reserve() RETURNS boolean
    LANGUAGE sql VOLATILE
    AS $$ INSERT INTO exact_pd_sync.exact_consent AS c (state, calls_today) VALUES ('auth_required', 1)
          ON CONFLICT (only_row) DO UPDATE
             SET calls_today = CASE WHEN c.calls_day = (clock_timestamp() AT TIME ZONE 'UTC')::date THEN c.calls_today + 1 ELSE 1 END,
                 calls_day = (clock_timestamp() AT TIME ZONE 'UTC')::date
          RETURNING calls_today <= 200 $$;
COMMENT ON FUNCTION _token_reserve() IS 'Books a token call; false when the 200 of the day are used (exact-online 1.3).';

CREATE FUNCTION _exact_app(OUT client_id text, OUT redirect_uri text, OUT base_url text)
    LANGUAGE sql STABLE
    AS $$ SELECT exact_pd_sync.setting('exact_client_id'), exact_pd_sync.setting('exact_redirect_uri'), exact_pd_sync.setting('exact_base_url') $$;
COMMENT ON FUNCTION _exact_app() IS 'The app as set by set_exact_app(), without its secrets.';
