/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/finder_filter.h"

#include <fcntl.h>
#include <string.h>

#include "scanner/base/bytes.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/index/checksum.h"

/* A block has eight lanes of 32 bits; a key sets one bit in each lane of one block.  Which block, its last 64 bits
 * say, in their order, so that the keys of a table, most of which are no longer, fill the blocks from the first to the last.  Of
 * keys that are not there 1 % pass at 10 bits a key, 20 % at 4. */

#define BITS 10
#define BITS_MIN 4
#define LANES 8
#define MAGIC "ddsfilt\n"

struct block {
	le32 lanes[LANES];
};

struct filter_disk {
	uint8_t magic[8];
	le64 nr_blocks;
	le32 checksum; /* of the blocks; the seed is nr_blocks */
	le32 zero;
};
_Static_assert(sizeof(struct filter_disk) == 24, "layout");

struct filter {
	uint64_t nr_blocks;
	struct block *blocks;
};

static struct filter *new_of(uint64_t nr_blocks)
{
	struct filter *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->nr_blocks = nr_blocks;
	f->blocks = calloc(nr_blocks, sizeof(*f->blocks));
	if (f->blocks)
		return f;
	free(f);
	return NULL;
}

struct filter *filter_new(uint64_t nr_keys, uint64_t room)
{
	uint64_t bytes = min_u64(nr_keys > UINT64_MAX / BITS ? UINT64_MAX : div_up(nr_keys * BITS, 8), room);

	if (bytes < nr_keys / 8 * BITS_MIN || room < sizeof(struct block))
		return NULL;
	return new_of(max_u64(bytes / sizeof(struct block), 1));
}

static inline struct block *block_of(const struct filter *f, struct key key)
{
	__extension__ typedef unsigned __int128 u128;

	return &f->blocks[(uint64_t)((u128)(key.hi << 40 | key.lo >> 24) * f->nr_blocks >> 64)];
}

static inline uint32_t lane_bit(struct key key, unsigned lane)
{
	static const uint32_t odd[LANES] = { 0x47b6137b, 0x44974d91, 0x8824ad5b, 0xa2b7289d,
					     0x705495c7, 0x2df1424b, 0x9efc4947, 0x5c6bfb31 };

	return (uint32_t)1 << ((uint32_t)(key.lo >> 32) * odd[lane] >> 27);
}

void filter_add(struct filter *f, struct key key)
{
	struct block *b = block_of(f, key);

	for (unsigned i = 0; i < LANES; i++)
		b->lanes[i] = le32_from(le32_get(b->lanes[i]) | lane_bit(key, i));
}

bool filter_has(const struct filter *f, struct key key)
{
	const struct block *b = block_of(f, key);
	uint32_t missing = 0;

	for (unsigned i = 0; i < LANES; i++)
		missing |= ~le32_get(b->lanes[i]) & lane_bit(key, i);
	return !missing;
}

uint64_t filter_bytes(const struct filter *f)
{
	return f ? f->nr_blocks * sizeof(struct block) : 0;
}

void filter_free(struct filter *f)
{
	if (!f)
		return;
	free(f->blocks);
	free(f);
}

int filter_write(const struct filter *f, int dirfd, const char *name, struct err *err)
{
	struct filter_disk d = { .nr_blocks = le64_from(f->nr_blocks) };
	int fd = file_open(dirfd, name, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600, err), rc;

	if (fd < 0)
		return -1;
	memcpy(d.magic, MAGIC, sizeof(d.magic));
	d.checksum = le32_from(checksum32(f->blocks, filter_bytes(f), f->nr_blocks));
	rc = file_write(fd, &d, sizeof(d), 0, err);
	if (rc == 0)
		rc = file_write(fd, f->blocks, filter_bytes(f), sizeof(d), err);
	if (rc == 0)
		rc = file_sync(fd, name, err);
	return file_close(fd, name, rc == 0 ? err : NULL) < 0 || rc < 0 ? err_add(err, "'%s'", name) : 0;
}

static struct filter *load_from(int fd, uint64_t room)
{
	CLEANUP(filter_free) struct filter *f = NULL;
	struct filter_disk d;
	struct stat st;
	uint64_t nr;

	if (file_ops->fstat(fd, &st) < 0 || file_read(fd, &d, sizeof(d), 0, NULL) < 0)
		return NULL;
	nr = le64_get(d.nr_blocks);
	if (memcmp(d.magic, MAGIC, sizeof(d.magic)) != 0 || !nr || nr > room / sizeof(struct block) || le32_get(d.zero) ||
	    nr * sizeof(struct block) + sizeof(d) != (uint64_t)st.st_size)
		return NULL;
	f = new_of(nr);
	if (!f || file_read(fd, f->blocks, filter_bytes(f), sizeof(d), NULL) < 0 ||
	    le32_get(d.checksum) != checksum32(f->blocks, filter_bytes(f), nr))
		return NULL;
	return STEAL(f);
}

struct filter *filter_load(int dirfd, const char *name, uint64_t room)
{
	int fd = file_open(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, NULL);
	struct filter *f = fd < 0 ? NULL : load_from(fd, room);

	if (fd >= 0)
		file_ops->close(fd);
	return f;
}
