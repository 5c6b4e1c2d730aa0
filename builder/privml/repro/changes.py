"""List what changed between two images in terms of the recipe, and which registers move."""

from __future__ import annotations

from collections.abc import Iterable

from privml.events.volumes import KINDS, slot_of
from privml.output.artefacts import FIRMWARE, ROOT, UKI
from privml.output.manifest import Manifest
from privml.repro.causes import FOLLOWS, INTENDED
from privml.repro.change import BY_CONFIG, BY_UKI, KEY, SUPERBLOCK, Change, limited
from privml.repro.explainer import Explainer
from privml.repro.layers import Layer, Mismatch, Report
from privml.repro.treecomparison import CONFIG

_ROOT_ARGUMENT = "privml.root"
# Fields of a verity superblock that are also in the parameters that the guest opens the volume with.
_PARAMETERS = {"salt": "salt", "data blocks": "data_blocks"}
_CONSEQUENCES = FOLLOWS | {INTENDED.id}


def changes(a: Manifest, b: Manifest, report: Report, explainer: Explainer | None = None) -> tuple[Change, ...]:
    """All changes from ``a`` to ``b``; ``report`` is the comparison of their directories.

    With an ``explainer``, each change says what it follows from.
    """
    found = [*package_changes(a, b, explainer), *_options(a, b, explainer)]
    times = []
    for finding in report.findings:
        field, inside = finding.field, finding.place.partition(":")[2]
        if finding.layer is Layer.TREE and field == "key":
            found.append(_of(finding, KEY, inside.removeprefix(f"/{CONFIG}:"), explainer))
        elif finding.layer is Layer.TREE and field == "mtime" and finding.because:
            times.append(finding)
        elif finding.layer is Layer.TREE and not finding.place.startswith("manifest.json:"):
            found.append(_file(finding, explainer))
        elif finding.layer is Layer.UKI and finding.place != "uki.efi:.cmdline":
            found.append(_of(finding, "UKI section", inside, explainer))
        elif field == "erofs" or (field == "verity" and inside.count(":")):
            found.append(_superblock(finding, a, b, explainer))
        elif finding.layer is not Layer.TREE and finding.cause.id not in _CONSEQUENCES and field != "verity":
            found.append(_of_output(finding, explainer))
    if times:
        first = times[0]
        found.append(_of(first, "file", f"times of {len(times):,} files and directories", explainer))
    for kind, name, before, after, place, field in (
        ("root hash", ROOT, a.root.root_hash.hex(), b.root.root_hash.hex(), f"{ROOT}:root_hash", "verity"),
        *_volumes(a, b),
        ("measured configuration", "config.json", a.config_sha256, b.config_sha256, f"{ROOT}:/{CONFIG}", "content"),
        *_firmware(a, b),
    ):
        if before != after:
            change = Change(kind, name, before, after)
            tees = [tee for tee, file in FIRMWARE.items() if file == name]
            (change,) = limited([change], tees) if tees else (change,)
            found.append(_explained(change, explainer, place, field))
    # Consequences whose cause is not listed are listed themselves.
    return tuple(found or (_of_output(finding, explainer) for finding in report.findings))


def moved(report: Report) -> tuple[str, ...] | None:
    """The registers whose predictions differ on a machine that both predict; None if there is no such machine."""
    findings = [finding for finding in report.findings if _is_register(finding)]
    common = [finding for finding in findings if "none" not in (finding.a, finding.b)]
    if report.compared.get(Layer.REGISTERS, 0) == len(findings) - len(common):
        return None
    return tuple(sorted({finding.place.rpartition(", ")[2] for finding in common}))


def _is_register(finding: Mismatch) -> bool:
    return finding.layer is Layer.REGISTERS and finding.field == "value"


def _volumes(a: Manifest, b: Manifest) -> Iterable[tuple[str, str, str, str, str, str]]:
    """Each volume of models and data by its file, with the root hash of both sides."""
    tables = [{each.volume: each for each in side.filled} for side in (a, b)]
    for volume in sorted({*tables[0], *tables[1]}, key=_order):
        entries = [table.get(volume) for table in tables]
        before, after = ("absent" if each is None else each.verity.root_hash.hex() for each in entries)
        kind = next(each.kind for each in entries if each is not None)
        yield f"{kind.name} volume", volume, before, after, f"{volume}:root_hash", "verity"


def _order(volume: str) -> tuple[int, int]:
    """The place of a volume in the order of an image."""
    slot = slot_of(volume)
    assert slot is not None, "the manifest was checked"
    return KINDS.index(slot.kind), slot.number


def _firmware(a: Manifest, b: Manifest) -> Iterable[tuple[str, str, str, str, str, str]]:
    """The firmware's file for each TEE of either image, with both digests."""
    for name in sorted({one.file for each in (a, b) for one in each.firmware.values()}):
        before, after = (each.artefacts[name].sha256 if name in each.artefacts else "absent" for each in (a, b))
        yield "firmware", name, before, after, name, "bytes"


def package_changes(a: Manifest, b: Manifest, explainer: Explainer | None = None) -> Iterable[Change]:
    """The packages that differ between two manifests and are not among the explainer's sources."""
    tables = [{row.name: (row.version, row.sha256) for row in manifest.packages} for manifest in (a, b)]
    for name in sorted({*tables[0], *tables[1]}):
        one, two = (table.get(name) for table in tables)
        if one != two and (explainer is None or not explainer.knows_package(name)):
            before, after = ("not installed" if row is None else row[0] for row in (one, two))
            if before == after:
                after = f"{after}, different bytes"
            change = Change("package", name, before, after)
            yield _explained(change, explainer, f"manifest.json:packages/{name}", "package")


def _options(a: Manifest, b: Manifest, explainer: Explainer | None) -> Iterable[Change]:
    words = [manifest.cmdline.split() for manifest in (a, b)]
    tables = [{word.partition("=")[0]: word for word in row} for row in words]
    for key in sorted({*tables[0], *tables[1]}):
        before, after = (table.get(key, "absent") for table in tables)
        if key == _ROOT_ARGUMENT and a.root != b.root:
            continue  # the root hash says it
        if before != after:
            place = f"{UKI}:.cmdline:{key}"
            yield _explained(Change("kernel option", key, before, after), explainer, place, "section")
    if words[0] != words[1] and sorted(words[0]) == sorted(words[1]):
        change = Change("kernel option", "order", "the same words", "in a different order")
        yield _explained(change, explainer, f"{UKI}:.cmdline:order", "section")


def _explained(change: Change, explainer: Explainer | None, place: str, field: str) -> Change:
    return change if explainer is None else change.following(explainer.of(place, field))


def _of(
    finding: Mismatch, kind: str, name: str, explainer: Explainer | None, registers: tuple[str, ...] | None = None
) -> Change:
    change = Change(kind, name, finding.a, finding.b, registers)
    return change if explainer is None else change.following(finding.because, finding.cause)


def _of_output(finding: Mismatch, explainer: Explainer | None) -> Change:
    return _of(finding, "output", f"{finding.place} {finding.field}", explainer)


def _superblock(finding: Mismatch, a: Manifest, b: Manifest, explainer: Explainer | None) -> Change:
    """A field of a file system's or verity superblock, which moves what the volume it lies in moves.

    The file system is hashed. The verity superblock is not, and the guest does not read it: only what is also one of
    the volume's parameters moves a register.
    """
    volume, _, inside = finding.place.partition(":")
    registers = BY_UKI if volume == ROOT else BY_CONFIG
    if finding.field == "verity":
        parameter = _PARAMETERS.get(inside.rpartition(":")[2], "")
        values = [{ROOT: each.root} | {one.volume: one.verity for one in each.filled} for each in (a, b)]
        one, two = (getattr(table.get(volume), parameter, None) for table in values)
        registers = registers if one != two else ()
    return _of(finding, SUPERBLOCK, f"{volume} {inside} ({finding.field})", explainer, registers)


def _file(finding: Mismatch, explainer: Explainer | None) -> Change:
    kind = "initrd file" if finding.place.startswith("uki.efi:") else "file"
    volume = finding.place.partition(":")[0]
    if (slot := slot_of(volume)) is not None:
        kind = f"{slot.kind.name} file"
    owner = f" ({finding.package})" if finding.package != "unknown" else ""
    name = finding.place.partition(":")[2].removeprefix(".initrd:")
    return _of(finding, kind, f"{name}{owner} {finding.field}", explainer)
