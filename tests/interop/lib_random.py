# SPDX-License-Identifier: Apache-2.0
"""For the tests *_random.py, which make random images and hold what we read of them against QEMU or a model.

Each image comes of one seed, and has a folder of its own.  A test says how to make and check the image of a seed, and plants faults
for its comparisons to find before it trusts them; main() below does the rest.

Extents are tuples (begin, end, kind, depth in the chain, offset in the file or None)."""

import argparse
import multiprocessing
import os
import shutil
import struct
import subprocess
import tempfile

LONG = bool(os.environ.get("LONG"))
IMGTOOL = os.path.abspath(f"{os.environ.get('BUILD') or 'build'}/tests/interop/imgtool")

work = None  # of main(): how to make and check an image, and where


class Failed(Exception):
    pass


def run(*command, may_fail=False, **kw):
    """The standard output of a command."""
    kw.setdefault("timeout", 100)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, **kw)
    if done.returncode and not may_fail:
        raise Failed(f"{' '.join(command)}: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout


# ---- what we read ----

def our_info(path, form):
    out = run(IMGTOOL, "-f", form, "info", path).decode()
    return dict(line.split(" ", 1) for line in out.splitlines() if " " in line)


def our_extents(verb, path, form):
    rows = []
    for line in run(IMGTOOL, "-f", form, verb, path).decode().splitlines():
        head, offset = line.rsplit(" ", 1)
        at, length, kind, depth = head.split(" ")[:4]
        rows.append((int(at), int(at) + int(length), kind, int(depth), None if offset == "-" else int(offset)))
    return rows


# ---- comparing extents ----

def check_tiling(rows, end, what):
    at = 0
    for r in rows:
        if r[0] != at or r[1] <= at:
            raise Failed(f"{what}: extent {r} does not begin at {at}")
        at = r[1]
    if at != end:
        raise Failed(f"{what} ends at {at}, not at {end}")


def zeros(kind):
    return kind in ("hole", "zero", "prealloc")


def check_pair(ours, theirs, at, what):
    if theirs[2] == "maybe":
        same = ours[3] == theirs[3]
    elif theirs[2] == "data":
        same = ours[2] in ("data", "packed", "prealloc") and ours[3] == theirs[3]
        same = same and (ours[2] == "packed") == (theirs[4] is None)
    elif theirs[2] == "hole":
        same = ours[2] == "hole"
    else:
        same = zeros(ours[2]) and (ours[2] == "hole" or ours[3] == theirs[3])
    if same and ours[2] == "data" and theirs[4] is not None:
        same = ours[4] + at - ours[0] == theirs[4] + at - theirs[0]
    if not same:
        raise Failed(f"{what} differs at {at}: ours {ours}, theirs {theirs}")


def check_maps(ours, theirs, what):
    """Walks both lists at once; extents may be cut differently."""
    i = j = at = 0
    while i < len(ours) and j < len(theirs):
        check_pair(ours[i], theirs[j], at, what)
        at = min(ours[i][1], theirs[j][1])
        i += ours[i][1] == at
        j += theirs[j][1] == at


def check_stored_alone(ours, theirs, what):
    """Depth 0 of QEMU's map is what the file itself stores."""
    theirs = [e if e[3] == 0 else (e[0], e[1], "hole", 0, None) for e in theirs]
    i = j = at = 0
    while i < len(ours) and j < len(theirs):
        a, b = ours[i], theirs[j]
        if b[2] == "zero" and a[2] == "hole":
            raise Failed(f"{what} differs at {at}: ours {a}, theirs {b}")
        check_pair(a, b, at, what)
        at = min(a[1], b[1])
        i += a[1] == at
        j += b[1] == at


def must_fail(what, check, *arguments):
    """A comparison that passes over what was planted ends the test."""
    try:
        check(*arguments)
    except Failed:
        return
    raise SystemExit(f"the comparison of {what} does not find what was planted")


# ---- a test ----

def one(seed):
    folder = os.path.abspath(os.path.join(work.keep or work.folder, str(seed)))
    os.makedirs(folder, exist_ok=True)
    nr, said = 0, ""
    try:
        nr = work.check(seed, folder)
    except (Failed, subprocess.SubprocessError, OSError, ValueError, KeyError, IndexError, struct.error) as e:
        said = f"{type(e).__name__}: {e}; seed {seed}"
    if not work.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return nr, said


def main(about, check, control, count, what="images", found=None):
    """check(seed, folder) makes an image, compares it, and returns how many things were found; control(folder) plants faults; there
    are count[0] images, or count[1] with LONG.  Of images enough, some must have had what `found` names.  Returns the exit
    status."""
    global work
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=count[LONG])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", help="keep the images in this folder")
    work = parser.parse_args()
    for tool in ("qemu-img", "qemu-io"):
        if not shutil.which(tool):
            print(f"needs {tool}")
            return 77
    work.check = check
    work.folder = tempfile.mkdtemp(prefix="random.", dir=os.environ.get("TMP"))
    failed = nr_found = 0
    try:
        control(work.folder)
        with multiprocessing.Pool(work.jobs) as pool:
            for nr, said in pool.imap(one, range(work.seed, work.seed + work.count)):
                nr_found += nr
                if said:
                    failed += 1
                    print(said, flush=True)
    finally:
        shutil.rmtree(work.folder, ignore_errors=True)
    print(f"{work.count} {what} compared, {failed} failed" + (f" ({nr_found} {found})" if found else ""))
    return 1 if failed or (found and nr_found == 0 and work.count > 20) else 0
