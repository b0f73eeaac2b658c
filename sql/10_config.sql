/*
 * 10_config.sql
 *		What a person decides: settings, divisions, rules, mappings, pauses,
 *		and the place where secrets are kept.
 *
 * Rows of tables that are part of a dump are never inserted by this script
 * (they would collide on restore): setup_pipedrive() and the operator
 * functions make them.
 */

-- ------------------------------------------------------------------ settings

CREATE TABLE settings (
    name        text PRIMARY KEY,
    value       text NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by  text NOT NULL DEFAULT session_user
);
COMMENT ON TABLE settings IS 'Choices of this customer that differ from the defaults; set with configure(). Never a secret.';
COMMENT ON COLUMN settings.name IS 'One of the names in view setting_list.';
COMMENT ON COLUMN settings.value IS 'The chosen value as text.';
COMMENT ON COLUMN settings.changed_at IS 'When it was chosen.';
COMMENT ON COLUMN settings.changed_by IS 'The role that chose it.';
SELECT pg_catalog.pg_extension_config_dump('settings', '');

CREATE VIEW setting_list AS
SELECT d.name, coalesce(s.value, d.default_value) AS value, d.default_value, d.pattern, d.meaning
  FROM (VALUES
    ('exact_base_url', NULL::text, '^https://start\.exactonline\.(nl|be|de|co\.uk|com|es|fr)$', 'Site of Exact Online; set by set_exact_app()'),
    ('exact_client_id', NULL, '^.+$', 'Client id of the app in the Exact App Center; set by set_exact_app()'),
    ('exact_redirect_uri', NULL, '^https?://.+$', 'Redirect URI as registered for the app; set by set_exact_app()'),
    ('exact_overlap', '2000', '^[0-9]{1,9}$', 'How many rowversions below the stored position each poll reads again, because a long transaction at Exact may commit a lower value late'),
    ('webhook_callback_url', NULL, '^(https://[^ ]{1,250}|http://(127[.]0[.]0[.]1|localhost|\[::1\])[:/][^ ]{1,200})$', 'Where Exact sends its notifications; set by subscribe_webhooks()'),
    ('pipedrive_callback_url', NULL, '^(https://[^ ]{1,250}|http://(127[.]0[.]0[.]1|localhost|\[::1\])[:/][^ ]{1,200})$', 'Where Pipedrive sends its notifications; set by subscribe_webhooks()'),
    ('pipedrive_base_url', NULL, '^https://[a-z0-9][a-z0-9-]{0,62}\.pipedrive\.com$', 'Company address at Pipedrive; set by set_pipedrive_account()'),
    ('pipeline', 'Bestellingen', '^.{1,255}$', 'Name of the pipeline the deals live in; found or made by setup_pipedrive()'),
    ('default_owner_id', NULL, '^[0-9]{1,18}$', 'Pipedrive user who owns what nobody else does; set by set_default_owner()'),
    ('account_manager_owns', 'off', '^(on|off)$', 'When an order has no mapped salesperson, let the account manager of its customer own the deal before the default owner does'),
    ('send_months', '12', '^[0-9]{1,3}$', 'Orders up to this many months old are sent, older ones only while they are open; set by import_history()'),
    ('products', 'all', '^(all|ordered)$', 'all: every sales item becomes a product; ordered: only items on an order that is sent'),
    ('negative_lines', 'send', '^(send|value_only)$', 'send: lines with a negative quantity are sent as they are; value_only: such deals carry their value without lines (set by itself when Pipedrive refuses one)'),
    ('zero_lines', 'send', '^(send|skip)$', 'send: lines of quantity zero are sent; skip: they are left out (set by itself when Pipedrive refuses one)'),
    ('won_time_on_create', 'on', '^(on|off)$', 'on: a deal made as won or lost gets its time in the same call; off: in a second one, for 5 tokens more (set by itself when Pipedrive refuses it)'),
    ('live_orders_most', '200', '^[1-9][0-9]{0,5}$', 'When more orders than this change at once, only those of the last seven days count as live; the others do not use what is kept for live orders'),
    ('live_reserve_percent', '20', '^[0-9]{1,2}$', 'Part of the daily tokens kept for live orders; history and catalogue stop there, open orders at half of it'),
    ('daily_tokens', NULL, '^[0-9]{1,9}$', 'Daily tokens of the Pipedrive company when its answers do not tell (30,000 x plan x seats)'),
    ('burst_limit', NULL, '^[0-9]{1,9}$', 'Requests per 2 seconds when the answers do not tell; 0 = none'),
    ('deal_capacity', NULL, '^[0-9]{1,9}$', 'How many deals the Pipedrive plan holds (plan x seats); used to warn, and to stop history at history_capacity_percent of it'),
    ('history_capacity_percent', '80', '^[0-9]{1,3}$', 'History is no longer sent when this part of deal_capacity is in use'),
    ('list_lag', '5', '^[0-9]{1,3}$', 'Seconds that a new record may take to appear in Pipedrive''s lists: so long a create without an answer waits before it is looked up'),
    ('gone_percent', '20', '^([0-9]{1,2}|100)$', 'When more than this part of all records is missing in Pipedrive''s lists (and more than 20), reconcile() concludes nothing from it'),
    ('max_attempts', '10', '^[0-9]{1,3}$', 'Attempts before a job that keeps failing becomes a dead letter'),
    ('retention_days', '90', '^[0-9]{1,4}$', 'How long journals are kept: api_calls, sync_runs, sync_changes, notifications, findings and results of reconcile()')
  ) AS d(name, default_value, pattern, meaning)
  LEFT JOIN settings s ON s.name = d.name;
COMMENT ON VIEW setting_list IS 'Every setting with its value in force, its default and what it means. Change one with configure(name, value).';

CREATE FUNCTION setting(p_name text) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_value text;
BEGIN
    SELECT s.value INTO v_value FROM settings s WHERE s.name = p_name;
    IF NOT FOUND THEN
        SELECT l.default_value INTO v_value FROM setting_list l WHERE l.name = p_name;
    END IF;
    RETURN v_value;
END
$$;
COMMENT ON FUNCTION setting(text) IS 'The value in force of a setting; NULL if it has none.';

-- ----------------------------------------------------------------- divisions

CREATE TABLE divisions (
    division         integer PRIMARY KEY CHECK (division > 0),
    name             text,
    currency         text NOT NULL DEFAULT 'EUR',
    time_zone        text NOT NULL DEFAULT 'Europe/Amsterdam',
    send_since       date,
    stage_since      date,
    imported_at      timestamptz,
    live_since       timestamptz,
    division_move    timestamp,
    added_at         timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE divisions IS 'The Exact divisions (administraties) that are read; add_division() adds one.';
COMMENT ON COLUMN divisions.division IS 'Number of the division as it stands in Exact''s URLs.';
COMMENT ON COLUMN divisions.name IS 'Description of the division at Exact.';
COMMENT ON COLUMN divisions.currency IS 'Currency of the division (DC in Exact''s field names), ISO 4217.';
COMMENT ON COLUMN divisions.time_zone IS 'Zone of Exact''s wall clock and of "today" for this division (exact-online 2.4).';
COMMENT ON COLUMN divisions.send_since IS 'Orders before this day are sent only while they are open; NULL: setting send_months back from today.';
COMMENT ON COLUMN divisions.stage_since IS 'Orders since this day are staged by import_history(): dormant and first-time customers need the past.';
COMMENT ON COLUMN divisions.imported_at IS 'When import_history() last came to its end.';
COMMENT ON COLUMN divisions.live_since IS 'Without an import: when the feeds of orders first came to their end. What changes after imported_at, or else this, is a live order.';
COMMENT ON COLUMN divisions.division_move IS 'Exact''s DivisionMoveDate last seen; when it changes all rowversions are new and feeds start again (exact-online 7).';
COMMENT ON COLUMN divisions.added_at IS 'When the division was added.';
SELECT pg_catalog.pg_extension_config_dump('divisions', '');

CREATE FUNCTION today(p_division integer) RETURNS date
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT (clock_timestamp() AT TIME ZONE coalesce((SELECT d.time_zone FROM exact_pd_sync.divisions d WHERE d.division = p_division), 'Europe/Amsterdam'))::date $$;
COMMENT ON FUNCTION today(integer) IS 'The calendar day in the zone of a division.';

-- --------------------------------------------------------------------- rules

CREATE TABLE status_rules (
    priority         integer PRIMARY KEY,
    status           text,
    delivery_status  text,
    invoice_status   text,
    deal_status      text CHECK (deal_status IN ('open', 'won', 'lost')),
    lost_reason      text CHECK (lost_reason IS NULL OR length(lost_reason) BETWEEN 1 AND 150),
    stage            text,
    note             text,
    CONSTRAINT status_rules_one_decision CHECK ((deal_status IS NULL) <> (stage IS NULL)),
    CONSTRAINT status_rules_reason_needs_lost CHECK (lost_reason IS NULL OR deal_status = 'lost')
);
COMMENT ON TABLE status_rules IS 'What Exact''s three status fields mean for a deal. Deal status and stage are decided apart: for each, the matching rule with the lowest priority number wins. Change rows in a transaction and look at plan() before COMMIT.';
COMMENT ON COLUMN status_rules.priority IS 'Lower comes first.';
COMMENT ON COLUMN status_rules.status IS '''*'' = any, a code such as ''21'', or NULL for an order whose Status is null. Codes: 12 open, 20 partial, 21 complete, 45 cancelled (exact-online 5.1).';
COMMENT ON COLUMN status_rules.delivery_status IS 'The same for DeliveryStatus.';
COMMENT ON COLUMN status_rules.invoice_status IS 'The same for InvoiceStatus.';
COMMENT ON COLUMN status_rules.deal_status IS 'open, won or lost; NULL when this rule decides the stage.';
COMMENT ON COLUMN status_rules.lost_reason IS 'Reason shown in Pipedrive when the deal is lost.';
COMMENT ON COLUMN status_rules.stage IS 'Name of a stage in pipedrive_stages; NULL when this rule decides the deal status.';
COMMENT ON COLUMN status_rules.note IS 'For the reader.';
SELECT pg_catalog.pg_extension_config_dump('status_rules', '');

CREATE TABLE owner_map (
    exact_id           uuid PRIMARY KEY,
    name               text,
    email              text,
    pipedrive_user_id  bigint,
    matched_by         text NOT NULL DEFAULT 'hand' CHECK (matched_by IN ('hand', 'email', 'name', 'feed')),
    changed_at         timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE owner_map IS 'Exact salesperson to Pipedrive user. Rows without a user are salespeople nobody has mapped yet.';
COMMENT ON COLUMN owner_map.exact_id IS 'GUID as it stands in the order''s Salesperson (user or employee, exact-online 4.6).';
COMMENT ON COLUMN owner_map.name IS 'Name at Exact.';
COMMENT ON COLUMN owner_map.email IS 'Business e-mail at Exact when the app may read employees.';
COMMENT ON COLUMN owner_map.pipedrive_user_id IS 'User in pipedrive_users; NULL = not mapped, the default owner takes over.';
COMMENT ON COLUMN owner_map.matched_by IS 'hand: map_salesperson(); email, name: matched by setup_pipedrive(); feed: seen, not matched.';
COMMENT ON COLUMN owner_map.changed_at IS 'Last change of this row.';
SELECT pg_catalog.pg_extension_config_dump('owner_map', '');

CREATE TABLE adoption_fields (
    kind        text PRIMARY KEY CHECK (kind IN ('organization', 'product', 'deal')),
    field_name  text NOT NULL,
    field_code  text,
    named_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE adoption_fields IS 'In which field an earlier integration kept the debtor number, item code or order number; name_adoption_field() fills it. Used by the scan before the first create.';
COMMENT ON COLUMN adoption_fields.kind IS 'organization: debtor number; product: item code; deal: order number.';
COMMENT ON COLUMN adoption_fields.field_name IS 'Name of the field as people see it in Pipedrive (or code, name, title for the built-in ones).';
COMMENT ON COLUMN adoption_fields.field_code IS 'Its key, found by setup_pipedrive().';
COMMENT ON COLUMN adoption_fields.named_at IS 'When it was named.';
SELECT pg_catalog.pg_extension_config_dump('adoption_fields', '');

-- ------------------------------------------------------------------ Pipedrive

CREATE TABLE pipedrive_users (
    user_id     bigint PRIMARY KEY,
    name        text,
    email       text,
    active      boolean NOT NULL,
    is_me       boolean NOT NULL DEFAULT false,
    read_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE pipedrive_users IS 'Users of the Pipedrive company as last read (pipedrive 12).';
COMMENT ON COLUMN pipedrive_users.user_id IS 'Id at Pipedrive.';
COMMENT ON COLUMN pipedrive_users.name IS 'Name.';
COMMENT ON COLUMN pipedrive_users.email IS 'E-mail.';
COMMENT ON COLUMN pipedrive_users.active IS 'May own new deals. An inactive user keeps what it owns.';
COMMENT ON COLUMN pipedrive_users.is_me IS 'The user whose token we use.';
COMMENT ON COLUMN pipedrive_users.read_at IS 'When this was read.';
SELECT pg_catalog.pg_extension_config_dump('pipedrive_users', '');

CREATE TABLE pipedrive_stages (
    name         text PRIMARY KEY,
    order_nr     integer NOT NULL UNIQUE,
    pipeline_id  bigint,
    stage_id     bigint,
    remote_name  text,
    state        text NOT NULL DEFAULT 'missing' CHECK (state IN ('missing', 'found', 'made', 'gone'))
);
COMMENT ON TABLE pipedrive_stages IS 'The stages the rules speak of and their ids at Pipedrive. A stage renamed in Pipedrive keeps its place here.';
COMMENT ON COLUMN pipedrive_stages.name IS 'Name the rules use.';
COMMENT ON COLUMN pipedrive_stages.order_nr IS 'Position in the pipeline; 1 is the stage of a new order.';
COMMENT ON COLUMN pipedrive_stages.pipeline_id IS 'Pipeline at Pipedrive.';
COMMENT ON COLUMN pipedrive_stages.stage_id IS 'Stage at Pipedrive; NULL until setup_pipedrive().';
COMMENT ON COLUMN pipedrive_stages.remote_name IS 'What it is called at Pipedrive now.';
COMMENT ON COLUMN pipedrive_stages.state IS 'missing, found (was there), made (by us), gone (deleted by a person).';
SELECT pg_catalog.pg_extension_config_dump('pipedrive_stages', '');

CREATE TABLE pipedrive_fields (
    entity      text NOT NULL CHECK (entity IN ('deal', 'organization', 'product')),
    purpose     text NOT NULL,
    name        text NOT NULL,
    field_type  text NOT NULL,
    code        text,
    state       text NOT NULL DEFAULT 'missing' CHECK (state IN ('missing', 'found', 'made', 'gone', 'retyped')),
    PRIMARY KEY (entity, purpose)
);
COMMENT ON TABLE pipedrive_fields IS 'Our custom fields at Pipedrive (pipedrive 11).';
COMMENT ON COLUMN pipedrive_fields.entity IS 'deal, organization or product.';
COMMENT ON COLUMN pipedrive_fields.purpose IS 'What we keep in it: exact_id, order_number, order_date …';
COMMENT ON COLUMN pipedrive_fields.name IS 'Name as people see it.';
COMMENT ON COLUMN pipedrive_fields.field_type IS 'Type at Pipedrive.';
COMMENT ON COLUMN pipedrive_fields.code IS 'Key at Pipedrive, 40 hexadecimal characters; NULL until setup_pipedrive(). A field without a key is left out of what is sent.';
COMMENT ON COLUMN pipedrive_fields.state IS 'missing, found, made, gone (deleted by a person), retyped (another type: not used).';
SELECT pg_catalog.pg_extension_config_dump('pipedrive_fields', '');

CREATE TABLE pipedrive_options (
    label      text PRIMARY KEY,
    option_id  bigint NOT NULL
);
COMMENT ON TABLE pipedrive_options IS 'Options of the product field Artikelgroep: one per label, shared by item groups of the same name.';
COMMENT ON COLUMN pipedrive_options.label IS 'Text of the option.';
COMMENT ON COLUMN pipedrive_options.option_id IS 'Id at Pipedrive.';
SELECT pg_catalog.pg_extension_config_dump('pipedrive_options', '');

-- ------------------------------------------------- pauses, identity, secrets

CREATE TABLE parts (
    part        text PRIMARY KEY CHECK (part IN ('sending', 'orders', 'products', 'customers', 'invoices', 'contacts', 'history')),
    paused      boolean NOT NULL,
    since       timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by  text NOT NULL DEFAULT session_user,
    reason      text
);
COMMENT ON TABLE parts IS 'Which parts run. Sending without a row is paused; any other part without a row runs. Not part of a dump: a restored database starts paused.';
COMMENT ON COLUMN parts.part IS 'sending, orders, products, customers, invoices, contacts or history.';
COMMENT ON COLUMN parts.paused IS 'True: pause() was called.';
COMMENT ON COLUMN parts.since IS 'Since when.';
COMMENT ON COLUMN parts.changed_by IS 'Who said so.';
COMMENT ON COLUMN parts.reason IS 'Why, when the software paused it by itself.';

CREATE FUNCTION is_paused(p_part text) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$ SELECT coalesce((SELECT p.paused FROM exact_pd_sync.parts p WHERE p.part = p_part), p_part = 'sending') $$;
COMMENT ON FUNCTION is_paused(text) IS 'Is a part paused? Sending is, until resume() was called once.';

CREATE TABLE instance (
    only_row      boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    identity      jsonb NOT NULL,
    confirmed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    confirmed_by  text NOT NULL DEFAULT session_user,
    stale_since   timestamptz
);
COMMENT ON TABLE instance IS 'Which database this is. A copy, a restore or a promotion has another identity, and then nothing goes out until confirm_instance(). Not part of a dump.';
COMMENT ON COLUMN instance.only_row IS 'There is one row.';
COMMENT ON COLUMN instance.identity IS 'System identifier, WAL timeline, database OID and name, inode of global/pg_control.';
COMMENT ON COLUMN instance.confirmed_at IS 'When a person (or the installation) said that this is the one.';
COMMENT ON COLUMN instance.confirmed_by IS 'Who.';
COMMENT ON COLUMN instance.stale_since IS 'Staging is of the past of a restored database until orders, customers and products have been read from Exact since then: what was sent in between must not be taken back. NULL: it is not.';

CREATE FUNCTION instance_identity() RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'epds_instance_identity';
COMMENT ON FUNCTION instance_identity() IS 'The identity of the running database as JSON: system identifier, timeline, database OID and name, inode of global/pg_control.';

CREATE FUNCTION _instance_difference() RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_now   jsonb := instance_identity()::jsonb;
    v_then  jsonb;
BEGIN
    SELECT identity INTO v_then FROM instance;
    IF v_then = v_now THEN
        RETURN NULL;
    ELSIF v_then IS NULL THEN
        -- A dump brings links and positions, but no identity.  A new installation has none of these.
        RETURN CASE WHEN EXISTS (SELECT FROM credentials) OR EXISTS (SELECT FROM links) OR EXISTS (SELECT FROM feed_positions)
                    THEN 'it came out of a dump' END;
    -- A fail-over raises the timeline, on another file system; an installation may wave that through.
    ELSIF (v_then - 'timeline' - 'control_inode') = (v_now - 'timeline' - 'control_inode')
          AND (v_now->>'timeline')::bigint > (v_then->>'timeline')::bigint
          AND coalesce(current_setting('exact_pd_sync.resume_after_promotion', true), 'off')::boolean THEN
        RETURN NULL;
    END IF;
    RETURN CASE WHEN v_then->'system_identifier' IS DISTINCT FROM v_now->'system_identifier' THEN 'it is in another cluster'
                WHEN v_then->'database_oid' IS DISTINCT FROM v_now->'database_oid' THEN format('it is a copy of database "%s"', v_then->>'database_name')
                WHEN v_then->'database_name' IS DISTINCT FROM v_now->'database_name' THEN format('it was renamed from "%s"', v_then->>'database_name')
                WHEN v_then->'timeline' IS DISTINCT FROM v_now->'timeline' THEN format('timeline %s instead of %s: a standby was promoted or a backup recovered', v_now->>'timeline', v_then->>'timeline')
                ELSE 'its files were copied' END;
END
$$;
COMMENT ON FUNCTION _instance_difference() IS 'What tells this database from the one that a person confirmed, in words; NULL when it is that one. A promotion is no difference while exact_pd_sync.resume_after_promotion is on.';

CREATE FUNCTION _instance_ok() RETURNS boolean
    LANGUAGE sql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$ SELECT _instance_difference() IS NULL $$;
COMMENT ON FUNCTION _instance_ok() IS 'Is this the database that a person confirmed? False stops all outbound traffic.';

CREATE FUNCTION _note_promotion() RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM instance i WHERE i.identity <> instance_identity()::jsonb) AND _instance_ok() THEN
        UPDATE instance SET identity = instance_identity()::jsonb, confirmed_at = clock_timestamp(), confirmed_by = 'resume_after_promotion';
        -- The last seconds before the promotion may be lost.
        PERFORM _ask_verification('promotion');
    END IF;
END
$$;
COMMENT ON FUNCTION _note_promotion() IS 'After a fail-over that exact_pd_sync.resume_after_promotion waves through: notes the new identity and has everything compared with Pipedrive before anything is sent.';

CREATE TABLE credentials (
    name        text PRIMARY KEY,
    value       bytea NOT NULL,
    sealed      boolean NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE credentials ENABLE ROW LEVEL SECURITY;
COMMENT ON TABLE credentials IS 'Secrets and tokens, for the role of the worker alone (row security keeps pg_read_all_data out). Never dumped, never logged.';
COMMENT ON COLUMN credentials.name IS 'exact_client_secret, exact_webhook_secret, exact_access_token, exact_refresh_token, exact_consent_code (for a moment), pipedrive_api_token, pipedrive_webhook_password.';
COMMENT ON COLUMN credentials.value IS 'The secret; sealed with AES-256-GCM when exact_pd_sync.key_file is set.';
COMMENT ON COLUMN credentials.sealed IS 'Whether it is sealed.';
COMMENT ON COLUMN credentials.changed_at IS 'When it was stored.';

CREATE FUNCTION store_secret(p_name text, p_value text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'epds_store_secret';
COMMENT ON FUNCTION store_secret(text, text) IS 'Stores a secret: the value itself, or file:NAME for a file in exact_pd_sync.secrets_directory. Called by set_exact_app() and set_pipedrive_account().';

CREATE TABLE exact_consent (
    only_row           boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    state              text NOT NULL CHECK (state IN ('ok', 'auth_required')),
    generation         bigint NOT NULL DEFAULT 0,
    issued_at          timestamptz,
    access_expires_at  timestamptz,
    last_error         text,
    refused            text CHECK (refused IN ('app', 'consent')),
    failures           integer NOT NULL DEFAULT 0,
    retry_at           timestamptz,
    calls_today        integer NOT NULL DEFAULT 0,
    calls_day          date NOT NULL DEFAULT (clock_timestamp() AT TIME ZONE 'UTC')::date,
    oauth_state        text,
    oauth_state_at     timestamptz,
    handed_in_result   text
);
COMMENT ON TABLE exact_consent IS 'How the consent at Exact stands (exact-online 1). The tokens themselves are in credentials. Not part of a dump.';
COMMENT ON COLUMN exact_consent.only_row IS 'There is one row.';
COMMENT ON COLUMN exact_consent.state IS 'ok, or auth_required: a person must open exact_authorize_url() again, or correct the app''s secret (see refused).';
COMMENT ON COLUMN exact_consent.generation IS 'Counts the token pairs.';
COMMENT ON COLUMN exact_consent.issued_at IS 'When the pair in use was given.';
COMMENT ON COLUMN exact_consent.access_expires_at IS 'When its access token ends.';
COMMENT ON COLUMN exact_consent.last_error IS 'Last refusal of the token endpoint.';
COMMENT ON COLUMN exact_consent.refused IS 'What Exact did not accept: app (id or secret: set_exact_app() mends it) or consent (the refresh token: exact_authorize_url()); NULL when it did not say.';
COMMENT ON COLUMN exact_consent.failures IS 'Refreshes in a row that brought no pair, those counted whose answer nobody lived to see.';
COMMENT ON COLUMN exact_consent.retry_at IS 'No session and no worker asks for a pair before: noted before the call, so that neither a crash nor many sessions can hammer the endpoint.';
COMMENT ON COLUMN exact_consent.calls_today IS 'Token calls made today (UTC); Exact allows 200.';
COMMENT ON COLUMN exact_consent.calls_day IS 'The day they are counted for.';
COMMENT ON COLUMN exact_consent.oauth_state IS 'Random text of the last authorize URL, compared when the browser comes back.';
COMMENT ON COLUMN exact_consent.oauth_state_at IS 'When that URL was made.';
COMMENT ON COLUMN exact_consent.handed_in_result IS 'What became of the last code that came through the listener: ok, the reason why not, NULL = under way.';
