/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/writer_pack.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compactor/sparse_copy.h"
#include "scanner/base/checked.h"
#include "scanner/base/parallel.h"
#include "scanner/image/codec_zlib.h"
#include "scanner/image/codec_zstd.h"

/* A batch is gathered, its clusters are compressed by several threads, and told by one.  What a thread made it decompresses at once
 * and compares: neither a compressor's fault nor bad memory is to cost a disk. */

#define BATCH ((size_t)2 << 20)
#define THREADS_MAX 16
#define NOTHING UINT64_MAX

struct coder {
	struct codec_zlib_encoder *zlib;
	struct codec_zstd_encoder *zstd;
	uint8_t *back; /* a cluster, decompressed */
};

struct packer {
	struct packer_options o;
	unsigned nr_threads;
	size_t batch; /* bytes: a power of two, at least a cluster */
	uint64_t at;  /* where on the disk the batch is, or NOTHING */
	uint8_t *plain, *packed;
	size_t *lens; /* of the packed clusters */
	struct coder coders[THREADS_MAX];
};

static unsigned count_threads(size_t nr_clusters)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t nr = cpus > 0 ? (uint64_t)cpus : 1;

	return (unsigned)min_u64(min_u64(nr, THREADS_MAX), nr_clusters);
}

static int coder_init(struct coder *c, enum pack_method method, size_t cluster_size, struct err *err)
{
	c->back = malloc(cluster_size);
	if (!c->back)
		return err_set(err, ERR_MEMORY, "no memory to compress clusters");
	if (method == PACK_ZSTD)
		c->zstd = codec_zstd_encoder_new(err);
	else
		c->zlib = method == PACK_ZLIB ? codec_zlib_encoder_new(CODEC_ZLIB_HEADER, 15, err)
					      : codec_zlib_encoder_new(CODEC_ZLIB_RAW, 12, err);
	return c->zstd || c->zlib ? 0 : -1;
}

struct packer *packer_new(const struct packer_options *o, struct err *err)
{
	CLEANUP(packer_free) struct packer *p = calloc(1, sizeof(*p));
	size_t nr;

	if (!p)
		return err_null(err, ERR_MEMORY, "no memory to compress clusters");
	p->o = *o;
	p->at = NOTHING;
	p->batch = (size_t)max_u64(BATCH, o->cluster_size);
	nr = p->batch / o->cluster_size;
	p->plain = malloc(p->batch);
	p->packed = malloc(nr * o->room);
	p->lens = calloc(nr, sizeof(*p->lens));
	if (!p->plain || !p->packed || !p->lens)
		return err_null(err, ERR_MEMORY, "no memory to compress clusters");
	p->nr_threads = count_threads(nr);
	for (unsigned i = 0; i < p->nr_threads; i++)
		if (coder_init(&p->coders[i], o->method, o->cluster_size, err) < 0)
			return NULL;
	return STEAL(p);
}

void packer_free(struct packer *p)
{
	if (!p)
		return;
	for (unsigned i = 0; i < p->nr_threads; i++) {
		codec_zlib_encoder_free(p->coders[i].zlib);
		codec_zstd_encoder_free(p->coders[i].zstd);
		free(p->coders[i].back);
	}
	free(p->plain);
	free(p->packed);
	free(p->lens);
	free(p);
}

static int check_packed(const struct packer *p, const struct coder *c, size_t i, const uint8_t *plain, struct err *err)
{
	const size_t size = p->o.cluster_size, len = p->lens[i];
	const uint8_t *packed = p->packed + i * p->o.room;
	bool whole = c->zstd ? codec_zstd_undo(c->zstd, packed, len, c->back, size)
			     : codec_zlib_undo(c->zlib, packed, len, c->back, size);

	if (whole && memcmp(c->back, plain, size) == 0)
		return 0;
	return err_set(err, ERR_IO,
		       "'%s': %s compressed the %zu bytes at %llu of the disk wrongly, they do not come back; test this machine's "
		       "memory, and write an image that is not compressed, or elsewhere",
		       p->o.name, c->zstd ? "zstd" : "zlib", size, (unsigned long long)(p->at + i * size));
}

static int pack_one(void *ctx, unsigned thread, size_t i, struct err *err)
{
	struct packer *p = ctx;
	const struct coder *c = &p->coders[thread];
	const uint8_t *plain = p->plain + i * p->o.cluster_size;
	uint8_t *to = p->packed + i * p->o.room;

	if (sparse_is_zero(plain, p->o.cluster_size))
		return 0;
	p->lens[i] = c->zstd ? codec_zstd_encode(c->zstd, plain, p->o.cluster_size, to, p->o.room)
			     : codec_zlib_encode(c->zlib, plain, p->o.cluster_size, to, p->o.room);
	return p->lens[i] ? check_packed(p, c, i, plain, err) : 0;
}

int packer_flush(struct packer *p, struct err *err)
{
	const size_t size = p->o.cluster_size, nr = p->batch / size;

	if (p->at == NOTHING)
		return 0;
	memset(p->lens, 0, nr * sizeof(*p->lens));
	if (parallel_run(p->nr_threads, nr, pack_one, p, err) < 0)
		return -1;
	for (size_t i = 0; i < nr; i++) {
		const uint8_t *plain = p->plain + i * size;

		if (!p->lens[i] && sparse_is_zero(plain, size))
			continue;
		if (p->o.take(p->o.ctx, p->at + i * size, plain, p->packed + i * p->o.room, p->lens[i], err) < 0)
			return -1;
	}
	p->at = NOTHING;
	return 0;
}

int packer_put(struct packer *p, uint64_t offset, const void *buf, size_t len, struct err *err)
{
	const uint8_t *from = buf;

	for (size_t n; len; from += n, offset += n, len -= n) {
		uint64_t at = round_down(offset, p->batch);

		if (at != p->at) {
			if (packer_flush(p, err) < 0)
				return -1;
			memset(p->plain, 0, p->batch);
			p->at = at;
		}
		n = (size_t)min_u64(len, at + p->batch - offset);
		memcpy(p->plain + (offset - at), from, n);
	}
	return 0;
}
