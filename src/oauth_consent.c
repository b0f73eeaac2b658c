/*-------------------------------------------------------------------------
 *
 * oauth_consent.c
 *		CALL exact_authorize(): the first token pair, for a code that a person
 *		brought from the browser.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/oauth_consent.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "compat.h"
#include "credentials.h"
#include "exact_internal.h"
#include "instance.h"
#include "hex.h"
#include "tx.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(epds_exact_authorize);

/* Decode one level of percent-encoding; palloc'd.  Throws when it is no text. */
static char *
percent_decode(const char *text, size_t len)
{
	StringInfoData out;

	initStringInfo(&out);
	for (size_t i = 0; i < len; i++)
	{
		if (text[i] == '%' && i + 2 < len &&
			epds_hex_value(text[i + 1]) >= 0 && epds_hex_value(text[i + 2]) >= 0)
		{
			appendStringInfoChar(&out, (char) (epds_hex_value(text[i + 1]) << 4 |
											   epds_hex_value(text[i + 2])));
			i += 2;
		}
		else
			appendStringInfoChar(&out, text[i]);
	}
	if (!pg_verify_mbstr(PG_UTF8, out.data, out.len, true))
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("the address holds bytes that are no text"),
				 errhint("Copy the whole address from the browser after it was sent back.")));
	return out.data;
}

/* The decoded value of a query parameter of a URL; NULL if it has none. */
static char *
query_value(const char *url, const char *name)
{
	const char *p = strchr(url, '?');
	size_t		name_len = strlen(name);

	while (p != NULL)
	{
		p++;
		if (strncmp(p, name, name_len) == 0 && p[name_len] == '=')
		{
			p += name_len + 1;
			return percent_decode(p, strcspn(p, "&#"));
		}
		p = strchr(p, '&');
	}
	return NULL;
}

/*
 * The code in what a person pasted: the address the browser was sent back to,
 * or the code alone, still encoded as it stood in that address or not.
 */
static char *
consent_code(const char *pasted, char **state)
{
	char	   *code;
	char	   *error;

	*state = NULL;
	if (strchr(pasted, '?') == NULL)
		return percent_decode(pasted, strlen(pasted));

	error = query_value(pasted, "error");
	if (error != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("Exact Online did not give its consent: %s",
						epds_one_line(error, 100))));
	code = query_value(pasted, "code");
	if (code == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the address holds no code"),
				 errhint("Copy the whole address from the browser after it was sent back, with everything behind the question mark.")));
	*state = query_value(pasted, "state");
	return code;
}

/* What is needed to hand in a code; one block. */
static void
consent_prepare(const char *state, char **base_url, char **client_id,
				char **redirect_uri, char **secret)
{
	const char *args[1] = {state};
	bool		known_state;

	/* without an address of our own there is nothing to compare with */
	epds_tx_begin();
	epds_sql("SELECT client_id, redirect_uri, base_url, exact_pd_sync._instance_ok(),"
			 " $1 IS NULL OR exact_pd_sync._oauth_state_ok($1)"
			 " OR NOT EXISTS (SELECT FROM exact_pd_sync.exact_consent AS c"
			 "                WHERE c.oauth_state IS NOT NULL)"
			 " FROM exact_pd_sync._exact_app()", 1, args);
	*client_id = epds_sql_value(0, 0);
	*redirect_uri = epds_sql_value(0, 1);
	*base_url = epds_sql_value(0, 2);
	known_state = epds_sql_bool(0, 4, false);
	if (!epds_sql_bool(0, 3, false))
		epds_throw_not_this_instance();
	*secret = epds_credential_get("exact_client_secret");
	if (*client_id == NULL || *redirect_uri == NULL || *secret == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the app of Exact Online is not configured"),
				 errhint("Run SELECT exact_pd_sync.set_exact_app(…) first.")));
	epds_check_base_url(*base_url);
	if (!known_state)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("this address does not belong to the last consent that was asked for"),
				 errdetail("Its state is not the one of our own last address, or that is more than an hour old."),
				 errhint("Open the address that SELECT exact_pd_sync.exact_authorize_url() gives, and use what comes back from that one.")));
	epds_sql("SELECT exact_pd_sync._token_reserve()", 0, NULL);
	epds_tx_commit();
}

/* Hand the code in and store what comes; the lock is held. */
static void
consent_locked(const char *code, const char *state)
{
	StringInfoData form;
	EpdsTokenAnswer token;
	char	   *base_url;
	char	   *client_id;
	char	   *redirect_uri;
	char	   *secret;

	consent_prepare(state, &base_url, &client_id, &redirect_uri, &secret);
	initStringInfo(&form);
	epds_append_form(&form, "grant_type", "authorization_code");
	epds_append_form(&form, "client_id", client_id);
	epds_append_form(&form, "client_secret", secret);
	epds_append_form(&form, "code", code);
	epds_append_form(&form, "redirect_uri", redirect_uri);

	HOLD_INTERRUPTS();
	epds_ask_for_token(base_url, form.data, &token);
	if (token.access != NULL && token.refresh != NULL)
		epds_store_token_pair(&token, "consent");
	RESUME_INTERRUPTS();

	if (token.access == NULL)
	{
		epds_tx_begin();
		epds_log_token_call(&token, "consent");
		epds_tx_commit();
	}
	if (token.access == NULL && token.lost)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not hand the code in at Exact Online: %s",
						token.text),
				 errhint("Open the address that SELECT exact_pd_sync.exact_authorize_url() gives and try with the new code.")));
	if (token.access == NULL || token.refresh == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("Exact Online refused the code: %s",
						token.text ? token.text : "it gave no refresh token"),
				 errdetail("A code works once and for about three minutes, with the client id, the secret and the redirect URI of the app it was asked for."),
				 errhint("Open the address that SELECT exact_pd_sync.exact_authorize_url() gives and try with the new code.")));
}

/* The same, giving the lock back in any case: it would survive an ERROR. */
static void
consent_and_unlock(const char *code, const char *state)
{
	PG_TRY();
	{
		consent_locked(code, state);
	}
	PG_CATCH();
	{
		epds_lock_release(EPDS_LOCK_REFRESHER, 0);
		PG_RE_THROW();
	}
	PG_END_TRY();
	epds_lock_release(EPDS_LOCK_REFRESHER, 0);
}

/*
 * The first pair, for a code that a person brought from the browser.  Outside
 * a block only; throws when it is refused.
 */
void
epds_oauth_consent(const char *code)
{
	char	   *state;
	char	   *bare;

	bare = consent_code(code, &state);
	epds_redact_add(bare);
	epds_lock_wait(EPDS_LOCK_REFRESHER, 0, EPDS_REFRESHER_PATIENCE_MS);
	consent_and_unlock(bare, state);
}

/* The code on its way from the listener to the intake worker. */
#define HANDED_IN "exact_consent_code"

/* See exact.h. */
void
epds_oauth_hand_in(const char *code)
{
	epds_redact_add(code);
	epds_credential_set(HANDED_IN, code);
	/* a state is good for one code: whoever sees the address later has nothing of it */
	epds_sql("UPDATE exact_pd_sync.exact_consent"
			 " SET handed_in_result = NULL, oauth_state_at = '-infinity'", 0, NULL);
	epds_worker_wake_at_commit(EPDS_WORKER_INTAKE);
}

/* See exact.h. */
int64
epds_oauth_handed_in(void)
{
	bool		there = false;

	epds_tx_begin();
	/* not read yet: without its key that would be an ERROR, here of all places */
	if (epds_extension_exists())
		there = epds_sql("SELECT 1 FROM exact_pd_sync.credentials WHERE name = '" HANDED_IN "'",
						 0, NULL) > 0;
	epds_tx_commit();
	return there ? 0 : -1;
}

/* Take the code: it works once, whatever becomes of it. */
static char *
take_code(void)
{
	char	   *code;

	epds_tx_begin();
	code = epds_credential_get(HANDED_IN);
	epds_credential_set(HANDED_IN, NULL);
	epds_tx_commit_durable();
	return code;
}

static void
tell_result(const char *result)
{
	const char *args[1] = {result};

	epds_tx_begin();
	epds_sql("UPDATE exact_pd_sync.exact_consent SET handed_in_result = left($1, 500)", 1, args);
	epds_tx_commit();
}

/* See exact.h. */
void
epds_oauth_finish_consent(void)
{
	MemoryContext caller = CurrentMemoryContext;
	char	   *code = take_code();
	ErrorData  *volatile error = NULL;

	if (code == NULL)
		return;
	epds_lock_wait(EPDS_LOCK_REFRESHER, 0, EPDS_REFRESHER_PATIENCE_MS);
	PG_TRY();
	{
		/* its state was looked at when it was handed in */
		consent_and_unlock(code, NULL);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		epds_tx_abort();
	}
	PG_END_TRY();
	tell_result(error ? error->message : "ok");
	if (error != NULL)
		ReThrowError(error);
	ereport(LOG, (errmsg("Exact Online is connected")));
}

/* CALL exact_authorize(code_or_redirect_url) */
Datum
epds_exact_authorize(PG_FUNCTION_ARGS)
{
	char	   *pasted;

	epds_procedure_enter(fcinfo, "exact_authorize");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the code must not be null")));
	pasted = text_to_cstring(PG_GETARG_TEXT_PP(0));
	epds_oauth_consent(pasted);
	ereport(NOTICE,
			(errmsg("Exact Online is connected"),
			 errhint("Next: SELECT exact_pd_sync.add_division(…) with the number of the division.")));
	epds_procedure_leave();
	PG_RETURN_VOID();
}
