#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whether twice the data takes twice the time and space."""

import statistics

import measure
from measure import IMAGE_MIB, catalog_bytes, make_image, of, ratios, scan, spread, table, take_turns, warm

ABOUT = """
One to sixteen images, --jobs 1, files in the page cache.  What grows faster than the data shows in the last rows.
"""
UNIT = max(IMAGE_MIB // 4, 1)


def measured(files, bytes_per_block):
    run = scan(files)
    bytes_per_block.append(catalog_bytes() / (len(files) * UNIT * 256))
    return run


def run():
    files = [make_image(f"{i:02}.raw", UNIT) for i in range(16)]
    sizes = [1, 2, 4, 8, 16]
    disk = {n: [] for n in sizes}
    warm(files)
    runs = take_turns({n: lambda n=n: measured(files[:n], disk[n]) for n in sizes}, files)
    rows = []
    for n in sizes:
        gib = n * UNIT / 1024
        rows.append([f"{gib:.2f} GiB", spread(of(runs[n], "wall", 1 / gib), "{:.3f}"),
                     spread(of(runs[n], "cpu", 1 / gib), "{:.3f}"),
                     spread([r / n for r in ratios(runs[1], runs[n], "wall")]),
                     spread([r / n for r in ratios(runs[1], runs[n], "cpu")]), f"{statistics.median(disk[n]):.2f}"])
    table(["", "wall s/GiB", "CPU s/GiB", "wall / first's", "CPU / first's", "catalog bytes a block"], rows)


if __name__ == "__main__":
    measure.main("More data", ABOUT, run)
