#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the qcow2 format costs a scan over raw."""

import os
import subprocess

import measure
from measure import IMAGE_MIB, MIB, make_image, of, path, ratios, scan, spread, table, take_turns, warm

ABOUT = """
The same bytes as raw and as qcow2, made by qemu-img convert; --jobs 1, all processes on one core, files in the page cache.
Compressed images hold half their bytes as zeros in every 4 KiB; they are compared with raw images of these.
"""
CORE = max(os.sched_getaffinity(0))


def convert(raw, name, *options, compress=False):
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *(["-c"] if compress else []), "-o", ",".join(options)]
    subprocess.run(command + [raw, path(name)], check=True)
    return path(name)


def compare(images, goals):
    warm(list(images.values()))
    runs = take_turns({name: lambda f=f: scan([f], core=CORE) for name, f in images.items()}, images.values())
    size = os.path.getsize(images["raw"])
    rows = []
    for name, r in runs.items():
        rows.append([name, f"{os.path.getsize(images[name]) / MIB:.0f}", spread([size / 1e9 / s for s in of(r, "cpu")]),
                     spread(of(r, "wall")), "" if name == "raw" else spread(ratios(runs["raw"], r, "cpu")),
                     "" if name == "raw" else spread(ratios(runs["raw"], r, "wall")), goals.get(name, "")])
    table(["", "MiB", "GB/s of CPU", "wall s", "CPU / raw's", "wall / raw's", ""], rows)


def run():
    raw = make_image("plain.raw", 2 * IMAGE_MIB)
    compare({"raw": raw, "64K clusters": convert(raw, "64k.qcow2", "cluster_size=64k"),
             "4K clusters": convert(raw, "4k.qcow2", "cluster_size=4k"),
             "2M clusters": convert(raw, "2m.qcow2", "cluster_size=2M")}, {"64K clusters": "goal <= 1.10"})
    raw = make_image("half.raw", max(IMAGE_MIB // 4, 1), compressible=True)
    compare({"raw": raw, "zlib": convert(raw, "zlib.qcow2", "compression_type=zlib", compress=True),
             "zstd": convert(raw, "zstd.qcow2", "compression_type=zstd", compress=True)}, {})


if __name__ == "__main__":
    measure.main("Scan of qcow2 images", ABOUT, run)
