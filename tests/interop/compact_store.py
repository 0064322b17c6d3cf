#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
"""A store of real guests in every format is planned and compacted on XFS (compact_store_btrfs.py: on btrfs).

A plan changes nothing; it predicts no more than brute force finds possible, and nearly as much; --apply frees what was
predicted, as df says, and leaves every guest's bytes, every file's owner, mode, times and labels as they were; a second
plan finds nothing left; a run that is stopped again and again ends in the same.  On ext4 nothing can be shared, and that is
said."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import lib_compact as lib
from lib_compact import BLOCK, LONG, MIB, Bound, Plan, Store, Witness, compact, differences, fail

GUEST_MIB = 150 if LONG else 12
MIN_RUN = 16 << 10
HONEST = (0.97, 1.05)  # what df must show of what was predicted
FOUND = 0.9  # what is predicted of what runs of 16 KiB allow
AS_GUEST = (".vhd", ".vdi")  # are re-laid-out: their data can be on boundaries


# ---- judging ----


def wrong_saving(predicted, freed):
    low, high = HONEST
    if not predicted * low <= freed <= predicted * high:
        return [f"{predicted} bytes were to be saved, df shows {freed} ({freed / max(predicted, 1):.1%})"]
    return []


def wrong_prediction(plan, bound):
    out = []
    if plan.saving > bound.most:
        out.append(f"{plan.saving} bytes are to be saved, by brute force {bound.most} are possible")
    if plan.saving < bound.in_runs * FOUND:
        out.append(f"{plan.saving} bytes are to be saved, by brute force {bound.in_runs} in runs of {MIN_RUN}")
    return out


def wrong_sums(plan):
    """A plan adds up."""
    sums = {k: sum(x["saving"] for x in v) for k, v in
            (("images", plan.images), ("steps", plan.steps), ("file_systems", plan.file_systems))}
    return [f"the savings of all {k} are {v}, in all it is {plan.saving}" for k, v in sums.items() if v != plan.saving]


def must_be_none(wrong, what):
    if wrong:
        fail(f"{what}:\n  " + "\n  ".join(wrong[:30]))


# ---- the judges are judged ----


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)
        f.seek(at)
        f.write(bytes([byte[0] ^ 1]))


def place_of(path, content):
    with open(path, "rb") as f:
        return f.read().index(content)


def must_find(found, *wanted):
    for w in wanted:
        if not any(w in f for f in found):
            fail(f"planted and not found: {w}; found: {found}")


def control_guests(folder, witness):
    """One byte in each format."""
    with open(os.path.join(folder, "versions/v0.raw"), "rb") as f:
        data = f.read()
    for path in lib.images_of(folder):
        if lib.format_of(path) == "raw" and not path.endswith("v0.raw") or "/flat" in path:
            continue
        with open(path, "rb") as f:
            image = f.read()
        blocks = (data[at:at + BLOCK] for at in range(len(data) * 3 // 5, 0, -BLOCK))
        block = next(b for b in blocks if any(b) and image.count(b) == 1)
        flip(path, image.index(block) + 99)
    flip(os.path.join(folder, "esx/flat-flat.vmdk"), place_of(os.path.join(folder, "esx/flat-flat.vmdk"), block))
    must_find(witness.against(folder), *[f"('{os.path.relpath(p, folder)}', None): was" for p in lib.images_of(folder)],
              "libvhdi: ('hyperv/dynamic.vhd'")


def control_attributes(folder, witness):
    path = os.path.join(folder, "versions/v0.raw")
    plants = [("mode", lambda: os.chmod(path, 0o777)), ("owner", lambda: os.chown(path, 5, -1)), ("mtime", lambda: os.utime(path)),
              ("user.note", lambda: os.setxattr(path, "user.note", b"!")), ("posix_acl", lambda: os.setxattr(
                  path, "system.posix_acl_access", lib.acl(1))), ("links", lambda: os.link(path, path + ".link"))]
    for what, plant in plants:
        seen = lib.all_attributes(folder)
        plant()
        must_find(differences(seen, lib.all_attributes(folder)), what)
    os.rename(path, path + ".gone")
    must_find(witness.against(folder), "v0.raw is gone", "v0.raw.gone is new")


def control_formats(folder):
    """Damage that guests do not see."""
    qcow2, vhd = os.path.join(folder, "web/old.qcow2"), os.path.join(folder, "hyperv/dynamic.vhd")
    with open(qcow2, "r+b") as f:  # all references of the first block of counts
        table = int.from_bytes(os.pread(f.fileno(), 8, 48), "big")
        os.pwrite(f.fileno(), bytes(4096), int.from_bytes(os.pread(f.fileno(), 8, table), "big"))
    must_find(lib.complaints(folder), "old.qcow2: ")
    seen = lib.libvhdi_digests(folder)
    with open(vhd, "r+b") as f:  # the bitmap of the first block, which QEMU does not ask
        table = int.from_bytes(os.pread(f.fileno(), 8, 512 + 16), "big")
        os.pwrite(f.fileno(), bytes(512), int.from_bytes(os.pread(f.fileno(), 4, table), "big") * 512)
    if seen is not None:
        must_find(differences(seen, lib.libvhdi_digests(folder)), "dynamic.vhd")


def control_everything(folder):
    path = os.path.join(folder, "notes.txt")
    seen = lib.everything(folder)
    st = os.stat(path)
    with open(path, "r+b") as f:
        f.write(b"N")
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
    must_find(differences(seen, lib.everything(folder)), "notes.txt")


def control_bound(tmp):
    """Three files whose figures were worked out by hand."""
    folder = os.path.join(tmp, "by-hand")
    os.mkdir(folder)
    a, b, c, d, e, f, g, h = (bytes([x]) * BLOCK for x in range(1, 9))
    for name, content in (("one", a + b + c + d + e), ("two", f + a + b + c + d + lib.ZEROS), ("three", g + a + b + h + e)):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
    # abcd of two is a run of four; ab and e of three are shorter; one block of zeros
    for min_run, in_runs in ((BLOCK, 8), (2 * BLOCK, 7), (4 * BLOCK, 5)):
        bound = Bound(folder, min_run)
        wanted = (16, 8, 1, in_runs)
        got = tuple(x // BLOCK for x in (bound.stored, bound.most, bound.zero, bound.in_runs))
        if got != wanted:
            fail(f"worked out by hand {wanted}, by brute force {got}, runs of {min_run}")


def control_saving():
    for predicted, freed in ((1000, 969), (1000, 1051), (1000, 0), (0, 1)):
        must_find(wrong_saving(predicted, freed), "df shows")
    must_be_none(wrong_saving(1000, 970) + wrong_saving(1000, 1050) + wrong_saving(0, 0), "a saving as predicted")
    plan = Plan('{"saving": 100, "saving_later": 0, "images": [{"saving": 99}], "steps": [{"saving": 100}], "file_systems": []}')
    must_find(wrong_sums(plan), "all images are 99", "all file_systems are 0")
    bound = type("Bound", (), {"most": 99, "in_runs": 112})
    must_find(wrong_prediction(plan, bound), "are possible", "in runs of")


def controls(store, tmp):
    folder = os.path.join(tmp, "planted")

    def fresh():
        shutil.rmtree(folder, ignore_errors=True)
        os.mkdir(folder)
        for name in ("versions/v0.raw", "web/old.qcow2", "esx/sparse.vmdk", "esx/flat.vmdk", "esx/flat-flat.vmdk",
                     "hyperv/dynamic.vhd", "hyperv/fixed.vhd", "hyperv/disk.vhdx", "vbox/disk.vdi", "notes.txt"):
            os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
            lib.run("cp", "-a", os.path.join(store, name), os.path.join(folder, name))

    fresh()
    witness = Witness(folder, tmp)
    must_be_none(witness.against(folder), "nothing was planted")
    control_guests(folder, witness)
    fresh()
    control_formats(folder)
    control_everything(folder)
    control_attributes(folder, witness)
    control_bound(tmp)
    control_saving()
    shutil.rmtree(folder)


# ---- the store on one file system ----


def bound_of(fs, tmp):
    raws = {}
    for path in lib.images_of(fs.path):
        if path.endswith(AS_GUEST) and "fixed" not in path:
            raws[path] = lib.guest_raw(path, os.path.join(tmp, f"bound{len(raws)}.raw"))
    bound = Bound(fs.path, MIN_RUN, raws)
    for raw in raws.values():
        os.unlink(raw)
    return bound


def plan_changes_nothing(fs, tmp):
    seen, used = lib.everything(fs.path), fs.used()
    plan = compact(fs.path, os.path.join(tmp, "catalog"))
    wrong = [f"a plan changed something: {d}" for d in differences(seen, lib.everything(fs.path))]
    if abs(fs.used() - used) > MIB:  # btrfs writes times of access to new places
        wrong.append(f"a plan took {fs.used() - used} bytes")
    return plan, wrong


def stopped_and_gone_on(fs, tmp, rng, nr_stops, seconds):
    """Stopped by SIGTERM, by SIGKILL and by its time, at any moment of the `seconds` that it takes, first ones early, for it may
    take less now; then left to end.  How often it was stopped, and the slowest stop."""
    nr = slowest = 0
    catalog = os.path.join(tmp, "catalog-stopped")
    for i in range(nr_stops):
        kill = [signal.SIGTERM, signal.SIGKILL, signal.SIGTERM, None][i % 4]
        p = subprocess.Popen(lib.compact_command(fs.path, catalog, "--apply", *([] if kill else ["--for", "1s"])),
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if kill:
            time.sleep(rng.random() * seconds * 0.7 * (i + 1) / nr_stops)
            p.send_signal(kill)
        began = time.monotonic()
        said = p.communicate()
        slowest = max(slowest, time.monotonic() - began if kill else 0)
        if p.returncode not in (0, lib.STOPPED, -(kill or 0)):
            fail(f"stopped, exit status {p.returncode}: {said[1].decode('utf-8', 'replace')}")
        nr += p.returncode != 0
    compact(fs.path, catalog, "--apply")
    return nr, slowest


def planned(fs, tmp, witness):
    bound = bound_of(fs, tmp)
    plan, wrong = plan_changes_nothing(fs, tmp)
    print(f"{fs.kind}: {len(lib.images_of(fs.path))} images, {witness.nr} disks and snapshots; "
          f"on disk {bound.stored / MIB:.1f} MiB, planned to save {plan.saving / MIB:.1f}; possible at most {bound.most / MIB:.1f}, in runs of 16 KiB "
          f"{bound.in_runs / MIB:.1f}, of which zeros {bound.zero / MIB:.1f}", flush=True)
    return plan, wrong + wrong_sums(plan) + wrong_prediction(plan, bound)


def applied(fs, tmp, witness, plan):
    used, began = fs.used(), time.monotonic()
    done = compact(fs.path, os.path.join(tmp, "catalog"), "--apply")
    seconds = time.monotonic() - began
    freed = used - fs.used()
    print(f"{fs.kind}: freed {freed / MIB:.1f} MiB, {freed / max(plan.saving, 1):.1%} of what was planned; {dict(done.states())}",
          flush=True)
    wrong = wrong_saving(plan.saving, freed) + witness.against(fs.path)
    told = sum(f["free_after"] - f["free_before"] for f in done.file_systems if f.get("free_before") and f.get("free_after"))
    wrong += [f"told: {w}" for w in wrong_saving(freed, told)]
    wrong += [f"step {s} has failed" for s in done.steps if s["state"] == "failed"]
    again = compact(fs.path, os.path.join(tmp, "catalog"))
    if again.saving > plan.saving * 0.01:
        wrong.append(f"a second plan would save {again.saving} more bytes")
    return freed, seconds, wrong


def stopped(fs, tmp, witness, wanted, seconds):
    used = fs.used()
    nr, slowest = stopped_and_gone_on(fs, tmp, random.Random(), 12 if LONG else 4, seconds)
    freed = used - fs.used()
    print(f"{fs.kind}: stopped {nr} times (the slowest in {slowest:.2f} s), freed {freed / MIB:.1f} MiB", flush=True)
    wrong = [f"after stops: {w}" for w in witness.against(fs.path)]
    if nr == 0:
        wrong.append("it was never stopped")
    if abs(freed - wanted) > wanted * 0.02:
        wrong.append(f"{freed} bytes were freed with stops, {wanted} without")
    return wrong


def on(kind, store, tmp):
    with lib.file_system_with(kind, tmp, store.folder, 1500 if LONG else 300) as fs:
        store.on_the_file_system(fs)
        second = fs.file + ".second"  # the same again, for the run that is stopped
        fs.unmount()
        shutil.copyfile(fs.file, second)
        fs.mount()
        witness = Witness(fs.path, tmp)
        plan, wrong = planned(fs, tmp, witness)
        freed, seconds, more = applied(fs, tmp, witness, plan)
        wrong += more
        fs.unmount()
        os.rename(second, fs.file)
        fs.mount()
        wrong += stopped(fs, tmp, witness, freed, seconds)
    must_be_none(wrong, kind)


def on_ext4(store, tmp):
    """Nothing can be shared; each image is as it was and the reason is told."""
    few = os.path.join(tmp, "few")
    for name in ("versions/v0.raw", "versions/v1.raw", "templates/golden.qcow2"):
        os.makedirs(os.path.dirname(os.path.join(few, name)), exist_ok=True)
        lib.run("cp", "-a", store.path(name), os.path.join(few, name))
    with lib.file_system_with("ext4", tmp, few, 300) as fs:
        seen = lib.everything(fs.path)
        for more in ((), ("--apply",)):
            plan = compact(fs.path, os.path.join(tmp, "catalog-ext4"), "--method", "reflink", *more)
            if plan.saving or "ext4" not in " ".join(plan.why_not().values()):
                fail(f"on ext4: to be saved {plan.saving}, why not: {plan.why_not()}")
        must_be_none(differences(seen, lib.everything(fs.path)), "on ext4 something changed")


def main(kind="xfs"):
    lib.exit_on_signals()
    lib.require("qemu-img", "qemu-io", "mke2fs", "sfdisk", "losetup", lib.FileSystem.MAKE[kind][0])
    tmp = lib.scratch("compact_store")
    store = Store(os.path.join(tmp, "store"), os.path.join(tmp, "work"), GUEST_MIB).make()
    if kind == "xfs":
        controls(store.folder, tmp)
        on_ext4(store, tmp)
    on(kind, store, tmp)


if __name__ == "__main__":
    sys.exit(main())
