"""Who may use the local proxy: programs of this machine, and web pages only of origins that are allowed.

A browser lets any web page send requests to this machine. Without these checks a page could spend the guest's time
with requests that need no permission (a POST of plain text), or read answers through a name that it points to
127.0.0.1 (DNS rebinding). ``Host``, ``Origin`` and ``Sec-Fetch-Site`` are set by the browser and not by the page
(Fetch standard, "forbidden request-header"); programs that are not browsers send none of the last two.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from privml.base.errors import HostError, UsageError
from privml.base.files import read_start
from privml.client.receipts import SHOWN

METHODS = ("GET", "POST", "PUT", "DELETE")
VERDICT_PATHS = ("/", "/privml/verdict", "/privml/guests")
"""What the proxy itself shows of its guests (`client.pages`)."""
LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")
_MAX_TOKEN = 1024
_ORIGIN = re.compile(
    r"(https?)://(?:[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){0,20}|\[[0-9a-f:.]{2,45}\])(?::([1-9][0-9]{0,4}))?"
)
_MAX_ORIGINS = 64
_FIELD_NAMES = re.compile(r"[A-Za-z0-9-]{1,64}(?: *, *[A-Za-z0-9-]{1,64}){0,63}")
_PREFLIGHT_SECONDS = "600"
# What a page may read of an answer besides its body and content type.
_EXPOSED = f"x-request-id, retry-after, {SHOWN.decode()}"
_BASIC = 'Basic realm="privml-build proxy: the token as password", charset="UTF-8"'
_NOT_CROSS_SITE = ("same-origin", "none")


@dataclass(frozen=True)
class Callers:
    """Which requests the proxy takes. ``origins`` are those of web pages; ``token`` is what every caller must have.

    With ``unix`` it listens on a Unix socket: no browser reaches that, and clients send any name as ``Host``.
    """

    origins: frozenset[str] = frozenset()
    token: str | None = None
    unix: bool = False


class Guarded:
    """The proxy's application behind the checks of its callers; a refused request's body is not read."""

    def __init__(self, app: ASGIApp, callers: Callers) -> None:
        self._app = app
        self._callers = callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refused request or a preflight; else let the application answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        refusal = self._foreign(scope, headers)
        if refusal is None and scope["method"] == "OPTIONS" and origin is not None:
            await _preflight(origin, headers)(scope, receive, send)
            return
        refusal = refusal or self._unknown(scope, headers) or _no_json(scope, headers)
        app = self._app if refusal is None else refusal
        await app(scope, receive, send if origin not in self._callers.origins else _readable(origin, send))

    def _foreign(self, scope: Scope, headers: Headers) -> Response | None:
        """The refusal of a request that a web page of another origin made, or that was sent to another name."""
        hosts, origins, sites = (headers.getlist(name) for name in ("host", "origin", "sec-fetch-site"))
        if not self._callers.unix and not _names_here(hosts, port := scope["server"][1]):
            return error_response(
                421, "host_refused", f"Host: got {_shown(hosts)}, expected this machine, as {LOCAL_NAMES[0]}:{port}"
            )
        if not origins:
            if any(site not in _NOT_CROSS_SITE for site in sites):
                return error_response(
                    403,
                    "origin_refused",
                    f"Sec-Fetch-Site: got {_shown(sites)}: a page of elsewhere made this request",
                )
        elif scope["path"] in VERDICT_PATHS:
            return error_response(
                403, "origin_refused", f"Origin: got {_shown(origins)}, expected none for this path"
            )
        elif len(origins) > 1 or origins[0] not in self._callers.origins:
            return error_response(
                403,
                "origin_refused",
                f"Origin: got {_shown(origins)}: web pages may use this proxy only if it was started with "
                "`--allow-origin` and their origin",
            )
        return None

    def _unknown(self, scope: Scope, headers: Headers) -> Response | None:
        """The refusal of a caller without the token. `/healthz` says nothing that needs one.

        A browser cannot send it as programs do, so for a page it is a password, with any user name.
        """
        expected = self._callers.token
        if expected is None or scope["path"] == "/healthz":
            return None
        page = scope["path"] in VERDICT_PATHS
        kind, _, got = headers.get("authorization", "").partition(" ")
        if page and kind.lower() == "basic":
            kind, got = "bearer", _password(got.strip())
        same = hmac.compare_digest(*(hashlib.sha256(word.encode()).digest() for word in (got.strip(), expected)))
        if kind.lower() == "bearer" and same:
            return None
        found = "none" if "authorization" not in headers else "another one"
        return error_response(
            401,
            "token_refused",
            f"token: got {found}, expected that of the proxy, as {'password' if page else 'OPENAI_API_KEY'}",
            headers={"WWW-Authenticate": _BASIC if page else "Bearer"},
        )


def _password(credentials: str) -> str:
    """The password of HTTP's Basic scheme (RFC 7617); empty if it is malformed."""
    try:
        return base64.b64decode(credentials, validate=True).decode("utf-8").partition(":")[2]
    except ValueError:
        return ""


def error_response(
    status: int, kind: str, message: str, headers: dict[str, str] | None = None, **more: Any
) -> Response:
    """A response with an error in OpenAI's format."""
    error = {"type": kind, "code": kind, "param": None, "message": message, **more}
    return JSONResponse({"error": error}, status, headers)


def allowed_origins(words: Iterable[str]) -> frozenset[str]:
    """Check origins as browsers send them, ``https://HOST[:PORT]``; ``UsageError`` for anything more or else."""
    found = frozenset(words)
    for word in sorted(found):
        parts = _ORIGIN.fullmatch(word)
        if parts is None:
            raise UsageError(f"--allow-origin {word}: expected an origin, as http://HOST, https://HOST or with :PORT")
        scheme, port = parts.groups()
        if port is not None and int(port) == {"http": 80, "https": 443}[scheme]:
            raise UsageError(f"--allow-origin {word}: browsers leave out port {port}, so leave it out here")
    if len(found) > _MAX_ORIGINS:
        raise UsageError(f"--allow-origin: got {len(found)}, expected at most {_MAX_ORIGINS}")
    return found


def token_of(path: Path) -> str:
    """The token in the file ``path``; a missing file is made, with a new token that only this user can read.

    ``UsageError`` if others may read the file, or if it holds no token.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    except OSError as error:
        raise HostError(f"{path}: cannot be written: {error.strerror or error}") from error
    else:
        with os.fdopen(handle, "w") as file:
            file.write(f"{secrets.token_urlsafe(32)}\n")
    data = read_start(path, _MAX_TOKEN)
    mode = path.stat().st_mode
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(f"{path}: others may read this token: got mode {stat.S_IMODE(mode):o}, expected 600")
    text = data.decode("utf-8", "replace").removesuffix("\n")
    if not _TOKEN.fullmatch(text):
        raise UsageError(f"{path}: expected one line with 16 to 512 characters of A-Z, a-z, 0-9 and ._~+/=-")
    return text


def _names_here(hosts: Sequence[str], port: int) -> bool:
    if len(hosts) != 1:
        return False
    written = hosts[0].lower()
    return any(written == f"{name}:{port}" or (port == 80 and written == name) for name in LOCAL_NAMES)


def _no_json(scope: Scope, headers: Headers) -> Response | None:
    """The refusal of a body that a page may send without asking first (text, forms), or of no type at all."""
    if scope["method"] not in ("POST", "PUT") or not scope["path"].startswith("/v1/"):
        return None
    kinds = headers.getlist("content-type")
    if len(kinds) == 1 and kinds[0].partition(";")[0].strip().lower() == "application/json":
        return None
    return error_response(
        415, "content_type_refused", f"Content-Type: got {_shown(kinds)}, expected application/json"
    )


def _preflight(origin: str, headers: Headers) -> Response:
    """The answer to a browser that asks whether a page of the allowed ``origin`` may send a request."""
    answer = {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": ", ".join(METHODS),
        "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
        "Vary": "Origin",
    }
    names = headers.get("access-control-request-headers", "")
    if _FIELD_NAMES.fullmatch(names):
        answer["Access-Control-Allow-Headers"] = names
    if headers.get("access-control-request-private-network") == "true":
        answer["Access-Control-Allow-Private-Network"] = "true"
    return Response(status_code=204, headers=answer)


def _readable(origin: str | None, send: Send) -> Send:
    """Let the page of the allowed ``origin`` read the answer."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin or ""
            headers["Access-Control-Expose-Headers"] = _EXPOSED
            headers.add_vary_header("Origin")
        await send(message)

    return sent


def _shown(values: Sequence[str]) -> str:
    return "none" if not values else repr(", ".join(values)[:80])
