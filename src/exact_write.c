/*-------------------------------------------------------------------------
 *
 * exact_write.c
 *		The list of what may be sent to Exact Online.
 *
 * Exact is master (law 1).  Everything may be read; contacts may be made and
 * changed, subscriptions to webhooks made and removed.  Orders, invoices, items
 * and accounts are never written, and this is the one place that says so.
 *
 * Pure: no memory, no error, no transaction.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/exact_write.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "exact_write.h"

/* Step over "/api/v1/", a division and "/"; NULL when the path is another. */
static const char *
after_division(const char *path)
{
	static const char prefix[] = "/api/v1/";
	const char *p = path;

	if (strncmp(p, prefix, sizeof(prefix) - 1) != 0)
		return NULL;
	p += sizeof(prefix) - 1;
	if (*p < '1' || *p > '9')
		return NULL;
	while (*p >= '0' && *p <= '9')
		p++;
	return (*p == '/') ? p + 1 : NULL;
}

/* Is this "(guid'…')" with a GUID of 36 characters and nothing after it? */
static bool
is_key(const char *p)
{
	static const char opening[] = "(guid'";
	static const char closing[] = "')";

	if (strncmp(p, opening, sizeof(opening) - 1) != 0)
		return false;
	p += sizeof(opening) - 1;
	if (strspn(p, "0123456789abcdefABCDEF-") != 36)
		return false;
	return strcmp(p + 36, closing) == 0;
}

bool
epds_exact_request_allowed(const char *method, const char *path)
{
	static const char contacts[] = "crm/Contacts";
	static const char hooks[] = "webhooks/WebhookSubscriptions";
	const char *p = after_division(path);
	bool		is_contacts;
	const char *rest;

	if (strcmp(method, "GET") == 0)
		return true;
	if (p == NULL)
		return false;
	is_contacts = strncmp(p, contacts, sizeof(contacts) - 1) == 0;
	if (is_contacts)
		rest = p + sizeof(contacts) - 1;
	else if (strncmp(p, hooks, sizeof(hooks) - 1) == 0)
		rest = p + sizeof(hooks) - 1;
	else
		return false;

	if (strcmp(method, "POST") == 0)
		return *rest == '\0';
	if (strcmp(method, is_contacts ? "PUT" : "DELETE") == 0)
		return is_key(rest);
	return false;
}
