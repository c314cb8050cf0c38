#!/bin/bash
# Makes Debian 13's virtiofsd unless it is in the cache, and prints the folder that it is in.
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../images/lib.sh"

dir=$CACHE/virtiofsd-$(inputs_hash test/virtiofsd)
if ! cached "$dir"; then
	rm -rf "$dir" "$dir.new"
	"$REPO/test/virtiofsd/build.sh" "$dir.new"
	mv "$dir.new" "$dir"
	keep_newest "$dir" "$CACHE/virtiofsd"-*
fi
# A name that does not change, for the tests.
ln -sfn "$(basename "$dir")" "$CACHE/virtiofsd"
echo "$dir"
