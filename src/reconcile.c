/*-------------------------------------------------------------------------
 *
 * reconcile.c
 *		CALL reconcile(): the lists of Pipedrive, held against what was sent.
 *
 * Everything is judged in SQL (61_drift.sql, 62_reconcile.sql); putting right is
 * the delivery worker's business.  This run only reads.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/reconcile.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "steps.h"

/* As history: what is kept for live orders is left to them. */
#define RECONCILE_LANE 3
#define RECONCILE_LOCK_KEY 101

/* Pages of 500, and checks: room for millions of records. */
#define MOST_STEPS 100000

static const EpdsSteps reconcile_steps = {
	.procedure = "reconcile",
	.begin_sql = "SELECT exact_pd_sync._reconcile_begin()",
	.next_sql = "SELECT step, method, path, body, tokens, note"
	" FROM exact_pd_sync._reconcile_next($1::bigint)",
	.take_sql = "SELECT exact_pd_sync._reconcile_take($1::bigint, $2, $3::integer, $4)",
	.end_sql = "SELECT exact_pd_sync._reconcile_end($1::bigint)",
	.lane = RECONCILE_LANE,
	.lock_key = RECONCILE_LOCK_KEY,
	.most_steps = MOST_STEPS,
	.idle = "Pipedrive is not set up yet: there is nothing to compare",
};

PG_FUNCTION_INFO_V1(epds_reconcile);

/*
 * epds_reconcile
 *		SQL: CALL reconcile().
 */
Datum
epds_reconcile(PG_FUNCTION_ARGS)
{
	epds_steps_run(fcinfo, &reconcile_steps);
	PG_RETURN_VOID();
}
