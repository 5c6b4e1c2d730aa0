"""The import contract: the rooms table of docs/ARCHITECTURE.md, checked against every import of the package."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from privml.lock.trees import AGENT_ROOTS, DEVELOPMENT_ROOTS, module_closure

REPOSITORY = Path(__file__).resolve().parents[2]
BUILDER = REPOSITORY / "builder"
PACKAGE = "privml"
GUEST_LIBRARIES = {"cryptography", "h11"}
_ROW = re.compile(r"^\| `([a-z]+)` \|.*\| ([^|]+?) \|$", re.MULTILINE)
# The caller judges quotes, revocation and reference values: neither their code nor a signature library belongs in the
# guest, which checks the chains and reports of its own GPUs.
VERIFIER_ONLY = {
    *(f"privml/evidence/tdx/{name}.py" for name in ("signature", "chain", "contents", "platform")),
    *(f"privml/evidence/nvidia/{name}.py" for name in ("ocsp", "rim", "signature")),
    *(f"privml/evidence/{name}.py" for name in ("gce", "gceformat", "protobuf")),
    *(f"privml/evidence/snp/{name}.py" for name in ("chain", "der", "leaf", "signature")),
}


def contract(page: str) -> dict[str, frozenset[str]]:
    """Room -> the rooms that it may import, in the table's order; ``ValueError`` for a malformed row."""
    found: dict[str, frozenset[str]] = {}
    for room, column in _ROW.findall(page.partition("## Rooms\n")[2].partition("\n## ")[0]):
        above = frozenset(found)
        if column == "standard library":
            allowed = frozenset[str]()
        elif column == "all above":
            allowed = above
        else:
            names = frozenset(column.removeprefix("everything but ").split(", "))
            if unknown := names - above:
                raise ValueError(f"`{room}`: {', '.join(sorted(unknown))}: expected names of rooms above it")
            allowed = above - names if column.startswith("everything but ") else names
        if room in found:
            raise ValueError(f"`{room}` has two rows")
        found[room] = allowed
    return found


@dataclass(frozen=True)
class Import:
    """One import statement, or one of its names: the absolute name, and its position."""

    file: str
    line: int
    name: str


def imports(root: Path, path: Path) -> Iterator[Import]:
    """Every import in a module, also nested or conditional ones; ``from package import name`` counts as both."""
    file = path.relative_to(root).as_posix()
    package = path.relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(path.read_bytes(), filename=file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            if base != PACKAGE:
                yield Import(file, node.lineno, base)
                continue
            for alias in node.names:
                yield Import(file, node.lineno, f"{base}.{alias.name}")
        elif isinstance(node, ast.Call) and (name := _imported_by_call(node)):
            yield Import(file, node.lineno, name)


def _imported_by_call(call: ast.Call) -> str:
    """The name that ``import_module`` or ``__import__`` is given as a literal; empty for any other call."""
    function = getattr(call.func, "id", getattr(call.func, "attr", ""))
    first = call.args[0] if call.args and function in ("import_module", "__import__") else None
    return str(first.value) if isinstance(first, ast.Constant) else ""


def violations(root: Path, allowed: dict[str, frozenset[str]]) -> list[str]:
    """Every import below ``root`` that the table forbids: file, line, what is imported, and the rule."""
    found = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).parts
        room = parts[1] if len(parts) > 2 else None
        for one in imports(root, path):
            top, _, rest = one.name.partition(".")
            imported = rest.partition(".")[0]
            where = f"{one.file}:{one.line}: imports {one.name}"
            if top != PACKAGE:
                if room == "base" and top not in sys.stdlib_module_names:
                    found.append(f"{where}: `base` may import: standard library")
            elif room is None and imported in allowed:
                found.append(f"{where}: a module outside the rooms may import none of them")
            elif room is not None and imported != room and imported in allowed:
                may = allowed.get(room, frozenset())
                if imported not in may:
                    names = ", ".join(name for name in allowed if name in may) or "standard library"
                    found.append(f"{where}: `{room}` may import: {names}")
    return found


def rooms(root: Path) -> list[str]:
    """The folders of the package that contain modules."""
    return sorted(path.name for path in (root / PACKAGE).iterdir() if path.is_dir() and any(path.rglob("*.py")))


ALLOWED = contract((REPOSITORY / "docs/ARCHITECTURE.md").read_text())


def test_every_import_follows_the_table_of_rooms() -> None:
    assert violations(BUILDER, ALLOWED) == []


def test_the_table_has_a_row_for_each_folder() -> None:
    assert rooms(BUILDER) == sorted(ALLOWED)


def test_guest_code_is_imported_by_no_host_room() -> None:
    assert [room for room, may in ALLOWED.items() if "sim" in may] == []
    assert [room for room, may in ALLOWED.items() if "agent" in may] == ["sim"]


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """A package with an empty folder for each room of the table."""
    for room in ("", *ALLOWED):
        (tmp_path / PACKAGE / room).mkdir(parents=True, exist_ok=True)
        (tmp_path / PACKAGE / room / "__init__.py").write_text("")
    return tmp_path


def judged(skeleton: Path, file: str, text: str) -> list[str]:
    (skeleton / PACKAGE / file).write_text(text)
    return violations(skeleton, ALLOWED)


BAD = [
    ("base", "events"),
    ("events", "machine"),
    ("events", "engines"),
    ("engines", "events"),
    ("engines", "evidence"),
    ("channel", "events"),
    ("channel", "evidence"),
    ("machine", "evidence"),
    ("evidence", "machine"),
    ("evidence", "statement"),
    ("output", "measure"),
    ("measure", "evidence"),
    ("verify", "measure"),
    ("recipe", "evidence"),
    ("store", "measure"),
    ("lock", "image"),
    ("lock", "machine"),
    ("image", "agent"),
    ("image", "vm"),
    ("vm", "repro"),
    ("repro", "client"),
    ("repro", "publish"),
    ("publish", "client"),
    ("client", "publish"),
    ("client", "recipe"),
    ("agent", "verify"),
    ("sim", "channel"),
    ("agent", "sim"),
    ("sim", "verify"),
    ("client", "sim"),
    ("readers", "verify"),
    ("host", "repro"),
    ("readers", "agent"),
    ("cli", "agent"),
    ("cli", "sim"),
]


@pytest.mark.parametrize(("room", "imported"), BAD)
def test_an_import_outside_the_table_is_reported_with_file_line_and_rule(
    skeleton: Path, room: str, imported: str
) -> None:
    found = judged(skeleton, f"{room}/bad.py", f"def late() -> None:\n    from privml.{imported} import thing\n")
    may = ", ".join(name for name in ALLOWED if name in ALLOWED[room]) or "standard library"
    assert found == [f"privml/{room}/bad.py:2: imports privml.{imported}: `{room}` may import: {may}"]


@pytest.mark.parametrize(
    "statement",
    [
        "import privml.machine.qemu",
        "import os, privml.machine as other",
        "from privml import machine",
        "from privml.machine.qemu import Boot",
        "from .. import machine",
        "from ..machine import qemu",
        "if TYPE_CHECKING:\n    from privml.machine import qemu",
        "import importlib\nimportlib.import_module('privml.machine.qemu')",
        "__import__('privml.machine')",
    ],
)
def test_every_form_of_import_is_seen(skeleton: Path, statement: str) -> None:
    found = judged(skeleton, "evidence/bad.py", f"{statement}\n")
    assert len(found) == 1
    assert found[0].endswith("`evidence` may import: base, events")


def test_a_relative_import_in_a_subpackage_is_resolved_from_there(skeleton: Path) -> None:
    (skeleton / "privml/evidence/tdx").mkdir()
    assert judged(skeleton, "evidence/tdx/good.py", "from ..quote import parse\nfrom . import other\n") == []
    found = judged(skeleton, "evidence/tdx/__init__.py", "from ...machine import qemu\n")
    assert [line.partition(":")[0] for line in found] == ["privml/evidence/tdx/__init__.py"]


def test_imports_within_the_table_are_allowed(skeleton: Path) -> None:
    text = "import os\nimport yaml\nfrom privml import __version__\nfrom privml.evidence import thing\n"
    assert judged(skeleton, "verify/good.py", text + "from privml.verify.policy import Policy\n") == []


def test_base_imports_the_standard_library_only(skeleton: Path) -> None:
    found = judged(skeleton, "base/bad.py", "import json\nimport yaml\n")
    assert found == ["privml/base/bad.py:2: imports yaml: `base` may import: standard library"]


def test_a_module_outside_the_rooms_imports_none_of_them(skeleton: Path) -> None:
    found = judged(skeleton, "__init__.py", "from privml.base import errors\n")
    assert found == ["privml/__init__.py:1: imports privml.base: a module outside the rooms may import none of them"]


def test_a_folder_without_a_row_is_found(skeleton: Path) -> None:
    assert [room for room in rooms(skeleton) if room not in ALLOWED] == []
    (skeleton / "privml/attic/deep").mkdir(parents=True)
    (skeleton / "privml/attic/deep/thing.py").write_text("")
    assert [room for room in rooms(skeleton) if room not in ALLOWED] == ["attic"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["base", "events: machine", "machine: base"], "`events`: machine: expected names of rooms above it"),
        (["base", "events: base, bases"], "`events`: bases: expected names of rooms above it"),
        (["base", "events: everything but sim"], "`events`: sim: expected names of rooms above it"),
        (["base", "events: base", "events: base"], "`events` has two rows"),
    ],
)
def test_a_malformed_table_is_refused(rows: list[str], message: str) -> None:
    lines = []
    for row in rows:
        room, _, may = row.partition(": ")
        lines.append(f"| `{room}` | things | {may or 'standard library'} |")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        contract("\n".join(["## Rooms", *lines]))


def test_all_above_and_everything_but_refer_to_the_rows_above() -> None:
    rows = [
        "| `a` | | standard library |",
        "| `b` | | all above |",
        "| `c` | | everything but a |",
        "| `d` | | all above |",
    ]
    assert contract("\n".join(["## Rooms", *rows])) == {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"a", "b", "c"}}


@pytest.mark.parametrize("roots", [AGENT_ROOTS, DEVELOPMENT_ROOTS])
def test_guest_modules_only_import_what_the_guest_has(roots: tuple[str, ...]) -> None:
    files = module_closure(BUILDER, roots)
    assert len(files) > 20
    carried = {Path(file).parts[1] for file in files if len(Path(file).parts) > 2}
    named = {root.partition(".")[2] for root in roots}
    assert {"base", "channel", "events", "evidence"} <= carried
    assert carried <= {*ALLOWED["agent"], *named}
    rooms = {Path(file).parts[1] for file in files if len(Path(file).parts) > 2}
    assert rooms == {"base", "channel", "engines", "events", "evidence", *(root.partition(".")[2] for root in roots)}
    assert all((BUILDER / file).is_file() for file in VERIFIER_ONLY)
    assert not VERIFIER_ONLY & files
    assert {f"privml/evidence/nvidia/{name}.py" for name in ("chain", "report", "roles")} <= files
    outside = {
        (one.file, top)
        for file in files
        for one in imports(BUILDER, BUILDER / file)
        if (top := one.name.partition(".")[0]) not in sys.stdlib_module_names
    }
    assert {top for _, top in outside} <= {PACKAGE, *GUEST_LIBRARIES}, sorted(outside)
