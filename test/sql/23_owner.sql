-- Who owns a deal: the salesperson, else the account manager if asked for, else
-- the default owner; a user made inactive never re-owns what exists.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

CREATE VIEW t.owner AS SELECT w.order_number - 1000 AS n, w.owner_id, w.owner_source AS source, w.owner_kept AS kept FROM wanted_deals w ORDER BY 1;
INSERT INTO owner_map (exact_id, name, pipedrive_user_id) VALUES (t.sid(2), 'Oud', 4), (t.sid(3), 'Piet', 3);
INSERT INTO owner_map (exact_id, name, matched_by) VALUES (t.sid(4), 'Niemand', 'feed');
SELECT t.catalogue(1);
SELECT t.stage('accounts', t.account(2, jsonb_build_object('AccountManager', t.sid(3))), t.account(3, jsonb_build_object('AccountManager', t.sid(2))));
-- 1 mapped; 2 mapped to somebody inactive; 3 known, not mapped; 4 never heard of; 5 none; 6 none, with an account manager; 7 with an inactive one
SELECT t.order(1, 1), t.order(2, 1, jsonb_build_object('Salesperson', t.sid(2))), t.order(3, 1, jsonb_build_object('Salesperson', t.sid(4), 'SalespersonFullName', 'Niemand')), t.order(4, 1, jsonb_build_object('Salesperson', t.sid(9), 'SalespersonFullName', 'Nieuw')),
       t.order(5, 1, '{"Salesperson": null}'), t.order(6, 1, jsonb_build_object('Salesperson', null, 'OrderedBy', t.aid(2))), t.order(7, 1, jsonb_build_object('Salesperson', null, 'OrderedBy', t.aid(3)));
SELECT * FROM t.owner;
SELECT configure('account_manager_owns', 'on');
SELECT * FROM t.owner WHERE n > 4;
SELECT configure('account_manager_owns', NULL);

-- Those who need a person to map them.
SELECT name, orders, reason, then_do FROM unmapped_salespeople ORDER BY name;

-- Mapped by hand: the deals follow, those of nobody else.
SELECT t.send() IS NOT NULL AS sent;
SELECT map_salesperson(t.sid(9), 3);
SELECT call, body FROM t.take();
SELECT t.answer();

-- A user becomes inactive: what exists stays, what is new goes to the default owner.
UPDATE pipedrive_users SET active = false WHERE user_id = 2;
INSERT INTO job_signals (kind, reason) VALUES ('all_deals', 'test');
SELECT call, body FROM t.take();
SELECT t.order(8, 1);
SELECT body->'owner_id' AS owner FROM t.take() WHERE call LIKE 'POST%deals';
SELECT t.answer();
-- Mapped to somebody else afterwards, what exists follows that.
SELECT map_salesperson(t.sid(1), 3);
SELECT call, body FROM t.take() ORDER BY 1;
SELECT t.answer();

-- No default owner at all: a new deal belongs to the token's user; what exists keeps whom it has.
SELECT configure('default_owner_id', NULL);
SELECT * FROM t.owner WHERE n IN (3, 5);
SELECT call, body FROM t.take();
SELECT t.order(9, 1, '{"Salesperson": null}');
SELECT body ? 'owner_id' AS with_owner FROM t.take() WHERE call LIKE 'POST%deals';

-- Matching by e-mail, else by a name that only one user has; never against a hand.
DELETE FROM owner_map;
INSERT INTO pipedrive_users (user_id, name, email, active) VALUES (5, 'Dubbel', 'd1@example.com', true), (6, 'Dubbel', 'd2@example.com', true), (7, 'Anja', 'anja@example.com', true);
INSERT INTO owner_map (exact_id, name, email, matched_by) VALUES (t.sid(1), 'Iemand', 'SANNE@example.com', 'feed'), (t.sid(2), ' piet ', NULL, 'feed'), (t.sid(3), 'Dubbel', NULL, 'feed'), (t.sid(4), 'Anja', NULL, 'hand'), (t.sid(5), 'Anja', 'piet@example.com', 'feed');
SELECT _match_salespeople();
SELECT name, email, pipedrive_user_id, matched_by FROM owner_map ORDER BY exact_id;
SELECT _match_salespeople() AS again;

-- Employees bring e-mail addresses to salespeople, under either of their GUIDs.
SELECT t.stage('employees', jsonb_build_object('ID', t.sid(21), 'User', t.sid(22), 'FullName', 'Anja B', 'BusinessEmail', 'anja@example.com', 'IsActive', true, 'Timestamp', 5));
SELECT right(exact_id::text, 2) AS id, name, email, pipedrive_user_id, matched_by FROM owner_map WHERE exact_id IN (t.sid(21), t.sid(22)) ORDER BY 1;
ROLLBACK;
