"""Describe an attestation report of an SEV-SNP guest; its signature is not checked."""

from __future__ import annotations

from pathlib import Path

from privml.events.registers import LAUNCH
from privml.evidence.snp import report
from privml.measure.description import Description
from privml.readers.file import File

UNCHECKED = "its signature was not checked: that needs the certificate of the chip's key"


def report_file(path: Path, data: bytes, *notes: str) -> File:
    """A report; ``EvidenceError`` when it is malformed."""
    found = report.parse(data)
    of_host = {
        "host data": found.host_data,
        "id key": found.id_key_digest,
        "author key": found.author_key_digest,
        "family id": found.family_id,
        "image id": found.image_id,
    }
    facts = {
        "report data": found.report_data.hex(),
        "policy": f"0x{found.policy:x}{_words(found.policy_words)}",
        "vmpl": str(found.vmpl),
        **{name: value.hex() for name, value in of_host.items() if any(value)},
        "guest svn": str(found.guest_svn),
        "platform": f"0x{found.platform_info:x}{_words(found.platform_words)}",
        **{f"{name} tcb": _tcb(found, value) for name, value in _versions(found).items()},
        "firmware": f"{found.current}, committed {found.committed}",
        "signing key": report.SIGNING_KEYS[found.signing_key],
        "chip id": found.chip_id.hex() if any(found.chip_id) else "not shown",
    }
    notes = (UNCHECKED, *notes)
    if found.product is None:
        notes += ("a report of version 2 does not say which processor it is of, so its TCB versions are raw bytes",)
    if "debug" in found.policy_words:
        notes += ("the guest may be debugged: its host can read its memory",)
    what = "" if found.product is None else f", of a {found.product.name}"
    return File(
        path,
        Description(
            "snp-report",
            f"attestation report of an SEV-SNP guest, version {found.version}{what}",
            registers={LAUNCH: found.measurement},
            facts=facts,
            notes=notes,
        ),
    )


def _versions(found: report.Report) -> dict[str, bytes]:
    return {
        "reported": found.reported_tcb,
        "current": found.current_tcb,
        "committed": found.committed_tcb,
        "launch": found.launch_tcb,
    }


def _tcb(found: report.Report, data: bytes) -> str:
    """The parts of a TCB version, where the report says which byte is which."""
    if found.product is None:
        return data.hex()
    return ", ".join(f"{part} {value}" for part, value in found.product.tcb(data).items())


def _words(words: tuple[str, ...]) -> str:
    return f" ({', '.join(words)})" if words else ""
