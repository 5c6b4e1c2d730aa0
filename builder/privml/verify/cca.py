"""Judge an attestation token of an Arm CCA realm. It is never accepted: no image is built for CCA, none predicted.

A token says what signed it, and its values can be compared with those that the caller states. Arm signs no platform's
key, so the caller names the key of the platform's vendor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from privml.evidence.cca.token import SECURED, Token, TokenChecks
from privml.verify.bare import Finding, Origin, Value
from privml.verify.rules import refuses
from privml.verify.verdict import Refusal

TEE = "cca"


@dataclass(frozen=True)
class Case:
    """A token, and what was checked of it."""

    token: Token
    checks: TokenChecks


@refuses(
    {
        "cca-realm-signature": "the realm token is not signed by the realm's attestation key in it",
        "cca-binding": "the platform token is not about the realm's attestation key",
        "cca-platform-signature": "the platform token is not signed by the key that was given",
        "cca-platform-key": "no key of the platform was given, so nobody vouches for the token",
    }
)
def signature(case: Case) -> Iterator[Refusal]:
    """Check that the platform's key vouches for the realm's, and the realm's key for its measurements."""
    checks = case.checks
    if not checks.realm:
        yield Refusal("cca-realm-signature", "another signature", "one by the key in the realm token")
    if not checks.bound:
        got = case.token.platform.challenge.hex()
        yield Refusal("cca-binding", got, f"the {case.token.realm.key_hash} of the realm's key")
    if checks.platform is None:
        yield Refusal("cca-platform-key", "none", "the public key of the platform (--platform-key)")
    elif not checks.platform:
        yield Refusal("cca-platform-signature", "another signature", "one by the given key")


@refuses({"cca-lifecycle": "the platform is not in its secured state: others may debug it"})
def platform(case: Case) -> Iterator[Refusal]:
    """Check the platform's lifecycle."""
    found = case.token.platform.lifecycle
    if found not in SECURED:
        yield Refusal(
            "cca-lifecycle", f"0x{found:04x}", f"0x{SECURED.start:04x} to 0x{SECURED.stop - 1:04x}, secured"
        )


CODES = {**signature.codes, **platform.codes}
"""Every refusal code of a token, and what it means."""


def judge(case: Case, values: tuple[Value, ...]) -> Finding:
    """The finding about a token; ``values`` were compared."""
    refusals = (*signature(case), *platform(case))
    checks = case.checks
    if not checks.realm or not checks.bound or checks.platform is False:
        origin = Origin.REFUSED
    else:
        origin = Origin.UNPROVEN if checks.platform is None else Origin.NAMED_KEY
    notes = ["no RIM is computed here: what it must be is somebody else's word"]
    if checks.platform:
        notes.append("the key is the caller's: nothing here says that it is a platform vendor's")
    return Finding(origin, refusals, values, tuple(notes))
