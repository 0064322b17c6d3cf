#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""compact --l2-cache: QEMU keeps as much of a view's tables in memory, and no more; it reads the same bytes.  --host-cache: it opens
the pool's data without O_DIRECT, whatever cache and aio its guest has.  --aio: it reads them by io_uring.  Whatever writes a stub
again leaves that as it was, and new stubs have it; `pool set` changes those that are there, beside a guest that runs.  The control
is a pool without: there it does as it likes."""

import json
import os
import platform
import random
import shutil
import subprocess
import sys
import time

import lib_compact as lib
from lib_compact import DEDUPSCAN, KIB, MIB, fail, run

NR_TABLES = 512  # of 4 KiB, for 2 MiB of the disk each
SIZE = NR_TABLES * 2 * MIB
CACHE = MIB  # half of them: the least recently used one is always the next one
ROUNDS = 8


def make_disk(path, seed=2):
    rng = random.Random(seed)
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


def caches_of(folder, image="a.raw"):
    """As its stub has them: bytes of tables, and whether the host's page cache is used."""
    stub = backing(os.path.join(folder, image))["file"]["file"]["filename"]
    if not stub.startswith(folder + "/"):
        fail(f"the stub is {stub}, not in {folder}")
    name = backing(stub)
    return name.get("l2-cache-size"), name["file"]["file"].get("cache") == {"direct": False}


def aio_of(folder, image="a.raw"):
    stub = backing(os.path.join(folder, image))["file"]["file"]["filename"]
    return backing(stub)["file"]["file"].get("aio")


def rings(image, *options):
    """How many io_urings QEMU has when it has read something."""
    with opened(image, *options) as p:
        fds = f"/proc/{p.pid}/fd"
        nr = sum("io_uring" in os.readlink(os.path.join(fds, fd)) for fd in os.listdir(fds))
        p.communicate(b"quit\n")
    return nr


def bytes_read(folder):
    """By QEMU, when it uses all tables in turn, several times, and reads a block of the disk by each."""
    command = ["qemu-img", "bench", "-U", "-f", "qcow2", "-t", "writeback", "-d", "1", "-s", str(4 * KIB), "-S", str(2 * MIB),
               "-c", str(ROUNDS * NR_TABLES), os.path.join(folder, "a.raw")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as p:
        os.waitid(os.P_PID, p.pid, os.WEXITED | os.WNOWAIT)
        with open(f"/proc/{p.pid}/io", encoding="ascii") as f:
            nr = int(dict(line.split(": ") for line in f)["rchar"])
    return nr if p.returncode == 0 else fail("qemu-img bench cannot read the image")


def opened(image, *options):
    """A QEMU that has it open, and has read something of it."""
    p = subprocess.Popen(["qemu-io", "-r", "-f", "qcow2", *options, image], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT)  # pylint: disable=consider-using-with
    p.stdin.write(b"read 0 4k\n")
    p.stdin.flush()
    said = b""
    while b"ops/sec" not in said:
        said += p.stdout.read1() or fail(f"qemu-io {' '.join(options)} {image}: {said}")
    return p


def opened_directly(image, *options):
    """The names of what QEMU opens with O_DIRECT, of image and pool."""
    with opened(image, *options) as p:
        flags = {}
        for fd in os.listdir(f"/proc/{p.pid}/fd"):
            path = os.readlink(f"/proc/{p.pid}/fd/{fd}")
            with open(f"/proc/{p.pid}/fdinfo/{fd}", encoding="ascii") as f:
                flags[path] = int(dict(line.split(":", 1) for line in f)["flags"], 8)
        p.communicate(b"quit\n")
    here = {path: f for path, f in flags.items() if path.startswith(os.path.dirname(image))}
    if len(here) != 3:
        fail(f"qemu-io has other files open than image, stub and cluster file: {sorted(here)}")
    return {os.path.basename(os.path.dirname(path)) for path, f in here.items() if f & os.O_DIRECT}


def check_machine(image, aio):
    """One with cache=none opens it."""
    program = "qemu-system-" + platform.machine()
    if shutil.which(program):
        done = subprocess.run([program, "-machine", "none", "-display", "none", "-monitor", "stdio", "-drive",
                               f"if=none,format=qcow2,cache=none,aio={aio},file={image}"], input="quit\n", capture_output=True,
                              text=True, check=False)
        if done.returncode:
            fail(f"{program} with aio={aio}: {done.stderr}")


def check_host_cache(tmp, plain):
    folder = compacted(tmp, "host", "--host-cache", "yes", "--l2-cache", "2M")
    if caches_of(folder) != (2 * MIB, True):
        fail(f"a stub has caches of {caches_of(folder)}")
    image = os.path.join(folder, "a.raw")
    everything = {"plain", ".dedupscan-pool", "views"}
    try:
        direct = opened_directly(os.path.join(plain, "a.raw"), "-t", "none")
    except SystemExit:
        print("this file system has no O_DIRECT, so only names are looked at")
    else:
        if direct != everything:
            fail(f"cache=none opens only {direct} with O_DIRECT")
        for aio in ("native", "io_uring", "threads"):
            check_machine(image, aio)
        for options in (["-t", "none"], ["-i", "io_uring", "-t", "none"]):
            if opened_directly(image, *options) != {"host", "views"}:
                fail(f"{options} opens {opened_directly(image, *options)} with O_DIRECT")
    if opened_directly(image, "-t", "writeback"):
        fail("cache=writeback opens files with O_DIRECT")
    # What is folded stands on another view, which has the same.
    run("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 1M 64k", image)
    dedupscan("snapshot", "s", image)
    time.sleep(0.3)
    dedupscan("compact", "--no-idle", "--catalog", os.path.join(tmp, "host.catalog"), "--method", "pool", "--apply", folder)
    if caches_of(folder) != (2 * MIB, True):
        fail(f"after it was folded, a stub has caches of {caches_of(folder)}")
    if b"pattern" in run("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 7 1M 64k", image):
        fail("what was folded is wrong")
    # Told otherwise, new ones have nothing, and the old one is as it was.
    make_disk(os.path.join(folder, "c.raw"), 3)
    run("cp", "--sparse=always", os.path.join(folder, "c.raw"), os.path.join(folder, "d.raw"))
    time.sleep(0.3)
    dedupscan("compact", "--no-idle", "--catalog", os.path.join(tmp, "host.catalog"), "--method", "pool", "--to-qcow2", "--min-run",
              "4K", "--keep-originals", "0", "--host-cache", "no", "--l2-cache", "0", "--apply", folder)
    if caches_of(folder, "c.raw") != (None, False) or caches_of(folder) != (2 * MIB, True):
        fail(f"told otherwise, stubs have caches of {caches_of(folder, 'c.raw')} and {caches_of(folder)}")
    dedupscan("pool", "check", "--read-data", folder)


def io_uring_is_allowed(tmp):
    """By this machine, for all: else `pool set` says so, and nothing is changed."""
    try:
        with open("/proc/sys/kernel/io_uring_disabled", encoding="ascii") as f:
            disabled = int(f.read())
    except FileNotFoundError:
        disabled = 0
    done = subprocess.run(["qemu-io", "-r", "-f", "raw", "-i", "io_uring", "-c", "read 0 4k", os.path.join(tmp, "disk.raw")],
                          capture_output=True, text=True, check=False)
    return not disabled and done.returncode == 0 and "io_uring" not in done.stderr


def check_aio(tmp, plain):
    """Of a pool that has images, and of what comes later."""
    image = os.path.join(plain, "a.raw")
    if not io_uring_is_allowed(tmp):
        print("SKIP-PART: no io_uring here, or not for QEMU")
        return
    if rings(image) or not rings(image, "-i", "io_uring"):
        fail("it cannot be seen whether QEMU uses io_uring")
    dedupscan("pool", "set", plain, status=2)
    dedupscan("pool", "set", "--aio", "native", plain, status=2)
    if "1 views would be set" not in dedupscan("pool", "set", "--aio", "io_uring", "--dry-run", plain):
        fail("a dry run sets no view")
    if aio_of(plain) is not None:
        fail("a dry run changed a stub")
    with opened(image) as guest:
        dedupscan("pool", "set", "--aio", "io_uring", plain)
        guest.stdin.write(b"read 2M 4k\n")
        guest.stdin.flush()
        said = guest.communicate(b"quit\n")[0]
        if b"ops/sec" not in said:
            fail(f"a guest that runs cannot read on: {said}")
    if aio_of(plain) != "io_uring" or not rings(image):
        fail(f"QEMU reads by {aio_of(plain)}, with {rings(image)} io_urings")
    for options in (["-t", "none"], ["-t", "none", "-i", "native"], ["-t", "writeback", "-i", "threads"]):
        if not rings(image, *options):
            fail(f"{options}: no io_uring")
    for aio in ("native", "io_uring", "threads"):
        check_machine(image, aio)
    # With the others, and what enters from now on.
    dedupscan("pool", "set", "--host-cache", "yes", "--l2-cache", "2M", plain)
    make_disk(os.path.join(plain, "c.raw"), 5)
    run("cp", "--sparse=always", os.path.join(plain, "c.raw"), os.path.join(plain, "d.raw"))
    time.sleep(0.3)
    dedupscan("compact", "--no-idle", "--catalog", os.path.join(tmp, "plain.catalog"), "--method", "pool", "--to-qcow2", "--min-run",
              "4K", "--keep-originals", "0", "--immutable", "never", "--apply", plain)
    for name in ("a.raw", "c.raw"):
        if aio_of(plain, name) != "io_uring" or caches_of(plain, name) != (2 * MIB, True) or \
                not rings(os.path.join(plain, name), "-t", "none"):
            fail(f"{name}: {aio_of(plain, name)}, {caches_of(plain, name)}")
    check_machine(image, "native")
    dedupscan("pool", "check", "--read-data", plain)
    if "reading      io_uring  by QEMU, of what enters; 2.0 MiB of tables in memory; through the host's page cache\n" not in \
            dedupscan("pool", "status", plain):
        fail(dedupscan("pool", "status", plain))
    dedupscan("pool", "set", "--aio", "threads", "--host-cache", "no", "--l2-cache", "0", plain)
    if aio_of(plain) is not None or caches_of(plain) != (None, False) or rings(image):
        fail(f"it does not end: {aio_of(plain)}, {caches_of(plain)}")
    if "reading" in dedupscan("pool", "status", plain):
        fail(dedupscan("pool", "status", plain))


def main():
    lib.require("qemu-img", "qemu-io", "cp")
    tmp = lib.scratch("pool_caches")
    for bad in ("1", "1023K", "2G", "much"):
        if "--l2-cache" not in dedupscan("compact", "--l2-cache", bad, tmp, status=2) and bad != "much":
            fail(f"--l2-cache {bad} is refused for another reason")
    dedupscan("compact", "--host-cache", "perhaps", tmp, status=2)
    make_disk(os.path.join(tmp, "disk.raw"))
    plain = compacted(tmp, "plain")
    small = compacted(tmp, "small", "--l2-cache", str(CACHE))
    if caches_of(plain) != (None, False) or caches_of(small) != (CACHE, False):
        fail(f"the stubs have caches of {caches_of(plain)} and {caches_of(small)}")
    check_host_cache(tmp, plain)
    check_aio(tmp, plain)
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
    if caches_of(moved) != (CACHE, False):
        fail(f"repoint left caches of {caches_of(moved)}")
    dedupscan("expand", "--keep-originals", "0", os.path.join(moved, "a.raw"))
    run("qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", os.path.join(tmp, "disk.raw"), os.path.join(moved, "a.raw"))


if __name__ == "__main__":
    sys.exit(main())
