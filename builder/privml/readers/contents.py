"""Identify everything except plain artefacts: evidence, JSON, captures, and wrapped files of any kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from privml.base import strictjson
from privml.base.errors import EvidenceError, MeasurementError, printable
from privml.events import tcg
from privml.events.registers import MRTD, RTMR3
from privml.evidence import capture as captures
from privml.evidence import dstack
from privml.evidence.capture import Capture
from privml.measure import artefact, smbios
from privml.measure.description import Description
from privml.measure.digest import Bytes, sha384
from privml.readers import aael, envelope, evidence
from privml.readers import log as logs
from privml.readers.file import File
from privml.readers.log import Log
from privml.statement import intoto, predicate

_MAX_WRAPPINGS = 3
_HINT = (
    "known: TDX firmware, PE image, kernel, UKI, GPT disk, CCEL or TPM log, TDX quote, TDREPORT, ACPI and SMBIOS "
    "blobs of fw_cfg, prediction.json, JSON with a quote or a log; any of them compressed or as text"
)


def identify(path: Path, view: Bytes, depth: int = 0) -> File:
    """Read ``view``, the content of ``path``; ``MeasurementError`` when it is unknown or malformed."""
    found = evidence.identify(path, view)
    if found is None and captures.is_capture(view[:1024]):
        found = _capture(path, captures.decode(view[: captures.MAX_SIZE + 1]))
    head = view[:65536]
    # The magic of a compressed file is surer than what some artefacts are recognised by.
    if found is None and not _is_compressed(head) and (description := artefact.identify(view)) is not None:
        found = File(path, description)
    if found is not None:
        return found
    if aael.is_agent_log(head):
        return evidence.agent_log_file(path, view[: tcg.MAX_LOG + 1])
    if head.lstrip()[:1] in (b"{", b"[") or head[:4] == b"\xef\xbb\xbf{":
        return _json(path, view[: strictjson.MAX_BYTES + 1])
    if tcg.is_sha1_log(head):
        return evidence.log_file(path, logs.read(view[: tcg.MAX_LOG + 1]))
    if depth < _MAX_WRAPPINGS and (unwrapped := _unwrapped(path, view)) is not None:
        name, data = unwrapped
        inner = identify(path, data, depth + 1)
        title = f"{inner.description.title}, out of {name}"
        return replace(inner, description=replace(inner.description, title=title))
    raise MeasurementError(f"{path}: not recognised", hint=_HINT)


def _is_compressed(head: bytes) -> bool:
    return head[:2] == b"\x1f\x8b" or head[:6] == b"\xfd7zXZ\0" or head[:3] == b"BZh"


def _unwrapped(path: Path, view: Bytes) -> tuple[str, bytes] | None:
    """The wrapping of a file and its content; ``MeasurementError`` for a container."""
    # Decompressors cost a start more than everything else of a firmware's measurement: only wrapped files load them.
    from privml.readers import wrapped

    head = view[:65536]
    found = wrapped.container(head) or wrapped.text_form(head)
    if found is not None:
        raise MeasurementError(
            f"{path} cannot be read directly: {found.name}", hint=found.command.replace("{}", str(path))
        )
    compression = wrapped.compression(head)
    if compression is not None:
        data = wrapped.unpack(view[:], compression) if len(view) <= wrapped.MAX_UNPACKED else None
        if data is None:
            raise MeasurementError(
                f"{path}: {compression.name} file that is damaged, or larger than "
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


def _capture(path: Path, capture: Capture) -> File:
    """A capture of a TD: its log, its quote's values, and which captured blobs the log has an event for."""
    log = logs.read(capture.files[captures.LOG]) if captures.LOG in capture.files else None
    facts = {"parts": ", ".join(sorted(capture.files))}
    notes = [f"{name} is not in it: {why}" for name, why in sorted(capture.missing.items())]
    claimed = quote = None
    if captures.QUOTE in capture.files:
        found = evidence.quote_file(path, capture.files[captures.QUOTE])
        claimed, quote = found.claimed, found.quote
        bound = found.description.facts["report data"] == capture.report_data().hex()
        facts["quote"] = "made for these parts" if bound else "made for something other than these parts"
        if log is not None and claimed is not None:
            facts |= evidence.agreement(log, claimed)
    logged_digests = {event.digest for event in log.logged} if log is not None else set()
    for name, data in sorted(capture.blobs.items()):
        if sha384(data) in logged_digests:
            facts[f"fw_cfg {name}"] = "the log has an event for it"
    if captures.SMBIOS in capture.files:
        measured = sha384(smbios.filtered(capture.files[captures.SMBIOS])) in logged_digests
        facts[captures.SMBIOS] = (
            "the log has an event for it, filtered" if measured else "the log has no event for it"
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
    return File(path, description, log=log, claimed=claimed, quote=quote, capture=capture)


def _json(path: Path, data: bytes) -> File:
    """A JSON document: a prediction, or the evidence in it."""
    if len(data) > strictjson.MAX_BYTES:
        raise MeasurementError(f"{path}: JSON of more than {strictjson.MAX_BYTES >> 20} MiB")
    try:
        value = envelope.loads(data, str(path))
    except EvidenceError as error:
        raise MeasurementError(error.message) from error
    if _is_prediction(value):
        return _prediction(path, data)
    found = envelope.look(value)
    read, broken = _parts(path, found)
    log = next(((place, file) for place, file in read if file.log is not None), None)
    if found.agent_logs:
        log = _with_agent_log(path, log, *found.agent_logs[0])
    signed = [(place, file) for place, file in read if file.claimed is not None or file.report is not None]
    claims = next(((place, file) for place, file in signed if file.log is None), None)
    if log is None and claims is None:
        raise MeasurementError(
            f"{path} is {printable(envelope.describe(value))}: it contains no quote or log", hint=_HINT
        )
    file = _together(path, log, claims, len(read))
    return replace(file, description=replace(file.description, notes=(*file.description.notes, *broken)))


def _parts(path: Path, found: envelope.Contents) -> tuple[list[tuple[str, File]], list[str]]:
    """Every part that can be read, and for the others the reason why not; ``EvidenceError`` when none can."""
    makers: list[tuple[str, Callable[[], File | None]]] = [
        *((place, partial(evidence.identify, path, one)) for place, one in found.binary),
        *((place, partial(_dstack_log, path, rows)) for place, rows in found.logs),
        *((place, partial(evidence.values_file, path, registers)) for place, registers in found.registers),
    ]
    read, broken = [], []
    for place, make in makers:
        try:
            file = make()
        except EvidenceError as error:
            broken.append(f"{printable(place) or 'the document'} cannot be read: {error.message}")
            continue
        if file is not None:
            read.append((place, file))
    if broken and not read:
        raise EvidenceError(f"{path}: {broken[0]}")
    return read, broken


def _dstack_log(path: Path, rows: list[Any]) -> File:
    return evidence.log_file(path, Log(tuple(dstack.parse_log(rows)), tpm=False))


def _with_agent_log(path: Path, log: tuple[str, File] | None, place: str, data: bytes) -> tuple[str, File]:
    """Firmware's log, with the agent's log for RTMR3 when firmware's has no event of it."""
    agent = evidence.agent_log_file(path, data)
    if log is None or log[1].log is None or agent.log is None:
        return log or (place, agent)
    if any(event.register == RTMR3 for event in log[1].log.logged):
        return log
    return f"{log[0]}, {place}", evidence.log_file(
        path, replace(log[1].log, entries=(*log[1].log.entries, *agent.log.entries))
    )


def _together(path: Path, log: tuple[str, File] | None, claims: tuple[str, File] | None, count: int) -> File:
    """Combine the log and the quote (or report) of a JSON document into one file."""
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
        facts |= evidence.agreement(log[1].log, claims[1].claimed)
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
        quote=claims[1].quote if claims is not None else None,
        report=claims[1].report if claims is not None else None,
    )


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
    values = {} if first is None else {name: first.accepted(name) for name in first.registers}
    description = Description(
        "prediction",
        f"prediction of {found.name} ({found.variant})",
        mrtd=dict(zip(("single_pass", "two_pass"), values.pop(MRTD, ()), strict=False)),
        registers={name: accepted[0] for name, accepted in values.items() if accepted},
        events=first.events if first else (),
        facts={"shapes": shapes},
    )
    return File(path, description, shapes=found.launches)
