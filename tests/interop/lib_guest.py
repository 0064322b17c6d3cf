# SPDX-License-Identifier: Apache-2.0
"""Small guests for QEMU: this machine's Debian kernel, and a first file system of busybox and whatever else is wanted."""

import glob
import os
import stat
import subprocess

import lib_compact as lib

BUSYBOX = "/bin/busybox"
FOLDER, PROGRAM = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755


def kernel():
    """The newest one, and its version; skips where there is none that can be used."""
    kernels = [k for k in sorted(glob.glob("/boot/vmlinuz-*-cloud-amd64")) if os.access(k, os.R_OK)]
    if not kernels or not is_static(BUSYBOX):
        lib.skip("needs linux-image-cloud-amd64 and busybox-static")
    return kernels[-1], kernels[-1].split("vmlinuz-")[1]


def is_static(program):
    said = subprocess.run(["ldd", program], capture_output=True, check=False)
    return b"not a dynamic executable" in said.stderr or b"statically linked" in said.stdout


def read(path):
    with open(path, "rb") as f:
        return f.read()


def cpio(files):
    """An initramfs: {name: (mode, content)}"""
    out = bytearray()
    for nr, (name, (mode, content)) in enumerate(list(files.items()) + [("TRAILER!!!", (0, b""))]):
        fields = [nr + 1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08x" % f for f in fields) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + content
        out += bytes(-len(out) % 4)
    return bytes(out)


def modules_of(version, names):
    """The files of modules and of those that they need, in order of loading."""
    paths = []
    for name in names:
        said = lib.run("modprobe", "-S", version, "--show-depends", name).decode()
        paths += [line.split()[1] for line in said.splitlines() if line.startswith("insmod")]
    return list(dict.fromkeys(paths))


def make_initramfs(path, version, init, modules, more=()):
    """`init` finds modules in /modules and their order in /modules/order; `more` is {name: content} of further programs."""
    paths = modules_of(version, modules)
    files = {d: (FOLDER, b"") for d in ("bin", "dev", "modules", "proc", "root", "sys", "tmp")}
    files["bin/busybox"] = (PROGRAM, read(BUSYBOX))
    files["init"] = (PROGRAM, init.encode())
    files["modules/order"] = (PROGRAM, " ".join(os.path.basename(m) for m in paths).encode())
    for m in paths:
        files["modules/" + os.path.basename(m)] = (PROGRAM, read(m))
    for name, content in dict(more).items():
        folder = os.path.dirname(name)
        for at in (folder[:i] for i in range(1, len(folder) + 1) if i == len(folder) or folder[i] == "/"):
            files.setdefault(at, (FOLDER, b""))
        files[name] = (PROGRAM, content)
    with open(path, "wb") as f:
        f.write(cpio(files))


def qemu(kernel_file, initramfs, disk, form, memory_mib, append):
    """A command; the serial line is its standard input and output."""
    return ["qemu-system-x86_64", "-accel", "tcg", "-m", str(memory_mib), "-nodefaults", "-display", "none", "-serial", "stdio",
            "-no-reboot", "-kernel", kernel_file, "-initrd", initramfs, "-append", f"console=ttyS0 panic=-1 quiet {append}",
            "-drive", f"file={disk},format={form},if=virtio"]
