/*-------------------------------------------------------------------------
 *
 * test_classify.c
 *		Unit test of src/pipedrive_classify.c: what an answer means.
 *
 * The question behind every line: may the call have been executed?  Only a
 * POST that may have been is "unknown"; nothing that cannot be read is "ok".
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/test_classify.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../src/pipedrive_classify.c"

#include "tap.h"

#define DEAL "/api/v2/deals/17"
#define DEALS "/api/v2/deals"
#define OK_BODY "{\"success\":true,\"data\":{\"id\":42}}"
#define LIMIT_BODY "{\"success\":false,\"error\":\"request over limit\",\"errorCode\":429}"

/* One answer and its meaning; result OK unless told, 5 tokens, no 429 before. */
typedef struct Case
{
	const char *name;
	const char *method;
	const char *path;
	int			status;
	const char *body;
	EpdsOutcome outcome;
	const char *headers;		/* NULL: none */
	int64		wait_ms;		/* BURST, DAILY: expected; 0 = not looked at */
	int64		since_429_ms;	/* 0: none before */
	EpdsHttpResult result;
} Case;

static const Case cases[] = {
	{"a create", "POST", DEALS, 201, OK_BODY, EPDS_OUTCOME_OK},
	{"an update", "PATCH", DEAL, 200, OK_BODY, EPDS_OUTCOME_OK},
	{"a delete", "DELETE", DEAL, 200, OK_BODY, EPDS_OUTCOME_OK},
	{"a create answered by HTML", "POST", DEALS, 200, "<html>", EPDS_OUTCOME_UNKNOWN},
	{"a create answered by nothing", "POST", DEALS, 201, "", EPDS_OUTCOME_UNKNOWN},
	{"a create answered by an array", "POST", DEALS, 200, "[]", EPDS_OUTCOME_UNKNOWN},
	{"a create answered by half a body", "POST", DEALS, 201, "{\"success\":true,\"data\":{", EPDS_OUTCOME_UNKNOWN},
	{"a create answered with text behind", "POST", DEALS, 201, OK_BODY "x", EPDS_OUTCOME_UNKNOWN},
	{"a create without an id", "POST", DEALS, 201, "{\"success\":true,\"data\":{}}", EPDS_OUTCOME_UNKNOWN},
	{"a create with a fraction as id", "POST", DEALS, 201, "{\"data\":{\"id\":1.5}}", EPDS_OUTCOME_UNKNOWN},
	{"a create with an id beyond a double", "POST", DEALS, 201, "{\"data\":{\"id\":9007199254740993}}", EPDS_OUTCOME_UNKNOWN},
	{"a create with a negative id", "POST", DEALS, 201, "{\"data\":{\"id\":-1}}", EPDS_OUTCOME_UNKNOWN},
	{"an update done without a word", "PATCH", DEAL, 204, "", EPDS_OUTCOME_OK},
	{"a delete done without a word", "DELETE", DEAL, 204, "", EPDS_OUTCOME_OK},
	{"a create done without a word", "POST", DEALS, 204, "", EPDS_OUTCOME_UNKNOWN},
	{"a look answered without a word", "GET", DEALS, 204, "", EPDS_OUTCOME_RETRY},
	{"an update answered by HTML", "PATCH", DEAL, 200, "<html>", EPDS_OUTCOME_RETRY},
	{"a refusal with status 200", "POST", DEALS, 200, "{\"success\":false,\"error\":\"no\"}", EPDS_OUTCOME_PERMANENT},

	{"a validation error", "POST", DEALS, 400, "{\"success\":false,\"error\":\"Validation failed\",\"code\":\"ERR_SCHEMA_VALIDATION_FAILED\"}", EPDS_OUTCOME_PERMANENT},
	{"a bad token", "POST", DEALS, 401, "{\"success\":false,\"error\":\"unauthorized access\"}", EPDS_OUTCOME_AUTH},
	{"an unpaid account", "PATCH", DEAL, 402, "{}", EPDS_OUTCOME_AUTH},
	{"the block page", "POST", DEALS, 403, "<!DOCTYPE html>", EPDS_OUTCOME_BLOCKED},
	{"a 403 with nothing", "POST", DEALS, 403, "", EPDS_OUTCOME_BLOCKED},
	{"a full plan", "POST", DEALS, 403, "{\"success\":false,\"error\":\"Couldn't add the deal. Limit reached.\",\"code\":\"feature_capping_deals_limit\"}", EPDS_OUTCOME_CAPACITY},
	{"no permission for this record", "PATCH", DEAL, 403, "{\"success\":false,\"error\":\"You do not have permission to edit this deal\"}", EPDS_OUTCOME_PERMANENT},
	{"a token that may not do this at all", "POST", DEALS, 403, "{\"success\":false,\"error\":\"Scope and URL mismatch\"}", EPDS_OUTCOME_AUTH},
	{"a record that is gone", "PATCH", DEAL, 404, "{\"success\":false,\"error\":\"Entity was not found\"}", EPDS_OUTCOME_GONE},
	{"a record that was purged", "PATCH", DEAL, 410, "{\"success\":false}", EPDS_OUTCOME_GONE},
	{"the web application instead of a record", "PATCH", DEAL, 404, "<html>", EPDS_OUTCOME_RETRY},
	{"the web application instead of the service", "POST", DEALS, 404, "<html>", EPDS_OUTCOME_RETRY},
	{"a path of no record", "POST", DEALS, 404, "{\"success\":false}", EPDS_OUTCOME_PERMANENT},
	{"a wrong method", "PATCH", DEAL, 405, "{}", EPDS_OUTCOME_PERMANENT},
	{"a redirect", "POST", DEALS, 302, "", EPDS_OUTCOME_AUTH},

	{"a create the server failed at", "POST", DEALS, 500, "{}", EPDS_OUTCOME_UNKNOWN},
	{"a create the gateway gave up", "POST", DEALS, 504, "<html>", EPDS_OUTCOME_UNKNOWN},
	{"a create that took too long", "POST", DEALS, 408, "{}", EPDS_OUTCOME_UNKNOWN},
	{"an update during maintenance", "PATCH", DEAL, 503, "<html>", EPDS_OUTCOME_RETRY},
	{"an update during maintenance of a minute", "PATCH", DEAL, 503, "{}", EPDS_OUTCOME_RETRY, "{\"retry-after\":\"60\"}", 60000},
	{"a create during maintenance of a minute", "POST", DEALS, 503, "{}", EPDS_OUTCOME_UNKNOWN, "{\"retry-after\":\"60\"}", 60000},
	{"maintenance that wants a year", "PATCH", DEAL, 503, "{}", EPDS_OUTCOME_RETRY, "{\"retry-after\":\"31536000\"}", 3600000},
	{"maintenance of nobody knows how long", "PATCH", DEAL, 503, "{}", EPDS_OUTCOME_RETRY, "{\"retry-after\":\"soon\"}", -1},
	{"a delete the server failed at", "DELETE", DEAL, 500, "{}", EPDS_OUTCOME_RETRY},
	{"a look the server failed at", "GET", DEALS, 502, "", EPDS_OUTCOME_RETRY},

	{"a create that was not sent", "POST", DEALS, 0, "", EPDS_OUTCOME_RETRY, NULL, 0, 0, EPDS_HTTP_NOT_SENT},
	{"a create with a lost answer", "POST", DEALS, 0, "", EPDS_OUTCOME_UNKNOWN, NULL, 0, 0, EPDS_HTTP_UNKNOWN},
	{"a create with half an answer", "POST", DEALS, 201, OK_BODY, EPDS_OUTCOME_UNKNOWN, NULL, 0, 0, EPDS_HTTP_UNKNOWN},
	{"an update with a lost answer", "PATCH", DEAL, 0, "", EPDS_OUTCOME_RETRY, NULL, 0, 0, EPDS_HTTP_UNKNOWN},
	{"a host we refuse", "POST", DEALS, 0, "", EPDS_OUTCOME_AUTH, NULL, 0, 0, EPDS_HTTP_REFUSED},

	{"a 429 of nobody knows what", "POST", DEALS, 429, LIMIT_BODY, EPDS_OUTCOME_BURST, NULL, 2000},
	{"a 429 with an empty window", "POST", DEALS, 429, LIMIT_BODY, EPDS_OUTCOME_BURST, "{\"x-ratelimit-remaining\":\"0\",\"x-ratelimit-reset\":\"2\"}", 2000},
	{"a 429 that asks for 7 s", "PATCH", DEAL, 429, LIMIT_BODY, EPDS_OUTCOME_BURST, "{\"retry-after\":\"7\"}", 7000},
	{"a 429 that asks for 1.5 s", "PATCH", DEAL, 429, LIMIT_BODY, EPDS_OUTCOME_BURST, "{\"retry-after\":\"1.5\"}", 2000},
	{"a 429 that asks for an hour", "PATCH", DEAL, 429, LIMIT_BODY, EPDS_OUTCOME_DAILY, "{\"retry-after\":\"3600\"}", 3600000},
	{"a 429 with no tokens left", "PATCH", DEAL, 429, LIMIT_BODY, EPDS_OUTCOME_DAILY, "{\"x-daily-ratelimit-token-remaining\":\"3\",\"x-ratelimit-remaining\":\"0\"}", -1},
	{"a 429 with enough tokens left", "PATCH", DEAL, 429, LIMIT_BODY, EPDS_OUTCOME_BURST, "{\"x-daily-ratelimit-token-remaining\":\"5\"}", 2000},
	{"a second 429 long after", "PATCH", DEAL, 429, LIMIT_BODY, EPDS_OUTCOME_DAILY, NULL, -1, 2500},
	{"a second 429 soon after", "PATCH", DEAL, 429, LIMIT_BODY, EPDS_OUTCOME_BURST, NULL, 2000, 1500},
	{"a 429 with nonsense in its headers", "PATCH", DEAL, 429, LIMIT_BODY, EPDS_OUTCOME_BURST, "{\"retry-after\":\"soon\",\"x-ratelimit-reset\":\"1772755200000\"}", 2000},
	{"a 429 page of the gateway", "PATCH", DEAL, 429, "<html>", EPDS_OUTCOME_BURST, NULL, 60000},
};

static PipedriveVerdict verdict;

static void
classify(const Case *c)
{
	PipedriveQuestion question = {c->method, c->path, 5,
	c->since_429_ms > 0 ? c->since_429_ms : -1};
	EpdsHttpAnswer answer = {0};

	answer.result = c->result;
	answer.status = c->status;
	answer.body = pstrdup(c->body);
	answer.body_len = strlen(c->body);
	answer.content_type = pstrdup("");
	answer.headers = c->headers ? pstrdup(c->headers) : NULL;
	answer.error = c->result == EPDS_HTTP_OK ? NULL : pstrdup("why");
	memset(&verdict, 0x7F, sizeof(verdict));
	pipedrive_classify(&question, &answer, &verdict);
}

static void
run_case(const Case *c)
{
	classify(c);
	ok(verdict.outcome == c->outcome &&
	   (c->wait_ms == 0 || verdict.wait_ms == c->wait_ms),
	   "%s (got outcome %d, wait %" PRId64 ")", c->name, verdict.outcome,
	   verdict.wait_ms);
	if (verdict.outcome == EPDS_OUTCOME_OK)
		ok(verdict.error[0] == '\0', "... no error to tell");
	else
		ok(verdict.error[0] != '\0' && verdict.nids == 0 &&
		   verdict.key[0] == '\0', "... a reason and no ids: %s",
		   verdict.error);
}

static void
test_dates(void)
{
	static const struct
	{
		const char *header;
		int64		seconds;
	}			dates[] = {
		{"Thu, 01 Jan 1970 00:00:00 GMT", 0},
		{"Sun, 06 Nov 1994 08:49:37 GMT", 784111777},
		{"Tue, 29 Feb 2028 23:59:59 GMT", 1835481599},
		{"Wed, 01 Mar 2028 00:00:00 GMT", 1835481600},
		{"Fri, 31 Dec 2100 12:00:00 GMT", 4133937600},
		{"Sunday, 06-Nov-94 08:49:37 GMT", -1},
		{"Sun, 06 Nav 1994 08:49:37 GMT", -1},
		{"Sun, 06 ovD 1994 08:49:37 GMT", -1},
		{"Sun, 06 Nov 1994 24:49:37 GMT", -1},
		{"Sun, 00 Nov 1994 08:49:37 GMT", -1},
		{"now", -1},
		{"", -1},
	};

	for (int i = 0; i < (int) lengthof(dates); i++)
	{
		char		headers[64];
		PipedriveLimits limits;
		char		id[8];

		snprintf(headers, sizeof(headers), "{\"date\":\"%s\"}", dates[i].header);
		pipedrive_read_limits(headers, &limits, id, sizeof(id));
		ok(limits.server_time == dates[i].seconds, "Date \"%s\" (got %" PRId64 ")",
		   dates[i].header, limits.server_time);
	}
}

static void
test_ids(void)
{
	Case		c = {"", "POST", DEALS, 201, OK_BODY, EPDS_OUTCOME_OK};

	classify(&c);
	ok(verdict.nids == 1 && verdict.ids[0] == 42, "the id of a record");
	c.body = "{\"data\":[{\"id\":1,\"product_id\":11},{\"id\":2,\"product_id\":12}]}";
	classify(&c);
	ok(verdict.nids == 2 && verdict.ids[1] == 2 && verdict.nproducts == 2 &&
	   verdict.products[0] == 11, "ids and products of lines, in order");
	c.body = "{\"data\":{\"ids\":[3,4,5]}}";
	classify(&c);
	ok(verdict.nids == 3 && verdict.ids[2] == 5, "ids of a bulk delete");
	c.body = "{\"data\":{\"id\":\"f3a1\"}}";
	classify(&c);
	is_text(verdict.key, "f3a1", "an id that is a text");
	c.body = "{\"data\":{\"id\":9007199254740991}}";
	classify(&c);
	is_int(verdict.ids[0], INT64_C(9007199254740991),
		   "the largest id a double holds exactly");
	c.body = "{\"data\":[{\"id\":1},{\"id\":null}]}";
	classify(&c);
	is_int(verdict.outcome, EPDS_OUTCOME_UNKNOWN,
		   "one unreadable id makes the whole unknown");

	c.body = "{\"data\":[{\"id\":1,\"product_id\":11,\"quantity\":2,\"item_price\":0.5}]}";
	classify(&c);
	ok(verdict.nvalued == 1 && verdict.quantities[0] == 2 &&
	   verdict.prices[0] == 0.5, "quantity and price of a line");
	c.body = "{\"data\":[{\"id\":1,\"product_id\":11,\"quantity\":1e400,\"item_price\":1}]}";
	classify(&c);
	ok(verdict.outcome == EPDS_OUTCOME_OK && verdict.nproducts == 1 &&
	   verdict.nvalued == 0, "a number beyond all numbers is not told");
}

/* More records than there is room for must not be written behind the room. */
static void
test_many_ids(void)
{
	Case		c = {"", "POST", DEALS, 201, NULL, EPDS_OUTCOME_UNKNOWN};
	char	   *body = palloc(20 * (PIPEDRIVE_MAX_IDS + 10));
	char	   *end = body;
	int			i;

	end += sprintf(end, "{\"data\":[{\"id\":1}");
	for (i = 0; i < PIPEDRIVE_MAX_IDS; i++)
		end += sprintf(end, ",{\"id\":%d}", i + 2);
	sprintf(end, "]}");
	c.body = body;
	classify(&c);
	is_int(verdict.outcome, EPDS_OUTCOME_UNKNOWN,
		   "more records than room: somebody has to look");
}

static void
test_texts(void)
{
	Case		c = {"", "PATCH", DEAL, 400, "{\"error\":\"a\\nb\",\"code\":\"X\"}",
	EPDS_OUTCOME_PERMANENT, "{\"x-correlation-id\":\"abc\"}"};
	char		body[2000];
	size_t		len;

	classify(&c);
	is_text(verdict.error, "a b (X)", "reason and code on one line");
	is_text(verdict.request_id, "abc", "the id of the request");
	c.body = "{\"errors\":{\"subscription_url\":[\"invalid\"]}}";
	classify(&c);
	is_text(verdict.error, "{\"subscription_url\":[\"invalid\"]}",
			"a reason given as an object");
	c.body = "{\"error\":null,\"message\":\"m\",\"code\":7}";
	classify(&c);
	is_text(verdict.error, "m", "a reason called message");
	c.body = "{}";
	classify(&c);
	is_text(verdict.error, "HTTP status 400", "no reason at all");

	strcpy(body, "{\"error\":\"");
	while (strlen(body) < 1500)
		strcat(body, "\xe2\x82\xac");
	strcat(body, "\"}");
	c.body = body;
	classify(&c);
	len = strlen(verdict.error);
	ok(len < PIPEDRIVE_ERROR_SIZE && len > PIPEDRIVE_ERROR_SIZE - 8 &&
	   len % 3 == 0, "a long reason is cut between characters");
}

static void
test_paths(void)
{
	ok(pipedrive_path_names_record("/api/v2/deals/17"), "a record");
	ok(pipedrive_path_names_record("/api/v2/deals/17/products?x=1"),
	   "a list below a record");
	ok(!pipedrive_path_names_record("/api/v2/deals"), "v2 is no record");
	ok(!pipedrive_path_names_record("/api/v2/deals?ids=17"),
	   "a number in the query is no record");
	ok(!pipedrive_path_names_record(""), "no path names no record");
	ok(!pipedrive_path_names_record("//"), "an empty segment is no record");
}

static void
test_path_refusals(void)
{
	static const char *const refused[] = {
		"", "api/v2/deals", "@other.example/x", "/api/v2/deals/1/discounts/a b",
		"/api/v2/deals?cursor=a\r\nx: y", "/api/v2/deals/\303\251", "/a\\b", "/a#b",
		"/api/v2/deals/1/discounts/../2", "/api/v2/deals/..", "/api/./v2",
	};
	char		path[9000];
	size_t		i;

	ok(pipedrive_path_refusal("/api/v2/deals/17/products?ids=1,2&x={y}") == NULL,
	   "a path of ours may be sent");
	ok(pipedrive_path_refusal("/api/v2/deals?cursor=eyJpZCI6N30=") == NULL,
	   "a cursor may stand in it");
	for (i = 0; i < lengthof(refused); i++)
		ok(pipedrive_path_refusal(refused[i]) != NULL,
		   "a path that leads elsewhere or nowhere is refused");
	memset(path, 'a', sizeof(path) - 1);
	path[0] = '/';
	path[sizeof(path) - 1] = '\0';
	ok(pipedrive_path_refusal(path) != NULL, "a path without end is refused");
}

int
main(void)
{
	size_t		i;

	for (i = 0; i < lengthof(cases); i++)
		run_case(&cases[i]);
	test_dates();
	test_ids();
	test_many_ids();
	test_texts();
	test_paths();
	test_path_refusals();
	shim_reset();
	return tap_done();
}
