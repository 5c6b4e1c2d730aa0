"""The examples in the help of `measure` and `explain` are run as they are written, on a made-up image."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attestation_samples as samples
import click
import pytest
import snp_image
from gce_files import gce_platform
from snp_firmware import firmware
from test_cli_main import Outcome, as_found, place  # noqa: F401 - fixtures

from privml.cli import measure_image
from privml.cli.explain import explain
from privml.cli.measure import measure
from privml.events.registers import LAUNCH
from privml.machine.platform import Platform, Size
from privml.output import manifest as manifests
from privml.output.prediction import read_prediction
from privml.recipe.loader import shipped
from privml.sim import snpreport as sim
from privml.statement.launch import MeasuredLaunch, TdMachine
from privml.vm import crosscheck, predicted

NAME = "demo-cpu"
TDX = "qemu-11-q35"
(TD, *_) = samples.PREDICATE.launches


def examples(command: click.Command) -> list[str]:
    """The lines below `Examples:`, without the program's name."""
    lines = str(command.help).partition("Examples:")[2].splitlines()
    found = [line.strip().removeprefix("privml-build ") for line in lines if line.strip()]
    assert found
    return found


@pytest.fixture
def files(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A built image for both TEEs and every file that an example names; what boots or asks QEMU is replaced."""
    made = snp_image.image(place / "out" / NAME)
    platforms = place / "recipes/platforms"
    platforms.mkdir(parents=True)
    text = (shipped() / f"platforms/{TDX}.yaml").read_text()
    (platforms / "my-host.yaml").write_text(text.replace(f"name: {TDX}", "name: my-host"))
    (platforms / "my-gce.yaml").write_text(gce_platform("my-gce", "{vcpus: 2, memory: 2GiB}"))
    (place / "recipes" / f"{NAME}.yaml").write_bytes((shipped() / f"{NAME}.yaml").read_bytes())
    for file in (shipped() / "platforms").iterdir():
        (platforms / file.name).write_bytes(file.read_bytes())
    document = samples.document()
    launch = read_prediction(place / "out" / NAME, made).launches[-1]
    for name, data in {
        "OVMF.fd": firmware(),
        "ccel.bin": samples.boot_log(samples.extends(2 << 30)),
        "quote.bin": document.evidence,
        "report.bin": sim.make_report(launch.accepted(LAUNCH)[0], bytes(64)),
        "disk.raw": b"",
        "my-td.tar": b"",
    }.items():
        (place / name).write_bytes(data)

    class Predictor:
        def __init__(self, *words: object) -> None:
            pass

        def predict(self, platform: Platform, size: Size) -> tuple[Platform, Size]:
            return platform, size

    def measured(prediction: object, platform: Platform, size: Size) -> MeasuredLaunch:
        return MeasuredLaunch(TD.tee, platform.name, TdMachine(size.vcpus, size.memory), TD.registers)

    monkeypatch.setattr(predicted, "MachinePredictor", Predictor)
    monkeypatch.setattr(predicted, "measured_launch", measured)
    monkeypatch.setattr(measure_image, "gce_launches", lambda *words, **more: [TD])
    monkeypatch.setattr(measure_image, "_boots", lambda *words, **more: None)
    monkeypatch.setattr(measure_image, "_replay", lambda *words, **more: None)
    monkeypatch.setattr("privml.cli.measure_image.Workplace.tools_of", lambda *words: None)
    return place


@pytest.mark.parametrize("example", [*examples(measure), *examples(explain)])
def test_an_example_does_what_it_shows(example: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = Outcome(capsys, *shlex.split(example))
    # The log at hand is another machine's than the quote's, which `explain` says by status 1.
    assert done.code in ((0, 1) if example.startswith("explain ccel.bin --against") else (0,)), done.stderr


def rows(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    done = Outcome(capsys, "measure", *words, "--json")
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def of_snp_alone(folder: Path) -> None:
    made = manifests.read(folder)
    (folder / "manifest.json").write_bytes(dataclasses.replace(made, platforms=("qemu-11-q35-snp",)).encode())


@pytest.mark.parametrize(
    "words", [("--tee", "snp"), ("--platform", "qemu-11-q35-snp"), ()], ids=["tee", "platform", "image"]
)
def test_the_number_of_vcpus_is_the_whole_size_of_an_snp_guest(
    words: Sequence[str], files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not words:
        refused = Outcome(capsys, "measure", NAME, "--vcpus", "1..3")
        assert (refused.code, "needs both --vcpus and --memory" in refused.stderr) == (2, True)
        assert "--tee snp" in refused.stderr
        of_snp_alone(files / "out" / NAME)
    found = rows(capsys, NAME, *words, "--vcpus", "1..3")
    assert [(row["platform"], row["vcpus"]) for row in found] == [("qemu-11-q35-snp", count) for count in (1, 2, 3)]
    refused = Outcome(capsys, "measure", NAME, *words, "--memory", "2GiB")
    assert (refused.code, "--vcpus" in refused.stderr) == (2, True)


def test_a_cross_check_of_snp_guests_alone_compares_nothing_and_is_refused(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crosscheck, "program", lambda: files / "tdx-measure")
    of_snp_alone(files / "out" / NAME)
    refused = Outcome(capsys, "measure", NAME, "--cross-check")
    assert (refused.code, refused.stdout) == (2, "")
    assert f"tdx-measure measures no SNP guests, and {NAME} has no other platform" in refused.stderr


def test_an_image_without_firmware_for_snp_says_that_its_recipe_has_none(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = files / "out" / NAME
    made = manifests.read(folder)
    only_tdx = dataclasses.replace(made, firmware={"tdx": made.firmware["tdx"]}, platforms=(TDX,))
    (folder / "manifest.json").write_bytes(only_tdx.encode())
    refused = Outcome(capsys, "measure", NAME, "--tee", "snp")
    assert refused.code == 2
    assert "the recipe has no `firmware.snp`: add it and a platform of snp, and build again" in refused.stderr
    refused = Outcome(capsys, "measure", NAME, "--platform", "qemu-11-q35-snp")
    assert (refused.code, "add `firmware.snp` to its recipe" in refused.stderr) == (7, True)
    # With the firmware, a platform is all that is missing.
    (folder / "manifest.json").write_bytes(dataclasses.replace(made, platforms=(TDX,)).encode())
    refused = Outcome(capsys, "measure", NAME, "--tee", "snp")
    assert (refused.code, "name one of it with --platform" in refused.stderr) == (2, True)


def test_a_report_against_a_folder_that_is_not_there_says_so(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = Outcome(capsys, "explain", "report.bin", "--against", "out/nothere")
    assert (refused.code, refused.stdout) == (2, "")
    assert "--against out/nothere does not exist" in refused.stderr
    refused = Outcome(capsys, "explain", "ccel.bin", "--against", "out/nothere")
    assert refused.code == 2 and "out/nothere" in refused.stderr


def test_a_report_of_no_machine_hints_at_the_firmware(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "report.bin").write_bytes(sim.make_report(bytes(48), bytes(64)))
    done = Outcome(capsys, "explain", "report.bin", "--against", f"out/{NAME}")
    assert done.code == 1
    assert "with firmware-snp.fd and not the package's own firmware" in done.stderr
    assert "`measure --tee snp --vcpus N`" in done.stderr


@pytest.mark.parametrize("words", [("--tee", "tdx"), ("--platform", "my-host"), ("--platform", "my-gce")])
def test_the_size_of_a_td_needs_memory(words: Sequence[str], files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = Outcome(capsys, "measure", NAME, *words, "--vcpus", "2")
    assert (refused.code, "needs both --vcpus and --memory" in refused.stderr) == (2, True)
