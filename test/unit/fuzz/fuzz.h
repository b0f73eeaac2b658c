/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *		What the fuzzers share: the entry point's name, input as a C string.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/fuzz/fuzz.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FUZZ_H
#define FUZZ_H

#include "postgres.h"

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A NUL-terminated copy that ends where the input ends; pfree or shim_reset. */
static inline char *
fuzz_text(const uint8_t *data, size_t size)
{
	char	   *text = palloc(size + 1);

	memcpy(text, data, size);
	text[size] = '\0';
	return text;
}

#endif							/* FUZZ_H */
