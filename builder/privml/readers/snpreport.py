"""Describe an attestation report of an SEV-SNP guest, every field; its signature is not checked."""

from __future__ import annotations

from pathlib import Path

from privml.events.registers import LAUNCH
from privml.evidence.snp import report
from privml.measure.description import Description
from privml.readers.file import File

UNCHECKED = "its signature was not checked: `inspect` does that, with the certificate of the chip's key"
NO_AGENT = b"\xff" * 32
"""REPORT_ID_MA of a guest without a migration agent."""


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
        "least abi": f"{found.policy >> 8 & 255}.{found.policy & 255}",
        "vmpl": str(found.vmpl),
        **{name: value.hex() for name, value in of_host.items() if any(value)},
        "guest svn": str(found.guest_svn),
        "report id": found.report_id.hex(),
        **({} if found.report_id_ma == NO_AGENT else {"migration agent": found.report_id_ma.hex()}),
        "platform": f"0x{found.platform_info:x}{_words(found.platform_words)}",
        **{f"{name} tcb": _tcb(found, value) for name, value in _versions(found).items()},
        "firmware": f"{found.current}, committed {found.committed}",
        **_mitigations(found),
        "signing key": _key(found),
        "chip id": found.chip_id.hex() if any(found.chip_id) else "not shown",
    }
    notes = (UNCHECKED, *notes)
    if found.product is None:
        notes += ("a report of version 2 does not say which processor it is of, so its TCB versions are raw bytes",)
    if "debug" in found.policy_words:
        notes += ("the guest may be debugged: its host can read its memory",)
    what = "" if found.product is None else f", of a {found.product.name}, stepping {found.stepping}"
    return File(
        path,
        Description(
            "snp-report",
            f"attestation report of an SEV-SNP guest, version {found.version}{what}",
            registers={LAUNCH: found.measurement},
            facts=facts,
            notes=notes,
        ),
        report=data,
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


def _mitigations(found: report.Report) -> dict[str, str]:
    vectors = {"launch mitigations": found.launch_mitigations, "current mitigations": found.current_mitigations}
    return {name: f"0x{value:x}" for name, value in vectors.items() if value is not None}


def _key(found: report.Report) -> str:
    """The key that signed the report, and what KEY_INFO says besides."""
    words = [report.SIGNING_KEYS[found.signing_key]]
    if found.mask_chip_key:
        words.append("masked, so that nothing is signed")
    if found.author_key:
        words.append("the guest's owner has an author key")
    return ", ".join(words)


def _words(words: tuple[str, ...]) -> str:
    return f" ({', '.join(words)})" if words else ""
