#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 400
"""A store of every format goes into a pool and comes out again:
  bytes    what is exported is what qemu-img convert reads
  root     that of dedupscan verify --record
  again    everything once more stores nothing
  saving   an equal disk in another format stores nothing, a version little, an independent installation shares runs, zeros are
           free (G7)
  base     an overlay of which only its own file is read has the root that it has when all is read
  units    of 16 and 64 KiB, in the same pool and in others
  view     qemu-img compares an overlay on a view with the original
  damage   a flipped byte of the pool is told of when it is read, and healed when its image comes again

Usage: pool_import.py; POOL_MIB is about what each system holds."""

import json
import os
import shutil
import subprocess
import sys

import lib_compact as lib
from lib_compact import BLOCK, KIB, MIB, fail, run
from lib_immutable import lift, remove_tree

TOOL = os.path.abspath(f"{os.environ.get('BUILD') or 'build'}/tests/interop/pooltool")
NULL = "0" * 64


def tool(*args):
    return run(TOOL, *map(str, args)).decode()


def must_fail(want, *args):
    done = subprocess.run([TOOL, *map(str, args)], capture_output=True, check=False)
    if done.returncode != 1 or want not in done.stderr.decode():
        fail(f"{args} should fail with '{want}', said: {done.returncode} {done.stderr.decode()}")


class Pool:
    def __init__(self, path, *options):
        self.path, self.options = path, options
        tool("create", path)

    def add(self, *paths, more=()):
        """What it says of each; nothing in this store is forged or damaged."""
        said = [json.loads(line) for line in tool("import", self.path, *self.options, *more, *paths).splitlines()]
        for path, s in zip(paths, said):
            if s["forged"] or s["damaged"] or s["bytes"] != s["zeros"] + s["shared_segments"] + s["shared_runs"] + s["stored"]:
                fail(f"{path}: {s}")
        return said

    def export(self, s, to):
        tool("export", self.path, s["root"], s["size"], to)
        return to

    def bytes(self):
        return int(run("du", "-s", "-B1", self.path).split()[0])

    def cluster_file(self):
        return next(os.path.join(self.path, n) for n in os.listdir(self.path) if n.endswith(".qcow2"))


def same_bytes(a, b):
    return os.path.getsize(a) == os.path.getsize(b) and subprocess.run(["cmp", "-s", a, b], check=False).returncode == 0


def recorded_digests(folder, tmp):
    out = os.path.join(tmp, "digests")
    run(lib.DEDUPSCAN, "verify", "--no-idle", "--catalog", os.path.join(tmp, "no-catalog"), "--record", out, folder)
    with open(out, encoding="utf-8") as f:
        rows = [line.rstrip("\n").split("  ", 2) for line in f if not line.startswith("#")]
    return {path: (digest, int(size)) for digest, size, path in rows}


# ---- a store ----


def more_images(store):
    """What the store of the other tests does not have."""
    raw = store.path("versions/v0.raw")
    store.convert(raw, "esx/stream.vmdk", "vmdk", "subformat=streamOptimized")
    store.convert(raw, "esx/split.vmdk", "vmdk", "subformat=twoGbMaxExtentSparse")
    store.convert(raw, "kvm/zstd.qcow2", "qcow2", "compression_type=zstd", more=["-c"])
    store.convert(raw, "kvm/extended.qcow2", "qcow2", "extended_l2=on,cluster_size=128k")
    store.convert(raw, "kvm/preallocated.qcow2", "qcow2", "preallocation=metadata")
    with open(store.path("odd/odd.raw"), "wb") as f:
        f.write(store.rng.randbytes(5 * MIB + 512))
    with open(store.path("zeros/sparse.raw"), "wb") as f:
        f.truncate(3 << 30)
    with open(store.path("zeros/written.raw"), "wb") as f:
        f.write(bytes(9 * MIB + 512))
    run("qemu-img", "create", "-q", "-f", "qcow2", store.path("zeros/empty.qcow2"), "1T")
    run("qemu-img", "create", "-q", "-f", "qcow2", store.path("zeros/zeroed.qcow2"), "40M")
    run("qemu-io", "-f", "qcow2", "-c", "write -q -P 0 1M 5M", "-c", "write -q -z 10M 9M", store.path("zeros/zeroed.qcow2"))


def secret_image(tmp):
    """qemu-img measures how fast it hashes, and sometimes cannot: "Unable to get accurate CPU usage"."""
    path = os.path.join(tmp, "secret.qcow2")
    create = ("qemu-img", "create", "-q", "--object", "secret,id=s,data=x", "-f", "qcow2", "-o",
              "encrypt.format=luks,encrypt.key-secret=s", path, "8M")
    for _ in range(9):
        if subprocess.run(create, capture_output=True, check=False).returncode == 0:
            return path
    run(*create)
    return path


# ---- what must hold ----


def check_images(pool, paths, tmp, digests=None):
    """{path: what was said}"""
    said = dict(zip(paths, pool.add(*paths)))
    for path, s in said.items():
        raw, out = os.path.join(tmp, "guest.raw"), os.path.join(tmp, "out.raw")
        if digests and digests[path] != (s["root"], s["size"]):
            fail(f"{path}: recorded {digests[path]}, imported {s}")
        if s["size"] > 10 << 30:
            continue  # zeros
        if not same_bytes(lib.guest_raw(path, raw), pool.export(s, out)):
            fail(f"{path}: other bytes came out than went in")
    return said


def check_again(pool, paths, said):
    used = pool.bytes()
    for path, s in zip(paths, pool.add(*paths)):
        if s["stored"] or s["root"] != said[path]["root"]:
            fail(f"{path}, once more: {s}")
    if pool.bytes() > used + 16 * KIB * len(paths):
        fail(f"the pool grew from {used} to {pool.bytes()} by what it had")


def changed_bytes(a, b):
    """Of b, in blocks."""
    with open(a, "rb") as f, open(b, "rb") as g:
        return sum(x != y for x, y in zip(iter(lambda: f.read(BLOCK), b""), iter(lambda: g.read(BLOCK), b""))) * BLOCK


def nonzero(s):
    return s["bytes"] - s["zeros"]


def blocks_of(path):
    with open(path, "rb") as f:
        return [hash(b) for b in iter(lambda: f.read(BLOCK), b"") if any(b)]


def bytes_in_runs(of, before, least=4):
    """Blocks of `of`, zeros left out, that lie in runs of at least `least` anywhere in `before` or earlier in `of`: what can be
    shared at most."""
    row, covered, ending = before + of, set(), {}
    places = {}
    for at, block in enumerate(row):
        places.setdefault(block, []).append(at)
    for i, block in enumerate(of):
        ending = {p: ending.get(p - 1, 0) + 1 for p in places[block] if p < len(before) + i}
        covered.update(range(i + 1 - max((n for n in ending.values() if n >= least), default=0), i + 1))
    return len(covered) * BLOCK


def check_saving(store, said, tmp):
    def of(name):
        return said[store.path(name)]

    for name in ("kvm/zstd.qcow2", "kvm/extended.qcow2", "kvm/preallocated.qcow2", "esx/stream.vmdk", "esx/split.vmdk",
                 "templates/golden-packed.qcow2", "templates/copy-of-packed.qcow2", "db/installed.raw"):
        if of(name)["stored"]:
            fail(f"{name} is as an image before it, and stored: {of(name)}")
    for a, b in (("v0", "v1"), ("v1", "v2")):
        changed = changed_bytes(store.path(f"versions/{a}.raw"), store.path(f"versions/{b}.raw"))
        stored = of(f"versions/{b}.raw")["stored"]
        print(f"{b}: {changed / MIB:.2f} MiB changed, {stored / MIB:.2f} stored, of them matches too short "
              f"{of(f'versions/{b}.raw')['short_matches'] / MIB:.2f}")
        if not changed <= stored <= 3 * changed:
            fail(f"{b} of {a}: {changed} bytes changed, {stored} stored")
    fresh = of("db/installed-too.qcow2")
    golden = lib.guest_raw(store.path("templates/golden.qcow2"), os.path.join(tmp, "guest.raw"))
    most = bytes_in_runs(blocks_of(store.path("db/installed.raw")), blocks_of(golden))
    print(f"an independent installation: {fresh['shared_runs'] / nonzero(fresh):.1%} of it is shared, possible are {most / nonzero(fresh):.1%}")
    if fresh["shared_runs"] < 0.98 * most or most < 0.5 * nonzero(fresh):
        fail(f"an independent installation shares little: {fresh}")
    for name in ("sparse.raw", "written.raw", "empty.qcow2", "zeroed.qcow2"):
        s = of(f"zeros/{name}")
        if s["stored"] or s["root"] != NULL:
            fail(f"zeros cost something: {s}")


def check_base(pool, store, said):
    """Overlays that are longer, shorter and as long as the base, with zeros over its data."""
    base = store.path("templates/golden.qcow2")
    size = said[base]["size"]
    for i, virtual in enumerate((size, size + 5 * MIB + 512, size - 3 * MIB - 512)):
        path = store.path(f"templates/overlay{i}.qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "golden.qcow2", path, str(virtual))
        run("qemu-io", "-f", "qcow2", "-c", f"write -q -s {store.path('odd/odd.raw')} 8M 700k", "-c", "write -q -z 12M 3M",
            "-c", f"write -q -P 7 {virtual - 512} 512", path)
        own, whole = pool.add(path, more=("--base", said[base]["root"], size))[0], pool.add(path)[0]
        if own["root"] != whole["root"] or own["size"] != virtual:
            fail(f"{path}: with its base {own}, all of it {whole}")
        if own["bytes"] > 10 * MIB or (i == 0 and own["stored"] > 800 * KIB):
            fail(f"{path}: more was read, or stored, than is in its file: {own}")


def check_units(store, said, tmp):
    paths = [store.path(n) for n in ("versions/v0.raw", "versions/v1.raw", "esx/sparse.vmdk", "db/installed.raw", "odd/odd.raw")]
    stored = {}
    for bits, min_run in ((12, 4 * KIB), (14, 64 * KIB), (16, 64 * KIB)):
        pool = Pool(os.path.join(tmp, f"pool{bits}"), "--unit", bits, "--min-run", min_run)
        again = check_images(pool, paths, tmp)
        stored[bits] = sum(s["stored"] for s in again.values())
        if any(again[p]["root"] != said[p]["root"] for p in paths):
            fail(f"other roots with units of {1 << bits} bytes")
        remove_tree(pool.path)
    print("stored with units of 4, 16, 64 KiB: " + ", ".join(f"{v / MIB:.1f} MiB" for v in stored.values()))
    if not stored[12] <= stored[14] <= stored[16]:
        fail("larger units store less than smaller ones")


def check_view(pool, store, said, tmp):
    for name in ("versions/v1.raw", "db/installed.raw"):
        s = said[store.path(name)]
        ident = tool("view", pool.path, s["root"], s["size"], 12).strip()
        overlay = os.path.join(tmp, "overlay.qcow2")
        tool("overlay", pool.path, ident, overlay)
        run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", overlay, store.path(name))
        os.unlink(overlay)


def check_damage(pool, store, said, tmp):
    """The byte is one of v2's own."""
    path = store.path("versions/v2.raw")
    out = os.path.join(tmp, "out.raw")
    with open(store.path("versions/v1.raw"), "rb") as f, open(path, "rb") as g:
        own = next(y for x, y in zip(iter(lambda: f.read(BLOCK), b""), iter(lambda: g.read(BLOCK), b"")) if x != y)
    lift(pool.cluster_file())
    with open(pool.cluster_file(), "r+b") as f:
        f.seek(64 << 30)
        at = f.read().index(own) + (64 << 30)
        f.seek(at + 1000)
        byte = f.read(1)
        f.seek(at + 1000)
        f.write(bytes([byte[0] ^ 1]))
    must_fail("its bytes are not those of its digest", "export", pool.path, said[path]["root"], said[path]["size"], out)
    healed = json.loads(tool("import", pool.path, path))
    if not 0 < healed["stored"] <= 8 * BLOCK or healed["root"] != said[path]["root"]:
        fail(f"healed: {healed}")
    if not same_bytes(path, pool.export(healed, out)):
        fail("other bytes after it was healed")


def check_comparison(store, tmp):
    """The control."""
    a, b = store.path("odd/odd.raw"), os.path.join(tmp, "flipped.raw")
    shutil.copyfile(a, b)
    if not same_bytes(a, b) or changed_bytes(a, b):
        fail("a copy is not the same")
    if bytes_in_runs([9, 1, 2, 3, 4, 5, 9, 2, 3, 4, 8, 7, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6]) != 9 * BLOCK:
        fail("runs are not counted right")
    with open(b, "r+b") as f:
        f.seek(4 * MIB)
        f.write(b"flipped")
    if same_bytes(a, b) or changed_bytes(a, b) != BLOCK:
        fail("a flipped bit was not seen")


def main():
    lib.exit_on_signals()
    lib.require("qemu-img", "qemu-io", "mke2fs", "sfdisk", "cmp")
    tmp = lib.scratch("pool_import")
    store = lib.Store(os.path.join(tmp, "store"), os.path.join(tmp, "work"), int(os.environ.get("POOL_MIB") or 24)).make()
    more_images(store)
    check_comparison(store, tmp)
    digests = recorded_digests(store.folder, tmp)
    paths = [p for p in lib.images_of(store.folder) if "-s001" not in p]
    paths.sort(key=lambda p: ("/golden.qcow2" not in p, "/versions/" not in p, p))
    pool = Pool(os.path.join(tmp, "pool"), "--beneath", store.folder)
    said = check_images(pool, paths, tmp, digests)
    data = sum(nonzero(s) for s in said.values())
    print(f"{len(said)} images, {data / MIB:.1f} MiB not zero: stored {sum(s['stored'] for s in said.values()) / MIB:.1f} MiB, "
          f"the pool takes {pool.bytes() / MIB:.1f} MiB, {data / pool.bytes():.1f} : 1", flush=True)
    check_again(pool, paths, said)
    check_saving(store, said, tmp)
    check_base(pool, store, said)
    check_units(store, said, tmp)
    check_view(pool, store, said, tmp)
    check_damage(pool, store, said, tmp)
    must_fail("it is encrypted", "import", pool.path, secret_image(tmp))


if __name__ == "__main__":
    sys.exit(main())
