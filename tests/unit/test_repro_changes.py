"""Changes between two images are reported in the builder's terms, with the registers that they change."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import attestation_samples as samples
import pytest
from image_volume import reseal
from test_measure_pe import make_uki
from test_repro_compare import bend, initrd, opener, other_firmware, output, predicted, sealed, without_model

from privml.base.errors import Differs, PrivmlError, UsageError
from privml.cli import diff as verb
from privml.cli import inspect_image as inspector
from privml.output import manifest as manifests
from privml.output.contents import Package
from privml.repro.change import MOVES, Change
from privml.repro.changes import changes, moved
from privml.repro.compare import compare


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return output(tmp_path / "one"), output(tmp_path / "two")


FIVES = (b"5" * 32).hex()


def told(pair: tuple[Path, Path]) -> list[Change]:
    return list(changes(*map(manifests.read, pair), compare(*pair, opener=opener)))


def test_equal_images_have_no_changes(pair: tuple[Path, Path]) -> None:
    assert told(pair) == []


def test_packages_options_files_and_sections_are_reported(pair: tuple[Path, Path]) -> None:
    bend(pair[1] / "root.raw", 40 * 512, b"other data")
    (pair[1].parent / "two.root.raw.tree/etc/name").write_bytes(b"other")
    (pair[1] / "uki.efi").write_bytes(make_uki(initrd=initrd(b"tini"), linux=b"kernel??"))
    old = manifests.read(pair[1])
    sealed(
        pair[1],
        packages=(Package("bash", "5.4", "amd64", "9" * 64), Package("dash", "1", "amd64", "a" * 64)),
        cmdline="quiet privml.root=y audit=0",
        root=replace(old.root, root_hash=b"b" * 32),
        config_sha256="c" * 64,
    )
    found = {(change.kind, change.name): change for change in told(pair)}
    assert found["package", "bash"].before == "5.3"
    assert found["package", "bash"].after == "5.4"
    assert found["package", "dash"].before == "not installed"
    assert found["kernel option", "audit"].after == "audit=0"
    assert ("kernel option", "privml.root") not in found  # the root hash says it
    assert ("file", "/etc/name content") in found
    assert ("initrd file", "/init content") in found
    assert ("UKI section", ".linux") in found
    assert ("root hash", "root.raw") in found
    assert found["measured configuration", "config.json"].moves == ("rtmr1", "rtmr2", "rtmr3", "launch")
    assert {change.kind for change in found.values()} <= set(MOVES)


def test_an_added_or_removed_model_is_a_change(pair: tuple[Path, Path]) -> None:
    without_model(pair[1])
    found = [change for change in told(pair) if change.kind == "model volume"]
    assert [(change.name, change.before, change.after) for change in found] == [("model.raw", FIVES, "absent")]
    back = [change for change in told(pair[::-1]) if change.kind == "model volume"]
    assert [(change.name, change.before, change.after) for change in back] == [("model.raw", "absent", FIVES)]
    without_model(pair[0])
    assert told(pair) == []


def test_one_version_with_other_bytes_is_a_change(pair: tuple[Path, Path]) -> None:
    sealed(pair[1], packages=(Package("bash", "5.3", "amd64", "9" * 64),))
    assert [change.after for change in told(pair)] == ["5.3, different bytes"]


def test_options_in_another_order_are_a_change(pair: tuple[Path, Path]) -> None:
    sealed(pair[1], cmdline="privml.root=x quiet")
    assert [(change.kind, change.name) for change in told(pair)] == [("kernel option", "order")]


def test_an_unmeasured_difference_is_reported(pair: tuple[Path, Path]) -> None:
    (pair[1] / "notes.txt").write_bytes(b"x")
    bend(pair[1] / "root.raw", 100, b"x")
    sealed(pair[1])
    found = {(change.kind, change.name): change.moves for change in told(pair)}
    assert found == {("output", "notes.txt presence"): (), ("output", "root.raw bytes"): ()}
    assert "[moves nothing]" in told(pair)[0].text()


def test_a_changed_partition_flag_is_reported(pair: tuple[Path, Path]) -> None:
    for number, folder in enumerate(pair):
        bend(folder / "root.raw", 1024 + 48, bytes([number]))
        reseal(folder / "root.raw")
        sealed(folder)
    assert "root.raw:privml-root flags gpt" in {change.name for change in told(pair)}


def test_changed_registers_are_read_from_the_predictions(pair: tuple[Path, Path]) -> None:
    predicted(pair[1], launches=(other_firmware(), *samples.PREDICATE.launches[1:]))
    assert moved(compare(*pair, opener=opener)) == ("mrtd",)


def test_images_for_different_machines_are_not_said_to_agree(pair: tuple[Path, Path]) -> None:
    launches = tuple(replace(launch, platform="another") for launch in samples.PREDICATE.launches)
    predicted(pair[1], launches=launches)
    assert moved(compare(*pair, opener=opener)) is None


class Place:
    store = None

    def tools(self) -> None:
        return None


@pytest.fixture
def without_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def extracted(_: object, path: Path, part: object):
        with opener(path, part) as tree:
            yield tree

    monkeypatch.setattr("privml.cli.diff.Workplace", Place)
    monkeypatch.setattr("privml.repro.images.extracted", extracted)


@pytest.mark.usefixtures("without_tools")
def test_diff_is_1_for_a_change_and_0_for_none(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    one, two = map(str, pair)
    verb.diff.callback(one, two, as_json=False, diffoscope=False)
    assert "registers that move: none" in capsys.readouterr().out
    sealed(pair[1], cmdline="quiet privml.root=x audit=0")
    with pytest.raises(Differs, match="differ in 1 thing, 1 of them unexplained"):
        verb.diff.callback(one, two, as_json=True, diffoscope=False)
    document = json.loads(capsys.readouterr().out)
    assert [change["name"] for change in document["changes"]] == ["audit"]
    assert document["changes"][0]["moves"] == ["rtmr1", "rtmr2"]


def test_diff_refuses_an_unknown_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match=r"a\.txt: not recognised"):
        verb.diff.callback(str(tmp_path / "a.txt"), str(tmp_path), as_json=False, diffoscope=False)


def test_inspect_shows_the_contents(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    (pair[0] / "sbom.cdx.json").write_text('{"components": [{"type": "library"}, {"type": "library"}]}')
    inspector.inspect_image(str(pair[0]), packages=True, as_json=False)
    text = capsys.readouterr().out
    for words in (
        "root hash " + (b"3" * 32).hex(),
        "  privml.root=x",
        "bash 5.3 amd64",
        "privml-root-verity",
        "2 library",
    ):
        assert words in text
    inspector.inspect_image(str(pair[0]), packages=False, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in facts["uki"]} >= {".linux", ".cmdline"}
    assert facts["sbom"] == {"library": 2}


def test_an_image_without_a_model_is_described(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    without_model(pair[0])
    inspector.inspect_image(str(pair[0]), packages=False, as_json=False)
    assert "\nno model\n" in capsys.readouterr().out
    inspector.inspect_image(str(pair[0]), packages=False, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["models"], list(facts["partitions"])) == ([], ["root.raw"])


def test_a_damaged_image_is_refused(pair: tuple[Path, Path]) -> None:
    (pair[0] / "root.raw").write_bytes(b"x")
    with pytest.raises(PrivmlError, match="does not match manifest"):
        inspector.inspect_image(str(pair[0]), packages=False, as_json=False)
