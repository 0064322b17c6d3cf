/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/pool/cluster_file.h"
#include "compactor/pool/pool.h"
#include "scanner/base/crc32c.h"

/* The beginning of a cluster file, as it is and with a right checksum; and the id in it, as text. */

static void must(int what)
{
	if (!what)
		abort();
}

static void try_text(const uint8_t id[POOL_ID_SIZE])
{
	uint8_t back[POOL_ID_SIZE];
	char text[POOL_ID_TEXT_ROOM], name[POOL_FILE_NAME_ROOM];

	must(pool_id_parse(pool_id_text(id, text), back) && memcmp(id, back, sizeof(back)) == 0);
	must(strlen(pool_id_file_name(id, name)) == POOL_FILE_NAME_ROOM - 1);
}

static void try_bytes(const uint8_t *p)
{
	const struct pool_superblock_disk *d = (const void *)p;
	struct cluster_file_id read, written;
	struct err err = ERR_INIT;
	int reads = superblock_decode(p, false, &read, &err), writes = superblock_decode(p, true, &written, NULL);

	must(reads == 0 || err.kind == ERR_FORMAT || err.kind == ERR_UNSUPPORTED);
	must(writes < 0 || reads == 0); /* who may write may read */
	if (reads < 0)
		return;
	must((writes == 0) == (le32_get(d->read_only) == 0));
	must(le64_get(d->data_begin) == POOL_DATA_BEGIN && le64_get(d->slot_size) == POOL_SLOT_SIZE);
	must(read.number < POOL_NR_FILES && (read.number == 0) == (le32_get(d->version) == POOL_VERSION_FIRST));
	must((memcmp(read.pool, read.uuid, POOL_ID_SIZE) == 0) || read.number);
	try_text(read.uuid);
	try_text(read.pool);
}

/* The same bytes twice, and beside a good one: the first that is good counts. */
static void try_two(const uint8_t *p)
{
	struct pool_superblock_disk plain = {
		.magic = POOL_MAGIC, .version = le32_from(1), .uuid = { 1 }, .slot_size = le64_from(POOL_SLOT_SIZE),
		.nr_slots = le64_from(POOL_NR_SLOTS), .data_begin = le64_from(POOL_DATA_BEGIN),
	};
	uint8_t good[POOL_SUPERBLOCK_ROOM] = { 0 };
	struct err why = ERR_INIT;
	struct cluster_file_id id, chosen;
	int rc = superblock_decode(p, true, &id, &why);

	plain.crc = le32_from(crc32c(0, &plain, offsetof(struct pool_superblock_disk, crc)));
	memcpy(good, &plain, sizeof(plain));
	for (int with = 0; with < 3; with++) {
		const uint8_t *const two[] = { with == 1 ? good : p, with == 2 ? good : p };
		struct err whys[2] = { ERR_INIT, ERR_INIT };
		int is = superblock_choose(two, true, &chosen, whys, NULL);

		if (why.kind == ERR_UNSUPPORTED)
			must(is == -1);
		else if (rc < 0)
			must(is == (with == 0 ? -1 : with - 1));
		else
			must(is == 0 && memcmp(&chosen.uuid, with == 1 ? plain.uuid : id.uuid, POOL_ID_SIZE) == 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const size_t first = sizeof(struct pool_superblock_disk), further_crc = first + offsetof(struct pool_further_disk, crc);
	uint8_t *p = calloc(1, POOL_SUPERBLOCK_ROOM), id[POOL_ID_SIZE];
	char *text = malloc(size + 1);

	must(p && text);
	memcpy(p, data, size < POOL_SUPERBLOCK_ROOM ? size : POOL_SUPERBLOCK_ROOM);
	try_bytes(p);
	try_two(p);
	le32_store(p + offsetof(struct pool_superblock_disk, crc), crc32c(0, p, offsetof(struct pool_superblock_disk, crc)));
	try_bytes(p);
	try_two(p);
	le32_store(p + further_crc, crc32c(0, p, further_crc));
	try_bytes(p);
	try_two(p);
	memcpy(text, data, size);
	text[size] = 0;
	if (pool_id_parse(text, id))
		try_text(id);
	free(text);
	free(p);
	return 0;
}
