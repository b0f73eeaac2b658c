-- Adoption: what an earlier integration or a person made is taken over, by our
-- Exact-ID, else by the number in a field that the operator names.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

SELECT t.catalogue(5);
SELECT t.stage('accounts', t.account(3, '{"Code": "               400"}'), t.account(4, '{"Code": "DUBBEL"}'), t.account(5, '{"Code": "dubbel"}'), t.account(6, '{"Code": null}'));
SELECT t.order(1, 2), t.order(2, 2);
CREATE VIEW t.adopted AS SELECT kind, right(exact_id::text, 2) AS id, pipedrive_id, adopted, lines_unread FROM links ORDER BY kind, pipedrive_id;

-- By our Exact-ID.
SELECT _adopt('organization', jsonb_build_array(
    jsonb_build_object('id', 11, 'name', 'Klant 1', 'address', jsonb_build_object('value', 'Dorpsstraat 1, 1234 AB Utrecht, NL', 'locality', 'Utrecht'), 'custom_fields', jsonb_build_object('organization_exact_id', t.aid(1), 'organization_debtor_number', '1', 'other', 'x')),
    -- by debtor number, padded, with zeros in front
    jsonb_build_object('id', 12, 'name', 'Iemand', 'custom_fields', jsonb_build_object('organization_debtor_number', ' 00400 ')),
    -- nobody's
    jsonb_build_object('id', 13, 'name', 'Vreemd', 'custom_fields', jsonb_build_object('organization_debtor_number', '999')), jsonb_build_object('id', 14, 'name', 'Leeg'),
    -- an Exact-ID that is none, one of another world, and a deleted record
    jsonb_build_object('id', 15, 'custom_fields', jsonb_build_object('organization_exact_id', 'rubbish')), jsonb_build_object('id', 16, 'custom_fields', jsonb_build_object('organization_exact_id', t.aid(99), 'organization_debtor_number', '2')),
    jsonb_build_object('id', 17, 'is_deleted', true, 'custom_fields', jsonb_build_object('organization_exact_id', t.aid(2)))));
SELECT * FROM t.adopted;
-- What stands there is what was sent: only the difference goes out.
SELECT operation, path, body, tokens FROM _calls_objects('organization', ARRAY[100, 100], ARRAY[t.aid(1), t.aid(3)]) ORDER BY path;
-- Seen again, nothing happens; it is told once.
SELECT _adopt('organization', jsonb_build_array(jsonb_build_object('id', 11, 'name', 'Klant 1', 'custom_fields', jsonb_build_object('organization_exact_id', t.aid(1)))));
SELECT operation, count(*) FROM sync_changes GROUP BY operation;

-- A number used twice, here and there: the first gets the first, the second the second.
SELECT _adopt('organization', jsonb_build_array(jsonb_build_object('id', 21, 'custom_fields', jsonb_build_object('organization_debtor_number', 'Dubbel')), jsonb_build_object('id', 22, 'custom_fields', jsonb_build_object('organization_debtor_number', 'DUBBEL'))));
SELECT count(*) AS links, count(DISTINCT pipedrive_id) AS records, count(DISTINCT exact_id) AS accounts FROM links WHERE pipedrive_id IN (21, 22);
SELECT * FROM t.adopted WHERE pipedrive_id IN (21, 22);
-- Only here: one gets it, the other is new. Written the same wins over made comparable.
SELECT t.stage('items', t.item(11, '{"Code": "7"}'), t.item(12, '{"Code": "007"}'), t.item(13, '{"Code": "EEN"}'), t.item(14, '{"Code": "EEN"}'));
SELECT _adopt('product', '[{"id": 71, "name": "a", "code": "007"}, {"id": 72, "name": "b", "code": "7"}, {"id": 73, "name": "c", "code": "een"}]');
SELECT * FROM t.adopted WHERE pipedrive_id IN (71, 72, 73);
DELETE FROM links WHERE kind = 'product';
-- Something that only looks like a GUID is none.
SELECT _adopt('product', jsonb_build_array(jsonb_build_object('id', 81, 'custom_fields', jsonb_build_object('product_exact_id', repeat('-', 36))), jsonb_build_object('id', 82, 'custom_fields', jsonb_build_object('product_exact_id', repeat('a', 36)))));

-- Our Exact-ID wins over a number, whatever comes first.
SELECT _adopt('product', jsonb_build_array(jsonb_build_object('id', 31, 'name', 'Oud', 'code', 'ART-1'), jsonb_build_object('id', 32, 'name', 'Artikel 1', 'code', 'ART-1', 'custom_fields', jsonb_build_object('product_exact_id', t.iid(1)))));
SELECT * FROM t.adopted WHERE kind = 'product';

-- Products by code; with unit and prices as they stand.
SELECT _adopt('product', jsonb_build_array(jsonb_build_object('id', 33, 'name', 'Artikel 2', 'code', 'art-2', 'unit', 'stk', 'prices', jsonb_build_array(jsonb_build_object('id', 1, 'product_id', 33, 'currency', 'EUR', 'price', 5, 'cost', 0)), 'custom_fields', '{}'::jsonb)));
SELECT sent FROM links WHERE pipedrive_id = 33;

-- In a field that the operator names: another custom field, or the title.
SELECT name_adoption_field('product', 'Artikelnummer');
UPDATE adoption_fields SET field_code = 'abc';
SELECT _adopt('product', jsonb_build_array(jsonb_build_object('id', 34, 'name', 'X', 'code', 'other', 'custom_fields', jsonb_build_object('abc', 'ART-3'))));
SELECT * FROM t.adopted WHERE pipedrive_id = 34;
SELECT name_adoption_field('deal', 'title');
UPDATE adoption_fields SET field_code = 'title' WHERE kind = 'deal';
SELECT _adopt('deal', jsonb_build_array(jsonb_build_object('id', 41, 'title', '1001', 'status', 'won', 'won_time', '2026-03-09T11:00:00Z', 'value', 200, 'currency', 'EUR', 'org_id', 11, 'owner_id', 3, 'pipeline_id', 5, 'stage_id', 13)));
SELECT * FROM t.adopted WHERE kind = 'deal';
SELECT first_won_at, sent FROM links WHERE pipedrive_id = 41;
-- A deal that is not ours by any of these stays alone.
SELECT _adopt('deal', jsonb_build_array(jsonb_build_object('id', 42, 'title', 'Offerte 1002'), jsonb_build_object('id', 43, 'title', NULL)));

-- With two divisions a number alone says too little; our Exact-ID is enough.
INSERT INTO divisions (division) VALUES (200);
SELECT _adopt('organization', jsonb_build_array(jsonb_build_object('id', 51, 'custom_fields', jsonb_build_object('organization_debtor_number', '2')), jsonb_build_object('id', 52, 'custom_fields', jsonb_build_object('organization_exact_id', t.aid(2)))));
SELECT * FROM t.adopted WHERE pipedrive_id IN (51, 52);
DELETE FROM divisions WHERE division = 200;

-- Who waited for an adopted record goes on.
DELETE FROM jobs;
SELECT t.order(3, 1, jsonb_build_object('OrderedBy', t.aid(77)));
SELECT count(*) > 0 AS tried FROM t.take();
SELECT state FROM jobs WHERE kind = 'deal' AND exact_id = t.oid(3);
SELECT t.stage('accounts', t.account(77));
SELECT _adopt('organization', jsonb_build_array(jsonb_build_object('id', 61, 'custom_fields', jsonb_build_object('organization_exact_id', t.aid(77)))));
SELECT state FROM jobs WHERE kind = 'deal' AND exact_id = t.oid(3);
SELECT count(*) FROM job_needs WHERE kind = 'organization';

-- Lines read back are paired: known ones by id, then the same at the same price, then the same product, then in order; what is left goes.
DELETE FROM jobs; DELETE FROM intents; DELETE FROM looks WHERE done_at IS NULL; DELETE FROM job_signals; DELETE FROM links WHERE kind IN ('deal', 'product'); DELETE FROM line_links;
INSERT INTO links (kind, division, exact_id, pipedrive_id, sent) SELECT 'product', 100, t.iid(n), 100 + n, '{}' FROM generate_series(1, 5) n;
SELECT t.order(9, 5);
INSERT INTO links (kind, division, exact_id, pipedrive_id, sent, adopted, lines_unread) VALUES ('deal', 100, t.oid(9), 900, '{}', true, true);
INSERT INTO line_links VALUES (100, t.oid(9), t.lid(9, 5), 9105, 105, 1, 100);
INSERT INTO looks (what, reason, deal_ids) VALUES ('lines', 'readback', ARRAY[900]);
SELECT _look_take((SELECT look_id FROM _look_next()), 200, '{"data": [
    {"id": 9105, "deal_id": 900, "product_id": 999, "quantity": 7, "item_price": 3, "discount": 0},
    {"id": 9103, "deal_id": 900, "product_id": 103, "quantity": 1, "item_price": 100, "discount": 0, "comments": ""},
    {"id": 9102, "deal_id": 900, "product_id": 102, "quantity": 5, "item_price": 80, "discount": 10, "discount_type": "percentage", "comments": "oud"},
    {"id": 9199, "deal_id": 900, "product_id": 888, "quantity": 1, "item_price": 1, "discount": 2, "discount_type": "amount"},
    {"id": 9101, "deal_id": 900, "product_id": 101, "quantity": 1, "item_price": 100, "discount": 0},
    {"id": 9201, "deal_id": 900, "product_id": 101, "quantity": 1, "item_price": 100, "discount": 0}], "additional_data": {"next_cursor": null}}');
SELECT CASE WHEN line_id = t.lid(9, right(line_id::text, 2)::integer) THEN right(line_id::text, 2) ELSE 'none of ours' END AS line, pipedrive_id, product_id, trim_scale(quantity) AS quantity, trim_scale(discount) AS discount, comments
  FROM line_links WHERE order_id = t.oid(9) ORDER BY pipedrive_id;
SELECT operation, split_part(path, '?', 1) AS path, body FROM _calls_deals(ARRAY[100], ARRAY[t.oid(9)], true) WHERE operation <> 'update' ORDER BY step;
SELECT count(*) FROM remote_lines;
ROLLBACK;
