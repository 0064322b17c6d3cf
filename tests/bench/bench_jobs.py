#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a second reader brings."""

import os
import subprocess
import time

import measure
from measure import PLAIN_LOOP, Run, make_image, of, ratios, scan, spread, table, take_turns, warm

ABOUT = """
--jobs 2 against --jobs 1 over four images in the page cache.  Per core: one job with all its processes on one core, two jobs
on two.  On any core, one job has the second core for all that is not reading.  Beside it, what this machine allows: the plain
loop over all four files against two of them at once, over two files each.
"""


CORE = max(os.sched_getaffinity(0))


class Together:
    """Two programs at once; the wall time until both have ended."""

    def __init__(self, *commands):
        self.read_from_disk = 0
        start = time.perf_counter()
        for p in [subprocess.Popen(c, stdout=subprocess.DEVNULL) for c in commands]:
            use = os.wait4(p.pid, 0)[2]
            p.returncode = 0
            self.read_from_disk += use.ru_inblock * 512
        self.wall = time.perf_counter() - start


def run():
    directory = measure.folder("store")
    files = [make_image(f"store/{i}.raw") for i in range(4)]
    warm(files)
    runs = take_turns({
        "scan, 1 job on one core": lambda: scan([directory], core=CORE),
        "scan, 1 job": lambda: scan([directory]), "scan, 2 jobs": lambda: scan([directory], jobs=2),
        "1 plain loop": lambda: Run([PLAIN_LOOP] + files),
        "2 plain loops": lambda: Together([PLAIN_LOOP] + files[:2], [PLAIN_LOOP] + files[2:])}, files)
    table(["", "wall s"], [[name, spread(of(r, "wall"), "{:.3f}")] for name, r in runs.items()])
    table(["", "times as fast", ""], [
        ["2 jobs / 1 job, per core", spread(ratios(runs["scan, 2 jobs"], runs["scan, 1 job on one core"], "wall")), "goal >= 1.8"],
        ["2 jobs / 1 job, any core", spread(ratios(runs["scan, 2 jobs"], runs["scan, 1 job"], "wall")), ""],
        ["2 plain loops / 1", spread(ratios(runs["2 plain loops"], runs["1 plain loop"], "wall")), "(the machine)"]])


if __name__ == "__main__":
    measure.main("Two readers against one", ABOUT, run)
