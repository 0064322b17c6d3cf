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

# open_late WORKSHOP INODE FILE: opens the file of this inode once it left its path and is held no more, keeps it open, and makes
# FILE
open_late()
{
	exec python3 - "$@" <<'END'
import os, sys, time
folder, inode, opened = sys.argv[1], int(sys.argv[2]), sys.argv[3]
for _ in range(200000):
    try:
        found = [n for n in os.listdir(folder) if n.endswith(".new") and os.stat(os.path.join(folder, n)).st_ino == inode]
        with open("/proc/locks", encoding="ascii") as f:
            held = f":{inode} " in f.read()
        if found and not held:
            fd = os.open(os.path.join(folder, found[0]), os.O_RDWR)
            break
    except FileNotFoundError:
        pass
    time.sleep(0.0002)
open(opened, "w").close()
time.sleep(600)
END
}
