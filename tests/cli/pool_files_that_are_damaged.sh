#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A whole file of a pool is damaged or gone: that is told, repaired where it can be, and hits nothing but what needs that file.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img qemu-io python3

POOL=$STORE/.dedupscan-pool

compact()
{
	capture "$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --keep-originals 0 --apply "$@" "$STORE"
}

# pool STATUS ARGUMENT...
pool()
{
	capture "$DEDUPSCAN" pool "${@:2}" "$STORE"
	assert_status "$1" "pool ${*:2}"
}

# whole IMAGE: it reads as when it entered
whole()
{
	qemu-img compare -q -f raw -F qcow2 "$TMP/${1%%-*}.raw" "$STORE/$1.qcow2" || fail "$1 differs"
}

random_file "$TMP/golden" 6M
for name in a b; do
	random_file "$TMP/own" 2M
	cat "$TMP/golden" "$TMP/own" >"$TMP/$name.raw"
	qemu-img convert -f raw -O qcow2 "$TMP/$name.raw" "$STORE/$name.qcow2"
done
compact
assert_status 0
cluster_file=$(echo "$POOL"/*-*.qcow2)
nodes=$(echo "$POOL"/trees/*.nodes)

# ---- a superblock ----

# flip OFFSET: turns a byte of the cluster file round
flip()
{
	lift "$cluster_file"
	python3 - "$cluster_file" "$1" <<'EOF'
import os, sys
f = os.open(sys.argv[1], os.O_RDWR)
at = int(sys.argv[2])
os.pwrite(f, bytes([os.pread(f, 1, at)[0] ^ 255]), at)
EOF
}

for at in 20 $((32768 + 9)); do
	flip "$at"
	pool 1 check
	assert_has "$output" "^superblock: cluster file '$(basename "$cluster_file")', at offset $((at / 32768 * 32768)): .*; repair can rebuild it$"
	"$DEDUPSCAN" clone "$STORE/a.qcow2" "$STORE/a-$at.qcow2"
	whole "a-$at"
	pool 0 repair --dry-run
	assert_has "$output" "^	can be repaired$"
	pool 1 check
	pool 0 repair
	assert_has "$output" "^1 damages repaired, 0 left$"
	pool 0 check --read-data
	[ "$(stat -c %a "$cluster_file")" = 444 ] || fail "the mode of the cluster file is another one"
done
flip 20
flip $((32768 + 20))
pool 3 check
assert_has "$output" "cluster file '$(basename "$cluster_file")': .*checksum does not match"
flip 20
flip $((32768 + 20))
pool 0 check

# ---- the file of nodes ----

for version in v1 v2; do # of which the first has no view any more
	qemu-io -f qcow2 -c "write -q -P ${version#v} 1M 64k" "$STORE/b.qcow2"
	"$DEDUPSCAN" snapshot "$version" "$STORE/b.qcow2" >/dev/null
	compact
	assert_status 0
done
pool 0 collect
pool 0 collect
mv "$nodes" "$TMP/nodes"
for command in status check collect; do
	pool 3 "$command"
	assert_has "$output" "it is no whole pool: 'trees/.*' is missing; .*dedupscan pool repair"
done
capture "$DEDUPSCAN" list "$STORE"
assert_status 3
pool 1 repair --dry-run
assert_has "$output" "^node: the file of nodes is missing"
assert_has "$output" "^	can be repaired"
assert_has "$output" "no view has it"
[ ! -e "$nodes" ] || fail "a dry run made a file"
summary=$(tail -n 1 <<<"$output" | sed 's/could be //')
pool 1 repair
assert_eq "$summary" "$(tail -n 1 <<<"$output")" "repair did not what it said"
pool 1 check --read-data
assert_has "$output" "hits 'v1'"
whole a
pool 3 collect
assert_has "$output" "nothing is removed"
"$DEDUPSCAN" clone "$STORE/a.qcow2" "$STORE/a-again.qcow2"
whole a-again

# What was lost comes back with it.
cp "$TMP/nodes" "$nodes"
pool 0 check --read-data
whole a
