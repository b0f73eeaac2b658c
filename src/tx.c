/*-------------------------------------------------------------------------
 *
 * tx.c
 *		Short transactions, the same in a procedure and in a worker.
 *
 * Three lives, one interface:
 *
 * procedure	The block is the transaction of the CALL itself; the commit is
 *				SPI_commit().  Each SQL command runs in an internal
 *				subtransaction of its own.  That is what makes the SPI stack
 *				whole again when a command fails inside nested functions, so
 *				that the block can be thrown away with SPI_rollback() and the
 *				failure still be recorded.  It also means that an ERROR nobody
 *				catches leaves no subtransaction behind, which the server
 *				could not end at top level.
 * worker		The block is a transaction; SPI is connected inside it.
 * function		verify(), store_secret(): somebody else's transaction.  Blocks
 *				neither commit nor can they be thrown away.
 *
 * Inside a block SQL runs as the role of exact_pd_sync.role, with a search
 * path that nobody else can write to and with neutral formats: operators may
 * run procedures whose tables they cannot read, so nothing of their session
 * may steer what these do.
 *
 * After a commit nothing is held: no snapshot (the catalog snapshot neither),
 * no xid, no lock.  The network wait comes then.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/tx.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "tcop/pquery.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "settings.h"
#include "tx.h"

#define EXTENSION_NAME "exact_pd_sync"

/* More parameters than any statement of ours has. */
#define MAX_ARGS 16

typedef enum TxMode
{
	TX_NONE,
	TX_PROCEDURE,
	TX_WORKER,
	TX_FUNCTION
} TxMode;

/* What we know of the extension when a block begins. */
typedef enum ExtensionState
{
	EXTENSION_ABSENT,
	EXTENSION_BUSY,				/* another session drops or alters it */
	EXTENSION_THERE
} ExtensionState;

typedef struct TxState
{
	TxMode		mode;
	TxMode		mode_before;	/* of the code around a plain function */
	bool		open;
	int			level;			/* transaction nest level of the block */
	int			guc_level;		/* function mode only */
	ExtensionState extension;
	MemoryContext caller_cxt;	/* where the values of results go */
	Oid			user;			/* the caller's identity */
	int			sec_context;
	bool		switched;
	SPITupleTable *result;		/* of the last command */
	uint64		rows;
} TxState;

typedef struct PlanEntry
{
	const char *sql;			/* key: address of the string constant */
	char	   *copy;			/* proves that it still is the same text */
	int			nargs;
	SPIPlanPtr	plan;
} PlanEntry;

typedef struct PinnedSetting
{
	const char *name;
	const char *value;
} PinnedSetting;

/*
 * What a session may have set and what would change the meaning of our SQL.
 * Workers have these values anyway (worker.c); then nothing is to be done.
 */
static const PinnedSetting pinned_settings[] = {
	{"search_path", "pg_catalog, pg_temp"},
	{"TimeZone", "UTC"},
	{"DateStyle", "ISO, YMD"},
	{"IntervalStyle", "postgres"},
	{"bytea_output", "hex"},
	{"extra_float_digits", "1"},
	{"row_security", "on"},
	/* off, a backslash in a pattern of ours would mean something else */
	{"standard_conforming_strings", "on"},
};

static TxState tx;
static HTAB *plans = NULL;
static bool callbacks_registered = false;

/* Forget the block: it is over, one way or another. */
static void
tx_forget(void)
{
	tx.open = false;
	tx.switched = false;
	tx.result = NULL;
	tx.rows = 0;
}

/* The transaction ended under an open block (an ERROR nobody caught). */
static void
tx_xact_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_ABORT && event != XACT_EVENT_COMMIT)
		return;
	tx_forget();
	if (tx.mode == TX_FUNCTION)
		tx.mode = tx.mode_before;
}

/* Likewise for PL/pgSQL's EXCEPTION around a plain function of ours. */
static void
tx_subxact_callback(SubXactEvent event, SubTransactionId my_subid,
					SubTransactionId parent_subid, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	if (tx.open && tx.level >= GetCurrentTransactionNestLevel())
		tx_forget();
}

static void
tx_register_callbacks(void)
{
	if (callbacks_registered)
		return;
	RegisterXactCallback(tx_xact_callback, NULL);
	RegisterSubXactCallback(tx_subxact_callback, NULL);
	callbacks_registered = true;
}

/*
 * Enter a procedure: may it commit?  Then connect SPI and end the transaction
 * the CALL came with, so that its snapshot is not held while we wait.  Throws;
 * must be called first in the procedure.
 */
void
epds_procedure_enter(FunctionCallInfo fcinfo, const char *name)
{
	bool		atomic = true;

	if (fcinfo->context != NULL && IsA(fcinfo->context, CallContext))
		atomic = castNode(CallContext, fcinfo->context)->atomic;

	if (atomic || IsSubTransaction())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("procedure %s cannot run inside a transaction block, a function or an exception block",
						name),
				 errdetail("It commits between its network calls, so that it holds nothing while it waits."),
				 errhint("Run \"CALL %s.%s(...)\" as a statement of its own; in pg_cron as the only statement of its job.",
						 EXTENSION_NAME, name)));
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("procedure %s cannot run on a standby", name),
				 errhint("Run it on the primary server.")));

	tx_register_callbacks();
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect_ext failed in procedure %s", name);
	tx_forget();
	tx.mode = TX_PROCEDURE;
	SPI_commit();
}

/* Leave a procedure.  A block still open is a bug of the caller. */
void
epds_procedure_leave(void)
{
	if (tx.open)
		elog(ERROR, "procedure left with an open block");
	tx.mode = TX_NONE;
	SPI_finish();
}

void
epds_tx_in_worker(void)
{
	tx_register_callbacks();
	tx.mode = TX_WORKER;
}

/*
 * Blocks of a plain function.  After an ERROR between the two calls the end of
 * the transaction does what the second one would.
 */
void
epds_tx_in_function(bool yes)
{
	tx_register_callbacks();
	if (!yes)
		tx.mode = tx.mode_before;
	else
	{
		/* a procedure that failed did not say goodbye; a worker stays one */
		tx.mode_before = (tx.mode == TX_WORKER) ? TX_WORKER : TX_NONE;
		tx.mode = TX_FUNCTION;
	}
}

/*
 * Look the extension up in the catalog: its OID (invalid if absent), its owner.
 * Needs a transaction.
 */
static Oid
extension_lookup(Oid *owner)
{
	Relation	rel;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	Oid			oid = InvalidOid;

	*owner = InvalidOid;
	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum(EXTENSION_NAME));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_extension form = (Form_pg_extension) GETSTRUCT(tuple);

		oid = form->oid;
		*owner = form->extowner;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return oid;
}

/*
 * Is the extension there for the whole of this transaction?  Takes the lock
 * that DROP EXTENSION conflicts with, but never waits for it: waiting would
 * hold a snapshot for as long as the other session likes.
 */
static ExtensionState
extension_pin(Oid *owner)
{
	LOCKTAG		tag;
	Oid			oid = extension_lookup(owner);

	if (!OidIsValid(oid))
		return EXTENSION_ABSENT;
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ExtensionRelationId, oid, 0);
	if (LockAcquire(&tag, AccessShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return EXTENSION_BUSY;
	AcceptInvalidationMessages();
	return (extension_lookup(owner) == oid) ? EXTENSION_THERE : EXTENSION_ABSENT;
}

/* The role of exact_pd_sync.role, or the owner that was just looked up. */
static Oid
role_for_owner(Oid owner)
{
	Oid			role;

	if (epds_guc_role == NULL || epds_guc_role[0] == '\0')
		return owner;
	role = get_role_oid(epds_guc_role, true);
	if (!OidIsValid(role))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" does not exist", epds_guc_role),
				 errdetail("Setting exact_pd_sync.role names it."),
				 errhint("Create the role and run exact_pd_sync.grant_worker() for it, or change the setting.")));
	return role;
}

/*
 * The OID that exact_pd_sync.role names, or the extension's owner; invalid
 * when the setting is empty and the extension absent.  Needs a transaction.
 */
Oid
epds_role(void)
{
	Oid			owner;

	(void) extension_lookup(&owner);
	return role_for_owner(owner);
}

bool
epds_extension_exists(void)
{
	if (!tx.open)
		elog(ERROR, "no open block");
	return tx.extension == EXTENSION_THERE;
}

/* Give our SQL the settings it was written for, until the block ends. */
static void
pin_settings(void)
{
	for (size_t i = 0; i < lengthof(pinned_settings); i++)
	{
		const PinnedSetting *pin = &pinned_settings[i];
		const char *now = GetConfigOption(pin->name, false, false);

		if (strcmp(now, pin->value) != 0)
			(void) set_config_option(pin->name, pin->value, PGC_USERSET,
									 PGC_S_SESSION, GUC_ACTION_SAVE,
									 true, 0, false);
	}
}

/*
 * Begin a block.  The current memory context becomes the one that results are
 * given in, and is current again after every call of this file.  Throws.
 */
void
epds_tx_begin(void)
{
	Oid			owner;
	Oid			role = InvalidOid;

	if (tx.open)
		elog(ERROR, "a block is open already");

	tx.caller_cxt = CurrentMemoryContext;
	switch (tx.mode)
	{
		case TX_PROCEDURE:
			/* each command must see what others committed while we waited */
			if (XactIsoLevel != XACT_READ_COMMITTED)
				(void) set_config_option("transaction_isolation",
										 "read committed", PGC_USERSET,
										 PGC_S_SESSION, GUC_ACTION_LOCAL,
										 true, 0, false);
			break;
		case TX_WORKER:
			SetCurrentStatementStartTimestamp();
			StartTransactionCommand();
			break;
		case TX_FUNCTION:
			break;
		case TX_NONE:
			elog(ERROR, "blocks need a procedure, a worker or a function");
	}
	tx.open = true;
	tx.level = GetCurrentTransactionNestLevel();
	GetUserIdAndSecContext(&tx.user, &tx.sec_context);

	if (tx.mode != TX_PROCEDURE)
		SPI_connect();
	if (tx.mode == TX_FUNCTION)
		tx.guc_level = NewGUCNestLevel();
	pin_settings();

	tx.extension = extension_pin(&owner);
	if (tx.extension != EXTENSION_ABSENT)
		role = role_for_owner(owner);
	if (OidIsValid(role) && role != tx.user)
	{
		SetUserIdAndSecContext(role,
							   tx.sec_context | SECURITY_LOCAL_USERID_CHANGE);
		tx.switched = true;
	}

	/* values of results may have to be fetched from TOAST between commands */
	if (tx.mode == TX_PROCEDURE)
		EnsurePortalSnapshotExists();
	else
		PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(tx.caller_cxt);
}

/* Drop the result of the last command. */
static void
free_result(void)
{
	if (tx.result != NULL)
		SPI_freetuptable(tx.result);
	tx.result = NULL;
	tx.rows = 0;
}

/* The end of a block that succeeded. */
static void
tx_end(bool durable)
{
	if (!tx.open)
		elog(ERROR, "no open block");
	free_result();
	if (tx.switched)
		SetUserIdAndSecContext(tx.user, tx.sec_context);

	/* never less than what the session asks for: it may want remote_apply */
	if (durable && tx.mode != TX_FUNCTION &&
		synchronous_commit < SYNCHRONOUS_COMMIT_ON)
		(void) set_config_option("synchronous_commit", "on", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_LOCAL,
								 true, 0, false);

	switch (tx.mode)
	{
		case TX_PROCEDURE:
			tx_forget();
			SPI_commit();
			break;
		case TX_WORKER:
			PopActiveSnapshot();
			SPI_finish();
			tx_forget();
			CommitTransactionCommand();
			break;
		case TX_FUNCTION:
			PopActiveSnapshot();
			AtEOXact_GUC(true, tx.guc_level);
			SPI_finish();
			tx_forget();
			break;
		case TX_NONE:
			break;
	}
	if (tx.mode != TX_FUNCTION)
		InvalidateCatalogSnapshotConditionally();
	MemoryContextSwitchTo(tx.caller_cxt);
}

void
epds_tx_commit(void)
{
	tx_end(false);
}

void
epds_tx_commit_durable(void)
{
	tx_end(true);
}

/*
 * To be called after an ERROR was caught, with the caller's memory context
 * current (it stays so) and the error data copied.  Ends the transaction even
 * when no block was open: locks and the like of code that failed between blocks
 * must go too.  In a plain function there is nothing to end; the ERROR must be
 * thrown again.
 */
void
epds_tx_abort(void)
{
	MemoryContext cxt = CurrentMemoryContext;

	tx_forget();
	switch (tx.mode)
	{
		case TX_PROCEDURE:
			SPI_rollback();
			break;
		case TX_WORKER:
			AbortOutOfAnyTransaction();
			break;
		case TX_FUNCTION:
		case TX_NONE:
			break;
	}
	if (tx.mode != TX_FUNCTION)
		InvalidateCatalogSnapshotConditionally();
	MemoryContextSwitchTo(cxt);
}

bool
epds_tx_is_open(void)
{
	return tx.open;
}

/*
 * The kept plan of a statement.  The address of the text is the key, which is
 * quick; the text is compared too, because an address may be used again.
 */
static SPIPlanPtr
plan_for(const char *sql, int nargs)
{
	PlanEntry  *entry;
	bool		found;
	Oid			types[MAX_ARGS];
	SPIPlanPtr	plan;
	char	   *copy;

	if (plans == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = sizeof(const char *);
		ctl.entrysize = sizeof(PlanEntry);
		ctl.hcxt = TopMemoryContext;
		plans = hash_create("exact_pd_sync plans", 64, &ctl,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	entry = hash_search(plans, &sql, HASH_FIND, &found);
	if (found && entry->nargs == nargs && strcmp(entry->copy, sql) == 0)
		return entry->plan;

	for (int i = 0; i < nargs; i++)
		types[i] = TEXTOID;
	plan = SPI_prepare(sql, nargs, types);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed for \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));

	/* an entry of other text is replaced; it is not in use at this moment */
	if (found)
	{
		(void) SPI_freeplan(entry->plan);
		pfree(entry->copy);
		(void) hash_search(plans, &sql, HASH_REMOVE, NULL);
	}
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "SPI_keepplan failed for \"%s\"", sql);
	copy = MemoryContextStrdup(TopMemoryContext, sql);
	entry = hash_search(plans, &sql, HASH_ENTER, NULL);
	entry->copy = copy;
	entry->nargs = nargs;
	entry->plan = plan;
	return plan;
}

/* Plan and run; the result is left in SPI's globals.  Throws. */
static void
run_command(const char *sql, int nargs, const char *const *args)
{
	Datum		values[MAX_ARGS];
	char		nulls[MAX_ARGS];
	SPIPlanPtr	plan = plan_for(sql, nargs);
	int			rc;

	for (int i = 0; i < nargs; i++)
	{
		nulls[i] = (args[i] == NULL) ? 'n' : ' ';
		values[i] = (args[i] == NULL) ? (Datum) 0 :
			CStringGetTextDatum(args[i]);
	}
	rc = SPI_execute_plan(plan, values, nulls, false, 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute_plan failed for \"%s\": %s", sql,
			 SPI_result_code_string(rc));
	for (int i = 0; i < nargs; i++)
	{
		if (args[i] != NULL)
			pfree(DatumGetPointer(values[i]));
	}
}

/*
 * The same inside a subtransaction, see the head of this file.  The ERROR is
 * thrown on as it is; only the debris of the command is cleared away.
 */
static void
run_command_guarded(const char *sql, int nargs, const char *const *args)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		run_command(sql, nargs, args);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(cxt);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(cxt);
		CurrentResourceOwner = owner;
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/*
 * Run one command in the open block; see tx.h.  Throws what the command
 * throws, and an ERROR of its own when the extension is gone.
 */
int
epds_sql(const char *sql, int nargs, const char *const *args)
{
	MemoryContext cxt = CurrentMemoryContext;

	if (!tx.open)
		elog(ERROR, "no open block for \"%s\"", sql);
	if (nargs < 0 || nargs > MAX_ARGS)
		elog(ERROR, "%d parameters are too many for \"%s\"", nargs, sql);
	if (tx.extension == EXTENSION_BUSY)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("extension \"%s\" is being dropped or altered by another session",
						EXTENSION_NAME),
				 errhint("Try again when that session is done.")));
	if (tx.extension == EXTENSION_ABSENT)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"%s\" does not exist in this database",
						EXTENSION_NAME),
				 errhint("Run CREATE EXTENSION %s.", EXTENSION_NAME)));

	free_result();
	if (tx.mode == TX_PROCEDURE)
		run_command_guarded(sql, nargs, args);
	else
		run_command(sql, nargs, args);
	tx.result = SPI_tuptable;
	tx.rows = SPI_processed;
	MemoryContextSwitchTo(cxt);
	return (int) tx.rows;
}

/*
 * One value of the last result as text, palloc'd in the context that was
 * current at epds_tx_begin(); NULL for a null.
 */
char *
epds_sql_value(int row, int column)
{
	MemoryContext cxt;
	char	   *value;

	if (!tx.open || tx.result == NULL || row < 0 || (uint64) row >= tx.rows ||
		column < 0 || column >= tx.result->tupdesc->natts)
		elog(ERROR, "the last result has no value at row %d, column %d",
			 row, column);
	cxt = MemoryContextSwitchTo(tx.caller_cxt);
	value = SPI_getvalue(tx.result->vals[row], tx.result->tupdesc, column + 1);
	MemoryContextSwitchTo(cxt);
	return value;
}

bool
epds_sql_bool(int row, int column, bool if_null)
{
	char	   *text = epds_sql_value(row, column);
	bool		value;

	if (text == NULL)
		return if_null;
	if (!parse_bool(text, &value))
		elog(ERROR, "value \"%s\" is not a boolean", text);
	pfree(text);
	return value;
}

int64
epds_sql_int(int row, int column, int64 if_null)
{
	char	   *text = epds_sql_value(row, column);
	char	   *end;
	int64		value;

	if (text == NULL)
		return if_null;
	errno = 0;
	value = strtoi64(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0')
		elog(ERROR, "value \"%s\" is not an integer", text);
	pfree(text);
	return value;
}
