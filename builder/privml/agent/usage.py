"""Count what each subject of callers' tokens uses, a line for each minute. Kept in memory only."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from privml.agent.answers import Answer, Denied, reading_usage
from privml.agent.callers import boot_seconds
from privml.channel.usage import MAX_LINES, Line

KEPT = 16 * 1024
"""Lines that are kept for the operator; older ones are dropped, and the gap in their numbers shows it."""
SUBJECTS = 1024
"""Subjects in one minute."""
_MINUTE = 60
_NUMBERS = 2048
"""Numbers of lines a second: far more than there are lines, so that no number is given twice in a boot."""


@dataclass
class _Row:
    requests: int = 0
    unreported: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Ledger:
    """The lines since the server's start. Thread-safe. ``clock`` gives whole seconds and never goes back.

    Their numbers go on where those of an earlier server process of this boot ended, after a gap.
    """

    def __init__(self, clock: Callable[[], int] = boot_seconds) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        now = clock()
        self._minute = now // _MINUTE
        self._rows: dict[str, _Row] = {}
        self._lines: deque[Line] = deque(maxlen=KEPT)
        self._next = now * _NUMBERS

    def begin(self, subject: str) -> None:
        """Count a request; `Denied` when too many subjects have requests in this minute."""
        with self._lock:
            self._row(subject).requests += 1

    def counting(self, answer: Answer, subject: str) -> Answer:
        """``answer``, whose usage is counted when it is closed."""
        answer, usage = reading_usage(answer)
        ended = False

        def pieces(given: Iterable[bytes]) -> Iterator[bytes]:
            nonlocal ended
            yield from given
            ended = True

        def close() -> None:
            try:
                self._end(subject, usage() if ended else None)
            finally:
                answer.close()

        return replace(answer, pieces=pieces(answer.pieces), close=close)

    def lines(self, since: int) -> tuple[int, int, tuple[Line, ...]]:
        """Of the minutes that are over: the oldest number kept, the number after these lines, and the lines."""
        with self._lock:
            self._turn()
            first = self._next - len(self._lines)
            found = tuple(line for line in self._lines if line.seq >= since)[:MAX_LINES]
            return first, found[-1].seq + 1 if found else self._next, found

    def _end(self, subject: str, usage: tuple[int, int] | None) -> None:
        with self._lock:
            row = self._row(subject, full=True)
            if usage is None:
                row.unreported += 1
            else:
                row.prompt_tokens += usage[0]
                row.completion_tokens += usage[1]

    def _row(self, subject: str, *, full: bool = False) -> _Row:
        """The subject's row of this minute; what was begun is counted also in a ``full`` minute."""
        self._turn()
        if not full and subject not in self._rows and len(self._rows) >= SUBJECTS:
            raise Denied(503, "usage-full", "too many subjects have requests in this minute", _MINUTE)
        return self._rows.setdefault(subject, _Row())

    def _turn(self) -> None:
        """Write the lines of a minute that is over."""
        minute = self._clock() // _MINUTE
        if minute == self._minute:
            return
        for subject, row in sorted(self._rows.items()):
            self._lines.append(Line(self._next, self._minute, subject, **vars(row)))
            self._next += 1
        self._rows = {}
        self._minute = minute
