"""The cross-check with third-party `tdx-measure`; a script on PATH prints its captured outputs instead."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
from test_cli_main import Outcome, as_found, image, place  # noqa: F401 - fixtures
from tests.golden.test_measure_fixtures import END, firmware, loader_and_rsdp

from privml.base.errors import HostError
from privml.events.registers import RTMR0
from privml.machine.platform import Size
from privml.measure.machine import MeasuredMachine
from privml.measure.predict import predict
from privml.measure.profiles import TD_OVMF_2025
from privml.measure.smbios import TABLES
from privml.measure.uki import UkiFacts
from privml.vm import crosscheck, predicted

VECTORS = Path(__file__).resolve().parents[1] / "vectors/measurement"
FIXTURES = {"canonical-defaults": Size(1, 2 << 30), "q35-with-hpet": Size(8, 4 << 30)}


def tool(folder: Path, output: str, status: int = 0) -> Path:
    """A stand-in that prints ``output`` and records its arguments and metadata."""
    path = folder / "bin/tdx-measure"
    path.parent.mkdir(exist_ok=True)
    (folder / "output").write_text(output)
    path.write_text(
        f'#!/bin/sh\necho "$@" > {folder}/words; cp "$3" {folder}/metadata; cat "$(dirname "$3")/table_loader.bin" '
        f"> {folder}/loader; cat {folder}/output; exit {status}\n"
    )
    path.chmod(0o755)
    return path


def blobs(name: str) -> dict[str, bytes]:
    tables = lzma.decompress((VECTORS / name / "acpi_tables.bin.xz").read_bytes())
    loader, rsdp = loader_and_rsdp(tables)
    return {"etc/table-loader": loader, "etc/acpi/rsdp": rsdp, "etc/acpi/tables": tables, TABLES: END}


@pytest.mark.parametrize("name", FIXTURES)
def test_captured_output_agrees_and_changed_output_does_not(name: str, tmp_path: Path) -> None:
    captured = (VECTORS / name / "expected.json").read_text()
    shape = FIXTURES[name]
    theirs = crosscheck.measured_by(tool(tmp_path, captured), tmp_path / "OVMF.fd", blobs(name), shape)
    machine = MeasuredMachine(blobs(name), shape.memory, TD_OVMF_2025)
    made = predict(UkiFacts(bytes(48), (), "console=ttyS0", None), firmware(), machine)
    mrtd = (made.mrtd_single, made.mrtd_two)
    checks = crosscheck.judge(theirs, mrtd, made.registers()[RTMR0])
    assert [check.equal for check in checks] == [True, True], [str(check) for check in checks]
    assert "agrees" in str(checks[0])
    metadata = json.loads((tmp_path / "metadata").read_text())["boot_config"]
    assert (metadata["cpus"], metadata["memory"]) == (shape.vcpus, f"{shape.memory >> 20}M")
    assert (tmp_path / "loader").read_bytes() == blobs(name)["etc/table-loader"]
    assert (tmp_path / "words").read_text().startswith("--platform-only --json ")
    wrong = crosscheck.judge({**theirs, "rtmr0": "ab" * 48}, mrtd, made.registers()[RTMR0])
    assert not wrong[1].equal and f"says {'ab' * 48}" in str(wrong[1])


def test_both_output_formats_are_read() -> None:
    values = json.loads((VECTORS / "q35-with-hpet/expected.json").read_text())
    lines = "Machine measurements:\n" + "".join(f"{name.upper()}: {value}\n" for name, value in values.items())
    assert crosscheck.parse(lines + "RTMR1: \nRTMR2: \n") == crosscheck.parse(json.dumps(values)) == values
    assert crosscheck.parse(f"warning: x\n{json.dumps({**values, 'rtmr1': ''})}") == values


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", "MRTD: 00\n", '{"mrtd": 1, "rtmr0": null}'])
def test_unknown_output_is_refused(text: str) -> None:
    with pytest.raises(HostError, match="printed no MRTD"):
        crosscheck.parse(text)


def test_a_failing_or_missing_tool_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostError, match="status 3"):
        crosscheck.measured_by(tool(tmp_path, "no", 3), tmp_path, blobs("q35-with-hpet"), Size(1, 1 << 30))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert crosscheck.program() == tmp_path / "bin/tdx-measure"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="not on PATH"):
        crosscheck.program()


def test_measure_cross_check_compares_the_registers(
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "q35-with-hpet"
    folder = image(place)
    facts = UkiFacts(bytes(48), (), "console=ttyS0", None)
    monkeypatch.setenv("PATH", str(tool(place, (VECTORS / name / "expected.json").read_text()).parent))
    monkeypatch.setattr(predicted.uki, "facts", lambda data: facts)
    monkeypatch.setattr(predicted.firmware, "facts", lambda data: firmware())
    monkeypatch.setattr(predicted, "blobs", lambda *words: blobs(name))
    monkeypatch.setattr("privml.cli.measure_image.Workplace.tools", lambda *words: None)
    words = ("measure", str(folder), "--cross-check", "--vcpus", "8", "--memory")
    outcome = Outcome(capsys, *words, "4GiB")
    assert outcome.code == 0 and "RTMR0 by its rules: tdx-measure agrees" in outcome.stdout, outcome.stderr
    outcome = Outcome(capsys, *words, "2GiB", "--json")
    assert outcome.code == 1 and json.loads(outcome.stdout)[0]["equal"] is False
    assert Outcome(capsys, "measure", str(folder), "--cross-check", "--boot").code == 2
