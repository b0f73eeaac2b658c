/*-------------------------------------------------------------------------
 *
 * fuzz_webhook.c
 *		Fuzzer of src/webhook.c: no bytes crash it, none without our signature
 *		are accepted, and what is read is clean.
 *
 * An input is tried as it comes, and as a content that we sign ourselves:
 * without that no fuzzer would ever get behind the signature.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/fuzz/fuzz_webhook.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../../src/webhook.c"

#include "fuzz.h"

#define SECRET "a secret of the fuzzer"

static bool
is_clean(const char *text)
{
	for (; *text != '\0'; text++)
		if ((unsigned char) *text < 0x20 || (unsigned char) *text > 0x7E)
			return false;
	return true;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	ExactNotification note;
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int digest_len;
	char	   *body;
	size_t		len;

	if (exact_webhook_read((const char *) data, size, SECRET,
						   sizeof(SECRET) - 1, &note) != WEBHOOK_FORGED)
		abort();

	HMAC(EVP_sha256(), SECRET, sizeof(SECRET) - 1, data, size, digest,
		 &digest_len);
	body = malloc(size + 100);
	len = sizeof(opening) - 1;
	memcpy(body, opening, len);
	memcpy(body + len, data, size);
	len += size;
	memcpy(body + len, middle, sizeof(middle) - 1);
	len += sizeof(middle) - 1;
	for (unsigned int i = 0; i < digest_len; i++)
		len += (size_t) sprintf(body + len, "%02X", digest[i]);
	memcpy(body + len, "\"}", 2);
	len += 2;
	if (exact_webhook_read(body, len, SECRET, sizeof(SECRET) - 1, &note) == WEBHOOK_FORGED &&
		len <= WEBHOOK_MAX_EXACT)
		abort();
	if (!is_clean(note.topic) || !is_clean(note.action) ||
		!is_clean(note.key) || !is_clean(note.event_at) || note.division < 0)
		abort();
	free(body);
	return 0;
}
