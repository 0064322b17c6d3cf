/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/cluster_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "compactor/pool/immutable.h"
#include "scanner/base/checked.h"
#include "scanner/base/crc32c.h"
#include "scanner/base/file.h"

/*	0	   64 KiB		   64 GiB
 *	| superblock | slot 1 | slot 2 | ... | clusters and tables ... | gap | buffer |
 *						     written ->|     |<- base	 |<- end
 *
 * The superblock is there twice, at the begin and in the middle of its slot, for without one nothing of the file is known.  Neither
 * is ever written again but by a repair, from the other.
 *
 * What is appended waits in the buffer, whose first byte belongs at `base`.  Between what was written and the buffer there may be
 * a gap that alignment left: it is not written, so it is a hole.  Who opens the file for writing begins at the next multiple of
 * 64 KiB behind what is there: another process may have given out offsets below that, and died.
 *
 * A slot is used when anything but zeros is in it, whatever that is.  Slots are given out in order, so the last used one tells
 * the next; so that it still does when the last view goes, that one becomes a tombstone instead of a hole.  Where a file system
 * knows no holes all become tombstones, and all slots are read for this, once.
 *
 * A failed write is tried again with the next one: the buffer still has the bytes.  (Of what is so long that it is written past the
 * buffer nothing is appended then.)  A failed sync is final.
 *
 * It is opened for writing when the first byte is to be written, so that commands which write nothing leave it alone: its mode is
 * 0444 at all times but for the moment in which a user other than root opens it, and the immutable flag (immutable.h), which a new
 * file has not, goes then and comes back when the pool is closed. */

#define BUFFER ((size_t)512 << 10)
#define LONG ((size_t)256 << 10) /* what is appended at once, and not worth a copy */
#define ALIGN_MAX ((uint64_t)64 << 10)
#define TOMBSTONE "ddsgone\n"
#define MODE 0444

struct cluster_file {
	int dirfd; /* the caller's */
	int fd;	   /* for reading */
	int write_fd; /* -1 = nothing was written yet */
	bool writing;
	bool lifted; /* its flag was */
	bool dirty;  /* something was written or buffered since the last sync */
	bool failed; /* a sync did */
	bool cut;    /* its end is gone */
	char name[64];
	struct cluster_file_id id;
	uint64_t superblock_at;	  /* of the one that counts */
	struct err other;	  /* what is wrong with the other one, ERR_NONE = nothing */
	bool lacks_copy;	  /* an older dedupscan made it */
	uint64_t written, base, max;
	size_t used;
	uint8_t *buf; /* NULL = not for writing */
	uint32_t next_slot;
};

/* ---- the superblock ---- */

static bool is_first(const struct cluster_file_id *id)
{
	return id->number == 0;
}

static uint32_t further_crc(const struct pool_superblock_disk *d, const struct pool_further_disk *further)
{
	return crc32c(crc32c(0, d, sizeof(*d)), further, offsetof(struct pool_further_disk, crc));
}

static void superblock_encode(const struct cluster_file_id *id, uint8_t ret[POOL_SUPERBLOCK_ROOM])
{
	struct pool_superblock_disk d = {
		.version = le32_from(is_first(id) ? POOL_VERSION_FIRST : POOL_VERSION),
		.slot_size = le64_from(POOL_SLOT_SIZE),
		.nr_slots = le64_from(POOL_NR_SLOTS),
		.data_begin = le64_from(POOL_DATA_BEGIN),
	};
	struct pool_further_disk further = { .number = le32_from(id->number) };

	memcpy(d.magic, POOL_MAGIC, sizeof(d.magic));
	memcpy(d.uuid, id->uuid, POOL_ID_SIZE);
	d.crc = le32_from(crc32c(0, &d, offsetof(struct pool_superblock_disk, crc)));
	memcpy(further.pool, id->pool, POOL_ID_SIZE);
	further.crc = le32_from(further_crc(&d, &further));
	memset(ret, 0, POOL_SUPERBLOCK_ROOM);
	memcpy(ret, &d, sizeof(d));
	if (!is_first(id))
		memcpy(ret + sizeof(d), &further, sizeof(further));
}

static bool is_null(const uint8_t id[POOL_ID_SIZE])
{
	static const uint8_t null[POOL_ID_SIZE];

	return memcmp(id, null, POOL_ID_SIZE) == 0;
}

static int further_decode(const uint8_t p[POOL_SUPERBLOCK_ROOM], struct cluster_file_id *ret, struct err *err)
{
	const struct pool_superblock_disk *d = (const void *)p;
	const struct pool_further_disk *further = (const void *)(p + sizeof(*d));

	if (le32_get(further->crc) != further_crc(d, further))
		return err_set(err, ERR_FORMAT, "the superblock's second checksum does not match");
	ret->number = le32_get(further->number);
	memcpy(ret->pool, further->pool, POOL_ID_SIZE);
	if (!ret->number || ret->number >= POOL_NR_FILES || is_null(ret->pool))
		return err_set(err, ERR_FORMAT, "the superblock says of no pool which of its files this is");
	return 0;
}

int superblock_decode(const uint8_t p[POOL_SUPERBLOCK_ROOM], bool writing, struct cluster_file_id *ret, struct err *err)
{
	const struct pool_superblock_disk *d = (const void *)p;
	struct cluster_file_id id = { .number = 0 };
	uint32_t version = le32_get(d->version);

	if (memcmp(d->magic, POOL_MAGIC, sizeof(d->magic)) != 0)
		return err_set(err, ERR_FORMAT, "no superblock of a pool found");
	if (le32_get(d->crc) != crc32c(0, d, offsetof(struct pool_superblock_disk, crc))) /* where it is in all versions */
		return err_set(err, ERR_FORMAT, "the superblock's checksum does not match");
	if (version > POOL_VERSION)
		return err_set(err, ERR_UNSUPPORTED, "the pool was made by a newer dedupscan (version %u)", version);
	if (le32_get(d->incompatible) || (writing && le32_get(d->read_only)))
		return err_set(err, ERR_UNSUPPORTED, "the pool has features that only a newer dedupscan can %s (0x%x, 0x%x)",
			       writing ? "write" : "read", le32_get(d->incompatible), le32_get(d->read_only));
	if (version < POOL_VERSION_FIRST || le64_get(d->slot_size) != POOL_SLOT_SIZE || le64_get(d->nr_slots) != POOL_NR_SLOTS ||
	    le64_get(d->data_begin) != POOL_DATA_BEGIN)
		return err_set(err, ERR_FORMAT, "the superblock's fields are not valid");
	if (is_null(d->uuid))
		return err_set(err, ERR_FORMAT, "the superblock has no id");
	memcpy(id.uuid, d->uuid, POOL_ID_SIZE);
	memcpy(id.pool, d->uuid, POOL_ID_SIZE);
	if (version != POOL_VERSION_FIRST && further_decode(p, &id, err) < 0)
		return -1;
	*ret = id;
	return 0;
}

static bool is_bad(const struct err *why)
{
	return why->kind != ERR_NONE;
}

int superblock_choose(const uint8_t *const two[2], bool writing, struct cluster_file_id *ret, struct err whys[2], struct err *err)
{
	struct cluster_file_id ids[2];
	int good;

	for (int i = 0; i < 2; i++) {
		if (!is_bad(&whys[i]))
			superblock_decode(two[i], writing, &ids[i], &whys[i]);
		if (is_bad(&whys[i]) && whys[i].kind != ERR_FORMAT && whys[i].kind != ERR_IO)
			return err_set(err, whys[i].kind, "%s", whys[i].text);
	}
	good = is_bad(&whys[0]);
	if (is_bad(&whys[good]))
		return err_set(err, whys[0].kind, "%s", whys[0].text);
	if (!good && !is_bad(&whys[1]) && memcmp(&ids[0], &ids[1], sizeof(ids[0])) != 0)
		err_set(&whys[1], ERR_FORMAT, "it is that of another file");
	*ret = ids[good];
	return good;
}

/* ---- creating ---- */

/* Whatever the umask is. */
static int set_readers(int fd, const struct stat *like, struct err *err)
{
	if (like && file_ops->fchown(fd, like->st_uid, like->st_gid) < 0)
		return err_errno(err, "cannot set its owner");
	if (file_ops->fchmod(fd, like ? like->st_mode & MODE : MODE) < 0)
		return err_errno(err, "cannot set its mode");
	return 0;
}

/* From the disk: others follow it. */
static int read_back(int fd, const uint8_t block[BLOCK_SIZE], uint64_t at, struct err *err)
{
	uint8_t is[BLOCK_SIZE];

	if (file_drop_cache(fd, err) < 0 || file_read(fd, is, sizeof(is), at, err) < 0)
		return -1;
	return memcmp(is, block, sizeof(is)) == 0 ? 0 : err_set(err, ERR_IO, "it reads back otherwise than it was written");
}

static int write_new(int fd, const struct cluster_file_id *id, const struct stat *like, struct err *err)
{
	uint8_t block[BLOCK_SIZE] = { 0 };

	superblock_encode(id, block);
	if (file_write(fd, block, sizeof(block), 0, err) < 0 || file_write(fd, block, sizeof(block), POOL_COPY_AT, err) < 0 ||
	    file_truncate(fd, POOL_DATA_BEGIN, err) < 0 || set_readers(fd, like, err) < 0)
		return -1;
	if (file_ops->fsync(fd) < 0)
		return err_errno(err, "cannot sync it");
	return read_back(fd, block, 0, err) < 0 || read_back(fd, block, POOL_COPY_AT, err) < 0 ? -1 : 0;
}

int cluster_file_create_further(int dirfd, const char *name, const struct cluster_file_id *id, const struct stat *like,
				struct err *err)
{
	char tmp[80];
	int fd, rc;

	snprintf(tmp, sizeof(tmp), "%.64s.new", name);
	if (file_unlink(dirfd, tmp, err) < 0)
		return -1;
	fd = file_open(dirfd, tmp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, like ? S_IRUSR : MODE, err);
	if (fd < 0)
		return -1;
	rc = write_new(fd, id, like, err);
	if (file_close(fd, tmp, rc == 0 ? err : NULL) < 0)
		rc = -1;
	if (rc == 0)
		rc = file_rename(dirfd, tmp, name, err);
	if (rc == 0)
		return 0;
	file_unlink(dirfd, tmp, NULL);
	return err_add(err, "'%s'", name);
}

int cluster_file_create(int dirfd, const char *name, const uint8_t uuid[POOL_ID_SIZE], struct err *err)
{
	struct cluster_file_id id = { .number = 0 };

	memcpy(id.uuid, uuid, POOL_ID_SIZE);
	return cluster_file_create_further(dirfd, name, &id, NULL, err);
}

/* ---- opening ---- */

static int open_flags(int dirfd, const char *name, int flags, struct err *err)
{
	return file_open(dirfd, name, flags | O_NOFOLLOW | O_NONBLOCK, 0, err);
}

int cluster_file_lift(struct cluster_file *f, struct err *err)
{
	int rc = immutable_lift(f->fd, err);

	f->lifted |= rc > 0;
	return rc < 0 ? err_add(err, "cluster file '%s'", f->name) : 0;
}

bool cluster_file_was_lifted(const struct cluster_file *f)
{
	return f->lifted;
}

/* Takes everybody's permission to write away again, and no other, for who may read was decided by whose images are in it: what
 * is open stays open. */
static int mode_close(struct cluster_file *f, struct err *err)
{
	struct stat st;

	if (file_ops->fstat(f->fd, &st) < 0)
		return err_errno(err, "cannot stat it");
	if (!(st.st_mode & 07777 & ~MODE))
		return 0;
	if (cluster_file_lift(f, err) < 0)
		return -1;
	return file_ops->fchmod(f->fd, st.st_mode & MODE) < 0 ? err_errno(err, "cannot set its mode") : 0;
}

/* Opens for writing what its owner may not write to, either. */
static int mode_open(struct cluster_file *f, struct err *err)
{
	struct stat st;
	int fd;

	if (file_ops->fstat(f->fd, &st) < 0 || file_ops->fchmod(f->fd, (st.st_mode & MODE) | S_IWUSR) < 0)
		return err_errno(err, "cannot open it for writing");
	fd = open_flags(f->dirfd, f->name, O_RDWR, err);
	if (mode_close(f, fd < 0 ? NULL : err) < 0 && fd >= 0) {
		file_ops->close(fd);
		return -1;
	}
	return fd;
}

static int open_for_writing(struct cluster_file *f, struct err *err)
{
	struct err why = ERR_INIT;
	int fd = open_flags(f->dirfd, f->name, O_RDWR, &why);

	if (fd < 0 && why.errnum == EPERM) {
		if (cluster_file_lift(f, err) < 0)
			return -1;
		fd = open_flags(f->dirfd, f->name, O_RDWR, &why);
	}
	if (fd < 0 && why.errnum == EACCES)
		return mode_open(f, err);
	if (fd < 0 && err)
		*err = why;
	return fd;
}

static int same_file(int a, int b, struct err *err)
{
	struct stat x, y;

	if (file_ops->fstat(a, &x) < 0 || file_ops->fstat(b, &y) < 0)
		return err_errno(err, "cannot stat it");
	return x.st_ino == y.st_ino && x.st_dev == y.st_dev ? 0 : err_set(err, ERR_STALE, "another file has its name by now");
}

static int open_to_read(int dirfd, const char *name, struct err *err)
{
	struct err why = ERR_INIT;
	int fd = open_flags(dirfd, name, O_RDONLY, &why);

	if (fd < 0 && why.errnum == ELOOP)
		return err_set(err, ERR_REFUSED, "it is a symbolic link");
	if (fd < 0 && err)
		*err = why;
	return fd;
}

static bool all_are(const uint8_t *p, size_t len, uint8_t byte)
{
	return p[0] == byte && memcmp(p, p + 1, len - 1) == 0;
}

static int remember_slot(void *ctx, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err)
{
	(void)header;
	(void)err;
	*(uint32_t *)ctx = slot + 1;
	return 0;
}

static int each_used_slot(struct cluster_file *f, int (*call)(void *, uint32_t, const uint8_t *, struct err *), void *ctx,
			  struct err *err);

static int prepare_writing(struct cluster_file *f, struct err *err)
{
	if (mode_close(f, err) < 0)
		return -1;
	f->next_slot = 1;
	if (each_used_slot(f, remember_slot, &f->next_slot, err) < 0)
		return -1;
	f->base = round_up(f->written, ALIGN_MAX);
	f->buf = malloc(BUFFER);
	return f->buf ? 0 : err_set(err, ERR_MEMORY, "out of memory");
}

/* A file system refuses offsets that no file of it can have: of ext4 those depend on its block size. */
static uint64_t longest(int fd)
{
	uint64_t max = POOL_FILE_MAX;

	for (; max > POOL_FILE_MAX_LEAST && file_ops->lseek(fd, (off_t)max, SEEK_SET) < 0;)
		max = max == POOL_FILE_MAX ? POOL_FILE_MAX_EXT4 : max / 4;
	return max;
}

/* What was cut off is zeros. */
static int read_block(int fd, uint64_t at, uint8_t ret[BLOCK_SIZE], struct err *err)
{
	ssize_t len = file_read_some(fd, ret, BLOCK_SIZE, at, err);

	if (len < 0)
		return -1;
	memset(ret + len, 0, BLOCK_SIZE - (size_t)len);
	return 0;
}

static int look_at_superblocks(struct cluster_file *f, struct err *err)
{
	uint8_t first[BLOCK_SIZE], copy[BLOCK_SIZE];
	const uint8_t *const two[] = { first, copy };
	struct err whys[2] = { ERR_INIT, ERR_INIT };
	int good;

	read_block(f->fd, 0, first, &whys[0]);
	if (read_block(f->fd, POOL_COPY_AT, copy, &whys[1]) == 0)
		f->lacks_copy = all_are(copy, sizeof(copy), 0);
	good = superblock_choose(two, f->writing, &f->id, whys, err);
	if (good < 0)
		return -1;
	f->superblock_at = good ? POOL_COPY_AT : 0;
	if (good || !f->lacks_copy)
		f->other = whys[!good];
	return 0;
}

static int prepare(struct cluster_file *f, struct err *err)
{
	struct stat st;

	if (file_ops->fstat(f->fd, &st) < 0)
		return err_errno(err, "cannot stat it");
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_REFUSED, "not a regular file");
	if (look_at_superblocks(f, err) < 0)
		return -1;
	f->cut = (uint64_t)st.st_size < POOL_DATA_BEGIN;
	f->written = f->base = max_u64((uint64_t)st.st_size, POOL_DATA_BEGIN);
	f->max = longest(f->fd);
	return f->writing ? prepare_writing(f, err) : 0;
}

struct cluster_file *cluster_file_open(int dirfd, const char *name, bool writing, struct err *err)
{
	CLEANUP(cluster_file_close) struct cluster_file *f = calloc(1, sizeof(*f));

	if (!f)
		return err_null(err, ERR_MEMORY, "out of memory");
	f->dirfd = dirfd;
	f->write_fd = -1;
	f->writing = writing;
	snprintf(f->name, sizeof(f->name), "%s", name);
	f->fd = open_to_read(dirfd, name, err);
	if (f->fd < 0 || prepare(f, err) < 0) {
		err_add(err, "cluster file '%s'", name);
		return NULL;
	}
	return STEAL(f);
}

void cluster_file_close(struct cluster_file *f)
{
	if (!f)
		return;
	if (f->fd >= 0)
		file_ops->close(f->fd);
	if (f->write_fd >= 0)
		file_ops->close(f->write_fd);
	free(f->buf);
	free(f);
}

const struct cluster_file_id *cluster_file_id(const struct cluster_file *f)
{
	return &f->id;
}

uint64_t cluster_file_end(const struct cluster_file *f)
{
	return f->base + f->used;
}

int cluster_file_fd(const struct cluster_file *f)
{
	return f->fd;
}

uint64_t cluster_file_written(const struct cluster_file *f)
{
	return f->written;
}

const char *cluster_file_name(const struct cluster_file *f)
{
	return f->name;
}

bool cluster_file_is_cut(const struct cluster_file *f)
{
	return f->cut;
}

/* What is said to be there is what is there. */
void cluster_file_set_cut(struct cluster_file *f)
{
	f->cut = true;
	if (!f->used)
		f->base = f->written;
}

uint64_t cluster_file_room(const struct cluster_file *f)
{
	return f->cut ? 0 : f->max - min_u64(round_up(cluster_file_end(f), ALIGN_MAX), f->max);
}

uint64_t cluster_file_max(const struct cluster_file *f)
{
	return f->max;
}

/* ---- appending ---- */

static int check_writable(const struct cluster_file *f, struct err *err)
{
	assert(f->writing);
	return f->failed ? err_set(err, ERR_IO, "cluster file '%s': a sync failed before; nothing more is written", f->name) : 0;
}

static int check_grows(const struct cluster_file *f, struct err *err)
{
	if (check_writable(f, err) < 0)
		return -1;
	return f->cut ? err_set(err, ERR_FORMAT, "cluster file '%s' was cut; nothing is added to it", f->name) : 0;
}

/* Before anything is written. */
static int wake(struct cluster_file *f, struct err *err)
{
	int fd;

	if (check_writable(f, err) < 0)
		return -1;
	if (f->write_fd >= 0)
		return 0;
	fd = open_for_writing(f, err);
	if (fd < 0 || same_file(fd, f->fd, err) < 0) {
		if (fd >= 0)
			file_ops->close(fd);
		return err_add(err, "cluster file '%s'", f->name);
	}
	f->write_fd = fd;
	return 0;
}

int cluster_file_flush(struct cluster_file *f, struct err *err)
{
	if (check_writable(f, err) < 0)
		return -1;
	if (!f->used)
		return 0;
	if (wake(f, err) < 0)
		return -1;
	if (file_write(f->write_fd, f->buf, f->used, f->base, err) < 0)
		return err_add(err, "cluster file '%s'", f->name);
	f->written = f->base += f->used;
	f->used = 0;
	return 0;
}

int cluster_file_sync(struct cluster_file *f, struct err *err)
{
	if (cluster_file_flush(f, err) < 0)
		return -1;
	if (!f->dirty)
		return 0;
	f->failed = file_sync(f->fd, f->name, err) < 0;
	f->dirty = f->failed;
	return f->failed ? -1 : 0;
}

void cluster_file_rest(struct cluster_file *f)
{
	if (f->write_fd >= 0 && !f->dirty)
		file_ops->close(STEAL_FD(f->write_fd));
}

/* Has the buffer end at a multiple of `align`.  What is left out is a hole, if it can be one. */
static int pad(struct cluster_file *f, uint64_t align, struct err *err)
{
	uint64_t end = cluster_file_end(f), gap = round_up(end, align) - end;

	if (gap < BLOCK_SIZE && f->used && gap <= BUFFER - f->used) {
		memset(f->buf + f->used, 0, gap);
		f->used += gap;
		return 0;
	}
	if (gap && cluster_file_flush(f, err) < 0)
		return -1;
	f->base += gap;
	return 0;
}

static int append_short(struct cluster_file *f, const uint8_t *p, size_t len, struct err *err)
{
	for (size_t n; len; p += n, len -= n) {
		if (f->used == BUFFER && cluster_file_flush(f, err) < 0)
			return -1;
		n = min_u64(len, BUFFER - f->used);
		memcpy(f->buf + f->used, p, n);
		f->used += n;
	}
	return 0;
}

/* Past the buffer. */
static int append_long(struct cluster_file *f, const uint8_t *p, size_t len, struct err *err)
{
	if (cluster_file_flush(f, err) < 0 || wake(f, err) < 0)
		return -1;
	if (file_write(f->write_fd, p, len, f->base, err) < 0)
		return err_add(err, "cluster file '%s'", f->name);
	f->written = f->base += len;
	return 0;
}

int cluster_file_append(struct cluster_file *f, const void *buf, size_t len, uint64_t align, uint64_t *ret, struct err *err)
{
	uint64_t at = round_up(cluster_file_end(f), align);

	assert(len && is_pow2(align) && align <= ALIGN_MAX);
	if (check_grows(f, err) < 0)
		return -1;
	if (!range_within(at, len, f->max))
		return err_set(err, ERR_FULL, "cluster file '%s' is full: it ends at %llu TiB; try again, then another one begins",
			       f->name, (unsigned long long)f->max >> 40);
	f->dirty = true;
	if (pad(f, align, err) < 0 || (len < LONG ? append_short : append_long)(f, buf, len, err) < 0)
		return -1;
	*ret = at;
	return 0;
}

/* ---- the other superblock ---- */

static uint64_t other_at(const struct cluster_file *f)
{
	return f->superblock_at ? 0 : POOL_COPY_AT;
}

bool cluster_file_other_is_damaged(const struct cluster_file *f, struct err *ret_why)
{
	if (!is_bad(&f->other))
		return false;
	err_set(ret_why, ERR_FORMAT, "cluster file '%s', at offset %llu: %s", f->name, (unsigned long long)other_at(f),
		f->other.text);
	return true;
}

bool cluster_file_lacks_copy(const struct cluster_file *f)
{
	return f->lacks_copy;
}

static int write_other(struct cluster_file *f, struct err *err)
{
	struct cluster_file_id id;
	uint8_t block[BLOCK_SIZE];

	if (read_block(f->fd, f->superblock_at, block, err) < 0 || superblock_decode(block, true, &id, err) < 0)
		return -1;
	f->dirty = true;
	if (file_write(f->write_fd, block, sizeof(block), other_at(f), err) < 0 || cluster_file_sync(f, err) < 0)
		return -1;
	return read_back(f->fd, block, other_at(f), err);
}

int cluster_file_write_other(struct cluster_file *f, struct err *err)
{
	if (cluster_file_sync(f, err) < 0 || wake(f, err) < 0)
		return -1;
	if (write_other(f, err) < 0)
		return err_add(err, "cluster file '%s'", f->name);
	cluster_file_rest(f);
	f->other = ERR_INIT;
	f->lacks_copy = false;
	return 0;
}

/* ---- reading ---- */

int cluster_file_read(struct cluster_file *f, void *buf, size_t len, uint64_t offset, struct err *err)
{
	uint8_t *p = buf;
	size_t n;

	if (offset < POOL_DATA_BEGIN || !range_within(offset, len, cluster_file_end(f)))
		return err_set(err, ERR_FORMAT, "cluster file '%s' has no %zu bytes at offset %llu: its data end at %llu", f->name,
			       len, (unsigned long long)offset, (unsigned long long)cluster_file_end(f));
	if (len && offset < f->written) {
		n = min_u64(len, f->written - offset);
		if (file_read(f->fd, p, n, offset, err) < 0)
			return err_add(err, "cluster file '%s'", f->name);
		p += n, offset += n, len -= n;
	}
	if (len && offset < f->base) {
		n = min_u64(len, f->base - offset);
		memset(p, 0, n);
		p += n, offset += n, len -= n;
	}
	if (len)
		memcpy(p, f->buf + (offset - f->base), len);
	return 0;
}

int cluster_file_punch(struct cluster_file *f, uint64_t offset, uint64_t len, struct err *err)
{
	assert(offset % BLOCK_SIZE == 0 && len % BLOCK_SIZE == 0);
	if (cluster_file_flush(f, err) < 0)
		return -1;
	if (offset < POOL_DATA_BEGIN || !range_within(offset, len, f->base))
		return err_set(err, ERR_FORMAT, "cluster file '%s' has no %llu bytes of clusters at offset %llu", f->name,
			       (unsigned long long)len, (unsigned long long)offset);
	if (len && wake(f, err) < 0)
		return -1;
	f->dirty |= len > 0;
	if (len && file_punch(f->write_fd, offset, len, err) < 0)
		return err_add(err, "cluster file '%s'", f->name);
	return 0;
}

/* ---- slots ---- */

int cluster_file_next_slot(struct cluster_file *f, uint32_t *ret, struct err *err)
{
	if (check_grows(f, err) < 0)
		return -1;
	if (f->next_slot >= POOL_NR_SLOTS)
		return err_set(err, ERR_FULL, "cluster file '%s' is full: it has no slot left", f->name);
	*ret = f->next_slot;
	return 0;
}

uint32_t cluster_file_slots_left(const struct cluster_file *f)
{
	return f->cut ? 0 : (uint32_t)POOL_NR_SLOTS - f->next_slot;
}

int cluster_file_publish(struct cluster_file *f, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err)
{
	assert(slot >= f->next_slot && slot < POOL_NR_SLOTS);
	if (check_grows(f, err) < 0 || cluster_file_sync(f, err) < 0 || wake(f, err) < 0)
		return -1;
	f->dirty = true;
	f->next_slot = slot + 1; /* also if this fails: some of it may be there */
	if (file_write(f->write_fd, header, BLOCK_SIZE, slot * POOL_SLOT_SIZE, err) < 0)
		return err_add(err, "cluster file '%s', slot %u", f->name, slot);
	return cluster_file_sync(f, err);
}

int cluster_file_read_slot(struct cluster_file *f, uint32_t slot, uint8_t ret[BLOCK_SIZE], struct err *err)
{
	assert(slot && slot < POOL_NR_SLOTS);
	if (read_block(f->fd, slot * POOL_SLOT_SIZE, ret, err) < 0)
		return err_add(err, "cluster file '%s', slot %u", f->name, slot);
	return 0;
}

int cluster_file_bury(struct cluster_file *f, uint32_t slot, struct err *err)
{
	static const uint8_t tombstone[BLOCK_SIZE] = TOMBSTONE;
	struct err why = ERR_INIT;
	int rc = -1;

	assert(slot && slot < f->next_slot);
	if (wake(f, err) < 0)
		return -1;
	f->dirty = true;
	if (slot != f->next_slot - 1)
		rc = file_punch(f->write_fd, slot * POOL_SLOT_SIZE, POOL_SLOT_SIZE, &why);
	if (slot == f->next_slot - 1 || (rc < 0 && why.errnum == EOPNOTSUPP))
		rc = file_write(f->write_fd, tombstone, sizeof(tombstone), slot * POOL_SLOT_SIZE, &why);
	if (rc < 0 && err)
		*err = why;
	return rc < 0 ? err_add(err, "cluster file '%s', slot %u", f->name, slot) : 0;
}

static int call_slot(struct cluster_file *f, uint32_t slot, int (*call)(void *, uint32_t, const uint8_t *, struct err *), void *ctx,
		     struct err *err)
{
	uint8_t header[BLOCK_SIZE];

	if (cluster_file_read_slot(f, slot, header, err) < 0)
		return -1;
	return all_are(header, sizeof(header), 0) ? 0 : call(ctx, slot, header, err);
}

/* Tombstones, too. */
static int each_used_slot(struct cluster_file *f, int (*call)(void *, uint32_t, const uint8_t *, struct err *), void *ctx,
			  struct err *err)
{
	uint64_t at = POOL_SLOT_SIZE, begin, end;
	int rc, called = 0;

	while (called == 0 && (rc = file_next_data(f->fd, at, POOL_DATA_BEGIN, &begin, &end, err)) > 0) {
		uint64_t slot = begin / POOL_SLOT_SIZE, stop = div_up(end, POOL_SLOT_SIZE);

		for (; slot < stop && called == 0; slot++)
			called = call_slot(f, (uint32_t)slot, call, ctx, err);
		at = stop * POOL_SLOT_SIZE;
	}
	return called ? called : rc < 0 ? err_add(err, "cluster file '%s'", f->name) : 0;
}

struct calling {
	int (*call)(void *ctx, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err);
	void *ctx;
};

static int call_unless_tombstone(void *ctx, uint32_t slot, const uint8_t *header, struct err *err)
{
	const struct calling *c = ctx;

	return memcmp(header, TOMBSTONE, strlen(TOMBSTONE)) == 0 ? 0 : c->call(c->ctx, slot, header, err);
}

int cluster_file_each_slot(struct cluster_file *f, int (*call)(void *, uint32_t, const uint8_t *, struct err *), void *ctx,
			   struct err *err)
{
	struct calling c = { call, ctx };

	return each_used_slot(f, call_unless_tombstone, &c, err);
}
