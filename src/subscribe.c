/*-------------------------------------------------------------------------
 *
 * subscribe.c
 *		CALL subscribe_webhooks() and unsubscribe_webhooks(): which sides are
 *		asked, and Exact's part.
 *
 *		list ─▶ what is missing or too much ─▶ calls ─▶ list again
 *
 * SQL decides from the lists (sql/66_subscribe.sql).  A call that fails, is
 * lost or says in Dutch that there is one already does not matter by itself:
 * the second list tells.  Pipedrive's part is subscribe_pipedrive.c.  Trouble
 * with one division or side does not keep the others from being seen to.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/subscribe.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "compat.h"
#include "exact_internal.h"
#include "instance.h"
#include "session_lock.h"
#include "subscribe.h"
#include "tx.h"

PG_FUNCTION_INFO_V1(epds_subscribe_webhooks);
PG_FUNCTION_INFO_V1(epds_unsubscribe_webhooks);

/* For the journal and the budget: as if it were a feed. */
#define FEED "webhooks"

#define SUBSCRIBE_LOCK_KEY 103

typedef struct Action
{
	char	   *topic;
	char	   *method;
	char	   *path;
	char	   *body;
} Action;

/* All subscriptions of a division, as Exact lists them; throws. */
static char *
read_list(int division)
{
	EpdsHttpAnswer answer;
	size_t		replaced;
	EpdsExactVerdict verdict;
	char	   *path = psprintf("/api/v1/%d/webhooks/WebhookSubscriptions", division);

	verdict = epds_exact_read(division, FEED, path, false, &answer, &replaced);
	if (verdict != EPDS_EXACT_PAGE)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("could not list the webhook subscriptions of division %d: %s",
						division, answer.error),
				 verdict != EPDS_EXACT_REFUSED ? 0 :
				 errhint("The app needs the right to manage webhooks; the user who consented must have it in this division.")));
	epds_tx_begin();
	epds_exact_settle(division, FEED, path, &answer, NULL);
	epds_tx_commit();
	return answer.body;
}

static List *
plan(int division, const char *list, bool wanted)
{
	const char *args[3] = {psprintf("%d", division), list, wanted ? "true" : "false"};
	List	   *actions = NIL;
	int			n;

	epds_tx_begin();
	n = epds_sql("SELECT p.topic, p.method, p.path, p.body"
				 " FROM exact_pd_sync._subscribe_plan($1::integer, $2, $3::boolean) AS p",
				 3, args);
	for (int i = 0; i < n; i++)
	{
		Action	   *action = palloc(sizeof(Action));

		action->topic = epds_sql_value(i, 0);
		action->method = epds_sql_value(i, 1);
		action->path = epds_sql_value(i, 2);
		action->body = epds_sql_value(i, 3);
		actions = lappend(actions, action);
	}
	epds_tx_commit();
	return actions;
}

/* Make the calls; errors are noted by topic, as members of a JSON object. */
static void
act(int division, List *actions, StringInfo errors)
{
	ListCell   *cell;

	foreach(cell, actions)
	{
		const Action *action = lfirst(cell);
		EpdsHttpAnswer answer;

		if (epds_exact_write(division, FEED, action->method, action->path,
							 action->body, &answer))
			continue;
		if (errors->len > 1)
			appendStringInfoChar(errors, ',');
		escape_json(errors, action->topic);
		appendStringInfoChar(errors, ':');
		escape_json(errors, epds_one_line(answer.error, 300));
	}
}

/* One division; returns what is not as it should be, or NULL. */
static char *
subscribe_division(int division, bool wanted)
{
	const char *args[4];
	StringInfoData errors;
	char	   *list = read_list(division);
	List	   *actions = plan(division, list, wanted);
	char	   *trouble;

	initStringInfo(&errors);
	appendStringInfoChar(&errors, '{');
	if (actions != NIL)
	{
		act(division, actions, &errors);
		list = read_list(division);
	}
	appendStringInfoChar(&errors, '}');
	args[0] = psprintf("%d", division);
	args[1] = list;
	args[2] = wanted ? "true" : "false";
	args[3] = errors.data;
	epds_tx_begin();
	epds_sql("SELECT exact_pd_sync._subscribe_settle($1::integer, $2, $3::boolean, $4::jsonb)",
			 4, args);
	trouble = epds_sql_value(0, 0);
	epds_tx_commit();
	return trouble;
}

static List *
all_divisions(void)
{
	List	   *divisions = NIL;
	int			n;

	epds_tx_begin();
	n = epds_sql("SELECT d.division FROM exact_pd_sync.divisions AS d ORDER BY 1", 0, NULL);
	for (int i = 0; i < n; i++)
		divisions = lappend_int(divisions, (int) epds_sql_int(i, 0, 0));
	epds_tx_commit();
	return divisions;
}

/* What is to be done; the same for every part. */
typedef struct Task
{
	bool		exact;			/* which sides */
	bool		pipedrive;
	bool		wanted;			/* at Exact: one per topic, or none */
	int			division;		/* the one whose turn it is */
	ErrorData  *error;			/* of the part before; NULL = none */
} Task;

/* One division of Exact. */
static void
do_division(Task *task)
{
	char	   *trouble = subscribe_division(task->division, task->wanted);

	if (trouble != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("not all webhook subscriptions of division %d are as they should be", task->division),
				 errdetail_internal("%s", trouble),
				 errhint("The address must be reachable by Exact over https and answer an empty POST with 200. The polls do without notifications.")));
	ereport(NOTICE,
			(errmsg(task->wanted ? "Exact notifies of changes in division %d" :
					"Exact no longer notifies of changes in division %d", task->division)));
}

static void
do_no_division(Task *task)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("no division is configured"),
			 errhint("SELECT exact_pd_sync.add_division(123456);")));
}

static void
do_pipedrive(Task *task)
{
	epds_subscribe_pipedrive();
}

/*
 * attempt
 *		Do one part.  Its error is kept while others are left to be done; the
 *		one that was kept becomes a warning when there is another.
 */
static void
attempt(Task *task, void (*part) (Task *task))
{
	MemoryContext cxt = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		part(task);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		/* a person, or a shutdown, said stop */
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			PG_RE_THROW();
		FlushErrorState();
		epds_tx_abort();
		MemoryContextSwitchTo(cxt);
	}
	PG_END_TRY();

	if (error == NULL)
		return;
	if (task->error != NULL)
	{
		task->error->elevel = WARNING;
		ThrowErrorData(task->error);
	}
	task->error = error;
}

static void
do_all(Task *task)
{
	List	   *divisions = task->exact ? all_divisions() : NIL;
	ListCell   *cell;

	if (task->exact && divisions == NIL)
		attempt(task, do_no_division);
	foreach(cell, divisions)
	{
		task->division = lfirst_int(cell);
		attempt(task, do_division);
	}
	if (task->pipedrive)
		attempt(task, do_pipedrive);
	if (task->error != NULL)
		ReThrowError(task->error);
}

/* Nothing is noted and nobody is asked in a copy (law 10). */
static void
check_instance(void)
{
	epds_sql("SELECT exact_pd_sync._instance_ok()", 0, NULL);
	if (!epds_sql_bool(0, 0, false))
		epds_throw_not_this_instance();
}

static const char *
text_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

/*
 * begin_subscribe
 *		Note what is asked for.
 */
static void
begin_subscribe(FunctionCallInfo fcinfo, Task *task)
{
	const char *args[2] = {text_argument(fcinfo, 0), text_argument(fcinfo, 1)};

	task->wanted = true;
	epds_tx_begin();
	check_instance();
	epds_sql("SELECT b.exact, b.pipedrive FROM exact_pd_sync._subscribe_begin($1, $2) AS b",
			 2, args);
	task->exact = epds_sql_bool(0, 0, false);
	task->pipedrive = epds_sql_bool(0, 1, false);
	epds_tx_commit();
	if (!task->exact && !task->pipedrive)
		ereport(NOTICE,
				(errmsg("no notifications are asked for"),
				 errhint("CALL exact_pd_sync.subscribe_webhooks('https://HOST/exact/webhook', 'https://HOST/pipedrive/webhook'), where HOST leads to the listener; one of the two is enough.")));
}

/*
 * begin_unsubscribe
 *		Note that nothing is asked for any more.
 */
static void
begin_unsubscribe(FunctionCallInfo fcinfo, Task *task)
{
	epds_tx_begin();
	check_instance();
	epds_sql("SELECT b.exact, b.pipedrive FROM exact_pd_sync._unsubscribe_begin() AS b",
			 0, NULL);
	task->exact = epds_sql_bool(0, 0, false);
	task->pipedrive = epds_sql_bool(0, 1, false);
	epds_tx_commit();
}

/*
 * run
 *		Be one of the two procedures.
 *
 * One session at a time, from the first note on: what is asked for may not
 * change under another one that is making its calls.
 */
static void
run(FunctionCallInfo fcinfo, const char *procedure,
	void (*begin) (FunctionCallInfo fcinfo, Task *task))
{
	Task		task = {0};

	epds_procedure_enter(fcinfo, procedure);
	if (!epds_lock_try(EPDS_LOCK_STEPS, SUBSCRIBE_LOCK_KEY))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("another session sees to the notifications at this moment"),
				 errdetail("It runs exact_pd_sync.subscribe_webhooks() or unsubscribe_webhooks()."),
				 errhint("Wait until it is done.")));
	PG_TRY();
	{
		begin(fcinfo, &task);
		do_all(&task);
	}
	PG_FINALLY();
	{
		epds_lock_release(EPDS_LOCK_STEPS, SUBSCRIBE_LOCK_KEY);
	}
	PG_END_TRY();
	epds_procedure_leave();
}

/* CALL subscribe_webhooks(callback_url, pipedrive_callback_url) */
Datum
epds_subscribe_webhooks(PG_FUNCTION_ARGS)
{
	run(fcinfo, "subscribe_webhooks", begin_subscribe);
	PG_RETURN_VOID();
}

/* CALL unsubscribe_webhooks() */
Datum
epds_unsubscribe_webhooks(PG_FUNCTION_ARGS)
{
	run(fcinfo, "unsubscribe_webhooks", begin_unsubscribe);
	PG_RETURN_VOID();
}
