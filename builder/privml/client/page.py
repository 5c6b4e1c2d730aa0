"""A verdict as an HTML page for a person, which prints on one A4 page, and the page of the guests of a proxy.

A page has no script and refers to nothing outside. What a guest or its host says becomes text only by `base.html`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from privml.base import html
from privml.base.html import Html
from privml.base.times import time_text
from privml.client.pagestyle import STYLE
from privml.client.settled import Settled
from privml.client.stages import remedy
from privml.events import origin, stagetable
from privml.events.registers import REGISTERS
from privml.events.stagetable import StageTable
from privml.evidence.sections import TLS_KEY
from privml.statement.launch import LAYOUTS
from privml.verify.advice import ADVICE
from privml.verify.anchor import Published
from privml.verify.check import CODES
from privml.verify.judgement import Judgement
from privml.verify.measured import Column, Mark, Row, columns
from privml.verify.report import headline
from privml.verify.verdict import Outcome, Refusal, Verdict

_BARS = 1000
_SIGNS = {Mark.EQUAL: "=", Mark.DIFFERS: "\N{NOT EQUAL TO}", Mark.OPEN: "?"}
_WORDS = {Mark.EQUAL: "equal", Mark.DIFFERS: "differs", Mark.OPEN: "not compared"}
_CLASSES = {Mark.EQUAL: "same", Mark.DIFFERS: "differs", Mark.OPEN: "unknown"}
_OUTCOMES = {Outcome.ACCEPTED: "same", Outcome.ACCEPTED_SIMULATED: "simulated", Outcome.REFUSED: "differs"}
_IN_COLUMNS = {
    **{register: register for registers in REGISTERS.values() for register in registers},
    "agent-events": str(LAYOUTS["tdx"].runtime),
}


class Without(StrEnum):
    """Why there is no judgement of a guest."""

    FIRST = "not-verified"
    UNAVAILABLE = "unavailable"
    MALFORMED = "refused"


_WITHOUT = {
    Without.FIRST: ("unknown", "NOT VERIFIED YET"),
    Without.UNAVAILABLE: ("unknown", "NOT AVAILABLE"),
    Without.MALFORMED: ("differs", "REFUSED"),
}


@dataclass(frozen=True)
class Guest:
    """A guest of a proxy as its page shows it.

    ``message`` is the gate's sentence, and ``judgement`` what it is from. Without one, ``without`` says why.
    ``stages`` are what the guest says of its boot, None if it did not answer.
    """

    url: str
    message: str
    judgement: Judgement | None
    without: Without = Without.FIRST
    verified_at: int | None = None
    stages: StageTable | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.removeprefix("https://")


def verdict_page(verdict: Verdict, judgement: Judgement | None, about: str) -> str:
    """The page of one verdict; ``about`` says where and when. ``judgement`` has what was measured."""
    return html.document(verdict.name, [_box(verdict, about), *_verdict_parts(verdict, judgement)], style=STYLE)


def guests_page(guests: Sequence[Guest], *, now: int, refresh: int, receipts: Sequence[Settled] = ()) -> str:
    """The page of a proxy's guests at ``now`` (Unix seconds): one whole, or several under a table.

    ``receipts`` are the last ones that it checked. A browser loads the page again after ``refresh`` seconds.
    """
    names = dict.fromkeys(guest.judgement.verdict.name for guest in guests if guest.judgement is not None)
    end = f'<p class="small">{html.text(f"As of {time_text(now)}. The page is loaded again every {refresh} s.")}</p>'
    if len(guests) == 1:
        parts = [*_guest_parts(guests[0]), _receipts(receipts), end]
        return html.document(next(iter(names), guests[0].address), parts, style=STYLE, refresh=refresh)
    rows = [(guest.address, _word(guest), _said(guest)) for guest in guests]
    parts = [html.table("Guests", ("address", "verdict", "image, or why not"), rows, ("address", "few", "text"))]
    opened = next((guest for guest in guests if _shut(guest)), guests[0])
    for guest in guests:
        attribute = " open" if guest is opened else ""
        summary = html.text(f"{guest.address}: {_word(guest)}")
        inside = "\n".join(part for part in _guest_parts(guest) if part)
        parts.append(f"<details{attribute}><summary>{summary}</summary>\n{inside}\n</details>")
    title = f"{', '.join(names)}: " if names else ""
    return html.document(
        f"{title}{len(guests)} guests", [*parts, _receipts(receipts), end], style=STYLE, refresh=refresh
    )


# -- one guest of a proxy ------------------------------------------------------------------------------------------


def _shut(guest: Guest) -> bool:
    return guest.judgement is None or guest.judgement.verdict.outcome is Outcome.REFUSED


def _word(guest: Guest) -> str:
    if guest.judgement is None:
        return _WITHOUT[guest.without][1]
    return headline(guest.judgement.verdict)


def _said(guest: Guest) -> str:
    if guest.judgement is None:
        return guest.message
    verdict = guest.judgement.verdict
    return ", ".join(dict.fromkeys(refusal.code for refusal in verdict.refusals)) or _named(verdict)


def _guest_parts(guest: Guest) -> Iterator[str]:
    when = "" if guest.verified_at is None else f", verified at {time_text(guest.verified_at)}"
    if guest.judgement is None:
        kind, word = _WITHOUT[guest.without]
        yield _box_of(kind, [word, guest.message, "No prompt is sent to this guest."])
        yield _stages(guest.stages)
        return
    verdict = guest.judgement.verdict
    yield _box(verdict, f"{guest.address}{when}")
    parts = _verdict_parts(verdict, guest.judgement)
    yield next(parts)
    yield _stages(guest.stages)
    yield from parts


def _stages(stages: StageTable | None) -> str:
    if stages is None or not stages.rows:
        return ""
    whole = stages.seconds or 1.0
    at, bars = 0.0, []
    for number, row in enumerate(stages.rows):
        width = (row.seconds or 0.0) / whole * _BARS
        kind = _kind(row)
        tint = "even" if kind == "ok" and number % 2 else kind
        bars.append(f'<rect x="{at:.1f}" y="0" width="{width:.1f}" height="20" class="{tint}"/>')
        at += width
    rows = "".join(f'<li class="{_kind(row)}">{html.text(_stage_words(row))}</li>' for row in stages.rows)
    said = f"ready {stages.seconds:.1f} s after the agent started" if stages.ready else "not ready"
    return (
        "<section><h2>Boot stages</h2>\n"
        f'<svg class="bar" viewBox="0 0 {_BARS} 20" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(bars)}</svg>\n"
        f'<ol class="stages">{rows}</ol>\n'
        f'<p class="small">{html.text(said)}. The guest says this of itself; the verdict does not rest on it.</p>'
        "</section>"
    )


def _receipts(receipts: Sequence[Settled]) -> str:
    if not receipts:
        return ""
    rows = [
        (
            time_text(each.at),
            ", ".join(each.problems) or "accepted",
            each.name,
            each.target,
            each.where.removeprefix("https://"),
        )
        for each in receipts
    ]
    heads = ("checked at", "receipt", "id", "request", "guest")
    return html.table("Last receipts", heads, rows, ("address", "few", "address", "address", "address"))


def _kind(row: stagetable.Row) -> str:
    return row.status if row.status != "ok" or row.seconds is not None else "none"


def _stage_words(row: stagetable.Row) -> str:
    took = f" {row.seconds:.1f} s" if row.seconds is not None else ""
    if row.status in ("ok", "skipped") and not row.detail:
        return f"{row.name}{took or f' {row.status}'}"
    known = remedy(row) if row.status == "failed" else ""
    words = f" ({known})" if known else ""
    return f"{row.name} {row.status}{took}" + (f": {row.detail}{words}" if row.detail else "")


# -- one verdict ---------------------------------------------------------------------------------------------------


def _box(verdict: Verdict, about: str) -> str:
    return _box_of(_OUTCOMES[verdict.outcome], [headline(verdict), _named(verdict), about])


def _named(verdict: Verdict) -> str:
    """The image; what else is known of a published version has rows of its own."""
    variant = f" ({verdict.variant})" if verdict.variant else ""
    anchor = verdict.anchor
    source = f"version {anchor.version}" if isinstance(anchor, Published) else f"against {anchor}"
    return f"{verdict.name}{variant}, {source}{verdict.bound}"


def _box_of(kind: str, lines: Iterable[str]) -> str:
    return f'<div class="verdict {kind}">{"".join(f"<p>{html.text(line)}</p>" for line in lines if line)}</div>'


def _verdict_parts(verdict: Verdict, judgement: Judgement | None) -> Iterator[str]:
    """Facts and reasons together first, so that stages can follow them; then the events."""
    yield "\n".join(part for part in (_reasons(verdict.refusals), _facts(verdict, judgement)) if part)
    if judgement is not None:
        yield _events(columns(judgement))
    if verdict.notes:
        yield _list("Notes", verdict.notes)


def _facts(verdict: Verdict, judgement: Judgement | None) -> Html:
    rows: list[tuple[str, str | Html]] = []
    anchor = verdict.anchor
    if isinstance(anchor, Published):
        rows.append(("version", f"{anchor.version} (serial {anchor.serial}, {anchor.state})"))
        signers = f"{len(anchor.signers)} of {anchor.publishers} publishers, {anchor.threshold} needed"
        rows.append(("signers", _with_digests(signers, anchor.signers)))
        rebuilt = ", ".join(anchor.rebuilders) or "nobody"
        rows.append(("rebuilt by", rebuilt if anchor.rebuilders_asked is not None else "not asked"))
        if anchor.log is not None:
            rows.append(("log", str(anchor.log)))
        if anchor.ci is not None:
            rows.append(("CI", str(anchor.ci)))
    rows += [("model", str(model)) for model in verdict.models]
    rows += [("data", str(data)) for data in verdict.data]
    if verdict.shape:
        rows.append(("machine", verdict.shape))
    if verdict.learnt:
        rows.append(
            ("learnt", f"{', '.join(each.upper() for each in verdict.learnt)}: copied from captures of machines")
        )
    for each in verdict.relaxed:
        rows.append(("relaxed", f"{each.code}: got {each.got}, the default policy expects {each.expected}"))
    if judgement is not None and (keys := judgement.keys) is not None:
        shown = (("TLS key", keys.find(*TLS_KEY)), ("channel key", keys.channel_key))
        rows += [(name, _with_digests("", [key.hex()])) for name, key in shown if key is not None]
    listed = "".join(f"<dt>{html.text(name)}</dt><dd>{html.text(value)}</dd>" for name, value in rows)
    return Html(f"<dl>{listed}</dl>")


def _with_digests(words: str, digests: Iterable[str]) -> Html:
    shown = "".join(f' <span class="digest">{html.text(digest)}</span>' for digest in digests)
    return Html(f"{html.text(words)}{shown}".strip())


def _reasons(refusals: Sequence[Refusal]) -> str:
    if not refusals:
        return ""
    items = "".join(f"<li>{''.join(_reason(refusal))}</li>" for refusal in refusals)
    return f'<section><h2>Reasons</h2>\n<ul class="reasons">{items}</ul></section>'


def _reason(refusal: Refusal) -> Iterator[str]:
    code = f"{refusal.code}: {CODES[refusal.code]}"
    yield f'<p class="code">{html.text(code)}</p>'
    if refusal.code in _IN_COLUMNS:
        # Values and events are in the register's column.
        yield f"<p>{html.text(f'See {_IN_COLUMNS[refusal.code].upper()} below. {ADVICE[refusal.code]}')}</p>"
        return
    yield f"<p>{html.text(f'got {refusal.got}; expected {refusal.expected}')}</p>"
    yield from (f"<p>{html.text(line)}</p>" for line in refusal.where.splitlines())
    yield f"<p>{html.text(ADVICE[refusal.code])}</p>"


def _list(title: str, lines: Iterable[str]) -> str:
    items = "".join(f"<li>{html.text(line)}</li>" for line in lines)
    return f'<section class="small"><h2>{html.text(title)}</h2>\n<ul>{items}</ul></section>'


def _events(found: Sequence[Column]) -> str:
    legend = (
        "= equal to the prediction, \N{NOT EQUAL TO} differs, ? not compared. In brackets the line of the recipe."
    )
    return (
        '<section><h2>Measured events</h2>\n<div class="columns">\n'
        + "\n".join(_column(column) for column in found)
        + f'\n</div>\n<p class="small">{html.text(legend)}</p></section>'
    )


def _column(column: Column) -> str:
    level = "" if column.level is None else f", rule from {column.level.value}"
    rows = "".join(_row(row) for row in column.rows)
    left = f'<p class="small">and {column.left} more</p>' if column.left else ""
    value = [
        f"<p>{html.text(f'{_SIGNS[column.mark]} {_WORDS[column.mark]}{level}')}</p>",
        f'<p class="digest">{html.text(_short_digest(column.got.hex()))}</p>',
    ]
    if column.mark is Mark.DIFFERS:
        wanted = " or ".join(_short_digest(each.hex()) for each in column.accepted)
        value.append(f'<p class="digest">{html.text(f"expected {wanted}")}</p>')
    if column.why:
        value.append(f"<p>{html.text(column.why)}</p>")
    return (
        f"<section><h3>{html.text(column.register.upper())}</h3>\n"
        f'<div class="register {_CLASSES[column.mark]}">{"".join(value)}</div>\n'
        f'<ol class="events">{rows}</ol>{left}</section>'
    )


def _short_digest(digest: str) -> str:
    return f"{digest[:16]}..{digest[-8:]}"


def _row(row: Row) -> str:
    recipe = f' <span class="line">({html.text(row.recipe)})</span>' if row.recipe else ""
    detail = f"<p>{html.text(row.detail)}</p>" if row.detail else ""
    what = html.text(f"{_SIGNS[row.mark]} {origin.short(row.what)}")
    return f'<li class="{_CLASSES[row.mark]}">{what}{recipe}{detail}</li>'
