/*-------------------------------------------------------------------------
 *
 * pipedrive_classify.h
 *		What an answer of Pipedrive means.  Pure: cJSON and the C library only.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/pipedrive_classify.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_PIPEDRIVE_CLASSIFY_H
#define EPDS_PIPEDRIVE_CLASSIFY_H

#include "postgres.h"

#include "http.h"
#include "pipedrive.h"

/* A bulk call answers at most 100 lines; room for a server that changes that. */
#define PIPEDRIVE_MAX_IDS 256

/* Sizes of the texts in a verdict, with the terminating zero. */
#define PIPEDRIVE_ERROR_SIZE 500
#define PIPEDRIVE_KEY_SIZE 128
#define PIPEDRIVE_REQUEST_ID_SIZE 128

/* What was asked. */
typedef struct PipedriveQuestion
{
	const char *method;
	const char *path;			/* without the host */
	int			tokens;			/* what the call costs */
	int64		since_429_ms;	/* since the last 429, when nothing succeeded
								 * since; -1 otherwise */
} PipedriveQuestion;

/* What the headers say of the limits; -1 where a header was absent. */
typedef struct PipedriveLimits
{
	int64		burst_limit;	/* requests per window */
	int64		burst_remaining;
	int64		burst_reset_s;
	int64		daily_limit;	/* tokens per day of the company */
	int64		daily_remaining;
	int64		retry_after_s;
	int64		server_time;	/* Date header, seconds since 1970 */
} PipedriveLimits;

/* What it means.  Fixed size, so that nothing has to be freed. */
typedef struct PipedriveVerdict
{
	EpdsOutcome outcome;
	int64		wait_ms;		/* BURST, DAILY, RETRY, UNKNOWN: how long the
								 * server wants silence, -1 = unknown */
	int			nids;			/* OK: ids of data, in order */
	int64		ids[PIPEDRIVE_MAX_IDS];
	int			nproducts;		/* OK: product_id of lines, in order */
	int64		products[PIPEDRIVE_MAX_IDS];
	int			nvalued;		/* OK: lines that told quantity and price, too */
	double		quantities[PIPEDRIVE_MAX_IDS];
	double		prices[PIPEDRIVE_MAX_IDS];
	char		key[PIPEDRIVE_KEY_SIZE];	/* OK: data.id where it is a text */
	char		request_id[PIPEDRIVE_REQUEST_ID_SIZE];	/* "" = none */
	char		error[PIPEDRIVE_ERROR_SIZE];	/* "" when OK */
	PipedriveLimits limits;
} PipedriveVerdict;

extern void pipedrive_read_limits(const char *headers, PipedriveLimits *limits,
								  char *request_id, size_t request_id_size);
extern void pipedrive_classify(const PipedriveQuestion *question,
							   const EpdsHttpAnswer *answer,
							   PipedriveVerdict *verdict);
extern bool pipedrive_path_names_record(const char *path);

/*
 * May this be the path of a call?  NULL when it may, else the reason, a
 * constant.  Ids and cursors in it are the service's own words.
 */
extern const char *pipedrive_path_refusal(const char *path);

#endif							/* EPDS_PIPEDRIVE_CLASSIFY_H */
