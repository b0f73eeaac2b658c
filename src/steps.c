/*-------------------------------------------------------------------------
 *
 * steps.c
 *		Procedures that talk to Pipedrive step by step: setup_pipedrive(),
 *		reconcile(), and Pipedrive's part of subscribe_webhooks().
 *
 * SQL knows the steps and draws the conclusions; this makes one call after the
 * other and tells the person who waits what is going on.  Nothing is held while
 * it waits, and every step is a transaction of its own, so that a run that broke
 * off is simply called again.  A second one at the same time is refused.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/steps.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/memutils.h"

#include "budget.h"
#include "exact_internal.h"
#include "instance.h"
#include "json_scan.h"
#include "pipedrive.h"
#include "pipedrive_classify.h"
#include "session_lock.h"
#include "steps.h"
#include "tx.h"

/* Attempts of one call, and the pause between them. */
#define CALL_ATTEMPTS 4
#define CALL_PAUSE_MS 1500

/* Writes without an answer that one run looks up; more are a service in trouble. */
#define LOST_MOST 3

/* One step, as SQL gives it. */
typedef struct Step
{
	char	   *step;
	char	   *method;
	char	   *path;
	char	   *body;
	int			tokens;
	char	   *note;
} Step;

/* What belongs to one run. */
typedef struct Run
{
	const EpdsSteps *steps;
	EpdsPipedrive account;
	EpdsPace	pace;
	char	   *id;				/* run id as text; NULL = not begun */
	char	   *gap;			/* what could not be done; NULL = nothing */
	int			lost;			/* writes without an answer */
} Run;

/*
 * refuse
 *		ERROR with what the answer says and how to mend it.
 */
static void
refuse(const EpdsSteps *steps, const Step *step,
	   const PipedriveVerdict *verdict)
{
	char	   *error = epds_redact(verdict->error);

	switch (verdict->outcome)
	{
		case EPDS_OUTCOME_AUTH:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
					 errmsg("Pipedrive does not accept this account: %s", error),
					 errhint("Check address and API token and set them again with exact_pd_sync.set_pipedrive_account().")));
			break;
		case EPDS_OUTCOME_BLOCKED:
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("Pipedrive refuses all calls for the time being: %s", error),
					 errhint("Call exact_pd_sync.%s() again in an hour; it goes on where it stopped.", steps->procedure)));
			break;
		case EPDS_OUTCOME_DAILY:
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("the daily tokens of the Pipedrive company are used up: %s", error),
					 errhint("Call exact_pd_sync.%s() again after the daily reset; it goes on where it stopped.", steps->procedure)));
			break;
		case EPDS_OUTCOME_BURST:
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("Pipedrive's request limit does not leave room: %s", error),
					 errdetail("Another program probably uses the same account at this moment."),
					 errhint("Call exact_pd_sync.%s() again; it goes on where it stopped.", steps->procedure)));
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not complete a call to Pipedrive: %s", error),
					 errdetail("Step \"%s\" (%s %s).", step->step, step->method,
							   step->path),
					 errhint("Call exact_pd_sync.%s() again; it goes on where it stopped.", steps->procedure)));
	}
}

/*
 * is_lost
 *		Was there no usable answer, so that SQL cannot draw conclusions?
 *
 * Whatever is to be tried again is none, whichever status it has: a 404 without
 * JSON is a proxy's, and says nothing of the record that was asked for.
 */
static bool
is_lost(const EpdsHttpAnswer *answer, const PipedriveVerdict *verdict)
{
	return answer->result != EPDS_HTTP_OK || answer->status >= 500 ||
		verdict->outcome == EPDS_OUTCOME_RETRY;
}

/*
 * look_up_lost
 *		A write was not answered, or not so that it can be read: let SQL see to
 *		it that its outcome is looked up.  False: that is not for this run.
 */
static bool
look_up_lost(Run *run, const Step *step)
{
	const char *args[2];
	int64		wait_ms;

	if (run->steps->lost_sql == NULL || strcmp(step->method, "GET") == 0 ||
		++run->lost > LOST_MOST)
		return false;
	args[0] = run->id;
	args[1] = step->step;
	epds_tx_begin();
	epds_sql(run->steps->lost_sql, 2, args);
	wait_ms = epds_sql_int(0, 0, 0);
	epds_tx_commit();
	ereport(NOTICE,
			(errmsg("no answer to step \"%s\": its outcome is looked up",
					step->step)));
	epds_pause((long) wait_ms);
	return true;
}

/*
 * call
 *		Make the call of a step, within the limits.  Outside a block.
 *
 * Repeats what is safe to repeat: anything the limits refused, and GETs.
 * Returns with an answer for SQL, or throws.  False: there was no answer, and
 * the next step looks what became of it.
 */
static bool
call(Run *run, const Step *step, EpdsHttpAnswer *answer)
{
	PipedriveQuestion question;
	PipedriveVerdict verdict;
	int			attempt;

	question.method = step->method;
	question.path = step->path;
	question.tokens = step->tokens;

	for (attempt = 1;; attempt++)
	{
		int64		sent_ms;

		epds_budget_book(&run->pace, step->tokens, run->steps->lane);
		question.since_429_ms = epds_pace_since_429(&run->pace);
		sent_ms = epds_clock_ms();
		epds_pipedrive_fetch(&run->account, step->method, step->path,
							 step->body, answer);
		pipedrive_classify(&question, answer, &verdict);
		epds_pace_seen(&run->pace, sent_ms, verdict.limits.burst_limit,
					   verdict.limits.daily_limit,
					   verdict.limits.daily_remaining);
		epds_pace_clock(&run->pace, verdict.limits.server_time);

		if (verdict.outcome == EPDS_OUTCOME_BURST && attempt < CALL_ATTEMPTS)
		{
			epds_pace_snooze(&run->pace, verdict.wait_ms);
			continue;
		}
		if (verdict.outcome == EPDS_OUTCOME_RETRY && attempt < CALL_ATTEMPTS)
		{
			epds_pace_hold(&run->pace, CALL_PAUSE_MS * attempt);
			continue;
		}
		break;
	}

	switch (verdict.outcome)
	{
		case EPDS_OUTCOME_BURST:
		case EPDS_OUTCOME_DAILY:
		case EPDS_OUTCOME_AUTH:
		case EPDS_OUTCOME_BLOCKED:
			refuse(run->steps, step, &verdict);
			break;
		case EPDS_OUTCOME_UNKNOWN:
			if (look_up_lost(run, step))
				return false;
			break;
		default:
			break;
	}
	if (is_lost(answer, &verdict))
	{
		if (look_up_lost(run, step))
			return false;
		refuse(run->steps, step, &verdict);
	}
	return true;
}

/*
 * begin_run
 *		Check that anything may run at all, and open the run.  False when there
 *		is nothing to do yet.
 */
static bool
begin_run(Run *run)
{
	epds_tx_begin();
	epds_sql("SELECT exact_pd_sync._instance_ok()", 0, NULL);
	if (!epds_sql_bool(0, 0, false))
		epds_throw_not_this_instance();
	if (!epds_pipedrive_account(&run->account))
	{
		if (run->steps->idle != NULL)
		{
			epds_tx_commit();
			return false;
		}
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no Pipedrive account is set"),
				 errhint("SELECT exact_pd_sync.set_pipedrive_account(api_token, base_url)")));
	}
	epds_sql(run->steps->begin_sql, 0, NULL);
	run->id = epds_sql_value(0, 0);
	epds_tx_commit();
	return run->id != NULL;
}

/*
 * next_step
 *		Ask SQL for the next step.  False when everything is done.
 */
static bool
next_step(Run *run, Step *step)
{
	const char *args[1] = {run->id};
	bool		found;

	epds_tx_begin();
	found = epds_sql(run->steps->next_sql, 1, args) > 0;
	if (found)
	{
		step->step = epds_sql_value(0, 0);
		step->method = epds_sql_value(0, 1);
		step->path = epds_sql_value(0, 2);
		step->body = epds_sql_value(0, 3);
		step->tokens = (int) epds_sql_int(0, 4, 0);
		step->note = epds_sql_value(0, 5);
	}
	epds_tx_commit();

	if (found && (step->step == NULL || step->method == NULL ||
				  step->path == NULL))
		elog(ERROR, "a step of %s() has no name, method or path",
			 run->steps->procedure);
	return found;
}

/*
 * take_answer
 *		Let SQL draw its conclusions; tell the person what it says.
 */
static void
take_answer(Run *run, const Step *step, const EpdsHttpAnswer *answer)
{
	StringInfoData figures;
	const char *args[4];
	char	   *notice;

	(void) epds_json_scan(answer->body, answer->body_len);
	initStringInfo(&figures);
	epds_pace_figures(&run->pace, &figures);

	epds_tx_begin();
	args[0] = "[]";
	args[1] = figures.data;
	epds_sql("SELECT exact_pd_sync._settle($1, $2)", 2, args);
	args[0] = run->id;
	args[1] = step->step;
	args[2] = psprintf("%d", answer->status);
	/* words of a refusal are kept and shown: they must hold no secret */
	if (answer->status >= 300)
		args[3] = epds_redact(answer->body);
	else if (run->steps->shown_answer != NULL)
		args[3] = run->steps->shown_answer(answer->body);
	else
		args[3] = answer->body;
	epds_sql(run->steps->take_sql, 4, args);
	notice = epds_sql_value(0, 0);
	epds_tx_commit();

	epds_pace_told(&run->pace);
	if (notice != NULL)
		ereport(NOTICE, (errmsg_internal("%s", notice)));
}

/*
 * end_run
 *		Close the run; error NULL = success.
 */
static void
end_run(Run *run, const char *error)
{
	const char *args[2];

	args[0] = run->id;
	args[1] = error;
	epds_tx_begin();
	epds_sql("SELECT exact_pd_sync._run_end($1::bigint, $2)", 2, args);
	epds_tx_commit();
}

/*
 * finish
 *		What follows when all steps are done.
 */
static void
finish(Run *run)
{
	const char *args[1] = {run->id};
	char	   *notice;

	if (run->steps->end_sql == NULL)
		return;
	epds_tx_begin();
	epds_sql(run->steps->end_sql, 1, args);
	notice = epds_sql_value(0, 0);
	epds_tx_commit();
	if (notice != NULL)
		ereport(NOTICE, (errmsg_internal("%s", notice)));
}

/*
 * run_steps
 *		All steps.
 */
static void
run_steps(Run *run)
{
	MemoryContext outer = CurrentMemoryContext;
	MemoryContext cxt = AllocSetContextCreate(outer, "step",
											  ALLOCSET_DEFAULT_SIZES);
	int			n;

	if (!begin_run(run))
	{
		if (run->steps->idle != NULL)
			ereport(NOTICE, (errmsg_internal("%s", run->steps->idle)));
		return;
	}
	if (run->steps->before != NULL)
		run->gap = run->steps->before(strtoll(run->id, NULL, 10));
	MemoryContextSwitchTo(cxt);
	for (n = 0; n < run->steps->most_steps; n++)
	{
		Step	step;
		EpdsHttpAnswer answer;

		MemoryContextReset(cxt);
		if (!next_step(run, &step))
			break;
		if (step.note != NULL)
			ereport(NOTICE, (errmsg_internal("%s", step.note)));
		if (step.body != NULL && run->steps->whole_body != NULL)
			step.body = run->steps->whole_body(step.body);
		if (call(run, &step, &answer))
			take_answer(run, &step, &answer);
	}
	if (n == run->steps->most_steps)
		elog(ERROR, "%s() did not come to an end after %d steps",
			 run->steps->procedure, n);
	MemoryContextSwitchTo(outer);
	MemoryContextDelete(cxt);
	finish(run);
	/* a run with gaps is no success, although all the rest is done */
	if (run->gap != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("%s", run->gap)));
	end_run(run, NULL);
}

/*
 * record_failure
 *		Note in sync_runs why the run failed.  When that fails too, the first
 *		error is still the one to be thrown.
 */
static void
record_failure(Run *run, const char *error)
{
	MemoryContext cxt = CurrentMemoryContext;

	if (run->id == NULL)
		return;
	PG_TRY();
	{
		end_run(run, error);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		FlushErrorState();
		epds_tx_abort();
	}
	PG_END_TRY();
}

/*
 * epds_steps_do
 *		All steps, within a procedure that was entered.
 */
void
epds_steps_do(const EpdsSteps *steps)
{
	MemoryContext cxt = CurrentMemoryContext;
	Run			run;
	ErrorData  *volatile error = NULL;

	memset(&run, 0, sizeof(run));
	run.steps = steps;
	epds_pace_init(&run.pace);

	/* two at once would make everything twice */
	if (!epds_lock_try(EPDS_LOCK_STEPS, (uint32) steps->lock_key))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("another session runs %s() at this moment",
						steps->procedure),
				 errhint("Wait until it is done.")));

	PG_TRY();
	{
		run_steps(&run);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		epds_tx_abort();
		MemoryContextSwitchTo(cxt);
	}
	PG_END_TRY();

	if (error != NULL)
		record_failure(&run, error->message);
	epds_lock_release(EPDS_LOCK_STEPS, (uint32) steps->lock_key);
	if (error != NULL)
		ReThrowError(error);
}

/*
 * epds_steps_run
 *		Be the procedure that these steps make.
 */
void
epds_steps_run(FunctionCallInfo fcinfo, const EpdsSteps *steps)
{
	epds_procedure_enter(fcinfo, steps->procedure);
	epds_steps_do(steps);
	epds_procedure_leave();
}
