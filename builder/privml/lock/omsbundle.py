"""Read signatures of models in the format of OpenSSF Model Signing (OMS) 1.0.

The file is a Sigstore bundle v0.3 in JSON with a DSSE envelope, whose payload is an in-toto Statement v1 with the
predicate ``https://model_signing/signature/v1.0``: the model's files with their digests, and how they were listed.
Layout: github.com/ossf/model-signing-spec, and the docstring of ``Payload`` in sigstore/model-transparency,
src/model_signing/_signing/signing.py (as in model-signing 1.1.1). Before 1.1 the bundle had the key itself instead of
a hint. Output of both is in tests/vectors/modelsigning.

Bytes in, records out. Every member is read or refused, which is stricter than OMS: there, unknown members of the
predicate are ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from privml.base import dsse
from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, first_repeated, loads
from privml.recipe.modelsource import plain

MAX_BYTES = 8 << 20
MAX_KEY = 4096
MAX_RESOURCES = 10_000
MAX_IGNORED = 1000
MAX_ENTRIES = 8
_MAX_NAME = 1000
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
METHOD, HASH = "files", "sha256"
ITSELF = "."
"""Name of the one file of a model that is a file and not a folder."""

_CURVES: dict[str, tuple[hashes.HashAlgorithm, str]] = {
    "secp256r1": (hashes.SHA256(), "PKIX_ECDSA_P256_SHA_256"),
    "secp384r1": (hashes.SHA384(), "PKIX_ECDSA_P384_SHA_384"),
    "secp521r1": (hashes.SHA512(), "PKIX_ECDSA_P521_SHA_512"),
}
"""Hash of a curve's signatures, and Sigstore's name for both."""


@dataclass(frozen=True)
class Signed:
    """What a signature covers: each file's SHA-256 (hex) by its path in the model.

    ``name`` is what the signer called the model; ``alone`` is true if it is one file, whose path is that name.
    """

    name: str
    files: dict[str, str]
    alone: bool


@dataclass(frozen=True)
class SigningKey:
    """A public key; ``pem`` is its SubjectPublicKeyInfo in PEM, ``key_id`` the hex SHA-256 of that in DER."""

    key: ec.EllipticCurvePublicKey
    key_id: str
    pem: bytes

    @property
    def hint(self) -> str:
        """How a bundle names the key."""
        return hashlib.sha256(self.pem).hexdigest()

    def verify(self, signature: bytes, signed: bytes) -> bool:
        """Whether ``signature`` (ECDSA in DER, with the hash of the curve's size) is over ``signed``."""
        try:
            self.key.verify(signature, signed, ec.ECDSA(_CURVES[self.key.curve.name][0]))
        except InvalidSignature:
            return False
        return True


def signing_key(data: bytes, what: str = "key") -> SigningKey:
    """Read a PEM file with one public key on P-256, P-384 or P-521; ``EvidenceError`` for anything else or more."""
    expected = "expected one `PUBLIC KEY` in PEM, on P-256, P-384 or P-521"
    if len(data) > MAX_KEY:
        raise EvidenceError(f"{what}: {len(data)} bytes, expected at most {MAX_KEY}")
    if b"PRIVATE KEY" in data:
        raise EvidenceError(f"{what}: a private key, expected the public one")
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EvidenceError(f"{what}: not a public key: {expected}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        kind = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__.strip("_")
        raise EvidenceError(f"{what}: a key of the kind {kind}: {expected}")
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = key.public_bytes(serialization.Encoding.PEM, info)
    if data.replace(b"\r\n", b"\n").strip() != pem.strip():
        raise EvidenceError(f"{what}: more than a key, or one in another encoding: {expected}")
    der = key.public_bytes(serialization.Encoding.DER, info)
    return SigningKey(key, hashlib.sha256(der).hexdigest(), pem)


def read(data: bytes, key: SigningKey, what: str = "signature") -> Signed:
    """What the signature in ``data`` covers; ``EvidenceError`` if it is malformed or not by ``key``."""
    envelope = _envelope(data, key, what)
    (signature,) = envelope.signatures
    if not key.verify(signature.sig, envelope.signed):
        raise EvidenceError(f"{what}: the signature is not over this content by the key {key.key_id}")
    return statement(envelope.payload, f"{what}: payload")


def read_keyless(data: bytes, verify: Callable[[], bytes], what: str = "signature") -> Signed:
    """What a signature with a certificate of Sigstore covers; ``EvidenceError`` if it is malformed.

    ``verify`` checks certificate, log entry and signature of the same bytes, and returns the payload that it read.
    """
    envelope = _keyless_envelope(data, what)
    if verify() != envelope.payload:
        raise EvidenceError(f"{what}: two readers disagree about what is signed")
    return statement(envelope.payload, f"{what}: payload")


def _keyless_envelope(data: bytes, what: str) -> dsse.Envelope:
    bundle, material = _outline(data, what)
    if material.has("publicKey"):
        raise EvidenceError(f"{material.path}.publicKey: signed with a key, expected a certificate of Sigstore")
    material.fields("certificate")
    if not material.array("tlogEntries", limit=MAX_ENTRIES):
        raise EvidenceError(f"{material.path}.tlogEntries: no items, expected an entry of Sigstore's log")
    if material.has("timestampVerificationData"):
        material.fields("timestampVerificationData")
    material.end()
    return _signed_envelope(bundle, what)


def _envelope(data: bytes, key: SigningKey, what: str) -> dsse.Envelope:
    bundle, material = _outline(data, what)
    for other in ("certificate", "x509CertificateChain"):
        if material.has(other):
            raise EvidenceError(f"{material.path}.{other}: signed with a certificate, expected a key: `publicKey`")
    _check_key(material.fields("publicKey"), key)
    if material.has("tlogEntries"):
        material.empty("tlogEntries")
    material.end()
    return _signed_envelope(bundle, what)


def _outline(data: bytes, what: str) -> tuple[Fields, Fields]:
    bundle = Fields(loads(data, what=what, limit=MAX_BYTES), what)
    bundle.text("mediaType", one_of=(MEDIA_TYPE,))
    return bundle, bundle.fields("verificationMaterial")


def _signed_envelope(bundle: Fields, what: str) -> dsse.Envelope:
    envelope = dsse.from_value(_without_null(bundle.take("dsseEnvelope")), f"{what}.dsseEnvelope")
    bundle.end()
    if envelope.payload_type != dsse.IN_TOTO:
        raise EvidenceError(
            f"{what}.dsseEnvelope.payloadType: got `{envelope.payload_type[:80]}`, expected {dsse.IN_TOTO}"
        )
    if len(envelope.signatures) != 1 or envelope.signatures[0].keyid:
        raise EvidenceError(f"{what}.dsseEnvelope.signatures: expected one, without a keyid")
    return envelope


def _check_key(public: Fields, key: SigningKey) -> None:
    """Refuse a bundle that names another key: by a hint, or as tools wrote until model-signing 1.1."""
    if public.has("rawBytes"):
        if public.base64("rawBytes", limit=MAX_KEY) != key.pem:
            raise EvidenceError(f"{public.path}.rawBytes: made with another key, expected {key.key_id}")
        public.text("keyDetails", one_of=(_CURVES[key.key.curve.name][1],))
    elif (hint := public.text("hint", limit=256)) != key.hint:
        raise EvidenceError(f"{public.path}.hint: made with another key: got {hint[:80]}, expected {key.hint}")
    public.end()


def _without_null(envelope: Any) -> Any:
    """The envelope without key ids that are null, as tools wrote them until model-signing 1.1."""
    if not isinstance(envelope, dict) or not isinstance(envelope.get("signatures"), list):
        return envelope
    signatures = [
        {key: value for key, value in each.items() if key != "keyid" or value is not None}
        if isinstance(each, dict)
        else each
        for each in envelope["signatures"]
    ]
    return {**envelope, "signatures": signatures}


def statement(payload: bytes, what: str) -> Signed:
    """What the payload of a signature lists; ``EvidenceError`` if it is malformed."""
    fields = Fields(loads(payload, what=what, limit=MAX_BYTES), what)
    fields.text("_type", one_of=(STATEMENT_TYPE,))
    subjects = fields.array("subject", limit=1)
    if not subjects:
        raise EvidenceError(f"{what}.subject: no items, expected one")
    subject = Fields(subjects[0], f"{what}.subject[0]")
    name = subject.text("name", limit=_MAX_NAME)
    digest = subject.fields("digest")
    root = digest.hexadecimal(HASH, 32)
    digest.end()
    subject.end()
    if not plain(name) or "/" in name:
        raise EvidenceError(f"{what}.subject[0].name: got `{name[:80]}`, expected the name of a file or folder")
    fields.text("predicateType", one_of=(PREDICATE_TYPE,))
    predicate = fields.fields("predicate")
    fields.end()
    ignored = _serialization(predicate.fields("serialization"))
    resources = predicate.array("resources", limit=MAX_RESOURCES)
    alone = len(resources) == 1 and isinstance(resources[0], dict) and resources[0].get("name") == ITSELF
    files = [_resource(one, f"{predicate.path}.resources[{n}]", alone) for n, one in enumerate(resources)]
    predicate.end()
    if not files:
        raise EvidenceError(f"{predicate.path}.resources: no items, expected the files of the model")
    if (twice := first_repeated(path for path, _ in files)) is not None:
        raise EvidenceError(f"{predicate.path}.resources: `{twice[:80]}` is given twice")
    for path, _ in files:
        if any(path == left or path.startswith(f"{left}/") for left in ignored):
            raise EvidenceError(f"{predicate.path}.resources: `{path[:80]}` is signed, and also in ignore_paths")
    computed = hashlib.sha256(b"".join(value for _, value in files)).digest()
    if computed != root:
        raise EvidenceError(f"{digest.path}.{HASH}: got {root.hex()}, and the listed files give {computed.hex()}")
    named = {name if alone else path: value.hex() for path, value in files}
    return Signed(name, named, alone)


def _serialization(fields: Fields) -> tuple[str, ...]:
    """Check how the files were listed; the paths that were left out."""
    fields.text("method", one_of=(METHOD,))
    fields.text("hash_type", one_of=(HASH,))
    fields.boolean("allow_symlinks")
    ignored: list[Any] = fields.array("ignore_paths", limit=MAX_IGNORED) if fields.has("ignore_paths") else []
    for path in ignored:
        if not isinstance(path, str) or len(path) > _MAX_NAME or not plain(path):
            raise EvidenceError(f"{fields.path}.ignore_paths: got `{str(path)[:80]}`, expected paths in the model")
    fields.end()
    return tuple(ignored)


def _resource(value: Any, path: str, alone: bool) -> tuple[str, bytes]:
    fields = Fields(value, path)
    name = fields.text("name", limit=_MAX_NAME)
    fields.text("algorithm", one_of=(HASH,))
    digest = fields.hexadecimal("digest", 32)
    fields.end()
    if not alone and not plain(name):
        raise EvidenceError(f"{path}.name: got `{name[:80]}`, expected the path of a file in the model")
    return name, digest
