# shellcheck shell=bash
# What the build scripts, `make run` and the tests share. Source it; it only defines things.
#
#   VMENTRY_CACHE  where everything slow is kept (default: .cache in the repository)
#   REBUILD=1      make again what is in the cache
#   ENGINE         docker or podman, instead of the one that is found

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${VMENTRY_CACHE:-$REPO/.cache}

say() { printf '==> %s\n' "$*" >&2; }

die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

# this_arch: this machine's, as Debian and containers call it.
this_arch() {
	case $(uname -m) in
	x86_64) echo amd64 ;;
	aarch64) echo arm64 ;;
	*) uname -m ;;
	esac
}

need_root() {
	[ "$(id -u)" = 0 ] || die "$1 must run as root (it makes a Debian root file system)"
}

# step NAME MOST TEXT COMMAND…: a slow step. Says what it does and how long it took last time, or takes at
# most, before it starts; keeps the time for the next run. What the command prints goes to a log, and is shown when it fails.
# A command that is still running says so now and then, so that a slow machine is not taken for a hung one.
step() {
	local name=$1 most=$2 text=$3 dir log start ticker rc=0
	shift 3
	dir=$CACHE/times
	log=$CACHE/log/$name.log
	mkdir -p "$dir" "$CACHE/log"
	if [ -s "$dir/$name" ]; then
		say "$text (last time: $(cat "$dir/$name") s)"
	else
		say "$text (at most $most)"
	fi
	start=$(date +%s)
	# It waits by reading from a pipe that stays empty: a sleep would outlive it.
	(exec {pipe}<> <(:); while ! read -r -t 30 -u "$pipe"; do say "… still at it after $(($(date +%s) - start)) s: $text"; done) &
	ticker=$!
	"$@" >"$log" 2>&1 || rc=$?
	{ kill "$ticker" && wait "$ticker"; } 2>/dev/null || true
	if [ "$rc" != 0 ]; then
		tail -n 40 "$log" >&2
		die "$name failed with code $rc; all of its output is in $log"
	fi
	echo $(($(date +%s) - start)) >"$dir/$name"
}

# need_packages PACKAGE…: installs those Debian packages that this machine lacks.
need_packages() {
	local p missing=()
	for p in "$@"; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	command -v apt-get >/dev/null || die "these Debian packages are needed, and there is no apt-get: ${missing[*]}"
	[ "$(id -u)" = 0 ] || die "these Debian packages are needed: sudo apt-get install ${missing[*]}"
	step "apt-get-${missing[0]}" '3 minutes' "installing Debian packages: ${missing[*]}" apt_install "${missing[@]}"
}

# need_tools COMMAND PACKAGE…: pairs. Installs the Debian packages of the commands that are not there; so a machine that is no Debian does as
# well, if it has them.
need_tools() {
	local missing=()
	while [ $# -gt 0 ]; do
		command -v "$1" >/dev/null || missing+=("$2")
		shift 2
	done
	[ ${#missing[@]} = 0 ] || need_packages "${missing[@]}"
}

apt_install() {
	local quiet=(-y --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=600) # somebody else may be at it
	# The lists of a container or of a fresh machine may be missing, or so old that they name packages that are gone.
	DEBIAN_FRONTEND=noninteractive apt-get install "${quiet[@]}" "$@" ||
		{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install "${quiet[@]}" "$@"; }
}

# debian_sources SUITE: a sources list for SUITE from the mirrors that this machine itself uses.
debian_sources() {
	local suite=$1 uris main security
	uris=$(apt-get indextargets --format "\$(REPO_URI)" 'Created-By: Packages' | sort -u)
	main=$(grep -E '/debian/?$' <<<"$uris" | head -n 1) || die 'no Debian mirror in the sources of apt'
	security=$(grep -E '/debian-security/?$' <<<"$uris" | head -n 1) || true
	echo "deb $main $suite main"
	echo "deb $main $suite-updates main"
	[ -z "$security" ] || echo "deb $security $suite-security main"
}

# inputs_hash PATH…: a short hash over the contents, names and modes of files and folders. It keys what is in the cache,
# together with SALT, for inputs that are no files.
inputs_hash() {
	(
		cd "$REPO" || exit
		printf '%s\n' "${SALT:-}"
		find "$@" -type f -printf '%m %p\n' -o -type l -printf '%l %p\n' | LC_ALL=C sort
		find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
	) | sha256sum | cut -c1-12
}

# cached FILE: whether FILE is there and may be used.
cached() { [ "${REBUILD:-0}" != 1 ] && [ -e "$1" ]; }

# remove_tree FOLDER…: deletes them with all that is in them, after taking away what is mounted there: a root file system that was killed
# while it was made has its /proc and /sys mounted still.
remove_tree() {
	local dir m mounts
	for dir in "$@"; do
		dir=$(realpath -m "$dir")
		# the last mounted first; the kernel writes a blank as \040
		mapfile -t mounts < <(awk '{ print $5 }' /proc/self/mountinfo | tac)
		for m in "${mounts[@]}"; do
			m=$(printf %b "$m")
			[[ $m/ != "$dir"/* ]] || umount "$m" || umount --lazy "$m"
		done
		rm -rf --one-file-system "$dir"
	done
}

# keep_newest FILE…: of the cache's files of one kind, delete all but the first named. Old ones would only fill the disk.
keep_newest() {
	local keep=$1 f
	shift
	for f in "$@"; do
		[ "$f" = "$keep" ] || remove_tree "$f"
	done
}

# engine: prints docker or podman, whichever is there and answers. Docker comes first, as it is what most have;
# a docker command without a daemon behind it does not count.
engine() {
	local e
	if [ -n "${ENGINE:-}" ]; then
		"$ENGINE" info >/dev/null 2>&1 || die "ENGINE=$ENGINE does not answer: try '$ENGINE info'"
		echo "$ENGINE"
		return
	fi
	for e in docker podman; do
		if command -v "$e" >/dev/null && timeout 20 "$e" info >/dev/null 2>&1; then
			echo "$e"
			return
		fi
	done
	return 1
}

# need_engine: the engine, after installing podman where there is none.
need_engine() {
	engine 2>/dev/null && return
	[ -z "${ENGINE:-}" ] || engine
	need_packages "${PODMAN[@]}"
	engine || die 'podman was installed, and does not answer: try "podman info"'
}

# Debian's podman does without the last four until a container is to be run on a bridge network.
PODMAN=(podman netavark aardvark-dns iptables runc)

# A file of settings that check_engine has found necessary on this machine (see there).
if [ -e "$CACHE/containers.conf" ]; then
	export CONTAINERS_CONF=$CACHE/containers.conf
fi

# check_engine IMAGE: whether ENGINE can really run a container, and build in one; what podman lacks for that is installed or set.
# Inside a container or a CI machine podman often has the default settings of a machine that it is not on: it raises limits that
# it may not raise, and its default runtime refuses a machine with both kinds of cgroup.
check_engine() {
	local image=$1
	try_engine "$image" && return
	if [ "$ENGINE" = podman ]; then
		need_packages "${PODMAN[@]}"
		try_engine "$image" && return
		mkdir -p "$CACHE"
		printf '%s\n' '[engine]' 'runtime = "runc"' '[containers]' \
			'default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]' >"$CACHE/containers.conf"
		export CONTAINERS_CONF=$CACHE/containers.conf
		if try_engine "$image"; then
			say "podman works here only with CONTAINERS_CONF=$CONTAINERS_CONF: for podman commands by hand, export it"
			return
		fi
		rm -f "$CACHE/containers.conf"
		unset CONTAINERS_CONF
	fi
	die "$ENGINE cannot run containers here: try '$ENGINE run --rm $image true'"
}

try_engine() {
	local args=() id
	[ "$ENGINE" = docker ] || args=(--pull=never)
	timeout 60 "$ENGINE" run --rm "$1" true >/dev/null 2>&1 || return
	id=$(printf 'FROM %s\nRUN true\n' "$1" | timeout 60 "$ENGINE" build "${args[@]}" -q --no-cache - 2>/dev/null) || return
	"$ENGINE" rmi "$id" >/dev/null 2>&1 || true
}
