# SPDX-License-Identifier: Apache-2.0
"""What the tests and benchmarks of `dedupscan compact` share: file systems on loop devices, a store of real guests in every
format, what of an image must never change, and what could be saved at most.

Nothing here is shared with dedupscan.  QEMU and libvhdi say what guests see, the kernel says where files lie (FIEMAP) and
what is free (statfs)."""

import array
import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict

DEDUPSCAN = os.path.abspath(os.environ.get("DEDUPSCAN") or "build/dedupscan")
LONG = bool(os.environ.get("LONG"))
KIB, MIB = 1 << 10, 1 << 20
BLOCK = 4096
ZEROS = bytes(BLOCK)
WORKSHOP, POOL = ".dedupscan", ".dedupscan-pool"
OURS = (WORKSHOP, POOL, "lost+found")
STOPPED = 75


def fail(text):
    print(f"FAILED: {text}")
    sys.exit(1)


def skip(why):
    print(why)
    sys.exit(77)


def lacking(*tools):
    """What keeps a test from being made here; "" = nothing."""
    if os.getuid() != 0:
        return "needs root"
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    for tool in tools:
        if not shutil.which(tool):
            return f"needs {tool}"
    help_text = subprocess.run([DEDUPSCAN, "--help"], capture_output=True, check=False).stdout
    return "" if b"  compact " in help_text else "this dedupscan has no command 'compact'"


def require(*tools):
    why = lacking(*tools)
    if why:
        skip(why)


def run(*args, **more):
    done = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **more)
    if done.returncode:
        fail(f"{' '.join(map(str, args))}: status {done.returncode}: {done.stdout.decode('utf-8', 'replace')}")
    return done.stdout


def scratch(name):
    """The folder that tests/run gives, else one that goes with the process."""
    if os.environ.get("TMP"):
        return os.environ["TMP"]
    folder = tempfile.TemporaryDirectory(prefix=f"{name}.", dir="/var/tmp")  # pylint: disable=consider-using-with
    scratch.keep = folder
    return folder.name


def exit_on_signals():
    """SIGTERM ends the program as an exception does: what is mounted is unmounted, whatever signals come meanwhile."""
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def leave(number, _):
        for nr in signals:
            signal.signal(nr, signal.SIG_IGN)
        sys.exit(128 + number)

    for nr in signals:
        signal.signal(nr, leave)


def mounts_of_its_own():
    """What is mounted from here on goes with this process and its children, however they end."""
    libc, new_namespace, private = ctypes.CDLL(None, use_errno=True), 0x20000, (1 << 14) | (1 << 18)  # MS_REC, MS_PRIVATE
    if libc.unshare(new_namespace) or libc.mount(b"none", b"/", None, private, None):
        skip(f"cannot have mounts of its own here: {os.strerror(ctypes.get_errno())}")


# ---- file systems ----


class FileSystem:
    """A file system of its own in a sparse file, mounted while the `with` lasts.  The loop device goes with the mount, however
    the program ends."""

    MAKE = {
        "xfs": ("mkfs.xfs", "-q", "-f", "-m", "reflink=1"),
        "btrfs": ("mkfs.btrfs", "-q", "-f", "-d", "single", "-m", "single"),
        "ext4": ("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal"),
    }

    def __init__(self, kind, folder, mib, name=None, direct=False):
        """direct: what is read comes from the disk, not from the cache of the file beneath."""
        self.kind, self.direct = kind, direct
        self.file = os.path.join(folder, f"{name or kind}.fs")
        self.path = os.path.join(folder, name or kind)
        self.mib = mib

    def __enter__(self):
        with open(self.file, "wb") as f:
            f.truncate(self.mib * MIB)
        run(*self.MAKE[self.kind], self.file)
        os.makedirs(self.path, exist_ok=True)
        try:
            self.mount()
        except BaseException:
            self.__exit__()
            raise
        return self

    def mount(self):
        device, options = self.file, "loop"
        if self.direct:
            device, options = run("losetup", "--direct-io=on", "-f", "--show", self.file).decode().strip(), "noatime"
        done = subprocess.run(["mount", "-t", self.kind, "-o", options, device, self.path], capture_output=True, check=False)
        if self.direct:
            run("losetup", "-d", device)  # goes once it is unmounted
        if done.returncode:
            skip(f"cannot mount {self.kind} on a loop device here: {done.stderr.decode('utf-8', 'replace').strip()}")

    def unmount(self):
        if not os.path.ismount(self.path):
            return
        if subprocess.run(["umount", self.path], capture_output=True, check=False).returncode:
            run("umount", "-l", self.path)

    def __exit__(self, *_):
        self.unmount()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.file)

    def again(self):
        """Unmounted and mounted: nothing is cached, and space that was reserved for files to grow is given back."""
        self.unmount()
        self.mount()

    def used(self):
        """Bytes, as df says, once everything is written that is under way."""
        for _ in range(2):
            os.sync()
            if self.kind == "btrfs":
                run("btrfs", "filesystem", "sync", self.path)
        s = os.statvfs(self.path)
        return (s.f_blocks - s.f_bfree) * s.f_frsize


@contextlib.contextmanager
def file_system_with(kind, folder, source, spare_mib, name=None, direct=False):
    """One that holds a copy of the folder `source`, nothing of it shared unless source is on it already."""
    used = sum(int(line.split()[0]) for line in run("du", "-sm", source).splitlines())
    if kind == "ext4":
        used += used // 10  # a twentieth of it is root's, and not available; a sixtieth are inodes
    with FileSystem(kind, folder, max(used + spare_mib, 320), name, direct) as fs:
        run("cp", "-a", "--reflink=never", "--sparse=always", source + "/.", fs.path)
        fs.again()
        yield fs


# ---- where files lie ----

FS_IOC_FIEMAP = 0xC020660B
FIEMAP_SYNC, FIEMAP_LAST, FIEMAP_NOT_PLAIN, FIEMAP_UNWRITTEN = 1, 1, 0x2 | 0x4 | 0x8 | 0x200, 0x800


def extents_on_disk(path):
    """(offset, physical, length) of all that is written, in order."""
    found, at, room = [], 0, 512
    with open(path, "rb") as f:
        while True:
            buf = array.array("B", struct.pack("=QQIIII", at, (1 << 64) - 1 - at, FIEMAP_SYNC, 0, room, 0) + bytes(56 * room))
            fcntl.ioctl(f.fileno(), FS_IOC_FIEMAP, buf, True)
            nr = struct.unpack_from("=I", buf, 20)[0]
            for i in range(nr):
                logical, physical, length, flags = struct.unpack_from("=QQQ16xI", buf, 32 + 56 * i)
                if not flags & (FIEMAP_NOT_PLAIN | FIEMAP_UNWRITTEN):
                    found.append((logical, physical, length))
                at = logical + length
            if nr == 0 or flags & FIEMAP_LAST:
                return found


def nr_extents(paths):
    """Pieces that a disk would have to go to."""
    nr = 0
    for path in paths:
        last = None
        for logical, physical, length in extents_on_disk(path):
            if last != (logical, physical):
                nr += 1
            last = (logical + length, physical + length)
    return nr


def files_of(folder):
    found = []
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(d for d in folders if d not in OURS)
        found += [os.path.join(at, n) for n in sorted(names) if stat.S_ISREG(os.lstat(os.path.join(at, n)).st_mode)]
    return found


class Bound:
    """What sharing of 4 KiB blocks at 4 KiB boundaries of the files could free at most: every block that is on the disk,
    against every different content once.  `most`: whatever the runs; `in_runs`: only blocks within min_run of
    consecutive ones that are elsewhere, too.  Zeros could be holes: they are in both.

    Images in `as_guest` ({path: raw file}) count as if their data lay on boundaries."""

    def __init__(self, folder, min_run, as_guest=()):
        self.window = max(min_run // BLOCK, 1)
        self.content = {}  # place on the disk -> content
        runs = []  # of places, consecutive in a file
        for nr, path in enumerate(files_of(folder)):
            if path in as_guest:
                runs += self.read(as_guest[path], lambda at, _, nr=nr: (nr, at))
            else:
                runs += self.read(path, lambda _, physical: physical)
        contents = set(self.content.values()) - {ZEROS}
        self.stored = len(self.content) * BLOCK
        self.zero = sum(1 for c in self.content.values() if c == ZEROS) * BLOCK
        self.most = self.stored - len(contents) * BLOCK
        self.in_runs = self.count_in_runs(runs) + self.zero

    def read(self, path, place_of):
        runs, last = [], None
        with open(path, "rb") as f:
            for begin, physical, length in extents_on_disk(path):
                for at in range(begin, begin + length, BLOCK):
                    data = os.pread(f.fileno(), BLOCK, at)
                    data += bytes(BLOCK - len(data))
                    place = place_of(at, physical + at - begin)
                    self.content[place] = ZEROS if data == ZEROS else hashlib.blake2b(data, digest_size=12).digest()
                    if at != last:
                        runs.append([])
                    runs[-1].append(place)
                    last = at + BLOCK
        return runs

    def windows(self, run_of_places):
        for i in range(len(run_of_places) - self.window + 1):
            places = tuple(run_of_places[i:i + self.window])
            yield places, hash(tuple(self.content[p] for p in places))

    def count_in_runs(self, runs):
        where = defaultdict(set)  # several files may lie at one place: that is no duplicate
        for r in runs:
            for places, key in self.windows(r):
                if len(where[key]) < 2:
                    where[key].add(places)
        sharers = defaultdict(set)
        for r in runs:
            for places, key in self.windows(r):
                if len(where[key]) > 1:
                    for p in places:
                        sharers[self.content[p]].add(p)
        sharers.pop(ZEROS, None)
        return sum(len(s) - 1 for s in sharers.values()) * BLOCK


# ---- what guests see ----

FORMATS = {".raw": "raw", ".img": "raw", ".qcow2": "qcow2", ".vmdk": "vmdk", ".vhd": "vpc", ".vhdx": "vhdx", ".vdi": "vdi"}


def format_of(path):
    return FORMATS[os.path.splitext(path)[1]]


def is_image(path):
    return os.path.splitext(path)[1] in FORMATS and not path.endswith("-flat.vmdk")


def images_of(folder):
    return [p for p in files_of(folder) if is_image(p)]


def guest_raw(path, to, snapshot=None):
    """The guest's disk as a raw file, read by QEMU."""
    if os.path.exists(to):
        os.unlink(to)
    more = ["-l", f"snapshot.name={snapshot}"] if snapshot else []
    run("qemu-img", "convert", "-U", "-f", format_of(path), *more, "-O", "raw", path, to)
    return to


def digest_of(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while data := f.read(MIB):
            h.update(data)
    return h.hexdigest()


def digest_of_range(path, at, length):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        f.seek(at)
        while length > 0 and (data := f.read(min(length, MIB))):
            h.update(data)
            length -= len(data)
    return h.hexdigest()


def sparse_digest_of(path):
    """Much faster where there is little in it: zeros are only counted."""
    h, zeros = hashlib.sha256(), bytes(64 * KIB)
    with open(path, "rb") as f:
        while data := f.read(64 * KIB):
            h.update(b"%d" % len(data) + (b"" if data == zeros else data))
    return h.hexdigest()


def snapshots_of(path):
    if format_of(path) != "qcow2":
        return []
    info = json.loads(run("qemu-img", "info", "-U", "--output=json", path))
    return [s["name"] for s in info.get("snapshots", [])]


def guest_digests(folder, tmp):
    """{(image, snapshot or None): digest of the guest's bytes}"""
    found = {}
    for path in images_of(folder):
        for snapshot in [None] + snapshots_of(path):
            raw = guest_raw(path, os.path.join(tmp, "guest.raw"), snapshot)
            found[os.path.relpath(path, folder), snapshot] = sparse_digest_of(raw)
            os.unlink(raw)
    return found


LIBVHDI = """
import hashlib, sys
sys.path.append("/usr/lib/python3/dist-packages")
import pyvhdi
for path in sys.argv[1:]:
    f = pyvhdi.file()
    f.open(path)
    size, h = f.get_media_size(), hashlib.sha256()
    for at in range(0, size, 4096):  # it loses its place in reads of several blocks
        h.update(f.read_buffer_at_offset(min(4096, size - at), at))
    print(h.hexdigest())
"""


def libvhdi_digests(folder):
    """The same of VHD images, read by libvhdi; None when it is not there."""
    paths = [p for p in images_of(folder) if p.endswith(".vhd")]
    done = subprocess.run([sys.executable, "-c", LIBVHDI, *paths], capture_output=True, check=False)
    if b"No module named 'pyvhdi'" in done.stderr:
        return None
    if done.returncode:
        return {(os.path.relpath(p, folder), None): done.stderr.decode() for p in paths}
    return dict(zip([(os.path.relpath(p, folder), None) for p in paths], done.stdout.decode().split()))


def complaints(folder):
    """What `qemu-img check` finds wrong with images whose format it can check."""
    found = []
    for path in images_of(folder):
        if format_of(path) in ("qcow2", "vdi", "vmdk", "vhdx"):
            done = subprocess.run(["qemu-img", "check", "-U", "-f", format_of(path), path], capture_output=True, check=False)
            if done.returncode not in (0, 63):  # 63: it cannot check those
                found.append(f"{os.path.relpath(path, folder)}: {(done.stdout + done.stderr).decode('utf-8', 'replace').strip()}")
    return found


# ---- what must stay as it is ----


def attributes(path):
    """Of a file: what an administrator or a backup would miss."""
    st = os.lstat(path)
    found = {"mode": oct(st.st_mode), "owner": (st.st_uid, st.st_gid), "links": st.st_nlink, "mtime": st.st_mtime_ns}
    if stat.S_ISLNK(st.st_mode):
        found["link"] = os.readlink(path)
    else:
        found.update({n: os.getxattr(path, n).hex() for n in sorted(os.listxattr(path))})
    if stat.S_ISDIR(st.st_mode):
        del found["mtime"], found["links"]
    return found


def all_attributes(folder):
    found = {".": attributes(folder)}
    for at, folders, names in os.walk(folder):
        folders[:] = [d for d in folders if d not in OURS]
        for name in folders + names:
            found[os.path.relpath(os.path.join(at, name), folder)] = attributes(os.path.join(at, name))
    return found


def everything(folder):
    """All that a program can see of a store it may not touch: but the times of access."""
    found = {}
    for at, folders, names in os.walk(folder):
        for name in folders + names:
            path = os.path.join(at, name)
            st = os.lstat(path)
            found[os.path.relpath(path, folder)] = (
                attributes(path), st.st_ino, st.st_size, st.st_blocks, st.st_ctime_ns, st.st_mtime_ns,
                (digest_of(path), extents_on_disk(path)) if stat.S_ISREG(st.st_mode) else None)
    return found


def differences(before, after):
    """Of two dictionaries, in words."""
    out = []
    for k in sorted(set(before) | set(after), key=str):
        if k not in after:
            out.append(f"{k} is gone")
        elif k not in before:
            out.append(f"{k} is new")
        elif before[k] != after[k]:
            a, b = before[k], after[k]
            if isinstance(a, dict):
                a, b = ({x: str(d.get(x))[:150] for x in sorted(a.keys() | b.keys()) if a.get(x) != b.get(x)} for d in (a, b))
            out.append(f"{k}: was {str(a)[:500]}, is {str(b)[:500]}")
    return out


class Witness:
    """What a store was like, to be compared with what it is."""

    def __init__(self, folder, tmp):
        self.folder, self.tmp = folder, tmp
        self.guests = guest_digests(folder, tmp)
        self.attributes = all_attributes(folder)
        self.vhd = libvhdi_digests(folder)
        self.nr = len(self.guests)

    def against(self, folder):
        """What differs in another folder, or in the same one later; an empty list when nothing was lost."""
        out = differences(self.guests, guest_digests(folder, self.tmp))
        out += differences(self.attributes, all_attributes(folder))
        if self.vhd is not None:
            out += [f"libvhdi: {d}" for d in differences(self.vhd, libvhdi_digests(folder))]
        return out + [f"qemu-img check: {c}" for c in complaints(folder)]


# ---- a store ----


class Store:
    """Images such as a company keeps, made of this machine's files: a golden system in every format, clones and versions of
    which 1 % changed, an independent installation of the same files, snapshots, a backing chain, compressed templates.  Each
    holds about `mib` MiB."""

    EPOCH = 1700000000

    def __init__(self, folder, work, mib, seed=1, more=lambda tree: []):
        """more() puts further files into the folder that a system is made of; the files that it returns never change, nor does
        the first one that pick() gives."""
        self.folder, self.work, self.mib, self.more = folder, work, mib, more
        self.rng = random.Random(seed)
        os.makedirs(folder, exist_ok=True)
        os.makedirs(work, exist_ok=True)

    def path(self, name):
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    # -- what is in the guests --

    def pick(self, share, *folders):
        """Files of the machine, `share` of the size."""
        left, most = int(self.mib * MIB * share), self.mib * MIB // 8
        for folder in folders:
            for at, subfolders, names in os.walk(folder):
                subfolders.sort()
                for name in sorted(names):
                    path = os.path.join(at, name)
                    st = os.lstat(path)
                    if stat.S_ISREG(st.st_mode) and 0 < st.st_size <= min(most, left):
                        left -= st.st_size
                        yield path

    def copy_files(self, paths, to, flat):
        for path in paths:
            target = os.path.join(to, path.strip("/").replace("/", "_") if flat else path.strip("/"))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copyfile(path, target)
            os.utime(target, (self.EPOCH, self.EPOCH))

    def disk(self, raw, tree, mib, start, number):
        """A partition that starts at `start` MiB with an ext4 of the files in `tree`."""
        with open(raw, "wb") as f:
            f.truncate(mib * MIB)
        run("sfdisk", "-q", "--no-reread", "--no-tell-kernel", raw,
            input=f"label: dos\nlabel-id: 0x{number:08x}\nstart={start * 2048}, type=83, bootable\n".encode())
        ident = f"{number:08d}-1111-4222-8333-444455556666"
        run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-U", ident, "-L", "root", "-O", "^has_journal",
            "-E", f"offset={start << 20},hash_seed={ident},root_owner=0:0,lazy_itable_init=0,nodiscard", "-d", tree, raw,
            f"{(mib - start) * 1024}k", env=dict(os.environ, E2FSPROGS_FAKE_TIME=str(self.EPOCH)))

    def systems(self):
        """golden.raw; fresh.raw: the same files in another order, and more, on a disk that is laid out otherwise."""
        base = list(self.pick(0.4, "/usr/bin", "/usr/sbin")) + list(self.pick(0.35, "/usr/lib/x86_64-linux-gnu", "/usr/lib64")) + \
            list(self.pick(0.25, "/usr/lib/python3", "/usr/share/perl", "/usr/share/doc", "/usr/include"))
        more = list(self.pick(0.1, "/usr/share/locale", "/usr/share/zoneinfo", "/usr/lib/python3.11"))
        golden, fresh = os.path.join(self.work, "golden"), os.path.join(self.work, "fresh")
        self.copy_files(base, golden, False)
        self.copy_files(more, os.path.join(fresh, "a"), True)
        self.copy_files(base[::-1], os.path.join(fresh, "b"), True)
        needed = base[:1] + self.more(golden) + self.more(fresh)
        self.may_change = {b for path in base for b in self.blocks_of(path)} - {b for path in needed for b in self.blocks_of(path)}
        self.disk(golden + ".raw", golden, self.mib * 3 // 2 + 16, 1, 1)
        self.disk(fresh + ".raw", fresh, self.mib * 3 // 2 + 24, 2, 2)
        for tree in (golden, fresh):
            shutil.rmtree(tree)
        return golden + ".raw", fresh + ".raw"

    @staticmethod
    def blocks_of(path):
        with open(path, "rb") as f:
            while len(data := f.read(BLOCK)) == BLOCK:
                if data != ZEROS:
                    yield hash(data)

    def data_of(self, raw):
        """Blocks that guests can do without: of files; no metadata."""
        found = []
        with open(raw, "rb") as f:
            for begin, _, length in extents_on_disk(raw):
                found += [at for at in range(begin, begin + length, BLOCK)
                          if hash(os.pread(f.fileno(), BLOCK, at)) in self.may_change]
        return found

    def drift(self, raw, to, share=0.01):
        """A copy of which so much was written anew, in pieces of 4 KiB to 64 KiB."""
        run("cp", "--reflink=never", "--sparse=always", raw, to)
        blocks = self.data_of(raw)
        may, left = set(blocks), int(len(blocks) * share)
        with open(to, "r+b") as f:
            while left > 0:
                at = self.rng.choice(blocks)
                for i in range(self.rng.choice([1, 1, 2, 4, 16])):
                    if at + i * BLOCK in may:
                        os.pwrite(f.fileno(), self.rng.randbytes(BLOCK), at + i * BLOCK)
                        left -= 1
        return to

    # -- images --

    def convert(self, raw, name, form, options="", more=()):
        run("qemu-img", "convert", "-f", "raw", "-O", form, *(["-o", options] if options else []), *more, raw, self.path(name))

    def clone(self, golden, name, form, options=""):
        raw = self.drift(golden, os.path.join(self.work, "clone.raw"))
        self.convert(raw, name, form, options)
        os.unlink(raw)

    def chain(self, golden):
        """Overlays on the template, each a little further."""
        backing = "../templates/golden.qcow2"
        for name in ("chain/app.qcow2", "chain/app-test.qcow2"):
            path = self.path(name)
            run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, path)
            size = os.path.getsize(golden)
            writes = [["-c", f"write -q -s {golden} {at * 65536} 1M"] for at in self.rng.sample(range(size // 65536 - 17), 2)]
            run("qemu-io", "-f", "qcow2", *sum(writes, []), path)
            backing = os.path.basename(name)

    def snapshots(self):
        path = self.path("lab/lab.qcow2")
        shutil.copyfile(self.path("templates/golden.qcow2"), path)
        for i in range(2):
            run("qemu-img", "snapshot", "-c", f"before-{i}", path)
            run("qemu-io", "-f", "qcow2", "-c", f"write -q -P {i + 65} {(i + 3) * 2}M 1M", path)

    def make(self):
        golden, fresh = self.systems()
        self.convert(golden, "templates/golden.qcow2", "qcow2")
        self.convert(golden, "templates/golden-packed.qcow2", "qcow2", more=["-c"])
        shutil.copyfile(self.path("templates/golden-packed.qcow2"), self.path("templates/copy-of-packed.qcow2"))
        run("cp", "--reflink=never", "--sparse=always", golden, self.path("versions/v0.raw"))
        self.drift(golden, self.path("versions/v1.raw"))
        self.drift(self.path("versions/v1.raw"), self.path("versions/v2.raw"))
        self.clone(golden, "web/c4k.qcow2", "qcow2", "cluster_size=4k")
        self.clone(golden, "web/c2m.qcow2", "qcow2", "cluster_size=2M")
        self.clone(golden, "web/old.qcow2", "qcow2", "compat=0.10")
        self.clone(golden, "esx/sparse.vmdk", "vmdk", "subformat=monolithicSparse")
        self.clone(golden, "esx/flat.vmdk", "vmdk", "subformat=monolithicFlat")
        self.clone(golden, "hyperv/dynamic.vhd", "vpc", "subformat=dynamic,force_size=on")
        self.clone(golden, "hyperv/fixed.vhd", "vpc", "subformat=fixed,force_size=on")
        self.clone(golden, "hyperv/disk.vhdx", "vhdx")
        self.clone(golden, "vbox/disk.vdi", "vdi")
        self.convert(fresh, "db/installed.raw", "raw")
        self.convert(fresh, "db/installed-too.qcow2", "qcow2")
        self.chain(golden)
        self.snapshots()
        os.unlink(golden)
        os.unlink(fresh)
        self.dress()
        return self

    def dress(self):
        """Owners, modes, labels and times of all kinds."""
        for i, path in enumerate(files_of(self.folder)):
            alone = "/web/" in path or "/versions/" in path  # other images name files: those must be of the same owner
            os.chown(path, 1000 + i * alone, 2000 + i)
            os.chmod(path, [0o600, 0o640, 0o644, 0o660][i % 4])
            os.setxattr(path, "user.note", b"x" * (i + 1))
            os.setxattr(path, "trusted.note", bytes([i]))
            os.setxattr(path, "system.posix_acl_access", acl(3000 + i))
            os.utime(path, ns=((self.EPOCH + i) * 10**9 + 17, (self.EPOCH + 100 * i) * 10**9 + 123456789))
        with open(self.path("notes.txt"), "w", encoding="ascii") as f:
            f.write("no image\n")
        os.symlink("versions/v0.raw", self.path("a-link.raw"))

    def on_the_file_system(self, fs):
        """What only file systems with reflink can hold: a clone made by cp --reflink that drifted since."""
        source, to = os.path.join(fs.path, "versions/v0.raw"), os.path.join(fs.path, "versions/v0-clone.raw")
        run("cp", "-a", "--reflink=always", source, to)
        with open(to, "r+b") as f:
            for at in self.rng.sample(self.data_of(to), self.mib):
                f.seek(at)
                f.write(self.rng.randbytes(BLOCK))
        stored = self.data_of(to)
        with open(to, "r+b") as f:  # zeros that take room
            for at in stored[-64:]:
                f.seek(at)
                f.write(ZEROS)
        fs.again()


def acl(uid):
    """An access control list that lets one more user read."""
    undefined = 0xFFFFFFFF
    entries = [(1, 6, undefined), (2, 4, uid), (4, 4, undefined), (0x10, 6, undefined), (0x20, 0, undefined)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


# ---- the program ----


class Plan:
    """What `dedupscan compact --json` said."""

    def __init__(self, said):
        self.json = json.loads(said)
        self.saving, self.later = self.json["saving"], self.json["saving_later"]
        self.images, self.steps = self.json["images"], self.json["steps"]
        self.file_systems = self.json["file_systems"]

    def why_not(self):
        """{path: reason} of images that nothing can be done with; those of a whole file system under its path."""
        return {i["path"]: i["why_not"] for i in self.images + self.file_systems if i["why_not"]}

    def states(self):
        return Counter(s["state"] for s in self.steps)


def compact_command(store, catalog, *more):
    return [DEDUPSCAN, "compact", "--json", "--no-idle", "--keep-originals", "0", "--catalog", catalog, "--jobs", "2", *more, store]


def compact(store, catalog, *more, want=(0,)):
    done = subprocess.run(compact_command(store, catalog, *more), capture_output=True, check=False)
    said = done.stderr.decode("utf-8", "replace")
    if done.returncode not in want:
        fail(f"dedupscan compact {' '.join(more)}: exit status {done.returncode}: {said}")
    plan = Plan(done.stdout) if done.stdout.strip() else None
    if plan:
        plan.status, plan.said = done.returncode, said
    return plan


# ---- processes ----


def family(pid):
    """The process and all that it started."""
    yield pid
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as f:
                children = f.read().split()
            for child in children:
                yield from family(int(child))


def memory_of(pid):
    """Bytes, shared pages counted once."""
    pss = 0
    for member in family(pid):
        with contextlib.suppress(OSError), open(f"/proc/{member}/smaps_rollup", encoding="ascii") as f:
            pss += sum(int(line.split()[1]) << 10 for line in f if line.startswith("Pss:"))
    return pss


class Watched:
    """A program that was run: wall and processor seconds, the most memory that it and its children had at a time."""

    def __init__(self, command):
        self.peak = 0
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
            began = time.perf_counter()
            p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=said)
            done = use = 0
            while not done:
                self.peak = max(self.peak, memory_of(p.pid))
                time.sleep(0.01)
                done, status, use = os.wait4(p.pid, os.WNOHANG)
            self.wall, self.cpu = time.perf_counter() - began, use.ru_utime + use.ru_stime
            p.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            said.seek(0)
            self.output = out.read().decode("utf-8", "replace")
            if p.returncode:
                fail(f"{' '.join(command)}: status {p.returncode}: {said.read().decode('utf-8', 'replace')}{self.output[:2000]}")


def die_with_parent():
    """For preexec_fn."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
