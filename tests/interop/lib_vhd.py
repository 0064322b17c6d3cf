# SPDX-License-Identifier: Apache-2.0
"""Writes VHD images from the specification (Virtual Hard Disk Image Format Specification 1.0), with everything that QEMU
cannot make: differencing disks, bitmaps with clear bits, other block sizes, old and broken footers, tables at odd places."""

import os
import struct

SECTOR = 512
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
NO_BLOCK = 0xFFFFFFFF


def checksum(raw, at):
    return ~(sum(raw) - sum(raw[at:at + 4])) & 0xFFFFFFFF


def footer(kind, size, ident, header=NO_BLOCK << 32 | NO_BLOCK, creator=b"win ", geometry=(0xFFFF, 16, 255), version=0x10000,
           features=2, saved=0, original=None):
    raw = bytearray(struct.pack(">8sIIQI4sI4sQQHBBII16sB427x", b"conectix", features, version, header, 500000000, creator,
                                0x50000, b"Wi2k", size if original is None else original, size, *geometry, kind, 0, ident,
                                saved))
    struct.pack_into(">I", raw, 64, checksum(raw, 64))
    return bytes(raw)


def header(table, entries, block_size, parent=bytes(16), name="", locators=(), version=0x10000, parent_time=0):
    utf16 = name.encode("utf-16-be")[:510]
    raw = bytearray(struct.pack(">8sQQIIII16sI4x512s", b"cxsparse", (1 << 64) - 1, table, version, entries, block_size, 0,
                                parent, parent_time, utf16))
    for platform, space, length, offset in locators:
        raw += struct.pack(">4sIIIQ", platform, space, length, 0, offset)
    raw += bytes(1024 - len(raw))
    struct.pack_into(">I", raw, 36, checksum(raw, 36))
    return bytes(raw)


def bitmap_size(block_size):
    return (block_size // SECTOR + 8 * SECTOR - 1) // (8 * SECTOR) * SECTOR


def bitmap_of(sectors, block_size):
    raw = bytearray(bitmap_size(block_size))
    for s in sectors:
        raw[s // 8] |= 0x80 >> s % 8
    return bytes(raw)


class Disk:
    """One VHD file, and what it should look like from outside."""

    def __init__(self, path, size, ident, parent=None):
        self.path, self.size, self.id, self.parent = path, size, ident, parent
        self.kind = DIFFERENCING if parent else DYNAMIC
        self.sectors = {}  # {sector: bytes}, those that are written
        self.blocks = set()  # allocated though nothing is written in them
        self.block_size = 2 << 20
        self.layout = {}  # "gap": bytes before each block, "table": offset, "spare": more entries, "order": shuffle
        self.footer_options = {}
        self.end = "512"  # "511", "broken", "none"
        self.copy = True  # of the footer: whole
        self.set_bits = "written"  # of a dynamic disk also "all" of a block, or "none", against the specification
        self.locators = []  # (platform, data, unit of the space)
        self.name = ""
        self.offsets = {}  # of each block's data in the file, once written

    def model(self):
        """What the guest sees, as a list of sectors."""
        below = self.parent.model() if self.parent else []
        nr = self.size // SECTOR
        below = below[:nr] + [bytes(SECTOR)] * (nr - len(below))
        for s, data in self.sectors.items():
            if s < nr:
                below[s] = data
        return below

    def write(self, rng):
        return self.write_fixed() if self.kind == FIXED else self.write_blocks(rng)

    def ending(self, whole):
        if self.end == "none":
            return b""
        if self.end == "broken":
            return whole[:100] + b"x" + whole[101:]  # reserved: zero
        return whole[:511] if self.end == "511" else whole

    def write_fixed(self):
        with open(self.path, "wb") as f:
            for s, data in self.sectors.items():
                f.seek(s * SECTOR)
                f.write(data)
            f.seek(self.size)
            f.write(self.ending(footer(FIXED, self.size, self.id, **self.footer_options)))

    def write_blocks(self, rng):
        per_block = self.block_size // SECTOR
        used = sorted({s // per_block for s in self.sectors} | self.blocks)
        entries = -(-self.size // self.block_size) + self.layout.get("spare", 0)
        table = [NO_BLOCK] * entries
        head = self.layout.get("header", 512)
        at = head + 1024
        place = []
        for platform, data, unit in self.locators:  # the data of locators lie behind the header
            room = -(-len(data) // SECTOR) * SECTOR
            place.append((platform, room // unit, len(data), at, data))
            at += room
        table_at = self.layout.get("table", at)
        at = max(at, -(-(table_at + 4 * entries) // SECTOR) * SECTOR)
        if self.layout.get("shuffle"):
            rng.shuffle(used)
        with open(self.path, "wb") as f:
            for b in used:
                at += self.layout.get("gap", 0)
                table[b] = at // SECTOR
                self.write_block(f, b, at)
                at += bitmap_size(self.block_size) + self.block_size
            whole = footer(self.kind, self.size, self.id, header=head, **self.footer_options)
            f.seek(at)
            f.write(self.ending(whole))
            f.truncate(max(at, f.tell()))
            f.seek(0)
            f.write(whole if self.copy else whole[:80] + bytes([whole[80] ^ 1]) + whole[81:])
            for _, _, _, where, data in place:
                f.seek(where)
                f.write(data)
            f.seek(head)
            f.write(header(table_at, entries, self.block_size, self.parent.id if self.parent else bytes(16), self.name,
                           [p[:4] for p in place], parent_time=400000000 if self.parent else 0))
            f.seek(table_at)
            f.write(struct.pack(f">{entries}I", *table))

    def write_block(self, f, block, at):
        per_block = self.block_size // SECTOR
        mine = [s for s in range(block * per_block, (block + 1) * per_block) if s in self.sectors]
        bits = {"all": range(per_block), "none": []}.get(self.set_bits, [s % per_block for s in mine])
        self.offsets[block] = at + bitmap_size(self.block_size)
        f.seek(at)
        f.write(bitmap_of(bits, self.block_size))
        for s in mine:
            f.seek(self.offsets[block] + s % per_block * SECTOR)
            f.write(self.sectors[s])
        f.seek(at + bitmap_size(self.block_size) + self.block_size - 1)
        if os.fstat(f.fileno()).st_size < f.tell() + 1:
            f.write(b"\0")


def random_disk(rng, path, parent=None, blocks=(512, 4096, 65536, 524288, 2 << 20, 4 << 20), fixed=True, plain=False):
    """A disk of up to some MiB; `plain`: nothing that QEMU or libvhdi do not read."""
    block_size = rng.choice(blocks)
    size = rng.randrange(1, min(12 << 20, block_size * 600) // SECTOR) * SECTOR
    if parent and rng.random() < 0.7:
        size = parent.size
    d = Disk(path, size, rng.randbytes(16), parent)
    d.block_size = block_size
    if fixed and not parent and rng.random() < 0.3:
        d.kind = FIXED
    for _ in range(rng.randrange(0, 12)):
        begin = rng.randrange(size // SECTOR)
        length = rng.choice([1, 1, 2, 7, 64, 300, 5000])
        value = bytes(SECTOR) if rng.random() < 0.2 else None
        for s in range(begin, min(begin + length, size // SECTOR)):
            d.sectors[s] = value or struct.pack(">QQ", s, rng.getrandbits(64)) * 32
    nr_blocks = -(-size // block_size)
    if rng.random() < 0.3:
        d.blocks |= {rng.randrange(nr_blocks) for _ in range(3)}
    d.layout = {"spare": rng.choice([0, 0, 1, 200]), "shuffle": rng.random() < 0.4,
                "gap": rng.choice([0, 0, 0, 512, 3584, 1 << 20])}
    if not parent and rng.random() < 0.4:
        d.set_bits = "all" if plain else rng.choice(["all", "all", "none"])
    if plain:
        return d
    d.layout["header"] = rng.choice([512, 512, 512, 1024, 9000 // 512 * 512, 700])
    if rng.random() < 0.3:
        d.layout["table"] = d.layout["header"] + 20480 + rng.randrange(0, 4096)
    d.end = rng.choice(["512", "512", "512", "511", "broken", "none"] if d.kind != FIXED else ["512", "512", "511"])
    d.copy = d.end == "broken" or d.end == "none" or rng.random() < 0.8
    return d
