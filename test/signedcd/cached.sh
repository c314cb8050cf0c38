#!/bin/bash
# Makes the signed CD unless it is in the cache, and prints the folder that it is in. ARCH=arm64: that of the other architecture.
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../images/lib.sh"

arch=${ARCH:-amd64}
dir=$CACHE/signedcd-$arch-$(inputs_hash test/signedcd test/tinyguest)
if ! cached "$dir"; then
	rm -rf "$dir" "$dir.new"
	ARCH=$arch "$REPO/test/signedcd/build.sh" "$dir.new"
	mv "$dir.new" "$dir"
	keep_newest "$dir" "$CACHE/signedcd-$arch"-*
fi
# A name that does not change, for the tests.
link=$CACHE/signedcd
[ "$arch" = amd64 ] || link=$CACHE/signedcd-on-$arch
ln -sfn "$(basename "$dir")" "$link"
echo "$dir"
