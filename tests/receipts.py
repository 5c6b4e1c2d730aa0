"""A receipt, the key that signs it, and the same one as JSON."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privml.channel.receipt import Body, Engine, Model, Origin, Receipt, Usage

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
KEY = SIGNER.public_key().public_bytes_raw()
REQUEST = b'{"prompt":"The capital of France is"}'
RESPONSE = b'{"choices":[{"text":" Paris."}]}'


def body(data: bytes) -> Body:
    """Digest and size of ``data``."""
    return Body(hashlib.sha256(data).digest(), len(data))


ORIGIN = Origin(
    keys_sha256=bytes(range(32)),
    config_sha256=b"\xcc" * 32,
    variant="production",
    model=Model("tiny", b"\xaa" * 32),
    engine=Engine("llama-server", b"\xee" * 32),
)
RECEIPT = Receipt(
    id=bytes(range(16)),
    seq=7,
    origin=ORIGIN,
    method="POST",
    path="/v1/completions",
    request=body(REQUEST),
    forwarded_sha256=body(REQUEST + b" ").sha256,
    status=200,
    content_type="application/json",
    response=body(RESPONSE),
    complete=True,
    usage=Usage(5, 3),
    nonce=b"\x5a" * 32,
)
SIGNED = RECEIPT.sign(SIGNER.sign, KEY)
