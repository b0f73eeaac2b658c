/*
 * 64_verify_links.sql
 *		After a restore, a promotion or a copy that was confirmed: what this
 *		database thinks Pipedrive has is verified against what is there.
 *
 * "Verify links" means: all organizations, products, deals (of all pipelines) and
 * archived deals are listed, 500 records for 10 tokens (archived ones 20), and the
 * options of Artikelgroep (1 token).  And Exact is read once more, from where the
 * feeds of this database stand: what the other one sent must not be taken back.
 * Until both is done nothing is sent.  Then
 *
 *	- a link whose record is listed takes over what Pipedrive really has as "what
 *	  was sent", so that the ordinary difference sends what is to be sent, and
 *	  nothing more;
 *	- lines and discount of a deal are read back (100 deals a list) when its value or
 *	  the number of its lines is not what we know of them, or when it changed since
 *	  shortly before the last thing that this database remembers to have sent;
 *	- a link whose record is in no list is asked for by id (100 ids for 10 tokens);
 *	  what is still missing is gone: it is not made again by itself;
 *	- a record that carries our Exact-ID (or a business number, see _adopt()) and has no
 *	  link is adopted; if its Exact record is not staged again yet, it is kept in
 *	  unclaimed_records until it is, and then adopted in place of a create.
 *
 * The functions take pages as they come from Pipedrive; others that list
 * may use them, too.
 */

CREATE FUNCTION _ask_verification(p_reason text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_now  timestamptz := clock_timestamp();
BEGIN
    -- Whatever was looked through before is of a past that may not have happened.
    DELETE FROM looks;
    DELETE FROM unclaimed_records;
    INSERT INTO looks (what, reason, since, started_at, not_before)
    SELECT w.what, 'verify', (SELECT max(l.last_sent) - interval '10 minutes' FROM links l), v_now,
           -- The other one may have made something a moment ago: not before the lists show it.
           v_now + make_interval(secs => setting('list_lag')::integer)
      FROM unnest(ARRAY['organizations', 'products', 'options', 'deals', 'archived_deals']) WITH ORDINALITY AS w(what, n)
     WHERE w.what <> 'options' OR EXISTS (SELECT FROM pipedrive_fields f WHERE f.entity = 'product' AND f.purpose = 'item_group' AND f.code IS NOT NULL)
     ORDER BY w.n;
    UPDATE instance SET stale_since = v_now;
    -- Numbers of runs begin anew after a dump: none of them has been at these feeds.
    UPDATE feed_positions SET run_id = NULL, drained_run = NULL;
    -- A dump that is loaded fires its triggers before its links are there, and brings no jobs: everything is compared.
    INSERT INTO job_signals (kind, reason) VALUES ('compare', p_reason);
    INSERT INTO job_signals (kind, division, exact_id, reason)
    SELECT 'product', i.division, i.id, p_reason FROM exact_items i
     WHERE NOT EXISTS (SELECT FROM links l WHERE l.kind = 'product' AND l.division = i.division AND l.exact_id = i.id);
END
$$;
COMMENT ON FUNCTION _ask_verification(text) IS 'Has all links verified against lists of Pipedrive, and everything compared, before anything is sent.';

CREATE FUNCTION _stale_feeds() RETURNS text
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    SELECT string_agg(DISTINCT f.part, ', ' ORDER BY f.part)
      FROM instance i
      JOIN feed_positions p ON p.last_success < i.stale_since
      JOIN (VALUES ('sales_order_headers', 'orders'), ('sales_order_lines', 'orders'), ('deleted', 'orders'), ('accounts', 'customers'), ('items', 'products')) AS f(feed, part) ON f.feed = p.feed
     WHERE NOT is_paused(f.part) $$;
COMMENT ON FUNCTION _stale_feeds() IS 'After a restore: the parts that are still to be read from Exact before anything is sent; NULL when there is none. A part that a person paused is not waited for.';

CREATE FUNCTION _note_fresh_staging() RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM instance i WHERE i.stale_since IS NOT NULL) AND _stale_feeds() IS NULL THEN
        UPDATE instance SET stale_since = NULL;
    END IF;
END
$$;
COMMENT ON FUNCTION _note_fresh_staging() IS 'Notes that Exact has been read since a restore.';

CREATE FUNCTION _compare_page(p_kind text, p_rows jsonb, p_since timestamptz, p_begun timestamptz) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_differ  integer;
    v_lines   text := _field_policy('deal', 'lines');
BEGIN
    WITH theirs AS MATERIALIZED (
        SELECT (r->>'id')::bigint AS id, _remote_sent(p_kind, r) AS sent, r->>'won_time' AS won_time, coalesce((r->>'is_archived')::boolean, false) AS archived,
               (r->>'products_count')::integer AS lines, coalesce((r->>'value')::numeric, 0) AS value, (r->>'update_time')::timestamptz AS changed
          FROM jsonb_array_elements(p_rows) r
         WHERE NOT coalesce((r->>'is_deleted')::boolean, false)
    ), compared AS MATERIALIZED (
        SELECT l.kind, l.division, l.exact_id, l.pipedrive_id, l.follower, t.sent, t.won_time, t.archived, t.value,
               CASE WHEN NOT l.follower THEN _body_diff(t.sent, CASE WHEN k.lines > 0 THEN l.sent - 'value' ELSE l.sent END) END AS diff,
               p_kind = 'deal' AND NOT l.follower AND coalesce(t.lines <> k.lines OR k.lines > 0 AND abs(t.value - (k.total - coalesce(l.discount_sent, 0))) >= 0.01, false) AS other_lines,
               p_kind = 'deal' AND NOT l.follower AND coalesce(t.changed >= p_since, false) AS changed
          FROM theirs t
          JOIN links l ON l.kind = p_kind AND l.pipedrive_id = t.id AND l.gone_at IS NULL
         CROSS JOIN LATERAL (SELECT count(*) AS lines, coalesce(round(sum(x.quantity * x.item_price * (1 - x.discount / 100)), 2), 0) AS total
                               FROM line_links x WHERE p_kind = 'deal' AND x.division = l.division AND x.order_id = l.exact_id OFFSET 0) k
    ), told AS (
        INSERT INTO sync_changes (kind, division, exact_id, operation, pipedrive_id, old_value, new_value)
        SELECT c.kind, c.division, c.exact_id, 'verify', c.pipedrive_id, c.diff, _body_old(c.sent, c.diff) FROM compared c WHERE c.diff IS NOT NULL
    ), known AS (
        UPDATE links l
           SET last_verified = greatest(clock_timestamp(), p_begun),
               sent = CASE WHEN l.follower THEN l.sent ELSE c.sent END, first_won_at = coalesce(l.first_won_at, c.won_time),
               archived_at = CASE WHEN c.archived THEN coalesce(l.archived_at, clock_timestamp()) END,
               lines_unread = l.lines_unread OR v_lines = 'exact' AND (c.other_lines OR c.changed),
               seen_value = CASE WHEN v_lines = 'exact' AND (c.other_lines OR c.changed) THEN c.value ELSE l.seen_value END,
               -- Whether a person or we changed it, nobody knows: where a person's word counts, it is taken for a person's.
               kept = (SELECT array_agg(DISTINCT x.field ORDER BY x.field)
                         FROM (SELECT unnest(l.kept) AS field
                               UNION ALL SELECT 'lines' WHERE v_lines = 'pipedrive' AND c.other_lines
                               UNION ALL SELECT k FROM jsonb_object_keys(c.diff) k WHERE k <> 'custom_fields' AND _field_policy(p_kind, k) = 'pipedrive'
                               UNION ALL SELECT f.purpose FROM jsonb_object_keys(c.diff->'custom_fields') k JOIN pipedrive_fields f ON f.entity = p_kind AND f.code = k
                                          WHERE _field_policy(p_kind, f.purpose) = 'pipedrive') x)
          FROM compared c
         WHERE l.kind = c.kind AND l.division = c.division AND l.exact_id = c.exact_id)
    SELECT count(*) FILTER (WHERE c.diff IS NOT NULL OR c.other_lines) INTO v_differ FROM compared c;
    RETURN v_differ;
END
$$;
COMMENT ON FUNCTION _compare_page(text, jsonb, timestamptz, timestamptz) IS 'Takes over, for the linked records of a page, what Pipedrive has as what was sent; deals whose lines may be other ones (by number, value, or changed since the first moment) have them read back. The second moment is when the list was begun. Returns how many differed.';

CREATE FUNCTION _mark_gone(p_kind text, p_ids bigint[]) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_now   timestamptz := clock_timestamp();
    v_gone  integer;
BEGIN
    WITH gone AS (
        UPDATE links l SET gone_at = v_now, last_error = 'not in the lists of Pipedrive'
         WHERE l.kind = p_kind AND l.pipedrive_id = ANY (p_ids) AND l.gone_at IS NULL
        RETURNING l.kind, l.division, l.exact_id, l.pipedrive_id
    ), told AS (
        INSERT INTO sync_changes (kind, division, exact_id, operation, pipedrive_id) SELECT g.kind, g.division, g.exact_id, 'gone', g.pipedrive_id FROM gone g
    ), dead AS (
        INSERT INTO jobs AS j (kind, division, exact_id, lane, priority, state, class, reason)
        SELECT g.kind, g.division, g.exact_id, 4, 0, 'dead', 'ours', _plain_reason('gone', NULL, NULL, NULL) FROM gone g
        ON CONFLICT (kind, division, exact_id) DO UPDATE
           SET state = 'dead', class = excluded.class, reason = excluded.reason, error = NULL, next_attempt_at = NULL, lease_until = NULL, updated_at = v_now)
    SELECT count(*) INTO v_gone FROM gone;
    RETURN v_gone;
END
$$;
COMMENT ON FUNCTION _mark_gone(text, bigint[]) IS 'Records that no longer exist at Pipedrive: their links say so, and a dead letter tells a person. Returns how many.';

CREATE FUNCTION _verify_missing(p_look looks, p_kind text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_missing  bigint[];
    v_all      bigint;
BEGIN
    -- A deal is in one of two lists.
    IF p_kind = 'deal' AND p_look.deal_ids IS NULL
       AND EXISTS (SELECT FROM looks k WHERE k.reason = 'verify' AND k.what IN ('deals', 'archived_deals') AND k.deal_ids IS NULL AND k.done_at IS NULL) THEN
        RETURN;
    END IF;
    SELECT array_agg(DISTINCT l.pipedrive_id) FILTER (WHERE coalesce(l.last_verified < p_look.started_at, true)), count(DISTINCT l.pipedrive_id) INTO v_missing, v_all
      FROM links l
     WHERE l.kind = p_kind AND l.gone_at IS NULL AND (p_look.deal_ids IS NULL OR l.pipedrive_id = ANY (p_look.deal_ids));
    IF p_look.deal_ids IS NULL AND cardinality(v_missing) > greatest(20, v_all * setting('gone_percent')::integer / 100) THEN
        -- Nothing is concluded from that; a person's resume() is the yes to going on.
        INSERT INTO parts AS p (part, paused, changed_by, reason)
        VALUES ('sending', true, 'delivery', format('%s of %s %ss are not in the lists of Pipedrive any more: another company, or a user who may see less?', cardinality(v_missing), v_all, p_kind))
        ON CONFLICT (part) DO UPDATE SET paused = true, since = clock_timestamp(), changed_by = excluded.changed_by, reason = excluded.reason;
    ELSIF p_look.deal_ids IS NOT NULL THEN
        PERFORM _mark_gone(p_kind, v_missing);
    ELSE
        -- A list is read page by page while people work: what it did not show is asked for by id.
        INSERT INTO looks (what, reason, since, deal_ids)
        SELECT p_kind || 's', 'verify', p_look.since, array_agg(m.id)
          FROM unnest(v_missing) WITH ORDINALITY AS m(id, n) GROUP BY (m.n - 1) / 100;
    END IF;
END
$$;
COMMENT ON FUNCTION _verify_missing(looks, text) IS 'At the end of a list that links are verified against: asks by id for what it did not show; what that does not show either is gone.';

CREATE FUNCTION _claim_records(p_kind text, p_jobs bigint[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_records  jsonb;
BEGIN
    -- Adopted or not: it is not to come up again.
    WITH claimed AS (
        DELETE FROM unclaimed_records u USING intents i
         WHERE i.job_id = ANY (p_jobs) AND i.kind = p_kind AND i.operation = 'create' AND u.kind = p_kind AND u.exact_id = i.exact_id
        RETURNING u.record)
    SELECT jsonb_agg(c.record) INTO v_records FROM claimed c;
    PERFORM _adopt(p_kind, v_records);
END
$$;
COMMENT ON FUNCTION _claim_records(text, bigint[]) IS 'Adopts records that were seen at Pipedrive before their Exact records were staged.';
