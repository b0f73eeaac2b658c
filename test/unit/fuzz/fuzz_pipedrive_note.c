/*-------------------------------------------------------------------------
 *
 * fuzz_pipedrive_note.c
 *		Fuzzer of src/webhook.c, notifications of Pipedrive: nothing is looked at
 *		without the login, and what is accepted is one text that SQL can take.
 *
 * The first byte of the input says which login comes with it, the rest is the
 * body.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/fuzz/fuzz_pipedrive_note.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../../src/json_scan.c"
#include "../../../src/webhook.c"

#include "fuzz.h"

#define LOGIN "Basic ZXhhY3RfcGRfc3luYzphIHBhc3N3b3Jk"

/* A wrong login is refused, and the body is not touched. */
static void
check_refused(const char *login, char *body, const uint8_t *data, size_t len)
{
	Assert(pipedrive_webhook_read(login, LOGIN, body, len) == WEBHOOK_FORGED);
	Assert(memcmp(body, data, len) == 0 && body[len] == '\0');
}

static void
check_taken(char *body, size_t len)
{
	WebhookVerdict verdict = pipedrive_webhook_read(LOGIN, LOGIN, body, len);
	EpdsJsonScan again;
	size_t		first = strspn(body, " \t\r\n");

	Assert(verdict != WEBHOOK_FORGED);
	Assert(body[len] == '\0');
	if (verdict != WEBHOOK_GENUINE)
		return;
	Assert(strlen(body) == len);
	Assert(body[first] == '{' || body[first] == '[');
	Assert(strchr("}] \t\r\n", body[len - 1]) != NULL);
	Assert(pg_verifymbstr(body, (int) len, true));
	again = epds_json_scan(body, len);
	Assert(again.state == EPDS_JSON_COMPLETE && again.replaced == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char login[] = LOGIN;
	size_t		len;
	size_t		place;
	char	   *body;

	if (size == 0)
		return 0;
	place = data[0] % (sizeof(login) - 1);
	len = size - 1;
	body = malloc(len + 1);
	memcpy(body, data + 1, len);
	body[len] = '\0';

	check_refused(NULL, body, data + 1, len);
	login[place] ^= 0x20;
	check_refused(login, body, data + 1, len);
	login[place] ^= 0x20;
	login[place] = '\0';
	check_refused(login, body, data + 1, len);
	login[place] = LOGIN[place];
	check_refused(LOGIN "=", body, data + 1, len);
	check_taken(body, len);
	free(body);
	return 0;
}
