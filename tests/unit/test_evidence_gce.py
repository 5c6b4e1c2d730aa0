"""Google's launch endorsements: what is read, every byte that may not change, and each refusal by its name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import gce_files as made
import pytest
from gce_files import MRTD, NOW, Golden, endorsement, measurement, number, pem, piece, signed, varint

from privml.base.errors import EvidenceError
from privml.evidence import gce, gceformat
from privml.evidence.gceformat import GIB, EndorsedMrtd
from privml.readers import files

GOOD = Golden().encoded()
PINNED = gce.GOOGLE_ROOT_SHA256


@pytest.fixture(autouse=True)
def _our_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gce, "GOOGLE_ROOT_SHA256", made.root_sha256())


def test_an_endorsement_names_firmware_and_mrtds() -> None:
    found = gce.read(endorsement(), now=NOW)
    assert found.firmware_sha384 == made.FIRMWARE
    assert (found.svn, found.changelist, found.signed_at) == (2, 900_000_000, 1_779_000_000)
    assert found.values[0] == EndorsedMrtd(0, early_accept=False, mrtd=MRTD)
    assert found.values[2] == EndorsedMrtd(88, early_accept=True, mrtd=hashlib.sha384(b"88 early").digest())
    assert (found.signer, found.data) == ("CN=signer,C=USA", endorsement())
    assert (found.valid_from, found.valid_until) == (int(made.START.timestamp()), int(made.END.timestamp()))


def test_a_value_is_of_a_memory_size_or_of_all() -> None:
    found = gce.read(endorsement(), now=NOW)
    assert found.of(MRTD, 16 * GIB) is found.of(MRTD, 5 * GIB) is found.values[0]
    of_88 = found.values[1].mrtd
    assert found.of(of_88, 88 * GIB) is found.values[1]
    assert found.of(of_88, 16 * GIB) is None
    assert found.of(bytes(48), 16 * GIB) is None
    assert str(found.values[2]).endswith(", 88 GiB, all memory accepted early")


def test_no_byte_may_change() -> None:
    data = endorsement()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        with pytest.raises(EvidenceError, match=r"^endorsement-(encoding|root|signature|tdx): "):
            gce.read(bytes(changed), now=NOW)


def test_no_byte_may_be_missing_or_added() -> None:
    data = endorsement()
    for size in range(len(data)):
        with pytest.raises(EvidenceError, match=r"^endorsement-"):
            gce.read(data[:size], now=NOW)
    for more in (b"\0", b"\n", data, bytes(gceformat.MAX_SIZE)):
        with pytest.raises(EvidenceError, match=r"^endorsement-encoding"):
            gce.read(data + more, now=NOW)


NO_TDX = replace(Golden(), tdx=b"")
LATE = datetime(2025, 6, 1, tzinfo=UTC)
SHORT = made.certificate("short", "root")
FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "signed by another key": (lambda: signed(GOOD, "other"), "endorsement-signature"),
    "another salt": (lambda: signed(GOOD, salt=20), "endorsement-signature"),
    "a short key": (lambda: signed(replace(Golden(), leaf=SHORT).encoded(), "short"), "endorsement-signature"),
    "another root": (
        lambda: endorsement(
            replace(
                Golden(),
                leaf=made.certificate("signer", "evil"),
                bundle=pem(made.certificate("evil", "evil", ca=True)),
            )
        ),
        "endorsement-root: got a bundle with",
    ),
    "issued by another root": (
        lambda: endorsement(replace(Golden(), leaf=made.certificate("signer", "root", issuer_key="evil"))),
        "endorsement-root",
    ),
    "issued by an intermediate": (
        lambda: endorsement(
            replace(
                Golden(),
                leaf=made.certificate("signer", "between"),
                bundle=pem(made.root(), made.certificate("between", "root", ca=True)),
            )
        ),
        "endorsement-root",
    ),
    "a CA's certificate": (
        lambda: endorsement(replace(Golden(), leaf=made.certificate("signer", "root", ca=True))),
        "endorsement-root: got a CA's certificate",
    ),
    "not for signatures": (
        lambda: endorsement(replace(Golden(), leaf=made.certificate("signer", "root", signs=False))),
        "endorsement-root: got a certificate that is not for signatures",
    ),
    "a critical extension": (
        lambda: endorsement(replace(Golden(), leaf=made.certificate("signer", "root", critical=True))),
        "endorsement-root: got one with the critical extension",
    ),
    "no certificates": (
        lambda: endorsement(replace(Golden(), bundle=b"\n")),
        "endorsement-root: got a bundle with no",
    ),
    "text in the bundle": (
        lambda: endorsement(replace(Golden(), bundle=b"# root\n" + pem(made.root()))),
        "endorsement-root",
    ),
    "no certificate": (lambda: endorsement(replace(Golden(), leaf=b"0")), "endorsement-root: got unreadable"),
    "a future signer": (
        lambda: endorsement(
            replace(Golden(), leaf=made.certificate("signer", "root", start=datetime(2033, 1, 1, tzinfo=UTC)))
        ),
        "endorsement-future",
    ),
    "an expired signer": (
        lambda: endorsement(replace(Golden(), leaf=made.certificate("signer", "root", end=LATE))),
        "endorsement-expired: its certificates are valid from 2024-01-01T00:00:00Z to 2025-06-01T00:00:00Z",
    ),
    "nothing for TDX": (lambda: endorsement(NO_TDX), "endorsement-tdx: it has no values"),
    "no MRTD": (lambda: endorsement(replace(Golden(), tdx=number(1, 2))), "endorsement-tdx: no value"),
    "a short MRTD": (
        lambda: endorsement(replace(Golden(), tdx=piece(2, measurement(4, MRTD[1:])))),
        "VMTdx.Measurement: field 3 has 47 bytes",
    ),
    "a short digest": (
        lambda: endorsement(replace(Golden(), digest=bytes(47))),
        "VMGoldenMeasurement: field 5 has 47 bytes, expected 48",
    ),
    "an unknown field": (lambda: endorsement(replace(Golden(), more=number(9, 1))), "field 9 of wire type 0 is not"),
    "fields out of order": (lambda: endorsement(replace(Golden(), more=number(2, 1))), "field 2 after field 8"),
    "a field twice": (lambda: signed(GOOD + piece(8, number(1, 2))), "field 8 after field 8"),
    "an explicit zero": (
        lambda: endorsement(replace(Golden(), timestamp=varint(1 << 3) + b"\0")),
        "timestamp: field 1 is written out with its default",
    ),
    "a long number": (
        lambda: endorsement(replace(Golden(), timestamp=varint(1 << 3) + b"\x81\x00")),
        "timestamp: a number with leading zeros",
    ),
    "an endless number": (
        lambda: endorsement(replace(Golden(), timestamp=varint(1 << 3) + b"\xff" * 11)),
        "timestamp: a number of more than 10 bytes",
    ),
    "a number of 70 bits": (
        lambda: endorsement(replace(Golden(), timestamp=varint(1 << 3) + b"\xff" * 9 + b"\x7f")),
        "timestamp: a number with leading zeros, or of more than 64 bits",
    ),
    "a flag that is 2": (
        lambda: endorsement(replace(Golden(), tdx=piece(2, number(2, 2) + piece(3, MRTD)))),
        "field 2 is 2, expected a number of 1 bits",
    ),
    "a number that is bytes": (
        lambda: endorsement(replace(Golden(), tdx=piece(1, b"2"))),
        "VMTdx: field 1 of wire type 2 is not known",
    ),
    "bytes beyond the end": (
        lambda: endorsement(replace(Golden(), tdx=varint(2 << 3 | 2) + varint(99))),
        "a field of 99 bytes, but 0 follow",
    ),
    "SNP: a number of vCPUs twice": (
        lambda: endorsement(replace(Golden(), snp=2 * piece(2, number(1, 2) + piece(2, bytes(48))))),
        "VMSevSnp.measurements: the same number of vCPUs twice",
    ),
    "SNP: a short measurement": (
        lambda: endorsement(replace(Golden(), snp=piece(2, number(1, 2) + piece(2, bytes(47))))),
        "VMSevSnp.measurements: field 2 has 47 bytes",
    ),
    "SNP: too many": (
        lambda: endorsement(
            replace(Golden(), snp=b"".join(piece(2, number(1, n) + piece(2, bytes(48))) for n in range(1, 1030)))
        ),
        "endorsement-encoding",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_name(name: str) -> None:
    build, words = FAULTS[name]
    with pytest.raises(EvidenceError) as caught:
        gce.read(build(), now=NOW)
    assert caught.value.message.startswith("endorsement-")
    assert words in caught.value.message


def test_the_time_counts_when_a_platform_is_learnt_and_not_later() -> None:
    start, end = int(made.START.timestamp()), int(made.END.timestamp())
    for now in (start, NOW, end, None):
        assert gce.read(endorsement(), now=now).valid_until == end
    for now, code in ((start - 1, "endorsement-future"), (end + 1, "endorsement-expired")):
        with pytest.raises(EvidenceError, match=code):
            gce.read(endorsement(), now=now)


def test_only_google_s_root_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gce, "GOOGLE_ROOT_SHA256", PINNED)
    with pytest.raises(EvidenceError, match=f"endorsement-root: .*expected Google's root {gce.GOOGLE_ROOT_SHA256}"):
        gce.read(endorsement(), now=NOW)


def test_measure_describes_an_endorsement(tmp_path: Path) -> None:
    path = tmp_path / "firmware.binarypb"
    path.write_bytes(endorsement())
    found = files.read(path).description
    assert (found.kind, found.facts["firmware"]) == ("gce-endorsement", f"sha384:{made.FIRMWARE.hex()}")
    assert found.facts["mrtd 1"] == f"{MRTD.hex()}, any memory"
    assert "signature was not checked" in found.notes[0]
    path.write_bytes(endorsement()[:-1])
    with pytest.raises(EvidenceError, match=r"firmware.binarypb: endorsement-encoding: VMLaunchEndorsement"):
        files.read(path)


@pytest.mark.parametrize("head", [b"", b"\n", b"\n\x80", b"\n\xff\xff\xff", b"\n\x05abcde", b"\n\n\n{}", b"\n\x80\n"])
def test_other_files_are_no_endorsements(head: bytes) -> None:
    assert not gceformat.is_endorsement(head, len(head))
    assert not gceformat.is_endorsement(head, gceformat.MAX_SIZE + 1)
