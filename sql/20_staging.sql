/*
 * 20_staging.sql
 *		Staging: what Exact says, one typed table per entity, key (division, id).
 *
 * Filled by _stage_page() (27_stage_page.sql) alone.  Statement-level triggers
 * append to job_signals (30_queue.sql) and do nothing else.  Analysts read
 * these tables; deleted records stay, marked by deleted_at.
 */

CREATE FUNCTION exact_wall_clock(text) RETURNS timestamp
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'epds_exact_wall_clock';
COMMENT ON FUNCTION exact_wall_clock(text) IS 'Exact''s /Date(milliseconds)/ as the wall clock it is: no zone, never shifted (exact-online 2.4). Error 22007 for anything else.';

CREATE TABLE exact_sales_orders (
    division                  integer NOT NULL,
    id                        uuid NOT NULL,
    row_id                    uuid,
    order_number              bigint,
    status                    integer,
    delivery_status           integer,
    invoice_status            integer,
    approval_status           integer,
    ordered_by                uuid,
    ordered_by_name           text,
    ordered_by_contact        uuid,
    invoice_to                uuid,
    deliver_to                uuid,
    order_date                date,
    delivery_date             date,
    currency                  text,
    amount_dc                 numeric,
    amount_fc                 numeric,
    amount_fc_excl_vat        numeric,
    vat_amount                numeric,
    amount_discount_excl_vat  numeric,
    discount                  numeric,
    salesperson               uuid,
    salesperson_name          text,
    your_ref                  text,
    description               text,
    remarks                   text,
    payment_condition         text,
    created                   timestamp,
    modified                  timestamp,
    lines_deferred            boolean NOT NULL DEFAULT false,
    timestamp                 bigint,
    deleted_at                timestamptz,
    changed_at                timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (division, id)
);
COMMENT ON TABLE exact_sales_orders IS 'Sales order headers of Exact, one row per order (exact-online 4.1).';
COMMENT ON COLUMN exact_sales_orders.division IS 'Exact division.';
COMMENT ON COLUMN exact_sales_orders.id IS 'OrderID: identifies the sales order; lines carry it too.';
COMMENT ON COLUMN exact_sales_orders.row_id IS 'ID of the header feed''s own row; hints and deletions may name either.';
COMMENT ON COLUMN exact_sales_orders.order_number IS 'OrderNumber: the number people know; not a key.';
COMMENT ON COLUMN exact_sales_orders.status IS 'Status: 12 open, 20 partial, 21 complete, 45 cancelled (exact-online 5.1).';
COMMENT ON COLUMN exact_sales_orders.delivery_status IS 'DeliveryStatus, same codes.';
COMMENT ON COLUMN exact_sales_orders.invoice_status IS 'InvoiceStatus, same codes.';
COMMENT ON COLUMN exact_sales_orders.approval_status IS 'ApprovalStatus: 0 awaiting, 1 automatic, 2 approved; may be null.';
COMMENT ON COLUMN exact_sales_orders.ordered_by IS 'OrderedBy: the ordering account.';
COMMENT ON COLUMN exact_sales_orders.ordered_by_name IS 'OrderedByName.';
COMMENT ON COLUMN exact_sales_orders.ordered_by_contact IS 'OrderedByContactPerson.';
COMMENT ON COLUMN exact_sales_orders.invoice_to IS 'InvoiceTo: account that is invoiced.';
COMMENT ON COLUMN exact_sales_orders.deliver_to IS 'DeliverTo: account that is delivered to.';
COMMENT ON COLUMN exact_sales_orders.order_date IS 'OrderDate, a calendar day of the division.';
COMMENT ON COLUMN exact_sales_orders.delivery_date IS 'DeliveryDate, planned.';
COMMENT ON COLUMN exact_sales_orders.currency IS 'Currency of the order (FC), ISO 4217.';
COMMENT ON COLUMN exact_sales_orders.amount_dc IS 'AmountDC: total in the division''s currency.';
COMMENT ON COLUMN exact_sales_orders.amount_fc IS 'AmountFC: total in the order''s currency, with VAT.';
COMMENT ON COLUMN exact_sales_orders.amount_fc_excl_vat IS 'AmountFCExclVat: total without VAT in the order''s currency: the deal''s value.';
COMMENT ON COLUMN exact_sales_orders.vat_amount IS 'VATAmount in the order''s currency.';
COMMENT ON COLUMN exact_sales_orders.amount_discount_excl_vat IS 'AmountDiscountExclVat: header discount without VAT, in the division''s currency.';
COMMENT ON COLUMN exact_sales_orders.discount IS 'Discount as Exact gives it; percentage or fraction, do not decide by it (exact-online 5.2).';
COMMENT ON COLUMN exact_sales_orders.salesperson IS 'Salesperson: see owner_map.';
COMMENT ON COLUMN exact_sales_orders.salesperson_name IS 'SalespersonFullName.';
COMMENT ON COLUMN exact_sales_orders.your_ref IS 'YourRef: the customer''s own reference.';
COMMENT ON COLUMN exact_sales_orders.description IS 'Description.';
COMMENT ON COLUMN exact_sales_orders.remarks IS 'Remarks.';
COMMENT ON COLUMN exact_sales_orders.payment_condition IS 'PaymentCondition, trimmed.';
COMMENT ON COLUMN exact_sales_orders.created IS 'Created, wall clock of the division.';
COMMENT ON COLUMN exact_sales_orders.modified IS 'Modified, wall clock of the division.';
COMMENT ON COLUMN exact_sales_orders.lines_deferred IS 'True: bulk left the lines out of the answer (exact-online 2.2); they are read apart.';
COMMENT ON COLUMN exact_sales_orders.timestamp IS 'Exact''s rowversion of the row; NULL when it came from a bulk or single endpoint, which carry none (exact-online 7). An upsert takes only a higher one.';
COMMENT ON COLUMN exact_sales_orders.deleted_at IS 'When Exact said the record is gone; NULL = it is there.';
COMMENT ON COLUMN exact_sales_orders.changed_at IS 'When the content last changed here; a re-read of the same content leaves it alone.';
SELECT pg_catalog.pg_extension_config_dump('exact_sales_orders', '');

CREATE TABLE exact_sales_order_lines (
    division            integer NOT NULL,
    id                  uuid NOT NULL,
    order_id            uuid NOT NULL,
    order_number        bigint,
    line_number         integer,
    item                uuid,
    item_code           text,
    item_description    text,
    description         text,
    notes               text,
    quantity            numeric,
    quantity_delivered  numeric,
    quantity_invoiced   numeric,
    unit                text,
    unit_price          numeric,
    net_price           numeric,
    discount            numeric,
    amount_fc           numeric,
    vat_percentage      numeric,
    vat_amount          numeric,
    delivery_date       date,
    status              integer,
    timestamp           bigint,
    deleted_at          timestamptz,
    changed_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (division, id)
);
COMMENT ON TABLE exact_sales_order_lines IS 'Sales order lines of Exact (exact-online 4.2).';
COMMENT ON COLUMN exact_sales_order_lines.division IS 'Exact division.';
COMMENT ON COLUMN exact_sales_order_lines.id IS 'ID of the line.';
COMMENT ON COLUMN exact_sales_order_lines.order_id IS 'OrderID; the header may arrive later than the line.';
COMMENT ON COLUMN exact_sales_order_lines.order_number IS 'OrderNumber.';
COMMENT ON COLUMN exact_sales_order_lines.line_number IS 'LineNumber.';
COMMENT ON COLUMN exact_sales_order_lines.item IS 'Item; NULL for a text line.';
COMMENT ON COLUMN exact_sales_order_lines.item_code IS 'ItemCode, trimmed.';
COMMENT ON COLUMN exact_sales_order_lines.item_description IS 'ItemDescription.';
COMMENT ON COLUMN exact_sales_order_lines.description IS 'Description of the line; may differ from the item''s.';
COMMENT ON COLUMN exact_sales_order_lines.notes IS 'Notes.';
COMMENT ON COLUMN exact_sales_order_lines.quantity IS 'Quantity in the item''s unit; negative = return.';
COMMENT ON COLUMN exact_sales_order_lines.quantity_delivered IS 'QuantityDelivered; NULL when the feed does not give it.';
COMMENT ON COLUMN exact_sales_order_lines.quantity_invoiced IS 'QuantityInvoiced; the same.';
COMMENT ON COLUMN exact_sales_order_lines.unit IS 'UnitCode, trimmed.';
COMMENT ON COLUMN exact_sales_order_lines.unit_price IS 'UnitPrice in the order''s currency.';
COMMENT ON COLUMN exact_sales_order_lines.net_price IS 'NetPrice in the order''s currency, after line discount.';
COMMENT ON COLUMN exact_sales_order_lines.discount IS 'Discount, a fraction of the default price.';
COMMENT ON COLUMN exact_sales_order_lines.amount_fc IS 'AmountFC of the line; with or without VAT, see order_sums.';
COMMENT ON COLUMN exact_sales_order_lines.vat_percentage IS 'VATPercentage, a fraction: 0.21.';
COMMENT ON COLUMN exact_sales_order_lines.vat_amount IS 'VATAmount.';
COMMENT ON COLUMN exact_sales_order_lines.delivery_date IS 'DeliveryDate.';
COMMENT ON COLUMN exact_sales_order_lines.status IS 'Status of the line; NULL from bulk.';
COMMENT ON COLUMN exact_sales_order_lines.timestamp IS 'Exact''s rowversion of the row; NULL when it came from a bulk or single endpoint, which carry none (exact-online 7). An upsert takes only a higher one.';
COMMENT ON COLUMN exact_sales_order_lines.deleted_at IS 'When Exact said the record is gone; NULL = it is there.';
COMMENT ON COLUMN exact_sales_order_lines.changed_at IS 'When the content last changed here; a re-read of the same content leaves it alone.';
SELECT pg_catalog.pg_extension_config_dump('exact_sales_order_lines', '');

CREATE TABLE exact_accounts (
    division              integer NOT NULL,
    id                    uuid NOT NULL,
    code                  text,
    name                  text,
    email                 text,
    phone                 text,
    website               text,
    address_line1         text,
    address_line2         text,
    postcode              text,
    city                  text,
    country               text,
    vat_number            text,
    status                text,
    is_sales              boolean,
    blocked               boolean,
    account_manager       uuid,
    account_manager_name  text,
    end_date              date,
    ghost                 boolean NOT NULL DEFAULT false,
    timestamp             bigint,
    deleted_at            timestamptz,
    changed_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (division, id)
);
COMMENT ON TABLE exact_accounts IS 'Accounts (relations) of Exact: the customers (exact-online 4.4).';
COMMENT ON COLUMN exact_accounts.division IS 'Exact division.';
COMMENT ON COLUMN exact_accounts.id IS 'ID of the account.';
COMMENT ON COLUMN exact_accounts.code IS 'Code: the debtor number, trimmed of Exact''s padding.';
COMMENT ON COLUMN exact_accounts.name IS 'Name.';
COMMENT ON COLUMN exact_accounts.email IS 'Email.';
COMMENT ON COLUMN exact_accounts.phone IS 'Phone.';
COMMENT ON COLUMN exact_accounts.website IS 'Website.';
COMMENT ON COLUMN exact_accounts.address_line1 IS 'AddressLine1.';
COMMENT ON COLUMN exact_accounts.address_line2 IS 'AddressLine2.';
COMMENT ON COLUMN exact_accounts.postcode IS 'Postcode.';
COMMENT ON COLUMN exact_accounts.city IS 'City.';
COMMENT ON COLUMN exact_accounts.country IS 'Country, ISO 3166, trimmed.';
COMMENT ON COLUMN exact_accounts.vat_number IS 'VATNumber.';
COMMENT ON COLUMN exact_accounts.status IS 'Status: C customer, P prospect, S suspect, A none.';
COMMENT ON COLUMN exact_accounts.is_sales IS 'IsSales: sales to it are allowed.';
COMMENT ON COLUMN exact_accounts.blocked IS 'Blocked.';
COMMENT ON COLUMN exact_accounts.account_manager IS 'AccountManager.';
COMMENT ON COLUMN exact_accounts.account_manager_name IS 'AccountManagerFullName.';
COMMENT ON COLUMN exact_accounts.end_date IS 'EndDate: inactive since.';
COMMENT ON COLUMN exact_accounts.ghost IS 'True: an order names it but Exact does not show it (deleted, or no right); name taken from the order.';
COMMENT ON COLUMN exact_accounts.timestamp IS 'Exact''s rowversion of the row; NULL when it came from a bulk or single endpoint, which carry none (exact-online 7). An upsert takes only a higher one.';
COMMENT ON COLUMN exact_accounts.deleted_at IS 'When Exact said the record is gone; NULL = it is there.';
COMMENT ON COLUMN exact_accounts.changed_at IS 'When the content last changed here; a re-read of the same content leaves it alone.';
SELECT pg_catalog.pg_extension_config_dump('exact_accounts', '');

CREATE TABLE exact_items (
    division              integer NOT NULL,
    id                    uuid NOT NULL,
    code                  text,
    description           text,
    extra_description     text,
    barcode               text,
    unit                  text,
    item_group            uuid,
    item_group_code       text,
    is_sales_item         boolean,
    start_date            date,
    end_date              date,
    standard_sales_price  numeric,
    ghost                 boolean NOT NULL DEFAULT false,
    timestamp             bigint,
    deleted_at            timestamptz,
    changed_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (division, id)
);
COMMENT ON TABLE exact_items IS 'Items of Exact (exact-online 4.3).';
COMMENT ON COLUMN exact_items.division IS 'Exact division.';
COMMENT ON COLUMN exact_items.id IS 'ID of the item; all zeros for the product that stands for text lines.';
COMMENT ON COLUMN exact_items.code IS 'Code, trimmed.';
COMMENT ON COLUMN exact_items.description IS 'Description.';
COMMENT ON COLUMN exact_items.extra_description IS 'ExtraDescription.';
COMMENT ON COLUMN exact_items.barcode IS 'Barcode.';
COMMENT ON COLUMN exact_items.unit IS 'Unit, trimmed.';
COMMENT ON COLUMN exact_items.item_group IS 'ItemGroup.';
COMMENT ON COLUMN exact_items.item_group_code IS 'ItemGroupCode, trimmed.';
COMMENT ON COLUMN exact_items.is_sales_item IS 'IsSalesItem.';
COMMENT ON COLUMN exact_items.start_date IS 'StartDate.';
COMMENT ON COLUMN exact_items.end_date IS 'EndDate: no longer sold from this day.';
COMMENT ON COLUMN exact_items.standard_sales_price IS 'StandardSalesPrice; only where a bulk or single endpoint was read.';
COMMENT ON COLUMN exact_items.ghost IS 'True: a line names it but Exact does not show it; code and description taken from the line.';
COMMENT ON COLUMN exact_items.timestamp IS 'Exact''s rowversion of the row; NULL when it came from a bulk or single endpoint, which carry none (exact-online 7). An upsert takes only a higher one.';
COMMENT ON COLUMN exact_items.deleted_at IS 'When Exact said the record is gone; NULL = it is there.';
COMMENT ON COLUMN exact_items.changed_at IS 'When the content last changed here; a re-read of the same content leaves it alone.';
SELECT pg_catalog.pg_extension_config_dump('exact_items', '');

CREATE TABLE exact_item_groups (
    division     integer NOT NULL,
    id           uuid NOT NULL,
    code         text,
    description  text,
    is_default   boolean,
    timestamp    bigint,
    deleted_at   timestamptz,
    changed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (division, id)
);
COMMENT ON TABLE exact_item_groups IS 'Item groups of Exact: the collections (exact-online 4.3). Read whole, there is no feed.';
COMMENT ON COLUMN exact_item_groups.division IS 'Exact division.';
COMMENT ON COLUMN exact_item_groups.id IS 'ID of the group.';
COMMENT ON COLUMN exact_item_groups.code IS 'Code, trimmed.';
COMMENT ON COLUMN exact_item_groups.description IS 'Description: the name of the collection.';
COMMENT ON COLUMN exact_item_groups.is_default IS 'IsDefault.';
COMMENT ON COLUMN exact_item_groups.timestamp IS 'Exact''s rowversion of the row; NULL when it came from a bulk or single endpoint, which carry none (exact-online 7). An upsert takes only a higher one.';
COMMENT ON COLUMN exact_item_groups.deleted_at IS 'When Exact said the record is gone; NULL = it is there.';
COMMENT ON COLUMN exact_item_groups.changed_at IS 'When the content last changed here; a re-read of the same content leaves it alone.';
SELECT pg_catalog.pg_extension_config_dump('exact_item_groups', '');

CREATE TABLE exact_item_prices (
    division        integer NOT NULL,
    id              uuid NOT NULL,
    item            uuid NOT NULL,
    account         uuid,
    currency        text,
    price           numeric,
    quantity        numeric,
    unit            text,
    items_per_unit  numeric,
    start_date      date,
    end_date        date,
    timestamp       bigint,
    deleted_at      timestamptz,
    changed_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (division, id)
);
COMMENT ON TABLE exact_item_prices IS 'Sales prices of items (exact-online 4.3).';
COMMENT ON COLUMN exact_item_prices.division IS 'Exact division.';
COMMENT ON COLUMN exact_item_prices.id IS 'ID of the price.';
COMMENT ON COLUMN exact_item_prices.item IS 'Item.';
COMMENT ON COLUMN exact_item_prices.account IS 'Account; NULL = price for everybody.';
COMMENT ON COLUMN exact_item_prices.currency IS 'Currency, ISO 4217.';
COMMENT ON COLUMN exact_item_prices.price IS 'Price.';
COMMENT ON COLUMN exact_item_prices.quantity IS 'Minimum quantity.';
COMMENT ON COLUMN exact_item_prices.unit IS 'Unit, trimmed.';
COMMENT ON COLUMN exact_item_prices.items_per_unit IS 'NumberOfItemsPerUnit: factor from the item''s unit to the price unit.';
COMMENT ON COLUMN exact_item_prices.start_date IS 'StartDate.';
COMMENT ON COLUMN exact_item_prices.end_date IS 'EndDate.';
COMMENT ON COLUMN exact_item_prices.timestamp IS 'Exact''s rowversion of the row; NULL when it came from a bulk or single endpoint, which carry none (exact-online 7). An upsert takes only a higher one.';
COMMENT ON COLUMN exact_item_prices.deleted_at IS 'When Exact said the record is gone; NULL = it is there.';
COMMENT ON COLUMN exact_item_prices.changed_at IS 'When the content last changed here; a re-read of the same content leaves it alone.';
SELECT pg_catalog.pg_extension_config_dump('exact_item_prices', '');

CREATE TABLE exact_employees (
    division    integer NOT NULL,
    id          uuid NOT NULL,
    user_id     uuid,
    full_name   text,
    email       text,
    is_active   boolean,
    timestamp   bigint,
    deleted_at  timestamptz,
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (division, id)
);
COMMENT ON TABLE exact_employees IS 'Employees of Exact, read when the app has the scope; only used to match salespeople (exact-online 4.6).';
COMMENT ON COLUMN exact_employees.division IS 'Exact division.';
COMMENT ON COLUMN exact_employees.id IS 'ID of the employee.';
COMMENT ON COLUMN exact_employees.user_id IS 'User: the user GUID that may stand on orders.';
COMMENT ON COLUMN exact_employees.full_name IS 'FullName.';
COMMENT ON COLUMN exact_employees.email IS 'BusinessEmail or Email.';
COMMENT ON COLUMN exact_employees.is_active IS 'IsActive.';
COMMENT ON COLUMN exact_employees.timestamp IS 'Exact''s rowversion of the row; NULL when it came from a bulk or single endpoint, which carry none (exact-online 7). An upsert takes only a higher one.';
COMMENT ON COLUMN exact_employees.deleted_at IS 'When Exact said the record is gone; NULL = it is there.';
COMMENT ON COLUMN exact_employees.changed_at IS 'When the content last changed here; a re-read of the same content leaves it alone.';
SELECT pg_catalog.pg_extension_config_dump('exact_employees', '');

-- None but the primary keys begin with division: with two such indexes and no
-- statistics yet, the planner would toss a coin, and read a whole division.
CREATE INDEX exact_sales_orders_number ON exact_sales_orders (order_number);
CREATE INDEX exact_sales_orders_customer ON exact_sales_orders (ordered_by, division, order_date);
CREATE INDEX exact_sales_orders_row ON exact_sales_orders (row_id, division);
CREATE INDEX exact_sales_orders_date ON exact_sales_orders (order_date, division);
CREATE INDEX exact_sales_order_lines_order ON exact_sales_order_lines (order_id, division);
CREATE INDEX exact_sales_order_lines_item ON exact_sales_order_lines (item, division);
CREATE INDEX exact_accounts_code ON exact_accounts (code, division);
CREATE INDEX exact_items_code ON exact_items (code, division);
CREATE INDEX exact_items_group ON exact_items (item_group, division);
CREATE INDEX exact_item_prices_item ON exact_item_prices (item, division);

CREATE TABLE exact_deleted (
    division     integer NOT NULL,
    id           uuid NOT NULL,
    entity_key   uuid NOT NULL,
    entity_type  integer NOT NULL,
    deleted_date timestamp,
    timestamp    bigint,
    applied      boolean NOT NULL DEFAULT false,
    seen_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (division, id)
);
COMMENT ON TABLE exact_deleted IS 'Deletions as Exact reports them, kept there for two months (exact-online 4.10). Types we do not know are kept and not acted upon.';
COMMENT ON COLUMN exact_deleted.division IS 'Exact division.';
COMMENT ON COLUMN exact_deleted.id IS 'ID of the deletion row.';
COMMENT ON COLUMN exact_deleted.entity_key IS 'EntityKey: GUID of the deleted record.';
COMMENT ON COLUMN exact_deleted.entity_type IS 'EntityType: 2 accounts, 8 prices, 9 items, 32 order headers, 33 order lines …';
COMMENT ON COLUMN exact_deleted.deleted_date IS 'DeletedDate, wall clock.';
COMMENT ON COLUMN exact_deleted.timestamp IS 'Rowversion of the deletion; older than the stored row = ignored.';
COMMENT ON COLUMN exact_deleted.applied IS 'Whether a staged row was marked.';
COMMENT ON COLUMN exact_deleted.seen_at IS 'When we read it.';
SELECT pg_catalog.pg_extension_config_dump('exact_deleted', '');

CREATE TABLE refused_rows (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    division  integer NOT NULL,
    feed      text NOT NULL,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason    text NOT NULL,
    row_text  text NOT NULL,
    entity    text,
    key       uuid,
    number    text,
    name      text
);
COMMENT ON TABLE refused_rows IS 'Rows of Exact that could not be staged, with the reason; the rest of their page was. They also stand in dead_letters.';
COMMENT ON COLUMN refused_rows.id IS 'Number.';
COMMENT ON COLUMN refused_rows.division IS 'Exact division.';
COMMENT ON COLUMN refused_rows.feed IS 'Feed it came by.';
COMMENT ON COLUMN refused_rows.at IS 'When.';
COMMENT ON COLUMN refused_rows.reason IS 'PostgreSQL''s words.';
COMMENT ON COLUMN refused_rows.row_text IS 'The row as JSON text, cut at 10,000 characters.';
COMMENT ON COLUMN refused_rows.entity IS 'Entity in feed_definitions.';
COMMENT ON COLUMN refused_rows.key IS 'GUID of the record, as far as it can be read: when a row with it is stored, this one leaves.';
COMMENT ON COLUMN refused_rows.number IS 'Number of the record, as far as it can be read.';
COMMENT ON COLUMN refused_rows.name IS 'Its name, as far as it can be read.';
CREATE INDEX refused_rows_key ON refused_rows (division, key);
