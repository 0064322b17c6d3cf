#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
"""QEMU writes at random into images while these are compacted, 200 times over (1,000 in check-long): after each round every
byte is what was written last.  Row G4.

One image is raw and one qcow2, both open in a qemu-io that lives as long as the test; a third, which nobody writes to, holds
the pieces that they are made of.  The writer goes from piece to piece and makes it equal to some piece of the third or
different from all, so that stretches become shareable, and stop to be, while they are being shared.  A VDI image that is open,
too, is one that would have to be rewritten: it is left alone."""

import json
import os
import random
import subprocess
import sys
import threading
import time

import lib_compact as lib
from lib_compact import BLOCK, KIB, LONG, MIB, fail

ROUNDS = 1000 if LONG else 200
PIECE = 64 * KIB
NR_PIECES = 48
PROMPT = b"qemu-io> "


class Content:
    """Pieces of random bytes, each in a file for qemu-io to write."""

    def __init__(self, folder, nr, rng):
        self.pieces, self.files = [], []
        for i in range(nr):
            self.pieces.append(rng.randbytes(PIECE))
            self.files.append(os.path.join(folder, f"piece{i}"))
            with open(self.files[-1], "wb") as f:
                f.write(self.pieces[-1])


class Live:
    """An image that is open in a qemu-io, and what must be in it."""

    def __init__(self, path, form, cache, content, rng):
        self.path, self.form, self.content, self.rng = path, form, content, rng
        self.model = bytearray(b"".join(content.pieces[:NR_PIECES]))
        self.nr_writes, self.stop, self.trouble = 0, False, None
        self.place = self.places()
        self.process = subprocess.Popen(["qemu-io", "-f", form, "-t", cache, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, preexec_fn=lib.die_with_parent)
        self.answer()

    def places(self):
        """Where in the file each piece lies; none moves, as all is allocated and there are no snapshots."""
        if self.form == "raw":
            return [i * PIECE for i in range(NR_PIECES)]
        at = {}
        for e in json.loads(lib.run("qemu-img", "map", "--output=json", "-f", self.form, self.path)):
            for i in range(e["start"], e["start"] + e["length"], PIECE):
                at[i // PIECE] = e["offset"] + i - e["start"]
        return [at[i] for i in range(NR_PIECES)]

    def answer(self):
        said = b""
        while not said.endswith(PROMPT):
            more = os.read(self.process.stdout.fileno(), 4096)
            if not more:
                raise EOFError(f"qemu-io ended: {said.decode('utf-8', 'replace')}")
            said += more
        said = said[:-len(PROMPT)].decode("utf-8", "replace").strip()
        if said:
            raise OSError(f"qemu-io: {said}")

    def say(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        self.answer()

    def write(self):
        """A whole piece, the beginning of one, or a few blocks that are like nothing else."""
        at = self.rng.randrange(NR_PIECES)
        what = self.rng.choice(["same", "same", "other", "part", "odd"])
        if what == "odd":
            byte, begin = self.rng.randrange(1, 256), self.rng.randrange(0, PIECE - BLOCK) // 512 * 512
            self.say(f"write -q -P {byte} {at * PIECE + begin} {BLOCK}")
            self.model[at * PIECE + begin:at * PIECE + begin + BLOCK] = bytes([byte]) * BLOCK
        else:
            nr = at if what == "same" else self.rng.randrange(len(self.content.pieces))
            length = PIECE if what != "part" else self.rng.randrange(1, PIECE // BLOCK) * BLOCK
            self.say(f"write -q -s {self.content.files[nr]} {at * PIECE} {length}")
            self.model[at * PIECE:at * PIECE + length] = self.content.pieces[nr][:length]
        self.nr_writes += 1

    def write_until_stopped(self):
        try:
            while not self.stop:
                self.write()
        except (OSError, EOFError) as e:
            self.trouble = e

    def write_pieces_anew(self, share):
        """Equal to the third image's again, and on blocks of their own."""
        for i in self.rng.sample(range(NR_PIECES), int(NR_PIECES * share)):
            self.say(f"write -q -s {self.content.files[i]} {i * PIECE} {PIECE}")
            self.model[i * PIECE:(i + 1) * PIECE] = self.content.pieces[i]
        self.say("flush")

    def wrong(self):
        """Pieces that differ from what was written, as a reader beside QEMU sees them."""
        out = []
        with open(self.path, "rb") as f:
            for i, at in enumerate(self.place):
                data, want = os.pread(f.fileno(), PIECE, at), self.model[i * PIECE:(i + 1) * PIECE]
                if data != want:
                    first = next(k for k in range(PIECE) if k >= len(data) or data[k] != want[k])
                    out.append(f"{os.path.basename(self.path)}: byte {i * PIECE + first} differs")
        return out

    def close(self):
        self.process.stdin.write(b"quit\n")
        self.process.stdin.close()
        self.process.wait()


def make_images(folder, content, tmp):
    """still.raw, and live ones with the same bytes."""
    still = os.path.join(folder, "still.raw")
    with open(still, "wb") as f:
        f.write(b"".join(content.pieces))
    begin = os.path.join(tmp, "begin.raw")
    with open(begin, "wb") as f:
        f.write(b"".join(content.pieces[:NR_PIECES]))
    lib.run("cp", "--reflink=never", begin, os.path.join(folder, "live.raw"))
    lib.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", begin, os.path.join(folder, "live.qcow2"))
    lib.run("qemu-img", "convert", "-f", "raw", "-O", "vdi", begin, os.path.join(folder, "held.vdi"))
    return still


def one_round(fs, catalog, lives, more):
    """What was shared, and how many writes there were meanwhile."""
    before = [live.nr_writes for live in lives]
    for live in lives:
        live.stop = False
    writers = [threading.Thread(target=live.write_until_stopped) for live in lives]
    for w in writers:
        w.start()
    try:
        # 1: some image is in use, or changed while it was read
        plan = lib.compact(fs.path, catalog, "--apply", *more, want=(0, 1))
    finally:
        for live in lives:
            live.stop = True
        for w in writers:
            w.join()
    for live in lives:
        if live.trouble:
            fail(f"a write failed: {live.trouble}")
    shared = sum(s["shared"] for s in plan.steps)
    rewritten = [plan.images[s["image"]]["path"] for s in plan.steps
                 if s["method"] in ("relayout", "rebuild") and s["state"] != "skipped"]
    if rewritten:
        fail(f"{rewritten} was rewritten while it is in use")
    return shared, [live.nr_writes - nr for live, nr in zip(lives, before)]


def control(live):
    """A byte that changes behind the writer's back is seen."""
    at = live.place[NR_PIECES // 2] + 1234
    for _ in range(2):
        with open(live.path, "r+b") as f:
            byte = os.pread(f.fileno(), 1, at)[0] ^ 1
            os.pwrite(f.fileno(), bytes([byte]), at)
        if byte != live.model[NR_PIECES // 2 * PIECE + 1234] and not live.wrong():
            fail(f"{live.path}: a byte was changed and it is not seen")
    if live.wrong():
        fail(f"{live.path}: wrong from the beginning: {live.wrong()}")


def rounds(fs, tmp, lives, rng):
    shared_in = writes_in = shared = writes = 0
    began = time.monotonic()
    for i in range(ROUNDS):
        for live in lives:
            live.write_pieces_anew(rng.random())
        more = ["--min-run", rng.choice(["4K", "16K"])]
        if i % 2:
            more.append("--no-scan")  # what the catalog knows is old: the kernel alone sees what is equal
        now, written = one_round(fs, os.path.join(tmp, "catalog"), lives, more)
        wrong = [w for live in lives for w in live.wrong()]
        if wrong:
            fail(f"round {i}: {len(wrong)} pieces are not what was written: {wrong[:5]}")
        shared_in, shared = shared_in + (now > 0), shared + now
        writes_in, writes = writes_in + (min(written) > 0), writes + sum(written)
    print(f"{fs.kind}: {ROUNDS} rounds in {time.monotonic() - began:.1f} s, {shared / MIB:.1f} MiB shared in {shared_in} of them, "
          f"{writes} writes meanwhile in {writes_in}", flush=True)
    if shared_in < ROUNDS * 0.5 or writes_in < ROUNDS * 0.9:
        fail("too little was shared or written at the same time to prove anything")


def on(kind, tmp, rng):
    content = Content(tmp, NR_PIECES * 2, rng)
    with lib.FileSystem(kind, tmp, 400) as fs:
        still = make_images(fs.path, content, tmp)
        held = subprocess.Popen(["qemu-io", "-f", "vdi", os.path.join(fs.path, "held.vdi")], stdin=subprocess.PIPE,
                                stdout=subprocess.DEVNULL, preexec_fn=lib.die_with_parent)
        ident = os.stat(os.path.join(fs.path, "held.vdi")).st_ino
        direct = ["none", "writeback"] if LONG and rng.random() < 0.5 else ["writeback", "none"]
        lives = [Live(os.path.join(fs.path, f"live.{e}"), e, c, content, rng) for e, c in zip(("raw", "qcow2"), direct)]
        try:
            for live in lives:
                control(live)
            rounds(fs, tmp, lives, rng)
        finally:
            for live in lives:
                live.close()
            held.communicate(b"quit\n")
        fs.again()
        for live in lives:
            with open(lib.guest_raw(live.path, os.path.join(tmp, "end.raw")), "rb") as f:
                if f.read() != live.model:
                    fail(f"{live.path} is not what was written once QEMU had closed it")
        with open(still, "rb") as f:
            if f.read() != b"".join(content.pieces):
                fail("the image that nobody wrote to changed")
        if os.stat(os.path.join(fs.path, "held.vdi")).st_ino != ident:
            fail("an image in use was replaced")


def main():
    lib.exit_on_signals()
    lib.require("qemu-img", "qemu-io", "mkfs.xfs")
    seed = int(os.environ.get("SEED") or time.time())
    print(f"SEED={seed}", flush=True)
    on("xfs", lib.scratch("compact_live"), random.Random(seed))


if __name__ == "__main__":
    sys.exit(main())
