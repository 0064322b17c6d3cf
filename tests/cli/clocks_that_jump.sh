#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# D13: the clock goes back or forward by ten years, before or after a rewriting: images are whole all the same, and how long
# originals are kept is all that depends on it.
. tests/lib.sh
. tests/cli/lib_compact.sh

require_tool cc
make_btrfs 256M
decade=$((3652 * 24 * 3600))

cat >"$TMP/clock.c" <<'EOF'
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *ret)
{
	const char *shift = getenv("SHIFT");
	int rc = (int)syscall(SYS_clock_gettime, clock, ret);

	if (rc == 0 && clock == CLOCK_REALTIME && shift)
		ret->tv_sec += atoll(shift);
	return rc;
}

time_t time(time_t *ret)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return ret ? *ret = t.tv_sec : t.tv_sec;
}
EOF
cc -shared -fPIC -o "$TMP/clock.so" "$TMP/clock.c" || skip "no shared libraries are made here"

# at SECONDS COMMAND...: with a clock that is so much ahead
at()
{
	capture env LD_PRELOAD="$TMP/clock.so" SHIFT="$1" "$DEDUPSCAN" "${@:2}"
	assert_eq "$wanted" "$(cksum <"$STORE/b.raw")" "b.raw after ${*:2} at $1"
	assert_eq "$mtime" "$(stat -c %.9Y "$STORE/b.raw")" "time of b.raw after ${*:2} at $1"
}

# rewritten_at SECONDS YEAR
rewritten_at()
{
	rm -rf "${STORE:?}"/* "$STORE/.dedupscan" "$CATALOG"
	random_file "$STORE/a.raw" 1M
	copy "$STORE/a.raw" "$STORE/b.raw"
	sync
	wanted=$(cksum <"$STORE/b.raw") mtime=$(stat -c %.9Y "$STORE/b.raw") ino=$(stat -c %i "$STORE/b.raw")
	at "$1" compact --no-idle --apply --keep-originals 7d --catalog "$CATALOG" "$STORE"
	assert_status 0
	assert_has "$output" "1 of 1 step done"
	assert_has "$output" "PLANNED  $2" # the control: it is told that time
	kept 1 "at once"
	[ "$(stat -c %i "$STORE/b.raw")" != "$ino" ] || fail "b.raw was not rewritten"
}

# kept NR WHEN
kept()
{
	assert_eq "$1" "$(find "$STORE/.dedupscan/trash" -type f | wc -l)" "originals kept $2"
}

year=$(date +%Y)
rewritten_at $decade "$(date -d "now + $decade seconds" +%Y)"
at 0 recover "$STORE" # and back again
assert_status 0
kept 1 "once the clock went back"
at -$decade recover --undo "$STORE"
assert_status 0
assert_eq "$ino" "$(stat -c %i "$STORE/b.raw")" "the original"

rewritten_at 0 "$year"
at -$decade compact --no-idle --apply --catalog "$CATALOG" "$STORE"
assert_status 0
kept 1 "once the clock went back"
at $decade recover "$STORE"
assert_status 0
kept 0 "once the clock says that their time is over"
