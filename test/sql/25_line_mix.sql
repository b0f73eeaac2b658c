-- line_mix(): the cheapest mix of line calls is the minimum of pipedrive 3.6,
-- checked against that formula worked out in SQL.
\pset format unaligned
\pset fieldsep ' | '
\pset footer off
SET search_path = exact_pd_sync, pg_catalog;
CREATE FUNCTION pg_temp.adding(n integer) RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT 25 * (n / 100) + least(5 * (n % 100), CASE WHEN n % 100 > 0 THEN 25 ELSE 0 END) $$;
CREATE FUNCTION pg_temp.deleting(n integer) RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT 15 * (n / 100) + least(3 * (n % 100), CASE WHEN n % 100 > 0 THEN 15 ELSE 0 END) $$;
CREATE FUNCTION pg_temp.least_tokens(a integer, c integer, d integer) RETURNS integer LANGUAGE sql IMMUTABLE
    AS $$ SELECT min(5 * k + pg_temp.adding(a + c - k) + pg_temp.deleting(d + c - k)) FROM generate_series(0, c) k $$;

-- The table of pipedrive 3.6.
SELECT n AS lines, 5 + tokens AS create FROM unnest(ARRAY[0, 1, 2, 3, 4, 5, 100, 101, 150, 250]) n, line_mix(n, 0, 0);
SELECT c AS changed, m.* FROM unnest(ARRAY[1, 7, 8, 9, 50, 100]) c, line_mix(0, c, 0) m;
SELECT d AS removed, m.tokens FROM unnest(ARRAY[1, 4, 5, 100, 101]) d, line_mix(0, 0, d) m;
SELECT * FROM line_mix(0, 0, 0);

-- The minimum, for all small numbers and around the edges of the bulk calls.
SELECT a, c, d, m.tokens, pg_temp.least_tokens(a, c, d) AS least
  FROM generate_series(0, 12) a, generate_series(0, 24) c, generate_series(0, 12) d, line_mix(a, c, d) m
 WHERE m.tokens <> pg_temp.least_tokens(a, c, d) LIMIT 5;
SELECT a, c, d, m.tokens, pg_temp.least_tokens(a, c, d) AS least
  FROM unnest(ARRAY[0, 3, 95, 96, 99, 100, 104, 205]) a, unnest(ARRAY[0, 1, 5, 95, 99, 100, 101, 199, 300]) c, unnest(ARRAY[0, 2, 95, 99, 100, 105]) d, line_mix(a, c, d) m
 WHERE m.tokens <> pg_temp.least_tokens(a, c, d) LIMIT 5;
-- Its number of single changes costs what it says, and of equal prices it takes the one that keeps most lines.
SELECT a, c, d, m.* FROM generate_series(0, 6) a, generate_series(0, 20) c, generate_series(0, 6) d, line_mix(a, c, d) m
 WHERE m.tokens <> 5 * m.patched + pg_temp.adding(a + c - m.patched) + pg_temp.deleting(d + c - m.patched)
    OR EXISTS (SELECT FROM generate_series(m.patched + 1, c) k WHERE 5 * k + pg_temp.adding(a + c - k) + pg_temp.deleting(d + c - k) <= m.tokens) LIMIT 5;

-- NULL in, NULL out; nonsense is refused.
SELECT line_mix(NULL, 1, 1) IS NULL AS null;
\set VERBOSITY terse
SELECT line_mix(0, -1, 0);
SELECT line_mix(0, 0, 1000001);
