/*-------------------------------------------------------------------------
 *
 * fuzz_url.c
 *		Fuzzer of src/http_url.c: a URL that is accepted is read by libcurl in the
 *		same way.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/fuzz/fuzz_url.c
 *
 *-------------------------------------------------------------------------
 */
#include "../../../src/http_url.c"

#include <curl/curl.h>

#include "fuzz.h"

bool		epds_guc_allow_insecure_http = true;

/*
 * The same host and port as libcurl's own parser, or libcurl refuses it.
 * Numeric hosts are written anew by libcurl ("https://1/" is 0.0.0.1), and it
 * drops zeros from IPv6 addresses: those are left out.
 */
static void
compare_with_libcurl(const char *url)
{
	CURLU	   *parsed = curl_url();
	Origin		origin;
	char	   *host = NULL;
	char	   *port = NULL;
	char	   *user = NULL;

	Assert(parse_origin(url, &origin) == NULL);
	if (curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK)
	{
		Assert(curl_url_get(parsed, CURLUPART_HOST, &host, 0) == CURLUE_OK);
		Assert(curl_url_get(parsed, CURLUPART_PORT, &port,
							CURLU_DEFAULT_PORT) == CURLUE_OK);
		Assert(curl_url_get(parsed, CURLUPART_USER, &user, 0) != CURLUE_OK);
		Assert(atoi(port) == origin.port);
		if (origin.host[0] != '[' &&
			(origin.host[0] < '0' || origin.host[0] > '9'))
			Assert(strlen(host) == origin.host_len &&
				   strncasecmp(host, origin.host, origin.host_len) == 0);
	}
	curl_free(host);
	curl_free(port);
	curl_free(user);
	curl_url_cleanup(parsed);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *url = fuzz_text(data, size);

	if (epds_url_refusal(url) == NULL)
	{
		Assert(epds_same_origin(url, url));
		compare_with_libcurl(url);
	}
	else
		(void) epds_same_origin(url, "https://start.exactonline.nl");
	shim_reset();
	return 0;
}
