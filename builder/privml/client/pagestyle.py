"""The style of the pages of `client.page`: on a screen, on a small one, in the dark, and on one sheet of A4."""

from __future__ import annotations

from privml.base import html

STYLE = """
.verdict p { margin: 0; font-size: .95rem; } .verdict p:first-child { font-size: 1.2rem; font-weight: 600; }
.simulated { border-color: #8a4b00; background: #fdf3e0; } .unknown { border-color: #767676; background: #f2f2f2; }
.digest { font-family: ui-monospace, monospace; font-size: .9em; overflow-wrap: anywhere; }
.address { font-family: ui-monospace, monospace; font-size: .85rem; white-space: nowrap; }
.small { font-size: .85rem; color: #555; margin: .3rem 0; } .small ul { margin: .3rem 0; padding-left: 1.2rem; }
.reasons { padding: 0; list-style: none; margin: .6rem 0 1rem; }
.reasons li { border-left: .25rem solid #b42318; padding: 0 .8rem; margin: .7rem 0; break-inside: avoid; }
.reasons p { margin: .1rem 0; overflow-wrap: anywhere; } .reasons .code { font-weight: 600; }
dd { overflow-wrap: anywhere; }
.columns { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: .8rem; margin: .6rem 0; }
.columns h3 { margin: 0; overflow: visible; } .columns section { min-width: 0; } .columns p { margin: 0; }
.events { list-style: none; margin: 0; padding: 0; font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; }
.register { font-size: .8rem; line-height: 1.4; overflow-wrap: anywhere; }
.events li, .register { border-left-width: .25rem; border-left-style: solid; padding: .15rem .5rem; margin: .2rem 0; }
.events .line { color: #555; font-size: .92em; }
.bar { display: block; width: 100%; height: .9rem; } .bar rect { stroke: #fff; stroke-width: 2; }
.bar .ok { fill: #1a7f37; } .bar .even { fill: #57a773; } .bar .failed { fill: #b42318; }
.bar .warning { fill: #c77700; } .bar .skipped, .bar .pending { fill: #b8b8b8; }
.bar .running { fill: #1f5fa8; }
.stages { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: .4rem 0; padding: 0; }
.stages .failed { color: #b42318; font-weight: 600; flex-basis: 100%; }
.stages .pending, .stages .skipped { color: #666; }
@media (max-width: 48rem) { .columns { display: block; } .columns section { margin-bottom: 1.2rem; } }
@media screen and (prefers-color-scheme: dark) {
  .simulated { background: #33260c; border-color: #f0b060; }
  .unknown { background: #262626; border-color: #8a8a8a; }
  .small, .events .line, .stages .pending, .stages .skipped { color: #b0b0b0; } .bar rect { stroke: #161616; }
  .same { border-color: #57a773; } .differs, .reasons li { border-color: #f07167; }
  .stages .failed { color: #f28b82; }
  .bar .failed { fill: #f07167; }
}
@page { size: A4; margin: 9mm; }
@media print {
  body { margin: 0; padding: 0; max-width: none; font-size: 7.5pt; line-height: 1.3; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h1 { font-size: 12pt; } h2, .verdict p:first-child { font-size: 9pt; } h3 { font-size: 8pt; }
  .verdict { margin: 1mm 0; padding: 1mm 3mm; } .verdict p, .small { font-size: 7pt; } .small { margin: .5mm 0; }
  .small ul { columns: 2; column-gap: 8mm; margin: .5mm 0; }
  dl { display: grid; gap: 0 2mm; margin: 1mm 0; } dd { margin: 0; } dd .digest { font-size: 6pt; }
  .columns { display: grid; gap: 2mm; margin: .5mm 0; }
  .events, .register { font-size: 6pt; line-height: 1.2; }
  .events li, .register { margin: .5mm 0; padding: .2mm 1.2mm; border-left-width: .7mm; break-inside: avoid; }
  .events p { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 6; overflow: hidden; }
  .columns section { margin: 0; } .reasons { columns: 2; margin: .5mm 0; font-size: 6.5pt; line-height: 1.2; }
  .reasons li { margin: 0 0 .8mm; padding: 0 1.5mm; border-left-width: .7mm; } .reasons p { margin: 0; }
  .bar { height: 2mm; } .stages { margin: .5mm 0; gap: 0 3mm; } .scroll { margin: 1mm 0; overflow: visible; }
  th, td { padding: .2mm 1mm; min-width: 0; font-size: 6.5pt; }
  details { margin: 1mm 0; padding: .5mm 2mm; } details .small { display: none; } .address { font-size: 6pt; }
}
"""

POLICY = html.policy(STYLE)
"""The Content-Security-Policy of these pages."""
