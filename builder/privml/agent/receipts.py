"""A receipt for each answer of the engine, signed when somebody asks for it. The last ones are kept in memory.

Digests are made of the bytes themselves, as they pass: of the request as received, of the body that the engine gets,
and of the answer as it is sent. No digest is taken from a header, and nothing is written to a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from privml.agent.answers import Answer, Asked, Denied
from privml.agent.callers import boot_seconds
from privml.agent.headers import Headers
from privml.base.errors import EvidenceError
from privml.base.strictjson import canonical, unhex
from privml.channel import receipt
from privml.channel.receipt import Body, Origin, Receipt, Usage
from privml.engines.usage import UsageReader
from privml.events.configuration import Config

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEPT = 1024
"""How many receipts are kept for callers that ask for one by its id. Older ones are dropped."""
_ID_FIELD, _TRAILER = receipt.ID_FIELD.encode(), receipt.TRAILER.encode()
_NUMBERS = 1 << 16
"""Numbers of answers a second: far more than there are answers, so that no number is given twice in a boot."""


class Receipts:
    """The receipts since the server's start. Thread-safe.

    ``section`` is the encoded keys section with the public part of ``key``. Answers are numbered from where an
    earlier server process of this boot ended, after a gap.
    """

    def __init__(
        self, config: Config, key: Ed25519PrivateKey, section: bytes, clock: Callable[[], int] = boot_seconds
    ) -> None:
        self._origin = None if config.engine is None else _origin(config, section)
        self._key = key
        self._public = key.public_key().public_bytes_raw()
        self._lock = threading.Lock()  # of the fields below
        self._count = clock() * _NUMBERS
        self._kept: OrderedDict[str, Receipt] = OrderedDict()

    def of(self, answer: Answer, asked: Asked, *, nonce: bytes | None, received: bytes, forwarded: bytes) -> Answer:
        """The engine's ``answer`` to ``asked``, with its receipt.

        ``nonce`` is the caller's (`nonce_of`), ``received`` the body of the request, ``forwarded`` the one that the
        engine got. The receipt is kept when the answer ends, and also when it is closed before.
        """
        assert self._origin is not None  # there is no answer without an engine
        with self._lock:
            self._count += 1
            number = self._count
        identity = secrets.token_bytes(receipt.ID_SIZE)
        ended = partial(
            Receipt,
            id=identity,
            seq=number,
            origin=self._origin,
            method=asked.method,
            path=asked.path,
            request=_body(received),
            forwarded_sha256=hashlib.sha256(forwarded).digest(),
            status=answer.status,
            content_type=receipt.shown_type(answer.content_type),
            nonce=nonce,
            channel=asked.channel,
            enc_sha256=asked.enc_sha256,
        )
        running = _Running(self, ended, answer)
        return Answer(
            answer.status,
            [*answer.headers, (_ID_FIELD, identity.hex().encode())],
            running.pieces(answer.pieces),
            running.trailers,
            running.close,
            (_TRAILER,),
            running.usage,
            answer.ready,
        )

    def find(self, text: str) -> bytes | None:
        """The envelope of the receipt with an id in hex; None if there is none, or none any more."""
        with self._lock:
            found = self._kept.get(text)
        return None if found is None else self.sign(found)

    def keep(self, ended: Receipt) -> None:
        """Keep the receipt of an answer that has ended."""
        with self._lock:
            self._kept[ended.id.hex()] = ended
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)

    def sign(self, ended: Receipt) -> bytes:
        """The envelope of a receipt, always the same. Many answers are never asked about, and signing takes time."""
        return ended.sign(self._key.sign, self._public)


class _Running:
    """One answer on its way. ``made`` gives its receipt from what its end shows; ``usage`` is `Answer.usage`."""

    def __init__(self, receipts: Receipts, made: Callable[..., Receipt], answer: Answer) -> None:
        self._receipts = receipts
        self._made = made
        self._answer = answer
        self._digest = hashlib.sha256()
        self._size = 0
        self._reader = UsageReader(answer.content_type)
        self.usage = self._reader.usage
        self._ended: Receipt | None = None

    def pieces(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            yield piece
            # It was sent: whoever sends it asks for the next one only then.
            self._digest.update(piece)
            self._size += len(piece)
            self._reader.add(piece)
        self._end(complete=True)

    def trailers(self) -> Headers:
        if self._ended is None:
            return []
        return [(_TRAILER, receipt.trailer_of(self._receipts.sign(self._ended)).encode())]

    def close(self) -> None:
        try:
            if self._ended is None:
                self._end(complete=False)
        finally:
            self._answer.close()

    def _end(self, *, complete: bool) -> None:
        counted = self.usage()
        self._ended = self._made(
            response=Body(self._digest.digest(), self._size),
            complete=complete,
            usage=None if counted is None else Usage(*counted),
        )
        self._receipts.keep(self._ended)


def nonce_of(asked: Asked) -> bytes | None:
    """The caller's nonce; None without one, and `Denied` for one that is malformed."""
    values = asked.header(receipt.NONCE_FIELD.encode())
    if not values:
        return None
    with contextlib.suppress(EvidenceError):
        if len(values) == 1:
            return unhex(values[0].decode("latin-1"), receipt.NONCE_SIZE, what=receipt.NONCE_FIELD)
    raise Denied(400, "nonce", f"{receipt.NONCE_FIELD}: expected 64 lower-case hex digits, once")


def _body(data: bytes) -> Body:
    return Body(hashlib.sha256(data).digest(), len(data))


def _origin(config: Config, section: bytes) -> Origin:
    """What every receipt says of this boot."""
    assert config.engine is not None
    models = [receipt.Model(model.name, model.verity.root_hash) for model in config.models]
    return Origin(
        keys_sha256=hashlib.sha256(section).digest(),
        config_sha256=bytes.fromhex(config.sha256),
        variant=config.variant,
        # Which of several answered, only the engine knows.
        model=models[0] if len(models) == 1 else None,
        engine=receipt.Engine(config.engine.name, hashlib.sha256(canonical(list(config.engine.argv))).digest()),
    )
