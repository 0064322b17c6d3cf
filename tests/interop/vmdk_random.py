#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Random VMDK images: some made by qemu-img and qemu-io, the others by lib_vmdk.py from the specification, with chains of parents
among both.  Held against QEMU, or against what the writer knows:
  bytes    imgtool cat         qemu-img convert -O raw; the writer's model, of each member of a chain
  map      imgtool map         qemu-img map --output=json
  stored   imgtool stored      qemu-img map, depth 0; which grain the writer put where
  names    imgtool info        kind, CID and parent, as written

Usage: vmdk_random.py [--count N] [--seed S] [--jobs J] [--keep DIR]; one seed makes always the same images."""

import json
import os
import random
import subprocess
import sys

import lib_random
import lib_vmdk
from lib_vmdk import Sparse
from lib_random import IMGTOOL, Failed, check_maps, check_stored_alone, check_tiling, must_fail, our_extents, our_info, run

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def qemu_extents(path):
    rows = []
    for e in json.loads(run("qemu-img", "map", "-f", "vmdk", "--output=json", path)):
        kind = "hole" if not e["present"] else "maybe" if e["data"] and e["zero"] else "data" if e["data"] else "zero"
        rows.append((e["start"], e["start"] + e["length"], kind, e["depth"], e.get("offset")))
    return rows


def check_bytes(path, folder, spoil=False):
    theirs, ours = os.path.join(folder, "theirs"), os.path.join(folder, "ours")
    run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, theirs)
    with open(ours, "wb") as f:
        done = subprocess.run([IMGTOOL, "-f", "vmdk", "cat", path], stdout=f, stderr=subprocess.PIPE, check=False)
        if spoil:
            os.pwrite(f.fileno(), b"spoilt", 4096)
    if done.returncode:
        raise Failed(done.stderr.decode().strip())
    out = subprocess.run(["cmp", ours, theirs], capture_output=True, check=False)
    if out.returncode:
        raise Failed(f"bytes differ: {out.stdout.decode()}{out.stderr.decode()}".strip())


def check_model(path, model):
    ours = run(IMGTOOL, "-f", "vmdk", "cat", path)
    if ours != model:
        at = next((i for i, (a, b) in enumerate(zip(ours, model)) if a != b), min(len(ours), len(model)))
        raise Failed(f"{path}: {len(ours)} bytes, the writer's model has {len(model)}; they differ at {at}")


def check_against_qemu(path, folder):
    check_bytes(path, folder)
    ours = our_extents("map", path, "vmdk")
    check_tiling(ours, int(our_info(path, "vmdk")["size"]), "map")
    check_maps(ours, qemu_extents(path), "map")


def check_stored(path):
    info, ours = our_info(path, "vmdk"), our_extents("stored", path, "vmdk")
    check_tiling(ours, int(info["span"]), f"stored {path}")
    check_stored_alone(ours, qemu_extents(path), f"stored {path}")


def check_rows(ours, wanted, model, what):
    """Which grain is where, as the writer knows; of flat files holes may be told as zeros."""
    at = i = 0
    for begin, end, kind, offset in wanted:
        while at < end:
            o = ours[i]
            same = kind == {"prealloc": "zero"}.get(o[2], o[2]) or kind == "data" and o[2] == "prealloc"
            upto = min(end, o[1])
            if kind == "data" and o[2] == "prealloc" and any(model[at:upto]):
                same = False
            if same and o[2] == "data":
                same = o[4] + at - o[0] == offset + at - begin
            if not same:
                raise Failed(f"{what}: ours {o}, at {at} the writer put {kind} {offset}")
            at = upto
            i += o[1] == at
    return sum(1 for row in wanted if row[2] in ("data", "packed"))


# ---- made by QEMU ----

SUBFORMATS = ["monolithicSparse", "monolithicSparse", "twoGbMaxExtentSparse", "monolithicFlat", "twoGbMaxExtentFlat"]


def place(rng, size):
    unit = rng.choice([512, 4096, 65536, 65536])
    at = rng.randrange(size) // unit * unit
    return at, min(unit * rng.choice([1, 1, 2, 3, rng.randrange(1, 40)]), size - at, 2 * MIB)


def write(rng, path, size, zeroes):
    commands = []
    for _ in range(rng.choice([0, 1, 2, 4, 8, 16])):
        at, length = place(rng, size)
        what = f"write -z {at} {length}" if zeroes and rng.random() < 0.4 else f"write -P {rng.randrange(1, 256)} {at} {length}"
        commands += ["-c", what]
    if commands:
        run("qemu-io", "-f", "vmdk", *commands, path, may_fail=True)


def make_by_qemu(rng, folder):
    base, size = None, 0
    paths = []
    for i in range(rng.choice([1, 1, 2, 3])):
        path = os.path.join(folder, f"m{i}.vmdk")
        kind = rng.choice(SUBFORMATS[:3] if base else SUBFORMATS)
        big = rng.random() < 0.06 and not base
        size = rng.randrange(4 * MIB, 8 * MIB) // 512 * 512 + 2 * GIB if big else rng.choice(
            [size, rng.randrange(1, 32) * MIB, rng.randrange(1, 16 * MIB // 512) * 512]) or MIB
        zeroes = "Sparse" in kind and rng.random() < 0.5
        options = f"subformat={kind},adapter_type={rng.choice(['ide', 'lsilogic', 'buslogic'])}"
        if zeroes:
            options += ",zeroed_grain=on"
        backing = ["-b", os.path.basename(base) if rng.random() < 0.5 else base, "-F", "vmdk"] if base else []
        run("qemu-img", "create", "-q", "-f", "vmdk", *backing, "-o", options, path, str(size))
        write(rng, path, size, zeroes)
        paths.append(path)
        base = path
    if rng.random() < 0.3 and size < 64 * MIB:
        stream = os.path.join(folder, "stream.vmdk")
        run("qemu-img", "convert", "-q", "-f", "vmdk", "-O", "vmdk", "-o", "subformat=streamOptimized", path, stream)
        paths.append(stream)
    for path in paths:
        check_against_qemu(path, folder)
        check_stored(path)
    return len(paths)


# ---- made by our writer ----

def make_by_writer(rng, folder):
    disk, grains = None, 0
    plain = rng.random() < 0.5
    for i in range(rng.choice([1, 1, 2, 3])):
        disk = lib_vmdk.random_disk(rng, os.path.join(folder, f"w{i}.vmdk"), rng.randrange(1 << 32), disk, plain)
        disk.write(rng)
        model = disk.model()
        check_model(disk.path, model)
        ours = our_extents("stored", disk.path, "vmdk")
        grains += 1 + check_rows(ours, list(disk.rows()), model, f"stored {disk.path}")
        check_names(disk)
        if plain and read_by_qemu(disk):
            check_against_qemu(disk.path, folder)
    return grains


def check_names(disk):
    info = our_info(disk.path, "vmdk")
    wanted = {"kind": disk.kind, "id": f"{disk.cid:08x}"}
    if disk.parent:
        wanted.update(backing_name=disk.hint(), backing_id=f"{disk.parent.cid:08x}", backing_format="vmdk")
    for key, value in wanted.items():
        if info.get(key) != value:
            raise Failed(f"{disk.path}: {key} is {info.get(key)}, not {value}")
    said = "the redundant one used" in info.get("features", "")
    if said != any(isinstance(e[1], Sparse) and e[1].broken for e in disk.extents):
        raise Failed(f"{disk.path}: {info.get('features')}")


def read_by_qemu(disk):
    """It has no use for the redundant directory, looks for footers at the end of the descriptor's file, decodes no last grain
    that is stored short, and reads on past the end of an extent that ends inside a grain."""
    while disk:
        for e in disk.extents:
            s = e[1]
            if not isinstance(s, Sparse):
                continue
            if s.broken or s.compressed and s.at_end and not disk.embedded:
                return False
            if s.capacity % s.grain and (s.compressed or e is not disk.extents[-1]):
                return False
        disk = disk.parent
    return True


# ---- the control ----

def control(folder):
    """Plants a fault for each comparison to find."""
    path = os.path.join(folder, "c.vmdk")
    run("qemu-img", "create", "-q", "-f", "vmdk", path, "1M")
    run("qemu-io", "-f", "vmdk", "-c", "write -P 1 0 64k", "-c", "write -P 2 512k 128k", path)
    check_against_qemu(path, folder)
    ours = our_extents("stored", path, "vmdk")
    moved = [e if e[4] is None else e[:4] + (e[4] + 65536,) for e in ours]
    less = [e if e[4] is None else e[:2] + ("hole", 0, None) for e in ours]
    must_fail("bytes", check_bytes, path, folder, True)
    for planted in (moved, less):
        must_fail("maps", check_maps, planted, qemu_extents(path), "map")
        must_fail("stored extents", check_stored_alone, planted, qemu_extents(path), "stored")
    disk = lib_vmdk.Disk(path, 1)
    disk.embedded, disk.kind = True, "monolithicSparse"
    disk.extents = [(2048, Sparse(2048))]
    disk.extents[0][1].grains = {0: b"1" * 65536, 3: b"2" * 65536}
    disk.write(random.Random(0))
    model, ours = disk.model(), our_extents("stored", path, "vmdk")
    check_rows(ours, list(disk.rows()), model, "stored")
    check_names(disk)
    must_fail("models", check_model, path, b"!" + model[1:])
    must_fail("rows", check_rows, [e if e[4] is None else e[:4] + (e[4] + 512,) for e in ours], list(disk.rows()), model, "stored")
    must_fail("rows", check_rows, [(0, len(model), "hole", 0, None)], list(disk.rows()), model, "stored")
    disk.cid = 2
    must_fail("names", check_names, disk)


def check_seed(seed, folder):
    return (make_by_qemu if seed % 2 else make_by_writer)(random.Random(seed), folder)


if __name__ == "__main__":
    sys.exit(lib_random.main(__doc__, check_seed, control, (40, 300), "chains", "images and stored grains"))
