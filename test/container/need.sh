#!/bin/bash
# Installs what the tests in this folder use beside the images: a small init for --init, and the engine's Compose.
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../images/lib.sh"

need_packages catatonit
if [ "$(need_engine)" = podman ]; then
	need_tools podman-compose podman-compose
elif ! { docker compose version || docker-compose version; } >/dev/null 2>&1; then
	need_packages docker-compose
fi
