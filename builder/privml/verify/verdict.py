"""The answer: accepted, accepted-simulated or refused, with every reason by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from privml.base.errors import EXIT_ACCEPTED_SIMULATED, Refused

CODES: Mapping[str, str] = {
    "quote-signature": "the quote's signature, certificate chain or collateral is not good",
    "pck-chain": "the certificates in the quote are not exactly a PCK, its PCK CA and the root",
    "collateral-role": "the collateral's certificates are not exactly those whose role is to sign it",
    "collateral-missing": "nobody gave the collateral that the signature is checked with",
    "simulated": "the quote comes from a simulation, and no simulated root was allowed",
    "root": "the chain ends in a root that is neither Intel's nor the allowed simulation's",
    "tcb-status": "Intel's word on the platform's patch level is not accepted",
    "tcb-evaluation-number": "the collateral is older than the policy allows",
    "advisory": "a security advisory that the policy rejects applies to the platform",
    "platform": "the machine is not in the policy's list",
    "qe-vendor": "the quoting enclave is not the accepted vendor's",
    "td-attributes": "the TD's attributes differ (a debug TD can be read by its host)",
    "xfam": "the TD's extended features are not an accepted set",
    "mrseam": "the TDX module is not in the policy's list",
    "mrsignerseam": "the TDX module has another signer than Intel",
    "seam-attributes": "the TDX module's attributes differ",
    "mrconfigid": "MRCONFIGID differs",
    "mrowner": "MROWNER differs",
    "mrownerconfig": "MROWNERCONFIG differs",
    "mrservicetd": "a service TD is bound to the TD",
    "shapes": "the statement lists no shape",
    "mrtd": "the firmware is another one",
    "rtmr0": "the firmware's configuration (machine, ACPI, variables) differs",
    "rtmr1": "what the firmware started differs",
    "rtmr2": "command line, initrd or a section of the UKI differs",
    "rtmr3": "the agent's stages differ",
    "agent-events": "the agent's log is not the expected list",
    "gpu-evidence": "the image has GPUs and the document shows no evidence of them",
    "report-data": "the quote is not over this document's sections and nonce",
    "nonce": "the document answers another nonce",
    "tls-key": "the connection's key is not the attested one",
    "variant": "the document says another variant than the statement",
    "development": "a development image can only be accepted together with a simulation",
    "purpose": "the document was made for another purpose",
    "stage": "the document was made at another stage of the boot",
}
"""Every refusal code and what it means."""


class Outcome(StrEnum):
    """The three answers."""

    ACCEPTED = "accepted"
    ACCEPTED_SIMULATED = "accepted-simulated"
    REFUSED = "refused"


@dataclass(frozen=True)
class Refusal:
    """One reason: ``code`` (a key of `CODES`), what was found and wanted; ``where`` names the events, if known."""

    code: str
    got: str
    expected: str
    where: str = ""

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"refusal code `{self.code}` is not defined")

    def to_dict(self) -> dict[str, str]:
        """A JSON object."""
        return {"code": self.code, "got": self.got, "expected": self.expected, "where": self.where}


@dataclass(frozen=True)
class Verdict:
    """One answer about one document. ``shape`` is the label of the shape compared with (the closest one)."""

    outcome: Outcome
    name: str
    variant: str
    anchor: str
    shape: str
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """True for genuine hardware only; a simulation is never ``accepted``."""
        return self.outcome is Outcome.ACCEPTED

    @property
    def exit_code(self) -> int:
        """0, 8 or 10 (`base.errors`)."""
        codes = {
            Outcome.ACCEPTED: 0,
            Outcome.ACCEPTED_SIMULATED: EXIT_ACCEPTED_SIMULATED,
            Outcome.REFUSED: Refused.exit_code,
        }
        return codes[self.outcome]

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "outcome": self.outcome.value,
            "name": self.name,
            "variant": self.variant,
            "anchor": self.anchor,
            "shape": self.shape,
            "refusals": [refusal.to_dict() for refusal in self.refusals],
            "notes": list(self.notes),
        }
