#!/bin/bash
# How large vmentry's image is, by component, and how large the same would be plainly from Debian's packages: test/size/table.sh    (make bench-size)
#
# Prints the table of docs/images.md. The components are the sections of images/base/files. All are measured as archives of tar, as a layer of an image
# is one, packed with gzip and zstd as engines do it by default.  IMAGE=vmentry:latest
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../images/lib.sh"

IMAGE=${IMAGE:-vmentry:latest}

main() {
	cd "$REPO"
	need_tools gzip gzip zstd zstd tar tar
	ENGINE=$(need_engine)
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	files_of "$IMAGE"
	all=$(measure "$work/paths")
	echo "| | files | MB | gzip | zstd |"
	echo "|---|---|---|---|---|"
	row "**\`vmentry\`**" "$all"
	components
	plain 'the same from Debian, without recommendations' --no-install-recommends
	plain 'the same from Debian, with recommendations' --install-recommends
}

# files_of IMAGE unpacks it into $work/root, and lists it in $work/paths.
files_of() {
	local container
	rm -rf "$work/root"
	mkdir "$work/root"
	container=$("$ENGINE" create --pull=never "$1")
	"$ENGINE" export "$container" | tar -x -C "$work/root"
	"$ENGINE" rm "$container" >/dev/null
	# What the engine has put in, or would put over it, is not the image's.
	rm -rf "$work/root"/{dev,proc,sys,.dockerenv,run/.containerenv} "$work/root"/etc/{hosts,hostname,mtab,resolv.conf}
	find "$work/root" -mindepth 1 -printf '%P\n' | LC_ALL=C sort >"$work/paths"
}

# measure LIST: how many files the list has, and the bytes of their archive: as it is, with gzip, with zstd.
measure() {
	tar -C "$work/root" --no-recursion --numeric-owner -cf "$work/tar" -T "$1"
	echo "$(tar -tf "$work/tar" | grep -vc '/$') $(stat -c %s "$work/tar") $(gzip -c "$work/tar" | wc -c) $(zstd -qc "$work/tar" | wc -c)"
}

# row NAME MEASURE: a line of the table; with the ratios to vmentry's image if there is a third word.
row() {
	awk -v name="$1" -v all="$all" -v ratios="${3:-}" '{
		split(all, own)
		printf "| %s | %d", name, $1
		for (i = 2; i <= 4; i++) printf " | %.1f%s", $i / 1e6, ratios ? sprintf(" (%.1f×)", $i / own[i]) : ""
		print " |"
	}' <<<"$2"
}

components() {
	local section='' path rest
	local -A patterns
	local -a sections
	while read -r path rest; do
		case $path in
		'' | '#') ;;
		'['*) section=$path${rest:+ $rest}; section=${section//[][]/}; sections+=("$section") ;;
		*) patterns[$path]=$section ;;
		esac
	done <images/base/files
	while read -r path; do
		[ -L "$work/root/$path" ] || [ ! -d "$work/root/$path" ] || continue
		section='the rest'
		for rest in "${!patterns[@]}"; do
			# shellcheck disable=SC2053 # it is a pattern
			[[ /$path != $rest ]] || section=${patterns[$rest]}
		done
		echo "$path" >>"$work/of $section"
	done <"$work/paths"
	for section in "${sections[@]}"; do
		[ ! -e "$work/of $section" ] || row "– $section" "$(measure "$work/of $section")"
	done
}

# plain NAME OPTION: the image as one would write it without more ado.
plain() {
	local tag=vmentry-plain:$$ args=() packages='qemu-system-x86 ovmf'
	[ "$(this_arch)" != arm64 ] || packages='qemu-system-arm qemu-efi-aarch64'
	[ "$ENGINE" = docker ] || args=(--pull=never)
	say "building: $1"
	mkdir -p "$work/plain"
	ln -f bin/vmentry "$work/plain/" 2>/dev/null || cp bin/vmentry "$work/plain/"
	cat >"$work/plain/Dockerfile" <<-EOF
		FROM debian:trixie-slim
		RUN apt-get update && \\
		    DEBIAN_FRONTEND=noninteractive apt-get install -y $2 $packages qemu-utils passt virtiofsd swtpm ca-certificates && \\
		    apt-get clean && rm -rf /var/lib/apt/lists/*
		COPY vmentry /usr/bin/vmentry
		ENTRYPOINT ["/usr/bin/vmentry"]
	EOF
	"$ENGINE" build "${args[@]}" -t "$tag" "$work/plain" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; die 'the image could not be built'; }
	files_of "$tag"
	row "$1" "$(measure "$work/paths")" ratios
	"$ENGINE" rmi "$tag" >/dev/null
}

main
