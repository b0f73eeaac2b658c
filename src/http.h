/*-------------------------------------------------------------------------
 *
 * http.h
 *		HTTP requests under PostgreSQL's latch.
 *
 * The only door to libcurl.  A "mux" drives any number of requests over one
 * epoll set that PostgreSQL's own WaitEventSet waits on, so that cancel,
 * terminate and shutdown act at once.  Nothing here knows of Exact, of
 * Pipedrive or of SQL: a request is a method, a URL, headers and bytes, and so
 * is an answer.
 *
 * Memory: a mux and its requests live in the memory context given to
 * epds_mux_create() and are released with it (also after an ERROR).  Answer
 * bytes are malloc'd while libcurl writes them, and copied to palloc'd memory
 * by epds_mux_next_done(); the caller owns the copy.
 *
 * Transaction state: waiting requires that the caller holds no snapshot, no
 * xid and no lock; nothing here starts, commits or looks at a transaction.
 *
 * Errors: what the network or the server does is reported in the answer
 * (result, status, error text), never thrown.  Only our own trouble (out of
 * memory, no file descriptor left, libcurl refusing an option) and
 * interrupts (cancel, terminate) are ERRORs.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/http.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_HTTP_H
#define EPDS_HTTP_H

#include "postgres.h"

#include "utils/timestamp.h"

typedef struct EpdsMux EpdsMux;

/* What became of a request, as far as the transport can tell. */
typedef enum EpdsHttpResult
{
	EPDS_HTTP_OK,				/* a complete answer, whatever its status */
	EPDS_HTTP_NOT_SENT,			/* failed before a byte of it was sent */
	EPDS_HTTP_UNKNOWN,			/* failed after sending began: it may have been
								 * executed */
	EPDS_HTTP_REFUSED			/* refused by our own rules: scheme, host,
								 * too large, not the type asked for */
} EpdsHttpResult;

/* A request to be sent.  All strings are copied by epds_mux_add(). */
typedef struct EpdsHttpRequest
{
	const char *method;			/* "GET", "POST", "PATCH", "PUT", "DELETE" */
	const char *url;
	const char *const *headers; /* "Name: value", NULL-terminated; may be NULL */
	const char *body;			/* may be NULL */
	size_t		body_len;
	size_t		max_answer;		/* bytes after decompression; 0 = default 64 MB */
	int			timeout_ms;		/* whole request; 0 = exact_pd_sync.http_timeout */
	uint64		tag;			/* the caller's own number, given back */
} EpdsHttpRequest;

/* Header values both services use; -1 or NULL when the header was absent. */
typedef struct EpdsHttpAnswer
{
	uint64		tag;
	EpdsHttpResult result;
	int			status;			/* HTTP status, 0 when there was none */
	char	   *body;			/* NUL-terminated, never NULL, valid UTF-8 when
								 * result is OK */
	size_t		body_len;
	char	   *content_type;	/* lower case, parameters cut off; "" if none */
	char	   *error;			/* NULL when result is OK; redacted, one line */
	char	   *headers;		/* one JSON object as text: lower-case header name
								 * -> last value; no cookies, no authorization */
	TimestampTz sent_at;
	int			total_ms;		/* wall time of the request */
	int			lookup_ms;
	int			connect_ms;
	int			first_byte_ms;
} EpdsHttpAnswer;

/*
 * Make a mux for at most max_connections connections at once.  Reserves file
 * descriptors (AcquireExternalFD) for them.  cxt owns it.
 */
extern EpdsMux *epds_mux_create(MemoryContext cxt, int max_connections);

/* Close everything now; also done by a reset of the context. */
extern void epds_mux_destroy(EpdsMux *mux);

/* Hand a request over.  Sending begins in the next epds_mux_wait(). */
extern void epds_mux_add(EpdsMux *mux, const EpdsHttpRequest *request);

/* Requests handed over and not yet returned by epds_mux_next_done(). */
extern int	epds_mux_pending(const EpdsMux *mux);

/*
 * Drive transfers until at least one request is done, the latch is set, an
 * extra descriptor becomes readable, or timeout_ms (-1 = no limit) is over.
 * Resets the latch and serves interrupts (CHECK_FOR_INTERRUPTS; exits when the
 * postmaster died).  Returns true when a request is done.
 */
extern bool epds_mux_wait(EpdsMux *mux, long timeout_ms, uint32 wait_event);

/* The next finished request, copied into the current memory context. */
extern bool epds_mux_next_done(EpdsMux *mux, EpdsHttpAnswer *answer);

/*
 * One request, start to end: a mux of its own in the current context unless a
 * cached one can be used again (connections are kept alive per process).
 */
extern void epds_http_fetch(const EpdsHttpRequest *request,
							EpdsHttpAnswer *answer);

/* Wait without a request: latch, interrupts, postmaster death. */
extern void epds_http_sleep(long timeout_ms, uint32 wait_event);

/*
 * May this base URL be talked to?  https, or http to a loopback address when
 * exact_pd_sync.allow_insecure_http is on.  Returns NULL when it may, else the
 * reason (a constant string).
 */
extern const char *epds_url_refusal(const char *url);

/* Do two URLs have the same scheme, host and port? */
extern bool epds_same_origin(const char *a, const char *b);

/* Replace the values of secrets known to this process by ***; palloc'd. */
extern void epds_redact_add(const char *secret);
extern char *epds_redact(const char *text);

#endif							/* EPDS_HTTP_H */
