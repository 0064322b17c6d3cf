/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_SPOOL_H
#define DEDUPSCAN_SPOOL_H

#include <sys/stat.h>

#include "scanner/base/bytes.h"
#include "scanner/base/file.h"
#include "scanner/index/sorter.h"

/* Spool files: what reading one image gave, on its way into the index.
 *
 * A spool file is a header (which image, in which state), then frames, then an end frame.  A data frame holds the segments of a
 * stretch of the image and one request {key, block} for each block of them that is not zero, grouped into 256 slices by the
 * first byte of the key, so that the index can take them one partition at a time.  Frames are written whole and
 * checksummed: whatever a kill or a power cut leaves is a file whose good frames are a resumable beginning.
 *
 * While it is written a file is called <image>.part, when complete <image>.req.  Requests name blocks relative to their image,
 * never by numbers of one catalog: files can be carried to another host.  dedupscan-catalog(5) shows the bytes. */

#define SPOOL_SLICES 256u

/* What makes an image file the same file in the same state. */
struct spool_identity {
	uint64_t dev, ino, size;
	int64_t mtime, ctime; /* ns since 1970 */
};

struct spool_identity spool_identity_of(const struct stat *st);

static inline bool spool_identity_equal(const struct spool_identity *a, const struct spool_identity *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size && a->mtime == b->mtime && a->ctime == b->ctime;
}

#define SPOOL_TEXT_MAX 8192

enum spool_text { SPOOL_PATH, SPOOL_FORMAT, SPOOL_BACKING, SPOOL_BACKING_PATH, SPOOL_FEATURES, SPOOL_WARNING, SPOOL_NR_TEXTS };

struct spool_image {
	struct spool_identity identity;
	struct fingerprint parts; /* of the identities of the other files it lies in, in order; null = none */
	uint64_t base;	       /* SPOOL_SAME refers to this state of the catalog's image */
	uint64_t virtual_size, span, layer;
	uint64_t file_used;    /* st_blocks in bytes */
	uint64_t cluster_size;
	uint32_t nr_snapshots;
	uint32_t told;	       /* its format was told by the user, not found out */
	uint32_t racy;	       /* it may have changed while or just before it was read: never taken for unchanged */
	char texts[SPOOL_TEXT_MAX]; /* the SPOOL_NR_TEXTS strings, each NUL-terminated */
};

const char *spool_text(const struct spool_image *image, enum spool_text which);
/* Sets all texts at once; too long ones are cut. */
void spool_set_texts(struct spool_image *image, const char *const texts[SPOOL_NR_TEXTS]);

/* ---- frames ---- */

/* One segment of a frame.  Segments ascend; those without stored data are left out. */
struct spool_segment {
	le64 segment;	    /* address / 2 MiB */
	uint8_t digest[16]; /* XXH3-128 of its 512 fingerprints */
	le16 stored, zero;  /* blocks, 1..512, and how many of these are zero */
	le16 flags;
	le16 reserved;
};

/* What the last scan said of a segment: in files of these, ascending, a reader gets to know what is new. */
struct spool_digest {
	uint64_t segment;
	uint8_t digest[16];
};

#define SPOOL_SAME 1u /* the digest is the catalog's: its places stay, no requests follow */

/* One request, 18 bytes: key.hi, then 40 bits of key.lo above the lower 24 of the block number, then the block's upper 16. */
struct spool_request {
	le64 hi, mid;
	le16 block_hi;
};

struct spool_frame {
	uint8_t magic[4]; /* "DDSF" */
	le32 kind;
	le64 payload_len;
	le64 next_address; /* the image is done up to here */
	le64 bytes_read;   /* image bytes that were read for this frame */
	le32 nr_segments, nr_requests;
	le32 checksum;	      /* of the payload */
	le32 header_checksum; /* of the bytes before it */
};

enum { SPOOL_FRAME_DATA = 1, SPOOL_FRAME_END = 2 };

#define SPOOL_FRAME_REQUESTS 12288u /* at most, so 48 MiB of image data */
#define SPOOL_FRAME_SEGMENTS 1024u

#define SPOOL_FRAME_MAX                                                                                                \
	(sizeof(struct spool_frame) + SPOOL_FRAME_SEGMENTS * sizeof(struct spool_segment) +                            \
	 (SPOOL_SLICES + 1) * sizeof(le32) + SPOOL_FRAME_REQUESTS * sizeof(struct spool_request))

/* A frame being gathered by a reader. */
struct spool_pending {
	uint32_t nr_segments, nr_requests;
	uint64_t bytes_read;
	struct spool_segment segments[SPOOL_FRAME_SEGMENTS];
	struct {
		struct fingerprint f;
		uint64_t block;
	} requests[SPOOL_FRAME_REQUESTS];
};

/* Makes the frame in `ret` (SPOOL_FRAME_MAX bytes) and empties p.  Returns its length. */
size_t spool_frame_make(struct spool_pending *p, uint64_t next_address, uint8_t *ret);

/* Checks a frame that another process made: all lengths and orders, and that requests belong to its changed segments; not the
 * sums. */
int spool_frame_check(const uint8_t *frame, size_t len, struct err *err);

/* ---- writing ---- */

struct spool_totals {
	uint64_t nr_stored, nr_zero;	   /* blocks */
	uint64_t nr_segments, nr_requests; /* requests: those of changed segments only */
	uint64_t bytes_read;
};

struct spool_writer {
	int fd;
	uint64_t offset;
	uint64_t next_address;
	struct spool_totals totals;
};

/* Begins `<name>.part` anew. */
int spool_create(struct spool_writer *w, int dirfd, const char *name, const struct spool_image *image, struct err *err);

/* Goes on with `<name>.part` if it is there, whole at its beginning and about the same state of the same image; then 1 is
 * returned, w->next_address says from where, and *ret_image what its header said.  0 = there is nothing to go on with. */
int spool_resume(struct spool_writer *w, int dirfd, const char *name, const struct spool_identity *identity, uint64_t base,
		 struct spool_image *ret_image, struct err *err);

int spool_append(struct spool_writer *w, const uint8_t *frame, size_t len, struct err *err);

/* Writes the header again (its length is fixed), the end frame, and renames to `<name>.req`.  Not synced: that has to be done
 * before anything relies on it, for which w->fd stays open until it is released. */
int spool_commit(struct spool_writer *w, int dirfd, const char *name, const struct spool_image *image, struct err *err);
void spool_writer_release(struct spool_writer *w);

/* ---- reading ---- */

struct spool {
	int dirfd, fd; /* fd -1 after spool_let_go() */
	char file[64];
	struct spool_image *image; /* NULL after spool_let_go() */
	struct spool_totals totals;
	uint64_t *frames; /* offsets of the data frames */
	size_t nr_frames;
};

/* Opens a complete `<name>.req`; with `full_check` every checksum is looked at. */
struct spool *spool_open(int dirfd, const char *name, bool full_check, struct err *err);
void spool_close(struct spool *s);
CLEANUP_DEFINE(struct spool *, spool_close)

/* Closes the file and frees its header, for there may be any number of spool files in a merge; spool_requests() opens it
 * again for as long as it reads. */
void spool_let_go(struct spool *s);

int spool_sync(struct spool *s, struct err *err);

/* The segments of one frame: reads at most SPOOL_FRAME_SEGMENTS into ret and returns how many, or -1. */
ssize_t spool_segments(struct spool *s, size_t frame, struct spool_segment *ret, struct err *err);

/* Adds the requests of slices [first, last] to the sorter, their blocks moved by `shift`: place = block + shift. */
int spool_requests(struct spool *s, unsigned first, unsigned last, uint64_t shift, struct sorter *sorter, struct err *err);

/* Counts of requests by slice, added to counts[SPOOL_SLICES]. */
int spool_count_slices(struct spool *s, uint64_t *counts, struct err *err);

#endif
