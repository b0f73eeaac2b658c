/*-------------------------------------------------------------------------
 *
 * hints.c
 *		Follows hints: the feeds that notifications point at are read early.
 *
 * Which feeds, when, and when a hint is answered is SQL's matter
 * (sql/28_hints.sql).  Runs in the intake worker, through the same code that
 * serves CALL poll_orders(), under the same locks and limits.  A feed that
 * fails keeps no other one waiting.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/hints.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/json.h"

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

/* Feeds that could not be read. */
typedef struct FailedFeeds
{
	StringInfoData list;		/* JSON: division, feed, error of each */
	char	   *first;			/* the first error; NULL = none failed */
} FailedFeeds;

static void
begin_failed(FailedFeeds *failed)
{
	failed->first = NULL;
	initStringInfo(&failed->list);
	appendStringInfoChar(&failed->list, '[');
}

static void
note_failed(FailedFeeds *failed, const HintedFeed *feed, const char *message)
{
	if (failed->first == NULL)
		failed->first = pstrdup(message);
	else
		appendStringInfoChar(&failed->list, ',');
	appendStringInfo(&failed->list, "{\"division\":%d,\"feed\":", feed->division);
	escape_json(&failed->list, feed->name);
	appendStringInfoString(&failed->list, ",\"error\":");
	escape_json(&failed->list, message);
	appendStringInfoChar(&failed->list, '}');
}

/* End the run: the hints whose feeds were read were looked for once more. */
static void
end_run(int64 run_id, const char *started, FailedFeeds *failed)
{
	const char *args[2];
	char	   *trouble;

	appendStringInfoChar(&failed->list, ']');
	args[0] = started;
	args[1] = failed->list.data;
	epds_tx_begin();
	epds_sql("SELECT exact_pd_sync._hints_read($1::timestamptz, $2::jsonb)", 2, args);
	trouble = epds_sql_value(0, 0);
	args[0] = psprintf("%lld", (long long) run_id);
	args[1] = failed->first;
	epds_sql("SELECT exact_pd_sync._run_end($1::bigint, $2)", 2, args);
	epds_tx_commit();
	if (trouble != NULL)
		ereport(LOG,
				(errmsg("could not read all that notifications announced"),
				 errdetail_internal("%s", trouble),
				 errhint("They are read when Exact answers again, by a poll at the latest.")));
}

/* See exact.h. */
void
epds_hints_follow(void)
{
	char	   *started;
	List	   *feeds = due_feeds(&started);
	FailedFeeds failed;
	ListCell   *cell;
	int64		run_id;

	if (feeds == NIL)
		return;
	run_id = begin_run();
	begin_failed(&failed);
	foreach(cell, feeds)
	{
		const HintedFeed *feed = lfirst(cell);
		ErrorData  *error = epds_poll_try_feed(feed->division, feed->name, run_id);

		if (error != NULL && !feed->optional)
			note_failed(&failed, feed, error->message);
	}
	end_run(run_id, started, &failed);
}
