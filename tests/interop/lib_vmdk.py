# SPDX-License-Identifier: Apache-2.0
"""Writes VMDK images from the specification (VMware's Virtual Disk Format 5.0), with everything that qemu-img cannot make: other
grain and table sizes, zeroed grains in any version, broken directories with a redundant one, streams with a footer, disks of
several files, ranges of zeros, descriptors as people and programs write them."""

import os
import struct
import zlib

SECTOR = 512
NO_PARENT = 0xFFFFFFFF
HAS_NEWLINES, HAS_REDUNDANT, HAS_ZEROED, COMPRESSED, MARKERS = 1, 2, 4, 1 << 16, 1 << 17
AT_END = (1 << 64) - 1
ZEROED = "zeroed"


def sectors(n):
    return -(-n // SECTOR)


def header(version, flags, capacity, grain, descriptor=0, descriptor_size=0, gtes=512, rgd=0, gd=0, overhead=0, unclean=0,
           newlines=b"\n \r\n", compression=0):
    return struct.pack("<4sIIQQQQIQQQB4sH433x", b"KDMV", version, flags, capacity, grain, descriptor, descriptor_size, gtes, rgd,
                       gd, overhead, unclean, newlines, compression)


def marker(value, kind):
    return struct.pack("<QII496x", value, 0, kind)


def descriptor(lines, kind, cid=0x12345678, parent=NO_PARENT, hint=None, adapter="lsilogic", version=1):
    text = ["# Disk DescriptorFile", f"version={version}", 'encoding="UTF-8"', f"CID={cid:08x}", f"parentCID={parent:08x}",
            f'createType="{kind}"']
    if hint:
        text.append(f'parentFileNameHint="{hint}"')
    text += ["", "# Extent description"] + lines + ["", "# The Disk Data Base", "#DDB", ""]
    text += [f'ddb.adapterType = "{adapter}"', 'ddb.geometry.cylinders = "16"', 'ddb.virtualHWVersion = "4"']
    return "\n".join(text) + "\n"


def restyled(text, rng):
    """The same descriptor as somebody else may write it; QEMU does not read all of these."""
    lines = []
    for line in text.split("\n"):
        roll = rng.random()
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            if roll < 0.2:
                key = key.upper()
            elif roll < 0.4:
                key = f" {key}  "
                value = "\t" + value
            elif roll < 0.5 and '"' not in value:
                value = f'"{value}"'
            line = key + "=" + value
        elif line[:2] in ("RW", "RD") and roll < 0.3:
            access, rest = line.split(" ", 1)
            size, kind, rest = (rest + " ").split(" ", 2)
            line = f"  {access.lower()}\t{size}  {kind.lower()} {rest}  "
        lines.append(line)
        if roll > 0.9:
            lines.append(rng.choice(["", "# a comment", "   ", 'unknown.key = "a=b"', "#createType=\"vmfsRaw\"",
                                     "words of no kind"]))
    return ("\ufeff" if rng.random() < 0.2 else "") + rng.choice(["\n", "\r\n"]).join(lines)


class Sparse:
    """A sparse extent: {index of the grain: bytes or ZEROED}."""

    def __init__(self, capacity, grain=128, gtes=512, version=1, zeroed=False, redundant=False, compressed=False):
        self.capacity, self.grain, self.gtes, self.version = capacity, grain, gtes, version
        self.zeroed, self.redundant, self.compressed = zeroed, redundant, compressed
        self.at_end = compressed  # the directory of a stream: in the footer or in the header
        self.all_tables = False  # also those without entries
        self.broken = None  # the primary directory: "entries" or "offset"
        self.text = None  # of the embedded descriptor
        self.newlines = True
        self.unclean = 0
        self.grains = {}
        self.offsets = {}  # of each grain's data in the file, once written
        self.bytes = bytearray()

    def random(self, rng):
        """Fills in what is free to choose, and grains."""
        nr = -(-self.capacity // self.grain)
        for _ in range(rng.choice([0, 1, 3, 10, 40])):
            first = rng.randrange(nr)
            for i in range(first, min(nr, first + rng.choice([1, 1, 2, 5, 20]))):
                roll = rng.random()
                if self.zeroed and roll < 0.2:
                    self.grains[i] = ZEROED
                elif roll < 0.9:
                    self.grains[i] = self.random_grain(rng)
                else:
                    self.grains.pop(i, None)
        self.all_tables = rng.random() < 0.5
        self.newlines = rng.random() < 0.8
        self.unclean = int(rng.random() < 0.1)
        if self.redundant and rng.random() < 0.4:
            self.broken = rng.choice(["entries", "offset"])
        if self.compressed:
            self.at_end = rng.random() < 0.7

    def random_grain(self, rng):
        size = self.grain * SECTOR
        return rng.choice([lambda: bytes([rng.randrange(1, 256)]) * size, lambda: rng.randbytes(size),
                           lambda: (b"a text that packs well %d " % rng.randrange(99) * (size // 20))[:size]])()

    def add(self, content):
        """Appends whole sectors; returns the number of the first."""
        self.bytes += bytes(-len(self.bytes) % SECTOR)
        at = len(self.bytes) // SECTOR
        self.bytes += content + bytes(-len(content) % SECTOR)
        return at

    def stored_size(self, i):
        return min(self.grain, self.capacity - i * self.grain) * SECTOR

    def nr_tables(self):
        return -(-self.capacity // (self.grain * self.gtes))

    def has_table(self, i):
        return self.all_tables or any(g // self.gtes == i for g in self.grains)

    def table(self, i, where):
        """The entries of one grain table, cut where the extent ends."""
        nr = min(self.gtes, -(-self.capacity // self.grain) - i * self.gtes)
        return struct.pack(f"<{nr}I", *(where.get(i * self.gtes + k, 0) for k in range(nr)))

    def add_tables(self, where, mark=False):
        entries = []
        for i in range(self.nr_tables()):
            if not self.has_table(i):
                entries.append(0)
                continue
            content = self.table(i, where)
            if mark:
                self.add(marker(sectors(len(content)), 1))
            entries.append(self.add(content))
        content = struct.pack(f"<{len(entries)}I", *entries)
        if mark:
            self.add(marker(sectors(len(content)), 2))
        return self.add(content), entries

    def flags(self):
        return (HAS_NEWLINES * self.newlines | HAS_REDUNDANT * self.redundant | HAS_ZEROED * self.zeroed
                | (COMPRESSED | MARKERS) * self.compressed)

    def put_header(self, at, gd, rgd=0, overhead=0):
        size = sectors(len(self.text)) + 2 if self.text else 0
        self.bytes[at:at + SECTOR] = header(self.version, self.flags(), self.capacity, self.grain, 1 if size else 0, size,
                                            self.gtes,
                                            rgd, gd, overhead, self.unclean, b"\n \r\n" if self.newlines else b"abcd",
                                            int(self.compressed))

    def write(self, path, rng):
        self.bytes = bytearray(SECTOR if self.text or not self.zeroed else 2 * SECTOR)  # no grain may lie at sector 1
        if self.text:
            self.add(self.text + bytes(2 * SECTOR))
        if self.compressed:
            self.write_stream(rng)
        else:
            self.write_grains(rng)
        with open(path, "wb") as f:
            f.write(self.bytes)

    def write_grains(self, rng):
        spots = [i for i, g in self.grains.items() if g is not ZEROED]
        if rng.random() < 0.5:
            spots.sort()
        at = sectors(len(self.bytes)) + 2 * (self.nr_tables() * (sectors(4 * self.gtes) + 1) + 2)
        where = {i: 1 for i, g in self.grains.items() if g is ZEROED}
        overhead = at
        for i in spots:
            if rng.random() < 0.1:
                at += rng.randrange(1, 2 * self.grain)
            where[i] = at
            self.offsets[i] = at * SECTOR
            at += self.grain
        rgd = self.add_tables(where)[0] if self.redundant else 0
        gd, entries = self.add_tables(where)
        if self.broken == "entries":
            struct.pack_into("<I", self.bytes, gd * SECTOR + 4 * rng.randrange(len(entries)), 0x7FFFFFFF)
        if self.broken == "offset":
            gd = rng.choice([0, 1 << 40])
        assert len(self.bytes) <= overhead * SECTOR
        self.put_header(0, gd, rgd, overhead)
        self.bytes += bytes(overhead * SECTOR - len(self.bytes))
        for i in spots:
            self.bytes += bytes(self.offsets[i] - len(self.bytes)) + self.grains[i]

    def write_stream(self, rng):
        where = {}
        overhead = sectors(len(self.bytes))
        for i in sorted(self.grains):
            if self.grains[i] is ZEROED:
                where[i] = 1
                continue
            content = self.grains[i][:self.stored_size(i)] if rng.random() < 0.5 else self.grains[i]
            packed = zlib.compress(content, rng.choice([0, 1, 6, 9]))
            where[i] = self.add(struct.pack("<QI", i * self.grain, len(packed)) + packed)
        gd = self.add_tables(where, mark=True)[0]
        if self.at_end:
            self.add(marker(1, 3))
            footer = self.add(bytes(SECTOR))
            self.put_header(footer * SECTOR, gd, 0, overhead)
        self.add(marker(0, 0))
        self.put_header(0, AT_END if self.at_end else gd, 0, overhead)

    def rows(self, size):
        """What is where: (begin, end, kind, offset in the file) of each grain in the first `size` sectors."""
        for i in range(-(-size // self.grain)):
            begin, end = i * self.grain * SECTOR, min((i + 1) * self.grain, size) * SECTOR
            g = self.grains.get(i)
            if g is None:
                yield begin, end, "hole", None
            elif g is ZEROED:
                yield begin, end, "zero", None
            else:
                yield begin, end, "packed" if self.compressed else "data", self.offsets.get(i)

    def content(self, i):
        g = self.grains[i]
        return bytes(self.grain * SECTOR) if g is ZEROED else g


class Disk:
    """A disk with its descriptor: extents are (size in sectors, Sparse), (size, bytes of a file, offset in it in sectors, path) or
    (size, None)."""

    def __init__(self, path, cid, parent=None):
        self.path, self.cid, self.parent = path, cid, parent
        self.extents = []
        self.kind = "custom"
        self.embedded = False
        self.own_name = "some other name.vmdk"  # which an embedded descriptor has for its file
        self.style = False  # as others may write it
        self.unread_by_qemu = False
        self.size = 0  # sectors

    def hint(self):
        return os.path.relpath(self.parent.path, os.path.dirname(self.path)) if self.parent else None

    def text(self, lines, rng):
        text = descriptor(lines, self.kind, self.cid, self.parent.cid if self.parent else NO_PARENT, self.hint())
        return (restyled(text, rng) if self.style else text).encode()

    def write(self, rng):
        folder, base = os.path.split(self.path)
        stem = base.rsplit(".", 1)[0]
        self.size = sum(e[0] for e in self.extents)
        if self.embedded:
            size, sparse = self.extents[0]
            sparse.text = self.text([f'RW {size} SPARSE "{self.own_name}"'], rng)
            sparse.write(self.path, rng)
            return
        lines = []
        for i, e in enumerate(self.extents):
            if e[1] is None:
                lines.append(f"RW {e[0]} ZERO")
            elif isinstance(e[1], Sparse):
                name = f"{stem}-s{i:03}.vmdk"
                e[1].write(os.path.join(folder, name), rng)
                lines.append(f'RW {e[0]} SPARSE "{name}"')
            else:
                with open(e[3], "wb") as f:
                    f.write(e[1])
                name = os.path.relpath(e[3], folder)
                if self.kind == "vmfs" and e[2] == 0:
                    lines.append(f'RW {e[0]} VMFS "{name}"')
                else:
                    lines.append(f'RW {e[0]} FLAT "{name}" {e[2]}')
        if self.unread_by_qemu:
            lines = [line.replace("RW", "RDONLY", 1) if rng.random() < 0.2 else line for line in lines]
        with open(self.path, "wb") as f:
            f.write(self.text(lines, rng))

    def rows(self):
        """What this disk itself holds: (begin, end, kind, offset in the extent's file)."""
        at = 0
        for e in self.extents:
            end = at + e[0] * SECTOR
            if e[1] is None:
                yield at, end, "zero", None
            elif isinstance(e[1], Sparse):
                yield from ((at + b, at + n, kind, offset) for b, n, kind, offset in e[1].rows(e[0]))
            else:
                cut = min(end, max(at, at + len(e[1]) - e[2] * SECTOR))
                if cut > at:
                    yield at, cut, "data", e[2] * SECTOR
                if cut < end:
                    yield cut, end, "zero", None
            at = end

    def model(self):
        """What the guest sees."""
        size = self.size * SECTOR
        seen = bytearray(self.parent.model()[:size] if self.parent else b"")
        seen += bytes(size - len(seen))
        at = 0
        for e in self.extents:
            length = e[0] * SECTOR
            if e[1] is None:
                seen[at:at + length] = bytes(length)
            elif isinstance(e[1], Sparse):
                for i in e[1].grains:
                    begin = i * e[1].grain * SECTOR
                    content = e[1].content(i)[:max(0, length - begin)]
                    seen[at + begin:at + begin + len(content)] = content
            else:
                content = e[1][e[2] * SECTOR:e[2] * SECTOR + length]
                seen[at:at + length] = content + bytes(length - len(content))
            at += length
        return bytes(seen)


def random_sparse(rng, size, plain=False):
    """`plain`: nothing that other readers do not know."""
    compressed = rng.random() < 0.3
    grain = 128 if rng.random() < 0.5 else rng.choice([8, 16, 64, 256, 512] if plain else [1, 2, 8, 16, 64, 256, 1024])
    gtes = rng.choice([512, 512, 512, 128, 256] if plain else [512, 512, 1, 3, 64, 100, 1024, 4096])
    zeroed = rng.random() < 0.4
    s = Sparse(size, grain, gtes, rng.choice([1, 3] if compressed else [2, 3] if zeroed else [1, 1, 2, 3]), zeroed,
               not compressed and rng.random() < 0.5, compressed)
    s.random(rng)
    return s


def random_size(rng):
    return rng.choice([rng.randrange(1, 4096), rng.randrange(1, 4) * 1024, rng.randrange(1, 32) * 128])


def random_flat(rng, path, size, cut=True):
    offset = rng.choice([0, 0, 1, 8, 100])
    content = b"".join(rng.choice([bytes(4096), rng.randbytes(4096)]) for _ in range(sectors(size * SECTOR) // 8 + 2))
    content = bytes(offset * SECTOR) + content[:size * SECTOR] + rng.choice([b"", rng.randbytes(700)])
    if cut and rng.random() < 0.2:
        content = content[:rng.randrange(len(content) + 1)]
    return size, content, offset, path


def random_disk(rng, path, cid, parent=None, plain=False, monolithic=False):
    d = Disk(path, cid, parent)
    d.embedded = monolithic or rng.random() < 0.4
    if d.embedded:
        d.extents = [(n := random_size(rng), random_sparse(rng, n, plain))]
        d.kind = "streamOptimized" if d.extents[0][1].compressed else "monolithicSparse"
    else:
        for i in range(rng.choice([1, 1, 2, 3, 6])):
            n, roll = random_size(rng), rng.random()
            stem = path.rsplit(".", 1)[0]
            if roll < 0.15 and not plain:
                d.extents.append((n, None))
            elif roll < 0.5:
                d.extents.append(random_flat(rng, f"{stem}-f{i:03}.vmdk", n))
            else:
                d.extents.append((n, random_sparse(rng, n, plain)))
        d.kind = rng.choice(["twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "vmfs", "monolithicFlat"] + ["custom"] * (not plain))
        if d.kind == "vmfs" and plain:
            d.extents = [e if len(e) == 2 or e[2] == 0 else (e[0], e[1], 0, e[3]) for e in d.extents]
        if not plain and rng.random() < 0.3:  # a header may be rounded up, and of the last extent differ
            e = d.extents[-1]
            if isinstance(e[1], Sparse) and e[0] > 1:
                d.extents[-1] = (e[0] - rng.randrange(1, min(e[0], 200)), e[1])
    d.style = not plain and rng.random() < 0.6
    d.unread_by_qemu = not plain
    return d
