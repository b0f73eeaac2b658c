/*
 * 62_reconcile.sql
 *		reconcile(): which lists are read, what follows when all of them are, and
 *		the sums of both sides.  C makes the calls that _reconcile_next() names.
 *
 * Each page is judged as it comes and is a transaction of its own; what is kept
 * of a record until the end is a few columns, so that memory is bounded and a
 * run that was cut off goes on at its page.
 */

CREATE TABLE reconcile_steps (
    step        text PRIMARY KEY,
    ordinal     integer NOT NULL,
    run_id      bigint NOT NULL,
    kind        text NOT NULL,
    cursor      text,
    ids         bigint[],
    started_at  timestamptz,
    asked_at    timestamptz,
    done_at     timestamptz,
    calls       integer NOT NULL DEFAULT 0,
    tokens      integer NOT NULL DEFAULT 0,
    restarts    integer NOT NULL DEFAULT 0
);
COMMENT ON TABLE reconcile_steps IS 'How far reconcile() has come; empty when none is under way.';
COMMENT ON COLUMN reconcile_steps.step IS 'A list, or a check of what the lists do not show.';
COMMENT ON COLUMN reconcile_steps.ordinal IS 'Order of the steps.';
COMMENT ON COLUMN reconcile_steps.run_id IS 'Run that began it.';
COMMENT ON COLUMN reconcile_steps.kind IS 'organization, product or deal.';
COMMENT ON COLUMN reconcile_steps.cursor IS 'Next page.';
COMMENT ON COLUMN reconcile_steps.ids IS 'Records that are asked for.';
COMMENT ON COLUMN reconcile_steps.started_at IS 'When its first page was asked for.';
COMMENT ON COLUMN reconcile_steps.asked_at IS 'When its last page was asked for.';
COMMENT ON COLUMN reconcile_steps.done_at IS 'When it was through.';
COMMENT ON COLUMN reconcile_steps.calls IS 'Calls made.';
COMMENT ON COLUMN reconcile_steps.tokens IS 'Tokens spent.';
COMMENT ON COLUMN reconcile_steps.restarts IS 'How often this call of reconcile() began it anew, because its next page was not known any more.';

CREATE TABLE remote_records (
    kind          text NOT NULL,
    pipedrive_id  bigint NOT NULL,
    state         text NOT NULL CHECK (state IN ('live', 'archived', 'deleted', 'absent')),
    exact_id      uuid,
    ours          boolean NOT NULL DEFAULT false,
    org_id        bigint,
    currency      text,
    value         numeric,
    lines         integer,
    our_value     numeric,
    our_lines     integer,
    survivor      bigint,
    asked_at      timestamptz NOT NULL,
    PRIMARY KEY (kind, pipedrive_id)
);
COMMENT ON TABLE remote_records IS 'What reconcile() read at Pipedrive, as far as it is needed until all lists are read. Empty when none is under way.';
COMMENT ON COLUMN remote_records.kind IS 'organization, product or deal.';
COMMENT ON COLUMN remote_records.pipedrive_id IS 'Id at Pipedrive.';
COMMENT ON COLUMN remote_records.state IS 'live, archived, deleted, or absent: asked for and not there.';
COMMENT ON COLUMN remote_records.exact_id IS 'The Exact-ID it carries.';
COMMENT ON COLUMN remote_records.ours IS 'It is linked, and what it carries says that it is ours. Of others nothing is concluded.';
COMMENT ON COLUMN remote_records.org_id IS 'Deals: their organization.';
COMMENT ON COLUMN remote_records.currency IS 'Deals: currency.';
COMMENT ON COLUMN remote_records.value IS 'Deals: value.';
COMMENT ON COLUMN remote_records.lines IS 'Deals: number of lines.';
COMMENT ON COLUMN remote_records.our_value IS 'Deals: what the value should be.';
COMMENT ON COLUMN remote_records.our_lines IS 'Deals: how many lines there should be.';
COMMENT ON COLUMN remote_records.survivor IS 'The record it was merged into.';
COMMENT ON COLUMN remote_records.asked_at IS 'When its page was asked for: what was sent later is newer.';
CREATE INDEX remote_records_exact_id ON remote_records (exact_id) WHERE exact_id IS NOT NULL;

CREATE TABLE reconcile_months (
    division     integer NOT NULL,
    month        date,
    currency     text,
    orders       bigint NOT NULL,
    deals        bigint NOT NULL,
    lines        bigint NOT NULL,
    products     bigint NOT NULL,
    order_value  numeric NOT NULL,
    deal_value   numeric NOT NULL,
    pending      bigint NOT NULL,
    equal        boolean NOT NULL,
    examples     bigint[]
);
COMMENT ON TABLE reconcile_months IS 'Orders that are sent, and the deals they are, per month of the order date, as the last reconcile() found them.';
COMMENT ON COLUMN reconcile_months.division IS 'Exact division.';
COMMENT ON COLUMN reconcile_months.month IS 'First day of the month; NULL = orders without a date.';
COMMENT ON COLUMN reconcile_months.currency IS 'Currency of the orders.';
COMMENT ON COLUMN reconcile_months.orders IS 'Orders of Exact.';
COMMENT ON COLUMN reconcile_months.deals IS 'Those of them that are a deal.';
COMMENT ON COLUMN reconcile_months.lines IS 'Lines their deals should have.';
COMMENT ON COLUMN reconcile_months.products IS 'Lines their deals have.';
COMMENT ON COLUMN reconcile_months.order_value IS 'Their totals without VAT.';
COMMENT ON COLUMN reconcile_months.deal_value IS 'The values of their deals.';
COMMENT ON COLUMN reconcile_months.pending IS 'Orders left out because something of them was being sent.';
COMMENT ON COLUMN reconcile_months.equal IS 'Both sides say the same, order by order.';
COMMENT ON COLUMN reconcile_months.examples IS 'Up to five order numbers that differ.';

CREATE TABLE reconcile_results (
    run_id       bigint PRIMARY KEY,
    started_at   timestamptz NOT NULL,
    finished_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    equal        boolean NOT NULL,
    orders       bigint NOT NULL,
    deals        bigint NOT NULL,
    lines        bigint NOT NULL,
    products     bigint NOT NULL,
    order_value  numeric NOT NULL,
    deal_value   numeric NOT NULL,
    pending      bigint NOT NULL,
    examples     bigint[],
    findings     integer NOT NULL,
    restored     integer NOT NULL,
    not_staged   integer NOT NULL,
    calls        integer NOT NULL,
    tokens       integer NOT NULL,
    summary      text NOT NULL
);
COMMENT ON TABLE reconcile_results IS 'One row per reconcile() that came to its end: equal, or the gap. Kept for retention_days.';
COMMENT ON COLUMN reconcile_results.run_id IS 'Run in sync_runs.';
COMMENT ON COLUMN reconcile_results.started_at IS 'When its first list was asked for.';
COMMENT ON COLUMN reconcile_results.finished_at IS 'End.';
COMMENT ON COLUMN reconcile_results.equal IS 'All months are equal.';
COMMENT ON COLUMN reconcile_results.orders IS 'Orders of Exact that are sent.';
COMMENT ON COLUMN reconcile_results.deals IS 'Those of them that are a deal.';
COMMENT ON COLUMN reconcile_results.lines IS 'Lines their deals should have.';
COMMENT ON COLUMN reconcile_results.products IS 'Lines their deals have.';
COMMENT ON COLUMN reconcile_results.order_value IS 'Their totals without VAT, all currencies added.';
COMMENT ON COLUMN reconcile_results.deal_value IS 'The values of their deals.';
COMMENT ON COLUMN reconcile_results.pending IS 'Orders left out because something of them was being sent.';
COMMENT ON COLUMN reconcile_results.examples IS 'Up to five order numbers that differ.';
COMMENT ON COLUMN reconcile_results.findings IS 'Open findings that need a person (view drift).';
COMMENT ON COLUMN reconcile_results.restored IS 'Findings of this run that are put right.';
COMMENT ON COLUMN reconcile_results.not_staged IS 'Orders that Exact has and that had to be read because staging had not.';
COMMENT ON COLUMN reconcile_results.calls IS 'Calls to Pipedrive, without those that put right.';
COMMENT ON COLUMN reconcile_results.tokens IS 'Their tokens.';
COMMENT ON COLUMN reconcile_results.summary IS 'The same in a sentence.';

CREATE FUNCTION _forget_unresolved() RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    DELETE FROM unresolved_orders;
    -- What the pages that were read had shown is forgotten: they are read again.
    UPDATE feed_positions SET next_url = NULL WHERE feed = 'order_keys' AND next_url IS NOT NULL $$;
COMMENT ON FUNCTION _forget_unresolved() IS 'Forgets which orders staging does not have; the list that says it begins anew.';

CREATE FUNCTION _reconcile_begin() RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_run  bigint;
BEGIN
    IF NOT (SELECT ready FROM _pipedrive_account()) THEN
        RETURN NULL;
    END IF;
    IF _verifying() THEN
        RAISE EXCEPTION 'this database was restored, and what it knows of Pipedrive is still being verified' USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = 'What differs now was sent after the backup, and is no edit by a person.', HINT = 'Call exact_pd_sync.reconcile() again when status no longer says so.';
    END IF;
    -- One whose session died.
    UPDATE sync_runs SET state = 'failed', finished_at = clock_timestamp(), error = 'the session ended' WHERE what = 'reconcile' AND state = 'running';
    v_run := _run_begin('reconcile');
    IF EXISTS (SELECT FROM reconcile_steps s WHERE s.asked_at > clock_timestamp() - interval '6 hours') THEN
        UPDATE reconcile_steps s SET restarts = 0 WHERE s.restarts > 0;
        RETURN v_run;
    END IF;
    DELETE FROM reconcile_steps;
    DELETE FROM remote_records;
    PERFORM _forget_unresolved();
    INSERT INTO reconcile_steps (step, ordinal, run_id, kind) VALUES
        ('exact', 0, v_run, ''), ('organizations', 1, v_run, 'organization'), ('products', 2, v_run, 'product'), ('deals', 3, v_run, 'deal'), ('archived deals', 4, v_run, 'deal');
    RETURN v_run;
END
$$;
COMMENT ON FUNCTION _reconcile_begin() IS 'Begins a run of reconcile(), or goes on with one that was cut off less than six hours ago; NULL while Pipedrive is not set up.';

CREATE FUNCTION _reconcile_feed(p_run bigint) RETURNS TABLE (division integer, feed text)
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
BEGIN
    IF EXISTS (SELECT FROM reconcile_steps s WHERE s.step = 'exact' AND s.done_at IS NULL) AND NOT is_paused('orders') THEN
        RETURN QUERY
        SELECT d.division, f.feed
          FROM divisions d
         CROSS JOIN (VALUES ('order_keys', 1), ('bulk_missing', 2), ('deferred_lines', 3), ('stale_headers', 4)) AS f(feed, n)
         -- Before the past was imported everything would be missing.
         WHERE d.imported_at IS NOT NULL
           AND NOT EXISTS (SELECT FROM feed_positions p WHERE p.division = d.division AND p.feed = f.feed AND p.drained_run = p_run)
         ORDER BY d.division, f.n LIMIT 1;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    UPDATE reconcile_steps s SET started_at = clock_timestamp(), asked_at = clock_timestamp(), done_at = clock_timestamp() WHERE s.step = 'exact' AND s.done_at IS NULL;
END
$$;
COMMENT ON FUNCTION _reconcile_feed(bigint) IS 'The next feed of Exact that reconcile() reads: the keys of all orders, then those that staging does not have or has otherwise. No row when that is done.';

CREATE FUNCTION _reconcile_check(p_run bigint) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_kind  text;
    v_ids   bigint[];
    v_all   bigint;
BEGIN
    FOREACH v_kind IN ARRAY ARRAY['organization', 'product', 'deal'] LOOP
        SELECT array_agg(DISTINCT l.pipedrive_id) FILTER (WHERE m.missing), count(DISTINCT l.pipedrive_id) INTO v_ids, v_all
          FROM links l
         CROSS JOIN LATERAL (SELECT NOT EXISTS (SELECT FROM remote_records r WHERE r.kind = l.kind AND r.pipedrive_id = l.pipedrive_id)
                                    -- What was made since, or just before, may not stand in the list yet.
                                AND l.first_sent + make_interval(secs => setting('list_lag')::integer) < (SELECT min(s.started_at) FROM reconcile_steps s WHERE s.kind = v_kind) AS missing) m
         WHERE l.kind = v_kind AND l.gone_at IS NULL;
        IF cardinality(v_ids) > greatest(20, v_all * setting('gone_percent')::integer / 100) THEN
            RAISE EXCEPTION '% of % %s are not in the lists of Pipedrive any more', cardinality(v_ids), v_all, v_kind
                USING ERRCODE = 'fdw_error', DETAIL = 'Another company, or a user who may see less? Nothing is concluded from this.',
                      HINT = 'If they were deleted on purpose: SELECT exact_pd_sync.configure(''gone_percent'', ''100''), and reconcile() once more.';
        END IF;
        -- A hundred in one list for ten tokens, or one by one for one token each.
        INSERT INTO reconcile_steps (step, ordinal, run_id, kind, ids)
        SELECT format('check %s %s', v_kind, min(x.id)), 10, p_run, v_kind, array_agg(x.id)
          FROM unnest(v_ids) WITH ORDINALITY AS x(id, n)
         GROUP BY CASE WHEN cardinality(v_ids) <= 10 THEN x.n ELSE (x.n - 1) / 100 END
        ON CONFLICT DO NOTHING;
    END LOOP;
    INSERT INTO reconcile_steps (step, ordinal, run_id, kind, done_at) VALUES ('checks', 9, p_run, '', clock_timestamp());
END
$$;
COMMENT ON FUNCTION _reconcile_check(bigint) IS 'Asks for what is linked and stands in no list. When that is a large part of all, nothing is concluded.';

CREATE FUNCTION _reconcile_next(p_run bigint, OUT step text, OUT method text, OUT path text, OUT body text, OUT tokens integer, OUT note text) RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v         reconcile_steps;
    v_fields  text;
BEGIN
    IF NOT EXISTS (SELECT FROM reconcile_steps s WHERE s.step = 'checks') AND NOT EXISTS (SELECT FROM reconcile_steps s WHERE s.done_at IS NULL AND s.ordinal > 0) THEN
        PERFORM _reconcile_check(p_run);
    END IF;
    UPDATE reconcile_steps s SET started_at = coalesce(s.started_at, clock_timestamp()), asked_at = clock_timestamp()
     WHERE s.step = (SELECT x.step FROM reconcile_steps x WHERE x.done_at IS NULL AND x.ordinal > 0 ORDER BY x.ordinal, x.step LIMIT 1)
    RETURNING s.* INTO v;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT 'custom_fields=' || string_agg(f.code, ',' ORDER BY f.code) INTO v_fields FROM pipedrive_fields f WHERE f.entity = v.kind AND f.state IN ('found', 'made');
    IF v.kind = 'deal' THEN
        v_fields := 'include_fields=products_count&' || v_fields;
    END IF;
    step := v.step;
    method := 'GET';
    path := '/api/v2/' || v.kind || 's' || CASE
        WHEN v.step = 'archived deals' THEN '/archived?limit=500&sort_by=id&' || v_fields
        WHEN v.ids IS NULL THEN '?limit=500&sort_by=id&' || v_fields
        WHEN cardinality(v.ids) > 1 THEN '?limit=500&sort_by=id&ids=' || array_to_string(v.ids, ',') || CASE WHEN v.kind = 'deal' THEN '&status=open,won,lost,deleted' ELSE '' END || '&' || v_fields
        -- A single product takes no parameters.
        WHEN v.kind = 'product' THEN '/' || v.ids[1]
        ELSE '/' || v.ids[1] || '?' || v_fields END
        || coalesce('&cursor=' || _url_component(v.cursor), '');
    tokens := CASE WHEN v.step = 'archived deals' THEN 20 WHEN cardinality(v.ids) = 1 THEN 1 ELSE 10 END;
    note := CASE WHEN v.ids IS NULL AND v.cursor IS NULL THEN 'reading ' || v.step END;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION _reconcile_next(bigint) IS 'The next call of a run of reconcile(); no row when all lists are read.';

CREATE FUNCTION _reconcile_page(p_kind text, p_rows jsonb, p_asked timestamptz) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    -- Keys only: tables that fill and empty fool the statistics.
    SET enable_seqscan = off
    SET jit = off
    AS $$
DECLARE
    v_id_code   text := (SELECT f.code FROM pipedrive_fields f WHERE f.entity = p_kind AND f.purpose = 'exact_id' AND f.state IN ('found', 'made'));
    v_key_code  text := (SELECT f.code FROM pipedrive_fields f WHERE f.entity = p_kind AND f.purpose = CASE p_kind WHEN 'organization' THEN 'debtor_number' WHEN 'deal' THEN 'order_number' END AND f.state IN ('found', 'made'));
    v_name      text := CASE p_kind WHEN 'deal' THEN 'title' ELSE 'name' END;
    v_skips     boolean := setting('zero_lines') = 'skip';
    v           record;
BEGIN
    -- A number of Pipedrive alone proves nothing: another company has a record of that number, too.
    -- Ours is what carries the Exact-ID of a record that is linked to it.  Where that field is empty,
    -- a link that took it over by its number and never wrote there counts, else its name or its
    -- business number must be what was sent: then a person emptied it, and it is put right.
    INSERT INTO remote_records AS m (kind, pipedrive_id, state, exact_id, ours, org_id, currency, value, lines, asked_at)
    SELECT p_kind, (r->>'id')::bigint,
           CASE WHEN (r->>'is_deleted')::boolean THEN 'deleted' WHEN (r->>'is_archived')::boolean THEN 'archived' ELSE 'live' END,
           CASE WHEN r->'custom_fields'->>v_id_code ~ '^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$' THEN (r->'custom_fields'->>v_id_code)::uuid END,
           EXISTS (SELECT FROM links l
                    WHERE l.kind = p_kind AND l.pipedrive_id = (r->>'id')::bigint
                      AND CASE WHEN btrim(r->'custom_fields'->>v_id_code) <> '' THEN lower(btrim(r->'custom_fields'->>v_id_code)) = l.exact_id::text
                               WHEN l.adopted AND l.sent->'custom_fields'->>v_id_code IS NULL THEN true
                               WHEN r->>v_name = l.sent->>v_name THEN true
                               WHEN p_kind = 'product' THEN r->>'code' = l.sent->>'code'
                               ELSE r->'custom_fields'->>v_key_code = l.sent->'custom_fields'->>v_key_code END),
           (r->>'org_id')::bigint, r->>'currency', (r->>'value')::numeric, (r->>'products_count')::integer, p_asked
      FROM jsonb_array_elements(p_rows) r
    ON CONFLICT (kind, pipedrive_id) DO UPDATE
       SET state = excluded.state, exact_id = excluded.exact_id, ours = excluded.ours, org_id = excluded.org_id, currency = excluded.currency, value = excluded.value, lines = excluded.lines, asked_at = excluded.asked_at;

    IF p_kind = 'deal' THEN
        UPDATE remote_records m SET our_value = s.total, our_lines = s.lines
          FROM (SELECT l.pipedrive_id, x.total,
                       CASE WHEN NOT x.send_lines THEN 0
                            WHEN v_skips THEN (SELECT count(*) FROM wanted_deal_products w WHERE w.division = l.division AND w.order_id = l.exact_id) ELSE x.lines END AS lines
                  FROM jsonb_array_elements(p_rows) r
                  JOIN links l ON l.kind = 'deal' AND l.pipedrive_id = (r->>'id')::bigint AND NOT l.follower
                 CROSS JOIN LATERAL (SELECT y.total, y.send_lines, y.lines FROM order_sums y WHERE y.division = l.division AND y.order_id = l.exact_id OFFSET 0) x) s
         WHERE m.kind = 'deal' AND m.pipedrive_id = s.pipedrive_id;
    END IF;

    FOR v IN
        SELECT l::links AS link, m.ours, r->'custom_fields'->v_id_code AS carries, x.remote, (r->>'value')::numeric AS value, (r->>'products_count')::integer AS lines,
               x.differs, k.n <> coalesce((r->>'products_count')::integer, k.n) OR k.n > 0 AND abs(k.value - (r->>'value')::numeric) >= 0.01 OR 'lines' = ANY (l.kept) AS lines_differ
          FROM jsonb_array_elements(p_rows) r
          JOIN links l ON l.kind = p_kind AND l.pipedrive_id = (r->>'id')::bigint AND NOT l.follower AND l.gone_at IS NULL AND l.archived_at IS NULL
          JOIN remote_records m ON m.kind = l.kind AND m.pipedrive_id = l.pipedrive_id
         CROSS JOIN LATERAL (SELECT y.remote, _body_diff(y.remote, l.sent) IS NOT NULL OR l.kept IS NOT NULL AS differs FROM (SELECT _remote_sent(p_kind, r) AS remote OFFSET 0) y OFFSET 0) x
          LEFT JOIN LATERAL (SELECT count(*) AS n, round(sum(z.quantity * z.item_price * (1 - z.discount / 100)), 2) - coalesce(l.discount_sent, 0) AS value
                               FROM line_links z WHERE p_kind = 'deal' AND z.division = l.division AND z.order_id = l.exact_id) k ON true
         WHERE coalesce((r->>'is_deleted')::boolean, false) = false AND coalesce((r->>'is_archived')::boolean, false) = false
    LOOP
        CONTINUE WHEN v.ours AND v.differs IS NOT TRUE AND v.lines_differ IS NOT TRUE;
        CONTINUE WHEN _in_motion(v.link, p_asked);
        IF NOT v.ours THEN
            PERFORM _drift_note(v.link, 'not ours', '', to_jsonb((v.link).exact_id), v.carries, NULL, 'reported');
            CONTINUE;
        END IF;
        IF v.differs THEN
            PERFORM _judge_fields(v.link, v.remote, p_asked);
        END IF;
        IF v.lines_differ THEN
            PERFORM _judge_lines(v.link, v.lines, v.value, p_asked);
        END IF;
    END LOOP;

    -- Ours by its Exact-ID, and nobody knew: after a restored backup, or undeleted by a person.
    INSERT INTO job_signals (kind, division, exact_id, reason, argument)
    SELECT p_kind, s.division, s.id, 'reconcile', jsonb_build_object('drift', jsonb_build_object('seen', p_asked, 'adopt', x.r))
      FROM (SELECT r, (r->'custom_fields'->>v_id_code)::uuid AS id FROM jsonb_array_elements(p_rows) r
             WHERE r->'custom_fields'->>v_id_code ~ '^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$' AND coalesce((r->>'is_deleted')::boolean, false) = false) x
     CROSS JOIN LATERAL (SELECT a.division, a.id FROM exact_accounts a WHERE p_kind = 'organization' AND a.id = x.id
                         UNION ALL SELECT i.division, i.id FROM exact_items i WHERE p_kind = 'product' AND i.id = x.id
                         UNION ALL SELECT o.division, o.id FROM exact_sales_orders o WHERE p_kind = 'deal' AND o.id = x.id) s
     WHERE NOT EXISTS (SELECT FROM links l WHERE l.kind = p_kind AND l.division = s.division AND l.exact_id = s.id)
       AND NOT EXISTS (SELECT FROM intents i WHERE i.kind = p_kind AND i.division = s.division AND i.exact_id = s.id);
END
$$;
COMMENT ON FUNCTION _reconcile_page(text, jsonb, timestamptz) IS 'Judges the records of a page, and keeps what is needed of them until all lists are read.';

CREATE FUNCTION _reconcile_take(p_run bigint, p_step text, p_status integer, p_answer text) RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v         reconcile_steps;
    v_page    jsonb;
    v_rows    jsonb;
    v_cursor  text;
    v_tokens  integer;
    v_gone    boolean;
BEGIN
    SELECT * INTO v FROM reconcile_steps s WHERE s.step = p_step;
    v_tokens := CASE WHEN v.step = 'archived deals' THEN 20 WHEN cardinality(v.ids) = 1 THEN 1 ELSE 10 END;
    v_gone := p_status IN (404, 410) AND cardinality(v.ids) = 1;
    INSERT INTO api_calls (side, what, method, path, status, outcome, tokens, error)
    VALUES ('pipedrive', 'reconcile', 'GET', p_step, nullif(p_status, 0), CASE WHEN p_status BETWEEN 200 AND 299 THEN 'ok' WHEN v_gone THEN 'gone' ELSE 'failed' END, v_tokens,
            CASE WHEN p_status NOT BETWEEN 200 AND 299 THEN left(p_answer, 500) END);
    UPDATE reconcile_steps s SET calls = s.calls + 1, tokens = s.tokens + v_tokens WHERE s.step = p_step;
    UPDATE sync_runs SET calls = calls + 1 WHERE id = p_run;
    IF v_gone THEN
        v_page := '{"data": []}';
    ELSIF p_status NOT BETWEEN 200 AND 299 THEN
        IF v.cursor IS NOT NULL AND p_status BETWEEN 400 AND 499 AND v.restarts = 0 THEN
            -- A cursor may be too old: this list begins anew, once.
            UPDATE reconcile_steps s SET cursor = NULL, restarts = s.restarts + 1 WHERE s.step = p_step;
            RETURN format('%s are read from the beginning: Pipedrive does not know their next page any more', p_step);
        END IF;
        RAISE EXCEPTION 'Pipedrive refused "%" with status %', p_step, p_status
            USING ERRCODE = 'fdw_error', DETAIL = left(coalesce(substring(p_answer FROM '"error" *: *"([^"]+)"'), p_answer, 'No answer.'), 500),
                  HINT = 'Look at verify(); CALL exact_pd_sync.reconcile() goes on here.';
    ELSE
        v_page := p_answer::jsonb;
    END IF;
    v_rows := CASE jsonb_typeof(v_page->'data') WHEN 'array' THEN v_page->'data' WHEN 'object' THEN jsonb_build_array(v_page->'data') WHEN 'null' THEN '[]' END;
    IF v_rows IS NULL THEN
        RAISE EXCEPTION 'the answer to "%" has no records', p_step USING ERRCODE = 'fdw_error', DETAIL = left(p_answer, 300);
    END IF;
    v_cursor := v_page->'additional_data'->>'next_cursor';
    IF v_cursor = v.cursor THEN
        -- A list that never ends would cost all tokens of the day.
        RAISE EXCEPTION 'the list "%" does not end: it names its page as its own next page', p_step USING ERRCODE = 'fdw_error',
            HINT = 'CALL exact_pd_sync.reconcile() goes on here.';
    END IF;
    PERFORM _reconcile_page(v.kind, v_rows, v.asked_at);
    UPDATE sync_runs SET rows = rows + jsonb_array_length(v_rows) WHERE id = p_run;
    IF v_cursor IS NULL AND v.ids IS NOT NULL THEN
        INSERT INTO remote_records (kind, pipedrive_id, state, asked_at)
        SELECT v.kind, i, 'absent', v.asked_at FROM unnest(v.ids) i
        ON CONFLICT DO NOTHING;
    END IF;
    UPDATE reconcile_steps s SET cursor = v_cursor, done_at = CASE WHEN v_cursor IS NULL THEN clock_timestamp() END WHERE s.step = p_step;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _reconcile_take(bigint, text, integer, text) IS 'Takes over the answer to a call of reconcile(); returns what a person should read.';
