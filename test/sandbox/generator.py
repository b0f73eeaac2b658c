"""Invents a Dutch wholesaler of decorative homeware and a year of its business.

Belongs here: customers, contacts, item groups, items, prices and orders with their life cycle; all drawn from one seeded
generator, so that the same options give the same company.
Does not belong here: invoices and payments of those orders (generator_invoices.py), orders from a file (orders_csv.py),
how anything is served.
Why: tests, demo and benchmarks need data that looks and misbehaves like a real ERP: returns, text lines, zero prices,
header discounts, back orders, hundreds of lines, people who left.
"""

import random
from datetime import timedelta
from decimal import Decimal

import exact_time
from exact_store import Account, Item, Line, Order, Price, Row, Store
from generator_invoices import Invoicer
from people import CONSENT_USER, PEOPLE

GROUPS = [
    ("KRS26", "Kerst 2026"), ("KRS25", "Kerst 2025"), ("TERRA", "Terracotta"), ("GLAS", "Glaswerk"),
    ("KAARS", "Kaarsen & lantaarns"), ("TEXT", "Kussens en plaids"), ("VAAS", "Vazen"), ("MAND", "Manden & rotan"),
    ("TUIN", "Tuindecoratie"), ("SPIEG", "Spiegels & wanddecoratie"), ("SERV", "Servies \"Noord\""), ("CADEAU", "Cadeauverpakking"),
]
NOUNS = {
    "KRS26": ["Kerstbal", "Kerstster", "Notenkraker", "Krans dennengroen", "Lichtslinger"],
    "KRS25": ["Kerstbal", "Rendier", "Kerstkrans", "Engel"], "TERRA": ["Pot", "Schaal", "Amfora", "Plantenbak"],
    "GLAS": ["Windlicht", "Karaf", "Stolp", "Waterglas"], "KAARS": ["Stompkaars", "Dinerkaars", "Lantaarn", "Theelichthouder"],
    "TEXT": ["Kussen", "Plaid", "Vloerkleed", "Kussenhoes"], "VAAS": ["Vaas", "Kruikvaas", "Bolvaas"],
    "MAND": ["Mand", "Wasmand", "Rotan schaal", "Plantenmand"], "TUIN": ["Tuinbeeld", "Vogelhuis", "Tuinsteker", "Vuurschaal"],
    "SPIEG": ["Spiegel", "Wandpaneel", "Fotolijst"], "SERV": ["Bord", "Mok", "Kom", "Schotel"],
    "CADEAU": ["Cadeaupapier", "Lint", "Geschenkdoos"],
}
LOOKS = ["zwart mat", "ivoor", "oker", "salie", "terra", "goud", "petrol", "naturel", "crème", "antraciet", "koper", "helder"]
SIZES = ["S", "M", "L", "XL", "Ø 12 cm", "Ø 24 cm", "30 x 40 cm", "set van 3", "H 45 cm", "H 90 cm"]
NL_KINDS = ["Tuincentrum", "Groencentrum", "Woonwinkel", "Bloemenhuis", "Cadeauhuis", "Interieurstudio", "Kwekerij", "Landgoedwinkel"]
NL_NAMES = ["De Boer", "Van den Berg", "Hoogeveen", "'t Zand", "De Linde", "Rozenhof", "Kloosterman", "Van der Meer", "De Oude Molen",
            "Zonneveld", "Westerlaken", "Bakker & Zn.", "Het Gooi", "D'n Hof", "De Wilgen", "Ypenburg", "Smits", "Jansen & Co"]
NL_PLACES = [("Utrecht", "3511"), ("Zwolle", "8011"), ("Breda", "4811"), ("Haarlem", "2011"), ("'s-Hertogenbosch", "5211"),
             ("Groningen", "9711"), ("Leeuwarden", "8911"), ("Arnhem", "6811"), ("Venlo", "5911"), ("Alkmaar", "1811"),
             ("Middelburg", "4331"), ("Hoogeveen", "7901"), ("Aalsmeer", "1431"), ("Enschede", "7511")]
NL_STREETS = ["Dorpsstraat", "Kerkweg", "Industrieweg", "Lange Nieuwstraat", "Molenpad", "Hoofdweg", "Parallelweg", "Korte Vliet"]
DE_KINDS = ["Gartencenter", "Blumen", "Wohnhaus", "Dekohaus", "Pflanzenhof", "Geschenkstube"]
DE_NAMES = ["Müller", "Schäfer", "Großmann", "Böhm", "Lindenhof", "Köhler", "Am Rhein", "Weber & Söhne", "Rosengarten"]
DE_PLACES = [("Köln", "50667"), ("Münster", "48143"), ("Düsseldorf", "40213"), ("Osnabrück", "49074"), ("Aachen", "52062"),
             ("Oldenburg", "26122"), ("Hamburg", "20095"), ("Kleve", "47533")]
DE_STREETS = ["Hauptstraße", "Gartenweg", "Lindenallee", "Bahnhofstraße", "Am Markt"]
FIRST_NAMES = ["Joost", "Sanne", "Wim", "Els", "Noor", "Karin", "Jörg", "Heike", "René", "Daphne", "Ömer", "Lieke", "Uwe"]
LAST_NAMES = [("van", "Dijk"), (None, "Visser"), ("de", "Groot"), (None, "Schulz"), ("van der", "Veen"), (None, "Yilmaz"), (None, "Peters")]
REFERENCES = ["PO-%d", "%d", "Inkoop %d", "tel. best. %d", "Beurs %d", "mail d.d. %d"]
DISCOUNTS = [0.05, 0.1, 0.1, 0.125, 0.15, 0.2, 0.25]
DAY = 86400
# last two digits of an order number, modulo 50 -> what is odd about the order
ODD = {3: "return", 5: "nobody", 8: "unmapped", 11: "left", 14: "discount", 17: "text", 20: "zero quantity", 23: "sample",
       26: "trade-in", 29: "cancelled", 32: "back order", 35: "cancelled late", 38: "prepaid", 41: "dollars"}


class Generator:
    def __init__(self, store, clock, seed, options):
        self.store = store
        self.clock = clock
        self.random = random.Random("company %s" % seed)
        store.new_guid = self.guid
        self.now = clock.time()
        self.months = getattr(options, "months", None) or 12
        self.wanted = {"customers": getattr(options, "customers", None), "items": getattr(options, "items", None)}
        self.dated = []             # (modified ms, table, row), handed to the store at the end
        self.accounts, self.items, self.groups = [], [], []
        self.number = 100000        # last order number given
        self.code = 400
        self.invoicer = Invoicer(self)
        self.static()

    # --- small things -------------------------------------------------------------

    def guid(self):
        text = "%032x" % self.random.getrandbits(128)
        return "%s-%s-4%s-%s%s-%s" % (text[:8], text[8:12], text[13:16], "89ab"[int(text[16], 16) & 3], text[17:20], text[20:])

    def add(self, table, row, modified):
        self.dated.append((modified, table, row))
        return row

    def chance(self, share):
        return self.random.random() < share

    def stamps(self, seconds_ago):
        """Created and Modified of something that old."""
        made = exact_time.local_ms(self.now - seconds_ago) + self.random.randrange(1000)
        who = {"Creator": CONSENT_USER["exact_guid"], "CreatorFullName": CONSENT_USER["name"],
               "Modifier": CONSENT_USER["exact_guid"], "ModifierFullName": CONSENT_USER["name"]}
        return dict(who, Created=made, Modified=made, Division=self.store.division)

    # --- what never changes --------------------------------------------------------------------

    def static(self):
        store, division = self.store, self.store.division
        first, _, last = CONSENT_USER["name"].partition(" ")
        store.me = {"UserID": CONSENT_USER["exact_guid"], "EmployeeID": CONSENT_USER["employee_guid"], "Email": CONSENT_USER["email"],
                    "FullName": CONSENT_USER["name"], "FirstName": first, "LastName": last, "UserName": CONSENT_USER["email"],
                    "CurrentDivision": division, "AccountingDivision": division, "Language": "NL-NL", "LanguageCode": "nl-NL",
                    "Legislation": 1, "Gender": "V", "IsClientUser": False, "DivisionCustomerName": "Van der Linden Wonen B.V."}
        started = exact_time.day_ms(exact_time.day_of(exact_time.local_ms(self.now - 5 * 365 * DAY)))
        store["Divisions"].rows[division] = Row(division, {
            "Code": division, "Description": "Van der Linden Wonen B.V.", "Currency": "EUR", "CurrencyDescription": "Euro", "Country": "NL ",
            "CountryDescription": "Nederland", "City": "Utrecht", "Status": 1, "BlockingStatus": 0, "Current": True, "IsMainDivision": True,
            "Main": True, "StartDate": started, "Created": started, "Modified": started, "HID": 1, "Hid": 1, "Legislation": "NL",
            "DivisionMoveDate": None, "VATNumber": "NL001234567B01", "ChamberOfCommerceNumber": "12345678"})
        for place, person in enumerate(PEOPLE + [CONSENT_USER]):
            first, _, last = person["name"].partition(" ")
            stamps = self.stamps((900 - place) * DAY)
            self.add("Employees", Row(person["employee_guid"], dict(
                stamps, User=person["exact_guid"], UserFullName=person["name"], FullName=person["name"], FirstName=first, LastName=last,
                BusinessEmail=person["email"], Email=None, HID=place + 1, EmployeeHID=place + 1, Code="%18d" % (place + 1),
                IsActive=person.get("pipedrive") != "inactive", Country="NL ", Language="NL        ", StartDate=started, EndDate=None)),
                stamps["Modified"])
        for place, (code, name) in enumerate(GROUPS):
            stamps = self.stamps((880 - place) * DAY)
            group = Row(self.guid(), dict(stamps, Code=code, Description=name, IsDefault=int(place == 0), Notes=None))
            self.groups.append(self.add("ItemGroups", group, stamps["Modified"]))

    # --- master data -------------------------------------------------------------------------------

    def customer(self, name=None, code=None, country=None, age_days=None, **fields):
        """One account with its main contact."""
        draw = self.random
        german = country == "DE" if country else self.chance(0.3)
        place, postcode = draw.choice(DE_PLACES if german else NL_PLACES)
        if not german:
            postcode = "%s %s%s" % (postcode, draw.choice("ABCDEHKLX"), draw.choice("ABCDEGJKRZ"))
        kind, proper = (draw.choice(DE_KINDS), draw.choice(DE_NAMES)) if german else (draw.choice(NL_KINDS), draw.choice(NL_NAMES))
        legal = draw.choice([" GmbH", " e.K.", ""] if german else [" B.V.", "", " V.O.F."])
        self.code += draw.randint(1, 3)
        code = str(code if code is not None else self.code)
        name = name if name is not None else "%s %s %s%s" % (kind, proper, place, legal)
        manager = draw.choice(PEOPLE)
        stamps = self.stamps((age_days if age_days is not None else draw.randint(30, 1200)) * DAY)
        word = "klant%s" % code.strip().lower()
        key = self.guid()
        account = Account(key, dict(
            stamps, Code="%18s" % code, Name=name, Email="inkoop@%s.example" % word, Phone="%s %d" % ("+49 221" if german else "030 2",
                                                                                              draw.randint(100000, 999999)),
            Website="www.%s.example" % word, AddressLine1="%s %d" % (draw.choice(DE_STREETS if german else NL_STREETS), draw.randint(1, 240)),
            AddressLine2="Halle 3" if german and self.chance(0.1) else None, Postcode=postcode, City=place,
            Country="%-3s" % (country or ("DE" if german else "NL")), CountryName="Duitsland" if german else "Nederland",
            Language="%-10s" % ("DE" if german else "NL"), VATNumber="%s%09d%s" % (("DE", draw.randint(1, 10**9 - 1), "") if german else
                                                                             ("NL", draw.randint(1, 10**9 - 1), "B01")),
            ChamberOfCommerce=None if german else "%08d" % draw.randint(10**7, 10**8 - 1), Status="C", Type="A", IsSales=True,
            IsSupplier=False, IsPurchase=False, IsReseller=False, Blocked=False, AccountManager=manager["exact_guid"],
            AccountManagerFullName=manager["name"], AccountManagerHID=PEOPLE.index(manager) + 1, SalesCurrency="EUR",
            PaymentConditionSales="30 ", PaymentConditionSalesDescription="30 dagen netto", CreditLineSales=draw.choice([0, 5000, 25000]),
            DiscountSales=draw.choice([0, 0, 0, 0.055, 0.1]), SearchCode="%-20s" % name[:12].upper(),
            SalesVATCode="7  " if german else "2  ", StartDate=exact_time.day_ms(exact_time.day_of(stamps["Created"]))))
        account.d.update(fields)
        self.contact(account, True, stamps)
        self.accounts.append(account)
        return self.add("Accounts", account, stamps["Modified"])

    def contact(self, account, main, stamps):
        draw = self.random
        first, (middle, last) = draw.choice(FIRST_NAMES), draw.choice(LAST_NAMES)
        row = Row(self.guid(), dict(
            stamps, Account=account.id, FirstName=first, MiddleName=middle, LastName=last,
            FullName=" ".join(part for part in (first, middle, last) if part), BusinessEmail="%s.%s@%s" % (
                first.lower(), last.lower(), account.d["Email"].partition("@")[2]), BusinessPhone=account.d["Phone"],
            JobTitleDescription=draw.choice(["Inkoop", "Eigenaar", "Filiaalleider", None]), IsMainContact=main, AccountIsCustomer=True,
            AccountName=account.d["Name"], Language=account.d["Language"], Country=account.d["Country"], HID=self.code))
        if main:
            account.d["MainContact"] = row.id
        return self.add("Contacts", row, stamps["Modified"])

    def item(self, code=None, description=None, price=None, group=None, age_days=None, **fields):
        """One item with its general sales price."""
        draw = self.random
        group = group or draw.choice(self.groups)
        group_code = group.d["Code"]
        count = len(self.items) + 1
        description = description if description is not None else "%s %s %s" % (
            draw.choice(NOUNS.get(group_code, ["Artikel"])), draw.choice(LOOKS), draw.choice(SIZES))
        price = price if price is not None else draw.choice([0.95, 1.75, 2.49, 3.95, 4.5, 6.25, 8.95, 12.5, 17.95, 24.9, 39, 64.5, 119])
        unit = draw.choice(["pc", "pc", "pc", "box", "set"])
        stamps = self.stamps((age_days if age_days is not None else draw.randint(20, 800)) * DAY)
        day = exact_time.day_ms(exact_time.day_of(stamps["Created"]))
        row = Item(self.guid(), dict(
            stamps, Code=code or "%s-%04d" % (group_code[:3], count), Description=description, Barcode="87%011d" % draw.randrange(10**11),
            Unit=unit, UnitDescription={"pc": "Stuk", "box": "Doos", "set": "Set"}[unit], UnitType="O", IsSalesItem=True,
            IsStockItem=True, IsPurchaseItem=True, IsWebshopItem=int(self.chance(0.8)), IsBatchItem=0, IsSerialItem=False,
            IsFractionAllowedItem=False, CostPriceStandard=round(price * 0.45, 2), CostPriceNew=round(price * 0.46, 2),
            CostPriceCurrency="EUR", StandardSalesPrice=price, SalesVatCode="2  ", SalesVatCodeDescription="BTW hoog tarief, exclusief",
            Stock=draw.randint(-3, 900), StartDate=day, EndDate=None, Notes=None), group)
        row.d.update(fields)
        self.items.append(self.add("Items", row, stamps["Modified"]))
        self.price(row, price, stamps, day)
        return row

    def price(self, item, price, stamps, day, account=None, quantity=1, ends=None):
        row = Price(self.guid(), dict(
            stamps, Currency="EUR", Price=price, Quantity=quantity, Unit=item.d["Unit"], UnitDescription=item.d["UnitDescription"],
            DefaultItemUnit=item.d["Unit"], DefaultItemUnitDescription=item.d["UnitDescription"], NumberOfItemsPerUnit=1,
            StartDate=day, EndDate=ends), item, account)
        return self.add("SalesItemPrices", row, stamps["Modified"])

    def catalogue(self, orders):
        """All customers, items and prices for so many orders."""
        draw = self.random
        customers = self.wanted["customers"] or max(20, min(orders, orders // 5))
        items = self.wanted["items"] or max(60, min(2500, orders // 2))
        for place in range(customers):
            account = self.customer()
            if self.chance(0.4):
                self.contact(account, False, self.stamps(draw.randint(5, 300) * DAY))
            if place % 40 == 17:
                account.d["Blocked"] = True
            if place % 60 == 31:
                account.d["EndDate"] = exact_time.day_ms(exact_time.day_of(exact_time.local_ms(self.now - 100 * DAY)))
        for _ in range(max(3, customers // 20)):
            account = self.customer()               # relations that never order: prospects and suppliers
            account.d.update({"Status": draw.choice(["P", "S", None]), "IsSales": False, "IsSupplier": self.chance(0.5)})
            self.accounts.remove(account)
        for place in range(items):
            item = self.item()
            day, stamps = item.d["StartDate"], self.stamps(draw.randint(1, 19) * DAY)
            if place % 9 == 4:
                self.price(item, round(item.d["StandardSalesPrice"] * 0.9, 2), stamps, day, quantity=24)
            if place % 11 == 7:
                self.price(item, round(item.d["StandardSalesPrice"] * 0.85, 2), stamps, day, account=draw.choice(self.accounts))
            if place % 13 == 5:                     # a price that has ended
                self.price(item, round(item.d["StandardSalesPrice"] * 1.1, 2), stamps, day - 400 * exact_time.DAY_MS,
                           ends=day - exact_time.DAY_MS)
            if place % 50 == 29:
                item.d["EndDate"] = exact_time.day_ms(exact_time.day_of(exact_time.local_ms(self.now - 60 * DAY)))

    # --- orders ----------------------------------------------------------------------------------------

    def orders(self, count):
        if count <= 0:
            return
        self.catalogue(count)
        for moment, special in self.moments(count):
            self.order(moment, special)
        self.invoicer.finish()
        self.deletions()

    def moments(self, count):
        """Ascending order times over the months, busier before Christmas; some in the nights of the clock changes."""
        draw, span, times = self.random, self.months * 30.4 * DAY, []
        while len(times) < count:
            moment = self.now - draw.random() * span
            month = exact_time.naive(exact_time.local_ms(moment)).month
            if draw.random() < {9: 0.9, 10: 1.0, 11: 1.0, 12: 0.8, 1: 0.35, 7: 0.4, 8: 0.5}.get(month, 0.6):
                hour = draw.choice((8, 9, 10, 11, 13, 14, 15, 16, 20))
                times.append((min(self.now - 60, moment - moment % DAY + hour * 3600 + draw.randrange(3600)), None))
        year = exact_time.naive(exact_time.local_ms(self.now)).year
        nights = [second + shift for each in (year, year - 1) for second in exact_time._changes(each) for shift in (-1800, 1800)]
        nights = [second for second in nights if self.now - span < second < self.now - 60]
        for place, second in enumerate(nights[:max(0, count // 25)]):
            times[place] = (second, "night")
        return sorted(times, key=lambda pair: pair[0])

    def order(self, moment, special=None):
        """One order as it stands today: drawn by its age."""
        draw = self.random
        account = draw.choice(self.accounts[:max(1, len(self.accounts) // 5)] if self.chance(0.5) else self.accounts)
        person = None if self.chance(0.03) else draw.choice(PEOPLE if self.chance(0.4) else PEOPLE[:5])
        age = (self.now - moment) / DAY
        delivery, invoice, cancelled = self.fate(age)
        self.number += 1
        odd = ODD.get(self.number % 50)             # so that also a small company has every case
        delivery, invoice, cancelled = {"cancelled": (45, 45, True), "back order": (20, 20, False), "cancelled late": (20, 20, True),
                                        "prepaid": (12, 21, False)}.get(odd, (delivery, invoice, cancelled))
        person = {"nobody": None, "unmapped": PEOPLE[7], "left": PEOPLE[6]}.get(odd, person)
        returned = odd == "return" or self.chance(0.01)
        order = self.header(self.number, account, person, moment, currency="USD" if odd == "dollars" and self.number % 3 == 0 else "EUR")
        if odd == "discount" or self.chance(0.03):
            order.d["Discount"] = draw.choice([0.02, 0.05, 0.075, 0.1])
        lines = min(380, max(1, int(draw.lognormvariate(2.62, 0.95))))
        if self.number % 97 == 0:
            lines = draw.randint(101, 160)
        if returned:
            lines = draw.randint(1, 4)
        for place in range(1, lines + 1):
            self.line(order, place, returned)
        if odd in ("zero quantity", "sample", "trade-in"):
            self.line(order, len(order.lines) + 1, qty={"zero quantity": 0, "sample": 1, "trade-in": -2}[odd],
                      price=0 if odd == "sample" else None, disc=0)
        if (odd == "text" or self.chance(0.02)) and not returned:
            self.text_line(order, len(order.lines) + 1)
        self.store.total(order)
        self.progress(order, delivery, invoice, cancelled)
        changed = self.moment_of_change(order, moment, age)
        self.book(order, changed)
        self.invoicer.order(order, moment, changed)
        return order

    def header(self, order_number, account, person, moment, currency="EUR", **fields):
        """An order without lines; status Open."""
        draw = self.random
        created = exact_time.local_ms(moment) - draw.randrange(1000)
        day = exact_time.day_of(created)
        maker = person or CONSENT_USER
        order = Order(self.guid(), {
            "ID": self.guid(), "OrderNumber": order_number, "OrderDate": exact_time.day_ms(day),
            "DeliveryDate": exact_time.day_ms(day + timedelta(days=draw.choice((2, 3, 5, 7, 14, 30)))), "Currency": currency,
            "Status": 12, "DeliveryStatus": 12, "InvoiceStatus": 12, "ApprovalStatus": 1, "Discount": 0,
            "Salesperson": person and person["exact_guid"], "SalespersonFullName": person and person["name"],
            "YourRef": draw.choice(REFERENCES) % draw.randint(1000, 99999) if self.chance(0.7) else None,
            "Description": draw.choice(["Voorjaarsbestelling", "Nalevering beurs", "Kerstcollectie", None, None, None, "Opening filiaal"]),
            "Remarks": "Graag leveren vóór 10:00 uur\r\nachterom bij magazijn" if self.chance(0.04) else None,
            "PaymentCondition": "30 ", "PaymentConditionDescription": "30 dagen netto", "WarehouseCode": "1", "WarehouseDescription": "Magazijn",
            "OrderedByContactPerson": account.d.get("MainContact") if account else None, "Creator": maker["exact_guid"],
            "CreatorFullName": maker["name"], "Modifier": maker["exact_guid"], "ModifierFullName": maker["name"],
            "Created": created, "Modified": created, "Division": self.store.division}, account)
        order.rate = Decimal("0.92") if currency == "USD" else None
        order.d.update(fields)
        return order

    def line(self, order, place, returned=False, item=None, qty=None, price=None, disc=None):
        draw = self.random
        line = Line(self.guid(), order, place)
        line.item = item or draw.choice(self.items)
        line.qty = qty if qty is not None else draw.choice((1, 2, 3, 4, 6, 6, 12, 12, 24, 48, 96))
        line.price = price if price is not None else line.item.d.get("StandardSalesPrice") or 0
        roll = draw.random()
        if qty is None:
            if returned:
                line.qty = -line.qty
            elif roll < 0.004:
                line.qty = -1                       # a trade-in among ordinary lines
            elif roll < 0.008:
                line.qty = 0
            elif roll < 0.015 and price is None:
                line.price = 0                      # a sample
        if disc is not None:
            line.disc = disc
        elif self.chance(0.25):
            line.disc = draw.choice(DISCOUNTS)
        if order.account is not None and not (order.account.d.get("Country") or "NL").startswith("NL"):
            line.vat, line.pct = "7  ", 0
        line.due = order.d["DeliveryDate"]
        line.created = line.modified = order.d["Created"]
        Store.price_line(line)
        order.lines.append(line)
        return line

    def text_line(self, order, place):
        line = Line(self.guid(), order, place)
        line.desc = self.random.choice(["Let op: breekbaar", "Levering conform afspraak beurs", "Gratis display bij afname van 48 stuks"])
        line.due, line.created, line.modified = order.d["DeliveryDate"], order.d["Created"], order.d["Created"]
        order.lines.append(line)
        return line

    # --- life cycle ---------------------------------------------------------------------------------------

    def fate(self, age):
        """(delivery status, invoice status, cancelled) by age in days."""
        roll = self.random.random()
        if age > 45:
            shares = ((0.90, 21, 21, 0), (0.93, 20, 20, 0), (0.94, 21, 12, 0), (0.945, 20, 21, 0), (0.985, 45, 45, 1), (0.99, 20, 20, 1))
        elif age > 14:
            shares = ((0.58, 21, 21, 0), (0.74, 20, 20, 0), (0.82, 21, 12, 0), (0.92, 12, 12, 0), (0.93, 12, 21, 0), (0.97, 45, 45, 1))
        else:
            shares = ((0.45, 12, 12, 0), (0.65, 20, 12, 0), (0.80, 21, 12, 0), (0.94, 21, 21, 0), (0.96, 12, 21, 0), (0.98, 45, 45, 1))
        for limit, delivery, invoice, cancelled in shares:
            if roll < limit:
                return delivery, invoice, bool(cancelled)
        return 12, 12, False

    def progress(self, order, delivery, invoice, cancelled=False):
        """Brings header and lines to the given states, quantities included."""
        fields = order.d
        for kind, state in (("delivered", delivery), ("invoiced", invoice)):
            part = len(order.lines) // 2 if len(order.lines) > 1 else 0
            for place, line in enumerate(order.lines):
                if state == 21:
                    done = line.qty
                elif state == 20:
                    done = line.qty if place < part else line.qty // 2 if place == part and abs(line.qty) > 1 else 0
                else:
                    done = 0
                setattr(line, kind, done)
                own = 45 if state == 45 else 21 if done == line.qty and state in (20, 21) else 20 if done else 12
                setattr(line, "delivery" if kind == "delivered" else "invoice", own)
        fields["DeliveryStatus"], fields["InvoiceStatus"] = delivery, invoice
        fields["Status"] = 45 if cancelled else overall(delivery, invoice)
        for line in order.lines:
            line.status = 45 if cancelled else overall(line.delivery, line.invoice)

    def moment_of_change(self, order, moment, age):
        """When the order was last touched, as wall clock."""
        if order.d["Status"] == 12:
            return order.d["Modified"]
        later = min(age * DAY - 30, self.random.choice((1, 2, 4, 6, 9, 15, 25)) * DAY + self.random.randrange(30000))
        return exact_time.local_ms(moment + max(1, later)) + self.random.randrange(1000)

    def book(self, order, changed):
        order.d["Modified"] = changed
        self.add("Orders", order, changed)
        for line in order.lines:
            line.modified = changed if line.status != 12 else line.created
            self.dated.append((line.modified, "OrderLines", line))

    def deletions(self):
        """Some rows of sync/Deleted: known types, types to ignore, and one that is too old to be shown."""
        for days, kind in ((80, 32), (50, 2), (40, 5), (35, 9), (30, 33), (25, 6), (20, 8), (15, 99), (10, 13), (6, 10), (3, 48)):
            made = exact_time.local_ms(self.now - days * DAY)
            self.add("Deleted", Row(self.guid(), {"EntityType": kind, "EntityKey": self.guid(), "DeletedDate": made,
                                                  "DeletedBy": CONSENT_USER["exact_guid"], "Division": self.store.division}), made)

    def finish(self):
        self.store.load(self.dated)
        self.store.next_order_number = self.number + 1
        self.store.next_invoice_number = self.invoicer.number + 1
        self.dated = []


def overall(delivery, invoice):
    """Status follows from the other two."""
    if delivery == 45 and invoice == 45:
        return 45
    if delivery == 21 and invoice == 21:
        return 21
    if delivery == 12 and invoice == 12:
        return 12
    return 20
