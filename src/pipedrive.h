/*-------------------------------------------------------------------------
 *
 * pipedrive.h
 *		The Pipedrive client: calls, answers, outcome classes.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/pipedrive.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_PIPEDRIVE_H
#define EPDS_PIPEDRIVE_H

#include "postgres.h"

#include "http.h"

/* What an answer means for the one who called.  Pure: pipedrive_classify(). */
typedef enum EpdsOutcome
{
	EPDS_OUTCOME_OK,			/* done */
	EPDS_OUTCOME_BURST,			/* 429, wait seconds: not an attempt */
	EPDS_OUTCOME_DAILY,			/* 429, wait for the daily reset: not an attempt */
	EPDS_OUTCOME_RETRY,			/* not executed, or harmless to repeat */
	EPDS_OUTCOME_UNKNOWN,		/* a create that may have been executed: look */
	EPDS_OUTCOME_PERMANENT,		/* 400 and the like: dead letter */
	EPDS_OUTCOME_GONE,			/* 404, 410 of the record itself */
	EPDS_OUTCOME_CAPACITY,		/* 403 with a plan-limit code: creates stop */
	EPDS_OUTCOME_AUTH,			/* 401, 402: everything stops until mended */
	EPDS_OUTCOME_BLOCKED		/* 403 HTML: everything stops for long */
} EpdsOutcome;

extern const char *epds_outcome_name(EpdsOutcome outcome);

struct PipedriveVerdict;
struct StringInfoData;

/* Where calls go and how they prove who we are. */
typedef struct EpdsPipedrive
{
	char	   *base_url;		/* no slash at the end */
	char	   *token_header;	/* "x-api-token: …": a secret */
} EpdsPipedrive;

/*
 * Read the account; needs an open block.  False when it is not set up; *to is
 * palloc'd in the caller's context otherwise.
 */
extern bool epds_pipedrive_account(EpdsPipedrive *to);

/* Has the account changed?  Both may hold NULLs. */
extern bool epds_pipedrive_same(const EpdsPipedrive *a, const EpdsPipedrive *b);

/* Hand a call over to a mux.  body may be NULL; the path must be allowed. */
extern void epds_pipedrive_send(const EpdsPipedrive *account, EpdsMux *mux,
								const char *method, const char *path,
								const char *body, uint64 tag);

/* One call, start to end; outside a block.  Books nothing. */
extern void epds_pipedrive_fetch(const EpdsPipedrive *account,
								 const char *method, const char *path,
								 const char *body, EpdsHttpAnswer *answer);

/*
 * One JSON object for _settle(): what became of a call.  probe: it was sent to
 * see whether a failing service is well again.
 */
extern void epds_pipedrive_result(struct StringInfoData *to, int64 call_id,
								  const char *path,
								  const struct PipedriveVerdict *verdict,
								  const EpdsHttpAnswer *answer,
								  bool probe);
extern void epds_pipedrive_not_sent(struct StringInfoData *to, int64 call_id);

#endif							/* EPDS_PIPEDRIVE_H */
