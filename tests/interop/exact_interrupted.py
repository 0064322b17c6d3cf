#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
"""Scans interrupted at random moments, a hundred times (a thousand in check-long), end in the report of one that was not.

SIGKILL and SIGTERM come after a random time, or just after something showed in the catalog, so that all stages are met; some of
the rounds start from the catalog of an older state of the store, and in some the store goes on changing in between."""

import glob
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import brute
from lib_exact import (BLOCK, LONG, MIB, SETTLE, Maker, check_tidy, command, fail, fresh_tmp, lasting, must_be_exact, must_be_same,
                       report, require_tools)

SEED = int(os.environ.get("EXACT_SEED") or 1)
NR_INTERRUPTIONS = int(os.environ.get("EXACT_INTERRUPTIONS") or (1000 if LONG else 100))
LOST_MAX = 256 * MIB
STOP_MAX = 10  # seconds; the aim is 2, but the machine may be busy
EXIT_STOPPED = 75
rng = random.Random(SEED)
latencies = []


# ---- where a scan was when it ended ----

def stage(catalog, tmp):
    """Which stage a catalog was left in: copied first, for looking at a database mends it."""
    copy = os.path.join(tmp, "look")
    os.makedirs(copy, exist_ok=True)
    for name in glob.glob(os.path.join(catalog, "catalog.db*")):
        shutil.copy(name, copy)
    spool = os.listdir(os.path.join(catalog, "spool")) if os.path.isdir(os.path.join(catalog, "spool")) else []
    try:
        db = sqlite3.connect(os.path.join(copy, "catalog.db"))
        numbers = dict(db.execute("SELECT name, value FROM numbers"))
        nr_inputs = db.execute("SELECT count(*) FROM merge_inputs").fetchone()[0]
        db.close()
    except sqlite3.OperationalError:
        return "opening"
    finally:
        shutil.rmtree(copy)
    if numbers.get("merge_pending"):
        return "merging" if nr_inputs else "end of merge"
    if any(n.endswith(".req") for n in spool):
        return "reading, some images done"
    if any(n.endswith(".part") for n in spool):
        return "reading the first images"
    return "walking, counting or writing"


# ---- one interruption ----

TRIGGERS = ["catalog.db", "catalog.db-wal", "spool/*.part", "spool/*.req", "spool/*.req", "index/*", "index/*", "summary*"]


def wait_for(process, catalog, out, longest):
    """Until a random time is over, or a little after a file appeared in the catalog."""
    if rng.random() < 0.5:
        wait = rng.random() * longest
        deadline, pattern, after = time.monotonic() + wait, None, 0
    else:
        pattern = os.path.join(catalog, rng.choice(TRIGGERS)) if rng.random() < 0.9 else os.path.dirname(out) + "/*"
        deadline, after = time.monotonic() + 2 * longest, rng.choice([0, 0.001, 0.01, 0.05]) * rng.random()
    before = set(glob.glob(pattern)) if pattern else None
    while process.poll() is None and time.monotonic() < deadline:
        if pattern and set(glob.glob(pattern)) - before:
            time.sleep(after)
            return
        time.sleep(0.0005 if pattern else min(0.002, max(0, deadline - time.monotonic())))


def send(process, sig):
    try:
        if sig == signal.SIGKILL and rng.random() < 0.5:
            os.killpg(process.pid, sig)  # all at once; else the parent alone, and its workers have to notice
        else:
            os.kill(process.pid, sig)
    except ProcessLookupError:
        pass


def interrupted(args, catalog, out, longest):
    """Runs it and interrupts it; True if that came in time."""
    sig = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
    with open(out + ".err", "wb") as err:
        process = subprocess.Popen(args, stdout=err, stderr=err, start_new_session=True)
        wait_for(process, catalog, out, longest)
        sent = time.monotonic()
        send(process, sig)
        try:
            status = process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            fail("SIGTERM did not end it within a minute")
    if status == EXIT_STOPPED and sig == signal.SIGTERM:
        latencies.append(time.monotonic() - sent)
    elif status not in (0, 1, -sig):
        with open(out + ".err", encoding="utf-8", errors="replace") as f:
            fail(f"exit status {status} after signal {sig}: {f.read()}")
    return status not in (0, 1)


# What only the parent does, and how often at most.
CALLS = {"pwrite64": 600, "fdatasync": 160, "fsync": 6, "renameat": 60, "unlinkat": 60, "ftruncate": 6}


def killed_in_call(args, out):
    """Killed as it makes the n-th of some system call; True if it came to that."""
    name = rng.choice(list(CALLS))
    nth = rng.randrange(1, CALLS[name] + 1) if rng.random() < 0.5 else int(CALLS[name] ** rng.random())
    with open(out + ".err", "wb") as err:
        done = subprocess.run(["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={name}", "-e",
                               f"inject={name}:signal=KILL:when={nth}", *args], stdout=err, stderr=err, check=False, timeout=120)
    if done.returncode not in (0, 1, -signal.SIGKILL):
        with open(out + ".err", encoding="utf-8", errors="replace") as f:
            fail(f"exit status {done.returncode} after SIGKILL at {name} {nth}: {f.read()}")
    return done.returncode == -signal.SIGKILL


def check_output(out, allowed):
    """The report of an earlier run, or a whole new one."""
    if os.path.exists(out):
        with open(out, encoding="utf-8") as f:
            if lasting(json.load(f)) not in allowed:
                fail("an interrupted run left a report that is none")


# ---- rounds ----

class Rounds:
    def __init__(self, tmp):
        self.tmp = tmp
        self.folder = os.path.join(tmp, "store")
        self.catalog = os.path.join(tmp, "catalog")
        self.old = os.path.join(tmp, "old-catalog")
        os.mkdir(os.path.join(tmp, "out"))
        self.out = os.path.join(tmp, "out", "report.json")
        self.maker = Maker(self.folder, os.path.join(tmp, "work"), SEED)
        self.maker.make()
        self.store = brute.Store(self.folder, tmp, ["broken.qcow2"])
        self.stages = {}
        self.nr = self.nr_in_calls = 0
        self.strace = shutil.which("strace")
        time.sleep(SETTLE)
        report(self.folder, self.old)
        for _ in range(12):
            self.maker.change()
        self.settle()

    def settle(self):
        """The store as it is now, and what is to be said of it."""
        os.sync()
        time.sleep(SETTLE)  # else everything is read again each time, for its time stamps are too young
        self.want = self.fresh()
        must_be_exact(self.store.report(), self.want, "uninterrupted")

    def fresh(self):
        began = time.monotonic()
        r = report(self.folder, os.path.join(self.tmp, "fresh"))
        self.seconds = time.monotonic() - began
        shutil.rmtree(os.path.join(self.tmp, "fresh"))
        return r

    def round(self, kind):
        shutil.rmtree(self.catalog, ignore_errors=True)
        if kind != "new":
            shutil.copytree(self.old, self.catalog)
        if os.path.exists(self.out):
            os.unlink(self.out)
        slow = rng.random() < 0.4
        limit = ["--limit", f"{rng.choice([150, 300])}M"] if slow else []
        seconds = max(0.15, self.seconds * (2 if slow else 1))
        for _ in range(rng.randrange(5, 16)):
            memory, jobs = rng.choice(["35M", "4G"]), rng.choice([1, 2])
            args = command("report", self.folder, self.catalog, memory, jobs, [*limit, f"--json={self.out}"])
            in_call = self.strace and rng.random() < 0.5
            if killed_in_call(args, self.out) if in_call else interrupted(args, self.catalog, self.out, seconds):
                self.nr += 1
                self.nr_in_calls += in_call
                where = stage(self.catalog, self.tmp)
                self.stages[where] = self.stages.get(where, 0) + 1
            if kind == "changing":
                self.maker.change()
            elif kind == "changing extents":  # the image's own file stays as it is
                rng.choice([self.maker.change_extent, self.maker.change_extent, self.maker.change_swap_extents])()
            else:
                check_output(self.out, [lasting(self.want)])
        self.finish(kind)

    def finish(self, kind):
        what = f"seed {SEED}, a {kind} catalog, {self.nr} interruptions so far"
        changing = kind.startswith("changing")
        if changing:
            os.sync()
        got = report(self.folder, self.catalog, rng.choice(["35M", "4G"]), rng.choice([1, 2]))
        if changing:
            must_be_exact(self.store.report(), got, what)
            time.sleep(SETTLE)
            report(self.folder, self.catalog)
            self.settle()
            got = report(self.folder, self.catalog)
        must_be_same(self.want, got, f"{what}: the report is not that of an uninterrupted scan")
        must_be_exact(self.store.report(), got, what)
        check_tidy(self.catalog)
        again = report(self.folder, self.catalog, more=("--no-scan",))
        again["totals"]["nr_not_images"] = got["totals"]["nr_not_images"]
        must_be_same(self.want, again, f"{what}: --no-scan")

    def run(self):
        began = time.monotonic()
        while self.nr < NR_INTERRUPTIONS or self.nr < 2 * NR_INTERRUPTIONS and not self.stages.get("merging"):
            for kind in ("new", "old", "changing", "changing extents"):
                self.round(kind)
        print(f"{self.nr} interruptions, {self.nr_in_calls} of them at a system call ({time.monotonic() - began:.1f} s), found in: " +
              ", ".join(f"{k} {v}" for k, v in sorted(self.stages.items())), flush=True)
        for k in ("merging", "reading, some images done", "walking, counting or writing"):
            if not self.stages.get(k):
                fail(f"no interruption came while {k}")


# ---- a large image ----

def make_large(path, size, salt):
    piece = bytearray(rng.randbytes(MIB))
    with open(path, "wb") as f:
        for at in range(0, size, MIB):
            for i in range(0, MIB, BLOCK):
                piece[i:i + 12] = salt + (at + i).to_bytes(8, "little")
            f.write(piece)


def workers(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return f.read().split()


def bytes_read(pid, seen):
    """By the worker processes; seen keeps what those had read that are gone."""
    try:
        for w in workers(pid):
            with open(f"/proc/{w}/io", encoding="ascii") as f:
                seen[w] = int(f.readline().split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return sum(seen.values())


def read_until(args, size):
    """Kills it after so many bytes, or waits for its end; how many it has read."""
    seen = {}
    process = subprocess.Popen(args, stdout=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None:
        if bytes_read(process.pid, seen) >= size:
            os.killpg(process.pid, signal.SIGSTOP)
            time.sleep(0.02)
            bytes_read(process.pid, seen)
            os.kill(process.pid, signal.SIGKILL)
            os.killpg(process.pid, signal.SIGCONT)
            break
        time.sleep(0.002)
    if process.wait() not in (0, -signal.SIGKILL):
        fail(f"exit status {process.returncode}")
    deadline = time.monotonic() + STOP_MAX
    while any(os.path.exists(f"/proc/{w}/io") for w in seen):
        if time.monotonic() > deadline:
            fail("a worker outlives its parent")
        time.sleep(0.01)
    return sum(seen.values())


def check_lost(tmp):
    """1.5 GiB in two images, killed somewhere in the middle."""
    folder, catalog = os.path.join(tmp, "large"), os.path.join(tmp, "large-catalog")
    size, total = 768 * MIB, 1536 * MIB
    os.mkdir(folder)
    for i in range(2):
        make_large(os.path.join(folder, f"{i}.raw"), size, bytes([i]) * 4)
    os.sync()
    time.sleep(SETTLE)
    want = None
    for jobs in (1, 2):
        for _ in range(6 if LONG else 2):
            shutil.rmtree(catalog, ignore_errors=True)
            args = command("report", folder, catalog, "35M", jobs, ("--limit", "1G", "--json=/dev/null"))
            first = read_until(args, int(total * rng.uniform(0.25, 0.9)))
            second = read_until(args, 1 << 60)
            lost = first + second - total
            print(f"--jobs {jobs}: killed after {first / MIB:.0f} MiB, then read {second / MIB:.0f}: {lost / MIB:.0f} MiB twice",
                  flush=True)
            if first < total / 5 or second < total / 20 or lost < -16 * MIB:
                fail("it was not killed in the middle, or its reading not seen")
            if lost > LOST_MAX:
                fail(f"{lost} bytes were read again, more than {LOST_MAX}")
            got = report(folder, catalog, more=("--no-scan",))
            if got["totals"]["distinct"] != total or got["totals"]["stored"] != total:
                fail(f"the report is wrong: {got['totals']}")
            must_be_same(want or got, got, "the reports of two scans differ")
            want = got
    return folder


def check_stop(folder, tmp):
    """SIGTERM at any point of a longer scan; each time the next run goes on."""
    catalog = os.path.join(tmp, "stop-catalog")
    args = command("report", folder, catalog, "35M", 2, ("--json=/dev/null",))
    done = []
    longest = 1.0
    while len(done) < (60 if LONG else 20):
        process = subprocess.Popen(args, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        began = time.monotonic()
        time.sleep(0.02 + rng.random() * longest)
        sent = time.monotonic()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        status = process.wait()
        if status == EXIT_STOPPED:
            done.append(time.monotonic() - sent)
        elif status == 0:
            longest = max(0.2, time.monotonic() - began)
            shutil.rmtree(catalog)
        else:
            fail(f"exit status {status} after SIGTERM")
    got = report(folder, catalog, want=(0,))
    if got["totals"]["distinct"] != 1536 * MIB:
        fail(f"after {len(done)} stops the report is wrong: {got['totals']}")
    return done


def tell_latencies(what, seconds):
    seconds = sorted(seconds)
    print(f"{what}: {len(seconds)} SIGTERMs answered, half of them within {seconds[len(seconds) // 2] * 1000:.0f} ms, "
          f"the slowest in {seconds[-1] * 1000:.0f} ms", flush=True)
    if seconds[-1] > STOP_MAX:
        fail(f"SIGTERM took {seconds[-1]:.1f} s")


def main():
    require_tools("qemu-img", "qemu-io")
    tmp = fresh_tmp()
    Rounds(tmp).run()
    tell_latencies("small images", latencies)
    folder = check_lost(tmp)
    tell_latencies("large images", check_stop(folder, tmp))
    shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
