"""Wheels in mkosi's input tree: what stays of them, and what is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import image_fake
import pytest
import wheel_file
from test_image_render import PLAN

from privml.base.errors import InputsError
from privml.engines.registry import engine_named
from privml.events import configuration
from privml.image import dependencies, pythonwheels, render, resources
from privml.image.config import measured_config
from privml.lock.models import Lock, Requirements, Wheel
from privml.lock.trees import images_folder
from privml.recipe.loader import load, shipped
from privml.recipe.python import DIRECTORY, VARIABLE, Python
from privml.recipe.service import Service
from privml.store.objects import Store

EPOCH = 1_750_000_000
SPEEDUPS = "acme_fast/_speedups.cpython-314-x86_64-linux-gnu.so"
NATIVE = "cp314-cp314-manylinux_2_28_x86_64"


@pytest.fixture
def fake(tmp_path: Path) -> image_fake.Fake:
    return image_fake.make(tmp_path / "fake")


def wanted(**fields: object) -> Python:
    return Python.model_validate({"requirements": ["acme-web"], "before": "2026-02-01", **fields})


def lock_of(fake: image_fake.Fake, *wheels: Wheel, requested: tuple[str, ...] = ("acme-web",)) -> Lock:
    ordered = tuple(sorted(wheels, key=lambda wheel: wheel.name))
    asked = Requirements(python="3.14", requested=requested, before="2026-02-01", wheels=ordered)
    return fake.lock.model_copy(update={"requirements": asked})


def wheel(store: Store, name: str, files: dict[str, bytes], *requires: str, tag: str = wheel_file.TAG) -> Wheel:
    lines = [*(f"Requires-Dist: {each}" for each in requires), "License-Expression: MIT"]
    return wheel_file.locked(
        store, name, "1.0", wheel_file.wheel_bytes(name, "1.0", files, tag=tag, metadata=lines), tag=tag
    )


def changed_afterwards(store: Store) -> Wheel:
    """A wheel with a library that its publisher changed after RECORD was written, as of PyNvVideoCodec 2.0.4."""
    files = wheel_file.files_of("acme-web", "1.0", {"acme_web/__init__.py": b"", "acme_web/fast.so": b"as recorded"})
    record = wheel_file.record(files, wheel_file.info("acme-web", "1.0"))
    entries = [*(files | {"acme_web/fast.so": b"changed"}).items(), ("acme_web-1.0.dist-info/RECORD", record)]
    return wheel_file.locked(store, "acme-web", "1.0", wheel_file.packed(entries))


def test_a_file_that_is_not_as_recorded_may_only_be_left_out(fake: image_fake.Fake, tmp_path: Path) -> None:
    web = changed_afterwards(fake.store)
    with pytest.raises(
        InputsError, match=r"wheel-record: .*fast\.so has 7 bytes, expected 11 as in RECORD"
    ) as caught:
        pythonwheels.unpacked(wanted(), lock_of(fake, web), fake.store)
    assert "python.remove" in (caught.value.hint or "")
    found = pythonwheels.unpacked(wanted(remove=["acme_web/fast.so"]), lock_of(fake, web), fake.store)
    pythonwheels.write(found, fake.store, tmp_path / "root", epoch=EPOCH)
    assert [path.name for path in (tmp_path / "root/acme_web").iterdir()] == ["__init__.py"]


def test_files_are_unpacked_with_fixed_modes_and_times(fake: image_fake.Fake, tmp_path: Path) -> None:
    web = wheel(fake.store, "acme-web", {
        "acme_web/__init__.py": b"import acme_fast\n",
        "acme_web/__pycache__/__init__.cpython-314.pyc": b"made elsewhere",
        "acme_web/tests/test_web.py": b"x" * 1000,
        "acme_web/bin/tool": b"\x7fELF",
        "acme_web-1.0.data/scripts/acme": b"#!python\n",
    })  # fmt: skip
    fast = wheel(fake.store, "acme-fast", {SPEEDUPS: b"\x7fELF"}, tag=NATIVE)
    python = wanted(remove=["acme_web/tests"], programs=["acme_web/bin/tool"], imports=["acme_web"])
    found = pythonwheels.unpacked(python, lock_of(fake, web, fast), fake.store)
    root = tmp_path / "root"
    pythonwheels.write(found, fake.store, root, epoch=EPOCH)
    files = {str(path.relative_to(root)): path.stat() for path in root.rglob("*") if path.is_file()}
    own = {name for name in files if ".dist-info/" not in name}
    assert own == {"acme_web/__init__.py", "acme_web/bin/tool", SPEEDUPS}
    assert {name for name, status in files.items() if status.st_mode & 0o111} == {"acme_web/bin/tool"}
    assert {status.st_mtime for status in files.values()} == {EPOCH}
    assert {path.stat().st_mode & 0o7777 for path in [root, *root.rglob("*")] if path.is_dir()} == {0o755}
    assert found.removed == {"acme_web/tests": 1000}
    facts = render.tree(plan_with(found), resources.templates())["privml.json"]
    listed = json.loads(facts.data)["wheels"]
    assert listed["directory"] == DIRECTORY
    assert set(listed["files"]) == set(files)
    assert listed["imports"] == ["acme_web"]


def test_what_the_build_makes_takes_the_place_of_a_file_or_is_added(fake: image_fake.Fake, tmp_path: Path) -> None:
    lock = lock_of(fake, wheel(fake.store, "acme-web", {"acme_web/__init__.py": b"old", "acme_web/b.py": b"b"}))
    found = pythonwheels.unpacked(wanted(programs=["acme_web/b.py"]), lock, fake.store)
    made = {"acme_web/__init__.py": b"changed", "acme_web/fast.so": b"\x7fELF"}
    with_made = pythonwheels.with_made(found, made)
    assert with_made.size == found.size - len(b"old") + len(b"changed") + len(b"\x7fELF")
    root = tmp_path / "root"
    pythonwheels.write(with_made, fake.store, root, epoch=EPOCH)
    assert {name: (root / name).read_bytes() for name in made} == made
    assert {((root / name).stat().st_mode & 0o7777, (root / name).stat().st_mtime) for name in made} == {
        (0o644, EPOCH)
    }
    listed = json.loads(render.tree(plan_with(with_made), resources.templates())["privml.json"].data)["wheels"]
    files = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in listed["files"]}
    assert listed["files"] == files and set(made) < set(files)
    # A recipe that leaves the package out gets nothing of it, and no file that the build makes is a program.
    assert pythonwheels.with_made(found, {"other/fast.so": b""}) == found
    with pytest.raises(InputsError, match=r"^wheel-program: acme_web/b\.py .* is made by the build"):
        pythonwheels.with_made(found, {"acme_web/b.py": b""})


def test_imports_have_the_environment_of_the_engine_whose_wheels_they_are(fake: image_fake.Fake) -> None:
    found = pythonwheels.unpacked(
        wanted(imports=["acme_web"]), lock_of(fake, wheel(fake.store, "acme-web", {"acme_web.py": b""})), fake.store
    )
    gpu = load(shipped() / "tdx-h100-vllm.yaml").content.gpu
    assert gpu is not None

    def listed(plan: render.Plan) -> dict[str, object]:
        facts = json.loads(render.tree(plan, resources.templates())["privml.json"].data)["wheels"]
        return {name: facts[name] for name in ("programs", "probes", "environment")}

    plain = replace(plan_with(found), engine=None)
    environment = {"PATH": "/usr/bin", "LANG": "C.UTF-8", "PYTHONPATH": f"/{DIRECTORY}"}
    probes = ["file", "ldconfig", "uname"]
    assert listed(plain) == {"programs": [], "probes": probes, "environment": environment}
    driven = replace(plain, driver=gpu.record)
    libraries = {"LD_LIBRARY_PATH": "/usr/lib/nvidia"}
    probes = ["file", "ldconfig", "modprobe", "uname"]
    assert listed(driven) == {"programs": [], "probes": probes, "environment": environment | libraries}
    engine = engine_named("vllm")
    assert listed(replace(driven, engine=engine))["environment"] == engine.environment


def test_images_with_wheels_keep_the_whole_standard_library(fake: image_fake.Fake) -> None:
    found = pythonwheels.unpacked(wanted(), lock_of(fake, wheel(fake.store, "acme-web", {"a.py": b""})), fake.store)
    unused = [
        json.loads(render.tree(plan_with(each), resources.templates())["privml.json"].data)["unused"]
        for each in (found, None)
    ]
    assert "idlelib" in unused[0] and "unittest" not in unused[0]
    assert set(unused[0]) < set(unused[1]) and "unittest" in unused[1]


def plan_with(found: pythonwheels.Unpacked | None) -> render.Plan:
    return replace(PLAN, wheels=found)


def test_finalize_does_not_know_the_folder_without_wheels() -> None:
    assert json.loads(render.tree(plan_with(None), resources.templates())["privml.json"].data)["wheels"] is None


def test_no_unit_of_the_guest_has_the_folder_on_its_search_path() -> None:
    every = [path for path in (images_folder() / "guest").rglob("*") if path.is_file()]
    assert every
    for path in every:
        lines = [line for line in path.read_text().splitlines() if DIRECTORY in line or VARIABLE in line]
        assert set(lines) <= {"Environment=PYTHONPATH=/usr/lib/privml"}, path


@pytest.mark.parametrize("path", ["acme.pth", "sitecustomize.py", "usercustomize/__init__.py", "sitecustomize.so"])
def test_what_python_would_run_at_its_start_is_refused_unless_removed(fake: image_fake.Fake, path: str) -> None:
    lock = lock_of(fake, wheel(fake.store, "acme-web", {"acme_web.py": b"", path: b"import os\n"}))
    with pytest.raises(InputsError, match=rf"^wheel-start: .*{path} would run at the start"):
        pythonwheels.unpacked(wanted(), lock, fake.store)
    found = pythonwheels.unpacked(wanted(remove=[path.partition("/")[0]]), lock, fake.store)
    assert path not in found.files


def test_the_same_file_of_two_wheels_is_kept_once_and_different_ones_are_refused(fake: image_fake.Fake) -> None:
    shared = {"acme/__init__.py": b"# namespace\n"}
    one = wheel(fake.store, "acme-web", {**shared, "acme/web.py": b""})
    two = wheel(fake.store, "acme-fast", {**shared, "acme/fast.py": b""})
    assert "acme/__init__.py" in pythonwheels.unpacked(wanted(), lock_of(fake, one, two), fake.store).files
    other = wheel(fake.store, "acme-fast", {"acme/__init__.py": b"# other\n"})
    with pytest.raises(
        InputsError, match=r"^wheel-clash: acme/__init__.py is in acme_fast-1.0.* and in acme_web-1.0"
    ):
        pythonwheels.unpacked(wanted(), lock_of(fake, one, other), fake.store)
    flat = wheel(fake.store, "acme-fast", {"acme": b""})
    with pytest.raises(InputsError, match=r"^wheel-clash: acme is a file of one wheel and a folder of another"):
        pythonwheels.unpacked(wanted(), lock_of(fake, one, flat), fake.store)


def test_a_pattern_and_a_program_that_match_nothing_are_refused(fake: image_fake.Fake) -> None:
    lock = lock_of(fake, wheel(fake.store, "acme-web", {"acme_web.py": b"x"}))
    with pytest.raises(InputsError, match=r"^wheel-remove: `acme_web/\*` of `python.remove` matches no file"):
        pythonwheels.unpacked(wanted(remove=["acme_web/*"]), lock, fake.store)
    with pytest.raises(InputsError, match=r"^wheel-program: bin/x of `python.programs` is not a file"):
        pythonwheels.unpacked(wanted(programs=["bin/x"]), lock, fake.store)


def test_more_bytes_than_allowed_are_refused(fake: image_fake.Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pythonwheels, "MAX_BYTES", 10)
    lock = lock_of(fake, wheel(fake.store, "acme-web", {"acme_web.py": b"x"}))
    with pytest.raises(InputsError, match=r"^wheel-size: the wheels unpack to more than"):
        pythonwheels.unpacked(wanted(), lock, fake.store)


def test_a_wheel_requires_others_as_in_the_guest(fake: image_fake.Fake) -> None:
    web = wheel(fake.store, "acme-web", {"acme_web.py": b""}, "acme-fast; python_version >= '3.14'",
                "acme-old; sys_platform == 'win32'", "acme-old; extra == 'old'")  # fmt: skip
    fast = wheel(fake.store, "acme-fast", {"acme_fast.py": b""})
    old = wheel(fake.store, "acme-old", {"acme_old.py": b""})
    plain = lock_of(fake, web, fast, old)
    assert dependencies.of_wheels(plain, fake.store)["acme-web"] == ("acme-fast",)
    extra = lock_of(fake, web, fast, old, requested=("acme-web[old]",))
    assert dependencies.of_wheels(extra, fake.store) == {
        "acme-fast": (), "acme-old": (), "acme-web": ("acme-fast", "acme-old"),
    }  # fmt: skip


def test_only_services_get_the_folder_on_their_search_path(fake: image_fake.Fake) -> None:
    service = {"run": ["/usr/bin/python3"], "memory": "64MiB", "environment": {"LEVEL": "1"}}
    content = fake.recipe.content
    services = {"calc": Service.model_validate(service)}
    with_wheels = content.model_copy(update={"services": services, "python": wanted(), "inference": None})
    recipe = replace(fake.recipe, content=with_wheels)
    lock = fake.lock.model_copy(update={"models": ()})
    made = measured_config(recipe, lock, [])
    (calc,) = made.services
    assert calc.environment == {"LEVEL": "1", VARIABLE: f"/{DIRECTORY}"}
    assert configuration.encode(made).count(DIRECTORY.encode()) == 1
    recipe = replace(recipe, content=with_wheels.model_copy(update={"python": None}))
    (calc,) = measured_config(recipe, lock, []).services
    assert calc.environment == {"LEVEL": "1"}
