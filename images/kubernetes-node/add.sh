#!/bin/bash
# Called by images/debian/build.sh with the guest's root file system, once its packages are there: adds the programs of a node, its services, and the container
# images of a cluster. BIN: the folder of the programs.
set -euo pipefail
root=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

cp -r --no-preserve=ownership "$here/root/." "$root/"
install -m 755 -t "$root/usr/bin" "$BIN/kubelet" "$BIN/kubeadm" "$BIN/kubectl"
pause=$("$BIN/kubeadm" config images list --kubernetes-version "$("$BIN/kubeadm" version -o short)" | sed -n 's,.*/pause:,,p')
sed -i "s,@PAUSE@,$pause," "$root/etc/containerd/config.toml"
sed -i "s,@FLANNEL@,$(cat "$BIN/flannel.version")," "$root/etc/kubernetes-node/addons/flannel.yaml"
chroot "$root" systemctl enable containerd.service kubelet.service kubernetes-node.service kubernetes-node-pods.path

# The store is made here, and not at the guest's first boot: there it would take minutes without KVM, and room for all of it twice.
install -m 755 "$here/import.sh" "$root/import.sh"
"$here/archive.sh" "$BIN" "$root" | chroot "$root" /import.sh
rm "$root/import.sh"
