/*-------------------------------------------------------------------------
 *
 * credentials.c
 *		Secrets at rest: table credentials, sealed with AES-256-GCM when a key
 *		file is configured.
 *
 * A sealed value is
 *
 *		version (1 byte) | nonce (12) | ciphertext | tag (16)
 *
 * and bound to its name, so that a value moved to another row does not open.
 * The key never enters the database: it is read from exact_pd_sync.key_file
 * each time, which is rare (tokens change every ten minutes), and wiped.
 *
 * Files with secrets (the key, and what store_secret() is told to read) must
 * be private to the server's user: no symbolic link, no other owner than the
 * server or root, no permission for others.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/credentials.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "port.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "compat.h"
#include "credentials.h"
#include "hex.h"
#include "http.h"
#include "settings.h"
#include "tx.h"

#define KEY_LEN 32				/* AES-256 */
#define NONCE_LEN 12			/* what GCM is made for */
#define TAG_LEN 16
#define SEAL_VERSION 1
#define SEAL_OVERHEAD (1 + NONCE_LEN + TAG_LEN)

/* Random bytes of a secret that we make ourselves. */
#define MADE_LEN 32

/* Far more than any secret has; Exact's tokens are 1 to 2 kB. */
#define MAX_SECRET 16384

PG_FUNCTION_INFO_V1(epds_store_secret);

/* What a person may store; the tokens are ours alone. */
static const char *const storable[] = {
	"exact_client_secret",
	"exact_webhook_secret",
	"pipedrive_api_token",
	"pipedrive_webhook_password",
};

/* ------------------------------------------------------------------ files */

/*
 * Throw unless the file or directory may hold secrets: owned by the server's
 * user or by root, and of no use to anybody else.
 */
static void
check_private(const struct stat *st, const char *path, mode_t forbidden)
{
	if (st->st_uid != geteuid() && st->st_uid != 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("\"%s\" is not owned by the database server's user or by root",
						path),
				 errhint("Change its owner to the user the server runs as.")));
	if ((st->st_mode & forbidden) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("\"%s\" has group or world access", path),
				 errdetail("Its permissions are 0%03o.",
						   (unsigned int) (st->st_mode & 0777)),
				 errhint("Remove them, for example with chmod go-rwx.")));
}

/*
 * Read a private file of at most max bytes; palloc'd and NUL-terminated.
 * Throws when it is not what it should be.  The descriptor belongs to the
 * transaction, so an ERROR in between closes it.
 */
static char *
read_private_file(const char *path, size_t max, size_t *len)
{
	struct stat st;
	char	   *data;
	ssize_t		got;
	int			fd;

	fd = OpenTransientFile(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | PG_BINARY);
	if (fd < 0)
	{
		bool		is_link = (errno == ELOOP);

		ereport(ERROR,
				(is_link ? errcode(ERRCODE_CONFIG_FILE_ERROR) :
				 errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path),
				 is_link ? errdetail("Symbolic links are not followed.") : 0));
	}
	if (fstat(fd, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", path)));
	if (!S_ISREG(st.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("\"%s\" is not a regular file", path)));

	/* a file of root's may be readable for a group the server is in */
	check_private(&st, path,
				  st.st_uid == 0 ? (S_IWGRP | S_IRWXO) : (S_IRWXG | S_IRWXO));

	data = palloc(max + 2);
	got = read(fd, data, max + 1);
	if (got < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", path)));
	if ((size_t) got > max)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("file \"%s\" is longer than %zu bytes", path, max)));
	CloseTransientFile(fd);
	data[got] = '\0';
	*len = (size_t) got;
	return data;
}

/* Cut the line end that editors and echo leave. */
static size_t
without_line_end(char *data, size_t len)
{
	if (len > 0 && data[len - 1] == '\n')
		len--;
	if (len > 0 && data[len - 1] == '\r')
		len--;
	data[len] = '\0';
	return len;
}

/* ---------------------------------------------------------------- sealing */

/* Decode hexadecimal text; false when it is none. */
static bool
from_hex(const char *hex, size_t hex_len, unsigned char *out)
{
	if (hex_len % 2 != 0)
		return false;
	for (size_t i = 0; i < hex_len / 2; i++)
	{
		int			high = epds_hex_value(hex[2 * i]);
		int			low = epds_hex_value(hex[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		out[i] = (unsigned char) (high << 4 | low);
	}
	return true;
}

static char *
to_hex(const unsigned char *bytes, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	char	   *hex = palloc(2 * len + 1);

	for (size_t i = 0; i < len; i++)
	{
		hex[2 * i] = digits[bytes[i] >> 4];
		hex[2 * i + 1] = digits[bytes[i] & 0xF];
	}
	hex[2 * len] = '\0';
	return hex;
}

static bool
key_configured(void)
{
	return epds_guc_key_file != NULL && epds_guc_key_file[0] != '\0';
}

/*
 * The key: 32 bytes, or 64 hexadecimal digits and a line end.  Throws when the
 * file is not as it must be.  The caller wipes the key.
 */
static void
load_key(unsigned char *key)
{
	char	   *path = pstrdup(epds_guc_key_file);
	char	   *data;
	size_t		len;
	bool		good;

	canonicalize_path(path);
	if (!is_absolute_path(path) || path_is_prefix_of_path(DataDir, path))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("key file \"%s\" must be named by an absolute path outside the data directory",
						path),
				 errdetail("A backup of the data directory would hold the key beside what it seals."),
				 errhint("Change exact_pd_sync.key_file.")));

	data = read_private_file(path, 2 * KEY_LEN + 2, &len);
	good = (len == KEY_LEN);
	if (good)
		memcpy(key, data, KEY_LEN);
	else
	{
		len = without_line_end(data, len);
		good = (len == 2 * KEY_LEN) && from_hex(data, len, key);
	}
	explicit_bzero(data, len);
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("key file \"%s\" does not hold a key", path),
				 errdetail("Expected are 64 hexadecimal digits or %d bytes.",
						   KEY_LEN),
				 errhint("Make one with \"openssl rand -hex 32\".")));
	pfree(data);
	pfree(path);
}

/*
 * AES-256-GCM in one go; sealing writes the tag, opening checks it.  Does not
 * throw, because the OpenSSL context would be lost: false on any failure.
 */
static bool
gcm(bool seal, const unsigned char *key, const unsigned char *nonce,
	const char *name, const unsigned char *in, size_t len,
	unsigned char *out, unsigned char *tag)
{
	static const char domain[] = "exact_pd_sync:";
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	const unsigned char *bound_1 = (const unsigned char *) domain;
	const unsigned char *bound_2 = (const unsigned char *) name;
	int			n;
	int			n_final;
	bool		good;

	if (ctx == NULL)
		return false;
	good = EVP_CipherInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce,
							 seal ? 1 : 0) == 1 &&
		EVP_CipherUpdate(ctx, NULL, &n, bound_1, sizeof(domain) - 1) == 1 &&
		EVP_CipherUpdate(ctx, NULL, &n, bound_2, (int) strlen(name)) == 1 &&
		EVP_CipherUpdate(ctx, out, &n, in, (int) len) == 1 &&
		(seal ||
		 EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, TAG_LEN, tag) == 1) &&
		EVP_CipherFinal_ex(ctx, out + n, &n_final) == 1 &&
		(!seal ||
		 EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG_LEN, tag) == 1);
	EVP_CIPHER_CTX_free(ctx);
	return good;
}

/* Seal a value under its name; palloc'd, *sealed_len bytes. */
static unsigned char *
seal_value(const char *name, const char *value, size_t *sealed_len)
{
	unsigned char key[KEY_LEN];
	size_t		len = strlen(value);
	unsigned char *sealed = palloc(len + SEAL_OVERHEAD);
	bool		good;

	load_key(key);
	sealed[0] = SEAL_VERSION;
	good = pg_strong_random(sealed + 1, NONCE_LEN) &&
		gcm(true, key, sealed + 1, name, (const unsigned char *) value, len,
			sealed + 1 + NONCE_LEN, sealed + 1 + NONCE_LEN + len);
	explicit_bzero(key, sizeof(key));
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not seal secret \"%s\"", name)));
	*sealed_len = len + SEAL_OVERHEAD;
	return sealed;
}

/* Open what seal_value() made; palloc'd text. */
static char *
open_value(const char *name, unsigned char *sealed, size_t sealed_len)
{
	unsigned char key[KEY_LEN];
	size_t		len;
	char	   *value;
	bool		good;

	if (!key_configured())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("secret \"%s\" is sealed and there is no key", name),
				 errhint("Set exact_pd_sync.key_file to the key it was sealed with, or store the secret again.")));
	if (sealed_len < SEAL_OVERHEAD || sealed[0] != SEAL_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("secret \"%s\" has an unknown form", name),
				 errhint("Store the secret again.")));

	load_key(key);
	len = sealed_len - SEAL_OVERHEAD;
	value = palloc(len + 1);
	good = gcm(false, key, sealed + 1, name, sealed + 1 + NONCE_LEN, len,
			   (unsigned char *) value, sealed + sealed_len - TAG_LEN);
	explicit_bzero(key, sizeof(key));
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("secret \"%s\" does not open with the key of exact_pd_sync.key_file",
						name),
				 errhint("Put the key it was sealed with in place, or store the secret again.")));
	value[len] = '\0';
	return value;
}

/* ------------------------------------------------------------------ table */

/*
 * Values are parameters of our SQL.  Switch off, until the block ends, what a
 * session could have asked the server to print of them.
 */
static void
hush(void)
{
	static const char *const printers[][2] = {
		{"auto_explain.log_min_duration", "-1"},
		{"debug_print_parse", "off"},
		{"debug_print_rewritten", "off"},
		{"debug_print_plan", "off"},
	};

	for (size_t i = 0; i < lengthof(printers); i++)
	{
		const char *now = GetConfigOption(printers[i][0], true, false);

		if (now != NULL && strcmp(now, printers[i][1]) != 0)
			(void) set_config_option(printers[i][0], printers[i][1],
									 PGC_SUSET, PGC_S_SESSION,
									 GUC_ACTION_SAVE, true, 0, false);
	}
}

char *
epds_credential_get(const char *name)
{
	const char *args[] = {name};
	unsigned char *bytes;
	char	   *hex;
	char	   *value;
	size_t		len;

	if (epds_sql("SELECT encode(value, 'hex'), sealed"
				 "  FROM exact_pd_sync.credentials WHERE name = $1",
				 1, args) == 0)
		return NULL;
	hex = epds_sql_value(0, 0);
	len = strlen(hex) / 2;
	bytes = palloc(len + 1);
	if (!from_hex(hex, 2 * len, bytes))
		elog(ERROR, "encode() gave no hexadecimal text");
	bytes[len] = '\0';
	explicit_bzero(hex, 2 * len);
	pfree(hex);

	if (epds_sql_bool(0, 1, false))
		value = open_value(name, bytes, len);
	else
		value = (char *) bytes;
	epds_redact_add(value);
	return value;
}

/*
 * The parameters that store a value: its name, hexadecimal text, whether it is
 * sealed.  What the server could print of them is switched off.
 */
static void
stored_form(const char *name, const char *value, const char *args[3])
{
	const unsigned char *bytes = (const unsigned char *) value;
	size_t		len = strlen(value);

	hush();
	epds_redact_add(value);
	if (key_configured())
		bytes = seal_value(name, value, &len);
	args[0] = name;
	args[1] = to_hex(bytes, len);
	args[2] = key_configured() ? "true" : "false";
}

void
epds_credential_set(const char *name, const char *value)
{
	const char *args[3] = {name};

	if (value == NULL)
	{
		epds_sql("DELETE FROM exact_pd_sync.credentials WHERE name = $1",
				 1, args);
		return;
	}
	stored_form(name, value, args);
	epds_sql("INSERT INTO exact_pd_sync.credentials AS c (name, value, sealed)"
			 " VALUES ($1, decode($2, 'hex'), $3::boolean)"
			 " ON CONFLICT (name) DO UPDATE"
			 "    SET value = excluded.value, sealed = excluded.sealed,"
			 "        changed_at = clock_timestamp()",
			 3, args);
}

void
epds_credential_make(const char *name)
{
	unsigned char random[MADE_LEN];
	const char *args[3];
	char	   *value;

	if (!pg_strong_random(random, sizeof(random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not make secret \"%s\": no random bytes are to be had",
						name)));
	value = to_hex(random, sizeof(random));
	explicit_bzero(random, sizeof(random));
	stored_form(name, value, args);
	explicit_bzero(value, 2 * sizeof(random));
	/* what a person stored meanwhile stays */
	epds_sql("INSERT INTO exact_pd_sync.credentials (name, value, sealed)"
			 " VALUES ($1, decode($2, 'hex'), $3::boolean)"
			 " ON CONFLICT (name) DO NOTHING",
			 3, args);
}

/* ----------------------------------------------------------- store_secret */

/* The value of "file:NAME"; throws when the file is not there or not private. */
static char *
secret_from_file(const char *name)
{
	struct stat st;
	char	   *path;
	char	   *value;
	size_t		len;

	if (epds_guc_secrets_directory == NULL ||
		epds_guc_secrets_directory[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is no directory to read secrets from"),
				 errhint("Set exact_pd_sync.secrets_directory in postgresql.conf.")));
	if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL ||
		strchr(name, '\\') != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not the name of a file in exact_pd_sync.secrets_directory",
						name),
				 errdetail("A name has no slash and does not begin with a dot.")));

	if (stat(epds_guc_secrets_directory, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat directory \"%s\": %m",
						epds_guc_secrets_directory)));
	if (!S_ISDIR(st.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("\"%s\" is not a directory", epds_guc_secrets_directory)));
	check_private(&st, epds_guc_secrets_directory, S_IWGRP | S_IWOTH);

	path = psprintf("%s/%s", epds_guc_secrets_directory, name);
	value = read_private_file(path, MAX_SECRET, &len);
	len = without_line_end(value, len);
	if (strlen(value) != len)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("file \"%s\" holds a zero byte", path)));
	return value;
}

/*
 * Throw unless the value can stand in a header line.  The text of the value is
 * in no message.
 */
static void
check_secret(const char *name, const char *value)
{
	size_t		len = strlen(value);

	if (len == 0 || len > MAX_SECRET)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("secret \"%s\" must have between 1 and %d bytes, not %zu",
						name, MAX_SECRET, len)));
	for (size_t i = 0; i < len; i++)
	{
		if (value[i] <= ' ' || value[i] > '~')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("secret \"%s\" holds a space, a line end or another character that no secret has",
							name),
					 errdetail("It is character %zu of %zu.", i + 1, len),
					 errhint("Was it copied with the text around it?")));
	}
}

/*
 * store_secret(name, value): NULL removes, "file:NAME" reads a file of
 * exact_pd_sync.secrets_directory, anything else is the secret itself.
 */
Datum
epds_store_secret(PG_FUNCTION_ARGS)
{
	char	   *name;
	char	   *value = NULL;
	bool		known = false;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name of the secret must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	for (size_t i = 0; i < lengthof(storable); i++)
		known = known || strcmp(name, storable[i]) == 0;
	if (!known)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no secret \"%s\" to store", name),
				 errhint("Use exact_client_secret, exact_webhook_secret, pipedrive_api_token or pipedrive_webhook_password.")));

	if (!PG_ARGISNULL(1))
	{
		value = text_to_cstring(PG_GETARG_TEXT_PP(1));
		if (strncmp(value, "file:", 5) == 0)
			value = secret_from_file(value + 5);
		else
			ereport(NOTICE,
					(errmsg("secret \"%s\" was given as a value", name),
					 errdetail("While the statement runs the value can be seen in pg_stat_activity, and log_statement may write it to the server log."),
					 errhint("Give file:NAME for a file in exact_pd_sync.secrets_directory instead.")));
		check_secret(name, value);
	}

	epds_tx_in_function(true);
	epds_tx_begin();
	epds_credential_set(name, value);
	epds_tx_commit();
	epds_tx_in_function(false);
	PG_RETURN_VOID();
}
