/*-------------------------------------------------------------------------
 *
 * exact_pd_sync.c
 *		Where the library begins: _PG_init.
 *
 * The library works in two ways.  Loaded by a session (the first call of one
 * of its functions) it gives that session the procedures and nothing else.
 * Named in shared_preload_libraries it also asks for shared memory and has
 * the postmaster start the launcher.  Nothing here may touch libcurl: with
 * preloading this runs in the postmaster.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/exact_pd_sync.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "compat.h"
#include "settings.h"
#include "worker.h"

EPDS_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	epds_settings_init();
	epds_worker_init();
}
