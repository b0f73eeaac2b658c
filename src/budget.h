/*-------------------------------------------------------------------------
 *
 * budget.h
 *		May a request leave now, and if not: when?
 *
 * Daily tokens and lanes are rows, kept in SQL.  This is what cannot be a row:
 * the window of the last two seconds, the silence after a 429, the back-off
 * while the service does not answer, and what the last answers said of the
 * limits.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/budget.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_BUDGET_H
#define EPDS_BUDGET_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "clock.h"

/* Times are milliseconds of epds_clock_ms(). */
typedef struct EpdsPace
{
	int			burst_limit;	/* requests per window; 0 = no limit */
	int64		hold_until;		/* nothing leaves before */
	int64		last_429;		/* without success since; 0 = none */
	int			failures;		/* rounds of failures in a row */
	int64		failed_at;		/* when the last round was counted */

	/* what the headers said last; -1 = nothing */
	bool		news;			/* not told to SQL yet */
	int64		seen_daily_limit;
	int64		seen_daily_remaining;
	int64		seen_burst_limit;
	int64		seen_server_time;
	int64		seen_at;		/* when that answer was complete */
} EpdsPace;

extern void epds_pace_init(EpdsPace *pace);

/*
 * Milliseconds until a request may leave; 0 = now, and it is booked in the
 * burst window.  epds_pace_silence() looks at the silence alone and books
 * nothing.
 */
extern int64 epds_pace_reserve(EpdsPace *pace);
extern int64 epds_pace_silence(const EpdsPace *pace);

/*
 * At most one request at a time: the service has failed, or was asked too much,
 * and is being tried.
 */
extern bool epds_pace_probing(const EpdsPace *pace);

/* It has failed in more than one round, without a good answer since. */
extern bool epds_pace_failing(const EpdsPace *pace);

/* What an answer teaches. */
extern bool epds_pace_success(EpdsPace *pace, int64 sent_ms);
extern void epds_pace_hold(EpdsPace *pace, int64 wait_ms);
extern void epds_pace_snooze(EpdsPace *pace, int64 wait_ms);
extern bool epds_pace_failure(EpdsPace *pace, int64 sent_ms);
extern int64 epds_pace_since_429(const EpdsPace *pace);
extern void epds_pace_seen(EpdsPace *pace, int64 sent_ms, int64 burst_limit,
						   int64 daily_limit, int64 daily_remaining);
extern void epds_pace_clock(EpdsPace *pace, int64 server_time);

/* The figures as JSON for _settle(), and that they were told. */
extern void epds_pace_figures(const EpdsPace *pace, StringInfo to);
extern void epds_pace_told(EpdsPace *pace);

/*
 * For one call outside the delivery worker: book its tokens in the given lane
 * and its place in the burst window, waiting as long as it takes.  Outside a
 * block; can be cancelled.  Says in a NOTICE what it waits for when that takes
 * seconds; ERROR when it would take more than a quarter of an hour.
 */
extern void epds_budget_book(EpdsPace *pace, int tokens, int lane);

#endif							/* EPDS_BUDGET_H */
