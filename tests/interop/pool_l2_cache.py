#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""compact --l2-cache: QEMU keeps as much of a view's tables in memory, and no more; it reads the same bytes.  Whatever writes a
stub again leaves that as it was.  The control is a pool without: there it keeps what it likes."""

import json
import os
import random
import subprocess
import sys

import lib_compact as lib
from lib_compact import DEDUPSCAN, KIB, MIB, fail, run

NR_TABLES = 512  # of 4 KiB, for 2 MiB of the disk each
SIZE = NR_TABLES * 2 * MIB
CACHE = MIB  # half of them: the least recently used one is always the next one
ROUNDS = 8


def make_disk(path):
    rng = random.Random(2)
    with open(path, "wb") as f:
        f.truncate(SIZE)
        for at in range(0, SIZE, 2 * MIB):
            f.seek(at)
            f.write(rng.randbytes(4 * KIB))


def dedupscan(*args, status=0):
    done = subprocess.run([DEDUPSCAN, *args], capture_output=True, text=True, check=False)
    if done.returncode != status:
        fail(f"dedupscan {' '.join(args)}: status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def compacted(tmp, name, *more):
    """A folder with a pool and an image on it.  (Of two: what nobody shares stays what it is.)"""
    folder = os.path.join(tmp, name)
    os.mkdir(folder)
    for image in ("a.raw", "b.raw"):
        run("cp", "--sparse=always", os.path.join(tmp, "disk.raw"), os.path.join(folder, image))
    dedupscan("compact", "--no-idle", "--catalog", os.path.join(tmp, name + ".catalog"), "--method", "pool", "--to-qcow2",
              "--min-run", "4K", "--keep-originals", "0", "--immutable", "never", *more, "--apply", folder)
    return folder


def backing(path):
    name = json.loads(run("qemu-img", "info", "-U", "--output=json", path)).get("backing-filename", "")
    if not name.startswith("json:"):
        fail(f"{path} stands on '{name}'")
    return json.loads(name[5:])


def cache_of(folder):
    """As its only stub has it."""
    stub = backing(os.path.join(folder, "a.raw"))["file"]["file"]["filename"]
    if not stub.startswith(folder + "/"):
        fail(f"the stub is {stub}, not in {folder}")
    return backing(stub).get("l2-cache-size")


def bytes_read(folder):
    """By QEMU, when it uses all tables in turn, several times, and reads a block of the disk by each."""
    command = ["qemu-img", "bench", "-U", "-f", "qcow2", "-t", "writeback", "-d", "1", "-s", str(4 * KIB), "-S", str(2 * MIB),
               "-c", str(ROUNDS * NR_TABLES), os.path.join(folder, "a.raw")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as p:
        os.waitid(os.P_PID, p.pid, os.WEXITED | os.WNOWAIT)
        with open(f"/proc/{p.pid}/io", encoding="ascii") as f:
            nr = int(dict(line.split(": ") for line in f)["rchar"])
    return nr if p.returncode == 0 else fail("qemu-img bench cannot read the image")


def main():
    lib.require("qemu-img", "cp")
    tmp = lib.scratch("pool_l2_cache")
    for bad in ("0", "1", "1023K", "2G", "much"):
        if "--l2-cache" not in dedupscan("compact", "--l2-cache", bad, tmp, status=2) and bad != "much":
            fail(f"--l2-cache {bad} is refused for another reason")
    make_disk(os.path.join(tmp, "disk.raw"))
    plain = compacted(tmp, "plain")
    small = compacted(tmp, "small", "--l2-cache", str(CACHE))
    if cache_of(plain) is not None or cache_of(small) != CACHE:
        fail(f"the stubs have caches of {cache_of(plain)} and {cache_of(small)} bytes")
    for folder in (plain, small):
        run("qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", os.path.join(tmp, "disk.raw"), os.path.join(folder, "a.raw"))
        dedupscan("pool", "check", "--read-data", folder)
    few, many = bytes_read(plain), bytes_read(small)
    print(f"QEMU reads {few / MIB:.1f} MiB without, {many / MIB:.1f} MiB with --l2-cache {CACHE // MIB}M")
    again = (ROUNDS - 1) * NR_TABLES * 4 * KIB
    if not 0.9 * again < many - few < 1.1 * again:
        fail(f"{again / MIB:.1f} MiB more were expected")
    moved = os.path.join(tmp, "moved")
    os.rename(small, moved)
    dedupscan("repoint", moved)
    if cache_of(moved) != CACHE:
        fail(f"repoint left a cache of {cache_of(moved)} bytes")
    dedupscan("expand", "--keep-originals", "0", os.path.join(moved, "a.raw"))
    run("qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", os.path.join(tmp, "disk.raw"), os.path.join(moved, "a.raw"))


if __name__ == "__main__":
    sys.exit(main())
