"""The attestor of development images: the production attestor with a simulated platform and simulated GPUs."""

from __future__ import annotations

import sys

from privml.agent.attestor import serve
from privml.agent.layout import Layout
from privml.agent.tee import Tee
from privml.base.errors import PrivmlError
from privml.sim import launcher
from privml.sim.gpumachine import reader_of
from privml.sim.snptee import SimulatedSnpTee
from privml.sim.tee import SimulatedTee


def simulated(layout: Layout) -> Tee:
    """The platform that the launcher chose: an SNP guest if it gives a launch digest, else a TD."""
    if launcher.SIM_LAUNCH.exists():
        return SimulatedSnpTee(launch=launcher.SIM_LAUNCH)
    return SimulatedTee(register=layout.attestor_place.with_name("simulated-rtmr3"))


def main() -> int:
    """Serve until SIGTERM."""
    try:
        tee = simulated(Layout())
    except PrivmlError as error:
        sys.stderr.write(f"privml: attestor: {error}\n")
        return 1
    return serve(tee=tee, gpus=reader_of)


if __name__ == "__main__":
    sys.exit(main())
