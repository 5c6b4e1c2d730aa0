"""An image whose service imports wheels, one pure and one native: locked, built, booted and asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.real.conftest import only_full, privml, succeeded
from tests.real.serviceprogram import program
from tests.real.tamper import extract

from privml.image.render import ROOT_LABEL
from privml.image.workplace import Workplace
from privml.lock.lockfile import read_lock
from privml.recipe.loader import shipped
from privml.recipe.python import DIRECTORY

pytestmark = pytest.mark.real

# Renders a page with both wheels, and says where they and the search path are.
ANSWER = """
import json, sys

import jinja2, markupsafe, markupsafe._speedups

def answer(_):
    found = {
        "page": jinja2.Environment(autoescape=True).from_string("<b>{{ x }}</b>").render(x="<1>"),
        "native": markupsafe._speedups.__file__,
        "versions": [jinja2.__version__, markupsafe.__version__],
        "path": sys.path,
        "compiled": jinja2.__cached__,
    }
    return json.dumps(found).encode()
"""
RECIPE = """\
extends: ./tdx-min.yaml
description: tdx-min with a service that imports wheels.
files:
  /usr/lib/acme/page.py: {source: page.py, executable: false}
services:
  page: {run: [/usr/bin/python3, /usr/lib/acme/page.py], memory: 96MiB, required: true}
python:
  requirements: [jinja2==3.1.6]
  before: 2026-04-01
  remove: [jinja2/async_utils.py]
  imports: [markupsafe._speedups]
"""


def image_of(folder: Path, recipe: str) -> Path:
    """Lint, lock and build ``recipe`` in ``folder``; the recipe's path."""
    path = folder / "recipes/tdx-wheels.yaml"
    path.write_text(recipe)
    succeeded(privml("lint", str(path)))
    succeeded(privml("lock", str(path)))
    return path


@only_full
def test_a_service_imports_a_pure_and_a_native_wheel(tmp_path: Path) -> None:
    shutil.copytree(shipped(), tmp_path / "recipes")
    (tmp_path / "recipes/page.py").write_text(program(ANSWER))
    # The same packages as in tdx-min: no archive is asked.
    shutil.copy(tmp_path / "recipes/tdx-min.lock.json", tmp_path / "recipes/tdx-wheels.lock.json")
    # A wheel without one of its modules is found by the import, and the build ends with what Python said.
    broken = RECIPE.replace("imports: [", "imports: [jinja2, ")
    recipe, image = image_of(tmp_path, broken), tmp_path / "image"
    done = succeeded(privml("image", str(recipe), "--output", str(image)), 6)
    assert "wheel-import: import jinja2: ModuleNotFoundError: No module named 'jinja2.async_utils'" in done.stderr
    assert not image.exists()

    whole = RECIPE.replace("jinja2/async_utils.py", "jinja2/constants.py").replace("imports: [", "imports: [jinja2, ")
    recipe = image_of(tmp_path, whole)
    done = succeeded(privml("image", str(recipe), "--output", str(image)))
    assert "without jinja2/constants.py: 0.0 MB less" in done.stderr
    names = [wheel.name for wheel in read_lock(recipe.with_name("tdx-wheels.lock.json")).imported]
    assert names == ["jinja2", "markupsafe"]

    said = succeeded(privml("run", str(image), "--get", "/x/page/")).stdout
    found = json.loads(said.splitlines()[0])
    assert found["page"] == "<b>&lt;1&gt;</b>"
    assert found["native"].startswith(f"/{DIRECTORY}/markupsafe/_speedups.cpython-")
    assert found["versions"][0] == "3.1.6"
    assert f"/{DIRECTORY}" in found["path"]
    assert found["compiled"].startswith(f"/{DIRECTORY}/jinja2/__pycache__/")

    (tmp_path / "inside").mkdir()
    extract(Workplace().tools(), image / "root.raw", ROOT_LABEL, tmp_path / "inside")
    tree = tmp_path / "inside/tree" / DIRECTORY
    files = [path for path in tree.rglob("*") if path.is_file()]
    assert not (tree / "jinja2/constants.py").exists()
    assert {path.stat().st_mode & 0o7777 for path in files} == {0o644}
    (compiled,) = (tree / "jinja2/__pycache__").glob("environment.*.pyc")
    assert compiled.read_bytes()[4:8] == b"\1\0\0\0", "unchecked-hash"
    components = json.loads((image / "sbom.cdx.json").read_bytes())
    licences = {each["name"]: each["licenses"] for each in components["components"] if each["name"] in names}
    assert licences["markupsafe"] == [{"license": {"id": "BSD-3-Clause"}}]
    edges = {each["ref"]: each["dependsOn"] for each in components["dependencies"]}
    (jinja,) = (ref for ref in edges if ref.startswith("pkg:pypi/jinja2@"))
    assert [each.partition("@")[0] for each in edges[jinja]] == ["pkg:pypi/markupsafe"]
    # The second build changes the requirements' files only: the packages are not unpacked again.
    recipe = image_of(tmp_path, whole.replace("jinja2/constants.py", "jinja2/sandbox.py"))
    done = succeeded(privml("image", str(recipe), "--output", str(image)))
    assert "base tree: cached" in done.stderr
    assert "recipe python.remove changed" in done.stderr
