-- The shapes of an answer of Exact (exact-online 2.2), and what is none: an
-- answer that is no list of rows is an error, never "no rows".
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

-- The three envelopes.
SELECT t.body('accounts', jsonb_build_object('d', jsonb_build_object('results', jsonb_build_array(t.account(1))))::text) AS list_with_results;
SELECT t.body('accounts', jsonb_build_object('d', jsonb_build_array(t.account(2)))::text) AS bare_list;
SELECT t.body('accounts', jsonb_build_object('d', t.account(3))::text) AS one_object;
SELECT id, name FROM exact_accounts ORDER BY id;
SELECT t.body('accounts', '{"d":{"results":[]}}') AS nothing_new;
SELECT t.body('accounts', '{"d":[]}') AS nothing_new;

-- What is no answer: an error with a class, and nothing is moved or stored.
SELECT last_timestamp, rows_total FROM feed_positions;
SELECT t.error($$SELECT t.body('accounts', '<html><body>Onderhoud</body></html>')$$) AS html;
SELECT t.error($$SELECT t.body('accounts', '')$$) AS empty;
SELECT t.error($$SELECT t.body('accounts', left(t.page(ARRAY[t.account(4)]), 60))$$) AS truncated;
SELECT t.error($$SELECT t.body('accounts', '{"error":{"code":"","message":{"lang":"","value":"Storing"}}}')$$) AS an_error;
SELECT t.error($$SELECT t.body('accounts', '{"d":null}')$$) AS null;
SELECT t.error($$SELECT t.body('accounts', '{"d":"text"}')$$) AS text;
SELECT t.error($$SELECT t.body('accounts', '{"d":{"results":{}}}')$$) AS results_no_list;
SELECT t.error($$SELECT t.body('accounts', '{"d":{"results":null}}')$$) AS results_null;
SELECT t.error($$SELECT t.body('accounts', '[]')$$) AS bare_array;
SELECT t.error($$SELECT t.body('accounts', '12')$$) AS number;
SELECT t.error($$SELECT t.body('accounts', NULL)$$) AS nothing;
SELECT last_timestamp, rows_total FROM feed_positions;
SELECT count(*) FROM exact_accounts;
-- A feed nobody knows.
SELECT t.error($$SELECT t.body('invoices', '{"d":[]}')$$) AS unknown_feed;
ROLLBACK;
