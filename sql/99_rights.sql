/*
 * 99_rights.sql
 *		Nothing here is for PUBLIC; grant_reader(), grant_operator() and
 *		grant_worker() hand out what a role needs.
 */
REVOKE ALL ON ALL ROUTINES IN SCHEMA @extschema@ FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA @extschema@ FROM PUBLIC;

-- Workers that are waiting for the extension look now.
DO $$ BEGIN PERFORM exact_pd_sync.wake_worker('delivery'); PERFORM exact_pd_sync.wake_worker('intake'); END $$;
