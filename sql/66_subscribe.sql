/*
 * 66_subscribe.sql
 *		Subscriptions: what both services were asked for, how it stands, and
 *		Exact's part: exactly one per topic and division.
 *
 * C lists what is there, makes the calls that _subscribe_plan() names, and lists
 * again: what the list shows then is the truth, whatever an answer said in
 * whatever language (exact-online 6.1).  Pipedrive's part is
 * 67_pipedrive_hooks.sql.
 */

CREATE TABLE webhook_topics_asked (
    side             text NOT NULL CHECK (side IN ('exact', 'pipedrive')),
    division         integer NOT NULL,
    topic            text NOT NULL,
    subscription_id  text,
    callback_url     text,
    since            timestamptz,
    checked_at       timestamptz,
    last_error       text,
    password_of      timestamptz,
    listed_in_run    bigint,
    asked_in_run     bigint,
    PRIMARY KEY (side, division, topic)
);
COMMENT ON TABLE webhook_topics_asked IS 'Notifications that both services were asked for; view webhook_subscriptions shows them with what came. Not part of a dump: what is there is listed.';
COMMENT ON COLUMN webhook_topics_asked.side IS 'exact or pipedrive.';
COMMENT ON COLUMN webhook_topics_asked.division IS 'Exact division; 0 for Pipedrive, which has none.';
COMMENT ON COLUMN webhook_topics_asked.topic IS 'Topic at Exact (exact-online 6.2), object at Pipedrive (pipedrive 14.2).';
COMMENT ON COLUMN webhook_topics_asked.subscription_id IS 'GUID at Exact, number at Pipedrive; NULL = there is none.';
COMMENT ON COLUMN webhook_topics_asked.callback_url IS 'Where it leads to.';
COMMENT ON COLUMN webhook_topics_asked.since IS 'When this one was first known.';
COMMENT ON COLUMN webhook_topics_asked.checked_at IS 'When it was last listed, or made.';
COMMENT ON COLUMN webhook_topics_asked.last_error IS 'Why there is none, or why it is not as it should be.';
COMMENT ON COLUMN webhook_topics_asked.password_of IS 'Pipedrive: credentials.changed_at of the password it was made with. Another one there now: it is made anew. The moment says nothing of the password, as a hash would.';
COMMENT ON COLUMN webhook_topics_asked.listed_in_run IS 'Pipedrive: the run in which the list was read.';
COMMENT ON COLUMN webhook_topics_asked.asked_in_run IS 'Pipedrive: announced before it is made; what this run''s next list shows more than the last one is ours (law 4).';

-- The time of now in a SELECT of its own: an index can be searched for it, which it cannot for a function that changes.
CREATE VIEW webhook_subscriptions AS
SELECT a.side, nullif(a.division, 0) AS division, a.topic, a.subscription_id, a.callback_url, a.checked_at,
       coalesce(a.last_error, x.trouble) AS last_error,
       (SELECT w.received_at FROM webhook_deliveries w WHERE w.side = a.side AND w.topic = a.topic AND (a.division = 0 OR w.division = a.division) ORDER BY w.received_at DESC LIMIT 1) AS last_received_at,
       (SELECT count(*) FROM webhook_deliveries w WHERE w.side = a.side AND w.topic = a.topic AND (a.division = 0 OR w.division = a.division) AND w.received_at > (SELECT clock_timestamp() - interval '24 hours')) AS received_24h,
       CASE WHEN a.subscription_id IS NULL OR coalesce(a.last_error, x.trouble) IS NOT NULL THEN 'missing'
            WHEN EXISTS (SELECT FROM webhook_deliveries w WHERE w.side = a.side AND w.topic = a.topic AND (a.division = 0 OR w.division = a.division) AND w.received_at > (SELECT clock_timestamp() - interval '24 hours')) THEN 'well'
            -- Nothing came.  That is strange only when enough happened that it should have told of: what was read of the past is no
            -- change, and what is younger than ten minutes may still come.  Rows are counted, which costs a look at each, only
            -- when the polls brought something at all.
            WHEN CASE WHEN a.side = 'pipedrive'
                      -- Our own writes come back from there.
                      THEN (SELECT count(*) FROM (SELECT FROM sync_changes s WHERE s.kind = a.topic AND s.operation <> 'adopt' AND s.at BETWEEN y.since AND y.until LIMIT 5) c)
                      WHEN coalesce((SELECT sum(r.changed) FROM sync_runs r WHERE r.started_at > y.since AND r.what IN ('poll_' || (SELECT t.part FROM webhook_topics t WHERE t.topic = a.topic), 'poll_all')), 0) < 5 THEN 0
                      -- Among the newest, found by their index: live orders are there, and a look at a million costs a tenth of a second.
                      WHEN a.topic = 'SalesOrders' THEN (SELECT count(*) FROM (SELECT FROM (SELECT x.timestamp, x.changed_at FROM exact_sales_orders x WHERE x.division = a.division ORDER BY x.order_date DESC LIMIT 10000) o
                                                                                WHERE o.timestamp IS NOT NULL AND o.changed_at BETWEEN y.since AND y.until LIMIT 5) c)
                      WHEN a.topic = 'Accounts' THEN (SELECT count(*) FROM exact_accounts o WHERE o.division = a.division AND o.timestamp IS NOT NULL AND o.changed_at BETWEEN y.since AND y.until)
                      WHEN a.topic = 'Items' THEN (SELECT count(*) FROM exact_items o WHERE o.division = a.division AND o.timestamp IS NOT NULL AND o.changed_at BETWEEN y.since AND y.until)
                      END >= 5 THEN 'silent'
            ELSE 'well' END AS state
  FROM webhook_topics_asked a
  LEFT JOIN divisions d ON d.division = a.division
 CROSS JOIN LATERAL (SELECT greatest(a.since, d.imported_at, d.live_since, clock_timestamp() - interval '24 hours') AS since, clock_timestamp() - interval '10 minutes' AS until,
                            setting(CASE a.side WHEN 'exact' THEN 'webhook_callback_url' ELSE 'pipedrive_callback_url' END) AS wanted_url) y
 CROSS JOIN LATERAL (SELECT CASE
        WHEN y.wanted_url IS NULL THEN 'it is no longer wanted: CALL exact_pd_sync.unsubscribe_webhooks()'
        WHEN a.callback_url IS DISTINCT FROM y.wanted_url THEN 'it leads elsewhere'
        WHEN a.side = 'pipedrive' AND a.subscription_id IS NULL THEN 'it is not made yet'
        WHEN a.side = 'pipedrive' AND a.password_of IS DISTINCT FROM (SELECT c.changed_at FROM credentials c WHERE c.name = 'pipedrive_webhook_password') THEN 'it was made with another password: CALL exact_pd_sync.subscribe_webhooks()'
        END AS trouble) x;
COMMENT ON VIEW webhook_subscriptions IS 'What both services were asked to notify of, and whether they do: one row per topic and division at Exact, per object at Pipedrive. subscribe_webhooks() makes them and checks them.';
COMMENT ON COLUMN webhook_subscriptions.side IS 'exact or pipedrive.';
COMMENT ON COLUMN webhook_subscriptions.division IS 'Exact division; NULL for Pipedrive, which has none.';
COMMENT ON COLUMN webhook_subscriptions.topic IS 'Topic at Exact (exact-online 6.2), object at Pipedrive (pipedrive 14.2); as in webhook_deliveries.';
COMMENT ON COLUMN webhook_subscriptions.subscription_id IS 'Its id there, from the service''s list or the answer that made it; NULL = there is none.';
COMMENT ON COLUMN webhook_subscriptions.callback_url IS 'Where it leads to, from the same; what is wanted are the settings webhook_callback_url and pipedrive_callback_url.';
COMMENT ON COLUMN webhook_subscriptions.checked_at IS 'When it was last seen in the service''s list, or made.';
COMMENT ON COLUMN webhook_subscriptions.last_error IS 'Why there is none, or what is wrong with it: the service''s words, or our own comparison with settings and password.';
COMMENT ON COLUMN webhook_subscriptions.last_received_at IS 'When the last notification came, from webhook_deliveries; NULL = none within retention_days.';
COMMENT ON COLUMN webhook_subscriptions.received_24h IS 'How many came in the last 24 hours, each counted once, from webhook_deliveries.';
COMMENT ON COLUMN webhook_subscriptions.state IS 'missing: not there as it should be (last_error). silent: there for long enough, none came for 24 hours, and yet at least five changes were brought by the polls, or made by us at Pipedrive. well: all else. Persons are never silent: we change none.';

CREATE FUNCTION _subscribe_begin(p_url text, p_pipedrive_url text, OUT exact boolean, OUT pipedrive boolean)
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    IF p_url IS NOT NULL THEN
        PERFORM configure('webhook_callback_url', p_url);
    END IF;
    IF p_pipedrive_url IS NOT NULL THEN
        PERFORM _hooks_remember();
        PERFORM configure('pipedrive_callback_url', p_pipedrive_url);
    END IF;
    IF p_url IS NULL AND p_pipedrive_url IS NULL THEN
        exact := setting('webhook_callback_url') IS NOT NULL;
        -- What is left of one that was taken back is removed.
        pipedrive := setting('pipedrive_callback_url') IS NOT NULL OR EXISTS (SELECT FROM webhook_topics_asked a WHERE a.side = 'pipedrive');
    ELSE
        exact := p_url IS NOT NULL;
        pipedrive := p_pipedrive_url IS NOT NULL;
    END IF;
    -- Every notification would be turned away, and nobody told.
    IF p_url IS NOT NULL AND NOT EXISTS (SELECT FROM credentials c WHERE c.name = 'exact_webhook_secret') THEN
        RAISE EXCEPTION 'there is no webhook secret to check notifications of Exact with'
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'It stands beside the app in the App Center: set_exact_app(…, webhook_secret => ''file:NAME'').';
    END IF;
END
$$;
COMMENT ON FUNCTION _subscribe_begin(text, text) IS 'Notes the addresses for notifications that are given, and returns which sides are to be seen to: those, or without any all that were asked.';

CREATE FUNCTION _unsubscribe_begin(OUT exact boolean, OUT pipedrive boolean)
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM _hooks_remember();
    pipedrive := EXISTS (SELECT FROM webhook_topics_asked a WHERE a.side = 'pipedrive');
    -- Exact tells ours by the app: it can be asked even when nothing is known here.
    exact := NOT pipedrive OR setting('webhook_callback_url') IS NOT NULL OR EXISTS (SELECT FROM webhook_topics_asked a WHERE a.side = 'exact');
    -- Whatever comes of the calls: the daily check must not ask again for what a person took back.
    PERFORM configure('pipedrive_callback_url', NULL);
    PERFORM configure('webhook_callback_url', NULL);
END
$$;
COMMENT ON FUNCTION _unsubscribe_begin() IS 'Takes back what both services were asked for, and returns which sides are to be seen to.';

CREATE FUNCTION _subscribed(p_division integer, p_list text) RETURNS TABLE (id uuid, topic text, callback_url text, n bigint)
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    SELECT (r->>'ID')::uuid, r->>'Topic', r->>'CallbackURL',
           row_number() OVER (PARTITION BY r->>'Topic' ORDER BY r->>'CallbackURL' = setting('webhook_callback_url') DESC, r->>'Created', r->>'ID')
      FROM jsonb_array_elements(_page_rows(p_list::jsonb)) r
     WHERE r->>'Topic' IN ('SalesOrders', 'Accounts', 'Items')
       AND coalesce((r->>'Division')::integer, p_division) = p_division
       -- Those of another app are not ours to judge.
       AND coalesce(lower(r->>'ClientID'), '') IN ('', lower(setting('exact_client_id')), '{' || lower(setting('exact_client_id')) || '}') $$;
COMMENT ON FUNCTION _subscribed(integer, text) IS 'Our subscriptions in a list of Exact, numbered per topic, the one with the right address first.';

CREATE FUNCTION _subscribe_plan(p_division integer, p_list text, p_wanted boolean) RETURNS TABLE (topic text, method text, path text, body text)
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    SELECT s.topic, 'DELETE', format('/api/v1/%s/webhooks/WebhookSubscriptions(guid''%s'')', p_division, s.id), NULL
      FROM _subscribed(p_division, p_list) s
     WHERE NOT p_wanted OR s.n > 1 OR s.callback_url IS DISTINCT FROM setting('webhook_callback_url')
    UNION ALL
    SELECT t.topic, 'POST', format('/api/v1/%s/webhooks/WebhookSubscriptions', p_division),
           jsonb_build_object('CallbackURL', setting('webhook_callback_url'), 'Topic', t.topic)::text
      FROM (VALUES ('SalesOrders'), ('Accounts'), ('Items')) t(topic)
     WHERE p_wanted AND NOT EXISTS (SELECT FROM _subscribed(p_division, p_list) s WHERE s.topic = t.topic AND s.callback_url = setting('webhook_callback_url')) $$;
COMMENT ON FUNCTION _subscribe_plan(integer, text, boolean) IS 'Calls that lead from what is listed to exactly one subscription per topic (wanted), or to none.';

CREATE FUNCTION _subscribe_settle(p_division integer, p_list text, p_wanted boolean, p_errors jsonb) RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    DELETE FROM webhook_topics_asked w WHERE w.side = 'exact' AND w.division = p_division AND NOT p_wanted AND NOT EXISTS (SELECT FROM _subscribed(p_division, p_list) s WHERE s.topic = w.topic);
    INSERT INTO webhook_topics_asked AS w (side, division, topic, subscription_id, callback_url, since, checked_at, last_error)
    SELECT 'exact', p_division, t.topic, s.id::text, s.callback_url, clock_timestamp(), clock_timestamp(),
           CASE WHEN s.id IS NULL THEN coalesce(p_errors->>t.topic, 'Exact does not list it')
                WHEN NOT p_wanted THEN coalesce(p_errors->>t.topic, 'it is still there')
                WHEN s.callback_url <> setting('webhook_callback_url') THEN coalesce(p_errors->>t.topic, 'it leads elsewhere') END
      FROM (VALUES ('SalesOrders'), ('Accounts'), ('Items')) t(topic)
      LEFT JOIN _subscribed(p_division, p_list) s ON s.topic = t.topic AND s.n = 1
     WHERE p_wanted OR s.id IS NOT NULL
    ON CONFLICT (side, division, topic) DO UPDATE
       SET subscription_id = excluded.subscription_id, callback_url = excluded.callback_url, checked_at = excluded.checked_at, last_error = excluded.last_error,
           since = CASE WHEN w.subscription_id = excluded.subscription_id THEN w.since ELSE excluded.since END;
    RETURN (SELECT string_agg(w.topic || ': ' || w.last_error, '; ' ORDER BY w.topic) FROM webhook_topics_asked w WHERE w.side = 'exact' AND w.division = p_division AND w.last_error IS NOT NULL);
END
$$;
COMMENT ON FUNCTION _subscribe_settle(integer, text, boolean, jsonb) IS 'Takes over what the list shows in the end; returns what is not as it should be, NULL when all is well.';
