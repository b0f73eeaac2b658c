/*-------------------------------------------------------------------------
 *
 * instance.h
 *		What is said when this is not the database that a person confirmed
 *		(law 10); whether it is, SQL knows (_instance_ok()).
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/instance.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_INSTANCE_H
#define EPDS_INSTANCE_H

#define EPDS_NOT_THIS_INSTANCE "this database is a copy, restored or promoted"

/* Throws. */
extern void epds_throw_not_this_instance(void);

#endif							/* EPDS_INSTANCE_H */
