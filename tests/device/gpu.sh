#!/bin/sh
# Try the guest's GPU code on a machine with an NVIDIA GPU that was borrowed for some minutes.
#
#   tests/device/gpu.sh prepare FOLDER     here, with gcc, .venv and the store: collect what the machine needs (2 MB)
#   sh FOLDER/gpu.sh run FOLDER [LIBRARY]  there: Python 3.11 or later and NVIDIA's driver; no network, no root
#
# `run` reads the GPUs by the driver's library as the guest does (LIBRARY is libnvidia-ml.so.1 where the loader does not
# find it), applies the checks of the stage `gpu` (confidential computing that is off must be refused by name), and
# launches one precompiled kernel through images/triton/launcher.c. It changes no setting of a GPU and never sets one
# ready. Results are lines of JSON, on standard output and in FOLDER/results.jsonl. Exit status: 0 if every step that
# could run has passed, 1 otherwise.
set -eu

usage() {
    echo "usage: $0 prepare FOLDER | run FOLDER [LIBRARY]" >&2
    exit 2
}

command=${1:-}
case "$command $#" in
"prepare 2")
    here=$(cd "$(dirname "$0")" && pwd)
    root=$(cd "$here/../.." && pwd)
    python=${PYTHON:-$root/.venv/bin/python}
    [ -f "$here/prepare.py" ] && command -v "$python" >/dev/null || {
        echo "$0: prepare works in a checkout, after \`make venv\`" >&2
        exit 2
    }
    PYTHONPATH="$root/builder:$root" exec "$python" -B "$here/prepare.py" "$2"
    ;;
"run 2" | "run 3")
    folder=$(cd "$2" && pwd)
    shift 2
    python=${PYTHON:-python3}
    results="$folder/results.jsonl"
    : >"$results"
    failed=0
    for step in stage kernel; do
        if ! PYTHONPATH="$folder/package" "$python" -B "$folder/$step.py" "$@" >"$folder/$step.out"; then
            failed=1
        fi
        cat "$folder/$step.out"
        cat "$folder/$step.out" >>"$results"
        rm -f "$folder/$step.out"
    done
    exit "$failed"
    ;;
*)
    usage
    ;;
esac
