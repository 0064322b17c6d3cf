/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/index/table.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "scanner/base/varint.h"
#include "scanner/index/checksum.h"
#include "scanner/index/judymap.h"
#include "scanner/index/table_format.h"

/* Pages are read as many at a time as the buffer holds, and each is checked before anything in it is used; what is
 * decoded is checked again, so that a page that was written wrongly, and summed up after that, cannot lead outside the
 * buffer.
 *
 * After a failure a table stays failed: whoever goes on all the same must not take the rest for the whole. */

#define NO_PAGE UINT64_MAX

struct table {
	int fd;
	bool failed;
	char name[64];
	struct table_stats stats;
	uint64_t nr_pages, nr_directory;
	struct judymap directory; /* first key.hi -> page */
	bool have_directory;

	uint8_t *buf;
	size_t room;	      /* pages */
	uint64_t first, have; /* the pages in it */

	uint64_t page;			   /* where we are */
	const uint8_t *start;		   /* of the page, */
	const uint8_t *p, *end;		   /* what is left of it, */
	const uint8_t *entries, *list_end; /* its first entry, and how far the places of this key can reach */
	unsigned shift;			   /* within an entry, to the gap */
	size_t entry_size;
	uint64_t place_mask;
	u128 gap_mask;

	u128 key;
	uint64_t place;
	bool fresh; /* .place has not been taken yet */
	bool more;  /* another place follows */

	uint64_t key_page; /* the key's first place, to come back to it */
	uint32_t key_offset;
	uint64_t key_place;
	bool key_more;
};

static int damage(struct table *t, const char *what, struct err *err)
{
	t->failed = true;
	t->fresh = t->more = false;
	t->p = t->end;
	return err_set(err, ERR_FORMAT, "table '%s' is damaged: page %llu: %s", t->name, (unsigned long long)t->page,
		       what);
}

static int trailer_check(struct table *t, const struct table_trailer *d, uint64_t size, struct err *err)
{
	uint64_t rest = size - sizeof(*d);

	if (memcmp(d->magic, TABLE_MAGIC, sizeof(d->magic)) != 0)
		return err_set(err, ERR_FORMAT, "table '%s' is damaged: it does not end like a table", t->name);
	if (le32_get(d->version) > TABLE_VERSION)
		return err_set(err, ERR_UNSUPPORTED, "table '%s' was written by a newer dedupscan (version %u)",
			       t->name, le32_get(d->version));
	if (le32_get(d->checksum) != checksum32(d, offsetof(struct table_trailer, checksum), TABLE_VERSION))
		return err_set(err, ERR_FORMAT, "table '%s' is damaged: the trailer's checksum does not match",
			       t->name);
	t->nr_pages = le64_get(d->nr_pages);
	t->nr_directory = le64_get(d->nr_directory);
	if (le32_get(d->version) != TABLE_VERSION || le32_get(d->page_size) != TABLE_PAGE ||
	    t->nr_pages > rest / TABLE_PAGE || t->nr_directory > t->nr_pages ||
	    t->nr_pages * TABLE_PAGE + directory_bytes(t->nr_directory) != rest)
		return err_set(err, ERR_FORMAT, "table '%s' is damaged: the trailer does not fit the file", t->name);
	t->stats = (struct table_stats){ le64_get(d->nr_keys), le64_get(d->nr_places), size };
	return 0;
}

static int trailer_read(struct table *t, struct err *err)
{
	struct table_trailer d;
	struct stat st;

	if (file_ops->fstat(t->fd, &st) < 0)
		return err_errno(err, "table '%s'", t->name);
	if ((uint64_t)st.st_size < sizeof(d))
		return err_set(err, ERR_FORMAT, "table '%s' is damaged: it is too short", t->name);
	if (file_read(t->fd, &d, sizeof(d), (uint64_t)st.st_size - sizeof(d), err) < 0)
		return err_add(err, "table '%s'", t->name);
	return trailer_check(t, &d, (uint64_t)st.st_size, err);
}

struct table *table_open(int dirfd, const char *name, size_t room, struct err *err)
{
	CLEANUP(table_close) struct table *t = calloc(1, sizeof(*t));

	assert(room && room % TABLE_PAGE == 0);
	if (!t)
		return err_null(err, ERR_MEMORY, "out of memory");
	t->fd = file_open(dirfd, name, O_RDONLY, 0, err);
	if (t->fd < 0)
		return NULL;
	snprintf(t->name, sizeof(t->name), "%s", name);
	t->room = room / TABLE_PAGE;
	t->page = NO_PAGE;
	t->buf = malloc(room + TABLE_OVERRUN);
	if (!t->buf)
		return err_null(err, ERR_MEMORY, "out of memory: %zu bytes to read table '%s'", room, name);
	if (trailer_read(t, err) < 0)
		return NULL;
	return STEAL(t);
}

void table_close(struct table *t)
{
	if (!t)
		return;
	if (t->fd >= 0)
		file_close(t->fd, t->name, NULL);
	judymap_release(&t->directory);
	free(t->buf);
	free(t);
}

struct table_stats table_stats(const struct table *t)
{
	return t->stats;
}

/* Has `page` in the buffer; on failure the buffer holds nothing. */
static int page_load(struct table *t, uint64_t page, struct err *err)
{
	uint64_t nr = min_u64(t->room, t->nr_pages - page);

	if (page - t->first < t->have)
		return 0;
	t->have = 0;
	if (file_read(t->fd, t->buf, nr * TABLE_PAGE, page * TABLE_PAGE, err) < 0) {
		damage(t, "", NULL);
		return err_add(err, "table '%s'", t->name);
	}
	memset(t->buf + nr * TABLE_PAGE, 0, TABLE_OVERRUN);
	t->first = page;
	t->have = nr;
	return 0;
}

static const char *page_fault(const struct table_page_header *h, uint64_t page)
{
	unsigned used = le16_get(h->used), entries = le16_get(h->entries);

	if (le32_get(h->checksum) != checksum32((const uint8_t *)h + sizeof(le32), TABLE_PAGE - sizeof(le32), page))
		return "the checksum does not match";
	if (used > TABLE_PAGE || entries > used || entries < sizeof(*h) || used == sizeof(*h))
		return "its parts overlap";
	if (h->gap_bits > KEY_BITS || h->place_bits > TABLE_PLACE_BITS || h->reserved)
		return "the header is not valid";
	return NULL;
}

/* Stands at the start of a page; *ret_base is its base key. */
static int page_enter(struct table *t, uint64_t page, u128 *ret_base, struct err *err)
{
	const struct table_page_header *h;
	const char *fault;

	t->page = page;
	if (page_load(t, page, err) < 0)
		return -1;
	t->start = t->buf + (page - t->first) * TABLE_PAGE;
	h = (const struct table_page_header *)t->start;
	fault = page_fault(h, page);
	if (fault)
		return damage(t, fault, err);
	t->p = t->start + sizeof(*h);
	t->end = t->start + le16_get(h->used);
	t->entries = t->list_end = t->start + le16_get(h->entries);
	t->shift = 1 + h->place_bits;
	t->place_mask = ((uint64_t)1 << h->place_bits) - 1;
	t->gap_mask = ((u128)1 << h->gap_bits) - 1;
	t->entry_size = entry_bytes(h->gap_bits, h->place_bits);
	*ret_base = (u128)be64_load(h->base) << 40 | (be64_load(h->base + KEY_BYTES - 8) & 0xffffffffff);
	return 0;
}

/* Goes on to the next page, which must begin with a key of its own; 1, or 0 at the end. */
static int next_page_of_keys(struct table *t, struct err *err)
{
	bool first = t->page == NO_PAGE;
	u128 base;

	if (t->failed)
		return damage(t, "an error was met before", err);
	if (t->page + 1 == t->nr_pages)
		return 0;
	if (page_enter(t, t->page + 1, &base, err) < 0)
		return -1;
	if (t->p != t->entries)
		return damage(t, "it goes on with places of a key that has no more", err);
	if (!first && base <= t->key)
		return damage(t, "its keys do not ascend", err);
	t->key = base;
	return 1;
}

/* The next entry of this page. */
static inline int entry_take(struct table *t, struct err *err)
{
	uint64_t head;
	u128 gap;

	if ((size_t)(t->end - t->p) < t->entry_size)
		return damage(t, "an entry is cut off", err);
	head = le64_load(t->p);
	gap = le128_load(t->p + t->shift / 8) >> t->shift % 8 & t->gap_mask;
	t->key += gap;
	if (!gap != (t->p == t->start + sizeof(struct table_page_header)) || t->key >> KEY_BITS)
		return damage(t, "its keys do not ascend", err);
	t->p += t->entry_size;
	t->list_end = t->end;
	t->key_place = t->place = head >> 1 & t->place_mask;
	t->key_more = t->more = head & 1;
	t->fresh = true;
	t->key_page = t->page;
	t->key_offset = (uint32_t)(t->p - t->start);
	return 1;
}

static int skip_places(struct table *t, struct err *err)
{
	uint64_t place;
	int rc;

	do
		rc = table_next_place(t, &place, err);
	while (rc > 0);
	return rc;
}

int table_next_key(struct table *t, struct key *ret, struct err *err)
{
	int rc;

	if (t->more && skip_places(t, err) < 0)
		return -1;
	if (t->p == t->end) {
		rc = next_page_of_keys(t, err);
		if (rc <= 0)
			return rc;
	}
	rc = entry_take(t, err);
	if (rc > 0)
		*ret = number_key(t->key);
	return rc;
}

/* Goes on to the next page, which must go on with the places of this key. */
static int next_page_of_places(struct table *t, struct err *err)
{
	u128 base;

	if (t->list_end != t->end)
		return damage(t, "its places run into its keys", err);
	if (t->page + 1 == t->nr_pages)
		return damage(t, "it is the last one, but says that more places follow", err);
	if (page_enter(t, t->page + 1, &base, err) < 0)
		return -1;
	if (t->p == t->entries || base != t->key)
		return damage(t, "it does not go on with the places of the page before", err);
	return 0;
}

/* The next varint of the list; `from` is the place that it counts from. */
static int place_take(struct table *t, uint64_t from, struct err *err)
{
	uint64_t v = 0;

	if (t->p < t->list_end && *t->p < 0x80)
		v = *t->p++;
	else if (!(t->p = varint_get(t->p, t->list_end, &v)))
		return damage(t, "a place is cut off", err);
	t->more = v & 1;
	v = from + (v >> 1);
	if (v >> TABLE_PLACE_BITS || v <= t->place)
		return damage(t, "its places do not ascend", err);
	if (!t->more && t->list_end == t->entries && t->p != t->entries)
		return damage(t, "its places end before its keys begin", err);
	t->place = v;
	return 1;
}

int table_next_place(struct table *t, uint64_t *ret, struct err *err)
{
	uint64_t from = t->place;
	int rc = 1;

	if (!t->fresh) {
		if (!t->more)
			return t->failed ? damage(t, "an error was met before", err) : 0;
		if (t->p == t->list_end) {
			if (next_page_of_places(t, err) < 0)
				return -1;
			from = 0;
		}
		rc = place_take(t, from, err);
	}
	t->fresh = false;
	if (rc > 0)
		*ret = t->place;
	return rc;
}

int table_rewind_places(struct table *t, struct err *err)
{
	u128 base;

	assert(t->key_offset);
	if (t->failed)
		return damage(t, "an error was met before", err);
	if (t->page != t->key_page && page_enter(t, t->key_page, &base, err) < 0)
		return -1;
	t->p = t->start + t->key_offset;
	t->list_end = t->end;
	t->place = t->key_place;
	t->more = t->key_more;
	t->fresh = true;
	return 0;
}

/* ---- single look-ups ---- */

struct seen {
	uint64_t hi, page;
	bool any;
};

/* An entry after the one before, *last.  Of several pages that begin with the same 64 bits the last one counts. */
static int directory_add(struct table *t, uint64_t hi, uint64_t page, struct seen *last, struct err *err)
{
	uint64_t *slot;

	if (page >= t->nr_pages || (last->any && (page <= last->page || hi < last->hi)))
		return err_set(err, ERR_FORMAT, "table '%s' is damaged: the directory is out of order", t->name);
	slot = judymap_put(&t->directory, hi);
	if (!slot)
		return err_set(err, ERR_MEMORY, "out of memory: the directory of table '%s'", t->name);
	*slot = page;
	*last = (struct seen){ hi, page, true };
	return 0;
}

/* Reads nr entries, which lie at `offset`, through the buffer of pages, which is lost. */
static int directory_block(struct table *t, uint64_t offset, size_t nr, uint64_t seed, struct seen *last,
			   struct err *err)
{
	const struct table_directory_entry *d = (const void *)(t->buf + sizeof(le32));
	size_t len = nr * sizeof(*d);

	t->have = 0;
	t->page = NO_PAGE;
	if (file_read(t->fd, t->buf, sizeof(le32) + len, offset, err) < 0)
		return err_add(err, "table '%s'", t->name);
	if (le32_load(t->buf) != checksum32(d, len, seed))
		return err_set(err, ERR_FORMAT, "table '%s' is damaged: the directory's checksum does not match",
			       t->name);
	for (size_t i = 0; i < nr; i++) {
		if (directory_add(t, le64_get(d[i].hi), le32_get(d[i].page), last, err) < 0)
			return -1;
	}
	return 0;
}

static int directory_load(struct table *t, struct err *err)
{
	uint64_t offset = t->nr_pages * TABLE_PAGE;
	struct seen last = { 0 };

	for (uint64_t i = 0, seed = t->nr_pages; i < t->nr_directory; i += TABLE_DIRECTORY_BLOCK, seed++) {
		size_t nr = min_u64(t->nr_directory - i, TABLE_DIRECTORY_BLOCK);

		if (directory_block(t, offset, nr, seed, &last, err) < 0) {
			judymap_release(&t->directory);
			return -1;
		}
		offset += directory_bytes(nr);
	}
	t->have_directory = true;
	return 0;
}

/* Stands before the first key that begins in `page`. */
static int page_seek(struct table *t, uint64_t page, struct err *err)
{
	t->fresh = t->more = false;
	if (page_enter(t, page, &t->key, err) < 0)
		return -1;
	t->p = t->entries;
	return 0;
}

/* On to the first key that is not less; ret_less says whether there were lesser ones. */
static int go_on_to(struct table *t, struct key key, bool *ret_less, struct err *err)
{
	struct key k;
	int rc;

	*ret_less = false;
	while ((rc = table_next_key(t, &k, err)) > 0 && key_cmp(k, key) < 0)
		*ret_less = true;
	return rc > 0 ? key_cmp(k, key) == 0 : rc;
}

static int find_from(struct table *t, uint64_t page, struct key key, bool *ret_less, struct err *err)
{
	return page_seek(t, page, err) < 0 ? -1 : go_on_to(t, key, ret_less, err);
}

/* The key at hand is on that page and not greater, so who asks in order need not begin with the page anew each time. */
static bool is_before(const struct table *t, uint64_t page, struct key key)
{
	return t->key_offset && !t->failed && t->page == page && t->key_page == page && key_cmp(number_key(t->key), key) <= 0;
}

static int find_behind(struct table *t, struct key key, struct err *err)
{
	bool less;

	if (key_cmp(number_key(t->key), key) == 0)
		return table_rewind_places(t, err) < 0 ? -1 : 1;
	return go_on_to(t, key, &less, err);
}

int table_find(struct table *t, struct key key, struct err *err)
{
	uint64_t hi = key.hi, *page;
	bool less;
	int rc;

	if (!t->have_directory && directory_load(t, err) < 0)
		return -1;
	page = judymap_last(&t->directory, &hi);
	if (!page)
		return 0;
	if (is_before(t, *page, key))
		return find_behind(t, key, err);
	rc = find_from(t, *page, key, &less, err);
	if (rc != 0 || less || hi != key.hi || !hi)
		return rc;
	/* The page's first key is greater in its last 40 bits only: the key may be on a page before this one. */
	hi--;
	page = judymap_last(&t->directory, &hi);
	return page ? find_from(t, *page, key, &less, err) : 0;
}
