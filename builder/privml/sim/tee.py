"""A simulated TD that measures this boot and signs with publicly known keys.

RTMR0..2 come from the TPM log written by this boot's firmware and kernel; MRTD comes from the launcher, which
computes it from the firmware file it started. Predictions are never an input, so comparing with them is meaningful.
"""

from __future__ import annotations

from pathlib import Path

from privml.base.files import write_atomic
from privml.base.strictjson import unhex
from privml.events.registers import DIGEST_SIZE, MRTD, RTMR0, RTMR1, RTMR2, RTMR3, ZERO
from privml.events.replay import extend, replay_tpm_as_rtmrs
from privml.events.tcg import parse_log
from privml.sim import launcher
from privml.sim.quote import collateral, make_quote


class SimulatedTee:
    """The `agent.tee.Tee` of development images on a simulated TDX machine. RTMR3 is in the file ``register``, which
    outlives this process as the register of a TD does; without one it is in this process.
    """

    name = "simulated"
    kind = "tdx"
    has_register = True

    def __init__(
        self,
        *,
        tpm_log: Path = Path("/sys/kernel/security/tpm0/binary_bios_measurements"),
        mrtd: Path = launcher.SIM_MRTD,
        register: Path | None = None,
    ) -> None:
        self._register = register
        self._log = launcher.read(tpm_log, "the TPM's log")
        replayed = replay_tpm_as_rtmrs(parse_log(self._log))
        self._registers = {
            MRTD: launcher.digest(mrtd, "the launcher's MRTD"),
            RTMR0: replayed[RTMR0],
            RTMR1: replayed[RTMR1],
            RTMR2: replayed[RTMR2],
            RTMR3: ZERO,
        }
        if register is not None and register.exists():
            self._registers[RTMR3] = unhex(register.read_text(), DIGEST_SIZE, what="simulated RTMR3")

    def quote(self, report_data: bytes) -> bytes:
        """A quote of the simulated platform."""
        return make_quote(self._registers, report_data)

    def extend(self, digest: bytes) -> None:
        """Extend RTMR3."""
        self._registers[RTMR3] = extend(self._registers[RTMR3], digest)
        if self._register is not None:
            write_atomic(self._register, self._registers[RTMR3].hex().encode(), mode=0o600)

    def rtmr3(self) -> bytes:
        """RTMR3 as extended so far."""
        return self._registers[RTMR3]

    def boot_log(self) -> bytes:
        """The TPM's log of this boot."""
        return self._log

    def collateral(self) -> dict[str, str]:
        """The simulated platform's collateral."""
        return collateral()
