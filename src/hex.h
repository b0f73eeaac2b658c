/*-------------------------------------------------------------------------
 *
 * hex.h
 *		The value of a hexadecimal digit.
 *
 * Pure: no memory, no error, no transaction.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/hex.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_HEX_H
#define EPDS_HEX_H

#include "postgres.h"

/* 0 .. 15; -1 when the character is no digit. */
static inline int
epds_hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

#endif							/* EPDS_HEX_H */
