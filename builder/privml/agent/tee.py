"""The platform under the guest, as the agent needs it: quotes, and the one register that the agent extends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from privml.base.errors import HostError
from privml.events.registers import ZERO
from privml.events.replay import extend
from privml.evidence.tdx.kernel import TdxTee


class NoTeeError(HostError):
    """A quote was asked of a machine that has none to give."""


class Tee(Protocol):
    """What the attestor needs of a platform. Calls may block as long as a quote takes; the attestor serialises them.

    ``kind`` is the TEE whose evidence it makes, as the document's header names it; a simulation has its own ``name``.
    """

    name: str
    kind: str

    def quote(self, report_data: bytes) -> bytes:
        """A quote over 64 bytes of report data."""

    def extend(self, digest: bytes) -> None:
        """Extend RTMR3 by 48 bytes; returns only when the register was seen to hold the result."""

    def rtmr3(self) -> bytes:
        """RTMR3 as it is now (48 bytes)."""

    def boot_log(self) -> bytes:
        """The firmware's event log; empty when there is none."""

    def collateral(self) -> Mapping[str, str] | None:
        """Verification collateral that the platform itself has, or None."""


class NoTee:
    """A machine that is no TD. The agent still serves (nobody who verifies sends it a prompt), and proves nothing."""

    name = "none"
    kind = "tdx"

    def __init__(self) -> None:
        self._value = ZERO

    def quote(self, report_data: bytes) -> bytes:
        """Refused by name."""
        raise NoTeeError(f"no-tee: no quote over these {len(report_data)} bytes: this machine is not a TD")

    def extend(self, digest: bytes) -> None:
        """Recorded, in no register."""
        self._value = extend(self._value, digest)

    def rtmr3(self) -> bytes:
        """What the register would hold."""
        return self._value

    def boot_log(self) -> bytes:
        """None."""
        return b""

    def collateral(self) -> None:
        """None."""


class KernelTee(Tee, Protocol):
    """A TEE that a kernel interface shows."""

    def present(self) -> bool:
        """Whether this machine is a guest of that TEE."""


KNOWN: tuple[Callable[[], KernelTee], ...] = (TdxTee,)
"""Every TEE that this agent can ask for evidence."""


def detect(known: Iterable[Callable[[], KernelTee]] = KNOWN) -> Tee:
    """The platform that is here: the first known TEE that the kernel shows, else none."""
    return next((tee for tee in (make() for make in known) if tee.present()), NoTee())
