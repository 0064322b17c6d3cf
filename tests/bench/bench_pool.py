#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a pool saves, how images in it are read and written, what clones, snapshots and folding cost, and how fast data goes in and
out.

Usage: bench_pool.py SCRATCH-FOLDER [space|reads|clones|fold|rates|files]..."""

import contextlib
import functools
import itertools
import json
import math
import os
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter

import measure
from measure import MIB, RUNS, Run, folder, path, spread, table

sys.path.append(os.path.join(measure.ROOT, "tests/interop"))
import lib_compact as lib  # pylint: disable=wrong-import-position
from lib_compact import BLOCK, KIB, run  # pylint: disable=wrong-import-position

ABOUT = """
A golden system, two clones of it, two versions of a third and an independent installation (tests/interop/lib_compact.py) as qcow2
on a fresh ext4, which shares nothing; `dedupscan compact --method pool --apply` puts them into a pool.
"""
GUEST_MIB = measure.IMAGE_MIB = int(os.environ.get("BENCH_MIB") or 128)
TURNS = min(RUNS, 3)
NR = 20  # clones that are timed
GOAL_MS, GOAL_KIB = 5, 256  # of a clone, a snapshot, a rollback, whatever the size
NR_VERSIONS = min(RUNS, NR)
MANY = 1000
POOL = ("--method", "pool")
CLUSTERS = {"4K": ("4K",), "16K": ("16K",), "64K": ("64K",), "4K, io_uring": ("4K", "--aio", "io_uring")}


# ---- the store ----


class Six(lib.Store):
    def make(self):
        golden, fresh = self.systems()
        v1 = self.drift(golden, os.path.join(self.work, "v1.raw"))
        v2 = self.drift(v1, os.path.join(self.work, "v2.raw"))
        for raw, name in ((golden, "golden"), (v1, "version-1"), (v2, "version-2"), (fresh, "installed")):
            self.convert(raw, name + ".qcow2", "qcow2")
        for i in (1, 2):
            self.clone(golden, f"clone-{i}.qcow2", "qcow2")
        for raw in (golden, v1, v2, fresh):
            os.unlink(raw)
        return self


@functools.lru_cache(maxsize=1)
def six():
    """The folder of the images, which are made once."""
    return Six(path("store"), folder("work"), GUEST_MIB).make().folder


def store_on(kind, name=None, direct=False):
    """A copy, with room for a pool beside it and as much again."""
    return lib.file_system_with(kind, measure.scratch, six(), 2 * on_disk(six()) // MIB + 600, name, direct)


def on_disk(*paths):
    """Bytes, of directories too."""
    return sum(int(line.split()[0]) for line in run("du", "-s", "-B1", *paths).splitlines())


def pool_of(fs):
    return os.path.join(fs.path, lib.POOL)


def compacted(fs, *more):
    shutil.rmtree(path("catalog"), ignore_errors=True)
    return folded(fs, *more)


def folded(fs, *more):
    return lib.Watched(lib.compact_command(fs.path, path("catalog"), *POOL, "--apply", *more))


def must_be_members(fs):
    """Else something other than a pool is measured."""
    for image in lib.images_of(fs.path):
        if b"json:" not in run("qemu-img", "info", "-U", image):
            lib.fail(f"{image} did not enter the pool")


def mib(size):
    return f"{size / MIB:.1f}"


# ---- space ----


def in_pool():
    """(bytes before, after, of the pool, of the overlays, what `pool status` says, seconds)."""
    with store_on("ext4") as fs:
        used, before = fs.used(), on_disk(*lib.images_of(fs.path))
        seconds = compacted(fs).wall
        after = before - (used - fs.used())
        must_be_members(fs)
        status = run(lib.DEDUPSCAN, "pool", "status", fs.path).decode().replace(fs.path + "/", "")
        return before, after, on_disk(pool_of(fs)), on_disk(*lib.images_of(fs.path)), status, seconds


def compressed():
    """(seconds, bytes)"""
    began, total = time.perf_counter(), 0
    for image in lib.images_of(six()):
        run("qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", "-c", image, path("packed"))
        total += on_disk(path("packed"))
        os.unlink(path("packed"))
    return time.perf_counter() - began, total


def deduped():
    """[(bytes that duperemove freed on XFS, seconds)] after each of several runs: one alone gives up on much."""
    with store_on("xfs") as fs:
        used, seconds, found = fs.used(), 0, []
        for _ in range(5):
            seconds += lib.Watched(["duperemove", "-rdh", "--dedupe-options=partial", "-b", "4096", fs.path]).wall
            found.append((used - fs.used(), seconds))
        return found


def space():
    images = lib.images_of(six())
    bound = lib.Bound(six(), BLOCK)
    ideal = bound.stored - bound.most
    before, after, pool, overlays, status, seconds = in_pool()
    rows = [["qcow2 files", before, ""], ["dedupscan", after, f"{seconds:.1f}"], ["  of it the pool", pool, ""],
            ["  of it overlays", overlays, ""]]
    seconds, packed = compressed()
    rows.append(["qemu-img convert -c", packed, f"{seconds:.1f}"])
    if shutil.which("duperemove") and shutil.which("mkfs.xfs"):
        runs = deduped()
        for nr in (1, len(runs)):
            freed, seconds = runs[nr - 1]
            rows.append([f"duperemove, 4 KiB, on XFS, runs: {nr}", before - freed, f"{seconds:.1f}"])
    else:
        print("no duperemove or mkfs.xfs here; contrib/install-deps --bench installs them")
    rows.append(["distinct blocks of 4 KiB", ideal, ""])
    table([f"{len(images)} images", "MiB on disk", "freed MiB", "of the qcow2 files", "times the ideal", "wall s"],
          [[what, mib(n), mib(before - n), f"{n / before:.1%}", f"{n / ideal:.3f}", seconds] for what, n, seconds in rows])
    print(status)
    print("Goal: metadata of at most 1.5 % in clusters of 4 KiB.\n")


# ---- reading and writing by QEMU ----

READ = ("version-2", "installed")
NR_READS = 20000
NR_FIRST = 2000  # a table of L2 entries is read once: with clusters of 4 KiB for each 2 MiB of the disk
WARM_TIMES = 16  # as much, as qemu-img tells milliseconds
READ_TURNS = {"warm": min(RUNS, 5), "cold": 2 * RUNS}  # a disk that others use too needs more
NR_WRITES = 500
MODES = {"cold": ("writeback", False), "cold, cache=none": ("none", False), "warm": ("writeback", True)}
SEQUENTIAL, FIRST, RANDOM = "sequential", "first", "random"
# Of what the original does.  What is in the page cache already QEMU reads in one go as far as it lies in one piece, and has a
# thread woken for each piece: by 1 MiB at a time that shows.
GOALS = {("warm", SEQUENTIAL): "0.5"}
GOAL = "0.9"
LINKED = {"linked clone": "", "linked clone, extended L2": "extended_l2=on"}


def virtual_size(image):
    return int(re.search(rb"virtual size: .*\((\d+) bytes\)", run("qemu-img", "info", "-U", image))[1])


def jump(size):
    """A step of whole blocks that visits all of them, far from one another."""
    nr = size // BLOCK
    step = int(nr * 0.618)
    while math.gcd(step, nr) != 1:
        step += 1
    return step * BLOCK


def qemu_bench(image, cache, count, size, step, *more):
    """Requests a second, one after the other."""
    said = run("qemu-img", "bench", "-f", "qcow2", "-t", cache, "-d", "1", "-c", str(count), "-s", str(size), "-S", str(step),
               *more, image)
    return count / float(re.search(rb"in ([0-9.]+) seconds", said)[1])


def read_by_qemu(image, kind, cache, times):
    size = virtual_size(image)
    if kind == SEQUENTIAL:
        return qemu_bench(image, cache, times * (size // MIB), MIB, MIB)
    return qemu_bench(image, cache, times * (NR_FIRST if kind == FIRST else NR_READS), BLOCK, jump(size))


def read_speeds(before, after, name, kind, cache, warm):
    """[(before, after)] of measurements that take turns."""
    found = []
    for i in range(READ_TURNS["warm" if warm else "cold"]):
        now = {}
        for fs in (before, after) if i % 2 == 0 else (after, before):
            image = os.path.join(fs.path, name + ".qcow2")
            if not warm:
                fs.again()
            elif i == 0:
                read_by_qemu(image, SEQUENTIAL, cache, 1)
            now[fs] = read_by_qemu(image, kind, cache, WARM_TIMES if warm and kind != RANDOM else 1)
        found.append((now[before], now[after]))
    return found


def side_by_side(found):
    """Medians before and after, and the spread of ratios."""
    return [f"{statistics.median(x[i] for x in found):.0f}" for i in (0, 1)] + [spread([b / a for a, b in found])]


def mean_run(image):
    """KiB of data that lie in one piece, as QEMU sees it."""
    said = json.loads(run("qemu-img", "map", "-U", "--output=json", image))
    return statistics.mean(x["length"] for x in said if x["data"] and not x["zero"]) / KIB


def disk_speed(fs, name):
    """MiB/s of reading a file of which nothing is cached here.  What is beneath may have it in memory, and not be the limit."""
    found = []
    for _ in range(RUNS):
        fs.again()
        began = time.perf_counter()
        measure.read_through([os.path.join(fs.path, name)])
        found.append(os.path.getsize(os.path.join(fs.path, name)) / MIB / (time.perf_counter() - began))
    return spread(found, "{:.0f}")


def read_rows(before, after, size):
    rows = []
    for name in READ:
        print(f"  {name}: the file of the original alone is read at {disk_speed(before, name + '.qcow2')} MiB/s")
        print(f"  {name}: pieces of {mean_run(os.path.join(after.path, name + '.qcow2')):.0f} KiB")
        for mode, (cache, warm) in MODES.items():
            row = [f"{size} {name}, {mode}"]
            for kind in (SEQUENTIAL, FIRST, RANDOM):
                row += side_by_side(read_speeds(before, after, name, kind, cache, warm)) + [GOALS.get((mode, kind), GOAL)]
            rows.append(row)
    return rows


def fresh_image(fs, make):
    """What make(path) makes, of which nothing was read yet."""
    new = os.path.join(fs.path, "written.qcow2")
    if os.path.exists(new):
        os.unlink(new)
    make(new)
    fs.again()
    return new


def first_writes(fs, make):
    """(writes a second, KiB on the disk for each)"""
    new = fresh_image(fs, make)
    empty = on_disk(new)
    speed = qemu_bench(new, "none", NR_WRITES, BLOCK, jump(virtual_size(new)), "-w", "--pattern=65")
    grown = on_disk(new) - empty
    os.unlink(new)
    return speed, grown / KIB / NR_WRITES


def write_rows(before, after, size):
    golden = os.path.join(before.path, "golden.qcow2")
    calls = {f"{size} clone in the pool": lambda: first_writes(after, lambda new: run(
        lib.DEDUPSCAN, "clone", os.path.join(after.path, "golden.qcow2"), new))}
    for name, options in LINKED.items():
        calls[name] = lambda o=options: first_writes(before, lambda new: run(
            "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", golden, *(["-o", o] if o else []), new))
    found = {name: [] for name in calls}
    for i in range(TURNS):
        for name in calls if i % 2 == 0 else reversed(calls):
            found[name].append(calls[name]())
    ours = next(iter(found.values()))
    return [[name, f"{statistics.median(s for s, _ in r):.0f}", spread([a[0] / b[0] for a, b in zip(ours, r)]),
             f"{statistics.median(k for _, k in r):.1f}"] for name, r in found.items()]


def reads():
    reading, writing = [], []
    with store_on("ext4", "before", True) as before:
        for size, options in CLUSTERS.items():
            with store_on("ext4", "after", True) as after:
                compacted(after, "--cluster-size", *options)
                must_be_members(after)
                takes = on_disk(pool_of(after), *lib.images_of(after.path))
                print(f"--cluster-size {size}: pool and overlays take {mib(takes)} MiB")
                reading += read_rows(before, after, size)
                writing += write_rows(before, after, size)
    print(f"\nReads by QEMU of originals and of overlays, one at a time: 1 MiB front to back, {NR_FIRST:,} and {NR_READS:,} of 4 KiB "
          "all over the disk.")
    table(["", *(c for what in ("MiB/s", f"{NR_FIRST:,} reads: a second", f"{NR_READS:,} reads: a second")
                 for c in (what, "in pool", "in pool/original", "goal"))], reading)
    print(f"First writes of 4 KiB all over a new image of `golden`, cache=none.  Goal: {GOAL} of a linked clone.")
    table(["", "writes/s", "ours / its", "KiB on disk a write"], writing)


# ---- clones, snapshots, rollbacks ----

FULL_MIB = min(4 * GUEST_MIB, 1024)
GIB = 1 << 30
WRITES, SYNCS = {"write", "writev", "pwrite64", "pwritev", "pwritev2"}, {"fsync", "fdatasync", "syncfs", "sync_file_range", "sync"}


class Calls:
    """What a program did, as strace saw it: calls, syncs, bytes written to files."""

    def __init__(self, *args):
        run("strace", "-f", "-qq", "-o", path("calls"), *args)
        seen, self.written = Counter(), 0
        with open(path("calls"), encoding="utf-8", errors="replace") as f:
            for line in f:
                call = re.match(r"\d+ +(?:<\.\.\. )?(\w+)(?:\((\d*)| resumed>).* = (-?\d+)", line)
                if call and call[2] not in ("1", "2"):
                    seen[call[1]] += 1
                    self.written += max(int(call[3]), 0) if call[1] in WRITES else 0
        self.nr = sum(seen.values())
        self.syncs = sum(seen[s] for s in SYNCS)


def make_disk(name, size, data_mib):
    """Raw; noise in pieces of 1 MiB, evenly spread."""
    with open(path(name + ".raw"), "wb") as f:
        f.truncate(size)
        for i in range(data_mib):
            os.pwrite(f.fileno(), os.urandom(MIB), size // data_mib * i // MIB * MIB)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", path(name + ".raw"), path(name + ".qcow2"))
    os.unlink(path(name + ".raw"))
    return path(name + ".qcow2")


def milliseconds(calls, nr):
    """Of calls that take turns, so many times each: {name: [ms]}; each is called with a number."""
    found = {name: [] for name in calls}
    for i in range(nr):
        for name, call in calls.items():
            found[name].append(call(i).wall * 1000)
    return found


def alone(fs, command):
    """[calls, syncs, KiB written, KiB more on the disk] of one run."""
    used, calls = fs.used(), Calls(*command)
    return [calls.nr, calls.syncs, f"{calls.written / KIB:.1f}", f"{(fs.used() - used) / KIB:.0f}"]


def member(fs, name):
    return os.path.join(fs.path, name + "-1.qcow2")


def clone_rows(fs, disks):
    commands, new = {}, os.path.join(fs.path, "%s-%d.qcow2")
    for name, plain in disks.items():
        commands[f"clone, {name}"] = [lib.DEDUPSCAN, "clone", member(fs, name)]
        commands[f"qemu-img create -b, {name}"] = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", plain]
    calls = {what: alone(fs, c + [new % (what, NR)]) for what, c in commands.items()}
    found = milliseconds({what: lambda i, what=what, c=c: Run(c + [new % (what, i)]) for what, c in commands.items()}, NR)
    return [[what, spread(found[what], "{:.1f}"), goal_of(what), *calls[what]] for what in commands]


def goal_of(what):
    return f"{GOAL_MS} ms, {GOAL_KIB} KiB" if what.startswith(("clone,", "snapshot,", "rollback,")) else ""


def write_a_little(image):
    """Nothing of what the call before left is still to be written then."""
    run("qemu-io", "-f", "qcow2", "-c", "write -q -P 66 1M 64k", image)
    os.sync()


def sealed(image):
    write_a_little(image)
    return Run([lib.DEDUPSCAN, "snapshot", "v", image])


def version_rows(fs, name, plain):
    """Of clones that each were written to since; beside them, internal snapshots of the original."""

    def sealing(i):
        return sealed(os.path.join(fs.path, f"clone, {name}-{i}.qcow2"))

    def going_back(i, *options):
        image = os.path.join(fs.path, f"clone, {name}-{i}.qcow2")
        write_a_little(image)
        return Run([lib.DEDUPSCAN, "rollback", *options, image + "@v"])

    def internal(i, option="-c"):
        write_a_little(plain)
        return Run(["qemu-img", "snapshot", option, f"v{i}", plain])

    found = milliseconds({f"snapshot, {name}": sealing, f"qemu-img snapshot -c, {name}": internal}, NR_VERSIONS)
    found.update(milliseconds({f"rollback, {name}": going_back, f"qemu-img snapshot -a, {name}": lambda i: internal(i, "-a")},
                              NR_VERSIONS))
    found.update(milliseconds({f"rollback --discard, {name}": lambda i: going_back(i, "--discard")}, min(NR_VERSIONS, 5)))
    return [[what, spread(ms, "{:.1f}"), goal_of(what)] for what, ms in found.items()]


def made_many(fs, names):
    """{name: [seconds for MANY clones]}.  They stay: ext4 is slow to use inodes again that were freed just now."""
    found = {name: [] for name in names}
    for i in range(TURNS):
        for name in names if i % 2 == 0 else reversed(names):
            to = os.path.join(fs.path, f"{name}-many-{i}")
            os.makedirs(to)
            found[name].append(Run([lib.DEDUPSCAN, "clone", "--count", str(MANY), member(fs, name), to + "/%04d.qcow2"]).wall)
    return found


def many_rows(fs, disks):
    """And what one more takes where there are so many."""
    seconds, rows = made_many(fs, list(disks)), []
    for name in disks:
        command = [lib.DEDUPSCAN, "clone", member(fs, name)]
        found = milliseconds({
            "clone": lambda i, c=command: Run(c + [c[-1] + f"-more-{i}.qcow2"]),
            "snapshot": lambda i, name=name: sealed(os.path.join(fs.path, f"{name}-many-0/{i + 1:04}.qcow2")),
        }, TURNS)
        calls = Calls(*command, member(fs, name) + "-more-x.qcow2")
        rows.append([name, spread(seconds[name]), len(os.listdir(os.path.join(pool_of(fs), "names"))),
                     spread(found["clone"], "{:.1f}"), calls.nr, spread(found["snapshot"], "{:.1f}")])
    return rows


def clones():
    disks = {"1 GiB": make_disk("full", GIB, FULL_MIB), "100 GiB": make_disk("sparse", 100 * GIB, max(GUEST_MIB // 4, 8))}
    print(f"Disks of 1 GiB with {FULL_MIB} MiB of data, and of 100 GiB with {max(GUEST_MIB // 4, 8)} MiB; {NR} clones and "
          f"{NR_VERSIONS} snapshots timed.")
    size = sum(on_disk(p) for p in disks.values()) // MIB
    with lib.FileSystem("ext4", measure.scratch, 5 * size + 1500) as fs:
        for name, image in disks.items():
            for i in (1, 2):  # what nobody has twice enters no pool
                shutil.copyfile(image, os.path.join(fs.path, f"{name}-{i}.qcow2"))
        compacted(fs)
        must_be_members(fs)
        plain = {name: shutil.copyfile(image, os.path.join(fs.path, os.path.basename(image))) for name, image in disks.items()}
        fs.used()  # nothing of all this is still to be written
        table(["", "ms", "goal", "system calls", "syncs", "KiB written", "KiB more on disk"], clone_rows(fs, plain))
        table(["", "ms", "goal"], list(itertools.chain.from_iterable(version_rows(fs, name, plain[name]) for name in plain)))
        table(["", f"s for {MANY} clones", "names in the pool", "then a clone, ms", "its calls", "a snapshot, ms"],
              many_rows(fs, plain))
    for image in disks.values():
        os.unlink(image)
    print(f"Goal: {MANY} clones in {MANY / 500:g} s at most, whatever the size; rollback --discard waits for a second.\n")


# ---- folding ----

EXTENT = 64 * KIB
WHERE = ("trees", "views", "index", "names", "sealed")


def change(image, share, rng):
    """Writes noise to so much of it, in extents at boundaries of 4 KiB that do not touch; returns its bytes."""
    nr = max(int(GUEST_MIB * MIB * share) // EXTENT, 1)
    places = rng.sample(range(virtual_size(image) // (2 * EXTENT) - 1), nr)
    commands = []
    for at in places:
        with open(os.path.join(folder("new"), str(at)), "wb") as f:
            f.write(rng.randbytes(EXTENT))
        commands += ["-c", f"write -q -s {f.name} {at * 2 * EXTENT + rng.randrange(EXTENT // BLOCK) * BLOCK} {EXTENT}"]
    for i in range(0, len(commands), 200):
        run("qemu-io", "-f", "qcow2", *commands[i:i + 200], image)
    shutil.rmtree(path("new"))
    return nr * EXTENT


class Sizes:
    """What the pool takes, in parts, and everything (df), synced."""

    def __init__(self, fs):
        self.all, pool = fs.used(), pool_of(fs)
        self.parts = {name: on_disk(os.path.join(pool, name)) for name in WHERE}
        self.pool = on_disk(pool)
        self.parts["clusters"] = self.pool - sum(self.parts.values())


def grown(was, now, written):
    return [f"{(now.pool - was.pool) / KIB:.0f}", f"{(now.pool - was.pool) / written:.3f}" if written else "-"]


def fold_row(fs, image, label, share, rng):
    """A round: writes, snapshot, folding, and collecting what folding left."""
    was = Sizes(fs)
    written = change(image, share, rng) if share else 0
    run(lib.DEDUPSCAN, "snapshot", label, image)
    seconds, then = folded(fs).wall, Sizes(fs)
    for _ in range(2):  # what dies goes with the second
        run(lib.DEDUPSCAN, "pool", "collect", fs.path)
    now = Sizes(fs)
    return [f"{written / KIB:.0f}", *grown(was, then, written), f"{seconds:.1f}", *grown(was, now, written),
            f"{(now.all - was.all) / KIB:.0f}"] + [f"{(now.parts[p] - was.parts[p]) / KIB:.0f}" for p in now.parts]


def fold():
    rng, rows = random.Random(5), []
    with store_on("ext4") as fs:
        compacted(fs)
        must_be_members(fs)
        image = os.path.join(fs.path, "version-2.qcow2")
        fold_row(fs, image, "first", 0.001, rng)
        for i in range(TURNS):
            rows.append([f"1 % changed, {i + 1}"] + fold_row(fs, image, f"changed-{i}", 0.01, rng))
        for i in range(TURNS):
            rows.append([f"nothing changed, {i + 1}"] + fold_row(fs, image, f"same-{i}", 0, rng))
    print("A snapshot is folded into the pool (compact --apply), and what that left is collected (pool collect, twice).  KiB.")
    table(["", "written", "pool", "pool/written", "wall s", "collected", "pool/written", "df", *WHERE, "clusters"], rows)
    print("Goals: at most 1.2 times what was written, and nothing when nothing was.\n")


# ---- rates ----

BENCH_IMPORT = os.path.join(os.path.dirname(measure.PROGRAM), "tests/bench/bench_import")
FORMATS = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx"}


def import_rates():
    if not os.access(BENCH_IMPORT, os.X_OK):
        print("no bench_import here; `make bench T=import` builds it")
        return
    print(f"Import of raw images of {GUEST_MIB} MiB, the best of {TURNS} (tests/bench/bench_import.c):")
    with lib.FileSystem("ext4", measure.scratch, 10 * GUEST_MIB + 600) as fs:
        print(run(BENCH_IMPORT, fs.path, str(GUEST_MIB), str(TURNS)).decode())


def fresh(command, new):
    if os.path.exists(new):
        os.unlink(new)
    return Run(command + [new])


def restore_rows(image, out):
    data = sum(length for _, _, length in lib.extents_on_disk(os.path.join(six(), os.path.basename(image))))
    rows = []
    for form, theirs in FORMATS.items():
        new = os.path.join(out, f"new.{form}")
        runs = {"ours": [], "qemu": []}
        calls = {
            "ours": lambda: fresh([lib.DEDUPSCAN, "restore", "--format", form, image], new),
            "qemu": lambda: fresh(["qemu-img", "convert", "-t", "writeback", "-f", "qcow2", "-O", theirs, image], new),
        }
        for i in range(TURNS + 1):
            for name in calls if i % 2 == 0 else reversed(calls):
                runs[name].append(calls[name]())
        os.unlink(new)
        ours, qemu = runs["ours"][1:], runs["qemu"][1:]  # the first ones read from the disk
        rows.append([f"{os.path.basename(image)[:-6]}, {form}", spread([data / 1e6 / r.wall for r in ours], "{:.0f}"),
                     spread([data / 1e6 / r.wall for r in qemu], "{:.0f}"), spread(measure.ratios(ours, qemu, "wall")),
                     spread(measure.of(ours, "cpu")), spread(measure.of(qemu, "cpu"))])
    return rows


@contextlib.contextmanager
def place_for(size, fs):
    """A folder for what is restored: in memory where that is large enough, as the disk is not what is measured."""
    shm = "/dev/shm"
    memory = os.path.ismount(shm) and os.statvfs(shm).f_bavail * os.statvfs(shm).f_frsize > 4 * size
    with tempfile.TemporaryDirectory(prefix="bench_pool.", dir=shm if memory else fs.path) as out:
        print(f"Restoring to {'memory' if memory else 'the ext4, synced'}, from the page cache; MB/s of data.")
        yield out


def restore_rates():
    with store_on("ext4") as fs:
        compacted(fs)
        must_be_members(fs)
        images = [os.path.join(fs.path, name + ".qcow2") for name in READ]
        with place_for(virtual_size(images[0]), fs) as out:
            rows = list(itertools.chain.from_iterable(restore_rows(image, out) for image in images))
    table(["", "MB/s", "qemu-img MB/s", "times as fast", "cpu s", "qemu-img cpu s"], rows)


def rates():
    import_rates()
    restore_rates()


# ---- cluster files ----

NR_FAMILIES = 5


def family(fs, name):
    """Two images of random data, as one alone would not enter."""
    raw = path(name + ".raw")
    with open(raw, "wb") as f:
        for _ in range(GUEST_MIB):
            f.write(os.urandom(MIB))
    for i in (1, 2):
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, os.path.join(fs.path, f"{name}-{i}.qcow2"))
    os.unlink(raw)


def collected(fs, *more):
    return lib.Watched([lib.DEDUPSCAN, "pool", "collect", "--drop-missing", *more, fs.path])


def copied(fs):
    """The peer: a file of as many bytes is copied, synced, and compared from the disk."""
    ours, copy = path("one"), os.path.join(fs.path, "copy")
    with open(ours, "wb") as f:
        for _ in range(GUEST_MIB):
            f.write(os.urandom(MIB))
    took = Run(["sh", "-c", f"dd if={ours} of={copy} bs=1M conv=fsync status=none && dd if={copy} iflag=nocache count=0 status=none && "
                            f"cmp {ours} {copy}"])
    os.unlink(copy)
    os.unlink(ours)
    return took


def evacuation():
    """One turn: a fifth of a full file lives, and moves."""
    with lib.FileSystem("ext4", measure.scratch, (2 * NR_FAMILIES + 8) * GUEST_MIB + 600) as fs:
        for i in range(NR_FAMILIES):
            family(fs, f"f{i}")
        compacted(fs, "--file-size", f"{NR_FAMILIES * GUEST_MIB}M")
        family(fs, "next")
        folded(fs)  # into another file
        for i in range(1, NR_FAMILIES):
            for k in (1, 2):
                os.unlink(os.path.join(fs.path, f"f{i}-{k}.qcow2"))
        holes = [collected(fs, "--evacuate", "0") for _ in range(2)]
        full = fs.used()
        moving = collected(fs)
        if "1 cluster files evacuated" not in moving.output:
            lib.fail(f"nothing was evacuated: {moving.output}")
        more = fs.used()
        removing = collected(fs)
        if "removed" not in removing.output:
            lib.fail(f"the file stayed: {removing.output}")
        return {"holes": holes[1].wall, "moving": moving.wall, "removing": removing.wall, "copy": copied(fs).wall,
                "before": full / MIB, "meanwhile": more / MIB, "after": fs.used() / MIB, "memory": moving.peak / MIB}


def files():
    found = [evacuation() for _ in range(TURNS)]
    print(f"A cluster file of {NR_FAMILIES * GUEST_MIB} MiB of which {GUEST_MIB} MiB live is evacuated, and removed; ext4.")
    rate = [GUEST_MIB * MIB / 1e6 / f["moving"] for f in found]
    peer = [GUEST_MIB * MIB / 1e6 / f["copy"] for f in found]
    table(["", ""], [
        ["evacuating, proven from the disk, MB/s", spread(rate, "{:.0f}")],
        ["copying, syncing and comparing as much, MB/s", spread(peer, "{:.0f}")],
        ["times as fast", spread([a / b for a, b in zip(rate, peer)])],
        ["a collection that only makes holes, s", spread([f["holes"] for f in found])],
        ["the one that removes the file, s", spread([f["removing"] for f in found])],
        ["memory, MiB", spread([f["memory"] for f in found], "{:.0f}")],
        ["on the disk before, MiB", spread([f["before"] for f in found], "{:.0f}")],
        ["meanwhile, MiB", spread([f["meanwhile"] for f in found], "{:.0f}")],
        ["after it, MiB", spread([f["after"] for f in found], "{:.0f}")],
    ])


# ---- all ----

PARTS = {
    "space": (space, ()),
    "reads": (reads, ()),
    "clones": (clones, ("strace",)),
    "fold": (fold, ()),
    "rates": (rates, ()),
    "files": (files, ()),
}


def main(names):
    for name in names:
        call, tools = PARTS[name]
        why = lib.lacking("qemu-img", "qemu-io", "mke2fs", "sfdisk", "losetup", *tools)
        print(f"{name}\n{'-' * len(name)}")
        if why:
            print(why + "\n")
            continue
        began = time.perf_counter()
        call()
        print(f"{name} took {time.perf_counter() - began:.0f} s\n", flush=True)


if __name__ == "__main__":
    chosen = sys.argv[2:] or list(PARTS)
    if not set(chosen) <= set(PARTS):
        sys.exit(f"usage: bench_pool.py SCRATCH-FOLDER [{'|'.join(PARTS)}]...")
    del sys.argv[2:]
    measure.main("Pool", ABOUT, lambda: main(chosen))
