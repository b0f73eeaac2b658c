/*
 * 50_plan.sql
 *		Wanted minus sent: the calls an object needs now, by the cheapest mix of
 *		operations.  Reads only; plan() shows it, _take_batch() announces it.
 */

CREATE TYPE _call AS (
    kind        text,
    division    integer,
    exact_id    uuid,
    step        integer,
    operation   text,
    method      text,
    path        text,
    body        jsonb,
    old_value   jsonb,
    tokens      integer,
    is_create   boolean,
    line_ids    uuid[]
);
COMMENT ON TYPE _call IS 'One planned call; operation need = not a call but a piece that is missing first (path = its kind, line_ids = its GUID).';

CREATE FUNCTION _keys(p_division integer[], p_id uuid[]) RETURNS TABLE (division integer, id uuid)
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE ROWS 500
    AS $$ BEGIN RETURN QUERY SELECT * FROM unnest(p_division, p_id); END $$;
COMMENT ON FUNCTION _keys(integer[], uuid[]) IS 'Two arrays as rows. A function of its own so that the planner expects many and joins them by hash.';

CREATE FUNCTION _calls_objects(p_kind text, p_division integer[], p_id uuid[]) RETURNS SETOF _call
    LANGUAGE plpgsql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan
    -- Keys only: tables that fill and empty fool the statistics.
    SET enable_seqscan = off
    SET jit = off
    AS $$
DECLARE
    v_policies boolean := EXISTS (SELECT FROM field_policies p WHERE p.kind = p_kind);
BEGIN
    -- plpgsql, because it keeps its plan: planning this takes longer than running it.
    RETURN QUERY
    WITH wanted AS (
        SELECT w.division, w.exact_id, w.body, '/api/v2/organizations' AS path
          FROM _keys(p_division, p_id) AS k
         CROSS JOIN LATERAL (SELECT * FROM wanted_organizations x WHERE x.division = k.division AND x.exact_id = k.id OFFSET 0) w
         WHERE p_kind = 'organization'
        UNION ALL
        SELECT w.division, w.exact_id, w.body, '/api/v2/products'
          FROM _keys(p_division, p_id) AS k
         CROSS JOIN LATERAL (SELECT * FROM wanted_products x WHERE x.division = k.division AND x.exact_id = k.id OFFSET 0) w
         WHERE p_kind = 'product'
    ), compared AS (
        SELECT w.*, l.pipedrive_id, l.sent, l.gone_at, l.follower,
               CASE WHEN l.pipedrive_id IS NOT NULL THEN _body_diff(l.sent, CASE WHEN v_policies THEN _policy_body(p_kind, w.body, l.kept) ELSE w.body END) END AS diff
          FROM wanted w
          LEFT JOIN LATERAL (SELECT * FROM links x WHERE x.kind = p_kind AND x.division = w.division AND x.exact_id = w.exact_id OFFSET 0) l ON true
    )
    SELECT p_kind, c.division, c.exact_id, 1,
           CASE WHEN c.pipedrive_id IS NULL THEN 'create' ELSE 'update' END,
           CASE WHEN c.pipedrive_id IS NULL THEN 'POST' ELSE 'PATCH' END,
           CASE WHEN c.pipedrive_id IS NULL THEN c.path ELSE c.path || '/' || c.pipedrive_id END,
           CASE WHEN c.pipedrive_id IS NULL THEN jsonb_strip_nulls(c.body) ELSE c.diff END,
           CASE WHEN c.pipedrive_id IS NOT NULL THEN _body_old(c.sent, c.diff) END,
           5, c.pipedrive_id IS NULL, NULL::uuid[]
      FROM compared c
     WHERE c.gone_at IS NULL AND NOT coalesce(c.follower, false) AND (c.pipedrive_id IS NULL OR c.diff IS NOT NULL);
END
    $$;
COMMENT ON FUNCTION _calls_objects(text, integer[], uuid[]) IS 'Calls for organizations or products.';

CREATE FUNCTION _calls_groups() RETURNS SETOF _call
    LANGUAGE plpgsql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan
    AS $$
BEGIN
    -- plpgsql, because it keeps its plan: planning this takes longer than running it.
    RETURN QUERY
    SELECT 'groups', 0, '00000000-0000-0000-0000-000000000000'::uuid, 1, 'options_add', 'POST',
           '/api/v2/productFields/' || f.code || '/options',
           m.labels, NULL::jsonb, 5, true, NULL::uuid[]
      FROM pipedrive_fields f
     CROSS JOIN LATERAL (
            SELECT jsonb_agg(jsonb_build_object('label', x.label) ORDER BY x.label) AS labels
              FROM (SELECT DISTINCT left(g.description, 255) AS label FROM exact_item_groups g
                     WHERE g.deleted_at IS NULL AND g.description <> ''
                       AND NOT EXISTS (SELECT FROM pipedrive_options o WHERE o.label = left(g.description, 255))) x) m
     WHERE f.entity = 'product' AND f.purpose = 'item_group' AND f.state IN ('found', 'made') AND m.labels IS NOT NULL;
END
    $$;
COMMENT ON FUNCTION _calls_groups() IS 'One call that adds all missing options of Artikelgroep.';

CREATE FUNCTION _calls_deals(p_division integer[], p_id uuid[], p_show_pending boolean) RETURNS SETOF _call
    LANGUAGE plpgsql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan
    -- Keys only: tables that fill and empty fool the statistics.
    SET enable_seqscan = off
    SET jit = off
    AS $$
DECLARE
    v_policies  boolean := EXISTS (SELECT FROM field_policies p WHERE p.kind = 'deal');
    v_gone      boolean := EXISTS (SELECT FROM links l WHERE l.gone_at IS NOT NULL AND l.kind <> 'deal');
    v_lines     text := CASE WHEN v_policies THEN _field_policy('deal', 'lines') ELSE 'exact' END;
BEGIN
    -- plpgsql, because it keeps its plan: planning this takes longer than running it.
    RETURN QUERY
    WITH w AS MATERIALIZED (
        SELECT d.*, l.pipedrive_id, l.sent, l.discount_key, l.discount_sent, l.first_won_at, l.kept AS fields_left,
               d.deleted OR CASE v_lines WHEN 'exact' THEN false
                                         WHEN 'create-only' THEN EXISTS (SELECT FROM line_links x WHERE x.division = d.division AND x.order_id = d.exact_id)
                                         ELSE coalesce('lines' = ANY (l.kept), false) END AS lines_left
          FROM _keys(p_division, p_id) AS k
          -- OFFSET 0: key by key, never the whole view joined to the keys afterwards.
         CROSS JOIN LATERAL (SELECT * FROM wanted_deals x WHERE x.division = k.division AND x.exact_id = k.id OFFSET 0) d
          LEFT JOIN LATERAL (SELECT * FROM links x WHERE x.kind = 'deal' AND x.division = k.division AND x.exact_id = k.id OFFSET 0) l ON true
         -- As a function call, because the planner takes a bare IS NULL for rare and then joins by nested loops.
         WHERE booleq(l.gone_at IS NULL AND l.archived_at IS NULL AND l.follower IS NOT TRUE AND (d.in_window OR l.pipedrive_id IS NOT NULL), true)
    ), ln AS MATERIALIZED (
        SELECT p.* FROM w CROSS JOIN LATERAL (SELECT * FROM _wanted_lines(w.division, w.exact_id, w.lines_with_vat, w.raise, w.discount_percent) OFFSET 0) p WHERE w.send_lines AND NOT w.lines_left
    ), need AS MATERIALIZED (
        SELECT w.division, w.exact_id, 'organization' AS kind, w.organization_exact_id AS id
          FROM w WHERE w.organization_exact_id IS NOT NULL AND w.organization_id IS NULL
        UNION
        SELECT ln.division, ln.order_id, 'product', ln.item FROM ln WHERE ln.product_id IS NULL
        UNION
        -- What a person deleted is there no longer for what is new; what is there already keeps it.
        SELECT w.division, w.exact_id, 'organization', w.organization_exact_id
          FROM w WHERE v_gone AND w.pipedrive_id IS NULL
           AND EXISTS (SELECT FROM links x WHERE x.kind = 'organization' AND x.division = w.division AND x.exact_id = w.organization_exact_id AND x.gone_at IS NOT NULL)
        UNION
        SELECT ln.division, ln.order_id, 'product', ln.item
          FROM ln WHERE v_gone
           AND EXISTS (SELECT FROM links x WHERE x.kind = 'product' AND x.division = ln.division AND x.exact_id = ln.item AND x.gone_at IS NOT NULL)
           AND NOT EXISTS (SELECT FROM line_links k WHERE k.division = ln.division AND k.order_id = ln.order_id AND k.line_id = ln.line_id AND k.product_id = ln.product_id)
    ), go AS MATERIALIZED (
        SELECT w.* FROM w
         WHERE p_show_pending OR NOT EXISTS (SELECT FROM need n WHERE n.division = w.division AND n.exact_id = w.exact_id)
    ), header AS (
        SELECT g.division, g.exact_id, g.pipedrive_id, g.status, g.closed_at, g.first_won_at, g.sent,
               CASE WHEN g.pipedrive_id IS NULL THEN jsonb_strip_nulls(g.body) ELSE _body_diff(g.sent, g.kept) END AS diff
          FROM (SELECT x.*, CASE WHEN x.pipedrive_id IS NULL THEN NULL
                                 WHEN v_policies THEN _policy_body('deal', _deal_kept(x.body, NOT (x.owner_kept OR x.owner_id IS NULL), NOT x.unmapped, NOT x.lines_left, x.stage_id IS NOT NULL), x.fields_left)
                                 ELSE _deal_kept(x.body, NOT (x.owner_kept OR x.owner_id IS NULL), NOT x.unmapped, NOT x.lines_left, x.stage_id IS NOT NULL) END
                             -- The id of an organization that is gone is refused: the deal is left where it is.
                             - CASE WHEN v_gone AND EXISTS (SELECT FROM links o WHERE o.kind = 'organization' AND o.division = x.division AND o.exact_id = x.organization_exact_id AND o.gone_at IS NOT NULL)
                                    THEN 'org_id' ELSE '' END AS kept
                  FROM go x OFFSET 0) g
         OFFSET 0
    ), header_call AS (
        SELECT h.division, h.exact_id, h.pipedrive_id,
               h.diff, t.times, h.pipedrive_id IS NULL AND o.apart AND t.times <> '{}' AS times_apart,
               CASE WHEN h.pipedrive_id IS NOT NULL THEN _body_old(h.sent, h.diff) END AS old_value
          FROM header h
         CROSS JOIN (SELECT coalesce((SELECT x.value FROM settings x WHERE x.name = 'won_time_on_create'), 'on') = 'off' AS apart) o
         CROSS JOIN LATERAL (
                SELECT CASE WHEN h.diff->>'status' = 'won' THEN jsonb_build_object('won_time', coalesce(h.first_won_at, h.closed_at))
                            WHEN h.diff->>'status' = 'lost' THEN jsonb_build_object('lost_time', h.closed_at) ELSE '{}'::jsonb END AS times OFFSET 0) t
         WHERE h.diff IS NOT NULL
    ), have AS MATERIALIZED (
        SELECT k.* FROM go g CROSS JOIN LATERAL (SELECT * FROM line_links x WHERE x.division = g.division AND x.order_id = g.exact_id OFFSET 0) k WHERE NOT g.lines_left
    ), pair AS (
        SELECT ln.division, ln.order_id, ln.line_id, ln.line_number, ln.product_id, ln.quantity, ln.item_price, ln.discount, ln.comments,
               k.pipedrive_id AS line_pid, k.product_id AS old_product_id, k.quantity AS old_quantity, k.item_price AS old_item_price,
               k.discount AS old_discount, k.comments AS old_comments,
               CASE WHEN k.pipedrive_id IS NULL THEN 'add'
                    WHEN (ln.product_id, ln.quantity, ln.item_price, ln.discount, coalesce(ln.comments, ''))
                         IS DISTINCT FROM (k.product_id, k.quantity, k.item_price, k.discount, coalesce(k.comments, '')) THEN 'change' END AS what
          FROM go g
          JOIN ln ON ln.division = g.division AND ln.order_id = g.exact_id
          -- By key: a join with "have" is a nested loop of all with all while the statistics are those of an empty table.
          LEFT JOIN LATERAL (SELECT * FROM line_links x WHERE x.division = ln.division AND x.order_id = ln.order_id AND x.line_id = ln.line_id OFFSET 0) k ON true
    ), gone AS (
        SELECT k.division, k.order_id, k.line_id, k.pipedrive_id AS line_pid
          FROM have k
         WHERE NOT EXISTS (SELECT FROM ln WHERE ln.division = k.division AND ln.order_id = k.order_id AND ln.line_id = k.line_id)
    ), mix AS MATERIALIZED (
        SELECT m.division, m.order_id, (line_mix(m.adds, m.changes, m.deletes)).patched
          FROM (SELECT x.division, x.order_id, count(*) FILTER (WHERE x.what = 'add')::integer AS adds,
                       count(*) FILTER (WHERE x.what = 'change')::integer AS changes, count(*) FILTER (WHERE x.what = 'delete')::integer AS deletes
                  FROM (SELECT p.division, p.order_id, p.what FROM pair p WHERE p.what IS NOT NULL
                        UNION ALL SELECT g.division, g.order_id, 'delete' FROM gone g) x
                 GROUP BY x.division, x.order_id) m
    ), ranked AS (
        SELECT p.*, CASE WHEN p.what = 'change' AND row_number() OVER (PARTITION BY p.division, p.order_id, p.what
                              ORDER BY (p.item_price, p.product_id) IS DISTINCT FROM (p.old_item_price, p.old_product_id), p.line_number, p.line_id) > m.patched
                         THEN true ELSE false END AS replaced
          FROM pair p JOIN mix m ON m.division = p.division AND m.order_id = p.order_id
         WHERE p.what IS NOT NULL
    ), adds AS (
        SELECT r.division, r.order_id, r.line_id, r.line_number,
               jsonb_strip_nulls(jsonb_build_object('product_id', r.product_id, 'item_price', trim_scale(r.item_price), 'quantity', trim_scale(r.quantity),
                                  'tax', 0, 'tax_method', 'none', 'discount', CASE WHEN r.discount <> 0 THEN trim_scale(r.discount) END,
                                  'discount_type', CASE WHEN r.discount <> 0 THEN 'percentage' END, 'comments', r.comments)) AS body,
               row_number() OVER o - 1 AS n, count(*) OVER (PARTITION BY r.division, r.order_id) AS total
          FROM ranked r WHERE r.what = 'add' OR r.replaced
        WINDOW o AS (PARTITION BY r.division, r.order_id ORDER BY r.line_number NULLS LAST, r.line_id)
    ), dels AS (
        SELECT x.division, x.order_id, x.line_id, x.line_pid, row_number() OVER o - 1 AS n, count(*) OVER (PARTITION BY x.division, x.order_id) AS total
          FROM (SELECT g.division, g.order_id, g.line_id, g.line_pid FROM gone g
                UNION ALL SELECT r.division, r.order_id, r.line_id, r.line_pid FROM ranked r WHERE r.replaced) x
        WINDOW o AS (PARTITION BY x.division, x.order_id ORDER BY x.line_pid)
    ), line_sum AS (
        SELECT ln.division, ln.order_id, sum(ln.quantity * ln.item_price * (1 - ln.discount / 100)) AS line_sum FROM ln GROUP BY ln.division, ln.order_id
    ), closing AS (
        SELECT g.division, g.exact_id, g.pipedrive_id, g.discount_key, g.discount_sent, _closing_discount(s.line_sum, g.value) AS amount
          FROM go g LEFT JOIN line_sum s ON s.division = g.division AND s.order_id = g.exact_id
         WHERE NOT g.lines_left
    ), calls AS (
        SELECT h.division, h.exact_id, 2 AS step, 0::bigint AS n,
               CASE WHEN h.pipedrive_id IS NULL THEN 'create' ELSE 'update' END AS operation,
               CASE WHEN h.pipedrive_id IS NULL THEN 'POST' ELSE 'PATCH' END AS method,
               '/api/v2/deals' || CASE WHEN h.pipedrive_id IS NULL THEN '' ELSE '/' || h.pipedrive_id END AS path,
               CASE WHEN h.times_apart THEN h.diff ELSE h.diff || h.times END AS body, h.old_value, 5 AS tokens, h.pipedrive_id IS NULL AS is_create, NULL::uuid[] AS line_ids
          FROM header_call h
        UNION ALL
        SELECT h.division, h.exact_id, 2, 1, 'update', 'PATCH', '/api/v2/deals/{deal}', h.times, NULL, 5, false, NULL
          FROM header_call h WHERE h.times_apart
        UNION ALL
        -- One by one up to four, in bulk from five on (pipedrive 3.6).
        SELECT d.division, d.order_id, 1, min(d.n), 'line_delete', 'DELETE',
               CASE WHEN count(*) = 1 THEN '/api/v2/deals/{deal}/products/' || min(d.line_pid)
                    ELSE '/api/v2/deals/{deal}/products?ids=' || string_agg(d.line_pid::text, ',' ORDER BY d.n) END,
               NULL::jsonb, NULL::jsonb, CASE WHEN count(*) = 1 THEN 3 ELSE 15 END, false, array_agg(d.line_id ORDER BY d.n)
          FROM dels d
         GROUP BY d.division, d.order_id, d.n / 100, CASE WHEN d.n / 100 = d.total / 100 AND d.total % 100 < 5 THEN d.n END
        UNION ALL
        SELECT r.division, r.order_id, 3, r.line_number, 'line_change', 'PATCH', '/api/v2/deals/{deal}/products/' || r.line_pid,
               jsonb_strip_nulls(jsonb_build_object(
                    'product_id', CASE WHEN r.product_id IS DISTINCT FROM r.old_product_id THEN r.product_id END,
                    'item_price', CASE WHEN r.item_price IS DISTINCT FROM r.old_item_price THEN trim_scale(r.item_price) END,
                    'quantity', CASE WHEN r.quantity IS DISTINCT FROM r.old_quantity THEN trim_scale(r.quantity) END,
                    'discount', CASE WHEN r.discount IS DISTINCT FROM r.old_discount THEN trim_scale(r.discount) END,
                    'discount_type', CASE WHEN r.discount IS DISTINCT FROM r.old_discount THEN 'percentage' END,
                    -- A line of somebody else's making, with tax or switched off: these would be in the value.
                    'tax', CASE WHEN r.old_discount = -2 THEN 0 END, 'tax_method', CASE WHEN r.old_discount = -2 THEN 'none' END, 'is_enabled', CASE WHEN r.old_discount = -2 THEN true END,
                    'comments', CASE WHEN coalesce(r.comments, '') IS DISTINCT FROM coalesce(r.old_comments, '') THEN coalesce(r.comments, '') END)),
               jsonb_strip_nulls(jsonb_build_object(
                    'product_id', CASE WHEN r.product_id IS DISTINCT FROM r.old_product_id THEN r.old_product_id END,
                    'item_price', CASE WHEN r.item_price IS DISTINCT FROM r.old_item_price THEN nullif(r.old_item_price, 'NaN') END,
                    'quantity', CASE WHEN r.quantity IS DISTINCT FROM r.old_quantity THEN nullif(r.old_quantity, 'NaN') END,
                    'discount', CASE WHEN r.discount IS DISTINCT FROM r.old_discount THEN nullif(r.old_discount, 'NaN') END,
                    'comments', CASE WHEN coalesce(r.comments, '') IS DISTINCT FROM coalesce(r.old_comments, '') THEN nullif(r.old_comments, chr(1)) END)),
               5, false, ARRAY[r.line_id]
          FROM ranked r WHERE r.what = 'change' AND NOT r.replaced
        UNION ALL
        SELECT a.division, a.order_id, 4, min(a.n), 'line_add', 'POST',
               '/api/v2/deals/{deal}/products' || CASE WHEN count(*) = 1 THEN '' ELSE '/bulk' END,
               CASE WHEN count(*) = 1 THEN (array_agg(a.body))[1] ELSE jsonb_build_object('data', jsonb_agg(a.body ORDER BY a.n)) END,
               NULL, CASE WHEN count(*) = 1 THEN 5 ELSE 25 END, true, array_agg(a.line_id ORDER BY a.n)
          FROM adds a
         GROUP BY a.division, a.order_id, a.n / 100, CASE WHEN a.n / 100 = a.total / 100 AND a.total % 100 < 5 THEN a.n END
        UNION ALL
        SELECT c.division, c.exact_id, 5, 0,
               CASE WHEN c.amount IS NULL THEN 'discount_delete' WHEN c.discount_key IS NULL THEN 'discount_add' ELSE 'discount_change' END,
               CASE WHEN c.amount IS NULL THEN 'DELETE' WHEN c.discount_key IS NULL THEN 'POST' ELSE 'PATCH' END,
               '/api/v2/deals/{deal}/discounts' || coalesce('/' || c.discount_key, ''),
               CASE WHEN c.amount IS NULL THEN NULL
                    WHEN c.discount_key IS NULL THEN jsonb_build_object('description', 'Afronding', 'amount', c.amount, 'type', 'amount')
                    ELSE jsonb_strip_nulls(jsonb_build_object('amount', c.amount, 'type', CASE WHEN c.discount_sent < 0 THEN 'amount' END)) END,
               CASE WHEN c.discount_sent IS NOT NULL THEN jsonb_build_object('amount', nullif(c.discount_sent, -1)) END,
               CASE WHEN c.amount IS NULL THEN 3 ELSE 5 END, c.amount IS NOT NULL AND c.discount_key IS NULL, NULL
          FROM closing c
         WHERE c.amount IS DISTINCT FROM c.discount_sent
    )
    SELECT 'deal', c.division, c.exact_id, (row_number() OVER (PARTITION BY c.division, c.exact_id ORDER BY c.step, c.n))::integer,
           c.operation, c.method,
           CASE WHEN g.pipedrive_id IS NOT NULL THEN replace(c.path, '{deal}', g.pipedrive_id::text) ELSE c.path END,
           c.body, c.old_value, c.tokens, c.is_create, c.line_ids
      FROM calls c JOIN go g ON g.division = c.division AND g.exact_id = c.exact_id
    UNION ALL
    SELECT 'deal', n.division, n.exact_id, 0, 'need', NULL, n.kind, NULL, NULL, 0, false, ARRAY[n.id]
      FROM need n WHERE NOT p_show_pending;
END
    $$;
COMMENT ON FUNCTION _calls_deals(integer[], uuid[], boolean) IS 'Calls for deals with their lines and closing discount. A deal with a missing piece gives rows of operation need instead, unless those are to be shown as if it were there.';

CREATE FUNCTION _calls_for(p_kind text, p_division integer[], p_id uuid[], p_show_pending boolean DEFAULT false) RETURNS SETOF _call
    LANGUAGE plpgsql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    IF p_kind = 'deal' THEN
        RETURN QUERY SELECT * FROM _calls_deals(p_division, p_id, p_show_pending);
    ELSIF p_kind = 'groups' THEN
        RETURN QUERY SELECT * FROM _calls_groups();
    ELSE
        RETURN QUERY SELECT * FROM _calls_objects(p_kind, p_division, p_id);
    END IF;
END
$$;
COMMENT ON FUNCTION _calls_for(text, integer[], uuid[], boolean) IS 'The calls that objects of one kind need now.';

CREATE FUNCTION plan() RETURNS TABLE (
        kind text, division integer, exact_id uuid, object text, operation text, call text, old_value jsonb, new_value jsonb, tokens integer)
    LANGUAGE plpgsql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    -- compiling what runs once takes seconds
    SET jit = off
    AS $$
DECLARE
    v_deals_d    integer[];
    v_deals_i    uuid[];
    v_objects    text;
    v_d          integer[];
    v_i          uuid[];
BEGIN
    -- Deals: what is queued, what was signalled (also in this very transaction), everything after a changed rule.
    SELECT array_agg(x.division), array_agg(x.exact_id) INTO v_deals_d, v_deals_i
      FROM (SELECT j.division, j.exact_id FROM jobs j WHERE j.kind = 'deal' AND j.state <> 'dead'
            UNION SELECT s.division, s.exact_id FROM job_signals s WHERE s.kind = 'deal'
            UNION SELECT o.division, o.id FROM exact_sales_orders o WHERE EXISTS (SELECT FROM job_signals s WHERE s.kind = 'all_deals')) x;

    FOREACH v_objects IN ARRAY ARRAY['groups', 'organization', 'product'] LOOP
        SELECT array_agg(x.division), array_agg(x.exact_id) INTO v_d, v_i
          FROM (SELECT j.division, j.exact_id FROM jobs j WHERE j.kind = v_objects AND j.state <> 'dead'
                UNION
                SELECT s.division, s.exact_id FROM job_signals s
                 WHERE s.kind = v_objects AND v_objects <> 'groups' AND _is_wanted(v_objects, s.division, s.exact_id)
                UNION
                SELECT l.division, l.exact_id FROM links l WHERE l.kind = v_objects AND EXISTS (SELECT FROM job_signals s WHERE s.kind = 'all_' || v_objects || 's')
                UNION
                -- What the deals need and has no link yet, as _want_deals() queues it; key by key.
                SELECT o.division, o.ordered_by FROM _keys(v_deals_d, v_deals_i) k
                 CROSS JOIN LATERAL (SELECT y.in_window FROM deal_lanes y WHERE y.division = k.division AND y.exact_id = k.id OFFSET 0) w
                 CROSS JOIN LATERAL (SELECT y.division, y.ordered_by FROM exact_sales_orders y WHERE y.division = k.division AND y.id = k.id OFFSET 0) o
                 WHERE v_objects = 'organization' AND o.ordered_by IS NOT NULL
                   AND (w.in_window OR EXISTS (SELECT FROM links y WHERE y.kind = 'deal' AND y.division = k.division AND y.exact_id = k.id))
                   AND NOT EXISTS (SELECT FROM links l WHERE l.kind = 'organization' AND l.division = o.division AND l.exact_id = o.ordered_by)
                UNION
                SELECT i.division, i.item FROM _keys(v_deals_d, v_deals_i) k
                 CROSS JOIN LATERAL (SELECT y.in_window FROM deal_lanes y WHERE y.division = k.division AND y.exact_id = k.id OFFSET 0) w
                 CROSS JOIN LATERAL (SELECT y.division, coalesce(y.item, '00000000-0000-0000-0000-000000000000') AS item
                                       FROM exact_sales_order_lines y WHERE y.division = k.division AND y.order_id = k.id AND y.deleted_at IS NULL OFFSET 0) i
                 WHERE v_objects = 'product'
                   AND (w.in_window OR EXISTS (SELECT FROM links y WHERE y.kind = 'deal' AND y.division = k.division AND y.exact_id = k.id))
                   AND NOT EXISTS (SELECT FROM links l WHERE l.kind = 'product' AND l.division = i.division AND l.exact_id = i.item)) x;
        CONTINUE WHEN v_objects <> 'groups' AND v_d IS NULL;
        RETURN QUERY
        SELECT c.kind, c.division, c.exact_id,
               CASE v_objects WHEN 'organization' THEN (SELECT a.name FROM exact_accounts a WHERE a.division = c.division AND a.id = c.exact_id)
                              WHEN 'product' THEN (SELECT i.description FROM exact_items i WHERE i.division = c.division AND i.id = c.exact_id)
                              ELSE 'Artikelgroep' END,
               c.operation, c.method || ' ' || c.path, c.old_value, c.body, c.tokens
          FROM _calls_for(v_objects, v_d, v_i, true) c;
    END LOOP;

    IF v_deals_d IS NOT NULL THEN
        RETURN QUERY
        SELECT c.kind, c.division, c.exact_id, (SELECT 'Order ' || o.order_number FROM exact_sales_orders o WHERE o.division = c.division AND o.id = c.exact_id),
               c.operation, c.method || ' ' || c.path, c.old_value, c.body, c.tokens
          FROM _calls_deals(v_deals_d, v_deals_i, true) c
         ORDER BY c.division, c.exact_id, c.step;
    END IF;
END
$$;
COMMENT ON FUNCTION plan() IS 'What would be sent now, call by call, with old and new values and the price in tokens. Sends nothing. Inside BEGIN … ROLLBACK it shows what a changed rule would do.';

CREATE FUNCTION _is_wanted(p_kind text, p_division integer, p_id uuid) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    SELECT EXISTS (SELECT FROM links l WHERE l.kind = p_kind AND l.division = p_division AND l.exact_id = p_id)
        -- A deal waits for it.
        OR EXISTS (SELECT FROM job_needs n WHERE n.kind = p_kind AND n.division = p_division AND n.exact_id = p_id)
        OR CASE p_kind
           WHEN 'product' THEN setting('products') = 'all' AND EXISTS (SELECT FROM wanted_products w WHERE w.division = p_division AND w.exact_id = p_id AND w.for_sale)
           WHEN 'organization' THEN false
           ELSE true END $$;
COMMENT ON FUNCTION _is_wanted(text, integer, uuid) IS 'Is an organization or product to be kept at Pipedrive: because it is there already, a deal waits for it, or by itself?';
