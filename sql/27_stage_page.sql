/*
 * 27_stage_page.sql
 *		The feeds: what is asked of Exact next, and how an answer becomes rows
 *		and a moved position, in one transaction.
 *
 * C fetches what _feed_next() says and hands the body to _stage_page().  What a
 * feed reads, from where, and when it is done is decided here.
 */

CREATE TABLE feed_positions (
    division           integer NOT NULL,
    feed               text NOT NULL,
    last_timestamp     bigint,
    cursor_timestamp   bigint,
    next_url           text,
    asked_keys         uuid[],
    run_id             bigint,
    drained_run        bigint,
    last_page_at       timestamptz,
    last_success       timestamptz,
    rows_total         bigint NOT NULL DEFAULT 0,
    short_select       boolean NOT NULL DEFAULT false,
    unavailable_until  timestamptz,
    last_error         text,
    PRIMARY KEY (division, feed)
);
COMMENT ON TABLE feed_positions IS 'How far each feed of each division has been read. Part of a dump, so that a restored database goes on where it was.';
COMMENT ON COLUMN feed_positions.division IS 'Exact division.';
COMMENT ON COLUMN feed_positions.feed IS 'Name in feed_definitions.';
COMMENT ON COLUMN feed_positions.last_timestamp IS 'Highest rowversion stored; one position per division and feed (exact-online 7).';
COMMENT ON COLUMN feed_positions.cursor_timestamp IS 'How far the run in run_id has come.';
COMMENT ON COLUMN feed_positions.next_url IS 'Exact''s own continuation, for lists without a rowversion.';
COMMENT ON COLUMN feed_positions.asked_keys IS 'The keys that the list under way was asked for; what it does not name is not there.';
COMMENT ON COLUMN feed_positions.run_id IS 'Run that reads or last read.';
COMMENT ON COLUMN feed_positions.drained_run IS 'Run in which its end was last reached.';
COMMENT ON COLUMN feed_positions.last_page_at IS 'When a page was last stored.';
COMMENT ON COLUMN feed_positions.last_success IS 'When its end was last reached.';
COMMENT ON COLUMN feed_positions.rows_total IS 'Rows read in all.';
COMMENT ON COLUMN feed_positions.short_select IS 'True: Exact refused the optional fields of this feed; they are left out.';
COMMENT ON COLUMN feed_positions.unavailable_until IS 'An optional feed that was refused is left alone until then.';
COMMENT ON COLUMN feed_positions.last_error IS 'Last refusal.';
SELECT pg_catalog.pg_extension_config_dump('feed_positions', '');

CREATE VIEW feed_definitions AS
SELECT * FROM (VALUES
    ('start_headers', 'function', 'read/sync/Sync/SyncTimestamp', NULL, NULL, NULL, false, 'orders', 10, 'SalesOrderHeaders'),
    ('start_lines', 'function', 'read/sync/Sync/SyncTimestamp', NULL, NULL, NULL, false, 'orders', 11, 'SalesOrderLines'),
    ('sales_order_headers', 'sync', 'sync/SalesOrder/SalesOrderHeaders', 'sales_orders',
     'Timestamp,ID,OrderID,OrderNumber,Status,DeliveryStatus,InvoiceStatus,ApprovalStatus,OrderedBy,OrderedByName,OrderedByContactPerson,InvoiceTo,DeliverTo,OrderDate,DeliveryDate,Currency,AmountDC,AmountFC,AmountFCExclVat,VATAmount,AmountDiscountExclVat,Discount,Salesperson,SalespersonFullName,YourRef,Description,Remarks,PaymentCondition,Created,Modified',
     NULL, false, 'orders', 20, NULL),
    ('sales_order_lines', 'sync', 'sync/SalesOrder/SalesOrderLines', 'sales_order_lines',
     'Timestamp,ID,OrderID,OrderNumber,LineNumber,Item,ItemCode,ItemDescription,Description,Notes,Quantity,UnitCode,UnitPrice,NetPrice,Discount,AmountFC,VATPercentage,VATAmount,DeliveryDate,Status',
     'QuantityDelivered,QuantityInvoiced', false, 'orders', 21, NULL),
    ('deleted', 'sync', 'sync/Deleted', 'deleted', 'Timestamp,ID,EntityKey,EntityType,DeletedDate', NULL, false, 'orders', 22, NULL),
    ('stale_headers', 'keys', 'bulk/SalesOrder/SalesOrders', 'stale_headers',
     'OrderID,OrderNumber,Status,DeliveryStatus,InvoiceStatus,DeliveryDate,AmountDC,AmountFC,AmountFCExclVat,AmountDiscountExclVat,Discount', NULL, false, 'orders', 23, NULL),
    ('missing_accounts', 'keys', 'crm/Accounts', 'accounts',
     'ID,Code,Name,Email,Phone,Website,AddressLine1,AddressLine2,Postcode,City,Country,VATNumber,Status,IsSales,Blocked,AccountManager,AccountManagerFullName,EndDate', NULL, false, 'orders', 30, NULL),
    ('missing_items', 'keys', 'logistics/Items', 'items',
     'ID,Code,Description,ExtraDescription,Barcode,Unit,ItemGroup,ItemGroupCode,IsSalesItem,StartDate,EndDate', NULL, false, 'orders', 31, NULL),
    ('division', 'whole', 'system/Divisions', 'divisions', 'Code,Description,Currency,DivisionMoveDate', NULL, true, 'customers', 5, NULL),
    ('accounts', 'sync', 'sync/CRM/Accounts', 'accounts',
     'Timestamp,ID,Code,Name,Email,Phone,Website,AddressLine1,AddressLine2,Postcode,City,Country,VATNumber,Status,IsSales,Blocked,AccountManager,AccountManagerFullName,EndDate', NULL, false, 'customers', 10, NULL),
    ('employees', 'sync', 'sync/Payroll/Employees', 'employees', 'Timestamp,ID,User,FullName,BusinessEmail,IsActive', NULL, true, 'customers', 20, NULL),
    ('item_groups', 'whole', 'logistics/ItemGroups', 'item_groups', 'ID,Code,Description,IsDefault', NULL, false, 'products', 10, NULL),
    ('items', 'sync', 'sync/Logistics/Items', 'items',
     'Timestamp,ID,Code,Description,ExtraDescription,Barcode,Unit,ItemGroup,ItemGroupCode,IsSalesItem,StartDate,EndDate', NULL, false, 'products', 20, NULL),
    ('item_prices', 'sync', 'sync/Logistics/SalesItemPrices', 'item_prices',
     'Timestamp,ID,Item,Account,Currency,Price,Quantity,Unit,NumberOfItemsPerUnit,StartDate,EndDate', NULL, true, 'products', 30, NULL),
    ('bulk_orders', 'bulk', 'bulk/SalesOrder/SalesOrders', 'sales_orders',
     'OrderID,OrderNumber,Status,DeliveryStatus,InvoiceStatus,ApprovalStatus,OrderedBy,OrderedByName,OrderedByContactPerson,InvoiceTo,DeliverTo,OrderDate,DeliveryDate,Currency,AmountDC,AmountFC,AmountFCExclVat,AmountDiscountExclVat,Discount,Salesperson,SalespersonFullName,YourRef,Description,Remarks,PaymentCondition,Created,Modified,SalesOrderLines/ID,SalesOrderLines/OrderID,SalesOrderLines/OrderNumber,SalesOrderLines/LineNumber,SalesOrderLines/Item,SalesOrderLines/ItemCode,SalesOrderLines/ItemDescription,SalesOrderLines/Description,SalesOrderLines/Notes,SalesOrderLines/Quantity,SalesOrderLines/UnitCode,SalesOrderLines/UnitPrice,SalesOrderLines/NetPrice,SalesOrderLines/Discount,SalesOrderLines/AmountFC,SalesOrderLines/VATPercentage,SalesOrderLines/VATAmount,SalesOrderLines/DeliveryDate',
     NULL, false, 'history', 30, NULL),
    ('bulk_orders_past', 'bulk', 'bulk/SalesOrder/SalesOrders', 'sales_orders', NULL, NULL, false, 'history', 31, NULL),
    ('hinted_orders', 'keys', 'bulk/SalesOrder/SalesOrders', 'sales_orders', NULL, NULL, false, 'hints', 35, NULL),
    ('deferred_lines', 'keys', 'bulk/SalesOrder/SalesOrderLines', 'sales_order_lines',
     'ID,OrderID,OrderNumber,LineNumber,Item,ItemCode,ItemDescription,Description,Notes,Quantity,UnitCode,UnitPrice,NetPrice,Discount,AmountFC,VATPercentage,VATAmount,DeliveryDate', NULL, false, 'history', 32, NULL),
    ('order_keys', 'bulk', 'bulk/SalesOrder/SalesOrders', 'order_keys', 'OrderID,OrderNumber,Status,DeliveryStatus,InvoiceStatus', NULL, false, 'reconcile', 10, NULL),
    ('bulk_missing', 'keys', 'bulk/SalesOrder/SalesOrders', 'sales_orders', NULL, NULL, false, 'reconcile', 20, NULL)
  ) AS f(feed, mode, path, entity, fields, optional_fields, optional, poll_group, ordinal, argument);
COMMENT ON VIEW feed_definitions IS 'What is read from Exact: sync = by rowversion, whole = all of a small list, bulk = history, keys = single records by $filter, function = where to start (exact-online 4).';

CREATE FUNCTION _poll_feeds(p_group text) RETURNS TABLE (division integer, feed text, optional boolean)
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    SELECT d.division, f.feed, f.optional
      FROM divisions d
     CROSS JOIN (VALUES ('orders', 'orders', 3), ('customers', 'customers', 1), ('products', 'products', 1),
                        ('history', 'customers', 1), ('history', 'products', 2), ('history', 'start', 3), ('history', 'history', 4), ('history', 'orders', 5))
           AS g(asked, poll_group, step)
      JOIN feed_definitions f
        ON (f.poll_group = g.poll_group AND NOT (g.asked = 'history' AND g.step = 5 AND f.mode = 'function'))
        OR (g.poll_group = 'start' AND f.mode = 'function')
     WHERE g.asked = p_group AND NOT is_paused(p_group)
     ORDER BY d.division, g.step, f.ordinal
    $$;
COMMENT ON FUNCTION _poll_feeds(text) IS 'The feeds of a poll group in the order to read them; none when the part is paused.';

CREATE FUNCTION _odata_query(p_text text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT replace(replace(p_text, ' ', '%20'), '''', '%27') $$;
COMMENT ON FUNCTION _odata_query(text) IS 'Percent-encodes what our own query texts contain: blanks and quotes.';

CREATE TABLE unresolved_items (
    division  integer NOT NULL,
    item      uuid NOT NULL,
    PRIMARY KEY (division, item)
);
COMMENT ON TABLE unresolved_items IS 'Items that stand on a line but are not staged: read singly by the next poll of orders.';
COMMENT ON COLUMN unresolved_items.division IS 'Exact division.';
COMMENT ON COLUMN unresolved_items.item IS 'GUID of the item.';
SELECT pg_catalog.pg_extension_config_dump('unresolved_items', '');

CREATE INDEX exact_sales_orders_deferred ON exact_sales_orders (division, id) WHERE lines_deferred;

CREATE TABLE unresolved_accounts (
    division  integer NOT NULL,
    account   uuid NOT NULL,
    PRIMARY KEY (division, account)
);
COMMENT ON TABLE unresolved_accounts IS 'Accounts that ordered but are not staged: read singly by the next poll of orders.';
COMMENT ON COLUMN unresolved_accounts.division IS 'Exact division.';
COMMENT ON COLUMN unresolved_accounts.account IS 'GUID of the account.';
SELECT pg_catalog.pg_extension_config_dump('unresolved_accounts', '');

CREATE TABLE stale_headers (
    division  integer NOT NULL,
    order_id  uuid NOT NULL,
    PRIMARY KEY (division, order_id)
);
COMMENT ON TABLE stale_headers IS 'Orders of which a line changed and the header did not come along: whether progress always moves the header in its feed is not certain (exact-online 4.1), so the same poll reads it singly.';
COMMENT ON COLUMN stale_headers.division IS 'Exact division.';
COMMENT ON COLUMN stale_headers.order_id IS 'OrderID.';
SELECT pg_catalog.pg_extension_config_dump('stale_headers', '');

CREATE TABLE unresolved_orders (
    division  integer NOT NULL,
    order_id  uuid NOT NULL,
    read_at   timestamptz,
    PRIMARY KEY (division, order_id)
);
COMMENT ON TABLE unresolved_orders IS 'Orders that Exact has and staging had not, as reconcile() found them; it reads them singly. Empty when none is under way.';
COMMENT ON COLUMN unresolved_orders.division IS 'Exact division.';
COMMENT ON COLUMN unresolved_orders.order_id IS 'OrderID.';
COMMENT ON COLUMN unresolved_orders.read_at IS 'When it was read.';

CREATE FUNCTION _missing_keys(p_division integer, p_feed text) RETURNS SETOF uuid
    LANGUAGE sql STABLE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
    (SELECT m.account FROM unresolved_accounts m
      WHERE p_feed = 'missing_accounts' AND m.division = p_division
        AND NOT EXISTS (SELECT FROM exact_accounts a WHERE a.division = m.division AND a.id = m.account)
      ORDER BY m.account LIMIT 40)
    UNION ALL
    (SELECT m.item FROM unresolved_items m
      WHERE p_feed = 'missing_items' AND m.division = p_division
        AND NOT EXISTS (SELECT FROM exact_items i WHERE i.division = m.division AND i.id = m.item)
      ORDER BY m.item LIMIT 40)
    UNION ALL
    (SELECT o.id FROM exact_sales_orders o
      WHERE p_feed = 'deferred_lines' AND o.division = p_division AND o.lines_deferred
      ORDER BY o.id LIMIT 40)
    UNION ALL
    (SELECT h.order_id FROM stale_headers h
      WHERE p_feed = 'stale_headers' AND h.division = p_division
      ORDER BY h.order_id LIMIT 40)
    UNION ALL
    (SELECT DISTINCT w.key::uuid FROM webhook_deliveries w JOIN webhook_topics t ON t.topic = w.topic AND t.entity = 'order'
      WHERE p_feed = 'hinted_orders' AND w.division = p_division AND w.state = 'waiting' AND w.looks = 2
        AND (w.action = 'Delete' OR NOT EXISTS (SELECT FROM exact_sales_orders o WHERE o.division = w.division AND o.id = w.key::uuid))
      ORDER BY 1 LIMIT 40)
    UNION ALL
    (SELECT u.order_id FROM unresolved_orders u
      WHERE p_feed = 'bulk_missing' AND u.division = p_division AND u.read_at IS NULL
      ORDER BY u.order_id LIMIT 40)
    $$;
COMMENT ON FUNCTION _missing_keys(integer, text) IS 'The next keys that must be read singly, at most 40 (the URL may have 6000 characters, exact-online 2.5).';

CREATE FUNCTION _feed_next(p_division integer, p_feed text, p_run bigint) RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_def     feed_definitions;
    v_pos     feed_positions;
    v_base    text;
    v_fields  text;
    v_keys    text;
    v_since   date;
    v_until   date;
BEGIN
    SELECT * INTO STRICT v_def FROM feed_definitions WHERE feed = p_feed;
    INSERT INTO feed_positions (division, feed) VALUES (p_division, p_feed) ON CONFLICT DO NOTHING;
    SELECT * INTO v_pos FROM feed_positions WHERE division = p_division AND feed = p_feed FOR UPDATE;
    IF v_pos.drained_run = p_run OR v_pos.unavailable_until > clock_timestamp() THEN
        RETURN NULL;
    END IF;

    v_base := '/api/v1/' || p_division || '/' || v_def.path || '?';
    v_fields := '$select=' || v_def.fields
             || CASE WHEN v_def.optional_fields IS NOT NULL AND NOT v_pos.short_select THEN ',' || v_def.optional_fields ELSE '' END;

    CASE v_def.mode
    WHEN 'sync' THEN
        IF v_pos.run_id IS DISTINCT FROM p_run THEN
            v_pos.cursor_timestamp := greatest(coalesce(v_pos.last_timestamp, 1) - setting('exact_overlap')::bigint, 1);
            UPDATE feed_positions SET run_id = p_run, cursor_timestamp = v_pos.cursor_timestamp
             WHERE division = p_division AND feed = p_feed;
        END IF;
        RETURN v_base || _odata_query(format('$filter=Timestamp gt %sL&', v_pos.cursor_timestamp) || v_fields);

    WHEN 'whole' THEN
        IF v_pos.run_id = p_run AND v_pos.next_url IS NOT NULL THEN
            RETURN v_pos.next_url;
        END IF;
        IF p_feed = 'division' THEN
            -- Once a day is enough: it only tells whether the division was moved to another database.
            IF v_pos.last_success > clock_timestamp() - interval '20 hours' THEN
                RETURN NULL;
            END IF;
            v_fields := format('$filter=Code eq %s&', p_division) || v_fields;
        END IF;
        UPDATE feed_positions SET run_id = p_run, next_url = NULL WHERE division = p_division AND feed = p_feed;
        RETURN v_base || _odata_query(v_fields);

    WHEN 'bulk' THEN
        -- An import that was cut off goes on at its last page while that is fresh.
        IF v_pos.next_url IS NOT NULL AND v_pos.last_page_at > clock_timestamp() - interval '6 hours' THEN
            UPDATE feed_positions SET run_id = p_run WHERE division = p_division AND feed = p_feed;
            RETURN v_pos.next_url;
        END IF;
        UPDATE feed_positions SET run_id = p_run, next_url = NULL WHERE division = p_division AND feed = p_feed;
        SELECT CASE p_feed WHEN 'bulk_orders_past' THEN d.stage_since ELSE d.send_since END,
               CASE p_feed WHEN 'bulk_orders_past' THEN d.send_since END
          INTO v_since, v_until
          FROM (SELECT coalesce(x.send_since, (today(x.division) - interval '12 months')::date) AS send_since, x.stage_since
                  FROM divisions x WHERE x.division = p_division) d;
        IF v_since IS NULL OR v_since >= v_until THEN
            RETURN NULL;
        END IF;
        IF p_feed = 'order_keys' THEN
            RETURN v_base || _odata_query(format('$filter=OrderDate ge datetime''%s''&', to_char(v_since, 'YYYY-MM-DD')) || v_fields);
        END IF;
        SELECT '$select=' || fields INTO v_fields FROM feed_definitions WHERE feed = 'bulk_orders';
        RETURN v_base || _odata_query(format('$filter=OrderDate ge datetime''%s''', to_char(v_since, 'YYYY-MM-DD'))
                || CASE WHEN v_until IS NOT NULL THEN format(' and OrderDate lt datetime''%s''', to_char(v_until, 'YYYY-MM-DD')) ELSE '' END
                || '&$expand=SalesOrderLines&' || v_fields);

    WHEN 'keys' THEN
        IF v_pos.run_id = p_run AND v_pos.next_url IS NOT NULL THEN
            RETURN v_pos.next_url;
        END IF;
        SELECT string_agg(format('%s eq guid''%s''', CASE WHEN p_feed IN ('deferred_lines', 'stale_headers', 'hinted_orders', 'bulk_missing') THEN 'OrderID' ELSE 'ID' END, k), ' or ' ORDER BY k), array_agg(k ORDER BY k)
          INTO v_keys, v_pos.asked_keys FROM _missing_keys(p_division, p_feed) k;
        IF v_keys IS NULL THEN
            UPDATE feed_positions SET run_id = p_run, drained_run = p_run, last_success = clock_timestamp()
             WHERE division = p_division AND feed = p_feed;
            RETURN NULL;
        END IF;
        UPDATE feed_positions SET run_id = p_run, next_url = NULL, asked_keys = v_pos.asked_keys WHERE division = p_division AND feed = p_feed;
        IF p_feed IN ('hinted_orders', 'bulk_missing') THEN
            SELECT '$expand=SalesOrderLines&$select=' || fields INTO v_fields FROM feed_definitions WHERE feed = 'bulk_orders';
        END IF;
        RETURN v_base || _odata_query('$filter=' || v_keys || '&' || v_fields);

    WHEN 'function' THEN
        -- Only a feed that has no position yet is given one, of a day ago.
        IF EXISTS (SELECT FROM feed_positions
                    WHERE division = p_division AND last_timestamp IS NOT NULL
                      AND feed = CASE p_feed WHEN 'start_headers' THEN 'sales_order_headers' ELSE 'sales_order_lines' END) THEN
            RETURN NULL;
        END IF;
        UPDATE feed_positions SET run_id = p_run WHERE division = p_division AND feed = p_feed;
        RETURN v_base || _odata_query(format('modified=datetime''%s''&endPoint=''%s''',
                                             to_char(today(p_division) - 1, 'YYYY-MM-DD'), v_def.argument));
    END CASE;
END
$$;
COMMENT ON FUNCTION _feed_next(integer, text, bigint) IS 'Path or URL of the next page of a feed in this run; NULL when there is none.';

CREATE FUNCTION _page_rows(p_page jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
    -- Each -> copies what it takes out, and a page may have 38 MB: each is taken once.
    SELECT CASE WHEN jsonb_typeof(x.d) = 'array' THEN x.d
                WHEN jsonb_typeof(x.d) = 'object' AND NOT x.d ? 'results' THEN jsonb_build_array(x.d)
                WHEN jsonb_typeof(x.d) = 'object' THEN (SELECT r.results FROM (SELECT x.d->'results' AS results OFFSET 0) r WHERE jsonb_typeof(r.results) = 'array') END
      FROM (SELECT p_page->'d' AS d OFFSET 0) x
    $$;
COMMENT ON FUNCTION _page_rows(jsonb) IS 'The rows of an answer in any of Exact''s three shapes (exact-online 2.2); NULL when it is none of them.';

CREATE FUNCTION _page_rows_unread(p_page json) RETURNS json
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT CASE WHEN json_typeof(p_page->'d') = 'array' THEN p_page->'d'
                      WHEN json_typeof(p_page->'d'->'results') = 'array' THEN p_page->'d'->'results'
                      ELSE json_build_array(p_page->'d') END $$;
COMMENT ON FUNCTION _page_rows_unread(json) IS 'The same for an answer that jsonb cannot hold, such as a number beyond numeric; texts that it refuses were replaced in C.';

CREATE FUNCTION _items_named(p_division integer, p_items uuid[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    -- One look by key for each item, whatever the statistics say of the tables.
    INSERT INTO unresolved_items (division, item)
    SELECT p_division, i.item FROM unnest(p_items) AS i(item)
     WHERE i.item IS NOT NULL
       AND (SELECT true FROM exact_items e WHERE e.division = p_division AND e.id = i.item LIMIT 1) IS NULL
     ORDER BY i.item
    ON CONFLICT DO NOTHING;
    -- A line needs a product at Pipedrive, a text line has no item: one product stands for all of them.
    IF array_position(p_items, NULL) IS NOT NULL THEN
        INSERT INTO exact_items (division, id, code, description, is_sales_item, ghost)
        VALUES (p_division, '00000000-0000-0000-0000-000000000000', 'TEKST', 'Tekstregel', true, true)
        ON CONFLICT DO NOTHING;
    END IF;
END
$$;
COMMENT ON FUNCTION _items_named(integer, uuid[]) IS 'Items that staged lines name: those not staged yet are to be read singly. A NULL among them: a text line.';

CREATE FUNCTION _stage_division(p_division integer, p_rows jsonb, OUT taken integer, OUT changed integer)
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_old  timestamp := (SELECT d.division_move FROM divisions d WHERE d.division = p_division);
    v_new  timestamp := (SELECT exact_wall_clock(r->>'DivisionMoveDate') FROM jsonb_array_elements(p_rows) r WHERE (r->>'Code')::integer = p_division);
BEGIN
    taken := jsonb_array_length(p_rows);
    changed := 0;
    UPDATE divisions d SET name = nullif(btrim(r->>'Description'), '')
      FROM jsonb_array_elements(p_rows) r
     WHERE d.division = p_division AND d.name IS NULL AND (r->>'Code')::integer = p_division;
    IF v_new IS NULL OR v_new IS NOT DISTINCT FROM v_old THEN
        RETURN;
    END IF;
    changed := 1;
    UPDATE divisions d SET division_move = v_new WHERE d.division = p_division;
    IF v_old IS NULL AND NOT EXISTS (SELECT FROM feed_positions f WHERE f.division = p_division AND f.last_success < clock_timestamp() - interval '1 day')
       AND v_new <= (SELECT d.added_at AT TIME ZONE d.time_zone FROM divisions d WHERE d.division = p_division) THEN
        -- The first time we hear of it, in a young installation, and it was before that: nothing was read before it.
        RETURN;
    END IF;
    -- Moved to another database: every rowversion is new.  All is read again and compared; nothing is deleted here.
    RAISE LOG 'division % was moved at Exact on %: its feeds are read again from the beginning', p_division, v_new;
    UPDATE feed_positions f SET last_timestamp = 1, cursor_timestamp = NULL
      FROM feed_definitions d
     WHERE f.division = p_division AND d.feed = f.feed AND d.mode = 'sync' AND f.last_timestamp IS NOT NULL;
    UPDATE exact_sales_orders t SET timestamp = 0 WHERE t.division = p_division AND t.timestamp > 0;
    UPDATE exact_sales_order_lines t SET timestamp = 0 WHERE t.division = p_division AND t.timestamp > 0;
    UPDATE exact_accounts t SET timestamp = 0 WHERE t.division = p_division AND t.timestamp > 0;
    UPDATE exact_items t SET timestamp = 0 WHERE t.division = p_division AND t.timestamp > 0;
    UPDATE exact_item_prices t SET timestamp = 0 WHERE t.division = p_division AND t.timestamp > 0;
    UPDATE exact_employees t SET timestamp = 0 WHERE t.division = p_division AND t.timestamp > 0;
END
$$;
COMMENT ON FUNCTION _stage_division(integer, jsonb) IS 'Notices that Exact moved the division to another database (DivisionMoveDate, exact-online 7): positions and stored rowversions begin anew, so that everything is read and compared again.';

CREATE FUNCTION _stage_rows(p_division integer, p_feed text, p_entity text, p_rows jsonb, OUT taken integer, OUT changed integer)
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_rows     jsonb := p_rows;
    v_lists    jsonb[];
    v_later    uuid[];
    v_items    uuid[];
    v_orders   uuid[];
    v_taken    integer;
    v_changed  integer;
BEGIN
    CASE p_entity
    WHEN 'sales_orders' THEN
        IF p_feed = 'hinted_orders' THEN
            UPDATE webhook_deliveries w SET action = 'Update'
             WHERE w.state = 'waiting' AND w.action = 'Delete' AND w.division = p_division AND w.key::uuid IN (SELECT (r->>'OrderID')::uuid FROM jsonb_array_elements(p_rows) r);
        END IF;
        IF p_feed LIKE 'bulk%' OR p_feed = 'hinted_orders' THEN
            -- Bulk has the lines within the orders; they are nearly all of the page, so it is taken apart once.
            -- The lines stay in their lists, one per order; some orders only say that theirs can be asked for.
            SELECT jsonb_agg(r - 'SalesOrderLines'),
                   array_agg(x.lines) FILTER (WHERE jsonb_typeof(x.lines) = 'array'),
                   array_agg((r->>'OrderID')::uuid) FILTER (WHERE x.lines ? '__deferred')
              INTO v_rows, v_lists, v_later
              FROM jsonb_array_elements(p_rows) r,
                   LATERAL (SELECT CASE WHEN r #> '{SalesOrderLines,results}' IS NULL THEN r->'SalesOrderLines' ELSE r #> '{SalesOrderLines,results}' END AS lines OFFSET 0) x;
        END IF;
        SELECT s.taken, s.changed INTO taken, changed FROM _stage_sales_orders(p_division, v_rows) s;
        INSERT INTO unresolved_accounts (division, account)
        SELECT p_division, n.account
          FROM (SELECT DISTINCT (r->>'OrderedBy')::uuid AS account FROM jsonb_array_elements(v_rows) r) n
         WHERE n.account IS NOT NULL
           AND (SELECT true FROM exact_accounts a WHERE a.division = p_division AND a.id = n.account LIMIT 1) IS NULL
         -- in one order everywhere: two sessions that stage at once wait, and do not deadlock
         ORDER BY n.account
        ON CONFLICT DO NOTHING;
        -- Salespeople appear by themselves; the ones known to Pipedrive are matched at once.
        INSERT INTO owner_map (exact_id, name, matched_by)
        SELECT (r->>'Salesperson')::uuid, max(r->>'SalespersonFullName'), 'feed' FROM jsonb_array_elements(v_rows) r
         WHERE r->>'Salesperson' IS NOT NULL AND NOT EXISTS (SELECT FROM owner_map m WHERE m.exact_id = (r->>'Salesperson')::uuid)
         GROUP BY 1 ORDER BY 1
        ON CONFLICT DO NOTHING;
        IF FOUND THEN
            PERFORM _match_salespeople();
        END IF;
        IF v_lists IS NOT NULL THEN
            SELECT s.taken, s.changed, s.items INTO v_taken, v_changed, v_items FROM _stage_sales_order_lines(p_division, v_lists) s;
            taken := taken + v_taken;
            changed := changed + v_changed;
            PERFORM _items_named(p_division, v_items);
        END IF;
        IF v_later IS NOT NULL THEN
            UPDATE exact_sales_orders o SET lines_deferred = true
             WHERE o.division = p_division AND o.id = ANY (v_later) AND NOT o.lines_deferred;
        END IF;
    WHEN 'stale_headers' THEN
        -- These rows carry no Timestamp: only what progress moves is taken, and the feed keeps its say.
        UPDATE exact_sales_orders o
           SET status = r."Status", delivery_status = r."DeliveryStatus", invoice_status = r."InvoiceStatus", delivery_date = exact_wall_clock(r."DeliveryDate")::date,
               amount_dc = round(r."AmountDC", 6), amount_fc = round(r."AmountFC", 6), amount_fc_excl_vat = round(r."AmountFCExclVat", 6),
               amount_discount_excl_vat = round(r."AmountDiscountExclVat", 6), discount = round(r."Discount", 6), changed_at = clock_timestamp()
          FROM jsonb_to_recordset(p_rows) AS r("OrderID" uuid, "Status" integer, "DeliveryStatus" integer, "InvoiceStatus" integer, "DeliveryDate" text,
                                               "AmountDC" numeric, "AmountFC" numeric, "AmountFCExclVat" numeric, "AmountDiscountExclVat" numeric, "Discount" numeric)
         WHERE o.division = p_division AND o.id = r."OrderID" AND o.deleted_at IS NULL
           AND (o.status, o.delivery_status, o.invoice_status, o.delivery_date, o.amount_dc, o.amount_fc, o.amount_fc_excl_vat, o.amount_discount_excl_vat, o.discount)
               IS DISTINCT FROM (r."Status", r."DeliveryStatus", r."InvoiceStatus", exact_wall_clock(r."DeliveryDate")::date, round(r."AmountDC", 6), round(r."AmountFC", 6),
                                 round(r."AmountFCExclVat", 6), round(r."AmountDiscountExclVat", 6), round(r."Discount", 6));
        GET DIAGNOSTICS taken = ROW_COUNT;
        changed := taken;
    WHEN 'order_keys' THEN
        -- What Exact lists is there: a deletion that was noted before this run is taken back by reading the order whole.
        WITH there AS (
            UPDATE exact_sales_orders o SET timestamp = NULL
              FROM jsonb_to_recordset(p_rows) AS r("OrderID" uuid)
             WHERE o.division = p_division AND o.id = r."OrderID"
               AND o.deleted_at < (SELECT s.started_at FROM feed_positions f JOIN sync_runs s ON s.id = f.run_id WHERE f.division = p_division AND f.feed = p_feed)
            RETURNING o.id
        ), with_lines AS (
            UPDATE exact_sales_order_lines l SET timestamp = NULL FROM there t WHERE l.division = p_division AND l.order_id = t.id
        )
        INSERT INTO unresolved_orders (division, order_id) SELECT p_division, t.id FROM there t ORDER BY t.id
        ON CONFLICT DO NOTHING;
        -- What staging does not have is read whole, what stands otherwise there is read again.
        INSERT INTO unresolved_orders (division, order_id)
        SELECT p_division, r."OrderID" FROM jsonb_to_recordset(p_rows) AS r("OrderID" uuid)
         WHERE NOT EXISTS (SELECT FROM exact_sales_orders o WHERE o.division = p_division AND o.id = r."OrderID")
        ON CONFLICT DO NOTHING;
        INSERT INTO stale_headers (division, order_id)
        SELECT p_division, o.id
          FROM jsonb_to_recordset(p_rows) AS r("OrderID" uuid, "Status" integer, "DeliveryStatus" integer, "InvoiceStatus" integer)
          JOIN exact_sales_orders o ON o.division = p_division AND o.id = r."OrderID" AND o.deleted_at IS NULL
         WHERE (o.status, o.delivery_status, o.invoice_status) IS DISTINCT FROM (r."Status", r."DeliveryStatus", r."InvoiceStatus")
         ORDER BY o.id
        ON CONFLICT DO NOTHING;
        taken := 0;
        changed := 0;
    WHEN 'sales_order_lines' THEN
        SELECT s.taken, s.changed, s.items, s.orders INTO taken, changed, v_items, v_orders FROM _stage_sales_order_lines(p_division, ARRAY[p_rows]) s;
        PERFORM _items_named(p_division, v_items);
        IF p_feed = 'sales_order_lines' AND changed > 0 THEN
            INSERT INTO stale_headers (division, order_id)
            SELECT p_division, i.id FROM unnest(v_orders) AS i(id)
             WHERE (SELECT o.changed_at FROM exact_sales_orders o WHERE o.division = p_division AND o.id = i.id AND o.deleted_at IS NULL LIMIT 1)
                   < (SELECT s.started_at FROM feed_positions f JOIN sync_runs s ON s.id = f.run_id WHERE f.division = p_division AND f.feed = p_feed)
             ORDER BY i.id
            ON CONFLICT DO NOTHING;
        END IF;
    WHEN 'divisions' THEN
        SELECT s.taken, s.changed INTO taken, changed FROM _stage_division(p_division, p_rows) s;
    WHEN 'accounts' THEN
        SELECT s.taken, s.changed INTO taken, changed FROM _stage_accounts(p_division, p_rows) s;
    WHEN 'items' THEN
        SELECT s.taken, s.changed INTO taken, changed FROM _stage_items(p_division, p_rows) s;
    WHEN 'item_groups' THEN
        SELECT s.taken, s.changed INTO taken, changed FROM _stage_item_groups(p_division, p_rows) s;
    WHEN 'item_prices' THEN
        SELECT s.taken, s.changed INTO taken, changed FROM _stage_item_prices(p_division, p_rows) s;
    WHEN 'employees' THEN
        SELECT s.taken, s.changed INTO taken, changed FROM _stage_employees(p_division, p_rows) s;
        INSERT INTO owner_map (exact_id, name, email, matched_by)
        SELECT k.exact_id, e.full_name, e.email, 'feed'
          FROM exact_employees e, LATERAL (VALUES (e.id), (e.user_id)) k(exact_id)
         WHERE e.division = p_division AND k.exact_id IS NOT NULL
           AND EXISTS (SELECT FROM jsonb_array_elements(p_rows) r WHERE (r->>'ID')::uuid = e.id)
        ON CONFLICT (exact_id) DO UPDATE SET email = coalesce(owner_map.email, excluded.email), name = coalesce(owner_map.name, excluded.name)
         WHERE owner_map.email IS NULL AND excluded.email IS NOT NULL;
        IF FOUND THEN
            PERFORM _match_salespeople();
        END IF;
    WHEN 'deleted' THEN
        INSERT INTO exact_deleted AS t (division, id, entity_key, entity_type, deleted_date, timestamp)
        SELECT DISTINCT ON (r."ID") p_division, r."ID", r."EntityKey", r."EntityType", exact_wall_clock(r."DeletedDate"), r."Timestamp"
          FROM jsonb_to_recordset(p_rows) AS r("ID" uuid, "EntityKey" uuid, "EntityType" integer, "DeletedDate" text, "Timestamp" bigint)
         WHERE r."EntityKey" IS NOT NULL AND r."EntityType" IS NOT NULL
        ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS taken = ROW_COUNT;
        changed := _apply_deletions(p_division);
    END CASE;
END
$$;
COMMENT ON FUNCTION _stage_rows(integer, text, text, jsonb) IS 'Rows of one entity into staging, with what hangs on them: lines within bulk orders, items and accounts not seen yet.';

CREATE FUNCTION _apply_deletions(p_division integer) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    -- Few deletions, large tables: keys only, whatever the statistics say.
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    AS $$
DECLARE
    v_now    timestamptz := clock_timestamp();
    v_count  integer;
    v_total  integer := 0;
BEGIN
    IF NOT EXISTS (SELECT FROM exact_deleted d WHERE d.division = p_division AND NOT d.applied) THEN
        RETURN 0;
    END IF;
    -- A deletion older than the stored row is ignored: the key came back (exact-online 7).
    -- It leaves its rowversion on the row, so that only something newer brings that back.
    UPDATE exact_sales_order_lines t SET deleted_at = v_now, changed_at = v_now, timestamp = greatest(t.timestamp, d.timestamp)
      FROM exact_deleted d
     WHERE d.division = p_division AND NOT d.applied AND d.entity_type = 33
       AND t.division = d.division AND t.id = d.entity_key AND t.deleted_at IS NULL AND (t.timestamp IS NULL OR t.timestamp < d.timestamp);
    GET DIAGNOSTICS v_count = ROW_COUNT; v_total := v_total + v_count;
    UPDATE exact_sales_orders t SET deleted_at = v_now, changed_at = v_now, timestamp = greatest(t.timestamp, d.timestamp)
      FROM exact_deleted d
     WHERE d.division = p_division AND NOT d.applied AND d.entity_type IN (12, 32)
       AND t.division = d.division AND (t.id = d.entity_key OR t.row_id = d.entity_key)
       AND t.deleted_at IS NULL AND (t.timestamp IS NULL OR t.timestamp < d.timestamp);
    GET DIAGNOSTICS v_count = ROW_COUNT; v_total := v_total + v_count;
    UPDATE exact_accounts t SET deleted_at = v_now, changed_at = v_now, timestamp = greatest(t.timestamp, d.timestamp)
      FROM exact_deleted d
     WHERE d.division = p_division AND NOT d.applied AND d.entity_type = 2
       AND t.division = d.division AND t.id = d.entity_key AND t.deleted_at IS NULL AND (t.timestamp IS NULL OR t.timestamp < d.timestamp);
    GET DIAGNOSTICS v_count = ROW_COUNT; v_total := v_total + v_count;
    UPDATE exact_items t SET deleted_at = v_now, changed_at = v_now, timestamp = greatest(t.timestamp, d.timestamp)
      FROM exact_deleted d
     WHERE d.division = p_division AND NOT d.applied AND d.entity_type = 9
       AND t.division = d.division AND t.id = d.entity_key AND t.deleted_at IS NULL AND (t.timestamp IS NULL OR t.timestamp < d.timestamp);
    GET DIAGNOSTICS v_count = ROW_COUNT; v_total := v_total + v_count;
    UPDATE exact_item_prices t SET deleted_at = v_now, changed_at = v_now, timestamp = greatest(t.timestamp, d.timestamp)
      FROM exact_deleted d
     WHERE d.division = p_division AND NOT d.applied AND d.entity_type = 8
       AND t.division = d.division AND t.id = d.entity_key AND t.deleted_at IS NULL AND (t.timestamp IS NULL OR t.timestamp < d.timestamp);
    GET DIAGNOSTICS v_count = ROW_COUNT; v_total := v_total + v_count;
    -- What found no row may still come (a page read late); it is tried for two days.
    UPDATE exact_deleted d SET applied = true
     WHERE d.division = p_division AND NOT d.applied
       AND (d.seen_at < v_now - interval '2 days' OR d.entity_type NOT IN (2, 8, 9, 12, 32, 33)
            OR EXISTS (SELECT FROM exact_sales_order_lines t WHERE d.entity_type = 33 AND t.division = d.division AND t.id = d.entity_key)
            OR EXISTS (SELECT FROM exact_sales_orders t WHERE d.entity_type IN (12, 32) AND t.division = d.division AND (t.id = d.entity_key OR t.row_id = d.entity_key))
            OR EXISTS (SELECT FROM exact_accounts t WHERE d.entity_type = 2 AND t.division = d.division AND t.id = d.entity_key)
            OR EXISTS (SELECT FROM exact_items t WHERE d.entity_type = 9 AND t.division = d.division AND t.id = d.entity_key)
            OR EXISTS (SELECT FROM exact_item_prices t WHERE d.entity_type = 8 AND t.division = d.division AND t.id = d.entity_key));
    RETURN v_total;
END
$$;
COMMENT ON FUNCTION _apply_deletions(integer) IS 'Marks staged rows that Exact reports as deleted; returns how many.';
CREATE INDEX exact_deleted_waiting ON exact_deleted (division) WHERE NOT applied;

CREATE FUNCTION _keys_done(p_division integer, p_feed text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_asked uuid[] := (SELECT f.asked_keys FROM feed_positions f WHERE f.division = p_division AND f.feed = p_feed);
BEGIN
    -- Asked for and not there: gone, or no right to see it.  If orders and lines still name it, they cannot go on
    -- without; what only a notification named is forgotten.
    IF p_feed = 'missing_accounts' THEN
        INSERT INTO exact_accounts (division, id, name, ghost)
        SELECT DISTINCT ON (k) p_division, k, coalesce(o.ordered_by_name, 'Onbekende relatie'), true
          FROM unnest(v_asked) k
          JOIN exact_sales_orders o ON o.division = p_division AND o.ordered_by = k
         ORDER BY k, o.order_date DESC NULLS LAST
        ON CONFLICT DO NOTHING;
        DELETE FROM unresolved_accounts u
         WHERE u.division = p_division
           AND (u.account = ANY (v_asked) OR EXISTS (SELECT FROM exact_accounts a WHERE a.division = u.division AND a.id = u.account));
    ELSIF p_feed = 'missing_items' THEN
        INSERT INTO exact_items (division, id, code, description, is_sales_item, ghost)
        SELECT DISTINCT ON (k) p_division, k, l.item_code, coalesce(l.item_description, l.description, l.item_code, 'Onbekend artikel'), true, true
          FROM unnest(v_asked) k
          JOIN exact_sales_order_lines l ON l.division = p_division AND l.item = k
         ORDER BY k, l.id
        ON CONFLICT DO NOTHING;
        DELETE FROM unresolved_items u
         WHERE u.division = p_division
           AND (u.item = ANY (v_asked) OR EXISTS (SELECT FROM exact_items i WHERE i.division = u.division AND i.id = u.item));
    ELSIF p_feed = 'bulk_missing' THEN
        UPDATE unresolved_orders u SET read_at = clock_timestamp() WHERE u.division = p_division AND u.order_id = ANY (v_asked);
    ELSIF p_feed = 'stale_headers' THEN
        DELETE FROM stale_headers h WHERE h.division = p_division AND h.order_id = ANY (v_asked);
    ELSIF p_feed = 'hinted_orders' THEN
        -- A deletion that was announced is proven when the list by key does not have the order any more.
        UPDATE exact_sales_orders o SET deleted_at = clock_timestamp(), changed_at = clock_timestamp()
          FROM webhook_deliveries w JOIN webhook_topics t ON t.topic = w.topic AND t.entity = 'order'
         WHERE w.division = p_division AND w.state = 'waiting' AND w.action = 'Delete' AND w.key::uuid = ANY (v_asked)
           AND o.division = w.division AND o.id = w.key::uuid AND o.deleted_at IS NULL;
        UPDATE webhook_deliveries w SET looks = 3 WHERE w.division = p_division AND w.state = 'waiting' AND w.looks = 2 AND w.key::uuid = ANY (v_asked);
    ELSIF p_feed = 'deferred_lines' THEN
        UPDATE exact_sales_orders o SET lines_deferred = false, changed_at = clock_timestamp()
         WHERE o.division = p_division AND o.id = ANY (v_asked) AND o.lines_deferred;
    END IF;
    UPDATE feed_positions SET asked_keys = NULL WHERE division = p_division AND feed = p_feed;
END
$$;
COMMENT ON FUNCTION _keys_done(integer, text) IS 'After a list of keys was answered to its end: what was not in it becomes a ghost, so that it is not asked for again and orders can go on.';

CREATE FUNCTION _row_key(p_entity text, p_row jsonb) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE WHEN k.t ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN k.t::uuid END
            FROM (SELECT CASE WHEN p_entity IN ('sales_orders', 'stale_headers') THEN p_row->>'OrderID' WHEN p_entity = 'deleted' THEN p_row->>'EntityKey' ELSE p_row->>'ID' END AS t) k $$;
COMMENT ON FUNCTION _row_key(text, jsonb) IS 'The GUID of a row of Exact; NULL when it has none that can be read.';

CREATE FUNCTION _row_refused(p_division integer, p_feed text, p_entity text, p_row text, p_reason text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_row   jsonb;
    v_key   uuid;
BEGIN
    BEGIN
        v_row := p_row::jsonb;
    EXCEPTION WHEN data_exception THEN
        -- What jsonb cannot hold: what people look for can be found in its text.
        SELECT jsonb_object_agg(m[1], m[2]) INTO v_row
          FROM regexp_matches(p_row, '"(ID|OrderID|EntityKey|OrderNumber|Code|ItemCode|Name|OrderedByName|Description|ItemDescription)"\s*:\s*"?([^",}]*)', 'g') m;
    END;
    IF jsonb_typeof(v_row) IS DISTINCT FROM 'object' THEN
        v_row := '{}';
    END IF;
    v_key := _row_key(p_entity, v_row);
    -- Polls overlap: what was refused is read again, and noted once, as it was last.
    DELETE FROM refused_rows x
     WHERE x.division = p_division AND x.entity = p_entity AND x.key = v_key AND x.feed = p_feed AND x.row_text <> left(p_row, 10000);
    INSERT INTO refused_rows (division, feed, reason, row_text, entity, key, number, name)
    SELECT p_division, p_feed, p_reason, left(p_row, 10000), p_entity, v_key,
           left(btrim(coalesce(v_row->>'OrderNumber', v_row->>'Code', v_row->>'ItemCode')), 255), left(coalesce(v_row->>'OrderedByName', v_row->>'Name', v_row->>'ItemDescription', v_row->>'Description'), 255)
     WHERE NOT EXISTS (SELECT FROM refused_rows x WHERE x.division = p_division AND x.feed = p_feed AND x.row_text = left(p_row, 10000));
END
$$;
COMMENT ON FUNCTION _row_refused(integer, text, text, text, text) IS 'Notes a row that cannot be stored, with its number and name as far as they can be read.';

CREATE FUNCTION _rows_mended(p_division integer, p_feed text, p_entity text, p_rows jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    -- Usually there are none.
    IF NOT EXISTS (SELECT FROM refused_rows x WHERE x.division = p_division AND x.key IS NOT NULL) THEN
        RETURN;
    END IF;
    -- The same record was stored.  An order refused in bulk was refused with its lines: it is mended when these are here, too.
    DELETE FROM refused_rows x
     USING (SELECT DISTINCT _row_key(p_entity, r) AS key FROM jsonb_array_elements(p_rows) r) k
     WHERE x.division = p_division AND x.key = k.key AND (x.entity = p_entity AND (x.feed NOT LIKE 'bulk%' OR p_feed LIKE 'bulk%') OR p_entity = 'deleted');
    IF p_entity IN ('sales_orders', 'sales_order_lines') THEN
        DELETE FROM refused_rows x
         WHERE x.division = p_division AND x.feed LIKE 'bulk%'
           AND x.key IN (SELECT CASE WHEN r->>'OrderID' ~ '^[0-9a-fA-F-]{36}$' THEN (r->>'OrderID')::uuid END FROM jsonb_array_elements(p_rows) r)
           AND (SELECT s.adds_up AND s.lines > 0 FROM order_sums s WHERE s.division = x.division AND s.order_id = x.key);
    END IF;
END
$$;
COMMENT ON FUNCTION _rows_mended(integer, text, text, jsonb) IS 'Rows were stored, or reported as deleted: what had been refused of the same records is settled.';

CREATE FUNCTION _stage_page(p_division integer, p_feed text, p_run bigint, p_body text,
                            OUT rows integer, OUT taken integer, OUT changed integer, OUT refused integer, OUT next_url text, OUT done boolean)
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    -- A bulk page is expanded in memory, and is no constant to plan with.
    SET work_mem = '64MB'
    SET plan_cache_mode = force_generic_plan
    AS $$
DECLARE
    v_def      feed_definitions;
    v_page     jsonb;
    v_rows     jsonb;
    v_row      text;
    v_max      bigint;
    v_cursor   bigint;
    v_taken    integer;
    v_changed  integer;
BEGIN
    SELECT * INTO STRICT v_def FROM feed_definitions WHERE feed = p_feed;
    taken := 0; changed := 0; refused := 0;

    BEGIN
        v_page := p_body::jsonb;
        v_rows := _page_rows(v_page);
    EXCEPTION WHEN invalid_text_representation OR untranslatable_character OR invalid_parameter_value OR numeric_value_out_of_range THEN
        -- Not JSON at all is an error of the page; JSON that jsonb cannot hold is an error of a row.
        PERFORM p_body::json;
        v_rows := NULL;
    END;
    IF v_rows IS NULL AND (v_page IS NOT NULL OR p_body IS NULL) THEN
        RAISE EXCEPTION 'the answer of feed "%" is not a list of rows', p_feed
            USING ERRCODE = 'fdw_invalid_data_type', DETAIL = 'Beginning of the answer: ' || left(p_body, 200);
    END IF;

    IF v_def.mode = 'function' THEN
        UPDATE feed_positions SET last_timestamp = greatest(1, coalesce((v_rows->0->>'TimeStampAsBigInt')::bigint, 1) - 1)
         WHERE division = p_division AND last_timestamp IS NULL
           AND feed = CASE p_feed WHEN 'start_headers' THEN 'sales_order_headers' ELSE 'sales_order_lines' END;
        IF NOT FOUND THEN
            INSERT INTO feed_positions (division, feed, last_timestamp)
            VALUES (p_division, CASE p_feed WHEN 'start_headers' THEN 'sales_order_headers' ELSE 'sales_order_lines' END,
                    greatest(1, coalesce((v_rows->0->>'TimeStampAsBigInt')::bigint, 1) - 1))
            ON CONFLICT DO NOTHING;
        END IF;
        rows := 1; done := true;
    ELSE
        IF v_rows IS NOT NULL THEN
            BEGIN
                rows := jsonb_array_length(v_rows);
                -- An empty page is what most polls get.  Deletions that found no row are tried again even so.
                IF rows > 0 OR v_def.entity = 'deleted' THEN
                    SELECT s.taken, s.changed INTO taken, changed FROM _stage_rows(p_division, p_feed, v_def.entity, v_rows) s;
                    PERFORM _rows_mended(p_division, p_feed, v_def.entity, v_rows);
                END IF;
            EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
                rows := NULL;
            END;
        END IF;
        IF rows IS NULL THEN
            -- One bad row stops nothing (law 7): row by row, the bad one is kept aside with its reason.
            rows := 0; taken := 0; changed := 0;
            FOR v_row IN
                SELECT x::text FROM json_array_elements(_page_rows_unread(p_body::json)) x
            LOOP
                rows := rows + 1;
                BEGIN
                    SELECT s.taken, s.changed INTO v_taken, v_changed FROM _stage_rows(p_division, p_feed, v_def.entity, jsonb_build_array(v_row::jsonb)) s;
                    taken := taken + v_taken; changed := changed + v_changed;
                    PERFORM _rows_mended(p_division, p_feed, v_def.entity, jsonb_build_array(v_row::jsonb));
                EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
                    refused := refused + 1;
                    PERFORM _row_refused(p_division, p_feed, v_def.entity, v_row, SQLERRM);
                END;
            END LOOP;
        END IF;

        next_url := CASE WHEN v_page IS NOT NULL THEN v_page #>> '{d,__next}' ELSE (p_body::json->'d'->'__next')#>>'{}' END;
        CASE v_def.mode
        WHEN 'sync' THEN
            IF v_rows IS NOT NULL AND refused = 0 THEN
                SELECT max(r."Timestamp") INTO v_max FROM jsonb_to_recordset(v_rows) AS r("Timestamp" bigint);
            ELSIF v_rows IS NOT NULL THEN
                SELECT max(substring(r->>'Timestamp' FROM '^[0-9]{1,18}$')::bigint) INTO v_max FROM jsonb_array_elements(v_rows) r;
            ELSE
                SELECT max(substring((r->'Timestamp')::text FROM '^"?([0-9]{1,18})"?$')::bigint) INTO v_max
                  FROM json_array_elements(_page_rows_unread(p_body::json)) r;
            END IF;
            SELECT cursor_timestamp INTO v_cursor FROM feed_positions WHERE division = p_division AND feed = p_feed;
            done := rows = 0 OR next_url IS NULL;
            IF NOT done AND coalesce(v_max, 0) <= v_cursor THEN
                RAISE EXCEPTION 'feed "%" does not move on beyond rowversion %', p_feed, v_cursor
                    USING ERRCODE = 'fdw_error', DETAIL = 'Exact offers another page, but none of its rows is newer than what was asked for.';
            END IF;
            UPDATE feed_positions
               SET cursor_timestamp = greatest(cursor_timestamp, v_max), last_timestamp = greatest(last_timestamp, v_max, 1)
             WHERE division = p_division AND feed = p_feed;
        WHEN 'keys' THEN
            IF next_url IS NULL THEN
                PERFORM _keys_done(p_division, p_feed);
            END IF;
            done := false;
        ELSE
            done := next_url IS NULL OR rows = 0;
        END CASE;
    END IF;

    UPDATE feed_positions
       SET next_url = CASE WHEN v_def.mode IN ('bulk', 'whole', 'keys') AND NOT _stage_page.done THEN _stage_page.next_url END,
           last_page_at = clock_timestamp(), rows_total = rows_total + _stage_page.rows, last_error = NULL,
           drained_run = CASE WHEN _stage_page.done THEN p_run ELSE drained_run END,
           last_success = CASE WHEN _stage_page.done THEN clock_timestamp() ELSE last_success END
     WHERE division = p_division AND feed = p_feed;
    -- A division that is polled and for which no import was begun: from here on its orders are live, not history.
    IF done AND p_feed = 'sales_order_lines' THEN
        UPDATE divisions d SET live_since = clock_timestamp() WHERE d.division = p_division AND d.stage_since IS NULL AND d.imported_at IS NULL AND d.live_since IS NULL;
    END IF;
    UPDATE sync_runs r SET rows = r.rows + _stage_page.rows, changed = r.changed + _stage_page.changed, refused = r.refused + _stage_page.refused
     WHERE r.id = p_run;
END
$$;
COMMENT ON FUNCTION _stage_page(integer, text, bigint, text) IS 'Stores one page and moves the position in the same transaction. A row that cannot be stored is kept in refused_rows, the others go in. done: the end was reached.';

CREATE FUNCTION _feed_refused(p_division integer, p_feed text, p_run bigint, p_status integer, p_message text) RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_def  feed_definitions;
    v_pos  feed_positions;
BEGIN
    SELECT * INTO STRICT v_def FROM feed_definitions WHERE feed = p_feed;
    SELECT * INTO v_pos FROM feed_positions WHERE division = p_division AND feed = p_feed FOR UPDATE;
    UPDATE feed_positions SET last_error = left(p_message, 500) WHERE division = p_division AND feed = p_feed;
    IF p_status = 400 AND v_def.optional_fields IS NOT NULL AND NOT v_pos.short_select THEN
        UPDATE feed_positions SET short_select = true WHERE division = p_division AND feed = p_feed;
        RETURN 'retry';
    END IF;
    IF p_status = 400 AND v_pos.short_select THEN
        -- Without its optional fields it is refused as well: these were not the reason, and are asked for again next time.
        UPDATE feed_positions SET short_select = false WHERE division = p_division AND feed = p_feed;
    END IF;
    IF v_def.mode = 'function' AND p_status IN (400, 403, 404, 500) THEN
        -- No answer where to start: from the beginning, which is slow but complete.
        INSERT INTO feed_positions (division, feed, last_timestamp)
        VALUES (p_division, CASE p_feed WHEN 'start_headers' THEN 'sales_order_headers' ELSE 'sales_order_lines' END, 1)
        ON CONFLICT (division, feed) DO UPDATE SET last_timestamp = coalesce(feed_positions.last_timestamp, 1);
        RETURN 'skip';
    END IF;
    IF v_def.optional AND p_status IN (400, 401, 403, 404) THEN
        UPDATE feed_positions SET unavailable_until = clock_timestamp() + interval '1 day' WHERE division = p_division AND feed = p_feed;
        RETURN 'skip';
    END IF;
    -- A continuation that is no longer understood must not be asked for again.
    UPDATE feed_positions SET next_url = NULL WHERE division = p_division AND feed = p_feed AND p_status IN (400, 404);
    RETURN 'fail';
END
$$;
COMMENT ON FUNCTION _feed_refused(integer, text, bigint, integer, text) IS 'What to do after Exact refused a page: retry (something was changed), skip (optional), fail.';

CREATE FUNCTION _import_begin(p_run bigint, p_months integer, p_staging_months integer) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
BEGIN
    IF p_months IS NULL OR p_months NOT BETWEEN 1 AND 240 OR p_staging_months IS NULL OR p_staging_months NOT BETWEEN 1 AND 240 THEN
        RAISE EXCEPTION 'months must be between 1 and 240' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT EXISTS (SELECT FROM divisions) THEN
        RAISE EXCEPTION 'no division is configured'
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'SELECT exact_pd_sync.add_division(123456);';
    END IF;
    UPDATE divisions d
       -- All of it is history until this import has come to its end.
       SET live_since = NULL, send_since = (today(d.division) - make_interval(months => p_months))::date,
           stage_since = (today(d.division) - make_interval(months => greatest(p_months, p_staging_months)))::date;
    INSERT INTO settings (name, value) VALUES ('send_months', p_months::text)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value, changed_at = clock_timestamp();
END
$$;
COMMENT ON FUNCTION _import_begin(bigint, integer, integer) IS 'Sets from when orders are sent and staged, before the first page of an import.';

CREATE PROCEDURE poll_orders() LANGUAGE c AS 'MODULE_PATHNAME', 'epds_poll_orders';
COMMENT ON PROCEDURE poll_orders() IS 'Reads changed order headers, lines and deletions from Exact, and customers and items they name. Needs a bare CALL at top level: it commits page by page.';
CREATE PROCEDURE poll_customers() LANGUAGE c AS 'MODULE_PATHNAME', 'epds_poll_customers';
COMMENT ON PROCEDURE poll_customers() IS 'Reads changed accounts and, where the app may, employees from Exact.';
CREATE PROCEDURE poll_products() LANGUAGE c AS 'MODULE_PATHNAME', 'epds_poll_products';
COMMENT ON PROCEDURE poll_products() IS 'Reads item groups and changed items and prices from Exact.';
CREATE PROCEDURE poll_all() LANGUAGE c AS 'MODULE_PATHNAME', 'epds_poll_all';
COMMENT ON PROCEDURE poll_all() IS 'poll_customers, poll_products and poll_orders, one after the other.';
CREATE PROCEDURE import_history(months integer DEFAULT 12, staging_months integer DEFAULT 36) LANGUAGE c AS 'MODULE_PATHNAME', 'epds_import_history';
COMMENT ON PROCEDURE import_history(integer, integer) IS 'Reads the past through the bulk endpoints: orders of the last months are sent, those of staging_months are staged. Can be cut off and called again. Takes half of Exact''s minute.';
CREATE PROCEDURE exact_authorize(code_or_redirect_url text) LANGUAGE c AS 'MODULE_PATHNAME', 'epds_exact_authorize';
COMMENT ON PROCEDURE exact_authorize(text) IS 'Finishes the consent: takes the code, or the whole address the browser was sent back to (within about 3 minutes), and stores the first token pair.';
