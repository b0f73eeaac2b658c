/*
 * 28_hints.sql
 *		From a notification to an early read: which feeds are read because of
 *		what stands in the inbox.
 *
 * A hint is not the truth (law 8).  It makes the matching feed be read at once;
 * what the feed does not show yet is looked for again, then read by key.  With
 * all hints lost the poll alone leads to the same end.
 *
 * Does not belong here: the inbox itself (25_inbox.sql), and what a changed row
 * leads to (30_queue.sql).
 */

CREATE FUNCTION _hint_stand(p_division integer, p_entity text, p_key uuid) RETURNS bigint
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    SELECT CASE p_entity
        WHEN 'order' THEN (SELECT greatest(o.timestamp, (SELECT max(l.timestamp) FROM exact_sales_order_lines l WHERE l.division = o.division AND l.order_id = o.id))
                             FROM exact_sales_orders o WHERE o.division = p_division AND o.id = p_key)
        WHEN 'account' THEN (SELECT a.timestamp FROM exact_accounts a WHERE a.division = p_division AND a.id = p_key)
        WHEN 'item' THEN (SELECT i.timestamp FROM exact_items i WHERE i.division = p_division AND i.id = p_key) END $$;
COMMENT ON FUNCTION _hint_stand(integer, text, uuid) IS 'Highest rowversion staged for the object that a hint names; NULL when it is not staged.';

CREATE FUNCTION _hint_answered(p_hint webhook_deliveries) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    SELECT CASE
        -- The key of another record: once its part was read there is nothing to wait for.
        WHEN t.entity IS NULL THEN p_hint.looks > 0
        WHEN t.entity = 'order' AND p_hint.action = 'Delete'
            THEN EXISTS (SELECT FROM exact_sales_orders o WHERE o.division = p_hint.division AND o.id = p_hint.key::uuid AND o.deleted_at IS NOT NULL)
        WHEN p_hint.action = 'Delete' THEN p_hint.looks > 0
        WHEN coalesce(_hint_stand(p_hint.division, t.entity, p_hint.key::uuid) > coalesce(p_hint.known_timestamp, 0), false) AND p_hint.looks > 0 THEN true
        -- Read before the hint came: the order's own time of change is not older than the event.  Two changes
        -- within a blink look like one; the next poll tells them apart.
        ELSE t.entity = 'order' AND EXISTS (SELECT FROM exact_sales_orders o JOIN divisions d USING (division)
                                             WHERE o.division = p_hint.division AND o.id = p_hint.key::uuid AND o.timestamp IS NOT NULL
                                               AND o.modified AT TIME ZONE d.time_zone >= p_hint.event_at - interval '100 milliseconds')
        END
      FROM webhook_topics t WHERE t.topic = p_hint.topic $$;
COMMENT ON FUNCTION _hint_answered(webhook_deliveries) IS 'Does staging show what the hint announced?';

CREATE FUNCTION _hints_wait() RETURNS bigint
    LANGUAGE sql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    SELECT greatest(0, ceil(extract(epoch FROM greatest(h.due, p.due) - clock_timestamp()) * 1000))::bigint
      FROM (SELECT min(coalesce(w.next_look_at, w.received_at)) AS due FROM webhook_deliveries w WHERE w.state IN ('new', 'waiting')) h
      LEFT JOIN LATERAL (
        -- A hint is followed at once; what comes within a quarter of a second goes with the next read.  From half of Exact's
        -- minute on, the rest of it is shared out, four calls a read, a sixth left to the polls.  A scarce day is spread.
        SELECT r.started_at + CASE
                   WHEN d.remaining < d.limit_value / 10 THEN interval '5 minutes'
                   WHEN d.remaining < d.limit_value / 4 THEN interval '1 minute'
                   WHEN m.remaining > m.limit_value / 2 OR r.started_at < m.reset_at - interval '1 minute' OR m.remaining IS NULL THEN interval '250 milliseconds'
                   ELSE (m.reset_at - r.started_at) / greatest(1, (m.remaining - m.limit_value / 6) / 4) END AS due
          FROM (SELECT x.started_at FROM sync_runs x WHERE x.what = 'hints' ORDER BY x.id DESC LIMIT 1) r
          LEFT JOIN LATERAL (SELECT * FROM budgets b WHERE b.side = 'exact' AND b.kind = 'day' AND b.reset_at > clock_timestamp() ORDER BY b.remaining LIMIT 1) d ON true
          LEFT JOIN LATERAL (SELECT * FROM budgets b WHERE b.side = 'exact' AND b.kind = 'minute' AND b.reset_at > clock_timestamp() ORDER BY b.remaining LIMIT 1) m ON true
         WHERE r.started_at <= clock_timestamp()) p ON true
     WHERE h.due IS NOT NULL $$;
COMMENT ON FUNCTION _hints_wait() IS 'Milliseconds until hints are to be followed, as far apart as the minute and the day at Exact ask for; NULL when there are none.';

CREATE FUNCTION _hints_feeds() RETURNS TABLE (division integer, feed text, optional boolean)
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    -- This also marks the hints that this look knows of.
    UPDATE webhook_deliveries w SET known_timestamp = coalesce(_hint_stand(w.division, t.entity, w.key::uuid), 0)
      FROM webhook_topics t WHERE w.state = 'new' AND t.topic = w.topic AND w.known_timestamp IS NULL;
    UPDATE webhook_deliveries w SET state = 'ignored', handled_at = v_now, result = 'this part is paused: the first poll after resume() reads it'
      FROM webhook_topics t WHERE w.state IN ('new', 'waiting') AND t.topic = w.topic AND is_paused(t.part);
    UPDATE webhook_deliveries w SET state = 'done', handled_at = v_now, result = 'was read already'
     WHERE w.state IN ('new', 'waiting') AND _hint_answered(w);
    -- A feed that failed is not asked for each hint that comes.
    UPDATE webhook_deliveries w SET next_look_at = p.until, result = p.result
      FROM webhook_topics t,
           (SELECT x.division, y.part, max(x.next_look_at) AS until, max(x.result) AS result FROM webhook_deliveries x JOIN webhook_topics y ON y.topic = x.topic
             WHERE x.state IN ('new', 'waiting') AND x.result LIKE 'not read yet: %' AND x.looks < 2 AND x.next_look_at > v_now GROUP BY x.division, y.part) p
     WHERE w.state = 'new' AND w.next_look_at IS NULL AND t.topic = w.topic AND p.division = w.division AND p.part = t.part;
    -- Two reads of the feed did not show it: by key.  An order that is not staged comes whole.
    INSERT INTO stale_headers (division, order_id)
    SELECT DISTINCT w.division, w.key::uuid FROM webhook_deliveries w JOIN webhook_topics t ON t.topic = w.topic AND t.entity = 'order'
      JOIN exact_sales_orders o ON o.division = w.division AND o.id = w.key::uuid
     WHERE w.state = 'waiting' AND w.looks >= 2 AND w.next_look_at <= v_now AND w.action <> 'Delete'
     ORDER BY 1, 2
    ON CONFLICT DO NOTHING;
    INSERT INTO unresolved_accounts (division, account)
    SELECT DISTINCT w.division, w.key::uuid FROM webhook_deliveries w JOIN webhook_topics t ON t.topic = w.topic AND t.entity = 'account'
     WHERE w.state = 'waiting' AND w.looks >= 2 AND w.next_look_at <= v_now AND w.action <> 'Delete' ORDER BY 1, 2
    ON CONFLICT DO NOTHING;
    INSERT INTO unresolved_items (division, item)
    SELECT DISTINCT w.division, w.key::uuid FROM webhook_deliveries w JOIN webhook_topics t ON t.topic = w.topic AND t.entity = 'item'
     WHERE w.state = 'waiting' AND w.looks >= 2 AND w.next_look_at <= v_now AND w.action <> 'Delete' ORDER BY 1, 2
    ON CONFLICT DO NOTHING;

    RETURN QUERY
    WITH due AS (
        SELECT DISTINCT w.division, t.part, w.action = 'Delete' AS gone, w.looks >= 2 AS by_key
          FROM webhook_deliveries w JOIN webhook_topics t ON t.topic = w.topic
         WHERE w.state IN ('new', 'waiting') AND coalesce(w.next_look_at, v_now) <= v_now)
    SELECT f.division, f.feed, f.optional
      FROM (SELECT DISTINCT d.division, x.feed, x.optional, x.ordinal
              FROM due d JOIN feed_definitions x
                ON x.poll_group = d.part AND x.mode = 'sync' AND NOT d.by_key AND (x.feed <> 'deleted' OR d.gone)
                   AND x.feed NOT IN ('item_prices', 'employees')
                OR x.feed = 'hinted_orders' AND d.part = 'orders' AND d.by_key
                OR x.mode = 'keys' AND x.poll_group = 'orders') f
     ORDER BY f.division, f.ordinal;
END
$$;
COMMENT ON FUNCTION _hints_feeds() IS 'The feeds to read for the hints that are due; none when staging shows all of them already.';

CREATE FUNCTION _hints_read(p_started timestamptz, p_failed jsonb) RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_now      timestamptz := clock_timestamp();
    v_trouble  text;
BEGIN
    -- What a feed that failed should have shown waits as long again as it has waited; another part or division does not wait for it.
    WITH hit AS (
        SELECT w.id, w.division, t.part, w.result, 'not read yet: ' || min(u.error) AS trouble, min(w.received_at) OVER (PARTITION BY w.division, t.part) AS since
          FROM jsonb_to_recordset(p_failed) AS u(division integer, feed text, error text)
          JOIN feed_definitions f ON f.feed = u.feed
          JOIN webhook_deliveries w ON w.division = u.division AND w.state IN ('new', 'waiting') AND w.known_timestamp IS NOT NULL AND coalesce(w.next_look_at, p_started) <= p_started
          JOIN webhook_topics t ON t.topic = w.topic
         WHERE CASE WHEN w.looks < 2 THEN f.mode = 'sync' AND f.poll_group = t.part ELSE f.mode = 'keys' AND (f.feed <> 'hinted_orders' OR t.part = 'orders') END
         GROUP BY w.id, w.division, t.part, w.result, w.received_at
    ), postponed AS (
        UPDATE webhook_deliveries w SET next_look_at = v_now + greatest(interval '5 s', least(interval '10 minutes', v_now - h.since)), result = h.trouble
          FROM hit h WHERE w.id = h.id
    )
    SELECT string_agg(DISTINCT format('%s of division %s: %s', h.part, h.division, h.trouble), '; ') INTO v_trouble FROM hit h WHERE h.result IS DISTINCT FROM h.trouble;
    -- What came while the feeds were read may have been missed by them, and so may what had come and was committed only then.
    UPDATE webhook_deliveries w SET looks = w.looks + 1, state = 'waiting', result = NULL, next_look_at = v_now + make_interval(secs => CASE WHEN w.looks = 0 THEN 2 ELSE 4 END)
     WHERE w.state IN ('new', 'waiting') AND w.known_timestamp IS NOT NULL AND w.received_at < p_started AND coalesce(w.next_look_at, p_started) <= p_started;
    UPDATE webhook_deliveries w
       SET state = 'done', handled_at = v_now, next_look_at = NULL,
           result = CASE WHEN w.looks < 3 THEN 'read' ELSE 'looked up by key' END
     WHERE w.state = 'waiting' AND (w.looks >= 3 OR _hint_answered(w));
    RETURN v_trouble;
END
$$;
COMMENT ON FUNCTION _hints_read(timestamptz, jsonb) IS 'After feeds were read for hints: those that are answered are done, the others are looked for again after 2 and 4 seconds, the last time by key; those whose feed failed wait longer each time, up to 10 minutes. Returns what failed and is not noted yet.';
