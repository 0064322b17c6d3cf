#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""Persistent bitmaps of images that enter a pool, as incremental backups use them: what QEMU says of each, bit by bit over NBD, is
what a model says that counts the writes.

  enters      bitmaps of all granularities, in images of all cluster sizes, enabled, disabled, merged, in use (inconsistent), with
              stretches of ones that are not stored
  lives       writes to an image in the pool go on setting bits; a snapshot, a clone, folding and expanding change none
  goes back   a rollback is another disk: it has no bitmaps, and what is kept of the image before has
  stays out   an image whose bitmaps are broken; bitmaps that a program ignored are left behind, and that is told"""

import json
import os
import random
import signal
import struct
import subprocess
import sys

import lib_compact as lib
from lib_compact import KIB, MIB, compact, fail

SIZE = 1024 * MIB
POOL = ("--method", "pool")


def qemu_img(*args):
    return lib.run("qemu-img", *args).decode()


class Image:
    """A qcow2 image and a model of its bitmaps: granularity, enabled, and the set of numbers of set bits."""

    def __init__(self, path, raw, options=""):
        self.path, self.bitmaps, self.in_use = path, {}, set()
        qemu_img("convert", "-f", "raw", "-O", "qcow2", *(["-o", options] if options else []), raw, path)

    def add(self, name, granularity=64 * KIB, enabled=True):
        qemu_img("bitmap", "--add", "-g", str(granularity), *([] if enabled else ["--disable"]), self.path, name)
        self.bitmaps[name] = [granularity, enabled, set()]

    def enable(self, name, enabled):
        qemu_img("bitmap", "--enable" if enabled else "--disable", self.path, name)
        self.bitmaps[name][1] = enabled

    def merge(self, source, name):
        qemu_img("bitmap", "--merge", source, self.path, name)
        self.bitmaps[name][2] |= self.bitmaps[source][2]

    def note(self, at, length):
        for granularity, enabled, bits in self.bitmaps.values():
            if enabled:
                bits |= set(range(at // granularity, (at + length - 1) // granularity + 1))

    def write(self, rng, count=1):
        commands = []
        for _ in range(count):
            length = rng.choice((512, 4 * KIB, 64 * KIB, 300 * KIB))
            at = rng.randrange((SIZE - length) // 512) * 512
            commands += ["-c", f"write -P {rng.randrange(1, 256)} {at} {length}"]
            self.note(at, length)
        lib.run("qemu-io", "-f", "qcow2", *commands, self.path)

    def zero(self, at, length):
        lib.run("qemu-io", "-f", "qcow2", "-c", f"write -z {at} {length}", self.path)
        self.note(at, length)

    def die(self, rng):
        """Somebody writes and is killed: all that was enabled or not is in use for ever."""
        qemu = subprocess.Popen(["qemu-io", "-f", "qcow2", self.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        qemu.stdin.write(b"write -P 9 %d 4k\nflush\n" % (rng.randrange(SIZE // MIB) * MIB))
        qemu.stdin.flush()
        qemu.stdout.readline()
        qemu.send_signal(signal.SIGKILL)
        qemu.communicate()
        subprocess.run(["qemu-img", "check", "-q", "-r", "leaks", self.path], check=False)
        self.in_use = set(self.bitmaps)

    def facts(self):
        info = json.loads(qemu_img("info", "--output=json", self.path))
        return {b["name"]: (b["granularity"], "auto" in b["flags"], "in-use" in b["flags"])
                for b in info["format-specific"]["data"].get("bitmaps", [])}


def dirty_bits(path, name, granularity, folder):
    """As QEMU tells them."""
    socket = os.path.join(folder, "nbd.sock")
    server = subprocess.Popen(["qemu-nbd", "-r", "-f", "qcow2", "-x", "x", "-k", socket, f"--bitmap={name}", path])
    try:
        uri, context = f"nbd+unix:///x?socket={socket}", f"qemu:dirty-bitmap:{name}"
        for _ in range(100):
            done = subprocess.run(["nbdinfo", "--json", f"--map={context}", uri], capture_output=True, check=False)
            if done.returncode == 0 or server.poll() is not None:
                break
            subprocess.run(["sleep", "0.05"], check=True)
    finally:
        server.terminate()
        server.wait()
    if done.returncode:
        fail(f"{path}: bitmap '{name}': {done.stderr.decode('utf-8', 'replace')}")
    bits = set()
    for extent in json.loads(done.stdout):
        if extent["type"] & 1:
            bits |= set(range(extent["offset"] // granularity, -(-(extent["offset"] + extent["length"]) // granularity)))
    return bits


def check(image, folder):
    """What is wrong with it."""
    wanted = {name: (g, enabled, name in image.in_use) for name, (g, enabled, _) in image.bitmaps.items()}
    wrong = [] if image.facts() == wanted else [f"{image.path}: its bitmaps are {image.facts()}, not {wanted}"]
    done = subprocess.run(["qemu-img", "check", "-f", "qcow2", image.path], capture_output=True, check=False)
    if done.returncode or b"No errors" not in done.stdout:
        wrong.append(f"{image.path}: {done.stdout.decode()} {done.stderr.decode()}")
    for name, (granularity, _, bits) in image.bitmaps.items() if not wrong else ():
        if name in image.in_use:
            continue
        got = dirty_bits(image.path, name, granularity, folder)
        if got != bits:
            wrong.append(f"{image.path}: bitmap '{name}' has other bits, say {sorted(got ^ bits)[:5]} of {len(bits)}")
    return wrong


def all_right(images, folder, when):
    wrong = [w for i in images for w in check(i, folder)]
    if wrong:
        fail(f"{when}:\n  " + "\n  ".join(wrong[:20]))


def dedupscan(*args):
    done = subprocess.run([lib.DEDUPSCAN, *args], capture_output=True, check=False)
    if done.returncode:
        fail(f"dedupscan {' '.join(args)}: {done.returncode}: {done.stderr.decode('utf-8', 'replace')}")
    return done.stdout.decode() + done.stderr.decode()


def digests(images, tmp):
    return {i.path: lib.sparse_digest_of(lib.guest_raw(i.path, os.path.join(tmp, "x.raw"))) for i in images}


def make(folder, tmp, rng):
    raw = os.path.join(tmp, "disk.raw")
    with open(raw, "wb") as f:
        f.write(rng.randbytes(16 * MIB))
        f.truncate(SIZE)
    images = [Image(f"{folder}/{name}.qcow2", raw, options) for name, options in (
        ("c64k", ""), ("c4k", "cluster_size=4k"), ("c512", "cluster_size=512"), ("c2m", "cluster_size=2M"),
        ("sub", "extended_l2=on,cluster_size=128k"))]
    for image in images:
        image.add("day")
        image.write(rng, 5)
        image.add("fine", 512)
        image.add("never", 4 * KIB, enabled=False)
        image.write(rng, 20)
        image.zero(256 * MIB, 300 * MIB)
        image.enable("day", False)
        image.add("coarse", 2 * MIB)
        image.write(rng, 3)
        image.add("a name with \u00e4 and '", 64 * KIB)
        image.add("both", 64 * KIB, enabled=False)
        image.merge("day", "both")
        image.merge("a name with \u00e4 and '", "both")
    lost = Image(f"{folder}/lost.qcow2", raw)
    lost.add("lost")
    lost.write(rng, 4)
    lost.add("idle", enabled=False)
    lost.die(rng)
    lost.add("new")
    lost.write(rng, 4)
    return images + [lost], raw


def patch(path, at, content):
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(content)


def tables_of(path):
    """The entries of each bitmap's table."""
    at, tables = directory_of(path), []
    with open(path, "rb") as f:
        while True:
            f.seek(at)
            table, nr, _, kind, _, name, extra = struct.unpack(">QIIBBHI", f.read(24))
            if kind != 1:
                return tables
            f.seek(table)
            tables.append(struct.unpack(f">{nr}Q", f.read(8 * nr)))
            at += -(-(24 + extra + name) // 8) * 8


def directory_of(path):
    """Where the first entry of the bitmap directory is."""
    with open(path, "rb") as f:
        head = f.read(4096)
    at = struct.unpack_from(">I", head, 100)[0]
    while struct.unpack_from(">I", head, at)[0] != 0x23852875:
        at += 8 + -(-struct.unpack_from(">I", head, at + 4)[0] // 8) * 8
    return struct.unpack_from(">Q", head, at + 24)[0]


def make_odd(folder, raw, rng):
    """One that QEMU does not open any more, and one whose bitmaps it has forgotten."""
    broken, ignored = (Image(f"{folder}/{name}.qcow2", raw) for name in ("broken", "ignored"))
    for image in broken, ignored:
        image.add("b")
        image.write(rng, 2)
    patch(broken.path, directory_of(broken.path) + 17, b"\x05")
    patch(ignored.path, 88, bytes(8))
    ignored.bitmaps = {}
    return broken, ignored


def members(images):
    return [i.path for i in images if "json:" in json.loads(qemu_img("info", "--output=json", i.path)).get("backing-filename", "")]


def enter(fs, tmp, images, broken, ignored):
    before = digests(images + [ignored], tmp)
    catalog = os.path.join(tmp, "catalog")
    plan = compact(fs.path, catalog, *POOL)
    why = plan.why_not().get(broken.path, "")
    if "bitmap 'b'" not in why:
        fail(f"a broken bitmap is told as '{why}'")
    command = lib.compact_command(fs.path, catalog, *POOL, "--apply")
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        fail(f"compact: {done.returncode}: {done.stderr.decode()}")
    if f"{ignored.path}': its persistent bitmaps, 1 of them, are left behind" not in done.stderr.decode():
        fail(f"nothing is told of bitmaps that were ignored: {done.stderr.decode()}")
    if len(members(images + [ignored])) != len(images) + 1:
        fail(f"only {members(images + [ignored])} are in the pool: {compact(fs.path, catalog, *POOL).why_not()}")
    if digests(images + [ignored], tmp) != before:
        fail("what entered says something else")
    return catalog


def control(image, folder, rng):
    """A bit too many, one too few, and another flag are found."""
    bits = image.bitmaps["fine"][2]
    for bit in (min(bits), next(b for b in range(SIZE // 512) if b not in bits)):
        bits ^= {bit}
        if not check(image, folder):
            fail("a wrong bit is not found")
        bits ^= {bit}
    image.bitmaps["fine"][1] = False
    if not check(image, folder):
        fail("a wrong flag is not found")
    image.bitmaps["fine"][1] = True
    rng.random()


def live(fs, tmp, catalog, images, rng):
    for image in images:
        image.write(rng, 6)
    paths = [i.path for i in images]
    dedupscan("snapshot", "one", *paths)
    all_right(images, tmp, "written to in the pool, and after a snapshot")
    for image in images:
        image.write(rng, 6)
    compact(fs.path, catalog, *POOL, "--apply")
    for path in paths:
        if "/sealed/" in qemu_img("info", path):
            fail(f"{path} still stands on what was sealed")
    all_right(images, tmp, "after folding")
    clone = os.path.join(fs.path, "clone.qcow2")
    dedupscan("clone", images[0].path, clone)  # of an image that was written to: it is sealed
    all_right(images[:1], tmp, "after a clone")
    if "bitmaps" in json.loads(qemu_img("info", "--output=json", clone))["format-specific"]["data"]:
        fail("a clone has bitmaps")
    images[0].write(rng, 2)
    compact(fs.path, catalog, *POOL, "--apply")
    images[0].write(rng, 2)
    all_right(images[:1], tmp, "written to after folding again")


def go_back(tmp, image):
    before = image.facts()
    dedupscan("rollback", f"{image.path}@one")
    if image.facts():
        fail(f"rolled back, and there are bitmaps: {image.facts()}")
    kept = json.loads(qemu_img("info", "--output=json", "--backing-chain", image.path))
    qemu_img("check", image.path)
    if not before or len(kept) < 3:
        fail("there was nothing to roll back")
    image.bitmaps, image.in_use = {}, set()
    image.add("fresh")
    all_right([image], tmp, "after a rollback")


def expand(tmp, images):
    before = digests(images, tmp)
    dedupscan("expand", "--keep-originals", "0", *before)
    for path in before:
        if "backing-filename" in json.loads(qemu_img("info", "--output=json", path)):
            fail(f"{path} still stands on the pool")
    if digests(images, tmp) != before:
        fail("what was expanded says something else")


def main():
    lib.exit_on_signals()
    lib.require("qemu-img", "qemu-io", "qemu-nbd", "nbdinfo", "mke2fs")
    tmp, rng = lib.scratch("pool_bitmaps"), random.Random(5)
    with lib.FileSystem("ext4", tmp, 900) as fs:
        images, raw = make(fs.path, tmp, rng)
        all_right(images, tmp, "as QEMU made them")
        control(images[0], tmp, rng)
        broken, ignored = make_odd(fs.path, raw, rng)
        catalog = enter(fs, tmp, images, broken, ignored)
        all_right(images + [ignored], tmp, "entered")
        if not any(1 in table for table in tables_of(images[0].path)):
            fail("clusters of ones are stored")
        os.unlink(broken.path)
        live(fs, tmp, catalog, images, rng)
        expand(tmp, images[1:])
        for image in images[1:]:
            image.write(rng, 3)
        all_right(images[1:], tmp, "expanded, and written to")
        go_back(tmp, images[0])
    print(f"{sum(len(i.bitmaps) for i in images)} bitmaps of {len(images)} images")


if __name__ == "__main__":
    sys.exit(main())
