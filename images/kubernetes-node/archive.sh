#!/bin/bash
# Writes the container images of a cluster to standard output, as an archive that `docker load` and `ctr images import` read: archive.sh BIN ROOT
#
# BIN is the folder of the programs, ROOT the root file system of the node. An image is a layer with one static program; those that set packet filter rules have a second
# one below it, with the node's own programs for that. They are so little that no container engine is needed to make them.
set -euo pipefail
bin=$1
root=$2
prefix=localhost/kubernetes # a name that no registry has
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

main() {
	local ref manifest=()
	rules
	for ref in $("$bin/kubeadm" config images list --image-repository "$prefix" --kubernetes-version "$("$bin/kubeadm" version --output short)") \
		"$prefix/flannel:$(cat "$bin/flannel.version")" "$prefix/hello:1"; do
		image "$ref"
	done
	local IFS=,
	echo "[${manifest[*]}]" >"$dir/manifest.json"
	tar -C "$dir" -c .
}

# rules makes rules.tar: iptables and nft, what iptables loads for each kind of match, and the libraries that all of these are linked with.
rules() {
	local names libraries
	# shellcheck disable=SC2016 # the * is for the shell in there
	mapfile -t names < <(chroot "$root" sh -c 'ldd /usr/sbin/iptables /usr/sbin/nft /usr/lib/*/xtables/*.so' | sed -n 's,^[^/]*\(/[^ ]*\) (0x.*,\1,p' | sed 's,^/lib,/usr/lib,' | sort -u)
	# Each under its name, which may be a link, and under its own.
	mapfile -t libraries < <({ printf '%s\n' "${names[@]}"; chroot "$root" realpath "${names[@]}"; } | sort -u)
	(cd "$root" && tar --owner 0 --group 0 -c bin lib lib64 sbin usr/sbin/{iptables,ip6tables,xtables,nft}* etc/alternatives/ip*tables* \
		usr/lib/*/xtables "${libraries[@]#/}") >"$dir/rules.tar"
}

# image REF adds the image's layer and configuration to the archive, and its entry to manifest.
image() {
	local name=${1##*/} layers ids layer
	name=${name%:*}
	layers=("$name.tar")
	tar -C "$bin" --owner 0 --group 0 --transform 's,^,usr/local/bin/,' -c "$name" >"$dir/$name.tar"
	# A program that was given may not be static.
	if [ "$name" = kube-proxy ] || [ "$name" = flannel ] || ldd "$bin/$name" >/dev/null 2>&1; then
		layers=(rules.tar "${layers[@]}")
	fi
	ids=()
	for layer in "${layers[@]}"; do
		ids+=("\"sha256:$(sha256sum "$dir/$layer" | cut -c1-64)\"")
	done
	local IFS=,
	cat >"$dir/$name.json" <<-END
		{"architecture": "amd64", "os": "linux",
		 "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Entrypoint": ["/usr/local/bin/$name"]},
		 "rootfs": {"type": "layers", "diff_ids": [${ids[*]}]}}
	END
	manifest+=("{\"Config\": \"$name.json\", \"RepoTags\": [\"$1\"], \"Layers\": [$(printf '"%s"\n' "${layers[@]}" | paste -sd ,)]}")
}

main
