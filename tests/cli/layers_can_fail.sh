#!/bin/bash
# Every kind of include that must not be is named with its line, and the tree as it is passes.
. tests/lib.sh

tests/layers . || fail "the tree itself"

# planted FILE WANTED: standard input as FILE of an otherwise good tree is refused with a line that begins with WANTED
planted()
{
	rm -rf "$TMP/tree"
	toy_tree "$TMP/tree"
	mkdir -p "$TMP/tree/scanner/image" "$TMP/tree/scanner/index" "$TMP/tree/compactor" "$TMP/tree/reports"
	tests/layers "$TMP/tree" || fail "the toy tree was refused before anything was planted"
	cat >"$TMP/tree/$1"
	capture tests/layers "$TMP/tree"
	assert_eq 1 "$status" "exit status for $1"
	assert_has "$output" "^$2"
}

planted scanner/base/up.c 'scanner/base/up.c:2: scanner/base/ must not include scanner/image/' <<<'
#include "scanner/image/image.h"'
planted scanner/image/sideways.c 'scanner/image/sideways.c:1: .* scanner/index/' <<<'#include "scanner/index/index.h"'
planted scanner/image/up.h 'scanner/image/up.h:1: .* scanner/$' <<<'  #  include "scanner/tally.h"'
planted scanner/up.c 'scanner/up.c:1: .* reports/' <<<'#include "reports/style.h"'
planted compactor/sideways.c 'compactor/sideways.c:1: .* reports/' <<<'#include "reports/style.h"'
planted reports/sideways.c 'reports/sideways.c:1: .* compactor/' <<<'#include "compactor/writer.h"'
planted reports/short.c 'reports/short.c:1: .* not written from the root' <<<'#include "style.h"'
planted scanner/image/twice.c 'scanner/image/twice.c:1: <zlib.h>' <<<'#include <zlib.h>'
planted reports/twice.c 'reports/twice.c:1: <openssl/>' <<<'#include <openssl/evp.h>'
planted scanner/image/look.c 'scanner/image/look.c:1: .*file_stat' <<<'int x(int fd) { return !fstat(fd, 0); }'
planted scanner/index/toy.c 'scanner/index/toy.c:1: .*base/toy.c' <<<'int other(void);'

# and what is allowed passes
mkdir -p "$TMP/tree/scanner/image"
rm "$TMP/tree/scanner/index/toy.c"
echo 'int y(int fd) { return file_stat(fd, 0); }' >"$TMP/tree/scanner/image/look.c"
echo '#include <zlib.h>' >"$TMP/tree/scanner/image/codec_zlib.c"
echo '#include "scanner/base/toy.h"' >"$TMP/tree/scanner/image/down.c"
echo '#include "scanner/image/image.h"' >"$TMP/tree/reports/downwards.c"
tests/layers "$TMP/tree" || fail "a good tree was refused"
