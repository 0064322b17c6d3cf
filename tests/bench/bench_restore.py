#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How fast disks of a pool become images, and images of all formats are written; beside qemu-img convert and cp."""

import contextlib
import os
import shutil
import tempfile

import measure
from measure import IMAGE_MIB, PROGRAM, Run, folder, path, ratios, spread, table

ABOUT = """
First: a disk of a pool, in the page cache, becomes an image in memory, by dedupscan restore and by qemu-img convert, in turn; with
these, cp copies the raw image to the same place.  Ours proves every segment by its digest.

Then: a raw image in the page cache becomes one of another format, by our writers (tests/interop/writertool) and by qemu-img
convert, in turn; nothing is synced.  `noise` is full of data; of `holes` every other 4 KiB are zeros that are there; `text` can be
compressed to about a half.
"""
WRITERTOOL = os.path.join(os.path.dirname(PROGRAM), "tests/interop/writertool")
QEMU = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx"}
PACKED = {"zlib": ("qcow2", ["-c"]), "zstd": ("qcow2", ["-c", "-o", "compression_type=zstd"]),
          "streamOptimized": ("vmdk", ["-o", "subformat=streamOptimized"])}
GOAL = 1.5


def make_holes(source, name):
    """Every other block of `source`."""
    with open(source, "rb") as f, open(path(name), "wb") as to:
        while block := f.read(measure.MIB):
            block = bytearray(block)
            for at in range(4096, len(block), 8192):
                block[at:at + 4096] = bytes(4096)
            to.write(block)
    return path(name)


def fresh(command, new):
    if os.path.exists(new):
        os.unlink(new)
    return Run(command + [new])


def rate(runs):
    return spread([IMAGE_MIB * measure.MIB / 1e9 / r.wall for r in runs])


# ---- restore ----

@contextlib.contextmanager
def place():
    """A folder in memory where that is large enough: the disk is not what is measured."""
    memory = os.path.ismount("/dev/shm") and shutil.disk_usage("/dev/shm").free > 2 * IMAGE_MIB * measure.MIB
    with tempfile.TemporaryDirectory(prefix="bench_restore.", dir="/dev/shm" if memory else measure.scratch) as out:
        print("To memory:" if memory else "To the disk, for there is too little memory; ours is synced:")
        yield out


def member_of_pool(raw):
    """With a copy, for an image that has nothing in common with others stays what it is."""
    images = [os.path.join(folder("store"), name) for name in ("noise.qcow2", "copy.qcow2")]
    for image in images:
        Run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image])
    Run([PROGRAM, "compact", "--no-idle", "--catalog", path("catalog"), "--method", "pool", "--keep-originals", "0", "--apply",
         path("store")])
    if "json:" not in Run(["qemu-img", "info", images[0]]).output:
        raise SystemExit("the image did not enter a pool")
    return images[0]


def restore(raw):
    image = member_of_pool(raw)
    rows = []
    with place() as out:
        for form, theirs in QEMU.items():
            new = os.path.join(out, f"new.{form}")
            runs = measure.take_turns({
                "ours": lambda: fresh([PROGRAM, "restore", "--format", form, image], new),
                "qemu": lambda: fresh(["qemu-img", "convert", "-t", "writeback", "-f", "qcow2", "-O", theirs, image], new),
                "cp": lambda: fresh(["cp", "--sparse=never", "--reflink=never", raw], new),
            }, [raw])
            os.unlink(new)
            rows.append([form] + [rate(r) for r in runs.values()] + [spread(measure.of(r, "cpu")) for r in runs.values()])
    table(["restore", "GB/s", "qemu-img GB/s", "cp GB/s", "cpu s", "qemu-img cpu s", "cp cpu s"], rows)


# ---- writers ----

def compare(image):
    rows = []
    out = folder("out")
    for form, theirs in QEMU.items():
        new = os.path.join(out, f"new.{form}")
        runs = measure.take_turns({
            "ours": lambda: fresh([WRITERTOOL, form, image], new),
            "qemu": lambda: fresh(["qemu-img", "convert", "-f", "raw", "-O", theirs, image], new),
        }, [image])
        os.unlink(new)
        rows.append([form, rate(runs["ours"]), rate(runs["qemu"]), spread(ratios(runs["ours"], runs["qemu"], "wall")),
                     spread(measure.of(runs["ours"], "cpu")), spread(measure.of(runs["qemu"], "cpu"))])
    table([os.path.basename(image), "GB/s", "qemu-img GB/s", "times as fast", "cpu s", "qemu-img cpu s"], rows)


def compare_packed(image):
    rows = []
    out = folder("out")
    for kind, (form, options) in PACKED.items():
        new, sizes = os.path.join(out, f"new.{form}"), {}

        def run(name, command):
            done = fresh(command, new)
            sizes[name] = f"{os.path.getsize(new) / measure.MIB:.0f}"
            return done

        runs = measure.take_turns({
            "ours": lambda: run("ours", [WRITERTOOL, "-k", kind, form, image]),
            "qemu": lambda: run("qemu", ["qemu-img", "convert", *options, "-f", "raw", "-O", form, image]),
        }, [image])
        os.unlink(new)
        rows.append([kind, rate(runs["ours"]), rate(runs["qemu"]), spread(measure.of(runs["ours"], "cpu")),
                     spread(measure.of(runs["qemu"], "cpu")), sizes["ours"], sizes["qemu"]])
    table(["compressed " + os.path.basename(image), "GB/s", "qemu-img GB/s", "cpu s", "qemu-img cpu s", "MiB", "qemu-img MiB"],
          rows)


def main():
    if not os.access(WRITERTOOL, os.X_OK):
        print("no writertool here; `make check` builds it")
        return
    if not shutil.which("qemu-img"):
        print("needs qemu-img")
        return
    noise = measure.make_image("noise")
    measure.warm([noise])
    restore(noise)
    for image in (noise, make_holes(noise, "holes")):
        measure.warm([image])
        compare(image)
    text = measure.make_image("text", compressible=True)
    measure.warm([text])
    compare_packed(text)
    print(f"Goal: {GOAL} GB/s of `noise` in every format.\n")


if __name__ == "__main__":
    measure.main("Restore", ABOUT, main)
