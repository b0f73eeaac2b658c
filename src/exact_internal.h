/*-------------------------------------------------------------------------
 *
 * exact_internal.h
 *		What the files of the Exact room share with each other, and with
 *		nobody else.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/exact_internal.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_EXACT_INTERNAL_H
#define EPDS_EXACT_INTERNAL_H

#include "postgres.h"

#include <cjson/cJSON.h>

#include "lib/stringinfo.h"

#include "exact.h"
#include "http.h"
#include "session_lock.h"

/* ------------------------------------------------------------ exact_lock.c */

/* Try for a lock until it is ours; throws when patience ends. */
extern void epds_lock_wait(EpdsLockKind kind, uint32 key, int patience_ms);

/* ------------------------------------------------ exact_text.c: small tools */

/*
 * Parse JSON to its very end; the tree is freed with the memory context that
 * is current now.  NULL when it is no JSON.
 */
extern const cJSON *epds_json_parse(const char *text, size_t len);

/* A remote text for people: redacted, on one line, cut; palloc'd. */
extern char *epds_one_line(const char *text, int max_bytes);

/* A header of an answer (lower-case name), palloc'd; NULL if absent. */
extern char *epds_header_value(const EpdsHttpAnswer *answer, const char *name);

/* Wait for the whole time, whatever wakes us; serves interrupts. */
extern void epds_pause(long milliseconds);

/* Throw unless the configured site may be talked to. */
extern void epds_check_base_url(const char *base_url);

/* -------------------------------- oauth_endpoint.c: one call for a token pair */

typedef struct EpdsTokenAnswer
{
	char	   *access;			/* NULL: no pair was given */
	char	   *refresh;		/* NULL: it stays as it is */
	int			expires_in;		/* seconds */
	char	   *error;			/* OAuth error code, or "" */
	char	   *text;			/* for people, when there is no pair */
	bool		too_early;
	bool		lost;			/* no answer, or none that can be read */
	bool		sent;			/* false: the service does not know of the call */
	int			status;			/* for the journal */
	int			ms;
} EpdsTokenAnswer;

/* Append name=value, form-encoded. */
extern void epds_append_form(StringInfo form, const char *name,
							 const char *value);

/*
 * Post a form to the token endpoint.  To be called with interrupts held; they
 * are let through when it takes too long.  Throws only then and on trouble of
 * our own.
 */
extern void epds_ask_for_token(const char *base_url, const char *form,
							   EpdsTokenAnswer *token);

/* ------------------------------------------------- oauth.c, for oauth_consent.c */

/* How long a session waits for another one's refresh. */
#define EPDS_REFRESHER_PATIENCE_MS 60000

/* Book a token call in the journal; needs an open block. */
extern void epds_log_token_call(const EpdsTokenAnswer *token, const char *how);

/* Store a pair durably; interrupts are held by the caller. */
extern void epds_store_token_pair(const EpdsTokenAnswer *token, const char *how);

/* ------------------------------------- exact.c, for poll.c and verify.c */

extern char *epds_encode_url(const char *url);
extern bool epds_stays_on_site(const char *path_or_url, const char *base_url);
extern void epds_throw_other_site(const char *url);

typedef enum EpdsExactVerdict
{
	EPDS_EXACT_PAGE,			/* 200 and a closed JSON text */
	EPDS_EXACT_REFUSED,			/* a JSON error: ask _feed_refused() */
	EPDS_EXACT_FAILED			/* no usable answer, also when repeated */
} EpdsExactVerdict;

/*
 * As epds_exact_get(), but a page is left to be settled by the caller, with
 * epds_exact_settle() in the block that stages it.
 */
extern EpdsExactVerdict epds_exact_read(int division, const char *feed,
										const char *path_or_url, bool importing,
										EpdsHttpAnswer *answer,
										size_t *replaced);

/* Book an answer; needs an open block.  note: NULL, or for the journal. */
extern void epds_exact_settle(int division, const char *feed,
							  const char *path_or_url,
							  const EpdsHttpAnswer *answer, const char *note);

#endif							/* EPDS_EXACT_INTERNAL_H */
