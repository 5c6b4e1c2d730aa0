"""The list of the root's paths: finalize's checks, on trees with additional and removed paths."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from privml.lock.trees import images_folder
from privml.recipe import guestroot, removals

SOURCE = (images_folder() / "mkosi/finalize.py").read_text()
CHECK = SOURCE[SOURCE.index("# -- refuse undeclared paths") : SOURCE.index("# -- every overlay file")]
HONEST = (
    "etc/passwd", "etc/systemd/system/default.target", "usr/bin/python3", "usr/lib/python3.14/json/decoder.py",
    "usr/lib/modules/7.2/kernel/fs/x.ko", "usr/lib/modules/7.2/modules.dep", "usr/lib/systemd/systemd-networkd",
    "usr/lib/systemd/system/systemd-networkd.service", "usr/lib/x86_64-linux-gnu/libc.so.6", "tmp", "var/tmp",
)  # fmt: skip


# Files and folders of the package `acme`, which the recipe names.
ADDED = (
    "etc/acme", "etc/acme/a.conf", "etc/python3.14.d", "usr/lib/acme", "usr/lib/acme/data",
    "usr/lib/python3/dist-packages",
    "usr/lib/python3/dist-packages/acme", "usr/lib/python3/dist-packages/acme/a.py",
    "usr/lib/python3/dist-packages/b.py", "usr/lib/python3/dist-packages/acme.pth", "var/lib/acme", "var/lib/acme/x",
    "usr/lib/acme/sh",
)  # fmt: skip
REMOVING = SOURCE[SOURCE.index("INITRD_INIT = ") : SOURCE.index("def fail(")]
LAST = SOURCE[SOURCE.index("# -- every overlay file") : SOURCE.index("for path in [root, *root")]


def fail(text: str) -> NoReturn:
    raise SystemExit(text)


def check(root: Path, *programs: str, wheels: object = None) -> None:
    names = {
        "root": root,
        "facts": {
            "paths": [*guestroot.ALLOWED, guestroot.OF_PYTHON.format(python="python3.14")],
            "forbidden": guestroot.FORBIDDEN,
            "units": guestroot.UNITS,
            "systemd": guestroot.SYSTEMD,
            "added": ["acme"],
            "own_programs": programs,
            "services": [],
            "wheels": wheels,
        },
        "Path": Path,
        "overlay": {"etc/systemd/system/default.target", "usr/lib/privml/initrd-init"},
        "INITRD_INIT": "usr/lib/privml/initrd-init",
        "packages": {"etc/motd": "base-files", "usr/lib/python3.14/sh": "evil", **dict.fromkeys(ADDED, "acme:amd64")},
        "fnmatch": fnmatch,
        "re": re,
        "subprocess": subprocess,
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


WHEELS = {"directory": "usr/lib/python-wheels", "files": {"a/__init__.py": "", "a/sh": "", "b.so": ""}, "imports": []}
OF_WHEELS = tuple(
    f"usr/lib/python-wheels/{name}" for name in (*WHEELS["files"], "a/__pycache__/__init__.cpython-314.pyc")
)


def test_files_of_wheels_and_what_is_compiled_from_them_pass(tree: Path) -> None:
    put(tree, *OF_WHEELS)
    check(tree, wheels=WHEELS)
    with pytest.raises(SystemExit, match=r"/usr/lib/python-wheels/b.so .* is not declared"):
        check(tree)


@pytest.mark.parametrize(
    "name", ["a/other.py", "c.so", "a/__pycache__/other.cpython-314.pyc", "c/x", "__pycache__/a.cpython-314.pyc"]
)
def test_other_files_in_the_folder_of_the_wheels_are_refused(tree: Path, name: str) -> None:
    put(tree, *OF_WHEELS, f"usr/lib/python-wheels/{name}")
    with pytest.raises(SystemExit, match=f"/usr/lib/python-wheels/{name.partition('/')[0]}.* is not declared"):
        check(tree, wheels=WHEELS)


def put(tree: Path, *names: str) -> None:
    for name in names:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()


def test_of_a_package_that_the_recipe_names_only_what_is_in_usr_lib_stays(tree: Path) -> None:
    kept = (
        "usr/lib/acme/data", "usr/lib/python3/dist-packages/acme/a.py",
        "usr/lib/python3/dist-packages/acme/__pycache__/a.cpython-314.pyc",
        "usr/lib/python3/dist-packages/__pycache__/b.cpython-314.pyc", "usr/lib/python3/dist-packages/b.py",
    )  # fmt: skip
    put(tree, *kept, "etc/acme/a.conf", "var/lib/acme/x")
    check(tree)
    assert [name for name in kept if not (tree / name).is_file()] == []
    assert not (tree / "etc/acme").exists()
    assert not (tree / "var/lib/acme").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("usr/lib/acme/other", r"usr/lib/acme/other \(no package\) is not declared"),
        ("usr/lib/acme/sh", r"usr/lib/acme/sh \(acme:amd64\) is forbidden"),
        ("usr/lib/python3/dist-packages/acme.pth", "acme.pth .* would run at the start of every Python program"),
        ("usr/lib/python3/dist-packages/__pycache__/c.cpython-314.pyc", "is not declared"),
        ("etc/acme/b.conf", r"etc/acme/b.conf \(no package\) is not declared"),
    ],
)
def test_a_package_that_the_recipe_names_brings_no_more(tree: Path, name: str, text: str) -> None:
    put(tree, "usr/lib/acme/data", "usr/lib/python3/dist-packages/b.py", name)
    with pytest.raises(SystemExit, match=text):
        check(tree)


def test_a_script_whose_interpreter_is_not_there_is_refused(tree: Path) -> None:
    (tree / "usr/bin/acme").write_bytes(b"#!/usr/bin/python3 -B\nprint()\n")
    check(tree, "acme")
    (tree / "usr/bin/acme").write_bytes(b"#! /bin/sh\n")
    with pytest.raises(SystemExit, match="/usr/bin/acme is a script for /bin/sh, which is not in the guest"):
        check(tree, "acme")


PROGRAMS = SOURCE[SOURCE.index('for name in facts["own_programs"]:') : SOURCE.index("present = {path.name")]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: None, "the recipe keeps the program acme, which none of its packages and files has"),
        (
            lambda path: path.symlink_to("/etc/alternatives/acme"),
            r"\(acme\) is a link to /etc/alternatives/acme, which",
        ),
        (lambda path: path.symlink_to("absent"), "is a link to absent, which is not in the guest"),
        (lambda path: (path.touch(), path.chmod(0o4755)), "has a set-id bit or capabilities"),
        (lambda path: (path.touch(), path.chmod(0o2755)), "has a set-id bit or capabilities"),
    ],
)
def test_programs_that_cannot_stay_are_refused(tree: Path, make: Callable[[Path], object], text: str) -> None:
    make(tree / "usr/bin/acme")
    names = {
        "root": tree,
        "facts": {"own_programs": ["acme"]},
        "packages": {"usr/bin/acme": "acme"},
        "os": os,
        "fail": fail,
    }
    with pytest.raises(SystemExit, match=text):
        exec(PROGRAMS, names)
    (tree / "usr/bin/acme").unlink(missing_ok=True)
    put(tree, "usr/bin/acme")
    exec(PROGRAMS, names)


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


def finalize(root: Path, overlay: dict[str, bytes | str], before: str = "", wheels: object = None) -> None:
    """Run finalize's removals and its last check on a tree."""
    names = {
        "root": root,
        "facts": {
            "overlay": facts_of(overlay),
            "removals": [[removal.why, removal.patterns] for removal in removals.REMOVALS],
        },
        "wheels": wheels or {"directory": "", "files": {}, "imports": []},
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


def test_a_file_of_a_wheel_is_compared_with_what_was_given(tmp_path: Path) -> None:
    file = tmp_path / "usr/lib/python-wheels/a.py"
    put(tmp_path, "usr/lib/python-wheels/a.py")
    wheels = {"directory": "usr/lib/python-wheels", "files": {"a.py": hashlib.sha256(b"").hexdigest()}, "imports": []}
    finalize(tmp_path, {}, wheels=wheels)
    file.write_bytes(b"x")
    with pytest.raises(SystemExit, match=r"/usr/lib/python-wheels/a.py: the build wrote another file"):
        finalize(tmp_path, {}, wheels=wheels)
    file.unlink()
    with pytest.raises(SystemExit, match=r"/usr/lib/python-wheels/a.py: mkosi removed it"):
        finalize(tmp_path, {}, wheels=wheels)
