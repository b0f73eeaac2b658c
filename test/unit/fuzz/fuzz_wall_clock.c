/*-------------------------------------------------------------------------
 *
 * fuzz_wall_clock.c
 *		Fuzzer of src/exact_values.c: any text is read or refused.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/fuzz/fuzz_wall_clock.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../../src/exact_values.c"

#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int64		milliseconds;

	if (epds_parse_wall_clock((const char *) data, size, &milliseconds))
		Assert(milliseconds > -INT64_C(1000000000000000000) &&
			   milliseconds < INT64_C(1000000000000000000));
	return 0;
}
