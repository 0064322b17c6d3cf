#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
"""On ext4, where no file shares with another, compaction punches holes for zeros that are stored, in images of every format, after
it has written those anew whose data lies where nothing can be punched.

A plan predicts what brute force finds, --apply frees what was planned, as df says, and every guest's bytes, every file's
owner, mode, times and labels are as they were; a second plan finds nothing left.  An image whose space was reserved keeps it."""

import os
import random
import sys

import lib_compact as lib
from compact_store import must_be_none, must_find, plan_changes_nothing, wrong_sums
from lib_compact import BLOCK, LONG, MIB, ZEROS, Bound, Store, Witness, compact

GUEST_MIB = 100 if LONG else 12
HONEST = 0.03  # how far df may be from what was predicted
RESERVED = 7 * MIB
FOUND = 0.9  # what is predicted of all blocks of zeros in all files: some lie in tables, or not on boundaries
ZEROED = ("web/c4k.qcow2", "web/c2m.qcow2", "esx/sparse.vmdk", "hyperv/disk.vhdx", "vbox/disk.vdi", "db/installed-too.qcow2")


METHODS = {os.path.basename(n): "holes" for n in (*ZEROED, "versions/v1.raw", "versions/v2.raw")}
METHODS["disk.vdi"] = "relayout"  # its data lies on no boundaries


def store_zeros(store, folder, rng):
    """As guests leave them that overwrite what they delete: runs of many lengths, and blocks alone."""
    blocks = store.data_of(os.path.join(folder, "versions/v1.raw"))
    with open(os.path.join(folder, "versions/v1.raw"), "r+b") as f:
        for at in rng.sample(blocks, len(blocks) // 8):
            os.pwrite(f.fileno(), ZEROS, at)
    with open(os.path.join(folder, "versions/v2.raw"), "r+b") as f:
        os.pwrite(f.fileno(), bytes(2 * MIB), 3 * MIB)
    for name in ZEROED:
        places = [(rng.randrange(64, GUEST_MIB * 128) * 4, rng.choice([4, 12, 64, 200, 1024])) for _ in range(16)]
        writes = [["-c", f"write -q -P 0 {at}k {length}k"] for at, length in places]
        lib.run("qemu-io", "-f", lib.format_of(name), *sum(writes, []), os.path.join(folder, name))


def reserve(path):
    """An image of which all is stored, zeros too."""
    with open(path, "wb") as f:
        f.write(os.urandom(MIB) + bytes(RESERVED))


def reserved(plan):
    """What QEMU reserved and never wrote in images whose zeros go: holes to a scan, and freed with the zeros around them."""
    paths = [plan.images[s["image"]]["path"] for s in plan.steps if s["method"] == "holes"]
    return sum(os.stat(p).st_blocks * 512 - sum(length for *_, length in lib.extents_on_disk(p)) for p in paths)


def wrong_saving(predicted, freed, more=0):
    if not predicted * (1 - HONEST) <= freed <= predicted * (1 + HONEST) + more:
        return [f"{predicted} bytes were to be saved, df shows {freed} ({freed / max(predicted, 1):.1%})"]
    return []


def planned(fs, tmp, zeros):
    plan, wrong = plan_changes_nothing(fs, tmp)
    print(f"zeros that may go {zeros / MIB:.1f} MiB, planned to save {plan.saving / MIB:.1f}", flush=True)
    wrong += wrong_sums(plan)
    if not zeros * FOUND <= plan.saving <= zeros:
        wrong.append(f"{zeros} bytes of zeros are stored that may go, {plan.saving} are to be saved")
    methods = {os.path.basename(plan.images[s["image"]]["path"]): s["method"] for s in plan.steps}
    if methods != METHODS:
        wrong.append(f"planned is {methods}")
    return plan, wrong


def applied(fs, tmp, witness, plan):
    used, more = fs.used(), reserved(plan)
    done = compact(fs.path, os.path.join(tmp, "catalog"), "--apply")
    freed = used - fs.used()
    print(f"freed {freed / MIB:.1f} MiB, {freed / max(plan.saving, 1):.1%} of what was planned, and at most {more / MIB:.1f} MiB reserved; "
          f"{dict(done.states())}", flush=True)
    wrong = wrong_saving(plan.saving, freed, more) + witness.against(fs.path)
    wrong += [f"step {s} is {s['state']}" for s in done.steps if s["state"] != "done"]
    again = compact(fs.path, os.path.join(tmp, "catalog"))
    if again.saving > plan.saving * 0.01:
        wrong.append(f"a second plan would save {again.saving} more bytes")
    return wrong


def main():
    lib.exit_on_signals()
    lib.require("qemu-img", "qemu-io", "mke2fs", "sfdisk")
    tmp = lib.scratch("compact_ext4")
    must_find(wrong_saving(1000, 969) + wrong_saving(1000, 1031), "df shows 969", "df shows 1031")
    store = Store(os.path.join(tmp, "store"), os.path.join(tmp, "work"), GUEST_MIB).make()
    with lib.FileSystem("ext4", tmp, max(GUEST_MIB * 40, 600)) as fs:
        lib.run("cp", "-a", store.folder + "/.", fs.path)
        store_zeros(store, fs.path, random.Random(2))
        reserve(os.path.join(fs.path, "reserved.raw"))
        fs.again()
        witness = Witness(fs.path, tmp)
        plan, wrong = planned(fs, tmp, Bound(fs.path, BLOCK).zero - RESERVED)
        must_be_none(wrong + applied(fs, tmp, witness, plan), "ext4")


if __name__ == "__main__":
    sys.exit(main())
