/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_INTERNAL_SNAPSHOTS_H
#define DEDUPSCAN_INTERNAL_SNAPSHOTS_H

#include "compactor/pool/feed.h"
#include "compactor/pool/import.h"
#include "compactor/pool/names.h"
#include "compactor/proof.h"

/* The internal snapshots of a qcow2 image that enters a pool become versions of it: each is read as the disk that it was, imported,
 * read back from the pool and compared, and published with its name and time.
 *
 * They are published before an overlay takes the place of the image, so none is ever lost; until then, and again when the original
 * was put back, the image has its snapshots itself, and the versions are there in vain: snapshots_forget() removes those. */

#define SNAPSHOTS_MOST 256u /* of one image */

struct entered_snapshot {
	struct image_snapshot told;
	uint64_t size; /* of its disk */
	uint8_t root[DIGEST_SIZE];
};

struct entered_snapshots {
	VEC(struct entered_snapshot) list; /* in the order of the image's table */
};
void entered_snapshots_release(struct entered_snapshots *s);
CLEANUP_DEFINE_RELEASE(struct entered_snapshots, entered_snapshots_release)

struct snapshots_entering {
	struct pool *pool;
	const struct feed *how; /* all but the callbacks and which snapshot */
	struct import_options import;
	int fd; /* of the image, at `path` */
	const char *path;
	unsigned nr; /* of its snapshots, all of them */
	proof_check *check; /* of twice as many disks; NULL = none */
	void *check_ctx;
};

/* Imports all, syncs the pool, and proves what it then reads from the disk against the image.  ERR_UNSUPPORTED: one has the state
 * of a machine, which no version has. */
int snapshots_enter(const struct snapshots_entering *e, struct entered_snapshots *ret, struct err *err);

/* Publishes them as versions of the image at `path`, those that are not there yet.  The label is the snapshot's name; where that
 * cannot be one, or another version has it, NAME-ID, snapshot-ID, or snapshot-ID-2 and so on. */
int snapshots_publish(struct pool *p, const char *path, const struct entered_snapshots *s, struct err *err);

/* The image at `path`, in `fd`, has its snapshots itself: removes the versions that were made of them.  `how` as above. */
int snapshots_forget(struct pool *p, const struct feed *how, int fd, const char *path, unsigned nr, struct err *err);

#endif
