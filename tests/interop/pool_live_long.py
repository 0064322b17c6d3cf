#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 3600
"""Versions of a machine of libvirt's that runs.

A guest without acceleration counts on its two disks, a number to the second, synced, then to the first, synced.  So of any one
moment the second disk has as many numbers as the first, or one more; and whatever is lost or comes twice is seen.  Meanwhile
versions are made; dedupscan is killed at its calls; the guest is ended and started in between; libvirt's own commands come after
it."""

import itertools
import os
import shutil
import subprocess
import sys
import time

import lib_compact as lib
import pool_libvirt_long as libvirt
from lib_compact import DEDUPSCAN, LONG, FileSystem, fail, run
from pool_libvirt_long import IMAGES, Guest, Libvirt, Pool, chain_of, compacted, dedupscan, virsh

NR_POINTS = 40 if LONG else 12
CALLS = "renameat2,unlinkat,fsync,fdatasync,pwrite64,fchmod,wait4"
PATHS = [os.path.join(IMAGES, n) for n in ("g1.qcow2", "g2.qcow2")]
SECOND = f"""<disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{PATHS[1]}'/>
      <target dev='vdb' bus='virtio'/>
    </disk>
    <serial type"""
COUNT = ("i=$(cat /root/log | wc -l); while [ ! -e /tmp/stop ]; do i=$((i+1)); echo $i >>/more/log; sync; echo $i >>/root/log; sync; "
         "echo $i >/tmp/new; mv /tmp/new /tmp/synced; done &")
LINE = 8  # bytes of a line of it, at most
numbers = itertools.count(1)


class Daemon(Libvirt):
    def again(self):
        """Guests run on meanwhile."""
        self.process.terminate()
        self.process.wait(60)
        self.__enter__()


class Machine(Guest):
    """It counts."""

    def begin(self):
        self.start().meet()
        return self.count()

    def count(self):
        self.do(COUNT)
        return self

    def synced(self):
        return int(next((w for w in self.do("cat /tmp/synced; echo x").split() if w.isdigit()), "0"))

    def goes_on(self, after):
        """It is not stuck, and lost nothing."""
        was = self.synced()
        for _ in range(600):
            if self.synced() > was:
                break
            time.sleep(0.5)
        else:
            fail(f"after {after} the guest does not go on")
        said = self.do("touch /tmp/stop; wait; rm /tmp/stop; sync; echo 3 >/proc/sys/vm/drop_caches; n=$(cat /tmp/synced); "
                       "seq 1 $n | cmp - /root/log && seq 1 $n | cmp - /more/log && cd /root && sha256sum -c SUMS >/tmp/said 2>&1 && "
                       "cd /more && sha256sum -c SUMS >/tmp/said 2>&1 && echo all-is-well; cat /tmp/said | grep -v OK")
        if "all-is-well" not in said:
            fail(f"after {after} the guest has: {said[-1000:]}")
        return self.count()

    def again(self, after):
        """Ended at once and started again: what was synced is there."""
        least = self.synced()
        virsh("destroy", self.name)
        return self.started(least, after)

    def started(self, least, after):
        self.start().meet()
        # file systems without a journal: of the line that was being written there may be the length, and no bytes
        said = self.do("a=$(wc -l </root/log); b=$(wc -l </more/log); head -n $a /root/log >/tmp/a; head -n $b /more/log >/tmp/b; "
                       "seq 1 $a | cmp - /tmp/a && seq 1 $b | cmp - /tmp/b && "
                       "echo has $a $b $(($(wc -c </root/log) - $(wc -c </tmp/a))) $(($(wc -c </more/log) - $(wc -c </tmp/b))); "
                       "cat /tmp/a >/root/log; head -n $a /tmp/b >/more/log; sync")
        a, b, *torn = (int(w) for w in said[said.find("has"):].split()[1:5]) if "has" in said else (-1, -1)
        if not least <= a <= b <= a + 1 or max(torn) > LINE:
            fail(f"after {after} and another start the guest has '{said[-500:]}', and had synced {least}")
        return self.count()


def sources(*more):
    return [line.split()[3] for line in virsh("domblklist", "--details", "g1", *more).splitlines() if line.split()]


def strays():
    return sorted(n for n in os.listdir(IMAGES) if ".live-" in n)


def at_home(after):
    """Live and configured, at the images' own paths, on what was sealed; and nothing lies about."""
    for more in ((), ("--inactive",)):
        if sources(*more) != PATHS:
            fail(f"after {after} the machine has {more} {sources(*more)}")
    if strays():
        fail(f"after {after} there are {strays()}")
    chain = [c[1] for c in chain_of("g1")]
    below = libvirt.json.loads(libvirt.header_backing(PATHS[0])[5:])["file"]["file"]["filename"]
    if chain[:2] != [PATHS[0], below]:
        fail(f"after {after} libvirt sees {chain}")
    for path in [c for c in chain if "/sealed/" in c]:
        if os.stat(path).st_mode & 0o222:
            fail(f"{path} can be written to")
    dedupscan("pool", "check", IMAGES)


def snapshot(*more, status=0):
    label = f"v{next(numbers)}"
    return label, dedupscan("snapshot", "--live", *more, label, *PATHS, status=status)


def numbers_of(tmp, path, label):
    """How far a version had counted."""
    raw, at = os.path.join(tmp, "version.raw"), os.path.join(tmp, "version")
    dedupscan("restore", "--format", "raw", f"{path}@{label}", raw)
    os.makedirs(at, exist_ok=True)
    run("mount", "-o", f"loop,offset={1 << 20}", raw, at)
    with open(os.path.join(at, "log"), encoding="ascii") as f:
        found = [int(n) for n in f]
    run("umount", at)
    os.unlink(raw)
    if found != list(range(1, len(found) + 1)):
        fail(f"{path}@{label} has {found[-20:]}")
    return len(found)


def check_version(tmp, label, least, most):
    a, b = (numbers_of(tmp, p, label) for p in PATHS)
    if not least <= a <= b <= a + 1 or a > most:
        fail(f"version {label} has {a} and {b} numbers; it was made between {least} and {most}")


def check_plain(tmp, m):
    m.goes_on("the start")
    least = m.synced()
    label, said = snapshot()
    if "2 disks sealed" not in said:
        fail(f"snapshot --live says '{said}'")
    most = m.synced()
    at_home("a version")
    m.goes_on("a version")
    compacted(tmp)  # beside the guest
    at_home("folding")
    check_version(tmp, label, least, most)


def check_refusals(m):
    before = [libvirt.header_backing(p) for p in PATHS]
    label, _ = snapshot("--quiesce", status=3)  # there is no agent
    if f"@{label}" in dedupscan("list", IMAGES):
        fail("a version that could not be made is there")
    done = subprocess.run([DEDUPSCAN, "snapshot", "--live", "no", *PATHS], env={"PATH": "/nowhere"}, capture_output=True, text=True,
                          check=False)
    if done.returncode != 3 or "there is no virsh" not in done.stderr:
        fail(f"without virsh it says {done.returncode}, '{done.stderr}'")
    dedupscan("snapshot", "--live", "no", os.path.join(IMAGES, "g3.qcow2"), status=2)
    dedupscan("snapshot", "no", *PATHS, status=4)
    if [libvirt.header_backing(p) for p in PATHS] != before or "@no" in dedupscan("list", IMAGES):
        fail("a version that was refused left something")
    at_home("refusals")
    m.goes_on("refusals")


def fold(tmp, m):
    """Folded in beside the guest; it lets go of what was sealed while it is off."""
    compacted(tmp)
    least = m.synced()
    virsh("destroy", m.name)
    compacted(tmp)
    for path in PATHS:
        if "/views/" not in libvirt.header_backing(path):
            fail(f"{path} stands on {libvirt.header_backing(path)}")
    m.started(least, "folding")
    dedupscan("pool", "check", "--read-data", IMAGES)


def check_what_libvirt_does(tmp, m, daemon):
    """Afterwards, to the machine whose images stand on something sealed."""
    snapshot()
    sealed = [p for p in Pool().files if "/sealed/" in p]
    digests = {p: libvirt.digest(p) for p in sealed}
    for more in (("--shallow",), ("--base", "vda[2]")):
        libvirt.commit(m, "--active", "--pivot", *more)
    upper = os.path.join(IMAGES, "upper.qcow2")
    virsh("snapshot-create-as", m.name, "s", "--disk-only", "--diskspec", f"vda,file={upper}", "--diskspec", "vdb,snapshot=no",
          "--no-metadata")
    virsh("blockcommit", m.name, "vda", "--active", "--pivot", "--wait", "--shallow")
    os.unlink(upper)
    at_home("libvirt's own snapshot")
    m.goes_on("libvirt's own snapshot")
    virsh("managedsave", m.name)
    virsh("start", m.name)
    m.meet().goes_on("managedsave")
    daemon.again()
    at_home("another libvirtd")
    snapshot()
    m.goes_on("another libvirtd, and a version")
    m.again("libvirt's own commands")
    if {p: libvirt.digest(p) for p in sealed} != digests:
        fail("libvirt changed what was sealed")
    at_home("libvirt's own commands")


# ---- kills ----


def traced(tmp, *inject):
    log = os.path.join(tmp, "calls")
    command = ["strace", "-qq", "-y", "-o", log, "-e", f"trace={CALLS}", *inject]
    command += [DEDUPSCAN, "snapshot", "--live", f"v{next(numbers)}", *PATHS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    return done, log


def points(tmp):
    done, log = traced(tmp)
    if done.returncode:
        fail(f"under strace: {done.stderr}")
    counts = {}
    with open(log, encoding="utf-8", errors="replace") as f:
        for line in f:
            call = line.split("(")[0]
            if call in CALLS:
                counts[call] = counts.get(call, 0) + 1
    found = [(call, n) for call in counts for n in range(1, counts[call] + 1)]
    step = max(1, -(-len(found) // NR_POINTS))
    return found[::step]


def check_kill(tmp, m, call, n, what):
    after = f"a kill at {call} {n}, {what}"
    print(after, flush=True)
    done, _ = traced(tmp, "-e", f"inject={call}:signal=KILL:when={n}")
    least = m.synced()
    aside = strays()
    if what == "then recover":
        m.goes_on(after)
    elif what == "off":
        virsh("destroy", m.name)
    elif what == "started again":
        m.again(after)
    dedupscan("recover", IMAGES)
    if what == "off":
        m.started(least, after)
    at_home(after)
    m.goes_on(after)
    return done.returncode, bool(aside)


def check_kills(tmp, m):
    aside = 0
    for i, ((call, n), what) in enumerate(zip(points(tmp), itertools.cycle(("at once", "off", "started again", "then recover")))):
        status, was = check_kill(tmp, m, call, n, what)
        aside += was
        if i % 3 == 2:
            fold(tmp, m)
    if not aside:
        fail("no kill left a guest aside")


# ---- all of it ----


def main():
    lib.exit_on_signals()
    lib.require("qemu-img", "qemu-io", "qemu-system-x86_64", "virsh", "libvirtd", "modprobe", "busybox", "mke2fs", "sfdisk",
                "strace")
    tmp = lib.scratch("pool_live")
    libvirt.on_its_own(tmp)
    libvirt.INIT = libvirt.INIT.replace("stty -echo", "mkdir /more; mount -t ext4 /dev/vdb1 /more || poweroff -f\nstty -echo")
    libvirt.DOMAIN = libvirt.DOMAIN.replace("<serial type", SECOND, 1)
    store, boot = libvirt.make_boot(tmp)
    fs = FileSystem("ext4", tmp, 900)
    fs.path = IMAGES
    with fs:
        run("cp", "-a", "--sparse=always", store.folder + "/.", fs.path)
        compacted(tmp)
        with Daemon(tmp) as daemon:
            m = Machine(boot, "g1", PATHS[0]).begin()
            check_plain(tmp, m)
            check_refusals(m)
            print("a version: done", flush=True)
            fold(tmp, m)
            check_what_libvirt_does(tmp, m, daemon)
            fold(tmp, m)
            print("libvirt's own commands: done", flush=True)
            check_kills(tmp, m)
            m.end()
            dedupscan("pool", "check", "--read-data", IMAGES)


if __name__ == "__main__":
    main()
