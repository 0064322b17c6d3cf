#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 400
"""SIGKILL at the system calls by which `restore` changes something; also where they fail.

The oracle: FILE is not there, or is whole; what was there before is there; the same command then comes to its end, and leaves
nothing else; but where the files of one image are given their names one after the other some of these may be there without FILE,
and the command says so."""

import os
import random
import shutil
import subprocess
import sys

import lib_crash as crash
from lib_crash import CHANGING, DEDUPSCAN, KIB, KILLED, MIB, Wrong, fail, lib, run, traced

ERRORS = {"pwrite64": "ENOSPC", "ftruncate": "EIO", "fdatasync": "EIO", "fsync": "EIO", "renameat2": "EIO", "openat": "ENOSPC"}
KINDS = {"qcow2": ["new.qcow2"], "zlib": ["new.qcow2"], "streamOptimized": ["new.vmdk"],
         "monolithicFlat": ["new-flat.vmdk", "new.vmdk"], "twoGbMaxExtentSparse": ["new-s001.vmdk", "new.vmdk"]}


class Restore:
    """kind, and the files that are there in the end, FILE last."""

    def __init__(self, tmp, kind, names):
        self.folder, self.names = os.path.join(tmp, "new"), names
        self.file = os.path.join(self.folder, names[-1])
        self.raw = os.path.join(tmp, "a.raw")
        kinds = [] if kind == "qcow2" else ["--kind", kind]
        self.command = [DEDUPSCAN, "restore", *kinds, os.path.join(tmp, "store/a.qcow2"), self.file]

    def begin(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        with open(os.path.join(self.folder, "other.vmdk"), "w", encoding="ascii") as f:
            f.write("not ours")

    def there(self):
        return sorted(os.listdir(self.folder))

    def look(self):
        if "other.vmdk" not in self.there():
            raise Wrong("a file of others is gone")
        if os.path.exists(self.file):
            done = subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", lib.format_of(self.file), self.raw, self.file],
                                  capture_output=True, check=False)
            if done.returncode:
                raise Wrong(f"it is there, but not whole: {done.stderr.decode()}")

    def oracle(self, failed=False):
        self.look()
        if failed and self.there() != ["other.vmdk"]:
            raise Wrong(f"after a failure there are {self.there()}")
        part = [n for n in self.names[:-1] if n in self.there()]
        whole = os.path.exists(self.file)
        done = traced(self.command)
        if done.status != (2 if whole or part else 0):
            raise Wrong(f"run again: {done}; there were {part}")
        self.look()
        if done.status == 0 and self.there() != sorted([*self.names, "other.vmdk"]):
            raise Wrong(f"in the end there are {self.there()}")
        if part and not whole and part[0] not in done.said:
            raise Wrong(f"it does not say what is in its way: {done}")
        return bool(part and not whole)


def make_store(tmp):
    rng = random.Random(crash.SEED)
    raw, store = os.path.join(tmp, "a.raw"), os.path.join(tmp, "store")
    os.makedirs(store)
    with open(raw, "wb") as f:
        f.write(rng.randbytes(900 * KIB) + bytes(MIB) + b"text " * 40000)
        f.truncate(7 * MIB)
    for name in "ab":
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, os.path.join(store, name + ".qcow2"))
    run(DEDUPSCAN, "compact", "--no-idle", "--catalog", os.path.join(tmp, "catalog"), "--method", "pool", "--keep-originals", "0",
        "--apply", store)


def points_of(r, tmp):
    log = os.path.join(tmp, "log")
    r.begin()
    done = traced(r.command, log=log, calls=CHANGING)
    if done.status:
        fail(f"not interrupted: {done}")
    if r.there() != sorted([*r.names, "other.vmdk"]):
        fail(f"not interrupted, there are {r.there()}")
    r.look()
    return crash.points_of(log, r.folder)


def judge_the_oracle(r):
    r.begin()
    with open(r.file, "wb") as f:
        f.truncate(7 * MIB)
    try:
        r.oracle()
    except Wrong:
        return
    fail("the oracle takes a wrong image")


def main():
    crash.require()
    tmp = lib.scratch("restore-kills")
    make_store(tmp)
    judge_the_oracle(Restore(tmp, "qcow2", KINDS["qcow2"]))
    kills = errors = between = 0
    for kind, names in KINDS.items():
        r = Restore(tmp, kind, names)
        points = points_of(r, tmp)
        if len(points) < 8:
            fail(f"{kind}: only {len(points)} calls were seen: {[str(p) for p in points]}")
        for p in points:
            for inject in ("signal=KILL", f"error={ERRORS.get(p.call)}"):
                if inject.endswith("None"):
                    continue
                r.begin()
                done = traced(r.command, [f"{p.call}:{inject}:when={p.nth}"])
                killed = done.status in KILLED
                if done.status not in (0, 3, 4, *KILLED):
                    fail(f"{kind}, {inject} at {p}: {done}")
                kills += killed
                errors += not killed and done.status != 0
                try:
                    between += r.oracle(not killed and done.status != 0)
                except Wrong as why:
                    fail(f"{kind}, {inject} at {p}: {why}")
    print(f"{kills} kills, {errors} errors, {between} between two names")
    if kills < 30 or errors < 20:
        fail("too few came to pass")


if __name__ == "__main__":
    sys.exit(main())
