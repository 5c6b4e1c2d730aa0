"""The receipt of one answer, `privml-receipt/v1`: what a guest received, ran and sent, signed by its receipt key.

The receipt key (Ed25519) is in the keys section of an attestation document, and the receipt names that section. So it
proves which measured guest gave the answer. There is no time in it, because the host sets a guest's clock. The
caller's nonce shows that it is not older than the request.

A receipt has digests of prompt and answer, from which short ones can be guessed: it is for the caller only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, b64, canonical, loads, unb64, unhex
from privml.channel import signed

FORMAT = "privml-receipt/v1"
PAYLOAD_TYPE = "application/vnd.privml.receipt+json"
NONCE_FIELD = "privml-nonce"
"""Request header with the caller's nonce: 64 lower-case hex digits."""
ID_FIELD = "privml-receipt-id"
"""Response header with the receipt's id: 32 lower-case hex digits."""
TRAILER = "privml-receipt"
"""Trailer field with the receipt: base64 of the envelope."""
PATH = "/v1/receipts/"
"""A caller who knows an id gets its receipt under this path."""
MAX_RECEIPT = 16 * 1024
"""Bytes of an envelope. One that this code makes has about 1600."""

TLS, OHTTP, WRAPPED = "tls", "ohttp", "wrapped"
CHANNELS = (TLS, OHTTP, WRAPPED)
"""What carried the request: TLS alone, or inside it oblivious HTTP or a wrapped request."""

ID_SIZE = 16
DIGEST_SIZE = 32
NONCE_SIZE = 32
_MAX_NAME = 255
_MAX_PATH = 256
_MAX_TYPE = 128
_MAX_DECODED = 8 * 1024
_VARIANT = re.compile(r"\A[a-z]{1,32}\Z")
_METHOD = re.compile(r"\A[A-Z]{1,16}\Z")
_PATH = re.compile(r"\A/[!-~]{0,255}\Z")
_TYPE = re.compile(r"\A(?:[!-~](?:[ -~]{0,126}[!-~])?)?\Z")


@dataclass(frozen=True)
class Body:
    """The SHA-256 (32 bytes) and the size of a body's bytes, without any framing."""

    sha256: bytes
    size: int


@dataclass(frozen=True)
class Model:
    """A model of the measured configuration: its name and the root hash (32 bytes) of its volume."""

    name: str
    root_hash: bytes


@dataclass(frozen=True)
class Engine:
    """The engine of the measured configuration: its name and the SHA-256 of the canonical JSON of its argv."""

    name: str
    argv_sha256: bytes


@dataclass(frozen=True)
class Usage:
    """Tokens as the engine counted them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Origin:
    """What is the same in every receipt of one boot."""

    keys_sha256: bytes
    config_sha256: bytes
    variant: str
    model: Model | None
    engine: Engine


@dataclass(frozen=True)
class Receipt:
    """What is signed about one answer.

    ``id`` has 16 random bytes; ``seq`` grows with each answer of this boot. ``request`` is the body as it was
    received, ``forwarded_sha256`` that of the body that the engine got. ``response`` is what was sent, ``complete``
    if that was all, up to its end. ``content_type`` is empty if the answer has none. ``enc_sha256`` is the
    SHA-256 of the encapsulated key that identifies a sealed request, None over TLS alone.
    """

    id: bytes
    seq: int
    origin: Origin
    method: str
    path: str
    request: Body
    forwarded_sha256: bytes
    status: int
    content_type: str
    response: Body
    complete: bool
    usage: Usage | None = None
    nonce: bytes | None = None
    channel: str = TLS
    enc_sha256: bytes | None = None

    def to_dict(self) -> dict[str, Any]:
        """The payload as a JSON object."""
        origin, model = self.origin, self.origin.model
        return {
            "format": FORMAT,
            "id": self.id.hex(),
            "seq": self.seq,
            "keys_sha256": origin.keys_sha256.hex(),
            "config_sha256": origin.config_sha256.hex(),
            "variant": origin.variant,
            "model": None if model is None else {"name": model.name, "root_hash": model.root_hash.hex()},
            "engine": {"name": origin.engine.name, "argv_sha256": origin.engine.argv_sha256.hex()},
            "request": {"method": self.method, "path": self.path, **_body_dict(self.request)},
            "forwarded_sha256": self.forwarded_sha256.hex(),
            "response": {
                "status": self.status,
                "content_type": self.content_type,
                "complete": self.complete,
                **_body_dict(self.response),
            },
            "usage": None if self.usage is None else vars(self.usage),
            "nonce": None if self.nonce is None else self.nonce.hex(),
            "channel": self.channel,
            "enc_sha256": None if self.enc_sha256 is None else self.enc_sha256.hex(),
        }

    def encode(self) -> bytes:
        """The payload's bytes."""
        return canonical(self.to_dict())

    def sign(self, sign: Callable[[bytes], bytes], key: bytes) -> bytes:
        """The receipt in a DSSE envelope, signed with the private part of the receipt key ``key``."""
        return signed.seal(PAYLOAD_TYPE, self.encode(), sign, keyid=key.hex())

    @classmethod
    def decode(cls, data: bytes) -> Receipt:
        """Read a payload; ``EvidenceError`` unless it is exactly v1."""
        fields = Fields(loads(data, what="receipt", limit=_MAX_DECODED), "receipt")
        fields.text("format", one_of=(FORMAT,))
        request, response = fields.fields("request"), fields.fields("response")
        receipt = cls(
            id=fields.hexadecimal("id", ID_SIZE),
            seq=fields.integer("seq", low=1),
            origin=_origin(fields),
            method=_matching(request, "method", _METHOD, 16, "an HTTP method"),
            path=_matching(request, "path", _PATH, _MAX_PATH, "a path"),
            request=_body(request),
            forwarded_sha256=fields.hexadecimal("forwarded_sha256", DIGEST_SIZE),
            status=response.integer("status", low=200, high=599),
            content_type=_matching(response, "content_type", _TYPE, _MAX_TYPE, "printable ASCII"),
            response=_body(response),
            complete=response.boolean("complete"),
            usage=_usage(fields.fields_or_null("usage")),
            nonce=_hex_or_null(fields, "nonce", NONCE_SIZE),
            channel=fields.text("channel", one_of=CHANNELS),
            enc_sha256=_hex_or_null(fields, "enc_sha256", DIGEST_SIZE),
        )
        for each in (request, response, fields):
            each.end()
        if receipt.channel == TLS and receipt.enc_sha256 is not None:
            raise EvidenceError(f"receipt.enc_sha256: expected null over {TLS}")
        if receipt.encode() != data:
            raise EvidenceError("receipt: not canonical JSON")
        return receipt


def verify(data: bytes, *, key: bytes) -> Receipt:
    """The receipt in an envelope; ``Refused`` unless the attested receipt ``key`` (32 bytes) signed it.

    The signature is checked before the receipt is parsed. Whether ``keys_sha256`` is the keys section that ``key`` is
    from, is for the caller to check.
    """
    payload = signed.payload_of(
        data, PAYLOAD_TYPE, key=key, keyid=key.hex(), limit=MAX_RECEIPT, what="receipt", by="receipt key"
    )
    return Receipt.decode(payload)


def trailer_of(envelope: bytes) -> str:
    """The trailer's value."""
    return b64(envelope)


def of_trailer(value: str) -> bytes:
    """The envelope in a trailer's value; ``EvidenceError`` if it is not base64 of at most `MAX_RECEIPT` bytes."""
    return unb64(value, what="receipt", limit=MAX_RECEIPT)


def shown_type(value: str) -> str:
    """A response's content type as a receipt states it: empty if it is too long or not printable ASCII."""
    return value if _TYPE.match(value) else ""


def _body_dict(body: Body) -> Mapping[str, Any]:
    return {"sha256": body.sha256.hex(), "size": body.size}


def _body(fields: Fields) -> Body:
    return Body(fields.hexadecimal("sha256", DIGEST_SIZE), fields.integer("size"))


def _matching(fields: Fields, key: str, pattern: re.Pattern[str], limit: int, expected: str) -> str:
    text = fields.text(key, limit=limit)
    if not pattern.match(text):
        raise EvidenceError(f"{fields.path}.{key}: got `{text[:40]}`, expected {expected}")
    return text


def _name(fields: Fields) -> str:
    text = fields.text("name", limit=_MAX_NAME)
    if not text or not text.isprintable():
        raise EvidenceError(f"{fields.path}.name: empty or not printable")
    return text


def _origin(fields: Fields) -> Origin:
    engine, model = fields.fields("engine"), fields.fields_or_null("model")
    found = Origin(
        keys_sha256=fields.hexadecimal("keys_sha256", DIGEST_SIZE),
        config_sha256=fields.hexadecimal("config_sha256", DIGEST_SIZE),
        variant=_matching(fields, "variant", _VARIANT, 32, "a variant's name"),
        model=None if model is None else Model(_name(model), model.hexadecimal("root_hash", DIGEST_SIZE)),
        engine=Engine(_name(engine), engine.hexadecimal("argv_sha256", DIGEST_SIZE)),
    )
    for each in (engine, model):
        if each is not None:
            each.end()
    return found


def _usage(fields: Fields | None) -> Usage | None:
    if fields is None:
        return None
    usage = Usage(fields.integer("prompt_tokens"), fields.integer("completion_tokens"))
    fields.end()
    return usage


def _hex_or_null(fields: Fields, key: str, size: int) -> bytes | None:
    text = fields.text_or_null(key, limit=2 * size)
    return None if text is None else unhex(text, size, what=f"{fields.path}.{key}")
