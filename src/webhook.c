/*-------------------------------------------------------------------------
 *
 * webhook.c
 *		Is a notification genuine, and what does it say (exact-online 6.3, 6.4;
 *		pipedrive 14)?
 *
 * The body that Exact sends is {"Content":CONTENT,"HashCode":"HEX"}.  HEX is the upper-case
 * HMAC-SHA256 of CONTENT, byte for byte as received: written again by a JSON
 * library it would be another text.  So the two are cut out by position, and
 * the content is parsed only after the signature was found good.
 *
 * Pipedrive signs nothing: a user and a password are all there is.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/webhook.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>

#include "mb/pg_wchar.h"

#include "json_scan.h"
#include "webhook.h"

static const char opening[] = "{\"Content\":";
static const char middle[] = ",\"HashCode\":\"";

#define HASH_BYTES 32
#define HASH_CHARS (2 * HASH_BYTES)

/*
 * last_middle
 *		Where the last ,"HashCode":" begins; NULL when there is none.
 *
 * The last one: the content might contain the same words.
 */
static const char *
last_middle(const char *body, size_t len)
{
	size_t		width = sizeof(middle) - 1;

	if (len < width)
		return NULL;
	for (const char *p = body + len - width;; p--)
	{
		if (memcmp(p, middle, width) == 0)
			return p;
		if (p == body)
			return NULL;
	}
}

/*
 * ends_well
 *		Does what follows the hash close the object?  Further members may stand
 *		there; they are not signed and not looked at.
 */
static bool
ends_well(const char *rest, size_t len)
{
	while (len > 0 && isspace((unsigned char) rest[len - 1]))
		len--;
	return len >= 2 && rest[0] == '"' && rest[len - 1] == '}' &&
		(len == 2 || rest[1] == ',');
}

/*
 * is_signed
 *		Is the hash that of the content, as upper-case digits?
 */
static bool
is_signed(const char *content, size_t content_len, const char *hash,
		  const char *secret, size_t secret_len)
{
	static const char digits[] = "0123456789ABCDEF";
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int digest_len = 0;
	char		wanted[HASH_CHARS];
	bool		same;

	if (HMAC(EVP_sha256(), secret, (int) secret_len,
			 (const unsigned char *) content, content_len,
			 digest, &digest_len) == NULL || digest_len != HASH_BYTES)
		return false;
	for (int i = 0; i < HASH_BYTES; i++)
	{
		wanted[2 * i] = digits[digest[i] >> 4];
		wanted[2 * i + 1] = digits[digest[i] & 0x0F];
	}
	same = CRYPTO_memcmp(wanted, hash, HASH_CHARS) == 0;
	OPENSSL_cleanse(digest, sizeof(digest));
	OPENSSL_cleanse(wanted, sizeof(wanted));
	return same;
}

/*
 * digest_of
 *		SHA-256 as text: what makes two notifications one.
 */
static bool
digest_of(const char *content, size_t len, char *to)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int digest_len = 0;

	if (EVP_Digest(content, len, digest, &digest_len, EVP_sha256(), NULL) != 1 ||
		digest_len != HASH_BYTES)
		return false;
	for (int i = 0; i < HASH_BYTES; i++)
		sprintf(to + 2 * i, "%02x", digest[i]);
	return true;
}

/*
 * copy_text
 *		A member that is a text, without control characters, cut off at the
 *		size.  False when it is absent, empty or no text.
 */
static bool
copy_text(const cJSON *tree, const char *name, char *to, size_t size)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(tree, name);
	size_t		n = 0;

	to[0] = '\0';
	if (!cJSON_IsString(item))
		return false;
	for (const char *p = item->valuestring; *p != '\0' && n < size - 1; p++)
	{
		/* names of topics and the like are ASCII; half a character is none */
		if ((unsigned char) *p < 0x20 || (unsigned char) *p > 0x7E)
			return false;
		to[n++] = *p;
	}
	to[n] = '\0';
	return n > 0;
}

/*
 * is_guid
 *		36 characters with hyphens in their places; made lower case.
 */
static bool
is_guid(char *text)
{
	if (strlen(text) != 36)
		return false;
	for (int i = 0; i < 36; i++)
	{
		bool		hyphen = i == 8 || i == 13 || i == 18 || i == 23;

		if (hyphen ? text[i] != '-' : !isxdigit((unsigned char) text[i]))
			return false;
		text[i] = (char) tolower((unsigned char) text[i]);
	}
	return true;
}

/*
 * read_content
 *		Topic, division, action and key of a signed content; false when one of
 *		them is not what it should be.
 */
static bool
read_content(const cJSON *tree, ExactNotification *note)
{
	const cJSON *division = cJSON_GetObjectItemCaseSensitive(tree, "Division");
	char		key[sizeof(note->key) + 1];	/* too long shows */
	bool		good;

	good = copy_text(tree, "Topic", note->topic, sizeof(note->topic));
	good &= copy_text(tree, "Action", note->action, sizeof(note->action));
	(void) copy_text(tree, "EventCreatedOn", note->event_at,
					 sizeof(note->event_at));
	if (copy_text(tree, "Key", key, sizeof(key)) && is_guid(key))
		memcpy(note->key, key, sizeof(note->key));	/* 36 and the zero */
	else
		good = false;
	if (cJSON_IsNumber(division) && division->valuedouble >= 1 &&
		division->valuedouble <= PG_INT32_MAX &&
		division->valuedouble == (double) division->valueint)
		note->division = division->valueint;
	else
		good = false;
	return good;
}

/* See webhook.h. */
WebhookVerdict
exact_webhook_read(const char *body, size_t len, const char *secret,
				   size_t secret_len, ExactNotification *note)
{
	size_t		open_len = sizeof(opening) - 1;
	const char *end;
	const char *content;
	const char *hash;
	size_t		content_len;
	cJSON	   *tree;
	bool		good;

	memset(note, 0, sizeof(*note));
	if (len > WEBHOOK_MAX_EXACT || len < open_len || secret_len == 0 ||
		memcmp(body, opening, open_len) != 0)
		return WEBHOOK_FORGED;
	end = last_middle(body + open_len, len - open_len);
	if (end == NULL)
		return WEBHOOK_FORGED;
	content = body + open_len;
	content_len = (size_t) (end - content);
	hash = end + sizeof(middle) - 1;
	if ((size_t) (body + len - hash) < HASH_CHARS + 2 ||
		!ends_well(hash + HASH_CHARS, (size_t) (body + len - hash) - HASH_CHARS) ||
		!is_signed(content, content_len, hash, secret, secret_len))
		return WEBHOOK_FORGED;

	if (!digest_of(content, content_len, note->digest))
		return WEBHOOK_FORGED;
	tree = cJSON_ParseWithLength(content, content_len);
	good = cJSON_IsObject(tree) && read_content(tree, note);
	cJSON_Delete(tree);
	return good ? WEBHOOK_GENUINE : WEBHOOK_STRANGE;
}

/* See webhook.h. */
WebhookVerdict
pipedrive_webhook_read(const char *login, const char *expected, char *body,
					   size_t len)
{
	if (login == NULL || strlen(login) != strlen(expected) ||
		CRYPTO_memcmp(login, expected, strlen(expected)) != 0)
		return WEBHOOK_FORGED;
	if (body == NULL || len > WEBHOOK_MAX_PIPEDRIVE ||
		epds_json_scan(body, len).state != EPDS_JSON_COMPLETE ||
		!pg_verifymbstr(body, (int) len, true))
		return WEBHOOK_STRANGE;
	return WEBHOOK_GENUINE;
}
