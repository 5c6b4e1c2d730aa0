"""What changed from one image to another, in the words of whoever changed it, and which registers that moves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from privml.image.manifest import Manifest
from privml.repro.layers import Finding, Layer, Report

# Through the root hash on the command line, which is in the UKI: its file is in RTMR1, its sections are in RTMR2.
_BY_UKI = ("rtmr1", "rtmr2")
_BY_CONFIG = ("rtmr1", "rtmr2", "rtmr3")
MOVES: dict[str, tuple[str, ...]] = {
    "package": _BY_UKI,
    "file": _BY_UKI,
    "initrd file": _BY_UKI,
    "kernel option": _BY_UKI,
    "UKI section": _BY_UKI,
    "root hash": _BY_UKI,
    "model": _BY_CONFIG,
    "measured configuration": _BY_CONFIG,
    "firmware": ("mrtd", "rtmr0"),
}


@dataclass(frozen=True)
class Change:
    """One change: what kind of thing, which, from what to what."""

    kind: str
    name: str
    before: str
    after: str

    @property
    def moves(self) -> tuple[str, ...]:
        """The registers that a change of this kind moves."""
        return MOVES[self.kind]

    def text(self) -> str:
        """One line for a person."""
        return f"{self.kind} {self.name}: {self.before} -> {self.after} [moves {', '.join(self.moves)}]"

    def to_dict(self) -> dict[str, object]:
        """The JSON object."""
        return {
            "kind": self.kind,
            "name": self.name,
            "before": self.before,
            "after": self.after,
            "moves": list(self.moves),
        }


def changes(a: Manifest, b: Manifest, report: Report) -> tuple[Change, ...]:
    """All changes from ``a`` to ``b``; ``report`` is the comparison of their directories."""
    found = [*_packages(a, b), *_options(a, b)]
    for finding in report.findings:
        if finding.layer is Layer.TREE and not finding.place.startswith("manifest.json:"):
            found.append(_file(finding))
        elif finding.layer is Layer.UKI and finding.place != "uki.efi:.cmdline":
            found.append(Change("UKI section", finding.place.partition(":")[2], finding.a, finding.b))
    facts = (
        ("root hash", "root.raw", a.root.root_hash, b.root.root_hash),
        ("model", *_models(a, b)),
        ("measured configuration", "config.json", a.config_sha256, b.config_sha256),
        ("firmware", "firmware.fd", a.artefacts["firmware.fd"].sha256, b.artefacts["firmware.fd"].sha256),
    )
    found += [Change(kind, name, before, after) for kind, name, before, after in facts if before != after]
    return tuple(found)


def moved(report: Report) -> tuple[str, ...] | None:
    """The registers whose predicted values differ on a machine that both are predicted for; None without such one."""
    told = [finding for finding in report.findings if finding.cause.fields == ("register",)]
    common = [finding for finding in told if "none" not in (finding.a, finding.b)]
    if report.compared.get(Layer.REGISTERS, 0) == len(told) - len(common):
        return None
    return tuple(sorted({finding.place.rpartition(", ")[2] for finding in common}))


def _models(a: Manifest, b: Manifest) -> tuple[str, str, str]:
    """The model's name, as either has it, and both root hashes."""
    names = [manifest.model.name for manifest in (b, a) if manifest.model is not None]
    before, after = (
        manifest.model.verity.root_hash if manifest.model is not None else "absent" for manifest in (a, b)
    )
    return names[0] if names else "none", before, after


def _packages(a: Manifest, b: Manifest) -> Iterable[Change]:
    tables = [{row[0]: (row[1], row[3]) for row in manifest.packages} for manifest in (a, b)]
    for name in sorted({*tables[0], *tables[1]}):
        one, two = (table.get(name) for table in tables)
        if one != two:
            before, after = ("not installed" if row is None else row[0] for row in (one, two))
            if before == after:
                after = f"{after}, other bytes"
            yield Change("package", name, before, after)


def _options(a: Manifest, b: Manifest) -> Iterable[Change]:
    words = [manifest.cmdline.split() for manifest in (a, b)]
    tables = [{word.partition("=")[0]: word for word in row} for row in words]
    for key in sorted({*tables[0], *tables[1]}):
        before, after = (table.get(key, "absent") for table in tables)
        if before != after:
            yield Change("kernel option", key, before, after)
    if words[0] != words[1] and sorted(words[0]) == sorted(words[1]):
        yield Change("kernel option", "order", "the same words", "in another order")


def _file(finding: Finding) -> Change:
    kind = "initrd file" if finding.place.startswith("uki.efi:") else "file"
    if finding.place.startswith("model.raw:"):
        kind = "model"
    owner = f" ({finding.package})" if finding.package != "unknown" else ""
    name = finding.place.partition(":")[2].removeprefix(".initrd:")
    return Change(kind, f"{name}{owner} {finding.field}", finding.a, finding.b)
