#!/bin/sh
# Test a TDX host in at most 30 minutes: is every register the predicted one? Writes field.tar and field.html into out/field.
# Nothing is sent, and nothing of the host is changed. docs/FIELD.md; --help lists the options.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
if [ ! -x "$python" ]; then
    echo "field: there is no $python: run \`make venv\` first" >&2
    exit 2
fi
PYTHONPATH=$root exec "$python" -B -P -m tests.field.run "$@"
