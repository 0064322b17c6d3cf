#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A pool that cannot be written any more says so, keeps what it has, and another one goes on.
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

# ---- as long as it can be ----

give "$STORE" 1 a.qcow2 b.qcow2
settle
enter --apply "$STORE"
POOL=$STORE/.dedupscan-pool
lengthen "$POOL" $(($(end "$POOL") - 65536)) || skip "this file system has no files as long as it says"
capture "$DEDUPSCAN" pool status --pool "$POOL"
assert_has "$output" "^room +64.0 KiB .* 10485[0-9]{2} views"

give "$STORE" 2 c.qcow2 d.qcow2
settle
enter "$STORE"
assert_has "$output" "nothing is left to save"
assert_has "$output" "c.qcow2: the pool has no room for it.*--pool DIR begins another"
enter --apply "$STORE"
says "$STORE/c.qcow2" 2

# What it has can still be cloned, put back and taken out; what needs new tables cannot.
capture "$DEDUPSCAN" clone "$STORE/a.qcow2" "$STORE/clone.qcow2"
assert_status 0 clone
qemu-io -c "write -q -P 9 1M 1M" "$STORE/b.qcow2"
capture "$DEDUPSCAN" snapshot before "$STORE/b.qcow2"
assert_status 0 snapshot
settle
capture "$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --apply "$STORE"
assert_has "$output" "the pool is full: .*--pool DIR begins another"
[ "$(qemu-io -r -c "read -P 9 1M 1M" "$STORE/b.qcow2" | grep -c "verification failed")" = 0 ] || fail "b.qcow2 has other bytes"
says "$STORE/clone.qcow2" 1

# ---- another beside it ----

enter --apply --pool "$STORE/second" "$STORE"
assert_has "$output" "2 of 2 steps done"
for image in c d; do
	says "$STORE/$image.qcow2" 2
	assert_has "$(qemu-img info "$STORE/$image.qcow2")" "backing file: .*/second/views/"
done
says "$STORE/a.qcow2" 1
capture "$DEDUPSCAN" clone --pool "$STORE/.dedupscan-pool" "$STORE/c.qcow2" "$STORE/no.qcow2"
assert_status 2 "clone of an image of the other pool"
assert_has "$output" "no image of the pool .*--pool DIR names another"
capture "$DEDUPSCAN" clone "$STORE/c.qcow2" "$STORE/yes.qcow2"
assert_status 0 "clone of an image of the second pool"
says "$STORE/yes.qcow2" 2

# An image moves from the one to the other.
capture "$DEDUPSCAN" expand --keep-originals 0 "$STORE/a.qcow2" "$STORE/clone.qcow2"
assert_status 0 expand
settle
enter --apply --pool "$STORE/second" "$STORE"
says "$STORE/a.qcow2" 1
assert_has "$(qemu-img info "$STORE/a.qcow2")" "backing file: .*/second/views/"
capture "$DEDUPSCAN" pool check --read-data --pool "$STORE/second"
assert_status 0 "pool check"
