"""The evidence mutator over every position; `make test` runs a sample of it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.real.conftest import ROOT, only_full

pytestmark = pytest.mark.real


@only_full
def test_every_byte_of_the_evidence() -> None:
    """The environment already has PRIVML_FULL=1."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/unit/test_evidence_mutations.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
