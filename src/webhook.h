/*-------------------------------------------------------------------------
 *
 * webhook.h
 *		Notifications of both services: what they say, and whether they are
 *		genuine.
 *
 * Pure: bytes in, verdict out.  No socket, no transaction, no ereport; nothing
 * is allocated beyond the call.  A notification is a hint and never the truth
 * (law 8), so only its address is read: topic, division, key.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/webhook.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_WEBHOOK_H
#define EPDS_WEBHOOK_H

#include "postgres.h"

/* Larger notifications are not ours: Exact sends some 500 bytes. */
#define WEBHOOK_MAX_EXACT (64 * 1024)
/* Pipedrive sends a whole record, twice. */
#define WEBHOOK_MAX_PIPEDRIVE (1024 * 1024)

typedef enum WebhookVerdict
{
	WEBHOOK_GENUINE,			/* signed by the service and understood */
	WEBHOOK_STRANGE,			/* signed, but it says nothing we can use */
	WEBHOOK_FORGED				/* not signed, or not with our secret */
} WebhookVerdict;

/* What an Exact notification says; texts are cut off rather than refused. */
typedef struct ExactNotification
{
	char		topic[65];
	char		action[17];		/* Create, Update, Delete */
	char		key[37];		/* GUID, lower case */
	char		event_at[41];	/* as Exact writes it, without a zone */
	char		digest[65];		/* SHA-256 of the signed content */
	int			division;
} ExactNotification;

/*
 * Check the signature over the raw bytes, in constant time, before anything is
 * parsed; then read the content.  *note is filled unless FORGED; with STRANGE
 * as far as could be read.
 */
extern WebhookVerdict exact_webhook_read(const char *body, size_t len,
										 const char *secret, size_t secret_len,
										 ExactNotification *note);

/*
 * The same for Pipedrive: the header that came (NULL = none) must be the one
 * that is expected, in constant time, before the body is looked at.  GENUINE:
 * the body is text of our encoding, and JSON as far as brackets go; what jsonb
 * would refuse in it was replaced in place (json_scan.h).  STRANGE: it is not.
 */
extern WebhookVerdict pipedrive_webhook_read(const char *login,
											 const char *expected,
											 char *body, size_t len);

#endif							/* EPDS_WEBHOOK_H */
