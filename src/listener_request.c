/*-------------------------------------------------------------------------
 *
 * listener_request.c
 *		Connections and requests of the listener, from the first byte until
 *		they wait for the database.
 *
 * Most of this file are callbacks of libmicrohttpd.  They must not throw, use
 * malloc and touch no memory context.  Whatever a stranger may do, what is held
 * for it is bounded:
 *
 *		connections		256, of which one address may have 224
 *		each of them	16 kB for line and headers, 64 kB of body
 *		all together	16 MB for what bodies have beyond that
 *
 * so at most 256 × 80 kB + 16 MB = 36 MB, and 10 seconds without a whole
 * request.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/listener_request.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "clock.h"
#include "counters.h"
#include "listener.h"
#include "webhook.h"

/* A request must have come in whole by then, and its answer must have gone. */
#define REQUEST_MS 10000

/*
 * What bodies may hold beyond WEBHOOK_MAX_EXACT each, all together.  Pipedrive
 * sends whole records, rarely more than a few kB; before the login is checked,
 * 256 strangers could else have us hold 256 MB.
 */
#define POT_BYTES (16 * 1024 * 1024)

/* A connection: what it does, and since when. */
typedef struct OpenConnection
{
	int			fd;				/* -1: unused */
	int64		waiting_since;	/* for the client to do its part; 0 = not */
} OpenConnection;

static OpenConnection connections[LISTENER_CONNECTIONS];
static int	n_connections = 0;
static uint64 progress = 0;
static size_t pot = 0;			/* in use */
static slist_head waiting = SLIST_STATIC_INIT(waiting);
static bool stopping = false;	/* nothing is suspended any more */

static const struct
{
	const char *path;
	const char *method;
	EpdsSource	source;
	size_t		max_body;
}			routes[] = {
	[ROUTE_EXACT_WEBHOOK] = {"/exact/webhook", "POST", EPDS_SOURCE_EXACT, WEBHOOK_MAX_EXACT},
	[ROUTE_EXACT_CONSENT] = {"/exact/oauth", "GET", EPDS_SOURCE_OTHER, 0},
	[ROUTE_PIPEDRIVE_WEBHOOK] = {"/pipedrive/webhook", "POST", EPDS_SOURCE_PIPEDRIVE, WEBHOOK_MAX_PIPEDRIVE},
	[ROUTE_HEALTH] = {"/healthz", "GET", EPDS_SOURCE_OTHER, 0},
	[ROUTE_METRICS] = {"/metrics", "GET", EPDS_SOURCE_OTHER, 0},
	[ROUTE_NONE] = {NULL, NULL, EPDS_SOURCE_OTHER, 0},
};

/* See listener.h. */
void
listener_count(ListenerRoute route, int status)
{
	epds_count_answer(routes[route].source, status);
}

/* ------------------------------------------------------------ connections */

/* See listener.h. */
void
listener_forget_connections(void)
{
	for (int i = 0; i < LISTENER_CONNECTIONS; i++)
		connections[i].fd = -1;
	n_connections = 0;
	pot = 0;
	stopping = false;
	slist_init(&waiting);
#ifdef M_MMAP_THRESHOLD
	/* else, once large bodies were freed, glibc keeps the room of later ones */
	(void) mallopt(M_MMAP_THRESHOLD, 128 * 1024);
#endif
}

/* See listener.h. */
int
listener_connections(uint64 *seen)
{
	*seen = progress;
	return n_connections;
}

/* The entry of a connection; NULL when there is none. */
static OpenConnection *
connection_of(struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

	for (int i = 0; info != NULL && i < LISTENER_CONNECTIONS; i++)
		if (connections[i].fd == info->connect_fd)
			return &connections[i];
	return NULL;
}

/* From now on it is the client's turn, or (false) ours. */
static void
client_has_turn(struct MHD_Connection *connection, bool yes)
{
	OpenConnection *open = connection_of(connection);

	if (open != NULL)
		open->waiting_since = yes ? epds_clock_ms() : 0;
}

/* See listener.h: a connection came or goes. */
void
listener_on_connection(void *cls, struct MHD_Connection *connection,
					   void **socket_context,
					   enum MHD_ConnectionNotificationCode what)
{
	bool		comes = what == MHD_CONNECTION_NOTIFY_STARTED;
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

	if (info == NULL)
		return;
	for (int i = 0; i < LISTENER_CONNECTIONS; i++)
	{
		if (connections[i].fd != (comes ? -1 : info->connect_fd))
			continue;
		connections[i].fd = comes ? info->connect_fd : -1;
		connections[i].waiting_since = epds_clock_ms();
		n_connections += comes ? 1 : -1;
		progress += comes ? 1 : 0;
		return;
	}
}

/* See listener.h. */
void
listener_drop_slow(void)
{
	int64		now = epds_clock_ms();

	for (int i = 0; i < LISTENER_CONNECTIONS; i++)
	{
		OpenConnection *open = &connections[i];

		if (open->fd >= 0 && open->waiting_since > 0 &&
			now - open->waiting_since > REQUEST_MS)
			(void) shutdown(open->fd, SHUT_RDWR);
	}
}

/* ------------------------------------------------------------ answering */

/* See listener.h. */
enum MHD_Result
listener_send(struct MHD_Connection *connection, int status, const char *text,
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
	(void) MHD_add_response_header(response, "Referrer-Policy", "no-referrer");
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

/* A request that is refused; its connection closes, whatever was sent behind it. */
static enum MHD_Result
refuse(struct MHD_Connection *connection, ListenerRoute route, int status,
	   const char *allowed)
{
	listener_count(route, status);
	return listener_send(connection, status, NULL, NULL, allowed, true);
}

/* See listener.h. */
slist_head *
listener_waiting(void)
{
	return &waiting;
}

/* See listener.h. */
void
listener_suspend_no_more(void)
{
	stopping = true;
}

/* See listener.h. */
void
listener_let_go(ListenerRequest *request)
{
	client_has_turn(request->connection, true);
	/* without memory for an answer it is closed; it would else be asked again */
	if (listener_send(request->connection, request->status, request->text,
					  request->content_type, NULL, false) != MHD_YES)
	{
		OpenConnection *open = connection_of(request->connection);

		if (open != NULL)
			(void) shutdown(open->fd, SHUT_RDWR);
	}
	MHD_resume_connection(request->connection);
}

/* ------------------------------------------------------------ a request */

/* What a body of this length takes from what all have in common. */
static size_t
share_of_pot(size_t len)
{
	return len > WEBHOOK_MAX_EXACT ? len - WEBHOOK_MAX_EXACT : 0;
}

static void
drop_body(ListenerRequest *request)
{
	pot -= share_of_pot(request->len);
	free(request->body);
	request->body = NULL;
	request->len = 0;
}

/*
 * listener_on_target
 *		See listener.h: a request begins.  Its target stands in the first line as
 *		it came; nobody needs to write our paths in another way (encoded, with a
 *		host, with a zero byte that hides what follows), so they are compared as
 *		they are: a proxy that allows some of them must not be talked round.
 */
void *
listener_on_target(void *cls, const char *target, struct MHD_Connection *connection)
{
	ListenerRequest *request = calloc(1, sizeof(*request));
	size_t		len = strcspn(target, "?");

	if (request == NULL)
		return NULL;
	request->connection = connection;
	request->route = ROUTE_EXACT_WEBHOOK;
	while (request->route != ROUTE_NONE &&
		   (strlen(routes[request->route].path) != len ||
			memcmp(routes[request->route].path, target, len) != 0))
		request->route++;
	return request;
}

/* A request is over, answered or not. */
void
listener_on_completed(void *cls, struct MHD_Connection *connection, void **con_cls,
					  enum MHD_RequestTerminationCode how)
{
	ListenerRequest *request = *con_cls;

	*con_cls = NULL;
	client_has_turn(connection, true);
	if (request == NULL)
		return;
	drop_body(request);
	free(request->authorization);
	free(request->code);
	free(request->state);
	free(request->text);
	free(request);
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

/* Headers that say where a request ends, and for whom it is. */
typedef struct Framing
{
	int			hosts;
	int			lengths;
	int			encodings;
	const char *host;
	const char *length;
	const char *encoding;
} Framing;

static enum MHD_Result
note_framing(void *cls, enum MHD_ValueKind kind, const char *name, const char *value)
{
	Framing    *framing = cls;

	if (strcasecmp(name, MHD_HTTP_HEADER_HOST) == 0)
	{
		framing->hosts++;
		framing->host = value;
	}
	else if (strcasecmp(name, MHD_HTTP_HEADER_CONTENT_LENGTH) == 0)
	{
		framing->lengths++;
		framing->length = value;
	}
	else if (strcasecmp(name, MHD_HTTP_HEADER_TRANSFER_ENCODING) == 0)
	{
		framing->encodings++;
		framing->encoding = value;
	}
	return MHD_YES;
}

/*
 * framing_is_clear
 *		Can there be only one opinion about where the request ends?  If a proxy
 *		could have another one than we, a request could hide in the body of one
 *		before it (RFC 9112, 6.1 and 6.3).
 */
static bool
framing_is_clear(const Framing *framing, const char *version)
{
	if (framing->hosts != 1 || !is_host(framing->host) ||
		framing->lengths + framing->encodings > 1)
		return false;
	if (framing->encodings == 1)
		return strcmp(version, MHD_HTTP_VERSION_1_1) == 0 &&
			framing->encoding != NULL &&
			strcasecmp(framing->encoding, "chunked") == 0;
	return framing->lengths == 0 ||
		(framing->length != NULL && framing->length[0] != '\0' &&
		 strspn(framing->length, "0123456789") == strlen(framing->length));
}

/*
 * begin_request
 *		The headers are there: is it one of ours, and may its body come?
 */
static enum MHD_Result
begin_request(ListenerRequest *request, const char *method, const char *version)
{
	struct MHD_Connection *connection = request->connection;
	ListenerRoute route = request->route;
	Framing		framing = {0};

	request->begun = true;
	(void) MHD_get_connection_values(connection, MHD_HEADER_KIND, note_framing, &framing);
	if (!framing_is_clear(&framing, version))
		return refuse(connection, route, MHD_HTTP_BAD_REQUEST, NULL);
	if (route == ROUTE_NONE)
		return refuse(connection, route, MHD_HTTP_NOT_FOUND, NULL);
	if (strcmp(method, routes[route].method) != 0)
		return refuse(connection, route, MHD_HTTP_METHOD_NOT_ALLOWED, routes[route].method);
	/* a number too large for strtoull is the largest */
	if (framing.length != NULL && strtoull(framing.length, NULL, 10) > routes[route].max_body)
		return refuse(connection, route, MHD_HTTP_CONTENT_TOO_LARGE, NULL);
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
	size_t		share;
	char	   *body;

	if (request->status != 0)
		return MHD_YES;
	share = share_of_pot(request->len + len) - share_of_pot(request->len);
	if (len > routes[request->route].max_body - request->len)
		request->status = MHD_HTTP_CONTENT_TOO_LARGE;
	else if (share > POT_BYTES - pot)
		request->status = MHD_HTTP_SERVICE_UNAVAILABLE;
	if (request->status != 0)
	{
		drop_body(request);
		return MHD_YES;
	}
	body = realloc(request->body, request->len + len + 1);
	if (body == NULL)
		return MHD_NO;
	memcpy(body + request->len, data, len);
	pot += share;
	request->len += len;
	body[request->len] = '\0';
	request->body = body;
	return MHD_YES;
}

static char *
copy_value(struct MHD_Connection *connection, enum MHD_ValueKind kind,
		   const char *name, size_t max)
{
	const char *value = MHD_lookup_connection_value(connection, kind, name);

	return value != NULL && strlen(value) <= max ? strdup(value) : NULL;
}

/*
 * end_request
 *		It is whole: it waits for the database.
 */
static enum MHD_Result
end_request(ListenerRequest *request)
{
	struct MHD_Connection *connection = request->connection;

	if (stopping)
		request->status = MHD_HTTP_SERVICE_UNAVAILABLE;
	if (request->status != 0)
		return refuse(connection, request->route, request->status, NULL);
	client_has_turn(connection, false);
	if (request->route == ROUTE_PIPEDRIVE_WEBHOOK)
		request->authorization = copy_value(connection, MHD_HEADER_KIND, "Authorization", 1000);
	else if (request->route == ROUTE_EXACT_CONSENT)
	{
		request->code = copy_value(connection, MHD_GET_ARGUMENT_KIND, "code", 8000);
		request->state = copy_value(connection, MHD_GET_ARGUMENT_KIND, "state", 200);
	}
	request->asked_at = epds_clock_ms();
	slist_push_head(&waiting, &request->node);
	progress++;
	MHD_suspend_connection(connection);
	return MHD_YES;
}

/*
 * listener_on_request
 *		See listener.h: called with the headers, then with pieces of the body,
 *		then with its end.
 */
enum MHD_Result
listener_on_request(void *cls, struct MHD_Connection *connection, const char *path,
					const char *method, const char *version, const char *data,
					size_t *data_len, void **con_cls)
{
	ListenerRequest *request = *con_cls;
	enum MHD_Result result;

	if (request == NULL)
		return MHD_NO;
	if (!request->begun)
		return begin_request(request, method, version);
	if (*data_len == 0)
		return end_request(request);
	result = add_body(request, data, *data_len);
	*data_len = 0;
	return result;
}
