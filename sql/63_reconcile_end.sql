/*
 * 63_reconcile_end.sql
 *		reconcile(), when all lists are read: what became of what is missing, what
 *		only all of them together tell, and the sums of both sides.
 */

CREATE FUNCTION _survivor(p_link links) RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_id  bigint;
BEGIN
    -- It carries our Exact-ID now: Pipedrive fills the empty fields of the one that stays.
    SELECT min(r.pipedrive_id) INTO v_id FROM remote_records r
     WHERE r.kind = p_link.kind AND r.exact_id = p_link.exact_id AND r.pipedrive_id <> p_link.pipedrive_id AND r.state IN ('live', 'archived');
    IF v_id IS NULL AND p_link.kind = 'organization' THEN
        -- All the deals that were its own belong to one other organization: nobody does that by hand.
        SELECT min(r.org_id) INTO v_id
          FROM exact_sales_orders o
          JOIN links d ON d.kind = 'deal' AND d.division = o.division AND d.exact_id = o.id AND d.sent->>'org_id' = p_link.pipedrive_id::text
          JOIN remote_records r ON r.kind = 'deal' AND r.pipedrive_id = d.pipedrive_id AND r.state = 'live' AND r.ours
         WHERE o.division = p_link.division AND o.ordered_by = p_link.exact_id
        HAVING count(DISTINCT r.org_id) = 1 AND count(r.org_id) = count(*)
           AND EXISTS (SELECT FROM remote_records x WHERE x.kind = 'organization' AND x.pipedrive_id = min(r.org_id) AND x.state = 'live');
        IF v_id = p_link.pipedrive_id THEN
            v_id := NULL;
        END IF;
    ELSIF v_id IS NULL AND p_link.kind = 'deal' THEN
        -- Another deal of the same customer has exactly its lines and its value more than were sent.
        SELECT min(r.pipedrive_id) INTO v_id
          FROM (SELECT count(*) AS lines, sum(k.quantity * k.item_price * (1 - k.discount / 100)) - coalesce(p_link.discount_sent, 0) AS value
                  FROM line_links k WHERE k.division = p_link.division AND k.order_id = p_link.exact_id) mine
          JOIN exact_sales_orders o ON o.division = p_link.division AND o.id = p_link.exact_id
          JOIN exact_sales_orders p ON p.division = o.division AND p.ordered_by = o.ordered_by AND p.id <> o.id
          JOIN links d ON d.kind = 'deal' AND d.division = p.division AND d.exact_id = p.id AND NOT d.follower AND d.gone_at IS NULL
          JOIN remote_records r ON r.kind = 'deal' AND r.pipedrive_id = d.pipedrive_id AND r.state = 'live' AND r.ours
         CROSS JOIN LATERAL (SELECT count(*) AS lines, coalesce(sum(k.quantity * k.item_price * (1 - k.discount / 100)), 0) - coalesce(d.discount_sent, 0) AS value
                               FROM line_links k WHERE k.division = d.division AND k.order_id = d.exact_id) theirs
         WHERE mine.lines > 0 AND r.lines = mine.lines + theirs.lines AND abs(r.value - round(mine.value + theirs.value, 2)) < 0.01
        HAVING count(*) = 1;
    END IF;
    RETURN v_id;
END
$$;
COMMENT ON FUNCTION _survivor(links) IS 'The record that a lost one was merged into, as far as the lists show it; NULL = it was deleted.';

CREATE FUNCTION _reconcile_lost(p_started timestamptz) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    l           links;
    v           record;
    v_survivor  bigint;
    v_follower  boolean;
BEGIN
    FOR v IN
        SELECT x::links AS link, r.state, r.ours FROM links x LEFT JOIN remote_records r ON r.kind = x.kind AND r.pipedrive_id = x.pipedrive_id
         WHERE (r.state IN ('deleted', 'absent') OR x.gone_at IS NOT NULL)
           AND NOT EXISTS (SELECT FROM jobs j WHERE j.kind = x.kind AND j.division = x.division AND j.exact_id = x.exact_id AND j.state <> 'dead')
         ORDER BY x.kind = 'deal', x.kind, x.division, x.exact_id
    LOOP
        l := v.link;
        IF v.state IN ('live', 'archived') AND v.ours THEN
            -- A person took it out of the bin.
            INSERT INTO job_signals (kind, division, exact_id, reason, argument)
            VALUES (l.kind, l.division, l.exact_id, 'reconcile', jsonb_build_object('whole', true, 'drift', jsonb_build_object('seen', p_started, 'gone', false)));
            CONTINUE;
        END IF;
        v_survivor := _survivor(l);
        IF v_survivor IS NULL THEN
            PERFORM _drift_note(l, 'deleted', '', NULL, NULL, NULL, 'reported');
            IF l.gone_at IS NULL THEN
                PERFORM _drift_tell(l, p_started, '{"gone": true}');
            END IF;
            CONTINUE;
        END IF;
        INSERT INTO remote_records AS m (kind, pipedrive_id, state, survivor, asked_at) VALUES (l.kind, l.pipedrive_id, 'absent', v_survivor, p_started)
        ON CONFLICT (kind, pipedrive_id) DO UPDATE SET survivor = excluded.survivor;
        v_follower := EXISTS (SELECT FROM links x WHERE x.kind = l.kind AND x.pipedrive_id = v_survivor AND NOT x.follower AND (x.division, x.exact_id) <> (l.division, l.exact_id));
        PERFORM _drift_note(l, 'merged', '', to_jsonb(l.pipedrive_id), to_jsonb(v_survivor), NULL, 'followed', v_survivor);
        INSERT INTO job_signals (kind, division, exact_id, reason, argument)
        VALUES (l.kind, l.division, l.exact_id, 'reconcile', jsonb_build_object('whole', NOT v_follower, 'drift', jsonb_build_object('seen', p_started, 'follow', v_survivor, 'follower', v_follower)));
    END LOOP;
    -- One that follows stays in view as long as it does.
    PERFORM _drift_note(x::links, 'merged', '', (SELECT f.ours FROM drift_findings f WHERE f.kind = x.kind AND f.division = x.division AND f.exact_id = x.exact_id AND f.what = 'merged' AND f.resolved_at IS NULL LIMIT 1),
                        to_jsonb(x.pipedrive_id), NULL, 'followed')
       FROM links x WHERE x.follower AND x.gone_at IS NULL;
END
$$;
COMMENT ON FUNCTION _reconcile_lost(timestamptz) IS 'What became of records that are no longer there: merged into another one, which is followed, or deleted, which waits for a person.';

CREATE FUNCTION _reconcile_others() RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v         record;
    v_policy  text;
    v_action  text;
BEGIN
    FOR v IN SELECT l::links AS link, r.state, r.asked_at FROM links l JOIN remote_records r ON r.kind = l.kind AND r.pipedrive_id = l.pipedrive_id
              WHERE l.kind = 'deal' AND r.ours AND NOT l.follower AND l.gone_at IS NULL AND (r.state = 'archived' OR r.state = 'live' AND l.archived_at IS NOT NULL) LOOP
        IF v.state = 'archived' THEN
            PERFORM _drift_note(v.link, 'archived', '', NULL, NULL, NULL, 'reported');
        END IF;
        IF (v.state = 'archived') <> ((v.link).archived_at IS NOT NULL) THEN
            PERFORM _drift_tell(v.link, v.asked_at, jsonb_build_object('archived', v.state = 'archived'));
        END IF;
    END LOOP;

    PERFORM _drift_note(l::links, 'duplicate', '', to_jsonb(l.pipedrive_id), to_jsonb(r.pipedrive_id), NULL, 'reported', r.pipedrive_id)
       FROM remote_records r
       JOIN links l ON l.kind = r.kind AND l.exact_id = r.exact_id AND l.pipedrive_id <> r.pipedrive_id AND l.gone_at IS NULL AND NOT l.follower
       JOIN remote_records o ON o.kind = l.kind AND o.pipedrive_id = l.pipedrive_id AND o.state IN ('live', 'archived')
      WHERE r.state IN ('live', 'archived') AND NOT EXISTS (SELECT FROM links x WHERE x.kind = r.kind AND x.pipedrive_id = r.pipedrive_id);

    PERFORM _drift_note(l::links, 'gone at Exact', '', NULL, NULL, NULL, 'reported')
       FROM links l
       JOIN exact_accounts a ON a.division = l.division AND a.id = l.exact_id AND a.deleted_at IS NOT NULL
       JOIN remote_records r ON r.kind = l.kind AND r.pipedrive_id = l.pipedrive_id AND r.state = 'live'
      WHERE l.kind = 'organization' AND r.ours AND NOT l.follower;

    -- Whose deal it is, now that it is known which organizations were merged.
    FOR v IN SELECT l::links AS link, r.org_id, r.asked_at, w.org_id AS wanted, w.known
               FROM links l
               JOIN remote_records r ON r.kind = 'deal' AND r.pipedrive_id = l.pipedrive_id AND r.state = 'live' AND r.ours
               JOIN exact_sales_orders o ON o.division = l.division AND o.id = l.exact_id
              CROSS JOIN LATERAL (
                    SELECT max(coalesce(m.survivor, x.pipedrive_id)) AS org_id, o.ordered_by IS NULL OR coalesce(bool_and(m.survivor IS NOT NULL OR x.gone_at IS NULL AND m.state = 'live'), false) AS known
                      FROM links x LEFT JOIN remote_records m ON m.kind = 'organization' AND m.pipedrive_id = x.pipedrive_id
                     WHERE x.kind = 'organization' AND x.division = o.division AND x.exact_id = o.ordered_by) w
              WHERE l.kind = 'deal' AND NOT l.follower AND l.gone_at IS NULL AND l.archived_at IS NULL
                AND (l.sent->>'org_id' IS DISTINCT FROM r.org_id::text OR 'org_id' = ANY (l.kept)) LOOP
        CONTINUE WHEN NOT v.known OR _in_motion(v.link, v.asked_at);
        IF v.org_id IS NOT DISTINCT FROM v.wanted THEN
            PERFORM _drift_tell(v.link, v.asked_at, jsonb_build_object('fields', jsonb_build_object('org_id', v.org_id), 'kept', to_jsonb(array_remove((v.link).kept, 'org_id'))));
            CONTINUE;
        END IF;
        v_policy := _field_policy('deal', 'org_id');
        v_action := _drift_note(v.link, 'edited', 'org_id', to_jsonb(v.wanted), to_jsonb(v.org_id), v_policy, CASE v_policy WHEN 'exact' THEN 'restored' ELSE 'left' END);
        IF v_action = 'restored' THEN
            PERFORM _drift_tell(v.link, v.asked_at, jsonb_build_object('fields', jsonb_build_object('org_id', v.org_id)));
        ELSIF v_policy = 'pipedrive' AND 'org_id' = ANY ((v.link).kept) IS NOT TRUE THEN
            PERFORM _drift_tell(v.link, v.asked_at, jsonb_build_object('kept', to_jsonb((v.link).kept || 'org_id'::text)));
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _reconcile_others() IS 'What only all lists together tell: archived deals, duplicates, customers gone at Exact, and whose deal it is.';

CREATE FUNCTION _reconcile_sums(p_started timestamptz) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    SET jit = off
    AS $$
BEGIN
    DELETE FROM reconcile_months;
    INSERT INTO reconcile_months (division, month, currency, orders, deals, lines, products, order_value, deal_value, pending, equal, examples)
    SELECT x.division, x.month, x.currency, count(*) FILTER (WHERE NOT x.pending), count(x.deal) FILTER (WHERE NOT x.pending),
           coalesce(sum(x.our_lines) FILTER (WHERE NOT x.pending), 0), coalesce(sum(x.lines) FILTER (WHERE NOT x.pending), 0),
           coalesce(sum(x.our_value) FILTER (WHERE NOT x.pending), 0), coalesce(sum(x.value) FILTER (WHERE NOT x.pending), 0),
           count(*) FILTER (WHERE x.pending), NOT coalesce(bool_or(x.differs AND NOT x.pending), false),
           (array_agg(x.order_number ORDER BY x.order_number) FILTER (WHERE x.differs AND NOT x.pending))[1:5]
      FROM (SELECT y.*, y.deal IS NULL OR y.our_lines <> y.lines OR abs(y.our_value - y.value) >= 0.01 OR y.currency <> y.deal_currency AS differs
              FROM (SELECT o.division, date_trunc('month', o.order_date)::date AS month, coalesce(o.currency, d.currency, 'EUR') AS currency, o.order_number, r.pipedrive_id AS deal,
                           coalesce(r.our_value, s.total) AS our_value, coalesce(r.our_lines, s.lines) AS our_lines,
                           r.value, CASE WHEN r.pipedrive_id IS NOT NULL THEN coalesce(r.lines, r.our_lines, s.lines) END AS lines, r.currency AS deal_currency,
                           EXISTS (SELECT FROM jobs j WHERE j.kind = 'deal' AND j.division = o.division AND j.exact_id = o.id AND j.state <> 'dead')
                               OR coalesce(l.last_sent >= r.asked_at, false)
                               -- Made while the lists were read, or not yet thought of.
                               OR r.pipedrive_id IS NULL AND (l.first_sent >= p_started OR l.pipedrive_id IS NULL AND o.changed_at >= p_started
                                                              AND NOT EXISTS (SELECT FROM jobs j WHERE j.kind = 'deal' AND j.division = o.division AND j.exact_id = o.id)) IS TRUE AS pending
                      FROM exact_sales_orders o
                      LEFT JOIN divisions d ON d.division = o.division
                      LEFT JOIN links l ON l.kind = 'deal' AND l.division = o.division AND l.exact_id = o.id
                      LEFT JOIN remote_records r ON r.kind = 'deal' AND r.pipedrive_id = l.pipedrive_id AND r.state IN ('live', 'archived') AND NOT l.follower
                      LEFT JOIN LATERAL (SELECT n.total, CASE WHEN n.send_lines THEN n.lines ELSE 0 END AS lines FROM order_sums n
                                          WHERE r.our_value IS NULL AND n.division = o.division AND n.order_id = o.id OFFSET 0) s ON true
                     WHERE o.deleted_at IS NULL
                       AND (l.pipedrive_id IS NOT NULL OR (SELECT w.in_window FROM deal_lanes w WHERE w.division = o.division AND w.exact_id = o.id))) y) x
     GROUP BY x.division, x.month, x.currency;
END
$$;
COMMENT ON FUNCTION _reconcile_sums(timestamptz) IS 'Counts and sums per month, orders that are sent against their deals as the lists showed them.';

CREATE FUNCTION _reconcile_end(p_run bigint) RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_started  timestamptz := (SELECT min(s.started_at) FROM reconcile_steps s);
    v_text     text;
    v          record;
BEGIN
    PERFORM _reconcile_lost(v_started);
    PERFORM _reconcile_others();
    PERFORM _reconcile_sums(v_started);
    UPDATE drift_findings f SET resolved_at = clock_timestamp()
     WHERE f.resolved_at IS NULL AND f.last_seen < v_started
       -- What was not judged this time stays.
       AND NOT EXISTS (SELECT FROM links l WHERE l.kind = f.kind AND l.division = f.division AND l.exact_id = f.exact_id AND l.gone_at IS NULL AND _in_motion(l, v_started));
    UPDATE links l SET last_verified = r.asked_at FROM remote_records r
     WHERE r.kind = l.kind AND r.pipedrive_id = l.pipedrive_id AND r.state IN ('live', 'archived') AND l.last_verified < v_started - interval '30 days';
    SELECT coalesce(bool_and(m.equal), true) AS equal, coalesce(sum(m.orders), 0) AS orders, coalesce(sum(m.deals), 0) AS deals, coalesce(sum(m.lines), 0) AS lines,
           coalesce(sum(m.products), 0) AS products, coalesce(sum(m.order_value), 0) AS order_value, coalesce(sum(m.deal_value), 0) AS deal_value, coalesce(sum(m.pending), 0) AS pending,
           (SELECT array_agg(e.n) FROM (SELECT n FROM reconcile_months y CROSS JOIN unnest(y.examples) n ORDER BY y.month DESC NULLS LAST, n LIMIT 5) e) AS examples,
           (SELECT count(*) FROM drift_findings f WHERE f.resolved_at IS NULL AND f.action NOT IN ('restored', 'left', 'followed') AND f.what <> 'archived') AS findings, (SELECT count(*) FROM drift_findings f WHERE f.last_seen >= v_started AND f.action = 'restored') AS restored,
           (SELECT count(*) FROM unresolved_orders u WHERE u.read_at IS NOT NULL) AS not_staged, (SELECT sum(s.calls) FROM reconcile_steps s) AS calls, (SELECT sum(s.tokens) FROM reconcile_steps s) AS tokens
      INTO v FROM reconcile_months m;
    v_text := CASE WHEN v.equal THEN format('equal: %s orders with %s lines and %s are as many deals with as many lines and as much value', v.orders, v.lines, v.order_value)
                   ELSE format('not equal: %s orders with %s lines and %s, %s deals with %s lines and %s; for example order %s', v.orders, v.lines, v.order_value, v.deals, v.products, v.deal_value, array_to_string(v.examples, ', ')) END
              || CASE WHEN v.pending > 0 THEN format('; %s orders were being sent', v.pending) ELSE '' END
              || CASE WHEN v.not_staged > 0 THEN format('; %s orders of Exact were not staged and are read now', v.not_staged) ELSE '' END
              || CASE WHEN v.restored > 0 THEN format('; put right: %s', v.restored) ELSE '' END
              || CASE WHEN v.findings > 0 THEN format('; %s of the findings need a look: SELECT * FROM exact_pd_sync.drift', v.findings) ELSE '' END;
    INSERT INTO reconcile_results (run_id, started_at, equal, orders, deals, lines, products, order_value, deal_value, pending, examples, findings, restored, not_staged, calls, tokens, summary)
    VALUES (p_run, coalesce(v_started, clock_timestamp()), v.equal, v.orders, v.deals, v.lines, v.products, v.order_value, v.deal_value, v.pending, v.examples, v.findings, v.restored, v.not_staged, coalesce(v.calls, 0), coalesce(v.tokens, 0), v_text);
    DELETE FROM reconcile_steps;
    DELETE FROM remote_records;
    PERFORM _forget_unresolved();
    PERFORM wake_worker('delivery');
    RETURN v_text;
END
$$;
COMMENT ON FUNCTION _reconcile_end(bigint) IS 'All lists are read: what became of what is missing, what only all of them tell, the sums. Returns them in a sentence.';

CREATE PROCEDURE reconcile()
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'epds_reconcile';
COMMENT ON PROCEDURE reconcile() IS 'Reads the lists of Pipedrive and holds them against what was sent: what people deleted, merged, archived, edited or copied, and the sums of both sides (drift, reconcile_months, reconcile_results). Fields of ours are put right by their policies.';
