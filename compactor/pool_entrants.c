/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "compactor/compact_parts.h"
#include "compactor/foreign.h"
#include "compactor/internal_snapshots.h"
#include "compactor/member.h"
#include "scanner/base/checked.h"
#include "scanner/image/image.h"
#include "scanner/image/qcow2_format.h"

/* Which images may enter a pool.
 *
 * What enters becomes a qcow2 image at the same path.  Of an image that was one already nobody sees a difference; of another, all
 * who open it have to be told: so the user has to ask for it, and nobody who stands on it may be known. */

static bool is_qcow2(const struct store_image *i)
{
	return strcmp(i->format, "qcow2") == 0;
}

static bool is_raw(const struct store_image *i)
{
	return strcmp(i->format, "raw") == 0;
}

static bool can_become_qcow2(const struct store_image *i)
{
	static const char *const formats[] = { "raw", "vmdk", "vhd", "vhdx", "vdi" };

	for (size_t n = 0; n < ARRAY_SIZE(formats); n++)
		if (strcmp(i->format, formats[n]) == 0)
			return true;
	return false;
}

static int compare_path(const void *key, const void *image)
{
	return strcmp(key, ((const struct store_image *)image)->path);
}

static void note_child(struct compaction *c, const char *backing_path, const char *child)
{
	const struct store_image *below =
		bsearch(backing_path, c->store.images.items, c->store.images.nr, sizeof(*below), compare_path);

	if (below)
		c->costs[below - c->store.images.items].child = child;
}

/* What is read as the user says may be a qcow2 image all the same, for those who use it. */
static void look_for_header(struct compaction *c, const struct store_image *i)
{
	CLEANUP(close_fd) int fd = roots_open_again(c->o.roots, i->path, NULL);
	char path[PATH_MAX];
	struct qcow2_header h;

	if (fd >= 0 && overlay_header(fd, &h, NULL) == 0 && h.backing_name[0] &&
	    roots_resolve_named(IMAGE_BACKING, h.backing_name, i->path, path, NULL) == 0)
		note_child(c, path, i->path);
}

void compact_pool_find_children(struct compaction *c)
{
	for (size_t n = 0; n < c->store.images.nr; n++) {
		const struct store_image *i = &c->store.images.items[n];

		if (i->backing_path[0])
			note_child(c, i->backing_path, i->path);
		else if (c->o.to_qcow2 && c->o.format)
			look_for_header(c, i);
	}
}

/* What is named as a raw disk, or told to be one (--format), and begins as something else is not touched: an image may have been
 * told by mistake, or be an overlay already. */
static const char *why_not_raw(struct compaction *c, const struct store_image *i)
{
	const struct store_file *f = &c->store.files.items[i->first_file];
	struct image_file file = { .fd = store_open(&c->store, i->first_file, NULL), .size = f->size, .path = i->path };
	struct image_choice choice;

	if (f->size % 512)
		return "its size is no multiple of 512 bytes, as that of a qcow2 image's disk is";
	if (file.fd < 0 || image_choose(&file, &choice, NULL) < 0 || strcmp(choice.format->name, "raw") != 0 || choice.doubt[0])
		return "it is to be taken for a raw disk, but does not look like one";
	return NULL;
}

static const char *why_not_become_qcow2(struct compaction *c, size_t image, char *room, size_t size)
{
	const struct store_image *i = &c->store.images.items[image];
	const char *child = c->costs[image].child;

	if (!can_become_qcow2(i)) {
		snprintf(room, size, "no %s image enters the pool", i->format);
		return room;
	}
	if (!c->o.to_qcow2)
		return "only qcow2 images enter the pool; --to-qcow2 has it become one";
	if (i->backing_path[0])
		return "it stands on another image, and only qcow2 images that do so enter the pool";
	if (child) {
		snprintf(room, size, "'%s' stands on it, and takes it for %s; it may enter the pool after that one", child,
			 i->format);
		return room;
	}
	return i->certain && is_raw(i) ? why_not_raw(c, i) : NULL;
}

static const char *why_not_snapshots(const struct compaction *c, const struct store_image *i)
{
	if (!i->nr_snapshots)
		return NULL;
	if (!c->o.to_versions)
		return "it has internal snapshots; --snapshots=to-versions has them become versions";
	if (i->vm_state)
		return "its internal snapshots hold the state of a running machine, which no version has";
	return i->nr_snapshots > SNAPSHOTS_MOST ? "it has more than 256 internal snapshots" : NULL;
}

const char *compact_pool_why_not(struct compaction *c, size_t image, char *room, size_t size)
{
	const struct store_image *i = &c->store.images.items[image];
	const char *why = is_qcow2(i) ? NULL : why_not_become_qcow2(c, image, room, size);

	if (why)
		return why;
	if (!i->certain)
		return "its format is not certain, or it was not closed properly; --format NAME says what it is";
	if (i->no_disk)
		return "its disk has no bytes";
	if (i->encrypted)
		return "it is encrypted: equal data looks different in every image";
	if (i->nr_files > 1)
		return "its data does not lie in one file";
	why = why_not_snapshots(c, i);
	return why ? why : foreign_keeper(i->path, FOREIGN_PROXMOX_STORAGES);
}

int compact_pool_note(const struct compaction *c, struct plan_step *step, struct err *err)
{
	const struct store_image *i = &c->store.images.items[step->image];
	char text[256] = "";

	if (!is_qcow2(i))
		snprintf(text, sizeof(text),
			 "it becomes a qcow2 image, and keeps its name: whoever opens it as %s has to be told "
			 "(libvirt: <driver type='qcow2'/>)",
			 i->format);
	else if (i->nr_snapshots)
		snprintf(text, sizeof(text), "its %u internal snapshot%s of it", i->nr_snapshots,
			 i->nr_snapshots == 1 ? " becomes a version" : "s become versions");
	if (!text[0])
		return 0;
	step->note = strdup(text);
	return step->note ? 0 : err_set(err, ERR_MEMORY, "no memory for a plan");
}
