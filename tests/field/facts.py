"""Digests of a UKI and a firmware in JSON, from which registers are predicted without the files."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, b64, loads, unhex
from privml.events.agent import AgentEvent
from privml.measure.firmware import FirmwareFacts
from privml.measure.smbios import FirmwareStrings
from privml.measure.tdvf import FirmwareSection
from privml.measure.uki import UkiFacts

_DIGEST = 48
_VARIABLE = 64 * 1024
_ADDRESS = (1 << 52) - 1


def to_json(uki: UkiFacts, firmware: FirmwareFacts, events: Sequence[AgentEvent]) -> dict[str, Any]:
    """The facts of an image, and the events that its agent extends."""
    return {
        "uki": {
            "authenticode": uki.authenticode.hex(),
            "sections": [[name, digest.hex()] for name, digest in uki.sections],
            "cmdline": uki.cmdline,
            "initrd": None if uki.initrd is None else uki.initrd.hex(),
            "inner_kernel": None if uki.inner_kernel is None else uki.inner_kernel.hex(),
        },
        "firmware": {
            "sections": [list(astuple(section)) for section in firmware.sections],
            "mrtd_single": firmware.mrtd_single.hex(),
            "mrtd_two": firmware.mrtd_two.hex(),
            "cfv": firmware.cfv.hex(),
            "variables": [
                [str(vendor), name, value.hex()] for (vendor, name), value in sorted(firmware.variables.items())
            ],
            "strings": list(astuple(firmware.strings)),
        },
        "agent_events": [{"name": event.name, "payload": b64(event.payload)} for event in events],
    }


def decode(data: bytes) -> tuple[UkiFacts, FirmwareFacts, tuple[AgentEvent, ...]]:
    """Read what ``to_json`` gives as JSON; ``EvidenceError`` for anything else."""
    top = Fields(loads(data, what="facts"), "facts")
    rows = [Fields(item, f"facts.agent_events[{i}]") for i, item in enumerate(top.array("agent_events", limit=64))]
    found = (
        uki_of(top.fields("uki")),
        firmware_of(top.fields("firmware")),
        tuple(AgentEvent(row.text("name"), row.base64("payload", limit=_VARIABLE)) for row in rows),
    )
    for fields in (*rows, top):
        fields.end()
    return found


def uki_of(fields: Fields) -> UkiFacts:
    """The facts of a UKI."""
    uki = UkiFacts(
        authenticode=fields.hexadecimal("authenticode", _DIGEST),
        sections=tuple(
            (_text(name), _digest(digest)) for name, digest in (_row(row, 2) for row in fields.array("sections"))
        ),
        cmdline=fields.text("cmdline"),
        initrd=_digest_or_null(fields, "initrd"),
        inner_kernel=_digest_or_null(fields, "inner_kernel") if fields.has("inner_kernel") else None,
    )
    fields.end()
    return uki


def firmware_of(fields: Fields) -> FirmwareFacts:
    """The facts of a firmware."""
    firmware = FirmwareFacts(
        sections=tuple(FirmwareSection(*map(_number, _row(row, 6))) for row in fields.array("sections", limit=64)),
        mrtd_single=fields.hexadecimal("mrtd_single", _DIGEST),
        mrtd_two=fields.hexadecimal("mrtd_two", _DIGEST),
        cfv=fields.hexadecimal("cfv", _DIGEST),
        variables={
            (_guid(vendor), _text(name)): _bytes(value)
            for vendor, name, value in (_row(row, 3) for row in fields.array("variables", limit=256))
        },
        strings=FirmwareStrings(*map(_text, _row(fields.array("strings", limit=3), 3))),
    )
    fields.end()
    return firmware


def _digest_or_null(fields: Fields, key: str) -> bytes | None:
    value = fields.take(key)
    return None if value is None else _digest(value)


def _row(value: object, length: int) -> list[Any]:
    if not isinstance(value, list) or len(value) != length:
        raise EvidenceError(f"facts: expected a list of {length}")
    return value


def _text(value: object, limit: int = 4096) -> str:
    if not isinstance(value, str) or len(value) > limit:
        raise EvidenceError(f"facts: expected a string of at most {limit} characters")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _ADDRESS:
        raise EvidenceError(f"facts: expected a number from 0 to {_ADDRESS}")
    return value


def _digest(value: object) -> bytes:
    return unhex(value, _DIGEST, what="facts")


def _bytes(value: object) -> bytes:
    return unhex(_text(value, 2 * _VARIABLE), what="facts")


def _guid(value: object) -> uuid.UUID:
    try:
        return uuid.UUID(_text(value))
    except ValueError as error:
        raise EvidenceError("facts: expected a GUID") from error
