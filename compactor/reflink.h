/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_REFLINK_H
#define DEDUPSCAN_REFLINK_H

#include "compactor/moves.h"

/* Sharing equal stretches in place: FIDEDUPERANGE.  The kernel locks both files, compares the bytes and shares the blocks, or
 * leaves them alone; so it is safe beside readers and writers, and file bytes never change.  See ioctl_fideduperange(2).
 *
 * What the kernel says was shared is no proof (it reports what was asked for): FIEMAP and statfs are asked afterwards. */

#define REFLINK_CALL ((uint64_t)16 << 20) /* bytes in one call */

struct reflink {
	struct store *store;
	struct moves *moves;
	uint64_t min_run;
	uint64_t block; /* of the file system */
	/* Called with the bytes that were worked through since; ERR_CANCELED stops. */
	int (*worked)(void *ctx, uint64_t bytes, struct err *err);
	void *ctx;

	/* counted */
	uint64_t nr_calls, nr_differed, bytes_asked, nr_refused;
	int refused_errno; /* the last refusal of the kernel other than "these differ" */

	/* working memory */
	uint8_t *buf;
	const struct move *move; /* at hand */
	uint64_t gap;		 /* of it: the first that does not end before what is at hand */
	struct piece fetched;	 /* is shared next; its len is 0 when there is none */
};

/* Makes all moves of one image.  Stretches that changed since the scan are counted and left alone. */
int reflink_image(struct reflink *r, size_t image, struct err *err);
void reflink_release(struct reflink *r);
CLEANUP_DEFINE_RELEASE(struct reflink, reflink_release)

/* "" = fine; else why the kernel at hand should not be asked to share blocks: known faults lose data. */
const char *reflink_kernel_fault(const char *release, const char *fs_type);

#endif
