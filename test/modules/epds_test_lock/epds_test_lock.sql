-- Function of the test module; psql variable "module" = path of the library
-- without its suffix.  For tests only, hence in schema public.

CREATE FUNCTION test_lock(p_classid bigint, p_objid bigint) RETURNS boolean
LANGUAGE C STRICT
AS :'module', 'epds_test_lock';
