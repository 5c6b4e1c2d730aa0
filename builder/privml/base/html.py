"""HTML pages without scripts or external references, readable without styles: their style and their parts.

Words are never broken. Digests and paths may wrap between groups of digits and after slashes; what is still wider
than the screen scrolls inside its own box. Text becomes part of a page only through `text`, which escapes it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from html import escape

from privml.base import svg
from privml.base.errors import printable

_LONG = 24
# Digests and Base64, which nobody reads as words.
_CODE = re.compile(r"[0-9a-f]{32,}|[A-Za-z0-9+]{65,}={0,2}")
_GROUP = re.compile(r".{16}(?=.)")


class Html(str):
    """Text that is HTML already. Templates that escape leave it as it is."""

    __slots__ = ()

    def __html__(self) -> Html:
        return self


_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1b1b1b;
  background: #fff; }
h1 { font-size: 1.5rem; line-height: 1.3; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin: 0; }
caption h2, caption h3 { margin: 0; display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 5rem); }
h3 { font-size: 1rem; margin: 1rem 0 .3rem; }
h2 + p, h2 + dl { margin-top: .5rem; }
h1, h3, dd { overflow-x: auto; }
.verdict { font-size: 1.2rem; padding: .6rem 1rem; border-left: .4rem solid; margin: 1rem 0; }
.same { border-color: #1a7f37; background: #eaf6ec; }
.differs { border-color: #b42318; background: #fdeceb; }
.wanted { border-color: #1f5fa8; background: #eaf1fb; }
.scroll { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; padding: 0 0 .4rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; min-width: 4rem;
  border-bottom: 1px solid #ddd; }
thead th { background: #f5f5f5; }
tbody th { font-weight: inherit; }
.text { min-width: 14rem; } .few { min-width: 8rem; }
.value { font-family: ui-monospace, monospace; font-size: .85rem; min-width: 9rem; }
td a { display: inline-block; min-height: 1.6rem; }
.still, .open { color: #8a4b00; } .open { font-weight: 600; }
details { margin: .8rem 0; border: 1px solid #ddd; padding: .4rem .8rem; }
summary { cursor: pointer; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .2rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; }
nav { margin: .5rem 0 1rem; } nav a { margin-right: 1rem; }
a { color: #1f5fa8; }
.figure { overflow-x: auto; }
@media (max-width: 40rem) { dl { display: block; } dd { margin: 0 0 .5rem; } }
pre { background: #f5f5f5; padding: .6rem 1rem; white-space: pre-wrap; overflow-x: auto; }
:focus-visible { outline: .15rem solid #1f5fa8; }
@media screen and (prefers-color-scheme: dark) {
  body { color: #e8e8e8; background: #161616; } thead th, pre { background: #262626; }
  th, td, details { border-color: #3a3a3a; } .still, .open { color: #f0b060; }
  .same { background: #10301a; } .differs { background: #3a1512; } .wanted { background: #14263d; }
  a, :focus-visible { outline-color: #8db8ec; } a { color: #8db8ec; }
}
@media print { :root { color-scheme: light; } }
"""


def _theme() -> str:
    """The colours of pictures, in light and dark."""
    light = " ".join(f"--svg-{name}: {colour};" for colour, (name, _) in svg.THEME.items())
    dark = " ".join(f"--svg-{name}: {colour};" for name, colour in svg.THEME.values())
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


_COLOURS = _theme()


def document(title: str, parts: Iterable[str], *, style: str = "", refresh: int | None = None) -> str:
    """A page of HTML ``parts``; empty ones are left out.

    ``style`` is added to the style of every page. A page with ``refresh`` is loaded again after so many seconds.
    """
    again = "" if refresh is None else f'<meta http-equiv="refresh" content="{refresh}">\n'
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{attribute(policy(style))}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{again}'
        f"<title>{attribute(title)}</title><style>{_STYLE}{_COLOURS}{style}</style></head><body><main>\n"
        f"<h1>{text(title)}</h1>\n"
    )
    return head + "\n".join(part for part in parts if part) + "\n</main></body></html>\n"


def policy(style: str = "") -> str:
    """The Content-Security-Policy of a `document`: its own style, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(f"{_STYLE}{_COLOURS}{style}".encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def table(
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *kinds: Sequence[str],
    left: int = 0,
    level: int = 2,
) -> Html:
    """A table in a box that scrolls; ``kinds`` are the classes of the cells, of each row or (one list) of all.

    A cell may be `Html`. The caption is a heading of ``level``; 0 for a table that is folded under a summary.
    """
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in heads)
    body = []
    for number, row in enumerate(rows):
        classes = kinds[number] if len(kinds) > 1 else kinds[0] if kinds else [""] * len(row)
        first, *cells = (_class(kind) for kind in classes[: len(row)])
        line = f'<th scope="row"{first}>{text(row[0])}</th>'
        line += "".join(f"<td{of}>{text(cell)}</td>" for cell, of in zip(row[1:], cells, strict=True))
        body.append(f"<tr>{line}</tr>")
    more = f"<p>{left:,} more are in the JSON report.</p>" if left else ""
    caption = f"<h{level}>{text(title)}</h{level}>" if level else text(title)
    return Html(
        f'<div class="scroll" role="region" tabindex="0" aria-label="{attribute(title)}">\n'
        f"<table><caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(body)
        + f"\n</tbody></table></div>{more}"
    )


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def pre(title: str, content: str) -> Html:
    """A heading and a text of several lines as it is; without a title only the text."""
    lines = "\n".join(attribute(line.expandtabs()) for line in content.split("\n"))
    return Html((f"<h3>{text(title)}</h3>\n" if title else "") + f'<pre tabindex="0">{lines}</pre>')


def link(target: str, words: str) -> Html:
    """A link to ``target``, an address within the site."""
    return Html(f'<a href="{attribute(target)}">{text(words)}</a>')


def text(content: str) -> Html:
    """Text of strangers, cleaned and escaped, with the places where it may wrap; `Html` as it is."""
    if isinstance(content, Html):
        return content
    clean = _clean(content)
    if len(clean) <= _LONG:
        return Html(escape(clean))
    marked = _CODE.sub(lambda found: _GROUP.sub(lambda part: f"{part[0]}\0", found[0]), clean)
    return Html(escape(re.sub(r"/(?=\w)", "/\0", marked)).replace("\0", "<wbr>"))


def attribute(content: str) -> Html:
    """Text of strangers, cleaned and escaped, where nothing may wrap: in attributes, and in documents but pages."""
    return Html(escape(_clean(content)))


def _clean(content: str) -> str:
    return content if content.isprintable() else printable(content)
