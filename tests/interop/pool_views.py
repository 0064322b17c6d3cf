#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""Overlays on views of a pool under stock QEMU: read, map, check and convert them, write to several at once, and try in every way
that QEMU has to change the pool through them.  The files of the pool stay as they are, byte by byte, whoever tries; a pool that is
not whole is told, never read as zeros."""

import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time

from lib_immutable import lift, temporary_directory

BUILD = os.path.abspath(os.environ.get("BUILD") or "build")
POOLTOOL = f"{BUILD}/tests/interop/pooltool"
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZE = 20 * MIB
rng = random.Random(7)


def run(*args, status=0):
    """Its output; `status` None means that it must fail."""
    p = subprocess.run(args, capture_output=True, text=True, timeout=120)
    assert (p.returncode != 0) if status is None else p.returncode == status, f"{args}: {p.returncode}\n{p.stdout}{p.stderr}"
    return p.stdout + p.stderr


def qemu_img(*args, status=0):
    return run("qemu-img", *args, status=status)


def qemu_io(path, *commands, status=0, more=()):
    return run("qemu-io", *more, *[a for c in commands for a in ("-c", c)], path, status=status)


def digest(path):
    """Of what a sparse file holds, and where, and how long it is."""
    h = hashlib.sha256(str(os.path.getsize(path)).encode())
    with open(path, "rb") as f:
        at, size = 0, os.path.getsize(path)
        while at < size:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(f.fileno(), at, os.SEEK_HOLE)
            while at < end:
                block = os.pread(f.fileno(), min(end - at, 4096 - at % 4096), at)
                if block.strip(b"\0"):
                    h.update(str(at).encode() + block)
                at += len(block)
    return h.hexdigest()


class Store:
    """A pool with the views of two disks, of which one is a changed copy of the other."""

    def __init__(self, folder, bits):
        self.folder, self.bits = folder, bits
        self.pool = f"{folder}/.dedupscan-pool"
        run(POOLTOOL, "create", self.pool)
        disk = bytearray(SIZE)
        for at in range(0, SIZE, 64 * KIB):
            if rng.random() < 0.5:
                disk[at:at + 64 * KIB] = rng.randbytes(64 * KIB)
        for _ in range(50):
            at = rng.randrange(SIZE // 4096) * 4096
            disk[at:at + 4096] = rng.randbytes(4096)
        copy = bytearray(disk)
        copy[3 * MIB:4 * MIB] = rng.randbytes(MIB)
        self.disks = [bytes(disk), bytes(copy[:SIZE - 5 * 512])]
        self.roots, self.views = [], []
        for i, content in enumerate(self.disks):
            with open(f"{folder}/disk{i}.raw", "wb") as f:
                f.write(content)
            got = json.loads(run(POOLTOOL, "import", self.pool, "--unit", str(bits), f"{folder}/disk{i}.raw"))
            self.roots.append(got["root"])
            self.views.append(run(POOLTOOL, "view", self.pool, got["root"], str(len(content)), str(bits)).split()[0])
        self.clusters = next(f"{self.pool}/{n}" for n in os.listdir(self.pool) if n.endswith(".qcow2"))
        self.stubs = [f"{self.pool}/views/{v}.qcow2" for v in self.views]
        self.digests = {p: digest(p) for p in [self.clusters] + self.stubs}

    def overlay(self, i, name):
        path = f"{self.folder}/{name}.qcow2"
        if os.path.exists(path):
            os.unlink(path)
        run(POOLTOOL, "overlay", self.pool, self.views[i], path)
        return path

    def unchanged(self, after):
        for path, was in self.digests.items():
            assert digest(path) == was, f"{os.path.basename(path)} was changed by: {after}"


def backing(path):
    return json.loads(qemu_img("info", "-U", "--output=json", path))["full-backing-filename"]


# ---- reading ----

def check_reading(s):
    for i, content in enumerate(s.disks):
        raw, overlay = f"{s.folder}/disk{i}.raw", s.overlay(i, "read")
        assert "identical" in qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, overlay)
        assert "No errors were found" in qemu_img("check", overlay)
        chain = json.loads(qemu_img("info", "--backing-chain", "--output=json", overlay))
        assert [c["format"] for c in chain] == ["qcow2"] * 3
        assert chain[0]["virtual-size"] == len(content) and "full-backing-filename" not in chain[2]
        assert os.stat(overlay).st_blocks * 512 <= 32 * KIB and os.stat(s.stubs[i]).st_blocks * 512 <= 32 * KIB
        check_map(overlay, content)
        for fmt in ("raw", "qcow2", "vmdk"):
            qemu_img("convert", "-O", fmt, overlay, f"{s.folder}/converted")
            assert "identical" in qemu_img("compare", "-f", "raw", "-F", fmt, raw, f"{s.folder}/converted")
    s.unchanged("reading")


def check_map(overlay, content):
    """What is said to be zeros is, and holes are seen as such."""
    zeros = 0
    for e in json.loads(qemu_img("map", "--output=json", overlay)):
        if e["zero"]:
            zeros += e["length"]
            assert not content[e["start"]:e["start"] + e["length"]].strip(b"\0")
    assert zeros > len(content) // 4


def check_root(s):
    """The disk of an overlay, read by ourselves through stub and view, has the root that the view was made of."""
    for i in range(len(s.disks)):
        got = json.loads(run(POOLTOOL, "import", s.pool, "--unit", str(s.bits), s.overlay(i, "again")))
        assert got["root"] == s.roots[i] and got["stored"] == 0, got
    s.unchanged("reading by ourselves")


def check_own_matters(s):
    """What a user does to an image of his own."""
    raw, overlay = f"{s.folder}/disk0.raw", s.overlay(0, "own")
    qemu_img("snapshot", "-c", "first", overlay)
    qemu_io(overlay, "write -P 1 1M 300k", "write -z 5M 1M", "discard 8M 128k")
    qemu_img("snapshot", "-a", "first", overlay)
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, overlay)
    qemu_img("snapshot", "-d", "first", overlay)
    qemu_img("bitmap", "--add", overlay, "b")
    qemu_img("bitmap", "--remove", overlay, "b")
    qemu_img("amend", "-o", "lazy_refcounts=on", overlay)
    for more in (64 * KIB, 3 * MIB, GIB):
        qemu_img("resize", overlay, str(SIZE + more))
        assert "Pattern verification failed" not in qemu_io(overlay, f"read -P 0 {SIZE} {more}")
    qemu_img("resize", "--shrink", overlay, str(SIZE))
    assert "No errors were found" in qemu_img("check", overlay)
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, overlay)
    qemu_img("rebase", "-b", "", overlay)
    assert "full-backing-filename" not in json.loads(qemu_img("info", "--output=json", overlay))
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, overlay)
    s.unchanged("what users do to their own images")


# ---- writing to several at once ----

def check_writing(s):
    for cache, aio in (("writeback", "threads"), ("none", "native"), ("none", "io_uring"), ("writeback", "io_uring")):
        overlays = [s.overlay(i % 2, f"rw{i}") for i in range(3)]
        models = [bytearray(s.disks[i % 2]) for i in range(3)]
        running = []
        for round_ in range(2):
            for i, path in enumerate(overlays):
                commands = [c for _ in range(40) for c in ("-c", random_write(models[i]))]
                running.append(subprocess.Popen(["qemu-io", "-t", cache, "-i", aio, *commands, path], stdout=subprocess.DEVNULL,
                                                stderr=subprocess.PIPE))
            for p in running:
                why = p.communicate(timeout=120)[1].decode()
                if p.returncode and ("io_uring" in why or "aio" in why):
                    print(f"{cache}, {aio}: not here: {why.strip()[-100:]}")
                    return
                assert p.returncode == 0, why
            running = []
        for path, model in zip(overlays, models):
            with open(f"{s.folder}/model", "wb") as f:
                f.write(model)
            assert "identical" in qemu_img("compare", "-f", "raw", "-F", "qcow2", f"{s.folder}/model", path)
            assert "No errors were found" in qemu_img("check", path)
        s.unchanged(f"writing to overlays with {cache}, {aio}")


def random_write(model):
    size = rng.choice([512, 4096, 4096, 12 * KIB, 64 * KIB, 200 * KIB])
    at = rng.randrange((len(model) - size) // 512) * 512
    if rng.random() < 0.2:
        model[at:at + size] = bytes(size)
        return f"write -z {at} {size}"
    byte = rng.randrange(1, 256)
    model[at:at + size] = bytes([byte]) * size
    return f"write -P {byte} {at} {size}"


# ---- attempts to change the pool ----

def without_guard(name):
    return name.replace('"read-only":true,', "")


class Targets:
    """The view and the stub, as libvirt would open them: by names without "read-only", of files that are writable."""

    def __init__(self, s):
        self.s = s
        stub = backing(s.overlay(0, "t"))
        self.names = {"view": without_guard(backing(stub)), "stub": without_guard(stub), "plain stub": s.stubs[0]}
        lift(*s.digests)
        for path in s.digests:
            os.chmod(path, 0o644)

    def on(self, name, kind, more):
        path = f"{self.s.folder}/attempt.qcow2"
        qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", name, path, str(SIZE))
        if kind == "data":
            qemu_io(path, "write -P 7 0 64k", "write -P 8 2M 3M", "write -P 3 5M 4k")
        elif kind == "zeros":
            qemu_io(path, "write -z 0 4M", "write -z 5M 64k")
        elif kind == "discarded":
            qemu_io(path, "write -P 1 0 1M", "discard 0 1M", "discard 6M 2M")
        if more:
            qemu_img("resize", "-q", path, f"+{more}")
        return path


def check_commits(s, t):
    for title, name in t.names.items():
        for kind in ("data", "zeros", "discarded", "nothing"):
            for more in (0, 64 * KIB, MIB, GIB, 41 * GIB):
                if kind == "discarded" and more:
                    continue
                overlay = t.on(name, kind, more)
                qemu_img("commit", overlay, status=None if kind != "nothing" or more else 0)
                s.unchanged(f"commit of {kind}, {more} bytes longer, into the {title}")


def check_direct_writes(s, t):
    for title, name in t.names.items():
        if name.startswith("json:"):
            name = name.replace("json:{", 'json:{"driver":"qcow2",', 1)
        for args in (["check", "-r", "leaks"], ["check", "-r", "all"], ["rebase", "-u", "-b", ""], ["rebase", "-b", ""],
                     ["snapshot", "-c", "x"], ["amend", "-o", "lazy_refcounts=on"], ["amend", "-o", "compat=0.10"],
                     ["amend", "-o", "refcount_bits=16"]):
            qemu_img(*args, name, status=None)
        qemu_img("bitmap", "--add", name, "b", status=None)
        for size in ("+64K", "+1G"):
            qemu_img("resize", name, size, status=None)
        for size in ("-512", "-1M"):
            qemu_img("resize", "--shrink", name, size, status=None)
        for command in ("write 0 4k", "write -z 0 2M", "discard 0 2M", "truncate 80M", "write -c 0 64k"):
            qemu_io(name, command, status=None)
        s.unchanged(f"opening the {title} for writing")


class Daemon:
    """qemu-storage-daemon, spoken to by QMP."""

    def __init__(self, folder, *args):
        path = f"{folder}/qmp"
        if os.path.exists(path):
            os.unlink(path)
        self.process = subprocess.Popen(["qemu-storage-daemon", "--chardev", f"socket,path={path},server=on,wait=off,id=c",
                                         "--monitor", "chardev=c", *args], stderr=subprocess.PIPE)
        self.socket = socket.socket(socket.AF_UNIX)
        for _ in range(100):
            try:
                self.socket.connect(path)
                break
            except OSError:
                time.sleep(0.05)
        self.lines = self.socket.makefile()
        self.lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self.lines.readline())
            if "return" in answer or "error" in answer:
                return answer

    def job(self, command, **arguments):
        """What became of it: an error's text, or None."""
        answer = self.ask(command, **arguments)
        if "error" in answer:
            return answer["error"]["desc"]
        for _ in range(200):
            jobs = self.ask("query-jobs")["return"]
            if not jobs:
                return None
            if jobs[0]["status"] == "ready":
                self.ask("job-complete", id=jobs[0]["id"])
            elif jobs[0]["status"] == "concluded":
                self.ask("job-dismiss", id=jobs[0]["id"])
                return jobs[0].get("error")
            time.sleep(0.05)
        raise AssertionError("the job does not end")

    def close(self):
        self.ask("quit")
        assert self.process.wait(30) == 0, self.process.stderr.read()


def nodes(s, overlay, t):
    """As libvirt builds a chain: each node by itself, the slices without "read-only"."""
    args = []
    view, stub = (json.loads(t.names[n][5:])["file"] for n in ("view", "stub"))
    for name, part, below in (("view", view, None), ("stub", stub, "view")):
        args += ["--blockdev",
                 json.dumps({"driver": "raw", "node-name": f"{name}-slice", "offset": part["offset"], "size": part["size"],
                             "auto-read-only": True,
                             "file": {"driver": "file", "filename": part["file"]["filename"], "auto-read-only": True}})]
        args += ["--blockdev", json.dumps({"driver": "qcow2", "node-name": name, "file": f"{name}-slice", "backing": below,
                                           "read-only": True})]
    return args + ["--blockdev", json.dumps({"driver": "qcow2", "node-name": "top", "backing": "stub",
                                             "file": {"driver": "file", "filename": overlay}})]


def check_jobs(s, t):
    attempts = [("block-commit", {"job-id": "j", "device": "top", "base-node": base, "auto-dismiss": False}, True)
                for base in ("stub", "view")]
    attempts += [("block-commit", {"job-id": "j", "device": "top", "top-node": "stub", "base-node": "view", "auto-dismiss": False},
                  None),
                 ("block-stream", {"job-id": "j", "device": "top", "base-node": "view", "auto-dismiss": False}, False),
                 ("block-stream", {"job-id": "j", "device": "top", "auto-dismiss": False}, False)]
    for command, arguments, fails in attempts:
        overlay = s.overlay(0, "job")
        qemu_io(overlay, "write -P 9 1M 1M", "write -z 4M 1M")
        d = Daemon(s.folder, *nodes(s, overlay, t))
        error = d.job(command, **arguments)
        d.close()
        assert fails is None or bool(error) == fails, f"{command} {arguments}: {error}"
        s.unchanged(f"{command} {arguments}")
        assert "Pattern verification failed" not in qemu_io(overlay, "read -P 9 1M 1M", "read -P 0 4M 1M")
    check_mirror(s, t)


def check_mirror(s, t):
    """A copy of all of the disk elsewhere, while the chain stays."""
    overlay, copy = s.overlay(0, "job"), f"{s.folder}/mirror.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", copy, str(SIZE))
    d = Daemon(s.folder, *nodes(s, overlay, t), "--blockdev",
               json.dumps({"driver": "qcow2", "node-name": "copy", "file": {"driver": "file", "filename": copy}}))
    assert d.job("blockdev-mirror",
                 **{"job-id": "j", "device": "top", "target": "copy", "sync": "full", "auto-dismiss": False}) is None
    d.close()
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "qcow2", f"{s.folder}/disk0.raw", copy)
    s.unchanged("blockdev-mirror")


# ---- what is not whole ----

def check_what_is_missing(s):
    overlay = s.overlay(0, "loud")
    lift(*s.digests)
    for path in (s.stubs[0], s.clusters):
        os.rename(path, path + ".away")
        assert "No such file" in qemu_img("check", "-U", overlay, status=None) + qemu_io(overlay, "read 0 4k", status=None)
        os.rename(path + ".away", path)
    whole = os.path.getsize(s.clusters)
    os.truncate(s.clusters, whole - 64 * KIB)  # the end of the newest view
    newest = s.overlay(1, "newest")
    assert "has to be smaller or equal to the  actual size" in qemu_io(newest, "read 0 4k", status=None)
    failed = subprocess.run([POOLTOOL, "import", s.pool, newest], capture_output=True, text=True)
    assert failed.returncode != 0 and "ends past the end" in failed.stderr, failed.stderr
    lift(s.clusters)  # who tried to write has made it immutable
    os.truncate(s.clusters, whole)


def main():
    for tool in ("qemu-img", "qemu-io", "qemu-storage-daemon"):
        if not shutil.which(tool):
            print(f"needs {tool}")
            sys.exit(77)
    for bits in (12, 14, 16):
        with temporary_directory(dir=os.environ.get("TMP")) as folder:
            s = Store(folder, bits)
            check_reading(s)
            check_own_matters(s)
            check_root(s)
            s.digests = {p: digest(p) for p in s.digests}
            check_writing(s)
            t = Targets(s)
            check_commits(s, t)
            check_direct_writes(s, t)
            check_jobs(s, t)
            check_what_is_missing(s)
        print(f"clusters of {1 << bits >> 10} KiB: done")


if __name__ == "__main__":
    main()
