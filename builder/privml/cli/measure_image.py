"""`measure` of an image: predict its registers, and compare with a boot, a capture or another tool."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from privml.base.errors import Differs, UsageError
from privml.base.steps import say, step
from privml.cli.output import print_json, show
from privml.events.event import Evidence, seen_words
from privml.events.registers import MRTD, RTMR3
from privml.evidence.tdx.claims import TEE
from privml.image import madeby
from privml.image.target import Target, recipes_directory, resolve
from privml.image.workplace import Workplace
from privml.machine.matrix import asked_shapes
from privml.machine.platform import Platform, Size
from privml.measure import firmware, gpt, uki
from privml.output.artefacts import check_artefacts
from privml.output.manifest import Manifest
from privml.output.prediction import write_prediction
from privml.readers import files
from privml.readers import replay as replays
from privml.recipe.gceplatform import GcePlatformFile
from privml.recipe.loader import load_any_platform
from privml.recipe.platform import SNP
from privml.statement.launch import BOUND, HASHED, OPEN, MeasuredLaunch, SnpMachine
from privml.statement.predicate import Predicate
from privml.store.objects import Store
from privml.vm import bootdisk, crosscheck, foreign
from privml.vm.bench import Bench
from privml.vm.compared import ComparedBoot
from privml.vm.platforms import place_of, platform_named
from privml.vm.platforms import platform as load_platform
from privml.vm.predicted import MachinePredictor, gce_launches, predicate_of, predict_image

_ORDERS = ("single_pass", "two_pass")
_STARTS = {
    BOUND: "starts this image's kernel only",
    HASHED: "checks the kernel, but could start other programs",
    OPEN: "covers no kernel",
}


def measure_image(
    target: str,
    *,
    vcpus: str | None,
    memory: str | None,
    boot: bool,
    disk: bool,
    platform: str | None,
    tee: str | None,
    disk_file: Path | None,
    qemu: Path | None,
    replay: Path | None,
    cross_check: bool,
    events: bool,
    as_json: bool,
) -> None:
    """What `measure TARGET` does when TARGET is an image; the arguments are the verb's options."""
    alone = vcpus is not None and memory is None
    shapes = asked_shapes(vcpus, memory, memory_counts=tee != SNP and not alone)
    found = resolve(target)
    manifest = found.manifest()
    if alone and tee != SNP and not _of_snp(found, manifest, platform):
        raise UsageError(
            "a shape needs both --vcpus and --memory",
            hint="--tee snp predicts SNP guests only, which need no --memory",
        )
    if manifest.boot_disk is not None and (disk or cross_check):
        what = "--disk is for images with `boot: direct`" if disk else "--cross-check compares direct boots"
        raise UsageError(f"{manifest.name} boots from its own disk: {what}", hint="leave the option out")
    if replay is not None:
        _replay(found.directory, manifest, replay, as_json=as_json)
        return
    learnt = None if platform is None else _of_cloud(platform, recipes_directory(found))
    if learnt is not None:
        if boot or (disk_file is None and manifest.boot_disk is None):
            raise UsageError(
                f"platform {learnt.name}: a machine of Google, which boots from a disk that nothing here can start",
                hint="build the image with `boot: disk`, or name a disk with --disk-file; and leave out --boot",
            )
        check_artefacts(found.directory, manifest.artefacts)
        launches = gce_launches(learnt, Store(), found.directory, manifest, shapes, disk=disk_file)
        _show(predicate_of(manifest, launches), shapes, events=events, as_json=as_json)
        return
    if disk_file is not None:
        raise UsageError(f"--disk-file needs a platform of Google Compute Engine, and {platform} is a QEMU's")
    place = Workplace()
    other = None if platform is None else platform_named(platform, recipes_directory(found), manifest)
    if boot and other is not None and other.tee == SNP:
        raise UsageError(
            f"platform {other.name}: an SNP guest cannot be started here, so no boot can be compared",
            hint="leave out --boot to predict it",
        )
    if boot:
        _boots(place, found, manifest, shapes or manifest.shapes[:1], (other, qemu), disk=disk, as_json=as_json)
        return
    if cross_check:
        _cross_check(place, found, manifest, shapes or manifest.shapes, as_json=as_json)
        return
    tools = place.tools_of(found)
    with step("Predicting"):
        predicate = predict_image(
            tools,
            place.store.root,
            found.directory,
            manifest,
            recipes_directory(found),
            shapes,
            [] if other is None else [other],
            tee=tee,
        )
    if not shapes and other is None and tee is None:
        say(f"wrote {write_prediction(found.directory, manifest, predicate)}")
    _show(predicate, shapes, events=events, as_json=as_json)


def _of_snp(found: Target, manifest: Manifest, platform: str | None) -> bool:
    """Whether the guests of ``platform``, or of all of the image's, are SNP guests, whose memory is not measured."""
    directory = recipes_directory(found)
    if platform is not None:
        return load_any_platform(platform, place_of(platform, directory)).tee == SNP
    return all(load_any_platform(name, directory).tee == SNP for name in manifest.platforms)


def _show(predicate: Predicate, shapes: tuple[Size, ...], *, events: bool, as_json: bool) -> None:
    if as_json and len(shapes) > 1:
        print_json([_matrix_row(one, events=events) for one in predicate.launches])
    elif as_json:
        print_json(predicate.to_dict())
    else:
        show(*described(predicate.launches, events=events), *by_purpose(predicate))


def _of_cloud(name: str, directory: Path) -> GcePlatformFile | None:
    """The platform ``name`` if it is a cloud's; None for one of a QEMU."""
    file = load_any_platform(name, place_of(name, directory))
    return file if isinstance(file, GcePlatformFile) else None


def _replay(directory: Path, manifest: Manifest, archive: Path, *, as_json: bool) -> None:
    """Print how the capture differs from the image's prediction; ``Differs`` when it does."""
    file = files.read(archive)
    if file.capture is None:
        raise UsageError(
            f"{archive} is not a capture: {file.description.title}", hint="make one with `privml-build capture`"
        )
    check_artefacts(directory, manifest.artefacts)
    found = replays.replay(
        uki.facts((directory / "uki.efi").read_bytes()),
        firmware.facts((directory / manifest.firmware_for(TEE).file).read_bytes()),
        file,
        origins=manifest.origins,
        agent_events=madeby.extended_events(directory, manifest),
        gpt_event=None if manifest.boot_disk is None else gpt.read(directory / manifest.boot_disk).event,
    )
    if as_json:
        print_json(found.to_dict())
    else:
        for register, count in found.comparison.matched.items():
            total = sum(event.register == register for event in found.predicted)
            show(f"{register}: {count} of {total} predicted events are in the log")
        show(*(one.text() for one in found.comparison.differences), *found.problems)
        for note in found.notes:
            show(f"note: {note}")
    if not found.equal:
        count = len(found.comparison.differences) + len(found.problems)
        raise Differs(
            f"{archive} differs from the prediction in {count} places", hint="look at the first one of each register"
        )


def _cross_check(
    place: Workplace, found: Target, manifest: Manifest, shapes: tuple[Size, ...], *, as_json: bool
) -> None:
    platforms = [load_platform(name, recipes_directory(found)) for name in manifest.platforms]
    measured = [platform for platform in platforms if platform.tee != SNP]
    if not measured:
        raise UsageError(
            f"{crosscheck.PROGRAM} measures no SNP guests, and {manifest.name} has no other platform",
            hint="leave out --cross-check",
        )
    tool = crosscheck.program()
    predictor = MachinePredictor(place.tools_of(found), place.store.root, found.directory, manifest)
    rows: list[dict[str, Any]] = []
    for platform in platforms:
        name = platform.name
        if platform not in measured:
            say(f"{name}: {crosscheck.PROGRAM} measures no SNP guests")
            continue
        for shape in shapes:
            checks = predictor.cross_check(tool, platform, shape)
            rows.append(
                {
                    "platform": name,
                    "vcpus": shape.vcpus,
                    "memory": shape.memory,
                    "equal": all(check.equal for check in checks),
                    "checks": [str(check) for check in checks],
                }
            )
            if not as_json:
                show(f"{name}, {shape}", *(f"  {check}" for check in checks))
    if as_json:
        print_json(rows)
    if not all(row["equal"] for row in rows):
        raise Differs(
            f"{crosscheck.PROGRAM} computes different values than privml-build", hint="one of the two is wrong"
        )


def _matrix_row(shape: MeasuredLaunch, *, events: bool) -> dict[str, Any]:
    """One shape of a matrix: values and evidence, and the events when they are asked for."""
    row: dict[str, Any] = {"platform": shape.platform, **shape.machine.to_dict()}
    for register in shape.registers:
        values = [value.hex() for value in shape.accepted(register)]
        row[register] = dict(zip(_ORDERS, values, strict=False)) if register == MRTD else values[0]
    row["evidence"] = {register: level.value for register, level in shape.evidence().items()}
    if events:
        row["events"] = [event.to_dict() for event in shape.events]
    return row


def described(launches: Sequence[MeasuredLaunch], *, events: bool) -> list[str]:
    """Lines with the registers of every launch; what all sizes of a platform share is printed once, first."""
    lines: list[str] = []
    for platform in dict.fromkeys(launch.platform for launch in launches):
        sizes = [launch for launch in launches if launch.platform == platform]
        names = tuple(sizes[0].registers)
        tables = [{name: _register(size, name, events=events) for name in names} for size in sizes]
        same = [name for name in names if all(table[name] == tables[0][name] for table in tables)]
        common = same if len(sizes) > 1 else []
        if common:
            lines += [f"{platform}, all {len(sizes)} sizes", *(line for name in common for line in tables[0][name])]
        for size, table in zip(sizes, tables, strict=True):
            lines += [size.label, *(line for name in names if name not in common for line in table[name])]
    return lines


def by_purpose(predicate: Predicate) -> list[str]:
    """Lines with RTMR3 in documents for each purpose, if the image gives documents for several."""
    extended = [launch for launch in predicate.launches if launch.runtime is not None]
    if len(predicate.purposes) < 2 or not extended:
        return []
    lines = []
    for purpose, count in sorted(predicate.purposes.items(), key=lambda item: item[1]):
        for value in sorted({predicate.runtime_of(launch, purpose).hex() for launch in extended}):
            lines.append(f"  {value}  {purpose}, after {count} of {len(predicate.agent_events)} agent events")
    return [f"{RTMR3} by the purpose of a document", *lines]


def _register(launch: MeasuredLaunch, register: str, *, events: bool) -> list[str]:
    level = launch.evidence()[register].value
    lines = []
    for number, value in enumerate(launch.accepted(register)):
        note = ("single-pass", "two-pass")[number] if register == MRTD else _weakest(launch, register)
        if isinstance(launch.machine, SnpMachine):
            note = f"{_STARTS[launch.machine.boot]}; no SNP machine has shown it"
        if level == Evidence.ENDORSED:
            note = "signed by the firmware's vendor"
        lines.append(f"  {register}  {value.hex()}  {level}  {note}".rstrip())
    if events:
        lines += [
            f"    {event.digest.hex()[:24]}..  {event.evidence.value:9}  {event.origin}{seen_words(event)}"
            for event in launch.of(register)
        ]
    return lines


def _weakest(shape: MeasuredLaunch, register: str) -> str:
    """The events with the weakest evidence of a register: their number, and the first."""
    events = shape.of(register)
    weakest = [event for event in events if event.evidence is shape.evidence()[register]]
    if not weakest or len(weakest) == len(events):
        return ""
    return f"for {len(weakest)} of {len(events)} events, first {weakest[0].origin}"


def _boots(
    place: Workplace,
    found: Target,
    manifest: Manifest,
    shapes: tuple[Size, ...],
    machine_of: tuple[Platform | None, Path | None],
    *,
    disk: bool,
    as_json: bool,
) -> None:
    tools = place.tools_of(found)
    platform, path = machine_of
    qemu = None if path is None else foreign.find(tools, path).qemu
    bench = Bench(
        tools,
        place.store.root,
        found.directory,
        manifest,
        recipes_directory(found),
        platform=platform,
        qemu=qemu,
    )
    rows, problems = [], []
    with tempfile.TemporaryDirectory(prefix="privml-boot.") as name:
        boot_disk = bootdisk.make(tools, found.directory / "uki.efi", Path(name) / "boot.raw") if disk else None
        for shape in shapes:
            with step(f"Booting {shape} until the kernel has taken over"):
                booted = bench.boot(bench.launch(shape, boot_disk=boot_disk))
            machine = {"platform": bench.platform.name, "vcpus": shape.vcpus, "memory": shape.memory}
            rows.append({**machine, **booted.to_dict()})
            problems += [f"{shape}: {problem}" for problem in booted.problems()]
            if not as_json:
                _show_boot(shape, booted)
    if as_json:
        print_json(rows if len(shapes) > 1 else rows[0])
    if problems:
        raise Differs("\n".join(problems), hint="the first difference names the input to look at")
    show("the log equals the prediction, event by event, and the TPM's registers equal the log's", err=as_json)


def _show_boot(shape: Size, booted: ComparedBoot) -> None:
    show(str(shape))
    for register, count in booted.comparison.matched.items():
        missing = sum(one.register == register and one.predicted is not None for one in booted.comparison.differences)
        show(f"  {register}: {count} of {count + missing} predicted events are in the log")
    for difference in booted.comparison.differences:
        show(f"  {difference.text()}")
    total = sum(booted.explanation.used.values())
    show(f"  a TD would differ in {total} events, explained by {len(booted.explanation.used)} rules")
    for difference in booted.explanation.unexplained:
        show(f"  not explained by a rule: {difference.text()}")
