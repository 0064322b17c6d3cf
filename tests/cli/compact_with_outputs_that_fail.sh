#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A16: when nobody takes what is said, work is done all the same, whole, and the exit status tells of it.
. tests/lib.sh
. tests/cli/lib_compact.sh

make_btrfs 256M
D="$DEDUPSCAN"

# begin_anew NAME: two images that are alike, scanned; "recover" needs one that was rewritten already
begin_anew()
{
	rm -rf "${STORE:?}"/* "$STORE/.dedupscan" "$CATALOG"
	random_file "$STORE/a.raw" 1M
	copy "$STORE/a.raw" "$STORE/b.raw"
	sync
	compact "$STORE"
	case $1 in
	compact) command=("$D" compact --no-idle --apply --catalog "$CATALOG" "$STORE") ;;
	verify) command=("$D" verify --no-idle --catalog "$CATALOG" "$STORE") ;;
	recover)
		command=("$D" recover --undo "$STORE")
		compact --apply "$STORE"
		;;
	esac
	before=$(cksum "$STORE/a.raw" "$STORE/b.raw")
	ino=$(stat -c %i "$STORE/b.raw")
}

# try NAME STATUS HOW
try()
{
	begin_anew "$1"
	status=0
	case $3 in
	'well') "${command[@]}" >"$TMP/out" 2>"$TMP/err" || status=$? ;;
	'>/dev/full') "${command[@]}" >/dev/full 2>"$TMP/err" || status=$? ;;
	'>&-') "${command[@]}" >&- 2>"$TMP/err" || status=$? ;;
	'2>/dev/full') "${command[@]}" >"$TMP/out" 2>/dev/full || status=$? ;;
	'all closed') "${command[@]}" <&- >&- 2>&- || status=$? ;;
	'| head -1') "${command[@]}" 2>"$TMP/err" | head -1 >"$TMP/out" || status=$? ;;
	'| true') "${command[@]}" 2>&1 | true || status=$? ;;
	esac
	assert_eq "$2" "$status" "exit status of $1 $3"
	assert_eq "$before" "$(cksum "$STORE/a.raw" "$STORE/b.raw")" "images after $1 $3"
	assert_done "$1" "$3"
}

# assert_done NAME HOW: it did all that it had to do
assert_done()
{
	if [ "$1" = verify ]; then
		[ ! -e "$STORE/.dedupscan" ] || fail "verify made something"
		return
	fi
	[ "$(stat -c %i "$STORE/b.raw")" != "$ino" ] || fail "$1 $2: b.raw was not replaced"
	assert_eq "$([ "$1" = recover ] || echo 1)" "$(ls "$STORE/.dedupscan/trash")" "in the trash after $1 $2"
	assert_eq "" "$(find "$STORE" -name '*.new')" "left after $1 $2"
	capture "$D" recover "$STORE"
	assert_status 0
	assert_has "$output" ": 0 finished, 0 rolled back; "
}

for name in compact recover verify; do
	try $name 0 'well' # the control
	[ -s "$TMP/out" ] || fail "$name says nothing, so that this shows nothing"
	try $name 3 '>/dev/full'
	assert_has "$(cat "$TMP/err")" "cannot write to standard output: No space left on device"
done
try compact 3 'all closed'
try compact 0 '| true'
try recover 0 '| head -1'
for how in '2>/dev/full' '| head -1' '| true'; do
	try verify 0 "$how"
done
for name in recover verify; do
	try $name 3 '>&-'
	assert_has "$(cat "$TMP/err")" "cannot write to standard output: Bad file descriptor"
done
