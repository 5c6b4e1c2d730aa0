"""What the guest carries and what judges must run without any package but Python's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import privml

SOURCE = Path(privml.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
    for room in ("evidence", "statement", "verify")
    for path in (SOURCE / room).rglob("*.py")
    if path.stem not in ("__init__", "signature")
)


def test_pure_rooms_need_only_the_standard_library() -> None:
    assert len(MODULES) > 12
    code = f"import {', '.join(MODULES)}"
    done = subprocess.run(
        [sys.executable, "-S", "-B", "-c", code],
        env={"PYTHONPATH": str(SOURCE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["privml.sim.quote", "privml.evidence.facts"])
def test_the_guest_never_loads_the_qvl(module: str) -> None:
    code = f"import sys, {module}; print([name for name in sys.modules if 'dcap' in name or 'x509' in name])"
    path = ":".join([str(SOURCE.parent), *(entry for entry in sys.path if entry)])
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
