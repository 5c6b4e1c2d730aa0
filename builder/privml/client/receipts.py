"""Ask for a receipt with each request, check it while the answer passes, and keep it in a folder.

The digests are of the bytes that this process sent and received. An answer whose receipt is missing or refused is not
ended, so that no client takes it for a whole one: neither its last chunk nor the event ``[DONE]`` is passed on. The
files are ``ID.json`` (`client.exchange`), and with ``keep_bodies`` the request and the answer, ``ID.request`` and
``ID.response``, all readable by this user only.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import secrets
import tempfile
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from anyio.to_thread import run_sync

from privml.base.errors import EvidenceError, HostError, PrivmlError, UsageError
from privml.base.files import write_atomic
from privml.channel import receipt
from privml.channel.receipt import Body
from privml.client.exchange import Exchange
from privml.client.gate import Check
from privml.client.guests import Guests
from privml.client.settled import Settled
from privml.client.ways import Answer, Asked
from privml.verify.judgement import Judgement
from privml.verify.receipts import ReceiptCase
from privml.verify.receipts import receipt as check_receipt

log = logging.getLogger("privml")

SHOWN = b"x-privml-receipt"
"""The header by which a client learns the id of its receipt."""
Used = Callable[[Judgement], Mapping[str, Mapping[str, Any]] | None]
"""What the last document that this thread judged was judged with, instead of its own collateral."""

_DONE = b"data: [DONE]"
_DONE_LINE = re.compile(rb"^data: \[DONE\]", re.MULTILINE)
_MAX_BOOTS = 64
_LISTED = 5
_FETCH = 10.0
"""Seconds for a receipt that came with no answer's trailer; a client may be waiting for the end of its answer."""
_ID = re.compile(rb"\A[0-9a-f]{32}\Z")
_PREFIX = "/v1/"


@dataclass(frozen=True)
class _Evidence:
    """A document as it was judged."""

    document: bytes
    nonce: bytes
    judged_at: int
    collateral: Mapping[str, Mapping[str, Any]] | None


@dataclass(frozen=True)
class _Sent:
    """A request and the nonce that it was sent with, and the id of the receipt that its answer names."""

    asked: Asked
    nonce: bytes
    name: str


class _Draft(NamedTuple):
    """The file of an answer that is still arriving."""

    file: IO[bytes]
    path: Path


class _Ending:
    """Holds back the event ``[DONE]`` of a ``stream``: clients of OpenAI's API take it for the end, and leave."""

    def __init__(self, *, stream: bool) -> None:
        self.held = b""
        self._stream = stream
        self._done = False
        self._line = True  # the next byte begins a line

    def passed(self, piece: bytes) -> bytes:
        """What may be shown before the receipt was checked; the rest is ``held``."""
        if not self._stream:
            return piece
        data, self.held = self.held + piece, b""
        if self._done:
            self.held = data
            return b""
        at = next((found.start() for found in _DONE_LINE.finditer(data) if found.start() or self._line), None)
        if at is not None:
            self._done = True
        else:
            begun = data.rfind(b"\n") + 1
            part = data[begun:]
            # A line that may become the event when more of it arrives.
            at = begun if part and (begun or self._line) and _DONE.startswith(part) else len(data)
        shown, self.held = data[:at], data[at:]
        self._line = shown.endswith(b"\n") if shown else self._line
        return shown


class Receipts:
    """The receipts of one proxy, in ``folder``, which is made if it is missing."""

    def __init__(self, folder: Path, *, keep_bodies: bool = False) -> None:
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--receipts {folder}: {error.strerror or error}") from error
        self._folder = folder
        self._keep_bodies = keep_bodies
        self._lock = threading.Lock()  # of the field below
        self._evidence: OrderedDict[bytes, _Evidence] = OrderedDict()
        self._last: deque[Settled] = deque(maxlen=_LISTED)

    @property
    def last(self) -> tuple[Settled, ...]:
        """The last receipts, the newest first."""
        return tuple(reversed(self._last))

    def watching(self, check: Check, used: Used) -> Check:
        """``check``, whose documents are kept for the receipts of their guests."""

        def watched(document: bytes, nonce: bytes, spki: bytes) -> Judgement:
            now = int(time.time())
            judgement = check(document, nonce, spki)
            if judgement.keys is None:  # a refused guest gets no request, and evicts the evidence of no other
                return judgement
            with self._lock:
                # Each boot of a guest has another section. The newest document is kept for the longest time.
                self._evidence[judgement.facts.keys.sha256] = _Evidence(document, nonce, now, used(judgement))
                self._evidence.move_to_end(judgement.facts.keys.sha256)
                if len(self._evidence) > _MAX_BOOTS:
                    self._evidence.popitem(last=False)
            return judgement

        return watched

    async def send(self, guests: Guests, asked: Asked) -> Answer:
        """Send a request as `Guests.send` does; an answer of the engine ends only if its receipt is accepted."""
        if asked.method != "POST" or not asked.target.startswith(_PREFIX):
            return await guests.send(asked)
        nonce = secrets.token_bytes(receipt.NONCE_SIZE)
        answer = await guests.send(
            asked.adding((receipt.NONCE_FIELD.encode(), nonce.hex().encode()), (b"te", b"trailers"))
        )
        name = answer.header(receipt.ID_FIELD.encode())
        if name is None and answer.status >= 400:
            return answer  # an error of the guest itself: nothing ran
        if name is None or not _ID.match(name):
            answer.close()
            raise HostError("the attested machine gives no receipts, expected one for each answer (--receipts)")
        # Without a length, the end of an answer can be held back.
        headers = tuple((key, value) for key, value in answer.headers if key != b"content-length")
        sent = _Sent(asked, nonce, name.decode())
        return replace(answer, headers=(*headers, (SHOWN, name)), pieces=self._pieces(guests, answer, sent))

    async def _pieces(self, guests: Guests, answer: Answer, sent: _Sent) -> AsyncIterator[bytes]:
        """The body as it arrives; ``HostError`` at its end if the receipt is missing or refused."""
        digest, size = hashlib.sha256(), 0
        ending = _Ending(stream=(answer.header(b"content-type") or b"").startswith(b"text/event-stream"))
        with self._response_file(sent.name) as draft:
            try:
                async for piece in answer.pieces:
                    digest.update(piece)
                    size += len(piece)
                    if draft is not None:
                        with _written(self._folder):
                            draft.file.write(piece)
                    if shown := ending.passed(piece):
                        yield shown
            except HostError:
                with contextlib.suppress(PrivmlError):
                    await self._settle(guests, answer, sent, Body(digest.digest(), size), draft)
                raise
            await self._settle(guests, answer, sent, Body(digest.digest(), size), draft)
            if ending.held:
                yield ending.held

    async def _settle(
        self, guests: Guests, answer: Answer, sent: _Sent, response: Body, draft: _Draft | None
    ) -> None:
        """Check the receipt and keep it; ``HostError`` if it is missing or refused."""
        where = answer.judged.where.url
        settled = Settled(sent.name, where, sent.asked.target, int(time.time()))
        try:
            envelope = await self._envelope(guests, answer, sent.name)
            problems = _problems(envelope, answer, sent, response)
        except PrivmlError as error:
            self._last.append(replace(settled, problems=(error.message,)))
            log.warning("%s: receipt %s: %s", where, sent.name, error.message)
            raise HostError(f"receipt {sent.name}: {error.message}") from error
        self._last.append(replace(settled, problems=tuple(problems)))
        with _written(self._folder):
            await run_sync(partial(self._keep, envelope, answer, sent, draft))
        if problems:
            log.warning("%s: receipt %s is refused: %s", where, sent.name, ", ".join(problems))
            raise HostError(f"receipt {sent.name} is refused: {', '.join(problems)}")

    async def _envelope(self, guests: Guests, answer: Answer, name: str) -> bytes:
        """The receipt in the answer's trailer, or as the same guest gives it by its id."""
        trailer = next((value for key, value in answer.trailers() if key == receipt.TRAILER.encode()), None)
        if trailer is not None:
            return receipt.of_trailer(trailer.decode("latin-1"))
        try:
            async with asyncio.timeout(_FETCH):
                return await _by_id(guests, answer, name)
        except TimeoutError as error:
            raise HostError(f"missing: no trailer, and no answer within {_FETCH:g} s for its id") from error

    def _keep(self, envelope: bytes, answer: Answer, sent: _Sent, draft: _Draft | None) -> None:
        """Write the files of one answer; that with the receipt is the last."""
        judgement = answer.judged.decision.judgement
        assert judgement is not None  # no request is sent without one
        with self._lock:
            found = self._evidence[judgement.facts.keys.sha256]
        made = Exchange(envelope, sent.nonce, found.document, found.nonce, found.judged_at, found.collateral)
        if draft is not None:
            write_atomic(self._folder / f"{sent.name}.request", sent.asked.body, mode=0o600)
            draft.file.flush()
            draft.path.replace(self._folder / f"{sent.name}.response")
        write_atomic(self._folder / f"{sent.name}.json", made.encode(), mode=0o600)

    @contextlib.contextmanager
    def _response_file(self, name: str) -> Iterator[_Draft | None]:
        """Where the answer is written while it arrives, if bodies are kept; removed unless `_keep` renamed it."""
        if not self._keep_bodies:
            yield None
            return
        with _written(self._folder):
            handle, path = tempfile.mkstemp(prefix=f".{name}.", dir=self._folder)
        with os.fdopen(handle, "wb") as file:
            try:
                yield _Draft(file, Path(path))
            finally:
                Path(path).unlink(missing_ok=True)


@contextlib.contextmanager
def _written(folder: Path) -> Iterator[None]:
    """``HostError`` where a file of ``folder`` cannot be written."""
    try:
        yield
    except OSError as error:
        raise HostError(f"{folder}: cannot be written: {error.strerror or error}") from error


async def _by_id(guests: Guests, answer: Answer, name: str) -> bytes:
    """The receipt as the guest that answered gives it by its id."""
    again = await guests.ask(answer.judged, Asked("GET", receipt.PATH + name))
    try:
        body = bytearray()
        async for piece in again.pieces:
            body += piece
            if len(body) > receipt.MAX_RECEIPT:
                raise EvidenceError(f"larger than {receipt.MAX_RECEIPT} bytes")
    finally:
        again.close()
    if again.status != 200:
        raise HostError(f"missing: no trailer, and status {again.status} for its id")
    return bytes(body)


def _problems(envelope: bytes, answer: Answer, sent: _Sent, response: Body) -> list[str]:
    """The codes of what is wrong with a receipt; ``EvidenceError`` if it is malformed."""
    judgement = answer.judged.decision.judgement
    assert judgement is not None
    request = Body(hashlib.sha256(sent.asked.body).digest(), len(sent.asked.body))
    case = ReceiptCase(judgement.facts, envelope, sent.nonce, request, response)
    codes = [refusal.code for refusal in check_receipt(case)]
    if "receipt-signature" in codes or case.read().id.hex() == sent.name:
        return codes
    return [*codes, "another id than the answer's header"]
