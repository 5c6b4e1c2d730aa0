"""A simulated SNP guest that signs with publicly known keys.

Its launch digest comes from the launcher, which computes it from what it started (`vm.simulation`). Predictions are
never an input, so comparing with them is meaningful.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from privml.events.replay import NoRegister
from privml.evidence.snp.collateral import CERTIFICATES
from privml.sim import launcher, snpreport


class SimulatedSnpTee(NoRegister):
    """The `agent.tee.Tee` of development images on a simulated SNP machine. Like SNP, it has no register."""

    name = "simulated"
    kind = "snp"

    def __init__(self, *, launch: Path = launcher.SIM_LAUNCH) -> None:
        self._launch = launcher.digest(launch, "the launcher's digest")

    def quote(self, report_data: bytes) -> bytes:
        """A report of the simulated platform."""
        return snpreport.make_report(self._launch, report_data)

    def boot_log(self) -> bytes:
        """Empty: nothing is measured after the launch."""
        return b""

    def collateral(self) -> dict[str, str]:
        """The simulated platform's certificates and revocation list."""
        chain = "".join(map(ssl.DER_cert_to_PEM_cert, snpreport.certificates()))
        return {CERTIFICATES: chain, **snpreport.collateral()}
