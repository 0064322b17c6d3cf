# SPDX-License-Identifier: Apache-2.0
"""A writer of VHDX images after [MS-VHDX], for tests: everything that QEMU does not write (parents, sector bitmaps,
sectors of 4096 bytes, logs to replay), and a model of what must be read."""

import struct

KIB, MIB = 1 << 10, 1 << 20
NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, UNMAPPED_095, FULL, PARTIAL = 0, 1, 2, 3, 5, 6, 7
LOG_SECTOR = 4096

_TABLE = []
for _i in range(256):
    for _ in range(8):
        _i = _i >> 1 ^ (0x82F63B78 if _i & 1 else 0)
    _TABLE.append(_i)


def crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def guid(text):
    a, b, c, d, e = text.strip("{}").split("-")
    return struct.pack("<IHH", int(a, 16), int(b, 16), int(c, 16)) + bytes.fromhex(d + e)


def guid_text(b):
    a, c, d = struct.unpack_from("<IHH", b)
    return f"{a:08x}-{c:04x}-{d:04x}-{b[8:10].hex()}-{b[10:].hex()}"


BAT = guid("2DC27766-F623-4200-9D64-115E9BFD4A08")
METADATA = guid("8B7CA206-4790-4B9A-B8FE-575F050F886E")
PARAMETERS = guid("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
DISK_SIZE = guid("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
DISK_ID = guid("BECA12AB-B2E6-4523-93EF-C309E000C746")
LOGICAL = guid("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
PHYSICAL = guid("CDA348C7-445D-4471-9CC9-E9885251C556")
LOCATOR = guid("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")
LOCATOR_VHDX = guid("B04AEFB7-D19E-4A81-B789-25B8E9445913")


def summed(data, tail=0):
    """With its checksum, at offset 4; `tail` zeros follow."""
    data = data[:4] + bytes(4) + data[8:]
    return data[:4] + struct.pack("<I", crc32c(data + bytes(tail))) + data[8:]


def header(sequence, data_write, log=bytes(16), log_offset=MIB, log_length=MIB, version=1, log_version=0):
    return summed(struct.pack("<4sIQ16s16s16sHHIQ", b"head", 0, sequence, bytes(range(16)), data_write, log, log_version,
                              version, log_length, log_offset) + bytes(4016))


def region_table(entries):
    """entries: (guid, offset, length, required)"""
    table = struct.pack("<4sIII", b"regi", 0, len(entries), 0)
    table += b"".join(struct.pack("<16sQII", *e) for e in entries)
    return summed(table, 64 * KIB - len(table)).ljust(64 * KIB, b"\0")


def locator(pairs, kind=LOCATOR_VHDX):
    at = 20 + 12 * len(pairs)
    entries, texts = b"", b""
    for key, value in pairs:
        key, value = key.encode("utf-16-le"), value.encode("utf-16-le")
        entries += struct.pack("<IIHH", at + len(texts), at + len(texts) + len(key), len(key), len(value))
        texts += key + value
    return kind + struct.pack("<HH", 0, len(pairs)) + entries + texts


def metadata(items, rng=None):
    """items: (guid, flags, bytes); placed in a shuffled order.  Returns the bytes up to the last item's end."""
    at, placed, area = 64 * KIB, [], bytearray()
    order = list(range(len(items)))
    if rng:
        rng.shuffle(order)
    for i in order:
        kind, flags, content = items[i]
        area += bytes(rng.choice([0, 0, 8, 13, 5000]) if rng else 0)
        placed.append(struct.pack("<16sIIII", kind, at + len(area), len(content), flags, 0))
        area += content
    if rng:
        rng.shuffle(placed)
    table = struct.pack("<8sHH20x", b"metadata", 0, len(placed)) + b"".join(placed)
    return table.ljust(64 * KIB, b"\0") + bytes(area)


def log_entry(sequence, tail, log, descriptors, flushed, last, padding=0):
    """descriptors: (offset, 4096 bytes) or (offset, length of zeros)"""
    nr = len(descriptors)
    out = b""
    for offset, what in descriptors:
        if isinstance(what, int):
            out += struct.pack("<4sIQQQ", b"zero", 0, what, offset, sequence)
        else:
            out += struct.pack("<4s4s8sQQ", b"desc", what[-4:], what[:8], offset, sequence)
    size = (64 + len(out) + LOG_SECTOR - 1) // LOG_SECTOR * LOG_SECTOR
    out = out.ljust(size - 64, b"\0")
    for _, what in descriptors:
        if not isinstance(what, int):
            out += b"data" + struct.pack("<I", sequence >> 32) + what[8:-4]
            out += struct.pack("<I", sequence & 0xFFFFFFFF)
    out += bytes(padding)
    head = struct.pack("<4sIIIQII16sQQ", b"loge", 0, 64 + len(out), tail, sequence, nr, 0, log, flushed, last)
    return summed(head + out)


def put_around(ring, at, data):
    """Writes into a ring; returns where it ends."""
    first = min(len(ring) - at, len(data))
    ring[at:at + first] = data[:first]
    ring[:len(data) - first] = data[first:]
    return (at + len(data)) % len(ring)
