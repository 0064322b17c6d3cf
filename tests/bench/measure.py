# SPDX-License-Identifier: Apache-2.0
"""For the benchmarks bench_*.py: images, runs that take turns, medians, tables.

A benchmark is called with a scratch folder and makes what it needs there.  From the environment: DEDUPSCAN, the program;
BENCH_MIB, the size of one image (1024); BENCH_RUNS, how often everything is measured (7).  Nothing fails for being slow: a
goal is printed beside the figure.

Things to compare take turns, and ratios are those of neighbours, so that whatever else the machine does meets both."""

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.environ.get("DEDUPSCAN") or os.path.join(ROOT, "build/dedupscan")
PLAIN_LOOP = os.path.join(os.path.dirname(PROGRAM), "tests/bench/plain_loop")
MIB = 1 << 20
IMAGE_MIB = int(os.environ.get("BENCH_MIB") or 1024)
RUNS = int(os.environ.get("BENCH_RUNS") or 7)

scratch = None


def begin(title, about=""):
    """Prints the heading and makes the scratch folder, which goes when the benchmark ends."""
    global scratch
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(f"usage: {os.path.basename(sys.argv[0])} SCRATCH-FOLDER")
    scratch = os.path.abspath(sys.argv[1])
    remove_scratch()
    os.makedirs(scratch)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"\n{title}\n{'=' * len(title)}")
    for line in about.strip().splitlines():
        print(line.strip())
    print(f"{processor()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; images of {IMAGE_MIB} MiB; "
          f"median (least-most) of {RUNS} runs\n")


def remove_scratch():
    shutil.rmtree(scratch, ignore_errors=True)
    if os.path.isdir(scratch):  # files of pools are immutable
        subprocess.run(["chattr", "-R", "-f", "-i", scratch], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(scratch, ignore_errors=True)


def end():
    remove_scratch()
    print(f"load at the end {os.getloadavg()[0]:.1f}")


def main(title, about, call):
    begin(title, about)
    try:
        call()
    finally:
        end()


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        return next((line.split(":")[1].strip() for line in f if line.startswith("model name")), "processor")


def path(name):
    return os.path.join(scratch, name)


def folder(name):
    os.makedirs(path(name), exist_ok=True)
    return path(name)


# ---- images ----

made = 0


def make_image(name, mib=None, compressible=False):
    """A raw image in which all blocks of all images are different.  It is one MiB of random bytes over and over, but each
    block begins with its number: nothing that hashes whole blocks can tell that from noise."""
    global made
    unit = bytearray(os.urandom(MIB))
    if compressible:  # every other 2 KiB
        for at in range(2048, MIB, 4096):
            unit[at:at + 2048] = bytes(2048)
    unit[0::4096] = bytes(range(256))
    with open(path(name), "wb") as f:
        for _ in range(mib or IMAGE_MIB):
            for i, byte in enumerate(made.to_bytes(6, "little")):
                unit[1 + i::4096] = bytes([byte]) * 256
            f.write(unit)
            made += 1
    return path(name)


def copy_image(source, name):
    with open(source, "rb") as f, open(path(name), "wb") as to:
        shutil.copyfileobj(f, to, MIB)
    return path(name)


def read_through(files):
    buf = bytearray(MIB)
    for name in files:
        fd = os.open(name, os.O_RDONLY)
        while os.readv(fd, [buf]):
            pass
        os.close(fd)


def warm(files):
    """Drops files from the page cache and reads them in again, front to back: how a file came in decides how large the
    pieces are in which it lies there, and these how fast it is read.  Also ages them past the two seconds in which time
    stamps are not trusted."""
    for name in files:
        fd = os.open(name, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    read_through(files)
    wait = 2.2 - (time.time() - max(os.stat(name).st_ctime for name in files))
    time.sleep(max(wait, 0))


# ---- runs ----


class Run:
    """Wall and processor seconds of a program with its children, and what it printed."""

    def __init__(self, args, core=None):
        old = os.sched_getaffinity(0)
        if core is not None:
            os.sched_setaffinity(0, {core})
        with open(path("output"), "w+b") as out:
            start = time.perf_counter()
            p = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            _, status, use = os.wait4(p.pid, 0)
            self.wall = time.perf_counter() - start
            p.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            self.output = out.read().decode(errors="replace")
        os.sched_setaffinity(0, old)
        if p.returncode:
            sys.exit(f"{' '.join(args)}: status {p.returncode}\n{self.output}")
        self.cpu = use.ru_utime + use.ru_stime
        self.read_from_disk = use.ru_inblock * 512


def take_turns(calls, files):
    """Calls all, forwards and backwards in turn, RUNS times.  {name: call} -> {name: [Run]}.  A round in which some of the
    files had to be fetched from the disk does not count."""
    ret = {name: [] for name in calls}
    lost = 0
    for i in range(3 * RUNS):
        read_through(files)
        names = list(calls) if i % 2 == 0 else list(reversed(list(calls)))
        this = {name: calls[name]() for name in names}
        if any(run.read_from_disk > 8 * MIB for run in this.values()) and lost < 2 * RUNS:
            lost += 1
            continue
        for name, run in this.items():
            ret[name].append(run)
        if len(ret[names[0]]) == RUNS:
            break
    if lost:
        print(f"({lost} rounds were made again: files had left the page cache)")
    return ret


def scan(paths, *options, jobs=1, memory=None, core=None, catalog="catalog", fresh=True):
    """One scan, by default of a new catalog."""
    if fresh:
        shutil.rmtree(path(catalog), ignore_errors=True)
    args = [PROGRAM, "scan", "--no-idle", "--fill-cache", "--jobs", str(jobs), "--catalog", path(catalog)]
    if memory:
        args += ["--memory", memory]
    return Run(args + list(options) + paths, core)


def catalog_bytes(catalog="catalog"):
    return sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(path(catalog)) for f in files)


# ---- figures ----


def spread(values, form="{:.2f}"):
    """Median (least-most)."""
    low, mid, high = (form.format(v) for v in (min(values), statistics.median(values), max(values)))
    return f"{mid} ({low}-{high})"


def of(runs, what, scale=1):
    return [getattr(r, what) * scale for r in runs]


def ratios(runs, others, what):
    """Of neighbouring runs: how many times as much `others` took."""
    return [getattr(b, what) / getattr(a, what) for a, b in zip(runs, others)]


def table(head, rows):
    rows = [head] + [[str(c) for c in row] for row in rows]
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(head))]
    for row in rows:
        print("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip())
    print()
