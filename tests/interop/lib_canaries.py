# SPDX-License-Identifier: Apache-2.0
"""Files that nobody may open, and a watch over them."""

import ctypes
import os
import select
import struct


class Canaries:
    """What lies outside, and who opens it: inotify tells, for folders and all that is in them."""

    IN_OPEN, IN_ACCESS, IN_CHANGES = 0x20, 0x1, 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(os.path.join(folder, "sub"))
        for name in ("secret", "data", "sub/secret"):
            with open(os.path.join(folder, name), "wb") as f:
                f.write(b"canary " * 40000)
        os.mkfifo(os.path.join(folder, "fifo"))
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for watched in (folder, os.path.join(folder, "sub")):
            mask = self.IN_OPEN | self.IN_ACCESS | self.IN_CHANGES
            if self.libc.inotify_add_watch(self.fd, watched.encode(), mask) < 0:
                raise OSError("cannot watch the canaries")

    def touched(self):
        """Names of what was opened since the last call; a folder itself is opened by who lists it."""
        names = []
        while select.select([self.fd], [], [], 0)[0]:
            events, at = os.read(self.fd, 65536), 0
            while at < len(events):
                _, mask, _, length = struct.unpack_from("iIII", events, at)
                names.append(events[at + 16:at + 16 + length].rstrip(b"\0").decode() or f"the folder ({mask:#x})")
                at += 16 + length
        return names

    def close(self):
        os.close(self.fd)
