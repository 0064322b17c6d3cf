#!/bin/bash
# Windows, lengths of time, signals and limits: a scan that is stopped says so with status 75, and the next one goes on from there.
. tests/lib.sh
. tests/cli/lib_store.sh

random_file "$STORE/a.raw" 48M
random_file "$STORE/b.raw" 2M
settle

# background [OPTION]...: a scan that runs on; its output goes to $TMP/out
background()
{
	"$DEDUPSCAN" scan --no-idle --catalog "$CATALOG" "$@" "$STORE" >"$TMP/out" 2>&1 &
	pid=$!
	sleep 0.3 # until it knows what to do with signals
}
# ended: sets $status and $output when it has ended
ended()
{
	status=0
	wait "$pid" || status=$?
	output=$(cat "$TMP/out")
}
now_ms()
{
	date +%s%3N
}
reading()
{
	kill -USR1 "$pid" && grep -q '^reading .* of .*%' "$TMP/out"
}

# a window that opens in some hours: it waits, tells so when asked, and ends at once when told to
from=$(date -d '+3 hours' +%H:%M) to=$(date -d '+5 hours' +%H:%M)
background --window "$from-$to"
waits()
{
	kill -USR1 "$pid" && grep -q '^waiting' "$TMP/out"
}
wait_for 10 waits
began=$(now_ms)
kill -TERM "$pid"
ended
assert_status 75 "SIGTERM while it waits"
[ $(($(now_ms) - began)) -lt 2000 ] || fail "it took too long to stop"
[ ! -e "$CATALOG/summary" ] || fail "it worked outside its window"

# its time is over: what was read is kept
began=$(now_ms)
scan --limit 16M --jobs 1 --for 1s "$STORE"
assert_status 75
[ $(($(now_ms) - began)) -lt 4000 ] || fail "--for 1s took too long"
[ $(($(now_ms) - began)) -ge 900 ] || fail "--for 1s ended early"
assert_has "$output" 'stopped; the next scan goes on from here'
[ -s "$CATALOG/spool/1.part" ] || fail "nothing was kept"
assert_eq stopped "$(sqlite3 "$CATALOG/catalog.db" 'SELECT DISTINCT result FROM scans')"

# each signal stops, soon
for signal in TERM INT HUP; do
	background --limit 8M --jobs 1
	wait_for 10 reading
	began=$(now_ms)
	kill -$signal "$pid"
	ended
	assert_status 75 "SIG$signal"
	[ $(($(now_ms) - began)) -lt 2000 ] || fail "SIG$signal took too long"
done

scan "$STORE"
assert_status 0
assert_has "$output" '^2 images: 2 read'
assert_has "$output" '^50.0 MiB not zero, 50.0 MiB of it distinct'
assert_tidy
scan "$STORE"
assert_has "$output" ' 0 read, 2 unchanged, .* 0 B read$'

# the limit holds, whatever the number of readers
rm -r "$CATALOG"
began=$(now_ms)
scan --limit 20M --jobs 2 "$STORE"
assert_status 0
took=$(($(now_ms) - began))
[ $took -gt 1800 ] || fail "50 MiB at 20 MiB/s took only $took ms"
[ $took -lt 9000 ] || fail "50 MiB at 20 MiB/s took $took ms"

# killed without warning: the next scan goes on, and the catalog is whole
rm -r "$CATALOG"
background --limit 16M --jobs 1
wait_for 10 reading
kill -KILL "$pid"
ended
scan "$STORE"
assert_status 0
assert_has "$output" '50.0 MiB of it distinct'
assert_tidy
