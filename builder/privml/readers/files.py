"""Identify an arbitrary file by its content and describe it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from privml.base import strictjson
from privml.base.errors import EvidenceError, MeasurementError, printable
from privml.events import tcg
from privml.events.event import Event
from privml.events.logged import LoggedEvent
from privml.events.registers import MRTD, RTMR2, RTMR3, RTMRS, ZERO
from privml.evidence import capture as captures
from privml.evidence import dstack
from privml.evidence.capture import Capture
from privml.evidence.tdx import quote, tdreport
from privml.measure import artefact, smbios
from privml.measure.artefact import Description
from privml.measure.digest import Bytes, sha384
from privml.readers import aael, envelope, source
from privml.readers import log as logs
from privml.readers.log import NOTHING_IN_RTMR2, Log
from privml.statement import intoto, predicate
from privml.statement.launch import MeasuredLaunch

_SPEC_ID = b"Spec ID Event03\0"
_QUOTE_VERSIONS = (3, 4, 5)
_CCEL_TABLE = 56
# What Azure's paravisor leaves in the vTPM (NV index 0x01400001): a header of 32 bytes, then the hardware's report.
_HCL = b"HCLA"
_HCL_HEADER = 32
_MAX_WRAPPINGS = 3
_HINT = (
    "known: TDX firmware, PE image, kernel, UKI, GPT disk, CCEL or TPM log, TDX quote, TDREPORT, ACPI and SMBIOS "
    "blobs of fw_cfg, prediction.json, JSON with a quote or a log; any of them compressed or as text"
)


@dataclass(frozen=True)
class File:
    """A file that was read: what it is, and what of it can be compared.

    A log has ``log``, a prediction ``shapes``, a quote or report ``claimed`` registers. A capture, and JSON
    that holds a log with its quote, have both.
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
    """Read and identify ``path`` (``-``: standard input); ``MeasurementError`` when its content is unknown or
    malformed."""
    with source.opened(path) as view:
        return _identify(path, view, 0)


def _identify(path: Path, view: Bytes, depth: int) -> File:
    found = _evidence(path, view)
    if found is None and (description := artefact.identify(view)) is not None:
        found = File(path, description)
    if found is not None:
        return found
    head = view[:65536]
    if aael.is_agent_log(head):
        return _agent_log(path, view[: tcg.MAX_LOG + 1])
    if head.lstrip()[:1] in (b"{", b"[") or head[:4] == b"\xef\xbb\xbf{":
        return _json(path, view[: strictjson.MAX_BYTES + 1])
    if tcg.is_sha1_log(head):
        return _log(path, view[: tcg.MAX_LOG + 1])
    if depth < _MAX_WRAPPINGS and (unwrapped := _unwrapped(path, view)) is not None:
        name, data = unwrapped
        inner = _identify(path, data, depth + 1)
        title = f"{inner.description.title}, out of {name}"
        return replace(inner, description=replace(inner.description, title=title))
    raise MeasurementError(f"{path}: not recognised", hint=_HINT)


def _evidence(path: Path, view: Bytes) -> File | None:
    """A capture, log, quote or report; None when it is none of them."""
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
    return None


def _unwrapped(path: Path, view: Bytes) -> tuple[str, bytes] | None:
    """What a wrapped file was wrapped in, and what it holds; ``MeasurementError`` for a container."""
    # Decompressors cost a start more than everything else of a firmware's measurement: only wrapped files load them.
    from privml.readers import wrapped

    head = view[:65536]
    found = wrapped.container(head)
    if found is not None:
        raise MeasurementError(
            f"{path} is a {found.name}, which is not read as it is", hint=found.command.replace("{}", str(path))
        )
    compression = wrapped.compression(head)
    if compression is not None:
        data = wrapped.unpack(view[:], compression) if len(view) <= wrapped.MAX_UNPACKED else None
        if data is None:
            raise MeasurementError(
                f"{path} is a {compression.name} file that is damaged, or larger than "
                f"{wrapped.MAX_UNPACKED >> 20} MiB unpacked",
                hint=f"`{compression.command} {path}` unpacks it",
            )
        return f"{compression.name}", data
    if len(view) > envelope.MAX_TEXT * 16:
        return None
    text = view[:]
    dumped = wrapped.dumped(text)
    if dumped is not None:
        return "a text dump", dumped
    armoured = wrapped.armoured(text)
    if armoured is not None:
        return armoured
    decoded = envelope.decode_text(text)
    return None if decoded is None else ("text", decoded)


def _is_quote(head: bytes) -> bool:
    version, tee = int.from_bytes(head[:2], "little"), int.from_bytes(head[4:8], "little")
    return version in _QUOTE_VERSIONS and tee in (0, quote.TEE_TDX) and head[12:28] == quote.INTEL_QE_VENDOR


def _log(path: Path, data: bytes) -> File:
    return _log_of(path, logs.read(data))


def _log_of(path: Path, log: Log) -> File:
    kind, what = ("tpm-log", "TPM event log") if log.tpm else ("ccel", "CC event log")
    if log.tpm and log.replays:
        what += ", mapped to a TD's registers"
    if log.banks == (tcg.ALG_SHA1,):
        what += " in the TPM 1.2 format"
    description = Description(
        kind,
        f"{what}, {len(log.entries)} records",
        registers=log.registers(),
        events=log.events(),
        facts={"banks": log.bank_names},
        notes=log.notes(),
        records=log.records(),
    )
    return File(path, description, log=log)


def _agent_log(path: Path, data: bytes) -> File:
    """The attestation agent's log: it accounts for RTMR3 alone, and for that only when it begins at zeros."""
    found = aael.parse(data)
    log = Log(found.entries, tpm=False, covers=(RTMR3,))
    value = found.value()
    notes = ["run-time events that an agent in the guest extended, not firmware's log: RTMR0 to RTMR2 are not in it"]
    if value is None:
        notes.append(
            f"its digests are {found.bank}: a TD's RTMR3 is extended with SHA-384, so this log is not of a TD"
        )
    elif not found.whole:
        notes.append("the log begins at another value than zeros: what was extended before it is not in the log")
    description = Description(
        "aael",
        f"run-time event log of a Confidential Containers attestation agent, {len(found.entries)} events of RTMR3",
        registers={RTMR3: value} if value is not None else {},
        events=log.events() if value is not None else (),
        facts={"banks": found.bank, "initial value": found.initial.hex()},
        notes=tuple(notes),
    )
    return File(path, description, log=log if value is not None and found.whole else None)


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
    notes = ["its signature was not checked: `verify` does that", *_of_values(registers)]
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
        notes=("its MAC can be checked on its own machine only", *_of_values(registers)),
    )
    return File(path, description, claimed={MRTD: parsed.mr_td, **registers})


def _capture(path: Path, capture: Capture) -> File:
    """A capture of a TD: its log, with its quote's values, and which of the captured blobs the log has measured."""
    log = logs.read(capture.files[captures.LOG]) if captures.LOG in capture.files else None
    facts = {"parts": ", ".join(sorted(capture.files))}
    notes = [f"{name} is not in it: {why}" for name, why in sorted(capture.missing.items())]
    claimed = None
    if captures.QUOTE in capture.files:
        found = _quote(path, capture.files[captures.QUOTE])
        claimed = found.claimed
        bound = found.description.facts["report data"] == capture.report_data().hex()
        facts["quote"] = "made for these parts" if bound else "made for something else than these parts"
        if log is not None and claimed is not None:
            facts |= _agreement(log, claimed)
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


def _agreement(log: Log, claimed: dict[str, bytes]) -> dict[str, str]:
    """For each register that the log accounts for, whether the quote has the same value."""
    return {
        register: "log and quote agree" if value == claimed[register] else "log and quote differ"
        for register, value in log.registers().items()
        if register != RTMR3 or any(event.register == RTMR3 for event in log.logged)
    }


def _ccel_table(data: bytes) -> Description:
    length, address = (int.from_bytes(data[at : at + 8], "little") for at in (40, 48))
    facts = {"log's size": f"{length} bytes", "log's address": f"0x{address:x}"}
    return Description("ccel-table", "ACPI table CCEL: where the log lies, not the log", facts=facts)


def _json(path: Path, data: bytes) -> File:
    """JSON: a prediction, or whatever evidence is in it."""
    if len(data) > strictjson.MAX_BYTES:
        raise MeasurementError(f"{path}: JSON of more than {strictjson.MAX_BYTES >> 20} MiB")
    try:
        value = envelope.loads(data, str(path))
    except EvidenceError as error:
        raise MeasurementError(error.message) from error
    if _is_prediction(value):
        return _prediction(path, data)
    found = envelope.look(value)
    read = [(place, file) for place, one in found.binary if (file := _evidence(path, one)) is not None]
    read += [(place, _log_of(path, Log(tuple(dstack.parse_log(rows)), tpm=False))) for place, rows in found.logs]
    read += [(place, _values(path, registers)) for place, registers in found.registers]
    log = next(((place, file) for place, file in read if file.log is not None), None)
    if found.agent_logs:
        log = _with_agent_log(path, log, *found.agent_logs[0])
    claims = next(((place, file) for place, file in read if file.claimed is not None and file.log is None), None)
    if log is None and claims is None:
        raise MeasurementError(
            f"{path} is {printable(envelope.describe(value))}: no quote or log is in it", hint=_HINT
        )
    return _together(path, log, claims, len(read))


def _with_agent_log(path: Path, log: tuple[str, File] | None, place: str, data: bytes) -> tuple[str, File]:
    """Firmware's log, with the agent's log for RTMR3 when firmware's has no event of it."""
    agent = _agent_log(path, data)
    if log is None or log[1].log is None or agent.log is None:
        return log or (place, agent)
    if any(event.register == RTMR3 for event in log[1].log.logged):
        return log
    return f"{log[0]}, {place}", _log_of(path, replace(log[1].log, entries=(*log[1].log.entries, *agent.log.entries)))


def _together(path: Path, log: tuple[str, File] | None, claims: tuple[str, File] | None, count: int) -> File:
    """One file of the log and the quote (or report) that a JSON document holds."""
    places = [place for place, _ in filter(None, (log, claims))]
    files = [file for _, file in filter(None, (log, claims))]
    notes = [note for file in files for note in file.description.notes]
    if count > len(files):
        notes.append(f"{count} quotes, logs and sets of registers are in it; those at {', '.join(places)} are shown")
    first, last = files[0].description, files[-1].description
    facts: dict[str, str] = {}
    for file in files:
        facts |= file.description.facts
    if log is not None and claims is not None and log[1].log is not None and claims[1].claimed is not None:
        facts |= _agreement(log[1].log, claims[1].claimed)
    facts["fields"] = printable(", ".join(places)) or "the whole document"
    title = first.title if len(files) == 1 else f"{first.title}, with {last.title}"
    description = replace(
        first, title=f"{title}, out of JSON", mrtd=last.mrtd, facts=facts, notes=tuple(dict.fromkeys(notes))
    )
    return File(
        path,
        description,
        log=log[1].log if log is not None else None,
        claimed=claims[1].claimed if claims is not None else None,
    )


def _values(path: Path, registers: dict[str, bytes]) -> File:
    """Registers that a document names: values that somebody wrote down, signed by nobody."""
    rtmrs = {name: registers[name] for name in RTMRS}
    description = Description(
        "registers",
        "register values",
        mrtd={"mrtd": registers[MRTD]} if MRTD in registers else {},
        registers=rtmrs,
        notes=("somebody wrote these values down: no signature is over them", *_of_values(rtmrs)),
    )
    return File(path, description, claimed=registers)


def _of_values(registers: dict[str, bytes]) -> tuple[str, ...]:
    return (NOTHING_IN_RTMR2,) if registers[RTMR2] == ZERO else ()


def _is_prediction(value: Any) -> bool:
    return isinstance(value, dict) and (
        "agent_events" in value or value.get("predicateType") == predicate.PREDICATE_TYPE
    )


def _prediction(path: Path, data: bytes) -> File:
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
