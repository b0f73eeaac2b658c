/*-------------------------------------------------------------------------
 *
 * http.c
 *		HTTP requests under PostgreSQL's latch: the mux.
 *
 * libcurl tells us which sockets it wants watched; they are in one epoll set,
 * and that set is one descriptor in a WaitEventSet beside the process latch
 * and the postmaster.  Whatever a request hangs in (lookup, connect, headers,
 * body), a cancel or a shutdown sets the latch and is served at once.
 *
 * A request goes queue -> slot -> done list.  The queue is ours and not
 * libcurl's, so that a request's timeout starts when it is sent, and so that
 * no more easy handles exist than connections.
 *
 * All signals are blocked while libcurl works: it resolves names in a thread,
 * which inherits the mask and must never run PostgreSQL's signal handlers.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/http.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "utils/memutils.h"

#include "compat.h"
#include "http_headers.h"
#include "http_internal.h"
#include "settings.h"

/* Answers: 1,000 rows of Exact's widest feed have 38 MB. */
#define DEFAULT_MAX_ANSWER ((size_t) 64 * 1024 * 1024)

/* palloc's limit, less the NUL. */
#define LARGEST_ANSWER ((size_t) MaxAllocSize - 1)

/* One turn serves this many sockets before the latch is looked at again. */
#define EVENTS_PER_TURN 64

/*
 * Beside one descriptor per connection: the epoll set, and what a lookup (a
 * socket pair) and a second address tried at the same time take for a moment.
 */
#define EXTRA_FDS 4

/* epds_http_fetch() sends one request at a time, to either service. */
#define FETCH_CONNECTIONS 2

/* Longest piece of an error text; libcurl's own buffer has 256. */
#define MAX_ERROR_TEXT 400

/* The mux that epds_http_fetch() left for the next one of this process. */
static EpdsMux *fetch_mux = NULL;

/* The one it uses at the moment. */
static EpdsMux *busy_mux = NULL;

/* ----------
 * Life of a mux
 * ----------
 */

/*
 * Block every signal but those that only a fault of this thread raises.
 */
static void
block_signals(sigset_t *saved)
{
	static sigset_t all;
	static bool filled = false;

	if (!filled)
	{
		sigfillset(&all);
		sigdelset(&all, SIGSEGV);
		sigdelset(&all, SIGBUS);
		sigdelset(&all, SIGFPE);
		sigdelset(&all, SIGILL);
		sigdelset(&all, SIGABRT);
		sigdelset(&all, SIGTRAP);
		filled = true;
	}
	sigprocmask(SIG_SETMASK, &all, saved);
}

static void
restore_signals(const sigset_t *saved)
{
	sigprocmask(SIG_SETMASK, saved, NULL);
}

/*
 * The mux's memory goes: everything that is not memory goes with it.
 *
 * Runs after an ERROR as well, and when creation stopped half-way.  At the end
 * of the process the kernel does it better: no library is cleaned up there.
 */
static void
mux_release(void *arg)
{
	EpdsMux    *mux = arg;
	sigset_t	saved;
	bool		released;

	if (proc_exit_inprogress)
		return;

	block_signals(&saved);
	released = epds_transfer_release_all(mux);
	restore_signals(&saved);

	if (mux->wait_set != NULL)
		FreeWaitEventSet(mux->wait_set);
	if (!released)
		return;
	if (mux->epoll_fd >= 0)
		close(mux->epoll_fd);
	while (mux->reserved_fds-- > 0)
		ReleaseExternalFD();
}

/*
 * Raise what was noted where nothing may be thrown.
 */
static void
raise_trouble(EpdsMux *mux)
{
	const char *what = mux->trouble;

	if (what == NULL)
		return;
	mux->trouble = NULL;
	ereport(ERROR,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("%s: %s", what, mux->trouble_why)));
}

/*
 * Initialize libcurl, once per process, and say in a worker's log what it is.
 */
static void
init_library(void)
{
	static bool said = false;
	const curl_version_info_data *version;
	sigset_t	saved;

	block_signals(&saved);
	epds_transfer_init();
	version = curl_version_info(CURLVERSION_NOW);
	restore_signals(&saved);

	if (said)
		return;
	said = true;
	ereport(MyBgworkerEntry != NULL ? LOG : DEBUG1,
			(errmsg("exact_pd_sync uses libcurl %s, TLS by %s, host names looked up by %s",
					version->version,
					version->ssl_version ? version->ssl_version : "nothing",
					version->ares ? "c-ares" :
					(version->features & CURL_VERSION_ASYNCHDNS) ?
					"a thread" : "a blocking call")));
}

/*
 * Reserve descriptors, so that files PostgreSQL opens and sockets libcurl
 * opens do not take them from each other.
 */
static void
reserve_fds(EpdsMux *mux)
{
	int			wanted = mux->max_connections + EXTRA_FDS;

	while (mux->reserved_fds < wanted)
	{
		if (!AcquireExternalFD())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("cannot reserve %d file descriptors for HTTP: the server allows too few per process",
							wanted),
					 errhint("Raise max_files_per_process, or lower exact_pd_sync.max_connections.")));
		mux->reserved_fds++;
	}
}

/*
 * The set that epds_mux_wait() waits on.
 */
static void
make_wait_set(EpdsMux *mux)
{
	mux->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (mux->epoll_fd < 0)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not create an epoll set: %m")));

	mux->wait_set = epds_wait_event_set_create(3);
	AddWaitEventToSet(mux->wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch,
					  NULL);
	AddWaitEventToSet(mux->wait_set, WL_SOCKET_READABLE, mux->epoll_fd, NULL,
					  NULL);
	/* a stand-alone backend has none */
	if (IsUnderPostmaster)
		AddWaitEventToSet(mux->wait_set, WL_EXIT_ON_PM_DEATH,
						  PGINVALID_SOCKET, NULL, NULL);
}

/*
 * Make a mux; see http.h.
 *
 * It has a memory context of its own, whose reset callback is armed before the
 * first foreign object exists.  Until all is well that context is below the
 * current one, which an ERROR cleans up; cxt may be one that nobody resets.
 */
EpdsMux *
epds_mux_create(MemoryContext cxt, int max_connections)
{
	MemoryContext own;
	EpdsMux    *mux;
	sigset_t	saved;
	int			i;

	Assert(max_connections > 0);
	init_library();

	own = AllocSetContextCreate(CurrentMemoryContext, "exact_pd_sync HTTP",
								ALLOCSET_DEFAULT_SIZES);
	mux = MemoryContextAllocZero(own, sizeof(EpdsMux));
	mux->cxt = own;
	mux->max_connections = max_connections;
	mux->epoll_fd = -1;
	mux->deadline = -1;
	dlist_init(&mux->idle);
	dlist_init(&mux->done);
	dlist_init(&mux->queued);
	mux->slots = MemoryContextAllocZero(own, sizeof(EpdsSlot) * max_connections);
	for (i = 0; i < max_connections; i++)
	{
		mux->slots[i].mux = mux;
		mux->slots[i].fd = -1;
		dlist_push_tail(&mux->idle, &mux->slots[i].node);
	}

	mux->callback.func = mux_release;
	mux->callback.arg = mux;
	MemoryContextRegisterResetCallback(own, &mux->callback);

	reserve_fds(mux);
	make_wait_set(mux);
	block_signals(&saved);
	(void) epds_transfer_setup_multi(mux);
	restore_signals(&saved);
	raise_trouble(mux);

	MemoryContextSetParent(own, cxt);
	return mux;
}

/*
 * Close everything now.
 */
void
epds_mux_destroy(EpdsMux *mux)
{
	if (mux != NULL)
		MemoryContextDelete(mux->cxt);
}

int
epds_mux_pending(const EpdsMux *mux)
{
	return mux->pending;
}

/* ----------
 * Requests in
 * ----------
 */

/*
 * A header must be one line: a value with a line break in it would become
 * headers, or a request, of somebody else's making.
 */
static void
check_header(const char *header)
{
	const char *pos;

	for (pos = header; *pos; pos++)
	{
		if ((unsigned char) *pos < 0x20 || *pos == 0x7F)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("cannot send HTTP header \"%.*s\": its value contains a control character",
							(int) strcspn(header, ":"), header),
					 errhint("A secret read from a file must be a single line.")));
	}
}

/* Copy a string to *place, advance that, return the copy. */
static const char *
put_string(char **place, const char *text)
{
	char	   *copy = *place;
	size_t		size = strlen(text) + 1;

	memcpy(copy, text, size);
	*place += size;
	return copy;
}

/*
 * Copy a request into one chunk of the mux's memory.
 */
static EpdsQueued *
copy_request(EpdsMux *mux, const EpdsHttpRequest *request)
{
	EpdsQueued *copy;
	Size		size = sizeof(EpdsQueued);
	int			nheaders = 0;
	char	   *place;
	int			i;

	while (request->headers != NULL && request->headers[nheaders] != NULL)
	{
		check_header(request->headers[nheaders]);
		size += strlen(request->headers[nheaders++]) + 1;
	}
	size += sizeof(char *) * (nheaders + 1);
	size += strlen(request->method) + strlen(request->url) + 2;
	if (request->body != NULL)
		size += request->body_len;

	copy = MemoryContextAllocZero(mux->cxt, size);
	copy->headers = (const char **) (copy + 1);
	place = (char *) (copy->headers + nheaders + 1);
	for (i = 0; i < nheaders; i++)
		copy->headers[i] = put_string(&place, request->headers[i]);
	copy->method = put_string(&place, request->method);
	copy->url = put_string(&place, request->url);
	if (request->body != NULL)
	{
		memcpy(place, request->body, request->body_len);
		copy->body = place;
		copy->body_len = request->body_len;
	}
	return copy;
}

/*
 * Hand a request over.  A URL that may not be talked to is refused here, so
 * that no caller can forget to ask; the refusal comes back as its answer.
 */
void
epds_mux_add(EpdsMux *mux, const EpdsHttpRequest *request)
{
	EpdsQueued *copy = copy_request(mux, request);

	copy->tag = request->tag;
	copy->max_answer = request->max_answer ? request->max_answer :
		DEFAULT_MAX_ANSWER;
	copy->max_answer = Min(copy->max_answer, LARGEST_ANSWER);
	copy->timeout_ms = request->timeout_ms > 0 ? request->timeout_ms :
		epds_guc_http_timeout;
	copy->refusal = epds_url_refusal(request->url);

	dlist_push_tail(&mux->queued, &copy->node);
	mux->pending++;
}

/* ----------
 * Driving and waiting
 * ----------
 */

/*
 * Give queued requests to idle slots.  Signals are blocked.
 */
static void
start_queued(EpdsMux *mux)
{
	while (!dlist_is_empty(&mux->queued) && !dlist_is_empty(&mux->idle) &&
		   mux->trouble == NULL)
	{
		EpdsSlot   *slot = dlist_container(EpdsSlot, node,
										   dlist_pop_head_node(&mux->idle));

		slot->request = dlist_container(EpdsQueued, node,
										dlist_pop_head_node(&mux->queued));
		if (slot->request->refusal != NULL)
			epds_transfer_refuse(slot);
		else if (epds_transfer_start(slot))
			continue;
		dlist_push_tail(&mux->done, &slot->node);
	}
}

/*
 * Tell libcurl what happened.  Signals are blocked.
 */
static void
serve_events(EpdsMux *mux)
{
	struct epoll_event events[EVENTS_PER_TURN];
	int			running;
	int			n;
	int			i;
	CURLMcode	rc = CURLM_OK;

	n = epoll_wait(mux->epoll_fd, events, EVENTS_PER_TURN, 0);
	for (i = 0; i < n && rc == CURLM_OK; i++)
	{
		int			what = 0;

		if (events[i].events & EPOLLIN)
			what |= CURL_CSELECT_IN;
		if (events[i].events & EPOLLOUT)
			what |= CURL_CSELECT_OUT;
		if (events[i].events & (EPOLLERR | EPOLLHUP))
			what |= CURL_CSELECT_ERR;
		rc = curl_multi_socket_action(mux->multi, events[i].data.fd, what,
									  &running);
	}

	if (rc == CURLM_OK && mux->deadline >= 0 &&
		epds_clock_us() >= mux->deadline)
	{
		mux->deadline = -1;
		rc = curl_multi_socket_action(mux->multi, CURL_SOCKET_TIMEOUT, 0,
									  &running);
	}
	if (rc != CURLM_OK && mux->trouble == NULL)
	{
		mux->trouble = "could not drive HTTP requests";
		mux->trouble_why = curl_multi_strerror(rc);
	}
}

/*
 * Move finished transfers to the done list.  Signals are blocked.
 */
static void
collect_done(EpdsMux *mux)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(mux->multi, &left)) != NULL)
	{
		EpdsSlot   *slot = NULL;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE,
						  (char **) &slot);
		epds_transfer_finish(slot, message->data.result);
		dlist_push_tail(&mux->done, &slot->node);
	}
}

/*
 * One turn: everything that can be done without waiting.
 */
static void
mux_drive(EpdsMux *mux)
{
	sigset_t	saved;

	block_signals(&saved);
	start_queued(mux);
	serve_events(mux);
	collect_done(mux);
	restore_signals(&saved);
	raise_trouble(mux);
}

/*
 * How long to wait for something to happen: to libcurl's deadline or our
 * caller's limit (both monotonic microseconds, -1 = none), whichever is first;
 * in milliseconds, rounded up, -1 = no limit.
 */
static long
wait_ms(int64 now, int64 deadline, int64 limit)
{
	int64		until = deadline;
	int64		ms;

	if (until < 0 || (limit >= 0 && limit < until))
		until = limit;
	if (until < 0)
		return -1;
	ms = until <= now ? 0 : (until - now + 999) / 1000;
	return (long) Min(ms, INT_MAX);
}

/*
 * Drive transfers until something is done; see http.h.
 *
 * Holds no snapshot and no lock by itself, and neither may the caller.
 */
bool
epds_mux_wait(EpdsMux *mux, long timeout_ms, uint32 wait_event)
{
	int64		limit = timeout_ms < 0 ? -1 :
		epds_clock_us() + (int64) timeout_ms * 1000;

	mux->latch_was_set = false;
	for (;;)
	{
		WaitEvent	events[3];
		int64		now;
		int			n;
		int			i;

		mux_drive(mux);

		/* with enough to do we might never come to the wait that sees it */
		if (IsUnderPostmaster && !PostmasterIsAlive())
			proc_exit(1);
		CHECK_FOR_INTERRUPTS();
		if (!dlist_is_empty(&mux->done))
			return true;
		if (mux->latch_was_set)
			return false;
		now = epds_clock_us();
		if (limit >= 0 && now >= limit)
			return false;

		n = WaitEventSetWait(mux->wait_set,
							 wait_ms(now, mux->deadline, limit),
							 events, lengthof(events), wait_event);
		for (i = 0; i < n; i++)
		{
			if (events[i].events & WL_LATCH_SET)
			{
				ResetLatch(MyLatch);
				mux->latch_was_set = true;
			}
		}
	}
}

/*
 * Wait without a request.  Like every wait on the latch it returns early when
 * the latch is set, for whatever reason: callers look again and wait again.
 */
void
epds_http_sleep(long timeout_ms, uint32 wait_event)
{
	int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
		(timeout_ms < 0 ? 0 : WL_TIMEOUT);

	CHECK_FOR_INTERRUPTS();
	(void) WaitLatch(MyLatch, events, timeout_ms, wait_event);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* ----------
 * Answers out
 * ----------
 */

/*
 * Why a request failed: one redacted line for people, palloc'd.
 */
static char *
describe_failure(const EpdsSlot *slot)
{
	const char *reason = slot->refusal;
	char	   *line;
	char	   *redacted;

	if (slot->request->refusal != NULL)
		return pstrdup(slot->request->refusal);
	if (reason == NULL)
		reason = slot->error[0] ? slot->error : curl_easy_strerror(slot->code);
	redacted = epds_redact(reason);
	line = epds_text_one_line(redacted, MAX_ERROR_TEXT);
	pfree(redacted);
	return psprintf("%s: %s", epds_transfer_phase(slot), line);
}

/*
 * Copy the body out.  What is not UTF-8 text cannot be stored: an error page
 * is mended, because its status says what happened; anything else is refused.
 */
static void
take_body(const EpdsSlot *slot, EpdsHttpAnswer *answer)
{
	answer->body = palloc(slot->body_len + 1);
	if (slot->body_len > 0)
		memcpy(answer->body, slot->body, slot->body_len);
	answer->body[slot->body_len] = '\0';
	answer->body_len = slot->body_len;

	if (pg_verify_mbstr(PG_UTF8, answer->body, (int) answer->body_len, true))
		return;
	epds_text_scrub(answer->body, answer->body_len);
	if (answer->result != EPDS_HTTP_OK || answer->status >= 300)
		return;
	answer->result = strcmp(slot->request->method, "GET") == 0 ?
		EPDS_HTTP_REFUSED : EPDS_HTTP_UNKNOWN;
	answer->error = pstrdup("the answer is not valid UTF-8 text");
}

/*
 * Copy the headers out.  Secrets are masked before the text becomes JSON:
 * masking JSON text could cut an escape in two.
 */
static void
take_headers(const EpdsSlot *slot, EpdsHttpAnswer *answer)
{
	char	   *lines = pnstrdup(slot->head, slot->head_len);
	char	   *redacted = epds_redact(lines);

	answer->content_type = epds_headers_content_type(lines, strlen(lines));
	answer->headers = epds_headers_json(redacted, strlen(redacted));
	pfree(lines);
	pfree(redacted);
}

/*
 * The next finished request, copied into the current memory context.
 */
bool
epds_mux_next_done(EpdsMux *mux, EpdsHttpAnswer *answer)
{
	EpdsSlot   *slot;

	if (dlist_is_empty(&mux->done))
		return false;
	slot = dlist_container(EpdsSlot, node, dlist_head_node(&mux->done));

	memset(answer, 0, sizeof(*answer));
	answer->tag = slot->request->tag;
	answer->status = (int) slot->status;
	answer->result = epds_transfer_result(slot);
	if (answer->result != EPDS_HTTP_OK)
		answer->error = describe_failure(slot);
	take_headers(slot, answer);
	answer->sent_at = slot->sent_at;
	answer->total_ms = slot->total_ms;
	answer->lookup_ms = slot->lookup_ms;
	answer->connect_ms = slot->connect_ms;
	answer->first_byte_ms = slot->first_byte_ms;
	take_body(slot, answer);

	if (message_level_is_interesting(DEBUG3))
	{
		char	   *url = epds_redact(slot->request->url);

		elog(DEBUG3, "exact_pd_sync: %s %s: status %d, %zu bytes, %d ms%s%s",
			 slot->request->method, url, answer->status, answer->body_len,
			 answer->total_ms, answer->error ? ", " : "",
			 answer->error ? answer->error : "");
		pfree(url);
	}

	/* nothing throws from here on */
	dlist_delete(&slot->node);
	epds_transfer_trim(slot);
	pfree(slot->request);
	slot->request = NULL;
	dlist_push_head(&mux->idle, &slot->node);
	mux->pending--;
	return true;
}

/* ----------
 * One request
 * ----------
 */

/*
 * At the end of the process its locks go first and its sockets last.  Whoever
 * gets the lock that keeps calls apart must not meet a call of ours that is
 * still open, so that is hung up before.
 */
static void
hang_up_at_exit(int code, Datum arg)
{
	if (busy_mux != NULL)
		epds_transfer_hang_up(busy_mux);
}

/*
 * One request, start to end.
 *
 * The mux is taken out of its place while it is used: after an ERROR it is
 * not put back, and whoever comes in between makes another.
 */
void
epds_http_fetch(const EpdsHttpRequest *request, EpdsHttpAnswer *answer)
{
	static uint32 wait_event = 0;
	EpdsMux    *volatile mux;
	EpdsMux    *outer = busy_mux;
	volatile bool latch_was_set = false;

	/* may throw, and nothing may between taking the mux and the PG_TRY */
	if (wait_event == 0)
	{
		before_shmem_exit(hang_up_at_exit, (Datum) 0);
		wait_event = epds_wait_event("ExactPdSyncHttp");
	}
	mux = fetch_mux;
	fetch_mux = NULL;
	if (mux == NULL)
		mux = epds_mux_create(TopMemoryContext, FETCH_CONNECTIONS);

	busy_mux = mux;
	PG_TRY();
	{
		epds_mux_add(mux, request);
		while (!epds_mux_wait(mux, -1, wait_event))
			latch_was_set = true;
		latch_was_set |= mux->latch_was_set;
		epds_mux_next_done(mux, answer);
	}
	PG_CATCH();
	{
		busy_mux = outer;
		epds_mux_destroy(mux);
		PG_RE_THROW();
	}
	PG_END_TRY();
	busy_mux = outer;

	if (fetch_mux == NULL)
		fetch_mux = mux;
	else
		epds_mux_destroy(mux);

	/* a wake-up that came meanwhile was meant for the caller's own loop */
	if (latch_was_set)
		SetLatch(MyLatch);
}
