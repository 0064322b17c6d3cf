#!/bin/bash
# contrib/install-deps installs just what dpkg does not know as installed, through sudo unless root, and else does nothing.
. tests/lib.sh

mkdir "$TMP/bin"
cat >"$TMP/bin/dpkg-query" <<'END'
#!/bin/sh
cat "$TMP/packages"
END
cat >"$TMP/bin/apt-get" <<'END'
#!/bin/sh
echo "apt-get $*"
END
cat >"$TMP/bin/sudo" <<'END'
#!/bin/sh
echo "by sudo:"
"$@"
END
cat >"$TMP/bin/id" <<'END'
#!/bin/sh
echo "${FAKE_UID:-0}"
END
chmod +x "$TMP"/bin/*
export PATH=$TMP/bin:$PATH

: >"$TMP/packages"
all=$(contrib/install-deps --print)
assert_has "$all" '^libjudy-dev$'
assert_has_not "$all" '^duperemove$'
assert_has "$(contrib/install-deps --print --bench --long)" '^(duperemove|valgrind)$'

# all there, one of them under another name, one removed but for its configuration
{
	grep -v -e pkg-config -e libzstd-dev -e sqlite3 <<<"$all" | sed 's/.*/installed &, /'
	echo 'installed pkgconf, pkg-config (= 0.29.2), pkgconf-bin'
	echo 'installed sqlite3, '
	echo 'installed libsqlite3-dev, '
	echo 'config-files libzstd-dev, '
} >"$TMP/packages"
assert_eq libzstd-dev "$(contrib/install-deps --print)"
capture contrib/install-deps
assert_eq "install-deps: installing libzstd-dev
apt-get -q update
apt-get -q install -y --no-install-recommends libzstd-dev" "$output"
assert_eq 2 "$(FAKE_UID=1000 contrib/install-deps | grep -c 'by sudo')"

echo 'installed libzstd-dev, ' >>"$TMP/packages"
assert_eq "" "$(contrib/install-deps)"
capture contrib/install-deps --nonsense
assert_eq 2 "$status"
