#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 3600
"""The exact*.py tests once more with a dedupscan whose steps are so small that a small store needs many of them.

Partitions of 40 places, one of them a commit, spool frames of 4 MiB, groups of 16 blocks in memory: a store of megabytes then goes
through what otherwise only one of terabytes does, above all merges that are interrupted more than once."""

import os
import re
import shutil
import subprocess
import sys

from lib_exact import ROOT, fail, fresh_tmp, require_tools

SMALLER = [
    ("scanner/merge.c", r"#define PARTITION_TARGET .*", "#define PARTITION_TARGET ((uint64_t)40)"),
    ("scanner/merge.c", r"#define COMMIT_SEGMENTS .*", "#define COMMIT_SEGMENTS 4"),
    ("scanner/merge.c", r"per_batch = 8 \*", "per_batch = 1 *"),
    ("scanner/duplicates.c", r"#define GROUP_MAX \d+", "#define GROUP_MAX 16"),
    ("scanner/group.c", r"#define WINDOW_BITS .*", "#define WINDOW_BITS ((uint64_t)1 << 9)"),
    ("scanner/index/spool.h", r"#define SPOOL_FRAME_REQUESTS \d+u", "#define SPOOL_FRAME_REQUESTS 1024u"),
]


def build(tree):
    for name in ("GNUmakefile", "dedupscan.c", "scanner", "reports", "compactor", "contrib"):
        source = os.path.join(ROOT, name)
        (shutil.copytree if os.path.isdir(source) else shutil.copy)(source, os.path.join(tree, name))
    for name, pattern, by in SMALLER:
        path = os.path.join(tree, name)
        with open(path, encoding="utf-8") as f:
            text, nr = re.subn(pattern, by, f.read())
        if nr != 1:
            fail(f"{name} has {nr} places like '{pattern}'")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
    env = {k: v for k, v in os.environ.items() if k != "BUILD"}
    done = subprocess.run(["make", "-j2"], cwd=tree, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        fail(done.stdout.decode("utf-8", "replace")[-3000:])
    return os.path.join(tree, "build", "dedupscan")


def main():
    require_tools("qemu-img", "qemu-io", "make", "cc")
    tmp = fresh_tmp()
    tree = os.path.join(tmp, "tree")
    os.mkdir(tree)
    program = build(tree)
    for script in ("exact.py", "exact_interrupted.py"):
        folder = os.path.join(tmp, script)
        os.mkdir(folder)
        env = dict(os.environ, DEDUPSCAN=program, ROOT=ROOT, TMP=folder, LONG="", EXACT_SEED="5", EXACT_CHANGES="60",
                   EXACT_INTERRUPTIONS="200")
        done = subprocess.run([sys.executable, os.path.join(ROOT, "tests/interop", script)], env=env, check=False)
        if done.returncode:
            fail(f"{script} with small steps")
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
