"""Collect what a borrowed GPU machine needs into one folder: `tests/device/gpu.sh prepare FOLDER`.

The agent's modules, the programs of this directory, a kernel compiled for sm_90 by the `ptxas` of Triton's wheel,
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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.device import kernel

from privml.base.errors import PrivmlError, UsageError
from privml.base.files import directory_atomic
from privml.events.variants import PRODUCTION
from privml.image.workplace import Workplace
from privml.lock.lockfile import read_lock
from privml.lock.trees import TRITON_FOLDER, agent_tree, images_folder
from privml.lock.wheels import bring_wheel
from privml.recipe.compiled import TRITON
from privml.recipe.loader import shipped

HERE = Path(__file__).parent
LOCK = "tdx-h100-vllm.lock.json"
PYTHONS = "python3.11 python3.12 python3.13 python3"
_ASKED = "import json, sysconfig as s; print(json.dumps([s.get_path('include'), s.get_config_var('EXT_SUFFIX')]))"


@dataclass(frozen=True)
class Sources:
    """What the folder is made from: the directory of our package, the launcher's source, and a wheel of Triton."""

    builder: Path
    launcher: Path
    wheel: Path


def sources() -> Sources:
    """Those of this checkout, with the wheel in the lock of the image with vLLM; fetched if the store lacks it."""
    locked = read_lock(shipped() / LOCK).requirements
    (wheel,) = [each for each in locked.wheels if each.name == TRITON.wheel] if locked is not None else []
    store = Workplace().store
    bring_wheel(store, wheel, ())
    return Sources(
        HERE.parents[1] / "builder", images_folder() / TRITON_FOLDER / "launcher.c", store.path(wheel.sha256)
    )


def prepare(folder: Path, given: Sources, pythons: Sequence[str]) -> list[str]:
    """Make ``folder``, whole or not at all; the endings of the extension modules that the launcher is compiled for.

    ``UsageError`` if there is something at that path.
    """
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists: name a new folder")
    with directory_atomic(folder) as fresh:
        for each in agent_tree(PRODUCTION, given.builder).files:
            (fresh / "package" / each.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(given.builder / each.path, fresh / "package" / each.path)
        for name in ("gpu.sh", "stage.py", "kernel.py"):
            shutil.copy(HERE / name, fresh / name)
        shutil.copyfile(given.launcher, fresh / f"{kernel.MODULE}.c")
        with zipfile.ZipFile(given.wheel) as wheel:
            for name in ("include/cuda.h", "bin/ptxas"):
                (fresh / Path(name).name).write_bytes(wheel.read(f"{TRITON.folder}/{name}"))
        ptxas = fresh / "ptxas"
        ptxas.chmod(0o755)
        subprocess.run([ptxas, "-arch=sm_90", "-o", fresh / "scaled.cubin", HERE / "scaled.ptx"], check=True)
        ptxas.unlink()
        (fresh / "libcuda.c").write_bytes(b"")
        found = headers(pythons)
        for suffix, include in sorted(found.items()):
            argv = kernel.compile_argv(fresh, include, f"{kernel.MODULE}{suffix}")
            subprocess.run(argv, cwd=fresh, check=True)
    return sorted(found)


def headers(pythons: Sequence[str]) -> dict[str, str]:
    """Ending of extension modules -> folder of Python.h, for each Python that is here with headers."""
    found = {}
    for name in pythons:
        if shutil.which(name) is None:
            continue
        # pyenv's `python3.13` is a script that looks at this variable; to others it means nothing.
        version = Path(name).name.removeprefix("python")
        environment = {**os.environ, **({"PYENV_VERSION": version} if "." in version else {})}
        done = subprocess.run([name, "-c", _ASKED], check=False, capture_output=True, text=True, env=environment)
        if done.returncode:  # a shim of a version that is not installed
            continue
        include, suffix = json.loads(done.stdout)
        if (Path(include) / "Python.h").is_file():
            found[suffix] = include
    return found


def main(folder: Path) -> None:
    """Make ``folder`` and say what is in it."""
    for suffix in prepare(folder, sources(), os.environ.get("PYTHONS", PYTHONS).split()):
        print(f"launcher for {suffix}")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except PrivmlError as error:
        sys.exit(f"prepare: {error.message}")
