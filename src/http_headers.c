/*-------------------------------------------------------------------------
 *
 * http_headers.c
 *		Answer headers as text: which are kept, how they become JSON.
 *
 * A server may send any bytes as headers.  Only the few that somebody looks at
 * are kept, so that neither memory nor the call log grows with what a proxy
 * likes to add, and no cookie is ever stored.  What is kept ends in jsonb, so
 * it is made valid UTF-8 here.
 *
 * Pure: no waiting, no libcurl, no database.  The unit tests and fuzzers run
 * this file without a server.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/http_headers.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "http_headers.h"

/* Names that are kept as they are; those that end in '*' are prefixes. */
static const char *const wanted_names[] = {
	"cf-ray",
	"content-type",
	"date",
	"location",
	"ratelimit*",
	"reason",
	"retry-after",
	"www-authenticate",
	"x-401-by-gw",
	"x-correlation-id",
	"x-daily-*",
	"x-ratelimit*",
	"x-request-id",
};

/* One header line, found in the text without copying. */
typedef struct HeaderLine
{
	const char *name;
	size_t		name_len;
	const char *value;
	size_t		value_len;
} HeaderLine;

static char
lower(char c)
{
	return (c >= 'A' && c <= 'Z') ? (char) (c - 'A' + 'a') : c;
}

/*
 * Does name (of len bytes, any case) match the lower-case pattern?
 */
static bool
name_matches(const char *name, size_t len, const char *pattern)
{
	size_t		i;

	for (i = 0; i < len; i++)
	{
		if (pattern[i] == '*')
			return true;
		if (pattern[i] == '\0' || lower(name[i]) != pattern[i])
			return false;
	}
	return pattern[len] == '\0' || pattern[len] == '*';
}

/*
 * Is a header of this name kept?
 *
 * Runs inside a libcurl callback: allocates nothing and never throws.
 */
bool
epds_header_wanted(const char *name, size_t len)
{
	size_t		i;

	if (len == 0)
		return false;
	for (i = 0; i < lengthof(wanted_names); i++)
	{
		if (name_matches(name, len, wanted_names[i]))
			return true;
	}
	return false;
}

/*
 * Take the next line with a colon off *text; false when there is none left.
 */
static bool
next_line(const char **text, const char *end, HeaderLine *line)
{
	while (*text < end)
	{
		const char *start = *text;
		const char *stop = memchr(start, '\n', end - start);
		const char *colon;

		if (stop == NULL)
			stop = end;
		*text = (stop < end) ? stop + 1 : end;

		colon = memchr(start, ':', stop - start);
		if (colon == NULL || colon == start || *start == ' ' || *start == '\t')
			continue;

		line->name = start;
		line->name_len = colon - start;
		line->value = colon + 1;
		while (line->value < stop &&
			   (*line->value == ' ' || *line->value == '\t'))
			line->value++;
		while (stop > line->value && (stop[-1] == '\r' || stop[-1] == ' ' ||
									  stop[-1] == '\t'))
			stop--;
		line->value_len = stop - line->value;
		return true;
	}
	return false;
}

static bool
same_name(const HeaderLine *a, const HeaderLine *b)
{
	size_t		i;

	if (a->name_len != b->name_len)
		return false;
	for (i = 0; i < a->name_len; i++)
	{
		if (lower(a->name[i]) != lower(b->name[i]))
			return false;
	}
	return true;
}

/*
 * Length of the UTF-8 character at s, 0 when it is none.  Strict: no overlong
 * forms, no surrogates, nothing above U+10FFFF, no NUL.
 */
static size_t
utf8_length(const unsigned char *s, size_t left)
{
	size_t		len;
	size_t		i;

	if (s[0] == 0)
		return 0;
	if (s[0] < 0x80)
		return 1;
	if (s[0] >= 0xC2 && s[0] <= 0xDF)
		len = 2;
	else if ((s[0] & 0xF0) == 0xE0)
		len = 3;
	else if (s[0] >= 0xF0 && s[0] <= 0xF4)
		len = 4;
	else
		return 0;

	if (left < len)
		return 0;
	for (i = 1; i < len; i++)
	{
		if ((s[i] & 0xC0) != 0x80)
			return 0;
	}
	if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) ||
		(s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))
		return 0;
	return len;
}

/*
 * Append len bytes as the inside of a JSON string, lower-casing when asked;
 * control characters become spaces, what is not UTF-8 becomes '?'.
 */
static void
append_json(StringInfo out, const char *text, size_t len, bool to_lower)
{
	size_t		i = 0;

	while (i < len)
	{
		size_t		n = utf8_length((const unsigned char *) text + i, len - i);
		char		c = text[i];

		if (n > 1)
		{
			appendBinaryStringInfo(out, text + i, (int) n);
			i += n;
			continue;
		}
		if (n == 0)
			c = '?';
		else if ((unsigned char) c < 0x20 || c == 0x7F)
			c = ' ';
		else if (to_lower)
			c = lower(c);
		if (c == '"' || c == '\\')
			appendStringInfoChar(out, '\\');
		appendStringInfoChar(out, c);
		i++;
	}
}

/*
 * "Name: value\n" lines → one JSON object, lower-case name → last value.
 *
 * Returns palloc'd text.  Quadratic in the number of lines, which is small:
 * the caller keeps at most EPDS_HEAD_KEPT bytes.
 */
char *
epds_headers_json(const char *lines, size_t len)
{
	const char *end = lines + len;
	const char *pos = lines;
	StringInfoData out;
	HeaderLine	line;

	initStringInfo(&out);
	appendStringInfoChar(&out, '{');
	while (next_line(&pos, end, &line))
	{
		const char *rest = pos;
		HeaderLine	later;
		bool		repeated = false;

		while (!repeated && next_line(&rest, end, &later))
			repeated = same_name(&line, &later);
		if (repeated)
			continue;

		appendStringInfoString(&out, out.len > 1 ? ",\"" : "\"");
		append_json(&out, line.name, line.name_len, true);
		appendStringInfoString(&out, "\":\"");
		append_json(&out, line.value, line.value_len, false);
		appendStringInfoChar(&out, '"');
	}
	appendStringInfoChar(&out, '}');
	return out.data;
}

/*
 * The media type among such lines: lower case, parameters cut off, "" when
 * there is none (or it is no plain text).  palloc'd.
 */
char *
epds_headers_content_type(const char *lines, size_t len)
{
	const char *end = lines + len;
	HeaderLine	line;
	char	   *type = pstrdup("");

	while (next_line(&lines, end, &line))
	{
		size_t		i;

		if (!name_matches(line.name, line.name_len, "content-type"))
			continue;
		pfree(type);
		type = palloc(line.value_len + 1);
		for (i = 0; i < line.value_len; i++)
		{
			char		c = lower(line.value[i]);

			/* '!' .. '~': what a media type can be made of */
			if (c < '!' || c > '~' || c == ';' || c == ',')
				break;
			type[i] = c;
		}
		type[i] = '\0';
	}
	return type;
}

/*
 * Replace NUL and whatever is not UTF-8 by '?', in place.
 */
void
epds_text_scrub(char *text, size_t len)
{
	size_t		i = 0;

	while (i < len)
	{
		size_t		n = utf8_length((const unsigned char *) text + i, len - i);

		if (n == 0)
		{
			text[i] = '?';
			n = 1;
		}
		i += n;
	}
}

/*
 * Foreign text as one line for people: valid UTF-8, control characters turned
 * to spaces, trailing blanks off, cut at a character after at most max bytes.
 *
 * Returns palloc'd text.
 */
char *
epds_text_one_line(const char *text, size_t max)
{
	size_t		len = strlen(text);
	size_t		i;
	char	   *line;

	if (len > max)
	{
		/* step back to the start of the character that does not fit */
		len = max;
		while (len > 0 && ((unsigned char) text[len] & 0xC0) == 0x80)
			len--;
	}

	line = palloc(len + 1);
	memcpy(line, text, len);
	line[len] = '\0';
	epds_text_scrub(line, len);
	for (i = 0; i < len; i++)
	{
		if ((unsigned char) line[i] < 0x20 || line[i] == 0x7F)
			line[i] = ' ';
	}
	while (len > 0 && line[len - 1] == ' ')
		line[--len] = '\0';
	return line;
}
