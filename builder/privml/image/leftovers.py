"""Remove the temporary directories that a killed command left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from privml.base.files import remove_tree

_RANDOM = r"(?:old\.)?[a-z0-9_]{8}"  # the mkdtemp suffix used by `directory_atomic`


def remove_leftovers(directory: Path, remove_of_others: Callable[[Path], object] | None = None) -> int:
    """Remove stale temporary directories of ``directory``. The caller holds its lock, so none of them is in use.

    ``remove_of_others`` is called for what cannot be removed: without root, a guest tree has files of subordinate
    ids.
    """
    if not directory.parent.is_dir():
        return 0
    pattern = re.compile(rf"\.{re.escape(directory.name)}\.{_RANDOM}")
    found = [path for path in directory.parent.iterdir() if pattern.fullmatch(path.name) and path.is_dir()]
    for path in found:
        remove_tree(path)
        if path.exists() and remove_of_others is not None:
            remove_of_others(path)
    return len(found)
