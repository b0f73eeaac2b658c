/*
 * 39_rules.sql
 *		Small rules the wanted views share: texts for codes, differences between
 *		what was sent and what is wanted.
 */

CREATE FUNCTION status_text(p_code integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE p_code WHEN 12 THEN 'Open' WHEN 20 THEN 'Gedeeltelijk' WHEN 21 THEN 'Volledig' WHEN 45 THEN 'Geannuleerd' ELSE 'Code ' || p_code END $$;
COMMENT ON FUNCTION status_text(integer) IS 'Dutch text for a status code of Exact (exact-online 5.1); an unknown code stays visible as "Code N".';

/*
 * The rules as functions, so that the views, verify() and status_coverage apply
 * the very same ones.  They are inlined; no SET, or they would not be.
 */
CREATE FUNCTION _status_rule(p_status text, p_delivery text, p_invoice text) RETURNS TABLE (deal_status text, lost_reason text)
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
    AS $$
    SELECT r.deal_status, r.lost_reason FROM exact_pd_sync.status_rules r
     WHERE r.deal_status IS NOT NULL
       AND (r.status = '*' OR r.status IS NOT DISTINCT FROM p_status)
       AND (r.delivery_status = '*' OR r.delivery_status IS NOT DISTINCT FROM p_delivery)
       AND (r.invoice_status = '*' OR r.invoice_status IS NOT DISTINCT FROM p_invoice)
     ORDER BY r.priority LIMIT 1 $$;
COMMENT ON FUNCTION _status_rule(text, text, text) IS 'The deal status that status_rules give to a combination of Exact''s three codes; no row = no rule knows it.';

CREATE FUNCTION _stage_rule(p_status text, p_delivery text, p_invoice text) RETURNS TABLE (stage text)
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
    AS $$
    SELECT r.stage FROM exact_pd_sync.status_rules r
     WHERE r.stage IS NOT NULL
       AND (r.status = '*' OR r.status IS NOT DISTINCT FROM p_status)
       AND (r.delivery_status = '*' OR r.delivery_status IS NOT DISTINCT FROM p_delivery)
       AND (r.invoice_status = '*' OR r.invoice_status IS NOT DISTINCT FROM p_invoice)
     ORDER BY r.priority LIMIT 1 $$;
COMMENT ON FUNCTION _stage_rule(text, text, text) IS 'The stage that status_rules give to a combination of Exact''s three codes; no row = no rule knows it.';

CREATE FUNCTION _url_component(p_text text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
    SELECT coalesce(string_agg(CASE WHEN c ~ '^[A-Za-z0-9._~-]$' THEN c
                                    ELSE regexp_replace(upper(encode(convert_to(c, 'UTF8'), 'hex')), '(..)', '%\1', 'g') END, '' ORDER BY n), '')
      FROM regexp_split_to_table(p_text, '') WITH ORDINALITY AS t(c, n) $$;
COMMENT ON FUNCTION _url_component(text) IS 'Percent-encodes a text for use as one value in a URL''s query.';

CREATE FUNCTION line_mix(p_adds integer, p_changes integer, p_deletes integer, OUT patched integer, OUT tokens integer)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'epds_line_mix';
COMMENT ON FUNCTION line_mix(integer, integer, integer) IS 'How many of the changed lines are best patched one by one (the rest is deleted and added anew in bulk), and what all line calls then cost in tokens (pipedrive 3.6).';

CREATE FUNCTION _body_diff(p_sent jsonb, p_wanted jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN p_sent @> p_wanted AND p_sent->'address' IS NOT DISTINCT FROM coalesce(p_wanted->'address', p_sent->'address')
                     AND p_sent->'prices' IS NOT DISTINCT FROM coalesce(p_wanted->'prices', p_sent->'prices') THEN NULL
    ELSE (
        SELECT jsonb_object_agg(d.key, d.value)
          FROM (SELECT w.key, w.value
                  FROM jsonb_each(p_wanted - 'custom_fields') w
                 WHERE coalesce(p_sent->w.key, 'null') IS DISTINCT FROM w.value
                UNION ALL
                SELECT 'custom_fields', x.value
                  FROM (SELECT jsonb_object_agg(c.key, c.value) AS value
                          FROM jsonb_each(p_wanted->'custom_fields') c
                         WHERE coalesce(p_sent->'custom_fields'->c.key, 'null') IS DISTINCT FROM c.value) x
                 WHERE x.value IS NOT NULL) d)
    END $$;
COMMENT ON FUNCTION _body_diff(jsonb, jsonb) IS 'The part of the wanted fields that differs from what was sent; NULL when nothing does. An absent field and null are the same (pipedrive 4.2).';

CREATE FUNCTION _body_old(p_sent jsonb, p_diff jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_object_agg(d.key, CASE WHEN d.key = 'custom_fields'
                                        THEN (SELECT jsonb_object_agg(c.key, nullif(p_sent->'custom_fields'->c.key, '-1')) FROM jsonb_each(d.value) c)
                                        ELSE nullif(p_sent->d.key, '-1') END)
      FROM jsonb_each(p_diff) d $$;
COMMENT ON FUNCTION _body_old(jsonb, jsonb) IS 'The values that a difference replaces.';

CREATE FUNCTION _body_merge(p_sent jsonb, p_diff jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT coalesce(p_sent, '{}') || coalesce(p_diff, '{}')
        || CASE WHEN p_diff ? 'custom_fields' OR p_sent ? 'custom_fields'
                THEN jsonb_build_object('custom_fields', coalesce(p_sent->'custom_fields', '{}') || coalesce(p_diff->'custom_fields', '{}')) ELSE '{}' END $$;
COMMENT ON FUNCTION _body_merge(jsonb, jsonb) IS 'What stands at Pipedrive after a difference was accepted.';

CREATE FUNCTION _deal_kept(p_body jsonb, p_owner boolean, p_rules boolean, p_value boolean, p_stage boolean) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT p_body - 'pipeline_id' - CASE WHEN p_owner THEN '' ELSE 'owner_id' END
                  - CASE WHEN p_rules THEN ARRAY[]::text[] ELSE ARRAY['status', 'stage_id', 'lost_reason'] END
                  -- A deleted order has no lines at Exact any more; its deal keeps them.
                  - CASE WHEN p_value THEN '' ELSE 'value' END
                  -- A stage that Pipedrive does not have (yet): the deal stays where it is.
                  - CASE WHEN p_stage THEN '' ELSE 'stage_id' END $$;
COMMENT ON FUNCTION _deal_kept(jsonb, boolean, boolean, boolean, boolean) IS 'What of a wanted deal counts for a deal that exists: owner, status with stage, value and stage only where they are known.';

CREATE FUNCTION _body_doubt(p_sent jsonb, p_diff jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    -- -1 is what no field of ours is ever to be; not nothing, because nothing may be wanted.  Only a value can be -1, and is always wanted as something.
    SELECT _body_merge(p_sent, coalesce((SELECT jsonb_object_agg(k, -1) FROM jsonb_object_keys(p_diff - 'custom_fields' - 'won_time' - 'lost_time' - 'value') k), '{}')
                               -- The time of closing goes along with the status only.
                            || CASE WHEN p_diff ?| ARRAY['won_time', 'lost_time'] THEN '{"status": -1}' ELSE '{}' END::jsonb
                            || coalesce((SELECT jsonb_build_object('custom_fields', jsonb_object_agg(k, -1)) FROM jsonb_object_keys(p_diff->'custom_fields') k
                                         HAVING count(*) > 0), '{}'))
         - CASE WHEN p_diff ? 'value' THEN 'value' ELSE '' END $$;
COMMENT ON FUNCTION _body_doubt(jsonb, jsonb) IS 'What stands at Pipedrive after a difference was sent and no answer came: what it named may be the old or the new, so that it differs from whatever is wanted next.';
