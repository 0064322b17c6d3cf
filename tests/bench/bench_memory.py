#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How much memory all processes of a scan take together."""

import os
import shutil
import subprocess
import sys
import time

import measure
from measure import MIB, PROGRAM, RUNS, copy_image, make_image, spread, table, warm

ABOUT = """
The most that all processes of a scan had at one time, sampled every few milliseconds from /proc: the sum of their resident
sets (RSS), in which shared pages count once a process, and of their proportional sets (PSS).  Half of the store is there twice.
"""


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            return [int(c) for c in f.read().split()]
    except OSError:
        return []


def size(pid):
    """(RSS, PSS) of a process in bytes; nothing once it has ended."""
    ret = {"Rss:": 0, "Pss:": 0}
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
            for line in f:
                word = line.split()
                if word[0] in ret:
                    ret[word[0]] = int(word[1]) * 1024
    except OSError:
        pass
    return ret["Rss:"], ret["Pss:"]


def peaks(command):
    rss = pss = nr = 0
    with open(path_of_output(), "w+b") as out:
        p = subprocess.Popen(command, stdout=out, stderr=out)
        while p.poll() is None:
            sizes = [size(pid) for pid in [p.pid] + children(p.pid)]
            rss, pss, nr = max(rss, sum(s[0] for s in sizes)), max(pss, sum(s[1] for s in sizes)), nr + 1
            time.sleep(0.002)
        out.seek(0)
        if p.returncode:
            sys.exit(out.read().decode())
    return rss, pss, nr


def path_of_output():
    return measure.path("output")


def run():
    directory = measure.folder("store")
    files = [make_image(f"store/{i}.raw") for i in range(3)]
    files.append(copy_image(files[0], "store/copy.raw"))
    warm(files)
    rows = []
    for memory, mib in (("35M", 35), ("256M", 256)):
        for jobs in (1, os.cpu_count()):
            rss, pss, nr = [], [], 0
            for _ in range(max(RUNS // 2, 3)):
                shutil.rmtree(measure.path("catalog"), ignore_errors=True)
                most = peaks([PROGRAM, "scan", "--no-idle", "--fill-cache", "--memory", memory, "--jobs", str(jobs), "--catalog",
                              measure.path("catalog"), directory])
                rss.append(most[0] / MIB)
                pss.append(most[1] / MIB)
                nr += most[2]
            rows.append([f"--memory {memory} --jobs {jobs}", spread(rss, "{:.1f}"), spread(pss, "{:.1f}"), nr, f"goal <= {mib}"])
    table(["", "RSS, MiB", "PSS, MiB", "samples", ""], rows)


if __name__ == "__main__":
    measure.main("Memory", ABOUT, run)
