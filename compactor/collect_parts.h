/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_COLLECT_PARTS_H
#define DEDUPSCAN_COLLECT_PARTS_H

#include "compactor/collect.h"
#include "compactor/pool/cluster_marks.h"
#include "compactor/pool/clusters.h"
#include "compactor/pool/view.h"
#include "scanner/base/vec.h"
#include "scanner/index/judymap.h"

/* What the parts of a collection share: collect.c says who lives, collect_space.c what becomes holes, collect_files.c which cluster
 * files go.  Nobody else includes this. */

enum fate { LIVES, DYING, REMOVED };

/* A stub or a sealed overlay. */
struct mortal {
	uint8_t id[POOL_ID_SIZE];
	bool at_home, in_trash;
	bool named, used;
	enum fate fate;
};

struct collected_view {
	struct view view;
	struct mortal stub;
	bool replaced; /* by a later one of its id, which has the stub */
};

struct wanted {
	uint8_t id[POOL_ID_SIZE];
	bool must; /* be there */
};

/* What lives of a cluster file: bytes, and leaves that lead to it. */
struct swept {
	uint32_t number;
	uint64_t lives, leaves;
};

struct collecting {
	struct pool *p;
	const struct collect_options *o;
	struct collected *ret;
	VEC(struct collected_view) views; /* by id, then generation */
	VEC(struct wanted) wanted;	  /* sealed overlays that names keep */
	VEC(struct mortal) overlays;	  /* sealed ones */
	struct judyset live; /* records of nodes: offset / 8 */
	struct judyset bases; /* of live ones, likewise: they are kept, with nothing that is below them */
	uint64_t nr_dead_nodes;
	bool moved;

	/* Cluster files, by index: what lives of each; marks on what lives of those from `first` on, as many at a time as memory allows.
	 *  */
	VEC(struct swept) swept;
	VEC(struct cluster_marks) batch;
	size_t first;

	/* The one that is swept. */
	size_t file; /* its index */
	struct cluster_marks *marks;
	uint64_t grain;		 /* bytes: less is no hole by itself in this file system */
	uint64_t hole, hole_end; /* dead, and not punched yet: it may go on */
};

static inline bool collect_view_is_in(const struct collected_view *v, uint32_t file)
{
	return v->view.slot / POOL_NR_SLOTS == file;
}

int collect_no_memory(struct err *err);
/* ERR_CANCELED when that is so. */
int collect_stopped(const struct collecting *c, struct err *err);
void collect_tell(const struct collecting *c, const char *stage, uint64_t done, uint64_t total);
bool collect_keeps_record(void *ctx, uint64_t offset);

/* Reads all that says what lives of the clusters, and marks the first of it. */
int collect_look_at_space(struct collecting *c, struct err *err);
/* Makes holes. */
int collect_space(struct collecting *c, struct err *err);
void collect_release_space(struct collecting *c);

/* Evacuates files and removes them. */
int collect_files(struct collecting *c, struct err *err);

#endif

