"""The caller's side of the sealed channel: seal a request for judged guests, and open the answer as it arrives.

Whoever carries the sealed bytes learns their length and time, and can lose, cut or repeat them; nothing else. For one
guest the form is chunked oblivious HTTP, for several that of `channel.wrapped`, which any of them can answer.

Every failure to open is the one ``CannotOpen``. An answer is complete only after `SealedAnswer.end`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from privml.base.errors import EvidenceError, Refused
from privml.channel import record
from privml.channel.bhttp import Request, response_reader
from privml.channel.fields import Fields, RequestLine
from privml.channel.keyconfig import KeyConfig, choose
from privml.channel.ohttp import CHUNKED, CallerRequest, Form, ResponseOpener
from privml.channel.record import Record
from privml.channel.suites import Aead, CannotOpen
from privml.channel.wrapped import MAX_RECIPIENTS, WRAPPED, WrappedRequest, WrappedResponseOpener
from privml.verify.judgement import AttestedKeys

PAD = 256
"""Requests are padded to a multiple of so many bytes, so that their length says less."""
MAX_GUESTS = MAX_RECIPIENTS


@dataclass(frozen=True)
class Channel:
    """What requests to one judged guest are sealed for. Only `of` makes one that was checked."""

    keys: AttestedKeys
    record: Record
    config: KeyConfig
    aead: Aead

    @classmethod
    def of(cls, keys: AttestedKeys, data: bytes) -> Channel:
        """The channel of a guest with these attested keys, by its signed record.

        ``Refused`` if the attested channel key did not sign it for this boot, ``EvidenceError`` if it is malformed or
        names no key that is usable here.
        """
        if keys.channel_key is None:
            raise Refused("channel-key: the guest has none, expected one to seal requests for")
        found = record.verify(data, channel_key=keys.channel_key, keys_sha256=keys.section_sha256)
        return cls(keys, found, *choose(found.configs))


class SealedRequest:
    """One request, sealed for each of ``channels``. Make another for another attempt: guests refuse a repetition."""

    def __init__(self, channels: Sequence[Channel], request: Request) -> None:
        """Seal; ``EvidenceError`` for a request that may not be sent, or with none or too many channels."""
        plain = request.encode(pad=PAD)
        self._channels = tuple(channels)
        self._sealer: CallerRequest | WrappedRequest
        if len(channels) == 1:
            self.form: Form = CHUNKED
            self._sealer = CallerRequest(channels[0].config, channels[0].aead)
        else:
            self.form = WRAPPED
            self._sealer = WrappedRequest([channel.config for channel in channels])
        self.body = self._sealer.start + self._sealer.final(plain)

    def answer(self) -> SealedAnswer:
        """What opens the answer."""
        return SealedAnswer(self._channels, self._sealer.response())


class SealedAnswer:
    """Opens one answer in any pieces. After an error every call fails."""

    def __init__(self, channels: tuple[Channel, ...], opener: ResponseOpener | WrappedResponseOpener) -> None:
        self._channels, self._opener = channels, opener
        self._reader = response_reader()

    @property
    def status(self) -> int | None:
        """The status, once it is there."""
        return self._reader.control

    @property
    def fields(self) -> Fields:
        """The header fields, once `status` is there."""
        return self._reader.fields

    @property
    def trailers(self) -> Fields:
        """The trailer fields, after `end`."""
        return self._reader.trailers

    @property
    def channel(self) -> Channel | None:
        """The channel of the guest that answers, once something of its answer opened."""
        if isinstance(self._opener, ResponseOpener):
            return self._channels[0] if self.status is not None else None
        config = self._opener.answered_by
        return next((one for one in self._channels if one.config is config), None)

    def feed(self, data: bytes) -> bytes:
        """The content that ``data`` completes. It is the guest's own, and more may be missing."""
        plain = self._opener.feed(data)
        return self._reader.feed(plain) if plain else b""

    def end(self) -> bytes:
        """The last of the content, after the last sealed byte; ``CannotOpen`` if anything is missing."""
        content = self._reader.feed(self._opener.end())
        try:
            self._reader.end()
        except EvidenceError as error:
            raise CannotOpen from error
        return content


def sealable(method: str, path: str, fields: Fields, content: bytes) -> Request:
    """A caller's request as it is sealed; ``EvidenceError`` for one that may not be sent.

    There is no authority: the guest serves one name only, and does not look at it.
    """
    return Request(RequestLine(method, "https", "", path), fields, content)


def repeatable(method: str, path: str) -> bool:
    """Whether a request may be sent again when nobody knows if the first was answered.

    The word that a guest could not open a request comes from outside the channel, so it may be a lie. Inference keeps
    nothing; a service may, and only its GET and HEAD are repeated.
    """
    return method in ("GET", "HEAD") or path.startswith("/v1/")
