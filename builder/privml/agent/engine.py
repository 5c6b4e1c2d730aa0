"""Replace this process with the engine: measured argv, environment from the engine's record."""

from __future__ import annotations

import os
import sys

from privml.agent import console
from privml.agent.layout import Layout
from privml.base.errors import HostError, PrivmlError
from privml.engines.registry import engine_named
from privml.events import configuration


def main(layout: Layout | None = None) -> int:
    """Replace this process with the engine; returns only on failure."""
    try:
        measured = configuration.read((layout or Layout()).config).engine
        if measured is None:
            raise HostError("the measured configuration names no engine")
        environment = dict(engine_named(measured.name).environment)
        os.execve(measured.argv[0], measured.argv, environment)  # noqa: S606 -- argv is measured, and there is no shell
    except (PrivmlError, OSError) as error:
        console.say(f"privml: engine: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
