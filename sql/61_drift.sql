/*
 * 61_drift.sql
 *		What Pipedrive has, held against what was last sent: findings, and what
 *		follows from them.
 *
 * reconcile() (62_reconcile.sql) reads the lists; a page is judged here.  What a
 * judgement leads to is told to the delivery worker as a signal, because it
 * alone writes links and jobs; putting right is then its usual business: it
 * learns what stands at Pipedrive, and the difference to what is wanted goes out.
 */

CREATE TABLE drift_findings (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind          text NOT NULL,
    division      integer NOT NULL,
    exact_id      uuid NOT NULL,
    pipedrive_id  bigint NOT NULL,
    what          text NOT NULL CHECK (what IN ('deleted', 'merged', 'archived', 'edited', 'moved', 'lines', 'duplicate', 'not ours', 'gone at Exact')),
    field         text NOT NULL DEFAULT '',
    ours          jsonb,
    theirs        jsonb,
    policy        text,
    action        text NOT NULL CHECK (action IN ('restored', 'left', 'stubborn', 'dead letter', 'followed', 'reported')),
    restores      integer NOT NULL DEFAULT 0,
    first_seen    timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen     timestamptz NOT NULL DEFAULT clock_timestamp(),
    resolved_at   timestamptz
);
COMMENT ON TABLE drift_findings IS 'Where Pipedrive is not as it was sent, as reconcile() found it; view drift shows the open ones. Kept for retention_days. Not part of a dump: the next reconcile() finds it again.';
COMMENT ON COLUMN drift_findings.id IS 'Number.';
COMMENT ON COLUMN drift_findings.kind IS 'organization, product or deal.';
COMMENT ON COLUMN drift_findings.division IS 'Exact division.';
COMMENT ON COLUMN drift_findings.exact_id IS 'GUID at Exact.';
COMMENT ON COLUMN drift_findings.pipedrive_id IS 'Record at Pipedrive; for a duplicate the other one.';
COMMENT ON COLUMN drift_findings.what IS 'What happened.';
COMMENT ON COLUMN drift_findings.field IS 'The field that was edited.';
COMMENT ON COLUMN drift_findings.ours IS 'What Exact wants; for a merged record its old id.';
COMMENT ON COLUMN drift_findings.theirs IS 'What Pipedrive has; for a merged record the id of its survivor.';
COMMENT ON COLUMN drift_findings.policy IS 'The policy of the field.';
COMMENT ON COLUMN drift_findings.action IS 'restored: it is put right. left: its policy leaves it. stubborn: putting it right twice had no effect. dead letter: waits for a person. followed: the survivor is used. reported: for a person to look at.';
COMMENT ON COLUMN drift_findings.restores IS 'How often the same was put right.';
COMMENT ON COLUMN drift_findings.first_seen IS 'First seen.';
COMMENT ON COLUMN drift_findings.last_seen IS 'Last seen.';
COMMENT ON COLUMN drift_findings.resolved_at IS 'When reconcile() no longer saw it.';
CREATE UNIQUE INDEX drift_findings_open ON drift_findings (kind, division, exact_id, what, field, pipedrive_id) WHERE resolved_at IS NULL;

CREATE VIEW drift AS
SELECT f.kind, f.division,
       CASE f.kind WHEN 'deal' THEN (SELECT o.order_number::text FROM exact_sales_orders o WHERE o.division = f.division AND o.id = f.exact_id)
                   WHEN 'organization' THEN (SELECT a.code FROM exact_accounts a WHERE a.division = f.division AND a.id = f.exact_id)
                   ELSE (SELECT i.code FROM exact_items i WHERE i.division = f.division AND i.id = f.exact_id) END AS number,
       CASE f.kind WHEN 'deal' THEN (SELECT o.ordered_by_name FROM exact_sales_orders o WHERE o.division = f.division AND o.id = f.exact_id)
                   WHEN 'organization' THEN (SELECT a.name FROM exact_accounts a WHERE a.division = f.division AND a.id = f.exact_id)
                   ELSE (SELECT i.description FROM exact_items i WHERE i.division = f.division AND i.id = f.exact_id) END AS name,
       f.pipedrive_id, f.what, f.field, f.ours, f.theirs, f.policy, f.action, f.first_seen, f.last_seen,
       CASE WHEN f.action = 'stubborn' THEN 'It was put right twice and came back: another program changes it, or Pipedrive writes it in its own way. It is left alone until either side changes. If it is theirs, set_field_policy().'
            WHEN f.action = 'left' THEN 'The policy of this field leaves it to the people in Pipedrive.'
            WHEN f.what = 'deleted' THEN format('A person deleted it in Pipedrive, or our user may not see it any more. It is not made again by itself: take it out of the bin there, or make it anew with SELECT exact_pd_sync.replay(job => %s).',
                                                coalesce((SELECT j.id::text FROM jobs j WHERE j.kind = f.kind AND j.division = f.division AND j.exact_id = f.exact_id), '…'))
            WHEN f.what = 'merged' THEN 'A person merged it into another record, which is used from now on. Where that one belongs to another record of Exact, nothing of this one is sent.'
            WHEN f.what = 'archived' THEN 'A person archived it. What changes at Exact waits; take it out of the archive and it is sent after the next reconcile().'
            WHEN f.what = 'duplicate' THEN 'A second record carries the same Exact-ID, most likely copied by hand. Delete it or merge it in Pipedrive.'
            WHEN f.what = 'not ours' THEN format('It does not carry our Exact-ID (any more), so it may be a record of somebody else: reconcile() neither judges it nor puts it right. Does the API token belong to another company? Else write %s into its Exact-ID field in Pipedrive.', f.exact_id)
            WHEN f.what = 'gone at Exact' THEN 'Deleted or merged at Exact; its organization with its deals is kept. Merge it in Pipedrive if the customer has another number now.'
            WHEN f.action = 'dead letter' THEN 'It cannot be put right while its dead letter stands: look at dead_letters.'
            ELSE 'A person changed it in Pipedrive. It is put right, because Exact is master; to leave it, set_field_policy().' END AS hint,
       f.exact_id
  FROM drift_findings f
 WHERE f.resolved_at IS NULL;
COMMENT ON VIEW drift IS 'Where Pipedrive is not as it was sent, what is done about it, and what a person can do. A finding leaves when the next reconcile() no longer sees it.';

CREATE FUNCTION _wanted_body(p_kind text, p_division integer, p_id uuid) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    AS $$
BEGIN
    RETURN CASE p_kind
        WHEN 'deal' THEN (SELECT _deal_kept(w.body, NOT (w.owner_kept OR w.owner_id IS NULL), NOT w.unmapped, NOT w.deleted, w.stage_id IS NOT NULL)
                            FROM wanted_deals w WHERE w.division = p_division AND w.exact_id = p_id)
        WHEN 'organization' THEN (SELECT w.body FROM wanted_organizations w WHERE w.division = p_division AND w.exact_id = p_id)
        ELSE (SELECT w.body FROM wanted_products w WHERE w.division = p_division AND w.exact_id = p_id) END;
END
$$;
COMMENT ON FUNCTION _wanted_body(text, integer, uuid) IS 'The fields that a record which exists should have, policies apart.';

CREATE FUNCTION _drift_fields(p_kind text, p_sent jsonb, p_remote jsonb, p_wanted jsonb) RETURNS TABLE (code text, custom boolean, field text, sent jsonb, ours jsonb, theirs jsonb)
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    -- Where a deal belongs is judged when all lists are read, because organizations may have been merged.
    SELECT k, false, k, p_sent->k, nullif(p_wanted->k, 'null'), nullif(p_remote->k, 'null') FROM jsonb_object_keys(p_wanted - ARRAY['custom_fields', 'org_id']) k
     WHERE coalesce(p_sent->k, 'null') IS DISTINCT FROM coalesce(p_remote->k, 'null')
    UNION ALL
    SELECT k, true, coalesce((SELECT f.purpose FROM pipedrive_fields f WHERE f.entity = p_kind AND f.code = k), k),
           p_sent->'custom_fields'->k, nullif(p_wanted->'custom_fields'->k, 'null'), nullif(p_remote->'custom_fields'->k, 'null')
      FROM jsonb_object_keys(p_wanted->'custom_fields') k
     WHERE coalesce(p_sent->'custom_fields'->k, 'null') IS DISTINCT FROM coalesce(p_remote->'custom_fields'->k, 'null') $$;
COMMENT ON FUNCTION _drift_fields(text, jsonb, jsonb, jsonb) IS 'Fields that are wanted and stand otherwise at Pipedrive than they were sent.';

CREATE FUNCTION _drift_note(p_link links, p_what text, p_field text, p_ours jsonb, p_theirs jsonb, p_policy text, p_action text, p_other bigint DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_id      bigint := coalesce(p_other, p_link.pipedrive_id);
    v_old     drift_findings;
    v_action  text := p_action;
    v_n       integer := 0;
BEGIN
    SELECT * INTO v_old FROM drift_findings f
     WHERE f.kind = p_link.kind AND f.division = p_link.division AND f.exact_id = p_link.exact_id AND f.what = p_what AND f.field = p_field AND f.pipedrive_id = v_id AND f.resolved_at IS NULL;
    IF p_action = 'restored' THEN
        -- The same again, although it went out since: nobody gains from doing it every night.
        IF v_old.ours IS NOT DISTINCT FROM p_ours AND v_old.theirs IS NOT DISTINCT FROM p_theirs AND v_old.id IS NOT NULL THEN
            v_n := v_old.restores;
        END IF;
        IF EXISTS (SELECT FROM jobs j WHERE j.kind = p_link.kind AND j.division = p_link.division AND j.exact_id = p_link.exact_id AND j.state = 'dead') THEN
            v_action := 'dead letter';
        ELSIF v_n >= 2 THEN
            v_action := 'stubborn';
        ELSIF v_n = 0 OR p_link.last_sent > v_old.last_seen THEN
            v_n := v_n + 1;
        END IF;
    END IF;
    IF v_old.id IS NULL THEN
        INSERT INTO drift_findings (kind, division, exact_id, pipedrive_id, what, field, ours, theirs, policy, action, restores)
        VALUES (p_link.kind, p_link.division, p_link.exact_id, v_id, p_what, p_field, p_ours, p_theirs, p_policy, v_action, v_n);
    ELSE
        UPDATE drift_findings SET ours = p_ours, theirs = p_theirs, policy = p_policy, action = v_action, restores = v_n, last_seen = clock_timestamp() WHERE id = v_old.id;
    END IF;
    RETURN v_action;
END
$$;
COMMENT ON FUNCTION _drift_note(links, text, text, jsonb, jsonb, text, text, bigint) IS 'Notes a finding and says what is done about it: what was put right twice without effect is not put right again.';

CREATE FUNCTION _drift_tell(p_link links, p_asked timestamptz, p_drift jsonb) RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    INSERT INTO job_signals (kind, division, exact_id, reason, argument)
    VALUES (p_link.kind, p_link.division, p_link.exact_id, 'reconcile', jsonb_build_object('drift', p_drift || jsonb_build_object('seen', p_asked)))
    $$;
COMMENT ON FUNCTION _drift_tell(links, timestamptz, jsonb) IS 'Tells the delivery worker what was seen of a record.';

CREATE FUNCTION _in_motion(p_link links, p_asked timestamptz) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    SELECT p_link.last_sent + make_interval(secs => setting('list_lag')::integer) >= p_asked OR p_link.lines_unread
        OR EXISTS (SELECT FROM jobs j WHERE j.kind = p_link.kind AND j.division = p_link.division AND j.exact_id = p_link.exact_id AND j.state <> 'dead') $$;
COMMENT ON FUNCTION _in_motion(links, timestamptz) IS 'Is something being sent, or was it since (or just before) this list was asked for? Then what the list says of it is no judgement.';

CREATE FUNCTION _judge_fields(p_link links, p_remote jsonb, p_asked timestamptz) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_wanted  jsonb := _wanted_body(p_link.kind, p_link.division, p_link.exact_id);
    v_fields  jsonb := '{}';
    v_custom  jsonb := '{}';
    v_kept    text[];
    v_policy  text;
    v_moved   boolean := p_link.kind = 'deal' AND p_link.sent->>'pipeline_id' <> p_remote->>'pipeline_id';
    v_take    boolean;
    v         record;
BEGIN
    FOR v IN SELECT * FROM _drift_fields(p_link.kind, p_link.sent, p_remote, v_wanted) LOOP
        v_take := true;
        IF v.ours IS DISTINCT FROM v.theirs THEN
            v_policy := _field_policy(p_link.kind, v.field);
            IF v_policy = 'pipedrive' THEN
                v_kept := v_kept || v.field;
            END IF;
            v_take := _drift_note(p_link, CASE WHEN v.field = 'stage_id' AND v_moved THEN 'moved' ELSE 'edited' END, v.field, v.ours, v.theirs, v_policy,
                                  CASE v_policy WHEN 'exact' THEN 'restored' ELSE 'left' END) = 'restored';
        END IF;
        IF v_take AND v.custom THEN
            v_custom := v_custom || jsonb_build_object(v.code, v.theirs);
        ELSIF v_take THEN
            v_fields := v_fields || jsonb_build_object(v.code, v.theirs);
        END IF;
    END LOOP;
    IF v_custom <> '{}' THEN
        v_fields := v_fields || jsonb_build_object('custom_fields', v_custom);
    END IF;
    -- What a person gave back is Exact's again.
    SELECT array_agg(k) INTO v_kept FROM (SELECT unnest(v_kept) AS k UNION SELECT k FROM unnest(p_link.kept) k WHERE k IN ('lines', 'org_id') ORDER BY 1) x;
    IF v_fields <> '{}' OR v_kept IS DISTINCT FROM p_link.kept THEN
        PERFORM _drift_tell(p_link, p_asked, jsonb_build_object('fields', v_fields, 'kept', to_jsonb(v_kept)));
    END IF;
END
$$;
COMMENT ON FUNCTION _judge_fields(links, jsonb, timestamptz) IS 'A record stands otherwise at Pipedrive than it was sent: which fields, and what is done by their policies.';

CREATE FUNCTION _judge_lines(p_link links, p_lines integer, p_value numeric, p_asked timestamptz) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v         record;
    v_policy  text;
BEGIN
    SELECT count(*) AS lines, coalesce(round(sum(k.quantity * k.item_price * (1 - k.discount / 100)), 2), 0) - coalesce(p_link.discount_sent, 0) AS value INTO v
      FROM line_links k WHERE k.division = p_link.division AND k.order_id = p_link.exact_id;
    IF v.lines = 0 AND p_lines = 0 OR v.lines = coalesce(p_lines, v.lines) AND abs(v.value - p_value) < 0.01
       OR NOT EXISTS (SELECT FROM exact_sales_orders o WHERE o.division = p_link.division AND o.id = p_link.exact_id AND o.deleted_at IS NULL) THEN
        IF 'lines' = ANY (p_link.kept) THEN
            PERFORM _drift_tell(p_link, p_asked, jsonb_build_object('fields', '{}'::jsonb, 'kept', to_jsonb(array_remove(p_link.kept, 'lines'))));
        END IF;
        RETURN;
    END IF;
    v_policy := _field_policy('deal', 'lines');
    IF _drift_note(p_link, 'lines', 'lines', jsonb_build_object('lines', v.lines, 'value', v.value), jsonb_build_object('lines', p_lines, 'value', p_value), v_policy,
                   CASE v_policy WHEN 'exact' THEN 'restored' ELSE 'left' END) = 'restored' THEN
        PERFORM _drift_tell(p_link, p_asked, jsonb_build_object('unread', true, 'value', p_value));
    ELSIF v_policy = 'pipedrive' AND 'lines' = ANY (p_link.kept) IS NOT TRUE THEN
        PERFORM _drift_tell(p_link, p_asked, jsonb_build_object('fields', '{}'::jsonb, 'kept', to_jsonb(p_link.kept || 'lines'::text)));
    END IF;
END
$$;
COMMENT ON FUNCTION _judge_lines(links, integer, numeric, timestamptz) IS 'Has a deal as many lines, and the value, that were sent? If not, its lines and discounts are read back, and the difference goes out.';

CREATE FUNCTION _take_drift(p_signals job_signals[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    s  job_signals;
    l  links;
    d  jsonb;
BEGIN
    FOR s IN SELECT * FROM unnest(p_signals) x WHERE x.argument ? 'drift' ORDER BY x.id LOOP
        d := s.argument->'drift';
        SELECT * INTO l FROM links x WHERE x.kind = s.kind AND x.division = s.division AND x.exact_id = s.exact_id FOR UPDATE;
        IF NOT FOUND THEN
            IF d ? 'adopt' THEN
                PERFORM _adopt(s.kind, jsonb_build_array(d->'adopt'));
            END IF;
            CONTINUE;
        END IF;
        -- What was sent meanwhile is newer than what was seen; the next reconcile() sees it.
        CONTINUE WHEN l.last_sent >= (d->>'seen')::timestamptz OR EXISTS (SELECT FROM intents i WHERE i.kind = s.kind AND i.division = s.division AND i.exact_id = s.exact_id);
        UPDATE links x
           SET sent = CASE WHEN d ? 'fields' AND d->'fields' <> '{}' THEN _body_merge(x.sent, d->'fields') ELSE x.sent END,
               kept = CASE WHEN d ? 'kept' THEN (SELECT array_agg(k ORDER BY k) FROM jsonb_array_elements_text(CASE WHEN jsonb_typeof(d->'kept') = 'array' THEN d->'kept' ELSE '[]' END) k) ELSE x.kept END,
               lines_unread = x.lines_unread OR d ? 'unread',
               seen_value = CASE WHEN d ? 'unread' THEN (d->>'value')::numeric ELSE x.seen_value END,
               archived_at = CASE WHEN d ? 'archived' THEN CASE WHEN (d->>'archived')::boolean THEN coalesce(x.archived_at, clock_timestamp()) END ELSE x.archived_at END,
               gone_at = CASE WHEN d ? 'gone' THEN CASE WHEN (d->>'gone')::boolean THEN coalesce(x.gone_at, clock_timestamp()) END WHEN d ? 'follow' THEN NULL ELSE x.gone_at END,
               pipedrive_id = coalesce((d->>'follow')::bigint, x.pipedrive_id),
               follower = CASE WHEN d ? 'follow' THEN (d->>'follower')::boolean ELSE x.follower END,
               last_verified = (d->>'seen')::timestamptz
         WHERE x.kind = s.kind AND x.division = s.division AND x.exact_id = s.exact_id;
        IF d ? 'follow' THEN
            IF (d->>'follower')::boolean THEN
                DELETE FROM line_links k WHERE s.kind = 'deal' AND k.division = s.division AND k.order_id = s.exact_id;
            END IF;
            INSERT INTO sync_changes (kind, division, exact_id, operation, pipedrive_id, old_value, new_value)
            VALUES (s.kind, s.division, s.exact_id, 'follow', (d->>'follow')::bigint, jsonb_build_object('id', l.pipedrive_id), jsonb_build_object('id', d->'follow', 'follower', d->'follower'));
        END IF;
        IF d->>'gone' = 'true' THEN
            -- As when it is found gone while something is sent: it waits for a person.
            INSERT INTO jobs AS j (kind, division, exact_id, lane, priority, state, class, reason)
            VALUES (s.kind, s.division, s.exact_id, 4, 0, 'dead', 'ours', _plain_reason('gone', NULL, NULL, NULL))
            ON CONFLICT (kind, division, exact_id) DO UPDATE SET state = 'dead', class = excluded.class, reason = excluded.reason, next_attempt_at = NULL, lease_until = NULL, updated_at = clock_timestamp();
        ELSIF d->>'gone' = 'false' OR d ? 'follow' THEN
            -- What it waited for a person for is settled, and who waited for it goes on.
            DELETE FROM jobs j WHERE j.kind = s.kind AND j.division = s.division AND j.exact_id = s.exact_id AND j.state = 'dead';
            PERFORM _needs_met(ARRAY[s.kind], ARRAY[s.division], ARRAY[s.exact_id]);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _take_drift(job_signals[]) IS 'The delivery worker takes over what reconcile() saw: what stands at Pipedrive, what is gone, archived or merged. What was sent since is not touched.';
