#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 400
"""A store of real guests on ext4, where no file system shares anything, goes into a pool.

A plan changes nothing.  --apply frees what was predicted, as df says; every path is an image that QEMU opens, checks and writes to,
with the same bytes, owner, mode and times; an independent installation shares with the clones; clones take no more than
overlays on the golden image made by hand.  Members do not see each other's writes, and none changes the pool.  A run that is
stopped again and again ends in the same.  `expand` makes an image independent of the pool."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import lib_compact as lib
from lib_compact import LONG, MIB, Store, Witness, compact, differences, fail

GUEST_MIB = 100 if LONG else 12
NR_CLONES = 20
HONEST = (0.97, 1.03)
POOL = ("--method", "pool", "--cross-owner")
POOL_NAME = lib.POOL


class PoolStore(Store):
    """qcow2 images of all kinds, clones, an independent installation, a chain; and images that no pool takes."""

    def make(self):
        golden, fresh = self.systems()
        self.golden = golden
        self.convert(golden, "templates/golden.qcow2", "qcow2")
        self.convert(golden, "templates/golden-packed.qcow2", "qcow2", more=["-c"])
        v1 = self.drift(golden, os.path.join(self.work, "v1.raw"))
        v2 = self.drift(v1, os.path.join(self.work, "v2.raw"))
        self.convert(v1, "versions/v1.qcow2", "qcow2")
        self.convert(v2, "versions/v2.qcow2", "qcow2", "cluster_size=512k")
        self.clone(golden, "web/c4k.qcow2", "qcow2", "cluster_size=4k")
        self.clone(golden, "web/c2m.qcow2", "qcow2", "cluster_size=2M")
        self.clone(golden, "web/old.qcow2", "qcow2", "compat=0.10")
        self.clone(golden, "web/sub.qcow2", "qcow2", "extended_l2=on,cluster_size=64k")
        self.convert(fresh, "db/installed.qcow2", "qcow2")
        run = lib.run
        run("cp", "--reflink=never", "--sparse=always", golden, self.path("others/plain.raw"))
        self.clone(golden, "others/sparse.vmdk", "vmdk", "subformat=monolithicSparse")
        self.chain(golden)
        self.snapshots()
        for i in range(NR_CLONES):
            self.clone(golden, f"clones/{i:02d}.qcow2", "qcow2")
        os.unlink(fresh)
        for path in (v1, v2):
            os.unlink(path)
        self.dress()
        return self


def pool_files(fs):
    """What must not change while members are written to."""
    found = {}
    for at, _, names in os.walk(os.path.join(fs.path, POOL_NAME)):
        for name in names:
            path = os.path.join(at, name)
            if name.endswith(".qcow2"):
                found[os.path.relpath(path, fs.path)] = lib.sparse_digest_of(path) if "views" in at else data_digest(path)
    return found


def data_digest(path):
    """Of a very sparse file: what is on the disk."""
    return [(at, lib.digest_of_range(path, at, length)) for at, _, length in merged(lib.extents_on_disk(path))]


def merged(extents):
    out = []
    for at, physical, length in extents:
        if out and out[-1][0] + out[-1][2] == at:
            out[-1][2] += length
        else:
            out.append([at, physical, length])
    return out


def images_of(folder):
    return [p for p in lib.images_of(folder) if POOL_NAME not in p]


def info(path):
    return json.loads(lib.run("qemu-img", "info", "-U", "--output=json", path))


def members(fs):
    return [p for p in images_of(fs.path) if p.endswith(".qcow2") and "json:" in info(p).get("backing-filename", "")]


def by_hand(store, tmp):
    """Bytes that the clones take as overlays on the golden image: what an administrator can do who knows where they come from."""
    total, slim = 0, os.path.join(tmp, "slim.qcow2")
    for i in range(NR_CLONES):
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", store.path(f"clones/{i:02d}.qcow2"), slim)
        lib.run("qemu-img", "rebase", "-F", "qcow2", "-b", store.path("templates/golden.qcow2"), slim)
        total += os.stat(slim).st_blocks * 512
        os.unlink(slim)
    return total


def planned(fs, tmp):
    seen = lib.everything(fs.path)
    plan = compact(fs.path, os.path.join(tmp, "catalog"), *POOL)
    wrong = [f"a plan changed something: {d}" for d in differences(seen, lib.everything(fs.path))]
    why = plan.why_not()
    for name, word in (("lab/lab.qcow2", "snapshots"), ("others/sparse.vmdk", "qcow2"), ("others/plain.raw", "qcow2")):
        if word not in why.get(os.path.join(fs.path, name), ""):
            wrong.append(f"{name} is left alone, and why not told: {why.get(os.path.join(fs.path, name))}")
    return plan, wrong


def applied(fs, tmp, witness, plan):
    used = fs.used()
    done = compact(fs.path, os.path.join(tmp, "catalog"), *POOL, "--apply")
    freed = used - fs.used()
    print(f"freed {freed / MIB:.1f} MiB of {used / MIB:.1f}, {freed / max(plan.saving, 1):.1%} of what was planned; {dict(done.states())}",
          flush=True)
    low, high = HONEST
    wrong = witness.against(fs.path)
    if not plan.saving * low <= freed <= plan.saving * high:
        wrong.append(f"{plan.saving} bytes were to be saved, df shows {freed}")
    wrong += [f"step {s} is not done" for s in done.steps if s["state"] != "done"]
    wanted = {os.path.relpath(p, fs.path) for p in images_of(fs.path) if p.endswith(".qcow2") and "/lab/" not in p}
    entered = {os.path.relpath(p, fs.path) for p in members(fs)}
    packed = {"templates/golden-packed.qcow2", "chain/app.qcow2", "chain/app-test.qcow2"}  # too little of them, as is told
    if wanted - packed != entered - packed:
        why = compact(fs.path, os.path.join(tmp, "catalog"), *POOL).why_not()
        wrong += [f"not in the pool: {p}: {why.get(os.path.join(fs.path, p))}" for p in wanted - entered]
    again = compact(fs.path, os.path.join(tmp, "catalog"), *POOL)
    if again.saving:
        wrong.append(f"a second plan would save {again.saving} more bytes")
    return freed, wrong


def written_to(fs, tmp):
    """Each member takes writes, keeps them to itself, and the pool stays as it is."""
    wrong, seen = [], pool_files(fs)
    paths = members(fs)[:6]
    before = {p: lib.sparse_digest_of(lib.guest_raw(p, os.path.join(tmp, "w.raw"))) for p in paths}
    victim = paths[0]
    lib.run("qemu-io", "-f", "qcow2", "-c", "write -P 77 1M 300k", "-c", "write -z 4M 64k", "-c", "discard 5M 64k", victim)
    for p in paths:
        now = lib.sparse_digest_of(lib.guest_raw(p, os.path.join(tmp, "w.raw")))
        if (now == before[p]) != (p != victim):
            wrong.append(f"{p} after a write to {victim}: {'changed' if p != victim else 'unchanged'}")
    wrong += [f"the pool changed: {d}" for d in differences(seen, pool_files(fs))]
    return wrong


def entered_late(fs, store, tmp):
    """The index of the store knows nothing like it any more, but the pool does."""
    path = os.path.join(fs.path, "late.qcow2")
    lib.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", store.golden, path)
    before, used = lib.digest_of(lib.guest_raw(path, os.path.join(tmp, "l.raw"))), os.stat(path).st_blocks * 512
    plan = compact(fs.path, os.path.join(tmp, "catalog"), *POOL)
    wrong = [] if plan.saving > used * 0.8 else [f"a late clone takes {used} bytes, and {plan.saving} are to be saved"]
    compact(fs.path, os.path.join(tmp, "catalog"), *POOL, "--apply")
    if path not in members(fs):
        wrong.append("a late clone is not in the pool")
    if lib.digest_of(lib.guest_raw(path, os.path.join(tmp, "l.raw"))) != before:
        wrong.append("a late clone says something else")
    os.unlink(path)
    return wrong


def expanded(fs, tmp):
    path = os.path.join(fs.path, "web/c4k.qcow2")
    before, seen = lib.digest_of(lib.guest_raw(path, os.path.join(tmp, "x.raw"))), lib.attributes(path)
    done = subprocess.run([lib.DEDUPSCAN, "expand", "--keep-originals", "0", path], capture_output=True, check=False)
    if done.returncode:
        return [f"expand: status {done.returncode}: {done.stderr.decode()}"]
    wrong = []
    if "backing-filename" in info(path):
        wrong.append("an expanded image still has a backing file")
    if lib.digest_of(lib.guest_raw(path, os.path.join(tmp, "x.raw"))) != before:
        wrong.append("an expanded image says something else")
    wrong += [f"expanded: {d}" for d in differences({"a": seen}, {"a": lib.attributes(path)})]
    done = subprocess.run([lib.DEDUPSCAN, "expand", path], capture_output=True, check=False)
    if done.returncode == 0 or b"no pool" not in done.stderr:
        wrong.append(f"expanded twice: {done.returncode} {done.stderr}")
    return wrong


def nr_entered(fs):
    with contextlib.suppress(FileNotFoundError):
        return len(os.listdir(os.path.join(fs.path, POOL_NAME, "names")))
    return 0


def until_entered(process, fs, nr):
    while nr_entered(fs) < nr and process.poll() is None:
        time.sleep(0.001)


def stopped(fs, tmp, witness, wanted):
    """Each time when some more images are in the pool, and a moment later."""
    used, rng, nr, nr_stops = fs.used(), random.Random(7), 0, 16 if LONG else 5
    catalog = os.path.join(tmp, "catalog-stopped")
    for i in range(nr_stops):
        kill = [signal.SIGTERM, signal.SIGKILL][i % 2]
        p = subprocess.Popen(lib.compact_command(fs.path, catalog, *POOL, "--apply"), stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
        until_entered(p, fs, 1 + i * NR_CLONES // nr_stops)
        time.sleep(rng.random() * 0.1)
        p.send_signal(kill)
        said = p.communicate()
        if p.returncode not in (0, lib.STOPPED, -kill):
            fail(f"stopped, exit status {p.returncode}: {said[1].decode('utf-8', 'replace')}")
        nr += p.returncode != 0
    compact(fs.path, catalog, *POOL, "--apply")
    lib.run(lib.DEDUPSCAN, "pool", "collect", os.path.join(fs.path, POOL_NAME))
    lib.run(lib.DEDUPSCAN, "pool", "collect", os.path.join(fs.path, POOL_NAME))
    freed = used - fs.used()
    print(f"stopped {nr} times, freed {freed / MIB:.1f} MiB", flush=True)
    wrong = [f"after stops: {w}" for w in witness.against(fs.path)]
    if nr == 0:
        wrong.append("it was never stopped")
    if freed < wanted * 0.97:
        wrong.append(f"{freed} bytes were freed with stops, {wanted} without")
    return wrong


def must_be_none(wrong, what):
    if wrong:
        fail(f"{what}:\n  " + "\n  ".join(wrong[:30]))


class PoolWitness(Witness):
    """The workshop and the pool are no part of what must stay."""

    def against(self, folder):
        return [d for d in super().against(folder) if POOL_NAME not in d]


def main():
    lib.exit_on_signals()
    lib.require("qemu-img", "qemu-io", "mke2fs", "sfdisk", "losetup")
    tmp = lib.scratch("pool_compact")
    store = PoolStore(os.path.join(tmp, "store"), os.path.join(tmp, "work"), GUEST_MIB).make()
    hand = by_hand(store, tmp)
    with lib.file_system_with("ext4", tmp, store.folder, 200) as fs:
        second = fs.file + ".second"  # the same again, for the run that is stopped
        fs.unmount()
        shutil.copyfile(fs.file, second)
        fs.mount()
        witness = PoolWitness(fs.path, tmp)
        plan, wrong = planned(fs, tmp)
        must_be_none(wrong, "the plan")
        freed, wrong = applied(fs, tmp, witness, plan)
        pool = sum(os.stat(os.path.join(at, n)).st_blocks * 512
                   for at, _, names in os.walk(os.path.join(fs.path, POOL_NAME)) for n in names)
        print(f"the pool and its overlays take {pool / MIB:.1f} MiB; the clones alone, on the golden image by hand, {hand / MIB:.1f}", flush=True)
        must_be_none(wrong, "applied")
        must_be_none(written_to(fs, tmp), "written to")
        must_be_none(entered_late(fs, store, tmp), "entered late")
        must_be_none(expanded(fs, tmp), "expanded")
        fs.unmount()
        os.rename(second, fs.file)
        fs.mount()
        must_be_none(stopped(fs, tmp, witness, freed), "stopped")


if __name__ == "__main__":
    sys.exit(main())
