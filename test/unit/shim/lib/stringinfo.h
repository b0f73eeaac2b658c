/*-------------------------------------------------------------------------
 *
 * stringinfo.h
 *		Stand-in for the server's header, for unit tests of pure code.
 *
 * Grows to exactly what is needed, so that AddressSanitizer sees an overrun by
 * one byte, which the server's doubling would hide.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/shim/lib/stringinfo.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef STRINGINFO_H
#define STRINGINFO_H

#include "postgres.h"

typedef struct StringInfoData
{
	char	   *data;
	int			len;
	int			maxlen;
} StringInfoData;

typedef StringInfoData *StringInfo;

static inline void
initStringInfo(StringInfo str)
{
	str->data = pstrdup("");
	str->len = 0;
	str->maxlen = 1;
}

static inline void
resetStringInfo(StringInfo str)
{
	str->len = 0;
	str->data[0] = '\0';
}

static inline void
appendBinaryStringInfo(StringInfo str, const void *data, int len)
{
	Assert(len >= 0);
	if (str->len + len + 1 > str->maxlen)
	{
		char	   *bigger = palloc(str->len + len + 1);

		memcpy(bigger, str->data, str->len);
		pfree(str->data);
		str->data = bigger;
		str->maxlen = str->len + len + 1;
	}
	memcpy(str->data + str->len, data, len);
	str->len += len;
	str->data[str->len] = '\0';
}

static inline void
appendStringInfoString(StringInfo str, const char *text)
{
	appendBinaryStringInfo(str, text, (int) strlen(text));
}

static inline void
appendStringInfoChar(StringInfo str, char c)
{
	appendBinaryStringInfo(str, &c, 1);
}

#endif							/* STRINGINFO_H */
