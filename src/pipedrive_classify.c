/*-------------------------------------------------------------------------
 *
 * pipedrive_classify.c
 *		What an answer of Pipedrive means for the one who called.
 *
 * One answer in, one verdict out.  The rules follow from one question: may the
 * call have been executed?  A POST that may have been is UNKNOWN, and somebody
 * looks before anything is repeated; there is no idempotency key.  Everything
 * else can be repeated without harm.  Where the documentation is silent the
 * rule chosen is the one that does less damage when it is wrong: an answer
 * that cannot be read is never "ok", and trouble that concerns the account or
 * the host (401, 402, a redirect, a block page) never condemns a record.
 *
 * Pure: no palloc, no ereport, no server state; safe to run on any bytes.  A
 * cJSON tree lives only inside one function here, between whose parse and
 * delete nothing can throw.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/pipedrive_classify.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "pipedrive_classify.h"

/* Burst window of the service, and the shortest wait after a 429. */
#define BURST_WINDOW_MS 2000

/*
 * A 429 that asks for more than this is not about the 2-second window.  An
 * x-ratelimit-reset above it is not a number of seconds but something else.
 */
#define BURST_MAX_WAIT_S 60

/*
 * A 429 page that is not JSON comes from the gateway in front of the service,
 * one step before the block; be gone for a while.
 */
#define GATEWAY_WAIT_MS 60000

/*
 * The longest silence that a failing server may ask for.  It is a request of
 * the whole host, and a slip of the pen must not cost a day.
 */
#define RETRY_AFTER_MOST_S 3600

/* Longer than any list of a hundred ids; half of what http_url.c lets pass. */
#define LONGEST_PATH 8192

/* Integers a double carries exactly. */
#define MAX_SAFE_INTEGER 9007199254740991.0

/*
 * copy_clipped
 *		Copy text into a buffer; cut at a UTF-8 boundary, newlines become
 *		blanks, so that it is one line in every log.
 */
static void
copy_clipped(char *dst, size_t size, const char *src)
{
	size_t		len = strlen(src);
	size_t		i;

	if (len >= size)
	{
		len = size - 1;
		/* Not in the middle of a character: step back over its tail. */
		while (len > 0 && ((unsigned char) src[len] & 0xC0) == 0x80)
			len--;
	}
	for (i = 0; i < len; i++)
		dst[i] = (unsigned char) src[i] < ' ' ? ' ' : src[i];
	dst[len] = '\0';
}

/*
 * append_clipped
 *		The same at the end of what is in the buffer.
 */
static void
append_clipped(char *dst, size_t size, const char *src)
{
	size_t		used = strlen(dst);

	copy_clipped(dst + used, size - used, src);
}

/*
 * item_integer
 *		A JSON number as a positive integer that a double holds exactly.
 *		False for anything else.
 */
static bool
item_integer(const cJSON *item, int64 *value)
{
	double		number;

	if (!cJSON_IsNumber(item))
		return false;
	number = item->valuedouble;
	if (!(number >= 1.0 && number <= MAX_SAFE_INTEGER))
		return false;
	*value = (int64) number;
	return (double) *value == number;
}

/*
 * header_number
 *		A header's value as a whole number, -1 when it is absent or none.
 */
static int64
header_number(const cJSON *headers, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(headers, name);
	const char *content;
	int64		value = 0;
	int			digits = 0;

	if (!cJSON_IsString(item))
		return -1;
	content = item->valuestring;
	while (*content == ' ')
		content++;
	/* 15 digits: far above any limit, far below overflow */
	for (; isdigit((unsigned char) *content) && digits < 15; content++, digits++)
		value = value * 10 + (*content - '0');
	if (digits == 0)
		return -1;
	/* "1.5" seconds: the next whole one is safe */
	if (*content == '.')
		return value + 1;
	return (*content == '\0' || *content == ' ') ? value : -1;
}

/*
 * header_date
 *		The Date header as seconds since 1970, -1 when there is none or it is
 *		not of the one form that servers must send (RFC 9110).
 */
static int64
header_date(const cJSON *headers)
{
	static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(headers, "date");
	char		month[4];
	const char *place;
	int			day,
				year,
				hour,
				minute,
				second;
	int64		days;
	int			mon;

	if (!cJSON_IsString(item) ||
		sscanf(item->valuestring, "%*3[A-Za-z], %2d %3[A-Za-z] %4d %2d:%2d:%2d GMT",
			   &day, month, &year, &hour, &minute, &second) != 6 ||
		strlen(month) != 3 || (place = strstr(months, month)) == NULL ||
		(place - months) % 3 != 0 || day < 1 || day > 31 || year < 1970 ||
		hour < 0 || hour > 23 || minute < 0 || minute > 59 ||
		second < 0 || second > 60)
		return -1;

	/* days since 1970, a year counted from March so that leap days end it */
	mon = (int) (place - months) / 3 + 1;
	if (mon <= 2)
		year--;
	days = 365LL * year + year / 4 - year / 100 + year / 400 +
		(153 * (mon > 2 ? mon - 3 : mon + 9) + 2) / 5 + day - 1 - 719468;
	return ((days * 24 + hour) * 60 + minute) * 60 + second;
}

/*
 * parse
 *		A complete JSON text as a tree, NULL if it is none.  The caller owns
 *		the tree and must not throw before deleting it.
 */
static cJSON *
parse(const char *content, size_t len)
{
	/* the terminating zero counts, or the end is not checked */
	return cJSON_ParseWithLengthOpts(content, len + 1, NULL, true);
}

/*
 * pipedrive_read_limits
 *		Read the limits and the request id from an answer's headers (one JSON
 *		object as text; NULL is allowed).
 */
void
pipedrive_read_limits(const char *headers, PipedriveLimits *limits,
					  char *request_id, size_t request_id_size)
{
	cJSON	   *tree = headers ? parse(headers, strlen(headers)) : NULL;
	const cJSON *id = cJSON_GetObjectItemCaseSensitive(tree,
													   "x-correlation-id");

	limits->burst_limit = header_number(tree, "x-ratelimit-limit");
	limits->burst_remaining = header_number(tree, "x-ratelimit-remaining");
	limits->burst_reset_s = header_number(tree, "x-ratelimit-reset");
	limits->daily_limit = header_number(tree,
										"x-daily-ratelimit-token-limit");
	limits->daily_remaining = header_number(tree,
											"x-daily-ratelimit-token-remaining");
	limits->retry_after_s = header_number(tree, "retry-after");
	limits->server_time = header_date(tree);

	request_id[0] = '\0';
	if (cJSON_IsString(id))
		copy_clipped(request_id, request_id_size, id->valuestring);

	cJSON_Delete(tree);
}

/*
 * pipedrive_path_names_record
 *		Does a path name one record (a segment of digits), so that 404 means
 *		that record and not the path?
 */
bool
pipedrive_path_names_record(const char *path)
{
	const char *p = path;

	while (*p != '\0' && *p != '?')
	{
		const char *start;
		bool		digits = true;

		if (*p == '/')
			p++;
		start = p;
		while (*p != '\0' && *p != '/' && *p != '?')
		{
			if (!isdigit((unsigned char) *p))
				digits = false;
			p++;
		}
		if (digits && p > start)
			return true;
	}
	return false;
}

/*
 * pipedrive_path_refusal
 *		May this be the path of a call?  NULL when it may, else the reason.
 *
 * Parts of a path come from the service: the key of a discount, a cursor.  One
 * that cannot stand in a URL must be the trouble of its own record.  Dots as a
 * segment would lead a DELETE to another record.
 */
const char *
pipedrive_path_refusal(const char *path)
{
	const char *p;

	/* "@other.host/" behind our host would be another host */
	if (path[0] != '/')
		return "the path of the call does not begin with a slash";
	for (p = path; *p != '\0'; p++)
	{
		if ((unsigned char) *p <= ' ' || (unsigned char) *p >= 0x7F ||
			*p == '\\' || *p == '#')
			return "the path of the call contains a character that cannot stand in one";
	}
	if (p - path > LONGEST_PATH)
		return "the path of the call is too long";
	if (strstr(path, "/..") != NULL || strstr(path, "/./") != NULL)
		return "the path of the call contains dots that lead elsewhere";
	return NULL;
}

/*
 * describe_refusal
 *		The server's reason as one line: error, code, the list of errors.
 */
static void
describe_refusal(const cJSON *tree, int status, char *dst, size_t size)
{
	const cJSON *error = cJSON_GetObjectItemCaseSensitive(tree, "error");
	const cJSON *message = cJSON_GetObjectItemCaseSensitive(tree, "message");
	const cJSON *errors = cJSON_GetObjectItemCaseSensitive(tree, "errors");
	const cJSON *code = cJSON_GetObjectItemCaseSensitive(tree, "code");
	const cJSON *info = cJSON_GetObjectItemCaseSensitive(tree, "error_info");
	char		number[40];

	dst[0] = '\0';
	if (cJSON_IsString(error) && error->valuestring[0] != '\0')
		append_clipped(dst, size, error->valuestring);
	else if (cJSON_IsString(message) && message->valuestring[0] != '\0')
		append_clipped(dst, size, message->valuestring);
	else if (cJSON_IsObject(errors) || cJSON_IsArray(errors))
	{
		char	   *printed = cJSON_PrintUnformatted(errors);

		if (printed != NULL)
			append_clipped(dst, size, printed);
		cJSON_free(printed);
	}
	else if (cJSON_IsString(info))
		append_clipped(dst, size, info->valuestring);

	if (dst[0] == '\0')
	{
		snprintf(number, sizeof(number), "HTTP status %d", status);
		append_clipped(dst, size, number);
	}
	if (cJSON_IsString(code) && code->valuestring[0] != '\0')
	{
		append_clipped(dst, size, " (");
		append_clipped(dst, size, code->valuestring);
		append_clipped(dst, size, ")");
	}
}

/*
 * is_capacity
 *		Does a 403 speak of the plan's limit of records?
 */
static bool
is_capacity(const cJSON *tree)
{
	const cJSON *code = cJSON_GetObjectItemCaseSensitive(tree, "code");

	return cJSON_IsString(code) &&
		(strstr(code->valuestring, "capping") != NULL ||
		 strstr(code->valuestring, "limit") != NULL);
}

/*
 * take_line_values
 *		Count a line whose product was noted, with its quantity and price if it
 *		tells both: lines of the same product are told apart by these.
 */
static void
take_line_values(const cJSON *record, PipedriveVerdict *verdict)
{
	const cJSON *quantity = cJSON_GetObjectItemCaseSensitive(record,
															 "quantity");
	const cJSON *price = cJSON_GetObjectItemCaseSensitive(record,
														  "item_price");

	verdict->nproducts++;
	/* 1e400 is a number, too, and would be "inf" in what SQL is told */
	if (!cJSON_IsNumber(quantity) || !cJSON_IsNumber(price) ||
		!isfinite(quantity->valuedouble) || !isfinite(price->valuedouble))
		return;
	verdict->quantities[verdict->nvalued] = quantity->valuedouble;
	verdict->prices[verdict->nvalued] = price->valuedouble;
	verdict->nvalued++;
}

/*
 * take_record
 *		Note id and product_id of one record.  False when it has no id that can
 *		be relied on, or when there are more records than there is room.
 */
static bool
take_record(const cJSON *record, PipedriveVerdict *verdict)
{
	const cJSON *id = cJSON_GetObjectItemCaseSensitive(record, "id");
	const cJSON *product = cJSON_GetObjectItemCaseSensitive(record,
															"product_id");

	/* An option of a built-in field may have a text for an id: not a record. */
	if (cJSON_IsString(id) &&
		cJSON_IsString(cJSON_GetObjectItemCaseSensitive(record, "label")))
		return true;

	if (verdict->nids >= PIPEDRIVE_MAX_IDS ||
		!item_integer(id, &verdict->ids[verdict->nids]))
		return false;
	verdict->nids++;

	if (item_integer(product, &verdict->products[verdict->nproducts]))
		take_line_values(record, verdict);
	return true;
}

/*
 * take_data
 *		Note the ids of an answer's data: one record, an array of records, or
 *		{"ids": […]} of a bulk delete.  False when one of them cannot be read.
 */
static bool
take_data(const cJSON *data, PipedriveVerdict *verdict)
{
	const cJSON *ids = cJSON_GetObjectItemCaseSensitive(data, "ids");
	const cJSON *id = cJSON_GetObjectItemCaseSensitive(data, "id");
	const cJSON *item;

	if (cJSON_IsArray(data))
	{
		cJSON_ArrayForEach(item, data)
		{
			if (!take_record(item, verdict))
				return false;
		}
		return true;
	}
	if (cJSON_IsArray(ids))
	{
		cJSON_ArrayForEach(item, ids)
		{
			if (verdict->nids >= PIPEDRIVE_MAX_IDS ||
				!item_integer(item, &verdict->ids[verdict->nids]))
				return false;
			verdict->nids++;
		}
		return true;
	}
	if (cJSON_IsString(id))
	{
		/* a key cut short would be a wrong key */
		if (id->valuestring[0] == '\0' ||
			strlen(id->valuestring) >= sizeof(verdict->key))
			return false;
		copy_clipped(verdict->key, sizeof(verdict->key), id->valuestring);
		return true;
	}
	return take_record(data, verdict);
}

/*
 * set_verdict
 *		Outcome and reason, unless the reason was given already.
 */
static void
set_verdict(PipedriveVerdict *verdict, EpdsOutcome outcome, const char *error)
{
	verdict->outcome = outcome;
	if (error != NULL && verdict->error[0] == '\0')
		copy_clipped(verdict->error, sizeof(verdict->error), error);
	if (outcome != EPDS_OUTCOME_OK)
	{
		/* half-read ids must not be taken for an answer */
		verdict->nids = 0;
		verdict->nproducts = 0;
		verdict->nvalued = 0;
		verdict->key[0] = '\0';
	}
}

/*
 * may_have_run
 *		The outcome of a call that may have been executed.
 */
static EpdsOutcome
may_have_run(const PipedriveQuestion *question)
{
	return strcmp(question->method, "POST") == 0 ?
		EPDS_OUTCOME_UNKNOWN : EPDS_OUTCOME_RETRY;
}

/*
 * classify_429
 *		Which of the two limits was it, and how long to be quiet.
 *
 * Both answer 429 with the same body.  In this order: the daily figure says
 * it; the burst figures say it; a 429 after more than a full window without
 * any success in between cannot be the window.
 */
static void
classify_429(const PipedriveQuestion *question, bool is_json,
			 PipedriveVerdict *verdict)
{
	const PipedriveLimits *limits = &verdict->limits;
	int64		wait_s = Max(limits->retry_after_s, 0);
	bool		says_burst = limits->burst_remaining == 0 ||
		(limits->retry_after_s >= 0 &&
		 limits->retry_after_s <= BURST_MAX_WAIT_S);

	if ((limits->daily_remaining >= 0 &&
		 limits->daily_remaining < question->tokens) ||
		limits->retry_after_s > BURST_MAX_WAIT_S ||
		(!says_burst && question->since_429_ms > BURST_WINDOW_MS))
	{
		set_verdict(verdict, EPDS_OUTCOME_DAILY, NULL);
		verdict->wait_ms = limits->retry_after_s > BURST_MAX_WAIT_S ?
			limits->retry_after_s * 1000 : -1;
		return;
	}

	if (limits->burst_reset_s > 0 && limits->burst_reset_s <= BURST_MAX_WAIT_S)
		wait_s = Max(wait_s, limits->burst_reset_s);
	set_verdict(verdict, EPDS_OUTCOME_BURST, NULL);
	verdict->wait_ms = Max(wait_s * 1000, BURST_WINDOW_MS);
	if (!is_json)
		verdict->wait_ms = Max(verdict->wait_ms, GATEWAY_WAIT_MS);
}

/*
 * classify_success
 *		A 2xx answer: done, if it can be read.
 */
static void
classify_success(const PipedriveQuestion *question, int status,
				 const cJSON *tree, PipedriveVerdict *verdict)
{
	const cJSON *success = cJSON_GetObjectItemCaseSensitive(tree, "success");
	const cJSON *data = cJSON_GetObjectItemCaseSensitive(tree, "data");
	bool		is_post = strcmp(question->method, "POST") == 0;

	if (status == 204 && (strcmp(question->method, "PATCH") == 0 ||
						  strcmp(question->method, "DELETE") == 0))
	{
		/* done, and there is nothing to say about it */
		set_verdict(verdict, EPDS_OUTCOME_OK, NULL);
		return;
	}
	if (!cJSON_IsObject(tree))
	{
		set_verdict(verdict, may_have_run(question),
					"the answer is not a JSON object");
		return;
	}
	if (cJSON_IsFalse(success))
	{
		describe_refusal(tree, 200, verdict->error, sizeof(verdict->error));
		set_verdict(verdict, EPDS_OUTCOME_PERMANENT, NULL);
		return;
	}
	if (!take_data(data, verdict) && is_post)
	{
		/* It was made, but we do not know what: somebody has to look. */
		set_verdict(verdict, EPDS_OUTCOME_UNKNOWN,
					"the answer carries no usable id");
		return;
	}
	set_verdict(verdict, EPDS_OUTCOME_OK, NULL);
	verdict->error[0] = '\0';
}

/*
 * classify_403
 *		Permission, plan limit, or the block page of the gateway.
 */
static void
classify_403(const cJSON *tree, PipedriveVerdict *verdict)
{
	if (!cJSON_IsObject(tree))
		set_verdict(verdict, EPDS_OUTCOME_BLOCKED,
					"blocked by the gateway in front of Pipedrive "
					"(403 without JSON)");
	else if (strstr(verdict->error, "Scope and URL mismatch") != NULL)
	{
		/* the token may not do this at all: the next record fares no better */
		set_verdict(verdict, EPDS_OUTCOME_AUTH, NULL);
	}
	else
		set_verdict(verdict, is_capacity(tree) ?
					EPDS_OUTCOME_CAPACITY : EPDS_OUTCOME_PERMANENT, NULL);
}

/*
 * classify_status
 *		An answer with a status.  tree is its body, NULL if that is no JSON.
 */
static void
classify_status(const PipedriveQuestion *question, int status,
				const cJSON *tree, PipedriveVerdict *verdict)
{
	if (status >= 200 && status < 300)
	{
		classify_success(question, status, tree, verdict);
		return;
	}

	if (cJSON_IsObject(tree))
		describe_refusal(tree, status, verdict->error, sizeof(verdict->error));
	else if (status != 403)
		snprintf(verdict->error, sizeof(verdict->error),
				 "HTTP status %d without a JSON body", status);

	if (status == 401 || status == 402)
		set_verdict(verdict, EPDS_OUTCOME_AUTH, NULL);
	else if (status == 403)
		classify_403(tree, verdict);
	else if (status == 404 || status == 410)
	{
		/*
		 * Without JSON it is the web application in front of the service, or
		 * another host under its name: no record is to blame, and nothing was
		 * made.
		 */
		if (!cJSON_IsObject(tree))
			set_verdict(verdict, EPDS_OUTCOME_RETRY, NULL);
		else
			set_verdict(verdict, pipedrive_path_names_record(question->path) ?
						EPDS_OUTCOME_GONE : EPDS_OUTCOME_PERMANENT, NULL);
	}
	else if (status == 408)
		set_verdict(verdict, may_have_run(question), NULL);
	else if (status == 425)
		set_verdict(verdict, EPDS_OUTCOME_RETRY, NULL);
	else if (status == 429)
		classify_429(question, cJSON_IsObject(tree), verdict);
	else if (status >= 400 && status < 500)
		set_verdict(verdict, EPDS_OUTCOME_PERMANENT, NULL);
	else if (status >= 300 && status < 400)
	{
		/*
		 * Redirects are not followed: the account has another host now.  No
		 * record is to blame, and nothing works until a person mends it.
		 */
		set_verdict(verdict, EPDS_OUTCOME_AUTH, NULL);
	}
	else
		set_verdict(verdict, may_have_run(question), NULL);

	if (status >= 400 && verdict->limits.retry_after_s > 0 &&
		(verdict->outcome == EPDS_OUTCOME_RETRY ||
		 verdict->outcome == EPDS_OUTCOME_UNKNOWN))
		verdict->wait_ms = Min(verdict->limits.retry_after_s,
							   RETRY_AFTER_MOST_S) * 1000;
}

/*
 * pipedrive_classify
 *		Fill *verdict.  Never fails; allocates nothing that stays.
 */
void
pipedrive_classify(const PipedriveQuestion *question,
				   const EpdsHttpAnswer *answer, PipedriveVerdict *verdict)
{
	cJSON	   *tree = NULL;

	verdict->wait_ms = -1;
	verdict->nids = 0;
	verdict->nproducts = 0;
	verdict->nvalued = 0;
	verdict->key[0] = '\0';
	verdict->error[0] = '\0';
	pipedrive_read_limits(answer->headers, &verdict->limits,
						  verdict->request_id, sizeof(verdict->request_id));

	if (answer->result == EPDS_HTTP_NOT_SENT)
	{
		set_verdict(verdict, EPDS_OUTCOME_RETRY,
					answer->error ? answer->error : "not sent");
		return;
	}
	if (answer->result == EPDS_HTTP_UNKNOWN)
	{
		set_verdict(verdict, may_have_run(question),
					answer->error ? answer->error : "no complete answer");
		return;
	}
	if (answer->status == 0)
	{
		/*
		 * Refused by our own rules before it left, by reason of the host or
		 * the scheme: the configuration is at fault, not the record.
		 */
		set_verdict(verdict, EPDS_OUTCOME_AUTH,
					answer->error ? answer->error : "refused");
		return;
	}

	/*
	 * A body that our own rules refused (type, size) is not looked at, but the
	 * status counts: that is how the block page of a 403 arrives.
	 */
	if (answer->result == EPDS_HTTP_OK)
		tree = parse(answer->body, answer->body_len);
	classify_status(question, answer->status, tree, verdict);
	cJSON_Delete(tree);
}
