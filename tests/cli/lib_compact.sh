# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# For scripts that compact a store: $STORE lies on an XFS of its own.

require_root
require_tool mkfs.xfs losetup mount
STORE=$TMP/store
CATALOG=$TMP/catalog
mkdir -p "$STORE"

# make_xfs SIZE: mounts an empty one at $STORE
make_xfs()
{
	truncate -s "$1" "$TMP/fs"
	mkfs.xfs -q -m reflink=1 "$TMP/fs" 2>/dev/null || skip "mkfs.xfs makes no file system with reflinks here"
	mount -o loop "$TMP/fs" "$STORE" 2>/dev/null || skip "cannot mount a loop device here"
	trap 'chattr -R -i "$STORE" 2>/dev/null || true; umount "$STORE"' EXIT
}

# make_btrfs SIZE: the same with btrfs, where files that share are rebuilt
make_btrfs()
{
	require_tool mkfs.btrfs
	truncate -s "$1" "$TMP/fs"
	mkfs.btrfs -q -f -d single -m single "$TMP/fs" >/dev/null 2>&1 || skip "mkfs.btrfs makes no file system here"
	mount -o loop "$TMP/fs" "$STORE" 2>/dev/null || skip "cannot mount btrfs on a loop device here"
	trap 'umount "$STORE"' EXIT
}

# compact [OPTION|PATH]...: output and exit status in $output and $status
compact()
{
	capture "$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" "$@"
}

# copy FROM TO: that shares nothing
copy()
{
	cp --reflink=never "$1" "$2"
}

# used: bytes in use on the file system of the store, all that was freed being so
used()
{
	sync -f "$STORE"
	stat -f -c '%b %f %S' "$STORE" | { read -r all free size && echo $(((all - free) * size)); }
}

# look: all that a plan must not change, and compaction may not: names, sizes, times, modes, bytes
look()
{
	(cd "$STORE" && find . -type f ! -path '*/.dedupscan*' -printf '%p %i %n %s %T@ %m %u %g\n' | LC_ALL=C sort &&
		find . -type f ! -path '*/.dedupscan*' -print0 | LC_ALL=C sort -z | xargs -0r cksum)
}

# figure PYTHON: of the plan `p` that "compact --json" printed to $output
figure()
{
	# shellcheck disable=SC2154
	python3 -c "import json, sys; p = json.load(sys.stdin); print($1)" <<<"$output"
}

# assert_within LOW HIGH GOT [WHAT]
assert_within()
{
	[ "$3" -ge "$1" ] || fail "${4:-it} is $3, less than $1"
	[ "$3" -le "$2" ] || fail "${4:-it} is $3, more than $2"
}
