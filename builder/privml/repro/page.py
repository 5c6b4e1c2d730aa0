"""A comparison as one HTML page without scripts or external references, readable without styles.

Words are never broken. Digests and paths may wrap between groups of digits and after slashes; what is still wider
than the screen scrolls inside its own box.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from privml.base.errors import printable
from privml.repro.change import Change, Group, following
from privml.repro.images import ImageDiff
from privml.repro.layers import Layer, Mismatch, Report
from privml.repro.variations import Variation

# A page of 65,536 rows is not useful; the JSON report has all rows, and the page says how many it leaves out.
SHOWN = 500
_LONG = 24
# Digests and Base64, which nobody reads as words.
_CODE = re.compile(r"[0-9a-f]{32,}|[A-Za-z0-9+]{65,}={0,2}")
_GROUP = re.compile(r".{16}(?=.)")

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1b1b1b;
  background: #fff; }
h1 { font-size: 1.5rem; line-height: 1.3; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin: 0; }
caption h2 { display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 5rem); }
h3 { font-size: 1rem; margin: 1rem 0 .3rem; }
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
.still, .open { color: #8a4b00; } .open { font-weight: 600; }
details { margin: .8rem 0; border: 1px solid #ddd; padding: .4rem .8rem; }
summary { cursor: pointer; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .2rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; }
pre { background: #f5f5f5; padding: .6rem 1rem; white-space: pre-wrap; overflow-x: auto; }
:focus-visible { outline: .15rem solid #1f5fa8; }
@media (prefers-color-scheme: dark) {
  body { color: #e8e8e8; background: #161616; } thead th, pre { background: #262626; }
  th, td, details { border-color: #3a3a3a; } .still, .open { color: #f0b060; }
  .same { background: #10301a; } .differs { background: #3a1512; } .wanted { background: #14263d; }
  :focus-visible { outline-color: #8db8ec; }
}
"""


def page(title: str, report: Report, variations: Sequence[Variation] = (), record: str = "") -> str:
    """The page of one comparison; ``record`` is the text about the record of digests."""
    parts = [_verdict(report)]
    if report.reason is not None:
        parts.append(_first(report.reason))
    if record:
        parts.append(_pre("Record of digests", record))
    parts.append(_layers(report))
    if report.findings:
        parts.append(_causes(report))
        parts += [_findings(report, layer) for layer in Layer]
    if variations:
        parts.append(_variations(variations))
    return _document(title, [*parts, _digests(report)])


def diff_page(title: str, found: ImageDiff) -> str:
    """The page of what changed between two images: recipe first, then what follows from it, then the rest."""
    parts = [_outcome(found), _registers(found)]
    if found.notes:
        parts.append(f"<ul>{''.join(f'<li>{_text(note)}</li>' for note in found.notes)}</ul>")
    open_ = [change for change in found.changes if change.explained is False]
    parts.append(_changes("Unexplained: no change of recipe or lock leads to it", open_))
    for group in Group:
        of = [change for change in found.changes if change.group is group and change.explained is not False]
        parts.append(_changes(_heading(group.title), of))
    parts.append(_layers(found.report))
    parts += [_fields(name, of) for name, of in _documents(found.report.findings).items()]
    parts += [_pre(finding.place, finding.detail) for finding in found.report.findings if finding.detail]
    return _document(title, [*parts, _digests(found.report)])


def _document(title: str, parts: Iterable[str]) -> str:
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(printable(title))}</title><style>{_STYLE}</style></head><body><main>\n"
        f"<h1>{_text(title)}</h1>\n"
    )
    return head + "\n".join(part for part in parts if part) + "\n</main></body></html>\n"


# -- two builds of one recipe ----------------------------------------------------------------------------------------


def _verdict(report: Report) -> str:
    if report.equal:
        return '<p class="verdict same">Equal, byte for byte.</p>'
    first = report.first.title if report.first else "nothing was compared"
    number = len(report.findings)
    return f'<p class="verdict differs">{number:,} differences; the first layer that differs: {_text(first)}.</p>'


def _first(finding: Mismatch) -> str:
    """The first difference to look at: where, why, from which package, and how to fix it."""
    rows = [
        ("layer", finding.layer.title), ("place", finding.place), ("field", finding.field), ("a", finding.a),
        ("b", finding.b), ("cause", f"{finding.cause.cause} ({finding.cause.id})"), ("fix", finding.cause.fix),
        ("package", finding.package), ("recipe line", finding.origin or "unknown"),
    ]  # fmt: skip
    items = "\n".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}</dd>" for name, text in rows)
    return f"<h2>Look here first</h2>\n<dl>\n{items}\n</dl>"


def _layers(report: Report) -> str:
    rows = []
    for layer in Layer:
        number = sum(finding.layer is layer for finding in report.findings)
        rows.append([layer.title, f"{report.compared.get(layer, 0):,}", f"{number:,}"])
    notes = "".join(f"<li>{_text(note)}</li>" for note in report.notes)
    table = _table("Layers, measured ones first", ["layer", "compared", "differences"], rows, ["", "", ""])
    return table + (f"<ul>{notes}</ul>" if notes else "")


def _causes(report: Report) -> str:
    table = {finding.cause.id: finding.cause for finding in report.findings}
    rows = [[name, f"{count:,}", table[name].cause, table[name].fix] for name, count in report.causes()]
    return _table("Causes", ["id", "times", "cause", "fix"], rows, ["", "", "text", "text"])


def _findings(report: Report, layer: Layer) -> str:
    found = [finding for finding in report.findings if finding.layer is layer]
    documents = _documents(found)
    own = [finding for finding in found if finding not in [one for of in documents.values() for one in of]]
    rows = [_row(finding) for finding in own[:SHOWN]]
    heads = ["place", "field", "a", "b", "cause", "package, recipe line"]
    text = _table(f"Differences: {layer.title}", heads, rows, _VALUES, left=len(own) - len(rows)) if rows else ""
    parts = [text, *(_fields(name, of) for name, of in documents.items())]
    parts += [_pre(finding.place, finding.detail) for finding in found if finding.detail]
    return "\n".join(part for part in parts if part)


def _documents(findings: Iterable[Mismatch]) -> dict[str, list[Mismatch]]:
    """The differing fields of each JSON document next to the artefacts."""
    found: dict[str, list[Mismatch]] = {}
    for finding in findings:
        if finding.layer is Layer.BYTES and finding.field == "value":
            found.setdefault(finding.place.partition(":")[0], []).append(finding)
    return found


def _fields(name: str, findings: Sequence[Mismatch]) -> str:
    """The fields of a document, folded: most repeat differences of layers above."""
    rows = [[finding.place.partition(":")[2], finding.a, finding.b] for finding in findings[:SHOWN]]
    plural = "" if len(findings) == 1 else "s"
    left = len(findings) - len(rows)
    table = _table(f"Fields of {name}", ["field", "a", "b"], rows, ["value"] * 3, left=left, folded=True)
    return f"<details><summary>{_text(name)}: {len(findings):,} field{plural}</summary>\n{table}</details>"


_VALUES = ["value", "value", "value", "value", "", ""]


def _row(finding: Mismatch) -> list[str]:
    whose = ", ".join(part for part in (finding.package, finding.origin) if part not in ("", "unknown"))
    return [finding.place, finding.field, finding.a, finding.b, finding.cause.id, whose]


def _variations(variations: Sequence[Variation]) -> str:
    rows = [[one.name, one.a, one.b, "varied" if one.varied else f"not varied: {one.why}"] for one in variations]
    kinds = [["", "text", "text", "text" if one.varied else "text still"] for one in variations]
    heads = ["what", "leg a", "leg b", "varied?"]
    return _table("Environments of the two builds, as observed by each", heads, rows, *kinds)


def _digests(report: Report) -> str:
    rows = [[name, *pair] for name, pair in sorted(report.digests.items())]
    return _table("SHA-256", ["file", "a", "b"], rows, ["value"] * 3)


# -- two images ------------------------------------------------------------------------------------------------------


def _outcome(found: ImageDiff) -> str:
    if found.report.equal:
        return '<p class="verdict same">Equal, byte for byte.</p>'
    number, unexplained = len(found.changes), len(found.unexplained)
    if unexplained:
        return f'<p class="verdict differs">{number:,} changes, {unexplained:,} of them unexplained.</p>'
    return f'<p class="verdict wanted">{number:,} changes; each follows from a change of recipe or lock.</p>'


def _registers(found: ImageDiff) -> str:
    if found.registers is None:
        return "<p>Registers that move: unknown, because the images are predicted for different machines.</p>"
    if not found.registers:
        return "<p>No register moves.</p>"
    rows = [[name, following(why) or "unexplained"] for name, why in found.registers.items()]
    return _table("Registers that move", ["register", "why"], rows, ["", "text"])


def _heading(title: str) -> str:
    return title[:1].upper() + title[1:]


def _changes(title: str, changes: Sequence[Change]) -> str:
    if not changes:
        return ""
    rows = [
        [change.title, change.before, change.after, _effect(change), change.cause()] for change in changes[:SHOWN]
    ]
    kinds = ["value", "value", "value", "few", "text open" if changes[0].explained is False else "text"]
    heads = ["what", "A", "B", "moves", "why"]
    if not any(row[-1] for row in rows):
        rows, heads = [row[:-1] for row in rows], heads[:-1]
    return _table(title, heads, rows, kinds, left=len(changes) - len(rows))


def _effect(change: Change) -> str:
    return change.effect() if change.certain else f"perhaps {change.effect()}"


# -- parts of every page ---------------------------------------------------------------------------------------------


def _table(
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *kinds: Sequence[str],
    left: int = 0,
    folded: bool = False,
) -> str:
    """A table in a box that scrolls; ``kinds`` are the classes of the cells, of each row or (one list) of all.

    The caption is a heading, unless the table is ``folded`` under a summary.
    """
    head = "".join(f'<th scope="col">{_text(text)}</th>' for text in heads)
    body = []
    for number, row in enumerate(rows):
        classes = kinds[number] if len(kinds) > 1 else kinds[0] if kinds else [""] * len(row)
        first, *cells = (_class(kind) for kind in classes[: len(row)])
        line = f'<th scope="row"{first}>{_text(row[0])}</th>'
        line += "".join(f"<td{of}>{_text(text)}</td>" for text, of in zip(row[1:], cells, strict=True))
        body.append(f"<tr>{line}</tr>")
    more = f"<p>{left:,} more are in the JSON report.</p>" if left else ""
    caption = _text(title) if folded else f"<h2>{_text(title)}</h2>"
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(printable(title))}">\n'
        f"<table><caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(body)
        + f"\n</tbody></table></div>{more}"
    )


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _pre(title: str, text: str) -> str:
    lines = "\n".join(escape(printable(line.expandtabs())) for line in text.split("\n"))
    return f'<h3>{_text(title)}</h3>\n<pre tabindex="0">{lines}</pre>'


def _text(text: str) -> str:
    """Text of strangers, cleaned and escaped, with the places where it may wrap."""
    clean = printable(text)
    if len(clean) <= _LONG:
        return escape(clean)
    marked = _CODE.sub(lambda found: _GROUP.sub(lambda part: f"{part[0]}\0", found[0]), clean)
    return escape(re.sub(r"/(?=\w)", "/\0", marked)).replace("\0", "<wbr>")
