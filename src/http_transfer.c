/*-------------------------------------------------------------------------
 *
 * http_transfer.c
 *		One transfer: its libcurl options, its callbacks, what became of it.
 *
 * Everything here may run inside libcurl or with all signals blocked: no
 * ereport, no palloc, no CHECK_FOR_INTERRUPTS.  Trouble is noted in the slot
 * (it then is that request's failure) or in the mux (our own failure, raised
 * by http.c when it is safe).
 *
 * Two things libcurl would do by itself are refused:
 *
 * - A request on a kept-alive connection that dies without an answer is sent
 *	 again by libcurl, also a POST that the server may have executed.  The
 *	 pre-request callback sees the second sending coming and stops it, so that
 *	 the outcome is "unknown" and the caller looks before it creates twice.
 *
 * - Redirects are answers, not something to follow with our credentials.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/http_transfer.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "http_headers.h"
#include "http_internal.h"

#if LIBCURL_VERSION_NUM < 0x074c00
#error "exact_pd_sync needs libcurl 7.76.0 or later"
#endif

#ifndef EPDS_VERSION
#define EPDS_VERSION "1.0.0"
#endif

/* 7.80: tells when a request is about to be sent, and may stop it. */
#if LIBCURL_VERSION_NUM >= 0x075000
#define HAVE_PREREQ 1
#endif

/* 7.87: a running lookup does not hold up who removes its handle. */
#if LIBCURL_VERSION_NUM >= 0x075700
#define HAVE_QUICK_EXIT 1
#endif

/*
 * Lookup, connect and TLS handshake together.  Enough for two lost SYNs (1 + 2
 * seconds) on each of several addresses.
 */
#define CONNECT_TIMEOUT_MS 15000

/* Slower than this for that long is a dead connection, whatever the timeout. */
#define LOW_SPEED_BYTES 16L
#define LOW_SPEED_SECONDS 60L

/*
 * Connections idle for longer are not used again.  Gateways close them after a
 * minute or more; a POST sent at that very moment has an unknown outcome.
 */
#define MAX_IDLE_SECONDS 55L

/*
 * All header bytes of one answer.  Real ones have 1-4 kB; without a bound a
 * server could keep us reading headers for ever below the low-speed limit.
 */
#define MAX_HEAD_SEEN (256 * 1024)

/* One read from a socket; the default 16 kB makes 2,400 turns of a 38 MB page. */
#define READ_BUFFER (64 * 1024L)

/* First size of an answer's buffer: most of Pipedrive's answers fit. */
#define FIRST_BODY_SIZE 8192

/* Buffers up to this size stay with their slot. */
#define KEPT_BODY_SIZE (256 * 1024)

/*
 * Initialize libcurl in this process, once.  Not in _PG_init, which runs in
 * the postmaster: TLS libraries do not like to be forked.  Does not throw;
 * trouble shows when the first handle cannot be made.
 */
void
epds_transfer_init(void)
{
	static bool done = false;

	if (!done)
		done = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
}

/*
 * Note our own trouble; the first one counts.
 */
static bool
trouble(EpdsMux *mux, const char *what, const char *why)
{
	if (mux->trouble == NULL)
	{
		mux->trouble = what;
		mux->trouble_why = why;
	}
	return false;
}

/* ----------
 * Callbacks of the multi handle
 * ----------
 */

/*
 * libcurl wants a socket watched, or no longer.  The pointer assigned to a
 * socket only says that it is in the epoll set already.
 */
static int
socket_callback(CURL *easy, curl_socket_t fd, int what, void *arg,
				void *known)
{
	EpdsMux    *mux = arg;
	struct epoll_event event = {0};
	int			i;

	for (i = 0; i < mux->max_connections; i++)
	{
		if (mux->slots[i].easy == easy)
			mux->slots[i].fd = (what == CURL_POLL_REMOVE) ? -1 : (int) fd;
		else if (mux->slots[i].fd == (int) fd)
			mux->slots[i].fd = -1;
	}
	if (what == CURL_POLL_REMOVE)
	{
		/* closed before we were told: the kernel has removed it already */
		(void) epoll_ctl(mux->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
		curl_multi_assign(mux->multi, fd, NULL);
		return 0;
	}

	event.data.fd = fd;
	if (what & CURL_POLL_IN)
		event.events |= EPOLLIN;
	if (what & CURL_POLL_OUT)
		event.events |= EPOLLOUT;

	if (epoll_ctl(mux->epoll_fd, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd,
				  &event) < 0)
	{
		/* the number of a socket closed and opened again */
		if ((errno != EEXIST && errno != ENOENT) ||
			epoll_ctl(mux->epoll_fd,
					  errno == EEXIST ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd,
					  &event) < 0)
		{
			trouble(mux, "could not watch a socket", strerror(errno));
			return -1;
		}
	}
	curl_multi_assign(mux->multi, fd, mux);
	return 0;
}

/*
 * libcurl wants to be called after timeout_ms.  Kept as a deadline that bounds
 * our own wait: unlike a timerfd in the epoll set it costs no system call,
 * and nobody but epds_mux_wait() waits for it.
 */
static int
timer_callback(CURLM *multi, long timeout_ms, void *arg)
{
	EpdsMux    *mux = arg;

	mux->deadline = timeout_ms < 0 ? -1 :
		epds_clock_us() + (int64) timeout_ms * 1000;
	return 0;
}

/*
 * Make the multi handle of a mux.  False: see mux->trouble.
 */
bool
epds_transfer_setup_multi(EpdsMux *mux)
{
	CURLMcode	rc;

#define MSETOPT(option, value) \
	do { \
		rc = curl_multi_setopt(mux->multi, option, value); \
		if (rc != CURLM_OK) \
			return trouble(mux, "could not set " #option, \
						   curl_multi_strerror(rc)); \
	} while (0)

	mux->multi = curl_multi_init();
	if (mux->multi == NULL)
		return trouble(mux, "could not create a libcurl multi handle",
					   "out of memory");
	MSETOPT(CURLMOPT_SOCKETFUNCTION, socket_callback);
	MSETOPT(CURLMOPT_SOCKETDATA, mux);
	MSETOPT(CURLMOPT_TIMERFUNCTION, timer_callback);
	MSETOPT(CURLMOPT_TIMERDATA, mux);
	MSETOPT(CURLMOPT_MAX_TOTAL_CONNECTIONS, (long) mux->max_connections);
	MSETOPT(CURLMOPT_MAXCONNECTS, (long) mux->max_connections);
	MSETOPT(CURLMOPT_PIPELINING, (long) CURLPIPE_NOTHING);
	return true;
#undef MSETOPT
}

/* ----------
 * Callbacks of a transfer
 * ----------
 */

static bool
is_loopback_address(const struct sockaddr *addr)
{
	if (addr->sa_family == AF_INET)
	{
		const struct sockaddr_in *in = (const struct sockaddr_in *) addr;

		return (ntohl(in->sin_addr.s_addr) >> 24) == 127;
	}
	if (addr->sa_family == AF_INET6)
	{
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *) addr;

		return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
	}
	return false;
}

/*
 * Open a socket: closed on exec (a COPY TO PROGRAM must not inherit it), and
 * for plain http only to this machine, whatever the name led to.
 */
static curl_socket_t
open_socket_callback(void *arg, curlsocktype purpose,
					 struct curl_sockaddr *address)
{
	EpdsSlot   *slot = arg;

	if (pg_strncasecmp(slot->request->url, "http:", 5) == 0 &&
		!is_loopback_address(&address->addr))
	{
		slot->refusal = "plain http is not used except to this machine itself";
		return CURL_SOCKET_BAD;
	}
	return socket(address->family, address->socktype | SOCK_CLOEXEC,
				  address->protocol);
}

#ifdef HAVE_PREREQ
/*
 * The connection stands and the request goes out next.  A second time for the
 * same POST would be libcurl's own repetition: see the head of this file.
 */
static int
prereq_callback(void *arg, char *primary_ip, char *local_ip,
				int primary_port, int local_port)
{
	EpdsSlot   *slot = arg;

	if (slot->sent && strcmp(slot->request->method, "POST") == 0)
	{
		slot->refusal = "the connection was closed before the answer came";
		return CURL_PREREQFUNC_ABORT;
	}
	slot->sent = true;
	return CURL_PREREQFUNC_OK;
}
#endif

/*
 * One header line.  A status line starts a new answer (after a 100, or behind
 * a proxy); trailers after the body are ignored.
 */
static size_t
header_callback(char *data, size_t size, size_t count, void *arg)
{
	EpdsSlot   *slot = arg;
	size_t		len = size * count;
	const char *colon;
	size_t		keep = len;

	slot->head_seen += len;
	if (slot->head_seen > MAX_HEAD_SEEN)
	{
		slot->refusal = "the answer's headers are too large";
		return 0;
	}
	if (slot->body_len > 0)
		return len;
	if (len >= 5 && memcmp(data, "HTTP/", 5) == 0)
	{
		slot->head_len = 0;
		return len;
	}

	colon = memchr(data, ':', len);
	if (colon == NULL || !epds_header_wanted(data, colon - data))
		return len;
	while (keep > 0 && (data[keep - 1] == '\n' || data[keep - 1] == '\r'))
		keep--;
	if (slot->head_len + keep + 1 <= sizeof(slot->head))
	{
		memcpy(slot->head + slot->head_len, data, keep);
		slot->head_len += keep;
		slot->head[slot->head_len++] = '\n';
	}
	return len;
}

/*
 * Bytes of the body, already decompressed: the cap holds for what comes out,
 * so that a small answer cannot become a large one.
 */
static size_t
body_callback(char *data, size_t size, size_t count, void *arg)
{
	EpdsSlot   *slot = arg;
	size_t		len = size * count;
	size_t		need = slot->body_len + len;

	if (need > slot->request->max_answer)
	{
		slot->refusal = "the answer is larger than allowed";
		return 0;
	}
	if (need > slot->body_size)
	{
		size_t		new_size = Max(slot->body_size * 2, FIRST_BODY_SIZE);
		char	   *bigger;

		while (new_size < need)
			new_size *= 2;
		bigger = realloc(slot->body, new_size);
		if (bigger == NULL)
		{
			slot->refusal = "out of memory while reading the answer";
			return 0;
		}
		slot->body = bigger;
		slot->body_size = new_size;
	}
	memcpy(slot->body + slot->body_len, data, len);
	slot->body_len = need;
	return len;
}

/* ----------
 * Options
 * ----------
 */

#define SETOPT(option, value) \
	do { \
		CURLcode	rc_ = curl_easy_setopt(slot->easy, option, value); \
		if (rc_ != CURLE_OK) \
			return trouble(slot->mux, "could not set " #option, \
						   curl_easy_strerror(rc_)); \
	} while (0)

/*
 * What may be spoken, and with whom.
 */
static bool
set_protocol_options(EpdsSlot *slot)
{
	bool		plain = pg_strncasecmp(slot->request->url, "http:", 5) == 0;

#if LIBCURL_VERSION_NUM >= 0x075500
	SETOPT(CURLOPT_PROTOCOLS_STR, plain ? "http" : "https");
	SETOPT(CURLOPT_REDIR_PROTOCOLS_STR, "https");
#else
	SETOPT(CURLOPT_PROTOCOLS, (long) (plain ? CURLPROTO_HTTP : CURLPROTO_HTTPS));
	SETOPT(CURLOPT_REDIR_PROTOCOLS, (long) CURLPROTO_HTTPS);
#endif
	SETOPT(CURLOPT_FOLLOWLOCATION, 0L);
	SETOPT(CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	SETOPT(CURLOPT_SSL_VERIFYPEER, 1L);
	SETOPT(CURLOPT_SSL_VERIFYHOST, 2L);
	SETOPT(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);

	/*
	 * https goes through the proxy that the server's environment names, as a
	 * tunnel; what stays on this machine does not.
	 */
	if (plain)
		SETOPT(CURLOPT_NOPROXY, "*");
	SETOPT(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	SETOPT(CURLOPT_USERAGENT, "exact_pd_sync/" EPDS_VERSION);

	/* gzip alone: what both services send, and one decoder less to trust */
	SETOPT(CURLOPT_ACCEPT_ENCODING, "gzip");
	return true;
}

/*
 * Limits and callbacks.
 */
static bool
set_limit_options(EpdsSlot *slot)
{
	int			timeout_ms = slot->request->timeout_ms;

	SETOPT(CURLOPT_NOSIGNAL, 1L);
#ifdef HAVE_QUICK_EXIT
	SETOPT(CURLOPT_QUICK_EXIT, 1L);
#endif
	SETOPT(CURLOPT_TIMEOUT_MS, (long) timeout_ms);
	SETOPT(CURLOPT_CONNECTTIMEOUT_MS,
		   (long) Min(timeout_ms, CONNECT_TIMEOUT_MS));
	SETOPT(CURLOPT_LOW_SPEED_LIMIT, LOW_SPEED_BYTES);
	SETOPT(CURLOPT_LOW_SPEED_TIME, LOW_SPEED_SECONDS);
	SETOPT(CURLOPT_TCP_KEEPALIVE, 1L);
	SETOPT(CURLOPT_MAXAGE_CONN, MAX_IDLE_SECONDS);
	SETOPT(CURLOPT_MAXFILESIZE_LARGE,
		   (curl_off_t) slot->request->max_answer);

	/* a wish: refused while a failed transfer's buffer is still there */
	(void) curl_easy_setopt(slot->easy, CURLOPT_BUFFERSIZE, READ_BUFFER);

	SETOPT(CURLOPT_ERRORBUFFER, slot->error);
	SETOPT(CURLOPT_PRIVATE, slot);
	SETOPT(CURLOPT_OPENSOCKETFUNCTION, open_socket_callback);
	SETOPT(CURLOPT_OPENSOCKETDATA, slot);
	SETOPT(CURLOPT_HEADERFUNCTION, header_callback);
	SETOPT(CURLOPT_HEADERDATA, slot);
	SETOPT(CURLOPT_WRITEFUNCTION, body_callback);
	SETOPT(CURLOPT_WRITEDATA, slot);
#ifdef HAVE_PREREQ
	SETOPT(CURLOPT_PREREQFUNCTION, prereq_callback);
	SETOPT(CURLOPT_PREREQDATA, slot);
#else
	/* without the callback: only a new connection is never repeated */
	SETOPT(CURLOPT_FRESH_CONNECT,
		   strcmp(slot->request->method, "POST") == 0 ? 1L : 0L);
#endif
	return true;
}

/*
 * The request itself.  Its strings outlive the transfer.
 */
static bool
set_request_options(EpdsSlot *slot)
{
	const EpdsQueued *request = slot->request;
	const char **header;

	SETOPT(CURLOPT_URL, request->url);
	if (request->body != NULL || strcmp(request->method, "POST") == 0)
	{
		SETOPT(CURLOPT_POST, 1L);
		SETOPT(CURLOPT_POSTFIELDS, request->body ? request->body : "");
		SETOPT(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) request->body_len);
	}
	else
		SETOPT(CURLOPT_HTTPGET, 1L);
	SETOPT(CURLOPT_CUSTOMREQUEST, request->method);

	for (header = request->headers; *header != NULL; header++)
	{
		struct curl_slist *longer = curl_slist_append(slot->headers, *header);

		if (longer == NULL)
			return trouble(slot->mux, "could not set request headers",
						   "out of memory");
		slot->headers = longer;
	}
	SETOPT(CURLOPT_HTTPHEADER, slot->headers);
	return true;
}

/*
 * Forget the transfer before.
 */
static void
clear_slot(EpdsSlot *slot)
{
	curl_slist_free_all(slot->headers);
	slot->headers = NULL;
	slot->sent = false;
	slot->refusal = NULL;
	slot->body_len = 0;
	slot->head_len = 0;
	slot->head_seen = 0;
	slot->error[0] = '\0';
	slot->code = CURLE_OK;
	slot->status = 0;
	slot->sent_at = GetCurrentTimestamp();
	slot->total_ms = 0;
	slot->looked_up = false;
	slot->lookup_ms = 0;
	slot->connect_ms = 0;
	slot->first_byte_ms = 0;
}

/*
 * A request whose URL may not be talked to: done before it began.
 */
void
epds_transfer_refuse(EpdsSlot *slot)
{
	clear_slot(slot);
	slot->refusal = slot->request->refusal;
}

/*
 * Start the request of a slot: it is then libcurl's.  False: it was not sent;
 * see mux->trouble.
 */
bool
epds_transfer_start(EpdsSlot *slot)
{
	CURLMcode	rc;

	clear_slot(slot);
	slot->refusal = "the request could not be set up";

	if (slot->easy == NULL)
		slot->easy = curl_easy_init();
	else
		curl_easy_reset(slot->easy);
	if (slot->easy == NULL)
		return trouble(slot->mux, "could not create a libcurl handle",
					   "out of memory");
	if (!set_protocol_options(slot) || !set_limit_options(slot) ||
		!set_request_options(slot))
		return false;

	rc = curl_multi_add_handle(slot->mux->multi, slot->easy);
	if (rc != CURLM_OK)
		return trouble(slot->mux, "could not start an HTTP request",
					   curl_multi_strerror(rc));
	slot->in_multi = true;
	slot->refusal = NULL;
	return true;
}

/* A time of libcurl's in microseconds; 0: it did not come that far. */
static int64
elapsed_us(const EpdsSlot *slot, CURLINFO info)
{
	curl_off_t	us = 0;

	if (curl_easy_getinfo(slot->easy, info, &us) != CURLE_OK)
		return 0;
	return us;
}

/* The same in milliseconds. */
static int
elapsed_ms(const EpdsSlot *slot, CURLINFO info)
{
	return (int) Min(elapsed_us(slot, info) / 1000, INT_MAX);
}

/*
 * libcurl is done with the transfer of a slot: keep what it knows, take it out
 * of the multi handle.  The buffers hold the answer until it is fetched.
 */
void
epds_transfer_finish(EpdsSlot *slot, CURLcode code)
{
	slot->code = code;
	if (curl_easy_getinfo(slot->easy, CURLINFO_RESPONSE_CODE,
						  &slot->status) != CURLE_OK)
		slot->status = 0;
	slot->total_ms = elapsed_ms(slot, CURLINFO_TOTAL_TIME_T);
	slot->lookup_ms = elapsed_ms(slot, CURLINFO_NAMELOOKUP_TIME_T);
	slot->connect_ms = elapsed_ms(slot, CURLINFO_CONNECT_TIME_T);
	slot->first_byte_ms = elapsed_ms(slot, CURLINFO_STARTTRANSFER_TIME_T);
	slot->looked_up = elapsed_us(slot, CURLINFO_NAMELOOKUP_TIME_T) > 0;
#ifndef HAVE_PREREQ
	slot->sent = elapsed_us(slot, CURLINFO_PRETRANSFER_TIME_T) > 0;
#endif

	curl_multi_remove_handle(slot->mux->multi, slot->easy);
	slot->in_multi = false;
	curl_slist_free_all(slot->headers);
	slot->headers = NULL;
}

/*
 * What became of the transfer, as far as the transport can tell.
 *
 * What we break off ourselves is REFUSED when that cannot have changed
 * anything over there (nothing sent, or only asked for data), else UNKNOWN.
 */
EpdsHttpResult
epds_transfer_result(const EpdsSlot *slot)
{
	bool		asked_only = strcmp(slot->request->method, "GET") == 0;

	if (slot->refusal == NULL)
	{
		switch (slot->code)
		{
			case CURLE_OK:
				return EPDS_HTTP_OK;
			case CURLE_UNSUPPORTED_PROTOCOL:
			case CURLE_URL_MALFORMAT:
				return slot->sent ? EPDS_HTTP_UNKNOWN : EPDS_HTTP_REFUSED;
			case CURLE_FILESIZE_EXCEEDED:
				break;
			default:
				return slot->sent ? EPDS_HTTP_UNKNOWN : EPDS_HTTP_NOT_SENT;
		}
	}
	return (asked_only || !slot->sent) ? EPDS_HTTP_REFUSED : EPDS_HTTP_UNKNOWN;
}

/*
 * How far a failed transfer came, for the error text.
 */
const char *
epds_transfer_phase(const EpdsSlot *slot)
{
	if (slot->sent)
		return (slot->head_seen > 0 || slot->body_len > 0) ?
			"while reading the answer" : "while waiting for the answer";
	return slot->looked_up ? "while connecting" : "while looking up the host";
}

/*
 * Free what libcurl holds for a mux.  False when that was left undone on
 * purpose: without CURLOPT_QUICK_EXIT, removing a handle waits for its lookup,
 * which can hold up a cancel for many seconds.  Then the handles are leaked;
 * it is rare, small, and ends with the process.
 */
bool
epds_transfer_release_all(EpdsMux *mux)
{
	int			i;

#ifndef HAVE_QUICK_EXIT
	for (i = 0; i < mux->max_connections; i++)
	{
		EpdsSlot   *slot = &mux->slots[i];

		if (slot->in_multi &&
			elapsed_us(slot, CURLINFO_NAMELOOKUP_TIME_T) == 0)
			return false;
	}
#endif

	for (i = 0; i < mux->max_connections; i++)
	{
		EpdsSlot   *slot = &mux->slots[i];

		if (slot->in_multi)
			curl_multi_remove_handle(mux->multi, slot->easy);
		if (slot->easy != NULL)
			curl_easy_cleanup(slot->easy);
		curl_slist_free_all(slot->headers);
		free(slot->body);
	}
	if (mux->multi != NULL)
		curl_multi_cleanup(mux->multi);
	return true;
}

/*
 * Let the other side know that nobody waits for its answers any more.
 */
void
epds_transfer_hang_up(EpdsMux *mux)
{
	int			i;

	for (i = 0; i < mux->max_connections; i++)
	{
		if (mux->slots[i].in_multi && mux->slots[i].fd >= 0)
			(void) shutdown(mux->slots[i].fd, SHUT_RDWR);
	}
}

/*
 * The answer of a slot was fetched: give back what it should not keep.
 */
void
epds_transfer_trim(EpdsSlot *slot)
{
	if (slot->body_size > KEPT_BODY_SIZE)
	{
		free(slot->body);
		slot->body = NULL;
		slot->body_size = 0;
	}
	slot->body_len = 0;
}
