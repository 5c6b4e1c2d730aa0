"""Launch one precompiled kernel on this machine's GPU through the launcher of images/triton, and compare its result.

Prints one JSON line, as `stage.py`. Needs libcuda and a GPU of compute capability 9.x (the kernel is for sm_90).
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
COUNT, FACTOR, WARPS = 1000, 0.75, 4
MODULE = "privml_launcher"


class Skipped(Exception):
    """This machine cannot run the step."""


def compile_argv(folder: Path, include: str, name: str) -> list[str]:
    """argv that compiles the launcher in ``folder``; an empty library with libcuda's name is linked."""
    flags = "-std=gnu17 -O2 -shared -fPIC -Wall -Wextra -Werror"
    script = (
        "gcc -shared -nostdlib -Wl,-soname,libcuda.so.1 -o libcuda.so.1 libcuda.c && "
        f'gcc {flags} -isystem "$1" -isystem "$2" -o "$3" privml_launcher.c -Wl,--no-as-needed ./libcuda.so.1 && '
        "rm libcuda.so.1"
    )
    return ["sh", "-c", script, "sh", include, str(folder.resolve()), name]


def launcher() -> ModuleType:
    """The launcher's module: as it was prepared for this Python, or compiled now."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    path = HERE / f"{MODULE}{suffix}"
    if not path.is_file():
        include = sysconfig.get_path("include")
        if shutil.which("gcc") is None or not (Path(include) / "Python.h").is_file():
            raise Skipped(f"no launcher was prepared for {suffix}, and this machine has no gcc or Python.h")
        subprocess.run(compile_argv(HERE, include, path.name), cwd=HERE, check=True)
    loader = importlib.machinery.ExtensionFileLoader(MODULE, str(path))
    spec = importlib.util.spec_from_loader(MODULE, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def call(cuda: ctypes.CDLL, name: str, *arguments: object) -> None:
    """Call a function of the driver; ``RuntimeError`` unless it succeeds."""
    code = getattr(cuda, name)(*arguments)
    if code:
        raise RuntimeError(f"{name}: status {code}")


def run() -> str:
    """Launch the kernel over data and compare every value; returns what was done."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise Skipped(str(error)) from error
    if code := cuda.cuInit(0):
        raise Skipped(f"cuInit: status {code}")
    device, major = ctypes.c_int(), ctypes.c_int()
    call(cuda, "cuDeviceGet", ctypes.byref(device), 0)
    call(cuda, "cuDeviceGetAttribute", ctypes.byref(major), 75, device)
    if major.value != 9:
        raise Skipped(f"the GPU has compute capability {major.value}.x, and the kernel is for 9.0")
    context, module, function = (ctypes.c_void_p() for _ in range(3))
    call(cuda, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call(cuda, "cuCtxSetCurrent", context)
    call(cuda, "cuModuleLoadData", ctypes.byref(module), (HERE / "scaled.cubin").read_bytes())
    call(cuda, "cuModuleGetFunction", ctypes.byref(function), module, b"scaled")
    values = (ctypes.c_float * COUNT)(*range(COUNT))
    got = (ctypes.c_float * COUNT)()
    source, target = ctypes.c_uint64(), ctypes.c_uint64()
    for memory in (source, target):
        call(cuda, "cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(ctypes.sizeof(values)))
    call(cuda, "cuMemcpyHtoD_v2", source, values, ctypes.c_size_t(ctypes.sizeof(values)))
    blocks = -(-COUNT // (32 * WARPS))
    launcher().launch(
        b"ppfi", None, blocks, 1, 1, 0, function.value, 0, 0, None, None, (WARPS, 1, 0), None, None, None,
        source.value, target.value, FACTOR, COUNT,
    )  # fmt: skip
    call(cuda, "cuCtxSynchronize")
    call(cuda, "cuMemcpyDtoH_v2", got, target, ctypes.c_size_t(ctypes.sizeof(got)))
    wrong = [index for index in range(COUNT) if got[index] != index * FACTOR]
    if wrong:
        raise RuntimeError(f"{len(wrong)} of {COUNT} values differ, first {wrong[0]}: got {got[wrong[0]]}")
    return f"{COUNT} values in {blocks} blocks, all equal"


def main() -> int:
    """Run the step and print its line."""
    try:
        result, detail = "ok", run()
    except Skipped as why:
        result, detail = "skipped", str(why)
    except (OSError, RuntimeError, ImportError, subprocess.CalledProcessError) as error:
        result, detail = "failed", str(error)
    print(json.dumps({"step": "kernel", "result": result, "detail": detail}), flush=True)
    return 1 if result == "failed" else 0


if __name__ == "__main__":
    sys.exit(main())
