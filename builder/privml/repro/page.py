"""A report as one HTML page without scripts or external references, readable without styles."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from privml.repro.layers import Layer, Mismatch, Report
from privml.repro.variations import Variation

# A page of 65,536 rows is not useful; the JSON report has all rows, and the page says how many it leaves out.
SHOWN = 500

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1b1b1b;
  background: #fff; }
h1 { margin-bottom: 0; }
.verdict { font-size: 1.2rem; padding: .6rem 1rem; border-left: .4rem solid; margin: 1rem 0; }
.same { border-color: #1a7f37; background: #eaf6ec; }
.differs { border-color: #b42318; background: #fdeceb; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #ddd; }
th { background: #f5f5f5; }
td.value, code { font-family: ui-monospace, monospace; font-size: .85rem; overflow-wrap: anywhere; }
.still { color: #8a4b00; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
pre { background: #f5f5f5; padding: .6rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) {
  body { color: #e8e8e8; background: #161616; } th, pre { background: #262626; } th, td { border-color: #3a3a3a; }
  .same { background: #10301a; } .differs { background: #3a1512; } .still { color: #f0b060; }
}
"""


def page(title: str, report: Report, variations: Sequence[Variation] = (), record: str = "") -> str:
    """The page of one comparison; ``record`` is the text about the record of digests."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        _verdict(report),
    ]
    if report.reason is not None:
        parts.append(_first(report.reason))
    if record:
        parts.append(f"<pre>{escape(record)}</pre>")
    parts.append(_layers(report))
    if report.findings:
        parts.append(_causes(report))
        parts += [_findings(report, layer) for layer in Layer]
    if variations:
        parts.append(_variations(variations))
    parts += [_digests(report), "</body></html>"]
    return "\n".join(part for part in parts if part) + "\n"


def _verdict(report: Report) -> str:
    if report.equal:
        return '<p class="verdict same">Equal, byte for byte.</p>'
    first = report.first.title if report.first else "nothing was compared"
    number = len(report.findings)
    return f'<p class="verdict differs">{number:,} differences; the first layer that differs: {escape(first)}.</p>'


def _first(finding: Mismatch) -> str:
    """The first difference to look at: where, why, from which package, and how to fix it."""
    rows = [
        ("layer", finding.layer.title), ("place", finding.place), ("field", finding.field), ("a", finding.a),
        ("b", finding.b), ("cause", f"{finding.cause.cause} ({finding.cause.id})"), ("fix", finding.cause.fix),
        ("package", finding.package), ("recipe line", finding.origin or "unknown"),
    ]  # fmt: skip
    items = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    return f"<h2>Look here first</h2>\n<dl>\n{items}\n</dl>"


def _layers(report: Report) -> str:
    rows = []
    for layer in Layer:
        number = sum(finding.layer is layer for finding in report.findings)
        rows.append([layer.title, f"{report.compared.get(layer, 0):,}", f"{number:,}"])
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    return _table("Layers, measured ones first", ["layer", "compared", "differences"], rows) + (
        f"<ul>{notes}</ul>" if notes else ""
    )


def _causes(report: Report) -> str:
    table = {finding.cause.id: finding.cause for finding in report.findings}
    rows = [[name, f"{count:,}", table[name].cause, table[name].fix] for name, count in report.causes()]
    return _table("Causes", ["id", "times", "cause", "fix"], rows)


def _findings(report: Report, layer: Layer) -> str:
    found = [finding for finding in report.findings if finding.layer is layer]
    if not found:
        return ""
    rows = [_row(finding) for finding in found[:SHOWN]]
    text = _table(
        f"Differences: {layer.title}", ["place", "field", "a", "b", "cause", "package, recipe line"], rows, values=4
    )
    left = len(found) - len(rows)
    text += f"<p>{left:,} more are in the JSON report.</p>" if left else ""
    for finding in found:
        if finding.detail:
            text += f"\n<h3>{escape(finding.place)}</h3>\n<pre>{escape(finding.detail)}</pre>"
    return text


def _row(finding: Mismatch) -> list[str]:
    whose = ", ".join(part for part in (finding.package, finding.origin) if part not in ("", "unknown"))
    return [finding.place, finding.field, finding.a, finding.b, finding.cause.id, whose]


def _variations(variations: Sequence[Variation]) -> str:
    rows = [[one.name, one.a, one.b, "varied" if one.varied else f"not varied: {one.why}"] for one in variations]
    heads = ["what", "leg a", "leg b", "varied?"]
    return _table("Environments of the two builds, as observed by each", heads, rows)


def _digests(report: Report) -> str:
    rows = [[name, *pair] for name, pair in sorted(report.digests.items())]
    return _table("SHA-256", ["file", "a", "b"], rows, values=3)


def _table(title: str, heads: list[str], rows: list[list[str]], *, values: int = 0) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = []
    for row in rows:
        cells = []
        for number, text in enumerate(row):
            kind = ' class="value"' if number < values else ' class="still"' if text.startswith("not varied") else ""
            cells.append(f"<td{kind}>{escape(text)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f"<h2>{escape(title)}</h2>\n<table><thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(body)
        + "\n</tbody></table>"
    )
