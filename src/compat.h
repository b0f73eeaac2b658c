/*-------------------------------------------------------------------------
 *
 * compat.h
 *		Every difference between PostgreSQL 15, 16, 17 and 18.
 *
 * Nowhere else in this project is PG_VERSION_NUM looked at.  When a new major
 * version changes something, the name used in the code stays, and the
 * difference goes here, with the version that made it.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/compat.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_COMPAT_H
#define EPDS_COMPAT_H

#include "postgres.h"

#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 150000
#error "exact_pd_sync needs PostgreSQL 15 or later"
#endif

/* 16: the varlena macros moved out of postgres.h. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 18: modules may say who they are (pg_get_loaded_modules()). */
#ifdef PG_MODULE_MAGIC_EXT
#define EPDS_MODULE_MAGIC \
	PG_MODULE_MAGIC_EXT(.name = "exact_pd_sync", .version = EPDS_VERSION)
#else
#define EPDS_MODULE_MAGIC PG_MODULE_MAGIC
#endif

/*
 * 17: wait event sets belong to a resource owner instead of a memory context.
 * Ours are long-lived: nobody's; whoever makes one frees it.
 */
static inline WaitEventSet *
epds_wait_event_set_create(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/*
 * 17: extensions have wait events with names of their own.  To be called in a
 * process with a PGPROC, not in the postmaster; the id is the same for the
 * same name in all processes, so a static variable at the caller may keep it.
 */
static inline uint32
epds_wait_event(const char *name)
{
#if PG_VERSION_NUM >= 170000
	return WaitEventExtensionNew(name);
#else
	return PG_WAIT_EXTENSION;
#endif
}

/* 16: one ownership check for all kinds of objects. */
static inline bool
epds_owns_database(Oid database, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(DatabaseRelationId, database, role);
#else
	return pg_database_ownercheck(database, role);
#endif
}

/*
 * 17: the setting that limits a whole transaction.  Before, the name of another
 * limit, so that the list of settings to be switched off is the same.
 */
#if PG_VERSION_NUM >= 170000
#define EPDS_TRANSACTION_TIMEOUT "transaction_timeout"
#else
#define EPDS_TRANSACTION_TIMEOUT "statement_timeout"
#endif

/* 18: base64 functions take bytes. */
#if PG_VERSION_NUM >= 180000
#define epds_b64_encode(from, len, to, to_len) \
	pg_b64_encode((const uint8 *) (from), len, to, to_len)
#else
#define epds_b64_encode(from, len, to, to_len) \
	pg_b64_encode(from, len, to, to_len)
#endif

#endif							/* EPDS_COMPAT_H */
