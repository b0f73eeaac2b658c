/*
 * 38_policies.sql
 *		Whose word counts for a field: Exact's, or that of the people who work in
 *		Pipedrive.
 *
 * A field without a row is Exact's.  plan() and delivery ask here what they may
 * send; reconcile() asks what it may put right.
 */

CREATE TABLE field_policies (
    kind        text NOT NULL CHECK (kind IN ('organization', 'product', 'deal')),
    field       text NOT NULL,
    policy      text NOT NULL CHECK (policy IN ('exact', 'pipedrive', 'create-only')),
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by  text NOT NULL DEFAULT session_user,
    PRIMARY KEY (kind, field)
);
COMMENT ON TABLE field_policies IS 'Whose word counts for a field of ours at Pipedrive; a field that is not named is Exact''s. Set with set_field_policy().';
COMMENT ON COLUMN field_policies.kind IS 'organization, product or deal.';
COMMENT ON COLUMN field_policies.field IS 'Name at Pipedrive (name, owner_id, stage_id …), the purpose of a field of our own (debtor_number, your_ref …), or lines: the deal products with the value they make.';
COMMENT ON COLUMN field_policies.policy IS 'exact: what a person changes is put right. pipedrive: Exact''s changes are sent until a person changes the field, from then on it is theirs. create-only: sent with a new record and never again.';
COMMENT ON COLUMN field_policies.changed_at IS 'When it was set.';
COMMENT ON COLUMN field_policies.changed_by IS 'By whom.';
SELECT pg_catalog.pg_extension_config_dump('field_policies', '');

CREATE FUNCTION _signal_policy() RETURNS trigger
    LANGUAGE plpgsql SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    INSERT INTO job_signals (kind, reason) VALUES ('all_' || coalesce(NEW.kind, OLD.kind) || 's', TG_TABLE_NAME);
    PERFORM wake_worker('delivery');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _signal_policy() IS 'A policy changed: everything of its kind is to be looked at.';
CREATE TRIGGER signal_policy AFTER INSERT OR UPDATE OR DELETE ON field_policies FOR EACH ROW EXECUTE FUNCTION _signal_policy();

CREATE FUNCTION _policy_fields(p_kind text) RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    SELECT unnest(CASE p_kind WHEN 'organization' THEN ARRAY['name', 'address'] WHEN 'product' THEN ARRAY['name', 'code', 'unit', 'prices']
                              WHEN 'deal' THEN ARRAY['title', 'org_id', 'owner_id', 'stage_id', 'status', 'currency', 'value', 'lines'] END)
    UNION ALL
    -- Without the Exact-ID nobody knows what is whose.
    SELECT f.purpose FROM pipedrive_fields f WHERE f.entity = p_kind AND f.purpose <> 'exact_id' $$;
COMMENT ON FUNCTION _policy_fields(text) IS 'The fields of a kind that can have a policy.';

CREATE FUNCTION set_field_policy(kind text, field text, policy text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
BEGIN
    IF set_field_policy.kind NOT IN ('organization', 'product', 'deal') OR set_field_policy.kind IS NULL THEN
        RAISE EXCEPTION '"%" is not organization, product or deal', set_field_policy.kind USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF set_field_policy.field = 'exact_id' THEN
        RAISE EXCEPTION 'the Exact-ID of a record cannot be left to anybody' USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'It tells which record is which; without it everything would be made twice.';
    END IF;
    IF set_field_policy.field IS NULL OR set_field_policy.field NOT IN (SELECT _policy_fields(set_field_policy.kind)) THEN
        RAISE EXCEPTION 'there is no field "%" of % that is sent', set_field_policy.field, set_field_policy.kind USING ERRCODE = 'invalid_parameter_value',
            HINT = format('Fields: %s.', (SELECT string_agg(f, ', ') FROM _policy_fields(set_field_policy.kind) f));
    END IF;
    IF set_field_policy.policy NOT IN ('exact', 'pipedrive', 'create-only') OR set_field_policy.policy IS NULL THEN
        RAISE EXCEPTION '"%" is not a policy', set_field_policy.policy USING ERRCODE = 'invalid_parameter_value', HINT = 'Policies: exact, pipedrive, create-only.';
    END IF;
    IF set_field_policy.policy = 'exact' THEN
        DELETE FROM field_policies p WHERE p.kind = set_field_policy.kind AND p.field = set_field_policy.field;
    ELSE
        INSERT INTO field_policies AS p (kind, field, policy) VALUES (set_field_policy.kind, set_field_policy.field, set_field_policy.policy)
        ON CONFLICT (kind, field) DO UPDATE SET policy = excluded.policy, changed_at = clock_timestamp(), changed_by = session_user
         WHERE p.policy <> excluded.policy;
    END IF;
END
$$;
COMMENT ON FUNCTION set_field_policy(text, text, text) IS 'Says whose word counts for a field: exact (the default), pipedrive or create-only. Inside BEGIN … ROLLBACK plan() shows what it would do.';

CREATE FUNCTION _field_policy(p_kind text, p_field text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$ SELECT coalesce((SELECT p.policy FROM field_policies p
                            WHERE p.kind = p_kind AND p.field = CASE p_field WHEN 'lost_reason' THEN 'status' ELSE p_field END), 'exact') $$;
COMMENT ON FUNCTION _field_policy(text, text) IS 'The policy in force for a field; the reason of a lost deal goes with its status.';

CREATE FUNCTION _policy_body(p_kind text, p_body jsonb, p_kept text[]) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_left text[];
BEGIN
    SELECT array_agg(coalesce(f.code, x.field)) INTO v_left
      FROM (SELECT p.field FROM field_policies p WHERE p.kind = p_kind AND (p.policy = 'create-only' OR p.policy = 'pipedrive' AND p.field = ANY (p_kept))
            UNION ALL
            SELECT 'lost_reason' FROM field_policies p WHERE p.kind = p_kind AND p.field = 'status' AND (p.policy = 'create-only' OR p.policy = 'pipedrive' AND 'status' = ANY (p_kept))) x
      LEFT JOIN pipedrive_fields f ON f.entity = p_kind AND f.purpose = x.field;
    IF v_left IS NULL THEN
        RETURN p_body;
    END IF;
    RETURN (p_body - v_left) || CASE WHEN p_body ? 'custom_fields' THEN jsonb_build_object('custom_fields', (p_body->'custom_fields') - v_left) ELSE '{}' END;
END
$$;
COMMENT ON FUNCTION _policy_body(text, jsonb, text[]) IS 'The wanted fields of a record that exists, without those that are no longer Exact''s.';
