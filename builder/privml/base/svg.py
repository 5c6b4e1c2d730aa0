"""A small SVG writer: boxes, arrows and text with fixed colours, so that equal input gives equal bytes.

A picture inside an HTML page takes its colours from the page's style (`THEME`), which may be light or dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

PALE = "#f2f4f7"
BLUE = "#dbe9fb"
GREEN = "#ddf2e3"
AMBER = "#fdeecb"
RED = "#fbdcdc"
INK = "#1f2933"
GREY = "#52606d"
PAPER = "#ffffff"
THEME: Mapping[str, tuple[str, str]] = {
    PALE: ("pale", "#2b3038"),
    BLUE: ("blue", "#1b3a5f"),
    GREEN: ("green", "#16452a"),
    AMBER: ("amber", "#553f0c"),
    RED: ("red", "#5a1f1f"),
    INK: ("ink", "#e8e8e8"),
    GREY: ("grey", "#9aa5b1"),
    PAPER: ("paper", "#161616"),
}
"""Each colour's name in a page's style (``--svg-NAME``), and its counterpart on dark paper."""
_LINE = 16


class Picture:
    """One picture. Shapes are drawn in the order of the calls; coordinates are pixels from the top left.

    One that is ``inside`` an HTML page has the page's colours.
    """

    def __init__(self, width: int, height: int, title: str, *, inside: bool = False) -> None:
        self.width, self.height = width, height
        self._inside = inside
        self._title = title
        self._parts: list[str] = []

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        lines: Sequence[str],
        fill: str = PALE,
        *,
        bold: bool = True,
    ) -> None:
        """A rounded box with its lines of text in the middle, the first one bold."""
        self._parts.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="6" '
            f'fill="{self._paint(fill)}" stroke="{self._paint(GREY)}"/>'
        )
        top = y + height / 2 - (len(lines) - 1) * _LINE / 2 + 4
        for number, line in enumerate(lines):
            self.text(x + width / 2, top + number * _LINE, line, bold=bold and number == 0)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        bold: bool = False,
        anchor: str = "middle",
        size: int = 12,
        fill: str = INK,
    ) -> None:
        """One line of text whose anchor is at ``x`` and whose base line is at ``y``."""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-size="{size}" '
            f'fill="{self._paint(fill)}"{weight}>'
            f"{escape(text)}</text>"
        )

    def line(
        self, points: Sequence[tuple[float, float]], *, arrow: bool = True, dashed: bool = False, stroke: str = GREY
    ) -> None:
        """A line through ``points``, with an arrow at its end."""
        path = "M" + " L".join(f"{x:.0f} {y:.0f}" for x, y in points)
        more = (' marker-end="url(#a)"' if arrow else "") + (' stroke-dasharray="5 4"' if dashed else "")
        colour = self._paint(stroke)
        self._parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.3"{more}/>')

    def _paint(self, colour: str) -> str:
        return f"var(--svg-{THEME[colour][0]})" if self._inside else colour

    def render(self) -> str:
        """The SVG file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" font-family="system-ui, Helvetica, Arial, sans-serif" role="img">\n'
            f"<title>{escape(self._title)}</title>\n"
            '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            f'<path d="M0 0 L8 4 L0 8 z" fill="{self._paint(GREY)}"/></marker></defs>\n'
            f'<rect width="{self.width}" height="{self.height}" fill="{self._paint(PAPER)}"/>\n'
        )
        return head + "\n".join(self._parts) + "\n</svg>\n"
