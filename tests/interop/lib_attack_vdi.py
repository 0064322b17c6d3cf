# SPDX-License-Identifier: Apache-2.0
"""Hostile VDI images, after VDICore.h of VirtualBox."""

import struct

from lib_attack import ANY, KIB, LONG, MIB, TIB, attack, attacks_with, extremes, le, le32s, patched
from lib_attack_qcow2 import EVIL, TOO_MUCH

FREE, ZERO = 0xFFFFFFFF, 0xFFFFFFFE
FIELDS = {"version": (68, 4), "header_size": (72, 4), "type": (76, 4), "flags": (80, 4), "map_offset": (340, 4),
          "data_offset": (344, 4),
          "size": (368, 8), "block_size": (376, 4), "block_extra": (380, 4), "nr_blocks": (384, 4),
          "nr_allocated": (388, 4)}


def header(size, nr_blocks, block_size=4096, kind=1, map_offset=512, data_offset=None, extra=0, parent=bytes(16),
           version=0x10001,
           text=b"<<< Oracle VM VirtualBox Disk Image >>>\n", comment=b""):
    if data_offset is None:
        data_offset = (map_offset + 4 * nr_blocks + 511) // 512 * 512
    head = struct.pack("<64sIIIII256sII16xIQIIII16s16s16s16s", text, 0xBEDA107F, version, 400, kind, 0, comment, map_offset,
                       data_offset, 0, size, block_size, extra, nr_blocks, 0, bytes(range(16)), bytes(16), parent, bytes(16))
    return head.ljust(512, b"\0")


def plain(**changes):
    blocks = [0, FREE, 1, ZERO]
    return (header(16 * KIB, 4, **changes) + le32s(blocks)).ljust(1024, b"\0") + b"v" * 8192


@attack("E8", "child.vdi", "a parent that is known by its UUID only", warns="does not say where that is")
def parent_without_name(p):
    p.write(plain(kind=4, parent=bytes(range(1, 17))))


@attacks_with("E9", "version.vdi", {"0_2": 2, "2_0": 0x20000, "max": 0xFFFFFFFF}, "a version that nobody knows",
              fails="is not read")
def version(p, v):
    p.write(plain(version=v))


@attacks_with("E9", "type.vdi", {"0": 0, "undo": 3, "5": 5, "max": 0xFFFFFFFF}, "a type that nobody knows",
              fails="not known|are not read")
def kind(p, k):
    p.write(plain(kind=k))


@attack("E10", "size-max.vdi", "every field of the header at every extreme", fails=ANY, heavy=True)
def every_field_of_vdi(p):
    for field, (at, width) in FIELDS.items():
        for name, value in extremes(width).items():
            p.write(patched(plain(), (at, le(width, value))), f"{field}-{name}.vdi")


@attack("E10", "far.vdi", "a block that lies past the end of the file", fails="is said to be block 4294967293 of the file")
def block_far_away(p):
    p.write(patched(plain(), (512, le(4, FREE - 2))))


@attack("E10", "zero.vdi", "blocks of no bytes", fails="which is no power of 2")
def block_size_of_none(p):
    p.write(plain(block_size=0))


@attack("E11", "map.vdi", "a map over the header", fails="overlaps the VDI header")
def map_over_header(p):
    p.write(plain(map_offset=0, data_offset=512))


@attack("E11", "data.vdi", "blocks over the map", fails="overlap the block map")
def data_over_map(p):
    p.write(plain(data_offset=512))


@attack("E12", "block.vdi", "one block, 128 GiB of it", fails="the block map uses [0-9]+ blocks, but the file has only 1",
        heavy=True)
def one_block_everywhere(p):
    nr = 128 << 10
    p.write((header(nr * MIB, nr, MIB) + le32s([0] * nr)).ljust(512 + 4 * nr, b"\0") + b"v" * 4096)


@attack("E12", "hole.vdi", "a map in a hole of a file of 15 TiB: half a billion times block 0", fails=TOO_MUCH, heavy=LONG)
def map_in_a_hole(p):
    p.sparse(15 * TIB, {0: header(1 << 38, 1 << 29, 512)})


@attack("E14", "giant.vdi", "an empty disk of 1 PiB", heavy=True)
def giant(p):
    p.write(header(1 << 50, 1 << 19, 1 << 31) + le32s([FREE] * (1 << 19)))


@attack("E16", "cut-1000.vdi", "an image cut short at every 100th byte", fails=ANY)
def cut_short(p):
    for n in range(0, 9000, 100):
        p.write(plain()[:n], f"cut-{n}.vdi")


@attack("E18", "odd.vdi", "a disk of 9000 bytes, of whose last block the file has half")
def odd_size(p):
    p.write(patched(plain(), (368, le(8, 9000)))[:-2000])


@attack("E19", "text.vdi", "texts that steer terminals")
def texts_that_steer_terminals(p):
    p.write(plain(text=EVIL[:63], comment=EVIL))


@attack("E20", "turns.vdi", "zero blocks and none in turns, of 512 bytes each", heavy=True)
def blocks_in_turns(p):
    nr = 250 << 10
    p.write(header(nr * 512, nr, 512) + le32s([FREE, ZERO] * (nr // 2)) + bytes(4096))
