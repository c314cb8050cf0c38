# vmentry:latest, the base image: QEMU, firmware, and vmentry as the entrypoint. A guest's image is
#
#     FROM vmentry
#     COPY disk.qcow2 /image/
#
# It has the files of images/base/files and nothing else: no shell, no package manager, so that nothing can RUN in it. With --target debug it is
# vmentry:debug, the same programs in the Debian that they come from.
#
FROM debian:trixie-slim AS packages

# The architectures of guests; empty: the container's own. ARCHES="amd64 arm64" makes the flavour vmentry:multiarch.
ARG ARCHES=

# qemu-system-x86 (or -arm) without its recommendations: those are display, sound and network boot. qemu-utils: qemu-img. passt: VM_NETWORK=passt.
# virtiofsd: VM_VOLUMES. swtpm: VM_TPM.
# UEFI for arm64 comes as files of 64 MiB, which are nearly empty: the code becomes qcow2, and the variables lose the zeros behind them, which
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
    rm -rf /var/lib/apt/lists/* /var/log/*.log /var/log/apt; \
    if cd /usr/share/AAVMF 2>/dev/null; then \
        qemu-img convert -f raw -O qcow2 AAVMF_CODE.fd AAVMF_CODE.qcow2; \
        qemu-img convert -f raw -O qcow2 AAVMF_CODE.ms.fd AAVMF_CODE.ms.qcow2; \
        truncate -s 768K AAVMF_VARS.fd AAVMF_VARS.ms.fd; \
        rm -f AAVMF_CODE*.fd; \
    fi

FROM packages AS files
COPY images/base/collect.sh images/base/files /
RUN /collect.sh /files /tree

# bin/arm64/vmentry: make build-arm64
FROM scratch AS vmentry
ARG BINARY=bin/vmentry
COPY ${BINARY} /usr/bin/vmentry

# the licences of the JavaScript libraries in it
FROM scratch AS licences
COPY internal/web/lib/xterm/LICENSE /xterm.js
COPY internal/web/lib/xterm/LICENSE.addon-fit /xterm-addon-fit
COPY internal/web/lib/novnc/LICENSE.txt /novnc
COPY internal/web/lib/novnc/vendor/pako/LICENSE /pako

# what the QEMU of these files can do, so that not each start has to ask it
FROM files AS records
COPY --from=vmentry / /tree/
RUN mkdir /tree/records && chroot /tree vmentry record /records

FROM packages AS debug
COPY --from=licences / /usr/share/vmentry/licences/
COPY --from=vmentry / /
RUN vmentry record /usr/share/vmentry
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/vmentry"]
LABEL org.opencontainers.image.title="vmentry" \
      org.opencontainers.image.description="vmentry with a shell and apt-get: to look around in, and for images that RUN something"

# A layer for each that changes by itself: QEMU and all that is from Debian, and last vmentry.
FROM scratch
COPY --from=files /tree /
COPY --from=licences / /usr/share/vmentry/licences/
COPY --from=records /tree/records /usr/share/vmentry/
COPY --from=vmentry / /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

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
