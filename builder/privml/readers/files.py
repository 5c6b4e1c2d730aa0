"""Identify an arbitrary file by its content and describe it."""

from __future__ import annotations

import base64
import binascii
import mmap
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from privml.base import strictjson
from privml.base.errors import EvidenceError, MeasurementError, UsageError
from privml.events import tcg
from privml.events.event import Event
from privml.events.logged import LoggedEvent, is_tpm_log, logged
from privml.events.registers import MRTD, RTMR3, RTMRS
from privml.events.replay import replay_digests
from privml.events.tcg import LogEntry
from privml.events.wording import as_event
from privml.evidence import capture as captures
from privml.evidence import dstack
from privml.evidence.capture import Capture
from privml.evidence.tdx import quote, tdreport
from privml.measure import artefact, smbios
from privml.measure.artefact import Description
from privml.measure.digest import sha384
from privml.statement import intoto, predicate
from privml.statement.launch import MeasuredLaunch

_SPEC_ID = b"Spec ID Event03\0"
_TEXT_LIMIT = 4 << 20
_HEX = re.compile(rb"\A(?:0x)?[0-9A-Fa-f\s]+\Z")
_BASE64 = re.compile(rb"\A[A-Za-z0-9+/_\s-]+={0,2}\s*\Z")
_QUOTE_VERSIONS = (3, 4, 5)
_CCEL_TABLE = 56
# What Azure's paravisor leaves in the vTPM (NV index 0x01400001): a header of 32 bytes, then the hardware's report.
_HCL = b"HCLA"
_HCL_HEADER = 32


@dataclass(frozen=True)
class Log:
    """A firmware's event log: its entries, and whether they are numbered as PCRs."""

    entries: tuple[LogEntry, ...]
    tpm: bool

    @cached_property
    def logged(self) -> tuple[LoggedEvent, ...]:
        """The extends, in the log's order."""
        return logged(self.entries, tpm=self.tpm)

    def events(self) -> tuple[Event, ...]:
        """The extends as events, in the log's order: where each stands, and what it says it is."""
        return tuple(as_event(one) for one in self.logged)

    def registers(self) -> dict[str, bytes]:
        """RTMR0..3 as the log replays."""
        return {
            register: replay_digests(event.digest for event in self.logged if event.register == register)
            for register in RTMRS
        }


@dataclass(frozen=True)
class File:
    """A file that was read: what it is, and what of it can be compared.

    A log has ``log``, a prediction ``shapes``, a quote or report ``claimed`` registers. A dstack report and a capture
    have a log and a quote.
    """

    path: Path
    description: Description
    log: Log | None = None
    shapes: tuple[MeasuredLaunch, ...] = ()
    claimed: dict[str, bytes] | None = None
    capture: Capture | None = None

    def items(self) -> tuple[Event, ...] | tuple[LoggedEvent, ...]:
        """The events to compare the file by: a log's extends with their data, else those that were described."""
        return self.log.logged if self.log is not None else self.description.events


def read(path: Path) -> File:
    """Read and identify ``path``; ``MeasurementError`` when its content is unknown or malformed."""
    if not path.is_file():
        raise UsageError(f"`{path}` is not a file")
    if not path.stat().st_size:
        raise MeasurementError(f"{path} is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return _identify(path, view)


def _identify(path: Path, view: mmap.mmap) -> File:
    head = view[:65536]
    if captures.is_capture(head):
        return _capture(path, captures.decode(view[: captures.MAX_SIZE + 1]))
    if head[32:48] == _SPEC_ID:
        return _log(path, view[: tcg.MAX_LOG + 1])
    if _is_quote(head):
        return _quote(path, view[: quote.MAX_SIZE + 1])
    if len(view) == tdreport.SIZE and head[0] == 0x81:
        return _report(path, view[:])
    if head[:4] == _HCL and len(head) >= _HCL_HEADER + tdreport.SIZE and head[_HCL_HEADER] == 0x81:
        inner = _report(path, head[_HCL_HEADER : _HCL_HEADER + tdreport.SIZE])
        note = "from a paravisor's report (HCL): its RTMRs are the paravisor's, the guest's boot is in its vTPM"
        return replace(inner, description=replace(inner.description, notes=(*inner.description.notes, note)))
    if head[:4] == b"CCEL" and len(view) == _CCEL_TABLE:
        return File(path, _ccel_table(head))
    if head.lstrip()[:1] == b"{":
        return _json(path, view[: strictjson.MAX_BYTES + 1])
    decoded = _decoded(view[: _TEXT_LIMIT + 1])
    if decoded is not None:
        if decoded[32:48] == _SPEC_ID:
            return _log(path, decoded)
        if _is_quote(decoded):
            return _quote(path, decoded)
        if len(decoded) == tdreport.SIZE and decoded[0] == 0x81:
            return _report(path, decoded)
    found = artefact.identify(view) or (artefact.identify(decoded) if decoded else None)
    if found is None:
        raise MeasurementError(
            f"{path}: not recognised",
            hint="known: TDX firmware, PE image, kernel, UKI, GPT disk, CCEL or TPM log, TDX quote, TDREPORT, "
            "ACPI and SMBIOS blobs of fw_cfg, prediction.json",
        )
    return File(path, found)


def _is_quote(head: bytes) -> bool:
    version, tee = int.from_bytes(head[:2], "little"), int.from_bytes(head[4:8], "little")
    return version in _QUOTE_VERSIONS and tee in (0, quote.TEE_TDX) and head[12:28] == quote.INTEL_QE_VENDOR


def _decoded(data: bytes) -> bytes | None:
    """The bytes that hexadecimal or base64 text stands for; None when ``data`` is neither."""
    if len(data) > _TEXT_LIMIT:
        return None
    if _HEX.match(data):
        digits = b"".join(data.removeprefix(b"0x").split())
        return None if len(digits) % 2 else binascii.unhexlify(digits)
    if _BASE64.match(data):
        text = b"".join(data.split()).replace(b"-", b"+").replace(b"_", b"/")
        try:
            return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
        except binascii.Error:
            return None
    return None


def read_log(data: bytes) -> Log:
    """Parse a CCEL or TPM log; which of the two it is follows from its indices."""
    entries = tuple(tcg.parse_log(data))
    return Log(entries, is_tpm_log(entries))


def _log(path: Path, data: bytes) -> File:
    return _log_of(path, read_log(data))


def _log_of(path: Path, log: Log) -> File:
    kind, what = ("tpm-log", "TPM event log, mapped to a TD's registers") if log.tpm else ("ccel", "CC event log")
    notes = ["a log is only what it says: `explain LOG --against QUOTE` checks it"]
    if log.tpm:
        notes.append("PCR 0 stands for MRTD, which a TD's firmware does not extend")
    return File(
        path,
        Description(
            kind,
            f"{what}, {len(log.entries)} records",
            registers=log.registers(),
            events=log.events(),
            notes=tuple(notes),
        ),
        log=log,
    )


def _quote(path: Path, data: bytes) -> File:
    parsed = quote.read(data)
    body = parsed.body
    registers = dict(zip(RTMRS, body.rtmrs, strict=True))
    facts = {
        "mrconfigid": body.mr_config_id.hex(),
        "mrowner": body.mr_owner.hex(),
        "mrownerconfig": body.mr_owner_config.hex(),
        "report data": body.report_data.hex(),
        "td attributes": body.td_attributes.hex(),
        "xfam": body.xfam.hex(),
        "mrseam": body.mr_seam.hex(),
        "tee tcb svn": body.tee_tcb_svn.hex(),
    }
    if body.mr_service_td is not None:
        facts["mrservicetd"] = body.mr_service_td.hex()
    notes = ["its signature was not checked: `verify` does that"]
    if parsed.foreign:
        notes.append(
            f"{parsed.foreign} bytes follow the quote, which ends at byte {parsed.signed_length}: nothing signs "
            "them, and `verify` refuses a document with such a quote"
        )
    description = Description(
        "quote",
        f"TDX quote, version {parsed.header.version}, TD {'1.0' if body.mr_service_td is None else '1.5'} body",
        mrtd={"mrtd": body.mr_td},
        registers=registers,
        facts=facts,
        notes=tuple(notes),
    )
    return File(path, description, claimed={MRTD: body.mr_td, **registers})


def _report(path: Path, data: bytes) -> File:
    parsed = tdreport.parse(data)
    registers = dict(zip(RTMRS, parsed.rtmrs, strict=True))
    facts = {
        "mrconfigid": parsed.mr_config_id.hex(),
        "report data": parsed.report_data.hex(),
        "td attributes": parsed.td_attributes.hex(),
        "xfam": parsed.xfam.hex(),
    }
    description = Description(
        "tdreport",
        "TDREPORT",
        mrtd={"mrtd": parsed.mr_td},
        registers=registers,
        facts=facts,
        notes=("its MAC can be checked on its own machine only",),
    )
    return File(path, description, claimed={MRTD: parsed.mr_td, **registers})


def _capture(path: Path, capture: Capture) -> File:
    """A capture of a TD: its log, with its quote's values, and which of the captured blobs the log has measured."""
    log = read_log(capture.files[captures.LOG]) if captures.LOG in capture.files else None
    facts = {"parts": ", ".join(sorted(capture.files))}
    notes = [f"{name} is not in it: {why}" for name, why in sorted(capture.missing.items())]
    claimed = None
    if captures.QUOTE in capture.files:
        found = _quote(path, capture.files[captures.QUOTE])
        claimed = found.claimed
        bound = found.description.facts["report data"] == capture.report_data().hex()
        facts["quote"] = "made for these parts" if bound else "made for something else than these parts"
        if log is not None and claimed is not None:
            for register, value in log.registers().items():
                if register != RTMR3:
                    agrees = value == claimed[register]
                    facts[register] = "log and quote agree" if agrees else "log and quote differ"
    logged_digests = {event.digest for event in log.logged} if log is not None else set()
    for name, data in sorted(capture.blobs.items()):
        if sha384(data) in logged_digests:
            facts[f"fw_cfg {name}"] = "an event of the log is of it"
    if captures.SMBIOS in capture.files:
        measured = sha384(smbios.filtered(capture.files[captures.SMBIOS])) in logged_digests
        facts[captures.SMBIOS] = (
            "an event of the log is of it, filtered" if measured else "no event of the log is of it"
        )
    description = Description(
        "capture",
        f"capture of a TD, {len(capture.files)} parts",
        mrtd={"mrtd": claimed[MRTD]} if claimed is not None else {},
        registers=log.registers() if log is not None else {},
        events=log.events() if log is not None else (),
        facts=facts,
        notes=tuple(notes),
    )
    return File(path, description, log=log, claimed=claimed, capture=capture)


def _ccel_table(data: bytes) -> Description:
    length, address = (int.from_bytes(data[at : at + 8], "little") for at in (40, 48))
    facts = {"log's size": f"{length} bytes", "log's address": f"0x{address:x}"}
    return Description("ccel-table", "ACPI table CCEL: where the log lies, not the log", facts=facts)


def _json(path: Path, data: bytes) -> File:
    value = strictjson.loads(data, what=str(path))
    if isinstance(value, dict) and isinstance(value.get("quote"), str) and "event_log" not in value:
        decoded = _decoded(value["quote"].encode("utf-8", "replace"))
        if decoded is not None and _is_quote(decoded):
            return _quote(path, decoded)
    if dstack.is_report(value):
        body, entries = dstack.parse(value)
        log = _log_of(path, Log(tuple(entries), tpm=False))
        return replace(log, claimed=_quote(path, body).claimed)
    try:
        found = intoto.decode(data).predicate
    except EvidenceError:
        try:
            found = predicate.decode(data)
        except EvidenceError as error:
            raise MeasurementError(f"{path}: not a prediction: {error.message}") from error
    shapes = ", ".join(shape.label for shape in found.launches)
    first = found.launches[0] if len(found.launches) == 1 else None
    description = Description(
        "prediction",
        f"prediction of {found.name} ({found.variant})",
        mrtd=dict(zip(("single_pass", "two_pass"), first.accepted(MRTD), strict=False)) if first else {},
        registers={name: first.accepted(name)[0] for name in RTMRS if first.accepted(name)} if first else {},
        events=first.events if first else (),
        facts={"shapes": shapes},
    )
    return File(path, description, shapes=found.launches)
