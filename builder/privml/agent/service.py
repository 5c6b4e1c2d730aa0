"""Replace this process with one of the image's own services: argv and environment of the measured configuration."""

from __future__ import annotations

import os
import sys

from privml.agent import console
from privml.agent.layout import Layout
from privml.base.errors import HostError, PrivmlError
from privml.events import configuration, services

PATH = "/usr/bin"


def main(name: str, layout: Layout | None = None) -> int:
    """Replace this process with the service ``name``; returns only on failure."""
    try:
        measured = configuration.read((layout or Layout()).config).services
        chosen = next((service for service in measured if service.name == name), None)
        if chosen is None:
            raise HostError(f"the measured configuration names no service `{name[:64]}`")
        environment = {
            **chosen.environment,
            "PATH": PATH,
            "LANG": "C.UTF-8",
            services.SOCKET_VARIABLE: services.socket_path(name),
        }
        os.execve(chosen.argv[0], chosen.argv, environment)  # noqa: S606 -- argv is measured, and there is no shell
    except (PrivmlError, OSError) as error:
        console.say(f"privml: service: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) if len(sys.argv) == 2 else 1)
