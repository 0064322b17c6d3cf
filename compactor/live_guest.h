/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_LIVE_GUEST_H
#define DEDUPSCAN_LIVE_GUEST_H

#include "compactor/versions.h"

/* Versions of the images of a machine that runs, by libvirt's own means (virsh.h).
 *
 * libvirt has the guest write to a file aside for a few moments, IMAGE.live-<id>.qcow2; what it wrote to before is sealed, a
 * fresh overlay takes its place, and the guest comes back to that, at the image's own path. */

/* As versions_snapshot(), of disks that one running machine has, all as of one moment.  `quiesce`: its guest's agent freezes
 * the file systems for that moment.  An image to which nothing was written is sealed as well.  ERR_USAGE: no machine that
 * runs has one of them, or they are of several. */
int live_snapshot(struct pool *p, const struct snapshot_options *o, bool quiesce, struct snapshot_made *ret,
		  struct err *err);

/* Brings guests home of which a process that died had left some aside, for a version that is not settled.  Fails where
 * libvirt cannot be asked, or does not let it; versions_recover() calls it. */
int live_recover(struct pool *p, const struct name *n, struct err *err);

#endif
