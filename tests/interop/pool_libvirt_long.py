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
