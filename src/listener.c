/*-------------------------------------------------------------------------
 *
 * listener.c
 *		The worker that takes notifications in over HTTP.
 *
 *		client ─▶ reverse proxy (TLS) ─▶ here ─▶ inbox, committed ─▶ 200
 *
 * libmicrohttpd without threads: its epoll descriptor is one member of a
 * WaitEventSet beside the latch.  Its callbacks run between PostgreSQL's own
 * code and must not throw; they use malloc and touch no memory context.  What
 * needs the database is suspended and put on a list; after the callbacks are
 * through, the whole list is served in one transaction (listener_answer.c),
 * and only what was committed is answered 200.
 *
 * It is meant to sit behind a reverse proxy on the same machine.  Paths,
 * methods, sizes and times are bounded all the same.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/listener.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "commands/dbcommands.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "clock.h"
#include "compat.h"
#include "listen_address.h"
#include "listener.h"
#include "settings.h"
#include "webhook.h"
#include "worker.h"

/* A burst of notifications may bring hundreds of connections at once. */
#define MAX_CONNECTIONS 256
/* Line and headers of a request; Exact's and a proxy's are below 4 kB. */
#define MAX_HEADER_BYTES (16 * 1024)
/* Nothing heard for so long: closed. */
#define IDLE_SECONDS 15
/* A request must have come in whole by then, however busily it drips. */
#define REQUEST_MS 10000
/* While a consent is under way it is looked at so often. */
#define CONSENT_LOOK_MS 100
/*
 * In a swarm what comes within this time is committed at once: a commit waits
 * for the disk, which others need too.  The first one waits for nothing.
 */
#define GATHER_MS 10
/* Somebody locks what is written to: nobody who waits for an answer waits longer. */
#define LOCK_TIMEOUT "3s"

/* What a connection did last: for those that never finish a request. */
typedef struct OpenConnection
{
	int			fd;				/* -1: unused */
	int64		waiting_since;	/* for the next request to be whole; 0 = not */
} OpenConnection;

typedef struct Listener
{
	struct MHD_Daemon *daemon;
	int			socket;			/* -1 = none; the daemon's once it runs */
	ListenAddress address;
	WaitEventSet *wait_set;
	slist_head	waiting;		/* requests that need the database */
	OpenConnection open[MAX_CONNECTIONS];
	int			reserved_fds;
	bool		resumed;		/* in the last turn: more may have been read */
	int64		answered_at;	/* when the list was last served */
} Listener;

static Listener listener;

/* ------------------------------------------------------------ what is asked */

static const struct
{
	const char *path;
	const char *method;
	ListenerRoute route;
	size_t		max_body;
}			routes[] = {
	{"/exact/webhook", MHD_HTTP_METHOD_POST, ROUTE_EXACT_WEBHOOK, WEBHOOK_MAX_EXACT},
	{"/exact/oauth", MHD_HTTP_METHOD_GET, ROUTE_EXACT_CONSENT, 0},
	{"/pipedrive/webhook", MHD_HTTP_METHOD_POST, ROUTE_PIPEDRIVE_WEBHOOK, WEBHOOK_MAX_PIPEDRIVE},
	{"/healthz", MHD_HTTP_METHOD_GET, ROUTE_HEALTH, 0},
	{"/metrics", MHD_HTTP_METHOD_GET, ROUTE_METRICS, 0},
};

static size_t
route_max_body(ListenerRoute route)
{
	for (size_t i = 0; i < lengthof(routes); i++)
		if (routes[i].route == route)
			return routes[i].max_body;
	return 0;
}

/*
 * find_route
 *		The route of a path and method; else the status that answers it, and
 *		the method that would have been right.
 */
static int
find_route(const char *path, const char *method, ListenerRoute *route,
		   const char **allowed)
{
	*route = ROUTE_NONE;
	*allowed = NULL;
	for (size_t i = 0; i < lengthof(routes); i++)
	{
		if (strcmp(path, routes[i].path) != 0)
			continue;
		if (strcmp(method, routes[i].method) == 0)
		{
			*route = routes[i].route;
			return 0;
		}
		*allowed = routes[i].method;
		return MHD_HTTP_METHOD_NOT_ALLOWED;
	}
	return MHD_HTTP_NOT_FOUND;
}

/*
 * is_host
 *		Is this what a Host header may hold?  Which host it is, the proxy knows;
 *		here only nonsense is refused.
 */
static bool
is_host(const char *host)
{
	size_t		len = host ? strlen(host) : 0;

	return len > 0 && len < 256 &&
		strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]") == len;
}

/* ------------------------------------------------------------ answering */

/*
 * send_answer
 *		Queue an answer; the text is copied.
 */
static enum MHD_Result
send_answer(struct MHD_Connection *connection, int status, const char *text,
			const char *content_type, const char *allowed, bool close)
{
	static const char none[] = "";
	struct MHD_Response *response;
	enum MHD_Result result;

	if (text == NULL)
		text = none;
	response = MHD_create_response_from_buffer(strlen(text), (void *) text,
											   MHD_RESPMEM_MUST_COPY);
	if (response == NULL)
		return MHD_NO;
	(void) MHD_add_response_header(response, "Content-Type",
								   content_type ? content_type : "text/plain; charset=utf-8");
	(void) MHD_add_response_header(response, "Cache-Control", "no-store");
	(void) MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
	(void) MHD_add_response_header(response, "Content-Security-Policy", "default-src 'none'");
	if (allowed != NULL)
		(void) MHD_add_response_header(response, "Allow", allowed);
	if (close)
		(void) MHD_add_response_header(response, "Connection", "close");
	if (status == MHD_HTTP_SERVICE_UNAVAILABLE)
		(void) MHD_add_response_header(response, "Retry-After", "10");
	result = MHD_queue_response(connection, (unsigned int) status, response);
	MHD_destroy_response(response);
	return result;
}

/* --------------------------------------------------- callbacks: never throw */

static void
free_request(ListenerRequest *request)
{
	if (request == NULL)
		return;
	free(request->body);
	free(request->authorization);
	free(request->code);
	free(request->state);
	free(request->text);
	free(request);
}

static OpenConnection *
connection_of(struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

	for (int i = 0; info != NULL && i < MAX_CONNECTIONS; i++)
		if (listener.open[i].fd == info->connect_fd)
			return &listener.open[i];
	return NULL;
}

/* A connection came or goes. */
static void
on_connection(void *cls, struct MHD_Connection *connection,
			  void **socket_context, enum MHD_ConnectionNotificationCode what)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

	if (info == NULL)
		return;
	for (int i = 0; i < MAX_CONNECTIONS; i++)
	{
		OpenConnection *open = &listener.open[i];

		if (what == MHD_CONNECTION_NOTIFY_STARTED ? open->fd != -1 : open->fd != info->connect_fd)
			continue;
		open->fd = what == MHD_CONNECTION_NOTIFY_STARTED ? info->connect_fd : -1;
		open->waiting_since = epds_clock_ms();
		return;
	}
}

/* A request is over, answered or not. */
static void
on_completed(void *cls, struct MHD_Connection *connection, void **con_cls,
			 enum MHD_RequestTerminationCode how)
{
	OpenConnection *open = connection_of(connection);

	if (open != NULL)
		open->waiting_since = epds_clock_ms();
	free_request(*con_cls);
	*con_cls = NULL;
}

static char *
copy_header(struct MHD_Connection *connection, enum MHD_ValueKind kind,
			const char *name, size_t max)
{
	const char *value = MHD_lookup_connection_value(connection, kind, name);

	return value != NULL && strlen(value) <= max ? strdup(value) : NULL;
}

/*
 * begin_request
 *		The headers are there: is it one of ours, and may its body come?
 */
static enum MHD_Result
begin_request(struct MHD_Connection *connection, const char *path,
			  const char *method, void **con_cls)
{
	const char *allowed;
	const char *length = MHD_lookup_connection_value(connection, MHD_HEADER_KIND,
													 "Content-Length");
	ListenerRoute route;
	ListenerRequest *request;
	int			status = find_route(path, method, &route, &allowed);

	if (!is_host(MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Host")))
		return send_answer(connection, MHD_HTTP_BAD_REQUEST, NULL, NULL, NULL, true);
	if (status != 0)
		return send_answer(connection, status, NULL, NULL, allowed, true);
	if (length != NULL && strtoull(length, NULL, 10) > route_max_body(route))
		return send_answer(connection, MHD_HTTP_CONTENT_TOO_LARGE, NULL, NULL, NULL, true);

	request = calloc(1, sizeof(*request));
	if (request == NULL)
		return MHD_NO;
	request->route = route;
	request->connection = connection;
	*con_cls = request;
	return MHD_YES;
}

/*
 * add_body
 *		Another piece of the body.  One that grows too large is not kept; it is
 *		answered when it has come to its end, or cut off by the time limit.
 */
static enum MHD_Result
add_body(ListenerRequest *request, const char *data, size_t len)
{
	char	   *body;

	if (request->status != 0)
		return MHD_YES;
	if (request->len + len > route_max_body(request->route))
	{
		request->status = MHD_HTTP_CONTENT_TOO_LARGE;
		free(request->body);
		request->body = NULL;
		return MHD_YES;
	}
	body = realloc(request->body, request->len + len + 1);
	if (body == NULL)
		return MHD_NO;
	memcpy(body + request->len, data, len);
	request->len += len;
	body[request->len] = '\0';
	request->body = body;
	return MHD_YES;
}

/*
 * on_request
 *		libmicrohttpd calls this with the headers, then with pieces of the body,
 *		then with its end.
 */
static enum MHD_Result
on_request(void *cls, struct MHD_Connection *connection, const char *path,
		   const char *method, const char *version, const char *data,
		   size_t *data_len, void **con_cls)
{
	ListenerRequest *request = *con_cls;
	OpenConnection *open;

	if (request == NULL)
		return begin_request(connection, path, method, con_cls);
	if (*data_len > 0)
	{
		enum MHD_Result result = add_body(request, data, *data_len);

		*data_len = 0;
		return result;
	}
	if (request->status != 0)
		return send_answer(connection, request->status, request->text,
						   request->content_type, NULL,
						   request->status == MHD_HTTP_CONTENT_TOO_LARGE);

	open = connection_of(connection);
	if (open != NULL)
		open->waiting_since = 0;
	if (request->route == ROUTE_PIPEDRIVE_WEBHOOK)
		request->authorization = copy_header(connection, MHD_HEADER_KIND, "Authorization", 1000);
	else if (request->route == ROUTE_EXACT_CONSENT)
	{
		request->code = copy_header(connection, MHD_GET_ARGUMENT_KIND, "code", 8000);
		request->state = copy_header(connection, MHD_GET_ARGUMENT_KIND, "state", 200);
	}
	request->asked_at = epds_clock_ms();
	slist_push_head(&listener.waiting, &request->node);
	MHD_suspend_connection(connection);
	return MHD_YES;
}

/* What libmicrohttpd has to say; it may not be logged from a callback. */
static void
on_log(void *cls, const char *format, va_list args)
{
}

/* ------------------------------------------------------------ life cycle */

/*
 * open_socket
 *		A socket that listens; throws with the reason.
 */
static int
open_socket(const ListenAddress *address)
{
	struct sockaddr_storage name;
	socklen_t	len;
	int			on = 1;
	int			fd;

	memset(&name, 0, sizeof(name));
	if (strchr(address->host, ':') != NULL)
	{
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *) &name;

		in6->sin6_family = AF_INET6;
		in6->sin6_port = pg_hton16((uint16) address->port);
		(void) inet_pton(AF_INET6, address->host, &in6->sin6_addr);
		len = sizeof(*in6);
	}
	else
	{
		struct sockaddr_in *in = (struct sockaddr_in *) &name;

		in->sin_family = AF_INET;
		in->sin_port = pg_hton16((uint16) address->port);
		(void) inet_pton(AF_INET, address->host, &in->sin_addr);
		len = sizeof(*in);
	}
	fd = socket(name.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not make a socket for the listener: %m")));
	(void) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *) &name, len) != 0 || listen(fd, 512) != 0)
	{
		int			error = errno;

		(void) close(fd);
		errno = error;
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not listen on %s port %d: %m", address->host, address->port),
				 error == EADDRINUSE ?
				 errhint("Another program uses this port; choose another one in exact_pd_sync.listen.") : 0));
	}
	return fd;
}

/*
 * stop_listener
 *		Answer what waits with 503, close everything.
 */
static void
stop_listener(void)
{
	while (!slist_is_empty(&listener.waiting))
	{
		ListenerRequest *request = slist_container(ListenerRequest, node,
												   slist_pop_head_node(&listener.waiting));

		(void) send_answer(request->connection, MHD_HTTP_SERVICE_UNAVAILABLE,
						   NULL, NULL, NULL, true);
		MHD_resume_connection(request->connection);
	}
	if (listener.daemon != NULL)
	{
		(void) MHD_run(listener.daemon);
		MHD_stop_daemon(listener.daemon);
		listener.daemon = NULL;
		listener.socket = -1;
		ereport(LOG,
				(errmsg("stopped listening on %s port %d",
						listener.address.host, listener.address.port)));
	}
	if (listener.socket >= 0)
		(void) close(listener.socket);
	listener.socket = -1;
	if (listener.wait_set != NULL)
		FreeWaitEventSet(listener.wait_set);
	listener.wait_set = NULL;
	for (; listener.reserved_fds > 0; listener.reserved_fds--)
		ReleaseExternalFD();
}

/*
 * start_listener
 *		Throws when the address cannot be listened on.
 */
static void
start_listener(const ListenAddress *address)
{
	const union MHD_DaemonInfo *info;
	unsigned int most;

	listener.address = *address;
	slist_init(&listener.waiting);
	for (int i = 0; i < MAX_CONNECTIONS; i++)
		listener.open[i].fd = -1;
	while (listener.reserved_fds < MAX_CONNECTIONS + 4 && AcquireExternalFD())
		listener.reserved_fds++;
	listener.socket = open_socket(address);
	most = (unsigned int) Min(MAX_CONNECTIONS, Max(8, listener.reserved_fds - 4));
	listener.daemon =
		MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG,
						 0, NULL, NULL, on_request, NULL,
						 MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
						 MHD_OPTION_LISTEN_SOCKET, listener.socket,
						 MHD_OPTION_CONNECTION_LIMIT, most,
						 MHD_OPTION_CONNECTION_TIMEOUT, (unsigned int) IDLE_SECONDS,
						 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) MAX_HEADER_BYTES,
						 MHD_OPTION_STRICT_FOR_CLIENT, 1,
						 MHD_OPTION_NOTIFY_CONNECTION, on_connection, NULL,
						 MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
						 MHD_OPTION_END);
	info = listener.daemon ? MHD_get_daemon_info(listener.daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
	if (info == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("could not start the HTTP server of the listener")));
	listener.wait_set = epds_wait_event_set_create(3);
	AddWaitEventToSet(listener.wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(listener.wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(listener.wait_set, WL_SOCKET_READABLE, info->epoll_fd, NULL, NULL);
	ereport(LOG,
			(errmsg("listening for notifications on %s port %d",
					address->host, address->port)));
}

/* The address that the settings name for this database; host "" = none. */
static void
wanted_address(ListenAddress *address)
{
	MemoryContext caller = CurrentMemoryContext;
	char	   *name;

	StartTransactionCommand();
	name = get_database_name(MyDatabaseId);
	memset(address, 0, sizeof(*address));
	if (name != NULL)
		(void) listen_address_find(epds_guc_listen, name, address);
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
}

/* ------------------------------------------------------------ the loop */

/*
 * drop_slow
 *		Close connections whose request does not come to its end.
 */
static void
drop_slow(void)
{
	int64		now = epds_clock_ms();

	for (int i = 0; i < MAX_CONNECTIONS; i++)
	{
		OpenConnection *open = &listener.open[i];

		if (open->fd >= 0 && open->waiting_since > 0 &&
			now - open->waiting_since > REQUEST_MS)
			(void) shutdown(open->fd, SHUT_RDWR);
	}
}

/*
 * answer_waiting
 *		Serve the list, and let what has an answer go on.
 */
static void
answer_waiting(void)
{
	slist_mutable_iter iter;
	bool		resumed = false;

	listener.answered_at = epds_clock_ms();
	listener_answer(&listener.waiting);
	slist_foreach_modify(iter, &listener.waiting)
	{
		ListenerRequest *request = slist_container(ListenerRequest, node, iter.cur);

		if (request->status == 0)
			continue;
		slist_delete_current(&iter);
		(void) send_answer(request->connection, request->status, request->text,
						   request->content_type, NULL, false);
		MHD_resume_connection(request->connection);
		resumed = true;
	}
	/* nothing becomes readable by a resume, nor what was read behind a request */
	if (resumed)
		(void) MHD_run(listener.daemon);
	listener.resumed = resumed;
}

/* Milliseconds for which more requests are gathered before the next commit. */
static long
gather_left(void)
{
	return (long) (listener.answered_at + GATHER_MS - epds_clock_ms());
}

/*
 * listen_turn
 *		Wait for something, then serve it.
 */
static void
listen_turn(void)
{
	MHD_UNSIGNED_LONG_LONG due;
	WaitEvent	event;
	long		wait = epds_guc_poll_interval;

	if (MHD_get_timeout(listener.daemon, &due) == MHD_YES)
		wait = Min(wait, (long) Min(due, (MHD_UNSIGNED_LONG_LONG) 60000));
	if (listener.resumed)
		wait = 0;
	listener.resumed = false;
	if (listener_consent_waits(&listener.waiting))
		wait = Min(wait, CONSENT_LOOK_MS);
	else if (!slist_is_empty(&listener.waiting))
		wait = Min(wait, Max(gather_left(), 0));
	(void) WaitEventSetWait(listener.wait_set, wait, &event, 1,
							epds_wait_event("ExactPdSyncListen"));
	ResetLatch(MyLatch);
	(void) MHD_run(listener.daemon);
	drop_slow();
	if (!slist_is_empty(&listener.waiting) && gather_left() <= 0)
		answer_waiting();
}

/* See worker.h. */
void
epds_listener_main(void)
{
	MemoryContext turn = AllocSetContextCreate(TopMemoryContext, "exact_pd_sync listener turn",
											   ALLOCSET_DEFAULT_SIZES);

	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
	listener.socket = -1;
	while (epds_worker_turn())
	{
		ListenAddress address;

		MemoryContextSwitchTo(turn);
		MemoryContextReset(turn);
		wanted_address(&address);
		if (listener.daemon != NULL && memcmp(&address, &listener.address, sizeof(address)) != 0)
			stop_listener();
		if (address.host[0] == '\0')
			break;
		if (listener.daemon == NULL)
		{
			MemoryContextSwitchTo(TopMemoryContext);
			start_listener(&address);
			MemoryContextSwitchTo(turn);
		}
		listen_turn();
	}
	stop_listener();
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(turn);
}
