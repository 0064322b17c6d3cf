#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# D9: a compaction of several images lets other commands have the pool and the workshop between two of them, and waits itself for
# who is in there; who only plans disturbs nobody.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img qemu-io python3

POOL=$STORE/.dedupscan-pool
NR=8

compact()
{
	"$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --bytes "$@"
}

# locked FILE STATUS ARGUMENT...: the program, of which nothing ends while another process has the lock; then what it says
locked()
{
	python3 - "$DEDUPSCAN" "$@" <<'END' >"$TMP/said" 2>&1 || fail "$*: $(cat "$TMP/said")"
import fcntl, struct, subprocess, sys
program, lock, status = sys.argv[1:4]
f = open(lock, "r+")
fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
p = subprocess.Popen([program, *sys.argv[4:]])
try:
    p.wait(0.7)
    sys.exit("it did not wait")
except subprocess.TimeoutExpired:
    f.close()
sys.exit(p.wait() != int(status))
END
}

head -c 20M /dev/urandom >"$TMP/disk.raw"
for n in $(seq "$NR"); do
	qemu-img convert -f raw -O qcow2 "$TMP/disk.raw" "$STORE/$n.qcow2"
done
settle

# ---- while it runs ----

compact --apply --limit 20M "$STORE" >"$TMP/compacted" 2>&1 &
running=$!
until [ -e "$POOL/lock" ] && ls "$POOL"/names/* >/dev/null 2>&1; do
	kill -0 "$running" 2>/dev/null || fail "it ended before anything was in the pool: $(cat "$TMP/compacted")"
	sleep 0.05
done
first=$(cat "$POOL"/names/* | grep -ao "$STORE/[0-9].qcow2" | head -n 1)
[ -n "$first" ] || fail "no name in the pool tells of an image"
"$DEDUPSCAN" clone --wait 5m "$first" "$STORE/clone-1.qcow2" || fail "a clone beside a compaction"
kill -0 "$running" 2>/dev/null || fail "it was over before others came in"
"$DEDUPSCAN" recover --wait 5m "$STORE" >/dev/null || fail "recover beside a compaction"
"$DEDUPSCAN" clone --wait 5m "$first" "$STORE/clone-2.qcow2" || fail "another clone beside a compaction"
wait "$running" || fail "the compaction: $(cat "$TMP/compacted")"
assert_has "$(cat "$TMP/compacted")" "$NR of $NR steps done"
for image in "$STORE"/*.qcow2; do
	assert_has "$(qemu-img info "$image")" "backing file: json:"
	qemu-img compare -q -f raw -F qcow2 "$TMP/disk.raw" "$image" || fail "$image differs"
done
"$DEDUPSCAN" pool check --read-data "$STORE" >/dev/null || fail "the pool"

# ---- while it folds ----

for image in "$STORE"/*.qcow2; do
	random_file "$TMP/noise" 16M
	qemu-io -f qcow2 -c "write -q -s $TMP/noise 0 16M" "$image"
done
"$DEDUPSCAN" snapshot v1 "$STORE"/*.qcow2 >/dev/null || fail "a snapshot"
for image in "$STORE"/*.qcow2; do
	qemu-img convert -f qcow2 -O raw "$image" "$TMP/$(basename "$image").raw"
done
settle
compact --apply --wait 5m "$STORE" >"$TMP/compacted" 2>&1 &
running=$!
python3 - "$POOL/lock" "$running" <<'END' || fail "it never had the pool: $(cat "$TMP/compacted")"
import fcntl, os, struct, sys, time
f = open(sys.argv[1], "r+")
while struct.unpack("hhqqi4x", fcntl.fcntl(f, 36, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)))[0] != fcntl.F_WRLCK:
    os.kill(int(sys.argv[2]), 0)  # F_OFD_GETLK above
    time.sleep(0.005)
END
capture "$DEDUPSCAN" pool status --wait 5m "$STORE"
assert_has "$output" "^sealed .* in [1-9][0-9]* overlays that wait"
wait "$running" || fail "the folding: $(cat "$TMP/compacted")"
capture "$DEDUPSCAN" pool status "$STORE"
assert_has "$output" "^sealed +0 B  in 0 overlays that wait"
assert_has "$output" "^folded .* in $((NR + 2)) overlays"
for image in "$STORE"/[0-9].qcow2 "$STORE"/clone-[12].qcow2; do
	qemu-img compare -q -f raw -F qcow2 "$TMP/$(basename "$image").raw" "$image" || fail "$image differs after the folding"
done

# ---- when it begins ----

cp "$STORE/clone-1.qcow2" "$TMP/kept.qcow2"
qemu-img convert -f raw -O qcow2 "$TMP/disk.raw" "$STORE/late.qcow2"
settle
for lock in "$STORE/.dedupscan/lock" "$POOL/lock"; do
	locked "$lock" 0 compact --no-idle --catalog "$CATALOG" --method pool --apply --wait 5m "$STORE"
done
assert_has "$(qemu-img info "$STORE/late.qcow2")" "backing file: json:"
locked "$STORE/.dedupscan/lock" 0 recover --wait 5m "$STORE"

# ---- who only plans waits for nobody ----

python3 - "$DEDUPSCAN" "$STORE/.dedupscan/lock" "$POOL/lock" "$CATALOG" "$STORE" <<'END' || fail "a plan beside a compaction"
import fcntl, struct, subprocess, sys
program, workshop, pool, catalog, store = sys.argv[1:]
held = [open(p, "r+") for p in (workshop, pool)]
for f in held:
    fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
sys.exit(subprocess.call([program, "compact", "--no-idle", "--catalog", catalog, "--method", "pool", "--wait", "0", store]))
END
