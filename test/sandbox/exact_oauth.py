"""OAuth of the simulated Exact Online.

Belongs here: the authorize page, the token endpoint with its rotation and its limits, the check of access tokens.
Does not belong here: what a token may be used for (exact.py).
Why: a refresh token that is used twice costs a customer the consent. The rules around it (570 seconds, single use, 200
calls a day, lost answers) are where a client goes wrong, so they are kept to the letter and every breach is a violation.
"""

import base64
import random
from urllib.parse import parse_qsl, quote

from httpd import Response

LIFETIME = 600
EARLIEST = 570
CODE_LIFETIME = 180
REFRESH_LIFETIME = 30 * 86400
CALLS_A_DAY = 200
FORM = "application/x-www-form-urlencoded"
TOKEN_PATH = "/api/oauth2/token"
AUTHORIZE_PATH = "/api/oauth2/auth"


class OAuth:
    def __init__(self, world, seed):
        self.world = world
        self.clock = world.clock
        self.random = random.Random("oauth %s" % seed)
        self.client_id = self.guid()
        self.client_secret = self.opaque(12)
        self.webhook_secret = self.opaque(18)
        self.codes = {}                 # code -> {"t", "redirect_uri"}
        self.access = {}                # access token -> end of its life
        self.refresh = None             # the valid refresh token, or None
        self.refresh_issued = 0.0       # when the pair in force was issued
        self.refresh_used = 0.0         # for the 30 days
        self.spent = {}                 # spent refresh token -> {"t", "seq"}: when, and the call that spent it
        self.day = None
        self.calls_today = 0
        define = world.define_switch
        define("exact_expires_in_number", False, "expires_in as a JSON number instead of a string")
        define("exact_refresh_grace_s", 0, "seconds during which a spent refresh token still works (0: dead at once)")
        define("exact_lost_token_answers", 0, "so many of the next token calls rotate, then the connection is dropped")
        define("exact_invalid_client_status", 400, "status for a wrong client id or secret: 400 invalid_client or 401 unauthorized_client")
        define("exact_expired_refresh_status", 400, "status for an expired or unknown refresh token: 400 invalid_grant or 401 unauthorized_client")
        define("exact_redirect_uri", None, "the registered redirect_uri; null accepts any https or loopback address")
        define("exact_enforce_570", True, "refuse a refresh earlier than 570 s after the previous token")
        world.on_switch("exact_lost_token_answers", self.lose_answers)

    # --- small things -------------------------------------------------------------

    def guid(self):
        text = "%032x" % self.random.getrandbits(128)
        return "%s-%s-4%s-a%s-%s" % (text[:8], text[8:12], text[13:16], text[17:20], text[20:])

    def opaque(self, size):
        return base64.urlsafe_b64encode(self.random.randbytes(size)).decode().rstrip("=")

    def lose_answers(self, times):
        if times:
            self.world.add_fault("exact", "POST", TOKEN_PATH, int(times), 0, {"execute": True, "drop": True})

    def new_code(self, redirect_uri=None):
        """What a person brings back from the browser."""
        code = "stamp.%s!%s" % (self.opaque(12), self.opaque(90))
        self.codes[code] = {"t": self.clock.time(), "redirect_uri": redirect_uri}
        return code

    def revoke(self):
        """The person withdrew the consent."""
        if self.refresh is not None:
            self.spent.setdefault(self.refresh, {"t": -1e12, "seq": None, "excused": True})
        self.refresh = None
        self.access.clear()

    def issue(self):
        now = self.clock.time()
        if self.refresh is not None:
            self.spent.setdefault(self.refresh, {"t": now, "seq": None, "excused": True})
        access = "gAAAAH" + self.opaque(900)
        self.refresh = "%s!IAAAA.%s_%s-%s" % (self.opaque(6), self.opaque(400), self.opaque(4), self.opaque(200))
        self.refresh_issued = self.refresh_used = now
        if len(self.access) > 50:
            self.access = {token: end for token, end in self.access.items() if end > now}
        self.access[access] = now + LIFETIME
        expires = LIFETIME if self.world.switches["exact_expires_in_number"] else str(LIFETIME)
        return {"access_token": access, "token_type": "bearer", "expires_in": expires, "refresh_token": self.refresh}

    def check(self, authorization):
        """None when the header carries a living token, else the text of the refusal."""
        kind, _, token = (authorization or "").partition(" ")
        end = self.access.get(token.strip()) if kind.lower() == "bearer" else None
        if end is None:
            return "invalid"
        return None if end > self.clock.time() else "expired"

    # --- pages -----------------------------------------------------------------------------

    def authorize(self, request):
        """The page a person sees; the sandbox's person is logged in and says yes."""
        query = request.query
        uri = query.get("redirect_uri", "")
        registered = self.world.switches["exact_redirect_uri"]
        allowed = uri == registered if registered else uri.startswith(("https://", "http://127.0.0.1", "http://localhost"))
        if request.method != "GET" or query.get("client_id", "").strip("{}").lower() != self.client_id \
                or query.get("response_type") != "code" or not allowed:
            return Response(400, "<html><body><h1>Ongeldige aanvraag</h1></body></html>", operation="oauth authorize",
                            content_type="text/html; charset=utf-8")
        target = "%s%scode=%s" % (uri, "&" if "?" in uri else "?", quote(self.new_code(uri), safe=""))
        if "state" in query:
            target += "&state=" + quote(query["state"], safe="")
        return Response(302, b"", {"Location": target, "Cache-Control": "no-store"}, operation="oauth authorize")

    def refuse(self, status, error, text, reason=None):
        headers = {"Cache-Control": "no-store"}
        if reason:
            headers["Reason"] = reason
        return Response(status, {"error": error, "error_description": text}, headers, operation="oauth token refused")

    def token(self, request):
        if request.method != "POST":
            return Response(405, b"", {"Allow": "POST"}, operation="oauth token refused")
        now = self.clock.time()
        if int(now // 86400) != self.day:
            self.day, self.calls_today = int(now // 86400), 0
        self.calls_today += 1
        if self.calls_today > CALLS_A_DAY:
            self.world.violation("exact", "more than %d token calls in a day" % CALLS_A_DAY)
            return self.refuse(429, "access_denied", "Rate limit exceeded: maximum number of token requests per day",
                               "Rate limit exceeded")
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != FORM:
            return self.refuse(400, "invalid_request", "The request must be form encoded.")
        form = dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
        if form.get("client_id", "").strip("{}").lower() != self.client_id or form.get("client_secret") != self.client_secret:
            if self.world.switches["exact_invalid_client_status"] == 401:
                return self.refuse(401, "unauthorized_client", "Client authentication failed.")
            return self.refuse(400, "invalid_client", "Client authentication failed.")
        if form.get("grant_type") == "authorization_code":
            return self._code(form, now)
        if form.get("grant_type") == "refresh_token":
            return self._refresh(form.get("refresh_token", ""), now)
        return self.refuse(400, "unsupported_grant_type", "grant_type is not supported.")

    def _code(self, form, now):
        entry = self.codes.pop(form.get("code", ""), None)
        if entry is None or now - entry["t"] > CODE_LIFETIME:
            return self.refuse(400, "invalid_grant", "The authorization code is invalid or has expired.")
        expected = entry["redirect_uri"] or self.world.switches["exact_redirect_uri"]
        if not form.get("redirect_uri") or (expected and form["redirect_uri"] != expected):
            return self.refuse(400, "invalid_grant", "The redirect_uri does not match.")
        if self.refresh is not None:                # a new consent ends the old one
            self.spent[self.refresh] = {"t": now, "seq": None, "excused": True}
        return self._granted("oauth code")

    def _granted(self, operation):
        return Response(200, self.issue(), {"Cache-Control": "no-store", "Pragma": "no-cache"}, operation=operation)

    def _refresh(self, token, now):
        switches = self.world.switches
        if token != "" and token == self.refresh:
            if now - self.refresh_used > REFRESH_LIFETIME:
                self.refresh = None
                return self._unknown()
            if switches["exact_enforce_570"] and now - self.refresh_issued < EARLIEST:
                self.world.violation("exact", "refresh %.1f s after the previous token (%d s are demanded)"
                                     % (now - self.refresh_issued, EARLIEST))
                text = "Rate limit exceeded: access_token not expired"
                return self.refuse(400, "access_denied", text, "TooEarlyToRefreshTokens: " + text)
            self.spent[token] = {"t": now, "seq": self.world._next_seq, "excused": False}
            return self._granted("oauth refresh")
        entry = self.spent.get(token)
        if entry is None:
            return self._unknown()
        if now - entry["t"] < switches["exact_refresh_grace_s"]:
            return self._granted("oauth refresh in grace")
        if not entry["excused"] and not self._answer_was_lost(entry["seq"]):
            self.world.violation("exact", "a spent refresh token was used again")
        return self.refuse(401, "unauthorized_client", "Old refresh token used.")

    def _unknown(self):
        if self.world.switches["exact_expired_refresh_status"] == 401:
            return self.refuse(401, "unauthorized_client", "The refresh token is unknown or has expired.")
        return self.refuse(400, "invalid_grant", "The refresh token is unknown or has expired.")

    def _answer_was_lost(self, seq):
        """Whether a fault kept the new pair from the client; then it cannot know better."""
        for call in reversed(self.world.calls):
            if call["seq"] == seq:
                return bool(call["note"]) and "fault" in call["note"]
            if call["seq"] < (seq or 0):
                break
        return False

    def describe(self):
        now = self.clock.time()
        return {"consented": self.refresh is not None, "token_age": round(now - self.refresh_issued, 1) if self.refresh else None,
                "living_access_tokens": sum(end > now for end in self.access.values()), "token_calls_today": self.calls_today,
                "spent_refresh_tokens": len(self.spent)}
