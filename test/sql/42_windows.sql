-- The windows of the operator: status, queue, dead letters, progress, trace.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

CREATE VIEW t.status AS SELECT part, state, since IS NOT NULL AS since, last_success IS NOT NULL AS success, regexp_replace(regexp_replace(detail, '(-?[0-9]+ days? )?-?[0-9]{2}:[0-9]{2}:[0-9]{2} ago', '... ago', 'g'), 'until .*', 'until ...') AS detail FROM status;

-- A new installation says what is missing, by itself.
DELETE FROM parts; DELETE FROM instance; DELETE FROM divisions;
SELECT * FROM t.status;
INSERT INTO divisions (division, name, send_since, imported_at) VALUES (100, 'Testbedrijf', '2020-01-01', '2026-01-01 12:00+00');
INSERT INTO instance (identity) VALUES (instance_identity()::jsonb);
SELECT _token_stored(600, 'consent');
SELECT * FROM t.status WHERE part IN ('exact consent', 'sending');

-- A part is green when its feeds were drained lately, and turns red without anybody doing anything.
SELECT t.body('accounts', '{"d":[]}');
SELECT state, detail FROM t.status WHERE part = 'customers';
UPDATE feed_positions SET last_success = last_success - interval '3 hours';
SELECT state, detail FROM t.status WHERE part = 'customers';
-- With the reason, when a run failed.
SELECT t.body('accounts', '{"d":[]}');
SELECT _run_end(_run_begin('poll_customers'), 'feed "accounts" of division 100: status 403');
SELECT state, detail FROM t.status WHERE part = 'customers';
SELECT _run_end(_run_begin('poll_customers'), NULL);
SELECT state FROM t.status WHERE part = 'customers';
-- One division that is behind is enough.
INSERT INTO divisions (division) VALUES (200);
SELECT state FROM t.status WHERE part = 'customers';
DELETE FROM divisions WHERE division = 200;
SELECT pause('customers');
SELECT state, since, detail FROM t.status WHERE part = 'customers';

-- The consent: gone, or about to.
UPDATE exact_consent SET issued_at = clock_timestamp() - interval '25 days';
SELECT state, detail FROM t.status WHERE part = 'exact consent';
SELECT _token_failed('auth_required', 'invalid_grant', 'consent');
SELECT state, detail FROM t.status WHERE part = 'exact consent';
-- A copy sends nothing, and says so.
UPDATE instance SET identity = identity || '{"database": "other"}';
SELECT state, detail FROM t.status WHERE part = 'sending';
UPDATE instance SET identity = instance_identity()::jsonb;

-- Budget: red when there is nothing left.
SELECT (_pipedrive_day()).available;
SELECT state, detail FROM t.status WHERE part = 'budget';
UPDATE budgets SET remaining = 2000 WHERE kind = 'day';
SELECT state FROM t.status WHERE part = 'budget';
UPDATE budgets SET remaining = 0 WHERE kind = 'day';
SELECT state FROM t.status WHERE part = 'budget';
UPDATE budgets SET remaining = 30000 WHERE kind = 'day';

-- Queue and dead letters, in words.
SELECT resume();
DELETE FROM job_signals;
SELECT t.catalogue(2);
SELECT t.order(1, 1), t.order(2, 1, jsonb_build_object('OrderedBy', t.aid(2)));
SELECT t.fold();
SELECT object, lane, state FROM queue ORDER BY object;
SELECT call FROM t.take();
SELECT t.answer('{"n":2,"outcome":"permanent","status":400,"error":"address: invalid"}');
SELECT object, lane, state, regexp_replace(waits_for, ' [0-9a-f-]{30}', ' ...') AS waits_for, reason FROM queue ORDER BY object;
SELECT kind, object, class, reason, servers_words, holds_back, regexp_replace(then_do, '[0-9]+', 'N') AS then_do FROM dead_letters;
SELECT state, detail FROM t.status WHERE part = 'dead letters';
SELECT lane, kind, linked, to_do, blocked, dead, tokens_about FROM progress;
SELECT replay(kind => 'organization');
SELECT t.send() IS NOT NULL AS sent;
SELECT count(*) FROM dead_letters;
SELECT count(*) FROM progress;

-- Everything that ever happened to one order, in order of time.
SELECT t.stage('sales_order_headers', t.header(1, '{"DeliveryStatus": 21}'));
SELECT t.send();
SELECT t.stage('deleted', jsonb_build_object('ID', t.id('de', 1), 'EntityType', 32, 'EntityKey', t.oid(1), 'Timestamp', 99999));
SELECT what, regexp_replace(detail, 'rowversion [0-9]+', 'rowversion N') AS detail FROM trace(1001);
SELECT bool_and(coalesce(at >= earlier, true)) AS in_order FROM (SELECT at, lag(at) OVER () AS earlier FROM trace(1001)) x;
SELECT count(*) AS same FROM trace(1001, 100) HAVING count(*) = (SELECT count(*) FROM trace(1001));
SELECT count(*) AS other_division FROM trace(1001, 200);
SELECT count(*) AS unknown_order FROM trace(424242);
-- A refusal stays in it, also when it was mended later.
SELECT t.send() IS NOT NULL AS everything_else;
SELECT t.order(3, 0);
SELECT call FROM t.take();
SELECT t.answer('{"n":1,"outcome":"permanent","status":400,"error":"title: too long","request_id":"abc-1"}');
SELECT replay();
SELECT t.send();
SELECT what, value->>'error' AS error FROM trace(1003) WHERE value ? 'error' OR what LIKE 'pipedrive: c%' ORDER BY at;

-- Limits of both services in one view.
SELECT side, division, kind, limit_value > 0 AS limited, blocked_until FROM budget ORDER BY side, kind;
ROLLBACK;
