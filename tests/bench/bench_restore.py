#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How fast images of all formats are written, beside qemu-img convert."""

import os
import shutil

import measure
from measure import IMAGE_MIB, Run, folder, path, ratios, spread, table

ABOUT = """
A raw image in the page cache becomes one of another format, by our writers (tests/interop/writertool) and by qemu-img convert, in turn;
nothing is synced.  `noise` is full of data; of `holes` every other 4 KiB are zeros that are there.
"""
WRITERTOOL = os.path.join(os.path.dirname(measure.PROGRAM), "tests/interop/writertool")
QEMU = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx"}
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


def main():
    if not os.access(WRITERTOOL, os.X_OK):
        print("no writertool here; `make check` builds it")
        return
    if not shutil.which("qemu-img"):
        print("needs qemu-img")
        return
    noise = measure.make_image("noise")
    for image in (noise, make_holes(noise, "holes")):
        measure.warm([image])
        compare(image)
    print(f"Goal: {GOAL} GB/s of `noise` in every format.\n")


if __name__ == "__main__":
    measure.main("Restore", ABOUT, main)
