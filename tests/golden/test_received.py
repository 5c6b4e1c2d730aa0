"""Field tests that were received: today's code compares each as it did when it came, and README has a row for it.

None has come yet. The same comparison is made of one that no TD ran (`tests/unit/field_fake.py`).
`tests/unit/test_field.py` shows that a missing row is found.
"""

from __future__ import annotations

import json
import lzma
import re
import shutil
from pathlib import Path

import pytest
from tests.field.golden import EXPECTED, FOLDER, PACKED, SIMULATED, changes, link

from privml.evidence import capture

ROOT = FOLDER.parents[2]
README = (ROOT / "README.md").read_text()
RECEIVED = sorted(FOLDER.iterdir()) if FOLDER.is_dir() else []


@pytest.mark.parametrize("folder", [SIMULATED, *RECEIVED], ids=lambda folder: folder.name)
def test_a_field_test_is_compared_as_before(folder: Path) -> None:
    assert changes(folder) == []


def test_the_simulated_one_says_so_and_has_differences_of_both_kinds() -> None:
    expected = json.loads((SIMULATED / EXPECTED).read_text())
    assert expected["simulated"] is True
    assert {(one["register"], one["kind"]) for one in expected["differences"]} == {
        ("rtmr0", "differs"),
        ("rtmr1", "missing"),
    }
    assert expected["problems"] == ["RTMR1"]
    assert expected["matched"]["rtmr2"] > 10


def test_another_quote_or_log_is_compared_otherwise(tmp_path: Path) -> None:
    folder = shutil.copytree(SIMULATED, tmp_path / "one")
    packed = (folder / PACKED).read_bytes()
    parts = capture.decode(lzma.decompress(packed)).files
    parts = {**parts, capture.LOG: parts[capture.LOG].replace(b"\x07" * 48, b"\x08" * 48)}
    (folder / PACKED).write_bytes(lzma.compress(capture.Capture(parts).encode()))
    assert [problem.split(":")[1] for problem in changes(folder)] == [" problems"]
    expected = json.loads((folder / EXPECTED).read_text())
    expected["differences"].pop()
    (folder / EXPECTED).write_text(json.dumps(expected))
    assert [problem.split(":")[1] for problem in changes(folder)] == [" differences", " problems"]


def test_readme_links_exactly_the_field_tests_that_were_received() -> None:
    linked = sorted(re.findall(r"\(tests/vectors/field/([^)]+)\)", README))
    assert linked == [folder.name for folder in RECEIVED]
    assert all(link(folder.name) in README for folder in RECEIVED)


def test_the_documentation_says_so_exactly_while_no_field_test_was_received() -> None:
    said = " ".join((ROOT / "docs/FIELD.md").read_text().split())
    assert ("No TDX host has run it yet" in said) == (RECEIVED == []), "the introduction of docs/FIELD.md"
