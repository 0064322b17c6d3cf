/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_IMAGE_H
#define DEDUPSCAN_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"

/* Disk images: recognise, open and read them.
 *
 * An image has two views.
 *
 * The *stored* view is what this file itself holds, each cluster once: the view for capacity.  Its addresses run
 * over [0, span) and are made of layers, each `layer` bytes long: layer 0 is the guest disk as it is now, layer k
 * the k-th internal snapshot, of which only clusters show that no layer before it holds at the same place.  Within a
 * layer an address is a guest offset.  What the file does not hold (a backing file does, or nobody) is a hole, and
 * reads as zeros.
 *
 * The *guest* view is what the VM sees, [0, size): layer 0, holes filled from the backing chain.
 *
 * Nothing here opens a file by name: names inside an image go to the `image_opener` that the caller gives, who
 * decides.  Bytes of an image are never trusted; a format error names what is wrong and ends with that image. */

struct image;

enum extent_kind {
	EXTENT_HOLE,   /* not in this file: stored view zeros, guest view the backing file's */
	EXTENT_ZERO,   /* reads as zeros, says the format (not even the backing file shows) */
	EXTENT_DATA,   /* plain bytes at file_offset of fd */
	EXTENT_PACKED, /* bytes that must be decoded first (a compressed cluster) */
};

struct extent {
	uint64_t offset; /* address in the view asked for */
	uint64_t len;	 /* bytes, never 0 */
	enum extent_kind kind;
	const struct image *owner; /* guest view: the member of the chain that holds it; else the image itself */
	int fd;			   /* EXTENT_DATA: where the bytes are ... */
	uint64_t file_offset;	   /* ... and at which offset; a range past the file's end reads as zeros */
	bool preallocated;	   /* EXTENT_ZERO: a cluster of the file is reserved for it */
};

/* How a name inside an image becomes a descriptor.  Roles tell the caller's policy (and messages) what it is for. */
enum image_role { IMAGE_BACKING, IMAGE_DATA_FILE };

struct image_opener {
	/* Opens what the image at `from_path` calls `name`.  Returns a descriptor to own and writes the resolved
	 * path to ret_path (PATH_MAX bytes), or fails: ERR_REFUSED when policy forbids, ERR_IO when it is not there. */
	int (*open)(void *ctx, enum image_role role, const char *name, const char *from_path, char *ret_path,
		    struct err *err);
	void *ctx;
};

/* Longest backing chain that is followed, the image itself included (libvirt's limit). */
#define IMAGE_CHAIN_MAX 200

#define IMAGE_NAME_MAX 1024

/* What an image says about itself; filled by its format's open(). */
struct image_info {
	uint64_t file_size;		   /* bytes of the file when it was opened */
	unsigned version;		   /* of the format, 0 if it has none */
	uint64_t cluster_size;		   /* bytes, 0 if it has none */
	char backing_name[IMAGE_NAME_MAX]; /* as written in the image, "" = none */
	char backing_format[32];	   /* as written in the image, "" = not said */
	char data_file[IMAGE_NAME_MAX];	   /* external data file's name, "" = none */
	uint64_t data_file_size;	   /* bytes of it when it was opened */
	unsigned nr_snapshots, nr_bitmaps;
	bool encrypted;	    /* stored bytes are ciphertext; there is no guest view */
	bool compressed;    /* may hold compressed clusters */
	bool dirty;	    /* not closed properly: reference counts may be off */
	bool corrupt;	    /* marked corrupt by whoever wrote it */
	bool extended_l2;   /* has subclusters */
	char features[256]; /* one line for people: "lazy refcounts, zstd, extended L2" */
};

/* An image format: how to recognise it and how to read it.  All calls but open may run from several threads on
 * different images, never on the same one. */
struct image_format {
	const char *name; /* "qcow2", as in reports and --format */

	/* 0 = not this format, higher = surer.  Never fails, reads nothing more.  head has len bytes, at most 4096;
	 * tail is the last 512 bytes of the file, or NULL when the file is shorter. */
	int (*probe)(const uint8_t *head, size_t len, const uint8_t *tail);

	/* Reads and checks the metadata of the open file `fd` and returns a subclass of struct image with `size`,
	 * `span`, `layer` and `info` set; image_open() fills in the rest.  External data files are asked of the
	 * opener.  Does not own fd. */
	struct image *(*open)(int fd, const char *path, const struct image_opener *opener, struct err *err);

	/* The stored extent that holds address `from` < span, beginning exactly at `from` and as long as it is alike
	 * and contiguous in the file (at most 1 GiB).  Never crosses a layer boundary. */
	int (*next_extent)(struct image *img, uint64_t from, struct extent *ret, struct err *err);

	/* Decodes [offset, offset + len) which lies in one EXTENT_PACKED extent.  NULL when the format has none. */
	int (*read_packed)(struct image *img, uint64_t offset, void *buf, size_t len, struct err *err);

	void (*close)(struct image *img); /* frees; does not close img->fd */
};

/* The common head of every open image. */
struct image {
	const struct image_format *format;
	char *path; /* for messages, and what relative names inside it are relative to */
	int fd;
	uint64_t size;	/* guest bytes */
	uint64_t span;	/* bytes of stored address space; a multiple of `layer` but for a single one */
	uint64_t layer; /* bytes from one layer to the next: >= size, a multiple of 2 MiB */
	struct image_info info;
	struct image *backing;		 /* the chain, if image_open_chain() was asked for it */
	uint64_t solid_begin, solid_end; /* a part of the file that has no holes, for image_hole_at() */
	struct extent last;		 /* what image_next_extent() found last, for walks over chains */
};

/* Beyond this many bytes of address space, all layers together, an image is ERR_UNSUPPORTED: 2^40 blocks of 4 KiB. */
#define IMAGE_SPAN_MAX ((uint64_t)1 << 52)
#define IMAGE_LAYER_UNIT ((uint64_t)2 << 20)
#define IMAGE_EXTENT_MAX ((uint64_t)1 << 30)

/* For formats: bytes of a regular file or block device; anything else is ERR_UNSUPPORTED. */
int image_file_size(int fd, uint64_t *ret, struct err *err);

/* For formats: whether file offset `at` of the file with the data is in a hole, as the file system tells; *end, of a
 * range that begins there, is cut to where this changes.  A hint: no holes are told where the file system knows
 * none. */
bool image_hole_at(struct image *img, int fd, uint64_t at, uint64_t *end);

/* The formats that are read, NULL-terminated, "raw" last. */
extern const struct image_format *const image_formats[];
const struct image_format *image_format_by_name(const char *name);

/* Which format the file looks like; NULL with err when it is none that is read: ERR_UNSUPPORTED names a format that is
 * recognised but not read.  A file that nothing claims is raw. */
const struct image_format *image_probe(int fd, struct err *err);

/* Opens one image for its stored view.  Takes over fd (closed by image_close(), and at once on failure).  `format`
 * NULL means probe. */
struct image *image_open(int fd, const char *path, const struct image_format *format, const struct image_opener *opener,
			 struct err *err);

/* Opens the backing chain of an image that image_open() gave, for the guest view.  Loops, chains of more than
 * IMAGE_CHAIN_MAX and names that the opener refuses fail with the name in the message; the image itself stays
 * usable. */
int image_open_chain(struct image *img, const struct image_opener *opener, struct err *err);

void image_close(struct image *img); /* the whole chain; takes NULL */
CLEANUP_DEFINE(struct image *, image_close)

/* The extent of the stored view at `from` < span: checked, never empty, never past span. */
int image_next_extent(struct image *img, uint64_t from, struct extent *ret, struct err *err);

/* Reads len bytes from inside `ext`, which came from image_next_extent() or image_next_guest_extent(). */
int image_read_extent(const struct extent *ext, uint64_t offset, void *buf, size_t len, struct err *err);

/* The extent of the guest view at `from` < size, through the chain: a hole only where no member holds anything. */
int image_next_guest_extent(struct image *img, uint64_t from, struct extent *ret, struct err *err);

/* Reads guest bytes through the chain. */
int image_read_guest(struct image *img, uint64_t offset, void *buf, size_t len, struct err *err);

#endif
