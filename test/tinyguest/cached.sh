#!/bin/bash
# Makes the tiny guest unless it is in the cache, and prints the folder that holds vmlinuz and initrd.
# FLAVOUR=amd64: the one with Debian's general kernel (see build.sh).
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../images/lib.sh"

flavour=${FLAVOUR:-cloud-amd64}
dir=$CACHE/tinyguest-$flavour-$(inputs_hash test/tinyguest)
if ! cached "$dir"; then
	rm -rf "$dir" "$dir.new"
	FLAVOUR=$flavour "$REPO/test/tinyguest/build.sh" "$dir.new"
	mv "$dir.new" "$dir"
	keep_newest "$dir" "$CACHE/tinyguest-$flavour"-*
fi
# Names that do not change, for the tests.
link=$CACHE/tinyguest
[ "$flavour" = cloud-amd64 ] || link=$CACHE/tinyguest-all-cards
[ -L "$link" ] || rm -rf "$link"
ln -sfn "$(basename "$dir")" "$link"
echo "$dir"
