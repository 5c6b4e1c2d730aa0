"""Run the engine: measured argv, environment from the engine's record. See `lastline` for what it prints."""

from __future__ import annotations

import sys

from privml.agent import console, lastline
from privml.agent.layout import Layout
from privml.base.errors import HostError, PrivmlError
from privml.engines.registry import engine_named
from privml.events import configuration


def main(layout: Layout | None = None) -> int:
    """Run the engine to its end; its exit status, or 1 if it cannot be started."""
    layout = layout or Layout()
    try:
        measured = configuration.read(layout.config).engine
        if measured is None:
            raise HostError("the measured configuration names no engine")
        environment = dict(engine_named(measured.name).environment)
        return lastline.run(measured.argv, environment, layout.engine_line)
    except (PrivmlError, OSError) as error:
        console.say(f"privml: engine: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
