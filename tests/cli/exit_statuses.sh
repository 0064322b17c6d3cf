#!/bin/bash
# Every exit status that the manual names, with a message on standard error and none of it on standard output.
. tests/lib.sh
. tests/cli/lib_store.sh

random_file "$STORE/a.raw" 1M
mkdir "$TMP/good"
cp "$STORE/a.raw" "$TMP/good"

# usage WORDS...: refused as a mistake on the command line, and nothing was made
usage()
{
	local out
	status=0
	out=$("$DEDUPSCAN" "$@" 2>"$TMP/stderr") || status=$?
	output=$(cat "$TMP/stderr")
	assert_eq "" "$out" "standard output of: $*"
	assert_status 2 "$*"
	assert_has "$output" "try 'dedupscan --help'"
	[ ! -e "$CATALOG" ] || fail "a catalog was made by: $*"
}

S=(scan --no-idle --catalog "$CATALOG")
usage nonsense
usage $'\033[31m'
usage "${S[@]}"
usage "${S[@]}" --nonsense "$STORE"
usage "${S[@]}" --memory 20M "$STORE"
assert_has "$output" '--memory must be at least'
usage "${S[@]}" --memory lots "$STORE"
usage "${S[@]}" --jobs 0 "$STORE"
usage "${S[@]}" --jobs -1 "$STORE"
usage "${S[@]}" --jobs 257 "$STORE"
usage "${S[@]}" --limit 1x "$STORE"
usage "${S[@]}" --window 01:00 "$STORE"
usage "${S[@]}" --window 05:00-05:00 "$STORE"
usage "${S[@]}" --window 25:00-26:00 "$STORE"
usage "${S[@]}" --for 0 "$STORE"
usage "${S[@]}" --until noon "$STORE"
usage "${S[@]}" --format qed "$STORE"
usage scan --catalog '' "$STORE"
usage report --catalog "$CATALOG" --sort size "$STORE"
usage report --catalog "$CATALOG" --top x "$STORE"
usage report --catalog "$CATALOG" --json --csv "$STORE"
usage report --catalog "$CATALOG" --json=- --csv=- "$STORE"

scan "$STORE"
assert_status 0
random_file "$STORE/b.qcow2" 1M
printf 'QFI\373\0\0\0\143' | dd of="$STORE/b.qcow2" conv=notrunc status=none
scan "$STORE"
assert_status 1
assert_has "$output" 'b.qcow2.: qcow2 version 99'
for command in scan report compact recover verify info; do
	capture "$DEDUPSCAN" "$command" "$STORE/missing"
	assert_status 2 "$command of what is not there"
	assert_eq "dedupscan: cannot find '$STORE/missing': No such file or directory" "$output" "$command of what is not there"
done
capture "$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --plan "$TMP/missing.json" "$STORE"
assert_status 2
capture "$DEDUPSCAN" verify --no-idle --check "$TMP/missing.digests" "$STORE"
assert_status 2
capture "$DEDUPSCAN" scan --catalog /proc/nowhere "$STORE"
assert_status 3
flock_and_scan()
{
	python3 - "$CATALOG/lock" "$DEDUPSCAN" scan --no-idle --catalog "$CATALOG" "$STORE" <<'END'
import fcntl, struct, subprocess, sys
f = open(sys.argv[1], "r+")
fcntl.fcntl(f, 37, struct.pack("hhllixxxx", fcntl.F_WRLCK, 0, 0, 0, 0))  # F_OFD_SETLK
sys.exit(subprocess.call(sys.argv[2:]))
END
}
capture flock_and_scan
assert_status 4
assert_has "$output" 'in use by another dedupscan'
random_file "$TMP/good/big.raw" 8M
scan --limit 1M --for 1s "$TMP/good"
assert_status 75
scan "$TMP/good"
assert_status 0
scan --for 300000d "$TMP/good"
assert_status 0 "800 years are not over yet"

for words in --help help --version 'scan --help' 'report --help' 'report --catalog /nowhere --help'; do
	# shellcheck disable=SC2086 # words
	capture "$DEDUPSCAN" $words
	assert_status 0 "$words"
	assert_has "$output" '^(usage: dedupscan|dedupscan [0-9])'
done
capture "$DEDUPSCAN"
assert_has "$output" '^usage: dedupscan'
