-- plan(): what would be sent now; inside a transaction, what a rule would change.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

CREATE VIEW t.plan AS SELECT kind, object, operation, call, old_value AS old, CASE WHEN operation LIKE 'line%' THEN NULL ELSE new_value - 'won_time' - 'lost_time' END AS new, tokens FROM plan();
SELECT t.catalogue(3);
SELECT t.order(1, 2), t.order(2, 1, '{"DeliveryStatus": 21}'), t.order(3, 1, '{"DeliveryStatus": 21}');
-- Before anything is queued: what the signals of this very transaction lead to.
SELECT kind, count(*), sum(tokens) AS tokens FROM t.plan GROUP BY kind ORDER BY kind;
SELECT kind, object, operation, call, tokens FROM t.plan WHERE kind <> 'deal' ORDER BY kind, object;
-- It sends nothing and queues nothing.
SELECT count(*) FROM jobs;
-- What it says is what is sent.
SELECT sum(tokens) AS planned FROM plan();
SELECT t.send() AS sent;
SELECT count(*) FROM plan();

-- A changed rule, looked at and taken back.
SAVEPOINT look;
UPDATE status_rules SET stage = 'Wacht op backorder' WHERE priority = 120;
SELECT object, operation, call, old, new, tokens FROM t.plan ORDER BY object;
ROLLBACK TO look;
SELECT count(*) FROM plan();

-- A mapping, a default owner, a deleted rule.
SAVEPOINT look;
SELECT map_salesperson(t.sid(1), 3);
SELECT object, old, new FROM t.plan ORDER BY object;
ROLLBACK TO look;
SAVEPOINT look;
DELETE FROM status_rules WHERE priority = 120;
SELECT object, old, new FROM t.plan ORDER BY object;
ROLLBACK TO look;
SAVEPOINT look;
SELECT configure('pipeline', 'Orders');
SELECT count(*) FROM plan();
ROLLBACK TO look;

-- Committed, it is what the worker sends: the deals concerned and no others.
UPDATE status_rules SET stage = 'Wacht op backorder' WHERE priority = 120;
SELECT call, body FROM t.take();
SELECT t.answer();
SELECT count(*) FROM plan();

-- A deal that only needs a customer: the customer is shown, too.
SELECT t.order(4, 1, jsonb_build_object('OrderedBy', t.aid(2), 'OrderedByName', 'Klant 2'));
SELECT kind, object, operation FROM t.plan ORDER BY kind DESC, operation;
-- Dead letters are not shown; they wait for a person.
SELECT t.fold();
UPDATE jobs SET state = 'dead';
SELECT count(*) FROM plan();
ROLLBACK;
