/*-------------------------------------------------------------------------
 *
 * fuzz_redact.c
 *		Fuzzer of src/redact.c: a known secret is in no text that comes out.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/fuzz/fuzz_redact.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../../src/redact.c"

#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const known[] = {"aaab", "s3cr+t/va=ue", "****a"};
	char	   *text = fuzz_text(data, size);
	char	   *clean;
	size_t		i;

	for (i = 0; i < lengthof(known); i++)
		epds_redact_add(known[i]);
	clean = epds_redact(text);
	/* the mask itself may complete the third one, which is all mask but one */
	for (i = 0; i < 2; i++)
		Assert(strstr(clean, known[i]) == NULL);
	shim_reset();
	return 0;
}
