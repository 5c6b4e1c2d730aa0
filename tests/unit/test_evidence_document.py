"""Report data, nonce tree and document: exact bytes, one spelling, nothing unknown."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import attestation_samples as samples
import pytest
from tests.published import read

from privml.base.errors import EvidenceError
from privml.base.strictjson import b64, canonical, loads
from privml.events.registers import RTMR0, RTMR1, RTMR2, RTMR3, RTMRS
from privml.events.wording import describe
from privml.evidence import document, facts, merkle, report_data, sections
from privml.evidence.sections import KEY_SIZES, RELEASE_KEYS, TLS_KEY, Devices, Header, Key, Keys
from privml.evidence.tdx import quote

ALL_KEYS = Keys(tuple(Key(*pair, bytes(size)) for pair, size in sorted(KEY_SIZES.items())))


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_report_data_is_the_published_formula() -> None:
    parts = {"header": b"h", "keys": b"k", "devices": b"d", "eventlog": b"e"}
    text = b"privml-report-data/v1\0" + sha256(b"h") + bytes(32) + sha256(b"k") + sha256(b"d") + sha256(b"e")
    assert report_data.compute(root=bytes(32), **parts) == sha256(text) + bytes(32)


@pytest.mark.parametrize("name", ["header", "keys", "devices", "eventlog", "root"])
def test_report_data_moves_with_every_part(name: str) -> None:
    parts = {"header": b"h", "keys": b"k", "devices": b"d", "eventlog": b"e", "root": bytes(32)}
    assert report_data.compute(**parts) != report_data.compute(**{**parts, name: b"\1" * 32})


def test_sections_are_canonical() -> None:
    header = Header("production", "tdx")
    assert Header.decode(header.encode()) == header == Header("production", "tdx", "serve", "ready")
    assert Keys.decode(ALL_KEYS.encode()) == ALL_KEYS
    assert Devices.decode(b'{"gpus":[],"switches":[],"v":2}') == Devices()


def test_keys_are_found_by_use_and_algorithm() -> None:
    keys = samples.tls_keys(samples.SPKI)
    assert keys.find(*TLS_KEY) == samples.SPKI
    assert keys.find("tls", "ed25519") is None
    assert Keys(()).find(*TLS_KEY) is None
    assert len(ALL_KEYS.find(*RELEASE_KEYS[0]) or b"") == 1216


def test_a_key_of_an_unknown_use_is_carried() -> None:
    keys = Keys((Key("attic", "rot13", b"any"), Key(*TLS_KEY, samples.SPKI)))
    assert Keys.decode(keys.encode()) == keys


@pytest.mark.parametrize("pair", KEY_SIZES)
def test_a_known_key_of_another_size_is_refused(pair: tuple[str, str]) -> None:
    for size in (KEY_SIZES[pair] - 1, KEY_SIZES[pair] + 1):
        with pytest.raises(EvidenceError, match=f"{size} bytes, expected {KEY_SIZES[pair]}"):
            Key(*pair, bytes(size))


HEADER = {
    "format": sections.FORMAT,
    "variant": "production",
    "tee": "tdx",
    "purpose": "serve",
    "stage": "ready",
}
TLS = {"use": "tls", "alg": "spki-sha256", "key": "00" * 32}
EVIDENCE = {"kind": "gpu", "report": "AA==", "certificates": ""}
DEVICE = {"evidence_sha256": "00" * 32, "certificates_sha256": "11" * 32}
OTHER = {"use": "other", "alg": "a", "key": "00"}


@pytest.mark.parametrize(
    ("decode", "value", "words"),
    [
        (Header.decode, {**HEADER, "format": "privml-attestation/v1"}, "privml-attestation/v2"),
        (Header.decode, {**HEADER, "variant": "prod"}, "production, development"),
        (Header.decode, {**HEADER, "tee": "sgx"}, "expected one of tdx, snp"),
        (Header.decode, {**HEADER, "purpose": "test"}, "expected one of serve, key-release"),
        (Header.decode, {**HEADER, "stage": "booting"}, "expected one of ready, keys"),
        (Header.decode, {**HEADER, "more": 1}, "unknown field"),
        (Header.decode, {name: HEADER[name] for name in HEADER if name != "tee"}, "header.tee: missing"),
        (Keys.decode, {"v": 1, "keys": []}, "keys.v: got 1, expected 2"),
        (Keys.decode, {"v": 2, "keys": [TLS, TLS]}, "each pair once"),
        (Keys.decode, {"v": 2, "keys": [TLS, OTHER]}, "sorted by use and alg"),
        (Keys.decode, {"v": 2, "keys": [{**TLS, "key": "00" * 31}]}, "31 bytes, expected 32"),
        (Keys.decode, {"v": 2, "keys": [{**TLS, "key": "AA" * 32}]}, "lower-case hex"),
        (Keys.decode, {"v": 2, "keys": [{**TLS, "more": 1}]}, r"keys.keys\[0\].more: unknown field"),
        (Keys.decode, {"v": 2, "keys": [{**OTHER, "key": ""}]}, "0 bytes, expected 1 to 2048"),
        (Keys.decode, {"v": 2, "keys": [{**OTHER, "key": "00" * 2049}]}, "2049 bytes, expected 1 to 2048"),
        (Keys.decode, {"v": 2, "keys": [{**OTHER, "use": "Other"}]}, "use `Other`, expected"),
        (Keys.decode, {"v": 2, "keys": [{**OTHER, "alg": ""}]}, "alg ``, expected"),
        (Keys.decode, {"v": 2, "keys": [{**OTHER, "use": f"u{n:02}"} for n in range(17)]}, "at most 16"),
        (Devices.decode, {"v": 1, "gpus": [], "switches": []}, "devices.v: got 1, expected 2"),
        (Devices.decode, {"v": 2, "gpus": [{}], "switches": []}, r"gpus\[0\].evidence_sha256: missing"),
        (Devices.decode, {"v": 2, "gpus": [], "switches": [{**DEVICE, "more": 1}]}, "unknown field"),
        (Devices.decode, {"v": 2, "gpus": [{**DEVICE, "evidence_sha256": "00"}], "switches": []}, "expected 32"),
        (Devices.decode, {"v": 2, "gpus": [DEVICE] * 17, "switches": []}, "17 items, expected at most 16"),
        (Devices.decode, {"v": 2, "gpus": [], "switches": [DEVICE] * 9}, "9 items, expected at most 8"),
        (Devices.decode, {"v": 2, "gpus": [], "switches": [], "more": 1}, "unknown field"),
        (Devices.decode, [], "expected an object"),
    ],
)
def test_other_sections_are_refused(decode: Callable[[bytes], object], value: object, words: str) -> None:
    with pytest.raises(EvidenceError, match=words):
        decode(canonical(value))


@pytest.mark.parametrize("decode", [Header.decode, Keys.decode, Devices.decode])
def test_a_section_with_spaces_is_not_canonical(decode: Callable[[bytes], object]) -> None:
    with pytest.raises(EvidenceError, match="not canonical JSON"):
        decode(b'{"v": 2}')


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 64])
def test_every_nonce_of_a_batch_proves_the_root(count: int) -> None:
    nonces = [sha256(b"%d" % index) for index in range(count)]
    tree = merkle.build(nonces)
    assert {merkle.root(nonce, path) for nonce, path in zip(nonces, tree.paths, strict=True)} == {tree.root}
    assert merkle.root(sha256(b"other"), tree.paths[0]) != tree.root


def test_one_caller_has_an_empty_path_and_leaf_and_node_differ() -> None:
    tree = merkle.build([samples.NONCE])
    assert tree.paths == ((),)
    assert tree.root == sha256(b"\0privml-nonce/v1\0" + samples.NONCE)
    left, right, third = (merkle.leaf(bytes([n]) * 32) for n in range(3))
    above = sha256(b"\1" + left + right)
    assert merkle.build([bytes([n]) * 32 for n in range(3)]).root == sha256(b"\1" + above + third)


@pytest.mark.parametrize(
    ("nonce", "path"),
    [
        (b"short", ()),
        (bytes(32), (merkle.Step("up", bytes(32)),)),
        (bytes(32), (merkle.Step("left", bytes(31)),)),
        (bytes(32), (merkle.Step("left", bytes(32)),) * 33),
    ],
)
def test_impossible_tree_paths_are_refused(nonce: bytes, path: tuple[merkle.Step, ...]) -> None:
    with pytest.raises(EvidenceError):
        merkle.root(nonce, path)


def test_a_document_round_trips() -> None:
    made = samples.document()
    assert document.parse(made.encode()) == made
    bare = dataclasses.replace(made, collateral=None, path=())
    assert document.parse(bare.encode()) == bare


@pytest.mark.parametrize("name", loads(samples.document().encode()))
def test_a_document_without_a_field_is_refused(name: str) -> None:
    value = loads(samples.document().encode())
    del value[name]
    with pytest.raises(EvidenceError, match=f"document.{name}: missing"):
        document.parse(canonical(value))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "privml-attestation/v1"}, "document.format"),
        ({"nonce": "00"}, "document.nonce: 1 bytes"),
        ({"nonce": "AA" * 32}, "lower-case hex"),
        ({"evidence": "AAA"}, "not base64"),
        ({"evidence": "AAB="}, "canonical base64"),
        ({"evidence": b64(bytes(65540))}, "at most 65536 bytes"),
        ({"certificates": None}, "expected an array"),
        ({"certificates": [1]}, "expected a base64 string"),
        ({"certificates": ["AAAA"] * 9}, "at most 8"),
        ({"certificates": [b64(bytes(16390))]}, "at most 16384 bytes"),
        ({"device_evidence": [{}]}, r"device_evidence\[0\].kind: missing"),
        ({"device_evidence": [{**EVIDENCE, "kind": "tpu"}]}, "got `tpu`, expected one of gpu, switch"),
        ({"device_evidence": [{**EVIDENCE, "more": 1}]}, "unknown field"),
        ({"device_evidence": [{**EVIDENCE, "report": "AA"}]}, "report: not base64"),
        ({"device_evidence": [{**EVIDENCE, "kind": "switch"}, EVIDENCE]}, "expected all GPUs before the switches"),
        ({"device_evidence": [EVIDENCE] * 25}, "25 items, expected at most 24"),
        ({"device_evidence": [{**EVIDENCE, "certificates": "A" * 24000}]}, "expected at most 16384"),
        ({"collateral": {"nvidia": {"ocsp": [], "rims": ["A"]}}}, r"nvidia.rims\[0\]: not base64"),
        ({"collateral": {"nvidia": {"ocsp": []}}}, "nvidia.rims: missing"),
        ({"path": [{"side": "up", "hash": "00" * 32}]}, "expected one of left, right"),
        ({"path": [{"side": "left", "hash": "00" * 32, "more": 1}]}, "unknown field"),
        ({"path": [{"side": "left", "hash": "00" * 32}] * 33}, "at most 32"),
        ({"collateral": {}}, "document.collateral: empty"),
        ({"collateral": {"tdx": {}}}, "document.collateral.tdx.pck_crl_issuer_chain: missing"),
        ({"collateral": {"snp": {}}}, "document.collateral.snp: empty, expected certificates or crl"),
        ({"collateral": []}, "expected an object"),
        ({"extra": 1}, "document.extra: unknown field"),
    ],
)
def test_a_document_with_anything_else_is_refused(changes: dict[str, object], words: str) -> None:
    value = {**loads(samples.document().encode()), **changes}
    with pytest.raises(EvidenceError, match=words):
        document.parse(canonical(value))


def test_facts_of_an_honest_document_agree_with_each_other() -> None:
    found = facts.collect(samples.document())
    assert found.report_data == found.claims.report_data
    assert found.agent_rtmr3 == found.claims.registers[RTMR3]
    assert found.boot_log.kind == "ccel"
    assert found.boot_log.matches == set(facts.LOGGED)
    assert len(found.boot_log.events) == len(samples.extends(0))


def test_a_malformed_boot_log_is_a_fact_not_an_error() -> None:
    assert facts.collect(samples.document(log=b"")).boot_log.kind == "absent"
    broken = facts.collect(samples.document(log=b"nonsense")).boot_log
    assert (broken.kind, broken.matches) == ("malformed", frozenset())
    assert "event log" in broken.error
    other = facts.collect(samples.document(log=samples.boot_log(samples.extends(1)))).boot_log
    assert other.matches == {facts.LOGGED[1], facts.LOGGED[2]}


def test_a_tpm_log_is_read_as_registers() -> None:
    from privml.events import tcg
    from privml.events.tcg import LogEntry

    pcrs = {RTMR0: 1, RTMR1: 4, RTMR2: 9}
    entries = [
        LogEntry(pcrs[register], kind, {tcg.ALG_SHA256: bytes(32), tcg.ALG_SHA384: _sha384(hashed)}, data)
        for register, kind, hashed, data, _ in samples.extends(4 << 30)
    ]
    entries.insert(0, LogEntry(0, 8, {tcg.ALG_SHA256: bytes(32), tcg.ALG_SHA384: bytes(48)}, b"version"))
    entries.append(LogEntry(23, 13, {tcg.ALG_SHA256: bytes(32), tcg.ALG_SHA384: bytes(48)}, b"application"))
    log = tcg.encode_log(entries, {tcg.ALG_SHA256: 32, tcg.ALG_SHA384: 48})
    found = facts.collect(samples.document(log=log)).boot_log
    assert (found.kind, found.matches) == ("tpm", set(facts.LOGGED))


def _sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


@pytest.mark.parametrize("name", ["header", "keys", "devices", "eventlog", "evidence"])
def test_a_malformed_section_is_an_error(name: str) -> None:
    with pytest.raises(EvidenceError):
        facts.collect(dataclasses.replace(samples.document(), **{name: b"nonsense"}))


def test_evidence_of_another_tee_than_the_header_s_is_malformed() -> None:
    header = Header("production", "snp").encode()
    with pytest.raises(EvidenceError, match=r"report: \d+ bytes, expected 1184"):
        facts.collect(dataclasses.replace(samples.document(), header=header))


def test_certificates_next_to_a_quote_are_refused() -> None:
    made = dataclasses.replace(samples.document(), certificates=(b"x",))
    assert document.parse(made.encode()) == made
    with pytest.raises(EvidenceError, match=r"document\.certificates"):
        facts.collect(made)


def test_a_real_log_replays_to_its_real_quote() -> None:
    parsed = quote.parse(read("measurement/gcp-cos113/cos-113-tdx-quote.dat"))
    assert parsed.body.report_data == read("attestation/google_go-tdx-guest/ccel/nonce.dat")
    registers = dict(zip(RTMRS, parsed.body.rtmrs, strict=True))
    log = facts.read_boot_log(read("measurement/gcp-cos113/ccel_data.dat"), registers)
    assert (log.kind, log.matches) == ("ccel", set(facts.LOGGED))
    assert all(describe(event.entry).isprintable() for event in log.events)
