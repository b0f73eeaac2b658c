/*-------------------------------------------------------------------------
 *
 * counters.h
 *		Counts that are kept in shared memory since the server started.
 *
 * For what happens too often to be a row: answers of the listener, times of
 * calls.  Harmless when the library was not preloaded.  Never throws.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/counters.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_COUNTERS_H
#define EPDS_COUNTERS_H

#include "postgres.h"

#include "port/atomics.h"

typedef enum EpdsSide
{
	EPDS_SIDE_EXACT,
	EPDS_SIDE_PIPEDRIVE
} EpdsSide;

#define EPDS_SIDES 2

typedef enum EpdsSource
{
	EPDS_SOURCE_EXACT,
	EPDS_SOURCE_PIPEDRIVE,
	EPDS_SOURCE_OTHER
} EpdsSource;

#define EPDS_SOURCES 3

/* Upper bounds of the latency histogram, in milliseconds; the last has none. */
#define EPDS_LATENCY_BOUNDS {25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000}
#define EPDS_LATENCY_BUCKETS 11

/* Statuses that the listener answers with; others count as the last. */
#define EPDS_ANSWER_STATUSES {200, 400, 401, 404, 405, 413, 503, 0}
#define EPDS_ANSWER_KINDS 8

typedef struct EpdsCounters
{
	pg_atomic_uint64 latency[EPDS_SIDES][EPDS_LATENCY_BUCKETS]; /* not cumulated */
	pg_atomic_uint64 latency_ms[EPDS_SIDES];
	pg_atomic_uint64 answers[EPDS_SOURCES][EPDS_ANSWER_KINDS];
} EpdsCounters;

/* Set all to zero; for whoever makes a slot in shared memory. */
extern void epds_counters_init(EpdsCounters *counters);

/* A call to a service took so long. */
extern void epds_count_call(EpdsSide side, int ms);

/* The listener answered a request. */
extern void epds_count_answer(EpdsSource source, int status);

#endif							/* EPDS_COUNTERS_H */
