/*-------------------------------------------------------------------------
 *
 * redact.c
 *		No secret in any text that leaves us.
 *
 * Two nets.  The values this process has handled are known by heart and are
 * masked wherever they stand, as they are or escaped the way URLs, forms and
 * JSON do.  And what follows a telling name ("refresh_token=", "Authorization:")
 * is masked too, because a server may echo a secret this process never learnt.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/redact.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "lib/stringinfo.h"
#include "utils/memutils.h"

#include "http.h"

#define MASK "***"

/*
 * A token pair is replaced every ten minutes; this keeps the last hour and a
 * half of them beside the ones that stay.  The oldest is forgotten first.
 */
#define MAX_SECRETS 24

/* Shorter ones cannot be masked without making texts unreadable. */
#define MIN_SECRET_LENGTH 4

/*
 * A text that was cut (libcurl's buffer, a verdict's) may end inside a secret:
 * its beginning is masked too, from this length on.
 */
#define MIN_CUT_LENGTH 8

/* What follows "Bearer" and is shorter is a word, not a token. */
#define MIN_BEARER_LENGTH 12

/* As it is, %-escaped in either case of hex digits, and inside a JSON string. */
#define FORMS 4

typedef struct Secret
{
	char	   *form[FORMS];	/* NULL: same as an earlier one */
	size_t		len[FORMS];
} Secret;

static Secret secrets[MAX_SECRETS];
static int	secret_count = 0;
static int	secret_next = 0;

/*
 * First bytes of all forms of all secrets there ever were, so that a text
 * without any costs one look per byte.
 */
static bool first_bytes[UCHAR_MAX + 1];

/* How far what follows a telling name reaches. */
typedef enum ValueKind
{
	VALUE_WORD,					/* to the next blank or separator, or a string */
	VALUE_LINE,					/* to the end of the line, or a string */
	VALUE_SCHEME				/* a word after a blank: "Bearer x" */
} ValueKind;

static const struct
{
	const char *name;
	ValueKind	kind;
}			telling_names[] = {
	{"authorization", VALUE_LINE},
	{"cookie", VALUE_LINE},
	{"set-cookie", VALUE_LINE},
	{"x-api-token", VALUE_WORD},
	{"api_token", VALUE_WORD},
	{"access_token", VALUE_WORD},
	{"refresh_token", VALUE_WORD},
	{"client_secret", VALUE_WORD},
	{"webhook_secret", VALUE_WORD},
	{"password", VALUE_WORD},
	{"bearer", VALUE_SCHEME},
	{"basic", VALUE_SCHEME},
};

/* Characters that stand in a URL or form as they are (RFC 3986, unreserved). */
static bool
is_unreserved(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		(c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' || c == '~';
}

static void
append_percent(StringInfo out, const char *text, const char *digits)
{
	for (; *text; text++)
	{
		unsigned char c = (unsigned char) *text;

		if (is_unreserved(*text))
			appendStringInfoChar(out, *text);
		else
		{
			appendStringInfoChar(out, '%');
			appendStringInfoChar(out, digits[c >> 4]);
			appendStringInfoChar(out, digits[c & 0x0F]);
		}
	}
}

static void
append_json_form(StringInfo out, const char *text)
{
	for (; *text; text++)
	{
		if (*text == '"' || *text == '\\' || *text == '/')
			appendStringInfoChar(out, '\\');
		appendStringInfoChar(out, *text);
	}
}

/*
 * One form of a secret, in memory that lives as long as the process.  The
 * working copy is wiped.
 */
static void
keep_form(Secret *secret, int which, StringInfo text)
{
	if (which == 0 || strcmp(text->data, secret->form[0]) != 0)
	{
		secret->form[which] = MemoryContextStrdup(TopMemoryContext, text->data);
		secret->len[which] = text->len;
		first_bytes[(unsigned char) text->data[0]] = true;
	}
	memset(text->data, 0, text->len);
	resetStringInfo(text);
}

static void
forget(Secret *secret)
{
	int			i;

	for (i = 0; i < FORMS; i++)
	{
		if (secret->form[i] != NULL)
		{
			memset(secret->form[i], 0, secret->len[i]);
			pfree(secret->form[i]);
			secret->form[i] = NULL;
		}
	}
}

/*
 * Make a secret known to epds_redact() for the rest of this process's life
 * (or until MAX_SECRETS newer ones came).  NULL and very short ones are
 * ignored.
 */
void
epds_redact_add(const char *secret)
{
	StringInfoData text;
	Secret	   *place;
	int			i;

	if (secret == NULL || strlen(secret) < MIN_SECRET_LENGTH)
		return;
	for (i = 0; i < secret_count; i++)
	{
		if (secrets[i].form[0] && strcmp(secrets[i].form[0], secret) == 0)
			return;
	}

	place = &secrets[secret_next];
	forget(place);
	secret_next = (secret_next + 1) % MAX_SECRETS;
	secret_count = Min(secret_count + 1, MAX_SECRETS);

	initStringInfo(&text);
	appendStringInfoString(&text, secret);
	keep_form(place, 0, &text);
	append_percent(&text, secret, "0123456789ABCDEF");
	keep_form(place, 1, &text);
	append_percent(&text, secret, "0123456789abcdef");
	keep_form(place, 2, &text);
	append_json_form(&text, secret);
	keep_form(place, 3, &text);
	pfree(text.data);
}

/*
 * How much of a secret stands here: all of it, or at the end of the text a
 * beginning of it; 0 if it does not.
 */
static size_t
match_length(const char *text, const char *value, size_t len)
{
	size_t		n = 0;

	while (n < len && text[n] == value[n])
		n++;
	if (n == len || (text[n] == '\0' && n >= MIN_CUT_LENGTH))
		return n;
	return 0;
}

/*
 * Length of the longest known secret that starts here, 0 if none does.
 */
static size_t
secret_at(const char *text)
{
	size_t		longest = 0;
	int			i;
	int			form;

	if (!first_bytes[(unsigned char) text[0]])
		return 0;
	for (i = 0; i < secret_count; i++)
	{
		for (form = 0; form < FORMS; form++)
		{
			const char *value = secrets[i].form[form];

			if (value != NULL && value[0] == text[0])
				longest = Max(longest,
							  match_length(text, value, secrets[i].len[form]));
		}
	}
	return longest;
}

static bool
is_name_char(char c)
{
	return is_unreserved(c) && c != '.' && c != '~';
}

static const char *
skip_blanks(const char *pos)
{
	while (*pos == ' ' || *pos == '\t')
		pos++;
	return pos;
}

/*
 * Where the value that starts at pos ends.
 */
static const char *
value_end(const char *pos, ValueKind kind)
{
	if (*pos == '"' || *pos == '\'')
	{
		char		quote = *pos++;

		while (*pos && *pos != quote)
			pos += (pos[0] == '\\' && pos[1]) ? 2 : 1;
		return pos;
	}
	if (pos[0] == '\\' && pos[1] == '"')
	{
		/* a string inside a JSON string */
		const char *end = strstr(pos + 2, "\\\"");

		return end ? end : pos + strlen(pos);
	}
	if (kind == VALUE_LINE)
		return pos + strcspn(pos, "\r\n");
	return pos + strcspn(pos, " \t\r\n&\"',;}])");
}

/*
 * Does a telling name start at pos, with before in front of it?  Then the
 * start of its value, and its kind.
 */
static const char *
telling_value(const char *pos, char before, ValueKind *kind)
{
	size_t		i;

	for (i = 0; i < lengthof(telling_names); i++)
	{
		size_t		len = strlen(telling_names[i].name);
		const char *after;

		if ((*pos | 0x20) != telling_names[i].name[0] ||
			pg_strncasecmp(pos, telling_names[i].name, len) != 0)
			continue;
		after = pos + len;
		*kind = telling_names[i].kind;
		if (*kind == VALUE_SCHEME)
		{
			/* prose and challenges ("Bearer realm=...") follow too: no token */
			after = skip_blanks(after);
			if (after > pos + len &&
				strcspn(after, " \t\r\n=\"',;") >= MIN_BEARER_LENGTH)
				return after;
			continue;
		}
		if (after[0] == '\\' && after[1] == '"')
			after++;
		if (*after == '"' || *after == '\'')
			after++;
		after = skip_blanks(after);
		if (*after == '=' || *after == ':')
			return skip_blanks(after + 1);
	}

	/* an authorization code: as common a word is masked in a query only */
	if ((before == '?' || before == '&') && strncmp(pos, "code=", 5) == 0)
	{
		*kind = VALUE_WORD;
		return pos + 5;
	}
	return NULL;
}

/*
 * Replace secrets in a text by ***.  Returns a palloc'd copy, always; NULL for
 * NULL.
 */
char *
epds_redact(const char *text)
{
	StringInfoData out;
	const char *pos = text;

	if (text == NULL)
		return NULL;

	initStringInfo(&out);
	while (*pos)
	{
		size_t		len = secret_at(pos);
		ValueKind	kind;
		const char *value;
		const char *end;

		if (len > 0)
		{
			appendStringInfoString(&out, MASK);
			pos += len;
			continue;
		}

		value = (pos == text || !is_name_char(pos[-1])) ?
			telling_value(pos, pos == text ? '\0' : pos[-1], &kind) : NULL;
		end = value ? value_end(value, kind) : NULL;
		if (value != NULL && end > value)
		{
			appendBinaryStringInfo(&out, pos, (int) (value - pos));
			if (*value == '"' || *value == '\'')
				appendStringInfoChar(&out, *value);
			else if (value[0] == '\\' && value[1] == '"')
				appendStringInfoString(&out, "\\\"");
			appendStringInfoString(&out, MASK);
			pos = end;
			continue;
		}
		appendStringInfoChar(&out, *pos++);
	}
	return out.data;
}
