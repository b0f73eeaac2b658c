/*-------------------------------------------------------------------------
 *
 * clock.h
 *		A clock that never jumps, for durations and pauses.
 *
 * Whoever sets the clock of the machine back must not make a pause of a second
 * last an hour.  What is kept in tables has timestamps; what is measured in a
 * process, and the send times in shared memory, are of this clock: it is the
 * same in all processes of the machine.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/clock.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_CLOCK_H
#define EPDS_CLOCK_H

#include "postgres.h"

#include <time.h>

/* Microseconds; never throws, safe where nothing may be allocated. */
static inline int64
epds_clock_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static inline int64
epds_clock_ms(void)
{
	return epds_clock_us() / 1000;
}

#endif							/* EPDS_CLOCK_H */
