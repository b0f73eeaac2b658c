/*-------------------------------------------------------------------------
 *
 * http_internal.h
 *		What the files of the HTTP room share with each other, and with nobody
 *		else.
 *
 * http.c owns the mux: its life, the queue, the waiting, the answers.
 * http_transfer.c owns one transfer: options, callbacks, what became of it.
 * Everything in http_transfer.c may run with all signals blocked and inside
 * libcurl, so nothing there allocates PostgreSQL memory or throws; trouble is
 * noted in the mux and raised by http.c afterwards.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/http_internal.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_HTTP_INTERNAL_H
#define EPDS_HTTP_INTERNAL_H

#include "postgres.h"

#include <curl/curl.h>

#include "lib/ilist.h"
#include "storage/latch.h"

#include "clock.h"
#include "http.h"

/*
 * Header lines kept per answer: a dozen of interest (see epds_header_wanted)
 * of well under 200 bytes each; an answer with more loses the later ones.
 */
#define EPDS_HEAD_KEPT 4096

/* A request that was handed over: one chunk of memory with all its strings. */
typedef struct EpdsQueued
{
	dlist_node	node;
	uint64		tag;
	const char *method;
	const char *url;
	const char **headers;		/* NULL-terminated */
	const char *body;			/* NULL: none */
	size_t		body_len;
	size_t		max_answer;
	int			timeout_ms;
	const char *refusal;		/* constant: why it will not be sent */
} EpdsQueued;

/*
 * A place for one transfer, used again and again: an easy handle, its buffers
 * and what the callbacks saw.  It is idle, active or done, by the list it is
 * in.
 */
typedef struct EpdsSlot
{
	dlist_node	node;
	EpdsMux    *mux;
	CURL	   *easy;
	struct curl_slist *headers; /* of the request; freed after the transfer */
	EpdsQueued *request;
	bool		in_multi;		/* libcurl is working on it */
	int			fd;				/* socket it is waited for on; -1: none */
	bool		looked_up;		/* the host's address is known */
	bool		sent;			/* a byte of the request may have left */
	const char *refusal;		/* constant: why we broke it off */
	char	   *body;			/* malloc'd, kept between transfers when small */
	size_t		body_len;
	size_t		body_size;
	size_t		head_len;		/* used of head[] */
	size_t		head_seen;		/* header bytes of all answers, kept or not */
	CURLcode	code;
	long		status;
	TimestampTz sent_at;
	int			total_ms;
	int			lookup_ms;
	int			connect_ms;
	int			first_byte_ms;
	char		head[EPDS_HEAD_KEPT];	/* "Name: value\n" lines of interest */
	char		error[CURL_ERROR_SIZE];
} EpdsSlot;

struct EpdsMux
{
	MemoryContext cxt;			/* holds all of this; its end is our end */
	MemoryContextCallback callback;
	int			max_connections;
	int			reserved_fds;	/* AcquireExternalFD()s to give back */
	int			epoll_fd;		/* -1: none */
	WaitEventSet *wait_set;
	CURLM	   *multi;
	EpdsSlot   *slots;			/* max_connections of them */
	dlist_head	idle;			/* EpdsSlot */
	dlist_head	done;			/* EpdsSlot */
	dlist_head	queued;			/* EpdsQueued */
	int			pending;		/* queued + active + done */
	int64		deadline;		/* monotonic microseconds of libcurl's timer; -1 =
								 * none */
	bool		latch_was_set;	/* epds_mux_wait() reset it */

	/* Our own trouble, noted where nothing may be thrown. */
	const char *trouble;		/* what failed; NULL: none */
	const char *trouble_why;
};

/* http_transfer.c */
extern void epds_transfer_init(void);
extern bool epds_transfer_setup_multi(EpdsMux *mux);
extern bool epds_transfer_start(EpdsSlot *slot);
extern void epds_transfer_refuse(EpdsSlot *slot);
extern void epds_transfer_finish(EpdsSlot *slot, CURLcode code);
extern bool epds_transfer_release_all(EpdsMux *mux);
extern void epds_transfer_hang_up(EpdsMux *mux);
extern void epds_transfer_trim(EpdsSlot *slot);
extern EpdsHttpResult epds_transfer_result(const EpdsSlot *slot);
extern const char *epds_transfer_phase(const EpdsSlot *slot);

#endif							/* EPDS_HTTP_INTERNAL_H */
