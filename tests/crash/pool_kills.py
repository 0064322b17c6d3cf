#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 400
"""SIGKILL at the system calls by which commands on a pool change something; then the oracle.

Rows A1 (entering the pool), A2 (clone, snapshot, folding, rollback, expand, delete, collection, restore), D10: locks of who died
hold up nobody.

The oracle: every image that was there is there and its guest sees what it saw (after a rollback: or what it is to see); `recover`,
two collections and a check of all data end well and find no damage; guests still see it then; and the command comes to its end when
it is run again."""

import json
import os
import random
import shutil
import subprocess
import sys
import time

import lib_crash as crash
from lib_crash import CHANGING, DEDUPSCAN, KIB, KILLED, LONG, MIB, Wrong, fail, lib, run, traced
from lib_immutable import is_immutable, remove_tree

NR_POINTS = int(os.environ.get("CRASH_POINTS") or (3000 if LONG else 90))
POOL = lib.POOL


IMAGES = (".qcow2", ".raw", ".vmdk")


def guest(path, snapshot=None):
    """Whatever its name says: images of other formats become qcow2 images."""
    with open(path, "rb") as f:
        form = "qcow2" if f.read(4) == b"QFI\xfb" else lib.format_of(path)
    more = ["-l", f"snapshot.name={snapshot}"] if snapshot else []
    run("qemu-img", "convert", "-U", "-f", form, *more, "-O", "raw", path, path + ".guest")
    return lib.digest_of(path + ".guest")


class Store:
    """Three small images that have much in common, at one path, for overlays name absolute ones; states of it are kept beside
    it."""

    def __init__(self, folder):
        self.path, self.states, self.catalog = (os.path.join(folder, n) for n in ("store", "states", "catalog"))
        self.folder, self.away = folder, os.path.join(folder, "away")
        os.makedirs(self.path)
        os.makedirs(self.states)
        rng = random.Random(crash.SEED)
        base = rng.randbytes(600 * KIB) + bytes(300 * KIB) + rng.randbytes(200 * KIB)
        for name in "abc":
            raw = os.path.join(folder, "raw")
            with open(raw, "wb") as f:
                f.write(base)
                f.seek(100 * KIB)
                f.write(rng.randbytes(40 * KIB))
                f.truncate(5 * MIB)
            run("qemu-img", "convert", "-O", "qcow2", raw, self.image(name))
            os.unlink(raw)

    def image(self, name):
        return os.path.join(self.path, name + ".qcow2")

    def images(self):
        return sorted(n for n in os.listdir(self.path) if n.endswith(IMAGES))

    def others(self):
        """Of other formats, and one with internal snapshots; the others stay."""
        guest(self.image("a"))
        raw = self.image("a") + ".guest"
        shutil.copyfile(raw, os.path.join(self.path, "d.raw"))
        run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", raw, os.path.join(self.path, "e.vmdk"))
        lab = self.image("lab")
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, lab)
        for i, name in enumerate(("first", "second")):
            self.write("lab", 20 + i)
            run("qemu-img", "snapshot", "-c", name, lab)
        self.write("lab", 30)
        self.snapshots = {n: guest(lab, n) for n in ("first", "second")}

    def snapshots_inside(self):
        return json.loads(run("qemu-img", "info", "-U", "--output=json", self.image("lab"))).get("snapshots", [])

    def look_at_snapshots(self):
        """In the image, or as versions of it."""
        lab = self.image("lab")
        if not os.path.exists(lab):
            return
        inside = self.snapshots_inside()
        for name, digest in self.snapshots.items():
            if inside:
                now = guest(lab, name)
            else:
                out = os.path.join(self.folder, "out.raw")
                well([DEDUPSCAN, "restore", "--format", "raw", f"{lab}@{name}", out])
                now = lib.digest_of(out)
                os.unlink(out)
            if now != digest:
                raise Wrong(f"snapshot {name} was {digest[:12]}, is {now[:12]}")

    def count_versions(self):
        """When all is done each is there once, or not while the image has its snapshots itself."""
        listed = well([DEDUPSCAN, "list", self.path]).out
        want = 0 if self.snapshots_inside() else 1
        for name in self.snapshots:
            if listed.count(name) != want:
                raise Wrong(f"version {name} is there {listed.count(name)} times: {listed}")

    def guests(self):
        return {n: guest(os.path.join(self.path, n)) for n in self.images()}

    def write(self, name, pattern):
        run("qemu-io", "-f", "qcow2", "-c", f"write -P {pattern} 64k 96k", "-c", f"write -P {pattern} 3M 64k", self.image(name))

    def keep(self, state):
        remove_tree(os.path.join(self.states, state), ignore_errors=True)
        run("cp", "-a", "--sparse=always", self.path, os.path.join(self.states, state))

    def again(self, state):
        remove_tree(self.path)
        shutil.rmtree(self.catalog, ignore_errors=True)
        run("cp", "-a", "--sparse=always", os.path.join(self.states, state), self.path)
        for n in os.listdir(self.path):
            if n.endswith(".guest"):
                os.unlink(os.path.join(self.path, n))

    def compact(self, *more):
        return [DEDUPSCAN, "compact", "--no-idle", "--jobs", "1", "--catalog", self.catalog, "--keep-originals", "0", "--apply",
                *more, self.path]


def well(command, want=(0,), **more):
    done = traced(command, **more)
    if done.status not in want:
        raise Wrong(f"{' '.join(command[1:4])}: {done}")
    return done


class Workflow:
    """state: what it begins with; again: exit statuses when it is run again after it was done."""

    def __init__(self, name, state, command, again=(0,), may_become=()):
        self.name, self.state, self.command, self.again, self.may_become = name, state, command, again, may_become


def make_states(s):
    """fresh -> member -> written -> sealed -> folded -> loose; and fresh -> others"""
    s.keep("fresh")
    s.others()
    s.keep("others")
    s.again("fresh")
    well(s.compact("--method", "pool"))
    s.keep("member")
    s.write("a", 7)
    s.keep("written")
    well([DEDUPSCAN, "snapshot", "v1", s.image("a"), s.image("b")])
    s.write("a", 8)
    s.keep("sealed")
    well(s.compact("--method", "pool"))
    s.write("a", 9)
    s.keep("folded")
    well([DEDUPSCAN, "expand", "--keep-originals", "0", s.image("c")])
    well([DEDUPSCAN, "delete", s.image("a") + "@v1"])
    well([DEDUPSCAN, "pool", "collect", s.path])
    s.keep("loose")


def make_moved(s):
    """All names another path, which a link leads from, so that there is something to be compared."""
    s.again("sealed")
    os.rename(s.path, s.away)
    well([DEDUPSCAN, "repoint", s.away])
    os.rename(s.away, s.path)
    os.symlink(s.path, s.away)
    s.keep("moved")


def workflows(s):
    a, new = s.image("a"), os.path.join(s.path, "new.qcow2")
    return [
        Workflow("enter", "fresh", s.compact("--method", "pool")),
        Workflow("enter other formats", "others", s.compact("--method", "pool", "--to-qcow2")),
        Workflow("enter snapshots", "others", s.compact("--method", "pool", "--snapshots=to-versions")),
        Workflow("clone", "written", [DEDUPSCAN, "clone", a, new], (2,)),
        Workflow("clones of a version", "folded", [DEDUPSCAN, "clone", "--count", "5", a + "@v1", new], (0, 2)),
        Workflow("snapshot", "written", [DEDUPSCAN, "snapshot", "v1", a, s.image("b")], (2, 3)),
        Workflow("fold", "sealed", s.compact("--method", "pool")),
        Workflow("rollback", "folded", [DEDUPSCAN, "rollback", a + "@v1"], may_become=("a.qcow2",)),
        Workflow("expand", "member", [DEDUPSCAN, "expand", "--keep-originals", "0", a], (1,)),
        Workflow("delete", "folded", [DEDUPSCAN, "delete", a + "@v1"], (2,)),
        Workflow("repoint", "moved", [DEDUPSCAN, "repoint", s.path]),
        Workflow("collect", "loose", [DEDUPSCAN, "pool", "collect", s.path]),
        Workflow("restore", "folded", [DEDUPSCAN, "restore", "--format", "vhdx", a + "@v1", os.path.join(s.path, "out.vhdx")],
                 (2,)),
    ]


def look(s, w, before, after):
    now = s.guests()
    for name, digest in before.items():
        if now.get(name) != digest and not (name in w.may_become and now.get(name) == after[name]):
            raise Wrong(f"{name} was {digest[:12]}, is {str(now.get(name))[:12]}")
    s.look_at_snapshots()
    for name in now.keys() - before.keys():
        if now[name] not in (after.get(name), *before.values(), *after.values()):
            raise Wrong(f"{name} came, and is like nothing else")


def look_without_link(s, w, before, after):
    """Nothing names the other path any more."""
    os.rename(s.away, s.away + ".not")
    look(s, w, before, after)
    os.rename(s.away + ".not", s.away)


def look_at_flags(s):
    """Whoever died, the next one has made cluster file and stubs immutable again."""
    pool = os.path.join(s.path, POOL)
    for folder in (pool, os.path.join(pool, "views")):
        for name in os.listdir(folder):
            if name.endswith(".qcow2") and not is_immutable(os.path.join(folder, name)):
                raise Wrong(f"{name} is not immutable")


def oracle(s, w, before, after, complete):
    look(s, w, before, after)
    well([DEDUPSCAN, "recover", s.path])
    look(s, w, before, after)
    if w.state == "moved":
        for _ in range(2):
            well([DEDUPSCAN, "pool", "collect", s.path])
        well(w.command)
        look_without_link(s, w, before, after)
    if os.path.isdir(os.path.join(s.path, POOL)):
        well([DEDUPSCAN, "pool", "collect", s.path])
        look_at_flags(s)
        well([DEDUPSCAN, "pool", "check", "--read-data", s.path])
        look(s, w, before, after)
    if not complete:
        return
    done = well(w.command, {0, *w.again})
    look(s, w, before, after)
    look_at_flags(s)
    well([DEDUPSCAN, "pool", "collect", s.path])
    well([DEDUPSCAN, "pool", "check", "--read-data", s.path])
    look(s, w, before, after)
    if w.name == "enter snapshots":
        s.count_versions()
    if done.status == 0 and set(s.images()) != set(after):
        raise Wrong(f"in the end there are {s.images()}")


def measure(s, w):
    """Uninterrupted: its calls, and what it comes to."""
    log = os.path.join(s.folder, "log")
    s.again(w.state)
    before = s.guests()
    well(w.command, log=log, calls=CHANGING)
    after = s.guests()
    points = [p for p in crash.points_of(log, s.path) if not p.child]
    oracle(s, w, before, after, True)
    if len(points) < 3:
        fail(f"{w.name}: only {len(points)} calls were seen")
    return before, after, points


def judge_the_oracle(s, w, before, after):
    """It sees one byte that a guest should not see, and a lost cluster."""
    s.again("member")
    s.write("b", 55)
    try:
        look(s, w, before, after)
    except Wrong:
        pass
    else:
        fail("the oracle does not see another guest")
    s.again("member")
    for name in os.listdir(os.path.join(s.path, POOL)):
        if name.endswith(".qcow2"):
            path = os.path.join(s.path, POOL, name)
            at = lib.extents_on_disk(path)[-1][0]
            subprocess.run(["fallocate", "-p", "-o", str(64 << 30), "-l", str(64 * KIB), path], check=True)
            print(f"planted at {at}" if at < 0 else "", end="")
    if traced([DEDUPSCAN, "pool", "check", "--read-data", s.path]).status != 1:
        fail("the oracle does not see a lost cluster")


def main():
    crash.require("mke2fs", "fallocate")
    lib.exit_on_signals()
    tmp = lib.scratch("pool-kills")
    with crash.memory_folder(tmp) as memory, lib.FileSystem("ext4", memory, 700) as e:
        s = Store(e.path)
        make_states(s)
        make_moved(s)
        known, rng, began, nr, missed = [], random.Random(crash.SEED), time.monotonic(), 0, 0
        for w in workflows(s):
            try:
                before, after, points = measure(s, w)
            except Wrong as why:
                fail(f"{w.name}, not interrupted: {why}")
            known.append((w, before, after, points))
        judge_the_oracle(s, *[k for k in known if k[0].name == "expand"][0][:3])
        for w, before, after, points in known:
            for p in rng.sample(points, min(len(points), NR_POINTS // len(known))):
                s.again(w.state)
                done = traced(w.command, [f"{p.call}:signal=KILL:when={p.nth}"])
                if done.status not in (0, *KILLED):
                    fail(f"{w.name}, to be killed at {p}: {done}")
                nr += done.status != 0
                missed += done.status == 0
                try:
                    oracle(s, w, before, after, nr % 3 == 0)
                except Wrong as why:
                    fail(f"{w.name}, killed at {p}: {why}")
        print(f"{nr} kills ({sum(len(k[3]) for k in known)} points known), {missed} came too late; {time.monotonic() - began:.0f} s")
        if nr < NR_POINTS // 2:
            fail("too few of the kills came to pass")


if __name__ == "__main__":
    sys.exit(main())
