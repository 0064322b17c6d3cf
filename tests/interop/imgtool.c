/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/image/image.h"

/* imgtool [-f FORMAT] info|map|cat|stored|cat-stored IMAGE: what the image floor says of an image, for tests.
 *
 * map and stored print lines of `offset length kind depth file file_offset`; '-' where there is none. */

static int open_beside(void *ctx, enum image_role role, const char *name, const char *from, char *ret_path,
		       struct err *err)
{
	const char *slash = strrchr(from, '/');
	int dir = name[0] != '/' && slash ? (int)(slash - from + 1) : 0;

	(void)ctx, (void)role;
	if (snprintf(ret_path, PATH_MAX, "%.*s%s", dir, from, name) >= PATH_MAX)
		return err_set(err, ERR_REFUSED, "name is too long");
	return file_open(AT_FDCWD, ret_path, O_RDONLY, 0, err);
}

static const struct image_opener opener = { .open = open_beside };

static int depth_of(const struct image *img, const struct image *owner)
{
	int depth = 0;

	for (; img && img != owner; img = img->backing)
		depth++;
	return depth;
}

static void print_extent(const struct image *img, const struct extent *ext)
{
	static const char *const kinds[] = { "hole", "zero", "data", "packed" };

	printf("%" PRIu64 " %" PRIu64 " %s %d ", ext->offset, ext->len,
	       ext->kind == EXTENT_ZERO && ext->preallocated ? "prealloc" : kinds[ext->kind],
	       depth_of(img, ext->owner));
	if (ext->kind == EXTENT_DATA)
		printf("%s %" PRIu64 "\n", ext->file == &ext->owner->file ? ext->file->path : "data-file",
		       ext->file_offset);
	else
		printf("- -\n");
}

static int print_map(struct image *img, bool guest, struct err *err)
{
	uint64_t end = guest ? img->size : img->span;
	struct extent ext;

	for (uint64_t at = 0; at < end; at += ext.len) {
		if ((guest ? image_next_guest_extent : image_next_extent)(img, at, &ext, err) < 0)
			return -1;
		if (ext.len == 0)
			return err_set(err, ERR_FORMAT, "an extent of no bytes at offset %" PRIu64, at);
		print_extent(img, &ext);
	}
	return 0;
}

static int cat_extent(const struct extent *ext, struct err *err)
{
	static uint8_t buf[1 << 20];

	for (uint64_t done = 0; done < ext->len;) {
		size_t n = (size_t)min_u64(ext->len - done, sizeof(buf));

		if (image_read_extent(ext, ext->offset + done, buf, n, err) < 0)
			return -1;
		if (fwrite(buf, 1, n, stdout) != n)
			return err_errno(err, "cannot write");
		done += n;
	}
	return 0;
}

static int cat(struct image *img, bool guest, struct err *err)
{
	uint64_t end = guest ? img->size : img->span;
	struct extent ext;

	for (uint64_t at = 0; at < end; at += ext.len)
		if ((guest ? image_next_guest_extent : image_next_extent)(img, at, &ext, err) < 0 ||
		    cat_extent(&ext, err) < 0)
			return -1;
	return 0;
}

static int info(const struct image *img)
{
	printf("format %s\nversion %u\nsize %" PRIu64 "\nspan %" PRIu64 "\nlayer %" PRIu64 "\n", img->format->name,
	       img->info.version, img->size, img->span, img->layer);
	printf("cluster_size %" PRIu64 "\nsnapshots %u\nbitmaps %u\nencrypted %d\ndirty %d\ncorrupt %d\n",
	       img->info.cluster_size, img->info.nr_snapshots, img->info.nr_bitmaps, img->info.encrypted,
	       img->info.dirty, img->info.corrupt);
	printf("backing_name %s\nbacking_format %s\nbacking_id %s\nid %s\nparts %u\nkind %s\nfeatures %s\n",
	       img->info.backing_name, img->info.backing_format, img->info.backing_id, img->info.id, img->nr_parts,
	       img->info.kind, img->info.features);
	return 0;
}

static int run(const char *verb, const char *path, const char *format, struct err *err)
{
	CLEANUP(image_close) struct image *img = NULL;
	bool chain = strcmp(verb, "map") == 0 || strcmp(verb, "cat") == 0;
	int fd = file_open(AT_FDCWD, path, O_RDONLY, 0, err);

	if (fd < 0)
		return -1;
	img = image_open(fd, path, format ? image_format_by_name(format) : NULL, &opener, NULL, err);
	if (!img || (chain && image_open_chain(img, &opener, err) < 0))
		return -1;
	if (strcmp(verb, "info") == 0)
		return info(img);
	if (strncmp(verb, "cat", 3) == 0)
		return cat(img, chain, err);
	return print_map(img, chain, err);
}

int main(int argc, char **argv)
{
	struct err err = ERR_INIT;
	const char *format = NULL;

	if (argc == 5 && strcmp(argv[1], "-f") == 0) {
		format = argv[2];
		argv += 2;
		argc -= 2;
	}
	if (argc != 3) {
		fprintf(stderr, "usage: imgtool [-f FORMAT] info|map|cat|stored|cat-stored IMAGE\n");
		return 2;
	}
	if (run(argv[1], argv[2], format, &err) == 0 && fflush(stdout) == 0)
		return 0;
	fprintf(stderr, "imgtool: %s: %s: %s\n", argv[2], err_kind_name(err.kind), err.text);
	return 1;
}
