#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Stopped at any moment, by a signal or because its time is over, images are whole, and running it again goes on to the same end.
# Rows A12, A13.  How fast it stops is measured by the bench.
. tests/lib.sh
. tests/cli/lib_compact.sh

make_xfs 900M
mib=$((1024 * 1024))
rounds=${LONG:+100}
rounds=${rounds:-7}

random_file "$STORE/a.raw" 24M
for ((i = 0; i < 10; i++)); do
	copy "$STORE/a.raw" "$STORE/$i.raw"
	dd if=/dev/urandom of="$STORE/$i.raw" bs=64K seek=$((i * 30)) count=2 conv=notrunc status=none
done
before=$(look) used_before=$(used)
compact "$STORE"
assert_status 0

stopped=0 partly=0
for ((round = 0; round < rounds; round++)); do
	status=0
	begin=(env)
	case $((round % 3)) in
	0) stop=(--for 2s) ;;
	1) stop=() begin=(timeout --preserve-status -s TERM "$((RANDOM % 2)).$((1 + RANDOM % 9))") ;;
	2) stop=() begin=(timeout --preserve-status -s INT "$((RANDOM % 2)).$((1 + RANDOM % 9))") ;;
	esac
	"${begin[@]}" "$DEDUPSCAN" compact --no-idle --no-scan --apply --limit 20M "${stop[@]}" --catalog "$CATALOG" "$STORE" \
		>"$TMP/out" 2>&1 || status=$?
	case $status in
	0) ;;
	75) stopped=$((stopped + 1)) ;;
	130 | 143) ;; # it had not begun
	*)
		cat "$TMP/out"
		fail "exit status $status, stopped"
		;;
	esac
	if grep -q partly "$TMP/out"; then partly=$((partly + 1)); fi
	assert_eq "$before" "$(look)" "images after stop $round"
done
[ "$stopped" -gt 0 ] || fail "it was never stopped"
[ "$partly" -gt 0 ] || fail "it was never stopped in the middle of an image"

compact --apply "$STORE"
assert_status 0
assert_eq "$before" "$(look)" "images in the end"
assert_within $((10 * (24 * mib - 256 * 1024) - mib)) $((10 * 24 * mib + mib)) $((used_before - $(used))) "given back in the end"
compact --json --apply "$STORE"
assert_status 0
assert_eq 0 "$(figure 'len(p["steps"])')" "steps that are left"
