/*
 * 40_wanted.sql
 *		Wanted state: what the CRM should say, worked out from staging alone.
 *
 * Aggregates stand in LATERAL only, so that one order costs one order.  The
 * views are read by plan(), by the delivery worker and by people; change what a
 * deal looks like here, in a transaction, and look at plan() before COMMIT.
 */

CREATE FUNCTION _line_net(p_amount numeric, p_raise numeric, p_percent numeric) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT ceil(round(p_amount * p_raise * (1 - p_percent / 100), 6) * 100) / 100 $$;
COMMENT ON FUNCTION _line_net(numeric, numeric, numeric) IS 'What a line is to cost in the end, in whole cents and never too little: then it does not matter whether Pipedrive rounds each line or only their sum, and what is left over is closed by a discount.';

-- OFFSET 0 keeps the planner from writing each step into every place that uses it:
-- pulled up, the expressions would grow by powers.
CREATE VIEW order_sums AS
SELECT o.division, o.id AS order_id, l.lines, t.total,
       i.lines_with_vat,
       s.line_total,
       -- What the lines say and what the header says, to the cent, with or without header discount.
       l.lines > 0 AND (abs(v.line_total - t.total) <= t.tolerance OR abs(v.line_total - t.discount - t.total) <= t.tolerance) AS adds_up,
       l.lines > 0 AND v.usable AND NOT (l.has_negative AND n.value_only) AS send_lines,
       l.has_negative,
       -- What prices are multiplied by: lines that say less than the header are raised to it, those of a credit
       -- also when they say a few cents less (a discount can only take off).
       CASE WHEN v.usable AND v.line_total <> 0 AND round(v.line_total, 2) <> round(t.total, 2)
                 AND (t.total / v.line_total > 1 OR v.line_total < t.total AND p.rounded IS NULL)
            THEN t.total / v.line_total ELSE 1 END AS raise,
       -- What the header takes off the lines, in percent: one that stays the same when a line changes, unless the lines
       -- would come out below the header.
       CASE WHEN p.rounded IS NULL THEN 0 WHEN c.net_total >= t.total THEN p.rounded
            WHEN v.line_total > 0 THEN floor((1 - t.total / v.line_total) * 100000000) / 1000000
            ELSE ceil((1 - t.total / v.line_total) * 100000000) / 1000000 END AS discount_percent
  FROM exact_sales_orders o
 CROSS JOIN LATERAL (
        SELECT count(*) AS lines,
               coalesce(sum(round(coalesce(x.amount_fc, x.net_price * x.quantity, x.unit_price * x.quantity), 2)), 0) AS sum_as_is,
               coalesce(sum(round(coalesce(x.amount_fc, x.net_price * x.quantity, x.unit_price * x.quantity) / (1 + coalesce(x.vat_percentage, 0)), 2)), 0) AS sum_net_of_vat,
               coalesce(bool_or(x.quantity < 0 OR x.amount_fc < 0), false) AS has_negative
          FROM exact_sales_order_lines x
         WHERE x.division = o.division AND x.order_id = o.id AND x.deleted_at IS NULL OFFSET 0) l
 CROSS JOIN LATERAL (
        SELECT round(coalesce(o.amount_fc_excl_vat, o.amount_fc - o.vat_amount, l.sum_as_is), 2) AS total,
               coalesce(o.amount_discount_excl_vat, 0) * CASE WHEN o.amount_dc <> 0 AND o.amount_fc <> 0 THEN o.amount_fc / o.amount_dc ELSE 1 END AS discount,
               0.005 * l.lines + 0.01 AS tolerance OFFSET 0) t
 CROSS JOIN LATERAL (
        -- The reading under which the lines add up; without VAT when both or neither do and it is the nearer one.
        SELECT CASE WHEN abs(l.sum_as_is - t.total) <= t.tolerance THEN false
                    WHEN abs(l.sum_net_of_vat - t.total) <= t.tolerance THEN true
                    WHEN abs(l.sum_as_is - t.discount - t.total) <= t.tolerance THEN false
                    WHEN abs(l.sum_net_of_vat - t.discount - t.total) <= t.tolerance THEN true
                    ELSE abs(l.sum_net_of_vat - t.total) < abs(l.sum_as_is - t.total) END AS lines_with_vat OFFSET 0) i
 CROSS JOIN LATERAL (
        SELECT CASE WHEN i.lines_with_vat THEN l.sum_net_of_vat ELSE l.sum_as_is END AS line_total OFFSET 0) s
 CROSS JOIN LATERAL (
        -- Lines can carry the total when both have the same sign (or the total is nothing at all).
        SELECT s.line_total, (sign(s.line_total) = sign(t.total) OR t.total = 0 AND s.line_total >= 0) AS usable OFFSET 0) v
 CROSS JOIN LATERAL (SELECT o.discount * CASE WHEN abs(o.discount) < 1 THEN 100 ELSE 1 END AS percent OFFSET 0) h
 CROSS JOIN LATERAL (
        SELECT CASE WHEN v.usable AND v.line_total <> 0 AND t.total / v.line_total < 1 AND abs(v.line_total - t.total) > t.tolerance
                    -- The header's own percentage where it fits: worked out from the sums of a small order, it would
                    -- change a little with every line, and with it all the others.
                    THEN CASE WHEN abs(v.line_total * (1 - h.percent / 100) - t.total) <= t.tolerance THEN h.percent
                              ELSE round((1 - t.total / v.line_total) * 100, 2) END END AS rounded OFFSET 0) p
  LEFT JOIN LATERAL (
        SELECT sum(_line_net(round(coalesce(x.amount_fc, x.net_price * x.quantity, x.unit_price * x.quantity, 0) / CASE WHEN i.lines_with_vat THEN 1 + coalesce(x.vat_percentage, 0) ELSE 1 END, 2), 1, p.rounded)) AS net_total
          FROM exact_sales_order_lines x
         WHERE x.division = o.division AND x.order_id = o.id AND x.deleted_at IS NULL OFFSET 0) c ON p.rounded IS NOT NULL
 CROSS JOIN LATERAL (SELECT coalesce((SELECT x.value FROM settings x WHERE x.name = 'negative_lines'), 'send') = 'value_only' AS value_only) n;
COMMENT ON VIEW order_sums IS 'How the lines of an order relate to its header total without VAT, and what must be done to the lines so that a deal''s value is the header total to the cent.';
COMMENT ON COLUMN order_sums.total IS 'The header total without VAT in the order''s currency: the deal''s value.';
COMMENT ON COLUMN order_sums.lines_with_vat IS 'True: the lines add up to the header only when VAT is taken out of them.';
COMMENT ON COLUMN order_sums.adds_up IS 'False: lines and header do not fit; the header is believed (exact-online 5.2).';
COMMENT ON COLUMN order_sums.send_lines IS 'False: the deal carries its value without lines.';

CREATE FUNCTION _wanted_lines(p_division integer, p_order uuid, p_with_vat boolean, p_raise numeric, p_percent numeric)
    RETURNS TABLE (division integer, order_id uuid, line_id uuid, line_number integer, item uuid, product_id bigint, quantity numeric, item_price numeric, discount numeric, comments text)
    LANGUAGE sql STABLE ROWS 20
    AS $$
    SELECT l.division, l.order_id, l.id, l.line_number, k.item,
           -- A look-up by the whole key whatever the statistics say; so are the others below.
           (SELECT p.pipedrive_id FROM exact_pd_sync.links p WHERE p.kind = 'product' AND p.division = l.division AND p.exact_id = k.item),
           q.quantity,
           a.price,
           -- The same percentage for all, bent a little where it would not lead to whole cents.
           CASE WHEN a.amount * (1 - p_percent / 100) = n.net OR a.price * q.quantity = 0 THEN p_percent
                ELSE greatest(0, round(100 * (1 - n.net / (a.price * q.quantity)), 8)) END,
           left(nullif(btrim(regexp_replace(
                CASE WHEN l.item IS NULL THEN coalesce(l.description, l.notes, l.item_description)
                     WHEN l.description IS DISTINCT FROM l.item_description THEN l.description END, '\s+', ' ', 'g')), ''), 255)
      FROM exact_pd_sync.exact_sales_order_lines l
     CROSS JOIN LATERAL (SELECT coalesce(l.item, '00000000-0000-0000-0000-000000000000') AS item OFFSET 0) k
     CROSS JOIN LATERAL (
            SELECT m.amount, exact_pd_sync._line_net(m.amount, p_raise, p_percent) AS net
              FROM (SELECT round(coalesce(l.amount_fc, l.net_price * l.quantity, l.unit_price * l.quantity, 0)
                                 / CASE WHEN p_with_vat THEN 1 + coalesce(l.vat_percentage, 0) ELSE 1 END, 2) AS amount OFFSET 0) m OFFSET 0) n
     CROSS JOIN LATERAL (
            SELECT CASE WHEN coalesce(l.quantity, 0) = 0 AND (n.amount <> 0 OR l.item IS NULL) THEN 1 ELSE coalesce(l.quantity, 0) END AS quantity OFFSET 0) q
     CROSS JOIN LATERAL (
            SELECT g.amount,
                   CASE WHEN q.quantity = 0 THEN coalesce(l.net_price, l.unit_price, 0)
                        WHEN round(g.amount / q.quantity, 2) * q.quantity = g.amount THEN round(g.amount / q.quantity, 2)
                        WHEN round(g.amount / q.quantity, 6) * q.quantity = g.amount THEN round(g.amount / q.quantity, 6)
                        ELSE round(g.amount / q.quantity, 8) END AS price
              FROM (SELECT CASE WHEN p_percent = 0 THEN n.net ELSE n.amount END AS amount OFFSET 0) g OFFSET 0) a
     WHERE l.division = p_division AND l.order_id = p_order AND l.deleted_at IS NULL
       AND (q.quantity <> 0 OR coalesce((SELECT x.value FROM exact_pd_sync.settings x WHERE x.name = 'zero_lines'), 'send') = 'send') $$;
COMMENT ON FUNCTION _wanted_lines(integer, uuid, boolean, numeric, numeric) IS 'The lines of an order under the reading, the raise and the percentage that order_sums works out. PostgreSQL puts it into the query that calls it.';

CREATE VIEW wanted_deal_products AS
SELECT l.*
  FROM order_sums s
 CROSS JOIN LATERAL _wanted_lines(s.division, s.order_id, s.lines_with_vat, s.raise, s.discount_percent) l
 WHERE s.send_lines;
COMMENT ON VIEW wanted_deal_products IS 'The lines a deal should have: price without VAT, one discount percentage for all, so that lines and header agree.';

CREATE FUNCTION _closing_discount(p_line_sum numeric, p_total numeric) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE WHEN round(p_line_sum - p_total, 2) > 0 THEN round(p_line_sum - p_total, 2) END $$;
COMMENT ON FUNCTION _closing_discount(numeric, numeric) IS 'The deal discount that closes what rounding left over; NULL when nothing is left (the API takes positive ones only, pipedrive 7).';

CREATE VIEW deal_lanes AS
SELECT o.division, o.id AS exact_id, st.deal_status, st.lost_reason,
       -- Until the import has come to its end everything is history, also what is folded meanwhile.  A division that is
       -- only polled has caught up when its feeds first came to their end.
       CASE WHEN o.timestamp IS NOT NULL AND o.changed_at > clock_timestamp() - interval '1 day'
             AND o.changed_at > coalesce(d.imported_at, d.live_since) THEN 1
            WHEN coalesce(st.deal_status, 'open') = 'open' AND o.deleted_at IS NULL THEN 2
            ELSE 3 END AS lane,
       -- Newest first; what the order needs sorts just before it.
       4 * (date '2100-01-01' - coalesce(o.order_date, date '2000-01-01'))::bigint + 3 AS priority,
       (o.order_date IS NULL OR o.order_date >= coalesce(d.send_since, (today(o.division) - interval '12 months')::date)
        OR coalesce(st.deal_status, 'open') = 'open') AND o.deleted_at IS NULL AND NOT o.lines_deferred AS in_window
  FROM exact_sales_orders o
  LEFT JOIN divisions d ON d.division = o.division
  LEFT JOIN LATERAL _status_rule(o.status::text, o.delivery_status::text, o.invoice_status::text) st ON true;
COMMENT ON VIEW deal_lanes IS 'The deal status of an order by status_rules, whether it is sent at all, and how soon: lane 1 live, 2 open, 3 history.';
COMMENT ON COLUMN deal_lanes.in_window IS 'Whether it is sent when it has no deal yet: young enough, or still open.';

CREATE VIEW wanted_deals AS
SELECT o.division, o.id AS exact_id, o.order_number,
       left(btrim(regexp_replace(format('Order %s %s', coalesce(o.order_number::text, left(o.id::text, 8)), coalesce(o.ordered_by_name, '')), '\s+', ' ', 'g')), 255) AS title,
       o.ordered_by AS organization_exact_id, org.pipedrive_id AS organization_id,
       own.owner_id, own.owner_kept, own.owner_source,
       stg.pipeline_id, stg.stage_id, stg.name AS stage,
       CASE WHEN o.deleted_at IS NOT NULL THEN 'lost' ELSE coalesce(st.deal_status, 'open') END AS status,
       CASE WHEN o.deleted_at IS NOT NULL THEN 'Verwijderd in Exact' ELSE st.lost_reason END AS lost_reason,
       (st.deal_status IS NULL OR sg.stage IS NULL) AND o.deleted_at IS NULL AS unmapped, o.deleted_at IS NOT NULL AS deleted,
       coalesce(o.currency, d.currency, 'EUR') AS currency,
       s.total AS value, s.lines, s.send_lines, s.adds_up,
       o.order_date,
       -- When it was won or lost: for history a date at noon, which no report moves to another day, but no time to come; for live orders when we saw it.
       to_char(CASE WHEN o.timestamp IS NULL OR coalesce(o.changed_at <= coalesce(d.imported_at, d.live_since), true)
                    THEN least((least(coalesce(o.delivery_date, o.order_date), greatest(o.order_date, (o.changed_at AT TIME ZONE d.time_zone)::date)) + time '12:00') AT TIME ZONE d.time_zone, o.changed_at)
                    ELSE o.changed_at END AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS closed_at,
       st.lane, st.priority, st.in_window,
       jsonb_build_object(
            'title', left(btrim(regexp_replace(format('Order %s %s', coalesce(o.order_number::text, left(o.id::text, 8)), coalesce(o.ordered_by_name, '')), '\s+', ' ', 'g')), 255),
            'org_id', org.pipedrive_id,
            'owner_id', own.owner_id,
            'pipeline_id', coalesce(stg.pipeline_id, (SELECT min(p.pipeline_id) FROM pipedrive_stages p)),
            'stage_id', stg.stage_id,
            'status', CASE WHEN o.deleted_at IS NOT NULL THEN 'lost' ELSE coalesce(st.deal_status, 'open') END,
            'currency', coalesce(o.currency, d.currency, 'EUR'),
            'custom_fields', jsonb_build_object(
                (SELECT coalesce(max(f.code) FILTER (WHERE f.state IN ('found', 'made')), '-') FROM pipedrive_fields f WHERE f.entity = 'deal' AND f.purpose = 'exact_id'), o.id,
                (SELECT coalesce(max(f.code) FILTER (WHERE f.state IN ('found', 'made')), '-') FROM pipedrive_fields f WHERE f.entity = 'deal' AND f.purpose = 'order_number'), o.order_number::text,
                (SELECT coalesce(max(f.code) FILTER (WHERE f.state IN ('found', 'made')), '-') FROM pipedrive_fields f WHERE f.entity = 'deal' AND f.purpose = 'order_date'), o.order_date,
                (SELECT coalesce(max(f.code) FILTER (WHERE f.state IN ('found', 'made')), '-') FROM pipedrive_fields f WHERE f.entity = 'deal' AND f.purpose = 'delivery_status'), status_text(o.delivery_status),
                (SELECT coalesce(max(f.code) FILTER (WHERE f.state IN ('found', 'made')), '-') FROM pipedrive_fields f WHERE f.entity = 'deal' AND f.purpose = 'invoice_status'), status_text(o.invoice_status),
                (SELECT coalesce(max(f.code) FILTER (WHERE f.state IN ('found', 'made')), '-') FROM pipedrive_fields f WHERE f.entity = 'deal' AND f.purpose = 'your_ref'), left(o.your_ref, 255),
                (SELECT coalesce(max(f.code) FILTER (WHERE f.state IN ('found', 'made') AND (SELECT count(*) FROM divisions) > 1), '-') FROM pipedrive_fields f WHERE f.entity = 'deal' AND f.purpose = 'administration'), coalesce(d.name, o.division::text)
            ) - '-')
       || CASE WHEN s.send_lines THEN '{}'::jsonb ELSE jsonb_build_object('value', s.total) END
       || CASE WHEN o.deleted_at IS NOT NULL THEN jsonb_build_object('lost_reason', 'Verwijderd in Exact')
               WHEN st.deal_status = 'lost' AND st.lost_reason IS NOT NULL THEN jsonb_build_object('lost_reason', st.lost_reason) ELSE '{}'::jsonb END AS body,
       s.lines_with_vat, s.raise, s.discount_percent
  FROM exact_sales_orders o
  LEFT JOIN divisions d ON d.division = o.division
  JOIN order_sums s ON s.division = o.division AND s.order_id = o.id
 CROSS JOIN LATERAL (SELECT (SELECT x.pipedrive_id FROM links x WHERE x.kind = 'organization' AND x.division = o.division AND x.exact_id = o.ordered_by) AS pipedrive_id OFFSET 0) org
  JOIN deal_lanes st ON st.division = o.division AND st.exact_id = o.id
  LEFT JOIN LATERAL _stage_rule(o.status::text, o.delivery_status::text, o.invoice_status::text) sg ON true
  LEFT JOIN LATERAL (
        SELECT p.pipeline_id, p.stage_id, p.name FROM pipedrive_stages p
         WHERE p.name = sg.stage OR sg.stage IS NULL
         ORDER BY p.order_nr LIMIT 1) stg ON true
 CROSS JOIN LATERAL (
        SELECT CASE WHEN u.active THEN u.user_id WHEN mu.active THEN mu.user_id ELSE (SELECT setting('default_owner_id')::bigint) END AS owner_id,
               CASE WHEN u.active THEN 'salesperson' WHEN mu.active THEN 'account manager' ELSE 'default' END AS owner_source,
               -- A user made inactive never re-owns what exists.
               coalesce(u.user_id IS NOT NULL AND NOT u.active, false) AS owner_kept
          FROM (SELECT) one
          LEFT JOIN owner_map m ON m.exact_id = o.salesperson
          LEFT JOIN pipedrive_users u ON u.user_id = m.pipedrive_user_id
          LEFT JOIN LATERAL (SELECT x.account_manager FROM exact_accounts x WHERE x.division = o.division AND x.id = o.ordered_by OFFSET 0) a ON (SELECT setting('account_manager_owns')) = 'on'
          LEFT JOIN owner_map am ON am.exact_id = a.account_manager
          LEFT JOIN pipedrive_users mu ON mu.user_id = am.pipedrive_user_id) own;
COMMENT ON VIEW wanted_deals IS 'One row per staged order: the deal it should be. body is what Pipedrive would be sent for a new deal, without won_time and lost_time, which go along only when the status turns.';
COMMENT ON COLUMN wanted_deals.deleted IS 'The order is gone at Exact, and its lines with it: the deal is lost, and keeps its lines and value as a record of what was lost.';
COMMENT ON COLUMN wanted_deals.unmapped IS 'No rule knows this combination of status codes: a deal that exists is left as it is, a new one gets the first stage.';

CREATE VIEW wanted_organizations AS
SELECT a.division, a.id AS exact_id, a.code AS debtor_number, left(coalesce(a.name, 'Relatie ' || coalesce(a.code, left(a.id::text, 8))), 255) AS name,
       jsonb_strip_nulls(jsonb_build_object(
            'name', left(coalesce(a.name, 'Relatie ' || coalesce(a.code, left(a.id::text, 8))), 255),
            'address', CASE WHEN ad.text <> '' THEN jsonb_build_object('value', left(ad.text, 255)) END))
       || jsonb_build_object(
            'custom_fields', jsonb_build_object(
                (SELECT coalesce(max(f.code) FILTER (WHERE f.state IN ('found', 'made')), '-') FROM pipedrive_fields f WHERE f.entity = 'organization' AND f.purpose = 'exact_id'), a.id,
                (SELECT coalesce(max(f.code) FILTER (WHERE f.state IN ('found', 'made')), '-') FROM pipedrive_fields f WHERE f.entity = 'organization' AND f.purpose = 'debtor_number'), left(a.code, 255),
                (SELECT coalesce(max(f.code) FILTER (WHERE f.state IN ('found', 'made') AND (SELECT count(*) FROM divisions) > 1), '-') FROM pipedrive_fields f WHERE f.entity = 'organization' AND f.purpose = 'administration'), coalesce(d.name, a.division::text)
            ) - '-') AS body
  FROM exact_accounts a
  LEFT JOIN divisions d ON d.division = a.division
 CROSS JOIN LATERAL (SELECT concat_ws(', ', a.address_line1, a.address_line2, nullif(concat_ws(' ', a.postcode, a.city), ''), a.country) AS text) ad;
COMMENT ON VIEW wanted_organizations IS 'One row per staged account: the organization it should be. Only those are sent that an order to be sent needs, or that are linked already.';

CREATE VIEW wanted_products AS
SELECT i.division, i.id AS exact_id, i.code, left(coalesce(i.description, i.code, 'Artikel ' || left(i.id::text, 8)), 255) AS name,
       g.description AS item_group, op.option_id AS item_group_option, pr.price, coalesce(d.currency, 'EUR') AS currency,
       i.deleted_at IS NULL AND coalesce(i.is_sales_item, true) AND (i.end_date IS NULL OR i.end_date >= today(i.division)) AS for_sale,
       jsonb_strip_nulls(jsonb_build_object(
            'name', left(coalesce(i.description, i.code, 'Artikel ' || left(i.id::text, 8)), 255),
            'code', left(i.code, 255),
            'unit', left(i.unit, 255),
            'prices', CASE WHEN pr.price IS NOT NULL THEN jsonb_build_array(jsonb_build_object('currency', coalesce(d.currency, 'EUR'), 'price', pr.price)) END))
       || jsonb_build_object('custom_fields', jsonb_build_object(
                (SELECT coalesce(max(f.code) FILTER (WHERE f.state IN ('found', 'made')), '-') FROM pipedrive_fields f WHERE f.entity = 'product' AND f.purpose = 'exact_id'), i.id,
                (SELECT coalesce(max(f.code) FILTER (WHERE f.state IN ('found', 'made')), '-') FROM pipedrive_fields f WHERE f.entity = 'product' AND f.purpose = 'item_group'), op.option_id,
                (SELECT coalesce(max(f.code) FILTER (WHERE f.state IN ('found', 'made') AND (SELECT count(*) FROM divisions) > 1), '-') FROM pipedrive_fields f WHERE f.entity = 'product' AND f.purpose = 'administration'), coalesce(d.name, i.division::text)
            ) - '-') AS body
  FROM exact_items i
  LEFT JOIN divisions d ON d.division = i.division
  LEFT JOIN exact_item_groups g ON g.division = i.division AND g.id = i.item_group AND g.deleted_at IS NULL
  LEFT JOIN pipedrive_options op ON op.label = left(g.description, 255)
  LEFT JOIN LATERAL (
        -- The price for everybody today, for the smallest quantity (exact-online 4.3).
        SELECT p.price FROM exact_item_prices p
         WHERE p.division = i.division AND p.item = i.id AND p.account IS NULL AND p.deleted_at IS NULL
           AND coalesce(p.currency, d.currency, 'EUR') = coalesce(d.currency, 'EUR')
           AND (p.unit IS NULL OR i.unit IS NULL OR p.unit = i.unit)
           AND (p.start_date IS NULL OR p.start_date <= today(i.division)) AND (p.end_date IS NULL OR p.end_date >= today(i.division))
         ORDER BY coalesce(p.quantity, 0), p.start_date DESC NULLS LAST, p.id LIMIT 1) np ON true
 CROSS JOIN LATERAL (SELECT round(coalesce(np.price, i.standard_sales_price), 4) AS price) pr;
COMMENT ON VIEW wanted_products IS 'One row per staged item: the product it should be.';
