"""Fixtures of many tests: an empty store, the fake archive in its first state with a mirror that serves it, and the
stand-in of the GPUs' libraries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fake_archive
import pytest
from nvml_fake import FakeDriver, compiled
from pool_server import serving

from privml.store.mirrors import Mirrors
from privml.store.objects import Store


@pytest.fixture(autouse=True, scope="session")
def no_cached_collateral(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this user has fetched for real decides no test."""
    folder = tmp_path_factory.mktemp("no-collateral")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("privml.client.collateral.cache_directory", lambda: folder / "collateral")
        yield


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the host's proxies away from the tests' servers."""
    monkeypatch.setattr("privml.base.wayout._apt_settings", dict)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fake_archive.write(tmp_path / "archive", "first")


@pytest.fixture
def mirrors(folder: Path, no_proxy: None) -> Iterator[Mirrors]:
    with serving(folder) as (address, _):
        yield {"debian": (address,)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def compiled_library(tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    place = tmp_path_factory.mktemp("nvml")
    return compiled(place, place / "gpus")


@pytest.fixture
def library(compiled_library: FakeDriver) -> FakeDriver:
    """The libraries of NVIDIA's driver and switches, compiled once; no device yet."""
    return compiled_library.emptied()
