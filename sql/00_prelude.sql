/*
 * 00_prelude.sql
 *		What must be true before anything else is made.
 */
\echo Use "CREATE EXTENSION exact_pd_sync" to load this file. \quit

DO $$
BEGIN
    IF pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.<>) 'UTF8' THEN
        RAISE EXCEPTION 'exact_pd_sync needs a database with encoding UTF8'
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = pg_catalog.format('This database has encoding %s; names and order texts of both services are Unicode.', pg_catalog.getdatabaseencoding()),
                  HINT = 'Create a database with ENCODING ''UTF8'' TEMPLATE template0 and install the extension there.';
    END IF;
END
$$;

COMMENT ON SCHEMA @extschema@ IS
    'exact_pd_sync: keeps Pipedrive true to Exact Online. exact_* = what Exact says, wanted_* = what the CRM should say, links = what was sent. Start with SELECT * FROM exact_pd_sync.status';
