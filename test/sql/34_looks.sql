-- Looking before creating: the scan, the short list after a start, creates of
-- unknown outcome. Nothing is made twice.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

CREATE FUNCTION t.next() RETURNS TABLE (path text, tokens integer) LANGUAGE sql AS $$ SELECT regexp_replace(n.path, 'updated_since=[0-9TZ:-]+', 'updated_since=...'), n.tokens FROM _look_next() n $$;
CREATE FUNCTION t.found(p_data jsonb, p_cursor text DEFAULT NULL) RETURNS text LANGUAGE sql
    AS $$ SELECT _look_take((SELECT look_id FROM _look_next()), 200, jsonb_build_object('success', true, 'data', p_data, 'additional_data', jsonb_build_object('next_cursor', p_cursor))::text) $$;
CREATE FUNCTION t.failed(p_status integer, p_answer text) RETURNS text LANGUAGE sql AS $$ SELECT _look_take((SELECT look_id FROM _look_next()), p_status, p_answer) $$;
SELECT t.catalogue(1);
DELETE FROM looks;

-- No create before what is there was looked through: one list a kind, whatever waits for it.
SELECT count(*) FROM t.next();
SELECT t.order(1, 1), t.order(2, 1, jsonb_build_object('OrderedBy', t.aid(2)));
SELECT count(*) FROM t.take();
SELECT what, reason, since FROM looks ORDER BY id;
SELECT kind, id, state, attempts, reason FROM t.waiting;
SELECT * FROM t.next();
-- Two pages; the cursor is followed.
SELECT t.found('[]', 'abc');
SELECT * FROM t.next();
SELECT t.found('[]');
SELECT kind, id, state FROM t.waiting;
SELECT * FROM t.next();
SELECT t.found('[]');
SELECT call FROM t.take();
SELECT t.answer();
-- Deals: the pipeline, and the archived ones, before the first of them.
SELECT count(*) FROM t.take();
SELECT * FROM t.next();
SELECT t.found('[]');
SELECT kind, id, state FROM t.waiting;
SELECT * FROM t.next();
SELECT t.found('[]');
SELECT DISTINCT call FROM t.take();
SELECT t.answer();
SELECT count(*) FROM t.next();

-- A list that cannot be read is read again, and nothing is created meanwhile.
DELETE FROM looks WHERE what LIKE '%deals';
SELECT t.order(3, 1);
SELECT count(*) FROM t.take();
SELECT t.failed(500, '{"error":"oops"}');
SELECT what, failures, last_error FROM looks WHERE done_at IS NULL ORDER BY id;
SELECT t.failed(0, NULL);
SELECT count(*) FROM t.take();
-- A cursor that is too old: from the beginning.
SELECT t.found('[]', 'old');
SELECT t.failed(400, '{"error":"bad cursor"}');
SELECT * FROM t.next();
SELECT t.error($$SELECT t.failed(200, 'no json')$$);
SELECT t.found('[]');
SELECT t.found('[]');
SELECT t.send();
SELECT failures FROM looks WHERE done_at IS NOT NULL AND failures > 0;

-- After a server start: what changed since the last word, once a kind, before the first create of it.
UPDATE looks SET done_at = pg_postmaster_start_time() - interval '1 day';
SELECT t.stage('sales_order_headers', t.header(3, '{"DeliveryStatus": 21}'));
SELECT call FROM t.take();
SELECT t.answer();
SELECT count(*) FROM looks WHERE done_at IS NULL;
SELECT t.order(4, 1);
SELECT count(*) FROM t.take();
SELECT * FROM t.next();
SELECT t.found('[]');
SELECT DISTINCT call FROM t.take();
SELECT t.answer();

UPDATE looks SET done_at = clock_timestamp();

-- A create of unknown outcome, and others with it: one list settles them all; what is in it is adopted, the rest is made.
SELECT t.order(11, 1), t.order(12, 1);
SELECT count(*) FROM t.take();
SELECT t.answer('{"n":1,"outcome":"unknown"}', '{"n":2,"outcome":"not_sent"}', '{"n":3,"outcome":"unknown"}', '{"n":4,"outcome":"not_sent"}');
SELECT id, state FROM t.waiting;
SELECT what, reason, since < clock_timestamp() - interval '5 minutes' AS before_the_attempt FROM looks WHERE done_at IS NULL;
SELECT t.order(13, 1);
SELECT count(*) AS other_creates_wait FROM t.take();
SELECT * FROM t.next();
SELECT t.found(jsonb_build_array(jsonb_build_object('id', 777, 'title', 'Order 1011 Klant 1', 'status', 'open', 'org_id', 1, 'owner_id', 2, 'pipeline_id', 5, 'stage_id', 11, 'currency', 'EUR',
    'custom_fields', jsonb_build_object('deal_exact_id', t.oid(11), 'deal_order_number', '1011', 'deal_order_date', '2026-03-05', 'deal_delivery_status', 'Open', 'deal_invoice_status', 'Open'))));
SELECT right(exact_id::text, 2) AS id, pipedrive_id, adopted, lines_unread FROM links WHERE pipedrive_id = 777;
SELECT id, state FROM t.waiting;
SELECT count(*) FROM intents;
-- The adopted deal's lines are read before anything is done to them; the others are created.
SELECT call FROM t.take();
SELECT t.answer();
SELECT * FROM t.next();
SELECT t.found('[{"id": 9001, "deal_id": 777, "product_id": 3, "quantity": 1, "item_price": 100, "discount": 0, "comments": ""}]');
SELECT lines_unread FROM links WHERE pipedrive_id = 777;
SELECT t.send();
SELECT right(line_id::text, 5) AS line, pipedrive_id FROM line_links WHERE order_id = t.oid(11);
SELECT count(*) FROM jobs;

-- An update of a record whose create is unknown waits for the answer.
SELECT t.order(14, 1);
SELECT count(*) FROM t.take();
SELECT t.answer('{"n":1,"outcome":"unknown"}', '{"n":2,"outcome":"not_sent"}');
SELECT t.stage('sales_order_headers', t.header(14, '{"DeliveryStatus": 20}'));
SELECT count(*) FROM t.take();
SELECT t.found('[]');
SELECT call, body->'stage_id' AS stage FROM t.take();
SELECT t.answer();

-- A discount of unknown outcome.
SELECT t.stage('sales_order_headers', t.header(14, '{"DeliveryStatus": 20, "AmountFCExclVat": 99.99}'));
SELECT call FROM t.take();
SELECT t.answer('{"n":1,"outcome":"unknown"}');
SELECT regexp_replace(path, '[0-9]+/discounts', 'N/discounts') AS path, tokens FROM t.next();
SELECT t.found('[{"id": "d-5", "description": "Afronding", "amount": 0.01, "type": "amount"}]');
SELECT discount_key, discount_sent FROM links WHERE kind = 'deal' AND exact_id = t.oid(14);
SELECT t.send();

-- Options of unknown outcome.
SELECT t.stage('item_groups', jsonb_build_object('ID', t.gid(1), 'Description', 'Tafel'), jsonb_build_object('ID', t.gid(2), 'Description', 'Keuken'));
SELECT call FROM t.take();
SELECT t.answer('{"n":1,"outcome":"unknown"}');
SELECT * FROM t.next();
SELECT t.found('{"field_code": "product_item_group", "options": [{"id": 31, "label": "Tafel"}]}');
SELECT call, body FROM t.take();
SELECT t.answer();
SELECT t.send();

-- A crash: what was announced and has no answer is unknown; the rest is worked out anew.
SELECT t.order(21, 1), t.stage('accounts', t.account(1, '{"Name": "Anders"}'));
SELECT call FROM t.take();
SELECT _delivery_start();
SELECT kind, operation, state FROM intents ORDER BY 1, 2;
SELECT kind, id, state FROM t.waiting;
SELECT booked FROM budgets WHERE side = 'pipedrive' AND kind = 'day';
SELECT what, reason FROM looks WHERE done_at IS NULL;
SELECT t.found('[]');
SELECT DISTINCT call FROM t.take();
SELECT t.answer();
SELECT _delivery_start() IS NULL AS nothing_to_settle;
-- Crashed between the deal and its lines.
SELECT t.order(22, 5), t.stage('items', VARIADIC (SELECT array_agg(t.item(m)) FROM generate_series(2, 5) m));
SELECT t.send() IS NOT NULL AS products_and_deal;
SELECT t.order(23, 5);
SELECT count(*) FROM t.take();
SELECT _settle((SELECT jsonb_agg(t.good(c)) FROM t.calls c WHERE n = 1)::text, '{}');
SELECT _delivery_start();
SELECT lines_unread FROM links WHERE kind = 'deal' AND exact_id = t.oid(23);
SELECT count(*) FROM intents;
SELECT count(*) FROM t.take();
SELECT what FROM looks WHERE done_at IS NULL;
SELECT t.found('[]');
SELECT call FROM t.take();
SELECT t.answer();
SELECT count(*) FROM jobs;

-- A scan that waits when somebody names a field for it, or confirms a copy: begun anew, and nobody waits for ever.
DELETE FROM looks WHERE what LIKE '%deals';
SELECT t.order(31, 0);
SELECT count(*) FROM t.take();
SELECT t.found('[]', 'page2');
SELECT name_adoption_field('deal', 'Ordernr');
SELECT what, cursor FROM looks WHERE done_at IS NULL ORDER BY id;
SELECT name_adoption_field('deal', 'Bestelnr');
SELECT t.found('[]');
SELECT t.found('[]');
SELECT state FROM jobs WHERE exact_id = t.oid(31);
ROLLBACK;
