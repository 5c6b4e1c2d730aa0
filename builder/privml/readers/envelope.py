"""Find quotes, reports and event logs in JSON, as attestation services and agents return them.

There are many envelopes (``cc_eventlog`` with ``quote``, a list of events with a hexadecimal quote, either of
them some levels down or in a string of JSON), and their field names change. So the content decides, not the name:
every string and list is looked at, within bounds. Known: Confidential Containers' TdxEvidence and its trustee's
requests, dstack's quote reports and ``tcb_info``, Azure's and Intel Trust Authority's quote objects.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from privml.base.errors import EvidenceError
from privml.base.strictjson import check_structure
from privml.events.registers import DIGEST_SIZE, MRTD, RTMRS
from privml.evidence import dstack
from privml.readers import aael

MAX_TEXT = 4 << 20
"""Longest hexadecimal or base64 text that is decoded."""
_MAX_NODES = 200_000
_MAX_VALUES = 2_000_000  # a log of 1 MiB as a list of numbers is the most that was seen
_MAX_DEPTH = 100
_MAX_ITEMS = 16
REPORT_DATA = "report data"
_REPORT_DATA_SIZE = 64
_SHORTEST = 200  # characters: no quote, report or log is shorter in any encoding
_HEX = re.compile(rb"\A(?:0x)?[0-9A-Fa-f\s]+\Z")
_BASE64 = re.compile(rb"\A[A-Za-z0-9+/_\s-]+={0,2}\s*\Z")


@dataclass
class Contents:
    """What was found, each with the path of its field: binary values that may be evidence, and lists of events."""

    binary: list[tuple[str, bytes]] = field(default_factory=list)
    logs: list[tuple[str, list[Any]]] = field(default_factory=list)
    registers: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    agent_logs: list[tuple[str, bytes]] = field(default_factory=list)


def loads(data: bytes, what: str) -> Any:
    """Parse third-party JSON, which may hold floats; ``EvidenceError`` when it is malformed or gives a key twice."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            raise EvidenceError(f"{what}: a key is given twice, so the document is ambiguous")
        return found

    try:
        text = data.decode("utf-8-sig")
        check_structure(text, what=what, values=_MAX_VALUES, depth=_MAX_DEPTH)
        try:
            return json.loads(text, object_pairs_hook=pairs)
        except ValueError:
            lines = [line for line in text.splitlines() if line.strip()]
            if len(lines) < 2 or len(lines) > _MAX_NODES:
                raise
            return [json.loads(line, object_pairs_hook=pairs) for line in lines]
    except UnicodeDecodeError as error:
        raise EvidenceError(f"{what}: not UTF-8 at byte {error.start}") from error
    except ValueError as error:
        raise EvidenceError(f"{what}: malformed JSON: {error}") from error


def look(value: object) -> Contents:
    """Collect everything in ``value`` that may be evidence, the least nested first."""
    found = Contents()
    waiting: deque[tuple[str, object]] = deque([("", value)])
    for _ in range(_MAX_NODES):
        if not waiting:
            break
        path, item = waiting.popleft()
        if isinstance(item, dict):
            if registers := _registers(item):
                found.registers.append((path, registers))
            waiting.extend((f"{path}.{name}" if path else name, child) for name, child in item.items())
        elif dstack.is_log(item) and isinstance(item, list):
            found.logs.append((path, item))
        elif isinstance(item, list):
            octets = _octets(item)
            if octets is not None:
                found.binary.append((path, octets))
            else:
                waiting.extend((f"{path}[{at}]", child) for at, child in enumerate(item))
        elif isinstance(item, str) and aael.is_agent_log(text := item.encode("utf-8", "replace")):
            found.agent_logs.append((path, text))
        elif isinstance(item, str) and len(item) >= _SHORTEST:
            if item.lstrip()[:1] in ("{", "["):
                try:
                    waiting.append((path, loads(item.encode("utf-8", "replace"), path)))
                except EvidenceError:
                    continue
            elif (decoded := decode_text(item.encode("utf-8", "replace"))) is not None:
                found.binary.append((path, decoded))
    return found


def decode_text(data: bytes) -> bytes | None:
    """Decode hexadecimal or base64 text; None when ``data`` is neither."""
    if len(data) > MAX_TEXT:
        return None
    if _HEX.match(data):
        digits = b"".join(data.strip().removeprefix(b"0x").split())
        return None if len(digits) % 2 else binascii.unhexlify(digits)
    if _BASE64.match(data):
        text = b"".join(data.split()).replace(b"-", b"+").replace(b"_", b"/")
        try:
            return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
        except binascii.Error:
            return None
    return None


def _octets(item: list[Any]) -> bytes | None:
    """Decode bytes that a serializer wrote as a list of numbers; None for any other list."""
    if len(item) < _SHORTEST // 2 or not all(type(one) is int and 0 <= one <= 255 for one in item):
        return None
    return bytes(item)


def _registers(item: dict[str, Any]) -> dict[str, bytes] | None:
    """MRTD and `REPORT_DATA` (when they are given) and RTMR0..3 of an object that names them in hexadecimal.

    None for any other object.
    """
    names = {str(name).lower().replace("_", "").removeprefix("tdx"): text for name, text in item.items()}
    found: dict[str, bytes] = {}
    for register in (MRTD, *RTMRS):
        text = names.get(register)
        value = decode_text(text.encode("utf-8", "replace")) if isinstance(text, str) else None
        if value is not None and len(value) == DIGEST_SIZE:
            found[register] = value
    text = names.get("reportdata")
    value = decode_text(text.encode("utf-8", "replace")) if isinstance(text, str) else None
    if value is not None and len(value) == _REPORT_DATA_SIZE:
        found[REPORT_DATA] = value
    return found if set(RTMRS) <= set(found) else None


_FORMS: tuple[tuple[frozenset[str], str], ...] = tuple(
    (frozenset(names), what)
    for names, what in (
        (("tcbInfo",), "Intel's TCB info, part of a quote's collateral"),
        (("enclaveIdentity",), "Intel's identity of a quoting enclave, part of a quote's collateral"),
        (("pck_crl", "tcb_info"), "the collateral of a quote"),
        (
            ("uefi_event_logs",),
            "an event log as Confidential Containers' trustee prints it; the log itself can be read",
        ),
        (("evidence_list",), "evidence of NVIDIA GPUs"),
        (("evidence", "certificate", "nonce"), "evidence of NVIDIA GPUs"),
        (("payloadType", "payload", "signatures"), "a DSSE envelope"),
        (("mediaType", "verificationMaterial"), "a Sigstore bundle"),
        (("_type", "predicateType"), "an in-toto statement"),
        (("attestation_report",), "evidence of an AMD SEV-SNP guest"),
        (("boot_config",), "the metadata of a `tdx-measure` run"),
        (("keys",), "a JSON Web Key Set"),
        (("svn", "report_data"), "evidence of Confidential Containers' sample attester, of no TEE"),
    )
)


def describe(value: object) -> str:
    """Describe a JSON document without evidence of a TD in a few words."""
    if isinstance(value, list):
        items = {describe(item) for item in value[:_MAX_ITEMS] if isinstance(item, dict)}
        return f"a JSON list of {len(value)} items{f', each {items.pop()}' if len(items) == 1 else ''}"
    if not isinstance(value, dict):
        return "a JSON value"
    for name in ("format", "predicateType"):
        if isinstance(value.get(name), str):
            return f"a JSON document of the {'format' if name == 'format' else 'type'} `{value[name][:80]}`"
    for names, what in _FORMS:
        if names <= set(value):
            return what
    return f"a JSON object with the keys {', '.join(sorted(map(str, value))[:8])[:200] or '(none)'}"
