"""The production image is complete, is reused, boots, and its log equals the prediction."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.real.conftest import only_full, privml, succeeded
from tests.real.tamper import extract

from privml.image.render import ROOT_LABEL
from privml.image.workplace import Workplace
from privml.output.manifest import read
from privml.recipe.distributions import TOOLS
from privml.recipe.guestroot import PROGRAMS
from privml.recipe.loader import shipped
from privml.vm.ask import await_ready, request
from privml.vm.launch import launch_of
from privml.vm.machine import started

pytestmark = pytest.mark.real

PYTHON = TOOLS.release.python
ARTEFACTS = ("firmware-snp.fd", "firmware.fd", "model.raw", "root.raw", "uki.efi")


def test_a_built_image_is_complete_and_reused(demo_cpu: Path) -> None:
    manifest = read(demo_cpu)
    assert manifest.variant == "production"
    assert {path.name for path in demo_cpu.iterdir()} >= {*ARTEFACTS, "manifest.json"}
    again = json.loads(succeeded(privml("image", "demo-cpu", "--json")).stdout)
    assert again["cached"] is True
    assert again["root_hash"] == manifest.root.root_hash.hex()
    assert not list(demo_cpu.parent.glob(".demo-cpu.*.*")), "a build left its working directory"


@only_full
def test_the_output_s_path_reaches_no_tool(tmp_path: Path) -> None:
    """A cold build below a folder whose name a shell would take apart gives the same bytes."""
    built = []
    for folder in (tmp_path / "a b;c'd$e ö", tmp_path / "plain"):
        folder.mkdir()
        succeeded(privml("image", "tdx-min", "--force", "--output", str(folder / "tdx-min")))
        built.append(read(folder / "tdx-min").artefacts)
    assert built[0] == built[1]


def test_root_and_uki_are_within_the_size_limit(demo_cpu: Path) -> None:
    assert sum((demo_cpu / name).stat().st_size for name in ("root.raw", "uki.efi")) <= 250_000_000


def test_production_holds_nothing_of_the_simulation(demo_cpu: Path, demo_cpu_dev: Path) -> None:
    lock = json.loads((demo_cpu.parents[1] / "recipes/demo-cpu.lock.json").read_bytes())
    assert not [file["path"] for file in lock["agent"]["files"] if "/sim/" in file["path"]]
    production, development = read(demo_cpu), read(demo_cpu_dev)
    assert production.root.root_hash != development.root.root_hash
    assert production.artefacts["uki.efi"] != development.artefacts["uki.efi"]
    assert production.artefacts["model.raw"] == development.artefacts["model.raw"]


def test_the_root_has_only_the_programs_on_the_list(demo_cpu: Path, tmp_path: Path) -> None:
    extract(Workplace().tools(), demo_cpu / "root.raw", ROOT_LABEL, tmp_path)
    root = tmp_path / "tree"
    found = {path.name for folder in ("usr/bin", "usr/sbin") for path in (root / folder).iterdir()}
    assert found == {*PROGRAMS, PYTHON, "llama-server"}
    names = {path.name for path in root.rglob("*")}
    assert not names & {"sh", "bash", "dash", "busybox", "perl", "dpkg", "apt", "agetty", "sulogin", "su", "sudo"}
    assert not [path for path in root.rglob("*") if path.lstat().st_mode & 0o6000], "setuid or setgid files"
    assert not list((root / "usr/lib/systemd").glob("*generators/*"))
    assert not (root / "usr/lib/privml/privml/sim").exists()


def test_the_image_boots_and_its_model_answers(demo_cpu: Path) -> None:
    done = succeeded(privml("run", "demo-cpu", "--prompt", "The capital of France is", "--max-tokens", "6"))
    assert "Paris" in done.stdout


def test_an_image_without_a_model_boots_and_has_nothing_of_an_engine(
    tdx_min: Path, demo_cpu: Path, tmp_path: Path
) -> None:
    """On a machine that is not a TD every stage passes; there is no attestation and no inference."""
    manifest = read(tdx_min)
    assert (manifest.variant, manifest.models, manifest.engine) == ("production", (), None)
    assert not (tdx_min / "model.raw").exists()
    assert (tdx_min / "root.raw").stat().st_size < (demo_cpu / "root.raw").stat().st_size
    ours, theirs = ({package.name: package for package in read(image).packages} for image in (tdx_min, demo_cpu))
    assert ours.items() < theirs.items()  # the same packages, fewer of them
    tools = Workplace().tools()
    extract(tools, tdx_min / "root.raw", ROOT_LABEL, tmp_path)
    root = tmp_path / "tree"
    assert {path.name for folder in ("usr/bin", "usr/sbin") for path in (root / folder).iterdir()} == {
        *PROGRAMS,
        PYTHON,
    }
    # The agent's records of engines are in every image; nothing of the engine itself is.
    records = root / "usr/lib/privml/privml/engines"
    of_an_engine = ("llama", "ggml", "privml-engine")
    assert not [
        path
        for path in root.rglob("*")
        if any(word in path.name for word in of_an_engine) and not path.is_relative_to(records)
    ]
    assert "privml-engine" not in (root / "etc/passwd").read_text() + (root / "etc/group").read_text()
    with started(tools, launch_of(tdx_min, manifest, shipped())) as machine:
        await_ready(machine, 300)
        stages = {
            row["name"]: row["status"]
            for row in json.loads(request(machine, "/boot-stages", timeout=30)[1])["stages"]
        }
        assert (stages["model"], stages["engine"], stages["ready"]) == ("skipped", "skipped", "ok")
        status, body = request(machine, "/v1/completions", data=b'{"prompt":"x"}', timeout=30)
        assert (status, json.loads(body)["error"]["code"]) == (404, "no-inference")
        nonce = "5a" * 32
        status, body = request(machine, f"/.well-known/privml-attestation?nonce={nonce}", timeout=30)
        assert (status, json.loads(body)["error"]["code"]) == (503, "no-tee")
    assert "has no model" in succeeded(privml("run", "tdx-min", "--prompt", "x"), 2).stderr


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("demo-cpu", None),
        ("demo-cpu-dev", None),
        ("tdx-min", None),
        ("demo-cpu", ("4", "4GiB")),
        ("demo-cpu", ("1", "1GiB")),
        ("tdx-min", ("4", "4GiB")),
    ],
)
def test_the_boot_log_equals_the_prediction(
    name: str, shape: tuple[str, str] | None, demo_cpu: Path, demo_cpu_dev: Path, tdx_min: Path, full: bool
) -> None:
    if shape is not None and not full:
        pytest.skip("further shapes are booted by `make check-full`")
    words = ("--vcpus", shape[0], "--memory", shape[1]) if shape else ()
    found = json.loads(succeeded(privml("measure", name, "--boot", "--json", *words)).stdout)
    assert found["equal"] is True
    assert found["matched"] == {"rtmr0": 16, "rtmr1": 9, "rtmr2": 14}


def test_another_command_line_is_seen_in_the_log(demo_cpu: Path, tmp_path: Path) -> None:
    """The comparison can fail: an image that boots other bytes than its manifest says is noticed."""
    copy = tmp_path / "image"
    copy.mkdir()
    for name in (*ARTEFACTS, "manifest.json"):
        (copy / name).symlink_to(demo_cpu / name)
    (copy / "uki.efi").unlink()
    (copy / "uki.efi").write_bytes(_with_word(demo_cpu / "uki.efi"))
    done = privml("measure", str(copy), "--boot")
    assert done.returncode == 6, done.stderr
    assert "uki.efi does not match manifest.json" in done.stderr


def _with_word(uki: Path) -> bytes:
    data = uki.read_bytes()
    assert data.count(b"console=ttyS0 quiet") == 1
    return data.replace(b"console=ttyS0 quiet", b"console=ttyS0 debug")


def test_a_missing_artefact_is_named(demo_cpu: Path, tmp_path: Path) -> None:
    copy = tmp_path / "image"
    shutil.copytree(demo_cpu, copy, ignore=shutil.ignore_patterns("root.raw"))
    done = privml("run", str(copy))
    assert done.returncode == 6
    assert "root.raw is missing" in done.stderr
