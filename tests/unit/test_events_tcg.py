"""TCG logs: the published logs replay to their quotes; anything malformed is EvidenceError."""

import json
import struct
from pathlib import Path

import pytest
from tests.published import read

from privml.base.errors import EvidenceError
from privml.events.registers import RTMR0, RTMR1, RTMR2, RTMR3, register_named, register_of_index, register_of_pcr
from privml.events.replay import extend, replay, replay_digests, replay_tpm_as_rtmrs
from privml.events.tcg import ALG_SHA256, ALG_SHA384, LogEntry, encode_log, parse_log
from privml.events.types import EV_NO_ACTION, EV_SEPARATOR

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests/vectors/measurement"
EXPECTED = json.loads((VECTORS / "replay_expected.json").read_text())


def vector(name: str) -> bytes:
    return read(f"measurement/{name}")


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_published_logs_replay_to_the_quoted_registers(name: str) -> None:
    expected = EXPECTED[name]
    entries = parse_log(vector(name))
    assert len(entries) == expected["events"] - 1  # the Spec ID event is counted there
    values = replay(entries)
    assert {r: v.hex() for r, v in values.items() if r != RTMR3} == {
        key: value for key, value in expected.items() if key != "events"
    }
    assert values[RTMR3] == bytes(48)


def test_logs_replay_to_the_registers_of_their_quotes() -> None:
    quote = vector("gcp-cos113/cos-113-tdx-quote.dat")
    values = replay(parse_log(vector("gcp-cos113/ccel_data.dat")))
    fields = json.loads(vector("quote_fields.json"))["gcp-cos113/cos-113-tdx-quote.dat"]
    for number, register in enumerate((RTMR0, RTMR1, RTMR2)):
        at = 48 + 328 + 48 * number
        assert quote[at : at + 48] == values[register] == bytes.fromhex(fields[register])


def entry(index: int = 1, data: bytes = b"x", kind: int = EV_SEPARATOR) -> LogEntry:
    return LogEntry(index, kind, {ALG_SHA384: bytes(range(48))}, data)


def test_a_log_round_trips() -> None:
    entries = [entry(1), entry(3, b""), entry(0, b"note", EV_NO_ACTION)]
    assert parse_log(encode_log(entries, pad_to=4096)) == entries
    assert len(encode_log(entries, pad_to=4096)) == 4096
    banks = {ALG_SHA256: 32, ALG_SHA384: 48}
    two = [LogEntry(7, 4, {ALG_SHA256: bytes(32), ALG_SHA384: bytes(48)}, b"")]
    assert parse_log(encode_log(two, banks)) == two


def test_encode_refuses_other_banks() -> None:
    with pytest.raises(EvidenceError, match="declared algorithms"):
        encode_log([LogEntry(1, 4, {ALG_SHA256: bytes(32)}, b"")])


@pytest.mark.parametrize("cut", [1, 10, 31, 32, 60, 70, 100, 130])
def test_a_cut_log_is_refused(cut: int) -> None:
    log = encode_log([entry()])
    with pytest.raises(EvidenceError):
        parse_log(log[: len(log) - cut])


def test_a_huge_size_does_not_over_read() -> None:
    log = bytearray(encode_log([entry()]))
    log[-5:-1] = struct.pack("<I", 0xFFFFFFF0)
    with pytest.raises(EvidenceError, match="cut off"):
        parse_log(bytes(log))


def test_digest_count_and_algorithms_must_match_the_header() -> None:
    log = encode_log([entry()])
    start = len(log) - (12 + 2 + 48 + 4 + 1)
    for offset, value in ((8, 0), (8, 2), (12, ALG_SHA256)):
        bad = bytearray(log)
        struct.pack_into("<H", bad, start + offset, value)
        with pytest.raises(EvidenceError):
            parse_log(bytes(bad))


def test_an_event_without_digests_is_refused_although_it_is_whole() -> None:
    with pytest.raises(EvidenceError, match="0 digests"):
        parse_log(encode_log([entry()]) + struct.pack("<IIII", 1, 4, 0, 0))


def test_only_0xff_and_zeros_are_padding() -> None:
    log = encode_log([entry()])
    assert parse_log(log + b"\xff" * 3) == [entry()]
    assert parse_log(log + bytes(3)) == parse_log(log + bytes(4096)) == [entry()]
    with pytest.raises(EvidenceError, match="0 digests"):
        parse_log(log + bytes(4096) + b"\1")
    with pytest.raises(EvidenceError, match="padding"):
        parse_log(log + b"\xff" * 8 + b"\0")


def test_an_old_sha1_log_is_refused() -> None:
    with pytest.raises(EvidenceError, match="crypto-agile"):
        parse_log(struct.pack("<II20sI", 0, 8, bytes(20), 4) + b"abcd")
    with pytest.raises(EvidenceError):
        parse_log(b"")


def test_replay_follows_the_rules_of_the_specification() -> None:
    assert extend(bytes(48), bytes(48)) == replay_digests([bytes(48)])
    with pytest.raises(EvidenceError):
        extend(bytes(48), bytes(32))
    assert replay([entry(0, b"", EV_NO_ACTION)])[RTMR0] == bytes(48)
    with pytest.raises(EvidenceError, match="MRTD"):
        replay([entry(0)])
    with pytest.raises(EvidenceError, match="index is 5"):
        replay([entry(5)])
    assert replay_tpm_as_rtmrs([entry(0)]) == replay([])
    assert replay_tpm_as_rtmrs([entry(11)])[RTMR2] == replay([entry(3)])[RTMR2]
    with pytest.raises(EvidenceError, match="SHA-384"):
        replay_tpm_as_rtmrs([LogEntry(1, 4, {ALG_SHA256: bytes(32)}, b"")])
    with pytest.raises(EvidenceError, match="PCR 16"):
        replay_tpm_as_rtmrs([entry(16)])


def test_the_pcr_map_is_the_specification_s() -> None:
    names = [register_of_pcr(pcr).upper() for pcr in range(16)]
    assert names == ["MRTD", "RTMR0", *["RTMR1"] * 5, "RTMR0", *["RTMR2"] * 8]
    assert register_named("rtmr3") == RTMR3
    with pytest.raises(EvidenceError):
        register_named("RTMR0")
    with pytest.raises(EvidenceError):
        register_of_index(-1)
