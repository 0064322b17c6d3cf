#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Random VHD images: one half made by qemu-img and qemu-io, the other by lib_vhd.py from the specification, differencing
chains among them.  Held against QEMU, or against what the writer knows:
  bytes    imgtool cat         qemu-img convert -O raw; the writer's model, of each member of a chain
  size     imgtool info        qemu-img info, for every creator and geometry
  map      imgtool map         qemu-img map --output=json
  stored   imgtool stored      the sectors that were written into this very file, and where they lie there

Usage: vhd_random.py [--count N] [--seed S] [--jobs J] [--keep DIR]; one seed makes always the same images."""

import json
import os
import random
import sys

import lib_random
import lib_vhd
from lib_vhd import DIFFERENCING, DYNAMIC, FIXED, SECTOR
from lib_random import IMGTOOL, Failed, check_maps, check_tiling, must_fail, our_extents, our_info, run

MIB = 1 << 20
# QEMU 7.2 does not know Azure's; newer ones do.
CREATORS = [b"vpc ", b"vs  ", b"qemu", b"qem2", b"win ", b"d2v ", b"tap\0", b"CTXS", b"vbox", b"tapx", b"abcd"]


def qemu_size(path):
    return json.loads(run("qemu-img", "info", "-f", "vpc", "--output=json", path))["virtual-size"]


def qemu_extents(path):
    rows = []
    for e in json.loads(run("qemu-img", "map", "-f", "vpc", "--output=json", path)):
        kind = "hole" if not e["present"] else "maybe" if e["data"] and e["zero"] else "data" if e["data"] else "zero"
        rows.append((e["start"], e["start"] + e["length"], kind, e["depth"], e.get("offset")))
    return rows


def check_like_qemu(path):
    """Size, bytes and map."""
    size = int(our_info(path, "vhd")["size"])
    if size != qemu_size(path):
        raise Failed(f"size {size}, QEMU says {qemu_size(path)}")
    theirs = path + ".theirs"
    run("qemu-img", "convert", "-f", "vpc", "-O", "raw", path, theirs)
    with open(theirs, "rb") as f:
        if f.read() != run(IMGTOOL, "-f", "vhd", "cat", path):
            raise Failed("bytes differ from QEMU's")
    os.unlink(theirs)
    ours = our_extents("map", path, "vhd")
    check_tiling(ours, size, "map")
    check_maps(ours, qemu_extents(path), "map")


# ---- made by QEMU ----

def make_by_qemu(rng, folder):
    path = os.path.join(folder, "q.vhd")
    size = rng.choice([rng.randrange(1, 4096) * SECTOR, rng.randrange(1, 20 * MIB), rng.randrange(1, 300) * MIB])
    fixed = rng.random() < 0.3
    run("qemu-img", "create", "-q", "-f", "vpc", "-o",
        f"subformat={'fixed' if fixed else 'dynamic'},force_size={rng.choice(['on', 'off'])}", path, str(size))
    size = qemu_size(path)
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        commands = []
        for _ in range(rng.choice([1, 2, 4, 8])):
            at = rng.randrange(size // SECTOR) * SECTOR
            length = min(size - at, rng.choice([1, 1, 8, 100, 1000, 6000]) * SECTOR)
            commands += ["-c", f"write -P {rng.randrange(256)} {at} {length}"]
        run("qemu-io", "-f", "vpc", *commands, path)
    return path


# ---- made by the specification ----

def name_parent(rng, d):
    """In all the ways that lead to a parent in the same folder or another one."""
    folder, base = os.path.split(os.path.relpath(d.parent.path, os.path.dirname(d.path)))
    windows = (folder.replace("/", "\\") + "\\" if folder else rng.choice(["", ".\\"])) + base
    relative = (b"W2ru", windows.encode("utf-16-le"), rng.choice([1, SECTOR]))
    absolute = (b"W2ku", ("D:\\vm\\" + base).encode("utf-16-le"), rng.choice([1, SECTOR]))
    share = (b"W2ku", ("\\\\server\\share\\" + base).encode("utf-16-le") + b"\0\0", 1)
    quoted = "".join(f"%{b:02X}" if b > 126 or b in b" %" else chr(b) for b in base.encode())
    url = (b"MacX", ("file://./" + (folder + "/" if folder else "") + quoted).encode(), 1)
    alias = (b"Mac ", b"\0\1\2\3", 1)
    if folder:
        d.locators = rng.choice([[relative], [alias, url, relative], [url]])
    else:
        d.locators = rng.choice([[relative], [absolute], [share], [alias, url], [relative, absolute], []])
    d.name = base if rng.random() < 0.5 else "C:\\old\\" + base
    if d.locators and rng.random() < 0.5:
        d.name = "no such name.vhd"


def make_by_specification(rng, folder):
    """The members of a chain, the child last."""
    chain = []
    sub = os.path.join(folder, "deeper")
    os.makedirs(sub)
    for i in range(rng.choice([1, 1, 2, 2, 3, 4])):
        name = rng.choice([f"m{i}.vhd", f"größe {i}.vhd", f"100%{i}.avhd", f"\U0001d11e{i}.vhd"])
        path = os.path.join(rng.choice([folder, folder, sub]), name)
        d = lib_vhd.random_disk(rng, path, chain[-1] if chain else None)
        if d.parent:
            name_parent(rng, d)
        d.write(rng)
        chain.append(d)
    return chain


def written_sectors(d):
    """{sector: where it lies in this file}, of what the stored view should show."""
    if d.kind == FIXED:
        return {s: s * SECTOR for s in range(d.size // SECTOR)}
    per_block = d.block_size // SECTOR
    if d.kind == DIFFERENCING:
        sectors = d.sectors
    else:
        sectors = [s for b in d.offsets for s in range(b * per_block, (b + 1) * per_block) if s < d.size // SECTOR]
    return {s: d.offsets[s // per_block] + s % per_block * SECTOR for s in sectors}


def check_stored(d, ours):
    """Each written sector is shown once, from its place; zeros found in holes of the file need not be."""
    wanted = written_sectors(d)
    check_tiling(ours, d.size, f"stored {d.path}")
    for begin, end, kind, _, offset in ours:
        if begin % SECTOR or end % SECTOR:
            raise Failed(f"stored {d.path}: extent {begin}-{end} cuts a sector")
        for s in range(begin // SECTOR, end // SECTOR):
            where = wanted.pop(s, None)
            if kind == "data" and offset + s * SECTOR - begin != where:
                raise Failed(f"stored {d.path}: sector {s} at {offset + s * SECTOR - begin}, not at {where}")
            if kind == "prealloc" and where is None or kind == "packed" or kind == "zero":
                raise Failed(f"stored {d.path}: sector {s} is {kind}")
            if kind != "data" and where is not None and any(d.sectors.get(s, b"")):
                raise Failed(f"stored {d.path}: sector {s} is missing")
            if kind == "hole" and where is not None and d.kind != FIXED:
                raise Failed(f"stored {d.path}: sector {s} is a hole")


def check_info(d):
    info = our_info(d.path, "vhd")
    kinds = {FIXED: "fixed", DYNAMIC: "dynamic", DIFFERENCING: "differencing"}
    said = info["kind"], info["id"].replace("-", ""), int(info["size"])
    if said != (kinds[d.kind], d.id.hex(), d.size):
        raise Failed(f"{d.path}: info says {said}")
    if info.get("backing_id", "").replace("-", "") != (d.parent.id.hex() if d.parent else ""):
        raise Failed(f"{d.path}: wrong parent id")
    features = info.get("features", "")
    for word, there in (("511", d.end == "511"), ("its copy used", d.end in ("broken", "none")),
                        ("copy of the footer broken", not d.copy and d.kind != FIXED)):
        if (word in features) != there:
            raise Failed(f"{d.path}: features say '{features}'")


def check_member(d):
    check_info(d)
    if run(IMGTOOL, "-f", "vhd", "cat", d.path) != b"".join(d.model()):
        raise Failed(f"bytes of {d.path} differ from the model")
    check_stored(d, our_extents("stored", d.path, "vhd"))
    # QEMU needs the copy, and takes blocks below 4 KiB to have no bitmap at all
    if d.kind == FIXED and d.end == "512" or d.kind == DYNAMIC and d.copy and d.block_size >= 4096:
        check_like_qemu(d.path)


def check_creator(rng, folder):
    """The size that a creator's geometry or the exact size gives."""
    d = lib_vhd.Disk(os.path.join(folder, "c.vhd"), rng.randrange(2000, 20000) * SECTOR, rng.randbytes(16))
    geometry = (rng.randrange(1, 100), rng.choice([4, 16]), rng.choice([17, 5]))
    d.kind = rng.choice([FIXED, DYNAMIC])
    if d.kind == FIXED:
        d.size = max(d.size, geometry[0] * geometry[1] * geometry[2] * SECTOR)
    d.layout = {"spare": 8}
    d.footer_options = {"creator": rng.choice(CREATORS), "geometry": rng.choice([geometry, geometry, (65535, 16, 255)])}
    d.write(rng)
    check_like_qemu(d.path)


def control(folder):
    """Plants a fault for each comparison to find."""
    rng = random.Random(7)
    base = lib_vhd.Disk(os.path.join(folder, "base.vhd"), 5 * MIB, b"base0123456789ab")
    base.sectors = {s: b"b" * SECTOR for s in range(100, 5000)}
    d = lib_vhd.Disk(os.path.join(folder, "child.vhd"), 5 * MIB, b"child0123456789a", base)
    d.sectors = {s: b"c" * SECTOR for s in range(90, 300, 2)}
    d.name = "base.vhd"
    for m in (base, d):
        m.write(rng)
        check_member(m)
    ours = our_extents("stored", d.path, "vhd")
    moved = [e if e[4] is None else e[:4] + (e[4] + SECTOR,) for e in ours]
    less = [e if e[4] is None else e[:2] + ("hole", 0, None) for e in ours]
    more = [e[:2] + ("data", 0, 4096) for e in ours]
    for planted in (moved, less, more):
        must_fail("stored extents", check_stored, d, planted)
    d.sectors[91] = b"x" * SECTOR
    must_fail("bytes", check_member, d)
    base.sectors = {}
    must_fail("the parent's bytes", check_member, d)
    d.id = bytes(16)
    must_fail("info", check_info, d)
    like_qemu = lib_vhd.Disk(os.path.join(folder, "wa.vhd"), 4 * MIB, b"azure0123456789a")
    like_qemu.footer_options = {"creator": b"\0\0\0\0", "geometry": (0, 0, 0)}  # QEMU: no bytes at all
    like_qemu.write(rng)
    must_fail("QEMU", check_like_qemu, like_qemu.path)


def check_seed(seed, folder):
    """Returns how many differencing disks there were."""
    rng, nr = random.Random(seed), 0
    if seed % 2:
        check_like_qemu(make_by_qemu(rng, folder))
        return 0
    for d in make_by_specification(rng, folder):
        check_member(d)
        nr += d.kind == DIFFERENCING
    check_creator(rng, folder)
    return nr


if __name__ == "__main__":
    sys.exit(lib_random.main(__doc__, check_seed, control, (40, 300), "images and chains", "differencing disks"))
