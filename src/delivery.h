/*-------------------------------------------------------------------------
 *
 * delivery.h
 *		What the parts of the delivery worker share.
 *
 *		delivery.c			the loop: gate, signals, sleep
 *		delivery_take.c		jobs out of the queue
 *		delivery_look.c		reading before anything is decided
 *		delivery_calls.c	what is at hand: sending, answers, settling
 *
 * Life of a job at hand:
 *
 *		taken ──▶ ready ──▶ in flight ──▶ (next call) ready … ──▶ finished
 *					│                        │
 *					└── released ────────────┴── a call failed: the rest of
 *						(not sent)				 its calls are not sent
 *
 * A job is finished here when the last of its results is in the list of
 * results; it is settled when that list was committed.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/delivery.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_DELIVERY_H
#define EPDS_DELIVERY_H

#include "postgres.h"

#include "lib/ilist.h"
#include "lib/stringinfo.h"

#include "budget.h"
#include "http.h"
#include "pipedrive.h"
#include "pipedrive_classify.h"

/* Jobs taken together; their memory goes when the last of them is finished. */
typedef struct DeliveryBatch
{
	MemoryContext cxt;
	int			open_jobs;
} DeliveryBatch;

/* One announced call. */
typedef struct DeliveryCall
{
	struct DeliveryCall *next;	/* of the same job */
	int64		id;
	const char *method;
	const char *path;			/* {deal} still in it */
	const char *body;			/* NULL = none */
	int			tokens;
	bool		is_create;
} DeliveryCall;

/* A job at hand. */
typedef struct DeliveryJob
{
	dlist_node	node;			/* in Delivery.ready; not while in flight */
	DeliveryBatch *batch;
	int64		id;
	int64		deal_id;		/* of the deal this job created; 0 = none */
	DeliveryCall *call;			/* the next one to be sent, or in flight */
	DeliveryCall *last;
} DeliveryJob;

/* A request in flight.  Its index is the request's tag. */
typedef struct DeliverySlot
{
	DeliveryJob *job;			/* NULL = free */
	int64		sent_ms;
	char	   *path;			/* as sent */
} DeliverySlot;

/* One result that waits to be settled: a part of Delivery.results. */
typedef struct DeliveryResult
{
	int64		job_id;
	int			start;
	int			len;
	bool		is_create;
} DeliveryResult;

/* One list or record to be read before anything is decided. */
typedef struct DeliveryLook
{
	bool		wanted;			/* taken from SQL, not sent yet */
	bool		in_flight;
	int64		id;
	char	   *path;			/* in the look context */
	int			tokens;
	bool		booked;			/* tokens are */
	int64		sent_ms;
	int64		not_before;		/* epds_clock_ms() */
	int			failures;		/* in a row */
} DeliveryLook;

typedef struct Delivery
{
	MemoryContext cxt;			/* as long as epds_delivery_main() runs */
	MemoryContext scratch;		/* one turn */
	MemoryContext results_cxt;	/* results that wait */
	MemoryContext look_cxt;		/* path of the look */
	MemoryContext account_cxt;

	bool		gone;			/* the extension is not there (any more) */
	bool		may_send;		/* as the gate said last */
	int64		gate_wait_ms;	/* when it wants to be asked again; -1 = any */
	EpdsPipedrive account;
	EpdsPace	pace;
	EpdsMux    *mux;
	int			mux_size;
	uint32		wait_event;
	bool		failing;		/* said so in the log */

	DeliverySlot *slots;		/* mux_size of them */
	int			in_flight;		/* jobs in slots */
	dlist_head	ready;			/* jobs whose next call may be sent */
	int			at_hand;		/* ready + in flight */
	bool		held_back;		/* the limits let nothing leave */
	int			finished;		/* jobs, since rated_at */
	int			rate;			/* jobs finished per second, lately */
	int64		rated_at;
	DeliveryLook look;

	StringInfo	results;		/* JSON objects, one after the other */
	DeliveryResult *index;
	int			index_size;
	int			nresults;
	bool		creates;		/* a create among them */
	int64		oldest_ms;		/* when the first of them came */
	bool		settle_now;		/* do not wait for more */

	int64		take_not_before;	/* nothing was to be had: ask again then */
	int			single_takes;	/* > 0: one job at a time, to find a bad one */
	int			empty_takes;	/* in a row, though something was due */
	int			parked;			/* jobs put aside in a row */
	int			no_room;		/* times in a row that a lone job found no room */
	bool		fold_failed;
	bool		take_failed;	/* for a reason that no job is to blame for */
	bool		troubled;		/* in this turn; see delivery_trouble() */
	bool		worked;			/* since the last rest */
} Delivery;

/* Tag of the look; jobs have the index of their slot. */
#define DELIVERY_LOOK_TAG PG_UINT64_MAX

/* The smaller of two waits, where -1 is for ever. */
static inline int64
delivery_sooner(int64 a, int64 b)
{
	if (a < 0)
		return b;
	if (b < 0)
		return a;
	return Min(a, b);
}

/* Something to be done inside a block. */
typedef void (*DeliveryWork) (Delivery *d, void *arg);

/* delivery.c */
extern ErrorData *delivery_block(Delivery *d, MemoryContext cxt, bool *durable,
								 DeliveryWork work, void *arg);
extern bool delivery_error_passes(const ErrorData *error);
extern bool delivery_error_blames_nobody(const ErrorData *error);
extern bool delivery_error_is_room(const ErrorData *error);
extern void delivery_log_error(const ErrorData *error, const char *what);
extern void delivery_trouble(Delivery *d, const ErrorData *error);
extern void delivery_job_failed(Delivery *d, int64 job_id,
								const ErrorData *error);

/* delivery_calls.c */
extern void delivery_add_call(Delivery *d, DeliveryBatch *batch, int64 job_id,
							  const DeliveryCall *call);
extern void delivery_batch_done(DeliveryBatch *batch);
extern int64 delivery_send(Delivery *d);
extern void delivery_release(Delivery *d);
extern void delivery_collect(Delivery *d);
extern void delivery_learn(Delivery *d, const PipedriveVerdict *verdict,
						   const EpdsHttpAnswer *answer, int64 sent_ms);
extern bool delivery_settle_due(const Delivery *d);
extern int64 delivery_settle_wait(const Delivery *d);
extern void delivery_settle(Delivery *d);
extern void delivery_forget_results(Delivery *d);

/* delivery_take.c */
extern int64 delivery_take(Delivery *d);

/* delivery_look.c */
extern void delivery_look_next(Delivery *d);
extern int64 delivery_look_send(Delivery *d);
extern void delivery_look_take(Delivery *d, const EpdsHttpAnswer *answer);
extern bool delivery_look_pending(const Delivery *d);

#endif							/* EPDS_DELIVERY_H */
