#!/bin/sh
set -eu
echo "This machine runs in a container." >/etc/motd
