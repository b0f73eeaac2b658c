/*-------------------------------------------------------------------------
 *
 * intake.c
 *		The worker that keeps the way in open: the token of Exact Online, and
 *		early reads of what notifications announced.
 *
 * Exact's access token lives ten minutes and may be refreshed only when it is
 * nearly over, by one process at a time.  This worker is that process in
 * normal operation; sessions use the token it keeps, and wake it when they
 * find none that is good.
 *
 * When a refresh is due and how often one that failed is tried again is known
 * in oauth.c.  What cannot even be tried (the key file is gone, the role has no
 * rights) is said once and tried again after 30 s, 1 min, ... at most 10 min.
 * Hints that could not be followed are tried after 5 s, doubling likewise; the
 * polls do without them anyway.
 * When a person has to consent again, nothing is tried until the state has
 * changed.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/intake.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "clock.h"
#include "compat.h"
#include "exact.h"
#include "settings.h"
#include "tx.h"
#include "worker.h"

#define TOKEN_RETRY_MS 30000
#define HINTS_RETRY_MS 5000
#define RETRY_MAX_MS (10 * 60 * 1000)

/* What went wrong last and when to try again. */
typedef struct IntakeTrouble
{
	int			first_ms;		/* pause after the first failure */
	int			delay_ms;		/* 0: none */
	int64		not_before;		/* of the clock that never jumps */
	char		message[512];	/* already in the log */
} IntakeTrouble;

/*
 * Do something; an ERROR is noted in *trouble, logged when it is another one
 * than last time, and swallowed (a cancel as well; a shutdown is no ERROR).
 */
static void
attempt(IntakeTrouble *trouble, void (*what) (void))
{
	MemoryContext turn = CurrentMemoryContext;

	PG_TRY();
	{
		what();
		trouble->delay_ms = 0;
		trouble->message[0] = '\0';
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(turn);
		error = CopyErrorData();
		/* EmitErrorReport() adds where we are; it needs the error still there */
		if (strncmp(error->message, trouble->message, sizeof(trouble->message) - 1) != 0)
			EmitErrorReport();
		FlushErrorState();
		epds_tx_abort();
		strlcpy(trouble->message, error->message, sizeof(trouble->message));
		trouble->delay_ms = trouble->delay_ms == 0 ? trouble->first_ms :
			Min(trouble->delay_ms * 2, RETRY_MAX_MS);
		trouble->not_before = epds_clock_ms() + trouble->delay_ms;
	}
	PG_END_TRY();
}

/*
 * Do what is due, unless it failed a moment ago.  Returns the milliseconds
 * until it is due again, -1 = not in sight or failed.
 */
static int64
serve(IntakeTrouble *trouble, int64 (*due_in) (void), void (*what) (void),
	  const char *activity)
{
	int64		due = due_in();

	if (due != 0)
		return due;
	if (trouble->not_before > epds_clock_ms())
		return -1;
	epds_worker_report(activity);
	attempt(trouble, what);
	return trouble->delay_ms == 0 ? due_in() : -1;
}

/* See worker.h. */
void
epds_intake_main(void)
{
	MemoryContext turn = AllocSetContextCreate(TopMemoryContext, "exact_pd_sync intake turn",
											   ALLOCSET_DEFAULT_SIZES);
	IntakeTrouble token = {.first_ms = TOKEN_RETRY_MS};
	IntakeTrouble hints = {.first_ms = HINTS_RETRY_MS};
	IntakeTrouble consent = {.first_ms = HINTS_RETRY_MS};

	/*
	 * Bookkeeping may be lost in a crash: it is read or counted again.  What
	 * must not be is committed durably, and whatever goes out is behind such a
	 * commit, which takes all before it to disk.
	 */
	SetConfigOption("synchronous_commit", "off", PGC_SUSET, PGC_S_OVERRIDE);
	while (epds_worker_turn())
	{
		int64		due,
					wait = epds_guc_poll_interval;

		MemoryContextSwitchTo(turn);
		MemoryContextReset(turn);
		epds_worker_trouble(NULL);
		(void) serve(&consent, epds_oauth_handed_in, epds_oauth_finish_consent,
					 "finishing a consent");
		due = serve(&token, epds_oauth_due_in, epds_oauth_keep_alive,
					"keeping the token of Exact Online alive");
		/* still due: another session refreshes, which is no reason to hurry */
		if (due > 0)
			wait = Min(wait, due);
		due = serve(&hints, epds_hints_due_in, epds_hints_follow,
					"reading what notifications announced");
		if (due >= 0)
			wait = Min(wait, due);
		epds_worker_report(NULL);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 wait, epds_wait_event("ExactPdSyncIdle"));
		ResetLatch(MyLatch);
	}
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(turn);
}
