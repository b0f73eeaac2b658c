/*-------------------------------------------------------------------------
 *
 * fuzz_classify.c
 *		Fuzzer of src/pipedrive_classify.c: any answer gets a verdict, and none
 *		that cannot be read is "ok".
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/fuzz/fuzz_classify.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../../src/pipedrive_classify.c"

#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static PipedriveVerdict verdict;
	static const char *const methods[] = {"GET", "POST", "PATCH", "DELETE"};
	static const int statuses[] = {0, 200, 201, 302, 400, 401, 403, 404, 429, 500};
	PipedriveQuestion question = {"POST", "/api/v2/deals/1", 5, -1};
	EpdsHttpAnswer answer = {0};
	size_t		split;

	if (size < 3)
		return 0;
	question.method = methods[data[0] % lengthof(methods)];
	answer.result = (EpdsHttpResult) (data[0] / 8 % 4);
	answer.status = statuses[data[1] % lengthof(statuses)];
	question.since_429_ms = (data[1] & 0x80) ? 5000 : -1;
	split = Min((size_t) data[2], size - 3);
	answer.headers = fuzz_text(data + 3, split);
	answer.body = fuzz_text(data + 3 + split, size - 3 - split);
	answer.body_len = size - 3 - split;
	answer.content_type = fuzz_text(data, 0);
	answer.error = answer.result == EPDS_HTTP_OK ? NULL : answer.headers;

	pipedrive_classify(&question, &answer, &verdict);
	Assert(verdict.nids >= 0 && verdict.nids <= PIPEDRIVE_MAX_IDS);
	Assert(verdict.nproducts >= 0 && verdict.nproducts <= PIPEDRIVE_MAX_IDS);
	Assert(strlen(verdict.error) < PIPEDRIVE_ERROR_SIZE);
	if (verdict.outcome == EPDS_OUTCOME_OK)
		Assert(answer.result != EPDS_HTTP_UNKNOWN &&
			   answer.result != EPDS_HTTP_NOT_SENT &&
			   answer.status >= 200 && answer.status < 300);
	if (verdict.outcome == EPDS_OUTCOME_UNKNOWN)
		Assert(strcmp(question.method, "POST") == 0);
	shim_reset();
	return 0;
}
