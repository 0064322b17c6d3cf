#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A report by brute force, to hold dedupscan's against: every block of every image in a dictionary.

Nothing of it is shared with dedupscan.  QEMU says which bytes an image stores (qemu-img map, with the backing file taken
away) and what they are (qemu-img convert -O raw); internal snapshots and VHDX, which qemu-img cannot map, are read by walks over
their tables written here; raw files are asked by SEEK_DATA.  Blocks are compared by BLAKE2b, shares added up as fractions.

A library: `Store(DIR).report()` gives what `dedupscan report --json DIR` should say, `differences()` compares.  Run with a
directory it prints that; run without, it counts a small store whose figures were worked out by hand."""

import bisect
import hashlib
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from fractions import Fraction

from lib_compact import extents_on_disk

BLOCK = 4096
ZEROS = bytes(BLOCK)
LAYER_UNIT = 2 << 20
RUN_LENGTHS = (4 << 10, 16 << 10, 64 << 10, 1 << 20)
COPIED, COMPRESSED, OFFSET = 1 << 63, 1 << 62, 0x00FFFFFFFFFFFE00


class NotRead(Exception):
    """An image that qemu-img does not read either."""


def qemu_img(*args):
    done = subprocess.run(["qemu-img", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        raise NotRead(f"qemu-img {' '.join(map(str, args))}: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout


def round_up(n, unit):
    return -(-n // unit) * unit


class View:
    """The stored view of one image."""

    def __init__(self, path):
        self.path = path
        st = os.stat(path)
        self.file_size, self.file_used = st.st_size, st.st_blocks * 512
        self.format, self.backing, self.nr_snapshots = "raw", "", 0
        self.virtual_size = st.st_size
        self.layer = 0
        self.blocks = []  # (number, digest) of those that are not zero, in order
        self.stored = 0  # blocks
        self.unsure = 0  # of these: in holes of a qcow2 file, so that it is a matter of taste whether they are stored

    def add(self, number, data, sure=True):
        self.stored += 1
        if data != ZEROS:
            self.blocks.append((number, hashlib.blake2b(data, digest_size=16).digest()))
        elif not sure:
            self.unsure += 1

    def add_extents(self, f, extents):
        """Extents (from, to, sure) in order, of bytes that lie in f at the same offsets; what is between them is zeros."""
        number, block, sure, any_block = 0, bytearray(BLOCK), False, False
        for begin, end, extent_sure in extents:
            at = begin
            while at < end:
                if any_block and at // BLOCK != number:
                    self.add(number, bytes(block), sure)
                    any_block = False
                if not any_block:
                    number, any_block, sure = at // BLOCK, True, False
                    block = bytearray(BLOCK)
                upto = min(end, (number + 1) * BLOCK)
                data = os.pread(f.fileno(), upto - at, at)
                block[at - number * BLOCK:at - number * BLOCK + len(data)] = data
                sure = sure or extent_sure
                at = upto
        if any_block:
            self.add(number, bytes(block), sure)


def file_extents(fd, size):
    at = 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return
        at = min(os.lseek(fd, begin, os.SEEK_HOLE), size)
        yield begin, at, True


def written_extents(path):
    """What nobody wrote, though its space is reserved, is left out: for SEEK_DATA that is a hole until somebody reads it."""
    try:
        return [(at, at + length, True) for at, _, length in extents_on_disk(path)]
    except OSError:  # no maps of extents here
        with open(path, "rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return list(file_extents(f.fileno(), os.fstat(f.fileno()).st_size))


def raw_view(path):
    v = View(path)
    v.layer = max(round_up(v.virtual_size, LAYER_UNIT), LAYER_UNIT)
    with open(path, "rb") as f:
        v.add_extents(f, list(file_extents(f.fileno(), v.virtual_size)))
    return v


# ---- qcow2 ----

def without_backing(path):
    return "json:" + json.dumps({"driver": "qcow2", "file": {"driver": "file", "filename": path}, "backing": None})


def qcow2_extents(name, file_data):
    return cut_at_holes(json.loads(qemu_img("map", "--output=json", name)), lambda e: file_data)


def cut_at_holes(extents, file_data_of):
    """What QEMU says is data, cut where the file's holes begin and end."""
    for e in extents:
        if e["depth"] != 0 or not e["data"]:
            continue
        file_data = file_data_of(e)
        at, end = e["start"], e["start"] + e["length"]
        if "offset" in e:
            shift = e["start"] - e["offset"]
            i = max(0, bisect.bisect_right(file_data, (e["offset"],)) - 1)
            for begin, upto, _ in file_data[i:]:
                if begin + shift >= end:
                    break
                if upto + shift > at:
                    yield from ([(at, begin + shift, False)] if begin + shift > at else [])
                    yield max(at, begin + shift), min(end, upto + shift), True
                    at = min(end, upto + shift)
        if at < end:
            yield at, end, "offset" not in e


class Tables:
    """L1, L2 and snapshot tables of an image: what each layer stores where.  file_data: the parts of the file that are no holes."""

    def __init__(self, path, file_data):
        self.file = open(path, "rb")  # pylint: disable=consider-using-with
        (_, self.version, _, _, bits, self.size, _, l1_size, l1, _, _, nr, at) = struct.unpack(">IIQIIQIIQQIIQ", self.at(0, 72))
        self.cluster_bits, self.cluster = bits, 1 << bits
        features = struct.unpack(">Q", self.at(72, 8))[0] if self.version > 2 else 0
        self.zstd, self.ids, self.disks = bool(features & 8 and self.at(104, 1)[0]), [None], {}
        self.entry, self.subs = (16, 32) if features & 16 else (8, 1)
        self.data = file_data
        self.layers = [self.read_layer(l1, l1_size)]
        self.end = self.size
        for _ in range(nr):
            l1, l1_size, id_len, name_len, *_, extra = struct.unpack(">QIHHIIQII", self.at(at, 40))
            self.layers.append(self.read_layer(l1, l1_size))
            self.ids.append(self.at(at + 40 + extra, id_len).decode())
            disk = struct.unpack(">Q", self.at(at + 48, 8))[0] if extra >= 16 else self.size
            self.end = max(self.end, min(disk, l1_size * self.cluster * (self.cluster // self.entry)))
            at += round_up(40 + extra + id_len + name_len, 8)

    def at(self, offset, length):
        data = os.pread(self.file.fileno(), length, offset)
        return data + bytes(length - len(data))

    def read_layer(self, l1, l1_size):
        """{guest offset: (host offset or descriptor, packed, length)} of all that is stored, by subclusters"""
        per_l2, sub = self.cluster // self.entry, self.cluster // self.subs
        found = {}
        for i, e in enumerate(struct.unpack(f">{l1_size}Q", self.at(l1, 8 * l1_size))):
            if not e & OFFSET:
                continue
            words = struct.unpack(f">{self.cluster // 8}Q", self.at(e & OFFSET, self.cluster))
            for j in range(per_l2):
                word = words[j * self.entry // 8]
                guest = (i * per_l2 + j) * self.cluster
                if word & COMPRESSED:
                    found[guest] = (word & ~COPIED, True, self.cluster)
                    continue
                bitmap = words[2 * j + 1] if self.subs > 1 else not word & 1 and word & OFFSET != 0
                for s in range(self.subs):
                    if bitmap >> s & 1:
                        found[guest + s * sub] = ((word & OFFSET) + s * sub, False, sub)
        return found

    def content(self, k, guest, held):
        where, packed, length = held
        if not packed:
            return self.at(where, length)
        if self.zstd:  # Python has no zstd: QEMU reads that snapshot
            if k not in self.disks:
                self.disks[k] = tempfile.NamedTemporaryFile()  # pylint: disable=consider-using-with
                snapshot = ["-l", f"snapshot.id={self.ids[k]}"] if k else []
                qemu_img("convert", *snapshot, "-O", "raw", without_backing(self.file.name), self.disks[k].name)
            with open(self.disks[k].name, "rb") as f:
                data = os.pread(f.fileno(), length, guest)
            return data + bytes(length - len(data))
        bits = 70 - self.cluster_bits
        offset, sectors = where & (1 << bits) - 1, (where & ~COMPRESSED) >> bits
        return zlib.decompressobj(-12).decompress(self.at(offset, (sectors + 1) * 512 - offset % 512), self.cluster)

    def cut(self, at, length, held):
        """The parts of a cluster that lies at `at` of the view: (from, to, sure)."""
        where, packed, _ = held
        end = at + length
        if packed:
            yield at, end, True
            return
        for begin, upto, _ in self.data[max(0, bisect.bisect_right(self.data, (where,)) - 1):]:
            begin, upto = max(begin - where, 0) + at, min(upto - where + at, end)
            if begin >= end:
                break
            if upto > at:
                if begin > at:
                    yield at, begin, False
                yield max(at, begin), upto, True
                at, where = upto, where + upto - at
        if at < end:
            yield at, end, False


def snapshot_view(v, now, file_data):
    """now: a file with the disk as it is"""
    t = Tables(v.path, file_data)
    v.layer = max(round_up(t.end, LAYER_UNIT), LAYER_UNIT)
    pieces = []
    for k, layer in enumerate(t.layers):
        for guest, held in sorted(layer.items()):
            if any(earlier.get(guest, ())[:2] == held[:2] for earlier in t.layers[:k]):
                continue
            length = min(held[2], v.layer - guest)
            pieces.append((k * v.layer + guest, length, t.content(k, guest, held)[:length], held))
    with tempfile.TemporaryFile() as f:
        for at, length, data, *_ in pieces:
            os.pwrite(f.fileno(), data, at)
        for at, length, data, held in pieces:  # the walk and QEMU must agree on the disk as it is
            if at < v.virtual_size:
                if os.pread(now.fileno(), length, at) != data[:max(0, v.virtual_size - at)]:
                    raise AssertionError(f"{v.path}: brute force read other bytes than QEMU at {at} ({held})")
        v.add_extents(f, [part for at, length, _, held in pieces for part in t.cut(at, length, held)])
    t.file.close()


def qcow2_view(path, tmp):
    v = View(path)
    name = without_backing(path)
    info = json.loads(qemu_img("info", "--output=json", path))
    v.format, v.virtual_size, v.backing = "qcow2", info["virtual-size"], info.get("backing-filename", "")
    v.nr_snapshots = len(info.get("snapshots", []))
    file_data = written_extents(path)
    extents = [] if v.nr_snapshots else list(qcow2_extents(name, file_data))
    with tempfile.NamedTemporaryFile(dir=tmp) as raw:
        qemu_img("convert", "-O", "raw", name, raw.name)
        with open(raw.name, "rb") as f:
            if v.nr_snapshots:
                snapshot_view(v, f, file_data)
            else:
                v.layer = max(round_up(v.virtual_size, LAYER_UNIT), LAYER_UNIT)
                v.add_extents(f, extents)
    return v


# ---- other formats ----

QEMU_NAMES = {"vhd": "vpc"}


def descriptor_of(path):
    """The text descriptor of a VMDK that lies in other files, or None."""
    with open(path, "rb") as f:
        text = f.read(4096)
    return text.decode("utf-8", "replace") if text.startswith(b"# Disk DescriptorFile") else None


def extents_of(path):
    """The files that the image lies in besides its own."""
    found = re.findall(r'^RW \d+ (?:FLAT|SPARSE) "([^"]+)"', descriptor_of(path) or "", re.M) if path.endswith(".vmdk") else []
    return [os.path.join(os.path.dirname(path), name) for name in dict.fromkeys(found)]


def vhdx_map(path, size):
    """QEMU does not map VHDX: a walk over the block allocation table, in the form of qemu-img map."""
    with open(path, "rb") as f:
        def at(offset, form):
            f.seek(offset)
            return struct.unpack(form, f.read(struct.calcsize(form)))
        regions = {}
        for i in range(at(192 << 10, "<4sIII")[2]):
            guid, offset, _, _ = at((192 << 10) + 16 + 32 * i, "<16sQII")
            regions[guid[:4]] = offset
        bat, metadata = regions[bytes.fromhex("6677c22d")], regions[bytes.fromhex("06a27c8b")]
        items = {}
        for i in range(at(metadata, "<8sHH")[2]):
            guid, offset = at(metadata + 32 + 32 * i, "<16sI")
            items[guid[:4]] = metadata + offset
        block = at(items[bytes.fromhex("3767a1ca")], "<I")[0]
        sector = at(items[bytes.fromhex("1dbf4181")], "<I")[0]
        ratio = (1 << 23) * sector // block  # blocks, after which the table has an entry for their bitmap
        for i in range(round_up(size, block) // block):
            entry = at(bat + 8 * (i + i // ratio), "<Q")[0]
            if entry & 7 == 6:
                yield {"depth": 0, "data": True, "start": i * block, "length": min(block, size - i * block),
                       "offset": entry >> 20 << 20}


def disk_extents(path, kind, size):
    if kind == "vhdx":
        extents = list(vhdx_map(path, size))
    else:
        extents = json.loads(qemu_img("map", "-f", QEMU_NAMES.get(kind, kind), "--output=json", path))
    known = {}

    def file_data_of(e):
        name = e.get("filename", path)
        if name not in known:
            known[name] = written_extents(name)
        return known[name]
    return list(cut_at_holes(extents, file_data_of))


def disk_size(path, kind):
    return json.loads(qemu_img("info", "-f", QEMU_NAMES.get(kind, kind), "--output=json", path))["virtual-size"]


def add_disks(v, disks, tmp):
    """Disks (path, kind) are layers, one after the other."""
    sizes = [disk_size(*d) for d in disks]
    v.virtual_size = sum(sizes)
    v.layer = max(round_up(max(sizes), LAYER_UNIT), LAYER_UNIT)
    with tempfile.NamedTemporaryFile(dir=tmp) as raw, tempfile.TemporaryFile(dir=tmp) as all_of_it:
        extents = []
        for i, (path, kind) in enumerate(disks):
            qemu_img("convert", "-f", QEMU_NAMES.get(kind, kind), "-O", "raw", path, raw.name)
            with open(raw.name, "rb") as f:
                os.pwrite(all_of_it.fileno(), f.read(), i * v.layer)
            extents += [(i * v.layer + a, i * v.layer + b, sure) for a, b, sure in disk_extents(path, kind, sizes[i])]
        v.add_extents(all_of_it, extents)


def other_view(path, kind, tmp):
    v = View(path)
    v.format = kind
    if kind != "ova":
        add_disks(v, [(path, kind)], tmp)
        return v
    with tempfile.TemporaryDirectory(dir=tmp) as folder, tarfile.open(path) as tar:
        names = [n for n in tar.getnames() if n.endswith(".vmdk")]
        for name in names:
            with open(os.path.join(folder, name), "wb") as f:
                shutil.copyfileobj(tar.extractfile(name), f)
        add_disks(v, [(os.path.join(folder, n), "vmdk") for n in names], tmp)
    return v


# ---- counting ----

def is_part(path):
    """By its name or header it can only be one."""
    with open(path, "rb") as f:
        head = f.read(4096)
    if path.endswith("-flat.vmdk"):
        return True
    return head[:4] == b"KDMV" and not head[512 * struct.unpack_from("<Q", head, 28)[0]:].startswith(b"# Disk DescriptorFile")


def kind_of(path, st):
    with open(path, "rb") as f:
        if f.read(4) == b"QFI\xfb":
            return "qcow2"
    ending = os.path.splitext(path)[1][1:]
    if ending in ("vmdk", "vhd", "vhdx", "vdi", "ova"):
        return None if is_part(path) else ending
    if path.endswith((".raw", ".img")) or st.st_size >= 1 << 20 and st.st_size % 512 == 0:
        return "raw"
    return None


class Store:
    """A directory of images.  What did not change since the last report() is not read again, unless forget() is told."""

    def __init__(self, folder, tmp=None, broken=()):
        self.folder, self.tmp, self.broken = os.path.realpath(folder), tmp, set(broken)
        self.views = {}

    def forget(self):
        self.views = {}

    def view(self, path, st, kind):
        files = [st] + [os.stat(e) for e in extents_of(path)]
        key = (path, *((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in files))
        if key not in self.views:
            self.views[key] = raw_view(path) if kind == "raw" else qcow2_view(path, self.tmp) if kind == "qcow2" else \
                other_view(path, kind, self.tmp)
        v = self.views[key]
        v.path, v.file_used = path, sum(s.st_blocks for s in files) * 512
        return v

    def look(self):
        views, failed, nr_not_images = [], [], 0
        for folder, folders, names in os.walk(self.folder):
            folders.sort()
            for path in sorted(os.path.join(folder, n) for n in names):
                st = os.lstat(path)
                kind = kind_of(path, st) if stat.S_ISREG(st.st_mode) else None
                if os.path.relpath(path, self.folder) in self.broken or kind and not all(map(os.path.exists, extents_of(path))):
                    failed.append(path)
                elif kind:
                    views.append(self.view(path, st, kind))
                else:
                    nr_not_images += not stat.S_ISLNK(st.st_mode)
        return views, failed, nr_not_images

    def report(self):
        views, failed, nr_not_images = self.look()
        ranked = rank(views)
        report, images = count(ranked)
        report["totals"].update(nr_images=len(views) + len(failed), nr_failed=len(failed), nr_not_images=nr_not_images)
        report["images"] = sorted(images, key=lambda i: os.fsencode(i["path"]))
        report["failed"] = failed
        return report


def rank(views):
    by_path = {v.path: v for v in views}

    def depth(v):
        backing = v.backing[5:] if v.backing.startswith("file:") else v.backing
        base = by_path.get(os.path.realpath(os.path.join(os.path.dirname(v.path), backing))) if backing else None
        return 1 + depth(base) if base else 0

    return sorted(views, key=lambda v: (depth(v), os.fsencode(v.path)))


def half_up(f):
    return (2 * f.numerator + f.denominator) // (2 * f.denominator)


def count(ranked):
    groups = {}
    for r, v in enumerate(ranked):
        for number, digest in v.blocks:
            groups.setdefault(digest, []).append((r, number))
    offset_of = [max(v.layer // BLOCK, 1) for v in ranked]
    crossed = {"within_same": 0, "within_other": 0, "between_same": 0, "between_other": 0}
    images = [{"exclusive": 0, "shared": 0, "share": Fraction(0), "duplicate_within": 0, "duplicate_between": 0} for _ in ranked]
    histogram, duplicates = {}, []
    for places in groups.values():  # each in order of (rank, address), for so they were put in
        bucket = histogram.setdefault(1 << len(places).bit_length() - 1, [0, 0])
        bucket[0] += 1
        bucket[1] += len(places)
        in_image = {}
        for r, _ in places:
            in_image[r] = in_image.get(r, 0) + 1
        for r, nr in in_image.items():
            images[r]["share"] += Fraction(BLOCK * nr, len(places))
            if len(in_image) == 1:
                images[r]["exclusive"] += BLOCK
            else:
                images[r]["shared"] += nr * BLOCK
        seen_images, seen_offsets = set(), set()
        for i, (r, number) in enumerate(places):
            offset = number % offset_of[r]
            if i:
                where = "within" if r in seen_images else "between"
                crossed[where + ("_same" if offset in seen_offsets else "_other")] += BLOCK
                images[r]["duplicate_" + where] += BLOCK
                duplicates.append((r, number, places[0]))
            seen_images.add(r)
            seen_offsets.add(offset)
    rows = [dict(i, path=v.path, format=v.format, backing=v.backing, nr_snapshots=v.nr_snapshots, file_size=v.file_size,
                 file_used=v.file_used, virtual_size=v.virtual_size, stored=v.stored * BLOCK,
                 zero=(v.stored - len(v.blocks)) * BLOCK, unsure=v.unsure * BLOCK, share=half_up(i["share"]))
            for i, v in zip(images, ranked)]
    totals = {k: sum(i[k] for i in rows) for k in ("file_size", "file_used", "virtual_size", "stored", "unsure")}
    totals["nonzero"] = sum(map(len, groups.values())) * BLOCK
    totals["distinct"] = len(groups) * BLOCK
    totals["duplicates"] = totals["nonzero"] - totals["distinct"]
    totals.update(crossed, originals_file_used=0)
    return {"totals": totals, "runs": count_runs(duplicates),
            "histogram": [{"references": k, "nr_distinct": n, "nr_blocks": m} for k, (n, m) in sorted(histogram.items())]}, rows


def count_runs(duplicates):
    lengths = []
    last = None
    for r, number, (origin, origin_number) in sorted(duplicates):
        if last == (r, number - 1, (origin, origin_number - 1)):
            lengths[-1] += BLOCK
        else:
            lengths.append(BLOCK)
        last = (r, number, (origin, origin_number))
    return [{"min_length": n, "nr_runs": sum(1 for x in lengths if x >= n), "saved": sum(x for x in lengths if x >= n)}
            for n in RUN_LENGTHS]


# ---- comparing ----

def compare_stored(what, want, got, out):
    """Zero blocks in holes of a qcow2 file may be counted as stored or not, but as both stored and zero."""
    taken = want["stored"] - got["stored"]
    if not 0 <= taken <= want["unsure"] or taken % BLOCK:
        out.append(f"{what} stored: wanted {want['stored']} (of which unsure {want['unsure']}), got {got['stored']}")
    if "zero" in want and got["zero"] != want["zero"] - taken:
        out.append(f"{what} zero: wanted {want['zero'] - taken}, got {got['zero']}")


def differences(want, got):
    """What a JSON report says that it should not; an empty list when every figure is right."""
    out = []
    for k, v in want["totals"].items():
        if k not in ("stored", "unsure") and got["totals"].get(k) != v:
            out.append(f"totals {k}: wanted {v}, got {got['totals'].get(k)}")
    compare_stored("totals", want["totals"], got["totals"], out)
    shared = got["totals"]["fs_shared"]
    if got["totals"]["left_to_save"] != (None if shared is None else max(0, want["totals"]["duplicates"] - shared)):
        out.append(f"totals left_to_save: {got['totals']['left_to_save']} with fs_shared {shared}")
    for k in ("runs", "histogram"):
        if got[k] != want[k]:
            out.append(f"{k}: wanted {want[k]}, got {got[k]}")
    good = [i for i in got["images"] if i["error"] is None]
    failed = sorted(i["path"] for i in got["images"] if i["error"] is not None)
    if failed != sorted(want["failed"]):
        out.append(f"failed: wanted {want['failed']}, got {failed}")
    if [path_of(i) for i in got["images"] if i["error"] is None] != [os.fsencode(i["path"]) for i in want["images"]]:
        return out + [f"images: wanted {[i['path'] for i in want['images']]}, got {[i['path'] for i in good]}"]
    for w, g in zip(want["images"], good):
        compare_stored(w["path"], w, g, out)
        for k, v in w.items():
            if k not in ("path", "stored", "zero", "unsure") and g[k] != v:
                out.append(f"{w['path']} {k}: wanted {v}, got {g[k]}")
    if not got["complete"]:
        out.append("the report is not complete")
    return out


def path_of(image):
    return bytes.fromhex(image["path_bytes"]) if "path_bytes" in image else os.fsencode(image["path"])


# ---- by hand ----

def by_hand(tmp):
    """Two raw images.  a: A B A 0 C C C C, b: A C - A (- a hole), D at the end and 1 byte over."""
    a, b, c, d = (bytes([x]) * BLOCK for x in (1, 2, 3, 4))
    with open(os.path.join(tmp, "a.raw"), "wb") as f:
        f.write(a + b + a + ZEROS + c + c + c + c)
    with open(os.path.join(tmp, "b.raw"), "wb") as f:
        f.write(a + c)
        f.seek(3 * BLOCK)
        f.write(a + d[:1])
    got = Store(tmp).report()
    k = BLOCK
    t, (ia, ib) = got["totals"], got["images"]
    wanted = [
        (t["virtual_size"], 12 * k + 1), (t["stored"], 12 * k), (t["nonzero"], 11 * k), (t["distinct"], 4 * k),
        # a2 (A, other), a5 a6 a7 (C, other); b0 (A, same as a0), b1 (C, other); b3 (A, other, within)
        (t["within_same"], 0), (t["within_other"], 5 * k), (t["between_same"], k), (t["between_other"], k),
        (ia["zero"], k), (ia["exclusive"], k), (ia["shared"], 6 * k), (ia["duplicate_within"], 4 * k), (ia["duplicate_between"], 0),
        (ib["zero"], 0), (ib["exclusive"], k), (ib["shared"], 3 * k), (ib["duplicate_within"], k), (ib["duplicate_between"], 2 * k),
        # a: B, 2/4 A, 4/5 C = 4096 + 2048 + 3276.8; b: D, 2/4 A, 1/5 C
        (ia["share"], 9421), (ib["share"], 6963),
        # of b0 and b1 the originals a0 and a4 are apart; a5..a7 are all of a4
        (got["runs"][0], {"min_length": 4096, "nr_runs": 7, "saved": 7 * k}), (got["runs"][1]["nr_runs"], 0),
        (got["histogram"],
         [{"references": 1, "nr_distinct": 2, "nr_blocks": 2}, {"references": 4, "nr_distinct": 2, "nr_blocks": 9}]),
    ]
    for i, (have, want) in enumerate(wanted):
        if have != want:
            sys.exit(f"figure {i} worked out by hand: {want}, by brute force: {have}")
    print(f"{len(wanted)} figures as worked out by hand")


def main():
    if len(sys.argv) > 1:
        print(json.dumps(Store(sys.argv[1]).report(), indent=1))
        return
    tmp = tempfile.mkdtemp(prefix="brute.", dir=os.environ.get("TMP"))
    try:
        by_hand(tmp)
    finally:
        shutil.rmtree(tmp)


if __name__ == "__main__":
    main()
