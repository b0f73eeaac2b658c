/*-------------------------------------------------------------------------
 *
 * delivery_take.c
 *		Jobs out of the queue: how many, how often, and what when one of them
 *		cannot be planned.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/delivery_take.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "delivery.h"
#include "tx.h"

/* Jobs at hand per connection; a new batch when half of them are gone. */
#define JOBS_PER_CONNECTION 4

/* The same when they leave fast: at most, and how often the speed is measured. */
#define MOST_JOBS_AT_HAND 512
#define RATE_MS 250

/* The most jobs taken at once, when batch after batch has nothing to send. */
#define MOST_JOBS 1000

/*
 * Batches without a call although something is due: so many in a row without a
 * pause, then with a growing one.
 */
#define EMPTY_TAKES 20
#define EMPTY_PAUSE_MS 20
#define EMPTY_PAUSE_MOST_MS 1000

/* Nothing was due: how soon to ask again without having been woken. */
#define ASK_AGAIN_MS 250

/* After a failure that has nothing to do with a job. */
#define FAILED_PAUSE_MS 5000

/* Jobs taken one by one after a batch failed. */
#define SINGLE_TAKES 64

/*
 * So many jobs are put aside in a row without a pause.  More than that, and
 * probably it is not the jobs: a broken rule or view must not empty the whole
 * queue into the dead letters within a minute.
 */
#define PARKED_IN_A_ROW 5
#define PARKED_PAUSE_MS 60000

/* So often a lone job may find no room before it is put aside. */
#define NO_ROOM_ATTEMPTS 3

/* What take_work() is to do, and what it found. */
typedef struct TakeArgs
{
	int			jobs;
	DeliveryBatch *batch;
	int			calls;
	bool		planned;		/* _take_batch() went well */
	int64		due_ms;			/* when calls = 0: until something is due */
	bool		durable;
} TakeArgs;

static void
take_work(Delivery *d, void *arg)
{
	TakeArgs   *take = (TakeArgs *) arg;
	const char *args[1];
	int			i;

	args[0] = psprintf("%d", take->jobs);
	take->calls = epds_sql("SELECT call_id, job_id, method, path, body, tokens, is_create"
						   " FROM exact_pd_sync._take_batch($1::integer)",
						   1, args);
	take->planned = true;
	for (i = 0; i < take->calls; i++)
	{
		DeliveryCall call;

		call.id = epds_sql_int(i, 0, 0);
		call.method = epds_sql_value(i, 2);
		call.path = epds_sql_value(i, 3);
		call.body = epds_sql_value(i, 4);
		call.tokens = (int) epds_sql_int(i, 5, 0);
		call.is_create = epds_sql_bool(i, 6, false);
		if (call.method == NULL || call.path == NULL)
			elog(ERROR, "call " INT64_FORMAT " has no method or no path",
				 call.id);
		take->durable |= call.is_create;
		delivery_add_call(d, take->batch, epds_sql_int(i, 1, 0), &call);
	}
	if (take->calls == 0)
	{
		epds_sql("SELECT exact_pd_sync._delivery_wait()", 0, NULL);
		take->due_ms = epds_sql_int(0, 0, -1);
	}
}

/*
 * forget_batch
 *		The block in which a batch was taken was thrown away: so are its jobs.
 *		They all stand at the end of the list, nothing of them has left.
 */
static void
forget_batch(Delivery *d, DeliveryBatch *batch)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &d->ready)
	{
		DeliveryJob *job = dlist_container(DeliveryJob, node, iter.cur);

		if (job->batch == batch)
		{
			dlist_delete(&job->node);
			d->at_hand--;
		}
	}
	MemoryContextDelete(batch->cxt);
}

static void
suspect_work(Delivery *d, void *arg)
{
	int64	   *job_id = (int64 *) arg;

	if (epds_sql("SELECT exact_pd_sync._suspect_job()", 0, NULL) > 0)
		*job_id = epds_sql_int(0, 0, 0);
}

/*
 * park_suspect
 *		The job that could not be planned though it was alone: put it aside.
 */
static void
park_suspect(Delivery *d, const ErrorData *error)
{
	int64		job_id = 0;
	bool		durable = false;
	ErrorData  *again = delivery_block(d, d->scratch, &durable, suspect_work,
									   &job_id);

	if (again != NULL || job_id == 0)
	{
		d->take_not_before = epds_clock_ms() + FAILED_PAUSE_MS;
		return;
	}
	d->no_room = 0;
	delivery_job_failed(d, job_id, error);
	if (++d->parked >= PARKED_IN_A_ROW)
		d->take_not_before = epds_clock_ms() + PARKED_PAUSE_MS;
}

/*
 * take_failed
 *		A batch could not be made.  Take jobs one at a time to find the one to
 *		blame; when that one is alone, put it aside.
 */
static void
take_failed(Delivery *d, const TakeArgs *take, const ErrorData *error)
{
	delivery_log_error(error, "planning a batch of jobs");
	if (take->planned || delivery_error_passes(error) ||
		delivery_error_blames_nobody(error))
	{
		d->take_not_before = epds_clock_ms() + FAILED_PAUSE_MS;
		d->take_failed = delivery_error_blames_nobody(error);
		if (d->take_failed)
			delivery_trouble(d, error);
	}
	else if (take->jobs > 1)
		d->single_takes = SINGLE_TAKES;
	else if (delivery_error_is_room(error) && ++d->no_room < NO_ROOM_ATTEMPTS)
		d->take_not_before = epds_clock_ms() + FAILED_PAUSE_MS;
	else
		park_suspect(d, error);
}

/*
 * measure
 *		How many jobs a second are finished, as a slowly moving figure.
 */
static void
measure(Delivery *d)
{
	int64		now = epds_clock_ms();
	int64		passed = now - d->rated_at;

	if (passed < RATE_MS)
		return;
	d->rate = (d->rate + (int) (d->finished * 1000 / passed)) / 2;
	d->finished = 0;
	d->rated_at = now;
}

/*
 * jobs_to_take
 *		How many jobs to ask for now; 0 = enough at hand.
 *
 * What is at hand cannot be overtaken by a live order, so it is never more
 * than leaves within about a second: little when a burst limit rules, more
 * when nothing holds us back, because each batch has its price.  After batches
 * that had nothing to send (jobs of which nothing had changed) more is asked
 * for.
 */
static int
jobs_to_take(Delivery *d)
{
	int			target = d->mux_size * JOBS_PER_CONNECTION;
	int			jobs;

	measure(d);
	target = Max(target, Min(d->rate / 2, MOST_JOBS_AT_HAND));
	if (d->pace.burst_limit > 0)
		target = Min(target, Max(d->pace.burst_limit / 2, 2));
	if (epds_pace_probing(&d->pace))
		target = 1;
	if (d->at_hand >= target || d->at_hand * 2 > target)
		return 0;
	if (d->single_takes > 0)
		return 1;

	jobs = target - d->at_hand;
	if (d->empty_takes > 0 && target > 1)
		jobs = Max(jobs, Min(jobs << Min(d->empty_takes, 8), MOST_JOBS));
	return jobs;
}

/*
 * empty_pause
 *		How long to wait after a batch without a call although something is
 *		due.  Usually nothing had changed for its jobs, and the next batch
 *		follows at once; but it must not become a tight loop.
 */
static int64
empty_pause(Delivery *d)
{
	int			more = ++d->empty_takes - EMPTY_TAKES;

	/* a look or the signals are due, but have to wait themselves */
	if (d->look.not_before > epds_clock_ms() || d->fold_failed)
		return EMPTY_PAUSE_MOST_MS;
	if (more <= 0)
		return 0;
	return Min(EMPTY_PAUSE_MS * more, EMPTY_PAUSE_MOST_MS);
}

/*
 * delivery_take
 *		Fill up what is at hand, by one batch.  Returns the milliseconds after
 *		which to call again, -1 when that depends on other things.
 */
int64
delivery_take(Delivery *d)
{
	TakeArgs	take;
	ErrorData  *error;
	MemoryContext cxt;
	int64		now = epds_clock_ms();
	int64		wait_ms;

	memset(&take, 0, sizeof(take));
	take.jobs = jobs_to_take(d);
	if (delivery_look_pending(d) || take.jobs == 0)
		return -1;
	if (now < d->take_not_before)
		return d->take_not_before - now;

	cxt = AllocSetContextCreate(d->cxt, "delivery batch",
								ALLOCSET_DEFAULT_SIZES);
	take.batch = MemoryContextAllocZero(cxt, sizeof(DeliveryBatch));
	take.batch->cxt = cxt;

	error = delivery_block(d, cxt, &take.durable, take_work, &take);
	if (error != NULL)
	{
		forget_batch(d, take.batch);
		take_failed(d, &take, error);
		return 0;
	}
	if (d->single_takes > 0)
		d->single_takes--;
	d->take_failed = false;
	d->parked = 0;
	d->no_room = 0;
	d->worked |= take.calls > 0 || take.due_ms == 0;
	if (take.calls > 0)
	{
		d->empty_takes = 0;
		return -1;
	}

	MemoryContextDelete(cxt);
	if (take.due_ms == 0)
		wait_ms = empty_pause(d);
	else
	{
		d->empty_takes = 0;
		wait_ms = delivery_sooner(take.due_ms, ASK_AGAIN_MS);
	}
	d->take_not_before = epds_clock_ms() + wait_ms;
	return take.due_ms == 0 ? wait_ms : take.due_ms;
}
