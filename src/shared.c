/*-------------------------------------------------------------------------
 *
 * shared.c
 *		Shared memory: who runs, who must not, and what was sent lately.
 *
 * Everything is found by the OID of the database.  A slot is made by the
 * launcher for a database it knows, or by the first session that needs one,
 * and given up by the launcher when the database is gone.
 *
 * Other processes are named by their pid and found again through the process
 * array, so that a pid of a dead process wakes nobody.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/shared.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"

#include "clock.h"
#include "compat.h"
#include "shared.h"

#define SHARED_NAME "exact_pd_sync"

/* How often a session looks whether workers have come or gone. */
#define WORKER_WAIT_STEP_MS 20

/* After this long without an answer a worker is terminated. */
#define WORKER_GRACE_MS 3000

EpdsShared *epds_shared = NULL;

static LWLock *shared_lock = NULL;
static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* For sessions without shared memory, or when all slots are taken. */
static EpdsBurst local_burst;

static void
shared_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(EpdsShared)));
	RequestNamedLWLockTranche(SHARED_NAME, 1);
}

/* Also runs after a crash of another backend: everything begins anew. */
static void
shared_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	epds_shared = ShmemInitStruct(SHARED_NAME, sizeof(EpdsShared), &found);
	if (!found)
		memset(epds_shared, 0, sizeof(EpdsShared));
	shared_lock = &GetNamedLWLockTranche(SHARED_NAME)->lock;
	LWLockRelease(AddinShmemInitLock);
}

/* Called while shared_preload_libraries are loaded, in the postmaster. */
void
epds_shared_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shared_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shared_startup;
}

void
epds_shared_lock(LWLockMode mode)
{
	LWLockAcquire(shared_lock, mode);
}

void
epds_shared_unlock(void)
{
	LWLockRelease(shared_lock);
}

/* The slot of a database, or NULL.  Needs the lock. */
EpdsDatabase *
epds_shared_find(Oid database)
{
	if (!OidIsValid(database))
		return NULL;
	for (int i = 0; i < EPDS_MAX_DATABASES; i++)
	{
		if (epds_shared->database[i].oid == database)
			return &epds_shared->database[i];
	}
	return NULL;
}

/* The same, made when it is not there.  Needs the exclusive lock. */
EpdsDatabase *
epds_shared_make(Oid database)
{
	EpdsDatabase *slot = epds_shared_find(database);

	for (int i = 0; slot == NULL && i < EPDS_MAX_DATABASES; i++)
	{
		if (OidIsValid(epds_shared->database[i].oid))
			continue;
		slot = &epds_shared->database[i];
		memset(slot, 0, sizeof(*slot));
		slot->burst.born_us = epds_clock_us();
		slot->oid = database;
	}
	return slot;
}

/* Does a session keep workers away from this database?  Needs the lock. */
bool
epds_shared_is_held(Oid database)
{
	for (int i = 0; i < EPDS_MAX_HOLDS; i++)
	{
		if (epds_shared->hold[i].pid != 0 &&
			epds_shared->hold[i].database == database)
			return true;
	}
	return false;
}

/* May workers run for this database now?  Needs the lock. */
bool
epds_shared_may_run(const EpdsDatabase *database)
{
	return database->wanted && !database->stopped &&
		!epds_shared_is_held(database->oid);
}

/* Of this kind?  Needs the lock. */
bool
epds_shared_wants(const EpdsDatabase *database, EpdsWorkerKind kind)
{
	return epds_shared_may_run(database) &&
		(kind != EPDS_WORKER_LISTENER || database->listens);
}

bool
epds_process_lives(int pid)
{
	return pid != 0 && BackendPidGetProc(pid) != NULL;
}

/*
 * Set the latch of a process of this server; nothing when there is none.  A
 * PGPROC is never freed: at worst somebody else is woken for nothing.
 */
void
epds_process_wake(int pid)
{
	PGPROC	   *proc = pid == 0 ? NULL : BackendPidGetProc(pid);

	if (proc != NULL)
		SetLatch(&proc->procLatch);
}

void
epds_launcher_wake(void)
{
	int			pid;

	if (epds_shared == NULL)
		return;
	epds_shared_lock(LW_SHARED);
	pid = epds_shared->launcher_pid;
	epds_shared_unlock();
	epds_process_wake(pid);
}

/*
 * Keep workers away from a database until epds_release_holds().  False when
 * there is no entry left; the caller goes on without.
 */
bool
epds_hold(Oid database)
{
	bool		held = false;

	epds_shared_lock(LW_EXCLUSIVE);
	for (int i = 0; !held && i < EPDS_MAX_HOLDS; i++)
	{
		EpdsHold   *hold = &epds_shared->hold[i];

		if (hold->pid == 0 || (hold->pid == MyProcPid && hold->database == database))
		{
			hold->pid = MyProcPid;
			hold->database = database;
			held = true;
		}
	}
	epds_shared_unlock();
	return held;
}

/* Let go of everything this session keeps away; called at its transaction's end. */
void
epds_release_holds(void)
{
	epds_shared_lock(LW_EXCLUSIVE);
	for (int i = 0; i < EPDS_MAX_HOLDS; i++)
	{
		if (epds_shared->hold[i].pid == MyProcPid)
			epds_shared->hold[i].pid = 0;
	}
	epds_shared_unlock();
	epds_launcher_wake();
}

/* The pids of the workers of a database that run. */
static int
collect_workers(Oid database, int pids[EPDS_WORKER_KINDS])
{
	EpdsDatabase *slot;
	int			n = 0;

	epds_shared_lock(LW_SHARED);
	slot = epds_shared_find(database);
	for (int kind = 0; slot != NULL && kind < EPDS_WORKER_KINDS; kind++)
	{
		if (slot->worker[kind].pid != 0)
			pids[n++] = slot->worker[kind].pid;
	}
	epds_shared_unlock();
	return n;
}

/* How many workers a database should have. */
static int
wanted_workers(Oid database)
{
	EpdsDatabase *slot;
	int			n = EPDS_WORKER_KINDS;

	epds_shared_lock(LW_SHARED);
	slot = epds_shared_find(database);
	if (slot == NULL || !slot->listens)
		n--;
	epds_shared_unlock();
	return n;
}

/* Have every worker of a database look at what shared memory says. */
static int
wake_workers(Oid database, int pids[EPDS_WORKER_KINDS])
{
	int			n = collect_workers(database, pids);

	for (int i = 0; i < n; i++)
		epds_process_wake(pids[i]);
	return n;
}

static int
count_living(const int *pids, int n)
{
	int			living = 0;

	for (int i = 0; i < n; i++)
	{
		if (epds_process_lives(pids[i]))
			living++;
	}
	return living;
}

/*
 * Wait until all workers of a database run (running) or all are gone.  Gone
 * means gone from the process array, which is what DROP DATABASE looks at; who
 * does not leave by itself is terminated after a while.  Returns whether it
 * came so.  Cancellable; the caller's transaction stays open.
 */
bool
epds_wait_for_workers(Oid database, bool running, int timeout_ms)
{
	int			pids[EPDS_WORKER_KINDS];
	int			n = wake_workers(database, pids);
	bool		terminated = false;

	for (int waited = 0;; waited += WORKER_WAIT_STEP_MS)
	{
		if (running)
			n = collect_workers(database, pids);
		if (running ? n == wanted_workers(database) : count_living(pids, n) == 0)
			return true;
		if (waited >= timeout_ms)
			return false;
		if (!running && !terminated && waited >= WORKER_GRACE_MS)
		{
			for (int i = 0; i < n; i++)
			{
				if (epds_process_lives(pids[i]))
					kill(pids[i], SIGTERM);
			}
			terminated = true;
		}
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 WORKER_WAIT_STEP_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Let the workers of this database look again whether the extension is there. */
void
epds_note_extension_change(void)
{
	EpdsDatabase *slot;
	int			pids[EPDS_WORKER_KINDS];

	if (epds_shared == NULL)
		return;
	epds_shared_lock(LW_EXCLUSIVE);
	slot = epds_shared_find(MyDatabaseId);
	if (slot != NULL)
		slot->extension_changes++;
	epds_shared_unlock();
	(void) wake_workers(MyDatabaseId, pids);
}

/* See worker.h.  Never throws, takes no heavyweight lock. */
int64
epds_burst_reserve(int limit, int window_ms, int count)
{
	EpdsBurst  *burst = &local_burst;
	EpdsDatabase *slot;
	int64		wait_us;

	if (limit <= 0 || count <= 0)
		return 0;
	if (local_burst.born_us == 0)
		local_burst.born_us = epds_clock_us();
	if (epds_shared == NULL || !OidIsValid(MyDatabaseId))
		return epds_burst_take(burst, epds_clock_us(), limit, window_ms, count);

	epds_shared_lock(LW_EXCLUSIVE);
	slot = epds_shared_make(MyDatabaseId);
	if (slot != NULL)
		burst = &slot->burst;
	wait_us = epds_burst_take(burst, epds_clock_us(), limit, window_ms, count);
	epds_shared_unlock();
	return wait_us;
}
