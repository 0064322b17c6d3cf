#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 400
"""A pool that is not where it was: `dedupscan repoint`, judged by what QEMU reads.

  moved        the whole store; until then everything fails loudly, says what to do, and nothing is collected
  pool alone   only the pool was moved, and has another name
  copied       a copy of the whole store becomes one of its own; the original is not touched, and can go
  linked       a link at the old path leads to where the store is
  guards       "read-only" is missing in the name of a backing file, or it is a plain name, or the stub was cut out
  renamed      an image has another path: its versions are found there, before anything is noted, and afterwards
  in use       what QEMU has open is left, and its process named
  repaired     `pool repair` says what it does not do

Usage: pool_moved.py [TEST]..."""

import json
import os
import random
import shutil
import subprocess
import sys

import lib_compact as lib
from lib_compact import DEDUPSCAN, KIB, MIB, POOL, fail
from lib_immutable import remove_tree

SIZE = 6 * MIB


def tool(*args, status=0):
    """What a command says, and that it ends so."""
    done = subprocess.run([DEDUPSCAN, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=120)
    said = done.stdout.decode("utf-8", "replace")
    if done.returncode != status:
        fail(f"dedupscan {' '.join(args)}: status {done.returncode}, not {status}: {said}")
    return said


def expect(said, *words):
    for word in words:
        if word not in said:
            fail(f"'{word}' was expected: {said}")
    return said


def guest(path):
    """None: QEMU does not open it."""
    raw = path + ".guest"
    done = subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw], capture_output=True, check=False,
                          timeout=120)
    digest = lib.digest_of(raw) if done.returncode == 0 else None
    if os.path.exists(raw):
        os.unlink(raw)
    return digest


def backing(path):
    return json.loads(lib.run("qemu-img", "info", "-U", "--output=json", path)).get("backing-filename", "")


def header_name(path):
    """The backing file's name, as it stands in the header."""
    with open(path, "rb") as f:
        head = f.read(20)
        f.seek(int.from_bytes(head[8:16], "big"))
        return f.read(int.from_bytes(head[16:20], "big")).decode()


def write(path, byte, at, length=64 * KIB):
    lib.run("qemu-io", "-f", "qcow2", "-c", f"write -P {byte} {at} {length}", path)


class Store:
    """a: a version that waits to be folded in, and writes; b: a version that is in the pool; c, d: one is a clone of the other."""

    def __init__(self, tmp):
        self.tmp, self.path = os.path.realpath(tmp), os.path.join(os.path.realpath(tmp), "vm", "store")
        self.kept, self.catalog = os.path.join(self.tmp, "kept"), os.path.join(self.tmp, "catalog")
        os.makedirs(self.path)
        rng = random.Random(5)
        base = rng.randbytes(2 * MIB)
        for name in "abc":
            raw = os.path.join(self.tmp, "raw")
            with open(raw, "wb") as f:
                f.write(base)
                f.write(rng.randbytes(256 * KIB))
                f.truncate(SIZE)
            lib.run("qemu-img", "convert", "-O", "qcow2", raw, self.image(name))
            os.unlink(raw)
        self.compact(self.path)
        write(self.image("b"), 3, 3 * MIB)
        tool("snapshot", "v1", self.image("a"), self.image("b"))
        self.compact(self.path)
        write(self.image("a"), 4, 4 * MIB)
        tool("snapshot", "v2", self.image("a"))
        self.waiting = guest(self.image("a"))
        write(self.image("a"), 5, 5 * MIB)
        tool("clone", self.image("c"), self.image("d"))
        for _ in range(2):
            tool("pool", "collect", self.path)
        self.models = {name: guest(self.image(name)) for name in "abcd"}
        self.versions = {v: self.restore(self.path, v) for v in ("a@v1", "b@v1")}
        if None in self.models.values() or len(set(self.models.values())) != 3:
            fail(f"the store is not as it should be: {self.models}")
        self.stubs = len(os.listdir(os.path.join(self.path, POOL, "views")))
        lib.run("cp", "-a", "--sparse=always", self.path, self.kept)

    def image(self, name, where=None):
        return os.path.join(where or self.path, name + ".qcow2")

    def again(self):
        for name in os.listdir(self.tmp):
            if name not in ("kept",):
                path = os.path.join(self.tmp, name)
                remove_tree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        os.makedirs(os.path.dirname(self.path))
        lib.run("cp", "-a", "--sparse=always", self.kept, self.path)

    def compact(self, where, *more):
        tool("compact", "--no-idle", "--catalog", self.catalog, "--keep-originals", "0", "--method", "pool", "--apply", *more,
             where)

    def restore(self, where, version, *more):
        out = os.path.join(self.tmp, "restored.raw")
        name, label = version.split("@")
        tool("restore", *more, f"{self.image(name, where)}@{label}", out)
        digest = lib.digest_of(out)
        os.unlink(out)
        return digest

    def check(self, where, *more):
        """All is as it should be, at `where`."""
        for name, model in self.models.items():
            if guest(self.image(name, where)) != model:
                fail(f"{name} says something else")
            lib.run("qemu-img", "check", "-q", "-f", "qcow2", self.image(name, where))
            if '"read-only":true' not in header_name(self.image(name, where)):
                fail(f"{name} has lost its guard: {header_name(self.image(name, where))}")
        for version, digest in self.versions.items():
            if self.restore(where, version, *more) != digest:
                fail(f"{version} says something else")
        expect(tool("pool", "check", "--read-data", *(more or (where,))), ": 0 damages")
        for name in "ab":
            rows = expect(tool("list", *more, self.image(name, where)), self.image(name, where) + "@v1")
            if "(gone)" in rows:
                fail(rows)
        rows = expect(tool("list", *(more or (where,))), "a.qcow2@v2")
        if "changed" in rows:
            fail(f"somebody is said to have written to what was sealed: {rows}")
        if "(gone)" in rows or len([r for r in rows.splitlines() if "@" not in r]) != 5:
            fail(f"not each image is a member once: {rows}")

    def work_on(self, where, *more):
        """Commands go on from there."""
        self.compact(where, *more)
        if "sealed" in tool("list", *more, self.image("a", where)):
            fail("what was sealed is not folded in")
        self.check(where, *more)
        if self.restore(where, "a@v2", *more) != self.waiting:
            fail("what waited to be folded in says something else")
        tool("rollback", *more, self.image("a", where) + "@v1")
        if guest(self.image("a", where)) != self.versions["a@v1"]:
            fail("it was rolled back to something else")


def files_of(where):
    paths = [os.path.join(at, n) for at, _, names in os.walk(where) for n in names]
    return {p: (os.lstat(p).st_mtime_ns, os.lstat(p).st_ino) for p in paths}


def moved(s):
    to = os.path.join(s.tmp, "another", "place")
    os.makedirs(os.path.dirname(to))
    os.rename(s.path, to)
    a = s.image("a", to)
    if guest(a) is not None:
        fail("QEMU opens an image without its pool")
    for said in (tool("info", a), tool("scan", "--no-idle", "--catalog", s.catalog, to),
                 tool("report", "--no-idle", "--no-scan", "--catalog", s.catalog, to)):
        expect(said, "dedupscan repoint")
    for command in (("list", a), ("clone", a, s.image("x", to)), ("snapshot", "v3", a),
                    ("restore", a + "@v1", os.path.join(s.tmp, "x.raw"))):
        expect(tool(*command, status=3), "names its pool by another path", "dedupscan repoint mends that")
    expect(tool("pool", "check", to, status=1), "names the pool by another path", "dedupscan repoint mends that")
    for _ in range(3):
        expect(tool("pool", "collect", to), "0 views removed, 0 go with the next collection")
    before = files_of(to)
    said = expect(tool("repoint", "--dry-run", to),
                  f"would be repointed: 4 images, 1 sealed overlays and {s.stubs} stubs; 0 images noted, 0 left")
    expect(said, f"'{a}' named the pool at '{s.path}/{POOL}'")
    if "new to the pool" in said:
        fail(f"a dry run takes images for new ones: {said}")
    if files_of(to) != before:
        fail(f"a dry run changed something: {[p for p in before if files_of(to).get(p) != before[p]]}")
    said = expect(tool("repoint", to), f"repointed: 4 images, 1 sealed overlays and {s.stubs} stubs; 0 images noted, 0 left")
    expect(said, f"'{a}' named the pool at '{s.path}/{POOL}'")
    s.check(to)
    before = files_of(to)
    expect(tool("repoint", to), "repointed: 0 images, 0 sealed overlays and 0 stubs; 0 images noted, 0 left")
    if {p: v for p, v in files_of(to).items() if "/index/" not in p} != {p: v for p, v in before.items() if "/index/" not in p}:
        fail("the second time changed something")
    s.work_on(to)


def moved_and_forgotten(s):
    """Members were dropped before it: their images keep what they stand on."""
    to = os.path.join(s.tmp, "elsewhere")
    os.rename(s.path, to)
    expect(tool("pool", "collect", "--drop-missing", to, status=3), f"the pool was at '{s.path}/{POOL}'",
           "has to come before --drop-missing")
    tool("pool", "repair", to)
    for _ in range(3):
        expect(tool("pool", "collect", "--drop-missing", to), "0 views removed, 0 go with the next collection")
    expect(tool("repoint", to), "4 images noted, 0 left")
    for name, model in s.models.items():
        if guest(s.image(name, to)) != model:
            fail(f"{name} says something else")


def pool_alone(s):
    pool = os.path.join(s.tmp, "pools", "first")
    os.makedirs(os.path.dirname(pool))
    os.rename(os.path.join(s.path, POOL), pool)
    expect(tool("repoint", s.path, status=2), "names no pool")
    expect(tool("repoint", "--pool", pool, s.path),
           f"repointed: 4 images, 1 sealed overlays and {s.stubs} stubs; 0 images noted, 0 left")
    s.check(s.path, "--pool", pool)
    s.work_on(s.path, "--pool", pool)


def copied(s):
    copy = os.path.join(s.tmp, "copy")
    lib.run("cp", "-a", "--sparse=always", s.path, copy)
    before = files_of(s.path)
    expect(tool("repoint", copy), f"repointed: 4 images, 1 sealed overlays and {s.stubs} stubs; 0 images noted, 0 left")
    write(s.image("c", copy), 9, 0)
    s.models["c"], was = guest(s.image("c", copy)), s.models["c"]
    if files_of(s.path) != before:
        fail("the original was touched")
    s.check(copy)
    s.models["c"] = was
    s.check(s.path)
    remove_tree(s.path)
    s.models["c"] = guest(s.image("c", copy))
    s.check(copy)
    s.work_on(copy)
    s.models["c"] = was


def linked(s):
    to = os.path.join(s.tmp, "real")
    os.rename(s.path, to)
    os.symlink(to, s.path)
    if guest(s.image("a")) != s.models["a"]:
        fail("QEMU does not follow a link")
    expect(tool("repoint", s.path), "repointed: 4 images,")
    os.unlink(s.path)
    s.check(to)


def strip(name):
    return name.replace('"read-only":true,', "")


def guards(s):
    a, b, c, d = (s.image(name) for name in "abcd")
    for path in (a, b):
        lib.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", strip(header_name(path)), path)
    stub = json.loads(header_name(c)[5:])["file"]["file"]["filename"]
    lib.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", stub, c)
    lib.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", header_name(stub), d)  # as a block job does
    if any('"read-only":true' in header_name(p) for p in (a, b, c)) or "views" in header_name(d):
        fail("nothing was stripped")
    for name, model in s.models.items():
        if guest(s.image(name)) != model:
            fail(f"{name} is not what it was without its guard")
    expect(tool("repoint", a, s.path), "repointed: 4 images, 0 sealed overlays and 0 stubs")
    s.check(s.path)
    if '"size":0,' in header_name(c) or stub not in header_name(d):
        fail(f"{header_name(c)}, {header_name(d)}")
    done = subprocess.run(["qemu-img", "commit", "-q", c], capture_output=True, check=False)
    if done.returncode == 0 or b"read-only" not in done.stderr:
        fail(f"a commit: {done.stderr}")
    s.check(s.path)


def renamed(s):
    a, x = s.image("a"), os.path.join(s.path, "sub", "x.qcow2")
    os.makedirs(os.path.dirname(x))
    os.rename(a, x)
    expect(tool("list", x), x + "@v1", x + "@v2")  # nothing is noted yet
    if "(gone)" in tool("list", x):
        fail("it is said to be gone")
    out = os.path.join(s.tmp, "out.raw")
    tool("restore", x + "@v1", out)
    if lib.digest_of(out) != s.versions["a@v1"]:
        fail("its version says something else")
    expect(tool("repoint", x), f"'{x}' was '{a}'", "1 images noted")
    expect(tool("list", x), x + "@v1", x + "@v2")
    if a in tool("list", s.path):
        fail("the old path is known")
    if guest(x) != s.models["a"]:
        fail("it says something else")
    b, y = s.image("b"), s.image("y")
    os.rename(b, y)
    tool("rollback", y + "@v1")  # a command that changes it notes it by itself
    if guest(y) != s.versions["b@v1"]:
        fail("it was rolled back to something else")
    expect(tool("list", y), y + "@v1")
    # a clone in the place of one that is gone: one member; another one's place: both, of which one is gone
    d = s.image("d")
    for _ in range(3):
        os.unlink(d)
        tool("clone", s.image("c"), d)
    rows = [r for r in tool("list", s.path).splitlines() if r.endswith("d.qcow2") or "d.qcow2 (gone)" in r]
    if len(rows) != 1 or "gone" in rows[0]:
        fail(f"members at the path of a clone: {rows}")
    os.rename(d, s.image("e"))
    tool("clone", y, d)
    expect(tool("list", s.path), "d.qcow2 (gone)")
    expect(tool("repoint", s.image("e")), f"'{s.image('e')}' ")
    if guest(s.image("e")) != s.models["d"] or guest(d) != s.versions["b@v1"]:
        fail("clones say something else")
    expect(tool("pool", "check", s.path), ": 0 damages")


def in_use(s):
    to = os.path.join(s.tmp, "used")
    os.rename(s.path, to)
    os.symlink(to, s.path)  # for QEMU to find the pool
    a = s.image("a", to)
    qemu = subprocess.Popen(["qemu-io", "-f", "qcow2", a], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        qemu.stdin.write(b"write -P 7 0 512\n")
        qemu.stdin.flush()
        qemu.stdout.readline()
        said = expect(tool("repoint", to, status=1), "2 left as they are", "repointed: 3 images, 0 sealed overlays")
        if said.count(f"in use by pid {qemu.pid} (qemu-io)") != 2:  # the image, and the sealed overlay below
            fail(said)
        if f"{s.path}/{POOL}/" not in header_name(a):
            fail("the image was changed")
        expect(tool("repoint", a, status=1), f"in use by pid {qemu.pid} (qemu-io)")
    finally:
        qemu.stdin.close()
        qemu.wait()
    s.models["a"] = guest(a)
    expect(tool("repoint", to), "repointed: 1 images, 1 sealed overlays and 0 stubs")
    os.unlink(s.path)
    s.check(to)


def repaired(s):
    to = os.path.join(s.tmp, "mended")
    os.rename(s.path, to)
    said = expect(tool("pool", "repair", to), f"the pool was at '{s.path}/{POOL}'", "but by dedupscan repoint",
                  "it names the pool by another path")
    if said.count("\trepaired") != s.stubs:
        fail(said)
    if guest(s.image("b", to)) is not None:
        fail("QEMU opens an image that names another pool")
    expect(tool("repoint", to), "repointed: 4 images, 1 sealed overlays and 0 stubs; 0 images noted, 0 left")
    s.check(to)
    if "dedupscan repoint" in tool("pool", "repair", to):
        fail("repair goes on to say that the pool was moved")


def others(s):
    """What stands on something else is left alone, and told when it was named."""
    plain, chain, text = s.image("plain"), s.image("chain"), os.path.join(s.path, "text")
    lib.run("qemu-img", "create", "-q", "-f", "qcow2", plain, "1M")
    lib.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", plain, chain)
    with open(text, "w", encoding="ascii") as f:
        f.write("no image\n")
    other = os.path.join(s.tmp, "other")
    os.makedirs(other)
    lib.run("qemu-img", "create", "-q", "-f", "qcow2", os.path.join(other, "z.qcow2"), "1M")
    write(os.path.join(other, "z.qcow2"), 1, 0, MIB)
    shutil.copy(os.path.join(other, "z.qcow2"), os.path.join(other, "z2.qcow2"))
    s.compact(other)
    before = files_of(other)
    expect(tool("repoint", s.path, other), "repointed: 0 images, 0 sealed overlays and 0 stubs; 0 images noted, 0 left")
    for path in (plain, chain, text, os.path.join(other, "z.qcow2")):
        expect(tool("repoint", "--pool", os.path.join(s.path, POOL), path, status=1), "it stands on nothing that the pool")
    if files_of(other) != before:
        fail("images of another pool were changed")
    backup = os.path.join(s.path, "backup of the pool")
    lib.run("cp", "-a", "--sparse=always", os.path.join(s.path, POOL), backup)
    expect(tool("repoint", s.path), "repointed: 0 images, 0 sealed overlays and 0 stubs; 0 images noted, 0 left")


def main():
    lib.require("qemu-img", "qemu-io")
    folder = os.path.join(lib.scratch("pool-moved"), "work")
    os.makedirs(folder)
    s = Store(folder)
    models = dict(s.models)
    for test in (moved, moved_and_forgotten, pool_alone, copied, linked, guards, renamed, in_use, repaired, others):
        if len(sys.argv) > 1 and test.__name__ not in sys.argv:
            continue
        s.again()
        s.models = dict(models)
        print(test.__name__, flush=True)
        test(s)


if __name__ == "__main__":
    sys.exit(main())
