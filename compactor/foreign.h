/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_FOREIGN_H
#define DEDUPSCAN_FOREIGN_H

/* Images in the care of software that makes chains of backing files of its own, and takes the names in them for its own volumes: an
 * overlay on a pool would break it.
 *
 *	OpenStack	nova keeps its own cache of bases, by the base names of backing files
 *	oVirt		names volumes by backing files' names
 *	Proxmox VE	where a storage has `snapshot-as-volume-chain`, names in chains must be paths
 */

#define FOREIGN_PROXMOX_STORAGES "/etc/pve/storage.cfg"

/* Why an image at an absolute path should be left to whom it belongs, NULL = nothing is known.  `storages` is the file that Proxmox
 * VE has its storages in; missing = there are none. */
const char *foreign_keeper(const char *path, const char *storages);

#endif
