/*-------------------------------------------------------------------------
 *
 * utility_hook.c
 *		Workers get out of the way of commands that their presence would block.
 *
 * A connected worker is a session: it would make DROP DATABASE, ALTER DATABASE
 * ... RENAME or SET TABLESPACE, and CREATE DATABASE ... TEMPLATE fail, and it
 * could get in the way of DROP or ALTER EXTENSION exact_pd_sync.  Before such
 * a command runs, a hold is put on the database; its workers see it, leave,
 * and are kept away until the end of the transaction.  Then the launcher
 * starts them again, if the database and the setting still say so.
 *
 * So do settings of the database itself (ALTER DATABASE ... SET), which are
 * read when a session starts: the workers begin anew with them.
 *
 * A hold is only put up for somebody whom the command will be allowed to:
 * otherwise anybody could stop the workers with a command that then fails.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/utility_hook.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"

#include "compat.h"
#include "shared.h"

/* PostgreSQL itself waits 5 s for other sessions to leave; we come before. */
#define HOLD_WAIT_MS 5000

static ProcessUtility_hook_type prev_process_utility = NULL;
static bool holding = false;
static bool launcher_to_be_told = false;
static bool callback_registered = false;

/* What a statement asks of the workers. */
typedef struct WorkersInTheWay
{
	const char *database;		/* that must be left; NULL: none */
	bool		extension;		/* our extension in this database changes */
	bool		databases_change;	/* the launcher should look again */
} WorkersInTheWay;

/* Everything is over at the end of the transaction, however it ends. */
static void
hold_xact_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	if (holding)
		epds_release_holds();
	else if (launcher_to_be_told && event == XACT_EVENT_COMMIT)
		epds_launcher_wake();
	holding = false;
	launcher_to_be_told = false;
}

/* The string value of an option of CREATE or ALTER DATABASE, or NULL. */
static const char *
database_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return NULL;
}

static bool
names_our_extension(DropStmt *stmt)
{
	ListCell   *lc;

	if (stmt->removeType != OBJECT_EXTENSION)
		return false;
	foreach(lc, stmt->objects)
	{
		if (strcmp(strVal(lfirst(lc)), "exact_pd_sync") == 0)
			return true;
	}
	return false;
}

/* Look at a statement; nothing is done yet. */
static WorkersInTheWay
judge_statement(Node *stmt)
{
	WorkersInTheWay way = {0};

	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			way.database = ((DropdbStmt *) stmt)->dbname;
			break;
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType != OBJECT_DATABASE)
				break;
			way.database = ((RenameStmt *) stmt)->subname;
			way.databases_change = true;
			break;
		case T_CreatedbStmt:
			way.database = database_option(((CreatedbStmt *) stmt)->options, "template");
			way.databases_change = true;
			break;
		case T_AlterDatabaseStmt:
			if (database_option(((AlterDatabaseStmt *) stmt)->options, "tablespace") != NULL)
				way.database = ((AlterDatabaseStmt *) stmt)->dbname;
			way.databases_change = true;
			break;
		case T_AlterDatabaseSetStmt:
			/* read when a session starts: the workers begin anew */
			way.database = ((AlterDatabaseSetStmt *) stmt)->dbname;
			break;
		case T_DropStmt:
			way.extension = names_our_extension((DropStmt *) stmt);
			break;
		case T_AlterExtensionStmt:
			way.extension = strcmp(((AlterExtensionStmt *) stmt)->extname, "exact_pd_sync") == 0;
			break;
		default:
			break;
	}
	return way;
}

/* Has this database workers, and may the user do to it what he asks for? */
static bool
is_to_be_held(Oid database)
{
	bool		known;

	epds_shared_lock(LW_SHARED);
	known = epds_shared_find(database) != NULL;
	epds_shared_unlock();
	return known && (superuser() || epds_owns_database(database, GetUserId()));
}

/*
 * Put up the hold and wait for the workers to leave.  When they do not, the
 * command runs all the same and says in its own words what is in its way.
 */
static void
clear_the_way(const WorkersInTheWay *way)
{
	Oid			database = InvalidOid;

	if (way->database != NULL)
		database = get_database_oid(way->database, true);
	else if (way->extension && superuser())
		database = MyDatabaseId;
	if (!OidIsValid(database) && !way->databases_change)
		return;

	if (!callback_registered)
	{
		RegisterXactCallback(hold_xact_callback, NULL);
		callback_registered = true;
	}
	launcher_to_be_told = way->databases_change;
	if (!OidIsValid(database) || !is_to_be_held(database))
		return;
	/* set first: an ERROR on the way must release it as well */
	holding = true;
	if (!epds_hold(database))
		return;
	(void) epds_wait_for_workers(database, false, HOLD_WAIT_MS);
	if (way->extension)
		epds_note_extension_change();
}

static void
process_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	if (epds_shared != NULL && IsTransactionState() && !RecoveryInProgress())
	{
		WorkersInTheWay way = judge_statement(pstmt->utilityStmt);

		if (way.database != NULL || way.extension || way.databases_change)
			clear_the_way(&way);
	}
	if (prev_process_utility)
		prev_process_utility(pstmt, query_string, read_only_tree, context, params,
							 query_env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query_string, read_only_tree, context, params,
								query_env, dest, qc);
}

/* Called while libraries are preloaded: sessions of every database need it. */
void
epds_utility_hook_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
