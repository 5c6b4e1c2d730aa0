"""The pictures in the documents are up to date with the code."""

from __future__ import annotations

import re
import xml.etree.ElementTree as tree
from functools import cache
from pathlib import Path

import pytest
from tests.pictures import checks, rooms, terminal
from tests.pictures.all import FOLDER, PICTURES

from privml.verify.check import CODES

DOCS = Path(__file__).resolve().parents[2]


drawn = cache(lambda name: PICTURES[name]())


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text() == drawn(name), f"{name}: run `make pictures`"


@pytest.mark.parametrize("name", [name for name in PICTURES if name != "demo.svg"])
def test_a_picture_keeps_its_text_inside(name: str) -> None:
    """It is well-formed, and judging by its length no line of text crosses the picture's edge."""
    root = tree.fromstring(drawn(name))
    width = float(root.attrib["width"])
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        x, long = float(text.attrib["x"]), len(text.text or "") * 6.0
        left = x - long / 2 if text.attrib["text-anchor"] == "middle" else x
        assert left >= 0 and left + long <= width, text.text


def test_every_picture_is_shown_and_every_file_is_drawn() -> None:
    assert {path.name for path in FOLDER.glob("*.svg")} == set(PICTURES)
    pages = "".join(path.read_text() for path in [DOCS / "README.md", *(DOCS / "docs").glob("*.md")])
    assert [name for name in PICTURES if f"pictures/{name})" not in pages] == []


def test_the_tables_of_checks_are_current() -> None:
    assert checks.PAGE.read_text() == checks.page(), "docs/VERIFIERS.md: run `make pictures`"


def test_the_tables_have_every_code_and_a_line_that_gives_it() -> None:
    rows = [row.split(" | ") for row in checks.codes().splitlines()[2:]]
    assert [row[1].strip("`") for row in rows] == list(CODES)
    for _, code, places in rows:
        for path, line in re.findall(r"`([\w/]+\.py):(\d+)`", places):
            text = (checks.SOURCE / path).read_text().splitlines()[int(line) - 1]
            assert f'"{code.strip("`")}"' in text or text.startswith("def "), (code, path, line)


def test_a_table_changes_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = checks.page()
    monkeypatch.setattr(checks, "_body", lambda _: 7)
    assert checks.page() != honest


def test_an_import_that_follows_from_another_is_left_out() -> None:
    edges = {"a": frozenset({"b", "c"}), "b": frozenset({"c"}), "c": frozenset[str]()}
    assert rooms.needed(edges) == {"a": {"b"}, "b": {"c"}, "c": set()}
    assert rooms.levels(edges) == {"a": 2, "b": 1, "c": 0}


def test_the_picture_of_the_rooms_changes_with_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = rooms.draw().render()
    found = dict(rooms.imported())
    monkeypatch.setattr(rooms, "imported", lambda: {**found, "store": found["store"] | {"statement"}})
    assert rooms.draw().render() != honest


def test_a_recording_shows_every_line_of_the_output() -> None:
    output = "\n== one ==\n  rtmr2: got <a>, expected b\n  " + "word " * 60 + "\n  accepted: it\n"
    root = tree.fromstring(terminal.draw(output))
    rows = list(root.iter("{http://www.w3.org/2000/svg}text"))
    shown = " ".join("".join(text.text or "" for text in rows).split())
    assert shown == " ".join(f"$ make demo{output}".replace("\n", "").split())
    assert max(len(text.text or "") for text in rows) <= 112
    assert len({text.attrib["fill"] for text in rows}) == 5


def test_recordings_of_two_runs_compare_equal() -> None:
    one = f"proxy: https://127.0.0.1:4711: refused, digest {'ab' * 48}\nended, in 12 s; 537 bytes left\n"
    two = f"proxy: https://127.0.0.1:815: refused, digest {'cd' * 48}\nended, in 200 s; 540 bytes left\n"
    assert terminal.comparable(one) == terminal.comparable(two)
    assert terminal.comparable(one) != terminal.comparable(two.replace("refused", "accepted"))
