#!/bin/bash
# No file names a place on a developer's machine.
. tests/lib.sh

# in pieces, lest this file matches
pattern="/wo""rk/|/tmp/h""-|/home/[a-z]+/(src|dev|git)"

search()
{
	grep -rnIE --exclude-dir=.git --exclude-dir='build*' --exclude-dir=__pycache__ -- "$pattern" "$1"
}

mkdir "$TMP/planted"
echo "see /wo""rk/notes" >"$TMP/planted/file"
search "$TMP/planted" >/dev/null || fail "a planted place was not found"

if search .; then
	fail "the lines above name places that no user has"
fi
