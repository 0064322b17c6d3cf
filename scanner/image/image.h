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
 * An image lies in one file or more: its own, and *parts* that it names (an external data file, the extents of a
 * VMDK).  Nothing here opens a file by name: names inside an image go to the `image_opener` that the caller gives, who
 * decides.  Bytes of an image are never trusted; a format error names what is wrong and ends with that image. */

struct image;

/* A file that holds bytes of an image.  Formats count offsets from `base`, which is 0 but for an image inside another
 * file (a member of an OVA): that ends at base + size, while a file of its own may have grown since it was opened. */
struct image_file {
	int fd;
	bool inside;   /* a part of a larger file, or of one with something behind the image */
	uint64_t base; /* where in the file it begins */
	uint64_t size; /* bytes from there on, when it was opened */
	uint64_t dev, ino;
	char *path; /* for messages, and what relative names inside it are relative to */
};

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
	const struct image_file *file; /* EXTENT_DATA: where the bytes are ... */
	uint64_t file_offset; /* ... and at which offset of file->fd (a format says: from file->base on).  A range past
			       * the file's end reads as zeros */
	bool preallocated;	   /* EXTENT_ZERO: a cluster of the file is reserved for it */
};

/* How a name inside an image becomes a descriptor.  Roles tell the caller's policy (and messages) what it is for. */
enum image_role { IMAGE_BACKING, IMAGE_DATA_FILE, IMAGE_EXTENT, IMAGE_NR_ROLES };
extern const char *const image_role_names[IMAGE_NR_ROLES]; /* "backing file", ... */

struct image_opener {
	/* Opens what the image at `from_path` calls `name`.  Returns a descriptor to own and writes the resolved
	 * path to ret_path (PATH_MAX bytes), or fails: ERR_REFUSED when policy forbids, ERR_IO when it is not there.
	 * For a name that slice_parse() takes (scanner/image/slice.h) that is the whole file which it has a slice of. */
	int (*open)(void *ctx, enum image_role role, const char *name, const char *from_path, char *ret_path,
		    struct err *err);
	void *ctx;
};

/* Longest backing chain that is followed, the image itself included (libvirt's limit). */
#define IMAGE_CHAIN_MAX 200

#define IMAGE_NAME_MAX 1024

/* What an image says about itself; filled by its format's open(). */
struct image_info {
	unsigned version;		   /* of the format, 0 if it has none */
	char kind[32];			   /* of the format: "monolithicSparse", "dynamic"; "" if it has none */
	uint64_t cluster_size;		   /* bytes (of a grain, of a block), 0 if it has none */
	uint64_t total_size;		   /* guest bytes of all disks, where it holds several; else 0 */
	char backing_name[IMAGE_NAME_MAX]; /* as written in the image, "" = none */
	char backing_format[32];	   /* as written in the image or as the format demands, "" = not said */
	char id[64], backing_id[64];	   /* which it is, which the backing file must be: CID, UUID; "" = not said */
	unsigned nr_snapshots, nr_bitmaps;
	bool encrypted;	    /* stored bytes are ciphertext; there is no guest view */
	bool compressed;    /* may hold compressed clusters */
	bool dirty;	    /* not closed properly */
	bool corrupt;	    /* marked corrupt by whoever wrote it */
	bool extended_l2;   /* has subclusters */
	char features[256]; /* one line for people: "lazy refcounts, zstd, extended L2" */
};

/* Names of these are bytes as they stand in the image, cut where they are too long. */
struct image_snapshot {
	char id[128], name[IMAGE_NAME_MAX];
	int64_t date; /* seconds since 1970 */
	uint64_t vm_state_size, disk_size;
};

struct image_bitmap {
	char name[IMAGE_NAME_MAX];
	uint64_t granularity;  /* bytes of the disk for each bit */
	uint32_t automatic;    /* writes are recorded in it */
	uint32_t inconsistent; /* it was not saved properly: nobody may rely on it */
};

/* What there is of a file before it is opened as an image. */
struct image_look {
	const uint8_t *head; /* its first bytes ... */
	size_t len;	     /* ... at most IMAGE_HEAD */
	const uint8_t *tail; /* its last 512 bytes, NULL when it is shorter */
	uint64_t size;	     /* of the file, in bytes */
};
#define IMAGE_HEAD 4096

/* How a file looks to a format. */
enum image_claim {
	IMAGE_NOT_MINE,
	IMAGE_MAYBE, /* nothing speaks against it: raw */
	IMAGE_TAIL,  /* only its end says so, which belongs to the guest if it is a raw disk */
	IMAGE_HEADER,
};

/* An image format: how to recognise it and how to read it.  All calls but open may run from several threads on
 * different images, never on the same one. */
struct image_format {
	const char *name;	      /* "qcow2", as in reports and --format */
	const char *alias;	      /* how QEMU calls it, NULL = the same */
	const char *const *extensions; /* of file names that say this format: { "qcow2", NULL } */
	const char *const *part_names; /* shell patterns of names of parts, whatever they hold; or NULL */
	size_t instance;	      /* bytes of its subclass of struct image */

	/* Never fails, reads nothing more. */
	enum image_claim (*probe)(const struct image_look *look);

	/* Reads and checks the metadata.  `img` comes zeroed but for `format` and `file`; `size`, `span`, `layer`
	 * and `info` are to be set.  Parts are opened with image_open_part().  After a failure release() is
	 * called all the same. */
	int (*open)(struct image *img, const struct image_opener *opener, struct err *err);

	/* The stored extent that holds address `from` < span, beginning exactly at `from` and as long as it is alike
	 * and contiguous in the file (at most 1 GiB).  Never crosses a layer boundary. */
	int (*next_extent)(struct image *img, uint64_t from, struct extent *ret, struct err *err);

	/* Decodes [offset, offset + len) which lies in one EXTENT_PACKED extent.  NULL when the format has none. */
	int (*read_packed)(struct image *img, uint64_t offset, void *buf, size_t len, struct err *err);

	/* The next internal snapshot or persistent bitmap, of info.nr_snapshots and info.nr_bitmaps: *at is 0 for the
	 * first one, and is moved on.  NULL when the format has none. */
	int (*next_snapshot)(struct image *img, uint64_t *at, struct image_snapshot *ret, struct err *err);
	int (*next_bitmap)(struct image *img, uint64_t *at, struct image_bitmap *ret, struct err *err);

	/* Sets `size`, `span` and `layer` anew: layer 0 is the nr-th internal snapshot, from 1 on, and there is no other.  *ret
	 * is which that is.  NULL when the format has none. */
	int (*show_snapshot)(struct image *img, unsigned nr, struct image_snapshot *ret, struct err *err);

	/* Frees what open() allocated, but not img, its files or its parts.  NULL when there is nothing. */
	void (*release)(struct image *img);
};

/* What a walk has met so far, up to the address `walked`: work has to stay in proportion to what the files hold. */
struct image_work {
	uint64_t walked, nr_extents, data, packed; /* bytes, of EXTENT_DATA and EXTENT_PACKED */
};

/* The common head of every open image. */
struct image {
	const struct image_format *format;
	struct image_file file;
	struct image_file **parts; /* other files that hold its bytes */
	unsigned nr_parts;
	uint64_t size;	/* guest bytes */
	uint64_t span;	/* bytes of stored address space; a multiple of `layer` but for a single one */
	uint64_t layer; /* bytes from one layer to the next: >= size, a multiple of 2 MiB */
	struct image_info info;
	struct image *backing;		 /* the chain, if image_open_chain() was asked for it */
	const struct image_file *solid;	 /* a part of a file that has no holes, for image_hole_at() */
	uint64_t solid_begin, solid_end;
	bool doubts_holes;
	struct extent last;		 /* what image_next_extent() found last, for walks over chains */
	struct image_work work;
};

/* Beyond this many bytes of address space, all layers together, an image is ERR_UNSUPPORTED: 2^40 blocks of 4 KiB. */
#define IMAGE_SPAN_MAX ((uint64_t)1 << 52)
#define IMAGE_LAYER_UNIT ((uint64_t)2 << 20)
#define IMAGE_EXTENT_MAX ((uint64_t)1 << 30)

/* Tables may claim anything.  What a walk over all of an image costs is bounded by what its files hold: so many times
 * these bytes of plain data, of decoded data and of extents, each with something to spare for small files; else
 * ERR_REFUSED.  An honest image stores each cluster once or shares it among some; deflate packs 1032 : 1 at best, and
 * zstd better only what hardly occurs. */
#define IMAGE_DATA_TIMES 4096 /* half a second for each MiB held */
#define IMAGE_PACKED_TIMES 1100
#define IMAGE_EXTENTS_TIMES 2
#define IMAGE_DATA_SPARE ((uint64_t)64 << 20)
#define IMAGE_PACKED_SPARE ((uint64_t)256 << 20)
#define IMAGE_EXTENTS_SPARE ((uint64_t)1 << 20)

/* ---- for formats ---- */

/* Bytes of a regular file or block device; anything else is ERR_UNSUPPORTED. */
int image_file_size(int fd, uint64_t *ret, struct err *err);

/* Reads exactly len bytes that must lie in the file as it was when it was opened: past its end is ERR_FORMAT; where the
 * file shrank since, ERR_STALE. */
int image_file_read(const struct image_file *f, void *buf, size_t len, uint64_t offset, struct err *err);

/* Reads up to len bytes, less only at the end of the file.  Returns how many, or -1. */
ssize_t image_file_read_some(const struct image_file *f, void *buf, size_t len, uint64_t offset, struct err *err);

/* Opens a part that the image names, and owns it for the image; a file that is a part already is the same part again.
 * A part that is the image's own file is ERR_FORMAT. */
struct image_file *image_open_part(struct image *img, enum image_role role, const char *name,
				   const struct image_opener *opener, struct err *err);

/* For containers: opens the image that lies in bytes [base, base + size) of img's own file and is called `name` there.
 * Names inside it are refused.  The container keeps it and closes it with image_close(). */
struct image *image_open_inside(const struct image *img, const char *name, uint64_t base, uint64_t size,
				struct err *err);

/* Whether offset `at` of the file with the data is in a hole, as the file system tells; *end, of a range that begins
 * there, is cut to where this changes.  A hint: no holes are told where the file system knows none. */
bool image_hole_at(struct image *img, const struct image_file *f, uint64_t at, uint64_t *end);
/* For who has to be certain: from now on the file system is believed that there is a hole only where it says so twice, and the
 * second time by the map by which it reads (file_is_unmapped()).  All else is read. */
static inline void image_doubt_holes(struct image *img)
{
	img->doubts_holes = true;
}

/* Fills *ret: `kind` from `offset` on. */
void image_extent_init(struct extent *ret, enum extent_kind kind, uint64_t offset, uint64_t len);

/* The body of a next_extent(): merges what extent_at() finds, one piece after the other from `from` on, as long as it
 * is alike and contiguous.  extent_at() begins at `addr` and may tell more than the image has.  Where it counts its
 * work in *work, which is set to 0 first, this is content with what it has at work_max; NULL = it is bounded anyway. */
int image_merge_extents(struct image *img, uint64_t from,
			int (*extent_at)(struct image *img, uint64_t addr, struct extent *ret, struct err *err),
			unsigned *work, unsigned work_max, struct extent *ret, struct err *err);

/* Adds words to the features that it tells of; what does not fit becomes an ellipsis, once. */
void image_info_add(struct image_info *info, bool there, const char *words);

/* ---- which format ---- */

/* The formats that are read, NULL-terminated, "raw" last. */
extern const struct image_format *const image_formats[];
/* By name or alias; NULL = there is none. */
const struct image_format *image_format_by_name(const char *name);

/* How sure it is that a file is of its format. */
enum image_certainty {
	IMAGE_GUESSED,	/* only its content or only its name says so: nothing to base a rewrite on */
	IMAGE_AGREED,	/* name, header and structure say the same */
	IMAGE_TOLD,	/* the user said it */
};

struct image_choice {
	const struct image_format *format;
	enum image_certainty certainty;
	char doubt[256]; /* what speaks against it, for people; "" = nothing */
};

/* Which format a file is taken for, by its name, first and last bytes.  ERR_UNSUPPORTED names a format that is
 * recognised but not read; ERR_AMBIGUOUS: several claim it and the name does not decide; ERR_PART: its name says that
 * it belongs to another image.  A file that nothing claims is raw, and so is one that is named as such, whatever a
 * guest wrote into it. */
int image_choose(const struct image_file *f, struct image_choice *ret, struct err *err);

/* ---- for everybody ---- */

/* Opens one image for its stored view.  Takes over fd (closed by image_close(), and at once on failure).  `format`
 * NULL means as image_choose() says; what it said goes to *ret_choice unless NULL. */
struct image *image_open(int fd, const char *path, const struct image_format *format, const struct image_opener *opener,
			 struct image_choice *ret_choice, struct err *err);

/* Before anything is read: both views become those of the nr-th internal snapshot, 1 to info.nr_snapshots, as if the disk were
 * that: of the same backing chain, and without the state of the machine.  *ret is which it is. */
int image_show_snapshot(struct image *img, unsigned nr, struct image_snapshot *ret, struct err *err);

/* Opens the backing chain of an image that image_open() gave, for the guest view.  Loops, chains of more than
 * IMAGE_CHAIN_MAX, names that the opener refuses and backing files that are not the one that the image was made on (by
 * info.backing_id) fail with the name in the message; the image itself stays usable, and what was opened of the chain
 * stays open. */
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
