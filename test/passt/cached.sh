#!/bin/bash
# Makes Debian 13's passt unless it is in the cache, and prints the folder that it is in.
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../images/lib.sh"

dir=$CACHE/passt-$(inputs_hash test/passt)
if ! cached "$dir"; then
	rm -rf "$dir" "$dir.new"
	"$REPO/test/passt/build.sh" "$dir.new"
	mv "$dir.new" "$dir"
	keep_newest "$dir" "$CACHE/passt"-*
fi
# A name that does not change, for the tests.
ln -sfn "$(basename "$dir")" "$CACHE/passt"
echo "$dir"
