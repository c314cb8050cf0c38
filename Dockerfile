# vmentry:latest, the base image: QEMU, firmware, and vmentry as the entrypoint. A guest's image is
#
#     FROM vmentry
#     COPY disk.qcow2 /image/
#
FROM debian:trixie-slim

# The architectures of guests; empty: the container's own. ARCHES="amd64 arm64" makes the flavour vmentry:multiarch.
ARG ARCHES=

# qemu-system-x86 (or -arm) without its recommendations: those are display, sound and network boot. qemu-utils: qemu-img. passt: VM_NETWORK=passt.
# virtiofsd: VM_VOLUMES. swtpm: VM_TPM.
# QEMU's own modules for screens, sound and braille go too, and the firmware of other architectures' machines: the packages are not
# divided that finely. All in the same layer, else it would still be in the image.
# UEFI for arm64 comes as files of 64 MiB, which are nearly empty: the code as qcow2, and the variables without the zeros behind them, which
# vmentry adds again.
RUN set -eu; \
    packages=; \
    for arch in ${ARCHES:-$(dpkg --print-architecture)}; do \
        case "$arch" in \
        amd64) packages="$packages qemu-system-x86 ovmf" ;; \
        arm64) packages="$packages qemu-system-arm qemu-efi-aarch64" ;; \
        *) echo "no QEMU for $arch here" >&2; exit 1 ;; \
        esac; \
    done; \
    apt-get update; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages qemu-utils passt virtiofsd swtpm ca-certificates; \
    apt-get clean; \
    modules=$(echo /usr/lib/*/qemu); \
    rm -rf "$modules"/ui-* "$modules"/audio-* "$modules"/chardev-baum* "$modules"/chardev-spice* "$modules"/hw-display-qxl* \
        "$modules"/hw-s390x-* "$modules"/hw-usb-smartcard* "$modules"/hw-usb-redirect*; \
    rm -rf /usr/bin/qemu-system-arm /usr/bin/qemu-system-armel /usr/bin/qemu-system-armhf /usr/share/qemu-efi-aarch64 \
        /usr/share/ovmf /usr/share/qemu/OVMF.fd /usr/share/OVMF/*snakeoil* /usr/share/OVMF/*strictnx*; \
    if cd /usr/share/AAVMF 2>/dev/null; then \
        qemu-img convert -f raw -O qcow2 AAVMF_CODE.fd AAVMF_CODE.qcow2; \
        qemu-img convert -f raw -O qcow2 AAVMF_CODE.ms.fd AAVMF_CODE.ms.qcow2; \
        truncate -s 768K AAVMF_VARS.fd AAVMF_VARS.ms.fd; \
        rm -f AAVMF_CODE*.fd *snakeoil*; \
    fi; \
    cd /usr/share/qemu; \
    rm -rf hppa-* openbios-* skiboot.lid slof.bin s390-* palcode-* u-boot* *.dtb vof* npcm* QEMU,* linux-user-* trace-events-all \
        /usr/share/doc /usr/share/man /usr/share/locale /usr/share/info /usr/share/lintian \
        /var/lib/apt/lists/* /var/cache/debconf/*-old /var/cache/ldconfig/* /var/log/*.log /var/log/apt

# bin/arm64/vmentry: make build-arm64
ARG BINARY=bin/vmentry
COPY ${BINARY} /usr/bin/vmentry
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
