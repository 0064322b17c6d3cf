#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Random OVA archives, packed by Python's tarfile and by GNU tar in all their formats, of disks that qemu-img makes.

Each disk of an archive must be one layer of our stored view (one more for each of its snapshots), with the bytes that
QEMU reads from the disk by itself; our guest view must be the descriptor's first disk; what a layer says of its offsets in
the archive must be so.

Usage: ova.py [--count N] [--seed S] [--jobs J] [--keep DIR]; one seed makes always the same archives."""

import os
import random
import shutil
import sys
import tarfile
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import lib_random
from lib_random import IMGTOOL, Failed, must_fail, run

KIB, MIB = 1 << 10, 1 << 20
FORMATS = {"raw": [], "qcow2": [], "qcow2 -c": ["-c"], "vdi": [], "vdi static": ["-o", "static=on"],
           "vmdk": ["-o", "subformat=streamOptimized"], "vpc": [], "vhdx": []}
EXTENSIONS = {"raw": "img", "qcow2": "qcow2", "vdi": "vdi", "vmdk": "vmdk", "vpc": "vhd", "vhdx": "vhdx"}


# ---- making archives ----

class Disk:
    def __init__(self, rng, folder, number, kind):
        self.kind, self.format = kind, kind.split()[0]
        self.size = rng.choice([rng.randrange(1, 40) * 512, rng.randrange(1, 8) * MIB, rng.randrange(1, 20000) * 512])
        label = rng.choice(["disk", "a disk & <more>", "d\xe4sk", "n" * 120, "sub/disk"])
        self.name = f"{label}-{number}.{EXTENSIONS[self.format]}"
        self.path = os.path.join(folder, self.name)
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        self.snapshots = 0
        self.make(rng, os.path.join(folder, "source"))

    def make(self, rng, source):
        with open(source, "wb") as f:
            for _ in range(rng.randrange(12)):
                f.seek(rng.randrange(self.size))
                f.write(rng.choice([rng.randbytes(5000), bytes([rng.randrange(256)]) * 100000, b"text " * 9999]))
            f.truncate(self.size)
        run("qemu-img", "convert", "-q", "-f", "raw", "-O", self.format, *FORMATS[self.kind], source, self.path)
        os.unlink(source)
        if self.format == "qcow2" and rng.random() < 0.4:
            for i in range(rng.randrange(1, 3)):
                run("qemu-img", "snapshot", "-c", f"s{i}", self.path)
                at = rng.randrange(self.size // 512) * 512
                run("qemu-io", "-f", "qcow2", "-c", f"write -P {rng.randrange(256)} {at} 512", self.path)
                self.snapshots += 1

    def content(self):
        raw = self.path + ".raw"
        run("qemu-img", "convert", "-q", "-f", self.format, "-O", "raw", self.path, raw)
        with open(raw, "rb") as f:
            found = f.read()
        os.unlink(raw)
        return found


def descriptor(rng, disks):
    p = rng.choice(["ovf:", "", "ns0:"])
    files, entries = [], []
    for i, d in enumerate(disks):
        href = rng.choice([quote(d.name), d.name])
        files.append(f"<{rng.choice([p, ''])}File {p}href={quoteattr(href)} {p}id='file{i}' {p}size='1'/>")
        entries.append(f"<{p}Disk {p}capacity='{d.size}' {p}diskId='vmdisk{i}' {p}fileRef='file{i}'\n\t/>")
    if rng.random() < 0.3:
        entries.append(f"<{p}Disk {p}capacity='1' {p}diskId='empty'/>")
    files.append(f"<{p}File {p}href='no.nvram' {p}id='other'/>")
    rng.shuffle(files)
    return (f"<?xml version='1.0' encoding='UTF-8'?>\n<!-- <Disk fileRef='comment'/> -->\n<{p}Envelope>\n<{p}References>\n"
            + "\n".join(files) + f"\n</{p}References>\n<{p}DiskSection>\n<Info>a &lt; b</Info>" + "\n".join(entries)
            + f"\n</{p}DiskSection>\n</{p}Envelope>\n").encode()


def pack(rng, folder, disks, path):
    """The descriptor comes first; the disks in any order; other files between them."""
    names = [d.name for d in disks]
    rng.shuffle(names)
    with open(os.path.join(folder, "vm.ovf"), "wb") as f:
        f.write(descriptor(rng, disks))
    for name in ("vm.mf", "other.iso"):
        if rng.random() < 0.5:
            with open(os.path.join(folder, name), "wb") as f:
                f.write(rng.randbytes(rng.randrange(3000)))
            names.insert(rng.randrange(len(names) + 1), name)
    names.insert(0, "vm.ovf")
    if shutil.which("tar") and rng.random() < 0.4:
        kind = rng.choice(["gnu", "oldgnu", "posix"])
        dot = rng.choice(["", "./"])
        run("tar", f"--format={kind}", "-cf", path, *[dot + n for n in names], cwd=folder)
        return
    kind = rng.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    if kind == tarfile.USTAR_FORMAT and any(len(n.encode()) > 100 for n in names):
        kind = tarfile.PAX_FORMAT  # ustar has no room for it
    headers = {"comment": "for all"} if kind == tarfile.PAX_FORMAT and rng.random() < 0.3 else None
    with tarfile.open(path, "w", format=kind, pax_headers=headers) as archive:
        for name in names:
            archive.add(os.path.join(folder, name), arcname=name)


# ---- comparing ----

def info_of(path):
    return dict((line + " ").split(" ", 1) for line in run(IMGTOOL, "info", path).decode().splitlines())


def check_layers(path, disks, spoil=None):
    info = {k: v.strip() for k, v in info_of(path).items()}
    layer, span = int(info["layer"]), int(info["span"])
    wanted_layers = sum(1 + d.snapshots for d in disks)
    if info["format"] != "ova" or not info["kind"].startswith(f"{len(disks)} disk"):
        raise Failed(f"info says {info['format']}, {info['kind']}; there are {len(disks)} disks")
    if wanted_layers > 1 and span != wanted_layers * layer:
        raise Failed(f"a span of {span} is not {wanted_layers} layers of {layer}")
    stored = run(IMGTOOL, "cat-stored", path)
    if spoil is not None:
        stored = stored[:spoil] + bytes([stored[spoil] ^ 1]) + stored[spoil + 1:]
    at = 0
    for i, d in enumerate(disks):
        wanted = d.content()
        found = stored[at:at + len(wanted)]
        if found != wanted:
            where = next((i for i, (a, b) in enumerate(zip(found, wanted)) if a != b), len(found))
            raise Failed(f"layer of '{d.name}' ({d.kind}) differs at {where}")
        if any(stored[at + len(wanted):at + layer]):
            raise Failed(f"layer of '{d.name}' ({d.kind}) goes on behind the disk")
        if i == 0 and run(IMGTOOL, "cat", path) != wanted:
            raise Failed("the guest view is not the first disk")
        at += (1 + d.snapshots) * layer


def check_offsets(path, shift=0):
    """Data are where our extents say, in the archive itself."""
    stored = run(IMGTOOL, "cat-stored", path)
    with open(path, "rb") as f:
        archive = f.read()
    for line in run(IMGTOOL, "stored", path).decode().splitlines():
        head, offset = line.rsplit(" ", 1)
        at, length, kind = head.split(" ")[:3]
        at, length = int(at), int(length)
        if kind == "data":
            offset = int(offset) + shift
            found = archive[offset:offset + length]
            if found != stored[at:at + len(found)]:
                raise Failed(f"extent '{line}' is not there in the archive")


def make(seed, folder):
    rng = random.Random(seed)
    disks = [Disk(rng, folder, i, rng.choice(list(FORMATS))) for i in range(rng.choice([1, 1, 2, 3, 5]))]
    path = os.path.join(folder, "vm.ova")
    pack(rng, folder, disks, path)
    return path, disks


def control(folder):
    """Plants a fault for each comparison to find."""
    rng = random.Random(7)
    disks = [Disk(rng, folder, i, "raw") for i in range(2)]
    with open(disks[1].path, "r+b") as f:
        f.write(rng.randbytes(5000))
    path = os.path.join(folder, "vm.ova")
    pack(rng, folder, disks, path)
    check_layers(path, disks)
    check_offsets(path)
    layer = int(info_of(path)["layer"])
    must_fail("layers", check_layers, path, disks, layer + 4)
    must_fail("what is behind a disk", check_layers, path, disks, 2 * layer - 1)
    must_fail("layers", check_layers, path, disks[::-1])
    must_fail("offsets", check_offsets, path, 512)


def check_seed(seed, folder):
    path, disks = make(seed, folder)
    check_layers(path, disks)
    check_offsets(path)
    return 0


if __name__ == "__main__":
    sys.exit(lib_random.main(__doc__, check_seed, control, (24, 200), "archives"))
