"""The three ways to get a first tools tree, with the fake archive and the host's apt and gpgv."""

from __future__ import annotations

from pathlib import Path

import fake_archive
import pytest
from fake_archive import Deb
from image_fake import BASE
from test_lock_archive import EARLY, LATE, TOOLS, needs_apt, solved

from privml.base.errors import HostError
from privml.image.bootstrap import mended, tools_tree
from privml.image.tools import tree_key
from privml.lock.apttools import AptTools, host_tools
from privml.lock.make import epoch_of
from privml.lock.models import ToolsLock
from privml.lock.moves import moves
from privml.lock.solver import Solver
from privml.recipe.distributions import Distribution
from privml.store.fetch import GoneError
from privml.store.mirrors import Mirrors
from privml.store.objects import Store

pytestmark = [needs_apt, pytest.mark.usefixtures("no_proxy")]


@pytest.fixture
def lock(mirrors: Mirrors) -> ToolsLock:
    found = solved(mirrors, now=EARLY)
    return ToolsLock(
        base=BASE,
        source_date_epoch=epoch_of(found.archives),
        archives=found.archives,
        packages_requested=("app",),
        packages=found.packages,
    )


def solver(mirrors: Mirrors) -> Solver:
    return Solver(tools=lambda _: pytest.fail("only the host's apt may be asked"), mirrors=lambda: mirrors, now=LATE)


def no_host(_: Distribution) -> AptTools:
    pytest.fail("the host's apt was asked although nothing is gone")


def test_1_available_packages_are_used(lock: ToolsLock, store: Store, mirrors: Mirrors) -> None:
    assert mended(store, lock, solver(mirrors), host=no_host) is lock
    assert all(store.has(package.sha256) for package in lock.packages)


def test_1_an_existing_tree_needs_no_package(lock: ToolsLock, store: Store, folder: Path) -> None:
    root = store.root / "trees" / tree_key(lock.packages)
    root.mkdir(parents=True)
    root.with_name(f"{root.name}.content").touch()
    assert mended(store, lock, solver({"debian": ("http://127.0.0.1:9",)}), host=no_host) is lock


def test_2_unavailable_packages_are_replaced_by_the_host_s_apt_with_a_message(
    lock: ToolsLock, store: Store, folder: Path, mirrors: Mirrors, capsys: pytest.CaptureFixture[str]
) -> None:
    store.add_bytes(Deb("app", "1", "lib (= 1), common").data)
    store.add_bytes(Deb("lib", "1").data)
    fake_archive.write(folder, "second")
    after = mended(store, lock, solver(mirrors), host=lambda _: TOOLS)
    assert [str(package) for package in after.packages] == ["app 1", "common 2", "lib 1"]
    told = capsys.readouterr().err
    assert "tools: 1 of 3 locked packages are gone" in told
    assert "resolving replacements with the host's apt with the test's key" in told
    assert moves(lock, after) == [
        f"{register} may move: other tools" for register in ("MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3", "LAUNCH")
    ]


def test_3_a_missing_gpgv_or_keyring_is_an_error(
    lock: ToolsLock, store: Store, folder: Path, mirrors: Mirrors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_archive.write(folder, "second")
    with pytest.raises(
        HostError, match="no verified tools tree, and the host lacks debian-archive-keyring"
    ) as caught:
        mended(store, lock, solver(mirrors), host=lambda each: host_tools(each, tmp_path))
    assert caught.value.exit_code == 5
    keyring = tmp_path / "usr/share/keyrings/debian-archive-keyring.gpg"
    keyring.parent.mkdir(parents=True)
    keyring.touch()
    monkeypatch.setattr(
        "privml.lock.apttools.shutil.which", lambda name, **_: None if name == "gpgv" else "/usr/bin/x"
    )
    with pytest.raises(HostError, match="the host lacks gpgv"):
        mended(store, lock, solver(mirrors), host=lambda each: host_tools(each, tmp_path))
    assert not (store.root / "trees").exists()


def test_an_image_is_only_built_with_the_locked_tools(
    lock: ToolsLock, store: Store, folder: Path, mirrors: Mirrors
) -> None:
    fake_archive.write(folder, "second")
    with pytest.raises(GoneError) as caught:
        tools_tree(store, lock, mirrors=lambda: mirrors)
    assert [item.name for item in caught.value.items] == ["app 1", "common 1", "lib 1"]


def test_without_namespaces_nothing_is_fetched_or_unpacked(
    lock: ToolsLock, store: Store, mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privml.image.namespaces.problem", lambda: "Operation not permitted")
    with pytest.raises(HostError, match=r"userns: .*namespaces do not work: Operation not permitted") as caught:
        tools_tree(store, lock, mirrors=lambda: mirrors)
    assert caught.value.hint is not None
    assert not (store.root / "trees").exists()
