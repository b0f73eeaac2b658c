/*-------------------------------------------------------------------------
 *
 * exact_values.c
 *		How Exact Online writes values that SQL cannot read by itself.
 *
 * "/Date(ms)/" looks like an instant and is none: the milliseconds are the
 * wall clock of the site, written as if it were UTC (exact-online 2.4).  So
 * the number becomes a timestamp without time zone and is never shifted; who
 * needs an instant reads it in the zone of the division.  An offset such as
 * "+0100" behind the number is skipped for the same reason.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/exact_values.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "exact_values.h"

/* Digits that fit into 64 bits for certain; years up to 5138 need fourteen. */
#define MAX_DIGITS 18

/* Step over one slash, with or without a backslash before it. */
static bool
skip_slash(const char **p, const char *end)
{
	const char *q = *p;

	if (q < end && *q == '\\')
		q++;
	if (q >= end || *q != '/')
		return false;
	*p = q + 1;
	return true;
}

/* Step over an offset: a sign and four digits, or nothing. */
static bool
skip_offset(const char **p, const char *end)
{
	const char *q = *p;

	if (q >= end || (*q != '+' && *q != '-'))
		return true;
	if (end - q < 5)
		return false;
	for (int i = 1; i <= 4; i++)
	{
		if (q[i] < '0' || q[i] > '9')
			return false;
	}
	*p = q + 5;
	return true;
}

bool
epds_parse_wall_clock(const char *text, size_t len, int64 *milliseconds)
{
	static const char opening[] = "Date(";
	const char *p = text;
	const char *end = text + len;
	int64		value = 0;
	int			digits = 0;
	bool		negative = false;

	if (!skip_slash(&p, end))
		return false;
	if ((size_t) (end - p) < sizeof(opening) - 1 ||
		memcmp(p, opening, sizeof(opening) - 1) != 0)
		return false;
	p += sizeof(opening) - 1;

	if (p < end && (*p == '-' || *p == '+'))
		negative = (*p++ == '-');
	for (; p < end && *p >= '0' && *p <= '9'; p++)
	{
		if (++digits > MAX_DIGITS)
			return false;
		value = value * 10 + (*p - '0');
	}
	if (digits == 0 || !skip_offset(&p, end))
		return false;
	if (p >= end || *p++ != ')' || !skip_slash(&p, end) || p != end)
		return false;

	*milliseconds = negative ? -value : value;
	return true;
}

/* The SQL function; unit tests of the part above leave it out. */
#ifndef EPDS_UNIT_TEST

#include "common/int.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"

PG_FUNCTION_INFO_V1(epds_exact_wall_clock);

/*
 * exact_wall_clock(text) returns timestamp: NULL for NULL and for an empty
 * text, ERROR 22007 for what is no such value, 22008 when out of range.
 */
Datum
epds_exact_wall_clock(PG_FUNCTION_ARGS)
{
	text	   *input;
	int64		milliseconds;
	Timestamp	result;
	const int64 days = POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	input = PG_GETARG_TEXT_PP(0);
	if (VARSIZE_ANY_EXHDR(input) == 0)
		PG_RETURN_NULL();

	if (!epds_parse_wall_clock(VARDATA_ANY(input), VARSIZE_ANY_EXHDR(input),
							   &milliseconds))
	{
		char	   *shown = text_to_cstring(input);

		/* it is a remote text of any length: show enough to find it */
		shown[pg_mbcliplen(shown, strlen(shown), 40)] = '\0';
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_DATETIME_FORMAT),
				 errmsg("invalid date of Exact Online: \"%s\"", shown),
				 errdetail("Expected is the form \"/Date(1772719651203)/\".")));
	}
	if (pg_mul_s64_overflow(milliseconds, 1000, &result) ||
		pg_sub_s64_overflow(result, days * USECS_PER_DAY, &result) ||
		!IS_VALID_TIMESTAMP(result))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("date of Exact Online out of range: %lld milliseconds",
						(long long) milliseconds)));
	PG_RETURN_TIMESTAMP(result);
}

#endif							/* EPDS_UNIT_TEST */
