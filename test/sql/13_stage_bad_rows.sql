-- One bad row stops nothing (law 7): it is kept aside with the reason, the
-- others go in, the position moves on.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

SELECT t.stage('sales_order_headers',
    t.header(1, '{"Timestamp": 101}'),
    t.header(2, '{"Timestamp": 102, "OrderDate": "2026-03-05"}'),
    t.header(3, '{"Timestamp": 103, "AmountFC": "a lot"}'),
    t.header(4, '{"Timestamp": 104, "OrderID": null}'),
    t.header(5, '{"Timestamp": 105, "OrderID": "no guid"}'),
    t.header(6, '{"Timestamp": 106, "OrderedBy": "no guid"}'),
    t.header(7, '{"Timestamp": 107, "Status": 99999999999}'),
    t.header(8, '{"Timestamp": 108}'));
SELECT order_number FROM exact_sales_orders ORDER BY order_number;
SELECT reason, row_text LIKE '%"OrderNumber"%' AS kept FROM refused_rows ORDER BY id;
SELECT last_timestamp FROM feed_positions WHERE feed = 'sales_order_headers';
-- They stand among the dead letters, and in the run.
SELECT kind, reason, servers_words FROM dead_letters ORDER BY servers_words;
SELECT rows, changed, refused FROM sync_runs ORDER BY id DESC LIMIT 1;
-- The good rows of such a page are signals like any other.
SELECT kind, exact_id FROM job_signals ORDER BY id;

-- Read again by the next poll (each reads a little of what it had), a refused
-- row is not noted a second time.
SELECT t.stage('sales_order_headers', t.header(3, '{"Timestamp": 103, "AmountFC": "a lot"}'), t.header(3, '{"Timestamp": 109, "AmountFC": "a little"}'));
SELECT count(*), count(DISTINCT row_text) FROM refused_rows;

-- JSON that jsonb cannot hold (a number beyond numeric) is an error of its
-- row, not of the page.
SELECT t.body('sales_order_headers', '{"d":{"results":[' || t.header(9, '{"Timestamp": 201}')::text || ',' || replace(t.header(10, '{"Timestamp": 202, "AmountFC": 77777}')::text, '77777', '1e400000') || ',' || t.header(12, '{"Timestamp": 204}')::text || ']}}');
SELECT order_number FROM exact_sales_orders WHERE order_number > 1008 ORDER BY order_number;
SELECT reason FROM refused_rows ORDER BY id DESC LIMIT 1;
SELECT last_timestamp FROM feed_positions WHERE feed = 'sales_order_headers';

-- Also in an answer that is a bare list, or a single record.
SELECT t.body('accounts', '{"d":[' || t.account(1, '{"EndDate": "never"}')::text || ',' || t.account(2)::text || ']}');
SELECT t.body('accounts', '{"d":' || t.account(3, '{"EndDate": "never"}')::text || '}');
SELECT t.body('accounts', '{"d":' || replace(t.account(4, '{"Blocked": 77777}')::text, '77777', '1e400000') || '}');
SELECT name FROM exact_accounts;
SELECT count(*) FROM refused_rows WHERE feed = 'accounts';

-- Elements that are no records.
SELECT t.body('accounts', '{"d":[1, "two", null, [], ' || t.account(5)::text || ']}');
SELECT name FROM exact_accounts ORDER BY name;

-- A page of nothing but bad rows moves on, too.
SELECT t.stage('accounts', t.account(6, '{"Timestamp": 99901, "EndDate": "never"}'));
SELECT last_timestamp FROM feed_positions WHERE feed = 'accounts';

-- What is kept of a row is bounded.
SELECT t.stage('accounts', t.account(7, jsonb_build_object('EndDate', 'never', 'Name', repeat('n', 20000))));
SELECT max(length(row_text)) FROM refused_rows;

-- A bad line inside a bulk order: its order is refused whole, the others go in.
SELECT t.body('bulk_orders', jsonb_build_object('d', jsonb_build_object('results', jsonb_build_array(
    t.header(20, '{"Timestamp": null}') || jsonb_build_object('SalesOrderLines', jsonb_build_object('results', jsonb_build_array(t.line(20, 1, '{"Timestamp": null, "Quantity": "many"}')))),
    t.header(21, '{"Timestamp": null}') || jsonb_build_object('SalesOrderLines', jsonb_build_object('results', jsonb_build_array(t.line(21, 1, '{"Timestamp": null}')))))))::text);
SELECT order_number FROM exact_sales_orders WHERE order_number > 1015;
ROLLBACK;
