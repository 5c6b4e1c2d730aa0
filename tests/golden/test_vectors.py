"""Every third-party vector of `tests/vectors/ORIGIN.md` and its checks. A file without a row fails.

Rows are by kind, so every file of a kind must pass the same checks. Values specific to one file (such as a register
that only a quote of the same boot confirms) are in `EXPECTED` and `CONFIRMED`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import unquote

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from tests.published import VECTORS, origins, read
from tests.unit.witness_fake import continues

from privml.base import keyless
from privml.base.errors import EvidenceError, MeasurementError
from privml.base.strictjson import loads
from privml.events.registers import LAUNCH, MRTD, RTMR0, RTMRS
from privml.events.tcg import ALG_SHA256, ALG_SHA384, LogEntry, encode_log, parse_log
from privml.events.wording import describe, proven
from privml.evidence.cca import signature as cca_signature
from privml.evidence.cca import token as cca_tokens
from privml.evidence.certificates import UnfitError, decode_pem
from privml.evidence.document import DeviceEvidence
from privml.evidence.nvidia import chain as nvidia_chains
from privml.evidence.nvidia import report as nvidia_report
from privml.evidence.nvidia import rim
from privml.evidence.nvidia import signature as nvidia_signature
from privml.evidence.nvidia.claims import DeviceFacts
from privml.evidence.nvidia.collateral import NvidiaCollateral
from privml.evidence.nvidia.roles import NVIDIA, Verified
from privml.evidence.snp import chain as snp_chains
from privml.evidence.snp import leaf as snp_leaf
from privml.evidence.snp import report as snp_reports
from privml.evidence.snp.tcb import PRODUCTS as SNP_PRODUCTS
from privml.evidence.tdx import chain as chains
from privml.evidence.tdx import quote, signature
from privml.evidence.tdx.claims import QuoteFacts
from privml.image import triton
from privml.measure import acpi, smbios
from privml.measure import firmware as firmwares
from privml.measure.digest import sha384
from privml.measure.snp.hashes import KernelHashes
from privml.measure.snp.launch import Launcher
from privml.readers import files
from privml.recipe.compiled import TRITON
from privml.statement import attestation, metadata, tlog
from privml.statement.keys import PublicKey

PCS = "attestation/intel_pcs"
Row = Callable[[str, Path, Path], None]


# --- logs -----------------------------------------------------------------------------------------------------------

# A log is confirmed by the quote of the same boot.
CONFIRMED = {"measurement/gcp-cos113/ccel_data.dat": "measurement/gcp-cos113/cos-113-tdx-quote.dat"}


def log(name: str, path: Path, tmp_path: Path) -> None:
    """It replays, and every digest that must be over the event's data is, whatever the padding and the bank."""
    data = path.read_bytes()
    found = files.read(path)
    assert found.description.kind == "ccel" and found.log is not None
    entries = parse_log(data)
    assert len(found.log.entries) == len(entries)
    assert all(describe(entry).isprintable() for entry in entries)
    if "ovmf" not in name:  # that log's makers blotted out its firmware's name
        assert [entry for entry in entries if proven(entry) is False] == []
    expected = json.loads(read("measurement/replay_expected.json"))
    for key, values in expected.items():
        if name == f"measurement/{key}":
            assert {register: values[register] for register in ("rtmr0", "rtmr1", "rtmr2")} == {
                register: found.description.registers[register].hex() for register in RTMRS[:3]
            }
            assert values["events"] == len(entries) + 1  # the Spec ID event is one
    if name in CONFIRMED:
        body = quote.parse(read(CONFIRMED[name])).body
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


TRUSTEE = "attestation/confidential-containers_trustee"
LOG_OF = {f"{TRUSTEE}/eventlog/CCEL_data_ovmf_out.json": "measurement/direct-boot-2g/CCEL_data_ovmf"}


def decoded_log(name: str, path: Path, tmp_path: Path) -> None:
    """Another reader's output of a log: the same registers, types, digests and judgements of the data."""
    theirs = json.loads(path.read_text())["uefi_event_logs"]
    entries = parse_log(read(LOG_OF.get(name, name.removesuffix("_out.json"))))
    if theirs[0]["type_name"] == "EV_NO_ACTION":
        theirs = theirs[1:]
    assert len(theirs) == len(entries)
    for row, entry in zip(theirs, entries, strict=True):
        assert (row["index"], row["digests"][0]["digest"]) == (entry.index, entry.sha384.hex())
        assert base64.b64decode(row["event"]) == entry.data
        if row["digest_matches_event"]:
            assert proven(entry) is True


def ccel_table(name: str, path: Path, tmp_path: Path) -> None:
    assert files.read(path).description.kind == "ccel-table"


def dstack_report(name: str, path: Path, tmp_path: Path) -> None:
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
    """The nine fields, read from Intel's answers as another project stores them."""

    def chain(name: str) -> str:
        return unquote(read(f"{PCS}/{name}_chain.txt").decode())

    def part(name: str, inner: str) -> tuple[str, str]:
        text = read(f"{PCS}/{name}.json").decode()
        signed = text[text.index(f'"{inner}":') + len(inner) + 3 : text.rindex(',"signature"')]
        return signed, json.loads(text)["signature"]

    tcb, tcb_signature = part(f"tcb_info_{fmspc}", "tcbInfo")
    identity, identity_signature = part("qe_identity", "enclaveIdentity")
    return {
        "pck_crl_issuer_chain": chain("pck_crl_platform"),
        "root_ca_crl": read(f"{PCS}/root_ca.crl").hex(),
        "pck_crl": read(f"{PCS}/pck_crl_platform.crl").hex(),
        "tcb_info_issuer_chain": chain("qe_identity"),  # Intel sends the same chain with both
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
    "attestation/tdx_quote.bin": (
        lambda: json.loads(read("attestation/tdx_quote_collateral.json")),
        1_750_420_000,
        "UpToDate",
    ),
    f"{PHALA}/dstack_tdx_quote.hex": (
        lambda: json.loads(read("attestation/tdx_quote_collateral.json")),
        1_750_420_000,
        "No matching TCB level",
    ),
    "attestation/tdx_quote_v5.bin": (
        lambda: collateral("90c06f000000"),
        FEBRUARY_2026,
        "No matching TCB level",
    ),
    f"{TRUSTEE}/tdx_quote_6.dat": (
        lambda: collateral("00a06d080000"),
        FEBRUARY_2026,
        "OutOfDate",
    ),
}


def intel_chain(place: chains.Place, pem: bytes) -> None:
    """Whatever the TCB level: the chain has exactly the shape and names of its role."""
    chains.read(place, pem, root=signature.INTEL_ROOT_DER, naming=chains.INTEL)


def issuer_chain(name: str, path: Path, tmp_path: Path) -> None:
    """A header of Intel's service."""
    place = chains.PCK_CRL if "pck_crl" in name else chains.QE_IDENTITY
    intel_chain(place, unquote(path.read_text()).encode())
    unknown(name, path, tmp_path)


def tdx_quote(name: str, path: Path, tmp_path: Path) -> None:
    """Its registers are read; another encoding or padding gives the same quote; its signature verifies."""
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
    fields = json.loads(read("measurement/quote_fields.json"))
    for key, values in fields.items():
        if name == f"measurement/{key}":
            body = parsed.body
            assert [values[f"rtmr{number}"] for number in range(4)] == [value.hex() for value in body.rtmrs]
            assert (values["mrtd"], values["mrseam"], values["tdattr"], values["xfam"], values["reportdata"]) == (
                body.mr_td.hex(),
                body.mr_seam.hex(),
                body.td_attributes.hex(),
                body.xfam.hex(),
                body.report_data.hex(),
            )
    if name in EXPECTED:
        given, now, status = EXPECTED[name]
        checked = signature.check(data, given(), now=now)
        if isinstance(checked, QuoteFacts):
            assert checked.tcb_status == status
        else:
            assert status in checked.reason


def quote_with_text_behind_it(name: str, path: Path, tmp_path: Path) -> None:
    """`measure` reads it with a note; `verify` does not accept it as evidence (ADR 0036)."""
    found = files.read(path)
    assert found.description.kind == "quote" and any("39 bytes follow" in note for note in found.description.notes)
    with pytest.raises(EvidenceError, match="other than zero padding"):
        quote.parse(path.read_bytes())
    parsed = quote.read(path.read_bytes())
    intel_chain(chains.QUOTE, parsed.signature.certificates)
    assert parsed.body.td_attributes.hex() == "0000004000000000"  # PKS without SEPT_VE_DISABLE


def sgx_quote(name: str, path: Path, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="a quote of an SGX enclave"):
        files.read(path)


def report(name: str, path: Path, tmp_path: Path) -> None:
    found = files.read(path)
    assert found.description.kind == "tdreport" and found.claimed is not None
    data = path.read_bytes()
    assert found.claimed[MRTD] == data[528:576] and found.claimed[RTMR0] == data[720:768]


# --- blobs ----------------------------------------------------------------------------------------------------------


def acpi_tables(name: str, path: Path, tmp_path: Path) -> None:
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


def smbios_table(name: str, path: Path, tmp_path: Path) -> None:
    """Written in hexadecimal; the published table has the digest in its machine's log."""
    found = files.read(path).description
    assert found.kind == "smbios"
    raw = tmp_path / "raw"
    raw.write_bytes(bytes.fromhex(path.read_text()))
    bare = files.read(raw).description
    assert bare == replace(found, title=bare.title)
    assert found.title == f"{bare.title}, out of text"
    wanted = json.loads(read("measurement/smbios/expected.json"))["expected_event_digest_sha384"]
    if "published" in name:
        assert sha384(smbios.filtered(raw.read_bytes())).hex() == wanted


def unknown(name: str, path: Path, tmp_path: Path) -> None:
    """A kind that `measure FILE` does not know: refused with the file's name, without a guess."""
    with pytest.raises((MeasurementError, EvidenceError)):
        files.read(path)


def elsewhere(name: str, path: Path, tmp_path: Path) -> None:
    """Expected values, read by the rows above and by test_measure_fixtures, test_measure_profiles, test_measure_*."""
    assert isinstance(json.loads(path.read_text()), dict | list)


def firmware(name: str, path: Path, tmp_path: Path) -> None:
    """MRTD in both page orders, the variables' digest and the section list are the published ones."""
    image = path.read_bytes()
    known = {row["sha256"]: row for row in json.loads(read("measurement/firmware.json"))}
    row = known[hashlib.sha256(image).hexdigest()]
    facts = firmwares.facts(image)
    assert (facts.mrtd_single.hex(), facts.mrtd_two.hex()) == (row["mrtd_single_pass"], row["mrtd_two_pass"])
    assert facts.cfv.hex() == row["cfv_sha384"]
    assert [(one.type_name, one.gpa, one.memory_size) for one in facts.sections] == [
        (one["type"], one["gpa"], one["mem_size"]) for one in row["sections"]
    ]


def signed_image(name: str, path: Path, tmp_path: Path) -> None:
    """Debian's signature in it is over the digest that is computed here."""
    assert files.read(path).description.facts["signature"] == "over this digest"


# --- NVIDIA ---------------------------------------------------------------------------------------------------------

RIM_TIMES = {"1010_0200_882_96005E0001_PROD.swidtag": 1_737_000_000}
RIM_REFUSED = {
    "incorrect_signature_driver_rim.xml": "an invalid signature",
    "incorrect_cert_chain_driver_rim.xml": "2 certificates, expected 4",
}
NOVEMBER_2026 = 1_795_000_000


# --- SEV-SNP --------------------------------------------------------------------------------------------------------

SEV = "attestation/google_go-sev-guest"
CCA_KEY = "attestation/veraison_ccatoken/cca_platform.pub"
TRUSTEE_SNP = "attestation/confidential-containers_trustee/snp"
SIGNERS = {
    "attestation/virtee_sev/report_milan.hex": ("attestation/virtee_sev/vcek_milan.der", f"{SEV}/ask_ark_milan.pem"),
    f"{TRUSTEE_SNP}/test-vlek-report.bin": (f"{TRUSTEE_SNP}/test-vlek.der", f"{SEV}/ask_ark_milan_vlek.pem"),
    f"{TRUSTEE_SNP}/hcl-report.bin": ("", f"{TRUSTEE_SNP}/vcek.pem"),
}
"""Certificate of the key, and the rest of the chain, for each report."""


def pem(data: bytes) -> tuple[bytes, ...]:
    """Certificates in a text with blank lines, whose lines may end as on Windows."""
    return decode_pem(b"\n".join(line for line in data.splitlines() if line), limit=1 << 16)


def snp_chain(name: str) -> list[bytes]:
    key, rest = SIGNERS[name]
    return [*([read(key)] if key else []), *pem(read(rest))]


def snp_report(name: str, path: Path, tmp_path: Path) -> None:
    """Every byte of it is read, AMD's key signed it, and the key is of the TCB and the chip that it names."""
    data = bytes.fromhex(path.read_text()) if path.suffix == ".hex" else path.read_bytes()
    data = data[0x20 : 0x20 + snp_reports.SIZE] if data[:4] == b"HCLA" else data
    found = snp_reports.parse(data)
    chain = snp_chains.verify(found, snp_chain(name))
    leaf = chain.leaf
    assert chain.root_sha256 == leaf.product.root_sha256
    assert leaf.product.tcb(found.reported_tcb) == leaf.tcb
    assert found.chip_id == (bytes(64) if leaf.chip_id is None else leaf.chip_id)
    if path.suffix == ".bin":
        described = files.read(path).description
        assert described.registers == {LAUNCH: found.measurement}


def snp_key(name: str, path: Path, tmp_path: Path) -> None:
    """The certificate of a key is read whole; one that AMD did not sign is refused by its signature alone."""
    found = snp_leaf.parse(path.read_bytes())
    assert found.role == ("VLEK" if "vlek" in name else "VCEK")
    assert found.product.name == ("Turin" if "turin" in name else "Milan")
    report = snp_reports.parse(bytes.fromhex(read("attestation/virtee_sev/report_milan.hex").decode()))
    if "invalid" in name:
        chain = [path.read_bytes(), *pem(read(f"{SEV}/ask_ark_milan.pem"))]
        with pytest.raises(EvidenceError, match="not signed by SEV-Milan"):
            snp_chains.verify(report, chain)
    elif "turin" in name:
        # Its report is not at hand, so the chain holds and the report is another chip's.
        chain = [path.read_bytes(), *pem(read(f"{SEV}/ask_ark_turin_vcek.pem"))]
        with pytest.raises(EvidenceError, match="report: not signed by the VCEK"):
            snp_chains.verify(report, chain)


def snp_authorities(name: str, path: Path, tmp_path: Path) -> None:
    """A chain whose last certificate is the pinned root of its product."""
    *_, root = pem(path.read_bytes())
    assert hashlib.sha256(root).hexdigest() in {product.root_sha256 for product in SNP_PRODUCTS.values()}


def cca_token(name: str, path: Path, tmp_path: Path) -> None:
    """TF-RMM's token: both signatures verify, it is bound, and another platform's key did not sign it."""
    key = cca_signature.read_key(read(CCA_KEY))
    token = cca_tokens.parse(path.read_bytes())
    assert cca_signature.check(token, key) == cca_tokens.TokenChecks(realm=True, bound=True, platform=True)
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    assert cca_signature.check(token, other).platform is False
    assert files.read(path).description.kind == "cca-token"


def cca_key(name: str, path: Path, tmp_path: Path) -> None:
    """A public key of P-384."""
    assert cca_signature.read_key(path.read_bytes()).curve.name == "secp384r1"


def snp_firmware(name: str, path: Path, tmp_path: Path) -> None:
    """The end of a firmware: its digest with no kernel and a command line is the published one, or it checks none."""
    empty = hashlib.sha256(b"").digest()
    hashes = KernelHashes(empty, empty, hashlib.sha256(b"console=ttyS0 loglevel=7\0").digest())
    if "OvmfX64" in name:
        with pytest.raises(MeasurementError, match="no place for the hashes"):
            Launcher(path.read_bytes(), hashes)
        return
    digest = Launcher(path.read_bytes(), hashes).digest(1, signature=0x800F12)
    assert digest.hex() == (
        "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362f390ef83a92046c042e706363b4b08fa"
    )


# --- GPUs -----------------------------------------------------------------------------------------------------------


def nvidia_list(name: str, path: Path, tmp_path: Path) -> None:
    """Each device's report and chain are read whole, and its signature is valid."""
    items = json.loads(path.read_text())
    assert items
    for item in items:
        kind = "switch" if item["arch"] == "LS10" else "gpu"
        device = DeviceEvidence(kind, base64.b64decode(item["evidence"]), base64.b64decode(item["certificate"]))
        nvidia_device(device, bytes.fromhex(item["nonce"]))


def nvidia_device(device: DeviceEvidence, nonce: bytes | None = None) -> None:
    claims = nvidia_report.read(device.kind, device.report)
    assert nonce in (None, claims.report.nonce)
    (found,) = nvidia_signature.check([(device, claims)], NvidiaCollateral(), now=NOVEMBER_2026).devices
    assert isinstance(found, DeviceFacts), found


def nvidia_text(name: str, path: Path, tmp_path: Path) -> None:
    """A report of a GPU in hexadecimal, with the chain beside it. One has a byte behind it."""
    chain = name.replace("AttestationReport.txt", "CertChain.txt").replace("coco_report1", "coco_certs1")
    device = DeviceEvidence("gpu", bytes.fromhex(path.read_text()), read(chain))
    if "coco" in name:
        with pytest.raises(EvidenceError, match="1 bytes after the signature"):
            nvidia_device(device)
        device = replace(device, report=device.report[:-1])
    nvidia_device(device)


def nvidia_chain(name: str, path: Path, tmp_path: Path) -> None:
    """A whole chain ends at NVIDIA's root; a part of one is refused."""

    def checked() -> None:
        nvidia_chains.read(
            "gpu", path.read_bytes(), root=nvidia_chains.NVIDIA_ROOT_DER, naming=NVIDIA, now=NOVEMBER_2026,
            verified=Verified(),
        )  # fmt: skip

    if "case" in name:
        with pytest.raises(UnfitError):
            checked()
    else:
        checked()


def nvidia_rim(name: str, path: Path, tmp_path: Path) -> None:
    """Signed by NVIDIA, or refused for the reason in its name."""
    now = RIM_TIMES.get(path.name, NOVEMBER_2026)
    given = {"root": rim.NVIDIA_RIM_ROOT_DER, "naming": NVIDIA, "now": now, "verified": Verified()}
    if path.name in RIM_REFUSED:
        with pytest.raises(UnfitError, match=RIM_REFUSED[path.name]):
            rim.read(path.read_bytes(), **given)
    else:
        assert rim.read(path.read_bytes(), **given).rim.measurements


def nvidia_root(name: str, path: Path, tmp_path: Path) -> None:
    """A root certificate: the pinned one, or the other one of its name."""
    der = signature.root_der(path.read_bytes())
    assert (der in (nvidia_chains.NVIDIA_ROOT_DER, rim.NVIDIA_RIM_ROOT_DER)) is ("incorrect" not in name)


def nvidia_parsed(name: str, path: Path, tmp_path: Path) -> None:
    """Another parser's output, compared in test_evidence_nvidia."""
    assert json.loads(path.read_text())["NumberOfBlocks"] == 64


# --- published metadata ---------------------------------------------------------------------------------------------


def tuf_root(name: str, path: Path, tmp_path: Path) -> None:
    """Enough keys of the root before it, and its own, signed what our canonical form gives: ids are ignored here."""
    document = loads(path.read_bytes())
    data = metadata.olpc(document["signed"])
    version = document["signed"]["version"]
    before = next((read(one) for one in origins() if one.endswith(f"/{version - 1}.root.json")), path.read_bytes())
    for root in (document["signed"], loads(before)["signed"]):
        ids, threshold = root["roles"]["root"]["keyids"], root["roles"]["root"]["threshold"]
        keys = {keyid: PublicKey(pem_der(root["keys"][keyid]["keyval"]["public"])) for keyid in ids}
        rows = {row["keyid"]: bytes.fromhex(row["sig"]) for row in document["signatures"]}
        good = {key.keyid for keyid, key in keys.items() if key.verifies(rows.get(keyid, b""), data)}
        assert len(good) >= threshold
        assert not any(key.verifies(rows.get(keyid, b""), data + b" ") for keyid, key in keys.items())
    # The profile is stricter: ids are not of the keys alone, and there are fields besides.
    with pytest.raises(EvidenceError):
        metadata.decode(metadata.Root, path.read_bytes(), name)


def pem_der(text: str) -> bytes:
    key = load_pem_public_key(text.encode())
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# --- sources that a build changes -----------------------------------------------------------------------------------


def triton_driver(name: str, path: Path, tmp_path: Path) -> None:
    """It can be changed to import compiled modules, and what comes out is Python."""
    compile(triton.patch(TRITON, path.read_bytes()), name, "exec")


# --- transparency logs ----------------------------------------------------------------------------------------------

# The key of tessera's test log, from testdata/build_log.sh there.
LOG_KEY = tlog.NoteKey.decode("example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx")


def log_of_tiles(name: str, path: Path, tmp_path: Path) -> None:
    """Its checkpoint is over its entries, and our tiles of them are the same bytes."""
    folder, _, file = name.partition("_tessera/")
    size = int(file.replace(".", "/").rpartition("/")[2])
    (bundle,) = tlog.bundle_paths(size)
    entries = tlog.entries_of({bundle: read(f"{folder}_tessera/{bundle}")}, size)
    if file.startswith("checkpoint"):
        root = tlog.root_of([tlog.leaf_hash(entry) for entry in entries])
        assert tlog.Checkpoint.read(path.read_bytes(), LOG_KEY) == tlog.Checkpoint(LOG_KEY.name, size, root)
    else:
        assert tlog.tiles(entries)[file] == path.read_bytes()


def inclusion_proof(name: str, path: Path, tmp_path: Path) -> None:
    """It proves its leaf, or what is wrong with it is seen."""
    given = json.loads(path.read_bytes())
    root, leaf = (base64.b64decode(given[key]) for key in ("root", "leafHash"))
    proof = [base64.b64decode(item) for item in given["proof"]]
    assert tlog.includes(root, given["treeSize"], given["leafIdx"], leaf, proof) is not given["wantErr"]


def consistency_proof(name: str, path: Path, tmp_path: Path) -> None:
    """The tests' witness, which judges our proofs, takes it or sees what is wrong with it."""
    given = json.loads(path.read_bytes())
    roots = (base64.b64decode(given[key]) for key in ("root1", "root2"))
    proof = [base64.b64decode(item) for item in given["proof"]]
    assert continues(given["size1"], given["size2"], *roots, proof) is not given["wantErr"]


# --- Sigstore bundles -----------------------------------------------------------------------------------------------

STAGING = "publishing/sigstore_sigstore-python/staging_trusted_root.json"


def workflow_bundle(name: str, path: Path, tmp_path: Path) -> None:
    """A workflow of GitHub's signed a Statement, and ours reads the same payload."""
    workflows = keyless.Workflows(read(STAGING), "root")
    repository = "sigstore-conformance/extremely-dangerous-public-oidc-beacon"
    payload, workflow = workflows.payload(path.read_bytes(), repository, "refs/heads/main", name)
    assert payload == attestation.payload_of(path.read_bytes(), name)
    assert workflow.startswith(f"https://github.com/{repository}/.github/workflows/")


def earlier_bundle(name: str, path: Path, tmp_path: Path) -> None:
    """A bundle of the form before is refused as such."""
    with pytest.raises(EvidenceError, match="mediaType"):
        attestation.payload_of(path.read_bytes(), name)


def sigstore_root(name: str, path: Path, tmp_path: Path) -> None:
    """It is a trusted root, and one without its authorities is not."""
    keyless.Workflows(path.read_bytes(), name)
    with pytest.raises(EvidenceError, match="the trusted root is malformed"):
        keyless.Workflows(path.read_bytes()[:-100], name)


ROWS: tuple[tuple[str, Row], ...] = (
    ("publishing/sigstore_sigstore-python/*.sigstore.json", workflow_bundle),
    ("publishing/sigstore_sigstore-python/*.whl.sigstore", earlier_bundle),
    (STAGING, sigstore_root),
    ("publishing/transparency-dev_tessera/*", log_of_tiles),
    ("publishing/transparency-dev_merkle/inclusion/*", inclusion_proof),
    ("publishing/transparency-dev_merkle/consistency/*", consistency_proof),
    ("publishing/*.root.json", tuf_root),
    ("attestation/virtee_sev/report_*.hex", snp_report),
    (f"{TRUSTEE_SNP}/*report.bin", snp_report),
    ("attestation/virtee_sev/vcek_*.der", snp_key),
    (f"{TRUSTEE_SNP}/*.der", snp_key),
    (f"{SEV}/*.pem", snp_authorities),
    (f"{TRUSTEE_SNP}/vcek.pem", snp_authorities),
    (CCA_KEY, cca_key),
    ("attestation/veraison_ccatoken/*.cbor", cca_token),
    ("measurement/virtee_sev-snp-measure/*", snp_firmware),
    ("attestation/NVIDIA_*/spdm_parsed_output.json", nvidia_parsed),
    ("attestation/NVIDIA_*.json", nvidia_list),
    ("attestation/*AttestationReport.txt", nvidia_text),
    ("attestation/*coco_report1.txt", nvidia_text),
    ("attestation/NVIDIA_*CertChain.txt", nvidia_chain),
    ("attestation/*/nvidia/hopper_*cert*.txt", nvidia_chain),
    ("attestation/NVIDIA_*.swidtag", nvidia_rim),
    ("attestation/NVIDIA_*.xml", nvidia_rim),
    ("attestation/NVIDIA_*.pem", nvidia_root),
    ("attestation/NVIDIA_*.crt", nvidia_root),
    ("*/OVMF.fd", firmware),
    ("*.efi.signed", signed_image),
    ("*/nonce.dat", unknown),
    ("*/ccel_table.dat", ccel_table),
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
    ("*/event_log.bin", log),
    ("*acpi_tables.bin", acpi_tables),
    ("measurement/smbios/*.hex", smbios_table),
    ("measurement/*.json", elsewhere),
    # Collateral is used by the quotes; no verb reads it alone. The rest: a report of random bytes, revocation lists.
    (f"{PCS}/*_chain.txt", issuer_chain),
    (f"{PCS}/*", unknown),
    ("attestation/*.json", unknown),
    ("attestation/*/IntelSGXRootCA.der", unknown),
    ("attestation/google_go-tdx-guest/*", unknown),
    ("triton/driver.py", triton_driver),
)


def row_of(name: str) -> Row:
    for pattern, row in ROWS:
        if fnmatch(name, pattern):
            return row
    raise AssertionError(f"no row says what {name} proves")


@pytest.mark.parametrize("name", sorted(origins()))
def test_each_vector_passes_its_check(name: str, tmp_path: Path) -> None:
    path = tmp_path / Path(name).name
    path.write_bytes(read(name))
    row_of(name)(name, path, tmp_path)


def test_every_row_has_a_file() -> None:
    assert {row_of(name) for name in origins()} == {row for _, row in ROWS}


def test_every_vector_has_the_digest_of_its_origin() -> None:
    assert {name: hashlib.sha256(read(name)).hexdigest() for name in origins()} == {
        name: origin.sha256 for name, origin in origins().items()
    }


def test_every_file_has_an_origin_or_is_generated_here() -> None:
    made_here = ("boot-tpm-*/*", "firmware.json", "quote_fields.json", "replay_expected.json", "td_hob.json")
    listed = {origin.file for origin in origins().values()}
    unlisted = [
        path.relative_to(VECTORS).as_posix()
        for room in ("attestation", "measurement", "publishing", "triton")
        for path in sorted((VECTORS / room).rglob("*"))
        if path.is_file() and path.name != "ORIGIN.md" and path.relative_to(VECTORS).as_posix() not in listed
    ]
    assert [name for name in unlisted if not any(fnmatch(name, f"measurement/{one}") for one in made_here)] == []
