#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""seeds.py NAME DIR: writes inputs for the fuzz target fuzz_NAME into DIR, the same ones every time."""

import os
import random
import struct
import sys
import zlib

COPIED, COMPRESSED = 1 << 63, 1 << 62


class Qcow2:
    """A small qcow2 image, laid out cluster after cluster; file sizes stay below 64 KiB."""

    def __init__(self, version=3, bits=9, size=32768, features=0, crypt=0, compression=0, l1_size=1):
        self.version, self.bits, self.size, self.features = version, bits, size, features
        self.crypt, self.compression = crypt, compression
        self.cluster = 1 << bits
        self.refcounts = self.cluster if bits < 14 else 0  # nobody reads it: spare the room
        self.bytes = bytearray(self.refcounts + self.cluster)
        self.l1_size = l1_size
        self.l1 = self.add(bytes(8 * l1_size))
        self.extensions = b""
        self.backing = b""
        self.snapshots = []

    def add(self, content):
        """Appends whole clusters; returns their offset."""
        at = len(self.bytes)
        self.bytes += content + bytes(-len(content) % self.cluster)
        return at

    def data(self, byte):
        return self.add(bytes([byte]) * self.cluster)

    def table(self, entries):
        return self.add(b"".join(struct.pack(">Q", entries.get(i, 0)) for i in range(self.cluster // 8)))

    def map(self, entries, index=0):
        l2 = self.table(entries)
        struct.pack_into(">Q", self.bytes, self.l1 + 8 * index, COPIED | l2)
        return l2

    def packed(self, content):
        """The L2 entry of compressed data."""
        at = self.add(content)
        return COMPRESSED | ((at + len(content) - 1) // 512 - at // 512) << (70 - self.bits) | at

    def deflated(self, content):
        z = zlib.compressobj(9, zlib.DEFLATED, -12)
        return self.packed(z.compress(content) + z.flush())

    def snapshot(self, l2s, vm_state=0, extra=True):
        l1 = self.add(b"".join(struct.pack(">Q", l2) for l2 in l2s))
        more = struct.pack(">QQ", vm_state, self.size) if extra else b""
        entry = struct.pack(">QIHHIIQII", l1, len(l2s), 1, 4, 0, 0, 0, vm_state, len(more)) + more + b"1snap"
        self.snapshots.append(entry + bytes(-len(entry) % 8))

    def extension(self, kind, content):
        self.extensions += struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    def done(self):
        snapshots = self.add(b"".join(self.snapshots)) if self.snapshots else 0
        length = 72 if self.version == 2 else 112
        backing = length + len(self.extensions) + 8 if self.backing else 0
        head = b"QFI\xfb" + struct.pack(">IQIIQIIQQIIQ", self.version, backing, len(self.backing), self.bits, self.size,
                                        self.crypt, self.l1_size, self.l1, self.refcounts, 1, len(self.snapshots),
                                        snapshots)
        if self.version > 2:
            head += struct.pack(">QQQIIB7x", self.features, 1, 0, 4, length, self.compression)
        head += self.extensions + bytes(8) + self.backing
        assert len(head) <= self.cluster, len(head)
        self.bytes[:len(head)] = head
        return bytes(self.bytes)


def zstd_frame(content):
    """One raw block; its size stands in the header, less 256."""
    block = struct.pack("<I", len(content) << 3 | 1)[:3]
    return b"\x28\xb5\x2f\xfd\x60" + struct.pack("<H", len(content) - 256) + block + content


def plain(version, bits):
    q = Qcow2(version, bits)
    zero = 1 if version > 2 else 0
    q.map({0: COPIED | q.data(1), 1: COPIED | q.data(2), 2: zero, 3: q.data(3) | zero, 5: q.data(4), 6: 1 << 30})
    return q


def compressed():
    q = Qcow2(bits=12, size=1 << 20)
    q.map({0: q.deflated(b"text " * 900), 1: q.deflated(random.randbytes(4096)), 2: q.data(5)})
    return q


def zstd():
    q = Qcow2(bits=12, size=1 << 20, features=8, compression=1)
    q.map({0: q.packed(zstd_frame(b"z" * 4096)), 7: q.packed(zstd_frame(b"y" * 1000) + zstd_frame(b"x" * 3096))})
    return q


def extended():
    q = Qcow2(bits=14, size=1 << 20, features=16)
    q.map({0: COPIED | len(q.bytes) + q.cluster, 1: 0x0F | 0xF0 << 32, 2: 0, 3: 0xFF << 32})
    q.bytes += b"e" * 8000
    return q


def snapshots():
    q = Qcow2(l1_size=3)
    a, b, c = q.data(1), q.data(2), q.data(3)
    old = q.table({0: a, 1: b, 2: 1})
    older = q.table({0: b, 1: b, 3: c})
    new = q.map({0: a, 1: c, 3: q.data(4)})
    q.snapshot([old, 0, 0])
    q.snapshot([older, old, new], vm_state=3000)
    q.snapshot([new], extra=False)
    return q


def named():
    q = plain(3, 10)
    q.backing = b"base.qcow2"
    q.extension(0xE2792ACA, b"qcow2")
    q.extension(0x6803F857, b"\0\x05future".ljust(48, b"\0") + b"\1\0lazy refcounts".ljust(48, b"\0"))
    q.extension(0x23852875, struct.pack(">IIQQ", 2, 0, 64, q.cluster))
    q.extension(0x12345678, b"unknown")
    return q


def data_file():
    q = Qcow2(bits=9, features=4)
    q.extension(0x44415441, b"data.raw")
    q.map({0: COPIED, 1: COPIED | 512, 2: 1, 4: COPIED | 2048})
    return q


def encrypted():
    q = Qcow2(bits=10, crypt=2)
    q.extension(0x0537BE77, struct.pack(">QQ", 4096, 1000))
    q.map({0: q.data(7)})
    return q


def unknown_feature():
    q = named()
    q.features = 1 << 5
    return q


def qcow2_seeds():
    makers = {"v2": lambda: plain(2, 9), "v3": lambda: plain(3, 9), "clusters-4k": lambda: plain(3, 12),
              "compressed": compressed, "zstd": zstd, "extended": extended, "snapshots": snapshots, "named": named,
              "data-file": data_file, "encrypted": encrypted, "unknown-feature": unknown_feature}
    for name, make in makers.items():
        whole = make().done()
        yield name, whole
        yield name + "-cut", whole[:len(whole) * 2 // 3]


def any_seeds():
    """For targets whose inputs need no form."""
    yield "empty", b""
    yield "zeros", bytes(4096)
    for i in range(4):
        yield f"random-{i}", random.randbytes(1 << (4 * i))


def main():
    _, name, folder = sys.argv
    random.seed(1)
    for title, content in {"qcow2": qcow2_seeds}.get(name, any_seeds)():
        with open(os.path.join(folder, title), "wb") as f:
            f.write(content)


main()
