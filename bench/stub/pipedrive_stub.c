/*-------------------------------------------------------------------------
 *
 * pipedrive_stub.c
 *		A Pipedrive that answers at once, for measuring the delivery engine.
 *
 * The sandbox in test/sandbox judges whether calls are right; this judges
 * nothing.  It takes any token, has no limits, keeps no records and answers
 * every write with a plausible id, so that what is measured is our side.  What
 * setup_pipedrive() makes (pipelines, stages, fields) is remembered, because
 * setup reads it back.
 *
 * One process, one thread: epoll, HTTP/1.1 with keep-alive, loopback only.
 * Prints one JSON line when it listens.  GET /stub/stats tells how many
 * requests of which kind came, POST /stub/reset forgets that.  POST
 * /stub/faults?every=20 makes every twentieth PATCH go wrong, 0 none.
 *
 * Usage: pipedrive_stub [--port N]
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		bench/stub/pipedrive_stub.c
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "text.h"

#define MAX_EVENTS 64
#define MAX_REQUEST (4 * 1024 * 1024)

/* One connection: bytes in, bytes out. */
typedef struct Connection
{
	int			fd;
	Buffer		in;
	Buffer		out;
	size_t		sent;
	bool		waits;			/* for room to write */
} Connection;

/* One request, pointing into the connection's buffer. */
typedef struct Request
{
	char		method[8];
	char		path[256];		/* without the query */
	char		query[4096];
	const char *body;
	size_t		body_len;
} Request;

typedef enum Kind
{
	KIND_RECORD_CREATE,
	KIND_RECORD_UPDATE,
	KIND_LINE_ADD,
	KIND_LINES_BULK,
	KIND_LINE_UPDATE,
	KIND_DELETE,
	KIND_READ,
	KIND_OTHER,
	KINDS
} Kind;

static const char *const kind_names[KINDS] = {
	"record_create", "record_update", "line_add", "lines_bulk",
	"line_update", "delete", "read", "other"
};

/* What setup makes and reads back. */
typedef struct Shelf
{
	const char *path;
	Buffer		items;			/* JSON objects with commas between them */
} Shelf;

static Shelf shelves[] = {
	{"/api/v2/pipelines", {0}},
	{"/api/v2/stages", {0}},
	{"/api/v2/dealFields", {0}},
	{"/api/v2/organizationFields", {0}},
	{"/api/v2/productFields", {0}},
};

/* Every so many PATCHes something goes wrong, by turns; 0 = never. */
static unsigned long fault_every = 0;
static unsigned long patches = 0;
static unsigned long faults = 0;

static volatile sig_atomic_t stop = 0;
static uint64_t counts[KINDS];
static uint64_t next_id = 1000;

static void
on_signal(int signo)
{
	(void) signo;
	stop = 1;
}

/*
 * A deal product, as the service shows it: what the object of the body says it
 * is (the client compares), else something.
 */
static void
put_line(Buffer *out, uint64_t id, uint64_t deal, const char *body,
		 const char *end)
{
	char		product[32];
	char		price[64];
	char		quantity[64];

	number_of(body, end, "product_id", "1", product, sizeof(product));
	number_of(body, end, "item_price", "1", price, sizeof(price));
	number_of(body, end, "quantity", "1", quantity, sizeof(quantity));
	putf(out, "{\"id\":%llu,\"deal_id\":%llu,\"product_id\":%s,"
		 "\"product_variation_id\":null,\"name\":\"Product\","
		 "\"item_price\":%s,\"quantity\":%s,\"sum\":1,\"currency\":\"EUR\","
		 "\"tax\":0,\"tax_method\":\"none\",\"discount\":0,"
		 "\"discount_type\":\"percentage\",\"is_enabled\":true,"
		 "\"comments\":\"\",\"order_nr\":10,"
		 "\"billing_frequency\":\"one-time\","
		 "\"billing_frequency_cycles\":null,\"billing_start_date\":null,"
		 "\"add_time\":\"2026-03-15T02:11:10Z\","
		 "\"update_time\":\"2026-03-15T02:11:10Z\"}",
		 (unsigned long long) id, (unsigned long long) deal, product, price,
		 quantity);
}

/* A deal, organization or product, with the weight of a real one. */
static void
put_record(Buffer *out, uint64_t id)
{
	putf(out, "{\"id\":%llu,\"name\":\"Record\",\"title\":\"Record\","
		 "\"owner_id\":113,\"person_id\":null,\"org_id\":8812,"
		 "\"pipeline_id\":3,\"stage_id\":14,\"value\":0,\"currency\":\"EUR\","
		 "\"status\":\"open\",\"probability\":null,\"lost_reason\":null,"
		 "\"visible_to\":3,\"add_time\":\"2026-03-15T02:11:09Z\","
		 "\"update_time\":\"2026-03-15T02:11:09Z\",\"close_time\":null,"
		 "\"won_time\":null,\"lost_time\":null,\"label_ids\":[],"
		 "\"is_archived\":false,\"is_deleted\":false,\"origin\":\"API\","
		 "\"custom_fields\":{"
		 "\"7c0d3f5b9e8a41c6b2d4f60718293a4b5c6d7e8f\":\"2026-03-14\","
		 "\"19ab4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d\":null,"
		 "\"e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3\":null}}",
		 (unsigned long long) id);
}

/* All lines of a bulk body, answered in order. */
static void
put_bulk(Buffer *out, const Request *request, uint64_t deal)
{
	const char *p = request->body ? strchr(request->body, '[') : NULL;
	bool		first = true;

	putf(out, "[");
	while (p != NULL && (p = strchr(p, '{')) != NULL)
	{
		const char *end = object_end(p);

		if (!first)
			putf(out, ",");
		first = false;
		put_line(out, next_id++, deal, p, end);
		p = end;
	}
	putf(out, "]");
}

/* The labels of an options body, each with an id. */
static void
put_options(Buffer *out, const Request *request)
{
	const char *p = request->body ? request->body : "";
	bool		first = true;

	putf(out, "[");
	while ((p = strstr(p, "\"label\"")) != NULL)
	{
		char		label[600];

		text_of(p, "label", label, sizeof(label));
		putf(out, "%s{\"id\":%llu,\"label\":\"%s\"}", first ? "" : ",",
			 (unsigned long long) next_id++, label);
		first = false;
		p += strlen("\"label\"");
	}
	putf(out, "]");
}

static Shelf *
shelf_of(const char *path)
{
	for (size_t i = 0; i < sizeof(shelves) / sizeof(shelves[0]); i++)
	{
		if (strcmp(shelves[i].path, path) == 0)
			return &shelves[i];
	}
	return NULL;
}

/* Put what setup makes onto its shelf, and show it. */
static void
put_made(Buffer *out, Shelf *shelf, const Request *request)
{
	Buffer	   *items = &shelf->items;
	char		name[600];
	char		type[64];
	size_t		start;
	uint64_t	id = next_id++;

	if (items->len > 0)
		putf(items, ",");
	start = items->len;
	if (strstr(shelf->path, "Fields") != NULL)
	{
		text_of(request->body, "field_name", name, sizeof(name));
		text_of(request->body, "field_type", type, sizeof(type));
		putf(items, "{\"field_name\":\"%s\",\"field_code\":\"%040llx\","
			 "\"field_type\":\"%s\",\"options\":null,"
			 "\"is_custom_field\":true}",
			 name, (unsigned long long) id, type);
	}
	else
	{
		const char *pipeline = request->body ?
			strstr(request->body, "\"pipeline_id\"") : NULL;

		text_of(request->body, "name", name, sizeof(name));
		if (pipeline != NULL)
			pipeline += strcspn(pipeline, "0123456789");
		putf(items, "{\"id\":%llu,\"name\":\"%s\",\"order_nr\":%llu,"
			 "\"is_deleted\":false,\"pipeline_id\":%llu}",
			 (unsigned long long) id, name, (unsigned long long) id,
			 pipeline ? strtoull(pipeline, NULL, 10) : 0ULL);
	}
	put(out, items->data + start, items->len - start);
}

/* data of a GET. */
static void
put_read(Buffer *out, const Request *request)
{
	Shelf	   *shelf = shelf_of(request->path);

	if (strstr(request->path, "/users") != NULL)
	{
		bool		me = strstr(request->path, "/me") != NULL;

		putf(out, "%s{\"id\":113,\"name\":\"Bench\","
			 "\"email\":\"bench@example.com\",\"active_flag\":true,"
			 "\"is_deleted\":false,\"company_id\":1,"
			 "\"company_domain\":\"bench\",\"is_you\":true,"
			 "\"access\":[{\"app\":\"sales\",\"admin\":true}]}%s",
			 me ? "" : "[", me ? "" : "]");
	}
	else if (shelf != NULL)
	{
		putf(out, "[");
		put(out, shelf->items.data ? shelf->items.data : "",
			shelf->items.len);
		putf(out, "]");
	}
	else
		putf(out, "[]");
}

/* data of a DELETE: the id of the path, or the ids of the query. */
static void
put_deleted(Buffer *out, const Request *request)
{
	const char *ids = strstr(request->query, "ids=");

	if (ids == NULL)
	{
		putf(out, "{\"id\":%llu}",
			 (unsigned long long) last_number(request->path));
		return;
	}
	putf(out, "{\"ids\":[");
	for (ids += 4; *ids != '\0' && *ids != '&'; ids++)
	{
		/* the comma may come as it is or escaped */
		if (strncasecmp(ids, "%2c", 3) == 0)
		{
			put(out, ",", 1);
			ids += 2;
		}
		else if (isdigit((unsigned char) *ids) || *ids == ',')
			put(out, ids, 1);
	}
	putf(out, "]}");
}

/* Fill in data of the answer; returns the kind of request. */
static Kind
put_data(Buffer *out, const Request *request)
{
	static const char deals[] = "/api/v2/deals/";
	bool		of_deal = strncmp(request->path, deals, sizeof(deals) - 1) == 0;
	uint64_t	deal = of_deal ?
		strtoull(request->path + sizeof(deals) - 1, NULL, 10) : 0;
	bool		of_line = of_deal && strstr(request->path, "/products") != NULL;

	if (strcmp(request->method, "GET") == 0)
	{
		put_read(out, request);
		return KIND_READ;
	}
	if (strcmp(request->method, "DELETE") == 0)
	{
		put_deleted(out, request);
		return KIND_DELETE;
	}
	if (strcmp(request->method, "PATCH") == 0)
	{
		if (of_line)
			put_line(out, last_number(request->path), deal, request->body,
					 request->body + request->body_len);
		else
			put_record(out, last_number(request->path));
		return of_line ? KIND_LINE_UPDATE : KIND_RECORD_UPDATE;
	}
	if (shelf_of(request->path) != NULL)
	{
		put_made(out, shelf_of(request->path), request);
		return KIND_OTHER;
	}
	if (strstr(request->path, "/options") != NULL)
	{
		put_options(out, request);
		return KIND_OTHER;
	}
	if (of_deal && strstr(request->path, "/discounts") != NULL)
	{
		putf(out, "{\"id\":\"30195b0e-7577-4f52-a5cf-%012llx\"}",
			 (unsigned long long) next_id++);
		return KIND_OTHER;
	}
	if (of_line && strstr(request->path, "/bulk") != NULL)
	{
		put_bulk(out, request, deal);
		return KIND_LINES_BULK;
	}
	if (of_line)
	{
		put_line(out, next_id++, deal, request->body,
				 request->body + request->body_len);
		return KIND_LINE_ADD;
	}
	put_record(out, next_id++);
	return KIND_RECORD_CREATE;
}

static void
put_stats(Buffer *out)
{
	uint64_t	total = 0;

	putf(out, "{");
	for (int i = 0; i < KINDS; i++)
	{
		putf(out, "\"%s\":%llu,", kind_names[i],
			 (unsigned long long) counts[i]);
		total += counts[i];
	}
	putf(out, "\"faults\":%lu,\"requests\":%llu}\n", faults,
		 (unsigned long long) total);
}

/*
 * Something else than the answer: no answer at all, half of one, an error as
 * JSON or HTML, and rarely (it silences the caller) a 429.  False = close the
 * connection, after what was put into it.
 */
static bool
misbehave(Connection *connection)
{
	static const char error[] = "{\"success\":false,\"error\":\"bench\"}";
	static const char page[] = "<html><body>Bad Gateway</body></html>";
	unsigned long n = faults++;

	if (n % 50 == 49)
	{
		putf(&connection->out, "HTTP/1.1 429 Too Many Requests\r\n"
			 "content-type: application/json\r\nretry-after: 1\r\n"
			 "x-ratelimit-remaining: 0\r\ncontent-length: %zu\r\n\r\n%s",
			 sizeof(error) - 1, error);
		return true;
	}
	switch (n % 4)
	{
		case 0:
			return false;
		case 1:
			putf(&connection->out, "HTTP/1.1 200 OK\r\n"
				 "content-type: application/json\r\n"
				 "content-length: 5000\r\n\r\n{\"success\":true,\"data\":{");
			return false;
		case 2:
			putf(&connection->out, "HTTP/1.1 500 Error\r\n"
				 "content-type: application/json\r\n"
				 "content-length: %zu\r\n\r\n%s", sizeof(error) - 1, error);
			return true;
		default:
			putf(&connection->out, "HTTP/1.1 502 Bad Gateway\r\n"
				 "content-type: text/html\r\n"
				 "content-length: %zu\r\n\r\n%s", sizeof(page) - 1, page);
			return true;
	}
}

/* Answer one request.  False = close the connection. */
static bool
answer(Connection *connection, const Request *request)
{
	static Buffer body;
	int			status = strcmp(request->method, "POST") == 0 ? 201 : 200;

	body.len = 0;
	if (fault_every > 0 && strcmp(request->method, "PATCH") == 0 &&
		++patches % fault_every == 0)
		return misbehave(connection);
	if (strcmp(request->path, "/stub/stats") == 0)
		put_stats(&body);
	else if (strcmp(request->path, "/stub/faults") == 0)
	{
		fault_every = strtoul(request->query + strspn(request->query, "every="),
							  NULL, 10);
		putf(&body, "{}\n");
	}
	else if (strcmp(request->path, "/stub/reset") == 0)
	{
		memset(counts, 0, sizeof(counts));
		putf(&body, "{}\n");
	}
	else
	{
		putf(&body, "{\"success\":true,\"data\":");
		counts[put_data(&body, request)]++;
		putf(&body, ",\"additional_data\":{\"next_cursor\":null,"
			 "\"more_items_in_collection\":false,"
			 "\"pagination\":{\"more_items_in_collection\":false}}}");
	}

	putf(&connection->out,
		 "HTTP/1.1 %d OK\r\n"
		 "content-type: application/json; charset=utf-8\r\n"
		 "x-ratelimit-limit: 1000000\r\n"
		 "x-ratelimit-remaining: 1000000\r\n"
		 "x-ratelimit-reset: 2\r\n"
		 "x-daily-ratelimit-token-limit: 100000000\r\n"
		 "x-daily-ratelimit-token-remaining: 100000000\r\n"
		 "content-length: %zu\r\n\r\n", status, body.len);
	put(&connection->out, body.data, body.len);
	return true;
}

/*
 * Read one request from the buffer.  Returns its length, 0 when it is not
 * complete, -1 when it is none.
 */
static ssize_t
parse(Buffer *in, Request *request)
{
	char	   *end = in->len ? memmem(in->data, in->len, "\r\n\r\n", 4) : NULL;
	const char *line;
	char	   *space;
	char	   *url_end;
	char	   *mark;
	size_t		head;
	size_t		body_len = 0;

	if (end == NULL)
		return in->len > MAX_REQUEST ? -1 : 0;
	head = (size_t) (end - in->data) + 4;
	*end = '\0';

	line = strcasestr(in->data, "\r\ncontent-length:");
	if (line != NULL)
		body_len = strtoul(line + 17, NULL, 10);
	space = strchr(in->data, ' ');
	url_end = space ? strpbrk(space + 1, " \r") : NULL;
	if (url_end == NULL || body_len > MAX_REQUEST ||
		(size_t) (space - in->data) >= sizeof(request->method))
		return -1;
	if (in->len < head + body_len)
	{
		*end = '\r';
		return 0;
	}

	snprintf(request->method, sizeof(request->method), "%.*s",
			 (int) (space - in->data), in->data);
	*url_end = '\0';
	mark = strchr(space + 1, '?');
	snprintf(request->query, sizeof(request->query), "%s",
			 mark ? mark + 1 : "");
	snprintf(request->path, sizeof(request->path), "%.*s",
			 (int) ((mark ? mark : url_end) - space - 1), space + 1);
	request->body = body_len > 0 ? in->data + head : NULL;
	request->body_len = body_len;
	return (ssize_t) (head + body_len);
}

/* Serve all complete requests of a connection.  False = close it. */
static bool
serve(Connection *connection)
{
	static Request request;
	size_t		done = 0;
	bool		go_on = true;

	for (;;)
	{
		Buffer		rest = {connection->in.data + done,
		connection->in.len - done, 0};
		ssize_t		used = parse(&rest, &request);
		char		kept = 0;
		char	   *after;

		if (used < 0)
			return false;
		if (used == 0)
			break;
		/* the body must end in a zero while it is searched */
		after = connection->in.data + done + used;
		kept = *after;
		*after = '\0';
		go_on = answer(connection, &request);
		*after = kept;
		done += (size_t) used;
		if (!go_on)
			break;
	}
	memmove(connection->in.data, connection->in.data + done,
			connection->in.len - done);
	connection->in.len -= done;
	return go_on;
}

/* Write what waits.  False = close the connection. */
static bool
flush(Connection *connection, int epoll_fd)
{
	Buffer	   *out = &connection->out;
	bool		waits;

	while (connection->sent < out->len)
	{
		ssize_t		n = send(connection->fd, out->data + connection->sent,
							 out->len - connection->sent, MSG_NOSIGNAL);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n < 0)
			return false;
		connection->sent += (size_t) n;
	}
	waits = connection->sent < out->len;
	if (!waits)
		out->len = connection->sent = 0;
	if (waits != connection->waits)
	{
		struct epoll_event event = {.events = waits ? EPOLLIN | EPOLLOUT :
			EPOLLIN, .data.ptr = connection};

		(void) epoll_ctl(epoll_fd, EPOLL_CTL_MOD, connection->fd, &event);
		connection->waits = waits;
	}
	return true;
}

/* Something happened on a connection.  False = close it. */
static bool
drive(Connection *connection, int epoll_fd)
{
	for (;;)
	{
		ssize_t		n;

		need(&connection->in, 65536);
		n = recv(connection->fd, connection->in.data + connection->in.len,
				 65536, 0);
		if (n == 0)
			return false;
		if (n < 0)
		{
			if (errno == EINTR)
				continue;
			if (errno != EAGAIN)
				return false;
			break;
		}
		connection->in.len += (size_t) n;
		if (n < 65536)
			break;
	}
	connection->in.data[connection->in.len] = '\0';
	if (serve(connection))
		return flush(connection, epoll_fd);
	(void) flush(connection, epoll_fd);
	return false;
}

static void
forget(Connection *connection)
{
	close(connection->fd);
	free(connection->in.data);
	free(connection->out.data);
	free(connection);
}

static void
welcome(int listener, int epoll_fd)
{
	int			fd;

	while ((fd = accept4(listener, NULL, NULL,
						 SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
	{
		Connection *connection = calloc(1, sizeof(Connection));
		struct epoll_event event = {.events = EPOLLIN,
		.data.ptr = connection};
		int			on = 1;

		if (connection == NULL)
			die("calloc");
		connection->fd = fd;
		(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
			die("epoll_ctl");
	}
}

static int
open_listener(int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t) port),
	.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t	len = sizeof(address);
	int			on = 1;
	int			fd = socket(AF_INET,
							SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	(void) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0)
		die("bind");
	if (listen(fd, 128) < 0)
		die("listen");
	if (getsockname(fd, (struct sockaddr *) &address, &len) < 0)
		die("getsockname");
	printf("{\"pipedrive\":\"http://127.0.0.1:%d\",\"pid\":%d}\n",
		   ntohs(address.sin_port), (int) getpid());
	fflush(stdout);
	return fd;
}

int
main(int argc, char **argv)
{
	struct epoll_event events[MAX_EVENTS];
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
	struct sigaction action = {.sa_handler = on_signal};
	int			port = 0;
	int			listener;
	int			epoll_fd;

	if (argc == 3 && strcmp(argv[1], "--port") == 0)
		port = atoi(argv[2]);
	else if (argc != 1)
	{
		fprintf(stderr, "usage: %s [--port N]\n", argv[0]);
		return 2;
	}
	(void) sigaction(SIGTERM, &action, NULL);
	(void) sigaction(SIGINT, &action, NULL);

	listener = open_listener(port);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd < 0 ||
		epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event) < 0)
		die("epoll");

	while (!stop)
	{
		int			n = epoll_wait(epoll_fd, events, MAX_EVENTS, -1);

		for (int i = 0; i < n; i++)
		{
			Connection *connection = events[i].data.ptr;

			if (connection == NULL)
				welcome(listener, epoll_fd);
			else if (!drive(connection, epoll_fd))
				forget(connection);
		}
	}
	return 0;
}
