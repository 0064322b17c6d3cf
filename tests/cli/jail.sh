#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# F14, F16: readers work in a sandbox, unless told otherwise; where the kernel has none, that is told.
. tests/lib.sh
. tests/cli/lib_store.sh

without_calls=$BUILD/tests/cli/without_calls
random_file "$STORE/1.raw" 8M
settle

version=$("$DEDUPSCAN" --version)
sandbox='^sandbox: Landlock ABI [2-9], seccomp \([2-5][0-9] calls allowed\), no_new_privs$'
grep -qE "$sandbox" <<<"$version" || skip "the kernel has no sandbox: $(grep sandbox <<<"$version")"

# status_of NAME: a line of the worker's /proc/PID/status
status_of()
{
	sed -n "s/^$1:[[:space:]]*//p" "/proc/$(pgrep -P "$pid")/status"
}
reading()
{
	[ -n "$(pgrep -P "$pid")" ] && [ -n "$(find "/proc/$(pgrep -P "$pid")/fd" -lname "$STORE/1.raw")" ]
}
# look_at_worker OPTION...: what status says of a worker that reads
look_at_worker()
{
	rm -rf "$CATALOG"
	"$DEDUPSCAN" scan --no-idle --limit 2M --jobs 1 --catalog "$CATALOG" "$@" "$STORE" >"$TMP/out" 2>&1 &
	pid=$!
	wait_for 10 reading
	seen="$(status_of Seccomp) $(status_of NoNewPrivs) $(status_of CapEff)"
	kill "$pid"
	wait "$pid" || true
}

caps=0000000000000000
[ "$(id -u)" -ne 0 ] || caps=0000000000000008 # CAP_FOWNER
look_at_worker
assert_eq "2 1 $caps" "$seen" "by default"
look_at_worker --sandbox best
assert_eq "2 1 $caps" "$seen" "best"
look_at_worker --sandbox=off
assert_has "$seen" '^0 0 '
rm -rf "$CATALOG"

scan --sandbox=on "$STORE"
assert_status 2
assert_has "$output" "'on' is no sandbox"

# on lesser kernels
for lacking in landlock seccomp both; do
	case $lacking in
	landlock) words='Landlock ABI 2 \(Linux 5.19\)' described='no Landlock, seccomp \(' ;;
	seccomp) words='seccomp' described='Landlock ABI [2-9], no seccomp' ;;
	both) words='Landlock ABI 2 \(Linux 5.19\) and seccomp' described='no Landlock, no seccomp' ;;
	esac
	capture "$without_calls" $lacking "$DEDUPSCAN" --version
	assert_has "$output" "^sandbox: $described"
	capture "$without_calls" $lacking "$DEDUPSCAN" scan --no-idle --catalog "$CATALOG" "$STORE"
	assert_status 3 "without $lacking"
	assert_eq 1 "$(wc -l <<<"$output")" "lines without $lacking"
	assert_has "$output" "^dedupscan: images cannot be read in a sandbox here: the kernel lacks $words; --sandbox=best does"
	[ ! -e "$CATALOG" ] || fail "a catalog was made"
	capture "$without_calls" $lacking "$DEDUPSCAN" scan --no-idle --catalog "$CATALOG" --sandbox=best "$STORE"
	assert_status 0 "the best without $lacking"
	assert_has "$output" "^dedupscan: the sandbox is not whole: the kernel lacks $words$"
	assert_has "$output" '^1 images: 1 read'
	rm -rf "$CATALOG"
	capture "$without_calls" $lacking "$DEDUPSCAN" scan --no-idle --catalog "$CATALOG" --sandbox=off "$STORE"
	assert_status 0 "no sandbox without $lacking"
	assert_has_not "$output" sandbox
	# nothing is read: none is needed
	capture "$without_calls" $lacking "$DEDUPSCAN" report --no-scan --catalog "$CATALOG" "$STORE"
	assert_status 0 "no scan without $lacking"
	rm -rf "$CATALOG"
done
