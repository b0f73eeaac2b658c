/*-------------------------------------------------------------------------
 *
 * exact_write.h
 *		The list of what may be sent to Exact Online.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/exact_write.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_EXACT_WRITE_H
#define EPDS_EXACT_WRITE_H

#include "postgres.h"

/* path: without host, "/api/v1/123456/crm/Contacts", and without a query. */
extern bool epds_exact_request_allowed(const char *method, const char *path);

#endif							/* EPDS_EXACT_WRITE_H */
