#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 3600
"""Images in a pool under libvirt.

A libvirtd of its own, in mounts and a network of its own, without acceleration.  Two guests run at once on overlays of one pool; they read
every file that they were made with, write, end and start again.  libvirt changes owners, looks along chains, and is told to commit, pull,
copy, snapshot and save in every way that virsh has: whatever it does, the pool's files hold the same bytes afterwards, and what it writes
into images is still known to dedupscan."""

import contextlib
import ctypes
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import lib_compact as lib
import lib_guest
from lib_compact import FileSystem, Store, fail, run

MINUTES = 15  # software emulation on a busy machine
PROMPT = "guest-is-ready# "
GUEST_MIB = 6
IMAGES = "/var/lib/libvirt/images"  # where libvirt's own profiles let it look
PRIVATE = ("/run/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt", "/etc/libvirt")
OWNER = "libvirt-qemu"

INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
for m in $(cat /modules/order); do insmod /modules/$m; done
while [ ! -b /dev/vda1 ]; do sleep 0.1; done
mount -t ext4 /dev/vda1 /root || poweroff -f
stty -echo
export PS1='{PROMPT}'
exec sh -i </dev/console >/dev/console 2>&1
"""

CONFIG = f"""
user = "{OWNER}"
group = "{OWNER}"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""

DOMAIN = """<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>192</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{boot}/kernel</kernel>
    <initrd>{boot}/initramfs</initrd>
    <cmdline>console=ttyS0 panic=-1 quiet</cmdline>
  </os>
  <features><acpi/></features>
  <on_reboot>destroy</on_reboot>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' {driver}/>
      <source file='{image}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <serial type='unix'>
      <source mode='bind' path='/run/libvirt/{name}.serial'/>
    </serial>
    <memballoon model='none'/>
  </devices>
  {more}
</domain>
"""
AS_ROOT = "<seclabel type='static' model='dac' relabel='no'><label>+0:+0</label></seclabel>"


# ---- libvirt ----


def on_its_own(tmp):
    """Mounts and network of its own, where libvirt's folders are new and empty."""
    lib.mounts_of_its_own()
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
        lib.skip("cannot have a network of its own here")
    for path in PRIVATE:
        mine = os.path.join(tmp, path.strip("/").replace("/", "-"))
        os.makedirs(mine)
        os.makedirs(path, exist_ok=True)
        run("mount", "--bind", mine, path)
    if os.path.isdir("/run/dbus"):  # no machined: what is started here is nobody else's business
        run("mount", "-t", "tmpfs", "none", "/run/dbus")
    os.chmod("/run/libvirt", 0o755)
    os.makedirs(IMAGES)
    with open("/etc/libvirt/qemu.conf", "w", encoding="ascii") as f:
        f.write(CONFIG)
    with open("/etc/libvirt/libvirtd.conf", "w", encoding="ascii") as f:
        f.write('auth_unix_rw = "none"\nunix_sock_group = "root"\n')


class Libvirt:
    """The daemon, and virsh."""

    def __init__(self, tmp):
        self.tmp, self.log = tmp, os.path.join(tmp, "libvirtd.log")

    def __enter__(self):
        with open(self.log, "ab") as f:
            self.process = subprocess.Popen(["libvirtd", "--config", "/etc/libvirt/libvirtd.conf", "--pid-file", self.tmp + "/libvirtd.pid"],
                                            stdout=f, stderr=f, preexec_fn=lib.die_with_parent)
        for _ in range(300):
            if subprocess.run(["virsh", "-q", "version"], capture_output=True, check=False).returncode == 0:
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        self.__exit__()
        lib.skip(f"libvirtd does not start here: {lib_guest.read(self.log).decode('utf-8', 'replace').strip().splitlines()[-1:]}")

    def __exit__(self, *_):
        for name in self.domains():
            subprocess.run(["virsh", "-q", "destroy", name], capture_output=True, check=False, timeout=60)
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        self.process.kill()

    @staticmethod
    def domains():
        done = subprocess.run(["virsh", "-q", "list", "--name"], capture_output=True, text=True, check=False, timeout=60)
        return done.stdout.split()


def virsh(*args, status=0):
    """What it says; `status` None means that it must fail."""
    try:
        done = subprocess.run(["virsh", "-q", *args], capture_output=True, text=True, check=False, timeout=MINUTES * 60)
    except subprocess.TimeoutExpired:
        fail(f"virsh {' '.join(args)} does not end")
    said = done.stdout + done.stderr
    if (done.returncode == 0) != (status == 0):
        fail(f"virsh {' '.join(args)}: status {done.returncode}: {said}")
    return said


def chain_of(name):
    """What libvirt knows of a running domain's disk: (index, file, format, (offset, size) or None), from the top down."""
    found, at = [], ET.fromstring(virsh("dumpxml", name)).find("devices/disk")
    form = at.find("driver")
    while at is not None and at.find("source") is not None:
        part = at.find("source/slices/slice")
        found.append((at.find("source").get("index") or at.get("index"), at.find("source").get("file"),
                      (form if form is not None else at.find("format")).get("type"),
                      None if part is None else (int(part.get("offset")), int(part.get("size")))))
        at, form = at.find("backingStore"), None
    return found


class Guest:
    """A domain with one disk, and its serial line."""

    def __init__(self, boot, name, image, driver="", more=""):
        self.name, self.image, self.line = name, image, None
        self.file = os.path.join(boot, name + ".xml")
        with open(self.file, "w", encoding="ascii") as f:
            f.write(DOMAIN.format(name=name, boot=boot, image=image, driver=driver, more=more))
        subprocess.run(["virsh", "undefine", name], capture_output=True, check=False)
        virsh("define", self.file)

    def start(self):
        virsh("start", self.name)
        return self

    def meet(self):
        """Its first prompt, or, where it was met before, another one."""
        self.said, self.line = "", socket.socket(socket.AF_UNIX)
        self.line.connect(f"/run/libvirt/{self.name}.serial")
        self.line.sendall(b"\n")
        self.until(PROMPT)
        while select.select([self.line], [], [], 2)[0]:  # as many as it took lines
            self.line.recv(4096)
        self.said = ""
        return self

    def until(self, text):
        end = time.monotonic() + MINUTES * 60
        while text not in self.said:
            ready = select.select([self.line], [], [], max(end - time.monotonic(), 0))[0]
            more = self.line.recv(4096) if ready else b""
            if not more:
                fail(f"{self.name}: did not get as far as '{text}'; it said: {self.said[-3000:]}")
            self.said += more.decode("utf-8", "replace")
        before, self.said = self.said.split(text, 1)
        return before

    def do(self, command):
        self.line.sendall(command.encode() + b"\n")
        return self.until(PROMPT)

    def whole(self, after):
        """It reads every file anew."""
        said = self.do("sync; echo 3 >/proc/sys/vm/drop_caches; cd /root; sha256sum -c SUMS >/tmp/said 2>&1 && echo all-is-well || cat /tmp/said")
        if "all-is-well" not in said:
            fail(f"{self.name}, after {after}: {said[-2000:]}")

    def write(self, text):
        self.do(f"echo {text} >/root/written; dd if=/dev/urandom of=/root/noise bs=64k count=16 2>/dev/null; cd /root; "
                "sha256sum noise >noise.sum; sync")

    def wrote(self, text):
        said = self.do("cd /root; cat written; sha256sum -c noise.sum")
        if text not in said or "noise: OK" not in said:
            fail(f"{self.name}: what it wrote is not there: {said}")

    def off(self):
        self.line.sendall(b"cd /; umount /root; poweroff -f\n")
        for _ in range(MINUTES * 60):
            if self.name not in Libvirt.domains():
                return
            time.sleep(1)
        fail(f"{self.name} does not end")

    def kill(self):
        virsh("destroy", self.name)


# ---- the store and its pool ----


class GuestStore(Store):
    """Three guests that hold the same files, each with one of its own."""

    def make(self):
        files = list(self.pick(1, "/usr/bin"))
        for nr, name in enumerate(("g1", "g2", "g3")):
            tree = os.path.join(self.work, name)
            self.copy_files(files, tree, True)
            with open(os.path.join(tree, "name"), "w", encoding="ascii") as f:
                f.write(name * 5000)
            names = sorted(os.listdir(tree))
            with open(os.path.join(tree, "SUMS"), "w", encoding="ascii") as f:
                f.writelines(f"{lib.digest_of(os.path.join(tree, n))}  {n}\n" for n in names)
            raw = os.path.join(self.work, name + ".raw")
            self.disk(raw, tree, self.mib + 16, 1, nr + 1)
            self.convert(raw, f"{name}.qcow2", "qcow2")
            shutil.rmtree(tree)
        return self


def digest(path):
    """Of what a sparse file holds, where, and how long it is."""
    h, size = lib.hashlib.sha256(str(os.path.getsize(path)).encode()), os.path.getsize(path)
    with open(path, "rb") as f:
        at = 0
        while at < size:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(f.fileno(), at, os.SEEK_HOLE)
            while at < end:
                block = os.pread(f.fileno(), min(end - at, 4096 - at % 4096), at)
                if block.strip(b"\0"):
                    h.update(b"%d" % at + block)
                at += len(block)
    return h.hexdigest()


class Pool:
    """Its cluster file and stubs, and what they held when it was made."""

    def __init__(self):
        self.path = os.path.join(IMAGES, lib.POOL)
        self.files = [os.path.join(at, n) for at in (self.path, self.path + "/views") for n in sorted(os.listdir(at)) if n.endswith(".qcow2")]
        self.clusters, self.stubs = self.files[0], self.files[1:]
        self.see()

    def see(self):
        self.digests = {p: digest(p) for p in self.files}

    def unchanged(self, after):
        for path, was in self.digests.items():
            if digest(path) != was:
                fail(f"{os.path.relpath(path, self.path)} was changed by {after}")

    def modes(self, mode, owner=None):
        for path in self.files:
            os.chmod(path, mode)
            if owner is not None:
                os.chown(path, owner, owner)

    def immutable(self, on):
        return subprocess.run(["chattr", "+i" if on else "-i", *self.files], capture_output=True, check=False).returncode == 0

    def owners(self):
        return {os.stat(p).st_uid for p in self.files}


def backing(path):
    return json.loads(run("qemu-img", "info", "-U", "--output=json", path)).get("full-backing-filename")


def header_backing(path):
    """As it stands in the header, byte by byte."""
    with open(path, "rb") as f:
        head = f.read(65536)
    at, length = int.from_bytes(head[8:16], "big"), int.from_bytes(head[16:20], "big")
    return head[at:at + length].decode()


def dedupscan(*args, status=0):
    done = subprocess.run([lib.DEDUPSCAN, *args], capture_output=True, text=True, check=False, timeout=MINUTES * 60)
    if done.returncode != status:
        fail(f"dedupscan {' '.join(args)}: status {done.returncode} instead of {status}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr
