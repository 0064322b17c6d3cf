#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 1800
"""Openers who come at any moment while an image in a pool is sealed or rolled back: each write that one made is seen afterwards, at
the path, or, of a rollback, in the version that is kept of what was.

They are QEMU, with its locks and without, and such as found the file before and open it late, when it may lie among the sealed
ones.  Some of the commands are made slow at the exchange or the syncs, so that more come in there."""

import os
import random
import shutil
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
from lib_immutable import temporary_directory  # noqa: E402 pylint: disable=wrong-import-position

KIB, MIB = 1 << 10, 1 << 20
SIZE = 16 * MIB
BUILD = os.path.abspath(os.environ.get("BUILD") or "build")
POOLTOOL, TOOL = f"{BUILD}/tests/interop/pooltool", f"{BUILD}/tests/interop/versiontool"
NR_OPENERS = int(os.environ.get("CRASH_OPENERS") or (1000 if os.environ.get("LONG") else 60))
DELAYS = (None, "renameat2:delay_enter=20000:delay_exit=20000", "fsync:delay_enter=10000", "fcntl:delay_exit=3000")


def fail(text):
    print(text, file=sys.stderr)
    sys.exit(1)


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=300)
    if done.returncode:
        fail(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout.decode('utf-8', 'replace')}")
    return done.stdout.decode("utf-8", "replace")


class Round:
    """One image, one command, and those who come meanwhile."""

    def __init__(self, top, verb, rng):
        self.top, self.verb, self.rng, self.pool, self.image = top, verb, rng, f"{top}/.dedupscan-pool", f"{top}/a.qcow2"
        self.wrote, self.lock, self.late = {}, threading.Lock(), 0
        with open(f"{top}/raw", "wb") as f:
            f.write(rng.randbytes(MIB))
            f.truncate(SIZE)
        run(POOLTOOL, "create", self.pool)
        root = run(POOLTOOL, "import", self.pool, f"{top}/raw").split('"root": "')[1][:64]
        view = run(POOLTOOL, "view", self.pool, root, str(SIZE), "12").strip()
        run(POOLTOOL, "overlay", self.pool, view, self.image)
        run(TOOL, "member", self.pool, self.image)
        self.write(self.image, 0, 1)
        if verb == "rollback":
            run(TOOL, "snapshot", self.pool, "v", self.image)
            self.write(self.image, 64 * KIB, 2)

    @staticmethod
    def write(file, at, value, locking="on"):
        """True if that was done."""
        options = f"driver=qcow2,file.driver=file,file.filename={file},file.locking={locking}"
        return subprocess.run(["qemu-io", "--image-opts", options, "-c", f"write -P {value} {at} 512"], capture_output=True,
                              check=False).returncode == 0

    def opener(self, i, delay, kind):
        at, value = MIB + i * 128 * KIB, 1 + i % 250
        if kind == "late":
            found = os.open(self.image, os.O_PATH)
            time.sleep(delay)
            done = self.write(f"/proc/{os.getpid()}/fd/{found}", at, value)
            self.late += "/sealed/" in os.readlink(f"/proc/self/fd/{found}")
            os.close(found)
        else:
            time.sleep(delay)
            done = self.write(self.image, at, value, kind)
        if done:
            with self.lock:
                self.wrote[at] = value

    def drive(self, nr):
        delay = self.rng.choice(DELAYS)
        slow = []
        if delay:
            slow = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={delay.split(':')[0]}", "-e", f"inject={delay}"]
        args = ["s", self.image] if self.verb == "snapshot" else [self.image, "v"]
        # One after the other, as QEMU's locks let no two write; each at any moment of the command.
        threads = [threading.Thread(target=self.opener,
                                    args=(i, self.rng.random() * 0.15, self.rng.choice(("on", "off", "late", "late"))))
                   for i in range(nr)]
        command = subprocess.Popen([*slow, TOOL, self.verb, self.pool, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for t in threads:
            t.start()
            t.join()
        said = command.communicate(timeout=120)[0].decode("utf-8", "replace")
        return command.returncode == 0, said

    def says(self, file):
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", file, f"{self.top}/said")
        with open(f"{self.top}/said", "rb") as f:
            return f.read()

    def judge(self, said):
        run(TOOL, "recover", self.pool)
        seen = [self.says(self.image)]
        if self.verb == "rollback":  # what was is kept, whatever became of it
            seen += [self.says(f"{self.pool}/sealed/{n}") for n in os.listdir(f"{self.pool}/sealed")]
        for at, value in self.wrote.items():
            if not any(s[at:at + 512] == bytes([value]) * 512 for s in seen):
                fail(f"{self.verb}: what was written at {at} is not seen; it said: {said}")
        if self.verb == "snapshot" and seen[0][:512] != b"\1" * 512:
            fail("snapshot: the image lost what it held")


def main():
    for needed in ("qemu-img", "qemu-io", "strace"):
        if not shutil.which(needed):
            print(f"needs {needed}")
            sys.exit(77)
    rng, left, done, written, late = random.Random(int(os.environ.get("SEED") or 1)), NR_OPENERS, 0, 0, 0
    while left > 0:
        with temporary_directory(dir=os.environ.get("TMP")) as top:
            r = Round(os.path.realpath(top), rng.choice(("snapshot", "snapshot", "rollback")), rng)
            nr = min(rng.randrange(1, 4), left)
            well, said = r.drive(nr)
            r.judge(said)
            left, done, written, late = left - nr, done + well, written + len(r.wrote), late + r.late
    print(f"{NR_OPENERS} openers: {written} wrote, {late} of them to what was sealed; {done} commands were done beside them")
    if not written or not done or not late:
        fail("nobody wrote, or nobody to what was sealed, or nothing was done")


main()
