"""Collect what a borrowed GPU machine needs into one folder: `tests/device/gpu.sh prepare FOLDER`.

The agent's modules, the two programs of this directory, a kernel compiled for sm_90 by the `ptxas` of Triton's wheel,
and the launcher: compiled for each Python named in PYTHONS that has headers here, and its source with cuda.h for a
machine with another Python and a C compiler.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.real.test_triton import WHEEL_SHA256

from privml.image import triton
from privml.image.workplace import Workplace
from privml.lock.trees import AGENT_ROOTS, images_folder, module_closure
from privml.store.pypi import ensure_wheel

HERE = Path(__file__).parent
PYTHONS = os.environ.get("PYTHONS", "python3.11 python3.12 python3.13 python3").split()
_ASKED = "import json, sysconfig as s; print(json.dumps([s.get_path('include'), s.get_config_var('EXT_SUFFIX')]))"


def main(folder: Path) -> None:
    """Fill ``folder``, which must not exist."""
    folder.mkdir(parents=True)
    builder = HERE.parents[1] / "builder"
    for name in sorted({*module_closure(builder, AGENT_ROOTS), "privml/__init__.py"}):
        (folder / "package" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(builder / name, folder / "package" / name)
    for name in ("stage.py", "kernel.py"):
        shutil.copyfile(HERE / name, folder / name)
    shutil.copyfile(images_folder() / "triton/launcher.c", folder / "privml_launcher.c")
    store = Workplace().store
    ensure_wheel(store, "triton", triton.VERSION, WHEEL_SHA256)
    with zipfile.ZipFile(store.path(WHEEL_SHA256)) as wheel:
        for name in ("include/cuda.h", "bin/ptxas"):
            (folder / Path(name).name).write_bytes(wheel.read(f"{triton.BACKEND}/{name}"))
    ptxas = folder / "ptxas"
    ptxas.chmod(0o755)
    subprocess.run([ptxas, "-arch=sm_90", "-o", folder / "scaled.cubin", HERE / "scaled.ptx"], check=True)
    ptxas.unlink()
    (folder / "libcuda.c").write_bytes(b"")
    for suffix, include in sorted(headers().items()):
        subprocess.run(compile_argv(folder, include, f"privml_launcher{suffix}"), cwd=folder, check=True)
        print(f"launcher for {suffix}")


def headers() -> dict[str, str]:
    """Ending of extension modules -> folder of Python.h, for each Python that is here with headers."""
    found = {}
    for name in PYTHONS:
        if shutil.which(name) is None:
            continue
        done = subprocess.run([name, "-c", _ASKED], check=False, capture_output=True, text=True)
        if done.returncode:  # a shim of a version that is not installed
            continue
        include, suffix = json.loads(done.stdout)
        if (Path(include) / "Python.h").is_file():
            found[suffix] = include
    return found


def compile_argv(folder: Path, include: str, name: str) -> list[str]:
    """argv of `kernel.py`, which compiles the launcher the same way where it has to."""
    sys.path.insert(0, str(HERE))
    import kernel

    return kernel.compile_argv(folder, include, name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
