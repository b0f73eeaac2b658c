/*-------------------------------------------------------------------------
 *
 * hints.c
 *		Follows hints: the feeds that notifications point at are read early.
 *
 * Which feeds, when, and when a hint is answered is SQL's matter
 * (sql/28_hints.sql).  Runs in the intake worker, through the same code that
 * serves CALL poll_orders(), under the same locks and limits.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/hints.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/pg_list.h"

#include "compat.h"
#include "exact.h"
#include "exact_internal.h"
#include "tx.h"

/* See exact.h. */
int64
epds_hints_due_in(void)
{
	int64		wait;

	epds_tx_begin();
	if (!epds_extension_exists())
	{
		epds_tx_commit();
		return -1;
	}
	epds_sql("SELECT exact_pd_sync._hints_wait()", 0, NULL);
	wait = epds_sql_int(0, 0, -1);
	epds_tx_commit();
	return wait;
}

typedef struct HintedFeed
{
	int			division;
	char	   *name;
	bool		optional;
} HintedFeed;

/* The feeds that are due; *started is when that was decided. */
static List *
due_feeds(char **started)
{
	List	   *feeds = NIL;
	int			n;

	epds_tx_begin();
	epds_sql("SELECT clock_timestamp()", 0, NULL);
	*started = epds_sql_value(0, 0);
	n = epds_sql("SELECT f.division, f.feed, f.optional"
				 " FROM exact_pd_sync._hints_feeds() AS f", 0, NULL);
	for (int i = 0; i < n; i++)
	{
		HintedFeed *feed = palloc(sizeof(HintedFeed));

		feed->division = (int) epds_sql_int(i, 0, 0);
		feed->name = epds_sql_value(i, 1);
		feed->optional = epds_sql_bool(i, 2, false);
		feeds = lappend(feeds, feed);
	}
	epds_tx_commit();
	return feeds;
}

static int64
begin_run(void)
{
	int64		run_id;

	epds_tx_begin();
	epds_sql("SELECT exact_pd_sync._run_begin('hints')", 0, NULL);
	run_id = epds_sql_int(0, 0, 0);
	epds_tx_commit();
	return run_id;
}

/* End the run; without an error the hints were looked for once more. */
static void
end_run(int64 run_id, const char *started, const char *error)
{
	const char *args[2];

	epds_tx_begin();
	args[0] = started;
	if (error == NULL)
		epds_sql("SELECT exact_pd_sync._hints_read($1::timestamptz)", 1, args);
	args[0] = psprintf("%lld", (long long) run_id);
	args[1] = error;
	epds_sql("SELECT exact_pd_sync._run_end($1::bigint, $2)", 2, args);
	epds_tx_commit();
}

/* See exact.h. */
void
epds_hints_follow(void)
{
	char	   *started;
	List	   *feeds = due_feeds(&started);
	ErrorData  *first = NULL;
	ListCell   *cell;
	int64		run_id;

	if (feeds == NIL)
		return;
	run_id = begin_run();
	foreach(cell, feeds)
	{
		HintedFeed *feed = lfirst(cell);
		ErrorData  *error = epds_poll_try_feed(feed->division, feed->name, run_id);

		if (error != NULL && !feed->optional && first == NULL)
			first = error;
	}
	end_run(run_id, started, first ? first->message : NULL);
	if (first != NULL)
		ReThrowError(first);
}
