"""Is the account what Exact says?  Record by record, from the simulated Exact to the simulated Pipedrive.

Belongs here: what must be there once the dust has settled, and what must not.
Does not belong here: any code or table of the extension.  How one order becomes one deal is worked out by
test/check_orders.py, which shares no code with what it judges either.
"""

import collections
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import check_orders                     # noqa: E402

Problem = collections.namedtuple("Problem", "what number deal text")
# what: missing, duplicate, wrong, extra, violation; number of the order and id of the deal where there is one


def once(what, records, key, problems):
    """Nothing is there twice; {key: record}."""
    found = {}
    for record in records:
        name = key(record)
        if name is None:
            problems.append(Problem("extra", None, None, "%s %s carries no Exact-ID" % (what, record["id"])))
        elif name in found:
            problems.append(Problem("duplicate", None, None, "%s %s: records %s and %s" % (what, name, found[name]["id"], record["id"])))
        else:
            found[name] = record
    return found


def judge(base, default_owner, deleted):
    """Everything that is wrong; deleted: {OrderID: number} of orders that are gone at Exact."""
    problems = []
    exact = check_orders.get(base, "/exact/state?entity=Accounts,Employees,Items")
    people = {}
    for raw in exact["Employees"]:
        people[raw.get("User")] = people[raw["ID"]] = (raw.get("FullName"), raw.get("BusinessEmail"))
    codes = {raw["ID"]: raw["Code"].strip() for raw in exact["Accounts"]}
    raws = check_orders.get(base, "/exact/orders")
    orders = [check_orders.whole_order(raw, codes) for raw in raws]
    account = check_orders.Account(base)
    checker = check_orders.Judge(account, people, default_owner, {})

    def exact_id(record):
        return record["fields"].get("Exact-ID")

    once("deal", account.deals, exact_id, problems)
    organizations = once("organization", account.organizations, exact_id, problems)
    products = once("product", account.products, exact_id, problems)

    known = set(deleted)
    for order in orders:
        known.add(order.guid)
        deals = account.by_guid.get(order.guid, [])
        if not deals:
            problems.append(Problem("missing", order.number, None, "order %s has no deal" % order.number))
        for difference in checker.order(order) if len(deals) == 1 else []:
            problems.append(Problem("wrong", order.number, deals[0]["id"], "order %s: %s" % (order.number, difference)))
    for deal in account.deals:
        guid = exact_id(deal)
        if guid not in known:
            problems.append(Problem("extra", None, deal["id"], "deal %s (%s) belongs to no order" % (deal["id"], deal["title"])))
        elif guid in deleted and (deal["status"], deal["lost_reason"]) != ("lost", "Verwijderd in Exact"):
            problems.append(Problem("wrong", deleted[guid], deal["id"], "order %s was deleted, its deal is %s" % (deleted[guid], deal["status"])))

    for raw in exact["Accounts"]:
        if raw["ID"] in organizations and organizations[raw["ID"]]["name"] != check_orders.tidy(raw.get("Name")):
            problems.append(Problem("wrong", None, None, "organization %s is called %r, should be %r" % (
                codes[raw["ID"]], organizations[raw["ID"]]["name"], raw.get("Name"))))
    for guid in {raw.get("OrderedBy") for raw in raws if raw.get("OrderedBy")} - set(organizations):
        problems.append(Problem("missing", None, None, "customer %s has no organization" % codes.get(guid, guid)))
    today = check_orders.datetime.fromisoformat(check_orders.get(base, "/clock")["now"].replace("Z", "+00:00")).date()
    wanted = check_orders.expected_items(base, orders, today)
    for raw in exact["Items"]:
        record = products.get(raw["ID"])
        if record is None:
            if raw["Code"] in wanted:
                problems.append(Problem("missing", None, None, "item %s has no product" % raw["Code"]))
        elif check_orders.tidy(record["name"]) != check_orders.tidy(raw.get("Description") or raw["Code"]):
            problems.append(Problem("wrong", None, None, "product %s is called %r, should be %r" % (
                raw["Code"], record["name"], raw.get("Description"))))
    guids = {raw["ID"] for raw in exact["Items"]} | {"00000000-0000-0000-0000-000000000000"}
    for guid, record in products.items():
        if guid not in guids:
            problems.append(Problem("extra", None, None, "product %s (%s) is no item" % (record["id"], record["name"])))
    for entry in check_orders.get(base, "/violations"):
        problems.append(Problem("violation", None, None, "violation at %s: %s" % (entry["side"], entry["text"])))
    figures = {"orders": len(orders), "deals": len(account.deals), "lines": sum(len(order.lines) for order in orders),
               "organizations": len(account.organizations), "products": len(account.products), "deleted orders": len(deleted)}
    return problems, figures
