/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_QCOW2_WRITER_H
#define DEDUPSCAN_QCOW2_WRITER_H

#include <stdbool.h>

#include "scanner/image/qcow2_format.h"

/* Headers of qcow2 images of version 3, for those who write some: views, stubs and overlays. */

/* A feature bit of ours among those that a writer must clear before it may change anything.  QEMU clears it when it opens the image
 * for writing, by writing the whole header anew; where that fails, so does opening.  A locked header has no room for it: it is 104
 * bytes long (QEMU makes it 112 since 5.1, and lists the names of features, with small clusters before 5.1 only) and with its
 * extensions fills its cluster but for 7 bytes at most. */
#define QCOW2_LOCKED ((uint64_t)1 << 63)

/* An entry of a refcount table that leads nowhere: reading that refcount block fails, for its offset is negative.  Who looks for a
 * cluster to allocate looks at refcounts from the first cluster on, so an image whose whole refcount table is made of these never
 * gives one out: "Input/output error", at once.  (Refcounts that say that all is taken do it, too, but are read one by one to their
 * end, also by the first look at which parts of the image hold data: seconds for each TiB; and behind their end there is room.) */
#define QCOW2_NO_REFCOUNTS ((uint64_t)0xffffffffffff0000)

/* Encodes what *h says, but for names and extensions; of `ret` only the first h->header_length bytes (104 or 112) are written. */
void qcow2_header_encode(const struct qcow2_header *h, void *ret);

/* Writes an extension at p, padded to 8 bytes; returns what it takes.  QCOW2_EXT_END takes 8 bytes. */
size_t qcow2_extension_encode(uint8_t *p, uint32_t type, const void *data, size_t len);
size_t qcow2_extension_bytes(size_t len);

/* Writes the backing file's name at offset `at` of the header cluster p, and says so in the header. */
void qcow2_backing_encode(uint8_t *p, size_t at, const char *name);

/* The extension that says what the feature bits are called, as QEMU writes it; returns what it takes. */
size_t qcow2_feature_names_encode(uint8_t *p);
#define QCOW2_FEATURE_NAMES_BYTES 392u

/* The bytes that an L1 table has for a disk of `size` bytes: 8 for each L2 table. */
uint64_t qcow2_l1_bytes(uint64_t size, unsigned cluster_bits, bool extended_l2);

#endif
