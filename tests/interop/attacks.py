#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""Images made by an enemy are contained.  All attacks of lib_attack_*.py in one store with a good image among them, scanned
under strace; then each costly one alone, beside a good image, with its cost measured.  Of every scan is asked:
  - it ends by itself, with exit status 0 or 1, 1 if an image failed, and no process of it dies or is stopped by the sandbox
  - every attack is told by its file, with the reason that was expected, or read without a word where that is right
  - nothing is opened outside the store, the catalog and what the system's libraries open; no canary is touched; no network
  - all processes together use at most 256 MiB, and 10 s of CPU for an image of up to 1 MiB
  - the good image is counted as if it were alone, and no output steers a terminal or is broken
The same, but for what is said, is asked of `dedupscan info`.
Each of these checks is seen to fail where it must.

Usage: attacks.py [--list] [--only PATTERN] [--keep DIR] [--long] [--slow SECONDS]"""

import argparse
import collections
import csv
import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import lib_attack
from lib_attack import ANY, LONG, MIB, Attack, Place
from lib_canaries import Canaries
import lib_attack_qcow2
import lib_attack_raw  # noqa: F401 pylint: disable=unused-import # and by it all the others

PROGRAM = os.path.abspath(os.environ.get("DEDUPSCAN") or "build/dedupscan")
MEMORY_MAX, CPU_MAX = 256 * MIB, 10
TIME_MAX = int(os.environ.get("ATTACK_SECONDS") or 120)
SYSTEM = ("/etc/ld.so.", "/etc/locale.alias", "/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/", "/usr/share/locale/",
          "/usr/share/zoneinfo/", "/proc/self/",
          "/sys/devices/system/", "/proc/sys/", "/sys/fs/cgroup/")
CALLS = "open,openat,openat2,creat,open_by_handle_at,execve,execveat,connect,socket,bind,mknod"


class Failed(Exception):
    pass


# ---- running ----

class Cost(threading.Thread):
    """The most memory that a process and its children had at once: the peaks that the kernel has of each, asked every few
    milliseconds."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self.over = pid, 0, threading.Event()

    def look(self):
        todo, peaks = [self.pid], 0
        while todo:
            pid = todo.pop()
            try:
                with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as f:
                    found = re.search(r"VmHWM:\s+(\d+)", f.read())
                with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as f:
                    todo += f.read().split()
            except OSError:
                continue
            if found:
                peaks += int(found.group(1)) * 1024
        self.peak = max(self.peak, peaks)

    def run(self):
        while not self.over.wait(0.02):
            self.look()

    def end(self):
        self.over.set()
        self.join()
        return self.peak


Run = collections.namedtuple("Run", "status output memory cpu seconds")


def run(command, stdout=subprocess.STDOUT):
    """Runs it to its end; in TIME_MAX, or it is killed and that is a failure.  Standard output may go to a file of its own."""
    before = time.monotonic()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out if stdout == subprocess.STDOUT else stdout,
                                   stderr=out, start_new_session=True)
        cost = Cost(process.pid)
        cost.start()
        alarm = threading.Timer(TIME_MAX, os.killpg, (process.pid, signal.SIGKILL))
        alarm.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        alarm.cancel()
        memory = cost.end()
        out.seek(0)
        output = out.read()
    return Run(process.returncode, output, memory, usage.ru_utime + usage.ru_stime, time.monotonic() - before)


def scan(base, *options, wrap=()):
    """One scan with reports in all styles of base/store."""
    reports = [f"--{style}={base}/report.{style}" for style in ("csv", "json", "table")]
    return run([*wrap, PROGRAM, "report", "--no-idle", "--catalog", f"{base}/catalog", *reports, *options, f"{base}/store"])


def info(base, attacks, style, wrap=()):
    """What the images are, told in base/report.info."""
    files = [f"{base}/store/{a.name}/{a.file}" for a in attacks]
    with open(f"{base}/report.info", "wb") as out:
        return run([*wrap, PROGRAM, "info", *style, *files], out)


# ---- what is asked of a scan ----

def check_end(r):
    if r.status not in (0, 1):
        raise Failed(f"exit status {r.status} after {r.seconds:.0f} s: {r.output[-300:]!r}")
    died = re.search(rb"the process that read it died.*|Sanitizer.*|core dumped|forbidden.*", r.output)
    if died:
        raise Failed(died.group(0).decode("utf-8", "replace"))


def check_cost(r, held):
    if r.memory > MEMORY_MAX:
        raise Failed(f"{r.memory >> 20} MiB of memory")
    if r.cpu > CPU_MAX * max(1, held / MIB):
        raise Failed(f"{r.cpu:.1f} s of CPU for {held >> 10} KiB")


def check_text(name, text):
    if re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text):
        raise Failed(f"control bytes in {name}")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as e:
        raise Failed(f"{name}: no UTF-8: {e}") from None


def check_texts(base, r, reports=("csv", "json", "table")):
    for style in reports:
        with open(f"{base}/report.{style}", "rb") as f:
            check_text(style, f.read())
    check_text("messages", r.output)
    for line in r.output.decode().splitlines():
        if not line.startswith("dedupscan: "):
            raise Failed(f"a line of its own: {line}")


def check_json(base):
    with open(f"{base}/report.info", encoding="utf-8") as f:
        try:
            json.load(f)
        except ValueError as e:
            raise Failed(f"info tells no JSON: {e}") from None


def rows(base):
    with open(f"{base}/report.csv", encoding="utf-8", newline="") as f:
        return {row["path"]: row for row in csv.DictReader(f)}


def check_good(base, found):
    row = found.get(f"{base}/store/good/good.raw")
    if not row or row["error"] or row["warning"] or int(row["stored"]) != 2 * MIB or int(row["exclusive"]) != 2 * MIB:
        raise Failed(f"the good image is reported as {row}")


def check_told(a, base, found):
    row = found.get(f"{base}/store/{a.name}/{a.file}")
    if ANY in (a.fails, a.warns):
        return
    if not row:
        raise Failed(f"{a.file} is not in the report")
    if row["error"] and not re.search(a.fails or "^$", row["error"]):
        raise Failed(f"failed: {row['error']}")
    if a.fails and not a.warns and not row["error"] and not re.search(a.fails, ""):
        raise Failed(f"read, though it must fail: {a.fails}")
    if not row["error"] and not re.search(a.warns or "^$", row["warning"]):
        raise Failed(f"warned: {row['warning']}")


def check_status(r, found):
    if r.status == 0 and any(row["error"] for row in found.values()):
        raise Failed("exit status 0 although an image failed")


def check_untouched(canaries):
    touched = [n for n in canaries.touched()]
    if touched:
        raise Failed(f"outside the roots was opened: {' '.join(sorted(set(touched)))}")


def check_trace(trace, base):
    """Every call that opens something, by the path that the kernel gave the descriptor."""
    nr = 0
    with open(trace, encoding="utf-8", errors="replace") as f:
        for line in f:
            if re.search(r"\b(connect|bind|execve|execveat|creat|mknod|open_by_handle_at)\(",
                         line) and "exited" not in line:
                if not re.search(r"execve\(", line) or nr:
                    raise Failed(f"a call that no scan makes: {line.strip()[:200]}")
            if re.search(r"\bsocket\((?!AF_UNIX)", line):
                raise Failed(f"a socket: {line.strip()[:200]}")
            opened = re.search(r"\bopen(?:at2?)?\(.*= \d+<(.*?)>$", line.strip())
            if not opened:
                continue
            nr += 1
            path = opened.group(1)
            inside = path in (f"{base}/store", f"{base}/catalog", f"{base}") or \
                path.startswith((f"{base}/store/", f"{base}/catalog/", f"{base}/report.", f"{base}/.dedupscan-")) or \
                path.startswith(SYSTEM) or path in ("/dev/null",
                                                    "/dev/urandom") or re.match(r"/proc/\d+/(status|statm|task|stat)", path)
            if not inside:
                raise Failed(f"opened: {path}")
    if nr < 10:
        raise Failed(f"strace saw only {nr} files opened")


# ---- stores ----

def make_good(base):
    os.makedirs(f"{base}/store/good")
    with open(f"{base}/store/good/good.raw", "wb") as f:
        f.write(os.urandom(2 * MIB))


def held_by(folder):
    """Bytes that the attack's files take."""
    return sum(os.lstat(os.path.join(d, n)).st_blocks * 512 for d, _, names in os.walk(folder) for n in names)


def must_fail(what, check, *arguments):
    try:
        check(*arguments)
    except Failed:
        return
    raise Failed(f"control: {what} was not noticed")


def together(base, attacks, wrap=(), trace=None):
    """All attacks in one store.  Returns what failed."""
    make_good(base)
    canaries = Canaries(f"{base}/outside")
    for a in attacks:
        a.make(Place(f"{base}/store/{a.name}", a))
    canaries.touched()
    r = scan(base, wrap=wrap)
    failures = []

    def ask(name, check, *arguments):
        try:
            check(*arguments)
        except Failed as e:
            failures.append(f"{name}: {e}")

    of = f"{attacks[0].name}: " if len(attacks) == 1 else ""
    ask(of + "the end", check_end, r)
    ask(of + "canaries", check_untouched, canaries)
    if trace:
        ask("strace", check_trace, trace, base)
    if os.path.exists(f"{base}/report.table"):
        found = rows(base)
        ask(of + "texts", check_texts, base, r)
        ask(of + "the good image", check_good, base, found)
        ask(of + "the exit status", check_status, r, found)
        for a in attacks:
            ask(a.name, check_told, a, base, found)
    infos = []
    for style in ([], ["--json"])[len(attacks) == 1:]:
        told = info(base, attacks, style, wrap)
        infos.append(told)
        ask(of + "info", check_end, told)
        ask(of + "info", check_untouched, canaries)
        ask(of + "info", check_texts, base, told, ["info"])
        if trace:
            ask(of + "info", check_trace, trace, base)
        if style:
            ask(of + "info", check_json, base)
    canaries.close()
    return failures, [r, *infos]


def alone(base, a, keep):
    """One attack and what it costs."""
    failures, runs = together(base, [a])
    for r in runs:
        try:
            check_cost(r, held_by(f"{base}/store/{a.name}"))
        except Failed as e:
            failures.append(f"{a.name}: {e}")
    if not keep:
        shutil.rmtree(base, ignore_errors=True)
    return failures, runs


# ---- controls ----

def control(base):
    """Each check is seen to fail."""
    os.makedirs(base)
    canaries = Canaries(f"{base}/c0")
    with open(f"{base}/c0/secret", "rb") as f:
        f.read(1)
    must_fail("a canary that is opened", check_untouched, canaries)
    canaries.close()

    def make(place):
        place.write(lib_attack_qcow2.external(place.secret.encode()).done())
        place.write(bytes(4096), "bad\x1b.qcow2")

    a = Attack("E1", "x.qcow2", "", make, "lies outside", None, False)
    made = f"{base}/allowed"
    make_good(made)
    canaries = Canaries(f"{made}/outside")
    a.make(Place(f"{made}/store/{a.name}", a))
    canaries.touched()
    trace = f"{base}/trace"
    strace = tracer(trace)
    r = scan(made, "--allow-backing", f"{made}/outside", wrap=strace)  # the door is open: all sensors must tell
    must_fail("a canary that the scan opens", check_untouched, canaries)
    if strace:
        must_fail("a canary in the trace", check_trace, trace, made)
    canaries.close()
    found = rows(made)
    must_fail("an attack that succeeds", check_told, a, made, found)
    must_fail("another reason", check_told, Attack("E1", "x.qcow2", "", make, None, "other", False), made, found)
    check_texts(made, r)
    must_fail("a control byte", check_texts, made, r._replace(output=b"dedupscan: \x1b"))
    must_fail("a line of its own", check_texts, made, r._replace(output=b"forged"))
    with open(f"{made}/report.info", "wb") as f:
        f.write(b"{\xff")
    must_fail("bytes that are no UTF-8", check_texts, made, r, ["info"])
    with open(f"{made}/report.info", "wb") as f:
        f.write(b"{")
    must_fail("broken JSON", check_json, made)
    with open(f"{made}/store/{a.name}/x.raw", "wb") as f, open(f"{made}/store/good/good.raw", "rb") as good:
        f.write(good.read())
    scan(made)
    must_fail("a good image that is not alone", check_good, made, rows(made))

    hungry = run([sys.executable, "-c", "import os, time; os.fork(); x = bytearray(140 << 20); time.sleep(0.1)"])
    must_fail("memory of two processes", check_cost, hungry, MIB)
    busy = run([sys.executable, "-c",
                "import os\nif os.fork() == 0:\n while sum(os.times()[:2]) < 1: pass\nelse: os.wait()"])
    must_fail("CPU of a child", check_cost, busy._replace(cpu=busy.cpu + CPU_MAX - 0.9), MIB)
    must_fail("a death", check_end, r._replace(status=-9))
    must_fail("a dead worker", check_end, r._replace(output=b"the process that read it died (killed by signal 31"))


def tracer(trace):
    """What a command is run by so that its calls are noted; nothing where that cannot be."""
    command = ["strace", "-f", "--seccomp-bpf", "-y", "-qq", "-o", trace, "-e", f"trace={CALLS}"]
    if shutil.which("strace") and subprocess.run([*command, "true"], check=False, stderr=subprocess.DEVNULL).returncode == 0:
        return command
    return []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="all attacks, one a line")
    parser.add_argument("--only", default="*", help="attacks whose name is like this pattern")
    parser.add_argument("--keep", help="make them in this folder and leave them there")
    parser.add_argument("--long", action="store_true", default=bool(os.environ.get("LONG")), help="measure every attack")
    parser.add_argument("--slow", type=float, default=1e9, help="tell of those that take more CPU than so many seconds")
    args = parser.parse_args()
    chosen = [a for a in lib_attack.attacks if fnmatch.fnmatch(a.name, args.only)]
    if args.list:
        for a in chosen:
            print(f"{a.name}: {a.what}")
        return 0
    base = args.keep or tempfile.mkdtemp(prefix="attacks.", dir=os.environ.get("TMP"))
    base = os.path.realpath(base)
    failures = []
    try:
        control(f"{base}/control")
        light = [a for a in chosen if not a.heavy]
        chosen = [a for a in chosen if a.heavy is not LONG or args.long or args.only != "*"]
        trace = f"{base}/trace"
        wrap = tracer(trace)
        if light:
            failures += together(f"{base}/all", light, wrap, trace if wrap else None)[0]
        with ThreadPoolExecutor(2) as pool:
            costly = [a for a in chosen if a.heavy or args.long]
            for a, (more, runs) in zip(costly, pool.map(lambda a: alone(f"{base}/{a.name}", a, bool(args.keep)), costly)):
                failures += more
                for r in runs:
                    if r.cpu > args.slow:
                        print(f"{a.name}: {r.cpu:.2f} s of CPU, {r.seconds:.2f} s, {r.memory >> 20} MiB", flush=True)
    except Failed as e:
        failures.append(str(e))
    finally:
        if not args.keep:
            shutil.rmtree(base, ignore_errors=True)
    for line in failures:
        print(line)
    print(f"{len(chosen)} attacks, {len(failures)} failures" + ("" if wrap else "; without strace"))
    return 1 if failures or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
