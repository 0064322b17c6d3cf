#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A spool file that a power cut left short is no obstacle: neither for its image nor for others.
. tests/lib.sh

mkdir "$TMP/a" "$TMP/b"
head -c 1M /dev/urandom >"$TMP/a/1.raw"
head -c 20M /dev/urandom >"$TMP/a/2.raw"
head -c 1M /dev/urandom >"$TMP/b/3.raw"
sleep 0.2 # time stamps younger than a tenth of a second make an image be read again

scan()
{
	"$DEDUPSCAN" scan --no-idle --catalog "$TMP/catalog" "$@"
}

"$DEDUPSCAN" scan --no-idle --catalog "$TMP/catalog" --jobs 1 --limit 1M "$TMP/a" >/dev/null &
pid=$!
for _ in $(seq 100); do
	[ -e "$TMP/catalog/spool/1.req" ] && break
	sleep 0.1
done
kill -9 $pid
wait $pid 2>/dev/null || true
[ -e "$TMP/catalog/spool/1.req" ] || fail "the first image was not read"
truncate -s -60 "$TMP/catalog/spool/1.req"

capture scan "$TMP/b"
assert_eq 0 "$status" "a scan of other images"
capture scan "$TMP/a"
assert_eq 0 "$status" "a scan of the same images"
assert_has "$output" '^21.0 MiB not zero'
assert_eq "" "$(ls "$TMP/catalog/spool")" "what is left in the spool"
