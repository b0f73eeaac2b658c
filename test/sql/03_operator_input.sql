-- The operator's functions with wrong arguments, or too early: an error class,
-- a reason, and the statement that mends it.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture
DELETE FROM parts;

-- set_exact_app(): only Exact's own sites; the refresh token is sent there
SELECT t.error($$SELECT set_exact_app(NULL, 's', 'https://me.example.com/')$$);
SELECT t.error($$SELECT set_exact_app('id', NULL, 'https://me.example.com/')$$);
SELECT t.error($$SELECT set_exact_app('id', 's', 'https://me.example.com/', base_url => 'https://start.exactonline.nl.example.com')$$);
SELECT t.error($$SELECT set_exact_app('id', 's', 'https://me.example.com/', base_url => 'http://start.exactonline.nl')$$);
SELECT t.error($$SELECT set_exact_app('id', 's', 'no address')$$);
SELECT t.error($$SELECT exact_authorize_url()$$);
SELECT set_exact_app('id', 's', 'https://me.example.com/back?a=1', base_url => 'https://start.exactonline.be/');
SELECT regexp_replace(exact_authorize_url(), 'state=[0-9a-f]{64}', 'state=64 random digits') AS url;

-- set_pipedrive_account(): only company addresses
SELECT t.error($$SELECT set_pipedrive_account(NULL, 'https://company.pipedrive.com')$$);
SELECT t.error($$SELECT set_pipedrive_account('t', 'company')$$);
SELECT t.error($$SELECT set_pipedrive_account('t', 'https://pipedrive.com.example.com')$$);
SELECT t.error($$SELECT set_pipedrive_account('t', 'https://user@company.pipedrive.com')$$);
SELECT t.error($$SELECT set_pipedrive_account('t', 'https://company.pipedrive.com:8443')$$);

-- loopback is for the sandbox alone
SET LOCAL exact_pd_sync.allow_insecure_http = off;
SELECT t.error($$SELECT set_pipedrive_account('t', 'http://127.0.0.1:8080')$$);
SET LOCAL exact_pd_sync.allow_insecure_http = on;
SELECT t.error($$SELECT set_pipedrive_account('t', 'http://127.0.0.1:8080')$$);
SELECT t.error($$SELECT set_pipedrive_account('t', 'http://127.0.0.1.example.com')$$);
SELECT t.error($$SELECT set_pipedrive_account('t', 'http://10.0.0.1')$$);

-- add_division()
SELECT t.error($$SELECT add_division(NULL)$$);
SELECT t.error($$SELECT add_division(-1)$$);
SELECT t.error($$SELECT add_division(200, time_zone => 'Europe/Utrecht')$$);
SELECT add_division(200, name => 'Tweede');
SELECT add_division(200, currency => 'GBP');
SELECT division, name, currency, time_zone FROM divisions ORDER BY division;

-- mapping
SELECT t.error($$SELECT map_salesperson(t.sid(1), 99)$$);
SELECT t.error($$SELECT map_salesperson(NULL, 2)$$);
SELECT t.error($$SELECT set_default_owner(99)$$);
SELECT t.error($$SELECT set_default_owner(4)$$);
SELECT t.error($$SELECT set_default_owner(NULL)$$);

-- fields to adopt by
SELECT t.error($$SELECT name_adoption_field('person', 'Debnr')$$);
SELECT t.error($$SELECT name_adoption_field(NULL, 'Debnr')$$);
SELECT t.error($$SELECT name_adoption_field('deal', NULL)$$);

-- parts
SELECT t.error($$SELECT pause('everything')$$);
SELECT t.error($$SELECT resume('everything')$$);
SELECT t.error($$SELECT pause(NULL)$$);
SELECT pause('orders');
SELECT part, paused, reason FROM parts;
SELECT is_paused('orders'), is_paused('products'), is_paused('sending') AS until_resumed;

-- resume() is a person's yes: not before the set-up, and not in a copy
UPDATE pipedrive_stages SET stage_id = NULL;
SELECT t.error($$SELECT resume()$$);
UPDATE pipedrive_stages SET stage_id = 10 + order_nr;
UPDATE instance SET identity = identity || '{"database": "other"}';
SELECT t.error($$SELECT resume()$$);
SELECT confirm_instance();
SELECT configure('default_owner_id', NULL);
SELECT resume();
SELECT is_paused('sending');

-- replay and resync
SELECT t.error($$SELECT resync('invoice')$$);
SELECT t.error($$SELECT resync(NULL)$$);
SELECT resync('deal', t.oid(1)) AS not_staged, replay(kind => 'deal') AS none_dead;

-- rights are handed to roles that exist
SELECT t.error($$SELECT grant_reader('nobody here')$$);
SELECT t.error($$SELECT grant_operator('nobody here')$$);
SELECT t.error($$SELECT grant_worker(NULL)$$);

-- an import has bounds
SELECT t.error($$SELECT _import_begin(1, 0, 36)$$);
SELECT t.error($$SELECT _import_begin(1, 12, NULL)$$);
DELETE FROM divisions;
SELECT t.error($$SELECT _import_begin(1, 12, 36)$$);

-- set-up needs an account
DELETE FROM settings;
SELECT t.error($$SELECT _setup_begin()$$);

-- line_mix counts lines
SELECT t.error($$SELECT line_mix(-1, 0, 0)$$);

-- secrets are stored, and shown nowhere
SELECT name, sealed FROM credentials ORDER BY name;
SELECT count(*) AS in_settings FROM settings WHERE value = 's';
ROLLBACK;
