/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/journal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "scanner/base/bytes.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/index/checksum.h"

/* Crash safety.  What follows holds at every instant, for what the disk has; the tests that break it are in brackets,
 * "crash" being tests/crash/test_replace.c, which cuts the power at every call.
 *
 *  J1. The journal is a whole header and whole records, and at most one that is not whole, at the end.  The header
 *      appears with the file, by rename [test_journal: a_journal_is_there_whole_or_not_at_all; crash].
 *  J2. A record that journal_append() has returned for is read again, whatever is cut off later
 *      [test_journal: every_cut_leaves_the_records_before; crash].
 *  J3. A record that was not whole is not read, whichever of its sectors are there [test_journal:
 *      a_torn_record_is_not_read; crash].
 *  J4. What is damaged before the last record is told, never taken for the end: else an original could pass for a
 *      file that never got a name [test_journal: damage_before_the_end_is_told].
 *  J5. Numbers are not used twice, so no record speaks of a file of another [test_journal:
 *      numbers_are_never_used_twice].
 *  J6. A record is read back from the disk before it is relied on [crash: a write that never reaches the disk].
 *      What a killed process wrote may be in memory only: it is the last record, as each is synced before the next, and who
 *      opens the journal syncs it.  Where it says REMOVED, and nothing is under way, that has time until the next record:
 *      who reads what was there before it does nothing else [test_journal: the_last_record_is_synced_before_it_counts;
 *      crash].
 *  J7. After a failed sync nothing more is written by this process: the disk may have the record or not, and readers
 *      cope with both [test_journal: a_failed_sync_ends_it; crash].
 *
 * States of a replacement, and which records may follow which:
 *
 *	BEGIN -> SWAP <-> SWAPPED -> DONE -> REMOVED
 *	  |        |         |       |  ^
 *	  |        |         |    BACK <-> BACKED
 *	  |        |         |       |       |
 *	  |        +---------+-------+-------+--> UNDONE -> REMOVED
 *	  +--------------------------------------------------^
 *
 * BACK and BACKED may also become DONE again.  SWAP and BACK leave open where the files are; exchange.c says how one
 * looks.  A record is appended with one sync, and each waits for the one before, so at most one can be torn. */

#define JOURNAL_NAME "journal"
#define JOURNAL_TMP "journal.tmp"
#define MAGIC "DDJOURN\n"
#define VERSION 1
#define RECORD_MAGIC 0x524a4444u /* "DDJR" */
#define FLAG_ASSUME_IDLE 1u

#define SIZE_MAX_READ (64 * MIB)
#define SHRINK_FROM (64 * KIB)

struct disk_header {
	uint8_t magic[8];
	le32 version;
	le32 checksum; /* of the rest; seed 0 */
	le64 next;     /* numbers below are used */
	le64 zero;
};
static_assert(sizeof(struct disk_header) == 32, "the header of a journal has 32 bytes");

struct disk_identity {
	le64 dev, ino, size, mtime, ctime;
};

struct disk_record {
	le32 magic;
	le32 checksum; /* of the rest; the seed is the record's offset */
	le32 len;      /* of the whole, a multiple of 8 */
	le16 state;
	le16 flags;
	le64 number;
	le64 keep, keep_until;
	struct disk_identity original, replacement;
	/* the path, a zero byte, zeros */
};
static_assert(sizeof(struct disk_record) == 120, "a record of a journal begins with 120 bytes");

#define CHECKED_FROM 8
#define RECORD_MAX (sizeof(struct disk_record) + JOURNAL_PATH_MAX + 1)

/* ---- bytes ---- */

static struct disk_identity identity_encode(const struct spool_identity *i)
{
	return (struct disk_identity){ le64_from(i->dev), le64_from(i->ino), le64_from(i->size),
				       le64_from((uint64_t)i->mtime), le64_from((uint64_t)i->ctime) };
}

static struct spool_identity identity_decode(const struct disk_identity *d)
{
	return (struct spool_identity){ .dev = le64_get(d->dev),
					.ino = le64_get(d->ino),
					.size = le64_get(d->size),
					.mtime = (int64_t)le64_get(d->mtime),
					.ctime = (int64_t)le64_get(d->ctime) };
}

static size_t record_encode(const struct journal_entry *e, uint64_t offset, uint8_t buf[RECORD_MAX])
{
	size_t path_len = strlen(e->path), len = round_up(sizeof(struct disk_record) + path_len + 1, 8);
	struct disk_record d = {
		.magic = le32_from(RECORD_MAGIC),
		.len = le32_from((uint32_t)len),
		.state = le16_from((uint16_t)e->state),
		.flags = le16_from(e->assume_idle ? FLAG_ASSUME_IDLE : 0),
		.number = le64_from(e->number),
		.keep = le64_from((uint64_t)e->keep),
		.keep_until = le64_from((uint64_t)e->keep_until),
		.original = identity_encode(&e->original),
		.replacement = identity_encode(&e->replacement),
	};

	memset(buf, 0, len);
	memcpy(buf, &d, sizeof(d));
	memcpy(buf + sizeof(d), e->path, path_len);
	d.checksum = le32_from(checksum32(buf + CHECKED_FROM, len - CHECKED_FROM, offset));
	memcpy(buf, &d, sizeof(d));
	return len;
}

/* The length of the whole record at buf, 0 = there is none. */
static size_t record_len(const uint8_t *buf, size_t room, uint64_t offset)
{
	const struct disk_record *d = (const void *)buf;
	size_t len;

	if (room < sizeof(*d) || le32_get(d->magic) != RECORD_MAGIC)
		return 0;
	len = le32_get(d->len);
	if (len <= sizeof(*d) || len > RECORD_MAX || len % 8 || len > room)
		return 0;
	return checksum32(buf + CHECKED_FROM, len - CHECKED_FROM, offset) == le32_get(d->checksum) ? len : 0;
}

static bool path_is_relative(const char *path)
{
	if (!*path || *path == '/')
		return false;
	for (const char *p = path; p; p = strchr(p, '/')) {
		p += *p == '/';
		if (strncmp(p, "..", 2) == 0 && (p[2] == '/' || p[2] == '\0'))
			return false;
	}
	return true;
}

static int record_decode(const uint8_t *buf, size_t len, uint64_t offset, struct journal_entry *ret, struct err *err)
{
	const struct disk_record *d = (const void *)buf;
	const char *path = (const char *)buf + sizeof(*d);
	unsigned state = le16_get(d->state), flags = le16_get(d->flags);

	if (state < JOURNAL_BEGIN || state > JOURNAL_REMOVED || (flags & ~FLAG_ASSUME_IDLE) || le64_get(d->number) == 0 ||
	    !memchr(path, 0, len - sizeof(*d)) || !path_is_relative(path))
		return err_set(err, ERR_FORMAT, "the record at offset %llu makes no sense", (unsigned long long)offset);
	*ret = (struct journal_entry){
		.number = le64_get(d->number),
		.state = state,
		.assume_idle = flags & FLAG_ASSUME_IDLE,
		.keep = (int64_t)le64_get(d->keep),
		.keep_until = (int64_t)le64_get(d->keep_until),
		.original = identity_decode(&d->original),
		.replacement = identity_decode(&d->replacement),
		.path = strdup(path),
	};
	return ret->path ? 0 : err_set(err, ERR_MEMORY, "out of memory");
}

static struct disk_header header_make(uint64_t next)
{
	struct disk_header h = { .version = le32_from(VERSION), .next = le64_from(next) };

	memcpy(h.magic, MAGIC, sizeof(h.magic));
	h.checksum = le32_from(checksum32(&h.next, 16, 0));
	return h;
}

static int header_decode(const uint8_t *buf, size_t len, uint64_t *ret_next, struct err *err)
{
	const struct disk_header *h = (const void *)buf;

	if (len < sizeof(*h) || memcmp(h->magic, MAGIC, sizeof(h->magic)) != 0)
		return err_set(err, ERR_FORMAT, "it is no journal of dedupscan");
	if (le32_get(h->version) > VERSION)
		return err_set(err, ERR_UNSUPPORTED, "it was written by a newer dedupscan (version %u, this one knows %u)",
			       le32_get(h->version), VERSION);
	if (le32_get(h->version) != VERSION || checksum32(&h->next, 16, 0) != le32_get(h->checksum) ||
	    le64_get(h->next) == 0)
		return err_set(err, ERR_FORMAT, "its header is damaged");
	*ret_next = le64_get(h->next);
	return 0;
}

/* ---- the live records ---- */

static size_t live_place(const struct journal *j, uint64_t number)
{
	size_t at = 0;

	while (at < j->live.nr && j->live.items[at].number < number)
		at++;
	return at;
}

static bool live_has(const struct journal *j, size_t at, uint64_t number)
{
	return at < j->live.nr && j->live.items[at].number == number;
}

static void live_remove(struct journal *j, size_t at)
{
	free(j->live.items[at].path);
	memmove(j->live.items + at, j->live.items + at + 1, (--j->live.nr - at) * sizeof(*j->live.items));
}

/* Takes the entry over, its path included, for which there is room. */
static void live_put(struct journal *j, struct journal_entry *e)
{
	size_t at = live_place(j, e->number);

	if (live_has(j, at, e->number))
		live_remove(j, at);
	if (e->number >= j->next)
		j->next = e->number + 1;
	if (e->state == JOURNAL_REMOVED) {
		free(e->path);
		return;
	}
	memmove(j->live.items + at + 1, j->live.items + at, (j->live.nr++ - at) * sizeof(*j->live.items));
	j->live.items[at] = *e;
}

const struct journal_entry *journal_find(const struct journal *j, uint64_t number)
{
	size_t at = live_place(j, number);

	return live_has(j, at, number) ? &j->live.items[at] : NULL;
}

uint64_t journal_new_number(struct journal *j)
{
	return j->next++;
}

/* ---- reading ---- */

/* After the last whole record only what was being appended may follow. */
static int check_tail(const uint8_t *buf, size_t len, size_t at, struct err *err)
{
	for (size_t p = at + 8; p + sizeof(struct disk_record) <= len; p += 8)
		if (record_len(buf + p, len - p, p))
			return err_set(err, ERR_FORMAT,
				       "it is damaged at offset %zu, and whole records follow; which files are originals "
				       "cannot be told: look into the directory before you remove anything",
				       at);
	return 0;
}

/* ret_last: the state that the last record says, REMOVED if there is none. */
static int parse(struct journal *j, const uint8_t *buf, size_t len, enum journal_state *ret_last, struct err *err)
{
	size_t at = sizeof(struct disk_header), n;

	*ret_last = JOURNAL_REMOVED;
	if (header_decode(buf, len, &j->next, err) < 0)
		return -1;
	for (; (n = record_len(buf + at, len - at, at)); at += n) {
		struct journal_entry e;

		if (vec_reserve(&j->live) < 0)
			return err_set(err, ERR_MEMORY, "out of memory");
		if (record_decode(buf + at, n, at, &e, err) < 0)
			return -1;
		*ret_last = e.state;
		live_put(j, &e);
	}
	j->end = at;
	return check_tail(buf, len, at, err);
}

static bool is_quiet(const struct journal *j)
{
	for (size_t i = 0; i < j->live.nr; i++)
		if (j->live.items[i].state != JOURNAL_DONE)
			return false;
	return true;
}

static int load(struct journal *j, struct err *err)
{
	CLEANUP(free) uint8_t *buf = NULL;
	enum journal_state last;
	struct stat st;

	if (file_ops->fstat(j->fd, &st) < 0)
		return err_errno(err, "cannot stat it");
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > SIZE_MAX_READ)
		return err_set(err, ERR_FORMAT, "it is no file, or too large");
	buf = malloc((size_t)st.st_size + 1);
	if (!buf)
		return err_set(err, ERR_MEMORY, "out of memory");
	if (file_read(j->fd, buf, (size_t)st.st_size, 0, err) < 0 || parse(j, buf, (size_t)st.st_size, &last, err) < 0)
		return -1;
	j->unsynced = (uint64_t)st.st_size == j->end && last == JOURNAL_REMOVED && is_quiet(j);
	if (j->unsynced)
		return 0;
	if ((uint64_t)st.st_size != j->end && file_truncate(j->fd, j->end, err) < 0)
		return -1;
	return file_sync(j->fd, JOURNAL_NAME, err);
}

/* What was written is what the disk has?  A disk that says so and has not done it would be found out when it is too
 * late. */
static int read_back(int fd, const uint8_t *buf, size_t len, uint64_t offset, struct err *err)
{
	CLEANUP(free) uint8_t *is = malloc(len);

	if (!is)
		return err_set(err, ERR_MEMORY, "out of memory");
	if (file_drop_cache(fd, err) < 0 || file_read(fd, is, len, offset, err) < 0)
		return -1;
	if (memcmp(is, buf, len) != 0)
		return err_set(err, ERR_IO, "the disk does not have what was written to it");
	return 0;
}

static int write_temporary(int fd, const uint8_t *buf, size_t len, struct err *err)
{
	if (file_write(fd, buf, len, 0, err) < 0 || file_sync(fd, JOURNAL_TMP, err) < 0)
		return -1;
	return read_back(fd, buf, len, 0, err);
}

/* Puts a journal in the place of the one before, if any.  Returns its descriptor; after -1 the old one is there or,
 * if its directory could not be synced, the new one. */
static int publish(int dirfd, const uint8_t *buf, size_t len, struct err *err)
{
	int fd = file_open(dirfd, JOURNAL_TMP, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600, err);

	if (fd < 0)
		return -1;
	if (write_temporary(fd, buf, len, err) == 0 && file_rename(dirfd, JOURNAL_TMP, JOURNAL_NAME, err) == 0 &&
	    file_sync_dir(dirfd, err) == 0)
		return fd;
	file_ops->close(fd);
	file_unlink(dirfd, JOURNAL_TMP, NULL);
	return -1;
}

static int create(int dirfd, struct err *err)
{
	struct disk_header h = header_make(1);

	return publish(dirfd, (const uint8_t *)&h, sizeof(h), err);
}

static int open_fd(int dirfd, struct err *err)
{
	return file_open(dirfd, JOURNAL_NAME, O_RDWR | O_NOFOLLOW | O_NONBLOCK, 0, err);
}

int journal_open(struct journal *j, int dirfd, struct err *err)
{
	struct err why = ERR_INIT;

	*j = (struct journal){ .dirfd = dirfd, .fd = open_fd(dirfd, &why) };
	if (j->fd < 0 && why.errnum == ENOENT) {
		why = ERR_INIT;
		j->fd = create(dirfd, &why);
	}
	if (j->fd < 0) {
		if (err)
			*err = why;
		return -1;
	}
	if (load(j, err) < 0) {
		journal_release(j);
		return err_add(err, "'" JOURNAL_NAME "'");
	}
	return 0;
}

void journal_release(struct journal *j)
{
	if (j->fd >= 0)
		file_ops->close(j->fd);
	j->fd = -1;
	for (size_t i = 0; i < j->live.nr; i++)
		free(j->live.items[i].path);
	vec_release(&j->live);
}

/* ---- writing ---- */

/* Cuts off what a failed write left.  Where that fails too nothing is known to be at the end any more. */
static void forget_tail(struct journal *j)
{
	if (file_truncate(j->fd, j->end, NULL) < 0)
		j->broken = true;
}

static int write_record(struct journal *j, const struct journal_entry *e, struct err *err)
{
	uint8_t buf[RECORD_MAX];
	size_t len = record_encode(e, j->end, buf);

	if (j->unsynced && file_sync(j->fd, JOURNAL_NAME, err) < 0) {
		j->broken = true;
		return -1;
	}
	j->unsynced = false;
	if (file_write(j->fd, buf, len, j->end, err) < 0) {
		forget_tail(j);
		return -1;
	}
	if (file_sync(j->fd, JOURNAL_NAME, err) < 0 || read_back(j->fd, buf, len, j->end, err) < 0) {
		j->broken = true;
		return -1;
	}
	j->end += len;
	return 0;
}

int journal_append(struct journal *j, const struct journal_entry *e, struct err *err)
{
	struct journal_entry copy = *e;

	if (j->broken)
		return err_set(err, ERR_IO, "the journal could not be written before; see to the disk and start again");
	if (strlen(e->path) > JOURNAL_PATH_MAX || !path_is_relative(e->path))
		return err_set(err, ERR_UNSUPPORTED, "the path cannot be kept in the journal");
	copy.path = strdup(e->path);
	if (!copy.path || vec_reserve(&j->live) < 0) {
		free(copy.path);
		return err_set(err, ERR_MEMORY, "out of memory");
	}
	if (write_record(j, e, err) < 0) {
		free(copy.path);
		return err_add(err, "the journal cannot take the record of '%s'", e->path);
	}
	live_put(j, &copy);
	return 0;
}

/* ---- shrinking ---- */

static uint8_t *live_encode(const struct journal *j, size_t *ret_len)
{
	struct disk_header h = header_make(j->next);
	uint8_t *buf = malloc(sizeof(h) + j->live.nr * RECORD_MAX);

	if (!buf)
		return NULL;
	memcpy(buf, &h, sizeof(h));
	*ret_len = sizeof(h);
	for (size_t i = 0; i < j->live.nr; i++)
		*ret_len += record_encode(&j->live.items[i], *ret_len, buf + *ret_len);
	return buf;
}

/* The name may be the new file's though the call failed (its directory could not be synced): then that is not the
 * file that is open here, and it is over. */
static void check_still_named(struct journal *j)
{
	struct stat named, ours;

	if (file_ops->fstatat(j->dirfd, JOURNAL_NAME, &named, AT_SYMLINK_NOFOLLOW) < 0 ||
	    file_ops->fstat(j->fd, &ours) < 0 || named.st_ino != ours.st_ino)
		j->broken = true;
}

int journal_shrink(struct journal *j, struct err *err)
{
	CLEANUP(free) uint8_t *buf = NULL;
	size_t len;
	int fd;

	if (j->broken || j->end < SHRINK_FROM || !is_quiet(j))
		return 0;
	buf = live_encode(j, &len);
	if (!buf)
		return err_set(err, ERR_MEMORY, "out of memory");
	if (len > j->end / 2)
		return 0;
	fd = publish(j->dirfd, buf, len, err);
	if (fd < 0) {
		check_still_named(j);
		return -1;
	}
	file_ops->close(j->fd);
	j->fd = fd;
	j->end = len;
	j->unsynced = false;
	return 0;
}
