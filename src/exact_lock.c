/*-------------------------------------------------------------------------
 *
 * exact_lock.c
 *		Session-level advisory locks of the Exact room.
 *
 * They keep sessions and workers of one database apart: who may rotate the
 * tokens, whose call to a division is under way, who reads a feed.  They are
 * tried, never waited for in the lock manager: waiting there would need a
 * transaction that stands still.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/exact_lock.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lock.h"

#include "exact_internal.h"

/*
 * First key of the two-key advisory locks: the letters EPEX, plus the kind.
 * Keeps out of the way of the numbers an application may use, and of the
 * workers' own (worker.c).
 */
#define LOCK_CLASS 0x45504558

/* Between two attempts; calls take some hundred milliseconds. */
#define LOCK_POLL_MS 50

static void
make_tag(LOCKTAG *tag, EpdsLockKind kind, uint32 key)
{
	/* 2 says "two keys", as in pg_advisory_lock(integer, integer) */
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, LOCK_CLASS + (uint32) kind, key, 2);
}

/* Take the lock for the session; false when another session has it. */
bool
epds_lock_try(EpdsLockKind kind, uint32 key)
{
	LOCKTAG		tag;

	make_tag(&tag, kind, key);
	return LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

/* The same, trying again until it is ours; throws when patience ends. */
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

void
epds_lock_release(EpdsLockKind kind, uint32 key)
{
	LOCKTAG		tag;

	make_tag(&tag, kind, key);
	(void) LockRelease(&tag, ExclusiveLock, true);
}
