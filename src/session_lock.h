/*-------------------------------------------------------------------------
 *
 * session_lock.h
 *		Locks of a database that a session holds across its transactions.
 *
 * They are advisory locks of a class that no SQL function can name: with
 * pg_advisory_lock() anybody who may connect could stop the workers.  pg_locks
 * shows them (locktype advisory, objsubid 3).
 *
 * They are tried, never waited for: a wait in the lock manager would hold a
 * snapshot.  Whoever takes one gives it back in PG_CATCH or PG_FINALLY too: it
 * survives an ERROR.  It goes with the session.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/session_lock.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_SESSION_LOCK_H
#define EPDS_SESSION_LOCK_H

/* What a lock is for; the key says which one of them. */
typedef enum EpdsLockKind
{
	EPDS_LOCK_WORKER,			/* key = kind of worker: the only one of it */
	EPDS_LOCK_STEPS,			/* key = EpdsSteps.lock_key: runs the procedure */
	EPDS_LOCK_REFRESHER,		/* key 0: may rotate the tokens */
	EPDS_LOCK_CALL,				/* key 0: a call to Exact's API is under way */
	EPDS_LOCK_GROUP,			/* key = hash of the name: polls a group */
	EPDS_LOCK_FEED				/* key = hash of feed and division: reads it */
} EpdsLockKind;

/* Take the lock for the session; false when another session has it. */
extern bool epds_lock_try(EpdsLockKind kind, uint32 key);
extern void epds_lock_release(EpdsLockKind kind, uint32 key);

#endif							/* EPDS_SESSION_LOCK_H */
