"""TLS connections to a guest, authenticated by its attestation document instead of a certificate authority.

The certificate's name and issuer are ignored: the guest generates its key at boot, and the quote's report data covers
the key. A connection to the attested guest compares the key right after the handshake, before any byte of a request
is sent.

Every operation of a connection ends at its deadline, whatever the peer sends: the time left is set before each read
and write, so a peer that answers byte by byte gains nothing. A read of the TLS library that never returns, because
the peer sends records without data faster than they are read, is ended by `GuestConnection.cut_at_deadline`. Only
name resolution has the system's own timeouts.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from privml.base.deadline import Deadline, connect
from privml.base.errors import EvidenceError, Refused, UsageError
from privml.verify.judgement import AttestedKeys

DEFAULT_PORT = 8443
CONNECT_TIMEOUT = 30.0
MAX_HEAD = 32 * 1024
MAX_INTERIM = 8
MAX_ERROR = 256 * 1024
_PIECE = 64 * 1024


@dataclass(frozen=True)
class Endpoint:
    """The address of a guest."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """``https://HOST:PORT``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"


def endpoint(url: str, *, default_port: int = DEFAULT_PORT) -> Endpoint:
    """Read ``https://HOST[:PORT]``; ``UsageError`` for anything more or else."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"`{url}` is not a URL: {error}") from error
    plain = not (parts.query or parts.fragment or parts.username or parts.password) and parts.path in ("", "/")
    if parts.scheme != "https" or not host or not plain:
        raise UsageError(f"`{url}`: expected https://HOST[:PORT]", hint=_address_hint(url, parts.scheme))
    return Endpoint(host, port or default_port)


def _address_hint(url: str, scheme: str) -> str:
    if "://" not in url:
        return f"try https://{url}"
    if scheme != "https":
        return "guests, and TLS servers in front of them, are reached by HTTPS only"
    return "leave out a user and what follows the port; the path is always the same"


class _TimedSocket(ssl.SSLSocket):
    """A TLS socket whose reads and writes end at a deadline; those of `ssl.SSLSocket` have a new timeout each."""

    deadline: Deadline | None = None

    def _limit(self) -> None:
        if self.deadline is not None:
            self.settimeout(self.deadline.left())

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        self._limit()
        return super().recv_into(*arguments, **options)

    def send(self, *arguments: Any, **options: Any) -> int:
        self._limit()
        return super().send(*arguments, **options)


class _Lines(Protocol):
    def readline(self, size: int = -1, /) -> bytes: ...
    def close(self) -> None: ...


class _Head:
    """The beginning of a response, read line by line and within bounds."""

    def __init__(self, file: _Lines) -> None:
        self._file = file
        self._left = MAX_HEAD
        self._interim = MAX_INTERIM

    def readline(self, size: int) -> bytes:
        """The next line; ``HTTPException`` after `MAX_HEAD` bytes or `MAX_INTERIM` interim responses."""
        line = self._file.readline(min(size, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise http.client.HTTPException(f"the head of the response is larger than {MAX_HEAD} bytes")
        if line.startswith(b"HTTP/"):
            self._interim -= 1
            if self._interim < 0:
                raise http.client.HTTPException(f"more than {MAX_INTERIM} interim responses (100 Continue)")
        return line

    def close(self) -> None:
        """Close the response."""
        self._file.close()


class _Response(http.client.HTTPResponse):
    """A response with a bounded head: the base class reads interim responses without end."""

    def begin(self) -> None:
        file = self.fp
        head = self.fp = cast(Any, _Head(file))
        try:
            super().begin()
        finally:
            if self.fp is head:
                self.fp = file


def tls_context() -> ssl.SSLContext:
    """TLS 1.3 without certificate checks: the attested key takes their place (see the module's text)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    context.sslsocket_class = _TimedSocket
    return context


class GuestConnection(http.client.HTTPSConnection):
    """An unauthenticated HTTPS connection, to be used only for fetching a document.

    ``peer_spki_sha256`` (32 bytes) is the SHA-256 of the peer's public key once connected. ``timeout`` is in seconds
    from now and for everything, connecting included; ``deadline.renew()`` gives more. ``context`` is `tls_context` by
    default.
    """

    response_class = _Response

    def __init__(self, where: Endpoint, *, timeout: float, context: ssl.SSLContext | None = None) -> None:
        self._tls = context or tls_context()
        super().__init__(where.host, where.port, context=self._tls)
        self._where = where
        self._raw: socket.socket | None = None
        self.deadline = Deadline(timeout)
        self.peer_spki_sha256: bytes | None = None

    def connect(self) -> None:
        """Connect, complete the handshake, and read the peer's key, within `CONNECT_TIMEOUT` and the deadline."""
        limit = Deadline(min(CONNECT_TIMEOUT, self.deadline.left()))
        try:
            self.sock = connect(self._where.host, self._where.port, limit)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = tls = cast(
                _TimedSocket,
                self._tls.wrap_socket(self.sock, server_hostname=self._where.host, do_handshake_on_connect=False),
            )
            self._raw = tls
            tls.settimeout(limit.left())
            tls.do_handshake()
            tls.deadline = self.deadline
            self.peer_spki_sha256 = _spki_sha256(tls)
        except BaseException:
            self.close()
            raise

    @property
    def where(self) -> Endpoint:
        """The address."""
        return self._where

    @contextlib.contextmanager
    def cut_at_deadline(self) -> Iterator[None]:
        """Shut the connection down at its deadline (as it is now), whatever the thread in this block does then."""

        def cut() -> None:
            if self._raw is not None:
                with contextlib.suppress(OSError):
                    # Not that of `ssl.SSLSocket`, which would make later reads return what is encrypted.
                    socket.socket.shutdown(self._raw, socket.SHUT_RDWR)

        timer = threading.Timer(self.deadline.left(), cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, http.client.HTTPException):
            self.deadline.left()  # an end that the timer made is a timeout
            raise
        finally:
            timer.cancel()

    def get(self, path: str, limit: int, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """Status and body of the response to GET ``path`` with more ``headers``, within the deadline.

        ``EvidenceError`` if it has more than ``limit`` bytes; one of another status than 200 may have fewer.
        """
        return self._exchanged("GET", path, limit, headers or {}, None)

    def post(self, path: str, body: bytes, limit: int) -> tuple[int, bytes]:
        """Status and body of the response to POST ``path`` with a JSON ``body``; as in `get`."""
        return self._exchanged("POST", path, limit, {"Content-Type": "application/json"}, body)

    def _exchanged(
        self, method: str, path: str, limit: int, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        with self.cut_at_deadline():
            self.request(method, path, body, headers={"Accept": "application/json", **headers})
            response = self.getresponse()
            limit = limit if response.status == 200 else min(limit, MAX_ERROR)
            found = bytearray()
            while piece := response.read1(_PIECE):
                found += piece
                if len(found) > limit:
                    raise EvidenceError(f"{path.partition('?')[0]}: the response is larger than {limit} bytes")
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
            self.deadline.left()
            return response.status, bytes(found)

    def abort(self) -> None:
        """Close the connection, even while another thread is reading from it."""
        if self._raw is not None:
            with contextlib.suppress(OSError):
                self._raw.shutdown(socket.SHUT_RDWR)
        self.close()


def check_pin(tls: ssl.SSLObject | ssl.SSLSocket, keys: AttestedKeys) -> None:
    """Raise ``Refused`` unless the peer has the attested TLS key; to be called before a byte of a request is sent."""
    key = _spki_sha256(tls)
    if not hmac.compare_digest(key, keys.tls_spki_sha256):
        raise Refused(
            f"tls-key: got {key.hex()}, expected {keys.tls_spki_sha256.hex()}: "
            "the machine at this address is not the attested one"
        )


def reason(error: Exception) -> str:
    """Why a connection failed, in words without numbers of errors or names of source files."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was closed before the end of the response"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS: {error.reason.replace('_', ' ').lower()}"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


def _spki_sha256(tls: ssl.SSLObject | ssl.SSLSocket) -> bytes:
    certificate = tls.getpeercert(binary_form=True)
    if certificate is None:
        raise Refused("tls-key: the peer sent no certificate")
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception as error:  # the certificate is untrusted, and the library can fail on it in many ways
        raise Refused(f"tls-key: the peer's certificate has no readable key ({error})") from error
    return hashlib.sha256(spki).digest()
