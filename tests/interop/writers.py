#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Images of all formats and kinds made by our writers of random raw disks, read by QEMU, by us, and where they are by libvhdi and
libvmdk.

Of each: what qemu-img info says, qemu-img check, the bytes, how much space the files take, and where the bytes lie in them; a
stream is read from its beginning to its end, as who imports it does; then QEMU writes to it, as a guest would, and all is looked at
again.  Every tenth disk is a giant, of which only the data and what is around it are read."""

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import types
import zlib

import lib_random
from lib_random import IMGTOOL, Failed, must_fail, our_extents, our_info, run

sys.path.append("/usr/lib/python3/dist-packages")  # another python3 may be first in PATH
import vhd_libyal  # pylint: disable=wrong-import-position
import vmdk_libyal  # pylint: disable=wrong-import-position

WRITERTOOL = os.path.join(os.path.dirname(IMGTOOL), "writertool")
KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
SECTOR, BLOCK = 512, 4096
RAW_MAX = 15 * TIB  # ext4 has files of 16 TiB at most

QEMU = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx"}
SPLIT, SPLIT_FLAT, FLAT, STREAM = "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "monolithicFlat", "streamOptimized"
EXTENT = 2047 * MIB  # of split ones
KINDS = {"raw": [None], "qcow2": [None, "3", "2", "zlib", "zstd"],
         "vmdk": [None, "monolithicSparse", FLAT, SPLIT, SPLIT_FLAT, STREAM],
         "vhd": [None, "dynamic", "fixed"], "vhdx": [None, "dynamic", "fixed"]}
CLUSTERS = {"raw": (1, 0), "qcow2": (9, 21), "vmdk": (13, 21), "vhd": (12, 25), "vhdx": (20, 25),  # as powers of two
            SPLIT: (13, 20), STREAM: (13, 16), FLAT: (1, 0), SPLIT_FLAT: (1, 0), "fixed": (1, 0)}
GIANT = {"raw": RAW_MAX, "qcow2": 64 * TIB, "vmdk": 2 * TIB, "vhd": 2040 * GIB, "vhdx": 64 * TIB, FLAT: RAW_MAX,
         SPLIT: 20 * GIB, SPLIT_FLAT: 20 * GIB}  # a file for each 2 GiB

mounts = None  # whether vmdkmount works here


class Disk:
    """A raw disk and the image made of it."""

    def __init__(self, folder, form, size, kind=None, cluster=None):
        self.form, self.size, self.kind, self.cluster = form, size, kind, cluster
        self.raw, self.path = os.path.join(folder, "disk.raw"), os.path.join(folder, f"größe.{form}")
        self.sectors = {}  # written ones, by number
        self.giant = size > 100 * MIB
        self.packed = kind in ("zlib", "zstd", STREAM)
        self.whole = -(-size // SECTOR) * SECTOR  # what a format of sectors makes of it

    def fill(self, rng):
        last = (min(self.size, RAW_MAX) - 1) // SECTOR
        noise = self.packed and not self.giant and rng.random() < 0.5  # becomes smaller by about a half, or not at all
        for _ in range(rng.choice([0, 1, 2, 5, 12])):
            first = rng.choice([0, last, rng.randrange(last + 1), rng.randrange(last + 1)])
            first = rng.choice([first, first // 8 * 8, first // 128 * 128])
            for i in range(first, min(last + 1, first + rng.choice([1, 3, 8, 20, 128, 300, 3000]))):
                self.sectors[i] = rng.choice([bytes(SECTOR)] * 2 + [bytes([i % 255 + 1]) * SECTOR] * 3)
                if noise:
                    some = SECTOR if i // 512 % 2 else SECTOR // 2
                    self.sectors[i] = rng.randbytes(some) + self.sectors[i][some:]
            if rng.random() < 0.5:  # zeros that are there, in whole blocks
                at = rng.randrange(first, last + 1) // 8 * 8
                self.sectors.update({i: bytes(SECTOR) for i in range(at, min(at + 256, last + 1))})
        tail = self.size % SECTOR
        if tail and last in self.sectors:
            self.sectors[last] = self.sectors[last][:tail].ljust(SECTOR, b"\0")
        with open(self.raw, "wb") as f:
            for i, data in self.sectors.items():
                f.seek(i * SECTOR)
                f.write(data)
            f.truncate(min(self.size, RAW_MAX))

    def write(self, rng):
        options = ["-p", str(rng.choice([1, 8, 25, 128, 2048, 8192]) * SECTOR), "-s", str(self.size)]
        options += ["-k", self.kind] if self.kind else []
        options += ["-c", str(self.cluster)] if self.cluster else []
        options += ["-z"] if not self.giant and rng.random() < 0.3 else []
        run(WRITERTOOL, *options, self.form, self.raw, self.path)

    def files(self):
        folder, name = os.path.split(self.path)
        return [os.path.join(folder, n) for n in os.listdir(folder)
                if n == name or (self.form == "vmdk" and n.startswith(name[:-5] + "-"))]

    def data(self):
        """The blocks of the disk that are not all zeros."""
        return {i * SECTOR // BLOCK for i, data in self.sectors.items() if any(data)}

    def bytes(self):
        size = self.size if self.form == "raw" else self.whole
        with open(self.raw, "rb") as f:
            return f.read(size).ljust(size, b"\0")


# ---- checks ----

def check_info(d):
    info = json.loads(run("qemu-img", "info", "-f", QEMU[d.form], "--output=json", d.path))
    if info["virtual-size"] != d.whole:
        raise Failed(f"QEMU says {info['virtual-size']} bytes, not {d.whole}")
    if d.cluster and info.get("cluster-size") != d.cluster:
        raise Failed(f"QEMU says clusters of {info.get('cluster-size')}, not {d.cluster}")
    more = info.get("format-specific", {}).get("data", {})
    if d.form == "qcow2" and more["compat"] != ("0.10" if d.kind == "2" else "1.1"):
        raise Failed(f"QEMU says version {more['compat']}")
    if d.form == "qcow2" and more.get("compression-type", "zlib") != ("zstd" if d.kind == "zstd" else "zlib"):
        raise Failed(f"QEMU says {more['compression-type']}")
    if d.form == "vmdk" and more["create-type"] != (d.kind or "monolithicSparse"):
        raise Failed(f"QEMU says {more['create-type']}")
    ours = our_info(d.path, d.form)
    if int(ours["size"]) != (d.size if d.form == "raw" else d.whole) or (d.kind and d.form != "qcow2" and ours["kind"] != d.kind):
        raise Failed(f"we say {ours}")


def check_check(d, exact=True):
    if d.form not in ("qcow2", "vmdk", "vhdx"):
        return
    said = json.loads(run("qemu-img", "check", "-f", d.form, "--output=json", d.path))
    if said["check-errors"] or said.get("leaks") or said.get("corruptions"):
        raise Failed(f"qemu-img check: {said}")
    if exact and d.form == "qcow2" and said["image-end-offset"] != os.path.getsize(d.path):
        raise Failed(f"the file has {os.path.getsize(d.path)} bytes, the image {said['image-end-offset']}")


def qemu_reads(d):
    """Around the data of a giant, too much of whose holes would have to be read."""
    last, wanted = d.whole // SECTOR, {}
    for i in d.sectors:
        for near in (i - 1, i, i + 1):
            if 0 <= near < last:
                wanted[near] = d.sectors.get(near, bytes(SECTOR))
    wanted[last - 1] = d.sectors.get(last - 1, bytes(SECTOR))
    commands = []
    whole = sorted(i for i, data in wanted.items() if data == data[:1] * SECTOR)  # qemu-io knows no other patterns
    for i in random.Random(0).sample(whole, min(len(whole), 300)):
        commands += ["-c", f"read -q -P {wanted[i][0]} {i * SECTOR} {SECTOR}"]
    out = run("qemu-io", "-r", "-f", QEMU[d.form], *commands, d.path)
    if out:
        raise Failed(f"QEMU reads other bytes: {out.decode()[:200]}")


def check_bytes(d):
    if d.giant:
        qemu_reads(d)
        return
    run("qemu-img", "compare", "-q", "-f", "raw", "-F", QEMU[d.form], d.raw, d.path)
    if run(IMGTOOL, "-f", d.form, "cat", d.path) != d.bytes():
        raise Failed("we read other bytes")


def check_libyal(d):
    """libvhdi loses its place in large reads; vmdkmount is not for us where there is no FUSE."""
    if d.giant:
        return 0
    if d.form == "vhd" and vhd_libyal.pyvhdi:
        found = vhd_libyal.libvhdi_bytes([types.SimpleNamespace(path=d.path, parent=None, size=d.whole)])
    elif d.form == "vmdk" and d.kind != FLAT and mounts:
        found = vmdk_libyal.libvmdk_bytes(d.path, os.path.dirname(d.path))
    else:
        return 0
    if found != d.bytes():
        raise Failed(f"lib{d.form} reads other bytes")
    return 1


def check_space(d):
    """Nothing but the data, a table entry or a bitmap for what is touched, and tables that are always there."""
    cluster = d.cluster or {"vmdk": 64 * KIB, "vhd": 2 * MIB, "qcow2": 64 * KIB}.get(d.form, 32 * MIB)
    data = d.data()
    touched = len({b * BLOCK // cluster for b in data})
    tables = len({b * BLOCK // (cluster * cluster // 8) for b in data}) if d.form == "qcow2" else len(data)
    fixed = {"raw": 0, "qcow2": d.whole // (cluster * cluster // 8) * 8 // BLOCK * BLOCK // 64,
             "vmdk": d.whole // (cluster * 512) * 8,
             "vhd": d.whole // cluster * 4,
             "vhdx": d.whole // MIB * 8 if d.cluster == MIB else d.whole // (cluster // 4) * 8}[d.form]
    limit = (len(data) + 2 * touched + 4 * tables) * BLOCK + fixed + 400 * KIB
    if d.form == "qcow2":
        limit += 2 * cluster  # the last refcount block and the end of the refcount table
    if d.form == "vmdk":
        limit += len(d.files()) * 64 * KIB
    taken = sum(os.stat(path).st_blocks * 512 for path in d.files())
    if taken > limit:
        raise Failed(f"the file takes {taken} bytes for {len(data)} blocks of data in {touched} clusters, not at most {limit}")


def check_places(d):
    """Blocks of the disk lie on blocks of the file, in the same order."""
    if d.packed or (d.form == "qcow2" and d.cluster and d.cluster < BLOCK):
        return
    before, part = -1, 0
    for begin, _, kind, _, offset in our_extents("map", d.path, d.form):
        if kind != "data":
            continue
        if d.kind in (SPLIT, SPLIT_FLAT) and begin // EXTENT != part:
            before, part = -1, begin // EXTENT
        if (offset - begin) % BLOCK:
            raise Failed(f"what is at {begin} of the disk lies at {offset} of the file")
        if offset <= before:
            raise Failed(f"what is at {begin} of the disk lies before what it follows")
        before = offset


# ---- streams ----

def inflated(data):
    z = zlib.decompressobj()
    out = z.decompress(data)
    if not z.eof or z.unused_data:
        raise Failed("a grain has no whole stream in it")
    return out


class Stream:
    """A stream, read as it comes: markers, each with what it says that follows."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.bytes = f.read()
        self.header = self.decode(self.bytes[:SECTOR])
        self.grains, self.tables, self.last = {}, {}, -1  # where grains are, and tables, in sectors
        self.new = {}  # grains since the last table
        self.directory = None

    @staticmethod
    def decode(sector):
        h = dict(zip(("magic", "version", "flags", "capacity", "grain", "descriptor", "descriptor_size", "gtes", "rgd", "gd",
                      "overhead", "unclean", "newlines", "compression"), struct.unpack("<4sIIQQQQIQQQB4sH433x", sector)))
        if (h["magic"], h["version"], h["flags"], h["compression"], h["gtes"]) != (b"KDMV", 3, 0x30001, 1, 512):
            raise Failed(f"header {h}")
        return h

    def grain(self, at, lba, size):
        sectors = self.header["grain"]
        if lba % sectors or lba <= self.last:
            raise Failed(f"the grain of sector {lba} comes after that of {self.last}")
        if len(inflated(self.bytes[at * SECTOR + 12:at * SECTOR + 12 + size])) != sectors * SECTOR:
            raise Failed(f"the grain of sector {lba} has another size")
        self.last = lba
        self.new[lba // sectors] = at
        return at + -(-(12 + size) // SECTOR)

    def table(self, at, nr):
        entries = struct.unpack("<512I", self.bytes[at * SECTOR:(at + nr) * SECTOR])
        first = min(self.new) // 512 * 512
        if {first + i: e for i, e in enumerate(entries) if e} != self.new:
            raise Failed(f"the table at sector {at} is not of the grains before it")
        self.tables[first // 512] = at
        self.grains.update(self.new)
        self.new = {}

    def directory_of(self, at, nr):
        entries = struct.unpack(f"<{nr * 128}I", self.bytes[at * SECTOR:(at + nr) * SECTOR])
        if {i: e for i, e in enumerate(entries) if e} != self.tables or self.new:
            raise Failed("the directory is not of the tables before it")
        self.directory = at

    def footer(self, at):
        f = self.decode(self.bytes[at * SECTOR:(at + 1) * SECTOR])
        if f != {**self.header, "gd": self.directory} or self.header["gd"] != (1 << 64) - 1:
            raise Failed(f"footer {f}, header {self.header}")

    def read(self):
        at = self.header["overhead"]
        while True:
            value, size, kind = struct.unpack("<QII", self.bytes[at * SECTOR:at * SECTOR + 16])
            if size:
                at = self.grain(at, value, size)
                continue
            if kind == 0:
                if value or (at + 1) * SECTOR != len(self.bytes):
                    raise Failed(f"the stream ends at sector {at + 1} of {len(self.bytes) / SECTOR}")
                return
            {1: self.table, 2: self.directory_of, 3: lambda at, _: self.footer(at)}[kind](at + 1, value)
            at += 1 + value


def check_stream(d):
    if d.kind == STREAM:
        try:
            Stream(d.path).read()
        except (struct.error, zlib.error, KeyError, ValueError) as e:
            raise Failed(f"the stream is broken: {e}") from e


def use(rng, d):
    """What a guest does."""
    if d.kind == STREAM:  # nobody writes to it
        return
    commands = []
    with open(d.raw, "r+b") as f:
        f.truncate(d.whole)
        for _ in range(rng.choice([1, 3, 6])):
            at = rng.randrange(d.whole // SECTOR) * SECTOR
            length, byte = min(d.whole - at, rng.choice([1, 8, 100, 1000]) * SECTOR), rng.randrange(256)
            commands += ["-c", f"write -q -P {byte} {at} {length}"]
            f.seek(at)
            f.write(bytes([byte]) * length)
    if run("qemu-io", "-f", QEMU[d.form], *commands, d.path):
        raise Failed("QEMU cannot write to it")
    d.size = os.path.getsize(d.path) if d.form == "raw" else d.whole


# ---- the disks ----

def random_disk(rng, folder):
    form = rng.choice(["raw", "qcow2", "qcow2", "qcow2", "vmdk", "vmdk", "vhd", "vhd", "vhdx", "vhdx"])
    kind = rng.choice(KINDS[form])
    low, high = CLUSTERS.get(kind) or CLUSTERS[form]
    cluster = rng.choice([None, 1 << rng.randint(low, high)]) if high else None
    size = rng.choice([rng.randrange(1, 30) * SECTOR, rng.randrange(1, 30000) * SECTOR, rng.randrange(1, 20) * MIB,
                       rng.randrange(1, 200000)])
    if rng.random() < 0.1:
        cluster = None if cluster and form != "vhd" else cluster and 2 * MIB
        giant = GIANT.get(kind) or GIANT[form]
        size = rng.choice([giant, rng.randrange(GIB, giant)])
        if form != "raw" and kind == "fixed":
            size = min(size, 4 * GIB)  # QEMU needs the file
    return Disk(folder, form, size, kind, cluster)


def check_disk(d, exact=True):
    check_info(d)
    check_check(d, exact)
    check_bytes(d)
    check_stream(d)
    return check_libyal(d)


def check_seed(seed, folder):
    """Returns how many comparisons with libvhdi and libvmdk there were."""
    rng = random.Random(seed)
    d = random_disk(rng, folder)
    d.fill(rng)
    try:
        d.write(rng)
        check_space(d)
        check_places(d)
        found = check_disk(d)
        if not d.giant:
            use(rng, d)
            check_disk(d, exact=False)
    except (Failed, subprocess.SubprocessError, OSError) as e:
        raise Failed(f"{d.form} {d.kind or ''} of {d.size} bytes, clusters {d.cluster}: {str(e)[-500:]}") from e
    return found


# ---- the control ----

def patch(path, at, data):
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(data)


def plain(folder, form, noise=None, **more):
    d = Disk(folder, form, 8 * MIB + SECTOR, **more)
    d.sectors = {i: bytes([i % 255 + 1]) * SECTOR for i in range(800, 1200)}
    if noise:
        d.sectors = {i: noise.randbytes(SECTOR // 2) + bytes(SECTOR // 2) for i in range(800, 8000)}
    with open(d.raw, "wb") as f:
        f.seek(800 * SECTOR)
        f.write(b"".join(d.sectors.values()))
        f.truncate(d.size)
    run(WRITERTOOL, *(["-k", d.kind] if d.kind else []), form, d.raw, d.path)
    check_disk(d)
    check_space(d)
    check_places(d)
    return d


def control(folder):
    """Plants a fault for each check to find."""
    global mounts
    try:
        d = plain(folder, "vmdk")
        mounts = shutil.which("vmdkmount") and vmdk_libyal.libvmdk_bytes(d.path, folder) == d.bytes()
    except OSError as e:
        print(f"vmdkmount does not work here: {e}")
    for form in QEMU:
        d = plain(folder, form)
        d.whole += SECTOR
        must_fail("sizes", check_info, d)
        d = plain(folder, form)
        at = next(e for e in our_extents("map", d.path, form) if e[2] == "data")
        patch(d.path, at[4] + 800 * SECTOR - at[0], b"!")
        must_fail("bytes", check_bytes, d)
        d.giant = True
        d.sectors = {800: d.sectors[800]}
        must_fail("some bytes", check_bytes, d)
        d = plain(folder, form)
        with open(d.path, "r+b") as f:
            everything = f.read()
            f.seek(0)
            f.write(everything.ljust(40 * MIB, b"\0"))
        must_fail("space", check_space, d)
    d = plain(folder, "qcow2", kind="3")
    patch(d.path, os.path.getsize(d.path) - 64 * KIB + 2, b"\0\0")  # the refcount of the second cluster
    must_fail("refcounts", check_check, d)
    for kind in ("zlib", "zstd"):
        plain(folder, "qcow2", random.Random(1), kind=kind)
        d = plain(folder, "qcow2", kind=kind)
        patch(d.path, os.path.getsize(d.path) - 64 * KIB + 6, b"\0\1")  # and of that with the compressed data
        must_fail("refcounts", check_check, d)
    for at, byte in ((-512, b"\1"), (-1020, b"\2"), (-1524, b"\1"), (-1536 - 512, b"\1"), (65536 + 3, b"\1"), (65536 + 12, b"\0"),
                     (4, b"\1")):
        d = plain(folder, "vmdk", kind=STREAM)
        patch(d.path, at % os.path.getsize(d.path) if at < 0 else at, byte)
        must_fail(f"the stream at {at}", check_stream, d)
    d = plain(folder, "vhd")
    run("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on", d.raw, d.path)
    must_fail("places", check_places, d)


if __name__ == "__main__":
    sys.exit(lib_random.main(__doc__, check_seed, control, (200, 2000), "disks written", "comparisons with libvhdi and libvmdk"))
