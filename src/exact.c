/*-------------------------------------------------------------------------
 *
 * exact.c
 *		The Exact Online client: one call under all limits.
 *
 *		token ─▶ book the call ─▶ wait for the minute ─▶ GET ─▶ look at it
 *		  ▲										│
 *		  └── 401 expired: refresh once ◀───────┤── 429: book again, that waits
 *			  5xx, HTML, broken off: twice more ┘
 *
 * An answer is one of three things: a page (200 and a JSON text that is closed),
 * a refusal (a JSON error that the caller's SQL decides about), or a failure.
 * An empty or broken body is never "no rows".
 *
 * Exact is master (law 1): whatever is sent passes epds_exact_check_write();
 * the list of what may be written is in exact_write.c.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/exact.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "lib/stringinfo.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "counters.h"
#include "exact_internal.h"
#include "exact_write.h"
#include "json_scan.h"
#include "tx.h"

/* Repeats of a GET that failed in a way that may pass, and the first pause. */
#define MAX_REPEATS 2
#define FIRST_PAUSE_MS 1000

/* A 429 is waited for when it ends within this; else it is for the next run. */
#define LONGEST_WAIT_MS 70000

/* How many 429s in a row: more means that somebody else eats the budget. */
#define MAX_LIMIT_WAITS 5

/* Waits shorter than this are not worth a word. */
#define WORTH_A_NOTICE_MS 3000

/* How long a call waits for the ones of other sessions. */
#define CALL_PATIENCE_MS 300000

/*
 * The same for a probe of verify(), which holds a snapshot while it waits: long
 * enough for one page of an import.
 */
#define PROBE_PATIENCE_MS 60000

/*
 * A refusal has some hundred bytes.  A larger one is not read: as a tree a text
 * of many small values takes forty times its length.
 */
#define MAX_REFUSAL (256 * 1024)

/* Longest part of a remote message that is shown and kept. */
#define MAX_MESSAGE 300

/* What an answer is, see the head of this file. */
typedef enum AnswerKind
{
	ANSWER_PAGE,
	ANSWER_REFUSED,
	ANSWER_TRANSIENT,
	ANSWER_FAILED,
	ANSWER_EXPIRED,				/* 401, the token is past its time */
	ANSWER_LIMITED				/* 429 */
} AnswerKind;

/* -------------------------------------------------------- what may be sent */

void
epds_exact_check_write(const char *method, const char *path)
{
	if (epds_exact_request_allowed(method, path))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("%s %s is not among the requests that may be sent to Exact Online",
					method, path),
			 errdetail("Exact is master: only contacts and webhook subscriptions are ever written there.")));
}

/* --------------------------------------------------------------- the URL */

/* Encode what no URL may have raw; what is encoded already stays as it is. */
char *
epds_encode_url(const char *url)
{
	static const char digits[] = "0123456789ABCDEF";
	StringInfoData out;

	initStringInfo(&out);
	for (const char *p = url; *p; p++)
	{
		unsigned char c = (unsigned char) *p;

		if (c > ' ' && c < 0x7F && strchr("\"<>\\^`{|}#", c) == NULL)
			appendStringInfoChar(&out, c);
		else
		{
			appendStringInfoChar(&out, '%');
			appendStringInfoChar(&out, digits[c >> 4]);
			appendStringInfoChar(&out, digits[c & 0xF]);
		}
	}
	return out.data;
}

/*
 * May a page that Exact refers to be asked for?  A path always; a URL when it
 * leads to the configured site.
 */
bool
epds_stays_on_site(const char *path_or_url, const char *base_url)
{
	if (path_or_url[0] == '/' && path_or_url[1] != '/')
		return true;
	return base_url != NULL &&
		epds_same_origin(epds_encode_url(path_or_url), base_url);
}

/* Throw: a page is elsewhere, and the token would be given away there. */
void
epds_throw_other_site(const char *url)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_ERROR),
			 errmsg("Exact Online refers to another site for the next page: \"%s\"",
					epds_one_line(url, 100)),
			 errhint("The token is sent to the configured site only. If the company moved to another site, run SELECT exact_pd_sync.set_exact_app(…).")));
}

/* The whole URL of a path or of a continuation that Exact gave; throws. */
static char *
whole_url(const char *base_url, const char *path_or_url)
{
	int			len = strlen(base_url);

	if (!epds_stays_on_site(path_or_url, base_url))
		epds_throw_other_site(path_or_url);
	if (path_or_url[0] != '/')
		return epds_encode_url(path_or_url);
	while (len > 0 && base_url[len - 1] == '/')
		len--;
	return psprintf("%.*s%s", len, base_url, epds_encode_url(path_or_url));
}

/* The path of a path or URL, for the journal. */
static const char *
path_of(const char *path_or_url)
{
	const char *p = strstr(path_or_url, "://");

	if (path_or_url[0] == '/' || p == NULL)
		return path_or_url;
	p = strchr(p + 3, '/');
	return p ? p : "/";
}

/* ------------------------------------------------------------ the answer */

/* Exact's own words in a JSON error; NULL when it is none. */
static char *
error_message(const EpdsHttpAnswer *answer)
{
	const cJSON *json;
	const cJSON *error;
	const cJSON *value;

	if (strcmp(answer->content_type, "application/json") != 0 ||
		answer->body_len > MAX_REFUSAL)
		return NULL;
	json = epds_json_parse(answer->body, answer->body_len);
	error = cJSON_GetObjectItemCaseSensitive(json, "error");
	value = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(error, "message"),
											 "value");
	if (cJSON_IsString(value))
		return epds_one_line(value->valuestring, MAX_MESSAGE);
	if (cJSON_IsString(error))
		return epds_one_line(error->valuestring, MAX_MESSAGE);
	if (cJSON_IsObject(error))
		return pstrdup("an error without a message");
	return NULL;
}

/* A 401 says in a header whether it is the token's age or a missing right. */
static bool
says_expired(const EpdsHttpAnswer *answer)
{
	char	   *challenge = epds_header_value(answer, "www-authenticate");

	if (challenge == NULL)
		return false;
	for (char *p = challenge; *p; p++)
		*p = pg_tolower((unsigned char) *p);
	return strstr(challenge, "expired") != NULL;
}

/* What a 200 holds; replaces what jsonb refuses. */
static AnswerKind
look_at_body(EpdsHttpAnswer *answer, size_t *replaced)
{
	EpdsJsonScan scan;

	if (strcmp(answer->content_type, "application/json") != 0 &&
		answer->body_len > 0)
	{
		answer->error = psprintf("HTTP 200 with %s instead of JSON",
								 answer->content_type[0] ?
								 epds_one_line(answer->content_type, 60) :
								 "a body of unknown type");
		return ANSWER_TRANSIENT;
	}
	scan = epds_json_scan(answer->body, answer->body_len);
	*replaced = scan.replaced;
	if (scan.state == EPDS_JSON_COMPLETE)
		return ANSWER_PAGE;
	answer->error = psprintf("HTTP 200, but the answer %s after %zu bytes",
							 epds_json_state_text(scan.state),
							 answer->body_len);
	return ANSWER_TRANSIENT;
}

/* Decide what an answer is; sets answer->error unless it is a page. */
static AnswerKind
look_at(EpdsHttpAnswer *answer, size_t *replaced)
{
	char	   *message;

	*replaced = 0;
	switch (answer->result)
	{
		case EPDS_HTTP_OK:
			break;
		case EPDS_HTTP_NOT_SENT:
		case EPDS_HTTP_UNKNOWN:
			return ANSWER_TRANSIENT;
		case EPDS_HTTP_REFUSED:
			return ANSWER_FAILED;
	}
	if (answer->status == 200)
		return look_at_body(answer, replaced);

	message = error_message(answer);
	answer->error = psprintf("HTTP %d%s%s", answer->status, message ? ": " : "",
							 message ? message : "");
	if (answer->status == 401 && says_expired(answer))
		return ANSWER_EXPIRED;
	if (answer->status == 429)
		return ANSWER_LIMITED;
	if (answer->status == 500 && message != NULL)
		return ANSWER_REFUSED;
	if (answer->status == 408 || answer->status >= 500)
		return ANSWER_TRANSIENT;
	if (answer->status >= 400)
		return ANSWER_REFUSED;
	return ANSWER_FAILED;		/* a redirect, a 204: nothing we asked for */
}

/* The word for the journal. */
static const char *
kind_text(AnswerKind kind)
{
	switch (kind)
	{
		case ANSWER_PAGE:
			return "ok";
		case ANSWER_REFUSED:
			return "refused";
		case ANSWER_TRANSIENT:
			return "retry";
		case ANSWER_FAILED:
			return "failed";
		case ANSWER_EXPIRED:
			return "expired";
		case ANSWER_LIMITED:
			return "limited";
	}
	return "failed";
}

/* ---------------------------------------------------------- booking, settling */

static void
settle_call(int division, const char *feed, const char *method,
			const char *path_or_url, const EpdsHttpAnswer *answer,
			const char *outcome, const char *note)
{
	const char *args[10];

	epds_count_call(EPDS_SIDE_EXACT, answer->total_ms);
	args[0] = psprintf("%d", division);
	args[1] = feed;
	args[2] = epds_redact(path_of(path_or_url));
	args[3] = psprintf("%d", answer->status);
	args[4] = outcome;
	args[5] = note;
	args[6] = answer->headers ? answer->headers : "{}";
	args[7] = psprintf("%d", answer->total_ms);
	args[8] = psprintf("%zu", answer->body_len);
	args[9] = method;
	epds_sql("SELECT exact_pd_sync._exact_settle($1::integer, $2, $10, $3,"
			 " $4::integer, $5, $6, $7::jsonb, $8::integer, $9::bigint)",
			 10, args);
}

static void
settle(int division, const char *feed, const char *path_or_url,
	   const EpdsHttpAnswer *answer, const char *outcome, const char *note)
{
	settle_call(division, feed, "GET", path_or_url, answer, outcome, note);
}

void
epds_exact_settle(int division, const char *feed, const char *path_or_url,
				  const EpdsHttpAnswer *answer, const char *note)
{
	settle(division, feed, path_or_url, answer, kind_text(ANSWER_PAGE), note);
}

/* Seconds of a Retry-After header in milliseconds; 0 if there is none. */
static int64
retry_after_ms(const EpdsHttpAnswer *answer)
{
	char	   *text = epds_header_value(answer, "retry-after");
	int64		seconds = text ? strtol(text, NULL, 10) : 0;

	return (seconds > 0 && seconds <= 7 * 86400) ? seconds * 1000 : 0;
}

/*
 * Until when Exact allows this process no calls to a division; so the other
 * feeds of a run need not ask to learn the same.
 */
static int64 limited_until = 0; /* of the clock that never jumps */
static int	limited_division = 0;

/* Throw: the limit ends too late to be waited for. */
static void
throw_limited(int division, const EpdsHttpAnswer *answer, int64 wait_ms)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													wait_ms);

	limited_until = epds_clock_ms() + wait_ms;
	limited_division = division;
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("Exact Online allows no calls until %s",
					timestamptz_to_str(until)),
			 answer ? errdetail("It answered %s.", answer->error) : 0,
			 errhint("Nothing is lost: the next run after that goes on where this one stopped.")));
}

/* Say once per call that we wait. */
static void
notice_wait(bool *said, int64 wait_ms)
{
	if (*said || wait_ms < WORTH_A_NOTICE_MS)
		return;
	ereport(NOTICE,
			(errmsg("waiting %lld seconds until Exact Online allows the next call",
					(long long) ((wait_ms + 999) / 1000))));
	*said = true;
}

/*
 * Book one call, waiting for the minute as often as it takes.  Returns the
 * configured site.  Outside a block only; throws when the day is used up.
 */
static char *
book_call(int division, const char *feed, bool importing, bool *said)
{
	const char *args[3];

	if (division == limited_division)
	{
		int64		left = limited_until - epds_clock_ms();

		if (left > 0)
			throw_limited(division, NULL, left);
	}
	args[0] = psprintf("%d", division);
	args[1] = feed;
	args[2] = importing ? "true" : "false";
	for (;;)
	{
		int64		wait_ms;
		char	   *base_url;

		epds_tx_begin();
		epds_sql("SELECT exact_pd_sync._exact_reserve($1::integer, $2, $3::boolean),"
				 " (SELECT a.base_url FROM exact_pd_sync._exact_app() AS a)",
				 3, args);
		wait_ms = epds_sql_int(0, 0, 0);
		base_url = epds_sql_value(0, 1);
		epds_tx_commit();

		if (wait_ms <= 0)
		{
			epds_check_base_url(base_url);
			return base_url;
		}
		if (wait_ms > LONGEST_WAIT_MS)
			throw_limited(division, NULL, wait_ms);
		notice_wait(said, wait_ms);
		epds_pause(wait_ms);
	}
}

/*
 * One request, nothing else.  Exact wants no two calls at the same time,
 * whichever division they are about (current/Me is about none); the lock keeps
 * sessions apart that poll at the same time.
 */
static void
single_call(const char *access_token, const char *method, const char *url,
		  const char *body, int patience_ms, EpdsHttpAnswer *answer)
{
	const char *headers[4];
	EpdsHttpRequest request = {0};

	headers[0] = psprintf("Authorization: Bearer %s", access_token);
	headers[1] = "Accept: application/json";
	headers[2] = body ? "Content-Type: application/json" : NULL;
	headers[3] = NULL;
	request.method = method;
	request.url = url;
	request.headers = headers;
	request.body = body;
	request.body_len = body ? strlen(body) : 0;

	epds_exact_check_write(request.method, path_of(url));
	epds_lock_wait(EPDS_LOCK_CALL, 0, patience_ms);
	PG_TRY();
	{
		epds_http_fetch(&request, answer);
	}
	PG_CATCH();
	{
		epds_lock_release(EPDS_LOCK_CALL, 0);
		PG_RE_THROW();
	}
	PG_END_TRY();
	epds_lock_release(EPDS_LOCK_CALL, 0);
}

static void
get_once(const char *access_token, const char *url, int patience_ms,
		 EpdsHttpAnswer *answer)
{
	single_call(access_token, "GET", url, NULL, patience_ms, answer);
}

/*
 * After a 401 that does not speak of age: is it this division's or feed's
 * rights, or is the token worth nothing because the consent was withdrawn?
 * Who may do nothing else may still ask who he is.  Outside a block only.
 */
static bool
token_is_known(int division, const char *token, bool importing, bool *said)
{
	static const char *const path = "/api/v1/current/Me?$select=UserID";
	EpdsHttpAnswer answer;
	size_t		replaced;
	char	   *base_url = book_call(division, "me", importing, said);
	AnswerKind	kind;

	get_once(token, whole_url(base_url, path), CALL_PATIENCE_MS, &answer);
	kind = look_at(&answer, &replaced);
	epds_tx_begin();
	settle(division, "me", path, &answer, kind_text(kind), answer.error);
	epds_tx_commit();
	return answer.status != 401;
}

/*
 * One call under all limits; see exact_internal.h.  Everything but a page is
 * settled here.  Outside a block only; throws when no token may be used, when
 * a limit ends too late, and on interrupts.
 */
EpdsExactVerdict
epds_exact_read(int division, const char *feed, const char *path_or_url,
				bool importing, EpdsHttpAnswer *answer, size_t *replaced)
{
	bool		said = false;
	bool		rejected = false;
	int			repeats = 0;
	int			limits = 0;

	for (;;)
	{
		char	   *token = epds_oauth_token(rejected);
		char	   *base_url = book_call(division, feed, importing, &said);
		AnswerKind	kind;
		int64		wait_ms;

		get_once(token, whole_url(base_url, path_or_url), CALL_PATIENCE_MS,
				 answer);
		kind = look_at(answer, replaced);
		if (kind == ANSWER_PAGE)
			return EPDS_EXACT_PAGE;

		if (kind == ANSWER_EXPIRED && rejected)
			kind = ANSWER_REFUSED;	/* with a new token too: no right */
		epds_tx_begin();
		settle(division, feed, path_or_url, answer, kind_text(kind),
			   answer->error);
		epds_tx_commit();
		if (kind == ANSWER_REFUSED && answer->status == 401 && !rejected &&
			!token_is_known(division, token, importing, &said))
			kind = ANSWER_EXPIRED;

		switch (kind)
		{
			case ANSWER_PAGE:
			case ANSWER_REFUSED:
				/* 500 can be a refusal or an accident: ask once more */
				if (answer->status != 500 || ++repeats > 1)
					return EPDS_EXACT_REFUSED;
				epds_pause(FIRST_PAUSE_MS);
				break;
			case ANSWER_FAILED:
				return EPDS_EXACT_FAILED;
			case ANSWER_EXPIRED:
				rejected = true;
				break;
			case ANSWER_LIMITED:
				/* the next booking waits for what the headers said */
				wait_ms = retry_after_ms(answer);
				if (wait_ms > LONGEST_WAIT_MS || ++limits > MAX_LIMIT_WAITS)
					throw_limited(division, answer, Max(wait_ms, LONGEST_WAIT_MS));
				notice_wait(&said, wait_ms);
				epds_pause(wait_ms);
				break;
			case ANSWER_TRANSIENT:
				if (++repeats > MAX_REPEATS)
					return EPDS_EXACT_FAILED;
				/* 1 and 2 seconds, each up to half longer */
				wait_ms = FIRST_PAUSE_MS * repeats;
				wait_ms += pg_prng_uint64_range(&pg_global_prng_state, 0,
												wait_ms / 2);
				epds_pause(wait_ms);
				break;
		}
	}
}

/*
 * What an answer to a write is: 200, 201 and 204 are good, whatever they hold.
 */
static AnswerKind
look_at_write(EpdsHttpAnswer *answer)
{
	size_t		replaced;

	if (answer->result == EPDS_HTTP_OK && answer->status >= 200 && answer->status <= 204)
		return ANSWER_PAGE;
	return look_at(answer, &replaced);
}

/* See exact.h. */
bool
epds_exact_write(int division, const char *what, const char *method,
				 const char *path, const char *body, EpdsHttpAnswer *answer)
{
	bool		said = false;

	for (bool rejected = false;; rejected = true)
	{
		char	   *token = epds_oauth_token(rejected);
		char	   *base_url = book_call(division, what, false, &said);
		AnswerKind	kind;

		single_call(token, method, whole_url(base_url, path), body,
				  CALL_PATIENCE_MS, answer);
		kind = look_at_write(answer);
		epds_tx_begin();
		settle_call(division, what, method, path, answer, kind_text(kind),
					kind == ANSWER_PAGE ? NULL : answer->error);
		epds_tx_commit();
		if (kind != ANSWER_EXPIRED || rejected)
			return kind == ANSWER_PAGE;
	}
}

void
epds_exact_get(int division, const char *feed, const char *path_or_url,
			   bool importing, EpdsHttpAnswer *answer)
{
	size_t		replaced;

	if (epds_exact_read(division, feed, path_or_url, importing, answer,
						&replaced) != EPDS_EXACT_PAGE)
		return;
	epds_tx_begin();
	epds_exact_settle(division, feed, path_or_url, answer, NULL);
	epds_tx_commit();
}

void
epds_exact_probe(const char *access_token, const char *base_url,
				 const char *path, EpdsHttpAnswer *answer)
{
	size_t		replaced;

	get_once(access_token, whole_url(base_url, path), PROBE_PATIENCE_MS,
			 answer);
	(void) look_at(answer, &replaced);
}
