#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a scan costs when little or nothing has changed."""

import os
import random
import re
import shutil
import subprocess

import measure
from measure import IMAGE_MIB, PROGRAM, RUNS, catalog_bytes, make_image, of, path, scan, spread, table, take_turns, warm

ABOUT = """
--jobs 1, files in the page cache.  Changed blocks lie either each somewhere else, so that nearly every segment of 2 MiB has one,
or in one stretch.
"""
NR_SMALL = 1000


def system_calls(paths, catalog):
    """Of all processes, as strace counts them; None without strace."""
    if not shutil.which("strace"):
        return None
    subprocess.run(["strace", "-f", "-c", "-o", path("calls"), PROGRAM, "scan", "--no-idle", "--fill-cache", "--jobs", "1",
                    "--catalog", path(catalog)] + paths, stdout=subprocess.DEVNULL, check=True)
    with open(path("calls"), encoding="ascii") as f:
        total = re.search(r"^100.00\s+\S+\s+(?:\S+\s+)?(\d+)\s.*total", f.read(), re.M)
    return int(total.group(1)) if total else None


def unchanged(title, paths, nr, rows):
    files = [os.path.join(d, f) for d in paths for f in os.listdir(d)]
    warm(files)
    first = scan(paths, catalog="unchanged")
    calls = system_calls(paths, "unchanged")
    runs = take_turns({"again": lambda: scan(paths, catalog="unchanged", fresh=False)}, files)["again"]
    rows.append([title, f"{first.wall * 1e3:.0f}", spread(of(runs, "wall", 1e3), "{:.1f}"), spread(of(runs, "cpu", 1e3), "{:.1f}"),
                 f"{min(of(runs, 'wall')) / nr * 1e6:.0f}", "-" if calls is None else f"{calls / nr:.0f}"])


def change(name, blocks):
    with open(name, "r+b") as f:
        for b in blocks:
            f.seek(b * 4096)
            f.write(os.urandom(4096))
    warm([name])


def changed(title, name, pick, rows):
    nr_blocks = os.path.getsize(name) // 4096
    runs, size = [], []
    scan([name], catalog="changed")
    before = catalog_bytes("changed") / nr_blocks
    for _ in range(RUNS):
        change(name, pick(nr_blocks))
        runs.append(scan([name], catalog="changed", fresh=False))
        size.append(catalog_bytes("changed") / nr_blocks)
    first = [scan([name], catalog="changed") for _ in range(3)]
    rows.append([title, spread(of(first, "wall", 1e3), "{:.0f}"), spread(of(runs, "wall", 1e3), "{:.0f}"),
                 spread(of(runs, "cpu", 1e3), "{:.0f}"), f"{before:.1f}", f"{max(size):.1f}"])


def scattered(nr):
    return sorted(random.sample(range(nr), max(nr // 100, 1)))


def in_one_stretch(nr):
    len_ = max(nr // 100, 1)
    at = random.randrange(nr - len_ + 1)
    return range(at, at + len_)


def run():
    rows = []
    one, many = measure.folder("one"), measure.folder("many")
    name = make_image("one/image.raw")
    for i in range(NR_SMALL):
        make_image(f"many/{i:04}.raw", 1)
    unchanged(f"1 image of {IMAGE_MIB} MiB", [one], 1, rows)
    unchanged(f"{NR_SMALL} images of 1 MiB", [many], NR_SMALL, rows)
    table(["nothing changed", "first, ms", "again, ms", "CPU, ms", "us/image", "system calls/image"], rows)
    shutil.rmtree(many)
    rows = []
    changed("1 %, scattered", name, scattered, rows)
    changed("1 %, one stretch", name, in_one_stretch, rows)
    table([f"of {IMAGE_MIB} MiB changed", "first, ms", "again, ms", "CPU, ms", "catalog bytes/block", f"most in {RUNS} rescans"],
          rows)


if __name__ == "__main__":
    measure.main("Scanning again", ABOUT, run)
