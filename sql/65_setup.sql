/*
 * 65_setup.sql
 *		setup_pipedrive(): which calls find or make the pipeline, its stages, our
 *		fields and the users.  C makes the calls that _setup_next() names.
 */

CREATE TABLE setup_steps (
    run_id   bigint NOT NULL,
    step     text NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    cursor   text,
    PRIMARY KEY (run_id, step)
);
COMMENT ON TABLE setup_steps IS 'Which steps of a run of setup_pipedrive() are done. Cleared when the next one begins.';
COMMENT ON COLUMN setup_steps.run_id IS 'Run in sync_runs.';
COMMENT ON COLUMN setup_steps.step IS 'Name of the step.';
COMMENT ON COLUMN setup_steps.at IS 'When.';
COMMENT ON COLUMN setup_steps.cursor IS 'Next page of its list; NULL = it is done.';

CREATE FUNCTION _setup_begin() RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_run bigint;
BEGIN
    IF setting('pipedrive_base_url') IS NULL THEN
        RAISE EXCEPTION 'no Pipedrive account is configured'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'SELECT exact_pd_sync.set_pipedrive_account(''file:pipedrive_token'', ''https://COMPANY.pipedrive.com'');';
    END IF;
    DELETE FROM setup_steps;
    -- Rules and names are seeded here, not by the install script: a dump brings its own.
    IF NOT EXISTS (SELECT FROM status_rules) THEN
        INSERT INTO status_rules (priority, status, delivery_status, invoice_status, deal_status, lost_reason, stage, note) VALUES
            (10, '45', '*', '*', 'lost', 'Geannuleerd in Exact', NULL, 'Cancelled'),
            (20, '*', '*', '21', 'won', NULL, NULL, 'Invoiced in full, also when prepaid and still to be delivered'),
            (30, '12', '*', '*', 'open', NULL, NULL, 'Open'),
            (31, '20', '*', '*', 'open', NULL, NULL, 'Partly delivered or invoiced'),
            (32, '21', '*', '*', 'open', NULL, NULL, 'Complete but not invoiced'),
            (110, '*', '20', '*', NULL, NULL, 'Wacht op backorder', 'Partly delivered'),
            (120, '*', '21', '*', NULL, NULL, 'Verzonden', 'Delivered'),
            (130, '12', '*', '*', NULL, NULL, 'Nieuwe bestelling', 'Open'),
            (131, '20', '*', '*', NULL, NULL, 'Nieuwe bestelling', 'Partly invoiced, nothing delivered'),
            (140, '45', '*', '*', NULL, NULL, 'Nieuwe bestelling', 'Cancelled before delivery'),
            (141, '21', '*', '*', NULL, NULL, 'Verzonden', 'Complete without a delivery, such as services');
    END IF;
    IF NOT EXISTS (SELECT FROM pipedrive_stages) THEN
        INSERT INTO pipedrive_stages (name, order_nr) VALUES ('Nieuwe bestelling', 1), ('Wacht op backorder', 2), ('Verzonden', 3);
    END IF;
    INSERT INTO pipedrive_stages (name, order_nr)
    SELECT r.stage, (SELECT coalesce(max(order_nr), 0) FROM pipedrive_stages) + row_number() OVER (ORDER BY min(r.priority))
      FROM status_rules r WHERE r.stage IS NOT NULL AND NOT EXISTS (SELECT FROM pipedrive_stages s WHERE s.name = r.stage) GROUP BY r.stage;
    INSERT INTO pipedrive_fields (entity, purpose, name, field_type)
    SELECT * FROM (VALUES ('deal', 'exact_id', 'Exact-ID', 'varchar'), ('deal', 'order_number', 'Ordernummer', 'varchar'), ('deal', 'order_date', 'Orderdatum', 'date'),
                          ('deal', 'delivery_status', 'Leverstatus', 'varchar'), ('deal', 'invoice_status', 'Factuurstatus', 'varchar'), ('deal', 'your_ref', 'Uw referentie', 'varchar'),
                          ('organization', 'exact_id', 'Exact-ID', 'varchar'), ('organization', 'debtor_number', 'Debiteurnummer', 'varchar'),
                          ('product', 'exact_id', 'Exact-ID', 'varchar'), ('product', 'item_group', 'Artikelgroep', 'enum')) AS f(entity, purpose, name, field_type)
    UNION ALL
    SELECT e, 'administration', 'Administratie', 'varchar' FROM unnest(ARRAY['deal', 'organization', 'product']) e WHERE (SELECT count(*) FROM divisions) > 1
    ON CONFLICT DO NOTHING;
    v_run := _run_begin('setup_pipedrive');
    RETURN v_run;
END
$$;
COMMENT ON FUNCTION _setup_begin() IS 'Begins a run of setup_pipedrive(); seeds the rules of a new installation.';

CREATE FUNCTION _setup_done(p_run bigint, p_step text) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$ SELECT EXISTS (SELECT FROM exact_pd_sync.setup_steps s WHERE s.run_id = p_run AND s.step = p_step AND s.cursor IS NULL) $$;
COMMENT ON FUNCTION _setup_done(bigint, text) IS 'Has a step of this run been done?';

CREATE FUNCTION _setup_next(p_run bigint, OUT step text, OUT method text, OUT path text, OUT body text, OUT tokens integer, OUT note text) RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_pipeline  bigint := (SELECT min(pipeline_id) FROM pipedrive_stages);
    v_entity    text;
    v_field     pipedrive_fields;
    v_stage     pipedrive_stages;
    v_cursor    text;
BEGIN
    method := 'GET';
    IF NOT _setup_done(p_run, 'me') THEN
        step := 'me'; path := '/api/v1/users/me'; tokens := 2; note := 'who are we'; RETURN NEXT; RETURN;
    END IF;
    IF NOT _setup_done(p_run, 'users') THEN
        step := 'users'; path := '/api/v1/users'; tokens := 20; note := 'users'; RETURN NEXT; RETURN;
    END IF;
    IF NOT _setup_done(p_run, 'pipelines') THEN
        SELECT s.cursor INTO v_cursor FROM setup_steps s WHERE s.run_id = p_run AND s.step = 'pipelines';
        step := 'pipelines'; path := '/api/v2/pipelines?limit=500' || coalesce('&cursor=' || _url_component(v_cursor), ''); tokens := 5; note := 'pipelines'; RETURN NEXT; RETURN;
    END IF;
    IF v_pipeline IS NULL THEN
        step := 'make_pipeline'; method := 'POST'; path := '/api/v2/pipelines'; tokens := 5; body := jsonb_build_object('name', setting('pipeline'))::text;
        RETURN NEXT; RETURN;
    END IF;
    IF NOT _setup_done(p_run, 'stages') THEN
        SELECT s.cursor INTO v_cursor FROM setup_steps s WHERE s.run_id = p_run AND s.step = 'stages';
        step := 'stages'; path := '/api/v2/stages?limit=500&pipeline_id=' || v_pipeline || coalesce('&cursor=' || _url_component(v_cursor), ''); tokens := 5; note := 'stages'; RETURN NEXT; RETURN;
    END IF;
    -- order_nr cannot be written (pipedrive 12): stages are made in the wanted order.
    SELECT * INTO v_stage FROM pipedrive_stages s WHERE s.stage_id IS NULL ORDER BY s.order_nr LIMIT 1;
    IF FOUND THEN
        step := 'make_stage:' || v_stage.name; method := 'POST'; path := '/api/v2/stages'; tokens := 5;
        body := jsonb_build_object('name', v_stage.name, 'pipeline_id', v_pipeline)::text; RETURN NEXT; RETURN;
    END IF;
    FOREACH v_entity IN ARRAY ARRAY['deal', 'organization', 'product'] LOOP
        IF NOT _setup_done(p_run, v_entity || '_fields') THEN
            SELECT s.cursor INTO v_cursor FROM setup_steps s WHERE s.run_id = p_run AND s.step = v_entity || '_fields';
            step := v_entity || '_fields'; path := '/api/v2/' || v_entity || 'Fields?limit=500' || coalesce('&cursor=' || _url_component(v_cursor), ''); tokens := 10;
            note := v_entity || ' fields'; RETURN NEXT; RETURN;
        END IF;
        SELECT * INTO v_field FROM pipedrive_fields f WHERE f.entity = v_entity AND f.code IS NULL ORDER BY f.purpose LIMIT 1;
        IF FOUND THEN
            step := 'make_field:' || v_entity || ':' || v_field.purpose; method := 'POST'; path := '/api/v2/' || v_entity || 'Fields'; tokens := 5;
            body := (jsonb_build_object('field_name', v_field.name, 'field_type', v_field.field_type)
                     || CASE WHEN v_entity = 'deal' THEN jsonb_build_object('description', 'Exact Online') ELSE '{}' END
                     || CASE WHEN v_field.field_type = 'enum' THEN jsonb_build_object('options', coalesce(
                            (SELECT jsonb_agg(jsonb_build_object('label', g.label) ORDER BY g.label) FROM (SELECT DISTINCT left(description, 255) AS label FROM exact_item_groups WHERE description <> '' AND deleted_at IS NULL) g),
                            jsonb_build_array(jsonb_build_object('label', 'Overig')))) ELSE '{}' END)::text;
            RETURN NEXT; RETURN;
        END IF;
    END LOOP;
    -- Everything is there again: what was refused for want of it is tried anew.
    INSERT INTO job_signals (kind, reason, argument) SELECT 'replay', 'set up', '{"by": "setup"}' WHERE EXISTS (SELECT FROM jobs j WHERE j.state = 'dead');
    PERFORM wake_worker('delivery');
END
$$;
COMMENT ON FUNCTION _setup_next(bigint) IS 'The next call of this run; no row when everything is there.';

CREATE FUNCTION _setup_fields(p_run bigint, p_entity text, p_rows jsonb) RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_said text;
BEGIN
    UPDATE pipedrive_fields f
       SET code = r.code, state = CASE WHEN f.code = r.code THEN CASE WHEN f.state = 'made' THEN 'made' ELSE 'found' END ELSE 'found' END, name = CASE WHEN f.code = r.code THEN r.name ELSE f.name END
      FROM (SELECT DISTINCT ON (p.purpose) p.purpose, x->>'field_code' AS code, x->>'field_name' AS name
              FROM pipedrive_fields p, jsonb_array_elements(p_rows) x
             WHERE p.entity = p_entity AND x->>'field_type' = p.field_type AND (x->>'is_custom_field')::boolean
               AND (x->>'field_code' = p.code OR (p.code IS NULL AND x->>'field_name' = p.name)
                    OR (p.state IN ('gone', 'retyped') AND x->>'field_name' = p.name))
             ORDER BY p.purpose, (x->>'field_code' = p.code) DESC NULLS LAST, x->>'field_code') r
     WHERE f.entity = p_entity AND f.purpose = r.purpose;
    UPDATE adoption_fields a
       SET field_code = coalesce((SELECT x->>'field_code' FROM jsonb_array_elements(p_rows) x WHERE x->>'field_name' = a.field_name ORDER BY (x->>'is_custom_field')::boolean DESC LIMIT 1), a.field_code,
                                 CASE WHEN lower(a.field_name) IN ('code', 'name', 'title') THEN lower(a.field_name) END)
     WHERE a.kind = p_entity;
    IF p_entity = 'product' THEN
        INSERT INTO pipedrive_options (label, option_id)
        SELECT DISTINCT ON (o->>'label') o->>'label', (o->>'id')::bigint
          FROM pipedrive_fields f, jsonb_array_elements(p_rows) x, jsonb_array_elements(CASE WHEN jsonb_typeof(x->'options') = 'array' THEN x->'options' END) o
         WHERE f.entity = 'product' AND f.purpose = 'item_group' AND x->>'field_code' = f.code AND o->>'id' ~ '^[0-9]+$'
        ON CONFLICT (label) DO UPDATE SET option_id = excluded.option_id;
        -- Options that a person removed are made anew, and their products get them back.
        DELETE FROM pipedrive_options k
         USING pipedrive_fields f, jsonb_array_elements(p_rows) x
         WHERE f.entity = 'product' AND f.purpose = 'item_group' AND x->>'field_code' = f.code AND jsonb_typeof(x->'options') = 'array'
           AND NOT EXISTS (SELECT FROM jsonb_array_elements(x->'options') o WHERE o->>'id' = k.option_id::text);
        IF FOUND THEN
            INSERT INTO job_signals (kind, division, exact_id, reason) VALUES ('groups', 0, '00000000-0000-0000-0000-000000000000', 'options changed');
            INSERT INTO job_signals (kind, reason) VALUES ('all_products', 'options changed');
        END IF;
    END IF;
    -- A field that somebody named and that is not there would let everything be made twice: say so.
    SELECT format('field "%s" of %s was named for adoption and is not there: name the right one with name_adoption_field()', a.field_name, a.kind)
      INTO v_said FROM adoption_fields a WHERE a.kind = p_entity AND a.field_code IS NULL;
    RETURN v_said;
END
$$;
COMMENT ON FUNCTION _setup_fields(bigint, text, jsonb) IS 'Compares a page of fields with ours: the right name and type is taken, a known key is kept whatever it is called now.';

CREATE FUNCTION _setup_take(p_run bigint, p_step text, p_status integer, p_answer text) RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_answer  jsonb;
    v_data    jsonb;
    v_cursor  text;
    v_said    text;
    v_entity  text;
    v_tokens  integer := CASE WHEN p_step = 'me' THEN 2 WHEN p_step = 'users' THEN 20 WHEN p_step LIKE '%_fields' THEN 10 ELSE 5 END;
BEGIN
    INSERT INTO api_calls (side, what, method, path, status, outcome, tokens, error)
    VALUES ('pipedrive', 'setup', CASE WHEN p_step LIKE 'make%' THEN 'POST' ELSE 'GET' END, p_step, nullif(p_status, 0),
            CASE WHEN p_status BETWEEN 200 AND 299 THEN 'ok' ELSE 'failed' END, v_tokens, CASE WHEN p_status NOT BETWEEN 200 AND 299 THEN left(p_answer, 500) END);
    IF p_status NOT BETWEEN 200 AND 299 THEN
        RAISE EXCEPTION 'Pipedrive refused step "%" with status %', p_step, p_status
            USING ERRCODE = CASE WHEN p_status IN (401, 402, 403) THEN 'invalid_authorization_specification' ELSE 'fdw_error' END,
                  DETAIL = left(coalesce(substring(p_answer FROM '"error" *: *"([^"]+)"'), p_answer, 'No answer.'), 500),
                  HINT = CASE WHEN p_status IN (403, 415) AND p_step LIKE '%product%' AND p_answer ~* 'feature'
                              THEN 'Switch on the products of the Pipedrive company (company settings), then CALL exact_pd_sync.setup_pipedrive() again.'
                              WHEN p_status = 401 THEN 'Is the API token right? SELECT exact_pd_sync.set_pipedrive_account(…);'
                              WHEN p_status IN (402, 403) THEN 'The token''s user must be an administrator, and the plan must have room for custom fields.'
                              ELSE 'CALL exact_pd_sync.setup_pipedrive() again later; it goes on where it was.' END;
    END IF;
    v_answer := p_answer::jsonb;
    v_data := v_answer->'data';
    v_cursor := v_answer->'additional_data'->>'next_cursor';

    IF p_step = 'me' THEN
        INSERT INTO pipedrive_users AS u (user_id, name, email, active, is_me)
        VALUES ((v_data->>'id')::bigint, v_data->>'name', v_data->>'email', true, true)
        ON CONFLICT (user_id) DO UPDATE SET is_me = true, read_at = clock_timestamp();
        UPDATE pipedrive_users SET is_me = false WHERE is_me AND user_id <> (v_data->>'id')::bigint;
        v_said := format('connected to %s as %s', coalesce(v_data->>'company_name', v_data->>'company_domain', 'Pipedrive'), v_data->>'name');
    ELSIF p_step = 'users' THEN
        -- Somebody became active or inactive: who owns what may differ.
        INSERT INTO job_signals (kind, reason)
        SELECT 'all_deals', 'users changed' WHERE EXISTS (
            SELECT FROM jsonb_array_elements(v_data) r JOIN pipedrive_users u ON u.user_id = (r->>'id')::bigint
             WHERE u.active IS DISTINCT FROM (coalesce((r->>'active_flag')::boolean, false) AND NOT coalesce((r->>'is_deleted')::boolean, false)));
        INSERT INTO pipedrive_users AS u (user_id, name, email, active)
        SELECT (r->>'id')::bigint, r->>'name', r->>'email', coalesce((r->>'active_flag')::boolean, false) AND NOT coalesce((r->>'is_deleted')::boolean, false)
          FROM jsonb_array_elements(v_data) r
        ON CONFLICT (user_id) DO UPDATE SET name = excluded.name, email = excluded.email, active = excluded.active, read_at = clock_timestamp();
        UPDATE pipedrive_users u SET active = false WHERE NOT EXISTS (SELECT FROM jsonb_array_elements(v_data) r WHERE (r->>'id')::bigint = u.user_id);
        v_said := _match_salespeople();
    ELSIF p_step IN ('pipelines', 'make_pipeline') THEN
        IF p_step = 'make_pipeline' THEN
            UPDATE pipedrive_stages SET pipeline_id = (v_data->>'id')::bigint;
            v_said := format('pipeline "%s" was made', v_data->>'name');
        ELSE
            -- Our pipeline by its id first (it may have been renamed), else by name.
            IF EXISTS (SELECT FROM pipedrive_stages WHERE pipeline_id IS NOT NULL) AND v_cursor IS NULL
               AND NOT EXISTS (SELECT FROM jsonb_array_elements(v_data) r, pipedrive_stages s WHERE (r->>'id')::bigint = s.pipeline_id AND NOT coalesce((r->>'is_deleted')::boolean, false)) THEN
                UPDATE pipedrive_stages SET pipeline_id = NULL, stage_id = NULL, state = 'gone';
            END IF;
            UPDATE pipedrive_stages s SET pipeline_id = x.id
              FROM (SELECT (r->>'id')::bigint AS id FROM jsonb_array_elements(v_data) r
                     WHERE r->>'name' = setting('pipeline') AND NOT coalesce((r->>'is_deleted')::boolean, false) ORDER BY 1 LIMIT 1) x
             WHERE s.pipeline_id IS NULL;
        END IF;
    ELSIF p_step = 'stages' THEN
        UPDATE pipedrive_stages s SET stage_id = NULL, state = 'gone'
         WHERE v_cursor IS NULL AND s.stage_id IS NOT NULL
           AND NOT EXISTS (SELECT FROM jsonb_array_elements(v_data) r WHERE (r->>'id')::bigint = s.stage_id AND NOT coalesce((r->>'is_deleted')::boolean, false));
        INSERT INTO job_signals (kind, reason)
        SELECT 'all_deals', 'stages changed'
         WHERE EXISTS (SELECT FROM links l WHERE l.kind = 'deal')
           AND EXISTS (SELECT FROM pipedrive_stages s, jsonb_array_elements(v_data) r
                        WHERE s.stage_id IS NULL AND r->>'name' = s.name AND NOT coalesce((r->>'is_deleted')::boolean, false));
        UPDATE pipedrive_stages s SET stage_id = (r->>'id')::bigint, remote_name = r->>'name', state = CASE WHEN s.state = 'made' THEN 'made' ELSE 'found' END
          FROM jsonb_array_elements(v_data) r
         WHERE NOT coalesce((r->>'is_deleted')::boolean, false) AND ((r->>'id')::bigint = s.stage_id OR s.stage_id IS NULL AND r->>'name' = s.name);
    ELSIF p_step LIKE 'make_stage:%' THEN
        UPDATE pipedrive_stages s SET stage_id = (v_data->>'id')::bigint, remote_name = v_data->>'name', state = 'made' WHERE s.name = substr(p_step, 12);
        -- Deals that wait for it, because a rule named it before it was there.
        INSERT INTO job_signals (kind, reason) SELECT 'all_deals', 'stage made' WHERE EXISTS (SELECT FROM links l WHERE l.kind = 'deal');
        v_said := format('stage "%s" was made', v_data->>'name');
    ELSIF p_step LIKE '%\_fields' THEN
        v_entity := replace(p_step, '_fields', '');
        v_said := _setup_fields(p_run, v_entity, v_data);
        IF v_cursor IS NOT NULL THEN
            v_said := NULL;
        ELSE
            -- A key we know that no page showed: deleted by hand, or made anew with another type.
            UPDATE pipedrive_fields f SET state = 'gone', code = NULL
             WHERE f.entity = v_entity AND f.code IS NOT NULL
               AND NOT EXISTS (SELECT FROM jsonb_array_elements(v_data) x WHERE x->>'field_code' = f.code AND x->>'field_type' = f.field_type)
               AND NOT EXISTS (SELECT FROM setup_steps s WHERE s.run_id = p_run AND s.step = p_step);
        END IF;
    ELSIF p_step LIKE 'make_field:%' THEN
        v_entity := split_part(p_step, ':', 2);
        UPDATE pipedrive_fields f SET code = v_data->>'field_code', state = 'made' WHERE f.entity = v_entity AND f.purpose = split_part(p_step, ':', 3);
        PERFORM _setup_fields(p_run, v_entity, jsonb_build_array(v_data)) WHERE v_entity = 'product';
        -- What was sent knew another key: it is compared anew.
        INSERT INTO job_signals (kind, reason) SELECT 'all_' || v_entity || 's', 'field made' WHERE EXISTS (SELECT FROM links WHERE kind = v_entity);
        v_said := format('field "%s" of %s was made', v_data->>'field_name', v_entity);
    END IF;
    INSERT INTO setup_steps (run_id, step, cursor) VALUES (p_run, p_step, v_cursor)
    ON CONFLICT (run_id, step) DO UPDATE SET cursor = excluded.cursor, at = clock_timestamp();
    RETURN v_said;
END
$$;
COMMENT ON FUNCTION _setup_take(bigint, text, integer, text) IS 'Takes over the answer of a set-up call; returns what a person should read. ERROR when Pipedrive refuses.';

CREATE FUNCTION _match_salespeople() RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_matched integer;
BEGIN
    -- By e-mail, else by a name that only one user has; what a person mapped stays.
    UPDATE owner_map m SET pipedrive_user_id = x.user_id, matched_by = x.how, changed_at = clock_timestamp()
      FROM (SELECT DISTINCT ON (k.exact_id) k.exact_id, u.user_id, CASE WHEN lower(u.email) = lower(k.email) THEN 'email' ELSE 'name' END AS how
              FROM owner_map k
              JOIN pipedrive_users u ON lower(u.email) = lower(k.email)
                OR (lower(btrim(u.name)) = lower(btrim(k.name)) AND (SELECT count(*) FROM pipedrive_users z WHERE lower(btrim(z.name)) = lower(btrim(k.name))) = 1)
             WHERE k.pipedrive_user_id IS NULL AND k.matched_by <> 'hand'
             ORDER BY k.exact_id, (lower(u.email) = lower(k.email)) DESC NULLS LAST) x
     WHERE m.exact_id = x.exact_id;
    GET DIAGNOSTICS v_matched = ROW_COUNT;
    RETURN CASE WHEN v_matched > 0 THEN format('%s salespeople were matched with Pipedrive users', v_matched) END;
END
$$;
COMMENT ON FUNCTION _match_salespeople() IS 'Matches salespeople of Exact with Pipedrive users by e-mail or unique name; a mapping made by hand stays.';

CREATE PROCEDURE setup_pipedrive() LANGUAGE c AS 'MODULE_PATHNAME', 'epds_setup_pipedrive';
COMMENT ON PROCEDURE setup_pipedrive() IS 'Finds or makes the pipeline, its stages and our custom fields at Pipedrive, reads the users and matches salespeople. Safe to repeat: what is there under the right name and type is taken.';
