-- From wanted and sent to calls: the cheapest list, in an order that works.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

SELECT t.catalogue(120);
-- everything an order needs is linked already
INSERT INTO links (kind, division, exact_id, pipedrive_id, sent) SELECT 'organization', 100, exact_id, 900 + right(exact_id::text, 2)::integer, body FROM wanted_organizations;
INSERT INTO links (kind, division, exact_id, pipedrive_id, sent) SELECT 'product', 100, exact_id, 7000 + right(exact_id::text, 3)::integer, body FROM wanted_products;
CREATE FUNCTION t.calls(n integer) RETURNS TABLE (operation text, call text, body jsonb, old jsonb, tokens integer, creates boolean, lines integer) LANGUAGE sql AS $$
    SELECT c.operation, c.method || ' ' || regexp_replace(c.path, '(ids=[0-9]+,).*', '\1...'),
           CASE WHEN jsonb_typeof(c.body->'data') = 'array' THEN jsonb_build_object('lines', jsonb_array_length(c.body->'data'), 'first', c.body->'data'->0) ELSE c.body END,
           c.old_value, c.tokens, c.is_create, cardinality(c.line_ids)
      FROM _calls_deals(ARRAY[100], ARRAY[t.oid(n)], false) c ORDER BY c.step $$;
CREATE FUNCTION t.change(n integer, p jsonb, VARIADIC p_lines integer[]) RETURNS text LANGUAGE sql AS $$ SELECT t.stage('sales_order_lines', VARIADIC (SELECT array_agg(t.line(n, m, p) ORDER BY m) FROM unnest(p_lines) m)) $$;
CREATE FUNCTION t.settled() RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO job_signals (kind, reason) VALUES ('all_deals', 'test'); PERFORM t.send(); END $$;

-- A new deal without lines, with one, with four, five, 100, 101 and 104.
SELECT t.order(1, 0);
SELECT * FROM t.calls(1);
SELECT t.order(2, 1);
SELECT * FROM t.calls(2);
SELECT t.order(3, 4), t.order(4, 5), t.order(5, 100), t.order(6, 101), t.order(7, 104);
SELECT n, string_agg(c.operation || ' ' || coalesce(c.lines, 0), ', ') AS calls, sum(c.tokens) AS tokens, (SELECT 5 + tokens FROM line_mix(l, 0, 0)) AS least
  FROM (VALUES (3, 4), (4, 5), (5, 100), (6, 101), (7, 104)) x(n, l), t.calls(n) c GROUP BY n, l ORDER BY n;
-- The lines go in Exact's order, each with its product, price, quantity and no tax.
SELECT e->'product_id' AS product, e->'quantity' AS quantity, e->'item_price' AS price, e->'tax' AS tax, e->'tax_method' AS method, e ? 'discount' AS discount
  FROM _calls_deals(ARRAY[100], ARRAY[t.oid(4)], false) c, jsonb_array_elements(c.body->'data') e WHERE c.operation = 'line_add';
-- What is sent once is not sent again.
SELECT t.settled();
SELECT count(*) FROM generate_series(1, 7) n, t.calls(n);

-- Only what changed goes out: a status, a date, a name.
SELECT t.stage('sales_order_headers', t.header(4, jsonb_build_object('DeliveryStatus', 20, 'AmountFCExclVat', 500, 'AmountFC', 605, 'AmountDC', 605)));
SELECT operation, call, body, old, tokens FROM t.calls(4);
SELECT t.stage('sales_order_headers', t.header(4, jsonb_build_object('DeliveryStatus', 20, 'AmountFCExclVat', 500, 'AmountFC', 605, 'AmountDC', 605, 'OrderDate', t.day('2026-03-06'), 'OrderedByName', 'Klant Een')));
SELECT operation, call, body, old, tokens FROM t.calls(4);
-- Won: with the time; an empty field is emptied.
SELECT t.stage('sales_order_headers', t.header(4, jsonb_build_object('DeliveryStatus', 20, 'InvoiceStatus', 21, 'AmountFCExclVat', 500, 'AmountFC', 605, 'AmountDC', 605, 'OrderNumber', null)));
SELECT operation, body - 'won_time' AS body, body->>'won_time' ~ '^[0-9-]{10}T[0-9:]{8}Z$' AS won_time, tokens FROM t.calls(4);
SELECT t.settled();

-- One line changed: only the field that differs.
SELECT t.change(4, '{"Quantity": 2, "UnitPrice": 50, "NetPrice": 50}', 3);
SELECT operation, call, body, old, tokens FROM t.calls(4);
SELECT t.settled();
-- A comment that goes away is emptied with an empty text (lines take no null).
SELECT t.change(4, '{"Quantity": 2, "UnitPrice": 50, "NetPrice": 50, "Description": "anders"}', 3);
SELECT operation, body, old FROM t.calls(4);
SELECT t.settled();
SELECT t.change(4, '{"Quantity": 2, "UnitPrice": 50, "NetPrice": 50}', 3);
SELECT operation, body, old FROM t.calls(4);
SELECT t.settled();
-- Another product on the line.
SELECT t.change(4, jsonb_build_object('Quantity', 2, 'Item', t.iid(9), 'ItemDescription', 'Artikel 9', 'Description', 'Artikel 9'), 3);
SELECT operation, call, body, old FROM t.calls(4);
SELECT t.settled();

-- Eight changed lines: one by one, which costs no more and keeps them; nine: all of them anew.
SELECT t.change(5, '{"Quantity": 4}', 1, 2, 3, 4, 5, 6, 7, 8);
SELECT operation, count(*), sum(tokens) AS tokens FROM t.calls(5) GROUP BY operation ORDER BY 1;
SELECT t.change(5, '{"Quantity": 4}', 1, 2, 3, 4, 5, 6, 7, 8, 9);
SELECT operation, call, lines, tokens FROM t.calls(5);
SELECT t.settled();
SELECT count(*) FROM t.calls(5);

-- A line removed, four, five.
UPDATE exact_sales_order_lines SET deleted_at = clock_timestamp() WHERE order_id = t.oid(3) AND line_number = 2;
UPDATE exact_sales_orders SET amount_fc_excl_vat = 300 WHERE id = t.oid(3);
SELECT operation, call, lines, tokens FROM t.calls(3);
UPDATE exact_sales_order_lines SET deleted_at = clock_timestamp() WHERE order_id = t.oid(5) AND line_number <= 4;
UPDATE exact_sales_orders SET amount_fc_excl_vat = 9600 WHERE id = t.oid(5);
SELECT operation, count(*), sum(tokens) AS tokens FROM t.calls(5) GROUP BY 1;
UPDATE exact_sales_order_lines SET deleted_at = clock_timestamp() WHERE order_id = t.oid(5) AND line_number <= 5;
UPDATE exact_sales_orders SET amount_fc_excl_vat = 9500 WHERE id = t.oid(5);
SELECT operation, call, lines, tokens FROM t.calls(5);
-- More than a hundred removed.
UPDATE exact_sales_order_lines SET deleted_at = clock_timestamp() WHERE order_id = t.oid(7) AND line_number > 2;
UPDATE exact_sales_orders SET amount_fc_excl_vat = 200 WHERE id = t.oid(7);
SELECT operation, lines, tokens FROM t.calls(7);
SELECT t.settled();
-- All of them: the deal carries its value again; deletions come first.
UPDATE exact_sales_order_lines SET deleted_at = clock_timestamp() WHERE order_id = t.oid(7);
UPDATE exact_sales_orders SET amount_fc_excl_vat = 150 WHERE id = t.oid(7);
SELECT operation, call, body, tokens FROM t.calls(7);

-- Added, changed and removed at once: never dearer than the minimum.
SELECT t.order(8, 30);
SELECT t.settled();
SELECT t.change(8, '{"Quantity": 7}', 1, 2, 3, 4, 5, 6);
SELECT t.stage('sales_order_lines', VARIADIC (SELECT array_agg(t.line(8, m)) FROM generate_series(31, 38) m));
UPDATE exact_sales_order_lines SET deleted_at = clock_timestamp() WHERE order_id = t.oid(8) AND line_number BETWEEN 20 AND 23;
UPDATE exact_sales_orders SET amount_fc_excl_vat = 3400 WHERE id = t.oid(8);
SELECT operation, count(*), sum(lines) AS lines, sum(tokens) AS tokens FROM t.calls(8) GROUP BY operation ORDER BY 1;
SELECT sum(c.tokens) AS tokens, (SELECT tokens FROM line_mix(8, 6, 4)) AS least FROM t.calls(8) c;

-- The closing discount: added, changed, deleted.
SELECT t.order(9, 2);
UPDATE exact_sales_orders SET amount_fc_excl_vat = 199.99 WHERE id = t.oid(9);
SELECT operation, call, body, tokens, creates FROM t.calls(9) WHERE operation LIKE 'discount%';
SELECT t.settled();
SELECT count(*) FROM t.calls(9);
UPDATE exact_sales_orders SET amount_fc_excl_vat = 199.98 WHERE id = t.oid(9);
SELECT operation, call, body, old, tokens FROM t.calls(9);
SELECT t.settled();
UPDATE exact_sales_orders SET amount_fc_excl_vat = 200 WHERE id = t.oid(9);
SELECT operation, call, body, tokens FROM t.calls(9);

-- What is missing is asked for instead of calls; to a person it is shown as if it were there.
DELETE FROM links WHERE kind IN ('organization', 'product') AND exact_id IN (t.aid(1), t.iid(2));
SELECT t.order(10, 2);
SELECT operation, path, line_ids FROM _calls_deals(ARRAY[100], ARRAY[t.oid(10)], false) ORDER BY path;
SELECT operation, tokens FROM _calls_deals(ARRAY[100], ARRAY[t.oid(10)], true) ORDER BY step;
-- An order without a customer needs none.
SELECT t.order(11, 1, '{"OrderedBy": null, "OrderedByName": null}');
SELECT operation, body->>'title' AS title, body ? 'org_id' AS org FROM t.calls(11) WHERE operation = 'create';

-- Too old, never sent: nothing. Too old and linked: it follows.
UPDATE divisions SET send_since = '2026-04-01';
SELECT t.order(12, 1, '{"InvoiceStatus": 21}'), t.order(13, 1);
INSERT INTO links (kind, division, exact_id, pipedrive_id, sent) VALUES ('organization', 100, t.aid(1), 901, '{}');
SELECT count(*) AS closed_and_old FROM t.calls(12);
SELECT count(*) > 0 AS open_and_old FROM t.calls(13);
SELECT t.stage('sales_order_headers', t.header(2, '{"InvoiceStatus": 21}'));
SELECT operation, body - 'won_time' AS body FROM t.calls(2);
-- A deal that is gone is left alone.
UPDATE links SET gone_at = clock_timestamp() WHERE kind = 'deal' AND exact_id = t.oid(2);
SELECT count(*) FROM t.calls(2);

-- Groups: one call for all missing options.
SELECT t.stage('item_groups', jsonb_build_object('ID', t.gid(1), 'Description', 'Tafel'), jsonb_build_object('ID', t.gid(2), 'Description', 'Keuken'), jsonb_build_object('ID', t.gid(3), 'Description', 'Tafel'), jsonb_build_object('ID', t.gid(4), 'Description', ''));
SELECT operation, method, path, body, tokens FROM _calls_groups();
INSERT INTO pipedrive_options VALUES ('Tafel', 1), ('Keuken', 2);
SELECT count(*) FROM _calls_groups();
ROLLBACK;
