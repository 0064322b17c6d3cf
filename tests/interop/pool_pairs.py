#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two commands at once on one pool, all pairs: the second one waits or says that the pool is in use (exit status 4), no image says
anything else afterwards, and the pool is whole.  Then many of them, one after the other, beside a compaction.

Also beside a guest that has an image open (D12, D16), with originals that are put back, and with copies: of the pool made while
images enter it (it works, or says what is missing), an old pool under new overlays, and a new pool under old ones.

Usage: pool_pairs.py [--rounds N] [--seed S]"""

import argparse
import hashlib
import itertools
import os
import random
import shutil
import subprocess
import sys
import time

import lib_compact as lib
from lib_compact import DEDUPSCAN, LONG, MIB, fail, run
from lib_immutable import remove_tree

SIZE = 6 * MIB
NR_IMAGES = 4
MOST_IMAGES = 40
FILE_SIZE = "8M"  # of cluster files: others begin all the time
POOL = lib.POOL
DONE, IN_USE, SKIPS = 0, 4, 1


class Store:
    """Images that share most, what each must say, and what else lies around."""

    def __init__(self, tmp, seed):
        self.top, self.rng, self.tmp = os.path.join(tmp, "store"), random.Random(seed), tmp
        os.makedirs(self.top)
        self.base = self.rng.randbytes(SIZE // 2)
        self.says, self.nr = {}, 0
        for _ in range(NR_IMAGES):
            self.add()
        self.command("compact")
        self.must_run(self.compact())

    def raw(self):
        disk = bytearray(self.base + bytes(SIZE - len(self.base)))
        for _ in range(3):
            at = self.rng.randrange(SIZE // 4096 - 32) * 4096
            disk[at:at + 65536] = self.rng.randbytes(65536)
        return bytes(disk)

    def add(self):
        self.nr += 1
        path, raw = os.path.join(self.top, f"{self.nr:04}.qcow2"), os.path.join(self.tmp, "new.raw")
        with open(raw, "wb") as f:
            f.write(self.raw())
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path + ".new")
        with open(raw, "rb") as f:
            self.says[path] = hashlib.sha256(f.read()).hexdigest()
        os.rename(path + ".new", path)
        return path

    def remove_some(self):
        """So that collections have work, and rounds do not become longer."""
        if len(self.says) <= MOST_IMAGES:
            return
        for path in self.rng.sample(sorted(self.says), MOST_IMAGES // 2):
            os.unlink(path)
            del self.says[path]

    def compact(self):
        return lib.compact_command(self.top, os.path.join(self.tmp, "catalog"), "--method", "pool", "--cross-owner",
                                   "--file-size", FILE_SIZE, "--apply")

    def command(self, name):
        """Its words; what it makes or takes away is noted."""
        image = self.rng.choice(sorted(self.says))
        self.nr += 1
        if name == "compact":
            return self.compact()
        if name == "expand":
            return [DEDUPSCAN, "expand", "--keep-originals", "0", image]
        if name == "clone":
            return [DEDUPSCAN, "clone", image, os.path.join(self.top, f"clone{self.nr:04}.qcow2")]
        if name == "snapshot":
            return [DEDUPSCAN, "snapshot", f"v{self.nr}", image]
        if name == "restore":
            return [DEDUPSCAN, "restore", "--format", "raw", image, os.path.join(self.tmp, f"restored{self.nr}")]
        if name == "list":
            return [DEDUPSCAN, "list", self.top]
        if name == "scan":
            return [DEDUPSCAN, "scan", "--no-idle", "--catalog", os.path.join(self.tmp, "scanned"), self.top]
        return [DEDUPSCAN, "pool", *name.split(), self.top]

    @staticmethod
    def must_run(words):
        done = subprocess.run(words, capture_output=True, check=False)
        if done.returncode:
            fail(f"{' '.join(words)}: exit status {done.returncode}: {done.stderr.decode('utf-8', 'replace')}")
        return done

    def adopt(self, words, done):
        """A clone says what its image says."""
        if words[1] == "clone" and done == 0:
            self.says[words[3]] = self.says[words[2]]
        if words[1] == "restore" and os.path.exists(words[-1]):
            if done == 0:
                with open(words[-1], "rb") as f:
                    if hashlib.sha256(f.read()).hexdigest() != self.says[words[-2]]:
                        fail(f"{words[-2]} was restored as something else")
            os.unlink(words[-1])

    def against(self, only=None):
        wrong = []
        for path, says in self.says.items():
            if only and path not in only:
                continue
            is_now = digest_of(path, self.tmp)
            if is_now != says:
                wrong.append(f"{path} says {is_now}")
        return wrong


def digest_of(path, tmp, more=()):
    """Of what a guest sees; or why none does."""
    raw = os.path.join(tmp, "guest.raw")
    done = subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", *more, path, raw], capture_output=True, check=False)
    if done.returncode:
        return done.stderr.decode("utf-8", "replace").strip()
    with open(raw, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


# ---- pairs (D9, D11) ----

QUICK = ["pool collect", "pool collect --drop-missing", "pool collect --evacuate 80", "pool check", "pool check --read-data", "pool status", "pool repair",
         "clone", "list", "restore"]
SLOW = ["compact", "expand", "snapshot", "scan"]


def both(store, names):
    """Started at almost the same moment; their exit statuses."""
    words = [store.command(n.replace("pool ", "", 1)) for n in names]
    if words[0][1] == "snapshot" and words[1][1] == "snapshot" and words[0][3] == words[1][3]:
        words[1] = store.command("list")
    running = []
    patient = store.rng.random() < 0.3
    for w in words:
        more = [] if patient or w[1] == "scan" else ["--wait", "0"]
        running.append(subprocess.Popen(w + more, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        time.sleep(store.rng.random() * 0.03)
    said = [p.communicate() for p in running]
    for w, p, s in zip(words, running, said):
        text = s[1].decode("utf-8", "replace")
        # 1: an image was left as it is, which says why
        allowed = (DONE, IN_USE, SKIPS) if w[1] in ("compact", "expand", "scan", "snapshot") else (DONE, IN_USE)
        expanded = p.returncode == 2 and ("is no image of the pool" in text or "no pool" in text)
        if p.returncode not in allowed and not expanded:
            fail(f"{' '.join(w)} beside {names}: exit status {p.returncode}: {text} {s[0].decode('utf-8', 'replace')[-500:]}")
        if p.returncode == IN_USE and not ("another" in text or "in use" in text or "open" in text):
            fail(f"{' '.join(w)}: in use, but not said by whom: {text}")
        store.adopt(w, p.returncode)
    return [p.returncode for p in running]


def all_pairs(store, rounds):
    pairs = list(itertools.combinations_with_replacement(QUICK, 2)) + list(itertools.product(SLOW, QUICK))
    store.rng.shuffle(pairs)
    busy = 0
    for i in range(rounds):
        if i % 100 == 0 and i > 0:
            print(f"{i} rounds: {len(store.says)} images", flush=True)
        store.remove_some()
        names = list(pairs[i % len(pairs)])
        store.rng.shuffle(names)
        if "compact" in names:
            store.add()
        busy += IN_USE in both(store, names)
        if i % 5 == 4 or "expand" in names:
            wrong = store.against()
            if wrong:
                fail(f"after {names}:\n  " + "\n  ".join(wrong))
    print(f"{rounds} rounds, in {busy} of them one had to wait; {len(store.says)} images", flush=True)
    if not busy:
        fail("they never met")
    store.must_run([DEDUPSCAN, "pool", "check", "--read-data", store.top])
    return store.against()


# ---- many beside a compaction of several images ----

BESIDE = [n for n in QUICK + SLOW if n not in ("compact", "scan")]


def crowd(store):
    """They come in between two images, whatever they do there; how many did."""
    for _ in range(6):
        store.add()
    compaction = subprocess.Popen(store.compact() + ["--wait", "5m"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT)
    nr = 0
    while compaction.poll() is None:
        words = store.command(store.rng.choice(BESIDE).replace("pool ", "", 1))
        done = subprocess.run(words + ["--wait", "5m"], capture_output=True, check=False)
        text = done.stderr.decode("utf-8", "replace")
        # what did not enter yet, or what the compaction is about to replace
        refused = done.returncode in (SKIPS, 2, IN_USE) and any(w in text for w in (
            "is no image of the pool", "no pool", "changed", "in use by", "somebody", "another file"))
        if done.returncode and not refused:
            fail(f"{' '.join(words)} beside a compaction: exit status {done.returncode}: {text}")
        store.adopt(words, done.returncode)
        nr += done.returncode == 0 and compaction.poll() is None
    said = compaction.communicate()[0].decode("utf-8", "replace")
    if compaction.returncode not in (DONE, SKIPS):
        fail(f"the compaction beside others: exit status {compaction.returncode}: {said}")
    must_be_none(store.against(), "after a compaction with many beside it")
    return nr


def crowds(store, rounds):
    came_in = []
    for _ in range(rounds):
        store.remove_some()
        came_in.append(crowd(store))
    print(f"{rounds} compactions, beside each of them {came_in} commands", flush=True)
    if sum(came_in) < rounds:
        fail("hardly anybody came in")
    store.must_run([DEDUPSCAN, "pool", "check", "--read-data", store.top])


# ---- guests ----


class Guest:
    """QEMU with an image open for writing."""

    def __init__(self, path):
        self.path = path
        self.p = subprocess.Popen(["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, preexec_fn=lib.die_with_parent)
        self.say("read 0 4k")

    def say(self, line):
        self.p.stdin.write(line.encode() + b"\nflush\n")
        self.p.stdin.flush()
        out = b""
        while b"ops" not in out and b"failed" not in out:
            got = os.read(self.p.stdout.fileno(), 4096)
            if not got:
                fail(f"qemu-io of {self.path} ended: {out}")
            out += got
        if b"failed" in out:
            fail(f"qemu-io {self.path}: {line}: {out}")

    def close(self):
        self.p.communicate(b"quit\n")


def beside_guests(store):
    """One on a copy of an overlay that the pool does not know, whose image is then forgotten: what it needs stays while it runs."""
    source = store.add()
    store.must_run(store.compact())
    copy = os.path.join(store.tmp, "copy.qcow2")
    shutil.copyfile(source, copy)
    guest = Guest(copy)
    store.must_run([DEDUPSCAN, "expand", "--keep-originals", "0", source])
    os.rename(source, source + ".away")
    for _ in range(3):
        store.must_run([DEDUPSCAN, "pool", "collect", "--drop-missing", store.top])
        guest.say("read 0 6M")
    guest.close()
    wrong = []
    if digest_of(copy, store.tmp) != store.says[source]:
        wrong.append(f"a running guest on a copy lost its data: {digest_of(copy, store.tmp)}")
    for _ in range(2):
        store.must_run([DEDUPSCAN, "pool", "collect", "--drop-missing", store.top])
    os.rename(source + ".away", source)
    said = digest_of(copy, store.tmp)
    if "No such file" not in said:
        wrong.append(f"an overlay that nobody knows of any more is not told that its view is gone: {said}")
    return wrong + store.against()


def undone(store):
    """An overlay that was expanded and is kept goes back as long as the pool has what it stands on; else the image stays, which is
    said."""
    wrong, paths = [], [store.add(), store.add()]
    store.must_run(store.compact())
    for path in paths:
        store.must_run([DEDUPSCAN, "expand", path])
    store.must_run([DEDUPSCAN, "recover", "--undo", paths[0]])
    for more in [[]] * 2 + [["--drop-missing"]] * 4:
        store.must_run([DEDUPSCAN, "pool", "collect", *more, store.top])
        wrong += store.against(paths)
    done = subprocess.run([DEDUPSCAN, "recover", "--undo", paths[1]], capture_output=True, check=False)
    if done.returncode and b"not there any more" not in done.stderr + done.stdout:
        wrong.append(f"an overlay was not put back, and why is not said: {done.returncode} {done.stderr} {done.stdout}")
    store.must_run([DEDUPSCAN, "recover", "--purge", store.top])
    return wrong + store.against(paths)


# ---- copies of a pool ----


def swapped(store, pool, work):
    """With another pool in the place of the pool."""
    own = os.path.join(store.top, POOL)
    os.rename(own, own + ".own")
    try:
        os.rename(pool, own)
        return work()
    finally:
        os.rename(own, pool)
        os.rename(own + ".own", own)


def all_or_said(store, known, what):
    """Each image says what it should or QEMU says why not; a check says whether the pool is whole."""
    wrong = []
    for path in known:
        says = digest_of(path, store.tmp)
        if says != store.says[path] and len(says) == 64:
            wrong.append(f"{what}: {path} says something else without a word")
    done = subprocess.run([DEDUPSCAN, "pool", "check", "--read-data", store.top], capture_output=True, check=False)
    bad = [p for p in known if digest_of(p, store.tmp) != store.says[p]]
    if done.returncode not in (0, 1, 3):
        wrong.append(f"{what}: a check ends with {done.returncode}: {done.stderr.decode('utf-8', 'replace')}")
    print(f"{what}: {len(bad)} of {len(known)} images cannot be read, a check says {done.returncode}", flush=True)
    return wrong


def copies(store):
    """Made by cp -a while images enter (H5)."""
    own, wrong = os.path.join(store.top, POOL), []
    store.must_run(store.compact())
    before = sorted(store.says)
    old = os.path.join(store.top, "old-pool")
    run("cp", "-a", "--sparse=always", own, old)
    for i in range(20 if LONG else 2):
        for _ in range(3):
            store.add()
        taken = os.path.join(store.top, f"taken{i}")
        p = subprocess.Popen(store.compact(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(0.2 + store.rng.random())
        subprocess.run(["cp", "-a", "--sparse=always", own, taken], capture_output=True, check=False)
        said = p.communicate()[1]
        if p.returncode:
            fail(f"compact while the pool is copied: {p.returncode} {said}")
        wrong += swapped(store, taken, lambda: all_or_said(store, before, "a copy made meanwhile"))
        remove_tree(taken)
    after = sorted(store.says)
    wrong += swapped(store, old, lambda: all_or_said(store, after, "an old pool under new overlays"))
    remove_tree(old)
    kept = {p: p + ".kept" for p in before}
    for p, k in kept.items():
        shutil.copyfile(p, k)
    store.must_run([DEDUPSCAN, "pool", "collect", store.top])
    for p, k in kept.items():
        says = digest_of(k, store.tmp)
        if says != store.says[p] and len(says) == 64:
            wrong.append(f"an old overlay on a newer pool says something else without a word: {k}")
        os.unlink(k)
    return wrong + store.against()


def must_be_none(wrong, what):
    if wrong:
        fail(f"{what}:\n  " + "\n  ".join(wrong[:20]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000 if LONG else 50)
    parser.add_argument("--seed", type=int, default=1)
    o = parser.parse_args()
    lib.exit_on_signals()
    lib.require("qemu-img", "qemu-io")
    tmp = lib.scratch("pool_pairs")
    store = Store(tmp, o.seed)
    began = time.time()
    must_be_none(all_pairs(store, o.rounds), "pairs")
    print(f"pairs: {time.time() - began:.1f} s", flush=True)
    crowds(store, 20 if LONG else 2)
    print(f"crowds: {time.time() - began:.1f} s", flush=True)
    must_be_none(beside_guests(store), "guests")
    print(f"guests: {time.time() - began:.1f} s", flush=True)
    must_be_none(undone(store), "undone")
    print(f"undone: {time.time() - began:.1f} s", flush=True)
    must_be_none(copies(store), "copies")
    print(f"copies: {time.time() - began:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
