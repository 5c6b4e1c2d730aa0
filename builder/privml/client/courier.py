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
from privml.client import stages
from privml.client.connection import Endpoint, GuestConnection, endpoint, reason
from privml.events.stages import KEY_RELEASE, STAGE_OF
from privml.evidence.document import MAX_DOCUMENT

REQUEST_PATH = "/.well-known/privml-key-request"
RELEASE_PATH = "/.well-known/privml-key-release"
TIMEOUT = 150.0
RELEASE_TIMEOUT = 270.0
"""Seconds for the guest's answer to a release, which may wait until the guest has made a quote for somebody else."""
PAUSE = 2.0
"""Seconds between two attempts while a guest is not at stage `keys` yet, or a server is busy."""
_MAX_ANSWER = 256 * 1024
_MAX_NAME = 128
_NOT_YET = (429, 503)
_CHALLENGE, _ALREADY, _CLOSED = "challenge", "already-released", "keys-closed"


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


class _RefusedByGuest(Refused):
    """The guest refused something for good. ``code`` is why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message, hint=_HINTS.get(code))
        self.code = code


@dataclass
class Delivery:
    """What a courier has done: the keys that the guest took, those it still waits for, and each broker's refusals.

    A key that another courier brought meanwhile counts as taken.
    ``refused`` says whether a broker or the guest refused something, rather than was not there.
    """

    released: list[tuple[str, int]] = field(default_factory=list)
    missing: list[Want] = field(default_factory=list)
    refusals: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    refused: bool = False

    def count(self, left: Callable[[Want], bool]) -> None:
        """Count the keys for which the guest does not wait any more: ``left`` says of which it still does."""
        self.released += [(want.resource, want.generation) for want in self.missing if not left(want)]
        self.missing = [want for want in self.missing if left(want)]

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
    _waits: int = field(default=0, init=False)

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
                if error.hint:
                    self.said(f"  {error.hint}")
        return done

    def wanted(self) -> list[Want]:
        """The keys that the guest waits for, in its own word."""
        fields = Fields(self._guest(REQUEST_PATH, _MAX_ANSWER), "wanted")
        rows = fields.array("wanted", limit=MAX_RESOURCES)
        fields.end()
        return [_want(Fields(row, f"wanted[{number}]")) for number, row in enumerate(rows)]

    def _from_broker(self, url: str, done: Delivery) -> None:
        """Carry what this broker releases; ``HostError`` if the guest waits for no key of it.

        It begins again, with a new nonce, for what is left when another courier was faster with a part, and when the
        nonce was used up or grew too old while a server could not answer.
        """
        end = self.clock() + self.patience
        while True:
            nonce, broker = self._later(lambda: self._challenge(url))
            waits = self._waits
            wants = [want for want in done.missing if want.broker == broker]
            if not wants:
                others = ", ".join(f"{want.name} ({want.broker.hex()})" for want in done.missing)
                raise HostError(f"this is broker {broker.hex()}, expected one that the guest waits for: {others}")
            self.said(f"{url}: asking for {', '.join(str(want) for want in wants)}")
            try:
                status, body = self._asked(url, nonce, wants)
                if status == 200:
                    self._bring(body, done)
                    return
            except _RefusedByGuest as refused:
                if refused.code not in (_ALREADY, _CLOSED):
                    raise
                left = self._left()
                done.count(left.__contains__)
                if not any(want in left for want in wants):
                    self.said(f"{self.guest.url}: has what this broker releases")
                    return
                if all(want in left for want in wants):
                    raise
                continue
            again = read_error(body)[0] == _CHALLENGE and self._waits > waits
            if not again or self.clock() + PAUSE > end:
                self._refused(url, body, done)
                return
            self.sleep(PAUSE)

    def _asked(self, url: str, nonce: bytes, wants: Sequence[Want]) -> tuple[int, bytes]:
        """The broker's answer to a new document of the guest."""
        document = self._later(lambda: self._document(nonce))
        resources = tuple((want.resource, want.generation) for want in wants)
        body = Request(nonce, document, resources).encode()
        status, found = self._later(lambda: self._broker(url, "/v1/release", body))
        return status, found

    def _bring(self, body: bytes, done: Delivery) -> None:
        """Hand a release over to the guest."""
        taken, missing = self._later(lambda: self._hand_over(body))
        done.count(lambda want: (want.name, want.resource, want.generation) in missing)
        self.said(f"{self.guest.url}: took {', '.join(f'{name} generation {number}' for name, number in taken)}")

    def _left(self) -> list[Want]:
        """The keys that the guest waits for now: none once its stage has passed."""
        try:
            found: list[Want] = self._later(self.wanted)
        except _RefusedByGuest as refused:
            if refused.code != _CLOSED:
                raise
            rows = stages.fetch(self.guest).rows
            if not any(row.name == STAGE_OF[KEY_RELEASE] and row.status == "ok" for row in rows):
                raise
            return []
        return found

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
                self._waits += 1
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
        connection = GuestConnection(self.guest, timeout=TIMEOUT if body is None else RELEASE_TIMEOUT)
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
        raise _RefusedByGuest(code, said)

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


_FINAL = frozenset({_CLOSED, "no-tee"})
"""Codes of a guest that never asks for keys again in this boot."""
_HINTS: Mapping[str, str] = {
    _CLOSED: "`privml-build status URL` shows how far the guest is, or why it failed",
    "no-tee": "start it as a TD: `privml-build run NAME --tdx`, on a host that `privml-build doctor --tdx` accepts",
    _ALREADY: "another courier was faster: `privml-build status URL` shows how far the guest is",
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
