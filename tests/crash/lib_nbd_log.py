# SPDX-License-Identifier: Apache-2.0
"""A plugin for nbdkit-python-plugin(3): a disk that logs each write and each flush, for power_cuts_long.py.

disk=FILE is the disk, log=FILE gets records: "W", offset, length and the bytes; or "F"."""

import io
import os
import struct

import nbdkit  # pylint: disable=import-error

API_VERSION = 2
settings = {}


def config(key, value):
    settings[key] = value


def thread_model():
    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def after_fork():
    settings["fd"] = os.open(settings["disk"], os.O_RDWR)
    settings["to"] = io.open(settings["log"], "ab", buffering=0)


def open(readonly):  # pylint: disable=redefined-builtin,unused-argument
    return 1


def get_size(_):
    return os.fstat(settings["fd"]).st_size


def pread(_, buf, offset, flags):  # pylint: disable=unused-argument
    data = os.pread(settings["fd"], len(buf), offset)
    buf[:len(data)] = data


def pwrite(_, buf, offset, flags):
    os.pwrite(settings["fd"], buf, offset)
    settings["to"].write(struct.pack("<cQI", b"W", offset, len(buf)) + buf)
    if flags & nbdkit.FLAG_FUA:
        flush(_, 0)


def flush(_, flags):  # pylint: disable=unused-argument
    settings["to"].write(b"F")
