#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 1200
"""F1: while scans run, a folder, a file and a part of a path in an image are swapped for symbolic links that lead outside, as
fast as the kernel does it.  Nothing outside is ever opened."""

import ctypes
import os
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "interop"))
import lib_attack_qcow2
from lib_canaries import Canaries

TMP, PROGRAM = os.environ["TMP"], os.environ["DEDUPSCAN"]
SECONDS = 600 if os.environ.get("LONG") else 4
EXCHANGE = 2
libc = ctypes.CDLL(None, use_errno=True)


def swap(a, b):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), "cannot exchange names here")


class Racer(threading.Thread):
    """ctypes gives up the interpreter's lock in calls, so this runs beside the rest."""

    def __init__(self, pairs):
        super().__init__(daemon=True)
        self.pairs, self.over, self.rounds = pairs, threading.Event(), 0

    def run(self):
        while not self.over.is_set():
            for a, b in self.pairs:
                swap(a, b)
            self.rounds += 1

    def end(self):
        self.over.set()
        self.join()


def write(path, content):
    with open(path, "wb") as f:
        f.write(content)


def make_store(store, outside):
    """What is swapped with what."""
    os.makedirs(f"{store}/folder/deep")
    write(f"{store}/folder/secret", os.urandom(1 << 20))
    write(f"{store}/folder/data", os.urandom(1 << 20))
    write(f"{store}/folder/deep/secret.raw", os.urandom(1 << 20))
    os.symlink(outside, f"{store}/link-to-folder")
    write(f"{store}/file.raw", os.urandom(1 << 20))
    os.symlink(f"{outside}/secret", f"{store}/link-to-file")
    write(f"{store}/pipe.raw", os.urandom(1 << 20))
    os.mkfifo(f"{store}/fifo")
    write(f"{store}/backed.qcow2", lib_attack_qcow2.backed(b"folder/secret").done())
    write(f"{store}/external.qcow2", lib_attack_qcow2.external(b"folder/data").done())
    write(f"{store}/flat.vmdk",
          b'# Disk DescriptorFile\ncreateType="custom"\nRW 8 FLAT "folder/secret" 0\nRW 8 FLAT "file.raw" 0\n')
    return [(f"{store}/folder", f"{store}/link-to-folder"), (f"{store}/file.raw", f"{store}/link-to-file"),
            (f"{store}/pipe.raw", f"{store}/fifo")]


def scan_once(store, catalog):
    """Ends by itself: the FIFO blocks nobody."""
    done = subprocess.run([PROGRAM, "scan", "--no-idle", "--catalog", catalog, store], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=60)
    if done.returncode not in (0, 1):
        sys.exit(f"exit status {done.returncode}: {done.stdout.decode('utf-8', 'replace')[-500:]}")


def fooled(store, canaries):
    """Control: who opens what he looked at before is led outside, and the canaries tell."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for name in ("file.raw", "folder/secret"):
            path = f"{store}/{name}"
            if not os.path.islink(path) and not os.path.islink(os.path.dirname(path)):
                with open(path, "rb") as f:
                    f.read(1)
        if canaries.touched():
            return True
    return False


def main():
    store, outside = f"{TMP}/store", f"{TMP}/outside"
    pairs = make_store(store, outside)
    try:
        swap(*pairs[0])
        swap(*pairs[0])
    except OSError as e:
        print(e)
        return 77
    canaries = Canaries(outside)
    sys.setswitchinterval(0.0001)
    racer = Racer(pairs)
    racer.start()
    scans, until = 0, time.monotonic() + SECONDS
    while time.monotonic() < until or scans < 5:
        scan_once(store, f"{TMP}/catalog")
        scans += 1
    touched = canaries.touched()
    control = fooled(store, canaries)
    racer.end()
    print(f"{scans} scans, {racer.rounds} rounds of swapping")
    if touched:
        sys.exit(f"opened outside: {sorted(set(touched))}")
    if not control or racer.rounds < 100:
        sys.exit("the control was not led outside: the race is none")
    return 0


sys.exit(main())
