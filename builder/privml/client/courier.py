"""Carry volume keys from key brokers to a guest that waits for them.

A courier is trusted with nothing: the document that it carries is judged by the broker, the key that it carries is
sealed to the guest. So neither server's TLS certificate is checked against anything, and anybody may run it.
"""

from __future__ import annotations

import http.client
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from privml.base.deadline import Cutoff
from privml.base.errors import EvidenceError, HostError, PrivmlError, Refused, UsageError, printable
from privml.base.http import base_address
from privml.base.strictjson import Fields, loads
from privml.channel.release import MAX_RESOURCES, NONCE_SIZE, Request
from privml.client.connection import Endpoint, GuestConnection, endpoint, reason
from privml.evidence.document import MAX_DOCUMENT

REQUEST_PATH = "/.well-known/privml-key-request"
RELEASE_PATH = "/.well-known/privml-key-release"
TIMEOUT = 150.0
PAUSE = 2.0
"""Seconds between two attempts while a guest is not at stage `keys` yet, or a server is busy."""
_MAX_ANSWER = 256 * 1024
_MAX_NAME = 128
_NOT_YET = (429, 503)


@dataclass(frozen=True)
class Want:
    """A key that a guest waits for. ``broker`` is its broker's public key, ``name`` that in the configuration."""

    broker: bytes
    name: str
    resource: str
    generation: int

    def __str__(self) -> str:
        return f"{self.resource} generation {self.generation} of broker {self.name}"


class _LaterError(HostError):
    """The other side cannot answer yet."""


@dataclass
class Delivery:
    """What a courier has done: the keys that the guest took, those it still waits for, and each broker's refusals.

    ``refused`` says whether a broker or the guest refused something, rather than was not there.
    """

    released: list[tuple[str, int]] = field(default_factory=list)
    missing: list[Want] = field(default_factory=list)
    refusals: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    refused: bool = False

    def to_dict(self) -> dict[str, object]:
        """The object of `keys deliver --json`."""
        return {
            "released": [{"resource": name, "generation": generation} for name, generation in self.released],
            "missing": [
                {"broker": want.name, "resource": want.resource, "generation": want.generation}
                for want in self.missing
            ],
            "brokers": [
                {"url": url, "error": self.errors.get(url), "refusals": self.refusals.get(url, [])}
                for url in sorted({*self.errors, *self.refusals})
            ],
        }


@dataclass
class Courier:
    """Carries between the guest at ``guest`` and the brokers at these addresses.

    ``patience`` is how many seconds to wait for a guest that is not at stage `keys` yet. ``said`` gets a line of text
    for each step.
    """

    guest: Endpoint
    brokers: Sequence[str]
    patience: float = 600.0
    said: Callable[[str], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def deliver(self) -> Delivery:
        """Carry every key that the guest waits for; ``HostError`` if the guest does not reach stage `keys`.

        A broker that refuses, or has no answer, does not stop the others.
        """
        done = Delivery()
        done.missing = self._later(self.wanted)
        for url in self.brokers:
            if not done.missing:
                break
            try:
                self._from_broker(url, done)
            except PrivmlError as error:
                done.errors[url] = error.message
                done.refused |= isinstance(error, Refused)
                self.said(f"{url}: {error.message}")
        return done

    def wanted(self) -> list[Want]:
        """The keys that the guest waits for, in its own word."""
        fields = Fields(self._guest(REQUEST_PATH, _MAX_ANSWER), "wanted")
        rows = fields.array("wanted", limit=MAX_RESOURCES)
        fields.end()
        return [_want(Fields(row, f"wanted[{number}]")) for number, row in enumerate(rows)]

    def _from_broker(self, url: str, done: Delivery) -> None:
        """Carry what this broker releases; ``HostError`` if the guest waits for no key of it."""
        nonce, broker = self._later(lambda: self._challenge(url))
        wants = [want for want in done.missing if want.broker == broker]
        if not wants:
            others = ", ".join(f"{want.name} ({want.broker.hex()})" for want in done.missing)
            raise HostError(f"this is broker {broker.hex()}, expected one that the guest waits for: {others}")
        self.said(f"{url}: asking for {', '.join(str(want) for want in wants)}")
        document = self._later(lambda: self._document(nonce))
        asked = tuple((want.resource, want.generation) for want in wants)
        status, body = self._later(lambda: self._broker(url, "/v1/release", Request(nonce, document, asked).encode()))
        if status != 200:
            self._refused(url, body, done)
            return
        taken, missing = self._later(lambda: self._hand_over(body))
        done.released += taken
        done.missing = [want for want in done.missing if (want.name, want.resource, want.generation) in missing]
        self.said(f"{self.guest.url}: took {', '.join(f'{name} generation {number}' for name, number in taken)}")

    def _refused(self, url: str, body: bytes, done: Delivery) -> None:
        code, message, refusals = read_error(body)
        done.errors[url] = f"{code}: {message}"
        done.refusals[url] = refusals
        done.refused = True
        self.said(f"{url}: refused: {code}: {message}")
        for each in refusals:
            self.said(f"  {each['code']}: got {each['got']}, expected {each['expected']}")

    def _later(self, attempt: Callable[[], Any]) -> Any:
        """What ``attempt`` gives, again and again while the other side cannot answer yet."""
        end = self.clock() + self.patience
        told = ""
        while True:
            try:
                return attempt()
            except _LaterError as error:
                if self.clock() + PAUSE > end:
                    raise
                if error.message != told:
                    told = error.message
                    self.said(f"waiting: {told}")
                self.sleep(PAUSE)

    def _challenge(self, url: str) -> tuple[bytes, bytes]:
        """A nonce and the broker's public key."""
        status, body = self._broker(url, "/v1/challenge", b"")
        if status != 200:
            code, message, _ = read_error(body)
            raise HostError(f"no challenge: {code}: {message}")
        fields = Fields(loads(body, what="challenge", limit=_MAX_ANSWER), "challenge")
        found = fields.hexadecimal("nonce", NONCE_SIZE), fields.hexadecimal("broker", 32)
        fields.end()
        return found

    def _document(self, nonce: bytes) -> bytes:
        return self._guest_bytes(f"{REQUEST_PATH}?nonce={nonce.hex()}", MAX_DOCUMENT)

    def _hand_over(self, body: bytes) -> tuple[list[tuple[str, int]], set[tuple[str, str, int]]]:
        """What the guest took, and what it still waits for, with the brokers' names."""
        fields = Fields(self._guest(RELEASE_PATH, _MAX_ANSWER, body), "released")
        released = fields.array("released", limit=MAX_RESOURCES)
        missing = fields.array("missing", limit=MAX_RESOURCES)
        fields.end()
        taken = [_named(Fields(row, f"released[{n}]")) for n, row in enumerate(released)]
        left = set()
        for number, row in enumerate(missing):
            entry = Fields(row, f"missing[{number}]")
            left.add((entry.text("broker", limit=_MAX_NAME), *_named(entry)))
        return taken, left

    def _guest(self, path: str, limit: int, body: bytes | None = None) -> Any:
        return loads(self._guest_bytes(path, limit, body), what="the guest's answer", limit=limit)

    def _guest_bytes(self, path: str, limit: int, body: bytes | None = None) -> bytes:
        connection = GuestConnection(self.guest, timeout=TIMEOUT)
        try:
            status, found = connection.get(path, limit) if body is None else connection.post(path, body, limit)
        except (OSError, http.client.HTTPException) as error:
            raise _LaterError(f"{self.guest.url}: {printable(reason(error))[:300]}") from error
        finally:
            connection.abort()
        if status == 200:
            return found
        code, message, _ = read_error(found)
        said = f"{self.guest.url}: {code}: {message}"
        if status in _NOT_YET and code not in _FINAL:
            raise _LaterError(said)
        raise Refused(said, hint=_HINTS.get(code))

    def _broker(self, url: str, path: str, body: bytes) -> tuple[int, bytes]:
        parts = urllib.parse.urlsplit(base_address(url, "key broker"))
        where = Endpoint(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        post = _post_tls if parts.scheme == "https" else _post_plain
        try:
            status, found = post(where, f"{parts.path}{path}", body)
        except (OSError, http.client.HTTPException) as error:
            raise HostError(
                f"{url}: {printable(reason(error))[:300]}", hint="is `privml-build keys serve` running there?"
            ) from error
        if status in _NOT_YET:
            code, message, _ = read_error(found)
            raise _LaterError(f"{url}: {code}: {message}")
        return status, found


def _post_tls(where: Endpoint, path: str, body: bytes) -> tuple[int, bytes]:
    connection = GuestConnection(where, timeout=TIMEOUT)
    try:
        return connection.post(path, body, _MAX_ANSWER)
    finally:
        connection.abort()


def _post_plain(where: Endpoint, path: str, body: bytes) -> tuple[int, bytes]:
    with Cutoff(TIMEOUT) as limit:
        connection = http.client.HTTPConnection(where.host, where.port, timeout=TIMEOUT)
        # As in `base.http`: the library has no public way to hand it a socket.
        connection._create_connection = limit.connect  # type: ignore[attr-defined]  # noqa: SLF001
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            found = response.read(_MAX_ANSWER + 1)
            limit.left()
        finally:
            connection.close()
    if len(found) > _MAX_ANSWER:
        raise EvidenceError(f"{path}: the answer is larger than {_MAX_ANSWER} bytes")
    return response.status, found


_FINAL = frozenset({"keys-closed"})
"""Codes of a guest that never asks for keys again in this boot."""
_HINTS: Mapping[str, str] = {
    "already-released": "another courier was faster: `privml-build status URL` shows how far the guest is",
    "release-other-boot": "the guest was started again since it was asked: deliver again",
}


def courier(guest: str, brokers: Sequence[str], **more: Any) -> Courier:
    """A courier between the guest at an ``https://`` address and ``brokers``; ``UsageError`` for other addresses."""
    if not brokers:
        raise UsageError("no --broker is given, expected at least one https://HOST[:PORT]")
    return Courier(endpoint(guest), [base_address(url, "key broker") for url in brokers], **more)


def read_error(body: bytes) -> tuple[str, str, list[dict[str, Any]]]:
    """Code, message and refusals of an error response, reduced to printable text because it is untrusted."""
    try:
        fields = Fields(loads(body, what="error", limit=_MAX_ANSWER), "error")
        inner = fields.fields("error")
        code, message = inner.text("code", limit=64), inner.text("message")
        rows = fields.array("refusals") if fields.has("refusals") else []
        found = [_refusal(Fields(row, "refusal")) for row in rows]
    except EvidenceError:
        return "unknown", "no reason given", []
    return printable(code), printable(message)[:300], found


def _refusal(fields: Fields) -> dict[str, Any]:
    return {name: printable(fields.text(name, limit=16384)) for name in ("code", "got", "expected", "where")}


def _want(fields: Fields) -> Want:
    want = Want(
        fields.hexadecimal("broker", 32),
        fields.text("name", limit=_MAX_NAME),
        fields.text("resource", limit=_MAX_NAME),
        fields.integer("generation", low=1),
    )
    fields.end()
    return want


def _named(fields: Fields) -> tuple[str, int]:
    found = fields.text("resource", limit=_MAX_NAME), fields.integer("generation", low=1)
    fields.end()
    return found
