/*-------------------------------------------------------------------------
 *
 * tx.h
 *		Short transactions, the same in a procedure and in a worker.
 *
 * The same code runs behind CALL poll_orders() in somebody's session and
 * inside a background worker.  Both work in short blocks:
 *
 *		epds_tx_begin();
 *		epds_sql(...);
 *		epds_tx_commit();
 *		... network, with nothing held ...
 *
 * In a procedure a block is the transaction of the CALL, ended by SPI_commit()
 * or, after an ERROR that was caught, by epds_tx_abort(), so that the ERROR can
 * be taken back and still be recorded; each SQL command in it runs in an
 * internal subtransaction.  In a worker it is a transaction of its own.  Inside a
 * block SQL runs as the role of exact_pd_sync.role; the caller's identity is
 * put back before the commit, because a commit as somebody else is refused.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/tx.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_TX_H
#define EPDS_TX_H

#include "postgres.h"

#include "fmgr.h"

/*
 * Enter and leave a procedure.  epds_procedure_enter() checks that it may
 * commit (a bare top-level CALL; ERROR with a hint otherwise) and connects
 * SPI without atomicity.  epds_procedure_leave() disconnects.
 */
extern void epds_procedure_enter(FunctionCallInfo fcinfo, const char *name);
extern void epds_procedure_leave(void);

/* Say once that this process is a worker: blocks become transactions. */
extern void epds_tx_in_worker(void);

/* Say that we are inside a plain function: blocks do not commit (verify()). */
extern void epds_tx_in_function(bool yes);

extern void epds_tx_begin(void);
extern void epds_tx_commit(void);

/* The same with synchronous_commit = on: token pairs, create intents. */
extern void epds_tx_commit_durable(void);

/* After an ERROR was caught: throw the open block away, if there is one. */
extern void epds_tx_abort(void);

/* Is a block open? */
extern bool epds_tx_is_open(void);

/*
 * Run one SQL command inside a block.  Parameters are text (NULL allowed) and
 * are cast by the SQL text itself ($1::integer).  Plans are kept per SQL text
 * (the text must be a string constant).  Returns the number of rows;
 * epds_sql_value() then gives a value of the last command as text, palloc'd in
 * the caller's context (the context that was current at epds_tx_begin()), or
 * NULL.
 */
extern int	epds_sql(const char *sql, int nargs, const char *const *args);
extern char *epds_sql_value(int row, int column);	/* both from 0 */
extern bool epds_sql_bool(int row, int column, bool if_null);
extern int64 epds_sql_int(int row, int column, int64 if_null);

/* The OID that exact_pd_sync.role names, or the extension's owner. */
extern Oid	epds_role(void);

/* Is the extension there (and not being dropped)?  Needs an open block. */
extern bool epds_extension_exists(void);

#endif							/* EPDS_TX_H */
