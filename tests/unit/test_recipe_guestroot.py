"""The list of the root's paths: finalize's checks, on trees with additional and removed paths."""

from __future__ import annotations

import fnmatch
import hashlib
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from privml.lock.trees import images_folder
from privml.recipe import guestroot, removals

SOURCE = (images_folder() / "mkosi/finalize.py").read_text()
CHECK = SOURCE[SOURCE.index("# -- refuse undeclared paths") : SOURCE.index("# -- the services' programs are there")]
HONEST = (
    "etc/passwd", "etc/systemd/system/default.target", "usr/bin/python3", "usr/lib/python3.14/json/decoder.py",
    "usr/lib/modules/7.2/kernel/fs/x.ko", "usr/lib/modules/7.2/modules.dep", "usr/lib/systemd/systemd-networkd",
    "usr/lib/systemd/system/systemd-networkd.service", "usr/lib/x86_64-linux-gnu/libc.so.6", "tmp", "var/tmp",
)  # fmt: skip


REMOVING = SOURCE[SOURCE.index("INITRD_INIT = ") : SOURCE.index("def fail(")]
LAST = SOURCE[SOURCE.index("# -- every overlay file") : SOURCE.index("for path in [root, *root")]


def fail(text: str) -> NoReturn:
    raise SystemExit(text)


def check(root: Path) -> None:
    names = {
        "root": root,
        "facts": {
            "paths": [*guestroot.ALLOWED, guestroot.OF_PYTHON.format(python="python3.14")],
            "forbidden": guestroot.FORBIDDEN,
            "units": guestroot.UNITS,
            "systemd": guestroot.SYSTEMD,
        },
        "overlay": {"etc/systemd/system/default.target", "usr/lib/privml/initrd-init"},
        "INITRD_INIT": "usr/lib/privml/initrd-init",
        "packages": {"etc/motd": "base-files", "usr/lib/python3.14/sh": "evil"},
        "fnmatch": fnmatch,
        "fail": fail,
    }
    exec(CHECK, names)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in HONEST:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if "tmp" in name else path.touch()
    return tmp_path


def test_a_declared_tree_passes(tree: Path) -> None:
    check(tree)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("etc/motd", r"/etc/motd \(base-files\) is not declared"),
        ("etc/systemd/system/evil.service", r"evil\.service \(no package\) is not declared"),
        ("etc/systemd/system/sub/default.target", "is not declared"),
        ("usr/lib/systemd/system/systemd-journald.service", "is forbidden"),
        ("usr/lib/systemd/systemd-run", "is not declared"),
        ("usr/lib/systemd/system-generators/x", "is not declared"),
        ("usr/lib/x86_64-linux-gnu/tool", "is not declared"),
        ("usr/lib/x86_64-linux-gnu/sub/libx.so", "is not declared"),
        ("usr/lib/modules/7.2/build/x", "is not declared"),
        ("usr/lib/python3.14/sh", r"/usr/lib/python3\.14/sh \(evil\) is forbidden"),
        ("usr/bin/busybox", "is forbidden"),
        ("opt/x", "/opt "),
        ("passwd", "/passwd "),
    ],
)
def test_an_undeclared_path_is_named(tree: Path, name: str, text: str) -> None:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with pytest.raises(SystemExit, match=text):
        check(tree)


def test_lists_are_in_order_and_do_not_contradict_each_other() -> None:
    for names in (guestroot.UNITS, guestroot.SYSTEMD):
        assert list(names) == sorted(set(names))
    assert len(set(guestroot.FORBIDDEN)) == len(guestroot.FORBIDDEN)
    for name in (*guestroot.UNITS, *guestroot.SYSTEMD):
        assert not any(fnmatch.fnmatchcase(name, bad) for bad in guestroot.FORBIDDEN)


OVERLAY = {
    "etc/motd": b"welcome",
    "etc/acme/a.json": b"{}",
    "opt/acme/a": b"a",
    "usr/share/acme/c": b"c",
    "etc/systemd/system/a.target.wants/a.service": "/usr/lib/systemd/system/a.service",
    "usr/lib/privml/initrd-init": b"init",
}


def facts_of(overlay: dict[str, bytes | str]) -> dict[str, str]:
    return {
        path: f"-> {content}" if isinstance(content, str) else hashlib.sha256(content).hexdigest()
        for path, content in overlay.items()
    }


def place(root: Path, overlay: dict[str, bytes | str]) -> None:
    for path, content in overlay.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            (root / path).symlink_to(content)
        else:
            (root / path).write_bytes(content)


def finalize(root: Path, overlay: dict[str, bytes | str], before: str = "") -> None:
    """Run finalize's removals and its last check on a tree."""
    names = {
        "root": root,
        "facts": {
            "overlay": facts_of(overlay),
            "removals": [[removal.why, removal.patterns] for removal in removals.REMOVALS],
        },
        "Path": Path,
        "shutil": shutil,
        "hashlib": hashlib,
        "fail": fail,
    }
    rules = SOURCE[SOURCE.index("for why, patterns in") : SOURCE.index('for name in ("usr/libexec",)')]
    exec(REMOVING + before + rules + LAST, names)


def test_each_overlay_file_that_is_removed_is_named_with_its_rule(tmp_path: Path) -> None:
    place(tmp_path, OVERLAY)
    with pytest.raises(SystemExit) as caught:
        finalize(tmp_path, OVERLAY)
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == [
        "/etc/motd",
        "/opt/acme/a",
        "/usr/share/acme/c",
        "/etc/systemd/system/a.target.wants/a.service",
    ]
    for line, pattern in zip(lines, ["etc/motd", "opt", "usr/share", "etc/systemd/system/*.wants/*"], strict=True):
        assert f"`{pattern}` is removed: " in line
    for path in OVERLAY:  # `lint` says the same before the build
        if path != "usr/lib/privml/initrd-init":
            assert (removals.lost(path, frozenset()) is not None) == any(f"/{path}:" in line for line in lines)


def test_an_overlay_file_that_stays_is_compared_with_what_was_given(tmp_path: Path) -> None:
    kept: dict[str, bytes | str] = {"etc/acme/a.json": b"{}", "etc/acme/link": "a.json"}
    place(tmp_path, kept)
    finalize(tmp_path, kept)
    (tmp_path / "etc/acme/a.json").write_bytes(b"[]")
    with pytest.raises(SystemExit, match="wrote another file"):
        finalize(tmp_path, kept)
    (tmp_path / "etc/acme/a.json").unlink()
    with pytest.raises(SystemExit, match=r"/etc/acme/a\.json: mkosi removed it"):
        finalize(tmp_path, kept)
    (tmp_path / "etc/acme/a.json").write_bytes(b"{}")
    (tmp_path / "etc/acme/link").unlink()
    (tmp_path / "etc/acme/link").symlink_to("elsewhere")
    with pytest.raises(SystemExit, match=r"/etc/acme/link: .*wrote another file"):
        finalize(tmp_path, kept)


def test_no_pattern_takes_what_every_image_needs() -> None:
    needed = [path for path in guestroot.ALLOWED if "*" not in path]
    assert [path for path in needed if any(removal.takes(path) for removal in removals.REMOVALS)] == []
    patterns = [pattern for removal in removals.REMOVALS for pattern in removal.patterns]
    assert len(patterns) == len(set(patterns))
