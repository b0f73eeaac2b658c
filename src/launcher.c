/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		The launcher: sees to it that the workers of every listed database run.
 *
 * One process per server.  It belongs to no database; it reads the list of
 * exact_pd_sync.databases, looks the names up, and starts what is missing:
 *
 *		absent --start--> starting --attach--> running --leave--> absent
 *
 * What runs is known from shared memory, so that a launcher that was itself
 * restarted finds the workers of its predecessor and leaves them alone.  Every
 * start carries a generation number; a process with an older one (asked for by
 * a predecessor, started late) leaves by itself.
 *
 * A worker that fails is started again after 5 s, 10 s, ... at most 5 min; a
 * worker that lived for 10 min starts over at 5 s.  A worker that left because
 * it was asked to (stop_worker(), DROP DATABASE) is started again at once when
 * it may.
 *
 * Nothing runs on a standby (BgWorkerStart_RecoveryFinished) or during
 * pg_upgrade.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/launcher.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
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
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/varlena.h"

#include "clock.h"
#include "compat.h"
#include "listen_address.h"
#include "settings.h"
#include "shared.h"

#define RESTART_DELAY_MIN_MS 5000
#define RESTART_DELAY_MAX_MS (5 * 60 * 1000)
#define LIFE_THAT_FORGIVES_MS (10 * 60 * 1000)

/* How long to sleep when nothing is due: death of a worker and SIGHUP wake us. */
#define SLEEP_ALL_WELL_MS 60000
/* ... and when a listed database is not there: nobody tells us when it comes. */
#define SLEEP_SOMETHING_MISSING_MS 10000
/*
 * No free slot for a worker: somebody else's may become free, which nobody
 * tells us.  When one of our own ends, we are woken and try at once.
 */
#define NO_SLOT_DELAY_MS 30000

/* What the launcher itself remembers of a worker; dies with it. */
typedef struct LaunchState
{
	Oid			database;
	uint32		generation;		/* of the start whose end we have to judge; 0: none */
	uint32		start_requests; /* as last seen */
	int			delay_ms;		/* of the next failure */
	bool		no_room;		/* the last try found no free worker slot */
	int64		not_before;		/* of the clock that never jumps */
	BackgroundWorkerHandle *handle;
} LaunchState;

/* A database as the settings name it and the catalog knows it. */
typedef struct ListedDatabase
{
	const char *name;
	Oid			oid;
	Oid			role;
} ListedDatabase;

/* What a round knows of the catalogs. */
typedef struct KnownDatabase
{
	Oid			oid;
	NameData	name;
	bool		connectable;
} KnownDatabase;

typedef struct Catalogs
{
	int			n;
	KnownDatabase *databases;
	Oid			role;			/* to connect as; InvalidOid: bootstrap superuser */
} Catalogs;

static LaunchState launch_state[EPDS_MAX_DATABASES][EPDS_WORKER_KINDS];
static MemoryContext round_context = NULL;
static bool warned_no_slot = false;

/* Woken since the last round: a worker may have ended and left its slot. */
static bool slot_may_be_free = false;

/* The list as last looked at, to say the same thing once. */
static char *complained_of = NULL;
static int	nobody_listens = 0;

extern PGDLLEXPORT void epds_launcher_main(Datum main_arg);

/* Called in the postmaster while libraries are preloaded. */
void
epds_launcher_register(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_DELAY_MIN_MS / 1000;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "exact_pd_sync");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "epds_launcher_main");
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "exact_pd_sync launcher");
	snprintf(worker.bgw_type, sizeof(worker.bgw_type), "exact_pd_sync launcher");
	RegisterBackgroundWorker(&worker);
}

static void
launcher_exit(int code, Datum arg)
{
	epds_shared_lock(LW_EXCLUSIVE);
	if (epds_shared->launcher_pid == MyProcPid)
		epds_shared->launcher_pid = 0;
	epds_shared_unlock();
}

/*
 * Read pg_database.  By a scan: a process without a database may use neither
 * the indexes of shared catalogs nor the caches that need them, because
 * building those may have to look into a pg_class it does not have.  The array
 * lives in cxt.  Needs a transaction.
 */
static KnownDatabase *
read_databases(MemoryContext cxt, int *n)
{
	Relation	rel = table_open(DatabaseRelationId, AccessShareLock);
	TableScanDesc scan = table_beginscan_catalog(rel, 0, NULL);
	KnownDatabase *known;
	HeapTuple	tuple;
	int			room = 32;

	*n = 0;
	known = MemoryContextAlloc(cxt, sizeof(KnownDatabase) * room);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (*n == room)
		{
			room *= 2;
			known = repalloc(known, sizeof(KnownDatabase) * room);
		}
		known[*n].oid = form->oid;
		namestrcpy(&known[*n].name, NameStr(form->datname));
		/* -2 marks one whose DROP was interrupted; it refuses everybody */
		known[*n].connectable = form->datallowconn && form->datconnlimit >= -1;
		(*n)++;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return known;
}

/*
 * The role workers connect as: the one the server's settings name, if it may
 * log in, else the bootstrap superuser (whose rights are laid down for every
 * piece of SQL).  By a scan, as above.  Needs a transaction.
 */
static Oid
role_to_connect_as(void)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;
	Oid			role = InvalidOid;

	if (epds_guc_role == NULL || *epds_guc_role == '\0')
		return InvalidOid;
	rel = table_open(AuthIdRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_authid form = (Form_pg_authid) GETSTRUCT(tuple);

		if (strcmp(NameStr(form->rolname), epds_guc_role) == 0 && form->rolcanlogin)
			role = form->oid;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return role;
}

/*
 * Take the look at the catalogs that a round goes by.  Opens a transaction of
 * its own; what it returns lives in the current context.
 */
static void
read_catalogs(Catalogs *catalogs)
{
	MemoryContext caller = CurrentMemoryContext;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	catalogs->databases = read_databases(caller, &catalogs->n);
	catalogs->role = role_to_connect_as();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
}

static const KnownDatabase *
known_by_name(const Catalogs *catalogs, const char *name)
{
	for (int i = 0; i < catalogs->n; i++)
	{
		if (strcmp(NameStr(catalogs->databases[i].name), name) == 0)
			return &catalogs->databases[i];
	}
	return NULL;
}

static bool
database_exists(const Catalogs *catalogs, Oid oid)
{
	for (int i = 0; i < catalogs->n; i++)
	{
		if (catalogs->databases[i].oid == oid)
			return true;
	}
	return false;
}

/* Say what is wrong with the list, but only when that has changed. */
static void
complain_once(const StringInfo complaint)
{
	if (complained_of != NULL && strcmp(complained_of, complaint->data) == 0)
		return;
	if (complained_of != NULL)
		pfree(complained_of);
	complained_of = MemoryContextStrdup(TopMemoryContext, complaint->data);
	if (complaint->len > 0)
		ereport(WARNING,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("exact_pd_sync runs no workers for some databases of exact_pd_sync.databases"),
				 errdetail_internal("%s", complaint->data),
				 errhint("Create the database, or correct the setting and reload.")));
}

/* A name in exact_pd_sync.listen that leads to no listener would go unnoticed. */
static void
complain_of_listen(const ListedDatabase *listed, int n)
{
	int			left = listen_address_count(epds_guc_listen);

	for (int i = 0; i < n; i++)
	{
		ListenAddress address;

		(void) listen_address_find(epds_guc_listen, listed[i].name, &address);
		left -= address.port != 0;
	}
	if (left > 0 && left != nobody_listens)
		ereport(WARNING,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("exact_pd_sync.listen names a database twice, or one that no worker runs for"),
				 errdetail("It is \"%s\".", epds_guc_listen),
				 errhint("Correct it, or add the database to exact_pd_sync.databases, and reload.")));
	nobody_listens = left;
}

/*
 * Read the list into listed[]; returns how many of them can be served.  The
 * names live in the current context.  Who cannot be served is added to
 * complaint.
 */
static int
read_list(const Catalogs *catalogs, ListedDatabase *listed, StringInfo complaint)
{
	List	   *names = NIL;
	ListCell   *lc;
	int			n = 0;

	/* the check hook has seen the syntax and the length */
	(void) SplitGUCList(pstrdup(epds_guc_databases ? epds_guc_databases : ""), ',', &names);

	foreach(lc, names)
	{
		const char *name = lfirst(lc);
		const KnownDatabase *database = known_by_name(catalogs, name);
		bool		twice = false;

		if (database == NULL || !database->connectable)
		{
			appendStringInfo(complaint, "%sDatabase \"%s\": it %s.",
							 complaint->len > 0 ? " " : "", name,
							 database == NULL ? "does not exist" : "does not accept connections");
			continue;
		}
		for (int i = 0; i < n; i++)
			twice = twice || listed[i].oid == database->oid;
		if (twice || n == EPDS_MAX_DATABASES)
			continue;
		listed[n].name = name;
		listed[n].oid = database->oid;
		listed[n].role = catalogs->role;
		n++;
	}
	return n;
}

/* Does a worker of this database still run?  Needs the lock. */
static bool
has_workers(const EpdsDatabase *slot)
{
	for (int kind = 0; kind < EPDS_WORKER_KINDS; kind++)
		if (slot->worker[kind].pid != 0)
			return true;
	return false;
}

/*
 * A slot for a listed database, when all are taken: that of one which is not
 * listed and has no worker.  Sessions of any database may have made one; what
 * is lost with it is a log of two seconds and a stop_worker() where nothing
 * runs.  NULL when there is none.  Needs the exclusive lock.
 */
static EpdsDatabase *
take_unlisted_slot(Oid database)
{
	for (int i = 0; i < EPDS_MAX_DATABASES; i++)
	{
		EpdsDatabase *slot = &epds_shared->database[i];

		if (slot->wanted || has_workers(slot))
			continue;
		slot->oid = InvalidOid;
		return epds_shared_make(database);
	}
	return NULL;
}

/*
 * Make shared memory say which databases are wanted; wake workers of those
 * that no longer are (they look and leave); give slots of dropped databases
 * back.  Who finds no slot is added to complaint.
 */
static void
publish_list(const Catalogs *catalogs, const ListedDatabase *listed, int n,
			 StringInfo complaint)
{
	const char *without[EPDS_MAX_DATABASES];
	int			n_without = 0;
	Oid			unlisted[EPDS_MAX_DATABASES];
	int			to_wake[EPDS_MAX_DATABASES * EPDS_WORKER_KINDS];
	int			n_unlisted = 0,
				n_wake = 0;
	bool		listens[EPDS_MAX_DATABASES];

	for (int j = 0; j < n; j++)
	{
		ListenAddress address;

		(void) listen_address_find(epds_guc_listen, listed[j].name, &address);
		listens[j] = address.port != 0;
	}

	epds_shared_lock(LW_EXCLUSIVE);
	for (int i = 0; i < EPDS_MAX_DATABASES; i++)
	{
		EpdsDatabase *slot = &epds_shared->database[i];
		bool		wanted = false;

		for (int j = 0; j < n; j++)
			wanted = wanted || listed[j].oid == slot->oid;
		if (!OidIsValid(slot->oid) || wanted)
			continue;
		slot->wanted = false;
		for (int kind = 0; kind < EPDS_WORKER_KINDS; kind++)
		{
			if (slot->worker[kind].pid != 0)
				to_wake[n_wake++] = slot->worker[kind].pid;
		}
		if (!has_workers(slot))
			unlisted[n_unlisted++] = slot->oid;
	}
	epds_shared_unlock();

	for (int i = 0; i < n_wake; i++)
		epds_process_wake(to_wake[i]);
	for (int i = 0; i < n_unlisted; i++)
	{
		EpdsDatabase *slot;

		if (database_exists(catalogs, unlisted[i]))
			continue;
		epds_shared_lock(LW_EXCLUSIVE);
		slot = epds_shared_find(unlisted[i]);
		if (slot != NULL)
			slot->oid = InvalidOid;
		epds_shared_unlock();
	}

	epds_shared_lock(LW_EXCLUSIVE);
	for (int j = 0; j < n; j++)
	{
		EpdsDatabase *slot = epds_shared_find(listed[j].oid);

		if (slot != NULL)
			slot->wanted = true;
	}
	for (int j = 0; j < n; j++)
	{
		EpdsDatabase *slot = epds_shared_make(listed[j].oid);

		if (slot == NULL)
			slot = take_unlisted_slot(listed[j].oid);
		if (slot != NULL)
		{
			slot->wanted = true;
			slot->listens = listens[j];
		}
		else
			without[n_without++] = listed[j].name;
	}
	epds_shared_unlock();

	for (int i = 0; i < n_without; i++)
		appendStringInfo(complaint,
						 "%sDatabase \"%s\": all %d places are taken, some by databases whose workers are still leaving.",
						 complaint->len > 0 ? " " : "", without[i], EPDS_MAX_DATABASES);
}

/* Ask the postmaster for a worker.  False when it has no room. */
static bool
register_worker(LaunchState *state, const ListedDatabase *database, EpdsWorkerOrder *order)
{
	BackgroundWorker worker;
	const char *kind = epds_worker_kind_name(order->kind);
	MemoryContext caller;
	bool		registered;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "exact_pd_sync");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "epds_worker_main");
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "exact_pd_sync %s %s",
			 kind, database->name);
	snprintf(worker.bgw_type, sizeof(worker.bgw_type), "exact_pd_sync %s", kind);
	StaticAssertStmt(sizeof(EpdsWorkerOrder) <= BGW_EXTRALEN, "order does not fit");
	memcpy(worker.bgw_extra, order, sizeof(*order));

	/* the handle must outlive this round */
	caller = MemoryContextSwitchTo(TopMemoryContext);
	if (state->handle != NULL)
		pfree(state->handle);
	state->handle = NULL;
	registered = RegisterDynamicBackgroundWorker(&worker, &state->handle);
	MemoryContextSwitchTo(caller);
	return registered;
}

/*
 * Start one worker.  When there is no room, warn once and try again later.
 * Status tells why it does not run.
 */
static void
start_worker(LaunchState *state, const ListedDatabase *database, int slot,
			 EpdsWorkerKind kind, int64 now)
{
	EpdsWorkerState *worker = &epds_shared->database[slot].worker[kind];
	EpdsWorkerOrder order = {
		.slot = slot,
		.kind = kind,
		.database = database->oid,
		.role = database->role
	};

	epds_shared_lock(LW_EXCLUSIVE);
	order.generation = ++epds_shared->last_generation;
	worker->generation = order.generation;
	worker->started_at = 0;
	worker->left_cleanly = false;
	epds_shared_unlock();

	state->no_room = !register_worker(state, database, &order);
	epds_shared_lock(LW_EXCLUSIVE);
	strlcpy(worker->no_start, state->no_room ?
			"no free worker slot, max_worker_processes is too low" : "",
			sizeof(worker->no_start));
	epds_shared_unlock();
	if (!state->no_room)
	{
		state->generation = order.generation;
		return;
	}
	state->not_before = now + NO_SLOT_DELAY_MS;
	if (!warned_no_slot)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("could not start worker \"exact_pd_sync %s\" for database \"%s\": no free worker slot",
						epds_worker_kind_name(kind), database->name),
				 errhint("Raise max_worker_processes: exact_pd_sync needs one for its launcher and %d for each database.",
						 EPDS_WORKER_KINDS)));
	warned_no_slot = true;
}

/*
 * A worker is gone: when may the next one start?  One that was asked to leave,
 * at once; else after the delay, which doubles until one lives long enough.
 */
static void
judge_end(LaunchState *state, const EpdsWorkerState *worker, int64 now)
{
	int64		life_ms = worker->started_at == 0 ? 0 : now - worker->started_at;

	state->generation = 0;
	if (worker->left_cleanly)
	{
		state->delay_ms = 0;
		state->not_before = now;
		return;
	}
	if (state->delay_ms == 0 || life_ms >= LIFE_THAT_FORGIVES_MS)
		state->delay_ms = RESTART_DELAY_MIN_MS;
	else
		state->delay_ms = Min(state->delay_ms * 2, RESTART_DELAY_MAX_MS);
	state->not_before = now + state->delay_ms;
}

/* Is the worker whose start we asked for still on its way up? */
static bool
is_starting(LaunchState *state)
{
	pid_t		pid;
	BgwHandleStatus status;

	if (state->generation == 0 || state->handle == NULL)
		return false;
	status = GetBackgroundWorkerPid(state->handle, &pid);
	return status == BGWH_NOT_YET_STARTED || status == BGWH_STARTED;
}

/*
 * See to one worker.  Returns how long nothing needs to be done for it, in ms;
 * -1 when only an event can change anything.
 */
static long
tend_worker(const ListedDatabase *database, int slot, EpdsWorkerKind kind)
{
	LaunchState *state = &launch_state[slot][kind];
	int64		now = epds_clock_ms();
	EpdsWorkerState worker;
	uint32		start_requests;
	bool		may_run;

	epds_shared_lock(LW_SHARED);
	worker = epds_shared->database[slot].worker[kind];
	start_requests = epds_shared->database[slot].start_requests;
	may_run = epds_shared_wants(&epds_shared->database[slot], kind);
	epds_shared_unlock();

	if (state->database != database->oid)
	{
		if (state->handle != NULL)
			pfree(state->handle);
		memset(state, 0, sizeof(*state));
		state->database = database->oid;
	}
	if (epds_process_lives(worker.pid))
	{
		state->generation = worker.generation;
		return -1;
	}
	if (is_starting(state))
		return -1;
	if (state->generation != 0)
		judge_end(state, &worker, now);
	if (state->start_requests != start_requests)
	{
		/* a person says that now is the time */
		state->start_requests = start_requests;
		state->delay_ms = 0;
		state->not_before = now;
	}
	if (!may_run)
		return -1;
	if (state->no_room && slot_may_be_free)
		state->not_before = now;
	if (state->not_before <= now)
		start_worker(state, database, slot, kind, now);
	if (state->not_before <= now)
		return -1;
	return Max(1, state->not_before - now);
}

/* One look at everything; returns how long to sleep. */
static long
launcher_round(void)
{
	ListedDatabase *listed = palloc(sizeof(ListedDatabase) * EPDS_MAX_DATABASES);
	Catalogs	catalogs;
	StringInfoData complaint;
	bool		no_room = false;
	long		sleep_ms;
	int			n;

	initStringInfo(&complaint);
	read_catalogs(&catalogs);
	n = read_list(&catalogs, listed, &complaint);
	publish_list(&catalogs, listed, n, &complaint);
	complain_once(&complaint);
	complain_of_listen(listed, n);
	sleep_ms = complaint.len > 0 ? SLEEP_SOMETHING_MISSING_MS : SLEEP_ALL_WELL_MS;
	for (int i = 0; i < n; i++)
	{
		EpdsDatabase *slot;

		epds_shared_lock(LW_SHARED);
		slot = epds_shared_find(listed[i].oid);
		epds_shared_unlock();
		for (int kind = 0; slot != NULL && kind < EPDS_WORKER_KINDS; kind++)
		{
			int			place = slot - epds_shared->database;
			long		due = tend_worker(&listed[i], place, kind);

			if (due >= 0)
				sleep_ms = Min(sleep_ms, due);
			no_room |= launch_state[place][kind].no_room;
		}
	}
	slot_may_be_free = false;
	/* the next shortage is another one */
	warned_no_slot &= no_room;
	return sleep_ms;
}

/* Take the shared entry and forget starts that a predecessor asked for. */
static void
launcher_attach(void)
{
	before_shmem_exit(launcher_exit, (Datum) 0);
	epds_shared_lock(LW_EXCLUSIVE);
	epds_shared->launcher_pid = MyProcPid;
	for (int i = 0; i < EPDS_MAX_DATABASES; i++)
	{
		for (int kind = 0; kind < EPDS_WORKER_KINDS; kind++)
		{
			EpdsWorkerState *worker = &epds_shared->database[i].worker[kind];

			if (worker->pid == 0)
				worker->generation = ++epds_shared->last_generation;
		}
	}
	epds_shared_unlock();
}

static void
say_when_idle(void)
{
	if (epds_guc_databases == NULL || *epds_guc_databases == '\0')
		ereport(LOG,
				(errmsg("exact_pd_sync runs no workers, because exact_pd_sync.databases is empty"),
				 errhint("Set exact_pd_sync.databases to the names of the databases that have the extension, and reload.")));
}

/*
 * Main function of the launcher; ends with the process.  An ERROR ends it with
 * exit code 1 and the postmaster starts it again.
 */
void
epds_launcher_main(Datum main_arg)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	epds_worker_basics("exact_pd_sync launcher");
	launcher_attach();
	round_context = AllocSetContextCreate(TopMemoryContext, "exact_pd_sync launcher round",
										  ALLOCSET_DEFAULT_SIZES);
	say_when_idle();

	for (;;)
	{
		long		sleep_ms;
		int			events;

		MemoryContextSwitchTo(round_context);
		MemoryContextReset(round_context);
		sleep_ms = launcher_round();
		pgstat_report_stat(true);
		pgstat_report_activity(STATE_IDLE, "watching over the workers");
		events = WaitLatch(MyLatch,
						   WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						   sleep_ms, epds_wait_event("ExactPdSyncLauncher"));
		ResetLatch(MyLatch);
		slot_may_be_free = (events & WL_LATCH_SET) != 0;
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			warned_no_slot = false;
			say_when_idle();
		}
	}
}
