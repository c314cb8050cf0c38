#!/bin/bash
# Puts the image's files into a tree: collect.sh LIST TREE. It runs in a Debian that has the packages (Dockerfile); LIST is the file `files`.
set -euo pipefail
list=$1 tree=$2

declare -A package     # of a path that is copied
declare -A libraries   # the package of each pattern of the section [libraries]
declare -A installed   # packages

main() {
	local p
	for p in $(dpkg-query -W -f '${db:Status-Status}/${Package}\n' | sed -n 's,^installed/,,p'); do installed[$p]=yes; done
	read_list
	linked
	check_owners
	for p in "${!package[@]}"; do put "$p"; done
	papers
	mkdir -p "$tree/image"
	# A new volume gets these modes: another user than root can use it then. Where vmentry is root, it takes the others' rights away.
	install -d -m 1777 "$tree/var/lib/vmentry" "$tree/run/vmentry"
	same_times
}

die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

read_list() {
	local section='' path from why arch p
	arch=$(dpkg --print-architecture)
	while read -r path from why; do
		case $path in
		'' | '#'*) continue ;;
		'['*) section=$path; continue ;;
		esac
		[ -n "${installed[$from]:-}" ] || continue
		case $why in amd64:*) [ "$arch" = amd64 ] || continue ;; esac
		if [ "$section" = '[libraries]' ]; then
			libraries[$path]=$from
			continue
		fi
		for p in $path; do
			[ -e "$p" ] || die "$path: the package $from has no such file"
			package[$p]=$from
		done
	done <"$list"
}

# linked adds the libraries that the listed programs and modules are linked with.
linked() {
	local p lib
	for p in "${!package[@]}"; do
		if [ -d "$p" ] || ! head -c 4 "$p" | grep -q ELF; then continue; fi
		for lib in $(ldd "$p" | sed -nE 's,^(.*=>)?\s*(.*) \(0x[0-9a-f]+\)$,\2,p; s,^\s*(\S+) => not found,\1,p'); do
			case $lib in
			linux-vdso* ) ;;
			/usr/*) add_library "$p" "$lib" ;;
			/*) add_library "$p" "/usr$lib" ;;
			*) die "$p is linked with $lib, which is not there" ;;
			esac
		done
	done
}

add_library() {
	local pattern
	[ -z "${package[$2]:-}" ] || return 0
	for pattern in "${!libraries[@]}"; do
		# shellcheck disable=SC2053 # it is a pattern
		if [[ $2 == $pattern ]]; then
			package[$2]=${libraries[$pattern]}
			return
		fi
	done
	die "$1 is linked with $2, which is not in images/base/files: add it there, with what it is for"
}

# owned: the package and the path of each file that a package brings. The others were made when packages were installed.
owned() { { dpkg-query -S "${!package[@]}" 2>/dev/null || true; } | sed 's/[:,][^/]*/ /'; }

# check_owners: that files are from the packages that the list says. Folders are many packages'.
check_owners() {
	local owner path
	while read -r owner path; do
		[ -d "$path" ] || [ "$owner" = "${package[$path]}" ] || die "$path is from the package $owner, and not from ${package[$path]} as images/base/files says"
	done < <(owned)
}

# put PATH: a file under this name, and not as a link; a folder without what is in it.
put() {
	mkdir -p "$tree${1%/*}"
	if [ -L "$1" ] && [ -d "$1" ]; then
		cp -P "$1" "$tree$1"
	elif [ -d "$1" ]; then
		mkdir -p "$tree$1"
		chmod --reference "$1" "$tree$1"
	else
		cp -pL "$1" "$tree$1"
	fi
}

# papers: which packages there are, and their licences.
papers() {
	local p
	mkdir -p "$tree/var/lib/dpkg"
	for p in $(printf '%s\n' "${package[@]}" | sort -u); do
		dpkg-query -s "$p"
		echo
		mkdir -p "$tree/usr/share/doc/$p"
		cp -pL "/usr/share/doc/$p/copyright" "$tree/usr/share/doc/$p/"
	done >"$tree/var/lib/dpkg/status"
}

# same_times gives what was made here the time of the newest file of the packages: the same packages make the same layer of the image.
same_times() {
	local newest p
	newest=$(owned | while read -r _ p; do [ -d "$p" ] || stat -c %Y "$p"; done | sort -n | tail -n 1)
	find "$tree" -newermt "@$newest" -exec touch -h -d "@$newest" {} +
}

main
