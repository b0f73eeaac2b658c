/*-------------------------------------------------------------------------
 *
 * burst_ring.h
 *		The memory of a burst window: when the last requests were sent.
 *
 * A service allows so many requests in any two seconds.  A counter per window
 * would let twice as many through around its edge; so the send times
 * themselves are kept, and the question is when the oldest one that matters
 * leaves the window.
 *
 * Pure: no lock, no clock, no memory of its own.  The ring lies in shared
 * memory, or in the process when there is none (shared.c); a unit test
 * includes this file alone.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/burst_ring.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_BURST_RING_H
#define EPDS_BURST_RING_H

#include "postgres.h"

/* Send times remembered; also the largest limit that can be kept exactly. */
#define EPDS_BURST_RING 1024

/*
 * Requests reach the other side closer together than they left: the window is
 * taken 5 % longer than it is.
 */
#define EPDS_BURST_US_PER_MS 1050

typedef struct EpdsBurst
{
	int64		born_us;		/* monotonic; what was sent before is unknown */
	int			newest;			/* index of the newest entry */
	int			count;			/* entries in use */
	int64		sent_us[EPDS_BURST_RING];	/* monotonic send times */
} EpdsBurst;

/*
 * Microseconds until `count` more requests may be sent, given at most `limit`
 * in any window; when 0, they are booked as sent now.
 *
 * They may go when fewer than limit - count + 1 were sent in the window before
 * now: the (limit - count + 1)th newest must have left it.  A window that
 * reaches back before the birth of the ring counts as full.
 */
static inline int64
epds_burst_take(EpdsBurst *burst, int64 now_us, int limit, int window_ms, int count)
{
	int64		window_us = (int64) window_ms * EPDS_BURST_US_PER_MS;
	int64		wait_us = burst->born_us + window_us - now_us;
	int			allowed;

	limit = Min(limit, EPDS_BURST_RING);
	count = Min(count, limit);
	allowed = limit - count;
	if (wait_us <= 0 && burst->count > allowed)
	{
		int			i = (burst->newest - allowed + EPDS_BURST_RING) % EPDS_BURST_RING;

		wait_us = burst->sent_us[i] + window_us - now_us;
	}
	if (wait_us > 0)
		return wait_us;
	for (int i = 0; i < count; i++)
	{
		burst->newest = (burst->newest + 1) % EPDS_BURST_RING;
		burst->sent_us[burst->newest] = now_us;
	}
	burst->count = Min(burst->count + count, EPDS_BURST_RING);
	return 0;
}

#endif							/* EPDS_BURST_RING_H */
