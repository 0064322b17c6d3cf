#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 1800
"""F10: many files, deep folders and long names cost time, but hardly any memory."""

import os
import resource
import subprocess
import sys

TMP, PROGRAM = os.environ["TMP"], os.environ["DEDUPSCAN"]
NR = 1000000 if os.environ.get("LONG") else 5000
MIB = 1 << 20


def make(folder, nr):
    """Files that are no images, a few to a folder; one image among them."""
    os.makedirs(folder)
    for i in range(nr):
        if i % 500 == 0:
            os.mkdir(f"{folder}/{i}")
        os.close(os.open(f"{folder}/{i - i % 500}/file-{i}", os.O_CREAT | os.O_WRONLY, 0o600))
    with open(f"{folder}/0/disk.raw", "wb") as f:
        f.write(os.urandom(MIB))


def make_deep(folder, depth):
    os.makedirs(folder)
    os.chdir(folder)
    for i in range(depth):
        os.mkdir("d" * 10)
        os.chdir("d" * 10)
        if i % 50 == 0:
            with open("disk.raw", "wb") as f:
                f.write(os.urandom(MIB))
    os.chdir("/")


def scan(folder):
    """Output, exit status, and the most memory that a process of it had, in MiB."""
    code = ("import resource, subprocess, sys\n"
            "done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)\n"
            "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)\n"
            "sys.stdout.flush()\nsys.stdout.buffer.write(done.stdout[-20000:])\n")
    command = [PROGRAM, "scan", "--no-idle", "--catalog", f"{folder}.catalog", folder]
    done = subprocess.run([sys.executable, "-c", code, *command], stdout=subprocess.PIPE, check=True)
    text = done.stdout.decode("utf-8", "replace")
    first, rest = text.split("\n", 1)
    status, memory = first.split()
    return rest, int(status), int(memory)


def check(condition, what):
    if not condition:
        sys.exit(f"FAILED: {what}")


def main():
    make(f"{TMP}/few", 100)
    make(f"{TMP}/many", NR)
    few, status, base = scan(f"{TMP}/few")
    check(status == 0 and "1 images: 1 read" in few, few)
    many, status, memory = scan(f"{TMP}/many")
    check(status == 0 and "1 images: 1 read" in many, many)
    print(f"{NR} files: {memory} MiB, 100 files: {base} MiB")
    check(memory < 64 + base, f"{memory} MiB of memory for {NR} files")

    make_deep(f"{TMP}/deep", 250)
    deep, status, memory = scan(f"{TMP}/deep")
    check(status == 0 and "5 images: 5 read" in deep, deep)
    check(memory < 64 + base, f"{memory} MiB of memory for deep folders")
    make_deep(f"{TMP}/deeper", 300)
    deeper, status, _ = scan(f"{TMP}/deeper")
    check(status == 1 and "nested more than 256 deep" in deeper and "6 images: 6 read" in deeper, deeper)

    greedy = [sys.executable, "-c", "x = bytearray(100 << 20)"]  # the control
    subprocess.run(greedy, check=True)
    check(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024 > 64 + base, "memory is not measured")


main()
