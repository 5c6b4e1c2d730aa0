"""The examples: current, and their README's commands say what it says."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from test_cli_main import Outcome
from tests.negative import examples

ROOT = examples.FOLDER.parent
README = (examples.FOLDER / "README.md").read_text()
BLOCKS = [block.strip() for block in re.findall(r"^```\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)]


def test_the_files_are_current() -> None:
    """Otherwise: `python -m tests.negative.examples`."""
    for name, data in examples.files().items():
        assert (examples.FOLDER / name).read_bytes() == data, name


@pytest.mark.parametrize(("number", "status"), [(0, 10), (2, 8)])
def test_a_command_of_the_readme_says_what_it_says(
    number: int, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    outcome = Outcome(capsys, *shlex.split(BLOCKS[number])[1:])
    assert outcome.code == status, outcome.stderr
    said, shown = outcome.stdout.splitlines(), BLOCKS[number + 1].splitlines()
    assert said[0].startswith(shown[0])
    assert [line for line in shown[1:] if line not in [each[: len(line)] for each in said]] == []


def test_the_refusal_names_the_word(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    outcome = Outcome(capsys, *shlex.split(BLOCKS[2])[1:])
    assert f'{examples.WORD}"' in outcome.stdout
    assert outcome.stdout.count("\n  rtmr") == 1


def test_without_the_simulated_root_the_accepted_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    outcome = Outcome(capsys, *shlex.split(BLOCKS[0])[1:-2])
    assert outcome.code == 8
    assert "\n  simulated: " in outcome.stdout


def test_a_changed_artefact_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = shutil.copytree(examples.FOLDER / "image", tmp_path / "image")
    (image / "uki.efi").write_bytes(b"x")
    outcome = Outcome(capsys, "verify", str(examples.FOLDER / "accepted.json"), "--expect", str(image))
    assert outcome.code == 6
