"""Compare two file trees by path and field, and the measured configuration in them key by key."""

from __future__ import annotations

from collections.abc import Mapping

from privml.base import strictjson
from privml.base.errors import PrivmlError
from privml.output.artefacts import ROOT
from privml.repro.causes import Symptom
from privml.repro.external import LOOKS, Look
from privml.repro.findings import Findings
from privml.repro.layers import Layer
from privml.repro.tree import FileTree
from privml.repro.values import differing_keys

CONFIG = "etc/privml/config.json"
"""The measured configuration in the root."""
Surroundings = Mapping[str, tuple[tuple[str, str], ...]]
"""Values of both builds' environments, by the cause that a difference with them in it has."""
_MAX_CONFIG = 64 << 10


class TreeComparer:
    """Compares trees, and records in ``findings`` what differs.

    ``look`` describes the first differing files in more detail. It does so for a limited number of files over all
    trees, so a comparison of two outputs has one comparer.
    """

    def __init__(self, findings: Findings, surroundings: Surroundings, look: Look | None = None) -> None:
        self._findings = findings
        self._surroundings = surroundings
        self._look = look
        self._looks = 0

    def compare(self, name: str, a: FileTree, b: FileTree) -> None:
        """Compare the trees of both sides in the file ``name``."""
        paths = sorted({*a.entries, *b.entries})
        self._findings.count(Layer.TREE, len(paths))
        for path in paths:
            one, two = a.entries.get(path), b.entries.get(path)
            place = f"{name}:/{path.removeprefix('.')}" if path == "." else f"{name}:/{path}"
            if one is None or two is None:
                values = ["missing" if entry is None else entry.type for entry in (one, two)]
                self._findings.add(
                    Layer.TREE, place, "presence", *values, symptom=Symptom("presence", path, one, two)
                )
                continue
            for what in one.differing(two):
                data = (a.read(path), b.read(path)) if what == "content" else (None, None)
                symptom = Symptom(what, path, one, two, *data, self._surroundings)
                detail = self._looked(a, b, path) if what == "content" and one.type == "file" else ""
                self._findings.add(
                    Layer.TREE, place, what, one.shown(what), two.shown(what), symptom=symptom, detail=detail
                )
                if what == "content" and (name, path) == (ROOT, CONFIG):
                    self._configuration(place, *data)

    def _configuration(self, place: str, a: bytes | None, b: bytes | None) -> None:
        """Compare the measured configuration key by key; a malformed one differs only as a file."""
        try:
            values = [strictjson.loads(data or b"", what=CONFIG, limit=_MAX_CONFIG) for data in (a, b)]
        except PrivmlError:
            return
        for key, one, two in differing_keys(values[0], values[1]):
            self._findings.plain(Layer.TREE, f"{place}:{key}", "key", one, two, "configuration", key)

    def _looked(self, a: FileTree, b: FileTree, path: str) -> str:
        if self._look is None or self._looks >= LOOKS:
            return ""
        self._looks += 1
        with a.file(path) as one, b.file(path) as two:
            return self._look(one, two)
