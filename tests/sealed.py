"""A caller of the sealed channel, made of the room `channel` alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from privml.channel import bhttp
from privml.channel.fields import Fields, RequestLine
from privml.channel.keyconfig import KeyConfig, choose
from privml.channel.ohttp import CHUNKED, CallerRequest, Form, ResponseOpener
from privml.channel.wrapped import WRAPPED, WrappedRequest, WrappedResponseOpener

JSON: Fields = (("content-type", "application/json"),)


def request(
    method: str, path: str, content: bytes = b"", fields: Fields = JSON, *, scheme: str = "https"
) -> bhttp.Request:
    """A request of a caller, for no authority in particular."""
    return bhttp.Request(RequestLine(method, scheme, "guest.invalid", path), fields if content else (), content)


@dataclass
class Sealed:
    """One sealed request: its form and bytes, and what opens the answer piece by piece."""

    form: Form
    body: bytes
    opener: ResponseOpener | WrappedResponseOpener
    reader: bhttp.Reader[int] = field(default_factory=bhttp.response_reader)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the request that carries it."""
        return {"content-type": self.form.request_type}

    def feed(self, data: bytes) -> bytes:
        """The content that ``data`` completes."""
        return self.reader.feed(self.opener.feed(data))

    def end(self) -> bytes:
        """The rest of the content; raises unless the answer is complete."""
        content = self.reader.feed(self.opener.end())
        self.reader.end()
        return content

    def opened(self, data: bytes) -> bhttp.Response:
        """A whole answer."""
        content = self.feed(data) + self.end()
        assert self.reader.control is not None
        return bhttp.Response(self.reader.control, self.reader.fields, content, self.reader.trailers)


def seal(configs: tuple[KeyConfig, ...], plain: bytes | bhttp.Request) -> Sealed:
    """Oblivious HTTP in chunks, to the first configuration that this machine can use."""
    data = plain if isinstance(plain, bytes) else plain.encode(pad=256)
    caller = CallerRequest(*choose(configs))
    return Sealed(CHUNKED, caller.whole(data), caller.response())


def wrap(configs: tuple[KeyConfig, ...], plain: bhttp.Request) -> Sealed:
    """One request for whichever of several guests gets it."""
    caller = WrappedRequest(configs)
    return Sealed(WRAPPED, caller.start + caller.final(plain.encode(pad=256)), caller.response())
