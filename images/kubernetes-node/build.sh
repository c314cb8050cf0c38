#!/bin/bash
# Makes the disk of a Kubernetes node: images/kubernetes-node/build.sh OUT.qcow2     (make image-kubernetes-node)
#
# The Debian guest (images/debian) with containerd, kubelet and kubeadm, and in containerd's store the images of a whole cluster, made from the same
# programs: nothing is fetched when a cluster is formed. Needs root. K8S_BIN_DIR, K8S_VERSION: see binaries.sh.
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

main() {
	[ $# = 1 ] || die 'usage: images/kubernetes-node/build.sh OUT.qcow2'
	need_root "$0"
	cd "$REPO"
	binaries
	BIN=$bin images/debian/build.sh "$1" images/kubernetes-node
}

# binaries sets bin.
binaries() {
	local key
	key=$(SALT=$(images/kubernetes-node/key) inputs_hash images/kubernetes-node/{binaries.sh,version,pause,hello})
	bin=$CACHE/kubernetes-bin-$key
	cached "$bin" && return
	rm -rf "$bin.new"
	images/kubernetes-node/binaries.sh "$bin.new"
	rm -rf "$bin"
	mv "$bin.new" "$bin"
	keep_newest "$bin" "$CACHE"/kubernetes-bin-*
}

main "$@"
