#!/bin/sh
# Check what the host must provide. As root on a Debian-like host, install the missing packages; otherwise print the
# command and exit with status 5.
set -eu
python=${1:-python3}
missing=
need() { # PACKAGE WHY
    missing="$missing $1"
    echo "host: $1 is missing: $2" >&2
}
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || { echo "host: this is $(uname -s) on $(uname -m); Linux on x86-64 is needed" >&2; exit 5; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "host: $python is $("$python" -V 2>&1); Python 3.11 or newer is needed" >&2
    exit 5
}
"$python" -c 'import venv, ensurepip' 2>/dev/null || need python3-venv "to make .venv"
command -v gpgv >/dev/null || need gpgv "to check archive signatures when the tools' lock is renewed"
if [ "$(id -u)" -ne 0 ]; then
    command -v newuidmap >/dev/null || need uidmap "to build without being root"
fi
[ -n "$missing" ] || exit 0
command="apt-get install --yes --no-install-recommends$missing"
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "host: $command" >&2
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive $command >/dev/null
else
    echo "host: run: sudo $command" >&2
    exit 5
fi
