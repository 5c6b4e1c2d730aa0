"""Every parser of files that others make, with a seed: what `python -m tests.fuzz.search NAME SECONDS` feeds.

An input that raises anything but the rooms' own errors is written into `crashes/` and, committed there, becomes a
regression case.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import random
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from ssl import DER_cert_to_PEM_cert

from tests import channel_vectors, receipts
from tests.fuzz import keytargets
from tests.negative import forge, pki
from tests.property.test_gpu_answer import ENCODED as GPU_ANSWER
from tests.property.test_measure_parsers import CCEL, FIRMWARE, LOG, TABLE, UKI, parse_and_replay
from tests.property.test_option_roms import ROM
from tests.property.test_published_mutations import DECODERS, SAMPLES
from tests.published import read
from tests.signing import armoured
from tests.unit import fabric_files, gce_files, runfile_file, safetensors_file
from tests.unit.fake_archive import KEYRING as KEYRING_FILE
from tests.unit.gguf_file import SMALL as GGUF
from tests.unit.image_volume import superblock
from tests.unit.test_measure_bzimage import kernel
from tests.unit.test_measure_disk import FIRST, IMAGE
from tests.unit.test_measure_optionrom import stored

from privml.agent import gpuanswer
from privml.base import dsse, strictcbor
from privml.base.dsse import Envelope, Signature
from privml.base.errors import EvidenceError, HostError, InputsError, MeasurementError, Refused
from privml.base.strictjson import canonical, loads
from privml.channel import bhttp, keyconfig, ohttp, receipt
from privml.channel import record as channel_record
from privml.channel import wrapped as wrapped_request
from privml.channel.varint import Cursor, prefixed
from privml.client import kdsfiles
from privml.events import agent
from privml.events.align import differences
from privml.events.gpt import decode
from privml.events.logged import logged
from privml.events.meaning import certificate_name
from privml.events.registers import RTMRS, ZERO
from privml.events.tcg import parse_log, parse_sha1_log
from privml.events.wording import describe
from privml.evidence import capture, document, dstack, facts, gceformat, merkle, report_data, sections
from privml.evidence.capture import Capture
from privml.evidence.cca import token as cca_token
from privml.evidence.certificates import UnfitError
from privml.evidence.nvidia import report as nvidia_report
from privml.evidence.nvidia import rim, roles
from privml.evidence.snp import leaf as snp_leaf
from privml.evidence.snp import report as snp_report
from privml.evidence.tdx import collateral, quote, signature, tdreport
from privml.lock import gguf, omsbundle, runfile, safetensors, vendorarchive, vendortar
from privml.measure import (
    acpi,
    artefact,
    bzimage,
    cpio,
    dmi,
    efivars,
    fat,
    gpt,
    mrtd,
    pciwindow,
    pe,
    smbios,
    tdvf,
    uki,
    verity,
)
from privml.measure.learntmachine import LearntEvent, LearntMachine
from privml.measure.lzh import decompress
from privml.measure.optionrom import drivers
from privml.measure.snp import table as snp_table
from privml.publish.log import Entry
from privml.readers import aael, envelope, wrapped
from privml.recipe import openpgp
from privml.statement import tlog
from privml.vm import crosscheck

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
CRASHES = Path(__file__).resolve().parent / "crashes"
ACPI = lzma.decompress((VECTORS / "measurement/canonical-defaults/acpi_tables.bin.xz").read_bytes())
REPORT = lzma.decompress((VECTORS / "measurement/tdreport/tdx_report_1.bin.xz").read_bytes())
DSTACK = lzma.decompress((VECTORS / "measurement/dstack-gpu-64g/quote-report.json.xz").read_bytes())

CASES = VECTORS / "cases"
KEYRING = KEYRING_FILE.read_bytes()
SHA1_LOG = (CASES / "tpm12-log/tpm12.log").read_bytes()
AGENT_LOG = (CASES / "wrapped-files/aael.txt").read_bytes()
DUMP = (CASES / "wrapped-files/log.hexdump").read_bytes()
CERTIFICATE = bytes.fromhex("301a3018a003020102020101300030003000300c310a300806035504030c0161")

PREDICTED = logged(
    parse_log(lzma.decompress((VECTORS / "measurement/gcp-cos113/ccel_data.dat.xz").read_bytes())), tpm=False
)

Parser = Callable[[bytes], object]


def _dstack(data: bytes) -> None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    if dstack.is_report(value):
        dstack.parse(value)


def _cbor(data: bytes) -> None:
    """Whatever is read has one encoding."""
    if strictcbor.encode(strictcbor.decode(data)) != data:
        raise AssertionError("another encoding")


def _explained(data: bytes) -> None:
    """A document's log as a verifier meets it: read both ways, every event in words, held against a prediction."""
    log = facts.read_boot_log(data, dict.fromkeys(RTMRS, ZERO))
    for register in RTMRS[:3]:
        for _, event, _ in differences(PREDICTED, log.of(register)):
            assert event is None or describe(event.entry).isprintable()


SPDM = bytes.fromhex(read("attestation/NVIDIA_attestation-sdk/unit/hopperAttestationReport.txt").decode())
RIM = read("attestation/NVIDIA_attestation-sdk/unit/NV_GPU_DRIVER_GH100_550.144.03.xml")


def _spdm(data: bytes) -> None:
    """A report of either kind of device."""
    for kind in ("gpu", "switch"):
        with contextlib.suppress(EvidenceError):
            nvidia_report.read(kind, data)


CCA_TOKEN = read("attestation/veraison_ccatoken/cca_token.cbor")
SNP_REPORT = bytes.fromhex(read("attestation/virtee_sev/report_milan.hex").decode())
SNP_KEY = read("attestation/virtee_sev/vcek_milan.der")
SNP_FILES = DER_cert_to_PEM_cert(SNP_KEY).encode() + read("attestation/google_go-sev-guest/ask_ark_milan.pem")
SNP_FIRMWARE = read("measurement/virtee_sev-snp-measure/ovmf_AmdSev_suffix.bin")


def _rim(data: bytes) -> None:
    with contextlib.suppress(UnfitError):
        rim.read(
            data, root=rim.NVIDIA_RIM_ROOT_DER, naming=roles.NVIDIA, now=1_795_000_000, verified=roles.Verified()
        )


def _keyring(data: bytes) -> None:
    with contextlib.suppress(openpgp.KeyringError):
        openpgp.keys(data)


def _armoured_keyring(data: bytes) -> None:
    with contextlib.suppress(openpgp.KeyringError):
        openpgp.keys(openpgp.unarmoured(data))


def _cross_checked(data: bytes) -> None:
    with contextlib.suppress(HostError):
        crosscheck.parse(data.decode("utf-8", "replace"))


def _judged(data: bytes) -> None:
    """A document as a verifier meets it, up to its facts; what is parsed is what would be sent again."""
    parsed = document.parse(data)
    assert document.parse(parsed.encode()) == parsed
    facts.collect(parsed)


def _collateral(data: bytes) -> None:
    """Collateral as a caller brings it, with an honest quote."""
    fields = collateral.decode(loads(data))
    signature.check(QUOTE, fields, now=forge.NOW, simulated_root=signature.root_der(pki.ROOT_PEM))


def _json(data: bytes) -> None:
    """Strict JSON: what has a canonical form is the same after it."""
    value = loads(data)
    with contextlib.suppress(ValueError):
        assert loads(canonical(value)) == value


def _report_data(data: bytes) -> None:
    """The parts that the report data covers: nonce, header, keys and devices, one a line, then the agent's log."""
    nonce, header, keys, devices, log = (*data.split(b"\n", 4), *[b""] * 4)[:5]
    for section, kind in ((header, sections.Header), (keys, sections.Keys), (devices, sections.Devices)):
        assert kind.decode(section).encode() == section
    assert agent.encode_log(agent.parse_log(log)) == log
    root = merkle.root(nonce, [merkle.Step("left", bytes(32))])
    bound = report_data.compute(header=header, root=root, keys=keys, devices=devices, eventlog=log)
    assert bound[32:] == bytes(32)


SIGNER = omsbundle.signing_key((VECTORS / "modelsigning/p384.pem").read_bytes())


def _model(check: Callable[[BytesIO, int], object]) -> Parser:
    """A check of model files, which refuses with a ``ValueError`` that its caller turns into a message."""

    def one(data: bytes) -> None:
        with contextlib.suppress(ValueError):
            check(BytesIO(data), len(data))

    return one


def _runfile(data: bytes) -> None:
    with contextlib.suppress(InputsError):
        runfile.header(BytesIO(data), "x.run")


def _vendor_archive(data: bytes) -> None:
    with contextlib.suppress(InputsError):
        vendorarchive.read(BytesIO(data), fabric_files.BOARD.archives["nscq"].name, [], "x.tar.xz")


def _runfile_tar(data: bytes) -> None:
    with contextlib.suppress(InputsError), vendortar.opened(BytesIO(data), "x.run") as archive:
        vendortar.read(archive, ["libcuda.so.595.71.05"], "x.run")


HONEST = forge.Guest()
QUOTE = HONEST.quote()
COLLATERAL = HONEST.platform.collateral()
SECTIONS = HONEST.sections()
REPORT_DATA = b"\n".join([forge.NONCE.replace(b"\n", b"x"), *(SECTIONS[name] for name in SECTIONS)])

LOG_KEY = tlog.NoteKey.decode("example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx")
NOTE = read("publishing/transparency-dev_tessera/checkpoint.15")


def _proof(data: bytes) -> object:
    """A proof, which no mutation makes one of this entry."""
    proof = tlog.Proof.decode(data)
    assert not tlog.includes(bytes(32), 15, proof.index, bytes(32), proof.hashes)
    return proof


LEARNT = LearntMachine(4, 1 << 34, bytes(48), b"x", bytes(32), (LearntEvent(0xA, bytes(48), "ACPI file 1", 1, 2),))


def _learnt(data: bytes) -> None:
    """One row of what was learnt of a cloud's machines."""
    row = LearntMachine.from_dict(loads(data), "machine")
    assert LearntMachine.from_dict(row.to_dict(), "machine") == row


def _dmi(data: bytes) -> None:
    """What a captured SMBIOS table says of its machine."""
    maker, product, _ = dmi.system(data)
    assert maker.isprintable() and product.isprintable()
    assert dmi.memory(data) > 0
    assert smbios.stub_structures(dmi.for_stub(data)) == smbios.stub_structures(data)


def _gpu_answer(data: bytes) -> object:
    try:
        return gpuanswer.reading_of(loads(data))
    except HostError as error:  # the reader's own words
        assert error.message.isprintable()
        return None


def _channel_request(data: bytes) -> None:
    """A request; what was read is the same after its encoding."""
    found = bhttp.decode_request(data)
    assert bhttp.decode_request(found.encode()) == found


def _channel_response(data: bytes) -> None:
    """A response, whole and byte by byte."""
    found = bhttp.decode_response(data)
    assert bhttp.decode_response(found.encode()) == found
    reader = bhttp.response_reader()
    content = b"".join(reader.feed(data[at : at + 1]) for at in range(len(data)))
    reader.end()
    assert (reader.control, reader.fields, content, reader.trailers) == (
        found.status,
        found.fields,
        found.content,
        found.trailers,
    )


_WRAPPED = wrapped_request.WrappedRequest([channel_vectors.fixed_key(seed).config for seed in (2, 1)])
WRAPPED = _WRAPPED.start + _WRAPPED.chunk(b"pro") + _WRAPPED.final(b"mpt")
SEALED = bytes.fromhex(channel_vectors.vector("chunked-ohttp-example")["enc_request"])
SEALED_RESPONSE = bytes.fromhex(channel_vectors.vector("chunked-ohttp-example")["enc_response"])


def _opened(data: bytes) -> ohttp.OpenedRequest:
    opener = ohttp.RequestOpener(channel_vectors.only(channel_vectors.gateway_key("chunked-ohttp-example")))
    opener.feed(data)
    return opener.end()


CONTEXT = _opened(SEALED).context


def _shortest(data: bytes, start: int) -> bytes:
    """A message that opened, with the lengths of its chunks, from ``start`` on, in as few bytes as they need."""
    chunks, found = Cursor(data[start:], "chunks"), data[:start]
    while size := chunks.varint():
        found += prefixed(chunks.take(size))
    return found + prefixed(b"") + chunks.take(chunks.left)


def _sealed_request(data: bytes) -> None:
    """A sealed request, of which only the honest one opens, however its lengths are written (ADR 0090)."""
    _opened(data)
    assert _shortest(data, ohttp.HEADER_SIZE + len(CONTEXT.encapsulated)) == SEALED


def _wrapped_request(data: bytes) -> None:
    """A request for several recipients, of which only the honest one opens."""
    keys = (channel_vectors.fixed_key(1),)
    opener = wrapped_request.WrappedRequestOpener(lambda: keys)
    opener.feed(data)
    opener.end()
    assert _shortest(data, len(_WRAPPED.start)) == WRAPPED


def _sealed_response(data: bytes) -> None:
    """A sealed response, of which only the honest one is complete."""
    response = ohttp.ResponseOpener(CONTEXT, ohttp.CHUNKED, ohttp.RESPONSE_LIMITS)
    response.feed(data)
    response.end()
    assert _shortest(data, CONTEXT.aead.secret_size) == SEALED_RESPONSE


def _signed_record(data: bytes) -> None:
    """A signed record, of which only the honest one is accepted."""
    with contextlib.suppress(Refused):
        channel_record.verify(
            data, channel_key=channel_vectors.CHANNEL_KEY, keys_sha256=channel_vectors.RECORD.keys_sha256
        )
        assert data == channel_vectors.SIGNED_RECORD


def _signed_receipt(data: bytes) -> None:
    """A signed receipt, of which only the honest one is accepted."""
    with contextlib.suppress(Refused):
        receipt.verify(data, key=receipts.KEY)
        assert data == receipts.SIGNED


TARGETS: dict[str, tuple[bytes, Parser]] = {
    "tdvf": (FIRMWARE, tdvf.sections),
    "mrtd": (FIRMWARE, mrtd.mrtd),
    "efivars": (bytes(40) + b"_FVH" + bytes(200), efivars.store),
    "authenticode": (UKI, pe.authenticode),
    "uki": (UKI, uki.facts),
    "other-stub": (UKI, uki.layout),
    "bzimage": (kernel(), bzimage.protocol),
    "gpt": (IMAGE[: 34 * 512], gpt.table),
    "gpt-event": (gpt.table(IMAGE).event, decode),
    "verity": (superblock(), verity.superblock),
    "cpio": (cpio.archive({"a/b": cpio.Member(b"x")}, mtime=1), lambda data: list(cpio.entries(data))),
    "fat": (IMAGE[FIRST : FIRST + 40 * 512], lambda data: fat.read(data, 0)),
    "acpi-tables": (ACPI[:16384], acpi.derived),
    "table-loader": (acpi.derived(ACPI)[acpi.TABLE_LOADER], acpi.allocated_files),
    "option-rom": (ROM, drivers),
    "compressed": (stored(UKI[:600]), decompress),
    "smbios": (TABLE, smbios.filtered),
    "smbios-stub": (TABLE, smbios.stub_structures),
    "dmi": (gce_files.table(), _dmi),
    "gce-endorsement": (gce_files.endorsement(), gceformat.parse),
    "gce-machine": (canonical(LEARNT.to_dict()), _learnt),
    "e820": (
        bytes(60),
        lambda data: pciwindow.window(data, vendor="GenuineIntel", phys_bits=46, gigabyte_pages=True),
    ),
    "ccel": (CCEL, parse_and_replay),
    "tpm-log": (LOG, parse_and_replay),
    "quote": ((VECTORS / "attestation/tdx_quote.bin").read_bytes(), quote.parse),
    "spdm": (SPDM, _spdm),
    "cca-token": (CCA_TOKEN, cca_token.parse),
    "cbor": (CCA_TOKEN, _cbor),
    "snp-report": (SNP_REPORT, snp_report.parse),
    "kds-files": (SNP_FILES, lambda data: list(kdsfiles.contents(data).chains())),
    "snp-key": (SNP_KEY, snp_leaf.parse),
    "snp-firmware": (SNP_FIRMWARE, snp_table.read),
    "rim": (RIM, _rim),
    "keyring": (KEYRING, _keyring),
    "keyring-armoured": (armoured(KEYRING), _armoured_keyring),
    "tdreport": (REPORT, tdreport.parse),
    "dstack": (DSTACK, _dstack),
    "capture": (Capture({"ccel.bin": CCEL, "cpus": b"0-3\n"}, {"quote.bin": "none"}).encode(), capture.decode),
    "boot-log": (CCEL, _explained),
    "dsse": (Envelope("application/x", b"{}", (Signature(bytes(64), "k"),)).encode(), dsse.decode),
    "cross-check": (b'{"mrtd": "' + b"ab" * 48 + b'", "rtmr0": "' + b"cd" * 48 + b'"}', _cross_checked),
    "sha1-log": (SHA1_LOG, parse_sha1_log),
    "agent-log": (AGENT_LOG, aael.parse),
    "dump": (DUMP, wrapped.dumped),
    "envelope": (DSTACK, lambda data: envelope.look(envelope.loads(data, "file"))),
    "certificate": (CERTIFICATE, certificate_name),
    "any-file": (UKI, artefact.identify),
    "document": (HONEST.document(collateral={"tdx": COLLATERAL}), _judged),
    "collateral": (json.dumps(COLLATERAL).encode(), _collateral),
    "json": (json.dumps({"a": [1, -2, None, True, {"b": "\\u00e9 \u00e9"}], "c": ""}).encode(), _json),
    "report-data": (REPORT_DATA, _report_data),
    "model-signature": (
        (VECTORS / "modelsigning/split.sig").read_bytes(),
        lambda data: omsbundle.read(data, SIGNER),
    ),
    "gguf": (GGUF, _model(gguf.check)),
    "safetensors": (
        safetensors_file.SMALL,
        _model(lambda file, size: safetensors.check("m.safetensors", file, size)),
    ),
    "runfile": (runfile_file.script() + b"\x28\xb5\x2f\xfd", _runfile),
    "vendor-archive": (fabric_files.made("nscq"), _vendor_archive),
    "runfile-tar": (runfile_file.packed(runfile_file.entries()).getvalue(), _runfile_tar),
    "gpu-answer": (GPU_ANSWER, _gpu_answer),
    "note": (NOTE, lambda data: tlog.signed_text(data, LOG_KEY)),
    "checkpoint": (NOTE, lambda data: tlog.Checkpoint.read(data, LOG_KEY)),
    "tlog-proof": (tlog.Proof(1, (bytes(32),), NOTE).encode(), _proof),
    "log-key": (LOG_KEY.text.encode(), lambda data: tlog.NoteKey.decode(data.decode("latin-1"))),
    "log-entry": (Entry("demo-cpu/index.json", bytes(32)).encode(), lambda data: Entry.decode(data, "entry")),
    "log-bundle": (b"\x00\x01a\x00\x02bc", lambda data: tlog.entries_of({"tile/entries/000.p/2": data}, 2)),
    "channel-request": (
        bytes.fromhex(channel_vectors.vector("chunked-ohttp-xwing-streamed")["bhttp_request"]),
        _channel_request,
    ),
    "channel-response": (
        b"".join(map(bytes.fromhex, channel_vectors.vector("chunked-ohttp-xwing-streamed")["bhttp_response_pieces"])),
        _channel_response,
    ),
    "channel-key-configs": (
        keyconfig.encode_list(channel_vectors.RECORD.configs),
        lambda data: keyconfig.encode_list(keyconfig.decode_list(data)),
    ),
    "channel-record": (channel_vectors.RECORD.encode(), channel_record.Record.decode),
    "channel-signed-record": (channel_vectors.SIGNED_RECORD, _signed_record),
    "receipt": (receipts.RECEIPT.encode(), receipt.Receipt.decode),
    "signed-receipt": (receipts.SIGNED, _signed_receipt),
    "sealed-request": (SEALED, _sealed_request),
    "wrapped-request": (WRAPPED, _wrapped_request),
    "sealed-response": (SEALED_RESPONSE, _sealed_response),
    **keytargets.TARGETS,
    **{f"published-{name}": (SAMPLES[name], parser) for name, parser in DECODERS.items()},
}


def one_input(name: str, data: bytes) -> None:
    """Feed one input; only the rooms' own errors are answers."""
    try:
        TARGETS[name][1](data)
    except (MeasurementError, EvidenceError):
        return


def _keep(name: str, data: bytes) -> Path:
    CRASHES.mkdir(exist_ok=True)
    path = CRASHES / f"{name}.{hashlib.sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    return path


def _mutated(seed: bytes, dice: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(5):
            case 0:
                data[at : at + 1] = dice.randbytes(1)
            case 1:
                data[at : at + 4] = dice.choice((0, 1, 0xFFFFFFFF, 0x7FFFFFFF, len(seed))).to_bytes(4, "little")
            case 2:
                del data[at : at + dice.randint(1, 64)]
            case 3:
                data[at:at] = data[: dice.randint(1, 64)]
            case _:
                del data[at:]
    return bytes(data)


def run(name: str, seconds: float) -> int:
    """Feed changes of the seed for so long; how many."""
    dice, seed, count = random.Random(name), TARGETS[name][0], 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = _mutated(seed, dice)
        try:
            one_input(name, data)
        except Exception:
            print(f"{name}: kept as {_keep(name, data)}", file=sys.stderr)
            raise
        count += 1
    return count
