/*-------------------------------------------------------------------------
 *
 * settings.h
 *		The extension's settings (GUCs).  No secret is ever one of them.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/settings.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_SETTINGS_H
#define EPDS_SETTINGS_H

#include "postgres.h"

extern char *epds_guc_databases;	/* comma list; workers run for these */
extern char *epds_guc_listen;	/* DATABASE=ADDRESS:PORT, ... */
extern char *epds_guc_role;		/* "" = owner of the extension */
extern char *epds_guc_secrets_directory;
extern char *epds_guc_key_file;
extern int	epds_guc_max_connections;	/* to Pipedrive, per database */
extern int	epds_guc_http_timeout;	/* ms, whole request */
extern int	epds_guc_poll_interval; /* ms, idle workers look again */
extern bool epds_guc_resume_after_promotion;
extern bool epds_guc_allow_insecure_http;

extern void epds_settings_init(void);

#endif							/* EPDS_SETTINGS_H */
