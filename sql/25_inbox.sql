/*
 * 25_inbox.sql
 *		The inbox: notifications of both services, committed before they are
 *		answered.
 *
 * Does not belong here: signatures and sockets (C), and what a hint leads to
 * (28_hints.sql).
 */

CREATE TABLE webhook_deliveries (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    side             text NOT NULL CHECK (side IN ('exact', 'pipedrive')),
    digest           text NOT NULL,
    received_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    topic            text NOT NULL,
    division         integer,
    action           text,
    key              text,
    event_at         timestamptz,
    caused_by        text,
    body             jsonb,
    state            text NOT NULL DEFAULT 'new' CHECK (state IN ('new', 'waiting', 'done', 'ignored')),
    repeats          integer NOT NULL DEFAULT 0,
    looks            integer NOT NULL DEFAULT 0,
    next_look_at     timestamptz,
    known_timestamp  bigint,
    handled_at       timestamptz,
    result           text,
    UNIQUE (side, digest)
);
COMMENT ON TABLE webhook_deliveries IS 'Inbox of notifications: committed, then answered 200. A repeated one counts once. Kept for retention_days.';
COMMENT ON COLUMN webhook_deliveries.id IS 'Number.';
COMMENT ON COLUMN webhook_deliveries.side IS 'exact or pipedrive.';
COMMENT ON COLUMN webhook_deliveries.digest IS 'What makes it one: for Exact the SHA-256 of the signed content, for Pipedrive meta.id.';
COMMENT ON COLUMN webhook_deliveries.received_at IS 'When it came first.';
COMMENT ON COLUMN webhook_deliveries.topic IS 'Topic at Exact (exact-online 6.2), entity at Pipedrive.';
COMMENT ON COLUMN webhook_deliveries.division IS 'Exact division.';
COMMENT ON COLUMN webhook_deliveries.action IS 'Create, Update or Delete; at Pipedrive create, change, delete.';
COMMENT ON COLUMN webhook_deliveries.key IS 'GUID at Exact, id at Pipedrive.';
COMMENT ON COLUMN webhook_deliveries.event_at IS 'When it happened. Exact names no zone: the reading that lies near the time of receipt; NULL when neither does.';
COMMENT ON COLUMN webhook_deliveries.caused_by IS 'Pipedrive: us (our own echo), tool (another user of the API) or person (pipedrive 14.3).';
COMMENT ON COLUMN webhook_deliveries.body IS 'Pipedrive: what changed and to what.';
COMMENT ON COLUMN webhook_deliveries.state IS 'new; waiting (its feed was read and did not show it yet); done; ignored (nothing of ours).';
COMMENT ON COLUMN webhook_deliveries.repeats IS 'How often it came again, at least.';
COMMENT ON COLUMN webhook_deliveries.looks IS 'How often its feed was read for it.';
COMMENT ON COLUMN webhook_deliveries.next_look_at IS 'When it is looked for again.';
COMMENT ON COLUMN webhook_deliveries.known_timestamp IS 'Highest rowversion of the object that was staged when the hint was first looked at (0: none): a higher one answers it. NULL: not looked at yet.';
COMMENT ON COLUMN webhook_deliveries.handled_at IS 'When it was done with.';
COMMENT ON COLUMN webhook_deliveries.result IS 'What became of it.';
CREATE INDEX webhook_deliveries_open ON webhook_deliveries (id) WHERE state IN ('new', 'waiting');
CREATE INDEX webhook_deliveries_at ON webhook_deliveries (received_at);
CREATE INDEX webhook_deliveries_topic ON webhook_deliveries (side, topic, received_at);

CREATE VIEW webhook_topics AS
SELECT * FROM (VALUES
    ('SalesOrders', 'order', 'orders'),
    ('GoodsDeliveries', NULL, 'orders'),
    ('SalesInvoices', NULL, 'orders'),
    ('Accounts', 'account', 'customers'),
    ('Items', 'item', 'products')
  ) AS t(topic, entity, part);
COMMENT ON VIEW webhook_topics IS 'Topics of Exact that lead to a read: which part they belong to, and whose key they carry (NULL: that of another record; the part''s feeds are read once).';

CREATE FUNCTION _event_time(p_text text, p_received timestamptz, p_zone text) RETURNS timestamptz
    LANGUAGE plpgsql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    IF p_text !~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?Z?$' THEN
        RETURN NULL;
    END IF;
    -- No zone is given: it came seconds to minutes after it happened, which tells the two readings apart.
    RETURN (SELECT c.at
              FROM (VALUES (rtrim(p_text, 'Z')::timestamp AT TIME ZONE 'UTC'), (rtrim(p_text, 'Z')::timestamp AT TIME ZONE p_zone)) c(at)
             WHERE c.at BETWEEN p_received - interval '20 minutes' AND p_received + interval '5 minutes'
             ORDER BY abs(extract(epoch FROM p_received - c.at)) LIMIT 1);
EXCEPTION WHEN datetime_field_overflow OR invalid_datetime_format THEN
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _event_time(text, timestamptz, text) IS 'The moment that a notification names without a zone (exact-online 6.3); NULL when it cannot be told.';

CREATE FUNCTION _pipedrive_note(p_text text) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v       jsonb;
    v_meta  jsonb;
BEGIN
    v := p_text::jsonb;
    v_meta := v->'meta';
    RETURN jsonb_build_object(
        'digest', CASE WHEN length(v_meta->>'id') <= 100 THEN v_meta->>'id' ELSE encode(sha256(convert_to(p_text, 'UTF8')), 'hex') END,
        'topic', left(coalesce(v_meta->>'entity', v_meta->>'object', 'unknown'), 64), 'action', left(v_meta->>'action', 16),
        'key', left(coalesce(v_meta->>'entity_id', v->'data'->>'id'), 64), 'event_at', left(v_meta->>'timestamp', 40),
        -- pipedrive 14.3: our own writes come back as made by the API with our user; people use the web interface.
        'caused_by', CASE WHEN v_meta->>'change_source' = 'app' THEN 'person'
                          WHEN v_meta->>'change_source' = 'api' AND EXISTS (SELECT FROM pipedrive_users u WHERE u.is_me AND u.user_id::text = v_meta->>'user_id') THEN 'us' ELSE 'tool' END,
        'body', jsonb_strip_nulls(jsonb_build_object(
            'merged_to_id', v_meta->'merged_to_id', 'merged_from_id', v_meta->'merged_from_id', 'user_id', v_meta->'user_id', 'previous', v->'previous',
            'current', (SELECT jsonb_object_agg(k, v->'data'->k) FROM jsonb_object_keys(CASE WHEN jsonb_typeof(v->'previous') = 'object' THEN v->'previous' ELSE '{}' END) k WHERE v->'data' ? k))));
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN jsonb_build_object('digest', encode(sha256(convert_to(p_text, 'UTF8')), 'hex'), 'topic', 'unknown', 'strange', true);
END
$$;
COMMENT ON FUNCTION _pipedrive_note(text) IS 'What a notification of Pipedrive says (pipedrive 14.2): which record, who caused it, what changed and to what.';

CREATE FUNCTION _inbox_take(p_notes jsonb) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_new integer;
BEGIN
    WITH came AS MATERIALIZED (
        SELECT DISTINCT ON (n.side, n.digest) n.side, n.digest, n.topic, n.division, n.action, n.key,
               _event_time(n.event_at, clock_timestamp(), coalesce(d.time_zone, 'UTC')) AS event_at, n.caused_by, n.body,
               CASE WHEN coalesce(n.strange, false) OR n.side = 'exact' AND (t.topic IS NULL OR d.division IS NULL) THEN 'ignored' WHEN n.side = 'pipedrive' THEN 'done' ELSE 'new' END AS state,
               CASE WHEN n.side = 'pipedrive' OR coalesce(n.strange, false) OR t.topic IS NULL OR d.division IS NULL THEN clock_timestamp() END AS handled_at,
               CASE WHEN n.side = 'pipedrive' AND n.strange IS NOT TRUE THEN 'recorded' WHEN n.strange THEN 'signed, but it says nothing that can be used'
                    WHEN t.topic IS NULL THEN 'this topic leads to nothing' WHEN d.division IS NULL THEN 'this division is not read' END AS result
          FROM (SELECT x FROM jsonb_array_elements(p_notes) a(x) WHERE x->>'side' = 'exact'
                UNION ALL SELECT x || _pipedrive_note(x->>'text') FROM jsonb_array_elements(p_notes) a(x) WHERE x->>'side' = 'pipedrive') y
         CROSS JOIN LATERAL jsonb_to_record(y.x) AS n(side text, digest text, topic text, division integer, action text, key text, event_at text, caused_by text, body jsonb, strange boolean)
          LEFT JOIN divisions d ON d.division = n.division
          LEFT JOIN webhook_topics t ON t.topic = n.topic
         ORDER BY n.side, n.digest
    ), noted AS (
        INSERT INTO webhook_deliveries AS w (side, digest, topic, division, action, key, event_at, caused_by, body, state, handled_at, result)
        SELECT c.side, c.digest, c.topic, c.division, c.action, c.key, c.event_at, c.caused_by, c.body, c.state, c.handled_at, c.result FROM came c
        ON CONFLICT (side, digest) DO NOTHING
        RETURNING w.state
    ), again AS (
        -- Those that were there before.  One that somebody has at this moment is not counted: nobody waits for a
        -- count, and least of all for the worker that works on the very same rows, in another order.
        SELECT w.id FROM came c JOIN webhook_deliveries w USING (side, digest) FOR UPDATE OF w SKIP LOCKED
    ), counted AS (
        UPDATE webhook_deliveries w SET repeats = w.repeats + 1 FROM again a WHERE w.id = a.id)
    SELECT count(*) INTO v_new FROM noted n WHERE n.state = 'new';
    IF v_new > 0 THEN
        PERFORM wake_worker('intake');
    END IF;
    RETURN v_new;
END
$$;
COMMENT ON FUNCTION _inbox_take(jsonb) IS 'Takes checked notifications into the inbox and wakes the intake worker; returns how many are new hints.';
