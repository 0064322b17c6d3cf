#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Loading libraries takes longer than a clone: what needs none does without, and what needs one says so when it is gone.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img python3 strace readelf

capture "$DEDUPSCAN" verify --record "$TMP/digests" "$TMP/none"
grep -q 'built without libcrypto' <<<"$output" && skip "needs libcrypto"

random_file "$TMP/a.raw" 8M
for i in 1 2; do
	qemu-img convert -O qcow2 "$TMP/a.raw" "$STORE/$i.qcow2"
done
"$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --apply "$STORE" >/dev/null
mkdir "$TMP/packed"
head -c 4M /dev/zero | tr '\0' x >"$TMP/b.raw"
qemu-img convert -c -O qcow2 -o compression_type=zstd "$TMP/b.raw" "$TMP/packed/1.qcow2"

# loaded ARGUMENT...: files of libraries that were not linked, one in a line
loaded()
{
	strace -f -o "$TMP/trace" -e trace=openat "$DEDUPSCAN" "$@" >/dev/null 2>&1
	sed -n 's,.*"\([^"]*/lib\(crypto\|sqlite3\|smartcols\|seccomp\|zstd\)\.so[^"]*\)".* = [0-9].*,\1,p' "$TMP/trace" | sort -u
}

assert_eq "" "$(loaded clone "$STORE/1.qcow2" "$STORE/clone.qcow2")" "clone"
assert_eq "" "$(loaded snapshot monday "$STORE/1.qcow2")" "snapshot"
assert_eq "" "$(loaded rollback --discard "$STORE/1.qcow2@monday")" "rollback"
# the controls
restored=$(loaded restore "$STORE/2.qcow2" "$TMP/restored.raw" --format raw)
assert_has "$restored" '/libcrypto'
reported=$(loaded report --no-idle --catalog "$TMP/controls" "$TMP/packed")
for name in sqlite3 smartcols seccomp zstd; do
	assert_has "$reported" "/lib$name"
done
# before the jail: each is opened once, by the process that starts the others
assert_eq 1 "$(grep -c '/libzstd\.so.* = [0-9]' "$TMP/trace")" "zstd is loaded once"
assert_eq 1 "$(grep -c '/libseccomp\.so.* = [0-9]' "$TMP/trace")" "seccomp is loaded once"

# who makes a package learns of all of them
for file in $restored $reported; do
	readelf -p .note.dlopen "$DEDUPSCAN" | grep -qF "\"${file##*/}\"" || fail "no note of ${file##*/}"
done

require_root
require_tool unshare
unshare -m true 2>/dev/null || skip "no mount namespaces here"
: >"$TMP/nothing"

# without NAME STATUS ARGUMENT...: while there is nothing in that library's file
without()
{
	local library wanted=$2
	library=$(readlink -f "$(grep "/lib$1\." <<<"$restored"$'\n'"$reported" | head -n 1)")
	shift 2
	# shellcheck disable=SC2016 # for the inner shell
	capture unshare -m sh -c 'mount --bind "$1" "$2" && shift 2 && exec "$@"' sh "$TMP/nothing" "$library" "$DEDUPSCAN" "$@"
	assert_status "$wanted" "$*"
}

without crypto 3 restore "$STORE/2.qcow2" "$TMP/again.raw" --format raw
assert_has "$output" 'libcrypto, which makes digests, cannot be used: .*too short.*package is libssl'
[ ! -e "$TMP/again.raw" ] || fail "a restored file without proof"
without crypto 3 pool check "$STORE"
without crypto 3 pool collect "$STORE"
without crypto 0 clone "$STORE/2.qcow2" "$STORE/other.qcow2"
"$DEDUPSCAN" pool check "$STORE" >/dev/null || fail "the pool is damaged"

packed=(--no-idle --catalog "$TMP/catalog2" "$TMP/packed")
without sqlite3 3 scan "${packed[@]}"
assert_has "$output" 'libsqlite3, which keeps catalogs, cannot be used: .*package is libsqlite3-0'
without seccomp 3 scan --sandbox=best "${packed[@]}"
assert_has "$output" 'libseccomp, which restricts processes, cannot be used: .*package is libseccomp2'
without zstd 1 scan "${packed[@]}"
assert_has "$output" '1.qcow2.*libzstd, which packs and unpacks clusters, cannot be used: .*package is libzstd1'
# nobody takes it for a fault of the image, which would stay noted
"$DEDUPSCAN" scan "${packed[@]}" >/dev/null
without smartcols 3 report "${packed[@]}"
assert_has "$output" 'libsmartcols, which writes tables, cannot be used: .*package is libsmartcols1'
without smartcols 0 report --json "${packed[@]}"
