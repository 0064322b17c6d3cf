# SPDX-License-Identifier: Apache-2.0
"""Files of a pool may be immutable: what wants to change, replace or remove some has to lift that first."""

import array
import contextlib
import fcntl
import os
import shutil
import tempfile

GETFLAGS, SETFLAGS, IMMUTABLE = 0x80086601, 0x40086602, 0x10


def is_immutable(path):
    """False also where the file system knows no such flag."""
    return bool(flags_of(path) & IMMUTABLE)


def flags_of(path):
    flags = array.array("L", [0])
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        fcntl.ioctl(fd, GETFLAGS, flags)
    except OSError:
        return 0
    finally:
        os.close(fd)
    return flags[0] & 0xffffffff


def set_immutable(path, on):
    flags = flags_of(path)
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, SETFLAGS, array.array("L", [flags | IMMUTABLE if on else flags & ~IMMUTABLE]))
    finally:
        os.close(fd)


def lift(*paths):
    """Of files, and of those beneath directories."""
    for path in paths:
        names = [path] if not os.path.isdir(path) else [os.path.join(at, n) for at, _, files in os.walk(path) for n in files]
        for name in names:
            if not os.path.islink(name) and is_immutable(name):
                set_immutable(name, False)


@contextlib.contextmanager
def temporary_directory(**where):
    folder = tempfile.mkdtemp(**where)
    try:
        yield folder
    finally:
        remove_tree(folder)


def remove_tree(path, ignore_errors=False):
    """shutil.rmtree(), but that it looks at flags where the system says no."""
    def lift_and_retry(call, name, _):
        if call is os.unlink and is_immutable(name):
            set_immutable(name, False)
            call(name)
        elif not ignore_errors:
            raise  # pylint: disable=misplaced-bare-raise
    shutil.rmtree(path, onerror=lift_and_retry)
