/*-------------------------------------------------------------------------
 *
 * listen_address.c
 *		Takes the setting exact_pd_sync.listen apart.
 *
 * Only numeric addresses: a name would have to be looked up, and might lead to
 * another address than the operator thought of.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/listen_address.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <string.h>

#include "listen_address.h"

/*
 * take_port
 *		1 .. 65535, or 0 when it is no port.
 */
static int
take_port(const char *text, size_t len)
{
	int			port = 0;

	if (len == 0 || len > 5)
		return 0;
	for (size_t i = 0; i < len; i++)
	{
		if (text[i] < '0' || text[i] > '9')
			return 0;
		port = port * 10 + (text[i] - '0');
	}
	return port <= 65535 ? port : 0;
}

/*
 * take_address
 *		ADDRESS:PORT; NULL when it is one.
 */
static const char *
take_address(const char *text, size_t len, ListenAddress *to)
{
	const char *colon = NULL;
	unsigned char binary[16];
	size_t		host_len;
	bool		brackets = len > 0 && text[0] == '[';

	for (size_t i = 0; i < len; i++)
		if (text[i] == ':')
			colon = text + i;
	if (colon == NULL)
		return "an entry has no port";
	host_len = (size_t) (colon - text);
	to->port = take_port(colon + 1, len - host_len - 1);
	if (to->port == 0)
		return "a port is not a number between 1 and 65535";
	if (brackets)
	{
		if (host_len < 2 || text[host_len - 1] != ']')
			return "an address does not end with \"]\"";
		text++;
		host_len -= 2;
	}
	if (host_len == 0 || host_len >= sizeof(to->host))
		return "an address is empty or too long";
	memcpy(to->host, text, host_len);
	to->host[host_len] = '\0';
	if (inet_pton(brackets ? AF_INET6 : AF_INET, to->host, binary) != 1)
		return "an address is not numeric (IPv6 in brackets)";
	return NULL;
}

/* See listen_address.h. */
const char *
listen_address_find(const char *list, const char *database, ListenAddress *to)
{
	const char *p = list ? list : "";

	memset(to, 0, sizeof(*to));
	while (*p != '\0')
	{
		ListenAddress address;
		const char *end;
		const char *equal;
		const char *trouble;
		size_t		len;

		while (*p == ' ')
			p++;
		end = strchr(p, ',');
		len = end ? (size_t) (end - p) : strlen(p);
		while (len > 0 && p[len - 1] == ' ')
			len--;
		if (len == 0 && end == NULL && p == list)
			break;
		memset(&address, 0, sizeof(address));
		/* a database's name may contain "=", an address may not */
		equal = NULL;
		for (size_t i = 0; i < len; i++)
			if (p[i] == '=')
				equal = p + i;
		if (equal == NULL || equal == p)
		{
			memset(to, 0, sizeof(*to));
			return "an entry is not DATABASE=ADDRESS:PORT";
		}
		trouble = take_address(equal + 1, len - (size_t) (equal - p) - 1, &address);
		if (trouble != NULL)
		{
			memset(to, 0, sizeof(*to));
			return trouble;
		}
		if (database != NULL && strlen(database) == (size_t) (equal - p) &&
			memcmp(database, p, (size_t) (equal - p)) == 0)
			*to = address;
		if (end == NULL)
			break;
		p = end + 1;
		if (*p == '\0')
		{
			memset(to, 0, sizeof(*to));
			return "the list ends with a comma";
		}
	}
	return NULL;
}

/* See listen_address.h. */
int
listen_address_count(const char *list)
{
	const char *p = list ? list : "";
	int			n;

	while (*p == ' ')
		p++;
	n = *p == '\0' ? 0 : 1;
	for (; *p != '\0'; p++)
		n += *p == ',';
	return n;
}
