/*-------------------------------------------------------------------------
 *
 * delivery.c
 *		The worker that drains the queue.
 *
 * One turn: ask the gate whether anything may leave, fold signals into jobs,
 * look up what has to be looked up, take a batch, send, collect answers,
 * settle, sleep.  All decisions are made in SQL inside short blocks; requests
 * are under way while blocks run, but nothing is held while we wait.
 *
 * A block that fails is never fatal by itself.  Where a single job is to blame
 * it is found by taking jobs one at a time, and put among the dead letters;
 * what fails for other reasons is tried again later and said once.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/delivery.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "utils/memutils.h"

#include "compat.h"
#include "delivery.h"
#include "settings.h"
#include "tx.h"
#include "worker.h"

/* Signals folded in one block, and blocks in one turn. */
#define FOLD_SIGNALS 5000
#define FOLD_BLOCKS 20

/* While busy: how often gate and signals are looked at, and at most. */
#define LOOK_AROUND_MS 250
#define LOOK_AROUND_LEAST_MS 20

/* How often we ask whether we are to stop. */
#define TURN_MS 100

/* A sleep longer than this is rest. */
#define REST_MS 1000

/* A silence longer than this: give back what is at hand. */
#define RELEASE_AFTER_MS 10000

/* When stopped: so long we wait for the answers under way. */
#define WIND_DOWN_MS 2000

/* After a block failed. */
#define BLOCK_RETRY_MS 5000

/* The same complaint is not repeated within ten minutes. */
#define LOG_AGAIN_MS 600000

/*
 * delivery_error_passes
 *		May the same thing succeed in a moment?
 */
bool
delivery_error_passes(const ErrorData *error)
{
	return ERRCODE_TO_CATEGORY(error->sqlerrcode) ==
		ERRCODE_TRANSACTION_ROLLBACK ||
		error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		error->sqlerrcode == ERRCODE_OBJECT_IN_USE ||
		error->sqlerrcode == ERRCODE_QUERY_CANCELED;
}

/*
 * delivery_error_blames_nobody
 *		A missing table or function, a privilege, a broken view: no job is to
 *		blame for that, and none is put aside.
 */
bool
delivery_error_blames_nobody(const ErrorData *error)
{
	return ERRCODE_TO_CATEGORY(error->sqlerrcode) ==
		ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION;
}

/*
 * delivery_error_is_room
 *		Too little memory, or more of something than a limit allows?  One giant
 *		job can be the cause, or the whole server.
 */
bool
delivery_error_is_room(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_OUT_OF_MEMORY ||
		error->sqlerrcode == ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
}

/*
 * is_our_end
 *		Is the server itself in trouble (disk full, shutting down)?  Then no job
 *		is to blame; the launcher starts us again with back-off.
 */
static bool
is_our_end(const ErrorData *error)
{
	int			category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	/* A new life would meet the same giant again, and so for ever. */
	if (delivery_error_is_room(error))
		return false;
	return category == ERRCODE_INSUFFICIENT_RESOURCES ||
		category == ERRCODE_SYSTEM_ERROR ||
		error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN ||
		error->sqlerrcode == ERRCODE_CRASH_SHUTDOWN;
}

/*
 * delivery_block
 *		Run something in a block.  Returns NULL when it was committed, or a
 *		copy of the error (in the scratch context) when it was thrown away.
 *		Sets d->gone, and does nothing, when the extension is not there.
 *
 * cxt becomes the owner of what the block reads.  *durable is looked at after
 * the work, which may set it.
 */
ErrorData *
delivery_block(Delivery *d, MemoryContext cxt, bool *durable,
			   DeliveryWork work, void *arg)
{
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		MemoryContextSwitchTo(cxt);
		epds_tx_begin();
		if (epds_extension_exists())
			work(d, arg);
		else
			d->gone = true;
		if (*durable)
			epds_tx_commit_durable();
		else
			epds_tx_commit();
		MemoryContextSwitchTo(d->scratch);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(d->scratch);
		error = CopyErrorData();
		if (is_our_end(error))
			PG_RE_THROW();
		FlushErrorState();
		epds_tx_abort();
		MemoryContextSwitchTo(d->scratch);
	}
	PG_END_TRY();

	return error;
}

/*
 * delivery_log_error
 *		Say what failed, once in a while.
 */
void
delivery_log_error(const ErrorData *error, const char *what)
{
	static char said[256];
	static int64 said_at = 0;
	static int	repeats = 0;
	int64		now = epds_clock_ms();

	if (said_at != 0 && now - said_at < LOG_AGAIN_MS &&
		strncmp(said, error->message, sizeof(said) - 1) == 0)
	{
		repeats++;
		return;
	}
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("delivery worker: %s failed: %s", what,
					epds_redact(error->message)),
			 error->detail ?
			 errdetail_internal("%s", epds_redact(error->detail)) : 0,
			 error->hint ? errhint("%s", error->hint) : 0,
			 repeats > 0 ?
			 errcontext("the complaint before this one was repeated %d times",
						repeats) : 0));
	strlcpy(said, error->message, sizeof(said));
	said_at = now;
	repeats = 0;
}

/*
 * delivery_trouble
 *		Let status tell what keeps us from our work.  Over when a whole turn
 *		meets no such thing.
 */
void
delivery_trouble(Delivery *d, const ErrorData *error)
{
	d->troubled = true;
	epds_worker_trouble(epds_redact(error->message));
}

/* What job_failed_work() gives to SQL. */
typedef struct JobFailedArgs
{
	int64		job_id;
	const char *error;
} JobFailedArgs;

static void
job_failed_work(Delivery *d, void *arg)
{
	JobFailedArgs *failed = (JobFailedArgs *) arg;
	const char *args[2];

	args[0] = psprintf(INT64_FORMAT, failed->job_id);
	args[1] = failed->error;
	epds_sql("SELECT exact_pd_sync._job_failed($1::bigint, $2)", 2, args);
}

/*
 * delivery_job_failed
 *		Put a job among the dead letters, because SQL cannot deal with it.
 *		ERROR when not even that is possible.
 */
void
delivery_job_failed(Delivery *d, int64 job_id, const ErrorData *error)
{
	JobFailedArgs args;
	ErrorData  *again;
	bool		durable = false;

	args.job_id = job_id;
	args.error = epds_redact(error->message);
	again = delivery_block(d, d->scratch, &durable, job_failed_work, &args);
	if (again != NULL)
		ReThrowError(again);
}

/* ----------------------------------------------------------------------
 * gate and signals
 */

/* What the gate says, in gate_work(). */
typedef struct GateAnswer
{
	bool		may_send;
	char	   *reason;
	int64		wait_ms;
	int			burst_limit;
	EpdsPipedrive account;
} GateAnswer;

static void
gate_work(Delivery *d, void *arg)
{
	GateAnswer *gate = (GateAnswer *) arg;

	gate->may_send = false;
	gate->reason = NULL;
	gate->wait_ms = -1;
	if (epds_sql("SELECT may_send, reason, wait_ms FROM exact_pd_sync._delivery_gate()",
				 0, NULL) == 1)
	{
		gate->may_send = epds_sql_bool(0, 0, false);
		gate->reason = epds_sql_value(0, 1);
		gate->wait_ms = epds_sql_int(0, 2, -1);
	}
	if (!gate->may_send)
		return;

	if (!epds_pipedrive_account(&gate->account))
	{
		gate->may_send = false;
		gate->reason = pstrdup("no Pipedrive account");
		return;
	}
	epds_sql("SELECT exact_pd_sync._burst_limit()", 0, NULL);
	gate->burst_limit = (int) epds_sql_int(0, 0, 0);
}

/*
 * ask_gate
 *		May anything leave, and to which account?
 */
static void
ask_gate(Delivery *d)
{
	GateAnswer	gate;
	ErrorData  *error;
	bool		durable = false;

	memset(&gate, 0, sizeof(gate));
	error = delivery_block(d, d->scratch, &durable, gate_work, &gate);
	if (error != NULL)
	{
		/* when in doubt, nothing */
		delivery_log_error(error, "asking whether anything may be sent");
		delivery_trouble(d, error);
		d->may_send = false;
		d->gate_wait_ms = BLOCK_RETRY_MS;
		return;
	}

	d->pace.burst_limit = gate.burst_limit;
	d->may_send = gate.may_send && !d->gone;
	d->gate_wait_ms = gate.wait_ms;
	if (d->may_send && !epds_pipedrive_same(&gate.account, &d->account))
	{
		MemoryContext old;

		/* a new account: what is under way belongs to the old one */
		MemoryContextReset(d->account_cxt);
		old = MemoryContextSwitchTo(d->account_cxt);
		d->account.base_url = pstrdup(gate.account.base_url);
		d->account.token_header = pstrdup(gate.account.token_header);
		MemoryContextSwitchTo(old);
		/* what the old one was silent for does not concern the new one */
		epds_pace_init(&d->pace);
		d->pace.burst_limit = gate.burst_limit;
		d->look.not_before = 0;
	}
}

static void
fold_work(Delivery *d, void *arg)
{
	int		   *folded = (int *) arg;
	const char *args[1] = {CppAsString2(FOLD_SIGNALS)};

	epds_sql("SELECT exact_pd_sync._fold_signals($1::integer)", 1, args);
	*folded = (int) epds_sql_int(0, 0, 0);
}

/*
 * fold_signals
 *		Signals become jobs.  Bounded, so that a flood of them does not stop
 *		what is being sent.
 */
static void
fold_signals(Delivery *d)
{
	int			i;

	for (i = 0; i < FOLD_BLOCKS && !d->gone; i++)
	{
		int			folded = 0;
		bool		durable = false;
		ErrorData  *error = delivery_block(d, d->scratch, &durable,
										   fold_work, &folded);

		d->fold_failed = error != NULL;
		if (error != NULL)
		{
			delivery_log_error(error, "folding signals into jobs");
			delivery_trouble(d, error);
			return;
		}
		if (folded > 0)
			d->take_not_before = 0;
		if (folded < FOLD_SIGNALS)
			return;
	}
}

/* ----------------------------------------------------------------------
 * the loop
 */

static void
start_work(Delivery *d, void *arg)
{
	char	   *found;

	epds_sql("SELECT exact_pd_sync._delivery_start()", 0, NULL);
	found = epds_sql_value(0, 0);
	if (found != NULL && found[0] != '\0')
		ereport(LOG, (errmsg_internal("delivery worker: %s", found)));
}

/*
 * delivery_create
 *		Everything the worker has, in a context of its own.
 */
static Delivery *
delivery_create(void)
{
	MemoryContext cxt = AllocSetContextCreate(TopMemoryContext,
											  "exact_pd_sync delivery",
											  ALLOCSET_DEFAULT_SIZES);
	Delivery   *d = MemoryContextAllocZero(cxt, sizeof(Delivery));

	d->cxt = cxt;
	d->scratch = AllocSetContextCreate(cxt, "delivery turn",
									   ALLOCSET_DEFAULT_SIZES);
	d->results_cxt = AllocSetContextCreate(cxt, "delivery results",
										   ALLOCSET_DEFAULT_SIZES);
	d->look_cxt = AllocSetContextCreate(cxt, "delivery look",
										ALLOCSET_SMALL_SIZES);
	d->account_cxt = AllocSetContextCreate(cxt, "delivery account",
										   ALLOCSET_SMALL_SIZES);
	d->wait_event = epds_wait_event("ExactPdSyncDelivery");
	d->gate_wait_ms = -1;
	dlist_init(&d->ready);
	epds_pace_init(&d->pace);
	delivery_forget_results(d);
	MemoryContextSwitchTo(d->scratch);
	return d;
}

/*
 * fit_mux
 *		As many connections as the setting says.  Changed only when nothing is
 *		under way.
 */
static void
fit_mux(Delivery *d)
{
	if (d->mux_size == epds_guc_max_connections ||
		d->in_flight > 0 || d->look.in_flight)
		return;
	if (d->mux != NULL)
	{
		epds_mux_destroy(d->mux);
		d->mux = NULL;
		d->mux_size = 0;
		pfree(d->slots);
	}
	d->slots = MemoryContextAllocZero(d->cxt, epds_guc_max_connections *
									  sizeof(DeliverySlot));
	d->mux = epds_mux_create(d->cxt, epds_guc_max_connections);
	d->mux_size = epds_guc_max_connections;
}

/*
 * report
 *		Say in pg_stat_activity what is going on.
 */
static void
report(Delivery *d)
{
	static int	said = -1;
	int			now = d->in_flight + (d->look.in_flight ? 1 : 0);
	char		activity[64];

	if (now == said)
		return;
	said = now;
	if (now == 0)
	{
		epds_worker_report(NULL);
		return;
	}
	snprintf(activity, sizeof(activity), "sending %d requests", now);
	epds_worker_report(activity);
}

/*
 * rest
 *		About to sleep with nothing at hand: after work, give memory back.
 *
 * Planning a batch takes tens of megabytes for a moment.  They are freed, but
 * the C library keeps them, and an idle worker would hold them for hours.
 */
static void
rest(Delivery *d)
{
	if (!d->worked)
		return;
	d->worked = false;
#ifdef __GLIBC__
	(void) malloc_trim(0);
#endif
}

/*
 * wait_turn
 *		Sleep until there is something to do.  Returns true when somebody woke
 *		us (or anything but an answer and the clock).
 */
static bool
wait_turn(Delivery *d, int64 wait_ms)
{
	int64		began = epds_clock_ms();

	wait_ms = delivery_sooner(wait_ms, delivery_settle_wait(d));
	if (d->at_hand > 0 || d->look.in_flight ||
		(d->look.wanted && d->look.booked))
		wait_ms = delivery_sooner(wait_ms, LOOK_AROUND_MS);
	else if (wait_ms < 0 || wait_ms >= REST_MS)
		rest(d);
	wait_ms = delivery_sooner(wait_ms, epds_guc_poll_interval);

	if (epds_mux_wait(d->mux, (long) wait_ms, d->wait_event))
		return false;
	return epds_clock_ms() - began < wait_ms;
}

/*
 * wind_down
 *		Asked to stop: give back what has not left, and wait a moment for the
 *		answers under way.  What is still open then is looked up by the next
 *		life.
 */
static void
wind_down(Delivery *d)
{
	int64		until = epds_clock_ms() + WIND_DOWN_MS;

	d->may_send = false;
	delivery_release(d);
	while (!d->gone && (d->in_flight > 0 || d->look.in_flight) &&
		   epds_clock_ms() < until)
	{
		(void) epds_mux_wait(d->mux, (long) (until - epds_clock_ms()),
							 d->wait_event);
		delivery_collect(d);
	}
	if (!d->gone && d->nresults > 0)
		delivery_settle(d);
}

/*
 * turn
 *		Do all that can be done now.  Returns the milliseconds to sleep, -1 =
 *		until woken.
 */
static int64
turn(Delivery *d, bool look_around)
{
	int64		wait_ms;
	int64		silence;

	fit_mux(d);
	if (look_around)
	{
		d->troubled = d->take_failed;
		ask_gate(d);
		fold_signals(d);
		if (!d->troubled)
			epds_worker_trouble(NULL);
	}
	if (d->gone)
		return 0;
	if (!d->may_send)
	{
		delivery_release(d);
		return d->gate_wait_ms;
	}

	/* another number of connections: it counts when what is under way is done */
	if (d->mux_size != epds_guc_max_connections)
		return -1;

	silence = epds_pace_silence(&d->pace);
	if (silence > RELEASE_AFTER_MS)
		delivery_release(d);
	if (silence > 0)
		return silence;

	delivery_look_next(d);
	wait_ms = delivery_look_send(d);
	wait_ms = delivery_sooner(wait_ms, delivery_take(d));
	return delivery_sooner(wait_ms, delivery_send(d));
}

/*
 * begin
 *		Settle what a former life left, before anything else.  What keeps us from
 *		it (a role without rights) is told and tried again.  False when we are to
 *		stop before it was done.
 */
static bool
begin(Delivery *d)
{
	for (;;)
	{
		bool		durable = false;
		ErrorData  *error = delivery_block(d, d->scratch, &durable, start_work,
										   NULL);

		if (error == NULL)
			return !d->gone;
		delivery_log_error(error, "settling what a former run left");
		delivery_trouble(d, error);
		epds_worker_report(NULL);
		epds_http_sleep(BLOCK_RETRY_MS, d->wait_event);
		if (!epds_worker_turn())
			return false;
		MemoryContextReset(d->scratch);
	}
}

/*
 * epds_delivery_main
 *		The delivery worker.  Returns when it is asked to stop, or when the
 *		extension is gone.
 */
void
epds_delivery_main(void)
{
	Delivery   *d = delivery_create();
	bool		begun = begin(d);
	bool		woken = true;
	int64		asked_at = 0;
	int64		looked_at = 0;

	while (begun && !d->gone)
	{
		int64		now = epds_clock_ms();
		bool		idle = d->at_hand == 0 && d->nresults == 0 &&
			!d->look.in_flight;
		bool		look_around = idle || now - looked_at >= LOOK_AROUND_MS ||
			(woken && now - looked_at >= LOOK_AROUND_LEAST_MS);
		int64		wait_ms;

		if (woken || idle || now - asked_at >= TURN_MS)
		{
			if (!epds_worker_turn())
				break;
			asked_at = now;
		}
		MemoryContextReset(d->scratch);
		MemoryContextSwitchTo(d->scratch);

		if (look_around)
		{
			looked_at = now;
			d->take_not_before = woken ? 0 : d->take_not_before;
			/* a look that could not be paid for: perhaps it can now */
			if (woken && d->look.wanted && !d->look.booked)
				d->look.not_before = 0;
		}
		wait_ms = turn(d, look_around);
		report(d);
		if (!d->gone && delivery_settle_due(d))
			delivery_settle(d);
		else if (!d->gone)
		{
			woken = wait_turn(d, wait_ms) || (woken && !look_around);
			delivery_collect(d);
			if (delivery_settle_due(d))
				delivery_settle(d);
		}
	}

	wind_down(d);
	report(d);
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(d->cxt);
}
