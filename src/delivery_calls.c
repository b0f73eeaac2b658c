/*-------------------------------------------------------------------------
 *
 * delivery_calls.c
 *		What the delivery worker has at hand: sending, answers, settling.
 *
 * The calls of one job leave one after the other, different jobs side by side,
 * as many as there are connections.  Results are collected as JSON and given
 * to SQL in groups: one commit for many outcomes is what makes the worker
 * fast, and 50 ms is what makes it honest.  Everything here may vanish at any
 * moment: each call was announced before, and the next life looks what became
 * of those without an outcome.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/delivery_calls.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "counters.h"
#include "delivery.h"
#include "tx.h"

/* Settle when so many results wait, or the oldest has waited so long. */
#define SETTLE_RESULTS 64
#define SETTLE_AFTER_MS 50

/* How often a group is offered again when the database was merely busy. */
#define SETTLE_ATTEMPTS 5
#define SETTLE_PAUSE_MS 200

/* What SQL writes where the id of a deal is not known yet. */
#define DEAL_MARK "{deal}"

/*
 * delivery_batch_done
 *		One job of a batch is finished; the last one takes the memory along.
 */
void
delivery_batch_done(DeliveryBatch *batch)
{
	if (--batch->open_jobs <= 0)
		MemoryContextDelete(batch->cxt);
}

/*
 * find_job
 *		A job of this batch that is at hand, or NULL.  Searched from the end,
 *		where it is when the calls of a job come together.
 */
static DeliveryJob *
find_job(Delivery *d, DeliveryBatch *batch, int64 job_id)
{
	dlist_iter	iter;

	dlist_reverse_foreach(iter, &d->ready)
	{
		DeliveryJob *job = dlist_container(DeliveryJob, node, iter.cur);

		if (job->batch == batch && job->id == job_id)
			return job;
	}
	return NULL;
}

/*
 * delivery_add_call
 *		Put one announced call at hand.  Its strings belong to the batch.
 */
void
delivery_add_call(Delivery *d, DeliveryBatch *batch, int64 job_id,
				  const DeliveryCall *call)
{
	DeliveryJob *job = find_job(d, batch, job_id);
	DeliveryCall *copy = MemoryContextAlloc(batch->cxt, sizeof(DeliveryCall));

	*copy = *call;
	copy->next = NULL;
	if (job == NULL)
	{
		job = MemoryContextAllocZero(batch->cxt, sizeof(DeliveryJob));
		job->batch = batch;
		job->id = job_id;
		job->call = copy;
		batch->open_jobs++;
		d->at_hand++;
		dlist_push_tail(&d->ready, &job->node);
	}
	else
		job->last->next = copy;
	job->last = copy;
}

/*
 * delivery_forget_results
 *		An empty list of results.  Its memory begins anew each time: a rare
 *		giant must not stay for ever.
 */
void
delivery_forget_results(Delivery *d)
{
	MemoryContext old;

	MemoryContextReset(d->results_cxt);
	old = MemoryContextSwitchTo(d->results_cxt);
	d->results = makeStringInfo();
	d->index_size = 2 * SETTLE_RESULTS;
	d->index = palloc(d->index_size * sizeof(DeliveryResult));
	MemoryContextSwitchTo(old);
	d->nresults = 0;
	d->creates = false;
	d->settle_now = false;
}

/*
 * result_begin, result_end
 *		Around the JSON object of one result.
 */
static int
result_begin(Delivery *d)
{
	if (d->nresults == 0)
	{
		d->oldest_ms = epds_clock_ms();
		appendStringInfoChar(d->results, '[');
	}
	else
		appendStringInfoChar(d->results, ',');
	return d->results->len;
}

static void
result_end(Delivery *d, const DeliveryJob *job, const DeliveryCall *call,
		   int start)
{
	DeliveryResult *result;

	if (d->nresults >= d->index_size)
	{
		d->index_size *= 2;
		d->index = repalloc(d->index, d->index_size * sizeof(DeliveryResult));
	}
	result = &d->index[d->nresults++];
	result->job_id = job->id;
	result->start = start;
	result->len = d->results->len - start;
	result->is_create = call->is_create;
	d->creates |= call->is_create;
}

/*
 * finish_job
 *		Nothing more of this job will be sent; what is left of its calls is
 *		reported as not sent.  The job must not be in the list of ready ones.
 */
static void
finish_job(Delivery *d, DeliveryJob *job)
{
	DeliveryCall *call;

	for (call = job->call; call != NULL; call = call->next)
	{
		int			start = result_begin(d);

		epds_pipedrive_not_sent(d->results, call->id);
		result_end(d, job, call, start);
	}
	d->at_hand--;
	d->finished++;
	delivery_batch_done(job->batch);
}

/*
 * delivery_release
 *		Give back whatever has not left yet.
 */
void
delivery_release(Delivery *d)
{
	while (!dlist_is_empty(&d->ready))
	{
		DeliveryJob *job = dlist_container(DeliveryJob, node,
										   dlist_pop_head_node(&d->ready));

		finish_job(d, job);
		d->settle_now = true;
	}
}

/*
 * fill_in
 *		The path with the id of the deal in the place of {deal}; palloc'd.  NULL
 *		when it is not known.
 */
static char *
fill_in(const DeliveryJob *job, const char *path)
{
	const char *mark = strstr(path, DEAL_MARK);

	if (mark == NULL)
		return pstrdup(path);
	if (job->deal_id == 0)
		return NULL;
	return psprintf("%.*s" INT64_FORMAT "%s", (int) (mark - path), path,
					job->deal_id, mark + strlen(DEAL_MARK));
}

/*
 * creates_deal
 *		Does a call create the deal that {deal} stands for?
 */
static bool
creates_deal(const DeliveryCall *call)
{
	size_t		len = strlen(call->path);

	return strcmp(call->method, "POST") == 0 &&
		len >= 6 && strcmp(call->path + len - 6, "/deals") == 0;
}

/*
 * refuse_call
 *		A call that cannot be made at all: a dead letter, not a crash.
 */
static void
refuse_call(Delivery *d, DeliveryJob *job, const char *error)
{
	DeliveryCall *call = job->call;
	PipedriveVerdict verdict;
	EpdsHttpAnswer answer;
	int			start;

	memset(&answer, 0, sizeof(answer));
	memset(&verdict, 0, offsetof(PipedriveVerdict, limits));
	verdict.outcome = EPDS_OUTCOME_PERMANENT;
	verdict.wait_ms = -1;
	strlcpy(verdict.error, error, sizeof(verdict.error));

	start = result_begin(d);
	epds_pipedrive_result(d->results, call->id, call->path, &verdict, &answer,
						  false);
	result_end(d, job, call, start);
	job->call = call->next;
	finish_job(d, job);
}

/*
 * send_job
 *		Send the next call of a job that was taken from the list.
 */
static void
send_job(Delivery *d, DeliveryJob *job)
{
	DeliveryCall *call = job->call;
	char	   *path = fill_in(job, call->path);
	const char *refusal;
	int			i;

	if (path == NULL)
	{
		refuse_call(d, job, "the call needs the id of a deal that no earlier "
					"call of its job created");
		return;
	}
	refusal = pipedrive_path_refusal(path);
	if (refusal != NULL)
	{
		/* sending it would look like trouble with the host, and stop everybody */
		refuse_call(d, job, refusal);
		return;
	}
	for (i = 0; d->slots[i].job != NULL; i++)
		Assert(i < d->mux_size);

	epds_pipedrive_send(&d->account, d->mux, call->method, path, call->body,
						(uint64) i);
	d->slots[i].job = job;
	d->slots[i].path = MemoryContextStrdup(job->batch->cxt, path);
	d->slots[i].sent_ms = epds_clock_ms();
	d->in_flight++;
	pfree(path);
}

/*
 * delivery_send
 *		Send as much as connections and limits allow.  Returns how many
 *		milliseconds to wait for the limit, -1 when that is not what we wait for.
 */
int64
delivery_send(Delivery *d)
{
	int			most = epds_pace_probing(&d->pace) ? 1 : d->mux_size;

	while (!dlist_is_empty(&d->ready) &&
		   d->in_flight + (d->look.in_flight ? 1 : 0) < most)
	{
		int64		wait_ms = epds_pace_reserve(&d->pace);

		d->held_back = wait_ms > 0;
		if (wait_ms > 0)
			return wait_ms;
		send_job(d, dlist_container(DeliveryJob, node,
									dlist_pop_head_node(&d->ready)));
	}
	return -1;
}

/*
 * delivery_learn
 *		What an answer says about limits and health of the service.
 */
void
delivery_learn(Delivery *d, const PipedriveVerdict *verdict,
			   const EpdsHttpAnswer *answer, int64 sent_ms)
{
	/* also a 2xx that cannot be read: a proxy's page is no service either */
	bool		failed = verdict->outcome == EPDS_OUTCOME_RETRY ||
		verdict->outcome == EPDS_OUTCOME_UNKNOWN;

	epds_count_call(EPDS_SIDE_PIPEDRIVE, answer->total_ms);
	epds_pace_seen(&d->pace, sent_ms, verdict->limits.burst_limit,
				   verdict->limits.daily_limit,
				   verdict->limits.daily_remaining);
	epds_pace_clock(&d->pace, verdict->limits.server_time);

	if (verdict->outcome == EPDS_OUTCOME_BURST)
		epds_pace_snooze(&d->pace, verdict->wait_ms);
	else if (verdict->outcome == EPDS_OUTCOME_DAILY)
		epds_pace_snooze(&d->pace, 0);
	else if (failed)
	{
		if (verdict->wait_ms > 0)
			epds_pace_hold(&d->pace, verdict->wait_ms);
		if (epds_pace_failure(&d->pace, sent_ms))
		{
			d->failing = true;
			ereport(LOG,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("Pipedrive cannot be reached, or fails: %s",
							epds_redact(verdict->error)),
					 errdetail("It is tried again with growing pauses of up to five minutes; nothing is lost.")));
		}
	}
	else if (epds_pace_success(&d->pace, sent_ms) && d->failing)
	{
		d->failing = false;
		ereport(LOG, (errmsg("Pipedrive answers again")));
	}
}

/*
 * stops_everything
 *		Does an outcome concern more than its own job?
 */
static bool
stops_everything(EpdsOutcome outcome)
{
	return outcome == EPDS_OUTCOME_DAILY ||
		outcome == EPDS_OUTCOME_CAPACITY ||
		outcome == EPDS_OUTCOME_AUTH ||
		outcome == EPDS_OUTCOME_BLOCKED;
}

/*
 * job_answered
 *		Take an answer in: its result, and what the job does next.
 */
static void
job_answered(Delivery *d, DeliverySlot *slot, const EpdsHttpAnswer *answer)
{
	DeliveryJob *job = slot->job;
	DeliveryCall *call = job->call;
	PipedriveQuestion question;
	PipedriveVerdict verdict;
	bool		probe = epds_pace_failing(&d->pace);
	int			start;

	question.method = call->method;
	question.path = slot->path;
	question.tokens = call->tokens;
	question.since_429_ms = epds_pace_since_429(&d->pace);
	pipedrive_classify(&question, answer, &verdict);
	delivery_learn(d, &verdict, answer, slot->sent_ms);

	start = result_begin(d);
	epds_pipedrive_result(d->results, call->id, slot->path, &verdict, answer,
						  probe);
	result_end(d, job, call, start);

	slot->job = NULL;
	d->in_flight--;
	job->call = call->next;

	if (verdict.outcome == EPDS_OUTCOME_OK)
	{
		if (creates_deal(call) && verdict.nids == 1)
			job->deal_id = verdict.ids[0];
		if (job->call != NULL)
		{
			/* what was begun comes first */
			dlist_push_head(&d->ready, &job->node);
			return;
		}
	}
	finish_job(d, job);

	if (stops_everything(verdict.outcome))
	{
		/* until this is settled and the gate was asked again */
		d->may_send = false;
		d->gate_wait_ms = -1;
		d->settle_now = true;
	}
}

/*
 * delivery_collect
 *		Take in all answers that are there.
 */
void
delivery_collect(Delivery *d)
{
	EpdsHttpAnswer answer;

	while (epds_mux_next_done(d->mux, &answer))
	{
		if (answer.tag == DELIVERY_LOOK_TAG)
			delivery_look_take(d, &answer);
		else
			job_answered(d, &d->slots[answer.tag], &answer);
	}
	if (!d->may_send)
		delivery_release(d);
}

/*
 * delivery_settle_due
 *		Is it time to settle?  Also when nothing more is under way that could
 *		join the group.
 */
bool
delivery_settle_due(const Delivery *d)
{
	if (d->nresults == 0)
		return d->settle_now && d->pace.news;
	return d->settle_now || d->nresults >= SETTLE_RESULTS ||
		(d->in_flight == 0 && (d->at_hand == 0 || d->held_back)) ||
		epds_clock_ms() - d->oldest_ms >= SETTLE_AFTER_MS;
}

/*
 * delivery_settle_wait
 *		Milliseconds until the oldest result must be settled, -1 = none waits.
 */
int64
delivery_settle_wait(const Delivery *d)
{
	if (d->nresults == 0)
		return -1;
	return Max(d->oldest_ms + SETTLE_AFTER_MS - epds_clock_ms(), 0);
}

/* What settle_work() gives to SQL. */
typedef struct SettleArgs
{
	const char *results;
	const char *figures;
} SettleArgs;

static void
settle_work(Delivery *d, void *arg)
{
	SettleArgs *settle = (SettleArgs *) arg;
	const char *args[2];

	args[0] = settle->results;
	args[1] = settle->figures;
	epds_sql("SELECT exact_pd_sync._settle($1, $2)", 2, args);
}

/*
 * settle_pause
 *		Let the other transaction finish.  The whole time: answers that arrive
 *		meanwhile would end a wait of the mux at once, and all attempts would be
 *		over before the other one is.
 */
static void
settle_pause(Delivery *d)
{
	int64		until = epds_clock_ms() + SETTLE_PAUSE_MS;
	int64		left;

	while ((left = until - epds_clock_ms()) > 0)
		epds_http_sleep((long) left, d->wait_event);
}

/*
 * settle
 *		Offer some results to SQL.  Returns the error, or NULL.
 *
 * A transaction that lost against another one, or against a short lock, is
 * offered again; the outcomes are in hand and nobody else has them.
 */
static ErrorData *
settle(Delivery *d, const char *results, bool durable)
{
	StringInfoData figures;
	SettleArgs	args;
	ErrorData  *error = NULL;
	int			attempt;

	initStringInfo(&figures);
	epds_pace_figures(&d->pace, &figures);
	args.results = results;
	args.figures = figures.data;

	for (attempt = 0; attempt < SETTLE_ATTEMPTS; attempt++)
	{
		error = delivery_block(d, d->scratch, &durable, settle_work, &args);
		if (error == NULL)
		{
			epds_pace_told(&d->pace);
			break;
		}
		if (!delivery_error_passes(error))
			break;
		settle_pause(d);
	}
	return error;
}

/*
 * settle_singly
 *		The group was refused: find the result that cannot be settled, and park
 *		its job, so that the others are not lost with it.
 */
static void
settle_singly(Delivery *d)
{
	int			i;

	for (i = 0; i < d->nresults && !d->gone; i++)
	{
		DeliveryResult *result = &d->index[i];
		char	   *one = psprintf("[%.*s]", result->len,
								   d->results->data + result->start);
		ErrorData  *error = settle(d, one, result->is_create);

		if (error == NULL || d->gone)
			continue;
		/* an outcome is not the job's fault; the next life looks it up */
		if (delivery_error_passes(error) || delivery_error_is_room(error))
			ReThrowError(error);
		delivery_log_error(error, "settling an outcome");
		delivery_job_failed(d, result->job_id, error);
	}
}

/*
 * delivery_settle
 *		Settle all results that wait.  ERROR when the database refuses even the
 *		parking of a job: the worker begins anew then, and looks.
 */
void
delivery_settle(Delivery *d)
{
	ErrorData  *error;

	if (d->nresults == 0)
		appendStringInfoChar(d->results, '[');
	appendStringInfoChar(d->results, ']');

	error = settle(d, d->results->data, d->creates);
	if (error != NULL && !d->gone)
	{
		/* begin anew later, and look: outcomes cannot be kept for hours */
		if (delivery_error_passes(error) ||
			delivery_error_blames_nobody(error))
			ReThrowError(error);
		delivery_log_error(error, "settling a group of outcomes");
		settle_singly(d);
	}

	delivery_forget_results(d);
	/* what was settled may be what other jobs waited for */
	d->take_not_before = 0;
}
