/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_REINDEX_H
#define DEDUPSCAN_REINDEX_H

#include "compactor/pool/pool.h"
#include "scanner/base/schedule.h"

/* Keys of blocks for a finder that lost them.
 *
 * Nodes and segments are found again as soon as a pool is opened for writing (compactor/pool/nodes.h).  What is in blocks only
 * their clusters tell: all that maps lead to are read, in the order of the file, and get the very keys that an import gave them. */

struct reindex_options {
	struct stopper *stopper; /* may be NULL */
	void (*progress)(void *ctx, const char *stage, uint64_t done, uint64_t total); /* may be NULL */
	void *ctx;
};

/* Whether blocks may be without keys.  The pool may be open for reading only. */
int pool_lacks_keys(struct pool *p, bool *ret, struct err *err);

/* Reads the index through: 1, 0 = it is damaged, as *ret_why says, -1.  The pool may be open for reading only. */
int pool_prove_index(struct pool *p, struct stopper *stopper, struct err *ret_why, struct err *err);
/* Of one that is damaged: nodes have keys again then, and all blocks lack theirs.  Nothing of nodes may be buffered. */
int pool_forget_index(struct pool *p, struct err *err);

/* Gives keys to all that lack them; durable afterwards.  When it is stopped (ERR_CANCELED) or killed, the next call goes on from
 * there.  Clusters that cannot be read get none.  Memory: what p->memory says for the finder, and half as much. */
int pool_reindex(struct pool *p, const struct reindex_options *o, struct err *err);

#endif
