/*-------------------------------------------------------------------------
 *
 * fuzz_webhook_body.c
 *		Fuzzer of src/webhook.c: whole bodies, as a stranger might send them.
 *		Only what another look finds signed is taken for genuine.
 *
 * The input is the body.  The mutator changes it anywhere and, mostly, puts the
 * right hash back, so that all the ways an envelope can be broken are tried
 * beside a good signature.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/fuzz/fuzz_webhook_body.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../../src/json_scan.c"
#include "../../../src/webhook.c"

#include "fuzz.h"

#define SECRET "a secret of the fuzzer"

extern size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
extern size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
									  unsigned int seed);

/*
 * Where the hash of a body stands, found the other way round than the code does
 * it: forwards, the last one counts.  Length of the body when there is none.
 */
static size_t
hash_place(const uint8_t *body, size_t len)
{
	static const char words[] = ",\"HashCode\":\"";
	size_t		place = len;

	for (size_t i = 11; i + sizeof(words) - 1 <= len; i++)
		if (memcmp(body + i, words, sizeof(words) - 1) == 0)
			place = i + sizeof(words) - 1;
	return place;
}

/* The hash that should stand there, 64 digits. */
static void
right_hash(const uint8_t *body, size_t place, char *hash)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int digest_len;

	HMAC(EVP_sha256(), SECRET, sizeof(SECRET) - 1, body + 11, place - 13 - 11,
		 digest, &digest_len);
	for (unsigned int i = 0; i < digest_len; i++)
		sprintf(hash + 2 * i, "%02X", digest[i]);
}

size_t
LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
						unsigned int seed)
{
	size_t		len = LLVMFuzzerMutate(data, size, max_size);
	size_t		place = hash_place(data, len);
	char		hash[65];

	if (seed % 8 != 0 && place < len)
	{
		right_hash(data, place, hash);
		memcpy(data + place, hash, Min(64, len - place));
	}
	return len;
}

/* What genuine() in the code says, in other words. */
static bool
is_signed_here(const uint8_t *body, size_t len)
{
	size_t		place = hash_place(body, len);
	char		hash[65];

	if (len < 11 || memcmp(body, "{\"Content\":", 11) != 0 ||
		place + 66 > len || len > WEBHOOK_MAX_EXACT)
		return false;
	right_hash(body, place, hash);
	if (memcmp(body + place, hash, 64) != 0)
		return false;
	body += place + 64;
	len -= place + 64;
	while (len > 0 && strchr(" \t\n\v\f\r", body[len - 1]) && body[len - 1] != '\0')
		len--;
	return len >= 2 && body[0] == '"' && body[len - 1] == '}' &&
		(len == 2 || body[1] == ',');
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	ExactNotification note;
	char	   *body = malloc(size > 0 ? size : 1);
	WebhookVerdict verdict;

	memcpy(body, data, size);
	verdict = exact_webhook_read(body, size, SECRET, sizeof(SECRET) - 1, &note);
	Assert((verdict != WEBHOOK_FORGED) == is_signed_here(data, size));
	Assert(memcmp(body, data, size) == 0);
	if (verdict == WEBHOOK_FORGED)
		Assert(note.topic[0] == '\0' && note.key[0] == '\0' && note.division == 0);
	Assert(exact_webhook_read(body, size, "another secret", 14, &note) == WEBHOOK_FORGED);
	free(body);
	return 0;
}
