"""Triton's driver.py without its compiler: the changed file, and how the modules are compiled."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.published import read

from privml.base.errors import BuildError, InputsError
from privml.image import triton
from privml.lock.trees import images_folder
from privml.recipe.compiled import COMPILING, TRITON, Compiling

DRIVER = read("triton/driver.py")


def kinds_of(signature: Sequence[Any], metadata: object = None) -> bytes:
    """What the changed driver.py passes to launch() for a kernel of this signature."""
    wanted = ("ARGUMENT_KINDS", "argument_kinds")
    tree = ast.parse(triton.patch(TRITON, DRIVER))
    tree.body = [
        node
        for node in tree.body
        if (isinstance(node, ast.FunctionDef) and node.name in wanted)
        or (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in wanted)
    ]
    names: dict[str, Any] = {"re": re}
    exec(compile(tree, "driver.py", "exec"), names)
    made: Callable[..., bytes] = names["argument_kinds"]
    return made(dict(enumerate(signature)), metadata)


@pytest.mark.parametrize(
    ("signature", "kinds"),
    [
        ([], b""),
        (["*fp32", "i32", "constexpr", "u64"], b"picL"),
        (["i1", "i8", "i16", "i64", "u1", "u8", "u16", "u32"], b"bbhlBBHI"),
        (["fp16", "bf16", "fp32", "f32", "fp64", "nvTmaDesc"], b"egffdt"),
        ([("i32", ("*i8", "constexpr"), ()), "fp64"], b"(i(pc)())d"),
        (["tensordesc<fp16[16,32]>", "i32"], b"pllllbiilli"),
    ],
)
def test_a_signature_becomes_one_letter_for_each_kind(signature: Sequence[Any], kinds: bytes) -> None:
    assert kinds_of(signature) == kinds


def test_a_lowered_descriptor_is_a_tensor_map_with_shape_and_strides() -> None:
    assert kinds_of(["tensordesc<fp16[16,32]>"], [{"swizzle": 1}]) == b"tiill"


@pytest.mark.parametrize("kind", ["fp8e4nv", "i128", ("tensordesc<fp16[16]>",)])
def test_a_kind_that_triton_cannot_pass_is_refused(kind: Any) -> None:
    with pytest.raises(KeyError):
        kinds_of([kind])


def test_the_changed_driver_neither_generates_nor_compiles_c() -> None:
    text = triton.patch(TRITON, DRIVER).decode()
    names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert "compile_module_from_src" in DRIVER.decode()
    assert not {"compile_module_from_src", "make_launcher", "Path"} & names
    assert "#include" not in text


def test_every_letter_is_explained_in_the_launcher() -> None:
    text = (images_folder() / "triton/launcher.c").read_text()
    explained = set(re.findall(r"(?<= )([A-Za-z])  (?=\w)", text[: text.index("*/")]))
    letters = re.findall(r'": "(\w)",', triton.patch(TRITON, DRIVER).decode())
    assert explained == {"p", *letters}


@pytest.mark.parametrize("other", [b"", DRIVER + b"\n", DRIVER.replace(b"uint16_t", b"uint32_t")])
def test_another_driver_is_refused(other: bytes) -> None:
    with pytest.raises(
        InputsError, match=r"driver\.py: SHA-256 is [0-9a-f]{64}, expected 4ad4b444.* of Triton 3\.6\.0"
    ):
        triton.patch(TRITON, other)


def test_another_change_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BuildError, match=r"the changed .* has SHA-256"):
        triton.patch(replace(TRITON, after="0" * 64), DRIVER)


def made(tmp_path: Path, compiler: triton.Compile, record: Compiling, utils: bytes = b"utils") -> dict[str, bytes]:
    (tmp_path / "work").mkdir()
    include = [tmp_path / "python", tmp_path / "cuda"]
    return triton.files(record, DRIVER, utils, include, ".cpython-313.so", tmp_path / "work", compiler)


def test_both_modules_are_compiled_by_names_alone_and_are_next_to_the_driver(tmp_path: Path) -> None:
    calls: list[Sequence[str]] = []

    def compiler(argv: Sequence[str], place: Path) -> None:
        calls.append(argv)
        name = argv[argv.index("-o") + 1]
        (place / name).write_bytes(name.encode() + (place / f"{Path(name).name.split('.')[0]}.c").read_bytes())

    found = made(tmp_path, compiler, replace(TRITON, source_sha256=hashlib.sha256(b"utils").hexdigest()))
    assert [argv[argv.index("-o") + 1] for argv in calls] == ["libcuda.so.1", "cuda_utils.so", "privml_launcher.so"]
    for argv in calls:
        assert [word for word in argv if str(tmp_path) in word and argv[argv.index(word) - 1] != "-isystem"] == []
        assert {"-Wl,--build-id=none", "-g0", "-DNDEBUG"} < set(argv)
    launcher = (images_folder() / "triton/launcher.c").read_bytes()
    assert found == {
        "triton/backends/nvidia/driver.py": triton.patch(TRITON, DRIVER),
        "triton/backends/nvidia/cuda_utils.cpython-313.so": b"cuda_utils.so" + b"utils",
        "triton/backends/nvidia/privml_launcher.cpython-313.so": b"privml_launcher.so" + launcher,
    }


def test_another_source_of_cuda_utils_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputsError, match=r"driver\.c: SHA-256 is"):
        made(tmp_path, lambda argv, place: None, TRITON, b"other")


def test_every_version_that_works_without_a_compiler_has_its_changes() -> None:
    versions = COMPILING[TRITON.wheel]
    assert set(triton._CUTS) == set(versions) == {"3.6.0", "3.8.0"}
    assert [set(each.modules) for each in versions.values()] == [{"cuda_utils", "privml_launcher"}, {"cuda_utils"}]
    with pytest.raises(InputsError, match=r"expected 966a8105.* of Triton 3\.8\.0"):
        triton.patch(versions["3.8.0"], DRIVER)
