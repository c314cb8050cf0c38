#!/bin/bash
# Puts the JavaScript libraries of the page into lib/, from which they are built into the program: internal/web/fetch.sh
#
# xterm.js and noVNC, as npm has them and js/package-lock.json pins them, each with its licence. They are kept in the cache; without them
# the program is built all the same, with a plain console and no screen.
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../images/lib.sh"

SRC=$REPO/internal/web

main() {
	local dir
	dir=$CACHE/web-$(inputs_hash internal/web/js internal/web/fetch.sh)
	if ! cached "$dir"; then
		need_npm
		rm -rf "$dir" "$dir.new"
		step web '1 minute' 'fetching the JavaScript libraries of the web page' fetch "$dir.new"
		mv "$dir.new" "$dir"
		keep_newest "$dir" "$CACHE"/web-*
	fi
	# Only what has changed: a new time would make Go build everything again.
	if ! diff -rq --exclude=README "$dir" "$SRC/lib" >/dev/null; then
		find "$SRC/lib" -mindepth 1 ! -name README -delete
		cp -r "$dir"/. "$SRC/lib/"
	fi
}

need_npm() { command -v npm >/dev/null || need_packages npm; }

fetch() {
	local out=$1 modules
	mkdir -p "$out/xterm" "$out/novnc"
	cp "$SRC/js/package.json" "$SRC/js/package-lock.json" "$out/"
	(cd "$out" && npm ci --ignore-scripts --no-audit --no-fund)
	modules=$out/node_modules
	cp "$modules"/@xterm/xterm/{lib/xterm.mjs,css/xterm.css} "$modules"/@xterm/addon-fit/lib/addon-fit.mjs "$out/xterm/"
	cp "$modules/@xterm/xterm/LICENSE" "$out/xterm/LICENSE"
	cp "$modules/@xterm/addon-fit/LICENSE" "$out/xterm/LICENSE.addon-fit"
	cp -r "$modules"/@novnc/novnc/{core,vendor,AUTHORS,LICENSE.txt} "$out/novnc/"
	rm -rf "$modules" "$out/package.json" "$out/package-lock.json"
	find "$out" -name '*.md' -delete
}

main "$@"
