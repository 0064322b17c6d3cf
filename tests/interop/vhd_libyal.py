#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""VHD images and differencing chains written by lib_vhd.py, read by us and by libvhdi (through its Python bindings: when
vhdimount is given a child, it shows the parent only).

libvhdi 20210425 does not tell the bits of one byte of a bitmap apart, so whole bytes are set here (single sectors are the
business of vhd_random.py), and loses its place in reads of several blocks, so it is asked for 4 KiB at a time."""

import os
import random
import shutil
import subprocess
import sys
import tempfile

import lib_vhd
from lib_vhd import SECTOR

sys.path.append("/usr/lib/python3/dist-packages")  # another python3 may be first in PATH
try:
    import pyvhdi
except ImportError:
    pyvhdi = None

LONG = bool(os.environ.get("LONG"))
IMGTOOL = os.path.abspath(f"{os.environ.get('BUILD') or 'build'}/tests/interop/imgtool")


def fill_bytes(d):
    for s in list(d.sectors):
        for more in range(s // 8 * 8, min(s // 8 * 8 + 8, d.size // SECTOR)):
            d.sectors.setdefault(more, bytes([more % 256]) * SECTOR)


def libvhdi_bytes(chain):
    files = []
    for d in chain:
        files.append(pyvhdi.file())
        files[-1].open(d.path)
        if d.parent:
            files[-1].set_parent(files[-2])
    top, size = files[-1], chain[-1].size
    return b"".join(top.read_buffer_at_offset(min(4096, size - at), at) for at in range(0, size, 4096))


def our_bytes(path):
    return subprocess.run([IMGTOOL, "-f", "vhd", "cat", path], check=True, capture_output=True).stdout


def make_chain(seed, folder):
    rng = random.Random(seed)
    chain = []
    for i in range(rng.choice([1, 2, 2, 3, 4])):
        path = os.path.join(folder, f"m{seed}.{i}.vhd")
        d = lib_vhd.random_disk(rng, path, chain[-1] if chain else None, (4096, 65536, 524288, 2 << 20), plain=True)
        if d.parent:
            d.size = d.parent.size  # libvhdi reads no parent past its end
            d.sectors = {s: data for s, data in d.sectors.items() if s < d.size // SECTOR}
            d.blocks = set()
            d.name = os.path.basename(d.parent.path)
            d.locators = [(b"W2ru", (".\\" + d.name).encode("utf-16-le"), 1)]
        fill_bytes(d)
        d.write(rng)
        chain.append(d)
    return chain


def main():
    if not pyvhdi:
        print("needs python3-libvhdi")
        return 77
    folder = tempfile.mkdtemp(prefix="vhd_libyal.", dir=os.environ.get("TMP"))
    failed = []
    count = 200 if LONG else 40
    try:
        for seed in range(count):
            chain = make_chain(seed, folder)
            theirs, ours = libvhdi_bytes(chain), our_bytes(chain[-1].path)
            if ours != theirs or ours != b"".join(chain[-1].model()):
                failed.append(seed)
        chain[-1].sectors[0] = b"!" * SECTOR  # the control: a change that only libvhdi sees
        chain[-1].write(random.Random(0))
        if libvhdi_bytes(chain) == ours:
            raise SystemExit("the comparison does not find what was planted")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{count} chains compared with libvhdi {pyvhdi.get_version()}, {len(failed)} failed {failed or ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
