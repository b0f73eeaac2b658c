/*
 * 56_settle.sql
 *		Answers become links: what each outcome means for a job is decided here.
 *
 * One call of _settle() books many answers in one transaction.  Outcome classes
 * are made in C (pipedrive_classify.c); what follows from a class is a rule and
 * stands here.
 */

CREATE TYPE _result AS (
    id          bigint,
    job_id      bigint,
    kind        text,
    division    integer,
    exact_id    uuid,
    operation   text,
    tokens      integer,
    is_create   boolean,
    outcome     text,
    status      integer,
    ids         bigint[],
    products    bigint[],
    key         text,
    labels      jsonb,
    error       text,
    ms          integer,
    request_id  text,
    wait_ms     bigint,
    in_order    boolean,
    probe       boolean
);
COMMENT ON TYPE _result IS 'An answer together with the announced call it belongs to, without the call''s body (which may be large and stays in intents until the end).';

CREATE FUNCTION _plain_reason(p_outcome text, p_operation text, p_status integer, p_error text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE p_outcome
        WHEN 'permanent' THEN CASE WHEN p_error ILIKE '%archived%' THEN 'a person archived this deal in Pipedrive, and archived deals cannot be changed: take it out of the archive and replay'
                                   WHEN p_error ILIKE '%feature%' THEN 'a feature that is needed, such as products, is switched off in the Pipedrive company: switch it on and replay'
                                   WHEN p_operation LIKE 'line%' AND p_error ~* 'at most|maximum|too many' THEN 'Pipedrive takes no more lines on one deal: the deal stands without them; raise the limit or split the order, and replay'
                                   WHEN p_error ILIKE '%custom%field%' OR p_error ILIKE '%custom_fields%' THEN 'Pipedrive refuses a custom field: it was deleted or retyped by hand; CALL exact_pd_sync.setup_pipedrive() and replay'
                                   WHEN p_error ILIKE '%owner%' OR p_error ILIKE '%user%' THEN 'Pipedrive refuses the owner: the user is inactive or gone; map the salesperson to another user and replay'
                                   WHEN p_error ILIKE '%stage%' OR p_error ILIKE '%pipeline%' THEN 'Pipedrive does not know the stage or pipeline any more; CALL exact_pd_sync.setup_pipedrive() and replay'
                                   WHEN p_error ILIKE '%organization%' OR p_error ILIKE '%org_id%' THEN 'Pipedrive does not know the organization of this deal any more: it was deleted or merged by hand; replay() the dead letter of the organization, then this one'
                                   WHEN p_error ILIKE '%product%' AND p_operation LIKE 'line%' THEN 'Pipedrive refuses a line''s product: it was deleted or made unlinkable by hand'
                                   ELSE 'Pipedrive refuses this record as it is; mend it at the source and replay' END
        WHEN 'gone' THEN 'the record no longer exists at Pipedrive: a person deleted or merged it; it is not made again by itself, replay() makes it anew'
        WHEN 'capacity' THEN 'the deals of the Pipedrive plan are full'
        WHEN 'auth' THEN 'Pipedrive does not accept the API token'
        WHEN 'blocked' THEN 'Pipedrive blocks this address for a while'
        WHEN 'daily' THEN 'the tokens of the day are used up'
        WHEN 'burst' THEN 'too many requests within two seconds'
        WHEN 'unknown' THEN 'no readable answer: whether it was made is looked up first'
        ELSE 'no good answer from Pipedrive; it is tried again' END $$;
COMMENT ON FUNCTION _plain_reason(text, text, integer, text) IS 'What a refusal means and what to do, in words for people.';

CREATE FUNCTION _retry_pause(p_attempts integer) RETURNS interval
    LANGUAGE sql VOLATILE
    AS $$ SELECT make_interval(secs => least(900, 5 * 2 ^ least(p_attempts, 8)) * (0.75 + random() / 2)) $$;
COMMENT ON FUNCTION _retry_pause(integer) IS 'How long a job waits after so many attempts without a good answer: 10 seconds, doubled up to a quarter of an hour, and up to a quarter more or less, so that what failed together does not come back together.';

CREATE FUNCTION _answer_in_order(p_body jsonb, p_line_ids uuid[], p_ids jsonb, p_products jsonb, p_quantities jsonb, p_prices jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT coalesce(jsonb_array_length(p_ids) = cardinality(p_line_ids)
                 AND (p_products IS NULL OR p_products = 'null' OR p_products = CASE WHEN p_body ? 'data' THEN jsonb_path_query_array(p_body, '$.data[*].product_id')
                                                                ELSE jsonb_build_array(p_body->'product_id') END)
                 -- The same product on several lines: quantity and price tell them apart, the price as far as it is kept.
                 AND (p_quantities IS NULL OR NOT p_body ? 'data' OR jsonb_path_query_array(p_body, '$.data[*].quantity') = p_quantities
                      AND (jsonb_path_query_array(p_body, '$.data[*].item_price') = p_prices
                           OR NOT EXISTS (SELECT FROM jsonb_array_elements(p_body->'data') WITH ORDINALITY AS e(line, n)
                                           WHERE abs((e.line->>'item_price')::numeric - (p_prices->>(e.n - 1)::integer)::numeric) >= 0.01))), false) $$;
COMMENT ON FUNCTION _answer_in_order(jsonb, uuid[], jsonb, jsonb, jsonb, jsonb) IS 'Does the answer to added lines name as many lines, of the same products, quantities and prices in the same order, as were sent (pipedrive 7.2)?';

CREATE FUNCTION _learn_refusals(p_results _result[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v       record;
    v_name  text;
    v_value text;
BEGIN
    -- Where the references are unsure the service itself decides: what it refuses once is sent otherwise from then on.
    FOR v IN SELECT r.job_id, r.operation, r.error, i.body FROM unnest(p_results) r JOIN intents i ON i.id = r.id
              WHERE r.outcome = 'permanent' AND r.operation IN ('create', 'line_add', 'line_change') AND r.kind = 'deal' LOOP
        v_name := NULL;
        IF v.operation = 'create' AND v.error ~* 'won_time|lost_time' AND (v.body ? 'won_time' OR v.body ? 'lost_time') AND setting('won_time_on_create') = 'on' THEN
            v_name := 'won_time_on_create'; v_value := 'off';
        ELSIF v.operation LIKE 'line%' AND v.error ~* 'quantity|item_price|negative|positive|greater|minimum' THEN
            IF v.body @? '$.**.quantity ? (@ == 0)' AND setting('zero_lines') = 'send' THEN
                v_name := 'zero_lines'; v_value := 'skip';
            ELSIF (v.body @? '$.**.quantity ? (@ < 0)' OR v.body @? '$.**.item_price ? (@ < 0)') AND setting('negative_lines') = 'send' THEN
                v_name := 'negative_lines'; v_value := 'value_only';
            END IF;
        END IF;
        IF v_name IS NOT NULL THEN
            INSERT INTO settings AS s (name, value, changed_by) VALUES (v_name, v_value, 'delivery')
            ON CONFLICT (name) DO UPDATE SET value = excluded.value, changed_at = clock_timestamp(), changed_by = excluded.changed_by;
            INSERT INTO job_signals (kind, reason) VALUES ('all_deals', 'setting ' || v_name);
            RAISE LOG 'Pipedrive refused a deal as it was sent; setting % is now %', v_name, v_value USING DETAIL = left(v.error, 300);
        END IF;
        -- Others in the same group met the same refusal before it was learned.
        IF v_name IS NOT NULL OR v.operation = 'create' AND v.error ~* 'won_time|lost_time' AND setting('won_time_on_create') = 'off' AND (v.body ? 'won_time' OR v.body ? 'lost_time')
           OR v.operation LIKE 'line%' AND (v.body @? '$.**.quantity ? (@ == 0)' AND setting('zero_lines') = 'skip' AND v.error ~* 'quantity|greater|minimum|positive'
                OR (v.body @? '$.**.quantity ? (@ < 0)' OR v.body @? '$.**.item_price ? (@ < 0)') AND setting('negative_lines') = 'value_only') THEN
            UPDATE jobs SET dirty = true WHERE id = v.job_id;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _learn_refusals(_result[]) IS 'Notes in settings what Pipedrive refuses and the references leave open: negative lines, zero quantities, won_time at creation. The deals concerned are planned anew.';

CREATE FUNCTION _doubt(p_calls bigint[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    -- Keys only: tables that fill and empty fool the statistics.
    SET enable_seqscan = off
    SET jit = off
    AS $$
DECLARE
    v_done  text[] := (SELECT array_agg(DISTINCT i.operation) FROM intents i WHERE i.id = ANY (p_calls) AND NOT i.is_create);
    v       intents;
BEGIN
    IF v_done IS NULL THEN
        RETURN;
    END IF;
    -- Repeating a change does no harm.  But Exact may go back to what was sent before it, and then it must not seem to be there already.
    FOR v IN SELECT i.* FROM intents i WHERE i.id = ANY (p_calls) AND i.operation = 'update' ORDER BY i.id LOOP
        UPDATE links l SET sent = _body_doubt(l.sent, v.body) WHERE l.kind = v.kind AND l.division = v.division AND l.exact_id = v.exact_id;
    END LOOP;
    IF v_done && ARRAY['line_change', 'line_delete'] THEN
        -- A line that is wanted after all is changed as a whole; if it is gone by then, that is found out and the lines are read back.
        UPDATE line_links k
           SET product_id = CASE WHEN i.body IS NULL OR i.body ? 'product_id' THEN 0 ELSE k.product_id END,
               quantity = CASE WHEN i.body IS NULL OR i.body ? 'quantity' THEN 'NaN' ELSE k.quantity END,
               item_price = CASE WHEN i.body IS NULL OR i.body ? 'item_price' THEN 'NaN' ELSE k.item_price END,
               discount = CASE WHEN k.discount <> -2 AND (i.body IS NULL OR i.body ? 'discount') THEN 'NaN' ELSE k.discount END,
               comments = CASE WHEN i.body IS NULL OR i.body ? 'comments' THEN chr(1) ELSE k.comments END
          FROM intents i
         WHERE i.id = ANY (p_calls) AND i.operation IN ('line_change', 'line_delete')
           AND k.division = i.division AND k.order_id = i.exact_id AND k.line_id = ANY (i.line_ids);
    END IF;
    IF v_done && ARRAY['discount_change', 'discount_delete'] THEN
        UPDATE links l SET discount_sent = -1 FROM intents i
         WHERE i.id = ANY (p_calls) AND i.operation IN ('discount_change', 'discount_delete') AND l.kind = 'deal' AND l.division = i.division AND l.exact_id = i.exact_id
           AND l.discount_key IS NOT NULL;
    END IF;
END
$$;
COMMENT ON FUNCTION _doubt(bigint[]) IS 'Changes and deletions were announced and their answers are not known: what they named counts as neither old nor new, so that it is sent again whatever is wanted next.';

CREATE FUNCTION _needs_met(p_kind text[], p_division integer[], p_id uuid[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    -- Keys only: tables that fill and empty fool the statistics.
    SET enable_seqscan = off
    SET jit = off
    AS $$
DECLARE
    v_jobs  bigint[];
BEGIN
    WITH met AS (
        DELETE FROM job_needs n USING unnest(p_kind, p_division, p_id) AS x(kind, division, id)
         WHERE n.kind = x.kind AND n.division = x.division AND n.exact_id = x.id
        RETURNING n.job_id)
    SELECT array_agg(DISTINCT m.job_id) INTO v_jobs FROM met m;
    IF v_jobs IS NOT NULL THEN
        UPDATE jobs j SET state = 'ready', reason = NULL, updated_at = clock_timestamp()
         WHERE j.id = ANY (v_jobs) AND j.state = 'blocked' AND NOT EXISTS (SELECT FROM job_needs n WHERE n.job_id = j.id);
    END IF;
END
$$;
COMMENT ON FUNCTION _needs_met(text[], integer[], uuid[]) IS 'These are at Pipedrive now, made, adopted or back: what waited for them is ready when nothing else is missing.';

CREATE FUNCTION _settle_accepted(p_results _result[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    -- Keys only: tables that fill and empty fool the statistics.
    SET enable_seqscan = off
    SET jit = off
    AS $$
DECLARE
    v_now   timestamptz := clock_timestamp();
    -- What happened at all: most groups need few of the statements below.
    v_done  text[] := (SELECT array_agg(DISTINCT r.operation) FROM unnest(p_results) r WHERE r.outcome IN ('ok', 'gone'));
BEGIN
    INSERT INTO links AS l (kind, division, exact_id, pipedrive_id, sent, first_won_at)
    SELECT r.kind, r.division, r.exact_id, r.ids[1], i.body - 'won_time' - 'lost_time', i.body->>'won_time'
      FROM unnest(p_results) r CROSS JOIN LATERAL (SELECT * FROM intents x WHERE x.id = r.id OFFSET 0) i WHERE r.outcome = 'ok' AND r.operation = 'create' AND r.ids[1] IS NOT NULL
    ON CONFLICT (kind, division, exact_id) DO UPDATE
       SET pipedrive_id = excluded.pipedrive_id, sent = excluded.sent, last_sent = v_now, last_error = NULL, gone_at = NULL;
    IF 'update' = ANY (v_done) THEN
        UPDATE links l
           SET sent = _body_merge(l.sent, i.body - 'won_time' - 'lost_time'), last_sent = v_now, last_error = NULL,
               first_won_at = coalesce(l.first_won_at, i.body->>'won_time')
          FROM unnest(p_results) r CROSS JOIN LATERAL (SELECT * FROM intents x WHERE x.id = r.id OFFSET 0) i
         WHERE r.outcome = 'ok' AND r.operation = 'update' AND l.kind = r.kind AND l.division = r.division AND l.exact_id = r.exact_id;
    END IF;

    -- Deletions before additions, as they were sent: lines that are replaced are in both.
    IF 'line_delete' = ANY (v_done) THEN
        DELETE FROM line_links k USING unnest(p_results) r CROSS JOIN LATERAL (SELECT * FROM intents x WHERE x.id = r.id OFFSET 0) i
         WHERE r.outcome IN ('ok', 'gone') AND r.operation = 'line_delete' AND k.division = r.division AND k.order_id = r.exact_id AND k.line_id = ANY (i.line_ids);
    END IF;
    IF 'line_add' = ANY (v_done) THEN
        INSERT INTO line_links AS k (division, order_id, line_id, pipedrive_id, product_id, quantity, item_price, discount, comments)
        SELECT r.division, r.exact_id, x.line_id, x.id, (x.body->>'product_id')::bigint, (x.body->>'quantity')::numeric, (x.body->>'item_price')::numeric,
               coalesce((x.body->>'discount')::numeric, 0), x.body->>'comments'
          FROM unnest(p_results) r CROSS JOIN LATERAL (SELECT * FROM intents x WHERE x.id = r.id OFFSET 0) i
         CROSS JOIN LATERAL (
                SELECT i.line_ids[e.n] AS line_id, r.ids[e.n] AS id, e.value AS body
                  FROM jsonb_array_elements(CASE WHEN i.body ? 'data' THEN i.body->'data' ELSE jsonb_build_array(i.body) END) WITH ORDINALITY AS e(value, n)) x
         WHERE r.outcome = 'ok' AND r.operation = 'line_add' AND r.in_order
        ON CONFLICT (division, order_id, line_id) DO UPDATE
           SET pipedrive_id = excluded.pipedrive_id, product_id = excluded.product_id, quantity = excluded.quantity,
               item_price = excluded.item_price, discount = excluded.discount, comments = excluded.comments;
    END IF;
    IF 'line_add' = ANY (v_done) THEN
        UPDATE links l SET misreads = 0 FROM unnest(p_results) r
         WHERE r.operation = 'line_add' AND r.outcome = 'ok' AND r.in_order
           AND l.kind = 'deal' AND l.division = r.division AND l.exact_id = r.exact_id AND l.misreads <> 0;
    END IF;
    -- A bulk deletion that leaves lines behind: what is left is read.
    IF EXISTS (SELECT FROM unnest(p_results) r WHERE r.operation = 'line_delete' AND r.outcome = 'ok' AND NOT r.in_order) THEN
        UPDATE links l SET lines_unread = true, misreads = l.misreads + 1 FROM unnest(p_results) r
         WHERE r.operation = 'line_delete' AND r.outcome = 'ok' AND NOT r.in_order AND l.kind = 'deal' AND l.division = r.division AND l.exact_id = r.exact_id;
    END IF;
    -- An answer in another order, or of another length, says nothing about which line is which: read back.
    IF EXISTS (SELECT FROM unnest(p_results) r WHERE r.operation = 'line_add' AND (r.outcome = 'unknown' OR r.outcome = 'ok' AND NOT r.in_order)) THEN
        UPDATE links l SET lines_unread = true, misreads = l.misreads + CASE WHEN r.outcome = 'ok' THEN 1 ELSE 0 END FROM unnest(p_results) r
         WHERE r.operation = 'line_add' AND (r.outcome = 'unknown' OR r.outcome = 'ok' AND NOT r.in_order)
           AND l.kind = 'deal' AND l.division = r.division AND l.exact_id = r.exact_id;
    END IF;
    IF 'line_change' = ANY (v_done) THEN
        UPDATE line_links k
           SET product_id = coalesce((i.body->>'product_id')::bigint, k.product_id), quantity = coalesce((i.body->>'quantity')::numeric, k.quantity),
               item_price = coalesce((i.body->>'item_price')::numeric, k.item_price), discount = coalesce((i.body->>'discount')::numeric, k.discount),
               comments = CASE WHEN i.body ? 'comments' THEN nullif(i.body->>'comments', '') ELSE k.comments END
          FROM unnest(p_results) r CROSS JOIN LATERAL (SELECT * FROM intents x WHERE x.id = r.id OFFSET 0) i
         WHERE r.outcome = 'ok' AND r.operation = 'line_change' AND k.division = r.division AND k.order_id = r.exact_id AND k.line_id = i.line_ids[1];
    END IF;
    IF v_done && ARRAY['discount_add', 'discount_change', 'discount_delete'] THEN
        UPDATE links l
           SET discount_key = CASE r.operation WHEN 'discount_delete' THEN NULL ELSE coalesce(r.key, r.ids[1]::text, l.discount_key) END,
               discount_sent = CASE r.operation WHEN 'discount_delete' THEN NULL ELSE (i.body->>'amount')::numeric END
          FROM unnest(p_results) r CROSS JOIN LATERAL (SELECT * FROM intents x WHERE x.id = r.id OFFSET 0) i
         WHERE (r.outcome = 'ok' OR r.outcome = 'gone' AND r.operation = 'discount_delete') AND r.operation LIKE 'discount%'
           AND l.kind = 'deal' AND l.division = r.division AND l.exact_id = r.exact_id;
    END IF;
    IF 'options_add' = ANY (v_done) THEN
        INSERT INTO pipedrive_options (label, option_id)
        SELECT o.key, o.value::bigint FROM unnest(p_results) r CROSS JOIN LATERAL jsonb_each_text(r.labels) o
         WHERE r.outcome = 'ok' AND r.operation = 'options_add'
        ON CONFLICT (label) DO UPDATE SET option_id = excluded.option_id;
    END IF;

    INSERT INTO sync_changes (kind, division, exact_id, operation, pipedrive_id, old_value, new_value, tokens)
    SELECT r.kind, r.division, r.exact_id, r.operation,
           coalesce((SELECT l.pipedrive_id FROM links l WHERE l.kind = r.kind AND l.division = r.division AND l.exact_id = r.exact_id), r.ids[1]),
           i.old_value, i.body, r.tokens
      FROM unnest(p_results) r CROSS JOIN LATERAL (SELECT * FROM intents x WHERE x.id = r.id OFFSET 0) i WHERE r.outcome = 'ok' ORDER BY r.id;

    PERFORM _needs_met(array_agg(r.kind), array_agg(r.division), array_agg(r.exact_id)) FROM unnest(p_results) r
      WHERE r.outcome = 'ok' AND r.operation = 'create' HAVING count(*) > 0;
END
$$;
COMMENT ON FUNCTION _settle_accepted(_result[]) IS 'Books what Pipedrive accepted: links, lines, options, changes, and who waited for them.';

CREATE FUNCTION _pipedrive_closed(p_outcome text, p_wait_ms bigint, p_error text) RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    UPDATE budgets b
       SET blocked_until = CASE p_outcome WHEN 'daily' THEN coalesce(clock_timestamp() + make_interval(secs => p_wait_ms / 1000.0), least(b.reset_at, clock_timestamp() + interval '30 minutes'))
                                          WHEN 'auth' THEN clock_timestamp() + interval '10 minutes' ELSE clock_timestamp() + interval '45 minutes' END,
           blocked_reason = _plain_reason(p_outcome, NULL, NULL, p_error),
           remaining = CASE WHEN p_outcome = 'daily' THEN least(b.remaining, 0) ELSE b.remaining END,
           -- How long the service asks to wait tells when its day begins.
           reset_at = CASE WHEN p_outcome = 'daily' AND p_wait_ms BETWEEN 60000 AND 90000000 THEN clock_timestamp() + make_interval(secs => p_wait_ms / 1000.0) ELSE b.reset_at END
     WHERE b.side = 'pipedrive' AND b.kind = 'day' $$;
COMMENT ON FUNCTION _pipedrive_closed(text, bigint, text) IS 'Pipedrive refuses everything (daily, auth, blocked): nothing is sent for a while, and status says why. resume() ends it.';

CREATE FUNCTION _pipedrive_open() RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    -- Tokens that were used up are so until an answer says otherwise: one job tries (see _pipedrive_day()).
    UPDATE budgets b SET blocked_until = CASE WHEN d.used_up THEN least(b.blocked_until, clock_timestamp()) END, blocked_reason = CASE WHEN d.used_up THEN b.blocked_reason END
      FROM (SELECT x.side, x.division, x.kind, x.kind = 'day' AND coalesce(x.blocked_reason = _plain_reason('daily', NULL, NULL, NULL), false) AS used_up FROM budgets x) d
     WHERE b.side = 'pipedrive' AND b.blocked_until IS NOT NULL AND d.side = b.side AND d.division = b.division AND d.kind = b.kind $$;
COMMENT ON FUNCTION _pipedrive_open() IS 'A person says that Pipedrive may be asked again, whatever it refused.';

CREATE FUNCTION _settle_refused(p_results _result[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    -- Keys only: tables that fill and empty fool the statistics.
    SET enable_seqscan = off
    SET jit = off
    AS $$
DECLARE
    v_now   timestamptz := clock_timestamp();
    v_bad   record;
BEGIN
    IF EXISTS (SELECT FROM unnest(p_results) r WHERE r.outcome = 'gone') THEN
        -- A line or discount that is gone means its deal's lines are not what we think: read them back.
        UPDATE links l SET lines_unread = true FROM unnest(p_results) r
         WHERE r.outcome = 'gone' AND r.operation IN ('line_change', 'line_add') AND l.kind = 'deal' AND l.division = r.division AND l.exact_id = r.exact_id
           AND NOT l.lines_unread AND r.operation = 'line_change';
        UPDATE links l SET discount_key = NULL, discount_sent = NULL FROM unnest(p_results) r
         WHERE r.outcome = 'gone' AND r.operation = 'discount_change' AND l.kind = 'deal' AND l.division = r.division AND l.exact_id = r.exact_id;
        UPDATE links l SET gone_at = v_now, last_error = left(r.error, 300) FROM unnest(p_results) r
         WHERE r.outcome = 'gone' AND r.operation IN ('update', 'line_add', 'discount_add') AND l.kind = r.kind AND l.division = r.division AND l.exact_id = r.exact_id;
    END IF;
    IF EXISTS (SELECT FROM unnest(p_results) r WHERE r.outcome = 'permanent') THEN
        -- Each further change would meet the same refusal, and be paid for.
        UPDATE links l SET archived_at = v_now FROM unnest(p_results) r
         WHERE r.outcome = 'permanent' AND r.error ILIKE '%archived%' AND r.kind = 'deal' AND l.kind = r.kind AND l.division = r.division AND l.exact_id = r.exact_id AND l.archived_at IS NULL;
        PERFORM _learn_refusals(p_results);
    END IF;

    FOR v_bad IN SELECT r.outcome, max(r.wait_ms) AS wait_ms, max(r.error) AS error FROM unnest(p_results) r
                  WHERE r.outcome IN ('daily', 'auth', 'blocked', 'capacity') GROUP BY r.outcome LOOP
        IF v_bad.outcome = 'capacity' THEN
            INSERT INTO budgets AS b (side, division, kind, blocked_until, blocked_reason) VALUES ('pipedrive', 0, 'creates', v_now + interval '1 hour', v_bad.error)
            ON CONFLICT (side, division, kind) DO UPDATE SET blocked_until = excluded.blocked_until, blocked_reason = excluded.blocked_reason;
        ELSE
            PERFORM _pipedrive_closed(v_bad.outcome, v_bad.wait_ms, v_bad.error);
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM unnest(p_results) r WHERE r.outcome = 'ok' AND r.kind = 'deal' AND r.operation = 'create')
       AND NOT EXISTS (SELECT FROM unnest(p_results) r WHERE r.outcome = 'capacity') THEN
        -- There is room in the plan again: whoever waited for it goes.
        UPDATE budgets b SET blocked_until = NULL, blocked_reason = NULL WHERE b.side = 'pipedrive' AND b.kind = 'creates' AND b.blocked_until IS NOT NULL;
        IF FOUND THEN
            UPDATE jobs j SET state = 'ready', next_attempt_at = NULL, class = NULL, reason = NULL, updated_at = v_now
             WHERE j.kind = 'deal' AND j.state = 'waiting' AND j.class = 'capacity' AND j.reason = _plain_reason('capacity', NULL, NULL, NULL);
        END IF;
    END IF;
    IF EXISTS (SELECT FROM unnest(p_results) r WHERE r.outcome = 'ok') THEN
        UPDATE budgets b SET blocked_until = NULL, blocked_reason = NULL,
               -- A trial after the day had been used up, and the answers do not tell what is left: a new day has begun.
               remaining = CASE WHEN t.new_day THEN b.limit_value ELSE b.remaining END, spent_today = CASE WHEN t.new_day THEN 0 ELSE b.spent_today END,
               reset_at = CASE WHEN t.new_day THEN v_now + interval '1 day' ELSE b.reset_at END
          FROM (SELECT x.blocked_until <= v_now AND x.remaining <= 0 AND x.blocked_reason = _plain_reason('daily', NULL, NULL, NULL) AS new_day FROM budgets x WHERE x.side = 'pipedrive' AND x.kind = 'day') t
         WHERE b.side = 'pipedrive' AND b.blocked_until IS NOT NULL AND (b.kind = 'day' AND NOT EXISTS (SELECT FROM unnest(p_results) r WHERE r.outcome IN ('daily', 'auth', 'blocked')))
           -- An answer that was on its way when the day was used up says nothing about it.
           AND (t.new_day OR b.remaining > 0 OR b.blocked_reason IS DISTINCT FROM _plain_reason('daily', NULL, NULL, NULL));
    END IF;
END
$$;
COMMENT ON FUNCTION _settle_refused(_result[]) IS 'Books what Pipedrive did not accept: what is gone, what is refused for good, what everything has to wait for.';

CREATE FUNCTION _settle_jobs(p_results _result[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    -- Keys only: tables that fill and empty fool the statistics.
    SET enable_seqscan = off
    SET jit = off
    AS $$
DECLARE
    v_now   timestamptz := clock_timestamp();
BEGIN
    IF EXISTS (SELECT FROM unnest(p_results) r WHERE r.outcome NOT IN ('ok', 'not_sent')) THEN
        -- The first thing that went wrong decides; the calls behind it were not sent.
        WITH worst AS (
            SELECT DISTINCT ON (r.job_id) r.job_id, r.outcome, r.operation, r.status, r.error, r.wait_ms,
                   r.outcome = 'gone' AND r.operation IN ('line_change', 'discount_change') AS part_gone,
                   -- A service that is down is no fault of the job that was sent to see whether it is up again.
                   r.outcome = 'retry' AND r.probe AND coalesce(r.status, 0) IN (0, 502, 503, 504) AS down
              FROM unnest(p_results) r WHERE r.outcome NOT IN ('ok', 'not_sent')
                                 AND NOT (r.outcome = 'gone' AND r.operation IN ('line_delete', 'discount_delete'))
             ORDER BY r.job_id, r.id
        ), judged AS (
            SELECT w.*, CASE WHEN w.outcome = 'permanent' AND j.dirty AND coalesce(w.error, '') NOT ILIKE '%archived%' THEN 'ready'
                             WHEN w.outcome = 'permanent' OR w.outcome = 'gone' AND NOT w.part_gone THEN 'dead'
                             WHEN w.outcome = 'unknown' AND EXISTS (SELECT FROM intents i WHERE i.job_id = j.id AND i.state = 'unknown') THEN 'unknown'
                             WHEN w.outcome IN ('retry', 'unknown', 'gone') AND NOT w.down AND j.attempts >= setting('max_attempts')::integer THEN CASE WHEN j.dirty AND w.outcome = 'retry' THEN 'ready' ELSE 'dead' END
                             -- What is there is read back first; whether it then goes on at once, _look_done() says.
                             WHEN w.outcome IN ('unknown', 'gone') THEN 'ready'
                             ELSE 'waiting' END AS state
              FROM worst w JOIN jobs j ON j.id = w.job_id)
        UPDATE jobs j
           SET state = w.state, dirty = false,
               -- Waiting for a limit is not an attempt.
               attempts = CASE WHEN w.outcome IN ('burst', 'daily', 'auth', 'blocked', 'capacity') OR w.down THEN greatest(0, j.attempts - 1) ELSE j.attempts END,
               next_attempt_at = CASE WHEN w.state = 'waiting' THEN CASE w.outcome
                    WHEN 'burst' THEN v_now + make_interval(secs => coalesce(w.wait_ms, 2000) / 1000.0 + random())
                    WHEN 'daily' THEN (SELECT b.blocked_until FROM budgets b WHERE b.side = 'pipedrive' AND b.kind = 'day')
                    WHEN 'auth' THEN v_now + interval '10 minutes' WHEN 'blocked' THEN v_now + interval '45 minutes'
                    WHEN 'capacity' THEN v_now + interval '1 hour'
                    ELSE v_now + greatest(_retry_pause(j.attempts), make_interval(secs => coalesce(w.wait_ms, 0) / 1000.0)) END END,
               class = CASE WHEN w.outcome IN ('permanent', 'gone') AND NOT w.part_gone THEN 'ours' WHEN w.outcome IN ('capacity', 'auth') THEN w.outcome
                            WHEN w.outcome IN ('burst', 'daily') THEN 'limit' ELSE 'theirs' END,
               reason = CASE WHEN w.state = 'dead' AND w.part_gone THEN 'Pipedrive shows a line or discount of this deal, and says that it does not exist when it is changed; look at the deal, then replay'
                             WHEN w.state = 'dead' AND w.outcome IN ('retry', 'unknown') THEN format('no good answer from Pipedrive in %s attempts; replay when it is well again', j.attempts)
                             ELSE _plain_reason(w.outcome, w.operation, w.status, w.error) END,
               error = left(w.error, 1000), lease_until = NULL, updated_at = v_now
          FROM judged w WHERE j.id = w.job_id;
    END IF;
    PERFORM _ask_looks() WHERE EXISTS (SELECT FROM unnest(p_results) r WHERE r.outcome = 'unknown');

    UPDATE jobs j SET state = 'dead', class = 'theirs', lease_until = NULL, updated_at = v_now,
           reason = 'Pipedrive takes the lines of this deal and three times did not answer with what was sent; compare the deal with its order, then replay'
     WHERE j.id = ANY (ARRAY(SELECT r.job_id FROM unnest(p_results) r WHERE r.operation IN ('line_add', 'line_delete'))) AND j.state = 'sending'
       AND EXISTS (SELECT FROM links l WHERE l.kind = j.kind AND l.division = j.division AND l.exact_id = j.exact_id AND l.lines_unread AND l.misreads >= 3)
       AND (SELECT true FROM intents i WHERE i.job_id = j.id LIMIT 1) IS NULL;

    -- Done when nothing announced is left; what changed meanwhile is looked at again.
    -- Asked job by job, not as a join: that would read all of intents, and what is gone from it, in each batch.
    UPDATE jobs j SET state = 'ready', dirty = false, attempts = 0, lease_until = NULL, class = NULL, reason = NULL, updated_at = v_now
     WHERE j.id = ANY (ARRAY(SELECT r.job_id FROM unnest(p_results) r)) AND j.state = 'sending'
       AND (j.dirty OR EXISTS (SELECT FROM links l WHERE l.kind = j.kind AND l.division = j.division AND l.exact_id = j.exact_id AND l.lines_unread)
            OR EXISTS (SELECT FROM unnest(p_results) r WHERE r.job_id = j.id AND r.outcome = 'not_sent'))
       AND (SELECT true FROM intents i WHERE i.job_id = j.id LIMIT 1) IS NULL;
    DELETE FROM jobs j
     WHERE j.id = ANY (ARRAY(SELECT r.job_id FROM unnest(p_results) r)) AND j.state = 'sending' AND (SELECT true FROM intents i WHERE i.job_id = j.id LIMIT 1) IS NULL;
END
$$;
COMMENT ON FUNCTION _settle_jobs(_result[]) IS 'What becomes of the jobs: done, again, later, looked up, or a dead letter.';

CREATE FUNCTION _settle(p_results text, p_headers text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    -- Keys only: tables that fill and empty fool the statistics.
    SET enable_seqscan = off
    SET jit = off
    AS $$
DECLARE
    v_now   timestamptz := clock_timestamp();
    v       _result[];
BEGIN
    SELECT array_agg(ROW(i.id, i.job_id, i.kind, i.division, i.exact_id, i.operation, i.tokens, i.is_create,
                         -- A record that was made and not named: what it is must be looked up.
                         CASE WHEN a.outcome = 'ok' AND i.operation = 'create' AND coalesce(jsonb_path_exists(a.ids, '$[0]'), false) = false THEN 'unknown' ELSE a.outcome END,
                         a.status,
                         (SELECT array_agg(x::bigint ORDER BY n) FROM jsonb_array_elements_text(a.ids) WITH ORDINALITY e(x, n)),
                         (SELECT array_agg(x::bigint ORDER BY n) FROM jsonb_array_elements_text(a.products) WITH ORDINALITY e(x, n)),
                         a.key, a.labels, a.error, a.ms, a.request_id, a.wait_ms,
                         CASE WHEN i.operation = 'line_add' AND a.outcome = 'ok' THEN _answer_in_order(i.body, i.line_ids, a.ids, a.products, a.quantities, a.prices)
                              -- A bulk deletion names what it deleted.
                              WHEN i.operation = 'line_delete' AND a.outcome = 'ok' THEN coalesce(jsonb_array_length(a.ids), cardinality(i.line_ids)) >= cardinality(i.line_ids) END,
                         coalesce(a.probe, false))::_result ORDER BY i.id)
      INTO v
      FROM jsonb_to_recordset(p_results::jsonb)
           AS a(call bigint, outcome text, status integer, ids jsonb, products jsonb, quantities jsonb, prices jsonb, key text, labels jsonb, error text, ms integer, request_id text, wait_ms bigint, probe boolean)
     CROSS JOIN LATERAL (SELECT * FROM intents x WHERE x.id = a.call OFFSET 0) i;

    PERFORM _pipedrive_headers(p_headers::jsonb);
    IF v IS NULL THEN
        RETURN;
    END IF;
    UPDATE budgets b
       SET booked = greatest(0, b.booked - s.booked),
           spent_today = b.spent_today + s.spent,
           -- Without a header we count ourselves; a refusal for lack of budget costs nothing.
           remaining = CASE WHEN (p_headers::jsonb)->>'daily_remaining' IS NULL THEN b.remaining - s.spent ELSE b.remaining END
      FROM (SELECT coalesce(sum(r.tokens), 0) AS booked, coalesce(sum(r.tokens) FILTER (WHERE r.outcome NOT IN ('not_sent', 'burst', 'daily', 'auth', 'blocked')), 0) AS spent FROM unnest(v) r) s
     WHERE b.side = 'pipedrive' AND b.kind = 'day';

    INSERT INTO api_calls (side, division, what, method, path, status, outcome, tokens, ms, error, request_id, job_id, exact_id)
    SELECT 'pipedrive', r.division, r.operation, i.method,
           -- What was written before the deal had an id.
           left(CASE WHEN i.path LIKE '%{deal}%' THEN replace(i.path, '{deal}', coalesce((SELECT c.ids[1] FROM unnest(v) c WHERE c.job_id = r.job_id AND c.operation = 'create' AND c.outcome = 'ok'),
                (SELECT l.pipedrive_id FROM links l WHERE l.kind = r.kind AND l.division = r.division AND l.exact_id = r.exact_id))::text) ELSE i.path END, 500), nullif(r.status, 0), r.outcome,
           CASE WHEN r.outcome IN ('burst', 'daily', 'auth', 'blocked') THEN 0 ELSE r.tokens END, r.ms, left(r.error, 500), r.request_id, r.job_id, r.exact_id
      FROM unnest(v) r CROSS JOIN LATERAL (SELECT * FROM intents x WHERE x.id = r.id OFFSET 0) i WHERE r.outcome <> 'not_sent' ORDER BY r.id;

    PERFORM _settle_accepted(v);
    IF EXISTS (SELECT FROM unnest(v) r WHERE r.outcome <> 'ok') OR EXISTS (SELECT FROM budgets b WHERE b.side = 'pipedrive' AND b.blocked_until IS NOT NULL) THEN
        PERFORM _settle_refused(v);
    END IF;

    PERFORM _doubt(array_agg(r.id)) FROM unnest(v) r WHERE r.outcome IN ('retry', 'unknown') AND NOT r.is_create HAVING count(*) > 0;

    -- Booked: the announcement goes, but for creates of unknown outcome.  Lines of a known deal are read back instead.
    DELETE FROM intents i
     WHERE i.id = ANY (ARRAY(SELECT r.id FROM unnest(v) r
                              WHERE r.outcome <> 'unknown' OR NOT r.is_create
                                 OR r.operation = 'line_add' AND EXISTS (SELECT FROM links l WHERE l.kind = 'deal' AND l.division = r.division AND l.exact_id = r.exact_id)));
    UPDATE intents i SET state = 'unknown', unknown_at = v_now WHERE i.id = ANY (ARRAY(SELECT r.id FROM unnest(v) r WHERE r.outcome = 'unknown')) AND i.state <> 'unknown';

    PERFORM _settle_jobs(v);
END
$$;
COMMENT ON FUNCTION _settle(text, text) IS 'Books the answers of announced calls: links, budgets, journals, and what becomes of the jobs.';

CREATE FUNCTION _job_failed(p_job bigint, p_error text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_booked  bigint := (SELECT coalesce(sum(i.tokens), 0) FROM intents i WHERE i.job_id = p_job AND i.state = 'announced');
BEGIN
    -- What was sent may have been executed, though its answer cannot be booked.  As when the worker starts: changes count
    -- as neither old nor new, lines of a known deal are read back, and a create is looked up before another is made.
    PERFORM _doubt(array_agg(i.id)) FROM intents i WHERE i.job_id = p_job AND NOT i.is_create HAVING count(*) > 0;
    UPDATE links l SET lines_unread = true FROM intents i
     WHERE i.job_id = p_job AND i.operation = 'line_add' AND l.kind = 'deal' AND l.division = i.division AND l.exact_id = i.exact_id;
    DELETE FROM intents i
     WHERE i.job_id = p_job
       AND (NOT i.is_create OR i.operation = 'line_add' AND EXISTS (SELECT FROM links l WHERE l.kind = 'deal' AND l.division = i.division AND l.exact_id = i.exact_id));
    UPDATE intents i SET state = 'unknown', unknown_at = clock_timestamp() WHERE i.job_id = p_job AND i.state = 'announced';
    UPDATE budgets b SET booked = greatest(0, b.booked - v_booked) WHERE b.side = 'pipedrive' AND b.kind = 'day';
    PERFORM _ask_looks() WHERE EXISTS (SELECT FROM intents i WHERE i.job_id = p_job AND i.state = 'unknown');
    UPDATE jobs SET state = 'dead', class = 'ours', lease_until = NULL, next_attempt_at = NULL, updated_at = clock_timestamp(),
           reason = 'this record cannot be worked out', error = left(p_error, 1000)
     WHERE id = p_job;
END
$$;
COMMENT ON FUNCTION _job_failed(bigint, text) IS 'A job whose own SQL fails becomes a dead letter, so that it does not hold up the others.';
