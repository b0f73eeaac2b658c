/*-------------------------------------------------------------------------
 *
 * session_lock.c
 *		Locks of a database that a session holds across its transactions.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/session_lock.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lock.h"

#include "session_lock.h"

/* The letters EPDS. */
#define LOCK_FAMILY 0x45504453

/* pg_advisory_lock() makes locks of the classes 1 and 2. */
#define LOCK_CLASS 3

static void
make_tag(LOCKTAG *tag, EpdsLockKind kind, uint32 key)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, LOCK_FAMILY + (uint32) kind, key, LOCK_CLASS);
}

/* See session_lock.h. */
bool
epds_lock_try(EpdsLockKind kind, uint32 key)
{
	LOCKTAG		tag;

	make_tag(&tag, kind, key);
	return LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

/* See session_lock.h. */
void
epds_lock_release(EpdsLockKind kind, uint32 key)
{
	LOCKTAG		tag;

	make_tag(&tag, kind, key);
	(void) LockRelease(&tag, ExclusiveLock, true);
}
