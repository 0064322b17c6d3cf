#!/bin/bash
# A reader that is killed costs its image, not the scan; an image that is cut, replaced or written to while it is read is told.
. tests/lib.sh
. tests/cli/lib_store.sh

random_file "$STORE/1.raw" 8M
random_file "$STORE/2.raw" 1M
settle

# background: a slow scan of the store; its output goes to $TMP/out
background()
{
	"$DEDUPSCAN" scan --no-idle --limit 8M --jobs 1 --catalog "$CATALOG" "$STORE" >"$TMP/out" 2>&1 &
	pid=$!
	sleep 0.3 # until it knows what to do with signals
}
ended()
{
	status=0
	wait "$pid" || status=$?
	output=$(cat "$TMP/out")
}
reading()
{
	kill -USR1 "$pid" && grep -qE '^reading [1-9].* of ' "$TMP/out"
}
workers()
{
	pgrep -P "$pid"
}

background
wait_for 10 reading
worker=$(workers)
# of the store it holds its image and nothing else
[ "$(find "/proc/$worker/fd" -lname "$STORE/*" | wc -l)" -eq 1 ] || fail "the worker holds other files of the store"
kill -KILL "$worker"
ended
assert_status 1
assert_has "$output" "1.raw': the process that read it died \(killed by signal 9"
assert_has "$output" '^2 images: 1 read, 0 unchanged, 1 failed'
assert_tidy
scan "$STORE"
assert_status 0
assert_has "$output" '^2 images: 1 read, 1 unchanged, 0 failed'

# cut while it is read
random_file "$STORE/1.raw" 8M
settle
background
wait_for 10 reading
truncate -s 1M "$STORE/1.raw"
ended
assert_status 1
assert_has "$output" "1.raw': .*(was cut|ends at offset)"
assert_has "$output" ' 1 unchanged, 1 failed'
scan "$STORE"
assert_status 0
assert_has "$output" '^2.0 MiB not zero, 2.0 MiB of it distinct'

# replaced, and written to: what was read is of the past, and is read again next time
for change in replaced written; do
	random_file "$STORE/1.raw" 8M
	settle
	background
	wait_for 10 reading
	if [ $change = replaced ]; then
		random_file "$TMP/other" 3M
		mv "$TMP/other" "$STORE/1.raw"
	else
		printf x | dd of="$STORE/1.raw" bs=1 seek=8000000 conv=notrunc status=none
	fi
	ended
	assert_status 0 "$change"
	assert_has "$output" "1.raw': it changed while it was read"
	scan "$STORE"
	assert_status 0
	assert_has "$output" ' 1 read, 1 unchanged'
done
assert_has "$output" '^9.0 MiB not zero, 9.0 MiB of it distinct'
assert_tidy
