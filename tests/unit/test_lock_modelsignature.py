"""Signatures of models: read, compared with the locked files, and named in the lock.

The signatures in `tests/vectors/modelsigning` were made by the package model-signing.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_file as g
import model_signer as signer
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from model_signer import VECTORS
from test_lock_modelsources import PARTS, Desk, desk, files_of, sha256

from privml.base.errors import EvidenceError, InputsError, RecipeError
from privml.lock import omsbundle
from privml.lock.changes import changes
from privml.lock.lockfile import parse, serialise
from privml.lock.make import Current, check
from privml.lock.modelrecord import Signature
from privml.lock.models import Lock
from privml.recipe.packages import guest_packages

__all__ = ["desk"]

SOURCE = 'source: "file:models/m.gguf"'
NAMED = "signature: {file: models/m.sig, key: models/k.pem}"
SIGNED = f"{SOURCE}, {NAMED}"
OF_FILE = {"m.gguf": sha256(g.SMALL)}
FIRST = next(iter(PARTS))


def vector(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


def key(name: str) -> omsbundle.SigningKey:
    return omsbundle.signing_key(vector(f"{name}.pem"))


def refusal(data: bytes, pem: bytes = signer.PEM) -> str:
    with pytest.raises(EvidenceError) as caught:
        omsbundle.read(data, omsbundle.signing_key(pem))
    return str(caught.value)


# The format.


@pytest.mark.parametrize("name", ["p256", "p384", "p521"])
def test_a_signature_of_each_curve_is_read(name: str) -> None:
    found = omsbundle.read(vector(f"alone-{name}.sig"), key(name))
    assert found == omsbundle.Signed("m.gguf", OF_FILE, alone=True)


@pytest.mark.parametrize("name", ["p256", "p384", "p521"])
def test_a_signature_from_before_model_signing_1_1_is_read(name: str) -> None:
    found = omsbundle.read(vector(f"old-{name}.sig"), key(name))
    assert found == omsbundle.Signed("small", OF_FILE, alone=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rawBytes": base64.b64encode(vector("p384.pem")).decode()}, "publicKey.rawBytes: made with another key"),
        ({"keyDetails": "PKIX_ECDSA_P384_SHA_384"}, "publicKey.keyDetails: got `PKIX_ECDSA_P384_SHA_384`, expected"),
        ({"hint": "x"}, "publicKey.hint: unknown field"),
    ],
)
def test_an_older_signature_that_names_another_key_is_refused(change: dict[str, str], message: str) -> None:
    document = json.loads(vector("old-p256.sig"))
    document["verificationMaterial"]["publicKey"] |= change
    assert message in refusal(json.dumps(document).encode(), vector("p256.pem"))


def test_a_signature_of_a_folder_names_each_file() -> None:
    found = omsbundle.read(vector("split.sig"), key("p384"))
    assert found == omsbundle.Signed("split", {name: sha256(data) for name, data in PARTS.items()}, alone=False)


def test_what_the_signer_left_out_is_not_signed() -> None:
    assert list(omsbundle.read(vector("with-readme.sig"), key("p256")).files) == ["README.md", "m.gguf"]
    assert list(omsbundle.read(vector("readme-ignored.sig"), key("p256")).files) == ["m.gguf"]


@pytest.mark.parametrize(
    ("file", "by", "message"),
    [
        ("alone-p256", "p384", "signature.verificationMaterial.publicKey.hint: made with another key: got"),
        ("certificate", "p256", "x509CertificateChain: signed with a certificate, expected a key"),
        ("shards", "p256", "signature: payload: number 64.0 is not an integer"),
        ("blake3", "p256", "serialization.hash_type: got `blake3`, expected one of sha256"),
    ],
)
def test_a_signature_by_another_key_or_in_another_form_is_refused(file: str, by: str, message: str) -> None:
    assert message in refusal(vector(f"{file}.sig"), vector(f"{by}.pem"))


def test_the_test_s_own_signatures_are_read() -> None:
    found = omsbundle.read(signer.bundle(signer.statement(OF_FILE)), omsbundle.signing_key(signer.PEM))
    assert found == omsbundle.Signed("model", OF_FILE, alone=False)


Change = Callable[[dict[str, Any]], None]
WRONG: dict[str, tuple[Change, str]] = {
    "statement": (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "payload._type: got `https"),
    "predicate": (lambda s: s.update(predicateType="https://model_signing/Digests/v0.1"), "predicateType: got"),
    "more in the statement": (lambda s: s.update(more=1), "payload.more: unknown field"),
    "more in the predicate": (lambda s: s["predicate"].update(card={}), "payload.predicate.card: unknown field"),
    "two subjects": (lambda s: s["subject"].append(s["subject"][0]), "payload.subject: 2 items"),
    "no subject": (lambda s: s["subject"].clear(), "payload.subject: no items, expected one"),
    "another root": (
        lambda s: s["subject"][0]["digest"].update(sha256="00" * 32),
        f"digest.sha256: got {'00' * 32}, and the listed files give {signer.root(OF_FILE)}",
    ),
    "a second digest": (lambda s: s["subject"][0]["digest"].update(sha512="00"), "digest.sha512: unknown field"),
    "a path as name": (lambda s: s["subject"][0].update(name="../m"), "subject[0].name: got `../m`"),
    "no files": (lambda s: s["predicate"]["resources"].clear(), "resources: no items, expected the files"),
    "a file twice": (
        lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0]),
        "resources: `m.gguf` is given twice",
    ),
    "a path outside": (lambda s: s["predicate"]["resources"][0].update(name="a/../m"), "[0].name: got `a/../m`"),
    "another digest": (lambda s: s["predicate"]["resources"][0].update(algorithm="blake2b"), "got `blake2b`"),
    "itself among others": (
        lambda s: s["predicate"]["resources"].append({"name": ".", "algorithm": "sha256", "digest": "00" * 32}),
        "resources[1].name: got `.`",
    ),
    "pieces": (lambda s: s["predicate"]["serialization"].update(method="shards"), "method: got `shards`"),
    "a signed file ignored": (
        lambda s: s["predicate"]["serialization"].update(ignore_paths=["m.gguf"]),
        "`m.gguf` is signed, and also in ignore_paths",
    ),
    "an ignored path outside": (
        lambda s: s["predicate"]["serialization"].update(ignore_paths=["../x"]),
        "ignore_paths: got `../x`, expected paths in the model",
    ),
    "an ignored number": (lambda s: s["predicate"]["serialization"].update(ignore_paths=[1]), "got `1`"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_content_under_a_valid_signature_is_refused(name: str) -> None:
    change, message = WRONG[name]
    made = copy.deepcopy(signer.statement(OF_FILE))
    change(made)
    assert message in refusal(signer.bundle(made))


def test_a_valid_signature_over_another_type_is_refused() -> None:
    said = refusal(signer.bundle(signer.statement(OF_FILE), kind="application/json"))
    assert "payloadType: got `application/json`, expected application/vnd.in-toto+json" in said


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a public key: expected one `PUBLIC KEY` in PEM"),
        (b"x" * 5000, "key: 5000 bytes, expected at most 4096"),
        (signer.PEM + signer.PEM, "more than a key"),
        (b"text\n" + signer.PEM, "more than a key"),
        (b"-----BEGIN PRIVATE KEY-----\n", "a private key, expected the public one"),
    ],
)
def test_a_file_that_is_not_one_public_key_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        omsbundle.signing_key(data)
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", ["ed25519", "secp256k1", "rsa"])
def test_a_key_of_another_kind_is_refused(kind: str) -> None:
    made: Any = {
        "ed25519": lambda: ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)),
        "secp256k1": lambda: ec.derive_private_key(1, ec.SECP256K1()),
        "rsa": lambda: rsa.generate_private_key(65537, 1024),
    }[kind]()
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = made.public_key().public_bytes(serialization.Encoding.PEM, info)
    with pytest.raises(EvidenceError, match=f"(?i)a key of the kind {kind}.*expected one `PUBLIC KEY` in PEM"):
        omsbundle.signing_key(pem)


# In a lock.


@pytest.fixture
def signed(desk: Desk) -> Desk:
    """A desk with a model, its signature and the signer's key."""
    desk.put("m.gguf", g.SMALL)
    desk.put("m.sig", vector("alone-p256.sig"))
    desk.put("k.pem", vector("p256.pem"))
    return desk


def test_the_lock_names_signer_and_signature(signed: Desk) -> None:
    lock = signed.lock(SIGNED)
    expected = Signature(signer="key", key_id=key("p256").key_id, sha256=sha256(vector("alone-p256.sig")))
    assert lock.models[0].signature == expected
    assert parse(serialise(lock), Lock, "x") == lock
    der = base64.b64decode((VECTORS / "p256.pem").read_text().split("-----")[2])
    assert expected.key_id == sha256(der)


def test_a_model_without_a_signature_has_none_and_loses_one_that_the_recipe_drops(signed: Desk) -> None:
    first = signed.lock(SIGNED)
    second = signed.lock(SOURCE, first)
    assert second.models[0].signature is None
    name = first.models[0].name
    assert f"model {name}: not signed" in changes(first, second)
    assert f"model {name}: signed by key {key('p256').key_id}" in changes(second, first)


def test_a_renewed_lock_checks_the_signature_again(signed: Desk) -> None:
    first = signed.lock(SIGNED)
    signed.put("m.sig", vector("alone-p384.sig"))
    with pytest.raises(InputsError, match="made with another key"):
        signed.lock(SIGNED, first)
    signed.put("k.pem", vector("p384.pem"))
    assert signed.model(SIGNED, first).signature != first.models[0].signature


def test_a_split_model_is_signed_as_a_folder(desk: Desk) -> None:
    for name, data in PARTS.items():
        desk.put(name, data)
    desk.put("m.sig", vector("split.sig"))
    desk.put("k.pem", vector("p384.pem"))
    assert desk.model(f'source: "file:models/{FIRST}", {NAMED}').signature is not None


def test_a_folder_in_the_source_may_be_what_was_signed(signed: Desk) -> None:
    digests = {f"gguf/{name}": sha256(data) for name, data in PARTS.items()}
    listed = files_of({f"gguf/{name}": data for name, data in PARTS.items()})
    for data in PARTS.values():
        signed.store.add_bytes(data)
    signed.put("k.pem", signer.PEM)
    source = f'source: "https://models.example.invalid/x/", {listed}, {NAMED}'
    for prefix in ("gguf/", ""):
        signed.put("m.sig", signer.bundle(signer.statement({k[5:]: v for k, v in digests.items()})))
        if prefix:
            signed.put("m.sig", signer.bundle(signer.statement(digests)))
        made = signed.model(source).signature
        assert made is not None and made.key_id == signer.KEY_ID
    signed.put("m.sig", signer.bundle(signer.statement({f"other/{k}": v for k, v in digests.items()})))
    assert f"other/gguf/{FIRST}: signed, and not a file of the model" in signed.refusal(source)


WHERE = "x.yaml:9 inference.models[0].signature"
OTHERS = {
    "more signed": (
        "with-readme.sig",
        [f"{WHERE}: the signature is by the signer, but", "README.md: signed, and not a"],
    ),
    "other bytes": ("alone-p256.sig", ["m.gguf: got sha256", f"signed is {OF_FILE['m.gguf']}"]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_signature_over_other_files_is_refused_by_name(signed: Desk, name: str) -> None:
    file, messages = OTHERS[name]
    signed.put("m.sig", vector(file))
    if name == "other bytes":
        signed.put("m.gguf", g.model())
    said = signed.refusal(SIGNED)
    assert all(message in said for message in messages), said


def test_locked_files_that_are_not_signed_are_named(desk: Desk) -> None:
    for name, data in PARTS.items():
        desk.put(name, data)
    some = {name: sha256(data) for name, data in list(PARTS.items())[:2]}
    desk.put("m.sig", signer.bundle(signer.statement(some)))
    desk.put("k.pem", signer.PEM)
    assert f"\n  {list(PARTS)[2]}: not signed" in desk.refusal(f'source: "file:models/{FIRST}", {NAMED}')
    desk.put("m.sig", signer.bundle(signer.statement({".": some[FIRST]}, name=FIRST)))
    assert "not signed" in desk.refusal(f'source: "file:models/{FIRST}", {NAMED}')


@pytest.mark.parametrize(("name", "field"), [("m.sig", "file"), ("k.pem", "key")])
def test_a_missing_file_is_named_with_its_field(signed: Desk, name: str, field: str) -> None:
    (signed.folder / "models" / name).unlink()
    assert signed.refusal(SIGNED) == f"{WHERE}.{field}: there is no file `models/{name}`"


@pytest.fixture
def stale(signed: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Lock], str]:
    """What makes a lock of the signed model stale; empty if nothing does."""
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path / "cache"))
    recipe = signed.recipe(SIGNED)
    current = Current(recipe.digest, signed.tree, signed.tree, "4" * 64)

    def reason(lock: Lock) -> str:
        lock = lock.model_copy(update={"packages_requested": tuple(map(str, guest_packages(recipe)))})
        try:
            check(recipe, lock, current)
        except InputsError as error:
            return str(error)
        return ""

    return reason


def test_a_lock_is_stale_when_its_signature_or_key_is_another_or_gone(
    signed: Desk, stale: Callable[[Lock], str]
) -> None:
    lock = signed.lock(SIGNED)
    assert stale(lock) == ""
    again = signer.bundle(signer.statement({".": OF_FILE["m.gguf"]}, name="m.gguf"))
    signed.put("m.sig", again)
    assert "model smollm2-135m-instruct: x.yaml:9 inference.models[0].signature.file: models/m.sig" in stale(lock)
    signed.put("k.pem", signer.PEM)
    assert "model smollm2-135m-instruct: its signature changed after the lock was written" in stale(lock)
    (signed.folder / "models/m.sig").unlink()
    assert f"{WHERE}.file: there is no file `models/m.sig`" in stale(lock)


def test_an_edited_lock_is_stale_when_its_files_are_not_the_signed_ones(
    signed: Desk, stale: Callable[[Lock], str]
) -> None:
    lock = signed.lock(SIGNED)
    (model,) = lock.models
    (signed.folder / "models/m.gguf").unlink()
    other = model.model_copy(update={"files": (model.files[0].model_copy(update={"sha256": "0" * 64}),)})
    assert "not over exactly the files of model" in stale(lock.model_copy(update={"models": (other,)}))
    unsigned = model.model_copy(update={"signature": None})
    assert "its signature changed" in stale(lock.model_copy(update={"models": (unsigned,)}))


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("{file: a.sig}", "expected either `key` or `identity`"),
        ("{file: /a.sig, key: k.pem}", "signature.file: got `/a.sig`, expected the path of a file"),
        ("{file: a.sig, key: k.pem, identity: me}", "identity"),
        ("{file: a.sig, identity: {subject: a@b, issuer: x}}", "signature.identity.root: missing"),
        ("{file: a.sig, identity: {subject: 'a b', issuer: x, root: r.json}}", "signature.identity.subject"),
        ("{file: a.sig, key: k.pem, identity: {subject: a@b, issuer: x, root: r}}", "expected either `key` or"),
        ("", "expected a signature with `file`, and `key` or `identity`"),
    ],
)
def test_a_malformed_signature_field_is_refused(desk: Desk, signature: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        desk.recipe(f"{SOURCE}, signature: {signature}")
    assert message in str(caught.value)
