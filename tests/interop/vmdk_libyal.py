#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""VMDK images made by qemu-img and by lib_vmdk.py, read by us and by libvmdk (vmdkmount, through FUSE).

vmdkmount 20200926 shows only disks without a parent, no monolithicFlat, no ranges of zeros and not both kinds of extents in one
disk; the rest is the business of vmdk_random.py."""

import os
import random
import shutil
import subprocess
import sys
import tempfile

import lib_vmdk
from lib_vmdk import SECTOR, Sparse

LONG = bool(os.environ.get("LONG"))
IMGTOOL = os.path.abspath(f"{os.environ.get('BUILD') or 'build'}/tests/interop/imgtool")


def libvmdk_bytes(path, folder):
    point = os.path.join(folder, "mnt")
    os.makedirs(point, exist_ok=True)
    done = subprocess.run(["vmdkmount", path, point], capture_output=True, check=False, timeout=60)
    if done.returncode:
        raise OSError(done.stderr.decode("utf-8", "replace").strip() or "vmdkmount failed")
    try:
        with open(os.path.join(point, "vmdk1"), "rb") as f:
            return f.read()
    finally:
        subprocess.run(["umount", point], check=True)


def our_bytes(path):
    return subprocess.run([IMGTOOL, "-f", "vmdk", "cat", path], check=True, capture_output=True).stdout


def make_by_qemu(rng, path):
    raw = path + ".raw"
    with open(raw, "wb") as f:
        f.write(b"".join(rng.choice([bytes(4096), rng.randbytes(4096)]) for _ in range(rng.randrange(1, 400))))
    kind = rng.choice(["monolithicSparse", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"])
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={kind}", raw, path], check=True)
    with open(raw, "rb") as f:
        return f.read()


def make_by_writer(rng, path):
    """Flat files are whole, and tables have 512 entries, as libvmdk wants them."""
    disk = lib_vmdk.Disk(path, rng.randrange(1 << 32))
    disk.embedded = rng.random() < 0.5
    disk.own_name = os.path.basename(path)
    for i in range(1 if disk.embedded else rng.choice([1, 2, 4])):
        size = rng.randrange(1, 64) * 128
        if not disk.embedded and rng.random() < 0.4:
            disk.extents.append((size, rng.randbytes(size * SECTOR), 0, f"{path[:-5]}-f{i:03}.vmdk"))
            continue
        packed = disk.embedded and rng.random() < 0.5
        s = Sparse(size, rng.choice([16, 64, 128]), redundant=not packed and rng.random() < 0.5, compressed=packed)
        s.random(rng)
        s.broken, s.newlines = None, True
        disk.extents.append((size, s))
    sparse = all(isinstance(e[1], Sparse) for e in disk.extents)
    disk.kind = ("streamOptimized" if disk.extents[0][1].compressed else "monolithicSparse") if disk.embedded else (
        "twoGbMaxExtentSparse" if sparse else "twoGbMaxExtentFlat")
    if not sparse:
        disk.extents = [e for e in disk.extents if not isinstance(e[1], Sparse)]
    disk.write(rng)
    return disk.model()


def control(folder):
    """A change that only libvmdk sees."""
    disk = lib_vmdk.Disk(os.path.join(folder, "control.vmdk"), 1)
    disk.kind = "twoGbMaxExtentFlat"
    disk.extents = [(8, b"1" * 4096, 0, os.path.join(folder, "control-flat.vmdk"))]
    disk.write(random.Random(0))
    ours = our_bytes(disk.path)
    with open(disk.extents[0][3], "r+b") as f:
        f.write(b"2")
    if libvmdk_bytes(disk.path, folder) == ours:
        raise SystemExit("the comparison does not find what was planted")


def main():
    for tool in ("vmdkmount", "qemu-img", "umount"):
        if not shutil.which(tool):
            print(f"needs {tool}")
            return 77
    folder = tempfile.mkdtemp(prefix="vmdk_libyal.", dir=os.environ.get("TMP"))
    count, failed = (120 if LONG else 24), []
    path = ""
    try:
        for seed in range(count):
            rng = random.Random(seed)
            path = os.path.join(folder, f"d{seed}.vmdk")
            wanted = (make_by_qemu if seed % 2 else make_by_writer)(rng, path)
            try:
                theirs = libvmdk_bytes(path, folder)
            except OSError as e:
                if seed == 0:  # no FUSE here, or none for us
                    print(f"vmdkmount does not work here: {e}")
                    return 77
                raise SystemExit(f"seed {seed}: {e}") from e
            ours = our_bytes(path)
            if not ours == theirs == wanted:
                failed.append(seed)
        control(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{count} images compared with libvmdk, {len(failed)} failed {failed or ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
