"""`make image` builds a refreshed image, with a message, only when inputs are unavailable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REFRESHED = "out/locks/demo-cpu.lock.json"
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="this host has no make")


def make(tmp_path: Path, codes: list[int], *words: str) -> tuple[int, list[str], str]:
    """`make image` with a privml-build that exits with ``codes`` in turn: exit status, calls, messages."""
    fake = tmp_path / "fake"
    fake.write_text(
        f'#!/bin/sh\necho "$*" >> "{tmp_path}/calls"\n'
        f'n=$(wc -l < "{tmp_path}/calls")\nset -- {" ".join(map(str, codes))}\nshift $((n - 1))\nexit "$1"\n'
    )
    fake.chmod(0o755)
    argv = ["make", "--silent", "--old-file=venv", f"PRIVML={fake}", *words, "image"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, (tmp_path / "calls").read_text().splitlines(), done.stderr


def test_available_inputs_are_built_without_refreshing(tmp_path: Path) -> None:
    assert make(tmp_path, [0]) == (0, ["image demo-cpu"], "")


def test_unavailable_inputs_are_refreshed_with_a_message(tmp_path: Path) -> None:
    code, calls, talk = make(tmp_path, [4, 0, 0], "POOL=/a https://b.example.invalid")
    pools = "--pool /a --pool https://b.example.invalid"
    assert code == 0
    assert calls == [
        f"image demo-cpu {pools}",
        f"lock demo-cpu --refresh-to {REFRESHED} {pools}",
        f"image demo-cpu --lock {REFRESHED} {pools}",
    ]
    assert "ONLY UNAVAILABLE INPUTS" in talk
    assert "`refreshed`" in talk


@pytest.mark.parametrize("codes", [[6], [3], [4, 4], [4, 5], [4, 0, 6]])
def test_other_failures_are_not_refreshed(tmp_path: Path, codes: list[int]) -> None:
    code, calls, _ = make(tmp_path, codes)
    assert code != 0
    assert len(calls) == len(codes)


def test_a_demo_of_a_tee_that_nothing_simulates_says_which_there_are() -> None:
    argv = [sys.executable, "-m", "tests.real.demo"]
    done = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, "TEE": "sev"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "demo: TEE=sev: nothing simulates it, expected tdx or snp\n"
