#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Random VHDX images, read by us and held against a model and against QEMU.

Two thirds are written here, after the specification: chains of parents, sector bitmaps, both sizes of sectors, all states
of blocks, regions in any order, and logs to replay: around the end of the ring, with torn and stale entries, zeros, and
updates that hide each other.  The model is a raw file beside the image.  What QEMU can read of them it reads too, and
where there is a log, a copy that it has repaired.
The others are written by qemu-img and qemu-io, which are interrupted while they write by an I/O error that is planted
(and with LONG=1 by kill -9 too); QEMU repairs a copy, and reads that.

Usage: vhdx_random.py [--count N] [--seed S] [--jobs J] [--keep DIR]; one seed makes always the same images.
A failure is one line that ends with the seed; `--seed S --count 1 --keep DIR` makes that image again and keeps it."""

import os
import random
import shutil
import struct
import subprocess
import sys
import time

import lib_random
import lib_vhdx as vhdx
from lib_random import IMGTOOL, LONG, Failed, must_fail, our_info, run
from lib_vhdx import KIB, MIB, FULL, NOT_PRESENT, PARTIAL

GIB = 1 << 30


def copy_data(source, source_at, target, target_at, length):
    """Copies what is no hole of the source."""
    at, end = source_at, source_at + length
    while at < end:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
            stop = min(os.lseek(source, at, os.SEEK_HOLE), end)
        except OSError:
            return
        while at < stop:
            piece = os.pread(source, min(stop - at, MIB), at)
            os.pwrite(target, piece, target_at + at - source_at)
            at += len(piece)


class Image:
    """One file of a chain, written here."""

    def __init__(self, rng, folder, name, base):
        self.rng, self.base = rng, base
        self.folder = os.path.join(folder, rng.choice(["", "sub", "other dir"]))
        os.makedirs(self.folder, exist_ok=True)
        self.path = os.path.join(self.folder, name)
        self.model_path = os.path.join(folder, name + ".raw")
        self.sector = base.sector if base else rng.choice([512, 512, 4096])
        self.block = rng.choice([1] * 6 + [2] * 4 + [8] * 3 + [32, 256]) * MIB
        self.ratio = (1 << 23) * self.sector // self.block
        self.size = self.random_size()
        self.nr_blocks = (self.size + self.block - 1) // self.block
        self.id = rng.randbytes(16)
        self.log_guid = bytes(16)
        self.qemu_reads = not base and self.sector == 512
        self.nr_entries = 0
        self.states, self.runs, self.offsets, self.bitmaps = {}, {}, {}, {}
        self.choose_states()
        self.lay_out()
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self.write_blocks()
        self.write_structures()
        self.write_model()
        if rng.random() < 0.6:
            self.spoil()
        self.write_headers()
        os.close(self.fd)

    def random_size(self):
        rng = self.rng
        kind = rng.random()
        if kind < 0.03 and self.block < 256 * MIB and self.sector == 512:  # more than a chunk
            return 4 * GIB + rng.randrange(0, 8) * self.block + rng.randrange(1, 9) * self.sector
        if kind < 0.15:
            return rng.randrange(1, 64) * self.sector
        most = max(2, min(24, 64 * MIB // self.block))
        if kind < 0.5:
            return rng.randrange(1, most * self.block // self.sector) * self.sector
        return rng.randrange(1, most) * self.block

    def choose_states(self):
        rng = self.rng
        kinds = [NOT_PRESENT, NOT_PRESENT, vhdx.ZERO, vhdx.UNDEFINED, vhdx.UNMAPPED, vhdx.UNMAPPED_095, FULL, FULL, FULL]
        if self.base:
            kinds += [PARTIAL] * 6
        likely = set(range(min(self.nr_blocks, 30)))
        likely |= {i for k in range(1, 3) for i in range(k * self.ratio - 3, k * self.ratio + 3)}
        for i in sorted(likely):
            if 0 <= i < self.nr_blocks:
                state = rng.choice(kinds)
                if state != NOT_PRESENT:
                    self.states[i] = state
                if state == PARTIAL:
                    self.runs[i] = self.random_runs()

    def random_runs(self):
        """(first sector, number of sectors) that are here, of a block."""
        rng, nr = self.rng, self.block // self.sector
        runs, at = [], 0
        unit = rng.choice([1, 3, 8, 64, 1000])
        while at < nr and len(runs) < 60:
            at += rng.choice([0, rng.randrange(1, 4), rng.randrange(1, 9)]) * unit * (rng.random() < 0.9)
            length = min(rng.randrange(1, 9) * unit, nr - at)
            if rng.random() < 0.1:
                length = nr - at
            if length > 0:
                runs.append((at, length))
            at += length + 1
        return runs

    def lay_out(self):
        """Gives everything a place, in whole MiB."""
        rng = self.rng
        nr_bitmaps = (self.nr_blocks + self.ratio - 1) // self.ratio
        nr_entries = nr_bitmaps * (self.ratio + 1)
        self.bat_size = max(1, (nr_entries * 8 + MIB - 1) // MIB) * MIB
        self.log_size = rng.choice([1, 1, 1, 2, 4]) * MIB
        things = [("log", self.log_size), ("bat", self.bat_size), ("metadata", MIB)]
        if rng.random() < 0.2:
            things.append(("unknown", rng.randrange(1, 3) * MIB))
        blocks = [(i, self.block) for i, s in self.states.items() if s in (FULL, PARTIAL)]
        blocks += [(("bitmap", c), MIB) for c in sorted({i // self.ratio for i in self.runs})]
        if rng.random() < 0.5:
            rng.shuffle(things)
        if rng.random() < 0.4:
            things += blocks
            rng.shuffle(things)
        else:
            if rng.random() < 0.3:
                rng.shuffle(blocks)
            things += blocks
        at = MIB
        for name, size in things:
            at += rng.choice([0, 0, 0, 0, 1, 2]) * MIB
            if isinstance(name, tuple):
                self.bitmaps[name[1]] = at
            else:
                self.offsets[name] = at
            at += size
        self.end = at

    def write_blocks(self):
        rng = self.rng
        os.ftruncate(self.fd, self.end)
        for i, state in self.states.items():
            if state not in (FULL, PARTIAL):
                continue
            at = self.offsets[i]
            if self.block == MIB and rng.random() < 0.5:
                os.pwrite(self.fd, rng.randbytes(MIB), at)
                continue
            for _ in range(rng.randrange(0, 6)):
                length = rng.choice([512, 4096, 70000])
                place = rng.choice([0, rng.randrange(0, self.block - length), self.block - length])
                os.pwrite(self.fd, rng.randbytes(length), at + place)
            for first, nr in self.runs.get(i, []):  # across the ends of runs
                place = max(0, (first + rng.choice([0, nr])) * self.sector - 700)
                os.pwrite(self.fd, rng.randbytes(min(1400, self.block - place)), at + place)
        for chunk, at in self.bitmaps.items():
            bits = bytearray(MIB)
            for i, runs in self.runs.items():
                for first, nr in runs if i // self.ratio == chunk else []:
                    first += i % self.ratio * (self.block // self.sector)
                    for bit in range(first, first + nr):
                        bits[bit >> 3] |= 1 << (bit & 7)
            for begin in range(0, MIB, 4096):
                if any(bits[begin:begin + 4096]):
                    os.pwrite(self.fd, bits[begin:begin + 4096], at + begin)

    def bat_index(self, block):
        return block + block // self.ratio

    def write_structures(self):
        rng = self.rng
        os.pwrite(self.fd, b"vhdxfile" + "a test".encode("utf-16-le"), 0)
        for i, state in self.states.items():
            offset = self.offsets.get(i, 0)
            if state in (vhdx.UNDEFINED, vhdx.UNMAPPED, vhdx.UNMAPPED_095) and rng.random() < 0.3:
                offset = rng.randrange(1, 1000) * MIB
            entry = struct.pack("<Q", offset | state)
            os.pwrite(self.fd, entry, self.offsets["bat"] + 8 * self.bat_index(i))
        for chunk, at in self.bitmaps.items():
            index = (chunk + 1) * (self.ratio + 1) - 1
            os.pwrite(self.fd, struct.pack("<Q", at | FULL), self.offsets["bat"] + 8 * index)
        flags = (rng.random() < 0.3) | 2 * bool(self.base)
        items = [(vhdx.PARAMETERS, 4, struct.pack("<II", self.block, flags)),
                 (vhdx.DISK_SIZE, 6, struct.pack("<Q", self.size)), (vhdx.DISK_ID, 6, rng.randbytes(16)),
                 (vhdx.LOGICAL, 6, struct.pack("<I", self.sector)),
                 (vhdx.PHYSICAL, 6, struct.pack("<I", rng.choice([512, 4096])))]
        if self.base:
            items.append((vhdx.LOCATOR, 4, self.locator()))
        for _ in range(rng.choice([0, 0, 1, 3])):
            known = rng.random() < 0.1  # a user may name one so; QEMU takes it for the disk's
            self.qemu_reads &= not known
            kind = vhdx.DISK_SIZE if known else rng.randbytes(16)
            items.append((kind, 1, rng.randbytes(rng.randrange(1, 200))))
        os.pwrite(self.fd, vhdx.metadata(items, rng), self.offsets["metadata"])
        regions = [(vhdx.BAT, self.offsets["bat"], self.bat_size, 1),
                   (vhdx.METADATA, self.offsets["metadata"], MIB, 1)]
        if "unknown" in self.offsets:
            regions.append((rng.randbytes(16), self.offsets["unknown"], MIB, 0))
        rng.shuffle(regions)
        table = vhdx.region_table(regions)
        os.pwrite(self.fd, table, 192 * KIB)
        os.pwrite(self.fd, table, 256 * KIB)

    def locator(self):
        rng = self.rng
        name = os.path.relpath(self.base.path, self.folder).replace("/", "\\")
        last = os.path.basename(self.base.path)
        linkage = "{" + vhdx.guid_text(self.base.id) + "}"
        pairs = [("parent_linkage", rng.choice([linkage, linkage.upper()]))]
        if rng.random() < 0.8 or os.path.dirname(self.base.path) != self.folder.rstrip("/"):
            pairs.append(("relative_path", rng.choice([name, ".\\" + name])))
        if rng.random() < 0.5 or len(pairs) == 1:
            pairs.append(("absolute_win32_path", "\\\\?\\d:\\somewhere else\\" + last))
        if rng.random() < 0.3:
            pairs.append(("volume_path", "\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\\x\\" + last))
        if rng.random() < 0.3:
            pairs.append(("\u00e4 key of ours", "\U0001f4be"))
        rng.shuffle(pairs)
        return vhdx.locator(pairs)

    def write_headers(self):
        """The current one first or second; the other one older, the same or broken."""
        rng = self.rng
        number = rng.randrange(1, 1 << 40)
        now = vhdx.header(number, self.id, self.log_guid, self.offsets["log"], self.log_size)
        older = vhdx.header(number - 1, rng.randbytes(16), rng.randbytes(16), MIB, 77 * MIB)
        broken = now[:100] + b"\1" + now[101:]
        both = [now, rng.choice([now, older, broken, bytes(4096)])]
        rng.shuffle(both)
        os.pwrite(self.fd, both[0], 64 * KIB)
        os.pwrite(self.fd, both[1], 128 * KIB)
        if rng.random() < 0.3:
            self.qemu_reads = False  # it looks at the first region table only
            os.pwrite(self.fd, rng.randbytes(5), 192 * KIB + rng.randrange(0, 48))

    # ---- the model ----

    def stored(self):
        """(begin, end, what, offset in the file) of the disk; what is "hole", "zero" or "here"."""
        for i in range(self.nr_blocks):
            begin, end = i * self.block, min((i + 1) * self.block, self.size)
            state, offset = self.states.get(i, NOT_PRESENT), self.offsets.get(i)
            if state == FULL:
                yield begin, end, "here", offset
            elif state == PARTIAL:
                at = begin
                for first, nr in self.runs[i]:
                    place = begin + first * self.sector
                    stop = place + nr * self.sector
                    for a, b, what in (at, place, "hole"), (place, stop, "here"):
                        if min(b, end) > a:
                            yield a, min(b, end), what, offset + a - begin
                    at = stop
                if at < end:
                    yield at, end, "hole", None
            else:
                yield begin, end, "hole" if state == NOT_PRESENT else "zero", None

    def write_model(self):
        target = os.open(self.model_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.ftruncate(target, self.size)
        below = os.open(self.base.model_path, os.O_RDONLY) if self.base else None
        for begin, end, what, offset in self.stored():
            if what == "here":
                copy_data(self.fd, offset, target, begin, end - begin)
            elif what == "hole" and self.base and begin < self.base.size:
                copy_data(below, begin, target, begin, min(end, self.base.size) - begin)
        if self.base:
            os.close(below)
        os.close(target)

    # ---- the log ----

    def sectors(self):
        """Offsets of sectors of the file that a log may tell of."""
        rng, out = self.rng, [192 * KIB, self.offsets["metadata"], self.offsets["metadata"] + 64 * KIB]
        for i in self.states:
            out.append((self.offsets["bat"] + 8 * self.bat_index(i)) // 4096 * 4096)
        for at in self.bitmaps.values():
            out += [at + rng.randrange(0, 4) * 4096, at + MIB - 4096]
        for i, s in self.states.items():
            if s in (FULL, PARTIAL) and rng.random() < 0.2:
                out += [self.offsets[i] + rng.randrange(0, self.block // 4096) * 4096 for _ in range(2)]
        return sorted(set(out))

    def spoil(self):
        """Makes the file one whose last updates are in the log only."""
        rng = self.rng
        self.log_guid = rng.randbytes(16)
        chosen = [at for at in self.sectors() if rng.random() < 0.5]
        later, hidden = [], []  # what comes last, and what it hides
        for at in chosen:
            right = os.pread(self.fd, 4096, at)
            if any(right) or rng.random() < 0.3:
                later.append((at, right))
            else:
                later.append((at, 4096 * rng.choice([1, 1, 2, 3])))
                if any(os.pread(self.fd, later[-1][1], at)):
                    later[-1] = (at, right)
            if rng.random() < 0.4:
                hidden.append((at, rng.randbytes(4096)))
            if rng.random() < 0.2:
                hidden.append((at, 4096))
            os.pwrite(self.fd, rng.choice([rng.randbytes(4096), bytes(4096), right]), at)
        if rng.random() < 0.3:  # the beginning of the BAT is made zeros, and then what it was
            bat = self.offsets["bat"]
            hidden.append((bat, 64 * KIB))
            taken = {at for at, _ in later}
            for at in range(bat, bat + 64 * KIB, 4096):
                right = os.pread(self.fd, 4096, at)
                if at not in taken and any(right):
                    later.append((at, right))
        rng.shuffle(hidden)
        rng.shuffle(later)
        self.cut_end()
        self.write_log(hidden, later)

    def cut_end(self):
        """Sometimes the file was not yet made as long as the log says."""
        self.flushed = self.end
        while self.rng.random() < 0.4 and self.flushed > MIB and not any(os.pread(self.fd, MIB, self.flushed - MIB)):
            inside = [a for a in list(self.offsets.items()) if a[0] in ("log", "bat", "metadata")]
            if self.flushed - MIB < max(a[1] for a in inside) + 5 * MIB:
                break
            self.flushed -= MIB
        os.ftruncate(self.fd, self.flushed)
        self.qemu_reads &= self.flushed == self.end  # it does not make the file longer

    def random_updates(self, nr):
        rng = self.rng
        return [(rng.choice(self.sectors()), rng.randbytes(4096)) for _ in range(nr)]

    def write_log(self, hidden, later):
        rng = self.rng
        ring = bytearray(rng.randbytes(64 * KIB) * (self.log_size // (64 * KIB)))
        number = rng.choice([1, 2, rng.randrange(1, 1 << 33), (1 << 32) - 2])

        def entry(updates, sequence, tail, guid=None, padding=0):
            return vhdx.log_entry(sequence, tail, guid or self.log_guid, updates, self.flushed, self.end, padding)

        # older sequences, of which the ring still has something
        for _ in range(rng.choice([0, 0, 1, 3])):
            at = start = rng.randrange(0, self.log_size // 4096) * 4096
            for k in range(rng.randrange(1, 3)):
                guid = rng.choice([self.log_guid, rng.randbytes(16)])
                old = number - 5 + k if number > 9 else 0
                if not old:
                    guid, old = rng.randbytes(16), k + 1
                at = vhdx.put_around(ring, at, entry(self.random_updates(4), old, start, guid))
        at = rng.choice([0, rng.randrange(0, self.log_size // 4096) * 4096, self.log_size - 8192])
        if rng.random() < 0.25:  # one that was written to its place long ago: not to be replayed
            at = vhdx.put_around(ring, at, entry(self.random_updates(6), number, at))
            number += 1
            self.qemu_reads = False  # it does so all the same
        tail = at
        groups = [hidden] if hidden and rng.random() < 0.5 else [[u] for u in hidden[:3]]
        cut = rng.randrange(0, len(later) + 1)
        groups += [[], later[:cut], later[cut:]] if rng.random() < 0.5 else [later]
        self.nr_entries = len(groups)
        padding = rng.choice([0, 0, 0, 4096])
        self.qemu_reads &= not padding  # it takes no notice of the entry's length when it replays
        for k, updates in enumerate(groups):
            whose = tail if rng.random() < 0.8 or k == len(groups) - 1 else at
            if at < tail:
                self.qemu_reads = False  # it searches from the ring's beginning on, and takes the later part for all
            at = vhdx.put_around(ring, at, entry(updates, number + k, whose, padding=padding))
        if rng.random() < 0.4:  # one that was not written to its end
            torn = bytearray(entry(self.random_updates(5), number + len(groups), tail))
            place = rng.randrange(0, len(torn))
            torn[place] ^= 1 << rng.randrange(0, 8)
            vhdx.put_around(ring, at, torn)
        os.pwrite(self.fd, ring, self.offsets["log"])


class QemuImage:
    """One written by QEMU, perhaps with an end that came too soon."""

    def __init__(self, rng, path, kill):
        self.rng, self.path, self.base = rng, path, None
        self.size = rng.choice([rng.randrange(1, 200) * 512, rng.randrange(1, 40) * MIB, rng.randrange(40, 200) * MIB])
        block = rng.choice([1, 1, 1, 2, 8, 64])
        fixed = rng.random() < 0.2
        options = [f"subformat={'fixed' if fixed else 'dynamic'}", f"block_size={block}M",
                   f"block_state_zero={rng.choice(['on', 'off'])}", f"log_size={rng.choice([1, 2, 16])}M"]
        run("qemu-img", "create", "-q", "-f", "vhdx", "-o", ",".join(options), path, str(self.size))
        for _ in range(rng.choice([0, 1, 1])):
            run("qemu-io", "-t", "unsafe", "-f", "vhdx", *self.commands(), path)
        if kill:
            self.be_killed()
        elif rng.random() < 0.7:
            self.fail()

    def commands(self):
        rng, out = self.rng, []
        for _ in range(rng.choice([1, 4, 16])):
            at = rng.randrange(0, self.size // 512) * 512
            length = min(rng.choice([1, 8, 100, 2048, 4096]) * 512, self.size - at)
            kind = "write -z" if rng.random() < 0.1 else f"write -P {rng.randrange(1, 256)}"
            out += ["-c", f"{kind} {at} {length}"]
        return out

    def fail(self):
        """The k-th write to the BAT or to somewhere fails: the log is written then, its update is not."""
        rng = self.rng
        with open(self.path, "rb") as f:
            f.seek(192 * KIB)
            table = f.read(512)
        bat = next(struct.unpack_from("<Q", table, at + 16)[0] for at in (16, 48) if table[at:at + 16] == vhdx.BAT)
        rules = self.path + ".conf"
        with open(rules, "w", encoding="ascii") as f:
            for sector in range(bat // 512, bat // 512 + 8 * 2):
                f.write(f'[inject-error]\nevent = "pwritev"\nerrno = "5"\nonce = "on"\nsector = "{sector}"\n'
                        f'iotype = "write"\n')
        run("qemu-io", "-t", "unsafe", "-f", "vhdx", *self.commands(), f"blkdebug:{rules}:{self.path}", may_fail=True)

    def be_killed(self):
        """While it gives blocks their places, which it syncs again and again."""
        rng, commands = self.rng, []
        for _ in range(300):
            commands += ["-c", f"write -P {rng.randrange(1, 256)} {rng.randrange(0, self.size // 512) * 512} 512"]
        with subprocess.Popen(["qemu-io", "-f", "vhdx", *commands, self.path], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as p:
            time.sleep(0.03 + rng.random() * 0.4)
            p.kill()


# ---- comparing ----

def same_bytes(image, model):
    with subprocess.Popen([IMGTOOL, "-f", "vhdx", "cat", image.path], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as ours:
        done = subprocess.run(["cmp", "-", model], stdin=ours.stdout, capture_output=True, check=False)
        ours.stdout.close()
        said = ours.stderr.read().decode().strip()
    if done.returncode or ours.returncode or said:
        raise Failed(f"bytes differ (status {ours.returncode}): {said} {done.stdout.decode()} {done.stderr.decode()}".strip())


def joined(rows):
    out = []
    for begin, end, what, offset in rows:
        last = out[-1] if out else None
        if last and last[2] == what and (what != "here" or last[3] + last[1] - last[0] == offset):
            last[1] = end
        else:
            out.append([begin, end, what, offset])
    return out


def check_stored(image):
    """Holes, and what is here, are where the model has them; data lies where the BAT says."""
    wanted, at, j = joined(image.stored()), 0, 0
    for line in run(IMGTOOL, "-f", "vhdx", "stored", image.path).decode().splitlines():
        begin, length, kind = line.split(" ")[:3]
        begin, end = int(begin), int(begin) + int(length)
        offset = line.rsplit(" ", 1)[1]
        if begin != at or end <= begin:
            raise Failed(f"stored: '{line}' does not begin at {at}")
        while at < end:
            row = wanted[j]
            good = {"hole": ("hole",), "zero": ("zero", "prealloc"), "here": ("data", "packed", "prealloc", "zero")}
            if kind not in good[row[2]] or not row[0] <= at < row[1]:
                raise Failed(f"stored: '{line}', but the model has {row}")
            if kind == "data" and int(offset) + at - begin != row[3] + at - row[0]:
                raise Failed(f"stored: '{line}' is in the wrong place, the model has {row}")
            at = min(end, row[1])
            j += at == row[1]
    if at != image.size:
        raise Failed(f"stored ends at {at}, not at {image.size}")


def qemu_reads(image, folder, dirty):
    """What QEMU reads, of a copy that it repairs first if there is a log."""
    path, raw = image.path, os.path.join(folder, "theirs.raw")
    if dirty:
        path = os.path.join(folder, "repaired.vhdx")
        run("cp", "--sparse=always", image.path, path)
        run("qemu-img", "check", "-q", "-T", "unsafe", "-f", "vhdx", "-r", "all", path)
    run("qemu-img", "convert", "-t", "unsafe", "-f", "vhdx", "-O", "raw", path, raw)
    return raw


def check_ours(image, folder):
    checks = 0
    while image:
        info = our_info(image.path, "vhdx")
        kind = "differencing" if image.base else info["kind"].strip()
        said = (info["kind"].strip(), int(info["size"]), int(info["cluster_size"]), info["id"].strip(),
                int(info["dirty"]))
        dirty = any(image.log_guid)
        if said != (kind, image.size, image.block, vhdx.guid_text(image.id), dirty):
            raise Failed(f"info says {said}")
        if dirty and f"({image.nr_entries} entr" not in info["features"]:
            raise Failed(f"{image.nr_entries} entries were to be replayed, not {info['features']}")
        same_bytes(image, image.model_path)
        check_stored(image)
        checks += 1 + dirty
        if image.qemu_reads and image.nr_blocks < 5000:
            theirs = qemu_reads(image, folder, dirty)
            same_bytes(image, theirs)
            checks += 1
        image = image.base
    return checks


def check_qemus(image, folder):
    try:
        dirty = int(our_info(image.path, "vhdx")["dirty"])
    except Failed as e:
        # killed after it said that there is a log and before there was one; QEMU takes that for no log
        if "no valid sequence" in str(e) and subprocess.run(["qemu-img", "info", image.path], check=False,
                                                            capture_output=True).returncode == 0:
            return 0
        raise
    same_bytes(image, qemu_reads(image, folder, dirty))
    return 1 + 3 * dirty


def control(folder):
    """Plants a fault for each comparison to find."""
    image = QemuImage(random.Random(1), os.path.join(folder, "c.vhdx"), False)
    theirs = qemu_reads(image, folder, True)
    same_bytes(image, theirs)
    with open(theirs, "r+b") as f:
        f.seek(image.size // 2)
        byte = f.read(1)
        f.seek(image.size // 2)
        f.write(bytes([byte[0] ^ 1]))
    must_fail("bytes", same_bytes, image, theirs)
    for seed in range(100):
        image = make_chain(seed, os.path.join(folder, "c"))
        here = [i for i, s in image.states.items() if s == FULL]
        if here:
            break
    check_stored(image)
    image.states[here[0]] = NOT_PRESENT
    must_fail("stored extents", check_stored, image)
    image.states[here[0]] = FULL
    image.offsets[here[0]] += MIB
    if image.block == MIB:
        must_fail("places", check_stored, image)


def make_chain(seed, folder):
    rng = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    image = None
    for i in range(rng.choice([1, 1, 2, 2, 3, 4])):
        image = Image(rng, folder, f"m{i}.vhdx", image)
    return image


def check_seed(seed, folder):
    if seed % 3:
        return check_ours(make_chain(seed, folder), folder)
    return check_qemus(QemuImage(random.Random(seed), os.path.join(folder, "q.vhdx"), LONG and seed % 2 == 0), folder)


if __name__ == "__main__":
    sys.exit(lib_random.main(__doc__, check_seed, control, (40, 300), found="comparisons, with replayed logs counted more"))
