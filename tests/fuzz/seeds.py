#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""seeds.py NAME DIR: writes inputs for the fuzz target fuzz_NAME into DIR, the same ones every time."""

import hashlib
import json
import os
import random
import struct
import sys
import tempfile
import zlib

COPIED, COMPRESSED = 1 << 63, 1 << 62


class Qcow2:
    """A small qcow2 image, laid out cluster after cluster; file sizes stay below 64 KiB."""

    def __init__(self, version=3, bits=9, size=32768, features=0, crypt=0, compression=0, l1_size=1):
        self.version, self.bits, self.size, self.features = version, bits, size, features
        self.crypt, self.compression = crypt, compression
        self.autoclear = 0
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
            head += struct.pack(">QQQIIB7x", self.features, 1, self.autoclear, 4, length, self.compression)
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
    bitmaps = [struct.pack(">QIIBBHI", 0, 0, flags, 1, 16, 4, extra) + bytes(extra) + name + bytes(4)
               for flags, extra, name in ((2, 0, b"auto"), (1, 8, b"used"))]
    directory = b"".join(bitmaps)
    q.extension(0x23852875, struct.pack(">IIQQ", len(bitmaps), 0, len(directory), q.add(directory)))
    q.extension(0x12345678, b"unknown")
    return q


def with_bitmaps(q, *bitmaps):
    """Each is a name, flags, granularity bits, extra data and table entries: bytes are a cluster's."""
    directory = b""
    for name, flags, bits, extra, entries in bitmaps:
        entries = [q.add(e) if isinstance(e, bytes) else e for e in entries]
        table = q.add(b"".join(struct.pack(">Q", e) for e in entries))
        entry = struct.pack(">QIIBBHI", table, len(entries), flags, 1, bits, len(name), len(extra)) + extra + name
        directory += entry + bytes(-len(entry) % 8)
    q.extension(0x23852875, struct.pack(">IIQQ", len(bitmaps), 0, len(directory), q.add(directory)))
    q.autoclear = 1
    return q


def bitmaps_seeds():
    some = b"\x80\0\xff".ljust(400, b"\1")
    yield "one", with_bitmaps(Qcow2(), (b"day", 2, 9, b"", [b"\x81"])).done()
    yield "three", with_bitmaps(Qcow2(bits=9, size=4096 * 512 * 3), (b"day", 2, 9, b"", [some, 1, 0]),
                                (b"in use", 1, 16, b"", [1] * 5),
                                (b"odd", 4, 10, b"extra data", [1, some[:100]])).done()
    yield "clusters-64k", with_bitmaps(Qcow2(bits=14, size=1 << 32),
                                       (b"a", 2, 12, b"", [b"\5" * 16384, 1, 0, 1, 0, 0, 1, 1])).done()[:70000]
    yield "ones", with_bitmaps(Qcow2(size=1 << 35), (b"a", 2, 16, b"", [1] * 128), (b"b", 0, 17, b"", [1] * 63 + [0])).done()
    ignored = with_bitmaps(Qcow2(), (b"day", 2, 9, b"", [b"\x81"]))
    ignored.autoclear = 0
    yield "ignored", ignored.done()
    yield "twice", with_bitmaps(Qcow2(), (b"day", 2, 9, b"", [1]), (b"day", 0, 9, b"", [0])).done()
    yield "tail", with_bitmaps(Qcow2(), (b"day", 2, 9, b"", [b"\xff" * 9])).done()
    yield "cut", with_bitmaps(Qcow2(), (b"day", 2, 9, b"", [b"\xff" * 8])).done()[:-200]


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


def vdi(kind=1, block=512, extra=0, entries=(0, 0xFFFFFFFF, 1, 0xFFFFFFFE, 2), parent=bytes(16), size=None, cut=0, map_at=512):
    """A small VDI image; each block of the file is filled with its number, from 1 on."""
    data_at = (map_at + 4 * len(entries) + 511) // 512 * 512
    nr_file = sum(e < 0xFFFFFFFE for e in entries)
    head = struct.pack("<64sIIIII256sII4IIQIIII16s16s16s16s", b"<<< seed >>>\n", 0xBEDA107F, 0x10001, 400, kind, 0, b"",
                       map_at, data_at, 0, 0, 0, 512, 0, size or block * len(entries), block, extra, len(entries), nr_file,
                       b"i" * 16, b"m" * 16, parent, bytes(16))
    image = head.ljust(map_at, b"\0") + struct.pack(f"<{len(entries)}I", *entries)
    image = image.ljust(data_at, b"\0")
    for i in range(nr_file):
        image += b"x" * extra + bytes([i + 1]) * block
    return image[:len(image) - cut]


def vdi_seeds():
    yield "dynamic", vdi()
    yield "fixed", vdi(kind=2, entries=range(9))
    yield "undo", vdi(kind=3)
    yield "differencing", vdi(kind=4, parent=b"p" * 16)
    yield "extra", vdi(extra=64, block=1024)
    yield "odd", vdi(block=4096, size=4096 * 4 + 1, cut=700)
    yield "long-map", vdi(entries=[0xFFFFFFFF] * 20000 + [0] + [0xFFFFFFFE] * 2000)
    yield "no-blocks", vdi(entries=())
    yield "twice", vdi(entries=(0, 0, 0))
    yield "old", vdi()[:68].replace(b"<", b"!") + struct.pack("<I", 2) + vdi()[72:]


def tar_entry(name, content, kind=b"0", size=None, magic=b"ustar\0" + b"00", prefix=b""):
    """A header of tar and what follows it."""
    size = b"%011o\0" % len(content) if size is None else size
    head = struct.pack("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x", name, b"0000644\0", b"0000000\0", b"0000000\0", size,
                       b"%011o\0" % 0, b" " * 8, kind, b"", magic, b"", b"", b"", b"", prefix)
    head = head[:148] + b"%06o\0 " % sum(head) + head[156:]
    return head + content + bytes(-len(content) % 512)


def ova(*entries, files=("disk1.vdi",), more="", end=bytes(1024)):
    """An archive with a descriptor of these files."""
    text = "<?xml version='1.0'?><ovf:Envelope><!-- no --><References>"
    text += "".join(f"<ovf:File ovf:href='{f}' ovf:id=\"file{i}\" {more}/>" for i, f in enumerate(files))
    text += "</References><DiskSection>"
    text += "".join(f"<Disk ovf:capacity='9' ovf:fileRef='file{i}'/>" for i in range(len(files)))
    return tar_entry(b"vm.ovf", (text + "<Disk/></DiskSection></ovf:Envelope>").encode()) + b"".join(entries) + end


def pax(kind, **records):
    content = b""
    for key, value in records.items():
        rest = b" " + key.replace("_", ".").encode() + b"=" + value + b"\n"
        length = len(rest) + 1
        length += len(str(length)) - 1 + (len(str(length + len(str(length)) - 1)) > len(str(length)))
        content += str(length).encode() + rest
    return tar_entry(b"././@PaxHeader", content, kind)


def ova_seeds():
    disk, layered = vdi(), snapshots().done()
    yield "one", ova(tar_entry(b"disk1.vdi", disk))
    yield "no-disk", ova(files=())
    yield "missing", ova(files=("a.img",))
    yield "manifest", ova(tar_entry(b"vm.mf", b"SHA256(vm.ovf)= 0\n"), tar_entry(b"disk1.vdi", disk), end=b"")
    yield "three", ova(tar_entry(b"./c.img", b"raw" * 300), tar_entry(b"a disk.vdi", disk), tar_entry(b"b.qcow2", layered),
                       files=("a%20disk.vdi", "b.qcow2", "c.img"))
    yield "packed", ova(tar_entry(b"p.qcow2", compressed().done()), files=())
    yield "pax", ova(pax(b"g", comment=b"all"), pax(b"x", path=b"disk1.vdi", size=b"%d" % len(disk)),
                     tar_entry(b"short", disk, size=b"%011o\0" % 1))
    yield "gnu", ova(tar_entry(b"././@LongLink", b"disk1.vdi\0", b"L", magic=b"ustar  \0"),
                     tar_entry(b"short", disk, size=b"\x80" + bytes(7) + struct.pack(">I", len(disk)), magic=b"ustar  \0"))
    yield "folder", tar_entry(b"./", b"", b"5") + ova(tar_entry(b"disk1.vdi", disk, prefix=b"sub"), files=("sub/disk1.vdi",))
    yield "sparse", ova(pax(b"x", GNU_sparse_major=b"1"), tar_entry(b"disk1.vdi", disk))
    yield "sparse-old", ova(tar_entry(b"disk1.vdi", disk, b"S"))
    yield "gzip", ova(tar_entry(b"disk1.vdi", disk), more="ovf:compression='gzip'")
    yield "chunks", ova(tar_entry(b"disk1.vdi.000000000", disk), more="ovf:chunkSize='9'")
    yield "cut", ova(tar_entry(b"disk1.vdi", disk))[:-2000]
    yield "nested", ova(tar_entry(b"a.ova", ova(tar_entry(b"disk1.vdi", disk))), files=("a.ova",))
    yield "differencing", ova(tar_entry(b"disk1.vdi", vdi(kind=4, parent=b"p" * 16)))
    yield "entities", ova(tar_entry(b"a&\xe2\x82\xac.img", b"x" * 600), files=("a&amp;&#x20AC;.img",))


# ---- VHDX: pieces of an image, as fuzz_vhdx lays them out; it makes the checksums ----

def guid(text):
    a, b, c, d, e = text.split("-")
    return struct.pack("<IHH", int(a, 16), int(b, 16), int(c, 16)) + bytes.fromhex(d + e)


VHDX_LOG = guid("11111111-2222-3333-4444-555555555555")
VHDX_PARENT = "{ABABABAB-CDCD-EFEF-0101-232323232323}"


def vhdx_header(number, log=bytes(16)):
    return struct.pack("<4sIQ16s16s16sHHIQ", b"head", 0, number, bytes(16), guid(VHDX_PARENT[1:-1]), log, 0, 1, 1 << 20,
                       1 << 20)


def vhdx_regions(more=b""):
    known = struct.pack("<16sQII", guid("8B7CA206-4790-4B9A-B8FE-575F050F886E"), 2 << 20, 1 << 20, 1)
    known += struct.pack("<16sQII", guid("2DC27766-F623-4200-9D64-115E9BFD4A08"), 3 << 20, 1 << 20, 1)
    return (struct.pack("<4sIII", b"regi", 0, 2 + len(more) // 32, 0) + known + more).ljust(144, b"\0")


def vhdx_locator():
    texts, entries = b"", b""
    for pair in ("parent_linkage", VHDX_PARENT), ("relative_path", "p.vhdx"):
        key, value = (t.encode("utf-16-le") for t in pair)
        at = 20 + 24 + len(texts)
        entries += struct.pack("<IIHH", at, at + len(key), len(key), len(value))
        texts += key + value
    return guid("B04AEFB7-D19E-4A81-B789-25B8E9445913") + struct.pack("<HH", 0, 2) + entries + texts


def vhdx_log_entry(number, tail, updates):
    """updates: (offset, 4096 bytes) or (offset, length of zeros)"""
    descriptors, data = b"", b""
    for offset, what in updates:
        if isinstance(what, int):
            descriptors += struct.pack("<4sIQQQ", b"zero", 0, what, offset, number)
        else:
            descriptors += struct.pack("<4s4s8sQQ", b"desc", what[-4:], what[:8], offset, number)
            data += b"data" + struct.pack("<I", number >> 32) + what[8:-4] + struct.pack("<I", number & 0xFFFFFFFF)
    head = struct.pack("<4sIIIQII16sQQ", b"loge", 0, 4096 + len(data), tail, number, len(updates), 0, VHDX_LOG, 4 << 20,
                       12 << 20)
    return (head + descriptors).ljust(4096, b"\0") + data


def vhdx(bat, block=1 << 20, size=32 << 20, sector=512, flags=0, length=12 << 20, log=b"", more=b"", headers=None,
         bitmap=b"", entries=()):
    items = [("CAA16737-FA36-4D43-B3B6-33F0AA44E76B", struct.pack("<II", block, flags)),
             ("2FA54224-CD1B-4876-B211-5DBED83BF4B8", struct.pack("<Q", size)),
             ("BECA12AB-B2E6-4523-93EF-C309E000C746", bytes(16)),
             ("8141BF1D-A96F-4709-BA47-F233A8FAAB5F", struct.pack("<I", sector)),
             ("CDA348C7-445D-4471-9CC9-E9885251C556", struct.pack("<I", 4096))]
    if flags & 2:
        items.append(("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C", vhdx_locator()))
    table, area = struct.pack("<8sHH20x", b"metadata", 0, len(items)), b""
    for kind, content in items:
        table += struct.pack("<16sIIII", guid(kind), 65536 + len(area), len(content), 4, 0)
        area += content
    whole = struct.pack("<II", 0, length)
    whole += headers or vhdx_header(1) + vhdx_header(2, VHDX_LOG if log else bytes(16))
    whole += vhdx_regions(more) * 2 + table.ljust(288, b"\0") + area.ljust(512, b"\0")
    whole += b"".join(struct.pack("<Q", e) for e in bat).ljust(256, b"\0") + bitmap.ljust(320, b"\0")
    entries = list(entries) + [(100 + i, 0) for i in range(4 - len(entries))]
    return whole + b"".join(struct.pack("<IQ", *e) for e in entries) + log


def vhdx_seeds():
    states = [5 << 20 | 6, 6 << 20 | 6, 2, 1, 3, 5, 0, 8 << 20 | 6]
    child = [7 << 20 | 7, 0, 2, 9 << 20 | 6, 5 << 20 | 7]
    bits = bytes([0x0F, 0, 0xFF, 0xA5]) * 64 + b"\xff" * 64
    bat = struct.pack("<4Q", 10 << 20 | 6, 0, 2, 11 << 20 | 6).ljust(4096, b"\0")
    one = vhdx_log_entry(7, 0, [(3 << 20, bat)])
    two = vhdx_log_entry(8, 0, [(5 << 20, b"\x77" * 4096), (6 << 20, 65536), (3 << 20, 8192), (3 << 20, bat)])
    three = vhdx_log_entry(9, len(one), [((12 << 20) - 4096, 1 << 20)])
    stale = vhdx_log_entry(3, 0, [(3 << 20, bytes(4096))])
    yield "states", vhdx(states)
    yield "states-unsummed", b"\1" + vhdx(states)[1:]
    yield "states-cut", vhdx(states, length=7 << 20)
    yield "blocks-8m", vhdx([8 << 20 | 6, 0, 4 << 20 | 6], block=8 << 20, size=(20 << 20) + 512)
    yield "blocks-256m", vhdx([3, 2, 4 << 20 | 6], block=256 << 20, size=(512 << 20) + 4096)
    yield "sectors-4096", vhdx(child, sector=4096, flags=2, bitmap=bits, entries=[(32768, 4 << 20 | 6)])
    yield "fixed", vhdx([5 << 20 | 6, 6 << 20 | 6], size=2 << 20, flags=1)
    yield "child", vhdx(child, flags=2, bitmap=bits, entries=[(4096, 4 << 20 | 6)])
    yield "child-without-bitmap", vhdx(child, flags=2)
    yield "unknown-region", vhdx(states, more=struct.pack("<16sQII", bytes(range(16)), 9 << 20, 1 << 20, 0))
    yield "one-header", vhdx(states, headers=bytes(80) + vhdx_header(2))
    yield "log", vhdx(states, log=one)
    yield "log-of-three", vhdx(states, log=one + two + three)
    yield "log-child", vhdx(child, flags=2, bitmap=bits, entries=[(4096, 4 << 20 | 6)], log=one + stale)
    yield "log-torn", vhdx(states, log=one + two[:5000] + stale[:3000])
    yield "log-empty", vhdx(states, log=bytes(8192))


def vmdk_header(capacity, flags=3, version=1, grain=8, text=4, gtes=512, rgd=10, gd=8, overhead=24, compression=0):
    return struct.pack("<4sIIQQQQIQQQB4sH433x", b"KDMV", version, flags, capacity, grain, 1 if text else 0, text, gtes, rgd, gd,
                       overhead, 0, b"\n \r\n", compression)


def vmdk_text(*lines, kind="custom", cid=1, parent=0xFFFFFFFF, more=""):
    head = f'# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID={parent:08x}\ncreateType="{kind}"\n{more}'
    return (head + "".join(line + "\n" for line in lines) + '#DDB\nddb.adapterType = "ide"\n').encode()


def vmdk_sparse(capacity=64, gtes=None, text=None, **header):
    """Directory at sector 8, table at 12, their copies at 10 and 16; grains of 4 KiB from sector 24 on."""
    gtes = gtes or {0: 24, 1: 32, 3: 1}
    table = struct.pack("<512I", *(gtes.get(i, 0) for i in range(512)))
    size = len(text) // 512 + 1 if text else 0
    image = (vmdk_header(capacity, text=size, **header) + (text or b"")).ljust(8 * 512, b"\0")
    image += struct.pack("<I", 12).ljust(1024, b"\0") + struct.pack("<I", 16).ljust(1024, b"\0") + table + table
    return image.ljust(24 * 512, b"\0") + b"".join(bytes([i]) * 4096 for i in (1, 2, 3))


def vmdk_stream(footer=True):
    def marker(value, kind):
        return struct.pack("<QII496x", value, 0, kind)
    text = vmdk_text('RW 20 SPARSE "x"', kind="streamOptimized")
    image = bytearray(vmdk_header(20, text=2)) + text.ljust(1024, b"\0")
    gtes = {}
    for i, content in enumerate((b"a" * 4096, random.randbytes(4096), b"short" * 410)):
        gtes[i] = len(image) // 512
        packed = zlib.compress(content)
        image += struct.pack("<QI", 8 * i, len(packed)) + packed
        image += bytes(-len(image) % 512)
    image += marker(4, 1)
    table = len(image) // 512
    image += struct.pack("<3I", *(gtes[i] for i in range(3))).ljust(512, b"\0") + marker(1, 2)
    gd = len(image) // 512
    image += struct.pack("<I", table).ljust(512, b"\0")
    options = {"flags": 0x30001, "version": 3, "text": 2, "rgd": 0, "overhead": 3, "compression": 1}
    if footer:
        image += marker(1, 3) + vmdk_header(20, gd=gd, **options)
    image[:512] = vmdk_header(20, gd=(1 << 64) - 1 if footer else gd, **options)
    return bytes(image) + marker(0, 0)


def vmdk_seeds():
    between = b"\n--file--\n"
    one = vmdk_text('RW 64 SPARSE "x.vmdk"', kind="monolithicSparse")
    child = vmdk_text('RW 64 SPARSE "x.vmdk"', kind="monolithicSparse", parent=1, more='parentFileNameHint="base.vmdk"\n')
    split = vmdk_text('RW 64 SPARSE "a-s001.vmdk"', 'RW 4 FLAT "a-flat.vmdk" 1', "RW 9 ZERO", 'RDONLY 3 VMFS "a-flat.vmdk"')
    yield "monolithic", vmdk_sparse(text=one)
    yield "zeroed", vmdk_sparse(text=one, flags=7, version=2)
    yield "redundant", vmdk_sparse(text=one, gd=1 << 30)
    yield "small-tables", vmdk_sparse(text=one, gtes={0: 24}, grain=1)
    yield "large-grains", vmdk_sparse(text=one, grain=128)
    yield "part", vmdk_sparse(text=None)
    yield "no-capacity", vmdk_sparse(capacity=0, text=split) + between + vmdk_sparse() + between + b"flat" * 1000
    yield "stream", vmdk_stream()
    yield "stream-without-footer", vmdk_stream(False)
    yield "split", split + between + vmdk_sparse(flags=7) + between + b"flat" * 1000
    yield "child", vmdk_sparse(text=child) + between + split + between + vmdk_sparse() + between + b"flat" * 1000
    yield "child-of-stream", vmdk_sparse(text=child) + between + vmdk_stream()
    yield "crlf", b"\xef\xbb\xbf" + split.replace(b"\n", b"\r\n").replace(b"=", b" = ").lower()
    yield "device", vmdk_text('RW 9 FLAT "/dev/sda" 0', kind="fullDevice")
    yield "devices", vmdk_text('RW 9 VMFSRDM "a"', 'NOACCESS 9 FLAT "b"', more="encryptionKeys=\"x\"\nchangeTrackPath=\"y\"\n")
    yield "cowd", b"COWD" + vmdk_sparse()[4:]
    yield "sesparse", struct.pack("<QQ", 0xCAFEBABE, 0x200000001) + bytes(496)


def vhd_seeds():
    """Written by the writer of the interoperability tests, into files of a few KiB."""
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
    import lib_vhd  # pylint: disable=import-outside-toplevel
    relative = (b"W2ru", ".\\sub\\p.vhd".encode("utf-16-le"), 1)
    absolute = (b"W2ku", "C:\\dir\\\u20ac.vhd".encode("utf-16-le"), 512)
    url = (b"MacX", b"file://./a%20b.vhd", 1)
    cases = {"dynamic": {}, "small-blocks": {"block_size": 512}, "old": {"end": "511"}, "lost": {"end": "none"},
             "broken": {"end": "broken"}, "all-set": {"set_bits": "all"}, "none-set": {"set_bits": "none"},
             "odd": {"layout": {"header": 700, "table": 3001, "gap": 512, "spare": 70}}, "fixed": {"kind": lib_vhd.FIXED},
             "fixed-old": {"kind": lib_vhd.FIXED, "end": "511"}, "relative": {"locators": [relative]},
             "absolute": {"locators": [absolute, url]}, "url": {"locators": [url]}, "named": {"name": "C:\\p\u20ac.vhd"},
             "geometry": {"footer_options": {"creator": b"vpc ", "geometry": (3, 2, 5)}}}
    for name, changes in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            d = lib_vhd.Disk(os.path.join(folder, "d"), 40 * 512, b"0123456789abcdef")
            d.block_size = 4096
            d.sectors = {s: bytes([s]) * 512 for s in (0, 1, 5, 8, 16, 17, 18, 19, 20, 21, 22, 23, 39)}
            if "name" in changes or "locators" in changes:
                d.parent, d.kind = d, lib_vhd.DIFFERENCING  # whose id it has, too
            vars(d).update(changes)
            d.write(random)
            with open(d.path, "rb") as f:
                yield name, f.read()


def plan_seeds():
    """Plans that are whole, and some that are not."""
    fs = {"path": "/v", "type": "xfs", "dev": "64770", "size": 9000, "free": 800, "free_before": 7, "free_after": None, "saving": 1,
          "why_not": None}
    identity = {"dev": "64770", "ino": "18446744073709551615", "size": "4096", "mtime": "1795227000123456789", "ctime": "-1"}
    figures = ("size", "used", "stored", "duplicate", "shared", "misaligned", "short_runs", "pinned", "zero", "saving",
               "nr_extents")
    image = {"path": "/v/a", "id": 1, "format": "vhd", "identity": identity, "file_system": 0, **dict.fromkeys(figures, 4096),
             "why_not": "it is in use"}
    odd = {**image, "path": "/v/\\xff", "path_bytes": b"/v/\xff".hex(), "format": None, "why_not": None, "file_system": 1}
    figures = ("saving", "work", "space", "nr_runs", "worked", "shared", "nr_differed")
    methods = ("reflink", "holes", "relayout", "rebuild")
    states = ("pending", "done", "partly", "skipped", "failed")
    steps = [{"image": i % 2, "method": methods[i % 4], "later": i > 2, "state": state, "why": [None, "\n"][i % 2],
              **dict.fromkeys(figures, 5 - i)} for i, state in enumerate(states)]
    plan = {"dedupscan_plan": 1, "taken_at": "2026-11-21T02:24:51Z", "complete": True, "applied": False, "keep_originals": 604800,
            "min_run": 16384, "saving": 10, "saving_later": 3, "work": 15, "rate": None, "nr_seconds": 5, "peak_memory": 6,
            "file_systems": [fs, {**fs, "path": None}], "images": [image, odd], "steps": steps}
    small = {"file_systems": [], "images": [], "steps": []}
    cases = {"whole": {}, "applied": {"applied": True, "complete": False}, "empty": small, "newer": {"dedupscan_plan": 2},
             "disorder": {"images": [odd, image]}, "negative": {"min_run": -1}, "real": {"rate": 1e3}, "wild": {"images": [image]}}
    for name, changes in cases.items():
        yield name, json.dumps({**plan, **changes}).encode()
    yield "twice", json.dumps({**plan, **small}).replace('"work": 15', '"work": 15, "work": 15').encode()
    yield "deep", b'{"dedupscan_plan":' + 17 * b"["


def relayout_seeds():
    for make in (vhd_seeds, vdi_seeds):
        for title, content in make():
            yield f"{make.__name__}-{title}", content
    yield "vdi-large", vdi(block=4096)


def names_seeds():
    """Names without their checksums, which the target adds."""
    id, none = "3b0c0f62-9d7e-4c1a-8f00-5a5a5a5a5a5a", "-"

    def name(kind, disks, label="", title="dedupscan-name 1", files=(), number=17):
        lines = [title, f"kind {kind}", f"number {number}", "made 1795000000", f"label {label}"]
        for i, (root, view, sealed, below, inode) in enumerate(disks):
            lines += [f"disk /srv/web%0A{i}.qcow2", "size 10737418240", f"root {root}", f"view {view}", f"sealed {sealed}",
                      f"below {below}", f"inode {inode}"]
        for path, content in files:
            lines += [f"file {path}", f"bytes {content}"]
        return "".join(line + "\n" for line in lines).encode()

    member, folded, sealed = (none, id, none, none, 0), ("ab" * 32, id, none, none, 0), (none, id, id, id, 1234)
    files = (("/etc/libvirt/qemu/web.xml", "<domain>%0A</domain>%0A"), ("/empty", ""))
    yield "member", name("member", [member])
    yield "version", name("version", [folded, sealed], "before upgrade 100%25", files=files)
    yield "newer", name("member", [member], title="dedupscan-name 4")
    yield "expanded", name("member", [member], title="dedupscan-name 3") + b"expanded 12\nborn 1795000000123456789\noriginal 13\n"
    yield "noted", name("version", [(none, id, id, id, "0\nwritten 1795000000123456789\nlength 327680\nl1 89abcdef")], "v",
                        title="dedupscan-name 3")
    yield "two-disks", name("member", [member, member])
    yield "loose", name("version", [folded], "%41")
    yield "zeros", name("version", [folded], number="017")
    yield "nul", name("version", [folded], "%00")


def crc32c(content):
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def node(level, digest, payload, unit_bits=0, hint=(0, 0)):
    """A record of a pool's file of nodes."""
    head = [0x6E736464, level, unit_bits, len(payload), 0, digest, *hint]
    head[4] = crc32c(struct.pack("<IBB2xII32sQQ", *head) + payload)
    record = struct.pack("<IBB2xII32sQQ", *head) + payload
    return record + bytes(-len(record) % 8)


def leaf(number, runs, bits=12):
    """Runs are (zeros before it, units, place or distance as zigzag)."""
    def varint(n):
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)
    return node(0, bytes([number]) * 32, b"".join(map(varint, sum(runs, ()))), bits, (number, 77))


def inner(level, children):
    """Returns the digest and the record."""
    digest = hashlib.sha256(b"".join(children.get(i, bytes(32)) for i in range(128))).digest()
    bitmap = sum(1 << i for i in children).to_bytes(16, "little")
    return digest, node(level, digest, bitmap + b"".join(children[i] for i in sorted(children)))


def delta(level, digest, base, children):
    """An inner node by its base."""
    which = sorted(children)
    head = [0x64736464, level, len(which), 0, digest[:16], base[:16]]
    rest = bytes(which) + b"".join(children[i] for i in which)
    head[3] = crc32c(struct.pack("<IBB2xI16s16s", *head) + rest)
    record = struct.pack("<IBB2xI16s16s", *head) + rest
    return record + bytes(-len(record) % 8)


def nodes_seeds():
    """Files of nodes: maps of all units, trees, transactions, and some that are torn or make no sense."""
    begin = 64 << 30
    fine, coarse = leaf(1, [(0, 3, begin >> 12), (2, 9, 40), (0, 1, 3)]), leaf(1, [(4, 28, begin >> 16)], 16)
    many = leaf(2, [(0, 1, begin >> 12)] + [(0, 1, 2 + 2 * (i % 50)) for i in range(511)])
    low, low_node = inner(1, {0: b"\1" * 32, 127: b"\2" * 32})
    full, full_node = inner(1, {i: bytes([i + 1]) * 32 for i in range(128)})
    high, high_node = inner(2, {0: low, 5: full, 6: low, 100: b"?" * 32})
    tree = low_node + full_node + high_node + inner(3, {1: high, 2: high})[1]
    other = {i: bytes([i + 1]) * 32 for i in range(128)} | {3: b"x" * 32, 90: bytes(32)}
    changed, _ = inner(1, {i: d for i, d in other.items() if d != bytes(32)})
    again, _ = inner(1, {i: d for i, d in other.items() if i not in (5, 90)})
    deltas = delta(1, changed, full, {3: b"x" * 32, 90: bytes(32)}) + delta(1, again, changed, {5: bytes(32)})
    yield "deltas", full_node + deltas
    yield "circle", deltas + delta(1, full, again, {5: b"\6" * 32, 90: b"[" * 32, 3: b"\4" * 32}) + full_node[:-8]
    yield "map", bytes.fromhex("0003908080080209280001")
    yield "leaves", fine + coarse + many
    yield "tree", tree
    yield "transactions", fine.ljust(4096, b"\0") + tree.ljust(8192, b"\0") + coarse + fine
    yield "torn", many[:200].ljust(4096, b"\0") + fine + b"xyz" * 8 + coarse + many[:-8]
    yield "replaced", fine + leaf(1, [(0, 5, begin >> 12)]) + fine
    yield "outside", leaf(1, [(0, 3, 5)]) + leaf(2, [(0, 600, begin >> 12)]) + leaf(3, [(0, 1, 12 << 28)]) + fine
    yield "lies", node(1, bytes(32), bytes(16)) + node(1, low, bytes([1] + 15 * [0]) + bytes(32)) + node(7, low, low_node[64:])


def pool_superblock_seeds():
    """Superblocks without their checksums, which the target adds; and ids as text."""
    def superblock(magic=b"ddspool\n", version=1, incompatible=0, read_only=0, uuid=bytes(range(16)), slot=1 << 16, begin=64 << 30):
        return magic + struct.pack("<III16s4xQQQ8x", version, incompatible, read_only, uuid, slot, 1 << 20, begin)

    yield "plain", superblock()
    yield "newer", superblock(version=2)
    yield "old", superblock(version=0)
    yield "incompatible", superblock(incompatible=1)
    yield "read-only", superblock(read_only=4)
    yield "no-id", superblock(uuid=bytes(16))
    yield "small-slots", superblock(slot=4096)
    yield "elsewhere", superblock(begin=1 << 30)
    yield "qcow2", superblock(magic=b"QFI\xfb\0\0\0\3")
    yield "id", b"3b0c0f62-9d7e-4c1a-8f00-5a5a5a5a5a5a"
    yield "no-id-text", b"3b0c0f629d7e4c1a8f005a5a5a5a5a5a"


def finder_seeds():
    """Lists of tables (first byte 0) and filters (1) without their checksums, which the target adds."""
    def tables(*entries, version=1, nr=None, uuid=bytes(range(1, 17)), covered=7, next=2, lacks=(0, 0)):
        head = b"\0ddsfind\n" + struct.pack("<II16sQQQQ", version, len(entries) if nr is None else nr, uuid, covered, next, *lacks)
        return head + b"".join(struct.pack("<QQQ", *e) for e in entries) + bytes(4)

    def filter(bits, nr=None):
        return b"\1ddsfilt\n" + struct.pack("<QII", len(bits) // 32 if nr is None else nr, 0, 0) + bits

    yield "none", tables()
    yield "one", tables((1, 50, 4176))
    yield "wrong-size", tables((1, 50, 4172))
    yield "missing", tables((1, 50, 4176), (5, 1, 1), next=6)
    yield "descending", tables((5, 1, 1), (1, 50, 4176), next=6)
    yield "twice", tables((1, 50, 4176), (1, 50, 4176))
    yield "beyond-next", tables((1, 50, 4176), next=1)
    yield "last", tables(next=2**64 - 1)
    yield "lacks", tables((1, 50, 4176), lacks=(64 << 30, 65 << 30))
    yield "lacks-less-than-nothing", tables((1, 50, 4176), lacks=(2**64 - 1, 1))
    yield "many", tables(nr=2**32 - 1)
    yield "newer", tables(version=2)
    yield "foreign", tables((1, 50, 4176), uuid=bytes(16))
    yield "filter-full", filter(b"\xff" * 64)
    yield "filter-empty", filter(bytes(64))
    yield "filter-none", filter(b"")
    yield "filter-large", filter(b"\xff" * 64, nr=2**59)
    yield "filter-cut", filter(b"\xff" * 40, nr=2)


def slice_seeds():
    """Backing names, as they are written and as they come back."""
    def name(path, raw=b'"driver":"raw","read-only":true,"offset":65536,"size":12288', more=b""):
        return b'json:{"file":{' + raw + b',"file":{"driver":"file","filename":"' + path + b'"' + more + b"}}}"

    yield "plain", name(b"/pool/views/a.qcow2")
    yield "libvirt", name(b"/a", b'"driver":"raw","offset":0,"size":12288')
    yield "cache", name(b"/a", more=b',"cache":{"direct":false}')
    yield "blanks", name(b"/a b").replace(b",", b" ,\n").replace(b":", b"\t: ").replace(b"json\t: ", b"json:")
    yield "tables", name(b"/a").replace(b'{"file"', b'{"l2-cache-size":134217728,"file"', 1)
    yield "tables-last", name(b"/a")[:-1] + b',"l2-cache-size":1073741824}'
    yield "tables-many", name(b"/a").replace(b'{"file"', b'{"l2-cache-size":1073741825,"file"', 1)
    yield "escapes", name(b'/\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e4\\u20ac\\ud83d\\udcbe')
    yield "surrogate", name(b"/\\ud83d")
    yield "twice", name(b"/a", b'"driver":"raw","driver":"raw","offset":0,"size":1')
    yield "huge", name(b"/a", b'"driver":"raw","offset":9223372036854775807,"size":18446744073709551616')
    yield "long", name(b"/" + b"p" * 1100)
    yield "path", b'/odd "name\\\x01\x7f'


def view_seeds():
    """Headers of views, checksums are the target's to put right."""
    for bits, size, slice_size, l1 in ((12, 7 << 20, 3 << 20, 1 << 20), (14, 1 << 40, 64 << 30, 1 << 30), (16, 0, 1 << 20, 0),
                                       (12, 8 << 40, 65 << 30, 64 << 30), (12, 9 << 40, 65 << 30, 0), (16, 5, 13 << 40, 65536)):
        head = b"QFI\xfb" + struct.pack(">IQIIQIIQQIIQQQQII", 3, 0, 0, bits, size, 0, 1, l1, l1 + 65536, 1, 0, 0, 0, 0, 1 << 63, 0,
                                        104)
        whose = bytes(range(48)) + struct.pack("<QQQI4x", size, slice_size, 7, 0)
        head = bytearray(head + struct.pack(">II", 0x64647376, (1 << bits) - 120) + whose)
        head[23] = (bits - 12) // 2
        yield f"{bits}-{size}-{slice_size}", bytes(head.ljust(4096, b"\0"))


def repoint_seeds():
    def overlay(version=3, bits=12, name=b"/plain", kind=b"qcow2"):
        q = plain(version, bits)
        q.backing = name
        q.extension(0xE2792ACA, kind)
        return q.done()

    slice = b'json:{"file":{"driver":"raw","offset":0,"size":24576,"file":{"driver":"file","filename":"/%s/views/x.qcow2"}}}'
    for title, data in {"plain": overlay(), "v2": overlay(version=2), "slice": overlay(name=slice % b"pool"),
                        "raw": overlay(kind=b"raw"),
                        "small": overlay(bits=9), "2k": overlay(bits=11), "64k": overlay(bits=16),
                        "long": overlay(name=slice % (b"a" * 800)),
                        "named": named().done(), "none": plain(3, 12).done()}.items():
        yield title, b"\x14" + data[:70000]
        yield title + "-long", b"\xff" + data[:70000]


def any_seeds():
    """For targets whose inputs need no form."""
    yield "empty", b""
    yield "zeros", bytes(4096)
    for i in range(4):
        yield f"random-{i}", random.randbytes(1 << (4 * i))


def main():
    _, name, folder = sys.argv
    random.seed(1)
    for title, content in {"qcow2": qcow2_seeds, "bitmaps": bitmaps_seeds, "vhd": vhd_seeds, "vhdx": vhdx_seeds, "vdi": vdi_seeds,
                           "ova": ova_seeds, "vmdk": vmdk_seeds, "plan": plan_seeds, "relayout": relayout_seeds,
                           "names": names_seeds, "nodes": nodes_seeds, "pool_superblock": pool_superblock_seeds,
                           "finder": finder_seeds, "slice": slice_seeds, "view": view_seeds,
                           "repoint": repoint_seeds}.get(name, any_seeds)():
        with open(os.path.join(folder, title), "wb") as f:
            f.write(content)


main()
