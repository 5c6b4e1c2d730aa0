"""The pages of `repro` and `diff`: well-formed, self-contained, no word broken, nothing of strangers unescaped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_repro_changes import without_tools  # noqa: F401 - a fixture
from test_repro_compare import Well, bend, opener, output, sealed

from privml.base import html
from privml.base.errors import Differs
from privml.cli import diff as verb
from privml.output import manifest as manifests
from privml.repro import page as pages
from privml.repro.compare import compare
from privml.repro.images import ImageDiff, of
from privml.repro.recipechanges import side_of

HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e&\"'"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    one, two = output(tmp_path / "one"), output(tmp_path / "two")
    bend(two / "root.raw", 40 * 512, b"other data")
    (tmp_path / "two.root.raw.tree/etc" / "<b>odd").write_bytes(b"x")
    root = manifests.read(two).root
    sealed(two, recipe_sha256="9" * 64, cmdline=f"quiet privml.root=x {'word' * 15}", listen=9000, root=root)
    return one, two


def compared(pair: tuple[Path, Path]) -> ImageDiff:
    return of(side_of(pair[0]), side_of(pair[1]), compare(*pair, opener=opener))


def both(pair: tuple[Path, Path]) -> dict[str, str]:
    found = compared(pair)
    return {"repro": pages.page(HOSTILE, compare(*pair, opener=opener)), "diff": pages.diff_page(HOSTILE, found)}


class Seen(Well):
    """Also keeps what the page needs for people: captions, headers, boxes and folds."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.loose: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "table" and (not self.open or self.open[-1] != "div"):
            self.loose.append(tag)
        if tag == "th" and given.get("scope") not in ("row", "col"):
            self.loose.append(tag)
        self.counts[tag] = self.counts.get(tag, 0) + 1
        super().handle_starttag(tag, attrs)


@pytest.mark.parametrize("name", ["repro", "diff"])
def test_every_table_scrolls_in_a_box_and_has_a_caption_and_headers(pair: tuple[Path, Path], name: str) -> None:
    seen = Seen()
    seen.feed(both(pair)[name])
    seen.close()
    assert seen.open == []
    assert seen.loose == []
    assert seen.counts["table"] == seen.counts["caption"] == seen.counts["thead"] >= 4
    assert both(pair)[name].count('<div class="scroll" role="region" tabindex="0"') == seen.counts["table"]
    assert ".scroll { overflow-x: auto;" in both(pair)[name]


@pytest.mark.parametrize("name", ["repro", "diff"])
def test_the_fields_of_documents_are_folded(pair: tuple[Path, Path], name: str) -> None:
    text = both(pair)[name]
    folds = re.findall(r"<details><summary>(.*?)</summary>(.*?)</details>", text, re.S)
    assert {summary.partition(":")[0] for summary, _ in folds} == {"manifest.json", "prediction.json"}
    assert all("<table>" in inside for _, inside in folds)
    outside = re.sub(r"<details>.*?</details>", "", text, flags=re.S)
    assert "/listen" in text
    assert "/listen" not in outside


@pytest.mark.parametrize("name", ["repro", "diff"])
def test_no_style_breaks_a_word(pair: tuple[Path, Path], name: str) -> None:
    text = both(pair)[name]
    style = text[text.index("<style>") : text.index("</style>")]
    for rule in ("overflow-wrap", "word-break", "word-wrap", "hyphens", "line-break", "table-layout"):
        assert rule not in style, rule
    assert "prefers-color-scheme: dark" in style
    # A long word stays whole; a digest has places to wrap.
    assert "word" * 15 in text
    assert re.search(r"[0-9a-f]{17}", text[text.index("</style>") :]) is None


@pytest.mark.parametrize("name", ["repro", "diff"])
def test_texts_of_strangers_are_escaped_and_cleaned(pair: tuple[Path, Path], name: str) -> None:
    text = both(pair)[name]
    assert "<script" not in text
    assert "<b>" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert r"&lt;script&gt;alert(1)&lt;/<wbr>script&gt;\x1b[2J\u202e&amp;&quot;&#x27;" in text


def test_a_long_path_may_wrap_after_its_slashes_only() -> None:
    assert html.text("short/path") == "short/path"
    assert html.text("/usr/lib/python3/dist-packages/a.py") == (
        "/<wbr>usr/<wbr>lib/<wbr>python3/<wbr>dist-packages/<wbr>a.py"
    )
    assert html.text("a" * 40) == "<wbr>".join(["a" * 16, "a" * 16, "a" * 8])
    assert html.text("x" * 64) == "x" * 64


def test_the_page_of_two_images_begins_with_what_nobody_asked_for(pair: tuple[Path, Path]) -> None:
    text = pages.diff_page("t", compared(pair))
    order = [
        text.index(title) for title in ("of them unexplained", "<h2>Unexplained", "<h2>Recipe fields, effective")
    ]
    assert order == sorted(order)
    assert "agent.listen" in text
    assert "cannot be compared: " in text


def test_the_page_of_equal_images_says_so(tmp_path: Path) -> None:
    pair = output(tmp_path / "one"), output(tmp_path / "two")
    assert "Equal, byte for byte" in pages.diff_page("t", compared(pair))


@pytest.mark.usefixtures("without_tools")
def test_the_verb_writes_the_page_of_two_images(pair: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "changes.html"
    with pytest.raises(Differs):
        verb.diff.callback(*map(str, pair), html=file)
    assert file.read_text().startswith("<!doctype html>")
    assert "<h2>Recipe fields, effective</h2>" in file.read_text()
