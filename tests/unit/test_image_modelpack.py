"""Volumes of folders of safetensors: by `image`, and by `model pack`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import image_fake
import pytest
from image_fake import HASH, Fake
from test_cli_main import Outcome
from test_lock_safetensors import FILES, INDEX, PARTS

from privml.base.errors import InputsError
from privml.image import filling, modelpack
from privml.image.build import build
from privml.image.filling import Filling
from privml.image.workplace import Workplace
from privml.lock.modelrecord import CHAT_TEMPLATE, LocalSource, ModelFile

Capture = pytest.CaptureFixture[str]
TINY = {**FILES, CHAT_TEMPLATE: b"{{ own }}", "README.md": b"---\nlicense: mit\n---\n"}
NAMES = ["config.json", "README.md", CHAT_TEMPLATE, *PARTS, INDEX]
MINE = b"{{ mine }}"


def inside(files: dict[str, bytes]) -> dict[str, list[object]]:
    return {name: [0o644, data.hex()] for name, data in files.items()}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = image_fake.make(tmp_path / "fake")
    monkeypatch.setattr(Workplace, "tools", lambda _: made.tools)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return made


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    for name, data in TINY.items():
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)
    return folder


def test_the_files_of_a_folder_are_in_the_image_s_volume_with_the_recipe_s_template(
    fake: Fake, tmp_path: Path
) -> None:
    (model,) = fake.lock.models
    files = tuple(
        ModelFile(path=name, size=len(TINY[name]), sha256=fake.store.add_bytes(TINY[name])) for name in NAMES
    )
    template = ModelFile(path="models/t.jinja", size=len(MINE), sha256=fake.store.add_bytes(MINE))
    folder = model.model_copy(update={"source": LocalSource(local="models/tiny/"), "files": files})
    fake.lock = fake.lock.model_copy(update={"models": (folder,), "python": ()})
    build(fake.order(), tmp_path / "out/x")
    assert fake.read("volume.json") == inside(TINY)
    folder = folder.model_copy(update={"chat_template": template})
    fake.lock = fake.lock.model_copy(update={"models": (folder,)})
    image = build(fake.order(), tmp_path / "out/x")
    assert fake.read("volume.json") == inside({**TINY, CHAT_TEMPLATE: MINE})
    components = json.loads((image.directory / "sbom.cdx.json").read_bytes())["components"]
    (part,) = [part for part in components if part["type"] == "machine-learning-model"]
    names = [each["name"] for each in part["components"]]
    assert names == [*(name for name in NAMES if name != CHAT_TEMPLATE), "models/t.jinja"]


def test_pack_makes_the_volume_and_says_what_is_in_it(
    fake: Fake, tiny: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "new/tiny.raw"
    outcome = Outcome(capsys, "model", "pack", str(tiny), "-o", str(out), "--epoch", "7", "--json")
    assert outcome.code == 0, outcome.stderr
    said = json.loads(outcome.stdout)
    data = (fake.root / "model.volume").read_bytes()
    assert out.read_bytes() == data
    assert [out] == list(out.parent.iterdir()), "nothing else is left"
    verity = said.pop("verity")
    assert (verity["root_hash"], set(verity)) == (
        HASH,
        {"root_hash", "salt", "data_blocks", "hash_start", "block_size"},
    )
    assert said == {
        "file": str(out),
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "name": "tiny",
        "format": "safetensors",
        "partition": "privml-model",
        "source_date_epoch": 7,
        "licence": "mit",
        "files": [
            {"path": name, "size": len(TINY[name]), "sha256": hashlib.sha256(TINY[name]).hexdigest()}
            for name in NAMES
        ],
    }
    assert fake.read("volume.json") == inside(TINY)
    assert (tiny / "config.json").stat().st_mode & 0o777 == 0o600, "the folder is as it was"


def test_pack_s_name_number_and_epoch_reach_the_volume(
    fake: Fake, tiny: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def made(self: Filling, *_: object) -> object:
        asked.append((self.name, self.slot.number, self.epoch))
        raise InputsError("enough")

    monkeypatch.setattr(Filling, "make", made)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "8")
    Outcome(capsys, "model", "pack", str(tiny), "-o", str(tmp_path / "a"))
    Outcome(capsys, "model", "pack", str(tiny), "-o", str(tmp_path / "a"), "--name=x.y-1", "--number=2", "--epoch=9")
    assert asked == [("tiny", 0, 8), ("x.y-1", 1, 9)]


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def with_file(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("config.json"), "it has no config.json"),
        (without(PARTS[1]), f"its index names `{PARTS[1]}`, which is not there"),
        (with_file(PARTS[0], b"<html>"), "so it is an HTML page"),
        (with_file("pytorch_model.bin", b"x"), "`pytorch_model.bin` can hold a program"),
        (lambda folder: (folder / "onnx").mkdir(), "`onnx` is a folder, expected only the files of one model"),
        (lambda folder: (folder / "vocab.json").symlink_to("config.json"), "`vocab.json` is a link, expected a file"),
        (lambda folder: [place.unlink() for place in folder.iterdir()], "the folder is empty"),
    ],
)
def test_pack_refuses_what_is_no_model(
    fake: Fake, tiny: Path, tmp_path: Path, capsys: Capture, change: Callable[[Path], object], message: str
) -> None:
    change(tiny)
    outcome = Outcome(capsys, "model", "pack", str(tiny), "-o", str(tmp_path / "out/a.raw"))
    assert (outcome.code, outcome.stdout) == (4, "")
    assert message in outcome.stderr
    assert not (tmp_path / "out").exists() and fake.calls() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{tiny}", "-o", "{tiny}/config.json"], "config.json exists already"),
        (["{tiny}", "-o", "{tmp}/a", "--name", "Tiny 1"], "got `Tiny 1`, expected a model's name: lower-case"),
        (
            ["{tiny}/config.json", "-o", "{tmp}/a"],
            "is not a directory, expected a folder with a model of safetensors",
        ),
        (["{tiny}"], "the option `-o` is missing"),
        (["{tiny}", "-o", "{tmp}/a", "--number", "0"], "--number"),
    ],
)
def test_pack_s_wrong_words_are_usage_errors(
    fake: Fake, tiny: Path, tmp_path: Path, capsys: Capture, words: list[str], message: str
) -> None:
    outcome = Outcome(capsys, "model", "pack", *(word.format(tiny=tiny, tmp=tmp_path) for word in words))
    assert outcome.code == 2 and message in outcome.stderr


def test_a_folder_s_name_that_is_no_model_s_name_asks_for_one(
    fake: Fake, tiny: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.rename(tmp_path / "Tiny")
    outcome = Outcome(capsys, "model", "pack", str(tmp_path / "Tiny"), "-o", str(tmp_path / "a"))
    assert outcome.code == 2 and "give it with --name" in outcome.stderr
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "now")
    outcome = Outcome(capsys, "model", "pack", str(tmp_path / "Tiny"), "-o", str(tmp_path / "a"), "--name=tiny")
    assert outcome.code == 2 and "SOURCE_DATE_EPOCH is `now`, expected seconds since 1970" in outcome.stderr


def test_a_file_that_changes_while_it_is_packed_is_refused(
    fake: Fake, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = filling.tree_in

    def changing(work: Path) -> Path:
        (tiny / "config.json").write_bytes(b'{"a": 1}')
        return original(work)

    monkeypatch.setattr(filling, "tree_in", changing)
    with pytest.raises(InputsError, match=r"config\.json changed while it was read"):
        modelpack.pack(tiny, tmp_path / "a.raw", "tiny", 0, 0, lambda: fake.tools)
    assert not (tmp_path / "a.raw").exists()
