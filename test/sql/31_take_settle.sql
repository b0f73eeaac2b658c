-- Delivery by hand: jobs are claimed, their calls announced and paid for, and the
-- good answers booked.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

SELECT t.catalogue(2);
SELECT t.order(1, 2);

-- What is announced is in intents, and its tokens are booked.
SELECT call, body->>'name' AS name, tokens, is_create FROM t.take();
SELECT kind, operation, state, tokens, is_create FROM intents ORDER BY kind, exact_id;
SELECT remaining, booked, spent_today FROM budgets WHERE side = 'pipedrive' AND kind = 'day';
SELECT kind, id, state, attempts FROM t.waiting;
-- Claimed is claimed.
SELECT count(*) FROM _take_batch(10);

-- Answered: links, journals, budget; the deal that waited is ready.
SELECT t.answer();
SELECT kind, right(exact_id::text, 2) AS id, pipedrive_id, adopted, sent->>'name' AS name FROM links ORDER BY kind, exact_id;
SELECT count(*) FROM intents;
SELECT remaining, booked, spent_today FROM budgets WHERE side = 'pipedrive' AND kind = 'day';
SELECT kind, id, state FROM t.waiting;

-- A deal and its lines: one job, calls in order, the deal's id put in by the sender.
SELECT n, call, body->>'title' AS title, body->'product_id' AS product FROM t.take();
SELECT t.answer();
SELECT pipedrive_id, sent ? 'won_time' AS won FROM links WHERE kind = 'deal';
SELECT right(line_id::text, 4) AS line, pipedrive_id, product_id, trim_scale(quantity) AS quantity, trim_scale(item_price) AS price FROM line_links ORDER BY line_id;
SELECT count(*) AS jobs FROM jobs;
SELECT kind, operation, pipedrive_id, tokens FROM sync_changes ORDER BY kind, exact_id, id;
SELECT side, what, method, path, status, outcome, tokens, ms FROM api_calls ORDER BY path, what;

-- Nothing changed: the job is looked at, and costs nothing.
INSERT INTO job_signals (kind, reason) VALUES ('all_deals', 'test');
SELECT count(*) FROM t.take();
SELECT count(*) AS jobs FROM jobs;

-- An update sends the difference and remembers it.
SELECT t.stage('sales_order_headers', t.header(1, '{"AmountFCExclVat": 200, "AmountFC": 242, "AmountDC": 242, "DeliveryStatus": 21, "InvoiceStatus": 21, "YourRef": "PO 7"}'));
SELECT call, body - 'won_time' AS body, tokens, is_create FROM t.take();
SELECT t.answer();
SELECT sent->>'status' AS status, sent->>'stage_id' AS stage, sent->'custom_fields'->>'deal_your_ref' AS ref, sent->'custom_fields'->>'deal_order_number' AS number, first_won_at IS NOT NULL AS won_at FROM links WHERE kind = 'deal';
SELECT operation, old_value, new_value - 'won_time' AS new_value FROM sync_changes ORDER BY id DESC LIMIT 1;
-- Reopened and won again: the first date stays.
SELECT t.stage('sales_order_headers', t.header(1, '{"AmountFCExclVat": 200, "AmountFC": 242, "AmountDC": 242, "DeliveryStatus": 21, "YourRef": "PO 7"}'));
SELECT call, body FROM t.take();
SELECT t.answer();
SELECT t.stage('sales_order_headers', t.header(1, '{"AmountFCExclVat": 200, "AmountFC": 242, "AmountDC": 242, "DeliveryStatus": 21, "InvoiceStatus": 21, "YourRef": "PO 7"}'));
SELECT c.body->>'won_time' = l.first_won_at AS the_first_date FROM t.take() c, links l WHERE l.kind = 'deal';
SELECT t.answer();

-- Calls that are not sent (an earlier one failed) are worked out anew.
SELECT t.order(2, 2);
SELECT count(*) FROM t.take();
SELECT t.answer('{"n":2,"outcome":"retry","status":500,"error":"oops"}', '{"n":3,"outcome":"not_sent"}');
SELECT kind, id, state, attempts, class, reason FROM t.waiting;
SELECT next_attempt_at BETWEEN clock_timestamp() + interval '3 seconds' AND clock_timestamp() + interval '20 seconds' AS soon FROM jobs;
SELECT count(*) FROM t.take();
UPDATE jobs SET next_attempt_at = clock_timestamp();
SELECT call, body->'product_id' AS product FROM t.take();
SELECT t.answer();
SELECT count(*) AS jobs FROM jobs;

-- The answers of one job may come in two groups.
SELECT t.order(3, 2);
SELECT count(*) FROM t.take();
SELECT _settle((SELECT jsonb_agg(t.good(c)) FROM t.calls c WHERE n = 1)::text, '{}');
SELECT state, dirty FROM jobs;
SELECT _settle((SELECT jsonb_agg(t.good(c)) FROM t.calls c WHERE n > 1)::text, '{}');
SELECT count(*) AS jobs FROM jobs;

-- What nobody announced is not booked; nothing is booked twice.
SELECT _settle('[{"call":1,"outcome":"ok","ids":[99]}]', '{}');
SELECT count(*) FROM links WHERE pipedrive_id = 99;
SELECT _settle((SELECT jsonb_agg(t.good(c)) FROM t.calls c)::text, '{}');
SELECT count(*) FROM links WHERE kind = 'deal';
SELECT booked FROM budgets WHERE side = 'pipedrive' AND kind = 'day';

-- Item groups go first, alone; then products carry the option.
SELECT t.stage('item_groups', jsonb_build_object('ID', t.gid(1), 'Description', 'Tafel'), jsonb_build_object('ID', t.gid(2), 'Description', 'Keuken'));
SELECT t.stage('items', t.item(7));
SELECT call, body FROM t.take();
SELECT t.answer();
SELECT label FROM pipedrive_options ORDER BY label;
SELECT t.stage('items', t.item(8));
SELECT call, body->>'name' AS name, body->'custom_fields'->'product_item_group' = to_jsonb((SELECT option_id FROM pipedrive_options WHERE label = 'Tafel')) AS with_option FROM t.take();
SELECT t.answer();

-- A change of a product, and of an organization.
SELECT t.stage('items', t.item(8, '{"Description": "Nieuw"}'));
SELECT t.stage('accounts', t.account(1, '{"AddressLine1": "Kerkstraat 9"}'));
SELECT call, body FROM t.take();
SELECT t.answer();
SELECT sent->'address' AS address, sent->>'name' AS name FROM links WHERE kind = 'organization';
ROLLBACK;
