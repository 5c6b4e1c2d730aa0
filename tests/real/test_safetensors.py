"""A real model of safetensors: converted, locked and packed twice, with the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from tests.real import smollm2
from tests.real.conftest import privml, succeeded
from tests.real.tamper import extract

from privml.image import modelvolume
from privml.image.workplace import Workplace
from privml.lock.lockfile import read_lock
from privml.lock.modelsources import models_of
from privml.recipe.loader import load, shipped

pytestmark = pytest.mark.real

# Of smollm2, by `python -m tests.real.smollm2 OUT`.
DIGESTS = {
    "config.json": "bd322ee32704f608b407407898ae1cbf803d7953f0868d5c28aef971d264a8b5",
    "generation_config.json": "8025b6679dcf077f5d339bd154238d70891decb48f35f294bfaa33a343140439",
    "model.safetensors": "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
    "tokenizer.json": "f04d31a46a271159f901c18f17fe58a5c9ccc962a242aca1676d79c2f7043edc",
    "tokenizer_config.json": "aeb956638f53ed6dfbd325eb556362dc3b1a65d41992702d7b07ec331ffd9f2a",
}
NAME = "smollm2-135m-instruct"
RECIPE = f"""\
extends: ./demo-cpu.yaml
inference:
  engine: {{name: vllm}}
  models: [{{name: {NAME}, source: "file:models/smollm2/", licence: Apache-2.0}}]
python: {{requirements: [vllm==0.19.1], before: 2026-06-01}}
"""


def digests(folder: Path) -> dict[str, str]:
    return {place.name: hashlib.sha256(place.read_bytes()).hexdigest() for place in folder.iterdir()}


def test_a_converted_model_is_locked_and_packed_with_the_same_bytes_twice(tmp_path: Path) -> None:
    shutil.copytree(shipped(), tmp_path / "recipes")
    folder = tmp_path / "recipes/models/smollm2"
    smollm2.convert(folder)
    assert digests(folder) == DIGESTS, "conversion is a function of the wheel"

    (tmp_path / "recipes/tiny.yaml").write_text(RECIPE)
    place = Workplace()
    models = models_of(load(tmp_path / "recipes/tiny.yaml"), (), None, place.store)
    (model,) = models
    assert [(file.path, file.sha256) for file in model.files] == list(DIGESTS.items())
    # The packages count for nothing here: those of vLLM are gigabytes.
    lock = read_lock(shipped() / "demo-cpu.lock.json").model_copy(update={"models": models, "python": ()})

    (tmp_path / "image").mkdir()
    made = modelvolume.filling(0, lock, place.store).make(place.tools(), tmp_path / "work", tmp_path / "image")
    assert (made.name, made.file) == (NAME, "config.json")
    by_image = hashlib.sha256((tmp_path / "image/model.raw").read_bytes()).hexdigest()
    words = ("model", "pack", str(folder), "--name", NAME, "--epoch", str(lock.source_date_epoch), "--json")
    packed = [json.loads(succeeded(privml(*words, "-o", str(tmp_path / f"{n}.raw"))).stdout) for n in range(2)]
    assert [each["sha256"] for each in packed] == [by_image, by_image]
    assert {each["verity"]["root_hash"] for each in packed} == {made.verity.root_hash.hex()}
    other = json.loads(succeeded(privml(*words, "-o", str(tmp_path / "other.raw"), "--number", "2")).stdout)
    assert other["partition"] == "privml-model-2" and other["sha256"] != by_image

    extract(place.tools(), tmp_path / "0.raw", "privml-model", tmp_path)
    assert digests(tmp_path / "tree") == DIGESTS
    assert {each.stat().st_mode & 0o777 for each in (tmp_path / "tree").iterdir()} == {0o644}
