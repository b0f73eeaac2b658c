-- setup_pipedrive(): what it asks and makes, step by step, against a company that
-- is played here: found by name and type, kept by id, made when it is missing.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

DELETE FROM pipedrive_stages; DELETE FROM pipedrive_fields; DELETE FROM pipedrive_users; DELETE FROM status_rules; DELETE FROM pipedrive_options; DELETE FROM owner_map;
-- The company: lists as Pipedrive gives them; what is made gets the next id.
CREATE TABLE t.remote_list (path text PRIMARY KEY, data jsonb NOT NULL);
INSERT INTO t.remote_list VALUES ('/api/v1/users', '[{"id": 1, "name": "Integratie", "email": "sync@example.com", "active_flag": true}, {"id": 2, "name": "Sanne", "email": "sanne@example.com", "active_flag": true}, {"id": 3, "name": "Weg", "email": "weg@example.com", "active_flag": false}, {"id": 4, "name": "Gewist", "email": "gewist@example.com", "active_flag": true, "is_deleted": true}]'),
    ('/api/v2/pipelines', '[{"id": 1, "name": "Verkoop"}]'), ('/api/v2/stages', '[]'),
    ('/api/v2/dealFields', '[{"field_code": "title", "field_name": "Title", "field_type": "varchar", "is_custom_field": false}]'), ('/api/v2/organizationFields', '[]'), ('/api/v2/productFields', '[]');
CREATE SEQUENCE t.remote_id START 101;
CREATE FUNCTION t.company(p_method text, p_path text, p_body jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_list  text := split_part(p_path, '?', 1);
    v_made  jsonb;
BEGIN
    IF v_list = '/api/v1/users/me' THEN RETURN '{"data": {"id": 1, "name": "Integratie", "email": "sync@example.com", "company_name": "Testbedrijf"}}'; END IF;
    IF p_method = 'GET' THEN RETURN jsonb_build_object('data', (SELECT data FROM t.remote_list WHERE path = v_list), 'additional_data', '{"next_cursor": null}'::jsonb); END IF;
    v_made := p_body || jsonb_build_object('id', nextval('t.remote_id'));
    IF v_list LIKE '%Fields' THEN
        v_made := v_made || jsonb_build_object('field_code', 'f' || (v_made->>'id'), 'is_custom_field', true)
               || CASE WHEN p_body ? 'options' THEN jsonb_build_object('options', (SELECT jsonb_agg(o || jsonb_build_object('id', nextval('t.remote_id'))) FROM jsonb_array_elements(p_body->'options') o)) ELSE '{}' END;
    END IF;
    UPDATE t.remote_list SET data = data || v_made WHERE path = v_list;
    RETURN jsonb_build_object('data', v_made);
END
$$;
-- A whole run; says what was made and what a person reads.
CREATE FUNCTION t.setup() RETURNS TABLE (step text, body text, said text) LANGUAGE plpgsql AS $$
DECLARE
    v_run  bigint := _setup_begin();
    v      record;
    n      integer := 0;
BEGIN
    LOOP
        SELECT * INTO v FROM _setup_next(v_run);
        EXIT WHEN v.step IS NULL;
        n := n + 1;
        IF n > 40 THEN RAISE EXCEPTION 'no end: %', v.step; END IF;
        said := _setup_take(v_run, v.step, CASE v.method WHEN 'POST' THEN 201 ELSE 200 END, t.company(v.method, v.path, v.body::jsonb)::text);
        IF v.method <> 'GET' OR said IS NOT NULL THEN step := v.step; body := v.body; RETURN NEXT; END IF;
    END LOOP;
    step := n || ' calls'; body := NULL; said := NULL; RETURN NEXT;
END
$$;
CREATE VIEW t.fields AS SELECT entity, purpose, name, field_type, state FROM pipedrive_fields ORDER BY entity, purpose;
SELECT t.stage('item_groups', jsonb_build_object('ID', t.gid(1), 'Description', 'Tafel'), jsonb_build_object('ID', t.gid(2), 'Description', 'Keuken'));
SELECT t.stage('sales_order_headers', t.header(1));

-- A new company: all of it is made, in order.
SELECT * FROM t.setup();
SELECT name, order_nr, pipeline_id, stage_id, remote_name, state FROM pipedrive_stages ORDER BY order_nr;
SELECT * FROM t.fields;
SELECT user_id, name, active, is_me FROM pipedrive_users ORDER BY 1;
SELECT label FROM pipedrive_options ORDER BY label;
SELECT name, pipedrive_user_id, matched_by FROM owner_map;
SELECT count(*) AS rules FROM status_rules;
SELECT ready FROM _pipedrive_account();

-- Repeated: found, and nothing is made.
SELECT * FROM t.setup();
SELECT DISTINCT state FROM pipedrive_fields;

-- Renamed by a person: the id counts, everything keeps its place.
UPDATE t.remote_list SET data = replace(replace(replace(data::text, '"Bestellingen"', '"Orders"'), '"Verzonden"', '"Onderweg"'), '"Orderdatum"', '"Besteldatum"')::jsonb;
SELECT * FROM t.setup();
SELECT name, remote_name FROM pipedrive_stages ORDER BY order_nr;
SELECT name FROM t.fields WHERE purpose = 'order_date';

-- Deleted, or retyped: made anew; deals that exist are compared again.
INSERT INTO links (kind, division, exact_id, pipedrive_id, sent) VALUES ('deal', 100, t.oid(1), 1, '{}');
DELETE FROM job_signals;
UPDATE t.remote_list SET data = (SELECT jsonb_agg(CASE WHEN e->>'field_name' = 'Factuurstatus' THEN e || '{"field_type": "text"}' ELSE e END) FROM jsonb_array_elements(data) e WHERE e->>'field_name' <> 'Besteldatum') WHERE path = '/api/v2/dealFields';
UPDATE t.remote_list SET data = (SELECT jsonb_agg(e) FROM jsonb_array_elements(data) e WHERE e->>'name' <> 'Onderweg') WHERE path = '/api/v2/stages';
SELECT * FROM t.setup();
SELECT DISTINCT kind FROM job_signals;
SELECT * FROM t.fields WHERE purpose IN ('order_date', 'invoice_status');

-- What is there under the right name and type is taken, not made twice; of another type it is not.
DELETE FROM pipedrive_stages; DELETE FROM pipedrive_fields; DELETE FROM pipedrive_options; DELETE FROM links;
UPDATE t.remote_list SET data = '[{"id": 7, "name": "Bestellingen", "is_deleted": true}, {"id": 8, "name": "Bestellingen"}]' WHERE path = '/api/v2/pipelines';
UPDATE t.remote_list SET data = '[{"id": 71, "name": "Verzonden"}, {"id": 72, "name": "Nieuwe bestelling"}, {"id": 73, "name": "Wacht op backorder", "is_deleted": true}]' WHERE path = '/api/v2/stages';
UPDATE t.remote_list SET data = '[{"field_code": "aaa", "field_name": "Orderdatum", "field_type": "date", "is_custom_field": true}, {"field_code": "bbb", "field_name": "Ordernummer", "field_type": "int", "is_custom_field": true}, {"field_code": "ccc", "field_name": "Exact-ID", "field_type": "varchar", "is_custom_field": true}]' WHERE path = '/api/v2/dealFields';
UPDATE t.remote_list SET data = '[{"field_code": "ddd", "field_name": "Artikelgroep", "field_type": "enum", "is_custom_field": true, "options": [{"id": 5, "label": "Tafel"}]}, {"field_code": "eee", "field_name": "Exact-ID", "field_type": "varchar", "is_custom_field": true}]' WHERE path = '/api/v2/productFields';
UPDATE t.remote_list SET data = '[{"field_code": "fff", "field_name": "Debnr oud", "field_type": "varchar", "is_custom_field": true}]' WHERE path = '/api/v2/organizationFields';
SELECT name_adoption_field('organization', 'Debnr oud'), name_adoption_field('deal', 'title'), name_adoption_field('product', 'Bestaat niet');
SELECT step, body, CASE WHEN step NOT LIKE 'make%' THEN said END AS said FROM t.setup() WHERE step LIKE 'make%' OR step LIKE '%fields';
SELECT name, pipeline_id, stage_id, state FROM pipedrive_stages ORDER BY order_nr;
SELECT purpose, state FROM t.fields WHERE entity = 'deal';
SELECT * FROM pipedrive_options;
SELECT kind, field_name, field_code FROM adoption_fields ORDER BY kind;

-- A user who became inactive: who owns what may differ.
DELETE FROM job_signals;
UPDATE t.remote_list SET data = replace(data::text, '"active_flag": true, "email": "sanne', '"active_flag": false, "email": "sanne')::jsonb WHERE path = '/api/v1/users';
UPDATE t.remote_list SET data = (SELECT jsonb_agg(CASE WHEN e->>'name' = 'Sanne' THEN e || '{"active_flag": false}' ELSE e END) FROM jsonb_array_elements(data) e) WHERE path = '/api/v1/users';
SELECT count(*) > 0 AS done FROM t.setup();
SELECT kind, reason FROM job_signals;

-- A second division: the field that tells them apart is made, too.
INSERT INTO divisions (division, name) VALUES (200, 'Tweede');
SELECT step FROM t.setup() WHERE step LIKE 'make%' ORDER BY 1;

-- A stage that only a rule names is made at the end of the pipeline.
INSERT INTO status_rules (priority, status, delivery_status, invoice_status, stage) VALUES (200, '*', '45', '*', 'Retour');
SELECT step FROM t.setup() WHERE step LIKE 'make%';
SELECT name, order_nr FROM pipedrive_stages ORDER BY order_nr;

-- A refusal is an error in plain words, with what mends it.
SELECT _setup_begin() AS run \gset
SELECT t.error(format('SELECT _setup_take(%s, ''me'', 401, ''{"error": "unauthorized access"}'')', :run));
SELECT t.error(format('SELECT _setup_take(%s, ''make_field:deal:order_date'', 402, ''{"error": "limit of custom fields"}'')', :run));
SELECT t.error(format('SELECT _setup_take(%s, ''stages'', 500, NULL)', :run));
SELECT t.error(format('SELECT _setup_take(%s, ''stages'', 0, NULL)', :run));
ROLLBACK;
