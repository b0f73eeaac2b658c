/*
 * 26_stage_entities.sql
 *		One function per entity: rows of a page (jsonb array) into its table.
 *
 * All of them keep the same law: a key repeated within a page counts once, the
 * newest; only a higher Timestamp is taken; a row without one (bulk) never
 * overwrites one that has it; Timestamp always advances, but only a difference
 * in content moves changed_at, which is what the triggers look at.
 */

CREATE FUNCTION _stage_sales_orders(p_division integer, p_rows jsonb, OUT taken integer, OUT changed integer)
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    WITH upserted AS (
        INSERT INTO exact_sales_orders AS t
              (division, id, row_id, order_number, status, delivery_status, invoice_status, approval_status, ordered_by, ordered_by_name, ordered_by_contact, invoice_to, deliver_to, order_date, delivery_date, currency, amount_dc, amount_fc, amount_fc_excl_vat, vat_amount, amount_discount_excl_vat, discount, salesperson, salesperson_name, your_ref, description, remarks, payment_condition, created, modified, timestamp, deleted_at, changed_at)
        SELECT DISTINCT ON (r."OrderID")
               p_division, r."OrderID", r."ID", r."OrderNumber", r."Status", r."DeliveryStatus", r."InvoiceStatus", r."ApprovalStatus", r."OrderedBy", nullif(btrim(r."OrderedByName"), ''), r."OrderedByContactPerson", r."InvoiceTo", r."DeliverTo", exact_pd_sync.exact_wall_clock(r."OrderDate")::date, exact_pd_sync.exact_wall_clock(r."DeliveryDate")::date, nullif(btrim(r."Currency"), ''), round(r."AmountDC", 6), round(r."AmountFC", 6), round(r."AmountFCExclVat", 6), round(r."VATAmount", 6), round(r."AmountDiscountExclVat", 6), round(r."Discount", 6), r."Salesperson", nullif(btrim(r."SalespersonFullName"), ''), nullif(btrim(r."YourRef"), ''), nullif(btrim(r."Description"), ''), r."Remarks", nullif(btrim(r."PaymentCondition"), ''), exact_pd_sync.exact_wall_clock(r."Created"), exact_pd_sync.exact_wall_clock(r."Modified"), r."Timestamp", NULL::timestamptz, v_now
          FROM jsonb_to_recordset(p_rows) AS r("OrderID" uuid, "ID" uuid, "OrderNumber" bigint, "Status" integer, "DeliveryStatus" integer, "InvoiceStatus" integer, "ApprovalStatus" integer, "OrderedBy" uuid, "OrderedByName" text, "OrderedByContactPerson" uuid, "InvoiceTo" uuid, "DeliverTo" uuid, "OrderDate" text, "DeliveryDate" text, "Currency" text, "AmountDC" numeric, "AmountFC" numeric, "AmountFCExclVat" numeric, "VATAmount" numeric, "AmountDiscountExclVat" numeric, "Discount" numeric, "Salesperson" uuid, "SalespersonFullName" text, "YourRef" text, "Description" text, "Remarks" text, "PaymentCondition" text, "Created" text, "Modified" text, "Timestamp" bigint)
         ORDER BY r."OrderID", r."Timestamp" DESC NULLS LAST
        ON CONFLICT (division, id) DO UPDATE
           SET row_id = coalesce(excluded.row_id, t.row_id), order_number = excluded.order_number, status = excluded.status, delivery_status = excluded.delivery_status, invoice_status = excluded.invoice_status, approval_status = excluded.approval_status, ordered_by = excluded.ordered_by, ordered_by_name = excluded.ordered_by_name, ordered_by_contact = excluded.ordered_by_contact, invoice_to = excluded.invoice_to, deliver_to = excluded.deliver_to, order_date = excluded.order_date, delivery_date = excluded.delivery_date, currency = excluded.currency, amount_dc = excluded.amount_dc, amount_fc = excluded.amount_fc, amount_fc_excl_vat = excluded.amount_fc_excl_vat, vat_amount = excluded.vat_amount, amount_discount_excl_vat = excluded.amount_discount_excl_vat, discount = excluded.discount, salesperson = excluded.salesperson, salesperson_name = excluded.salesperson_name, your_ref = excluded.your_ref, description = excluded.description, remarks = excluded.remarks, payment_condition = excluded.payment_condition, created = excluded.created, modified = excluded.modified,
               timestamp = excluded.timestamp, deleted_at = NULL,
               changed_at = CASE WHEN (t.row_id, t.order_number, t.status, t.delivery_status, t.invoice_status, t.approval_status, t.ordered_by, t.ordered_by_name, t.ordered_by_contact, t.invoice_to, t.deliver_to, t.order_date, t.delivery_date, t.currency, t.amount_dc, t.amount_fc, t.amount_fc_excl_vat, t.vat_amount, t.amount_discount_excl_vat, t.discount, t.salesperson, t.salesperson_name, t.your_ref, t.description, t.remarks, t.payment_condition, t.created, t.modified, t.deleted_at)
                                 IS DISTINCT FROM (coalesce(excluded.row_id, t.row_id), excluded.order_number, excluded.status, excluded.delivery_status, excluded.invoice_status, excluded.approval_status, excluded.ordered_by, excluded.ordered_by_name, excluded.ordered_by_contact, excluded.invoice_to, excluded.deliver_to, excluded.order_date, excluded.delivery_date, excluded.currency, excluded.amount_dc, excluded.amount_fc, excluded.amount_fc_excl_vat, excluded.vat_amount, excluded.amount_discount_excl_vat, excluded.discount, excluded.salesperson, excluded.salesperson_name, excluded.your_ref, excluded.description, excluded.remarks, excluded.payment_condition, excluded.created, excluded.modified, NULL)
                                 THEN v_now ELSE t.changed_at END
         WHERE t.timestamp IS NULL OR excluded.timestamp > t.timestamp
        RETURNING t.changed_at
    )
    SELECT count(*), count(*) FILTER (WHERE u.changed_at = v_now) INTO taken, changed FROM upserted u;
END
$$;
COMMENT ON FUNCTION _stage_sales_orders(integer, jsonb) IS 'Sales order headers: rows of a page into exact_sales_orders. Returns how many were newer, and how many of those differ.';

CREATE FUNCTION _stage_sales_order_lines(p_division integer, p_lists jsonb[], OUT taken integer, OUT changed integer, OUT items uuid[], OUT orders uuid[])
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    WITH upserted AS (
        INSERT INTO exact_sales_order_lines AS t
              (division, id, order_id, order_number, line_number, item, item_code, item_description, description, notes, quantity, quantity_delivered, quantity_invoiced, unit, unit_price, net_price, discount, amount_fc, vat_percentage, vat_amount, delivery_date, status, timestamp, deleted_at, changed_at)
        SELECT DISTINCT ON (r."ID")
               p_division, r."ID", r."OrderID", r."OrderNumber", r."LineNumber", r."Item", nullif(btrim(r."ItemCode"), ''), nullif(btrim(r."ItemDescription"), ''), nullif(btrim(r."Description"), ''), r."Notes", round(r."Quantity", 6), round(r."QuantityDelivered", 6), round(r."QuantityInvoiced", 6), nullif(btrim(r."UnitCode"), ''), round(r."UnitPrice", 6), round(r."NetPrice", 6), round(r."Discount", 6), round(r."AmountFC", 6), round(r."VATPercentage", 6), round(r."VATAmount", 6), exact_pd_sync.exact_wall_clock(r."DeliveryDate")::date, r."Status", r."Timestamp", NULL::timestamptz, v_now
          FROM unnest(p_lists) AS lists(list),
               jsonb_to_recordset(lists.list) AS r("ID" uuid, "OrderID" uuid, "OrderNumber" bigint, "LineNumber" integer, "Item" uuid, "ItemCode" text, "ItemDescription" text, "Description" text, "Notes" text, "Quantity" numeric, "QuantityDelivered" numeric, "QuantityInvoiced" numeric, "UnitCode" text, "UnitPrice" numeric, "NetPrice" numeric, "Discount" numeric, "AmountFC" numeric, "VATPercentage" numeric, "VATAmount" numeric, "DeliveryDate" text, "Status" integer, "Timestamp" bigint)
         ORDER BY r."ID", r."Timestamp" DESC NULLS LAST
        ON CONFLICT (division, id) DO UPDATE
           SET order_id = excluded.order_id, order_number = excluded.order_number, line_number = excluded.line_number, item = excluded.item, item_code = excluded.item_code, item_description = excluded.item_description, description = excluded.description, notes = excluded.notes, quantity = excluded.quantity, quantity_delivered = coalesce(excluded.quantity_delivered, t.quantity_delivered), quantity_invoiced = coalesce(excluded.quantity_invoiced, t.quantity_invoiced), unit = excluded.unit, unit_price = excluded.unit_price, net_price = excluded.net_price, discount = excluded.discount, amount_fc = excluded.amount_fc, vat_percentage = excluded.vat_percentage, vat_amount = excluded.vat_amount, delivery_date = excluded.delivery_date, status = coalesce(excluded.status, t.status),
               timestamp = excluded.timestamp, deleted_at = NULL,
               changed_at = CASE WHEN (t.order_id, t.order_number, t.line_number, t.item, t.item_code, t.item_description, t.description, t.notes, t.quantity, t.quantity_delivered, t.quantity_invoiced, t.unit, t.unit_price, t.net_price, t.discount, t.amount_fc, t.vat_percentage, t.vat_amount, t.delivery_date, t.status, t.deleted_at)
                                 IS DISTINCT FROM (excluded.order_id, excluded.order_number, excluded.line_number, excluded.item, excluded.item_code, excluded.item_description, excluded.description, excluded.notes, excluded.quantity, coalesce(excluded.quantity_delivered, t.quantity_delivered), coalesce(excluded.quantity_invoiced, t.quantity_invoiced), excluded.unit, excluded.unit_price, excluded.net_price, excluded.discount, excluded.amount_fc, excluded.vat_percentage, excluded.vat_amount, excluded.delivery_date, coalesce(excluded.status, t.status), NULL)
                                 THEN v_now ELSE t.changed_at END
         WHERE t.timestamp IS NULL OR excluded.timestamp > t.timestamp
        RETURNING t.changed_at, t.item, t.order_id
    )
    SELECT count(*), count(*) FILTER (WHERE u.changed_at = v_now), array_agg(DISTINCT u.item), array_agg(DISTINCT u.order_id) FILTER (WHERE u.changed_at = v_now)
      INTO taken, changed, items, orders FROM upserted u;
END
$$;
COMMENT ON FUNCTION _stage_sales_order_lines(integer, jsonb[]) IS 'Sales order lines: rows of a page into exact_sales_order_lines; one list of rows, or one per order as bulk has them. Returns how many were newer, how many of those differ, which items the newer ones name (a NULL among them: a text line), and the orders of those that differ.';

CREATE FUNCTION _stage_accounts(p_division integer, p_rows jsonb, OUT taken integer, OUT changed integer)
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    WITH upserted AS (
        INSERT INTO exact_accounts AS t
              (division, id, code, name, email, phone, website, address_line1, address_line2, postcode, city, country, vat_number, status, is_sales, blocked, account_manager, account_manager_name, end_date, ghost, timestamp, deleted_at, changed_at)
        SELECT DISTINCT ON (r."ID")
               p_division, r."ID", nullif(btrim(r."Code"), ''), nullif(btrim(r."Name"), ''), nullif(btrim(r."Email"), ''), nullif(btrim(r."Phone"), ''), nullif(btrim(r."Website"), ''), nullif(btrim(r."AddressLine1"), ''), nullif(btrim(r."AddressLine2"), ''), nullif(btrim(r."Postcode"), ''), nullif(btrim(r."City"), ''), nullif(btrim(r."Country"), ''), nullif(btrim(r."VATNumber"), ''), nullif(btrim(r."Status"), ''), r."IsSales", r."Blocked", r."AccountManager", nullif(btrim(r."AccountManagerFullName"), ''), exact_pd_sync.exact_wall_clock(r."EndDate")::date, false, r."Timestamp", NULL::timestamptz, v_now
          FROM jsonb_to_recordset(p_rows) AS r("ID" uuid, "Code" text, "Name" text, "Email" text, "Phone" text, "Website" text, "AddressLine1" text, "AddressLine2" text, "Postcode" text, "City" text, "Country" text, "VATNumber" text, "Status" text, "IsSales" boolean, "Blocked" boolean, "AccountManager" uuid, "AccountManagerFullName" text, "EndDate" text, "Timestamp" bigint)
         ORDER BY r."ID", r."Timestamp" DESC NULLS LAST
        ON CONFLICT (division, id) DO UPDATE
           SET code = excluded.code, name = excluded.name, email = excluded.email, phone = excluded.phone, website = excluded.website, address_line1 = excluded.address_line1, address_line2 = excluded.address_line2, postcode = excluded.postcode, city = excluded.city, country = excluded.country, vat_number = excluded.vat_number, status = excluded.status, is_sales = excluded.is_sales, blocked = excluded.blocked, account_manager = excluded.account_manager, account_manager_name = excluded.account_manager_name, end_date = excluded.end_date, ghost = excluded.ghost,
               timestamp = excluded.timestamp, deleted_at = NULL,
               changed_at = CASE WHEN (t.code, t.name, t.email, t.phone, t.website, t.address_line1, t.address_line2, t.postcode, t.city, t.country, t.vat_number, t.status, t.is_sales, t.blocked, t.account_manager, t.account_manager_name, t.end_date, t.ghost, t.deleted_at)
                                 IS DISTINCT FROM (excluded.code, excluded.name, excluded.email, excluded.phone, excluded.website, excluded.address_line1, excluded.address_line2, excluded.postcode, excluded.city, excluded.country, excluded.vat_number, excluded.status, excluded.is_sales, excluded.blocked, excluded.account_manager, excluded.account_manager_name, excluded.end_date, excluded.ghost, NULL)
                                 THEN v_now ELSE t.changed_at END
         WHERE t.timestamp IS NULL OR excluded.timestamp > t.timestamp
        RETURNING t.changed_at
    )
    SELECT count(*), count(*) FILTER (WHERE u.changed_at = v_now) INTO taken, changed FROM upserted u;
END
$$;
COMMENT ON FUNCTION _stage_accounts(integer, jsonb) IS 'Accounts: rows of a page into exact_accounts. Returns how many were newer, and how many of those differ.';

CREATE FUNCTION _stage_items(p_division integer, p_rows jsonb, OUT taken integer, OUT changed integer)
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    WITH upserted AS (
        INSERT INTO exact_items AS t
              (division, id, code, description, extra_description, barcode, unit, item_group, item_group_code, is_sales_item, start_date, end_date, ghost, timestamp, deleted_at, changed_at)
        SELECT DISTINCT ON (r."ID")
               p_division, r."ID", nullif(btrim(r."Code"), ''), nullif(btrim(r."Description"), ''), r."ExtraDescription", nullif(btrim(r."Barcode"), ''), nullif(btrim(r."Unit"), ''), r."ItemGroup", nullif(btrim(r."ItemGroupCode"), ''), r."IsSalesItem", exact_pd_sync.exact_wall_clock(r."StartDate")::date, exact_pd_sync.exact_wall_clock(r."EndDate")::date, false, r."Timestamp", NULL::timestamptz, v_now
          FROM jsonb_to_recordset(p_rows) AS r("ID" uuid, "Code" text, "Description" text, "ExtraDescription" text, "Barcode" text, "Unit" text, "ItemGroup" uuid, "ItemGroupCode" text, "IsSalesItem" boolean, "StartDate" text, "EndDate" text, "Timestamp" bigint)
         ORDER BY r."ID", r."Timestamp" DESC NULLS LAST
        ON CONFLICT (division, id) DO UPDATE
           SET code = excluded.code, description = excluded.description, extra_description = excluded.extra_description, barcode = excluded.barcode, unit = excluded.unit, item_group = excluded.item_group, item_group_code = excluded.item_group_code, is_sales_item = excluded.is_sales_item, start_date = excluded.start_date, end_date = excluded.end_date, ghost = excluded.ghost,
               timestamp = excluded.timestamp, deleted_at = NULL,
               changed_at = CASE WHEN (t.code, t.description, t.extra_description, t.barcode, t.unit, t.item_group, t.item_group_code, t.is_sales_item, t.start_date, t.end_date, t.ghost, t.deleted_at)
                                 IS DISTINCT FROM (excluded.code, excluded.description, excluded.extra_description, excluded.barcode, excluded.unit, excluded.item_group, excluded.item_group_code, excluded.is_sales_item, excluded.start_date, excluded.end_date, excluded.ghost, NULL)
                                 THEN v_now ELSE t.changed_at END
         WHERE t.timestamp IS NULL OR excluded.timestamp > t.timestamp
        RETURNING t.changed_at
    )
    SELECT count(*), count(*) FILTER (WHERE u.changed_at = v_now) INTO taken, changed FROM upserted u;
END
$$;
COMMENT ON FUNCTION _stage_items(integer, jsonb) IS 'Items: rows of a page into exact_items. Returns how many were newer, and how many of those differ.';

CREATE FUNCTION _stage_item_groups(p_division integer, p_rows jsonb, OUT taken integer, OUT changed integer)
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    WITH upserted AS (
        INSERT INTO exact_item_groups AS t
              (division, id, code, description, is_default, timestamp, deleted_at, changed_at)
        SELECT DISTINCT ON (r."ID")
               p_division, r."ID", nullif(btrim(r."Code"), ''), nullif(btrim(r."Description"), ''), r."IsDefault", r."Timestamp", NULL::timestamptz, v_now
          FROM jsonb_to_recordset(p_rows) AS r("ID" uuid, "Code" text, "Description" text, "IsDefault" boolean, "Timestamp" bigint)
         ORDER BY r."ID", r."Timestamp" DESC NULLS LAST
        ON CONFLICT (division, id) DO UPDATE
           SET code = excluded.code, description = excluded.description, is_default = excluded.is_default,
               timestamp = excluded.timestamp, deleted_at = NULL,
               changed_at = CASE WHEN (t.code, t.description, t.is_default, t.deleted_at)
                                 IS DISTINCT FROM (excluded.code, excluded.description, excluded.is_default, NULL)
                                 THEN v_now ELSE t.changed_at END
         WHERE t.timestamp IS NULL OR excluded.timestamp > t.timestamp
        RETURNING t.changed_at
    )
    SELECT count(*), count(*) FILTER (WHERE u.changed_at = v_now) INTO taken, changed FROM upserted u;
END
$$;
COMMENT ON FUNCTION _stage_item_groups(integer, jsonb) IS 'Item groups: rows of a page into exact_item_groups. Returns how many were newer, and how many of those differ.';

CREATE FUNCTION _stage_item_prices(p_division integer, p_rows jsonb, OUT taken integer, OUT changed integer)
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    WITH upserted AS (
        INSERT INTO exact_item_prices AS t
              (division, id, item, account, currency, price, quantity, unit, items_per_unit, start_date, end_date, timestamp, deleted_at, changed_at)
        SELECT DISTINCT ON (r."ID")
               p_division, r."ID", r."Item", r."Account", nullif(btrim(r."Currency"), ''), round(r."Price", 6), round(r."Quantity", 6), nullif(btrim(r."Unit"), ''), round(r."NumberOfItemsPerUnit", 6), exact_pd_sync.exact_wall_clock(r."StartDate")::date, exact_pd_sync.exact_wall_clock(r."EndDate")::date, r."Timestamp", NULL::timestamptz, v_now
          FROM jsonb_to_recordset(p_rows) AS r("ID" uuid, "Item" uuid, "Account" uuid, "Currency" text, "Price" numeric, "Quantity" numeric, "Unit" text, "NumberOfItemsPerUnit" numeric, "StartDate" text, "EndDate" text, "Timestamp" bigint)
         ORDER BY r."ID", r."Timestamp" DESC NULLS LAST
        ON CONFLICT (division, id) DO UPDATE
           SET item = excluded.item, account = excluded.account, currency = excluded.currency, price = excluded.price, quantity = excluded.quantity, unit = excluded.unit, items_per_unit = excluded.items_per_unit, start_date = excluded.start_date, end_date = excluded.end_date,
               timestamp = excluded.timestamp, deleted_at = NULL,
               changed_at = CASE WHEN (t.item, t.account, t.currency, t.price, t.quantity, t.unit, t.items_per_unit, t.start_date, t.end_date, t.deleted_at)
                                 IS DISTINCT FROM (excluded.item, excluded.account, excluded.currency, excluded.price, excluded.quantity, excluded.unit, excluded.items_per_unit, excluded.start_date, excluded.end_date, NULL)
                                 THEN v_now ELSE t.changed_at END
         WHERE t.timestamp IS NULL OR excluded.timestamp > t.timestamp
        RETURNING t.changed_at
    )
    SELECT count(*), count(*) FILTER (WHERE u.changed_at = v_now) INTO taken, changed FROM upserted u;
END
$$;
COMMENT ON FUNCTION _stage_item_prices(integer, jsonb) IS 'Sales prices: rows of a page into exact_item_prices. Returns how many were newer, and how many of those differ.';

CREATE FUNCTION _stage_employees(p_division integer, p_rows jsonb, OUT taken integer, OUT changed integer)
    LANGUAGE plpgsql VOLATILE
    SET search_path = exact_pd_sync, pg_catalog, pg_temp
    AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    WITH upserted AS (
        INSERT INTO exact_employees AS t
              (division, id, user_id, full_name, email, is_active, timestamp, deleted_at, changed_at)
        SELECT DISTINCT ON (r."ID")
               p_division, r."ID", r."User", nullif(btrim(r."FullName"), ''), nullif(btrim(r."BusinessEmail"), ''), r."IsActive", r."Timestamp", NULL::timestamptz, v_now
          FROM jsonb_to_recordset(p_rows) AS r("ID" uuid, "User" uuid, "FullName" text, "BusinessEmail" text, "IsActive" boolean, "Timestamp" bigint)
         ORDER BY r."ID", r."Timestamp" DESC NULLS LAST
        ON CONFLICT (division, id) DO UPDATE
           SET user_id = excluded.user_id, full_name = excluded.full_name, email = excluded.email, is_active = excluded.is_active,
               timestamp = excluded.timestamp, deleted_at = NULL,
               changed_at = CASE WHEN (t.user_id, t.full_name, t.email, t.is_active, t.deleted_at)
                                 IS DISTINCT FROM (excluded.user_id, excluded.full_name, excluded.email, excluded.is_active, NULL)
                                 THEN v_now ELSE t.changed_at END
         WHERE t.timestamp IS NULL OR excluded.timestamp > t.timestamp
        RETURNING t.changed_at
    )
    SELECT count(*), count(*) FILTER (WHERE u.changed_at = v_now) INTO taken, changed FROM upserted u;
END
$$;
COMMENT ON FUNCTION _stage_employees(integer, jsonb) IS 'Employees: rows of a page into exact_employees. Returns how many were newer, and how many of those differ.';
