"""Pipedrive's rules for request bodies and query strings: names, JSON types, formats, value ranges.

Belongs here: the body schemas of each endpoint, the check of one value, the check of custom field values, the error answers.
Does not belong here: anything that needs stored records (does this organization exist?): pipedrive.py asks the store.
Why: version 2 refuses a whole request for one wrong key or type; the client must meet that here and not in production.
"""

import re
from datetime import date, datetime, timezone
from decimal import Decimal

from httpd import Response

INFO = "Please check developers.pipedrive.com"
MISSING = object()
DATE = re.compile(r"\d{4}-\d{2}-\d{2}\Z")
DATETIME = re.compile(r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}:\d{2})(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})?\Z")
CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?\Z")

FREQUENCIES = ("one-time", "annually", "semi-annually", "quarterly", "monthly", "weekly")
ADDRESS_PARTS = ("value", "country", "admin_area_level_1", "admin_area_level_2", "locality", "sublocality", "route",
                 "street_number", "subpremise", "postal_code")
FIELD_TYPES = ("varchar", "text", "double", "phone", "date", "daterange", "time", "timerange", "set", "enum",
               "varchar_auto", "address", "monetary", "org", "people", "user")
SEARCHABLE = ("address", "varchar", "text", "varchar_auto", "double", "monetary", "phone")


class Invalid(Exception):
    """A request that is answered with an error; carries the answer."""

    def __init__(self, response):
        super().__init__(response.status)
        self.response = response


def failed(*messages):
    """The answer for a body or query that breaks the schema."""
    return Response(400, {"success": False, "error": "Validation failed: " + "; ".join(messages),
                          "code": "ERR_SCHEMA_VALIDATION_FAILED"})


def refused(status, error, info=INFO, **more):
    body = {"success": False, "error": error, "error_info": info, "data": None, "additional_data": None}
    body.update(more)
    return Response(status, body)


def not_found():
    return refused(404, "Entity was not found", "Object was not found.")


# --- single values -------------------------------------------------------------


def is_integer(value):
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value()
                                      and abs(value) < 10 ** 15)


def is_number(value):
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        return False
    return abs(value) < 10 ** 15        # more digits would not survive a JavaScript number with cents


def parse_date(text):
    if not isinstance(text, str) or not DATE.match(text):
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def parse_datetime(text, fractions=True):
    """An aware UTC datetime of an RFC 3339 text, or None."""
    found = DATETIME.match(text) if isinstance(text, str) else None
    if not found or (found.group(3) and not fractions):
        return None
    try:
        moment = datetime.fromisoformat("%s %s%s" % (found.group(1), found.group(2),
                                                     "+00:00" if found.group(4) in (None, "Z") else found.group(4)))
        return moment.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


def check_address(value):
    if not isinstance(value, dict):
        return "Expected 'object'"
    for name, part in value.items():
        if name not in ADDRESS_PARTS:
            return "Parameter '%s' is not allowed for this request" % name
        if part is not None and not isinstance(part, str):
            return "%s: Expected 'string'" % name
    return None


def check_contacts(value):
    """emails, phones, im of a person."""
    if not isinstance(value, list):
        return "Expected 'array'"
    for item in value:
        if not isinstance(item, dict) or not isinstance(item.get("value"), str):
            return "Expected objects with 'value'"
        for name, part in item.items():
            if name not in ("value", "primary", "label"):
                return "Parameter '%s' is not allowed for this request" % name
            if name == "primary" and not isinstance(part, bool):
                return "primary: Expected 'boolean'"
            if name == "label" and not isinstance(part, str):
                return "label: Expected 'string'"
    if sum(1 for item in value if item.get("primary")) > 1:
        return "At most one item may be primary"
    return None


def check_prices(value):
    if not isinstance(value, list):
        return "Expected 'array'"
    seen = set()
    for item in value:
        if not isinstance(item, dict):
            return "Expected 'object'"
        for name, part in item.items():
            if name not in ("currency", "price", "cost", "direct_cost", "notes"):
                return "Parameter '%s' is not allowed for this request" % name
            if name in ("price", "cost", "direct_cost") and not is_number(part):
                return "%s: Expected 'number'" % name
            if name == "notes" and not isinstance(part, str):
                return "notes: Expected 'string'"
        currency = item.get("currency")
        if not isinstance(currency, str):
            return "currency: Parameter 'currency' is required"
        if currency in seen:
            return "There can only be one price per currency"
        seen.add(currency)
    return None


def check_integers(value):
    if not isinstance(value, list):
        return "Expected 'array'"
    return None if all(is_integer(item) for item in value) else "Expected 'integer' items"


def _string(value):
    return None if isinstance(value, str) else "Expected 'string'"


def _integer(value):
    return None if is_integer(value) else "Expected 'integer'"


def _number(value):
    return None if is_number(value) else "Expected 'number'"


def _boolean(value):
    return None if isinstance(value, bool) else "Expected 'boolean'"


def _object(value):
    return None if isinstance(value, dict) else "Expected 'object'"


def _array(value):
    return None if isinstance(value, list) else "Expected 'array'"


def _date(value):
    return None if parse_date(value) else "Expected a date in format YYYY-MM-DD"


def _datetime(value):
    return None if parse_datetime(value) else "Expected a valid datetime"


CHECKS = {"string": _string, "integer": _integer, "number": _number, "boolean": _boolean, "object": _object, "array": _array,
          "date": _date, "datetime": _datetime, "address": check_address, "contacts": check_contacts,
          "prices": check_prices, "integers": check_integers}


def check_value(kind, value):
    """kind: a name of CHECKS, with '?' for nullable, with ':N' for the longest string, or a tuple of allowed values."""
    if isinstance(kind, tuple):
        return None if isinstance(value, str) and value in kind else "Expected one of %s" % ", ".join(kind)
    nullable = kind.endswith("?")
    if nullable:
        if value is None:
            return None
        kind = kind[:-1]
    kind, _, longest = kind.partition(":")
    message = CHECKS[kind](value)
    if message is None and longest and len(value) > int(longest):
        return "String must contain at most %s character(s)" % longest
    return message


def check_body(body, schema, required=()):
    """Raises Invalid with all messages joined; returns nothing."""
    if not isinstance(body, dict):
        raise Invalid(failed("body: Expected 'object'"))
    messages = []
    for name in required:
        if name not in body:
            messages.append("%s: Parameter '%s' is required" % (name, name))
    for name, value in body.items():
        kind = schema.get(name)
        if kind is None:
            messages.append("%s: Parameter '%s' is not allowed for this request" % (name, name))
            continue
        message = check_value(kind, value)
        if message is not None:
            messages.append("%s: %s" % (name, message))
    if messages:
        raise Invalid(failed(*messages))


# --- schemas ---------------------------------------------------------------------

DEAL = {
    "title": "string:255", "owner_id": "integer", "person_id": "integer?", "org_id": "integer?", "pipeline_id": "integer",
    "stage_id": "integer", "value": "number", "currency": "string", "is_deleted": "boolean", "is_archived": "boolean",
    "archive_time": "string", "status": ("open", "won", "lost"), "probability": "number?", "lost_reason": "string?",
    "visible_to": "integer", "close_time": "datetime?", "won_time": "datetime", "lost_time": "datetime",
    "expected_close_date": "date", "label_ids": "integers", "custom_fields": "object",
}
ORGANIZATION = {
    "name": "string:255", "owner_id": "integer", "visible_to": "integer", "label_ids": "integers", "address": "address",
    "website": "string?", "linkedin": "string?", "industry": "integer?", "annual_revenue": "integer?",
    "employee_count": "integer?", "custom_fields": "object",
}
PERSON = {
    "name": "string:255", "owner_id": "integer", "org_id": "integer?", "emails": "contacts", "phones": "contacts",
    "visible_to": "integer", "label_ids": "integers", "postal_address": "address", "notes": "string", "im": "contacts",
    "birthday": "date", "job_title": "string", "marketing_status": ("no_consent", "unsubscribed", "subscribed", "archived"),
    "custom_fields": "object",
}
PRODUCT = {
    "name": "string:255", "code": "string:255", "description": "string", "unit": "string:255", "tax": "number",
    "category": "number", "owner_id": "integer", "is_linkable": "boolean", "visible_to": "integer", "prices": "prices",
    "custom_fields": "object", "billing_frequency": FREQUENCIES, "billing_frequency_cycles": "integer?",
}
LINE = {
    "product_id": "integer", "item_price": "number", "quantity": "number", "tax": "number", "comments": "string",
    "discount": "number", "is_enabled": "boolean", "tax_method": ("exclusive", "inclusive", "none"),
    "discount_type": ("percentage", "amount"), "product_variation_id": "integer?", "billing_frequency": FREQUENCIES,
    "billing_frequency_cycles": "integer?", "billing_start_date": "date?",
}
LINE_REQUIRED = ("product_id", "item_price", "quantity")
DISCOUNT = {"description": "string", "amount": "number", "type": ("percentage", "amount")}
PIPELINE = {"name": "string:255", "is_deal_probability_enabled": "boolean"}
STAGE = {"name": "string:255", "pipeline_id": "integer", "deal_probability": "integer", "is_deal_rot_enabled": "boolean",
         "days_to_rotten": "integer"}
FIELD_UPDATE = {"field_name": "string:255", "ui_visibility": "object", "important_fields": "object", "required_fields": "object"}
FIELD_CREATE = dict(FIELD_UPDATE, field_type=FIELD_TYPES, options="array")
BODIES = {"deals": DEAL, "organizations": ORGANIZATION, "persons": PERSON, "products": PRODUCT}
NAME_FIELD = {"deals": "title", "organizations": "name", "persons": "name", "products": "name"}

LIST = ("filter_id", "ids", "owner_id", "updated_since", "updated_until", "sort_by", "sort_direction", "include_fields",
        "custom_fields", "include_option_labels", "include_labels", "limit", "cursor")
QUERIES = {
    "deals": LIST + ("person_id", "org_id", "pipeline_id", "stage_id", "status"),
    "organizations": LIST,
    "persons": LIST + ("org_id", "deal_id"),
    "products": ("owner_id", "ids", "filter_id", "cursor", "limit", "sort_by", "sort_direction", "updated_since",
                 "custom_fields"),
}
GET_ONE = {"deals": ("include_fields", "custom_fields", "include_option_labels", "include_labels"),
           "organizations": ("include_fields", "custom_fields", "include_option_labels", "include_labels"),
           "persons": ("include_fields", "custom_fields", "include_option_labels", "include_labels"),
           "products": ()}
SORTS = {"products": ("id", "name", "add_time", "update_time"), "stages": ("id", "update_time", "add_time", "order_nr"),
         "lines": ("id", "add_time", "update_time", "order_nr", "deal_id")}
SORT = ("id", "update_time", "add_time")


def check_query(query, allowed):
    unknown = [name for name in query if name not in allowed]
    if unknown:
        raise Invalid(failed(*("%s: Parameter '%s' is not allowed for this request" % (name, name) for name in unknown)))


def query_integer(query, name, default=None, low=None, high=None):
    text = query.get(name)
    if text is None:
        return default
    if not re.match(r"-?\d{1,18}\Z", text):
        raise Invalid(failed("%s: Expected 'integer'" % name))
    value = int(text)
    if (low is not None and value < low) or (high is not None and value > high):
        raise Invalid(failed("%s: Expected a value between %s and %s" % (name, low, high)))
    return value


def query_ids(query, name, most=100):
    text = query.get(name)
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(re.match(r"\d{1,18}\Z", part) for part in parts):
        raise Invalid(failed("%s: Expected a comma separated list of integers" % name))
    if len(parts) > most:
        raise Invalid(failed("%s: Array must contain at most %d element(s)" % (name, most)))
    return [int(part) for part in parts]


def query_moment(query, name):
    """The query's moment as text in the form that records carry."""
    text = query.get(name)
    if text is None:
        return None
    moment = parse_datetime(text, fractions=False)
    if moment is None or "T" not in text:
        raise Invalid(failed("%s: Parameter '%s' is not a valid datetime" % (name, name)))
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


# --- custom field values -----------------------------------------------------------


def _text_field(value, longest):
    if not isinstance(value, str):
        return "Expected 'string' as value"
    if value == "":
        return "Empty string is not allowed, use null to clear the value"
    if len(value) > longest:
        return "String must contain at most %d character(s)" % longest
    return None


def _parts_field(value, wanted, optional=()):
    if not isinstance(value, dict):
        return "Expected 'object' as value"
    for name in wanted:
        if name not in value:
            return "Expected '%s' in value" % name
    for name in value:
        if name not in wanted and name not in optional:
            return "Unknown key '%s' in value" % name
    return None


def check_custom(field, value):
    """The reason why value does not fit the field, or None. Links (user, org, people) are checked by the service."""
    kind = field.type
    if value is None:
        return None
    if kind in ("varchar", "varchar_auto", "phone"):
        return _text_field(value, 255)
    if kind == "text":
        return _text_field(value, 65000)
    if kind == "double":
        return None if is_number(value) else "Expected 'number' as value"
    if kind in ("user", "org", "people"):
        return None if is_integer(value) else "Expected 'integer' as value"
    if kind == "enum":
        if not is_integer(value):
            return "Expected 'integer' as value"
        return None if field.has_option(int(value)) else "Unknown option id as value"
    if kind == "set":
        if not isinstance(value, list):
            return "Expected 'array' as value"
        if not value:
            return "Empty array is not allowed, use null to clear the value"
        if not all(is_integer(item) and field.has_option(int(item)) for item in value):
            return "Unknown option id as value"
        return None
    if kind == "date":
        return None if parse_date(value) else "Expected a date in format YYYY-MM-DD as value"
    if kind == "monetary":
        message = _parts_field(value, ("value", "currency"))
        if message is None and not (is_number(value["value"]) and isinstance(value["currency"], str)):
            message = "Expected 'number' and 'string' in value"
        return message
    if kind == "daterange":
        message = _parts_field(value, ("value", "until"))
        if message is None and not (parse_date(value["value"]) and parse_date(value["until"])):
            message = "Expected dates in value"
        return message
    if kind in ("time", "timerange"):
        wanted = ("value",) if kind == "time" else ("value", "until")
        message = _parts_field(value, wanted, ("timezone_name", "timezone_id"))
        if message is None and not all(isinstance(value[name], str) and CLOCK.match(value[name]) for name in wanted):
            message = "Expected times in value"
        return message
    if kind == "address":
        return check_address(value)
    return "Unknown field type"
