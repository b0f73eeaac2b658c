/*-------------------------------------------------------------------------
 *
 * verify.c
 *		verify(): the live check of both services.
 *
 * SQL says what to look at (_verify_probes) and what the answers mean
 * (_verify_report); here the questions are asked, one after the other.  All of
 * them only read.
 *
 * verify() is a function, because its result is a table.  So it waits for the
 * network inside the transaction of its caller, which is why it refuses to run
 * in a transaction block, where it could hold back a vacuum for longer than its
 * own minute.  For the same reason it never rotates tokens (law 5): what it
 * writes could be rolled back.  It uses the token that is there, or asks the
 * intake worker for one.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/verify.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "exact_internal.h"
#include "instance.h"
#include "json_scan.h"
#include "pipedrive.h"
#include "tx.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(epds_verify);

/* How long the intake worker gets for a new token. */
#define TOKEN_PATIENCE_MS 10000
#define TOKEN_POLL_MS 200

/*
 * Pages of one probe.  The longest list is a year of orders, a thousand a page;
 * more would use up Exact's minute.
 */
#define MAX_PROBE_PAGES 40

/* Columns of the result. */
#define COLUMNS 4

#define BURST_WINDOW_MS 2000

typedef struct Probe
{
	char	   *name;
	bool		exact;			/* else Pipedrive */
	int			division;		/* 0: none */
	char	   *path;
	bool		follow;			/* read all pages */
} Probe;

/* What is needed to ask. */
typedef struct Access
{
	bool		instance_ok;
	char	   *exact_url;		/* NULL: not configured */
	char	   *exact_token;	/* NULL: none that can be used */
	bool		pipedrive_ready;
	EpdsPipedrive pipedrive;
	int			burst_limit;
} Access;

/* The probes and the access, in one block. */
static List *
prepare(Access *access)
{
	List	   *probes = NIL;
	int			n;

	memset(access, 0, sizeof(*access));
	epds_tx_begin();
	epds_sql("SELECT exact_pd_sync._instance_ok(), exact_pd_sync._burst_limit(),"
			 " (SELECT a.base_url FROM exact_pd_sync._exact_app() AS a)", 0, NULL);
	access->instance_ok = epds_sql_bool(0, 0, false);
	access->burst_limit = (int) epds_sql_int(0, 1, 0);
	access->exact_url = epds_sql_value(0, 2);

	n = epds_sql("SELECT p.probe, p.side, p.division, p.path, p.follow"
				 " FROM exact_pd_sync._verify_probes() AS p", 0, NULL);
	for (int i = 0; i < n; i++)
	{
		Probe	   *probe = palloc(sizeof(Probe));

		probe->name = epds_sql_value(i, 0);
		probe->exact = strcmp(epds_sql_value(i, 1), "exact") == 0;
		probe->division = (int) epds_sql_int(i, 2, 0);
		probe->path = epds_sql_value(i, 3);
		probe->follow = epds_sql_bool(i, 4, false);
		probes = lappend(probes, probe);
	}
	access->pipedrive_ready = access->instance_ok &&
		epds_pipedrive_account(&access->pipedrive);
	epds_tx_commit();
	return probes;
}

/* Is there a pair whose access token is only out of date? */
static bool
token_is_stale(void)
{
	bool		stale;

	epds_tx_begin();
	epds_sql("SELECT t.state = 'ok' FROM exact_pd_sync._token_state() AS t",
			 0, NULL);
	stale = epds_sql_bool(0, 0, false);
	epds_tx_commit();
	return stale;
}

/* The token at hand; when stale, the intake worker is asked for a new one. */
static char *
token_for_probes(void)
{
	char	   *token = epds_oauth_token_at_hand();

	if (token != NULL || !token_is_stale() ||
		epds_worker_pid(EPDS_WORKER_INTAKE) == 0)
		return token;
	epds_worker_wake(EPDS_WORKER_INTAKE);
	for (int waited = 0; token == NULL && waited < TOKEN_PATIENCE_MS;
		 waited += TOKEN_POLL_MS)
	{
		epds_pause(TOKEN_POLL_MS);
		token = epds_oauth_token_at_hand();
	}
	return token;
}

static const char *
result_text(EpdsHttpResult result)
{
	switch (result)
	{
		case EPDS_HTTP_OK:
			return "ok";
		case EPDS_HTTP_NOT_SENT:
			return "not_sent";
		case EPDS_HTTP_UNKNOWN:
			return "unknown";
		case EPDS_HTTP_REFUSED:
			return "refused";
	}
	return "unknown";
}

/* Why a probe cannot be made; NULL when it can. */
static const char *
obstacle(const Probe *probe, const Access *access)
{
	if (!access->instance_ok)
		return EPDS_NOT_THIS_INSTANCE;
	if (!probe->exact)
		return access->pipedrive_ready ? NULL : "the account is not configured";
	if (access->exact_url == NULL)
		return "the app is not configured";
	if (epds_url_refusal(access->exact_url) != NULL)
		return epds_url_refusal(access->exact_url);
	if (access->exact_token == NULL)
		return "there is no access token at hand, and verify() does not ask for a new one";
	return NULL;
}

/* Ask one page. */
static void
ask(const Probe *probe, const Access *access, const char *path,
	EpdsHttpAnswer *answer)
{
	int64		wait_us;

	if (probe->exact)
	{
		epds_exact_probe(access->exact_token, access->exact_url, path, answer);
		return;
	}
	while ((wait_us = epds_burst_reserve(access->burst_limit, BURST_WINDOW_MS,
										 1)) > 0)
		epds_pause((long) (wait_us / 1000) + 1);
	epds_pipedrive_fetch(&access->pipedrive, "GET", path, NULL, answer);
	(void) epds_json_scan(answer->body, answer->body_len);
}

/* Where Exact says that it goes on; NULL at the end or to another site. */
static char *
exact_next(const cJSON *json, const Access *access)
{
	const cJSON *d = cJSON_GetObjectItemCaseSensitive(json, "d");
	const cJSON *next = cJSON_GetObjectItemCaseSensitive(d, "__next");

	if (!cJSON_IsString(next) ||
		!epds_stays_on_site(next->valuestring, access->exact_url))
		return NULL;
	return pstrdup(next->valuestring);
}

/* Where Pipedrive says that it goes on: a cursor (v2) or an offset (v1). */
static char *
pipedrive_next(const cJSON *json, const Probe *probe)
{
	const cJSON *more = cJSON_GetObjectItemCaseSensitive(json, "additional_data");
	const cJSON *cursor = cJSON_GetObjectItemCaseSensitive(more, "next_cursor");
	const cJSON *paging = cJSON_GetObjectItemCaseSensitive(more, "pagination");
	const cJSON *start = cJSON_GetObjectItemCaseSensitive(paging, "next_start");
	char		joint = strchr(probe->path, '?') ? '&' : '?';
	StringInfoData parameter;

	if (cJSON_IsString(cursor) && cursor->valuestring[0] != '\0')
	{
		initStringInfo(&parameter);
		epds_append_form(&parameter, "cursor", cursor->valuestring);
		return psprintf("%s%c%s", probe->path, joint, parameter.data);
	}
	if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(paging, "more_items_in_collection")) &&
		cJSON_IsNumber(start) && start->valuedouble > 0 &&
		start->valuedouble < PG_INT32_MAX)
		return psprintf("%s%cstart=%d", probe->path, joint,
						(int) start->valuedouble);
	return NULL;
}

/* The next page of a probe after a good answer; NULL at the end. */
static char *
next_of(const Probe *probe, const Access *access, const EpdsHttpAnswer *answer)
{
	const cJSON *json;

	if (!probe->follow || answer->result != EPDS_HTTP_OK || answer->status != 200)
		return NULL;
	json = epds_json_parse(answer->body, answer->body_len);
	if (json == NULL)
		return NULL;
	return probe->exact ? exact_next(json, access) : pipedrive_next(json, probe);
}

/* Begin the JSON object of a probe. */
static void
append_name(StringInfo to, const Probe *probe)
{
	appendStringInfoString(to, to->len > 1 ? ",{\"probe\":" : "{\"probe\":");
	escape_json(to, probe->name);
	if (probe->division != 0)
		appendStringInfo(to, ",\"division\":%d", probe->division);
	else
		appendStringInfoString(to, ",\"division\":null");
}

/* Make a probe and append what came of it. */
static void
run_probe(StringInfo to, const Probe *probe, const Access *access)
{
	const char *why = obstacle(probe, access);
	EpdsHttpAnswer answer = {0};
	StringInfoData bodies;
	MemoryContext outer = CurrentMemoryContext;
	MemoryContext page_cxt[2];
	char	   *path = probe->path;
	int64		ms = 0;

	append_name(to, probe);
	if (why != NULL)
	{
		appendStringInfoString(to, ",\"status\":0,\"result\":\"not_sent\",\"error\":");
		escape_json(to, why);
		appendStringInfoString(to, ",\"headers\":{},\"ms\":0,\"bodies\":[]}");
		return;
	}

	for (int i = 0; i < 2; i++)
		page_cxt[i] = AllocSetContextCreate(outer, "exact_pd_sync probe",
											ALLOCSET_SMALL_SIZES);
	initStringInfo(&bodies);
	for (int page = 0; path != NULL && page < MAX_PROBE_PAGES; page++)
	{
		/* two in turn: a page, and the one that said where it is */
		MemoryContext cxt = page_cxt[page % 2];

		MemoryContextReset(cxt);
		MemoryContextSwitchTo(cxt);
		ask(probe, access, path, &answer);
		ms += answer.total_ms;
		if (page > 0)
			appendStringInfoChar(&bodies, ',');
		escape_json(&bodies, answer.body);
		path = next_of(probe, access, &answer);
	}
	MemoryContextSwitchTo(outer);

	appendStringInfo(to, ",\"status\":%d,\"result\":\"%s\",\"error\":",
					 answer.status, result_text(answer.result));
	if (answer.error != NULL)
		escape_json(to, answer.error);
	else
		appendStringInfoString(to, "null");
	appendStringInfo(to, ",\"headers\":%s,\"ms\":%lld,\"bodies\":[%s]}",
					 answer.headers ? answer.headers : "{}", (long long) ms,
					 bodies.data);
	pfree(bodies.data);
	for (int i = 0; i < 2; i++)
		MemoryContextDelete(page_cxt[i]);
}

/* Let SQL judge, and put its rows into the result. */
static void
report(ReturnSetInfo *result, const char *answers)
{
	const char *args[1] = {answers};
	int			n;

	epds_tx_begin();
	n = epds_sql("SELECT r.check_name, r.state, r.detail, r.hint"
				 " FROM exact_pd_sync._verify_report($1) AS r", 1, args);
	for (int i = 0; i < n; i++)
	{
		Datum		values[COLUMNS];
		bool		nulls[COLUMNS];

		for (int column = 0; column < COLUMNS; column++)
		{
			char	   *text = epds_sql_value(i, column);

			nulls[column] = (text == NULL);
			values[column] = text ? CStringGetTextDatum(text) : (Datum) 0;
		}
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	epds_tx_commit();
}

/* verify() returns table (check_name, state, detail, hint), all text */
Datum
epds_verify(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	StringInfoData answers;
	Access		access;
	List	   *probes;
	ListCell   *cell;

	if (IsTransactionBlock() || IsSubTransaction())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("verify() cannot run inside a transaction block"),
				 errdetail("It asks both services and would keep the transaction open while it waits."),
				 errhint("Run SELECT * FROM exact_pd_sync.verify() as a statement of its own.")));
	InitMaterializedSRF(fcinfo, 0);
	if (result->setDesc->natts != COLUMNS)
		elog(ERROR, "verify() must have %d columns", COLUMNS);

	epds_tx_in_function(true);
	probes = prepare(&access);
	if (access.instance_ok)
		access.exact_token = token_for_probes();

	initStringInfo(&answers);
	appendStringInfoChar(&answers, '[');
	foreach(cell, probes)
		run_probe(&answers, lfirst(cell), &access);
	appendStringInfoChar(&answers, ']');
	report(result, answers.data);
	epds_tx_in_function(false);
	return (Datum) 0;
}
