/*-------------------------------------------------------------------------
 *
 * intake.c
 *		The worker that keeps the way in open: the token of Exact Online.
 *
 * Exact's access token lives ten minutes and may be refreshed only when it is
 * nearly over, by one process at a time.  This worker is that process in
 * normal operation; sessions use the token it keeps, and wake it when they
 * find none that is good.
 *
 * When a refresh is due and how often one that failed is tried again is known
 * in oauth.c.  What cannot even be tried (the key file is gone, the role has no
 * rights) is said once and tried again after 30 s, 1 min, ... at most 10 min.
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
#include "utils/memutils.h"

#include "clock.h"
#include "compat.h"
#include "exact.h"
#include "settings.h"
#include "tx.h"
#include "worker.h"

#define RETRY_MIN_MS 30000
#define RETRY_MAX_MS (10 * 60 * 1000)

/* What went wrong last and when to try again. */
typedef struct IntakeTrouble
{
	int			delay_ms;		/* 0: none */
	int64		not_before;		/* of the clock that never jumps */
	char		message[512];	/* already in the log */
} IntakeTrouble;

/*
 * Keep the token alive; an ERROR is noted in *trouble, logged when it is
 * another one than last time, and swallowed (a cancel as well; a shutdown is
 * no ERROR).
 */
static void
keep_alive(IntakeTrouble *trouble)
{
	MemoryContext turn = CurrentMemoryContext;

	PG_TRY();
	{
		epds_oauth_keep_alive();
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
		trouble->delay_ms = trouble->delay_ms == 0 ? RETRY_MIN_MS :
			Min(trouble->delay_ms * 2, RETRY_MAX_MS);
		trouble->not_before = epds_clock_ms() + trouble->delay_ms;
	}
	PG_END_TRY();
}

/* See worker.h. */
void
epds_intake_main(void)
{
	MemoryContext turn = AllocSetContextCreate(TopMemoryContext, "exact_pd_sync intake turn",
											   ALLOCSET_DEFAULT_SIZES);
	IntakeTrouble trouble = {0};

	while (epds_worker_turn())
	{
		int64		due,
					wait = epds_guc_poll_interval;

		MemoryContextSwitchTo(turn);
		MemoryContextReset(turn);
		due = epds_oauth_due_in();
		epds_worker_trouble(NULL);
		if (due == 0 && trouble.not_before <= epds_clock_ms())
		{
			epds_worker_report("keeping the token of Exact Online alive");
			keep_alive(&trouble);
			due = epds_oauth_due_in();
		}
		/* still due: it could not be done now, and is no reason to hurry */
		if (due > 0)
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
