"""imports.py, which imports modules of wheels while a build runs: programs are refused, and named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from privml.lock.trees import images_folder

SCRIPT = images_folder() / "mkosi/imports.py"
TRUE = "/bin/true"


def imported(place: Path, text: str, *allowed: str) -> tuple[int, list[str]]:
    """Exit status of the import of a module with ``text``, and the lines of its errors."""
    (place / "acme.py").write_text(text)
    words = [sys.executable, "-B", "-c", SCRIPT.read_text(), ":".join(allowed), "acme"]
    environment = {"PATH": "/nowhere", "PYTHONPATH": str(place), "HOME": str(place), "TMPDIR": str(place / "made")}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if "programs cannot be watched here" in done.stderr:
        pytest.skip(done.stderr.strip())
    return done.returncode, done.stderr.splitlines()


def test_an_import_that_starts_nothing_succeeds(tmp_path: Path) -> None:
    text = (
        "import os, threading\nthreading.Thread(target=print).start()\nassert os.path.isdir(os.environ['TMPDIR'])\n"
    )
    assert imported(tmp_path, text) == (0, [])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("import subprocess\ntry: subprocess.run(['gcc'])\nexcept OSError: pass\n", "/nowhere/gcc"),
        (f"import subprocess\ntry: subprocess.run(['{TRUE}'])\nexcept OSError: pass\n", TRUE),
        # Not Python but the C library: nothing in the interpreter sees these.
        ("import ctypes\nctypes.CDLL(None).system(b'true')\n", "/bin/sh"),
        (f"import ctypes\nctypes.CDLL(None).execl(b'{TRUE}', b'true', None)\n", TRUE),
        (f"import os\nos.spawnv(os.P_WAIT, '{TRUE}', ['true'])\n", TRUE),
    ],
)
def test_a_program_that_is_not_allowed_is_refused_and_named(tmp_path: Path, text: str, named: str) -> None:
    assert imported(tmp_path, text) == (0, [f"refused: {named}"])


def test_a_program_that_is_allowed_runs_and_what_it_starts_is_watched(tmp_path: Path) -> None:
    inner = f"import os; os.execv('{TRUE}', ['true'])"
    text = f"import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', {inner!r}]).returncode)\n"
    code, lines = imported(tmp_path, text, sys.executable)
    assert (code, lines[-1]) == (0, f"refused: {TRUE}")
    assert imported(tmp_path, text, sys.executable, TRUE) == (0, [])


def test_a_failing_import_says_why_and_names_what_was_refused_last(tmp_path: Path) -> None:
    text = "import os\nos.spawnv(os.P_WAIT, '/bin/true', ['true'])\nraise ImportError('no modules')\n"
    code, lines = imported(tmp_path, text)
    assert code == 1
    assert lines[-2:] == ["ImportError: no modules", f"refused: {TRUE}"]


def test_the_status_of_an_import_that_is_killed_is_that_of_a_shell(tmp_path: Path) -> None:
    assert imported(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")[0] == 137
