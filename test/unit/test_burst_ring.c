/*-------------------------------------------------------------------------
 *
 * test_burst_ring.c
 *		Unit test of src/burst_ring.h: never more than the limit in any window.
 *
 * A long run of random requests is judged by looking at all send times, which
 * knows nothing of rings.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/test_burst_ring.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../src/burst_ring.h"

#include <stdlib.h>

#include "tap.h"

#define WINDOW_MS 2000
#define WINDOW_US ((int64) WINDOW_MS * EPDS_BURST_US_PER_MS)
#define RUN 20000

/* A ring that was born long ago: its window is known to be empty. */
static void
empty_ring(EpdsBurst *burst)
{
	memset(burst, 0, sizeof(*burst));
	burst->born_us = -10 * WINDOW_US;
}

/* The most that were sent in any window, by looking at every one. */
static int
most_in_a_window(const int64 *sent, int n)
{
	int			most = 0;

	for (int first = 0, last = 0; last < n; last++)
	{
		while (sent[last] - sent[first] >= WINDOW_US)
			first++;
		most = Max(most, last - first + 1);
	}
	return most;
}

/*
 * Ask at random times for random counts, wait as told or a little less; note
 * what was booked.  Returns how many were.
 */
static int
random_run(int limit, int64 *sent)
{
	EpdsBurst	burst;
	int64		now = 0;
	int			n = 0;

	empty_ring(&burst);
	while (n < RUN - 100)
	{
		int			count = 1 + rand() % Min(limit, 20);
		int64		wait = epds_burst_take(&burst, now, limit, WINDOW_MS, count);

		if (wait == 0)
		{
			for (int i = 0; i < count; i++)
				sent[n++] = now;
			now += rand() % 3 == 0 ? 0 : rand() % 50000;
		}
		else
			now += rand() % 2 == 0 ? wait : rand() % (wait + 1);
	}
	return n;
}

static void
test_limits(void)
{
	static const int limits[] = {1, 2, 20, 40, 120, 1023, 1024};
	static int64 sent[RUN];

	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++)
	{
		int			n = random_run(limits[i], sent);
		int			most = most_in_a_window(sent, n);

		ok(most <= limits[i], "a limit of %d is kept in every window (most: %d)",
		   limits[i], most);
		ok(most >= limits[i] - 19, "... and used up (most: %d)", most);
	}
}

static void
test_waits(void)
{
	EpdsBurst	burst;

	empty_ring(&burst);
	is_int(epds_burst_take(&burst, 0, 3, WINDOW_MS, 3), 0, "an empty window takes the whole limit at once");
	is_int(epds_burst_take(&burst, 5000, 3, WINDOW_MS, 1), WINDOW_US - 5000,
		   "the next one waits until the first leaves the window");
	is_int(epds_burst_take(&burst, WINDOW_US - 1, 3, WINDOW_MS, 1), 1, "to the microsecond");
	is_int(epds_burst_take(&burst, WINDOW_US, 3, WINDOW_MS, 1), 0, "and then may go");
	is_int(epds_burst_take(&burst, WINDOW_US, 3, WINDOW_MS, 3), WINDOW_US,
		   "three wait for the one that was just sent");
	is_int(epds_burst_take(&burst, WINDOW_US, 3, WINDOW_MS, 2), 0, "two need not");
	is_int(epds_burst_take(&burst, 10 * WINDOW_US, 3, WINDOW_MS, 5), 0,
		   "more than the limit at once counts as the limit");
	is_int(epds_burst_take(&burst, 10 * WINDOW_US, 5000, WINDOW_MS, 1021), 0,
		   "a limit above the ring counts as the ring");
	is_int(epds_burst_take(&burst, 10 * WINDOW_US, 5000, WINDOW_MS, 1), WINDOW_US, "and is then used up");

	memset(&burst, 0, sizeof(burst));
	burst.born_us = 1000;
	is_int(epds_burst_take(&burst, 1000, 100, WINDOW_MS, 1), WINDOW_US,
		   "a ring just born does not know what was sent before: it counts as full");
	is_int(epds_burst_take(&burst, 1000 + WINDOW_US, 100, WINDOW_MS, 1), 0, "for one window");
}

int
main(void)
{
	srand(20260101);
	test_waits();
	test_limits();
	return tap_done();
}
