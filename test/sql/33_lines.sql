-- Answers to added lines: which line is which is told by position and product; in
-- doubt it is read back. What the service refuses is learned.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

SELECT t.catalogue(6);
SELECT t.order(90, 6), t.send() IS NOT NULL AS all_products_there;
CREATE VIEW t.lines AS SELECT right(line_id::text, 4) AS line, pipedrive_id, product_id FROM line_links WHERE order_id <> t.oid(90) ORDER BY line_id;

-- As many lines, of the same products in the same order: booked.
SELECT t.order(1, 5);
SELECT count(*) FROM t.take();
SELECT t.answer('{"n":2,"ids":[501,502,503,504,505]}');
SELECT * FROM t.lines;
SELECT lines_unread FROM links WHERE kind = 'deal' AND exact_id = t.oid(1);

-- Shuffled: read back.
SELECT t.order(2, 5);
SELECT count(*) FROM t.take();
SELECT t.answer((SELECT jsonb_build_object('n', 2, 'ids', ARRAY[601, 602, 603, 604, 605], 'products', (SELECT jsonb_agg(e->'product_id' ORDER BY n DESC) FROM jsonb_array_elements(c.body->'data') WITH ORDINALITY x(e, n))) FROM t.calls c WHERE c.n = 2));
SELECT count(*) FROM line_links WHERE order_id = t.oid(2);
SELECT lines_unread FROM links WHERE kind = 'deal' AND exact_id = t.oid(2);
SELECT state, reason FROM jobs;
SELECT count(*) FROM t.take();
SELECT state, next_attempt_at, reason FROM jobs;
SELECT what, reason, cardinality(deal_ids) AS deals FROM looks WHERE done_at IS NULL;
DELETE FROM looks WHERE done_at IS NULL; DELETE FROM jobs;

-- One too few.
SELECT t.order(3, 5);
SELECT count(*) FROM t.take();
SELECT t.answer('{"n":2,"ids":[701,702,703,704]}');
SELECT count(*) AS noted, (SELECT lines_unread FROM links WHERE kind = 'deal' AND exact_id = t.oid(3)) AS unread FROM line_links WHERE order_id = t.oid(3);
DELETE FROM jobs;
-- No products in the answer: by position alone.
SELECT t.order(4, 5);
SELECT count(*) FROM t.take();
SELECT t.answer('{"n":2,"ids":[801,802,803,804,805],"products":null}');
SELECT count(*) AS noted, (SELECT lines_unread FROM links WHERE kind = 'deal' AND exact_id = t.oid(4)) AS unread FROM line_links WHERE order_id = t.oid(4);

-- Lines of unknown outcome: read back, not sent again blindly.
SELECT t.order(5, 5);
SELECT count(*) FROM t.take();
SELECT t.answer('{"n":2,"outcome":"unknown","status":0,"error":"connection reset"}');
SELECT (SELECT count(*) FROM intents) AS announced, lines_unread, (SELECT state FROM jobs) AS job FROM links WHERE kind = 'deal' AND exact_id = t.oid(5);
DELETE FROM jobs; DELETE FROM links WHERE kind = 'deal'; DELETE FROM line_links; DELETE FROM exact_sales_orders; DELETE FROM exact_sales_order_lines; DELETE FROM job_signals;

-- Replaced lines: the old ones go, the new ones are noted, nothing is sent twice.
SELECT t.order(6, 10);
SELECT t.stage('items', VARIADIC (SELECT array_agg(t.item(m)) FROM generate_series(7, 10) m));
SELECT t.send() IS NOT NULL AS sent;
SELECT t.stage('sales_order_lines', VARIADIC (SELECT array_agg(t.line(6, m, '{"Quantity": 4, "UnitPrice": 25}')) FROM generate_series(1, 10) m));
SELECT split_part(call, '?', 1) AS call, tokens FROM t.take();
SELECT t.answer();
SELECT count(*) AS noted, min(quantity)::integer AS quantity FROM line_links WHERE order_id = t.oid(6);
INSERT INTO job_signals (kind, reason) VALUES ('all_deals', 'test');
SELECT count(*) FROM t.take();

-- Negative lines refused: noted once; such deals carry their value instead, others keep their lines.
SELECT t.stage('sales_order_headers', t.header(7, '{"AmountFCExclVat": 50, "AmountFC": 60.5, "AmountDC": 60.5}'));
SELECT t.stage('sales_order_lines', t.line(7, 1), t.line(7, 2, '{"Quantity": -1, "AmountFC": -50}'));
SELECT count(*) FROM t.take();
SELECT t.answer('{"n":3,"outcome":"permanent","status":400,"error":"quantity must be greater than 0"}');
SELECT name, value, changed_by FROM settings WHERE name = 'negative_lines';
SELECT kind, reason FROM job_signals;
SELECT call, body FROM t.take();
SELECT t.answer();
SELECT t.send();
SELECT count(*) AS lines FROM line_links WHERE order_id = t.oid(7);

-- Zero quantities refused: such lines are left out.
SELECT t.order(8, 1);
SELECT t.stage('sales_order_lines', t.line(8, 2, '{"Quantity": 0, "AmountFC": 0}'));
SELECT count(*) FROM t.take();
SELECT t.answer('{"n":3,"outcome":"permanent","status":400,"error":"quantity: must be a positive number"}');
SELECT name, value FROM settings WHERE name = 'zero_lines';
SELECT t.send() IS NOT NULL AS sent;
SELECT count(*) AS lines, (SELECT count(*) FROM jobs) AS jobs FROM line_links WHERE order_id = t.oid(8);

-- won_time refused at creation: it goes along afterwards.
SELECT t.order(9, 0, '{"InvoiceStatus": 21}');
SELECT call, body ? 'won_time' AS won_time FROM t.take();
SELECT t.answer('{"n":1,"outcome":"permanent","status":400,"error":"won_time is not allowed"}');
SELECT name, value FROM settings WHERE name = 'won_time_on_create';
SELECT call, body->>'status' AS status, body ? 'won_time' AS won_time, tokens FROM t.take();
SELECT t.answer();
SELECT count(*) AS jobs FROM jobs;
SELECT first_won_at IS NOT NULL AS won_at FROM links WHERE kind = 'deal' AND exact_id = t.oid(9);

-- An order whose lines do not add up is awaited once more, and then sent as it is.
SELECT t.stage('sales_order_headers', t.header(10, '{"AmountFCExclVat": 500}'));
SELECT t.stage('sales_order_lines', t.line(10, 1));
SELECT count(*) FROM t.take();
SELECT state, class, reason, attempts, next_attempt_at > clock_timestamp() + interval '5 minutes' AS later FROM jobs;
UPDATE jobs SET next_attempt_at = clock_timestamp();
SELECT call FROM t.take();
SELECT t.answer();
-- A new rowversion of the header: once more. Its lines arrive: at once.
SELECT t.stage('sales_order_headers', t.header(10, '{"AmountFCExclVat": 700}'));
SELECT count(*) FROM t.take();
SELECT t.stage('sales_order_lines', t.line(10, 2, '{"Quantity": 6, "AmountFC": 600}'));
SELECT call, body->'quantity' AS quantity, body->'item_price' AS price FROM t.take();
ROLLBACK;
