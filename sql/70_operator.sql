/*
 * 70_operator.sql
 *		The operator's functions: connect, map, pause, replay.
 *
 * They run with the rights of the extension's owner (SECURITY DEFINER, locked
 * search_path), so that an operator needs EXECUTE and nothing else.
 */

CREATE FUNCTION _is_loopback_ok(p_url text, p_allowed text) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$ SELECT p_url ~ p_allowed OR (p_url ~ '^http://(127[.]0[.]0[.]1|localhost|[[]::1[]])(:[0-9]{1,5})?$'
                                       AND coalesce(current_setting('exact_pd_sync.allow_insecure_http', true), 'off')::boolean) $$;
COMMENT ON FUNCTION _is_loopback_ok(text, text) IS 'Is this one of the known hosts, or loopback while exact_pd_sync.allow_insecure_http is on?';

CREATE FUNCTION _first_instance() RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    -- A new installation is its own; one that brought links or positions from a dump must be confirmed.
    INSERT INTO instance (identity)
    SELECT instance_identity()::jsonb
     WHERE NOT EXISTS (SELECT FROM links) AND NOT EXISTS (SELECT FROM feed_positions)
    ON CONFLICT DO NOTHING $$;
COMMENT ON FUNCTION _first_instance() IS 'Notes the identity of a new installation.';

CREATE FUNCTION _role_without_secrets() RETURNS text
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    SELECT r.rolname::text
      FROM pg_roles r
     WHERE r.rolname = nullif(current_setting('exact_pd_sync.role', true), '') AND NOT r.rolsuper AND NOT r.rolbypassrls
       AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = 'credentials'::regclass AND c.relowner = r.oid)
       AND NOT EXISTS (SELECT FROM pg_policy y WHERE y.polrelid = 'credentials'::regclass AND y.polroles && ARRAY[r.oid, 0::oid]) $$;
COMMENT ON FUNCTION _role_without_secrets() IS 'The role of the workers (exact_pd_sync.role) when row security keeps it from the secrets, as in a restored dump, which does not carry the policy that grant_worker() makes; else NULL.';

CREATE FUNCTION _check_role_and_secrets() RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    IF _role_without_secrets() IS NOT NULL THEN
        RAISE EXCEPTION 'role "%" may not keep secrets', _role_without_secrets() USING ERRCODE = 'insufficient_privilege',
            DETAIL = 'It is exact_pd_sync.role, and has no policy on the table of secrets. A dump does not carry one.', HINT = format('SELECT exact_pd_sync.grant_worker(%L);', _role_without_secrets());
    END IF;
END
$$;
COMMENT ON FUNCTION _check_role_and_secrets() IS 'ERROR, with the statement that mends it, when the role of the workers could not store a secret.';

CREATE FUNCTION set_exact_app(client_id text, client_secret text, redirect_uri text, webhook_secret text DEFAULT NULL, base_url text DEFAULT 'https://start.exactonline.nl') RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    IF client_id IS NULL OR client_secret IS NULL OR redirect_uri IS NULL OR base_url IS NULL THEN
        RAISE EXCEPTION 'client_id, client_secret, redirect_uri and base_url are needed' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF NOT _is_loopback_ok(rtrim(base_url, '/'), '^https://start[.]exactonline[.](nl|be|de|co[.]uk|com|es|fr)$') THEN
        RAISE EXCEPTION '"%" is not a site of Exact Online', base_url
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'The refresh token is sent there, so only known sites are taken.',
                  HINT = 'Use https://start.exactonline.nl, .be, .de, .co.uk, .com, .es or .fr.';
    END IF;
    PERFORM _check_role_and_secrets();
    PERFORM configure('exact_base_url', rtrim(base_url, '/'));
    PERFORM configure('exact_client_id', client_id);
    PERFORM configure('exact_redirect_uri', redirect_uri);
    PERFORM store_secret('exact_client_secret', client_secret);
    IF webhook_secret IS NOT NULL THEN
        PERFORM store_secret('exact_webhook_secret', webhook_secret);
    END IF;
    PERFORM _token_app_changed();
    PERFORM wake_worker('intake');
    PERFORM _first_instance();
END
$$;
COMMENT ON FUNCTION set_exact_app(text, text, text, text, text) IS 'Names the app of the Exact App Center: client id, secret (a value or file:NAME), redirect URI, webhook secret and site. Next: open exact_authorize_url() in a browser.';

CREATE FUNCTION receive_exact_webhook(body bytea) RETURNS integer
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'epds_receive_exact_webhook';
COMMENT ON FUNCTION receive_exact_webhook(bytea) IS 'For sites with an HTTP front of their own: takes a notification of Exact in, given the raw bytes of the request''s body. Returns the HTTP status to answer with, after the commit: 200, 401 (not signed by Exact), 413 (too large), 503 (no webhook secret). grant_receiver() gives a role this and nothing else.';

CREATE FUNCTION exact_authorize_url() RETURNS text
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_app    record;
    v_state  text := replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '');
BEGIN
    SELECT * INTO v_app FROM _exact_app();
    IF v_app.client_id IS NULL THEN
        RAISE EXCEPTION 'the Exact app is not configured' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'SELECT exact_pd_sync.set_exact_app(client_id, ''file:exact_secret'', redirect_uri);';
    END IF;
    INSERT INTO exact_consent AS c (state, oauth_state, oauth_state_at) VALUES ('auth_required', v_state, clock_timestamp())
    ON CONFLICT (only_row) DO UPDATE SET oauth_state = excluded.oauth_state, oauth_state_at = excluded.oauth_state_at;
    RETURN format('%s/api/oauth2/auth?client_id=%s&redirect_uri=%s&response_type=code&state=%s&force_login=0', v_app.base_url, v_app.client_id,
                  _url_component(v_app.redirect_uri), v_state);
END
$$;
COMMENT ON FUNCTION exact_authorize_url() IS 'The address a person with rights in the division opens in a browser to give consent; the browser then comes back to the redirect URI with a code for exact_authorize().';

CREATE FUNCTION _oauth_state_ok(p_state text) RETURNS boolean
    LANGUAGE sql STABLE
    -- By their digests: how long it takes tells nothing of the state.
    AS $$ SELECT EXISTS (SELECT FROM exact_pd_sync.exact_consent c
                          WHERE sha256(convert_to(c.oauth_state, 'UTF8')) = sha256(convert_to(p_state, 'UTF8')) AND c.oauth_state_at > clock_timestamp() - interval '1 hour') $$;
COMMENT ON FUNCTION _oauth_state_ok(text) IS 'Is this the state of our own last authorize URL?';

CREATE FUNCTION add_division(division integer, time_zone text DEFAULT 'Europe/Amsterdam', currency text DEFAULT 'EUR', name text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
BEGIN
    IF add_division.division IS NULL OR add_division.division <= 0 THEN
        RAISE EXCEPTION 'a division is a positive number' USING ERRCODE = 'invalid_parameter_value', HINT = 'It stands in the address bar of Exact Online.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_timezone_names z WHERE z.name = add_division.time_zone) THEN
        RAISE EXCEPTION 'time zone "%" is not known', add_division.time_zone USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO divisions AS d (division, time_zone, currency, name) VALUES (add_division.division, add_division.time_zone, add_division.currency, add_division.name)
    ON CONFLICT (division) DO UPDATE SET time_zone = excluded.time_zone, currency = excluded.currency, name = coalesce(excluded.name, d.name);
END
$$;
COMMENT ON FUNCTION add_division(integer, text, text, text) IS 'Adds an Exact division to what is read. Its numbers (debtors, items, orders) are its own: 400 of two divisions are two.';

CREATE FUNCTION set_pipedrive_account(api_token text, base_url text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    IF api_token IS NULL OR base_url IS NULL THEN
        RAISE EXCEPTION 'api_token and base_url are needed' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF NOT _is_loopback_ok(rtrim(base_url, '/'), '^https://[a-z0-9][a-z0-9-]{0,62}[.]pipedrive[.]com$') THEN
        RAISE EXCEPTION '"%" is not a company address of Pipedrive', base_url
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Use https://COMPANY.pipedrive.com.';
    END IF;
    PERFORM _check_role_and_secrets();
    IF setting('pipedrive_base_url') <> rtrim(base_url, '/') AND EXISTS (SELECT FROM webhook_topics_asked a WHERE a.side = 'pipedrive' AND a.subscription_id IS NOT NULL) THEN
        RAISE WARNING '% goes on sending notifications', setting('pipedrive_base_url')
            USING HINT = 'Remove the webhooks "exact_pd_sync" there by hand, or set the old account once more and CALL exact_pd_sync.unsubscribe_webhooks() first.';
    END IF;
    PERFORM configure('pipedrive_base_url', rtrim(base_url, '/'));
    PERFORM store_secret('pipedrive_api_token', api_token);
    PERFORM _pipedrive_open();
    -- What the old token kept waiting goes on at once.
    INSERT INTO job_signals (kind, reason, argument)
    SELECT 'replay', 'account set', '{"class": "auth"}' WHERE EXISTS (SELECT FROM jobs j WHERE j.class = 'auth');
    PERFORM _first_instance();
    PERFORM wake_worker('delivery');
END
$$;
COMMENT ON FUNCTION set_pipedrive_account(text, text) IS 'Names the Pipedrive company and the API token (a value or file:NAME) of a user made for this integration. Next: CALL setup_pipedrive().';

CREATE FUNCTION configure(p_name text, p_value text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_setting setting_list;
BEGIN
    SELECT * INTO v_setting FROM setting_list s WHERE s.name = p_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no setting "%"', p_name USING ERRCODE = 'undefined_object', HINT = 'SELECT name, meaning FROM exact_pd_sync.setting_list;';
    END IF;
    IF p_value IS NULL THEN
        DELETE FROM settings WHERE name = p_name;
    -- Secrets are sent to these two: loopback is for the sandbox alone.
    ELSIF p_value !~ v_setting.pattern AND NOT (p_name LIKE '%\_base\_url' AND _is_loopback_ok(p_value, v_setting.pattern)) THEN
        RAISE EXCEPTION '"%" is not a value for "%"', p_value, p_name USING ERRCODE = 'invalid_parameter_value', DETAIL = v_setting.meaning || '.', HINT = 'It must match ' || v_setting.pattern || '.';
    ELSE
        INSERT INTO settings AS s (name, value) VALUES (p_name, p_value)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value, changed_at = clock_timestamp(), changed_by = session_user WHERE s.value IS DISTINCT FROM excluded.value;
    END IF;
    IF p_name IN ('default_owner_id', 'account_manager_owns', 'negative_lines', 'send_months') THEN
        IF p_name = 'send_months' AND p_value IS NOT NULL THEN
            UPDATE divisions d SET send_since = (today(d.division) - make_interval(months => p_value::integer))::date;
        END IF;
        INSERT INTO job_signals (kind, reason) VALUES ('all_deals', 'setting ' || p_name);
        PERFORM wake_worker('delivery');
    ELSIF p_name IN ('deal_capacity', 'history_capacity_percent') THEN
        -- There may be room now: what waits for it is tried at once.
        UPDATE budgets SET blocked_until = NULL, blocked_reason = NULL WHERE side = 'pipedrive' AND kind = 'creates';
        INSERT INTO job_signals (kind, reason, argument) SELECT 'replay', 'setting ' || p_name, '{"class": "capacity"}' WHERE EXISTS (SELECT FROM jobs j WHERE j.class = 'capacity' AND j.state = 'waiting');
        PERFORM wake_worker('delivery');
    ELSIF p_name = 'products' AND setting('products') = 'all' THEN
        INSERT INTO job_signals (kind, division, exact_id, reason) SELECT 'product', i.division, i.id, 'setting ' || p_name FROM exact_items i;
        PERFORM wake_worker('delivery');
    END IF;
END
$$;
COMMENT ON FUNCTION configure(text, text) IS 'Sets one of setting_list; NULL takes it back to its default.';

CREATE FUNCTION map_salesperson(exact_id uuid, pipedrive_user_id bigint) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
BEGIN
    IF map_salesperson.exact_id IS NULL THEN
        RAISE EXCEPTION 'the GUID of a salesperson is needed' USING ERRCODE = 'null_value_not_allowed', HINT = 'SELECT exact_id, name FROM exact_pd_sync.unmapped_salespeople;';
    END IF;
    IF map_salesperson.pipedrive_user_id IS NOT NULL AND NOT EXISTS (SELECT FROM pipedrive_users u WHERE u.user_id = map_salesperson.pipedrive_user_id) THEN
        RAISE EXCEPTION 'Pipedrive has no user %', map_salesperson.pipedrive_user_id
            USING ERRCODE = 'foreign_key_violation', HINT = 'SELECT user_id, name FROM exact_pd_sync.pipedrive_users; CALL exact_pd_sync.setup_pipedrive() reads them again.';
    END IF;
    INSERT INTO owner_map AS m (exact_id, name, pipedrive_user_id, matched_by)
    VALUES (map_salesperson.exact_id, (SELECT max(o.salesperson_name) FROM exact_sales_orders o WHERE o.salesperson = map_salesperson.exact_id), map_salesperson.pipedrive_user_id, 'hand')
    ON CONFLICT (exact_id) DO UPDATE SET pipedrive_user_id = excluded.pipedrive_user_id, matched_by = 'hand', changed_at = clock_timestamp();
END
$$;
COMMENT ON FUNCTION map_salesperson(uuid, bigint) IS 'Maps a salesperson of Exact to a Pipedrive user; deals that exist follow.';

CREATE FUNCTION set_default_owner(pipedrive_user_id bigint) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pipedrive_users u WHERE u.user_id = set_default_owner.pipedrive_user_id AND u.active) THEN
        RAISE EXCEPTION 'Pipedrive has no active user %', set_default_owner.pipedrive_user_id
            USING ERRCODE = 'foreign_key_violation', HINT = 'SELECT user_id, name FROM exact_pd_sync.pipedrive_users WHERE active;';
    END IF;
    PERFORM configure('default_owner_id', set_default_owner.pipedrive_user_id::text);
END
$$;
COMMENT ON FUNCTION set_default_owner(bigint) IS 'Who owns deals whose salesperson is missing, not mapped or inactive.';

CREATE FUNCTION name_adoption_field(kind text, field_name text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
BEGIN
    IF name_adoption_field.kind NOT IN ('organization', 'product', 'deal') OR name_adoption_field.kind IS NULL THEN
        RAISE EXCEPTION '"%" is not organization, product or deal', name_adoption_field.kind USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF name_adoption_field.field_name IS NULL THEN
        RAISE EXCEPTION 'the name of a field is needed' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    INSERT INTO adoption_fields (kind, field_name) VALUES (name_adoption_field.kind, name_adoption_field.field_name)
    ON CONFLICT (kind) DO UPDATE SET field_name = excluded.field_name, field_code = NULL, named_at = clock_timestamp();
    -- The scan must see it: what was looked through before did not know this field.
    DELETE FROM looks WHERE what = name_adoption_field.kind || 's' AND reason IN ('scan', 'start', 'verify') AND done_at IS NOT NULL;
    -- Jobs wait for one that is under way: it begins anew.
    UPDATE looks SET cursor = NULL, rows = 0 WHERE what = name_adoption_field.kind || 's' AND done_at IS NULL;
    RAISE NOTICE 'CALL exact_pd_sync.setup_pipedrive() finds the field at Pipedrive';
END
$$;
COMMENT ON FUNCTION name_adoption_field(text, text) IS 'Names the field in which an earlier integration kept the debtor number (organization), item code (product) or order number (deal), so that its records are taken over and not made twice. Call setup_pipedrive() afterwards.';

CREATE FUNCTION pause(part text DEFAULT 'sending') RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO parts AS p (part, paused) VALUES (pause.part, true)
    ON CONFLICT (part) DO UPDATE SET paused = true, since = CASE WHEN p.paused THEN p.since ELSE clock_timestamp() END, changed_by = session_user, reason = NULL;
    PERFORM wake_worker('delivery');
EXCEPTION WHEN check_violation OR not_null_violation THEN
    RAISE EXCEPTION 'there is no part "%"', pause.part USING ERRCODE = 'invalid_parameter_value', HINT = 'Parts: sending, orders, products, customers, invoices, contacts, history.';
END
$$;
COMMENT ON FUNCTION pause(text) IS 'Stops a part: sending, orders, products, customers, invoices, contacts or history. orders, products and customers stop the polls; history stops what is sent of history, and items nobody ordered. Nothing is lost; it is picked up at resume().';

CREATE FUNCTION resume(part text DEFAULT 'sending') RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    v_first boolean := NOT EXISTS (SELECT FROM parts p WHERE p.part = 'sending');
BEGIN
    IF resume.part = 'sending' THEN
        IF NOT (SELECT ready FROM _pipedrive_account()) THEN
            RAISE EXCEPTION 'Pipedrive is not set up yet' USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'CALL exact_pd_sync.setup_pipedrive();';
        END IF;
        IF NOT _instance_ok() THEN
            RAISE EXCEPTION 'this database is a copy, restored or promoted' USING ERRCODE = 'object_not_in_prerequisite_state',
                DETAIL = initcap(left(_instance_difference(), 1)) || substr(_instance_difference(), 2) || '. Two databases that send for one account would make everything twice.', HINT = 'If this is the one that should go on: SELECT exact_pd_sync.confirm_instance();';
        END IF;
        IF setting('default_owner_id') IS NULL THEN
            RAISE WARNING 'there is no default owner: deals without a mapped salesperson will belong to the user of the API token'
                USING HINT = 'SELECT exact_pd_sync.set_default_owner(user_id);';
        END IF;
        IF v_first THEN
            -- A restored dump fired its triggers before its links were there: compare everything anew.
            DELETE FROM job_signals WHERE kind IN ('deal', 'organization', 'product');
            INSERT INTO job_signals (kind, reason) VALUES ('compare', 'first resume');
            INSERT INTO job_signals (kind, division, exact_id, reason) SELECT 'product', i.division, i.id, 'first resume' FROM exact_items i;
        END IF;
    END IF;
    INSERT INTO parts AS p (part, paused) VALUES (resume.part, false)
    ON CONFLICT (part) DO UPDATE SET paused = false, since = CASE WHEN p.paused THEN clock_timestamp() ELSE p.since END, changed_by = session_user, reason = NULL;
    PERFORM _pipedrive_open() WHERE resume.part = 'sending';
    PERFORM wake_worker('delivery');
EXCEPTION WHEN check_violation OR not_null_violation THEN
    RAISE EXCEPTION 'there is no part "%"', resume.part USING ERRCODE = 'invalid_parameter_value', HINT = 'Parts: sending, orders, products, customers, invoices, contacts, history.';
END
$$;
COMMENT ON FUNCTION resume(text) IS 'Lets a part run. resume() without a name is the operator''s yes to sending; look at verify() and plan() first.';

CREATE FUNCTION confirm_instance() RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    INSERT INTO instance (identity) VALUES (instance_identity()::jsonb)
    ON CONFLICT (only_row) DO UPDATE SET identity = excluded.identity, confirmed_at = clock_timestamp(), confirmed_by = session_user;
    -- What was sent since the copy was taken is not known here.
    PERFORM _ask_verification('instance confirmed');
    PERFORM wake_worker('delivery');
    PERFORM wake_worker('intake');
END
$$;
COMMENT ON FUNCTION confirm_instance() IS 'A person says that this database, although restored, copied or promoted, is the one that goes on. Make sure that the other one is off. Before anything is sent, all links are verified against lists of Pipedrive (10 tokens for 500 records).';

CREATE FUNCTION replay(job bigint DEFAULT NULL, kind text DEFAULT NULL, class text DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    v_count bigint;
BEGIN
    -- A misspelled word would find nothing and look like success.
    IF replay.kind NOT IN ('organization', 'product', 'deal', 'groups') THEN
        RAISE EXCEPTION '"%" is not organization, product, deal or groups', replay.kind USING ERRCODE = 'invalid_parameter_value';
    ELSIF replay.class NOT IN ('theirs', 'ours', 'capacity', 'auth', 'limit', 'sums') THEN
        RAISE EXCEPTION '"%" is not theirs, ours, capacity, auth, limit or sums', replay.class USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT count(*) INTO v_count FROM jobs j
     WHERE (j.state = 'dead' OR j.state = 'waiting' AND j.class IN ('capacity', 'auth'))
       AND (replay.job IS NULL OR j.id = replay.job) AND (replay.kind IS NULL OR j.kind = replay.kind) AND (replay.class IS NULL OR j.class = replay.class);
    INSERT INTO job_signals (kind, reason, argument)
    VALUES ('replay', 'replay by ' || session_user, jsonb_build_object('job', replay.job, 'kind', replay.kind, 'class', replay.class));
    PERFORM wake_worker('delivery');
    RETURN v_count;
END
$$;
COMMENT ON FUNCTION replay(bigint, text, text) IS 'Lets dead letters be tried again, and what waits: one job, a kind, a class, or all. What is gone at Pipedrive is made anew. Returns how many dead letters; the worker does it.';

CREATE FUNCTION replay_cause(cause text, kind text DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    v_count bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM dead_causes c WHERE c.cause = replay_cause.cause) THEN
        RAISE EXCEPTION 'there is no cause "%"', replay_cause.cause USING ERRCODE = 'invalid_parameter_value', HINT = 'SELECT cause, reason FROM exact_pd_sync.dead_letter_groups;';
    END IF;
    SELECT count(*) INTO v_count FROM dead_letters d
     WHERE d.job IS NOT NULL AND d.cause = replay_cause.cause AND (replay_cause.kind IS NULL OR d.kind = replay_cause.kind);
    INSERT INTO job_signals (kind, reason, argument)
    VALUES ('replay', 'replay by ' || session_user, jsonb_build_object('cause', replay_cause.cause, 'kind', replay_cause.kind));
    PERFORM wake_worker('delivery');
    RETURN v_count;
END
$$;
COMMENT ON FUNCTION replay_cause(text, text) IS 'Lets the dead letters of one cause (dead_letter_groups) be tried again. Returns how many; the worker does it.';

CREATE FUNCTION dismiss_refused_row(id bigint) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    DELETE FROM refused_rows r WHERE r.id = dismiss_refused_row.id;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION dismiss_refused_row(bigint) IS 'A person has looked at a row of Exact that could not be stored, and it is not needed: it leaves the dead letters. Read again with other content, it stands there again.';

CREATE FUNCTION resync(kind text, exact_id uuid DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    v_count bigint := 0;
BEGIN
    IF resync.kind NOT IN ('organization', 'product', 'deal') OR resync.kind IS NULL THEN
        RAISE EXCEPTION '"%" is not organization, product or deal', resync.kind USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF resync.exact_id IS NULL THEN
        INSERT INTO job_signals (kind, reason) VALUES ('all_' || resync.kind || 's', 'resync by ' || session_user);
        SELECT count(*) INTO v_count FROM links l WHERE l.kind = resync.kind;
    ELSE
        -- The worker forgets what was sent, not which record it is: everything goes out once more.
        INSERT INTO job_signals (kind, division, exact_id, reason, argument)
        SELECT resync.kind, s.division, resync.exact_id, 'resync by ' || session_user, '{"whole": true}'
          FROM (SELECT o.division FROM exact_sales_orders o WHERE resync.kind = 'deal' AND o.id = resync.exact_id
                UNION ALL SELECT a.division FROM exact_accounts a WHERE resync.kind = 'organization' AND a.id = resync.exact_id
                UNION ALL SELECT i.division FROM exact_items i WHERE resync.kind = 'product' AND i.id = resync.exact_id) s;
        GET DIAGNOSTICS v_count = ROW_COUNT;
    END IF;
    PERFORM wake_worker('delivery');
    RETURN v_count;
END
$$;
COMMENT ON FUNCTION resync(text, uuid) IS 'Compares all records of a kind with what was sent, or sends one record whole once more.';

CREATE FUNCTION stop_worker() RETURNS boolean LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'epds_stop_worker';
COMMENT ON FUNCTION stop_worker() IS 'Stops the workers of this database until start_worker() or the next start of the server, also after a crash: it clears the way for a moment''s work on the database. To stop sending for good: pause(). True when they are gone.';
CREATE FUNCTION start_worker() RETURNS boolean LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'epds_start_worker';
COMMENT ON FUNCTION start_worker() IS 'Lets the launcher start the workers of this database again.';
CREATE FUNCTION worker_pid(p_kind text) RETURNS integer LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'epds_worker_pid_sql';
COMMENT ON FUNCTION worker_pid(text) IS 'Process id of the delivery or intake worker of this database; 0 = none.';
CREATE FUNCTION worker_trouble(p_kind text) RETURNS text LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'epds_worker_trouble_sql';
COMMENT ON FUNCTION worker_trouble(text) IS 'Why the delivery or intake worker of this database does not run or cannot do its work; NULL when there is nothing to tell. Status shows it.';
CREATE FUNCTION preloaded() RETURNS boolean LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'epds_preloaded';
COMMENT ON FUNCTION preloaded() IS 'Is the library in shared_preload_libraries? Without it there are no workers.';

CREATE FUNCTION _check_role(p_role text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    IF p_role IS NULL THEN
        RAISE EXCEPTION 'the name of a role is needed' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = p_role) THEN
        RAISE EXCEPTION 'role "%" does not exist', p_role USING ERRCODE = 'undefined_object', HINT = format('CREATE ROLE %I;', p_role);
    END IF;
END
$$;
COMMENT ON FUNCTION _check_role(text) IS 'ERROR when a role does not exist.';

CREATE FUNCTION grant_reader(role text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_table text;
BEGIN
    PERFORM _check_role(grant_reader.role);
    EXECUTE format('GRANT USAGE ON SCHEMA exact_pd_sync TO %I', grant_reader.role);
    FOR v_table IN SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'exact_pd_sync'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname NOT IN ('credentials', 'exact_consent') LOOP
        EXECUTE format('GRANT SELECT ON exact_pd_sync.%I TO %I', v_table, grant_reader.role);
    END LOOP;
    EXECUTE format('GRANT EXECUTE ON FUNCTION exact_pd_sync.plan(), exact_pd_sync.trace(bigint, integer), exact_pd_sync.setting(text), exact_pd_sync.today(integer), exact_pd_sync.status_text(integer), exact_pd_sync._status_rule(text, text, text), exact_pd_sync._stage_rule(text, text, text), exact_pd_sync.is_paused(text), exact_pd_sync._status_rows(), exact_pd_sync._calls_for(text, integer[], uuid[], boolean), exact_pd_sync._calls_deals(integer[], uuid[], boolean), exact_pd_sync._calls_objects(text, integer[], uuid[]), exact_pd_sync._calls_groups(), exact_pd_sync._is_wanted(text, integer, uuid), exact_pd_sync._keys(integer[], uuid[]), exact_pd_sync.line_mix(integer, integer, integer), exact_pd_sync._body_diff(jsonb, jsonb), exact_pd_sync._body_old(jsonb, jsonb), exact_pd_sync._deal_kept(jsonb, boolean, boolean, boolean, boolean), exact_pd_sync._policy_body(text, jsonb, text[]), exact_pd_sync._field_policy(text, text), exact_pd_sync._closing_discount(numeric, numeric), exact_pd_sync._line_net(numeric, numeric, numeric), exact_pd_sync._wanted_lines(integer, uuid, boolean, numeric, numeric) TO %I', grant_reader.role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION exact_pd_sync._object_name(text, integer, uuid), exact_pd_sync._object_text(text, text, text), exact_pd_sync._dead_cause(text), exact_pd_sync.health(), exact_pd_sync.metrics(), exact_pd_sync.counters() TO %I', grant_reader.role);
END
$$;
COMMENT ON FUNCTION grant_reader(text) IS 'Lets a role (an analyst) read everything but secrets.';

CREATE FUNCTION grant_operator(role text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM grant_reader(grant_operator.role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION exact_pd_sync.set_exact_app(text, text, text, text, text), exact_pd_sync.exact_authorize_url(), exact_pd_sync.add_division(integer, text, text, text), exact_pd_sync.set_pipedrive_account(text, text), exact_pd_sync.configure(text, text), exact_pd_sync.map_salesperson(uuid, bigint), exact_pd_sync.set_default_owner(bigint), exact_pd_sync.name_adoption_field(text, text), exact_pd_sync.set_field_policy(text, text, text), exact_pd_sync.verify(), exact_pd_sync.pause(text), exact_pd_sync.resume(text), exact_pd_sync.replay(bigint, text, text), exact_pd_sync.resync(text, uuid), exact_pd_sync.stop_worker(), exact_pd_sync.start_worker() TO %I', grant_operator.role);
    EXECUTE format('GRANT EXECUTE ON PROCEDURE exact_pd_sync.exact_authorize(text), exact_pd_sync.setup_pipedrive(), exact_pd_sync.poll_orders(), exact_pd_sync.poll_customers(), exact_pd_sync.poll_products(), exact_pd_sync.poll_all(), exact_pd_sync.import_history(integer, integer), exact_pd_sync.reconcile(), exact_pd_sync.subscribe_webhooks(text, text), exact_pd_sync.unsubscribe_webhooks() TO %I', grant_operator.role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION exact_pd_sync.replay_cause(text, text), exact_pd_sync.dismiss_refused_row(bigint) TO %I', grant_operator.role);
    EXECUTE format('GRANT INSERT, UPDATE, DELETE ON exact_pd_sync.status_rules TO %I', grant_operator.role);
    EXECUTE format('GRANT INSERT ON exact_pd_sync.job_signals TO %I', grant_operator.role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION exact_pd_sync.wake_worker(text), exact_pd_sync._signal_all() TO %I', grant_operator.role);
END
$$;
COMMENT ON FUNCTION grant_operator(text) IS 'Lets a role run the sync: connect, poll, map, change rules, pause, replay. It cannot read secrets, nor confirm a copied database.';

CREATE FUNCTION grant_receiver(role text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM _check_role(grant_receiver.role);
    EXECUTE format('GRANT USAGE ON SCHEMA exact_pd_sync TO %I', grant_receiver.role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION exact_pd_sync.receive_exact_webhook(bytea) TO %I', grant_receiver.role);
END
$$;
COMMENT ON FUNCTION grant_receiver(text) IS 'Lets the role of an HTTP front hand notifications in with receive_exact_webhook(), and nothing else.';

CREATE FUNCTION grant_worker(role text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM _check_role(grant_worker.role);
    EXECUTE format('GRANT USAGE ON SCHEMA exact_pd_sync TO %I', grant_worker.role);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA exact_pd_sync TO %I', grant_worker.role);
    EXECUTE format('GRANT USAGE ON ALL SEQUENCES IN SCHEMA exact_pd_sync TO %I', grant_worker.role);
    EXECUTE format('GRANT EXECUTE ON ALL ROUTINES IN SCHEMA exact_pd_sync TO %I', grant_worker.role);
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO %I', current_database(), grant_worker.role);
    IF NOT EXISTS (SELECT FROM pg_policy y WHERE y.polrelid = 'exact_pd_sync.credentials'::regclass AND y.polname = 'worker_' || md5(grant_worker.role)) THEN
        EXECUTE format('CREATE POLICY worker_%s ON exact_pd_sync.credentials TO %I USING (true) WITH CHECK (true)', md5(grant_worker.role), grant_worker.role);
    END IF;
END
$$;
COMMENT ON FUNCTION grant_worker(text) IS 'Gives a role what exact_pd_sync.role needs: all tables and routines, and the secrets.';
