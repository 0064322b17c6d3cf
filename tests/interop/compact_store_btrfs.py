#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
"""compact_store.py on btrfs, where sharing a part of an extent frees nothing: files are rebuilt."""

import sys

import compact_store

if __name__ == "__main__":
    sys.exit(compact_store.main("btrfs"))
