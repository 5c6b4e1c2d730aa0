"""`token issue` and `proxy --caller-token`: from an issuer's key to an answered request, with the real agent."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import attestation_samples as samples
import pytest
from agent_guest import Guest, a_config, guest, prediction
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from test_cli_main import Outcome, as_found, captured, image, place  # noqa: F401 - fixtures
from test_client_proxy import ask, proxied

from privml.base.errors import HostError, UsageError
from privml.channel.token import Token, guest_of, read_token
from privml.cli import token as verb
from privml.client import attested
from privml.client.connection import GuestConnection
from privml.client.gate import Gate
from privml.client.guests import Guest as Upstream
from privml.client.guests import Guests
from privml.client.tokens import GuestTokens, clock_of
from privml.verify.anchor import Built, Expected
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy

ISSUER = Ed25519PrivateKey.from_private_bytes(b"i" * 32)
PUBLIC = ISSUER.public_key().public_bytes_raw()
BASE = ["--expect", "out/demo-cpu", "--allow-simulated", "root.pem"]
CHAT = "/v1/chat/completions"
NONCE = b"n" * 32


def pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture(scope="module")
def served() -> Iterator[Guest]:
    with guest(a_config(callers="tokens", issuer=PUBLIC)) as made:
        made.start_server()
        assert made.boot().run(), made.said
        made.connect().close()
        yield made


@pytest.fixture
def desk(place: Path, served: Guest, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A desk whose `verify` expects what ``served`` was given, and the issuer's key."""
    captured(place)
    (place / "issuer.pem").write_bytes(pem(ISSUER))
    expected = Expected(prediction(served), Built("out"))
    real = attested.attest
    monkeypatch.setattr(
        verb.attested,
        "attest",
        lambda url, _, policy, **more: real(url, expected, samples.SIMULATED, now=int(time.time())),
    )
    return place


def url(made: Guest) -> str:
    return f"https://127.0.0.1:{made.config.listen}"


def judged(made: Guest, document: bytes, nonce: bytes, key: bytes, policy: Policy = samples.SIMULATED) -> Judgement:
    expected = Expected(prediction(made), Built("out"))
    return attested.judge(document, expected, policy, now=int(time.time()), nonce=nonce, tls_spki_sha256=key)


def guests(made: Guest, tokens: GuestTokens | None) -> Guests:
    found = Guests([Upstream(Gate(url(made), partial(judged, made)))])
    if tokens is not None:
        found.present = tokens.present
    return found


def test_an_issued_token_opens_the_guest_through_the_proxy(
    desk: Path, served: Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("token", "issue", url(served), *BASE, "--key", "issuer.pem", "--subject", "team-7")
    done = Outcome(capsys, *words, "--seconds", "60")
    assert done.code == 10 and "for team-7, 60 s" in done.stderr
    text = done.stdout.strip()
    claims = read_token(text, PUBLIC)
    assert claims.subject == "team-7"
    (desk / "tokens").write_text(f"{Token(b'x' * 32, 'team-7', 1).sign(ISSUER.sign)}\n{text}\n")
    (desk / "tokens").chmod(0o600)
    body = b'{"messages":[]}'
    with proxied(guests(served, GuestTokens(desk / "tokens"))) as port:
        assert ask(port, CHAT, body) == (200, {"choices": []})
    with proxied(guests(served, None)) as port:
        status, answer = ask(port, CHAT, body)
        assert (status, answer["error"]["code"]) == (401, "token-missing")


def test_json_says_for_which_guest_and_until_when(
    desk: Path, served: Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("token", "issue", url(served), *BASE, "--key", "issuer.pem", "--subject", "a")
    found = json.loads(Outcome(capsys, *words, "--json").stdout)
    assert found["until"] == found["boot_seconds"] + 600
    assert guest_of(found["token"]).hex() == found["keys_sha256"]


def test_nothing_is_signed_for_a_refused_guest(
    desk: Path, served: Guest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = attested.fetch(url(served), NONCE)
    judgement = judged(served, fetched.document, b"1" * 32, fetched.tls_spki_sha256)
    result = attested.Attested(NONCE, fetched.document, fetched.tls_spki_sha256, judgement)
    monkeypatch.setattr(verb.attested, "attest", lambda *_, **__: result)
    monkeypatch.setattr(verb.signer, "load", lambda *_: pytest.fail("loaded the key"))
    done = Outcome(capsys, "token", "issue", url(served), *BASE, "--key", "issuer.pem", "--subject", "a")
    assert done.code == 8 and "nonce" in done.stdout


def test_usage_is_printed_with_the_number_to_ask_for_next(
    desk: Path, served: Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines themselves need a minute: tests/unit/test_agent_usage.py."""
    words = ("token", "usage", url(served), *BASE, "--key", "issuer.pem")
    done = Outcome(capsys, *words)
    assert (done.code, done.stdout) == (10, "") and done.stderr.startswith("next: --since ")
    found = json.loads(Outcome(capsys, *words, "--json").stdout)
    assert found["lines"] == [] and found["boot_seconds"] > 0
    following = found["next"]
    assert found["first"] == following > 2048
    done = Outcome(capsys, *words, "--since", "5")
    assert done.code == 10 and f"warning: nothing from line 5 to line {following - 1}: lines are not" in done.stderr
    done = Outcome(capsys, *words, "--since", str(following + 5))
    said = f"usage ends at line {following}, expected {following + 5} or more: the guest's server was started"
    assert done.code == 8 and said in done.stderr
    (desk / "issuer.pem").write_bytes(pem(Ed25519PrivateKey.from_private_bytes(b"o" * 32)))
    done = Outcome(capsys, *words)
    assert done.code == 2 and "takes no token of this key" in done.stderr


def test_only_an_ed25519_key_issues(desk: Path, served: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "other.pem").write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    done = Outcome(capsys, "token", "issue", url(served), *BASE, "--key", "other.pem", "--subject", "a")
    assert done.code == 2 and "expected an Ed25519 key" in done.stderr
    done = Outcome(capsys, "token", "issue", url(served), *BASE, "--key", "issuer.pem", "--subject", "a b")
    assert done.code == 2 and "--subject" in done.stderr


def test_a_guest_without_an_issuer_states_no_clock() -> None:
    with guest() as made:
        made.start_server()
        assert made.boot().run(), made.said
        made.connect().close()
        fetched = attested.fetch(url(made), NONCE)
        keys = judged(made, fetched.document, NONCE, fetched.tls_spki_sha256).keys
        assert keys is not None
        with pytest.raises(UsageError, match="takes no tokens"):
            clock_of(url(made), keys)


def test_a_guest_that_ends_early_is_a_host_error(served: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> None:
        raise http.client.IncompleteRead(b"")

    fetched = attested.fetch(url(served), NONCE)
    keys = judged(served, fetched.document, NONCE, fetched.tls_spki_sha256).keys
    assert keys is not None
    monkeypatch.setattr(GuestConnection, "get", cut)
    with pytest.raises(HostError, match="closed before the end of the response"):
        clock_of(url(served), keys)


# The file of tokens.


def written(path: Path, *lines: str, mode: int = 0o600) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(mode)
    return path


def a_token(byte: int) -> str:
    return Token(bytes([byte]) * 32, "a", 5).sign(ISSUER.sign)


def test_tokens_are_read_again_when_the_file_changes(tmp_path: Path) -> None:
    path = written(tmp_path / "tokens", a_token(1))
    found = GuestTokens(path)
    assert set(found._tokens) == {b"\x01" * 32}
    written(tmp_path / "new", a_token(2), a_token(3)).replace(path)
    found._read()
    assert set(found._tokens) == {b"\x02" * 32, b"\x03" * 32}
    path.write_text("nonsense\n")
    os.utime(path, ns=(1, 1))
    with pytest.raises(UsageError):
        found._read()
    assert set(found._tokens) == {b"\x02" * 32, b"\x03" * 32}


def test_tokens_whose_mode_was_put_right_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "tokens", a_token(1))
    found = GuestTokens(path)
    written(tmp_path / "new", a_token(2), mode=0o644).replace(path)
    with pytest.raises(UsageError, match="got mode 644"):
        found._read()
    path.chmod(0o600)
    found._read()
    assert set(found._tokens) == {b"\x02" * 32}


@pytest.mark.parametrize(
    ("lines", "mode", "text"),
    [
        ([], 0o600, "0 tokens, expected 1 to 64"),
        (["sk-1234"], 0o600, "token"),
        ([a_token(1)] * 65, 0o600, "expected 1 to 64"),
        ([a_token(1)], 0o640, "others may read these tokens: got mode 640"),
    ],
)
def test_a_bad_file_of_tokens_is_refused_at_the_start(tmp_path: Path, lines: list[str], mode: int, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        GuestTokens(written(tmp_path / "tokens", *lines, mode=mode))
