/*-------------------------------------------------------------------------
 *
 * fuzz_json_scan.c
 *		Fuzzer of src/json_scan.c: the length stays, and a second look finds
 *		nothing.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/fuzz/fuzz_json_scan.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../../src/json_scan.c"

#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *text = malloc(size > 0 ? size : 1);
	EpdsJsonScan first;
	EpdsJsonScan second;

	memcpy(text, data, size);
	first = epds_json_scan(text, size);
	second = epds_json_scan(text, size);
	Assert(second.replaced == 0);
	Assert(second.state == first.state);
	if (first.replaced == 0)
		Assert(memcmp(text, data, size) == 0);
	free(text);
	return 0;
}
