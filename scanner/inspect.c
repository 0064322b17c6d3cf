/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/inspect.h"

#include <stdio.h>
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/errand.h"

/* The parent's side: it opens, answers, and takes over what was found.
 *
 * Each image has a process of its own, so what one does to its reader is no other's business. */

const char *const inspect_extent_names[INSPECT_NR_EXTENTS] = {
	[INSPECT_DATA] = "data", [INSPECT_PACKED] = "compressed",
	[INSPECT_ZERO] = "zero", [INSPECT_PREALLOCATED] = "preallocated",
	[INSPECT_HOLE] = "hole",
};

const char *const inspect_problem_names[INSPECT_NR_PROBLEMS] = {
	[INSPECT_UNREAD] = "unread", [INSPECT_DOUBT] = "doubt",	    [INSPECT_CHAIN] = "chain",
	[INSPECT_DIRTY] = "dirty",   [INSPECT_CORRUPT] = "corrupt", [INSPECT_EXTRAS] = "extras",
	[INSPECT_GUEST] = "guest",
};

bool inspect_failed(const struct inspection *i)
{
	for (uint32_t n = 0; n < i->nr_problems; n++)
		if (i->problems[n].kind == INSPECT_UNREAD)
			return true;
	return false;
}

/* ---- nothing is taken on trust ---- */

#define END_TEXT(text) ((text)[sizeof(text) - 1] = '\0')

static void limit(uint32_t *v, uint64_t most)
{
	*v = (uint32_t)min_u64(*v, most);
}

static void check_lists(struct inspection *i)
{
	for (uint32_t n = 0; n < i->nr_problems; n++) {
		limit(&i->problems[n].kind, INSPECT_NR_PROBLEMS - 1);
		limit(&i->problems[n].err_kind, ERR_USAGE);
		END_TEXT(i->problems[n].text);
	}
	for (uint32_t n = 0; n < i->nr_members; n++) {
		END_TEXT(i->members[n].path);
		END_TEXT(i->members[n].format);
		END_TEXT(i->members[n].kind);
		END_TEXT(i->members[n].id);
		END_TEXT(i->members[n].error);
	}
	for (uint32_t n = 0; n < i->parts_listed; n++)
		END_TEXT(i->parts[n].path);
	for (uint32_t n = 0; n < i->snapshots_listed; n++) {
		END_TEXT(i->snapshots[n].id);
		END_TEXT(i->snapshots[n].name);
	}
	for (uint32_t n = 0; n < i->bitmaps_listed; n++)
		END_TEXT(i->bitmaps[n].name);
}

/* Makes a struct that anybody could have written one that anybody can read. */
static void check(struct inspection *i)
{
	limit(&i->certainty, IMAGE_TOLD);
	limit(&i->nr_problems, INSPECT_PROBLEMS_MAX);
	limit(&i->nr_members, IMAGE_CHAIN_MAX);
	limit(&i->parts_listed, min_u64(i->nr_parts, INSPECT_PARTS_MAX));
	limit(&i->snapshots_listed, min_u64(i->nr_snapshots, INSPECT_SNAPSHOTS_MAX));
	limit(&i->bitmaps_listed, min_u64(i->nr_bitmaps, INSPECT_BITMAPS_MAX));
	END_TEXT(i->format);
	END_TEXT(i->kind);
	END_TEXT(i->id);
	END_TEXT(i->backing_id);
	END_TEXT(i->backing_name);
	END_TEXT(i->backing_format);
	END_TEXT(i->features);
	check_lists(i);
}

/* ---- the errand ---- */

/* Once: what is looked at is not what can still change. */
static int take(void *ctx, void *shared, struct err *err)
{
	struct inspection *ret = ctx;

	(void)err;
	memcpy(ret, shared, sizeof(*ret));
	check(ret);
	return 0;
}

static int inspect_file(int fd, const char *path, const struct inspect_options *o, struct inspection *ret, struct err *err)
{
	struct errand e = {
		.roots = o->roots, .format = o->format, .jail = o->jail, .stopper = o->stopper,
		.run = o->run ? o->run : inspect_run, .shared_len = sizeof(*ret), .second_fd = -1,
		.done = take, .ctx = ret,
	};
	struct err why = ERR_INIT;
	int rc = errand_run(&e, fd, path, &why, err);

	if (rc == 0)
		inspect_add_problem(ret, INSPECT_UNREAD, &why);
	return rc < 0 ? -1 : 0;
}

int inspect_image(const struct root *image, const struct inspect_options *o, struct inspection *ret, struct err *err)
{
	struct err why = ERR_INIT;
	int fd = roots_open_root(image, &why), rc = 0;

	memset(ret, 0, sizeof(*ret));
	if (fd >= 0)
		rc = inspect_file(fd, image->path, o, ret, err);
	else
		inspect_add_problem(ret, INSPECT_UNREAD, &why);
	if (fd >= 0)
		file_close(fd, image->path, NULL);
	snprintf(ret->path, sizeof(ret->path), "%s", image->path);
	return rc;
}
