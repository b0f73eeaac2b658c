-- configure() and setting_list: what is taken, what is refused, and in which
-- words.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

-- A setting has its default until somebody chooses.
SELECT setting('max_attempts') AS before;
SELECT configure('max_attempts', '3');
SELECT value, default_value FROM setting_list WHERE name = 'max_attempts';
SELECT configure('max_attempts', NULL);
SELECT value, default_value FROM setting_list WHERE name = 'max_attempts';

-- What is no value is refused, with its meaning.
SELECT t.error($$SELECT configure('max_attempts', 'many')$$);
SELECT t.error($$SELECT configure('max_attempts', '')$$);
SELECT t.error($$SELECT configure('products', 'some')$$);
SELECT t.error($$SELECT configure('pipeline', repeat('x', 256))$$);
SELECT t.error($$SELECT configure('maximum', '1')$$);
SELECT t.error($$SELECT configure(NULL, '1')$$);

-- No number is taken that would overflow where it is used.
SELECT s.name, t.error(format('SELECT configure(%L, %L)', s.name, '99999999999999999999')) ~ '^22023' AS refused
  FROM setting_list s WHERE 'x' !~ s.pattern AND '1' ~ s.pattern ORDER BY s.name;
SELECT s.name, configure(s.name, '999999999'), _burst_limit() IS NOT NULL AND (_pipedrive_day()).available IS NOT NULL AS works
  FROM setting_list s WHERE s.name IN ('daily_tokens', 'burst_limit', 'deal_capacity') ORDER BY s.name;

-- Nobody leads secrets to another host by a setting: the hosts are those of
-- set_exact_app() and set_pipedrive_account().
SELECT t.error($$SELECT configure('pipedrive_base_url', 'https://pipedrive.example.com')$$);
SELECT t.error($$SELECT configure('exact_base_url', 'https://start.exactonline.nl.example.com')$$);
SELECT t.error($$SELECT configure('pipedrive_base_url', 'https://other.pipedrive.com')$$);

-- Defaults fit their own patterns.
SELECT name FROM setting_list WHERE default_value !~ pattern;

-- What changes the wanted deals says so to the worker; the rest does not.
DELETE FROM job_signals;
SELECT configure('account_manager_owns', 'on');
SELECT configure('retention_days', '30');
SELECT kind, reason FROM job_signals;

-- The window of what is sent moves with send_months.
SELECT configure('send_months', '3');
SELECT send_since = (today(100) - interval '3 months')::date AS moved FROM divisions;

-- Who chose it is noted; choosing the same again is no change.
UPDATE settings SET changed_by = 'somebody' WHERE name = 'retention_days';
SELECT configure('retention_days', '30');
SELECT value, changed_by FROM settings WHERE name = 'retention_days';

-- No secret stands among the settings.
SELECT name FROM setting_list WHERE name ~ 'secret|token$|password';
ROLLBACK;
