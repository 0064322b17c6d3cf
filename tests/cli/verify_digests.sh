#!/bin/bash
# Recorded digests: what the guest sees, whatever the format; by the definition in the manual, of which the program and the example
# are run here.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img qemu-io python3

verify()
{
	capture "$DEDUPSCAN" verify --no-idle --catalog "$CATALOG" "$@"
}

# digest_of PATH: as recorded in $TMP/digests
digest_of()
{
	grep -F "  $1" "$TMP/digests" | cut -d' ' -f1
}

page=contrib/man/dedupscan-verify.1
sed -n '/^import hashlib/,/^print/p' "$page" >"$TMP/plain.py"
[ "$(wc -l <"$TMP/plain.py")" -ge 10 ] || fail "no program in $page"
plain()
{
	python3 "$TMP/plain.py" "$1"
}

S=$STORE
python3 -c '
import sys
m = 1 << 20
open(sys.argv[1], "wb").write(b"A" * (2 * m) + bytes(2 * m) + b"B" * m)' "$S/example.raw"
"$DEDUPSCAN" verify --record "$TMP/digests" "$S" >"$TMP/out" || {
	grep -q 'built without libcrypto' "$TMP/out" && skip "needs libcrypto"
	fail "$(cat "$TMP/out")"
}
wanted=$(grep -xE '[0-9a-f]{64}' "$page" | tail -1)
assert_eq "$wanted" "$(digest_of "$S/example.raw")" "the example"
assert_eq "$wanted" "$(plain "$S/example.raw")" "the example by the program"
assert_eq "$(grep -xE '[0-9a-f]{64}' "$page" | head -1)" "$(head -c 2M "$S/example.raw" | sha256sum | cut -d' ' -f1)" "its first leaf"

# trees of one level and two, ends that fill no segment, zeros that are stored and that are not
random_file "$S/small.raw" 700k
truncate -s 300M "$S/two.raw"
head -c 5M /dev/urandom | dd of="$S/two.raw" bs=1M seek=1 conv=notrunc status=none
head -c 1000 /dev/urandom | dd of="$S/two.raw" bs=1 seek=$((299 << 20)) conv=notrunc status=none
head -c 3M /dev/zero >"$S/zeros.raw"
qemu-img convert -O qcow2 "$S/two.raw" "$S/two.qcow2"
qemu-img convert -c -O qcow2 -o cluster_size=4k "$S/two.raw" "$S/packed.qcow2"
qemu-img convert -O vdi "$S/two.raw" "$S/two.vdi"
# through a backing file, in part behind its end
qemu-img create -q -f qcow2 -b small.raw -F raw "$S/top.qcow2" 4M
qemu-io -c 'write -P 1 100k 10k' -c 'write -P 2 3M 1000' -c 'write -z 300k 64k' "$S/top.qcow2" >/dev/null
qemu-img convert -O raw "$S/top.qcow2" "$TMP/top.raw"
qemu-img create -q -f qcow2 "$S/giant.qcow2" 64T
qemu-io -c 'write -P 7 63T 64k' "$S/giant.qcow2" >/dev/null
odd=$'back\\slash\nnew\rline \377.raw'
cp "$S/small.raw" "$S/$odd"
echo 'no image' >"$S/note.txt"
settle

verify --record "$TMP/digests" "$S"
assert_status 0
assert_eq 10 "$(grep -c -v '^#' "$TMP/digests")" "images recorded"
for name in small.raw two.raw zeros.raw; do
	assert_eq "$(plain "$S/$name")" "$(digest_of "$S/$name")" "$name"
done
assert_eq "$(printf '0%.0s' {1..64})" "$(digest_of "$S/zeros.raw")" "zeros"
for name in two.qcow2 packed.qcow2 two.vdi; do
	assert_eq "$(digest_of "$S/two.raw")" "$(digest_of "$S/$name")" "$name"
done
assert_eq "$(plain "$TMP/top.raw")" "$(digest_of "$S/top.qcow2")" "an overlay"
assert_has "$(cat "$TMP/digests")" "^[0-9a-f]{64}  70368744177664  $S/giant.qcow2$"
grep -qF '  716800  '"$S"'/back\\slash\nnew\rline ' "$TMP/digests" || fail "the odd name: $(cat -A "$TMP/digests")"
[ "$(grep -c '^[\]' "$TMP/digests")" -eq 1 ] || fail "one line is escaped"
[ ! -e "$CATALOG" ] || fail "a catalog was made"

verify --check "$TMP/digests" "$S"
assert_status 0
assert_has "$output" '^10 images: 10 ok; '
assert_has "$output" '^ok +.*/back\\\\slash\\x0anew\\x0dline \\xff.raw$'

# it is the content that counts: all that is known is where it is
qemu-img convert -O qcow2 -o cluster_size=512 "$S/two.raw" "$TMP/other"
mv "$TMP/other" "$S/two.qcow2"
printf 'another' | dd of="$S/$odd" bs=1 seek=5 conv=notrunc status=none
truncate -s 4M "$S/zeros.raw"
qemu-io -c 'write -P 5 0 1k' -f raw "$S/small.raw" >/dev/null # the backing file
rm "$S/two.vdi"
cp "$S/two.raw" "$S/new.raw"
verify --check "$TMP/digests" "$S"
assert_status 1
assert_has "$output" '^11 images: 5 ok, 4 differs, 1 unknown, 1 missing; '
assert_has "$output" '^differs +.*line \\xff.raw$'
assert_has "$output" '^differs +.*/top.qcow2$'
assert_has "$output" '^ +another digest was recorded$'
assert_has "$output" '^ +its disk has 4194304 bytes, 3145728 were recorded$'
assert_has "$output" '^unknown +.*/new.raw$'
assert_has "$output" '^missing +.*/two.vdi$'
assert_has "$output" '^ok +.*/two.qcow2$'
# of others nothing is said
verify --check "$TMP/digests" "$S/two.raw" "$S/giant.qcow2"
assert_status 0
assert_has "$output" '^2 images: 2 ok; '

# no whole disk, no digest
mv "$S/small.raw" "$TMP/small.raw"
qemu-img create -q -f qcow2 "$S/secret.qcow2" 1M
printf '\1' | dd of="$S/secret.qcow2" bs=1 seek=35 conv=notrunc status=none # crypt_method: AES
verify --record "$TMP/digests" "$S"
assert_status 1
assert_has "$output" '^unread +.*/top.qcow2$'
assert_has "$output" '^unread +.*/secret.qcow2$'
assert_has "$output" '^ +it is encrypted'
assert_eq "" "$(digest_of "$S/top.qcow2")$(digest_of "$S/secret.qcow2")" "recorded all the same"

# what is no file of digests is never written over, and not taken for one either
for name in two.raw note.txt giant.qcow2; do
	sum=$(head -c 1M "$S/$name" | cksum)
	verify --record "$S/$name" "$S/zeros.raw"
	assert_status 3
	assert_has "$output" 'is there and no file of recorded digests'
	assert_eq "$sum" "$(head -c 1M "$S/$name" | cksum)" "$name"
	verify --check "$S/$name" "$S"
	assert_status 3
	assert_has "$output" 'no file of recorded digests'
done
verify --record "$TMP/nowhere/digests" "$S/zeros.raw"
assert_status 3
: >"$TMP/empty"
verify --record "$TMP/empty" "$S/zeros.raw"
assert_status 0
assert_eq "" "$(find "$TMP" -name '.dedupscan-*')" "left behind"
