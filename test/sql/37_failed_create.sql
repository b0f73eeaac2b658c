-- A create that was sent and whose answer cannot be booked: the job is a dead
-- letter, and a replay looks for the record before it makes another.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

SELECT configure('list_lag', '0');
SELECT t.stage('accounts', t.account(1)), t.order(1, 0);
SELECT t.fold();
SELECT call, is_create FROM t.take();
SELECT _job_failed(id, 'some constraint') FROM jobs WHERE kind = 'organization';
SELECT kind, state, class FROM jobs ORDER BY kind;
SELECT kind, operation, state FROM intents;
SELECT replay(kind => 'organization');
SELECT t.fold();
SELECT call, is_create FROM t.take();
SELECT kind, state, reason FROM jobs ORDER BY kind;
SELECT kind, operation, state FROM intents;
SELECT what, reason FROM looks WHERE done_at IS NULL;
-- It was made: the list has it, and no other is.
SELECT _look_take((SELECT look_id FROM _look_next()), 200, jsonb_build_object('success', true, 'data', jsonb_build_array(jsonb_build_object('id', 77, 'name', 'x', 'custom_fields',
       jsonb_build_object((SELECT code FROM pipedrive_fields WHERE entity = 'organization' AND purpose = 'exact_id'), t.aid(1)))))::text);
SELECT kind, pipedrive_id, adopted FROM links;
SELECT count(*) FROM intents;
SELECT call, is_create FROM t.take();
SELECT t.answer();
SELECT t.send() IS NOT NULL AS sent;
SELECT (SELECT count(*) FROM jobs) AS jobs;

-- A change and lines of a deal that is there, and whose answers cannot be booked: the lines are read back, and not added twice.
SELECT t.stage('items', t.item(1));
SELECT t.stage('sales_order_headers', t.header(1, '{"YourRef": "new", "AmountFCExclVat": 100, "AmountFC": 121}')), t.stage('sales_order_lines', t.line(1, 1));
SELECT t.send() IS NOT NULL AS sent;
SELECT t.stage('items', t.item(2));
UPDATE jobs SET state = 'ready', next_attempt_at = NULL WHERE state = 'waiting';
SELECT t.send() IS NOT NULL AS sent;
SELECT (SELECT count(*) FROM line_links) AS lines, (SELECT count(*) FROM jobs) AS jobs;
SELECT t.order(1, 2, '{"YourRef": "newer"}');
SELECT call FROM t.take();
SELECT _job_failed(id, 'some constraint') FROM jobs WHERE kind = 'deal';
SELECT kind, state, class FROM jobs;
SELECT operation, state FROM intents;
SELECT lines_unread, sent->'custom_fields'->>'deal_your_ref' AS your_ref FROM links WHERE kind = 'deal';
SELECT booked FROM budgets WHERE side = 'pipedrive' AND kind = 'day';
SELECT replay(kind => 'deal');
SELECT call FROM t.take();
SELECT kind, state, reason FROM jobs;
-- Both lines are there.
SELECT _look_take(q.id, 200, jsonb_build_object('data', (SELECT jsonb_agg(jsonb_build_object('id', 900 + m, 'deal_id', q.deal_ids[1], 'product_id',
       (SELECT pipedrive_id FROM links WHERE kind = 'product' AND exact_id = t.iid(m)), 'quantity', 1, 'item_price', 100, 'discount', 0, 'sum', 100)) FROM generate_series(1, 2) m))::text)
  FROM looks q WHERE q.done_at IS NULL AND q.what = 'lines';
SELECT call FROM t.take();
SELECT t.answer();
SELECT t.send();
SELECT (SELECT count(*) FROM line_links) AS lines, (SELECT count(*) FROM jobs) AS jobs, (SELECT count(*) FROM intents) AS intents;
ROLLBACK;
