"""Writes of one turn of the event loop leave as one, and none later than at the end of the turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from privml.client.gathered import Gathered


class Transport:
    """Notes what is done to it, in order."""

    def __init__(self) -> None:
        self.done: list[object] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("closed")

    def abort(self) -> None:
        self.done.append("aborted")


def done(act: Callable[[Gathered], Any]) -> list[object]:
    """What reaches the transport in the turn in which ``act`` runs, "turn", and what comes after that."""

    async def run() -> list[object]:
        transport = Transport()
        act(Gathered(cast(asyncio.Transport, transport), asyncio.get_running_loop()))
        transport.done.append("turn")
        await asyncio.sleep(0)
        return transport.done

    return asyncio.run(run())


def test_what_is_written_in_one_turn_leaves_as_one_at_its_end() -> None:
    assert done(lambda to: [to.write(b"head"), to.write(b""), to.write(b"body")]) == ["turn", b"headbody"]


def test_much_is_written_at_once_and_in_order() -> None:
    much = bytes(64 * 1024)
    assert done(lambda to: [to.write(b"a"), to.write(much), to.write(b"b")]) == [b"a" + much, "turn", b"b"]


def test_closing_writes_first_and_aborting_writes_nothing_before() -> None:
    assert done(lambda to: [to.write(b"end"), to.close()]) == [b"end", "closed", "turn"]
    assert done(lambda to: [to.write(b"end"), to.abort()])[:2] == ["aborted", "turn"]
