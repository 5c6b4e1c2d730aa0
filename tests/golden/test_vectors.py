"""Every shared vector of attestation and measurement, and what is proven with it. A file that no row claims fails.

Rows go by kind: another file of the same kind is held to the same. What a row cannot know of a new file (the value
of a register that only a quote beside it confirms) is in `EXPECTED`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from privml.base.errors import EvidenceError, MeasurementError
from privml.events.registers import MRTD, RTMR0, RTMRS
from privml.events.tcg import ALG_SHA256, ALG_SHA384, LogEntry, encode_log, parse_log
from privml.events.wording import describe, proven
from privml.evidence.tdx import chain as chains
from privml.evidence.tdx import quote, signature
from privml.evidence.tdx.claims import QuoteFacts
from privml.measure import acpi, smbios
from privml.measure.digest import sha384
from privml.readers import files

SHARED = Path(__file__).resolve().parents[3] / "shared/vectors"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared vectors are not beside this checkout")
TINFOIL = "attestation/tinfoilsh_verifier/collateral"
Row = Callable[[Path, Path], None]


def name_of(path: Path) -> str:
    return path.relative_to(SHARED).as_posix()


# --- logs -----------------------------------------------------------------------------------------------------------

# A log is confirmed by the quote of the same boot.
CONFIRMED = {
    "measurement/gcp-cos113/ccel_data.dat": "measurement/gcp-cos113/cos-113-tdx-quote.dat",
    "measurement/gcp-cos113/goel-cos-113-intel-tdx.bin": "measurement/gcp-cos113/cos-113-tdx-quote.dat",
    "attestation/google_go-tdx-guest/ccel/ccel_data.dat": "measurement/gcp-cos113/cos-113-tdx-quote.dat",
    "attestation/google_go-eventlog/cos-113-intel-tdx.bin": "measurement/gcp-cos113/cos-113-tdx-quote.dat",
}


def log(path: Path, tmp_path: Path) -> None:
    """It replays; every digest that must be of its data is, and whatever pads it or says how it was hashed."""
    data = path.read_bytes()
    found = files.read(path)
    assert found.description.kind == "ccel" and found.log is not None
    entries = parse_log(data)
    assert len(found.log.entries) == len(entries)
    assert all(describe(entry).isprintable() for entry in entries)
    if "ovmf" not in path.name:  # that log's makers blotted out its firmware's name
        assert [entry for entry in entries if proven(entry) is False] == []
    expected = json.loads((SHARED / "measurement/replay_expected.json").read_text())
    for key, values in expected.items():
        if name_of(path) == f"measurement/{key}":
            assert {register: values[register] for register in ("rtmr0", "rtmr1", "rtmr2")} == {
                register: found.description.registers[register].hex() for register in RTMRS[:3]
            }
            assert values["events"] == len(entries) + 1  # the Spec ID event is one
    if name_of(path) in CONFIRMED:
        body = quote.parse((SHARED / CONFIRMED[name_of(path)]).read_bytes()).body
        assert tuple(found.description.registers[register] for register in RTMRS) == body.rtmrs
    both = [
        LogEntry(one.index, one.type, {ALG_SHA256: hashlib.sha256(one.data).digest(), **one.digests}, one.data)
        for one in entries
    ]
    plain = encode_log(entries)
    for number, variant in enumerate(
        (
            plain,
            plain + b"\xff" * 7,
            plain.ljust(65536, b"\0"),
            plain.ljust(262144, b"\xff"),
            encode_log(both, {ALG_SHA256: 32, ALG_SHA384: 48}, pad_to=65536),
            base64.b64encode(plain),
        )
    ):
        other = tmp_path / f"variant{number}"
        other.write_bytes(variant)
        again = files.read(other).description
        assert (again.kind, again.registers) == ("ccel", found.description.registers), number


def decoded_log(path: Path, tmp_path: Path) -> None:
    """Another reader's output of the log beside it: the same registers, types, digests and opinions of the data."""
    theirs = json.loads(path.read_text())["uefi_event_logs"]
    entries = parse_log(path.with_name(path.name.removesuffix("_out.json")).read_bytes())
    if theirs[0]["type_name"] == "EV_NO_ACTION":
        theirs = theirs[1:]
    assert len(theirs) == len(entries)
    for row, entry in zip(theirs, entries, strict=True):
        assert (row["index"], row["digests"][0]["digest"]) == (entry.index, entry.sha384.hex())
        assert base64.b64decode(row["event"]) == entry.data
        if row["digest_matches_event"]:
            assert proven(entry) is True


def ccel_table(path: Path, tmp_path: Path) -> None:
    assert files.read(path).description.kind == "ccel-table"


def dstack_report(path: Path, tmp_path: Path) -> None:
    """A quote and its log in one file: the log accounts for all four registers."""
    found = files.read(path)
    assert found.claimed is not None and found.log is not None
    assert {register: found.claimed[register] for register in RTMRS} == found.description.registers
    data = bytes.fromhex(json.loads(path.read_text())["quote"])
    checked = signature.check(data, collateral("90c06f000000"), now=FEBRUARY_2026)
    assert isinstance(checked, QuoteFacts), checked
    assert checked.tcb_status == "UpToDate"


# --- quotes ---------------------------------------------------------------------------------------------------------


def collateral(fmspc: str) -> dict[str, str]:
    """The nine fields, out of Intel's answers as another project keeps them."""
    folder = SHARED / TINFOIL

    def chain(name: str) -> str:
        return unquote((folder / f"{name}_chain.txt").read_text())

    def part(name: str, inner: str) -> tuple[str, str]:
        text = (folder / f"{name}.json").read_text()
        signed = text[text.index(f'"{inner}":') + len(inner) + 3 : text.rindex(',"signature"')]
        return signed, json.loads(text)["signature"]

    tcb, tcb_signature = part(f"tcb_info_{fmspc}", "tcbInfo")
    identity, identity_signature = part("qe_identity", "enclaveIdentity")
    return {
        "pck_crl_issuer_chain": chain("pck_crl_platform"),
        "root_ca_crl": (folder / "root_ca.crl").read_bytes().hex(),
        "pck_crl": (folder / "pck_crl_platform.crl").read_bytes().hex(),
        "tcb_info_issuer_chain": chain(f"tcb_info_{fmspc}"),
        "tcb_info": tcb,
        "tcb_info_signature": tcb_signature,
        "qe_identity_issuer_chain": chain("qe_identity"),
        "qe_identity": identity,
        "qe_identity_signature": identity_signature,
    }


FEBRUARY_2026 = 1_770_000_000
PHALA = "attestation/Phala-Network_dcap-qvl"
# (collateral, time): what the signature library and Intel's root say of it.
EXPECTED: dict[str, tuple[Callable[[], dict[str, str]], int, str]] = {
    f"{PHALA}/tdx_quote.bin": (
        lambda: json.loads((SHARED / PHALA / "tdx_quote_collateral.json").read_text()),
        1_750_420_000,
        "UpToDate",
    ),
    f"{PHALA}/dstack_tdx_quote.hex": (
        lambda: json.loads((SHARED / PHALA / "tdx_quote_collateral.json").read_text()),
        1_750_420_000,
        "No matching TCB level",
    ),
    "attestation/confidential-containers_trustee/tdx_quote_5.dat": (
        lambda: collateral("90c06f000000"),
        FEBRUARY_2026,
        "No matching TCB level",
    ),
    "attestation/confidential-containers_trustee/tdx_quote_6.dat": (
        lambda: collateral("00a06d080000"),
        FEBRUARY_2026,
        "OutOfDate",
    ),
}


def intel_chain(place: chains.Place, pem: bytes) -> None:
    """Whatever the TCB level: the chain has exactly the shape and names of its role."""
    chains.read(place, pem, root=signature.INTEL_ROOT_DER, naming=chains.INTEL)


def issuer_chain(path: Path, tmp_path: Path) -> None:
    """A header of Intel's service, as it was sent."""
    place = chains.PCK_CRL if "pck_crl" in path.name else chains.QE_IDENTITY
    intel_chain(place, unquote(path.read_text()).encode())
    unknown(path, tmp_path)


def tdx_quote(path: Path, tmp_path: Path) -> None:
    """Its registers are read; spelled otherwise and padded it is the same quote; its signature says what it must."""
    found = files.read(path)
    assert found.description.kind == "quote" and found.claimed is not None
    text = path.read_bytes()
    data = bytes.fromhex(text.decode().strip().removeprefix("0x")) if path.suffix == ".hex" else text
    parsed = quote.read(data)
    intel_chain(chains.QUOTE, parsed.signature.certificates)
    for number, variant in enumerate(
        (
            data.hex().encode(),
            base64.b64encode(data),
            data[: parsed.signed_length],
            data[: parsed.signed_length].ljust(16384, b"\0"),
            json.dumps({"quote": base64.b64encode(data).decode()}).encode(),
        )
    ):
        other = tmp_path / f"variant{number}"
        other.write_bytes(variant)
        assert files.read(other).claimed == found.claimed, number
    fields = json.loads((SHARED / "measurement/quote_fields.json").read_text())
    for key, values in fields.items():
        if name_of(path) == f"measurement/{key}":
            body = parsed.body
            assert [values[f"rtmr{number}"] for number in range(4)] == [value.hex() for value in body.rtmrs]
            assert (values["mrtd"], values["mrseam"], values["tdattr"], values["xfam"], values["reportdata"]) == (
                body.mr_td.hex(),
                body.mr_seam.hex(),
                body.td_attributes.hex(),
                body.xfam.hex(),
                body.report_data.hex(),
            )
    if name_of(path) in EXPECTED:
        given, now, status = EXPECTED[name_of(path)]
        checked = signature.check(data, given(), now=now)
        if isinstance(checked, QuoteFacts):
            assert checked.tcb_status == status
        else:
            assert status in checked.reason


def quote_with_text_behind_it(path: Path, tmp_path: Path) -> None:
    """Read and told, and no evidence (ADR 0036)."""
    found = files.read(path)
    assert found.description.kind == "quote" and any("39 bytes follow" in note for note in found.description.notes)
    with pytest.raises(EvidenceError, match="other than zero padding"):
        quote.parse(path.read_bytes())
    parsed = quote.read(path.read_bytes())
    intel_chain(chains.QUOTE, parsed.signature.certificates)
    assert parsed.body.td_attributes.hex() == "0000004000000000"  # PKS without SEPT_VE_DISABLE


def sgx_quote(path: Path, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="a quote of an SGX enclave"):
        files.read(path)


def report(path: Path, tmp_path: Path) -> None:
    found = files.read(path)
    assert found.description.kind == "tdreport" and found.claimed is not None
    data = path.read_bytes()
    assert found.claimed[MRTD] == data[528:576] and found.claimed[RTMR0] == data[720:768]


# --- blobs ----------------------------------------------------------------------------------------------------------


def acpi_tables(path: Path, tmp_path: Path) -> None:
    """The loader script and RSDP follow from it; RTMR0 of its fixture: test_measure_fixtures."""
    found = files.read(path).description
    data = path.read_bytes()
    assert [event.digest for event in found.events] == [
        sha384(acpi.derived(data)[name]) for name in (acpi.TABLE_LOADER, acpi.RSDP, acpi.TABLES)
    ]
    for name in (acpi.TABLE_LOADER, acpi.RSDP):
        other = tmp_path / "blob"
        other.write_bytes(acpi.derived(data)[name])
        assert files.read(other).description.events[0].digest == sha384(acpi.derived(data)[name])


def smbios_table(path: Path, tmp_path: Path) -> None:
    """Written in hexadecimal; the one that firmware published has the digest that its makers logged."""
    found = files.read(path).description
    assert found.kind == "smbios"
    raw = tmp_path / "raw"
    raw.write_bytes(bytes.fromhex(path.read_text()))
    assert files.read(raw).description.events == found.events
    wanted = json.loads(path.with_name("expected.json").read_text())["expected_event_digest_sha384"]
    if "published" in path.name:
        assert sha384(smbios.filtered(raw.read_bytes())).hex() == wanted


def unknown(path: Path, tmp_path: Path) -> None:
    """Nothing that `measure FILE` knows: refused by name, without a traceback and without a guess."""
    with pytest.raises((MeasurementError, EvidenceError)):
        files.read(path)


def elsewhere(path: Path, tmp_path: Path) -> None:
    """Expected values, read by the rows above and by test_measure_fixtures, test_measure_profiles, test_measure_*."""
    assert isinstance(json.loads(path.read_text()), dict | list)


ROWS: tuple[tuple[str, Row], ...] = (
    ("*/nonce.dat", unknown),
    ("*/ccel_table.dat", ccel_table),
    ("*.table.bin", ccel_table),
    ("*/google_go-eventlog/CCEL.bin", ccel_table),
    ("*_out.json", decoded_log),
    ("*/quote-report.json", dstack_report),
    ("*/tdx_prod_quote_SPR_E4.dat", quote_with_text_behind_it),
    ("*/sgx_quote.bin", sgx_quote),
    ("*quote*.dat", tdx_quote),
    ("*quote*.bin", tdx_quote),
    ("*quote*.hex", tdx_quote),
    ("*/tdx_report*.bin", report),
    ("*CCEL_data*", log),
    ("*ccel*.dat", log),
    ("*ccel*.bin", log),
    ("*cos-113-intel-tdx.bin", log),
    ("*/event_log.bin", log),
    ("*acpi_tables.bin", acpi_tables),
    ("measurement/smbios/*.hex", smbios_table),
    ("measurement/*.json", elsewhere),
    # Collateral is used by the quotes; no verb reads it alone. Random filler instead of a report, a nonce, a text.
    (f"{TINFOIL}/*_chain.txt", issuer_chain),
    ("attestation/tinfoilsh_verifier/*", unknown),
    ("attestation/confidential-containers_trustee/*.json", unknown),
    (f"{PHALA}/*", unknown),
    ("attestation/google_go-tdx-guest/*", unknown),
    ("measurement/*.md", unknown),
    # GPUs are not attested yet (ADR 0023), and report data v1 has no HPKE keys.
    ("attestation/*nvidia/*", unknown),
    ("attestation/NVIDIA_*", unknown),
    ("attestation/Dstack-TEE_dstack/gpu_*", unknown),
    ("attestation/tinfoilsh_encrypted-http-body-protocol/*", unknown),
)
FOLDERS = ("attestation", "measurement")
FILES = sorted(path for folder in FOLDERS for path in (SHARED / folder).rglob("*") if path.is_file())


def row_of(path: Path) -> Row:
    for pattern, row in ROWS:
        if fnmatch(name_of(path), pattern):
            return row
    raise AssertionError(f"no row says what {path} proves")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_what_a_vector_proves(path: Path, tmp_path: Path) -> None:
    row_of(path)(path, tmp_path)


def test_every_row_has_a_file_and_the_index_names_no_other() -> None:
    used = {row_of(path) for path in FILES}
    assert used == {row for _, row in ROWS}
    index: list[dict[str, Any]] = json.loads((SHARED / "INDEX.json").read_text())
    for item in index:
        path = SHARED / item["file"]
        if item["file"].partition("/")[0] not in FOLDERS:
            continue
        assert hashlib.sha256(path.read_bytes()).hexdigest() == item["sha256"], item["file"]
