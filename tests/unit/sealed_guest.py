"""The guest's side of the sealed channel as functions: keys, signed record, and the answer to a sealed request."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import attestation_samples as samples
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privml.channel import bhttp
from privml.channel.bhttp import Request
from privml.channel.fields import Fields
from privml.channel.kem import KEMS, Kem, usable
from privml.channel.keyring import KeyRing
from privml.channel.ohttp import CHUNKED, OpenedRequest, RequestOpener
from privml.channel.record import Record
from privml.channel.wrapped import WRAPPED, WrappedRequestOpener
from privml.client.channel import Channel
from privml.evidence.document import Document
from privml.evidence.sections import CHANNEL_KEY, TLS_KEY, Key, Keys
from privml.verify.judgement import AttestedKeys, Judgement

X25519 = KEMS[0x0020]


class SealedGuest:
    """The keys of one boot, and what a guest does with a sealed request."""

    def __init__(self, kems: Sequence[Kem] = (), *, spki: bytes = samples.SPKI) -> None:
        self.signer = Ed25519PrivateKey.generate()
        self.keys = Keys(
            (Key(*CHANNEL_KEY, self.signer.public_key().public_bytes_raw()), Key(*TLS_KEY, spki)),
        )
        self.ring = KeyRing(kems or [one for one in KEMS.values() if one in usable()], now=0.0, places=64)

    @property
    def record(self) -> bytes:
        return self.record_of(self.keys)

    def record_of(self, keys: Keys) -> bytes:
        return Record(self.ring.serial, keys.sha256, self.ring.configs).sign(self.signer.sign)

    def rotate(self) -> None:
        """Two rotations: what was offered before is gone."""
        for _ in range(2):
            self.ring.advance(self.ring.next_change + 1)

    def document(self, nonce: bytes = samples.NONCE) -> Document:
        return samples.document(nonce=nonce, keys=self.keys)

    def judgement(self, record: bytes | None = None) -> Judgement:
        """Judged through a terminator."""
        made = self.document()
        return samples.judge(made, tls_spki_sha256=None, channel_record=self.record if record is None else record)

    @property
    def attested(self) -> AttestedKeys:
        keys = self.judgement().keys
        assert keys is not None
        return keys

    @property
    def channel(self) -> Channel:
        return Channel.of(self.attested, self.record)

    def open(self, media_type: str, body: bytes) -> tuple[Request, OpenedRequest]:
        """The request in a sealed body, and what answers it; ``CannotOpen`` by the guest's rules."""
        opener = (
            RequestOpener(self.ring.find)
            if media_type == CHUNKED.request_type
            else WrappedRequestOpener(lambda: self.ring.alive)
        )
        assert media_type in (CHUNKED.request_type, WRAPPED.request_type)
        opener.feed(body)
        opened = opener.end()
        opened.remember()
        return bhttp.decode_request(opened.plain), opened


def answered(
    opened: OpenedRequest,
    pieces: Iterable[bytes],
    *,
    status: int = 200,
    fields: Fields = (),
    trailers: Fields = (),
    cut: bool = False,
) -> list[bytes]:
    """The sealed pieces of an answer: the head, each piece, and the end unless it is ``cut``."""
    sealer = opened.response()
    made = [sealer.start, sealer.chunk(bhttp.response_head(status, fields))]
    made += [sealer.chunk(bhttp.content_piece(piece)) for piece in pieces]
    return made if cut else [*made, sealer.final(bhttp.response_end(trailers))]


Answering = Callable[[Request, OpenedRequest], list[bytes]]


def replaced(channel: Channel, **changes: object) -> Channel:
    return dataclasses.replace(channel, **changes)  # type: ignore[arg-type]
