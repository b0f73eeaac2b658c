/*-------------------------------------------------------------------------
 *
 * pg_wchar.h
 *		Stand-in for the server's header: is a text valid UTF-8?
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/shim/mb/pg_wchar.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_WCHAR_H
#define PG_WCHAR_H

#include "postgres.h"

/* Length of the character at p, 0 when it is none (RFC 3629; no zero byte). */
static inline int
shim_utf8_length(const unsigned char *p, int left)
{
	uint32		code;
	int			len;

	if (p[0] < 0x80)
		return p[0] != 0;
	len = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
	if (p[0] < 0xC2 || p[0] > 0xF4 || left < len)
		return 0;
	code = p[0] & (0x7F >> len);
	for (int i = 1; i < len; i++)
	{
		if ((p[i] & 0xC0) != 0x80)
			return 0;
		code = code << 6 | (p[i] & 0x3F);
	}
	if (len == 3 && (code < 0x800 || (code >= 0xD800 && code <= 0xDFFF)))
		return 0;
	if (len == 4 && (code < 0x10000 || code > 0x10FFFF))
		return 0;
	return len;
}

static inline bool
pg_verifymbstr(const char *text, int len, bool no_error)
{
	Assert(no_error);
	for (int i = 0; i < len;)
	{
		int			width = shim_utf8_length((const unsigned char *) text + i, len - i);

		if (width == 0)
			return false;
		i += width;
	}
	return true;
}

#endif							/* PG_WCHAR_H */
