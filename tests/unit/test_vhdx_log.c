/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/vhdx_help.h"

/* VHDX images that were not closed: the log is replayed in memory.  Logs are made here entry by entry; that they are
 * read as QEMU writes and repairs them is for tests/interop/vhdx_random.py. */

#define LOG_SECTORS (MIB / VHDX_LOG_SECTOR)
#define ENTRY_FIELD(field) offsetof(struct vhdx_log_entry_disk, field)

static const struct vhdx_guid now = { { 1, 2, 3 } }, before = { { 4, 5, 6 } };

struct update {
	uint64_t offset;
	uint64_t zeros;	     /* so many zeros ... */
	const uint8_t *data; /* ... or this sector */
};

struct entry {
	uint64_t sequence;
	uint32_t tail; /* sector */
	struct vhdx_guid log;
	uint64_t flushed, last;
	uint32_t padding; /* sectors */
};

/* The bytes of an entry; *ret_len of them. */
static uint8_t *make_entry(const struct entry *e, const struct update *updates, uint32_t nr, size_t *ret_len)
{
	size_t first = round_up(64 + 32 * (uint64_t)nr, VHDX_LOG_SECTOR), len = first;
	uint8_t *p = calloc(nr + 10 + first / VHDX_LOG_SECTOR + e->padding, VHDX_LOG_SECTOR);
	struct vhdx_log_entry_disk *h = (void *)p;
	struct vhdx_log_descriptor_disk *d = (void *)(h + 1);

	for (uint32_t i = 0; i < nr; i++, d++) {
		struct vhdx_log_data_disk *data = (void *)(p + len);

		d->file_offset = le64_from(updates[i].offset);
		d->sequence = le64_from(e->sequence);
		memcpy(d->signature, updates[i].data ? "desc" : "zero", 4);
		if (!updates[i].data) {
			d->zero_length = le64_from(updates[i].zeros);
			continue;
		}
		memcpy(d->leading, updates[i].data, 8);
		memcpy(d->trailing, updates[i].data + 4092, 4);
		memcpy(data->signature, "data", 4);
		memcpy(data->data, updates[i].data + 8, 4084);
		data->sequence_high = le32_from((uint32_t)(e->sequence >> 32));
		data->sequence_low = le32_from((uint32_t)e->sequence);
		len += VHDX_LOG_SECTOR;
	}
	len += e->padding * VHDX_LOG_SECTOR;
	memcpy(h->signature, "loge", 4);
	h->length = le32_from((uint32_t)len);
	h->tail = le32_from(e->tail * VHDX_LOG_SECTOR);
	h->sequence = le64_from(e->sequence);
	h->nr_descriptors = le32_from(nr);
	h->log = e->log;
	h->flushed_file_offset = le64_from(e->flushed);
	h->last_file_offset = le64_from(e->last);
	sum_up(p, len);
	*ret_len = len;
	return p;
}

static void put_around(struct disk *d, const uint8_t *p, size_t len)
{
	for (; len; p++, len--, d->log_at = (d->log_at + 1) % MIB)
		d->p[LOG_AT + d->log_at] = *p;
}

static void put_entry(struct disk *d, const struct entry *e, const struct update *updates, uint32_t nr)
{
	size_t len;
	uint8_t *p = make_entry(e, updates, nr, &len);

	put_around(d, p, len);
	free(p);
}

static struct entry numbered(uint64_t sequence, uint32_t tail)
{
	return (struct entry){ .sequence = sequence, .tail = tail, .log = now, .last = NR_MIB * MIB };
}

/* One entry that makes the n-th block of the disk the n-th MiB of the file. */
static void log_block(struct disk *d, uint64_t sequence, uint32_t tail, unsigned block, unsigned mib)
{
	uint8_t sector[VHDX_LOG_SECTOR] = { 0 };
	struct update u = { .offset = BAT_AT, .data = sector };
	struct entry e = numbered(sequence, tail);

	le64_store(sector + 8 * block, in_mib(mib));
	put_entry(d, &e, &u, 1);
}

static struct disk dirty_disk(void)
{
	struct disk d = disk_new();

	memcpy(d.p + VHDX_HEADER_2 + offsetof(struct vhdx_header_disk, log), &now, sizeof(now));
	return d;
}

static void expect_bytes(struct disk d, uint64_t at, size_t len, uint8_t byte)
{
	struct image *img = opened(d);

	expect_guest_bytes(img, at, len, byte);
	image_close(img);
}

static void expect_one_entry(struct disk d)
{
	struct image *img = opened(d);

	expect_guest_bytes(img, 0, MIB, 6);
	assert_string_equal(img->info.features, "log replayed in memory (1 entry)");
	image_close(img);
}

/* ---- what is replayed ---- */

static void the_log_counts_before_the_file(void **state)
{
	struct disk d = with_bat(dirty_disk(), 0, in_mib(6));
	struct image *img;
	uint8_t p[8];
	int fd;

	(void)state;
	log_block(&d, 1, 0, 0, 7);
	fd = disk_file(&d);
	img = must_open(fd, "vhdx", NULL);
	expect_guest_bytes(img, 0, MIB, 7);
	assert_true(img->info.dirty);
	assert_string_equal(img->info.features, "log replayed in memory (1 entry)");
	assert_int_equal(pread(fd, p, 8, BAT_AT), 8);
	assert_int_equal(le64_load(p), in_mib(6)); /* the file stays as it is */
	image_close(img);
}

static void a_log_without_a_guid_is_not_replayed(void **state)
{
	struct disk d = with_bat(disk_new(), 0, in_mib(6));
	struct image *img;

	(void)state;
	log_block(&d, 1, 0, 0, 7);
	img = opened(d);
	expect_guest_bytes(img, 0, MIB, 6);
	assert_false(img->info.dirty);
	image_close(img);
}

static void later_entries_hide_earlier_ones(void **state)
{
	struct disk d = dirty_disk();
	struct image *img;

	(void)state;
	log_block(&d, 5, 0, 0, 6);
	log_block(&d, 6, 0, 0, 7);
	log_block(&d, 7, 0, 0, 8);
	img = opened(d);
	expect_guest_bytes(img, 0, MIB, 8);
	assert_string_equal(img->info.features, "log replayed in memory (3 entries)");
	image_close(img);
}

static void all_that_is_read_passes_through_the_log(void **state)
{
	static const struct {
		uint64_t at;
	} sectors[] = { { VHDX_REGIONS_1 }, { METADATA_AT }, { METADATA_AT + ITEM_AT(VHDX_DISK_SIZE) }, { BAT_AT } };
	struct disk d = with_bat(dirty_disk(), 3, in_mib(9));
	uint8_t held[4][VHDX_LOG_SECTOR];
	struct update updates[4];
	struct entry e = numbered(9, 0);

	(void)state;
	sum_up(d.p + VHDX_REGIONS_1, VHDX_TABLE_SIZE);
	for (unsigned i = 0; i < 4; i++) {
		memcpy(held[i], d.p + sectors[i].at, VHDX_LOG_SECTOR);
		updates[i] = (struct update){ .offset = sectors[i].at, .data = held[i] };
		memset(d.p + sectors[i].at, 0x55, VHDX_LOG_SECTOR);
	}
	memset(d.p + VHDX_REGIONS_2, 0, 16);
	put_entry(&d, &e, updates, 4);
	d.unsummed = true;
	sum_up(d.p + VHDX_HEADER_2, VHDX_HEADER_SIZE);
	expect_bytes(d, 3 * MIB, MIB, 9);
}

static void zeros_are_written_too(void **state)
{
	struct update zeros = { .offset = BAT_AT, .zeros = 8 * KIB };
	struct entry e = numbered(2, 0);
	struct disk d = dirty_disk();
	struct image *img;

	(void)state;
	log_block(&d, 1, 0, 0, 6);
	put_entry(&d, &e, &zeros, 1);
	set_bat(&d, 0, in_mib(7));
	img = opened(d);
	expect_extent(img, 0, 8 * MIB, EXTENT_HOLE);
	image_close(img);
}

/* Zeros over three sectors, data into the middle one, before and after. */
static void data_and_zeros_cut_each_other(void **state)
{
	uint8_t a[VHDX_LOG_SECTOR] = { 0 }, b[VHDX_LOG_SECTOR] = { 0 };
	struct update updates[] = { { .offset = BAT_AT, .data = a },
				    { .offset = BAT_AT, .zeros = 12 * KIB },
				    { .offset = BAT_AT + 4096, .data = b },
				    { .offset = BAT_AT + 8192, .zeros = 0 },
				    { .offset = BAT_AT + 8192, .zeros = 4096 },
				    { .offset = BAT_AT + 16384, .zeros = 4096 } };
	struct disk d = with64(dirty_disk(), METADATA_AT + ITEM_AT(VHDX_DISK_SIZE), 2000 * MIB);
	struct entry e = numbered(1, 0);
	struct image *img;

	(void)state;
	le64_store(a, in_mib(6));
	le64_store(b + 8, in_mib(7));
	set_bat(&d, 2, in_mib(8));
	set_bat(&d, 1030, in_mib(8));
	set_bat(&d, 1536, in_mib(9));
	put_entry(&d, &e, updates, 6);
	img = opened(d);
	expect_extent(img, 0, 513 * MIB, EXTENT_HOLE);
	expect_guest_bytes(img, 513 * MIB, MIB, 7);
	expect_extent(img, 514 * MIB, GIB - 2 * MIB, EXTENT_HOLE);
	expect_guest_bytes(img, 1536 * MIB, MIB, 9);
	image_close(img);
}

static void every_byte_of_a_sector_comes_back(void **state)
{
	uint8_t sector[VHDX_LOG_SECTOR], got[VHDX_LOG_SECTOR];
	struct update u = { .offset = 6 * MIB + 4096, .data = sector };
	struct disk d = with_bat(dirty_disk(), 0, in_mib(6));
	struct entry e = numbered(1ull << 40 | 3, 0);
	struct err err = ERR_INIT;
	struct image *img;
	struct extent ext;

	(void)state;
	for (unsigned i = 0; i < sizeof(sector); i++)
		sector[i] = (uint8_t)(i * 7 + i / 256);
	put_entry(&d, &e, &u, 1);
	img = opened(d);
	expect_extent(img, 0, 4096, EXTENT_DATA);
	expect_extent(img, 4096, 4096, EXTENT_PACKED);
	expect_extent(img, 8192, MIB - 8192, EXTENT_DATA);
	assert_int_equal(image_read_guest(img, 4096, got, sizeof(got), &err), 0);
	assert_memory_equal(got, sector, sizeof(got));
	assert_int_equal(image_next_extent(img, 4096, &ext, &err), 0);
	assert_int_equal(image_read_extent(&ext, 4096 + 4090, got, 6, &err), 0);
	assert_memory_equal(got, sector + 4090, 6);
	expect_guest_bytes(img, 4000, 96, 6);
	expect_guest_bytes(img, 8192, 100, 6);
	image_close(img);
}

static void payload_that_the_log_writes_is_joined(void **state)
{
	uint8_t a[VHDX_LOG_SECTOR], b[VHDX_LOG_SECTOR];
	struct update updates[] = { { .offset = 7 * MIB - 4096, .data = a },
				    { .offset = 5 * MIB, .data = b },
				    { .offset = 5 * MIB + 64 * KIB, .zeros = 8192 } };
	struct disk d = with_bat(dirty_disk(), 0, in_mib(6));
	struct entry e = numbered(1, 0);
	struct image *img;

	(void)state;
	memset(a, 0xaa, sizeof(a));
	memset(b, 0xbb, sizeof(b));
	set_bat(&d, 1, in_mib(5)); /* behind it on the disk, before it in the file */
	put_entry(&d, &e, updates, 3);
	img = opened(d);
	expect_extent(img, 0, MIB - 4096, EXTENT_DATA);
	expect_extent(img, MIB - 4096, 8192, EXTENT_PACKED);
	expect_extent(img, MIB + 4096, 60 * KIB, EXTENT_DATA);
	expect_extent(img, MIB + 64 * KIB, 8192, EXTENT_ZERO);
	expect_guest_bytes(img, MIB - 4096, 4096, 0xaa);
	expect_guest_bytes(img, MIB, 4096, 0xbb);
	image_close(img);
}

static void what_lies_before_an_update_is_the_files(void **state)
{
	uint8_t sector[VHDX_LOG_SECTOR] = { 0 };
	struct update u = { .offset = BAT_AT + 8192, .data = sector };
	struct disk d = with64(dirty_disk(), METADATA_AT + ITEM_AT(VHDX_DISK_SIZE), 2000 * MIB);
	struct entry e = numbered(1, 0);
	struct image *img;

	(void)state;
	le64_store(sector, in_mib(7));
	set_bat(&d, 3, in_mib(6));
	put_entry(&d, &e, &u, 1);
	img = opened(d);
	expect_guest_bytes(img, 3 * MIB, MIB, 6);
	expect_guest_bytes(img, 1024 * MIB, MIB, 7);
	image_close(img);
}

static void an_entry_may_have_more_descriptors_than_a_sector(void **state)
{
	uint8_t sector[VHDX_LOG_SECTOR] = { 0 };
	static struct update updates[126 + 128 + 1];
	struct entry e = numbered(77, 3);

	(void)state;
	le64_store(sector, in_mib(6));
	for (uint32_t nr = 124; nr <= ARRAY_SIZE(updates); nr++) {
		struct disk d = dirty_disk();

		if (nr == 129)
			nr = 252;
		for (uint32_t i = 0; i < nr; i++)
			updates[i] = (struct update){ .offset = BAT_AT + 64 * KIB + i * 8192, .zeros = 4096 };
		updates[nr - 1] = (struct update){ .offset = BAT_AT, .data = sector };
		d.log_at = 3 * VHDX_LOG_SECTOR;
		put_entry(&d, &e, updates, nr);
		expect_bytes(d, 0, MIB, 6);
	}
}

static void an_entry_may_be_longer_than_it_needs_to_be(void **state)
{
	uint8_t sector[VHDX_LOG_SECTOR] = { 0 };
	struct update u = { .offset = BAT_AT, .data = sector };
	struct disk d = dirty_disk();
	struct entry e = numbered(1, 0);

	(void)state;
	le64_store(sector, in_mib(6));
	e.padding = 2;
	put_entry(&d, &e, &u, 1);
	log_block(&d, 2, 0, 1, 7);
	expect_bytes(d, MIB, MIB, 7);
}

/* ---- which entries ---- */

static void the_log_is_a_ring(void **state)
{
	(void)state;
	for (unsigned start = LOG_SECTORS - 5; start < LOG_SECTORS; start++) {
		struct disk d = dirty_disk();
		struct image *img;

		d.log_at = start * VHDX_LOG_SECTOR;
		log_block(&d, 1, start, 0, 6);
		log_block(&d, 2, start, 0, 7);
		log_block(&d, 3, start, 0, 8);
		img = opened(d);
		expect_guest_bytes(img, 0, MIB, 8);
		assert_string_equal(img->info.features, "log replayed in memory (3 entries)");
		image_close(img);
	}
}

static void replay_begins_with_the_tail(void **state)
{
	uint8_t sector[VHDX_LOG_SECTOR];
	struct update u = { .offset = 6 * MIB, .data = sector };
	struct entry e = numbered(1, 0);
	struct disk d = dirty_disk();
	struct image *img;

	(void)state;
	memset(sector, 0xee, sizeof(sector));
	put_entry(&d, &e, &u, 1); /* written to its place long ago, and then that was given to a block */
	log_block(&d, 2, 2, 0, 6);
	log_block(&d, 3, 2, 0, 6);
	img = opened(d);
	expect_guest_bytes(img, 0, MIB, 6);
	assert_string_equal(img->info.features, "log replayed in memory (2 entries)");
	image_close(img);
}

static void the_newest_sequence_counts(void **state)
{
	struct disk d = dirty_disk();

	(void)state;
	log_block(&d, 10, 0, 0, 6);
	log_block(&d, 11, 0, 0, 6);
	d.log_at = 64 * KIB;
	log_block(&d, 20, 16, 0, 7);
	d.log_at = 128 * KIB;
	log_block(&d, 12, 32, 0, 8);
	expect_bytes(d, 0, MIB, 7);
}

static void numbers_must_grow_by_one(void **state)
{
	struct disk d = dirty_disk();

	(void)state;
	log_block(&d, 10, 0, 0, 6);
	log_block(&d, 12, 2, 1, 7);
	log_block(&d, 11, 4, 2, 8);
	expect_bytes(d, MIB, MIB, 7);
	d = dirty_disk();
	log_block(&d, UINT64_MAX, 0, 0, 6);
	log_block(&d, 1, 2, 0, 7);
	expect_bytes(d, 0, MIB, 6);
}

static void a_head_whose_tail_is_not_in_its_chain_does_not_count(void **state)
{
	struct disk d = dirty_disk();

	(void)state;
	log_block(&d, 10, 0, 0, 6);
	d.log_at = 64 * KIB;
	log_block(&d, 20, 0, 0, 7); /* the tail was overwritten by another sequence */
	expect_bytes(d, 0, MIB, 6);
	d = dirty_disk();
	log_block(&d, 10, 0, 0, 6);
	d.log_at = 64 * KIB;
	log_block(&d, 20, 100, 0, 7); /* nothing there */
	expect_bytes(d, 0, MIB, 6);
	d = dirty_disk();
	log_block(&d, 10, 0, 0, 6);
	d.log_at = 64 * KIB;
	log_block(&d, 20, 32, 0, 7);
	d.log_at = 128 * KIB;
	log_block(&d, 5, 32, 0, 8); /* a sequence of its own */
	expect_bytes(d, 0, MIB, 6);
}

/* Flips one bit somewhere in the newest of two entries. */
static void torn_entries_do_not_count(void **state)
{
	static const size_t places[] = { 0,  4,	 8,  12,  16,	24,   32,   48,	  56,	64,  68,
					 72, 80, 88, 200, 4096, 4100, 4104, 5000, 8188, 8191 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		struct disk d = dirty_disk();

		log_block(&d, 1, 0, 0, 6);
		log_block(&d, 2, 0, 1, 7);
		d.p[LOG_AT + 2 * VHDX_LOG_SECTOR + places[i]] ^= 1;
		expect_one_entry(d);
	}
}

/* The same with checksums that are right. */
static void entries_that_make_no_sense_do_not_count(void **state)
{
	static const struct {
		size_t at;
		uint32_t v;
	} changes[] = { { ENTRY_FIELD(length), 4096 },
			{ ENTRY_FIELD(length), 0 },
			{ ENTRY_FIELD(length), 8192 + 512 },
			{ ENTRY_FIELD(length), 2 * MIB },
			{ ENTRY_FIELD(tail), 512 },
			{ ENTRY_FIELD(tail), MIB },
			{ ENTRY_FIELD(sequence), 0 },
			{ ENTRY_FIELD(nr_descriptors), 2 },
			{ ENTRY_FIELD(nr_descriptors), 400 },
			{ ENTRY_FIELD(nr_descriptors), UINT32_MAX },
			{ ENTRY_FIELD(log), 9 },
			{ 64, 0x65736564 },
			{ 64 + 16, 512 },
			{ 64 + 20, UINT32_MAX },
			{ 64 + 24, 9 },
			{ 64 + 28, 9 },
			{ 4096, 0x61746163 },
			{ 4096 + 4, 9 },
			{ 8188, 9 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		struct disk d = dirty_disk();
		uint8_t *p = d.p + LOG_AT + 2 * VHDX_LOG_SECTOR;
		size_t len;

		log_block(&d, 1, 0, 0, 6);
		log_block(&d, 2, 0, 1, 7);
		le32_store(p + changes[i].at, changes[i].v);
		len = le32_load(p + 8);
		sum_up(p, len && len % VHDX_LOG_SECTOR == 0 && len <= MIB / 2 ? len : 8192);
		expect_one_entry(d);
	}
}

/* All of its first sector is descriptors, and it counts more of them. */
static void an_entry_shorter_than_its_descriptors_does_not_count(void **state)
{
	struct update updates[126];
	struct entry e = numbered(2, 0);
	struct disk d = dirty_disk();

	(void)state;
	for (unsigned i = 0; i < 126; i++)
		updates[i] = (struct update){ .offset = BAT_AT + 64 * KIB, .zeros = 4096 };
	log_block(&d, 1, 0, 0, 6);
	put_entry(&d, &e, updates, 126);
	put32(&d, LOG_AT + 2 * VHDX_LOG_SECTOR + ENTRY_FIELD(nr_descriptors), 127);
	sum_up(d.p + LOG_AT + 2 * VHDX_LOG_SECTOR, VHDX_LOG_SECTOR);
	expect_one_entry(d);
}

static void zeros_of_a_strange_length_do_not_count(void **state)
{
	static const uint64_t lengths[] = { 512, UINT64_MAX - 4095, INT64_MAX - 4095 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		struct update u = { .offset = BAT_AT, .zeros = lengths[i] };
		struct entry e = numbered(2, 0);
		struct disk d = dirty_disk();

		log_block(&d, 1, 0, 0, 6);
		put_entry(&d, &e, &u, 1);
		expect_bytes(d, 0, MIB, 6);
	}
}

static void entries_of_another_log_do_not_count(void **state)
{
	struct update u = { .offset = BAT_AT, .zeros = 4096 };
	struct entry e = numbered(2, 0);
	struct disk d = dirty_disk();

	(void)state;
	log_block(&d, 1, 0, 0, 6);
	e.log = before;
	put_entry(&d, &e, &u, 1);
	expect_bytes(d, 0, MIB, 6);
}

static void a_log_without_a_valid_sequence_is_refused(void **state)
{
	static const char text[] = "the log must be replayed, but has no valid sequence of entries; let Hyper-V or "
				   "'qemu-img check -r all' repair the image first";
	struct entry e = numbered(1, 0);
	struct disk d = dirty_disk();

	(void)state;
	expect_refused(d, text);
	d = dirty_disk();
	e.sequence = 0;
	put_entry(&d, &e, NULL, 0);
	expect_refused(d, text);
	d = dirty_disk();
	log_block(&d, 2, 7, 0, 6);
	expect_refused(d, text);
	d = with32(dirty_disk(), VHDX_HEADER_2 + offsetof(struct vhdx_header_disk, log_length), 0);
	expect_refused(d, text);
}

static void a_log_past_the_end_of_the_file_is_refused(void **state)
{
	struct disk d = dirty_disk();

	(void)state;
	put32(&d, VHDX_HEADER_2 + offsetof(struct vhdx_header_disk, log_length), 4095 * MIB);
	expect_refused(d, "the log ends past the end of the file");
	d = dirty_disk();
	put64(&d, VHDX_HEADER_2 + offsetof(struct vhdx_header_disk, log_offset), (1ull << 62) - MIB);
	expect_refused(d, "the log ends past the end of the file");
}

/* ---- the size of the file ---- */

static void a_file_that_was_cut_is_refused(void **state)
{
	struct entry e = numbered(1, 0);
	struct disk d = dirty_disk();

	(void)state;
	e.flushed = NR_MIB * MIB;
	put_entry(&d, &e, NULL, 0);
	image_close(opened(d));
	d = dirty_disk();
	e.flushed = NR_MIB * MIB + 1;
	put_entry(&d, &e, NULL, 0);
	expect_refused(d, "the file was cut: it has 12582912 bytes, of 12582913 that its log tells of");
}

static void what_the_log_makes_the_file_longer_by_is_zeros(void **state)
{
	struct disk d = dirty_disk();
	struct image *img;

	(void)state;
	log_block(&d, 1, 0, 1, 11);
	d.len = 11 * MIB + 64 * KIB + 7;
	img = opened(d);
	expect_extent(img, 0, MIB, EXTENT_HOLE);
	expect_extent(img, MIB, 64 * KIB + 7, EXTENT_DATA);
	expect_extent(img, MIB + 64 * KIB + 7, MIB - 64 * KIB - 7, EXTENT_ZERO);
	expect_guest_bytes(img, MIB, 64 * KIB + 7, 11);
	expect_guest_bytes(img, MIB + 64 * KIB + 7, 100, 0);
	image_close(img);
}

static void tables_may_lie_in_what_the_log_makes_the_file_longer_by(void **state)
{
	struct entry e = numbered(1, 0);
	struct disk d = dirty_disk();
	struct image *img;

	(void)state;
	put_region(&d, 1, &vhdx_guid_bat, 12 * MIB, MIB, VHDX_REQUIRED);
	e.last = 13 * MIB;
	put_entry(&d, &e, NULL, 0);
	img = opened(d);
	expect_extent(img, 0, 8 * MIB, EXTENT_HOLE);
	image_close(img);
}

static void only_the_head_tells_how_long_the_file_is_to_be(void **state)
{
	struct entry first = numbered(1, 0), second = numbered(2, 0);
	struct update u = { .offset = 12 * MIB, .zeros = MIB };
	struct disk d = with_bat(dirty_disk(), 0, in_mib(13));

	(void)state;
	first.last = 14 * MIB;
	put_entry(&d, &first, NULL, 0);
	put_entry(&d, &second, NULL, 0);
	expect_broken_at(d, 0, "block 0: it lies at offset 13631488, past the end of the file");
	d = with_bat(dirty_disk(), 0, in_mib(12));
	first.last = 0;
	put_entry(&d, &first, &u, 1); /* or what it writes */
	expect_bytes(d, 0, MIB, 0);
}

/* ---- bounds ---- */

/* Each sector begins an entry that reaches to the end of the log. */
static void entries_upon_each_other_are_not_summed_for_ever(void **state)
{
	struct disk d = dirty_disk();
	uint64_t length = 8 * MIB, at = 16 * MIB;
	uint8_t *log = calloc(1, length);
	int fd;

	(void)state;
	for (uint64_t i = length - VHDX_LOG_SECTOR;; i -= VHDX_LOG_SECTOR) {
		struct vhdx_log_entry_disk *h = (void *)(log + i);

		memcpy(h->signature, "loge", 4);
		h->length = le32_from((uint32_t)(length - i));
		h->sequence = le64_from(1);
		h->log = now;
		if (length - i <= 64 * KIB)
			sum_up(log + i, length - i);
		if (i == 0)
			break;
	}
	put32(&d, VHDX_HEADER_2 + offsetof(struct vhdx_header_disk, log_length), (uint32_t)length);
	put64(&d, VHDX_HEADER_2 + offsetof(struct vhdx_header_disk, log_offset), at);
	fd = disk_file(&d);
	assert_int_equal(pwrite(fd, log, length, (off_t)at), length);
	free(log);
	{
		struct err err = ERR_INIT;

		assert_null(image_open(fd, "t.vhdx", image_format_by_name("vhdx"), NULL, NULL, &err));
		expect_error(&err, ERR_FORMAT, "the log's entries lie upon each other");
	}
}

static void too_many_updates_are_not_held(void **state)
{
	uint32_t nr = 262144;
	struct update *updates = calloc(nr + 1, sizeof(*updates));
	uint64_t length = 16 * MIB, at = 16 * MIB;

	(void)state;
	for (uint32_t i = 0; i <= nr; i++)
		updates[i] =
			(struct update){ .offset = 5 * MIB + (uint64_t)i % 1000 * 4096, .zeros = 4096 * (i % 7 + 1) };
	for (unsigned more = 0; more < 2; more++) {
		struct disk d = with_bat(dirty_disk(), 0, in_mib(6));
		struct entry e = numbered(1, 0);
		struct err err = ERR_INIT;
		struct image *img;
		uint8_t *p;
		size_t len;
		int fd;

		p = make_entry(&e, updates, nr + more, &len);
		put32(&d, VHDX_HEADER_2 + offsetof(struct vhdx_header_disk, log_length), (uint32_t)length);
		put64(&d, VHDX_HEADER_2 + offsetof(struct vhdx_header_disk, log_offset), at);
		fd = disk_file(&d);
		assert_int_equal(pwrite(fd, p, len, (off_t)at), len);
		assert_int_equal(ftruncate(fd, (off_t)(at + length)), 0);
		free(p);
		img = image_open(fd, "t.vhdx", image_format_by_name("vhdx"), NULL, NULL, &err);
		if (more) {
			assert_null(img);
			expect_error(&err, ERR_UNSUPPORTED, "the log has more than 262144 updates to replay");
		} else {
			assert_non_null(img);
			expect_extent(img, 0, MIB, EXTENT_ZERO);
		}
		image_close(img);
	}
	free(updates);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_log_counts_before_the_file),
		cmocka_unit_test(a_log_without_a_guid_is_not_replayed),
		cmocka_unit_test(later_entries_hide_earlier_ones),
		cmocka_unit_test(all_that_is_read_passes_through_the_log),
		cmocka_unit_test(zeros_are_written_too),
		cmocka_unit_test(data_and_zeros_cut_each_other),
		cmocka_unit_test(every_byte_of_a_sector_comes_back),
		cmocka_unit_test(payload_that_the_log_writes_is_joined),
		cmocka_unit_test(what_lies_before_an_update_is_the_files),
		cmocka_unit_test(an_entry_may_have_more_descriptors_than_a_sector),
		cmocka_unit_test(an_entry_may_be_longer_than_it_needs_to_be),
		cmocka_unit_test(the_log_is_a_ring),
		cmocka_unit_test(replay_begins_with_the_tail),
		cmocka_unit_test(the_newest_sequence_counts),
		cmocka_unit_test(numbers_must_grow_by_one),
		cmocka_unit_test(a_head_whose_tail_is_not_in_its_chain_does_not_count),
		cmocka_unit_test(torn_entries_do_not_count),
		cmocka_unit_test(entries_that_make_no_sense_do_not_count),
		cmocka_unit_test(an_entry_shorter_than_its_descriptors_does_not_count),
		cmocka_unit_test(zeros_of_a_strange_length_do_not_count),
		cmocka_unit_test(entries_of_another_log_do_not_count),
		cmocka_unit_test(a_log_without_a_valid_sequence_is_refused),
		cmocka_unit_test(a_log_past_the_end_of_the_file_is_refused),
		cmocka_unit_test(a_file_that_was_cut_is_refused),
		cmocka_unit_test(what_the_log_makes_the_file_longer_by_is_zeros),
		cmocka_unit_test(tables_may_lie_in_what_the_log_makes_the_file_longer_by),
		cmocka_unit_test(only_the_head_tells_how_long_the_file_is_to_be),
		cmocka_unit_test(entries_upon_each_other_are_not_summed_for_ever),
		cmocka_unit_test(too_many_updates_are_not_held),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
