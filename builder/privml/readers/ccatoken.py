"""Describe an attestation token of an Arm CCA realm, every claim; its signatures are not checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privml.base import strictcbor
from privml.base.errors import printable
from privml.evidence.cca import token as tokens
from privml.evidence.cca.token import ALGORITHMS, SECURED, Component, Platform, Realm, Signed
from privml.measure.description import Description
from privml.readers.envelope import REPORT_DATA
from privml.readers.file import File

UNCHECKED = "its signatures were not checked: `inspect` does that, with the platform's public key"


def token_file(path: Path, data: bytes) -> File:
    """A token; ``EvidenceError`` when it is malformed."""
    found = tokens.parse(data)
    platform, realm = found.platform, found.realm
    notes = [UNCHECKED]
    if platform.others or realm.others:
        notes.append("it has claims that are not known here; they are signed, and shown by number")
    return File(
        path,
        Description(
            "cca-token",
            "attestation token of an Arm CCA realm",
            registers=realm.registers,
            facts={**_realm(realm), **_platform(platform)},
            notes=tuple(notes),
        ),
        cca=data,
    )


def _realm(realm: Realm) -> dict[str, str]:
    return {
        REPORT_DATA: realm.challenge.hex(),
        "realm profile": printable(realm.profile) or "none",
        "measured with": realm.hash,
        "personalization value": realm.personalization.hex(),
        "realm key": realm.point.hex(),
        "realm signature": _signature(realm.signed),
        **_others("realm", realm.others),
    }


def _platform(platform: Platform) -> dict[str, str]:
    lifecycle = "secured" if platform.lifecycle in SECURED else "not secured"
    rows = {f"component {number}": _component(each) for number, each in enumerate(platform.components, 1)}
    return {
        "platform profile": printable(platform.profile),
        "platform challenge": platform.challenge.hex(),
        "implementation id": platform.implementation.hex(),
        "instance id": platform.instance.hex(),
        "platform configuration": platform.configuration.hex(),
        "lifecycle": f"0x{platform.lifecycle:04x} ({lifecycle})",
        "platform hash": platform.hash,
        **rows,
        **({"verification service": printable(platform.service)} if platform.service else {}),
        "platform signature": _signature(platform.signed),
        **_others("platform", platform.others),
    }


def _others(of: str, claims: Mapping[int | str, Any]) -> dict[str, str]:
    return {printable(f"{of} claim {key}"): strictcbor.encode(value).hex() for key, value in claims.items()}


def _component(found: Component) -> str:
    words = [printable(word) for word in (found.type, found.version, found.hash) if word]
    return f"{' '.join(words) or 'no type'}: {found.measurement.hex()}, signed by {found.signer.hex()}"


def _signature(signed: Signed) -> str:
    return ALGORITHMS[signed.algorithm] + (f", key id {signed.key_id.hex()}" if signed.key_id else "")
