# SPDX-License-Identifier: Apache-2.0
"""Hostile OVA archives: tar after POSIX.1-2017 and the manual of GNU tar, with an OVF descriptor (DMTF DSP0243)."""

import struct

from lib_attack import ANY, MIB, TIB, attack, attacks_with, pad, patched
import lib_attack_qcow2 as qcow2
from lib_attack_qcow2 import EVIL, FILES, TOO_MUCH, names_of_files, prepare
import lib_attack_vmdk as vmdk


def tar_header(name, size, kind=b"0", raw_size=None, magic=b"ustar\x0000", link=b""):
    name = name if isinstance(name, bytes) else name.encode()
    h = bytearray(struct.pack("100s8s8s8s12s12s8s1s100s8s247x", name, b"0000644\0", b"0000000\0", b"0000000\0",
                              (b"%011o\0" % size) if raw_size is None else raw_size, b"0" * 11 + b"\0", b" " * 8, kind,
                              link, magic))
    h[148:156] = b"%06o\0 " % sum(h)
    assert len(h) == 512
    return bytes(h)


def member(name, content, **changes):
    return tar_header(name, len(content), **changes) + pad(content)


def pax(records, kind=b"x", name=b"pax"):
    text = b""
    for key, value in records.items():
        body = b" " + key.encode() + b"=" + (value if isinstance(value, bytes) else value.encode()) + b"\n"
        n = len(body) + len(str(len(body)))
        text += str(n + (len(str(n)) > len(str(len(body))))).encode() + body
    return member(name, text, kind=kind)


def ovf(files, disks=None, more=""):
    """files: names; disks: the file of each, by number"""
    text = '<?xml version="1.0"?><Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><References>'
    text += "".join(f'<File ovf:id="f{i}" ovf:href="{n}"/>' for i, n in enumerate(files)) + "</References><DiskSection>"
    text += "".join(f'<Disk ovf:diskId="d{i}" ovf:fileRef="f{n}"/>' for i,
                    n in enumerate(range(len(files)) if disks is None else disks))
    return (text + f"</DiskSection>{more}</Envelope>").encode("utf-8", "surrogateescape")


END = bytes(1024)


def ova(files, names=None, **changes):
    """An archive of {name: content}, all of them listed unless `names` says which."""
    out = member("vm.ovf", ovf(list(files) if names is None else names, **changes))
    return out + b"".join(member(n, c) for n, c in files.items()) + END


GOOD = vmdk.plain()


@attacks_with("E1", "a.ova", {k: k for k in FILES}, "a disk with an external data file",
              fails="names inside the image are not followed")
def disk_with_data_file(p, case):
    prepare(p)
    p.write(ova({"d.qcow2": qcow2.external(names_of_files(p)[case].encode()).done()}))


@attack("E2", "a.ova", "a disk with a backing file", warns="not followed|the image does not say|backing|^$")
def disk_with_backing_file(p):
    p.write(ova({"d.qcow2": qcow2.backed(p.secret.encode()).done()}))


@attack("E6", "a.ova", "a disk that is a descriptor with the passwords of the host",
        fails="names inside the image are not followed")
def disk_with_extents(p):
    p.write(ova({"d.vmdk": vmdk.descriptor(['RW 8 FLAT "/etc/passwd" 0'])}))


@attacks_with("E2", "a.ova", {"absolute": "/etc/passwd", "dotdot": "../../outside/secret", "url": "file:///etc/passwd",
                              "http": "http://127.0.0.1:1/d.vmdk",
                              "coded": "%2e%2e/%2e%2e/outside/secret", "missing": "other.vmdk", "folder": "./../d.vmdk",
                              "empty": ""},
              "a disk that is listed, but is no member", fails="listed in the descriptor, but not in the archive")
def listed_elsewhere(p, name):
    p.write(ova({"d.vmdk": GOOD}, [name]))


@attacks_with("E2", "a.ova", {"link": b"2", "hard": b"1", "char": b"3", "block": b"4", "folder": b"5", "fifo": b"6"},
              "a disk that is no regular file of the archive", fails="but not in the archive|ends past|cut short|checksum")
def member_is_no_file(p, kind):
    p.write(member("vm.ovf", ovf(["d.vmdk"])) + tar_header("d.vmdk", 0, kind, link=p.secret.encode()) + END)


@attacks_with("E9", "a.ova", {"gnu_sparse": tar_header("d.vmdk", 512, b"S"), "volume": tar_header("d.vmdk", 512, b"M"),
                              "pax_sparse": pax({"GNU.sparse.major": "1"}) + tar_header("d.vmdk", 512)},
              "a kind of member that is not read", fails="which is not read|another volume")
def member_kind(p, head):
    p.write(member("vm.ovf", ovf(["d.vmdk"])) + head + bytes(512) + END)


@attacks_with("E9", "a.ova", {"chunks": '<File ovf:id="x" ovf:href="d.vmdk" ovf:chunkSize="7"/><Disk ovf:fileRef="x"/>',
                              "gzip": '<File ovf:id="x" ovf:href="d.vmdk" ovf:compression="gzip"/><Disk ovf:fileRef="x"/>',
                              "no_file": '<Disk ovf:fileRef="nobody"/>',
                              "doctype": '<!DOCTYPE x [<!ENTITY a SYSTEM "/etc/passwd">]>',
                              "utf16": "\0"},
              "a descriptor that says what is not read",
              fails="split into chunks|compressed as a whole|does not list|document type|UTF-8")
def descriptor_says(p, more):
    p.write(ova({}, more=more))


SIZES = {"octal_max": b"777777777777", "base256_max": b"\xff" * 12, "base256_2_63": b"\x80" + bytes(3) + b"\x80" + bytes(7),
         "minus": b"\xff" * 11 + b"\0",
         "no_digits": b"xyz\0\0\0\0\0\0\0\0\0", "blanks": b" " * 12, "wrap": b"\x80\0\0\0" + b"\xff" * 6 + b"\xfe\0",
         "cut": b"00000010000\0"}


@attacks_with("E10", "a.ova", SIZES, "a member of a size that cannot be",
              fails="cut short|no number as a size|listed in the|^$|past|header")
def member_size(p, raw):
    p.write(member("vm.ovf", ovf(["d.vmdk"])) + tar_header("d.vmdk", 0, raw_size=raw) + END)


@attacks_with("E10", "a.ova", {"size_max": {"size": "18446744073709551615"}, "size_wrap": {"size": "18446744073709551104"},
                               "size_text": {"size": "9x"},
                               "name": {"path": b"x" * 2000}, "zero": {"path": b"a\0b"}},
              "a pax record that cannot be", fails="cut short|no number|too long|listed in")
def pax_record(p, records):
    p.write(member("vm.ovf", ovf(["d.vmdk"])) + pax(records) + tar_header("d.vmdk", 512) + bytes(512) + END)


@attacks_with("E10", "a.ova", {"0": b"0 a=b\n", "minus": b"-9 a=b\n", "max": b"99999999999999999999 a=b\n",
                               "long": b"9999 a=b\n", "no_end": b"6 a=bb",
                               "no_value": b"6 abc\n"}, "a pax record of a wrong length", fails="pax header has a record")
def pax_length(p, text):
    p.write(member("vm.ovf", ovf(["d.vmdk"])) + member("pax", text, kind=b"x") + member("d.vmdk", GOOD) + END)


@attack("E11", "a.ova", "a disk that is the rest of the archive, with all that follows in it", fails=ANY)
def member_is_the_rest(p):
    inner = ova({"d.vmdk": GOOD})
    p.write(member("vm.ovf", ovf(["rest.ova"])) + tar_header("rest.ova", len(inner)) + inner)


@attack("E11", "a.ova", "the descriptor as a disk of its own", fails=ANY)
def descriptor_is_a_disk(p):
    p.write(ova({"d.vmdk": GOOD}, ["vm.ovf", "d.vmdk"]))


@attack("E11", "a.ova", "an archive in an archive in an archive", fails="an archive in an archive is not read")
def archive_in_archive(p):
    p.write(ova({"b.ova": ova({"c.ova": ova({"d.vmdk": GOOD})})}))


@attack("E11", "a.ova", "two members of one name", fails="has two members 'd.vmdk'")
def two_of_a_name(p):
    p.write(member("vm.ovf", ovf(["d.vmdk"])) + member("d.vmdk", GOOD) + member("./d.vmdk",
                                                                                vmdk.plain(capacity=4096)) + END)


@attack("E12", "a.ova", "a thousand disks that are one member", heavy=True)
def one_member_many_disks(p):
    p.write(member("vm.ovf", ovf(["d.vmdk"] * 1000)) + member("d.vmdk", GOOD) + END)


@attack("E12", "a.ova", "a disk that is one cluster, 64 TiB of it", fails=TOO_MUCH, heavy=True)
def bomb_in_archive(p):
    p.write(ova({"d.qcow2": qcow2.aliased(lambda q: q.data(), 64 << 10)}))


@attack("E14", "a.ova", "100 disks of 64 TiB each, which together are too large", fails="4 PiB or more", heavy=True)
def giants_in_archive(p):
    one = vmdk.sparse([0] * 128, b"", vmdk.descriptor(['RW 137438953472 SPARSE "x"'], "monolithicSparse"), capacity=1 << 37,
                      grain_size=1 << 21)
    p.write(ova({f"{i}.vmdk": one for i in range(100)}))


@attack("E16", "cut-5000.ova", "an archive cut short at every 500th byte", fails=ANY)
def cut_short(p):
    whole = ova({"d.vmdk": GOOD})
    for n in range(0, len(whole), 500):
        p.write(whole[:n], f"cut-{n}.ova")


@attack("E16", "sum.ova", "a header whose checksum does not match",
        fails="checksum of the header at offset|not in the archive")
def header_checksum(p):
    whole = ova({"d.vmdk": GOOD})
    p.write(patched(whole, (whole.index(b"d.vmdk\0"), b"e")))


@attack("E19", "a.ova", "members and disks whose names steer terminals", fails=ANY)
def names_that_steer_terminals(p):
    p.write(member("vm.ovf", ovf([EVIL.decode("utf-8", "surrogateescape").replace("\n", "")])) + member(EVIL[:90],
                                                                                                        GOOD) + END)


@attack("E19", "a.ova", "a disk that is read, whose name steers terminals")
def disk_that_steers_terminals(p):
    p.write(member("vm.ovf", ovf(["d.vmdk"])) + member("d.vmdk", GOOD) + member(b"\x1b[31m%n\xff\n.vmdk",
                                                                                vmdk.plain(capacity=4096)) + END)


@attacks_with("E19", "a.ova", {"attribute": '<File ovf:href="' + "x" * MIB, "comment": "<!--" + "-" * MIB,
                               "tags": "<a>" * (MIB // 3),
                               "entities": '<File ovf:href="' + "&#1;" * (MIB // 4) + '"/>',
                               "nested": '<File a="' + "&amp;" * (MIB // 5) + '"/>'},
              "a descriptor of a million bytes of nonsense", fails=ANY, heavy=True)
def nonsense(p, more):
    p.write(ova({"d.vmdk": GOOD}, more=more))


@attack("E20", "a.ova", "4096 members and 1024 disks", fails=ANY, heavy=True)
def members_by_the_thousand(p):
    names = [f"{'x' * 80}{i}" for i in range(1024)]
    p.write(member("vm.ovf", ovf(names)) + b"".join(member(n, b"") for n in names) + member("y", b"") * 3000 + END)


@attack("E20", "a.ova", "20000 headers", fails="more than 16384 headers|more than 4096 members", heavy=True)
def headers_by_the_thousand(p):
    p.write(member("vm.ovf", ovf([])) + tar_header("x", 0, b"5") * 20000 + END)


@attack("E20", "a.ova", "pax headers, one for each other", fails=ANY, heavy=True)
def pax_headers_by_the_thousand(p):
    p.write(member("vm.ovf", ovf([])) + pax({"path": "x"}) * 1000 + member("d", b"") + END)


@attack("E20", "a.ova", "a descriptor of 1 TiB", fails="too large|cut short", heavy=True)
def descriptor_of_a_terabyte(p):
    head = tar_header("vm.ovf", 0, raw_size=b"\x80" + bytes(3) + TIB.to_bytes(8, "big"))
    p.sparse(TIB + 4096, {0: head})
