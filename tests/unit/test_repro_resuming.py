"""A reproduction that was interrupted goes on with the leg that it left, and never with another one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from privml.base.errors import BuildError
from privml.base.strictjson import b64
from privml.image.volumekeys import VolumeKeys
from privml.output.volumekey import VolumeKey
from privml.recipe.loader import shipped
from privml.repro import legs, resuming
from privml.repro.legs import Inputs, two_legs
from privml.repro.surroundings import Leg


class Builds:
    """Instant legs; ``fails`` names the one that ends the run."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.outputs: list[Path] = []
        self.fails = ""

    def __call__(self, leg: Leg, environment: Mapping[str, str], _: bytes) -> dict[str, str]:
        if leg.name == self.fails:
            raise BuildError("interrupted")
        self.built.append(leg.name)
        self.outputs.append(Path(leg.output))
        Path(leg.output).mkdir(parents=True)
        (Path(leg.output) / "uki.efi").write_text(f"built {len(self.built)}")
        return {"time_zone": f"{environment['TZ']} now", "home": "/h", "host_name": leg.name, "locale": "C"}


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Builds:
    made = Builds()
    monkeypatch.setattr(legs, "_build", made)
    monkeypatch.setattr(legs, "variations", lambda *_: ())
    return made


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    folder = shutil.copytree(shipped(), tmp_path / "recipes")
    recipe, lock, tools = (folder / name for name in ("demo-cpu.yaml", "demo-cpu.lock.json", "tools.lock.json"))
    assert lock.is_file()
    tools.write_text("{}")
    return Inputs(recipe, lock, tools)


def interrupted(inputs: Inputs, keep: Path, builds: Builds, fails: str = "b") -> None:
    builds.fails = fails
    with pytest.raises(BuildError), two_legs(inputs, keep, "demo-cpu", keep=keep):
        pass
    builds.fails = ""


def texts(inputs: Inputs, keep: Path) -> list[str]:
    with two_legs(inputs, keep, "demo-cpu", keep=keep) as found:
        return [(leg / "uki.efi").read_text() for leg in (found.a, found.b)]


def test_only_the_leg_that_is_missing_is_built(inputs: Inputs, tmp_path: Path, builds: Builds) -> None:
    keep = tmp_path / "keep"
    interrupted(inputs, keep, builds)
    assert builds.built == ["a"]
    with two_legs(inputs, keep, "demo-cpu", keep=keep) as found:
        assert found.a == keep / "a"
        assert found.known["builder-name"] == (("a", "b"),)
        assert not any(output.exists() for output in builds.outputs), "a disk would hold the images twice"
    assert builds.built == ["a", "b"]
    assert sorted(path.name for path in keep.iterdir()) == ["a", "b"]


def test_a_finished_run_is_not_taken_for_an_interrupted_one(inputs: Inputs, tmp_path: Path, builds: Builds) -> None:
    assert texts(inputs, tmp_path / "keep") == ["built 1", "built 2"]
    assert texts(inputs, tmp_path / "keep") == ["built 3", "built 4"]


def test_legs_of_other_inputs_are_built_again(
    inputs: Inputs, tmp_path: Path, builds: Builds, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = tmp_path / "keep"
    platform = inputs.recipe.parent / "platforms/qemu-11-q35.yaml"
    code = tmp_path / "privml/image/some.py"
    code.parent.mkdir(parents=True)
    code.touch()
    monkeypatch.setattr(resuming.privml, "__file__", str(tmp_path / "privml/__init__.py"))
    for change in (
        lambda: inputs.lock.write_bytes(inputs.lock.read_bytes() + b" "),
        lambda: inputs.tools_lock.write_text("{} "),
        lambda: inputs.recipe.write_text(inputs.recipe.read_text() + "# another\n"),
        lambda: platform.write_text(platform.read_text().replace("max_vcpus: 512", "max_vcpus: 510")),
        lambda: code.write_text("another = True\n"),
    ):
        interrupted(inputs, keep, builds)
        change()
        builds.built.clear()
        texts(inputs, keep)
        assert builds.built == ["a", "b"]
    interrupted(inputs, keep, builds)
    builds.built.clear()
    texts(replace(inputs, refreshed=True), keep)
    assert builds.built == ["a", "b"]


def test_a_leg_of_another_key_is_built_again_and_no_note_has_a_key(
    inputs: Inputs, tmp_path: Path, builds: Builds
) -> None:
    one, two = (VolumeKey("model/small", 1, bytes(range(n, n + 64))) for n in range(2))
    keep, with_key = tmp_path / "keep", replace(inputs, volumes=VolumeKeys.of([one]))
    interrupted(with_key, keep, builds)
    note = (keep / ".leg-a.json").read_bytes()
    assert b64(one.key).encode() not in note and one.key.hex().encode() not in note
    builds.built.clear()
    texts(replace(inputs, volumes=VolumeKeys.of([two])), keep)
    assert builds.built == ["a", "b"]
    interrupted(with_key, keep, builds)
    builds.built.clear()
    texts(with_key, keep)
    assert builds.built == ["b"]


def test_a_run_that_was_interrupted_after_both_legs_builds_none(
    inputs: Inputs, tmp_path: Path, builds: Builds
) -> None:
    keep = tmp_path / "keep"
    with pytest.raises(KeyboardInterrupt), two_legs(inputs, keep, "demo-cpu", keep=keep):
        raise KeyboardInterrupt
    assert texts(inputs, keep) == ["built 1", "built 2"]
    assert texts(inputs, keep) == ["built 3", "built 4"]


@pytest.mark.parametrize("note", [b"", b"{}", b"[1]", b'{"key":1,"leg":{},"seen":{}}'])
def test_a_note_that_is_damaged_counts_for_nothing(
    note: bytes, inputs: Inputs, tmp_path: Path, builds: Builds
) -> None:
    interrupted(inputs, tmp_path / "keep", builds)
    (tmp_path / "keep/.leg-a.json").write_bytes(note)
    texts(inputs, tmp_path / "keep")
    assert builds.built == ["a", "a", "b"]


def test_a_note_without_its_image_counts_for_nothing(inputs: Inputs, tmp_path: Path, builds: Builds) -> None:
    interrupted(inputs, tmp_path / "keep", builds)
    shutil.rmtree(tmp_path / "keep/a")
    texts(inputs, tmp_path / "keep")
    assert builds.built == ["a", "a", "b"]


def test_without_a_folder_nothing_is_kept(inputs: Inputs, tmp_path: Path, builds: Builds) -> None:
    with two_legs(inputs, tmp_path, "demo-cpu") as found:
        place = found.a
    assert not place.exists()
