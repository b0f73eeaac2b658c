/*-------------------------------------------------------------------------
 *
 * plan.c
 *		Wanted minus sent: the cheapest list of line calls.
 *
 * Which lines an order gained, lost and changed is decided in SQL, where the
 * wanted state is.  Here is only the arithmetic that makes the list cheap: a
 * changed line can be PATCHed, or it can be deleted and added again, and the
 * latter is cheaper as soon as a bulk call carries it along for nothing.
 *
 * The upper part is pure: no memory, no errors, no server.  Unit tests include
 * this file with EPDS_UNIT_TEST defined, which leaves out the SQL border.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/plan.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifndef EPDS_UNIT_TEST
#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#endif

#include "plan.h"

/*
 * lines_tokens
 *		Price of n like calls, of which up to 100 fit into one bulk call.
 *
 * Full hundreds always go in bulk; the rest does when single calls would cost
 * as much.  Pure.
 */
static int
lines_tokens(int n, int single, int bulk)
{
	int			rest = n % EPDS_BULK_LINES;

	return bulk * (n / EPDS_BULK_LINES) + Min(single * rest, bulk);
}

/*
 * epds_lines_add_tokens
 *		Price of adding n lines.  Pure.
 */
int
epds_lines_add_tokens(int n)
{
	return lines_tokens(n, EPDS_TOKENS_LINE_ADD, EPDS_TOKENS_BULK_ADD);
}

/*
 * epds_lines_delete_tokens
 *		Price of deleting n lines.  Pure.
 */
int
epds_lines_delete_tokens(int n)
{
	return lines_tokens(n, EPDS_TOKENS_LINE_DELETE, EPDS_TOKENS_BULK_DELETE);
}

/*
 * epds_plan_lines
 *		How many of the changed lines to PATCH so that the whole costs least.
 *
 * Replacing one more full hundred of changed lines adds one bulk call of each
 * kind (40 tokens) and saves a hundred PATCHes (500), so the best number of
 * PATCHed lines is below a hundred, and only those are tried, unless there are
 * fewer changed lines.  With equal prices more PATCHes win: they keep the ids
 * of the lines and the value of the deal in between.  Pure.
 */
EpdsLineMix
epds_plan_lines(int adds, int changes, int deletes)
{
	EpdsLineMix best;
	int			most = Min(changes, EPDS_BULK_LINES - 1);
	int			patched;

	best.patched = most;
	best.tokens = PG_INT32_MAX;

	for (patched = most; patched >= 0; patched--)
	{
		int			replaced = changes - patched;
		int			tokens = EPDS_TOKENS_LINE_CHANGE * patched +
			epds_lines_add_tokens(adds + replaced) +
			epds_lines_delete_tokens(deletes + replaced);

		if (tokens < best.tokens)
		{
			best.patched = patched;
			best.tokens = tokens;
		}
	}

	return best;
}

#ifndef EPDS_UNIT_TEST

/*
 * line_count
 *		An argument of line_mix() within its bounds, or ERROR.
 */
static int
line_count(FunctionCallInfo fcinfo, int argno, const char *name)
{
	int32		count = PG_GETARG_INT32(argno);

	if (count < 0 || count > EPDS_MAX_PLAN_LINES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for parameter \"%s\": %d", name, count),
				 errdetail("A number of lines is from 0 to %d.",
						   EPDS_MAX_PLAN_LINES)));
	return count;
}

PG_FUNCTION_INFO_V1(epds_line_mix);

/*
 * epds_line_mix
 *		SQL: line_mix(adds, changes, deletes) -> (patched, tokens).
 *
 * STRICT, IMMUTABLE.  ERROR when a number is out of bounds.
 */
Datum
epds_line_mix(PG_FUNCTION_ARGS)
{
	TupleDesc	tupdesc;
	EpdsLineMix mix;
	Datum		values[2];
	bool		nulls[2] = {false, false};
	int			adds = line_count(fcinfo, 0, "adds");
	int			changes = line_count(fcinfo, 1, "changes");
	int			deletes = line_count(fcinfo, 2, "deletes");

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE ||
		tupdesc->natts != 2)
		elog(ERROR, "line_mix must return two columns");

	mix = epds_plan_lines(adds, changes, deletes);
	values[0] = Int32GetDatum(mix.patched);
	values[1] = Int32GetDatum(mix.tokens);

	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc),
													  values, nulls)));
}

#endif							/* EPDS_UNIT_TEST */
