#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How soon compaction stops when it is told to."""

import contextlib
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
SIGTERM at a random moment of `dedupscan compact --apply`, and the time until it has ended.  Each round aims at one phase and goes
on from where the last one stopped; when a phase finds nothing to do, some images are replaced by copies that share nothing.  A
round counts where its signal met the program.  On XFS.
"""
GUEST_MIB = max(IMAGE_MIB // 16, 16)
NR = RUNS * 143  # 1001
POLL = 0.002

SCAN, PLAN, REFLINK, REWRITE, SETTLE = PHASES = ("scan", "plan", "apply-reflink", "apply-rewrite", "settle")
SHARES = dict(zip(PHASES, (25, 25, 25, 15, 10)))  # of all rounds, per cent
REWRITTEN = (".vhd", ".vdi")


class Told:
    """A compaction that is asked (SIGUSR1) where it is, over and over."""

    def __init__(self, command, workshop):
        self.workshop, self.stage, self.rest, self.said = workshop, "", "", []
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        os.set_blocking(self.process.stderr.fileno(), False)

    def hear(self):
        lines = (self.rest + (self.process.stderr.read() or b"").decode("utf-8", "replace")).split("\n")
        self.rest = lines.pop()
        for line in lines:
            if line.startswith("dedupscan: "):
                self.said.append(line)
            else:
                self.stage = line.split(" (")[0]

    def rewrites(self):
        """There is a new file, or an original that is to go."""
        with contextlib.suppress(FileNotFoundError):
            return any(name.endswith(".new") for name in os.listdir(self.workshop))
        return False

    def sleeps(self):
        """Nothing but settling does while it works."""
        with contextlib.suppress(OSError), open(f"/proc/{self.process.pid}/wchan", encoding="ascii") as f:
            return "nanosleep" in f.read()
        return False

    def phase(self):
        sleeps = self.sleeps()
        self.process.send_signal(signal.SIGUSR1)  # which wakes it up
        self.hear()
        first = self.stage.split(" ")[0]
        if self.rewrites() and (sleeps or first != "reflink"):
            return SETTLE if sleeps else REWRITE
        return REFLINK if first in ("reflink", "relayout") else PLAN if first in ("looking", "comparing") else SCAN

    def ended(self):
        return self.process.poll() is not None

    def stop(self):
        """Seconds until it has ended."""
        self.process.send_signal(signal.SIGTERM)
        began = time.perf_counter()
        self.process.wait()
        took = time.perf_counter() - began
        self.hear()
        return took


class Stops:
    def __init__(self, store, fs):
        self.store, self.fs = store, fs
        self.names = [os.path.relpath(p, store) for p in lib.images_of(store)]
        self.rng = random.Random(1)
        self.span = dict.fromkeys(PHASES, 0)  # seconds that a phase takes
        self.times = {phase: [] for phase in PHASES}
        self.nr = self.late = 0

    def start(self, aim=None):
        methods = {REFLINK: ("--method", "reflink"), REWRITE: ("--method", "relayout"), SETTLE: ("--method", "relayout")}
        command = lib.compact_command(self.fs.path, path("catalog"), "--apply", *methods.get(aim, ()))
        return Told(command, os.path.join(self.fs.path, lib.WORKSHOP))

    def learn(self):
        """How long each phase is when all is to be done."""
        told, last, began = self.start(), SCAN, time.perf_counter()
        while not told.ended():
            now, phase = time.perf_counter(), told.phase()
            self.span[last] = max(self.span[last], now - began)
            if phase != last:
                last, began = phase, now
            time.sleep(POLL)
        if told.process.returncode:
            sys.exit("\n".join(told.said))
        print("seconds that each phase took at most: " + ", ".join(f"{name} {span:.2f}" for name, span in self.span.items()) + "\n")

    def make_work(self, aim):
        """Copies that share nothing and are not known."""
        rewritten = [n for n in self.names if n.endswith(REWRITTEN)]
        names = rewritten if aim in (REWRITE, SETTLE) else self.rng.sample(self.names, 4)
        for name in names:
            source, to = os.path.join(self.store, name), os.path.join(self.fs.path, name)
            lib.run("cp", "-a", "--reflink=never", "--sparse=always", source, to)

    def reach(self, told, aim):
        """The phase that it is in at a moment that lies by chance in the one aimed at; None = it has ended."""
        due, phase, began = None, None, 0
        while not told.ended():
            now, phase = time.perf_counter(), told.phase()
            if due is None and phase == aim:
                began, due = now, now + self.rng.random() * self.span[aim]
            if due is not None and now >= due:
                break
            time.sleep(POLL)
        if due is not None:
            over = told.ended() or phase != aim
            self.span[aim] = min(self.span[aim], now - began) if over else 1.05 * self.span[aim]
        return None if told.ended() else phase

    def round(self, aim):
        if aim == SCAN and self.rng.random() < 0.5:
            self.make_work(aim)
        told = self.start(aim)
        try:
            phase = self.reach(told, aim)
            took = told.stop()
        finally:
            told.process.kill()
            told.process.wait()
        status = told.process.returncode
        if status not in (0, lib.STOPPED, -signal.SIGTERM):
            sys.exit("\n".join(told.said))
        if phase and (status == lib.STOPPED or (status == 0 and phase == SETTLE)):  # nothing is left to do after settling
            self.times[phase].append(took)
            self.nr += 1
        else:  # it had ended, or not begun
            self.late += 1
            self.make_work(aim)

    def show(self):
        rows = []
        for name, times in [*self.times.items(), ("all", sum(self.times.values(), []))]:
            times = sorted(times)
            figures = [f"{times[i]:.3f}" for i in (len(times) // 2, len(times) * 99 // 100, -1)] if times else ["-"] * 3
            rows.append([name, len(times), *figures])
        rows[-1].append("goal: p99 at most 2")
        table(["stopped in", "stops", "median s", "p99 s", "most s", ""], rows)
        print(f"{self.late} rounds more ended by themselves, or had not begun.")


def run():
    why = lib.lacking("qemu-img", "qemu-io", "mke2fs", "sfdisk", "mkfs.xfs")
    if why:
        print(why)
        return
    lib.exit_on_signals()
    lib.mounts_of_its_own()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # inherited: it must not end a program that has only just begun
    store = lib.Store(path("store"), folder("work"), GUEST_MIB).make().folder
    with lib.file_system_with("xfs", measure.scratch, store, 1600) as fs:
        stops = Stops(store, fs)
        stops.learn()
        aims = list(SHARES)
        try:
            while stops.nr < NR and stops.late < NR:
                stops.round(stops.rng.choices(aims, SHARES.values())[0])
        finally:
            stops.show()


if __name__ == "__main__":
    measure.main("Stopping", ABOUT, run)
