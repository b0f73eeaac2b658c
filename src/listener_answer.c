/*-------------------------------------------------------------------------
 *
 * listener_answer.c
 *		What the listener answers: many requests, one transaction.
 *
 * A status is given to a request only after the commit.  Trouble of any kind
 * (a standby, a full disk, the extension being changed) is 503 for the whole
 * batch: both services try again, and the polls do without them.  Notifications
 * are a batch of their own: trouble with what people and machines look at, such
 * as somebody who locks a table that status reads, is none of theirs.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/listener_answer.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <stdlib.h>
#include <string.h>

#include "utils/memutils.h"

#include "clock.h"
#include "compat.h"
#include "credentials.h"
#include "exact.h"
#include "inbox.h"
#include "listener.h"
#include "tx.h"
#include "worker.h"

/* A browser is told to look at status after so long. */
#define CONSENT_PATIENCE_MS 30000

#define PLAIN "text/plain; charset=utf-8"
#define HTML "text/html; charset=utf-8"
#define JSON "application/json"
#define OPENMETRICS "application/openmetrics-text; version=1.0.0; charset=utf-8"

/* An answer as worked out, before it counts. */
typedef struct Draft
{
	ListenerRequest *request;
	int			status;			/* 0: not yet */
	char	   *text;			/* palloc'd; NULL = none */
	const char *content_type;
} Draft;

/* What a batch works out at most once. */
typedef struct Batch
{
	EpdsInbox	inbox;
	char	   *health;
	bool		healthy;
	char	   *metrics;
} Batch;

static void
draft_text(Draft *draft, int status, const char *content_type, char *text)
{
	draft->status = status;
	draft->content_type = content_type;
	draft->text = text;
}

/* A plain page for the person whose browser came back. */
static void
draft_page(Draft *draft, int status, const char *title, const char *text)
{
	StringInfoData page;

	initStringInfo(&page);
	appendStringInfo(&page, "<!DOCTYPE html><html lang=\"en\"><meta charset=\"utf-8\">"
					 "<title>%s</title><h1>%s</h1><p>", title, title);
	for (const char *p = text; *p != '\0'; p++)
	{
		if (*p == '<' || *p == '>' || *p == '&' || *p == '"')
			appendStringInfo(&page, "&#%d;", *p);
		else
			appendStringInfoChar(&page, *p);
	}
	appendStringInfoString(&page, "</p></html>\n");
	draft_text(draft, status, HTML, page.data);
}

static void
answer_health(Draft *draft, Batch *batch)
{
	if (batch->health == NULL)
	{
		epds_sql("SELECT h.ok, h.text FROM exact_pd_sync.health() AS h", 0, NULL);
		batch->healthy = epds_sql_bool(0, 0, false);
		batch->health = epds_sql_value(0, 1);
	}
	draft_text(draft, batch->healthy ? 200 : 503, JSON, batch->health);
}

static void
answer_metrics(Draft *draft, Batch *batch)
{
	if (batch->metrics == NULL)
	{
		epds_sql("SELECT exact_pd_sync.metrics()", 0, NULL);
		batch->metrics = epds_sql_value(0, 0);
	}
	draft_text(draft, 200, OPENMETRICS, batch->metrics);
}

/* First time: check the state and hand the code on.  Later: is it done? */
static void
answer_consent(Draft *draft, const ListenerRequest *request)
{
	const char *args[1];
	char	   *result;

	if (!request->handed_in && request->code != NULL && request->state != NULL)
	{
		args[0] = request->state;
		epds_sql("SELECT exact_pd_sync._oauth_state_ok($1)", 1, args);
		if (!epds_sql_bool(0, 0, false))
		{
			draft_page(draft, 400, "Not asked for",
					   "This address does not belong to the last consent that was asked for. Open the one that SELECT exact_pd_sync.exact_authorize_url() gives.");
			return;
		}
		epds_oauth_hand_in(request->code);
		return;
	}
	if (!request->handed_in)
	{
		draft_page(draft, 400, "No consent",
				   "The address holds no code: Exact Online did not give its consent. Open the address that SELECT exact_pd_sync.exact_authorize_url() gives once more.");
		return;
	}
	epds_sql("SELECT c.handed_in_result FROM exact_pd_sync.exact_consent AS c", 0, NULL);
	result = epds_sql_value(0, 0);
	if (result != NULL && strcmp(result, "ok") == 0)
		draft_page(draft, 200, "Exact Online is connected",
				   "The consent is stored. You can close this window.");
	else if (result != NULL)
		draft_page(draft, 502, "Exact Online is not connected", result);
	else if (epds_clock_ms() - request->asked_at > CONSENT_PATIENCE_MS)
		draft_page(draft, 504, "Still under way",
				   "The consent was handed on, and there is no answer yet. SELECT * FROM exact_pd_sync.status tells how it ended.");
}

static void
answer_one(Draft *draft, Batch *batch)
{
	ListenerRequest *request = draft->request;
	const char *body = request->body ? request->body : "";

	switch (request->route)
	{
		case ROUTE_EXACT_WEBHOOK:
			draft->status = epds_inbox_exact(&batch->inbox, body, request->len);
			break;
		case ROUTE_PIPEDRIVE_WEBHOOK:
			draft->status = epds_inbox_pipedrive(&batch->inbox, request->authorization,
												 request->body, request->len);
			break;
		case ROUTE_EXACT_CONSENT:
			answer_consent(draft, request);
			break;
		case ROUTE_HEALTH:
			answer_health(draft, batch);
			break;
		case ROUTE_METRICS:
			answer_metrics(draft, batch);
			break;
		case ROUTE_NONE:
			draft->status = 404;
			break;
	}
}

/* The drafts count: malloc'd copies go to the requests. */
static void
adopt_drafts(Draft *drafts, int n)
{
	for (int i = 0; i < n; i++)
	{
		ListenerRequest *request = drafts[i].request;

		if (drafts[i].status != 0)
			listener_count(request->route, drafts[i].status);
		request->status = drafts[i].status;
		request->content_type = drafts[i].content_type;
		if (drafts[i].text != NULL)
			request->text = strdup(drafts[i].text);
		/* a code is handed in once; from then on its result is looked at */
		request->handed_in |= request->route == ROUTE_EXACT_CONSENT && request->status == 0;
	}
}

static bool
is_notification(const ListenerRequest *request)
{
	return request->route == ROUTE_EXACT_WEBHOOK || request->route == ROUTE_PIPEDRIVE_WEBHOOK;
}

/* Notifications, or all the others; false when there are none. */
static bool
answer_batch(slist_head *requests, bool notifications)
{
	Batch		batch = {0};
	Draft	   *drafts;
	slist_iter	iter;
	int			n = 0;
	int			i = 0;

	slist_foreach(iter, requests)
	{
		if (is_notification(slist_container(ListenerRequest, node, iter.cur)) == notifications)
			n++;
	}
	if (n == 0)
		return false;
	drafts = palloc0(n * sizeof(Draft));

	epds_tx_begin();
	if (notifications)
		epds_inbox_begin(&batch.inbox);
	slist_foreach(iter, requests)
	{
		ListenerRequest *request = slist_container(ListenerRequest, node, iter.cur);

		if (is_notification(request) != notifications)
			continue;
		drafts[i].request = request;
		answer_one(&drafts[i++], &batch);
	}
	(void) epds_inbox_store(&batch.inbox);
	/*
	 * What is answered 200 must survive a power cut: nobody sends it again.
	 * The settings of a worker see to that.  A synchronous standby is not waited
	 * for: while it is away nobody would be answered at all, and after a
	 * fail-over the polls find what was announced.
	 */
	epds_tx_commit();
	adopt_drafts(drafts, n);
	return true;
}

/* The same; trouble is logged, and 503 for all of them. */
static void
try_batch(slist_head *requests, bool notifications)
{
	static char messages[2][512];	/* what is in the log already, of either kind */
	char	   *logged = messages[notifications];
	MemoryContext turn = CurrentMemoryContext;
	volatile bool failed = false;

	PG_TRY();
	{
		if (answer_batch(requests, notifications) && logged[0] != '\0')
		{
			ereport(LOG, (errmsg("the listener can answer again")));
			epds_worker_trouble(NULL);
			logged[0] = '\0';
		}
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(turn);
		error = CopyErrorData();
		/* strangers decide how often it happens; EmitErrorReport() needs the error still there */
		if (strncmp(error->message, logged, sizeof(messages[0]) - 1) != 0)
		{
			EmitErrorReport();
			epds_worker_trouble(epds_redact(error->message));
		}
		strlcpy(logged, error->message, sizeof(messages[0]));
		FlushErrorState();
		epds_tx_abort();
		failed = true;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(turn);
	if (failed)
	{
		slist_iter	iter;

		slist_foreach(iter, requests)
		{
			ListenerRequest *request = slist_container(ListenerRequest, node, iter.cur);

			if (is_notification(request) != notifications)
				continue;
			request->status = 503;
			listener_count(request->route, 503);
		}
	}
}

/* See listener.h. */
void
listener_answer(slist_head *requests)
{
	epds_worker_report("taking notifications in");
	try_batch(requests, true);
	try_batch(requests, false);
	epds_worker_report(NULL);
}

/* See listener.h. */
bool
listener_consent_waits(slist_head *requests)
{
	slist_iter	iter;

	slist_foreach(iter, requests)
	{
		if (slist_container(ListenerRequest, node, iter.cur)->route == ROUTE_EXACT_CONSENT)
			return true;
	}
	return false;
}
