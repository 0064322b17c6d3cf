#!/bin/bash
# The units of contrib/systemd are what systemd takes, run what the program knows, and leave it the privileges that it needs.
. tests/lib.sh
. tests/cli/lib_store.sh

U=contrib/systemd

# setting UNIT KEY: its values, a line each
setting()
{
	sed -n "s/^$2=//p" "$U/$1"
}

# the example says what the units ask for, in words that a shell would take as well
for unit in scan compact; do
	for name in $(setting dedupscan-$unit.service ExecStart | grep -oE 'DEDUPSCAN_[A-Z_]+'); do
		grep -q "^$name=" "$U/dedupscan.default" || fail "dedupscan.default has no $name"
	done
	assert_eq "/etc/default/dedupscan" "$(setting dedupscan-$unit.service EnvironmentFile)"
	assert_eq "man:dedupscan-$unit(1)" "$(setting dedupscan-$unit.service Documentation)"
	assert_eq "/usr/local/bin/dedupscan $unit" "$(setting dedupscan-$unit.service ExecStart | cut -d' ' -f1-2)"
	assert_eq idle "$(setting dedupscan-$unit.service IOSchedulingClass)"
	# what the manual calls no failure
	assert_eq "1 75" "$(setting dedupscan-$unit.service SuccessExitStatus)"
done

# check DIR: what systemd has to say of the units in it
check()
{
	systemd-analyze verify --man=no "$1"/*.service "$1"/*.timer 2>&1 || true
}
if command -v systemd-analyze >/dev/null; then
	mkdir "$TMP/units"
	for unit in "$U"/*.service "$U"/*.timer; do
		sed "s,/usr/local/bin/dedupscan,$DEDUPSCAN," "$unit" >"$TMP/units/${unit##*/}"
	done
	assert_eq "" "$(check "$TMP/units")"
	sed -i 's/^ProtectSystem/ProtectedSystem/' "$TMP/units/dedupscan-scan.service"
	assert_has "$(check "$TMP/units")" "Unknown key.*'ProtectedSystem'"
fi

# the nightly scan, by the very words of the unit, on a store of ours: another user's image, which somebody has open
require_tool setpriv
require_root
random_file "$STORE/a.raw" 2M
random_file "$STORE/open.raw" 1M
chmod 600 "$STORE"/*.raw
chown 12345 "$STORE"/*.raw
settle
exec 9<>"$STORE/open.raw"
setting dedupscan-scan.service ExecStart >"$TMP/words"
# shellcheck source=/dev/null # as systemd reads it, words and all
. "$U/dedupscan.default"
until_later=$(date -d '+2 hours' +%H:%M)
DEDUPSCAN_SCAN_OPTIONS="--catalog $CATALOG ${DEDUPSCAN_SCAN_OPTIONS/05:00/$until_later}"
# shellcheck disable=SC2034 # the words of the unit use it
DEDUPSCAN_PATHS=$STORE
caps=$(setting dedupscan-scan.service CapabilityBoundingSet | tr 'A-Z ' 'a-z,' | sed 's/cap_/+/g')
eval "set -- $(cat "$TMP/words")"
shift
capture setpriv --bounding-set "-all,$caps" --inh-caps=-all --no-new-privs "$DEDUPSCAN" "$@"
assert_status 0
assert_has "$output" '^2 images: 2 read'
assert_eq "a.raw 0
open.raw 1" "$(sqlite3 -separator ' ' "$CATALOG/catalog.db" "SELECT replace(path, '$STORE/', ''), racy FROM images ORDER BY path")" "whom the leases told of"
exec 9>&-
# control: without the first of them the images of others cannot be read
capture setpriv --bounding-set "-all,${caps#*,}" --inh-caps=-all --no-new-privs "$DEDUPSCAN" "$@"
assert_status 1 "without capabilities"

command -v systemd-analyze >/dev/null || skip "needs systemd-analyze for a part"
