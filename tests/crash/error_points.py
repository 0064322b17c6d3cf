#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 1800
"""System calls by which compact and recover change something fail, or lie, once or from then on; file systems are full, have no
inodes left, are read-only, and limits are low.  Each time the exit status is a documented one, what went wrong is named, and
the images are as the oracle wants them.

Rows B1 (no space, quota), B2 (EIO), B3 (a sync that fails once), B4 (close), B5 and B6 (writes and clones that lie), B9 (a full
file system is freed), B10 (inodes, descriptors, read-only), B11 (file size limit), B13 (two file systems)."""

import os
import random
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import kill_points
import lib_crash as crash
from kill_points import WEEK, Compact, Purge, Undo
from lib_crash import CHANGING, KIB, LONG, MIB, Family, Guests, Place, Wrong, fail, lib, run, traced

NR_POINTS = int(os.environ.get("CRASH_POINTS") or (3000 if LONG else 90))
STATUSES = (0, 1, 3, 4)  # done, done but, failed, in use: dedupscan(1)

SPACE = ("ENOSPC", "EDQUOT", "EIO", "EFBIG")
ERRORS = {
    "pwrite64": SPACE, "write": SPACE, "ftruncate": SPACE, "fallocate": SPACE, "copy_file_range": SPACE,
    "fsync": ("EIO", "ENOSPC", "EDQUOT"), "fdatasync": ("EIO", "ENOSPC", "EDQUOT"), "syncfs": ("EIO",),
    "ioctl": ("EIO", "ENOSPC", "EOPNOTSUPP", "EINVAL"), "renameat2": ("EIO", "ENOSPC", "EINVAL"), "renameat": ("EIO", "ENOSPC"),
    "unlinkat": ("EIO", "EROFS", "ENOSPC"), "mkdirat": ("ENOSPC", "EROFS"),
    "openat": ("ENOSPC", "EMFILE", "ENFILE", "EROFS", "EDQUOT"),
    "linkat": ("EMLINK", "ENOSPC"), "fchown": ("EPERM", "EDQUOT", "EIO"), "fchmod": ("EPERM", "EIO"),
    "fsetxattr": ("ENOSPC", "EDQUOT", "EIO"),
    "fremovexattr": ("EIO",), "utimensat": ("EIO", "EPERM"), "fcntl": ("ENOLCK", "EAGAIN", "EIO"), "close": ("EIO", "ENOSPC"),
}
WORKFLOWS = [Compact("btrfs"), Compact("xfs"), Compact("ext4"), Compact("btrfs", WEEK), Undo("xfs", WEEK), Purge("ext4", WEEK)]


def names_something(p, done):
    """A message says what it is about: an image, or a file of ours, or one that lies in the catalog for a moment; or what ran
    out."""
    names = (*p.family.names, p.root, p.catalog, p.fs.path, ".tmp'", "Too many open files", "a worker process died before it began")
    return any(n in done.said + done.out for n in names)


class Erring(kill_points.Killer):
    def __init__(self, *args):
        super().__init__(*args)
        self.statuses, self.nr_lies = {}, 0

    def choose(self):
        rng, chosen = random.Random(crash.SEED), []
        share = max(NR_POINTS // len(WORKFLOWS), 1)
        for w in WORKFLOWS:
            mine = [p for p in self.points[w] if self.fs[w.kind].path in p.text and p.call in ERRORS]
            pairs = [(p, e, when) for p in mine for e in ERRORS[p.call] for when in ("", "+")]
            pairs += [(p, lie, "") for p in mine for lie in [self.lie(p)] if lie]
            chosen += [(w, *pair) for pair in rng.sample(pairs, min(share, len(pairs)))]
            lies = [pair for pair in pairs if pair[1].startswith("=")]
            chosen += [(w, *pair) for pair in rng.sample(lies, min(share // 6, len(lies)))]
        return chosen

    @staticmethod
    def lie(point):
        """What it returns when it is done, though nothing was."""
        if ".new>" not in point.text or point.call not in ("pwrite64", "ftruncate", "fchown", "fchmod", "fsetxattr", "utimensat",
                                                           "ioctl"):
            return None
        m = re.search(r"= (\d+)$", point.text)
        return "=" + m.group(1) if m else None

    def one_error(self, w, point, error, when, finish):
        lies = error.startswith("=")
        what = f"{point.call}:{'retval' if lies else 'error'}={error.lstrip('=')}:when={point.nth}{when}"
        with self.place(w) as p:
            try:
                w.prepare(p)
                done = traced(w.command(p), [what])
                self.statuses[done.status] = self.statuses.get(done.status, 0) + 1
                self.nr += 1
                if done.status not in STATUSES:
                    raise Wrong(f"it ended with {done}")
                if done.status == 4 and point.call != "fcntl":
                    raise Wrong(f"in use? {done}")
                if done.status and not names_something(p, done):
                    raise Wrong(f"the message names nothing: {done}")
                crash.look_at_images(p.family, p.root, w.mtime_may_change)
                if lies:
                    self.nr_lies += 1
                    self.judge_lie(point, done)
                elif done.status == 0 and error not in ("ENOSPC", "EDQUOT") and ".new>" in point.text and \
                        point.call in ("fsync", "fdatasync", "syncfs"):  # without room it is tried again, with another new file
                    raise Wrong("exit status 0, though a sync of a new file failed")
                p.oracle(w.keep, w.mtime_may_change)
                if finish:
                    w.after(p, self.goals[w], 3)
            except Wrong as e:
                kill_points.fail_later(f"{w.name}, {what} ({point}): {e}")

    @staticmethod
    def judge_lie(point, done):
        """What a new file does not hold is found when it is read back.  Zeros, and what it would have been anyway, may be
        missing."""
        if done.status == 0 and point.call == "pwrite64" and done.out.count(" failed "):
            raise Wrong(f"exit status 0: {done}")


# ---- real shortages ----


def shortage(name):
    def decorate(f):
        SHORTAGES.append((name, f))
        return f
    return decorate


SHORTAGES = []


def fill(fs):
    """Nothing is free any more."""
    for size in (4 * MIB, 256 * KIB, 4 * KIB, 512):
        with open(os.path.join(fs.path, "filler"), "ab", buffering=0) as f:
            try:
                while True:
                    f.write(b"\x55" * size)
                    if size < MIB:
                        os.fsync(f.fileno())
            except OSError:
                pass
    os.sync()


def must_end(p, command, statuses, what, shell=""):
    command = ["bash", "-c", shell + ' exec "$@"', "bash", *command] if shell else command
    done = traced(command)
    if done.status not in statuses:
        raise Wrong(f"{what}: {done}")
    if done.status and not names_something(p, done):
        raise Wrong(f"{what}: the message names nothing: {done}")
    crash.look_at_images(p.family, p.root)
    return done


@shortage("B1, B9: a full file system is left as it is, and purged")
def full(family, memory, kind):
    with lib.FileSystem(kind, memory, 340, f"full-{kind}") as fs, Place(family, fs, memory) as p:
        p.well(p.compact("--apply", "--method", "relayout", keep=WEEK))
        p.well(p.compact())
        fill(fs)
        must_end(p, [*p.compact("--apply"), "--catalog", os.path.join(fs.path, "catalog")], (3,), "no space for the catalog")
        must_end(p, p.compact("--apply", "--no-scan", "--method", "relayout,rebuild"), (0, 1, 3), "no space")
        done = must_end(p, p.recover("--purge"), (0, 3) if kind == "ext4" else (0,), "purge without space")
        os.unlink(os.path.join(fs.path, "filler"))
        p.oracle(WEEK)
        if done.status == 0:
            crash.look_for_strays(family, p.root, False)


def used_by_quota(fs):
    os.sync()
    return int(run("btrfs", "qgroup", "show", "--raw", "--sync", fs.path).decode().split("0/5", 1)[1].split()[0])


@shortage("B1: no quota")
def no_quota(family, memory, kind):
    """Of a whole btrfs, where root has no more than others."""
    if kind != "btrfs":
        return
    nr_said = 0
    with lib.FileSystem(kind, memory, 340, "quota") as fs:
        for more in range(0, 320, 16) if LONG else (64, 96, 176, 240):
            with Place(family, fs, memory) as p:
                p.well(p.compact())
                run("btrfs", "quota", "enable", fs.path)
                run("btrfs", "quota", "rescan", "-w", fs.path)
                run("btrfs", "qgroup", "limit", str(used_by_quota(fs) + more * KIB), fs.path)
                done = must_end(p, p.compact("--apply", "--no-scan"), (0, 1, 3), f"{more} KiB of quota are left")
                run("btrfs", "quota", "disable", fs.path)  # a limit that is reached cannot be raised
                if done.status and "quota" not in done.said:
                    raise Wrong(f"{more} KiB of quota are left, and that is not said: {done}")
                nr_said += done.status != 0
                p.oracle()
                p.finish(None)
    if not nr_said:
        raise Wrong("the quota made no difference")


@shortage("B10: no inodes")
def no_inodes(family, memory, kind):
    if kind != "ext4":
        return
    with lib.FileSystem(kind, memory, 340, "inodes") as fs:
        fs.unmount()
        run("mke2fs", "-q", "-F", "-t", "ext4", "-N", "64", fs.file)
        fs.mount()
        with Place(family, fs, memory) as p:
            nr = 0
            try:
                while True:
                    with open(os.path.join(fs.path, f"f{nr}"), "wb"):
                        nr += 1
            except OSError:
                pass
            done = must_end(p, p.compact("--apply", "--method", "relayout"), (1, 3), "no inodes")
            if "No space left" not in done.said:
                raise Wrong(f"no inodes: it is not said: {done}")
            for n in range(nr):
                os.unlink(os.path.join(fs.path, f"f{n}"))
            p.oracle()
            p.finish(None)


@shortage("B10: read-only")
def read_only(family, memory, kind):
    with lib.FileSystem(kind, memory, 340, f"ro-{kind}") as fs, Place(family, fs, memory) as p:
        p.well(p.compact())
        run("mount", "-o", "remount,ro", fs.path)
        done = must_end(p, p.compact("--apply", "--no-scan"), (1, 3), "read-only")
        if "ead-only" not in done.said + done.out:
            raise Wrong(f"it is not said that it is read-only: {done}")
        run("mount", "-o", "remount,rw", fs.path)
        p.oracle()
        p.finish(None)


@shortage("B10: few descriptors")
def few_descriptors(family, memory, kind):
    with lib.FileSystem(kind, memory, 700, f"fd-{kind}") as fs:
        for n in range(5, 65) if LONG else (6, 12, 16, 64):
            with Place(family, fs, memory) as p:
                must_end(p, p.compact("--apply"), (0, 1, 3) if n < 64 else (0,), f"{n} descriptors", f"ulimit -n {n};")
                p.oracle(mtime_may_change=Compact(kind).mtime_may_change)
                p.finish(None)


@shortage("B11: file size limit")
def file_size_limit(family, memory, kind):
    with lib.FileSystem(kind, memory, 700, f"size-{kind}") as fs:
        for n in (0, 1, 200, 1040, 1900) if LONG else (0, 200, 1040):
            with Place(family, fs, memory) as p:
                p.well(p.compact())
                must_end(p, p.compact("--apply", "--no-scan"), (0, 1, 3), f"files of at most {n} KiB", f"ulimit -f {n};")
                p.oracle()
                p.finish(None)


@shortage("B13: two file systems")
def two_file_systems(family, memory, kind):
    with lib.FileSystem(kind, memory, 340, f"one-{kind}") as one, lib.FileSystem("xfs", memory, 340, f"two-{kind}") as two, \
            Place(family, one, memory) as p, Place(family, two, memory) as q:
        before = [crash.used(family, place.root) for place in (p, q)]
        must_end(p, [*p.compact("--apply"), q.root], (0,), "two file systems")
        for place, took in zip((p, q), before):
            place.oracle(mtime_may_change=Compact(place.fs.kind).mtime_may_change)
            if crash.used(family, place.root) > took * (0.9 if place.fs.kind == "ext4" else 0.6):
                raise Wrong(f"of {took} bytes little was saved on {place.fs.kind}: {crash.used(family, place.root)} are left")


def shortages(family, memory):
    for name, f in SHORTAGES:
        for kind in ("btrfs", "xfs", "ext4"):
            try:
                f(family, memory, kind)
            except Wrong as e:
                kill_points.fail_later(f"{name}, on {kind}: {e}")


# ---- all of it ----


def main():
    crash.require("mkfs.xfs", "mkfs.btrfs", "mke2fs")
    lib.exit_on_signals()
    tmp = lib.scratch("error-points")
    with crash.memory_folder(tmp) as memory, lib.FileSystem("btrfs", memory, 700) as b, lib.FileSystem("xfs", memory, 700) as x, \
            lib.FileSystem("ext4", memory, 700) as e:
        family = Family(os.path.join(memory, "family"), Guests(memory))
        erring = Erring(memory, family, {"btrfs": b, "xfs": x, "ext4": e})
        for w in WORKFLOWS:
            erring.count(w)
        chosen = erring.choose()
        began = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(erring.one_error, *c, n % (1 if LONG else 6) == 0) for n, c in enumerate(chosen)]
            jobs.append(pool.submit(shortages, family, memory))
            for j in jobs:
                j.result()
        if kill_points.failures:
            fail("\n".join(kill_points.failures))
        print(f"{erring.nr} errors, {erring.nr_lies} of them lies; exit statuses {erring.statuses}; {time.monotonic() - began:.0f} s")
        if not (erring.statuses.get(0) and erring.statuses.get(1)):
            fail("the errors made no difference")


if __name__ == "__main__":
    sys.exit(main())
