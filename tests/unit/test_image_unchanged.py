"""An image is recalled as unchanged only while all that was read is as it was noted."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from test_image_manifest import sample

from privml.base.steps import say
from privml.cli import build_image
from privml.cli.image import image
from privml.image import unchanged
from privml.image.unchanged import Question, Unchanged, watched
from privml.store.objects import Store


@dataclass
class Place:
    """A checkout with a recipe, a folder of overlays and a link, and a package of code."""

    root: Path
    store: Store
    found: Unchanged

    def question(self, target: str = "demo", output: Path | None = None, lock: Path | None = None) -> Question:
        return Question(self.store, target, output, lock)

    def read(self) -> None:
        """What a full check does: read files, list folders, look for files that are not there."""
        (self.root / "recipes/demo.yaml").read_bytes()
        for path in sorted((self.root / "images/overlay").rglob("*")):
            if path.is_file():
                path.read_bytes()
        (self.root / "links/link").read_bytes()
        assert not (self.root / "recipes/demo.tools.lock.json").is_file()
        with pytest.raises(FileNotFoundError):
            (self.root / "elsewhere/optional").read_bytes()

    def note(self, between: Callable[[], object] = lambda: None) -> None:
        """A full check that finds the image unchanged."""
        with watched() as watch:
            self.read()
            between()
        self.question().note(watch, self.found)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """As a test makes its files just before, no file is too young to be noted."""
    root = tmp_path / "checkout"
    for name in (
        "recipes/demo.yaml",
        "images/overlay/etc/a.conf",
        "images/overlay/usr/b",
        "links/target",
        "package/code.py",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"content")
    (root / "links/link").symlink_to("target")
    monkeypatch.chdir(root)
    monkeypatch.setattr(unchanged, "MARGIN", -60.0)
    monkeypatch.setattr(unchanged, "_PACKAGE", root / "package")
    return Place(root, Store(tmp_path / "store"), Unchanged(root / "out", ("a", "b"), ("a: cached",)))


def test_what_was_noted_is_recalled(place: Place) -> None:
    assert place.question().recall() is None
    place.note()
    assert place.question().recall() == place.found


def same_size_and_time(path: Path) -> None:
    before = path.stat()
    path.write_bytes(bytes(255 - byte for byte in path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def appears(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.touch()


def replaced(path: Path) -> None:
    """Another folder with equal files and times in the place of this one."""
    shutil.copytree(path, path.with_name("copy"), copy_function=shutil.copy2)
    path.rename(path.with_name("old"))
    path.with_name("copy").rename(path)


def another_link(path: Path) -> None:
    path.with_name("other").write_bytes(b"content")
    path.unlink()
    path.symlink_to("other")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("recipes/demo.yaml", same_size_and_time),
        ("recipes/demo.yaml", Path.unlink),
        ("images/overlay/etc/a.conf", lambda path: path.chmod(0o755)),
        ("images/overlay/etc/c.conf", appears),
        ("images/overlay/usr/deeper", Path.mkdir),
        ("images/overlay", replaced),
        ("links/link", another_link),
        ("links/target", same_size_and_time),
        ("recipes/demo.tools.lock.json", appears),
        ("elsewhere/optional", appears),
        ("out-of-nowhere.yaml", appears),  # a recipe in the current folder would be found first
        ("package/code.py", same_size_and_time),
        ("package/new.py", appears),
    ],
)
def test_each_change_is_noticed(place: Place, name: str, change: Callable[[Path], object]) -> None:
    place.note()
    change(place.root / name)
    assert place.question().recall() is None


def test_what_python_compiles_is_no_change(place: Place) -> None:
    place.note(lambda: (place.root / "package/code.py").read_bytes())
    (place.root / "package/__pycache__").mkdir()
    (place.root / "package/__pycache__/code.pyc").touch()
    assert place.question().recall() == place.found


def test_another_question_has_another_answer(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.note()
    assert place.question(target="recipes/demo.yaml").recall() is None
    assert place.question(output=Path("out")).recall() is None
    assert place.question(lock=Path("other.lock.json")).recall() is None
    monkeypatch.chdir(place.root / "recipes")
    assert place.question().recall() is None


def test_files_younger_than_the_check_are_not_noted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unchanged, "MARGIN", 3.0)
    place.note()
    assert not (place.store.root / unchanged.FOLDER).exists()


def test_a_file_that_changed_while_it_was_checked_is_not_noted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unchanged, "MARGIN", 0.0)
    time.sleep(0.05)
    place.note(lambda: same_size_and_time(place.root / "recipes/demo.yaml"))
    assert place.question().recall() is None
    time.sleep(0.05)
    place.note()
    assert place.question().recall() == place.found


def test_code_that_changed_during_the_check_is_not_noted(place: Place) -> None:
    place.note(lambda: appears(place.root / "package/new.py"))
    assert place.question().recall() is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: b"[]",
        lambda data: b"null",
        lambda data: b"{}",
        lambda data: b"\xff",
        lambda data: json.dumps(json.loads(data) | {"read": {}}).encode(),
        lambda data: json.dumps(json.loads(data) | {"read": []}).encode(),
        lambda data: json.dumps(json.loads(data) | {"steps": 1}).encode(),
        lambda data: json.dumps(json.loads(data) | {"directory": 1}).encode(),
        lambda data: json.dumps({k: v for k, v in json.loads(data).items() if k != "said"}).encode(),
    ],
)
def test_a_damaged_note_is_none(place: Place, damage: Callable[[bytes], bytes]) -> None:
    place.note()
    [note] = (place.store.root / unchanged.FOLDER).iterdir()
    note.write_bytes(damage(note.read_bytes()))
    assert place.question().recall() is None


def test_a_store_that_cannot_be_written_is_only_slower(place: Place) -> None:
    place.store.root.write_bytes(b"not a folder")
    place.note()
    assert place.question().recall() is None


def test_a_watch_sees_reads_and_listings_but_no_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abcdef":
        (tmp_path / name).touch()
    (tmp_path / "folder/inner").mkdir(parents=True)
    with watched() as watch:
        (tmp_path / "a").read_bytes()
        with open("b"), open(b"c"):
            pass
        os.close(os.open("d", os.O_RDONLY))
        (tmp_path / "e").write_bytes(b"")
        os.close(os.open(tmp_path / "f", os.O_RDWR))
        os.listdir("folder")
        list(os.scandir())
        list(Path("folder").rglob("*"))
    (tmp_path / "e").read_bytes()
    ours = {path.relative_to(tmp_path).as_posix() for path in watch.read if path.is_relative_to(tmp_path)}
    assert ours == {"a", "b", "c", "d", ".", "folder", "folder/inner"}


def test_image_checks_everything_only_when_something_changed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sample(place.root / "out")
    (place.root / "out/manifest.json").write_bytes(made.encode())
    monkeypatch.setenv("PRIVML_STORE", str(place.store.root))
    checks: list[bool] = []

    def build(asked: build_image.Asked, *, force: bool) -> SimpleNamespace:
        checks.append(force)
        place.read()
        for path in (place.root / "out").iterdir():
            path.read_bytes()
        say("root.raw: cached")
        because = {"root.raw": ("it was touched",) if asked.pools else ()}
        return SimpleNamespace(
            directory=place.root / "out", manifest=made, because=because, cached=not any(because.values())
        )

    monkeypatch.setattr(build_image, "build", build)

    def told(*words: str) -> tuple[str, str]:
        done = CliRunner().invoke(image, ["demo", *words], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout, done.stderr

    assert told("--pool", str(place.root))[0]
    assert checks == [False]  # a build notes nothing
    first = told()
    assert checks == [False] * 2
    assert told() == first
    assert "root.raw: cached\n" in first[1]
    plain = json.loads(told("--json")[0])
    assert len(checks) == 2
    assert plain["cached"] is True
    assert plain["steps"] == {"root.raw": {"because": [], "cached": True}}
    assert told("--force") == first
    assert checks == [False, False, True]
    assert told("--pool", str(place.root))[0]
    assert len(checks) == 4
    same_size_and_time(next((place.root / "out").glob("*.raw")))
    assert told()[1] == first[1]
    assert len(checks) == 5
