"""A capture: the evidence and logs of one real TD in one file, from which a test can be made.

A ``privml-capture/v1`` is an uncompressed ustar archive: ``manifest.json`` (canonical JSON), then the captured files
by name. All headers are fixed (mode 0644, owner 0, time 0), so the same content always gives the same archive, and
readers refuse any other encoding. Contract: docs/ARCHITECTURE.md, "Capture v1".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, canonical, loads

FORMAT = "privml-capture/v1"
MAX_SIZE = 32 * 1024 * 1024

QUOTE = "quote.bin"
LOG = "ccel.bin"
TABLE = "ccel-table.bin"
SMBIOS = "smbios/DMI"
SMBIOS_ENTRY = "smbios/smbios_entry_point"
DEVICES = "devices.json"
QEMU = "qemu.txt"
CPUS = "cpus"
KERNEL = ("kernel/osrelease", "kernel/version", "kernel/cmdline")
# Files that firmware measures or that are needed to predict it; not those where a host may put secrets
# (opt/io.systemd...).
FW_CFG = (
    "bootorder",
    "etc/acpi/rsdp",
    "etc/acpi/tables",
    "etc/boot-menu-wait",
    "etc/e820",
    "etc/extra-pci-roots",
    "etc/reserved-memory-end",
    "etc/smbios/smbios-anchor",
    "etc/smbios/smbios-tables",
    "etc/table-loader",
    "etc/tpm/log",
    "opt/ovmf/X-PciMmio64Mb",
)
FW_CFG_FOLDER = "fw_cfg/"
NAMES = (QUOTE, LOG, TABLE, SMBIOS, SMBIOS_ENTRY, DEVICES, QEMU, CPUS, *KERNEL, *(FW_CFG_FOLDER + n for n in FW_CFG))

_MANIFEST = "manifest.json"
_BLOCK = 512
_DOMAIN = b"privml-capture/v1\0"


@dataclass(frozen=True)
class Capture:
    """``files`` maps names in `NAMES` to bytes; ``missing`` maps unavailable ones to the reason; ``uki`` is the hex
    SHA-256 of the booted UKI, empty if unknown."""

    files: Mapping[str, bytes]
    missing: Mapping[str, str] = field(default_factory=dict)
    uki: str = ""

    @property
    def blobs(self) -> dict[str, bytes]:
        """The fw_cfg files, by their names there."""
        return {
            name.removeprefix(FW_CFG_FOLDER): data
            for name, data in self.files.items()
            if name.startswith(FW_CFG_FOLDER)
        }

    def report_data(self) -> bytes:
        """The quote's 64 bytes of report data, which cover all other parts."""
        return hashlib.sha512(_DOMAIN + canonical(_listed({**self.files, QUOTE: b""}))).digest()

    def encode(self) -> bytes:
        """The archive."""
        manifest = {"format": FORMAT, "files": _listed(self.files), "missing": dict(self.missing), "uki": self.uki}
        members = [(_MANIFEST, canonical(manifest)), *sorted(self.files.items())]
        return b"".join(_header(name, len(data)) + _padded(data) for name, data in members) + bytes(2 * _BLOCK)


def is_capture(head: bytes) -> bool:
    """True if ``head`` begins like an archive."""
    return head[: len(_MANIFEST) + 1] == _MANIFEST.encode() + b"\0" and head[257:262] == b"ustar"


def decode(data: bytes) -> Capture:
    """Read an archive; ``EvidenceError`` unless it is the canonical encoding of its content."""
    if len(data) > MAX_SIZE:
        raise EvidenceError(f"capture: {len(data)} bytes, expected at most {MAX_SIZE}")
    members = _members(data)
    if _MANIFEST not in members:
        raise EvidenceError("capture: no manifest.json")
    top = Fields(loads(members.pop(_MANIFEST), what="capture manifest"), "capture manifest")
    top.text("format", one_of=(FORMAT,))
    listed = top.fields("files")
    for name in sorted(members):
        if name not in NAMES:
            raise EvidenceError(f"capture: `{name[:80]}` is not part of a capture")
        row = listed.fields(name)
        digest, size = row.hexadecimal("sha256", 32), row.integer("size")
        row.end()
        if (hashlib.sha256(members[name]).digest(), len(members[name])) != (digest, size):
            raise EvidenceError(f"capture: {name} does not match the manifest")
    listed.end()
    absent = top.fields("missing")
    missing = {name: absent.text(name) for name in NAMES if absent.has(name)}
    absent.end()
    capture = Capture(members, missing, top.text("uki", limit=64))
    top.end()
    if capture.encode() != data:
        raise EvidenceError("capture: not the canonical archive (order, headers or padding differ)")
    return capture


def _listed(files: Mapping[str, bytes]) -> dict[str, dict[str, object]]:
    return {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in sorted(files.items())
    }


def _members(data: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    at = 0
    while at + _BLOCK <= len(data) and data[at : at + _BLOCK] != bytes(_BLOCK):
        header = data[at : at + _BLOCK]
        name = header[:100].rstrip(b"\0").decode("ascii", "replace")
        try:
            size = int(header[124:135], 8)
        except ValueError:
            raise EvidenceError(f"capture: a header at byte {at} has no size") from None
        at += _BLOCK
        if size < 0 or at + size > len(data) or name in found:
            raise EvidenceError(f"capture: `{name[:80]}` is truncated or duplicated")
        found[name] = data[at : at + size]
        at += -(-size // _BLOCK) * _BLOCK
    return found


def _header(name: str, size: int) -> bytes:
    def octal(value: int, width: int) -> bytes:
        return f"{value:0{width - 1}o}".encode() + b"\0"

    fields = name.encode("ascii").ljust(100, b"\0") + octal(0o644, 8) + octal(0, 8) * 2 + octal(size, 12)
    head = (fields + octal(0, 12) + b" " * 8 + b"0" + bytes(100) + b"ustar\x0000").ljust(_BLOCK, b"\0")
    return head[:148] + f"{sum(head):06o}".encode() + b"\0 " + head[156:]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _BLOCK)
