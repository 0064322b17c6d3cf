# SPDX-License-Identifier: Apache-2.0
"""Hostile VHD and VHDX images, after Microsoft's "Virtual Hard Disk Image Format Specification" and [MS-VHDX]."""

import struct

import lib_vhd
import lib_vhdx
from lib_attack import ANY, GIB, KIB, LONG, MIB, TIB, attack, attacks_with, be, extremes, le, pad, patched
from lib_attack_qcow2 import EVIL, NOT_PLAIN, SAME, TOO_MUCH, prepare
from lib_vhd import DIFFERENCING, DYNAMIC, FIXED, NO_BLOCK
from lib_vhdx import FULL, PARTIAL

ID, PARENT = bytes(range(16)), bytes(range(16, 32))
OUT = r"lies outside|cannot find|is not a plain file name|is a FIFO|is not that of a file|names no file|not a valid URL|too long"


# ---- VHD ----

def vhd(blocks, size=4 * MIB, block_size=64 * KIB, entries=None, kind=DYNAMIC, locators=(), name="", parent=bytes(16),
        rest=b"", **header):
    """Footer, header, locators' data, table, rest, footer.
    blocks: entries of the table; locators: (platform, data, length or None, offset or None)"""
    entries = len(blocks) if entries is None else entries
    head = lib_vhd.footer(kind, size, ID, header=512, geometry=(65535, 16, 255))
    at, places, area = 1536, [], b""
    for platform, data, length, offset in locators:
        data_at = at + len(area) if offset is None else offset
        places.append((platform, 0, len(data) if length is None else length, data_at))
        area += pad(data)
    table = header.get("table", at + len(area))
    body = lib_vhd.header(table, entries, block_size, parent, name, places, header.get("version", 0x10000))
    return head + body + area + pad(struct.pack(f">{len(blocks)}I", *blocks)) + rest + head


def resummed(content, at, length, sum_at):
    part = bytearray(content[at:at + length])
    struct.pack_into(">I", part, sum_at, lib_vhd.checksum(part, sum_at))
    return patched(content, (at, bytes(part)))


def plain_vhd(**changes):
    return vhd([5, NO_BLOCK], 128 * KIB, rest=bytes(b"\xff" * 512) + b"b" * (64 * KIB), **changes)


FOOTER_FIELDS = {"features": (8, 4), "version": (12, 4), "header_offset": (16, 8), "original_size": (40, 8),
                 "size": (48, 8),
                 "geometry": (56, 4), "type": (60, 4)}
HEADER_FIELDS = {"data_offset": (8, 8), "table": (16, 8), "version": (24, 4), "entries": (28, 4), "block_size": (32, 4)}


@attacks_with("E7", "copy.vhd", {"type": (60, be(4, FIXED)), "size": (48, be(8, MIB)), "header": (16, be(8, 1024))},
              "a copy of the footer that says something else", fails="contradict|begins as one with blocks|^$")
def footers_disagree(p, change):
    whole = plain_vhd()
    p.write(resummed(patched(whole, change), 0, 512, 64))


@attack("E7", "fixed.vhd", "a fixed disk that begins as one with blocks",
        fails="ends as a fixed VHD disk, but begins as one with blocks")
def fixed_over_dynamic(p):
    whole = plain_vhd()
    p.write(whole[:-512] + lib_vhd.footer(FIXED, 64 * KIB, ID))


@attacks_with("E7", "sum.vhd", {"both": (0, -512), "header": (512, 512)}, "checksums that do not match", fails="checksum")
def checksums(p, places):
    whole = plain_vhd()
    p.write(patched(whole, *((at % len(whole) + 90, b"\x77") for at in places)))


BESIDE = {"absolute": (b"W2ku", "C:\\windows\\..\\..\\etc\\passwd"), "unc": (b"W2ku", "\\\\host\\share\\secret"),
          "rooted": (b"W2ru", "\\etc\\passwd")}
OUTSIDE = {"dotdot": (b"W2ru", "..\\..\\outside\\secret"), "slashes": (b"W2ru", "/etc/passwd"),
           "url": (b"MacX", "file:///etc/passwd"),
           "url_host": (b"MacX", "file://localhost/etc/passwd"), "url_dots": (b"MacX", "file://./../../outside/secret"),
           "url_coded": (b"MacX", "file://./%2e%2e/%2e%2e/outside/secret"), "link": (b"W2ru", "link"),
           "device": (b"W2ru", "/dev/zero"),
           "proc": (b"W2ru", "/proc/self/fd/3")}
NO_FILES = {"http": (b"MacX", "http://127.0.0.1:1/x"), "json": (b"W2ru", 'json:{"file.filename":"/etc/passwd"}'),
            "nbd": (b"W2ru", "nbd:unix:/x")}
BROKEN = {"only_dots": (b"W2ru", "..\\.."), "url_zero": (b"MacX", "file://./a%00b"), "empty": (b"W2ru", "\0x"),
          "long": (b"W2ru", "x" * 2000)}


def child(p, case):
    prepare(p)
    platform, text = case
    data = text.encode() if platform == b"MacX" else text.encode("utf-16-le")
    p.write(vhd([NO_BLOCK] * 64, kind=DIFFERENCING, parent=PARENT, locators=[(platform, data, None, None)]))


@attacks_with("E8", "child.vhd", BESIDE,
              "a parent at an absolute place: only its last name is looked for, beside the image",
              warns="cannot find the backing file '.*_{}/(passwd|secret)'")
def vhd_parent_beside(p, case):
    child(p, case)


@attacks_with("E8", "child.vhd", OUTSIDE, "a parent that is not the image's", warns="lies outside|cannot find")
def vhd_parent_outside(p, case):
    child(p, case)


@attacks_with("E8", "child.vhd", NO_FILES, "a parent by a name that is no file name", warns=NOT_PLAIN)
def vhd_parent_no_file(p, case):
    child(p, case)


@attacks_with("E8", "child.vhd", BROKEN, "a parent's name that cannot be",
              fails="not that of a file|not a valid URL|too long")
def vhd_parent_broken(p, case):
    child(p, case)


@attack("E8", "child.vhd", "a parent that is a FIFO", warns="is a FIFO")
def vhd_parent_is_a_fifo(p):
    child(p, (b"W2ru", "fifo"))


@attack("E19", "child.vhd", "a parent's name that steers terminals", warns="cannot find")
def vhd_parent_steers_terminals(p):
    child(p, (b"W2ru", "\x1b[31m\n%n"))


@attacks_with("E8", "far.vhd", {"past": (100, 1 << 40), "wrap": (100, (1 << 64) - 50), "sign": (100, 1 << 63),
                                "long": (5000, 512),
                                "max": (0xFFFFFFFF, 512)}, "a parent's name that lies nowhere", fails="parent locator 0")
def vhd_locator_place(p, place):
    length, offset = place
    p.write(vhd([NO_BLOCK] * 64, kind=DIFFERENCING, parent=PARENT, locators=[(b"W2ru", b"", length, offset)]))


@attack("E8", "half.vhd", "a parent's name that is no UTF-16", fails="is not valid UTF-16")
def vhd_parent_half_character(p):
    p.write(vhd([NO_BLOCK] * 64, kind=DIFFERENCING, parent=PARENT, locators=[(b"W2ru", b"\x00\xdc" * 4, None, None)]))


@attack("E8", "child.vhd", "a parent that is another than the one it was made on", warns="was made on")
def vhd_parent_is_another(p):
    p.write(plain_vhd(), "parent.vhd")
    p.write(vhd([NO_BLOCK] * 64, kind=DIFFERENCING, parent=PARENT, name="parent.vhd"))


@attack("E11", "self.vhd", "a parent that is the image itself", warns="chain loops back")
def vhd_parent_is_itself(p):
    p.write(vhd([NO_BLOCK] * 64, kind=DIFFERENCING, parent=ID, name="self.vhd"))


@attacks_with("E9", "x.vhd", {"version": (12, be(4, 0x20000)), "type_0": (60, be(4, 0)), "type_1": (60, be(4, 1)),
                              "type_5": (60, be(4, 5)),
                              "type_max": (60, be(4, 0xFFFFFFFF))}, "a footer that nobody knows", fails="is not known")
def vhd_unknown(p, change):
    whole = patched(plain_vhd(), change)
    end = len(whole) - 512
    p.write(resummed(resummed(patched(whole, (end + change[0], change[1])), 0, 512, 64), end, 512, 64))


@attack("E10", "size-max.vhd", "every field of footer and header at every extreme", fails=ANY, heavy=True)
def every_field_of_vhd(p):
    whole = plain_vhd()
    end = len(whole) - 512
    for field, (at, width) in FOOTER_FIELDS.items():
        for name, value in extremes(width).items():
            b = be(width, value)
            p.write(resummed(resummed(patched(whole, (at, b), (end + at, b)), 0, 512, 64), end, 512, 64),
                    f"{field}-{name}.vhd")
    for field, (at, width) in HEADER_FIELDS.items():
        for name, value in extremes(width).items():
            p.write(resummed(patched(whole, (512 + at, be(width, value))), 512, 1024, 36), f"header-{field}-{name}.vhd")


@attacks_with("E10", "block.vhd", {"past": 0xFFFFFFFE, "header": 1, "footer": 0, "table": 3},
              "a block that lies where it cannot",
              fails="block 0 at offset")
def vhd_block(p, sector):
    p.write(vhd([sector, NO_BLOCK], 128 * KIB, rest=bytes(66 * KIB)))


@attack("E11", "table.vhd", "a table over the header", fails="lies over the dynamic disk header")
def vhd_table_over_header(p):
    p.write(plain_vhd(table=600))


@attack("E12", "block.vhd", "one block, 500 GiB of it", fails=SAME, heavy=True)
def one_vhd_block_everywhere(p):
    nr = 250 << 10
    sector = 3 + nr * 4 // 512
    p.write(vhd([sector] * nr, nr * 2 * MIB // 512 * 512, 2 * MIB, rest=bytes(b"\xff" * 512) + b"b" * (2 * MIB)))


@attack("E12", "bits.vhd", "one block of a differencing disk, every other sector of it, many times", fails=TOO_MUCH,
        heavy=True)
def one_vhd_bitmap_everywhere(p):
    nr = 128 << 10
    sector = 3 + nr * 4 // 512
    p.write(vhd([sector] * nr, nr * 256 * KIB, 256 * KIB, kind=DIFFERENCING, parent=PARENT, name="none.vhd",
                rest=bytes(b"\xaa" * 512) + b"b" * (256 * KIB)))


@attack("E12", "empty.vhd", "one block of a differencing disk that has no sector, many times", fails=TOO_MUCH + "|^$",
        warns="cannot find",
        heavy=True)
def one_empty_vhd_bitmap_everywhere(p):
    nr = 16 << 10
    sector = 3 + nr * 4 // 512
    content = vhd([sector] * nr, nr * GIB, GIB, kind=DIFFERENCING, parent=PARENT, name="none.vhd")
    p.sparse(3 * GIB, {0: content[:-512], 3 * GIB - 512: content[-512:]})


@attack("E14", "giant.vhd", "an empty disk of 500 TiB", heavy=True)
def giant_vhd(p):
    p.write(vhd([NO_BLOCK] * (250 << 10), (250 << 10) * 2 * GIB, 1 << 31))


@attack("E16", "cut-1000.vhd", "an image cut short at every 500th byte", fails=ANY)
def cut_short_vhd(p):
    whole = plain_vhd()
    for n in range(0, len(whole), 500):
        p.write(whole[:n], f"cut-{n}.vhd")


@attack("E20", "map.vhd", "a table of four billion entries in a hole", fails="ends past|over the header|not inside|table",
        heavy=True)
def vhd_table_of_4_billion(p):
    content = vhd([0], 4 * TIB, 1024, entries=0xFFFFFFFF)
    p.sparse(17 * GIB, {0: content[:-512], 17 * GIB - 512: content[-512:]})


# ---- VHDX ----

LOG_AT, META_AT, BAT_AT, DATA_AT = MIB, 2 * MIB, 3 * MIB, 4 * MIB
DATA_WRITE, LOG = bytes(range(100, 116)), bytes(range(50, 66))


class Vhdx:
    """Headers, a log, metadata, a BAT and what comes behind it; anything can be set."""

    def __init__(self, size=8 * MIB, block_size=MIB, bat=None, **changes):
        self.c = dict(file_size=6 * MIB, flags=0, logical=512, physical=4096, log=bytes(16), log_offset=LOG_AT,
                      log_length=MIB,
                      version=1, log_version=0, sequence=2, regions=None, extra_regions=[], items=[], locator=None,
                      pieces={},
                      bat_length=MIB)
        self.c.update(changes)
        self.size, self.block_size, self.bat = size, block_size, bat if bat is not None else {0: DATA_AT | FULL}

    def items(self):
        four = struct.pack("<I", self.c["logical"]), struct.pack("<I", self.c["physical"])
        flags = self.c["flags"] | (2 if self.c["locator"] is not None else 0)
        items = [(lib_vhdx.PARAMETERS, 4, struct.pack("<II", self.block_size, flags)),
                 (lib_vhdx.DISK_SIZE, 6, struct.pack("<Q", self.size)), (lib_vhdx.DISK_ID, 6, bytes(16)),
                 (lib_vhdx.LOGICAL, 6, four[0]), (lib_vhdx.PHYSICAL, 6, four[1])]
        if self.c["locator"] is not None:
            items.append((lib_vhdx.LOCATOR, 4, self.c["locator"]))
        return items + self.c["items"]

    def pieces(self):
        c = self.c
        head = lib_vhdx.header(c["sequence"], DATA_WRITE, c["log"], c["log_offset"], c["log_length"], c["version"],
                               c["log_version"])
        regions = c["regions"] or [(lib_vhdx.BAT, BAT_AT, c["bat_length"], 1), (lib_vhdx.METADATA, META_AT, MIB, 1)]
        out = {0: b"vhdxfile", 64 * KIB: head, 192 * KIB: lib_vhdx.region_table(regions + c["extra_regions"]),
               META_AT: lib_vhdx.metadata(self.items()), DATA_AT: b"x" * 4096}
        for index, entry in self.bat.items():
            out[BAT_AT + 8 * index] = le(8, entry)
        out.update(c["pieces"])
        return out

    def write(self, p, name=None):
        p.sparse(self.c["file_size"], self.pieces(), name)


def locator(pairs, linkage=None):
    named = {"parent_linkage": linkage or "{%s}" % lib_vhdx.guid_text(PARENT)}
    named.update(pairs)
    return lib_vhdx.locator(list(named.items()))


PATHS = {"relative": {"relative_path": "..\\..\\outside\\secret"}, "rooted": {"relative_path": "\\etc\\passwd"},
         "slashes": {"relative_path": "/etc/passwd"},
         "absolute": {"absolute_win32_path": "C:\\etc\\passwd"}, "volume": {"volume_path": "\\\\?\\Volume{1}\\secret"},
         "unc": {"absolute_win32_path": "\\\\host\\share\\secret"}, "json": {"relative_path": "json:{}"},
         "nbd": {"relative_path": "nbd:unix:/x"},
         "link": {"relative_path": "link"}, "fifo": {"relative_path": "fifo"}, "folder": {"relative_path": "."},
         "proc": {"relative_path": "/proc/self/fd/3"},
         "device": {"relative_path": "/dev/zero"}, "dots": {"absolute_win32_path": "C:\\.."},
         "steers": {"relative_path": "\x1b[31m\n%n"}}


@attacks_with("E8", "child.vhdx", PATHS, "a parent that is not the image's", warns=OUT + "|is a directory")
def vhdx_parent(p, pairs):
    prepare(p)
    Vhdx(locator=locator(pairs), bat={}).write(p)


@attacks_with("E8", "child.vhdx", {"linkage": locator({"relative_path": "x"}, "none"), "empty": b"", "short": bytes(19),
                                   "kind": bytes(20),
                                   "pairs": lib_vhdx.LOCATOR_VHDX + struct.pack("<HH", 0, 65535),
                                   "wrap": lib_vhdx.LOCATOR_VHDX + struct.pack("<HHIIHH", 0, 1, 0xFFFFFFFF, 0xFFFFFFFF,
                                                                               65535, 65535),
                                   "no_path": locator({}), "long": locator({"relative_path": "x" * 3000}),
                                   "half": locator({}) [:-2]},
              "a parent locator that is broken", fails="parent locator|has 0 bytes|has 19 bytes")
def vhdx_locator(p, content):
    Vhdx(locator=content, bat={}).write(p)


@attack("E11", "self.vhdx", "a parent that is the image itself", warns="chain loops back")
def vhdx_parent_is_itself(p):
    Vhdx(locator=locator({"relative_path": "self.vhdx"}, "{%s}" % lib_vhdx.guid_text(DATA_WRITE)), bat={}).write(p)


STRANGE = bytes(range(200, 216))


@attacks_with("E9", "x.vhdx", {"version_0": {"version": 0}, "version_2": {"version": 2}, "log_version": {"log_version": 1,
                                                                                                         "log": LOG},
                               "region": {"extra_regions": [(STRANGE, 8 * MIB, MIB, 1)]},
                               "item": {"items": [(STRANGE, 4, bytes(8))]}},
              "something that the image needs and nobody knows", fails="is not known")
def vhdx_unknown(p, changes):
    Vhdx(**changes).write(p)


@attack("E9", "spare.vhdx", "regions and items that nobody knows, but nobody needs")
def vhdx_unknown_but_not_needed(p):
    Vhdx(extra_regions=[(STRANGE, 8 * MIB, MIB, 0)], items=[(STRANGE, 0, bytes(8))]).write(p)


@attack("E10", "disk-max.vhdx", "every size at every extreme", fails=ANY, heavy=True)
def every_field_of_vhdx(p):
    both = [(lib_vhdx.BAT, BAT_AT, MIB, 1), (lib_vhdx.METADATA, META_AT, MIB, 1)]
    for name, v in extremes(8).items():
        Vhdx(size=v).write(p, f"disk-{name}.vhdx")
        Vhdx(sequence=v).write(p, f"sequence-{name}.vhdx")
        Vhdx(log_offset=v).write(p, f"log-offset-{name}.vhdx")
        Vhdx(log_offset=v & ~(MIB - 1), log=LOG).write(p, f"log-at-{name}.vhdx")
        Vhdx(regions=[both[1], (lib_vhdx.BAT, v & ~(MIB - 1), MIB, 1)]).write(p, f"bat-at-{name}.vhdx")
        Vhdx(regions=[both[0], (lib_vhdx.METADATA, v & ~(MIB - 1), MIB, 1)]).write(p, f"metadata-at-{name}.vhdx")
        Vhdx(bat={0: v}).write(p, f"entry-{name}.vhdx")
    for name, v in extremes(4).items():
        Vhdx(block_size=v).write(p, f"block-{name}.vhdx")
        Vhdx(logical=v).write(p, f"logical-{name}.vhdx")
        Vhdx(physical=v).write(p, f"physical-{name}.vhdx")
        Vhdx(log_length=v & ~(MIB - 1), log=LOG).write(p, f"log-length-{name}.vhdx")
        Vhdx(regions=[both[1], (lib_vhdx.BAT, BAT_AT, v & ~(MIB - 1), 1)]).write(p, f"bat-length-{name}.vhdx")
        for field in (16, 20):
            table = patched(lib_vhdx.metadata(Vhdx().items()), (32 + field, le(4, v)))
            Vhdx(pieces={META_AT: table}).write(p, f"item-{field}-{name}.vhdx")
    for nr in (2047, 2048, 65535):
        Vhdx(pieces={META_AT: patched(lib_vhdx.metadata(Vhdx().items()), (10, le(2, nr)))}).write(p, f"items-{nr}.vhdx")


@attacks_with("E11", "overlap.vhdx", {"bat_metadata": [(lib_vhdx.BAT, META_AT, MIB, 1), (lib_vhdx.METADATA, META_AT, MIB,
                                                                                         1)],
                                      "bat_log": [(lib_vhdx.BAT, LOG_AT, MIB, 1), (lib_vhdx.METADATA, META_AT, MIB, 1)],
                                      "bat_header": [(lib_vhdx.BAT, 0, MIB, 1), (lib_vhdx.METADATA, META_AT, MIB, 1)],
                                      "inside": [(lib_vhdx.BAT, BAT_AT, MIB, 1), (lib_vhdx.METADATA, META_AT, 4 * MIB, 1)]},
              "regions that lie over each other", fails="overlap at offset")
def vhdx_overlap(p, regions):
    Vhdx(regions=regions).write(p)


@attack("E11", "twice.vhdx", "two BATs", fails="is there twice")
def vhdx_two_bats(p):
    Vhdx(extra_regions=[(lib_vhdx.BAT, 7 * MIB, MIB, 1)]).write(p)


@attacks_with("E11", "block.vhdx", {"bat": BAT_AT, "log": LOG_AT, "metadata": META_AT, "header": 0},
              "a block that is a region",
              fails="over a header, the log or a region")
def vhdx_block_over_region(p, at):
    Vhdx(bat={0: at | FULL}).write(p)


@attack("E12", "block.vhdx", "one block, 128 GiB of it", fails="more blocks are present than the file has room for",
        heavy=True)
def one_vhdx_block_everywhere(p):
    nr = 120 << 10
    bat = b"".join(le(8, DATA_AT | FULL) * 4096 + bytes(8) for _ in range(nr // 4096))
    Vhdx(size=nr * MIB, bat={}, pieces={BAT_AT: bat}).write(p)


@attack("E12", "hole.vhdx", "blocks that lie in a hole of a file of 15 TiB", fails=TOO_MUCH + "|^$", heavy=True)
def vhdx_blocks_in_a_hole(p):
    nr, bat = 120 << 10, b""
    for i in range(nr):
        bat += le(8, (TIB + i * 50021 % nr * MIB) | FULL) + (bytes(8) if i % 4096 == 4095 else b"")
    Vhdx(size=nr * MIB, bat={}, file_size=15 * TIB, pieces={BAT_AT: bat}).write(p)


@attack("E12", "bits.vhdx", "sector bitmaps of every other bit", warns="cannot find", heavy=LONG)
def vhdx_bitmap_in_turns(p):
    nr = 4096
    bat = le(8, DATA_AT | PARTIAL) * nr + le(8, (5 * MIB) | FULL)
    Vhdx(size=nr * MIB, bat={}, file_size=TIB, locator=locator({"relative_path": "none.vhdx"}),
         pieces={BAT_AT: bat, 5 * MIB: b"\xaa" * MIB}).write(p)


def entry(sequence, tail, descriptors, last=6 * MIB, flushed=6 * MIB):
    return lib_vhdx.log_entry(sequence, tail, LOG, descriptors, flushed, last)


@attack("E12", "log.vhdx", "a log of 32 zeroings of the whole file each, over and over", heavy=True)
def log_of_many_zeroings(p):
    ring = bytearray(MIB)
    at = 0
    for i in range(200):
        at = lib_vhdx.put_around(ring, at, entry(1 + i, 0, [(5 * MIB, 4096 * (j + 1)) for j in range(120)]))
    Vhdx(log=LOG, pieces={LOG_AT: bytes(ring)}).write(p)


@attack("E11", "chain.vhdx", "log entries that lie upon each other", fails="log", heavy=True)
def log_entries_upon_each_other(p):
    ring = bytearray(MIB)
    for sector in range(256):  # each says that it is the whole ring
        struct.pack_into("<4sIIIQII16s", ring, sector * 4096, b"loge", 0, MIB, 0, 1 + sector, 0, 0, LOG)
    Vhdx(log=LOG, pieces={LOG_AT: bytes(ring)}).write(p)


@attack("E14", "grown.vhdx", "a log that makes the file 8 EiB long", heavy=True, fails=ANY)
def log_that_grows_the_file(p):
    ring = bytearray(MIB)
    lib_vhdx.put_around(ring, 0, entry(1, 0, [((1 << 62), 4096)], last=(1 << 63) - 4096))
    Vhdx(log=LOG, bat={0: (1 << 61) | FULL}, pieces={LOG_AT: bytes(ring)}).write(p)


@attack("E14", "giant.vhdx", "an empty disk of 64 TiB", heavy=True)
def giant_vhdx(p):
    Vhdx(size=64 * TIB, block_size=256 * MIB, bat={}, bat_length=4 * MIB, file_size=8 * MIB).write(p)


@attacks_with("E16", "log.vhdx", {"none": b"", "torn": entry(1, 0, [(BAT_AT, bytes(4096))])[:5000],
                                  "flipped": patched(entry(1, 0, [(BAT_AT, bytes(4096))]), (6000, b"!")),
                                  "tail": entry(2, 8192, [(BAT_AT, bytes(4096))])}, "a log that cannot be replayed",
              fails="has no valid sequence of entries")
def log_broken(p, content):
    Vhdx(log=LOG, pieces={LOG_AT: content.ljust(MIB, b"\0")}).write(p)


@attack("E16", "log.vhdx", "a log that was not replayed: what it says counts")
def log_not_replayed(p):
    content = entry(1, 0, [(BAT_AT, le(8, DATA_AT | FULL).ljust(4096, b"\0"))])
    Vhdx(log=LOG, bat={0: 1 << 60}, pieces={LOG_AT: content}).write(p)


@attack("E16", "log.vhdx", "a log of a file that was cut since", fails="the file was cut")
def log_of_a_file_that_was_cut(p):
    Vhdx(log=LOG, pieces={LOG_AT: entry(1, 0, [], flushed=60 * MIB)}).write(p)


@attack("E16", "log.vhdx", "a log that writes over the headers, the regions and itself", fails=ANY)
def log_over_all(p):
    writes = [(64 * KIB, b"h" * 4096), (192 * KIB, b"r" * 4096), (LOG_AT, b"l" * 4096), (META_AT, b"m" * 4096)]
    Vhdx(log=LOG, pieces={LOG_AT: entry(1, 0, writes)}).write(p)


@attack("E19", "steers.vhdx", "a parent's name that steers terminals", warns=r"backing file '\\x1b")
def vhdx_parent_steers_terminals(p):
    Vhdx(locator=locator({"relative_path": EVIL.decode("latin-1").replace("\0", "")}), bat={}).write(p)
