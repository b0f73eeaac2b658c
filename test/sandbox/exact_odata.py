"""The OData subset that the simulated Exact Online accepts.

Belongs here: parsing $filter into a tree, checking it against an endpoint, turning it into a function over rows; parsing
$select, $expand and $orderby.
Does not belong here: where rows come from, paging, HTTP (exact.py).
Why: the real service refuses a lot (unknown names, closed lists of filterable fields, wrong literal types), and a client
must meet the same refusals here.
"""

import re

import exact_time

TOKEN = re.compile(r"""\s*(?:
    (?P<guid>guid'(?P<guid_text>[^']*)') |
    (?P<datetime>datetime'(?P<datetime_text>[^']*)') |
    (?P<string>'(?:[^']|'')*') |
    (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?P<suffix>[LlMmDdFf]?)(?![\w.]) |
    (?P<name>[A-Za-z_][A-Za-z0-9_]*(?:/[A-Za-z_][A-Za-z0-9_]*)*) |
    (?P<open>\() | (?P<close>\)) | (?P<comma>,))""", re.X)
GUID = re.compile(r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$")
OPERATORS = ("eq", "ne", "gt", "ge", "lt", "le")
FUNCTIONS = {"trim": 1, "substringof": 2, "startswith": 2, "endswith": 2, "tolower": 1, "toupper": 1}
MIRROR = {"gt": "lt", "lt": "gt", "ge": "le", "le": "ge", "eq": "eq", "ne": "ne"}
NUMERIC = ("Int16", "Int32", "Int64", "Double", "Byte")


class ODataError(ValueError):
    """The query is refused; the text goes into the 400 answer."""


# --- parsing -----------------------------------------------------------------------
# Nodes: ("and"|"or", left, right), ("not", x), (operator, left, right), ("call", name, args), ("field", name),
#        ("value", kind, value) with kind guid, datetime, string, number, bool, null


def tokens(text):
    found, place = [], 0
    text = text.strip()
    while place < len(text):
        match = TOKEN.match(text, place)
        if match is None:
            raise ODataError("Syntax error at position %d in '%s'." % (place, text))
        place = match.end()
        if match.group("guid") is not None:
            if not GUID.match(match.group("guid_text")):
                raise ODataError("Unrecognized 'Edm.Guid' literal '%s' at '%d' in '%s'."
                                 % (match.group("guid"), match.start(), text))
            found.append(("value", "guid", match.group("guid_text").lower()))
        elif match.group("datetime") is not None:
            try:
                found.append(("value", "datetime", exact_time.parse_literal(match.group("datetime_text"))))
            except ValueError:
                raise ODataError("Unrecognized 'Edm.DateTime' literal '%s' at '%d' in '%s'."
                                 % (match.group("datetime"), match.start(), text)) from None
        elif match.group("string") is not None:
            found.append(("value", "string", match.group("string")[1:-1].replace("''", "'")))
        elif match.group("number") is not None:
            number = match.group("number")
            value = int(number) if re.fullmatch(r"-?\d+", number) else float(number)
            found.append(("value", "long" if match.group("suffix") in ("L", "l") and match.group("suffix") else "number", value))
        elif match.group("name") is not None:
            found.append(("name", match.group("name")))
        else:
            found.append((match.lastgroup,))
    return found


class Parser:
    """Recursive descent: or < and < not < comparison < primary."""

    def __init__(self, text):
        self.text = text
        self.tokens = tokens(text)
        self.place = 0
        self.depth = 0

    def peek(self):
        return self.tokens[self.place] if self.place < len(self.tokens) else ("end",)

    def take(self):
        token = self.peek()
        self.place += 1
        return token

    def word(self, *words):
        token = self.peek()
        if token[0] == "name" and token[1] in words:
            self.place += 1
            return token[1]
        return None

    def fail(self):
        raise ODataError("Syntax error in '%s'." % self.text)

    def parse(self):
        tree = self.either()
        if self.peek()[0] != "end":
            self.fail()
        return tree

    def either(self):
        left = self.both()
        while self.word("or"):
            left = ("or", left, self.both())
        return left

    def both(self):
        left = self.inverted()
        while self.word("and"):
            left = ("and", left, self.inverted())
        return left

    def inverted(self):
        if self.word("not"):
            return ("not", self.inverted())
        return self.comparison()

    def comparison(self):
        left = self.primary()
        operator = self.word(*OPERATORS)
        if operator:
            return (operator, left, self.primary())
        return left

    def primary(self):
        token = self.take()
        if token[0] == "open":
            self.depth += 1
            if self.depth > 200:
                self.fail()
            inner = self.either()
            if self.take()[0] != "close":
                self.fail()
            self.depth -= 1
            return inner
        if token[0] == "value":
            return token
        if token[0] != "name":
            self.fail()
        name = token[1]
        if name in ("true", "false"):
            return ("value", "bool", name == "true")
        if name == "null":
            return ("value", "null", None)
        if self.peek()[0] != "open":
            return ("field", name)
        if name not in FUNCTIONS:
            raise ODataError("Unknown function '%s' in '%s'." % (name, self.text))
        self.take()
        arguments = [self.either()]
        while self.peek()[0] == "comma":
            self.take()
            arguments.append(self.either())
        if self.take()[0] != "close" or len(arguments) != FUNCTIONS[name]:
            self.fail()
        return ("call", name, arguments)


# --- checking ---------------------------------------------------------------------------


def fields_of(tree, found=None):
    """Names of all fields in a tree, in order of appearance."""
    found = [] if found is None else found
    if tree[0] == "field":
        if tree[1] not in found:
            found.append(tree[1])
    elif tree[0] == "call":
        for argument in tree[2]:
            fields_of(argument, found)
    elif tree[0] != "value":
        for part in tree[1:]:
            fields_of(part, found)
    return found


def kind_of(tree, fields):
    """The literal kind that a side of a comparison stands for."""
    if tree[0] == "value":
        return tree[1]
    if tree[0] == "call":
        return "bool" if tree[1] in ("substringof", "startswith", "endswith") else "string"
    if tree[0] == "field":
        edm = fields.get(tree[1], "String")
        return {"Guid": "guid", "DateTime": "datetime", "String": "string", "Boolean": "bool"}.get(
            edm, "number" if edm in NUMERIC else edm)
    return "bool"


def check(tree, fields):
    """Refuses unknown names and comparisons of unlike things."""
    for name in fields_of(tree):
        if name not in fields:
            raise ODataError("No property '%s' exists in type at position 0." % name)
    _check_types(tree, fields)
    return tree


def _check_types(tree, fields):
    if tree[0] in ("and", "or"):
        for part in tree[1:]:
            if kind_of(part, fields) != "bool":
                raise ODataError("A Boolean expression is expected at position 0.")
            _check_types(part, fields)
    elif tree[0] == "not":
        _check_types(tree[1], fields)
    elif tree[0] in OPERATORS:
        left, right = kind_of(tree[1], fields), kind_of(tree[2], fields)
        if "null" not in (left, right) and left.replace("long", "number") != right.replace("long", "number"):
            raise ODataError("A binary operator with incompatible types was detected. Found operand types '%s' and '%s' "
                             "for operator kind '%s'." % (left, right, tree[0]))


# --- evaluating ------------------------------------------------------------------------------


def _text(value):
    """Strings compare as the database does: without regard to case and to blanks at the end."""
    return value.rstrip().casefold() if isinstance(value, str) else value


def evaluator(tree):
    """A function row -> value for a tree."""
    kind = tree[0]
    if kind == "value":
        constant = tree[2]
        return lambda row: constant
    if kind == "field":
        name = tree[1]
        return lambda row: row.get(name)
    if kind == "not":
        inner = evaluator(tree[1])
        return lambda row: not inner(row)
    if kind == "call":
        return _call(tree[1], [evaluator(argument) for argument in tree[2]])
    left, right = evaluator(tree[1]), evaluator(tree[2])
    if kind == "and":
        return lambda row: left(row) and right(row)
    if kind == "or":
        return lambda row: left(row) or right(row)
    if kind == "eq":
        return lambda row: _text(left(row)) == _text(right(row))
    if kind == "ne":
        return lambda row: _text(left(row)) != _text(right(row))
    return _order(kind, left, right)


def _call(name, arguments):
    first = arguments[0]
    if name == "trim":
        return lambda row: (first(row) or "").strip()
    if name == "tolower":
        return lambda row: (first(row) or "").lower()
    if name == "toupper":
        return lambda row: (first(row) or "").upper()
    second = arguments[1]
    if name == "substringof":
        return lambda row: _text(first(row) or "") in (second(row) or "").casefold()
    if name == "startswith":
        return lambda row: (first(row) or "").casefold().startswith((second(row) or "").casefold())
    return lambda row: (first(row) or "").casefold().endswith((second(row) or "").casefold())


def _order(kind, left, right):
    def compare(row):
        one, two = left(row), right(row)
        if one is None or two is None:
            return False
        try:
            if kind == "gt":
                return one > two
            if kind == "ge":
                return one >= two
            if kind == "lt":
                return one < two
            return one <= two
        except TypeError:
            return False
    return compare


# --- short cuts ---------------------------------------------------------------------------------


def lower_bound(tree, name):
    """(value, inclusive) when the tree demands field name > or >= value at its top level, else None."""
    if tree[0] == "and":
        return lower_bound(tree[1], name) or lower_bound(tree[2], name)
    if tree[0] in ("gt", "ge", "lt", "le", "eq"):
        operator, left, right = tree
        if left[0] == "value" and right[0] == "field":
            operator, left, right = MIRROR[operator], right, left
        if left == ("field", name) and right[0] == "value" and operator in ("gt", "ge", "eq"):
            return right[2], operator != "gt"
    return None


def wanted_keys(tree, names):
    """(field, values) when the tree is an or-chain of equalities on one of the names, or has such a part under and."""
    if tree[0] == "and":
        return wanted_keys(tree[1], names) or wanted_keys(tree[2], names)
    chain = []
    pending = [tree]
    while pending:
        node = pending.pop()
        if node[0] == "or":
            pending.extend((node[2], node[1]))
        elif node[0] == "eq" and node[1][0] == "field" and node[2][0] == "value":
            chain.append((node[1][1], node[2][2]))
        else:
            return None
    fields = {name for name, _ in chain}
    if len(fields) != 1 or not fields <= set(names):
        return None
    return chain[0][0], [value for _, value in chain]


# --- $select, $expand, $orderby ----------------------------------------------------------------------


def select(text, endpoint, expanded, line_fields):
    """(fields, fields of the expanded collection or None). Names in the order asked for; unknown ones are refused.

    expanded: name of the collection that $expand asks for, or None; line_fields: its fields, None when there is no such.
    """
    if text is None or text.strip() == "*":
        own = list(endpoint.fields)
        return own, (list(line_fields) if expanded else None)
    own, nested = [], []
    for name in text.split(","):
        name = name.strip()
        if name == "":
            raise ODataError("Syntax error in $select '%s'." % text)
        if "/" in name:
            collection, _, field = name.partition("/")
            if endpoint.fields.get(collection) != "Collection" or line_fields is None:
                raise ODataError("Could not find a property named '%s' on type '%s'." % (collection, endpoint.type_name))
            if collection != expanded:
                raise ODataError("The $select navigation path '%s' has no matching $expand." % name)
            if field not in line_fields and field != "*":
                raise ODataError("Could not find a property named '%s' on type of '%s'." % (field, collection))
            nested.extend(line_fields if field == "*" else [field])
        elif name == "*":
            own.extend(endpoint.fields)
        elif name not in endpoint.fields:
            raise ODataError("Could not find a property named '%s' on type '%s'." % (name, endpoint.type_name))
        elif name not in own:
            own.append(name)
    if expanded and not nested and expanded in own:
        nested = list(line_fields)
    return own, (list(dict.fromkeys(nested)) or None)


def orderby(text, endpoint):
    """[(name, descending)]"""
    parts = []
    for part in text.split(","):
        words = part.split()
        if not words or len(words) > 2 or (len(words) == 2 and words[1] not in ("asc", "desc")):
            raise ODataError("Syntax error in $orderby '%s'." % text)
        if words[0] not in endpoint.fields:
            raise ODataError("Could not find a property named '%s' on type '%s'." % (words[0], endpoint.type_name))
        parts.append((words[0], len(words) == 2 and words[1] == "desc"))
    return parts
