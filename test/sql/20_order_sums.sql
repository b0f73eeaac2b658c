-- How the lines of an order and its header relate, and what is done to the lines
-- so that the deal's value is the header's total without VAT, to the cent.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

-- An order n: its total, with VAT on top, its discount, and lines as (quantity, amount).
CREATE FUNCTION t.deal(n integer, p_total numeric, p_discount numeric, VARIADIC p_lines jsonb[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM t.stage('sales_order_headers', t.header(n, jsonb_build_object('AmountFCExclVat', p_total, 'AmountFC', round(p_total * 1.21, 2), 'AmountDC', round(p_total * 1.21, 2), 'VATAmount', round(p_total * 0.21, 2), 'AmountDiscountExclVat', p_discount)));
    PERFORM t.stage('sales_order_lines', VARIADIC (SELECT array_agg(t.line(n, m::integer, jsonb_build_object('Quantity', 1, 'UnitPrice', null, 'NetPrice', null) || l) ORDER BY m) FROM unnest(p_lines) WITH ORDINALITY AS x(l, m)));
END
$$;
CREATE FUNCTION t.q(p_quantity numeric, p_amount numeric, p_vat numeric DEFAULT 0.21) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('Quantity', p_quantity, 'AmountFC', p_amount, 'VATPercentage', p_vat) $$;
CREATE VIEW t.sums AS
SELECT o.order_number - 1000 AS n, s.lines, s.total, s.lines_with_vat AS with_vat, s.adds_up, s.send_lines, round(s.raise, 6) AS raise, trim_scale(s.discount_percent) AS discount
  FROM order_sums s JOIN exact_sales_orders o ON o.division = s.division AND o.id = s.order_id ORDER BY 1;
CREATE VIEW t.products AS
SELECT o.order_number - 1000 AS n, p.line_number AS line, trim_scale(p.quantity) AS quantity, trim_scale(p.item_price) AS price, trim_scale(p.discount) AS discount,
       trim_scale(round(p.quantity * p.item_price * (1 - p.discount / 100), 2)) AS sum
  FROM wanted_deal_products p JOIN exact_sales_orders o ON o.division = p.division AND o.id = p.order_id ORDER BY 1, 2;
-- What Pipedrive makes of it, whether it rounds each line or their sum.
CREATE VIEW t.value AS
SELECT o.order_number - 1000 AS n, x.by_line - coalesce(c.closing, 0) AS value, x.by_sum - coalesce(c.closing, 0) = x.by_line - coalesce(c.closing, 0) AS either_way, c.closing, x.by_line - coalesce(c.closing, 0) = s.total AS right
  FROM order_sums s JOIN exact_sales_orders o ON o.division = s.division AND o.id = s.order_id
 CROSS JOIN LATERAL (SELECT sum(round(p.quantity * p.item_price * (1 - p.discount / 100), 2)) AS by_line, round(sum(p.quantity * p.item_price * (1 - p.discount / 100)), 2) AS by_sum, sum(p.quantity * p.item_price * (1 - p.discount / 100)) AS exact
                       FROM wanted_deal_products p WHERE p.division = o.division AND p.order_id = o.id) x
 CROSS JOIN LATERAL (SELECT _closing_discount(x.exact, s.total) AS closing) c
 WHERE s.send_lines ORDER BY 1;

-- 1: lines without VAT that add up; 2: the same with VAT in them; 3: VAT of nothing, both readings fit
SELECT t.deal(1, 150.00, 0, t.q(2, 100.00), t.q(1, 50.00)), t.deal(2, 150.00, 0, t.q(2, 121.00), t.q(1, 60.50)), t.deal(3, 150.00, 0, t.q(2, 100.00, 0), t.q(1, 50.00, 0));
-- 4: mixed rates, lines with VAT
SELECT t.deal(4, 200.00, 0, t.q(1, 121.00), t.q(1, 109.00, 0.09));
-- 5: a header discount of 10 percent; 6: the same over lines with VAT; 7: one that makes thirds of cents
SELECT t.deal(5, 135.00, 15.00, t.q(2, 100.00), t.q(1, 50.00)), t.deal(6, 135.00, 15.00, t.q(2, 121.00), t.q(1, 60.50)), t.deal(7, 99.99, 33.34, t.q(3, 33.33), t.q(3, 50.00), t.q(1, 50.00));
-- 8: the header is higher than the lines (freight that is no line): raised
SELECT t.deal(8, 165.00, 0, t.q(2, 100.00), t.q(1, 50.00));
-- 9: lines that do not fit at all
SELECT t.deal(9, 50.00, 0, t.q(2, 100.00), t.q(1, 50.00));
SELECT * FROM t.sums;
SELECT * FROM t.products;
SELECT * FROM t.value;

-- Negative: 11 a credit order; 12 a return within an order; 13 a credit with a discount; 14 a negative total over positive lines
DELETE FROM exact_sales_order_lines; DELETE FROM exact_sales_orders;
SELECT t.deal(11, -150.00, 0, t.q(-2, -100.00), t.q(-1, -50.00)), t.deal(12, 50.00, 0, t.q(2, 100.00), t.q(-1, -50.00)), t.deal(13, -135.00, -15.00, t.q(-2, -100.00), t.q(-1, -50.00)), t.deal(14, -10.00, 0, t.q(1, 10.00));
-- 15: nothing in all, from lines that cancel out; 16: nothing, by a full discount; 17: something, from lines of nothing
SELECT t.deal(15, 0.00, 0, t.q(1, 50.00), t.q(-1, -50.00)), t.deal(16, 0.00, 50.00, t.q(1, 50.00)), t.deal(17, 10.00, 0, t.q(1, 0.00));
-- 18: a cent off, above; 19: a cent off, below; 20 and 21: the same below zero
SELECT t.deal(18, 100.00, 0, t.q(3, 100.01)), t.deal(19, 100.00, 0, t.q(3, 99.99)), t.deal(20, -100.00, 0, t.q(-3, -100.01)), t.deal(21, -100.00, 0, t.q(-3, -99.99));
SELECT * FROM t.sums;
SELECT * FROM t.products;
SELECT * FROM t.value;

-- Quantities: 31 none (a gift); 32 none, with an amount; 33 a fraction; 34 thirds; 35 very many of very little
DELETE FROM exact_sales_order_lines; DELETE FROM exact_sales_orders;
SELECT t.deal(31, 100.00, 0, t.q(1, 100.00), t.q(0, 0)), t.deal(32, 105.00, 0, t.q(1, 100.00), t.q(0, 5.00)), t.deal(33, 33.75, 0, t.q(2.5, 33.75)), t.deal(34, 10.00, 0, t.q(3, 10.00)), t.deal(35, 12.35, 0, t.q(100000, 12.35));
-- 36: a text line; 37: an order without lines; 38: more than a hundred lines; 39: amounts only from prices
SELECT t.deal(36, 100.00, 0, t.q(1, 100.00), '{"Item": null, "Description": "Let op", "Quantity": 0, "AmountFC": 0}'::jsonb);
SELECT t.stage('sales_order_headers', t.header(37));
SELECT t.deal(38, 1234.50, 0, VARIADIC (SELECT array_agg(t.q(1, 8.23)) FROM generate_series(1, 150)));
SELECT t.deal(39, 20.00, 0, '{"Quantity": 4, "NetPrice": 5, "AmountFC": null}'::jsonb);
SELECT * FROM t.sums;
SELECT * FROM t.products WHERE n <> 38;
SELECT n, count(*), count(DISTINCT price) FROM t.products WHERE n = 38 GROUP BY n;
SELECT * FROM t.value;

-- Headers that lack the field: from the total with VAT, else from the lines.
SELECT t.stage('sales_order_headers', t.header(31, '{"AmountFCExclVat": null, "AmountFC": 242, "VATAmount": 42}'), t.header(33, '{"AmountFCExclVat": null, "VATAmount": null}'));
SELECT n, total, adds_up FROM t.sums WHERE n IN (31, 33);

-- A header in another currency: its discount is told in the division's.
SELECT t.stage('sales_order_headers', t.header(34, '{"Currency": "GBP", "AmountFCExclVat": 9, "AmountFC": 10.89, "AmountDC": 12.52, "AmountDiscountExclVat": 1.15, "VATAmount": 1.89}'));
SELECT n, total, adds_up, discount FROM t.sums WHERE n = 34;

-- A line that Exact says is gone does not count.
UPDATE exact_sales_order_lines SET deleted_at = clock_timestamp() WHERE order_id = t.oid(36) AND line_number = 2;
SELECT n, lines, adds_up FROM t.sums WHERE n = 36;

-- Where Pipedrive takes no negative lines, such deals carry their value alone; others are as before.
SELECT t.deal(12, 50.00, 0, t.q(2, 100.00), t.q(-1, -50.00));
SELECT configure('negative_lines', 'value_only');
SELECT n, send_lines FROM t.sums WHERE n IN (12, 33);
SELECT count(*) FROM t.products WHERE n = 12;
SELECT body->'value' AS value FROM wanted_deals WHERE order_number = 1012;
SELECT body ? 'value' AS with_lines_no_value FROM wanted_deals WHERE order_number = 1033;
ROLLBACK;
