/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/index/table.h"

#include <assert.h>
#include <string.h>

#include "scanner/base/varint.h"
#include "scanner/base/vec.h"
#include "scanner/index/checksum.h"
#include "scanner/index/table_format.h"

/* The widths of a page's entries are not known before the page is full.  So it is kept as numbers, and of their gaps
 * and first places the bits used so far: these tell the size.  A page is encoded when the next entry or place would not
 * fit.
 *
 * Whether another place follows is not known either when a place is added: the next one of the same key goes back and
 * sets the bit, which is why it is the lowest one. */

#define ENTRIES_MAX 4096 /* more than fit into a page */
#define WRITE_BUFFER (64 * KIB)

struct entry {
	u128 gap;
	uint64_t place;
	uint16_t more; /* bytes of further places */
	bool goes_on;  /* to another place, on this page or the next */
};

struct table_writer {
	struct file_writer file;
	uint64_t nr_pages;
	struct table_stats stats;
	VEC(struct table_directory_entry) directory;

	u128 key, base;
	uint64_t place;
	bool *goes_on;	    /* where the last place says that another follows: here, */
	uint8_t *last_more; /* or in bit 0 of this varint */

	/* the page being made */
	u128 gap_bits;				 /* the gaps' bits, or-ed */
	uint64_t place_bits;			 /* the same of first places */
	size_t nr, nr_list, nr_more, entry_size; /* entries; bytes of the list that goes on, and of it and all others */
	uint8_t more[TABLE_PAGE];
	uint8_t page[TABLE_PAGE + TABLE_OVERRUN];
	struct entry entries[ENTRIES_MAX];
};

struct table_writer *table_writer_new(int dirfd, const char *name, struct err *err)
{
	struct table_writer *w = calloc(1, sizeof(*w));

	if (!w)
		return err_null(err, ERR_MEMORY, "out of memory");
	if (file_writer_open(&w->file, dirfd, name, WRITE_BUFFER, err) < 0) {
		free(w);
		return NULL;
	}
	return w;
}

static inline uint8_t *entry_put(uint8_t *p, const struct entry *e, unsigned place_bits)
{
	uint64_t head = e->place << 1 | e->goes_on;
	unsigned shift = 1 + place_bits;

	le64_store(p, head);
	le128_store(p + shift / 8, e->gap << shift % 8 | head >> (shift & ~7u));
	return p;
}

/* Encodes the page's entries at p and returns the end. */
static uint8_t *encode_entries(const struct table_writer *w, uint8_t *p)
{
	const uint8_t *more = w->more + w->nr_list;
	unsigned place_bits = bit_length(w->place_bits);
	size_t size = w->entry_size;

	for (size_t i = 0; i < w->nr; i++) {
		const struct entry *e = &w->entries[i];

		p = entry_put(p, e, place_bits) + size;
		if (e->more) {
			memcpy(p, more, e->more);
			p += e->more;
			more += e->more;
		}
	}
	return p;
}

static int directory_add(struct table_writer *w, struct err *err)
{
	struct table_directory_entry d = {
		.hi = le64_from(number_key(w->base + w->entries[0].gap).hi),
		.page = le32_from((uint32_t)w->nr_pages),
	};

	if (w->nr_pages > UINT32_MAX)
		return err_set(err, ERR_FULL, "the table has too many pages");
	if (vec_push(&w->directory, d) < 0)
		return err_set(err, ERR_MEMORY, "out of memory");
	return 0;
}

static void page_seal(struct table_writer *w, size_t used)
{
	uint8_t base[16];
	struct table_page_header *h = (struct table_page_header *)w->page;

	*h = (struct table_page_header){
		.used = le16_from((uint16_t)used),
		.entries = le16_from((uint16_t)(sizeof(*h) + w->nr_list)),
		.gap_bits = (uint8_t)bit_length(w->gap_bits),
		.place_bits = (uint8_t)bit_length(w->place_bits),
	};
	be64_store(base, number_key(w->base).hi);
	be64_store(base + 8, number_key(w->base).lo);
	memcpy(h->base, base, KEY_BYTES);
	h->checksum = le32_from(checksum32(w->page + sizeof(le32), TABLE_PAGE - sizeof(le32), w->nr_pages));
}

/* Writes the page out.  The next one's base is the last key, for whoever is going to add to its places. */
static int page_flush(struct table_writer *w, struct err *err)
{
	uint8_t *p = w->page + sizeof(struct table_page_header);
	size_t used;

	memcpy(p, w->more, w->nr_list);
	used = (size_t)(encode_entries(w, p + w->nr_list) - w->page);
	assert(used <= TABLE_PAGE);
	memset(w->page + used, 0, sizeof(w->page) - used);
	page_seal(w, used);
	if ((w->nr && directory_add(w, err) < 0) || file_writer_append(&w->file, w->page, TABLE_PAGE, err) < 0)
		return -1;
	w->nr_pages++;
	w->base = w->key;
	w->gap_bits = w->place_bits = 0;
	w->nr = w->nr_list = w->nr_more = w->entry_size = 0;
	return 0;
}

static inline size_t page_used(const struct table_writer *w)
{
	return sizeof(struct table_page_header) + w->nr * w->entry_size + w->nr_more;
}

static void entry_push(struct table_writer *w, u128 gap, uint64_t place)
{
	struct entry *e = &w->entries[w->nr++];

	*e = (struct entry){ .gap = gap, .place = place };
	w->goes_on = &e->goes_on;
	w->last_more = NULL;
	w->gap_bits |= gap;
	w->place_bits |= place;
	w->entry_size = entry_bytes(bit_length(w->gap_bits), bit_length(w->place_bits));
}

static int add_key(struct table_writer *w, u128 key, uint64_t place, struct err *err)
{
	u128 gap = key - w->key;
	size_t size = entry_bytes(bit_length(w->gap_bits | gap), bit_length(w->place_bits | place));
	bool empty = !w->nr && !w->nr_list;

	if (!empty && sizeof(struct table_page_header) + (w->nr + 1) * size + w->nr_more > TABLE_PAGE) {
		if (page_flush(w, err) < 0)
			return -1;
		empty = true;
	}
	if (empty)
		w->base = key;
	entry_push(w, empty ? 0 : gap, place);
	w->key = key;
	w->stats.nr_keys++;
	return 0;
}

/* Tells the last place that another follows. */
static void mark_more(struct table_writer *w)
{
	if (w->last_more)
		*w->last_more |= 1;
	else
		*w->goes_on = true;
}

static int add_more(struct table_writer *w, uint64_t place, struct err *err)
{
	uint64_t v = (place - w->place) << 1;
	uint8_t *p;
	size_t len;

	mark_more(w);
	if (page_used(w) + varint_len(v) > TABLE_PAGE) {
		if (page_flush(w, err) < 0)
			return -1;
		v = place << 1;
	}
	p = w->last_more = w->more + w->nr_more;
	len = (size_t)(varint_put(p, v) - p);
	w->nr_more += len;
	if (w->nr)
		w->entries[w->nr - 1].more += (uint16_t)len;
	else
		w->nr_list += len;
	return 0;
}

int table_writer_add(struct table_writer *w, struct key key, uint64_t place, struct err *err)
{
	u128 k = key_number(key);
	int rc;

	assert(place >> TABLE_PLACE_BITS == 0 && !(key.lo & ~KEY_LO_MASK));
	if (w->stats.nr_keys && k == w->key) {
		assert(place > w->place);
		rc = add_more(w, place, err);
	} else {
		assert(!w->stats.nr_keys || k > w->key);
		rc = add_key(w, k, place, err);
	}
	w->place = place;
	w->stats.nr_places++;
	return rc;
}

static int write_directory(struct table_writer *w, struct err *err)
{
	uint64_t seed = w->nr_pages;

	for (size_t i = 0, nr; i < w->directory.nr; i += nr, seed++) {
		const struct table_directory_entry *d = w->directory.items + i;
		le32 sum;

		nr = min_u64(w->directory.nr - i, TABLE_DIRECTORY_BLOCK);
		sum = le32_from(checksum32(d, nr * sizeof(*d), seed));
		if (file_writer_append(&w->file, &sum, sizeof(sum), err) < 0 ||
		    file_writer_append(&w->file, d, nr * sizeof(*d), err) < 0)
			return -1;
	}
	return 0;
}

static int write_trailer(struct table_writer *w, struct err *err)
{
	struct table_trailer t = {
		.magic = TABLE_MAGIC,
		.version = le32_from(TABLE_VERSION),
		.page_size = le32_from(TABLE_PAGE),
		.nr_pages = le64_from(w->nr_pages),
		.nr_directory = le64_from(w->directory.nr),
		.nr_keys = le64_from(w->stats.nr_keys),
		.nr_places = le64_from(w->stats.nr_places),
	};

	t.checksum = le32_from(checksum32(&t, offsetof(struct table_trailer, checksum), TABLE_VERSION));
	return file_writer_append(&w->file, &t, sizeof(t), err);
}

static int hand_over(struct table_writer *w, struct syncer *syncer, struct err *err)
{
	char name[sizeof(w->file.name)];
	int fd;

	memcpy(name, w->file.name, sizeof(name));
	fd = file_writer_detach(&w->file, err);
	if (fd >= 0)
		syncer_add(syncer, fd, name);
	return fd < 0 ? -1 : 0;
}

int table_writer_finish(struct table_writer *w, struct syncer *syncer, struct table_stats *ret, struct err *err)
{
	int rc = 0;

	if (w->nr || w->nr_list)
		rc = page_flush(w, err);
	if (rc == 0)
		rc = write_directory(w, err);
	if (rc == 0)
		rc = write_trailer(w, err);
	w->stats.bytes = w->file.offset;
	if (rc == 0)
		rc = syncer ? hand_over(w, syncer, err) : file_writer_close(&w->file, 0, err);
	if (rc == 0 && ret)
		*ret = w->stats;
	table_writer_free(w);
	return rc;
}

void table_writer_free(struct table_writer *w)
{
	if (!w)
		return;
	file_writer_release(&w->file);
	vec_release(&w->directory);
	free(w);
}
