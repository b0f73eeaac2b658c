-- exact_wall_clock(): Exact's /Date(ms)/ is the wall clock of the site, and no
-- instant (exact-online 2.4).
SET TimeZone = 'America/New_York';
SET DateStyle = 'ISO, DMY';
\pset format unaligned
\pset fieldsep ' | '
\pset footer off
\pset null 'null'
SET search_path = exact_pd_sync, pg_catalog;

-- It is read as it stands, whatever the session's zone is.
SELECT exact_wall_clock('/Date(1772719651203)/') AS winter, exact_wall_clock('/Date(1784107800000)/') AS summer;
SELECT exact_wall_clock('/Date(1772668800000)/')::date AS a_day_stays_a_day;

-- Both halves of the night the clock is put back: 02:30 is 02:30, twice.
SELECT exact_wall_clock('/Date(1792895400000)/') AS october, exact_wall_clock('/Date(1792895400000)/') = timestamp '2026-10-25 02:30' AS as_written;
-- An hour that does not exist in the zone, in March, is still what Exact wrote.
SELECT exact_wall_clock('/Date(1774751400000)/') AS march;

-- Before 1970, the year 1, and an empty date.
SELECT exact_wall_clock('/Date(-1)/') AS negative, exact_wall_clock('/Date(-62135596800000)/') AS year_one, exact_wall_clock('/Date(0)/') AS zero;
SELECT exact_wall_clock(NULL) AS nothing, exact_wall_clock('') AS empty;

-- An offset is skipped, not applied; slashes may be escaped.
SELECT exact_wall_clock('/Date(1772719651203+0100)/') AS plus, exact_wall_clock('/Date(1772719651203-0500)/') AS minus, exact_wall_clock('\/Date(1772719651203)\/') AS escaped;
SELECT ('{"d":"\/Date(1772719651203)\/"}'::jsonb)->>'d' AS from_json;

-- Far away.
SELECT exact_wall_clock('/Date(253402300799999)/') AS year_9999;

-- Anything else is an error of class 22007 or 22008, never a wrong date.
\set VERBOSITY default
DO $$
DECLARE
    v text;
BEGIN
    FOREACH v IN ARRAY ARRAY['2026-03-05', '2026-03-05T00:00:00', '1772719651203', '/Date()/', '/Date(x)/', '/Date(1.5)/', '/Date(1e3)/', '/Date(1772719651203)', 'Date(1772719651203)/',
                             '/Date(1772719651203)/ ', ' /Date(1772719651203)/', '/Date(1772719651203+01:00)/', '/Date(1772719651203Z)/', '/date(1772719651203)/',
                             '/Date(--1)/', '/Date(99999999999999999999)/', '/Date(999999999999999999)/', '/Date(-999999999999999999)/', '/Date(1)/' || repeat('x', 500), repeat(U&'\+01F600', 40)] LOOP
        BEGIN
            RAISE WARNING 'taken: % as %', v, exact_pd_sync.exact_wall_clock(v);
        EXCEPTION WHEN OTHERS THEN
            RAISE NOTICE '%: %', SQLSTATE, SQLERRM;
        END;
    END LOOP;
END
$$;

-- Strict, immutable, parallel safe: it may stand in an index.
SELECT proisstrict, provolatile, proparallel FROM pg_proc WHERE oid = 'exact_wall_clock(text)'::regprocedure;
