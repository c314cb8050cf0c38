# vmentry:latest, the base image: QEMU, firmware, and vmentry as the entrypoint. A guest's image is
#
#     FROM vmentry
#     COPY disk.qcow2 /image/
#
FROM debian:trixie-slim

# Set by the builder: amd64, arm64.
ARG TARGETARCH=amd64

# qemu-system-x86 (or -arm) without its recommendations: those are display, sound and network boot. qemu-utils: qemu-img. passt: VM_NETWORK=passt.
# virtiofsd: VM_VOLUMES.
# QEMU's own modules for screens, sound and braille go too, and the firmware of other architectures' machines: the packages are not
# divided that finely. All in the same layer, else it would still be in the image.
RUN set -eu; \
    case "$TARGETARCH" in \
    amd64) packages="qemu-system-x86 ovmf" ;; \
    arm64) packages="qemu-system-arm qemu-efi-aarch64" ;; \
    *) echo "no QEMU for $TARGETARCH here" >&2; exit 1 ;; \
    esac; \
    apt-get update; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages qemu-utils passt virtiofsd ca-certificates; \
    apt-get clean; \
    modules=$(echo /usr/lib/*/qemu); \
    rm -rf "$modules"/ui-* "$modules"/audio-* "$modules"/chardev-baum* "$modules"/chardev-spice* "$modules"/hw-display-qxl* \
        "$modules"/hw-s390x-* "$modules"/hw-usb-smartcard* "$modules"/hw-usb-redirect*; \
    cd /usr/share/qemu; \
    rm -rf hppa-* openbios-* skiboot.lid slof.bin s390-* palcode-* u-boot* *.dtb vof* npcm* QEMU,* linux-user-* trace-events-all \
        /usr/share/doc /usr/share/man /usr/share/locale /usr/share/info /usr/share/lintian \
        /var/lib/apt/lists/* /var/cache/debconf/*-old /var/cache/ldconfig/* /var/log/*.log /var/log/apt

COPY bin/vmentry /usr/bin/vmentry
# the licences of the JavaScript libraries in it
COPY internal/web/lib/xterm/LICENSE /usr/share/vmentry/licences/xterm.js
COPY internal/web/lib/novnc/LICENSE.txt /usr/share/vmentry/licences/novnc
COPY internal/web/lib/novnc/vendor/pako/LICENSE /usr/share/vmentry/licences/pako

# No VOLUME for /var/lib/vmentry: an anonymous volume would outlive every `run --rm`-less container unseen, gigabytes each,
# could not be taken back by an image built on this one, and Kubernetes ignores it. vmentry says when the disk is in the container's own layer.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/vmentry"]

ARG VERSION=dev
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="vmentry" \
      org.opencontainers.image.description="Boots the virtual machine image under /image with QEMU: one container, one VM" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$COMMIT"
