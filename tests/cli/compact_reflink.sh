#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Sharing in place on XFS: bytes and times of images stay what they are, the space comes back, and whatever happened to an
# image since the scan costs at most its saving.  Rows B1, G3.
. tests/lib.sh
. tests/cli/lib_compact.sh

require_tool qemu-img python3
make_xfs 900M
mib=$((1024 * 1024))

begin_anew()
{
	rm -rf "${STORE:?}"/* "$CATALOG"
	random_file "$STORE/a.raw" 16M
}

# ---- all formats, any place ----

begin_anew
(head -c 20K /dev/urandom && cat "$STORE/a.raw" && head -c 100K /dev/zero) | cat >"$STORE/shifted.raw"
copy "$STORE/shifted.raw" "$STORE/copy.raw"
for options in "qcow2 x.qcow2" "qcow2 -o cluster_size=4k y.qcow2" "vmdk x.vmdk" "vhdx x.vhdx" \
	"qcow2 -o data_file=$STORE/data,data_file_raw=on z.qcow2"; do
	# shellcheck disable=SC2086 # several words
	qemu-img convert -O ${options% *} "$STORE/a.raw" "$STORE/${options##* }"
done
ln "$STORE/x.vmdk" "$STORE/linked.vmdk"
ln -s x.vmdk "$STORE/symbolic.vmdk"
sync
before=$(look) used_before=$(used)
compact --json --apply "$STORE"
assert_status 0
assert_eq "$before" "$(look)" "bytes and times"
predicted=$(figure 'p["saving"]')
assert_within $((100 * mib)) $((114 * mib)) "$predicted" "predicted"
assert_within $((predicted * 97 / 100)) $((predicted * 105 / 100)) $((used_before - $(used))) "given back"
compact --json --apply "$STORE"
assert_status 0
assert_eq 0 "$(figure 'len(p["steps"])')" "steps of the second run"
assert_eq "" "$(find "$STORE" -name '.dedupscan*')" "left in the store"

# ---- images that cannot be changed ----

begin_anew
for name in b c d e; do copy "$STORE/a.raw" "$STORE/$name.raw"; done
chattr +i "$STORE/d.raw"
if chattr +C "$STORE/e.raw" 2>/dev/null; then fail "XFS has files without copy-on-write now: try them"; fi
before=$(look) used_before=$(used)
compact --json --apply "$STORE"
assert_status 0
assert_has "$(figure '[i["why_not"] for i in p["images"] if "d.raw" in i["path"]]')" "immutable"
assert_within $((63 * mib)) $((65 * mib)) $((used_before - $(used))) "given back beside an immutable image"
assert_eq "$before" "$(look)" "bytes and times"
chattr -i "$STORE/d.raw"

begin_anew
copy "$STORE/a.raw" "$STORE/b.raw"
before=$(look)
sync
mount -o remount,ro "$STORE"
compact --apply "$STORE"
mount -o remount,rw "$STORE"
assert_status 1
assert_has "$output" "Read-only file system"
assert_eq "$before" "$(look)" "read-only"

copy "$STORE/a.raw" "$STORE/swap.raw"
chmod 600 "$STORE/swap.raw"
if mkswap "$STORE/swap.raw" >/dev/null 2>&1 && swapon "$STORE/swap.raw" 2>/dev/null; then
	used_before=$(used)
	compact --apply "$STORE"
	swapoff "$STORE/swap.raw"
	assert_has "$output" "swap.raw"
	assert_within $((15 * mib)) $((17 * mib)) $((used_before - $(used))) "given back beside a swap file"
fi

# ---- somebody who is not root ----

begin_anew
for name in b c d; do copy "$STORE/a.raw" "$STORE/$name.raw"; done
chown 12345 "$STORE/b.raw" "$STORE/c.raw"
chmod 644 "$STORE"/*
chmod 755 "$STORE"
mkdir -m 777 "$TMP/theirs"
chmod 711 "$TMP"
before=$(look) used_before=$(used)
cp "$DEDUPSCAN" "$TMP/dedupscan"
if command -v setpriv >/dev/null && setpriv --reuid 12345 --clear-groups "$TMP/dedupscan" --version >/dev/null 2>&1; then
	capture setpriv --reuid 12345 --clear-groups "$TMP/dedupscan" compact --no-idle --apply \
		--catalog "$TMP/theirs/catalog" "$STORE"
	assert_status 0
	assert_has "$output" "d.raw: it belongs to another user"
	assert_within $((31 * mib)) $((33 * mib)) $((used_before - $(used))) "given back to the owner of two of four"
	assert_eq "$before" "$(look)" "somebody else"
fi

# ---- what changed since the scan ----

begin_anew
for name in b c d e f g h; do copy "$STORE/a.raw" "$STORE/$name.raw"; done
compact "$STORE"
assert_status 0
truncate -s 5000000 "$STORE/b.raw"
truncate -s 40M "$STORE/c.raw"
dd if=/dev/urandom of="$STORE/d.raw" bs=1M seek=4 count=2 conv=notrunc status=none
mv "$STORE/e.raw" "$STORE/was-e.raw"
random_file "$STORE/e.raw" 16M
rm "$STORE/f.raw"
mkdir "$STORE/f.raw"
ln -sf a.raw "$STORE/g.raw"
dd if=/dev/urandom of="$STORE/a.raw" bs=1M seek=10 count=1 conv=notrunc status=none # the original
before=$(look)
sync
compact --no-scan --apply "$STORE"
assert_eq "$before" "$(look)" "images that changed since the scan"
used_before=$(used)
compact --apply "$STORE"
assert_status 0
assert_eq "$before" "$(look)" "after another scan"
compact --json --apply "$STORE"
assert_eq 0 "$(figure 'len(p["steps"])')" "steps after another scan"

# ---- no room at all ----

begin_anew
copy "$STORE/a.raw" "$STORE/b.raw"
dd if=/dev/urandom of="$STORE/filler" bs=1M status=none 2>/dev/null || true
before=$(look) used_before=$(used)
compact --json --apply "$STORE"
assert_eq "$before" "$(look)" "a full file system"
[ "$status" -eq 0 ] || assert_has "$output" "No space left"
[ "$status" -ne 0 ] || assert_within $((15 * mib)) $((17 * mib)) $((used_before - $(used))) "given back where all was full"
