#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A whole operating system dies, at a random moment, while `dedupscan compact --apply` works in it: what it had not written is
lost.  Row A7.

A guest with a disk of images is killed with its QEMU; then the disk is checked and mounted here, and the oracle of lib_crash.py
looks at the images."""

import os
import random
import select
import subprocess
import sys
import time

import lib_crash as crash
from lib_crash import DEDUPSCAN, MIB, Family, Guests, Wrong, fail, lib, run

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
import lib_guest  # noqa: E402 pylint: disable=wrong-import-position

ROUNDS = ("xfs", "ext4", "xfs")
COPIES = 5  # of the family of images
DISK_MIB = 400
MINUTES = 8  # software emulation on a busy machine
BEGINS, ENDED = "compaction begins", "compaction has ended: "

INIT = f"""#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
for m in $(/bin/busybox cat /modules/order); do /bin/busybox insmod /modules/$m 2>/dev/null; done
while [ ! -b /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mkdir -p /disk
/bin/busybox mount -t $kind /dev/vda /disk || /bin/busybox poweroff -f
echo '{BEGINS}'
/bin/dedupscan compact --no-idle --jobs 1 --sandbox best --keep-originals 0 --catalog /tmp/catalog --apply /disk
echo '{ENDED}'$?
/bin/busybox umount /disk
/bin/busybox poweroff -f
"""


class Wanted:
    """What the guest says, up to some words."""

    def __init__(self, process):
        self.process, self.said = process, ""

    def until(self, words, seconds):
        """False when time is over before."""
        end, out = time.monotonic() + seconds, self.process.stdout.fileno()
        while words not in self.said:
            if not select.select([out], [], [], max(end - time.monotonic(), 0))[0]:
                return False
            more = os.read(out, 4096).decode("utf-8", "replace")
            if not more:
                fail(f"the guest ended before '{words}'; it said: {self.said[-3000:]}")
            self.said += more
        return True


def libraries():
    """dedupscan and what it is linked with, at the paths where they are looked for."""
    found = {"bin/dedupscan": lib_guest.read(DEDUPSCAN)}
    for line in run("ldd", DEDUPSCAN).decode().splitlines():
        words = [w for w in line.split() if w.startswith("/")]
        if words:
            found[words[0].lstrip("/")] = lib_guest.read(words[0])
    return found


class Disk(lib.FileSystem):
    """With a journal, as everybody has it."""

    MAKE = {"xfs": ("mkfs.xfs", "-q", "-f", "-m", "reflink=1"), "ext4": ("mke2fs", "-q", "-F", "-t", "ext4")}
    CHECK = {"xfs": ("xfs_repair", "-n"), "ext4": ("e2fsck", "-fn")}

    def check(self):
        run(*self.CHECK[self.kind], self.file)


class Death:
    def __init__(self, tmp, family, rng):
        self.tmp, self.family, self.rng = tmp, family, rng
        self.kernel, version = lib_guest.kernel()
        self.initramfs = os.path.join(tmp, "initramfs")
        lib_guest.make_initramfs(self.initramfs, version, INIT, ("virtio_pci", "virtio_blk", "ext4", "xfs"), libraries())
        self.seconds = {}  # that a compaction takes in the guest

    def roots(self, fs):
        return [os.path.join(fs.path, f"p{n}") for n in range(COPIES)]

    def fill(self, fs):
        for root in self.roots(fs):
            self.family.copy(root)
        return self.used(fs)

    def used(self, fs):
        return sum(crash.used(self.family, root) for root in self.roots(fs))

    def boot(self, fs, after=None):
        """Runs until it has ended, or for so many seconds after it began to work.  False when it had ended before."""
        process = subprocess.Popen(
            [*lib_guest.qemu(self.kernel, self.initramfs, fs.file, "raw", 512, f"kind={fs.kind}"), "-cpu", "max"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=lib.die_with_parent)
        guest = Wanted(process)
        if not guest.until(BEGINS, MINUTES * 60):
            fail(f"the guest does not begin; it said: {guest.said[-3000:]}")
        began = time.monotonic()
        ended = guest.until(ENDED, MINUTES * 60 if after is None else after)
        if after is None:
            if not ended or not guest.until(ENDED + "0", 5):
                fail(f"the guest does not end well; it said: {guest.said[-3000:]}")
            self.seconds[fs.kind] = time.monotonic() - began
            process.wait(MINUTES * 60)
        process.kill()
        process.wait()
        return ended

    def look(self, fs):
        for root in self.roots(fs):
            crash.look_at_images(self.family, root)

    def control(self, fs):
        """The oracle can fail."""
        path = os.path.join(self.roots(fs)[0], "raw.raw")
        st = os.stat(path)
        with open(path, "r+b") as f:
            byte = f.read(1)
            f.seek(0)
            f.write(bytes([byte[0] ^ 1]))
        os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
        try:
            self.look(fs)
        except Wrong:
            return
        fail("a byte that was changed is not noticed")

    def undisturbed(self, kind):
        """How much is saved when it is left alone: what was interrupted must get there."""
        with Disk(kind, self.tmp, DISK_MIB) as fs:
            before = self.fill(fs)
            fs.unmount()
            self.boot(fs)
            fs.check()
            fs.mount()
            self.look(fs)
            after = self.used(fs)
            self.control(fs)
        if after > before - MIB:
            fail(f"{kind}: of {before} bytes only {before - after} were saved: this shows nothing")
        return before, after

    def go_on(self, fs):
        """Recovers, and compacts what is left."""
        said = run(DEDUPSCAN, "recover", fs.path).decode().strip()
        self.look(fs)
        for root in self.roots(fs):
            crash.look_for_strays(self.family, root, False)
        catalog = os.path.join(self.tmp, "catalog")
        run(DEDUPSCAN, "compact", "--no-idle", "--keep-originals", "0", "--catalog", catalog, "--apply", fs.path)
        self.look(fs)
        return said

    def die(self, kind, before, after):
        """False when it had ended before."""
        with Disk(kind, self.tmp, DISK_MIB) as fs:
            self.fill(fs)
            fs.unmount()
            at = self.rng.random() * self.seconds[kind]
            if self.boot(fs, at):
                self.seconds[kind] *= 0.9
                return False
            fs.mount()  # replays the file system's journal
            self.look(fs)
            saved = (before - self.used(fs)) / (before - after)
            said = self.go_on(fs)
            then = self.used(fs)
            fs.unmount()
            fs.check()
        print(f"{kind}: dead after {at:.1f} of {self.seconds[kind]:.1f} s, {saved:.0%} was saved; {said}", flush=True)
        if then > after + MIB // 4:
            raise Wrong(f"after a complete run the images take {then} bytes, of one that was not interrupted {after}")
        return True


def main():
    lib.exit_on_signals()
    lib.require("qemu-system-x86_64", "qemu-img", "qemu-io", "mkfs.xfs", "xfs_repair", "mke2fs", "e2fsck", "modprobe", "busybox",
                "ldd")
    tmp = lib.scratch("os_death")
    seed = int(os.environ.get("CRASH_SEED") or time.time())
    print(f"CRASH_SEED={seed}")
    family = Family(os.path.join(tmp, "family"), Guests(tmp), kib=2048)
    death, wanted = Death(tmp, family, random.Random(seed)), {}
    for nr, kind in enumerate(ROUNDS):
        if kind not in wanted:
            wanted[kind] = death.undisturbed(kind)
        try:
            while not death.die(kind, *wanted[kind]):
                pass
        except Wrong as e:
            fail(f"round {nr} on {kind}: {e}")


if __name__ == "__main__":
    sys.exit(main())
