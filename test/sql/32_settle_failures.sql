-- Answers that are not good: each class leads to what it should, for its own job
-- alone.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

SELECT t.catalogue(1);
SELECT t.send() IS NOT NULL AS catalogue_sent;
CREATE VIEW t.day AS SELECT remaining, booked, spent_today, blocked_until > clock_timestamp() AS blocked, blocked_reason FROM budgets WHERE side = 'pipedrive' AND kind = 'day';
-- An order of one line, taken and answered like this; what becomes of its job.
CREATE FUNCTION t.try(n integer, VARIADIC p_answers jsonb[]) RETURNS TABLE (state text, attempts integer, class text, reason text, due text) LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM jobs; DELETE FROM job_signals; DELETE FROM intents; DELETE FROM looks WHERE done_at IS NULL;
    UPDATE budgets SET booked = 0, blocked_until = NULL, blocked_reason = NULL;
    PERFORM t.order(n, 1);
    IF (SELECT count(*) FROM t.take()) = 0 THEN RAISE EXCEPTION 'nothing to send'; END IF;
    PERFORM t.answer(VARIADIC p_answers);
    RETURN QUERY SELECT j.state, j.attempts, j.class, j.reason, CASE WHEN j.next_attempt_at = 'infinity' THEN 'infinity' ELSE round(extract(epoch FROM j.next_attempt_at - clock_timestamp()) / 60)::text || ' min' END FROM jobs j WHERE j.kind = 'deal';
END
$$;
-- the customer and the product are there
SELECT t.order(99, 1), t.send() IS NOT NULL AS sent;

-- A refusal for good: a dead letter with the reason in plain words; the others go on.
SELECT * FROM t.try(1, '{"n":1,"outcome":"permanent","status":400,"error":"owner_id: User is inactive"}', '{"n":2,"outcome":"not_sent"}');
SELECT kind, object, class, reason, servers_words, attempts FROM dead_letters;
SELECT * FROM t.try(2, '{"n":1,"outcome":"permanent","status":400,"error":"Validation failed: custom_fields: 7c0d: unknown"}', '{"n":2,"outcome":"not_sent"}');
SELECT * FROM t.try(3, '{"n":1,"outcome":"permanent","status":400,"error":"stage_id does not exist"}', '{"n":2,"outcome":"not_sent"}');
SELECT * FROM t.try(4, '{"n":2,"outcome":"permanent","status":400,"error":"product 1 is not linkable"}');
SELECT * FROM t.try(5, '{"n":1,"outcome":"permanent","status":400,"error":"no"}', '{"n":2,"outcome":"not_sent"}');
-- New content is a new chance.
SELECT t.stage('sales_order_headers', t.header(5, '{"Description": "anders"}'));
SELECT t.fold();
SELECT state, attempts FROM jobs WHERE kind = 'deal';
-- So is replay(): one, a kind, a class, all.
SELECT * FROM t.try(6, '{"n":1,"outcome":"permanent","status":400,"error":"no"}', '{"n":2,"outcome":"not_sent"}');
SELECT replay(kind => 'product') AS products, replay(class => 'theirs') AS theirs, replay(class => 'ours') AS ours;
SELECT state FROM jobs;
SELECT t.fold();
SELECT state, attempts, reason FROM jobs;

-- A failure of theirs: later, a little longer each time, at last dead.
SELECT * FROM t.try(7, '{"n":1,"outcome":"retry","status":503,"error":"unavailable"}', '{"n":2,"outcome":"not_sent"}');
UPDATE jobs SET attempts = 9, next_attempt_at = clock_timestamp();
SELECT count(*) FROM t.take();
SELECT t.answer('{"n":1,"outcome":"retry","status":503,"error":"unavailable"}', '{"n":2,"outcome":"not_sent"}');
SELECT state, attempts, class, reason, error FROM jobs;

-- Too fast: a moment, no attempt, nothing spent.
SELECT * FROM t.day;
SELECT * FROM t.try(8, '{"n":1,"outcome":"burst","status":429,"wait_ms":2000,"error":"over limit"}', '{"n":2,"outcome":"not_sent"}');
SELECT * FROM t.day;

-- The day is used up: everything waits, no attempt.
SELECT * FROM t.try(9, '{"n":1,"outcome":"daily","status":429,"wait_ms":3600000,"error":"over limit"}', '{"n":2,"outcome":"not_sent"}');
SELECT remaining <= 0 AS nothing_left, blocked, blocked_reason FROM t.day;
SELECT may_send, reason, wait_ms BETWEEN 3500000 AND 3600000 AS an_hour FROM _delivery_gate();
SELECT count(*) FROM t.take();
-- A person says that it may be tried: one job does, whatever the books say.
SELECT resume();
SELECT may_send FROM _delivery_gate();
SELECT replay();
SELECT remaining <= 0 AS nothing_left, (SELECT count(*) FROM t.take()) AS calls FROM t.day;
SELECT t.answer('{"n":1,"outcome":"daily","status":429,"wait_ms":3600000,"error":"over limit"}', '{"n":2,"outcome":"not_sent"}');
SELECT blocked FROM t.day;
UPDATE budgets SET remaining = limit_value WHERE kind = 'day';

-- Answers that were on their way do not open the day again; headers that know better do.
DELETE FROM jobs; DELETE FROM intents;
SELECT t.order(70, 1), t.order(71, 1);
SELECT count(*) FROM t.take();
SELECT _settle((SELECT jsonb_agg(jsonb_build_object('call', c.call_id, 'outcome', CASE c.n WHEN 1 THEN 'daily' ELSE 'not_sent' END, 'status', 429, 'wait_ms', 3600000)) FROM t.calls c WHERE c.n <= 2)::text, '{}');
SELECT _settle((SELECT jsonb_agg(t.good(c)) FROM t.calls c WHERE c.n = 3)::text, '{}');
SELECT remaining <= 0 AS nothing_left, blocked, blocked_reason FROM t.day;
SELECT _settle((SELECT jsonb_agg(t.good(c)) FROM t.calls c WHERE c.n = 4)::text, '{"daily_remaining": 5000}');
SELECT remaining, blocked, blocked_reason FROM t.day;
DELETE FROM jobs; DELETE FROM intents; DELETE FROM job_signals;

-- A wrong token, and an address that is blocked: everything stops, for a while and for long.
SELECT * FROM t.try(10, '{"n":1,"outcome":"auth","status":401,"error":"unauthorized"}', '{"n":2,"outcome":"not_sent"}');
SELECT blocked, blocked_reason FROM t.day;
SELECT * FROM t.try(11, '{"n":1,"outcome":"blocked","status":403,"error":"<html>"}', '{"n":2,"outcome":"not_sent"}');
SELECT blocked, blocked_reason FROM t.day;
SELECT may_send, reason FROM _delivery_gate();
-- A new token, and resume(), end it.
SELECT set_pipedrive_account('t', 'https://company.pipedrive.com');
SELECT may_send FROM _delivery_gate();

-- The plan's deals are full: only creates wait.
SELECT * FROM t.try(12, '{"n":1,"outcome":"capacity","status":403,"error":"feature_capping_deals_limit"}', '{"n":2,"outcome":"not_sent"}');
SELECT t.stage('sales_order_headers', t.header(99, '{"DeliveryStatus": 20}'), t.header(13, '{"AmountFCExclVat": 0}'));
SELECT call, body FROM t.take();
SELECT t.answer();
SELECT id, state, class, reason FROM t.waiting;
DELETE FROM budgets WHERE kind = 'creates';

-- Sent without a readable answer: nothing is repeated, it is looked up.
SELECT * FROM t.try(14, '{"n":1,"outcome":"unknown","status":0,"error":"timeout"}', '{"n":2,"outcome":"not_sent"}');
SELECT operation, state, is_create FROM intents;
SELECT what, reason FROM looks WHERE done_at IS NULL;
SELECT count(*) FROM t.take();
-- A good answer that names no record is none that can be read.
SELECT * FROM t.try(15, '{"n":1,"outcome":"ok","status":201,"ids":[]}', '{"n":2,"outcome":"not_sent"}');
SELECT count(*) FROM links WHERE kind = 'deal' AND exact_id = t.oid(15);
-- An update of unknown outcome is simply made again.
DELETE FROM intents; DELETE FROM jobs; DELETE FROM looks WHERE done_at IS NULL;
SELECT t.stage('sales_order_headers', t.header(99, '{"DeliveryStatus": 21}'));
SELECT count(*) FROM t.take();
SELECT t.answer('{"n":1,"outcome":"unknown","status":0,"error":"timeout"}');
SELECT state FROM jobs;
SELECT call, body FROM t.take();
SELECT t.answer();

-- Gone: a person deleted it. It is not made again by itself, not even when the order changes.
SELECT t.stage('sales_order_headers', t.header(99, '{"DeliveryStatus": 12}'));
SELECT count(*) FROM t.take();
SELECT t.answer('{"n":1,"outcome":"gone","status":404,"error":"Deal not found"}');
SELECT state, class, reason FROM jobs;
SELECT gone_at IS NOT NULL AS gone FROM links WHERE kind = 'deal' AND exact_id = t.oid(99);
SELECT t.stage('sales_order_headers', t.header(99, '{"DeliveryStatus": 20}'));
SELECT count(*) FROM t.take();
SELECT object, reason FROM dead_letters;
-- A replay of something else does not bring it back; its own makes it anew, with its lines.
SELECT replay(job => -1);
SELECT t.fold();
SELECT gone_at IS NOT NULL AS gone FROM links WHERE kind = 'deal' AND exact_id = t.oid(99);
SELECT replay();
SELECT t.fold();
SELECT state, reason FROM jobs;
SELECT count(*) AS not_before_it_is_known FROM t.take();
SELECT t.still_gone();
SELECT call, body ? 'title' AS whole FROM t.take();
SELECT t.answer();
SELECT gone_at IS NOT NULL AS gone FROM links WHERE kind = 'deal' AND exact_id = t.oid(99);
SELECT count(*) AS jobs FROM jobs;

-- A line or a discount that a person deleted: what is there is read, or made anew.
SELECT t.stage('sales_order_lines', t.line(99, 1, '{"Quantity": 2, "UnitPrice": 50}'));
SELECT call FROM t.take();
SELECT t.answer('{"n":1,"outcome":"gone","status":404,"error":"not found"}');
SELECT state FROM jobs;
SELECT lines_unread FROM links WHERE kind = 'deal' AND exact_id = t.oid(99);
UPDATE links SET lines_unread = false, discount_key = 'd-1', discount_sent = 0.05;
UPDATE exact_sales_orders SET amount_fc_excl_vat = 99.99 WHERE id = t.oid(99);
SELECT call FROM t.take();
SELECT t.answer('{"n":2,"outcome":"gone","status":404,"error":"not found"}');
SELECT state FROM jobs;
SELECT call, body FROM t.take();
SELECT t.answer();
-- A deletion of what is gone already is done.
SELECT t.stage('sales_order_lines', t.line(99, 1));
UPDATE exact_sales_orders SET amount_fc_excl_vat = 100 WHERE id = t.oid(99);
SELECT call FROM t.take();
SELECT t.answer('{"n":2,"outcome":"gone","status":404,"error":"not found"}');
SELECT discount_key, discount_sent FROM links WHERE kind = 'deal' AND exact_id = t.oid(99);
SELECT count(*) AS jobs FROM jobs;

-- It changed while it was refused: another chance at once.
DELETE FROM jobs;
SELECT t.order(20, 1);
SELECT count(*) FROM t.take();
SELECT t.stage('sales_order_headers', t.header(20, '{"Description": "meanwhile"}'));
SELECT t.fold();
SELECT t.answer('{"n":1,"outcome":"permanent","status":400,"error":"no"}', '{"n":2,"outcome":"not_sent"}');
SELECT state, dirty FROM jobs;

-- A job whose own SQL fails becomes a dead letter.
DELETE FROM jobs;
SELECT t.order(21, 1);
SELECT count(*) FROM t.take();
SELECT _job_failed((SELECT id FROM jobs LIMIT 1), 'division by zero');
SELECT state, class, reason, error FROM jobs;
ROLLBACK;
