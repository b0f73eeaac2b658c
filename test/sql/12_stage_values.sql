-- Values as Exact really sends them: padding, emoji, long texts, HTML, noise of
-- floating point.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

-- Codes are trimmed: debtor numbers come right-aligned in 18 characters.
SELECT t.stage('accounts', t.account(1, '{"Code": "               400", "Country": "NL ", "Status": "C "}'), t.account(2, '{"Code": "A-0400"}'), t.account(3, '{"Code": "   "}'), t.account(4, '{"Code": null}'));
SELECT format('[%s] [%s] [%s]', code, country, status) AS trimmed FROM exact_accounts ORDER BY id;
SELECT t.stage('items', t.item(1, '{"Code": "ART-1     ", "Unit": "stk ", "ItemGroupCode": " TAFEL "}'));
SELECT format('[%s] [%s] [%s]', code, unit, item_group_code) AS trimmed FROM exact_items;

-- Text of any kind arrives as it is: emoji, line ends, quotes, HTML, right to left.
SELECT t.stage('sales_order_headers',
    t.header(1, jsonb_build_object('Description', U&'tafel \+01F4E6 fl\00E4che', 'Remarks', E'regel 1\r\nregel 2\ttab', 'YourRef', 'O''Brien "x" \ y', 'OrderedByName', '<b>Müller</b> &amp; Zn')),
    t.header(2, jsonb_build_object('Description', repeat('x', 10000), 'Remarks', U&'\0645\0631\062D\0628\0627', 'OrderedByName', U&'Zo\0065\0308')),
    -- the scanner in C has put this where \u0000 or half a pair of surrogates stood
    t.header(3, jsonb_build_object('Description', U&'a\FFFDb')));
SELECT description = U&'tafel \+01F4E6 fl\00E4che' AS emoji, remarks = E'regel 1\r\nregel 2\ttab' AS lines, your_ref, ordered_by_name FROM exact_sales_orders WHERE id = t.oid(1);
SELECT length(description), remarks = U&'\0645\0631\062D\0628\0627' AS arabic FROM exact_sales_orders WHERE id = t.oid(2);
SELECT description = U&'a\FFFDb' AS replaced FROM exact_sales_orders WHERE id = t.oid(3);

-- What of it goes to Pipedrive fits there: 255 characters, one line.
SELECT length(title), title !~ '[\r\n\t]' AS one_line FROM wanted_deals WHERE exact_id = t.oid(2);
SELECT title FROM wanted_deals WHERE exact_id = t.oid(1);
SELECT t.stage('sales_order_headers', t.header(4, jsonb_build_object('OrderedByName', repeat(U&'\+01F4E6', 300), 'YourRef', repeat('y', 300))));
SELECT length(title), length(body->>'title'), length(body->'custom_fields'->>'deal_your_ref') FROM wanted_deals WHERE exact_id = t.oid(4);
SELECT t.stage('sales_order_lines', t.line(1, 1, jsonb_build_object('Description', E'anders\r\ndan ' || repeat('z', 300))));
SELECT length(comments), comments !~ '[\r\n]' AS one_line FROM wanted_deal_products WHERE order_id = t.oid(1);

-- Money never passes through a double: noise is rounded away, digits are kept.
SELECT t.body('sales_order_lines', '{"d":{"results":[
  {"ID":"11000000-0000-0000-0000-000000009001","OrderID":"0d000000-0000-0000-0000-000000000009","Quantity":3,"NetPrice":19.899999999999999,"AmountFC":59.699999999999996,"VATPercentage":0.20999999999999999,"Timestamp":9001},
  {"ID":"11000000-0000-0000-0000-000000009002","OrderID":"0d000000-0000-0000-0000-000000000009","Quantity":1e3,"NetPrice":1.0E-2,"AmountFC":10.0,"VATPercentage":0,"Timestamp":9002},
  {"ID":"11000000-0000-0000-0000-000000009003","OrderID":"0d000000-0000-0000-0000-000000000009","Quantity":0.333333,"NetPrice":12345678901234.56,"AmountFC":4115222177492.77,"VATPercentage":0.21,"Timestamp":9003}]}}');
SELECT trim_scale(quantity) AS quantity, trim_scale(net_price) AS net_price, trim_scale(amount_fc) AS amount_fc, trim_scale(vat_percentage) AS vat FROM exact_sales_order_lines WHERE order_id = t.oid(9) ORDER BY id;
-- The same amount written with other noise is no change.
SELECT t.stage('sales_order_lines', jsonb_build_object('ID', t.lid(8, 1), 'OrderID', t.oid(8), 'AmountFC', 59.7, 'Timestamp', 9101));
SELECT t.body('sales_order_lines', format('{"d":[{"ID":"%s","OrderID":"%s","AmountFC":59.700000000000003,"Timestamp":9102}]}', t.lid(8, 1), t.oid(8)));

-- Dates are days of the wall clock, whatever the session's zone.
SET LOCAL TimeZone = 'Pacific/Auckland';
SELECT t.stage('sales_order_headers', t.header(5, '{"OrderDate": "/Date(1772668800000)/", "DeliveryDate": "\/Date(1772668800000+0100)\/", "Created": "/Date(1792895400000)/", "Modified": null}'));
SELECT order_date, delivery_date, created, modified FROM exact_sales_orders WHERE id = t.oid(5);
SET LOCAL TimeZone = 'UTC';

-- Missing keys and nulls are the same; unknown keys are ignored.
SELECT t.body('accounts', format('{"d":[{"ID":"%s","Timestamp":1,"Extra":{"a":[1]}}]}', t.aid(9)));
SELECT name, code, is_sales FROM exact_accounts WHERE id = t.aid(9);
-- Flags come as booleans or as 0 and 1.
SELECT t.stage('items', t.item(7, '{"IsSalesItem": 1}'), t.item(8, '{"IsSalesItem": 0}'), t.item(9, '{"IsSalesItem": "true"}'));
SELECT code, is_sales_item FROM exact_items WHERE code IN ('ART-7', 'ART-8', 'ART-9') ORDER BY code;
ROLLBACK;
