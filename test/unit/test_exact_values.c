/*-------------------------------------------------------------------------
 *
 * test_exact_values.c
 *		Unit test of src/exact_values.c: "/Date(ms)/".
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/test_exact_values.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../src/exact_values.c"

#include "tap.h"

static const struct
{
	const char *text;
	int64		milliseconds;
}			valid[] = {
	{"/Date(0)/", 0},
	{"/Date(1772719651203)/", INT64_C(1772719651203)},
	{"\\/Date(1772719651203)\\/", INT64_C(1772719651203)},
	{"/Date(-62135596800000)/", INT64_C(-62135596800000)},
	{"/Date(+5)/", 5},
	{"/Date(-0)/", 0},
	{"/Date(1772719651203+0100)/", INT64_C(1772719651203)},
	{"/Date(1772719651203-0530)/", INT64_C(1772719651203)},
	{"/Date(999999999999999999)/", INT64_C(999999999999999999)},
};

static const char *const invalid[] = {
	"", "/", "//", "Date(0)", "/Date()/", "/Date(-)/", "/Date(0)", "/Date(0/",
	"/Date(0)/ ", " /Date(0)/", "/date(0)/", "/Date(1.5)/", "/Date(1e3)/",
	"/Date(0x10)/", "/Date(--1)/", "/Date(1+01)/", "/Date(1+0100+0100)/",
	"/Date(1+01a0)/", "/Date(9999999999999999999)/", "/Date(0)//", "null",
	"2026-03-05T14:07:31", "\\Date(0)\\", "/Date(\xc3\xa9)/",
};

int
main(void)
{
	int64		got;
	size_t		i;
	size_t		len;

	for (i = 0; i < lengthof(valid); i++)
		ok(epds_parse_wall_clock(valid[i].text, strlen(valid[i].text), &got) &&
		   got == valid[i].milliseconds, "%s", valid[i].text);
	for (i = 0; i < lengthof(invalid); i++)
		ok(!epds_parse_wall_clock(invalid[i], strlen(invalid[i]), &got),
		   "'%s' is refused", invalid[i]);

	/* every beginning of a value, in memory that ends where it ends */
	for (len = 0; len < strlen(valid[6].text); len++)
	{
		char	   *part = malloc(len + 1);
		bool		taken;

		memcpy(part, valid[6].text, len);
		part = realloc(part, len > 0 ? len : 1);
		taken = epds_parse_wall_clock(part, len, &got);
		free(part);
		ok(!taken, "the first %zu bytes of a value are refused", len);
	}
	return tap_done();
}
