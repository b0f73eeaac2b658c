/*-------------------------------------------------------------------------
 *
 * listener.c
 *		The worker that takes notifications in over HTTP.
 *
 *		client ─▶ reverse proxy (TLS) ─▶ here ─▶ inbox, committed ─▶ 200
 *
 * libmicrohttpd without threads: its epoll descriptor is one member of a
 * WaitEventSet beside the latch.  Its callbacks (listener_request.c) run
 * between PostgreSQL's own code.  What needs the database is suspended and put
 * on a list; after the callbacks are through, the whole list is served in one
 * transaction (listener_answer.c), and only what was committed is answered 200.
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
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "access/xact.h"
#include "commands/dbcommands.h"
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
#include "worker.h"

/* Line and headers of a request; Exact's and a proxy's are below 4 kB. */
#define MAX_HEADER_BYTES (16 * 1024)
/* Nothing heard for so long: closed. */
#define IDLE_SECONDS 15
/* While a consent is under way it is looked at so often. */
#define CONSENT_LOOK_MS 100
/*
 * In a swarm what comes within this time is committed at once: a commit waits
 * for the disk, which others need too.  The first one waits for nothing.
 */
#define GATHER_MS 10
/* No descriptor for a connection: nobody tells us when there is one. */
#define STARVED_MS 100
/* Who knocks between two looks is accepted in the next turn, at the latest. */
#define VAIN_TURNS 3
/* The address cannot be listened on: tried again after that, at a reload at once. */
#define RETRY_MS 5000
/* Somebody locks what is written to: nobody who waits for an answer waits longer. */
#define LOCK_TIMEOUT "3s"

typedef struct Listener
{
	struct MHD_Daemon *daemon;
	int			socket;			/* -1 = none; the daemon's once it runs */
	ListenAddress address;		/* the one that was last tried */
	int			error;			/* errno of that; 0 = it is listened on */
	WaitEventSet *wait_set;
	int			reserved_fds;
	int			most;			/* connections */
	bool		resumed;		/* in the last turn: more may have been read */
	int64		answered_at;	/* when the list was last served */
	int			vain_turns;		/* one after the other */
	bool		starved;		/* connections wait, and there is no descriptor */
} Listener;

static Listener listener = {.socket = -1};

/* What libmicrohttpd has to say; it may not be logged from a callback. */
static void
on_log(void *cls, const char *format, va_list args)
{
}

/*
 * on_panic
 *		libmicrohttpd found itself in disorder.  It would abort(), and that would
 *		end every session of the server; so only this process goes.
 */
static void
on_panic(void *cls, const char *file, unsigned int line, const char *reason)
{
	ereport(FATAL,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("the HTTP server of the listener gave up: %s",
					reason ? reason : "it gives no reason")));
}

/* ------------------------------------------------------------ life cycle */

/*
 * open_socket
 *		A socket that listens; -1 with errno.
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
		return -1;
	(void) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *) &name, len) != 0 || listen(fd, 512) != 0)
	{
		int			error = errno;

		(void) close(fd);
		errno = error;
		return -1;
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
	slist_head *waiting = listener_waiting();

	listener_suspend_no_more();
	while (!slist_is_empty(waiting))
	{
		ListenerRequest *request = slist_container(ListenerRequest, node,
												   slist_pop_head_node(waiting));

		request->status = MHD_HTTP_SERVICE_UNAVAILABLE;
		listener_count(request->route, request->status);
		listener_let_go(request);
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
	listener.starved = false;
	listener.vain_turns = 0;
}

/*
 * cannot_listen
 *		Tell why, once; it is tried again.
 */
static void
cannot_listen(const ListenAddress *address, int error)
{
	char	   *text;

	if (listener.error == error && memcmp(address, &listener.address, sizeof(*address)) == 0)
		return;
	listener.address = *address;
	listener.error = error;
	text = psprintf("could not listen on %s port %d: %s",
					address->host, address->port, strerror(error));
	epds_worker_trouble(text);
	errno = error;
	ereport(WARNING,
			(errcode_for_socket_access(),
			 errmsg("%s", text),
			 error == EADDRINUSE ?
			 errhint("Another program uses this port. As soon as it is free it is listened on; or choose another one in exact_pd_sync.listen.") :
			 errhint("It is tried again every %d seconds. The address in exact_pd_sync.listen must be one of this machine.", RETRY_MS / 1000)));
}

/*
 * start_daemon
 *		The HTTP server on the socket; false when it cannot be had.
 *
 * All connections may come from the address of one proxy, so that one address
 * is given nearly all; but never the last ones: whoever looks from elsewhere
 * whether the sync is alive must be answered however many connections somebody
 * holds.
 */
static bool
start_daemon(void)
{
	unsigned int most = (unsigned int) listener.most;
	const union MHD_DaemonInfo *info = NULL;

	MHD_set_panic_func(on_panic, NULL);
	listener.daemon =
		MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG,
						 0, NULL, NULL, listener_on_request, NULL,
						 MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
						 MHD_OPTION_LISTEN_SOCKET, listener.socket,
						 MHD_OPTION_CONNECTION_LIMIT, most,
						 MHD_OPTION_PER_IP_CONNECTION_LIMIT, most - Max(1, most / 8),
						 MHD_OPTION_CONNECTION_TIMEOUT, (unsigned int) IDLE_SECONDS,
						 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) MAX_HEADER_BYTES,
						 MHD_OPTION_STRICT_FOR_CLIENT, 1,
						 MHD_OPTION_URI_LOG_CALLBACK, listener_on_target, NULL,
						 MHD_OPTION_NOTIFY_CONNECTION, listener_on_connection, NULL,
						 MHD_OPTION_NOTIFY_COMPLETED, listener_on_completed, NULL,
						 MHD_OPTION_END);
	if (listener.daemon != NULL)
		info = MHD_get_daemon_info(listener.daemon, MHD_DAEMON_INFO_EPOLL_FD);
	if (info == NULL)
		return false;
	AddWaitEventToSet(listener.wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(listener.wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(listener.wait_set, WL_SOCKET_READABLE, info->epoll_fd, NULL, NULL);
	return true;
}

/*
 * start_listener
 *		False when the address cannot be listened on now.
 */
static bool
start_listener(const ListenAddress *address)
{
	listener.socket = open_socket(address);
	if (listener.socket < 0)
	{
		cannot_listen(address, errno);
		return false;
	}
	listener.address = *address;
	listener.error = 0;
	listener_forget_connections();
	/* it takes a descriptor too: before the others, which may be fewer than asked for */
	listener.wait_set = epds_wait_event_set_create(3);
	/* the socket, two of epoll, and one for luck */
	while (listener.reserved_fds < LISTENER_CONNECTIONS + 4 && AcquireExternalFD())
		listener.reserved_fds++;
	listener.most = Min(LISTENER_CONNECTIONS, Max(8, listener.reserved_fds - 4));
	if (!start_daemon())
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("could not start the HTTP server of the listener")));
	epds_worker_trouble(NULL);
	ereport(LOG,
			(errmsg("listening for notifications on %s port %d",
					address->host, address->port),
			 listener.most < LISTENER_CONNECTIONS ?
			 errdetail("At most %d connections at a time: max_files_per_process allows no more.", listener.most) : 0));
	return true;
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
 * answer_waiting
 *		Serve the list, and let what has an answer go on.
 */
static void
answer_waiting(slist_head *waiting)
{
	slist_mutable_iter iter;
	bool		resumed = false;

	listener.answered_at = epds_clock_ms();
	listener_answer(waiting);
	slist_foreach_modify(iter, waiting)
	{
		ListenerRequest *request = slist_container(ListenerRequest, node, iter.cur);

		if (request->status == 0)
			continue;
		slist_delete_current(&iter);
		listener_let_go(request);
		resumed = true;
	}
	/* nothing becomes readable by a resume, nor what was read behind a request */
	if (resumed)
		(void) MHD_run(listener.daemon);
	listener.resumed = resumed;
}

/*
 * is_starved
 *		Somebody wants a connection, and accepting it failed: the process or the
 *		machine has no descriptor left.
 *
 * With connections open libmicrohttpd waits until one of them ends.  Without
 * any it would turn round and round.
 */
static bool
is_starved(bool idle)
{
	struct pollfd knocks = {.fd = listener.socket, .events = POLLIN};
	uint64		seen;

	if (!idle || listener_connections(&seen) > 0 || poll(&knocks, 1, 0) != 1)
		listener.vain_turns = 0;
	else
		listener.vain_turns = Min(listener.vain_turns + 1, VAIN_TURNS);
	return listener.vain_turns == VAIN_TURNS;
}

/* Tell once that there is no descriptor, and once that there is one again. */
static void
tell_starved(bool starved)
{
	if (starved == listener.starved)
		return;
	listener.starved = starved;
	if (starved)
		ereport(WARNING,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("the listener could not accept a connection: there is no file descriptor left"),
				 errhint("It is tried again %d times a second. Look at the limits of open files of the server and of the machine.", 1000 / STARVED_MS)));
	else
		ereport(LOG,
				(errmsg("the listener accepts connections again")));
	epds_worker_trouble(starved ? "there is no file descriptor left for a connection" : NULL);
}

/* Milliseconds for which more requests are gathered before the next commit. */
static long
gather_left(void)
{
	return (long) (listener.answered_at + GATHER_MS - epds_clock_ms());
}

/* How long may this turn wait, in milliseconds? */
static long
turn_wait(void)
{
	MHD_UNSIGNED_LONG_LONG due;
	long		wait = epds_guc_poll_interval;

	if (MHD_get_timeout(listener.daemon, &due) == MHD_YES)
		wait = Min(wait, (long) Min(due, (MHD_UNSIGNED_LONG_LONG) 60000));
	if (listener.resumed)
		wait = 0;
	if (listener_consent_waits(listener_waiting()))
		wait = Min(wait, CONSENT_LOOK_MS);
	else if (!slist_is_empty(listener_waiting()))
		wait = Min(wait, Max(gather_left(), 0));
	return wait;
}

/*
 * take_what_is_there
 *		Let libmicrohttpd accept and read; true when it found anything.
 *
 * It takes a few connections at a time.  All that knock now are to be in one
 * transaction: when that has to wait for a lock, each further one would make
 * the others wait once more.
 */
static bool
take_what_is_there(void)
{
	uint64		before;
	uint64		seen;
	bool		found = false;

	for (int i = 0; i < LISTENER_CONNECTIONS; i++)
	{
		(void) listener_connections(&before);
		(void) MHD_run(listener.daemon);
		(void) listener_connections(&seen);
		if (seen == before)
			break;
		found = true;
	}
	return found;
}

/*
 * listen_turn
 *		Wait for something, then serve it.
 */
static void
listen_turn(void)
{
	WaitEvent	event;

	if (listener.starved)
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 STARVED_MS, epds_wait_event("ExactPdSyncListen"));
	else
		(void) WaitEventSetWait(listener.wait_set, turn_wait(), &event, 1,
								epds_wait_event("ExactPdSyncListen"));
	ResetLatch(MyLatch);
	listener.resumed = false;
	tell_starved(is_starved(!take_what_is_there()));
	listener_drop_slow();
	if (!slist_is_empty(listener_waiting()) && gather_left() <= 0)
		answer_waiting(listener_waiting());
}

/* See worker.h. */
void
epds_listener_main(void)
{
	MemoryContext turn = AllocSetContextCreate(TopMemoryContext, "exact_pd_sync listener turn",
											   ALLOCSET_DEFAULT_SIZES);

	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
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
		if (listener.daemon != NULL || start_listener(&address))
			listen_turn();
		else
		{
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 RETRY_MS, epds_wait_event("ExactPdSyncListen"));
			ResetLatch(MyLatch);
		}
	}
	stop_listener();
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(turn);
}
