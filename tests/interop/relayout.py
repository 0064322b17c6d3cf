#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Random VHD and VDI images, made by qemu-img and qemu-io or from their specifications, whose data is moved to 4 KiB boundaries:
  bytes    qemu-img compare, also after the same writes into both; qemu-img check (VDI); libvhdi
  places   imgtool stored: each piece of data at an offset that is its address modulo 4096
  header   all bytes before the data but those that must change
  proof    relayouttool same is content, and is not with one byte changed, one block left out, another backing file
  again    what is aligned is moved no further

Usage: relayout.py [--count N] [--seed S] [--jobs J] [--keep DIR]; one seed makes always the same images."""

import os
import random
import shutil
import struct
import subprocess
import sys

import lib_random
import lib_vhd
import vdi_random
import vhd_random
from lib_random import Failed, must_fail, our_extents, our_info, run

sys.path.append("/usr/lib/python3/dist-packages")  # another python3 may be first in PATH
try:
    import pyvhdi
except ImportError:
    pyvhdi = None

KIB, MIB = 1 << 10, 1 << 20
TOOL = os.path.abspath(f"{os.environ.get('BUILD') or 'build'}/tests/interop/relayouttool")
QEMU = {"vhd": "vpc"}


def tool(verb, form, old, new):
    """What it complains of, "" = nothing."""
    done = subprocess.run([TOOL, verb, form, old, new], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=100)
    said = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode not in (0, 1) or (done.returncode == 0) == bool(said):
        raise Failed(f"relayouttool {verb} {form} {old}: exit status {done.returncode}, '{said}'")
    return said


def check_same(form, old, new):
    said = tool("same", form, old, new)
    if said:
        raise Failed(f"not the same: {said}")


# ---- what is true of a new file ----

def check_places(path, form):
    for begin, end, kind, _, offset in our_extents("stored", path, form):
        if kind == "data" and (offset - begin) % 4096:
            raise Failed(f"{end - begin} bytes at {begin} lie at {offset}")


def check_qemu(form, old, new):
    name = QEMU.get(form, form)
    run("qemu-img", "compare", "-q", "-f", name, "-F", name, old, new)
    if form == "vdi":
        run("qemu-img", "check", "-q", "-f", name, new)


def check_libvhdi(old, new):
    """Block by block; it loses its place in longer reads."""
    images = []
    for path in (old, new):
        images.append(pyvhdi.file())
        images[-1].open(path)
    size = images[0].get_media_size()
    if images[1].get_media_size() != size:
        raise Failed("libvhdi sees another size")
    for at in range(0, size, 4096):
        length = min(4096, size - at)
        if images[0].read_buffer_at_offset(length, at) != images[1].read_buffer_at_offset(length, at):
            raise Failed(f"libvhdi sees other bytes at {at}")


def check_head_vhd(old, new):
    """All up to the first block but the table; the footer."""
    with open(old, "rb") as f, open(new, "rb") as g:
        a, b = f.read(), g.read()
    header = struct.unpack_from(">Q", a, 16)[0]
    table, entries = struct.unpack_from(">Q4xI", a, header + 16)
    sectors = [s for s in struct.unpack_from(f">{entries}I", a, table) if s != lib_vhd.NO_BLOCK]
    first = min(sectors) * 512 if sectors else len(a) - 512
    tables = table, table + 4 * entries
    if a[:tables[0]] != b[:tables[0]] or a[tables[1]:first] != b[tables[1]:first]:
        raise Failed("bytes before the first block changed")
    end = 511 if a[-512:-504] != b"conectix" else 512
    if a[-end:] != b[-end:]:
        raise Failed("the footer changed")
    there = [s == lib_vhd.NO_BLOCK for s in struct.unpack_from(f">{entries}I", a, table)]
    if there != [s == lib_vhd.NO_BLOCK for s in struct.unpack_from(f">{entries}I", b, table)]:
        raise Failed("other blocks are allocated")


def check_head_vdi(old, new):
    with open(old, "rb") as f, open(new, "rb") as g:
        a, b = f.read(), g.read()
    was, now = struct.unpack_from("<I", a, 344)[0], struct.unpack_from("<I", b, 344)[0]
    if now % 4096 or a[:344] != b[:344] or a[348:was] != b[348:was] or a[was:] != b[now:] or any(b[was:now]):
        raise Failed("more than the place of the data changed")


CHECK_HEAD = {"vhd": check_head_vhd, "vdi": check_head_vdi}


def check_writes(rng, form, old, new):
    """The same writes into both by QEMU: some into blocks that are there, some into new ones."""
    name = QEMU.get(form, form)
    size = int(our_info(new, form)["size"])
    commands = []
    for _ in range(6 if size else 0):
        at = rng.randrange(size // 512) * 512
        commands += ["-c", f"write -P {rng.randrange(256)} {at} {min(size - at, rng.choice([512, 4096, 100 * KIB, 3 * MIB]))}"]
    for path in (old, new):
        run("qemu-io", "-f", name, *commands, path)
    check_qemu(form, old, new)


# ---- a seed ----

def vhd_by_specification(rng, path):
    """A dynamic disk that the moving takes; the rest is refused, which has tests of its own."""
    d = lib_vhd.random_disk(rng, path, None, (4096, 65536, 524288, 2 * MIB, 4 * MIB), fixed=False, plain=True)
    d.layout["gap"] = rng.choice([0, 512, 3584])
    for s in list(d.sectors):  # libvhdi knows bitmaps by whole bytes only
        for more in range(s // 8 * 8, min(s // 8 * 8 + 8, d.size // 512)):
            d.sectors.setdefault(more, bytes([more % 256]) * 512)
    d.locators = [(b"W2ku", b"kept as it is" * rng.randrange(1, 90), 1)] if rng.random() < 0.3 else []
    d.end = rng.choice(["512", "512", "512", "511"])
    d.write(rng)
    return d.end == "512"


def make(rng, form, path):
    """Returns whether QEMU reads it."""
    if form == "vhd" and rng.random() < 0.5:
        return vhd_by_specification(rng, path)
    if form == "vhd":
        size = rng.randrange(1, 60) * MIB + rng.choice([0, 512, 70000])
        run("qemu-img", "create", "-q", "-f", "vpc", "-o", f"force_size={rng.choice(['on', 'off'])}", path, str(size))
        size = vhd_random.qemu_size(path)
        commands = []
        for _ in range(rng.randrange(1, 12)):
            at = rng.randrange(size // 512) * 512
            length = min(size - at, rng.choice([512, 4096, 50000 // 512 * 512, MIB, 4 * MIB]))
            commands += ["-c", f"write -P {rng.choice([0, rng.randrange(256)])} {at} {length}"]
        run("qemu-io", "-f", "vpc", *commands, path)
        return True
    if rng.random() < 0.6:
        vdi_random.qemu_image(rng, path)
        return True
    vdi_random.our_image(rng, path)
    vdi = vdi_random.Vdi(path)
    return vdi.block == MIB and not vdi.extra and vdi.map_offset % 512 == 0 and vdi.data_offset % 512 == 0


def movable(form, path):
    if form != "vdi":
        return True
    vdi = vdi_random.Vdi(path)
    return vdi.kind != vdi_random.DIFFERENCING and vdi.block >= 4096 and vdi.extra % 4096 == 0


def spoil(path, form, new):
    """One bit of one stored byte changes."""
    for begin, _, kind, _, offset in our_extents("stored", path, form):
        if kind == "data":
            with open(path, "r+b") as f:
                f.seek(offset)
                byte = f.read(1)
                f.seek(offset)
                f.write(bytes([byte[0] ^ 64]))
            if f"at offset {begin}" not in tool("same", form, new, path):
                raise Failed(f"the proof does not see a bit at {begin}")
            return


def check_seed(seed, folder):
    """Returns how many images were not aligned before."""
    rng = random.Random(seed)
    form = ("vhd", "vdi")[seed % 2]
    old, new, again = (os.path.join(folder, n) for n in ("old.img", "new.img", "again.img"))
    by_qemu = make(rng, form, old)
    said = tool("relayout", form, old, new)
    if not movable(form, old):
        if not said.startswith("unsupported"):
            raise Failed(f"it is moved, or refused with '{said}'")
        return 0
    if said:
        raise Failed(said)
    check_places(new, form)
    CHECK_HEAD[form](old, new)
    check_same(form, old, new)
    if tool("relayout", form, new, again) or run("cmp", new, again):
        raise Failed("what is aligned is moved once more")
    try:
        check_places(old, form)
        moved = 0
    except Failed:
        moved = 1
    libvhdi = form == "vhd" and pyvhdi and by_qemu  # neither reads a footer of 511 bytes
    if libvhdi:
        check_libvhdi(old, new)
    if by_qemu:
        check_qemu(form, old, new)
        check_writes(rng, form, old, new)
        if libvhdi:
            check_libvhdi(old, new)
    spoil(again, form, new if not by_qemu else shutil.copy(again, again + ".whole"))
    return moved


def control(folder):
    """Plants a fault for each comparison to find, and shows the proof what only other formats have."""
    old, new, third = (os.path.join(folder, n) for n in ("a.vhd", "b.vhd", "c.vhd"))
    run("qemu-img", "create", "-q", "-f", "vpc", old, "20M")
    run("qemu-io", "-f", "vpc", "-c", "write -P 1 1M 64k", "-c", "write -P 2 9M 1M", old)
    if tool("relayout", "vhd", old, new):
        raise SystemExit("a plain image is not moved")
    must_fail("places", check_places, old, "vhd")
    check_places(new, "vhd")
    shutil.copy(new, third)
    run("qemu-io", "-f", "vpc", "-c", "write -P 3 9M 512", third)
    must_fail("bytes by QEMU", check_qemu, "vhd", old, third)
    must_fail("bytes by the proof", check_same, "vhd", old, third)
    if pyvhdi:
        must_fail("bytes by libvhdi", check_libvhdi, old, third)
    with open(third, "r+b") as f:
        f.seek(600)
        f.write(b"x")
    must_fail("headers", check_head_vhd, new, third)
    prove_holes(folder)


def prove_holes(folder):
    """A hole shows the backing file, zeros do not; without one they are the same."""
    base, top, other = (os.path.join(folder, n) for n in ("base.qcow2", "top.qcow2", "other.qcow2"))
    for backing in (True, False):
        run("qemu-img", "create", "-q", "-f", "qcow2", base, "4M")
        run("qemu-img", "create", "-q", "-f", "qcow2", *(["-b", base, "-F", "qcow2"] if backing else []), top, "4M")
        shutil.copy(top, other)
        run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", top)
        run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", "-c", "write -z 2M 64k", other)
        said = tool("same", "qcow2", top, other)
        if ("only one of" in said) != backing or bool(said) != backing:
            raise SystemExit(f"the proof says of zeros in the place of a hole: '{said}'")
    run("qemu-img", "snapshot", "-c", "s", top)
    shutil.copy(top, other)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 8 1M 64k", top)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 8 1M 64k", other)
    check_same("qcow2", top, other)
    with open(other, "r+b") as f:  # the cluster that only the snapshot has
        f.seek(next(r[4] for r in our_extents("stored", other, "qcow2") if r[2] == "data" and r[0] > 4 * MIB))
        f.write(b"!")
    must_fail("a snapshot", check_same, "qcow2", top, other)


if __name__ == "__main__":
    sys.exit(lib_random.main(__doc__, check_seed, control, (30, 300), "images moved", "were not aligned"))
