/*-------------------------------------------------------------------------
 *
 * test_url.c
 *		Unit test of src/http_url.c: which URLs may be talked to.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/test_url.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../src/http_url.c"

#include "tap.h"

bool		epds_guc_allow_insecure_http = false;

static const char *const allowed[] = {
	"https://start.exactonline.nl",
	"https://start.exactonline.nl/",
	"HTTPS://Start.ExactOnline.NL/api/v1/1/x?$filter=Timestamp%20gt%205L",
	"https://company.pipedrive.com:443/api/v2",
	"https://company.pipedrive.com?x=http://other.example/@",
	"https://[2001:db8::1]:8443/x",
	"https://127.0.0.1/",
	"https://a_b.example/it's(1L)?$select=ID,OrderID&$skiptoken=guid'x'",
};

static const char *const never[] = {
	"",
	"https://",
	"https:///path",
	"https://?x",
	"https:/start.exactonline.nl",
	"ftp://start.exactonline.nl/",
	"file:///etc/passwd",
	"gopher://127.0.0.1/",
	"start.exactonline.nl",
	"//start.exactonline.nl/",
	" https://start.exactonline.nl/",
	"https://start.exactonline.nl/a b",
	"https://start.exactonline.nl/a\nHost: other.example",
	"https://start.exactonline.nl/a\tb",
	"https://start.exactonline.nl/\x7f",
	"https://start.exactonline.nl/caf\xc3\xa9",
	"https://user@start.exactonline.nl/",
	"https://user:pass@start.exactonline.nl/",
	"https://start.exactonline.nl@other.example/",
	"https://start.exactonline.nl\\@other.example/",
	"https://start.exactonline.nl#@other.example/",
	"https://start.exactonline.nl%2f@other.example/",
	"https://start%2eexactonline.nl/",
	"https://start.exactonline.nl:/",
	"https://start.exactonline.nl:0/",
	"https://start.exactonline.nl:65536/",
	"https://start.exactonline.nl:000443/",
	"https://start.exactonline.nl:4x3/",
	"https://start.exactonline.nl:443:443/",
	"https://start.exactonline.nl;x/",
	"https://[::1/",
	"https://[]/",
	"https://[::1]x/",
	"https://[fe80::1%25eth0]/",
	"https://;other.example/",
};

static const char *const loopback[] = {
	"http://127.0.0.1",
	"http://127.0.0.1:8080/x",
	"http://127.255.255.254/",
	"http://localhost:1/",
	"http://LOCALHOST/",
	"http://[::1]:8080/",
};

static const char *const not_loopback[] = {
	"http://start.exactonline.nl/",
	"http://127.0.0.1.other.example/",
	"http://127.0.0.1x/",
	"http://127.1/",
	"http://127.0.0.256/",
	"http://127.0.0.01/",
	"http://127.0.0.1./",
	"http://127.0.0..1/",
	"http://127.0.0.1.1/",
	"http://0x7f.0.0.1/",
	"http://2130706433/",
	"http://128.0.0.1/",
	"http://0.0.0.0/",
	"http://localhost.other.example/",
	"http://localhost./",
	"http://[::]/",
	"http://[::ffff:127.0.0.1]/",
	"http://[0:0:0:0:0:0:0:1]/",
};

/* a, b, same origin? */
static const struct
{
	const char *a;
	const char *b;
	bool		same;
}			pairs[] = {
	{"https://start.exactonline.nl", "https://start.exactonline.nl/x?y", true},
	{"https://start.exactonline.nl", "HTTPS://START.exactonline.NL:443/", true},
	{"http://127.0.0.1:80/", "http://127.0.0.1", true},
	{"https://start.exactonline.nl", "http://start.exactonline.nl", false},
	{"https://start.exactonline.nl", "https://start.exactonline.nl:8443", false},
	{"https://start.exactonline.nl", "https://start.exactonline.be", false},
	{"https://start.exactonline.nl", "https://start.exactonline.nl.other.example/", false},
	{"https://start.exactonline.nl", "https://start.exactonline.nl./", false},
	{"https://start.exactonline.nl", "https://tart.exactonline.nl/", false},
	{"https://start.exactonline.nl", "https://start.exactonline.nl@other.example/", false},
	{"https://start.exactonline.nl", "https://start.exactonline.nl\\@other.example/", false},
	{"https://start.exactonline.nl", "/api/v1/1/x", false},
	{"https://start.exactonline.nl", "", false},
	{"http://127.0.0.1:8080", "http://127.0.0.1:8081", false},
	{"http://127.0.0.1:8080", "http://localhost:8080", false},
};

int
main(void)
{
	size_t		i;
	char		longest[MAX_URL_LENGTH + 2];

	for (i = 0; i < lengthof(allowed); i++)
		is_text(epds_url_refusal(allowed[i]), NULL, allowed[i]);
	for (i = 0; i < lengthof(never); i++)
	{
		epds_guc_allow_insecure_http = true;
		ok(epds_url_refusal(never[i]) != NULL, "URL %zu that nobody should talk to is refused",
		   i + 1);
	}
	ok(epds_url_refusal(NULL) != NULL, "no URL is refused");

	for (i = 0; i < lengthof(loopback); i++)
	{
		epds_guc_allow_insecure_http = false;
		is_text(epds_url_refusal(loopback[i]),
				"plain http needs exact_pd_sync.allow_insecure_http",
				"plain http to this machine is refused by default");
		epds_guc_allow_insecure_http = true;
		is_text(epds_url_refusal(loopback[i]), NULL, loopback[i]);
	}
	for (i = 0; i < lengthof(not_loopback); i++)
		ok(epds_url_refusal(not_loopback[i]) != NULL,
		   "plain http is refused: %s", not_loopback[i]);

	for (i = 0; i < lengthof(pairs); i++)
	{
		ok(epds_same_origin(pairs[i].a, pairs[i].b) == pairs[i].same,
		   "origin %zu is %s", i + 1, pairs[i].same ? "the same" : "another");
		ok(epds_same_origin(pairs[i].b, pairs[i].a) == pairs[i].same,
		   "origin %zu, asked the other way round", i + 1);
	}
	ok(!epds_same_origin("not a URL", "not a URL"),
	   "what is no URL has no origin, not even its own");

	memset(longest, 'a', sizeof(longest));
	memcpy(longest, "https://a.example/", 18);
	longest[MAX_URL_LENGTH] = '\0';
	ok(epds_url_refusal(longest) == NULL, "the longest URL is allowed");
	longest[MAX_URL_LENGTH] = 'a';
	longest[MAX_URL_LENGTH + 1] = '\0';
	is_text(epds_url_refusal(longest), "the URL is too long",
			"a longer one is refused");
	return tap_done();
}
