#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 3600
"""Images in a pool under libvirt.

A libvirtd of its own, in mounts and a network of its own, without acceleration.  Two guests run at once on overlays of one pool;
they read every file that they were made with, write, end and start again.  libvirt changes owners, looks along chains, and is told
to commit, pull, copy, snapshot and save in every way that virsh has.  Whatever it does, the pool's files hold the same bytes
afterwards, and what it writes into images is still known to dedupscan."""

import contextlib
import ctypes
import hashlib
import json
import os
import pwd
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
from lib_immutable import is_immutable

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
            command = ["libvirtd", "--config", "/etc/libvirt/libvirtd.conf", "--pid-file", self.tmp + "/libvirtd.pid"]
            self.process = subprocess.Popen(command, stdout=f, stderr=f, preexec_fn=lib.die_with_parent)
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
        said = self.do("sync; echo 3 >/proc/sys/vm/drop_caches; cd /root; "
                       "sha256sum -c SUMS >/tmp/said 2>&1 && echo all-is-well || cat /tmp/said")
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

    def end(self):
        """At once."""
        if self.line:
            self.do("sync")
        self.line = None
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
    size = os.path.getsize(path)
    h = hashlib.sha256(b"%d" % size)
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
        self.files = [os.path.join(at, n) for at in (self.path, self.path + "/views", self.path + "/sealed")
                      for n in sorted(os.listdir(at)) if n.endswith(".qcow2")]
        self.clusters, self.stubs = self.files[0], [p for p in self.files if "/views/" in p]
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

    def immutable(self, how):
        """As `how` says from now on; how many of its files are."""
        dedupscan("pool", "repair", f"--immutable={how}", IMAGES)
        return sum(is_immutable(p) for p in self.files)

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


# ---- what libvirt does by itself ----


def check_chain(guest, pool):
    """Overlay, stub, view, and no further: at the beginning of the cluster file is nothing that libvirt follows."""
    chain = chain_of(guest.name)
    stub = json.loads(backing(guest.image)[5:])["file"]
    if [c[1] for c in chain] != [guest.image, stub["file"]["filename"], pool.clusters] or [c[2] for c in chain] != ["qcow2"] * 3:
        fail(f"{guest.name}: libvirt sees {chain}")
    if chain[0][3] or chain[1][3] != (0, os.path.getsize(chain[1][1])) or not chain[2][3][0]:
        fail(f"{guest.name}: libvirt sees other slices: {chain}")


def check_reading(boot, usual):
    """What a stub says of it, libvirt passes over.  A disk's own io is that of its whole chain."""
    if not io_uring_is_allowed():
        return
    other = Guest(boot, "g3", os.path.join(IMAGES, "g3.qcow2"), "io='io_uring'")
    virsh("start", "--paused", other.name)
    for guest, aio in ((usual, None), (other, "io_uring")):
        with open(f"/run/libvirt/qemu/{guest.name}.pid", encoding="ascii") as f:
            command = lib_guest.read(f"/proc/{int(f.read())}/cmdline").split(b"\0")
        nodes = [json.loads(x) for x in command if x.startswith(b'{"driver":"file"')]
        if len(nodes) != 3 or any(n.get("aio") != aio for n in nodes):
            fail(f"{guest.name} reads {nodes}")
    other.end()


def check_profile(guest, pool):
    """What the guest's AppArmor profile would grant: to write to the overlay, to read the rest."""
    helper = "/usr/lib/libvirt/virt-aa-helper"
    if not os.path.exists(helper):
        return
    command = [helper, "-d", "-r", "-u", "libvirt-" + virsh("domuuid", guest.name).strip()]
    done = subprocess.run(command, input=virsh("dumpxml", guest.name), capture_output=True, text=True, check=False)
    granted = done.stdout + done.stderr
    for path, rights in ((guest.image, "rwk"), (chain_of(guest.name)[1][1], "rk"), (pool.clusters, "rk")):
        if f'"{path}" {rights},' not in granted:
            fail(f"virt-aa-helper does not grant {rights} on {path}: {granted}")
    for path in (chain_of(guest.name)[1][1], pool.clusters):
        if f'deny "{path}" w,' not in granted:
            fail(f"virt-aa-helper grants writing to {path}: {granted}")


def check_owners(guest, pool, uid):
    """libvirt gives what it opens to its user, and does not take it back; it goes on where it may not.  So does dedupscan."""
    used = {pool.clusters, chain_of(guest.name)[1][1]}
    for path in pool.files:
        st = os.stat(path)
        if st.st_mode & 0o7777 != 0o444 or (path in used and st.st_uid != (0 if is_immutable(path) else uid)):
            fail(f"{path} is of {st.st_uid}, mode {st.st_mode:o}")
        if any(n.startswith("trusted.libvirt") for n in os.listxattr(path)):
            fail(f"libvirt remembers the owner of {path} now")


def check_tools(tmp, pool, what):
    """They run beside guests."""
    before = header_backings()
    for args in (("check", "--read-data"), ("status",), ("collect",), ("collect",), ("repair",)):
        dedupscan("pool", *args, IMAGES)
    compacted(tmp)
    dedupscan("recover", IMAGES)
    if header_backings() != before:
        fail(f"{what}: an image was changed: {before}, {header_backings()}")
    pool.unchanged(f"dedupscan, {what}")


def header_backings():
    return {n: header_backing(os.path.join(IMAGES, n)) for n in os.listdir(IMAGES) if n.endswith(".qcow2")}


def compacted(tmp):
    return lib.compact(IMAGES, os.path.join(tmp, "catalog"), "--method", "pool", "--cross-owner", "--host-cache", "yes",
                       "--l2-cache", "2M", *(("--aio", "io_uring") if io_uring_is_allowed() else ()), "--apply")


def io_uring_is_allowed():
    try:
        with open("/proc/sys/kernel/io_uring_disabled", encoding="ascii") as f:
            return int(f.read()) == 0
    except FileNotFoundError:
        return True


# ---- what it is told to do ----


def commit(guest, *more, status=None):
    return virsh("blockcommit", guest.name, "vda", "--wait", *more, status=status)


def check_commits(guest, pool, what, why=""):
    """Into every layer below: all fail, the guest does not notice."""
    chain = chain_of(guest.name)
    stub, view = f"vda[{chain[1][0]}]", f"vda[{chain[2][0]}]"
    for more in ((), ("--base", stub), ("--base", view), ("--shallow",)):
        said = commit(guest, "--active", "--pivot", *more)
        if why not in said:
            fail(f"{what}: blockcommit {' '.join(more)} says '{said}', not '{why}'")
        if chain_of(guest.name) != chain:
            fail(f"{what}: blockcommit {' '.join(more)} left {chain_of(guest.name)}")
        pool.unchanged(f"blockcommit {' '.join(more)}, {what}")
    guest.whole(f"commits, {what}")
    guest.wrote("before")


def check_commit_of_stub(guest, pool):
    """Nothing is in a stub, so where the view can be opened for writing this is done, and changes the overlay's header alone."""
    before, chain = header_backing(guest.image), chain_of(guest.name)
    commit(guest, "--top", f"vda[{chain[1][0]}]", "--base", f"vda[{chain[2][0]}]", status=0)
    if [c[1] for c in chain_of(guest.name)] != [guest.image, pool.clusters]:
        fail(f"the stub committed: {chain_of(guest.name)}")
    commit(guest, "--active", "--pivot")
    pool.unchanged("a commit of the stub, then into the view")
    guest.whole("a commit of the stub")
    guest.end()
    as_before(guest.image, before)


def as_before(image, name):
    """The way back that QEMU has, for an image that nobody uses."""
    run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", name, image)
    if header_backing(image) != name:
        fail(f"{image} does not stand on {name} again")


def check_control(boot, pool):
    """The very commands succeed on an ordinary chain, and are seen to change its base."""
    base, image = os.path.join(IMAGES, "control-base.qcow2"), os.path.join(IMAGES, "control.qcow2")
    run("qemu-img", "convert", "-O", "qcow2", os.path.join(IMAGES, "g3.qcow2"), base)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, image)
    run("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 20M 64k", image)
    was = digest(base)
    guest = Guest(boot, "control", image).start()
    commit(guest, "--active", "--pivot", status=0)
    guest.end()
    if digest(base) == was:
        fail("a commit into an ordinary base is not seen")
    pool.unchanged("a commit elsewhere")
    for path in (base, image):
        os.unlink(path)


def check_pulls(guest, pool):
    """--base of the stub drops "read-only", --base of the view the stub; without --base the image is independent."""
    before = header_backing(guest.image)
    chain = chain_of(guest.name)
    virsh("blockpull", guest.name, "vda", "--wait", "--base", f"vda[{chain[1][0]}]")
    if header_backing(guest.image) != as_libvirt_writes(before):
        fail(f"blockpull --base of the stub wrote {header_backing(guest.image)}")
    virsh("blockpull", guest.name, "vda", "--wait", "--base", f"vda[{chain[2][0]}]")
    if header_backing(guest.image) != as_libvirt_writes(header_backing(chain[1][1])):
        fail(f"blockpull --base of the view wrote {header_backing(guest.image)}")
    guest.whole("blockpull --base")
    commit(guest, "--active", "--pivot")
    pool.unchanged("blockpull --base, and a commit")
    virsh("blockpull", guest.name, "vda", "--wait")
    if header_backing(guest.image) or len(chain_of(guest.name)) != 1:
        fail(f"blockpull left {chain_of(guest.name)}")
    guest.whole("blockpull")
    guest.wrote("before")
    pool.unchanged("blockpull")


def as_libvirt_writes(name):
    """It drops what the name says beside files and places."""
    for dropped in ('"read-only":true,', '"l2-cache-size":2097152,', ',"aio":"threads"', ',"aio":"io_uring"',
                    ',"cache":{"direct":false}'):
        name = name.replace(dropped, "")
    return name


def check_copies(guest, pool):
    """A shallow copy stands on the stub, without "read-only"; a whole one on nothing; a push backup is whole."""
    full, shallow = os.path.join(IMAGES, "full.qcow2"), os.path.join(IMAGES, "shallow.qcow2")
    for path, more in ((full, ()), (shallow, ("--shallow",))):
        virsh("blockcopy", guest.name, "vda", "--dest", path, "--format", "qcow2", "--transient-job", "--wait", "--finish", *more)
    if header_backing(full) or header_backing(shallow) != as_libvirt_writes(header_backing(guest.image)):
        fail(f"blockcopy wrote '{header_backing(full)}', '{header_backing(shallow)}'")
    same_when_closed(full, shallow)
    os.unlink(full)
    with open(guest.file, "w", encoding="ascii") as f:
        f.write(f"<domainbackup mode='push'><disks><disk name='vda' type='file'><target file='{full}'/>"
                "<driver type='qcow2'/></disk></disks></domainbackup>")
    virsh("backup-begin", guest.name, guest.file)
    for _ in range(MINUTES * 60):
        said = virsh("domjobinfo", guest.name, "--completed")  # or of the job before
        if "Completed" in said and "Backup" in said:
            break
        time.sleep(1)
    else:
        fail(f"the backup does not end: {said}")
    same_when_closed(full, shallow)
    for path in (full, shallow):
        os.unlink(path)
    guest.whole("blockcopy")
    pool.unchanged("blockcopy and backup-begin")


def same_when_closed(*images):
    """A job is over a moment before QEMU closes its image."""
    for path in images:
        for _ in range(MINUTES * 60):
            if subprocess.run(["qemu-img", "info", path], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(1)
    run("qemu-img", "compare", *images)


def check_snapshots(guest, pool):
    chain, upper, before = chain_of(guest.name), os.path.join(IMAGES, "upper.qcow2"), header_backing(guest.image)
    for delete in (("snapshot-delete", guest.name, "s"),
                   ("blockcommit", guest.name, "vda", "--active", "--pivot", "--wait", "--shallow")):
        virsh("snapshot-create-as", guest.name, "s", "--disk-only", "--diskspec", f"vda,file={upper}")
        if [c[1] for c in chain_of(guest.name)[1:]] != [c[1] for c in chain]:
            fail(f"a snapshot made {chain_of(guest.name)}")
        guest.write("before")
        commit(guest, "--active", "--pivot")  # into the view
        virsh(*delete)
        if [c[1] for c in chain_of(guest.name)] != [c[1] for c in chain]:
            fail(f"{' '.join(delete)} made {chain_of(guest.name)}")
        if delete[0] != "snapshot-delete":
            virsh("snapshot-delete", guest.name, "s", "--metadata")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(upper)
        guest.whole(" ".join(delete))
        guest.wrote("before")
    virsh("snapshot-create-as", guest.name, "inside")
    virsh("snapshot-revert", guest.name, "inside")
    virsh("snapshot-delete", guest.name, "inside")
    guest.meet().whole("a snapshot within the image")  # reverting starts QEMU anew
    if header_backing(guest.image) != before:
        fail(f"snapshots wrote {header_backing(guest.image)}")
    pool.unchanged("snapshots")


def check_saved(guest, pool):
    virsh("managedsave", guest.name)
    dedupscan("pool", "check", IMAGES)
    guest.start().meet().whole("managedsave")
    guest.wrote("before")
    pool.unchanged("managedsave")


def check_volumes(pool):
    """The pool in a folder of libvirt's: one entry, which cannot be deleted.  Images show their stub."""
    virsh("pool-create-as", "folder", "dir", "--target", IMAGES)
    virsh("pool-refresh", "folder")
    listed = virsh("vol-list", "folder")
    if "/views/" in listed or os.path.basename(pool.clusters) in listed:
        fail(f"libvirt lists files of the pool: {listed}")
    for path in (lib.POOL, pool.clusters, pool.stubs[0]):
        virsh("vol-delete", path, "folder", status=None)
        virsh("vol-wipe", path, "folder", status=None)
    stub = json.loads(header_backing(os.path.join(IMAGES, "g3.qcow2"))[5:])["file"]["file"]["filename"]
    if f"<path>{stub}</path>" not in virsh("vol-dumpxml", "g3.qcow2", "folder"):
        fail("vol-dumpxml does not show the stub")
    virsh("vol-clone", "g3.qcow2", "cloned.qcow2", "--pool", "folder")
    cloned = os.path.join(IMAGES, "cloned.qcow2")
    run("qemu-img", "compare", os.path.join(IMAGES, "g3.qcow2"), cloned)
    if header_backing(cloned):
        fail(f"vol-clone made {header_backing(cloned)}")
    virsh("vol-delete", "cloned.qcow2", "folder")
    virsh("pool-destroy", "folder")
    pool.unchanged("vol-*")


# ---- how dedupscan takes what libvirt wrote ----


def check_rewritten(tmp, boot, pool):
    """Without "read-only" an image is a member as before.  A clone of it, and it itself once it is sealed, have the key again."""
    image, clone = os.path.join(IMAGES, "g2.qcow2"), os.path.join(IMAGES, "clone.qcow2")
    as_before(image, as_libvirt_writes(header_backing(image)))
    dedupscan("info", image)
    check_tools(tmp, pool, 'of an image without "read-only"')
    dedupscan("clone", image, clone)  # what the guest wrote is sealed: another layer
    for path in (image, clone):
        name = header_backing(path)
        if name == as_libvirt_writes(name) or "/sealed/" not in name:
            fail(f"{path} stands on {name}")
    for guest in [Guest(boot, n, p).start() for n, p in (("g2", image), ("clone", clone))]:
        guest.meet().whole("a clone")
        guest.wrote("before")
        if len(chain_of(guest.name)) != 4:
            fail(f"a clone: libvirt sees {chain_of(guest.name)}")
        guest.end()
    pool.unchanged("a clone")


def check_bypassed(tmp, pool):
    """An image that libvirt put on the view itself: it is read, left alone, no member; it becomes one again by way of `expand`."""
    image, raw = os.path.join(IMAGES, "g3.qcow2"), os.path.join(tmp, "bypassed.raw")
    stub = json.loads(header_backing(image)[5:])["file"]["file"]["filename"]
    lib.guest_raw(image, raw)
    as_before(image, as_libvirt_writes(header_backing(stub)))
    dedupscan("info", image)
    check_tools(tmp, pool, "of an image on a view")
    for args in (("clone", image, image + ".clone"), ("snapshot", "not-kept", image)):
        if "does not stand on the pool" not in dedupscan(*args, status=3):
            fail(f"dedupscan {args[0]} of an image on a view says something else")
    dedupscan("expand", "--keep-originals", "0", image)
    if header_backing(image):
        fail("an expanded image stands on something")
    run("qemu-img", "compare", raw, image)
    os.unlink(raw)
    shutil.copyfile(image, os.path.join(IMAGES, "g3-too.qcow2"))  # two of the same are worth entering
    compacted(tmp)
    if "/views/" not in header_backing(image):
        fail(f"it did not enter the pool again: {header_backing(image)}")
    dedupscan("pool", "check", "--read-data", IMAGES)


# ---- all of it ----


def make_boot(tmp):
    boot = "/var/lib/libvirt/boot"
    kernel, version = lib_guest.kernel()
    os.makedirs(boot)
    shutil.copyfile(kernel, boot + "/kernel")
    lib_guest.make_initramfs(boot + "/initramfs", version, INIT, ("virtio_pci", "virtio_blk", "ext4"))
    for name in os.listdir(boot):
        os.chmod(os.path.join(boot, name), 0o644)
    return GuestStore(os.path.join(tmp, "store"), os.path.join(tmp, "work"), GUEST_MIB).make(), boot


def check_all(tmp, boot, uid):
    pool = Pool()
    if not all(map(is_immutable, pool.files)):
        fail("the pool's files are not immutable")
    g1, g2 = (Guest(boot, n, os.path.join(IMAGES, n + ".qcow2"), how).start()
              for n, how in (("g1", ""), ("g2", "cache='none' io='native'")))
    for guest in (g1, g2):
        check_chain(guest, pool)
        check_profile(guest, pool)
        check_owners(guest, pool, uid)
    check_reading(boot, g1)
    for guest in (g1, g2):
        guest.meet().whole("the start")
        guest.write("before")
    check_tools(tmp, pool, "beside guests")
    print("two guests at once: done", flush=True)
    check_commits(g1, pool, "another guest beside", "Operation not permitted")
    g2.whole("commits of another")
    for guest in (g1, g2):
        guest.off()
    g1.start().meet().whole("another start")
    g1.wrote("before")
    check_commits(g1, pool, "alone", "Operation not permitted")
    check_snapshots(g1, pool)
    check_saved(g1, pool)
    check_copies(g1, pool)
    print("snapshots, saving, copies: done", flush=True)
    g1.end()
    check_modes(boot, pool, uid)
    check_control(boot, pool)
    check_volumes(pool)
    pulled = Guest(boot, "g1", g1.image).start().meet()
    check_pulls(pulled, pool)
    pulled.end()
    compacted(tmp)
    if "/views/" not in header_backing(g1.image):
        fail("an image that was made independent does not enter the pool again")
    for _ in range(2):
        dedupscan("pool", "collect", IMAGES)  # the view that it stood on goes
    check_bypassed(tmp, Pool())
    check_rewritten(tmp, boot, Pool())


def check_modes(boot, pool, uid):
    """Without the flag: with a QEMU that no mode stops; with files that anybody may write to; with files that only their owner reads,
    which libvirt has to change."""
    image = os.path.join(IMAGES, "g1.qcow2")
    if pool.immutable("never"):
        fail("some files are immutable still")
    guest = Guest(boot, "g1", image).start().meet()
    check_owners(guest, pool, uid)
    check_commits(guest, pool, "files that are not immutable", "Permission denied")
    guest.end()
    pool.modes(0o444, 0)
    root = Guest(boot, "g1", image, more=AS_ROOT).start().meet()
    check_commits(root, pool, "QEMU as root")
    check_commit_of_stub(root, pool)
    pool.modes(0o644, 0)
    guest = Guest(boot, "g1", image).start().meet()
    check_commits(guest, pool, "files that may be written to")
    guest.end()
    pool.modes(0o444, 0)
    print("commits: done", flush=True)
    pool.modes(0o400, 0)
    if pool.immutable("auto"):
        fail("files that not everybody may read are immutable")
    guest.start().end()
    dedupscan("pool", "check", IMAGES)
    pool.modes(0o400, 0)
    if pool.immutable("always") != len(pool.files):
        fail("some files are not immutable")
    virsh("start", "g1", status=None)  # so that is not how it is unless it was asked for
    pool.immutable("never")
    pool.modes(0o444, 0)


def check_other_owners(boot, pool):
    """Where libvirt leaves owners alone, files that all may read are enough, and nothing less."""
    image = os.path.join(IMAGES, "g3.qcow2")
    pool.modes(0o444, 0)
    os.chmod(image, 0o666)
    guest = Guest(boot, "g3", image).start().meet()
    guest.whole("a start without change of owners")
    if pool.owners() != {0}:
        fail(f"owners have changed: {pool.owners()}")
    guest.end()
    pool.modes(0o400, 0)
    virsh("start", "g3", status=None)
    pool.modes(0o444, 0)
    pool.unchanged("starts without change of owners")


def main():
    lib.exit_on_signals()
    lib.require("qemu-img", "qemu-io", "qemu-system-x86_64", "virsh", "libvirtd", "modprobe", "busybox",
                "mke2fs", "sfdisk", "chattr")
    try:
        uid = pwd.getpwnam(OWNER).pw_uid
    except KeyError:
        lib.skip(f"there is no user {OWNER}, whom libvirt has its guests run as")
    tmp = lib.scratch("pool_libvirt")
    on_its_own(tmp)
    store, boot = make_boot(tmp)
    fs = FileSystem("ext4", tmp, 600)
    fs.path = IMAGES
    with fs:
        run("cp", "-a", "--sparse=always", store.folder + "/.", fs.path)
        if compacted(tmp).states() != {"done": 3}:
            fail("not all images entered the pool")
        with Libvirt(tmp):
            check_all(tmp, boot, uid)
        with open("/etc/libvirt/qemu.conf", "a", encoding="ascii") as f:
            f.write("dynamic_ownership = 0\n")
        with Libvirt(tmp):
            check_other_owners(boot, Pool())


if __name__ == "__main__":
    main()
