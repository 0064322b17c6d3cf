#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""qcow2 images made by qemu-img and qemu-io, read by us and by libqcow (qcowmount, through FUSE).

qcowmount 20201213 knows neither version 3's zero clusters nor zstd nor extended L2; the rest is the business of qcow2_random.py."""

import os
import random
import shutil
import subprocess
import sys
import tempfile

LONG = bool(os.environ.get("LONG"))
IMGTOOL = os.path.abspath(f"{os.environ.get('BUILD') or 'build'}/tests/interop/imgtool")
KIB = 1024


def libqcow_bytes(path, folder):
    point = os.path.join(folder, "mnt")
    os.makedirs(point, exist_ok=True)
    done = subprocess.run(["qcowmount", path, point], capture_output=True, check=False, timeout=60)
    if done.returncode:
        raise OSError((done.stdout + done.stderr).decode("utf-8", "replace").strip() or "qcowmount failed")
    try:
        with open(os.path.join(point, "qcow1"), "rb") as f:
            return f.read()
    finally:
        subprocess.run(["umount", point], check=True)


def our_bytes(path):
    return subprocess.run([IMGTOOL, "-f", "qcow2", "cat", path], check=True, capture_output=True).stdout


def make(rng, path):
    """Returns what the image holds."""
    raw = path + ".raw"
    with open(raw, "wb") as f:
        f.write(b"".join(rng.choice([bytes(4096), rng.randbytes(4096), bytes([rng.randrange(1, 256)]) * 4096])
                         for _ in range(rng.randrange(1, 600))))
    options = f"compat={rng.choice(['0.10', '1.1'])},cluster_size={rng.choice([512, 4 * KIB, 64 * KIB, 2048 * KIB])}"
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", options] + (["-c"] if rng.random() < 0.4 else [])
    subprocess.run(command + [raw, path], check=True)
    writes = []
    for _ in range(rng.randrange(4)):
        size = os.path.getsize(raw)
        at = rng.randrange(size // 512) * 512
        length = min(rng.randrange(1, 64) * 512, size - at)
        writes += ["-c", f"write -P {rng.randrange(1, 256)} {at} {length}"]
    if writes:
        subprocess.run(["qemu-io", *writes, path], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw], check=True)
    with open(raw, "rb") as f:
        return f.read()


def control(folder):
    """A change that only libqcow sees."""
    path = os.path.join(folder, "control.qcow2")
    make(random.Random(1), path)
    ours = our_bytes(path)
    subprocess.run(["qemu-io", "-c", "write -P 77 0 512", path], check=True, stdout=subprocess.DEVNULL)
    if libqcow_bytes(path, folder) == ours:
        raise SystemExit("the comparison does not find what was planted")


def main():
    for tool in ("qcowmount", "qemu-img", "qemu-io", "umount"):
        if not shutil.which(tool):
            print(f"needs {tool}")
            return 77
    folder = tempfile.mkdtemp(prefix="qcow2_libyal.", dir=os.environ.get("TMP"))
    count, failed = (120 if LONG else 24), []
    try:
        for seed in range(count):
            path = os.path.join(folder, f"d{seed}.qcow2")
            wanted = make(random.Random(seed), path)
            try:
                theirs = libqcow_bytes(path, folder)
            except OSError as e:
                if seed == 0:  # no FUSE here, or none for us
                    print(f"qcowmount does not work here: {e}")
                    return 77
                raise SystemExit(f"seed {seed}: {e}") from e
            if not our_bytes(path) == theirs == wanted:
                failed.append((seed, our_bytes(path) == wanted, theirs == wanted))
        control(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{count} images compared with libqcow, {len(failed)} failed {failed or ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
