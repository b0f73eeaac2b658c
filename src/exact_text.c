/*-------------------------------------------------------------------------
 *
 * exact_text.c
 *		Small tools of the Exact room: remote texts, headers, pauses.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/exact_text.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "clock.h"
#include "exact_internal.h"

/* A parsed tree and the memory context it goes with. */
typedef struct HeldTree
{
	MemoryContextCallback callback;
	cJSON	   *tree;
} HeldTree;

/* Must accept "nothing to free": the callback is armed before the parser. */
static void
free_tree(void *arg)
{
	HeldTree   *held = arg;

	cJSON_Delete(held->tree);
	held->tree = NULL;
}

const cJSON *
epds_json_parse(const char *text, size_t len)
{
	HeldTree   *held = palloc0(sizeof(HeldTree));

	held->callback.func = free_tree;
	held->callback.arg = held;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &held->callback);

	/* the terminating NUL counts as part of the buffer */
	held->tree = cJSON_ParseWithLengthOpts(text, len + 1, NULL, true);
	return held->tree;
}

char *
epds_one_line(const char *text, int max_bytes)
{
	char	   *line = epds_redact(text);
	size_t		len = strlen(line);
	char	   *to = line;

	if (len > (size_t) max_bytes)
		line[pg_mbcliplen(line, len, max_bytes)] = '\0';

	/* white space of any length becomes one blank, none at the ends */
	for (const char *from = line; *from; from++)
	{
		unsigned char c = (unsigned char) *from;

		if (c > ' ' && c != 0x7F)
			*to++ = *from;
		else if (to > line && to[-1] != ' ')
			*to++ = ' ';
	}
	while (to > line && to[-1] == ' ')
		to--;
	*to = '\0';
	return line;
}

char *
epds_header_value(const EpdsHttpAnswer *answer, const char *name)
{
	const cJSON *json;
	const cJSON *item;

	if (answer->headers == NULL)
		return NULL;
	json = epds_json_parse(answer->headers, strlen(answer->headers));
	item = cJSON_GetObjectItemCaseSensitive(json, name);
	if (!cJSON_IsString(item))
		return NULL;
	return pstrdup(item->valuestring);
}

void
epds_pause(long milliseconds)
{
	int64		until = epds_clock_ms() + milliseconds;
	int64		left;

	while ((left = until - epds_clock_ms()) > 0)
		epds_http_sleep((long) left, PG_WAIT_EXTENSION);
}

void
epds_check_base_url(const char *base_url)
{
	const char *refusal;

	if (base_url == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the site of Exact Online is not configured"),
				 errhint("Run SELECT exact_pd_sync.set_exact_app(…) first.")));
	refusal = epds_url_refusal(base_url);
	if (refusal != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the configured address of Exact Online cannot be used: %s",
						refusal),
				 errhint("Correct base_url with SELECT exact_pd_sync.set_exact_app(…).")));
}
