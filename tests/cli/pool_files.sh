#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A cluster file that may not grow any more keeps what it has, and another one begins; one of which little is in use is evacuated,
# and goes.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img qemu-io

TIB=$((1 << 40))

# enter DIR [OPTION]...
enter()
{
	capture "$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --keep-originals 0 "$@"
	assert_status 0 "compact $*"
}

# give DIR SEED NAME...: images that are equal, of 8 MiB of random data
give()
{
	local dir=$1 seed=$2 name
	shift 2
	random_file "$TMP/$seed.raw" 8M
	for name; do
		qemu-img convert -O qcow2 "$TMP/$seed.raw" "$dir/$name"
	done
}

# says IMAGE SEED
says()
{
	qemu-img compare -q -f qcow2 -F raw "$1" "$TMP/$2.raw" || fail "$1 has other bytes"
}

# lengthen POOL SIZE: as if so much had been written to it over the years
lengthen()
{
	local file
	file=$(echo "$1"/*.qcow2)
	lift "$file"
	chmod u+w "$file"
	truncate -s "$2" "$file" || return
	chmod u-w "$file"
}

# end POOL: of its cluster file, on this file system
end()
{
	# shellcheck disable=SC2154
	capture "$DEDUPSCAN" pool status --pool "$1"
	case $(sed -n 's/^room *\([0-9.]* [A-Z]iB\) .*/\1/p' <<<"$output") in
	"11.9 TiB") echo $((12 * TIB)) ;;
	"1023 TiB" | "1024 TiB" | "1.00 PiB") echo $((1024 * TIB)) ;;
	*) fail "pool status tells no room: $output" ;;
	esac
}

# files N: cluster files of the pool
files()
{
	capture "$DEDUPSCAN" pool status --pool "$POOL"
	assert_has "$output" "^on disk .* in $1 cluster file"
	assert_eq "$1" "$(ls "$POOL" | grep -c 'qcow2$')" "cluster files"
}

whole()
{
	capture "$DEDUPSCAN" pool check --read-data --pool "$POOL"
	assert_status 0 "pool check: $output"
}

collect()
{
	capture "$DEDUPSCAN" pool collect "$@" --pool "$POOL"
	assert_status 0 "pool collect"
}

# ---- as long as it can be ----

give "$STORE" 1 a.qcow2 b.qcow2
settle
enter --apply "$STORE"
POOL=$STORE/.dedupscan-pool
files 1
lengthen "$POOL" $(($(end "$POOL") - 65536)) || skip "this file system has no files as long as it says"
capture "$DEDUPSCAN" pool status --pool "$POOL"
assert_has "$output" "^room +64.0 KiB +and 10485[0-9]{2} views"

# What enters goes into another file.
give "$STORE" 2 c.qcow2 d.qcow2
settle
enter --apply "$STORE"
assert_has "$output" "2 of 2 steps done"
files 2
for image in c d; do says "$STORE/$image.qcow2" 2; done
for image in a b; do says "$STORE/$image.qcow2" 1; done
whole

# What the old one has can be cloned, put back and taken out; what was sealed is folded into the new one.
capture "$DEDUPSCAN" clone "$STORE/a.qcow2" "$STORE/clone.qcow2"
assert_status 0 clone
capture "$DEDUPSCAN" snapshot first "$STORE/b.qcow2"
assert_status 0 snapshot
qemu-io -c "write -q -P 9 1M 1M" "$STORE/b.qcow2"
capture "$DEDUPSCAN" snapshot before "$STORE/b.qcow2"
assert_status 0 snapshot
qemu-io -c "write -q -P 8 1M 1M" "$STORE/b.qcow2"
settle
capture "$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --apply "$STORE"
assert_status 0 "folding: $output"
[ -z "$(ls "$POOL/sealed")" ] || collect --evacuate 0
whole
capture "$DEDUPSCAN" rollback "$STORE/b.qcow2@before"
assert_status 0 rollback
[ "$(qemu-io -r -c "read -P 9 1M 1M" "$STORE/b.qcow2" | grep -c "verification failed")" = 0 ] || fail "b.qcow2 is not as it was"
capture "$DEDUPSCAN" rollback --discard "$STORE/b.qcow2@first"
assert_status 0 rollback
says "$STORE/b.qcow2" 1
says "$STORE/clone.qcow2" 1
whole

# ---- evacuating ----

# In the first file little is in use of so much; a guest runs on what is there.
capture "$DEDUPSCAN" pool collect --dry-run --pool "$POOL"
assert_has "$output" "^1 cluster files would be evacuated: 8.[0-9] MiB would be stored again"
files 2
mkfifo "$TMP/guest"
: >"$TMP/guest.out"
qemu-io "$STORE/clone.qcow2" <"$TMP/guest" >"$TMP/guest.out" 2>&1 &
guest=$!
exec 7>"$TMP/guest"
echo "read 0 4k" >&7
until grep -q "read 4096" "$TMP/guest.out"; do sleep 0.1; done
collect --evacuate 0
files 2
collect
assert_has "$output" "^1 cluster files evacuated: [0-9.]+ [MK]iB stored again"
files 2
collect
files 2 # it has the old stub open
echo "read -P $(od -An -tu1 -j 5000000 -N1 "$TMP/1.raw" | xargs) 5000000 1" >&7
echo "write -P 7 6M 64k" >&7
echo quit >&7
exec 7>&-
wait $guest
assert_has "$(<"$TMP/guest.out")" "read 1/1 bytes at offset 5000000"
[ "$(grep -c "verification failed" "$TMP/guest.out")" = 0 ] || fail "the guest read other bytes"
collect
assert_has "$output" "^1 cluster files, in which nothing was in use any more, removed"
files 1
for image in c d; do says "$STORE/$image.qcow2" 2; done
for image in a b; do says "$STORE/$image.qcow2" 1; done
[ "$(qemu-io -r -c "read -P 7 6M 64k" "$STORE/clone.qcow2" | grep -c "verification failed")" = 0 ] || fail "what the guest wrote is gone"
whole
collect
files 1

# ---- files of a size ----

capture "$DEDUPSCAN" compact --method pool --file-size 1000K "$STORE"
assert_status 2 "--file-size 1000K"
give "$STORE" 3 e.qcow2 e2.qcow2
settle
enter --apply --file-size 16M "$STORE"
files 2
give "$STORE" 4 f.qcow2 f2.qcow2
settle
enter --apply "$STORE"
files 2
give "$STORE" 5 g.qcow2 h.qcow2
settle
enter --apply "$STORE"
files 3
for image in "e 3" "f 4" "g 5" "h 5" "c 2" "a 1"; do
	# shellcheck disable=SC2086 # two words
	set -- $image
	says "$STORE/$1.qcow2" "$2"
done
whole

# The whole pool is moved: stubs of all files follow.
chattr -R -f -i "$POOL"
mv "$STORE" "$TMP/moved"
capture "$DEDUPSCAN" repoint "$TMP/moved"
assert_status 0 "repoint: $output"
STORE=$TMP/moved POOL=$TMP/moved/.dedupscan-pool
for image in "e 3" "f 4" "g 5" "h 5" "c 2" "a 1"; do
	# shellcheck disable=SC2086 # two words
	set -- $image
	says "$STORE/$1.qcow2" "$2"
done
whole

# ---- another pool beside it ----

give "$STORE" 6 i.qcow2 j.qcow2
settle
enter --apply --pool "$STORE/second" "$STORE"
assert_has "$output" "2 of 2 steps done"
for image in i j; do
	says "$STORE/$image.qcow2" 6
	assert_has "$(qemu-img info "$STORE/$image.qcow2")" "backing file: .*/second/views/"
done
capture "$DEDUPSCAN" clone --pool "$POOL" "$STORE/i.qcow2" "$STORE/no.qcow2"
assert_status 2 "clone of an image of the other pool"
assert_has "$output" "no image of the pool .*--pool DIR names another"
capture "$DEDUPSCAN" clone "$STORE/i.qcow2" "$STORE/yes.qcow2"
assert_status 0 "clone of an image of the second pool"
says "$STORE/yes.qcow2" 6

# An image moves from the one to the other.
capture "$DEDUPSCAN" expand --keep-originals 0 "$STORE/a.qcow2" "$STORE/b.qcow2"
assert_status 0 expand
settle
enter --apply --pool "$STORE/second" "$STORE"
says "$STORE/a.qcow2" 1
assert_has "$(qemu-img info "$STORE/a.qcow2")" "backing file: .*/second/views/"
capture "$DEDUPSCAN" pool check --read-data --pool "$STORE/second"
assert_status 0 "pool check"

# ---- a plan says when it does not know all that several files take ----

mkdir "$TMP/three"
give "$TMP/three" 1 a.qcow2 b.qcow2 c.qcow2
settle
for size in 0 1G; do
	enter --file-size "$size" "$TMP/three"
	assert_has_not "$output" "LESS comes back"
done
enter --file-size 4M "$TMP/three"
assert_has "$output" "^LESS comes back: the pool begins another cluster file meanwhile"
enter --file-size 4M --json "$TMP/three"
assert_has "$output" '"several_files": true'
enter --file-size 12M --apply "$TMP/three"
assert_has_not "$output" "LESS comes back"
give "$TMP/three" 3 d.qcow2 e.qcow2 f.qcow2
settle
enter "$TMP/three" # what the pool was told last holds
assert_has "$output" "^LESS comes back"
