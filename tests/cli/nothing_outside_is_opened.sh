#!/bin/bash
# E1, E2, E3: whatever images call their backing or data file, no file outside the roots is ever opened: seen in every call.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img strace
strace -o /dev/null true 2>/dev/null || skip "needs leave to trace processes"

secret=$TMP/secret-canary
random_file "$secret" 1M
mkdir "$TMP/elsewhere"
cp "$secret" "$TMP/elsewhere/secret-canary"
ln -s ../secret-canary "$STORE/link-out"
ln -s ../elsewhere "$STORE/dir-out"
i=0
for name in ../secret-canary "$secret" link-out dir-out/secret-canary "file:$secret" "json:{\"driver\":\"file\",\"filename\":\"$secret\"}" \
	"nbd:unix:$secret" "fat:$TMP/elsewhere" "ssh://host/$secret" /proc/self/cwd/secret-canary /dev/zero "fd:$secret"; do
	i=$((i + 1))
	qemu-img create -q -f qcow2 "$STORE/$i.qcow2" 1M
	qemu-img rebase -u -b "$name" -F raw "$STORE/$i.qcow2"
done
qemu-img create -q -f qcow2 -o data_file="$TMP/elsewhere/data-canary",data_file_raw=on "$STORE/data.qcow2" 1M
cp "$secret" "$TMP/elsewhere/data-canary"
cp "$secret" "$STORE/inside-canary" # the control
qemu-img create -q -f qcow2 -b inside-canary -F raw "$STORE/good.qcow2" 1M

strace -f -o "$TMP/trace" -e trace=open,openat,openat2,connect,execve,socket \
	"$DEDUPSCAN" scan --no-idle --catalog "$CATALOG" "$STORE" >"$TMP/out" 2>&1 && fail "a data file outside is a failure"
trace=$(grep -v execve "$TMP/trace")
assert_has "$trace" 'inside-canary.*= [0-9]'
assert_has_not "$trace" '(secret|data)-canary.*= [0-9]'
assert_has_not "$trace" '/dev/zero|elsewhere.*= [0-9]'
assert_has_not "$trace" 'connect\(|socket\(AF_INET'
output=$(cat "$TMP/out")
assert_has "$output" "/1.qcow2': .*lies outside the directories given; --allow-backing DIR would admit it"
assert_has "$output" "/6.qcow2': .*is not a plain file name"
assert_has "$output" "/data.qcow2': .*outside"
for ((; i > 0; i--)); do
	assert_has "$output" "/$i.qcow2': .*backing file"
done
assert_has_not "$output" "good.qcow2'"

# what the user allows may be opened
rm -r "$CATALOG"
scan --allow-backing "$TMP" "$STORE"
assert_has_not "$output" "/1.qcow2'|data.qcow2'"
assert_has "$output" "/6.qcow2': "
