#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Files that an image lies in come, go and change hands: after each change the catalog gives the report of one made anew."""

import os
import shutil
import sys
import time

import lib_vmdk
from lib_exact import BLOCK, SETTLE, fail, fresh_tmp, must_be_same, report, require_tools, run

NR_BLOCKS = 64
rounds = 0


class Case:
    """A directory with its catalog.  Contents are told apart by how many different blocks they have."""

    def __init__(self, tmp, name):
        self.name, self.folder = name, os.path.join(tmp, name)
        self.catalog, self.fresh = os.path.join(tmp, "catalog"), os.path.join(tmp, "fresh")
        os.mkdir(self.folder)
        shutil.rmtree(self.catalog, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def flat(self, name, nr_distinct):
        with open(self.path(name), "wb") as f:
            f.write(b"".join(i.to_bytes(8, "little") * (BLOCK // 8) for i in range(nr_distinct)) * (NR_BLOCKS // nr_distinct))

    def text(self, name, text):
        with open(self.path(name), "w", encoding="ascii") as f:
            f.write(text)

    def describe(self, name, *extents):
        lines = [f'RW {NR_BLOCKS * BLOCK // 512} FLAT "{e}" 0' for e in extents]
        self.text(name, lib_vmdk.descriptor(lines, "custom"))

    def move(self, name, to):
        os.rename(self.path(name), self.path(to))

    def check(self, what, images, distinct):
        """Twice: once the change has to be found, once nothing changed."""
        global rounds  # pylint: disable=global-statement
        os.sync()
        time.sleep(SETTLE / 2)
        for _ in range(2):
            got, fresh = report(self.folder, self.catalog), report(self.folder, self.fresh)
            shutil.rmtree(self.fresh)
            must_be_same(fresh, got, f"{self.name}, {what}: the catalog gives another report than one made anew")
            names = sorted(os.path.basename(i["path"]) for i in got["images"])
            if names != sorted(images) or got["totals"]["distinct"] != distinct * BLOCK or not got["complete"]:
                fail(f"{self.name}, {what}: {names}, {got['totals']['distinct'] // BLOCK} distinct blocks")
        rounds += 1


def check_new_kind(tmp):
    c = Case(tmp, "replaced by an image of one file")
    c.flat("disk.raw", 8)
    c.describe("d.vmdk", "disk.raw")
    c.check("before", ["d.vmdk"], 7)
    run("qemu-img", "create", "-q", "-f", "vmdk", c.path("new"), "4M")
    c.move("new", "d.vmdk")
    c.check("the extent is an image by itself", ["d.vmdk", "disk.raw"], 7)


def check_let_go(tmp):
    for descriptor in ("a.vmdk", "z.vmdk"):  # read before its extents or after
        c = Case(tmp, f"{descriptor} names another extent")
        c.flat("disk.raw", 8)
        c.flat("other.raw", 16)
        c.describe(descriptor, "disk.raw")
        c.check("before", [descriptor, "other.raw"], 15)
        c.describe(descriptor, "other.raw")
        c.check("it let one go", [descriptor, "disk.raw"], 15)
        c.text(descriptor, "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"x\n")
        c.check("it cannot be read", [descriptor, "disk.raw", "other.raw"], 15)
        c.describe(descriptor, "disk.raw", "other.raw")
        c.check("it has both", [descriptor], 15)
        os.unlink(c.path(descriptor))
        c.check("it is gone", ["disk.raw", "other.raw"], 15)


def check_let_go_and_replaced(tmp):
    c = Case(tmp, "an extent that is let go and replaced at once")
    c.flat("disk.raw", 8)
    c.flat("other.raw", 16)
    c.describe("d.vmdk", "disk.raw")
    c.check("before", ["d.vmdk", "other.raw"], 15)
    c.flat("new", 32)
    c.move("new", "disk.raw")
    c.describe("d.vmdk", "other.raw")
    c.check("after", ["d.vmdk", "disk.raw"], 31)


def check_moved(tmp):
    c = Case(tmp, "extent moved")
    c.flat("disk.raw", 8)
    c.flat("other.raw", 16)
    c.describe("d.vmdk", "disk.raw")
    c.check("before", ["d.vmdk", "other.raw"], 15)
    c.move("disk.raw", "third.raw")
    c.check("renamed away", ["d.vmdk", "other.raw", "third.raw"], 15)
    c.move("other.raw", "disk.raw")
    c.check("another in its place", ["d.vmdk", "third.raw"], 15)


def check_late(tmp):
    c = Case(tmp, "extent that comes late")
    c.describe("d.vmdk", "d-flat.vmdk")
    c.check("missing", ["d.vmdk"], 0)
    c.flat("d-flat.vmdk", 8)
    c.check("there", ["d.vmdk"], 7)
    c.flat("d-flat.vmdk", 16)
    c.check("changed", ["d.vmdk"], 15)
    os.unlink(c.path("d-flat.vmdk"))
    c.check("gone", ["d.vmdk"], 0)


def check_link(tmp):
    c = Case(tmp, "extent behind a symbolic link")
    c.flat("x-flat.vmdk", 8)
    c.flat("y-flat.vmdk", 16)
    os.symlink("x-flat.vmdk", c.path("d-flat.vmdk"))
    c.describe("d.vmdk", "d-flat.vmdk")
    c.check("before", ["d.vmdk"], 7)
    os.unlink(c.path("d-flat.vmdk"))
    os.symlink("y-flat.vmdk", c.path("d-flat.vmdk"))
    c.check("the link leads elsewhere", ["d.vmdk"], 15)


def main():
    require_tools("qemu-img")
    tmp = fresh_tmp()
    for check in (check_new_kind, check_let_go, check_let_go_and_replaced, check_moved, check_late, check_link):
        check(tmp)
    print(f"{rounds} states of images of several files: the reports are those of new catalogs")


if __name__ == "__main__":
    sys.exit(main())
