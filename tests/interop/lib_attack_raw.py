# SPDX-License-Identifier: Apache-2.0
"""Raw disks in which a guest wrote, and files that are of two formats at once."""

import os
import struct

import lib_vhd
from lib_attack import ANY, GIB, KIB, MIB, TIB, attack, attacks_with, pad, patched
import lib_attack_ova as ova
import lib_attack_qcow2 as qcow2
import lib_attack_vdi as vdi
import lib_attack_vhd as vhd
import lib_attack_vmdk as vmdk

FOOTER = lib_vhd.footer(lib_vhd.FIXED, 64 * KIB, bytes(range(16)))


def vhdx_bytes():
    out = bytearray(6 * MIB)
    for at, content in vhd.Vhdx().pieces().items():
        out[at:at + len(content)] = content
    return bytes(out)


def headers(secret):
    """What a guest may write into sector 0, with the name of a file of the host in it where the format has one."""
    name = secret.encode()
    return {"qcow2": qcow2.backed(name).done(), "qcow2_data_file": qcow2.external(name).done(),
            "qcow1": b"QFI\xfb" + struct.pack(">IQII", 1, 48, len(name), 0).ljust(44, b"\0") + name,
            "vmdk_flat": vmdk.descriptor([f'RW 512 FLAT "{secret}" 0']), "vmdk_sparse": vmdk.plain(),
            "vmdk_stream": vmdk.stream(),
            "vdi": vdi.plain(), "vhd": vhd.plain_vhd()[:-512], "vhdx": b"vhdxfile".ljust(MIB, b"\0"),
            "ova": ova.ova({"d.vmdk": ova.GOOD}), "luks": b"LUKS\xba\xbe\0\2" + bytes(504), "qed": b"QED\0" + bytes(508),
            "parallels": b"WithoutFreeSpace" + bytes(496), "bochs": b"Bochs Virtual HD Image".ljust(512, b"\0"),
            "cloop": b"#!/bin/sh\n#V2.0 Format\nmodprobe", "dmg_tail": b"", "vhd_tail": b""}


TAILS = {"dmg_tail": b"koly".ljust(512, b"\0"), "vhd_tail": FOOTER}
KINDS = {k: k for k in headers("")}


def guest_disk(p, kind):
    content = headers(p.secret)[kind]
    size = 2 * MIB if len(content) < MIB else len(content) + 8192
    return (content + os.urandom(4096)).ljust(size - 512, b"\0") + TAILS.get(kind, bytes(512))


@attacks_with("E4", "disk.raw", KINDS, "a raw disk on which the guest wrote the header of another format",
              warns="it is named as a raw disk, but begins or ends as|^$")
def guest_wrote(p, kind):
    p.write(guest_disk(p, kind))


@attacks_with("E4", "disk.img", KINDS, "the same, by a name that images of all formats have", fails=ANY)
def guest_wrote_img(p, kind):
    p.write(guest_disk(p, kind))


@attacks_with("E4", "disk", KINDS,
              "the same, by a name that says nothing: whatever it is taken for, nothing outside is opened",
              fails=ANY)
def guest_wrote_unnamed(p, kind):
    p.write(guest_disk(p, kind))


@attack("E4", "over.qcow2", "an overlay whose raw backing file begins as a qcow2 image with a backing file outside",
        warns="lies outside|named as|^$")
def backing_is_probed(p):
    p.write(guest_disk(p, "qcow2"), "base.bin")
    p.write(qcow2.backed(b"base.bin", b"").done())


@attack("E4", "over.qcow2", "the same, and it is said to be raw: nothing inside it is looked at")
def backing_is_said_to_be_raw(p):
    p.write(guest_disk(p, "qcow2"), "base.bin")
    p.write(qcow2.backed(b"base.bin", b"raw").done())


# ---- E5: two formats at once ----

HEADS = {"qcow2": qcow2.plain().done(), "qcow2_v2": qcow2.plain(version=2).done(), "vmdk": vmdk.plain(),
         "vhd": vhd.plain_vhd(),
         "vhdx": vhdx_bytes(), "vmdk_text": vmdk.descriptor(["RW 2048 ZERO"], "custom", "# " + "x" * 300)}
VDI_MARK = (64, struct.pack("<II", 0xBEDA107F, 0x10001))
BOTH = "it can be taken for .* and for"


@attacks_with("E5", "both.bin", HEADS, "the header of one format, and the signature of VDI at its offset 64", fails=BOTH)
def and_vdi(p, content):
    p.write(patched(content, VDI_MARK))


ENDS = dict(HEADS, vdi=vdi.plain(), ova=ova.ova({"d.vmdk": ova.GOOD}))
del ENDS["vhd"]


@attacks_with("E5", "both.bin", ENDS, "the header of one format, and the footer of a fixed VHD at its end", fails=BOTH)
def and_vhd(p, content):
    p.write(pad(content) + FOOTER)


@attacks_with("E5", "both.vhd", ENDS, "the same, named as VHD", fails=BOTH)
def and_vhd_named(p, content):
    p.write(pad(content) + FOOTER)


@attacks_with("E5", "both.vdi", {"qcow2": HEADS["qcow2"], "vmdk": HEADS["vmdk"], "vhdx": HEADS["vhdx"]},
              "and VDI, named as VDI", fails=BOTH)
def and_vdi_named(p, content):
    p.write(patched(content, VDI_MARK))


MAGICS = {"qcow2": b"QFI\xfb\0\0\0\3", "vmdk": b"KDMV\1\0\0\0", "vhd": b"conectix", "vhdx": b"vhdxfile",
          "vmdk_text": b"# Disk DescriptorFile\n",
          "vdi": b"name".ljust(64, b"\0") + VDI_MARK[1]}


@attacks_with("E5", "both.bin", MAGICS, "an archive whose first member has a name that is another format's header",
              fails=BOTH)
def and_ova(p, magic):
    p.write(ova.pax({"path": "vm.ovf"}, name=magic) + ova.member("x", ova.ovf(["d.vmdk"])) + ova.member("d.vmdk",
                                                                                                        ova.GOOD) + ova.END)


@attack("E5", "three.bin", "an archive, VDI and VHD at once", fails=BOTH)
def three_at_once(p):
    p.write(ova.pax({"path": "vm.ovf"}, name=MAGICS["vdi"]) + ova.member("x", ova.ovf([])) + ova.END + FOOTER)


@attacks_with("E5", "both.iso", {"vmdk": HEADS["vmdk"], "qcow2": HEADS["qcow2"]}, "a CD with the header of another format",
              fails=ANY)
def and_iso(p, content):
    p.write(patched(content.ljust(40 * KIB, b"\0"), (32769, b"CD001")))


@attacks_with("E5", "both.qcow2", {"vhd_head": b"conectix", "vdi": vdi.plain()[:512], "gpt": bytes(512) + b"EFI PART"},
              "a file that is named as another format than it is", fails=ANY)
def named_otherwise(p, content):
    p.write(content.ljust(2 * MIB, b"\0"))


# ---- E14, E18: sizes ----

@attack("E14", "giant.raw", "a raw disk of 15 TiB with two bytes in it", heavy=True)
def giant(p):
    p.sparse(15 * TIB, {0: b"x", 14 * TIB: b"y"})


@attacks_with("E18", "odd.raw", {"1": 1, "511": 511, "513": 513, "4097": 4097, "mib": MIB + 1},
              "a raw disk of so many bytes")
def odd_size(p, size):
    p.write(os.urandom(size))


@attack("E18", "empty.raw", "a raw disk of no bytes")
def empty(p):
    p.write(b"")


@attack("E20", "holes.raw", "a file of a thousand islands in 4 TiB", heavy=True)
def islands(p):
    p.sparse(4 * TIB, {i * 4 * GIB: b"i" for i in range(1000)})
