"""A small HTTP client that keeps connections open and takes the host's way out (`base.wayout`)."""

from __future__ import annotations

import http.client
import ssl
import urllib.parse
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol

from privml.base.deadline import Cutoff
from privml.base.errors import UsageError, printable
from privml.base.wayout import WayOut, basic, without_password

REDIRECTS = 5
_REDIRECT_BODY = 64 * 1024
AGENT = "privml-build"
_AUTHORIZATION = "Authorization"


def base_address(address: str, what: str = "collateral service") -> str:
    """An http(s) address of a service without its final slash; ``UsageError`` for anything else.

    ``what`` names the service in messages. An address with a password is refused without being shown: nobody needs
    one to read what is public.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        named, port = parts.hostname, parts.port
    except ValueError:
        parts, named, port = urllib.parse.urlsplit(""), None, None
    if "@" in address:
        raise UsageError(
            f"the address of a {what} holds a user or password, expected https://HOST[:PORT]",
            hint="what it serves is public: leave out everything up to the `@`",
        )
    if parts.scheme not in ("http", "https") or not named or port == 0 or parts.query or parts.fragment:
        raise UsageError(f"{what} `{printable(address)}`: expected https://HOST[:PORT]")
    return address.rstrip("/")


class Body(Protocol):
    """What is read piece by piece while it is sent; it ends with no bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes."""
        ...


class Connections:
    """Open connections of one thread, by scheme, host and proxy. Not to be shared between threads.

    ``way`` is the host's way out. ``timeout`` is seconds for each socket operation, ``deadline`` the end of all of
    them, ``redirects`` how many to follow.
    """

    def __init__(
        self, way: WayOut, timeout: float = 30.0, *, deadline: Cutoff | None = None, redirects: int = REDIRECTS
    ) -> None:
        self._way = way
        self._timeout = timeout
        self._deadline = deadline
        self._redirects = redirects
        self._open: dict[tuple[str, str], http.client.HTTPConnection] = {}
        self._tls: ssl.SSLContext | None = None

    def __enter__(self) -> Connections:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> http.client.HTTPResponse:
        """Send GET, follow redirects and return the response with its body unread.

        A header ``Authorization`` replaces the way's own, and is not sent to another server that a redirect names.
        Raises ``OSError`` or ``http.client.HTTPException``. The caller reads the whole body or calls ``drop``.
        """
        return self._followed("GET", url, headers or {}, "")

    def head(self, url: str, until: str) -> http.client.HTTPResponse:
        """Send HEAD, follow redirects up to the first response with the header ``until``, and return that one.

        Raises as ``get`` does.
        """
        response = self._followed("HEAD", url, {}, until)
        response.read()
        return response

    def _followed(self, method: str, url: str, headers: Mapping[str, str], until: str) -> http.client.HTTPResponse:
        for _ in range(self._redirects + 1):
            response = self._once(method, url, headers)
            if response.status not in (301, 302, 303, 307, 308) or (until and response.getheader(until)):
                return response
            target = response.getheader("Location", "")
            response.read(_REDIRECT_BODY)
            if not response.isclosed():
                self.drop(url)
            before, url = origin(url), urllib.parse.urljoin(url, target)
            if origin(url) != before:
                # What the caller gave to one server is not for another.
                headers = {name: value for name, value in headers.items() if name != _AUTHORIZATION}
        raise OSError(f"more than {self._redirects} redirects")

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """Send POST and return the response, also a redirect, with its body unread. As in `get`.

        It is sent again if a kept connection turns out to be closed, so it must be harmless to repeat.
        """
        return self._once("POST", url, headers, body)

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None = None
    ) -> http.client.HTTPResponse:
        """Send a request and return the response, also a redirect, with its body unread. As in `get`.

        A ``body`` is sent once, over a new connection; ``Content-Length`` is for the caller to give. The response to
        one that the server does not read to its end is returned where it can be had.
        """
        if body is not None:
            self.drop(url)
        return self._once(method, url, headers, body)

    def drop(self, url: str) -> None:
        """Close the connections to ``url``'s host, because a body was not read completely."""
        netloc = urllib.parse.urlsplit(url).netloc
        for key in [key for key in self._open if key[1] == netloc]:
            self._open.pop(key).close()

    def _once(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | Body | None = None
    ) -> http.client.HTTPResponse:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OSError(f"`{without_password(url)}` is not an http(s) address")
        key = (parts.scheme, parts.netloc)
        proxy = self._way.proxy(parts)
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        sent = {"User-Agent": AGENT, "Accept-Encoding": "identity", **headers}
        if _AUTHORIZATION not in headers and (login := self._way.authorization(parts)) is not None:
            sent[_AUTHORIZATION] = login
        if proxy is not None and parts.scheme == "http":
            netloc = parts.netloc.rpartition("@")[2]
            target = urllib.parse.urlunsplit((parts.scheme, netloc, parts.path or "/", parts.query, ""))
            sent.update(_proxy_headers(proxy))
        reused = key in self._open
        try:
            return self._send(method, key, parts, proxy, target, sent, body)
        except (OSError, http.client.HTTPException):
            if not reused:
                raise
            # A server may close an idle connection at any time; only failures of a fresh one count.
            return self._send(method, key, parts, proxy, target, sent, body)

    def _send(
        self,
        method: str,
        key: tuple[str, str],
        parts: urllib.parse.SplitResult,
        proxy: urllib.parse.SplitResult | None,
        target: str,
        headers: dict[str, str],
        body: bytes | Body | None,
    ) -> http.client.HTTPResponse:
        connection = self._open.get(key)
        if connection is None:
            connection = self._connect(parts, proxy)
            self._open[key] = connection
        try:
            try:
                connection.request(method, target, body, headers)
            except (BrokenPipeError, ConnectionResetError):
                # A server that refuses a large body answers and closes: its answer says why.
                if body is None or isinstance(body, bytes):
                    raise
            return connection.getresponse()
        except BaseException:
            self._open.pop(key, None)
            connection.close()
            raise

    def _connect(
        self, parts: urllib.parse.SplitResult, proxy: urllib.parse.SplitResult | None
    ) -> http.client.HTTPConnection:
        host = (proxy or parts).hostname or ""
        port = (proxy or parts).port
        connection: http.client.HTTPConnection
        if parts.scheme == "http":
            connection = http.client.HTTPConnection(host, port, timeout=self._timeout)
        else:
            if self._tls is None:
                self._tls = ssl.create_default_context(cafile=self._way.certificates)
            connection = http.client.HTTPSConnection(host, port, timeout=self._timeout, context=self._tls)
            if proxy is not None:
                connection.set_tunnel(parts.hostname or "", parts.port or 443, headers=_proxy_headers(proxy))
        if self._deadline is not None:
            # The library has no public way to hand it a socket before the proxy's tunnel and the TLS handshake.
            connection._create_connection = self._deadline.connect  # type: ignore[attr-defined]  # noqa: SLF001
        return connection


def origin(url: str) -> tuple[str, str]:
    """Scheme, host and port of an address: a login or token for one is not for another."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc


def _proxy_headers(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    return {} if proxy.username is None else {"Proxy-Authorization": basic(proxy)}
