#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# H3: the cluster file and the stubs of a pool are immutable at rest.  root cannot change or remove them, neither by rm, nor by qemu-img; every
# command can, and leaves them as they were; a killed command is made good by the next, and a copy by the first that writes to it.
. tests/lib.sh
. tests/cli/lib_store.sh
require_root
require_tool qemu-img qemu-io chattr lsattr strace

touch "$TMP/probe"
chattr +i "$TMP/probe" 2>/dev/null || skip "no file can be immutable here"
chattr -i "$TMP/probe"
[ -e /sys/fs/selinux/enforce ] && skip "SELinux is enabled: nothing is made immutable"

POOL=$STORE/.dedupscan-pool
SAID=" of [0-9]+ files that nobody else is to change"

compact()
{
	capture "$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --apply --keep-originals 0 "$@" "$STORE"
	assert_status 0 "compact $*"
}

dedupscan()
{
	capture "$DEDUPSCAN" "$@"
	assert_status 0 "$*"
}

# Which files have the flag.
flagged()
{
	find "$POOL" -type f -exec lsattr {} + | awk '$1 ~ /i/ { print $2 }' | sort
}

expect_flags() # AFTER
{
	assert_eq "$(find "$POOL" -maxdepth 1 -name '*.qcow2'; find "$POOL/views" -name '*.qcow2' | sort)" "$(flagged)" "immutable after $1"
}

make_image() # NAME PATTERN
{
	qemu-img create -q -f qcow2 "$STORE/$1" 8M
	qemu-io -f qcow2 -c "write -q -P 1 0 3M" -c "write -q -P $2 5M 64k" "$STORE/$1" >/dev/null
}

put() # IMAGE PATTERN
{
	qemu-io -f qcow2 -c "write -q -P $2 6M 64k" "$STORE/$1" >/dev/null
}

for i in 1 2 3; do
	make_image "$i.qcow2" $((i + 10))
	qemu-img convert -O raw "$STORE/$i.qcow2" "$TMP/$i.raw"
done
compact
expect_flags "compact"
[ "$(flagged | wc -l)" -eq 4 ] || fail "a pool of three images has other files than four: $(flagged)"
dedupscan pool status "$STORE"
assert_has "$output" "^immutable +4 $SAID$"

# ---- root ----

clusters=$(find "$POOL" -maxdepth 1 -name '*.qcow2')
stub=$(find "$POOL/views" -name '*.qcow2' | head -1)
for file in "$clusters" "$stub"; do
	for try in "rm -f" "truncate -s 0" "chown 1:1" "chmod 666" "shred -n 1"; do
		# shellcheck disable=SC2086 # words
		capture $try "$file"
		[ "$status" -ne 0 ] || fail "$try changed $file"
		assert_has "$output" "Operation not permitted"
	done
	capture mv "$file" "$TMP/"
	assert_has "$output" "Operation not permitted"
done
put 1.qcow2 40
capture qemu-img commit "$STORE/1.qcow2"
[ "$status" -ne 0 ] || fail "an overlay was committed"
capture qemu-img commit -b "$stub" "$STORE/1.qcow2"
[ "$status" -ne 0 ] || fail "an overlay was committed to its stub"
capture qemu-io -f qcow2 -c "write -q 0 4k" "$stub"
assert_has "$output" "Operation not permitted"
capture qemu-img resize -q -f raw "$clusters" +1M
assert_has "$output" "Operation not permitted"
capture rm -rf "$POOL/views"
[ -e "$stub" ] || fail "rm -rf took a stub"
dedupscan pool check --read-data "$STORE"

# ---- each command ----

dedupscan clone "$STORE/2.qcow2" "$STORE/clone.qcow2"
expect_flags "clone"
put 2.qcow2 41
dedupscan snapshot v1 "$STORE/2.qcow2"
expect_flags "snapshot"
compact
expect_flags "a fold"
put 2.qcow2 42
dedupscan rollback "$STORE/2.qcow2@v1"
expect_flags "rollback"
compact
dedupscan delete "$STORE/2.qcow2@v1"
expect_flags "delete"
dedupscan expand --keep-originals 0 "$STORE/3.qcow2"
qemu-img compare -q "$STORE/3.qcow2" "$TMP/3.raw" || fail "expand"
rm "$STORE/3.qcow2" "$STORE/clone.qcow2"
for _ in 1 2 3; do
	dedupscan pool collect --drop-missing "$STORE"
	expect_flags "collect"
done
[ "$(flagged | wc -l)" -lt 6 ] || fail "nothing was collected: $(flagged)"
rm -f "$POOL"/index/*
chattr -i "$stub" 2>/dev/null && rm "$stub"
dedupscan pool repair "$STORE"
expect_flags "repair"
dedupscan pool check --read-data "$STORE"

# ---- moved, and copied ----

mv "$STORE" "$TMP/moved"
dedupscan repoint "$TMP/moved"
POOL=$TMP/moved/.dedupscan-pool
expect_flags "repoint"
mv "$TMP/moved" "$STORE"
dedupscan repoint "$STORE"
POOL=$STORE/.dedupscan-pool
expect_flags "repoint back"
mv "$POOL" "$TMP/was"
cp -a --sparse=always "$TMP/was" "$POOL"
assert_eq "" "$(flagged)" "flags of a copy"
dedupscan pool status "$STORE"
assert_has "$output" "^immutable +0 $SAID: the next command that changes the pool sets it$"
dedupscan clone "$STORE/1.qcow2" "$STORE/c.qcow2"
expect_flags "a clone in a copy"
remove_trees "$TMP/was"

# ---- killed: at syncs, renames and changes of flags of an import ----

killed=0
for call in fdatasync renameat2 ioctl; do
	for n in 2 5 11; do
		make_image "k.qcow2" $((50 + n))
		strace -f -qq -o /dev/null -e "trace=$call" -e "inject=$call:signal=KILL:when=$n" "$DEDUPSCAN" compact --no-idle --jobs 1 --catalog "$CATALOG" \
			--method pool --apply --keep-originals 0 "$STORE" >/dev/null 2>&1 && break
		killed=$((killed + 1))
		dedupscan pool check "$STORE" # reads
		dedupscan clone "$STORE/1.qcow2" "$STORE/after.qcow2"
		expect_flags "a clone after a kill at $call $n"
		rm "$STORE/after.qcow2"
		compact
		expect_flags "a compaction after a kill at $call $n"
		rm "$STORE/k.qcow2"
	done
done
[ "$killed" -gt 4 ] || fail "only $killed kills"
dedupscan pool check --read-data "$STORE"

# ---- as it was told ----

dedupscan pool repair --immutable=never "$STORE"
assert_eq "" "$(flagged)" "never"
dedupscan pool status "$STORE"
assert_has "$output" "^immutable +0 $SAID: as --immutable=never said$"
make_image x.qcow2 90
compact
assert_eq "" "$(flagged)" "never, kept"
make_image y.qcow2 91
compact --immutable=auto
expect_flags "auto"
capture "$DEDUPSCAN" pool repair --immutable=perhaps "$STORE"
assert_eq 2 "$status" "a word that is none"
assert_has "$output" "--immutable is auto, never or always, not 'perhaps'"

# What libvirt has to give to its user is not immutable, unless that is asked for.
dedupscan pool repair --immutable=never "$STORE"
chmod 440 "$clusters"
dedupscan pool repair --immutable=auto "$STORE"
lsattr "$clusters" | grep -q '^[^ ]*i' && fail "what not everybody may read is immutable"
dedupscan pool status "$STORE"
assert_has "$output" "$SAID: not everybody may read them, so libvirt has to change owners$"
dedupscan pool repair --immutable=always "$STORE"
expect_flags "always"

# ---- the way to remove a pool ----

for i in 1 2; do
	dedupscan expand --keep-originals 0 "$STORE/$i.qcow2"
done
chattr -R -i "$POOL"
rm -r "$POOL"
qemu-img compare -q "$STORE/2.qcow2" "$TMP/2.raw" && fail "nothing was written to it?"
qemu-img check -q "$STORE/1.qcow2"
