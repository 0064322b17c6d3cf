#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""G2: one block ten million times (a hundred million in check-long): exact figures, within 35 MiB.

The image is a valid qcow2 whose clusters of 2 MiB all refer to a few host clusters full of that block, each with its reference
count.  What the report must say follows from how it is made."""

import json
import os
import struct
import subprocess
import sys
import time

import brute
from lib_exact import BLOCK, LONG, MIB, SETTLE, command, fail, fresh_tmp, must_be_exact, require_tools

CLUSTER = 2 * MIB
PER_CLUSTER = CLUSTER // BLOCK
NR_BLOCKS = 100_000_000 if LONG else 10_000_000
LIMIT = 35 * MIB
NR_HOSTS = 64 if LONG else 4  # a file refers to its bytes 4096 times at most
FAR = 1 << 28  # blocks: farther than offsets are looked at in one go


def make_hot(path, block):
    """Returns how many times it holds the block."""
    nr = -(-NR_BLOCKS // PER_CLUSTER)
    per_l2 = CLUSTER // 8
    nr_l2 = -(-nr // per_l2)
    first = 4 + nr_l2  # clusters: header, refcount table, refcount block, L1, L2s, hosts
    hosts = [first + i for i in range(NR_HOSTS)]
    entries = [hosts[i % NR_HOSTS] * CLUSTER for i in range(nr)]
    uses = [1] * first + [entries.count(h * CLUSTER) for h in hosts]
    with open(path, "wb") as f:
        f.write(struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 21, nr * CLUSTER, 0, nr_l2, 3 * CLUSTER, CLUSTER, 1, 0, 0,
                            0, 0, 0, 5, 104))
        f.seek(CLUSTER)
        f.write(struct.pack(">Q", 2 * CLUSTER))
        f.seek(2 * CLUSTER)
        f.write(struct.pack(f">{len(uses)}I", *uses))
        f.seek(3 * CLUSTER)
        f.write(struct.pack(f">{nr_l2}Q", *[(4 + i) * CLUSTER | brute.COPIED for i in range(nr_l2)]))
        f.seek(4 * CLUSTER)
        f.write(struct.pack(f">{nr}Q", *entries))
        for h in hosts:
            f.seek(h * CLUSTER)
            f.write(block * PER_CLUSTER)
    checked = subprocess.run(["qemu-img", "check", "-q", path], capture_output=True, check=False)
    if checked.returncode:
        fail(f"the image is not valid: {checked.stdout}{checked.stderr}")
    return nr * PER_CLUSTER


def make_second(path, block, other):
    """The block at 0, at 5 and far behind all that the first image has; another one at 1."""
    with open(path, "wb") as f:
        for at, data in ((0, block), (1, other), (5, block), (FAR, block)):
            f.seek(at * BLOCK)
            f.write(data)


def wanted(folder, nr):
    hot, second = (os.stat(os.path.join(folder, n)) for n in ("hot.qcow2", "second.raw"))
    total = nr + 3
    one = {"format": "qcow2", "backing": "", "virtual_size": nr * BLOCK, "stored": nr * BLOCK, "zero": 0, "unsure": 0,
           "exclusive": 0,
           "shared": nr * BLOCK, "share": brute.half_up(brute.Fraction(BLOCK * nr, total)), "duplicate_within": (nr - 1) * BLOCK,
           "duplicate_between": 0, "nr_snapshots": 0, "file_size": hot.st_size, "file_used": hot.st_blocks * 512,
           "path": os.path.join(folder, "hot.qcow2")}
    two = {"format": "raw", "backing": "", "virtual_size": (FAR + 1) * BLOCK, "stored": 4 * BLOCK, "zero": 0, "unsure": 0,
           "exclusive": BLOCK, "shared": 3 * BLOCK, "share": brute.half_up(BLOCK + brute.Fraction(BLOCK * 3, total)),
           "duplicate_within": 2 * BLOCK, "duplicate_between": BLOCK, "nr_snapshots": 0, "file_size": second.st_size,
           "file_used": second.st_blocks * 512, "path": os.path.join(folder, "second.raw")}
    totals = {k: one[k] + two[k] for k in ("file_size", "file_used", "virtual_size", "stored", "unsure")}
    totals.update(nonzero=(nr + 4) * BLOCK, distinct=2 * BLOCK, duplicates=(nr + 2) * BLOCK, within_same=BLOCK,
                  within_other=nr * BLOCK, between_same=BLOCK, between_other=0, nr_images=2, nr_failed=0, nr_not_images=0)
    runs = [{"min_length": n, "nr_runs": nr + 2 if n == BLOCK else 0, "saved": (nr + 2) * BLOCK if n == BLOCK else 0}
            for n in brute.RUN_LENGTHS]
    histogram = [{"references": 1, "nr_distinct": 1, "nr_blocks": 1},
                 {"references": 1 << total.bit_length() - 1, "nr_distinct": 1, "nr_blocks": total}]
    return {"totals": totals, "runs": runs, "histogram": histogram, "images": [one, two], "failed": []}


# ---- memory, as the kernel counts it ----

def processes_of(session):
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as f:
                    if int(f.read().rsplit(")", 1)[1].split()[3]) == session:
                        yield name
            except OSError:
                pass


def memory_of(session):
    """Bytes of all processes of the session: (shares of shared pages added up, resident sizes added up)"""
    pss = rss = 0
    for pid in processes_of(session):
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
                for line in f:
                    if line.startswith("Pss:"):
                        pss += int(line.split()[1]) << 10
                    elif line.startswith("Rss:"):
                        rss += int(line.split()[1]) << 10
        except OSError:
            pass
    return pss, rss


def report_watched(folder, catalog, jobs):
    with open(catalog + ".json", "w+b") as out:
        began = time.monotonic()
        process = subprocess.Popen(command("report", folder, catalog, "35M", jobs, ("--json",)), stdout=out, start_new_session=True)
        samples = []
        while process.poll() is None:
            samples.append(memory_of(process.pid))
            time.sleep(0.02)
        seconds = time.monotonic() - began
        out.seek(0)
        if process.returncode:
            fail(f"dedupscan report: exit status {process.returncode}")
        return json.load(out), seconds, max(s[0] for s in samples), max(s[1] for s in samples), len(samples)


def check(folder, catalog, jobs, want):
    got, seconds, pss, rss, nr = report_watched(folder, catalog, jobs)
    must_be_exact(want, got, f"--jobs {jobs}")
    peak = got["cost"]["peak_memory"]
    print(f"--jobs {jobs}: exact, {seconds:.1f} s, peak memory {peak / MIB:.1f} MiB reported, {pss / MIB:.1f} MiB seen in {nr} looks "
          f"({rss / MIB:.1f} MiB with shared pages counted twice), index {got['cost']['index_bytes']} bytes, "
          f"catalog {got['cost']['catalog_bytes']} bytes", flush=True)
    if nr < 20 or pss < 4 * MIB:
        fail("memory was hardly looked at")
    if pss > LIMIT:
        fail(f"{pss} bytes of memory were in use, more than {LIMIT}")
    if not pss * 0.8 < peak <= LIMIT:
        fail(f"peak_memory says {peak}, seen were {pss}")
    return got


def main():
    require_tools("qemu-img")
    tmp = fresh_tmp()
    folder = os.path.join(tmp, "store")
    os.mkdir(folder)
    block, other = os.urandom(BLOCK), os.urandom(BLOCK)
    nr = make_hot(os.path.join(folder, "hot.qcow2"), block)
    make_second(os.path.join(folder, "second.raw"), block, other)
    os.sync()
    want = wanted(folder, nr)
    time.sleep(SETTLE)
    for jobs in (2, 1) if LONG else (2,):
        got = check(folder, os.path.join(tmp, f"catalog{jobs}"), jobs, want)
    # the control: one block less in the image, and the figures are others
    make_second(os.path.join(folder, "second.raw"), block, block)
    os.sync()
    again = report_watched(folder, os.path.join(tmp, "catalog2"), 2)[0]
    if not brute.differences(want, again) or again["totals"]["within_same"] != got["totals"]["within_same"] + BLOCK:
        fail("a block that changed does not show")


if __name__ == "__main__":
    sys.exit(main())
