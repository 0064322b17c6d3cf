#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How much disk space the catalog takes."""

import os
import subprocess
import sys
import time

import measure
from measure import IMAGE_MIB, PROGRAM, make_image, path, table, warm

ABOUT = """
All files of the catalog, per 4 KiB block that is not zero, when no block is there twice: at the end of a scan, and the most while
it ran (requests on their way into the index), sampled.  By length, and by what the file system gave them.
"""


def sizes():
    length = given = 0
    for directory, _, files in os.walk(path("catalog")):
        for name in files:
            try:
                st = os.lstat(os.path.join(directory, name))
            except FileNotFoundError:
                continue
            length, given = length + st.st_size, given + st.st_blocks * 512
    return length, given


def most_during_scan(paths):
    most = 0
    with open(path("output"), "w+b") as out:
        p = subprocess.Popen([PROGRAM, "scan", "--no-idle", "--fill-cache", "--jobs", "1", "--catalog", path("catalog")] + paths,
                             stdout=out, stderr=out)
        while p.poll() is None:
            most = max(most, sizes()[0])
            time.sleep(0.002)
        out.seek(0)
        if p.returncode:
            sys.exit(out.read().decode())
    return most


def run():
    files = [make_image(f"{i}.raw") for i in range(4)]
    warm(files)
    rows = []
    for nr in (1, 4):
        blocks = nr * IMAGE_MIB * 256
        subprocess.run(["rm", "-rf", path("catalog")], check=True)
        most = most_during_scan(files[:nr])
        length, given = sizes()
        rows.append([f"{nr * IMAGE_MIB / 1024:.2f} GiB", blocks, f"{length / blocks:.2f}", f"{given / blocks:.2f}",
                     f"{most / blocks:.2f}", "goal 16, at most 20"])
    table(["", "blocks", "bytes a block", "on the disk", "most meanwhile", ""], rows)


if __name__ == "__main__":
    measure.main("Disk space", ABOUT, run)
