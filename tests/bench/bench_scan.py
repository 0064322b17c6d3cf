#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How fast raw images are scanned, against a peer and against the least that a scan has to do."""

import os
import shutil

import measure
from measure import MIB, PLAIN_LOOP, Run, make_image, of, ratios, scan, spread, table, take_turns, warm

ABOUT = """
dedupscan scan --jobs 1 --no-idle --fill-cache, whole and into a new catalog, against duperemove -b 4k with a new hash file
(its faster hash, no -d: it hashes and looks for duplicates), and against a bare loop of pread(256 KiB) and our XXH3.
All processes on one core; files in the page cache, read in front to back.  CPU is user + system seconds of all processes.
"""
CORE = max(os.sched_getaffinity(0))


def duperemove(directory):
    hashfile = measure.path("hashfile")
    for name in os.listdir(measure.scratch):
        if name.startswith("hashfile"):
            os.unlink(measure.path(name))
    return Run(["duperemove", "-b", "4k", "--hash=xxhash", f"--hashfile={hashfile}", "--io-threads=1", "--cpu-threads=1",
                "-r", directory], CORE)


def compare(title, files):
    directory = os.path.dirname(files[0])
    calls = {"dedupscan": lambda: scan([directory], core=CORE), "plain loop": lambda: Run([PLAIN_LOOP] + files, CORE)}
    if shutil.which("duperemove"):
        calls["duperemove"] = lambda: duperemove(directory)
    warm(files)
    runs = take_turns(calls, files)
    total = sum(os.path.getsize(f) for f in files)
    rows = []
    for name, r in runs.items():
        rows.append([name, spread(of(r, "cpu")), spread([total / 1e9 / s for s in of(r, "cpu")]), spread(of(r, "wall")),
                     spread([total / 1e9 / s for s in of(r, "wall")])])
    print(f"{title}, {total / MIB / 1024:.1f} GiB")
    table(["", "CPU s", "GB/s of CPU", "wall s", "GB/s"], rows)
    rows = []
    for name, goal in (("duperemove", "goal >= 3"), ("plain loop", "goal >= 0.6")):
        if name in runs:
            rows.append([f"speed / speed of the {name}" if " " in name else f"speed / speed of {name}",
                         spread(ratios(runs["dedupscan"], runs[name], "cpu")),
                         spread(ratios(runs["dedupscan"], runs[name], "wall")), goal])
    table(["", "by CPU", "by wall", ""], rows)
    if "duperemove" not in runs:
        print("duperemove is not installed\n")


def run():
    measure.folder("store")
    files = [make_image(f"store/{i}.raw") for i in range(4)]
    compare("four different images", files)
    for name in files[1:]:
        measure.copy_image(files[0], name)
    compare("four equal images", files)


if __name__ == "__main__":
    measure.main("Scan of raw images on one core", ABOUT, run)
