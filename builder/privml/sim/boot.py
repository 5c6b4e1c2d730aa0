"""The boot process of development images that declare GPUs: the production one, with simulated GPUs."""

from __future__ import annotations

import sys

from privml.agent import boot
from privml.sim.gpumachine import SimulatedMachine

if __name__ == "__main__":
    sys.exit(boot.main(gpus=SimulatedMachine))
