/*-------------------------------------------------------------------------
 *
 * epds_test_http.c
 *		The HTTP room of src/, callable from SQL, for tests.
 *
 * The procedures commit first, as every procedure of the extension does
 * before it waits, so that tests can see that nothing is held meanwhile.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		test/modules/epds_test_http/epds_test_http.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "portability/instr_time.h"
#include "storage/ipc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "compat.h"
#include "http.h"
#include "settings.h"

PG_MODULE_MAGIC;

/* What the HTTP room reads of the extension's settings. */
int			epds_guc_http_timeout = 60000;
bool		epds_guc_allow_insecure_http = false;

/* How much of a body is shown; the rest is told by length and hash. */
#define SHOWN_BODY 2000

void		_PG_init(void);

void
_PG_init(void)
{
	DefineCustomBoolVariable("epds_test_http.allow_insecure_http",
							 "Allow plain http to loopback addresses.", NULL,
							 &epds_guc_allow_insecure_http, false,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("epds_test_http.http_timeout",
							"Default timeout of a request.", NULL,
							&epds_guc_http_timeout, 60000, 1, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
}

/*
 * An argument as text in memory that outlives the commit, NULL for NULL.
 */
static char *
text_argument(FunctionCallInfo fcinfo, int argno)
{
	return PG_ARGISNULL(argno) ? NULL :
		text_to_cstring(PG_GETARG_TEXT_PP(argno));
}

/*
 * The header array as a NULL-terminated list, NULL for NULL.
 */
static const char **
header_argument(FunctionCallInfo fcinfo, int argno)
{
	Datum	   *elements;
	int			count;
	int			i;
	const char **headers;

	if (PG_ARGISNULL(argno))
		return NULL;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(argno), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, NULL, &count);
	headers = palloc0(sizeof(char *) * (count + 1));
	for (i = 0; i < count; i++)
		headers[i] = TextDatumGetCString(elements[i]);
	return headers;
}

/*
 * End the caller's transaction, so that nothing is held from here on.
 */
static void
commit_first(void)
{
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect_ext failed");
	SPI_commit();
	SPI_finish();
}

/*
 * The row that CALL shows: one jsonb.
 */
static Datum
answer_row(FunctionCallInfo fcinfo, const char *json)
{
	TupleDesc	tupdesc;
	Datum		value;
	bool		isnull = false;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	value = DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), &value,
											 &isnull));
}

static const char *
result_name(EpdsHttpResult result)
{
	switch (result)
	{
		case EPDS_HTTP_OK:
			return "ok";
		case EPDS_HTTP_NOT_SENT:
			return "not_sent";
		case EPDS_HTTP_UNKNOWN:
			return "unknown";
		case EPDS_HTTP_REFUSED:
			return "refused";
	}
	return "?";
}

static void
append_member(StringInfo out, const char *name, const char *value)
{
	appendStringInfo(out, ",\"%s\":", name);
	if (value == NULL)
		appendStringInfoString(out, "null");
	else
		escape_json(out, value);
}

static char *
answer_json(EpdsHttpAnswer *answer)
{
	StringInfoData out;
	size_t		shown = Min(answer->body_len, SHOWN_BODY);

	initStringInfo(&out);
	appendStringInfo(&out, "{\"status\":%d,\"body_len\":%zu,\"total_ms\":%d",
					 answer->status, answer->body_len, answer->total_ms);
	append_member(&out, "result", result_name(answer->result));
	append_member(&out, "error", answer->error);
	append_member(&out, "type", answer->content_type);
	append_member(&out, "body",
				  answer->body_len <= SHOWN_BODY ? answer->body :
				  pnstrdup(answer->body, shown));
	appendStringInfo(&out, ",\"tag\":" UINT64_FORMAT ",\"headers\":%s}",
					 answer->tag, answer->headers);
	return out.data;
}

PG_FUNCTION_INFO_V1(epds_test_fetch);

/*
 * test_fetch: one request through epds_http_fetch().
 */
Datum
epds_test_fetch(PG_FUNCTION_ARGS)
{
	EpdsHttpRequest request = {0};
	EpdsHttpAnswer answer;

	request.method = text_argument(fcinfo, 0);
	request.url = text_argument(fcinfo, 1);
	request.headers = header_argument(fcinfo, 2);
	request.body = text_argument(fcinfo, 3);
	request.body_len = request.body ? strlen(request.body) : 0;
	request.max_answer = PG_ARGISNULL(4) ? 0 : PG_GETARG_INT32(4);
	request.timeout_ms = PG_ARGISNULL(5) ? 0 : PG_GETARG_INT32(5);
	request.tag = 4711;

	commit_first();
	epds_http_fetch(&request, &answer);
	PG_RETURN_DATUM(answer_row(fcinfo, answer_json(&answer)));
}

static double
cpu_ms(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000.0 +
		(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000.0;
}

PG_FUNCTION_INFO_V1(epds_test_many);

/*
 * test_many: the same request many times over one mux; counts what came.
 */
Datum
epds_test_many(PG_FUNCTION_ARGS)
{
	EpdsHttpRequest request = {0};
	EpdsMux    *mux;
	MemoryContext scratch;
	MemoryContext caller = CurrentMemoryContext;
	int			requests = PG_GETARG_INT32(3);
	int			connections = PG_GETARG_INT32(4);
	int			results[4] = {0, 0, 0, 0};
	int64		tags = 0;
	int			ok_status = 0;
	double		cpu = cpu_ms();
	instr_time	start;
	instr_time	end;
	int			i;

	request.method = text_argument(fcinfo, 0);
	request.url = text_argument(fcinfo, 1);
	request.body = text_argument(fcinfo, 2);
	request.body_len = request.body ? strlen(request.body) : 0;

	commit_first();
	INSTR_TIME_SET_CURRENT(start);
	mux = epds_mux_create(CurrentMemoryContext, connections);
	scratch = AllocSetContextCreate(CurrentMemoryContext, "test_many",
									ALLOCSET_DEFAULT_SIZES);
	for (i = 0; i < requests; i++)
	{
		request.tag = i + 1;
		epds_mux_add(mux, &request);
	}
	while (epds_mux_pending(mux) > 0)
	{
		EpdsHttpAnswer answer;

		epds_mux_wait(mux, -1, PG_WAIT_EXTENSION);
		MemoryContextSwitchTo(scratch);
		while (epds_mux_next_done(mux, &answer))
		{
			results[answer.result]++;
			tags += answer.tag;
			if (answer.status == 200)
				ok_status++;
		}
		MemoryContextSwitchTo(caller);
		MemoryContextReset(scratch);
	}
	epds_mux_destroy(mux);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);

	PG_RETURN_DATUM(answer_row(fcinfo, psprintf("{\"ok\":%d,\"not_sent\":%d,"
												"\"unknown\":%d,\"refused\":%d,\"status_200\":%d,"
												"\"tags\":" INT64_FORMAT ",\"ms\":%.1f,\"cpu_ms\":%.1f}",
												results[EPDS_HTTP_OK],
												results[EPDS_HTTP_NOT_SENT],
												results[EPDS_HTTP_UNKNOWN],
												results[EPDS_HTTP_REFUSED],
												ok_status, tags,
												INSTR_TIME_GET_MILLISEC(end),
												cpu_ms() - cpu)));
}

PG_FUNCTION_INFO_V1(epds_test_sleep);

/*
 * test_sleep: wait without a request until the time is over.
 */
Datum
epds_test_sleep(PG_FUNCTION_ARGS)
{
	int			ms = PG_GETARG_INT32(0);
	instr_time	start;
	instr_time	now;

	commit_first();
	INSTR_TIME_SET_CURRENT(start);
	for (;;)
	{
		long		left;

		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, start);
		left = ms - (long) INSTR_TIME_GET_MILLISEC(now);
		if (left <= 0)
			break;
		epds_http_sleep(left, PG_WAIT_EXTENSION);
	}
	PG_RETURN_NULL();
}

PG_FUNCTION_INFO_V1(epds_test_redact_add);

Datum
epds_test_redact_add(PG_FUNCTION_ARGS)
{
	epds_redact_add(text_argument(fcinfo, 0));
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(epds_test_open_files);

/*
 * test_open_files: descriptors this backend has open that are no files: those
 * of tables come and go with the server's own cache.
 */
Datum
epds_test_open_files(PG_FUNCTION_ARGS)
{
	DIR		   *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	int			count = 0;

	if (dir == NULL)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open directory \"/proc/self/fd\": %m")));
	while ((entry = readdir(dir)) != NULL)
	{
		struct stat about;

		if (fstatat(dirfd(dir), entry->d_name, &about, 0) == 0 &&
			!S_ISREG(about.st_mode) && !S_ISDIR(about.st_mode))
			count++;
	}
	closedir(dir);
	PG_RETURN_INT32(count);
}

/* Stay for a while when everything but the process itself is gone. */
static void
leave_slowly(int code, Datum ms)
{
	pg_usleep(DatumGetInt32(ms) * 1000L);
}

PG_FUNCTION_INFO_V1(epds_test_leave_slowly);

/*
 * test_leave_slowly: the kernel closes what this backend has open only so many
 * milliseconds after its locks are gone.
 */
Datum
epds_test_leave_slowly(PG_FUNCTION_ARGS)
{
	on_proc_exit(leave_slowly, Int32GetDatum(PG_GETARG_INT32(0)));
	PG_RETURN_VOID();
}
