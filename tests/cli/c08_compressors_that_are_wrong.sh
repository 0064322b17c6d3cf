#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# C8: zlib or zstd makes of one cluster in a thousand, or of the last one, what it does not come back from: restore says so, and
# nothing is left of what it wrote.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img cc python3
nm "$DEDUPSCAN" | grep -q __asan_init && skip "the library of sanitizers has to be loaded first"

CLUSTERS=2048 # of 8 KiB
OUT=$TMP/out
mkdir "$OUT"
python3 -c "import random; print(random.Random(8).randbytes(8 << 20).hex(), end='')" >"$TMP/a.raw"
for name in a b; do
	qemu-img convert -f raw -O qcow2 "$TMP/a.raw" "$STORE/$name.qcow2"
done
capture "$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --keep-originals 0 --apply "$STORE"
assert_status 0

# Every EVERY-th call is wrong.  HOW=output: in one byte of what it makes; input: it is right about another input, checksum and all;
# end: it makes a byte too many.
cat >"$TMP/wrong.c" <<'END'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

static atomic_ulong calls;

static __attribute__((destructor)) void tell(void)
{
	FILE *f = calls ? fopen(getenv("CALLS"), "w") : NULL;

	if (f) {
		fprintf(f, "%lu", (unsigned long)calls);
		fclose(f);
	}
}

/* 'o', 'i', 'e', or 0 = this one is right */
static int wrong(void)
{
	return (atomic_fetch_add(&calls, 1) + 1) % strtoul(getenv("EVERY"), NULL, 10) == 0 ? *getenv("HOW") : 0;
}

static void *another(const void *src, size_t len)
{
	unsigned char *p = malloc(len);

	memcpy(p, src, len);
	p[len / 2] ^= 1;
	return p;
}

int deflate(z_streamp z, int flush)
{
	int (*real)(z_streamp, int) = (int (*)(z_streamp, int))dlsym(RTLD_NEXT, "deflate"), how = wrong(), rc;

	if (how == 'i')
		z->next_in = another(z->next_in, z->avail_in);
	rc = real(z, flush);
	if (how == 'o')
		z->next_out[-(long)(z->total_out / 2)] ^= 0xff;
	if (how == 'e') {
		*z->next_out++ = 0;
		z->avail_out--;
	}
	return rc;
}

size_t ZSTD_compressCCtx(void *cctx, void *dst, size_t room, const void *src, size_t len, int level)
{
	void *lib = dlopen("libzstd.so.1", RTLD_NOW);
	size_t (*real)(void *, void *, size_t, const void *, size_t, int) =
		(size_t (*)(void *, void *, size_t, const void *, size_t, int))dlsym(lib, "ZSTD_compressCCtx");
	int how = wrong();
	size_t n = real(cctx, dst, room, how == 'i' ? another(src, len) : src, len, level);

	if (how == 'o')
		((unsigned char *)dst)[n / 2] ^= 0xff;
	if (how == 'e')
		((unsigned char *)dst)[n++] = 0;
	return n;
}
END
cc -shared -fPIC -o "$TMP/wrong.so" "$TMP/wrong.c" -ldl 2>"$TMP/said" || skip "no such library is made here: $(head -1 "$TMP/said")"

# restored KIND FORMAT HOW EVERY
restored()
{
	name=disk.$2
	rm -f "$TMP/calls"
	capture env LD_PRELOAD="$TMP/wrong.so" HOW="$3" EVERY="$4" CALLS="$TMP/calls" \
		"$DEDUPSCAN" restore --kind "$1" --cluster-size 8K "$STORE/a.qcow2" "$OUT/$name"
	output=${output//"$OUT/"/}
}

for kind in zlib zstd streamOptimized; do
	format=qcow2 library=zlib
	[ "$kind" = streamOptimized ] && format=vmdk
	[ "$kind" = zstd ] && library=zstd
	for how in output input end; do
		for every in 1000 "$CLUSTERS"; do
			restored "$kind" "$format" "$how" "$every"
			assert_status 3 "$kind, $how, every $every"
			assert_has "$output" "^dedupscan: '$name': $library compressed the 8192 bytes at [0-9]+ of the disk wrongly"
			assert_eq "" "$(ls -A "$OUT")" "left by $kind, $how, every $every"
		done
	done
	# the control: it stands in the way, and is right
	restored "$kind" "$format" input 1000000
	assert_status 0 "$kind"
	assert_eq "$CLUSTERS" "$(cat "$TMP/calls")" "calls for $kind"
	qemu-img compare -q -f raw -F "$format" "$TMP/a.raw" "$OUT/$name" || fail "$name of kind $kind has other bytes"
	rm "$OUT/$name"
done
