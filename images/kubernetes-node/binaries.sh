#!/bin/bash
# The programs of a Kubernetes node: images/kubernetes-node/binaries.sh DIR
#
#   K8S_BIN_DIR  a folder with programs that are taken as they are: a release's kubernetes/server/bin, and whatever else is wanted of etcd, coredns and
#                flannel. What is not there is built from its Go module, static, which takes 10 to 30 minutes for all.
#   K8S_VERSION  what is built; with K8S_BIN_DIR, the version of the kubelet there
#
# The versions of etcd and CoreDNS are those that kubeadm asks for. Go checks every module against its checksum database.
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

KUBERNETES=(kubeadm kubelet kubectl kube-apiserver kube-controller-manager kube-scheduler kube-proxy)
FLANNEL=v0.27.4

main() {
	[ $# = 1 ] || die 'usage: images/kubernetes-node/binaries.sh DIR'
	out=$(realpath -m "$1")
	mkdir -p "$out"
	scratch=$(mktemp -d)
	trap 'rm -rf "$scratch"' EXIT
	# One package at a time: the linkers of such programs take 2 GB each.
	export CGO_ENABLED=0 GOFLAGS=-p=1

	local missing=() p
	for p in "${KUBERNETES[@]}"; do
		given "$p" || missing+=("$p")
	done
	[ ${#missing[@]} = 0 ] || step k8s-binaries '20 minutes' "building ${missing[*]} $(version) from the module k8s.io/kubernetes" kubernetes "${missing[@]}"
	given etcd || step etcd-binary '5 minutes' "building etcd $(wanted etcd)" etcd
	given coredns || step coredns-binary '10 minutes' "building CoreDNS $(wanted coredns)" coredns
	given flannel || step flannel-binary '10 minutes' "building flannel $FLANNEL" flannel
	echo "$FLANNEL" >"$out/flannel.version"
	(cd "$REPO" && go build -trimpath -ldflags '-s -w' -o "$out/" ./images/kubernetes-node/pause ./images/kubernetes-node/hello)
}

# given PROGRAM: whether it is in K8S_BIN_DIR, and then takes it.
given() {
	[ -n "${K8S_BIN_DIR:-}" ] && [ -x "$K8S_BIN_DIR/$1" ] || return
	install -m 755 "$K8S_BIN_DIR/$1" "$out/$1"
}

version() { "$REPO/images/kubernetes-node/version"; }

# wanted IMAGE: the version that this kubeadm wants of an image; etcd's without the revision of the image.
wanted() {
	"$out/kubeadm" config images list --kubernetes-version "$(version)" | sed -n "s,.*/$1:\(v*[0-9.]*\).*,\1,p"
}

# kubernetes PROGRAM…: its go.mod replaces the modules of its own repository by folders; each is published as a module too, v0.33.13 for v1.33.13.
kubernetes() {
	local version staging mod p
	version=$(version)
	staging=v0.${version#v1.}
	mod=$(go mod download -json "k8s.io/kubernetes@$version" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
	mkdir "$scratch/kubernetes"
	{
		printf 'module kubernetes\n\n'
		grep '^go ' "$mod" # and with it the Go behaviour that this release was tested with
		printf '\nrequire k8s.io/kubernetes %s\n\nreplace (\n' "$version"
		sed -n "s,^\t\(k8s.io/[a-z-]*\) => ./staging/.*,\t\1 => \1 $staging,p" "$mod"
		printf ')\n'
	} >"$scratch/kubernetes/go.mod"
	local flags='-s -w' set package
	for set in "gitVersion=$version" gitMajor=1 "gitMinor=$(cut -d. -f2 <<<"$version")" gitTreeState=clean; do
		for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
			flags+=" -X $package.$set"
		done
	done
	for p in "$@"; do
		go build -C "$scratch/kubernetes" -mod=mod -trimpath -ldflags "$flags" -o "$out/$p" "k8s.io/kubernetes/cmd/$p"
	done
}

# etcd cannot be installed by its name: its go.mod has replacements.
etcd() {
	mkdir "$scratch/etcd"
	printf 'module etcd\n\ngo 1.24\n\nrequire go.etcd.io/etcd/server/v3 v%s\n' "$(wanted etcd)" >"$scratch/etcd/go.mod"
	go build -C "$scratch/etcd" -mod=mod -trimpath -ldflags '-s -w' -o "$out/etcd" go.etcd.io/etcd/server/v3
}

# coredns with the plugins of kubeadm's Corefile and those that people add to it. All of them would bring the libraries of three clouds, and take three times as long.
coredns() {
	local plugin
	mkdir "$scratch/coredns"
	printf 'module coredns\n\ngo 1.24\n\nrequire github.com/coredns/coredns %s\n' "$(wanted coredns)" >"$scratch/coredns/go.mod"
	{
		printf 'package main\n\nimport (\n\t"github.com/coredns/coredns/coremain"\n'
		for plugin in errors health ready kubernetes metrics forward cache loop reload loadbalance log hosts rewrite template file; do
			printf '\t_ "github.com/coredns/coredns/plugin/%s"\n' "$plugin"
		done
		printf ')\n\nfunc main() { coremain.Run() }\n'
	} >"$scratch/coredns/main.go"
	go build -C "$scratch/coredns" -mod=mod -trimpath -ldflags '-s -w' -o "$out/coredns" .
}

# flannel without the backends that want a C library or a cloud's.
flannel() {
	local dir
	mkdir "$scratch/flannel"
	printf 'module flannel\n\ngo 1.24\n\nrequire github.com/flannel-io/flannel %s\n' "$FLANNEL" >"$scratch/flannel/go.mod"
	dir=$(go mod download -json "github.com/flannel-io/flannel@$FLANNEL" | sed -n 's/.*"Dir": "\(.*\)",/\1/p')
	sed '/backend\/\(alivpc\|tencentvpc\|udp\)"/d' "$dir/main.go" >"$scratch/flannel/main.go"
	go build -C "$scratch/flannel" -mod=mod -trimpath -ldflags "-s -w -X github.com/flannel-io/flannel/pkg/version.Version=$FLANNEL" -o "$out/flannel" .
}

main "$@"
