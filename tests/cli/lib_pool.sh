# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# For scripts that put a store into a pool, beside what lib_store.sh has.
. tests/cli/lib_store.sh

POOL=$STORE/.dedupscan-pool

# compact [OPTION]...: all images that can enter it do; output and exit status in $output and $status
compact()
{
	capture "$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --keep-originals 0 --apply "$@" "$STORE"
}
