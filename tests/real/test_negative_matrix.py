"""The negative matrix with every position altered; `make test` and `make check` run a sample of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tests.real.conftest import ROOT

pytestmark = pytest.mark.real

SAMPLE = "1000"


def test_the_matrix_ends_with_wrong_0() -> None:
    count = "0" if os.environ.get("PRIVML_FULL") == "1" else SAMPLE
    command = [sys.executable, "-m", "tests.negative.matrix", count]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.splitlines()[-1].endswith(", wrong code 0, wrong 0")
