"""The list of the root's paths: finalize's check, on trees with additional paths."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import NoReturn

import pytest

from privml.image import paths
from privml.lock.trees import images_folder

SOURCE = (images_folder() / "mkosi/finalize.py").read_text()
CHECK = SOURCE[SOURCE.index("# -- refuse undeclared paths") : SOURCE.index("for path in [root, *root")]
HONEST = (
    "etc/passwd", "etc/systemd/system/default.target", "usr/bin/python3", "usr/lib/python3.14/json/decoder.py",
    "usr/lib/modules/7.2/kernel/fs/x.ko", "usr/lib/modules/7.2/modules.dep", "usr/lib/systemd/systemd-networkd",
    "usr/lib/systemd/system/systemd-networkd.service", "usr/lib/x86_64-linux-gnu/libc.so.6", "tmp", "var/tmp",
)  # fmt: skip


def check(root: Path) -> None:
    def fail(text: str) -> NoReturn:
        raise SystemExit(text)

    names = {
        "root": root,
        "facts": {
            "paths": [*paths.ALLOWED, paths.OF_PYTHON.format(python="python3.14")],
            "forbidden": paths.FORBIDDEN,
            "units": paths.UNITS,
            "systemd": paths.SYSTEMD,
        },
        "overlay": {"etc/systemd/system/default.target", "usr/lib/privml/initrd-init"},
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
    for names in (paths.UNITS, paths.SYSTEMD):
        assert list(names) == sorted(set(names))
    assert len(set(paths.FORBIDDEN)) == len(paths.FORBIDDEN)
    for name in (*paths.UNITS, *paths.SYSTEMD):
        assert not any(fnmatch.fnmatchcase(name, bad) for bad in paths.FORBIDDEN)
