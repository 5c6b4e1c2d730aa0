"""The structure of an HTML page: what is not closed in order, what is loaded or linked, headings and identifiers."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "wbr", "br"}


class Page(HTMLParser):
    """One page; ``wrong`` is empty if it is well-formed, has no script and loads nothing."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.counts: dict[str, int] = {}
        self.text = ""
        self.feed(text)
        self.close()
        self.wrong += self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag in ("script", "link", "img", "iframe", "object", "form", "base", "image", "use"):
            self.wrong.append(tag)
        self.wrong += [name for name in given if name.startswith("on") or name in ("src", "style", "srcset")]
        if tag == "th" and given.get("scope") not in ("row", "col"):
            self.wrong.append("th without scope")
        if tag == "html" and given.get("lang") != "en":
            self.wrong.append("no lang")
        if "href" in given:
            self.links.append(str(given["href"]))
        if "id" in given:
            self.ids.append(str(given["id"]))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.text += data
