#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# F3: FIFOs, sockets, devices and files without a name are never opened and block nobody: met, named, or named in an image.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool strace
strace -o /dev/null true 2>/dev/null || skip "needs leave to trace processes"

random_file "$STORE/good.raw" 1M
mkfifo "$STORE/fifo.raw"
python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' "$STORE/socket.raw"
names="fifo.raw socket.raw"
if mknod "$STORE/null.raw" c 1 3 2>/dev/null; then
	mknod "$STORE/loop.raw" b 7 200
	mknod "$STORE/tty.raw" c 5 0
	names="$names null.raw loop.raw tty.raw"
fi
exec 7<>"$TMP/unlinked"
rm "$TMP/unlinked"
ln -s "/proc/$$/fd/7" "$STORE/unlinked.raw"

# traced COMMAND...: its calls that open something in $trace
traced()
{
	status=0
	output=$(timeout 60 strace -f -qq -o "$TMP/trace" -e trace=open,openat,openat2 "$DEDUPSCAN" "$@" 2>&1) || status=$?
	trace=$(grep -v O_PATH "$TMP/trace")
}

traced scan --no-idle --catalog "$CATALOG" "$STORE"
assert_status 0
assert_has "$trace" 'good\.raw.* = [0-9]'
assert_has_not "$trace" '(fifo|socket|null|loop|tty|unlinked)\.raw'
assert_has "$output" '^1 images: '
for name in $names; do
	assert_has "$output" "$name': it is a (FIFO|socket|character device|block device)"
done

for name in ${names/loop.raw/}; do
	traced scan --no-idle --catalog "$CATALOG" "$STORE/$name"
	assert_status 1 "$name"
	assert_has_not "$trace" "\"$name\""
done

# device FILE: in an image
for name in $names unlinked.raw "/proc/$$/fd/7" /dev/null; do
	printf '# Disk DescriptorFile\ncreateType="custom"\nRW 2048 FLAT "%s" 0\n' "$name" >"$STORE/d.vmdk"
	traced scan --no-idle --catalog "$CATALOG" "$STORE"
	assert_status 1 "$name"
	assert_has "$output" "d.vmdk': "
	assert_has_not "$trace" '(fifo|socket|loop|tty|unlinked)\.raw|O_RDONLY.*null\.raw'
done
