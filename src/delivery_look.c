/*-------------------------------------------------------------------------
 *
 * delivery_look.c
 *		Reading at Pipedrive before anything is decided there.
 *
 * SQL says what to read (the scan before the first create, what changed since
 * the last life, the outcome of a lost call, the lines of a deal) and draws the
 * conclusions; here is only the one request at a time.  While a look is
 * pending no new jobs are taken: what it finds may make them superfluous.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/delivery_look.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "delivery.h"
#include "json_scan.h"
#include "tx.h"

/* After a look that failed: 5 s, doubled up to 5 min. */
#define LOOK_RETRY_MS 5000
#define LOOK_RETRY_MOST_MS 300000

/* When it cannot be paid for, or even the failure could not be recorded. */
#define LOOK_PARKED_MS 60000

/*
 * A look that meets a refusal of everything stops everything, as a call of a
 * job does: in SQL, where people see it and resume() ends it.  This is for the
 * case that not even that can be recorded.
 */
#define LOOK_CLOSED_MS 600000

/* The looks are paid from what is kept for live orders: nothing goes without. */
#define LOOK_LANE 1

/* What is handed to look_take_work(). */
typedef struct LookAnswer
{
	int			status;			/* 0 = there was no answer */
	const char *body;			/* NULL likewise */
} LookAnswer;

/*
 * delivery_look_pending
 *		Is there something to be read before jobs are taken?
 */
bool
delivery_look_pending(const Delivery *d)
{
	return d->look.wanted || d->look.in_flight;
}

/*
 * look_failed
 *		Do not look again at once; the longer it goes on, the later.
 */
static void
look_failed(Delivery *d, int64 least_ms)
{
	DeliveryLook *look = &d->look;
	int64		wait_ms = LOOK_RETRY_MS;
	int			i;

	look->failures++;
	for (i = 1; i < look->failures && wait_ms < LOOK_RETRY_MOST_MS; i++)
		wait_ms *= 2;
	look->not_before = epds_clock_ms() +
		Max(Min(wait_ms, LOOK_RETRY_MOST_MS), least_ms);
}

/* Ask SQL what to read, and pay for it in the same block. */
static void
look_next_work(Delivery *d, void *arg)
{
	DeliveryLook *look = &d->look;
	const char *args[2];
	int64		wait_ms;

	if (!look->wanted)
	{
		char	   *path;
		const char *refusal;

		if (epds_sql("SELECT look_id, path, tokens FROM exact_pd_sync._look_next()",
					 0, NULL) == 0)
			return;
		look->id = epds_sql_int(0, 0, 0);
		path = epds_sql_value(0, 1);
		look->tokens = (int) epds_sql_int(0, 2, 0);
		if (path == NULL)
			elog(ERROR, "look " INT64_FORMAT " has no path", look->id);
		refusal = pipedrive_path_refusal(path);
		if (refusal != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_ERROR),
					 errmsg("cannot send look " INT64_FORMAT ": %s",
							look->id, refusal)));
		MemoryContextReset(d->look_cxt);
		look->path = MemoryContextStrdup(d->look_cxt, path);
		look->wanted = true;
		look->booked = false;
	}

	args[0] = psprintf("%d", look->tokens);
	args[1] = psprintf("%d", LOOK_LANE);
	epds_sql("SELECT exact_pd_sync._pipedrive_reserve($1::integer, $2::integer)",
			 2, args);
	wait_ms = epds_sql_int(0, 0, 0);
	look->booked = wait_ms <= 0;
	look->not_before = epds_clock_ms() + Min(wait_ms, LOOK_PARKED_MS);
}

/*
 * delivery_look_next
 *		See whether there is something to be read.
 */
void
delivery_look_next(Delivery *d)
{
	DeliveryLook *look = &d->look;
	ErrorData  *error;
	bool		durable = false;

	if (look->in_flight || (look->wanted && look->booked) ||
		epds_clock_ms() < look->not_before)
		return;

	error = delivery_block(d, d->scratch, &durable, look_next_work, NULL);
	if (error != NULL)
	{
		/* what was noted in the block is not true */
		look->wanted = false;
		look_failed(d, 0);
		delivery_log_error(error, "choosing what to look up");
	}
}

/*
 * delivery_look_send
 *		Send the look, as soon as the limits allow.  Returns the milliseconds
 *		after which to call again, -1 when that depends on other things.
 */
int64
delivery_look_send(Delivery *d)
{
	DeliveryLook *look = &d->look;
	int64		wait_ms;

	/* not paid for yet: asked again then */
	if (look->wanted && !look->booked)
		return Max(look->not_before - epds_clock_ms(), 0);
	if (!look->wanted || look->in_flight || d->in_flight >= d->mux_size)
		return -1;
	wait_ms = epds_pace_reserve(&d->pace);
	if (wait_ms > 0)
		return wait_ms;

	epds_pipedrive_send(&d->account, d->mux, "GET", look->path, NULL,
						DELIVERY_LOOK_TAG);
	look->sent_ms = epds_clock_ms();
	look->wanted = false;
	look->in_flight = true;
	return -1;
}

/* Record that everything is refused. */
static void
look_closed_work(Delivery *d, void *arg)
{
	const PipedriveVerdict *verdict = (const PipedriveVerdict *) arg;
	const char *args[3];

	args[0] = epds_outcome_name(verdict->outcome);
	args[1] = verdict->wait_ms >= 0 ?
		psprintf(INT64_FORMAT, verdict->wait_ms) : NULL;
	args[2] = epds_redact(verdict->error);
	epds_sql("SELECT exact_pd_sync._pipedrive_closed($1, $2::bigint, $3)",
			 3, args);
}

/*
 * look_closed
 *		Nothing leaves until the gate opens again.
 */
static void
look_closed(Delivery *d, const PipedriveVerdict *verdict)
{
	bool		durable = false;
	ErrorData  *error = delivery_block(d, d->scratch, &durable,
									   look_closed_work, (void *) verdict);

	d->may_send = false;
	if (error != NULL)
	{
		delivery_log_error(error, "recording that Pipedrive refuses everything");
		epds_pace_hold(&d->pace, LOOK_CLOSED_MS);
	}
	ereport(LOG,
			(errmsg("delivery worker: could not look up what is at Pipedrive: %s",
					epds_redact(verdict->error)),
			 errdetail("Nothing is sent until Pipedrive accepts requests again.")));
}

/*
 * look_refused
 *		What follows from an outcome other than OK.
 */
static void
look_refused(Delivery *d, const PipedriveVerdict *verdict)
{
	switch (verdict->outcome)
	{
		case EPDS_OUTCOME_AUTH:
		case EPDS_OUTCOME_DAILY:
		case EPDS_OUTCOME_BLOCKED:
			look_closed(d, verdict);
			return;
		case EPDS_OUTCOME_BURST:
			/* the silence it asked for is kept already */
			return;
		default:
			break;
	}
	look_failed(d, 0);
	if (d->look.failures == 1)
		ereport(LOG,
				(errmsg("delivery worker: could not look up what is at Pipedrive: %s",
						epds_redact(verdict->error)),
				 errdetail("Nothing is created until that is known; it is tried again.")));
}

/* Give an answer to SQL. */
static void
look_take_work(Delivery *d, void *arg)
{
	LookAnswer *answer = (LookAnswer *) arg;
	const char *args[3];
	char	   *notice;

	args[0] = psprintf(INT64_FORMAT, d->look.id);
	args[1] = psprintf("%d", answer->status);
	args[2] = answer->body;
	epds_sql("SELECT exact_pd_sync._look_take($1::bigint, $2::integer, $3)",
			 3, args);
	notice = epds_sql_value(0, 0);
	/* of failures we have said it ourselves, once */
	if (notice != NULL && d->look.failures == 0)
		ereport(LOG, (errmsg_internal("delivery worker: %s", notice)));
}

/*
 * delivery_look_take
 *		Take in the answer of the look.
 *
 * An answer that SQL cannot take (not the JSON it should be) counts as none.
 */
void
delivery_look_take(Delivery *d, const EpdsHttpAnswer *answer)
{
	DeliveryLook *look = &d->look;
	PipedriveQuestion question;
	PipedriveVerdict verdict;
	LookAnswer	take;
	ErrorData  *error;
	bool		durable = false;

	question.method = "GET";
	question.path = look->path;
	question.tokens = look->tokens;
	question.since_429_ms = epds_pace_since_429(&d->pace);
	pipedrive_classify(&question, answer, &verdict);
	delivery_learn(d, &verdict, answer, look->sent_ms);

	look->in_flight = false;
	look->not_before = 0;
	take.status = answer->result == EPDS_HTTP_OK ? answer->status : 0;
	take.body = NULL;
	if (answer->result == EPDS_HTTP_OK &&
		epds_json_scan(answer->body, answer->body_len).state ==
		EPDS_JSON_COMPLETE)
		take.body = answer->body;
	else if (take.status >= 200 && take.status < 300)
		take.status = 0;		/* half a list must not look like a list */

	/* words of a refusal are kept for people: they must hold no secret */
	if (take.body != NULL && take.status >= 300)
		take.body = epds_redact(take.body);

	if (verdict.outcome == EPDS_OUTCOME_OK && take.status != 0)
		look->failures = 0;
	else
		look_refused(d, &verdict);

	error = delivery_block(d, d->scratch, &durable, look_take_work, &take);
	if (error == NULL || d->gone)
		return;
	delivery_log_error(error, "taking in what was looked up");

	look_failed(d, 0);
	take.status = 0;
	take.body = NULL;
	error = delivery_block(d, d->scratch, &durable, look_take_work, &take);
	if (error != NULL && !d->gone)
	{
		look_failed(d, LOOK_PARKED_MS);
		delivery_log_error(error, "recording a look that failed");
	}
}
