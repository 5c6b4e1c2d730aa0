"""A comparison of two images in which every difference that recipe or inputs explain says so.

Only the rest keeps its cause from the table, which is about two builds of one recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from privml.output.artefacts import FIRMWARE, ROOT
from privml.repro.causes import BY_ID, FOLLOWS, INTENDED
from privml.repro.explainer import Explainer
from privml.repro.layers import Layer, Mismatch, Report
from privml.repro.treecomparison import CONFIG

# Bytes of a file that is compared in layers, outside all of them.
_BESIDE = "unexplained-bytes"


def explain(report: Report, explainer: Explainer) -> Report:
    """The report with a cause from recipe or inputs for each difference that has one."""
    found: list[Mismatch] = []
    for finding in report.findings:
        because: tuple[str, ...] = ()
        if finding.field == "presence" and finding.layer is Layer.BYTES:
            because = explainer.presence(finding.place, (finding.a, finding.b))
        elif finding.cause.id != _BESIDE or finding.place in FIRMWARE.values():
            because = explainer.of(finding.place, finding.field, finding.package)
        found.append(replace(finding, cause=INTENDED, because=because) if because else finding)
    return replace(report, findings=tuple(_with_bytes(list(_with_parents(list(_with_keys(found)))))))


def _with_keys(findings: Sequence[Mismatch]) -> Iterable[Mismatch]:
    """The configuration follows from what its keys follow from, if all of them follow from something."""
    keys = [finding for finding in findings if finding.field == "key"]
    because = tuple(dict.fromkeys(why for finding in keys for why in finding.because))
    for finding in findings:
        if not keys or (finding.place, finding.field) != (f"{ROOT}:/{CONFIG}", "content"):
            yield finding
        elif all(finding.because for finding in keys):
            yield replace(finding, cause=INTENDED, because=because)
        else:
            yield replace(finding, cause=BY_ID["explained-above"], because=())


def _with_bytes(findings: Sequence[Mismatch]) -> Iterable[Mismatch]:
    """The bytes of a file follow from what is unexplained in it, if anything is."""
    open_ = {
        finding.place.partition(":")[0]: finding
        for finding in findings
        if not finding.because and finding.cause.id not in FOLLOWS and finding.layer is not Layer.BYTES
    }
    for finding in findings:
        file = finding.place.partition(":")[0]
        undone = finding.because and finding.field == "bytes" and file in open_
        yield replace(finding, cause=BY_ID["explained-above"], because=()) if undone else finding


def _with_parents(findings: Sequence[Mismatch]) -> Iterable[Mismatch]:
    """A directory that exists on one side only is explained by an explained path in it."""
    inside: dict[str, tuple[str, ...]] = {}
    for finding in findings:
        if finding.because and finding.field == "presence" and ":/" in finding.place:
            place = finding.place
            while "/" in (place := place.rpartition("/")[0]):
                inside.setdefault(place, finding.because)
    for finding in findings:
        because = inside.get(finding.place, ())
        alone = not finding.because and finding.field == "presence" and "directory" in (finding.a, finding.b)
        yield replace(finding, cause=INTENDED, because=because) if alone and because else finding
