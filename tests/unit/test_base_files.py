"""Files and directories are complete or absent, however the writer ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from privml.base import files
from privml.base.files import directory_atomic, locked, remove_tree, sha256_file, write_atomic


def killed(code: str, folder: Path) -> None:
    """Run ``code`` in a process that kills itself at ``die()``."""
    start = "import os, pathlib, signal, sys\nfrom privml.base import files\nfolder = pathlib.Path(sys.argv[1])\n"
    die = "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", start + die + code, str(folder)], env={"PYTHONPATH": paths}, check=False
    )
    assert done.returncode == -signal.SIGKILL


def names(folder: Path) -> list[str]:
    """The names in a folder that are not a writer's temporary ones."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_file_is_written_whole_with_its_mode(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        write_atomic(tmp_path / "a/b", b"new")
        write_atomic(tmp_path / "a/c", b"new", mode=0o600)
    finally:
        os.umask(old)
    assert {p.name: (p.read_bytes(), p.stat().st_mode & 0o777) for p in (tmp_path / "a").iterdir()} == {
        "b": (b"new", 0o644),
        "c": (b"new", 0o600),
    }


def test_a_file_is_written_where_directories_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.O_DIRECTORY")
    write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "a", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "a", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_writer_killed_half_way_leaves_no_file_under_the_name(tmp_path: Path, step: str) -> None:
    where = {"fsync": "os.fsync = die", "replace": "pathlib.Path.replace = die"}[step]
    killed(f"{where}\nfiles.write_atomic(folder / 'a', b'new')", tmp_path)
    assert names(tmp_path) == []


def test_a_directory_is_renamed_when_it_is_complete(tmp_path: Path) -> None:
    with directory_atomic(tmp_path / "x/out") as fresh:
        (fresh / "a").write_text("1")
        assert names(tmp_path / "x") == []
        assert fresh.parent == tmp_path / "x"
    assert (tmp_path / "x/out/a").read_text() == "1"
    assert (tmp_path / "x/out").stat().st_mode & 0o777 == 0o755
    with directory_atomic(tmp_path / "x/out") as fresh:
        assert not list(fresh.iterdir())
    assert list((tmp_path / "x").iterdir()) == [tmp_path / "x/out"]
    assert list((tmp_path / "x/out").iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_directory_is_removed_and_the_old_one_stays(tmp_path: Path, error: type[BaseException]) -> None:
    with directory_atomic(tmp_path / "out") as fresh:
        (fresh / "a").write_text("old")
    with pytest.raises(error), directory_atomic(tmp_path / "out") as fresh:
        (fresh / "locked").mkdir()
        (fresh / "locked/file").write_text("new")
        (fresh / "locked").chmod(0o500)
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/a").read_text() == "old"


def test_a_failed_rename_leaves_the_old_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with directory_atomic(tmp_path / "out") as fresh:
        (fresh / "a").write_text("old")
    rename = Path.rename

    def fails(path: Path, target: Path) -> Path:
        if target == tmp_path / "out" and path.name != "was":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="Input/output"), directory_atomic(tmp_path / "out"):
        pass
    assert (tmp_path / "out/a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_process_killed_half_way_leaves_no_directory_under_the_name(tmp_path: Path) -> None:
    killed("with files.directory_atomic(folder / 'out') as fresh:\n    (fresh / 'a').touch()\n    die()", tmp_path)
    assert names(tmp_path) == []


def test_a_tree_is_removed_whatever_its_modes_and_links(tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep/file").write_text("1")
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/b/file").touch()
    (tree / "link").symlink_to(tmp_path / "keep")
    (tree / "a/b").chmod(0o000)
    (tree / "a").chmod(0o500)
    remove_tree(tree)
    remove_tree(tree)
    assert not tree.exists()
    (tmp_path / "way").symlink_to("keep")
    remove_tree(tmp_path / "way")
    assert (tmp_path / "keep/file").read_text() == "1"
    assert not (tmp_path / "way").is_symlink()


def test_a_lock_has_one_holder_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / "x/lock"):
            order.append("second")

    with locked(tmp_path / "x/lock"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_a_killed_holder_releases_the_lock(tmp_path: Path) -> None:
    killed("with files.locked(folder / 'lock'):\n    die()", tmp_path)
    with locked(tmp_path / "lock"):
        pass


def test_digests_of_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
