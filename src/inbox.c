/*-------------------------------------------------------------------------
 *
 * inbox.c
 *		Takes notifications in: checked, stored, and then answered.
 *
 * The listener and receive_exact_webhook(), for sites with an HTTP front of
 * their own, go the same way.  What a notification leads to is the intake
 * worker's matter.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/inbox.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/base64.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "compat.h"
#include "credentials.h"
#include "inbox.h"
#include "tx.h"
#include "webhook.h"

PG_FUNCTION_INFO_V1(epds_receive_exact_webhook);

#define ANSWER_OK 200
#define ANSWER_NONSENSE 400
#define ANSWER_FORGED 401
#define ANSWER_TOO_LARGE 413
#define ANSWER_NOT_READY 503

/*
 * The header that a request with our user and this password carries; palloc'd,
 * NULL without a password.
 */
static char *
expected_login(const char *password)
{
	char	   *plain;
	char	   *login;
	int			len;

	if (password == NULL)
		return NULL;
	plain = psprintf("%s:%s", EPDS_PIPEDRIVE_HOOK_USER, password);
	len = pg_b64_enc_len((int) strlen(plain));
	login = palloc0(len + sizeof("Basic "));
	strcpy(login, "Basic ");
	if (epds_b64_encode(plain, (int) strlen(plain), login + 6, len) < 0)
		elog(ERROR, "could not encode the login of Pipedrive");
	return login;
}

/* See inbox.h. */
void
epds_inbox_begin(EpdsInbox *inbox)
{
	inbox->count = 0;
	inbox->exact_secret = epds_credential_get("exact_webhook_secret");
	inbox->pipedrive_login = expected_login(epds_credential_get("pipedrive_webhook_password"));
	initStringInfo(&inbox->notes);
	appendStringInfoChar(&inbox->notes, '[');
}

/* "name":"text", */
static void
append_member(StringInfo to, const char *name, const char *text)
{
	appendStringInfo(to, "\"%s\":", name);
	escape_json(to, text);
	appendStringInfoChar(to, ',');
}

/* See inbox.h. */
int
epds_inbox_exact(EpdsInbox *inbox, const char *body, size_t len)
{
	ExactNotification note;
	WebhookVerdict verdict;
	StringInfo	to = &inbox->notes;

	if (len == 0)
		return ANSWER_OK;
	if (len > WEBHOOK_MAX_EXACT)
		return ANSWER_TOO_LARGE;
	if (inbox->exact_secret == NULL)
		return ANSWER_NOT_READY;
	verdict = exact_webhook_read(body, len, inbox->exact_secret,
								 strlen(inbox->exact_secret), &note);
	if (verdict == WEBHOOK_FORGED)
		return ANSWER_FORGED;

	if (inbox->count++ > 0)
		appendStringInfoChar(to, ',');
	appendStringInfoChar(to, '{');
	append_member(to, "side", "exact");
	append_member(to, "digest", note.digest);
	append_member(to, "topic", note.topic);
	append_member(to, "action", note.action);
	if (note.key[0] != '\0')
		append_member(to, "key", note.key);
	append_member(to, "event_at", note.event_at);
	if (note.division > 0)
		appendStringInfo(to, "\"division\":%d,", note.division);
	appendStringInfo(to, "\"strange\":%s}",
					 verdict == WEBHOOK_STRANGE ? "true" : "false");
	return ANSWER_OK;
}

/* See inbox.h. */
int
epds_inbox_pipedrive(EpdsInbox *inbox, const char *authorization, char *body,
					 size_t len)
{
	WebhookVerdict verdict;
	StringInfo	to = &inbox->notes;

	if (inbox->pipedrive_login == NULL)
		return ANSWER_NOT_READY;
	verdict = pipedrive_webhook_read(authorization, inbox->pipedrive_login, body, len);
	if (verdict == WEBHOOK_FORGED)
		return ANSWER_FORGED;
	if (verdict == WEBHOOK_STRANGE)
		return ANSWER_NONSENSE;

	/* as text: SQL reads it, and one that jsonb refuses spoils no other */
	if (inbox->count++ > 0)
		appendStringInfoChar(to, ',');
	appendStringInfoString(to, "{\"side\":\"pipedrive\",\"text\":");
	escape_json(to, body);
	appendStringInfoChar(to, '}');
	return ANSWER_OK;
}

/* See inbox.h. */
int
epds_inbox_store(EpdsInbox *inbox)
{
	const char *args[1];

	if (inbox->count == 0)
		return 0;
	appendStringInfoChar(&inbox->notes, ']');
	args[0] = inbox->notes.data;
	epds_sql("SELECT exact_pd_sync._inbox_take($1::jsonb)", 1, args);
	return (int) epds_sql_int(0, 0, 0);
}

/*
 * receive_exact_webhook(body bytea) → integer: the HTTP status to answer with.
 * The caller's transaction holds the notification: it is to be committed
 * before the answer goes out.
 */
Datum
epds_receive_exact_webhook(PG_FUNCTION_ARGS)
{
	bytea	   *body = PG_GETARG_BYTEA_PP(0);
	EpdsInbox	inbox;
	int			status;

	epds_tx_in_function(true);
	epds_tx_begin();
	epds_inbox_begin(&inbox);
	status = epds_inbox_exact(&inbox, VARDATA_ANY(body), VARSIZE_ANY_EXHDR(body));
	(void) epds_inbox_store(&inbox);
	epds_tx_commit();
	epds_tx_in_function(false);
	PG_RETURN_INT32(status);
}
