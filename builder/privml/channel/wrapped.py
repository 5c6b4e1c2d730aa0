"""A request for any one of several guests: one body, and its key sealed for each of up to 16 recipients.

A load balancer may pass the request to any of them, and no private key leaves a guest. The form is of this project:

    request  = 01 || aead u16 || count u8 || recipient... || chunks
    recipient = first 8 bytes of SHA-256(public key) || kem u16 || encapsulated key || sealed request key (32 + 16)
    response = id of the recipient that answers (8) || nonce || chunks

Chunks are those of `channel.chunks`. The body's key is derived from the request key and the digest of everything
before the chunks, so recipients can be neither added nor removed. The response's secret is exported from the context
of the recipient that answers, which no other recipient has.

What this does not give: a request may be run once by each recipient. It is post-quantum only if every recipient's key
is. And a recipient knows the request key, so it could change the request and pass it on to another one; but each is a
guest that the caller has verified.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence

from privml.base.errors import EvidenceError
from privml.channel.chunks import REQUEST_LIMITS, RESPONSE_LIMITS, ChunkLimits, ChunkOpener, ChunkSealer
from privml.channel.hpke import Recipient, Sender
from privml.channel.kem import KEMS
from privml.channel.keyconfig import KeyConfig
from privml.channel.keyring import GatewayKey
from privml.channel.ohttp import Form, OpenedRequest, RequestOpener, ResponseOpener
from privml.channel.suites import (
    AEADS,
    HKDF_SHA256,
    NONCE_SIZE,
    TAG_SIZE,
    Aead,
    CannotOpen,
    expand,
    extract,
)
from privml.channel.suites import Sequence as Messages
from privml.channel.varint import Cursor, Short

WRAPPED = Form(
    b"privml wrapped request",
    b"privml wrapped response",
    "message/privml-wrapped-req",
    "message/privml-wrapped-res",
)
MAX_RECIPIENTS = 16
ID_SIZE = 8
_VERSION = 1
_KEY_SIZE = 32
_AES_256_GCM = AEADS[0x0002]
Alive = Callable[[], Sequence[GatewayKey]]
"""Every key that opens requests now."""


def recipient_id(public: bytes) -> bytes:
    """The identifier of a public key among all guests; those of key configurations are one byte and collide."""
    return hashlib.sha256(public).digest()[:ID_SIZE]


def _info(aead: Aead) -> bytes:
    return WRAPPED.request_label + b"\x00" + bytes([_VERSION]) + aead.id.to_bytes(2, "big")


def _body_keys(aead: Aead, request_key: bytes, header: bytes) -> Messages:
    key = extract(hashlib.sha256(header).digest(), request_key)
    return Messages(aead, expand(key, b"key", aead.key_size), expand(key, b"nonce", NONCE_SIZE))


class WrappedRequest(ChunkSealer):
    """One request of a caller: what seals it and, later, opens the response of whichever recipient answers."""

    def __init__(self, configs: Sequence[KeyConfig], aead: Aead = _AES_256_GCM) -> None:
        """Encapsulate to each key; ``EvidenceError`` if one is unusable, there twice, or not used with ``aead``."""
        ids = [recipient_id(config.public) for config in configs]
        if not 1 <= len(ids) <= MAX_RECIPIENTS or len(set(ids)) != len(ids):
            raise EvidenceError(f"recipients: {len(ids)}, expected 1 to {MAX_RECIPIENTS}, each once")
        request_key = os.urandom(_KEY_SIZE)
        header = bytes([_VERSION]) + aead.id.to_bytes(2, "big") + bytes([len(ids)])
        self._contexts: dict[bytes, tuple[KeyConfig, Sender]] = {}
        for name, config in zip(ids, configs, strict=True):
            if config.offers(HKDF_SHA256, aead.id) is None:
                raise EvidenceError(f"recipients: a {config.kem.name} key without {aead.name}, expected it for all")
            try:
                context = Sender(config.kem, aead, config.public, _info(aead))
            except ValueError as error:
                raise EvidenceError(f"key config: unusable {config.kem.name} key ({error})") from error
            self._contexts[name] = config, context
            header += name + config.kem.id.to_bytes(2, "big") + context.encapsulated + context.seal(request_key, name)
        super().__init__(_body_keys(aead, request_key, header))
        self.start = header
        """The first bytes of the sealed request."""

    def response(self, limits: ChunkLimits = RESPONSE_LIMITS) -> WrappedResponseOpener:
        """What opens the response."""
        return WrappedResponseOpener(self._contexts, limits)


class WrappedResponseOpener:
    """Opens the response of one of the recipients, in any pieces. After ``CannotOpen`` every call raises it."""

    def __init__(self, contexts: dict[bytes, tuple[KeyConfig, Sender]], limits: ChunkLimits) -> None:
        self._contexts, self._limits = contexts, limits
        self._id = b""
        self._opener: ResponseOpener | None = None
        self._closed = False
        self.answered_by: KeyConfig | None = None
        """Whose response it is, once something of it opened; only that recipient can have made it."""
        self._named: KeyConfig | None = None

    @property
    def complete(self) -> bool:
        """True once `end` returned: nothing is missing."""
        return self._opener is not None and self._opener.complete

    def feed(self, data: bytes) -> bytes:
        """The plaintext that ``data`` completes. It is authentic, and more may be missing."""
        return self._guarded(lambda: self._feed(data))

    def end(self) -> bytes:
        """The plaintext of the final chunk; ``CannotOpen`` if it is missing."""
        plain = self._guarded(self._end)
        self._closed = True
        return plain

    def _guarded(self, step: Callable[[], bytes]) -> bytes:
        if self._closed:
            raise CannotOpen
        self._closed = True
        plain = step()
        self._closed = False
        return plain

    def _feed(self, data: bytes) -> bytes:
        if self._opener is None:
            taken = ID_SIZE - len(self._id)
            self._id, data = self._id + data[:taken], data[taken:]
            if len(self._id) < ID_SIZE:
                return b""
            if self._id not in self._contexts:
                raise CannotOpen
            self._named, context = self._contexts[self._id]
            self._opener = ResponseOpener(context, WRAPPED, self._limits)
        plain = self._opener.feed(data)
        if plain:
            self.answered_by = self._named
        return plain

    def _end(self) -> bytes:
        if self._opener is None:
            raise CannotOpen
        plain = self._opener.end()
        self.answered_by = self._named
        return plain


class WrappedRequestOpener(RequestOpener):
    """Opens one request at a guest that is among its recipients; gives it out whole, as `RequestOpener` does."""

    def __init__(self, alive: Alive, limits: ChunkLimits = REQUEST_LIMITS) -> None:
        super().__init__(lambda _: None, WRAPPED, limits)
        self._alive = alive
        self._name = b""

    def end(self) -> OpenedRequest:
        """The request; ``CannotOpen`` if anything of it is missing."""
        return super().end().prefixed(self._name)

    def _begin(self, data: bytes) -> bytes:
        """Read the recipients and open the request key; what is left of ``data``."""
        self._buffer += data
        cursor = Cursor(self._buffer, "wrapped request")
        try:
            aead, entries = _recipients(cursor)
        except Short:
            return b""
        keys = {recipient_id(key.config.public): key for key in self._alive()}
        name = next((one for one in entries if one in keys), None)
        if name is None:
            raise CannotOpen
        key, (kem_id, encapsulated, sealed) = keys[name], entries[name]
        if key.config.kem.id != kem_id or key.config.offers(HKDF_SHA256, aead.id) is None:
            raise CannotOpen
        context = Recipient(key.private, aead, encapsulated, _info(aead))
        header, rest = self._buffer[: cursor.position], self._buffer[cursor.position :]
        messages = _body_keys(aead, context.open(sealed, name), header)
        self._key, self._context, self._name, self._buffer = key, context, name, b""
        self._opener = ChunkOpener(messages, self._limits)
        return rest


def _recipients(cursor: Cursor) -> tuple[Aead, dict[bytes, tuple[int, bytes, bytes]]]:
    """AEAD and recipients by identifier; ``Short`` if more bytes are needed."""
    version, aead, count = cursor.number(1), AEADS.get(cursor.number(2)), cursor.number(1)
    if version != _VERSION or aead is None or not 1 <= count <= MAX_RECIPIENTS:
        raise CannotOpen
    entries: dict[bytes, tuple[int, bytes, bytes]] = {}
    for _ in range(count):
        name, kem = cursor.take(ID_SIZE), KEMS.get(cursor.number(2))
        if kem is None or name in entries:
            raise CannotOpen
        entries[name] = kem.id, cursor.take(kem.encapsulated_size), cursor.take(_KEY_SIZE + TAG_SIZE)
    return aead, entries
