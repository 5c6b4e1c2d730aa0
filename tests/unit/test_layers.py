"""Which room may know which: the table of docs/ARCHITECTURE.md, the linter's contract, and the code are one."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from privml.lock.trees import AGENT_ROOTS, DEVELOPMENT_ROOTS, module_closure

REPOSITORY = Path(__file__).resolve().parents[2]
BUILDER = REPOSITORY / "builder"
GUEST_LIBRARIES = {"cryptography", "h11"}


def table() -> dict[str, str]:
    """Room -> the text of its last column, in the table's order."""
    text = (REPOSITORY / "docs/ARCHITECTURE.md").read_text()
    return dict(re.findall(r"^\| `([a-z]+)` \|.*\| ([^|]+?) \|$", text, re.MULTILINE))


def contracts() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    return found


def narrowed() -> dict[str, set[str]]:
    """Rooms that may import less than everything above them -> what they may import."""
    result = {}
    for room, column in table().items():
        if column not in ("standard library", "all above", "everything"):
            result[room] = set(re.findall(r"[a-z]+", column.replace("agent's interfaces", "agent")))
    return result


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder / "builder"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def skeleton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with our rooms and our contract, and nothing in it."""
    folder = tmp_path_factory.mktemp("skeleton")
    for room in ("", *table()):
        (folder / "builder/privml" / room).mkdir(parents=True, exist_ok=True)
        (folder / "builder/privml" / room / "__init__.py").write_text("")
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    return folder


def test_the_code_keeps_the_contract() -> None:
    done = lint(REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(contracts())} kept, 0 broken" in done.stdout


def test_the_table_names_every_room_that_there_is() -> None:
    assert sorted(table()) == sorted(path.parent.name for path in (BUILDER / "privml").glob("*/__init__.py"))


def test_the_contract_is_the_table() -> None:
    rooms = list(table())
    layers = [contract for contract in contracts() if contract["type"] == "layers"]
    assert len(layers) == 1
    assert layers[0]["layers"] == rooms[::-1]
    assert layers[0]["exhaustive"] is True
    forbidden = {
        contract["source_modules"][0]: contract["forbidden_modules"]
        for contract in contracts()
        if contract["type"] == "forbidden"
    }
    assert forbidden == {
        f"privml.{room}": [f"privml.{other}" for other in rooms if other != room and other not in allowed]
        for room, allowed in narrowed().items()
    }
    assert not [contract for contract in contracts() if "ignore_imports" in contract]


BAD = [
    ("base", "events"),
    ("events", "machine"),
    ("machine", "evidence"),
    ("evidence", "machine"),
    ("evidence", "statement"),
    ("measure", "evidence"),
    ("verify", "measure"),
    ("recipe", "events"),
    ("store", "measure"),
    ("lock", "image"),
    ("lock", "machine"),
    ("image", "agent"),
    ("image", "vm"),
    ("vm", "repro"),
    ("repro", "client"),
    ("client", "recipe"),
    ("agent", "verify"),
    ("agent", "sim"),
    ("sim", "verify"),
    ("client", "sim"),
    ("cli", "sim"),
]


@pytest.fixture(scope="module")
def told(skeleton: Path) -> str:
    """What the linter says of a package with every import of ``BAD``, one a module."""
    for room, imported in BAD:
        module = skeleton / f"builder/privml/{room}/bad_{imported}.py"
        module.write_text(f"def late() -> None:\n    from privml.{imported} import thing\n")
    done = lint(skeleton)
    for room, imported in BAD:
        (skeleton / f"builder/privml/{room}/bad_{imported}.py").unlink()
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("room", "imported"), BAD)
def test_an_import_outside_the_table_is_caught(told: str, room: str, imported: str) -> None:
    assert f"privml.{room}.bad_{imported} -> privml.{imported} " in told


def test_imports_within_the_table_are_fine_and_an_unknown_room_is_not(skeleton: Path) -> None:
    (skeleton / "builder/privml/verify/good.py").write_text("from privml.evidence import thing\n")
    done = lint(skeleton)
    assert done.returncode == 0, done.stdout + done.stderr
    (skeleton / "builder/privml/attic").mkdir()
    (skeleton / "builder/privml/attic/__init__.py").write_text("")
    done = lint(skeleton)
    assert done.returncode == 1
    assert "attic" in done.stdout + done.stderr


@pytest.mark.parametrize("roots", [AGENT_ROOTS, DEVELOPMENT_ROOTS])
def test_the_guest_carries_only_modules_that_need_what_the_guest_has(roots: tuple[str, ...]) -> None:
    files = module_closure(BUILDER, roots)
    assert len(files) > 20
    rooms = {Path(file).parts[1] for file in files if len(Path(file).parts) > 2}
    assert rooms == {"base", "events", "evidence", *(root.partition(".")[2] for root in roots)}
    outside = {
        (file, name) for file in files for name in _imported(BUILDER / file) if name not in sys.stdlib_module_names
    }
    assert {name for _, name in outside} <= {"privml", *GUEST_LIBRARIES}, sorted(outside)


def _imported(path: Path) -> set[str]:
    """Top-level packages of every import statement, wherever it stands and whatever guards it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").partition(".")[0])
    return names
