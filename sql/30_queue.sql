/*
 * 30_queue.sql
 *		What may have changed (job_signals), what is to be looked at (jobs), what
 *		is announced (intents) and what was sent (links, line_links).
 *
 * Users' transactions append to job_signals and touch nothing else of this; the
 * delivery worker alone folds signals into jobs and settles them.
 */

CREATE TABLE links (
    kind           text NOT NULL CHECK (kind IN ('organization', 'product', 'deal', 'groups')),
    division       integer NOT NULL,
    exact_id       uuid NOT NULL,
    pipedrive_id   bigint NOT NULL,
    sent           jsonb NOT NULL,
    adopted        boolean NOT NULL DEFAULT false,
    discount_key   text,
    discount_sent  numeric,
    first_won_at   text,
    lines_unread   boolean NOT NULL DEFAULT false,
    misreads       integer NOT NULL DEFAULT 0,
    gone_at        timestamptz,
    archived_at    timestamptz,
    follower       boolean NOT NULL DEFAULT false,
    kept           text[],
    seen_value     numeric,
    first_sent     timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_sent      timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_verified  timestamptz,
    last_error     text,
    PRIMARY KEY (kind, division, exact_id)
);
COMMENT ON TABLE links IS 'Which Exact record is which Pipedrive record, and what was last sent. Several Exact records may share one Pipedrive record. Losing this table means looking everything up again.';
COMMENT ON COLUMN links.kind IS 'organization (account), product (item), deal (sales order).';
COMMENT ON COLUMN links.division IS 'Exact division.';
COMMENT ON COLUMN links.exact_id IS 'GUID at Exact.';
COMMENT ON COLUMN links.pipedrive_id IS 'Id at Pipedrive.';
COMMENT ON COLUMN links.sent IS 'The fields as last sent or adopted, in Pipedrive''s form. The difference to wanted_* is what goes out next.';
COMMENT ON COLUMN links.adopted IS 'True: it was there before us and was taken over.';
COMMENT ON COLUMN links.discount_key IS 'Deals: id of the one discount that closes rounding cents.';
COMMENT ON COLUMN links.discount_sent IS 'Deals: its amount.';
COMMENT ON COLUMN links.first_won_at IS 'Deals: the won_time first sent; a deal won again keeps it.';
COMMENT ON COLUMN links.lines_unread IS 'Deals: its lines at Pipedrive are not known and are read before anything is done to them.';
COMMENT ON COLUMN links.misreads IS 'Deals: how often in a row an answer to added lines did not name what was sent. At three the job becomes a dead letter, so that nothing is added again and again.';
COMMENT ON COLUMN links.gone_at IS 'Pipedrive answered that the record no longer exists. It is not made again by itself.';
COMMENT ON COLUMN links.archived_at IS 'Deals: a person archived it. Nothing is sent until reconcile() sees it out of the archive; what changed meanwhile goes out then.';
COMMENT ON COLUMN links.follower IS 'A person merged this record into another one, which carries the Exact-ID of another link. It is referred to, but its own fields and lines are not sent: two masters would never agree.';
COMMENT ON COLUMN links.kept IS 'Fields that a person changed at Pipedrive and whose policy leaves them to that person.';
COMMENT ON COLUMN links.seen_value IS 'Deals: the value at Pipedrive that did not fit what was sent, until its lines and discounts were read back.';
COMMENT ON COLUMN links.first_sent IS 'First sent or adopted.';
COMMENT ON COLUMN links.last_sent IS 'Last sent.';
COMMENT ON COLUMN links.last_verified IS 'Last seen in a list of Pipedrive.';
COMMENT ON COLUMN links.last_error IS 'Last refusal.';
-- Without kind: an index that a look-up by the key could use looks cheaper to the planner while this table is small.
CREATE INDEX links_pipedrive ON links (pipedrive_id);
CREATE INDEX links_gone ON links (kind) WHERE gone_at IS NOT NULL;
CREATE INDEX links_unread ON links (division, exact_id) WHERE lines_unread;
SELECT pg_catalog.pg_extension_config_dump('links', '');

CREATE TABLE line_links (
    division      integer NOT NULL,
    order_id      uuid NOT NULL,
    line_id       uuid NOT NULL,
    pipedrive_id  bigint NOT NULL,
    product_id    bigint NOT NULL,
    quantity      numeric NOT NULL,
    item_price    numeric NOT NULL,
    discount      numeric NOT NULL DEFAULT 0,
    comments      text,
    PRIMARY KEY (division, order_id, line_id)
);
COMMENT ON TABLE line_links IS 'Which order line is which deal product, and what was last sent for it. Apart from links because there are twenty times as many.';
COMMENT ON COLUMN line_links.division IS 'Exact division.';
COMMENT ON COLUMN line_links.order_id IS 'OrderID.';
COMMENT ON COLUMN line_links.line_id IS 'ID of the line at Exact; for a line found at Pipedrive that fits none of ours, a GUID made from its id, so that it is removed.';
COMMENT ON COLUMN line_links.pipedrive_id IS 'Id of the deal product.';
COMMENT ON COLUMN line_links.product_id IS 'Product last sent.';
COMMENT ON COLUMN line_links.quantity IS 'Quantity last sent.';
COMMENT ON COLUMN line_links.item_price IS 'Price last sent.';
COMMENT ON COLUMN line_links.discount IS 'Discount percentage last sent.';
COMMENT ON COLUMN line_links.comments IS 'Comment last sent.';
SELECT pg_catalog.pg_extension_config_dump('line_links', '');

CREATE TABLE job_signals (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind      text NOT NULL CHECK (kind IN ('organization', 'product', 'deal', 'groups', 'all_deals', 'all_products', 'all_organizations', 'replay', 'compare')),
    division  integer,
    exact_id  uuid,
    reason    text NOT NULL,
    argument  jsonb,
    at        timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE job_signals IS 'What may have changed. Appended to by triggers and operator functions, folded into jobs by the delivery worker. Append-only, so that nobody''s transaction waits for delivery.';
COMMENT ON COLUMN job_signals.id IS 'Number.';
COMMENT ON COLUMN job_signals.kind IS 'Kind of object; all_… = every one of them; replay = an operator''s wish; compare = rebuild the queue from links (after a restore).';
COMMENT ON COLUMN job_signals.division IS 'Exact division.';
COMMENT ON COLUMN job_signals.exact_id IS 'GUID at Exact.';
COMMENT ON COLUMN job_signals.reason IS 'Which table or function said so.';
COMMENT ON COLUMN job_signals.argument IS 'For replay: which jobs. For resync: that the record is sent whole. From reconcile(): what it saw at Pipedrive.';
COMMENT ON COLUMN job_signals.at IS 'When.';

CREATE TABLE jobs (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind             text NOT NULL CHECK (kind IN ('organization', 'product', 'deal', 'groups')),
    division         integer NOT NULL,
    exact_id         uuid NOT NULL,
    lane             smallint NOT NULL,
    priority         bigint NOT NULL,
    state            text NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'waiting', 'blocked', 'sending', 'unknown', 'dead')),
    dirty            boolean NOT NULL DEFAULT false,
    attempts         integer NOT NULL DEFAULT 0,
    next_attempt_at  timestamptz,
    lease_until      timestamptz,
    class            text,
    reason           text,
    error            text,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (kind, division, exact_id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, fillfactor = 80);
COMMENT ON TABLE jobs IS 'The outbound queue: one row per object that must be looked at. It never says what to send; that is worked out at sending time. A finished job leaves; its history is in sync_changes.';
COMMENT ON COLUMN jobs.id IS 'Number of the job.';
COMMENT ON COLUMN jobs.kind IS 'groups (options of Artikelgroep), organization, product or deal.';
COMMENT ON COLUMN jobs.division IS 'Exact division.';
COMMENT ON COLUMN jobs.exact_id IS 'GUID at Exact.';
COMMENT ON COLUMN jobs.lane IS '1 live orders and what they need, 2 open orders, 3 history, 4 catalogue nobody ordered.';
COMMENT ON COLUMN jobs.priority IS 'Lower goes first within a lane: newest order first, and what an order needs just before it.';
COMMENT ON COLUMN jobs.state IS 'ready; waiting until next_attempt_at; blocked by a missing piece (job_needs); sending; unknown (a create whose outcome must be looked up); dead (needs a person, see dead_letters).';
COMMENT ON COLUMN jobs.dirty IS 'It changed while it was being sent: it is looked at once more afterwards.';
COMMENT ON COLUMN jobs.attempts IS 'Attempts so far, counted before they are made. Waiting for a limit is not an attempt.';
COMMENT ON COLUMN jobs.next_attempt_at IS 'Not before.';
COMMENT ON COLUMN jobs.lease_until IS 'Who sends it should be done by then. For people: nobody takes a job over from a worker that lives.';
COMMENT ON COLUMN jobs.class IS 'Of the last failure: theirs, ours, capacity, auth, limit.';
COMMENT ON COLUMN jobs.reason IS 'What is the matter, in plain words.';
COMMENT ON COLUMN jobs.error IS 'The server''s words.';
COMMENT ON COLUMN jobs.created_at IS 'Since when.';
COMMENT ON COLUMN jobs.updated_at IS 'Last change of its state.';
CREATE INDEX jobs_ready ON jobs (lane, priority, id) WHERE state = 'ready';
CREATE INDEX jobs_waiting ON jobs (next_attempt_at) WHERE state = 'waiting';
-- Without sending: there are few, each job is it once, and what is gone from an index still has to be passed.
CREATE INDEX jobs_state ON jobs (state) WHERE state NOT IN ('ready', 'waiting', 'sending');
CREATE INDEX jobs_person ON jobs (class) WHERE state = 'waiting' AND class IN ('capacity', 'auth');

CREATE TABLE job_needs (
    job_id    bigint NOT NULL REFERENCES jobs ON DELETE CASCADE,
    kind      text NOT NULL,
    division  integer NOT NULL,
    exact_id  uuid NOT NULL,
    PRIMARY KEY (job_id, kind, division, exact_id)
);
COMMENT ON TABLE job_needs IS 'What a blocked job waits for: it is ready again when the last of these is linked.';
COMMENT ON COLUMN job_needs.job_id IS 'The job that waits.';
COMMENT ON COLUMN job_needs.kind IS 'What it waits for.';
COMMENT ON COLUMN job_needs.division IS 'Exact division.';
COMMENT ON COLUMN job_needs.exact_id IS 'GUID at Exact.';
CREATE INDEX job_needs_object ON job_needs (kind, division, exact_id);

CREATE TABLE intents (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id        bigint NOT NULL,
    kind          text NOT NULL,
    division      integer NOT NULL,
    exact_id      uuid NOT NULL,
    operation     text NOT NULL,
    method        text NOT NULL,
    path          text NOT NULL,
    body          jsonb,
    old_value     jsonb,
    tokens        integer NOT NULL,
    is_create     boolean NOT NULL,
    line_ids      uuid[],
    state         text NOT NULL DEFAULT 'announced' CHECK (state IN ('announced', 'unknown')),
    announced_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    unknown_at    timestamptz,
    server_time   timestamptz
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE intents IS 'Calls announced and not settled (law 4): committed before the call is made, removed in the transaction that books its answer. What is left after a crash is looked up before anything is created.';
COMMENT ON COLUMN intents.id IS 'Number of the call.';
COMMENT ON COLUMN intents.job_id IS 'Job it belongs to.';
COMMENT ON COLUMN intents.kind IS 'Kind of the job''s object.';
COMMENT ON COLUMN intents.division IS 'Exact division.';
COMMENT ON COLUMN intents.exact_id IS 'GUID at Exact.';
COMMENT ON COLUMN intents.operation IS 'create, update, line_add, line_change, line_delete, discount_add, discount_change, discount_delete, options_add.';
COMMENT ON COLUMN intents.method IS 'HTTP method.';
COMMENT ON COLUMN intents.path IS 'Path; {deal} stands for the deal that the first call of the job makes.';
COMMENT ON COLUMN intents.body IS 'Body to send.';
COMMENT ON COLUMN intents.old_value IS 'What is replaced.';
COMMENT ON COLUMN intents.tokens IS 'Tokens booked.';
COMMENT ON COLUMN intents.is_create IS 'Repeating it blindly could make a second record.';
COMMENT ON COLUMN intents.line_ids IS 'Order lines it carries, in order.';
COMMENT ON COLUMN intents.state IS 'announced, or unknown: sent without a readable answer.';
COMMENT ON COLUMN intents.announced_at IS 'When it was announced.';
COMMENT ON COLUMN intents.unknown_at IS 'When we stopped waiting for its answer.';
COMMENT ON COLUMN intents.server_time IS 'Pipedrive''s clock as last heard before the announcement: what the call made is not older.';
CREATE INDEX intents_job ON intents (job_id);
CREATE INDEX intents_unknown ON intents (kind) WHERE state = 'unknown';

CREATE TABLE queue_floors (
    what      text PRIMARY KEY CHECK (what IN ('ready', 'waiting', 'signals')),
    lane      smallint,
    priority  bigint,
    id        bigint,
    at        timestamptz,
    until     timestamptz NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
COMMENT ON TABLE queue_floors IS 'Where the worker begins to search its queue, while rows that are gone cannot be forgotten yet (an old snapshot is open) and would be passed each time. A hint for seconds; losing it costs nothing.';
COMMENT ON COLUMN queue_floors.what IS 'ready or waiting jobs, or signals.';
COMMENT ON COLUMN queue_floors.lane IS 'Ready jobs: no one in an earlier lane.';
COMMENT ON COLUMN queue_floors.priority IS 'Ready jobs: no one of that lane that goes before.';
COMMENT ON COLUMN queue_floors.id IS 'Number of the first job, or of the last signal that is gone.';
COMMENT ON COLUMN queue_floors.at IS 'Waiting jobs: none that was due before.';
COMMENT ON COLUMN queue_floors.until IS 'How long that is believed.';

CREATE TABLE awaited_orders (
    division   integer NOT NULL,
    order_id   uuid NOT NULL,
    timestamp  bigint NOT NULL,
    PRIMARY KEY (division, order_id)
);
COMMENT ON TABLE awaited_orders IS 'Orders whose lines did not add up to their header and were awaited once more. Not a column of staging: the worker writes it, and must wait for nobody who holds the order.';
COMMENT ON COLUMN awaited_orders.division IS 'Exact division.';
COMMENT ON COLUMN awaited_orders.order_id IS 'OrderID.';
COMMENT ON COLUMN awaited_orders.timestamp IS 'Rowversion of the header for which that was done; it is not done twice for the same.';

CREATE TABLE looks (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    what        text NOT NULL CHECK (what IN ('organizations', 'products', 'deals', 'archived_deals', 'lines', 'discounts', 'options')),
    reason      text NOT NULL,
    since       timestamptz,
    deal_ids    bigint[],
    cursor      text,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at     timestamptz,
    rows        integer NOT NULL DEFAULT 0,
    adopted     integer NOT NULL DEFAULT 0,
    failures    integer NOT NULL DEFAULT 0,
    last_error  text,
    not_before  timestamptz,
    differ      integer NOT NULL DEFAULT 0
);
COMMENT ON TABLE looks IS 'Lists read from Pipedrive to find what is already there: the scan before the first create, the short list after a server start, what all links are verified against after a restore, unknown outcomes, lines to read back.';
COMMENT ON COLUMN looks.id IS 'Number.';
COMMENT ON COLUMN looks.what IS 'Which list.';
COMMENT ON COLUMN looks.reason IS 'scan, start, verify, unknown, readback, or again (replayed records: are they still gone).';
COMMENT ON COLUMN looks.since IS 'Only what changed since; NULL = all. For verify, which reads all: lines of deals that changed since are read back.';
COMMENT ON COLUMN looks.deal_ids IS 'Deals whose lines are read; for verify, the records that the lists did not show and that are asked for by id.';
COMMENT ON COLUMN looks.cursor IS 'Next page.';
COMMENT ON COLUMN looks.started_at IS 'Start.';
COMMENT ON COLUMN looks.done_at IS 'End; NULL while under way.';
COMMENT ON COLUMN looks.rows IS 'Records seen.';
COMMENT ON COLUMN looks.adopted IS 'Records adopted.';
COMMENT ON COLUMN looks.failures IS 'Failed tries in a row.';
COMMENT ON COLUMN looks.last_error IS 'Last failure.';
COMMENT ON COLUMN looks.not_before IS 'Not begun before: a record that was just made may be missing in lists for a moment (setting list_lag).';
COMMENT ON COLUMN looks.differ IS 'Records that differed from what we thought Pipedrive had.';
CREATE INDEX looks_open ON looks (id) WHERE done_at IS NULL;
CREATE INDEX looks_done ON looks (what, done_at);

CREATE TABLE unclaimed_records (
    kind          text NOT NULL,
    exact_id      uuid NOT NULL,
    pipedrive_id  bigint NOT NULL,
    record        jsonb NOT NULL,
    seen_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (kind, exact_id)
);
COMMENT ON TABLE unclaimed_records IS 'Records at Pipedrive that carry an Exact-ID of ours which is not staged (yet): made from what a restored database has forgotten, or from orders that were not imported. They are adopted when their Exact record is staged, in place of a create.';
COMMENT ON COLUMN unclaimed_records.kind IS 'organization, product or deal.';
COMMENT ON COLUMN unclaimed_records.exact_id IS 'The Exact-ID it carries.';
COMMENT ON COLUMN unclaimed_records.pipedrive_id IS 'Id at Pipedrive.';
COMMENT ON COLUMN unclaimed_records.record IS 'What was seen of it.';
COMMENT ON COLUMN unclaimed_records.seen_at IS 'When it was seen in a list.';

CREATE TABLE remote_lines (
    look_id       bigint NOT NULL REFERENCES looks ON DELETE CASCADE,
    pipedrive_id  bigint NOT NULL,
    deal_id       bigint NOT NULL,
    product_id    bigint NOT NULL,
    quantity      numeric NOT NULL,
    item_price    numeric NOT NULL,
    discount      numeric NOT NULL,
    line_sum      numeric,
    comments      text,
    line_id       uuid,
    PRIMARY KEY (look_id, pipedrive_id)
);
COMMENT ON TABLE remote_lines IS 'Deal products read back, page by page, until the look is complete and they can be paired with order lines.';
COMMENT ON COLUMN remote_lines.look_id IS 'The look that read it.';
COMMENT ON COLUMN remote_lines.pipedrive_id IS 'Id of the deal product.';
COMMENT ON COLUMN remote_lines.deal_id IS 'Its deal.';
COMMENT ON COLUMN remote_lines.product_id IS 'Its product.';
COMMENT ON COLUMN remote_lines.quantity IS 'Quantity.';
COMMENT ON COLUMN remote_lines.item_price IS 'Price.';
COMMENT ON COLUMN remote_lines.discount IS 'Discount percentage; for what we never send and replace: -1 a discount of an amount, -2 tax or a line that is switched off.';
COMMENT ON COLUMN remote_lines.line_sum IS 'What the line adds to the value of its deal.';
COMMENT ON COLUMN remote_lines.comments IS 'Comment.';
COMMENT ON COLUMN remote_lines.line_id IS 'The order line it was paired with.';

CREATE FUNCTION wake_worker(p_kind text) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'epds_wake_worker';
COMMENT ON FUNCTION wake_worker(text) IS 'Wakes the delivery or intake worker of this database when the transaction commits. A hint only: workers look again by themselves.';

-- ------------------------------------------------------------------- triggers
-- INSERT and UPDATE apart, because transition tables of both at once do not exist.
-- Transition tables have no statistics, and the plan of a session's first page
-- is kept: without a nested loop, old and new rows never meet each with each.

CREATE FUNCTION _signal_deal() RETURNS trigger
    LANGUAGE plpgsql SET search_path = exact_pd_sync, pg_catalog, pg_temp SET enable_nestloop = off SET enable_hashjoin = on
    AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO job_signals (kind, division, exact_id, reason) SELECT 'deal', n.division, n.id, TG_TABLE_NAME FROM new_rows n;
    ELSE
        INSERT INTO job_signals (kind, division, exact_id, reason)
        SELECT 'deal', n.division, n.id, TG_TABLE_NAME FROM new_rows n JOIN old_rows o USING (division, id)
         WHERE n.changed_at IS DISTINCT FROM o.changed_at;
    END IF;
    IF FOUND THEN PERFORM wake_worker('delivery'); END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _signal_deal() IS 'Order headers changed: their deals are to be looked at.';
CREATE TRIGGER signal_insert AFTER INSERT ON exact_sales_orders REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION _signal_deal();
CREATE TRIGGER signal_update AFTER UPDATE ON exact_sales_orders REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION _signal_deal();

CREATE FUNCTION _signal_lines() RETURNS trigger
    LANGUAGE plpgsql SET search_path = exact_pd_sync, pg_catalog, pg_temp SET enable_nestloop = off SET enable_hashjoin = on
    AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO job_signals (kind, division, exact_id, reason) SELECT DISTINCT 'deal', n.division, n.order_id, TG_TABLE_NAME FROM new_rows n;
    ELSE
        INSERT INTO job_signals (kind, division, exact_id, reason)
        SELECT DISTINCT 'deal', n.division, n.order_id, TG_TABLE_NAME FROM new_rows n JOIN old_rows o USING (division, id)
         WHERE n.changed_at IS DISTINCT FROM o.changed_at;
    END IF;
    IF FOUND THEN PERFORM wake_worker('delivery'); END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _signal_lines() IS 'Order lines changed: the deals of their orders are to be looked at.';
CREATE TRIGGER signal_insert AFTER INSERT ON exact_sales_order_lines REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION _signal_lines();
CREATE TRIGGER signal_update AFTER UPDATE ON exact_sales_order_lines REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION _signal_lines();

CREATE FUNCTION _signal_object() RETURNS trigger
    LANGUAGE plpgsql SET search_path = exact_pd_sync, pg_catalog, pg_temp SET enable_nestloop = off SET enable_hashjoin = on
    AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO job_signals (kind, division, exact_id, reason) SELECT TG_ARGV[0], n.division, n.id, TG_TABLE_NAME FROM new_rows n;
    ELSE
        INSERT INTO job_signals (kind, division, exact_id, reason)
        SELECT TG_ARGV[0], n.division, n.id, TG_TABLE_NAME FROM new_rows n JOIN old_rows o USING (division, id)
         WHERE n.changed_at IS DISTINCT FROM o.changed_at;
    END IF;
    IF FOUND THEN PERFORM wake_worker('delivery'); END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _signal_object() IS 'Accounts or items changed: their organizations or products are to be looked at.';
CREATE TRIGGER signal_insert AFTER INSERT ON exact_accounts REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION _signal_object('organization');
CREATE TRIGGER signal_update AFTER UPDATE ON exact_accounts REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION _signal_object('organization');
CREATE TRIGGER signal_insert AFTER INSERT ON exact_items REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION _signal_object('product');
CREATE TRIGGER signal_update AFTER UPDATE ON exact_items REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION _signal_object('product');

CREATE FUNCTION _signal_price() RETURNS trigger
    LANGUAGE plpgsql SET search_path = exact_pd_sync, pg_catalog, pg_temp SET enable_nestloop = off SET enable_hashjoin = on
    AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO job_signals (kind, division, exact_id, reason)
        SELECT DISTINCT 'product', n.division, n.item, TG_TABLE_NAME FROM new_rows n WHERE n.account IS NULL;
    ELSE
        INSERT INTO job_signals (kind, division, exact_id, reason)
        SELECT DISTINCT 'product', n.division, n.item, TG_TABLE_NAME FROM new_rows n JOIN old_rows o USING (division, id)
         WHERE n.changed_at IS DISTINCT FROM o.changed_at AND (n.account IS NULL OR o.account IS NULL);
    END IF;
    IF FOUND THEN PERFORM wake_worker('delivery'); END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _signal_price() IS 'Prices changed: the products they belong to are to be looked at. Price agreements of one account do not concern the product.';
CREATE TRIGGER signal_insert AFTER INSERT ON exact_item_prices REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION _signal_price();
CREATE TRIGGER signal_update AFTER UPDATE ON exact_item_prices REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION _signal_price();

CREATE FUNCTION _signal_groups() RETURNS trigger
    LANGUAGE plpgsql SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NOT EXISTS (SELECT FROM new_rows n JOIN old_rows o USING (division, id) WHERE n.changed_at IS DISTINCT FROM o.changed_at) THEN
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO job_signals (kind, division, exact_id, reason) VALUES ('groups', 0, '00000000-0000-0000-0000-000000000000', TG_TABLE_NAME);
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO job_signals (kind, division, exact_id, reason)
        SELECT 'product', i.division, i.id, TG_TABLE_NAME
          FROM new_rows n JOIN old_rows o USING (division, id) JOIN exact_items i ON i.division = n.division AND i.item_group = n.id
         WHERE n.changed_at IS DISTINCT FROM o.changed_at;
    END IF;
    PERFORM wake_worker('delivery');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _signal_groups() IS 'Item groups changed: the options of Artikelgroep are to be looked at, and the products of a renamed group.';
CREATE TRIGGER signal_insert AFTER INSERT ON exact_item_groups REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION _signal_groups();
CREATE TRIGGER signal_update AFTER UPDATE ON exact_item_groups REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION _signal_groups();

CREATE FUNCTION _signal_all() RETURNS trigger
    LANGUAGE plpgsql SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    INSERT INTO job_signals (kind, reason) VALUES (TG_ARGV[0], TG_TABLE_NAME);
    PERFORM wake_worker('delivery');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _signal_all() IS 'A rule or mapping changed: one signal for everything it concerns.';
CREATE TRIGGER signal_all AFTER INSERT OR UPDATE OR DELETE ON status_rules FOR EACH STATEMENT EXECUTE FUNCTION _signal_all('all_deals');

CREATE FUNCTION _signal_owner() RETURNS trigger
    LANGUAGE plpgsql SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO job_signals (kind, division, exact_id, reason)
        SELECT 'deal', o.division, o.id, TG_TABLE_NAME
          FROM new_rows n JOIN exact_sales_orders o ON o.salesperson = n.exact_id WHERE n.pipedrive_user_id IS NOT NULL;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO job_signals (kind, division, exact_id, reason)
        SELECT 'deal', o.division, o.id, TG_TABLE_NAME
          FROM new_rows n JOIN old_rows p USING (exact_id) JOIN exact_sales_orders o ON o.salesperson = n.exact_id
         WHERE n.pipedrive_user_id IS DISTINCT FROM p.pipedrive_user_id;
    ELSE
        INSERT INTO job_signals (kind, division, exact_id, reason)
        SELECT 'deal', o.division, o.id, TG_TABLE_NAME
          FROM old_rows p JOIN exact_sales_orders o ON o.salesperson = p.exact_id WHERE p.pipedrive_user_id IS NOT NULL;
    END IF;
    IF FOUND THEN PERFORM wake_worker('delivery'); END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _signal_owner() IS 'A salesperson was mapped otherwise: the deals of their orders are to be looked at.';
CREATE TRIGGER signal_insert AFTER INSERT ON owner_map REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION _signal_owner();
CREATE TRIGGER signal_update AFTER UPDATE ON owner_map REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION _signal_owner();
CREATE TRIGGER signal_delete AFTER DELETE ON owner_map REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION _signal_owner();
