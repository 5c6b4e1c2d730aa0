"""Requests to a guest on this machine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from privml.base.errors import HostError
from privml.vm import ask

MACHINE: Any = SimpleNamespace(port=1)


def test_the_answer_to_a_path_is_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, float]] = []

    def request(_: object, path: str, *, timeout: float) -> tuple[int, bytes]:
        asked.append((path, timeout))
        return 200, '{"a": "ö"}'.encode()

    monkeypatch.setattr(ask, "request", request)
    assert ask.fetch(MACHINE, "/x/prices/tea", 7) == '{"a": "ö"}'
    assert asked == [("/x/prices/tea", 7)]


def test_another_status_is_an_error_with_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "request", lambda *_, **__: (404, b'{"error": "no-service"}'))
    with pytest.raises(HostError, match=r"the guest answered 404 for /x/other/: .*no-service"):
        ask.fetch(MACHINE, "/x/other/", 7)


def test_no_answer_in_time_names_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, **__: object) -> tuple[int, bytes]:
        raise TimeoutError

    monkeypatch.setattr(ask, "request", late)
    with pytest.raises(HostError, match="was not answered within 7 s") as caught:
        ask.fetch(MACHINE, "/x/prices/tea", 7)
    assert caught.value.hint == "give it longer with --timeout"
