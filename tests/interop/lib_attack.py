# SPDX-License-Identifier: Apache-2.0
"""Images as an enemy would make them: the table, and what its entries are made with.  Each is written from the specification
of its format, for no honest program makes it; the files lib_attack_*.py hold them, format by format.

An attack has the row that it belongs to (E1 to E20, see tests/rows.md), the name of its image, one line on what it tries, and
what the scan has to say of it: `fails` when the image must not be read, `warns` when it must be read all the same, as patterns
of the message; both, when either will do; neither, when there is nothing to be said; ANY, when all that matters is that it is
contained."""

import os
import struct

ANY = "ANY"
LONG = "long"
KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
attacks = []


class Attack:
    def __init__(self, row, file, what, make, fails, warns, heavy):
        self.row, self.file, self.what, self.make = row, file, what, make
        self.fails, self.warns, self.heavy = fails, warns, heavy
        self.name = "_".join((row.lower(), make.__module__.split("_")[-1], make.__name__))


def attack(row, file, what, fails=None, warns=None, heavy=False):
    """For functions that make an attack in a Place.  heavy: it is run alone, and its cost measured; LONG: in make check-long.
    """
    def add(make):
        attacks.append(Attack(row, file, what, make, fails, warns, heavy))
        return make
    return add


def attacks_with(row, file, cases, what, **expected):
    """One attack for each of {suffix: argument}, whose names become NAME_suffix; `file` and expected patterns may hold {}."""
    def add(make):
        for suffix, case in cases.items():
            def one(place, case=case):
                make(place, case)
            one.__name__, one.__module__ = f"{make.__name__}_{suffix}", make.__module__
            texts = {k: v.replace("{}", str(suffix)) if isinstance(v, str) else v for k, v in expected.items()}
            attacks.append(Attack(row, file.replace("{}", str(suffix)), f"{what}: {suffix}", one, texts.get("fails"),
                                  texts.get("warns"), texts.get("heavy", False)))
        return make
    return add


class Place:
    """Where an attack is made: a folder of its own in the store, from which ../../outside is what must not be opened."""

    def __init__(self, folder, attack_made):
        self.folder, self.attack = folder, attack_made
        self.outside = os.path.abspath(os.path.join(folder, "..", "..", "outside"))
        self.secret = os.path.join(self.outside, "secret")
        os.makedirs(folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, content, name=None):
        """Whole blocks of zeros become holes."""
        with open(self.path(name or self.attack.file), "wb") as f:
            for at in range(0, len(content), 64 * KIB):
                piece = content[at:at + 64 * KIB]
                if any(piece):
                    f.seek(at)
                    f.write(piece)
            f.truncate(len(content))

    def sparse(self, size, pieces, name=None):
        """pieces: {offset: bytes}"""
        with open(self.path(name or self.attack.file), "wb") as f:
            f.truncate(size)
            for at, content in pieces.items():
                f.seek(at)
                f.write(content)

    def link(self, target, name):
        os.symlink(target, self.path(name))

    def fifo(self, name):
        os.mkfifo(self.path(name))


def patched(content, *changes):
    """changes: (offset, bytes)"""
    b = bytearray(content)
    for at, new in changes:
        b[at:at + len(new)] = new
    return bytes(b)


def be(width, value):
    return (value & (1 << 8 * width) - 1).to_bytes(width, "big")


def le(width, value):
    return (value & (1 << 8 * width) - 1).to_bytes(width, "little")


def extremes(width):
    """Values at which arithmetic goes wrong, by name."""
    bits = 8 * width
    values = {"0": 0, "1": 1, "half": 1 << bits - 1, "less": (1 << bits - 1) - 1, "max": (1 << bits) - 1}
    if bits == 64:
        values.update({"wrap": (1 << 64) - 512, "units": 1 << 55, "many": 1 << 40})
    return values


def be64s(values):
    return struct.pack(f">{len(values)}Q", *values)


def le32s(values):
    return struct.pack(f"<{len(values)}I", *values)


def pad(content, unit=512):
    return content + bytes(-len(content) % unit)
