/*-------------------------------------------------------------------------
 *
 * reconcile.c
 *		CALL reconcile(): what Exact has, held against staging, and the lists of
 *		Pipedrive, held against what was sent.
 *
 * Everything is judged in SQL (61_drift.sql to 63_reconcile_end.sql); putting
 * right is the delivery worker's business.  This run only reads.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/reconcile.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "exact.h"
#include "exact_internal.h"
#include "steps.h"
#include "tx.h"

/* As history: what is kept for live orders is left to them. */
#define RECONCILE_LANE 3
#define RECONCILE_LOCK_KEY 101

/* Pages of 500, and checks: room for millions of records. */
#define MOST_STEPS 100000

/* A feed that another session reads: asked for again, and for how long. */
#define FEED_PAUSE_MS 1000
#define FEED_PATIENCE_MS 60000

/* One feed of one division. */
typedef struct Feed
{
	int			division;
	char	   *name;
} Feed;

/*
 * next_feed
 *		The next feed that this run has not read to its end.  False: none left.
 */
static bool
next_feed(int64 run_id, Feed *feed)
{
	const char *args[1] = {psprintf(INT64_FORMAT, run_id)};
	bool		found;

	epds_tx_begin();
	found = epds_sql("SELECT division, feed"
					 " FROM exact_pd_sync._reconcile_feed($1::bigint)",
					 1, args) > 0;
	if (found)
	{
		feed->division = (int) epds_sql_int(0, 0, 0);
		feed->name = epds_sql_value(0, 1);
	}
	epds_tx_commit();
	return found;
}

/*
 * read_feed
 *		Read a feed, or wait for the session that reads it: between two attempts
 *		nothing is held.  *waited_ms is the patience used up in this run.
 *
 * Whether the feed is still to be read, next_feed() says.
 */
static void
read_feed(const Feed *feed, int64 run_id, int *waited_ms)
{
	if (epds_poll_feed(feed->division, feed->name, run_id) >= 0)
		return;
	if (*waited_ms >= FEED_PATIENCE_MS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("another session reads feed \"%s\" of division %d",
						feed->name, feed->division)));
	if (*waited_ms == 0)
		ereport(NOTICE,
				(errmsg("waiting for another session, which reads feed \"%s\" of division %d",
						feed->name, feed->division)));
	epds_pause(FEED_PAUSE_MS);
	*waited_ms += FEED_PAUSE_MS;
}

/*
 * ask_exact
 *		Read from Exact which orders there are; what is not staged is read, too.
 *
 * When Exact cannot be asked, what Pipedrive has is compared all the same:
 * returns why, in the current context.  NULL: all is well.
 */
static char *
ask_exact(int64 run_id)
{
	MemoryContext cxt = CurrentMemoryContext;
	char	   *volatile gap = NULL;

	PG_TRY();
	{
		Feed		feed;
		int			waited_ms = 0;

		while (next_feed(run_id, &feed))
			read_feed(&feed, run_id, &waited_ms);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		/* a person, or a shutdown, said stop */
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			PG_RE_THROW();
		FlushErrorState();
		epds_tx_abort();
		MemoryContextSwitchTo(cxt);
		gap = psprintf("Exact could not be asked which orders there are: %s",
					   error->message);
		FreeErrorData(error);
	}
	PG_END_TRY();
	if (gap != NULL)
		ereport(WARNING, (errmsg("%s", gap)));
	return gap;
}

static const EpdsSteps reconcile_steps = {
	.procedure = "reconcile",
	.begin_sql = "SELECT exact_pd_sync._reconcile_begin()",
	.next_sql = "SELECT step, method, path, body, tokens, note"
	" FROM exact_pd_sync._reconcile_next($1::bigint)",
	.take_sql = "SELECT exact_pd_sync._reconcile_take($1::bigint, $2, $3::integer, $4)",
	.before = ask_exact,
	.end_sql = "SELECT exact_pd_sync._reconcile_end($1::bigint)",
	.lane = RECONCILE_LANE,
	.lock_key = RECONCILE_LOCK_KEY,
	.most_steps = MOST_STEPS,
	.idle = "Pipedrive is not set up yet: there is nothing to compare",
};

PG_FUNCTION_INFO_V1(epds_reconcile);

/*
 * epds_reconcile
 *		SQL: CALL reconcile().
 */
Datum
epds_reconcile(PG_FUNCTION_ARGS)
{
	epds_steps_run(fcinfo, &reconcile_steps);
	PG_RETURN_VOID();
}
