/*-------------------------------------------------------------------------
 *
 * json_scan.c
 *		One look over JSON text before PostgreSQL casts it to jsonb.
 *
 * Exact's texts are typed by people and pasted from anywhere.  JSON can carry
 * what PostgreSQL's text cannot hold, and one such character would make the
 * cast refuse a whole page of a thousand rows.  Every replacement here has the
 * length of what it replaces, so that a body of 38 MB is neither copied nor
 * moved: one pass, in place.
 *
 * The same pass tells whether the text is closed.  An answer that breaks off
 * is a fault of the line and worth a repeat; text that jsonb refuses for
 * another reason is not.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/json_scan.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "hex.h"
#include "json_scan.h"

/* Length of the escape of one UTF-16 unit: backslash, u, four digits. */
#define ESCAPE_LEN 6

static const char replacement[] = "\\ufffd";

static inline bool
is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* The UTF-16 unit of an escape that begins at p; -1 if there is none. */
static int
escape_value(const char *p, const char *end)
{
	int			value = 0;

	if (end - p < ESCAPE_LEN || p[0] != '\\' || p[1] != 'u')
		return -1;
	for (int i = 2; i < ESCAPE_LEN; i++)
	{
		int			digit = epds_hex_value(p[i]);

		if (digit < 0)
			return -1;
		value = value * 16 + digit;
	}
	return value;
}

/*
 * Look at the escape that begins at p (a backslash inside a string); replace
 * it when jsonb would refuse it.  Returns where to go on, at most end.
 */
static char *
scan_escape(char *p, char *end, EpdsJsonScan *scan)
{
	int			unit;

	if (end - p < 2)
		return end;
	if (p[1] != 'u')
		return p + 2;
	unit = escape_value(p, end);
	if (unit < 0)
		return p + 2;			/* not an escape at all: jsonb will say so */

	if (unit >= 0xD800 && unit <= 0xDBFF)
	{
		int			low = escape_value(p + ESCAPE_LEN, end);

		if (low >= 0xDC00 && low <= 0xDFFF)
			return p + 2 * ESCAPE_LEN;
	}
	if (unit == 0 || (unit >= 0xD800 && unit <= 0xDFFF))
	{
		memcpy(p, replacement, ESCAPE_LEN);
		scan->replaced++;
	}
	return p + ESCAPE_LEN;
}

/*
 * Look over a string whose opening quote is at p - 1.  Returns the place after
 * its closing quote, or NULL when the text ends before.
 */
static char *
scan_string(char *p, char *end, EpdsJsonScan *scan)
{
	while (p < end)
	{
		unsigned char c = (unsigned char) *p;

		if (c == '"')
			return p + 1;
		if (c == '\\')
			p = scan_escape(p, end, scan);
		else
		{
			if (c < 0x20)
			{
				*p = ' ';
				scan->replaced++;
			}
			p++;
		}
	}
	return NULL;
}

EpdsJsonScan
epds_json_scan(char *text, size_t len)
{
	EpdsJsonScan scan = {EPDS_JSON_COMPLETE, 0};
	char		closers[EPDS_JSON_MAX_DEPTH];
	int			depth = 0;
	char	   *p = text;
	char	   *end = text + len;

	while (p < end && is_space(*p))
		p++;
	if (p == end)
	{
		scan.state = EPDS_JSON_EMPTY;
		return scan;
	}
	if (*p != '{' && *p != '[')
	{
		scan.state = EPDS_JSON_OTHER;
		return scan;
	}

	do
	{
		char		c = *p++;

		switch (c)
		{
			case '"':
				p = scan_string(p, end, &scan);
				if (p == NULL)
				{
					scan.state = EPDS_JSON_TRUNCATED;
					return scan;
				}
				break;
			case '{':
			case '[':
				if (depth == EPDS_JSON_MAX_DEPTH)
				{
					scan.state = EPDS_JSON_DEEP;
					return scan;
				}
				closers[depth++] = (c == '{') ? '}' : ']';
				break;
			case '}':
			case ']':
				if (closers[--depth] != c)
				{
					scan.state = EPDS_JSON_BROKEN;
					return scan;
				}
				break;
			default:
				break;
		}
	} while (p < end && depth > 0);

	while (p < end && is_space(*p))
		p++;
	if (depth > 0)
		scan.state = EPDS_JSON_TRUNCATED;
	else if (p < end)
		scan.state = EPDS_JSON_BROKEN;
	return scan;
}

const char *
epds_json_state_text(EpdsJsonState state)
{
	switch (state)
	{
		case EPDS_JSON_COMPLETE:
			return NULL;
		case EPDS_JSON_EMPTY:
			return "is empty";
		case EPDS_JSON_OTHER:
			return "is not JSON";
		case EPDS_JSON_TRUNCATED:
			return "breaks off";
		case EPDS_JSON_BROKEN:
			return "is broken JSON";
		case EPDS_JSON_DEEP:
			return "is nested too deeply";
	}
	return "is of an unknown kind";
}
