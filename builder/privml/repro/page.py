"""A comparison of two builds or two images as one HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from privml.base import html
from privml.repro.change import Change, Group, following
from privml.repro.images import ImageDiff
from privml.repro.layers import Layer, Mismatch, Report
from privml.repro.variations import Variation

# A page of 65,536 rows is not useful; the JSON report has all rows, and the page says how many it leaves out.
SHOWN = 500


def page(title: str, report: Report, variations: Sequence[Variation] = (), record: str = "") -> str:
    """The page of one comparison; ``record`` is the text about the record of digests."""
    parts = [_verdict(report)]
    if report.reason is not None:
        parts.append(_first(report.reason))
    if record:
        parts.append(html.pre("Record of digests", record))
    parts.append(_layers(report))
    if report.findings:
        parts.append(_causes(report))
        parts += [_findings(report, layer) for layer in Layer]
    if variations:
        parts.append(_variations(variations))
    return html.document(title, [*parts, _digests(report)])


def diff_page(title: str, found: ImageDiff) -> str:
    """The page of what changed between two images: recipe first, then what follows from it, then the rest."""
    parts = [_outcome(found), _registers(found)]
    if found.notes:
        parts.append(f"<ul>{''.join(f'<li>{html.text(note)}</li>' for note in found.notes)}</ul>")
    open_ = [change for change in found.changes if change.explained is False]
    parts.append(_changes("Unexplained: no change of recipe or lock leads to it", open_))
    for group in Group:
        of = [change for change in found.changes if change.group is group and change.explained is not False]
        parts.append(_changes(_heading(group.title), of))
    parts.append(_layers(found.report))
    parts += [_fields(name, of) for name, of in _documents(found.report.findings).items()]
    parts += [html.pre(finding.place, finding.detail) for finding in found.report.findings if finding.detail]
    return html.document(title, [*parts, _digests(found.report)])


# -- two builds of one recipe ----------------------------------------------------------------------------------------


def _verdict(report: Report) -> str:
    if report.equal:
        return '<p class="verdict same">Equal, byte for byte.</p>'
    first = report.first.title if report.first else "nothing was compared"
    number = len(report.findings)
    return f'<p class="verdict differs">{number:,} differences; the first layer that differs: {html.text(first)}.</p>'


def _first(finding: Mismatch) -> str:
    """The first difference to look at: where, why, from which package, and how to fix it."""
    rows = [
        ("layer", finding.layer.title), ("place", finding.place), ("field", finding.field), ("a", finding.a),
        ("b", finding.b), ("cause", f"{finding.cause.cause} ({finding.cause.id})"), ("fix", finding.cause.fix),
        ("package", finding.package), ("recipe line", finding.origin or "unknown"),
    ]  # fmt: skip
    items = "\n".join(f"<dt>{html.text(name)}</dt><dd>{html.text(text)}</dd>" for name, text in rows)
    return f"<h2>Look here first</h2>\n<dl>\n{items}\n</dl>"


def _layers(report: Report) -> str:
    rows = []
    for layer in Layer:
        number = sum(finding.layer is layer for finding in report.findings)
        rows.append([layer.title, f"{report.compared.get(layer, 0):,}", f"{number:,}"])
    notes = "".join(f"<li>{html.text(note)}</li>" for note in report.notes)
    table = html.table("Layers, measured ones first", ["layer", "compared", "differences"], rows, ["", "", ""])
    return table + (f"<ul>{notes}</ul>" if notes else "")


def _causes(report: Report) -> str:
    table = {finding.cause.id: finding.cause for finding in report.findings}
    rows = [[name, f"{count:,}", table[name].cause, table[name].fix] for name, count in report.causes()]
    return html.table("Causes", ["id", "times", "cause", "fix"], rows, ["", "", "text", "text"])


def _findings(report: Report, layer: Layer) -> str:
    found = [finding for finding in report.findings if finding.layer is layer]
    documents = _documents(found)
    own = [finding for finding in found if finding not in [one for of in documents.values() for one in of]]
    rows = [_row(finding) for finding in own[:SHOWN]]
    heads = ["place", "field", "a", "b", "cause", "package, recipe line"]
    text = html.table(f"Differences: {layer.title}", heads, rows, _VALUES, left=len(own) - len(rows)) if rows else ""
    parts = [text, *(_fields(name, of) for name, of in documents.items())]
    parts += [html.pre(finding.place, finding.detail) for finding in found if finding.detail]
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
    table = html.table(f"Fields of {name}", ["field", "a", "b"], rows, ["value"] * 3, left=left, level=0)
    return f"<details><summary>{html.text(name)}: {len(findings):,} field{plural}</summary>\n{table}</details>"


_VALUES = ["value", "value", "value", "value", "", ""]


def _row(finding: Mismatch) -> list[str]:
    whose = ", ".join(part for part in (finding.package, finding.origin) if part not in ("", "unknown"))
    return [finding.place, finding.field, finding.a, finding.b, finding.cause.id, whose]


def _variations(variations: Sequence[Variation]) -> str:
    rows = [[one.name, one.a, one.b, "varied" if one.varied else f"not varied: {one.why}"] for one in variations]
    kinds = [["", "text", "text", "text" if one.varied else "text still"] for one in variations]
    heads = ["what", "leg a", "leg b", "varied?"]
    return html.table("Environments of the two builds, as observed by each", heads, rows, *kinds)


def _digests(report: Report) -> str:
    rows = [[name, *pair] for name, pair in sorted(report.digests.items())]
    return html.table("SHA-256", ["file", "a", "b"], rows, ["value"] * 3)


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
    return html.table("Registers that move", ["register", "why"], rows, ["", "text"])


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
    return html.table(title, heads, rows, kinds, left=len(changes) - len(rows))


def _effect(change: Change) -> str:
    return change.effect() if change.certain else f"perhaps {change.effect()}"
