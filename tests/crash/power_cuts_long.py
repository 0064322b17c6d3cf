#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 1800
"""Row A5: power cuts on XFS, btrfs and ext4.  The disk logs what is written to it and when it is flushed (nbdkit, nbdfuse and a
loop device); from the log comes the disk as it was when power went off at some write: what was flushed before is there, and of the
rest whatever may be: all of it, nothing, some of the writes, the last one torn.  That is mounted, and passes the oracle."""

import contextlib
import os
import random
import shutil
import struct
import subprocess
import sys
import time

import lib_crash as crash
from kill_points import WEEK, Compact
from lib_crash import Family, Guests, Place, Wrong, fail, lib, run

NR_CUTS = int(os.environ.get("CRASH_CUTS") or 300)
PLUGIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib_nbd_log.py")
FS_MIB = 340
SECTOR = {"xfs": 512, "ext4": 512, "btrfs": 4096}  # that they reckon with; the super block of btrfs must not be torn


class Undone(Compact):
    """Compacted, and everything undone."""


WORKFLOWS = [Compact("xfs"), Compact("btrfs"), Compact("ext4"), Undone("xfs", WEEK), Undone("btrfs", WEEK), Undone("ext4", WEEK)]


def commands(w, p):
    yield p.compact("--apply", keep=w.keep)
    if isinstance(w, Undone):
        yield p.recover("--undo")
    elif w.keep != "0":
        yield p.recover("--purge")


# ---- recording ----


@contextlib.contextmanager
def logged_disk(disk, log, memory):
    """A loop device over the disk, whose writes are logged."""
    at = os.path.join(memory, "nbd")
    os.makedirs(at, exist_ok=True)
    server = subprocess.Popen(["nbdfuse", os.path.join(at, "disk"), "--command", "nbdkit", "-s", "--exit-with-parent", "python",
                               PLUGIN,
                               f"disk={disk}", f"log={log}"])
    try:
        deadline = time.monotonic() + 10
        while not os.path.exists(os.path.join(at, "disk")):
            if server.poll() is not None or time.monotonic() > deadline:
                lib.skip("nbdfuse does not work here")
            time.sleep(0.02)
        device = run("losetup", "-f", "--show", os.path.join(at, "disk")).decode().strip()
        try:
            yield device
        finally:
            run("losetup", "-d", device)
            time.sleep(0.2)
    finally:
        subprocess.run(["fusermount3", "-u", at], check=False)
        server.wait(timeout=20)


def record(w, place, fs, memory):
    """The place is on the file system, which is not mounted; returns what was written, in order: (offset, bytes), or None for a
    flush."""
    disk, log = os.path.join(memory, "disk"), os.path.join(memory, "writes")
    copy_sparse(fs.file, disk)
    if os.path.exists(log):
        os.unlink(log)
    with logged_disk(disk, log, memory) as device:
        run("mount", "-t", fs.kind, device, fs.path)
        try:
            for command in commands(w, place):
                place.well(command)
            crash.look_at_images(place.family, place.root, w.mtime_may_change)
        finally:
            run("umount", fs.path)
    os.unlink(disk)
    return read_log(log)


def read_log(log):
    events = []
    with open(log, "rb") as f:
        while kind := f.read(1):
            if kind == b"F":
                events.append(None)
            else:
                offset, length = struct.unpack("<QI", f.read(12))
                events.append((offset, f.read(length)))
    return events


# ---- cutting ----


def copy_sparse(path, to):
    run("cp", "--sparse=always", path, to)


def write_all(f, writes):
    for offset, data in writes:
        os.pwrite(f.fileno(), data, offset)


def survivors(rng, pending, sector):
    """Of the writes that were not flushed, those that reached the disk.  A sector is whole or not there."""
    how = rng.choice(["all", "none", "some", "some", "few", "but one", "torn"])
    if how == "none":
        return how, []
    if how in ("some", "few"):
        return how, [w for w in pending if rng.random() < (0.5 if how == "some" else 0.1)]
    if how == "but one" and pending:
        gone = rng.randrange(len(pending))
        return how, pending[:gone] + pending[gone + 1:]
    if how == "torn" and pending:
        offset, data = pending[-1]
        return how, pending[:-1] + [(offset, data[:rng.randrange(len(data) // sector + 1) * sector])]
    return how, pending


def wrong_after(w, place, fs, finish):
    """Mounts what is left, and asks the oracle; None, or what is wrong."""
    more = ["-o", "loop,nouuid" if fs.kind == "xfs" else "loop"]
    done = subprocess.run(["mount", "-t", fs.kind, *more, fs.file, fs.path], capture_output=True, check=False)
    if done.returncode:
        return f"cannot be mounted: {done.stderr.decode('utf-8', 'replace')}"
    try:
        place.oracle(w.keep, w.mtime_may_change)
        if finish:
            place.finish(None, w.keep, w.mtime_may_change)
    except (Wrong, OSError) as e:
        return str(e)
    finally:
        subprocess.run(["umount", fs.path], check=False)
    return None


def cut_everywhere(rng, w, place, fs, events, nr):
    """nr times; at each the file system is what was flushed before, and some of the rest."""
    durable = fs.file + ".durable"
    shutil.move(fs.file, durable)
    where = sorted(rng.choices([i for i, e in enumerate(events) if e], k=nr))
    pending, done = [], 0
    with open(durable, "r+b") as f:
        for i, event in enumerate(events):
            if event is None:
                write_all(f, pending)
                pending = []
                continue
            pending.append(event)
            while done < len(where) and where[done] == i:
                how, writes = survivors(rng, pending, SECTOR[w.kind])
                copy_sparse(durable, fs.file)
                with open(fs.file, "r+b") as cut:
                    write_all(cut, writes)
                if wrong := wrong_after(w, place, fs, done % 5 == 0):
                    fail(f"{w.name}, cut at write {i} of {len(events)}, {how} of the last {len(pending)} are there: {wrong}")
                done += 1
    os.unlink(durable)


def judge_the_cut(rng, w, place, fs, events):
    """A disk that loses what was flushed is noticed."""
    base = fs.file + ".base"
    copy_sparse(fs.file, base)
    nr_wrong = 0
    for _ in range(8):
        copy_sparse(base, fs.file)
        lost = rng.randrange(len(events) // 2)
        with open(fs.file, "r+b") as f:
            write_all(f, [e for i, e in enumerate(events) if e and not lost <= i < lost + len(events) // 4])
        nr_wrong += wrong_after(w, place, fs, False) is not None
    shutil.move(base, fs.file)
    if not nr_wrong:
        fail(f"{w.name}: no disk that loses what was flushed is noticed")


def main():
    crash.require("mkfs.xfs", "mkfs.btrfs", "mke2fs", "nbdkit", "nbdfuse", "fusermount3")
    lib.exit_on_signals()
    tmp = lib.scratch("power-cuts")
    lib.FileSystem.MAKE = dict(lib.FileSystem.MAKE, ext4=("mke2fs", "-q", "-F", "-t", "ext4"))  # with a journal
    rng, began = random.Random(crash.SEED), time.monotonic()
    with crash.memory_folder(tmp) as memory:
        family = Family(os.path.join(memory, "family"), Guests(memory))
        for w in WORKFLOWS:
            with lib.FileSystem(w.kind, memory, FS_MIB) as fs, Place(family, fs, memory) as place:
                fs.unmount()
                events = record(w, place, fs, memory)
                nr_flushes = events.count(None)
                if nr_flushes < 10:
                    fail(f"{w.name}: only {nr_flushes} flushes were seen")
                judge_the_cut(rng, w, place, fs, events)
                cut_everywhere(rng, w, place, fs, events, NR_CUTS // len(WORKFLOWS))
                print(f"{w.name}: {len(events) - nr_flushes} writes, {nr_flushes} flushes; {time.monotonic() - began:.0f} s",
                      flush=True)
                fs.mount()


if __name__ == "__main__":
    sys.exit(main())
