#!/bin/bash
# Makes the tiny guest unless it is in the cache, and prints the folder that holds vmlinuz and initrd.
# FLAVOUR=amd64: the one with Debian's general kernel; FLAVOUR=arm64: that of the other architecture (see build.sh).
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
case $flavour in
cloud-amd64) link=$CACHE/tinyguest ;;
amd64) link=$CACHE/tinyguest-all-cards ;;
*) link=$CACHE/tinyguest-on-$flavour ;;
esac
[ -L "$link" ] || rm -rf "$link"
ln -sfn "$(basename "$dir")" "$link"
echo "$dir"
