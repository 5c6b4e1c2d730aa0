"""The engine's process becomes what the measured configuration says, and nothing of the old environment is left."""

from __future__ import annotations

import os
import sys

from privml.agent.layout import Layout
from privml.base.errors import HostError, PrivmlError
from privml.events import configuration

ENVIRONMENT = {
    "PATH": "/usr/bin",
    "LANG": "C.UTF-8",
    "HOME": "/run/privml-engine",
    "XDG_CACHE_HOME": "/run/privml-engine",
    "TMPDIR": "/run/privml-engine",
}


def main(layout: Layout | None = None) -> int:
    """Replace this process by the engine; returns only when that fails."""
    try:
        inference = configuration.read((layout or Layout()).config).inference
        if inference is None:
            raise HostError("the measured configuration names no engine")
        argv = inference.engine_argv
        os.execve(argv[0], argv, ENVIRONMENT)  # noqa: S606 -- argv is measured, and there is no shell
    except (PrivmlError, OSError) as error:
        sys.stderr.write(f"privml: engine: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
