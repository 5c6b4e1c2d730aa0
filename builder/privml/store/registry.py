"""Objects of an OCI registry, by digest: the addresses of its blobs, and the anonymous tokens that it asks for.

A registry's blobs are named by their SHA-256 (OCI distribution specification 1.1, "Pulling blobs"), so no manifest
and no tag is read, and nothing that the registry says of itself is believed. Many registries want a token even for
what is public; the answer 401 says where to ask for it.
"""

from __future__ import annotations

import http.client
import re
import urllib.parse
from collections.abc import Mapping
from urllib.parse import SplitResult

from privml.base.errors import EvidenceError, UsageError, printable
from privml.base.http import Connections
from privml.base.strictjson import loads

SCHEME = "oci"
MAX_ANSWER = 64 * 1024
MAX_TOKEN = 16 * 1024
_LOCAL = ("localhost", "127.0.0.1", "::1")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_CHALLENGE = re.compile(r"\s*Bearer\s+(.+)", re.IGNORECASE)
_PARAMETER = re.compile(r'([a-z_]+)="([^"]*)"', re.IGNORECASE)
_TOKEN = re.compile(r"[!-~]+")
_EXPECTED = "expected oci://HOST[:PORT]/REPOSITORY"


class TokenError(Exception):
    """The registry wants a token and gives none that can be used; asking again is pointless."""


def address(text: str) -> str:
    """The address of a repository's objects, from ``oci://HOST[:PORT]/REPOSITORY``; ``UsageError`` for others.

    It is reached over HTTPS; a registry on this machine over HTTP, as other clients do.
    """
    try:
        parts = urllib.parse.urlsplit(text)
        named, port = parts.hostname, parts.port
    except ValueError:
        parts, named, port = urllib.parse.urlsplit(""), None, None
    path = parts.path.strip("/")
    if "@" in text or ":" in path:
        raise UsageError(
            f"--pool: `{printable(text)[:80]}` has a tag, a digest or a user, {_EXPECTED}",
            hint="objects are named by their digests, so no tag is read, and only what is public is fetched",
        )
    if not named or port == 0 or parts.query or parts.fragment or not _REPOSITORY.fullmatch(path):
        raise UsageError(f"--pool: `{printable(text)[:80]}` is not a repository of a registry, {_EXPECTED}")
    scheme = "http" if named in _LOCAL else "https"
    return f"{scheme}://{parts.netloc}/v2/{path}"


class Tokens:
    """The tokens that registries gave, one for each repository. Several threads may use it."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def get(self, connections: Connections, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """Send GET as ``connections`` does, with the repository's token once one is needed.

        ``TokenError`` if there is no token to be had.
        """
        repository = url.rpartition("/blobs/")[0]
        response = connections.get(url, {**headers, **self._header(repository)})
        if response.status != 401:
            return response
        challenge = response.getheader("WWW-Authenticate", "")
        response.read(MAX_ANSWER)
        if not response.isclosed():
            connections.drop(url)
        self._known[repository] = _token(connections, repository, challenge)
        return connections.get(url, {**headers, **self._header(repository)})

    def _header(self, repository: str) -> dict[str, str]:
        token = self._known.get(repository)
        return {} if token is None else {"Authorization": f"Bearer {token}"}


def _token(connections: Connections, repository: str, challenge: str) -> str:
    """Ask for an anonymous token to read the repository (the distribution project's token authentication)."""
    given = _CHALLENGE.fullmatch(challenge)
    if given is None:
        raise TokenError(f"HTTP 401 asks for `{printable(challenge)[:80]}`, expected a Bearer token")
    words = {name.lower(): value for name, value in _PARAMETER.findall(given[1])}
    home, realm = urllib.parse.urlsplit(repository), _realm(words.get("realm", ""))
    if realm is None or (realm.scheme, home.scheme) == ("http", "https"):
        raise TokenError(
            f"HTTP 401 names the token service `{printable(words.get('realm', ''))[:80]}`, expected https"
        )
    # The scope is ours: what is asked for is to read this repository.
    asked = {"service": words["service"]} if "service" in words else {}
    asked["scope"] = f"repository:{home.path.removeprefix('/v2/')}:pull"
    query = "&".join(filter(None, (realm.query, urllib.parse.urlencode(asked))))
    url = urllib.parse.urlunsplit(realm._replace(query=query, fragment=""))
    with connections.get(url) as response:
        body = response.read(MAX_ANSWER + 1)
        if not response.isclosed():
            connections.drop(url)
        if response.status != 200:
            raise TokenError(f"the token service answers HTTP {response.status}, expected 200")
    return _token_in(body)


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
