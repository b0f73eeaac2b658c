/*-------------------------------------------------------------------------
 *
 * json_scan.h
 *		One look over JSON text before PostgreSQL casts it to jsonb.
 *
 * Pure: no memory, no error, no transaction.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/json_scan.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_JSON_SCAN_H
#define EPDS_JSON_SCAN_H

#include "postgres.h"

/*
 * Deeper than any page of the services is (envelope, row, expanded lines make
 * seven), and far below what would trouble the server's parser.
 */
#define EPDS_JSON_MAX_DEPTH 64

typedef enum EpdsJsonState
{
	EPDS_JSON_COMPLETE,			/* one object or array, closed at the end */
	EPDS_JSON_EMPTY,			/* nothing but white space */
	EPDS_JSON_OTHER,			/* does not begin with { or [ */
	EPDS_JSON_TRUNCATED,		/* ends inside of a string or a bracket */
	EPDS_JSON_BROKEN,			/* brackets do not match, text after the end */
	EPDS_JSON_DEEP				/* nested deeper than EPDS_JSON_MAX_DEPTH */
} EpdsJsonState;

typedef struct EpdsJsonScan
{
	EpdsJsonState state;
	size_t		replaced;		/* places that were overwritten */
} EpdsJsonScan;

/*
 * Look over text[0 .. len) and overwrite, in place and without changing its
 * length, what jsonb refuses: the escape of U+0000 and escapes of lone
 * surrogates become the escape of U+FFFD, raw control characters inside
 * strings become spaces.  Everything else is left alone: it is not a
 * validator, only a guard against answers that break off.
 */
extern EpdsJsonScan epds_json_scan(char *text, size_t len);

/* "breaks off", "is empty" …: to follow "the answer"; NULL when complete. */
extern const char *epds_json_state_text(EpdsJsonState state);

#endif							/* EPDS_JSON_SCAN_H */
