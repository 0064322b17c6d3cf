#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Clones and versions of an image in a pool, under qemu-img and qemu-io: what each says is compared with a raw model, after every
step.

  clones      say what the image says; many at once; writes to one are seen by nobody else
  snapshot    the image says the same, on a fresh overlay; a second disk of a set without changes is not sealed
  rollback    the image says what it said, and the version that is kept what it said before
  folding     what was sealed enters the pool; images are made to stand on a view; nothing says anything else
  diff        exactly the blocks that were written
  moves       an image that was moved, and is adopted
  in use      an image that QEMU has open is left alone, and its holder named
  odd         what was sealed has a length that is no multiple of a sector
  latecomer   somebody writes to what was sealed: seen at the path, and the version is told as changed
  copied      a store whose snapshot, rollback or clone was killed at any rename, and that was copied then
  random      many steps, one seed

Usage: pool_clones.py [--seed S] [--steps N]"""

import argparse
import os
import random
import shutil
import subprocess
import sys

from lib_immutable import remove_tree, temporary_directory

KIB, MIB = 1 << 10, 1 << 20
SIZE = 24 * MIB
BUILD = os.path.abspath(os.environ.get("BUILD") or "build")
POOLTOOL, TOOL = f"{BUILD}/tests/interop/pooltool", f"{BUILD}/tests/interop/versiontool"
DEDUPSCAN = f"{BUILD}/dedupscan"


class Failed(Exception):
    pass


def run(*command, fails=False):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=300)
    said = done.stdout.decode("utf-8", "replace")
    if (done.returncode != 0) != fails:
        raise Failed(f"{' '.join(command)}: exit status {done.returncode}\n{said}")
    return said


class Store:
    """A pool with members, and what each should say."""

    def __init__(self, top, rng):
        self.top, self.rng = top, rng
        self.pool = f"{top}/.dedupscan-pool"
        self.models = {}  # of members, by path
        self.versions = {}  # by path and label
        run(POOLTOOL, "create", self.pool)

    def tool(self, verb, *args, fails=False):
        return run(TOOL, verb, self.pool, *args, fails=fails)

    def add(self, name):
        """A new disk, which enters the pool."""
        disk = bytearray(SIZE)
        for _ in range(20):
            at = self.rng.randrange(SIZE // 4096) * 4096
            disk[at:at + 64 * KIB] = self.rng.randbytes(64 * KIB)
        disk = disk[:SIZE]
        raw, path = f"{self.top}/{name}.raw", f"{self.top}/{name}.qcow2"
        with open(raw, "wb") as f:
            f.write(disk)
        said = run(POOLTOOL, "import", self.pool, raw)
        root = said.split('"root": "')[1][:64]
        view = run(POOLTOOL, "view", self.pool, root, str(SIZE), "12").strip()
        run(POOLTOOL, "overlay", self.pool, view, path)
        os.unlink(raw)
        self.tool("member", path)
        self.models[path] = disk
        return path

    def write(self, path, at=None, length=None):
        at = self.rng.randrange(SIZE // 512) * 512 if at is None else at
        length = min(self.rng.choice((512, 4096, 70 * KIB, MIB)) if length is None else length, SIZE - at)
        byte = self.rng.randrange(1, 256)
        run("qemu-io", "-f", "qcow2", "-c", f"write -P {byte} {at} {length}", path)
        self.models[path][at:at + length] = bytes([byte]) * length

    def says(self, path):
        raw = f"{self.top}/said.raw"
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
        with open(raw, "rb") as f:
            return f.read()

    def check(self):
        for path, model in self.models.items():
            if self.says(path) != model:
                raise Failed(f"{path} says something else")
            run("qemu-img", "check", "-f", "qcow2", path)

    def depth(self, path):
        return run("qemu-img", "info", "--backing-chain", path).count("image: ")

    def snapshot(self, label, *paths):
        said = self.tool("snapshot", label, *paths)
        for path in paths:
            self.versions[path, label] = bytes(self.models[path])
        return said

    def rollback(self, path, label, *more):
        kept = self.tool("rollback", path, label, *more).strip()
        if kept:
            self.versions[path, kept] = bytes(self.models[path])
        self.models[path] = bytearray(self.versions[path, label])
        return kept

    def clone(self, path, label, new, *count):
        said = self.tool("clone", path, label, new, *count)
        model = self.models[path] if label == "-" else self.versions[path, label]
        for i in range(int(count[0]) if count else 1):
            self.models[new % (i + 1) if count else new] = bytearray(model)
        return said

    def fold(self):
        self.tool("fold")
        said = self.tool("repoint", self.top)
        if "left " in said:
            raise Failed(said)

    def check_versions(self):
        """Each version, by a clone of it."""
        for (path, label), model in self.versions.items():
            new = f"{self.top}/of-version.qcow2"
            self.tool("clone", path, label, new)
            if self.says(new) != model:
                raise Failed(f"{path}@{label} says something else")
            os.unlink(new)
            expect(self.tool("forget"), f"gone {new}")


def expect(said, words):
    if words not in said:
        raise Failed(f"'{words}' was expected: {said}")


def clones(s):
    a = s.add("a")
    expect(s.clone(a, "-", f"{s.top}/b.qcow2"), "1 clones, not sealed")
    s.write(f"{s.top}/b.qcow2")
    expect(s.clone(a, "-", f"{s.top}/c%02d.qcow2", "20"), "20 clones, not sealed")
    s.write(f"{s.top}/c07.qcow2")
    s.write(a)
    s.check()
    expect(s.clone(a, "-", f"{s.top}/d.qcow2"), "1 clones, sealed")
    s.write(f"{s.top}/d.qcow2")
    s.write(a)
    s.check()
    expect(s.tool("clone", a, "-", f"{s.pool}/views/x.qcow2", fails=True), "lies in the pool itself")
    before = sorted(os.listdir(s.top))
    expect(s.tool("clone", a, "-", f"{s.top}/d.qcow2", fails=True), "is there already")
    with open(f"{s.top}/e3.qcow2", "w", encoding="ascii") as f:
        f.write("mine")
    expect(s.tool("clone", f"{s.top}/b.qcow2", "-", f"{s.top}/e%d.qcow2", "5", fails=True), "e3.qcow2' is there already")
    os.unlink(f"{s.top}/e3.qcow2")
    if sorted(os.listdir(s.top)) != before:
        raise Failed("clones that failed left something")
    s.check()


def snapshots(s):
    a, b = s.add("a"), s.add("b")
    expect(s.snapshot("nothing", a, b), "0 sealed, 2 unchanged")
    s.write(a)
    with open(f"{s.top}/vm.xml", "w", encoding="ascii") as f:
        f.write("<domain/>\n")
    expect(s.tool("snapshot", "with-xml", b, "--file", f"{s.top}/vm.xml"), "0 sealed, 1 unchanged")
    expect(s.snapshot("one", a, b), "1 sealed, 1 unchanged")
    s.check()
    s.write(a)
    s.write(b)
    os.truncate(b, os.path.getsize(b) + 100)
    s.check()
    expect(s.tool("snapshot", "one", a, fails=True), "there is a version 'one'")
    expect(s.tool("snapshot", "two", a, fails=True), "waits to be folded into the pool")
    if s.depth(a) != 4:
        raise Failed(f"the chain is {s.depth(a)} deep")
    s.check_versions()
    s.fold()
    s.check()
    s.check_versions()
    if s.depth(a) != 3:
        raise Failed(f"the chain is {s.depth(a)} deep")
    expect(s.snapshot("two", a, b), "2 sealed, 0 unchanged")
    s.write(a)
    s.check()
    kept = s.rollback(a, "one")
    s.check()
    s.write(a)
    s.rollback(a, "two", "--discard")
    s.check()
    s.rollback(a, kept)
    s.check()
    s.check_versions()
    s.fold()
    s.check()
    s.check_versions()
    said = s.tool("list", a)
    for label in ("nothing", "one", "two", kept):
        expect(said, label + " folded")
    s.tool("delete", a, "one")
    expect(s.tool("delete", a, "one", fails=True), "there is no version 'one'")
    del s.versions[a, "one"], s.versions[b, "one"]
    s.check()
    s.check_versions()


def differences(s):
    a = s.add("a")
    s.snapshot("old", a)
    s.write(a, 5 * MIB, 4096)
    s.write(a, 5 * MIB + 8192, 512)
    s.write(a, 13 * MIB + 4096, 12 * KIB)
    s.snapshot("new", a)
    expect(s.tool("diff", a, "old", a, "new", fails=True), "waits to be folded")
    s.fold()
    said = s.tool("diff", a, "old", a, "new")
    if said != f"{5 * MIB} 4096\n{5 * MIB + 8192} 4096\n{13 * MIB + 4096} {12 * KIB}\n":
        raise Failed(said)
    if s.tool("diff", a, "new", a, "-") != "":
        raise Failed("the image differs from its version")


def moves(s):
    """An image that was moved is adopted, and its versions with it; a clone may take the old path."""
    a, b = s.add("a"), f"{s.top}/b.qcow2"
    s.write(a)
    s.snapshot("v", a)
    os.rename(a, b)
    s.models[b] = s.models.pop(a)
    s.versions[b, "v"] = s.versions.pop((a, "v"))
    expect(s.tool("adopt", b), "1")
    expect(s.tool("adopt", b), "0")
    if s.tool("forget") or a in s.tool("list"):
        raise Failed(f"{a} is known still")
    s.check()
    s.check_versions()
    s.write(b)
    s.fold()
    s.check()
    s.clone(b, "v", a)
    os.unlink(a)
    s.clone(b, "v", a)  # in the place of one that is gone
    s.check()
    if s.tool("list").count(f" {a} ") != 1:
        raise Failed(f"{a} is a member more than once")


def in_use(s):
    a = s.add("a")
    s.write(a)
    qemu = subprocess.Popen(["qemu-io", "-f", "qcow2", a], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        qemu.stdin.write(b"write -P 7 0 512\n")
        qemu.stdin.flush()
        qemu.stdout.readline()
        for verb, args in (("snapshot", ("v", a)), ("clone", (a, "-", f"{s.top}/n.qcow2"))):
            expect(s.tool(verb, *args, fails=True), f"in use by pid {qemu.pid} (qemu-io)")
    finally:
        qemu.stdin.close()
        qemu.wait()
    s.models[a][:512] = b"\7" * 512
    s.check()
    s.snapshot("v", a)
    qemu = subprocess.Popen(["qemu-io", "-f", "qcow2", a], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        qemu.stdin.write(b"write -P 8 0 512\n")
        qemu.stdin.flush()
        qemu.stdout.readline()
        expect(s.tool("fold"), "folded")  # beside the guest
        expect(s.tool("repoint", s.top), "left ")
        s.clone(a, "v", f"{s.top}/n.qcow2")
    finally:
        qemu.stdin.close()
        qemu.wait()
    s.models[a][:512] = b"\x08" * 512
    s.check()
    s.fold()
    s.check()


def odd(s):
    """As qemu-img snapshot -d leaves it, for one."""
    a = s.add("a")
    s.write(a)
    for more in (1, 100, 511, 512, 513):
        os.truncate(a, os.path.getsize(a) // 512 * 512 + more)
        s.snapshot(f"v{more}", a)
        s.check()
        expect(run(DEDUPSCAN, "info", a), f"{s.pool}/views/")  # it sees through what was sealed
        sealed, = (f"{s.pool}/sealed/{n}" for n in os.listdir(f"{s.pool}/sealed") if n in run("qemu-img", "info", a))
        size = (os.path.getsize(sealed) + 511) // 512 * 512  # as earlier programs named it
        run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b",
            f'json:{{"file":{{"driver":"raw","read-only":true,"offset":0,"size":{size},'
            f'"file":{{"driver":"file","filename":"{sealed}"}}}}}}', a)
        expect(run(DEDUPSCAN, "info", a), f"{s.pool}/views/")
        s.check()
        s.write(a)
        s.fold()
    s.check()
    s.check_versions()


def latecomer(s):
    """Found before it was sealed, and opened afterwards."""
    a, b = s.add("a"), s.add("b")
    s.write(a)
    s.write(b)
    found = os.open(a, os.O_PATH)
    s.snapshot("v", a)
    s.snapshot("other", b)
    expect(s.tool("list", a), "v sealed")
    with open(f"/proc/self/fd/{found}", "r+b") as held:
        sealed = os.readlink(f"/proc/self/fd/{held.fileno()}")
        expect(sealed, "/sealed/")
        run("qemu-io", "-f", "qcow2", "-c", "write -P 9 0 512", sealed)
        s.models[a][:512] = b"\x09" * 512
        expect(s.tool("fold"), "had opened it before it was sealed")
    os.close(found)
    s.check()
    expect(s.tool("list", a), "v changed")
    expect(s.tool("list", b), "other folded")
    for verb, args in (("clone", (a, "v", f"{s.top}/n.qcow2")), ("rollback", (a, "v", "--discard"))):
        if verb == "rollback":
            s.write(a)
        expect(s.tool(verb, *args, fails=True), "somebody wrote to what was sealed")
    model = bytes(s.models[a])
    s.clone(b, "other", f"{s.top}/nb.qcow2")
    s.fold()
    s.check()
    expect(s.tool("list", a), "v.changed folded")
    del s.versions[a, "v"]
    s.tool("clone", a, "v.changed", f"{s.top}/n.qcow2")
    if s.says(f"{s.top}/n.qcow2")[:512] != b"\x09" * 512 or s.says(a) != model:
        raise Failed("the changed version says something else")


def copy_store(s):
    """Another one in its place, as from a backup: all inode numbers are others."""
    remove_tree(s.top + ".was", ignore_errors=True)
    os.rename(s.top, s.top + ".was")
    run("cp", "-a", "--sparse=always", s.top + ".was", s.top)


def killed_and_copied(s, verb, *args):
    """Killed at each rename; what the image says then must be one of both.  Yields which it was; the last one is done."""
    store, nr = s.top + ".store", 0
    for call in ("renameat", "renameat2"):
        for n in range(1, 100):
            remove_tree(store, ignore_errors=True)
            run("cp", "-a", "--sparse=always", s.top, store)
            done = subprocess.run(["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e",
                                   f"inject={call}:signal=KILL:when={n}", TOOL, verb, s.pool, *args],
                                  capture_output=True, check=False, timeout=300)
            if done.returncode == 0:
                break
            nr += 1
            copy_store(s)
            s.tool("recover")
            yield f"{verb} killed at {call} {n}, and copied"
            remove_tree(s.top)
            os.rename(store, s.top)
        if call == "renameat":
            remove_tree(s.top)
            os.rename(store, s.top)
    if nr < 2:
        raise Failed(f"{verb}: only {nr} renames")
    remove_tree(store)
    remove_tree(s.top + ".was")


def copied(s):
    if not shutil.which("strace"):
        return
    a, new = s.add("a"), f"{s.top}/n.qcow2"
    s.write(a)
    at_v = bytes(s.models[a])
    for what in killed_and_copied(s, "snapshot", "v", a):
        if s.says(a) != at_v:
            raise Failed(f"{what}: the image says something else")
        if "v sealed" in s.tool("list", a):
            s.tool("clone", a, "v", new)
            if s.says(new) != at_v:
                raise Failed(f"{what}: the version says something else")
    s.write(a)
    now = bytes(s.models[a])
    for what in killed_and_copied(s, "clone", a, "v", new):
        if s.says(a) != now or (os.path.exists(new) and s.says(new) != at_v):
            raise Failed(f"{what}: image or clone says something else")
    for what in killed_and_copied(s, "rollback", a, "v"):
        if s.says(a) != (at_v if "before-rollback" in s.tool("list", a) else now):
            raise Failed(f"{what}: the image says something else")


def at_random(s, steps):
    a = s.add("a")
    for i in range(steps):
        path = s.rng.choice(sorted(s.models))
        step = s.rng.choice(("write", "write", "snapshot", "rollback", "clone", "fold", "clone version"))
        try:
            if step == "write":
                s.write(path)
            elif step == "snapshot":
                s.snapshot(f"v{i}", path)
            elif step == "rollback":
                labels = sorted(v for p, v in s.versions if p == path)
                if labels:
                    s.rollback(path, s.rng.choice(labels), *s.rng.choice(([], ["--discard"])))
            elif step == "clone":
                s.clone(path, "-", f"{s.top}/r{i}.qcow2")
            elif step == "clone version" and s.versions:
                of, label = s.rng.choice(sorted(s.versions))
                s.clone(of, label, f"{s.top}/r{i}.qcow2")
            elif step == "fold":
                s.fold()
        except Failed as e:
            if "waits to be folded" not in str(e):
                raise Failed(f"step {i}, {step} {path}: {e}") from e
            s.fold()
        try:
            s.check()
        except Failed as e:
            raise Failed(f"step {i}, {step} {path}: {e}") from e
    s.check_versions()
    s.fold()
    s.check()
    s.check_versions()
    if s.depth(a) > 4:
        raise Failed("a chain is too deep")


def main():
    o = argparse.ArgumentParser()
    o.add_argument("--seed", type=int, default=1)
    o.add_argument("--steps", type=int, default=200 if os.environ.get("LONG") else 25)
    o = o.parse_args()
    for needed in ("qemu-img", "qemu-io"):
        if not shutil.which(needed):
            print(f"needs {needed}")
            sys.exit(77)
    for test in (clones, snapshots, differences, moves, in_use, odd, latecomer, copied, lambda s: at_random(s, o.steps)):
        rng = random.Random(o.seed)
        with temporary_directory(dir=os.environ.get("TMP")) as top:
            try:
                test(Store(os.path.realpath(top), rng))
            except Failed as e:
                print(f"{getattr(test, '__name__', 'at_random')}: {e}", file=sys.stderr)
                sys.exit(1)
    print("clones, snapshots, rollbacks and folding: all as their models")


main()
