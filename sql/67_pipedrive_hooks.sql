/*
 * 67_pipedrive_hooks.sql
 *		Subscriptions at Pipedrive: exactly one webhook per object.
 *
 * C makes the calls that _hooks_next() names, one after the other, and puts the
 * password into the body of a new one, which no SQL sees.  Every run begins with
 * the list.  Ours is what has our name and leads to our host; of these, one is
 * right when we know its id and made it with the password and address of now.
 * All else of ours is removed, and others are never touched.
 *
 * So whatever is lost (an answer, this table in a dump, the password) the next
 * run makes it one again.
 */

CREATE TABLE pipedrive_hooks (
    hook_id       bigint PRIMARY KEY,
    topic         text,
    callback_url  text,
    state         text NOT NULL CHECK (state IN ('right', 'wrong', 'removed', 'stays')),
    error         text
);
COMMENT ON TABLE pipedrive_hooks IS 'Our webhooks as Pipedrive listed them last; others are not in it. Not part of a dump.';
COMMENT ON COLUMN pipedrive_hooks.hook_id IS 'Id at Pipedrive.';
COMMENT ON COLUMN pipedrive_hooks.topic IS 'Its object.';
COMMENT ON COLUMN pipedrive_hooks.callback_url IS 'Where it leads to.';
COMMENT ON COLUMN pipedrive_hooks.state IS 'right; wrong: to be removed; removed: in this run; stays: Pipedrive refused to remove it.';
COMMENT ON COLUMN pipedrive_hooks.error IS 'Its words then.';

CREATE FUNCTION _url_host(p_url text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT lower(substring(p_url FROM '^[a-zA-Z]+://([^/?#]+)')) $$;
COMMENT ON FUNCTION _url_host(text) IS 'Host and port of an address.';

CREATE FUNCTION _hooks_lack_password() RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$ SELECT setting('pipedrive_callback_url') IS NOT NULL AND NOT EXISTS (SELECT FROM credentials c WHERE c.name = 'pipedrive_webhook_password') $$;
COMMENT ON FUNCTION _hooks_lack_password() IS 'Are notifications of Pipedrive wanted, and there is no password for them?';

CREATE FUNCTION _hooks_remember() RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    INSERT INTO webhook_topics_asked (side, division, topic, callback_url)
    SELECT 'pipedrive', 0, o.topic, setting('pipedrive_callback_url')
      FROM unnest(ARRAY['deal', 'organization', 'person', 'product']) o(topic)
     WHERE setting('pipedrive_callback_url') IS NOT NULL
    ON CONFLICT (side, division, topic) DO NOTHING $$;
COMMENT ON FUNCTION _hooks_remember() IS 'A row for each object that Pipedrive is to tell of; before the address changes, so that those that lead to the old one are known as ours.';

CREATE FUNCTION _hooks_begin() RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM _hooks_remember();
    DELETE FROM pipedrive_hooks;
    UPDATE webhook_topics_asked a SET listed_in_run = NULL, asked_in_run = NULL, last_error = NULL WHERE a.side = 'pipedrive';
    RETURN _run_begin('webhooks');
END
$$;
COMMENT ON FUNCTION _hooks_begin() IS 'Begins a run that makes Pipedrive''s webhooks what they should be: one per object, or none when no address is set.';

CREATE FUNCTION _hooks_next(p_run bigint, OUT step text, OUT method text, OUT path text, OUT body text, OUT tokens integer, OUT note text) RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_url    text := setting('pipedrive_callback_url');
    v_topic  text;
    v_hook   bigint;
BEGIN
    IF EXISTS (SELECT FROM webhook_topics_asked a WHERE a.side = 'pipedrive' AND a.listed_in_run IS DISTINCT FROM p_run) THEN
        step := 'list'; method := 'GET'; path := '/api/v1/webhooks'; tokens := 10; RETURN NEXT; RETURN;
    END IF;
    -- Removed first: a user has room for forty.
    SELECT h.hook_id INTO v_hook FROM pipedrive_hooks h WHERE h.state = 'wrong' ORDER BY h.hook_id LIMIT 1;
    IF FOUND THEN
        step := 'remove:' || v_hook; method := 'DELETE'; path := '/api/v1/webhooks/' || v_hook; tokens := 6; RETURN NEXT; RETURN;
    END IF;
    SELECT a.topic INTO v_topic FROM webhook_topics_asked a
     WHERE v_url IS NOT NULL AND a.side = 'pipedrive' AND a.subscription_id IS NULL AND a.last_error IS NULL
       AND NOT EXISTS (SELECT FROM pipedrive_hooks h WHERE h.topic = a.topic AND h.state <> 'removed')
     ORDER BY a.topic LIMIT 1;
    IF FOUND THEN
        -- Announced with the password's moment before the password is read: it may be newer than this says, never older.
        UPDATE webhook_topics_asked a SET asked_in_run = p_run, password_of = (SELECT c.changed_at FROM credentials c WHERE c.name = 'pipedrive_webhook_password')
         WHERE a.side = 'pipedrive' AND a.topic = v_topic;
        step := 'make:' || v_topic; method := 'POST'; path := '/api/v1/webhooks'; tokens := 10;
        body := jsonb_build_object('subscription_url', v_url, 'event_action', '*', 'event_object', v_topic, 'name', 'exact_pd_sync', 'version', '2.0')::text;
        RETURN NEXT; RETURN;
    END IF;
END
$$;
COMMENT ON FUNCTION _hooks_next(bigint) IS 'The next call of this run; no row when everything is as it should be, or cannot be.';

CREATE FUNCTION _hooks_listed(p_run bigint, p_data jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_url       text := setting('pipedrive_callback_url');
    v_password  timestamptz := (SELECT c.changed_at FROM credentials c WHERE c.name = 'pipedrive_webhook_password');
    -- A list may lag behind: what was not right before is not what was made since.
    v_not       bigint[] := coalesce((SELECT array_agg(h.hook_id) FROM pipedrive_hooks h WHERE h.state <> 'right'), '{}');
BEGIN
    DELETE FROM pipedrive_hooks;
    INSERT INTO pipedrive_hooks (hook_id, topic, callback_url, state)
    SELECT r.id, r.event_object, r.subscription_url,
           CASE WHEN r.id <> ALL (v_not) AND r.event_action = '*' AND coalesce(r.version, '2.0') = '2.0' AND r.is_active AND r.subscription_url = v_url AND a.password_of = v_password
                     AND (a.subscription_id = r.id::text OR a.asked_in_run = p_run) THEN 'right' ELSE 'wrong' END
      FROM jsonb_to_recordset(p_data) AS r(id bigint, name text, subscription_url text, event_action text, event_object text, version text, is_active boolean, remove_time text)
      LEFT JOIN webhook_topics_asked a ON a.side = 'pipedrive' AND a.topic = r.event_object
     WHERE r.name = 'exact_pd_sync' AND r.id IS NOT NULL AND r.remove_time IS NULL
       AND _url_host(r.subscription_url) IN (SELECT _url_host(v_url) UNION ALL SELECT _url_host(x.callback_url) FROM webhook_topics_asked x WHERE x.side = 'pipedrive')
    ON CONFLICT (hook_id) DO NOTHING;
    -- One that was lost twice on its way may be there twice.
    UPDATE pipedrive_hooks h SET state = 'wrong' WHERE h.state = 'right' AND EXISTS (SELECT FROM pipedrive_hooks o WHERE o.topic = h.topic AND o.state = 'right' AND o.hook_id < h.hook_id);
    UPDATE webhook_topics_asked a
       SET subscription_id = x.hook_id::text, callback_url = coalesce(x.callback_url, a.callback_url), checked_at = clock_timestamp(), listed_in_run = p_run, asked_in_run = NULL,
           since = CASE WHEN a.subscription_id = x.hook_id::text THEN a.since ELSE clock_timestamp() END
      FROM webhook_topics_asked b
      LEFT JOIN pipedrive_hooks x ON x.topic = b.topic AND x.state = 'right'
     WHERE b.side = 'pipedrive' AND a.side = b.side AND a.division = b.division AND a.topic = b.topic;
END
$$;
COMMENT ON FUNCTION _hooks_listed(bigint, jsonb) IS 'Takes over a list of Pipedrive: which webhooks are ours, and which of these are right.';

CREATE FUNCTION _hooks_refusal(p_answer text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v jsonb;
BEGIN
    v := p_answer::jsonb;
    RETURN left(coalesce(v->>'error', v->>'errors', v->>'message', v::text), 300);
EXCEPTION WHEN data_exception THEN
    RETURN left(p_answer, 300);
END
$$;
COMMENT ON FUNCTION _hooks_refusal(text) IS 'Pipedrive''s words when it refuses a call about webhooks (pipedrive 5.2).';

CREATE FUNCTION _hooks_take(p_run bigint, p_step text, p_status integer, p_answer text) RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_ok      boolean := p_status BETWEEN 200 AND 299;
    v_what    text := split_part(p_step, ':', 1);
    v_of      text := split_part(p_step, ':', 2);
    v_error   text;
    v_id      text;
    v_topic   text;
BEGIN
    IF NOT v_ok THEN
        v_error := format('%s (HTTP %s)', coalesce(_hooks_refusal(p_answer), 'no reason given'), p_status);
    END IF;
    INSERT INTO api_calls (side, what, method, path, status, outcome, tokens, error)
    VALUES ('pipedrive', 'webhooks', CASE v_what WHEN 'list' THEN 'GET' WHEN 'make' THEN 'POST' ELSE 'DELETE' END,
            '/api/v1/webhooks' || CASE v_what WHEN 'remove' THEN '/' || v_of ELSE '' END, p_status, CASE WHEN v_ok THEN 'ok' ELSE 'failed' END,
            CASE v_what WHEN 'remove' THEN 6 ELSE 10 END, v_error);

    IF v_what = 'list' THEN
        IF NOT v_ok OR jsonb_typeof(p_answer::jsonb->'data') IS DISTINCT FROM 'array' THEN
            RAISE EXCEPTION 'could not list the webhooks of Pipedrive: %', coalesce(v_error, 'the answer holds no list')
                USING ERRCODE = 'fdw_error', HINT = 'The user of the API token must be an administrator of the Pipedrive company.';
        END IF;
        PERFORM _hooks_listed(p_run, p_answer::jsonb->'data');
    ELSIF v_what = 'remove' THEN
        v_error := CASE WHEN p_status NOT IN (404, 410) THEN 'webhook ' || v_of || ' cannot be removed: ' || v_error END;
        UPDATE pipedrive_hooks h SET state = CASE WHEN v_error IS NULL THEN 'removed' ELSE 'stays' END, error = v_error WHERE h.hook_id = v_of::bigint RETURNING h.topic INTO v_topic;
        UPDATE webhook_topics_asked a SET last_error = v_error WHERE v_error IS NOT NULL AND a.side = 'pipedrive' AND a.topic = v_topic;
    ELSIF v_ok THEN
        v_id := p_answer::jsonb->'data'->>'id';
        IF v_id IS NULL THEN
            -- Made, but which one?  The list tells.
            UPDATE webhook_topics_asked a SET listed_in_run = NULL WHERE a.side = 'pipedrive';
        ELSE
            UPDATE webhook_topics_asked a
               SET subscription_id = v_id, callback_url = setting('pipedrive_callback_url'), since = clock_timestamp(), checked_at = clock_timestamp(), asked_in_run = NULL
             WHERE a.side = 'pipedrive' AND a.topic = v_of;
        END IF;
    ELSE
        -- No room is no room for any of them.
        UPDATE webhook_topics_asked a SET last_error = v_error, asked_in_run = NULL
         WHERE a.side = 'pipedrive' AND (a.topic = v_of OR p_status = 422 AND a.subscription_id IS NULL);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _hooks_take(bigint, text, integer, text) IS 'Takes over the answer of a call about webhooks.';

CREATE FUNCTION _hooks_lost(p_run bigint, p_step text) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    INSERT INTO api_calls (side, what, method, path, outcome, tokens)
    VALUES ('pipedrive', 'webhooks', CASE WHEN p_step LIKE 'make:%' THEN 'POST' ELSE 'DELETE' END,
            '/api/v1/webhooks' || coalesce('/' || substring(p_step FROM '^remove:(.*)'), ''), 'unknown', CASE WHEN p_step LIKE 'make:%' THEN 10 ELSE 6 END);
    UPDATE webhook_topics_asked a SET listed_in_run = NULL WHERE a.side = 'pipedrive';
    -- What was made a moment ago need not be in the list at once.
    RETURN CASE WHEN p_step LIKE 'make:%' THEN setting('list_lag')::bigint * 1000 ELSE 0 END;
END
$$;
COMMENT ON FUNCTION _hooks_lost(bigint, text) IS 'A call was not answered: the next step is the list. Returns the milliseconds until it is asked for.';

CREATE FUNCTION _hooks_end(p_run bigint) RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_trouble  text := (SELECT string_agg(x.text, '; ' ORDER BY x.text)
                          FROM (SELECT a.topic || ': ' || a.last_error FROM webhook_topics_asked a WHERE a.side = 'pipedrive' AND a.last_error IS NOT NULL
                                UNION SELECT h.topic || ': ' || h.error FROM pipedrive_hooks h WHERE h.error IS NOT NULL) x(text));
BEGIN
    IF v_trouble ~ 'HTTP 422' THEN
        RAISE EXCEPTION 'Pipedrive has no room for our webhooks'
            USING ERRCODE = 'configuration_limit_exceeded', DETAIL = v_trouble,
                  HINT = 'A user may have forty. Remove some in Pipedrive (Tools and apps, Webhooks), then CALL exact_pd_sync.subscribe_webhooks(). Until then reconcile() sees what people change.';
    ELSIF v_trouble IS NOT NULL THEN
        RAISE EXCEPTION 'not all webhooks at Pipedrive are as they should be'
            USING ERRCODE = 'fdw_error', DETAIL = v_trouble,
                  HINT = 'The address must be reachable by Pipedrive over https without a redirect, and the user of the API token must be an administrator. The next call of exact_pd_sync.subscribe_webhooks() tries again.';
    END IF;
    IF setting('pipedrive_callback_url') IS NULL THEN
        -- A list without an address leaves none right.  One that is was seen or made before somebody took the address back.
        IF EXISTS (SELECT FROM webhook_topics_asked a WHERE a.side = 'pipedrive' AND a.subscription_id IS NOT NULL) THEN
            RETURN 'the address was taken back meanwhile: CALL exact_pd_sync.unsubscribe_webhooks() removes what is there';
        END IF;
        DELETE FROM webhook_topics_asked a WHERE a.side = 'pipedrive';
        DELETE FROM pipedrive_hooks;
        RETURN 'Pipedrive no longer notifies of changes';
    END IF;
    RETURN 'Pipedrive notifies of changes of deals, organizations, persons and products';
END
$$;
COMMENT ON FUNCTION _hooks_end(bigint) IS 'All calls were made: ERROR when webhooks are not as they should be, else what a person reads.';

CREATE PROCEDURE subscribe_webhooks(callback_url text DEFAULT NULL, pipedrive_callback_url text DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'epds_subscribe_webhooks';
COMMENT ON PROCEDURE subscribe_webhooks(text, text) IS 'Asks Exact to notify callback_url (https) of changed orders, customers and articles, in every division, and Pipedrive to notify pipedrive_callback_url of changed deals, organizations, persons and products: exactly one subscription per topic, others of ours are removed. One of the two is enough; the other side is left as it is. Without an address: checks those that were asked for, which pg_cron does once a day. webhook_subscriptions shows them.';
CREATE PROCEDURE unsubscribe_webhooks()
    LANGUAGE c AS 'MODULE_PATHNAME', 'epds_unsubscribe_webhooks';
COMMENT ON PROCEDURE unsubscribe_webhooks() IS 'Removes our subscriptions at Exact and Pipedrive. The polls go on by themselves.';
