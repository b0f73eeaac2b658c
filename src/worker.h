/*-------------------------------------------------------------------------
 *
 * worker.h
 *		Launcher, life cycle and wake-up of the workers; what is shared.
 *
 * Shared memory holds counters, pids, times and short texts only: no pointers,
 * no descriptors.  It exists when the library is preloaded; every function here
 * is harmless when it does not.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/worker.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_WORKER_H
#define EPDS_WORKER_H

#include "postgres.h"

typedef enum EpdsWorkerKind
{
	EPDS_WORKER_DELIVERY,
	EPDS_WORKER_INTAKE,
	EPDS_WORKER_LISTENER		/* where exact_pd_sync.listen has an address */
} EpdsWorkerKind;

#define EPDS_WORKER_KINDS 3

/* Databases that shared memory has room for. */
#define EPDS_MAX_DATABASES 64

/* _PG_init: hooks, shared memory request, launcher registration. */
extern void epds_worker_init(void);

/* Wake a worker of the current database now, or at commit of this transaction. */
extern void epds_worker_wake(EpdsWorkerKind kind);
extern void epds_worker_wake_at_commit(EpdsWorkerKind kind);

/* Is a worker of this kind running for the current database?  Its pid, or 0. */
extern int	epds_worker_pid(EpdsWorkerKind kind);

/*
 * Burst window of a database: how many microseconds to wait before `count`
 * more requests may be sent, given at most `limit` in any `window_ms`; when 0
 * the requests are booked.  A window of unknown past (after a start) counts as
 * full.  limit <= 0: no limit, always 0.
 */
extern int64 epds_burst_reserve(int limit, int window_ms, int count);

/* Entry points of the workers (delivery.c, intake.c, listener.c); called connected, with
 * settings forced, signals unblocked.  They return when the extension is gone
 * or the worker is asked to stop. */
extern void epds_delivery_main(void);
extern void epds_intake_main(void);
extern void epds_listener_main(void);

/*
 * To be called once per turn by a worker, outside a block: reloads the
 * configuration when asked, exits on shutdown, and returns false when the
 * worker must stop (stop_worker(), DROP DATABASE) or the extension is absent.
 */
extern bool epds_worker_turn(void);

/* State text for pg_stat_activity ("sending 12 requests"); NULL = idle. */
extern void epds_worker_report(const char *activity);

/*
 * What keeps this worker from its work, for worker_trouble() and status; NULL:
 * nothing any more.  The text must be redacted.  Cheap when nothing changes.
 */
extern void epds_worker_trouble(const char *text);

#endif							/* EPDS_WORKER_H */
