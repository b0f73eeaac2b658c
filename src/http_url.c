/*-------------------------------------------------------------------------
 *
 * http_url.c
 *		Which URLs may be talked to.
 *
 * A next-page URL comes from a server, a base URL from a person.  Two parsers
 * that read the same URL differently are how a token goes to the wrong host
 * ("https://good.example\@evil.example"), so the one here accepts only a form
 * that no two parsers disagree about: scheme, plain host, optional port, then
 * a path; no user information, no escapes in the host, no backslash, blank or
 * control character anywhere.  What libcurl gets is what was checked.
 *
 * Pure but for one setting.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/http_url.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "http.h"
#include "settings.h"

/* Longer than any URL with forty keys in its filter; servers refuse at 8-16 kB. */
#define MAX_URL_LENGTH 16384

/* The longest host name the DNS knows. */
#define MAX_HOST_LENGTH 253

typedef struct Origin
{
	bool		secure;
	const char *host;			/* in the URL, host_len bytes */
	size_t		host_len;
	int			port;
} Origin;

static bool
is_host_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		(c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
}

static bool
is_ipv6_char(char c)
{
	return (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F') ||
		(c >= '0' && c <= '9') || c == ':' || c == '.';
}

/*
 * The host at pos; returns what follows it, NULL when it is no host.
 */
static const char *
parse_host(const char *pos, Origin *origin)
{
	origin->host = pos;
	if (*pos == '[')
	{
		pos++;
		while (is_ipv6_char(*pos))
			pos++;
		if (*pos != ']' || pos == origin->host + 1)
			return NULL;
		pos++;
	}
	else
	{
		while (is_host_char(*pos))
			pos++;
	}
	origin->host_len = pos - origin->host;
	if (origin->host_len == 0 || origin->host_len > MAX_HOST_LENGTH)
		return NULL;
	return pos;
}

/*
 * The port at pos, when there is one; returns what follows, NULL when it is
 * not valid.
 */
static const char *
parse_port(const char *pos, Origin *origin)
{
	int			digits = 0;
	int			port = 0;

	origin->port = origin->secure ? 443 : 80;
	if (*pos != ':')
		return pos;
	for (pos++; *pos >= '0' && *pos <= '9'; pos++)
	{
		if (++digits > 5)
			return NULL;
		port = port * 10 + (*pos - '0');
	}
	if (digits == 0 || port == 0 || port > 65535)
		return NULL;
	origin->port = port;
	return pos;
}

/*
 * Take a URL apart.  Returns NULL when it is of the accepted form, else the
 * reason, a constant string.
 */
static const char *
parse_origin(const char *url, Origin *origin)
{
	const char *pos;

	if (url == NULL || *url == '\0')
		return "the URL is empty";
	for (pos = url; *pos; pos++)
	{
		if ((unsigned char) *pos <= 0x20 || (unsigned char) *pos >= 0x7F ||
			*pos == '\\' || *pos == '#')
			return "the URL contains a character that does not belong in one";
		if (pos - url >= MAX_URL_LENGTH)
			return "the URL is too long";
	}

	if (pg_strncasecmp(url, "https://", 8) == 0)
		origin->secure = true;
	else if (pg_strncasecmp(url, "http://", 7) == 0)
		origin->secure = false;
	else
		return "the URL does not start with https://";

	pos = parse_host(url + (origin->secure ? 8 : 7), origin);
	if (pos == NULL)
		return "the URL names no valid host";
	pos = parse_port(pos, origin);
	if (pos == NULL)
		return "the URL names no valid port";
	if (*pos != '\0' && *pos != '/' && *pos != '?')
		return "the URL names no valid host";
	return NULL;
}

/*
 * Is the host certainly this machine?  Only the literal forms: 127.a.b.c in
 * plain decimal, [::1] and localhost (the address it leads to is checked again
 * when the socket is opened).
 */
static bool
is_loopback(const Origin *origin)
{
	const char *host = origin->host;
	size_t		len = origin->host_len;
	int			parts = 0;
	size_t		i = 0;

	if (len == 9 && pg_strncasecmp(host, "localhost", 9) == 0)
		return true;
	if (len == 5 && strncmp(host, "[::1]", 5) == 0)
		return true;
	if (len < 4 || strncmp(host, "127.", 4) != 0)
		return false;

	while (i < len)
	{
		size_t		start = i;
		int			number = 0;

		while (i < len && host[i] >= '0' && host[i] <= '9' && i - start < 3)
			number = number * 10 + (host[i++] - '0');
		if (i == start || number > 255 || (i - start > 1 && host[start] == '0'))
			return false;
		parts++;
		if (i == len)
			break;
		if (host[i++] != '.' || i == len)
			return false;
	}
	return parts == 4;
}

/*
 * May this URL be talked to?  NULL when it may, else the reason, a constant
 * string.
 */
const char *
epds_url_refusal(const char *url)
{
	Origin		origin;
	const char *reason = parse_origin(url, &origin);

	if (reason != NULL || origin.secure)
		return reason;
	if (!is_loopback(&origin))
		return "plain http is not used except to this machine itself";
	if (!epds_guc_allow_insecure_http)
		return "plain http needs exact_pd_sync.allow_insecure_http";
	return NULL;
}

/*
 * Do two URLs have the same scheme, host and port?  False when either is not
 * of the accepted form.
 */
bool
epds_same_origin(const char *a, const char *b)
{
	Origin		first;
	Origin		second;

	return parse_origin(a, &first) == NULL &&
		parse_origin(b, &second) == NULL &&
		first.secure == second.secure &&
		first.port == second.port &&
		first.host_len == second.host_len &&
		pg_strncasecmp(first.host, second.host, first.host_len) == 0;
}
