"""Triton 3.6 with the launcher of `images/triton`, compared with the launchers that it compiles itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from privml.base.run import run
from privml.image import triton
from privml.image.workplace import Workplace
from privml.recipe.compiled import TRITON
from privml.store.pypi import ensure_wheel

LAUNCHES = Path(__file__).parent / "launches"
WHEEL_SHA256 = "10c7f76c6e72d2ef08df639e3d0d30729112f47a56b0c81672edc05ee5116ac9"
SEED, KERNELS = 20261129, 240
PYTHON = shutil.which("python3.13")
# Left out: what only profiles, and the assembler for GPUs that are not compiled for.
UNUSED = re.compile(r"triton/(profiler/|_C/libproton|backends/nvidia/(lib/cupti/|bin/ptxas-blackwell))")
PARSED = re.compile(r"argument \d+|function takes")

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.environ.get("PRIVML_GPU") != "1", reason="190 MB to fetch, a compiler: `make check-gpu`"),
    pytest.mark.skipif(PYTHON is None, reason="this host has no python3.13"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="this host has no gcc"),
]


def compiler(argv: list[str], place: Path) -> object:
    return run(argv, cwd=place)


@dataclass(frozen=True)
class Python:
    """The Python that the wheel is for."""

    program: str
    include: Path
    suffix: str


@dataclass(frozen=True)
class Trees:
    """Triton as its wheel has it, and without a compiler; and the directory of the recording libcuda."""

    python: Python
    wheel: Path
    ours: Path
    libcuda: Path

    def command(self, tree: Path, script: str, *words: object) -> list[str]:
        return [self.python.program, str(LAUNCHES / script), *map(str, words)]

    def environment(self, tree: Path, cache: Path) -> dict[str, str]:
        """A compiler is found only by the wheel's Triton."""
        path = "/usr/bin:/bin" if tree == self.wheel else "/nonexistent"
        libcuda = {"LD_LIBRARY_PATH": str(self.libcuda), "TRITON_LIBCUDA_PATH": str(self.libcuda)}
        return {"PATH": path, "PYTHONPATH": str(tree), "TRITON_CACHE_DIR": str(cache), "HOME": str(cache), **libcuda}

    def run(self, tree: Path, cache: Path, script: str, *words: object) -> str:
        cache.mkdir(exist_ok=True)
        return run(self.command(tree, script, *words), env=self.environment(tree, cache), timeout=900).stdout.decode()


@pytest.fixture(scope="module")
def python() -> Python:
    asked = "import sys, sysconfig as s; print(sys.executable, s.get_path('include'), s.get_config_var('EXT_SUFFIX'))"
    # pyenv's `python3.13` is a script that looks at this variable; to others it means nothing.
    environment = {**os.environ, "PYENV_VERSION": "3.13"}
    done = subprocess.run([str(PYTHON), "-c", asked], check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        pytest.skip(f"{PYTHON} does not run: {done.stderr.strip()}")
    words = done.stdout.split()
    if not (Path(words[1]) / "Python.h").is_file():
        pytest.skip(f"{words[0]} has no Python.h")
    return Python(words[0], Path(words[1]), words[2])


def made(tree: Path, python: Python, include: Path, work: Path) -> dict[str, bytes]:
    """What the build makes of the Triton in ``tree``."""
    backend = tree / TRITON.folder
    driver, utils = ((backend / name).read_bytes() for name in (TRITON.changed, TRITON.source))
    return triton.files(driver, utils, [include, backend / "include"], python.suffix, work, compiler)


@pytest.fixture(scope="module")
def trees(python: Python, tmp_path_factory: pytest.TempPathFactory) -> Trees:
    place, store = tmp_path_factory.mktemp("triton"), Workplace().store
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PIP_PYTHON_VERSION", "3.13")
        ensure_wheel(store, "triton", TRITON.version, WHEEL_SHA256)
    with zipfile.ZipFile(store.path(WHEEL_SHA256)) as archive:
        archive.extractall(place / "wheel", [name for name in archive.namelist() if not UNUSED.match(name)])
    (place / "wheel" / TRITON.folder / "bin/ptxas").chmod(0o755)
    shutil.copytree(place / "wheel", place / "ours", copy_function=os.link)
    (place / "work").mkdir()
    for name, data in made(place / "ours", python, python.include, place / "work").items():
        (place / "ours" / name).unlink(missing_ok=True)  # a link to the wheel's
        (place / "ours" / name).write_bytes(data)
    (place / "libcuda").mkdir()
    include = place / "wheel" / TRITON.folder / "include"
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-isystem", include]
    run(["gcc", *flags, "-o", place / "libcuda/libcuda.so.1", LAUNCHES / "libcuda.c"])
    return Trees(python, place / "wheel", place / "ours", place / "libcuda")


def launched(call: dict[str, Any]) -> bool:
    return any(line.startswith("cuLaunchKernelEx") for line in call["seen"])


def problem(ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """What is wrong with our launch, compared with that of a generated launcher; None if it is as ADR 0066 says."""
    name, other = ((call["raised"] or [None])[0] for call in (ours, theirs))
    if name != other:
        return f"raises {ours['raised']}, expected {theirs['raised']}"
    if ours["expected"].startswith("both raise"):
        return None if name and launched(theirs) and not launched(ours) else "must raise instead of launching"
    if ours["expected"].startswith("the generated one launches nothing"):
        return None if launched(ours) and not launched(theirs) else "must launch a grid of more than 2^31 blocks"
    if ours["seen"] != theirs["seen"]:
        return f"got {ours['seen']}, expected {theirs['seen']}"
    # The wording of malformed arguments is each launcher's own; everything else is read by users of Triton.
    if name and not PARSED.match(theirs["raised"][1]) and ours["raised"] != theirs["raised"]:
        return f"says {ours['raised'][1]}, expected {theirs['raised'][1]}"
    return None


def test_every_generated_signature_is_launched_as_by_tritons_own_launcher(trees: Trees, tmp_path: Path) -> None:
    found = []
    for tree in (trees.ours, trees.wheel):
        text = trees.run(tree, tmp_path / tree.name, "calls.py", SEED, 0, KERNELS)
        found.append([json.loads(line) for line in text.splitlines()])
    ours, theirs = found
    assert len(ours) == len(theirs) > 40 * KERNELS
    wrong = [
        f"{mine['signature']} {mine['fault'] or 'honest'}: {what}"
        for mine, other in zip(ours, theirs, strict=True)
        if (what := problem(mine, other))
    ]
    assert wrong == []
    # What was compared: launches with each attribute, each exception, and the kinds of difference.
    launches = [line for call in ours for line in call["seen"] if line.startswith("cuLaunchKernelEx")]
    assert len(launches) > 10 * KERNELS
    for attribute in ("6:1", "2:1", "4:2,1,1", "4:16,1,1", "5:1"):
        assert sum(f"attribute {attribute}" in line for line in launches) > 50, attribute
    raised = Counter((call["raised"] or ["nothing"])[0] for call in theirs)
    assert {"TypeError", "OverflowError", "ValueError", "RuntimeError", "ArithmeticError"} < set(raised)
    assert min(Counter(call["expected"] for call in ours).values()) >= KERNELS


def test_a_kernel_for_h100_is_compiled_and_launched_without_a_c_compiler(trees: Trees, tmp_path: Path) -> None:
    ours, theirs = (
        json.loads(trees.run(tree, tmp_path / tree.name, "kernel.py")) for tree in (trees.ours, trees.wheel)
    )
    assert ours["seen"] == theirs["seen"]
    assert sum(line.startswith("cuLaunchKernelEx") for line in ours["seen"]) == 2
    assert (ours["programs"], ours["mapped"]) == (["ptxas"], [])
    assert "gcc" in theirs["programs"]
    assert theirs["mapped"] == ["__triton_launcher", "cuda_utils"]


def test_a_cache_that_forbids_execution_is_enough(trees: Trees, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    mount = f'mount -t tmpfs -o noexec tmpfs "{cache}"'
    apart = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c"]
    if run([*apart, mount], check=False).returncode:
        pytest.skip("this host forbids mounts")

    def done(tree: Path) -> Any:
        environment = trees.environment(tree, cache)
        path = environment.pop("PATH")
        words = [*apart, f'{mount} && PATH={path} exec "$@"', "sh", *trees.command(tree, "kernel.py")]
        return run(words, env=environment, check=False, timeout=300)

    ours = done(trees.ours)
    assert ours.returncode == 0, ours.stderr.decode()
    theirs = done(trees.wheel)
    assert theirs.returncode != 0
    assert b"failed to map segment" in theirs.stderr


def test_the_wheel_alone_asks_for_a_compiler(trees: Trees, tmp_path: Path) -> None:
    environment = trees.environment(trees.wheel, tmp_path) | {"PATH": "/nonexistent"}
    done = run(trees.command(trees.wheel, "kernel.py"), env=environment, check=False, timeout=300)
    assert done.returncode != 0
    assert b"Failed to find C compiler" in done.stderr


def test_two_builds_in_different_places_are_equal_and_name_none(trees: Trees, tmp_path: Path) -> None:
    for place in (tmp_path / "a", tmp_path / "elsewhere/with a longer name"):
        tree, include = place / "tree", place / "python"
        shutil.copytree(
            trees.wheel / TRITON.folder, tree / TRITON.folder, ignore=shutil.ignore_patterns("bin", "lib")
        )
        shutil.copytree(trees.python.include, include)
        (place / "work").mkdir()
        found = made(tree, trees.python, include, place / "work")
        assert len(found) == 1 + len(TRITON.modules)
        for name, data in found.items():
            assert data == (trees.ours / name).read_bytes(), name
            assert str(tmp_path).encode() not in data
            assert b"/usr/" not in data or name == TRITON.path


REFUSED = """
from triton.backends.nvidia.privml_launcher import launch
base = (1, 1, 1, 0, 0, 0, 0, None, None, (1, 1, 0), None, None, None)
for kinds, arguments in ((b"x", [1]), (b"(i", [1]), (b"i)", [1]), (b"i\\0", [1, 1]), (b"(" * 17 + b")" * 17, [deep]),
                         (b"i" * 4097, [1] * 4097)):
    try:
        launch(kinds, None, *base, *arguments)
    except ValueError as error:
        print(error)
try:
    launch("i", None, *base, 1)
except TypeError as error:
    print(error)
try:
    launch(b"i")
except TypeError as error:
    print(error)
"""


def test_malformed_kinds_are_refused(trees: Trees, tmp_path: Path) -> None:
    deep = "deep = ()\nfor _ in range(17): deep = (deep,)\n"
    words = [trees.python.program, "-c", deep + REFUSED]
    done = run(words, env=trees.environment(trees.ours, tmp_path))
    takes = "launch takes the kinds of arguments as bytes, and at least 15 arguments"
    assert done.stdout.decode().splitlines() == [
        "kinds of arguments: a letter is unknown",
        "kinds of arguments: parentheses do not match",
        "kinds of arguments: parentheses do not match",
        "kinds of arguments: a letter is unknown",
        "kinds of arguments: tuples are nested too deeply",
        "kinds of arguments: there are too many",
        takes,
        takes,
    ]


REFERENCES = """
import sys
from triton.backends.nvidia.privml_launcher import launch

class Tensor:
    def data_ptr(self):
        return 64

tensor, text, items = Tensor(), "no tensor of the device", [Tensor(), "constant"]
seen = (tensor, text, items, *items)
base = (1, 1, 1, 0, 0, 0, 0, None, None, (1, 1, 0), None, None, None)
cases = ((b"p(pc)", [tensor, items]), (b"(pc)p", [items, text]), (b"p(pc)i", [tensor, items, text]),
         (b"p(pp)", [tensor, items]))
before = [sys.getrefcount(one) for one in seen]
for kinds, arguments in cases:
    for _ in range(100):
        try:
            launch(kinds, None, *base, *arguments)
        except TypeError:
            pass
print([sys.getrefcount(one) for one in seen] == before)
"""


def test_no_reference_is_kept_by_launches_and_refusals(trees: Trees, tmp_path: Path) -> None:
    words = [trees.python.program, "-c", REFERENCES]
    assert run(words, env=trees.environment(trees.ours, tmp_path)).stdout.decode() == "True\n"
