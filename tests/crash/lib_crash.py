# SPDX-License-Identifier: Apache-2.0
"""What the crash tests of the whole program share: tiny stores on real file systems, the oracle, and interruptions by strace.

The oracle: after any interruption and `dedupscan recover` every image is at its path, and what its guest sees (QEMU says),
its owner, mode, labels and mtime are what they were; a second recover changes nothing; nothing of ours lies about; and a
complete run then saves what one saves that was never interrupted.

The waiting for late openers, a second an image, is left out where nobody opens anything: strace lets
clock_nanosleep(2) return at once."""

import contextlib
import hashlib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
import lib_compact as lib  # noqa: E402 pylint: disable=wrong-import-position
from lib_compact import DEDUPSCAN, KIB, LONG, MIB, WORKSHOP, fail, run  # noqa: E402 pylint: disable=wrong-import-position

SEED = int(os.environ.get("CRASH_SEED") or 1)
WAIT = "clock_nanosleep"
CHANGING = ("openat,write,pwrite64,pwritev,ftruncate,fallocate,copy_file_range,fsync,fdatasync,sync_file_range,syncfs,ioctl,fcntl,"
            "renameat,renameat2,linkat,unlinkat,mkdirat,fchown,fchmod,fsetxattr,fremovexattr,utimensat,close")
CLONING = ("FICLONE", "FIDEDUPERANGE", "BTRFS_IOC_CLONE", "XFS_IOC_CLONE", "SETFLAGS", "FSSETXATTR")


class Wrong(Exception):
    """The oracle says no."""


def require(*tools):
    lib.require("strace", "qemu-img", "qemu-io", *tools)
    traced = subprocess.run(["strace", "--seccomp-bpf", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={WAIT}", "-e",
                             f"inject={WAIT}:retval=0", "sleep", "30"], capture_output=True, check=False, timeout=25)
    if traced.returncode:
        lib.skip(f"strace cannot trace here: {traced.stderr.decode('utf-8', 'replace').strip()}")


@contextlib.contextmanager
def memory_folder(tmp):
    """File systems are made in memory: syncs need not wait for a disk."""
    folder = os.path.join(tmp, "memory")
    os.makedirs(folder, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "size=4g,mode=700", "none", folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


# ---- images ----

EPOCH = 1700000000


def make_images(folder, seed=1, kinds=("raw", "qcow2", "vhd", "vdi"), kib=512):
    """A family: the same data in several formats, and zeros that are stored."""
    os.makedirs(folder)
    rng = random.Random(seed)
    golden = os.path.join(folder, "golden")
    data = rng.randbytes(kib * KIB)
    half = len(data) // 2
    with open(golden, "wb") as f:
        f.write(data[:half] + bytes(256 * KIB) + data[half:])
        f.truncate(len(data) + MIB)
    makers = {
        "raw": ("raw", "raw", ()), "qcow2": ("qcow2", "qcow2", ()),
        "vhd": ("vhd", "vpc", ("-o", "subformat=dynamic,force_size=on")), "vdi": ("vdi", "vdi", ()),
    }
    for kind in kinds:
        suffix, form, more = makers[kind]
        to = os.path.join(folder, f"{kind}.{suffix}")
        run("qemu-img", "convert", "-f", "raw", "-O", form, *more, golden, to)
        if kind in ("raw", "qcow2"):
            run("qemu-io", "-f", form, "-c", f"write -q -P 0 {half} 256k", to)
    os.unlink(golden)
    dress(folder)


def dress(folder):
    for i, path in enumerate(lib.files_of(folder)):
        os.chown(path, 1000 + i, 2000 + i)
        os.chmod(path, [0o600, 0o640, 0o644, 0o660][i % 4])
        os.setxattr(path, "user.note", b"x" * (i + 1))
        os.setxattr(path, "trusted.note", bytes([i]))
        os.setxattr(path, "system.posix_acl_access", lib.acl(3000 + i))
        os.utime(path, ns=((EPOCH + i) * 10**9 + 17, (EPOCH + 100 * i) * 10**9 + 123456789))


class Guests:
    """What the guest of a file with some content sees, and what `qemu-img check` says of it; asked once for each content."""

    def __init__(self, tmp):
        self.tmp, self.known, self.lock, self.numbers = tmp, {}, threading.Lock(), itertools.count()

    def of(self, path, form=None):
        content, form = lib.digest_of(path), form or lib.format_of(path)
        if (content, form) not in self.known:
            raw = os.path.join(self.tmp, f"guest-{next(self.numbers)}")
            done = subprocess.run(["qemu-img", "convert", "-U", "-f", form, "-O", "raw", path, raw], capture_output=True,
                                  check=False)
            checked = subprocess.run(["qemu-img", "check", "-U", "-f", form, path], capture_output=True, check=False).returncode
            with self.lock:
                self.known[content, form] = (done.returncode or lib.digest_of(raw), checked if form in ("qcow2", "vdi") else 0)
            if os.path.exists(raw):
                os.unlink(raw)
        return content, self.known[content, form]


class Family:
    """Images as they were made, to be copied again and again, and what must never change of them."""

    def __init__(self, folder, guests, **kinds):
        self.folder, self.guests = folder, guests
        make_images(folder, **kinds)
        self.learn()

    @classmethod
    def of_folder(cls, folder, guests):
        """Of images that are there already."""
        self = cls.__new__(cls)
        self.folder, self.guests = folder, guests
        self.learn()
        return self

    def learn(self):
        self.names = sorted(os.path.relpath(p, self.folder) for p in lib.files_of(self.folder))
        self.attributes = {n: attributes(os.path.join(self.folder, n)) for n in self.names}
        self.contents, self.guest = {}, {}
        for n in self.names:
            self.contents[n], self.guest[n] = self.guests.of(os.path.join(self.folder, n))

    def copy(self, to):
        """Nothing of it is shared; holes stay holes, and zeros that are stored stay stored (cp(1) makes holes of them)."""
        os.mkdir(to)
        for n in self.names:
            copy_file(os.path.join(self.folder, n), os.path.join(to, n))
        return to


def copy_file(path, to):
    size, at = os.path.getsize(path), 0
    with open(path, "rb") as f, open(to, "wb") as t:
        while at < size:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(f.fileno(), at, os.SEEK_HOLE)
            os.pwrite(t.fileno(), os.pread(f.fileno(), end - at, at), at)
            at = end
        t.truncate(size)
    st = os.stat(path)
    os.chown(to, st.st_uid, st.st_gid)
    shutil.copystat(path, to)


# ---- the oracle ----


def attributes(path):
    """XFS shows its own form of what is an ACL, too."""
    return {k: v for k, v in lib.attributes(path).items() if not k.startswith("trusted.SGI_ACL")}


def look_at_images(family, root, mtime_may_change=()):
    """Raises Wrong.  mtime_may_change: names of which that is documented."""
    for name in family.names:
        path = os.path.join(root, name)
        if not os.path.isfile(path):
            raise Wrong(f"{name} is gone")
        was, now = dict(family.attributes[name]), attributes(path)
        if name in mtime_may_change:
            was["mtime"] = now["mtime"]
        if was != now:
            raise Wrong(f"{name}: was {was}, is {now}")
        content, guest = family.guests.of(path)
        if guest != family.guest[name]:
            raise Wrong(f"{name}: its guest sees other bytes, or qemu-img check finds fault" +
                        (" (the file is what it was!)" if content == family.contents[name] else ""))


def look_for_strays(family, root, kept=True):
    """kept: originals may lie in the trash, and nothing else; None: whatever."""
    known = set(family.names) | {WORKSHOP, "lost+found"}
    if more := set(os.listdir(root)) - known:
        raise Wrong(f"beside the images there are {sorted(more)}")
    shop = os.path.join(root, WORKSHOP)
    if not os.path.isdir(shop):
        return
    if more := set(os.listdir(shop)) - {"lock", "journal", "trash"}:
        raise Wrong(f"in the workshop there are {sorted(more)}")
    trash = os.path.join(shop, "trash")
    for name in os.listdir(trash) if os.path.isdir(trash) else ():
        if kept is None:
            continue
        if not kept:
            raise Wrong(f"trash/{name} was to be removed")
        path = os.path.join(trash, name)
        whose = {a["owner"]: n for n, a in family.attributes.items()}[lib.attributes(path)["owner"]]
        if family.guests.of(path, lib.format_of(whose))[1] != family.guest[whose]:
            raise Wrong(f"trash/{name} is not what was an image")


def used(family, root):
    """Bytes of the disk that hold the images; what is shared counts once."""
    spans = sorted((physical, physical + length) for n in family.names
                   for _, physical, length in lib.extents_on_disk(os.path.join(root, n)))
    total = end = 0
    for a, b in spans:
        total += max(b - max(a, end), 0)
        end = max(end, b)
    return total


# ---- running under strace ----


class Done:
    def __init__(self, status, out, said):
        self.status, self.out, self.said = status, out, said

    def __str__(self):
        return f"status {self.status}: {self.said.strip() or self.out.strip()[:300]}"


def traced(command, inject=(), log=None, calls=WAIT, **more):
    """Runs it without its waits, with what is to be injected; what it called goes to `log`."""
    quick = () if any("signal" in i for i in inject) else ("--seccomp-bpf",)  # where strace is quick it cannot send signals
    args = ["strace", *quick, "-f", "-qq", "-y", "-s", "0", "-o", log or "/dev/null",
            "-e", ("trace=" if log else "trace=") + ",".join({WAIT, *calls.split(","), *(i.split(":")[0] for i in inject)}),
            "-e", f"inject={WAIT}:retval=0"]
    for i in inject:
        args += ["-e", f"inject={i}"]
    p = subprocess.run([*args, *command], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=120, **more)
    return Done(p.returncode, p.stdout.decode("utf-8", "replace"), p.stderr.decode("utf-8", "replace"))


class Point:
    """The k-th of a system call in its process; `child`: not that which was started, but one of its own."""

    def __init__(self, call, nth, text, child):
        self.call, self.nth, self.text, self.child = call, nth, text, child

    def __str__(self):
        return f"{self.call} {self.nth} ({self.text[:150]})"


CALL = re.compile(r"^(\d+) +(\w+)\((.*)$")


def points_of(log, *folders):
    """The calls in a log by which something at or beneath one of the folders changes."""
    nth, found, first = Counter(), [], None
    with open(log, encoding="utf-8", errors="replace") as f:
        for line in f:
            if not (m := CALL.match(line)):
                continue
            pid, call, rest = m.groups()
            first = first or pid
            nth[pid, call] += 1
            if call == WAIT or not any(folder in rest for folder in folders):
                continue
            if call == "openat" and "O_CREAT" not in rest and "O_TMPFILE" not in rest:
                continue
            if call == "ioctl" and not any(c in rest for c in CLONING):
                continue
            if call == "fcntl" and "F_SETLEASE" not in rest and "F_OFD_SETLK" not in rest:
                continue
            found.append(Point(call, nth[pid, call], rest, pid != first))
    # In a child they are hit only if its parent made fewer: each counts its own.
    return [p for p in found if not p.child or p.nth > nth[first, p.call]]


# ---- a store to interrupt ----


class Place:
    """A copy of a family on a file system, with its catalog."""

    numbers = itertools.count()

    def __init__(self, family, fs, tmp):
        self.family, self.fs = family, fs
        n = next(Place.numbers)
        self.root = os.path.join(fs.path, f"p{n}")
        self.catalog = os.path.join(tmp, f"catalog-{n}")

    def __enter__(self):
        self.family.copy(self.root)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.rmtree(self.catalog, ignore_errors=True)

    def compact(self, *more, keep="0"):
        return [DEDUPSCAN, "compact", "--no-idle", "--jobs", "1", "--catalog", self.catalog, "--keep-originals", keep, *more,
                self.root]

    def recover(self, *more):
        return [DEDUPSCAN, "recover", *more, self.root]

    def well(self, command, want=(0,), **more):
        done = traced(command, **more)
        if done.status not in want:
            raise Wrong(f"{' '.join(command[1:3])}: {done}")
        return done

    def oracle(self, keep="0", mtime_may_change=()):
        """After whatever it was: recover, and all is well."""
        self.well(self.recover())
        look_at_images(self.family, self.root, mtime_may_change)
        look_for_strays(self.family, self.root, keep != "0")
        before = lib.everything(self.root)
        self.well(self.recover())
        if wrong := lib.differences(before, lib.everything(self.root)):
            raise Wrong(f"a second recover changed: {wrong}")

    def finish(self, goal, keep="0", mtime_may_change=(), runs=1):
        """A complete run saves what it should.  (Up to three runs, after one that left out a single image: the others share by
        then, and on btrfs it is rebuilt before they can be.)"""
        for _ in range(runs):
            self.well(self.compact("--apply", keep=keep))
            if goal is None or used(self.family, self.root) <= goal + 64 * KIB:
                break
        look_at_images(self.family, self.root, mtime_may_change)
        look_for_strays(self.family, self.root, keep != "0")
        if goal is not None and (now := used(self.family, self.root)) > goal + 64 * KIB:
            raise Wrong(f"after a complete run the images take {now} bytes, of one that was not interrupted {goal}")


def short_hash(text):
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
