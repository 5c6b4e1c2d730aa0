"""Install from the package index, and tell an index that does not have a package from any other failure.

Only the first is a reason to skip a test: a network, a disk or a resolution that fails says nothing of what the index
has.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

_PIP_FOUND_NONE = re.compile(r"ERROR: No matching distribution found for (.+)")
# pip passes over an index that it cannot read, and says of it as of one without the package that nothing was found.
_PIP_UNREAD = re.compile(r"Could not fetch URL (?!.*: 404 Client Error)")
_UV_FOUND_NONE = re.compile(
    r"there (?:is no version|are no versions) of (?P<a>[^\s{]+)"
    r"|only (?:the following versions of )?(?P<b>[^\s{]+)(?:{.*?})? (?:is|are) available"
    r"|(?P<c>[^\s{]+)(?:{.*?})? (?:was not found in the package registry|has no .*?wheels)"
)
_UV_UNREAD = ("hint: An index", "the network was disabled")


def lacking_by_pip(log: str) -> str | None:
    """The requirement that no index has, by pip's `--log`; None if pip failed for another reason.

    The log has all that is on standard error, and besides why an index could not be read.
    """
    found = _PIP_FOUND_NONE.search(log)
    return found.group(1).strip() if found and not _PIP_UNREAD.search(log) else None


def lacking_by_uv(said: str) -> str | None:
    """The package that no index has, by uv's standard error; None if uv failed for another reason."""
    text = " ".join(said.split())
    found = _UV_FOUND_NONE.search(text)
    if not found or "No solution found" not in text or any(word in text for word in _UV_UNREAD):
        return None
    return next(name for name in found.groups() if name)


def pip(program: Sequence[str | Path], log: Path, *words: str | Path) -> None:
    """Run pip; skips the test if the index lacks what is asked for, and fails it if anything else is wrong."""
    log.unlink(missing_ok=True)
    command = [*program, "--quiet", "--no-input", "--disable-pip-version-check", "--log", log, *words]
    _run(command, lambda _: lacking_by_pip(log.read_text(errors="replace")) if log.exists() else None)


def uv(program: Path, *words: str | Path) -> None:
    """Run uv, as `pip` does."""
    _run([program, *words], lacking_by_uv)


def _run(command: Sequence[str | Path], lacking: Callable[[str], str | None]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode == 0:
        return
    if name := lacking(done.stderr):
        pytest.skip(f"the index has no {name}")
    pytest.fail(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stderr[-4000:]}")
