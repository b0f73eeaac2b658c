/*-------------------------------------------------------------------------
 *
 * epds_test_lock.c
 *		Takes the extension's session locks from SQL, for tests.
 *
 * In production nobody can: that is what src/session_lock.h is for.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/modules/epds_test_lock/epds_test_lock.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(epds_test_lock);

/*
 * test_lock(classid bigint, objid bigint) → boolean
 *		The lock that pg_locks shows with these two and objsubid 3, until the
 *		session ends.  False when another session has it.
 */
Datum
epds_test_lock(PG_FUNCTION_ARGS)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) PG_GETARG_INT64(0),
						 (uint32) PG_GETARG_INT64(1), 3);
	PG_RETURN_BOOL(LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL);
}
