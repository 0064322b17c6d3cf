#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What each image format costs a scan over raw."""

import os
import subprocess
import tarfile

import measure
from measure import IMAGE_MIB, MIB, make_image, of, path, ratios, scan, spread, table, take_turns, warm

ABOUT = """
The same bytes as raw and in each format, made by qemu-img convert; --jobs 1, all processes on one core, files in the page cache.
Compressed images hold half their bytes as zeros in every 4 KiB; they are compared with raw images of these.
"""
CORE = max(os.sched_getaffinity(0))


def convert(raw, name, form, *options, compress=False):
    command = ["qemu-img", "convert", "-f", "raw", "-O", form, *(["-c"] if compress else [])]
    subprocess.run(command + (["-o", ",".join(options)] if options else []) + [raw, path(name)], check=True)
    return path(name)


def ova(vmdk, name):
    """As VMware exports a machine: a descriptor and its disk in a tar."""
    ovf = path("machine.ovf")
    with open(ovf, "w", encoding="utf-8") as f:
        f.write('<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">'
                '<References><File ovf:id="f1" ovf:href="disk1.vmdk"/></References>'
                '<DiskSection><Disk ovf:diskId="d1" ovf:fileRef="f1"/></DiskSection></Envelope>')
    with tarfile.open(path(name), "w", format=tarfile.USTAR_FORMAT) as t:
        t.add(ovf, "machine.ovf")
        t.add(vmdk, "disk1.vmdk")
    return path(name)


def held(image):
    """Bytes of the image's files: a VMDK may lie in several."""
    stem = os.path.splitext(image)[0] + "-"
    beside = [os.path.join(os.path.dirname(image), n) for n in os.listdir(os.path.dirname(image))]
    return os.path.getsize(image) + sum(os.path.getsize(f) for f in beside if f.startswith(stem) and f.endswith(".vmdk"))


def compare(images, goals):
    files = list(images.values())
    warm(files + [path(n) for n in os.listdir(measure.scratch) if n.endswith(".vmdk")])
    runs = take_turns({name: lambda f=f: scan([f], core=CORE) for name, f in images.items()}, files)
    size = os.path.getsize(images["raw"])
    rows = []
    for name, r in runs.items():
        rows.append([name, f"{held(images[name]) / MIB:.0f}", spread([size / 1e9 / s for s in of(r, "cpu")]),
                     spread(of(r, "wall")), "" if name == "raw" else spread(ratios(runs["raw"], r, "cpu")),
                     "" if name == "raw" else spread(ratios(runs["raw"], r, "wall")), goals.get(name, "")])
    table(["", "MiB", "GB/s of CPU", "wall s", "CPU / raw's", "wall / raw's", ""], rows)


def run():
    raw = make_image("plain.raw", IMAGE_MIB)
    images = {
        "raw": raw,
        "qcow2, 64K clusters": convert(raw, "64k.qcow2", "qcow2", "cluster_size=64k"),
        "qcow2, 4K clusters": convert(raw, "4k.qcow2", "qcow2", "cluster_size=4k"),
        "qcow2, 2M clusters": convert(raw, "2m.qcow2", "qcow2", "cluster_size=2M"),
        "VMDK sparse": convert(raw, "sparse.vmdk", "vmdk", "subformat=monolithicSparse"),
        "VMDK flat": convert(raw, "flat.vmdk", "vmdk", "subformat=monolithicFlat"),
        "VHD dynamic": convert(raw, "dynamic.vhd", "vpc", "subformat=dynamic,force_size=on"),
        "VHD fixed": convert(raw, "fixed.vhd", "vpc", "subformat=fixed,force_size=on"),
        "VHDX": convert(raw, "dynamic.vhdx", "vhdx", "subformat=dynamic"),
        "VDI": convert(raw, "dynamic.vdi", "vdi"),
    }
    compare(images, {"qcow2, 64K clusters": "goal <= 1.10", "VMDK sparse": "goal <= 1.15", "VHD dynamic": "goal <= 1.15",
                     "VHDX": "goal <= 1.15"})
    for f in images.values():
        os.unlink(f)
    os.unlink(path("flat-flat.vmdk"))
    raw = make_image("half.raw", max(IMAGE_MIB // 4, 1), compressible=True)
    stream = convert(raw, "stream.vmdk", "vmdk", "subformat=streamOptimized")
    compare({"raw": raw, "qcow2, zlib": convert(raw, "zlib.qcow2", "qcow2", "compression_type=zlib", compress=True),
             "qcow2, zstd": convert(raw, "zstd.qcow2", "qcow2", "compression_type=zstd", compress=True),
             "VMDK streamOptimized": stream, "OVA of it": ova(stream, "machine.ova")}, {})


if __name__ == "__main__":
    measure.main("Scan of the image formats", ABOUT, run)
