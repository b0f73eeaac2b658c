/*-------------------------------------------------------------------------
 *
 * shared.h
 *		What lies in shared memory, and the rules for touching it.
 *
 * Only launcher.c, worker.c, utility_hook.c and shared.c include this; the
 * rooms that use workers include worker.h.
 *
 * Rules: pids, counters, times and short texts only.  One lightweight lock guards all of
 * it; it is a leaf (nothing else is locked, logged or allocated under it) and
 * is held for microseconds.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/shared.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_SHARED_H
#define EPDS_SHARED_H

#include "postgres.h"

#include "storage/lwlock.h"
#include "burst_ring.h"
#include "counters.h"
#include "worker.h"

/* What is told of a worker that cannot do its work; longer texts are cut. */
#define EPDS_TROUBLE_LEN 256

/* Sessions that can keep workers away at the same time; see utility_hook.c. */
#define EPDS_MAX_HOLDS 32

typedef struct EpdsWorkerState
{
	int			pid;			/* 0: not running */
	uint32		generation;		/* of the last start; a process that carries
								 * another one came too late and must leave */
	int64		started_at;		/* clock.h, in ms: of the last one that got as
								 * far as this; 0: none */
	bool		left_cleanly;	/* the last one left because it was asked to */
	char		no_start[EPDS_TROUBLE_LEN]; /* why the launcher cannot start it */
	char		trouble[EPDS_TROUBLE_LEN];	/* what it said itself; outlives the
											 * process, so that its end is
											 * explained */
} EpdsWorkerState;

typedef struct EpdsDatabase
{
	Oid			oid;			/* InvalidOid: free slot */
	bool		wanted;			/* listed, exists, accepts connections */
	bool		stopped;		/* stop_worker() */
	bool		listens;		/* has an address in exact_pd_sync.listen */
	uint32		start_requests; /* counts start_worker(): forget back-off */
	uint32		extension_changes;	/* counts CREATE, ALTER, DROP EXTENSION */
	EpdsWorkerState worker[EPDS_WORKER_KINDS];
	EpdsBurst	burst;
	EpdsCounters counters;
} EpdsDatabase;

/* While such an entry stands, no worker runs for that database. */
typedef struct EpdsHold
{
	int			pid;			/* 0: free entry */
	Oid			database;
} EpdsHold;

typedef struct EpdsShared
{
	int			launcher_pid;
	uint32		last_generation;
	EpdsHold	hold[EPDS_MAX_HOLDS];
	EpdsDatabase database[EPDS_MAX_DATABASES];
} EpdsShared;

/* NULL when the library was not preloaded. */
extern EpdsShared *epds_shared;

extern void epds_shared_init(void);
extern void epds_shared_lock(LWLockMode mode);
extern void epds_shared_unlock(void);

/* These need the lock. */
extern EpdsDatabase *epds_shared_find(Oid database);
extern EpdsDatabase *epds_shared_make(Oid database);	/* NULL: no slot left */
extern bool epds_shared_is_held(Oid database);
extern bool epds_shared_may_run(const EpdsDatabase *database);
extern bool epds_shared_wants(const EpdsDatabase *database, EpdsWorkerKind kind);

/* These must be called without it. */
extern bool epds_process_lives(int pid);
extern void epds_process_wake(int pid);
extern void epds_launcher_wake(void);
extern bool epds_hold(Oid database);
extern void epds_release_holds(void);
extern bool epds_wait_for_workers(Oid database, bool running, int timeout_ms);
extern void epds_note_extension_change(void);

/* worker.c, also used by the launcher. */
extern void epds_worker_basics(const char *name);
extern const char *epds_worker_kind_name(EpdsWorkerKind kind);

/* What the launcher hands to a worker in bgw_extra. */
typedef struct EpdsWorkerOrder
{
	int			slot;
	EpdsWorkerKind kind;
	uint32		generation;
	Oid			database;
	Oid			role;			/* to connect as; InvalidOid: bootstrap superuser */
} EpdsWorkerOrder;

/* launcher.c and utility_hook.c */
extern void epds_launcher_register(void);
extern void epds_utility_hook_init(void);

#endif							/* EPDS_SHARED_H */
