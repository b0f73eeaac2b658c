/*-------------------------------------------------------------------------
 *
 * listener.h
 *		What the files of the listener share with each other.
 *
 *		listener.c			sockets, limits, life of a request
 *		listener_answer.c	what a request is answered, within a transaction
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/listener.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_LISTENER_H
#define EPDS_LISTENER_H

#include "postgres.h"

#include "lib/ilist.h"
#include "utils/timestamp.h"

typedef enum ListenerRoute
{
	ROUTE_EXACT_WEBHOOK,		/* POST /exact/webhook */
	ROUTE_EXACT_CONSENT,		/* GET /exact/oauth */
	ROUTE_PIPEDRIVE_WEBHOOK,	/* POST /pipedrive/webhook */
	ROUTE_HEALTH,				/* GET /healthz */
	ROUTE_METRICS,				/* GET /metrics */
	ROUTE_NONE
} ListenerRoute;

/*
 * A request that was read to its end.  All memory in it is malloc'd: it is
 * made and freed in callbacks that must not throw.
 */
typedef struct ListenerRequest
{
	slist_node	node;			/* in the list of those that wait */
	struct MHD_Connection *connection;
	ListenerRoute route;
	char	   *body;			/* NULL while empty; always terminated */
	size_t		len;
	char	   *authorization;	/* header, or NULL */
	char	   *code;			/* of a consent */
	char	   *state;
	int64		asked_at;		/* ms of epds_clock_ms() */
	bool		handed_in;		/* its code; the result is waited for */

	/* the answer; status 0 = not yet */
	int			status;
	char	   *text;			/* malloc'd; NULL = the status alone */
	const char *content_type;
} ListenerRequest;

/*
 * Answer requests in as few transactions as can be.  Those that stay at status
 * 0 wait for the next turn (a consent under way).  Never throws: trouble is
 * logged and answered 503.
 */
extern void listener_answer(slist_head *requests);

/* Is a consent under way, that has to be looked at in a moment? */
extern bool listener_consent_waits(slist_head *requests);

#endif							/* EPDS_LISTENER_H */
