#!/bin/bash
# All that is missing is named in one message with the way out; make check calls contrib/install-deps by itself.
. tests/lib.sh

toy_tree "$TMP/tree"
cd "$TMP/tree"
mkdir bin
cat >bin/pkg-config <<'END'
#!/bin/sh
case "$*" in *sqlite3* | *zstd*) exit 1 ;; esac
END
chmod +x bin/pkg-config
PATH=$PWD/bin:$PATH

capture make
assert_eq 2 "$status" "exit status"
assert_eq 1 "$(grep -c missing <<<"$output")" "number of messages"
assert_has "$output" '^missing: sqlite3 libzstd; contrib/install-deps '

capture make check
assert_has "$output" 'install-deps was called'
