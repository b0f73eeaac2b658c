/*-------------------------------------------------------------------------
 *
 * poll.c
 *		CALL poll_*() and import_history(): page by page from Exact into the
 *		staging tables.
 *
 *		_feed_next() ─▶ GET ─▶ scan ─▶ _stage_page() ─▶ commit ─▶ again
 *
 * What is read next, what an answer means and how far a feed has come is SQL's
 * matter (sql/27_stage_page.sql); a page and the moved position are one
 * transaction.  Here is the loop around it, and what becomes of trouble: a feed
 * that fails does not keep the others from being read, but the run is a
 * failure then and ends in an ERROR, so that pg_cron's history tells the truth
 * (law 11).
 *
 * Two sessions may poll at the same time.  A group that is being polled is not
 * polled twice, and a feed that another session reads (an import reads those
 * of the polls too) is left to that one.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/poll.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"

#include "compat.h"
#include "exact_internal.h"
#include "tx.h"

PG_FUNCTION_INFO_V1(epds_poll_orders);
PG_FUNCTION_INFO_V1(epds_poll_customers);
PG_FUNCTION_INFO_V1(epds_poll_products);
PG_FUNCTION_INFO_V1(epds_poll_invoices);
PG_FUNCTION_INFO_V1(epds_poll_contacts);
PG_FUNCTION_INFO_V1(epds_poll_all);
PG_FUNCTION_INFO_V1(epds_import_history);

/* What a feed is asked to do at most before we think that it runs in circles. */
#define MAX_PAGES 100000

typedef struct Feed
{
	int			division;
	char	   *name;
	bool		optional;
} Feed;

/* A run of one group: what it read and what went wrong. */
typedef struct Run
{
	const char *what;			/* name of the procedure */
	const char *group;
	bool		importing;
	int64		id;
	int			feeds;
	int			failed;
	bool		various;		/* the failures are not all the same */
	ErrorData  *first;			/* of the failures */
	StringInfoData failures;	/* one line each */
} Run;

/* Progress of one feed. */
typedef struct Progress
{
	int			pages;
	int64		rows;
	int64		changed;
	int64		refused;
	bool		done;
	char	   *last_path;		/* of the last page that was staged */
} Progress;

/* ------------------------------------------------------------- one page */

/* The three parameters that most functions of a feed begin with. */
static void
feed_args(const char **args, int division, const char *feed, int64 run_id)
{
	args[0] = psprintf("%d", division);
	args[1] = feed;
	args[2] = psprintf("%lld", (long long) run_id);
}

/* Path or URL of the next page; NULL at the end. */
static char *
next_page(int division, const char *feed, int64 run_id)
{
	const char *args[3];
	char	   *path;

	feed_args(args, division, feed, run_id);
	epds_tx_begin();
	epds_sql("SELECT exact_pd_sync._feed_next($1::integer, $2, $3::bigint)",
			 3, args);
	path = epds_sql_value(0, 0);
	epds_tx_commit();
	return path;
}

/*
 * Settle and stage a page, and move the position, in one transaction.  A
 * continuation that leads elsewhere throws the whole page away, before it is
 * stored.
 */
static void
stage_page(int division, const char *feed, int64 run_id, const char *path,
		   const EpdsHttpAnswer *answer, size_t replaced, Progress *progress)
{
	const char *args[4];
	char	   *note = NULL;
	char	   *base_url;
	char	   *next_url;

	if (replaced > 0)
		note = psprintf("%zu characters that PostgreSQL cannot store were replaced",
						replaced);
	feed_args(args, division, feed, run_id);
	args[3] = answer->body;

	epds_tx_begin();
	epds_exact_settle(division, feed, path, answer, note);
	epds_sql("SELECT s.rows, s.changed, s.refused, s.next_url, s.done,"
			 " (SELECT a.base_url FROM exact_pd_sync._exact_app() AS a)"
			 " FROM exact_pd_sync._stage_page($1::integer, $2, $3::bigint, $4) AS s",
			 4, args);
	next_url = epds_sql_value(0, 3);
	base_url = epds_sql_value(0, 5);
	if (next_url != NULL && !epds_stays_on_site(next_url, base_url))
		epds_throw_other_site(next_url);
	progress->rows += epds_sql_int(0, 0, 0);
	progress->changed += epds_sql_int(0, 1, 0);
	progress->refused += epds_sql_int(0, 2, 0);
	progress->done = epds_sql_bool(0, 4, false);
	epds_tx_commit();
	progress->pages++;
}

/*
 * Ask SQL what to do after a refusal.  True: ask for the next page again.
 * False: leave the feed, with a WARNING.  Throws when the feed must be read.
 */
static bool
refused_page(int division, const char *feed, int64 run_id,
			 const EpdsHttpAnswer *answer)
{
	const char *args[5];
	char	   *verdict;

	feed_args(args, division, feed, run_id);
	args[3] = psprintf("%d", answer->status);
	args[4] = answer->error;
	epds_tx_begin();
	epds_sql("SELECT exact_pd_sync._feed_refused($1::integer, $2, $3::bigint,"
			 " $4::integer, $5)", 5, args);
	verdict = epds_sql_value(0, 0);
	epds_tx_commit();

	if (verdict != NULL && strcmp(verdict, "retry") == 0)
		return true;
	if (verdict != NULL && strcmp(verdict, "skip") == 0)
	{
		ereport(WARNING,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("feed \"%s\" of division %d is not available: %s",
						feed, division, answer->error),
				 errdetail("It is optional and left out for now.")));
		return false;
	}
	ereport(ERROR,
			(errcode(answer->status == 401 || answer->status == 403 ?
					 ERRCODE_INSUFFICIENT_PRIVILEGE : ERRCODE_FDW_ERROR),
			 errmsg("Exact Online refused to give feed \"%s\" of division %d: %s",
					feed, division, answer->error),
			 answer->status == 401 || answer->status == 403 ?
			 errhint("Check the scopes of the app in the Exact App Center and the rights of the user who consented in this division.") : 0));
	return false;				/* not reached */
}

/* Tell the person who waits how far we are, from the second page on. */
static void
notice_progress(int division, const char *feed, const Progress *progress)
{
	if (progress->pages < 2)
		return;
	ereport(NOTICE,
			(errmsg("%s of division %d: %lld rows read, %lld changed, %d pages",
					feed, division, (long long) progress->rows,
					(long long) progress->changed, progress->pages)));
}

/*
 * Read the next page, if there is one.  False at the end of the feed.  All
 * memory of it belongs to the current context.
 */
static bool
read_page(int division, const char *feed, int64 run_id, bool importing,
		  Progress *progress, MemoryContext keep)
{
	EpdsHttpAnswer answer;
	size_t		replaced;
	char	   *path = next_page(division, feed, run_id);

	if (path == NULL)
		return false;
	if (progress->pages >= MAX_PAGES ||
		(progress->last_path != NULL && strcmp(progress->last_path, path) == 0))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("feed \"%s\" of division %d runs in circles",
						feed, division),
				 errdetail("After %d pages it leads to \"%s\" again.",
						   progress->pages, epds_one_line(path, 200))));

	switch (epds_exact_read(division, feed, path, importing, &answer, &replaced))
	{
		case EPDS_EXACT_PAGE:
			stage_page(division, feed, run_id, path, &answer, replaced, progress);
			if (progress->last_path != NULL)
				pfree(progress->last_path);
			progress->last_path = MemoryContextStrdup(keep, path);
			notice_progress(division, feed, progress);
			return !progress->done;
		case EPDS_EXACT_REFUSED:
			return refused_page(division, feed, run_id, &answer);
		case EPDS_EXACT_FAILED:
			ereport(ERROR,
					(errcode(answer.result == EPDS_HTTP_OK ||
							 answer.result == EPDS_HTTP_REFUSED ?
							 ERRCODE_FDW_ERROR : ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not read feed \"%s\" of division %d: %s",
							feed, division, answer.error),
					 errdetail("Its position is where it was; the next run goes on there.")));
	}
	return false;				/* not reached */
}

/* ------------------------------------------------------------- one feed */

static uint32
feed_key(int division, const char *feed)
{
	return string_hash(feed, strlen(feed) + 1) ^ murmurhash32((uint32) division);
}

/* Read a feed to its end.  The lock is held.  Returns rows staged. */
static int64
drain_feed(int division, const char *feed, int64 run_id, bool importing)
{
	Progress	progress = {0};
	MemoryContext keep = CurrentMemoryContext;
	MemoryContext page_cxt = AllocSetContextCreate(keep, "exact_pd_sync page",
												   ALLOCSET_DEFAULT_SIZES);
	bool		more = true;

	while (more)
	{
		MemoryContextSwitchTo(page_cxt);
		more = read_page(division, feed, run_id, importing, &progress, keep);
		MemoryContextSwitchTo(keep);
		MemoryContextReset(page_cxt);
	}
	MemoryContextDelete(page_cxt);
	if (progress.refused > 0)
		ereport(WARNING,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("%lld rows of feed \"%s\" of division %d could not be stored",
						(long long) progress.refused, feed, division),
				 errhint("Look at exact_pd_sync.refused_rows for the rows and the reasons.")));
	return progress.rows;
}

/*
 * The same under the lock of the feed.  -1: another session reads it, and it
 * is left to that one.
 */
static int64
poll_feed(int division, const char *feed, int64 run_id, bool importing)
{
	uint32		key = feed_key(division, feed);
	volatile int64 rows = 0;

	if (!epds_lock_try(EPDS_LOCK_FEED, key))
		return -1;
	PG_TRY();
	{
		rows = drain_feed(division, feed, run_id, importing);
	}
	PG_CATCH();
	{
		epds_lock_release(EPDS_LOCK_FEED, key);
		PG_RE_THROW();
	}
	PG_END_TRY();
	epds_lock_release(EPDS_LOCK_FEED, key);
	return rows;
}

/*
 * Read one feed to its end; rows staged, -1 when another session reads it.
 * Outside a block only; throws when the feed could not be read.
 */
int64
epds_poll_feed(int division, const char *feed, int64 run_id)
{
	return poll_feed(division, feed, run_id, true);
}

/* -------------------------------------------------------------- one run */

/*
 * Is it of no use to go on with other feeds after this?  No token, no right to
 * go out, no key to the secrets, the extension gone, or a person (or a
 * shutdown) said stop.
 */
static bool
is_hopeless(int sqlstate)
{
	return sqlstate == ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION ||
		sqlstate == ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION ||
		sqlstate == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE ||
		sqlstate == ERRCODE_CONFIG_FILE_ERROR ||
		sqlstate == ERRCODE_DATA_CORRUPTED ||
		sqlstate == ERRCODE_OBJECT_IN_USE ||
		sqlstate == ERRCODE_UNDEFINED_OBJECT ||
		sqlstate == ERRCODE_UNDEFINED_FUNCTION ||
		sqlstate == ERRCODE_INVALID_SCHEMA_NAME ||
		ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_OPERATOR_INTERVENTION;
}

/*
 * Read one feed; its ERROR is caught, its transaction thrown away, and the
 * error data returned.  NULL: all is well.  The feed has a memory context of
 * its own: a page that failed may have tens of megabytes.
 */
static ErrorData *
try_feed(const Feed *feed, const Run *run)
{
	MemoryContext cxt = CurrentMemoryContext;
	MemoryContext feed_cxt = AllocSetContextCreate(cxt, "exact_pd_sync feed",
												   ALLOCSET_SMALL_SIZES);
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		MemoryContextSwitchTo(feed_cxt);
		if (poll_feed(feed->division, feed->name, run->id, run->importing) < 0)
			ereport(NOTICE,
					(errmsg("feed \"%s\" of division %d is being read by another session",
							feed->name, feed->division)));
		MemoryContextSwitchTo(cxt);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		epds_tx_abort();
	}
	PG_END_TRY();
	MemoryContextDelete(feed_cxt);
	return error;
}

/* See exact.h. */
ErrorData *
epds_poll_try_feed(int division, char *name, int64 run_id)
{
	Feed		feed = {.division = division, .name = name};
	Run			run = {.id = run_id};

	return try_feed(&feed, &run);
}

/* The feeds of a group; an empty list when it is paused or nothing is set up. */
static List *
group_feeds(const char *group)
{
	const char *args[1] = {group};
	List	   *feeds = NIL;
	int			n;

	epds_tx_begin();
	n = epds_sql("SELECT f.division, f.feed, f.optional"
				 " FROM exact_pd_sync._poll_feeds($1) AS f", 1, args);
	for (int i = 0; i < n; i++)
	{
		Feed	   *feed = palloc(sizeof(Feed));

		feed->division = (int) epds_sql_int(i, 0, 0);
		feed->name = epds_sql_value(i, 1);
		feed->optional = epds_sql_bool(i, 2, false);
		feeds = lappend(feeds, feed);
	}
	epds_tx_commit();
	return feeds;
}

static void
begin_run(Run *run)
{
	const char *args[1] = {run->what};

	epds_tx_begin();
	epds_sql("SELECT exact_pd_sync._run_begin($1)", 1, args);
	run->id = epds_sql_int(0, 0, 0);
	epds_tx_commit();
}

static void
end_run(const Run *run)
{
	const char *args[2];

	args[0] = psprintf("%lld", (long long) run->id);
	args[1] = run->failed > 0 ? run->failures.data : NULL;
	epds_tx_begin();
	epds_sql("SELECT exact_pd_sync._run_end($1::bigint, $2)", 2, args);
	epds_tx_commit();
}

/*
 * End a run that failed.  That may fail too (the extension was dropped, the
 * disk is full); what is reported then is the first trouble, not this one.
 */
static void
end_failed_run(const Run *run)
{
	MemoryContext cxt = CurrentMemoryContext;

	PG_TRY();
	{
		end_run(run);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		FlushErrorState();
		epds_tx_abort();
	}
	PG_END_TRY();
}

/* Note a failure in the run. */
static void
add_failure(Run *run, const Feed *feed, ErrorData *error)
{
	if (run->failed++ == 0)
		run->first = error;
	else
	{
		run->various |= strcmp(run->first->message, error->message) != 0;
		appendStringInfoChar(&run->failures, '\n');
	}
	if (feed != NULL && strstr(error->message, feed->name) == NULL)
		appendStringInfo(&run->failures, "%s of division %d: ", feed->name,
						 feed->division);
	appendStringInfoString(&run->failures, error->message);
}

/* Read the feeds of a run, one after the other. */
static void
read_feeds(Run *run, List *feeds)
{
	ListCell   *cell;

	foreach(cell, feeds)
	{
		const Feed *feed = lfirst(cell);
		ErrorData  *error;

		run->feeds++;
		error = try_feed(feed, run);
		if (error == NULL)
			continue;
		if (is_hopeless(error->sqlerrcode))
		{
			add_failure(run, NULL, error);
			break;
		}
		if (feed->optional)
			ereport(WARNING,
					(errcode(error->sqlerrcode),
					 errmsg("%s", error->message),
					 errdetail("Feed \"%s\" is optional; the others are read.",
							   feed->name)));
		else
			add_failure(run, feed, error);
	}
}

/* Prepare an import in the run's first block, then read its feeds. */
static void
import_feeds(Run *run, const char *months, const char *staging_months)
{
	const char *args[3];

	args[0] = psprintf("%lld", (long long) run->id);
	args[1] = months;
	args[2] = staging_months;
	epds_tx_begin();
	epds_sql("SELECT exact_pd_sync._import_begin($1::bigint, $2::integer, $3::integer)",
			 3, args);
	epds_tx_commit();
	read_feeds(run, group_feeds(run->group));
}

/* The same with its ERROR noted in the run. */
static void
try_import(Run *run, const char *months, const char *staging_months)
{
	MemoryContext cxt = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		import_feeds(run, months, staging_months);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		epds_tx_abort();
	}
	PG_END_TRY();
	if (error != NULL)
		add_failure(run, NULL, error);
}

/*
 * Poll a group whose lock is held.  months: NULL, or those of an import.
 * False when there is nothing to poll.
 */
static bool
run_group(Run *run, const char *months, const char *staging_months)
{
	List	   *feeds = NIL;

	if (months == NULL)
	{
		feeds = group_feeds(run->group);
		if (feeds == NIL)
			return false;
	}
	begin_run(run);
	if (months == NULL)
		read_feeds(run, feeds);
	else
		try_import(run, months, staging_months);

	if (run->failed > 0)
		end_failed_run(run);
	else
		end_run(run);
	return true;
}

/*
 * The same under the lock of the group.  A group that another session polls is
 * left to it.
 */
static bool
run_group_locked(Run *run, const char *months, const char *staging_months)
{
	uint32		key = string_hash(run->group, strlen(run->group) + 1);
	volatile bool polled = false;

	if (!epds_lock_try(EPDS_LOCK_GROUP, key))
	{
		ereport(NOTICE,
				(errmsg("%s is already running in another session", run->what)));
		return true;
	}
	PG_TRY();
	{
		polled = run_group(run, months, staging_months);
	}
	PG_CATCH();
	{
		epds_lock_release(EPDS_LOCK_GROUP, key);
		PG_RE_THROW();
	}
	PG_END_TRY();
	epds_lock_release(EPDS_LOCK_GROUP, key);
	return polled;
}

/* Throw what a run could not read; nothing if it read all. */
static void
throw_failures(const Run *run)
{
	const ErrorData *first = run->first;

	if (run->failed == 0)
		return;
	if (run->failed == 1)
		ereport(ERROR,
				(errcode(first->sqlerrcode),
				 errmsg("%s", run->failures.data),
				 first->detail ? errdetail_internal("%s", first->detail) : 0,
				 first->hint ? errhint("%s", first->hint) : 0,
				 errcontext("%s%sprocedure %s, run %lld",
							first->context ? first->context : "",
							first->context ? "\n" : "",
							run->what, (long long) run->id)));

	/* one cause, such as a limit: with all that is known of it */
	if (!run->various)
		ereport(ERROR,
				(errcode(first->sqlerrcode),
				 errmsg("%s", first->message),
				 errdetail("%s%s%d of %d feeds were not read.",
						   first->detail ? first->detail : "",
						   first->detail ? " " : "", run->failed, run->feeds),
				 first->hint ? errhint("%s", first->hint) : 0,
				 errcontext("procedure %s, run %lld", run->what,
							(long long) run->id)));
	ereport(ERROR,
			(errcode(first->sqlerrcode),
			 errmsg("%s could not read %d of %d feeds", run->what, run->failed,
					run->feeds),
			 errdetail_internal("%s", run->failures.data),
			 first->hint ? errhint("%s", first->hint) : 0,
			 first->context ? errcontext("of the first one: %s", first->context) : 0));
}

/* ----------------------------------------------------------- procedures */

static void
init_run(Run *run, const char *what, const char *group)
{
	memset(run, 0, sizeof(*run));
	run->what = what;
	run->group = group;
	initStringInfo(&run->failures);
}

/* The body of every CALL poll_…() but poll_all(). */
static void
poll_procedure(FunctionCallInfo fcinfo, const char *what, const char *group)
{
	Run			run;

	epds_procedure_enter(fcinfo, what);
	init_run(&run, what, group);
	if (!run_group_locked(&run, NULL, NULL))
		ereport(NOTICE,
				(errmsg("%s has nothing to read", what),
				 errdetail("The part \"%s\" is paused, or no division is configured.",
						   group)));
	throw_failures(&run);
	epds_procedure_leave();
}

Datum
epds_poll_orders(PG_FUNCTION_ARGS)
{
	poll_procedure(fcinfo, "poll_orders", "orders");
	PG_RETURN_VOID();
}

Datum
epds_poll_customers(PG_FUNCTION_ARGS)
{
	poll_procedure(fcinfo, "poll_customers", "customers");
	PG_RETURN_VOID();
}

Datum
epds_poll_products(PG_FUNCTION_ARGS)
{
	poll_procedure(fcinfo, "poll_products", "products");
	PG_RETURN_VOID();
}

Datum
epds_poll_invoices(PG_FUNCTION_ARGS)
{
	poll_procedure(fcinfo, "poll_invoices", "invoices");
	PG_RETURN_VOID();
}

Datum
epds_poll_contacts(PG_FUNCTION_ARGS)
{
	poll_procedure(fcinfo, "poll_contacts", "contacts");
	PG_RETURN_VOID();
}

/*
 * CALL poll_all(): each group is a run of its own; customers and products come
 * first, so that an order finds what it names.
 */
Datum
epds_poll_all(PG_FUNCTION_ARGS)
{
	static const char *const groups[][2] = {
		{"poll_customers", "customers"},
		{"poll_products", "products"},
		{"poll_orders", "orders"},
		{"poll_invoices", "invoices"},
		{"poll_contacts", "contacts"},
	};
	Run			all;
	bool		polled = false;

	epds_procedure_enter(fcinfo, "poll_all");
	init_run(&all, "poll_all", NULL);
	for (size_t i = 0; i < lengthof(groups); i++)
	{
		Run			run;

		init_run(&run, groups[i][0], groups[i][1]);
		polled |= run_group_locked(&run, NULL, NULL);
		all.feeds += run.feeds;
		if (run.failed == 0)
			continue;
		all.various |= run.various;
		if (all.failed > 0)
		{
			all.various |= strcmp(all.first->message, run.first->message) != 0;
			appendStringInfoChar(&all.failures, '\n');
		}
		else
			all.first = run.first;
		appendStringInfoString(&all.failures, run.failures.data);
		all.failed += run.failed;
		all.id = run.id;
		if (is_hopeless(run.first->sqlerrcode))
			break;
	}
	if (!polled)
		ereport(NOTICE,
				(errmsg("poll_all has nothing to read"),
				 errdetail("All parts are paused, or no division is configured.")));
	throw_failures(&all);
	epds_procedure_leave();
	PG_RETURN_VOID();
}

/* CALL import_history(months, staging_months) */
Datum
epds_import_history(PG_FUNCTION_ARGS)
{
	Run			run;
	char	   *months;
	char	   *staging_months;

	epds_procedure_enter(fcinfo, "import_history");
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("months and staging_months must not be null")));
	months = psprintf("%d", PG_GETARG_INT32(0));
	staging_months = psprintf("%d", PG_GETARG_INT32(1));

	init_run(&run, "import_history", "history");
	run.importing = true;
	(void) run_group_locked(&run, months, staging_months);
	if (run.failed == 0 && run.id != 0 && run.feeds == 0)
		ereport(NOTICE,
				(errmsg("import_history has nothing to read"),
				 errdetail("The part \"history\" is paused.")));
	throw_failures(&run);
	epds_procedure_leave();
	PG_RETURN_VOID();
}
