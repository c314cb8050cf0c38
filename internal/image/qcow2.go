package image

const qcow2Magic = "QFI\xfb"
