#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A thousand clones of one image."""

import json
import os
import random
import shutil
import statistics
import sys

import measure
from measure import IMAGE_MIB, MIB, RUNS, path, spread, table

sys.path.append(os.path.join(measure.ROOT, "tests/interop"))
import lib_compact as lib  # pylint: disable=wrong-import-position

CLONE_MIB = max(IMAGE_MIB // 128, 1)
NUMBERS = (250, 500, 1000)
TURNS = min(RUNS, 3)
ABOUT = f"""
Sparse raw images, {CLONE_MIB} MiB each, copied from one, of which 1 % of the blocks changed since, each its own; on XFS, nothing
shared.  --memory 64M.  What grows faster than the number of images shows in the last columns.
"""


def make_base(name):
    """A piece of 1 MiB in 8."""
    with open(name, "wb") as f:
        for i in range(CLONE_MIB):
            f.seek(i * 8 * MIB)
            f.write(os.urandom(MIB))
        f.truncate(CLONE_MIB * 8 * MIB)


def make_clones(base, folder, nr, rng):
    with open(base, "rb") as f:
        pieces = [(i * 8 * MIB, os.pread(f.fileno(), MIB, i * 8 * MIB)) for i in range(CLONE_MIB)]
    for i in range(nr):
        with open(os.path.join(folder, f"{i:04}.raw"), "wb") as f:
            for at, data in pieces:
                os.pwrite(f.fileno(), data, at)
            f.truncate(CLONE_MIB * 8 * MIB)
            for _ in range(CLONE_MIB * 256 // 100):
                os.pwrite(f.fileno(), rng.randbytes(4096), rng.choice(pieces)[0] + rng.randrange(256) * 4096)


class Compacted:
    """Planned with a new catalog, and what was planned carried out."""

    def __init__(self, base, nr):
        with lib.FileSystem("xfs", measure.scratch, nr * CLONE_MIB * 5 // 4 + 400) as fs:
            make_clones(base, fs.path, nr, random.Random(nr))
            fs.again()
            used = fs.used()
            shutil.rmtree(path("catalog"), ignore_errors=True)
            plan = lib.Watched(lib.compact_command(fs.path, path("catalog"), "--memory", "64M"))
            apply = lib.Watched(lib.compact_command(fs.path, path("catalog"), "--memory", "64M", "--no-scan", "--apply"))
            self.planned, self.freed = json.loads(plan.output)["saving"], used - fs.used()
            self.plan_wall, self.plan_cpu, self.apply_wall, self.apply_cpu = plan.wall, plan.cpu, apply.wall, apply.cpu
            self.peak = max(plan.peak, apply.peak)
            self.used = used


def run():
    why = lib.lacking("mkfs.xfs")
    if why:
        print(why)
        return
    base = path("base.raw")
    make_base(base)
    runs = {n: [] for n in NUMBERS}
    for i in range(TURNS):
        for n in NUMBERS if i % 2 == 0 else reversed(NUMBERS):
            runs[n].append(Compacted(base, n))
    rows, first = [], runs[NUMBERS[0]]
    for n, r in runs.items():
        times = n / NUMBERS[0]
        rows.append([n, f"{statistics.median(x.freed / x.used for x in r):.1%}",
                     f"{statistics.median(x.freed / max(x.planned, 1) for x in r):.1%}",
                     spread([x.plan_wall for x in r]), spread([x.apply_wall for x in r]),
                     spread([x.peak / MIB for x in r], "{:.0f}"),
                     spread([x / times for x in measure.ratios(first, r, "plan_cpu")]),
                     spread([x / times for x in measure.ratios(first, r, "apply_cpu")])])
    table(["images", "freed", "of planned", "plan wall s", "apply wall s", "peak MiB", "plan CPU / first's", "apply CPU / first's"],
          rows)
    print("Goals: peak at most 64 MiB, the last columns 1.\n")


if __name__ == "__main__":
    measure.main("Clones", ABOUT, run)
