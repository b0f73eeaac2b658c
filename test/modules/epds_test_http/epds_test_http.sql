-- Functions of the test module; psql variable "module" = path of the library
-- without its suffix.  For tests only, hence in schema public.

CREATE PROCEDURE test_fetch(
    p_method text,
    p_url text,
    p_headers text[],
    p_body text,
    p_max_answer integer,
    p_timeout_ms integer,
    INOUT p_answer jsonb
)
LANGUAGE C
AS :'module', 'epds_test_fetch';

CREATE PROCEDURE test_many(
    p_method text,
    p_url text,
    p_body text,
    p_requests integer,
    p_connections integer,
    INOUT p_summary jsonb
)
LANGUAGE C
AS :'module', 'epds_test_many';

CREATE PROCEDURE test_sleep(p_ms integer)
LANGUAGE C
AS :'module', 'epds_test_sleep';

CREATE FUNCTION test_redact_add(p_secret text)
RETURNS void
LANGUAGE C
AS :'module', 'epds_test_redact_add';

CREATE FUNCTION test_open_files()
RETURNS integer
LANGUAGE C
AS :'module', 'epds_test_open_files';

CREATE FUNCTION test_leave_slowly(p_ms integer) RETURNS void
LANGUAGE C STRICT
AS :'module', 'epds_test_leave_slowly';
