/*-------------------------------------------------------------------------
 *
 * inbox.h
 *		Notifications on their way into the inbox.
 *
 * A batch is collected without a transaction, checked within one, and stored
 * with one command.  Nothing is answered 200 before the commit (law 8, habits of
 * the listener).
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/inbox.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_INBOX_H
#define EPDS_INBOX_H

#include "postgres.h"

#include "lib/stringinfo.h"

/* The user of HTTP Basic that subscribe_webhooks() gives to Pipedrive. */
#define EPDS_PIPEDRIVE_HOOK_USER "exact_pd_sync"

/* A batch; its memory belongs to the context that was current at its start. */
typedef struct EpdsInbox
{
	StringInfoData notes;		/* JSON array for _inbox_take(), open */
	int			count;
	char	   *exact_secret;	/* NULL: none is configured */
	char	   *pipedrive_login;	/* Authorization header to expect; NULL = none */
} EpdsInbox;

/* Begin a batch; needs an open block, because it reads the secret. */
extern void epds_inbox_begin(EpdsInbox *inbox);

/*
 * Check a body of Exact.  Returns the HTTP status that answers it once the
 * batch is stored: 200, 401 (forged), 413 (too large), 503 (no secret to check
 * it with).  Only what gets 200 is in the batch; an empty body, Exact's
 * validation of the address, gets 200 and is not.
 */
extern int	epds_inbox_exact(EpdsInbox *inbox, const char *body, size_t len);

/*
 * The same for Pipedrive: 200, 400 (no notification), 401 (wrong user or
 * password), 503 (no password set).  authorization is the header, or NULL; body
 * is written to.
 */
extern int	epds_inbox_pipedrive(EpdsInbox *inbox, const char *authorization,
								 char *body, size_t len);

/* Store the batch in the open block; returns how many new hints it held. */
extern int	epds_inbox_store(EpdsInbox *inbox);

#endif							/* EPDS_INBOX_H */
