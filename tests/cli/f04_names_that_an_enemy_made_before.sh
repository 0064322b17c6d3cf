#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# F4: somebody who may write where images lie makes, before, what the program would make there: nothing of it is followed, written
# to or removed, and in a workshop that is not ours alone nothing is done.
. tests/lib.sh
. tests/cli/lib_compact.sh

make_btrfs 256M
mkdir -m 777 "$TMP/outside"

# begin_anew: b.raw can be rewritten
begin_anew()
{
	rm -rf "${STORE:?}"/* "$STORE/.dedupscan" "$CATALOG" "${TMP:?}/outside"/*
	random_file "$STORE/a.raw" 1M
	copy "$STORE/a.raw" "$STORE/b.raw"
	echo "not to be touched" | tee "$TMP/outside/journal" "$TMP/outside/lock" >"$TMP/outside/1"
	sync
}

# all_there: what must stay; "inside" too, unless that is what is tried
all_there()
{
	find "$TMP/outside" "$STORE" -printf '%p %i %y %m %u %s %T@ %l\n' | LC_ALL=C sort
	cksum "$STORE"/*.raw "$TMP/outside"/*
}

# refused WORDS HOW: by everything that would work there
refused()
{
	local before command
	before=$(all_there)
	for command in "compact --no-idle --apply --keep-originals 0 --catalog $CATALOG" recover "recover --undo" "recover --purge"; do
		# shellcheck disable=SC2086 # several words
		capture timeout 60 "$DEDUPSCAN" $command "$STORE"
		assert_status 3 "$2: $command"
		assert_has "$output" "$1"
		assert_eq "$before" "$(all_there)" "$2: $command"
	done
}

shop=$STORE/.dedupscan
mkshop() { mkdir -m 700 "$shop"; }

begin_anew
mkdir -m 700 "$TMP/outside/shop"
ln -s "$TMP/outside/shop" "$shop"
refused "'$STORE': cannot open '.dedupscan'" "a link"
begin_anew
ln -s "$TMP/outside/nothing" "$shop"
refused "'$STORE': cannot open '.dedupscan'" "a link to nothing"
begin_anew
echo >"$shop"
refused "'$STORE': cannot open '.dedupscan'" "a file"
begin_anew
mkfifo "$shop"
refused "'$STORE': cannot open '.dedupscan'" "a FIFO"
begin_anew
mkshop
chown 12345 "$shop"
refused "belongs to user 12345" "of another user"
for mode in 770 720 701 777 1777; do
	begin_anew
	mkdir "$shop"
	chmod $mode "$shop"
	refused "is open to others \\(mode $(printf %04d $mode)\\)" "mode $mode"
done
begin_anew
mkshop
ln -s "$TMP/outside/journal" "$shop/lock"
refused "'$shop': cannot open 'lock'" "a link for a lock"
begin_anew
mkshop
touch "$shop/lock"
chmod 600 "$shop/lock"
ln -s "$TMP/outside" "$shop/trash"
refused "'$shop': cannot open 'trash'" "a link for trash"
begin_anew
mkshop
touch "$shop/lock"
mkdir -m 777 "$shop/trash"
chmod 777 "$shop/trash"
refused "'$shop': 'trash' is open to others" "trash of all"
begin_anew
mkshop
touch "$shop/lock"
mkdir -m 700 "$shop/trash"
ln -s "$TMP/outside/journal" "$shop/journal"
refused "'$shop': cannot open 'journal'" "a link for a journal"

# Names beside the images, that some program might think of: they are nothing to it.
begin_anew
for name in 1.new 2.new journal lock trash b.raw.new b.raw.tmp b.raw~ .b.raw.new .b.raw.swp; do
	ln -s "$TMP/outside/journal" "$STORE/$name"
done
before=$(all_there | grep -v "$STORE \|b\.raw ") ino=$(stat -c %i "$STORE/b.raw")
compact --apply --keep-originals 0 "$STORE"
assert_status 0
[ "$(stat -c %i "$STORE/b.raw")" != "$ino" ] || fail "b.raw was not rewritten, so that this shows nothing"
assert_eq "$before" "$(all_there | grep -v "$STORE \|b\.raw \|/\.dedupscan")" "names beside images"
cmp "$STORE/a.raw" "$STORE/b.raw" || fail "b.raw has other bytes"

# In a workshop of ours, what is at the name of a new file is not overwritten.  (Only we could have put it there.)
begin_anew
mkshop
for n in {1..9}; do ln -s "$TMP/outside/journal" "$shop/$n.new"; done
compact --apply --keep-originals 0 "$STORE"
assert_eq "not to be touched" "$(cat "$TMP/outside/journal")" "behind links for new files"
assert_eq 9 "$(find "$shop" -name '*.new' -type l | wc -l)" "links for new files"
cmp "$STORE/a.raw" "$STORE/b.raw" || fail "b.raw has other bytes"
