#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What info tells on the terminal and to programs, and its exit statuses; its figures are the business of
# tests/interop/info_against_qemu_img.py.
. tests/lib.sh
require_tool qemu-img python3

cd "$TMP"
info()
{
	capture "$DEDUPSCAN" info "$@"
}

# json EXPRESSION: of the document d in $output
json()
{
	python3 -c 'import json, sys; d = json.loads(sys.argv[1]); i = d["images"][0]; print(eval(sys.argv[2]))' "$output" "$1"
}

mkdir one two
qemu-img create -q -f qcow2 one/base.qcow2 8M
qemu-img create -q -f qcow2 -b ../one/base.qcow2 -F qcow2 two/top.qcow2
head -c 1M /dev/urandom >plain.raw

info plain.raw one/base.qcow2
[ "$status" -eq 0 ] || fail "$output"
assert_has "$output" "^$TMP/plain.raw$"
assert_has "$output" "^$TMP/one/base.qcow2$"
assert_has "$output" '^format +raw \(its name and its content agree\)$'
assert_has "$output" '^format +qcow2 version 3 '
assert_has "$output" '^virtual size +8.0 MiB$'
assert_has "$output" '^data +1 +1.0 MiB +100.0 %$'
assert_has "$output" '^alignment +all data to 1 MiB$'
assert_has "$output" '^shareable +100.0 % of it \(1.0 MiB\)'
assert_has_not "$output" PROBLEMS
info --bytes plain.raw
assert_has "$output" '^virtual size +1048576 bytes$'

info --json plain.raw one/base.qcow2
assert_eq "1 2 raw qcow2 1048576" "$(json 'd["dedupscan_info"], len(d["images"]), i["format"], d["images"][1]["format"], i["extents"]["data"]["bytes"]' | tr -d "(),'")"

# names inside images are followed beneath the directories of the images named, and where else the user says
info two/top.qcow2
[ "$status" -eq 0 ] || fail "what a broken chain leaves can be read"
assert_has "$output" '^chain +backing file .*lies outside the directories given; --allow-backing DIR'
assert_has "$output" '^cannot be opened, see PROBLEMS: +\.\./one/base.qcow2$'
for more in one/base.qcow2 "--allow-backing one"; do
	# shellcheck disable=SC2086 # words
	info two/top.qcow2 $more
	assert_has_not "$output" PROBLEMS
	assert_has "$output" "^qcow2 .*$TMP/one/base.qcow2$"
done

qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 one/beside.qcow2
info one/beside.qcow2
assert_has_not "$output" PROBLEMS
assert_has "$output" "^qcow2 .*$TMP/one/base.qcow2$"

# broken, refused, missing, none at all
printf 'QFI\373\0\0\0\143' >broken.qcow2
info plain.raw broken.qcow2 one
[ "$status" -eq 1 ] || fail "exit status $status of broken images"
assert_has "$output" '^unread +the file ends inside'
assert_has "$output" '^unread +it is a directory'
assert_has "$output" '^virtual size +1.0 MiB$'
info --json broken.qcow2
[ "$status" -eq 1 ] || fail "exit status $status of a broken image"
assert_eq "qcow2 False unread format" "$(json 'i["format"], i["readable"], i["problems"][0]["kind"], i["problems"][0]["error_kind"]' | tr -d "(),'")"
info missing
[ "$status" -eq 2 ] || fail "exit status $status of a missing image"
for words in '' '--nonsense plain.raw' '--format nonsense plain.raw' '--catalog x plain.raw'; do
	# shellcheck disable=SC2086 # words
	info $words
	[ "$status" -eq 2 ] || fail "exit status $status of: info $words"
done
info --help
assert_has "$output" '^usage: dedupscan info'
info --format raw --json one/base.qcow2
assert_eq "raw told" "$(json 'i["format"], i["certainty"]' | tr -d "(),'")"

# a name of a snapshot, a backing file or an image disturbs no terminal
name=$'bad\033[31m\n\377name.qcow2'
qemu-img create -q -f qcow2 "$name" 1M
qemu-img snapshot -c $'snap\033]0;title\a' "$name"
qemu-img rebase -u -b $'gone\033[1m' -F raw "$name"
info "$name"
assert_has "$output" '^chain .*gone\\x1b\[1m'
assert_has "$output" '/bad\\x1b\[31m\\x0a\\xffname.qcow2$'
assert_has "$output" 'snap\\x1b\]0;title\\x07$'
[ -z "$(tr -d '\012\040-\176' <<<"$output")" ] || fail "raw bytes in the table"
info --json "$name"
[ -z "$(tr -d '\012\040-\176' <<<"$output")" ] || fail "raw bytes in JSON"
json 'bytes.fromhex(i["path_bytes"])' | grep -qF 'bad\x1b[31m\n\xffname.qcow2' || fail "the name cannot be had back"

# nothing is written to images, and nothing is left behind
before=$(find . -type f -exec stat -c '%n %Y %Z %s' {} + | sort)
info plain.raw one/base.qcow2 two/top.qcow2
assert_eq "$before" "$(find . -type f -exec stat -c '%n %Y %Z %s' {} + | sort)" "files afterwards"

if [ -w /dev/full ]; then
	status=0
	"$DEDUPSCAN" info plain.raw >/dev/full 2>"$TMP/err" || status=$?
	[ "$status" -eq 3 ] || fail "exit status $status when nothing can be printed"
fi
