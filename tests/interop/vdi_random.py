#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Random VDI images, made by QEMU and by a writer here that knows what QEMU does not make.

For each image our views are held against a second reader, written here, and against QEMU where it can read the image:
  bytes    imgtool cat         the second reader; qemu-img convert -O raw
  map      imgtool map         qemu-img map --output=json
  stored   imgtool stored      the block map: each block of the file exactly once, zeros, holes
The writer makes other block sizes, extra bytes before blocks, gaps between the parts of the file, zero blocks, odd disk
sizes, files that end inside the last block, and differencing images, whose guest view must be refused.

Usage: vdi_random.py [--count N] [--seed S] [--jobs J] [--keep DIR]; one seed makes always the same images."""

import json
import os
import random
import struct
import subprocess
import sys
import uuid

import lib_random
from lib_random import IMGTOOL, Failed, check_tiling, must_fail, run

KIB, MIB = 1 << 10, 1 << 20
FREE, ZERO = 0xFFFFFFFF, 0xFFFFFFFE
HEADER = struct.Struct("<64sIIIII256sII4IIQIIII16s16s16s16s")
DYNAMIC, FIXED, DIFFERENCING = 1, 2, 4


# ---- making images ----

def qemu_image(rng, path):
    """Made and written to by QEMU; the size, as QEMU rounds it."""
    size = rng.choice([0, 1, 511, 4097, rng.randrange(1, 4 * MIB), rng.randrange(1, 40) * MIB, rng.randrange(1, 300 * MIB)])
    static = rng.random() < 0.3
    run("qemu-img", "create", "-q", "-f", "vdi", "-o", f"static={'on' if static else 'off'}", path, str(size))
    size = (size + 511) // 512 * 512
    commands = []
    for _ in range(rng.choice([0, 1, 3, 10, 25]) if size else 0):
        at = rng.randrange(size)
        length = min(rng.choice([1, 512, 4096, 70000, MIB, 2 * MIB]), size - at)
        commands += ["-c", f"write -P {rng.randrange(256)} {at} {length}"]
    if commands:
        run("qemu-io", "-f", "vdi", *commands, path)
    if rng.random() < 0.2:
        new = path + ".new"
        run("qemu-img", "convert", "-q", "-f", "vdi", "-O", "vdi", "-o", f"static={rng.choice(['on', 'off'])}", path, new)
        os.rename(new, path)


def our_image(rng, path):
    kind = rng.choice([DYNAMIC, DYNAMIC, FIXED, DIFFERENCING])
    block = rng.choice([512, 4 * KIB, 64 * KIB, MIB, MIB, MIB, 2 * MIB])
    extra = rng.choice([0, 0, 512, 4096]) if block < MIB or rng.random() < 0.3 else 0
    nr = rng.choice([1, 2, rng.randrange(1, 60), rng.randrange(1, 60)])
    if block < 64 * KIB:
        nr = rng.choice([nr, rng.randrange(1, 5000), 16384, 40000])
    size = nr * block - (rng.randrange(block) if rng.random() < 0.5 else 0)
    order = list(range(nr))
    if rng.random() < 0.5:
        for _ in range(rng.randrange(1, 20)):
            i, j = rng.randrange(nr), rng.randrange(nr)
            order[i], order[j] = order[j], order[i]
    share = 0 if kind == FIXED else rng.random()
    entries, used, run_of = [], 0, None
    for i in range(nr):  # runs of what is alike
        if run_of is None or rng.random() < 0.15:
            run_of = rng.choice([FREE, ZERO]) if rng.random() < share else None
        entries.append(order[i] if run_of is None else run_of)
    held = sorted(e for e in entries if e < ZERO)  # no block of the file without one of the disk
    place = {e: i for i, e in enumerate(held)}
    entries = [place.get(e, e) for e in entries]
    used = len(held)
    header_size = rng.choice([384, 400])
    map_offset = rng.choice([512, 512, 1024, MIB]) if rng.random() < 0.8 else 480
    data_offset = map_offset + 4 * nr + rng.choice([0, 1, 511])
    if rng.random() < 0.8:
        data_offset = (data_offset + 511) // 512 * 512
    parent = rng.randbytes(16) if kind == DIFFERENCING else bytes(16)
    header = HEADER.pack(b"<<< test >>>\n", 0xBEDA107F, 0x00010001, header_size, kind, rng.choice([0, 1]), b"comment",
                         map_offset, data_offset, 0, 0, 0, 512, 0, size, block, extra, nr, used, rng.randbytes(16),
                         rng.randbytes(16), parent, rng.randbytes(16) if kind == DIFFERENCING else bytes(16))
    with open(path, "wb") as f:
        f.write(header)
        f.seek(map_offset)
        f.write(struct.pack(f"<{nr}I", *entries))
        for i in range(used):
            f.seek(data_offset + i * (block + extra))
            f.write(b"\xee" * extra)
            if rng.random() < 0.9:
                f.write(rng.randbytes(300) if rng.random() < 0.5 else bytes([i % 256]) * block)
        end = data_offset + used * (block + extra)
        if used and rng.random() < 0.2:
            end -= rng.randrange(block)
        f.truncate(end)


# ---- the second reader ----

class Vdi:
    def __init__(self, path):
        with open(path, "rb") as f:
            self.bytes = f.read()
        fields = HEADER.unpack_from(self.bytes)
        self.kind, self.map_offset, self.data_offset = fields[4], fields[7], fields[8]
        self.size, self.block, self.extra, self.nr = fields[14], fields[15], fields[16], fields[17]
        self.size = (self.size + 511) // 512 * 512
        self.id, self.parent = (str(uuid.UUID(bytes_le=fields[i])) for i in (19, 21))
        self.map = struct.unpack_from(f"<{self.nr}I", self.bytes, self.map_offset)

    def blocks(self):
        """(begin, end, kind, file offset) of each block of the disk."""
        for at in range(0, self.size, self.block):
            entry = self.map[at // self.block]
            kind = {FREE: "hole", ZERO: "zero"}.get(entry, "data")
            offset = self.data_offset + entry * (self.block + self.extra) + self.extra if kind == "data" else None
            yield at, min(at + self.block, self.size), kind, offset

    def content(self):
        out = bytearray(self.size)
        for begin, end, _, offset in self.blocks():
            if offset is not None:
                found = self.bytes[offset:offset + end - begin]
                out[begin:begin + len(found)] = found
        return bytes(out)


# ---- comparing ----

def our_extents(verb, path):
    return [(begin, end, kind, offset) for begin, end, kind, _, offset in lib_random.our_extents(verb, path, "vdi")]


def pairs(ours, theirs):
    i = j = at = 0
    while i < len(ours) and j < len(theirs):
        yield at, ours[i], theirs[j]
        at = min(ours[i][1], theirs[j][1])
        i += ours[i][1] == at
        j += theirs[j][1] == at


def check_stored(ours, vdi):
    """Data in a hole of the file is told as zeros that are preallocated."""
    for at, a, b in pairs(ours, list(vdi.blocks())):
        same = a[2] == b[2] and (a[2] != "data" or a[3] + at - a[0] == b[3] + at - b[0])
        if a[2] == "prealloc":
            offset = (b[3] or 0) + at - b[0]
            same = b[2] == "data" and not any(vdi.bytes[offset:offset + min(a[1], b[1]) - at])
        if not same:
            raise Failed(f"stored view differs at {at}: ours {a}, the block map says {b}")


def check_merged(ours):
    """Few extents: neighbours that could be one are one.  Data are cut at holes of the file as well."""
    for a, b in zip(ours, ours[1:]):
        if a[2] == b[2] and a[2] in ("hole", "zero") and a[1] - a[0] < 1 << 30:
            raise Failed(f"extents {a} and {b} are not merged")


def check_map_of_qemu(ours, path):
    theirs = [(e["start"], e["start"] + e["length"], e["data"], e.get("offset"))
              for e in json.loads(run("qemu-img", "map", "-f", "vdi", "--output=json", path))]
    for at, a, b in pairs(ours, theirs):
        same = (a[2] in ("data", "prealloc")) == b[2]
        if same and a[2] == "data" and b[3] is not None:
            same = a[3] + at - a[0] == b[3] + at - b[0]
        if not same:
            raise Failed(f"map differs at {at}: ours {a}, QEMU's {b}")


def info_of(path):
    out = run(IMGTOOL, "info", path).decode()  # without -f: it must be recognised
    return dict((line + " ").split(" ", 1) for line in out.splitlines())


def check_info(path, vdi):
    info = {k: v.strip() for k, v in info_of(path).items()}
    nobody = str(uuid.UUID(int=0))
    wanted = {"format": "vdi", "size": str(vdi.size), "span": str(vdi.size), "cluster_size": str(vdi.block),
              "kind": {DYNAMIC: "dynamic", FIXED: "fixed", DIFFERENCING: "differencing"}[vdi.kind],
              "id": vdi.id if vdi.id != nobody else "", "backing_id": vdi.parent if vdi.parent != nobody else ""}
    for key, value in wanted.items():
        if info[key] != value:
            raise Failed(f"info says {key} is '{info[key]}', not '{value}'")


def check_refused(path, vdi):
    done = subprocess.run([IMGTOOL, "cat", path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    said = done.stderr.decode()
    if done.returncode != 1 or vdi.parent not in said or "does not say where" not in said:
        raise Failed(f"the guest view of a differencing image: exit status {done.returncode}, '{said.strip()}'")


def check_bytes(path, vdi, spoil=False):
    ours, wanted = run(IMGTOOL, "cat", path), vdi.content()
    if spoil:
        ours = ours[:-1] + bytes([ours[-1] ^ 1])
    if ours != wanted:
        at = next((i for i, (a, b) in enumerate(zip(ours, wanted)) if a != b), min(len(ours), len(wanted)))
        raise Failed(f"bytes differ at {at} ({len(ours)} and {len(wanted)} bytes)")


def check_bytes_of_qemu(path, vdi):
    raw = path + ".raw"
    run("qemu-img", "convert", "-f", "vdi", "-O", "raw", path, raw)
    with open(raw, "rb") as f:
        if f.read() != vdi.content():
            raise Failed("QEMU reads other bytes than the second reader")
    os.unlink(raw)


def check(path):
    vdi = Vdi(path)
    check_info(path, vdi)
    ours = our_extents("stored", path)
    check_tiling(ours, vdi.size, "stored")
    check_stored(ours, vdi)
    check_merged(ours)
    if vdi.kind == DIFFERENCING:
        check_refused(path, vdi)
        return
    check_bytes(path, vdi)
    readable = vdi.block == MIB and not vdi.extra and vdi.map_offset % 512 == 0 and vdi.data_offset % 512 == 0
    if readable:
        check_map_of_qemu(our_extents("map", path), path)
        check_bytes_of_qemu(path, vdi)


def control(folder):
    """Plants a fault for each comparison to find."""
    path = f"{folder}/control"
    run("qemu-img", "create", "-q", "-f", "vdi", path, "4M")
    run("qemu-io", "-f", "vdi", "-c", "write -P 1 1M 64k", "-c", "write -P 2 3M 1M", path)
    check(path)
    vdi, ours = Vdi(path), our_extents("stored", path)
    moved = [e if e[3] is None else e[:3] + (e[3] + 512,) for e in ours]
    other = [e[:2] + ("zero", None) if e[2] == "hole" else e for e in ours]
    cut = [(at, at + MIB // 2) + ours[0][2:] for at in (0, MIB // 2)] + ours[1:]
    must_fail("bytes", check_bytes, path, vdi, True)
    must_fail("stored extents", check_stored, moved, vdi)
    must_fail("stored extents", check_stored, other, vdi)
    must_fail("extents that are merged", check_merged, cut)
    must_fail("maps", check_map_of_qemu, moved, path)
    must_fail("refusals", check_refused, path, vdi)
    vdi.id = "another"
    must_fail("information", check_info, path, vdi)


def check_seed(seed, folder):
    path, rng = os.path.join(folder, "image"), random.Random(seed)
    rng.choice([qemu_image, our_image])(rng, path)
    check(path)
    return 0


if __name__ == "__main__":
    sys.exit(lib_random.main(__doc__, check_seed, control, (40, 300)))
