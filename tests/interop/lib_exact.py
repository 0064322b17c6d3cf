# SPDX-License-Identifier: Apache-2.0
"""What the exact*.py tests share: running dedupscan, a store of every kind of image, random changes to it."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile

import brute
import lib_vmdk

DEDUPSCAN = os.path.abspath(os.environ.get("DEDUPSCAN") or "build/dedupscan")
ROOT = os.environ.get("ROOT") or os.getcwd()
LONG = bool(os.environ.get("LONG"))
KIB, MIB = 1 << 10, 1 << 20
BLOCK = 4096
SETTLE = 0.5  # seconds after which time stamps are old enough to be believed


def fail(text):
    print(f"FAILED: {text}")
    sys.exit(1)


def require_tools(*tools):
    for tool in tools:
        if not shutil.which(tool):
            print(f"needs {tool}")
            sys.exit(77)


def fresh_tmp():
    """TMP as tests/run gives it, else a folder that goes with the process."""
    if os.environ.get("TMP"):
        return os.environ["TMP"]
    folder = tempfile.TemporaryDirectory(prefix="exact.", dir="/var/tmp")  # pylint: disable=consider-using-with
    fresh_tmp.keep = folder
    return folder.name


def command(verb, store, catalog, memory="256M", jobs=2, more=()):
    return [DEDUPSCAN, verb, "--no-idle", "--catalog", catalog, "--memory", memory, "--jobs", str(jobs), *more, store]


def report(store, catalog, memory="256M", jobs=2, more=(), want=(0, 1)):
    """The JSON report; exit status 1 says that images could not be read, which the comparison sees."""
    done = subprocess.run(command("report", store, catalog, memory, jobs, ("--json", *more)), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=False)
    said = done.stderr.decode("utf-8", "replace")
    if done.returncode not in want:
        fail(f"dedupscan report, --memory {memory} --jobs {jobs}: exit status {done.returncode}: {said}")
    r = json.loads(done.stdout)
    strays = said.count("it is a part of an image whose descriptor")
    if (done.returncode == 1) != (r["totals"]["nr_failed"] + strays > 0):
        fail(f"exit status {done.returncode} with {r['totals']['nr_failed']} images that could not be read: {said}")
    r["said"] = said
    return r


def lasting(r):
    """What of a report must be the same whenever and however often the same images were scanned.  A warning is as old as its
    image's last reading: that a file deep in its backing chain has come back does not show in the image.  Zeros in clusters that
    were reserved and never written are stored or not as the page cache has it, so stored and zero count as their difference;
    must_be_exact() looks at them more closely."""
    images = []
    for i in r["images"]:
        images.append({k: v for k, v in i.items() if k not in ("id", "scanned_at", "warning", "stored", "zero")})
        images[-1]["nonzero"] = i["stored"] - i["zero"] if i["stored"] is not None else None
    totals = {k: v for k, v in r["totals"].items() if k != "stored"}
    return {"complete": r["complete"], "totals": totals, "runs": r["runs"], "histogram": r["histogram"], "images": images}


def must_be_exact(want, got, what):
    wrong = brute.differences(want, got)
    if wrong:
        fail(f"{what}: {len(wrong)} figures differ from brute force\n  " + "\n  ".join(wrong[:30]))


def must_be_same(a, b, what):
    a, b = lasting(a), lasting(b)
    if a == b:
        return
    for k in a:
        if a[k] != b[k]:
            rows = [(x, y) for x, y in zip(a[k], b[k]) if x != y] if isinstance(a[k], list) else [(a[k], b[k])]
            print(f"{k}: {rows[:3]}")
    fail(what)


def check_tidy(catalog):
    """After a complete scan: nothing is left in the spool, and the index has the files that the catalog names."""
    left = os.listdir(os.path.join(catalog, "spool"))
    if left:
        fail(f"left in the spool: {left}")
    db = sqlite3.connect(os.path.join(catalog, "catalog.db"))
    named = sorted(r[0] for r in db.execute("SELECT name FROM tables"))
    db.close()
    there = sorted(os.listdir(os.path.join(catalog, "index")))
    if there != named:
        fail(f"the index has {set(there) ^ set(named)} that catalog and directory do not agree on")
    odd = set(os.listdir(catalog)) - {"catalog.db", "catalog.db-wal", "catalog.db-shm", "index", "spool", "summary", "lock"}
    if odd:
        fail(f"left in the catalog: {odd}")


# ---- a store ----

def run(*args, may_fail=False):
    done = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode and not may_fail:
        fail(f"{' '.join(map(str, args))}: {done.stdout.decode('utf-8', 'replace')}")
    return done.returncode == 0


class Maker:
    """Makes images and changes them, from a small stock of content so that much of it repeats."""

    def __init__(self, folder, work, seed):
        self.folder, self.work = folder, work
        self.rng = random.Random(seed)
        self.nr = 0
        os.makedirs(folder)
        os.makedirs(work)
        blocks = [self.rng.randbytes(BLOCK) for _ in range(500)]
        self.sources = []
        for i, nr in enumerate([1, 1, 2, 3, 4, 5, 16, 17, 40, 64, 257, 300]):
            start = self.rng.randrange(0, len(blocks))
            data = b"".join(blocks[(start + k) % len(blocks)] for k in range(nr))
            if i % 3 == 1:  # some of it at no multiple of 4096, or with zeros
                data = data[512:] + bytes(BLOCK)
            path = os.path.join(work, f"source{i}")
            with open(path, "wb") as f:
                f.write(data)
            self.sources.append((path, len(data)))

    def path(self, name):
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def create(self, name, size, backing=None, **options):
        path = self.path(name)
        spelled = ",".join(f"{k}={v}" for k, v in options.items()) or "compat=1.1"
        base = ["-b", backing, "-F", "qcow2"] if backing else []
        run("qemu-img", "create", "-q", "-f", "qcow2", *base, "-o", spelled, path, *([str(size)] if size else []))
        return path

    def io(self, path, *commands, may_fail=False, form="qcow2"):
        args = [x for c in commands for x in ("-c", c)]
        return run("qemu-io", "-d", "unmap", "-f", form, *args, path, may_fail=may_fail)

    def write_command(self, size, unit, flags=""):
        source, length = self.rng.choice(self.sources)
        at = self.rng.randrange(0, size) // unit * unit
        length = min(length, size - at) // 512 * 512
        if flags and unit > 512:
            at, length = at // unit * unit, min(unit, size - at)
        return f"write {flags} -s {source} {at} {length}" if length else f"write -P 7 {at} {min(512, size)}"

    def fill(self, path, size, nr, unit=BLOCK, flags=""):
        """Compressed clusters cannot be written over."""
        self.io(path, *[self.write_command(size, unit, flags) for _ in range(nr)], may_fail=bool(flags))

    def raw(self, name, data, at=0, size=None):
        path = os.path.join(os.fsencode(self.folder), os.fsencode(name))
        with open(path, "wb") as f:
            f.seek(at)
            f.write(data)
            if size is not None:
                f.truncate(size)
        return path

    def make_qcow2s(self):
        self.fill(self.create("c512.qcow2", 3 * MIB + 512, cluster_size=512), 3 * MIB + 512, 30, 512)
        self.fill(self.create("c4k.qcow2", 8 * MIB, cluster_size=4096), 8 * MIB, 30)
        path = self.create("c64k.qcow2", 20 * MIB)
        self.fill(path, 20 * MIB, 20)
        self.io(path, "write -P 0 1M 200k", "write -z 3M 300k", "discard 5M 1M", "write -z -u 9M 1M")
        self.fill(self.create("big clusters/c2m.qcow2", 40 * MIB, cluster_size=2 * MIB), 40 * MIB, 8)
        self.fill(self.create("extended.qcow2", 8 * MIB, cluster_size=128 * KIB, extended_l2="on"), 8 * MIB, 30, 512)
        path = self.create("packed.qcow2", 8 * MIB)
        self.fill(path, 8 * MIB, 8, 64 * KIB, "-c")
        self.fill(path, 8 * MIB, 4)
        run("qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", path, self.path("zstd.qcow2"))
        self.fill(self.create("odd.qcow2", MIB + 512), MIB + 512, 12, 512)
        self.fill(self.create("five-sectors.qcow2", 5 * 512), 5 * 512, 2, 512)
        self.create("empty.qcow2", 64 * MIB)
        self.io(self.create("all-zero.qcow2", 4 * MIB), "write -P 0 0 4M")

    def make_snapshots(self):
        for name, options in (("snap.qcow2", {}), ("snap4k.qcow2", {"cluster_size": 4096}),
                              ("snap-ext.qcow2", {"cluster_size": 64 * KIB, "extended_l2": "on"})):
            path = self.create(name, 5 * MIB + 1536, **options)
            for i in range(3):
                self.fill(path, 5 * MIB + 1536, 5, 512)
                run("qemu-img", "snapshot", "-c", f"s{i}", path)
            self.io(path, *[self.write_command(5 * MIB, 64 * KIB, "-c") for _ in range(2)], may_fail=True)
            run("qemu-img", "snapshot", "-c", "packed", path)
            run("qemu-img", "resize", "-q", path, f"{7 * MIB}")
            self.fill(path, 7 * MIB, 3)

    def make_chains(self):
        base = self.create("chain/base.qcow2", 10 * MIB)
        self.fill(base, 10 * MIB, 15)
        mid = self.create("aaa-mid.qcow2", None, "chain/base.qcow2")
        self.fill(mid, 10 * MIB, 8, 512)
        self.fill(self.create("chain/top.qcow2", None, "../aaa-mid.qcow2", cluster_size=4096), 10 * MIB, 8, 512)
        self.fill(self.create("0-clone.qcow2", None, base), 10 * MIB, 6)

    def make_raws(self):
        pool = [self.rng.randbytes(BLOCK) for _ in range(64)]
        hot = self.rng.randbytes(BLOCK)
        some = b"".join(self.rng.choice(pool) for _ in range(300))
        self.raw("sparse.raw", some, 5 * MIB, 30 * MIB)
        self.raw("shifted.img", some + pool[0] + some + pool[1] * 3 + some[4 * BLOCK:] + bytes(9 * BLOCK) + some)
        long = self.rng.randbytes(310 * BLOCK)
        self.raw("long.raw", long + pool[0] + long + long[:256 * BLOCK] + long[:255 * BLOCK])
        self.raw("odd.raw", some[:20 * BLOCK] + b"end", size=20 * BLOCK + 3)
        self.raw("tiny.raw", b"x" * 513)
        self.raw("nothing.raw", b"")
        self.raw("zeros.raw", bytes(3 * MIB))
        self.raw("all-hole.raw", b"", size=50 * MIB)
        self.raw("by-its-size", some[:BLOCK] * 3 + some, size=2 * MIB)
        self.raw(b"not-utf8-\xff\xfe.raw", some[:7 * BLOCK])
        self.raw("quote'\n\x1b[31m.raw", some[BLOCK:7 * BLOCK])
        # one block more often than a group is held in memory, over several images
        self.raw("hot1.raw", hot * 9000 + some[:50 * BLOCK])
        self.raw("hot2.raw", some[:3 * BLOCK] + hot * 2000 + pool[2] + hot * 3001)
        self.raw("hot3.raw", hot * 5000, 2048 * BLOCK)
        # shares that come out at exactly half a byte: 1/8192 of a block, and thirds that add up to a whole one
        half, third = self.rng.randbytes(BLOCK), self.rng.randbytes(BLOCK)
        self.raw("half1.raw", half + third * 3)
        self.raw("half2.raw", half * 8191)

    def make_formats(self):
        """Disks of the same contents in every format."""
        for form, name, options in (
                ("vmdk", "c64k", "subformat=monolithicSparse"), ("vmdk", "c4k", "subformat=monolithicFlat"),
                ("vmdk", "extended", "subformat=twoGbMaxExtentSparse"), ("vmdk", "snap", "subformat=streamOptimized"),
                ("vpc", "c64k", "subformat=dynamic,force_size=on"), ("vpc", "c4k", "subformat=fixed,force_size=on"),
                ("vhdx", "c64k", "subformat=dynamic"), ("vhdx", "c4k", "subformat=fixed"), ("vdi", "c64k", "static=off")):
            self.convert(name, form, options,
                         self.path(f"formats/{name}-{options.split('=')[1].split(',')[0]}.{self.ENDINGS[form]}"))
        for i in range(2):
            self.raw(f"formats/two-f{i}-flat.vmdk", self.rng.randbytes(40 * BLOCK) + bytes(20 * BLOCK), size=MIB)
        with open(self.path("formats/two.vmdk"), "w", encoding="ascii") as f:
            f.write(lib_vmdk.descriptor([f'RW 2048 FLAT "two-f{i}-flat.vmdk" 0' for i in range(2)], "twoGbMaxExtentFlat"))
        self.make_ova(self.path("formats/two-disks.ova"), ["c64k", "extended"])
        for name in ("zstd", "odd"):
            shutil.copyfile(self.path(f"{name}.qcow2"), os.path.join(self.work, f"{name}.qcow2"))

    ENDINGS = {"vmdk": "vmdk", "vpc": "vhd", "vhdx": "vhdx", "vdi": "vdi"}

    def convert(self, name, form, options, path):
        """From a disk as it was in the beginning."""
        source = os.path.join(self.work, f"{name}.qcow2")
        if not os.path.exists(source):
            shutil.copyfile(self.path(f"{name}.qcow2"), source)
        run("qemu-img", "convert", "-f", "qcow2", "-O", form, *(["-o", options] if options else []), source, path)

    def make_ova(self, path, names):
        disks = [os.path.join(self.work, f"{n}.vmdk") for n in names]
        for name, disk in zip(names, disks):
            self.convert(name, "vmdk", "subformat=streamOptimized", disk)
        ovf = os.path.join(self.work, "disks.ovf")
        with open(ovf, "w", encoding="ascii") as f:
            f.write('<?xml version="1.0"?>\n<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"'
                    ' xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">\n<References>\n')
            f.writelines(f'<File ovf:id="f{i}" ovf:href="{n}.vmdk"/>\n' for i, n in enumerate(names))
            f.write("</References>\n<DiskSection><Info>disks</Info>\n")
            f.writelines(f'<Disk ovf:diskId="d{i}" ovf:fileRef="f{i}" ovf:capacity="{os.path.getsize(d)}"/>\n'
                         for i, d in enumerate(disks))
            f.write("</DiskSection>\n</Envelope>\n")
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for member in [ovf] + disks:
                tar.add(member, os.path.basename(member))

    def make_others(self):
        with open(self.path("notes.txt"), "w", encoding="utf-8") as f:
            f.write("not an image\n")
        os.symlink("sparse.raw", self.path("a-link.raw"))
        os.mkfifo(self.path("fifo.raw"))
        with open(self.path("c64k.qcow2"), "rb") as f:
            head = f.read(100000)
        self.raw("broken.qcow2", head)

    def make(self):
        self.make_qcow2s()
        self.make_snapshots()
        self.make_chains()
        self.make_raws()
        self.make_formats()
        self.make_others()
        os.sync()

    # ---- changes ----

    def pick(self, ending=None):
        found = []
        for folder, _, names in os.walk(os.fsencode(self.folder)):
            found += [os.path.join(folder, n) for n in names if n.endswith((b".qcow2", b".raw", b".img"))]
        found = [p for p in sorted(found) if os.path.isfile(p) and not os.path.islink(p) and not p.endswith(b"broken.qcow2")]
        found = [os.fsdecode(p) for p in found if not ending or p.endswith(ending)]
        return self.rng.choice(found) if found else None

    def change_write(self):
        path = self.pick(b".qcow2")
        size = self.size(path)
        done = [self.io(path, self.write_command(size, self.rng.choice([512, 4096, 65536])), may_fail=True)
                for _ in range(self.rng.randrange(1, 5))]
        return f"write {path} ({sum(done)} of {len(done)} done)"

    def change_write_raw(self):
        path = self.pick(b".raw")
        with open(path, "r+b") as f:
            f.seek(self.rng.randrange(0, os.path.getsize(path) + BLOCK) // 512 * 512)
            f.write(self.rng.randbytes(512) * self.rng.choice([1, 8, 20]))
        return f"write {path}"

    def change_discard(self):
        path = self.pick(b".qcow2")
        size = self.size(path)
        verb = self.rng.choice(["discard", "write -z", "write -z -u"])
        at = self.rng.randrange(0, size) // 65536 * 65536
        self.io(path, f"{verb} {at} {min(256 * KIB, size - at)}", may_fail=True)
        return f"{verb} {path}"

    def change_size(self):
        path = self.pick()
        if path.endswith(".qcow2"):
            size = self.size(path) + self.rng.choice([512, MIB, 3 * MIB])
            run("qemu-img", "resize", "-q", "-f", "qcow2", path, str(size), may_fail=True)
        else:
            size = max(0, os.path.getsize(path) + self.rng.choice([1, 512, 4096, MIB, -4096, -1, -MIB]))
            os.truncate(path, size)
        return f"resize {path} to {size}"

    def change_delete(self):
        path = self.pick()
        os.unlink(path)
        return f"delete {path}"

    def new_name(self, like):
        self.nr += 1
        stem, ending = os.path.splitext(os.path.basename(like))
        return self.path(self.rng.choice(["", "sub/", "zz/", "0/"]) + f"{stem[:20]}-{self.nr}{ending}")

    def change_rename(self):
        path = self.pick()
        new = self.new_name(path)
        os.rename(path, new)
        return f"rename {path} to {new}"

    def change_swap(self):
        a = self.pick()
        b = self.pick(os.fsencode(os.path.splitext(a)[1]))
        os.rename(a, a + ".tmp")
        if a != b:
            os.rename(b, a)
        os.rename(a + ".tmp", b)
        return f"swap {a} and {b}"

    def change_replace(self):
        a = self.pick()
        b = self.pick(os.fsencode(os.path.splitext(a)[1]))
        shutil.copyfile(b, a + ".tmp")
        os.rename(a + ".tmp", a)
        return f"replace {a} by a copy of {b}"

    def change_clone(self):
        path = self.pick()
        new = self.new_name(path)
        shutil.copyfile(path, new)
        return f"clone {path} to {new}"

    def change_touch(self):
        path = self.pick()
        os.utime(path)
        return f"touch {path}"

    def change_snapshot(self):
        path = self.pick(b".qcow2")
        how = self.rng.choice([("-c", f"n{self.nr}"), ("-d", "s1"), ("-a", "s0"), ("-d", "packed")])
        run("qemu-img", "snapshot", *how, path, may_fail=True)
        self.nr += 1
        return f"snapshot {how} {path}"

    def change_not_an_image(self):
        path = self.new_name("note.txt")
        with open(path, "wb") as f:
            f.write(b"hello")
        return f"add {path}"

    def pick_format(self, *endings):
        folder = self.path("formats")
        found = sorted(n for n in os.listdir(folder) if n.endswith(endings))
        return os.path.join(folder, self.rng.choice(found)) if found else None

    def change_write_format(self):
        path = self.pick_format(".vmdk", ".vhd", ".vhdx", ".vdi")
        form = {e: f for f, e in self.ENDINGS.items()}[path.rsplit(".", 1)[1]]
        done = [self.io(path, self.write_command(2 * MIB, 512), may_fail=True, form=form) for _ in range(3)]  # not to a stream
        return f"write {path} ({sum(done)} of {len(done)} done)"

    def change_extent(self):
        """Of the image's files only that."""
        path = self.pick_format("-flat.vmdk")
        if not path:
            return "no extent to change"
        with open(path, "r+b") as f:
            f.seek(self.rng.randrange(0, os.path.getsize(path) // 2) // 512 * 512)
            f.write(self.rng.randbytes(512) * self.rng.choice([1, 8, 20]))
        return f"write extent {path}"

    def change_swap_extents(self):
        a, b = (self.path(f"formats/two-f{i}-flat.vmdk") for i in range(2))
        if not os.path.exists(a) or not os.path.exists(b):
            return "no extents to swap"
        os.rename(a, a + ".tmp")
        os.rename(b, a)
        os.rename(a + ".tmp", b)
        return f"swap extents {a} and {b}"

    def change_away(self):
        """A file of an image goes, or one that went comes back."""
        away = os.path.join(self.work, "away")
        os.makedirs(away, exist_ok=True)
        gone = sorted(os.listdir(away))
        if gone and self.rng.random() < 0.7:
            name = self.rng.choice(gone)
            os.rename(os.path.join(away, name), self.path(f"formats/{name}"))
            return f"{name} comes back"
        path = self.pick_format(".vmdk")
        if not path:
            return "nothing to take away"
        for p in [path] + (brute.extents_of(path) if self.rng.random() < 0.5 else []):
            if os.path.exists(p):
                os.rename(p, os.path.join(away, os.path.basename(p)))
        return f"{path} goes"

    def change_replace_format(self):
        path = self.pick_format(".vhd", ".vhdx", ".vdi", ".ova", "c64k-monolithicSparse.vmdk")
        new = os.path.join(self.work, "new")
        if path.endswith(".ova"):
            self.make_ova(new, ["c4k", "odd"] if self.rng.random() < 0.5 else ["c64k"])
        else:
            form = {e: f for f, e in self.ENDINGS.items()}[path.rsplit(".", 1)[1]]
            self.convert("zstd", form, "force_size=on" if form == "vpc" else "", new)
        os.rename(new, path)
        return f"replace {path}"

    @staticmethod
    def size(path):
        return json.loads(brute.qemu_img("info", "--output=json", brute.without_backing(path)))["virtual-size"]

    CHANGES = [change_write, change_write, change_write_raw, change_discard, change_size, change_delete, change_rename,
               change_rename,
               change_swap, change_replace, change_clone, change_touch, change_snapshot, change_not_an_image,
               change_write_format, change_write_format, change_extent, change_swap_extents, change_away, change_replace_format]

    def change(self):
        return self.rng.choice(self.CHANGES)(self)
