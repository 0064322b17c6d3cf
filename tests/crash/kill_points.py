#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 3600
"""SIGKILL at the system calls by which compact and recover change something, on XFS, btrfs and ext4; then the oracle.

Rows A1 (compact), A2 (undo, purge, a kept plan), A3 (kills during recovery, several deep), A11 (between the exchange and the
removal), A15 (a reader process dies)."""

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import lib_crash as crash
from lib_crash import CHANGING, KILLED, LONG, Family, Guests, Place, Wrong, fail, lib, traced, used

NR_POINTS = int(os.environ.get("CRASH_POINTS") or (1000000 if LONG else 160))  # of all workflows together
NR_NESTED = 600 if LONG else 24
NR_CHILDREN = 60 if LONG else 6
WEEK = "7d"


# ---- what is interrupted ----


class Workflow:
    """prepare() is not interrupted, command() is; after the oracle, after() takes it to its end."""

    keep, mtime_may_change = "0", ()

    def __init__(self, kind, keep="0"):
        self.kind, self.keep = kind, keep
        self.name = f"{type(self).__name__.lower()} on {kind}, originals kept {keep}"
        if kind == "ext4":  # there a punch sets it, and it is put back when all are punched
            self.mtime_may_change = ("qcow2.qcow2", "raw.raw")

    def prepare(self, p):
        p.well(p.compact())  # scanned

    def command(self, p):
        return p.compact("--apply", "--no-scan", keep=self.keep)

    def after(self, p, goal, runs=1):
        p.finish(goal, self.keep, self.mtime_may_change, runs)


class Compact(Workflow):
    pass


class Scanning(Workflow):
    """Without a catalog."""

    def prepare(self, p):
        pass

    def command(self, p):
        return p.compact("--apply", keep=self.keep)


class Kept_plan(Workflow):
    def prepare(self, p):
        p.well(p.compact("--plan-out", p.catalog + ".plan"))

    def command(self, p):
        return p.compact("--apply", "--plan", p.catalog + ".plan", keep=self.keep)


class Undo(Workflow):
    def prepare(self, p):
        p.well(p.compact("--apply", keep=self.keep))

    def command(self, p):
        return p.recover("--undo")

    def after(self, p, goal, runs=1):
        p.well(p.recover("--undo"))
        for n in p.family.names:
            if lib.digest_of(os.path.join(p.root, n)) != p.family.contents[n]:
                raise Wrong(f"{n} is not its original after --undo")
        crash.look_for_strays(p.family, p.root, False)
        super().after(p, goal, runs)


class Purge(Workflow):
    def prepare(self, p):
        p.well(p.compact("--apply", keep=self.keep))

    def command(self, p):
        return p.recover("--purge")

    def after(self, p, goal, runs=1):
        p.well(p.recover("--purge"))
        crash.look_for_strays(p.family, p.root, False)
        super().after(p, goal, runs)


WORKFLOWS = [
    Compact("btrfs"), Compact("btrfs", WEEK), Compact("xfs"), Compact("xfs", WEEK), Compact("ext4"), Compact("ext4", WEEK),
    Scanning("xfs"), Kept_plan("btrfs"), Undo("btrfs", WEEK), Undo("xfs", WEEK), Purge("btrfs", WEEK), Purge("ext4", WEEK),
]


# ---- points ----


class Killer:
    def __init__(self, tmp, family, file_systems):
        self.tmp, self.family, self.fs = tmp, family, file_systems
        self.points, self.goals = {}, {}
        self.nr = self.nr_children = self.nr_missed = self.nr_finished = 0

    def place(self, w):
        return Place(self.family, self.fs[w.kind], self.tmp)

    def count(self, w):
        """Uninterrupted: its calls, and what it saves."""
        log = os.path.join(self.tmp, "log")
        with self.place(w) as p:
            w.prepare(p)
            p.well(w.command(p), log=log, calls=CHANGING)
            self.points[w] = crash.points_of(log, p.root, p.catalog)
            p.oracle(w.keep)
            w.after(p, None)
            self.goals[w] = used(self.family, p.root)
        if len(self.points[w]) < 10:
            fail(f"{w.name}: only {len(self.points[w])} calls were seen")

    def choose(self):
        """Few of the calls on the catalog, which other tests interrupt."""
        rng, chosen = random.Random(crash.SEED), []
        share = max(NR_POINTS // len(WORKFLOWS), 1)
        for w in WORKFLOWS:
            mine = [p for p in self.points[w] if self.fs[w.kind].path in p.text]
            others = [p for p in self.points[w] if self.fs[w.kind].path not in p.text]
            chosen += [(w, p) for p in rng.sample(mine, min(share, len(mine))) + rng.sample(others, min(share // 8, len(others)))]
        return chosen

    def one(self, w, point, finish, nested=0):
        with self.place(w) as p:
            try:
                w.prepare(p)
                done = traced(w.command(p), [f"{point.call}:signal=KILL:when={point.nth}"])
                if done.status not in (0, *KILLED) and not (done.status == 1 and "killed by signal 9" in done.said + done.out):
                    raise Wrong(f"it ended with {done}")
                self.nr += done.status != 0
                self.nr_children += done.status == 1
                self.nr_missed += done.status == 0
                self.nested(p, nested, point)
                p.oracle(w.keep, w.mtime_may_change)
                if finish:
                    w.after(p, self.goals[w])
                    self.nr_finished += 1
            except Wrong as e:
                fail_later(f"{w.name}, killed at {point}, {nested} deep: {e}")

    def nested(self, p, depth, point):
        """Recovery itself is killed, so many times."""
        rng = random.Random(crash.SEED + point.nth + depth)
        calls = ("pwrite64", "fsync", "fdatasync", "renameat2", "unlinkat", "fcntl", "close")
        calls = [(c, n) for c in calls for n in (1, 2, 3, 4)]
        rng.shuffle(calls)
        for call, n in calls:
            if depth == 0:
                break
            done = traced(p.recover(), [f"{call}:signal=KILL:when={n}"])
            if done.status not in (0, *KILLED):
                raise Wrong(f"recover, to be killed at {call} {n}: {done}")
            if done.status == 0:
                break
            depth -= 1
            self.nr += 1


failures = []


def fail_later(text):
    failures.append(text)
    if len(failures) == 1:
        print(f"FAILED: {text}", flush=True)


def tell_and_end(pool):
    if failures:
        pool.shutdown(cancel_futures=True)
        print(f"{len(failures)} points failed; the first ones:")
        print("\n".join(failures[:20]))
        sys.exit(1)


# ---- A15 ----


def is_jailed(pid):
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
        return "Seccomp:\t2" in f.read()


def kill_a_child(killer, n):
    """A process that reads or maps an image is killed: the image is left alone, and said so."""
    w = WORKFLOWS[(0, 2, 4)[n % 3]]
    rng = random.Random(crash.SEED + n)
    with killer.place(w) as p:
        process = subprocess.Popen(p.compact("--apply"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        skip, hit = rng.randrange(6), False
        seen = set()
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline and not hit:
            try:
                with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as f:
                    for child in set(f.read().split()) - seen:
                        if not is_jailed(child):
                            continue  # it has not begun
                        seen.add(child)
                        if len(seen) > skip:
                            os.kill(int(child), signal.SIGKILL)
                            hit = True
            except (OSError, ProcessLookupError):
                pass
        out, said = process.communicate()
        try:
            if process.returncode not in (0, 1) and not (process.returncode == 3 and "before it began" in said):
                raise Wrong(f"exit status {process.returncode}: {said}")
            if process.returncode == 0 and "died" in out:
                raise Wrong(f"exit status 0, though an image could not be read: {out}")
            if process.returncode == 1 and not any(name in out + said for name in p.family.names):
                raise Wrong(f"no image is named: {said}")
            p.oracle(mtime_may_change=w.mtime_may_change)
            p.finish(killer.goals[w], "0", w.mtime_may_change, 3)
        except Wrong as e:
            fail_later(f"{w.name}, a child killed after {skip} others: {e}")
    return process.returncode if hit else None


# ---- the oracle can fail ----


def judge_the_oracle(killer):
    def must_be_wrong(what, spoil):
        with killer.place(WORKFLOWS[0]) as p:
            p.well(p.compact("--apply", keep=WEEK))
            p.oracle(WEEK)
            spoil(p)
            try:
                p.oracle(WEEK)
                p.finish(killer.goals[WORKFLOWS[0]], WEEK)
            except Wrong:
                return
            fail(f"the oracle does not notice {what}")

    def flip(p):
        path = os.path.join(p.root, "raw.raw")
        st = os.stat(path)
        with open(path, "r+b") as f:
            f.write(b"?")
        os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))

    def touch(path):
        with open(path, "wb"):
            pass

    must_be_wrong("another byte", flip)
    must_be_wrong("a missing image", lambda p: os.unlink(os.path.join(p.root, "vdi.vdi")))
    must_be_wrong("another mode", lambda p: os.chmod(os.path.join(p.root, "vdi.vdi"), 0o777))
    must_be_wrong("a lost label", lambda p: os.removexattr(os.path.join(p.root, "vhd.vhd"), "user.note"))
    must_be_wrong("a stray file", lambda p: touch(os.path.join(p.root, crash.WORKSHOP, "stray")))


# ---- all of it ----


def main():
    crash.require("mkfs.xfs", "mkfs.btrfs", "mke2fs")
    lib.exit_on_signals()
    tmp = lib.scratch("kill-points")
    with crash.memory_folder(tmp) as memory, lib.FileSystem("btrfs", memory, 700) as b, lib.FileSystem("xfs", memory, 700) as x, \
            lib.FileSystem("ext4", memory, 700) as e:
        family = Family(os.path.join(memory, "family"), Guests(memory))
        killer = Killer(memory, family, {"btrfs": b, "xfs": x, "ext4": e})
        for w in WORKFLOWS:
            killer.count(w)
        judge_the_oracle(killer)
        chosen = killer.choose()
        began = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(killer.one, w, point, n % (4 if LONG else 8) == 0) for n, (w, point) in enumerate(chosen)]
            rng = random.Random(crash.SEED)
            jobs += [pool.submit(killer.one, w, point, n % 8 == 0, 2 + n % 2 * LONG)
                     for n, (w, point) in enumerate(rng.choices([c for c in chosen if c[1].call != "close"], k=NR_NESTED))]
            for j in jobs:
                j.result()
                tell_and_end(pool)
        statuses = [kill_a_child(killer, n) for n in range(NR_CHILDREN)]
        if failures:
            fail("\n".join(failures))
        print(f"{killer.nr} kills ({sum(len(p) for p in killer.points.values())} points known), "
              f"{killer.nr_children} of them of a child, {killer.nr_missed} came too late, {killer.nr_finished} times finished; "
              f"{time.monotonic() - began:.0f} s; children killed: {statuses}")
        if killer.nr < len(chosen) * 3 // 4:
            fail("too few of the kills came to pass")
        if 1 not in statuses:
            fail("no child's death was noticed")


if __name__ == "__main__":
    sys.exit(main())
