/*-------------------------------------------------------------------------
 *
 * test_headers.c
 *		Unit test of src/http_headers.c: answer headers as text.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/test_headers.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../src/http_headers.c"

#include "tap.h"

static bool
wanted(const char *name)
{
	return epds_header_wanted(name, strlen(name));
}

static const char *
json(const char *lines)
{
	return epds_headers_json(lines, strlen(lines));
}

static const char *
type(const char *lines)
{
	return epds_headers_content_type(lines, strlen(lines));
}

static void
test_wanted(void)
{
	ok(wanted("Retry-After"), "Retry-After is kept");
	ok(wanted("X-RateLimit-Minutely-Remaining"), "Exact's limits are kept");
	ok(wanted("x-daily-ratelimit-token-remaining"), "Pipedrive's limits are kept");
	ok(wanted("REASON"), "the case of a name does not matter");
	ok(!wanted("Set-Cookie"), "cookies are not kept");
	ok(!wanted("Authorization"), "credentials are not kept");
	ok(!wanted("Retry-After-X"), "a longer name is another one");
	ok(!wanted("Retry"), "a shorter name is another one");
	ok(!wanted("dat"), "the beginning of a name is another one");
	ok(!wanted(""), "no name is not kept");
	ok(!epds_header_wanted("Date", 0), "a name of no length is not kept");
}

static void
test_json(void)
{
	is_text(json(""), "{}", "no headers are an empty object");
	is_text(json("Date: today\n"), "{\"date\":\"today\"}",
			"names become lower case");
	is_text(json("A:1\nB:2\na: 3\n"), "{\"b\":\"2\",\"a\":\"3\"}",
			"of a repeated name the last value counts");
	is_text(json("A:   x y \t\r\nB:\n"), "{\"a\":\"x y\",\"b\":\"\"}",
			"blanks around a value are cut off");
	is_text(json("A: q\"b\\\n"), "{\"a\":\"q\\\"b\\\\\"}",
			"quotes and backslashes are escaped");
	is_text(json("A: \x01\x1f\x7f\n"), "{\"a\":\"   \"}",
			"control characters become blanks");
	is_text(json("A: caf\xe9 \xc3\xa9 \xed\xa0\x80 \xf5\n"),
			"{\"a\":\"caf? \xc3\xa9 ??? ?\"}",
			"what is not UTF-8 becomes question marks");
	is_text(epds_headers_json("A: x\0y\n", 7), "{\"a\":\"x?y\"}",
			"a NUL becomes a question mark");
	is_text(json("no colon\n: no name\n folded: x\n\tfolded: x\nA: 1"),
			"{\"a\":\"1\"}", "what is no header is left out");
}

static void
test_content_type(void)
{
	is_text(type(""), "", "no type is an empty text");
	is_text(type("Content-Type: Application/JSON; charset=utf-8\n"),
			"application/json", "parameters are cut off, in lower case");
	is_text(type("content-type: text/html\nContent-Type: a/b,c/d\n"), "a/b",
			"of several types the last counts, of a list the first");
	is_text(type("Content-Type: \xff\xff\n"), "", "a type is plain text");
	is_text(type("Date: x\nContent-Type:\n"), "", "an empty type is none");
}

static void
test_text(void)
{
	char		text[] = "a\0b\xc3\xa9\xc3\xe2\x82\xac\xe2\x82";

	epds_text_scrub(text, sizeof(text) - 1);
	is_text(text, "a?b\xc3\xa9?\xe2\x82\xac??",
			"NUL and broken characters become question marks");
	is_text(epds_text_one_line("two\r\nlines \n", 100), "two  lines",
			"a text of several lines becomes one");
	is_text(epds_text_one_line("caf\xc3\xa9", 4), "caf",
			"it is not cut within a character");
	is_text(epds_text_one_line("caf\xc3\xa9", 5), "caf\xc3\xa9",
			"it may have the length that is allowed");
	is_text(epds_text_one_line("\x80\x80\x80\x80", 2), "",
			"tails without a head do not confuse the cut");
	is_text(epds_text_one_line("", 10), "", "an empty text stays one");
}

int
main(void)
{
	test_wanted();
	test_json();
	test_content_type();
	test_text();
	shim_reset();
	return tap_done();
}
