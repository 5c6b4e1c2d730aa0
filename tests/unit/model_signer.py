"""Signatures of models for tests, written by the format's description."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from privml.base.dsse import pae
from privml.base.strictjson import b64, unb64

VECTORS = Path(__file__).parents[1] / "vectors" / "modelsigning"
KIND = "application/vnd.in-toto+json"
PRIVATE = ec.derive_private_key(0x5EED, ec.SECP256R1())
_PEM, _SPKI = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
PEM = PRIVATE.public_key().public_bytes(_PEM, _SPKI)
KEY_ID = hashlib.sha256(PRIVATE.public_key().public_bytes(serialization.Encoding.DER, _SPKI)).hexdigest()


def statement(files: dict[str, str], name: str = "model") -> dict[str, Any]:
    """The payload for files with their SHA-256 in hex."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": root(files)}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "resources": [{"name": path, "algorithm": "sha256", "digest": each} for path, each in files.items()],
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
        },
    }


def root(files: dict[str, str]) -> str:
    return hashlib.sha256(b"".join(map(bytes.fromhex, files.values()))).hexdigest()


def bundle(payload: dict[str, Any] | bytes, kind: str = KIND, key: ec.EllipticCurvePrivateKey = PRIVATE) -> bytes:
    """A bundle with a valid signature over ``payload``."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    pem = key.public_key().public_bytes(_PEM, _SPKI)
    return json.dumps(
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": hashlib.sha256(pem).hexdigest()}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": b64(data),
                "payloadType": kind,
                "signatures": [{"sig": b64(key.sign(pae(kind, data), ec.ECDSA(hashes.SHA256())))}],
            },
        }
    ).encode()


def keyless(payload: dict[str, Any]) -> bytes:
    """A bundle in the form of one with a certificate, which no check of Sigstore's accepts."""
    made = json.loads(bundle(payload))
    made["verificationMaterial"] = {"certificate": {"rawBytes": ""}, "tlogEntries": [{}]}
    return json.dumps(made).encode()


def payload_in(data: bytes) -> bytes:
    """The payload of a bundle, unchecked."""
    return unb64(json.loads(data)["dsseEnvelope"]["payload"])
