#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What a scan by root reads of images that belong to others does not stay in the page cache, sandbox or not.
. tests/lib.sh
. tests/cli/lib_store.sh
require_root

random_file "$STORE/1.raw" 8M
chown 12345:12345 "$STORE/1.raw"
chmod 600 "$STORE/1.raw"
settle

# resident: pages of the image in the page cache
resident()
{
	python3 - "$STORE/1.raw" <<'END'
import ctypes, mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(fd).st_size
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
at = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
vec = ctypes.create_string_buffer((size + 4095) // 4096)
assert libc.mincore(at, size, vec) == 0
print(sum(b & 1 for b in vec.raw[:(size + 4095) // 4096]))
END
}
forget()
{
	sync "$STORE/1.raw"
	dd if="$STORE/1.raw" iflag=nocache count=0 status=none
}

forget
[ "$(resident)" -eq 0 ] || skip "the file system keeps its files in memory"
for mode in require off; do
	rm -rf "$CATALOG"
	scan --sandbox=$mode "$STORE"
	assert_status 0 $mode
	[ "$(resident)" -lt 256 ] || fail "$mode: $(resident) of 2048 pages stayed"
	forget
done
rm -rf "$CATALOG"
scan --fill-cache "$STORE"
[ "$(resident)" -gt 2000 ] || fail "told to, it did not fill the cache: $(resident) pages"
