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
ROLLBACK;
