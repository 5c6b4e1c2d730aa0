"""Why a TEE gave no quote: one record for each cause that the kernel's interface shows.

The texts are constants, because they reach the guest's console and `/boot-stages`, which anyone can read.
"""

from __future__ import annotations

from dataclasses import dataclass

from privml.base.errors import HostError


@dataclass(frozen=True)
class QuoteFault:
    """A cause. ``code`` is for programs; ``rung`` is that of `doctor --tdx` to look at on the host, empty if none."""

    code: str
    rung: str
    text: str

    def __str__(self) -> str:
        return f"{self.rung}: {self.text}" if self.rung else self.text


NO_PROVIDER = QuoteFault(
    "quote-no-provider", "qemu", "the kernel has no provider of quotes; was this guest started as a TD?"
)
OTHER_PROVIDER = QuoteFault(
    "quote-other-provider", "qemu", "the kernel's provider of quotes is another TEE's, not tdx_guest"
)
REFUSED = QuoteFault(
    "quote-refused",
    "quote-service",
    "the host gave no quote: its quote service is not running, QEMU has not got its socket, or it has no certificate "
    "of this platform (pccs, registration)",
)
BUSY = QuoteFault(
    "quote-busy", "quote-service", "busy: the host has not answered an earlier request, and it takes one at a time"
)
TIME_OUT = QuoteFault(
    "quote-time-out", "quote-service", "time-out: the host did not answer while the kernel waited for it"
)
DISTURBED = QuoteFault("quote-disturbed", "", "other requests of this guest came in between")
FAILED = QuoteFault("quote-failed", "", "the kernel failed to make the request")

FAULTS = {fault.code: fault for fault in (NO_PROVIDER, OTHER_PROVIDER, REFUSED, BUSY, TIME_OUT, DISTURBED, FAILED)}
"""Every cause by its code."""


class QuoteError(HostError):
    """No quote was made. ``fault`` says why."""

    def __init__(self, fault: QuoteFault, more: str = "") -> None:
        hint = f"on the host, `privml-build doctor --tdx`: {fault.rung}" if fault.rung else None
        super().__init__(f"no quote: {fault.text}{f' ({more})' if more else ''}", hint=hint)
        self.fault = fault
