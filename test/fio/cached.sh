#!/bin/bash
# Makes fio for the tiny guest unless it is in the cache, and prints the folder that it is in.
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../images/lib.sh"

dir=$CACHE/fio-$(inputs_hash test/fio)
if ! cached "$dir"; then
	rm -rf "$dir" "$dir.new"
	"$REPO/test/fio/build.sh" "$dir.new"
	mv "$dir.new" "$dir"
	keep_newest "$dir" "$CACHE/fio"-*
fi
# A name that does not change, for the benchmark.
ln -sfn "$(basename "$dir")" "$CACHE/fio"
echo "$dir"
