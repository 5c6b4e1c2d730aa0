"""The shipped recipe of driver 595 and vLLM on CUDA 13, which has no lock: linted and rendered with one of stand-ins.

The runfile has the real layout in small, the wheels have the files that the recipe names, the packages are those of
the recipe for an H100. Only the digests of runfile and model differ from the shipped text.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import image_fake
import image_varied
import pytest
import runfile_file as r
import safetensors_file
import wheel_file
from test_driver_runfile import DATA, DIGEST, modules, with_toolchain

from privml.base.errors import InputsError
from privml.base.run import Completed
from privml.events import configuration
from privml.events.configuration import Config
from privml.events.gpus import Gpu
from privml.events.stages import sequence
from privml.image import build, compiledwheels
from privml.lock.locate import inputs_now
from privml.lock.lockfile import parse, read_lock, serialise
from privml.lock.make import check, check_packages
from privml.lock.modelrecord import HubSource, Model, ModelFile
from privml.lock.models import ChangedFile, Lock, Requirements, Runfile, Wheel
from privml.lock.requirements import python_of
from privml.recipe.compiled import TRITON_38
from privml.recipe.lint import lint
from privml.recipe.loader import Recipe, load, shipped
from privml.recipe.packages import guest_packages
from privml.recipe.python import matches
from privml.store.objects import Store

NAME = "tdx-h200-vllm-cu13"
MODEL_FILES = {
    "config.json": b'{"architectures": ["Qwen2ForCausalLM"]}',
    "generation_config.json": b"{}",
    "model.safetensors": safetensors_file.SMALL,
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
}
NVIDIA_TRITON = "triton/backends/nvidia"
WHEELS: dict[tuple[str, str], tuple[str, ...]] = {
    ("vllm", "0.33.0"): (
        "vllm/__init__.py",
        "vllm/entrypoints/launchers/api_server/entry.py",
        "vllm/v1/attention/backends/flash_attn.py",
        "vllm/v1/worker/gpu_worker.py",
        "vllm/model_executor/models/llama.py",
    ),
    ("torch", "2.13.0"): (
        "torch/__init__.py", "torch/include/torch/library.h", "torch/share/cmake/Torch/TorchConfig.cmake",
    ),
    ("triton", "3.8.0"): (
        "triton/__init__.py", "triton/_C/libtriton.so", "triton/_C/libproton.so", "triton/FileCheck",
        "triton/instrumentation/lib.so", "triton/profiler/profile.py",
        *(f"{NVIDIA_TRITON}/{name}" for name in (
            "driver.py", "driver.c", "include/cuda.h", "lib/cupti/libcupti.so",
            "bin/ptxas", "bin/ptxas-blackwell", "bin/nvdisasm", "bin/cuobjdump",
        )),
    ),
    ("flashinfer-python", "0.7.0"): ("flashinfer/__init__.py", "flashinfer/jit/core.py", "build_backend.py"),
    ("quack-kernels", "0.5.0"): ("quack/__init__.py", "build_backend.py"),
    ("nvidia-cutlass-dsl", "4.6.0"): ("nvidia_cutlass_dsl_packages.pth", "nvidia_cutlass_dsl/lib/libmlir.so"),
    ("nvidia-cuda-runtime", "13.0.96"): ("nvidia/cu13/lib/libcudart.so.13",),
    ("setuptools", "81.0.0"): ("distutils-precedence.pth", "setuptools/__init__.py"),
    ("pynvvideocodec", "2.0.4"): ("PyNvVideoCodec/__init__.py",),
}  # fmt: skip
MADE = {
    f"{NVIDIA_TRITON}/driver.py": b"changed",
    f"{NVIDIA_TRITON}/cuda_utils.cpython-313-x86_64-linux-gnu.so": b"\x7fELF",
}
COMPILERS = (
    "cc", "c++", "cpp", "gcc*", "g++*", "*-linux-gnu-*", "clang*", "tcc", "ld", "ld.*", "as", "make", "cicc", "nvcc",
    "ptxas-*", "nvlink", "fatbinary",
)  # fmt: skip


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def recipe_of(folder: Path, *changes: tuple[str, str]) -> Recipe:
    """The shipped recipe with the digests of the stand-ins, and further changes."""
    text = (shipped() / f"{NAME}.yaml").read_text()
    plain = load(shipped() / f"{NAME}.yaml").content
    assert plain.gpu is not None and plain.gpu.driver.runfile is not None and plain.inference is not None
    digests = {plain.gpu.driver.runfile.sha256: DIGEST}
    digests |= {file.sha256: sha256(MODEL_FILES[file.name]) for file in plain.inference.models[0].files or ()}
    assert len(digests) == 1 + len(MODEL_FILES)
    for old, new in (*digests.items(), *changes):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    if not (folder / "platforms").is_dir():
        shutil.copytree(shipped() / "platforms", folder / "platforms")
    (folder / f"{NAME}.yaml").write_text(text)
    return load(folder / f"{NAME}.yaml")


def wheel(store: Store, name: str, version: str) -> Wheel:
    """A made-up wheel; each of its files has other bytes."""
    files = {path: f"{name} {path}".encode() for path in WHEELS[name, version]}
    return wheel_file.locked(store, name, version, wheel_file.wheel_bytes(name, version, files))


def lock_of(recipe: Recipe, store: Store) -> Lock:
    """The lock that `lock` would write of the stand-ins, with packages, firmware and toolchains of another recipe."""
    template, now = read_lock(shipped() / "tdx-h100-vllm.lock.json"), inputs_now(recipe)
    gpu, inference, python = recipe.content.gpu, recipe.content.inference, recipe.content.python
    assert gpu is not None and gpu.driver.runfile is not None and inference is not None and python is not None
    assert template.driver is not None and template.compiled is not None
    runfile = Runfile(
        name=r.NAME, version=r.VERSION, url=gpu.driver.runfile.url, sha256=store.add_bytes(DATA), size=len(DATA)
    )
    files = tuple(
        ModelFile(path=name, sha256=store.add_bytes(data), size=len(data)) for name, data in MODEL_FILES.items()
    )
    repo, _, commit = inference.models[0].source.removeprefix("hub:").partition("@")
    model = Model(
        name=inference.models[0].name,
        source=HubSource(repo=repo, commit=commit),
        files=files,
        licence=inference.models[0].licence,
        signature=None,
    )
    changed = ChangedFile(path=TRITON_38.path, before=TRITON_38.before, after=TRITON_38.after)
    made = {"version": TRITON_38.version, "modules": TRITON_38.modules, "changed": changed}
    return template.model_copy(
        update={
            "recipe_sha256": recipe.digest,
            "packages_requested": tuple(map(str, guest_packages(recipe))),
            "agent": now.agent,
            "guest": now.guest,
            "models": (model,),
            "driver": template.driver.model_copy(update={"version": r.VERSION, "source": runfile, "parts": ()}),
            "compiled": template.compiled.model_copy(update=made),
            "requirements": Requirements(
                python=python_of(recipe),
                requested=tuple(python.requirements),
                before=python.before,
                wheels=tuple(wheel(store, *key) for key in sorted(WHEELS)),
            ),
        }
    )


# Lint and lock.


def test_lint_finds_no_error_and_says_what_nobody_has_tried(tmp_path: Path) -> None:
    found = {finding.rule: finding for finding in lint(recipe_of(tmp_path))}
    assert list(found) == ["gpu-platform", "driver-untried", "gpu-firmware"]
    assert {finding.severity for finding in found.values()} == {"warning"}
    assert f"`{r.VERSION}`" in found["driver-untried"].text


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (("count: 1\n", "count: 2\n"), "engine-gpus"),
        (("vllm==0.33.0]", "vllm==0.29.0]"), "engine-fault"),
    ],
)
def test_lint_looks_at_engine_and_driver_together(tmp_path: Path, change: tuple[str, str], rule: str) -> None:
    assert rule in {finding.rule for finding in lint(recipe_of(tmp_path, change))}


def test_a_lock_of_the_stand_ins_is_whole_and_current(tmp_path: Path, store: Store) -> None:
    recipe = recipe_of(tmp_path)
    lock = lock_of(recipe, store)
    assert parse(serialise(lock), Lock, "lock") == lock
    check(recipe, lock, inputs_now(recipe))
    check_packages(recipe, lock.packages)
    other = lock.model_copy(update={"driver": read_lock(shipped() / "tdx-h100-vllm.lock.json").driver})
    with pytest.raises(InputsError, match="driver: this privml-build requests different packages"):
        check(recipe, other, inputs_now(recipe))


# The rendered tree.


class Tools(r.Tools):
    """Unpacks and compiles the driver, and makes the model's volume, as stand-ins."""

    def run(self, argv: Any, *, binds: Any = (), **more: Any) -> Completed:
        if argv[0] == "systemd-repart":
            return image_varied.Tools(self.root, self.digest).run(argv, binds=binds, **more)
        return super().run(argv, binds=binds, **more)


@dataclass(frozen=True)
class Rendered:
    """What `image --render-only` wrote."""

    lock: Lock
    place: Path

    @property
    def facts(self) -> Any:
        return json.loads((self.place / "privml.json").read_text())

    @property
    def config(self) -> Config:
        return configuration.decode((self.place / "mkosi.extra/etc/privml/config.json").read_bytes())

    def setting(self, name: str) -> list[str]:
        """The values of a setting in mkosi.conf."""
        text = (self.place / "mkosi.conf").read_text()
        (found,) = re.findall(rf"(?m)^{name}=((?:.*\n)(?:[ \t]+.*\n)*)", text)
        return [word for word in found.split() if word]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    folder = tmp_path_factory.mktemp("cuda13")
    recipe, store = recipe_of(folder), Store(folder / "store")
    lock = lock_of(recipe, store)
    # The bytes of packages are not looked at here.
    packages = tuple(
        each.model_copy(update={"sha256": store.add_bytes(str(each).encode()), "size": len(str(each))})
        for each in lock.packages
    )
    assert lock.driver is not None
    # What compiles the driver has only what is read of it.
    driver = lock.driver.model_copy(update={"toolchain": with_toolchain(lock, store).toolchain})
    used = lock.model_copy(update={"packages": packages, "driver": driver})
    fake = image_fake.make(folder / "fake")
    tools = Tools.of(modules())
    object.__setattr__(tools, "root", fake.root)
    order = fake.order(recipe=recipe, lock=used, store=store, tools=lambda: tools)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_bring", lambda *_, **__: None)
        patch.setattr(compiledwheels, "compiled", lambda *_: MADE)
        build.render_only(order, folder / "tree")
    return Rendered(lock, folder / "tree")


def test_the_engine_is_the_server_of_vllm_033_with_the_options_of_the_recipe(rendered: Rendered) -> None:
    engine = rendered.config.engine
    assert engine is not None and engine.name == "vllm"
    program = ["/usr/bin/python3", "-P", "-s", "-m", "vllm.entrypoints.launchers.api_server.entry"]
    assert list(engine.argv[:5]) == program
    argv = dict(zip(engine.argv, engine.argv[1:], strict=False))
    assert {name: argv[name] for name in ("--model", "--served-model-name", "--max-model-len", "--dtype")} == {
        "--model": "/run/privml/model",
        "--served-model-name": "qwen2.5-0.5b-instruct",
        "--max-model-len": "32768",
        "--dtype": "bfloat16",
    }
    assert (argv["--max-num-seqs"], argv["--tensor-parallel-size"]) == ("64", "1")
    assert {"--no-enable-prefix-caching", "--no-trust-remote-code", "--enforce-eager"} < set(engine.argv)
    # The module is one that the wheel has, and that the build imports.
    facts = rendered.facts["wheels"]
    assert engine.argv[4] in facts["imports"]
    assert f"{engine.argv[4].replace('.', '/')}.py" in facts["files"]


def test_the_measured_configuration_has_the_gpu_and_its_policy(rendered: Rendered) -> None:
    config = rendered.config
    assert config.gpu == Gpu("nvidia", "hopper", 1, "595.71.05")
    assert config.devices.count("nvidia-gpu") == 1 and config.variant == "production"
    events = {event.name: event for event in sequence(config)}
    names = [name for name in events if name.startswith(("gpu-", "engine", "model"))]
    assert names.index("gpu-policy") < names.index("gpu-ready") < names.index("engine")
    assert json.loads(events["gpu-policy"].payload) == {
        "vendor": "nvidia", "architecture": "hopper", "count": 1, "allowed": [],
    }  # fmt: skip


def test_every_part_of_the_driver_is_of_one_version_and_of_the_runfile(rendered: Rendered) -> None:
    facts = rendered.facts
    paths = [path for path in facts["overlay"] if "nvidia" in path]
    versions = {found for path in paths for found in re.findall(r"\d{3}\.\d+(?:\.\d+)?", path)}
    assert versions == {r.VERSION}
    of_runfile = {
        f"usr/lib/firmware/nvidia/{r.VERSION}/gsp_ga10x.bin": "firmware/gsp_ga10x.bin",
        "usr/bin/nvidia-persistenced": "nvidia-persistenced",
        **{
            f"usr/lib/nvidia/{name}.so.{r.VERSION}": f"{name}.so.{r.VERSION}"
            for name in ("libcuda", "libnvidia-ml", "libnvidia-pkcs11-openssl3")
        },
    }
    for path, name in of_runfile.items():
        assert (rendered.place / "mkosi.extra" / path).read_bytes() == f"content of {name}".encode()
    (nvidia,) = [path for path in paths if path.endswith("/nvidia.ko")]
    assert (rendered.place / "mkosi.extra" / nvidia).read_bytes() == modules()["nvidia.ko"]
    assert {"nvidia", "nvidia_uvm"} <= set(facts["modules"])
    # None of it is from the archive's packages of another driver.
    assert rendered.lock.driver is not None and rendered.lock.driver.packages == ()
    assert not [name for name in rendered.setting("Packages") if "nvidia" in name or "libcuda" in name]


def test_the_root_has_no_compiler(rendered: Rendered) -> None:
    facts = rendered.facts
    programs = [
        *facts["programs"],
        *facts["own_programs"],
        *(Path(each).name for each in facts["wheels"]["programs"]),
    ]
    assert {"python3.13", "nvidia-persistenced", "ptxas"} <= set(programs)
    assert not [name for name in programs for each in COMPILERS if fnmatchcase(name, each)]
    assert facts["wheels"]["programs"] == [f"{NVIDIA_TRITON}/bin/ptxas"]
    # The compilers that made driver and modules are in trees of their own.
    packages = set(rendered.setting("Packages"))
    made_with = {"gcc", "gcc-14", "cpp-14", "binutils", "make", "libc6-dev", "libpython3.13-dev", "patch"}
    lock = rendered.lock
    assert lock.driver is not None and lock.compiled is not None
    assert made_with <= {each.name for each in (*lock.driver.toolchain, *lock.compiled.toolchain)}
    assert not made_with & packages


def test_of_the_wheels_stays_what_the_recipe_keeps(rendered: Rendered, tmp_path: Path) -> None:
    facts = rendered.facts["wheels"]
    python = recipe_of(tmp_path).content.python
    assert python is not None
    assert not [path for path in facts["files"] if any(matches(path, pattern) for pattern in python.remove)]
    # Neither the compilers of kernels, which others require, nor what Python would run at its start.
    top = {path.partition("/")[0] for path in facts["files"] if ".dist-info/" not in path}
    assert top == {"nvidia", "setuptools", "torch", "triton", "vllm"}
    assert {path for path in facts["files"] if path.startswith("triton/") and "dist-info" not in path} == {
        "triton/__init__.py",
        "triton/_C/libtriton.so",
        f"{NVIDIA_TRITON}/driver.c",
        f"{NVIDIA_TRITON}/bin/ptxas",
        *MADE,
    }
    root = rendered.place / "mkosi.extra/usr/lib/python-wheels"
    written = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    assert set(written) == set(facts["files"])
    executable = [name for name, path in written.items() if path.stat().st_mode & 0o111]
    assert executable == [f"{NVIDIA_TRITON}/bin/ptxas"]
    # Every module that the build imports has a file there.
    for module in facts["imports"]:
        assert [path for path in facts["files"] if path.startswith(module.replace(".", "/"))], module


def test_mkosi_gets_the_release_the_kernel_and_the_compression_of_the_recipe(rendered: Rendered) -> None:
    assert rendered.setting("Distribution") == ["debian"] and rendered.setting("Release") == ["trixie"]
    packages = rendered.setting("Packages")
    assert {"libstdc++6", "python3-minimal", "systemd"} <= {*packages}
    assert packages == sorted(each.name for each in rendered.lock.packages)
    kernel = [each for each in rendered.lock.packages if each.name.startswith("linux-")]
    assert kernel and {each.suite for each in kernel} == {"trixie-backports"}
    definitions = "".join(path.read_text() for path in sorted((rendered.place / "mkosi.repart").iterdir()))
    assert "Compression=zstd" in definitions
