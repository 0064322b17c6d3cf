#!/bin/bash
# Every shell script passes shellcheck.
. tests/lib.sh
require_tool shellcheck

mapfile -t scripts < <(grep -rlIE --exclude-dir=.git --exclude-dir='build*' --exclude-dir=__pycache__ '^#!/bin/(ba)?sh' . | sort)
# shellcheck disable=SC2016 # as it is meant
printf '#!/bin/sh\nrm $1\n' >"$TMP/bad"
! shellcheck "$TMP/bad" >/dev/null || fail "shellcheck finds nothing in a bad script"
shellcheck -x "${scripts[@]}" || fail "shellcheck"
