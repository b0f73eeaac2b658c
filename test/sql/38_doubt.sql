-- A change whose answer never came may have been made or not. When Exact then
-- goes back to what was sent before it, that goes out again.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

SELECT t.catalogue(2);
SELECT t.order(1, 1), t.order(2, 2), t.send() IS NOT NULL AS sent;
CREATE FUNCTION t.due() RETURNS void LANGUAGE sql AS $$ UPDATE jobs SET next_attempt_at = clock_timestamp() WHERE next_attempt_at < 'infinity' $$;

-- A field, one that was empty, and the status with its time.
SELECT t.stage('sales_order_headers', t.header(1, '{"YourRef": "PO 7", "InvoiceStatus": 21}'));
SELECT call, body - 'custom_fields' - 'won_time' AS body, body ? 'won_time' AS won_time FROM t.take();
SELECT t.answer('{"n":1,"outcome":"retry","status":502,"error":"Bad gateway"}');
SELECT t.stage('sales_order_headers', t.header(1, '{"YourRef": null, "InvoiceStatus": 12}'));
SELECT t.due();
-- back to what was sent before: all of it goes out, with nothing as what is cleared
SELECT call, body - 'custom_fields' AS body, (SELECT array_agg(value ORDER BY value) FROM jsonb_each_text(body->'custom_fields')) AS custom FROM t.take();
SELECT old_value - 'custom_fields' AS old FROM intents;
SELECT t.answer();
SELECT count(*) FROM t.take();
-- a time that was sent apart from its status counts with it
SELECT _body_doubt('{"status": "won"}', '{"won_time": "2026-01-01T11:00:00Z"}');
SELECT _body_doubt('{"value": -1, "title": "a", "custom_fields": {"x": 1, "y": 2}}', '{"value": 3, "custom_fields": {"y": 4}}');

-- The same when the worker died before the answer was booked.
SELECT t.stage('sales_order_headers', t.header(1, '{"YourRef": "PO 8"}'));
SELECT count(*) FROM t.take();
SELECT _delivery_start();
SELECT t.stage('sales_order_headers', t.header(1, '{"YourRef": null}'));
SELECT call, (SELECT array_agg(coalesce(value, 'nothing')) FROM jsonb_each_text(body->'custom_fields')) AS custom FROM t.take();
SELECT t.answer();

-- A line: what was named in the change goes out again, though it is what was sent before.
SELECT t.stage('sales_order_lines', t.line(2, 1, '{"Description": "Artikel in rood"}'));
SELECT call, body FROM t.take();
SELECT t.answer('{"n":1,"outcome":"retry","status":0,"error":"timeout"}');
SELECT t.stage('sales_order_lines', t.line(2, 1));
SELECT t.due();
SELECT call, body FROM t.take();
SELECT old_value FROM intents;
SELECT t.answer();
SELECT count(*) FROM t.take();
-- A deletion: made again while it is wanted; else the line is sent as a whole, whether it is still there or not.
SELECT t.stage('sales_order_headers', t.header(2, '{"AmountFCExclVat": 100}'));
UPDATE exact_sales_order_lines SET deleted_at = clock_timestamp(), changed_at = clock_timestamp() WHERE id = t.lid(2, 2);
SELECT call FROM t.take();
SELECT t.answer('{"n":1,"outcome":"retry","status":0,"error":"timeout"}');
SELECT t.due();
SELECT call FROM t.take();
SELECT _delivery_start();
SELECT t.stage('sales_order_headers', t.header(2, '{"AmountFCExclVat": 200}'));
UPDATE exact_sales_order_lines SET deleted_at = NULL, changed_at = clock_timestamp() WHERE id = t.lid(2, 2);
SELECT call, body FROM t.take();
SELECT t.answer('{"n":1,"outcome":"gone","status":404,"error":"not found"}');
SELECT lines_unread FROM links WHERE kind = 'deal' AND exact_id = t.oid(2);
DELETE FROM looks WHERE done_at IS NULL;

-- The closing discount: neither the old amount nor the new one.
UPDATE links SET lines_unread = false, discount_key = 'abc', discount_sent = 0.01;
INSERT INTO intents (job_id, kind, division, exact_id, operation, method, path, body, tokens, is_create)
SELECT 1, kind, division, exact_id, 'discount_change', 'PATCH', '/api/v2/deals/1/discounts/abc', '{"amount": 0.02}', 5, false FROM links WHERE kind = 'deal' AND exact_id = t.oid(2);
SELECT _doubt(array_agg(id)) FROM intents WHERE operation = 'discount_change';
SELECT discount_key, discount_sent FROM links WHERE kind = 'deal' AND exact_id = t.oid(2);

-- What was refused, or never sent, raises no doubt.
DELETE FROM intents;
DELETE FROM jobs;
UPDATE links SET lines_unread = false;
SELECT t.stage('sales_order_headers', t.header(1, '{"YourRef": "PO 9"}'));
SELECT count(*) FROM t.take();
CREATE TEMP TABLE before AS SELECT sent FROM links WHERE kind = 'deal' AND exact_id = t.oid(1);
SELECT t.answer('{"n":1,"outcome":"burst","status":429,"error":"over limit"}', '{"n":2,"outcome":"not_sent"}');
SELECT l.sent = b.sent AS same, lines_unread FROM links l, before b WHERE l.kind = 'deal' AND l.exact_id = t.oid(1);
ROLLBACK;
