/*-------------------------------------------------------------------------
 *
 * credentials.h
 *		Secrets at rest: table credentials, sealed with AES-256-GCM when a key
 *		file is configured.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/credentials.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_CREDENTIALS_H
#define EPDS_CREDENTIALS_H

#include "postgres.h"

/*
 * Both need an open block.  get: palloc'd plain text, NULL if there is none;
 * the value is made known to epds_redact().  set: value NULL removes it.
 * Names: exact_client_secret, exact_webhook_secret, exact_access_token,
 * exact_refresh_token, pipedrive_api_token, pipedrive_webhook_password.
 */
extern char *epds_credential_get(const char *name);
extern void epds_credential_set(const char *name, const char *value);

/*
 * Make a secret of random bytes, unless there is one by now.  Needs an open
 * block.
 */
extern void epds_credential_make(const char *name);

#endif							/* EPDS_CREDENTIALS_H */
