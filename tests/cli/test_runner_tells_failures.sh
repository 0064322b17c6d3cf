#!/bin/bash
# tests/run counts passes, failures, crashes, time-outs and skips, tells which tests took longest, and ends with the summary line.
. tests/lib.sh

mkdir -p "$TMP/tree/tests/cli" "$TMP/tree/tests/unit" "$TMP/tree/build/tests/unit"
cp tests/run "$TMP/tree/tests/"
cd "$TMP/tree"
unset T SANITIZED LONG
export BUILD=build TMPDIR=$TMP

# a cmocka program in shell; $1 name, standard input its script
unit()
{
	: >"tests/unit/test_$1.c"
	{ echo '#!/bin/sh'; cat; } >"build/tests/unit/test_$1"
	chmod +x "build/tests/unit/test_$1"
}

last() { tail -n 1 <<<"$output"; }

# shellcheck disable=SC2016 # for that script
echo 'touch "$TMP/mine"' >tests/cli/good.sh
unit good <<<'printf "1..2\nok 1 - one\nno loop devices\nnot ok 2 # SKIP two\n"'
capture tests/run
assert_eq 0 "$status"
assert_eq "2 passed, 0 failed, 1 skipped" "$(last)"
assert_has "$output" '^skip  unit/good: two: no loop devices$'

echo 'exit 1' >tests/cli/later_long.sh
capture tests/run
assert_eq "2 passed, 0 failed, 1 skipped" "$(last)"
capture env LONG=1 tests/run
assert_eq 1 "$status"
assert_eq "2 passed, 1 failed, 1 skipped" "$(last)"
rm tests/cli/later_long.sh

printf 'echo why\nexit 77\n' >tests/cli/skipped.sh
printf 'echo hidden clue\nexit 3\n' >tests/cli/bad.sh
printf '# timeout: 1\nsleep 60\n' >tests/cli/slow.sh
unit bad <<<'printf "1..2\nok 1 - one\nnot ok 2 - two\n# 1 != 2\n"; exit 1'
unit crashed <<<'printf "1..2\nok 1 - one\n"; kill -SEGV $$'
unit leaky <<<'printf "1..2\nok 1 - one\nnot ok 2 # SKIP two\n"; echo leaked; exit 23'
unit mute <<<'exit 0'
capture tests/run
assert_eq 1 "$status"
assert_eq "5 passed, 6 failed, 3 skipped" "$(last)"
assert_has "$output" '^skip  cli/skipped: why$'
assert_has "$output" '^hidden clue$'
assert_has "$output" '^fail  unit/crashed: 1 of 2 tests ran'
assert_has "$output" '^fail  unit/leaky: 2 of 2 tests ran, exit status 23$'
assert_has "$output" '^fail  cli/slow: not done in 1 s'
assert_eq "cli/slow" "$(sed -nE '/^Longest:$/{n;s/^ +1\.[0-9] s  //p}' <<<"$output")"
assert_eq 5 "$(grep -cE '^ +[0-9]+\.[0-9] s  [^ ]+$' <<<"$output")" "longest tests"

capture env T=good tests/run
assert_eq "2 passed, 0 failed, 1 skipped" "$(last)"
rm tests/cli/good.sh
capture env T=good tests/run
assert_eq "1 passed, 0 failed, 1 skipped" "$(last)"
assert_has_not "$output" 'Longest'
capture env T=goood tests/run
assert_eq 1 "$status"
assert_has "$output" "no test is named 'goood'"
assert_eq "" "$(find "$TMP" -mindepth 1 -maxdepth 1 -name 'dedupscan-test.*')" "folders left behind"
