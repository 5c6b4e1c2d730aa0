"""The user's folders, and what is said when they are another user's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from privml.base import home
from privml.base.errors import HostError
from privml.base.home import advice, user_folder
from privml.cli.main import main
from privml.store.objects import default_root


def test_the_variable_names_the_folder_and_a_relative_path_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/tmp/x")
    assert user_folder("XDG_CACHE_HOME", ".cache") == Path("/var/tmp/x")
    monkeypatch.setenv("XDG_CACHE_HOME", "x")
    assert user_folder("XDG_CACHE_HOME", ".cache") == tmp_path / ".cache"


def test_a_user_without_a_home_directory_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs with any user id."""

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("PRIVML_STORE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(HostError, match="there is no home directory: HOME is not set") as caught:
        default_root()
    assert (caught.value.hint or "").startswith("set HOME, or XDG_CACHE_HOME")
    assert advice(Path("/nosuch")) is None


def test_another_user_s_home_and_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert advice(tmp_path / "home/.cache/x") is None
    monkeypatch.setattr(home, "_me", lambda: os.geteuid() + 1)
    owner = tmp_path.owner()
    assert advice(tmp_path / "home/.cache/x") == (
        f"HOME is {tmp_path}/home, which belongs to {owner}: set HOME (`sudo -H` does), or PRIVML_STORE"
    )
    assert (advice(tmp_path / "out/x") or "").startswith(f"{tmp_path} belongs to {owner}: choose another place")


def test_a_refused_write_names_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> Path:
        raise PermissionError(13, "Permission denied", str(tmp_path / "home/.cache/x"))

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(home, "_me", lambda: os.geteuid() + 1)
    monkeypatch.setattr("privml.cli.store.Store", refused)
    with pytest.raises(SystemExit) as caught:
        main(["store", "size"])
    said = capsys.readouterr().err
    assert caught.value.code == 5
    assert f"hint: HOME is {tmp_path}, which belongs to {tmp_path.owner()}: set HOME (`sudo -H` does)" in said
