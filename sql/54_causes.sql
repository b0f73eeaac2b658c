/*
 * 54_causes.sql
 *		Why a job is among the dead letters: what a person can do about it, and
 *		what brings it out again by itself.
 *
 * The reason in a job's row is written where the answer is booked (56_settle,
 * 60_look, 55_deliver); here it is recognized.  A new reason needs a row here.
 */

CREATE VIEW dead_causes AS
SELECT * FROM (VALUES
    (10, 'archived', 'a person archived this deal%', 'Take the deal out of the archive in Pipedrive, then replay. Left archived, it simply stays as it is.', 'person', 'the deal is taken out of the archive'),
    (20, 'feature', 'a feature that is needed%', 'An administrator of Pipedrive switches the feature on (Company settings, Products).', 'setup nightly', 'setup_pipedrive(), or the next night'),
    (30, 'lines', 'Pipedrive takes no more lines%', 'Split the order in Exact, or ask Pipedrive for a higher limit. The deal itself is there.', 'person', 'the order changes'),
    (40, 'setup', 'Pipedrive refuses a custom field%', 'CALL exact_pd_sync.setup_pipedrive(); it makes the missing field again.', 'setup', 'setup_pipedrive()'),
    (50, 'setup', 'Pipedrive does not know the stage or pipeline%', 'CALL exact_pd_sync.setup_pipedrive(); it makes the missing stage again.', 'setup', 'setup_pipedrive()'),
    (60, 'owner', 'Pipedrive refuses the owner%', 'Make the user active again in Pipedrive, or map the salesperson to somebody else: map_salesperson(). Then CALL exact_pd_sync.setup_pipedrive(), which reads the users.', 'setup', 'the salesperson is mapped anew, or setup_pipedrive() finds the user active'),
    (70, 'organization', 'Pipedrive does not know the organization%', 'The organization was deleted or merged in Pipedrive: look it up there, or let it be made anew with replay() of the organization.', 'person', 'the organization is there again'),
    (80, 'product', 'Pipedrive refuses a line''s product%', 'The product was deleted or closed for deals in Pipedrive: open it there, or let it be made anew with replay() of the product.', 'person', 'the product is there again'),
    (90, 'gone', 'the record no longer exists at Pipedrive%', 'Was it deleted on purpose: leave it, nothing more happens. Was it by mistake: replay() makes it anew.', 'person', NULL),
    (100, 'tries', 'no good answer from Pipedrive in%', 'Usually nothing: it is tried once more every night. If it stays while others go through, send the server''s words and the request id (api_calls) to Pipedrive support.', 'nightly', 'the next night'),
    (110, 'misread', 'Pipedrive takes the lines of this deal and three times%', 'Compare the lines of the deal with the order, then replay.', 'person', 'the order changes'),
    (115, 'ghost', 'Pipedrive shows a line or discount of this deal%', 'Open the deal in Pipedrive and remove the line or discount that cannot be changed (or any that looks wrong), then replay: what is missing is added again. If it stays, send the server''s words and the request id (api_calls) to Pipedrive support.', 'person', 'the order changes'),
    (120, 'discounts', 'this deal has several discounts%', 'Remove the discounts of the deal in Pipedrive, then replay.', 'person', 'the order changes'),
    (130, 'internal', 'this record cannot be worked out%', 'The server''s words say which value does not fit: mend it in Exact. If nothing looks wrong there, report it with these words.', 'person', 'the record changes in Exact'),
    (140, 'capacity', 'the deals of the Pipedrive plan are full%', 'Archive or delete deals, or raise the plan. Changes of deals that exist go on meanwhile.', 'waits', 'there is room: it is tried every hour'),
    (150, 'capacity', 'history stops at%', 'Import fewer months, raise the plan, or SELECT exact_pd_sync.configure(''deal_capacity'', …) and ''history_capacity_percent''.', 'waits', 'there is room: it is tried every hour'),
    (160, 'auth', 'Pipedrive does not accept the API token%', 'Copy the API token anew from Pipedrive (Personal preferences, API): SELECT exact_pd_sync.set_pipedrive_account(token, base_url);', 'waits', 'a token that works is set'),
    (900, 'refused', '%', 'The server''s words say which value Pipedrive does not take: mend it in Exact. It is sent again when the record changes there.', 'person', 'the record changes in Exact')
  ) AS c(ordinal, cause, pattern, hint, revived_by, leaves_when);
COMMENT ON VIEW dead_causes IS 'What stands behind a reason in dead_letters: what to do about it, and what takes it out of there by itself.';
COMMENT ON COLUMN dead_causes.ordinal IS 'The first pattern that fits counts.';
COMMENT ON COLUMN dead_causes.cause IS 'One word for it.';
COMMENT ON COLUMN dead_causes.pattern IS 'Reasons it stands for (LIKE).';
COMMENT ON COLUMN dead_causes.hint IS 'What a person does.';
COMMENT ON COLUMN dead_causes.revived_by IS 'setup: tried again at the end of setup_pipedrive(); nightly: once every night; waits: it is not dead but waits, and is tried by itself; person: by replay(). New content in Exact always is a new try, but for what is gone.';
COMMENT ON COLUMN dead_causes.leaves_when IS 'What takes it out of the dead letters without replay().';

CREATE FUNCTION _dead_cause(p_reason text) RETURNS dead_causes
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$ SELECT c FROM dead_causes c WHERE p_reason LIKE c.pattern ORDER BY c.ordinal LIMIT 1 $$;
COMMENT ON FUNCTION _dead_cause(text) IS 'The row of dead_causes for the reason of a job.';

CREATE FUNCTION _object_name(p_kind text, p_division integer, p_exact_id uuid, OUT number text, OUT name text)
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    SELECT o.order_number::text, o.ordered_by_name FROM exact_sales_orders o WHERE p_kind = 'deal' AND o.division = p_division AND o.id = p_exact_id
    UNION ALL SELECT a.code, a.name FROM exact_accounts a WHERE p_kind = 'organization' AND a.division = p_division AND a.id = p_exact_id
    UNION ALL SELECT i.code, i.description FROM exact_items i WHERE p_kind = 'product' AND i.division = p_division AND i.id = p_exact_id $$;
COMMENT ON FUNCTION _object_name(text, integer, uuid) IS 'Number and name of a record of Exact, as people know it.';

CREATE FUNCTION _object_text(p_kind text, p_number text, p_name text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE p_kind WHEN 'deal' THEN 'Order ' || coalesce(p_number, '?') WHEN 'groups' THEN 'Artikelgroep' ELSE coalesce(nullif(concat_ws(' ', p_number, p_name), ''), p_kind || ' without a name') END $$;
COMMENT ON FUNCTION _object_text(text, text, text) IS 'A record in one word or two.';
