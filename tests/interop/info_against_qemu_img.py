#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `dedupscan info --json` says of images of all formats, held against `qemu-img info` and `qemu-img map`.

Images are filled at random; the seed is in INFO_SEED."""

import copy
import glob
import json
import os
import random
import subprocess
import sys

from lib_exact import DEDUPSCAN, KIB, MIB, fail, fresh_tmp, require_tools

SEED = int(os.environ.get("INFO_SEED") or 1)
DISK = 40 * MIB
ALIGNMENTS = [512 << i for i in range(12)]

# name, format as QEMU calls it, options for qemu-img create
IMAGES = [
    ("plain.raw", "raw", ""),
    ("plain.qcow2", "qcow2", ""),
    ("small-clusters.qcow2", "qcow2", "cluster_size=512"),
    ("large-clusters.qcow2", "qcow2", "cluster_size=2M"),
    ("version2.qcow2", "qcow2", "compat=0.10"),
    ("subclusters.qcow2", "qcow2", "extended_l2=on,cluster_size=128k"),
    ("lazy.qcow2", "qcow2", "lazy_refcounts=on"),
    ("data-file.qcow2", "qcow2", "data_file=data-file.data"),
    ("plain.vdi", "vdi", ""),
    ("plain.vhd", "vpc", "force_size=on"),
    ("fixed.vhd", "vpc", "subformat=fixed,force_size=on"),
    ("plain.vhdx", "vhdx", ""),
    ("askew.qcow2", "qcow2", "cluster_size=1k"),
    ("plain.vmdk", "vmdk", ""),
    ("split.vmdk", "vmdk", "subformat=twoGbMaxExtentSparse"),
    ("flat.vmdk", "vmdk", "subformat=monolithicFlat"),
]


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        fail(f"{' '.join(command)}: {done.stdout}")
    return done.stdout


def info(path, *options):
    return json.loads(run(DEDUPSCAN, "info", "--json", *options, path))["images"][0]


def qemu(what, path, fmt):
    return json.loads(run("qemu-img", what, "--output=json", "-f", fmt, path))


def name_of(fmt):
    return {"vpc": "vhd"}.get(fmt, fmt)


def fill(path, fmt, rng, base=False):
    """Data at odd places."""
    commands = []
    for _ in range(1 if base else rng.randrange(3, 12)):
        at = rng.randrange(DISK // 512 - 2048) * 512
        size = rng.randrange(1, 2048) * 512
        commands += ["-c", f"write -q -P {rng.randrange(1, 256)} {at} {size}"]
    if fmt == "qcow2":
        commands += ["-c", f"write -q -z {rng.randrange(30) * MIB} 192k"]
    run("qemu-io", "-f", fmt, *commands, path)
    if fmt != "raw":  # holes of the file inside a cluster are no data to info, but to QEMU
        for part in [path, *glob.glob(os.path.splitext(path)[0] + "-*"), *glob.glob(os.path.splitext(path)[0] + ".data")]:
            run("cp", "--sparse=never", part, "dense")
            os.rename("dense", part)


def figures_of_map(path, fmt):
    """The figures that info gives, from a map of the image alone."""
    kinds = {k: [0, 0] for k in ("data", "compressed", "zero", "preallocated", "hole")}
    aligned, blocks = [0] * len(ALIGNMENTS), 0
    last = (None, 0)
    for e in qemu("map", path, fmt):
        offset = e.get("offset")
        if e["depth"] or not e.get("present", True):
            kind = "hole"
        elif e["data"]:
            kind = "data" if offset is not None else "compressed"
        elif fmt in ("raw", "vdi", "vpc", "vhdx"):
            kind = "hole"
        else:
            kind = "zero" if offset is None else "preallocated"
        kinds[kind][1] += e["length"]
        kinds[kind][0] += kind != last[0] or (kind == "data" and offset != last[1])
        last = (kind, (offset or 0) + e["length"])
        if kind != "data":
            continue
        for i, unit in enumerate(ALIGNMENTS):
            aligned[i] += e["length"] if (offset - e["start"]) % unit == 0 else 0
        if (offset - e["start"]) % 4096 == 0:
            first, end = -(-e["start"] // 4096) * 4096, (e["start"] + e["length"]) // 4096 * 4096
            blocks += max(0, end - first)
    return {"kinds": kinds, "aligned": aligned, "blocks": blocks}


def differences(path, fmt, got, counts=True):
    """What info says otherwise than QEMU; [] = nothing."""
    wrong = []

    def same(what, theirs, ours):
        if theirs != ours:
            wrong.append(f"{what}: QEMU says {theirs}, info {ours}")

    said, mapped = qemu("info", path, fmt), figures_of_map(path, fmt)
    specific = said.get("format-specific", {}).get("data", {})
    same("format", name_of(said["format"]), got["format"])
    same("virtual size", said["virtual-size"], got["virtual_size"])
    same("file size", os.stat(path).st_size, got["file_size"])
    same("disk use", os.stat(path).st_blocks * 512, got["file_used"])
    if fmt in ("qcow2", "vhdx", "vdi"):
        same("cluster size", said.get("cluster-size"), got["cluster_size"])
    same("backing file", said.get("backing-filename"), got["backing"])
    same("dirty", said.get("dirty-flag", False), got["dirty"])
    same("snapshots", [(s["id"], s["name"], s["vm-state-size"]) for s in said.get("snapshots", [])],
         [(s["id"], s["name"], s["vm_state_size"]) for s in got["snapshots"]])
    same("bitmaps",
         [(b["name"], b["granularity"], "auto" in b["flags"], "in-use" in b["flags"]) for b in specific.get("bitmaps", [])],
         [(b["name"], b["granularity"], b["automatic"], b["inconsistent"]) for b in got["bitmaps"]])
    if fmt == "vmdk":
        same("kind", specific["create-type"], got["kind"])
        same("content id", f"{specific['cid']:08x}", got["id"])
    if not counts:
        return wrong
    for kind, (number, size) in mapped["kinds"].items():
        same(f"bytes of {kind}", size, got["extents"][kind]["bytes"])
        if kind == "data":
            same(f"number of {kind}", number, got["extents"][kind]["number"])
    same("alignment", mapped["aligned"], [a["bytes"] for a in got["alignment"]["bytes_aligned"]])
    same("aligned blocks", mapped["blocks"], got["alignment"]["blocks"])
    for key, percent in (("all", 100), ("most", 90)):
        whole = mapped["kinds"]["data"][1]
        fits = [unit for unit, size in zip(ALIGNMENTS, mapped["aligned"]) if size * 100 >= whole * percent]
        same(f"alignment of {key}", max(fits, default=0) if whole else None, got["alignment"][key])
    return wrong


def must_agree(path, fmt, *options, counts=True):
    got = info(path, *options)
    wrong = differences(path, fmt, got, counts)
    if wrong:
        fail(f"{path} (seed {SEED}):\n  " + "\n  ".join(wrong))
    if not got["readable"] or got["problems"]:
        fail(f"{path}: {got['problems']}")
    return got


def check_comparison(path, fmt, got):
    """The control: any one figure that is off is found out."""
    tried = 0
    for key in ("virtual_size", "file_size", "file_used", "cluster_size"):
        wrong = copy.deepcopy(got)
        wrong[key] += 512
        tried += bool(differences(path, fmt, wrong))
    for kind in got["extents"]:
        wrong = copy.deepcopy(got)
        wrong["extents"][kind]["bytes"] += 512
        tried += bool(differences(path, fmt, wrong))
    for place, key in (("snapshots", "name"), ("bitmaps", "name")):
        wrong = copy.deepcopy(got)
        wrong[place][0][key] += "x"
        tried += bool(differences(path, fmt, wrong))
    wrong = copy.deepcopy(got)
    wrong["alignment"]["bytes_aligned"][3]["bytes"] -= 512
    tried += bool(differences(path, fmt, wrong))
    wrong = copy.deepcopy(got)
    wrong["alignment"]["blocks"] -= 4096
    tried += bool(differences(path, fmt, wrong))
    for key in ("all", "most"):
        wrong = copy.deepcopy(got)
        wrong["alignment"][key] *= 2
        tried += bool(differences(path, fmt, wrong))
    if tried != 4 + 5 + 2 + 2 + 2:
        fail(f"the comparison sees {tried} of 15 wrong figures")


def check_plain(rng):
    nr = 0
    for name, fmt, options in IMAGES:
        run("qemu-img", "create", "-q", "-f", fmt, *(["-o", options] if options else []), name, str(DISK))
        fill(name, fmt, rng)
        must_agree(name, fmt, counts=fmt != "vhdx")  # of which QEMU's map knows nothing
        nr += 1
    return nr


def check_parts():
    for name, part in (("flat.vmdk", "flat-flat.vmdk"), ("split.vmdk", "split-s001.vmdk"), ("data-file.qcow2", "data-file.data")):
        got, st = info(name), os.stat(part)
        want = [{"path": os.path.realpath(part), "file_size": st.st_size, "file_used": st.st_blocks * 512}]
        if got["parts"] != want or got["parts_size"] != st.st_size or got["parts_used"] != st.st_blocks * 512:
            fail(f"parts of {name} are {want}, not {got['parts']}")


def check_compressed(rng):
    run("qemu-img", "convert", "-c", "-O", "qcow2", "plain.qcow2", "compressed.qcow2")
    fill("compressed.qcow2", "qcow2", rng)
    got = must_agree("compressed.qcow2", "qcow2")
    if not got["extents"]["compressed"]["bytes"] or not got["extents"]["data"]["bytes"]:
        fail("nothing is compressed")


def check_overlay(rng):
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "plain.qcow2", "-F", "qcow2", "middle.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", "top.qcow2")
    for name in ("middle.qcow2", "top.qcow2"):
        fill(name, "qcow2", rng, base=True)
    got = must_agree("top.qcow2", "qcow2")
    theirs = json.loads(run("qemu-img", "info", "--backing-chain", "--output=json", "top.qcow2"))[1:]
    want = [(os.path.realpath(m["filename"]), m["format"], m["virtual-size"]) for m in theirs]
    have = [(m["path"], m["format"], m["virtual_size"]) for m in got["chain"]]
    if want != have:
        fail(f"the chain is {want}, not {have}")
    os.rename("plain.qcow2", "moved.qcow2")
    got = info("top.qcow2")
    os.rename("moved.qcow2", "plain.qcow2")
    if [bool(m["error"]) for m in got["chain"]] != [False, True] or not got["readable"]:
        fail(f"a missing member: {got['chain']}")
    if got["chain"][1]["path"] != "plain.qcow2" or "No such file" not in got["chain"][1]["error"]:
        fail(f"a missing member: {got['chain'][1]}")
    if [p["kind"] for p in got["problems"]] != ["chain"]:
        fail(f"a missing member is no problem: {got['problems']}")


def check_snapshots_and_bitmaps(rng):
    name = "history.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", name, str(DISK))
    for snapshot in ("clean", "a longer name, with punctuation", "\u00fcml\u00e4ut"):
        fill(name, "qcow2", rng)
        run("qemu-img", "snapshot", "-c", snapshot, name)
    run("qemu-img", "bitmap", "--add", name, "nightly")
    run("qemu-img", "bitmap", "--add", "-g", str(4 * KIB), "--disable", name, "weekly")
    # extents of snapshots are in no map of QEMU's: what one layer holds is checked by the images above
    got = must_agree(name, "qcow2", counts=False)
    if len(got["snapshots"]) != 3 or len(got["bitmaps"]) != 2:
        fail(f"of three snapshots and two bitmaps: {got['snapshots']} {got['bitmaps']}")
    said = [s["date-sec"] for s in qemu("info", name, "qcow2")["snapshots"]]
    if [s["date"] for s in got["snapshots"]] != [iso(t) for t in said]:
        fail("dates of snapshots differ")
    if {s["disk_size"] for s in got["snapshots"]} != {DISK}:
        fail(f"sizes of snapshots: {got['snapshots']}")
    run("qemu-img", "bitmap", "--add", "plain.qcow2", "one")
    run("qemu-img", "snapshot", "-c", "one", "plain.qcow2")
    return info("plain.qcow2")


def iso(seconds):
    return subprocess.run(["date", "-u", "-d", f"@{seconds}", "+%Y-%m-%dT%H:%M:%SZ"], stdout=subprocess.PIPE, text=True,
                          check=True).stdout.strip()


def main():
    require_tools("qemu-img", "qemu-io")
    os.chdir(fresh_tmp())
    rng = random.Random(SEED)
    nr = check_plain(rng)
    check_parts()
    check_compressed(rng)
    check_overlay(rng)
    got = check_snapshots_and_bitmaps(rng)
    # the control wants figures that agree: those of layer 0, which is all that has data
    mapped = figures_of_map("plain.qcow2", "qcow2")
    for kind, (_, size) in mapped["kinds"].items():
        got["extents"][kind]["bytes"] = size
    if differences("plain.qcow2", "qcow2", got):
        fail(f"the control begins with: {differences('plain.qcow2', 'qcow2', got)}")
    check_comparison("plain.qcow2", "qcow2", got)
    print(f"{nr} images of all formats, compressed ones, chains, snapshots and bitmaps: as QEMU says")


if __name__ == "__main__":
    sys.exit(main())
