#!/bin/bash
# The man pages are well-formed and say of options and exit statuses what the program says.
. tests/lib.sh

# man_options PAGE: the long options that have an item of their own
man_options()
{
	grep -E '^\.It Fl ' "$1" | grep -oE '\\-[a-z][a-z-]*' | sed 's/^\\-/--/' | sort -u
}

# help_options: of a --help on standard input, those at the beginning of a line
help_options()
{
	grep -E '^ +-' | sed -E 's/   .*//' | grep -oE -- '--[a-z][a-z-]*' | sort -u
}

# man_statuses PAGE: "0 75 ..."
man_statuses()
{
	sed -n '/^\.Sh EXIT STATUS/,/^\.Sh EXAMPLES/p' "$1" | sed -nE 's/^\.It ([0-9]+)$/\1/p'
}

enum_statuses()
{
	sed -n '/^enum exit_status/,/^};/p' reports/commands/terminal.h | sed -nE 's/.*= ([0-9]+),.*/\1/p'
}

# check_page PAGE: what mandoc has to say, except about which other pages are installed here
check_page()
{
	mandoc -Tlint -Wstyle "$1" 2>/dev/null | grep -vE 'referenced manual not found|outdated mandoc.db' || true
}

scan=$TMP/scan report=$TMP/report info=$TMP/info compact=$TMP/compact recover=$TMP/recover verify=$TMP/verify
"$DEDUPSCAN" scan --help | help_options >"$scan"
"$DEDUPSCAN" report --help | help_options >"$report"
"$DEDUPSCAN" info --help | help_options >"$info"
"$DEDUPSCAN" compact --help | help_options >"$compact"
"$DEDUPSCAN" recover --help | help_options >"$recover"
"$DEDUPSCAN" verify --help | help_options >"$verify"
[ "$(wc -l <"$scan")" -ge 14 ] || fail "scan --help lists only: $(cat "$scan")"

assert_eq "$(cat "$scan")" "$(man_options contrib/man/dedupscan-scan.1)" "options of dedupscan-scan(1)"
assert_eq "$(comm -13 "$scan" "$report")" "$(man_options contrib/man/dedupscan-report.1)" "options of dedupscan-report(1)"

assert_eq "$(cat "$info")" "$(man_options contrib/man/dedupscan-info.1)" "options of dedupscan-info(1)"
assert_eq "$(comm -13 "$scan" "$compact")" "$(man_options contrib/man/dedupscan-compact.1)" "options of dedupscan-compact(1)"
assert_eq "$(cat "$recover")" "$(man_options contrib/man/dedupscan-recover.1)" "options of dedupscan-recover(1)"

assert_eq "$(cat "$verify")" "$(man_options contrib/man/dedupscan-verify.1)" "options of dedupscan-verify(1)"
for command in clone expand repoint restore pool; do
	assert_eq "$("$DEDUPSCAN" "$command" --help | help_options)" "$(man_options "contrib/man/dedupscan-$command.1")" "options of dedupscan-$command(1)"
done
for command in snapshot rollback list diff delete prune; do
	"$DEDUPSCAN" "$command" --help | help_options
done | sort -u >"$TMP/versions"
# these two are told of once, for all of them
assert_eq "$(grep -vxE -- "--pool|--wait" "$TMP/versions")" "$(man_options contrib/man/dedupscan-snapshot.1)" "options of dedupscan-snapshot(1)"

# every command has a page of its name
for command in $("$DEDUPSCAN" --help | sed -nE 's/^  ([a-z]+) +.*/\1/p'); do
	grep -q "^\.Nm dedupscan[ -]$command" "contrib/man/dedupscan-$command.1" || fail "no page tells of dedupscan $command"
done

# every option that is told is taken: a word too many fails for another reason than an unknown one
while read -r option; do
	capture "$DEDUPSCAN" report "$option"
	assert_has_not "$output" "unrecognized option|ambiguous"
done <"$report"
while read -r option; do
	capture "$DEDUPSCAN" info "$option"
	assert_has_not "$output" "unrecognized option|ambiguous"
done <"$info"
while read -r option; do
	capture "$DEDUPSCAN" verify "$option"
	assert_has_not "$output" "unrecognized option|ambiguous"
done <"$verify"
capture "$DEDUPSCAN" report --nonsense
assert_has "$output" "unrecognized option"

# and every option that is taken is told
taken=$(sed -n '/^#define READING_OPTIONS/,/^struct settings/p' reports/commands/settings.h | grep -oE '\{ "[a-z-]+"' |
	sed -E 's/\{ "(.*)"/--\1/' | grep -vx -- --help | sort -u)
assert_eq "$taken" "$(cat "$scan")" "options that are taken"

# every member of the JSON is told
"$DEDUPSCAN" info --json "$DEDUPSCAN" | grep -oE '"[a-z_]+":' | tr -d ':' | sort -u >"$TMP/members"
[ "$(wc -l <"$TMP/members")" -ge 40 ] || fail "members: $(cat "$TMP/members")"
while read -r member; do
	grep -q -- "$member" contrib/man/dedupscan-info.1 || fail "dedupscan-info(1) does not tell of $member"
done <"$TMP/members"

assert_eq "$(enum_statuses)" "$(man_statuses contrib/man/dedupscan.1)" "exit statuses of dedupscan(1)"
[ "$(enum_statuses | wc -l)" -eq 6 ] || fail "the enum was not understood"
told=$("$DEDUPSCAN" scan --help | sed -n '/^Exit status/,$p' | tr '\n' ' ' | grep -oE '(^Exit status:|;) +[0-9]+' |
	grep -oE '[0-9]+')
assert_eq "$(enum_statuses)" "$told" "exit statuses in the help"

# page_columns TABLE PAGE: the items of a table's section in dedupscan-catalog(5)
page_columns()
{
	awk -v table="$1" '/^\.S[sh]/ { here = $0 == ".Ss " table } here && sub(/^\.It Li /, "")' "$2" |
		tr -d ' ' | tr ',' '\n' | sort
}

if command -v sqlite3 >/dev/null; then
	echo data >"$TMP/image"
	"$DEDUPSCAN" scan --catalog "$TMP/catalog" "$TMP/image" >"$TMP/out"
	db="file:$TMP/catalog/catalog.db?mode=ro"
	tables=$(sqlite3 "$db" "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
	[ "$(wc -w <<<"$tables")" -ge 8 ] || fail "tables: $tables"
	for table in $tables; do
		columns=$(sqlite3 "$db" "SELECT name FROM pragma_table_info('$table')" | sort)
		# this one's items are its rows
		[ "$table" != numbers ] || columns=$(sqlite3 "$db" "SELECT name FROM numbers" | sort)
		assert_eq "$columns" "$(page_columns "$table" contrib/man/dedupscan-catalog.5)" "columns of $table in dedupscan-catalog(5)"
	done
fi

# every format has its section
for format in $("$DEDUPSCAN" --version | sed -n 's/^formats: //p'); do
	grep -qi "^\.Sh $format\$" contrib/man/dedupscan-formats.5 || fail "dedupscan-formats(5) has no section on $format"
done

# controls: an option and a status that are missing are noticed
sed 's/^\.It Fl \\-limit/.It Fl \\-limits/' contrib/man/dedupscan-scan.1 >"$TMP/page"
[ "$(cat "$scan")" != "$(man_options "$TMP/page")" ] || fail "a wrong option is not noticed"
sed 's/^\.It 75$/.It 76/' contrib/man/dedupscan.1 >"$TMP/page"
[ "$(enum_statuses)" != "$(man_statuses "$TMP/page")" ] || fail "a wrong exit status is not noticed"

require_tool mandoc
for page in contrib/man/*.[1-8]; do
	assert_eq "" "$(check_page "$page")" "$page"
done
sed 's/^\.El$//' contrib/man/dedupscan.1 >"$TMP/page.1"
[ -n "$(check_page "$TMP/page.1")" ] || fail "a broken page is not noticed"
