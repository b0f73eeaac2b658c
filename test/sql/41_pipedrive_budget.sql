-- Pipedrive's tokens: a reserve for live orders, learned from headers, bought back
-- when the day starts anew.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

CREATE VIEW t.day AS SELECT limit_value, remaining, booked, spent_today FROM budgets WHERE side = 'pipedrive' AND kind = 'day';
SELECT available, day_limit FROM _pipedrive_day();
SELECT configure('daily_tokens', '1000');
DELETE FROM budgets;
SELECT available, day_limit FROM _pipedrive_day();
SELECT reset_at = date_trunc('day', clock_timestamp()) + interval '1 day' AS at_midnight_utc FROM budgets WHERE kind = 'day';

-- Single calls are spent at once; what is not there is waited for.
SELECT _pipedrive_reserve(10, 1);
SELECT * FROM t.day;
SELECT _pipedrive_reserve(2000, 1) > 0 AS wait;
SELECT * FROM t.day;
UPDATE budgets SET blocked_until = clock_timestamp() + interval '5 minutes' WHERE kind = 'day';
SELECT _pipedrive_reserve(1, 1) BETWEEN 290000 AND 300000 AS while_blocked;
UPDATE budgets SET blocked_until = NULL;
-- A new day, even after a long sleep.
UPDATE budgets SET remaining = 3, spent_today = 997, reset_at = reset_at - interval '9 days' WHERE kind = 'day';
SELECT available FROM _pipedrive_day();
SELECT spent_today, reset_at > clock_timestamp() AND reset_at <= clock_timestamp() + interval '1 day' AS next_midnight FROM budgets WHERE kind = 'day';

-- Lanes: 4 above the reserve of twenty percent, 2 above half of it, then live orders alone, then nothing.
CREATE FUNCTION t.lane(p_remaining integer, p_booked integer DEFAULT 0) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN UPDATE budgets SET remaining = p_remaining, booked = p_booked WHERE kind = 'day'; RETURN _lane_limit(); END $$;
SELECT r AS left_of_1000, t.lane(r) AS lane FROM unnest(ARRAY[1000, 201, 200, 101, 100, 1, 0, -5]) r;
SELECT t.lane(500, 350) AS booked_counts;
SELECT configure('live_reserve_percent', '0');
SELECT t.lane(1) AS no_reserve;
SELECT configure('live_reserve_percent', NULL);

-- What is claimed keeps to it: history waits, live orders go.
SELECT t.lane(1000) AS plenty;
SELECT t.catalogue(1);
SELECT t.order(1, 0, '{"OrderedBy": null}'), t.order(2, 0, '{"OrderedBy": null, "InvoiceStatus": 21}'), t.order(3, 0, '{"OrderedBy": null}');
UPDATE exact_sales_orders SET changed_at = changed_at - interval '2 days' WHERE id <> t.oid(1);
SELECT t.fold();
SELECT kind, id, lane FROM t.waiting;
SELECT t.lane(50) AS live_only;
SELECT body->>'title' AS title FROM t.take();
SELECT t.answer();
SELECT _delivery_wait() > 0 AS nothing_to_do_until_the_reset;
SELECT t.lane(150) AS live_and_open;
SELECT body->>'title' AS title FROM t.take();
SELECT t.answer();
SELECT pause('history');
SELECT t.lane(1000) AS history_paused;
SELECT count(*) FROM t.take();
SELECT resume('history');
SELECT _delivery_wait() AS at_once;
SELECT coalesce(body->>'title', body->>'name') AS title FROM t.take();
SELECT t.answer();
-- A search that began in the middle of the queue is made again within a tenth of a second; that is not meant here.
UPDATE queue_floors SET until = clock_timestamp();
SELECT _delivery_wait() AS nothing;

-- What a batch cannot pay goes back whole, from the end.
SELECT t.lane(12) AS live_only;
SELECT t.order(11, 0, jsonb_build_object('OrderedBy', NULL, 'OrderDate', t.day('2026-05-03'))), t.order(12, 0, jsonb_build_object('OrderedBy', NULL, 'OrderDate', t.day('2026-05-02'))), t.order(13, 0, jsonb_build_object('OrderedBy', NULL, 'OrderDate', t.day('2026-05-01')));
SELECT body->>'title' AS title FROM t.take();
SELECT id, state, attempts, class, reason FROM t.waiting;
SELECT * FROM t.day;
SELECT t.answer();
SELECT * FROM t.day;

-- Headers: what is left now, also what others spend; the reset is learned when it jumps up.
SELECT _pipedrive_headers('{"daily_limit": 60000, "daily_remaining": 59000}');
SELECT * FROM t.day;
SELECT _pipedrive_headers('{"daily_remaining": 40000}');
SELECT _pipedrive_headers('{"daily_limit": null, "daily_remaining": null, "burst_limit": null}');
SELECT limit_value, remaining FROM t.day;
UPDATE budgets SET spent_today = 19000, reset_at = clock_timestamp() + interval '3 hours' WHERE kind = 'day';
SELECT _pipedrive_headers('{"daily_remaining": 59990}');
SELECT spent_today, reset_at > clock_timestamp() + interval '23 hours' AS from_now_on FROM budgets WHERE kind = 'day';
-- Requests per two seconds.
SELECT _burst_limit() AS smallest_plan;
SELECT configure('burst_limit', '40');
SELECT _burst_limit();
SELECT _pipedrive_headers('{"burst_limit": 100}');
SELECT _burst_limit();
SELECT _pipedrive_headers('{"burst_limit": 0}');
SELECT _burst_limit() AS still;
-- An answer's headers win over our own counting.
SELECT t.order(20, 0, '{"OrderedBy": null}');
SELECT count(*) FROM t.take();
SELECT _settle((SELECT jsonb_agg(t.good(c)) FROM t.calls c)::text, '{"daily_limit": 60000, "daily_remaining": 123}');
SELECT remaining, booked FROM t.day;

-- History leaves room in the plan's deals for the orders to come.
SELECT t.lane(60000) AS plenty;
SELECT count(*) AS deals FROM links WHERE kind = 'deal' \gset
SELECT configure('deal_capacity', (:deals + 2)::text), configure('history_capacity_percent', '100');
SELECT t.order(31, 0, '{"OrderedBy": null, "InvoiceStatus": 21}'), t.order(32, 0, '{"OrderedBy": null, "InvoiceStatus": 21}'), t.order(33, 0, '{"OrderedBy": null}'), t.order(34, 0, '{"OrderedBy": null, "InvoiceStatus": 21}');
UPDATE exact_sales_orders SET changed_at = changed_at - interval '2 days' WHERE id IN (t.oid(31), t.oid(32), t.oid(34));
SELECT count(*) AS one_live_one_of_history FROM t.take();
SELECT t.answer();
SELECT lane, state, class, reason FROM t.waiting WHERE lane = 3;
-- Live orders go on.
SELECT t.order(35, 0, '{"OrderedBy": null}');
SELECT count(*) FROM t.take();
SELECT t.answer();

-- The gate: paused, a copy, not set up, blocked.
SELECT may_send FROM _delivery_gate();
SELECT pause();
SELECT * FROM _delivery_gate();
SELECT resume();
UPDATE instance SET identity = identity || '{"database": "other"}';
SELECT * FROM _delivery_gate();
SELECT confirm_instance();
UPDATE pipedrive_fields SET state = 'gone';
SELECT * FROM _delivery_gate();
ROLLBACK;
