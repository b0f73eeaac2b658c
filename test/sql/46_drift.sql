-- Drift: what the lists of Pipedrive show, what is made of it, and whose word
-- counts for a field. The whole way over HTTP is in test/t/300 to 302.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

-- What stands at Pipedrive: at first what was sent.
CREATE TABLE t.records (kind text, id bigint, state text DEFAULT 'live', row jsonb, PRIMARY KEY (kind, id));
CREATE FUNCTION t.sent_is_there() RETURNS void LANGUAGE sql VOLATILE
    AS $$
    DELETE FROM t.records;
    INSERT INTO t.records (kind, id, row)
    SELECT l.kind, l.pipedrive_id, l.sent || jsonb_build_object('id', l.pipedrive_id, 'is_deleted', false)
           || CASE l.kind WHEN 'deal' THEN (SELECT jsonb_build_object('is_archived', false, 'products_count', count(*), 'value', coalesce(sum(k.quantity * k.item_price), (l.sent->>'value')::numeric, 0))
                                              FROM line_links k WHERE k.division = l.division AND k.order_id = l.exact_id) ELSE '{}' END
      FROM links l WHERE NOT l.follower AND l.gone_at IS NULL AND l.kind <> 'groups' $$;
-- The answer to a path.
CREATE FUNCTION t.answer_of(p_path text) RETURNS text LANGUAGE sql VOLATILE
    AS $$
    SELECT jsonb_build_object('success', true, 'data', CASE WHEN p_path ~ '/\d+(\?|$)' THEN
               (SELECT r.row || CASE r.state WHEN 'deleted' THEN '{"is_deleted": true}'::jsonb ELSE '{}' END FROM t.records r
                 WHERE r.kind = substring(p_path FROM '/v2/([a-z]+)s/') AND r.id = substring(p_path FROM '/(\d+)')::bigint)
           ELSE (SELECT coalesce(jsonb_agg(r.row || CASE r.state WHEN 'archived' THEN '{"is_archived": true}'::jsonb ELSE '{}' END ORDER BY r.id), '[]') FROM t.records r
                  WHERE r.kind = substring(p_path FROM '/v2/([a-z]+)s[/?]') AND r.state = CASE WHEN p_path ~ 'archived' THEN 'archived' ELSE 'live' END) END)::text $$;
-- One run, as C makes it; which calls it made, and what it says.
CREATE FUNCTION t.reconcile() RETURNS text LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_run    bigint := _reconcile_begin();
    v        record;
    v_calls  text[];
    v_body   text;
    v_text   text;
BEGIN
    LOOP
        SELECT * INTO v FROM _reconcile_next(v_run);
        EXIT WHEN NOT FOUND;
        v_calls := v_calls || v.step;
        v_body := t.answer_of(regexp_replace(v.path, '/api', ''));
        PERFORM _reconcile_take(v_run, v.step, CASE WHEN v_body::jsonb->'data' = 'null' THEN 404 ELSE 200 END, v_body);
    END LOOP;
    v_text := _reconcile_end(v_run);
    PERFORM _run_end(v_run, NULL);
    RETURN array_to_string(v_calls, ', ') || E'\n' || v_text;
END
$$;
-- Lines are read back as they are known here.
CREATE FUNCTION t.read_lines() RETURNS void LANGUAGE sql VOLATILE
    AS $$
    SELECT _look_take(q.id, 200, jsonb_build_object('data', (
               SELECT coalesce(jsonb_agg(jsonb_build_object('id', k.pipedrive_id, 'deal_id', l.pipedrive_id, 'product_id', k.product_id, 'quantity', k.quantity, 'item_price', k.item_price, 'discount', 0, 'sum', k.quantity * k.item_price)), '[]')
                 FROM links l JOIN line_links k ON k.division = l.division AND k.order_id = l.exact_id WHERE l.kind = 'deal' AND l.pipedrive_id = ANY (q.deal_ids)))::text)
      FROM looks q WHERE q.done_at IS NULL AND q.what = 'lines' $$;
CREATE VIEW t.drift AS SELECT concat_ws(' ', kind, number, what, nullif(field, ''), ours #>> '{}', '->', theirs #>> '{}', policy, action) AS drift FROM drift ORDER BY kind, number, what, field;
SELECT t.catalogue(2), t.order(1, 1), t.order(2, 2), t.order(3, 1, jsonb_build_object('OrderedBy', t.aid(2)));
SELECT t.send();
SELECT t.sent_is_there();
SELECT t.reconcile();
SELECT * FROM t.drift;
SELECT (SELECT count(*) FROM remote_records) AS records, (SELECT count(*) FROM reconcile_steps) AS steps, (SELECT count(*) FROM job_signals) AS signals;

-- An edit of each kind: only what was edited goes out, by the usual way.
UPDATE t.records SET row = row || '{"title": "van mij", "owner_id": 3}' WHERE kind = 'deal' AND row->>'title' ~ '1001';
UPDATE t.records SET row = jsonb_set(row, '{custom_fields,organization_debtor_number}', '"77"') WHERE kind = 'organization' AND row->>'name' = 'Klant 1';
UPDATE t.records SET row = jsonb_set(row, '{prices}', '[]') - 'unit' WHERE kind = 'product' AND row->>'code' = 'ART-1';
SELECT t.reconcile();
SELECT * FROM t.drift;
SELECT call, body, tokens FROM t.take();
SELECT t.answer();

-- What was sent since the list was asked for is not touched by what the list said.
SELECT t.sent_is_there();
UPDATE t.records SET row = row || '{"title": "van toen"}' WHERE kind = 'deal' AND row->>'title' ~ '1002';
SELECT t.reconcile();
SELECT count(*) AS told FROM job_signals;
UPDATE links SET last_sent = clock_timestamp() WHERE kind = 'deal';
SELECT t.send();
SELECT sent->>'title' AS title FROM links WHERE kind = 'deal' AND exact_id = t.oid(2);
-- Neither is one judged that is under way.
INSERT INTO jobs (kind, division, exact_id, lane, priority, state, next_attempt_at) VALUES ('deal', 100, t.oid(2), 1, 0, 'waiting', clock_timestamp() + interval '1 hour');
SELECT t.reconcile();
SELECT * FROM t.drift;
SELECT count(*) AS told FROM job_signals;
DELETE FROM jobs;

-- Deleted: in no list, and asked for singly. A dead letter, never made again by itself.
SELECT t.sent_is_there();
UPDATE t.records SET state = 'deleted' WHERE kind = 'deal' AND row->>'title' ~ '1003';
SELECT t.reconcile();
SELECT * FROM t.drift;
SELECT t.send();
SELECT kind, id, state, class, reason FROM t.waiting;
SELECT t.stage('sales_order_headers', t.header(3, jsonb_build_object('OrderedBy', t.aid(2), 'YourRef', 'nieuw')));
SELECT t.send();
SELECT resync('deal', t.oid(3)), resync('deal');
SELECT t.send();
SELECT state FROM t.waiting;
-- Back from the bin: as it was, and followed again.
UPDATE t.records SET state = 'live' WHERE state = 'deleted';
SELECT t.reconcile();
SELECT count(*) FROM t.take();
SELECT t.read_lines();
SELECT call, tokens FROM t.take();
SELECT t.answer();
SELECT count(*) AS jobs FROM jobs;

-- An organization in the bin: a new order waits for it, and goes on when it is back.
SAVEPOINT bin;
UPDATE t.records SET state = 'deleted' WHERE kind = 'organization' AND row->>'name' = 'Klant 2';
SELECT t.reconcile();
SELECT t.order(4, 1, jsonb_build_object('OrderedBy', t.aid(2)));
SELECT t.send();
SELECT kind, state, reason FROM t.waiting;
SAVEPOINT missed;
UPDATE t.records SET state = 'live' WHERE state = 'deleted';
SELECT t.reconcile();
SELECT call FROM t.take();
SELECT t.answer();
SELECT t.send() IS NOT NULL AS sent;
SELECT (SELECT count(*) FROM jobs) AS jobs, (SELECT count(*) FROM job_needs) AS needs, (SELECT count(*) FROM links WHERE kind = 'deal' AND exact_id = t.oid(4)) AS deals;
-- Found by a list instead: adopted again, with the same end.
ROLLBACK TO missed;
SELECT _adopt('organization', (SELECT jsonb_agg(row) FROM t.records WHERE kind = 'organization' AND row->>'name' = 'Klant 2'));
SELECT kind, state, reason FROM t.waiting;
SELECT call FROM t.take();
SELECT t.answer();
SELECT kind, state, reason FROM t.waiting;
SELECT t.send() IS NOT NULL AS sent;
SELECT (SELECT count(*) FROM jobs) AS jobs, (SELECT count(*) FROM links WHERE kind = 'deal' AND exact_id = t.oid(4)) AS deals;
-- Merged into another one: the order goes to that.
ROLLBACK TO missed;
DELETE FROM t.records WHERE kind = 'organization' AND row->>'name' = 'Klant 2';
UPDATE t.records SET row = jsonb_set(row, '{org_id}', (SELECT to_jsonb(l.pipedrive_id) FROM links l WHERE l.kind = 'organization' AND l.exact_id = t.aid(1))) WHERE kind = 'deal' AND row->>'title' ~ '1003';
SELECT t.reconcile();
SELECT t.send() IS NOT NULL AS sent;
SELECT (SELECT count(*) FROM jobs) AS jobs,
       (SELECT (l.sent->>'org_id')::bigint = (SELECT o.pipedrive_id FROM links o WHERE o.kind = 'organization' AND o.exact_id = t.aid(1)) FROM links l WHERE l.kind = 'deal' AND l.exact_id = t.oid(4)) AS the_other_one;
ROLLBACK TO bin;

-- Purged, and made anew by replay().
SELECT t.sent_is_there();
DELETE FROM t.records WHERE kind = 'deal' AND row->>'title' ~ '1003';
SELECT t.reconcile();
SELECT t.send();
SELECT replay(kind => 'deal');
SELECT t.still_gone();
SELECT call FROM t.take();
SELECT t.answer();
SELECT t.send();

-- The same numbers, and none of them ours: a token of another company. Nothing is told, nothing is sent.
SELECT t.sent_is_there();
CREATE TABLE t.ours AS SELECT * FROM t.records;
UPDATE t.records SET row = row || jsonb_build_object('title', 'Iets anders', 'name', 'Iemand anders', 'code', 'X', 'value', 7, 'org_id', 99,
       'custom_fields', jsonb_build_object(kind || '_exact_id', CASE kind WHEN 'product' THEN NULL WHEN 'deal' THEN t.oid(77)::text ELSE 'hun eigen veld' END));
SELECT t.reconcile();
SELECT kind, number, what, field, action FROM drift ORDER BY kind, number, what;
SELECT count(*) AS told FROM job_signals;
SELECT count(*) FROM t.take();
-- Neither is a deal that was gone there again because another one has its number.
UPDATE links SET gone_at = now() WHERE kind = 'deal' AND exact_id = t.oid(3);
SELECT t.reconcile();
SELECT number, what FROM drift WHERE number = '1003' ORDER BY what;
SELECT count(*) AS told FROM job_signals;
UPDATE links SET gone_at = NULL;
-- A person who empties the field is another matter: name or number say that it is ours.
TRUNCATE t.records;
INSERT INTO t.records SELECT * FROM t.ours;
UPDATE t.records SET row = jsonb_set(row, ARRAY['custom_fields', kind || '_exact_id'], 'null');
UPDATE t.records SET row = row || '{"title": "van mij"}' WHERE kind = 'deal' AND row->>'title' ~ '1001';
UPDATE t.records SET row = row || '{"name": "van ons"}' WHERE kind = 'product' AND row->>'code' = 'ART-1';
UPDATE t.records SET row = jsonb_set(row, '{custom_fields,organization_debtor_number}', '"77"') WHERE kind = 'organization' AND row->>'name' = 'Klant 1';
SELECT t.reconcile();
SELECT kind, number, what, field, action FROM drift ORDER BY kind, number, what, field;
SELECT t.send();
-- One that was taken over by its number does not carry it yet.
TRUNCATE t.records;
INSERT INTO t.records SELECT * FROM t.ours;
UPDATE links l SET adopted = true, sent = l.sent #- '{custom_fields,deal_exact_id}' WHERE kind = 'deal' AND exact_id = t.oid(2);
UPDATE t.records SET row = row #- '{custom_fields,deal_exact_id}' || '{"title": "hun titel"}' WHERE kind = 'deal' AND row->>'title' ~ '1002';
UPDATE t.records SET row = jsonb_set(row, '{custom_fields,deal_order_number}', '"A-2"') WHERE kind = 'deal' AND row->>'title' = 'hun titel';
SELECT t.reconcile();
SELECT kind, number, what, field, action FROM drift ORDER BY kind, number, what, field;
SELECT t.send();
SELECT t.sent_is_there();
SELECT t.reconcile();
SELECT count(*) AS drift FROM drift;

-- Policies: who may not be left to anybody, and what is no field.
SELECT t.error($$SELECT set_field_policy('contact', 'name', 'exact')$$);
SELECT t.error($$SELECT set_field_policy('deal', 'exact_id', 'pipedrive')$$);
SELECT t.error($$SELECT set_field_policy('deal', 'name', 'pipedrive')$$);
SELECT t.error($$SELECT set_field_policy('deal', NULL, 'pipedrive')$$);
SELECT t.error($$SELECT set_field_policy('deal', 'title', 'mine')$$);
-- plan() shows what one would do, before COMMIT.
SELECT t.stage('sales_order_headers', t.header(1, '{"YourRef": "R1", "DeliveryStatus": 20}'));
SELECT call, new_value FROM plan();
SAVEPOINT policy;
SELECT set_field_policy('deal', 'your_ref', 'create-only'), set_field_policy('deal', 'stage_id', 'create-only');
SELECT call, new_value FROM plan();
ROLLBACK TO policy;
SELECT kind, field, policy FROM field_policies;
SELECT t.send();
-- Each field of a deal that goes its own way, the status with its reason.
SELECT set_field_policy('deal', 'status', 'create-only'), set_field_policy('deal', 'lines', 'create-only');
SELECT kind FROM job_signals ORDER BY id;
SELECT t.stage('sales_order_headers', t.header(1, '{"YourRef": "R1", "Status": 45, "DeliveryStatus": 20}')), t.stage('sales_order_lines', t.line(1, 1, '{"Quantity": 2, "AmountFC": 100}'));
SELECT t.send();
SELECT set_field_policy('deal', 'status', 'exact'), set_field_policy('deal', 'lines', 'exact');
SELECT call, body - 'lost_time' AS body FROM t.take();
SELECT t.answer();
SELECT t.send();

-- A merged organization: what belongs to two accounts is sent for one.
SELECT t.sent_is_there();
DELETE FROM t.records WHERE kind = 'organization' AND row->>'name' = 'Klant 2';
UPDATE t.records SET row = jsonb_set(row, '{org_id}', (SELECT to_jsonb(l.pipedrive_id) FROM links l WHERE l.kind = 'organization' AND l.exact_id = t.aid(1))) WHERE kind = 'deal';
SELECT t.reconcile();
SELECT kind || ' ' || number || ' ' || what || ' ' || action AS drift FROM drift;
SELECT t.send();
SELECT right(exact_id::text, 1) AS account, pipedrive_id = min(pipedrive_id) OVER () AS same, follower FROM links WHERE kind = 'organization' ORDER BY 1;
SELECT t.stage('accounts', t.account(2, '{"Name": "Klant Twee"}'));
SELECT t.send();

-- Two deals with one record: lines that are read back belong to the one that is sent.
UPDATE links SET pipedrive_id = (SELECT pipedrive_id FROM links WHERE kind = 'deal' AND exact_id = t.oid(1)), follower = true WHERE kind = 'deal' AND exact_id = t.oid(3);
DELETE FROM line_links WHERE order_id = t.oid(3);
SELECT resync('deal', t.oid(1)), resync('deal', t.oid(3));
SELECT count(*) FROM t.take();
SELECT cardinality(deal_ids) AS deals FROM looks WHERE done_at IS NULL;
SELECT _look_take(id, 200, jsonb_build_object('data', jsonb_build_array(jsonb_build_object('id', 900, 'deal_id', deal_ids[1], 'product_id', (SELECT pipedrive_id FROM links WHERE kind = 'product' AND exact_id = t.iid(1)),
    'quantity', 2, 'item_price', 50, 'discount', 0, 'sum', 100)))::text) FROM looks WHERE done_at IS NULL;
SELECT right(order_id::text, 1) AS order, pipedrive_id FROM line_links WHERE pipedrive_id = 900;
SELECT t.send();

-- Archived: nothing is sent; out of it, what changed meanwhile is.
SELECT t.sent_is_there();
UPDATE t.records SET state = 'archived' WHERE kind = 'deal' AND row->>'title' ~ '1002';
SELECT t.reconcile();
SELECT * FROM t.drift WHERE drift ~ 'archived';
SELECT t.stage('sales_order_headers', t.header(2, '{"AmountFCExclVat": 200, "AmountFC": 242, "AmountDC": 242, "VATAmount": 42, "YourRef": "later"}'));
SELECT t.send();
SELECT count(*) AS jobs FROM jobs;
UPDATE t.records SET state = 'live';
SELECT t.reconcile();
SELECT call, body, tokens FROM t.take();
SELECT t.answer();

-- Cut off: within six hours it goes on, later it begins anew.
SELECT _reconcile_begin() AS run \gset
SELECT step FROM _reconcile_next(:run);
SELECT _reconcile_take(:run, 'organizations', 200, '{"data": [], "additional_data": {"next_cursor": "abc"}}');
SELECT path ~ 'cursor=abc' AS next_page FROM _reconcile_next(:run);
SELECT t.error(format('SELECT _reconcile_take(%s, %L, 200, %L)', :run, 'organizations', '{"data": 7}'));
SELECT t.error(format('SELECT _reconcile_take(%s, %L, 500, %L)', :run, 'organizations', '{"error": "oops"}'));
SELECT _reconcile_take(:run, 'organizations', 400, '{"error": "bad cursor"}');
SELECT path ~ 'cursor' AS next_page FROM _reconcile_next(:run);
-- A list that begins anew again and again, or names its page as its next one, does not end.
SELECT _reconcile_take(:run, 'organizations', 200, '{"data": [], "additional_data": {"next_cursor": "def"}}');
SELECT t.error(format('SELECT _reconcile_take(%s, %L, 400, %L)', :run, 'organizations', '{"error": "bad cursor"}'));
SELECT t.error(format('SELECT _reconcile_take(%s, %L, 200, %L)', :run, 'organizations', '{"data": [], "additional_data": {"next_cursor": "def"}}'));
SELECT _reconcile_begin() AS run \gset
SELECT _reconcile_take(:run, 'organizations', 400, '{"error": "bad cursor"}');
SELECT count(*) FROM reconcile_steps WHERE started_at IS NOT NULL AND step = 'organizations';
UPDATE reconcile_steps SET asked_at = asked_at - interval '7 hours';
SELECT _reconcile_begin() AS run \gset
SELECT count(*) FROM reconcile_steps WHERE started_at IS NOT NULL;
DELETE FROM reconcile_steps;
-- Cut off while Exact is asked, or after a gap there: what its pages had shown is asked for again.
SELECT _reconcile_begin() AS run \gset
CREATE FUNCTION t.half_of_keys(p_run bigint) RETURNS text LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM _feed_next(100, 'order_keys', p_run);
    PERFORM _stage_page(100, 'order_keys', p_run, t.page(ARRAY[t.header(99)], 'https://start.exactonline.nl/api/v1/100/salesorder/SalesOrders?half'));
    RETURN concat_ws(' ', (SELECT count(*) FROM unresolved_orders), _feed_next(100, 'order_keys', p_run) ~ 'half');
END
$$;
SELECT t.half_of_keys(:run);
SELECT _reconcile_begin() AS run \gset
SELECT (SELECT count(*) FROM unresolved_orders) AS unresolved, _feed_next(100, 'order_keys', :run) ~ 'half' AS goes_on;
SELECT t.half_of_keys(:run);
SELECT _reconcile_end(:run) IS NOT NULL AS ended;
SELECT _reconcile_begin() AS run \gset
SELECT (SELECT count(*) FROM unresolved_orders) AS unresolved, _feed_next(100, 'order_keys', :run) ~ 'half' AS goes_on;
DELETE FROM reconcile_steps;
-- A 404 of a proxy does not say that a deal has no discounts.
INSERT INTO looks (what, reason, deal_ids) VALUES ('discounts', 'unknown', ARRAY[4711]);
SELECT _look_take(id, 404, NULL) FROM looks WHERE deal_ids = ARRAY[4711::bigint];
SELECT done_at IS NOT NULL AS done FROM looks WHERE deal_ids = ARRAY[4711::bigint];
SELECT _look_take(id, 404, '{"success": false}') FROM looks WHERE deal_ids = ARRAY[4711::bigint];
SELECT done_at IS NOT NULL AS done FROM looks WHERE deal_ids = ARRAY[4711::bigint];
-- After a restore the links are verified first: what differs then is nobody's edit.
INSERT INTO looks (what, reason) VALUES ('deals', 'verify');
SELECT t.error('SELECT _reconcile_begin()');
DELETE FROM looks WHERE reason = 'verify';
-- A large part missing: nothing is concluded.
INSERT INTO links (kind, division, exact_id, pipedrive_id, sent, first_sent, last_sent) SELECT 'product', 100, t.id('77', n), 7000 + n, '{}', now() - interval '1 day', now() - interval '1 day' FROM generate_series(1, 25) n;
SELECT t.error('SELECT t.reconcile()');
-- What live orders need is left to them.
SELECT count(*) AS day FROM _pipedrive_day();
UPDATE budgets SET limit_value = 1000, remaining = 150, booked = 0 WHERE side = 'pipedrive' AND kind = 'day';
SELECT _pipedrive_reserve(10, 3) > 0 AS refused_as_history, _pipedrive_reserve(10, 2) > 0 AS refused_as_open, _pipedrive_reserve(10, 1) > 0 AS refused_as_live;
ROLLBACK;
