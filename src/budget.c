/*-------------------------------------------------------------------------
 *
 * budget.c
 *		May a request leave now, and if not: when?
 *
 * Three reasons can hold a request back besides the daily tokens, which are
 * rows in SQL:
 *
 *		the burst window	the service counts requests of two seconds; our
 *							own log of them lives in shared memory, so that a
 *							restarted worker does not begin with a clean slate
 *		silence				a 429 asks for it, or a Retry-After
 *		back-off			the service does not answer, or only with 5xx: what
 *							is waiting must not be thrown at it job by job
 *
 * Back-off counts rounds, not requests: eight requests that fail together are
 * one failure.  The first round costs nothing, because a single record can make
 * a server stumble and must not slow down all others; from the second on there
 * is one attempt per back-off.  After a 429, too, one request goes ahead of the
 * others: eight refusals at once are a step towards the block of the gateway.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/budget.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/timestamp.h"

#include "budget.h"
#include "compat.h"
#include "http.h"
#include "tx.h"
#include "worker.h"

/* The service counts requests of this many milliseconds. */
#define BURST_WINDOW_MS 2000

/*
 * A limit beyond this is none: the largest plan has 480, our own log in shared
 * memory holds 1024, and nobody sends that fast by accident.
 */
#define BURST_LIMIT_MOST 1000

/* Back-off: 1 s, doubled up to 5 min. */
#define BACKOFF_FIRST_MS 1000
#define BACKOFF_MOST_MS 300000

/* A person wants to know why nothing happens when it takes longer. */
#define NOTICE_AFTER_MS 5000

/* Longer than this nobody sits and waits. */
#define WAIT_MOST_MS 900000

/*
 * with_jitter
 *		Up to a quarter more, so that two databases do not march in step.
 */
static int64
with_jitter(int64 ms)
{
	return ms + (int64) (pg_prng_double(&pg_global_prng_state) * ms / 4);
}

/*
 * epds_pace_init
 *		Nothing known, nothing held back.
 */
void
epds_pace_init(EpdsPace *pace)
{
	memset(pace, 0, sizeof(*pace));
	pace->seen_daily_limit = -1;
	pace->seen_daily_remaining = -1;
	pace->seen_burst_limit = -1;
	pace->seen_server_time = -1;
}

/*
 * epds_pace_silence
 *		Milliseconds of silence or back-off that are left.
 */
int64
epds_pace_silence(const EpdsPace *pace)
{
	int64		now;

	if (pace->hold_until == 0)
		return 0;
	now = epds_clock_ms();
	return pace->hold_until > now ? pace->hold_until - now : 0;
}

/*
 * epds_pace_reserve
 *		Book one request, or say how many milliseconds to wait before asking
 *		again.
 */
int64
epds_pace_reserve(EpdsPace *pace)
{
	int64		silence = epds_pace_silence(pace);

	if (silence > 0)
		return silence;
	if (pace->burst_limit <= 0 || pace->burst_limit > BURST_LIMIT_MOST)
		return 0;
	/* rounded up: never wake a moment too early and ask in a circle */
	return (epds_burst_reserve(pace->burst_limit, BURST_WINDOW_MS, 1) + 999) /
		1000;
}

/*
 * epds_pace_probing
 *		Is the service being tried with one request at a time?
 */
bool
epds_pace_probing(const EpdsPace *pace)
{
	return pace->failures > 1 || pace->last_429 != 0;
}

/*
 * epds_pace_failing
 *		Has the service failed in more than one round, without a good answer
 *		since?
 */
bool
epds_pace_failing(const EpdsPace *pace)
{
	return pace->failures > 1;
}

/*
 * epds_pace_success
 *		The service answered a request sent at sent_ms.  True when that ends a
 *		back-off.
 *
 * What was let through before the last 429 says nothing about it.
 */
bool
epds_pace_success(EpdsPace *pace, int64 sent_ms)
{
	bool		mended = epds_pace_failing(pace);

	pace->failures = 0;
	if (sent_ms > pace->last_429)
		pace->last_429 = 0;
	if (mended)
		pace->hold_until = 0;
	return mended;
}

/*
 * epds_pace_hold
 *		Nothing leaves for so long.
 */
void
epds_pace_hold(EpdsPace *pace, int64 wait_ms)
{
	pace->hold_until = Max(pace->hold_until,
						   epds_clock_ms() + with_jitter(wait_ms));
}

/*
 * epds_pace_snooze
 *		The service asks for silence (429).
 */
void
epds_pace_snooze(EpdsPace *pace, int64 wait_ms)
{
	pace->last_429 = epds_clock_ms();
	epds_pace_hold(pace, wait_ms);
}

/*
 * epds_pace_failure
 *		A request sent at sent_ms was lost, or answered by 5xx.  True when that
 *		begins a back-off (say so once).
 */
bool
epds_pace_failure(EpdsPace *pace, int64 sent_ms)
{
	int64		now = epds_clock_ms();
	int64		wait_ms = BACKOFF_FIRST_MS;
	int			i;

	/* On its way when the last round was counted: the same round. */
	if (pace->failures > 0 && sent_ms <= pace->failed_at)
		return false;

	pace->failures++;
	pace->failed_at = now;
	for (i = 2; i < pace->failures && wait_ms < BACKOFF_MOST_MS; i++)
		wait_ms *= 2;
	if (pace->failures > 1)
		pace->hold_until = Max(pace->hold_until,
							   now + with_jitter(Min(wait_ms, BACKOFF_MOST_MS)));
	return pace->failures == 2;
}

/*
 * epds_pace_since_429
 *		Milliseconds since the last 429 when nothing succeeded since, else -1.
 */
int64
epds_pace_since_429(const EpdsPace *pace)
{
	return pace->last_429 == 0 ? -1 : epds_clock_ms() - pace->last_429;
}

/*
 * epds_pace_seen
 *		Note what an answer's headers said (-1 = nothing).
 *
 * Answers of requests that were on their way together arrive in any order; of
 * these the smallest remainder is the latest.
 */
void
epds_pace_seen(EpdsPace *pace, int64 sent_ms, int64 burst_limit,
			   int64 daily_limit, int64 daily_remaining)
{
	if (burst_limit >= 0)
	{
		pace->news |= pace->seen_burst_limit != burst_limit;
		pace->seen_burst_limit = burst_limit;
	}
	if (daily_limit >= 0)
		pace->seen_daily_limit = daily_limit;
	if (daily_remaining >= 0)
	{
		bool		together = sent_ms <= pace->seen_at;

		if (!together || pace->seen_daily_remaining < 0 ||
			daily_remaining < pace->seen_daily_remaining)
			pace->seen_daily_remaining = daily_remaining;
		pace->seen_at = epds_clock_ms();
		pace->news = true;
	}
}

/*
 * epds_pace_clock
 *		Note what time it is at the service (seconds since 1970, -1 = unknown).
 */
void
epds_pace_clock(EpdsPace *pace, int64 server_time)
{
	if (server_time >= 0)
		pace->seen_server_time = server_time;
}

/*
 * append_figure
 *		"name":value, or null when it is not known.
 */
static void
append_figure(StringInfo to, const char *name, int64 value)
{
	if (value < 0)
		appendStringInfo(to, "\"%s\":null,", name);
	else
		appendStringInfo(to, "\"%s\":" INT64_FORMAT ",", name, value);
}

/*
 * epds_pace_figures
 *		What the headers said last, as JSON for _settle().
 */
void
epds_pace_figures(const EpdsPace *pace, StringInfo to)
{
	appendStringInfoChar(to, '{');
	append_figure(to, "daily_limit", pace->seen_daily_limit);
	append_figure(to, "daily_remaining",
				  pace->news ? pace->seen_daily_remaining : -1);
	append_figure(to, "burst_limit", pace->seen_burst_limit);
	append_figure(to, "server_time", pace->seen_server_time);
	to->data[to->len - 1] = '}';	/* instead of the last comma */
}

/*
 * epds_pace_told
 *		SQL knows the figures now: an old remainder must not be told twice, it
 *		would overwrite what was booked since.
 */
void
epds_pace_told(EpdsPace *pace)
{
	pace->news = false;
}

/*
 * reserve_tokens
 *		Book tokens of the day in a block of its own; milliseconds to wait, 0 =
 *		booked.  Learns the burst limit in passing.
 */
static int64
reserve_tokens(EpdsPace *pace, int tokens, int lane)
{
	const char *args[2];
	int64		wait_ms;

	args[0] = psprintf("%d", tokens);
	args[1] = psprintf("%d", lane);

	epds_tx_begin();
	epds_sql("SELECT exact_pd_sync._burst_limit()", 0, NULL);
	pace->burst_limit = (int) epds_sql_int(0, 0, 0);
	epds_sql("SELECT exact_pd_sync._pipedrive_reserve($1::integer, $2::integer)",
			 2, args);
	wait_ms = epds_sql_int(0, 0, 0);
	epds_tx_commit();
	return wait_ms;
}

/*
 * wait_quietly
 *		Wait with nothing held; tell the person why when it takes long.
 */
static void
wait_quietly(int64 wait_ms, const char *what)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = epds_wait_event("ExactPdSyncBudget");
	if (wait_ms > WAIT_MOST_MS)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("Pipedrive's %s is used up for the next " INT64_FORMAT " minutes",
						what, wait_ms / 60000 + 1),
				 errhint("Try again after " INT64_FORMAT " minutes.",
						 wait_ms / 60000 + 1)));
	if (wait_ms >= NOTICE_AFTER_MS)
		ereport(NOTICE,
				(errmsg("waiting " INT64_FORMAT " s for Pipedrive's %s",
						(wait_ms + 999) / 1000, what)));
	epds_http_sleep((long) wait_ms, wait_event);
}

/*
 * epds_budget_book
 *		Book tokens and a place in the burst window for one call.
 */
void
epds_budget_book(EpdsPace *pace, int tokens, int lane)
{
	int64		wait_ms;

	while ((wait_ms = reserve_tokens(pace, tokens, lane)) > 0)
		wait_quietly(wait_ms, "daily token budget");
	while ((wait_ms = epds_pace_reserve(pace)) > 0)
		wait_quietly(wait_ms, "request limit");
}
