/*-------------------------------------------------------------------------
 *
 * test_json_scan.c
 *		Unit test of src/json_scan.c: what jsonb would refuse is replaced,
 *		what breaks off is noticed.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/test_json_scan.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../src/json_scan.c"

#include "tap.h"

#define U(digits) "\\u" digits

/* Text before, text after (NULL: the same), replacements. */
static const struct
{
	const char *text;
	const char *expected;
	size_t		replaced;
}			texts[] = {
	{"{}", NULL, 0},
	{" \r\n\t[1,\"a\",{\"b\":[null]}] \n", NULL, 0},
	{"[\"" U("0000") "\"]", "[\"" U("ffFD") "\"]", 1},
	{"[\"" U("0001") U("0041") "\"]", NULL, 0},
	{"[\"" U("D83D") U("de00") "\"]", NULL, 0},
	{"[\"" U("d83d") "\"]", "[\"" U("fffd") "\"]", 1},
	{"[\"" U("d83d") "x" U("de00") "\"]", "[\"" U("fffd") "x" U("fffd") "\"]", 2},
	{"[\"" U("d83d") U("d83d") U("de00") "\"]", "[\"" U("fffd") U("d83d") U("de00") "\"]", 1},
	{"[\"" U("de00") U("d83d") "\"]", "[\"" U("fffd") U("fffd") "\"]", 2},
	{"[\"" U("d83d") U("0000") "\"]", "[\"" U("fffd") U("fffd") "\"]", 2},
	{"[\"\\\\u0000\"]", NULL, 0},
	{"[\"\\\\" U("0000") "\"]", "[\"\\\\" U("fffd") "\"]", 1},
	{"[\"\\\"" U("0000") "\"]", "[\"\\\"" U("fffd") "\"]", 1},
	{"{\"" U("0000") "\":1}", "{\"" U("fffd") "\":1}", 1},
	{"[\"a\nb\tc\"]", "[\"a b c\"]", 2},
	{"[\"caf\xc3\xa9 \xf0\x9f\x98\x80\"]", NULL, 0},
	{"[\"]}\\\"]\"]", NULL, 0},
};

static const struct
{
	const char *text;
	EpdsJsonState state;
}			states[] = {
	{"", EPDS_JSON_EMPTY},
	{" \n\t ", EPDS_JSON_EMPTY},
	{"<html>", EPDS_JSON_OTHER},
	{"\"text\"", EPDS_JSON_OTHER},
	{"null", EPDS_JSON_OTHER},
	{"]", EPDS_JSON_OTHER},
	{"{", EPDS_JSON_TRUNCATED},
	{"[[]", EPDS_JSON_TRUNCATED},
	{"[\"", EPDS_JSON_TRUNCATED},
	{"[\"a", EPDS_JSON_TRUNCATED},
	{"[\"a\\", EPDS_JSON_TRUNCATED},
	{"[\"a\\\"", EPDS_JSON_TRUNCATED},
	{"[\"\\u00", EPDS_JSON_TRUNCATED},
	{"{\"d\":[{\"a\":1},", EPDS_JSON_TRUNCATED},
	{"{]", EPDS_JSON_BROKEN},
	{"[}", EPDS_JSON_BROKEN},
	{"[[}]", EPDS_JSON_BROKEN},
	{"{}}", EPDS_JSON_BROKEN},
	{"{} x", EPDS_JSON_BROKEN},
	{"[][]", EPDS_JSON_BROKEN},
	{"{}", EPDS_JSON_COMPLETE},
	{"[1] ", EPDS_JSON_COMPLETE},
};

/*
 * Scan a copy that ends where the text ends; malloc'd, NUL-terminated.
 */
static char *
scanned(const char *text, EpdsJsonScan *scan)
{
	size_t		len = strlen(text);
	char	   *exact = malloc(len > 0 ? len : 1);
	char	   *result = malloc(len + 1);

	memcpy(exact, text, len);
	*scan = epds_json_scan(exact, len);
	memcpy(result, exact, len);
	result[len] = '\0';
	free(exact);
	return result;
}

static void
check_depth(int depth, EpdsJsonState expected)
{
	char		text[2 * EPDS_JSON_MAX_DEPTH + 3];

	memset(text, '[', depth);
	memset(text + depth, ']', depth);
	is_int(epds_json_scan(text, 2 * depth).state, expected,
		   "nesting is bounded");
}

int
main(void)
{
	EpdsJsonScan scan;
	char	   *result;
	size_t		i;

	for (i = 0; i < lengthof(texts); i++)
	{
		const char *expected = texts[i].expected ? texts[i].expected :
			texts[i].text;

		result = scanned(texts[i].text, &scan);
		ok(strcasecmp(result, expected) == 0 &&
		   scan.replaced == texts[i].replaced &&
		   scan.state == EPDS_JSON_COMPLETE,
		   "text %zu: %zu replacements give the expected text", i + 1,
		   texts[i].replaced);
		free(result);
	}
	for (i = 0; i < lengthof(states); i++)
	{
		result = scanned(states[i].text, &scan);
		ok(scan.state == states[i].state, "'%s' %s", states[i].text,
		   states[i].state == EPDS_JSON_COMPLETE ? "is complete" :
		   epds_json_state_text(states[i].state));
		free(result);
	}
	check_depth(EPDS_JSON_MAX_DEPTH, EPDS_JSON_COMPLETE);
	check_depth(EPDS_JSON_MAX_DEPTH + 1, EPDS_JSON_DEEP);
	is_text(epds_json_state_text(EPDS_JSON_COMPLETE), NULL,
			"there is nothing to say of a complete text");
	return tap_done();
}
