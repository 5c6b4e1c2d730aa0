"""Who a guest answers: anybody, whoever seals, or whoever has a token of the issuer for this boot."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from agent_guest import Guest, a_config, guest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.sealed import request, seal

from privml.agent import identity
from privml.agent.answers import Asked, Denied
from privml.agent.callers import Callers, boot_seconds
from privml.base import dsse
from privml.base.errors import EvidenceError, Refused
from privml.base.strictjson import canonical
from privml.channel import token
from privml.channel.keyconfig import decode_list
from privml.channel.ohttp import GATEWAY
from privml.channel.token import USAGE, Clock, Token, read_clock, read_token
from privml.evidence.sections import RECEIPT_KEY, Keys

CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}).encode()
ISSUER = Ed25519PrivateKey.from_private_bytes(b"i" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
PUBLIC = ISSUER.public_key().public_bytes_raw()
KEYS = b"k" * 32
TOKEN = Token(KEYS, "team-7", 100)


def asked(*authorization: str, channel: str = "tls") -> Asked:
    headers = [(b"authorization", value.encode()) for value in authorization]
    return Asked("POST", CHAT, headers, lambda _: BODY, channel)  # type: ignore[arg-type]


def callers(now: int = 50, **changes: object) -> Callers:
    return Callers(a_config(**changes), OTHER, KEYS, lambda: now)


def refused(made: Callers, request: Asked) -> tuple[int, str]:
    with pytest.raises(Denied) as caught:
        made.admit(request)
    return caught.value.status, caught.value.code


# The format.


def test_a_token_round_trips_and_is_one_word_of_a_header() -> None:
    text = TOKEN.sign(ISSUER.sign)
    assert read_token(text, PUBLIC) == TOKEN
    assert text.isascii() and not any(each.isspace() for each in text) and len(text) < 600


def test_a_token_has_exactly_this_form() -> None:
    envelope = dsse.decode(base64.b64decode(TOKEN.sign(ISSUER.sign)))
    assert envelope.payload_type == "application/vnd.privml.token+json"
    expected = {
        "format": "privml-token/v1",
        "keys_sha256": KEYS.hex(),
        "subject": "team-7",
        "until": 100,
        "use": "inference",
    }
    assert envelope.payload == canonical(expected)


def test_no_altered_byte_of_a_token_is_accepted() -> None:
    data = base64.b64decode(TOKEN.sign(ISSUER.sign))
    made = random.Random(16)
    for at in made.sample(range(len(data)), 60):
        altered = data[:at] + bytes([data[at] ^ (1 << made.randrange(8))]) + data[at + 1 :]
        with pytest.raises((EvidenceError, Refused)):
            read_token(base64.b64encode(altered).decode(), PUBLIC)


@pytest.mark.parametrize(
    "fields",
    [
        {"until": -1},
        {"until": 1.5},
        {"until": 1 << 41},
        {"subject": ""},
        {"subject": "a b"},
        {"subject": "\x1b[2J"},
        {"subject": "x" * 65},
        {"keys_sha256": "ab"},
        {"more": 1},
        {"use": "all"},
        {"format": "privml-token/v2"},
    ],
)
def test_what_an_issuer_signs_is_read_strictly(fields: dict[str, object]) -> None:
    value = {
        "format": "privml-token/v1",
        "keys_sha256": KEYS.hex(),
        "subject": "team-7",
        "until": 100,
        "use": "usage",
        **fields,
    }
    payload = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    signature = dsse.Signature(ISSUER.sign(dsse.pae(token.PAYLOAD_TYPE, payload)))
    text = base64.b64encode(dsse.Envelope(token.PAYLOAD_TYPE, payload, (signature,)).encode()).decode()
    with pytest.raises(EvidenceError):
        read_token(text, PUBLIC)


def test_a_clock_is_of_one_guest() -> None:
    data = Clock(KEYS, 7).sign(OTHER.sign)
    public = OTHER.public_key().public_bytes_raw()
    assert read_clock(data, receipt_key=public, keys_sha256=KEYS) == Clock(KEYS, 7)
    with pytest.raises(Refused, match="expected"):
        read_clock(data, receipt_key=public, keys_sha256=b"x" * 32)
    with pytest.raises(Refused, match="not signed by the attested receipt key"):
        read_clock(data, receipt_key=PUBLIC, keys_sha256=KEYS)
    with pytest.raises(EvidenceError):  # one kind of record is never another
        read_clock(base64.b64decode(TOKEN.sign(OTHER.sign)), receipt_key=public, keys_sha256=KEYS)


# Admission.


def test_a_token_admits_until_its_second() -> None:
    text = f"Bearer {TOKEN.sign(ISSUER.sign)}"
    for now in (0, 100):
        callers(now, callers="tokens", issuer=PUBLIC).admit(asked(text))
    assert refused(callers(101, callers="tokens", issuer=PUBLIC), asked(text)) == (401, "token-expired")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ((), "token-missing"),
        (("Basic YTpi",), "token-missing"),
        (("Bearer",), "token-missing"),
        ((f"Bearer {TOKEN.sign(ISSUER.sign)}",) * 2, "token-missing"),
        (("Bearer sk-123",), "token-malformed"),
        ((f"Bearer {Token(KEYS, 'team-7', 100, USAGE).sign(ISSUER.sign)}",), "token-use"),
        (("Bearer " + "A" * 4000,), "token-malformed"),
        ((f"Bearer  {TOKEN.sign(ISSUER.sign)}",), "token-malformed"),
        ((f"Bearer {TOKEN.sign(OTHER.sign)}",), "token-signature"),
        ((f"Bearer {Token(b'x' * 32, 'team-7', 100).sign(ISSUER.sign)}",), "token-guest"),
    ],
)
def test_without_a_good_token_nobody_is_admitted(headers: tuple[str, ...], code: str) -> None:
    assert refused(callers(callers="tokens", issuer=PUBLIC), asked(*headers)) == (401, code)


@pytest.mark.parametrize("channel", ["ohttp", "wrapped"])
def test_behind_a_terminator_only_sealed_requests_are_admitted(channel: str) -> None:
    made = callers(callers="outer")
    made.admit(asked(channel=channel))
    assert refused(made, asked()) == (403, "sealed-only")


def test_an_open_guest_admits_everybody_and_states_no_clock() -> None:
    made = callers()
    made.admit(asked())
    assert not made.issues


def test_the_clock_is_that_of_the_boot() -> None:
    assert 0 < boot_seconds() <= boot_seconds()


# A guest.


@pytest.fixture(scope="module")
def tokens() -> Iterator[Guest]:
    with guest(a_config(callers="tokens", issuer=PUBLIC)) as made:
        made.start_server()
        assert made.boot().run(), made.said
        yield made


def test_an_issuer_reads_the_clock_and_its_token_is_taken(tokens: Guest) -> None:
    section = identity.section(tokens.layout)
    digest = hashlib.sha256(section).digest()
    status, _, data = tokens.request("GET", token.CLOCK_PATH)
    key = Keys.decode(section).find(*RECEIPT_KEY)
    assert status == 200 and key is not None
    clock = read_clock(data, receipt_key=key, keys_sha256=digest)
    assert abs(clock.boot_seconds - boot_seconds()) < 30
    text = Token(digest, "team-7", clock.boot_seconds + 600).sign(ISSUER.sign)
    before = len(tokens.engine.requests)
    status, _, body = tokens.request("POST", CHAT, BODY)
    assert (status, json.loads(body)["error"]["code"]) == (401, "token-missing")
    assert tokens.request("POST", CHAT, BODY, {"authorization": f"Bearer {text}"})[0] == 200
    (seen,) = tokens.engine.requests[before:]
    assert "authorization" not in seen[1]


def test_a_sealed_request_is_remembered_once_its_token_was_taken(tokens: Guest) -> None:
    digest = hashlib.sha256(identity.section(tokens.layout)).digest()
    configs = decode_list(tokens.request("GET", GATEWAY)[2])
    text = Token(digest, "team-7", boot_seconds() + 600).sign(ISSUER.sign)
    for value, expected in (("Bearer sk-123", [200, 200]), (f"Bearer {text}", [200, 400])):
        sealed = seal(configs, replace(request("POST", CHAT, BODY), fields=(("authorization", value),)))
        answers = [tokens.request("POST", GATEWAY, sealed.body, sealed.headers) for _ in range(2)]
        assert [status for status, _, _ in answers] == expected
    assert json.loads(answers[1][2])["error"]["code"] == "replay"


def test_attestation_health_and_stages_need_no_token(tokens: Guest) -> None:
    for path in ("/healthz", "/readyz", "/boot-stages", f"/.well-known/privml-attestation?nonce={'5a' * 32}"):
        assert tokens.request("GET", path)[0] == 200
