/*-------------------------------------------------------------------------
 *
 * listener.h
 *		What the files of the listener share with each other.
 *
 *		listener.c			its address, its life, its loop
 *		listener_request.c	connections and requests: callbacks, limits
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

#include <microhttpd.h>

#include "lib/ilist.h"

/* A burst of notifications may bring hundreds of connections at once. */
#define LISTENER_CONNECTIONS 256

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
 * A request, from its first line until its answer has gone.  All memory in it is malloc'd: it is
 * made and freed in callbacks that must not throw.
 */
typedef struct ListenerRequest
{
	slist_node	node;			/* in the list of those that wait */
	struct MHD_Connection *connection;
	ListenerRoute route;
	bool		begun;			/* its headers were looked at */
	char	   *body;			/* NULL while empty; always terminated */
	size_t		len;
	char	   *authorization;	/* header, or NULL */
	char	   *code;			/* of a consent */
	char	   *state;
	int64		asked_at;		/* when it was whole; ms of epds_clock_ms() */
	bool		handed_in;		/* its code; the result is waited for */

	/* the answer; status 0 = not yet */
	int			status;
	char	   *text;			/* malloc'd; NULL = the status alone */
	const char *content_type;
} ListenerRequest;

/* ------------------------------------------------------- listener_request.c */

/* Callbacks of libmicrohttpd: MHD_OPTION_URI_LOG_CALLBACK and so on. */
extern void *listener_on_target(void *cls, const char *target,
								struct MHD_Connection *connection);
extern enum MHD_Result listener_on_request(void *cls, struct MHD_Connection *connection,
										   const char *path, const char *method,
										   const char *version, const char *data,
										   size_t *data_len, void **con_cls);
extern void listener_on_completed(void *cls, struct MHD_Connection *connection,
								  void **con_cls, enum MHD_RequestTerminationCode how);
extern void listener_on_connection(void *cls, struct MHD_Connection *connection,
								   void **socket_context,
								   enum MHD_ConnectionNotificationCode what);

/* Before a daemon starts: there is no connection, and nothing waits. */
extern void listener_forget_connections(void);

/*
 * How many connections there are; *seen counts up with each that was accepted
 * and each request that waits for the database.
 */
extern int	listener_connections(uint64 *seen);

/* Close connections whose client does not come to the end of its part. */
extern void listener_drop_slow(void);

/* The requests that wait for the database; each is suspended. */
extern slist_head *listener_waiting(void);

/*
 * From now on no request is suspended any more, but refused: a daemon that is
 * stopped with suspended connections panics.
 */
extern void listener_suspend_no_more(void);

/* Queue an answer; the text is copied.  allowed: the Allow header, or NULL. */
extern enum MHD_Result listener_send(struct MHD_Connection *connection, int status,
									 const char *text, const char *content_type,
									 const char *allowed, bool close);

/*
 * Queue the answer that is in a request which waited, and resume it.  It must
 * be off the list; MHD_run() is due.
 */
extern void listener_let_go(ListenerRequest *request);

/* Count an answer.  Never throws. */
extern void listener_count(ListenerRoute route, int status);

/* -------------------------------------------------------- listener_answer.c */

/*
 * Answer requests in as few transactions as can be.  Those that stay at status
 * 0 wait for the next turn (a consent under way).  Never throws: trouble is
 * logged when it is another one than before, shown in status, and answered 503.
 */
extern void listener_answer(slist_head *requests);

/* Is a consent under way, that has to be looked at in a moment? */
extern bool listener_consent_waits(slist_head *requests);

#endif							/* EPDS_LISTENER_H */
