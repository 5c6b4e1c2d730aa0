"""The attestor of development images: the production attestor with a simulated platform and simulated GPUs."""

from __future__ import annotations

import sys

from privml.agent.attestor import serve
from privml.agent.layout import Layout
from privml.base.errors import PrivmlError
from privml.sim.gpumachine import reader_of
from privml.sim.tee import SimulatedTee


def main() -> int:
    """Serve until SIGTERM."""
    try:
        tee = SimulatedTee(register=Layout().attestor_place.with_name("simulated-rtmr3"))
    except PrivmlError as error:
        sys.stderr.write(f"privml: attestor: {error}\n")
        return 1
    return serve(tee=tee, gpus=reader_of)


if __name__ == "__main__":
    sys.exit(main())
