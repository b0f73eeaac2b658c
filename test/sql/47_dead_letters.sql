-- Dead letters that people can use: which record, why, what to do; and each
-- leaves by itself when its cause is gone.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

SELECT t.catalogue(2);
SELECT t.order(99, 1), t.send() IS NOT NULL AS sent;
-- An order, taken and answered with this refusal of its deal, or of its lines.
CREATE FUNCTION t.refuse(n integer, p_error text, p_call integer DEFAULT 1, p_outcome text DEFAULT 'permanent') RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM t.order(n, 1);
    IF (SELECT count(*) FROM t.take()) <> 2 THEN RAISE EXCEPTION 'not two calls'; END IF;
    IF p_call = 1 THEN
        PERFORM t.answer(jsonb_build_object('n', 1, 'outcome', p_outcome, 'status', 400, 'error', p_error), '{"n":2,"outcome":"not_sent"}');
    ELSE
        PERFORM t.answer(jsonb_build_object('n', 2, 'outcome', p_outcome, 'status', 400, 'error', p_error));
    END IF;
END
$$;
CREATE VIEW t.dead AS SELECT object, cause FROM dead_letters ORDER BY object;

-- Every reason that is written has a cause of its own; only what nobody foresaw is "refused".
SELECT c.cause, r.reason
  FROM (VALUES ('permanent', 'create', 'Deal is archived'), ('permanent', 'line_add', 'feature is disabled'), ('permanent', 'line_add', 'at most 500 products'),
               ('permanent', 'create', 'custom_fields: 7c0d: unknown'), ('permanent', 'create', 'owner_id: User is inactive'), ('permanent', 'create', 'stage_id does not exist'),
               ('permanent', 'line_add', 'product 1 is not linkable'), ('permanent', 'create', 'currency: XXQ'), ('gone', 'update', 'not found'),
               ('capacity', 'create', 'limit'), ('auth', 'create', 'unauthorized')) AS x(outcome, operation, error)
 CROSS JOIN LATERAL _plain_reason(x.outcome, x.operation, 400, x.error) r(reason)
 CROSS JOIN LATERAL _dead_cause(r.reason) c;
SELECT (_dead_cause('Pipedrive shows a line or discount of this deal, and says that it does not exist when it is changed; look at the deal, then replay')).cause AS ghost;
SELECT (_dead_cause('no good answer from Pipedrive in 10 attempts; replay when it is well again')).cause AS tries, (_dead_cause('this record cannot be worked out')).cause AS internal,
       (_dead_cause('history stops at 80 percent of the 100 deals of the Pipedrive plan')).cause AS capacity, (_dead_cause(NULL)).cause AS none;
SELECT count(*) AS without_a_hint FROM dead_causes WHERE hint IS NULL OR hint = '';

-- Number and name, the reason, what to do, the server's words.
SELECT t.refuse(1, 'owner_id: User is inactive');
SELECT number, name, object, class, cause, reason, hint, servers_words, leaves_when, regexp_replace(then_do, '[0-9]+', 'N') AS then_do FROM dead_letters;
-- What waits for a dead organization: how many orders, and which.
SELECT t.stage('accounts', t.account(3, '{"Name": "Slecht Adres BV"}'));
SELECT t.order(n, 1, jsonb_build_object('OrderedBy', t.aid(3), 'OrderedByName', 'Slecht Adres BV')) FROM generate_series(10, 17) n;
SELECT count(*) FROM t.take();
SELECT t.answer('{"n":1,"outcome":"permanent","status":400,"error":"address: invalid"}');
SELECT object, cause, holds_back, held_back FROM dead_letters WHERE kind = 'organization';
SELECT object, waits_for FROM queue WHERE state = 'blocked' ORDER BY object LIMIT 2;
-- Its mended record in Exact brings it out, and the orders with it.
SELECT t.stage('accounts', t.account(3, '{"Name": "Slecht Adres BV", "City": "Zeist"}'));
SELECT t.send() LIKE '17 calls%' AS all_sent;
SELECT * FROM t.dead;

-- setup_pipedrive() brings out what was refused for want of it, and nothing else.
SELECT t.refuse(2, 'custom_fields: 7c0d: unknown');
SELECT t.refuse(3, 'stage_id does not exist');
SELECT t.refuse(4, 'currency: XXQ');
SELECT t.stage('sales_order_headers', t.header(99, '{"DeliveryStatus": 20}'));
SELECT count(*) FROM t.take();
SELECT t.answer('{"n":1,"outcome":"gone","status":404,"error":"Deal not found"}');
SELECT * FROM t.dead;
INSERT INTO setup_steps (run_id, step) SELECT r.id, s FROM (SELECT _run_begin('setup_pipedrive') AS id) r, unnest(ARRAY['me', 'users', 'pipelines', 'stages', 'deal_fields', 'organization_fields', 'product_fields']) s;
SELECT step FROM _setup_next((SELECT max(id) FROM sync_runs));
SELECT t.send();
SELECT * FROM t.dead;

-- The night brings out what failed for reasons of theirs, for one attempt.
SELECT t.order(5, 1);
SELECT count(*) FROM t.take();
UPDATE jobs SET attempts = 10 WHERE state = 'sending';
SELECT t.answer('{"n":1,"outcome":"retry","status":503,"error":"unavailable"}', '{"n":2,"outcome":"not_sent"}');
SELECT t.refuse(6, 'Products feature is disabled', 2);
SELECT * FROM t.dead;
-- what nightly() says
INSERT INTO job_signals (kind, reason, argument) VALUES ('replay', 'nightly', '{"by": "nightly"}');
SELECT count(*) FROM t.take();
SELECT t.answer('{"n":1,"outcome":"retry","status":503,"error":"unavailable"}', '{"n":2,"outcome":"not_sent"}');
SELECT object, cause, attempts FROM dead_letters WHERE class = 'theirs';
INSERT INTO job_signals (kind, reason, argument) VALUES ('replay', 'nightly', '{"by": "nightly"}');
SELECT t.send();
SELECT * FROM t.dead;

-- By cause, when there are many.  A dead letter that a person deleted on purpose is not brought back by the way.
SELECT t.refuse(20 + n, 'currency: XXQ') FROM generate_series(1, 6) n;
SELECT class, cause, kind, letters, holds_back, examples, servers_words_last, then_do FROM dead_letter_groups ORDER BY cause;
SELECT replay_cause('refused', 'organization') AS none, replay_cause('refused') AS all_of_them;
SELECT t.send();
SELECT * FROM t.dead;
SELECT t.error($$SELECT replay_cause('nonsense')$$);
SELECT t.error($$SELECT replay(kind => 'orders')$$);
SELECT t.error($$SELECT replay(class => 'mine')$$);

-- Room in the plan and a token are waited for, and stand here meanwhile; the person who mends it need not call replay().
SELECT t.refuse(30, 'feature_capping_deals_limit', 1, 'capacity');
SELECT object, class, cause, hint FROM dead_letters WHERE class = 'capacity';
SELECT state, detail FROM status WHERE part = 'dead letters';
SELECT configure('deal_capacity', '100000');
SELECT t.send();
SELECT * FROM t.dead;
SELECT t.refuse(31, 'unauthorized', 1, 'auth');
SELECT object, class, cause, hint FROM dead_letters WHERE class = 'auth';
SELECT set_pipedrive_account('t', 'https://company.pipedrive.com');
SELECT t.send();
SELECT * FROM t.dead;

-- New content is a new chance, also when it came while the last attempt was under way: nothing that came later is hidden.
SELECT t.refuse(40, 'currency: XXQ');
SELECT t.stage('sales_order_headers', t.header(40, '{"Description": "anders"}'));
SELECT t.send();
SELECT * FROM t.dead;

SELECT t.order(41, 1);
SELECT count(*) FROM t.take();
UPDATE jobs SET attempts = 10 WHERE state = 'sending';
SELECT t.stage('sales_order_headers', t.header(41, '{"Description": "anders"}'));
SELECT t.fold();
SELECT t.answer('{"n":1,"outcome":"retry","status":503,"error":"unavailable"}', '{"n":2,"outcome":"not_sent"}');
SELECT state, dirty FROM jobs WHERE exact_id = t.oid(41);
SELECT t.send();

-- Rows of Exact: number and name as far as they can be read.
SELECT t.stage('accounts', t.account(5, '{"EndDate": "never"}'));
SELECT t.stage('sales_order_headers', t.header(50, '{"AmountFC": "a lot"}'), t.header(51, '{"OrderedBy": "no guid"}'), t.header(52, '{"OrderID": "no guid"}'));
SELECT t.body('items', '{"d":[' || replace(t.item(5, '{"StandardSalesPrice": 77777, "EndDate": 88888}')::text, '88888', '1e400000') || ']}');
SELECT kind, number, name, object, servers_words, leaves_when FROM dead_letters WHERE cause = 'row' ORDER BY kind, number;
-- The same record once more, refused for something else: one letter, as it was last.
SELECT t.stage('accounts', t.account(5, '{"EndDate": "never", "Name": "Klant vijf"}'));
SELECT number, name FROM dead_letters WHERE kind = 'row of accounts';
-- Read well, or deleted in Exact: it leaves; others stay.
SELECT t.stage('accounts', t.account(5));
SELECT t.stage('sales_order_headers', t.header(50));
SELECT t.stage('deleted', jsonb_build_object('ID', t.id('de', 1), 'EntityType', 32, 'EntityKey', t.oid(51), 'Timestamp', 99999));
SELECT object FROM dead_letters WHERE cause = 'row' ORDER BY object;
-- An order refused in bulk was refused with its lines: its header alone mends nothing.
SELECT t.body('bulk_orders', jsonb_build_object('d', jsonb_build_object('results', jsonb_build_array(
    t.header(60, '{"Timestamp": null}') || jsonb_build_object('SalesOrderLines', jsonb_build_object('results', jsonb_build_array(t.line(60, 1, '{"Timestamp": null, "Quantity": "many"}')))))))::text);
SELECT object FROM dead_letters WHERE kind = 'row of bulk_orders';
SELECT t.stage('sales_order_headers', t.header(60));
SELECT object FROM dead_letters WHERE kind = 'row of bulk_orders';
SELECT t.stage('sales_order_lines', t.line(60, 1));
SELECT count(*) FROM dead_letters WHERE kind = 'row of bulk_orders';
SELECT bool_and(dismiss_refused_row(id)) AS dismissed FROM refused_rows;
SELECT t.send() IS NOT NULL AS sent;
SELECT * FROM t.dead;
SELECT replay();
SELECT t.still_gone();
SELECT t.send();
SELECT state, detail FROM status WHERE part = 'dead letters';
ROLLBACK;
