"""Batch callers into quotes: callers who arrive while a quote is being made share the next one.

A quote takes seconds and the platform makes one at a time. Each quote covers a Merkle root over the nonces of its
callers, so every caller still gets a document over its own fresh nonce.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from privml.base.errors import PrivmlError
from privml.evidence import merkle
from privml.evidence.document import Document

MAX_WAITING = 1024


class Busy(PrivmlError):
    """Too many callers are waiting, or no quote was made in time."""


@dataclass
class _Waiter:
    nonce: bytes
    done: threading.Event = field(default_factory=threading.Event)
    document: Document | None = None
    error: PrivmlError | None = None


class QuoteBatch:
    """Thread-safe queue of callers. ``quote`` gives document parts over a root (`AttestorClient.quote`)."""

    def __init__(self, quote: Callable[[bytes], Mapping[str, Any]]) -> None:
        self._quote = quote
        self._lock = threading.Lock()
        self._waiting: list[_Waiter] = []
        self._working = False

    def document(self, nonce: bytes, *, timeout: float) -> Document:
        """Get a document over ``nonce`` (32 bytes). Raises the error of the quote, or ``Busy``.

        If no thread is making quotes, this starts one; it runs until no caller is waiting.
        """
        waiter = _Waiter(nonce)
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                raise Busy(f"attestation: {MAX_WAITING} callers are already waiting")
            self._waiting.append(waiter)
            leads = not self._working
            self._working = True
        if leads:
            self._lead()
        if not waiter.done.wait(timeout):
            raise Busy(f"attestation: no quote within {timeout:g} s")
        if waiter.error is not None:
            raise waiter.error
        assert waiter.document is not None
        return waiter.document

    def _lead(self) -> None:
        try:
            threading.Thread(target=self._work, daemon=True).start()
        except RuntimeError:  # the machine is out of threads
            with self._lock:
                batch, self._waiting = self._waiting, []
                self._working = False
            _end(batch, Busy("attestation: no quote can be made now"))

    def _work(self) -> None:
        while True:
            with self._lock:
                batch, self._waiting = self._waiting, []
                if not batch:
                    self._working = False
                    return
            self._serve(batch)

    def _serve(self, batch: list[_Waiter]) -> None:
        error: PrivmlError | None = None
        try:
            tree = merkle.build([waiter.nonce for waiter in batch])
            parts = self._quote(tree.root)
            for waiter, path in zip(batch, tree.paths, strict=True):
                waiter.document = Document(nonce=waiter.nonce, path=path, **parts)
        except PrivmlError as refused:
            error = refused
        except Exception:  # noqa: BLE001 -- whatever it is, this thread must go on to the callers who wait
            error = Busy("attestation: the quote could not be made")
        _end(batch, error)


def _end(batch: list[_Waiter], error: PrivmlError | None) -> None:
    for waiter in batch:
        waiter.error = error
        waiter.done.set()
