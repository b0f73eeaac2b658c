"""Field tables and rules of the simulated Exact Online endpoints.

Belongs here: for every endpoint its path, key, page size, scope, field names with Edm types, the fields that may be
filtered, and whether $select or $filter is mandatory.
Does not belong here: any behaviour; exact.py and exact_odata.py read these tables.
Why: a client that names a field the real service does not have must be refused here too, so the tables are complete,
also for fields that are always null in the sandbox. test_contract.py compares them with the published reference.
"""

# --- field tables -------------------------------------------------------------


def _fields(**by_type):
    """{"name": "EdmType"} from one blank-separated list of names per type."""
    return {name: edm for edm, names in by_type.items() for name in names.split()}


def _vary(base, without="", **more):
    """A copy of a field table with some fields left out and some added (or of another type)."""
    table = {name: edm for name, edm in base.items() if name not in without.split()}
    table.update(_fields(**more))
    return table

ME = _fields(
    Guid="UserID DivisionCustomer EmployeeID",
    Int32="AccountingDivision CurrentDivision DossierDivision",
    String="""
        CustomerCode DivisionCustomerCode DivisionCustomerName DivisionCustomerSiretNumber DivisionCustomerVatNumber Email
        FirstName FullName Gender Initials Language LanguageCode LastName MiddleName Mobile Nationality PackageCode Phone
        PhoneExtension PictureUrl ServerTime ThumbnailPictureFormat Title UserName""",
    Boolean="IsClientUser IsEmployeeSelfServiceUser IsMyFirmLiteUser IsMyFirmPortalUser IsOEIMigrationMandatory IsStarterUser",
    Int64="Legislation",
    Double="ServerUtcOffset",
    Binary="ThumbnailPicture",
)

DIVISIONS = _fields(
    Int32="Code BlockingStatus Status",
    String="""
        AddressLine1 AddressLine2 AddressLine3 BusinessTypeCode BusinessTypeDescription ChamberOfCommerceEstablishment
        ChamberOfCommerceNumber City CompanySizeCode CompanySizeDescription Country CreatorFullName Currency CustomerCode
        CustomerName DatevAccountantNumber DatevClientNumber Description Email Fax Legislation ModifierFullName OBNumber Phone
        Postcode SbiCode SbiDescription SectorCode SectorDescription SiretNumber State SubsectorCode SubsectorDescription
        TaxOfficeNumber TaxReferenceNumber TemplateCode VATNumber Website""",
    DateTime="ArchiveDate Created DivisionHRLinkUnlinkDate DivisionMoveDate Modified StartDate",
    Collection="Class_01 Class_02 Class_03 Class_04 Class_05",
    Guid="Creator Customer Modifier",
    Boolean="Current IsDossierDivision IsHRDivision IsMainDivision IsPracticeDivision",
    Int64="Hid",
    Double="ShareCapital",
)

EMPLOYEES = _fields(
    Guid="ID Creator Customer Manager Modifier Person User",
    Byte="ActiveEmployment IsAnonymised",
    String="""
        AddressLine2 AddressLine3 AddressStreet AddressStreetNumber AddressStreetNumberSuffix BirthName BirthNamePrefix
        BirthPlace BusinessEmail BusinessFax BusinessMobile BusinessPhone BusinessPhoneExtension CASONumber City Code Country
        CreatorFullName CustomField Email FirstName FullName Gender Initials Language LastName LocationDescription MiddleName
        Mobile ModifierFullName Municipality Nationality NickName Notes PartnerName PartnerNamePrefix Phone PhoneExtension
        PictureFileName PictureThumbnailUrl PictureUrl Postcode PrivateEmail SocialSecurityNumber State Title UserFullName
        TaxIdentificationNumber""",
    DateTime="BirthDate Created EndDate MaritalDate Modified StartDate",
    Int32="Division EmployeeHID HID",
    Boolean="IsActive",
    Int16="MaritalStatus NameComposition",
    Binary="Picture",
)

ACCOUNTS = _fields(
    Guid="""
        ID Accountant AccountManager ActivitySector ActivitySubSector BRIN BusinessType Classification1 Classification2
        Classification3 Classification4 Classification5 Classification6 Classification7 Classification8 CompanySize Creator
        Document GLAccountPurchase GLAccountSales GLAP GLAR InvoiceAccount LeadPurpose LeadSource MainContact Modifier Parent
        PriceList Reseller SalesTaxSchedule ShippingMethod""",
    String="""
        AccountManagerFullName AddressLine1 AddressLine2 AddressLine3 BSN ChamberOfCommerce City Classification
        ClassificationDescription Code CodeAtSupplier Costcenter CostcenterDescription Country CountryName CreatorFullName
        Currency CustomField DatevCreditorCode DatevDebtorCode DunsNumber Email EORINumber Fax GlnNumber
        IncotermAddressPurchase IncotermAddressSales IncotermCodePurchase IncotermCodeSales IntraStatArea
        IntraStatDeliveryTerm IntraStatSystem IntraStatTransactionA IntraStatTransactionB IntraStatTransportMethod
        InvoiceAccountCode InvoiceAccountName Language LanguageDescription LogoFileName LogoThumbnailUrl LogoUrl
        ModifierFullName Name OINNumber PayAsYouEarn PaymentConditionPurchase PaymentConditionPurchaseDescription
        PaymentConditionSales PaymentConditionSalesDescription PeppolIdentifier Phone PhoneExtension Postcode PurchaseCurrency
        PurchaseCurrencyDescription PurchaseVATCode PurchaseVATCodeDescription Remarks ResellerCode ResellerName RSIN
        SalesCurrency SalesCurrencyDescription SalesTaxScheduleCode SalesTaxScheduleDescription SalesVATCode
        SalesVATCodeDescription SearchCode State StateName Status TradeName Type UniqueTaxpayerReference VATLiability
        VATNumber Website""",
    Int32="""
        AccountManagerHID Division InvoiceAttachmentType InvoicingMethod PeppolIdentifierType PurchaseLeadDays SecurityLevel
        ShippingLeadDays""",
    Byte="""
        AddressSource AutomaticProcessProposedEntry ConsolidationScenario CostPaid DeliveryAdvice IsAccountant IsAgency
        IsAnonymised IsCompetitor IsMailing SeparateInvPerProject SeparateInvPerSubscription Source""",
    Collection="BankAccounts",
    Boolean="""
        Blocked CanDropShip EnableSalesPaymentLink HasWithholdingTaxSales IgnoreDatevWarningMessage IsBank IsExtraDuty
        IsMember IsPilot IsPurchase IsReseller IsSales IsSupplier RecepientOfCommissions ShowRemarkForSales""",
    DateTime="ControlledDate Created CustomerSince EndDate EstablishedDate Modified StartDate StatusSince",
    Double="CreditLinePurchase CreditLineSales DiscountPurchase DiscountSales Latitude Longitude",
    Int16="IncotermVersionPurchase IncotermVersionSales",
    Binary="Logo",
)

CONTACTS = _fields(
    Guid="ID Account AccountMainContact Creator IdentificationDocument IdentificationUser LeadPurpose LeadSource Modifier Person",
    Boolean="AccountIsCustomer AccountIsSupplier IsMailingExcluded IsMainContact",
    String="""
        AccountName AddressLine2 AddressStreet AddressStreetNumber AddressStreetNumberSuffix BirthName BirthNamePrefix
        BirthPlace BusinessEmail BusinessFax BusinessMobile BusinessPhone BusinessPhoneExtension City Code Country
        CreatorFullName CustomField Email FirstName FullName Gender Initials JobTitleDescription Language LastName
        MarketingNotes MiddleName Mobile ModifierFullName Nationality Notes PartnerName PartnerNamePrefix Phone PhoneExtension
        PictureName PictureThumbnailUrl PictureUrl Postcode SocialSecurityNumber State Title TitleAbbreviation
        TitleDescription""",
    Int32="AllowMailing Division HID",
    DateTime="BirthDate Created EndDate IdentificationDate Modified StartDate",
    Byte="IsAnonymised",
    Binary="Picture",
)

ITEMS = _fields(
    Guid="ID Creator GLCosts GLCostsWorkInProgress GLRevenue GLRevenueWorkInProgress GLStock ItemGroup Modifier",
    Int32="AssembledLeadDays Division SecurityLevel",
    Double="""
        AverageCost BatchQuantity CostPriceNew CostPriceStandard FreeNumberField_01 FreeNumberField_02 FreeNumberField_03
        FreeNumberField_04 FreeNumberField_05 FreeNumberField_06 FreeNumberField_07 FreeNumberField_08 GrossWeight NetWeight
        StandardSalesPrice StatisticalNetWeight StatisticalUnits StatisticalValue Stock""",
    String="""
        Barcode Class_01 Class_02 Class_03 Class_04 Class_05 Class_06 Class_07 Class_08 Class_09 Class_10 Code
        CostPriceCurrency CreatorFullName CustomField Description ExtraDescription FreeTextField_01 FreeTextField_02
        FreeTextField_03 FreeTextField_04 FreeTextField_05 FreeTextField_06 FreeTextField_07 FreeTextField_08 FreeTextField_09
        FreeTextField_10 GLCostsCode GLCostsDescription GLCostsWorkInProgressCode GLCostsWorkInProgressDescription
        GLRevenueCode GLRevenueDescription GLRevenueWorkInProgressCode GLRevenueWorkInProgressDescription GLStockCode
        GLStockDescription ItemGroupCode ItemGroupDescription ModifierFullName NetWeightUnit Notes PictureName
        PictureThumbnailUrl PictureUrl SalesVatCode SalesVatCodeDescription SearchCode StatisticalCode Unit UnitDescription
        UnitType""",
    Byte="""
        CopyRemarks IsBatchItem IsBatchNumberItem IsMakeItem IsNewContract IsOnDemandItem IsRegistrationCodeItem IsTaxableItem
        IsTime IsWebshopItem UseExplosion""",
    DateTime="""
        Created EndDate FreeDateField_01 FreeDateField_02 FreeDateField_03 FreeDateField_04 FreeDateField_05 Modified
        StartDate""",
    Boolean="""
        FreeBoolField_01 FreeBoolField_02 FreeBoolField_03 FreeBoolField_04 FreeBoolField_05 IsFractionAllowedItem
        IsPackageItem IsPurchaseItem IsSalesItem IsSerialItem IsSerialNumberItem IsStockItem IsSubcontractedItem""",
    Binary="Picture",
)

ITEM_GROUPS = _fields(
    Guid="""
        ID Creator GLCosts GLCostsWorkInProgress GLPurchaseAccount GLPurchasePriceDifference GLRevenue GLRevenueWorkInProgress
        GLStock GLStockVariance Modifier""",
    String="""
        Code CreatorFullName Description GLCostsCode GLCostsDescription GLCostsWorkInProgressCode
        GLCostsWorkInProgressDescription GLPurchaseAccountCode GLPurchaseAccountDescription GLPurchasePriceDifferenceCode
        GLPurchasePriceDifferenceDescr GLRevenueCode GLRevenueDescription GLRevenueWorkInProgressCode
        GLRevenueWorkInProgressDescription GLStockCode GLStockDescription GLStockVarianceCode GLStockVarianceDescription
        ModifierFullName Notes""",
    DateTime="Created Modified",
    Int32="Division",
    Byte="IsDefault",
)

PRICES = _fields(
    Guid="ID Account Creator Employee Item Modifier Project",
    String="""
        AccountName Barcode CreatorFullName Currency DefaultItemUnit DefaultItemUnitDescription ItemCode ItemDescription
        ModifierFullName ProjectDescription Unit UnitDescription""",
    DateTime="Created EndDate Modified StartDate",
    Int32="Division",
    Double="NumberOfItemsPerUnit Price Quantity",
)

ORDERS = _fields(
    Guid="""
        OrderID Approver Creator DeliverTo DeliverToContactPerson DeliveryAddress Document InvoiceTo InvoiceToContactPerson
        Modifier OrderedBy OrderedByContactPerson SalesChannel Salesperson SelectionCode ShippingMethod TaxSchedule
        WarehouseID""",
    Double="AmountDC AmountDiscount AmountDiscountExclVat AmountFC AmountFCExclVat Discount",
    Int16="ApprovalStatus DeliveryStatus IncotermVersion InvoiceStatus Status",
    String="""
        ApprovalStatusDescription ApproverFullName CreatorFullName Currency CustomField DeliverToContactPersonFullName
        DeliverToName DeliveryStatusDescription Description DocumentSubject IncotermAddress IncotermCode
        InvoiceStatusDescription InvoiceToContactPersonFullName InvoiceToName ModifierFullName OrderedByContactPersonFullName
        OrderedByName PaymentCondition PaymentConditionDescription PaymentReference Remarks SalesChannelCode
        SalesChannelDescription SalespersonFullName SelectionCodeCode SelectionCodeDescription ShippingMethodDescription
        StatusDescription TaxScheduleCode TaxScheduleDescription WarehouseCode WarehouseDescription YourRef""",
    DateTime="Approved Created DeliveryDate Modified OrderDate",
    Int32="Division DocumentNumber OrderNumber",
    Collection="SalesOrderLines SalesOrderOrderChargeLines",
)

ORDER_LINES = _fields(
    Guid="ID Item ItemVersion OrderID Pricelist Project PurchaseOrder PurchaseOrderLine ShopOrder TaxSchedule",
    Double="""
        AmountDC AmountFC CostPriceFC Discount Margin NetPrice Quantity QuantityDelivered QuantityInvoiced UnitPrice VATAmount
        VATPercentage""",
    String="""
        CostCenter CostCenterDescription CostUnit CostUnitDescription CustomerItemCode CustomField Description ItemCode
        ItemDescription ItemVersionDescription Notes PricelistDescription ProjectDescription TaxScheduleCode
        TaxScheduleDescription UnitCode UnitDescription VATCode VATCodeDescription""",
    DateTime="DeliveryDate",
    Int16="DeliveryStatus InvoiceStatus OrderStatus",
    Int32="Division LineNumber OrderNumber PurchaseOrderLineNumber PurchaseOrderNumber",
    Byte="UseDropShipment",
)

INVOICES = _fields(
    Guid="""
        InvoiceID Creator DeliverTo DeliverToAddress DeliverToContactPerson Document InvoiceTo InvoiceToContactPerson Modifier
        OrderedBy OrderedByContactPerson SalesChannel Salesperson SelectionCode ShippingMethod TaxSchedule Warehouse""",
    Double="""
        AmountDC AmountDiscount AmountDiscountExclVat AmountFC AmountFCExclVat Discount ExtraDutyAmountFC GAccountAmountFC
        VATAmountDC VATAmountFC WithholdingTaxAmountFC WithholdingTaxBaseAmount WithholdingTaxPercentage""",
    DateTime="Created DueDate InvoiceDate Modified OrderDate",
    String="""
        CreatorFullName Currency DeliverToContactPersonFullName DeliverToName Description DocumentSubject IncotermAddress
        IncotermCode InvoiceToContactPersonFullName InvoiceToName Journal JournalDescription ModifierFullName
        OrderedByContactPersonFullName OrderedByName PaymentCondition PaymentConditionDescription PaymentReference Remarks
        SalesChannelCode SalesChannelDescription SalespersonFullName SelectionCodeCode SelectionCodeDescription
        ShippingMethodCode ShippingMethodDescription StarterSalesInvoiceStatusDescription StatusDescription TaxScheduleCode
        TaxScheduleDescription TypeDescription YourRef""",
    Int16="DiscountType IncotermVersion StarterSalesInvoiceStatus Status",
    Int32="Division DocumentNumber InvoiceNumber OrderNumber Type",
    Boolean="IsExtraDuty",
    Collection="SalesInvoiceLines SalesInvoiceOrderChargeLines",
)

INVOICE_LINES = _fields(
    Guid="ID Employee GLAccount InvoiceID Item Pricelist Project ProjectWBS SalesOrder SalesOrderLine Subscription TaxSchedule",
    Double="""
        AmountDC AmountFC Discount ExtraDutyAmountFC ExtraDutyPercentage NetPrice Quantity UnitPrice VATAmountDC VATAmountFC
        VATPercentage""",
    String="""
        CostCenter CostCenterDescription CostUnit CostUnitDescription CustomerItemCode CustomField Description
        EmployeeFullName GLAccountDescription ItemCode ItemDescription Notes PricelistDescription ProjectDescription
        ProjectWBSDescription SubscriptionDescription TaxScheduleCode TaxScheduleDescription UnitCode UnitDescription VATCode
        VATCodeDescription""",
    DateTime="DeliveryDate EndTime StartTime",
    Int32="Division LineNumber SalesOrderLineNumber SalesOrderNumber",
)

INVOICE_STREAM = _fields(
    Int64="Timestamp",
    Double="""
        AmountDC AmountDiscount AmountDiscountExclVat AmountFC AmountFCExclVat Discount ExtraDutyAmountFC ExtraDutyPercentage
        GAccountAmountFC NetPrice Quantity UnitPrice VATAmountDC VATAmountFC VATPercentage WithholdingTaxAmountFC
        WithholdingTaxBaseAmount WithholdingTaxPercentage""",
    String="""
        CostCenter CostCenterDescription CostUnit CostUnitDescription CreatorFullName Currency CustomerItemCode CustomField
        DeliverToContactPersonFullName DeliverToName Description DocumentSubject EmployeeFullName GLAccountDescription
        IncotermAddress IncotermCode InvoiceToContactPersonFullName InvoiceToName ItemCode ItemDescription Journal
        JournalDescription ModifierFullName Notes OrderedByContactPersonFullName OrderedByName PaymentCondition
        PaymentConditionDescription PaymentReference PricelistDescription ProjectDescription ProjectWBSDescription Remarks
        SalesChannelCode SalesChannelDescription SalespersonFullName StarterSalesInvoiceStatusDescription StatusDescription
        SubscriptionDescription TaxScheduleCode TaxScheduleDescription TypeDescription UnitCode UnitDescription VATCode
        VATCodeDescription YourRef""",
    DateTime="Created DeliveryDate DueDate EndTime InvoiceDate Modified OrderDate StartTime",
    Guid="""
        Creator DeliverTo DeliverToAddress DeliverToContactPerson Document Employee GLAccount ID InvoiceID InvoiceTo
        InvoiceToContactPerson Item Modifier OrderedBy OrderedByContactPerson Pricelist Project ProjectWBS SalesChannel
        SalesOrder SalesOrderLine Salesperson Subscription TaxSchedule Warehouse""",
    Int16="DiscountType IncotermVersion StarterSalesInvoiceStatus Status",
    Int32="Division DocumentNumber InvoiceNumber LineNumber OrderNumber SalesOrderLineNumber SalesOrderNumber Type",
    Boolean="IsExtraDuty",
)

TERMS = _fields(
    Int64="Timestamp",
    Guid="""
        Account AccountBankAccountID AccountContact BankAccountID Creator DirectDebitMandate Document EntryID GLAccount ID
        Modifier PaymentSelector ReceivableSelector TransactionEntryID TransactionID""",
    String="""
        AccountBankAccountNumber AccountCode AccountContactName AccountCountry AccountName BankAccountNumber
        CashflowTransactionBatchCode CreatorFullName Currency Description DirectDebitMandateDescription
        DirectDebitMandateReference DocumentSubject EndToEndID GLAccountCode GLAccountDescription Journal JournalDescription
        ModifierFullName PaymentCondition PaymentConditionDescription PaymentInformationID PaymentMethod PaymentReference
        PaymentSelectorFullName ReceivableSelectorFullName YourRef""",
    Double="""
        AmountDC AmountDiscountDC AmountDiscountFC AmountFC PaymentDiscountPercentage RateFC TransactionAmountDC
        TransactionAmountFC""",
    Int16="""
        ApprovalStatus DirectDebitMandatePaymentType DirectDebitMandateType EndPeriod EndYear LineType Status
        TransactionReportingPeriod TransactionReportingYear TransactionStatus""",
    DateTime="""
        Created DiscountDueDate DueDate EndDate EntryDate InvoiceDate LastPaymentDate Modified PaymentSelected
        ReceivableSelected TransactionDueDate""",
    Int32="""
        Division DocumentNumber EntryNumber InvoiceNumber OrderNumber PaymentBatchNumber PaymentDays PaymentDaysDiscount
        ReceivableBatchNumber Source TransactionType""",
    Byte="IsBatchBooking",
    Boolean="IsFullyPaid TransactionIsReversal",
)

DELETED = _fields(
    Int64="Timestamp",
    Guid="DeletedBy EntityKey ID",
    DateTime="DeletedDate",
    Int32="Division EntityType",
)

SYNC_TIMESTAMP = _fields(
    DateTime="Modified",
    String="API",
    Int64="TimeStampAsBigInt",
)

WEBHOOKS = _fields(
    Guid="ID ClientID Creator UserID",
    String="CallbackURL CreatorFullName Description Topic",
    DateTime="Created",
    Int32="Division",
    Boolean="IsInstant",
)

HRM_DIVISIONS = _vary(
    DIVISIONS,
    without="""
        AddressLine1 AddressLine2 AddressLine3 BusinessTypeCode BusinessTypeDescription ChamberOfCommerceEstablishment
        ChamberOfCommerceNumber City CompanySizeCode CompanySizeDescription Current DatevAccountantNumber
        DatevClientNumber DivisionHRLinkUnlinkDate DivisionMoveDate Email Fax Hid IsDossierDivision IsHRDivision
        IsMainDivision IsPracticeDivision Legislation Phone Postcode SbiCode SbiDescription SectorCode
        SectorDescription ShareCapital State SubsectorCode SubsectorDescription""",
    String="CountryDescription CurrencyDescription", Int64="HID", Boolean="Main", Int16="Status")

SYNC_HEADERS = _vary(
    ORDERS, without="SalesOrderLines SalesOrderOrderChargeLines TaxSchedule TaxScheduleCode TaxScheduleDescription",
    Int64="Timestamp", Guid="ID Project", Double="VATAmount",
    String="Notes ProjectCode ProjectDescription ShippingMethodCode VATCode VATCodeDescription")

BULK_LINES = _vary(
    ORDER_LINES, without="""DeliveryStatus InvoiceStatus Margin OrderStatus QuantityDelivered QuantityInvoiced
        TaxSchedule TaxScheduleCode TaxScheduleDescription""")

SYNC_LINES = _vary(
    ORDER_LINES, without="OrderStatus TaxSchedule TaxScheduleCode TaxScheduleDescription",
    Int64="Timestamp", DateTime="Created Modified", Guid="Creator Modifier", Int16="Status", Int32="ShopOrderNumber",
    String="CreatorFullName DeliveryStatusDescription InvoiceStatusDescription ModifierFullName ProjectCode StatusDescription")

RECEIVABLES = _vary(TERMS, without="""Timestamp ApprovalStatus LineType PaymentBatchNumber PaymentSelected
    PaymentSelector PaymentSelectorFullName""")

# --- what may be filtered --------------------------------------------------------

ACCOUNT_FILTER = """ID Accountant AccountManager AddressLine1 AddressLine2 AddressLine3 Blocked BRIN BSN ChamberOfCommerce City
    Classification Classification1 Classification2 Classification3 Classification4 Classification5 Classification6
    Classification7 Classification8 Code CodeAtSupplier Country Created Email EndDate EORINumber Fax InvoiceAccount
    IsAccountant IsReseller IsSales IsSupplier MainContact Modified Name Parent Phone Postcode PriceList Reseller RSIN
    SearchCode StartDate Status Type VATNumber"""

ITEM_FILTER = """ID Barcode Class_01 Class_02 Class_03 Class_04 Class_05 Class_06 Class_07 Class_08 Class_09 Class_10 Code
    CostPriceNew Created Description EndDate ExtraDescription FreeBoolField_01 FreeBoolField_02 FreeBoolField_03
    FreeBoolField_04 FreeBoolField_05 FreeDateField_01 FreeDateField_02 FreeDateField_03 FreeDateField_04
    FreeDateField_05 FreeNumberField_01 FreeNumberField_02 FreeNumberField_03 FreeNumberField_04 FreeNumberField_05
    FreeNumberField_06 FreeNumberField_07 FreeNumberField_08 FreeTextField_01 FreeTextField_02 FreeTextField_03
    FreeTextField_04 FreeTextField_05 FreeTextField_06 FreeTextField_07 FreeTextField_08 FreeTextField_09
    FreeTextField_10 GLCosts GLCostsWorkInProgress GLRevenue GLRevenueWorkInProgress GLStock IsBatchItem
    IsFractionAllowedItem IsMakeItem IsPurchaseItem IsSalesItem IsSerialItem IsStockItem IsSubcontractedItem IsTime
    IsWebshopItem ItemGroup ItemGroupCode Modified NetWeightUnit SalesVatCode SearchCode StartDate Unit"""

ORDER_FILTER = """OrderID ApprovalStatus Approver Created DeliverTo DeliverToContactPerson DeliveryAddress DeliveryDate
    DeliveryStatus Description Document InvoiceStatus InvoiceTo InvoiceToContactPerson Modified OrderDate OrderedBy
    OrderedByContactPerson OrderNumber PaymentReference Salesperson SelectionCode ShippingMethod Status TaxSchedule
    WarehouseID YourRef"""

BULK_LINE_FILTER = """ID CostCenter CostUnit DeliveryDate Description Item ItemVersion LineNumber OrderID OrderNumber
    Pricelist Project ShopOrder UseDropShipment VATCode"""

LINE_FILTER = BULK_LINE_FILTER + " DeliveryStatus InvoiceStatus OrderStatus"

INVOICE_FILTER = """InvoiceID Created DeliverTo DeliverToAddress DeliverToContactPerson Description Document InvoiceDate
    InvoiceNumber InvoiceTo InvoiceToContactPerson Journal Modified OrderedBy OrderedByContactPerson OrderNumber
    PaymentReference Salesperson SelectionCode Status TaxSchedule Type Warehouse YourRef"""

INVOICE_LINE_FILTER = """ID CostCenter CostUnit Description Employee GLAccount InvoiceID Item LineNumber Pricelist Project
    SalesOrder SalesOrderLine Subscription TaxSchedule VATCode"""

RECEIVABLE_FILTER = """Account Document EndDate EndToEndID EntryDate EntryID GLAccount ID InvoiceDate InvoiceNumber Source
    Status TransactionID TransactionType"""

# No closed list is published for the single contact endpoint; these are the ones clients use.
CONTACT_FILTER = """ID Account BusinessEmail Code Created Email EndDate FirstName FullName HID IsMainContact LastName
    Modified Person StartDate"""

BULK_CONTACT_FILTER = "Account ID IdentificationDocument IdentificationUser Person"

CONTACT_WRITE = """BirthDate BirthName BirthNamePrefix BirthPlace BusinessEmail BusinessFax BusinessMobile BusinessPhone
    BusinessPhoneExtension Email EndDate FirstName Gender HID IdentificationDate IdentificationDocument
    IdentificationUser Initials IsMailingExcluded JobTitleDescription Language LastName LeadPurpose LeadSource
    MarketingNotes MiddleName Mobile Nationality Notes Person Phone Picture PictureName SocialSecurityNumber StartDate
    Title""".split()

# --- endpoints ---------------------------------------------------------------------


class Endpoint:
    """What one path accepts. kind: single, bulk, sync, function, me."""

    def __init__(self, path, table, fields, key, scope, kind, select=None, filter_fields=None, must_filter=False,
                 type_name=None):
        self.path = path
        self.table = table                      # name of the table in exact_store.Store
        self.fields = fields                    # {name: Edm type}
        self.key = key
        self.scope = scope                      # as the 403 text names it; None = no scope needed
        self.kind = kind
        self.select = select                    # None, "needed" ($select or $top=1) or "no star"
        self.filterable = frozenset(filter_fields.split()) if filter_fields is not None else None
        self.must_filter = must_filter
        self.type_name = type_name or "Exact.Web.Api.Models." + path.rsplit("/", 1)[-1].rstrip("s")
        self.page_size = {"single": 60, "me": 60, "bulk": 1000, "sync": 1000, "function": None}[kind]


def _sync(path, table, fields, scope, select=None, filter_fields="Timestamp"):
    fields = fields if "Timestamp" in fields else _vary(fields, Int64="Timestamp")
    return Endpoint("sync/" + path, table, fields, "Timestamp", scope, "sync", select, filter_fields,
                    type_name="Exact.Web.Api.Models.Sync." + path.rsplit("/", 1)[-1].rstrip("s"))


def _bulk(path, table, fields, key, scope, filter_fields):
    return Endpoint("bulk/" + path, table, fields, key, scope, "bulk", "needed", filter_fields)


def _single(path, table, fields, key, scope, filter_fields=None, must_filter=False, select="needed"):
    return Endpoint(path, table, fields, key, scope, "single", select, filter_fields, must_filter)


ORG, CRM, ITEM, PRICE = "organization.administration", "crm.accounts", "logistics.items", "sales.prices"
SALES, INVOICE, PAYROLL = "sales.orders", "sales.invoices", "hrm.payroll"
RECEIVABLE, CASHFLOW = "financial.receivables", "financial.cashflow"
SCOPES = (ORG, CRM, ITEM, PRICE, SALES, INVOICE, PAYROLL, RECEIVABLE, CASHFLOW)

_ALL = [
    Endpoint("current/Me", "Me", ME, "UserID", None, "me"),
    _single("system/Divisions", "Divisions", DIVISIONS, "Code", ORG, select=None),
    _single("hrm/Divisions", "Divisions", HRM_DIVISIONS, "Code", ORG, select=None),
    _single("payroll/Employees", "Employees", EMPLOYEES, "ID", PAYROLL),
    _sync("Payroll/Employees", "Employees", _vary(EMPLOYEES, "ActiveEmployment CASONumber Municipality"), PAYROLL),
    _single("crm/Accounts", "Accounts", ACCOUNTS, "ID", CRM, ACCOUNT_FILTER, True),
    _bulk("CRM/Accounts", "Accounts", ACCOUNTS, "ID", CRM, ACCOUNT_FILTER),
    _sync("CRM/Accounts", "Accounts", ACCOUNTS, CRM),
    _single("crm/Contacts", "Contacts", CONTACTS, "ID", CRM, CONTACT_FILTER, True),
    _bulk("CRM/Contacts", "Contacts", CONTACTS, "ID", CRM, BULK_CONTACT_FILTER),
    _sync("CRM/Contacts", "Contacts", CONTACTS, CRM, "no star"),
    _single("logistics/Items", "Items", ITEMS, "ID", ITEM, ITEM_FILTER, True),
    _bulk("Logistics/Items", "Items", ITEMS, "ID", ITEM, ITEM_FILTER),
    _sync("Logistics/Items", "Items", _vary(ITEMS, "IsBatchNumberItem IsSerialNumberItem StandardSalesPrice"), ITEM,
          "no star"),
    _single("logistics/ItemGroups", "ItemGroups", ITEM_GROUPS, "ID", ITEM, select=None),
    _single("logistics/SalesItemPrices", "SalesItemPrices", PRICES, "ID", PRICE),
    _bulk("Logistics/SalesItemPrices", "SalesItemPrices", PRICES, "ID", PRICE, None),
    _sync("Logistics/SalesItemPrices", "SalesItemPrices", PRICES, PRICE, "no star"),
    _single("salesorder/SalesOrders", "Orders", ORDERS, "OrderID", SALES, ORDER_FILTER, True),
    _single("salesorder/SalesOrderLines", "OrderLines", ORDER_LINES, "ID", SALES, LINE_FILTER, True),
    _bulk("SalesOrder/SalesOrders", "Orders", _vary(ORDERS, "SalesOrderOrderChargeLines"), "OrderID", SALES, ORDER_FILTER),
    _bulk("SalesOrder/SalesOrderLines", "OrderLines", BULK_LINES, "ID", SALES, BULK_LINE_FILTER),
    _sync("SalesOrder/SalesOrderHeaders", "Orders", SYNC_HEADERS, SALES),
    _sync("SalesOrder/SalesOrderLines", "OrderLines", SYNC_LINES, SALES),
    _single("salesinvoice/SalesInvoices", "Invoices", INVOICES, "InvoiceID", INVOICE, INVOICE_FILTER, True),
    _single("salesinvoice/SalesInvoiceLines", "InvoiceLines", INVOICE_LINES, "ID", INVOICE, INVOICE_LINE_FILTER, True),
    _bulk("SalesInvoice/SalesInvoices", "Invoices", _vary(INVOICES, "SalesInvoiceOrderChargeLines"), "InvoiceID", INVOICE,
          INVOICE_FILTER),
    _bulk("SalesInvoice/SalesInvoiceLines", "InvoiceLines", INVOICE_LINES, "ID", INVOICE, INVOICE_LINE_FILTER),
    _sync("SalesInvoice/SalesInvoices", "InvoiceStream", INVOICE_STREAM, INVOICE),
    _sync("Cashflow/PaymentTerms", "PaymentTerms", TERMS, CASHFLOW),
    _single("cashflow/Receivables", "PaymentTerms", RECEIVABLES, "ID", RECEIVABLE, RECEIVABLE_FILTER),
    _bulk("Cashflow/Receivables", "PaymentTerms", RECEIVABLES, "ID", RECEIVABLE, RECEIVABLE_FILTER),
    _sync("Deleted", "Deleted", DELETED, ORG, filter_fields="Timestamp EntityType"),
    Endpoint("read/sync/Sync/SyncTimestamp", "SyncTimestamp", SYNC_TIMESTAMP, None, ORG, "function"),
    _single("webhooks/WebhookSubscriptions", "WebhookSubscriptions", WEBHOOKS, "ID", ORG, select=None),
]

ENDPOINTS = {endpoint.path: endpoint for endpoint in _ALL}

# EntityType of sync/Deleted per table
DELETED_TYPES = {"Accounts": 2, "Contacts": 5, "SalesItemPrices": 8, "Items": 9, "PaymentTerms": 10, "Invoices": 13,
                 "InvoiceLines": 13, "Orders": 32, "OrderLines": 33, "Employees": 42}

# Names that read/sync/Sync/SyncTimestamp accepts, and the table behind each
SYNC_TIMESTAMP_NAMES = {"SalesOrderHeaders": "Orders", "SalesOrderLines": "OrderLines", "SalesInvoices": "InvoiceStream",
                        "GoodsDeliveries": None, "GoodsDeliveryLines": None, "TransactionLines": None,
                        "QuotationHeaders": None, "QuotationLines": None, "Projects": None}

# Status, DeliveryStatus and InvoiceStatus of orders and order lines
STATUS_TEXT = {12: "Open", 20: "Gedeeltelijk", 21: "Volledig", 45: "Geannuleerd"}
