"""TLS connections to a guest, authenticated by its attestation document instead of a certificate authority.

The certificate's name and issuer are ignored: the guest generates its key at boot, and the quote's report data covers
the key. A connection to the attested guest compares the key right after the handshake, before any byte of a request
is sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from privml.base.errors import Refused, UsageError
from privml.verify.judgement import AttestedKeys

DEFAULT_PORT = 8443
CONNECT_TIMEOUT = 30.0


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


def endpoint(url: str) -> Endpoint:
    """Read ``https://HOST[:PORT]`` (port 8443 when left out); ``UsageError`` for anything more or else."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"`{url}` is not a URL: {error}") from error
    plain = not (parts.query or parts.fragment or parts.username or parts.password) and parts.path in ("", "/")
    if parts.scheme != "https" or not host or not plain:
        raise UsageError(f"`{url}`: expected https://HOST[:PORT]", hint="leave out the path, it is always the same")
    return Endpoint(host, port or DEFAULT_PORT)


def tls_context() -> ssl.SSLContext:
    """TLS 1.3 without certificate checks: the attested key takes their place (see the module's text)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    return context


class GuestConnection(http.client.HTTPSConnection):
    """An unauthenticated HTTPS connection, to be used only for fetching a document.

    ``peer_spki_sha256`` (32 bytes) is the SHA-256 of the peer's public key once connected. ``timeout`` is seconds for
    each socket operation.
    """

    def __init__(self, where: Endpoint, *, timeout: float) -> None:
        super().__init__(where.host, where.port, timeout=min(timeout, CONNECT_TIMEOUT), context=tls_context())
        self._operation_timeout = timeout
        self._raw: socket.socket | None = None
        self.peer_spki_sha256: bytes | None = None

    def connect(self) -> None:
        """Connect, complete the handshake, and read the peer's key."""
        try:
            super().connect()
            self.peer_spki_sha256 = _spki_sha256(self.sock)
            self._check(self.peer_spki_sha256)
        except BaseException:
            self.close()
            raise
        self.sock.settimeout(self._operation_timeout)
        self._raw = self.sock

    def _check(self, key: bytes) -> None:
        """Raise if the peer's ``key`` is not acceptable; called before a byte of a request is sent."""

    def abort(self) -> None:
        """Close the connection, even while another thread is reading from it."""
        if self._raw is not None:
            with contextlib.suppress(OSError):
                self._raw.shutdown(socket.SHUT_RDWR)
        self.close()


class AttestedConnection(GuestConnection):
    """A connection to a guest accepted by a judgement.

    If the peer's key is not the attested one, ``connect()`` (and so each ``request()`` that connects) closes the
    socket and raises ``Refused`` before a byte of any request is sent.
    """

    def __init__(self, where: Endpoint, keys: AttestedKeys, *, timeout: float) -> None:
        super().__init__(where, timeout=timeout)
        self._attested = keys.tls_spki_sha256

    def _check(self, key: bytes) -> None:
        if not hmac.compare_digest(key, self._attested):
            raise Refused(
                f"tls-key: got {key.hex()}, expected {self._attested.hex()}: "
                "the machine at this address is not the attested one"
            )


def _spki_sha256(sock: ssl.SSLSocket) -> bytes:
    certificate = sock.getpeercert(binary_form=True)
    if certificate is None:
        raise Refused("tls-key: the peer sent no certificate")
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception as error:  # the certificate is untrusted, and the library can fail on it in many ways
        raise Refused(f"tls-key: the peer's certificate has no readable key ({error})") from error
    return hashlib.sha256(spki).digest()
