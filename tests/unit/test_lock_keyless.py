"""Signatures that Sigstore certified for an account: a real one, what it must be over, and changes of each part.

`tests/vectors/modelsigning/keyless.sig` is by a developer of the format, over two files with their names as content.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from model_signer import VECTORS
from test_lock_modelsources import Desk, desk, sha256

from privml.base import keyless
from privml.base.errors import EvidenceError, HostError
from privml.image.schemas import manifest_schema
from privml.lock import omsbundle
from privml.lock.lockfile import parse, serialise
from privml.lock.models import Lock
from privml.output.signature import Signature

__all__ = ["desk"]

BUNDLE = (VECTORS / "keyless.sig").read_bytes()
ROOT = (VECTORS / "sigstore-root.json").read_bytes()
SUBJECT, ISSUER = "stefanb@us.ibm.com", "https://sigstore.verify.ibm.com/oauth2"
FILES = {name: sha256(name.encode()) for name in ("signme-1", "signme-2")}
IDENTITY = f"identity: {{subject: {SUBJECT}, issuer: '{ISSUER}', root: models/root.json}}"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name is asked for and no connection made."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def read(data: bytes = BUNDLE, root: bytes = ROOT, subject: str = SUBJECT, issuer: str = ISSUER) -> omsbundle.Signed:
    return omsbundle.read_keyless(data, lambda: keyless.signed_payload(data, root, subject, issuer))


def refusal(**given: Any) -> str:
    with pytest.raises(EvidenceError) as caught:
        read(**given)
    return caught.value.message


def test_a_real_signature_is_read_without_a_network() -> None:
    assert read() == omsbundle.Signed("v1.1.0-sigstore", FILES, alone=False)


@pytest.mark.parametrize(
    "given",
    [
        {"subject": "stefanb@us.ibm.co"},
        {"subject": "someone@us.ibm.com"},
        {"issuer": "https://sigstore.verify.ibm.com/oauth"},
        {"issuer": "https://accounts.google.com"},
    ],
)
def test_another_identity_is_refused(given: dict[str, str]) -> None:
    assert "signature: not a valid signature of" in refusal(**given)


Change = Callable[[dict[str, Any]], None]


def entry(bundle: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = bundle["verificationMaterial"]["tlogEntries"][0]
    return found


def flipped(text: str) -> str:
    """Base64 with another character in the middle."""
    middle = len(text) // 2
    return text[:middle] + ("A" if text[middle] != "A" else "B") + text[middle + 1 :]


CHANGES: dict[str, tuple[Change, str]] = {
    "payload": (lambda b: b["dsseEnvelope"].update(payload=flipped(b["dsseEnvelope"]["payload"])), "not a valid"),
    "signature": (
        lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=flipped(b["dsseEnvelope"]["signatures"][0]["sig"])),
        "not a valid",
    ),
    "certificate": (
        lambda b: b["verificationMaterial"]["certificate"].update(
            rawBytes=flipped(b["verificationMaterial"]["certificate"]["rawBytes"])
        ),
        "not a valid",
    ),
    "no log entry": (lambda b: b["verificationMaterial"]["tlogEntries"].clear(), "tlogEntries: no items"),
    "no proof": (lambda b: entry(b).pop("inclusionProof"), "not a valid"),
    "another proof": (
        lambda b: entry(b)["inclusionProof"]["hashes"].__setitem__(0, entry(b)["inclusionProof"]["rootHash"]),
        "not a valid",
    ),
    "another promise": (
        lambda b: entry(b)["inclusionPromise"].update(
            signedEntryTimestamp=flipped(entry(b)["inclusionPromise"]["signedEntryTimestamp"])
        ),
        "not a valid",
    ),
    "another entry": (
        lambda b: entry(b).update(canonicalizedBody=flipped(entry(b)["canonicalizedBody"])),
        "not a valid",
    ),
    "another time": (lambda b: entry(b).update(integratedTime="1760092340"), "not a valid"),
    "another log": (lambda b: entry(b)["logId"].update(keyId=flipped(entry(b)["logId"]["keyId"])), "not a valid"),
    "a key": (lambda b: b["verificationMaterial"].update(publicKey={"hint": "x"}), "publicKey: signed with a key"),
    "more": (lambda b: b.update(more=1), "signature.more: unknown field"),
    "more material": (lambda b: b["verificationMaterial"].update(more=1), "verificationMaterial.more: unknown field"),
    "an older bundle": (
        lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1"),
        "mediaType: got",
    ),
    "two signatures": (
        lambda b: b["dsseEnvelope"]["signatures"].append(b["dsseEnvelope"]["signatures"][0]),
        "signatures",
    ),
    "another type": (lambda b: b["dsseEnvelope"].update(payloadType="text/plain"), ""),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_changed_part_is_refused(name: str) -> None:
    change, message = CHANGES[name]
    bundle = json.loads(BUNDLE)
    change(bundle)
    assert message in refusal(data=json.dumps(bundle).encode())


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("certificateAuthorities", "trusted root is malformed: Fulcio certificates not found"),
        ("tlogs", "trusted root is malformed: trusted root contains no transparency log"),
        ("ctlogs", "not a valid signature of"),
        ("timestampAuthorities", "not a valid signature of"),
    ],
)
def test_a_root_without_one_of_its_parts_is_not_enough(part: str, message: str) -> None:
    root = json.loads(ROOT)
    root[part] = []
    assert message in refusal(root=json.dumps(root).encode())


@pytest.mark.parametrize("root", [b"", b"{}", b"[]", ROOT[:-40], b"\xff"])
def test_a_malformed_root_is_refused(root: bytes) -> None:
    assert "trusted root is malformed" in refusal(root=root)


def test_readers_that_disagree_are_refused() -> None:
    with pytest.raises(EvidenceError, match="two readers disagree"):
        omsbundle.read_keyless(BUNDLE, lambda: b"{}")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sigstore.verify", None)
    with pytest.raises(HostError) as caught:
        read()
    assert "signatures of accounts and workflows" in caught.value.message
    assert "pip install 'privml-build[sigstore]'" in caught.value.message


# In a lock: the signed files are no GGUF, so the check is asked directly.


def test_the_lock_has_the_identity_and_refuses_other_files(desk: Desk) -> None:
    import gguf_file as g

    desk.put("m.gguf", g.SMALL)
    desk.put("m.sig", BUNDLE)
    desk.put("root.json", ROOT)
    said = desk.refusal(f'source: "file:models/m.gguf", signature: {{file: models/m.sig, {IDENTITY}}}')
    assert "the signature is by the signer, but not over exactly the files" in said
    assert "m.gguf: not signed" in said
    assert "signme-1: signed, and not a file of the model" in said
    (desk.folder / "models/root.json").unlink()
    said = desk.refusal(f'source: "file:models/m.gguf", signature: {{file: models/m.sig, {IDENTITY}}}')
    assert "signature.identity.root: there is no file `models/root.json`" in said


def test_a_signed_lock_is_read_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf_file as g
    import model_signer as signer

    desk.put("m.gguf", g.SMALL)
    payload = json.dumps(signer.statement({"m.gguf": sha256(g.SMALL)})).encode()
    bundle = json.loads(BUNDLE)
    bundle["dsseEnvelope"]["payload"] = json.loads(signer.bundle(payload))["dsseEnvelope"]["payload"]
    desk.put("m.sig", json.dumps(bundle).encode())
    desk.put("root.json", ROOT)
    # What Sigstore's own check says is tried above; no account can sign here.
    monkeypatch.setattr(keyless, "signed_payload", lambda *_: payload)
    lock = desk.lock(f'source: "file:models/m.gguf", signature: {{file: models/m.sig, {IDENTITY}}}')
    (model,) = lock.models
    assert str(model.signature) == f"identity {SUBJECT} ({ISSUER})"
    assert parse(serialise(lock), Lock, "x") == lock


def test_a_manifest_names_the_identity() -> None:
    found = Signature("identity", "0" * 64, subject=SUBJECT, issuer=ISSUER)
    assert found.to_dict() == {"signer": "identity", "sha256": "0" * 64, "subject": SUBJECT, "issuer": ISSUER}
    assert str(found) == f"identity {SUBJECT} ({ISSUER})"
    assert "identity" in json.dumps(manifest_schema())
