"""Requests to services that publish collateral: bounded in size and time, and with errors that name the request."""

from __future__ import annotations

import http.client
import ssl
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

from privml.base.deadline import Cutoff
from privml.base.errors import EvidenceError, HostError, printable
from privml.base.http import Connections

_PIECE = 64 * 1024
_TOO_MANY = 429
_WITHOUT = "without a network, give collateral with --collateral FILE or `privml-build collateral fetch --from DIR`"


class AbsentError(HostError):
    """The service answered that it does not have what was asked for."""


class UnansweredError(HostError):
    """The service did not answer, or answered that it was asked too often."""


@dataclass(frozen=True)
class Answer:
    """The body and headers of an answer with status 200; ``path`` is what was asked for."""

    path: str
    body: bytes
    headers: http.client.HTTPMessage

    def header(self, *names: str) -> str:
        """The first of ``names`` that was sent; ``EvidenceError`` if none was, or it was sent twice."""
        for name in names:
            values = [str(value) for value in self.headers.get_all(name, [])]
            if len(values) == 1:
                return values[0]
            if values:
                raise EvidenceError(f"{self.path}: {len(values)} headers {name}, expected one")
        raise EvidenceError(f"{self.path}: no header {names[0]}")


class Requests:
    """Requests with one deadline for all of them, and at most ``limit`` bytes for each body.

    ``absent`` is the hint for an answer of status 404, ``without`` for no answer at all.
    """

    def __init__(
        self,
        connections: Connections,
        deadline: Cutoff,
        limit: int,
        *,
        absent: str | None = None,
        without: str = _WITHOUT,
    ) -> None:
        self._connections = connections
        self._deadline = deadline
        self._limit = limit
        self._absent = absent
        self._without = without

    def get(self, url: str) -> Answer:
        """The answer to GET. ``HostError`` without one, or for another status than 200 (`AbsentError`: 404)."""
        return self._send(url, None, {})

    def post(self, url: str, body: bytes, kind: str) -> Answer:
        """The answer to POST of ``body`` with the content type ``kind``; errors as in `get`."""
        return self._send(url, body, {"Content-Type": kind})

    def _send(self, url: str, sent: bytes | None, headers: Mapping[str, str]) -> Answer:
        parts = urllib.parse.urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        said = f"{parts.netloc}: {path}" if path else parts.netloc
        try:
            self._deadline.left()
            connections = self._connections
            answer = connections.get(url) if sent is None else connections.post(url, sent, headers)
            with answer as response:
                body = self._body(response, said)
        except (OSError, http.client.HTTPException) as error:
            raise UnansweredError(f"{said}: {self._reason(error)}", hint=self._hint(error)) from error
        if response.status == 404:
            raise AbsentError(f"{said}: status 404, expected 200", hint=self._absent)
        if response.status != 200:
            kind = UnansweredError if response.status == _TOO_MANY else HostError
            raise kind(f"{said}: status {response.status}, expected 200")
        return Answer(path, body, response.headers)

    def _body(self, response: http.client.HTTPResponse, said: str) -> bytes:
        body = bytearray()
        while piece := response.read1(_PIECE):
            self._deadline.left()
            body += piece
            if len(body) > self._limit:
                raise EvidenceError(f"{said}: the response is larger than {self._limit} bytes")
        # A connection that ends early looks like the end of the body.
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        self._deadline.left()
        return bytes(body)

    def _reason(self, error: Exception) -> str:
        if self._deadline.passed:
            return f"no complete response within {self._deadline.seconds:g} s"
        return printable(getattr(error, "strerror", None) or str(error)) or type(error).__name__

    def _hint(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return "a service with its own certificate: name that certificate's file in SSL_CERT_FILE"
        return self._without
