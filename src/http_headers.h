/*-------------------------------------------------------------------------
 *
 * http_headers.h
 *		Answer headers as text: which are kept, how they become JSON.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/http_headers.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_HTTP_HEADERS_H
#define EPDS_HTTP_HEADERS_H

#include "postgres.h"

/* Is a header of this name kept?  Allocates nothing, never throws. */
extern bool epds_header_wanted(const char *name, size_t len);

/*
 * "Name: value\n" lines → one JSON object, lower-case name → last value.
 * palloc'd; valid UTF-8 whatever came in.
 */
extern char *epds_headers_json(const char *lines, size_t len);

/*
 * The media type among such lines: lower case, parameters cut off, "" when
 * there is none.  palloc'd.
 */
extern char *epds_headers_content_type(const char *lines, size_t len);

/* Replace NUL and whatever is not UTF-8 by '?', in place. */
extern void epds_text_scrub(char *text, size_t len);

/* One line for people: control characters to spaces, scrubbed, cut. palloc'd */
extern char *epds_text_one_line(const char *text, size_t max);

#endif							/* EPDS_HTTP_HEADERS_H */
