/*-------------------------------------------------------------------------
 *
 * instance.c
 *		Which database of which server this is, as far as it can be told.
 *
 * A restored, copied or promoted database must not go on talking to the
 * outside as if nothing had happened: two copies would create everything twice
 * and take each other's tokens away.  So the database remembers who it was;
 * any difference stops all outbound traffic until a person decides (SQL does
 * the comparing, see _instance_ok()).
 *
 *		system identifier	another initdb
 *		timeline			a standby was promoted, or a backup was recovered
 *		database OID, name	CREATE DATABASE ... TEMPLATE, pg_dump | psql, RENAME
 *		inode of pg_control	the data directory was copied as files
 *
 * A copy of a whole machine image has the same of everything; that cannot be
 * seen from inside.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/instance.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "instance.h"

/* The timeline that WAL is written to; on a standby, the one being replayed. */
static TimeLineID
current_timeline(void)
{
	TimeLineID	timeline;

	if (!RecoveryInProgress())
		return GetWALInsertionTimeLine();
	(void) GetXLogReplayRecPtr(&timeline);
	return timeline;
}

/*
 * instance_identity() returns text: one JSON object.  64-bit numbers are
 * strings, because JSON readers make doubles of numbers.
 */
PG_FUNCTION_INFO_V1(epds_instance_identity);
Datum
epds_instance_identity(PG_FUNCTION_ARGS)
{
	StringInfoData json;
	struct stat control;

	/* a session's working directory is the data directory */
	if (stat("global/pg_control", &control) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", "global/pg_control")));

	initStringInfo(&json);
	appendStringInfo(&json, "{\"system_identifier\": \"" UINT64_FORMAT "\"", GetSystemIdentifier());
	appendStringInfo(&json, ", \"timeline\": %u", current_timeline());
	appendStringInfo(&json, ", \"database_oid\": %u", MyDatabaseId);
	appendStringInfoString(&json, ", \"database_name\": ");
	escape_json(&json, get_database_name(MyDatabaseId));
	appendStringInfo(&json, ", \"control_inode\": \"" UINT64_FORMAT "\"}", (uint64) control.st_ino);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(json.data, json.len));
}

/*
 * epds_throw_not_this_instance
 *		The one ERROR for everything that would have talked to the outside.
 */
void
epds_throw_not_this_instance(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg(EPDS_NOT_THIS_INSTANCE),
			 errdetail("Nothing goes out until a person has said that this is the one that should: two databases with the same tokens and links would undo each other's work."),
			 errhint("When the original no longer runs: SELECT exact_pd_sync.confirm_instance();")));
}
