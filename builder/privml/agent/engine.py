"""The engine's process becomes what the measured configuration says, and nothing of the old environment is left."""

from __future__ import annotations

import os
import sys

from privml.agent.layout import Layout
from privml.base.errors import PrivmlError
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
        argv = configuration.read((layout or Layout()).config).engine_argv
        os.execve(argv[0], argv, ENVIRONMENT)  # noqa: S606 -- argv is measured, and there is no shell
    except (PrivmlError, OSError) as error:
        sys.stderr.write(f"privml: engine: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
