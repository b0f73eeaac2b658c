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

-- What a dump leaves out is gone; loading its rows fired the triggers, before the links were there.
TRUNCATE jobs, job_needs, intents, looks, remote_lines, parts, instance, budgets, api_calls, sync_changes, sync_runs, job_signals, awaited_orders;
INSERT INTO job_signals (kind, division, exact_id, reason) SELECT 'deal', division, id, 'restore' FROM exact_sales_orders;
INSERT INTO job_signals (kind, division, exact_id, reason) SELECT 'organization', division, id, 'restore' FROM exact_accounts;
INSERT INTO job_signals (kind, division, exact_id, reason) SELECT 'product', division, id, 'restore' FROM exact_items;
INSERT INTO job_signals (kind, reason) VALUES ('all_deals', 'restore');

-- Without secrets, which no dump brings, nothing can go out anyway; with them it knows that it is another one.
SELECT * FROM _delivery_gate();
SELECT set_pipedrive_account('t', 'https://company.pipedrive.com');
SELECT _first_instance();
SELECT count(*) AS confirmed_by_itself FROM instance;
SELECT t.error('SELECT resume()');
SELECT state, detail FROM status WHERE part = 'sending';
SELECT confirm_instance();
-- Still paused, until a person says yes.
SELECT * FROM _delivery_gate();
SELECT resume();
SELECT may_send FROM _delivery_gate();

-- What the links know is sent; the two that were under way are looked for before they are made.
SELECT t.send();
SELECT kind, id, state, reason FROM t.waiting;
SELECT what, reason FROM looks ORDER BY id;
-- One of them had been made.
SELECT _look_take((SELECT look_id FROM _look_next()), 200, jsonb_build_object('data', jsonb_build_array(jsonb_build_object('id', 888, 'title', 'Order 1003 Klant 1', 'custom_fields', jsonb_build_object('deal_exact_id', t.oid(3)))))::text);
SELECT _look_take((SELECT look_id FROM _look_next()), 200, '{"data": []}');
SELECT call FROM t.take();
SELECT t.answer();
SELECT _look_take((SELECT look_id FROM _look_next()), 200, '{"data": []}');
SELECT t.send() IS NOT NULL AS sent;
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
