"""The agent's module closure and the guest's overlays."""

from __future__ import annotations

from pathlib import Path

import pytest

from privml.base.errors import InputsError
from privml.lock.models import Tree
from privml.lock.trees import agent_tree, guest_tree, images_folder, module_closure
from privml.recipe.loader import load, shipped
from privml.recipe.models import Content


def of(recipe: str) -> Content:
    return load(shipped() / f"{recipe}.yaml").content


PRODUCTION = of("demo-cpu")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    texts = {
        "privml/__init__.py": "",
        "privml/agent/__init__.py": "",
        "privml/agent/main.py": "import json\nfrom privml.base import files\nfrom . import other\nimport h11.x\n",
        "privml/agent/other.py": (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import privml.unused, pydantic\n"
            "else:\n    import privml.base.late\n"
        ),
        "privml/agent/data.pem": "pem",
        "privml/agent/__pycache__/main.pyc": "junk",
        "privml/base/__init__.py": "from privml.base.errors import Error\n",
        "privml/base/errors.py": "class Error: ...\n",
        "privml/base/files.py": "def f():\n    from ..deep.inner import name\n",
        "privml/base/late.py": "",
        "privml/deep/__init__.py": "",
        "privml/deep/inner.py": "name = 1\n",
        "privml/unused.py": "",
        "privml/sim/__init__.py": "import cryptography\n",
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def names(tree: Tree) -> list[str]:
    return [file.path for file in tree.files]


def test_the_closure_has_exactly_the_imported_modules(source: Path) -> None:
    production = [
        "privml/__init__.py",
        "privml/agent/__init__.py",
        "privml/agent/data.pem",
        "privml/agent/main.py",
        "privml/agent/other.py",
        "privml/base/__init__.py",
        "privml/base/errors.py",
        "privml/base/files.py",
        "privml/base/late.py",
        "privml/deep/__init__.py",
        "privml/deep/inner.py",
    ]
    assert names(agent_tree("production", source)) == production
    assert names(agent_tree("development", source)) == sorted([*production, "privml/sim/__init__.py"])


def test_the_digest_depends_only_on_content(source: Path) -> None:
    first = agent_tree("production", source)
    (source / "privml/agent/main.py").touch()
    assert agent_tree("production", source) == first
    (source / "privml/deep/inner.py").write_text("name = 2\n")
    assert agent_tree("production", source).sha256 != first.sha256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import pydantic\n", "privml/agent/bad.py:1: imports `pydantic`, which the guest does not have"),
        ("import privml.gone\n", "`privml.gone`, which does not exist"),
        ("def f(:\n", "privml/agent/bad.py:1: "),
    ],
)
def test_modules_the_guest_cannot_import_are_refused(source: Path, text: str, message: str) -> None:
    (source / "privml/agent/bad.py").write_text(text)
    with pytest.raises(InputsError) as caught:
        module_closure(source, ["privml.agent"])
    assert message in caught.value.message


def test_the_agent_s_closure_is_complete() -> None:
    production = names(agent_tree("production"))
    assert "privml/agent/__init__.py" in production
    assert not [name for name in production if name.startswith("privml/sim/")]
    rooms = {"__init__.py", "agent", "base", "channel", "engines", "events", "evidence"}
    assert {name.split("/")[1] for name in production} == rooms


def test_guest_overlays_are_chosen_by_variant(tmp_path: Path) -> None:
    for name in (
        "guest/common/etc/a",
        "guest/development/etc/b",
        "guest/engine/etc/d",
        "guest/production/etc/c",
        "initrd/init",
        "mkosi/x.j2",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "initrd/init").chmod(0o775)
    (tmp_path / "guest/common/etc/masked").symlink_to("/dev/null")
    tree = guest_tree(tmp_path, PRODUCTION)
    assert [(file.path, file.kind) for file in tree.files] == [
        ("guest/common/etc/a", "file"),
        ("guest/common/etc/masked", "symlink"),
        ("guest/engine/etc/d", "file"),
        ("guest/production/etc/c", "file"),
        ("initrd/init", "executable"),
        ("mkosi/x.j2", "file"),
    ]
    (tmp_path / "initrd/init").chmod(0o755)
    assert guest_tree(tmp_path, PRODUCTION) == tree
    (tmp_path / "initrd/init").chmod(0o644)
    assert guest_tree(tmp_path, PRODUCTION) != tree
    assert "guest/development/etc/b" in names(guest_tree(tmp_path, of("demo-cpu-dev")))
    assert names(guest_tree(tmp_path, of("tdx-min"))) == [
        name for name in names(tree) if name != "guest/engine/etc/d"
    ]


def test_missing_overlays_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputsError, match="none of the guest's own files"):
        guest_tree(tmp_path, PRODUCTION)


def test_the_shipped_overlays_are_complete() -> None:
    assert "initrd/init" in names(guest_tree(images_folder(), PRODUCTION))
    without = names(guest_tree(images_folder(), of("tdx-min")))
    assert not [name for name in without if "engine" in name]
