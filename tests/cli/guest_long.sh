#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
#
# info --guest on a disk made by hand, by the real dedupscan-guest: partitions, file systems, the operating system, a backing chain.
. tests/lib.sh
require_tool qemu-img qemu-system-x86_64 supermin mke2fs sfdisk python3 mkswap
"$DEDUPSCAN" --version | grep -qx 'guest: yes' || skip "was built without libguestfs (libguestfs-dev)"
ls /boot/vmlinuz* >/dev/null 2>&1 || skip "needs a kernel in /boot (linux-image-cloud-amd64)"

cd "$TMP"
export LIBGUESTFS_BACKEND_SETTINGS=force_tcg # the answer is the same, and KVM may hang
before=$(ls -d /tmp/libguestfs* /var/tmp/libguestfs* 2>/dev/null || true)

mkdir -p root/{bin,etc,home,lib,root,sbin,tmp,usr,var/lib/dpkg}
printf 'ID=debian\nNAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\n' >root/etc/os-release
echo 12.5 >root/etc/debian_version
echo guest-of-a-test >root/etc/hostname
echo '/dev/sda1 / ext4 defaults 0 1' >root/etc/fstab
: >root/var/lib/dpkg/status
cp /bin/true root/bin/ls
cp /bin/true root/bin/bash
truncate -s 64M part swap
truncate -s 4M swap
mke2fs -q -t ext4 -L rootfs -U 11111111-2222-3333-4444-555555555555 -d root part
mkswap -q swap
truncate -s 80M disk.raw
printf 'label: gpt\nstart=2048,size=131072,name=main\nsize=8192,type=swap\n' | sfdisk -q disk.raw
dd if=part of=disk.raw bs=1M seek=1 conv=notrunc status=none
dd if=swap of=disk.raw bs=1M seek=65 conv=notrunc status=none
qemu-img convert -O qcow2 disk.raw base.qcow2
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2
sum=$(cat ./*.qcow2 | cksum)

capture timeout 600 "$DEDUPSCAN" info --guest --json top.qcow2
[ "$status" -eq 0 ] || fail "$output"
python3 - "$output" <<'END'
import json, sys
g = json.loads(sys.argv[1])["images"][0]["guest"]
s, = g["systems"]
assert (s["type"], s["distro"], s["arch"], s["hostname"], s["root"]) == ("linux", "debian", "x86_64", "guest-of-a-test", "/dev/sda1"), s
assert "12" in s["product"] and s["version"].startswith("12."), s
d, = g["devices"]
assert d == {"name": "/dev/sda", "table": "gpt", "size": 80 << 20}, d
one, two = g["partitions"]
assert (one["number"], one["start"], one["size"], one["name"]) == (1, 1 << 20, 64 << 20, "main"), one
assert one["type"] == "0FC63DAF-8483-4772-8E79-3D69D8477DE4", one
assert (two["number"], two["start"], two["size"]) == (2, 65 << 20, 4 << 20), two
fs = {f["device"]: f for f in g["filesystems"]}
root, swap = fs["/dev/sda1"], fs["/dev/sda2"]
assert (root["type"], root["label"], root["uuid"]) == ("ext4", "rootfs", "11111111-2222-3333-4444-555555555555"), root
assert root["size"] == 64 << 20 and 0 < root["used"] < 16 << 20 and 32 << 20 < root["available"] < 64 << 20, root
assert swap["type"] == "swap" and swap["used"] is None, swap
assert g["volumes"] == [], g["volumes"]
END
assert_eq "$sum" "$(cat ./*.qcow2 | cksum)" "the images afterwards"
assert_eq "$before" "$(ls -d /tmp/libguestfs* /var/tmp/libguestfs* 2>/dev/null || true)" "files left behind"

# the control: a disk with nothing in it
qemu-img create -q -f qcow2 empty.qcow2 16M
capture timeout 600 "$DEDUPSCAN" info --guest empty.qcow2
[ "$status" -eq 0 ] || fail "$output"
assert_has "$output" '^no operating system that is known$'
assert_has_not "$output" '^PARTITION'
