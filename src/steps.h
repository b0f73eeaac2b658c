/*-------------------------------------------------------------------------
 *
 * steps.h
 *		Procedures that talk to Pipedrive step by step.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/steps.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_STEPS_H
#define EPDS_STEPS_H

#include "postgres.h"

#include "fmgr.h"

/*
 * What makes one procedure differ from another.  The SQL texts must be string
 * constants (epds_sql() keeps their plans).
 */
typedef struct EpdsSteps
{
	const char *procedure;		/* name, without the schema */
	const char *begin_sql;		/* → run id */
	const char *next_sql;		/* run → step, method, path, body, tokens, note */
	const char *take_sql;		/* run, step, status, answer → notice */
	const char *end_sql;		/* run → notice, after the last step; may be NULL */
	char	   *(*before) (int64 run_id);	/* before the first step; what could not
										 * be done makes the run a failure at
										 * its end; may be NULL */
	char	   *(*whole_body) (const char *body);	/* the body with what SQL does
												 * not see; NULL = as it is */
	char	   *(*shown_answer) (const char *answer);	/* of a good answer, what
														 * SQL may see; NULL = all */
	const char *lost_sql;		/* run, step → milliseconds of silence: what to
								 * do about a write without an answer, after
								 * which the next step is asked for; NULL = an
								 * ERROR */
	int			lane;			/* whose tokens it may use */
	int			lock_key;
	int			most_steps;		/* ends a circle that should not be */
	const char *idle;			/* said instead of an ERROR when there is
								 * nothing to do yet; NULL = an ERROR */
} EpdsSteps;

/* Be that procedure. */
extern void epds_steps_run(FunctionCallInfo fcinfo, const EpdsSteps *steps);

/* The same within a procedure that was entered already. */
extern void epds_steps_do(const EpdsSteps *steps);

#endif							/* EPDS_STEPS_H */
