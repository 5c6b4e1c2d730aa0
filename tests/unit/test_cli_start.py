"""The program's start: `measure FILE` prints the same without the command line's parser as with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from privml.cli import start

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
CASES = VECTORS / "cases"
LOG = CASES / "diff-same-words/a.ccel"
SHORT = "from privml.cli.start import main; main()"
LONG = "from privml.cli.main import main; main()"


def run(code: str, *words: object) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        (CASES / "old-stub-claims/stub257.efi",),
        (LOG, "--events"),
        ("--json", LOG),
        (CASES / "tpm12-log/tpm12.log",),
        (CASES / "wrapped-files/disk.qcow2",),
        ("/nosuch",),
        (LOG, "--boot"),
    ],
)
def test_measure_prints_the_same_with_and_without_the_parser(words: tuple[object, ...]) -> None:
    assert run(SHORT, "measure", *words) == run(LONG, "measure", *words)


def test_measure_of_a_file_loads_no_parser_and_no_model_library() -> None:
    code = (
        f"{SHORT}\nimport sys\nprint(sorted({{'click', 'pydantic', 'jinja2', 'yaml', 'logging'}} & set(sys.modules)))"
    )
    status, out, _ = run(code, "measure", CASES / "old-stub-claims/stub257.efi")
    assert (status, out.splitlines()[-1]) == (0, "[]")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["measure"],
        ["measure", "a", "b"],
        ["measure", "-"],
        ["measure", "x.yaml"],
        ["measure", str(CASES)],
        ["measure", str(LOG), "--boot"],
        ["-q", "measure", str(LOG)],
        ["explain", str(LOG)],
    ],
)
def test_other_command_lines_are_left_to_the_parser(words: list[str]) -> None:
    assert start._described(words) is None


def test_a_closed_pipe_ends_the_program_without_a_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", SHORT, "measure", str(LOG)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_the_caller_closed_is_no_error(closed: str, tmp_path: Path) -> None:
    """A file that the program opens must not get the number of the closed stream either."""
    words = [sys.executable, "-c", SHORT, "lint", "demo-cpu"]
    shell = f'"$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "ok demo-cpu\n")
