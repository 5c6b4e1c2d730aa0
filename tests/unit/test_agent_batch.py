"""Many callers and one quote at a time: which callers share a quote, and what they get when it fails."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from privml.agent import batch
from privml.agent.batch import Busy, QuoteBatch
from privml.base.errors import HostError
from privml.evidence import merkle

PARTS: dict[str, Any] = dict.fromkeys(("header", "keys", "devices", "eventlog", "bootlog", "evidence"), b"x")


class Quoter:
    """Makes a quote each time it is released."""

    def __init__(self) -> None:
        self.roots: list[bytes] = []
        self.go = threading.Event()
        self.error: Exception | None = None

    def __call__(self, root: bytes) -> dict[str, Any]:
        self.roots.append(root)
        assert self.go.wait(5)
        if self.error is not None:
            raise self.error
        return {**PARTS, "collateral": None}


class Callers:
    """Callers in threads; each result is stored under the caller's nonce."""

    def __init__(self, quotes: QuoteBatch) -> None:
        self.quotes = quotes
        self.got: dict[int, Any] = {}
        self.threads: list[threading.Thread] = []

    def call(self, *numbers: int) -> None:
        for number in numbers:
            thread = threading.Thread(target=self._ask, args=(number,))
            thread.start()
            self.threads.append(thread)

    def _ask(self, number: int) -> None:
        try:
            self.got[number] = self.quotes.document(bytes([number]) * 32, timeout=5)
        except (Busy, HostError) as error:
            self.got[number] = error

    def finish(self) -> None:
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()


def until(condition: Any) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_callers_that_arrive_during_a_quote_share_the_next_one() -> None:
    quoter = Quoter()
    quotes = QuoteBatch(quoter)
    callers = Callers(quotes)
    callers.call(1)
    until(lambda: quoter.roots)
    callers.call(2, 3, 4, 5, 6)
    until(lambda: len(quotes._waiting) == 5)
    assert len(quoter.roots) == 1  # one in flight, however many wait
    quoter.go.set()
    callers.finish()
    assert len(quoter.roots) == 2
    assert quoter.roots[0] == merkle.leaf(b"\x01" * 32)
    assert callers.got[1].path == ()
    for number in range(2, 7):
        document = callers.got[number]
        assert document.nonce == bytes([number]) * 32
        assert document.path
        assert merkle.root(document.nonce, document.path) == quoter.roots[1]


def test_an_error_reaches_every_waiting_caller_and_the_next_is_served() -> None:
    quoter = Quoter()
    quoter.error = HostError("no quote today")
    quoter.go.set()
    callers = Callers(QuoteBatch(quoter))
    callers.call(1, 2, 3)
    callers.finish()
    assert [str(error) for error in callers.got.values()] == ["no quote today"] * 3
    quoter.error = None
    callers.call(4)
    callers.finish()
    assert callers.got[4].nonce == b"\x04" * 32


def test_an_error_that_nobody_foresaw_ends_no_later_quote() -> None:
    quoter = Quoter()
    quoter.error = OSError("too many open files")
    quoter.go.set()
    callers = Callers(QuoteBatch(quoter))
    callers.call(1)
    callers.finish()
    assert isinstance(callers.got[1], Busy)
    quoter.error = None
    callers.call(2)
    callers.finish()
    assert callers.got[2].nonce == b"\x02" * 32


def test_a_machine_out_of_threads_gives_quotes_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    quoter = Quoter()
    quoter.go.set()
    quotes = QuoteBatch(quoter)

    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as out:
        out.setattr(threading.Thread, "start", none)
        with pytest.raises(Busy, match="no quote can be made now"):
            quotes.document(bytes(32), timeout=5)
    assert quotes.document(bytes(32), timeout=5).nonce == bytes(32)


def test_callers_over_the_limit_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MAX_WAITING", 2)
    quoter = Quoter()
    quotes = QuoteBatch(quoter)
    callers = Callers(quotes)
    callers.call(1)
    until(lambda: quoter.roots)
    callers.call(2, 3)
    until(lambda: len(quotes._waiting) == 2)
    with pytest.raises(Busy, match="callers are already waiting"):
        quotes.document(bytes(32), timeout=1)
    quoter.go.set()
    callers.finish()


def test_a_late_quote_is_reported_as_busy() -> None:
    quoter = Quoter()
    with pytest.raises(Busy, match="no quote within"):
        QuoteBatch(quoter).document(bytes(32), timeout=0.05)
    quoter.go.set()
