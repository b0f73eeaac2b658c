/*-------------------------------------------------------------------------
 *
 * plan.h
 *		What a change of deal lines costs, and the cheapest way to make it.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/plan.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_PLAN_H
#define EPDS_PLAN_H

#include "postgres.h"

/* Token prices of Pipedrive's deal product calls. */
#define EPDS_TOKENS_LINE_ADD	5	/* POST one line */
#define EPDS_TOKENS_LINE_CHANGE 5	/* PATCH one line */
#define EPDS_TOKENS_LINE_DELETE 3	/* DELETE one line */
#define EPDS_TOKENS_BULK_ADD	25	/* POST up to 100 lines */
#define EPDS_TOKENS_BULK_DELETE 15	/* DELETE up to 100 lines */

/* Lines per bulk call. */
#define EPDS_BULK_LINES 100

/*
 * More lines than any order has; keeps every sum far inside an integer, so
 * that no arithmetic here needs an overflow check.
 */
#define EPDS_MAX_PLAN_LINES 1000000

/* The answer of epds_plan_lines(). */
typedef struct EpdsLineMix
{
	int			patched;		/* changed lines to PATCH; the others are deleted
								 * and added anew */
	int			tokens;			/* price of the whole */
} EpdsLineMix;

/* Price of adding or deleting n lines, in the cheapest mix of calls. */
extern int	epds_lines_add_tokens(int n);
extern int	epds_lines_delete_tokens(int n);

/* Cheapest mix; each number within 0 .. EPDS_MAX_PLAN_LINES. */
extern EpdsLineMix epds_plan_lines(int adds, int changes, int deletes);

#endif							/* EPDS_PLAN_H */
