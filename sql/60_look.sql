/*
 * 60_look.sql
 *		Looking at Pipedrive: what is there already is adopted, never made twice.
 *
 * The delivery worker asks _look_next() for a list to read, and hands each page
 * to _look_take().  One list settles many unknown outcomes (law 4).
 */

CREATE FUNCTION _look_next(OUT look_id bigint, OUT path text, OUT tokens integer) RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v        looks;
    v_codes  text;
    v_since  text;
BEGIN
    SELECT * INTO v FROM looks k WHERE k.done_at IS NULL AND (k.not_before IS NULL OR k.not_before <= clock_timestamp())
       -- Links are compared while nothing is under way that would change them.
       AND (k.reason <> 'verify' OR NOT EXISTS (SELECT FROM intents i WHERE i.state = 'announced'))
     ORDER BY k.id LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT string_agg(DISTINCT c.code, ',') INTO v_codes
      FROM (SELECT f.code FROM pipedrive_fields f
             WHERE f.state IN ('found', 'made') AND f.entity = CASE v.what WHEN 'organizations' THEN 'organization' WHEN 'products' THEN 'product' ELSE 'deal' END
            UNION ALL
            SELECT a.field_code FROM adoption_fields a
             WHERE a.field_code ~ '^[0-9a-f]{40}$' AND a.kind = CASE v.what WHEN 'organizations' THEN 'organization' WHEN 'products' THEN 'product' ELSE 'deal' END) c;
    v_since := to_char(CASE WHEN v.reason <> 'verify' THEN v.since END AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"');
    look_id := v.id;
    tokens := CASE v.what WHEN 'archived_deals' THEN 20 WHEN 'options' THEN 1 ELSE 10 END;
    path := CASE v.what
        WHEN 'organizations' THEN '/api/v2/organizations?limit=500&sort_by=id&custom_fields=' || v_codes
        WHEN 'products' THEN '/api/v2/products?limit=500&sort_by=id&custom_fields=' || v_codes
        -- Of all pipelines: a person may have moved a deal of ours to another one, and it must not be made again.
        WHEN 'deals' THEN '/api/v2/deals?limit=500&sort_by=id&custom_fields=' || v_codes || CASE WHEN v.reason = 'verify' THEN '&include_fields=products_count' ELSE '' END
        WHEN 'archived_deals' THEN '/api/v2/deals/archived?limit=500&sort_by=id&custom_fields=' || v_codes || CASE WHEN v.reason = 'verify' THEN '&include_fields=products_count' ELSE '' END
        WHEN 'lines' THEN '/api/v2/deals/products?limit=500&deal_ids=' || array_to_string(v.deal_ids, ',')
        WHEN 'discounts' THEN '/api/v2/deals/' || v.deal_ids[1] || '/discounts'
        WHEN 'options' THEN '/api/v2/productFields/' || (SELECT f.code FROM pipedrive_fields f WHERE f.entity = 'product' AND f.purpose = 'item_group')
        END
        || CASE WHEN v.deal_ids IS NOT NULL AND v.what IN ('organizations', 'products', 'deals') THEN '&ids=' || array_to_string(v.deal_ids, ',') ELSE '' END
        || CASE WHEN v_since IS NOT NULL AND v.what IN ('organizations', 'products', 'deals') THEN '&updated_since=' || v_since ELSE '' END
        || CASE WHEN v.cursor IS NOT NULL THEN '&cursor=' || _url_component(v.cursor) ELSE '' END;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION _look_next() IS 'The next page to read; no row when there is nothing to look up.';

CREATE FUNCTION _business_key(p_text text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT upper(coalesce(nullif(ltrim(btrim(p_text), '0'), ''), nullif(btrim(p_text), ''))) $$;
COMMENT ON FUNCTION _business_key(text) IS 'A debtor number, item code or order number made comparable: without padding, leading zeros and case.';

CREATE FUNCTION _remote_sent(p_kind text, p_row jsonb) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    SELECT jsonb_strip_nulls(CASE p_kind
            WHEN 'organization' THEN jsonb_build_object('name', p_row->'name', 'address', CASE WHEN p_row->'address'->>'value' IS NOT NULL THEN jsonb_build_object('value', p_row->'address'->'value') END)
            WHEN 'product' THEN jsonb_build_object('name', p_row->'name', 'code', p_row->'code', 'unit', p_row->'unit',
                'prices', (SELECT jsonb_agg(jsonb_build_object('currency', e->'currency', 'price', e->'price')) FROM jsonb_array_elements(CASE WHEN jsonb_typeof(p_row->'prices') = 'array' THEN p_row->'prices' END) e))
            ELSE jsonb_build_object('title', p_row->'title', 'org_id', p_row->'org_id', 'owner_id', p_row->'owner_id', 'pipeline_id', p_row->'pipeline_id', 'stage_id', p_row->'stage_id',
                'status', p_row->'status', 'currency', p_row->'currency', 'value', p_row->'value', 'lost_reason', p_row->'lost_reason') END)
        || jsonb_build_object('custom_fields', coalesce((SELECT jsonb_object_agg(f.code, p_row->'custom_fields'->f.code) FROM pipedrive_fields f
                WHERE f.entity = p_kind AND f.state IN ('found', 'made') AND p_row->'custom_fields' ? f.code), '{}')) $$;
COMMENT ON FUNCTION _remote_sent(text, jsonb) IS 'A record of Pipedrive in the form of links.sent: the fields we care for.';

CREATE FUNCTION _adopt(p_kind text, p_rows jsonb) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_id_code   text := (SELECT f.code FROM pipedrive_fields f WHERE f.entity = p_kind AND f.purpose = 'exact_id' AND f.state IN ('found', 'made'));
    v_key_code  text := (SELECT f.code FROM pipedrive_fields f WHERE f.entity = p_kind AND f.state IN ('found', 'made')
                            AND f.purpose = CASE p_kind WHEN 'organization' THEN 'debtor_number' WHEN 'deal' THEN 'order_number' END);
    v_named     text := (SELECT a.field_code FROM adoption_fields a WHERE a.kind = p_kind);
    v_adopted   integer;
    v_d         integer[];
    v_i         uuid[];
BEGIN
    WITH remote AS MATERIALIZED (
        SELECT (r->>'id')::bigint AS pipedrive_id, r AS record,
               CASE WHEN r->'custom_fields'->>v_id_code ~ '^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$' THEN (r->'custom_fields'->>v_id_code)::uuid END AS exact_id,
               coalesce(CASE WHEN v_named IN ('code', 'name', 'title') THEN r->>v_named ELSE r->'custom_fields'->>v_named END,
                        CASE WHEN p_kind = 'product' THEN r->>'code' ELSE r->'custom_fields'->>v_key_code END) AS number
          FROM jsonb_array_elements(p_rows) r
         WHERE coalesce((r->>'is_deleted')::boolean, false) = false
           AND NOT EXISTS (SELECT FROM links l WHERE l.kind = p_kind AND l.pipedrive_id = (r->>'id')::bigint AND l.gone_at IS NULL)
    ), theirs AS MATERIALIZED (
        -- A number alone is unique within one division only.  As it is written it says more than made comparable.
        SELECT r.pipedrive_id, r.record, g.rank, g.k, row_number() OVER (PARTITION BY g.rank, g.k ORDER BY r.pipedrive_id) AS n
          FROM remote r CROSS JOIN LATERAL (VALUES (2, upper(btrim(r.number))), (3, _business_key(r.number))) g(rank, k)
         WHERE r.exact_id IS NULL AND g.k <> '' AND (SELECT count(*) FROM divisions) = 1
    ), ours AS (
        SELECT s.division, s.id, g.rank, g.k, row_number() OVER (PARTITION BY g.rank, g.k ORDER BY s.division, s.id) AS n
          FROM (SELECT a.division, a.id, a.code FROM exact_accounts a WHERE p_kind = 'organization' AND a.deleted_at IS NULL
                UNION ALL SELECT i.division, i.id, i.code FROM exact_items i WHERE p_kind = 'product' AND i.deleted_at IS NULL
                UNION ALL SELECT o.division, o.id, o.order_number::text FROM exact_sales_orders o WHERE p_kind = 'deal' AND o.deleted_at IS NULL) s
         CROSS JOIN LATERAL (VALUES (2, upper(btrim(s.code))), (3, _business_key(s.code))) g(rank, k)
         WHERE (g.rank, g.k) IN (SELECT t.rank, t.k FROM theirs t)
           AND NOT EXISTS (SELECT FROM links l WHERE l.kind = p_kind AND l.division = s.division AND l.exact_id = s.id AND l.gone_at IS NULL)
    ), matched AS (
        SELECT DISTINCT ON (m.division, m.exact_id) m.division, m.exact_id, m.pipedrive_id, m.record, m.rank
          FROM (SELECT s.division, s.id AS exact_id, r.pipedrive_id, r.record, 1 AS rank
                  FROM remote r
                  JOIN LATERAL (SELECT a.division, a.id FROM exact_accounts a WHERE p_kind = 'organization' AND a.id = r.exact_id
                                UNION ALL SELECT i.division, i.id FROM exact_items i WHERE p_kind = 'product' AND i.id = r.exact_id
                                UNION ALL SELECT o.division, o.id FROM exact_sales_orders o WHERE p_kind = 'deal' AND o.id = r.exact_id) s ON true
                UNION ALL
                -- A number used more than once: the first of ours takes the first of theirs, and so on.
                SELECT s.division, s.id, t.pipedrive_id, t.record, t.rank
                  FROM theirs t JOIN ours s ON s.rank = t.rank AND s.k = t.k AND s.n = t.n) m
         WHERE NOT EXISTS (SELECT FROM links l WHERE l.kind = p_kind AND l.division = m.division AND l.exact_id = m.exact_id AND l.gone_at IS NULL)
         ORDER BY m.division, m.exact_id, m.rank, m.pipedrive_id
    ), single AS (
        -- One record of theirs may still answer to two of ours: the better match gets it.
        SELECT DISTINCT ON (m.pipedrive_id) m.* FROM matched m ORDER BY m.pipedrive_id, m.rank, m.division, m.exact_id
    ), adopted AS (
        INSERT INTO links AS l (kind, division, exact_id, pipedrive_id, sent, adopted, lines_unread, first_won_at, last_verified)
        SELECT p_kind, s.division, s.exact_id, s.pipedrive_id, _remote_sent(p_kind, s.record), true, p_kind = 'deal', s.record->>'won_time', clock_timestamp()
          FROM single s
        ON CONFLICT (kind, division, exact_id) DO UPDATE
           SET pipedrive_id = excluded.pipedrive_id, sent = excluded.sent, adopted = true, lines_unread = excluded.lines_unread, gone_at = NULL, archived_at = NULL, follower = false, last_verified = excluded.last_verified
        RETURNING l.division, l.exact_id, l.pipedrive_id, l.sent
    ), told AS (
        INSERT INTO sync_changes (kind, division, exact_id, operation, pipedrive_id, new_value)
        SELECT p_kind, a.division, a.exact_id, 'adopt', a.pipedrive_id, a.sent FROM adopted a
        RETURNING 1
    ), followed AS (
        -- Also those that no order waits for follow Exact from now on.  Deals older than what is sent are left as they are.
        INSERT INTO job_signals (kind, division, exact_id, reason)
        SELECT p_kind, a.division, a.exact_id, 'adopted' FROM adopted a
         WHERE p_kind <> 'deal' AND NOT EXISTS (SELECT FROM jobs j WHERE j.kind = p_kind AND j.division = a.division AND j.exact_id = a.exact_id)
    ), back AS (
        -- It was gone and is there again: its dead letter has nothing more to say, and what changed meanwhile goes out.
        UPDATE jobs j SET state = 'ready', attempts = 0, class = NULL, reason = NULL, error = NULL, updated_at = clock_timestamp()
          FROM single s JOIN links l ON l.kind = p_kind AND l.division = s.division AND l.exact_id = s.exact_id AND l.gone_at IS NOT NULL
         WHERE j.kind = p_kind AND j.division = s.division AND j.exact_id = s.exact_id AND j.state = 'dead')
    SELECT count(*), array_agg(a.division), array_agg(a.exact_id) INTO v_adopted, v_d, v_i FROM adopted a;
    PERFORM _needs_met(array_fill(p_kind, ARRAY[v_adopted]), v_d, v_i) WHERE v_adopted > 0;

    -- Ours, but its Exact record is not staged: not (again) yet after a restore, or never imported.
    INSERT INTO unclaimed_records AS u (kind, exact_id, pipedrive_id, record)
    SELECT DISTINCT ON (x.exact_id) p_kind, x.exact_id, x.pipedrive_id, jsonb_build_object('id', x.pipedrive_id, 'won_time', x.record->'won_time') || _remote_sent(p_kind, x.record)
      FROM (SELECT (r->>'id')::bigint AS pipedrive_id, r AS record,
                   CASE WHEN r->'custom_fields'->>v_id_code ~ '^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$' THEN (r->'custom_fields'->>v_id_code)::uuid END AS exact_id
              FROM jsonb_array_elements(p_rows) r WHERE NOT coalesce((r->>'is_deleted')::boolean, false)) x
     WHERE x.exact_id IS NOT NULL
       AND NOT EXISTS (SELECT FROM links l WHERE l.kind = p_kind AND (l.pipedrive_id = x.pipedrive_id OR l.exact_id = x.exact_id))
       AND NOT EXISTS (SELECT FROM exact_accounts a WHERE p_kind = 'organization' AND a.id = x.exact_id)
       AND NOT EXISTS (SELECT FROM exact_items i WHERE p_kind = 'product' AND i.id = x.exact_id)
       AND NOT EXISTS (SELECT FROM exact_sales_orders o WHERE p_kind = 'deal' AND o.id = x.exact_id)
     ORDER BY x.exact_id, x.pipedrive_id
    ON CONFLICT (kind, exact_id) DO UPDATE SET pipedrive_id = excluded.pipedrive_id, record = excluded.record, seen_at = excluded.seen_at;
    RETURN v_adopted;
END
$$;
COMMENT ON FUNCTION _adopt(text, jsonb) IS 'Takes over records of Pipedrive that are ours: by Exact-ID, else by debtor number, item code or order number. Returns how many.';

CREATE FUNCTION _pair_lines(p_look bigint) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_count integer;
BEGIN
    -- Known by id first, then the same product at the same price and quantity, then the same product, then in order.
    UPDATE remote_lines r SET line_id = k.line_id
      FROM links l, line_links k
     WHERE r.look_id = p_look AND l.kind = 'deal' AND l.pipedrive_id = r.deal_id AND NOT l.follower
       AND k.division = l.division AND k.order_id = l.exact_id AND k.pipedrive_id = r.pipedrive_id
       AND EXISTS (SELECT FROM exact_sales_order_lines x WHERE x.division = k.division AND x.id = k.line_id AND x.deleted_at IS NULL);
    FOR i IN 1 .. 3 LOOP
        UPDATE remote_lines t SET line_id = p.line_id
          FROM (WITH remote AS (
                    SELECT l.division, l.exact_id AS order_id, r.*,
                           row_number() OVER (PARTITION BY l.division, l.exact_id, CASE WHEN i < 3 THEN r.product_id END,
                                              CASE WHEN i < 2 THEN ROW(trim_scale(r.quantity), trim_scale(r.item_price))::text END ORDER BY r.pipedrive_id) AS n
                      FROM remote_lines r JOIN links l ON l.kind = 'deal' AND l.pipedrive_id = r.deal_id AND NOT l.follower
                     WHERE r.look_id = p_look AND r.line_id IS NULL
                ), ours AS (
                    SELECT w.*, row_number() OVER (PARTITION BY w.division, w.order_id, CASE WHEN i < 3 THEN w.product_id END,
                                                   CASE WHEN i < 2 THEN ROW(trim_scale(w.quantity), trim_scale(w.item_price))::text END ORDER BY w.line_number, w.line_id) AS n
                      FROM (SELECT DISTINCT x.division, x.order_id FROM remote x) d
                     CROSS JOIN LATERAL (SELECT * FROM wanted_deal_products y WHERE y.division = d.division AND y.order_id = d.order_id OFFSET 0) w
                     WHERE NOT EXISTS (SELECT FROM remote_lines z WHERE z.look_id = p_look AND z.line_id = w.line_id)
                )
                SELECT o.line_id, r.pipedrive_id
                  FROM ours o JOIN remote r ON r.division = o.division AND r.order_id = o.order_id AND r.n = o.n
                   AND (i = 3 OR r.product_id = o.product_id) AND (i > 1 OR (r.quantity = o.quantity AND r.item_price = o.item_price))) p
         WHERE t.look_id = p_look AND t.pipedrive_id = p.pipedrive_id;
    END LOOP;

    DELETE FROM line_links k USING looks q, links l
     WHERE q.id = p_look AND l.kind = 'deal' AND l.pipedrive_id = ANY (q.deal_ids) AND NOT l.follower AND k.division = l.division AND k.order_id = l.exact_id;
    INSERT INTO line_links (division, order_id, line_id, pipedrive_id, product_id, quantity, item_price, discount, comments)
    SELECT l.division, l.exact_id, coalesce(r.line_id, md5('pipedrive line ' || r.pipedrive_id)::uuid), r.pipedrive_id, r.product_id, r.quantity, r.item_price, r.discount, r.comments
      FROM remote_lines r JOIN links l ON l.kind = 'deal' AND l.pipedrive_id = r.deal_id AND NOT l.follower
     WHERE r.look_id = p_look;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$$;
COMMENT ON FUNCTION _pair_lines(bigint) IS 'Pairs deal products that were read back with order lines; what fits none of ours is noted so that it is removed.';

CREATE FUNCTION _forget_gone(p_kind text, p_ids bigint[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_gone  uuid[];
    v_d     integer[];
    v_i     uuid[];
BEGIN
    WITH forgotten AS (
        DELETE FROM links l
         WHERE l.kind = p_kind AND l.pipedrive_id = ANY (p_ids) AND l.gone_at IS NOT NULL
           AND EXISTS (SELECT FROM jobs j WHERE j.kind = l.kind AND j.division = l.division AND j.exact_id = l.exact_id AND j.state = 'waiting' AND j.next_attempt_at = 'infinity')
        RETURNING l.division, l.exact_id
    ), lines AS (
        DELETE FROM line_links k USING forgotten f WHERE p_kind = 'deal' AND k.division = f.division AND k.order_id = f.exact_id)
    SELECT array_agg(f.division), array_agg(f.exact_id) INTO v_d, v_gone FROM forgotten f;
    IF v_gone IS NULL OR p_kind = 'deal' THEN
        RETURN;
    END IF;
    -- An organization or product that is made anew has a new id: deals that name the old one follow.
    SELECT array_agg(x.division), array_agg(x.id) INTO v_d, v_i
      FROM (SELECT o.division, o.id FROM unnest(v_d, v_gone) AS f(division, id) JOIN exact_sales_orders o ON o.division = f.division AND o.ordered_by = f.id WHERE p_kind = 'organization'
            UNION
            SELECT s.division, s.order_id FROM unnest(v_d, v_gone) AS f(division, id) JOIN exact_sales_order_lines s ON s.division = f.division AND s.item = f.id WHERE p_kind = 'product') x
     WHERE EXISTS (SELECT FROM links l WHERE l.kind = 'deal' AND l.division = x.division AND l.exact_id = x.id AND l.gone_at IS NULL);
    IF v_d IS NOT NULL THEN
        PERFORM _want_deals(v_d, v_i);
    END IF;
END
$$;
COMMENT ON FUNCTION _forget_gone(text, bigint[]) IS 'Replayed records that a list by id does not show either: they are forgotten, so that they are made anew.';

CREATE FUNCTION _look_done(p_look bigint) RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v       looks;
    v_kind  text;
    v_jobs  bigint[];
    v_grown uuid[];
BEGIN
    UPDATE looks SET done_at = clock_timestamp(), cursor = NULL WHERE id = p_look RETURNING * INTO v;
    v_kind := CASE v.what WHEN 'organizations' THEN 'organization' WHEN 'products' THEN 'product' WHEN 'options' THEN 'groups' ELSE 'deal' END;
    IF v.reason = 'verify' AND v_kind <> 'groups' THEN
        PERFORM _verify_missing(v, v_kind);
    END IF;
    IF v.reason = 'again' THEN
        PERFORM _forget_gone(v_kind, v.deal_ids);
    END IF;
    IF v.what = 'lines' THEN
        -- More lines than we knew of: the call without an answer got somewhere.
        SELECT array_agg(l.exact_id) INTO v_grown FROM links l
         WHERE l.kind = 'deal' AND l.pipedrive_id = ANY (v.deal_ids)
           AND (SELECT count(*) FROM remote_lines r WHERE r.look_id = p_look AND r.deal_id = l.pipedrive_id)
             > (SELECT count(*) FROM line_links k WHERE k.division = l.division AND k.order_id = l.exact_id);
        PERFORM _pair_lines(p_look);
        -- A deal that was taken over, with a value that its lines do not explain: something is taken off the whole deal.
        INSERT INTO looks (what, reason, deal_ids)
        SELECT DISTINCT 'discounts', 'readback', ARRAY[l.pipedrive_id]
          FROM links l
         CROSS JOIN LATERAL (SELECT coalesce(sum(r.line_sum), 0) AS total FROM remote_lines r WHERE r.look_id = p_look AND r.deal_id = l.pipedrive_id) s
         WHERE l.kind = 'deal' AND l.pipedrive_id = ANY (v.deal_ids) AND l.lines_unread AND NOT l.follower
           AND (l.adopted AND l.discount_key IS NULL AND s.total <> 0 AND abs(s.total - (l.sent->>'value')::numeric) >= 0.01
                -- One that was seen with another value than its lines and our discount make.
                OR abs(s.total - coalesce(l.discount_sent, 0) - l.seen_value) >= 0.01)
           AND NOT EXISTS (SELECT FROM looks k WHERE k.what = 'discounts' AND k.done_at IS NULL AND k.deal_ids = ARRAY[l.pipedrive_id]);
        DELETE FROM remote_lines WHERE look_id = p_look;
        UPDATE links l SET lines_unread = false, seen_value = NULL WHERE l.kind = 'deal' AND l.pipedrive_id = ANY (v.deal_ids)
           AND NOT EXISTS (SELECT FROM looks k WHERE k.what = 'discounts' AND k.reason = 'readback' AND k.done_at IS NULL AND k.deal_ids = ARRAY[l.pipedrive_id]);
        DELETE FROM intents i USING links l
         WHERE i.operation = 'line_add' AND i.state = 'unknown' AND l.kind = 'deal' AND l.division = i.division AND l.exact_id = i.exact_id AND l.pipedrive_id = ANY (v.deal_ids);
    ELSIF v.what = 'discounts' THEN
        UPDATE links SET lines_unread = false, seen_value = NULL WHERE kind = 'deal' AND pipedrive_id = ANY (v.deal_ids) AND v.reason = 'readback' AND v.rows <= 1;
        DELETE FROM intents i USING links l
         WHERE i.operation = 'discount_add' AND i.state = 'unknown' AND l.kind = 'deal' AND l.division = i.division AND l.exact_id = i.exact_id AND l.pipedrive_id = ANY (v.deal_ids);
    ELSIF v.deal_ids IS NULL AND NOT EXISTS (SELECT FROM looks k WHERE k.done_at IS NULL AND k.what IN (v.what, CASE WHEN v_kind = 'deal' THEN 'archived_deals' END, CASE WHEN v_kind = 'deal' THEN 'deals' END)) THEN
        -- Announced long enough before this list was begun and not in it: it was not made.
        -- A discount of a deal that is there has a list of its own.
        DELETE FROM intents i
         WHERE i.state = 'unknown' AND i.kind = v_kind AND i.announced_at < v.started_at
           AND (i.operation <> 'create' OR i.unknown_at + make_interval(secs => setting('list_lag')::integer) <= coalesce(v.not_before, v.started_at))
           AND NOT (i.operation = 'discount_add' AND EXISTS (SELECT FROM links l WHERE l.kind = 'deal' AND l.division = i.division AND l.exact_id = i.exact_id));
        PERFORM _ask_looks();
    END IF;
    -- Not made, and not for the first time: later, and in the end not at all.
    UPDATE jobs j SET state = CASE WHEN x.again AND j.attempts >= setting('max_attempts')::integer THEN 'dead' WHEN x.again AND j.attempts > 1 THEN 'waiting' ELSE 'ready' END,
           next_attempt_at = CASE WHEN x.again AND j.attempts BETWEEN 2 AND setting('max_attempts')::integer - 1 THEN clock_timestamp() + _retry_pause(j.attempts) END,
           reason = CASE WHEN x.again AND j.attempts >= setting('max_attempts')::integer THEN format('no good answer from Pipedrive in %s attempts; replay when it is well again', j.attempts)
                         WHEN x.again AND j.attempts > 1 THEN _plain_reason('retry', NULL, NULL, NULL) END,
           class = CASE WHEN x.again AND j.attempts > 1 THEN 'theirs' END,
           attempts = CASE WHEN v.what = 'lines' AND j.exact_id = ANY (v_grown) THEN 0 ELSE j.attempts END, updated_at = clock_timestamp()
      FROM (SELECT y.id,
                   CASE v.what WHEN 'lines' THEN y.exact_id <> ALL (coalesce(v_grown, '{}'))
                               WHEN 'options' THEN EXISTS (SELECT FROM _calls_groups())
                               ELSE y.state = 'unknown' AND NOT EXISTS (SELECT FROM links l WHERE l.kind = y.kind AND l.division = y.division AND l.exact_id = y.exact_id
                                                                           AND CASE v.what WHEN 'discounts' THEN l.discount_key IS NOT NULL ELSE l.last_verified >= v.started_at END) END AS again
              FROM jobs y WHERE y.kind = v_kind AND y.state IN ('unknown', 'waiting')) x
     WHERE x.id = j.id AND j.kind = v_kind AND (j.state = 'unknown' OR j.state = 'waiting' AND j.next_attempt_at = 'infinity')
       AND NOT EXISTS (SELECT FROM links g WHERE g.kind = j.kind AND g.division = j.division AND g.exact_id = j.exact_id AND g.gone_at IS NOT NULL)
       AND NOT EXISTS (SELECT FROM intents i WHERE i.job_id = j.id)
       AND (v.what NOT IN ('lines', 'discounts') OR EXISTS (SELECT FROM links l WHERE l.kind = 'deal' AND l.division = j.division AND l.exact_id = j.exact_id AND l.pipedrive_id = ANY (v.deal_ids)
                                                               AND NOT EXISTS (SELECT FROM looks k WHERE k.what = 'discounts' AND k.reason = 'readback' AND k.done_at IS NULL AND k.deal_ids = ARRAY[l.pipedrive_id])))
       AND (v.what IN ('lines', 'discounts') OR NOT EXISTS (SELECT FROM links l WHERE l.kind = j.kind AND l.division = j.division AND l.exact_id = j.exact_id AND l.lines_unread)
            OR NOT EXISTS (SELECT FROM looks k WHERE k.what = 'lines' AND k.done_at IS NULL))
       AND NOT EXISTS (SELECT FROM looks k WHERE k.done_at IS NULL AND v_kind = 'deal' AND k.what IN ('deals', 'archived_deals') AND v.what IN ('deals', 'archived_deals'));
    -- Nobody waits for a list when none is left to be read.  What is unknown even then is asked for anew.
    IF NOT EXISTS (SELECT FROM looks k WHERE k.done_at IS NULL) THEN
        PERFORM _ask_looks();
        UPDATE jobs j SET state = 'ready', next_attempt_at = NULL, reason = NULL, class = NULL, updated_at = clock_timestamp()
         WHERE (j.state = 'unknown' OR j.state = 'waiting' AND j.next_attempt_at = 'infinity')
           AND NOT EXISTS (SELECT FROM intents i WHERE i.job_id = j.id) AND NOT EXISTS (SELECT FROM looks k WHERE k.done_at IS NULL);
    END IF;
    -- Reading lines back is routine and told by the table alone.
    RETURN CASE WHEN v.reason = 'verify' THEN format('verified %s against Pipedrive: %s seen, %s differ from what was known, %s adopted', v.what, v.rows, v.differ, v.adopted)
                WHEN v.reason IN ('scan', 'start', 'unknown') THEN format('looked through %s at Pipedrive (%s): %s seen, %s adopted', v.what, v.reason, v.rows, v.adopted) END;
END
$$;
COMMENT ON FUNCTION _look_done(bigint) IS 'A list was read to its end: settles what waited for it.';

CREATE FUNCTION _look_take(p_look bigint, p_status integer, p_answer text) RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v         looks;
    v_page    jsonb;
    v_rows    jsonb;
    v_n       integer := 0;
    v_differ  integer := 0;
    v_cursor  text;
BEGIN
    SELECT * INTO v FROM looks WHERE id = p_look FOR UPDATE;
    IF NOT FOUND THEN
        -- Asked for before everything was to be verified, or before another field was named.
        RETURN NULL;
    END IF;
    INSERT INTO api_calls (side, what, method, path, status, outcome, tokens)
    VALUES ('pipedrive', 'look', 'GET', v.what, nullif(p_status, 0), CASE WHEN p_status BETWEEN 200 AND 299 THEN 'ok' ELSE 'failed' END,
            CASE v.what WHEN 'archived_deals' THEN 20 WHEN 'options' THEN 1 ELSE 10 END);
    IF p_status NOT BETWEEN 200 AND 299 THEN
        UPDATE looks SET failures = failures + 1, last_error = left(coalesce(p_answer, 'no answer'), 500),
               -- A cursor may be too old: begin anew.
               cursor = CASE WHEN p_status BETWEEN 400 AND 499 AND p_status <> 429 THEN NULL ELSE cursor END
         WHERE id = p_look;
        DELETE FROM remote_lines WHERE look_id = p_look AND p_status BETWEEN 400 AND 499 AND p_status <> 429;
        -- Without JSON it is a proxy's answer, and says nothing of the deal.
        IF p_status IN (404, 410) AND p_answer ~ '^\s*\{' AND v.what IN ('discounts') THEN
            RETURN _look_done(p_look);
        END IF;
        RETURN format('the list of %s could not be read (status %s)', v.what, p_status);
    END IF;

    v_page := p_answer::jsonb;
    v_rows := CASE WHEN jsonb_typeof(v_page->'data') = 'array' THEN v_page->'data' WHEN v_page->'data' = 'null' OR NOT v_page ? 'data' THEN '[]' ELSE jsonb_build_array(v_page->'data') END;
    v_cursor := v_page->'additional_data'->>'next_cursor';
    IF v_cursor = v.cursor THEN
        -- A list that never ends would cost all tokens of the day.
        UPDATE looks SET failures = failures + 1, cursor = NULL, not_before = clock_timestamp() + interval '5 minutes', last_error = 'the list names its page as its own next page' WHERE id = p_look;
        DELETE FROM remote_lines WHERE look_id = p_look;
        RETURN format('the list of %s does not end', v.what);
    END IF;
    IF v.reason = 'verify' AND v.what <> 'options' THEN
        v_differ := _compare_page(CASE v.what WHEN 'organizations' THEN 'organization' WHEN 'products' THEN 'product' ELSE 'deal' END, v_rows, v.since, v.started_at);
    END IF;
    CASE v.what
    WHEN 'organizations' THEN v_n := _adopt('organization', v_rows);
    WHEN 'products' THEN v_n := _adopt('product', v_rows);
    WHEN 'deals' THEN v_n := _adopt('deal', v_rows);
    WHEN 'archived_deals' THEN v_n := _adopt('deal', v_rows);
    WHEN 'lines' THEN
        INSERT INTO remote_lines (look_id, pipedrive_id, deal_id, product_id, quantity, item_price, discount, line_sum, comments)
        SELECT p_look, (r->>'id')::bigint, (r->>'deal_id')::bigint, coalesce((r->>'product_id')::bigint, 0), coalesce((r->>'quantity')::numeric, 0), coalesce((r->>'item_price')::numeric, 0),
               CASE WHEN NOT coalesce((r->>'is_enabled')::boolean, true) OR coalesce((r->>'tax')::numeric, 0) <> 0 AND coalesce(r->>'tax_method', 'none') <> 'none' THEN -2
                    WHEN coalesce((r->>'discount')::numeric, 0) = 0 THEN 0 WHEN r->>'discount_type' = 'amount' THEN -1 ELSE (r->>'discount')::numeric END,
               CASE WHEN coalesce((r->>'is_enabled')::boolean, true) THEN (r->>'sum')::numeric ELSE 0 END, nullif(r->>'comments', '')
          FROM jsonb_array_elements(v_rows) r
        ON CONFLICT DO NOTHING;
    WHEN 'discounts' THEN
        -- Ours may have been removed by a person.
        UPDATE links l SET discount_key = NULL, discount_sent = NULL
         WHERE v.reason = 'readback' AND l.kind = 'deal' AND l.pipedrive_id = v.deal_ids[1] AND NOT l.follower AND l.discount_key IS NOT NULL
           AND NOT EXISTS (SELECT FROM jsonb_array_elements(v_rows) r WHERE r->>'id' = l.discount_key);
        -- One of a deal that was taken over becomes ours, whatever it is called; of our own deals only the one we made.
        UPDATE links l SET discount_key = d.key, discount_sent = d.amount
          FROM (SELECT r->>'id' AS key, CASE WHEN r->>'type' = 'amount' THEN (r->>'amount')::numeric ELSE -1 END AS amount,
                       r->>'description' = 'Afronding' AND r->>'type' = 'amount' AS ours
                  FROM jsonb_array_elements(v_rows) r ORDER BY 3 DESC, 1 LIMIT 1) d
         WHERE l.kind = 'deal' AND l.pipedrive_id = v.deal_ids[1] AND NOT l.follower AND (d.ours OR v.reason = 'readback' AND jsonb_array_length(v_rows) = 1);
        UPDATE jobs j SET state = 'dead', class = 'ours', next_attempt_at = NULL, updated_at = clock_timestamp(),
               reason = 'this deal has several discounts of its own in Pipedrive, so its value cannot be that of the order: remove them there and replay'
          FROM links l
         WHERE v.reason = 'readback' AND jsonb_array_length(v_rows) > 1 AND l.kind = 'deal' AND l.pipedrive_id = v.deal_ids[1]
           AND j.kind = 'deal' AND j.division = l.division AND j.exact_id = l.exact_id AND j.state = 'waiting';
    WHEN 'options' THEN
        INSERT INTO pipedrive_options (label, option_id)
        SELECT o->>'label', (o->>'id')::bigint FROM jsonb_array_elements(v_rows->0->'options') o WHERE o->>'id' ~ '^[0-9]+$'
        ON CONFLICT (label) DO UPDATE SET option_id = excluded.option_id;
    END CASE;
    UPDATE looks SET rows = rows + jsonb_array_length(v_rows), adopted = adopted + v_n, differ = differ + v_differ, cursor = v_cursor, failures = 0, last_error = NULL WHERE id = p_look;
    IF v_cursor IS NULL THEN
        RETURN _look_done(p_look);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _look_take(bigint, integer, text) IS 'Takes one page of a list; at its end says what was found.';
