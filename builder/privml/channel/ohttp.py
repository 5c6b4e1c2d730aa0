"""Oblivious HTTP (RFC 9458) and its chunked form (draft-ietf-ohai-chunked-ohttp), with the standard labels.

The caller seals a request for a key configuration and opens the answer with what `CallerRequest` keeps. The gateway
opens requests with `RequestOpener`, which gives nothing out before the final chunk opened. Before it acts on a
request it calls `OpenedRequest.remember`. Every failure to open is the one ``CannotOpen``. Identifiers of keys are
public, so an unknown one may be answered faster than a wrong tag; the answer is the same.

A response in chunks may be used as it arrives, but it is complete only after `ResponseOpener.end`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from privml.base.errors import EvidenceError
from privml.channel.chunks import (
    REQUEST_LIMITS,
    RESPONSE_LIMITS,
    ChunkLimits,
    ChunkOpener,
    ChunkSealer,
    Seals,
)
from privml.channel.hpke import Recipient, Sender
from privml.channel.keyconfig import KeyConfig
from privml.channel.keyring import GatewayKey
from privml.channel.suites import HKDF_SHA256, NONCE_SIZE, Aead, CannotOpen, Sequence, expand, extract

GATEWAY = "/.well-known/ohttp-gateway"
"""Where a guest takes sealed requests."""
KEY_PROBLEM = "https://iana.org/assignments/http-problem-types#ohttp-key"
"""The problem type (RFC 9458 section 5.3) of a request that could not be opened."""
HEADER_SIZE = 7
Find = Callable[[int], GatewayKey | None]
"""From an identifier to a key that is alive."""


@dataclass(frozen=True)
class Form:
    """One form of oblivious HTTP: its labels and media types."""

    request_label: bytes
    response_label: bytes
    request_type: str
    response_type: str


PLAIN = Form(b"message/bhttp request", b"message/bhttp response", "message/ohttp-req", "message/ohttp-res")
CHUNKED = Form(
    b"message/bhttp chunked request",
    b"message/bhttp chunked response",
    "message/ohttp-chunked-req",
    "message/ohttp-chunked-res",
)


def _header(config: KeyConfig, aead: Aead) -> bytes:
    numbers = (config.kem.id, HKDF_SHA256, aead.id)
    return bytes([config.key_id]) + b"".join(number.to_bytes(2, "big") for number in numbers)


def _response_keys(context: Sender | Recipient, form: Form, nonce: bytes) -> Sequence:
    """The key and nonces of a response (RFC 9458 section 4.4)."""
    aead = context.aead
    secret = context.export(form.response_label, aead.secret_size)
    key = extract(context.encapsulated + nonce, secret)
    return Sequence(aead, expand(key, b"key", aead.key_size), expand(key, b"nonce", NONCE_SIZE))


class _MessageSealer(ChunkSealer):
    """Seals one message in either form."""

    def __init__(self, messages: Seals, form: Form, start: bytes) -> None:
        super().__init__(messages)
        self._form = form
        self.start = start
        """The first bytes of the sealed message."""

    def whole(self, plain: bytes) -> bytes:
        """The sealed message as one body, in either form."""
        if self._form is PLAIN:
            return self.start + self._finish().seal(plain)
        return self.start + self.final(plain)


class CallerRequest(_MessageSealer):
    """One request of a caller: what seals it and, later, opens its response."""

    def __init__(self, config: KeyConfig, aead: Aead, form: Form = CHUNKED) -> None:
        """Encapsulate to the configuration's key; ``EvidenceError`` if that is not a usable key."""
        header = _header(config, aead)
        try:
            self._context = Sender(config.kem, aead, config.public, form.request_label + b"\x00" + header)
        except ValueError as error:
            raise EvidenceError(f"key config: unusable {config.kem.name} key ({error})") from error
        super().__init__(self._context, form, header + self._context.encapsulated)

    def response(self, limits: ChunkLimits = RESPONSE_LIMITS) -> ResponseOpener:
        """What opens the response in chunks."""
        return ResponseOpener(self._context, self._form, limits)

    def open_response(self, sealed: bytes) -> bytes:
        """Open a response that is not in chunks."""
        size = self._context.aead.secret_size
        if len(sealed) < size:
            raise CannotOpen
        return _response_keys(self._context, self._form, sealed[:size]).open(sealed[size:])


class ResponseOpener:
    """Opens a response in chunks, in any pieces. After ``CannotOpen`` every call raises it."""

    def __init__(self, context: Sender | Recipient, form: Form, limits: ChunkLimits) -> None:
        self._context, self._form, self._limits = context, form, limits
        self._nonce = b""
        self._opener: ChunkOpener | None = None
        self._ended = False
        self.complete = False
        """True once `end` returned: nothing is missing."""

    def feed(self, data: bytes) -> bytes:
        """The plaintext that ``data`` completes. It is authentic, and more may be missing."""
        if self._ended:
            raise CannotOpen
        if self._opener is None:
            size = self._context.aead.secret_size
            taken = size - len(self._nonce)
            self._nonce, data = self._nonce + data[:taken], data[taken:]
            if len(self._nonce) < size:
                return b""
            self._opener = ChunkOpener(_response_keys(self._context, self._form, self._nonce), self._limits)
        return self._opener.feed(data)

    def end(self) -> bytes:
        """The plaintext of the final chunk; ``CannotOpen`` if it is missing."""
        if self._ended or self._opener is None:
            self._ended = True
            raise CannotOpen
        self._ended = True
        plain = self._opener.end()
        self.complete = True
        return plain


@dataclass(frozen=True)
class OpenedRequest:
    """A request that is whole. Nothing may be done for it before `remember`: it may be a repetition."""

    plain: bytes
    key: GatewayKey
    context: Recipient
    form: Form
    prefix: bytes = b""
    """What the form puts in front of the response."""

    def prefixed(self, prefix: bytes) -> OpenedRequest:
        """The same request, whose response begins with ``prefix``."""
        return replace(self, prefix=prefix)

    def remember(self) -> None:
        """Note that this request is acted on; ``Replayed`` if that was noted before, ``SetFull`` by its key's set.

        Of copies that arrive at the same time one passes.
        """
        self.key.opened.add(self.context.encapsulated)

    def response(self) -> ResponseSealer:
        """What seals the response; one only for each request."""
        return ResponseSealer(self.context, self.form, prefix=self.prefix)


class RequestOpener:
    """Opens one request at the gateway, in any pieces; gives it out whole. After an error every call fails."""

    def __init__(self, find: Find, form: Form = CHUNKED, limits: ChunkLimits = REQUEST_LIMITS) -> None:
        self._find, self._form, self._limits = find, form, limits
        self._buffer = b""
        self._key: GatewayKey | None = None
        self._context: Recipient | None = None
        self._opener: ChunkOpener | None = None
        self._plain = bytearray()
        self._closed = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._close()
        if self._opener is None:
            data = self._begin(data)
        if self._opener is not None:
            self._plain += self._opener.feed(data)
        self._closed = False

    def end(self) -> OpenedRequest:
        """The request; ``CannotOpen`` if anything of it is missing."""
        self._close()
        if self._opener is None or self._key is None or self._context is None:
            raise CannotOpen
        self._plain += self._opener.end()
        return OpenedRequest(bytes(self._plain), self._key, self._context, self._form)

    def _close(self) -> None:
        if self._closed:
            raise CannotOpen
        self._closed = True

    def _begin(self, data: bytes) -> bytes:
        """Read header and encapsulated key; what is left of ``data``."""
        self._buffer += data
        if len(self._buffer) < HEADER_SIZE:
            return b""
        key, aead = self._chosen(self._buffer[:HEADER_SIZE])
        size = HEADER_SIZE + key.config.kem.encapsulated_size
        if len(self._buffer) < size:
            return b""
        header, encapsulated = self._buffer[:HEADER_SIZE], self._buffer[HEADER_SIZE:size]
        info = self._form.request_label + b"\x00" + header
        self._key, self._context = key, Recipient(key.private, aead, encapsulated, info)
        rest, self._buffer = self._buffer[size:], b""
        if self._form is PLAIN:
            self._opener = _WholeOpener(self._context, self._limits)
        else:
            self._opener = ChunkOpener(self._context, self._limits)
        return rest

    def _chosen(self, header: bytes) -> tuple[GatewayKey, Aead]:
        key = self._find(header[0])
        kem, kdf, aead = (int.from_bytes(header[at : at + 2], "big") for at in (1, 3, 5))
        offered = key.config.offers(kdf, aead) if key else None
        if key is None or key.config.kem.id != kem or offered is None:
            raise CannotOpen
        return key, offered


class _WholeOpener(ChunkOpener):
    """A message that is one sealed part and nothing else."""

    def feed(self, data: bytes) -> bytes:
        self._close()
        self._buffer += data
        if len(self._buffer) > self._limits.total:
            raise CannotOpen
        self._closed = False
        return b""

    def end(self) -> bytes:
        self._close()
        return self._messages.open(bytes(self._buffer))


class ResponseSealer(_MessageSealer):
    """Seals the response to one request."""

    def __init__(self, context: Sender | Recipient, form: Form, nonce: bytes = b"", *, prefix: bytes = b"") -> None:
        """``nonce`` is random; only vectors give one."""
        nonce = nonce or os.urandom(context.aead.secret_size)
        super().__init__(_response_keys(context, form, nonce), form, prefix + nonce)
