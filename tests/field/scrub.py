"""Keep this machine's names and serial numbers out of the archive: texts are cleaned, then every file is searched.

Cleaning replaces addresses, paths and known names in texts. The search knows this machine's names and what its
firmware says of itself, and looks for that in all files, also in the evidence. If it finds any, nothing is written.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.field.record import BUNDLE

from privml.base.errors import HostError, printable
from privml.evidence import bundle, document

DMI = (
    "product_serial",
    "product_uuid",
    "board_serial",
    "chassis_serial",
    "product_asset_tag",
    "board_asset_tag",
    "chassis_asset_tag",
)
_SHORTEST = 6
# What firmware says when it has no serial number, and names that say nothing of a machine or person.
_NOTHING = re.compile(
    r"(?i)(not (specified|applicable|available|settable)|none|unknown|default string|to be filled by o\.e\.m\.?|"
    r"system serial number|base board serial number|chassis serial number|asset tag|no asset tag|[0.: -]+|"
    r"0?123456789|localhost(\.localdomain)?|root|nobody|debian|ubuntu|fedora|centos|admin|user|test|builder|intel|tdx)"
)
_GUEST_MAC = re.compile(r"52:54:00:12:34:[0-9a-f]{2}")  # QEMU's own, which the guest has
_URL = re.compile(r"\b([a-z][a-z0-9+.-]*)://[^\s`'\",;)]+")
_MAC = re.compile(r"(?i)\b[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b")
_IP = re.compile(r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}\b|\b(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4}(?![0-9a-f:])")
_PATH = re.compile(r"(?<![\w.)/-])/(?:[\w.+@~-]+/?)+")
_KEPT = ("/dev/", "/sys/", "/proc/", "/etc/", "/usr/", "/var/run/", "/boot-stages", "/healthz", "/v1", "/readyz")


@dataclass(frozen=True)
class Names:
    """What this machine is called: its ``names`` (host, users, home) and ``serials`` (of firmware, MACs)."""

    names: frozenset[str]
    serials: frozenset[str]

    def clean(self, text: str) -> str:
        """``text`` as one line without this machine's names, addresses and paths."""
        text = printable(" ".join(text.split()))
        text = _URL.sub(lambda found: f"{found[1]}://ADDRESS", text)
        for word in sorted(self.names | self.serials, key=len, reverse=True):
            text = re.sub(re.escape(word), "NAME", text, flags=re.IGNORECASE)
        text = _MAC.sub("MAC", text)
        text = _IP.sub("ADDRESS", text)
        return _PATH.sub(lambda found: found[0] if found[0].startswith(_KEPT) else "PATH", text)[:1900]

    def check(self, files: Mapping[str, bytes]) -> None:
        """``HostError`` if one of ``files``, or a part inside one, holds a name or serial number of this machine."""
        for name, data in _parts(files):
            for word, kind in self._words():
                if any(form in data.lower() for form in _forms(word)):
                    raise HostError(
                        f"nothing was written: {name} holds {kind} of this machine",
                        hint="please report which file it was; the value is nobody's business",
                    )

    def _words(self) -> Iterable[tuple[str, str]]:
        yield from ((word, "a name") for word in sorted(self.names))
        yield from ((word, "a serial number or address") for word in sorted(self.serials))


def _forms(word: str) -> list[bytes]:
    """``word`` in lower case as it may be stored: as text, as UTF-16, and as the bytes of a UUID or MAC."""
    small = word.lower()
    forms = [small.encode(), small.encode("utf-16-le")]
    digits = re.sub(r"[:-]", "", small)
    if len(digits) in (12, 32) and not set(digits) - set("0123456789abcdef"):
        raw = bytes.fromhex(digits)
        forms.append(raw.lower())
        if len(raw) == 16:  # a GUID's first three fields are little-endian
            forms.append((raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]).lower())
    return forms


def _parts(files: Mapping[str, bytes]) -> Iterable[tuple[str, bytes]]:
    """Every file, and the parts of a bundle as they are."""
    for name, data in files.items():
        yield name, data
        if name == BUNDLE:
            inside = document.parse(bundle.decode(data).document)
            for part in ("header", "keys", "devices", "eventlog", "bootlog", "evidence"):
                yield f"{name} {part}", getattr(inside, part)
            for device in inside.device_evidence:
                yield f"{name} device_evidence", device.report + device.certificates


def of_machine(root: Path = Path("/"), *, host: Callable[[], str] = socket.gethostname) -> Names:
    """The names of this machine: what it is called, who uses it, and the serial numbers that it shows."""
    names = {host(), os.environ.get("SUDO_USER", ""), os.environ.get("LOGNAME", ""), os.environ.get("USER", "")}
    for path in ("etc/hostname", "proc/sys/kernel/hostname", "proc/sys/kernel/domainname"):
        names.add(_word(root / path))
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(os.getuid()).pw_name)
    names |= {part for name in names for part in name.split(".")[:1]}
    serials = {_word(root / "sys/class/dmi/id" / name) for name in DMI} | {_word(root / "etc/machine-id")}
    for card in sorted((root / "sys/class/net").glob("*/address")):
        address = _word(card)
        if not _GUEST_MAC.fullmatch(address):
            serials.add(address)
    return Names(frozenset(filter(_is_name, names)), frozenset(filter(_is_serial, serials)))


def _is_name(word: str) -> bool:
    return len(word) > 3 and not _NOTHING.fullmatch(word)


def _is_serial(word: str) -> bool:
    return len(word) >= _SHORTEST and not _NOTHING.fullmatch(word)


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
