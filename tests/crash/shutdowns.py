#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 1800
"""Row A6: at a system call by which compact changes something the program is killed, and the file system is shut down at once as
if its disk were gone: what was not synced is lost.  Mounted again, it passes the oracle.  On XFS and ext4, which can be shut
down."""

import os
import random
import subprocess
import sys
import time

import kill_points
import lib_crash as crash
from kill_points import WEEK, Compact, Undo
from lib_crash import KILLED, LONG, Family, Guests, Wrong, fail, lib, run, traced

NR_CUTS = int(os.environ.get("CRASH_CUTS") or (600 if LONG else 36))
WORKFLOWS = [Compact("xfs"), Compact("xfs", WEEK), Compact("ext4"), Undo("xfs", WEEK)]


def shut_down(fs):
    """Its log is not written."""
    done = subprocess.run(["xfs_io", "-x", "-c", "shutdown", fs.path], capture_output=True, check=False)
    if done.returncode:
        lib.skip(f"{fs.kind} cannot be shut down here: {done.stderr.decode('utf-8', 'replace').strip()}")
    run("umount", fs.path)
    fs.mount()


class Cutter(kill_points.Killer):
    def cut(self, w, point):
        fs = self.fs[w.kind]
        with self.place(w) as p:
            try:
                run("sync", "-f", p.root)
                w.prepare(p)
                run("sync", "-f", p.root)
                done = traced(w.command(p), [f"{point.call}:signal=KILL:when={point.nth}"])
                shut_down(fs)
                self.nr += done.status in KILLED
                p.oracle(w.keep, w.mtime_may_change)
                if self.nr % 4 == 0:
                    w.after(p, self.goals[w])
            except Wrong as e:
                fail(f"{w.name}, shut down at {point}: {e}")


def judge_the_cut(cutter):
    """What is not synced is lost, indeed."""
    for kind, fs in cutter.fs.items():
        path = os.path.join(fs.path, "not-synced")
        with open(path, "wb") as f:
            f.write(b"x")
        shut_down(fs)
        if os.path.exists(path):
            fail(f"on {kind} a file is there that was never synced")


def main():
    crash.require("mkfs.xfs", "mke2fs", "xfs_io")
    lib.exit_on_signals()
    tmp = lib.scratch("shutdowns")
    lib.FileSystem.MAKE = dict(lib.FileSystem.MAKE, ext4=("mke2fs", "-q", "-F", "-t", "ext4"))  # with a journal
    with crash.memory_folder(tmp) as memory, lib.FileSystem("xfs", memory, 400) as x, lib.FileSystem("ext4", memory, 400) as e:
        cutter = Cutter(memory, Family(os.path.join(memory, "family"), Guests(memory)), {"xfs": x, "ext4": e})
        judge_the_cut(cutter)
        for w in WORKFLOWS:
            cutter.count(w)
        rng, began = random.Random(crash.SEED), time.monotonic()
        for w in WORKFLOWS:
            points = [p for p in cutter.points[w] if cutter.fs[w.kind].path in p.text]
            for point in rng.sample(points, min(len(points), NR_CUTS // len(WORKFLOWS))):
                cutter.cut(w, point)
        print(f"{cutter.nr} shutdowns in {time.monotonic() - began:.0f} s")
        if cutter.nr < NR_CUTS // 2:
            fail("too few")


if __name__ == "__main__":
    sys.exit(main())
