/*-------------------------------------------------------------------------
 *
 * text.h
 *		Growing buffers, and just enough of JSON to find a value in a body.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		bench/stub/text.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef STUB_TEXT_H
#define STUB_TEXT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A growing byte buffer. */
typedef struct Buffer
{
	char	   *data;
	size_t		len;
	size_t		size;
} Buffer;

static void
die(const char *what)
{
	perror(what);
	exit(1);
}

/* Make room for more bytes and the terminating zero. */
static void
need(Buffer *buffer, size_t more)
{
	size_t		size = buffer->size ? buffer->size : 4096;

	while (size < buffer->len + more + 1)
		size *= 2;
	if (size == buffer->size)
		return;
	buffer->data = realloc(buffer->data, size);
	if (buffer->data == NULL)
		die("realloc");
	buffer->size = size;
}

static void
put(Buffer *buffer, const char *data, size_t len)
{
	need(buffer, len);
	memcpy(buffer->data + buffer->len, data, len);
	buffer->len += len;
	buffer->data[buffer->len] = '\0';
}

static void __attribute__((format(printf, 2, 3)))
putf(Buffer *buffer, const char *format, ...)
{
	va_list		args;
	int			len;

	need(buffer, 2048);
	va_start(args, format);
	len = vsnprintf(buffer->data + buffer->len, 2048, format, args);
	va_end(args);
	if (len < 0 || len >= 2048)
		die("putf");
	buffer->len += (size_t) len;
}

/*
 * The text value of "key" in a JSON body, cut to fit; "" if there is none.
 * Escapes are kept as they are, so that it can be put into JSON again.
 */
static void
text_of(const char *body, const char *key, char *dst, size_t size)
{
	char		mark[64];
	const char *p;
	size_t		n = 0;

	dst[0] = '\0';
	snprintf(mark, sizeof(mark), "\"%s\"", key);
	p = body ? strstr(body, mark) : NULL;
	if (p == NULL)
		return;
	p += strlen(mark);
	while (*p == ' ' || *p == ':')
		p++;
	if (*p++ != '"')
		return;
	while (*p != '\0' && *p != '"' && n + 2 < size)
	{
		if (*p == '\\' && p[1] != '\0')
			dst[n++] = *p++;
		dst[n++] = *p++;
	}
	dst[n] = '\0';
}

/* The number behind the last slash of a path; 0 if there is none. */
static uint64_t
last_number(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? strtoull(slash + 1, NULL, 10) : 0;
}

/*
 * The number value of "key" in an object of a body that ends before end, as it
 * is written; def if there is none.
 */
static void
number_of(const char *body, const char *end, const char *key, const char *def,
		  char *dst, size_t size)
{
	char		mark[64];
	const char *p;
	size_t		n;

	snprintf(dst, size, "%s", def);
	snprintf(mark, sizeof(mark), "\"%s\":", key);
	p = body ? strstr(body, mark) : NULL;
	if (p == NULL || p >= end)
		return;
	p += strlen(mark);
	p += strspn(p, " ");
	n = strspn(p, "-+.0123456789eE");
	if (n > 0 && n < size)
	{
		memcpy(dst, p, n);
		dst[n] = '\0';
	}
}

/* Where the object that begins at p ends: behind its brace. */
static const char *
object_end(const char *p)
{
	bool		in_string = false;
	int			depth = 0;

	for (; *p != '\0'; p++)
	{
		if (in_string && *p == '\\' && p[1] != '\0')
			p++;
		else if (*p == '"')
			in_string = !in_string;
		else if (!in_string && *p == '{')
			depth++;
		else if (!in_string && *p == '}' && --depth == 0)
			return p + 1;
	}
	return p;
}

#endif							/* STUB_TEXT_H */
