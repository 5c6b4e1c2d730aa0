"""Readable words for logged events. What is printed comes from an untrusted machine, so only printable text passes.

Event data: TCG PC Client Platform Firmware Profile 1.06 section 10.4; the Linux EFI stub and systemd-stub write
UTF-16LE. A log's data need not be what was hashed; `describe` says so when the digest does not prove it.
"""

from __future__ import annotations

import hashlib
import struct
from difflib import SequenceMatcher

from privml.events import types
from privml.evidence.facts import LoggedEvent

LIMIT = 300
_VARIABLES = (
    types.EV_EFI_VARIABLE_DRIVER_CONFIG,
    types.EV_EFI_VARIABLE_BOOT,
    types.EV_EFI_VARIABLE_BOOT2,
    types.EV_EFI_VARIABLE_AUTHORITY,
)


def describe(event: LoggedEvent) -> str:
    """``EV_IPL "console=ttyS0 privml.log=1"``: type and decoded text of one logged event."""
    name = types.type_name(event.type)
    data = event.data
    if event.type in _VARIABLES:
        variable = _variable_name(data)
        return f"{name} variable {variable}" if variable else f"{name}, {len(data)} bytes"
    text = text_of(event)
    if text is None:
        return f"{name}, {len(data)} bytes, digest {event.digest.hex()[:16]}"
    proven = "" if _proves(event, text) else f" (the log's words, digest {event.digest.hex()[:16]})"
    return f"{name} {quoted(text)}{proven}"


def text_of(event: LoggedEvent) -> str | None:
    """The printable text that an event's data holds, whole; None when it holds none."""
    tagged = _tagged(event.data) if event.type == types.EV_EVENT_TAG else None
    return decode(event.data if tagged is None else tagged)


def word_changes(predicted: str, logged: str) -> str | None:
    """``with "audit=0" added``: how one list of words became another; None when they have little in common."""
    old, new = predicted.split(), logged.split()
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    if len(old) < 2 or matcher.ratio() < 0.5:
        return None
    removed, added = [], []
    for tag, low, high, new_low, new_high in matcher.get_opcodes():
        if tag != "equal":
            removed += old[low:high]
            added += new[new_low:new_high]
    parts = [f"{quoted(' '.join(words))} {what}" for words, what in ((added, "added"), (removed, "removed")) if words]
    return "with " + " and ".join(parts) if parts else "with other spaces"


def decode(data: bytes) -> str | None:
    """Printable text out of UTF-16LE or UTF-8 bytes, without trailing NULs; None when it is something else.

    UTF-16 is taken only for text that begins with a Latin character: nearly any pair of bytes is one of its letters.
    """
    codec = "utf-16-le" if len(data) % 2 == 0 and data[1:2] == b"\0" else "utf-8"
    try:
        text = data.decode(codec).rstrip("\0")
    except UnicodeDecodeError:
        return None
    return text if text and text.isprintable() else None


def quoted(text: str) -> str:
    """``text`` in double quotes, cut after `LIMIT` characters."""
    return f'"{text}"' if len(text) <= LIMIT else f'"{text[:LIMIT]}..." ({len(text)} characters)'


def _proves(event: LoggedEvent, text: str) -> bool:
    spellings = (
        event.data,
        text.encode(),
        text.encode() + b"\0",
        text.encode("utf-16-le"),
        text.encode("utf-16-le") + b"\0\0",
    )
    return any(hashlib.sha384(spelling).digest() == event.digest for spelling in spellings)


def _tagged(data: bytes) -> bytes | None:
    if len(data) < 8:
        return None
    _, size = struct.unpack_from("<II", data)
    return data[8:] if len(data) == 8 + size else None


def _variable_name(data: bytes) -> str | None:
    if len(data) < 32:
        return None
    characters, _ = struct.unpack_from("<QQ", data, 16)
    if characters > 256:
        return None
    return decode(data[32 : 32 + 2 * characters])
