"""A recording: the real output of `make demo`, kept as text and drawn as a terminal."""

from __future__ import annotations

import re
import textwrap
from xml.sax.saxutils import escape

_COLUMNS = 112
_LINE, _CHARACTER = 17, 7.25
_PAPER, _TEXT = "#16181d", "#d7dce2"
_COLOURS = (
    (r"^\$ ", "#9ecbff"),
    (r"^== ", "#ffffff"),
    (r"bytes sent: 0 ", "#8fdca4"),
    (r"refused|got ", "#ff9a9a"),
    (r"accepted", "#8fdca4"),
)
# What is another one in every run.
_CHANGES = (
    (r"\b[0-9a-f]{16,}\b", "DIGEST"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    (r"\bin \d+ s\b", "in N s"),
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
    (r"\b\d+ bytes\b", "N bytes"),
    (r"(?m)^(  The capital of France is)'.*'$", r"\1 ANSWER"),  # the demo itself looks for Paris in it
)


def comparable(text: str) -> str:
    """``text`` without the parts that vary between runs: digests, ports, times, byte counts."""
    for pattern, word in _CHANGES:
        text = re.sub(pattern, word, text)
    return text.strip()


def draw(text: str) -> str:
    """The SVG of a terminal that shows the command and ``text``, its output."""
    lines = [
        part
        for line in ["$ make demo", *text.strip().splitlines()]
        for part in textwrap.wrap(line, _COLUMNS, subsequent_indent="      ", drop_whitespace=False) or [""]
    ]
    width, height = int(_COLUMNS * _CHARACTER) + 32, len(lines) * _LINE + 32
    rows = "\n".join(
        f'<text x="16" y="{30 + number * _LINE}" fill="{_colour(line)}" xml:space="preserve">{escape(line)}</text>'
        for number, line in enumerate(lines)
        if line
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12" role="img">\n'
        "<title>make demo</title>\n"
        f'<rect width="{width}" height="{height}" rx="8" fill="{_PAPER}"/>\n{rows}\n</svg>\n'
    )


def _colour(line: str) -> str:
    return next((colour for pattern, colour in _COLOURS if re.search(pattern, line)), _TEXT)
