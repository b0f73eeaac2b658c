-- Webhooks at Pipedrive: which of a list are ours, which of these are right, what is
-- asked for next; against a company that is played here.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

SELECT u, _url_host(u) FROM unnest(ARRAY['https://Hooks.Example.NL/pipedrive/webhook', 'http://127.0.0.1:8080/x', 'https://h.example?x=/y', 'https://h.example', 'no address']) u;

-- The company: what it lists, as C shows it (without logins); what is made gets the next id.
CREATE TABLE t.hooks (id bigint PRIMARY KEY, name text, subscription_url text, event_action text, event_object text, version text, is_active boolean NOT NULL DEFAULT true, remove_time text);
CREATE SEQUENCE t.hook_id START 101;
-- A whole run, as C makes it; p_mischief: step → what goes wrong with its first call.
CREATE FUNCTION t.hooks_run(p_mischief jsonb DEFAULT '{}') RETURNS TABLE (step text, status integer, tokens integer) LANGUAGE plpgsql AS $$
DECLARE
    v_run   bigint := _hooks_begin();
    v       record;
    v_what  text;
    v_data  jsonb;
    n       integer := 0;
BEGIN
    LOOP
        SELECT * INTO v FROM _hooks_next(v_run);
        EXIT WHEN v.step IS NULL;
        n := n + 1;
        IF n > 40 THEN RAISE EXCEPTION 'no end: %', v.step; END IF;
        step := v.step; tokens := v.tokens; v_data := NULL;
        v_what := p_mischief->>v.step;
        p_mischief := p_mischief - v.step;
        status := CASE v.method WHEN 'POST' THEN 201 ELSE 200 END;
        IF v_what ~ '^[0-9]+$' THEN
            status := v_what::integer;
            v_data := '{"error": "so it is"}';
        ELSIF v_what = 'not executed' THEN
            NULL;
        ELSIF v.method = 'GET' THEN
            v_data := jsonb_build_object('data', coalesce((SELECT jsonb_agg(to_jsonb(r) ORDER BY r.id DESC) FROM t.hooks r), '[]'));
        ELSIF v.method = 'POST' THEN
            INSERT INTO t.hooks SELECT nextval('t.hook_id'), b.name, b.subscription_url, b.event_action, b.event_object, b.version FROM jsonb_to_record(v.body::jsonb) AS b(name text, subscription_url text, event_action text, event_object text, version text);
            v_data := jsonb_build_object('data', jsonb_build_object('id', currval('t.hook_id')));
        ELSIF v_what IS DISTINCT FROM 'lags' THEN
            DELETE FROM t.hooks r WHERE v.path = '/api/v1/webhooks/' || r.id;
            IF NOT FOUND THEN status := 404; END IF;
        END IF;
        IF v_what IN ('lost', 'not executed') THEN
            status := NULL;
            PERFORM _hooks_lost(v_run, v.step);
        ELSE
            PERFORM _hooks_take(v_run, v.step, status, coalesce(v_data, '{"data": null}')::text);
        END IF;
        RETURN NEXT;
    END LOOP;
    step := _hooks_end(v_run); status := NULL; tokens := NULL; RETURN NEXT;
END
$$;
CREATE VIEW t.there AS SELECT id, concat_ws(' ', name, subscription_url, event_action, event_object, version, CASE WHEN NOT is_active THEN 'asleep' END, remove_time) AS hook FROM t.hooks ORDER BY id;
CREATE VIEW t.known AS SELECT topic, subscription_id, callback_url, state, last_error FROM webhook_subscriptions WHERE side = 'pipedrive' ORDER BY topic;
CREATE FUNCTION t.hooks_password(p_word text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO credentials (name, value, sealed) VALUES ('pipedrive_webhook_password', p_word::bytea, false)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value, changed_at = clock_timestamp() $$;

-- Nothing is wanted: nothing is asked.
SELECT * FROM _subscribe_begin(NULL, NULL);
SELECT _hooks_lack_password();

-- A new company with webhooks of others: ours are made, theirs stay.
INSERT INTO t.hooks VALUES (1, 'exact_pd_sync', 'https://elsewhere.example/pipedrive/webhook', '*', 'deal', '2.0'), (2, 'Zapier', 'https://h.example/pd', '*', 'deal', '2.0'), (3, NULL, NULL, NULL, NULL, NULL), (4, 'exact_pd_sync', 'https://h.example.evil/pd', '*', 'deal', '2.0');
SELECT * FROM _subscribe_begin(NULL, 'https://h.example/pd');
SELECT _hooks_lack_password();
SELECT t.hooks_password('first');
SELECT _hooks_lack_password();
SELECT * FROM t.hooks_run();
SELECT * FROM t.there;
SELECT * FROM t.known;
SELECT * FROM t.hooks_run();
-- The body is what C puts the login into; it has no password of its own.
SAVEPOINT body;
SELECT r.body FROM (SELECT _hooks_begin() AS run OFFSET 0) b, LATERAL (SELECT _hooks_take(b.run, 'list', 200, '{"data": []}') AS taken OFFSET 0) l, LATERAL (SELECT * FROM _hooks_next(CASE WHEN l.taken IS NULL THEN b.run END)) r;
ROLLBACK TO body;
-- One is gone: one is made.
DELETE FROM t.hooks WHERE id = 101;
SELECT * FROM t.hooks_run();
SELECT id, hook FROM t.there WHERE id > 100;

-- What is of ours and not right: asleep, another version, action or object, twice, another path of our host.
UPDATE t.hooks SET is_active = false WHERE id = (SELECT subscription_id::bigint FROM t.known WHERE topic = 'deal');
UPDATE t.hooks SET version = '1.0' WHERE id = (SELECT subscription_id::bigint FROM t.known WHERE topic = 'organization');
INSERT INTO t.hooks VALUES (50, 'exact_pd_sync', 'https://h.example/pd', '*', 'person', '2.0', true, NULL), (51, 'exact_pd_sync', 'https://H.example/other', 'create', 'note', '2.0', true, NULL), (52, 'exact_pd_sync', 'https://h.example/pd', '*', 'product', '2.0', false, '2026-01-01');
SELECT * FROM t.hooks_run();
SELECT hook, count(*) FROM t.there GROUP BY hook ORDER BY hook;
SELECT topic, state, last_error FROM t.known;

-- Another password; the removal of one lags behind in the list, while an answer is lost.
SELECT t.hooks_password('second');
SELECT * FROM t.known;
SELECT regexp_replace(step, ':\d+', ':N') AS step, status, tokens FROM t.hooks_run((SELECT jsonb_build_object('make:deal', 'lost', 'remove:' || subscription_id, 'lags') FROM t.known WHERE topic = 'deal'));
SELECT hook, count(*) FROM t.there WHERE id > 100 GROUP BY hook ORDER BY hook;
-- The one that was made, not the one that lags.
SELECT k.topic, r.id > 107 AS made_now FROM t.known k JOIN t.hooks r ON r.id::text = k.subscription_id AND r.event_object = k.topic;

-- An answer is lost in a run that dies: the next one knows nothing of its password.
DELETE FROM t.hooks WHERE event_object = 'deal' AND id > 100;
SAVEPOINT before;
DO $$
DECLARE
    v_run bigint := _hooks_begin();
BEGIN
    PERFORM _hooks_take(v_run, 'list', 200, jsonb_build_object('data', (SELECT jsonb_agg(to_jsonb(r)) FROM t.hooks r))::text);
    PERFORM FROM _hooks_next(v_run);
    INSERT INTO t.hooks VALUES (200, 'exact_pd_sync', 'https://h.example/pd', '*', 'deal', '2.0');
END
$$;
SELECT * FROM t.hooks_run();
-- Not executed, and nobody said so.
ROLLBACK TO before;
SELECT step, status, tokens FROM t.hooks_run('{"make:deal": "not executed"}');

-- Refusals are told, and the others are done; the next run tries again.
DELETE FROM t.hooks WHERE id > 100 AND event_object IN ('deal', 'organization', 'person');
SELECT array_agg(step) FROM _hooks_next(_hooks_begin());
CREATE FUNCTION t.hooks_refused(p_mischief jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_detail text; v_hint text;
BEGIN
    PERFORM t.hooks_run(p_mischief);
    RETURN 'all is well';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_detail = PG_EXCEPTION_DETAIL, v_hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n', SQLSTATE || ' ' || SQLERRM, v_detail, v_hint);
END
$$;
SELECT t.hooks_refused('{"make:deal": "422"}');
SELECT t.hooks_refused('{"make:organization": "400"}');
SELECT t.hooks_refused('{"list": "403"}');
SELECT * FROM t.hooks_run() WHERE tokens IS NULL;
INSERT INTO t.hooks VALUES (60, 'exact_pd_sync', 'https://h.example/pd', '*', 'deal', '2.0');
SELECT t.hooks_refused('{"remove:60": "403"}');
SELECT step FROM t.hooks_run('{"remove:60": "410"}');
SELECT _hooks_refusal('{"errors": {"limit": ["webhook limit reached"]}}'), _hooks_refusal('<html>'), _hooks_refusal('{"success": false}');

-- Another address, another host: those of the old one are still ours.
SELECT * FROM _subscribe_begin(NULL, 'https://new.example/pd');
SELECT topic, state, last_error FROM t.known;
SELECT step FROM t.hooks_run() WHERE tokens IS NULL;
SELECT hook, count(*) FROM t.there GROUP BY hook ORDER BY hook;

-- As restored from a dump: the address came along, the rest did not; and it is another host now.
DELETE FROM webhook_topics_asked; DELETE FROM pipedrive_hooks; DELETE FROM credentials WHERE name = 'pipedrive_webhook_password';
SELECT * FROM _subscribe_begin(NULL, 'https://restored.example/pd');
SELECT _hooks_lack_password();
SELECT t.hooks_password('third');
SELECT step FROM t.hooks_run() WHERE tokens IS NULL;
SELECT hook, count(*) FROM t.there GROUP BY hook ORDER BY hook;

-- Taken back: a removal is refused, and the next call of either kind goes on.
SELECT * FROM _unsubscribe_begin();
SELECT topic, state, last_error FROM t.known;
SELECT t.hooks_refused((SELECT jsonb_object_agg('remove:' || subscription_id, '500') FROM t.known WHERE topic = 'deal'));
SELECT * FROM _subscribe_begin(NULL, NULL);
SELECT step FROM t.hooks_run() WHERE tokens IS NULL;
SELECT hook, count(*) FROM t.there GROUP BY hook ORDER BY hook;
SELECT count(*) FROM t.known;
SELECT * FROM _subscribe_begin(NULL, NULL);
SELECT * FROM _unsubscribe_begin();

-- Two sides, each for itself.
INSERT INTO credentials (name, value, sealed) VALUES ('exact_webhook_secret', 'word', false);
SELECT * FROM _subscribe_begin('https://h.example/exact', NULL);
SELECT * FROM _subscribe_begin('https://h.example/exact', 'https://h.example/pd');
SELECT * FROM _subscribe_begin(NULL, NULL);

-- Silent: enough happened, and none came for a day.
DELETE FROM webhook_topics_asked; DELETE FROM webhook_deliveries; DELETE FROM sync_changes;
DELETE FROM settings WHERE name LIKE '%callback_url';
INSERT INTO settings (name, value) VALUES ('webhook_callback_url', 'https://h.example/exact'), ('pipedrive_callback_url', 'https://h.example/pd');
INSERT INTO webhook_topics_asked (side, division, topic, subscription_id, callback_url, since, checked_at, password_of)
SELECT 'pipedrive', 0, o, '7', 'https://h.example/pd', clock_timestamp() - interval '3 days', clock_timestamp(), (SELECT changed_at FROM credentials WHERE name = 'pipedrive_webhook_password') FROM unnest(ARRAY['deal', 'organization', 'person', 'product']) o
UNION ALL SELECT 'exact', 1, o, '7', 'https://h.example/exact', clock_timestamp() - interval '3 days', clock_timestamp(), NULL FROM unnest(ARRAY['SalesOrders', 'Accounts', 'Items']) o;
CREATE VIEW t.states AS SELECT string_agg(topic || ' ' || state, ', ' ORDER BY side, topic) AS states FROM webhook_subscriptions;
SELECT * FROM t.states;
INSERT INTO sync_changes (at, kind, division, exact_id, operation) SELECT clock_timestamp() - interval '1 hour', k, 1, t.gid(1), CASE k WHEN 'product' THEN 'adopt' ELSE 'update' END FROM unnest(ARRAY['deal', 'product']) k, generate_series(1, 5);
INSERT INTO sync_changes (at, kind, division, exact_id, operation) SELECT clock_timestamp() - a, 'organization', 1, t.gid(1), 'update' FROM unnest(ARRAY[interval '1 minute', '9 minutes', '2 hours', '3 hours', '4 hours', '5 hours', '25 hours', '4 days']) a;
SELECT * FROM t.states;
UPDATE webhook_topics_asked SET since = clock_timestamp() - interval '30 minutes' WHERE topic = 'deal';
SELECT * FROM t.states;
UPDATE webhook_topics_asked SET since = clock_timestamp() - interval '3 days' WHERE topic = 'deal';
INSERT INTO webhook_deliveries (side, digest, topic, received_at) VALUES ('pipedrive', 'a', 'deal', clock_timestamp() - interval '25 hours'), ('exact', 'b', 'deal', clock_timestamp());
SELECT * FROM t.states;
SELECT topic, received_24h, last_received_at < clock_timestamp() - interval '24 hours' AS long_ago FROM webhook_subscriptions WHERE topic = 'deal';
INSERT INTO webhook_deliveries (side, digest, topic, received_at) VALUES ('pipedrive', 'c', 'deal', clock_timestamp() - interval '23 hours');
SELECT * FROM t.states;

-- Status and figures, which machines ask for all day, look at no notification that is old and done.
INSERT INTO webhook_deliveries (side, digest, topic, division, received_at, state)
SELECT a.side, a.topic || n, a.topic, nullif(a.division, 0), clock_timestamp() - interval '25 hours', 'done' FROM webhook_topics_asked a, generate_series(1, 300) n;
ANALYZE webhook_deliveries;
SET LOCAL enable_seqscan = off;
CREATE VIEW t.looks AS SELECT seq_tup_read + idx_tup_fetch AS looks FROM pg_stat_xact_user_tables WHERE relid = 'webhook_deliveries'::regclass;
SELECT looks AS before FROM t.looks \gset
SELECT count(*) > 0 AS rows FROM status;
SELECT looks - :before < 100 AS few FROM t.looks;
SELECT looks AS before FROM t.looks \gset
SELECT length(metrics()) > 0 AS text;
SELECT looks - :before < 100 AS few FROM t.looks;

-- The address is taken back while a run is under way: what is there is not forgotten.
SELECT configure('pipedrive_callback_url', NULL);
SELECT _hooks_end(0);
SELECT count(*) FROM webhook_topics_asked WHERE side = 'pipedrive';
ROLLBACK;
