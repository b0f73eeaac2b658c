/*
 * 66_subscribe.sql
 *		Subscriptions at Exact: exactly one per topic and division.
 *
 * C lists what is there, makes the calls that _subscribe_plan() names, and lists
 * again: what the list shows then is the truth, whatever an answer said in
 * whatever language (exact-online 6.1).
 */

CREATE TABLE webhook_subscriptions (
    division         integer NOT NULL,
    topic            text NOT NULL,
    subscription_id  uuid,
    callback_url     text,
    checked_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_error       text,
    PRIMARY KEY (division, topic)
);
COMMENT ON TABLE webhook_subscriptions IS 'Notifications that Exact was asked for. Not part of a dump: what is there is listed.';
COMMENT ON COLUMN webhook_subscriptions.division IS 'Exact division.';
COMMENT ON COLUMN webhook_subscriptions.topic IS 'Topic (exact-online 6.2).';
COMMENT ON COLUMN webhook_subscriptions.subscription_id IS 'Id at Exact; NULL = there is none.';
COMMENT ON COLUMN webhook_subscriptions.callback_url IS 'Where Exact sends to.';
COMMENT ON COLUMN webhook_subscriptions.checked_at IS 'When it was last listed.';
COMMENT ON COLUMN webhook_subscriptions.last_error IS 'Why there is none.';

CREATE FUNCTION _subscribe_begin(p_url text) RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    IF p_url IS NOT NULL THEN
        PERFORM configure('webhook_callback_url', p_url);
    END IF;
    RETURN setting('webhook_callback_url');
END
$$;
COMMENT ON FUNCTION _subscribe_begin(text) IS 'Notes the address for notifications, and returns the one in force; NULL = there is none.';

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
    DELETE FROM webhook_subscriptions w WHERE w.division = p_division;
    INSERT INTO webhook_subscriptions (division, topic, subscription_id, callback_url, last_error)
    SELECT p_division, t.topic, s.id, s.callback_url,
           CASE WHEN s.id IS NULL THEN coalesce(p_errors->>t.topic, 'Exact does not list it') WHEN s.callback_url <> setting('webhook_callback_url') THEN coalesce(p_errors->>t.topic, 'it leads elsewhere') END
      FROM (VALUES ('SalesOrders'), ('Accounts'), ('Items')) t(topic)
      LEFT JOIN _subscribed(p_division, p_list) s ON s.topic = t.topic AND s.n = 1
     WHERE p_wanted OR s.id IS NOT NULL;
    IF NOT p_wanted THEN
        UPDATE webhook_subscriptions w SET last_error = coalesce(p_errors->>w.topic, 'it is still there') WHERE w.division = p_division;
        DELETE FROM settings WHERE name = 'webhook_callback_url' AND NOT EXISTS (SELECT FROM webhook_subscriptions);
    END IF;
    RETURN (SELECT string_agg(w.topic || ': ' || w.last_error, '; ' ORDER BY w.topic) FROM webhook_subscriptions w WHERE w.division = p_division AND w.last_error IS NOT NULL);
END
$$;
COMMENT ON FUNCTION _subscribe_settle(integer, text, boolean, jsonb) IS 'Takes over what the list shows in the end; returns what is not as it should be, NULL when all is well.';

CREATE PROCEDURE subscribe_webhooks(callback_url text DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'epds_subscribe_webhooks';
COMMENT ON PROCEDURE subscribe_webhooks(text) IS 'Asks Exact to notify this address (https) of changed orders, customers and articles, in every division: exactly one subscription per topic; others of our app are removed. Without an address: checks those that are there, which pg_cron does once a day.';
CREATE PROCEDURE unsubscribe_webhooks()
    LANGUAGE c AS 'MODULE_PATHNAME', 'epds_unsubscribe_webhooks';
COMMENT ON PROCEDURE unsubscribe_webhooks() IS 'Removes our subscriptions at Exact. The polls go on by themselves.';
