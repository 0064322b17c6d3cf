# SPDX-License-Identifier: Apache-2.0
"""Hostile VMDK images, after VMware's "Virtual Disk Format 5.0"."""

import os
import struct
import zlib

from lib_attack import ANY, GIB, KIB, LONG, MIB, TIB, attack, attacks_with, extremes, le, le32s, pad, patched
from lib_attack_qcow2 import EVIL, FILES, NOT_PLAIN, PSEUDO, REFUSED, SAME, TOO_MUCH, names_of_files, prepare

AT_END = (1 << 64) - 1
NEWLINES, REDUNDANT, ZEROED, PACKED, MARKERS = 1, 2, 4, 1 << 16, 1 << 17
FIELDS = {"version": (4, 4), "flags": (8, 4), "capacity": (12, 8), "grain_size": (20, 8), "descriptor_offset": (28, 8),
          "descriptor_size": (36, 8), "nr_gtes": (44, 4), "rgd_offset": (48, 8), "gd_offset": (56, 8), "overhead": (64, 8),
          "compression": (77, 2)}


def descriptor(extents, kind="monolithicFlat", more="", cid="fffffffe", parent="ffffffff"):
    return (f'# Disk DescriptorFile\nversion=1\nCID={cid}\nparentCID={parent}\ncreateType="{kind}"\n{more}\n'
            + "".join(e + "\n" for e in extents)).encode("utf-8", "surrogateescape")


def header(**changes):
    h = dict(version=1, flags=NEWLINES, capacity=2048, grain_size=8, descriptor_offset=1, descriptor_size=4, nr_gtes=512,
             rgd_offset=0, gd_offset=5, overhead=8, compression=0)
    h.update(changes)
    return pad(struct.pack("<4sIIQQQQIQQQB4sH", b"KDMV", h["version"], h["flags"], h["capacity"], h["grain_size"],
                           h["descriptor_offset"], h["descriptor_size"], h["nr_gtes"], h["rgd_offset"], h["gd_offset"],
                           h["overhead"], 0, b"\n \r\n", h["compression"]))


def sparse(gd, rest, text=None, **changes):
    """Header and descriptor in sectors 0 to 4, the directory in sector 5, then `rest`."""
    capacity = changes.get("capacity", 2048)
    text = text or descriptor([f'RW {capacity} SPARSE "x.vmdk"'], "monolithicSparse")
    return (header(**changes) + text.ljust(2048, b"\0") + pad(le32s(gd)) + rest).ljust(4096, b"\0")


def plain(**changes):
    """1 MiB, of which one grain has data; the grain table is in sectors 6 to 9."""
    return sparse([6], pad(le32s([10, 0, 18] + [0] * 509)) + b"g" * 8192, **changes)


# ---- E2, E3: the parent ----

@attacks_with("E2", "child.vmdk", {k: k for k in FILES}, "a parent that is not the image's", warns=REFUSED + "|has no name")
def parent(p, case):
    prepare(p)
    hint = f'parentFileNameHint="{names_of_files(p)[case]}"'
    p.write(sparse([0], b"", descriptor(['RW 2048 SPARSE "x"'], "monolithicSparse", hint, parent="12345678")))


@attacks_with("E3", "child.vmdk", {k: v for k, v in PSEUDO.items() if '"' not in v},
              "a parent by a name that is no file name",
              warns=NOT_PLAIN)
def pseudo_parent(p, name):
    hint = f'parentFileNameHint="{name.replace("%s", p.secret)}"'
    p.write(sparse([0], b"", descriptor(['RW 2048 SPARSE "x"'], "monolithicSparse", hint, parent="12345678")))


# What QEMU finds in a descriptor, which it opens for `info --guest`, must be what we find: it takes this word wherever it is.
@attack("E2", "comment.vmdk", "a parent that only QEMU sees: in a comment", fails="parentFileNameHint")
def parent_in_a_comment(p):
    hint = f'# parentFileNameHint="{p.secret}"'
    p.write(sparse([0], b"", descriptor(['RW 2048 SPARSE "x"'], "monolithicSparse", hint)))


# ---- E6: extents ----

@attacks_with("E6", "flat.vmdk", {k: k for k in FILES}, "a flat extent that is not the image's", fails=REFUSED)
def flat(p, case):
    prepare(p)
    p.write(descriptor([f'RW 2048 FLAT "{names_of_files(p)[case]}" 0']))


@attacks_with("E6", "sparse.vmdk", {k: k for k in FILES}, "a sparse extent that is not the image's", fails=REFUSED)
def sparse_extent(p, case):
    prepare(p)
    p.write(descriptor([f'RW 2048 SPARSE "{names_of_files(p)[case]}"'], "twoGbMaxExtentSparse"))


@attacks_with("E6", "pseudo.vmdk", {k: v for k, v in PSEUDO.items() if '"' not in v},
              "an extent by a name that is no file name",
              fails=NOT_PLAIN)
def pseudo_extent(p, name):
    p.write(descriptor([f'RW 2048 FLAT "{name.replace("%s", p.secret)}" 0']))


# The same: blanks are all that C's isspace() knows.
@attacks_with("E6", "blanks.vmdk", {"vt": "\v", "ff": "\f", "cr": "\r"}, "an extent that only QEMU sees: behind odd blanks",
              fails="control byte|lies outside")
def extent_behind_odd_blanks(p, blank):
    line = blank.join(["RW", "8", "FLAT", f'"{p.secret}"', "0"])
    p.write(descriptor(["RW 2048 ZERO", line], "custom"))


@attack("E6", "shadow.vmdk", "the passwords of the host as a disk", fails="lies outside")
def etc_shadow(p):
    p.write(descriptor(['RW 8 FLAT "/etc/shadow" 0']))


@attacks_with("E6", "device.vmdk", {k: k for k in ("fullDevice", "partitionedDevice", "vmfsRaw", "vmfsRawDeviceMap",
                                                   "vmfsRDM",
                                                   "vmfsPassthroughRawDeviceMap", "vmfsRDMP")},
              "a disk that is a device", fails="it is a device of the host")
def device(p, kind):
    p.write(descriptor(['RW 2048 FLAT "/dev/sda" 0'], kind))


@attacks_with("E6", "word.vmdk", {"VMFSRDM": "VMFSRDM", "VMFSRAW": "VMFSRAW", "FULLDEVICE": "FULLDEVICE",
                                  "VMFSSPARSE": "VMFSSPARSE",
                                  "SESPARSE": "SESPARSE"}, "an extent that is a device, or is not known",
              fails="it is a device of the host|are not known|are not read")
def device_extent(p, word):
    p.write(descriptor([f'RW 2048 {word} "/dev/sda" 0'], "custom"))


@attacks_with("E6", "self.vmdk", {"flat": "FLAT", "sparse": "SPARSE", "vmfs": "VMFS"},
              "an extent that is the descriptor itself",
              fails="it is the image itself")
def extent_is_itself(p, word):
    p.write(descriptor([f'RW 1 {word} "self.vmdk"'], "custom"))


@attack("E6", "twice.vmdk", "a sparse extent twice", fails="listed twice")
def sparse_extent_twice(p):
    p.write(header(descriptor_offset=0, descriptor_size=0) + bytes(2048) + pad(le32s([0]), 4096), "x.bin")
    p.write(descriptor(['RW 2048 SPARSE "x.bin"', 'RW 2048 SPARSE "./x.bin"'], "custom"))


@attack("E6", "many.vmdk", "8193 extents", fails="more than 8192 extents")
def too_many_extents(p):
    p.write(bytes(512), "x.bin")
    p.write(descriptor(['RW 1 FLAT "x.bin" 0'] * 8193))


@attack("E6", "one.vmdk", "8192 extents, all of them one file", heavy=True)
def thousands_of_extents(p):
    p.write(os.urandom(MIB), "x.bin")
    p.write(descriptor([f'RW 8 FLAT "x.bin" {i * 7 % 2040}' for i in range(8192)]))


@attack("E6", "many.vmdk", "8192 extents in files of their own", heavy=LONG)
def thousands_of_files(p):
    for i in range(8192):
        p.write(b"f" * 512, f"{i}.bin")
    p.write(descriptor([f'RW 1 FLAT "{i}.bin" 0' for i in range(8192)]))


@attack("E6", "offset.vmdk", "an extent at 2^63 sectors", fails="past the largest file offset|too large")
def extent_far_away(p):
    p.write(bytes(512), "x.bin")
    p.write(descriptor(['RW 1 FLAT "x.bin" 18014398509481983']))


@attacks_with("E6", "size.vmdk", {"wrap": 1 << 64, "max": (1 << 64) - 1, "exa": 1 << 54, "sum": (1 << 54) - 1,
                                  "words": "0x100",
                                  "minus": -1},
              "an extent of so many sectors", fails=ANY)
def extent_size(p, sectors):
    p.write(descriptor([f"RW {sectors} ZERO"] * 3))


@attack("E6", "stolen.vmdk", "somebody else's image as an extent")
def extent_is_another_image(p):
    p.write(plain(), "other.vmdk")
    p.write(descriptor(['RW 16 FLAT "other.vmdk" 0']))


# ---- E7: footers ----

def stream(header_changes=None, footer_changes=None, markers=(3, 0), text=None):
    """A stream-optimized disk of two grains."""
    both = dict(version=3, flags=NEWLINES | PACKED | MARKERS, compression=1, capacity=2048, overhead=5)
    packed = zlib.compress(b"s" * 4096)
    out = header(**{**both, "gd_offset": AT_END, **(header_changes or {})})
    out += (text or descriptor(['RW 2048 SPARSE "x"'], "streamOptimized")).ljust(2048, b"\0")
    grain = len(out) // 512
    out += pad(struct.pack("<QI", 0, len(packed)) + packed)
    gt = len(out) // 512
    out += pad(le32s([grain]).ljust(2048, b"\0"))
    gd = len(out) // 512
    out += pad(le32s([gt]))
    out += pad(struct.pack("<QII", 1, 0, markers[0]))
    out += header(**{**both, "gd_offset": gd, **(footer_changes or {})})
    return out + pad(struct.pack("<QII", 0, 0, markers[1]))


@attacks_with("E7", "footer.vmdk", {"version": {"version": 2}, "capacity": {"capacity": 1 << 40},
                                    "grain_size": {"grain_size": 16},
                                    "nr_gtes": {"nr_gtes": 4096}, "descriptor_offset": {"descriptor_offset": 3},
                                    "descriptor_size": {"descriptor_size": 1},
                                    "flags": {"flags": NEWLINES | ZEROED | PACKED | MARKERS}},
              "a footer that says something else than the header", fails="header and footer contradict each other")
def footer_disagrees(p, changes):
    p.write(stream(footer_changes=changes))


@attack("E7", "end.vmdk", "a footer whose directory is in a footer", fails="does not say where the grain directory is")
def footer_of_footer(p):
    p.write(stream(footer_changes={"gd_offset": AT_END}))


@attacks_with("E7", "far.vmdk", {"far": 1 << 40, "wrap": (1 << 55) + 5, "max": AT_END - 1, "zero": 0},
              "a footer whose directory is nowhere",
              fails="directory|past")
def footer_directory(p, gd):
    p.write(stream(footer_changes={"gd_offset": gd}))


@attacks_with("E7", "marker.vmdk", {"none": (0, 0), "end": (3, 3), "swapped": (0, 3)}, "a stream without its markers",
              fails="does not end with a footer")
def footer_marker(p, markers):
    p.write(stream(markers=markers))


@attack("E7", "cut.vmdk", "a stream without its footer", fails="does not end with a footer|too short")
def footer_cut(p):
    p.write(stream()[:-1536])


@attack("E7", "two.vmdk", "a header with a descriptor of its own before a footer with another",
        fails="contradict each other")
def footer_with_another_descriptor(p):
    text = descriptor(['RW 2048 SPARSE "x"'], "streamOptimized") + bytes(400) + descriptor(['RW 1 FLAT "/etc/passwd" 0'])
    p.write(stream(footer_changes={"descriptor_offset": 2, "descriptor_size": 3}, text=text))


# ---- E9, E10 ----

@attacks_with("E9", "version.vmdk", {"0": 0, "4": 4, "max": 0xFFFFFFFF}, "a version that nobody knows",
              fails="of version {}|of version 4294967295")
def version(p, v):
    p.write(plain(version=v))


@attacks_with("E9", "flag.vmdk", {str(b): b for b in range(18, 32)}, "a flag that nobody knows",
              fails="flag bit {}, which is not known")
def flag(p, bit):
    p.write(plain(flags=NEWLINES | 1 << bit))


@attacks_with("E9", "compression.vmdk", {"2": 2, "max": 0xFFFF}, "a compression that nobody knows",
              fails="compression type")
def compression(p, kind):
    p.write(plain(compression=kind, flags=NEWLINES | PACKED | MARKERS))


@attack("E9", "newlines.vmdk", "a header that went through a text-mode transfer",
        fails="line ends in the header were changed")
def newlines(p):
    p.write(patched(plain(), (73, b"\n \n\n")))


@attacks_with("E9", "old.vmdk", {"cowd": b"COWD", "sesparse": b"\xbe\xba\xfe\xca\0\0\0\0"},
              "extents of ESX that are not read",
              fails="are not read")
def other_extents(p, magic):
    p.write(pad(magic, 4096))


@attack("E10", "capacity-max.vmdk", "every field of the header at every extreme", fails=ANY, heavy=True)
def every_field_of_vmdk(p):
    for field, (at, width) in FIELDS.items():
        for name, value in extremes(width).items():
            p.write(patched(plain(), (at, le(width, value))), f"{field}-{name}.vmdk")


@attack("E10", "gde-0.vmdk", "directory and table entries at every extreme", fails=ANY, heavy=True)
def every_entry_of_vmdk(p):
    for i, value in enumerate([0xFFFFFFFF, 1 << 31, 1, 2, 5, 6, 1 << 20]):
        p.write(sparse([value], bytes(8192)), f"gde-{i}.vmdk")
        p.write(sparse([6], le32s([value] * 512)), f"gte-{i}.vmdk")
        p.write(sparse([6], le32s([value] * 512), flags=NEWLINES | ZEROED), f"gte-zeroed-{i}.vmdk")


@attack("E10", "text.vmdk", "a descriptor of 2^63 sectors", fails="past the largest file offset")
def descriptor_size(p):
    p.write(plain(descriptor_size=1 << 63))


# ---- E11, E12 ----

@attack("E11", "loop.vmdk", "a directory that is its own grain table", fails=TOO_MUCH + "|^$", heavy=True)
def directory_is_table(p):
    p.write(sparse([5] * 128, bytes(8192), capacity=128 * 4096))


@attack("E11", "a.vmdk", "a parent of a parent that is the image", warns="chain loops back|was made on")
def parent_circle(p):
    for name, below in (("a", "b"), ("b", "a")):
        text = descriptor(['RW 2048 SPARSE "x"'], "monolithicSparse", f'parentFileNameHint="{below}.vmdk"', "11111111",
                          "11111111")
        p.write(sparse([0], b"", text), name + ".vmdk")


@attack("E11", "stale.vmdk", "a parent that is another image than the one it was made on",
        warns="was made on 12345678, but this is fffffffe")
def parent_is_another(p):
    p.write(plain(), "parent.vmdk")
    text = descriptor(['RW 2048 SPARSE "x"'], "monolithicSparse", 'parentFileNameHint="parent.vmdk"', parent="12345678")
    p.write(sparse([0], b"", text))


def shared_table(gtes, nr, rest=b"", **changes):
    """A directory of nr entries that all lead to one table; it lies in sector 5 and on, as does all else behind it."""
    sectors = (nr * 4 + 511) // 512
    table, size = 5 + sectors, nr * 512 * changes.get("grain_size", 8)
    data = table + 4
    text = descriptor([f'RW {size} SPARSE "x"'], "streamOptimized" if changes.get("compression") else "monolithicSparse")
    entries = [data if g is None else g for g in gtes]
    return sparse([table] * nr, le32s((entries * 512)[:512]) + rest, text, capacity=size, **changes)


@attack("E12", "grain.vmdk", "one grain, 32 TiB of it", fails=SAME, heavy=True)
def one_grain_everywhere(p):
    p.write(shared_table([None], 1 << 17, b"g" * (64 * KIB), grain_size=128))


@attack("E12", "zeros.vmdk", "zero grains and none in turns", fails=TOO_MUCH, heavy=True)
def grains_in_turns(p):
    p.write(shared_table([0, 1], 1 << 17, grain_size=128, flags=NEWLINES | ZEROED))


@attack("E12", "none.vmdk", "one grain table of nothing, many times", heavy=True)
def one_empty_table(p):
    p.write(shared_table([0], 1 << 17, grain_size=128))


@attack("E12", "flat.vmdk", "8192 extents of 1 TiB that are one file of 1 MiB", fails=TOO_MUCH + "|4 PiB", heavy=True)
def one_file_everywhere(p):
    p.write(os.urandom(MIB), "x.bin")
    p.write(descriptor(['RW 2048 FLAT "x.bin" 0'] * 8192))


@attack("E12", "hole.vmdk", "grains that lie in a hole of a file of 1 TiB, in an order that merges none", fails=TOO_MUCH,
        heavy=LONG)
def grains_in_a_hole(p):
    entries = [(1 << 30) + i * 5001 % 512 * 128 for i in range(512)]
    content = shared_table(entries, 1 << 17, grain_size=128)
    p.sparse(TIB, {0: content})


# ---- E13, E14, E16 ----

def packed_grain(content, size=8, value=0, length=None):
    """A stream without footer whose first grain is this."""
    flags = NEWLINES | PACKED | MARKERS
    marker = struct.pack("<QI", value, len(content) if length is None else length)
    return sparse([6], le32s([10] + [0] * 511) + pad(marker + content), None, compression=1, flags=flags, grain_size=size)


@attack("E13", "bomb.vmdk", "deflate of 64 MiB for a grain of 4 KiB: the rest stays unread", heavy=True)
def grain_bomb(p):
    p.write(packed_grain(zlib.compress(bytes(64 * MIB), 9)[:8192]))


@attack("E13", "short.vmdk", "deflate that ends before the grain is full", fails="compressed data ends early")
def grain_too_short(p):
    p.write(packed_grain(zlib.compress(bytes(100))))


@attacks_with("E13", "marker.vmdk", {"none": 0, "max": 0xFFFFFFFF, "cut": 8192},
              "a grain whose marker lies about its length",
              fails="its marker says that it has|past the end|is broken")
def grain_marker(p, length):
    p.write(packed_grain(zlib.compress(bytes(4096)), length=length))


@attack("E13", "place.vmdk", "a grain whose marker says that it is another",
        fails="its marker says that it belongs to sector 77")
def grain_of_another_place(p):
    p.write(packed_grain(zlib.compress(bytes(4096)), value=77))


@attack("E14", "giant.vmdk", "an empty disk of 256 TiB in grains of 1 GiB", heavy=True)
def giant(p):
    size = 1 << 39  # sectors
    text = descriptor([f'RW {size} SPARSE "x"'], "monolithicSparse")
    p.write(sparse([0] * 512, b"", text, capacity=size, grain_size=1 << 21))


@attack("E14", "zeros.vmdk", "an extent of 4 EiB of zeros", fails="4 PiB or more|too large")
def giant_of_zeros(p):
    p.write(descriptor(["RW 9007199254740992 ZERO"], "custom"))


@attack("E16", "cut-2000.vmdk", "an image cut short at every 100th byte", fails=ANY)
def cut_short(p):
    whole = plain()
    for n in range(0, len(whole), 100):
        p.write(whole[:n], f"cut-{n}.vmdk")


# ---- E19, E20 ----

@attack("E19", "keys.vmdk", "texts that steer terminals wherever a descriptor has texts", fails="control byte|not known")
def descriptor_that_steers_terminals(p):
    p.write(b'# Disk DescriptorFile\ncreateType="custom"\nddb.adapterType="' + EVIL[:20] + b'"\nRW 1 FLAT "' + EVIL[:10] + b'"\n')


@attack("E19", "adapter.vmdk", "an adapter that steers terminals, in an image that is read")
def adapter_that_steers_terminals(p):
    text = descriptor(['RW 2048 SPARSE "x"'], "monolithicSparse") + b'ddb.adapterType="\xc2\x9b31m\x9b%n\xff\xfe"\n'
    p.write(sparse([0], b"", text))


@attack("E19", "type.vmdk", "a type of disk that steers terminals", fails="control byte")
def type_that_steers_terminals(p):
    p.write(b'# Disk DescriptorFile\ncreateType="' + EVIL.replace(b"\n", b"").replace(b"\r", b"") + b'"\n')


@attack("E19", "line.vmdk", "a descriptor that is a line of 4 GiB", fails="descriptor of 4294967296 bytes is too large",
        heavy=True)
def line_of_4_gib(p):
    p.sparse(4 * GIB, {0: b"# Disk DescriptorFile\n"})


@attack("E19", "long.vmdk", "a descriptor that is a line of 2 MiB", fails=ANY, heavy=True)
def line_of_2_mib(p):
    p.write(b'# Disk DescriptorFile\ncreateType="' + b"=" * (2 * MIB - 100))


@attack("E19", "lines.vmdk", "a descriptor of two million lines", fails=ANY, heavy=True)
def lines_by_the_million(p):
    p.write(b"# Disk DescriptorFile" + b"\n" * (2 * MIB - 100))


@attack("E20", "directory.vmdk", "a directory of 8 million entries in a hole of the file", heavy=True)
def directory_of_8_million(p):
    size = (8 << 20) * 512 * 8
    text = descriptor([f'RW {size} SPARSE "x"'], "monolithicSparse")
    p.sparse(34 * MIB, {0: sparse([0], b"", text, capacity=size)})


@attack("E20", "tables.vmdk", "grain tables of one entry: a hundred thousand of them", fails=TOO_MUCH + "|^$", heavy=True)
def tables_of_one_entry(p):
    nr = 120 << 10
    text = descriptor([f'RW {nr * 8} SPARSE "x"'], "monolithicSparse")
    p.write(sparse([6] * nr, b"t" * 65536, text, capacity=nr * 8, nr_gtes=1))


@attack("E20", "child.vmdk", "a chain of 20 disks of 8192 extents each", warns=ANY, heavy=LONG)
def chain_of_many_extents(p):
    p.write(bytes(512), "x.bin")
    lines = ['RW 1 FLAT "x.bin" 0'] * 8192
    for i in range(20):
        hint = f'parentFileNameHint="{i + 1}.vmdk"' if i < 19 else ""
        text = descriptor(lines, "custom", hint, "11111111", "11111111" if hint else "ffffffff")
        p.write(text, f"{i}.vmdk" if i else "child.vmdk")
