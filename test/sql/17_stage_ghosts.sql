-- What orders name and Exact does not show: read singly by key, then taken from
-- the order itself, so that no order waits for ever.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

-- Customers and items that are not staged are noted once.
SELECT t.stage('sales_order_headers', t.header(1, jsonb_build_object('OrderedBy', t.aid(1), 'OrderedByName', 'Klant 1')), t.header(2, jsonb_build_object('OrderedBy', t.aid(1))), t.header(3, '{"OrderedBy": null}'));
SELECT t.stage('sales_order_lines', t.line(1, 1), t.line(1, 2), t.line(2, 1));
SELECT right(account::text, 2) AS account FROM unresolved_accounts;
SELECT right(item::text, 2) AS item FROM unresolved_items ORDER BY 1;

-- They are asked for by key.
SELECT t.run() > 0 AS run;
SELECT regexp_replace(_feed_next(100, 'missing_accounts', (SELECT id FROM t.run)), '&\$select=.*', '') AS url;
SELECT rows, done FROM _stage_page(100, 'missing_accounts', (SELECT id FROM t.run), t.page(ARRAY[t.account(1) - 'Timestamp']));
SELECT name, ghost FROM exact_accounts;
SELECT _feed_next(100, 'missing_accounts', (SELECT id FROM t.run)) AS all_done;
SELECT count(*) FROM unresolved_accounts;

-- What the answer leaves out is gone, or hidden: a ghost with what the order knows of it.
SELECT t.body('missing_items', t.page(ARRAY[t.item(2) - 'Timestamp']));
SELECT code, description, ghost, is_sales_item FROM exact_items ORDER BY code;
SELECT count(*) FROM unresolved_items;
-- It is a product like any other.
SELECT name, body FROM wanted_products WHERE code = 'ART-1';

-- A ghost that shows up after all is no ghost any more.
SELECT t.stage('items', t.item(1, '{"Description": "Toch gevonden"}'));
SELECT description, ghost FROM exact_items WHERE code = 'ART-1';

-- A customer nobody knows the name of; the newest order knows best.
SELECT t.stage('sales_order_headers', t.header(4, jsonb_build_object('OrderedBy', t.aid(4), 'OrderedByName', null)),
    t.header(5, jsonb_build_object('OrderedBy', t.aid(5), 'OrderedByName', 'Oude naam')), t.header(6, jsonb_build_object('OrderedBy', t.aid(5), 'OrderedByName', 'Nieuwe naam', 'OrderDate', t.day('2026-04-01'))));
SELECT t.body('missing_accounts', '{"d":{"results":[]}}');
SELECT name, ghost FROM exact_accounts WHERE ghost ORDER BY name;

-- More keys than fit into one address: what was not asked for is not gone.
SELECT t.stage('sales_order_headers', VARIADIC (SELECT array_agg(t.header(n, jsonb_build_object('OrderedBy', t.aid(n))) ORDER BY n) FROM generate_series(101, 200) n));
SELECT t.run() > 0 AS run;
SELECT (length(u) - length(replace(u, 'ID%20eq', ''))) / length('ID%20eq') AS asked, length(u) < 6000 AS fits FROM _feed_next(100, 'missing_accounts', (SELECT id FROM t.run)) u;
SELECT rows, done FROM _stage_page(100, 'missing_accounts', (SELECT id FROM t.run), t.page((SELECT array_agg(t.account(n) - 'Timestamp' ORDER BY n) FROM generate_series(101, 139) n)));
SELECT count(*) FILTER (WHERE ghost) AS ghosts, count(*) FILTER (WHERE NOT ghost) AS known FROM exact_accounts WHERE id BETWEEN t.aid(101) AND t.aid(200);
SELECT count(*) AS still_missing FROM unresolved_accounts;
SELECT (length(u) - length(replace(u, 'ID%20eq', ''))) / length('ID%20eq') AS asked FROM _feed_next(100, 'missing_accounts', (SELECT id FROM t.run)) u;
SELECT rows, done FROM _stage_page(100, 'missing_accounts', (SELECT id FROM t.run), t.page((SELECT array_agg(t.account(n) - 'Timestamp' ORDER BY n) FROM generate_series(141, 180) n)));
SELECT (length(u) - length(replace(u, 'ID%20eq', ''))) / length('ID%20eq') AS asked FROM _feed_next(100, 'missing_accounts', (SELECT id FROM t.run)) u;
SELECT rows, done FROM _stage_page(100, 'missing_accounts', (SELECT id FROM t.run), '{"d":[]}');
SELECT _feed_next(100, 'missing_accounts', (SELECT id FROM t.run)) AS all_done;
SELECT count(*) FILTER (WHERE ghost) AS ghosts, count(*) FILTER (WHERE NOT ghost) AS known FROM exact_accounts WHERE id BETWEEN t.aid(101) AND t.aid(200);

-- Text lines have no item; one product stands for all of them.
SELECT t.stage('sales_order_lines', t.line(1, 3, '{"Item": null, "ItemCode": null, "ItemDescription": null, "Description": "Let op: breekbaar", "Quantity": 0, "AmountFC": 0, "NetPrice": 0}'));
SELECT code, description, ghost FROM exact_items WHERE id = '00000000-0000-0000-0000-000000000000';
SELECT trim_scale(quantity) AS quantity, trim_scale(item_price) AS item_price, comments FROM wanted_deal_products WHERE line_id = t.lid(1, 3);

-- One code on two items: both are products.
SELECT t.stage('items', t.item(11, '{"Code": "DUBBEL"}'), t.item(12, '{"Code": "DUBBEL"}'));
SELECT right(exact_id::text, 2) AS id, code FROM wanted_products WHERE code = 'DUBBEL' ORDER BY 1;

-- Lines before their header: nothing is wanted yet, nothing is lost.
SELECT t.stage('sales_order_lines', t.line(50, 1));
SELECT count(*) FROM wanted_deal_products WHERE order_id = t.oid(50);
SELECT t.fold();
SELECT count(*) FROM jobs WHERE exact_id = t.oid(50);
SELECT t.stage('sales_order_headers', t.header(50));
SELECT count(*) FROM wanted_deal_products WHERE order_id = t.oid(50);
SELECT t.fold();
SELECT count(*) FROM jobs WHERE exact_id = t.oid(50);
ROLLBACK;
