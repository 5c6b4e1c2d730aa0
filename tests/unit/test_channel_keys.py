"""Key configurations, the signed record, rotation by time, and the replay set."""

from __future__ import annotations

import itertools
import sys
import tracemalloc
from threading import Barrier, Thread

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.channel_vectors import CHANNEL_KEY, RECORD, SIGNED_RECORD, SIGNER, changes, vector

from privml.base import dsse
from privml.base.errors import EvidenceError, Refused
from privml.base.strictjson import b64, canonical
from privml.channel import mlkem, replay
from privml.channel.kem import KEMS, X25519, X_WING, Kem
from privml.channel.keyconfig import KeyConfig, choose, decode_list, encode_list
from privml.channel.keyring import GRACE_SECONDS, ROTATE_SECONDS, KeyRing
from privml.channel.ohttp import CallerRequest, RequestOpener
from privml.channel.record import PAYLOAD_TYPE, Record, verify
from privml.channel.replay import PLACES, Replayed, ReplaySet, SetFull
from privml.channel.suites import AEADS, CannotOpen

BOTH = (X_WING, X25519)
EXAMPLES = ("rfc9458-example", "chunked-ohttp-example", "chunked-ohttp-xwing-streamed")


SUITES = "key config: %d bytes of suites, expected 4 for each of 1 to 16"


def config(key_id: int = 1, kem: object = X25519) -> KeyConfig:
    chosen = X_WING if kem is X_WING else X25519
    return KeyConfig.of(key_id, chosen, chosen.private(bytes([key_id]) * 32).public)


# --- key configurations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_configurations_of_the_examples_are_read_and_written(name: str) -> None:
    data = bytes.fromhex(vector(name)["key_config"])
    found = KeyConfig.decode(data)
    assert found.key_id == 1
    assert found.encode() == data
    assert found.offers(1, vector(name).get("suite", {"aead": 2})["aead"]) is not None
    if "application_ohttp_keys" in vector(name):
        listed = bytes.fromhex(vector(name)["application_ohttp_keys"])
        assert decode_list(listed) == (found,)
        assert encode_list([found]) == listed


def test_every_change_of_a_configuration_or_list_is_refused_or_another_one() -> None:
    one = config()
    two = encode_list([one, config(2)])
    for data, decode, encode in (
        (one.encode(), KeyConfig.decode, KeyConfig.encode),
        (two, decode_list, encode_list),
    ):
        for changed in changes(data):
            try:
                other = decode(changed)  # type: ignore[operator]
            except EvidenceError as error:
                assert error.message.startswith("key config")
                continue
            assert encode(other) == changed  # type: ignore[operator]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "key config: ends at byte 0, expected 1 more"),
        (b"\1\0\x10" + bytes(70), "key config: KEM 0x0010, expected 0x647a or 0x0020"),
        (config().encode() + b"\0", "key config: 1 bytes after the end"),
        (config().encode()[:-1], "key config: ends at byte 48, expected 1 more"),
        (config().encode()[:35] + b"\0\0", SUITES % 0),
        (config().encode()[:35] + b"\0\5" + bytes(5), SUITES % 5),
        (config().encode()[:35] + b"\0\x44" + bytes(68), SUITES % 68),
        (config().encode()[:35] + b"\0\x08" + b"\0\1\0\1" * 2, "key config: 2 suites, expected 1 to 16, each once"),
    ],
)  # fmt: skip
def test_a_malformed_configuration_is_refused_with_its_name(data: bytes, message: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        KeyConfig.decode(data)
    assert caught.value.message == message


def test_a_list_needs_one_to_sixteen_configurations_with_different_identifiers() -> None:
    many = [config(key_id) for key_id in range(17)]
    assert decode_list(encode_list(many[:16])) == tuple(many[:16])
    for data in (b"", encode_list([many[0], many[0]]), encode_list(many)):
        with pytest.raises(EvidenceError, match=r"^key configs: "):
            decode_list(data)


def test_the_first_usable_configuration_is_chosen_but_post_quantum_before_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wing, plain = config(1, X_WING), config(2)
    assert choose([wing, plain]) == (wing, AEADS[2])
    assert choose([plain, wing]) == (wing, AEADS[2])
    assert choose([plain, config(4)]) == (plain, AEADS[1])
    unknown = KeyConfig(3, X25519, plain.public, ((1, 0x7777), (2, 1)))
    assert unknown.preferred() is None
    assert choose([unknown, wing]) == (wing, AEADS[2])
    with pytest.raises(EvidenceError, match=r"^key configs: none with algorithms that are known here$"):
        choose([unknown])
    monkeypatch.setattr(mlkem, "provider", lambda: None)
    assert choose([wing, plain]) == (plain, AEADS[1])


# --- the signed record ----------------------------------------------------------------------------------------------

KEYS_SHA256 = RECORD.keys_sha256


def test_a_signed_record_is_read_with_the_key_that_signed_it() -> None:
    record = Record(3, KEYS_SHA256, (config(1, X_WING), config(2)))
    assert verify(record.sign(SIGNER.sign), channel_key=CHANNEL_KEY, keys_sha256=KEYS_SHA256) == record
    assert Record.decode(record.encode()) == record


def test_every_change_of_a_signed_record_is_refused() -> None:
    for changed in changes(SIGNED_RECORD):
        with pytest.raises((EvidenceError, Refused)):
            verify(changed, channel_key=CHANNEL_KEY, keys_sha256=KEYS_SHA256)


def test_every_change_of_a_record_is_refused_or_another_record() -> None:
    for changed in changes(RECORD.encode()):
        try:
            other = Record.decode(changed)
        except EvidenceError:
            continue
        assert other != RECORD
        assert other.encode() == changed


def test_a_record_in_another_spelling_is_refused() -> None:
    with pytest.raises(EvidenceError, match=r"^channel record: not canonical JSON$"):
        Record.decode(RECORD.encode() + b"\n")


def test_a_record_of_another_key_boot_or_type_is_refused() -> None:
    other = Ed25519PrivateKey.generate()
    wrong = r"^channel record: not signed by the attested channel key$"
    for key in (other.public_key().public_bytes_raw(), bytes(32), bytes(31)):
        with pytest.raises(Refused, match=wrong):
            verify(SIGNED_RECORD, channel_key=key, keys_sha256=KEYS_SHA256)
    with pytest.raises(
        Refused, match=r"^channel record: of keys section 0001020304050607, expected 0000000000000000$"
    ):
        verify(SIGNED_RECORD, channel_key=CHANNEL_KEY, keys_sha256=bytes(32))
    payload = RECORD.encode()
    for envelope in (
        dsse.Envelope("application/vnd.privml.receipt+json", payload, (dsse.Signature(bytes(64)),)),
        dsse.Envelope(PAYLOAD_TYPE, payload, (dsse.Signature(bytes(64)),) * 2),
        dsse.Envelope(PAYLOAD_TYPE, payload, (dsse.Signature(bytes(64), "hint"),)),
    ):
        with pytest.raises(EvidenceError, match=r"expected type .* and one signature without keyid$"):
            verify(envelope.encode(), channel_key=CHANNEL_KEY, keys_sha256=KEYS_SHA256)
    with pytest.raises(EvidenceError, match=r"not canonical JSON$"):
        verify(SIGNED_RECORD + b"\n", channel_key=CHANNEL_KEY, keys_sha256=KEYS_SHA256)
    with pytest.raises(EvidenceError, match=r"131073 bytes, expected at most 131072$"):
        verify(b" " * 131073, channel_key=CHANNEL_KEY, keys_sha256=KEYS_SHA256)


@pytest.mark.parametrize(
    "changed",
    [
        {"format": "privml-channel/v2"},
        {"seq": 0},
        {"keys_sha256": "00"},
        {"key_configs": []},
        {"key_configs": [b64(config(1).encode())] * 2},
        {"key_configs": [b64(b"\1")]},
        {"more": 1},
    ],
    ids=str,
)
def test_a_record_that_is_not_exactly_v1_is_refused(changed: dict[str, object]) -> None:
    value = {
        "format": "privml-channel/v1",
        "seq": 1,
        "keys_sha256": "00" * 32,
        "key_configs": [b64(config(1).encode())],
    }
    assert Record.decode(canonical(value)).seq == 1
    with pytest.raises(EvidenceError):
        Record.decode(canonical({**value, **changed}))


# --- rotation -------------------------------------------------------------------------------------------------------


def ring(kems: tuple[object, ...] = (X25519,), **times: float) -> KeyRing:
    return KeyRing([kem for kem in KEMS.values() if kem in kems], now=1000.0, places=16, **times)


def test_keys_are_replaced_and_dropped_by_time_only() -> None:
    keys = ring(BOTH)
    first = keys.configs
    assert [one.kem for one in first] == [X_WING, X25519]
    assert keys.next_change == 1000 + ROTATE_SECONDS
    assert not keys.advance(1000 + ROTATE_SECONDS - 1)
    assert keys.advance(1000 + ROTATE_SECONDS)
    assert keys.serial == 1000 + ROTATE_SECONDS
    assert keys.next_change == 1000 + ROTATE_SECONDS + GRACE_SECONDS
    assert not {one.public for one in first} & {one.public for one in keys.configs}
    assert len(keys.alive) == 4
    assert all(keys.find(one.key_id) for one in (*first, *keys.configs))
    assert not keys.advance(1000 + ROTATE_SECONDS + GRACE_SECONDS - 1)
    assert keys.find(first[0].key_id)
    assert not keys.advance(1000 + ROTATE_SECONDS + GRACE_SECONDS)
    assert all(keys.find(one.key_id) is None for one in first)
    assert len(keys.alive) == 2


def test_numbers_of_generations_grow_also_over_a_restart_of_the_server() -> None:
    keys = ring(rotate=1, grace=0)
    numbers = [keys.serial]
    for now in (1001, 1001.9, 1002, 1003):
        keys.advance(now)
        numbers.append(keys.serial)
    again = KeyRing([X25519], now=1004.5, places=2)  # it is started again after a second
    assert numbers == [1000, 1001, 1001, 1002, 1003] and again.serial > numbers[-1]
    assert KeyRing([X25519], now=0.2, places=2).serial == 1


def test_at_most_two_generations_are_alive_at_any_time_and_no_identifier_is_there_twice() -> None:
    keys = ring(BOTH, rotate=10, grace=9)
    last = keys.configs
    for now in itertools.chain(range(1000, 1200), (1300, 1310, 1319, 1320, 5000)):
        if keys.advance(now):
            assert {one.key_id for one in keys.configs}.isdisjoint({one.key_id for one in last})
            last = keys.configs
        alive = [key.config for key in keys.alive]
        for kem in BOTH:
            assert 1 <= sum(one.kem is kem for one in alive) <= 2
        assert len({one.key_id for one in alive}) == len(alive)
        assert now < keys.next_change
    assert len(keys.alive) == 2


@pytest.mark.parametrize("now", [1010, 9000], ids=["in-grace", "after-both"])
def test_a_key_whose_identifier_was_the_last_ones_is_not_taken(monkeypatch: pytest.MonkeyPatch, now: int) -> None:
    seeds = iter([bytes(32), bytes(32), b"\x01" * 32])
    monkeypatch.setattr(Kem, "generate", lambda kem: kem.private(next(seeds)))
    keys = ring(rotate=10, grace=5)
    first = keys.configs[0]
    keys.advance(now)
    assert keys.configs[0].public == X25519.private(b"\x01" * 32).public
    assert keys.configs[0].key_id != first.key_id


def test_requests_never_make_a_key_and_a_full_set_stays_full_until_its_key_is_gone() -> None:
    keys = ring(rotate=10, grace=5)
    key = keys.alive[0]
    for number in range(8):
        key.opened.add(bytes([number]))
    for now in (1001, 1009.5):
        assert not keys.advance(now)
        with pytest.raises(SetFull):
            key.opened.add(b"another")
        with pytest.raises(Replayed):
            key.opened.add(b"\0")
    assert keys.advance(1010)
    assert keys.find(key.config.key_id) is key
    with pytest.raises(Replayed):
        key.opened.add(b"\0")
    keys.alive[-1].opened.add(b"\0")
    keys.advance(1015)
    assert keys.find(key.config.key_id) is None


def test_a_request_for_the_old_key_opens_during_grace_and_not_after() -> None:
    keys = ring(rotate=10, grace=5)
    sealed = [CallerRequest(keys.configs[0], AEADS[1]).whole(b"late") for _ in range(2)]
    keys.advance(1014)
    opener = RequestOpener(keys.find)
    opener.feed(sealed[0])
    assert opener.end().plain == b"late"
    keys.advance(1015)
    with pytest.raises(CannotOpen):
        RequestOpener(keys.find).feed(sealed[1])


def test_the_keys_of_one_generation_share_their_replay_set_and_others_do_not() -> None:
    keys = ring(BOTH, rotate=10, grace=5)
    keys.advance(1010)
    old, new = keys.alive[:2], keys.alive[2:]
    assert old[0].opened is old[1].opened
    assert new[0].opened is new[1].opened
    assert old[0].opened is not new[0].opened


def test_impossible_times_and_kems_are_refused() -> None:
    with pytest.raises(ValueError, match=r"grace 10 s, expected 0 to less than 10 s"):
        ring(rotate=10, grace=10)
    with pytest.raises(ValueError, match=r"0 KEMs"):
        ring(())
    with pytest.raises(ValueError, match=r"2 KEMs"):
        KeyRing([X25519, X25519], now=0)
    with pytest.raises(ValueError, match=r"^time 999, expected at least 1000"):
        ring().advance(999)


# --- the replay set -------------------------------------------------------------------------------------------------


def _allocated_by_the_set() -> int:
    """Bytes that lines of the set's module hold; other threads of this process allocate, too."""
    lines = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, replay.__file__)])
    return sum(each.size for each in lines.statistics("filename"))


def test_a_full_set_takes_as_much_memory_as_an_empty_one() -> None:
    tracemalloc.start()
    try:
        found = ReplaySet(2**14)
        empty = _allocated_by_the_set()
        assert found.size == 2**14 * 8
        assert found.size <= empty < found.size + 2048
        for number in range(found.capacity):
            found.add(number.to_bytes(4, "big"))
        full = _allocated_by_the_set()
    finally:
        tracemalloc.stop()
    assert abs(full - empty) < 256
    assert found.full
    assert len(found) == found.capacity == 2**13
    assert sys.getsizeof(found._table) < found.size + 256
    with pytest.raises(SetFull):
        found.add(b"one more")
    for number in range(found.capacity):
        with pytest.raises(Replayed):
            found.add(number.to_bytes(4, "big"))


def test_the_set_of_a_guest_takes_four_mebibytes() -> None:
    found = ReplaySet()
    assert (found.size, found.capacity) == (4 * 2**20, 2**18)
    assert PLACES == 2**19


def test_sets_have_keys_of_their_own_so_places_cannot_be_chosen() -> None:
    tables = []
    for _ in range(2):
        found = ReplaySet(1024)
        found.add(b"x")
        tables.append(bytes(found._table))
    assert tables[0] != tables[1]
    with pytest.raises(ValueError, match=r"^3 places, expected a power of two$"):
        ReplaySet(3)


def test_of_two_threads_with_the_same_request_one_is_refused() -> None:
    found, together, outcomes = ReplaySet(2**12), Barrier(2), []

    def add_all() -> None:
        together.wait()
        for number in range(1000):
            try:
                found.add(number.to_bytes(4, "big"))
            except Replayed:
                outcomes.append(number)

    threads = [Thread(target=add_all) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == list(range(1000))
    assert len(found) == 1000
