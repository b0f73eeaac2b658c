/*-------------------------------------------------------------------------
 *
 * test_plan.c
 *		Unit test of src/plan.c: the price of a change of lines.
 *
 * The prices are compared with a search that tries every mix, call by call,
 * and knows nothing of the shortcuts in plan.c.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/test_plan.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../src/plan.c"

#include "tap.h"

/* The cheapest way to send n lines: every number of bulk calls is tried. */
static int
search_lines(int n, int single, int bulk)
{
	int			best = single * n;
	int			calls;

	for (calls = 1; (calls - 1) * 100 < n; calls++)
	{
		int			rest = Max(n - calls * 100, 0);

		best = Min(best, calls * bulk + rest * single);
	}
	return best;
}

/* The cheapest mix: every number of PATCHed lines is tried. */
static int
search_mix(int adds, int changes, int deletes)
{
	int			best = PG_INT32_MAX;
	int			patched;

	for (patched = 0; patched <= changes; patched++)
	{
		int			tokens = 5 * patched +
			search_lines(adds + changes - patched, 5, 25) +
			search_lines(deletes + changes - patched, 3, 15);

		best = Min(best, tokens);
	}
	return best;
}

static void
check_mix(int adds, int changes, int deletes, int patched, int tokens)
{
	EpdsLineMix mix = epds_plan_lines(adds, changes, deletes);

	ok(mix.patched == patched && mix.tokens == tokens,
	   "%d added, %d changed, %d deleted: %d patched for %d tokens (got %d, %d)",
	   adds, changes, deletes, patched, tokens, mix.patched, mix.tokens);
}

int
main(void)
{
	int			wrong = 0;
	int			adds;
	int			changes;
	int			deletes;

	check_mix(0, 0, 0, 0, 0);
	check_mix(1, 0, 0, 0, 5);
	check_mix(5, 0, 0, 0, 25);
	check_mix(100, 0, 0, 0, 25);
	check_mix(101, 0, 0, 0, 30);
	check_mix(0, 0, 5, 0, 15);
	check_mix(0, 0, 6, 0, 15);
	check_mix(0, 1, 0, 1, 5);
	check_mix(0, 8, 0, 8, 40);
	check_mix(0, 9, 0, 0, 40);
	check_mix(10, 3, 0, 0, 34);
	check_mix(10, 3, 10, 0, 40);

	for (adds = 0; adds <= 220; adds += 11)
		for (changes = 0; changes <= 330; changes += 7)
			for (deletes = 0; deletes <= 220; deletes += 13)
			{
				EpdsLineMix mix = epds_plan_lines(adds, changes, deletes);

				if (mix.tokens != search_mix(adds, changes, deletes) ||
					mix.patched < 0 || mix.patched > changes)
					wrong++;
			}
	is_int(wrong, 0, "17,000 mixes cost as little as an exhaustive search finds");

	for (adds = 0, wrong = 0; adds <= 1000; adds++)
	{
		if (epds_lines_add_tokens(adds) != search_lines(adds, 5, 25) ||
			epds_lines_delete_tokens(adds) != search_lines(adds, 3, 15))
			wrong++;
	}
	is_int(wrong, 0, "so do up to 1,000 lines of one kind");

	ok(epds_plan_lines(EPDS_MAX_PLAN_LINES, EPDS_MAX_PLAN_LINES,
					   EPDS_MAX_PLAN_LINES).tokens > 0,
	   "the largest change does not overflow");
	return tap_done();
}
