-- Exact's limits: calls a minute, calls a day, refusals an hour; reserved before,
-- corrected by the answer's headers.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

CREATE VIEW t.budget AS SELECT kind, limit_value, remaining, spent_today, reset_at > clock_timestamp() AS runs, learned_at IS NOT NULL AS learned FROM budgets WHERE side = 'exact' AND division = 100 ORDER BY kind;
CREATE FUNCTION t.ms(p_seconds integer) RETURNS text LANGUAGE sql AS $$ SELECT (extract(epoch FROM clock_timestamp() + make_interval(secs => p_seconds)) * 1000)::bigint::text $$;

-- Each call is booked from both. (A minute that ends in an hour, so that it does not end in the middle of a test.)
INSERT INTO budgets (side, division, kind, limit_value, remaining, reset_at) VALUES
    ('exact', 100, 'minute', 60, 60, clock_timestamp() + interval '1 hour'), ('exact', 100, 'day', 5000, 5000, clock_timestamp() + interval '1 day');
SELECT _exact_reserve(100, 'accounts', false), _exact_reserve(100, 'items', false);
SELECT * FROM t.budget;
-- The minute is used up: so long to wait, and a second more; nothing is booked.
UPDATE budgets SET remaining = 0, reset_at = clock_timestamp() + interval '20 seconds' WHERE kind = 'minute';
SELECT _exact_reserve(100, 'accounts', false) BETWEEN 20000 AND 21500 AS wait;
SELECT remaining, spent_today FROM t.budget WHERE kind = 'day';
-- A new minute.
UPDATE budgets SET reset_at = clock_timestamp() - interval '1 second' WHERE kind = 'minute';
SELECT _exact_reserve(100, 'accounts', false);
SELECT kind, remaining, runs FROM t.budget;
UPDATE budgets SET reset_at = clock_timestamp() + interval '1 hour' WHERE kind = 'minute';
-- An import leaves half of the minute, and a tenth of the day.
UPDATE budgets SET remaining = 30 WHERE kind = 'minute';
SELECT _exact_reserve(100, 'accounts', true) > 0 AS import_waits, _exact_reserve(100, 'accounts', false) AS poll;
UPDATE budgets SET remaining = 60 WHERE kind = 'minute';
UPDATE budgets SET remaining = 500 WHERE kind = 'day';
SELECT split_part(t.error('SELECT _exact_reserve(100, ''accounts'', true)'), E'\n', 1) AS import, _exact_reserve(100, 'accounts', false) AS poll;
-- The day is used up: an error, with the time.
UPDATE budgets SET remaining = 0, reset_at = '2099-01-01 00:00+00' WHERE kind = 'day';
SELECT t.error('SELECT _exact_reserve(100, ''accounts'', false)');
UPDATE budgets SET reset_at = clock_timestamp() - interval '1 second' WHERE kind = 'day';
SELECT _exact_reserve(100, 'accounts', false);
SELECT kind, remaining, spent_today, runs FROM t.budget;
-- A division has its own.
SELECT _exact_reserve(200, 'accounts', false);
SELECT division, kind, remaining FROM budgets WHERE division = 200 ORDER BY kind;

-- The answer's headers know better: what is left, how many there are, when it starts anew.
SELECT _exact_settle(100, 'accounts', 'GET', '/api/v1/100/sync', 200, 'ok', NULL, jsonb_build_object('x-ratelimit-limit', '9000', 'x-ratelimit-remaining', '8931', 'x-ratelimit-reset', t.ms(3600),
    'x-ratelimit-minutely-limit', '100', 'x-ratelimit-minutely-remaining', '57', 'x-ratelimit-minutely-reset', t.ms(30)), 12, 3456);
SELECT * FROM t.budget WHERE kind IN ('day', 'minute');
SELECT reset_at BETWEEN clock_timestamp() + interval '59 minutes' AND clock_timestamp() + interval '61 minutes' AS in_an_hour FROM budgets WHERE division = 100 AND kind = 'day';
SELECT side, division, what, method, path, status, outcome, ms, bytes, error FROM api_calls;
-- Nonsense in headers is not taken over.
SELECT _exact_settle(100, 'accounts', 'GET', '/x', 200, 'ok', NULL, '{"x-ratelimit-remaining": "many", "x-ratelimit-minutely-remaining": "-3", "x-ratelimit-minutely-reset": "99999999999999999"}', 1, 1);
SELECT _exact_settle(100, 'accounts', 'GET', '/x', 200, 'ok', NULL, '{"x-ratelimit-remaining": "8900", "x-ratelimit-reset": "1000000000000"}', 1, 1);
SELECT * FROM t.budget WHERE kind IN ('day', 'minute');
SELECT reset_at > clock_timestamp() + interval '59 minutes' AS still FROM budgets WHERE division = 100 AND kind = 'day';
-- A 429 names only the limit that was hit; one without a word counts for the minute.
SELECT _exact_settle(100, 'accounts', 'GET', '/x', 429, 'failed', 'too many', jsonb_build_object('x-ratelimit-minutely-limit', '60', 'x-ratelimit-minutely-remaining', '0', 'x-ratelimit-minutely-reset', t.ms(30)), 1, 1);
SELECT kind, remaining FROM t.budget WHERE kind IN ('day', 'minute');
UPDATE budgets SET remaining = 50 WHERE kind = 'minute';
SELECT _exact_settle(100, 'accounts', 'GET', '/x', 429, 'failed', 'too many', '{}', 1, 1);
SELECT kind, remaining FROM t.budget WHERE kind IN ('day', 'minute') AND remaining = 0;
UPDATE budgets SET remaining = 50 WHERE kind = 'minute';

-- Refusals: at five within an hour the feed is stopped, before Exact blocks the key at ten; others go on.
SELECT _exact_settle(100, 'items', 'GET', '/x', s, 'failed', 'no right ' || s, '{}', 1, 1) FROM unnest(ARRAY[400, 401, 403, 404]) s;
SELECT kind, remaining FROM t.budget WHERE kind LIKE 'errors%';
SELECT _exact_reserve(100, 'items', false) AS still;
SELECT _exact_settle(100, 'items', 'GET', '/x', 403, 'failed', 'no right', '{}', 1, 1);
UPDATE budgets SET reset_at = '2099-01-01 12:30+00' WHERE kind = 'errors:items';
SELECT t.error('SELECT _exact_reserve(100, ''items'', false)');
SELECT _exact_reserve(100, 'accounts', false) AS other_feed, _exact_reserve(200, 'items', false) AS other_division;
SELECT kind, reason FROM budget WHERE kind LIKE 'errors%';
-- After the hour it is asked again, and counted from one.
UPDATE budgets SET reset_at = clock_timestamp() - interval '1 second' WHERE kind = 'errors:items';
SELECT _exact_reserve(100, 'items', false);
SELECT _exact_settle(100, 'items', 'GET', '/x', 403, 'failed', 'no right', '{}', 1, 1);
SELECT kind, remaining FROM t.budget WHERE kind LIKE 'errors%';
-- Failures of theirs are no refusals.
SELECT _exact_settle(100, 'accounts', 'GET', '/x', 503, 'failed', 'maintenance', '{}', 1, 1);
SELECT count(*) FROM budgets WHERE kind = 'errors:accounts';

-- Token calls: two hundred a day.
SELECT bool_and(_token_reserve()) AS first FROM generate_series(1, 200);
SELECT _token_reserve() AS one_more;
UPDATE exact_consent SET calls_day = calls_day - 1;
SELECT _token_reserve() AS next_day;
SELECT calls_today FROM exact_consent;
-- The pair's life.
SELECT state, generation FROM _token_state();
SELECT _token_stored(600, 'consent');
SELECT state, generation, access_expires_at - issued_at BETWEEN interval '599 s' AND interval '601 s' AS ten_minutes FROM _token_state();
SELECT _token_stored(600, 'refresh');
SELECT state, generation FROM _token_state();
SELECT _token_failed('auth_required', 'invalid_grant');
SELECT s.state, s.generation, c.last_error FROM _token_state() s, exact_consent c;
DELETE FROM exact_consent;
SELECT state, generation FROM _token_state();

-- Runs: opened, counted, closed; a failed one says why.
SELECT _run_begin('poll_orders') AS run \gset
SELECT _exact_settle(100, 'accounts', 'GET', '/x', 200, 'ok', NULL, '{}', 1, 1);
SELECT _run_end(:run, 'feed "items" failed');
SELECT what, state, calls, error, finished_at IS NOT NULL AS finished FROM sync_runs WHERE id = :run;
ROLLBACK;
