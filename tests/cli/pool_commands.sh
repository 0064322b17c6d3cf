#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Each command on a pool, and each of its options, once: what it says, what it leaves, its exit status; and what it says of wrong
# use.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img qemu-io python3

POOL=$STORE/.dedupscan-pool

# run STATUS ARGUMENT...: output, with short paths and without times, in $output
run()
{
	local wanted=$1
	shift
	capture "$DEDUPSCAN" "$@"
	output=$(sed -E "s,$STORE/,S/,g; s,$TMP/,T/,g; s/[0-9]{8}T[0-9]{6}Z/TIME/g; s/^[0-9]{4}(-[0-9]{2}){2} [0-9]{2}:[0-9]{2} /TIME /" <<<"$output")
	assert_status "$wanted" "$*"
}

# says STATUS TEXT ARGUMENT...: exactly that
says()
{
	local text=$2
	run "$1" "${@:3}"
	assert_eq "$text" "$output" "${*:3}"
}

# wrong TEXT ARGUMENT...: of what is not understood at all
wrong()
{
	says 2 "dedupscan: $1
dedupscan: try 'dedupscan --help'" "${@:2}"
}

compact()
{
	run "$1" compact --no-idle --catalog "$CATALOG" --method pool "${@:2}"
}

# same IMAGE IMAGE [FORMAT of the second]
same()
{
	qemu-img compare -q -f qcow2 -F "${3:-qcow2}" "$1" "$2" || fail "$1 and $2 differ"
}

# put PATTERN OFFSET LENGTH IMAGE
put()
{
	qemu-io -f qcow2 -c "write -P $1 $2 $3" "$4" >/dev/null
}

# rows: of "list", less times and sizes
rows()
{
	"$DEDUPSCAN" list "$@" | sed -E "s,.* $STORE/,,; s/[0-9]{8}T[0-9]{6}Z/TIME/g"
}

# with_lock F_WRLCK|F_RDLCK ARGUMENT...: while another process changes the pool, or reads it
with_lock()
{
	python3 - "$POOL/lock" "$1" "$DEDUPSCAN" "${@:2}" <<'END'
import fcntl, struct, subprocess, sys
f = open(sys.argv[1], "r+")
fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", getattr(fcntl, sys.argv[2]), 0, 0, 0, 0))
sys.exit(subprocess.call(sys.argv[3:]))
END
}

# ---- without a pool ----

says 2 "dedupscan: 'T/store' holds no pool" pool status "$STORE"
says 2 "dedupscan: 'T/store' holds no pool" list "$STORE"
says 2 "dedupscan: there is no pool at 'T/nowhere'" pool status --pool "$TMP/nowhere"
says 2 "dedupscan: cannot find 'nowhere': No such file or directory" pool status nowhere
random_file "$TMP/a.raw" 6M
truncate -s 8M "$TMP/a.raw"
qemu-img convert -f raw -O qcow2 "$TMP/a.raw" "$STORE/a.qcow2"
says 2 "dedupscan: 'S/a.qcow2' names no pool, and no directory above holds one; --pool DIR says where it is" clone "$STORE/a.qcow2" "$STORE/c.qcow2"
says 2 "dedupscan: 'S/a.qcow2' names no pool, and no directory above holds one; --pool DIR says where it is" expand "$STORE/a.qcow2"
says 2 "dedupscan: 'T/store' names no pool, and no directory above holds one; --pool DIR says where it is" repoint "$STORE"

# ---- wrong use ----

for command in clone snapshot rollback diff delete prune restore expand repoint pool; do
	wrong "too few arguments" "$command"
	wrong "unrecognized option '--nonsense'" "$command" --nonsense
	run 0 "$command" --help
	assert_has "$output" "^usage: dedupscan $command "
done
wrong "too many arguments, from 'c' on" clone a b c
wrong "too many arguments, from 'b' on" rollback a b
wrong "'x' is not a number from 0 to 100000" clone --count x a b
wrong "--count 0 would make no clone" clone --count 0 a b
wrong "'-1' is not a number from 0 to 1000000" prune --keep-last -1 a
wrong "--cluster-size must be 4K, 16K or 64K" compact --cluster-size 8K "$STORE"
wrong "there is no method 'pol'; there are reflink, holes, relayout, rebuild and pool" compact --method pol "$STORE"
says 2 "dedupscan: 'frob' is nothing that can be done with a pool" pool frob
for arguments in "status --dry-run" "status --memory 64M" "check --evacuate 5" "check --immutable never" "collect --read-data" \
	"collect --immutable never" "repair --drop-missing" "repair --memory 64M"; do
	option=${arguments#* } option=${option%%[ =]*}
	# shellcheck disable=SC2086 # several words
	says 2 "dedupscan: pool ${arguments%% *} has no option $option" pool $arguments "$STORE"
done
says 2 "dedupscan: pool repair reads all data, or none: --read-data" pool repair --read-data=5% "$STORE"
says 2 "dedupscan: --memory must be at least 32.0 MiB" pool collect --memory 1 "$STORE"
for command in rollback delete; do
	says 2 "dedupscan: which version? name it as IMAGE@VERSION; dedupscan list IMAGE tells them" "$command" "$STORE/a.qcow2"
done

# ---- into the pool ----

qemu-img convert -f raw -O qcow2 "$TMP/a.raw" "$STORE/b.qcow2"
put 7 1M 256K "$STORE/b.qcow2"
qemu-img convert -O raw "$STORE/b.qcow2" "$TMP/b.raw"
cp "$TMP/a.raw" "$STORE/r.raw"
qemu-img convert -f raw -O qcow2 "$TMP/a.raw" "$STORE/snap.qcow2"
qemu-img snapshot -c s "$STORE/snap.qcow2"
compact 0 "$STORE"
assert_has "$output" '1  pool .* S/a.qcow2$'
assert_has "$output" '2  pool .* S/b.qcow2$'
assert_has "$output" 'S/r.raw: only qcow2 images enter the pool'
assert_has "$output" 'S/snap.qcow2: it has internal snapshots'
[ ! -e "$POOL" ] || fail "a plan made a pool"
compact 0 --only '[ab].*' --plan-out "$TMP/plan.json" "$STORE"
run 0 compact --no-idle --catalog "$CATALOG" --apply --plan "$TMP/plan.json" "$STORE"
assert_has "$output" '^2 of 2 steps done'
same "$STORE/a.qcow2" "$TMP/a.raw" raw
same "$STORE/b.qcow2" "$TMP/b.raw" raw
rm "$STORE/r.raw" "$STORE/snap.qcow2"
[ "$(stat -c %b "$STORE/a.qcow2")" -lt 64 ] || fail "an overlay is large"
qemu-img check -q "$STORE/a.qcow2"

says 0 "MADE                    DISK         OWN  IMAGE
                     8.0 MiB    12.0 KiB  S/a.qcow2
                     8.0 MiB    12.0 KiB  S/b.qcow2" list "$STORE"
says 0 "MADE                    DISK         OWN  IMAGE
                     8.0 MiB    12.0 KiB  S/b.qcow2" list "$STORE/b.qcow2"
qemu-img create -q -f qcow2 "$STORE/stranger.qcow2" 1M
for name in stranger.qcow2 gone.qcow2 a.qcow2@v0; do
	says 2 "dedupscan: 'S/$name' is no image of the pool 'S/.dedupscan-pool'" list "$STORE/$name"
done
says 2 "dedupscan: 'S/stranger.qcow2' is no image of the pool 'S/.dedupscan-pool'" prune --keep-last 1 "$STORE/stranger.qcow2"
says 0 "" prune --keep-last 1 "$STORE/a.qcow2"
rm "$STORE/stranger.qcow2"
(cd "$STORE" && "$DEDUPSCAN" list) | grep -q a.qcow2 || fail "list without DIR"
assert_eq "a.qcow2 b.qcow2" "$(rows --pool "$POOL" | tail -n +2 | xargs)" "list --pool"

run 0 pool status "$STORE"
assert_has "$output" "^S/.dedupscan-pool: 2 images, 0 versions, 2 views$"
assert_has "$output" "^disks +12.0 MiB "
assert_has "$output" "^distinct +6.[0-9] MiB .*: 2.0 : 1$"
for line in metadata sealed unreached "on disk"; do
	assert_has "$output" "^$line +[0-9.]+ "
done
says 0 "$output" pool status --pool "$POOL"
says 0 "$output" pool status "$POOL"

# ---- clone ----

says 0 "" clone "$STORE/a.qcow2" "$STORE/c.qcow2"
same "$STORE/c.qcow2" "$TMP/a.raw" raw
says 2 "dedupscan: 'S/c.qcow2' is there already" clone "$STORE/a.qcow2" "$STORE/c.qcow2"
says 0 "" clone --count 2 "$STORE/a.qcow2" "$STORE/n-%02d.qcow2"
says 0 "" clone --count 2 --assume-idle --pool "$POOL" "$STORE/a.qcow2" "$STORE/m.qcow2"
for name in n-01 n-02 m-1 m-2; do same "$STORE/$name.qcow2" "$TMP/a.raw" raw; done
run 2 clone --count 2 "$STORE/a.qcow2" "$STORE/x-%d-%d.qcow2"
assert_has "$output" "one %d, or one like %03d, and %% for %"
says 2 "dedupscan: there is no version 'v0' of 'S/a.qcow2'" clone "$STORE/a.qcow2@v0" "$STORE/x.qcow2"
says 2 "dedupscan: cannot find 'nowhere.qcow2': No such file or directory" clone nowhere.qcow2 "$STORE/x.qcow2"
says 2 "dedupscan: cannot find the directory of '/nowhere/x.qcow2': No such file or directory" clone "$STORE/a.qcow2" /nowhere/x.qcow2
for command in clone restore; do
	says 2 "dedupscan: 'S/.dedupscan-pool/x.qcow2' would lie among files of dedupscan's own; name another directory" \
		$command "$STORE/a.qcow2" "$POOL/x.qcow2"
done
exec 9<"$STORE/b.qcow2"
run 4 snapshot busy "$STORE/b.qcow2"
assert_has "$output" "^dedupscan: image 'S/b.qcow2': in use by pid [0-9]+.*; stop that, or try again later$"
run 1 expand "$STORE/b.qcow2"
assert_has "$output" "in use by pid [0-9]+"
exec 9<&-
rm "$STORE"/m-*.qcow2

# ---- snapshot: two disks and a file ----

# one of several names of a file is refused, and leaves no trace; nor does a copy beside it
ln "$STORE/n-01.qcow2" "$STORE/second.qcow2"
cp "$STORE/n-01.qcow2" "$STORE/copy.qcow2"
before=$(rows "$STORE")
for command in "snapshot v1 $STORE/second.qcow2" "snapshot v1 $STORE/copy.qcow2 $STORE/second.qcow2" \
	"clone $STORE/second.qcow2 $STORE/x.qcow2" "rollback $STORE/second.qcow2@v1" "expand $STORE/second.qcow2"; do
	# shellcheck disable=SC2086 # several words
	run $([[ $command = expand* ]] && echo 1 || echo 3) $command
	assert_has "$output" "S/second.qcow2': it has 2 names \(hard links\), of which only one would be"
	assert_eq "$before" "$(rows "$STORE")" "images that the pool knows after: $command"
done
rm "$STORE/second.qcow2" "$STORE/copy.qcow2"

echo "<domain/>" >"$TMP/vm.xml"
put 9 2M 64K "$STORE/a.qcow2"
qemu-img convert -O raw "$STORE/a.qcow2" "$TMP/a1.raw"
says 0 "version 'v1': 1 disks sealed, 1 unchanged" snapshot --file "$TMP/vm.xml" --pool "$POOL" v1 "$STORE/a.qcow2" "$STORE/b.qcow2"
grep -qx "bytes <domain/>%0A" "$POOL"/names/* || fail "the file is not kept"
says 2 "dedupscan: there is a version 'v1' of 'S/a.qcow2'" snapshot v1 "$STORE/a.qcow2"
says 2 "dedupscan: image 'S/a.qcow2' is named twice" snapshot v2 "$STORE/a.qcow2" "$STORE/a.qcow2"
says 2 "dedupscan: the name of a version has no '@', no '/' and no control characters" snapshot v@1 "$STORE/a.qcow2"
says 2 "dedupscan: cannot find 'nowhere.xml': No such file or directory" snapshot --file nowhere.xml v2 "$STORE/a.qcow2"
run 2 snapshot v2 "$TMP/a.raw" "$STORE/a.qcow2"
same "$STORE/a.qcow2" "$TMP/a1.raw" raw
assert_eq "$(printf '%s\n' a.qcow2 "a.qcow2@v1 (sealed)")" "$(rows "$STORE/a.qcow2" | tail -n +2)" "a sealed version"
put 10 3M 64K "$STORE/a.qcow2"
qemu-img convert -O raw "$STORE/a.qcow2" "$TMP/a2.raw"
run 3 snapshot v2 "$STORE/a.qcow2"
assert_has "$output" "what its last version sealed waits to be folded into the pool; dedupscan compact --apply does that"
says 3 "dedupscan: 'S/a.qcow2@v1' waits to be folded into the pool; dedupscan compact --apply does that" \
	diff "$STORE/a.qcow2@v1" "$STORE/b.qcow2"
run 0 pool status "$STORE"
assert_has "$output" "^sealed +[0-9.]+ KiB  in 1 overlays"

# ---- rollback ----

says 0 "what it was is kept as version 'before-rollback-TIME'" rollback "$STORE/a.qcow2@v1"
same "$STORE/a.qcow2" "$TMP/a1.raw" raw
kept=$("$DEDUPSCAN" list "$STORE/a.qcow2" | sed -nE 's/.*@(before-rollback-[^ ]*).*/\1/p')
says 2 "dedupscan: there is no version 'v9' of 'S/a.qcow2'" rollback "$STORE/a.qcow2@v9"

# ---- whatever the methods, compact --apply folds ----

run 0 compact --no-idle --catalog "$CATALOG" --apply "$STORE"
assert_eq "" "$(rows "$STORE" | grep sealed || true)" "sealed versions after a compaction"
same "$STORE/a.qcow2" "$TMP/a1.raw" raw

says 0 "" diff "$STORE/a.qcow2@v1" "$STORE/a.qcow2"
says 1 "3145728 65536" diff "$STORE/a.qcow2@v1" "$STORE/a.qcow2@$kept"
says 1 "1048576 262144
2097152 65536" diff --pool "$POOL" "$STORE/a.qcow2" "$STORE/b.qcow2"

put 11 0 64K "$STORE/b.qcow2"
says 3 "dedupscan: 'S/b.qcow2' was written to; dedupscan snapshot makes a version of it, which can be compared" \
	diff "$STORE/a.qcow2" "$STORE/b.qcow2"
says 0 "" rollback --discard --assume-idle --pool "$POOL" "$STORE/b.qcow2@v1"
same "$STORE/b.qcow2" "$TMP/b.raw" raw
assert_eq "b.qcow2 b.qcow2@v1" "$(rows "$STORE/b.qcow2" | tail -n +2 | xargs)" "nothing is kept with --discard"

says 0 "" clone --compat "$STORE/a.qcow2@v1" "$STORE/old.qcow2"
same "$STORE/old.qcow2" "$TMP/a1.raw" raw
qemu-img info "$STORE/old.qcow2" | grep -q 'extended l2: false' || fail "--compat"

# ---- restore ----

for format in raw qcow2 vmdk vhd vhdx; do
	says 0 "" restore "$STORE/a.qcow2@$kept" "$TMP/out.$format"
	qemu-img compare -q -f raw -F "${format/%vhd/vpc}" "$TMP/a2.raw" "$TMP/out.$format" || fail "restored as $format"
done
if qemu-img compare -q -f qcow2 -F raw "$STORE/a.qcow2" "$TMP/out.raw"; then fail "the version is as the image"; fi
says 0 "" restore --format qcow2 --kind 2 --cluster-size 1M --pool "$POOL" "$STORE/b.qcow2" "$TMP/out"
assert_has "$(qemu-img info "$TMP/out")" "compat: 0.10"
assert_has "$(qemu-img info "$TMP/out")" "cluster_size: 1048576"
same "$TMP/out" "$TMP/b.raw" raw
says 2 "dedupscan: 'out.raw' is there already" restore "$STORE/a.qcow2" "$TMP/out.raw"
says 2 "dedupscan: there is no format 'iso' to write; --format takes raw, qcow2, vmdk, vhd and vhdx" restore "$STORE/a.qcow2" "$TMP/out.iso"
says 2 "dedupscan: vhd images of kind 'thin' are not written" restore --kind thin "$STORE/a.qcow2" "$TMP/thin.vhd"
says 2 "dedupscan: raw images have no clusters or blocks" restore --cluster-size 4K "$STORE/a.qcow2" "$TMP/thin.raw"
assert_eq "" "$(find "$TMP" -name '*thin*')" "left by what failed"

# ---- an image that is gone has its versions ----

rm "$STORE/b.qcow2"
assert_eq "b.qcow2 (gone) b.qcow2@v1" "$(rows "$STORE/b.qcow2" | tail -n +2 | xargs)" "of an image that is gone"
says 0 "" clone "$STORE/b.qcow2@v1" "$STORE/b2.qcow2"
same "$STORE/b2.qcow2" "$TMP/b.raw" raw
assert_eq 644 "$(stat -c %a "$STORE/b2.qcow2")" "mode of a clone whose image is gone, and everybody can read the pool"
beside=$(with_lock F_RDLCK pool collect --wait 0 --dry-run "$STORE") || fail "a dry run beside somebody who reads"
assert_has "$beside" "^a collection would free"
run 0 pool collect --dry-run --drop-missing "$STORE"
assert_has "$output" "^'S/b.qcow2' is not there any more$"
assert_has "$(rows "$STORE")" "b.qcow2 \(gone\)"
run 0 pool collect --drop-missing "$STORE"
assert_has "$output" "^'S/b.qcow2' is not there any more$"
assert_has_not "$(rows "$STORE")" "gone"
same "$STORE/b2.qcow2" "$TMP/b.raw" raw

# ---- delete, prune ----

says 0 "" delete --pool "$POOL" "$STORE/b.qcow2@v1"
assert_has_not "$(rows "$STORE")" "@v1"
says 2 "dedupscan: there is no version 'v1' of 'S/a.qcow2'" delete "$STORE/a.qcow2@v1"
for n in 1 2 3; do run 0 snapshot "p$n" "$STORE/a.qcow2"; done
says 2 "dedupscan: nothing says what to keep; --keep-last, --keep-daily and the like do" prune "$STORE/a.qcow2"
says 0 "last      p3
last      p2
delete    p1
delete    before-rollback-TIME" prune --keep-last 2 --pool "$POOL" "$STORE/a.qcow2"
for rule in daily weekly monthly yearly; do
	run 0 prune "--keep-$rule" 1 "$STORE/a.qcow2"
	assert_has "$output" "^$rule +p3$"
	assert_has "$output" "^delete +p2$"
done
run 0 prune --keep-last 1 --apply "$STORE/a.qcow2"
assert_has "$output" "^deleted +p1$"
assert_eq "a.qcow2 a.qcow2@p3" "$(rows "$STORE/a.qcow2" | tail -n +2 | xargs)" "after a prune"

# ---- expand ----

status=0
output=$(with_lock F_WRLCK expand --wait 0 "$STORE/b2.qcow2" 2>&1) || status=$?
assert_status 1 "expand beside another one"
assert_has "$output" "b2.qcow2': .*another dedupscan uses it; wait for it"
python3 - "$DEDUPSCAN" "$POOL/lock" "$STORE/b2.qcow2" <<'END' || fail "an expansion that waits"
import fcntl, struct, subprocess, sys
program, lock, image = sys.argv[1:]
f = open(lock, "r+")
fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
p = subprocess.Popen([program, "expand", "--wait", "5m", "--keep-originals", "0", image])
try:
    p.wait(0.5)
    sys.exit("it did not wait")
except subprocess.TimeoutExpired:
    f.close()
sys.exit(p.wait())
END
says 0 "" expand --keep-originals 0 --assume-idle --pool "$POOL" --sandbox best "$STORE/a.qcow2"
for name in a b2; do
	assert_has_not "$(qemu-img info "$STORE/$name.qcow2")" "backing"
done
same "$STORE/a.qcow2" "$TMP/a1.raw" raw
says 2 "dedupscan: cannot find 'nowhere': No such file or directory" expand "$STORE/old.qcow2" nowhere
assert_has "$(qemu-img info "$STORE/old.qcow2")" "backing"
says 1 "dedupscan: 'S/a.qcow2': it stands on no pool" expand "$STORE/a.qcow2" "$STORE/old.qcow2"
assert_has_not "$(qemu-img info "$STORE/old.qcow2")" "backing"
same "$STORE/old.qcow2" "$TMP/a1.raw" raw
same "$STORE/c.qcow2" "$TMP/a.raw" raw

# ---- collect: in two steps ----

run 0 pool collect --memory 64M "$STORE"
assert_has "$output" "go with the next collection$"
run 0 pool collect "$STORE"
assert_has "$output" "^freed [0-9.]+ [KM]iB; 6.* MiB is in use$"
assert_has "$output" "^[1-9] views removed, 0 go with the next collection$"
run 0 pool collect "$STORE"
assert_has "$output" "^freed 0 B; "
same "$STORE/c.qcow2" "$TMP/a.raw" raw
same "$STORE/n-02.qcow2" "$TMP/a.raw" raw

# ---- check, repair ----

run 0 pool check "$STORE"
assert_has "$output" ", 0 segments looked at, 0 B of data read: 0 damages$"
run 0 pool check --read-data --pool "$POOL"
assert_has "$output" ", [1-9] segments looked at, .* MiB of data read: 0 damages$"
says 0 "0 damages repaired, 0 left; the data was not read (--read-data)" pool repair "$STORE"

stub=$(qemu-img info --output=json "$STORE/c.qcow2" | grep -o '[0-9a-f-]*\.qcow2' | grep -xE '[0-9a-f-]{36}\.qcow2' | head -1)
lift "$POOL/views/$stub"
chmod 644 "$POOL/views/$stub"
printf x | dd of="$POOL/views/$stub" bs=1 seek=1000 conv=notrunc status=none
run 1 pool check "$STORE"
assert_has "$output" "^stub: stub '$stub': it is damaged, .*; hits 'S/.*; repair can rebuild it$"
run 0 pool repair --dry-run "$STORE"
assert_has "$output" "can be repaired$"
assert_has "$output" "^1 damages could be repaired, 0 left;"
run 1 pool check "$STORE"
run 0 pool repair "$STORE"
assert_has "$output" "^1 damages repaired, 0 left;"
run 0 pool check --read-data "$STORE"
same "$STORE/c.qcow2" "$TMP/a.raw" raw

# A header that is damaged, though its stub is there.
file=$(echo "$POOL"/*.qcow2)
lift "$file"
printf x | dd of="$file" bs=1 seek=$((65536 + 1000)) conv=notrunc status=none
run 1 pool check "$STORE"
assert_has "$output" "slot 1.*repair can rebuild it$"
for command in status collect; do
	says 3 "dedupscan: pool 'S/.dedupscan-pool': nothing is removed: header in slot 1: the header is damaged or was changed" \
		pool $command "$STORE"
done
run 0 pool repair "$STORE"
assert_has "$output" " damages repaired, 0 left;"
run 0 pool check --read-data "$STORE"
same "$STORE/c.qcow2" "$TMP/a.raw" raw
run 0 pool collect "$STORE"
run 0 pool collect "$STORE"

# verify --pool is the same
run 0 pool check --read-data "$STORE"
whole=$output
says 0 "$whole" verify --pool --read-data --no-idle "$STORE"
says 0 "$whole" verify --read-data --pool "$POOL"
says 0 "$whole" verify --pool="$POOL" --read-data=100%
assert_has "$(cd "$STORE" && "$DEDUPSCAN" verify --pool)" ", 0 B of data read: 0 damages$"
[ ! -e "$POOL/checked" ] || fail "noted what was read, which was all"
says 2 "dedupscan: 'T/nowhere' holds no pool" verify --pool "$(mkdir "$TMP/nowhere" && echo "$TMP/nowhere")"
rmdir "$TMP/nowhere"
for share in 0 0% 101% -5% x 5%% ''; do
	says 2 "dedupscan: '$share' is no share of the data; 5% is, for example
dedupscan: try 'dedupscan --help'" verify --pool "--read-data=$share" "$STORE"
done
wrong "unrecognized option '--record'" verify --pool --record "$TMP/digests" "$STORE"
segments=$(grep -oE '[0-9]+ segments' <<<"$whole" | grep -oE '[0-9]+')
read=0
for _ in 1 2 3 4; do
	run 0 pool check --read-data=25% "$STORE"
	read=$((read + $(grep -oE '[0-9]+ segments' <<<"$output" | grep -oE '[0-9]+')))
done
assert_eq "$segments" "$read" "segments that four quarters have"
grep -qxE '[0-9a-f]{8}' "$POOL/checked" || fail "not noted how far the data was read"

# an index that was lost is told of, and made anew
find "$POOL/index" -type f -delete
run 1 verify --pool "$STORE"
assert_has "$output" "^index: keys of blocks are missing, .*; repair can rebuild it$"
run 0 pool repair "$STORE"
assert_has "$output" "^index: keys of blocks are missing"
assert_has "$output" "^1 damages repaired, 0 left;"
says 0 "$whole" verify --pool --read-data "$STORE"

# a name that is damaged: what can be told is told, and nothing is removed
name=$(find "$POOL/names" -type f | sort -V | head -1)
cp "$name" "$TMP/name"
printf x | dd of="$name" bs=1 seek=40 conv=notrunc status=none
run 1 list "$STORE"
assert_has "$output" "^dedupscan: 'names/${name##*/}': .*; dedupscan pool repair tells what to do$"
assert_has "$output" "S/n-02.qcow2$"
for command in "pool status" "pool collect" "pool collect --drop-missing"; do
	# shellcheck disable=SC2086 # several words
	run 3 $command "$STORE"
	assert_has "$output" "'names/${name##*/}': .*; dedupscan pool repair tells what to do$"
done
run 1 pool repair "$STORE"
assert_has "$output" "^name: 'names/${name##*/}': .*; put it back from a backup, or move it away"
assert_has "$output" "left as it is$"
cp "$TMP/name" "$name"
says 0 "$whole" verify --pool --read-data "$STORE"

# data that is damaged: nothing repairs that, and nobody gets wrong bytes without being told
clusters=$(find "$POOL" -maxdepth 1 -name '*.qcow2')
lift "$clusters"
chmod 644 "$clusters"
printf 'damaged' | dd of="$clusters" bs=1 seek=$(((64 << 30) + 100000)) conv=notrunc status=none
chmod 444 "$clusters"
run 0 pool check "$STORE"
run 1 pool check --read-data "$STORE"
assert_has "$output" "; hits 'S/.*at [0-9]+, [0-9]+ bytes"
says 1 "$output" verify --pool --read-data "$STORE"
run 3 restore "$STORE/c.qcow2" "$TMP/damaged.raw"
[ ! -e "$TMP/damaged.raw" ] || fail "damaged data was restored"

# ---- others at work, pools that are not to be trusted ----

for arguments in "pool status $STORE" "list $STORE" "clone $STORE/c.qcow2 $STORE/x.qcow2" "pool collect $STORE"; do
	status=0
	# shellcheck disable=SC2086 # several words
	output=$(with_lock F_WRLCK $arguments --wait 0 2>&1) || status=$?
	assert_status 4 "$arguments"
	assert_has "$output" "another dedupscan (uses|changes) it; wait for it"
done
# who wants nothing but a moment gets it, all of them; who is stopped meanwhile says so
python3 - "$DEDUPSCAN" "$POOL/lock" "$STORE" <<'END' || fail "waiting for another one"
import fcntl, signal, struct, subprocess, sys, time
program, lock, store = sys.argv[1:]


def start(*words):
    return subprocess.Popen([program, *words, "--wait", "5m"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def handles_signals(pid):
    with open(f"/proc/{pid}/status") as f:
        caught = int(next(line for line in f if line.startswith("SigCgt:")).split()[1], 16)
    return caught >> (signal.SIGTERM - 1) & 1


f = open(lock, "r+")
fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
clones = [start("clone", f"{store}/c.qcow2", f"{store}/w{i}.qcow2") for i in range(8)]
stopped = start("pool", "status", store)
while not handles_signals(stopped.pid):
    time.sleep(0.01)
stopped.terminate()
said = stopped.communicate()[1]
assert stopped.returncode == 75 and "stopped while another dedupscan was at work" in said, (stopped.returncode, said)
assert all(c.poll() is None for c in clones), "one did not wait"
# nor is the image opened of which its pool may just be made: that would end it
image = open(f"{store}/a.qcow2", "r+")
fcntl.fcntl(image, fcntl.F_SETLEASE, fcntl.F_WRLCK)
signal.signal(signal.SIGIO, signal.SIG_IGN)
for words in (["list", f"{store}/a.qcow2"], ["clone", f"{store}/a.qcow2", f"{store}/no.qcow2"], ["snapshot", "no", f"{store}/a.qcow2"]):
    assert subprocess.run([program, *words, "--wait", "0"], capture_output=True).returncode == 4, words
    assert fcntl.fcntl(image, fcntl.F_GETLEASE) == fcntl.F_WRLCK, f"{words} opened it"
image.close()
f.close()
for c in clones:
    said = c.communicate()[1]
    assert c.returncode == 0, said
END
for i in 0 1 2 3 4 5 6 7; do same "$STORE/w$i.qcow2" "$STORE/c.qcow2"; done
rm "$STORE"/w?.qcow2
# F8
chmod 777 "$POOL/views"
run 3 pool status "$STORE"
assert_has "$output" "others than its owner can write to 'views' \(mode 0777\); see what is in it, then chmod 711$"
chmod 711 "$POOL/views"
run 0 pool status "$STORE"

# ---- the pool is elsewhere ----

remove_trees "${STORE:?}"/* "$POOL" "$CATALOG"
for n in 1 2; do
	qemu-img convert -f raw -O qcow2 "$TMP/a.raw" "$STORE/$n.qcow2"
done
# G6: what not everybody can read does not mix with what more can
chmod 600 "$STORE/1.qcow2"
chmod 644 "$STORE/2.qcow2"
compact 1 --apply --pool "$TMP/pool" --cluster-size 64K --compat --keep-originals 0 "$STORE"
assert_has "$output" "^1 of 2 steps done, 1 skipped"
assert_has "$output" "S/2.qcow2: not everybody who can read the pool can read it, .* --cross-owner has it enter"
says 2 "dedupscan: 'T/store' holds no pool" list "$STORE"
assert_eq "1.qcow2" "$(rows --pool "$TMP/pool" | tail -n +2 | xargs)" "in the pool"
qemu-img info "$STORE/1.qcow2" | grep -q 'extended l2: false' || fail "--compat"
same "$STORE/1.qcow2" "$TMP/a.raw" raw
