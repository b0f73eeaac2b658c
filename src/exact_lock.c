/*-------------------------------------------------------------------------
 *
 * exact_lock.c
 *		Waiting for a lock of the Exact room (session_lock.h): for the right to
 *		rotate the tokens, and for the one call that may be under way.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/exact_lock.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "exact_internal.h"

/* Between two attempts; calls take some hundred milliseconds. */
#define LOCK_POLL_MS 50

/* See exact_internal.h. */
void
epds_lock_wait(EpdsLockKind kind, uint32 key, int patience_ms)
{
	int			waited_ms = 0;

	while (!epds_lock_try(kind, key))
	{
		if (waited_ms >= patience_ms)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 kind == EPDS_LOCK_REFRESHER ?
					 errmsg("another session has been refreshing the tokens of Exact Online for %d seconds",
							patience_ms / 1000) :
					 errmsg("other sessions have kept Exact Online busy for %d seconds",
							patience_ms / 1000),
					 errhint("pg_stat_activity and pg_locks (locktype advisory) show which.")));
		epds_pause(LOCK_POLL_MS);
		waited_ms += LOCK_POLL_MS;
	}
}
