# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# For test scripts, which begin with `. tests/lib.sh`: they run in the root of the source tree and may write to $TMP only.

set -euo pipefail
: "${TMP:?is set by tests/run; run a test with: make check T=name}"

fail()
{
	echo "FAILED: $*" >&2
	exit 1
}

skip()
{
	echo "$*"
	exit 77
}

require_root()
{
	[ "$(id -u)" -eq 0 ] || skip "needs root"
}

require_tool()
{
	local tool
	for tool; do
		command -v "$tool" >/dev/null || skip "needs $tool"
	done
}

# assert_eq WANTED GOT [WHAT]
assert_eq()
{
	[ "$1" = "$2" ] && return
	diff -u --label wanted --label got <(printf '%s\n' "$1") <(printf '%s\n' "$2") || true
	fail "${3:-not as wanted}"
}

# assert_has TEXT PATTERN: an extended regular expression, line by line
assert_has()
{
	grep -qE -- "$2" <<<"$1" && return
	printf '%s\n' "$1"
	fail "nothing matches: $2"
}

assert_has_not()
{
	grep -qE -- "$2" <<<"$1" || return 0
	printf '%s\n' "$1"
	fail "should not match: $2"
}

# capture COMMAND...: its standard output and error in $output, its exit status in $status
capture()
{
	status=0
	output=$("$@" 2>&1) || status=$?
}

# assert_status WANTED [WHAT]: of what was captured
assert_status()
{
	[ "$status" -eq "$1" ] && return
	printf '%s\n' "$output"
	fail "exit status $status, not $1${2:+: $2}"
}

# random_file FILE SIZE
random_file()
{
	head -c "$2" /dev/urandom >"$1"
}

# remove_trees DIR...: with pools in them, whose files may be immutable
remove_trees()
{
	rm -rf "$@" 2>/dev/null && return
	lift -R "$@"
	rm -rf "$@"
}

# lift FILE...: those of a pool may be immutable
lift()
{
	chattr -f -i "$@" || true
}

# toy_tree DIR: a source tree that has this one's build files and next to no program
toy_tree()
{
	mkdir -p "$1/scanner/base" "$1/tests" "$1/contrib/man"
	cp GNUmakefile "$1/"
	cp tests/run tests/layers "$1/tests/"
	printf '#ifndef TOY_H\n#define TOY_H\nint toy(void);\n#endif\n' >"$1/scanner/base/toy.h"
	printf '#include "scanner/base/toy.h"\nint toy(void)\n{\n\treturn 0;\n}\n' >"$1/scanner/base/toy.c"
	printf '#include "scanner/base/toy.h"\nint main(void)\n{\n\treturn toy();\n}\n' >"$1/dedupscan.c"
	printf '.TH DEDUPSCAN 1\n' >"$1/contrib/man/dedupscan.1"
	printf '#!/bin/sh\necho "install-deps was called: $*"\n' >"$1/contrib/install-deps"
	chmod +x "$1/contrib/install-deps"
}
