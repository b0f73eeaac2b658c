/*
 * 85_health.sql
 *		For machines that watch: one line of JSON for /healthz, OpenMetrics text
 *		for /metrics.
 *
 * They say what the view status says, in other words; whoever has no listener
 * can SELECT them.
 */

CREATE FUNCTION counters(OUT name text, OUT label text, OUT bound numeric, OUT value bigint) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'epds_counters';
COMMENT ON FUNCTION counters() IS 'Counts since the server started, for this database: latency (label: side; bound: upper limit in seconds, NULL = all), latency_sum (milliseconds), answers of the listener (label: whom and status).';

CREATE FUNCTION health(OUT ok boolean, OUT text text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_red  jsonb;
BEGIN
    SELECT jsonb_object_agg(s.part, s.detail) INTO v_red FROM _status_rows() s WHERE s.state = 'red';
    ok := v_red IS NULL;
    text := jsonb_build_object('ok', ok, 'database', current_database(), 'red', coalesce(v_red, '{}'), 'at', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))::text || chr(10);
END
$$;
COMMENT ON FUNCTION health() IS 'Is the sync alive: ok is false while any part of status is red; text names the parts, as one line of JSON. GET /healthz of the listener answers 200 or 503 with it.';

CREATE FUNCTION _metric_label(p_text text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT replace(replace(replace(p_text, '\', '\\'), '"', '\"'), chr(10), '\n') $$;
COMMENT ON FUNCTION _metric_label(text) IS 'A label value as OpenMetrics wants it escaped.';

CREATE FUNCTION metrics() RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_now   timestamptz := clock_timestamp();
    v_text  text;
BEGIN
    -- A family is one block: its type and meaning, then its samples (OpenMetrics 1.0).  The listener waits for this:
    -- status is worked out once, and dead letters are counted where they lie, not through their view.
    WITH status AS MATERIALIZED (
        SELECT * FROM _status_rows()
    ), family(n, name, type, unit, help) AS (VALUES
        (1, 'part_state', 'gauge', NULL, 'State of a part as in view status: 0 green, 1 yellow, 2 red.'),
        (2, 'last_success_age_seconds', 'gauge', 'seconds', 'Time since the last success of a part.'),
        (3, 'jobs', 'gauge', NULL, 'Objects in the outbound queue.'),
        (4, 'dead_letters', 'gauge', NULL, 'Records that need a person.'),
        (5, 'budget_remaining', 'gauge', NULL, 'What a service still allows.'),
        (6, 'budget_limit', 'gauge', NULL, 'What a service allows in all.'),
        (7, 'token_expiry_seconds', 'gauge', 'seconds', 'Time until the access token of Exact ends; negative: it has ended.'),
        (8, 'hints', 'gauge', NULL, 'Notifications that are still to be followed.'),
        (9, 'webhook_requests', 'counter', NULL, 'Requests that the listener answered since the server started.'),
        (10, 'api_latency_seconds', 'histogram', 'seconds', 'Time until the answer of a service was complete.')
    ), sample(n, ordinal, suffix, labels, value) AS (
        SELECT 1, 0::numeric, '', format('part="%s"', _metric_label(s.part)), CASE s.state WHEN 'green' THEN 0 WHEN 'yellow' THEN 1 ELSE 2 END::numeric FROM status s
        UNION ALL
        SELECT 2, 0, '', format('part="%s"', _metric_label(s.part)), round(extract(epoch FROM v_now - s.last_success), 3) FROM status s WHERE s.last_success IS NOT NULL
        UNION ALL
        SELECT 3, 0, '', format('state="%s",kind="%s"', j.state, j.kind), count(*) FROM jobs j GROUP BY j.state, j.kind
        UNION ALL
        -- None is a 0, so that the line begins before the first and goes back after the last.
        SELECT 4, 0, '', format('class="%s"', _metric_label(coalesce(d.class, 'none'))), sum(d.n)
          FROM (SELECT unnest(ARRAY['ours', 'theirs', 'capacity', 'auth']) AS class, 0 AS n
                UNION ALL SELECT j.class, 1 FROM jobs j WHERE j.state = 'dead' OR j.state = 'waiting' AND j.class IN ('capacity', 'auth')
                UNION ALL SELECT 'ours', 1 FROM refused_rows) d GROUP BY d.class
        UNION ALL
        SELECT 5, 0, '', format('side="%s",division="%s",kind="%s"', b.side, b.division, _metric_label(b.kind)), b.remaining FROM budgets b WHERE b.kind NOT LIKE 'errors:%' AND b.remaining IS NOT NULL
        UNION ALL
        SELECT 6, 0, '', format('side="%s",division="%s",kind="%s"', b.side, b.division, _metric_label(b.kind)), b.limit_value FROM budgets b WHERE b.kind NOT LIKE 'errors:%' AND b.limit_value IS NOT NULL
        UNION ALL
        SELECT 7, 0, '', '', round(extract(epoch FROM c.access_expires_at - v_now), 3) FROM exact_consent c WHERE c.access_expires_at IS NOT NULL
        UNION ALL
        SELECT 8, 0, '', format('state="%s"', h.state), (SELECT count(*) FROM webhook_deliveries w WHERE w.state IN ('new', 'waiting') AND w.state = h.state) FROM unnest(ARRAY['new', 'waiting']) AS h(state)
        UNION ALL
        SELECT 9, 0, '_total', format('source="%s",status="%s"', split_part(c.label, ' ', 1), split_part(c.label, ' ', 2)), c.value FROM counters() c WHERE c.name = 'answers'
        UNION ALL
        SELECT 10, coalesce(c.bound, 1000000), '_bucket', format('side="%s",le="%s"', c.label, coalesce(c.bound::text, '+Inf')), c.value FROM counters() c WHERE c.name = 'latency'
        UNION ALL
        SELECT 10, 2000000, '_count', format('side="%s"', c.label), c.value FROM counters() c WHERE c.name = 'latency' AND c.bound IS NULL
        UNION ALL
        SELECT 10, 3000000, '_sum', format('side="%s"', c.label), c.value / 1000.0 FROM counters() c WHERE c.name = 'latency_sum'
    )
    SELECT string_agg(x.block, '' ORDER BY x.n) INTO v_text
      FROM (SELECT f.n, format(E'# TYPE exact_pd_sync_%s %s\n', f.name, f.type)
                   || CASE WHEN f.unit IS NULL THEN '' ELSE format(E'# UNIT exact_pd_sync_%s %s\n', f.name, f.unit) END
                   || format(E'# HELP exact_pd_sync_%s %s\n', f.name, f.help)
                   -- A family without samples is its head alone: format() makes a line even of nothing, and one such line spoils the whole.
                   || coalesce(string_agg(format(E'exact_pd_sync_%s%s%s %s\n', f.name, s.suffix, CASE WHEN s.labels <> '' THEN '{' || s.labels || '}' ELSE '' END, trim_scale(s.value)),
                                          '' ORDER BY substring(s.labels FROM 'side="[a-z]*"'), s.ordinal, s.labels) FILTER (WHERE s.value IS NOT NULL), '') AS block
              FROM family f LEFT JOIN sample s USING (n) GROUP BY f.n, f.name, f.type, f.unit, f.help) x;
    RETURN v_text || E'# EOF\n';
END
$$;
COMMENT ON FUNCTION metrics() IS 'OpenMetrics text: states and ages of the parts, jobs, dead letters, budgets, token, hints, answers of the listener, latencies of both services. GET /metrics of the listener answers with it.';
