"""Collect predicted events with their recipe line; the profile's evidence is the upper bound for each row."""

from __future__ import annotations

from collections.abc import Mapping

from privml.events.event import Event, Evidence
from privml.events.registers import RTMR0, RTMR1
from privml.events.types import EV_EFI_ACTION, EV_SEPARATOR
from privml.measure.digest import sha384
from privml.measure.profiles import Profile
from privml.measure.sightings import seen_on

CALLING = b"Calling EFI Application from Boot Option"
EXIT_INVOKED = b"Exit Boot Services Invocation"
EXIT_SUCCEEDED = b"Exit Boot Services Returned with Success"
_SEPARATOR = bytes(4)


class EventList:
    """Events in the order in which they were added, in ``rows``."""

    def __init__(self, profile: Profile, origins: Mapping[str, str] | None = None) -> None:
        self.rows: list[Event] = []
        self.profile = profile
        self._origins = origins or {}

    def add(
        self,
        register: str,
        kind: int,
        digest: bytes,
        origin: str,
        *,
        key: str = "",
        evidence: Evidence | None = None,
        note: str = "",
    ) -> None:
        """One event; ``key`` finds its recipe line when ``origin`` does not, None is the profile's ``evidence``."""
        line = self._origins.get(key or origin)
        level = evidence or self.profile.evidence
        if self.profile.tpm and level is Evidence.HARDWARE:
            level = Evidence.TPM_BOOT
        full = f"{origin} ({line})" if line else origin
        self.rows.append(Event(register, kind, digest, full, level, note, seen_on(origin, level)))

    def separator(self, register: str, when: str) -> None:
        """An EV_SEPARATOR of four zero bytes."""
        origin = f"firmware: separator {when}"
        self.add(register, EV_SEPARATOR, sha384(_SEPARATOR), origin, evidence=Evidence.HARDWARE)

    def calling(self) -> None:
        """The firmware starts a boot option: the action, and the separators of ReadyToBoot."""
        self.add(RTMR1, EV_EFI_ACTION, sha384(CALLING), "firmware: boot option starts", evidence=Evidence.HARDWARE)
        for register, count in zip((RTMR0, RTMR1), self.profile.separators, strict=True):
            for _ in range(count):
                self.separator(register, "before the boot option starts")

    def exit_boot_services(self) -> None:
        """The kernel takes over."""
        for action in (EXIT_INVOKED, EXIT_SUCCEEDED):
            self.add(
                RTMR1,
                EV_EFI_ACTION,
                sha384(action),
                f"firmware: {action.decode()}",
                evidence=Evidence.HARDWARE,
            )
