/*-------------------------------------------------------------------------
 *
 * settings.c
 *		The extension's settings (GUCs).
 *
 * What differs from server to server stands here; what belongs to a customer
 * (hosts, divisions, rules) is rows in tables, so that it is dumped with the
 * database and changed in a transaction.  No secret is ever a setting:
 * pg_read_all_settings can read them all.
 *
 * Everything but the list of databases can be set per database with ALTER
 * DATABASE ... SET by a superuser, because one customer is one database.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/settings.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/varlena.h"

#include "listen_address.h"
#include "settings.h"
#include "worker.h"

/* Defaults with a reason; the others speak for themselves. */
#define DEFAULT_MAX_CONNECTIONS 8	/* hides 150 ms of latency at the burst limit
									 * of the largest plan */
#define DEFAULT_HTTP_TIMEOUT_MS 60000	/* Exact's bulk pages take up to 30 s */
#define DEFAULT_POLL_INTERVAL_MS 5000	/* what a lost wake-up may cost */

char	   *epds_guc_databases = NULL;
char	   *epds_guc_listen = NULL;
char	   *epds_guc_role = NULL;
char	   *epds_guc_secrets_directory = NULL;
char	   *epds_guc_key_file = NULL;
int			epds_guc_max_connections = DEFAULT_MAX_CONNECTIONS;
int			epds_guc_http_timeout = DEFAULT_HTTP_TIMEOUT_MS;
int			epds_guc_poll_interval = DEFAULT_POLL_INTERVAL_MS;
bool		epds_guc_resume_after_promotion = false;
bool		epds_guc_allow_insecure_http = false;

/*
 * Is the list of databases one, and short enough?  Names are taken as they are
 * written (no folding to lower case), double quotes are allowed.
 */
static bool
check_databases(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval ? *newval : "");
	List	   *names = NIL;
	bool		ok = SplitGUCList(copy, ',', &names);

	if (!ok)
		GUC_check_errdetail("List syntax is invalid.");
	else if (list_length(names) > EPDS_MAX_DATABASES)
	{
		ok = false;
		GUC_check_errdetail("The list may name at most %d databases.",
							EPDS_MAX_DATABASES);
	}
	list_free(names);
	pfree(copy);
	return ok;
}

/* Is the list of addresses one? */
static bool
check_listen(char **newval, void **extra, GucSource source)
{
	ListenAddress address;
	const char *trouble = listen_address_find(*newval, NULL, &address);

	if (trouble == NULL)
		return true;
	GUC_check_errdetail("In a list of DATABASE=ADDRESS:PORT, %s.", trouble);
	return false;
}

/* A path must be absolute: a relative one would be inside the data directory. */
static bool
check_path(char **newval, void **extra, GucSource source)
{
	if (*newval == NULL || **newval == '\0' || is_absolute_path(*newval))
		return true;
	GUC_check_errdetail("The path must be absolute.");
	return false;
}

static void
define_who_and_where(void)
{
	DefineCustomStringVariable("exact_pd_sync.databases",
							   "Databases that workers run for.",
							   "Comma-separated list; empty: no workers. Changes act at a reload.",
							   &epds_guc_databases, "",
							   PGC_SIGHUP, GUC_LIST_INPUT,
							   check_databases, NULL, NULL);
	DefineCustomStringVariable("exact_pd_sync.listen",
							   "Where notifications are taken in, per database.",
							   "List of DATABASE=ADDRESS:PORT with numeric addresses; empty: no listener. Meant to stand behind a reverse proxy. Changes act at a reload.",
							   &epds_guc_listen, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_listen, NULL, NULL);
	DefineCustomStringVariable("exact_pd_sync.role",
							   "Role that workers and procedures do their work as.",
							   "Empty: the owner of the extension.",
							   &epds_guc_role, "",
							   PGC_SUSET, 0,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("exact_pd_sync.secrets_directory",
							   "Directory that file:NAME is read from when a secret is stored.",
							   "Empty: secrets cannot be read from files.",
							   &epds_guc_secrets_directory, "",
							   PGC_SUSET, GUC_SUPERUSER_ONLY,
							   check_path, NULL, NULL);
	DefineCustomStringVariable("exact_pd_sync.key_file",
							   "File with the key that stored secrets are encrypted with.",
							   "Empty: secrets are stored as they are.",
							   &epds_guc_key_file, "",
							   PGC_SUSET, GUC_SUPERUSER_ONLY,
							   check_path, NULL, NULL);
}

static void
define_how(void)
{
	DefineCustomIntVariable("exact_pd_sync.max_connections",
							"Connections to Pipedrive at the same time, per database.",
							NULL,
							&epds_guc_max_connections,
							DEFAULT_MAX_CONNECTIONS, 1, 64,
							PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("exact_pd_sync.http_timeout",
							"Longest time a whole HTTP request may take.",
							NULL,
							&epds_guc_http_timeout,
							DEFAULT_HTTP_TIMEOUT_MS, 100, 10 * 60 * 1000,
							PGC_SUSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("exact_pd_sync.poll_interval",
							"Longest time an idle worker sleeps before it looks again.",
							"Wake-ups make workers look sooner; this is what a lost one costs.",
							&epds_guc_poll_interval,
							DEFAULT_POLL_INTERVAL_MS, 100, 10 * 60 * 1000,
							PGC_SUSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("exact_pd_sync.resume_after_promotion",
							 "Go on by itself after a standby was promoted.",
							 "Waives a change of the timeline only; any other difference "
							 "still waits for confirm_instance().",
							 &epds_guc_resume_after_promotion, false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("exact_pd_sync.allow_insecure_http",
							 "Allow plain http to loopback addresses.",
							 "For tests and the demo with simulated services.",
							 &epds_guc_allow_insecure_http, false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
}

/*
 * Define all settings.  Called once per process from _PG_init (in the
 * postmaster when the library is preloaded).
 */
void
epds_settings_init(void)
{
	define_who_and_where();
	define_how();
	MarkGUCPrefixReserved("exact_pd_sync");
}
