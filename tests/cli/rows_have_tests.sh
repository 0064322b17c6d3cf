#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Every row of tests/rows.md has tests that are there and bear its id.
. tests/lib.sh

wanted="A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12 A13 A14 A15 A16
	B1 B2 B3 B4 B5 B6 B7 B8 B9 B10 B11 B12 B13 B14
	C1 C2 C3 C4 C5 C6 C7 C8 C9 C11
	D1 D2 D3 D4 D5 D6 D7 D8 D9 D10 D11 D12 D13 D14 D15 D16
	E1 E2 E3 E4 E5 E6 E7 E8 E9 E10 E11 E12 E13 E14 E15 E16 E17 E18 E19 E20
	F1 F2 F3 F4 F5 F6 F7 F8 F9 F10 F11 F12 F13 F14 F16
	G1 G2 G3 G4 G5 G6 G7
	H1 H3 H4 H5"
attacks=$(python3 tests/interop/attacks.py --list)
[ "$(wc -l <<<"$attacks")" -ge 80 ] || fail "there are only $(wc -l <<<"$attacks") attacks"
assert_eq "" "$(cut -d: -f1 <<<"$attacks" | sort | uniq -d)" "attacks of one name"

# row_is_tested ID FILE...: false, and why
row_is_tested()
{
	local id=$1 file
	shift
	[ $# -gt 0 ] || { echo "$id has no tests"; return 1; }
	for file; do
		if [ ! -f "tests/$file" ]; then
			echo "$id: there is no tests/$file"
			return 1
		elif [ "$file" = interop/attacks.py ]; then
			grep -q "^${id,,}_" <<<"$attacks" || { echo "$id: no attack"; return 1; }
		elif [[ $file != *_random.py ]] && ! grep -qw "$id" "tests/$file"; then
			echo "tests/$file does not bear $id"
			return 1
		fi
	done
}

# files_of ID
files_of()
{
	sed -nE "s/^\| $1 +\|.*\| *([^|]*[^| ]) *\|\$/\1/p" tests/rows.md
}

for id in $wanted; do
	# shellcheck disable=SC2046 # words
	row_is_tested "$id" $(files_of "$id") || fail "row $id"
done

# controls
row_is_tested E1 >/dev/null && fail "a row without tests is not noticed"
row_is_tested E1 cli/nothing.sh >/dev/null && fail "a test that is not there is not noticed"
row_is_tested E21 interop/attacks.py >/dev/null && fail "a row without attacks is not noticed"
row_is_tested F1 cli/f02_links_to_files_of_others.sh >/dev/null && fail "a test that does not bear the id is not noticed"
exit 0
