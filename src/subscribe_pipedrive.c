/*-------------------------------------------------------------------------
 *
 * subscribe_pipedrive.c
 *		Pipedrive's part of CALL subscribe_webhooks() and unsubscribe_webhooks().
 *
 *		list ─▶ what is not as it should be ─▶ one call ─▶ … ─▶ nothing left
 *
 * SQL knows the steps (sql/67_pipedrive_hooks.sql).  Two things it does not see:
 * the password that Pipedrive is to send with each notification, and those of
 * all webhooks of the company, which Pipedrive's list shows to whoever may read
 * it.  The first one goes into the body here, just before the call; the others
 * stay here.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/subscribe_pipedrive.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <cjson/cJSON.h>

#include "lib/stringinfo.h"
#include "utils/json.h"

#include "credentials.h"
#include "exact_internal.h"
#include "inbox.h"
#include "steps.h"
#include "subscribe.h"
#include "tx.h"

#define PASSWORD "pipedrive_webhook_password"

/* A person or pg_cron waits; a handful of calls. */
#define HOOK_LANE 1
#define HOOK_LOCK_KEY 102

/* Forty webhooks are the most a user has; each is looked at a few times. */
#define MOST_STEPS 500

/* What SQL may see of a webhook; login and password are not in it. */
static const char *const shown_members[] = {
	"name", "subscription_url", "event_action", "event_object", "version", "remove_time",
};

/*
 * make_password
 *		Nobody stored a password: make one.
 *
 * It is on disk before Pipedrive hears of it.  A death in between is mended by
 * the next call, which sees that no webhook was made with this one.
 */
static char *
make_password(int64 run_id)
{
	bool		needed;

	epds_tx_begin();
	epds_sql("SELECT exact_pd_sync._hooks_lack_password()", 0, NULL);
	needed = epds_sql_bool(0, 0, false);
	if (needed)
		epds_credential_make(PASSWORD);
	epds_tx_commit_durable();
	if (needed)
		ereport(NOTICE,
				(errmsg("a password for Pipedrive's notifications was made and stored")));
	return NULL;
}

/*
 * with_login
 *		The body of a new webhook, with user and password.
 */
static char *
with_login(const char *body)
{
	StringInfoData whole;
	char	   *password;

	epds_tx_begin();
	password = epds_credential_get(PASSWORD);
	epds_tx_commit();
	if (password == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the password for Pipedrive's notifications was removed a moment ago"),
				 errhint("Call exact_pd_sync.subscribe_webhooks() again; it makes a new one.")));

	/* SQL's object is not empty: the two go behind its opening brace */
	Assert(body[0] == '{' && body[1] == '"');
	initStringInfo(&whole);
	appendStringInfoString(&whole, "{\"http_auth_user\":");
	escape_json(&whole, EPDS_PIPEDRIVE_HOOK_USER);
	appendStringInfoString(&whole, ",\"http_auth_password\":");
	escape_json(&whole, password);
	appendStringInfo(&whole, ",%s", body + 1);
	return whole.data;
}

/*
 * append_webhook
 *		What SQL may see of one webhook.
 */
static void
append_webhook(StringInfo to, const cJSON *hook)
{
	const cJSON *id = cJSON_GetObjectItemCaseSensitive(hook, "id");
	const cJSON *active = cJSON_GetObjectItemCaseSensitive(hook, "is_active");

	/* an id that is no positive whole number is none that can be deleted */
	if (cJSON_IsNumber(id) && id->valuedouble >= 1 && id->valuedouble <= 1e15 &&
		id->valuedouble == (double) (int64) id->valuedouble)
		appendStringInfo(to, "{\"id\":" INT64_FORMAT, (int64) id->valuedouble);
	else
		appendStringInfoString(to, "{\"id\":null");
	appendStringInfo(to, ",\"is_active\":%s",
					 cJSON_IsFalse(active) ||
					 (cJSON_IsNumber(active) && active->valuedouble == 0) ? "false" : "true");
	for (size_t i = 0; i < lengthof(shown_members); i++)
	{
		const cJSON *member = cJSON_GetObjectItemCaseSensitive(hook, shown_members[i]);

		if (!cJSON_IsString(member))
			continue;
		appendStringInfo(to, ",\"%s\":", shown_members[i]);
		escape_json(to, member->valuestring);
	}
	appendStringInfoChar(to, '}');
}

/* A list of webhooks, or the one that was made; null for anything else. */
static void
append_data(StringInfo to, const cJSON *tree)
{
	const cJSON *data = cJSON_GetObjectItemCaseSensitive(tree, "data");
	const cJSON *hook;
	int			n = 0;

	appendStringInfoString(to, "{\"data\":");
	if (cJSON_IsArray(data))
	{
		appendStringInfoChar(to, '[');
		cJSON_ArrayForEach(hook, data)
		{
			if (n++ > 0)
				appendStringInfoChar(to, ',');
			append_webhook(to, hook);
		}
		appendStringInfoChar(to, ']');
	}
	else if (cJSON_IsObject(data))
		append_webhook(to, data);
	else
		appendStringInfoString(to, "null");
	appendStringInfoChar(to, '}');
}

/*
 * without_logins
 *		An answer with what SQL may see of each webhook.
 */
static char *
without_logins(const char *answer)
{
	StringInfoData shown;

	initStringInfo(&shown);
	append_data(&shown, epds_json_parse(answer, strlen(answer)));
	return shown.data;
}

static const EpdsSteps hook_steps = {
	.procedure = "subscribe_webhooks",
	.begin_sql = "SELECT exact_pd_sync._hooks_begin()",
	.before = make_password,
	.next_sql = "SELECT step, method, path, body, tokens, note"
	" FROM exact_pd_sync._hooks_next($1::bigint)",
	.whole_body = with_login,
	.shown_answer = without_logins,
	.take_sql = "SELECT exact_pd_sync._hooks_take($1::bigint, $2, $3::integer, $4)",
	.lost_sql = "SELECT exact_pd_sync._hooks_lost($1::bigint, $2)",
	.end_sql = "SELECT exact_pd_sync._hooks_end($1::bigint)",
	.lane = HOOK_LANE,
	.lock_key = HOOK_LOCK_KEY,
	.most_steps = MOST_STEPS,
};

/* See subscribe.h. */
void
epds_subscribe_pipedrive(void)
{
	epds_steps_do(&hook_steps);
}
