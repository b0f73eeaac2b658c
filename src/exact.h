/*-------------------------------------------------------------------------
 *
 * exact.h
 *		The Exact Online client and the life of its tokens.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/exact.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_EXACT_H
#define EPDS_EXACT_H

#include "postgres.h"

#include "http.h"

/*
 * oauth.c: a valid access token, refreshed when it is due by the one process
 * that holds the refresher's lock.  Must be called outside a block, and may
 * wait; ERROR with SQLSTATE 28000 when a person has to consent again.
 * epds_oauth_token_at_hand() never waits and never rotates: NULL if none.
 */
extern char *epds_oauth_token(bool rejected);
extern char *epds_oauth_token_at_hand(void);
extern void epds_oauth_keep_alive(void);	/* intake worker: refresh when due */
extern int64 epds_oauth_due_in(void);	/* ms; -1: nothing to keep alive */
extern void epds_oauth_consent(const char *code);	/* authorization_code grant */

/*
 * A consent that came to the listener, its state checked: hand_in notes the code
 * (in an open block), ends the state and wakes the intake worker, which looks
 * with handed_in (0 = there is one, -1 = none) and finishes it; what came of it
 * is in exact_consent.
 */
extern void epds_oauth_hand_in(const char *code);
extern int64 epds_oauth_handed_in(void);
extern void epds_oauth_finish_consent(void);

/*
 * exact.c: one GET under all limits.  path_or_url: "/api/v1/…" or a __next
 * URL (checked against the configured site before the token is sent).  Books
 * the call before and settles it after, refreshes the token once on 401.
 * Outside a block only.  Returns the HTTP status in *status; on anything but
 * 200 with a JSON body the answer's error is described in answer->error.
 * importing: leave half of the minute limit to others.
 */
extern void epds_exact_get(int division, const char *feed,
						   const char *path_or_url, bool importing,
						   EpdsHttpAnswer *answer);

/*
 * One write, under the same limits and never repeated: what became of a lost
 * one, its caller looks up.  False: answer->error tells why.  Outside a block.
 */
extern bool epds_exact_write(int division, const char *what, const char *method,
							 const char *path, const char *body,
							 EpdsHttpAnswer *answer);

/* The same for verify(): no booking, no refresh, no block; answer as it is. */
extern void epds_exact_probe(const char *access_token, const char *base_url,
							 const char *path, EpdsHttpAnswer *answer);

/* Refuses every write but those on the short list; ERROR otherwise. */
extern void epds_exact_check_write(const char *method, const char *path);

/*
 * poll.c: drain one feed, leaving room to others.  Returns rows staged; -1 =
 * nothing was read, because another session reads this feed.
 */
extern int64 epds_poll_feed(int division, const char *feed, int64 run_id);
/*
 * The same for the intake worker, which has the whole minute.  An ERROR is
 * returned, its block thrown away; NULL when all is well.
 */
extern ErrorData *epds_poll_try_feed(int division, char *name, int64 run_id);

/*
 * hints.c, for the intake worker.  due_in: ms until feeds are to be read for
 * hints, -1 = none.  follow: reads them; what fails is logged and postponed.
 */
extern int64 epds_hints_due_in(void);
extern void epds_hints_follow(void);

#endif							/* EPDS_EXACT_H */
