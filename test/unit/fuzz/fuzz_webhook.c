/*-------------------------------------------------------------------------
 *
 * fuzz_webhook.c
 *		Fuzzer of src/webhook.c: no bytes crash it, what we sign is never
 *		forged, what was changed or cut off behind the signature always is, and
 *		what is read is clean.
 *
 * The input is a content, which we sign ourselves: without that no fuzzer
 * would ever get behind the signature.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/fuzz/fuzz_webhook.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../../src/json_scan.c"
#include "../../../src/webhook.c"

#include "fuzz.h"

#define SECRET "a secret of the fuzzer"

/* Printable, and terminated within its size. */
static bool
is_clean(const char *text, size_t size)
{
	for (size_t i = 0; i < size; i++)
	{
		if (text[i] == '\0')
			return true;
		if ((unsigned char) text[i] < 0x20 || (unsigned char) text[i] > 0x7E)
			return false;
	}
	return false;
}

static bool
is_empty(const ExactNotification *note)
{
	static const ExactNotification nothing;

	return memcmp(note, &nothing, sizeof(nothing)) == 0;
}

/* A body around the content, with a good hash; malloc'd. */
static char *
sign(const uint8_t *content, size_t size, size_t *len)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int digest_len;
	char	   *body = malloc(size + 100);

	HMAC(EVP_sha256(), SECRET, sizeof(SECRET) - 1, content, size, digest,
		 &digest_len);
	*len = sizeof(opening) - 1;
	memcpy(body, opening, *len);
	memcpy(body + *len, content, size);
	*len += size;
	memcpy(body + *len, middle, sizeof(middle) - 1);
	*len += sizeof(middle) - 1;
	for (unsigned int i = 0; i < digest_len; i++)
		*len += (size_t) sprintf(body + *len, "%02X", digest[i]);
	memcpy(body + *len, "\"}", 2);
	*len += 2;
	/* of its exact size, so that a read beyond its end is seen */
	return realloc(body, *len);
}

static void
check_genuine(const char *body, size_t len)
{
	ExactNotification note;
	WebhookVerdict verdict = exact_webhook_read(body, len, SECRET, sizeof(SECRET) - 1, &note);

	Assert((verdict == WEBHOOK_FORGED) == (len > WEBHOOK_MAX_EXACT));
	Assert(is_clean(note.topic, sizeof(note.topic)));
	Assert(is_clean(note.action, sizeof(note.action)));
	Assert(is_clean(note.key, sizeof(note.key)));
	Assert(is_clean(note.event_at, sizeof(note.event_at)));
	Assert(note.division >= 0);
	if (verdict == WEBHOOK_GENUINE)
		Assert(note.topic[0] != '\0' && note.action[0] != '\0' &&
			   strlen(note.key) == 36 && note.division > 0 &&
			   strlen(note.digest) == 64);
	Assert(exact_webhook_read(body, len, "another secret", 14, &note) == WEBHOOK_FORGED &&
		   is_empty(&note));
}

/* One byte changed, and cut off: at a place that the content decides about. */
static void
check_changed(char *body, size_t len)
{
	ExactNotification note;
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int digest_len;
	size_t		place;
	char	   *part;

	EVP_Digest(body, len, digest, &digest_len, EVP_sha256(), NULL);
	place = ((size_t) digest[0] << 16 | (size_t) digest[1] << 8 | digest[2]) % len;
	/* no bit pattern of one byte is out of reach, and zero changes nothing */
	body[place] ^= (char) (digest[3] | 1);
	Assert(exact_webhook_read(body, len, SECRET, sizeof(SECRET) - 1, &note) == WEBHOOK_FORGED &&
		   is_empty(&note));
	body[place] ^= (char) (digest[3] | 1);

	part = malloc(place > 0 ? place : 1);
	memcpy(part, body, place);
	Assert(exact_webhook_read(part, place, SECRET, sizeof(SECRET) - 1, &note) == WEBHOOK_FORGED &&
		   is_empty(&note));
	free(part);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t		len;
	char	   *body = sign(data, size, &len);

	check_genuine(body, len);
	check_changed(body, len);
	free(body);
	return 0;
}
