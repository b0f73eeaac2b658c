/*-------------------------------------------------------------------------
 *
 * test_webhook.c
 *		Unit test of src/webhook.c: which notifications are genuine, and what
 *		they say.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/test_webhook.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../src/json_scan.c"
#include "../../src/webhook.c"

#include "tap.h"

#define SECRET "example-webhook-secret"

#define CONTENT \
	"{\"Topic\":\"SalesOrders\",\"ClientId\":\"5f2c9a30-6b1d-4e0e-9f57-3d1a7c4b8e21\"," \
	"\"Division\":123456,\"Action\":\"Update\",\"Key\":\"8c1f7a52-0d3e-4b6a-a4f9-2e7d9b0c6151\"," \
	"\"ExactOnlineEndpoint\":\"https://start.exactonline.nl/api/v1/123456/salesorder/SalesOrders(guid'8c1f7a52-0d3e-4b6a-a4f9-2e7d9b0c6151')\"," \
	"\"EventCreatedOn\":\"2026-03-05T14:07:31.203\"}"
#define HASH "666E304066367BA22EA86B012C71B068A0C5764EBDDF7E3851443AB3D37B742F"

static ExactNotification note;

static WebhookVerdict
read_body(const char *body)
{
	/* a copy of its exact size, so that a read beyond its end is seen */
	size_t		len = strlen(body);
	char	   *copy = malloc(len > 0 ? len : 1);
	WebhookVerdict verdict;

	memcpy(copy, body, len);
	verdict = exact_webhook_read(copy, len, SECRET, strlen(SECRET), &note);
	free(copy);
	return verdict;
}

/* A body with a good signature over any content. */
static WebhookVerdict
read_signed(const char *content, const char *rest)
{
	static char body[200000];
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int digest_len;
	char	   *p = body;

	HMAC(EVP_sha256(), SECRET, (int) strlen(SECRET),
		 (const unsigned char *) content, strlen(content), digest, &digest_len);
	p += sprintf(p, "{\"Content\":%s,\"HashCode\":\"", content);
	for (unsigned int i = 0; i < digest_len; i++)
		p += sprintf(p, "%02X", digest[i]);
	sprintf(p, "\"%s", rest);
	return read_body(body);
}

static void
test_published(void)
{
	ok(read_body("{\"Content\":" CONTENT ",\"HashCode\":\"" HASH "\"}") == WEBHOOK_GENUINE,
	   "the published example is genuine");
	is_text(note.topic, "SalesOrders", "... its topic");
	is_text(note.action, "Update", "... its action");
	is_text(note.key, "8c1f7a52-0d3e-4b6a-a4f9-2e7d9b0c6151", "... its key");
	is_text(note.event_at, "2026-03-05T14:07:31.203", "... its time");
	is_int(note.division, 123456, "... its division");
	ok(read_body("{\"Content\":" CONTENT ",\"HashCode\":\"" HASH "\"}\r\n") == WEBHOOK_GENUINE,
	   "a line break behind it does no harm");
	ok(exact_webhook_read("{\"Content\":" CONTENT ",\"HashCode\":\"" HASH "\"}",
						  strlen("{\"Content\":" CONTENT ",\"HashCode\":\"" HASH "\"}"),
						  "another secret", 14, &note) == WEBHOOK_FORGED,
	   "with another secret it is forged");
	ok(exact_webhook_read("{\"Content\":" CONTENT ",\"HashCode\":\"" HASH "\"}",
						  strlen("{\"Content\":" CONTENT ",\"HashCode\":\"" HASH "\"}"),
						  "", 0, &note) == WEBHOOK_FORGED,
	   "without a secret everything is forged");
}

static void
test_forged(void)
{
	static const struct
	{
		const char *name;
		const char *body;
	}			cases[] = {
		{"nothing", ""},
		{"one character", "{"},
		{"a JSON object", "{}"},
		{"no hash", "{\"Content\":" CONTENT "}"},
		{"an empty hash", "{\"Content\":" CONTENT ",\"HashCode\":\"\"}"},
		{"a hash in lower case", "{\"Content\":" CONTENT ",\"HashCode\":\"666e304066367ba22ea86b012c71b068a0c5764ebddf7e3851443ab3d37b742f\"}"},
		{"a hash that differs in its last digit", "{\"Content\":" CONTENT ",\"HashCode\":\"666E304066367BA22EA86B012C71B068A0C5764EBDDF7E3851443AB3D37B742E\"}"},
		{"a hash cut off", "{\"Content\":" CONTENT ",\"HashCode\":\"666E304066367BA22EA86B012C71B068A0C5764EBDDF7E3851443AB3D37B742"},
		{"a body cut off behind the hash", "{\"Content\":" CONTENT ",\"HashCode\":\"" HASH},
		{"a body cut off before its end", "{\"Content\":" CONTENT ",\"HashCode\":\"" HASH "\""},
		{"a hash that is too long", "{\"Content\":" CONTENT ",\"HashCode\":\"" HASH "0\"}"},
		{"content written again with blanks", "{\"Content\": " CONTENT ",\"HashCode\":\"" HASH "\"}"},
		{"members in another order", "{\"HashCode\":\"" HASH "\",\"Content\":" CONTENT "}"},
		{"another division", "{\"Content\":{\"Division\":1},\"HashCode\":\"" HASH "\"}"},
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
		ok(read_body(cases[i].body) == WEBHOOK_FORGED && note.topic[0] == '\0' &&
		   note.key[0] == '\0', "forged: %s", cases[i].name);
}

static void
test_every_byte(void)
{
	static const char body[] = "{\"Content\":" CONTENT ",\"HashCode\":\"" HASH "\"}";
	char		changed[sizeof(body)];
	int			accepted = 0;

	/* the last byte of the signed part is before ,"HashCode" */
	for (size_t i = 0; i < sizeof(body) - 3; i++)
	{
		memcpy(changed, body, sizeof(body));
		changed[i] ^= 0x01;
		accepted += read_body(changed) != WEBHOOK_FORGED;
	}
	is_int(accepted, 0, "a changed bit anywhere makes it forged");
	for (size_t i = 0; i < sizeof(body) - 1; i++)
	{
		memcpy(changed, body, i);
		changed[i] = '\0';
		accepted += read_body(changed) != WEBHOOK_FORGED;
	}
	is_int(accepted, 0, "cut off anywhere it is forged");
}

static void
test_strange(void)
{
	static char long_topic[400];

	ok(read_signed("{}", "}") == WEBHOOK_STRANGE, "signed and empty: strange");
	ok(read_signed("", "}") == WEBHOOK_STRANGE, "signed and nothing: strange");
	ok(read_signed("{\"Topic\":", "}") == WEBHOOK_STRANGE, "signed and no JSON: strange");
	ok(read_signed("{\"Topic\":\"SalesOrders\",\"Action\":\"Update\",\"Key\":\"no guid\",\"Division\":1}", "}") == WEBHOOK_STRANGE,
	   "a key that is no GUID: strange");
	is_text(note.topic, "SalesOrders", "... what can be read is");
	is_text(note.key, "", "... what cannot is not");
	ok(read_signed("{\"Topic\":\"SalesOrders\",\"Action\":\"Update\",\"Key\":\"8c1f7a52-0d3e-4b6a-a4f9-2e7d9b0c6151\",\"Division\":99999999999}", "}") == WEBHOOK_STRANGE,
	   "a division beyond all numbers: strange");
	ok(read_signed("{\"Topic\":\"SalesOrders\",\"Action\":\"Update\",\"Key\":\"8c1f7a52-0d3e-4b6a-a4f9-2e7d9b0c6151\",\"Division\":1.5}", "}") == WEBHOOK_STRANGE,
	   "half a division: strange");
	ok(read_signed("{\"Topic\":\"Sales\\nOrders\",\"Action\":\"Update\",\"Key\":\"8c1f7a52-0d3e-4b6a-a4f9-2e7d9b0c6151\",\"Division\":1}", "}") == WEBHOOK_STRANGE,
	   "a topic of two lines: strange");
	ok(read_signed("{\"Topic\":\"Moons\",\"Action\":\"Eclipse\",\"New\":[1,{}],\"Key\":\"8C1F7A52-0D3E-4B6A-A4F9-2E7D9B0C6151\",\"Division\":1}", ",\"More\":true}") == WEBHOOK_GENUINE,
	   "an unknown topic and further members are genuine");
	is_text(note.topic, "Moons", "... named as it is");
	is_text(note.key, "8c1f7a52-0d3e-4b6a-a4f9-2e7d9b0c6151", "... a key in upper case is made lower");
	sprintf(long_topic, "{\"Topic\":\"%0200d\",\"Action\":\"Update\",\"Key\":\"8c1f7a52-0d3e-4b6a-a4f9-2e7d9b0c6151\",\"Division\":1}", 7);
	ok(read_signed(long_topic, "}") == WEBHOOK_GENUINE && strlen(note.topic) == 64,
	   "a long topic is cut off");
	ok(read_signed("{\"a\":\",\\\"HashCode\\\":\\\"x\",\"Topic\":\"T\",\"Action\":\"Update\",\"Key\":\"8c1f7a52-0d3e-4b6a-a4f9-2e7d9b0c6151\",\"Division\":1}", "}") == WEBHOOK_GENUINE,
	   "the word HashCode within the content does not confuse");
}

static void
test_size(void)
{
	static char content[WEBHOOK_MAX_EXACT + 100];

	memset(content, ' ', sizeof(content) - 1);
	ok(read_signed(content, "}") == WEBHOOK_FORGED, "too large: not looked at");
}

int
main(void)
{
	test_published();
	test_forged();
	test_every_byte();
	test_strange();
	test_size();
	return tap_done();
}
