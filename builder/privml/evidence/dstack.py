"""dstack's event log as JSON, and its quote report: a quote in hexadecimal with such a log.

``imr`` counts RTMRs from 0. Run-time events have type 0x08000001; their digest is SHA-384 of type, name and payload
joined by colons (version 1), or of a canonical JSON object (version 2). A report may leave these digests empty, since
name and payload determine them. Read for explaining only; extra fields are ignored.
Source: Dstack-TEE/dstack cc-eventlog/src/tdx.rs, runtime_events.rs.
"""

from __future__ import annotations

import binascii
import hashlib
import json
from typing import Any

from privml.base import strictjson
from privml.base.errors import EvidenceError
from privml.events.tcg import ALG_SHA384, LogEntry
from privml.events.types import DSTACK_RUNTIME_EVENT

_MAX_EVENTS = 100_000


def is_report(value: object) -> bool:
    """True for a JSON object with a quote and an event log."""
    return isinstance(value, dict) and isinstance(value.get("quote"), str) and "event_log" in value


def is_log(value: object) -> bool:
    """True for a non-empty JSON list whose first item has the fields of a dstack event."""
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], dict)
        and {"imr", "event_type"} <= set(value[0])
    )


def parse(value: dict[str, Any]) -> tuple[bytes, list[LogEntry]]:
    """The quote's bytes and the log's entries (``index`` is an MrIndex); ``EvidenceError`` when malformed."""
    log = value["event_log"]
    if isinstance(log, str):
        log = strictjson.loads(log.encode("utf-8", "replace"), what="event_log")
    return _hex(value["quote"], "quote"), parse_log(log)


def parse_log(log: object) -> list[LogEntry]:
    """The entries of an event log; ``EvidenceError`` when it is not a list of dstack events."""
    if not isinstance(log, list) or len(log) > _MAX_EVENTS:
        raise EvidenceError(f"event_log: expected a list of at most {_MAX_EVENTS} events")
    return [_entry(item, f"event_log[{at}]") for at, item in enumerate(log)]


def _entry(item: object, path: str) -> LogEntry:
    if not isinstance(item, dict):
        raise EvidenceError(f"{path}: expected an object")
    imr, kind, name = item.get("imr"), item.get("event_type"), item.get("event", "")
    if type(imr) is not int or not 0 <= imr <= 3 or type(kind) is not int or not 0 <= kind <= 0xFFFFFFFF:
        raise EvidenceError(f"{path}: expected an imr of 0 to 3 and an event_type")
    digest = _hex(item.get("digest") or "", f"{path}.digest")
    if len(digest) not in (0, 48) or not isinstance(name, str):
        raise EvidenceError(f"{path}: expected a digest of 48 bytes, and text as its event")
    payload = _hex(item.get("event_payload") or "", f"{path}.event_payload")
    if kind != DSTACK_RUNTIME_EVENT:
        if not digest:
            raise EvidenceError(f"{path}: no digest, and only those of run-time events can be computed")
        return LogEntry(imr + 1, kind, {ALG_SHA384: digest}, payload)
    hashed = (runtime_data(name, payload), *_second_versions(name, payload))
    if not digest:
        digest = hashlib.sha384(hashed[1 if item.get("version") == 2 else 0]).digest()
    elif digest not in [hashlib.sha384(candidate).digest() for candidate in hashed]:
        raise EvidenceError(f"{path}: the digest of `{name[:40]}` is not that of its name and payload")
    return LogEntry(imr + 1, kind, {ALG_SHA384: digest}, hashed[0])


def _second_versions(name: str, payload: bytes) -> tuple[bytes, bytes]:
    """What an event of version 2 hashes, in both forms that dstack has had; the current one first."""
    text, kind = payload.hex(), DSTACK_RUNTIME_EVENT
    return (
        _canonical({"name": name, "payload": text, "type": kind}),
        _canonical({"event": name, "event_type": kind, "payload": text, "version": 2}),
    )


def _canonical(value: dict[str, object]) -> bytes:
    # Names come from an untrusted report: half a surrogate pair must not stop the reader.
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def runtime_data(name: str, payload: bytes) -> bytes:
    """What a run-time event of version 1 hashes."""
    return DSTACK_RUNTIME_EVENT.to_bytes(4, "little") + b":" + name.encode("utf-8", "replace") + b":" + payload


def _hex(value: object, path: str) -> bytes:
    if not isinstance(value, str):
        raise EvidenceError(f"{path}: expected hexadecimal text, got {json.dumps(value, default=str)[:40]}")
    try:
        return binascii.unhexlify(value.removeprefix("0x"))
    except (binascii.Error, ValueError) as error:
        raise EvidenceError(f"{path}: not hexadecimal") from error
