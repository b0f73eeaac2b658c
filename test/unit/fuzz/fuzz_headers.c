/*-------------------------------------------------------------------------
 *
 * fuzz_headers.c
 *		Fuzzer of src/http_headers.c: whatever a server sends as headers becomes
 *		JSON that parses.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/fuzz/fuzz_headers.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../../src/http_headers.c"

#include <cjson/cJSON.h>

#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *lines = (const char *) data;
	char	   *json = epds_headers_json(lines, size);
	char	   *type = epds_headers_content_type(lines, size);
	char	   *text = fuzz_text(data, size);
	char	   *copy;
	cJSON	   *tree;

	tree = cJSON_ParseWithLengthOpts(json, strlen(json) + 1, NULL, true);
	Assert(cJSON_IsObject(tree));
	cJSON_Delete(tree);
	Assert(strlen(type) <= size);
	(void) epds_header_wanted(lines, size);

	(void) epds_text_one_line(text, size / 2);
	epds_text_scrub(text, size);
	Assert(strlen(text) == size);
	copy = pstrdup(text);
	epds_text_scrub(text, size);
	Assert(strcmp(text, copy) == 0);

	shim_reset();
	return 0;
}
