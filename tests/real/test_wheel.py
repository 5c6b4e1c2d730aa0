"""The installed wheel in an empty directory: start a recipe, lock, build, run, and compare with the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml
from tests.real.conftest import ROOT, only_full, succeeded

from privml.output.manifest import read
from privml.recipe import schema

pytestmark = [pytest.mark.real, only_full]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty directory."""
    return tmp_path_factory.mktemp("desk")


def privml(programs: Path, desk: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(programs / "privml-build"), *words]
    return succeeded(
        subprocess.run(command, cwd=desk, capture_output=True, text=True, timeout=1500, check=False, env=os.environ)
    )


def test_the_wheel_contains_the_files_that_images_are_built_from(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "images", "recipes"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    places = {"images": "privml/image/data", "recipes": "privml/recipe/data"}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for path in tracked.stdout.split():
            top, _, rest = path.partition("/")
            assert archive.read(f"{places[top]}/{rest}") == (ROOT / path).read_bytes(), path
        for name, body in schema.files().items():
            assert archive.read(f"privml/recipe/data/schemas/{name}") == body
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests/")]


def test_it_carries_the_cases_for_verifiers(programs: Path, desk: Path) -> None:
    said = privml(
        programs, desk, "verify", "--conformance", f"{programs / 'privml-build'} verify --answer-cases"
    ).stdout
    assert said.endswith(", wrong code 0, wrong 0\n")


def test_a_recipe_is_started_and_its_workflow_passes(programs: Path, desk: Path) -> None:
    where = [str(programs / "python"), "-c", "import privml; print(privml.__file__)"]
    found = subprocess.run(where, cwd=desk, check=True, capture_output=True, text=True).stdout
    assert found.startswith(str(programs.parent)), "the checkout was tested instead of the wheel"
    privml(programs, desk, "init", "demo-cpu")
    privml(programs, desk, "lock", "demo-cpu")
    made = yaml.safe_load((desk / ".github/workflows/image.yml").read_text())
    steps = {step["name"]: step["run"] for step in made["jobs"]["image"]["steps"] if "name" in step}
    environment = {**os.environ, **made["env"], "PATH": f"{programs}:{os.environ['PATH']}"}
    for name in ("lint", "lock", "image"):
        succeeded(
            subprocess.run(
                ["bash", "-e", "-c", steps[name]],
                cwd=desk,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
        )


def test_the_wheel_and_the_checkout_build_the_same_bytes(programs: Path, desk: Path, demo_cpu: Path) -> None:
    assert json.loads(privml(programs, desk, "image", "demo-cpu", "--json").stdout)["cached"] is True
    assert read(desk / "out/demo-cpu").artefacts == read(demo_cpu).artefacts


def test_the_image_built_by_the_wheel_runs_and_answers(programs: Path, desk: Path) -> None:
    answer = privml(programs, desk, "run", "demo-cpu", "--prompt", "The capital of France is").stdout
    assert "Paris" in answer
