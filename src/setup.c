/*-------------------------------------------------------------------------
 *
 * setup.c
 *		CALL setup_pipedrive(): pipeline, stages, fields and users, found or
 *		made.
 *
 * Every step looks before it makes something, so that a setup that broke off is
 * simply called again.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/setup.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "steps.h"

/* A person waits: what setup needs comes before everything but nothing less. */
#define SETUP_LANE 1
#define SETUP_LOCK_KEY 100

/* More steps than any account needs. */
#define MOST_STEPS 1000

static const EpdsSteps setup_steps = {
	.procedure = "setup_pipedrive",
	.begin_sql = "SELECT exact_pd_sync._setup_begin()",
	.next_sql = "SELECT step, method, path, body, tokens, note"
	" FROM exact_pd_sync._setup_next($1::bigint)",
	.take_sql = "SELECT exact_pd_sync._setup_take($1::bigint, $2, $3::integer, $4)",
	.lane = SETUP_LANE,
	.lock_key = SETUP_LOCK_KEY,
	.most_steps = MOST_STEPS,
};

PG_FUNCTION_INFO_V1(epds_setup_pipedrive);

/*
 * epds_setup_pipedrive
 *		SQL: CALL setup_pipedrive().
 */
Datum
epds_setup_pipedrive(PG_FUNCTION_ARGS)
{
	epds_steps_run(fcinfo, &setup_steps);
	PG_RETURN_VOID();
}
