#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How soon compaction stops when it is told to."""

import os
import random
import signal
import subprocess
import sys
import time

import measure
from measure import IMAGE_MIB, RUNS, folder, path, table

sys.path.append(os.path.join(measure.ROOT, "tests/interop"))
import lib_compact as lib  # pylint: disable=wrong-import-position

ABOUT = """
SIGTERM at a random moment of `dedupscan compact --apply`, and the time until it has ended.  Between two stops some images are
replaced by copies that share nothing, so that there is always work of every kind.  On XFS.
"""
GUEST_MIB = max(IMAGE_MIB // 16, 16)
NR = RUNS * 150


def run():
    why = lib.lacking("qemu-img", "qemu-io", "mke2fs", "sfdisk", "mkfs.xfs")
    if why:
        print(why)
        return
    store = lib.Store(path("store"), folder("work"), GUEST_MIB).make().folder
    names = [os.path.relpath(p, store) for p in lib.files_of(store) if not p.endswith(".txt")]
    rng, times, late = random.Random(1), [], 0
    with lib.file_system_with("xfs", measure.scratch, store, 800) as fs:
        command = lib.compact_command(fs.path, path("catalog"), "--apply")
        longest = lib.Watched(command).wall
        while len(times) < NR and late < NR + 100:
            for name in rng.sample(names, 4):
                lib.run("cp", "-a", "--reflink=never", "--sparse=always", os.path.join(store, name), os.path.join(fs.path, name))
            p = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            time.sleep(rng.random() * longest)
            p.send_signal(signal.SIGTERM)
            began = time.perf_counter()
            said = p.communicate()[1]
            if p.returncode == lib.STOPPED:
                times.append(time.perf_counter() - began)
                longest *= 1.05
            elif p.returncode in (0, -signal.SIGTERM):  # it had ended, or not begun
                late += 1
                longest = max(longest * 0.8, 0.05)
            else:
                sys.exit(said.decode("utf-8", "replace"))
    times.sort()
    figures = [f"{times[i]:.3f}" for i in (len(times) // 2, len(times) * 99 // 100, -1)]
    table(["stops", "median s", "p99 s", "most s", ""], [[len(times)] + figures + ["goal: p99 at most 2"]])


if __name__ == "__main__":
    measure.main("Stopping", ABOUT, run)
