"""The page of a field test: per register what was found and what to change. No script, nothing from outside."""

from __future__ import annotations

from tests.field.record import BUNDLE, FILES, PREDICTED, Report, Row

from privml.base import html
from privml.base.html import Html

_GIB = 1 << 30


def page(report: Report) -> str:
    """The whole page."""
    return html.document(
        "privml-build field test",
        [
            _verdict(report),
            _registers(report),
            html.table(
                "Steps",
                ["step", "result", "seconds", "exit", "what it said"],
                [
                    [step.name, step.result, str(step.seconds), _or(step.status), step.detail or "-"]
                    for step in report.steps
                ],
                ["few", "few", "", "", "text"],
            ),
            _rows("The host, rung by rung (`doctor --tdx`)", "rung", report.rungs),
            _rows("The guest's stages, not authenticated (`/boot-stages`)", "stage", report.stages),
            html.table("Bench", ["what", "milliseconds"], [[name, f"{ms:,}"] for name, ms in report.bench.items()])
            if report.bench
            else "",
            html.table(
                "Files in the archive",
                ["file", "bytes", "SHA-256", "what"],
                [
                    [name, f"{report.files[name][1]:,}", report.files[name][0], FILES[name]]
                    for name in FILES
                    if name in report.files
                ],
                ["few", "", "value", "text"],
            )
            if report.files
            else "",
            Html(
                "<p>The quote's certificate identifies the CPU package (PPID) and its kind (FMSPC); evidence of GPUs "
                "identifies them. Nothing else in the archive names this machine, its owner or its users.</p>"
                if BUNDLE in report.files
                else ""
            ),
        ],
    )


def headline(report: Report) -> str:
    """The verdict in one line."""
    named = "SIMULATION, no evidence of hardware: " if report.simulated else ""
    if not report.registers:
        why = next((step for step in report.steps if step.result != "passed" and step.name != "doctor"), None)
        return f"{named}no register was quoted{f' ({why.name}: {why.detail})' if why else ''}"
    wrong = [row for row in report.registers if row.verdict != PREDICTED]
    if wrong:
        return f"{named}{len(wrong)} of {len(report.registers)} registers differ: " + ", ".join(
            f"{row.name.upper()} {row}" for row in wrong
        )
    return f"{named}all {len(report.registers)} registers are the predicted ones"


def _verdict(report: Report) -> Html:
    kind = (
        "same"
        if report.equal and not report.simulated
        else "differs"
        if report.registers and not report.equal
        else "wanted"
    )
    machine = report.machine
    rows = [("tool", f"privml-build {report.tool}"), ("quote", report.origin or "none")]
    if machine is not None:
        rows += [
            ("image", f"{machine.image} ({machine.variant}), manifest {machine.manifest}"),
            ("platform", machine.platform),
            ("size", f"{machine.vcpus} vCPUs, {machine.memory / _GIB:g} GiB"),
        ]
    facts = "".join(f"<dt>{html.text(name)}</dt><dd>{html.text(value)}</dd>" for name, value in rows)
    return Html(f'<p class="verdict {kind}">{html.text(headline(report))}</p>\n<dl>{facts}</dl>')


def _registers(report: Report) -> Html:
    if not report.registers:
        return Html("")
    rows = [[row.name.upper(), str(row), row.change or "-", row.difference or "-"] for row in report.registers]
    values = [[row.name.upper(), row.quoted, " or ".join(row.accepted)] for row in report.registers]
    found = html.table(
        "Registers",
        ["register", "verdict", "platform line to change", "first difference"],
        rows,
        *[["few", "few" if row[1] == PREDICTED else "few open", "text", "text"] for row in rows],
    )
    folded = html.table("Values", ["register", "quoted", "predicted"], values, ["few", "value", "value"], level=0)
    return Html(f"{found}\n<details><summary>Values</summary>{folded}</details>")


def _rows(title: str, head: str, rows: tuple[Row, ...]) -> Html:
    if not rows:
        return Html("")
    found = [[row.name, row.status, row.detail or "-"] for row in rows]
    return html.table(title, [head, "status", "what was found"], found, ["few", "", "text"])


def _or(status: int | None) -> str:
    return "-" if status is None else str(status)
