/*-------------------------------------------------------------------------
 *
 * test_redact.c
 *		Unit test of src/redact.c: no secret in any text that leaves us.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/test_redact.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../src/redact.c"

#include "tap.h"

/* Texts in which a telling name gives the secret away. */
static const struct
{
	const char *text;
	const char *expected;
}			telling[] = {
	{"Authorization: Bearer abcdefghijklmnop\r\nAccept: x",
	"Authorization: ***\r\nAccept: x"},
	{"got header \"authorization: abc\"", "got header \"authorization: ***"},
	{"sent Bearer abcdefghijklmnop to host", "sent Bearer *** to host"},
	{"Bearer token expired", "Bearer token expired"},
	{"Bearer realm=\"x\", error=\"invalid_token\"",
	"Bearer realm=\"x\", error=\"invalid_token\""},
	{"x-api-token: abc def", "x-api-token: *** def"},
	{"X-API-Token:abc", "X-API-Token:***"},
	{"?api_token=abc&start=0", "?api_token=***&start=0"},
	{"{\"access_token\":\"abc\",\"refresh_token\" : \"d\\\"e\",\"expires_in\":\"600\"}",
	"{\"access_token\":\"***\",\"refresh_token\" : \"***\",\"expires_in\":\"600\"}"},
	{"\"{\\\"access_token\\\":\\\"abc\\\",\\\"x\\\":1}\"",
	"\"{\\\"access_token\\\":\\\"***\\\",\\\"x\\\":1}\""},
	{"client_secret=abc", "client_secret=***"},
	{"client_secret='abc def'", "client_secret='***'"},
	{"client_secret=\"never closed", "client_secret=\"***"},
	{"Set-Cookie: a=b; c=d\nDate: x", "Set-Cookie: ***\nDate: x"},
	{"https://a.example/cb?code=stampNL.abc&state=1",
	"https://a.example/cb?code=***&state=1"},
	{"error code=403", "error code=403"},
	{"Rate limit exceeded: access_token not expired",
	"Rate limit exceeded: access_token not expired"},
	{"my_refresh_token=abc", "my_refresh_token=abc"},
	{"access_token=", "access_token="},
	{"access_token", "access_token"},
	{"password=hunter2, user=x", "password=***, user=x"},
	{"", ""},
	{"nothing to hide", "nothing to hide"},
};

static void
test_known_values(void)
{
	epds_redact_add("s3cr+t/va=ue");
	is_text(epds_redact("a s3cr+t/va=ue b"), "a *** b",
			"a known secret is masked");
	is_text(epds_redact("s3cr%2Bt%2Fva%3Due"), "***",
			"... as a form sends it");
	is_text(epds_redact("s3cr%2bt%2fva%3due"), "***",
			"... escaped in lower case");
	is_text(epds_redact("x\":\"s3cr+t\\/va=ue\"}"), "x\":\"***\"}",
			"... inside a JSON string");
	is_text(epds_redact("s3cr+t/va=ues3cr+t/va=ue"), "******",
			"... twice in a row");
	is_text(epds_redact("cut in s3cr+t/va"), "cut in ***",
			"the beginning of it at the end of a text is masked: it was cut");
	is_text(epds_redact("cut in s3cr+t/"), "cut in s3cr+t/",
			"... unless that is too short to tell");
	is_text(epds_redact("s3cr+t/va=u b"), "s3cr+t/va=u b",
			"... and not before other words");

	epds_redact_add("abcd");
	epds_redact_add("abcdefgh");
	is_text(epds_redact("abcdefghi"), "***i",
			"of two secrets the longer one is masked");

	epds_redact_add(NULL);
	epds_redact_add("");
	epds_redact_add("abc");
	is_text(epds_redact("abc"), "abc", "a very short one is not learnt");
	is_text(epds_redact(NULL), NULL, "no text stays none");
}

static void
test_many_values(void)
{
	char		secret[40];
	char	   *text;
	int			i;

	epds_redact_add("stays-first");
	for (i = 0; i < MAX_SECRETS - 1; i++)
	{
		snprintf(secret, sizeof(secret), "token-number-%d-x", i);
		epds_redact_add(secret);
		epds_redact_add(secret);
	}
	is_text(epds_redact("stays-first"), "***",
			"as many secrets as there is room for are known");
	epds_redact_add("one too many");
	is_text(epds_redact("stays-first"), "stays-first",
			"one more pushes out the oldest");
	is_text(epds_redact("one too many token-number-0-x"), "*** ***",
			"the others stay");

	text = epds_redact("a text");
	text[0] = 'A';
	is_text(text, "A text", "the result is the caller's own copy");
}

int
main(void)
{
	size_t		i;

	for (i = 0; i < lengthof(telling); i++)
		is_text(epds_redact(telling[i].text), telling[i].expected,
				"a telling name gives it away, prose does not");
	test_known_values();
	test_many_values();
	shim_reset();
	return tap_done();
}
