#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A14: the machine is put to sleep while an image is rewritten, and wakes up.  Somebody who wants to write waits for that, and what
# he wrote is there; so is a file that was put in the image's place.  In check-long it sleeps for longer than the kernel lets
# anybody wait.
. tests/lib.sh
. tests/cli/lib_compact.sh

make_btrfs 256M
ROOT=$STORE/images IMAGE=$STORE/images/b.raw
mkdir "$ROOT"

# fall_asleep: rewriting b.raw; $pid is stopped with all its processes
fall_asleep()
{
	rm -rf "${ROOT:?}"/* "$ROOT/.dedupscan" "$CATALOG"
	random_file "$ROOT/a.raw" 8M
	copy "$ROOT/a.raw" "$IMAGE"
	cp "$IMAGE" "$TMP/wanted"
	sync
	compact "$ROOT"
	ino=$(stat -c %i "$IMAGE")
	setsid "$DEDUPSCAN" compact --no-idle --no-scan --apply --keep-originals 0 --limit 8M --catalog "$CATALOG" "$ROOT" \
		>"$TMP/out" 2>&1 &
	pid=$!
	until grep -q 'b\.raw' "$ROOT/.dedupscan/journal" 2>/dev/null; do
		kill -0 $pid || fail "it ended before it began: $(cat "$TMP/out")"
		sleep 0.01
	done
	kill -STOP -- -$pid
	assert_eq "$ino" "$(stat -c %i "$IMAGE")" "it fell asleep too late"
}

# wake_up STATUS WORDS: and go on to the end
wake_up()
{
	kill -CONT -- -$pid
	status=0
	wait $pid || status=$?
	output=$(cat "$TMP/out")
	assert_status "$1"
	assert_has "$output" "$2"
	assert_eq "" "$(find "$ROOT/.dedupscan" -name '*.new')" "left in the workshop"
}

assert_image()
{
	cmp "$TMP/wanted" "$IMAGE" || fail "$1"
}

write_to() # FILE [dd option]
{
	dd of="$1" bs=4096 seek=700 conv=notrunc status=none "${@:2}" <<<"written by another"
}

# the control: nobody comes
fall_asleep
wake_up 0 "1 of 1 step done"
assert_image "nobody came"
[ "$(stat -c %i "$IMAGE")" != "$ino" ] || fail "it was not rewritten, so that this shows nothing"

# somebody writes
fall_asleep
write_to "$IMAGE" oflag=nonblock 2>/dev/null && fail "it was not held while it slept"
write_to "$IMAGE" &
writer=$!
wake_up 1 "skipped"
wait $writer
write_to "$TMP/wanted"
assert_image "what was written is lost"
assert_eq "$ino" "$(stat -c %i "$IMAGE")" "another file is there"

# another file is put in its place
fall_asleep
random_file "$STORE/other" 8M
cp "$STORE/other" "$TMP/wanted"
ino=$(stat -c %i "$STORE/other")
mv "$STORE/other" "$IMAGE"
wake_up 1 "b.raw"
assert_image "the file that was put there is lost"
assert_eq "$ino" "$(stat -c %i "$IMAGE")" "another file is there"

# nobody waits for a sleeper for longer than lease-break-time
if [ -n "${LONG:-}" ]; then
	fall_asleep
	write_to "$IMAGE"
	kill -STOP -- -$pid
	write_to "$TMP/wanted"
	wake_up 1 "skipped"
	assert_image "what was written while it slept is lost"
fi
exit 0
