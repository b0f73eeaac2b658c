-- What organizations and products should be.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

SELECT t.stage('accounts', t.account(1, '{"Name": "Bakkerij Smit", "Code": "               400", "AddressLine2": "Gebouw B"}'), t.account(2, '{"Name": null, "Code": "000777", "AddressLine1": null, "Postcode": null, "City": null, "Country": null}'), t.account(3, '{"Name": null, "Code": null}'));
SELECT name, debtor_number, body FROM wanted_organizations ORDER BY exact_id;

-- With one division no field says which; with two it does: debtor 400 of two divisions is two firms.
INSERT INTO pipedrive_fields (entity, purpose, name, field_type, code, state) SELECT e, 'administration', 'Administratie', 'varchar', e || '_administration', 'made' FROM unnest(ARRAY['deal', 'organization', 'product']) e;
SELECT body->'custom_fields' AS fields FROM wanted_organizations WHERE exact_id = t.aid(1);
INSERT INTO divisions (division, name) VALUES (200, 'Tweede');
INSERT INTO exact_accounts (division, id, code, name) VALUES (200, t.aid(9), '400', 'Ander bedrijf');
SELECT division, body->'custom_fields' AS fields FROM wanted_organizations WHERE debtor_number = '400' ORDER BY division;
DELETE FROM divisions WHERE division = 200;

-- A field that a person deleted or retyped is left out of what is sent.
UPDATE pipedrive_fields SET state = 'retyped' WHERE entity = 'organization' AND purpose = 'debtor_number';
SELECT body->'custom_fields' AS fields FROM wanted_organizations WHERE exact_id = t.aid(1);
UPDATE pipedrive_fields SET state = 'gone' WHERE entity = 'organization';
SELECT body FROM wanted_organizations WHERE exact_id = t.aid(3);

-- Products: group, unit, price.
SELECT t.stage('item_groups', jsonb_build_object('ID', t.gid(1), 'Code', 'T', 'Description', 'Tafel'));
INSERT INTO pipedrive_options (label, option_id) VALUES ('Tafel', 31);
SELECT t.stage('items', t.item(1), t.item(2, '{"ItemGroup": null, "Unit": null, "Description": null}'), t.item(3, '{"Code": null, "Description": null}'));
SELECT name, item_group, body FROM wanted_products ORDER BY exact_id;

-- The price for everybody, in the division's currency, in the item's unit, today, for the smallest quantity.
CREATE FUNCTION t.price(n integer, p jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT t.row(jsonb_build_object('ID', t.id('c0', n), 'Item', t.iid(1), 'Currency', 'EUR', 'Quantity', 1, 'Unit', 'stk', 'NumberOfItemsPerUnit', 1), p) $$;
SELECT t.stage('item_prices',
    t.price(1, jsonb_build_object('Price', 9.99, 'Account', t.aid(1))), t.price(2, '{"Price": 8.88, "Currency": "USD"}'), t.price(3, '{"Price": 7.77, "Quantity": 100}'), t.price(4, '{"Price": 6.66, "Unit": "doos"}'),
    t.price(5, jsonb_build_object('Price', 5.55, 'EndDate', t.day(today(100) - 1))), t.price(6, jsonb_build_object('Price', 4.44, 'StartDate', t.day(today(100) + 1))),
    t.price(7, jsonb_build_object('Price', 19.95, 'StartDate', t.day(today(100) - 30))), t.price(8, jsonb_build_object('Price', 18.95, 'StartDate', t.day(today(100) - 90))));
SELECT price, body->'prices' AS prices FROM wanted_products WHERE code = 'ART-1';
UPDATE exact_item_prices SET deleted_at = clock_timestamp() WHERE id = t.id('c0', 7);
SELECT price FROM wanted_products WHERE code = 'ART-1';

-- Which items are sold at all.
SELECT t.stage('items', t.item(4, '{"IsSalesItem": false}'), t.item(5, jsonb_build_object('EndDate', t.day(today(100) - 1))), t.item(6, jsonb_build_object('EndDate', t.day(today(100)))), t.item(7, '{"IsSalesItem": null}'));
SELECT code, for_sale FROM wanted_products WHERE code IN ('ART-4', 'ART-5', 'ART-6', 'ART-7') ORDER BY code;

-- They become products by themselves; the others with the first order that names them.
DELETE FROM job_signals;
SELECT t.stage('items', t.item(14, '{"IsSalesItem": false}'), t.item(15));
SELECT t.fold();
SELECT kind, id, lane FROM t.waiting;
SELECT configure('products', 'ordered');
SELECT t.stage('items', t.item(16));
SELECT t.fold();
SELECT count(*) FROM jobs WHERE exact_id = t.iid(16);
SELECT t.stage('sales_order_headers', t.header(1, '{"OrderedBy": null}'));
SELECT t.stage('sales_order_lines', t.line(1, 14), t.line(1, 16));
SELECT t.fold();
SELECT kind, id, lane FROM t.waiting ORDER BY 1, 2;
-- Chosen otherwise again, the whole catalogue follows.
SELECT configure('products', 'all');
SELECT t.fold();
SELECT count(*) FROM jobs WHERE exact_id IN (t.iid(1), t.iid(6), t.iid(7));

-- Whatever is too long is cut.
SELECT t.stage('items', t.item(20, jsonb_build_object('Description', repeat('d', 300), 'Code', repeat('c', 300))));
SELECT length(body->>'name') AS name, length(body->>'code') AS code FROM wanted_products WHERE exact_id = t.iid(20);
ROLLBACK;
