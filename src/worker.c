/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The life of a worker, and the ways to wake, stop and find one.
 *
 * A worker is started by the launcher for one database and one kind of work:
 *
 *		attach -> connect -> get the kind's lock -> extension there?
 *			no:  sleep until woken or the poll interval is over, look again
 *			yes: epds_delivery_main() or epds_intake_main()
 *		... until it is asked to leave (stop_worker(), DROP DATABASE, no longer
 *		listed), which is looked at once per turn.
 *
 * An ERROR that reaches this file ends the process with exit code 1; the
 * launcher starts another one.  Being woken is a hint: the poll interval is
 * the guarantee.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/worker.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "clock.h"
#include "compat.h"
#include "http.h"
#include "session_lock.h"
#include "settings.h"
#include "shared.h"
#include "tx.h"

/* A second worker of a kind waits for the first to go. */
#define WORKER_LOCK_RETRY_MS 1000

/* While working, the extension is looked for at most this often. */
#define EXTENSION_CHECK_MS 1000

/*
 * The extension is there, but locked: another session drops it and has not
 * committed.  So often it is tried again.
 */
#define EXTENSION_BUSY_MS 1000

/* A clock that is set back by less is nobody's business: NTP does so. */
#define CLOCK_STEP_MS 2000

/* stop_worker() and start_worker() give up after this. */
#define WORKER_WAIT_MS 5000

static EpdsWorkerOrder my_order;
static bool am_worker = false;
static bool asked_to_leave = false;
static char my_database_name[NAMEDATALEN];
static uint32 seen_extension_changes = 0;
static bool extension_seen = false;
static int64 extension_checked_at = 0;	/* clock.h */
static bool in_trouble = false;

static uint32 wake_mask = 0;	/* kinds to wake at commit */
static bool xact_callback_registered = false;

extern PGDLLEXPORT void epds_worker_main(Datum main_arg);

/* See worker.h.  Everything but settings needs preloading. */
void
epds_worker_init(void)
{
	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	epds_shared_init();
	epds_utility_hook_init();
	epds_launcher_register();
}

const char *
epds_worker_kind_name(EpdsWorkerKind kind)
{
	static const char *const names[EPDS_WORKER_KINDS] = {"delivery", "intake", "listener"};

	return names[kind];
}

/*
 * Settings of a role, a database or the server that would disturb our work:
 * what a user's session may want, a worker must not have.
 */
static void
force_settings(void)
{
	static const struct
	{
		const char *name;
		const char *value;
	}			forced[] = {
		/* the values that blocks need (tx.c), so that these need not set them */
		{"search_path", "pg_catalog, pg_temp"},
		{"extra_float_digits", "1"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"idle_session_timeout", "0"},
		{EPDS_TRANSACTION_TIMEOUT, "0"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		/* what must not be lost is committed with "on", see tx.h */
		{"synchronous_commit", "local"},
		{"session_replication_role", "origin"},
		{"row_security", "on"},
		{"TimeZone", "UTC"},
		{"DateStyle", "ISO, YMD"},
		{"IntervalStyle", "postgres"},
		{"bytea_output", "hex"},
		{"standard_conforming_strings", "on"},
		/* many short statements: compiling them costs more than it gives */
		{"jit", "off"},
		{"exit_on_error", "off"},
	};

	for (size_t i = 0; i < lengthof(forced); i++)
		SetConfigOption(forced[i].name, forced[i].value, PGC_SUSET, PGC_S_OVERRIDE);
}

/* What launcher and workers do alike once connected. */
void
epds_worker_basics(const char *name)
{
	pgstat_report_appname(name);
	force_settings();
}

/* Runs in every way a worker can end; touches our shared memory only. */
static void
worker_exit(int code, Datum arg)
{
	EpdsDatabase *slot = &epds_shared->database[my_order.slot];
	EpdsWorkerState *worker = &slot->worker[my_order.kind];

	epds_shared_lock(LW_EXCLUSIVE);
	if (slot->oid == my_order.database && worker->pid == MyProcPid)
	{
		worker->pid = 0;
		worker->left_cleanly = asked_to_leave || !epds_shared_wants(slot, my_order.kind);
	}
	epds_shared_unlock();
	epds_launcher_wake();
}

/* Enter ourselves as the worker of our kind; false when nobody wants us. */
static bool
worker_attach(void)
{
	EpdsDatabase *slot = &epds_shared->database[my_order.slot];
	EpdsWorkerState *worker = &slot->worker[my_order.kind];
	bool		mine,
				wanted;

	before_shmem_exit(worker_exit, (Datum) 0);
	epds_shared_lock(LW_EXCLUSIVE);
	mine = slot->oid == my_order.database && worker->pid == 0 &&
		worker->generation == my_order.generation;
	wanted = mine && epds_shared_wants(slot, my_order.kind);
	if (wanted)
	{
		worker->pid = MyProcPid;
		/* a predecessor's, until we know better */
		in_trouble = worker->trouble[0] != '\0';
		worker->started_at = epds_clock_ms();
	}
	if (mine)
		worker->left_cleanly = !wanted;
	epds_shared_unlock();
	return wanted;
}

/* Does anybody still want us?  Remembered, for the launcher's judgement. */
static bool
worker_wanted(void)
{
	EpdsDatabase *slot = &epds_shared->database[my_order.slot];

	epds_shared_lock(LW_SHARED);
	asked_to_leave = slot->oid != my_order.database ||
		!epds_shared_wants(slot, my_order.kind);
	epds_shared_unlock();
	return !asked_to_leave;
}

static void
worker_error_context(void *arg)
{
	errcontext("exact_pd_sync %s worker of database \"%s\"",
			   epds_worker_kind_name(my_order.kind), my_database_name);
}

/* One look at the catalog, in a transaction of its own. */
static bool
extension_exists_now(void)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		exists;

	StartTransactionCommand();
	exists = OidIsValid(get_extension_oid("exact_pd_sync", true));
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return exists;
}

/*
 * Is the extension there?  The catalog is asked when somebody created, changed
 * or dropped it, or when the last answer is old (it can also go with its
 * schema or its owner).
 */
static bool
extension_present(void)
{
	int64		now = epds_clock_ms();
	uint32		changes;

	epds_shared_lock(LW_SHARED);
	changes = epds_shared->database[my_order.slot].extension_changes;
	epds_shared_unlock();
	if (extension_seen && changes == seen_extension_changes &&
		now - extension_checked_at < EXTENSION_CHECK_MS)
		return true;
	seen_extension_changes = changes;
	extension_checked_at = now;
	extension_seen = extension_exists_now();
	return extension_seen;
}

/* Sleep on the latch; interrupts and a reload are served by the next turn. */
static void
worker_nap(long timeout_ms)
{
	(void) WaitLatch(MyLatch,
					 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout_ms, epds_wait_event("ExactPdSyncIdle"));
	ResetLatch(MyLatch);
}

static void
serve_interrupts(void)
{
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/*
 * By how many milliseconds was the clock of the machine set back since the last
 * turn (negative: ahead)?  0 when it was not, or by so little that nobody waits
 * for it.
 */
static int64
clock_set_back_ms(void)
{
	static int64 last_offset = 0;
	int64		offset = GetCurrentTimestamp() / 1000 - epds_clock_ms();
	int64		back = last_offset == 0 ? 0 : last_offset - offset;

	last_offset = offset;
	return (back >= CLOCK_STEP_MS || back <= -CLOCK_STEP_MS) ? back : 0;
}

/*
 * Pauses within a process never depend on the machine's clock, but what waits
 * in the tables does: it must not wait for the clock to catch up.
 */
static void
serve_clock(void)
{
	static int64 back_ms = 0;	/* not set right yet, as while the extension is
								 * being dropped by somebody */
	const char *args[1];

	back_ms += clock_set_back_ms();
	if (back_ms == 0 || my_order.kind != EPDS_WORKER_DELIVERY)
		return;
	args[0] = psprintf(INT64_FORMAT, back_ms);
	epds_tx_begin();
	if (epds_extension_exists())
	{
		epds_sql("SELECT exact_pd_sync._delivery_times_ahead($1::bigint)", 1, args);
		ereport(LOG,
				(errmsg("the clock was set %s by %lld seconds: what waits is set right",
						back_ms > 0 ? "back" : "ahead",
						(long long) (back_ms > 0 ? back_ms : -back_ms) / 1000)));
		back_ms = 0;
	}
	epds_tx_commit();
}

/* See worker.h. */
bool
epds_worker_turn(void)
{
	Assert(am_worker && !IsTransactionState());
	serve_interrupts();
	pgstat_report_stat(false);
	if (!worker_wanted() || !extension_present())
		return false;
	serve_clock();
	return true;
}

/* See worker.h. */
void
epds_worker_report(const char *activity)
{
	if (activity != NULL)
	{
		pgstat_report_activity(STATE_RUNNING, activity);
		return;
	}
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, "waiting for work");
}

/* See worker.h. */
void
epds_worker_trouble(const char *text)
{
	EpdsWorkerState *worker = &epds_shared->database[my_order.slot].worker[my_order.kind];
	int			len;

	if (text == NULL && !in_trouble)
		return;
	in_trouble = text != NULL;
	text = text != NULL ? text : "";
	len = pg_mbcliplen(text, strlen(text), sizeof(worker->trouble) - 1);
	epds_shared_lock(LW_EXCLUSIVE);
	if (worker->pid == MyProcPid)
	{
		memcpy(worker->trouble, text, len);
		worker->trouble[len] = '\0';
	}
	epds_shared_unlock();
}

/*
 * Take the lock of our kind for the life of this process.  Somebody else can
 * only hold it while he is on his way out.  False when asked to leave.
 */
static bool
worker_take_lock(void)
{
	bool		waited = false;

	for (;;)
	{
		bool		taken;

		StartTransactionCommand();
		taken = epds_lock_try(EPDS_LOCK_WORKER, (uint32) my_order.kind);
		CommitTransactionCommand();
		if (taken)
		{
			if (waited)
				epds_worker_trouble(NULL);
			return true;
		}
		waited = true;
		pgstat_report_activity(STATE_IDLE, "waiting for another worker of this kind to leave");
		epds_worker_trouble("another session holds the lock that only one worker may have (pg_locks, locktype advisory)");
		worker_nap(WORKER_LOCK_RETRY_MS);
		serve_interrupts();
		if (!worker_wanted())
			return false;
	}
}

/* Wait for the extension to be created.  False when asked to leave. */
static bool
await_extension(void)
{
	for (;;)
	{
		serve_interrupts();
		if (!worker_wanted())
			return false;
		if (extension_present())
			return true;
		pgstat_report_stat(true);
		pgstat_report_activity(STATE_IDLE, "waiting for CREATE EXTENSION exact_pd_sync");
		worker_nap(epds_guc_poll_interval);
	}
}

/*
 * The work, for as long as somebody wants it and the extension is there.  While
 * another session is dropping the extension without having committed, the
 * catalog still shows it, but nothing may be done: then we look now and then.
 */
static void
worker_work(void)
{
	while (await_extension())
	{
		if (my_order.kind == EPDS_WORKER_DELIVERY)
			epds_delivery_main();
		else if (my_order.kind == EPDS_WORKER_INTAKE)
			epds_intake_main();
		else
			epds_listener_main();
		extension_checked_at = 0;
		if (worker_wanted() && extension_exists_now())
		{
			epds_worker_report(NULL);
			worker_nap(EXTENSION_BUSY_MS);
		}
	}
}

/*
 * The same; an ERROR that ends us is left where status finds it.
 */
static void
worker_work_and_tell(void)
{
	MemoryContext cxt = CurrentMemoryContext;

	PG_TRY();
	{
		if (worker_take_lock())
			worker_work();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		epds_worker_trouble(epds_redact(error->message));
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/*
 * Main function of both kinds of worker; the order lies in bgw_extra.
 */
void
epds_worker_main(Datum main_arg)
{
	ErrorContextCallback context;
	char		name[NAMEDATALEN + 32];

	memcpy(&my_order, MyBgworkerEntry->bgw_extra, sizeof(my_order));
	am_worker = true;
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	if (!worker_attach())
		proc_exit(0);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(my_order.database, my_order.role, 0);

	/* the name as it is now, for logs; a rename makes us leave */
	StartTransactionCommand();
	strlcpy(my_database_name, get_database_name(MyDatabaseId), NAMEDATALEN);
	CommitTransactionCommand();
	snprintf(name, sizeof(name), "exact_pd_sync %s %s",
			 epds_worker_kind_name(my_order.kind), my_database_name);
	epds_worker_basics(name);
	context.callback = worker_error_context;
	context.arg = NULL;
	context.previous = error_context_stack;
	error_context_stack = &context;

	epds_tx_in_worker();
	worker_work_and_tell();
	proc_exit(0);
}

/* See worker.h. */
int
epds_worker_pid(EpdsWorkerKind kind)
{
	EpdsDatabase *slot;
	int			pid = 0;

	if (epds_shared == NULL)
		return 0;
	epds_shared_lock(LW_SHARED);
	slot = epds_shared_find(MyDatabaseId);
	if (slot != NULL)
		pid = slot->worker[kind].pid;
	epds_shared_unlock();
	return epds_process_lives(pid) ? pid : 0;
}

/* See worker.h. */
void
epds_worker_wake(EpdsWorkerKind kind)
{
	epds_process_wake(epds_worker_pid(kind));
}

static void
wake_xact_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	for (int kind = 0; event == XACT_EVENT_COMMIT && kind < EPDS_WORKER_KINDS; kind++)
	{
		if (wake_mask & (1 << kind))
			epds_worker_wake(kind);
	}
	wake_mask = 0;
}

/* See worker.h.  Cheap enough for a trigger: one bit, one latch per commit. */
void
epds_worker_wake_at_commit(EpdsWorkerKind kind)
{
	if (epds_shared == NULL)
		return;
	if (!xact_callback_registered)
	{
		RegisterXactCallback(wake_xact_callback, NULL);
		xact_callback_registered = true;
	}
	wake_mask |= 1 << kind;
}

/* A kind by its name; ERROR 22023 for any other. */
static EpdsWorkerKind
kind_by_name(const char *name)
{
	for (int kind = 0; kind < EPDS_WORKER_KINDS; kind++)
	{
		if (strcmp(name, epds_worker_kind_name(kind)) == 0)
			return kind;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown kind of worker \"%s\"", name),
			 errhint("Kinds are \"delivery\", \"intake\" and \"listener\".")));
}

/* wake_worker(kind text) returns void: at commit of this transaction. */
PG_FUNCTION_INFO_V1(epds_wake_worker);
Datum
epds_wake_worker(PG_FUNCTION_ARGS)
{
	EpdsWorkerKind kind = kind_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	/* the install script wakes us too: let the worker look for the extension */
	if (creating_extension)
		epds_note_extension_change();
	epds_worker_wake_at_commit(kind);
	PG_RETURN_VOID();
}

/*
 * worker_pid(kind text) returns integer, 0 when none runs.  The C name without
 * the suffix belongs to worker.h.
 */
PG_FUNCTION_INFO_V1(epds_worker_pid_sql);
Datum
epds_worker_pid_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(epds_worker_pid(kind_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)))));
}

/*
 * worker_trouble(kind text) returns text: why the worker of this database does
 * not run or cannot do its work; null when there is nothing to tell.
 */
PG_FUNCTION_INFO_V1(epds_worker_trouble_sql);
Datum
epds_worker_trouble_sql(PG_FUNCTION_ARGS)
{
	EpdsWorkerKind kind = kind_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	EpdsDatabase *slot;
	EpdsWorkerState worker = {0};
	const char *trouble = NULL;

	if (epds_shared == NULL)
		PG_RETURN_TEXT_P(cstring_to_text("exact_pd_sync is not in shared_preload_libraries"));
	if (RecoveryInProgress())
		PG_RETURN_TEXT_P(cstring_to_text("this server is a standby"));
	epds_shared_lock(LW_SHARED);
	slot = epds_shared_find(MyDatabaseId);
	if (slot != NULL)
		worker = slot->worker[kind];
	if (slot == NULL || !slot->wanted)
		trouble = "exact_pd_sync.databases does not name this database";
	else if (slot->stopped)
		trouble = "stopped by stop_worker(); start_worker() or a restart of the server starts it";
	else if (epds_shared_is_held(MyDatabaseId))
		trouble = "it makes way for a command on the database or the extension";
	else if (epds_shared->launcher_pid == 0)
		trouble = "the launcher does not run; the postmaster starts it again within seconds";
	epds_shared_unlock();

	if (trouble == NULL && worker.pid == 0 && worker.no_start[0] != '\0')
		trouble = worker.no_start;
	if (trouble == NULL && worker.trouble[0] != '\0')
		trouble = worker.trouble;
	if (trouble == NULL && worker.pid == 0)
		trouble = "it is being started, or ended with an error that the server log tells";
	if (trouble == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(trouble));
}

/* preloaded() returns boolean: can there be workers at all? */
PG_FUNCTION_INFO_V1(epds_preloaded);
Datum
epds_preloaded(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(epds_shared != NULL);
}

/* Set or clear the stop flag of this database; false when it is not listed. */
static bool
set_stopped(bool stopped)
{
	EpdsDatabase *slot;
	bool		wanted = false;

	epds_shared_lock(LW_EXCLUSIVE);
	slot = epds_shared_make(MyDatabaseId);
	if (slot != NULL)
	{
		slot->stopped = stopped;
		if (!stopped)
			slot->start_requests++;
		wanted = slot->wanted;
	}
	epds_shared_unlock();
	return wanted;
}

/* stop_worker() returns boolean: true when no worker of this database is left. */
PG_FUNCTION_INFO_V1(epds_stop_worker);
Datum
epds_stop_worker(PG_FUNCTION_ARGS)
{
	if (epds_shared == NULL)
		PG_RETURN_BOOL(true);
	(void) set_stopped(true);
	PG_RETURN_BOOL(epds_wait_for_workers(MyDatabaseId, false, WORKER_WAIT_MS));
}

/*
 * start_worker() returns boolean: true when all workers of this database run.
 * Tells what has to be set when they cannot.
 */
PG_FUNCTION_INFO_V1(epds_start_worker);
Datum
epds_start_worker(PG_FUNCTION_ARGS)
{
	bool		wanted;

	if (epds_shared == NULL)
	{
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no worker can run, because exact_pd_sync is not preloaded"),
				 errhint("Add exact_pd_sync to shared_preload_libraries and restart the server.")));
		PG_RETURN_BOOL(false);
	}
	wanted = set_stopped(false);
	epds_launcher_wake();
	if (!wanted)
	{
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no worker runs for this database, because exact_pd_sync.databases does not name it"),
				 errhint("Add it with ALTER SYSTEM SET exact_pd_sync.databases = ..., and reload.")));
		PG_RETURN_BOOL(false);
	}
	PG_RETURN_BOOL(epds_wait_for_workers(MyDatabaseId, true, WORKER_WAIT_MS));
}
