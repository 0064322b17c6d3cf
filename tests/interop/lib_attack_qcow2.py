# SPDX-License-Identifier: Apache-2.0
"""Hostile qcow2 images, after docs/interop/qcow2.rst of QEMU."""

import os
import struct
import zlib

from lib_attack import ANY, GIB, KIB, LONG, MIB, TIB, attack, attacks_with, be, be64s, extremes, pad, patched

COPIED, COMPRESSED, ZERO = 1 << 63, 1 << 62, 1
BACKING_FORMAT, DATA_FILE, FEATURE_NAMES, BITMAPS = 0xE2792ACA, 0x44415441, 0x6803F857, 0x23852875
DIRTY, CORRUPT, EXTERNAL, COMPRESSION, EXTENDED = 1, 2, 4, 8, 16


class Qcow2:
    """An image laid out cluster after cluster behind a header, whose fields can be anything."""

    def __init__(self, bits=9, size=32 * KIB, **fields):
        self.bits, self.size, self.fields = bits, size, fields
        self.cluster = 1 << bits
        self.content = bytearray(2 * self.cluster)  # header, refcount table
        self.extensions, self.backing = b"", fields.pop("backing", b"")

    def add(self, content):
        at = len(self.content)
        self.content += pad(content, self.cluster)
        return at

    def table(self, entries):
        return self.add(be64s(entries))

    def data(self, byte=b"d"):
        return self.add(byte * self.cluster)

    def packed(self, at, length):
        """The entry of compressed data that lie there."""
        return COMPRESSED | ((at + length - 1) // 512 - at // 512) << (70 - self.bits) | at

    def map(self, entries):
        """An L1 table with one L2 table with these entries."""
        return self.l1([COPIED | self.table(entries)])

    def l1(self, entries):
        self.fields["l1"] = self.table(entries)
        self.fields["l1_size"] = len(entries)
        return self

    def extension(self, kind, content):
        self.extensions += struct.pack(">II", kind, len(content)) + pad(content, 8)
        return self

    def done(self):
        f = dict(version=3, crypt=0, l1_size=0, l1=0, refcounts=self.cluster, refcount_clusters=1, nr_snapshots=0,
                 snapshots=0,
                 incompatible=0, compatible=0, autoclear=0, order=4, length=112, compression=0, bits=self.bits,
                 size=self.size)
        f.update(self.fields)
        at = f.get("backing_offset", 112 + len(self.extensions) + 8 if self.backing else 0)
        head = struct.pack(">4sIQIIQIIQQIIQQQQIIB7x", b"QFI\xfb", f["version"], at,
                           f.get("backing_size", len(self.backing)),
                           f["bits"], f["size"], f["crypt"], f["l1_size"], f["l1"], f["refcounts"], f["refcount_clusters"],
                           f["nr_snapshots"], f["snapshots"], f["incompatible"], f["compatible"], f["autoclear"],
                           f["order"],
                           f["length"], f["compression"])
        head += self.extensions + bytes(8) + self.backing
        self.content[:len(head)] = head
        return bytes(self.content)


def plain(**fields):
    """A small image with a bit of data."""
    q = Qcow2(**fields)
    return q.map([COPIED | q.data(), 0, q.data(b"e"), ZERO])


def backed(name, form=b"raw", **fields):
    q = plain(bits=12, backing=name, **fields)
    return q.extension(BACKING_FORMAT, form) if form else q


def external(name):
    q = Qcow2(bits=12, incompatible=EXTERNAL)
    return q.extension(DATA_FILE, name).map([COPIED, COPIED | 4096])


def snapshot(l1, l1_size, size=32 * KIB, name=b"1", extra=None):
    more = be64s([0, size]) if extra is None else extra
    entry = struct.pack(">QIHHIIQII", l1, l1_size, 1, len(name), 0, 0, 0, 0, len(more)) + more + b"1" + name
    return pad(entry, 8)


# ---- E1, E2, E3: names that lead outside ----

OUTSIDE = r"lies outside the directories given"
REFUSED = r"lies outside the directories given|is not a plain file name|cannot find the|is a (FIFO|directory)|is empty"


def names_of_files(p):
    return {"absolute": p.secret, "relative": "../../outside/secret", "dotdot": "sub/../../../outside/secret",
            "slashes": "..//..///outside/./secret", "passwd": "/etc/passwd", "device": "/dev/zero", "tty": "/dev/tty",
            "proc_fd": "/proc/self/fd/3", "proc_cwd": "/proc/self/cwd/GNUmakefile",
            "proc_root": "/proc/self/root" + p.secret,
            "proc_mem": "/proc/self/mem", "link": "link", "folder_of_link": "away/secret",
            "fifo_outside": p.outside + "/fifo",
            "fifo": "fifo", "folder": "sub", "fdset": "/dev/fdset/1", "empty_part": "sub//", "file": "file:" + p.secret,
            "unc": "\\\\host\\share"}


PSEUDO = {"json": '{"driver":"file","filename":"%s"}', "json_spelt": 'json:{"driver":"file","filename":"%s"}',
          "json_file": 'file:json:{"filename":"%s"}', "file_twice": "file:file:%s", "nbd": "nbd:unix:%s",
          "nbd_url": "nbd+unix:///?socket=%s", "nbd_tcp": "nbd:127.0.0.1:10809", "http": "http://127.0.0.1:1/%s",
          "https": "https://127.0.0.1:1/%s", "ssh": "ssh://127.0.0.1%s", "fd": "fd:3", "fat": "fat:%s",
          "vvfat": "fat:rw:%s",
          "blkdebug": "blkdebug::%s", "blkverify": "blkverify:%s:x", "device": "host_device:/dev/zero", "rbd": "rbd:a/b",
          "iscsi": "iscsi://127.0.0.1/a/0", "gluster": "gluster+unix:///a/b?socket=%s",
          "windows": "C:\\\\outside\\\\secret"}
NOT_PLAIN = "is not a plain file name"


def prepare(p):
    os.mkdir(p.path("sub"))
    p.link("../../outside/secret", "link")
    p.link("../../outside", "away")
    p.fifo("fifo")


FILES = dict.fromkeys(names_of_files(type("P", (), {"secret": "", "outside": ""})))


@attacks_with("E1", "data.qcow2", {k: k for k in FILES}, "an external data file that is not the image's", fails=REFUSED)
def data_file(p, case):
    prepare(p)
    p.write(external(names_of_files(p)[case].encode()).done())


@attack("E1", "self.qcow2", "an external data file that is the image itself", fails="it is the image itself")
def data_file_is_itself(p):
    p.write(external(b"self.qcow2").done())


@attack("E1", "none.qcow2", "an external data file without a name", fails="that the image does not name")
def data_file_without_name(p):
    p.write(Qcow2(bits=12, incompatible=EXTERNAL).map([COPIED]).done())


@attack("E1", "shadowed.qcow2", "clusters at other offsets of the data file than the disk's",
        fails="cluster at guest offset 0 is at offset 1048576 of the data file")
def data_file_elsewhere(p):
    p.write(bytes(MIB), "data")
    q = Qcow2(bits=12, incompatible=EXTERNAL).extension(DATA_FILE, b"data")
    p.write(q.map([COPIED | MIB]).done())


@attacks_with("E2", "backed.qcow2", {k: k for k in FILES}, "a backing file that is not the image's", warns=REFUSED)
def backing(p, case):
    prepare(p)
    p.write(backed(names_of_files(p)[case].encode()).done())


@attacks_with("E2", "backed.qcow2", {f: f for f in ("", "qcow2", "vmdk", "vpc", "vhdx", "vdi", "host_device", "nbd", "luks",
                                                    "file")},
              "a backing file outside, said to be of a format", warns="lies outside the directories given|is not read")
def backing_of_format(p, form):
    p.write(backed(p.secret.encode(), form.encode()).done())


@attack("E2", "owned.qcow2", "a backing file in the store that belongs to another user", warns="belongs to user|^$")
def backing_of_another_user(p):
    p.write(bytes(MIB), "theirs.raw")
    p.write(backed(b"theirs.raw").done())
    if os.geteuid() == 0:
        os.chown(p.path("owned.qcow2"), 12345, 12345)
        os.chown(p.path("theirs.raw"), 12346, 12346)


@attacks_with("E3", "pseudo.qcow2", PSEUDO, "a backing file by a name that is no file name", warns=NOT_PLAIN)
def pseudo_backing(p, name):
    p.write(backed(name.replace("%s", p.secret).encode()).done())


@attacks_with("E3", "pseudo.qcow2", PSEUDO, "a data file by a name that is no file name", fails=NOT_PLAIN)
def pseudo_data_file(p, name):
    p.write(external(name.replace("%s", p.secret).encode()).done())


@attack("E3", "nul.qcow2", "a name with a zero byte, which is shorter for some", fails="has a zero byte in it")
def name_with_zero_byte(p):
    p.write(backed(b"good\0" + p.secret.encode()).done())


@attack("E3", "lines.qcow2", "a name with a newline", warns=r"cannot find|is not a plain")
def name_with_newline(p):
    p.write(backed(b"a\n" + p.secret.encode()).done())


@attack("E3", "long.qcow2", "a name of 1024 bytes", fails="backing file name of 1024 bytes is too long")
def name_too_long(p):
    p.write(backed(b"/" * 1024).done())


# ---- E9: what is not known ----

@attacks_with("E9", "bit-{}.qcow2", {str(b): b for b in range(64) if b > 4}, "an incompatible feature that nobody knows",
              fails="incompatible feature bit {}, which is not known")
def feature_bit(p, bit):
    p.write(plain(incompatible=1 << bit).done())


@attacks_with("E9", "known.qcow2", {"data_file": EXTERNAL, "compression": COMPRESSION, "extended_l2": EXTENDED},
              "a known feature that the rest of the header contradicts",
              fails="does not name|contradicts the compression feature|too small for extended L2")
def feature_alone(p, bit):
    p.write(plain(incompatible=bit).done())


@attacks_with("E9", "version.qcow2", {"0": 0, "1": 1, "4": 4, "99": 99, "max": 0xFFFFFFFF}, "a version that nobody knows",
              fails=ANY)
def version(p, v):
    p.write(plain(version=v).done())


@attacks_with("E9", "compression.qcow2", {"2": 2, "3": 3, "255": 255}, "a compression that nobody knows",
              fails="compression type {} is not known")
def compression(p, kind):
    p.write(plain(compression=kind, incompatible=COMPRESSION).done())


@attack("E9", "crypt.qcow2", "an encryption that nobody knows", fails="encryption method 3 is not known")
def encryption(p):
    p.write(plain(crypt=3).done())


@attack("E9", "luks.qcow2", "ciphertext: only its stored bytes can be seen")
def luks(p):
    p.write(plain(crypt=2).done())


# ---- E10: numbers too large, or none ----

FIELDS = {"backing_offset": (8, 8), "backing_size": (16, 4), "bits": (20, 4), "size": (24, 8), "crypt": (32, 4),
          "l1_size": (36, 4),
          "l1": (40, 8), "refcounts": (48, 8), "refcount_clusters": (56, 4), "nr_snapshots": (60, 4), "snapshots": (64, 8),
          "incompatible": (72, 8), "order": (96, 4), "length": (100, 4)}


@attack("E10", "size-max.qcow2", "every field of the header at every extreme", fails=ANY, heavy=True)
def every_field_of_qcow2(p):
    for field, (at, width) in FIELDS.items():
        for name, value in extremes(width).items():
            p.write(patched(plain(bits=12).done(), (at, be(width, value))), f"{field}-{name}.qcow2")


@attacks_with("E10", "bits-{}.qcow2", {str(b): b for b in (0, 8, 22, 31, 32, 63, 64)}, "clusters of 2^N bytes",
              fails=r"cluster size 2\^{} is not from 512 bytes to 2 MiB")
def cluster_bits(p, bits):
    p.write(plain(bits=12).fields and patched(plain(bits=12).done(), (20, be(4, bits))))


@attacks_with("E10", "size.qcow2", {"2_63": 1 << 63, "max": (1 << 64) - 1, "2_62": 1 << 62}, "a disk of 2^63 bytes",
              fails="L1 table is too small for a disk of")
def virtual_size(p, size):
    p.write(plain(size=size).done())


@attack("E10", "l1.qcow2", "an L1 table of 2^32 - 1 entries", fails="L1 table of 34359738360 bytes is too large")
def l1_size(p):
    p.write(plain(l1_size=0xFFFFFFFF).done() and patched(plain().done(), (36, be(4, 0xFFFFFFFF))))


@attack("E10", "order.qcow2", "refcounts of 2^64 bits", fails=r"refcounts of 2\^64 bits")
def refcount_order(p):
    p.write(plain(order=64).done())


@attack("E10", "extension.qcow2", "an extension of 2^32 - 1 bytes", fails="of 4294967295 bytes leaves the extension area")
def extension_length(p):
    p.write(patched(plain().extension(0x12345678, bytes(8)).done(), (116, be(4, 0xFFFFFFFF))))


@attack("E10", "entries-a.qcow2", "L1 and L2 entries at every extreme", fails=ANY, heavy=True)
def every_entry_of_qcow2(p):
    for i, value in enumerate([*extremes(8).values(), COPIED, COPIED | 1, COMPRESSED, COMPRESSED | COPIED,
                               COMPRESSED | 1 << 61,
                               COMPRESSED | (1 << 62) - 1, 1 << 55, 511, 513, (1 << 56) - 512]):
        q = Qcow2()
        p.write(q.l1([value]).done(), f"l1-{i}.qcow2")
        q = Qcow2()
        p.write(q.map([value] * 64).done(), f"l2-{i}.qcow2")
        q = Qcow2(bits=14, incompatible=EXTENDED, size=MIB)
        p.write(q.map([value, value ^ (1 << 64) - 1] * 1024).done(), f"extended-{i}.qcow2")
    p.write(Qcow2().l1([1 << 63 - 9]).done(), "entries-a.qcow2")


# ---- E11: loops ----

@attack("E11", "same.qcow2", "an L1 table that is its own L2 table, which maps itself", heavy=True)
def l1_is_l2(p):
    q = Qcow2(size=64 * 32 * KIB)
    at = len(q.content)
    p.write(q.l1([COPIED | at] * 64).done())


@attack("E11", "header.qcow2", "an L2 table over the header", fails="aligned|past the end|both have data|^")
def l1_over_header(p):
    p.write(plain(l1=0, l1_size=4, size=64 * KIB).done())


@attack("E11", "self.qcow2", "a backing file that is the image itself", warns="chain loops back")
def backing_is_itself(p):
    p.write(backed(b"self.qcow2", b"qcow2").done())


@attack("E11", "a.qcow2", "a backing chain that is a circle of three", warns="chain loops back")
def backing_circle(p):
    for name, below in (("a", b"b"), ("b", b"sub/../c"), ("c", b"./a")):
        p.write(backed(below + b".qcow2", b"qcow2").done(), name + ".qcow2")
    os.mkdir(p.path("sub"))


@attack("E11", "0.qcow2", "a backing chain of 300", warns="more than 200 members", heavy=True)
def backing_chain_of_300(p):
    for i in range(300):
        p.write(backed(b"%d.qcow2" % (i + 1), b"qcow2").done() if i < 299 else plain().done(), f"{i}.qcow2")


@attack("E11", "hard.qcow2", "a backing file that is another name of the image", warns="chain loops back")
def backing_by_hard_link(p):
    p.write(backed(b"other.qcow2", b"qcow2").done())
    os.link(p.path("hard.qcow2"), p.path("other.qcow2"))


@attack("E11", "table.qcow2", "a snapshot table that lies over the L1 table, which is the snapshots'", fails=ANY,
        heavy=True)
def snapshots_over_l1(p):
    q = plain(bits=12, nr_snapshots=500)
    q.fields["snapshots"] = q.fields["l1"]
    p.write(q.done())


@attack("E11", "layers.qcow2", "1000 snapshots that are the active disk", heavy=True)
def snapshots_are_the_disk(p):
    q = plain(bits=12)
    q.fields["snapshots"] = q.add(snapshot(q.fields["l1"], 1) * 1000)
    p.write(patched(q.done(), (60, be(4, 1000))))


# ---- E12: the same many times ----

def aliased(entry, l1_size, bits=16, **fields):
    """One L2 table full of one entry, used by the whole L1 table."""
    q = Qcow2(bits=bits, size=l1_size << 2 * bits - 3, **fields)
    q.l1([COPIED | q.table([entry(q)] * (q.cluster // 8))] * l1_size)
    return q.done()


SAME = "the same (data|table) many times over"
TOO_MUCH = SAME + "|it was stopped as hostile or broken"


@attack("E12", "l2.qcow2", "one L2 table with one cluster, 64 TiB of it", fails=SAME, heavy=True)
def one_cluster_everywhere(p):
    p.write(aliased(lambda q: q.data(), 128 << 10))


@attack("E12", "bomb.qcow2", "one compressed cluster, 64 TiB of it", fails=SAME, heavy=True)
def one_compressed_cluster_everywhere(p):
    def entry(q):
        z = zlib.compressobj(9, zlib.DEFLATED, -12)
        content = z.compress(b"b" * q.cluster) + z.flush()
        return q.packed(q.add(content), len(content))
    p.write(aliased(entry, 128 << 10))


@attack("E12", "turns.qcow2", "compressed clusters in turns, so that none is remembered", fails=TOO_MUCH, heavy=LONG)
def compressed_clusters_in_turns(p):
    q = Qcow2(bits=21, size=1 << 43)
    z = zlib.compressobj(9, zlib.DEFLATED, -12)
    content = z.compress(b"t" * q.cluster) + z.flush()
    at = q.add(content)
    l2 = q.table([q.packed(at, len(content)), q.packed(at, len(content) + 512)] * 4000)
    p.write(q.l1([l2] * 16).done())


@attack("E12", "empty.qcow2", "one empty L2 table, 64 TiB of it", fails=TOO_MUCH + "|^$", heavy=LONG)
def one_empty_table_everywhere(p):
    p.write(aliased(lambda q: 0, 128 << 10))


@attack("E12", "zero.qcow2", "zero clusters and none in turns: as many extents as can be", fails=TOO_MUCH, heavy=True)
def extents_in_turns(p):
    q = Qcow2(bits=16, size=64 * TIB)
    p.write(q.l1([COPIED | q.table([ZERO, 0] * 4096)] * (128 << 10)).done())


@attack("E12", "subclusters.qcow2", "subclusters in turns: extents of 512 bytes", fails=TOO_MUCH, heavy=True)
def subclusters_in_turns(p):
    q = Qcow2(bits=14, size=GIB * 1024, incompatible=EXTENDED)
    p.write(q.l1([COPIED | q.table([COPIED | q.data(), 0x55555555 | 0xAAAAAAAA << 32] * 1024)] * (64 << 10)).done())


def of_holes(p, tables, bits=16):
    """Clusters that lie in a hole of the file, in an order that merges none."""
    q = Qcow2(bits=bits, size=tables * 8192 << bits)
    order = [((i * 5001) % 8192) for i in range(8192)]
    base = 4 * TIB
    p2 = [COPIED | q.table([COPIED | base + (o << bits) for o in order])] * tables
    p.sparse(15 * TIB, {0: q.l1(p2).done()})


@attack("E12", "holes.qcow2", "64 TiB of clusters that lie in a hole of a file of 15 TiB", fails=TOO_MUCH, heavy=LONG)
def clusters_in_a_hole(p):
    of_holes(p, 128 << 10)


# ---- E13: bombs ----

def compressed(content, decoded, **fields):
    """A cluster that is said to be these compressed bytes, beside one with data."""
    q = Qcow2(bits=decoded.bit_length() - 1, size=4 * decoded, **fields)
    return q.map([q.packed(q.add(content), len(content)), q.data(), 0])


def deflated(content, bits=-12):
    z = zlib.compressobj(9, zlib.DEFLATED, bits)
    return z.compress(content) + z.flush()


def zstd_block(kind, size, content, last):
    return struct.pack("<I", size << 3 | kind << 1 | last)[:3] + content


def zstd_frame(blocks, descriptor=0x20, size=b"\0", window=b""):
    return b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + window + size + b"".join(blocks)


def rle_frame(byte, size):
    """`size` bytes of one, in blocks of at most 128 KiB; the frame says its size in 4 bytes."""
    blocks, left = [], size
    while left:
        n = min(left, 128 << 10)
        left -= n
        blocks.append(zstd_block(1, n, byte, left == 0))
    return zstd_frame(blocks, 0xA0, struct.pack("<I", size))


ZSTD = {"incompatible": COMPRESSION, "compression": 1}
BROKEN = "compressed cluster at offset 0: compressed data (is broken|ends early)"


@attack("E13", "long.qcow2", "deflate of 1 GiB in a cluster of 64 KiB: what is too much stays unread", heavy=True)
def deflate_of_a_gigabyte(p):
    z = zlib.compressobj(9, zlib.DEFLATED, -12)
    content = b"".join(z.compress(bytes(16 * MIB)) for _ in range(4))[:100 * KIB]
    p.write(compressed(content, 64 * KIB).done())


@attack("E13", "short.qcow2", "deflate that ends before the cluster is full", fails=BROKEN)
def deflate_too_short(p):
    p.write(compressed(deflated(bytes(1000)), 64 * KIB).done())


@attack("E13", "window.qcow2", "deflate that looks back farther than the window: the cluster itself is room enough")
def deflate_window(p):
    block = os.urandom(20 * KIB)
    p.write(compressed(deflated(block + block + bytes(24 * KIB), -15), 64 * KIB).done())


@attack("E13", "frames.qcow2", "zstd frames that follow each other: together one cluster", heavy=True)
def zstd_frames(p):
    p.write(compressed(b"".join(rle_frame(b"f", 4096) for _ in range(16)), 64 * KIB, **ZSTD).done())


@attack("E13", "zstd.qcow2", "a zstd frame of 1 GiB for a cluster of 64 KiB", fails=BROKEN, heavy=True)
def zstd_of_a_gigabyte(p):
    p.write(compressed(rle_frame(b"z", GIB)[:40 * KIB], 64 * KIB, **ZSTD).done())


@attack("E13", "window.qcow2", "a zstd frame that wants a window of 2 GiB and does not say its size", fails=BROKEN,
        heavy=True)
def zstd_window(p):
    blocks = [zstd_block(1, 128 * KIB, b"w", 0)] * 4 + [zstd_block(1, 1, b"w", 1)]
    p.write(compressed(zstd_frame(blocks, 0, b"", bytes([21 << 3])), 64 * KIB, **ZSTD).done())


@attack("E13", "lie.qcow2", "a zstd frame that is longer than it says", fails=BROKEN)
def zstd_size_lie(p):
    p.write(compressed(zstd_frame([zstd_block(1, 64 * KIB, b"l", 1)], 0x20, b"\xff"), 64 * KIB, **ZSTD).done())


@attack("E13", "less.qcow2", "a zstd frame that is shorter than the cluster", fails=BROKEN)
def zstd_too_short(p):
    p.write(compressed(rle_frame(b"s", 100), 64 * KIB, **ZSTD).done())


@attack("E13", "skip.qcow2", "zstd frames to be skipped, and nothing else", fails=BROKEN)
def zstd_skippable_only(p):
    p.write(compressed(struct.pack("<II", 0x184D2A50, 100) + bytes(100), 64 * KIB, **ZSTD).done())


@attack("E13", "skips.qcow2", "a zstd frame to be skipped of 4 GiB", fails=BROKEN)
def zstd_skippable_too_long(p):
    p.write(compressed(struct.pack("<II", 0x184D2A5F, 0xFFFFFFFF) + bytes(100), 64 * KIB, **ZSTD).done())


@attack("E13", "dictionary.qcow2", "a zstd frame that needs a dictionary", fails=BROKEN)
def zstd_dictionary(p):
    p.write(compressed(zstd_frame([zstd_block(1, 200, b"d", 1)], 0x21, b"\x07\xc8"), 64 * KIB, **ZSTD).done())


def slow(content, **fields):
    """1 MiB of compressed data that decode to a cluster of 2 MiB, begun at many places, so that none is remembered."""
    q = Qcow2(bits=21, size=TIB, **fields)
    body, step = content
    at = q.add(body)
    entries = [q.packed(at + step * i, len(body) - step * i) for i in range(4000)]
    return q.l1([COPIED | q.table(entries)] * 2).done()


def bits_of(fields):
    """Bytes of a deflate stream: (value, number of bits), the lowest first."""
    whole, at = 0, 0
    for value, width in fields:
        whole |= value << at
        at += width
    return whole, at


def empty_dynamic_block():
    """A deflate block of nothing whose two tables must be built all the same: (value, number of bits)."""
    # code lengths: 18 gets 1 bit, 0 and 1 two bits each; then 256 times 0, the end's length 1, one distance of length 0
    order = {18: 1, 0: 2, 1: 2}
    sequence = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1]
    fields = [(0, 1), (2, 2), (0, 5), (0, 5), (len(sequence) - 4, 4)]
    fields += [(order.get(s, 0), 3) for s in sequence]
    fields += [(0, 1), (127, 7), (0, 1), (107, 7), (0b11, 2), (0b01, 2), (0, 1)]
    return bits_of(fields)


def many_empty_blocks(size):
    value, width = empty_dynamic_block()
    eight, octets = 0, 8 * width  # eight of them end at a byte
    for i in range(8):
        eight |= value << i * width
    unit = eight.to_bytes(octets // 8, "little")
    return unit * (size // len(unit)), len(unit)


@attack("E13", "blocks.qcow2", "deflate with a hundred thousand blocks of nothing before each cluster", fails=TOO_MUCH,
        heavy=LONG)
def deflate_blocks_of_nothing(p):
    unit, step = many_empty_blocks(MIB - 64 * KIB)
    p.write(slow((unit + deflated(b"n" * (2 * MIB)), step)))


@attack("E13", "frames.qcow2", "zstd with a hundred thousand frames of nothing before each cluster", fails=TOO_MUCH,
        heavy=LONG)
def zstd_frames_of_nothing(p):
    unit = zstd_frame([zstd_block(0, 0, b"", 1)])
    p.write(slow((unit * ((MIB - 64 * KIB) // len(unit)) + rle_frame(b"n", 2 * MIB), len(unit)), **ZSTD))


@attack("E13", "skips.qcow2", "zstd with a hundred thousand frames to be skipped before each cluster", fails=TOO_MUCH,
        heavy=LONG)
def zstd_frames_to_skip(p):
    unit = struct.pack("<II", 0x184D2A50, 0)
    p.write(slow((unit * ((MIB - 64 * KIB) // 8) + rle_frame(b"n", 2 * MIB), 8), **ZSTD))


# ---- E14: giants ----

@attacks_with("E14", "giant.qcow2", {"64_tib": 64 * TIB, "1_pib": 1024 * TIB}, "an empty disk, its L1 table in a hole",
              heavy=True)
def giant(p, size):
    entries = size >> 39
    q = Qcow2(bits=21, size=size, l1=4 * MIB, l1_size=entries)
    p.sparse(4 * MIB + 2 * MIB, {0: q.done()})


@attack("E14", "exa.qcow2", "a disk of 2 EiB", fails="span 4 PiB or more")
def two_exbibytes(p):
    q = Qcow2(bits=21, size=1 << 61, l1=4 * MIB, l1_size=1 << 22)
    p.sparse(4 * MIB + 32 * MIB, {0: q.done()})


# ---- E15, E16: what a scan need not mind, and what it must ----

@attacks_with("E15", "refcounts.qcow2", {"none": 0, "ones": (1 << 64) - 1, "far": 1 << 54, "loop": 512},
              "a refcount table that says something else")
def refcount_table(p, entry):
    q = plain()
    q.content[512:1024] = be64s([entry] * 64)
    p.write(q.done())


@attack("E15", "leak.qcow2", "clusters that nothing leads to")
def leaked_clusters(p):
    q = plain()
    for _ in range(200):
        q.data(b"L")
    p.write(q.done())


@attack("E15", "far.qcow2", "a refcount table behind the end of the file")
def refcount_table_nowhere(p):
    p.write(plain(refcounts=1 << 40).done())


@attack("E16", "dirty.qcow2", "an image that was not closed")
def dirty(p):
    p.write(plain(incompatible=DIRTY).done())


@attack("E16", "corrupt.qcow2", "an image that is marked corrupt", warns="marked corrupt")
def corrupt(p):
    p.write(plain(incompatible=CORRUPT).done())


@attack("E16", "cut-2000.qcow2", "an image cut short at every 100th byte", fails=ANY)
def cut_short(p):
    q = Qcow2()
    whole = q.map([COPIED | q.data(), q.data()]).extension(BACKING_FORMAT, b"raw").done()
    for n in range(0, len(whole), 100):
        p.write(whole[:n], f"cut-{n}.qcow2")


@attack("E17", "v2.qcow2", "the zero flag in a version that has none", fails="zero cluster in a version 2 image")
def zero_flag_in_version_2(p):
    p.write(plain(version=2).done())


@attack("E18", "odd.qcow2", "a disk of 1000 bytes in a cluster of which the file has 900")
def odd_size(p):
    q = Qcow2(size=1000)
    p.write(q.map([COPIED | q.data(), COPIED | q.data(b"e")]).done()[:-124])


# ---- E19: texts ----

EVIL = "\x1b]0;owned\x07\x1b[2J%n%s%99999999d\r\nforged: line\x9b31m".encode("latin-1") + b"\xff\xfe\xc0\x80"


@attack("E19", "name.qcow2", "a backing file whose name steers terminals", warns="cannot find|plain")
def name_that_steers_terminals(p):
    p.write(backed(b"./" + EVIL).done())


@attack("E19", "feature.qcow2", "a feature whose name steers terminals", fails=r"feature '\?\]0.*owned")
def feature_that_steers_terminals(p):
    p.write(plain(bits=12, incompatible=1 << 20).extension(FEATURE_NAMES, b"\0\x14" + EVIL[:46].ljust(46, b"\0")).done())


@attack("E19", "format.qcow2", "a backing format whose name steers terminals", warns="is not read")
def format_that_steers_terminals(p):
    p.write(bytes(MIB), "b.raw")
    p.write(backed(b"b.raw", EVIL[:31]).done())


# ---- E20: costly headers ----

@attack("E20", "snapshots.qcow2", "65536 snapshots, as many layers", fails=ANY, heavy=True)
def snapshots_by_the_thousand(p):
    q = plain(bits=16)
    q.fields["snapshots"] = q.add(snapshot(q.fields["l1"], 1) * 65536)
    p.write(patched(q.done(), (60, be(4, 65536))))


@attack("E20", "square.qcow2", "1500 snapshots with tables of their own: each is compared with all before it", fails=ANY,
        heavy=LONG)
def snapshots_squared(p):
    q = Qcow2(size=MIB)
    first, nr = len(q.content), 1500
    for i in range(nr + 1):
        q.add(be64s([first + 512 * i] * 64))
    q.fields.update(l1=first + 512 * nr, l1_size=64)
    q.fields["snapshots"] = q.add(b"".join(snapshot(first + 512 * i, 64, MIB) for i in range(nr)))
    p.write(patched(q.done(), (60, be(4, nr))))


@attack("E20", "empty.qcow2", "1500 empty snapshots of a large disk with tables of their own", fails=ANY, heavy=LONG)
def empty_snapshots_squared(p):
    q = Qcow2(size=2 * GIB)
    first, nr = len(q.content), 600
    for i in range(nr):
        q.add(bytes(512))
    l1s = [q.table([first + 512 * (i % nr)] * 64) for i in range(nr)]
    q.fields.update(l1=l1s[0], l1_size=65536)
    q.fields["snapshots"] = q.add(b"".join(snapshot(at, 64 * (nr - i), 2 * GIB) for i, at in enumerate(l1s)))
    q.fields["size"] = 32 * KIB
    q.fields["l1_size"] = 1
    p.write(patched(q.done(), (60, be(4, nr))))


@attack("E20", "l1.qcow2", "an L1 table of 32 MiB that leads to one L2 table of nothing", heavy=True)
def l1_of_32_mib(p):
    q = Qcow2(bits=9, size=(4 << 20) * 32 * KIB)
    l2 = q.table([0] * 64)
    q.fields.update(l1=len(q.content), l1_size=4 << 20)
    p.sparse(len(q.content) + 32 * MIB, {0: q.done(), len(q.content): be64s([l2]) * (128 << 10)})
