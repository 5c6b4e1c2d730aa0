"""The agent's interface to the TEE: quotes, and the register that the agent extends where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from privml.base.errors import HostError
from privml.events.replay import NoRegister
from privml.evidence.quotefault import NO_PROVIDER, QuoteFault
from privml.evidence.snp.kernel import SnpTee
from privml.evidence.tdx.kernel import TdxTee


class NoTeeError(HostError):
    """A quote was requested on a machine without a TEE."""


class Tee(Protocol):
    """What the attestor needs from a platform. Calls may block for seconds; the attestor serialises them.

    ``kind`` is the type of evidence, as in the document's header; a simulation differs only in ``name``.
    ``has_register``: RTMR3 is kept outside this process, and outlives it; without it the value is only tracked.
    """

    name: str
    kind: str
    has_register: bool

    def quote(self, report_data: bytes) -> bytes:
        """A quote over 64 bytes of report data."""

    def extend(self, digest: bytes) -> None:
        """Extend RTMR3 with 48 bytes and check that the register holds the result."""

    def rtmr3(self) -> bytes:
        """The current value of RTMR3 (48 bytes)."""

    def boot_log(self) -> bytes:
        """The firmware's event log; empty when there is none."""

    def collateral(self) -> Mapping[str, str] | None:
        """Verification collateral that the platform provides, or None."""


class NoTee(NoRegister):
    """A machine without a TEE. The agent still serves, but without attestation: a verifying client refuses it.

    ``why`` is what the kernel shows instead of a TEE.
    """

    name = "none"
    kind = "tdx"

    def __init__(self, why: QuoteFault = NO_PROVIDER) -> None:
        self.why = why

    def quote(self, report_data: bytes) -> bytes:
        """Raise ``NoTeeError``."""
        raise NoTeeError(f"no-tee: no quote over these {len(report_data)} bytes: this machine has no TEE: {self.why}")

    def boot_log(self) -> bytes:
        """Empty: there is no event log to read."""
        return b""

    def collateral(self) -> None:
        """No collateral."""


class KernelTee(Tee, Protocol):
    """A TEE that a kernel interface shows."""

    def absent(self) -> QuoteFault | None:
        """Why this machine is not a guest of that TEE; None if it is one."""


KNOWN: tuple[Callable[[], KernelTee], ...] = (TdxTee, SnpTee)
"""Every TEE that this agent can ask for evidence."""


def detect(known: Iterable[Callable[[], KernelTee]] = KNOWN) -> Tee:
    """The platform that is here: the first known TEE that the kernel shows, else none, for the first one's reason."""
    reasons = []
    for make in known:
        tee = make()
        why = tee.absent()
        if why is None:
            return tee
        reasons.append(why)
    return NoTee(*reasons[:1])
