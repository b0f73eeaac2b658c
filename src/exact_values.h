/*-------------------------------------------------------------------------
 *
 * exact_values.h
 *		How Exact Online writes values that SQL cannot read by itself.
 *
 * Pure: no memory, no error, no transaction.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/exact_values.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_EXACT_VALUES_H
#define EPDS_EXACT_VALUES_H

#include "postgres.h"

/*
 * Read "/Date(1772719651203)/", with plain or escaped slashes, an optional
 * sign and an optional "+0100", into milliseconds of the wall clock since
 * 1970-01-01 00:00.  False when the text is anything else or out of range.
 */
extern bool epds_parse_wall_clock(const char *text, size_t len,
								  int64 *milliseconds);

#endif							/* EPDS_EXACT_VALUES_H */
