#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compaction against duperemove, and what a shortest run costs and saves."""

import json
import os
import random
import shutil
import statistics
import sys
import time

import measure
from measure import IMAGE_MIB, MIB, RUNS, folder, path, spread, table

sys.path.append(os.path.join(measure.ROOT, "tests/interop"))
import lib_compact as lib  # pylint: disable=wrong-import-position

ABOUT = """
The same store of real guests (tests/interop/lib_compact.py) on a fresh XFS each time, nothing shared and nothing cached.  Freed
is what df says.  Memory is that of all processes together, sampled, shared pages counted once.
"""
GUEST_MIB = max(IMAGE_MIB // 8, 16)
TURNS = min(RUNS, 3)
READS = 2000


def ours(fs, *more):
    shutil.rmtree(path("catalog"), ignore_errors=True)
    return lib.compact_command(fs.path, path("catalog"), "--apply", *more)


def duperemove(fs, size):
    return ["duperemove", "-rdh", "--dedupe-options=partial", "-b", size, fs.path]


class Freed:
    """One run on a fresh copy of the store."""

    def __init__(self, store, command):
        with lib.file_system_with("xfs", measure.scratch, store, 400, direct=True) as fs:
            used = fs.used()
            run = lib.Watched(command(fs))
            self.freed = used - fs.used()
            self.wall, self.cpu, self.peak, self.output = run.wall, run.cpu, run.peak, run.output
            self.used = used


def against_duperemove(store):
    contenders = {"dedupscan compact": ours}
    if shutil.which("duperemove"):
        contenders["duperemove, 4 KiB"] = lambda fs: duperemove(fs, "4096")
        contenders["duperemove, 128 KiB"] = lambda fs: duperemove(fs, "131072")
    else:
        print("no duperemove here; contrib/install-deps --bench installs it")
    runs = {name: [] for name in contenders}
    for i in range(TURNS):
        for name in (contenders if i % 2 == 0 else reversed(contenders)):
            runs[name].append(Freed(store, contenders[name]))
    first = runs["dedupscan compact"]
    rows = []
    for name, r in runs.items():
        rows.append([name, f"{statistics.median(x.freed for x in r) / MIB:.0f} MiB",
                     f"{statistics.median(x.freed / x.used for x in r):.1%}", spread([x.wall for x in r]),
                     spread([x.cpu for x in r]),
                     spread([x.peak / MIB for x in r], "{:.0f}"), spread(measure.ratios(r, first, "wall")),
                     spread(measure.ratios(r, first, "cpu")), spread(measure.ratios(r, first, "peak"))])
    table(["", "freed", "of used", "wall s", "CPU s", "peak MiB", "our wall / its", "our CPU / its", "our memory / its"], rows)
    print(f"{first[0].used / MIB:.0f} MiB used before.  Goals: frees more, in at most 0.33 of the time and of the memory.\n")


# ---- reading ----


def read_all(folder, pieces):
    """MiB a second, front to back."""
    buf, nr = bytearray(MIB), 0
    began = time.perf_counter()
    for name, stretches in pieces.items():
        fd = os.open(os.path.join(folder, name), os.O_RDONLY)
        for at, end in stretches:
            while at < end:
                got = os.preadv(fd, [memoryview(buf)[:min(end - at, MIB)]], at)
                if not got:
                    break
                at, nr = at + got, nr + got
        os.close(fd)
    return nr / MIB / (time.perf_counter() - began)


def stored(path_):
    """[begin, end) of what is stored, neighbours joined."""
    found = []
    for at, _, length in lib.extents_on_disk(path_):
        if found and found[-1][1] == at:
            found[-1][1] = at + length
        else:
            found.append([at, at + length])
    return found


def stored_in_both(before, after, names):
    """{name: stretches}, of files that were not written anew: the same bytes are read on either side."""
    pieces = {}
    for name in names:
        a, b = os.path.join(before.path, name), os.path.join(after.path, name)
        if lib.digest_of(a) != lib.digest_of(b):
            continue
        x, y, both = stored(a), stored(b), []
        while x and y:
            begin, end = max(x[0][0], y[0][0]), min(x[0][1], y[0][1])
            if begin < end:
                both.append((begin, end))
            (x if x[0][1] <= y[0][1] else y).pop(0)
        pieces[name] = both
    return pieces


def read_at_random(files, places):
    """Reads a second."""
    fds = {name: os.open(name, os.O_RDONLY) for name in files}
    for fd in fds.values():
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    began = time.perf_counter()
    for name, at in places:
        os.pread(fds[name], 4096, at)
    seconds = time.perf_counter() - began
    for fd in fds.values():
        os.close(fd)
    return len(places) / seconds


def random_places(files):
    pieces = [(name, at, length) for name in files for at, _, length in lib.extents_on_disk(name)]
    chosen = random.choices(pieces, [p[2] for p in pieces], k=READS)
    return [(name, at + random.randrange(length) // 4096 * 4096) for name, at, length in chosen]


def speeds(before, after):
    """[(before, after)] of measurements that take turns, each with nothing in the cache, of the same bytes of the same files."""
    names = [os.path.relpath(p, before.path) for p in lib.images_of(before.path)]
    places = [(os.path.relpath(p, before.path), at) for p, at in random_places([os.path.join(before.path, n) for n in names])]
    pieces = stored_in_both(before, after, names)
    found = {"sequential": [], "random": []}
    for i in range(max(RUNS, 3)):
        now = {}
        for fs in (before, after) if i % 2 == 0 else (after, before):
            files = [os.path.join(fs.path, n) for n in names]
            fs.again()
            sequential = read_all(fs.path, pieces)
            fs.again()
            now[fs] = sequential, read_at_random(files, [(os.path.join(fs.path, n), at) for n, at in places])
        for k, what in enumerate(found):
            found[what].append((now[before][k], now[after][k]))
    return found


def shortest_runs(store):
    rows = []
    with lib.file_system_with("xfs", measure.scratch, store, 400, "before", True) as before:
        used = before.used()
        gib = sum(length for p in lib.files_of(before.path) for _, _, length in lib.extents_on_disk(p)) / (1 << 30)
        rows.append(["nothing shared", "", "", f"{lib.nr_extents(lib.files_of(before.path)) / gib:.0f}"])
        for min_run in ("4K", "16K", "64K", "128K"):
            with lib.file_system_with("xfs", measure.scratch, store, 400, "after", True) as after:
                run = lib.Watched(ours(after, "--min-run", min_run))
                freed, planned = used - after.used(), json.loads(run.output)["saving"]
                extents = lib.nr_extents(lib.files_of(after.path)) / gib
                found = speeds(before, after)
                rows.append([f"runs of {min_run}", f"{freed / used:.1%}", f"{freed / max(planned, 1):.1%}", f"{extents:.0f}",
                             f"{run.wall:.1f}"] + [spread([b / a for a, b in found[k]]) for k in found] +
                            [f"{statistics.median(b for _, b in found[k]):.0f}" for k in found])
    table(["", "freed", "of planned", "extents/GiB", "wall s", "sequential/before", "random/before", "MiB/s", "reads/s"], rows)
    print("Goal: 0.9 of the speed before, 97 % of what was planned.\n")


def main():
    why = lib.lacking("qemu-img", "qemu-io", "mke2fs", "sfdisk", "mkfs.xfs")
    if why:
        print(why)
        return
    store = lib.Store(path("store"), folder("work"), GUEST_MIB).make().folder
    against_duperemove(store)
    shortest_runs(store)


if __name__ == "__main__":
    measure.main("Compaction", ABOUT, main)
