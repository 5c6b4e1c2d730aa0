"""Describe events as text: the data of a log record, and how a logged event differs from a predicted one.

Event data is only a hint, because a host can log any text with any digest. The description therefore says whether the
digest matches the data, and contains only printable text. Data: TCG PC Client Platform
Firmware Profile 1.06 section 10.4; the Linux EFI stub and systemd-stub write UTF-16LE.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

from privml.base.errors import EvidenceError, printable
from privml.events import gpt, types
from privml.events.align import MAX_ALIGNED
from privml.events.event import Event, Evidence
from privml.events.logged import LoggedEvent
from privml.events.meaning import certificate_name, meaning, tagged
from privml.events.tcg import LogEntry, hashed_with

LIMIT = 300
_BOOT = (types.EV_EFI_VARIABLE_BOOT, types.EV_EFI_VARIABLE_BOOT2)
_VARIABLES = (types.EV_EFI_VARIABLE_DRIVER_CONFIG, types.EV_EFI_VARIABLE_AUTHORITY, *_BOOT)
_IMAGES = (
    types.EV_EFI_BOOT_SERVICES_APPLICATION,
    types.EV_EFI_BOOT_SERVICES_DRIVER,
    types.EV_EFI_RUNTIME_SERVICES_DRIVER,
)
# What their digest is of: all of their data.
_WHOLE = (
    types.EV_EFI_ACTION,
    types.EV_SEPARATOR,
    types.EV_EFI_GPT_EVENT,
    types.EV_EFI_VARIABLE_DRIVER_CONFIG,
    types.EV_EFI_VARIABLE_AUTHORITY,
)


def explain_event(entry: LogEntry) -> str:
    """One printable line that describes the event's data. Never fails; unknown data is shown in hex, shortened."""
    said = _READERS.get(entry.type, _plain)(entry)
    about = meaning(entry)
    if about is not None and about.by:
        said += f": {about.text}"
    return said + (" (its digest is of something else)" if proven(entry) is False else "")


def as_event(logged: LoggedEvent) -> Event:
    """Convert a log's event for lists with predicted ones: origin is its place, note its description."""
    level = Evidence.TPM_BOOT if logged.tpm else Evidence.HARDWARE
    place = f"log record {logged.number}"
    return Event(logged.register, logged.type, logged.digest, place, level, explain_event(logged.entry))


def describe(entry: LogEntry) -> str:
    """``EV_IPL "console=ttyS0 privml.log=1"``: type and text, and the digest unless it is that of the text."""
    remark = f" (the log's words, digest {entry.digest.hex()[:16]})" if proven(entry) is None else ""
    return f"{types.type_name(entry.type)} {explain_event(entry)}{remark}"


def proven(entry: LogEntry) -> bool | None:
    """True when the strongest digest is that of the data; False when it should be and is not; None when the data only
    names what was hashed, or this Python lacks the algorithm."""
    bank, digest = entry.bank, entry.digest
    own = [hashed_with(bank, candidate) for candidate in hashed(entry)]
    if digest in own:
        return True
    if None in own:
        return None
    return False if entry.type in (*_WHOLE, *_BOOT) else None


def hashed(entry: LogEntry) -> tuple[bytes, ...]:
    """The bytes that an event's digest may cover, derived from its data; the likeliest first."""
    data = entry.data
    if entry.type in _BOOT:
        variable = variable_parts(data)
        return (data,) if variable is None else (variable[2], data)
    if entry.type == types.EV_IPL:
        # Loaders log a text and measure it without its NUL, with one, or without grub's "grub_cmd: "; systemd-stub
        # logs a section's name in UTF-16 and measures it in ASCII.
        text = (text_of(entry) or "").encode("utf-8") if data[1:2] == b"\0" else data.rstrip(b"\0")
        command = text.partition(b": ")[2]
        wide = (data.removesuffix(b"\0\0"), data + b"\0\0")
        return tuple(
            dict.fromkeys((data, *wide, *(one + end for one in (text, command) if one for end in (b"", b"\0"))))
        )
    return (data,)


def text_of(entry: LogEntry) -> str | None:
    """The printable text that an event's data holds, whole; None when it holds none."""
    return text_in(tagged(entry.data)[1] if entry.type == types.EV_EVENT_TAG else entry.data)


def text_in(data: bytes) -> str | None:
    """Decode printable UTF-16LE or UTF-8 text, without trailing NULs; None for anything else.

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


# --- differences ----------------------------------------------------------------------------------------------------


def difference_line(
    register: str,
    position: int,
    left: Event | LoggedEvent | None,
    right: Event | LoggedEvent | None,
    names: tuple[str, str] = ("predicted", "logged"),
    near: Sequence[Event | LoggedEvent] = (),
) -> str:
    """One line that compares ``left`` with ``right`` at ``position`` (from 1) of ``right``'s events of a register.

    ``names`` are the two sides. Of two texts only the changed words are given. An event of ``right`` alone is
    also compared with ``near``, events of ``left`` at which the two differ: a command line from the host is one
    more event, with a text similar to the predicted one's.
    """
    said = "; ".join(half for half in difference_halves(left, right, names, near) if half)
    place = f"{register.upper()} event {position}"
    return f"{place}: {said}" if said else place


def difference_halves(
    left: Event | LoggedEvent | None,
    right: Event | LoggedEvent | None,
    names: tuple[str, str] = ("predicted", "logged"),
    near: Sequence[Event | LoggedEvent] = (),
) -> tuple[str, str]:
    """The parts of a `difference_line` about ``left`` and ``right``; one is empty where the other says it all."""
    ours, theirs = names
    predicted = ours == "predicted"
    if right is None:
        return f"{f'missing: {ours}' if predicted else f'only {ours} has'} {words(left)}" if left else "", ""
    if left is None:
        for one in near:
            if (changed := word_changes(_text(one), _text(right))) is not None:
                new = types.type_name(right.type)
                more = f"not {ours}: {theirs}" if predicted else f"only {theirs} has"
                return "", f"{more} {new}, the text of {words(one, note=False)} {changed}"
        return "", f"{f'not {ours}: {theirs}' if predicted else f'only {theirs} has'} {words(right)}"
    if isinstance(left, LoggedEvent) and isinstance(right, LoggedEvent) and _same_words(left.entry, right.entry):
        said = f"{types.type_name(left.type)} {explain_event(left.entry)}"
        digests = f"{left.digest.hex()[:16]} ({ours}) and {right.digest.hex()[:16]} ({theirs})"
        return f"{said}: the words are the same, the digest is {digests}", ""
    changed = word_changes(_text(left), _text(right))
    if changed is None:
        return f"{ours} {words(left)}", f"{theirs} {words(right)}"
    return f"{ours} {words(left, note=False)}", f"{theirs} {types.type_name(right.type)} {changed}"


def _same_words(one: LogEntry, other: LogEntry) -> bool:
    return (one.type, one.data) == (other.type, other.data)


def words(event: Event | LoggedEvent, *, note: bool = True) -> str:
    """Type, origin and note of a predicted event; type and description of a logged one."""
    if isinstance(event, LoggedEvent):
        return describe(event.entry)
    said = f" [{event.note if len(event.note) <= LIMIT else quoted(event.note)}]"
    if not note:
        return f"{types.type_name(event.type)} from {event.origin}"
    digest = f", digest {event.digest.hex()[:16]}"
    return f"{types.type_name(event.type)} from {event.origin}{said if event.note else ''}{digest}"


def _text(event: Event | LoggedEvent) -> str:
    return event.note if isinstance(event, Event) else text_of(event.entry) or ""


def word_changes(before: str, after: str) -> str | None:
    """``with "audit=0" added``: the words that changed; None when the two have little in common, or when
    they are equal, so that the digests have to be shown."""
    if before == after:
        return None
    old, new = before.split(), after.split()
    if len(old) < 2 or len(old) * len(new) > MAX_ALIGNED:
        return None
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    if matcher.ratio() < 0.5:
        return None
    removed, added = [], []
    for tag, low, high, new_low, new_high in matcher.get_opcodes():
        if tag != "equal":
            removed += old[low:high]
            added += new[new_low:new_high]
    parts = [f"{quoted(' '.join(some))} {what}" for some, what in ((added, "added"), (removed, "removed")) if some]
    return "with " + " and ".join(parts) if parts else "with other spaces"


# --- one type of event each -----------------------------------------------------------------------------------------


def _plain(entry: LogEntry) -> str:
    # A boot loader's commands may have several lines.
    text = text_of(entry) or text_in(entry.data.replace(b"\n", b"\\n").replace(b"\t", b" "))
    if text is not None:
        return quoted(text)
    return f"{len(entry.data)} bytes {entry.data[:32].hex()}".rstrip()


def _separator(entry: LogEntry) -> str:
    return f"separator {entry.data[:16].hex()}"


def _tag(entry: LogEntry) -> str:
    number, data = tagged(entry.data)
    text = text_in(data)
    said = quoted(text) if text is not None else f"{len(data)} bytes {data[:32].hex()}".rstrip()
    return said if number is None else f"{said} (tag 0x{number:08x})"


def _fw_cfg(entry: LogEntry) -> str:
    name = entry.data.removeprefix(b"QEMU FW CFG\0")
    return _plain(entry) if name == entry.data else f"fw_cfg {text_in(name.rstrip(bytes(1))) or name.hex()}"


def variable_parts(data: bytes) -> tuple[uuid.UUID, str, bytes] | None:
    """UEFI_VARIABLE_DATA: vendor, name, value; None when its lengths are not those of ``data``."""
    if len(data) < 32:
        return None
    name_length, size = struct.unpack_from("<QQ", data, 16)
    if 32 + 2 * name_length + size != len(data):
        return None
    name = data[32 : 32 + 2 * name_length].decode("utf-16-le", "replace")
    return uuid.UUID(bytes_le=data[:16]), name, data[32 + 2 * name_length :]


def _variable(entry: LogEntry) -> str:
    parts = variable_parts(entry.data)
    if parts is None:
        return f"malformed variable data, {len(entry.data)} bytes"
    vendor, name, value = parts
    said = f"variable {printable(name[:64])} ({vendor}), {len(value)} bytes {value[:16].hex()}".rstrip()
    if entry.type in _BOOT and name.startswith("Boot") and name != "BootOrder":
        # EFI_LOAD_OPTION: u32 attributes, u16 length of the device path, the description in UTF-16 up to a NUL.
        description, end, _ = value[6:].decode("utf-16-le", "replace").partition("\0")
        said += f" {quoted(printable(description))}" if description and end else ""
    # EFI_SIGNATURE_DATA: the owner's GUID, then a certificate.
    if entry.type == types.EV_EFI_VARIABLE_AUTHORITY and (subject := certificate_name(value[16:])) is not None:
        said += f", certificate of {quoted(subject)}"
    return said


def _image(entry: LogEntry) -> str:
    """UEFI_IMAGE_LOAD_EVENT: address, size, link address, length of the device path (u64 each), the path's nodes."""
    what = "EFI application" if entry.type == types.EV_EFI_BOOT_SERVICES_APPLICATION else "EFI driver"
    return f"{what} {_device_path(entry.data[32:])}".rstrip()


def _device_path(data: bytes) -> str:
    """The file of a device path: its file path (type 4, subtype 4) or file in a firmware volume (4, 6)."""
    at, found = 0, []
    while at + 4 <= len(data):
        kind, subtype, size = struct.unpack_from("<BBH", data, at)
        if size < 4 or at + size > len(data):
            break
        body = data[at + 4 : at + size]
        if (kind, subtype) == (4, 4):
            found.append(printable(body.decode("utf-16-le", "replace").rstrip("\0"))[:LIMIT])
        elif (kind, subtype) in ((4, 6), (4, 7)) and len(body) == 16:
            found.append(f"{'FvFile' if subtype == 6 else 'Fv'}({uuid.UUID(bytes_le=body)})")
        at += size
    return "/".join(found)


def _gpt(entry: LogEntry) -> str:
    try:
        table = gpt.decode(entry.data)
    except EvidenceError:
        return _plain(entry)
    names = [printable(partition.name) for partition in table.partitions]
    return f"partition table of disk {table.disk}, {len(names)} partitions: {', '.join(names)[:LIMIT]}"


def _named_blob(entry: LogEntry) -> str:
    """EFI_PLATFORM_FIRMWARE_BLOB2 and HANDOFF_TABLES2 begin with one byte of length and a description."""
    size = entry.data[0] if entry.data else 0
    text = text_in(entry.data[1 : 1 + size])
    return quoted(text) if size and text is not None else _plain(entry)


def _runtime(entry: LogEntry) -> str:
    """dstack's run-time event: u32 type, name and payload with colons between (`evidence.dstack`)."""
    _, _, rest = entry.data.partition(b":")
    name, colon, payload = rest.partition(b":")
    text = text_in(name)
    if not colon or text is None:
        return _plain(entry)
    value = text_in(payload)
    return f"run-time event {text[:64]} {quoted(value) if value is not None else payload[:48].hex()}".rstrip()


_READERS: dict[int, Callable[[LogEntry], str]] = {
    types.EV_SEPARATOR: _separator,
    types.EV_EVENT_TAG: _tag,
    types.EV_PLATFORM_CONFIG_FLAGS: _fw_cfg,
    types.EV_EFI_GPT_EVENT: _gpt,
    types.EV_EFI_PLATFORM_FIRMWARE_BLOB2: _named_blob,
    types.EV_EFI_HANDOFF_TABLES2: _named_blob,
    types.DSTACK_RUNTIME_EVENT: _runtime,
    **dict.fromkeys(_VARIABLES, _variable),
    **dict.fromkeys(_IMAGES, _image),
}
