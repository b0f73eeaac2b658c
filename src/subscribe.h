/*-------------------------------------------------------------------------
 *
 * subscribe.h
 *		Subscriptions: what the files of this room share.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/subscribe.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_SUBSCRIBE_H
#define EPDS_SUBSCRIBE_H

#include "postgres.h"

/*
 * Make Pipedrive's webhooks what the tables say they should be: one per object,
 * or none.  Within a procedure, outside a block; throws.
 */
extern void epds_subscribe_pipedrive(void);

#endif							/* EPDS_SUBSCRIBE_H */
