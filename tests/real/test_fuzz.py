"""Each parser under fuzz: 5 s in `make check`, 3 minutes in `make check-full`."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.fuzz.targets import TARGETS
from tests.real.conftest import ROOT

pytestmark = pytest.mark.real


def _fuzz(name: str) -> str:
    seconds = "180" if os.environ.get("PRIVML_FULL") == "1" else "5"
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.search", name, seconds],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else f"{name}: {done.stderr[-2000:]}"


def test_no_mutated_input_crashes_a_parser() -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        assert [text for text in pool.map(_fuzz, TARGETS) if text] == []
