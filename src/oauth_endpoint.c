/*-------------------------------------------------------------------------
 *
 * oauth_endpoint.c
 *		One call to Exact's token endpoint: the form, the wait, the answer.
 *
 * Knows nothing of what is stored.  Answers are read with distrust: a token
 * goes into a header line later, so it must be able to stand in one.
 *
 * A rotation that is under way should not be interrupted, because the answer
 * that gets lost holds the only valid token.  So cancel and terminate wait for
 * the endpoint, but for TOKEN_GRACE_MS at the most, counted from the beginning
 * of the request.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/oauth_endpoint.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/wait_event.h"

#include "clock.h"
#include "exact_internal.h"

/* How often a held interrupt is looked for. */
#define LOOK_MS 100

/*
 * Token answers take some tenths of a second; what takes longer than this is
 * a hanging server.
 */
#define TOKEN_GRACE_MS 2000

/* A token answer is about 3 kB. */
#define MAX_TOKEN_ANSWER (256 * 1024)

void
epds_append_form(StringInfo form, const char *name, const char *value)
{
	static const char digits[] = "0123456789ABCDEF";

	if (form->len > 0)
		appendStringInfoChar(form, '&');
	appendStringInfo(form, "%s=", name);
	for (const char *p = value; *p; p++)
	{
		unsigned char c = (unsigned char) *p;

		if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			(c >= '0' && c <= '9') || strchr("-._~", c) != NULL)
			appendStringInfoChar(form, c);
		else
		{
			appendStringInfoChar(form, '%');
			appendStringInfoChar(form, digits[c >> 4]);
			appendStringInfoChar(form, digits[c & 0xF]);
		}
	}
}

/*
 * Send the form and wait.  Interrupts are held by the caller; they are let
 * through when the request has been under way for TOKEN_GRACE_MS.
 */
static void
post_form(const char *base_url, const char *form, EpdsHttpAnswer *answer)
{
	static const char *const headers[] = {
		"Content-Type: application/x-www-form-urlencoded",
		"Accept: application/json",
		NULL
	};
	EpdsHttpRequest request = {0};
	EpdsMux    *mux;
	int64		started = epds_clock_ms();

	request.method = "POST";
	request.url = psprintf("%s/api/oauth2/token", base_url);
	request.headers = headers;
	request.body = form;
	request.body_len = strlen(form);
	request.max_answer = MAX_TOKEN_ANSWER;

	mux = epds_mux_create(CurrentMemoryContext, 1);
	epds_mux_add(mux, &request);
	while (!epds_mux_wait(mux, LOOK_MS, PG_WAIT_EXTENSION))
	{
		if (InterruptPending && epds_clock_ms() - started >= TOKEN_GRACE_MS)
		{
			RESUME_INTERRUPTS();
			CHECK_FOR_INTERRUPTS();
			HOLD_INTERRUPTS();
		}
	}
	if (!epds_mux_next_done(mux, answer))
		elog(ERROR, "a finished request has no answer");
	epds_mux_destroy(mux);
}

/* A token must be able to stand in a header line. */
static char *
token_text(const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

	if (!cJSON_IsString(item) || item->valuestring[0] == '\0')
		return NULL;
	for (const char *p = item->valuestring; *p; p++)
	{
		if (*p <= ' ' || *p > '~')
			return NULL;
	}
	epds_redact_add(item->valuestring);
	return pstrdup(item->valuestring);
}

/* expires_in comes as a string, and may come as a number. */
static int
lifetime_value(const cJSON *object)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, "expires_in");
	double		seconds = 0;

	if (cJSON_IsNumber(item))
		seconds = item->valuedouble;
	else if (cJSON_IsString(item))
		seconds = atof(item->valuestring);
	return (seconds >= 1 && seconds <= 86400) ? (int) seconds : 0;
}

/* Read what came back; everything is palloc'd. */
static void
read_answer(const EpdsHttpAnswer *http, EpdsTokenAnswer *token)
{
	const cJSON *json = NULL;
	const cJSON *item;
	const char *reason;

	memset(token, 0, sizeof(*token));
	token->error = pstrdup("");
	token->sent = http->result == EPDS_HTTP_OK ||
		http->result == EPDS_HTTP_UNKNOWN;
	token->status = http->status;
	token->ms = http->total_ms;
	if (http->result == EPDS_HTTP_OK &&
		strcmp(http->content_type, "application/json") == 0)
		json = epds_json_parse(http->body, http->body_len);

	if (http->result != EPDS_HTTP_OK)
	{
		token->lost = true;
		token->text = pstrdup(http->error);
		return;
	}
	if (json == NULL || !cJSON_IsObject(json))
	{
		token->lost = true;
		token->text = psprintf("HTTP %d without a JSON answer", http->status);
		return;
	}

	if (http->status == 200)
	{
		token->access = token_text(json, "access_token");
		token->refresh = token_text(json, "refresh_token");
		token->expires_in = lifetime_value(json);
		if (token->access == NULL || token->expires_in == 0)
		{
			token->access = NULL;
			token->text = pstrdup("HTTP 200 without a token that can be used");
			token->lost = true;
		}
		return;
	}

	item = cJSON_GetObjectItemCaseSensitive(json, "error");
	if (cJSON_IsString(item))
		token->error = epds_one_line(item->valuestring, 60);
	item = cJSON_GetObjectItemCaseSensitive(json, "error_description");
	token->text = psprintf("HTTP %d %s: %s", http->status, token->error,
						   cJSON_IsString(item) ?
						   epds_one_line(item->valuestring, 200) : "no description");
	reason = epds_header_value(http, "reason");
	token->too_early = http->status == 400 &&
		((reason != NULL && strncmp(reason, "TooEarly", 8) == 0) ||
		 strstr(token->text, "not expired") != NULL);
}

void
epds_ask_for_token(const char *base_url, const char *form,
				   EpdsTokenAnswer *token)
{
	EpdsHttpAnswer answer;

	post_form(base_url, form, &answer);
	read_answer(&answer, token);
	explicit_bzero(answer.body, answer.body_len);
}
