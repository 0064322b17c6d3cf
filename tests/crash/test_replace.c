/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include "compactor/pool/qcow2_writer.h"
#include "compactor/pool/view.h"
#include "compactor/replace.h"
#include "compactor/workshop_parts.h"
#include "scanner/base/file.h"
#include "tests/crash/crash.h"

/* Replacing an image, undoing and purging that, and recovery, through kills, errors, visits and power cuts: rows A1,
 * A2, A3, A4, A8, A9, A10, A11, B1, B2, B3, B4, B5, B6, D3 and the invariants at the top of journal.c (J) and
 * exchange.c (X).  The new file says in capitals what the old one says.  timeout: 600 */

#define LEN 9000
#define HEADER 4096 /* of those that are overlays */
#define DAY 86400

enum how {
	RIGHT,
	NO_PROOF,	/* prove() looks at nothing */
	OTHER_CONTENT,	/* and make() writes something else */
	FAILS_IN_MAKE,
	FAILS_IN_PROOF,
	NO_ATTRIBUTES,	/* they are changed after they were set */
	NO_RECOVERY,
	ROLLS_ALL_BACK, /* a recovery that believes that nothing had happened */
	TAKES_NEW_FOR_GARBAGE,
	FORGETS_JOURNAL,
	SETTLES_UNSEEN, /* originals go without a look at who has them */
};

struct work {
	enum how how;
	int64_t keep;
	bool undo, purge; /* what run() does, to an image that was replaced before */
	bool moved;	  /* with undo: the original stands on a file that has another name by now */
	bool may_stay;	  /* what was turned round and then cut short stays: ctime tells no more who touched it */
	bool grown;	  /* the journal has many records, so that it is written anew */
	bool to_fail;	  /* run() must fail */
	bool assume_idle;
	bool several;	  /* images are replaced, and settle together; one already while another is made */
	struct workshop *shop; /* then: in use */
	/* run() recovers from this, which the journal says of the image's replacement */
	enum journal_state found;
	bool original_touched;
};

/* ---- files ---- */

static int open_at(struct sim *s, const char *name, int flags)
{
	return file_open(sim_root(s), name, flags, 0640, NULL);
}

static void write_text(struct sim *s, const char *name, char from)
{
	int fd = open_at(s, name, O_RDWR | O_CREAT);
	char text[LEN];

	for (size_t i = 0; i < LEN; i++)
		text[i] = (char)('a' + ((size_t)from + i / 100) % 26);
	assert_int_equal(file_write(fd, text, LEN, 0, NULL), 0);
	assert_int_equal(file_ops->fsetxattr(fd, "user.owner", "me", 2, 0), 0);
	assert_int_equal(file_ops->fchown(fd, 1000, 1001), 0);
	file_ops->close(fd);
}

/* What moved originals stand on, of which there is only what is put there at first, or only what mends them names. */
static struct slice below(const char *path)
{
	struct slice s = { .size = LEN / 512 * 512, .read_only = true };

	snprintf(s.path, sizeof(s.path), "%s", path);
	return s;
}

/* The text is an overlay on /gone, but for its header. */
static void write_header(struct sim *s, const char *name)
{
	struct qcow2_header h = {
		.cluster_bits = 12, .size = 1 << 20, .l1_size = 1, .l1_offset = HEADER, .refcount_offset = HEADER,
		.refcount_clusters = 1, .header_length = QCOW2_V3_LENGTH,
	};
	uint8_t header[HEADER] = { 0 };
	char text[QCOW2_NAME_MAX + 1];
	struct slice gone = below("/gone");
	int fd = open_at(s, name, O_RDWR);

	assert_int_equal(slice_format(&gone, text, sizeof(text), NULL), 0);
	qcow2_header_encode(&h, header);
	qcow2_extension_encode(header + QCOW2_V3_LENGTH, QCOW2_EXT_BACKING_FORMAT, "qcow2", 5);
	qcow2_backing_encode(header, 512, text);
	assert_int_equal(file_write(fd, header, HEADER, 0, NULL), 0);
	file_ops->close(fd);
}

static int mend_moved(void *ctx, int fd, struct err *err)
{
	struct slice there = below("/there");

	(void)ctx;
	return overlay_repoint(fd, &there, err);
}

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static char upper(char c)
{
	return c >= 'a' && c <= 'z' ? (char)(c - 32) : c;
}

static int view(void *ctx, struct sim *s, const char *path, uint64_t *ret, struct err *err)
{
	const struct work *k = ctx;
	uint64_t len, h = 1;
	uint8_t *p = sim_content(s, path, &len);

	if (!p)
		return err_set(err, ERR_IO, "it is not there");
	for (uint64_t i = k->moved ? HEADER : 0; i < len; i++)
		h = (h ^ (uint8_t)lower((char)p[i])) * UINT64_C(0x100000001b3);
	free(p);
	*ret = h ^ len;
	return 0;
}

/* 'o' the original, 'n' the new file, '-' none, '?' */
static char what_is(const struct sim *s, const char *path)
{
	uint64_t len;
	uint8_t *p = sim_content(s, path, &len);
	char c = !p ? '-' : len != LEN ? '?' : p[LEN - 1] >= 'a' ? 'o' : 'n';

	free(p);
	return c;
}

static void visit(void *ctx, struct sim *s, int fd)
{
	(void)ctx;
	(void)s;
	assert_int_equal(file_ops->pwrite(fd, "#", 1, 0), 1);
}

/* ---- the work ---- */

static int make(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	const struct work *w = ctx;
	char text[LEN];

	if (file_read(old_fd, text, LEN, 0, err) < 0)
		return -1;
	for (size_t i = 0; i < LEN; i++)
		text[i] = upper(text[i]);
	if (w->how == OTHER_CONTENT)
		text[5000] = '!';
	if (file_write(new_fd, text, 5000, 0, err) < 0 || check(check_ctx, 0, 0, err) < 0)
		return -1;
	if (w->how == FAILS_IN_MAKE)
		return err_set(err, ERR_FORMAT, "it cannot be made");
	if (file_write(new_fd, text + 5000, LEN - 5000, 5000, err) < 0)
		return -1;
	return check(check_ctx, 0, 0, err);
}

/* What does not stand is an error of the work, in the end. */
static void hear_settled(void *ctx, uint64_t number, const struct err *why)
{
	struct err *first = ctx;

	(void)number;
	if (why->kind && !first->kind)
		*first = *why;
}

static void settle_unseen(struct workshop *w)
{
	for (size_t i = 0; i < w->unsettled.nr; i++) {
		uint64_t number = w->unsettled.items[i].number;
		char name[WORKSHOP_NAME_ROOM];

		store_name(STORE_NEW, number, name);
		file_unlink(w->dirfd, name, NULL);
		workshop_note(w, journal_find(&w->journal, number), JOURNAL_REMOVED, NULL);
	}
	w->unsettled.nr = 0;
}

static int settle(const struct work *k, enum replace_settle how, struct err *err)
{
	struct err why = ERR_INIT;

	if (k->how == SETTLES_UNSEEN)
		settle_unseen(k->shop);
	replace_settle(k->shop, how, hear_settled, &why);
	if (why.kind && err)
		*err = why;
	return why.kind ? -1 : 0;
}

static int prove(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	const struct work *w = ctx;
	char a[LEN], b[LEN];

	if (w->shop && w->shop->unsettled.nr == 2 && settle(w, REPLACE_SETTLE_FIRST, err) < 0)
		return -1;
	if (w->how == NO_PROOF || w->how == OTHER_CONTENT)
		return 0;
	if (file_read(old_fd, a, LEN, 0, err) < 0 || file_read(new_fd, b, LEN, 0, err) < 0)
		return -1;
	for (size_t i = 0; i < LEN; i++)
		if (upper(a[i]) != b[i])
			return err_set(err, ERR_FORMAT, "it differs");
	if (w->how == NO_ATTRIBUTES && file_ops->fchmod(new_fd, 0600) < 0)
		return err_errno(err, "cannot chmod");
	if (w->how == FAILS_IN_PROOF)
		return err_set(err, ERR_FORMAT, "it is not the same");
	return check(check_ctx, 0, 0, err);
}

static struct workshop *open_shop(struct sim *s, bool create, struct err *err)
{
	struct workshop *w = NULL;
	int fd = file_open(sim_root(s), "r", O_RDONLY | O_DIRECTORY, 0, err);

	if (fd < 0)
		return NULL;
	if (workshop_open(fd, "/r", create, &w, err) < 0)
		w = NULL;
	file_ops->close(fd);
	if (w)
		workshop_set_settle(w, 0);
	return w;
}

static int replace(struct work *k, struct sim *s, struct workshop *w, const char *path, struct err *err)
{
	struct replacing r = { .workshop = w, .name = path + 4, .path = path, .keep = k->keep, .make = make,
			       .prove = prove, .ctx = k, .hold.assume_idle = k->assume_idle };
	uint64_t number;
	struct stat st;
	int rc;

	if (k->several)
		r.later = &number;
	r.dirfd = file_open(sim_root(s), "r/sub", O_RDONLY | O_DIRECTORY, 0, err);
	if (r.dirfd < 0)
		return -1;
	if (file_ops->fstatat(r.dirfd, r.name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		rc = err_errno(err, "cannot stat the image");
	} else {
		r.expected = spool_identity_of(&st);
		rc = replace_image(&r, NULL, err);
	}
	file_ops->close(r.dirfd);
	return rc;
}

/* What was replaced settles, even if another could not be. */
static int replace_several(struct work *k, struct sim *s, struct workshop *w, struct err *err)
{
	struct err why = ERR_INIT;
	int rc;

	k->shop = w;
	rc = replace(k, s, w, "sub/img", &why);
	if (replace(k, s, w, "sub/two", rc ? NULL : &why) < 0 || replace(k, s, w, "sub/six", rc ? NULL : &why) < 0)
		rc = -1;
	if (settle(k, REPLACE_SETTLE_ALL, rc ? NULL : &why) < 0)
		rc = -1;
	k->shop = NULL;
	if (rc < 0 && err)
		*err = why;
	return rc;
}

static int run_in(struct work *k, struct sim *s, struct workshop *w, struct err *err)
{
	struct recovery sum;
	uint64_t nr;
	int rc;

	if (workshop_recover(w, NULL, NULL, &sum, err) < 0)
		return -1;
	if (k->found)
		return 0;
	if (k->moved)
		workshop_set_mender(w, mend_moved, NULL);
	if (k->undo)
		return workshop_undo(w, NULL, &nr, err);
	if (k->purge)
		return workshop_purge(w, &nr, err);
	if (k->grown)
		return 0;
	if (k->several)
		return replace_several(k, s, w, err);
	rc = replace(k, s, w, "sub/img", err);
	return k->to_fail && rc < 0 && err->kind == ERR_FORMAT ? 0 : rc;
}

static int run(void *ctx, struct sim *s, struct err *err)
{
	struct workshop *w = open_shop(s, true, err);
	int rc = w ? run_in(ctx, s, w, err) : -1;

	workshop_close(w);
	return rc;
}

static void hear(void *ctx, const char *path, const struct err *what)
{
	struct err *first = ctx;

	(void)path;
	if (!first->kind)
		*first = *what;
}

/* What a careless recovery does with what it finds. */
static int remove_new(void *ctx, const char *name, struct err *err)
{
	const int *dirfd = ctx;

	return strstr(name, ".new") ? file_unlink(*dirfd, name, err) : 0;
}

static int recover_carelessly(struct work *k, struct sim *s, struct err *err)
{
	int dirfd = open_at(s, "r/.dedupscan", O_RDONLY | O_DIRECTORY);

	if (dirfd < 0)
		return 0;
	if (k->how == FORGETS_JOURNAL)
		file_unlink(dirfd, "journal", NULL);
	if (k->how == TAKES_NEW_FOR_GARBAGE || k->how == FORGETS_JOURNAL)
		file_each_name(dirfd, remove_new, &dirfd, err);
	if (k->how == ROLLS_ALL_BACK) {
		int sub = open_at(s, "r/sub", O_RDONLY | O_DIRECTORY);

		if (file_rename_to(dirfd, "1.new", sub, "img", 0, NULL) == 0)
			file_unlink(dirfd, "journal", NULL);
		file_ops->close(sub);
	}
	file_ops->close(dirfd);
	return 0;
}

static int recover(void *ctx, struct sim *s, struct err *err)
{
	struct work *k = ctx;
	struct err unclear = ERR_INIT, why = ERR_INIT;
	struct recovery sum;
	struct workshop *w;
	int rc;

	if (k->how >= ROLLS_ALL_BACK && recover_carelessly(k, s, err) < 0)
		return -1;
	if (k->how == NO_RECOVERY)
		return 0;
	w = open_shop(s, false, &why);
	if (!w) {
		if (why.kind && err)
			*err = why;
		return why.kind ? -1 : 0;
	}
	rc = workshop_recover(w, hear, &unclear, &sum, err);
	if (rc == 0 && k->moved && run_in(k, s, w, &why) < 0 && !(k->may_stay && why.kind == ERR_STALE))
		rc = err_set(err, why.kind, "%s", why.text);
	workshop_close(w);
	return rc == 0 && sum.nr_unclear ? err_set(err, ERR_STALE, "unclear: %s", unclear.text) : rc;
}

/* ---- what must be there ---- */

static void set_up(void *ctx, struct sim *s)
{
	const struct work *k = ctx;

	assert_int_equal(file_mkdir(sim_root(s), "r", 0755, NULL), 0);
	assert_int_equal(file_mkdir(sim_root(s), "r/sub", 0755, NULL), 0);
	write_text(s, "r/sub/img", 0);
	write_text(s, "r/other", 5);
	write_text(s, "canary", 7);
	if (k->moved) {
		write_header(s, "r/sub/img");
		write_text(s, "there", 3);
	}
	if (k->several) {
		write_text(s, "r/sub/two", 9);
		write_text(s, "r/sub/six", 11);
	}
}

static void set_up_replaced(void *ctx, struct sim *s)
{
	struct work before = { .keep = DAY };
	struct err err = ERR_INIT;

	set_up(ctx, s);
	if (run(&before, s, &err) < 0)
		fail_msg("%s", err.text);
}

static void set_up_grown(void *ctx, struct sim *s)
{
	struct journal_entry e = { .state = JOURNAL_BEGIN, .path = (char *)"sub/img" };
	struct workshop *w;

	set_up_replaced(ctx, s);
	w = open_shop(s, true, NULL);
	for (unsigned i = 0; i < 300; i++) {
		e.number = journal_new_number(&w->journal);
		e.state = JOURNAL_BEGIN;
		assert_int_equal(journal_append(&w->journal, &e, NULL), 0);
		e.state = JOURNAL_REMOVED;
		assert_int_equal(journal_append(&w->journal, &e, NULL), 0);
	}
	workshop_close(w);
}

/* After the exchange, and before the end. */
static void set_up_found(void *ctx, struct sim *s)
{
	const struct work *k = ctx;
	struct journal_entry e;
	struct workshop *w;
	struct stat st;

	set_up_replaced(ctx, s);
	w = open_shop(s, true, NULL);
	assert_int_equal(file_rename_to(w->trash_fd, "1", w->dirfd, "1.new", 0, NULL), 0);
	e = w->journal.live.items[0];
	e.state = k->found;
	assert_int_equal(sim_stat(s, "/r/.dedupscan/1.new", &st), 0);
	e.original = spool_identity_of(&st);
	e.original.mtime -= k->original_touched;
	assert_int_equal(journal_append(&w->journal, &e, NULL), 0);
	workshop_close(w);
}

static bool belongs(void *ctx, const char *path, const struct stat *st)
{
	static const char *const names[] = { "/r", "/r/sub", "/r/sub/img", "/r/other", "/canary", "/r/.dedupscan",
					     "/r/.dedupscan/lock", "/r/.dedupscan/journal", "/r/.dedupscan/trash",
					     "/r/.dedupscan/trash/1" };
	const struct work *k = ctx;

	(void)st;
	if (k->moved && strcmp(path, "/there") == 0)
		return true;
	if (k->several && (strcmp(path, "/r/sub/two") == 0 || strcmp(path, "/r/sub/six") == 0))
		return true;
	if (k->several && strncmp(path, "/r/.dedupscan/trash/", 20) == 0 && strchr("123", path[20]) && !path[21])
		return k->keep;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (strcmp(path, names[i]) == 0)
			return i < 9 || k->keep || k->undo || k->purge || k->grown;
	return false;
}

/* The image, and what the trash has: never the only copy of anything but what it is for. */
static int check_state(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	const struct work *k = ctx;
	char image = what_is(s, "/r/sub/img"), trash = what_is(s, "/r/.dedupscan/trash/1");
	bool replaced = k->undo || k->purge || k->grown; /* before */
	bool back = k->undo || k->to_fail || k->original_touched;
	char then_image = back ? 'o' : 'n', then_trash = back || k->purge || (!k->keep && !k->grown) ? '-' : 'o';

	if (image != 'o' && image != 'n')
		return err_set(err, ERR_FORMAT, "the image is '%c'", image);
	if (m.lied)
		return 0;
	if (k->found && ((image == 'n' && trash == 'o') || (image == 'o' && trash == '-')))
		return 0; /* what cannot be looked at is taken for touched: either is right */
	if (m.done && (image != then_image || trash != then_trash))
		return err_set(err, ERR_FORMAT, "done, and the image is '%c', the trash '%c'", image, trash);
	if (m.untouched && (image != (replaced ? 'n' : 'o') || trash != (replaced ? 'o' : '-')))
		return err_set(err, ERR_FORMAT, "untouched, and the image is '%c', the trash '%c'", image, trash);
	if (trash == 'n' || (trash == 'o' && image == 'o'))
		return err_set(err, ERR_FORMAT, "the image is '%c', the trash '%c'", image, trash);
	if (image == 'n' && trash == '-' && k->keep)
		return err_set(err, ERR_FORMAT, "the original is gone before its time");
	return 0;
}

/* Each by itself: in any state, but in one that is right. */
static int check_several(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	static const char *const paths[] = { "/r/sub/img", "/r/sub/two", "/r/sub/six" };
	const struct work *k = ctx;
	unsigned nr_kept = 0, nr_new = 0;
	char trash[] = "/r/.dedupscan/trash/1";

	for (unsigned i = 0; i < 3; i++, trash[20]++) {
		char image = what_is(s, paths[i]), kept = what_is(s, trash);

		if (image != 'o' && image != 'n')
			return err_set(err, ERR_FORMAT, "image %u is '%c'", i, image);
		if (!m.lied && m.done && image != 'n')
			return err_set(err, ERR_FORMAT, "done, and image %u is '%c'", i, image);
		if (!m.lied && m.untouched && image != 'o')
			return err_set(err, ERR_FORMAT, "untouched, and image %u is '%c'", i, image);
		if (!m.lied && kept != '-' && (kept != 'o' || !k->keep))
			return err_set(err, ERR_FORMAT, "the trash has '%c' of %u", kept, i);
		nr_new += image == 'n';
		nr_kept += kept != '-';
	}
	if (!m.lied && nr_kept != (k->keep ? nr_new : 0))
		return err_set(err, ERR_FORMAT, "%u images are replaced, and %u originals are kept", nr_new, nr_kept);
	return 0;
}

/* It stands on what is there, whenever it was mended and put back. */
static int check_moved(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	char image = what_is(s, "/r/sub/img"), trash = what_is(s, "/r/.dedupscan/trash/1");
	struct slice is = { .path = "nothing" };
	const struct work *k = ctx;
	uint64_t size;
	int fd, rc;

	if (image != 'o' && image != 'n')
		return err_set(err, ERR_FORMAT, "the image is '%c'", image);
	if (m.lied || (k->may_stay && image == 'n' && trash == 'o'))
		return 0;
	if (image != 'o' || trash != '-')
		return err_set(err, ERR_FORMAT, "the image is '%c', the trash '%c'", image, trash);
	fd = open_at(s, "r/sub/img", O_RDONLY);
	rc = overlay_backing(fd, &is, &size, err);
	file_ops->close(fd);
	if (rc < 0)
		return -1;
	return strcmp(is.path, "/there") == 0 ? 0 : err_set(err, ERR_FORMAT, "it stands on '%s'", is.path);
}

static const char *const images[] = { "/r/sub/img", "/r/other", NULL };
static const char *const several_images[] = { "/r/sub/img", "/r/other", "/r/sub/two", "/r/sub/six", NULL };

static struct crash_workflow workflow(const char *name, struct work *k)
{
	bool replaced = k->undo || k->purge;

	return (struct crash_workflow){
		.name = name,
		.setup = k->found ? set_up_found : k->grown ? set_up_grown : replaced ? set_up_replaced : set_up,
		.run = run,
		.recover = recover,
		.check = k->several ? check_several : k->moved ? check_moved : check_state,
		.ctx = k,
		.images = k->several ? several_images : images,
		.view = view,
		.visit = visit,
		.belongs = belongs,
		.root = "/r",
		.nested = getenv("LONG") ? 5 : 41,
		.cut_again = 1,
		.cuts = { .pairs_max = getenv("LONG") ? 2000 : 60, .whole_sectors = k->moved /* a name is changed in place */ },
	};
}

static void a_replacement_passes(void **state)
{
	struct work k = { .keep = DAY };
	struct crash_workflow w = workflow("replace", &k);

	(void)state;
	assert_survives(crash_try, &w);
}

static void a_replacement_that_keeps_nothing_passes(void **state)
{
	struct work k = { .keep = 0 };
	struct crash_workflow w = workflow("replace, keep nothing", &k);

	(void)state;
	assert_survives(crash_try, &w);
}

static void a_replacement_that_fails_passes(void **state)
{
	static const enum how hows[] = { FAILS_IN_MAKE, FAILS_IN_PROOF };

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct work k = { .keep = DAY, .how = hows[i], .to_fail = true };
		struct crash_workflow w = workflow(i ? "replace, proof fails" : "replace, making fails", &k);

		assert_survives(crash_try, &w);
	}
}

/* One after the other is SWAPPED, and all settle later. */
static void several_at_once_pass(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct work k = { .keep = i ? DAY : 0, .several = true };
		struct crash_workflow w = workflow(i ? "replace several" : "replace several, keep nothing", &k);

		assert_survives(crash_try, &w);
	}
}

static void an_undo_passes(void **state)
{
	struct work k = { .undo = true };
	struct crash_workflow w = workflow("undo", &k);

	(void)state;
	assert_survives(crash_try, &w);
}

static void an_undo_of_what_stands_on_a_moved_pool_passes(void **state)
{
	struct work k = { .undo = true, .moved = true };
	struct crash_workflow w = workflow("undo, moved", &k);

	(void)state;
	assert_survives(crash_try_kills, &w);
	assert_survives(crash_try_cuts, &w);
	k.may_stay = true;
	assert_survives(crash_try_errors, &w);
}

static void a_purge_passes(void **state)
{
	struct work k = { .purge = true };
	struct crash_workflow w = workflow("purge", &k);

	(void)state;
	assert_survives(crash_try, &w);
}

static void a_journal_that_shrinks_passes(void **state)
{
	struct work k = { .grown = true };
	struct crash_workflow w = workflow("shrink", &k);

	(void)state;
	assert_survives(crash_try, &w);
}

/* A3, A11 */
static void a_recovery_passes(void **state)
{
	static const enum journal_state found[] = { JOURNAL_SWAP, JOURNAL_SWAPPED };

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		struct work k = { .found = found[i % 2], .keep = DAY, .original_touched = i >= 2 };
		struct crash_workflow w = workflow(i >= 2 ? "recover, turn round" : "recover, finish", &k);

		if (k.original_touched) /* who comes now touches the new file as well, and both are kept */
			w.visit = NULL;
		assert_survives(crash_try, &w);
	}
}

/* ---- mistakes ---- */

static void mistakes_of_the_work_are_caught(void **state)
{
	struct work k = { .keep = DAY };
	struct crash_workflow w = workflow("careless work", &k);

	(void)state;
	k.how = NO_PROOF;
	assert_caught(crash_try_errors, &w, "b: image '/r/sub/img' says something else");
	k.how = OTHER_CONTENT;
	assert_caught(crash_try_kills, &w, "b: image '/r/sub/img' says something else");
	k.how = NO_ATTRIBUTES;
	assert_caught(crash_try_kills, &w, "b: image '/r/sub/img' has other attributes");
	k.how = RIGHT;
	k.assume_idle = w.options.no_leases = true;
	assert_caught(crash_try_visits, &w, "unclear: '/r/.dedupscan/trash/1' is not what the journal says, or has changed");
}

static void settling_without_a_look_is_caught(void **state)
{
	struct work k = { .several = true, .how = SETTLES_UNSEEN };
	struct crash_workflow w = workflow("careless settling", &k);

	(void)state;
	assert_caught(crash_try_visits, &w, "b: image '/r/sub/img' says something else than another process wrote");
}

static void mistakes_of_a_recovery_are_caught(void **state)
{
	static const struct {
		enum how how;
		const char *words;
	} all[] = {
		{ NO_RECOVERY, "e: '/r/.dedupscan/" },
		{ ROLLS_ALL_BACK, "b: image '/r/sub/img' says something else" },
		{ TAKES_NEW_FOR_GARBAGE, "c: the original is gone before its time" },
		{ FORGETS_JOURNAL, "is gone, and there are files that may be originals" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		struct work k = { .keep = DAY, .how = all[i].how };
		struct crash_workflow w = workflow("careless recovery", &k);

		assert_caught(crash_try_kills, &w, all[i].words);
	}
}

#define EXCHANGE "exchange /r/sub/img"
#define SYNC_NEW "sync /r/.dedupscan/1.new"
#define SYNC_JOURNAL "datasync /r/.dedupscan/journal"

/* What the n-th entry that begins so is about comes in front of another, or behind it. */
struct order {
	const char *name;
	struct {
		const char *what;
		unsigned n;
	} move[2], before; /* the move to the same place, one after the other */
	const char *words;
};

static const struct order *order;

static void move_in_log(void *ctx, struct sim *s)
{
	unsigned to = sim_log_find(s, order->before.what, order->before.n);

	(void)ctx;
	assert_true(to != UINT_MAX);
	for (unsigned i = 0; i < 2 && order->move[i].what; i++) {
		unsigned from = sim_log_find(s, order->move[i].what, order->move[i].n);

		assert_true(from != UINT_MAX);
		sim_log_move(s, from, to);
	}
}

/* X2, X3, J1 */
static void a_wrong_order_is_caught(void **state)
{
	static const struct order all[] = {
		{ "the exchange comes before the new file is synced", { { EXCHANGE, 0 } }, { SYNC_NEW, 0 },
		  "the original lies at" },
		{ "the new file is synced after the exchange", { { SYNC_NEW, 0 } }, { "sync /r/sub", 0 }, "both files are kept" },
		{ "attributes are set after the sync", { { "xattr", 0 } }, { EXCHANGE, 0 }, "has other attributes" },
		{ "the exchange comes before the journal says so", { { EXCHANGE, 0 } }, { SYNC_JOURNAL, 3 },
		  "the original lies at" },
		{ "the journal says so, and is synced after it", { { SYNC_JOURNAL, 3 } }, { "sync /r/sub", 0 },
		  "the original lies at" },
		{ "directories are synced last",
		  { { "sync /r/sub", 0 }, { "sync /r/.dedupscan", 4 } },
		  { "unlink /r/.dedupscan/1.new", 0 },
		  "is not what the journal says" },
		{ "the journal appears before it is synced",
		  { { "rename /r/.dedupscan/journal", 0 } },
		  { SYNC_JOURNAL, 0 },
		  "no journal of dedupscan" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		struct work k = { .keep = 0 };
		struct crash_workflow w = workflow(all[i].name, &k);

		order = &all[i];
		w.mistake_in_log = move_in_log;
		assert_caught(crash_try_cuts, &w, all[i].words);
	}
}

/* The n-th sync, of the journal or of others, is none. */
static unsigned lying;
static enum sim_call lying_kind;

static void lie_at_a_sync(void *ctx, struct sim *s)
{
	(void)ctx;
	sim_set_fault_of(s, lying_kind, (struct sim_fault){ .at = lying, .how = SIM_LIE });
}

static void a_sync_that_is_missing_is_caught(void **state)
{
	static const struct {
		enum sim_call kind;
		unsigned at;
		const char *name, *words;
	} all[] = {
		{ SIM_FSYNC, 4, "the new file is not synced", "both files are kept" },
		{ SIM_FDATASYNC, 4, "SWAP is not synced", "the original lies at" },
	};
	struct work k = { .keep = DAY };

	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		struct crash_workflow w = workflow(all[i].name, &k);

		lying_kind = all[i].kind;
		lying = all[i].at;
		w.mistake = lie_at_a_sync;
		assert_caught(crash_try_cuts, &w, all[i].words);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_replacement_passes),
		cmocka_unit_test(a_replacement_that_keeps_nothing_passes),
		cmocka_unit_test(a_replacement_that_fails_passes),
		cmocka_unit_test(several_at_once_pass),
		cmocka_unit_test(an_undo_passes),
		cmocka_unit_test(an_undo_of_what_stands_on_a_moved_pool_passes),
		cmocka_unit_test(a_purge_passes),
		cmocka_unit_test(a_journal_that_shrinks_passes),
		cmocka_unit_test(a_recovery_passes),
		cmocka_unit_test(mistakes_of_the_work_are_caught),
		cmocka_unit_test(settling_without_a_look_is_caught),
		cmocka_unit_test(mistakes_of_a_recovery_are_caught),
		cmocka_unit_test(a_wrong_order_is_caught),
		cmocka_unit_test(a_sync_that_is_missing_is_caught),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
