"""The output of verbs: JSON for programs, cleaned lines for people, and no other way to the terminal."""

from __future__ import annotations

import ast
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import privml
from privml.base.steps import complain, progress, say, step
from privml.cli.logs import CleanFormatter, show_traceback
from privml.cli.output import print_json, show, show_text

PACKAGE = Path(privml.__file__).parent
BUILDER = PACKAGE.parent


def test_a_document_is_printed_with_sorted_keys_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"b": [1, None], "a": "x"})
    printed = capsys.readouterr()
    assert printed.out == '{\n  "a": "x",\n  "b": [\n    1,\n    null\n  ]\n}\n'
    assert printed.err == ""


@pytest.mark.parametrize("name", ["Größe", "\x1b[2J\x9b1m", os.fsdecode(b"\xff"), "\N{RIGHT-TO-LEFT OVERRIDE}txt"])
def test_any_name_is_printed_as_ascii_json_and_round_trips(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_json({name: name})
    text = capsys.readouterr().out
    assert text.isascii() and text.replace("\n", "").isprintable()
    assert json.loads(text) == {name: name}


@pytest.mark.parametrize("err", [False, True])
def test_a_shown_line_is_one_line_without_control_characters(err: bool, capsys: pytest.CaptureFixture[str]) -> None:
    show("a\nb\x1b[2J", "\N{RIGHT-TO-LEFT OVERRIDE}c", err=err)
    printed = capsys.readouterr()
    assert (printed.err if err else printed.out) == "a\\nb\\x1b[2J\n\\u202ec\n"
    assert (printed.out if err else printed.err) == ""


def test_a_text_keeps_its_lines_and_nothing_else_ends_one(capsys: pytest.CaptureFixture[str]) -> None:
    show_text("if x:\r\n\ty\x85z\u2028\x0b\n\n")
    assert capsys.readouterr().out == "if x:\n        y\\x85z\\u2028\\x0b\n\n"


def test_a_terminal_that_lacks_a_character_gets_its_escape() -> None:
    code = "from privml.cli.output import show; show('Größe')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(BUILDER)},
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (0, b"Gr\\xf6\\xdfe\n")


def test_log_records_and_tracebacks_are_cleaned(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError("\x1b[2J\nforged")
    record = logging.LogRecord("privml", 30, "", 1, "said %s", ("\x9b\u202e",), (ValueError, error, None))
    show_traceback(ValueError, error, None)
    lines = CleanFormatter().format(record).split("\n") + capsys.readouterr().err.split("\n")
    assert lines[0] == r"said \x9b\u202e"
    assert r"ValueError: \x1b[2J" in lines
    assert all(line.isprintable() for line in lines)


def test_progress_and_errors_are_cleaned(capsys: pytest.CaptureFixture[str]) -> None:
    with step("\x1b[2Ja"):
        say("b\x9b\nc")
    progress("\x1b[3Jd", final=True)
    complain("e\x1b[A\nforged\n  | f")
    told = capsys.readouterr().err.split("\n")
    assert told[:3] == [r"> \x1b[2Ja", r"  b\x9b", "  c"]
    assert told[4:] == [r"\x1b[3Jd", r"e\x1b[A", "  forged", "  | f", ""]


# --- nothing else writes --------------------------------------------------------------------------------------------

WRITERS = {"cli/output.py", "cli/logs.py", "base/steps.py"}
# What these write goes to the guest's console, which `run --console` shows through `show_text`.
GUEST = ("agent/", "sim/")
_NAMES = {"echo", "secho", "echo_via_pager", "confirm", "prompt", "print_exc", "print_exception"}


def writes(source: str) -> list[int]:
    """The lines of a module that write to the terminal directly."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and (
            (node.attr in ("stdout", "stderr", "__stdout__", "__stderr__") and getattr(node.value, "id", "") == "sys")
            or (node.attr in _NAMES and getattr(node.value, "id", "") in ("click", "traceback"))
        ):
            found.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module in ("sys", "click", "traceback"):
            names = {alias.name for alias in node.names}
            if names & {"stdout", "stderr", *_NAMES}:
                found.append(node.lineno)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("print", "input"):
            found.append(node.lineno)
    return found


def test_no_other_module_writes_to_the_terminal() -> None:
    modules = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    assert modules.keys() > WRITERS
    assert all(writes(modules[name].read_text()) for name in WRITERS)
    found = {
        name: lines
        for name, path in modules.items()
        if name not in WRITERS and not name.startswith(GUEST) and (lines := writes(path.read_text()))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "print('x')",
        "import sys\nsys.stdout.write('x')",
        "import sys\nout = sys.stderr",
        "from sys import stdout",
        "import click\nclick.echo('x')",
        "from click import secho",
        "import traceback\ntraceback.print_exc()",
    ],
)
def test_every_way_of_writing_is_found(source: str) -> None:
    assert writes(source)
