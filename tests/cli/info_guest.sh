#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# info --guest with a stand-in for dedupscan-guest: what it is given, what is made of what it says, that it is kept away from images
# that name files outside, and that it is ended.
. tests/lib.sh
require_tool qemu-img python3

cd "$TMP"
mkdir bin
cp "$DEDUPSCAN" bin/dedupscan
qemu-img create -q -f qcow2 disk.qcow2 8M
qemu-img create -q -f qcow2 -b disk.qcow2 -F qcow2 stated.qcow2
cp stated.qcow2 guessed.qcow2
python3 - guessed.qcow2 <<'END'
import sys
with open(sys.argv[1], "r+b") as f:
    at = f.read(4096).index(b"\xe2\x79\x2a\xca")
    f.seek(at)
    f.write(b"\x01\x02\x03\x04")  # what states the format is an extension that nobody knows now
END
qemu-img create -q -f qcow2 outside.qcow2 8M
qemu-img rebase -u -b /etc/passwd -F raw outside.qcow2

export LIBGUESTFS_BACKEND_SETTINGS=force_tcg # no try with KVM
guest()
{
	rm -f called
	capture bin/dedupscan info --guest "$@"
}

# stand_in COMMANDS: they become the program
stand_in()
{
	printf '#!/bin/bash\nprintf "%%s\\n" "$@" >%q/called\n%s\n' "$TMP" "$1" >bin/dedupscan-guest
	chmod +x bin/dedupscan-guest
}

# without the program
guest disk.qcow2
[ "$status" -eq 3 ] || fail "exit status $status without the program"
assert_has "$output" '--guest needs dedupscan-guest, which is built where libguestfs is found'
assert_has "$(bin/dedupscan --version)" '^guest: no$'

said='up\0system\0/dev/sda1\0linux\0debian\0Debian \033[31m12\00012.5\0x86_64\0host\0device\0/dev/sda\0gpt\0008388608\0'
said+='partition\0/dev/sda\0001\0001048576\0004194304\0000x83\0main\0filesystem\0/dev/sda1\0ext4\0label\0uuid\0004194304\0001000\0002000\0'
said+='volume\0/dev/vg/lv\0004096\0end\0'
stand_in "printf '$said'"
assert_has "$(bin/dedupscan --version)" '^guest: yes$'
guest disk.qcow2
[ "$status" -eq 0 ] || fail "$output"
assert_eq "qcow2 $TMP/disk.qcow2 tcg" "$(tr '\n' ' ' <called | sed 's/ $//')" "what it was called with"
assert_has "$output" '^system +Debian \\x1b\[31m12, linux, debian, 12.5, x86_64$'
assert_has "$output" '^/dev/sda +1 +1.0 MiB +4.0 MiB +0x83 +main$'
assert_has "$output" '^ext4 +4.0 MiB +1000 B +2.0 KiB +/dev/sda1 +label$'
assert_has "$output" '^4.0 KiB +/dev/vg/lv$'
guest --json disk.qcow2
python3 - "$output" <<'END'
import json, sys
g = json.loads(sys.argv[1])["images"][0]["guest"]
assert g["systems"] == [{"root": "/dev/sda1", "type": "linux", "distro": "debian", "product": "Debian \x1b[31m12", "version": "12.5",
                         "arch": "x86_64", "hostname": "host"}], g
assert g["devices"] == [{"name": "/dev/sda", "table": "gpt", "size": 8388608}], g
assert g["partitions"] == [{"device": "/dev/sda", "number": 1, "start": 1048576, "size": 4194304, "type": "0x83", "name": "main"}], g
assert g["filesystems"] == [{"device": "/dev/sda1", "type": "ext4", "label": "label", "uuid": "uuid", "size": 4194304, "used": 1000,
                             "available": 2000}], g
assert g["volumes"] == [{"name": "/dev/vg/lv", "size": 4096}], g
END

# QEMU gets no image that makes it guess or leads it outside
guest stated.qcow2
[ "$status" -eq 0 ] || fail "the control: $output"
[ -e called ] || fail "the control was not called"
for name in outside guessed; do
	guest $name.qcow2
	[ "$status" -eq 1 ] || fail "exit status $status of $name"
	[ ! -e called ] || fail "QEMU was given $name"
	assert_has "$output" '^guest +.*(lies outside the directories given|is not stated, and QEMU would guess it)'
	assert_has "$output" '^virtual size +8.0 MiB$'
done

# what goes wrong is a problem of the image
# trouble MESSAGE COMMANDS
trouble()
{
	stand_in "$2"
	guest disk.qcow2
	[ "$status" -eq 1 ] || fail "exit status $status of: $2"
	assert_has "$output" "^guest +$1$"
	assert_has "$output" '^virtual size'
}
trouble 'dedupscan-guest did not say all' "printf 'up\\0system\\0'"
trouble 'dedupscan-guest ended with status 9 and said nothing' 'exit 9'
trouble 'cannot start a virtual machine: no kernel' "printf 'error\\0cannot start a virtual machine: no kernel\\0'"
trouble 'dedupscan-guest says too much' 'head -c 9M /dev/zero'

# it ends with us, and so does what it started
stand_in "(trap '' TERM; exec sleep 1000) & echo \$! >$TMP/sleeper; printf 'up\\0'; wait"
rm -f sleeper
bin/dedupscan info --guest disk.qcow2 >out 2>&1 &
pid=$!
for ((i = 0; i < 100; i++)); do
	[ ! -s sleeper ] || break
	sleep 0.1
done
kill -TERM $pid
status=0
wait $pid || status=$?
[ "$status" -eq 75 ] || fail "exit status $status when it is stopped"
for ((i = 0; i < 100; i++)); do
	kill -0 "$(cat sleeper)" 2>/dev/null || break
	sleep 0.1
done
! kill -0 "$(cat sleeper)" 2>/dev/null || fail "what the program started goes on"
