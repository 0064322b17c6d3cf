#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An image that somebody uses cannot be held, in all the ways in which guests and tools hold one, and the message names
him; and while it is held a QEMU waits, or is refused where the file system knows no leases.

Rows D1 (a guest runs on it), D2 (users without locks, loop devices), D3 (who comes while it is held), D7 (it is the
backing file of a running overlay), D9 (two of us), B14 (FUSE)."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time

TMP = os.environ["TMP"]
TOOL = os.environ["BUILD"] + "/tests/interop/holdtool"


def fail(text):
    print(f"FAILED: {text}")
    sys.exit(1)


def skip(text):
    print(text)
    sys.exit(77)


def run(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True).stdout.decode()


def read(path):
    """Of a small file; "" where there is none, or none any more."""
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read()
    except OSError:
        return ""


class Hold:
    """A holdtool that takes a file; `said` is what came of it."""

    def __init__(self, path, *options):
        self.process = subprocess.Popen([TOOL, *options, "take", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.said = self.line()
        if self.said == "open":
            self.said = self.line()

    def line(self):
        return self.process.stdout.readline().rstrip("\n")

    def whole(self):
        self.process.stdin.write("whole?\n")
        self.process.stdin.flush()
        return self.line() == "whole"

    def release(self):
        said = self.process.communicate()[0]
        if self.process.returncode == 0 and said != "let go\n":
            fail(f"the hold ended with: {said}")
        return self.said


def look(path):
    return subprocess.run([TOOL, "look", path], stdout=subprocess.PIPE, text=True, check=False).stdout.splitlines()[-1]


def assert_idle(path, when):
    for said, wanted in ((Hold(path).release(), "held"), (look(path), "idle")):
        if said != wanted:
            fail(f"{path} {when}: {said}")


def assert_in_use(path, by, how):
    for said in (Hold(path).release(), look(path)):
        if not said.startswith("busy: in use by ") or by not in said:
            fail(f"{how}: wanted one who is busy and '{by}', got: {said}")


@contextlib.contextmanager
def qemu_io(*arguments):
    """A qemu-io that has opened its image, and keeps it open."""
    process = subprocess.Popen(["qemu-io", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    process.stdin.write("length\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not re.search(r"\d+ MiB", line):
        fail(f"qemu-io {arguments} says: {line}")
    try:
        yield f"pid {process.pid} (qemu-io)"
    finally:
        process.communicate("quit\n")


@contextlib.contextmanager
def storage_daemon(path, *export):
    """A qemu-storage-daemon that exports an image; ready when its pid file is there."""
    pid_file = f"{TMP}/daemon.pid"
    node = f"driver=qcow2,node-name=disk,file.driver=file,file.filename={path}"
    process = subprocess.Popen(["qemu-storage-daemon", "--blockdev", node, *export, "--pidfile", pid_file])
    while not os.path.exists(pid_file) and process.poll() is None:
        time.sleep(0.01)
    if process.poll() is not None:
        fail("qemu-storage-daemon does not start")
    try:
        yield f"pid {process.pid} (qemu-storage-da)"
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def qemu_nbd(path):
    pid_file = f"{TMP}/nbd.pid"
    run("qemu-nbd", "--fork", "--persistent", "--read-only", "--pid-file", pid_file, "-k", f"{TMP}/nbd.sock", "-f",
        "qcow2", path)
    pid = int(read(pid_file))
    try:
        yield f"pid {pid} (qemu-nbd)"
    finally:
        while re.search(r"\) [^Z]", read(f"/proc/{pid}/stat")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 15)  # one that comes before it listens is lost
            time.sleep(0.01)


@contextlib.contextmanager
def guest(path):
    """A machine that was made and does not run yet: that is enough to hold its disk."""
    machine = "-S -nodefaults -display none -accel tcg -m 64 -qmp stdio -drive".split()
    process = subprocess.Popen(["qemu-system-x86_64", *machine, f"file={path},format=qcow2,if=virtio"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if "QMP" not in process.stdout.readline():
        fail("qemu-system-x86_64 does not start")
    try:
        yield f"pid {process.pid} (qemu-system-x86)"
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def plain_reader(path):
    with open(path, "rb") as f, subprocess.Popen(["sleep", "1000"], stdin=f) as process:
        f.close()
        try:
            yield f"pid {process.pid} ("
        finally:
            process.kill()


@contextlib.contextmanager
def loop_device(path):
    device = run("losetup", "-f", "--show", "-r", path).strip()
    try:
        yield f"loop device {device}"
    finally:
        run("losetup", "-d", device)
        while path in read(f"/sys/block/{os.path.basename(device)}/loop/backing_file"):
            time.sleep(0.01)


def has_loop_devices(path):
    try:
        with loop_device(path):
            return True
    except subprocess.CalledProcessError:
        return False


def ways(disk, raw, overlay):
    """(how, the file that is held by it, what holds it)"""
    yield "D1: a guest", disk, guest(disk)
    yield "D1: qemu-io that writes", disk, qemu_io("-f", "qcow2", disk)
    yield "D1: qemu-io that reads", disk, qemu_io("-r", "-f", "qcow2", disk)
    yield "D1: qemu-io -U", disk, qemu_io("-U", "-r", "-f", "qcow2", disk)
    yield "D1: an NBD server", disk, qemu_nbd(disk)
    yield "D1: qemu-storage-daemon", disk, storage_daemon(disk)
    unlocked = f"driver=raw,file.driver=file,file.filename={raw},file.locking=off"
    yield "D2: QEMU without locks", raw, qemu_io("--image-opts", unlocked)
    yield "D2: a reader", raw, plain_reader(raw)
    yield "D7: an overlay", disk, qemu_io("-f", "qcow2", overlay)
    yield "D7: an overlay that is read", disk, qemu_io("-r", "-f", "qcow2", overlay)
    if os.geteuid() == 0 and has_loop_devices(raw):
        yield "D2: a loop device", raw, loop_device(raw)
    else:
        print("not tried: loop devices")


def users_are_refused():
    disk, raw, overlay = f"{TMP}/disk.qcow2", f"{TMP}/disk.raw", f"{TMP}/overlay.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", disk, "8M")
    run("qemu-img", "create", "-q", "-f", "raw", raw, "8M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", disk, "-F", "qcow2", overlay)
    tried = 0
    for how, path, user in ways(disk, raw, overlay):
        assert_idle(path, f"before {how}")
        with user as name:
            assert_in_use(path, name, how)
        assert_idle(path, f"after {how}")
        tried += 1
    if tried < 10:
        fail(f"only {tried} ways were tried")


@contextlib.contextmanager
def file_system(kind):
    """A fresh one, mounted; None where that cannot be done."""
    device, folder = f"{TMP}/{kind}.fs", f"{TMP}/{kind}"
    os.mkdir(folder)
    with open(device, "wb") as f:
        f.truncate(320 << 20)
    try:
        run("mkfs." + kind, "-q", device)
        run("mount", "-o", "loop", device, folder)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield folder
    finally:
        run("umount", folder)


def users_are_seen_on(kind):
    """D2: and named, though a subvolume of btrfs has numbers of its own."""
    with file_system(kind) as folder:
        if folder is None:
            print(f"not tried: {kind}")
            return
        if kind == "btrfs":
            run("btrfs", "-q", "subvolume", "create", folder + "/sub")
            folder += "/sub"
        raw = folder + "/disk.raw"
        run("qemu-img", "create", "-q", "-f", "raw", raw, "8M")
        for how, user in (("a reader", plain_reader(raw)), ("a loop device", loop_device(raw)),
                          ("qemu-io", qemu_io("-f", "raw", raw))):
            assert_idle(raw, f"on {kind} before {how}")
            with user as name:
                assert_in_use(raw, name, f"{how} on {kind}")
        assert_idle(raw, f"on {kind} in the end")


def another_hold_is_refused():
    """D9: and the first learns of it."""
    disk = f"{TMP}/disk.qcow2"
    first = Hold(disk)
    second = Hold(disk)
    if first.said != "held" or not second.release().startswith("busy: cannot open"):
        fail(f"two holds: {first.said}, {second.said}")
    if first.whole():
        fail("a hold is whole though another was tried")
    first.release()


def qemu_waits_and_finds_the_image():
    """D3: whoever opens it waits, finds the image, and no locks."""
    disk = f"{TMP}/disk.qcow2"
    for command in (["qemu-img", "info", disk], ["qemu-io", "-f", "qcow2", "-c", "write -P 3 0 64k", disk],
                    ["qemu-io", "-r", "-f", "qcow2", "-c", "read -P 3 0 64k", disk]):
        hold = Hold(disk)
        if hold.said != "held" or not hold.whole():
            fail(f"{disk} cannot be held: {hold.said}")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as opener:
            while hold.whole():
                if opener.poll() is not None:
                    fail(f"{command} went past the hold: {opener.communicate()[0]}")
                time.sleep(0.002)
            if opener.poll() is not None:
                fail(f"{command} did not wait")
            hold.release()
            said = opener.communicate()[0]
            if opener.returncode or "fail" in said:
                fail(f"{command} after the hold: {said}")
    assert_idle(disk, "in the end")


def qemu_is_refused_by_locks():
    """D3, where there is only the user's word: QEMU stops at the locks."""
    disk = f"{TMP}/disk.qcow2"
    hold = Hold(disk, "--assume-idle", "--no-leases")
    if hold.said != "held":
        fail(f"without leases: {hold.said}")
    for command in (["qemu-img", "info", disk], ["qemu-io", "-r", "-f", "qcow2", "-c", "quit", disk],
                    ["qemu-io", "-r", "-U", "-f", "qcow2", "-c", "quit", disk],
                    ["qemu-io", "-f", "qcow2", "-c", "quit", disk]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode == 0 or "lock" not in done.stdout:
            fail(f"{command} was not refused by the locks: {done.stdout}")
    hold.release()
    run("qemu-io", "-r", "-f", "qcow2", "-c", "quit", disk)
    # ... and the other way round: who holds it and shows no process is seen by his locks.
    with qemu_io("-f", "qcow2", disk) as name:
        said = Hold(disk, "--assume-idle", "--no-leases").release()
        if not said.startswith("busy") or name not in said:
            fail(f"without leases, beside {name}: {said}")


def fuse_cannot_tell():
    """B14: a FUSE file system, here one that a QEMU serves."""
    disk, mountpoint = f"{TMP}/disk.qcow2", f"{TMP}/served.raw"
    with open(mountpoint, "wb"):
        pass
    with storage_daemon(disk, "--export", f"type=fuse,id=e,node-name=disk,mountpoint={mountpoint},writable=on"):
        said = Hold(mountpoint).release()
        if not said.startswith("unsupported: ") or " fuse" not in said or "--assume-idle" not in said:
            fail(f"on FUSE: {said}")
        said = Hold(mountpoint, "--assume-idle").release()
        if said != "held":
            fail(f"on FUSE, with --assume-idle: {said}")
        with plain_reader(mountpoint) as name:
            said = Hold(mountpoint, "--assume-idle").release()
            if not said.startswith("busy") or name not in said:
                fail(f"on FUSE, with --assume-idle and {name}: {said}")


def main():
    for tool in ("qemu-io", "qemu-img", "qemu-nbd", "qemu-storage-daemon", "qemu-system-x86_64", "sleep"):
        if not shutil.which(tool):
            skip(f"needs {tool}")
    users_are_refused()
    users_are_seen_on("xfs")
    users_are_seen_on("btrfs")
    another_hold_is_refused()
    qemu_waits_and_finds_the_image()
    qemu_is_refused_by_locks()
    if os.path.exists("/dev/fuse") and shutil.which("fusermount3") and os.geteuid() == 0:
        fuse_cannot_tell()
    else:
        print("not tried: FUSE")


main()
