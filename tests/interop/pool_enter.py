#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
"""Images of all formats enter a pool (--to-qcow2), and ones with internal snapshots (--snapshots=to-versions), on ext4.

QEMU says what a guest sees, before in the image's own format, afterwards of the qcow2 that stands at its path: the same bytes, the
same size.  A member that is named as a raw disk is known as what it is by whatever looks at it, and only such a one.  What must not
enter is left as it was, and why is told.  Each internal snapshot is a version: as QEMU read it before, to be restored, gone back
to, compared.  An undo gives back the very file, and takes the versions with it."""

import fcntl
import json
import os
import random
import shutil
import struct
import subprocess
import sys

import lib_compact as lib
from lib_compact import DEDUPSCAN, KIB, MIB, fail, run
from lib_immutable import remove_tree

SIZE = 6 * MIB
NOTED = "user.dedupscan.format"
POOL = ("--method", "pool", "--no-idle")
TO_QCOW2 = (*POOL, "--to-qcow2")
TO_VERSIONS = (*POOL, "--snapshots=to-versions")

# name: QEMU's format, options
MADE = {
    "plain.raw": ("raw", ""), "other.dd": ("raw", ""), "base.raw": ("raw", ""),
    "sparse.vmdk": ("vmdk", "subformat=monolithicSparse"), "stream.vmdk": ("vmdk", "subformat=streamOptimized"),
    "dynamic.vhd": ("vpc", "subformat=dynamic,force_size=on"), "quirk.vhd": ("vpc", "subformat=dynamic"),
    "fixed.vhd": ("vpc", "subformat=fixed"),
    "dynamic.vhdx": ("vhdx", "subformat=dynamic"), "fixed.vhdx": ("vhdx", "subformat=fixed"),
    "dynamic.vdi": ("vdi", ""), "fixed.vdi": ("vdi", "static=on"), "was.qcow2": ("qcow2", ""),
}
UNDONE = {"dynamic.vhd", "stream.vmdk", "fixed.vhdx", "fixed.vdi", "base.raw"}
REFUSED = {"odd.raw": "512", "guess.img": "not certain", "trap.raw": "not certain", "flat.vmdk": "one file",
           "split.vmdk": "one file"}


class Images:
    """What was made, and what QEMU says of it."""

    def __init__(self, tmp, folder):
        self.tmp, self.folder, self.rng = tmp, folder, random.Random(5)
        self.catalog = os.path.join(tmp, "catalog-" + os.path.basename(folder))
        self.base = self.rng.randbytes(3 * MIB)
        os.makedirs(folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def raw(self):
        """The base with some of its own."""
        path = os.path.join(self.tmp, "new.raw")
        with open(path, "wb") as f:
            f.write(self.base)
            for _ in range(3):
                f.seek(self.rng.randrange(SIZE // 4096 - 16) * 4096)
                f.write(self.rng.randbytes(20 * KIB))
            f.truncate(SIZE)
        return path

    def make(self, name, form, options=""):
        run("qemu-img", "convert", "-f", "raw", "-O", form, *(["-o", options] if options else []), self.raw(), self.path(name))
        return self.path(name)

    def compact(self, *more, want=(0,), keep="0"):
        done = subprocess.run([DEDUPSCAN, "compact", "--json", "--catalog", self.catalog, "--keep-originals", keep, *more,
                               self.folder],
                              capture_output=True, check=False)
        if done.returncode not in want:
            fail(f"compact {' '.join(more)}: status {done.returncode}: {done.stderr.decode()}")
        return lib.Plan(done.stdout) if done.stdout else None


def dedupscan(*args, want=0):
    done = subprocess.run([DEDUPSCAN, *args], capture_output=True, check=False)
    if done.returncode != want:
        fail(f"{' '.join(args)}: status {done.returncode}: {done.stderr.decode()}{done.stdout.decode()}")
    return done.stdout.decode()


def guest(path, form, snapshot=None):
    """(size, digest) of what QEMU reads; of a snapshot when a copy went back to it, for `convert -l` keeps the size of today."""
    copy, raw = path + ".copy", path + ".guest"
    if snapshot:
        shutil.copyfile(path, copy)
        run("qemu-img", "snapshot", "-a", snapshot, copy)
    run("qemu-img", "convert", "-f", form, "-O", "raw", copy if snapshot else path, raw)
    try:
        return os.path.getsize(raw), lib.digest_of(raw)
    finally:
        os.unlink(raw)
        if snapshot:
            os.unlink(copy)


def shown(path, form):
    return json.loads(run("qemu-img", "info", "-f", form, "--output=json", path))


def is_member(path):
    with open(path, "rb") as f:
        if f.read(4) != b"QFI\xfb":
            return False
    return "/views/" in shown(path, "qcow2").get("backing-filename", "")


def looks(path):
    """All but what is to be noted."""
    return {k: v for k, v in lib.attributes(path).items() if k != NOTED}


def expect(what, is_so):
    if not is_so:
        fail(what)


# ---- other formats ----


def make_formats(s):
    for name, (form, options) in MADE.items():
        s.make(name, form, options)
    s.make("flat.vmdk", "vmdk", "subformat=monolithicFlat")
    s.make("split.vmdk", "vmdk", "subformat=twoGbMaxExtentSparse")
    shutil.copyfile(s.raw(), s.path("odd.raw"))
    with open(s.path("odd.raw"), "ab") as f:
        f.write(b"behind")
    shutil.copyfile(s.raw(), s.path("guess.img"))
    s.make("trap.raw", "qcow2")  # its guest wrote that, for all one knows
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", s.path("base.raw"), "-F", "raw", s.path("child.qcow2"))
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 1M 128k", s.path("child.qcow2"))
    for i, name in enumerate(MADE):
        os.chown(s.path(name), 0, 0)
        os.chmod(s.path(name), 0o644)
        os.setxattr(s.path(name), "user.note", b"x" * (i + 1))
        os.utime(s.path(name), ns=(10**18 + i, 10**18 + 123456789 + i))


def not_without_being_asked(s):
    os.sync()
    before = lib.everything(s.folder)
    why = s.compact(*POOL).why_not()
    for name, (form, _) in MADE.items():
        reason = why.get(s.path(name), "")
        expect(f"{name} is left alone: {reason}", form == "qcow2" or "--to-qcow2" in reason)
    plan = s.compact(*TO_QCOW2)
    why = plan.why_not()
    for name, word in REFUSED.items():
        expect(f"{name} is left alone because of '{word}': {why.get(s.path(name))}", word in why.get(s.path(name), ""))
    expect(f"base.raw waits for its child: {why.get(s.path('base.raw'))}", "child.qcow2" in why.get(s.path("base.raw"), ""))
    told = {os.path.basename(plan.images[x["image"]]["path"]): x["note"] for x in plan.steps}
    for name in MADE:
        if name != "base.raw":
            note = told.get(name, "")
            expect(f"what becomes of {name} is told: {note}", (note is None) if name == "was.qcow2" else "qcow2" in note)
    text = dedupscan("compact", "--no-scan", "--catalog", s.catalog, *TO_QCOW2, s.folder)
    expect(f"the table has a note: {text}",
           "NOTE" in text and "driver type" in text and text.count("keeps its name") == len(MADE) - 2)
    steps = s.compact("--method", "pool,relayout,holes", "--no-idle", "--to-qcow2").steps
    expect(f"nothing else is done with what enters: {steps}",
           len({x["image"] for x in steps}) == len(steps) and len(plan.steps) <= len(steps))
    told_raw = s.compact(*TO_QCOW2, "--format", "raw", "--only", "*.v*", "--only", "t*").why_not()
    for name in ("dynamic.vhdx", "sparse.vmdk", "trap.raw", "fixed.vhd"):
        expect(f"{name}, told to be raw: {told_raw.get(s.path(name))}", "look like" in told_raw.get(s.path(name), ""))
    shutil.rmtree(s.catalog)
    wrong = lib.differences(before, lib.everything(s.folder))
    expect(f"a plan changes nothing: {wrong}", not wrong)


def enter_formats(s):
    """Two runs: what stands on base.raw comes first."""
    forms = {n: f for n, (f, _) in MADE.items()} | {"child.qcow2": "qcow2"}
    before = {n: guest(s.path(n), f) for n, f in forms.items()}
    sizes = {n: shown(s.path(n), f)["virtual-size"] for n, f in forms.items()}
    files = {n: (lib.digest_of(s.path(n)), looks(s.path(n))) for n in forms}
    refused = {n: lib.digest_of(s.path(n)) for n in REFUSED}
    s.compact(*TO_QCOW2, "--apply", keep="7d")
    expect("base.raw waits", not is_member(s.path("base.raw")))
    s.compact(*TO_QCOW2, "--apply", keep="7d")
    for n in forms:
        expect(f"{n} is a member", is_member(s.path(n)))
        expect(f"{n}: size {sizes[n]}, now {shown(s.path(n), 'qcow2')['virtual-size']}",
               sizes[n] == shown(s.path(n), "qcow2")["virtual-size"])
        expect(f"{n}: its guest sees what it saw", guest(s.path(n), "qcow2") == before[n])
        expect(f"{n}: {files[n][1]} {looks(s.path(n))}", files[n][1] == looks(s.path(n)))
    expect("what is refused stays", refused == {n: lib.digest_of(s.path(n)) for n in REFUSED})
    return before, files


def known_again(s):
    """As members, by scan, info and another compaction; whatever their names say."""
    again = s.compact(*TO_QCOW2)
    formats = {os.path.basename(i["path"]): i["format"] for i in again.images}
    for n in ("plain.raw", "other.dd", "base.raw", "sparse.vmdk", "fixed.vhd"):
        expect(f"{n} is seen as {formats[n]}", formats[n] == "qcow2")
    expect(f"nothing enters twice: {again.steps}", not again.steps)
    said = json.loads(dedupscan("info", "--json", s.path("plain.raw")))["images"][0]
    expect(f"info says {said['format']}", said["format"] == "qcow2")
    told = s.compact(*TO_QCOW2, "--format", "raw", "--only", "plain.raw").why_not()
    expect(f"an overlay that is told to be raw: {told.get(s.path('plain.raw'))}", "look like" in told.get(s.path("plain.raw"), ""))
    shutil.rmtree(s.catalog)


def lived_with(s, before):
    """Writes, versions and the way back of one that is named as a raw disk."""
    path = s.path("plain.raw")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 77 1M 300k", path)
    written = guest(path, "qcow2")
    expect("others do not see it", guest(s.path("dynamic.vdi"), "qcow2") == before["dynamic.vdi"])
    dedupscan("snapshot", "v1", path)
    plan = s.compact(*TO_QCOW2, "--apply")
    expect(f"what was folded is told: {plan.json['nr_folded']}, {plan.json['folded']}",
           plan.json["nr_folded"] == 1 and plan.json["folded"] > 0)
    text = dedupscan("compact", "--catalog", s.catalog, *POOL, s.folder)
    expect("what was not folded is not told", "sealed overlay" not in text)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 78 2M 64k", path)
    dedupscan("rollback", path + "@v1")
    expect("it goes back", guest(path, "qcow2") == written)
    dedupscan("clone", path, s.path("copy.qcow2"))
    dedupscan("expand", "--keep-originals", "0", path)
    expect("expanded it says the same", guest(path, "qcow2") == written and not is_member(path))
    formats = {os.path.basename(i["path"]): i["format"] for i in s.compact(*POOL).images}
    expect(f"expanded it is seen as {formats['plain.raw']}", formats["plain.raw"] == "qcow2")


def restored_in_place(s):
    """A raw disk is written over the image, into the same file: it is raw again, whatever is noted of the file."""
    path = s.path("other.dd")
    raw = s.raw()
    with open(raw, "rb") as f, open(path, "r+b") as t:
        t.truncate(0)
        t.write(f.read())
    expect("the attribute is left", os.getxattr(path, NOTED) == b"qcow2")
    formats = {os.path.basename(i["path"]): i["format"] for i in s.compact(*POOL, want=(0, 1)).images}
    expect(f"a disk that was restored in place is seen as {formats['other.dd']}", formats["other.dd"] == "raw")


def damage(path, head=bytes(4096)):
    with open(path, "r+b") as f:
        was = f.read(len(head))
        f.seek(0)
        f.write(head)
    return was


def undone(s, before, files):
    for name in UNDONE:
        dedupscan("recover", "--undo", s.path(name))
        expect(f"{name} is the very file", (lib.digest_of(s.path(name)), looks(s.path(name))) == files[name])
        expect(f"nothing is noted of {name}", NOTED not in os.listxattr(s.path(name)))
    expect("its guest sees what it saw", guest(s.path("dynamic.vhd"), "vpc") == before["dynamic.vhd"])
    formats = {os.path.basename(i["path"]): i["format"] for i in s.compact(*TO_QCOW2).images}
    expect(f"base.raw is raw again: {formats['base.raw']}", formats["base.raw"] == "raw")
    heads = {n: damage(s.path(n)) for n in ("was.qcow2", "dynamic.vhdx", "plain.raw")}  # are members still
    gone = dedupscan("pool", "collect", "--dry-run", "--drop-missing", s.folder)
    told = {os.path.basename(line.split("'")[1]) for line in gone.splitlines() if "is another image by now" in line}
    expect(f"members that went back are dropped when that is asked for: {told}", told == UNDONE)
    for n, head in heads.items():
        damage(s.path(n), head)


def others_have_the_pool(s):
    with open(os.path.join(s.folder, lib.POOL, "lock"), "rb+") as f:
        fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0))
        plan = s.compact(*TO_QCOW2, "--apply", "--only", "nothing", want=(4,))
        expect("the plan says so", plan.json["pool_in_use"])
    expect("nor when it is not", not s.compact(*TO_QCOW2, "--apply", "--only", "nothing").json["pool_in_use"])


# ---- internal snapshots ----


def snap(path, name):
    run("qemu-img", "snapshot", "-c", name, path)


def write(path, pattern, *places):
    run("qemu-io", "-f", "qcow2", *(f"-cwrite -P {pattern} {p}" for p in places), path)


def make_snapshots(s):
    """Larger and smaller disks, names that are no labels, ones that are there twice, a chain below, packed clusters."""
    lab = s.make("lab.qcow2", "qcow2")
    snap(lab, "fresh")
    write(lab, 3, "1M 200k", "4M 4k")
    snap(lab, "a/b@c")
    run("qemu-img", "resize", "-q", "-f", "qcow2", lab, str(SIZE + 3 * MIB))
    write(lab, 4, "7M 100k", "0 4k")
    snap(lab, "twice")
    write(lab, 5, "8M 64k")
    snap(lab, "twice")
    run("qemu-io", "-f", "qcow2", "-c", "write -z 0 3M", lab)
    snap(lab, "zeros ä")
    below = s.make("below.qcow2", "qcow2")
    top = s.path("top.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", top)
    write(top, 6, "2M 64k")
    snap(top, "on the chain")
    write(top, 7, "2M 128k")
    packed = s.path("packed.qcow2")
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", s.raw(), packed)
    snap(packed, "packed")
    write(packed, 8, "64k 64k", "5M 20k")
    state = s.make("state.qcow2", "qcow2")
    snap(state, "running")
    forge_state(state)
    for n in lib.files_of(s.folder):
        os.chmod(n, 0o644)


def forge_state(path):
    """As savevm leaves it: the table's entry says that there is a state."""
    with open(path, "r+b") as f:
        f.seek(64)
        table = struct.unpack(">Q", f.read(8))[0]
        f.seek(table + 32)
        f.write(struct.pack(">I", 4096))
        f.seek(table + 40)
        f.write(struct.pack(">Q", 4096))


LABELS = {
    "lab.qcow2": {"1": "fresh", "2": "snapshot-2", "3": "twice", "4": "twice-4", "5": "zeros ä"},
    "top.qcow2": {"1": "on the chain"}, "packed.qcow2": {"1": "packed"},
}


def enter_snapshots(s):
    why = s.compact(*POOL).why_not()
    for name in LABELS:
        expect(f"{name} is left alone: {why.get(s.path(name))}", "--snapshots=to-versions" in why.get(s.path(name), ""))
    plan = s.compact(*TO_VERSIONS)
    why = plan.why_not().get(s.path("state.qcow2"), "")
    expect(f"the state of a machine: {why}", "running machine" in why)
    notes = {os.path.basename(plan.images[x["image"]]["path"]): x["note"] for x in plan.steps}
    expect(f"what becomes of snapshots is told: {notes}", "5 internal snapshots" in (notes.get("lab.qcow2") or ""))
    before = {n: guest(s.path(n), "qcow2") for n in (*LABELS, "state.qcow2")}
    was = {(n, i): guest(s.path(n), "qcow2", i) for n, ids in LABELS.items() for i in ids}
    expect("snapshots differ in content and size", len(set(was.values())) == len(was) and len({w[0] for w in was.values()}) > 1)
    files = {n: lib.digest_of(s.path(n)) for n in LABELS}
    s.compact(*TO_VERSIONS, "--apply", keep="7d")
    for n in LABELS:
        expect(f"{n} is a member", is_member(s.path(n)))
        expect(f"{n}: its guest sees what it saw", guest(s.path(n), "qcow2") == before[n])
    expect("one with a state is not", not is_member(s.path("state.qcow2")))
    return before, was, files


def look_at_versions(s, was):
    for (n, i), seen in was.items():
        at = f"{s.path(n)}@{LABELS[n][i]}"
        out = os.path.join(s.folder, "out.raw")
        dedupscan("restore", "--format", "raw", at, out)
        expect(f"{at} is what snapshot {i} was", (os.path.getsize(out), lib.digest_of(out)) == seen)
        os.unlink(out)


def go_back(s, before, was):
    lab = s.path("lab.qcow2")
    for i, label in LABELS["lab.qcow2"].items():
        dedupscan("rollback", f"{lab}@{label}")
        expect(f"it goes back to {label}", guest(lab, "qcow2") == was["lab.qcow2", i])
    out = dedupscan("diff", f"{lab}@fresh", f"{lab}@snapshot-2", want=1)
    expect(f"versions differ where was written: {out}", out.split()[:1] == ["1048576"] or "1048576" in out)
    dedupscan("delete", f"{lab}@fresh")
    dedupscan("pool", "collect", s.folder)
    dedupscan("pool", "check", "--read-data", s.folder)
    expect("others stay", guest(s.path("top.qcow2"), "qcow2") == before["top.qcow2"])


def undo_snapshots(s, files):
    """The original has its snapshots itself: versions of them go with the next compaction, and others do not."""
    for name in ("top.qcow2", "packed.qcow2"):
        dedupscan("snapshot", "mine", s.path(name))
    done = subprocess.run([DEDUPSCAN, "recover", "--undo", s.path("top.qcow2")], capture_output=True, check=False)
    if done.returncode != 0:
        fail(f"undo: {done.stderr.decode()}")
    expect("the very file is back", lib.digest_of(s.path("top.qcow2")) == files["top.qcow2"])
    expect("the version is there still", "on the chain" in dedupscan("list", s.folder))
    s.compact(*POOL, "--apply")
    listed = dedupscan("list", s.folder)
    expect(f"the version is gone, and others are not: {listed}",
           "on the chain" not in listed and "packed" in listed and "mine" in listed)
    s.compact(*TO_VERSIONS, "--apply")
    expect("it enters again", is_member(s.path("top.qcow2")) and "on the chain" in dedupscan("list", s.folder))


def main():
    lib.exit_on_signals()
    lib.require("qemu-img", "qemu-io", "mke2fs")
    tmp = lib.scratch("pool-enter")
    with lib.FileSystem("ext4", tmp, 900) as fs:
        s = Images(tmp, os.path.join(fs.path, "formats"))
        make_formats(s)
        not_without_being_asked(s)
        before, files = enter_formats(s)
        known_again(s)
        undone(s, before, files)
        lived_with(s, before)
        restored_in_place(s)
        others_have_the_pool(s)
        remove_tree(s.folder)
        s = Images(tmp, os.path.join(fs.path, "snapshots"))
        make_snapshots(s)
        before, was, files = enter_snapshots(s)
        look_at_versions(s, was)
        go_back(s, before, was)
        undo_snapshots(s, files)


if __name__ == "__main__":
    sys.exit(main())
