"""The base wheel alone verifies, proxies and measures files; other verbs name the extra that they need."""

from __future__ import annotations

import importlib.metadata
import lzma
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import attestation_samples as samples
import pytest
from test_cli_main import image, place  # noqa: F401 - fixtures

from privml.base import extras
from privml.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FIRMWARE = ROOT / "tests/vectors/measurement/firmware/OVMF.fd.xz"
LACKING = "privml-build: what recipes, locks and images need is not installed: pip install 'privml-build[build]'\n"
BASE_VERBS = {"capture", "collateral", "explain", "export", "inspect", "lookup", "measure", "proxy", "verify"}
BASE_VERBS |= {"receipt", "status", "token"}
BUILD_VERBS = {"diff", "doctor", "endorse", "image", "init", "lint", "lock", "publish", "repro", "run", "store"}


def names(requirements: list[str]) -> set[str]:
    """The normalised names of requirements."""
    return {re.split(r"[^A-Za-z0-9._-]", text)[0].lower().replace("_", "-") for text in requirements}


def closure(requirements: list[str]) -> set[str]:
    """The distributions that ``requirements`` bring here, without extras of theirs that nobody asked for."""
    done: set[str] = set()
    todo = names(requirements)
    while todo:
        name = todo.pop()
        try:
            wanted = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # one for another platform
            continue
        done.add(name)
        todo |= names([text for text in wanted if "extra ==" not in text]) - done
    return done


class Installed:
    """An environment with the wheel and what the base install brings, and no other package."""

    def __init__(self, folder: Path) -> None:
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        self.python = folder / "venv/bin/python"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        (site,) = (folder / "venv/lib").glob("python*/site-packages")
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        ours = Path(sysconfig.get_path("purelib"))
        for name in closure(PROJECT["dependencies"]):
            for top in {file.parts[0] for file in importlib.metadata.files(name) or [] if file.parts[0] != ".."}:
                if top != "__pycache__" and not (site / top).exists():
                    (site / top).symlink_to(ours / top)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`privml-build WORDS`, as its entry point starts it."""
        code = "from privml.cli.start import main; main()"
        command = [str(self.python), "-c", code, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=self.environment)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("base"))


def test_the_table_of_extras_is_that_of_the_project() -> None:
    listed = PROJECT["optional-dependencies"]
    assert set(listed) == {extra.name for extra in extras.EXTRAS}
    known = importlib.metadata.packages_distributions()
    for extra in extras.EXTRAS:
        brought = {name.lower() for module in extra.modules for name in known[module]}
        assert brought == names(listed[extra.name])


def test_the_base_install_brings_no_package_of_an_extra() -> None:
    brought = closure(PROJECT["dependencies"])
    assert not brought & {name for listed in PROJECT["optional-dependencies"].values() for name in names(listed)}
    # What else Starlette, Uvicorn and dcap-qvl declare is theirs; this is the whole of it.
    assert len(brought) <= 12, sorted(brought)


def test_the_wheel_alone_is_what_runs(base: Installed) -> None:
    words = [str(base.python), "-c", "import privml; print(privml.__file__)"]
    found = subprocess.run(words, capture_output=True, text=True, check=True, env=base.environment)
    assert found.stdout.startswith(str(base.python.parents[1]))


def test_the_base_verifies(base: Installed, place: Path) -> None:  # noqa: F811
    image(place)
    (place / "root.pem").write_bytes(samples.sim.root_pem())
    (place / "doc.json").write_bytes(samples.document().encode())
    shown = ("--nonce", samples.NONCE.hex(), "--spki", samples.SPKI.hex())
    words = ("verify", "doc.json", "--expect", "out/demo-cpu", *shown)
    done = base.run(*words)
    assert (done.returncode, done.stdout[:7]) == (8, "REFUSED"), done.stderr
    done = base.run(*words, "--allow-simulated", "root.pem")
    assert (done.returncode, done.stdout[:18]) == (10, "ACCEPTED-SIMULATED"), done.stderr


def test_the_base_answers_every_case_for_verifiers(base: Installed) -> None:
    ours = f"{base.python} -c 'from privml.cli.start import main; main()' verify --answer-cases"
    done = base.run("verify", "--conformance", ours)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(", wrong code 0, wrong 0\n")


def test_the_base_measures_a_firmware(base: Installed, tmp_path: Path) -> None:
    (tmp_path / "OVMF.fd").write_bytes(lzma.decompress(FIRMWARE.read_bytes()))
    for words in (("measure",), ("-q", "measure")):
        done = base.run(*words, str(tmp_path / "OVMF.fd"))
        assert (done.returncode, done.stderr) == (0, "")
        assert re.search(r"^ +mrtd +[0-9a-f]{96} ", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize("verb", sorted(BASE_VERBS))
def test_a_verb_of_the_base_shows_its_help(base: Installed, verb: str) -> None:
    done = base.run(verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: privml-build {verb}")


@pytest.mark.parametrize("verb", sorted(BUILD_VERBS))
def test_a_verb_that_builds_names_its_extra_in_one_line(base: Installed, verb: str) -> None:
    done = base.run(verb, "demo-cpu")
    assert (done.returncode, done.stdout, done.stderr) == (5, "", LACKING)


@pytest.mark.parametrize("verb", sorted(set(VERBS) - BASE_VERBS - BUILD_VERBS))
def test_any_other_verb_does_one_of_both(base: Installed, verb: str) -> None:
    done = base.run(verb, "--help")
    assert (done.returncode, done.stderr) in ((0, ""), (5, LACKING))


@pytest.mark.parametrize("verb", ["measure", "inspect"])
def test_a_verb_for_files_and_images_names_the_extra_for_an_image(base: Installed, verb: str) -> None:
    done = base.run(verb, "demo-cpu")
    assert (done.returncode, done.stdout, done.stderr) == (5, "", LACKING)


def test_the_list_of_verbs_and_completion_need_no_extra(base: Installed) -> None:
    done = base.run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"  {verb} " in done.stdout for verb in VERBS)
    done = subprocess.run(
        [str(base.python), "-c", "from privml.cli.start import main; main()", "image", "--"],
        env={"_PRIVML_BUILD_COMPLETE": "bash_complete", "COMP_WORDS": "privml-build image --", "COMP_CWORD": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_module_of_no_extra_is_not_explained_away() -> None:
    assert extras.missing(ModuleNotFoundError("No module named 'nothing'", name="nothing")) is None
    assert extras.missing(ImportError("cannot import name")) is None
