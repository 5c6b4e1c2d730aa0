"""One event of a log in words.

Event data is a hint: a host can log any text beside any digest, so say when they disagree.
"""

from __future__ import annotations

import hashlib
import struct
import uuid

from privml.events.tcg import ALG_SHA384, LogEntry
from privml.events.types import (
    EV_EFI_ACTION,
    EV_EFI_BOOT_SERVICES_APPLICATION,
    EV_EFI_VARIABLE_AUTHORITY,
    EV_EFI_VARIABLE_BOOT,
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_EVENT_TAG,
    EV_IPL,
    EV_PLATFORM_CONFIG_FLAGS,
    EV_SEPARATOR,
    type_name,
)

_LIMIT = 400
_TAG = struct.Struct("<II")
_VARIABLES = (EV_EFI_VARIABLE_DRIVER_CONFIG, EV_EFI_VARIABLE_BOOT, EV_EFI_VARIABLE_AUTHORITY)


def explain_event(entry: LogEntry) -> str:
    """One printable line: what the event's data says it is. Never fails; unknown data is shown in hex, shortened."""
    text = _explain(entry)
    return text if len(text) <= _LIMIT else text[: _LIMIT - 3] + "..."


def _explain(entry: LogEntry) -> str:
    data = entry.data
    if entry.type in (EV_EFI_ACTION, EV_SEPARATOR):
        shown = f"action `{_ascii(data)}`" if entry.type == EV_EFI_ACTION else f"separator {data.hex()[:32]}"
        return shown + _disagrees(entry, data)
    if entry.type == EV_EVENT_TAG and len(data) >= _TAG.size:
        tag, size = _TAG.unpack_from(data)
        return f"tag 0x{tag:08x} `{_text(data[_TAG.size : _TAG.size + size])}`"
    if entry.type == EV_IPL:
        return f"loader: `{_text(data)}`"
    if entry.type == EV_PLATFORM_CONFIG_FLAGS:
        return f"platform configuration `{_ascii(data.replace(b'QEMU FW CFG' + bytes(1), b'fw_cfg '))}`"
    if entry.type in _VARIABLES:
        return _variable(entry)
    if entry.type == EV_EFI_BOOT_SERVICES_APPLICATION:
        return "EFI application (Authenticode digest)"
    return f"{type_name(entry.type)} {data[:32].hex()}"


def _variable(entry: LogEntry) -> str:
    data = entry.data
    if len(data) < 32:
        return f"{type_name(entry.type)} {data.hex()}"
    vendor = uuid.UUID(bytes_le=data[:16])
    name_length, size = struct.unpack_from("<QQ", data, 16)
    if 32 + 2 * name_length + size != len(data):
        return f"{type_name(entry.type)}: malformed variable data"
    name = data[32 : 32 + 2 * name_length].decode("utf-16-le", "replace")
    value = data[32 + 2 * name_length :]
    hashed = value if entry.type == EV_EFI_VARIABLE_BOOT else data
    return f"variable {_printable(name)} ({vendor}), {size} bytes {value[:16].hex()}" + _disagrees(entry, hashed)


def _disagrees(entry: LogEntry, hashed: bytes) -> str:
    digest = entry.digests.get(ALG_SHA384)
    if digest is None or digest == hashlib.sha384(hashed).digest():
        return ""
    return " (its digest is of something else)"


def _text(data: bytes) -> str:
    """UTF-16 where every other byte says so, else ASCII."""
    if len(data) >= 2 and len(data) % 2 == 0 and not any(data[1:64:2]):
        return _printable(data.decode("utf-16-le", "replace").rstrip("\0"))
    return _ascii(data)


def _ascii(data: bytes) -> str:
    return _printable(data.rstrip(b"\0").decode("latin-1"))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
