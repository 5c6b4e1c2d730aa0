"""Objects of an OCI registry, by digest: the addresses of its blobs, and the logins and tokens that it asks for.

A registry's blobs are named by their SHA-256 (OCI distribution specification 1.1, "Pulling blobs"), so no manifest
and no tag is read, and nothing that the registry says of itself is believed. Many registries want a token even for
what is public; the answer 401 says where to ask for it.
"""

from __future__ import annotations

import http.client
import re
import urllib.parse
from collections.abc import Callable, Mapping
from urllib.parse import SplitResult

from privml.base.errors import EvidenceError, HostError, UsageError, printable
from privml.base.http import Body, Connections, origin
from privml.base.strictjson import loads
from privml.store.logins import basic_for

SCHEME = "oci"
MAX_ANSWER = 64 * 1024
MAX_TOKEN = 16 * 1024
LOCAL = ("localhost", "127.0.0.1", "::1")
"""Hosts that are reached over plain HTTP, too."""
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_CHALLENGE = re.compile(r"\s*Bearer\s+(.+)", re.IGNORECASE)
_BASIC = re.compile(r"\s*Basic(\s|$)", re.IGNORECASE)
_PARAMETER = re.compile(r'([a-z_]+)="([^"]*)"', re.IGNORECASE)
_TOKEN = re.compile(r"[!-~]+")
_EXPECTED = "expected oci://HOST[:PORT]/REPOSITORY"


class TokenError(Exception):
    """The registry wants a token and gives none that can be used; asking again is pointless."""


def address(text: str, what: str = "--pool") -> str:
    """The address of a repository's objects, from ``oci://HOST[:PORT]/REPOSITORY``; ``UsageError`` for others.

    It is reached over HTTPS; a registry on this machine over HTTP, as other clients do. ``what`` is named in errors.
    """
    try:
        parts = urllib.parse.urlsplit(text)
        named, port = parts.hostname, parts.port
    except ValueError:
        parts, named, port = urllib.parse.urlsplit(""), None, None
    path = parts.path.strip("/")
    if "@" in text or ":" in path:
        raise UsageError(
            f"{what}: `{printable(text)[:80]}` has a tag, a digest or a user, {_EXPECTED}",
            hint="objects are named by their digests, so no tag is read; a login is this host's (`podman login`)",
        )
    if not named or port == 0 or parts.query or parts.fragment or not _REPOSITORY.fullmatch(path):
        raise UsageError(f"{what}: `{printable(text)[:80]}` is not a repository of a registry, {_EXPECTED}")
    scheme = "http" if named in LOCAL else "https"
    return f"{scheme}://{parts.netloc}/v2/{path}"


class Tokens:
    """The logins and tokens for registries' repositories. Several threads may use it.

    A token is asked for once a registry wants one: with the login of this host for it (`store.logins`), else
    anonymously; to read, or with ``push`` also to write.
    """

    def __init__(self, *, push: bool = False) -> None:
        self._known: dict[str, str] = {}
        self._action = "pull,push" if push else "pull"

    def get(self, connections: Connections, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """Send GET for a blob as ``connections`` does, with the repository's token once one is needed.

        ``TokenError`` if there is no token to be had.
        """
        return self._sent(connections, url.rpartition("/blobs/")[0], url, headers, connections.get)

    def send(
        self,
        connections: Connections,
        repository: str,
        request: tuple[str, str],
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Body] | None = None,
    ) -> http.client.HTTPResponse:
        """Send a ``request`` (method and address) about a repository, at its `address`; no redirect is followed.

        ``body`` makes what is sent, again if a token is needed. ``TokenError`` if there is none to be had.
        """
        method, url = request

        def once(url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
            return connections.send(method, url, headers, None if body is None else body())

        return self._sent(connections, repository, url, headers or {}, once)

    def _sent(
        self,
        connections: Connections,
        repository: str,
        url: str,
        headers: Mapping[str, str],
        send: Callable[[str, Mapping[str, str]], http.client.HTTPResponse],
    ) -> http.client.HTTPResponse:
        if origin(url) != origin(repository):
            return send(url, headers)  # a token is for the registry alone
        response = send(url, {**headers, **self._header(repository)})
        if response.status != 401:
            return response
        challenge = response.getheader("WWW-Authenticate", "")
        response.read(MAX_ANSWER)
        if not response.isclosed():
            connections.drop(url)
        self._known[repository] = _authorization(connections, repository, challenge, self._action)
        return send(url, {**headers, **self._header(repository)})

    def _header(self, repository: str) -> dict[str, str]:
        known = self._known.get(repository)
        return {} if known is None else {"Authorization": known}


def _authorization(connections: Connections, repository: str, challenge: str, action: str) -> str:
    """What a registry wants: this host's login for it, or a token (distribution's token authentication)."""
    home = urllib.parse.urlsplit(repository)
    name = home.path.removeprefix("/v2/")
    try:
        login = basic_for(f"{home.netloc}/{name}")
    except HostError as error:
        raise TokenError(error.message) from error
    if login is not None and _BASIC.match(challenge):
        return login
    given = _CHALLENGE.fullmatch(challenge)
    if given is None:
        expected = "a Bearer token" if login is not None else "a Bearer token, or a login for it on this host"
        raise TokenError(f"HTTP 401 asks for `{printable(challenge)[:80]}`, expected {expected}")
    words = {word.lower(): value for word, value in _PARAMETER.findall(given[1])}
    realm = _realm(words.get("realm", ""))
    # No login goes over plain HTTP to another machine.
    plain = realm is not None and realm.scheme == "http"
    if realm is None or (plain and (home.scheme == "https" or (login and realm.hostname not in LOCAL))):
        raise TokenError(
            f"HTTP 401 names the token service `{printable(words.get('realm', ''))[:80]}`, expected https"
        )
    # The scope is ours: what is asked for is to read this repository, or to write it.
    asked = {"service": words["service"]} if "service" in words else {}
    asked["scope"] = f"repository:{name}:{action}"
    query = "&".join(filter(None, (realm.query, urllib.parse.urlencode(asked))))
    url = urllib.parse.urlunsplit(realm._replace(query=query, fragment=""))
    with connections.get(url, {} if login is None else {"Authorization": login}) as response:
        body = response.read(MAX_ANSWER + 1)
        if not response.isclosed():
            connections.drop(url)
        if response.status != 200:
            whose = "" if login is None else ", with this host's login"
            raise TokenError(f"the token service answers HTTP {response.status}, expected 200{whose}")
    return f"Bearer {_token_in(body)}"


def _realm(text: str) -> SplitResult | None:
    try:
        parts = urllib.parse.urlsplit(text)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        return None
    return parts if known else None


def _token_in(body: bytes) -> str:
    try:
        answer = loads(body, what="the token service's answer", limit=MAX_ANSWER)
    except EvidenceError as error:
        raise TokenError(error.message) from error
    found = answer.get("token", answer.get("access_token")) if isinstance(answer, dict) else None
    if not isinstance(found, str) or len(found) > MAX_TOKEN or not _TOKEN.fullmatch(found):
        raise TokenError("the token service's answer has no token")
    return found
