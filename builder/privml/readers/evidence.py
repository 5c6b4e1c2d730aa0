"""Identify logs, quotes and reports, and extract the parts that can be compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from privml.base.errors import EvidenceError, MeasurementError
from privml.base.times import time_text
from privml.events import tcg
from privml.events.registers import MRTD, REGISTERS, RTMR2, RTMR3, RTMRS, ZERO
from privml.evidence import gceformat
from privml.evidence.cca import token as cca
from privml.evidence.snp import report
from privml.evidence.tdx import quote, tdreport
from privml.measure.description import Description
from privml.measure.digest import Bytes
from privml.readers import aael, ccatoken, snpreport
from privml.readers import log as logs
from privml.readers.envelope import REPORT_DATA
from privml.readers.file import File
from privml.readers.log import NOTHING_IN_RTMR2, Log

UNCHECKED = "its signature was not checked: `inspect` does that"
_SPEC_ID = b"Spec ID Event03\0"
_QUOTE_VERSIONS = (4, 5)
_CCEL_TABLE = 56
# What Azure's paravisor leaves in the vTPM (NV index 0x01400001): a header of 32 bytes, then the hardware's report.
_HCL = b"HCLA"
_HCL_HEADER = 32
# What TDG.VP.VMCALL<GetQuote> shares with the host: version 1, status 0 (done), two lengths, then the quote.
_QUOTE_BUFFER = (1).to_bytes(8, "little") + bytes(8)
_QUOTE_BUFFER_HEADER = 24
_SGX_VERSION = 3


def identify(path: Path, view: Bytes) -> File | None:
    """Read a log, quote or report; None when ``view`` is none of them, ``EvidenceError`` when it is malformed."""
    head = view[:65536]
    if head[32:48] == _SPEC_ID:
        return log_file(path, logs.read(view[: tcg.MAX_LOG + 1]))
    if _is_quote(head):
        return quote_file(path, view[: quote.MAX_SIZE + 1])
    if head[:16] == _QUOTE_BUFFER and _is_quote(head[_QUOTE_BUFFER_HEADER:]):
        size = int.from_bytes(head[20:24], "little")
        return quote_file(path, view[_QUOTE_BUFFER_HEADER : _QUOTE_BUFFER_HEADER + min(size, quote.MAX_SIZE + 1)])
    if gceformat.is_endorsement(head, len(view)):
        return File(path, _endorsement(gceformat.parse(view[:])))
    if _is_sgx(head):
        raise MeasurementError(f"{path} is a quote of an SGX enclave: it has no registers of a TD")
    if len(view) == report.SIZE and _is_snp(head):
        return snpreport.report_file(path, view[:])
    if head[:4] == _HCL and len(head) >= _HCL_HEADER + report.SIZE and _is_snp(head[_HCL_HEADER:]):
        note = "from a paravisor's report (HCL): it measures the paravisor, and the guest's boot is in its vTPM"
        return snpreport.report_file(path, head[_HCL_HEADER : _HCL_HEADER + report.SIZE], note)
    if cca.is_token(head):
        return ccatoken.token_file(path, view[: cca.MAX_SIZE + 1])
    if len(view) == tdreport.SIZE and head[0] == 0x81:
        return _report_file(path, view[:])
    if head[:4] == _HCL and len(head) >= _HCL_HEADER + tdreport.SIZE and head[_HCL_HEADER] == 0x81:
        inner = _report_file(path, head[_HCL_HEADER : _HCL_HEADER + tdreport.SIZE])
        note = "from a paravisor's report (HCL): its RTMRs are the paravisor's, the guest's boot is in its vTPM"
        return replace(inner, description=replace(inner.description, notes=(*inner.description.notes, note)))
    if head[:4] == b"CCEL" and len(view) == _CCEL_TABLE:
        return File(path, _ccel_table(head))
    return None


def _is_sgx(head: bytes) -> bool:
    return head[12:28] == quote.INTEL_QE_VENDOR and int.from_bytes(head[:2], "little") == _SGX_VERSION


def _is_snp(head: bytes) -> bool:
    """True if a report of an SNP guest may begin with ``head``."""
    return int.from_bytes(head[:4], "little") in report.VERSIONS


def _is_quote(head: bytes) -> bool:
    version, tee = int.from_bytes(head[:2], "little"), int.from_bytes(head[4:8], "little")
    return version in _QUOTE_VERSIONS and tee in (0, quote.TEE_TDX) and head[12:28] == quote.INTEL_QE_VENDOR


def log_file(path: Path, log: Log) -> File:
    """A boot log and its description."""
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


def agent_log_file(path: Path, data: bytes) -> File:
    """The attestation agent's log: it covers only RTMR3, and only if it begins at zeros."""
    found = aael.parse(data)
    log = Log(found.entries, tpm=False, covers=(RTMR3,))
    value = found.value()
    notes = ["run-time events that an agent in the guest extended, not firmware's log: RTMR0 to RTMR2 are not in it"]
    if value is None:
        notes.append(
            f"its digests are {found.bank}: a TD's RTMR3 is extended with SHA-384, so this log is not of a TD"
        )
    elif not found.whole:
        notes.append("the log does not begin at zeros: earlier extends are not in it")
    description = Description(
        "aael",
        f"run-time event log of a Confidential Containers attestation agent, {len(found.entries)} events of RTMR3",
        registers={RTMR3: value} if value is not None else {},
        events=log.events() if value is not None else (),
        facts={"banks": found.bank, "initial value": found.initial.hex()},
        notes=tuple(notes),
    )
    return File(path, description, log=log if value is not None and found.whole else None)


def quote_file(path: Path, data: bytes) -> File:
    """A TDX quote; its signature is not checked."""
    try:
        parsed = quote.read(data)
        header, body = parsed.header, parsed.body
        notes = [UNCHECKED]
        if parsed.foreign:
            notes.append(
                f"{parsed.foreign} bytes follow the quote, which ends at byte {parsed.signed_length}: nothing signs "
                "them, and `verify` refuses a document with such a quote"
            )
    except EvidenceError as error:
        header, body = quote.read_unsigned(data)
        notes = [f"its signature is missing, so nothing proves these values: {error.message}"]
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
    notes += _of_values(registers)
    description = Description(
        "quote",
        f"TDX quote, version {header.version}, TD {'1.0' if body.mr_service_td is None else '1.5'} body",
        mrtd={"mrtd": body.mr_td},
        registers=registers,
        facts=facts,
        notes=tuple(notes),
    )
    return File(path, description, claimed={MRTD: body.mr_td, **registers}, quote=data)


def _report_file(path: Path, data: bytes) -> File:
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
        notes=("its MAC can only be checked on the machine that made it", *_of_values(registers)),
    )
    return File(path, description, claimed={MRTD: parsed.mr_td, **registers})


def _ccel_table(data: bytes) -> Description:
    length, address = (int.from_bytes(data[at : at + 8], "little") for at in (40, 48))
    facts = {"log's size": f"{length} bytes", "log's address": f"0x{address:x}"}
    return Description("ccel-table", "ACPI table CCEL: where the log lies, not the log", facts=facts)


def _endorsement(found: gceformat.Unverified) -> Description:
    """Google's launch endorsement; its signature is not checked."""
    facts = {
        "firmware": f"sha384:{found.firmware_sha384.hex()}",
        "security version on TDX": str(found.svn),
        "signed": time_text(found.signed_at),
        "changelist": str(found.changelist),
    }
    facts |= {f"mrtd {number}": str(value) for number, value in enumerate(found.values, 1)}
    return Description(
        "gce-endorsement",
        f"Google's launch endorsement of a firmware, with {len(found.values)} values of MRTD",
        facts=facts,
        notes=("its signature was not checked: `platform learn --gcp-endorsement` does that",),
    )


def agreement(log: Log, claimed: dict[str, bytes]) -> dict[str, str]:
    """For each register that the log covers, whether the quote has the same value."""
    return {
        register: "log and quote agree" if value == claimed[register] else "log and quote differ"
        for register, value in log.registers().items()
        if register != RTMR3 or any(event.register == RTMR3 for event in log.logged)
    }


def values_file(path: Path, registers: dict[str, bytes]) -> File:
    """Register values in a document, not signed."""
    rtmrs = {name: registers[name] for name in RTMRS}
    description = Description(
        "registers",
        "register values",
        facts={"report data": registers[REPORT_DATA].hex()} if REPORT_DATA in registers else {},
        mrtd={"mrtd": registers[MRTD]} if MRTD in registers else {},
        registers=rtmrs,
        notes=("these values are not signed: the document only claims them", *_of_values(rtmrs)),
    )
    return File(path, description, claimed={name: registers[name] for name in REGISTERS["tdx"] if name in registers})


def _of_values(registers: dict[str, bytes]) -> tuple[str, ...]:
    return (NOTHING_IN_RTMR2,) if registers[RTMR2] == ZERO else ()
