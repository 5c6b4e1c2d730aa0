#!/usr/bin/env bash
# Prepare a hosted runner: the host's packages, .venv with the locked requirements, user namespaces, and mirrors.yaml
# from $MIRRORS. privml-build names no package host: on Ubuntu, MIRRORS must say where Debian's archives are.
set -euo pipefail
cd "$(dirname "$0")/.."
sudo make --silent host
make --silent venv
restricted=/proc/sys/kernel/apparmor_restrict_unprivileged_userns
if [ -e "$restricted" ]; then
    echo 0 | sudo tee "$restricted" >/dev/null
fi
if [ -n "${MIRRORS:-}" ]; then
    folder=${XDG_CONFIG_HOME:-$HOME/.config}/privml-build
    mkdir -p "$folder"
    printf '%s\n' "$MIRRORS" >"$folder/mirrors.yaml"
fi
