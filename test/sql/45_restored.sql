-- A restored or copied database: it sends nothing until a person says so, and then
-- makes nothing twice.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

SELECT t.catalogue(3);
SELECT t.order(1, 2), t.order(2, 1);
SELECT t.send();
SELECT t.order(3, 1), t.order(4, 1);
SELECT DISTINCT call FROM t.take();
-- One organization was gone already then.
INSERT INTO links (kind, division, exact_id, pipedrive_id, sent, gone_at) VALUES ('organization', 100, t.aid(2), 777, '{}', now());

-- What a dump leaves out is gone; loading its rows fired the triggers, before the links were there.
TRUNCATE jobs, job_needs, intents, looks, remote_lines, parts, instance, budgets, api_calls, sync_changes, sync_runs, job_signals, awaited_orders;
INSERT INTO job_signals (kind, division, exact_id, reason) SELECT 'deal', division, id, 'restore' FROM exact_sales_orders;
INSERT INTO job_signals (kind, division, exact_id, reason) SELECT 'organization', division, id, 'restore' FROM exact_accounts;
INSERT INTO job_signals (kind, division, exact_id, reason) SELECT 'product', division, id, 'restore' FROM exact_items;
INSERT INTO job_signals (kind, reason) VALUES ('all_deals', 'restore');

-- It knows that it is another one, with and without the secrets that no dump brings.
SELECT _instance_difference();
SELECT * FROM _delivery_gate();
SELECT set_pipedrive_account('t', 'https://company.pipedrive.com');
SELECT _first_instance();
SELECT count(*) AS confirmed_by_itself FROM instance;
SELECT t.error('SELECT resume()');
SELECT state, detail FROM status WHERE part = 'sending';
SELECT configure('list_lag', '0');
INSERT INTO feed_positions (division, feed, last_success, run_id, drained_run) VALUES (1, 'sales_order_headers', clock_timestamp() - interval '1 day', 3, 3);
SELECT confirm_instance();
-- Run numbers begin anew after a dump: no run must think that it has been here.
SELECT run_id, drained_run FROM feed_positions;
-- Still paused, until a person says yes.
SELECT * FROM _delivery_gate();
SELECT resume();
SELECT may_send FROM _delivery_gate();

-- Before anything is sent, what is at Pipedrive is compared with what is known, and Exact is read again.
SELECT count(*) AS calls FROM t.take();
-- Its dead letter is not in the dump, and is told anew.
SELECT kind, object, cause FROM dead_letters;
DELETE FROM links WHERE pipedrive_id = 777;
DELETE FROM jobs WHERE state = 'dead';
SELECT what, since IS NOT NULL AS since_then FROM looks WHERE done_at IS NULL ORDER BY id;
SELECT detail FROM status WHERE part = 'sending';
-- One page: organization 1 has another name, everything else is as it was sent.
CREATE FUNCTION t.records(p_kind text, p_but text DEFAULT '') RETURNS jsonb LANGUAGE sql AS $$
    SELECT coalesce(jsonb_agg(l.sent || jsonb_build_object('id', l.pipedrive_id, 'update_time', '2020-01-01T00:00:00Z') || CASE WHEN p_kind <> 'deal' THEN '{}' ELSE jsonb_build_object(
               'products_count', k.lines, 'value', coalesce(k.total, (l.sent->>'value')::numeric, 0)) END ORDER BY l.pipedrive_id), '[]')
      FROM links l CROSS JOIN LATERAL (SELECT count(*) AS lines, sum(x.quantity * x.item_price) AS total FROM line_links x WHERE p_kind = 'deal' AND x.order_id = l.exact_id) k
     WHERE l.kind = p_kind AND right(l.exact_id::text, 2) <> p_but $$;
CREATE FUNCTION t.shown(p_rows jsonb) RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT _look_take((SELECT look_id FROM _look_next()), 200, jsonb_build_object('data', p_rows)::text) $$;
SELECT t.shown(jsonb_set(t.records('organization'), '{0,name}', '"Jan"'));
SELECT t.shown(t.records('product', '03'));
SELECT sent->'name' AS name FROM links WHERE kind = 'organization' AND last_verified IS NOT NULL ORDER BY pipedrive_id LIMIT 1;
-- A product that the list does not show is asked for by id, and is gone only then.
SELECT kind, gone_at FROM links WHERE gone_at IS NOT NULL;
SELECT t.shown('[{"options": []}]') WHERE EXISTS (SELECT FROM looks WHERE what = 'options');
-- The first deal has a line more, the second is worth more; the two that were under way: one had been made, and one that nobody here knows.
SELECT t.shown(jsonb_set(jsonb_set(t.records('deal'), '{0,products_count}', '9'), '{1,value}', '9999')
    || jsonb_build_array(jsonb_build_object('id', 888, 'title', 'Order 1003 Klant 1', 'custom_fields', jsonb_build_object('deal_exact_id', t.oid(3))),
                         jsonb_build_object('id', 999, 'title', 'Order 1009 Klant 1', 'custom_fields', jsonb_build_object('deal_exact_id', t.oid(9)))));
SELECT t.shown('[]');
SELECT right(exact_id::text, 2) AS id, lines_unread, seen_value, adopted FROM links WHERE kind = 'deal' ORDER BY exact_id;
SELECT kind, right(exact_id::text, 2) AS id, pipedrive_id FROM unclaimed_records;
SELECT regexp_replace(path, 'custom_fields=[^&]*', 'custom_fields=...') AS path, tokens FROM _look_next();
SELECT t.shown('[]');
SELECT kind, right(exact_id::text, 2) AS id, gone_at IS NOT NULL AS gone FROM links WHERE gone_at IS NOT NULL;
SELECT kind, state, class FROM jobs WHERE state = 'dead';
SELECT operation, old_value, new_value FROM sync_changes WHERE operation IN ('verify', 'gone') ORDER BY id;
SELECT count(*) AS looks_left FROM looks WHERE done_at IS NULL;
SELECT may_send FROM _delivery_gate();
SELECT count(*) AS calls_before_exact_was_read FROM t.take();
UPDATE feed_positions SET last_success = clock_timestamp();
SELECT may_send FROM _delivery_gate();
SELECT stale_since FROM instance;
DELETE FROM jobs WHERE state = 'dead';
UPDATE links SET gone_at = NULL;
-- The order that nobody knew is read from Exact: its deal is adopted in place of a create.
SELECT t.order(9, 1);
SELECT t.send() IS NOT NULL AS sent;
SELECT count(*) AS creates FROM sync_changes WHERE operation = 'create' AND exact_id = t.oid(9);
SELECT pipedrive_id, adopted FROM links WHERE kind = 'deal' AND exact_id = t.oid(9);
SELECT count(*) FROM unclaimed_records;
SELECT order_number, l.pipedrive_id, l.adopted FROM links l JOIN exact_sales_orders o ON o.id = l.exact_id WHERE l.kind = 'deal' ORDER BY 1;
SELECT count(*) FROM jobs;

-- A new installation is its own.
TRUNCATE instance, links, line_links, feed_positions;
SELECT _instance_ok() AS not_before_it_is_noted;
SELECT _first_instance();
SELECT count(*) FROM instance;
SELECT _instance_ok();
-- A promotion changes the timeline alone: an installation may wave that through.
UPDATE instance SET identity = identity || '{"timeline": 0}';
SELECT _instance_ok();
SET LOCAL exact_pd_sync.resume_after_promotion = on;
SELECT _instance_ok();
UPDATE instance SET identity = identity || '{"database_oid": 1}' || '{"database": "x"}';
SELECT _instance_ok();
SELECT string_agg(k, ', ' ORDER BY k) AS identity FROM jsonb_object_keys(instance_identity()::jsonb) k;
ROLLBACK;
