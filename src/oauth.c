/*-------------------------------------------------------------------------
 *
 * oauth.c
 *		The life of Exact's tokens.
 *
 * Exact gives an access token for ten minutes and a refresh token for one use.
 * Losing the second means that a person must open a browser, so everything
 * here serves one sentence: one process at a time asks for a pair, and the
 * pair is on disk before anybody uses it (law 5).
 *
 *		 none ──exact_authorize()──▶ ok ──refresh──▶ ok ──▶ …
 *									 │
 *									 └─ refused ──▶ auth_required
 *											(a person consents again, or sets
 *											the right secret ──▶ ok)
 *
 * The refresher's lock is an advisory lock of this database, held by the
 * session and not by a transaction, because transactions end between the steps
 * while the lock must not.  It is polled, never waited for, and released in
 * PG_FINALLY: it would survive an ERROR.
 *
 * Times.  The service refuses a refresh before 570 of the 600 seconds are over
 * and counts the attempt as an error.  Both figures are taken as parts of
 * expires_in, so that a server with another lifetime (or a simulated one whose
 * clock runs fast) is treated the same.  The database's clock judges alone:
 * what counts is how long ago we stored the pair.  When that lies ahead the
 * clock was set back, and the pair is taken for one that is due.
 *
 * Failures.  A refresh is announced as failed before it is asked for, and the
 * announcement is taken back with the pair that it brings.  So the pause after
 * a failure (5 s, 10 s, ... 15 min) holds for all sessions and workers, over a
 * crash too, and the 200 token calls of a day cannot be used up by repeating.
 *
 * From the moment the request is sent until the pair is on disk interrupts are
 * held (oauth_endpoint.c limits for how long).
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/oauth.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "credentials.h"
#include "exact_internal.h"
#include "http.h"
#include "instance.h"
#include "tx.h"

/* Earliest refresh: 570 of 600 seconds. */
#define EARLIEST_PER_MILLE 950

/* The token is not used in the last 5 of its 600 seconds. */
#define MARGIN_MS 5000
#define MARGIN_PART 120

/* Between two attempts to get the lock. */
#define LOCK_POLL_MS 100

/* A pause after failures that a session waits for; longer ones are an ERROR. */
#define SHORT_WAIT_MS 15000

/* Stored in the future: by more than this, and the clock was set back. */
#define CLOCK_JITTER_MS 60000

/* Attempts to store a pair; between them one second. */
#define STORE_ATTEMPTS 3

/* What the tables say about the pair in use. */
typedef struct TokenInfo
{
	char	   *state;			/* none, ok, auth_required */
	char	   *last_error;		/* NULL: none */
	char	   *refused;		/* app, consent, NULL: not said */
	int64		age_ms;			/* since it was stored */
	int64		left_ms;		/* until it ends */
	int64		wait_ms;		/* until the endpoint may be asked */
	int64		failures;		/* in a row */
	int64		generation;
	bool		instance_ok;
} TokenInfo;

typedef enum RefreshResult
{
	REFRESH_DONE,				/* a new pair is stored */
	REFRESH_NEWER,				/* somebody else stored one meanwhile */
	REFRESH_TOO_EARLY,			/* the pair in use is still good */
	REFRESH_AUTH_REQUIRED,		/* a person must consent again */
	REFRESH_USED_UP,			/* the token calls of the day */
	REFRESH_BUSY,				/* somebody else holds the lock */
	REFRESH_NOT_YET,			/* it failed before and waits its turn */
	REFRESH_FAILED				/* may pass: network, server */
} RefreshResult;

/* Generation of the pair that epds_oauth_token() gave last in this process. */
static int64 used_generation = -1;

/* -------------------------------------------------------------- the state */

/* Read the state inside an open block. */
static void
read_info(TokenInfo *info)
{
	epds_sql("SELECT t.state,"
			 " (extract(epoch FROM clock_timestamp() - t.issued_at) * 1000)::bigint,"
			 " (extract(epoch FROM t.access_expires_at - clock_timestamp()) * 1000)::bigint,"
			 " t.generation, exact_pd_sync._instance_ok(),"
			 " c.last_error, c.refused, exact_pd_sync._token_wait(), c.failures"
			 " FROM exact_pd_sync._token_state() AS t"
			 " LEFT JOIN exact_pd_sync.exact_consent AS c ON true", 0, NULL);
	info->state = epds_sql_value(0, 0);
	info->age_ms = epds_sql_int(0, 1, 0);
	info->left_ms = epds_sql_int(0, 2, 0);
	info->generation = epds_sql_int(0, 3, 0);
	info->instance_ok = epds_sql_bool(0, 4, false);
	info->last_error = epds_sql_value(0, 5);
	info->refused = epds_sql_value(0, 6);
	info->wait_ms = epds_sql_int(0, 7, 0);
	info->failures = epds_sql_int(0, 8, 0);

	if (info->age_ms < -CLOCK_JITTER_MS)
	{
		int64		lifetime = info->age_ms + info->left_ms;

		info->age_ms = (lifetime * EARLIEST_PER_MILLE + 999) / 1000;
		info->left_ms = lifetime - info->age_ms;
	}
}

static bool
state_is(const TokenInfo *info, const char *state)
{
	return info->state != NULL && strcmp(info->state, state) == 0;
}

/* May the access token still be used? */
static bool
is_fresh(const TokenInfo *info)
{
	int64		lifetime = info->age_ms + info->left_ms;

	return info->left_ms > Min(MARGIN_MS, lifetime / MARGIN_PART);
}

/* How long until a refresh may be asked for, in ms; 0: now. */
static int64
due_in(const TokenInfo *info)
{
	int64		lifetime = info->age_ms + info->left_ms;
	int64		earliest = (lifetime * EARLIEST_PER_MILLE + 999) / 1000;

	return Max(0, earliest - info->age_ms);
}

/* May a refresh be asked for? */
static bool
is_due(const TokenInfo *info)
{
	return due_in(info) == 0;
}

static void
throw_auth_required(const char *detail, const char *refused)
{
	if (refused != NULL && strcmp(refused, "app") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("Exact Online does not accept the app's id or secret"),
				 detail ? errdetail("%s", detail) : 0,
				 errhint("Set what the Exact App Center shows with SELECT exact_pd_sync.set_exact_app(…); nothing else is needed then.")));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
			 errmsg("Exact Online needs the consent of a person again"),
			 detail ? errdetail("%s", detail) : 0,
			 errhint("Open the address that SELECT exact_pd_sync.exact_authorize_url() gives, then CALL exact_pd_sync.exact_authorize('…') with the address the browser was sent back to.")));
}

/* Throw unless tokens may be used at all. */
static void
check_usable(const TokenInfo *info)
{
	if (!info->instance_ok)
		epds_throw_not_this_instance();
	if (state_is(info, "none"))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Exact Online is not connected yet"),
				 errhint("Open the address that SELECT exact_pd_sync.exact_authorize_url() gives, then CALL exact_pd_sync.exact_authorize('…').")));
	if (!state_is(info, "ok"))
		throw_auth_required(info->last_error, info->refused);
}

/* ------------------------------------------------------------- rotation */

/*
 * Book a token call in the journal; a call that never left is not one of the
 * 200 that Exact allows in a day.
 */
void
epds_log_token_call(const EpdsTokenAnswer *token, const char *how)
{
	const char *args[5];

	args[0] = how;
	args[1] = psprintf("%d", token->status);
	args[2] = (token->access != NULL) ? "ok" :
		token->too_early ? "too_early" : token->lost ? "retry" : "refused";
	args[3] = psprintf("%d", token->ms);
	args[4] = token->access ? NULL : token->text;
	epds_sql("INSERT INTO exact_pd_sync.api_calls"
			 " (side, what, method, path, status, outcome, ms, error)"
			 " VALUES ('exact', 'token ' || $1, 'POST', '/api/oauth2/token',"
			 " nullif($2::integer, 0), $3, $4::integer, left($5, 500))", 5, args);
	if (!token->sent)
		epds_sql("UPDATE exact_pd_sync.exact_consent"
				 " SET calls_today = greatest(calls_today - 1, 0)", 0, NULL);
}

/* Store a pair, on disk before this returns. */
static void
store_pair_once(const EpdsTokenAnswer *token, const char *how)
{
	const char *args[] = {psprintf("%d", token->expires_in), how};

	epds_tx_begin();
	epds_credential_set("exact_access_token", token->access);
	if (token->refresh != NULL)
		epds_credential_set("exact_refresh_token", token->refresh);
	epds_sql("SELECT exact_pd_sync._token_stored($1::integer, $2)", 2, args);
	epds_log_token_call(token, how);
	epds_tx_commit_durable();
}

/*
 * One attempt that does not throw: false when it failed, with a WARNING.
 * Interrupts stay held, although an ERROR gives up the hold.
 */
static bool
try_store_pair(const EpdsTokenAnswer *token, const char *how)
{
	MemoryContext cxt = CurrentMemoryContext;
	volatile bool stored = false;

	PG_TRY();
	{
		store_pair_once(token, how);
		stored = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		InterruptHoldoffCount = 1;
		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		epds_tx_abort();
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("could not store the new tokens of Exact Online: %s",
						error->message),
				 errdetail("It is tried again; the old tokens are spent.")));
		FreeErrorData(error);
	}
	PG_END_TRY();
	return stored;
}

/*
 * Store a pair durably, not giving up at the first failure: the spent token is
 * worth nothing any more, and what failed (a full disk, a lock) may pass.
 * Throws when the last attempt fails.
 */
void
epds_store_token_pair(const EpdsTokenAnswer *token, const char *how)
{
	for (int attempt = 1; attempt < STORE_ATTEMPTS; attempt++)
	{
		if (try_store_pair(token, how))
			return;
		epds_http_sleep(1000, PG_WAIT_EXTENSION);
	}
	store_pair_once(token, how);
}

/* Note a refusal; state "ok" for one that may pass. */
static void
note_failure(const char *state, const char *text, const char *refused)
{
	const char *args[] = {state, text, refused};

	epds_tx_begin();
	epds_sql("SELECT exact_pd_sync._token_failed($1, $2, $3)", 3, args);
	epds_tx_commit();
}

/*
 * What does the service refuse: "app", "consent", or NULL when it does not say?
 * unauthorized_client is used for both; its text is one of the few that are
 * known (exact-online 1.4).
 */
static const char *
what_is_refused(const EpdsTokenAnswer *token)
{
	if (strcmp(token->error, "invalid_client") == 0)
		return "app";
	if (strcmp(token->error, "invalid_grant") == 0 ||
		strstr(token->text, "refresh token") != NULL)
		return "consent";
	return NULL;
}

/* One refresh under the lock. */
typedef struct Refresh
{
	int64		known_generation;
	bool		repeated;		/* the answer was lost: asked once more */
	char	   *base_url;
	char	   *form;
	char	   *sent;			/* the refresh token that was sent */
	bool		lost;			/* it may be spent, but no pair came back */
	const char *refused;		/* app, consent, NULL */
	int64		wait_ms;		/* not yet: how long still */
	int64		failures;		/* before this one */
	char	   *text;			/* for people: what went wrong */
} Refresh;

/*
 * Read what is needed for a refresh, and announce it.  REFRESH_DONE: go on.
 */
static RefreshResult
prepare_refresh(Refresh *refreshing)
{
	TokenInfo	info;
	StringInfoData form;
	char	   *refresh;
	char	   *secret;
	char	   *client_id;
	bool		used_up;

	epds_tx_begin();
	read_info(&info);
	refresh = epds_credential_get("exact_refresh_token");
	secret = epds_credential_get("exact_client_secret");
	epds_sql("SELECT client_id, redirect_uri, base_url FROM exact_pd_sync._exact_app()",
			 0, NULL);
	client_id = epds_sql_value(0, 0);
	refreshing->base_url = epds_sql_value(0, 2);
	if (info.generation != refreshing->known_generation)
	{
		epds_tx_commit();
		return REFRESH_NEWER;
	}
	check_usable(&info);
	if (refresh == NULL || secret == NULL || client_id == NULL)
	{
		epds_tx_commit();
		refreshing->text = pstrdup("the refresh token or the client secret is not in store");
		return REFRESH_AUTH_REQUIRED;
	}
	if (info.wait_ms > 0 && !refreshing->repeated)
	{
		epds_tx_commit();
		refreshing->wait_ms = info.wait_ms;
		refreshing->failures = info.failures;
		refreshing->text = info.last_error ? info.last_error :
			pstrdup("the last answer was not seen");
		return REFRESH_NOT_YET;
	}
	epds_check_base_url(refreshing->base_url);
	epds_sql("SELECT exact_pd_sync._token_reserve()", 0, NULL);
	used_up = !epds_sql_bool(0, 0, false);
	if (!refreshing->repeated)
	{
		refreshing->failures = info.failures;
		epds_sql("SELECT exact_pd_sync._token_announce()", 0, NULL);
	}
	epds_tx_commit_durable();
	if (used_up)
	{
		refreshing->text = pstrdup("the 200 token calls of the day are used up");
		return REFRESH_USED_UP;
	}
	refreshing->sent = refresh;

	initStringInfo(&form);
	epds_append_form(&form, "grant_type", "refresh_token");
	epds_append_form(&form, "client_id", client_id);
	epds_append_form(&form, "client_secret", secret);
	epds_append_form(&form, "refresh_token", refresh);
	refreshing->form = form.data;
	return REFRESH_DONE;
}

/* Ask once with the refresh token in store.  The lock is held. */
static RefreshResult
refresh_once(Refresh *refreshing)
{
	EpdsTokenAnswer token;
	RefreshResult result = prepare_refresh(refreshing);

	if (result != REFRESH_DONE)
		return result;

	HOLD_INTERRUPTS();
	epds_ask_for_token(refreshing->base_url, refreshing->form, &token);
	if (token.access != NULL)
		epds_store_token_pair(&token, "refresh");
	RESUME_INTERRUPTS();

	if (token.access != NULL)
		return REFRESH_DONE;

	refreshing->text = token.text;
	refreshing->lost = token.sent && token.lost &&
		(token.status == 0 || token.status == 200);
	refreshing->refused = what_is_refused(&token);
	epds_tx_begin();
	epds_log_token_call(&token, "refresh");
	if (token.too_early)
		epds_sql("SELECT exact_pd_sync._token_too_early()", 0, NULL);
	epds_tx_commit();
	if (token.too_early)
		return REFRESH_TOO_EARLY;
	if (strcmp(token.error, "unauthorized_client") == 0 ||
		strcmp(token.error, "invalid_grant") == 0 ||
		strcmp(token.error, "invalid_client") == 0)
		return REFRESH_AUTH_REQUIRED;
	return REFRESH_FAILED;
}

/*
 * Refresh under the lock.  A refused token is tried again when the store holds
 * another one by now (a person consented meanwhile); a lost answer is tried
 * again once, because some sites let the old token live a little longer.
 */
static RefreshResult
refresh_locked(Refresh *refreshing)
{
	RefreshResult result = refresh_once(refreshing);

	if (result == REFRESH_AUTH_REQUIRED && refreshing->sent != NULL)
	{
		TokenInfo	info;
		char	   *stored;

		epds_tx_begin();
		read_info(&info);
		stored = epds_credential_get("exact_refresh_token");
		epds_tx_commit();
		if (stored != NULL && strcmp(stored, refreshing->sent) != 0)
		{
			if (info.generation != refreshing->known_generation)
				return REFRESH_NEWER;
			refreshing->repeated = true;
			result = refresh_once(refreshing);
		}
	}
	else if (result == REFRESH_FAILED && refreshing->lost &&
			 refreshing->failures == 0)
	{
		/* only the first time: a service that is down is not asked twice */
		epds_pause(1000);
		refreshing->repeated = true;
		result = refresh_once(refreshing);
	}

	if (result == REFRESH_AUTH_REQUIRED)
		note_failure("auth_required", refreshing->text, refreshing->refused);
	else if (result == REFRESH_FAILED || result == REFRESH_USED_UP)
		note_failure("ok", refreshing->text, NULL);
	return result;
}

/*
 * Refresh the pair of known_generation.  With wait, stand in line for the
 * lock; then REFRESH_NEWER is what usually comes of it.  Outside a block only;
 * throws on trouble of ours, on interrupts, and when no token may be used.
 */
static RefreshResult
refresh_pair(int64 known_generation, bool wait, Refresh *refreshing)
{
	volatile RefreshResult result = REFRESH_FAILED;
	int64		waited_ms = 0;

	memset(refreshing, 0, sizeof(*refreshing));
	refreshing->known_generation = known_generation;
	while (!epds_lock_try(EPDS_LOCK_REFRESHER, 0))
	{
		TokenInfo	info;

		if (!wait || waited_ms >= EPDS_REFRESHER_PATIENCE_MS)
			return REFRESH_BUSY;
		epds_pause(LOCK_POLL_MS);
		waited_ms += LOCK_POLL_MS;
		epds_tx_begin();
		read_info(&info);
		epds_tx_commit();
		if (info.generation != known_generation)
			return REFRESH_NEWER;
	}

	PG_TRY();
	{
		result = refresh_locked(refreshing);
	}
	PG_FINALLY();
	{
		epds_lock_release(EPDS_LOCK_REFRESHER, 0);
	}
	PG_END_TRY();
	return result;
}

static void
throw_not_yet(const Refresh *refreshed)
{
	ereport(ERROR,
			(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
			 errmsg("could not refresh the tokens of Exact Online: %s",
					refreshed->text),
			 errdetail("It failed %lld times in a row, and is tried again in %lld seconds.",
					   (long long) refreshed->failures,
					   (long long) (refreshed->wait_ms + 999) / 1000)));
}

/* ------------------------------------------------------------ interfaces */

/*
 * A valid access token, palloc'd.  rejected: the service refused the one given
 * last.  See exact.h.
 */
char *
epds_oauth_token(bool rejected)
{
	/* each turn but the last either returns, throws or makes a new pair */
	for (int turn = 0; turn < 4; turn++)
	{
		TokenInfo	info;
		Refresh		refreshed;
		char	   *access;

		epds_tx_begin();
		read_info(&info);
		check_usable(&info);
		access = epds_credential_get("exact_access_token");
		epds_tx_commit();

		if (info.generation != used_generation)
			rejected = false;
		if (!rejected && access != NULL && is_fresh(&info))
		{
			used_generation = info.generation;
			return access;
		}
		if (rejected && !is_due(&info))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
					 errmsg("Exact Online rejected the access token before its time"),
					 errdetail("It was given %lld seconds ago; a new one may be asked for after %lld seconds.",
							   (long long) (info.age_ms / 1000),
							   (long long) ((info.age_ms + info.left_ms) *
											EARLIEST_PER_MILLE / 1000000)),
					 errhint("Another program may use the same app registration, or the consent was withdrawn. The next run tries again.")));

		switch (refresh_pair(info.generation, true, &refreshed))
		{
			case REFRESH_DONE:
			case REFRESH_NEWER:
				rejected = false;
				break;
			case REFRESH_TOO_EARLY:
				if (rejected)
					ereport(ERROR,
							(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
							 errmsg("Exact Online rejected the access token and gives no new one yet"),
							 errdetail_internal("%s", refreshed.text),
							 errhint("The next run tries again.")));
				break;
			case REFRESH_AUTH_REQUIRED:
				throw_auth_required(refreshed.text, refreshed.refused);
				break;
			case REFRESH_USED_UP:
				ereport(ERROR,
						(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						 errmsg("the 200 token calls that Exact Online allows in a day are used up"),
						 errhint("The count starts anew at 00:00 UTC. Another program with the same app registration draws on it too.")));
				break;
			case REFRESH_BUSY:
				ereport(ERROR,
						(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						 errmsg("another session has been refreshing the tokens of Exact Online for %d seconds",
								EPDS_REFRESHER_PATIENCE_MS / 1000)));
				break;
			case REFRESH_FAILED:
				ereport(ERROR,
						(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
						 errmsg("could not refresh the tokens of Exact Online: %s",
								refreshed.text)));
				break;
			case REFRESH_NOT_YET:
				if (refreshed.wait_ms > SHORT_WAIT_MS)
					throw_not_yet(&refreshed);
				epds_pause(refreshed.wait_ms);
				break;
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
			 errmsg("Exact Online gives no access token that lasts"),
			 errdetail("Several new tokens were past their time as soon as they were stored."),
			 errhint("Check the clock of this server.")));
	return NULL;				/* not reached */
}

/* The access token in store if it may still be used, else NULL. */
char *
epds_oauth_token_at_hand(void)
{
	bool		own_block = !epds_tx_is_open();
	TokenInfo	info;
	char	   *access = NULL;

	if (own_block)
		epds_tx_begin();
	read_info(&info);
	if (info.instance_ok && state_is(&info, "ok") && is_fresh(&info))
		access = epds_credential_get("exact_access_token");
	if (own_block)
		epds_tx_commit();
	return access;
}

/*
 * How long until the pair is due, in ms; 0: now; -1: there is none that may be
 * kept alive.  Outside a block only.
 */
int64
epds_oauth_due_in(void)
{
	TokenInfo	info;
	int64		due = -1;

	epds_tx_begin();
	if (epds_extension_exists())
	{
		read_info(&info);
		if (info.instance_ok && state_is(&info, "ok"))
			due = Max(due_in(&info), info.wait_ms);
	}
	epds_tx_commit();
	return due;
}

/*
 * Intake worker: refresh when due.  What may pass is logged once; nothing is
 * thrown for it.
 */
void
epds_oauth_keep_alive(void)
{
	static bool failing = false;
	TokenInfo	info;
	Refresh		refreshed;
	RefreshResult result;

	epds_tx_begin();
	read_info(&info);
	epds_tx_commit();
	if (!info.instance_ok || !state_is(&info, "ok") || !is_due(&info) ||
		info.wait_ms > 0)
		return;

	result = refresh_pair(info.generation, false, &refreshed);
	if (result == REFRESH_DONE || result == REFRESH_NEWER)
	{
		if (failing)
			ereport(LOG,
					(errmsg("the tokens of Exact Online are refreshed again")));
		failing = false;
	}
	else if (result == REFRESH_AUTH_REQUIRED)
		ereport(WARNING,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("Exact Online gives no tokens any more: %s",
						refreshed.text),
				 errhint("SELECT * FROM exact_pd_sync.status says what has to be done.")));
	else if ((result == REFRESH_FAILED || result == REFRESH_USED_UP) && !failing)
	{
		failing = true;
		ereport(LOG,
				(errmsg("could not refresh the tokens of Exact Online: %s",
						refreshed.text),
				 errdetail("It is tried again; this is not logged each time.")));
	}
}
