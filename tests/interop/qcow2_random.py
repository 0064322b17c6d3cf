#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""Random qcow2 images, made by qemu-img and qemu-io with every option they have, read by us and by QEMU.

For each image four things are held against QEMU, or against a second reader written here:
  bytes    imgtool cat         qemu-img convert -O raw
  map      imgtool map         qemu-img map --output=json
  stored   imgtool stored      qemu-img map of each member by itself, depth 0 (images without snapshots)
  layers   imgtool stored      the L1 and L2 tables of the image and all its snapshots: each host cluster exactly once

Usage: qcow2_random.py [--count N] [--seed S] [--jobs J] [--keep DIR]; one seed makes always the same images.
A failure is one line that ends with the seed; `--seed S --count 1 --keep DIR` makes that image again and keeps it."""

import json
import os
import random
import struct
import subprocess
import sys

import lib_random
from lib_random import IMGTOOL, Failed, check_maps, check_stored_alone, check_tiling, must_fail, our_extents, our_info

KIB, MIB = 1 << 10, 1 << 20
COPIED, COMPRESSED = 1 << 63, 1 << 62
OFFSET = 0x00FFFFFFFFFFFE00
here = None  # where QEMU runs: it looks for relative data files there, not beside the image


def run(*command, **kw):
    kw.setdefault("cwd", here)
    return lib_random.run(*command, **kw)


# ---- making images ----

class Member:
    """One file of a chain."""

    def __init__(self, rng, folder, name, base):
        self.rng, self.base = rng, base
        self.folder = os.path.join(folder, rng.choice(["sub", "other dir"])) if rng.random() < 0.6 else folder
        os.makedirs(self.folder, exist_ok=True)
        self.path = os.path.join(self.folder, name)
        self.source = os.path.join(folder, "source")
        self.raw = base is None and rng.random() < 0.15
        self.nr_snapshots = 0
        self.snapshots = []
        self.bitmaps = 0
        self.size = self.random_size()
        if self.raw:
            self.cluster = 64 * KIB
            self.format = "raw"
            if rng.random() < 0.1:
                self.size += rng.randrange(1, 512)
            with open(self.path, "wb") as f:
                f.truncate(self.size)
        else:
            self.format = "qcow2"
            self.make_qcow2()

    def random_size(self):
        rng = self.rng
        kind = rng.random()
        if kind < 0.1:
            return rng.randrange(1, 64) * 512
        if kind < 0.5:
            return rng.randrange(1, 16 * MIB // 512) * 512
        if kind < 0.9:
            return rng.randrange(1, 32) * MIB
        return rng.randrange(32, 128) * MIB

    def options(self):
        rng = self.rng
        o = {}
        self.v2 = rng.random() < 0.2
        o["compat"] = "0.10" if self.v2 else "1.1"
        bits = rng.choice([9, 10, 11, 12, 12, 13, 14, 14, 15, 16, 16, 16, 16, 17, 18, 20, 21])
        if self.size > 32 * MIB:
            bits = max(bits, 12)
        self.cluster = 1 << bits
        o["cluster_size"] = self.cluster
        self.data_file = None
        self.extended = False
        if not self.v2:
            if rng.random() < 0.5:
                o["refcount_bits"] = rng.choice([1, 2, 4, 8, 16, 32, 64])
            if bits >= 14 and rng.random() < 0.4:
                o["extended_l2"] = "on"
                self.extended = True
            if rng.random() < 0.2:
                o["lazy_refcounts"] = "on"
            o["compression_type"] = rng.choice(["zlib", "zstd"])
            if rng.random() < 0.12:
                self.data_file = self.path + ".data"
                o["data_file"] = os.path.basename(self.data_file) if self.folder == here else self.data_file
                if not self.base and rng.random() < 0.5:
                    o["data_file_raw"] = "on"
        if rng.random() < 0.15 and not (self.base and (self.v2 or not self.extended)):
            o["preallocation"] = rng.choice(["metadata", "metadata", "falloc", "full"])
        return o

    def make_qcow2(self):
        rng = self.rng
        options = self.options()
        command = ["qemu-img", "create", "-q", "-f", "qcow2"]
        if self.base:
            name = self.base.path
            if rng.random() < 0.5:
                name = os.path.relpath(name, self.folder)
            command += ["-b", name, "-F", self.base.format]
        spelled = ",".join(f"{k}={v}" for k, v in options.items())
        run(*command, "-o", spelled, self.path, str(self.size), cwd=self.folder)
        if not self.base and not self.data_file and rng.random() < 0.15:
            self.write()
            new = self.path + ".new"
            options.pop("preallocation", None)
            spelled = ",".join(f"{k}={v}" for k, v in options.items())
            run("qemu-img", "convert", "-q", "-c", "-O", "qcow2", "-o", spelled, self.path, new)
            os.rename(new, self.path)

    def place(self):
        """A random range of the disk, aligned in one of several ways."""
        rng = self.rng
        unit = rng.choice([512, 512, 4096, max(512, self.cluster // 32), self.cluster, self.cluster])
        at = rng.randrange(0, self.size) // unit * unit
        length = min(rng.choice([1, 1, 2, 3, rng.randrange(1, 40)]) * unit, self.size - at, 2 * MIB)
        if rng.random() < 0.05 and length > 4:
            at += 1
            length -= rng.randrange(2, 4)
        return at, length

    def command(self):
        rng = self.rng
        at, length = self.place()
        kind = rng.random()
        if kind < 0.25:
            return f"write -P {rng.randrange(1, 256)} {at} {length}"
        if kind < 0.5:
            return f"write -s {self.source}{rng.randrange(3)} {at} {length}"
        if self.raw:
            return f"discard {at} {length}"
        if kind < 0.65 and not self.data_file:
            at = at // self.cluster * self.cluster
            length = min(self.cluster * rng.randrange(1, 4), self.size - at)
            return f"write -c -s {self.source}{rng.randrange(3)} {at} {length}"
        if kind < 0.75:
            return f"write -z {at} {length}"
        if kind < 0.85:
            return f"write -z -u {at} {length}"
        return f"discard {at} {length}"

    def write(self):
        if self.size == 0:
            return
        commands = []
        for _ in range(self.rng.choice([1, 2, 4, 8, 16, 24])):
            commands += ["-c", self.command()]
        run("qemu-io", "-d", "unmap", "-f", self.format, *commands, self.path, may_fail=True)

    def snapshot(self):
        rng = self.rng
        if self.raw or self.data_file:
            return
        kind = rng.random()
        if kind < 0.6 or not self.snapshots:
            name = f"s{len(self.snapshots)}.{rng.randrange(1000)}"
            run("qemu-img", "snapshot", "-c", name, self.path, may_fail=True)
            self.snapshots.append(name)
        elif kind < 0.8:
            name = self.snapshots.pop(rng.randrange(len(self.snapshots)))
            run("qemu-img", "snapshot", "-d", name, self.path, may_fail=True)
        else:
            run("qemu-img", "snapshot", "-a", rng.choice(self.snapshots), self.path, may_fail=True)
            self.read_size()

    def resize(self):
        if self.raw and self.size % 512:
            return
        size = max(512, self.random_size())
        run("qemu-img", "resize", "-q", "--shrink", "-f", self.format, self.path, str(size), may_fail=True)
        self.read_size()

    def read_size(self):
        if not (self.raw and self.size % 512):
            said = json.loads(run("qemu-img", "info", "--output=json", "-f", self.format, self.path))
            self.size = said["virtual-size"]

    def age(self):
        """A disk that is written to and has snapshots taken all the time."""
        for _ in range(self.rng.randrange(4, 10)):
            self.write()
            self.snapshot()

    def mutate(self):
        rng = self.rng
        if rng.random() < 0.2:
            self.age()
        for _ in range(rng.choice([0, 1, 1, 2, 4, 8])):
            kind = rng.random()
            if kind < 0.5:
                self.write()
            elif kind < 0.8:
                self.snapshot()
            elif kind < 0.95 or self.raw or self.v2:
                self.resize()
            else:
                run("qemu-img", "bitmap", "--add", self.path, f"b{rng.randrange(1000)}", may_fail=True)
        self.write()


def make_chain(seed, folder):
    rng = random.Random(seed)
    with open(os.path.join(folder, "source0"), "wb") as f:
        f.write(rng.randbytes(70001))
    with open(os.path.join(folder, "source1"), "wb") as f:
        f.write(b"".join(b"line %d of a text\n" % i for i in range(rng.randrange(9999), 30000)))
    with open(os.path.join(folder, "source2"), "wb") as f:
        f.write(b"".join(rng.randbytes(100) + bytes(rng.randrange(900)) for i in range(301)))
    member = None
    for i in range(1 + rng.choice([0, 0, 0, 1, 1, 2, 3, 4])):
        member = Member(rng, folder, f"m{i}", member)
        member.mutate()
    return member


# ---- comparing ----

def qemu_extents(member):
    out = run("qemu-img", "map", "-f", member.format, "--output=json", member.path)
    rows = []
    for e in json.loads(out):
        kind = "hole" if not e["present"] else "maybe" if e["data"] and e["zero"] else "data" if e["data"] else "zero"
        rows.append((e["start"], e["start"] + e["length"], kind, e["depth"], e.get("offset")))
    return rows


class Tables:
    """A second, simple reader of L1, L2 and snapshot tables."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.bytes = f.read()
        fields = struct.unpack_from(">IIQIIQIIQQIIQ", self.bytes)
        _, self.version, _, _, bits, self.size, _, l1_size, l1, _, _, nr, at = fields
        self.cluster = 1 << bits
        features = struct.unpack_from(">Q", self.bytes, 72)[0] if self.version > 2 else 0
        self.entry = 16 if features & 16 else 8
        self.subs = 32 if features & 16 else 1
        self.layers = [self.read_layer(l1, l1_size)]
        for _ in range(nr):
            l1, l1_size, id_len, name_len, *_, extra = struct.unpack_from(">QIHHIIQII", self.bytes, at)
            self.layers.append(self.read_layer(l1, l1_size))
            at += (40 + extra + id_len + name_len + 7) // 8 * 8

    def read_layer(self, l1, l1_size):
        """{(guest offset of a subcluster): host offset, or the descriptor of a compressed cluster}"""
        per_l2 = self.cluster // self.entry
        sub_size = self.cluster // self.subs
        found = {}
        for i, e in enumerate(struct.unpack_from(f">{l1_size}Q", self.bytes, l1)):
            if not e & OFFSET:
                continue
            words = struct.unpack_from(f">{self.cluster // 8}Q", self.bytes, e & OFFSET)
            for j in range(per_l2):
                word = words[j * self.entry // 8]
                guest = (i * per_l2 + j) * self.cluster
                if word & COMPRESSED:
                    found[guest] = ("packed", word & ~COPIED)
                    continue
                bitmap = words[2 * j + 1] if self.subs > 1 else 0 if word & 1 or not word & OFFSET else 1
                for s in range(self.subs):
                    if bitmap >> s & 1:
                        found[guest + s * sub_size] = ("data", (word & OFFSET) + s * sub_size)
        return found


def pieces(rows, sub_size, cluster):
    """The extents that hold something, cut where subclusters end (clusters, for compressed ones)."""
    for begin, end, kind, _, offset in rows:
        unit = cluster if kind == "packed" else sub_size
        at = begin
        while at < end and kind not in ("hole", "zero"):
            upto = min(end, at // unit * unit + unit)
            yield at, upto, kind, unit, None if offset is None else offset + at - begin
            at = upto


def check_layers(member, ours, info):
    """Every byte of every cluster that any layer refers to is in our view once, and nothing else is."""
    tables = Tables(member.path)
    layer, sub_size = int(info["layer"]), tables.cluster // tables.subs
    bytes_of = {}
    for at, upto, kind, unit, offset in pieces(ours, sub_size, tables.cluster):
        k, guest = divmod(at, layer)
        start = guest // unit * unit
        held = tables.layers[k].get(start)
        where = f"layer {k}, guest offset {guest}: ours {kind} {offset}, tables say {held}"
        if kind == "prealloc":  # flagged so, or found in a hole of the file
            if not held or held[0] != "data":
                continue
            host = held[1] + guest - start
            if any(tables.bytes[host:host + upto - at]):
                raise Failed(f"{where}: not zeros")
        elif not held or held[0] != kind or kind == "data" and held[1] + guest - start != offset:
            raise Failed(where)
        key = held + (start,) if kind == "packed" else held
        bytes_of[key] = bytes_of.get(key, 0) + upto - at
    for k, found in enumerate(tables.layers):
        for guest, held in found.items():
            unit = tables.cluster if held[0] == "packed" else sub_size
            wanted = unit if len(tables.layers) > 1 else min(unit, max(0, int(info["size"]) - guest))
            got = bytes_of.get(held + (guest,) if held[0] == "packed" else held, 0)
            if got != wanted:
                raise Failed(f"layer {k}, guest offset {guest}: {got} of {wanted} bytes of {held} are in our view")
    return len(bytes_of)


def members(top):
    while top:
        yield top
        top = top.base


def check_bytes(top, folder, spoil=False):
    theirs = os.path.join(folder, "theirs")
    ours = os.path.join(folder, "ours")
    run("qemu-img", "convert", "-f", top.format, "-O", "raw", top.path, theirs)
    with open(ours, "wb") as f:
        done = subprocess.run([IMGTOOL, "-f", top.format, "cat", top.path], stdout=f, stderr=subprocess.PIPE,
                              check=False)
        if spoil:
            os.pwrite(f.fileno(), b"spoilt", top.size // 2)
    if done.returncode:
        raise Failed(done.stderr.decode().strip())
    if top.raw and top.size % 512:  # QEMU rounds such a disk up
        os.truncate(ours, (top.size + 511) // 512 * 512)
    out = subprocess.run(["cmp", ours, theirs], capture_output=True, check=False)
    if out.returncode:
        raise Failed(f"bytes differ: {out.stdout.decode()}{out.stderr.decode()}".strip())


def is_damaged(member):
    """QEMU 7.2 writes, once in thousands of images with snapshots and compressed clusters, over what a snapshot needs."""
    return not member.raw and subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", member.path], stdout=subprocess.DEVNULL,
                                             stderr=subprocess.DEVNULL, check=False, cwd=here).returncode == 2


def must_be_unreadable(top):
    for command in (["qemu-img", "convert", "-f", top.format, "-O", "raw", top.path, os.devnull],
                    [IMGTOOL, "-f", top.format, "cat", top.path]):
        if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0:
            raise Failed(f"{command[0]} reads an image that the other cannot read")


def check_chain(top, folder):
    try:
        check_bytes(top, folder)
    except Failed:
        if not any(is_damaged(m) for m in members(top)):
            raise
        must_be_unreadable(top)
        return 0
    ragged = any(m.raw and m.size % 512 for m in members(top))
    if not ragged:
        ours = our_extents("map", top.path, top.format)
        check_tiling(ours, top.size, "map")
        check_maps(ours, qemu_extents(top), "map")
    clusters = 0
    for m in members(top):
        if m.raw:
            continue
        info, ours = our_info(m.path, m.format), our_extents("stored", m.path, m.format)
        check_tiling(ours, int(info["span"]), f"stored {m.path}")
        said = json.loads(run("qemu-img", "info", "--output=json", m.path))
        if int(info["snapshots"]) != len(said.get("snapshots", [])):
            raise Failed(f"{info['snapshots']} snapshots, QEMU says {len(said.get('snapshots', []))}")
        if int(info["bitmaps"]) != len(said["format-specific"]["data"].get("bitmaps", [])):
            raise Failed(f"{info['bitmaps']} bitmaps counted")
        if not m.data_file:
            clusters += check_layers(m, ours, info)
        if not ragged and int(info["snapshots"]) == 0:
            check_stored_alone(ours, qemu_extents(m), f"stored {m.path}")
    return clusters


def control(folder):
    """Plants a fault for each comparison to find."""
    global here
    here = folder
    member = Member.__new__(Member)
    member.format, member.path, member.raw, member.base, member.data_file = "qcow2", f"{folder}/m", False, None, None
    member.size = MIB
    run("qemu-img", "create", "-q", "-f", "qcow2", member.path, "1M")
    run("qemu-io", "-c", "write -P 1 0 64k", "-c", "write -P 2 512k 128k", member.path)
    check_chain(member, folder)
    ours, info = our_extents("stored", member.path, member.format), our_info(member.path, member.format)
    moved = [e if e[4] is None else e[:4] + (e[4] + 65536,) for e in ours]
    twice = [e if e[2] != "hole" else e[:2] + ours[0][2:] for e in ours]
    less = [e if e[4] is None else e[:2] + ("hole", 0, None) for e in ours]
    must_fail("bytes", check_bytes, member, folder, True)
    for planted in (moved, twice, less):
        must_fail("maps", check_maps, planted, qemu_extents(member), "map")
        must_fail("stored extents", check_stored_alone, planted, qemu_extents(member), "stored")
        must_fail("layers", check_layers, member, planted, info)


def check_seed(seed, folder):
    global here
    here = folder
    return check_chain(make_chain(seed, folder), folder)


if __name__ == "__main__":
    sys.exit(lib_random.main(__doc__, check_seed, control, (300, 2000), found="stored clusters and subclusters"))
