/*-------------------------------------------------------------------------
 *
 * memutils.h
 *		Stand-in for the server's header: what pure code uses of it stands in
 *		shim/postgres.h.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/shim/utils/memutils.h
 *
 *-------------------------------------------------------------------------
 */
