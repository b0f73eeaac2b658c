/*-------------------------------------------------------------------------
 *
 * tap.h
 *		Test results as TAP, for the unit tests.
 *
 * A test program includes the file under test, then this.  Names say what is
 * expected, so that a failure reads as a sentence.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/unit/tap.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef TAP_H
#define TAP_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int	tap_count = 0;
static int	tap_failed = 0;

/* Print one result; the name is a printf format. */
static inline __attribute__((format(printf, 2, 3))) bool
ok(bool passed, const char *name,...)
{
	va_list		args;

	tap_count++;
	if (!passed)
		tap_failed++;
	printf("%sok %d - ", passed ? "" : "not ", tap_count);
	va_start(args, name);
	vprintf(name, args);
	va_end(args);
	printf("\n");
	return passed;
}

/* Two texts are the same (NULL only equals NULL). */
static inline void
is_text(const char *got, const char *expected, const char *name)
{
	bool		same = (got == NULL || expected == NULL) ? got == expected :
		strcmp(got, expected) == 0;

	if (!ok(same, "%s", name))
		printf("#      got: %s\n# expected: %s\n", got ? got : "NULL",
			   expected ? expected : "NULL");
}

/* Two whole numbers are the same. */
static inline void
is_int(int64_t got, int64_t expected, const char *name)
{
	if (!ok(got == expected, "%s", name))
		printf("#      got: %" PRId64 "\n# expected: %" PRId64 "\n", got,
			   expected);
}

/* The plan, at the end; returns the exit status. */
static inline int
tap_done(void)
{
	printf("1..%d\n", tap_count);
	if (tap_failed > 0)
		printf("# %d of %d failed\n", tap_failed, tap_count);
	return tap_failed > 0;
}

#endif							/* TAP_H */
