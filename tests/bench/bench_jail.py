#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the sandbox costs a scan."""

import os

import measure
from measure import IMAGE_MIB, make_image, of, ratios, scan, spread, table, take_turns, warm

ABOUT = """
The same scan with --sandbox=require and with --sandbox=off; --jobs 1, all processes on one core, files in the page cache.  The second
store is of many small images: it costs what opening an image costs.
"""
CORE = max(os.sched_getaffinity(0))


def run():
    large = [make_image(f"{i}.raw") for i in range(2)]
    store = measure.folder("small")
    small = [make_image(f"small/{i}.raw", 1) for i in range(max(IMAGE_MIB // 2, 2))]
    warm(large + small)
    runs = take_turns({(what, mode): lambda p=p, mode=mode: scan(p, f"--sandbox={mode}", core=CORE)
                       for what, p in (("2 large images", large), (f"{len(small)} images of 1 MiB", [store]))
                       for mode in ("off", "require")}, large + small)
    rows = []
    for what in dict.fromkeys(w for w, _ in runs):
        off, jail = runs[what, "off"], runs[what, "require"]
        rows.append([what, spread(of(off, "cpu"), "{:.3f}"), spread(of(jail, "cpu"), "{:.3f}"),
                     spread(ratios(off, jail, "cpu"), "{:.3f}"), spread(ratios(off, jail, "wall"), "{:.3f}"), "goal <= 1.03"])
    table(["", "CPU s, off", "CPU s, require", "CPU, require / off", "wall, require / off", ""], rows)


if __name__ == "__main__":
    measure.main("Scan in the sandbox and out of it", ABOUT, run)
