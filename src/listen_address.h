/*-------------------------------------------------------------------------
 *
 * listen_address.h
 *		The setting exact_pd_sync.listen: DATABASE=ADDRESS:PORT, ...
 *
 * Pure: no memory, no error, no transaction.
 *
 * Copyright (c) 2026, the exact_pd_sync authors
 *
 * IDENTIFICATION
 *		src/listen_address.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef EPDS_LISTEN_ADDRESS_H
#define EPDS_LISTEN_ADDRESS_H

#include "postgres.h"

/* A numeric address and a port; IPv6 is written in brackets. */
typedef struct ListenAddress
{
	char		host[64];		/* without brackets; "" = none */
	int			port;
} ListenAddress;

/*
 * Look for the entry of a database (NULL: only check the whole list).  Returns
 * NULL when the list is well formed, else what is wrong with it, a constant;
 * *to is then empty, as it is when the database is not in the list.
 */
extern const char *listen_address_find(const char *list, const char *database,
									   ListenAddress *to);

/* How many entries a well-formed list has. */
extern int	listen_address_count(const char *list);

#endif							/* EPDS_LISTEN_ADDRESS_H */
