# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# For scripts that scan a store: $STORE is an empty one, $CATALOG not made yet.

STORE=$TMP/store
CATALOG=$TMP/catalog
mkdir -p "$STORE"
require_tool sqlite3

# scan [OPTION|PATH]..., report [OPTION|PATH]...: output and exit status in $output and $status
scan()
{
	capture "$DEDUPSCAN" scan --no-idle --catalog "$CATALOG" "$@"
}

report()
{
	capture "$DEDUPSCAN" report --no-idle --catalog "$CATALOG" "$@"
}

# settle: until time stamps of what was just written are old enough to be believed (file systems that keep whole seconds want 2)
settle()
{
	sleep 0.3
}

# figure JSON-KEY: of the report in $TMP/report.json
figure()
{
	python3 - "$TMP/report.json" "$1" <<'END'
import json, sys
v = json.load(open(sys.argv[1]))
for k in sys.argv[2].split("."):
    v = v[int(k)] if isinstance(v, list) else v[k]
print(v)
END
}

# assert_tidy: nothing is left over beside the catalog's own files
assert_tidy()
{
	assert_eq "" "$(ls -A "$CATALOG/spool")" "left in the spool"
	assert_eq "$(printf 'catalog.db\nindex\nlock\nspool\nsummary')" "$(ls -A "$CATALOG" | grep -v '^catalog.db-')" "in the catalog"
	local known
	known=$(sqlite3 "$CATALOG/catalog.db" 'SELECT name FROM tables ORDER BY name')
	assert_eq "$known" "$(ls -A "$CATALOG/index" | LC_ALL=C sort)" "tables of the index"
}

# fingerprint_store: names, contents and times of modification
fingerprint_store()
{
	(cd "$STORE" && find . -type f -printf '%p %s %T@ %C@ %m\n' | LC_ALL=C sort &&
		find . -type f -print0 | LC_ALL=C sort -z | xargs -0r cksum)
}

# wait_for SECONDS COMMAND...: until it succeeds
wait_for()
{
	local i tenths=$(($1 * 10))
	shift
	for ((i = 0; i < tenths; i++)); do
		"$@" && return
		sleep 0.1
	done
	fail "waited in vain for: $*"
}
