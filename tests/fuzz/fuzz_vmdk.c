/* SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>

#include "scanner/image/vmdk_format.h"
#include "tests/fuzz/walk_help.h"

/* The bytes of a VMDK and of the files that it names: SEPARATOR stands between them.  The first is opened and walked
 * in both views; the names that it and its parents ask for get the others in turn, and then nothing more. */

#define SEPARATOR "\n--file--\n"
#define NR_OPENED 12 /* chains and disks of many files need not be endless */

struct files {
	const uint8_t *data;
	size_t size;
	unsigned nr_opened;
};

/* The index-th file, or the last. */
static int nth_file(const struct files *f, unsigned index)
{
	const size_t gap = sizeof(SEPARATOR) - 1;
	const uint8_t *at = f->data, *end = f->data + f->size, *next;

	for (;; at = next + gap) {
		next = memmem(at, (size_t)(end - at), SEPARATOR, gap);
		if (index == 0 || !next)
			return file_of(at, (size_t)((next ? next : end) - at));
		index--;
	}
}

static int open_next(void *ctx, enum image_role role, const char *name, const char *from, char *ret_path,
		     struct err *err)
{
	struct files *f = ctx;

	must(role == IMAGE_BACKING || role == IMAGE_EXTENT);
	must(*name && strlen(name) < IMAGE_NAME_MAX && *from);
	for (const char *p = name; *p; p++)
		must((unsigned char)*p >= 0x20 && *p != 0x7f);
	if (f->nr_opened++ >= NR_OPENED)
		return err_set(err, ERR_REFUSED, "no more files");
	snprintf(ret_path, PATH_MAX, "file %u", f->nr_opened);
	return nth_file(f, f->nr_opened);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct files files = { .data = data, .size = size };
	struct image_opener opener = { .open = open_next, .ctx = &files };
	struct err err = ERR_INIT;
	struct image *img = image_open(nth_file(&files, 0), "input", image_format_by_name("vmdk"), &opener, NULL, &err);

	vmdk_descriptor_probe(data, size); /* reads nothing past the end */
	if (!img) {
		must(err.kind != ERR_NONE && err.text[0]);
		return 0;
	}
	must(strlen(img->info.features) < sizeof(img->info.features));
	walk_view(img, false);
	if (!img->info.encrypted && image_open_chain(img, &opener, &err) == 0)
		walk_view(img, true);
	image_close(img);
	return 0;
}
