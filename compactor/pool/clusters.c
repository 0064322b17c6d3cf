/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/clusters.h"

#include <assert.h>
#include <string.h>

#include "compactor/pool/immutable.h"
#include "compactor/pool/pool_id.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/vec.h"

struct clusters {
	int dirfd; /* the caller's */
	bool writing;
	bool failed; /* another file could not begin: what is on the disk of it is not known */
	VEC(struct cluster_file *) files; /* by number */
	VEC(struct err) passed_over;
};

static uint32_t number_of(const struct cluster_file *f)
{
	return cluster_file_id(f)->number;
}

static uint64_t base_of(const struct cluster_file *f)
{
	return (uint64_t)number_of(f) << POOL_FILE_BITS;
}

static uint32_t slot_in(const struct cluster_file *f, uint32_t slot)
{
	return number_of(f) * (uint32_t)POOL_NR_SLOTS + slot;
}

static struct cluster_file *growing(const struct clusters *c)
{
	return c->files.items[c->files.nr - 1];
}

static struct cluster_file *find(const struct clusters *c, uint64_t number)
{
	for (size_t i = c->files.nr; i-- > 0;)
		if (number_of(c->files.items[i]) == number)
			return c->files.items[i];
	return NULL;
}

/* ---- opening ---- */

static int check_id(const struct clusters *c, const struct cluster_file *f, const uint8_t uuid[POOL_ID_SIZE], const char *name,
		    struct err *err)
{
	const struct cluster_file_id *id = cluster_file_id(f);

	if (memcmp(id->uuid, uuid, POOL_ID_SIZE) != 0)
		return err_set(err, ERR_FORMAT, "cluster file '%s' has another id than its name", name);
	if (c->files.nr && memcmp(id->pool, clusters_pool(c), POOL_ID_SIZE) != 0)
		return err_set(err, ERR_FORMAT, "cluster file '%s' is of another pool than the others", name);
	if (find(c, id->number))
		return err_set(err, ERR_FORMAT, "cluster file '%s' has the number of another one, %u", name, id->number);
	return 0;
}

static int put(struct clusters *c, struct cluster_file *f, struct err *err)
{
	size_t at;

	if (vec_push(&c->files, f) < 0) {
		cluster_file_close(f);
		return err_set(err, ERR_MEMORY, "out of memory");
	}
	for (at = c->files.nr - 1; at && number_of(c->files.items[at - 1]) > number_of(f); at--)
		c->files.items[at] = c->files.items[at - 1];
	c->files.items[at] = f;
	return 0;
}

/* <uuid>.qcow2.new, and what file_write_atomic() leaves: whoever began it died. */
static bool is_unfinished(const char *name)
{
	static const char end[] = ".new", begin[] = ".dedupscan-";
	size_t len = strlen(name), without = len - min_u64(len, strlen(end));
	char file[POOL_FILE_NAME_ROOM];
	uint8_t uuid[POOL_ID_SIZE];

	if (strncmp(name, begin, strlen(begin)) == 0)
		return strcmp(name + without, ".tmp") == 0;
	if (strcmp(name + without, end) != 0 || without >= sizeof(file))
		return false;
	memcpy(file, name, without);
	file[without] = '\0';
	return pool_id_parse_file_name(file, uuid);
}

static int pass_over(struct clusters *c, const struct err *why, struct err *err)
{
	struct err told = ERR_INIT;

	err_set(&told, why->kind, "%s; put it back from a backup", why->text);
	return vec_push(&c->passed_over, told) < 0 ? err_set(err, ERR_MEMORY, "out of memory") : 0;
}

static int open_one(void *ctx, const char *name, struct err *err)
{
	CLEANUP(cluster_file_close) struct cluster_file *f = NULL;
	uint8_t uuid[POOL_ID_SIZE];
	struct err why = ERR_INIT;
	struct clusters *c = ctx;

	if (c->writing && is_unfinished(name))
		return immutable_unlink_closed(c->dirfd, name, err);
	if (!pool_id_parse_file_name(name, uuid))
		return 0;
	f = cluster_file_open(c->dirfd, name, c->writing, &why);
	if (!f && why.kind == ERR_FORMAT)
		return pass_over(c, &why, err);
	if (!f)
		return err_set(err, why.kind, "%s", why.text);
	return check_id(c, f, uuid, name, err) < 0 ? -1 : put(c, STEAL(f), err);
}

struct clusters *clusters_open(int dirfd, bool writing, struct err *err)
{
	CLEANUP(clusters_close) struct clusters *c = calloc(1, sizeof(*c));

	if (!c)
		return err_null(err, ERR_MEMORY, "out of memory");
	c->dirfd = dirfd;
	c->writing = writing;
	if (file_each_name(dirfd, open_one, c, err) < 0)
		return NULL;
	if (!c->files.nr && c->passed_over.nr)
		return err_null(err, ERR_FORMAT, "%s", c->passed_over.items[0].text);
	if (!c->files.nr)
		return err_null(err, ERR_FORMAT, "it is no whole pool: its cluster file is missing; put it back from a backup");
	return STEAL(c);
}

void clusters_close(struct clusters *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->files.nr; i++)
		cluster_file_close(c->files.items[i]);
	vec_release(&c->files);
	vec_release(&c->passed_over);
	free(c);
}

size_t clusters_nr_passed_over(const struct clusters *c)
{
	return c->passed_over.nr;
}

const struct err *clusters_passed_over(const struct clusters *c, size_t i)
{
	return &c->passed_over.items[i];
}

const uint8_t *clusters_pool(const struct clusters *c)
{
	return cluster_file_id(c->files.items[0])->pool;
}

/* ---- coming and going ---- */

int clusters_add(struct clusters *c, uint32_t number, struct err *err)
{
	struct cluster_file_id id = { .number = number };
	char name[POOL_FILE_NAME_ROOM];
	struct cluster_file *f;
	struct stat like;

	assert(c->writing && number > number_of(growing(c)));
	if (c->failed)
		return err_set(err, ERR_IO, "another cluster file could not begin before");
	if (id.number >= POOL_NR_FILES)
		return err_set(err, ERR_FULL, "the pool is full: it has had %u cluster files; --pool DIR begins another pool", id.number);
	if (file_ops->fstat(cluster_file_fd(growing(c)), &like) < 0)
		return err_errno(err, "cannot look at a cluster file");
	memcpy(id.pool, clusters_pool(c), POOL_ID_SIZE);
	if (pool_new_id(id.uuid, err) < 0)
		return -1;
	pool_id_file_name(id.uuid, name);
	c->failed = true;
	if (cluster_file_create_further(c->dirfd, name, &id, &like, err) < 0)
		return -1;
	f = file_sync_dir(c->dirfd, err) < 0 ? NULL : cluster_file_open(c->dirfd, name, true, err);
	if (!f || put(c, f, err) < 0) {
		file_unlink(c->dirfd, name, NULL); /* or the next one has its number */
		return -1;
	}
	c->failed = false;
	return 0;
}

int clusters_remove(struct clusters *c, uint32_t number, struct err *err)
{
	struct cluster_file *f = find(c, number);
	char name[POOL_FILE_NAME_ROOM];
	size_t at = 0;

	assert(c->writing && f && f != growing(c));
	pool_id_file_name(cluster_file_id(f)->uuid, name);
	if (cluster_file_lift(f, err) < 0 || file_unlink(c->dirfd, name, err) < 0 || file_sync_dir(c->dirfd, err) < 0)
		return -1;
	while (c->files.items[at] != f)
		at++;
	for (c->files.nr--; at < c->files.nr; at++)
		c->files.items[at] = c->files.items[at + 1];
	cluster_file_close(f);
	return 0;
}

/* ---- the files ---- */

static struct cluster_span span_of(struct cluster_file *f)
{
	return (struct cluster_span){
		.file = f, .number = number_of(f), .begin = base_of(f) + POOL_DATA_BEGIN, .end = base_of(f) + cluster_file_end(f),
	};
}

size_t clusters_nr(const struct clusters *c)
{
	return c->files.nr;
}

struct cluster_span clusters_span(const struct clusters *c, size_t i)
{
	return span_of(c->files.items[i]);
}

struct cluster_span clusters_growing(const struct clusters *c)
{
	return span_of(growing(c));
}

static bool give_span(struct cluster_file *f, struct cluster_span *ret)
{
	if (f)
		*ret = span_of(f);
	return f != NULL;
}

bool clusters_of_address(const struct clusters *c, uint64_t address, struct cluster_span *ret)
{
	return give_span(find(c, address >> POOL_FILE_BITS), ret);
}

bool clusters_of_slot(const struct clusters *c, uint32_t slot, struct cluster_span *ret)
{
	return give_span(find(c, slot / POOL_NR_SLOTS), ret);
}

bool clusters_of_id(const struct clusters *c, const uint8_t uuid[POOL_ID_SIZE], struct cluster_span *ret)
{
	for (size_t i = 0; i < c->files.nr; i++)
		if (memcmp(cluster_file_id(c->files.items[i])->uuid, uuid, POOL_ID_SIZE) == 0)
			return give_span(c->files.items[i], ret);
	return false;
}

uint32_t clusters_slot_at(const struct clusters *c, const uint8_t uuid[POOL_ID_SIZE], uint64_t offset)
{
	struct cluster_span s;

	if (!offset || offset >= POOL_DATA_BEGIN || offset % POOL_SLOT_SIZE || !clusters_of_id(c, uuid, &s))
		return 0;
	return slot_in(s.file, (uint32_t)(offset / POOL_SLOT_SIZE));
}

bool clusters_have(const struct clusters *c, uint64_t address, uint64_t len)
{
	struct cluster_span s;

	return clusters_of_address(c, address, &s) && address >= s.begin && range_within(address, len, s.end);
}

/* ---- data ---- */

int clusters_append(struct clusters *c, const void *buf, size_t len, uint64_t align, uint64_t *ret, struct err *err)
{
	struct cluster_file *f = growing(c);
	uint64_t at;

	if (cluster_file_append(f, buf, len, align, &at, err) < 0)
		return -1;
	*ret = base_of(f) + at;
	return 0;
}

int clusters_flush(struct clusters *c, struct err *err)
{
	return cluster_file_flush(growing(c), err);
}

int clusters_sync(struct clusters *c, struct err *err)
{
	for (size_t i = 0; i < c->files.nr; i++) {
		if (cluster_file_sync(c->files.items[i], err) < 0)
			return -1;
		if (c->files.items[i] != growing(c))
			cluster_file_rest(c->files.items[i]);
	}
	return 0;
}

static struct cluster_file *file_at(const struct clusters *c, uint64_t address, struct err *err)
{
	struct cluster_file *f = find(c, address >> POOL_FILE_BITS);

	if (!f)
		err_set(err, ERR_FORMAT, "the pool has no cluster file with the number %llu",
			(unsigned long long)(address >> POOL_FILE_BITS));
	return f;
}

int clusters_read(struct clusters *c, void *buf, size_t len, uint64_t address, struct err *err)
{
	struct cluster_file *f = file_at(c, address, err);

	return f ? cluster_file_read(f, buf, len, cluster_offset(address), err) : -1;
}

int clusters_punch(struct clusters *c, uint64_t address, uint64_t len, struct err *err)
{
	struct cluster_file *f = file_at(c, address, err);

	return f ? cluster_file_punch(f, cluster_offset(address), len, err) : -1;
}

uint64_t clusters_end(const struct clusters *c)
{
	return base_of(growing(c)) + cluster_file_end(growing(c));
}

int clusters_drop_cache(const struct clusters *c, struct err *err)
{
	for (size_t i = 0; i < c->files.nr; i++)
		if (file_drop_cache(cluster_file_fd(c->files.items[i]), err) < 0)
			return -1;
	return 0;
}

/* ---- slots ---- */

static struct cluster_file *file_of_slot(const struct clusters *c, uint32_t slot, struct err *err)
{
	return file_at(c, slot_address(slot), err);
}

int clusters_next_slot(struct clusters *c, uint32_t *ret, struct err *err)
{
	struct cluster_file *f = growing(c);

	if (cluster_file_next_slot(f, ret, err) < 0)
		return -1;
	*ret = slot_in(f, *ret);
	return 0;
}

int clusters_publish(struct clusters *c, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err)
{
	struct cluster_file *f = file_of_slot(c, slot, err);

	return f ? cluster_file_publish(f, slot % POOL_NR_SLOTS, header, err) : -1;
}

int clusters_read_slot(struct clusters *c, uint32_t slot, uint8_t ret[BLOCK_SIZE], struct err *err)
{
	struct cluster_file *f = file_of_slot(c, slot, err);

	return f ? cluster_file_read_slot(f, slot % POOL_NR_SLOTS, ret, err) : -1;
}

int clusters_bury(struct clusters *c, uint32_t slot, struct err *err)
{
	struct cluster_file *f = file_of_slot(c, slot, err);

	return f ? cluster_file_bury(f, slot % POOL_NR_SLOTS, err) : -1;
}

struct calling {
	const struct cluster_file *file;
	int (*call)(void *ctx, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err);
	void *ctx;
};

static int call_slot(void *ctx, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err)
{
	const struct calling *calling = ctx;

	return calling->call(calling->ctx, slot_in(calling->file, slot), header, err);
}

int clusters_each_slot(struct clusters *c, int (*call)(void *ctx, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err),
		       void *ctx, struct err *err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < c->files.nr; i++) {
		struct calling calling = { c->files.items[i], call, ctx };

		rc = cluster_file_each_slot(c->files.items[i], call_slot, &calling, err);
	}
	return rc;
}
