"""Data for programs: JSON alone on standard output, whatever names it holds."""

from __future__ import annotations

import json
import os

import pytest

from privml.cli.output import print_json


def test_a_document_is_printed_with_sorted_keys_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"b": [1, None], "a": "x"})
    printed = capsys.readouterr()
    assert printed.out == '{\n  "a": "x",\n  "b": [\n    1,\n    null\n  ]\n}\n'
    assert printed.err == ""


@pytest.mark.parametrize("name", ["Größe", "\x1b[2J\x9b1m", os.fsdecode(b"\xff"), "\N{RIGHT-TO-LEFT OVERRIDE}txt"])
def test_a_name_of_any_characters_commands_no_terminal_and_comes_back(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_json({name: name})
    text = capsys.readouterr().out
    assert text.isascii() and text.replace("\n", "").isprintable()
    assert json.loads(text) == {name: name}
