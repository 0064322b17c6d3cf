#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""QEMU boots guests from compacted images: one in each format reaches its prompt, reads what was shared, writes, and powers
off.  What it wrote is in its image, and no other image has changed.

The guest is this machine's Debian kernel with busybox; its root file system is the one of the store's images."""

import os
import select
import subprocess
import sys
import time

import lib_compact as lib
import lib_guest
from lib_compact import FileSystem, Store, Witness, fail
from lib_guest import BUSYBOX, read

MINUTES = 10  # software emulation on a busy machine
PROMPT = "guest-is-ready# "
IMAGES = ("web/c4k.qcow2", "web/old.qcow2", "versions/v0-clone.raw", "esx/sparse.vmdk", "hyperv/dynamic.vhd", "hyperv/disk.vhdx",
          "vbox/disk.vdi")

EARLY_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for m in $(/bin/busybox cat /modules/order); do /bin/busybox insmod /modules/$m; done
while [ ! -b /dev/vda1 ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 /dev/vda1 /root || /bin/busybox poweroff -f
exec /bin/busybox switch_root /root /sbin/init
"""
INIT = f"""#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
export PS1='{PROMPT}'
exec /bin/busybox sh -i </dev/console >/dev/console 2>&1
"""


def put_system(tree):
    for name, content in (("bin/busybox", read(BUSYBOX)), ("sbin/init", INIT.encode())):
        path = os.path.join(tree, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(content)
        os.chmod(path, 0o755)
        os.utime(path, (Store.EPOCH, Store.EPOCH))
    for name in ("dev", "proc"):
        os.makedirs(os.path.join(tree, name), exist_ok=True)
    return [BUSYBOX]


class Guest:
    """A QEMU with one image, and its serial line."""

    def __init__(self, image, kernel, initramfs):
        self.said, self.end = "", time.monotonic() + MINUTES * 60
        self.process = subprocess.Popen(
            lib_guest.qemu(kernel, initramfs, image, lib.format_of(image), 256, ""),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=lib.die_with_parent)

    def until(self, text):
        """What it says up to there."""
        out = self.process.stdout.fileno()
        while text not in self.said:
            if not select.select([out], [], [], max(self.end - time.monotonic(), 0))[0]:
                self.process.kill()
                fail(f"the guest did not get as far as '{text}' in {MINUTES} minutes; it said: {self.said[-3000:]}")
            more = os.read(out, 4096).decode("utf-8", "replace")
            if not more:
                fail(f"the guest ended before '{text}'; it said: {self.said[-3000:]}")
            self.said += more
        before, self.said = self.said.split(text, 1)
        return before

    def do(self, command):
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        return self.until(PROMPT)

    def power_off(self):
        self.process.stdin.write(b"busybox mount -o remount,ro / ; busybox poweroff -f\n")
        self.process.stdin.flush()
        try:
            if self.process.wait(MINUTES * 60):
                fail(f"QEMU ended with {self.process.returncode}: {self.said[-3000:]}")
        except subprocess.TimeoutExpired:
            self.process.kill()
            fail("the guest does not power off")


def boot(image, kernel, initramfs, sample):
    """It reads a file of the system, and writes one."""
    guest = Guest(image, kernel, initramfs)
    guest.until(PROMPT)
    said = guest.do(f"busybox sha256sum {sample}")
    if lib.digest_of(sample) not in said:
        fail(f"{image}: the guest reads {said} where {lib.digest_of(sample)} was put")
    guest.do(f"echo written by {os.path.basename(image)} >/written")
    guest.do("busybox dd if=/dev/urandom of=/noise bs=64k count=32; busybox sync")
    guest.power_off()


def written_in(image, tmp):
    raw = lib.guest_raw(image, os.path.join(tmp, "booted.raw"))
    said = subprocess.run(["debugfs", "-R", "cat /written", raw + "?offset=1048576"], capture_output=True, check=False)
    os.unlink(raw)
    return said.stdout.decode()


def main():
    lib.exit_on_signals()
    lib.require("qemu-img", "qemu-io", "mke2fs", "debugfs", "sfdisk", "mkfs.xfs", "qemu-system-x86_64", "modprobe", "busybox")
    kernel, version = lib_guest.kernel()
    tmp = lib.scratch("compact_boot")
    initramfs = os.path.join(tmp, "initramfs")
    lib_guest.make_initramfs(initramfs, version, EARLY_INIT, ("virtio_pci", "virtio_blk", "ext4"))
    store = Store(os.path.join(tmp, "store"), os.path.join(tmp, "work"), 40, more=put_system).make()
    with FileSystem("xfs", tmp, 4000) as fs:
        lib.run("cp", "-a", "--reflink=never", "--sparse=always", store.folder + "/.", fs.path)
        store.on_the_file_system(fs)
        sample = next(store.pick(1, "/usr/bin"))
        used = fs.used()
        lib.compact(fs.path, os.path.join(tmp, "catalog"), "--apply")
        if used - fs.used() < used // 2:
            fail(f"of {used} bytes {used - fs.used()} were freed: nothing was compacted to boot from")
        witness = Witness(fs.path, tmp)
        for image in IMAGES:
            began = time.monotonic()
            boot(os.path.join(fs.path, image), kernel, initramfs, sample)
            said = written_in(os.path.join(fs.path, image), tmp)
            if said != f"written by {os.path.basename(image)}\n":
                fail(f"{image}: the guest's file is not there: '{said}'")
            print(f"{image}: booted, read, wrote and ended in {time.monotonic() - began:.1f} s", flush=True)
        changed = {d.split("'")[1] for d in lib.differences(witness.guests, lib.guest_digests(fs.path, tmp))}
        if changed != set(IMAGES):
            fail(f"changed are {sorted(changed)}, booted were {IMAGES}")
        wrong = lib.complaints(fs.path)
        if wrong:
            fail(f"after the guests wrote: {wrong}")


if __name__ == "__main__":
    sys.exit(main())
