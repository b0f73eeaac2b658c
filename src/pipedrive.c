/*-------------------------------------------------------------------------
 *
 * pipedrive.c
 *		The Pipedrive client: how a call is made, how its outcome is told.
 *
 * Which calls are made is decided in SQL, what an answer means in
 * pipedrive_classify.c.  Here is what lies between: the account, the headers,
 * and the JSON by which an outcome travels back into SQL.
 *
 * That JSON is written by hand instead of by cJSON: ids stay the integers they
 * are, and two thousand of these are written a second.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/pipedrive.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <cjson/cJSON.h>

#include "lib/stringinfo.h"
#include "utils/json.h"

#include "credentials.h"
#include "pipedrive.h"
#include "pipedrive_classify.h"
#include "tx.h"

/*
 * The most bytes that the answer to a write may have; lists have more.  The
 * longest are a hundred lines (a hundred kilobytes) and the options of a field
 * (ten thousand labels).  As many of these as there are connections may be in
 * memory at once, so a server that never ends is cut off early.
 */
#define WRITE_ANSWER_MOST ((size_t) 4 * 1024 * 1024)

/*
 * The same of a list: five hundred records with hundreds of custom fields have
 * some 10 MB.  Answers are looked at as trees, and as a tree a text of many
 * small values takes forty times its length.
 */
#define READ_ANSWER_MOST ((size_t) 16 * 1024 * 1024)

/*
 * epds_outcome_name
 *		The word SQL knows an outcome by.  A constant.
 */
const char *
epds_outcome_name(EpdsOutcome outcome)
{
	switch (outcome)
	{
		case EPDS_OUTCOME_OK:
			return "ok";
		case EPDS_OUTCOME_BURST:
			return "burst";
		case EPDS_OUTCOME_DAILY:
			return "daily";
		case EPDS_OUTCOME_RETRY:
			return "retry";
		case EPDS_OUTCOME_UNKNOWN:
			return "unknown";
		case EPDS_OUTCOME_PERMANENT:
			return "permanent";
		case EPDS_OUTCOME_GONE:
			return "gone";
		case EPDS_OUTCOME_CAPACITY:
			return "capacity";
		case EPDS_OUTCOME_AUTH:
			return "auth";
		case EPDS_OUTCOME_BLOCKED:
			return "blocked";
	}
	elog(ERROR, "unrecognized outcome: %d", (int) outcome);
	return NULL;				/* keep compiler quiet */
}

/*
 * epds_pipedrive_account
 *		Read host and token; false when one of them is missing.
 *
 * Whether setup_pipedrive() has been through is not asked here: setup itself
 * needs the account, and for delivery the gate knows.
 *
 * Needs an open block.  The strings belong to the context that was current
 * when the block was opened.
 */
bool
epds_pipedrive_account(EpdsPipedrive *to)
{
	char	   *base_url;
	char	   *token;
	size_t		len;

	to->base_url = NULL;
	to->token_header = NULL;

	if (epds_sql("SELECT base_url FROM exact_pd_sync._pipedrive_account()",
				 0, NULL) != 1)
		return false;
	base_url = epds_sql_value(0, 0);
	if (base_url == NULL)
		return false;
	token = epds_credential_get("pipedrive_api_token");
	if (token == NULL || token[0] == '\0')
		return false;

	/* A line end in it would let a token write headers of its own. */
	if (strpbrk(token, "\r\n") != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the API token of the Pipedrive account contains a line break"),
				 errhint("Set it again with exact_pd_sync.set_pipedrive_account().")));

	len = strlen(base_url);
	while (len > 0 && base_url[len - 1] == '/')
		base_url[--len] = '\0';
	to->base_url = base_url;
	to->token_header = psprintf("x-api-token: %s", token);
	return true;
}

/*
 * epds_pipedrive_same
 *		Do two accounts have the same host and token?
 */
bool
epds_pipedrive_same(const EpdsPipedrive *a, const EpdsPipedrive *b)
{
	if (a->base_url == NULL || b->base_url == NULL)
		return a->base_url == b->base_url;
	return strcmp(a->base_url, b->base_url) == 0 &&
		strcmp(a->token_header, b->token_header) == 0;
}

/*
 * make_request
 *		The request of a call.  headers has room for four; the URL is palloc'd.
 */
static void
make_request(const EpdsPipedrive *account, const char *method,
			 const char *path, const char *body, uint64 tag,
			 const char **headers, EpdsHttpRequest *request)
{
	const char *refusal = pipedrive_path_refusal(path);
	int			n = 0;

	if (refusal != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("cannot make a call to Pipedrive: %s", refusal),
				 errdetail_internal("%s %s", method, epds_redact(path))));

	headers[n++] = account->token_header;
	headers[n++] = "Accept: application/json";
	if (body != NULL)
		headers[n++] = "Content-Type: application/json";
	headers[n] = NULL;

	memset(request, 0, sizeof(*request));
	request->method = method;
	request->url = psprintf("%s%s", account->base_url, path);
	request->headers = headers;
	request->body = body;
	request->body_len = body ? strlen(body) : 0;
	request->max_answer = strcmp(method, "GET") == 0 ? READ_ANSWER_MOST :
		WRITE_ANSWER_MOST;
	request->tag = tag;
}

/*
 * epds_pipedrive_send
 *		Hand a call over to a mux; its answer comes back with the tag.
 */
void
epds_pipedrive_send(const EpdsPipedrive *account, EpdsMux *mux,
					const char *method, const char *path, const char *body,
					uint64 tag)
{
	const char *headers[4];
	EpdsHttpRequest request;

	make_request(account, method, path, body, tag, headers, &request);
	epds_mux_add(mux, &request);
	pfree(unconstify(char *, request.url));
}

/*
 * epds_pipedrive_fetch
 *		One call, start to end.  Outside a block; waits, can be cancelled.
 */
void
epds_pipedrive_fetch(const EpdsPipedrive *account, const char *method,
					 const char *path, const char *body,
					 EpdsHttpAnswer *answer)
{
	const char *headers[4];
	EpdsHttpRequest request;

	make_request(account, method, path, body, 0, headers, &request);
	epds_http_fetch(&request, answer);
}

/*
 * append_integers
 *		,"name":[1,2,3] - nothing when there are none.
 */
static void
append_integers(StringInfo to, const char *name, const int64 *values, int n)
{
	int			i;

	if (n == 0)
		return;
	appendStringInfo(to, ",\"%s\":[", name);
	for (i = 0; i < n; i++)
		appendStringInfo(to, i == 0 ? INT64_FORMAT : "," INT64_FORMAT,
						 values[i]);
	appendStringInfoChar(to, ']');
}

/*
 * append_numbers
 *		,"name":[1.5,2] - as many digits as a double holds.
 */
static void
append_numbers(StringInfo to, const char *name, const double *values, int n)
{
	int			i;

	appendStringInfo(to, ",\"%s\":[", name);
	for (i = 0; i < n; i++)
		appendStringInfo(to, i == 0 ? "%.15g" : ",%.15g", values[i]);
	appendStringInfoChar(to, ']');
}

/*
 * append_text
 *		,"name":"value" - nothing when the value is empty.
 */
static void
append_text(StringInfo to, const char *name, const char *value)
{
	if (value[0] == '\0')
		return;
	appendStringInfo(to, ",\"%s\":", name);
	escape_json(to, value);
}

/*
 * append_option
 *		One option as "label":id; its id may be a number or a text of digits.
 */
static void
append_option(StringInfo to, const cJSON *option, bool *first)
{
	const cJSON *label = cJSON_GetObjectItemCaseSensitive(option, "label");
	const cJSON *id = cJSON_GetObjectItemCaseSensitive(option, "id");
	int64		number;

	if (!cJSON_IsString(label))
		return;
	if (cJSON_IsNumber(id) && id->valuedouble >= 0 &&
		id->valuedouble < 9007199254740992.0)
		number = (int64) id->valuedouble;
	else if (cJSON_IsString(id) && id->valuestring[0] != '\0' &&
			 strlen(id->valuestring) < 16 &&
			 strspn(id->valuestring, "0123456789") == strlen(id->valuestring))
		number = atoll(id->valuestring);
	else
		return;

	appendStringInfoString(to, *first ? ",\"labels\":{" : ",");
	*first = false;
	escape_json(to, label->valuestring);
	appendStringInfo(to, ":" INT64_FORMAT, number);
}

/*
 * append_labels
 *		,"labels":{…} of an answer about the options of a field: an array of
 *		options, or a field that carries them.
 */
static void
append_labels(StringInfo to, const EpdsHttpAnswer *answer)
{
	cJSON	   *tree = cJSON_ParseWithLengthOpts(answer->body,
												 answer->body_len + 1,
												 NULL, true);

	PG_TRY();
	{
		const cJSON *data = cJSON_GetObjectItemCaseSensitive(tree, "data");
		const cJSON *options = cJSON_GetObjectItemCaseSensitive(data,
																"options");
		const cJSON *option;
		bool		first = true;

		if (cJSON_IsArray(data))
			options = data;
		cJSON_ArrayForEach(option, options)
			append_option(to, option, &first);
		if (!first)
			appendStringInfoChar(to, '}');
	}
	PG_FINALLY();
	{
		cJSON_Delete(tree);
	}
	PG_END_TRY();
}

/*
 * epds_pipedrive_result
 *		Append what became of a call as one JSON object.
 *
 * The server's words may quote what we sent, so secrets are masked in them.
 */
void
epds_pipedrive_result(StringInfo to, int64 call_id, const char *path,
					  const PipedriveVerdict *verdict,
					  const EpdsHttpAnswer *answer, bool probe)
{
	appendStringInfo(to, "{\"call\":" INT64_FORMAT
					 ",\"outcome\":\"%s\",\"status\":%d,\"ms\":%d",
					 call_id, epds_outcome_name(verdict->outcome),
					 answer->status, answer->total_ms);
	append_integers(to, "ids", verdict->ids, verdict->nids);
	append_integers(to, "products", verdict->products, verdict->nproducts);
	if (verdict->nvalued > 0 && verdict->nvalued == verdict->nproducts)
	{
		append_numbers(to, "quantities", verdict->quantities, verdict->nvalued);
		append_numbers(to, "prices", verdict->prices, verdict->nvalued);
	}
	append_text(to, "key", verdict->key);
	append_text(to, "request_id", verdict->request_id);

	if (verdict->outcome != EPDS_OUTCOME_OK)
	{
		char	   *error = epds_redact(verdict->error);

		append_text(to, "error", error);
		pfree(error);
	}
	else if (strstr(path, "Fields/") != NULL)
		append_labels(to, answer);

	if (verdict->wait_ms >= 0)
		appendStringInfo(to, ",\"wait_ms\":" INT64_FORMAT, verdict->wait_ms);
	if (probe)
		appendStringInfoString(to, ",\"probe\":true");
	appendStringInfoChar(to, '}');
}

/*
 * epds_pipedrive_not_sent
 *		Append that a call was announced but never left.
 */
void
epds_pipedrive_not_sent(StringInfo to, int64 call_id)
{
	appendStringInfo(to, "{\"call\":" INT64_FORMAT
					 ",\"outcome\":\"not_sent\",\"status\":0}", call_id);
}
