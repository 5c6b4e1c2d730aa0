"""Field tests that were received: today's code compares each as it did when it came, and README has a row for it.

`tests/unit/test_field.py` shows on an archive of its own that a changed comparison and a missing row are found.
"""

from tests.field.golden import FOLDER, problems

ROOT = FOLDER.parents[2]
RECEIVED = sorted(FOLDER.iterdir()) if FOLDER.is_dir() else []


def test_every_received_field_test_is_compared_as_before_and_has_a_row() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [problem for folder in RECEIVED for problem in problems(folder, readme)] == []


def test_the_documentation_says_so_exactly_while_no_field_test_was_received() -> None:
    said = " ".join((ROOT / "docs/FIELD.md").read_text().split())
    assert ("No TDX host has run it yet" in said) == (RECEIVED == []), "the introduction of docs/FIELD.md"
