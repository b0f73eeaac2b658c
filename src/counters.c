/*-------------------------------------------------------------------------
 *
 * counters.c
 *		Counts in shared memory, and the function that shows them.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/counters.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "compat.h"
#include "counters.h"
#include "shared.h"

PG_FUNCTION_INFO_V1(epds_counters);

static const int bounds[] = EPDS_LATENCY_BOUNDS;
static const int statuses[] = EPDS_ANSWER_STATUSES;
static const char *const sides[] = {"exact", "pipedrive"};
static const char *const sources[] = {"exact", "pipedrive", "other"};

StaticAssertDecl(lengthof(bounds) == EPDS_LATENCY_BUCKETS - 1, "a bucket for each bound, and one above");
StaticAssertDecl(lengthof(statuses) == EPDS_ANSWER_KINDS, "a count for each status");

/* See counters.h. */
void
epds_counters_init(EpdsCounters *counters)
{
	for (int side = 0; side < EPDS_SIDES; side++)
	{
		for (int i = 0; i < EPDS_LATENCY_BUCKETS; i++)
			pg_atomic_init_u64(&counters->latency[side][i], 0);
		pg_atomic_init_u64(&counters->latency_ms[side], 0);
	}
	for (int source = 0; source < EPDS_SOURCES; source++)
		for (int i = 0; i < EPDS_ANSWER_KINDS; i++)
			pg_atomic_init_u64(&counters->answers[source][i], 0);
}

/* Those of our database; NULL when there are none.  Looked for once. */
static EpdsCounters *
my_counters(void)
{
	static EpdsDatabase *slot = NULL;

	if (epds_shared == NULL || !OidIsValid(MyDatabaseId))
		return NULL;
	if (slot == NULL || slot->oid != MyDatabaseId)
	{
		epds_shared_lock(LW_SHARED);
		slot = epds_shared_find(MyDatabaseId);
		epds_shared_unlock();
	}
	return slot ? &slot->counters : NULL;
}

/* See counters.h. */
void
epds_count_call(EpdsSide side, int ms)
{
	EpdsCounters *counters = my_counters();
	int			i = 0;

	if (counters == NULL || ms < 0)
		return;
	while (i < (int) lengthof(bounds) && ms > bounds[i])
		i++;
	pg_atomic_fetch_add_u64(&counters->latency[side][i], 1);
	pg_atomic_fetch_add_u64(&counters->latency_ms[side], ms);
}

/* See counters.h. */
void
epds_count_answer(EpdsSource source, int status)
{
	EpdsCounters *counters = my_counters();
	int			i = 0;

	if (counters == NULL)
		return;
	while (i < EPDS_ANSWER_KINDS - 1 && status != statuses[i])
		i++;
	pg_atomic_fetch_add_u64(&counters->answers[source][i], 1);
}

/* One row of counters(); bound < 0 is NULL. */
static void
put_count(ReturnSetInfo *result, const char *name, const char *label,
		  int bound_ms, uint64 value)
{
	Datum		values[4] = {0};
	bool		nulls[4] = {false, false, bound_ms < 0, false};

	values[0] = CStringGetTextDatum(name);
	values[1] = CStringGetTextDatum(label);
	if (bound_ms >= 0)
	{
		char	   *seconds = psprintf("%d.%03d", bound_ms / 1000, bound_ms % 1000);

		values[2] = DirectFunctionCall3(numeric_in, CStringGetDatum(seconds),
										ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	}
	values[3] = Int64GetDatum((int64) value);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* counters(OUT name text, OUT label text, OUT bound numeric, OUT value bigint) */
Datum
epds_counters(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	EpdsCounters *counters = my_counters();

	InitMaterializedSRF(fcinfo, 0);
	if (counters == NULL)
		return (Datum) 0;
	for (int side = 0; side < EPDS_SIDES; side++)
	{
		uint64		sum = 0;

		/* a histogram is cumulated */
		for (int i = 0; i < EPDS_LATENCY_BUCKETS; i++)
		{
			sum += pg_atomic_read_u64(&counters->latency[side][i]);
			put_count(result, "latency", sides[side],
					  i < (int) lengthof(bounds) ? bounds[i] : -1, sum);
		}
		put_count(result, "latency_sum", sides[side], -1,
				  pg_atomic_read_u64(&counters->latency_ms[side]));
	}
	for (int source = 0; source < EPDS_SOURCES; source++)
		for (int i = 0; i < EPDS_ANSWER_KINDS; i++)
		{
			uint64		value = pg_atomic_read_u64(&counters->answers[source][i]);
			const char *status = statuses[i] ? psprintf("%d", statuses[i]) : "other";

			if (value > 0)
				put_count(result, "answers",
						  psprintf("%s %s", sources[source], status), -1, value);
		}
	return (Datum) 0;
}
