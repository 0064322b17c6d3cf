#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Rows C3, C4.
#
# A whole file of a pool is damaged or gone: that is told, repaired where it can be, and hits nothing but what needs that file.
. tests/lib.sh
. tests/cli/lib_pool.sh
require_tool qemu-img qemu-io python3

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
	assert_has "$output" "^1 damages repaired, 0 left"
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

# ---- a stub ----

stub=$(qemu-img info -U "$STORE/a.qcow2" | grep -oE "$POOL/views/[0-9a-f-]+\.qcow2" | head -n 1)
lift "$stub"
chmod u+w "$stub"
printf '?' | dd of="$stub" bs=1 seek=200 conv=notrunc status=none
pool 1 check # everybody who stands on it is told
for name in a a-20 a-$((32768 + 9)); do
	assert_has "$output" "^stub: .* hits '$STORE/$name.qcow2'; repair can rebuild it$"
done
assert_has "$output" " 3 damages$"
pool 0 repair
pool 0 check

# ---- directories, as a backup without empty ones leaves them out ----

for dir in trash quarantine index sealed views trees; do
	mode=$(stat -c %a "$POOL/$dir")
	mv "$POOL/$dir" "$TMP/$dir"
	pool 3 check
	assert_has "$output" "it is no whole pool: .*'$dir'.*dedupscan pool repair makes it again"
	case $dir in trees|sealed) assert_has "$output" "put it back from a backup" ;; esac
	pool 0 repair
	assert_has "$output" "^directory: '$dir' was missing$"
	assert_eq "$mode" "$(stat -c %a "$POOL/$dir")" "mode of $dir"
	pool 0 repair
	assert_has "$output" "^0 damages repaired, 0 left"
	pool 0 check --read-data
	whole a
	whole b
	lift -R "$TMP/$dir"
done
mv "$POOL/names" "$TMP/names"
pool 3 repair
assert_has "$output" "it is no whole pool: .*'names'.*put it back from a backup"
mv "$TMP/names" "$POOL/names"
for dir in lock names; do # nothing is made in what is no pool
	mkdir -p "$TMP/none/.dedupscan-pool/$dir"
done
capture "$DEDUPSCAN" pool repair "$TMP/none"
assert_status 3
assert_eq 2 "$(find "$TMP/none/.dedupscan-pool" -mindepth 1 | wc -l)" "files in what is no pool"

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
assert_has "$output" "hits '.*@v1'"
whole a
pool 3 collect
assert_has "$output" "nothing is removed"
"$DEDUPSCAN" clone "$STORE/a.qcow2" "$STORE/a-again.qcow2"
whole a-again

# What was lost comes back with it.
cp "$TMP/nodes" "$nodes"
pool 0 check --read-data
whole a

# ---- a cluster file that was cut ----

# cut SIZE
cut()
{
	lift "$cluster_file"
	truncate -s "$1" "$cluster_file"
}

# put_back: the cluster file as it was before it was cut
put_back()
{
	lift "$cluster_file"
	cp --sparse=always "$TMP/kept" "$cluster_file"
}

# gone IMAGE: nobody reads anything of it
gone()
{
	! qemu-img compare -f raw -F qcow2 "$TMP/$1.raw" "$STORE/$1.qcow2" >"$TMP/said" 2>&1 || fail "$1 is whole"
	! grep -q mismatch "$TMP/said" || fail "$1 reads otherwise"
	! "$DEDUPSCAN" restore "$STORE/$1.qcow2" "$TMP/restored" 2>/dev/null || fail "$1 was restored"
}

# enter IMAGE: a new one, which shares its system with the others
enter()
{
	random_file "$TMP/own" 2M
	cat "$TMP/golden" "$TMP/own" >"$TMP/$1.raw"
	qemu-img convert -f raw -O qcow2 "$TMP/$1.raw" "$STORE/$1.qcow2"
	compact
}

rm -f "$STORE"/a-*.qcow2
before=$(stat -c %s "$cluster_file")
enter c
assert_status 0
cp --sparse=always "$cluster_file" "$TMP/kept"
cut "$before"
pool 1 check
assert_has "$output" "^cluster file: '$(basename "$cluster_file")' was cut, .*put it back from a backup"
assert_has "$output" "^data: segment .* hits '$STORE/c.qcow2' at 6291456, 2097152 bytes$"
assert_has_not "$output" "hits '$STORE/[ab].qcow2'"
whole a
gone c
capture "$DEDUPSCAN" list "$STORE"
assert_status 0
"$DEDUPSCAN" restore "$STORE/a.qcow2" "$TMP/restored.raw" >/dev/null
cmp "$TMP/a.raw" "$TMP/restored.raw"
"$DEDUPSCAN" clone "$STORE/a.qcow2" "$STORE/a-cut.qcow2"
whole a-cut

# What enters now lies in another file; a version that gets a view does, too.
enter d
[ "$(stat -c %s "$cluster_file")" -eq "$before" ] || fail "something was added to a file that was cut"
assert_eq 2 "$(ls "$POOL"/*-*.qcow2 | wc -l)" "cluster files"
whole d
gone c
"$DEDUPSCAN" clone "$STORE/b.qcow2@v1" "$STORE/e.qcow2"
"$DEDUPSCAN" restore "$STORE/b.qcow2@v1" "$TMP/e.raw" >/dev/null
whole e
[ "$(stat -c %s "$cluster_file")" -eq "$before" ] || fail "something was added to a file that was cut"
capture "$DEDUPSCAN" pool repair "$STORE"
whole a
gone c

# One of several without a superblock, and one that is not there.
cut 0
pool 1 check
assert_has "$output" "^cluster file: cluster file '$(basename "$cluster_file")': no superblock .*put it back from a backup$"
assert_has "$output" "hits '$STORE/c.qcow2'"
whole d
gone c
mv "$cluster_file" "$TMP/cut"
pool 1 check
assert_has "$output" "^cluster file: the one with the number 0 is missing; put it back from a backup$"
whole d
cp "$TMP/cut" "$cluster_file"
put_back
pool 0 repair
pool 0 check --read-data
for name in a c d e; do whole $name; done

# The only one.
rm "$STORE"/*.qcow2
lift "$POOL"/*-*.qcow2
find "$POOL" -maxdepth 1 -name '*-*.qcow2' ! -path "$cluster_file" -delete
cut 0
for command in status check repair; do
	pool 3 "$command"
	assert_has "$output" "cluster file '$(basename "$cluster_file")': no superblock .*put it back from a backup$"
done
