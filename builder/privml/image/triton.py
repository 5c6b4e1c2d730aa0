"""Triton without a C compiler in the guest's root.

Triton 3.6 compiles two kinds of C modules in the running process: `cuda_utils` once, and one launcher for each kernel
signature. Here `cuda_utils` is compiled from Triton's own source when the image is made, `images/triton/launcher.c`
takes the place of all launchers, and the wheel's `driver.py` is changed to import both (ADR 0066).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import BuildError, InputsError
from privml.lock.trees import TRITON_FOLDER, images_folder
from privml.recipe.compiled import TRITON

Compile = Callable[[Sequence[str], Path], object]
"""Run a C compiler: its argv, and the directory in which it runs."""

LIBCUDA = "libcuda.so.1"
# No path, time or random identifier gets into a module; `now` finds a missing function when it is loaded.
_FLAGS = (
    "-std=gnu17",
    "-O2",
    "-shared",
    "-fPIC",
    "-g0",
    "-s",
    "-DNDEBUG",
    "-Wl,--build-id=none",
    "-Wl,-z,relro,-z,now",
)
_STRICT = ("-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True)
class _Cut:
    """Text of `driver.py` from ``start`` up to ``end`` (which stays), and what takes its place."""

    start: str
    end: str
    replacement: str

    def apply(self, text: str) -> str:
        begin = text.index(self.start)
        return text[:begin] + self.replacement + text[text.index(self.end, begin + len(self.start)) :]


_CUTS = (
    _Cut("from pathlib import Path\n", "from triton import knobs\n", ""),
    _Cut("from triton.runtime.build import", "from triton.runtime import _allocation\n", ""),
    _Cut(
        "        mod = compile_module_from_src(\n",
        "        global PyCUtensorMap\n",
        "        from triton.backends.nvidia import cuda_utils as mod\n",
    ),
    _Cut(
        "FLOAT_STORAGE_TYPE = {\n",
        '_BASE_ARGS_FORMAT = "',
        """\
# One letter for each kind of argument, as privml_launcher.launch() takes them. Pointers are `p`.
ARGUMENT_KINDS = {
    "i1": "b",
    "i8": "b",
    "i16": "h",
    "i32": "i",
    "i64": "l",
    "u1": "B",
    "u8": "B",
    "u16": "H",
    "u32": "I",
    "u64": "L",
    "fp16": "e",
    "bf16": "g",
    "fp32": "f",
    "f32": "f",
    "fp64": "d",
    "nvTmaDesc": "t",
    "constexpr": "c",
}

""",
    ),
    _Cut(
        "def make_launcher(constants, signature, tensordesc_meta):\n",
        "\n    def _expand_signature(signature):\n",
        "def argument_kinds(signature, tensordesc_meta):\n",
    ),
    _Cut(
        "    def _flatten_signature(sig, output):\n",
        "\n\n# The TMA dtype enum values",
        """\
    def kind_of(ty):
        if isinstance(ty, tuple):
            return f"({''.join(map(kind_of, ty))})"
        return "p" if ty[0] == "*" else ARGUMENT_KINDS[ty]

    return "".join(map(kind_of, _expand_signature(signature.values()))).encode()
""",
    ),
    _Cut(
        "        constants = src.constants if hasattr",
        "        signature = {idx: value",
        "",
    ),
    _Cut(
        "        src = make_launcher(constants, signature, tensordesc_meta)\n",
        "        self.num_ctas = getattr",
        """\
        from triton.backends.nvidia.privml_launcher import launch
        launch = functools.partial(launch, argument_kinds(signature, tensordesc_meta), PyCUtensorMap)

""",
    ),
    _Cut(
        "        self.launch = wrap_handle_tensordesc(mod.launch,",
        " signature, tensordesc_meta)\n",
        "        self.launch = wrap_handle_tensordesc(launch,",
    ),
)


def patch(source: bytes) -> bytes:
    """Triton's `driver.py`, changed to import its two modules instead of compiling them.

    ``InputsError`` unless ``source`` is the file of Triton 3.6.0: for another version the change must be made again,
    and shown again by `tests/real/test_triton.py`.
    """
    _expect(source, TRITON.before, TRITON.changed)
    text = source.decode()
    for cut in _CUTS:
        text = cut.apply(text)
    changed = text.encode()
    if (found := hashlib.sha256(changed).hexdigest()) != TRITON.after:
        raise BuildError(
            f"the changed {TRITON.path} has SHA-256 {found}, expected {TRITON.after}",
            hint="whoever changes the patch writes the new digest into privml.recipe.compiled",
        )
    return changed


def files(
    driver: bytes, utils: bytes, include: Sequence[Path], suffix: str, work: Path, compiler: Compile
) -> dict[str, bytes]:
    """What makes Triton 3.6.0 work without a C compiler, by the paths of the files in its wheel.

    ``driver`` and ``utils`` are the wheel's `driver.py` and `driver.c`. ``include`` are the directories of Python.h
    and of the wheel's own headers, as the compiler sees them, ``suffix`` is the ending of that Python's extension
    modules. The modules are compiled in ``work``, an empty directory; their bytes depend on none of these paths.
    """
    changed = patch(driver)
    _expect(utils, TRITON.source_sha256, TRITON.source)
    launcher = (images_folder() / TRITON_FOLDER / "launcher.c").read_bytes()
    sources = dict(zip(TRITON.modules, ((utils, ()), (launcher, _STRICT)), strict=True))
    for name, (source, _) in sources.items():
        (work / f"{name}.c").write_bytes(source)
    (work / "libcuda.c").write_bytes(b"")
    compiler(["gcc", *_FLAGS, f"-Wl,-soname,{LIBCUDA}", "-nostdlib", "-o", LIBCUDA, "libcuda.c"], work)
    made = {TRITON.path: changed}
    for name, (_, more) in sources.items():
        compiler(_module(name, more, include), work)
        made[f"{TRITON.folder}/{name}{suffix}"] = (work / f"{name}.so").read_bytes()
    return made


def _module(name: str, more: Sequence[str], include: Sequence[Path]) -> list[str]:
    """argv that compiles one module; the guest's libcuda is named in it, and an empty one with its name is linked."""
    places = [word for place in include for word in ("-isystem", str(place))]
    return ["gcc", *_FLAGS, *more, *places, "-o", f"{name}.so", f"{name}.c", "-Wl,--no-as-needed", LIBCUDA]


def _expect(data: bytes, sha256: str, name: str) -> None:
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise InputsError(
            f"{TRITON.folder}/{name}: SHA-256 is {found}, expected {sha256} of Triton {TRITON.version}",
            hint="only this version can be changed to work without a C compiler",
        )
