# shellcheck shell=bash
# The stream's metadata: https://docs.fedoraproject.org/en-US/fedora-coreos/stream-metadata/
newest() {
	index https://builds.coreos.fedoraproject.org/streams/stable.json | jq -r --arg machine "$(machine "$1")" '
		.architectures[$machine].artifacts.qemu
		| "version \(.release)", (.formats["qcow2.xz"].disk | "url \(.location)", "sha256 \(.sha256)", "signature \(.signature)")'
}
