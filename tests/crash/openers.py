#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 1800
"""Openers who come at any moment while `compact --apply` rewrites images (on btrfs: rebuilt, on XFS: VHD laid out anew): each
write that they made is at the path afterwards, and nothing else has changed.

Rows D3 (an open while the lease is held: it waits, not for long, and gets an intact file) and D4 (a write between scan and swap).
Openers write and close, stay for a while, write through a mapping that outlives its descriptor, do not wait, are slow between
finding the file and opening it, or are QEMU with and without its locks.  Some of the runs are made slow at the exchange, so that
more come in there."""

import collections
import mmap
import os
import random
import re
import subprocess
import sys
import threading
import time

import lib_crash as crash
from lib_crash import KIB, LONG, WORKSHOP, Guests, Wrong, fail, lib, run

NR_OPENERS = int(os.environ.get("CRASH_OPENERS") or (1000 if LONG else 150))
ROOTS = 12  # at a time
IMAGES = 6  # of each
FIRST, LAST = 68 * KIB, 190 * KIB  # data of the guest lies there in the files, in the old layout and the new
STAMP = 64
SLOWEST = 0.7  # seconds; an opener that is slower than the settling time is not noticed
WAIT_MAX = 10  # seconds; the aim is one
SLOW = ["strace", "--seccomp-bpf", "-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2,fsync,fcntl", "-e"]
DELAYS = (None, None, "renameat2:delay_enter=40000:delay_exit=40000", "fsync:delay_enter=4000", "fcntl:delay_exit=2000")


class Counts:
    def __init__(self):
        self.lock, self.of, self.longest = threading.Lock(), collections.Counter(), 0.0

    def add(self, what, waited=0.0):
        with self.lock:
            self.of[what] += 1
            self.longest = max(self.longest, waited)


counts = Counts()


# ---- those who open ----


class Image:
    """An image with what was written to it: {offset: (stamp, what was there before)}"""

    def __init__(self, path):
        self.path, self.stamps, self.lock = path, {}, threading.Lock()
        self.ino = os.stat(path).st_ino

    def place(self, rng):
        with self.lock:
            while True:
                at = rng.randrange(FIRST // 512, LAST // 512) * 512
                if at not in self.stamps:
                    self.stamps[at] = None
                    return at

    def wrote(self, at, stamp, before):
        self.stamps[at] = (stamp, before)


def stamp_of(rng):
    return b"stamp " + rng.randbytes(STAMP - 6)


def write(image, fd, rng):
    at, stamp = image.place(rng), stamp_of(rng)
    before = os.pread(fd, STAMP, at)
    if os.pwrite(fd, stamp, at) == STAMP:
        image.wrote(at, stamp, before)


def plain(image, fd, rng):
    write(image, fd, rng)


def patient(image, fd, rng):
    """Writes at once, and again after a while."""
    write(image, fd, rng)
    time.sleep(rng.random() * 1.5)
    write(image, fd, rng)


def late(image, fd, rng):
    time.sleep(rng.random() * 0.3)
    write(image, fd, rng)


def mapped(image, fd, rng):
    """The mapping outlives the descriptor."""
    m = mmap.mmap(fd, 0)
    os.close(fd)
    time.sleep(rng.random() * 0.5)
    at, stamp = image.place(rng), stamp_of(rng)
    before, m[at:at + STAMP] = m[at:at + STAMP], stamp
    image.wrote(at, stamp, before)
    m.close()


def by_descriptor(image, rng, use, flags=0):
    began = time.monotonic()
    while True:
        try:
            fd = os.open(image.path, os.O_RDWR | flags)
            break
        except BlockingIOError:
            counts.add("told to come again")
            time.sleep(0.01)
    waited = time.monotonic() - began
    counts.add("waited" if waited > 0.02 else "at once", waited)
    counts.add("got the original" if os.fstat(fd).st_ino == image.ino else "got the new file")
    use(image, fd, rng)
    if use is not mapped:
        os.close(fd)


def in_two_steps(image, rng):
    """As if it were slow between finding the file and opening it: what it finds may have left the path by then."""
    began = time.monotonic()
    found = os.open(image.path, os.O_PATH)
    time.sleep(rng.random() * 0.3)
    fd = os.open(f"/proc/self/fd/{found}", os.O_RDWR)
    os.close(found)
    if time.monotonic() - began < SLOWEST:
        write(image, fd, rng)
        counts.add("found and opened later")
    os.close(fd)


def by_qemu(image, rng, locking):
    """512 bytes of one value; raw as to QEMU, whatever it is."""
    at, value = image.place(rng), rng.randrange(1, 256)
    with open(image.path, "rb") as f:
        before = os.pread(f.fileno(), 512, at)
    done = subprocess.run(["qemu-io", "--image-opts",
                           f"driver=raw,file.driver=file,file.filename={image.path},file.locking={locking}",
                           "-c", f"write -P {value} {at} 512"], capture_output=True, check=False)
    if done.returncode == 0:
        image.wrote(at, bytes([value]) * 512, before)
        counts.add("QEMU wrote")
    else:
        counts.add("QEMU was refused")


OPENERS = [
    (6, lambda i, r: by_descriptor(i, r, plain)), (2, lambda i, r: by_descriptor(i, r, patient)),
    (3, lambda i, r: by_descriptor(i, r, late)),
    (2, lambda i, r: by_descriptor(i, r, mapped)), (2, lambda i, r: by_descriptor(i, r, plain, os.O_NONBLOCK)),
    (4, in_two_steps), (1, lambda i, r: by_qemu(i, r, "off")), (1, lambda i, r: by_qemu(i, r, "on")),
]


# ---- a run with openers ----


def make_family(folder, kind):
    """Images of the same data; each has zeros stored, or is to be laid out anew."""
    os.makedirs(folder)
    rng = random.Random(5)
    data = rng.randbytes(200 * KIB)
    raw = os.path.join(folder, "raw")
    with open(raw, "wb") as f:
        f.write(data + bytes(64 * KIB))
        f.truncate(512 * KIB)
    for i in range(IMAGES):
        if kind == "btrfs":
            crash.copy_file(raw, os.path.join(folder, f"i{i:02}.raw"))
        else:
            run("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "subformat=dynamic,force_size=on", raw,
                os.path.join(folder, f"i{i:02}.vhd"))
    os.unlink(raw)
    crash.dress(folder)


class Run:
    """One dedupscan at one root."""

    def __init__(self, place, rng, left):
        self.place, self.rng, self.left = place, rng, left
        self.images = {n: Image(os.path.join(place.root, n)) for n in place.family.names}
        self.threads, self.wrong = [], []
        delay = rng.choice(DELAYS)
        command = place.compact("--apply", "--no-scan", keep=rng.choice(["0", "7d"]))
        self.process = subprocess.Popen([*SLOW, f"inject={delay}", *command] if delay else command, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def under_way(self):
        """The image that the journal tells of last, and how many records there are."""
        try:
            with open(os.path.join(self.place.root, WORKSHOP, "journal"), "rb") as f:
                names = re.findall(rb"i\d\d\.(?:raw|vhd)", f.read())
        except FileNotFoundError:
            return None, 0
        return (names[-1].decode(), len(names)) if names else (None, 0)

    def opener(self, image, delay, rng):
        try:
            time.sleep(delay)
            rng.choices([o for _, o in OPENERS], [w for w, _ in OPENERS])[0](image, rng)
        except Exception as e:  # pylint: disable=broad-exception-caught
            self.wrong.append(f"an opener of {image.path} failed: {e!r}")

    def drive(self):
        last, name = None, None
        while self.process.poll() is None:
            name, _ = self.under_way()
            if name != last and name:  # another one is begun
                last = name
                for _ in range(self.rng.choice([0, 1, 1, 2, 2])):
                    if self.left.take():
                        delay = self.rng.random() * self.rng.choice([0.02, 0.05, 0.15, 1.2])
                        image = self.images[name if self.rng.random() < 0.85 else self.rng.choice(list(self.images))]
                        t = threading.Thread(target=self.opener, args=(image, delay, random.Random(self.rng.random())))
                        t.start()
                        self.threads.append(t)
            time.sleep(0.003)

    def end(self):
        self.out, self.said = self.process.communicate()
        for t in self.threads:
            t.join()
        try:
            self.judge()
        except Wrong as e:
            self.wrong.append(str(e))

    def judge(self):
        if self.process.returncode not in (0, 1):
            raise Wrong(f"exit status {self.process.returncode}: {self.said}")
        done = crash.traced(self.place.recover())
        if done.status not in (0, 1):
            raise Wrong(f"recover: {done}")
        for name, image in self.images.items():
            self.judge_image(name, image, self.said + done.said)
        if done.status == 0:
            crash.look_for_strays(self.place.family, self.place.root, None)

    def judge_image(self, name, image, said):
        now = crash.attributes(image.path)
        was = dict(self.place.family.attributes[name])
        if any(image.stamps.values()):
            was["mtime"] = now["mtime"]
        if now != was:
            raise Wrong(f"{name}: was {was}, is {now}")
        copy = self.place.root + ".copy" + os.path.splitext(name)[1]
        crash.copy_file(image.path, copy)
        with open(copy, "r+b") as f:
            for at, (stamp, before) in ((a, s) for a, s in image.stamps.items() if s):
                if os.pread(f.fileno(), len(stamp), at) == stamp:
                    os.pwrite(f.fileno(), before, at)
                    counts.add("stamps found")
                elif "both files are kept" in said and name in said:
                    counts.add("left to the user")
                    return
                else:
                    raise Wrong(f"{name}: what was written at {at} is not there")
        if self.place.family.guests.of(copy)[1] != self.place.family.guest[name]:
            raise Wrong(f"{name}: something else has changed, too")
        os.unlink(copy)
        counts.add("replaced" if os.stat(image.path).st_ino != image.ino else "left as it was")


class Left:
    def __init__(self, nr):
        self.nr, self.lock = nr, threading.Lock()

    def take(self):
        with self.lock:
            self.nr -= 1
            return self.nr >= 0


def one_round(rng, families, file_systems, memory, left):
    kinds = ["btrfs", "xfs"] * (ROOTS // 2)
    places = [crash.Place(families[k], file_systems[k], memory) for k in kinds]
    runs = []
    try:
        for p in places:
            p.__enter__()  # pylint: disable=unnecessary-dunder-call
            p.well(p.compact())
        runs = [Run(p, random.Random(rng.random()), left) for p in places]
        drivers = [threading.Thread(target=r.drive) for r in runs]
        for d in drivers:
            d.start()
        for d, r in zip(drivers, runs):
            d.join()
            r.end()
    finally:
        for p in places:
            p.__exit__()
    if wrong := [f"{k}: {w}" for k, r in zip(kinds, runs) for w in r.wrong]:
        fail("\n".join(wrong))


def main():
    crash.require("mkfs.xfs", "mkfs.btrfs")
    lib.exit_on_signals()
    tmp = lib.scratch("openers")
    rng, left, began = random.Random(crash.SEED), Left(NR_OPENERS), time.monotonic()
    with crash.memory_folder(tmp) as memory, lib.FileSystem("btrfs", memory, 700) as b, lib.FileSystem("xfs", memory, 700) as x:
        families = {}
        for kind in ("btrfs", "xfs"):
            make_family(os.path.join(memory, f"of-{kind}"), kind)
            families[kind] = crash.Family.of_folder(os.path.join(memory, f"of-{kind}"), Guests(memory))
        while left.nr > 0:
            one_round(rng, families, {"btrfs": b, "xfs": x}, memory, left)
    print(f"{NR_OPENERS} openers, {time.monotonic() - began:.0f} s, the longest waited {counts.longest:.2f} s: " +
          ", ".join(f"{k} {v}" for k, v in sorted(counts.of.items())))
    if counts.longest > WAIT_MAX:
        fail("an opener waited too long")
    for k in ("waited", "at once", "got the original", "got the new file", "replaced", "left as it was"):
        if not counts.of[k]:
            fail(f"none of them: {k}")
    if counts.of["left to the user"] > NR_OPENERS // 8:
        fail("too many are left to the user")


if __name__ == "__main__":
    sys.exit(main())
