-- Status rules: what Exact's three codes make of a deal.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

-- Every combination of the known codes and none, under the rules of a new installation.
INSERT INTO exact_sales_orders (division, id, order_number, status, delivery_status, invoice_status, order_date, amount_fc_excl_vat)
SELECT 100, t.oid(n::integer), n, s, d, i, '2026-03-05', 10
  FROM (SELECT s, d, i, row_number() OVER (ORDER BY s NULLS LAST, d NULLS LAST, i NULLS LAST) AS n
          FROM unnest(ARRAY[12, 20, 21, 45, NULL]) s, unnest(ARRAY[12, 20, 21, 45, NULL]) d, unnest(ARRAY[12, 20, 21, 45, NULL]) i) x;
SELECT o.status, o.delivery_status AS delivery, string_agg(coalesce(o.invoice_status::text, 'none'), ' ' ORDER BY o.invoice_status NULLS LAST) AS invoice, w.status AS deal, w.stage, w.lost_reason, w.unmapped
  FROM exact_sales_orders o JOIN wanted_deals w ON w.division = o.division AND w.exact_id = o.id
 GROUP BY o.status, o.delivery_status, w.status, w.stage, w.lost_reason, w.unmapped
 ORDER BY o.status NULLS LAST, o.delivery_status NULLS LAST, 3;

-- The rules that made them.
SELECT priority, status, delivery_status, invoice_status, deal_status, stage FROM status_rules ORDER BY priority;

-- An unknown code: the deal that exists is left as it is; a new one is open, in the first stage.
DELETE FROM exact_sales_orders;
SELECT t.catalogue(1);
SELECT t.order(1, 1, '{"Status": 12, "DeliveryStatus": 21}');
SELECT t.send();
SELECT sent->>'status' AS status, sent->>'stage_id' AS stage FROM links WHERE kind = 'deal';
SELECT t.stage('sales_order_headers', t.header(1, '{"Status": 99, "DeliveryStatus": 99, "InvoiceStatus": 99}'));
SELECT status, stage, unmapped FROM wanted_deals WHERE order_number = 1001;
SELECT call, body FROM t.take();
SELECT t.answer();
SELECT t.order(2, 1, '{"Status": 99}');
SELECT call, body->>'status' AS status, body->>'stage_id' AS stage FROM t.take() WHERE call LIKE '%deals';
SELECT t.answer();
SELECT status, delivery_status, invoice_status, orders, verdict FROM status_coverage ORDER BY status;

-- NULL in a rule means an order without the code, not any code.
DELETE FROM status_rules WHERE deal_status IS NOT NULL;
INSERT INTO status_rules (priority, status, delivery_status, invoice_status, deal_status) VALUES (1, NULL, '*', '*', 'won'), (2, '*', NULL, '*', 'lost'), (3, '*', '*', '*', 'open');
SELECT t.stage('sales_order_headers', t.header(3, '{"Status": null}'), t.header(4, '{"DeliveryStatus": null}'), t.header(5));
SELECT order_number, status FROM wanted_deals WHERE order_number > 1002 ORDER BY 1;

-- The lower number wins; deal status and stage are decided apart.
INSERT INTO status_rules (priority, status, delivery_status, invoice_status, deal_status) VALUES (0, '12', '12', '12', 'lost');
INSERT INTO status_rules (priority, status, delivery_status, invoice_status, stage) VALUES (100, '12', '12', '12', 'Verzonden');
SELECT order_number, status, stage FROM wanted_deals WHERE order_number = 1005;

-- A rule says one thing, and says it right.
SELECT t.error($$INSERT INTO status_rules (priority, status) VALUES (50, '12')$$);
SELECT t.error($$INSERT INTO status_rules (priority, deal_status, stage) VALUES (50, 'won', 'Verzonden')$$);
SELECT t.error($$INSERT INTO status_rules (priority, deal_status) VALUES (50, 'closed')$$);
SELECT t.error($$INSERT INTO status_rules (priority, deal_status, lost_reason) VALUES (50, 'won', 'why')$$);

-- A stage nobody made: no deal lands in another pipeline for it.
INSERT INTO status_rules (priority, status, delivery_status, invoice_status, stage) VALUES (90, '12', '12', '12', 'Bestaat niet');
SELECT order_number, stage, body->'stage_id' AS stage_id, body->'pipeline_id' AS pipeline_id FROM wanted_deals WHERE order_number = 1005;

-- No rules at all: every order is unmapped, none is lost.
DELETE FROM status_rules;
SELECT DISTINCT status, stage, unmapped FROM wanted_deals;

-- The odd ones worth a look.
DELETE FROM exact_sales_orders;
SELECT _setup_begin() > 0 AS seeded_again;
INSERT INTO exact_sales_orders (division, id, order_number, status, delivery_status, invoice_status, order_date) VALUES
    (100, t.oid(1), 1, 45, 21, 20, today(100)), (100, t.oid(2), 2, 21, 21, 12, today(100) - 31), (100, t.oid(3), 3, 21, 21, 21, today(100) - 31), (100, t.oid(4), 4, 12, 99, 12, today(100)), (100, t.oid(5), 5, 45, 12, 12, today(100));
SELECT status, delivery_status, invoice_status, orders, deal_status, stage, verdict FROM status_coverage ORDER BY 1, 2, 3;
UPDATE exact_sales_orders SET order_date = today(100) - 29 WHERE order_number = 2;
SELECT verdict FROM status_coverage WHERE status = 21 AND invoice_status = 12;
-- A deleted order counts nowhere.
UPDATE exact_sales_orders SET deleted_at = clock_timestamp();
SELECT count(*) FROM status_coverage;
ROLLBACK;
