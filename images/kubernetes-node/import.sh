#!/bin/bash
# Runs in the guest's root file system while its disk is made: its own containerd puts the images of standard input into its store.
set -euo pipefail
socket=/run/import.sock
ctr() { command ctr --address "$socket" --namespace k8s.io "$@"; }

containerd --address "$socket" --state /run/import </dev/null &
containerd=$!
trap 'kill "$containerd"; wait "$containerd" || true' EXIT
until ctr version >/dev/null 2>&1; do
	kill -0 "$containerd"
	sleep 0.2
done
# The layers as they came are not kept beside what was unpacked.
ctr images import --local --discard-unpacked-layers -
ctr leases delete --sync "$(ctr leases create)" # they go when something is deleted, and this waits for it
for image in $(ctr images list --quiet); do
	# Nothing could fetch it again: the kubelet must not delete it when the disk fills up.
	ctr images label "$image" io.cri-containerd.image=managed io.cri-containerd.pinned=pinned
done
ctr images list
