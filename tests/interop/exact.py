#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
"""Every figure of the report against brute force: a store of every kind of image, then again after each of many changes.

Every report is held against brute.py, after a change also against that of a catalog made anew.  EXACT_SEED and EXACT_CHANGES
set where the changes begin and how many there are."""

import copy
import os
import shutil
import subprocess
import sys
import time

import brute
from lib_exact import (LONG, ROOT, SETTLE, Maker, check_tidy, fail, fresh_tmp, must_be_exact, must_be_same, report, require_tools)

WAYS = [("35M", 1), ("35M", 2), ("4G", 1), ("4G", 2)]
SEED = int(os.environ.get("EXACT_SEED") or 1)
NR_CHANGES = int(os.environ.get("EXACT_CHANGES") or (400 if LONG else 40))


def check_comparison(want, got):
    """The control: a report with any one figure off by a block, or by a byte, is found out."""
    tried = 0
    for place in ("totals", "images", "runs", "histogram"):
        for row in range(1 if place == "totals" else len(got[place])):
            figures = got[place] if place == "totals" else got[place][row]
            for name, value in figures.items():
                if not isinstance(value, int) or name in ("id", "fs_shared") or figures.get("error"):
                    continue
                wrong = copy.deepcopy(got)
                (wrong[place] if place == "totals" else wrong[place][row])[name] = value + 1
                if not brute.differences(want, wrong):
                    fail(f"the comparison did not see that {place} {row} {name} is wrong")
                tried += 1
    return tried


def check_fresh(store, folder, tmp, what):
    """One catalog for each way of scanning, all made anew."""
    want = store.report()
    first = None
    for memory, jobs in WAYS:
        catalog = os.path.join(tmp, "fresh")
        got = report(folder, catalog, memory, jobs)
        shutil.rmtree(catalog)
        must_be_exact(want, got, f"{what}, --memory {memory} --jobs {jobs}")
        first = first or got
        must_be_same(first, got, f"{what}: --memory {memory} --jobs {jobs} gives another report than {WAYS[0]}")
        cost, totals = got["cost"], got["totals"]
        if cost["nr_keys"] * 4096 != totals["distinct"] or cost["nr_places"] * 4096 != totals["nonzero"]:
            fail(f"{what}: a new index has {cost['nr_keys']} keys and {cost['nr_places']} places, of {totals}")
    return want, first


def check_no_scan(folder, catalog, got):
    again = report(folder, catalog, more=("--no-scan",))
    again["totals"]["nr_not_images"] = got["totals"]["nr_not_images"]  # not looked for
    must_be_same(got, again, "--no-scan gives another report than the scan before it")


def check_part(store, folder, catalog, tmp):
    """A folder of the store by itself, from the catalog of the whole store."""
    part = brute.Store(os.path.join(folder, "chain"), tmp).report()
    must_be_exact(part, report(os.path.join(folder, "chain"), catalog), "a folder of the store")
    must_be_exact(store.report(), report(folder, catalog), "the store after a folder of it")


def check_changes(maker, store, folder, tmp):
    catalog = os.path.join(tmp, "catalog")
    report(folder, catalog)
    check_part(store, folder, catalog, tmp)
    for i in range(NR_CHANGES):
        said = [maker.change() for _ in range(maker.rng.choice([1, 1, 1, 2, 4]))]
        if maker.rng.random() < 0.15:
            time.sleep(SETTLE)  # time stamps are old enough to be believed
        os.sync()
        memory, jobs = WAYS[i % len(WAYS)]
        got = report(folder, catalog, memory, jobs)
        what = f"seed {SEED}, change {i}: {'; '.join(said)}"
        must_be_exact(store.report(), got, what)
        check_tidy(catalog)
        fresh = report(folder, os.path.join(tmp, "fresh"), memory, jobs)
        shutil.rmtree(os.path.join(tmp, "fresh"))
        must_be_same(fresh, got, f"{what}: the catalog gives another report than one made anew")
        if i % 10 == 0:
            check_no_scan(folder, catalog, got)
    time.sleep(SETTLE)
    store.forget()
    os.sync()
    report(folder, catalog)
    got = report(folder, catalog)
    must_be_exact(store.report(), got, "after all changes")


def check_late_base(folder, catalog, tmp):
    """An overlay whose base comes back after it was read ranks behind it again."""
    base, away = os.path.join(folder, "chain/base.qcow2"), os.path.join(tmp, "base.qcow2")
    overlay = os.path.join(folder, "0-clone.qcow2")
    os.rename(base, away)
    os.utime(overlay)
    time.sleep(SETTLE)
    report(folder, catalog)
    report(folder, catalog)
    os.rename(away, base)
    got = report(folder, catalog)
    fresh = report(folder, os.path.join(tmp, "fresh"))
    shutil.rmtree(os.path.join(tmp, "fresh"))
    must_be_exact(brute.Store(folder, tmp, ["broken.qcow2"]).report(), got, "a base that was away and is back")
    must_be_same(fresh, got, "a base that was away and is back: the catalog gives another report than one made anew")


def check_shrunk(tmp):
    """An image that got shorter, then a new one: what the first no longer has is not taken for the other's."""
    folder, catalog = os.path.join(tmp, "shrunk"), os.path.join(tmp, "shrunk-catalog")
    os.mkdir(folder)
    long, later = os.path.join(folder, "long.raw"), os.path.join(folder, "later.raw")
    with open(long, "wb") as f:
        f.write(os.urandom(30 << 20))
    report(folder, catalog)
    os.truncate(long, 8192)
    report(folder, catalog)
    with open(later, "wb") as f:
        f.write(os.urandom(30 << 20))
    os.sync()
    must_be_exact(brute.Store(folder, tmp).report(), report(folder, catalog), "a new image after another got shorter")
    shutil.rmtree(folder)


def main():
    require_tools("qemu-img", "qemu-io")
    tmp = fresh_tmp()
    began = time.monotonic()
    demo = os.path.join(tmp, "demo")
    subprocess.run([os.path.join(ROOT, "contrib/make-demo-store"), demo] + ([] if LONG else ["--small"]), check=True)
    os.sync()  # what a file takes on disk is settled only then
    check_fresh(brute.Store(demo, tmp, ["lab/interrupted-copy.qcow2"]), demo, tmp, "demo store")
    shutil.rmtree(demo)
    folder = os.path.join(tmp, "store")
    maker = Maker(folder, os.path.join(tmp, "work"), SEED)
    maker.make()
    store = brute.Store(folder, tmp, ["broken.qcow2"])
    want, got = check_fresh(store, folder, tmp, "store")
    if min(want["totals"][k] for k in ("within_same", "within_other", "between_same", "between_other")) == 0 or \
            want["runs"][-1]["nr_runs"] == 0 or sum(not i["unsure"] for i in want["images"]) < len(want["images"]) * 2 / 3:
        fail(f"the store does not try everything: {want['totals']} {want['runs']}")
    tried = check_comparison(want, got)
    print(f"{len(want['images'])} images, {want['totals']['stored'] >> 20} MiB stored: all figures exact in {len(WAYS)} ways; "
          f"{tried} planted errors found ({time.monotonic() - began:.1f} s)", flush=True)
    check_shrunk(tmp)
    check_late_base(folder, os.path.join(tmp, "late"), tmp)
    check_changes(maker, store, folder, tmp)
    print(f"{NR_CHANGES} changes: all figures exact ({time.monotonic() - began:.1f} s)")


if __name__ == "__main__":
    sys.exit(main())
