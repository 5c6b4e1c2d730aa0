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
from privml.evidence import ustar

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
        return ustar.encode(members)


def is_capture(head: bytes) -> bool:
    """True if ``head`` begins like an archive."""
    return ustar.begins_with(head, _MANIFEST)


def decode(data: bytes) -> Capture:
    """Read an archive; ``EvidenceError`` unless it is the canonical encoding of its content."""
    if len(data) > MAX_SIZE:
        raise EvidenceError(f"capture: {len(data)} bytes, expected at most {MAX_SIZE}")
    members = ustar.members(data, "capture")
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
