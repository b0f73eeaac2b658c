/*-------------------------------------------------------------------------
 *
 * postgres.h
 *		Stand-in for the server's header, for unit tests of pure code.
 *
 * Just enough of PostgreSQL to compile and run the files of src/ that need no
 * server: integer types, palloc over malloc, ereport that ends the program.
 * What a file needs beyond this is a sign that it is not pure.
 *
 * Every palloc is one malloc, so that AddressSanitizer sees each overrun;
 * shim_reset() frees what a test left behind, as a memory context would.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/shim/postgres.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef POSTGRES_H
#define POSTGRES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef int16_t int16;
typedef int32_t int32;
typedef int64_t int64;
typedef uint8_t uint8;
typedef uint16_t uint16;
typedef uint32_t uint32;
typedef uint64_t uint64;
typedef size_t Size;
typedef int64 TimestampTz;
typedef int64 Timestamp;

#define Min(x, y) ((x) < (y) ? (x) : (y))
#define Max(x, y) ((x) > (y) ? (x) : (y))
#define lengthof(array) (sizeof(array) / sizeof((array)[0]))
#define PG_INT32_MAX INT32_MAX
#define PG_INT64_MAX INT64_MAX
#define PG_INT64_MIN INT64_MIN
#define MaxAllocSize ((Size) 0x3fffffff)

#define Assert(condition) \
	do { \
		if (!(condition)) \
			shim_die(__FILE__, __LINE__, #condition); \
	} while (0)

static inline void
shim_die(const char *file, int line, const char *what)
{
	fprintf(stderr, "%s:%d: %s\n", file, line, what);
	abort();
}

/* One chunk; the list starts and ends at shim_chunks. */
typedef struct ShimChunk
{
	struct ShimChunk *prev;
	struct ShimChunk *next;
	/* what follows is as aligned as malloc's own memory */
} __attribute__((aligned(16))) ShimChunk;

static ShimChunk shim_chunks = {&shim_chunks, &shim_chunks};

static inline void *
shim_alloc(Size size, bool listed)
{
	ShimChunk  *chunk;

	Assert(size <= MaxAllocSize);
	chunk = malloc(sizeof(ShimChunk) + size);
	Assert(chunk != NULL);
	chunk->prev = chunk->next = chunk;
	if (listed)
	{
		chunk->next = shim_chunks.next;
		chunk->prev = &shim_chunks;
		shim_chunks.next->prev = chunk;
		shim_chunks.next = chunk;
	}
	/* not zero, so that reading what was not written shows */
	memset(chunk + 1, 0x7F, size);
	return chunk + 1;
}

static inline void
pfree(void *pointer)
{
	ShimChunk  *chunk = (ShimChunk *) pointer - 1;

	chunk->prev->next = chunk->next;
	chunk->next->prev = chunk->prev;
	free(chunk);
}

static inline void
shim_reset(void)
{
	while (shim_chunks.next != &shim_chunks)
		pfree(shim_chunks.next + 1);
}

static inline void *
palloc(Size size)
{
	return shim_alloc(size, true);
}

static inline void *
palloc0(Size size)
{
	return memset(palloc(size), 0, size);
}

static inline char *
pnstrdup(const char *text, Size len)
{
	Size		size = strnlen(text, len);
	char	   *copy = palloc(size + 1);

	memcpy(copy, text, size);
	copy[size] = '\0';
	return copy;
}

static inline char *
pstrdup(const char *text)
{
	return pnstrdup(text, strlen(text));
}

/* Contexts: the current one, and one that shim_reset() leaves alone. */
typedef int MemoryContext;

#define CurrentMemoryContext 0
#define TopMemoryContext 1

static inline char *
MemoryContextStrdup(MemoryContext context, const char *text)
{
	Size		size = strlen(text) + 1;

	return memcpy(shim_alloc(size, context != TopMemoryContext), text, size);
}

#define pg_strncasecmp(a, b, n) strncasecmp(a, b, n)
#define pg_strcasecmp(a, b) strcasecmp(a, b)

#endif							/* POSTGRES_H */
