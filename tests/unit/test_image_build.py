"""A build with stand-ins for the tools: order of steps, caching, clean-up after failures, and unchanged rebuilds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import image_fake
import pytest
from image_fake import HASH, KERNEL, Fake, listing, sha256
from image_volume import volume
from test_lock_deb import file as deb_file
from test_lock_deb import package as deb_package

from privml.base.errors import BuildError, InputsError, MeasurementError, UsageError
from privml.events import configuration, stages
from privml.image import build as room
from privml.image import code, inputs, madeby, root
from privml.image import firmware as firmware_step
from privml.image.build import build
from privml.image.inputs import BASE
from privml.image.order import BuildResult
from privml.image.render import File
from privml.image.tools import ToolsTree
from privml.image.uki import BASE_WORDS
from privml.lock.lockfile import write_lock
from privml.lock.modelrecord import HubSource, ModelFile
from privml.lock.models import Firmware, Tree, TreeFile
from privml.lock.wanted import in_order
from privml.output import fetched, manifest
from privml.output.artefacts import check_artefacts
from privml.output.contents import Engine
from privml.recipe.loader import load, shipped
from privml.statement.predicate import Predicate
from privml.store.objects import Store
from privml.store.pools import Pool, export

SALT = bytes(range(32)).hex()
ARTEFACTS = ("firmware.fd", "model.raw", "root.raw", "uki.efi")
DOCUMENTS = (".inputs.json", "manifest.json", "prediction.json", "provenance.json", "sbom.cdx.json")
LOCKS = ("demo-cpu.lock.json", "demo-cpu.tools.lock.json")
PARTS = sorted([*DOCUMENTS, *LOCKS, *ARTEFACTS])


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return image_fake.make(tmp_path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out/demo-cpu"


def made(fake: Fake, out: Path, *, force: bool = False) -> BuildResult:
    return build(fake.order(), out, force=force)


def failing(fake: Fake, out: Path, *words: str) -> str:
    """The message of a failing build, which must leave no output and change no other file."""
    before = listing(out) if out.exists() else None
    with pytest.raises((BuildError, InputsError)) as caught:
        made(fake, out)
    assert (listing(out) if out.exists() else None) == before
    assert listing(out.parent) == [".demo-cpu.lock"] + ([] if before is None else ["demo-cpu"])
    for word in words:
        assert word in caught.value.message
    assert caught.value.exit_code == (6 if isinstance(caught.value, BuildError) else 4)
    return caught.value.message


def test_an_image_has_exactly_its_files(fake: Fake, out: Path) -> None:
    built = made(fake, out)
    assert not built.cached
    assert listing(out) == PARTS
    assert manifest.read(out) == built.manifest
    check_artefacts(out, built.manifest.artefacts)
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o644}
    assert out.stat().st_mode & 0o777 == 0o755


def test_a_build_over_a_fetched_image_makes_everything_and_says_no_more_that_it_was_fetched(
    fake: Fake, out: Path
) -> None:
    first = made(fake, out).manifest
    (out / inputs.FILE).unlink()  # a fetched image has none
    (out / fetched.FOLDER).mkdir()
    (out / fetched.FOLDER / fetched.FILE).write_bytes(b"{}")
    again = made(fake, out)
    assert all(again.because[step] for step in ("root.raw", "uki.efi", "model.raw", "firmware.fd"))
    assert (again.manifest, listing(out)) == (first, PARTS)


def test_a_kernel_that_cannot_extend_rtmr3_is_named_and_predicted_with_rtmr3_zero(
    fake: Fake, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fake.lock.rtmr3 == configuration.UNUSED
    unused = made(fake, out)
    assert "RTMR3: unused" in capsys.readouterr().err
    assert unused.manifest.agent_events
    assert madeby.extended_events(out, unused.manifest) == ()
    kernel = image_fake.keep(
        fake.store, "linux-binary-7.2", image_fake.deb_package([], control="Package: linux-binary-7.2")
    ).model_copy(update={"version": "7.2.1-1"})
    fake.lock = fake.lock.model_copy(update={"packages": in_order((*fake.lock.packages, kernel))})
    fake.installed(*fake.lock.packages)
    staged = made(fake, out)
    assert "RTMR3" not in capsys.readouterr().err
    assert madeby.extended_events(out, staged.manifest) == staged.manifest.agent_events


def test_an_image_has_a_firmware_for_each_of_its_tees(fake: Fake, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each firmware is a separate step, artefact and origin; that of SNP guests is bound to the kernel's hash."""
    monkeypatch.setattr(firmware_step, "bound", lambda data: data.replace(b"stock", b"bound"))
    fake.recipe = load(shipped() / "demo-cpu.yaml")
    file = deb_file("./usr/share/ovmf/OVMF.amdsev.fd", b"stock snp")
    package = image_fake.keep(fake.store, "ovmf-amdsev", deb_package([file]))
    firmware = {**fake.lock.firmware, "snp": Firmware(requested="ovmf-amdsev", packages=(package,))}
    fake.lock = fake.lock.model_copy(update={"firmware": firmware})
    built = made(fake, out)
    assert {tee: each.file for tee, each in built.manifest.firmware.items()} == {
        "tdx": "firmware.fd",
        "snp": "firmware-snp.fd",
    }
    assert built.manifest.firmware["snp"].derived_from == sha256(b"stock snp")
    assert (out / "firmware-snp.fd").read_bytes() == b"bound snp"
    assert built.manifest.artefacts["firmware-snp.fd"].sha256 == sha256(b"bound snp")
    assert built.manifest.origins["firmware-snp.fd"].endswith("firmware.snp.package")
    assert rebuilt(made(fake, out)) == {}
    other = {**firmware, "snp": image_fake.moved({"snp": firmware["snp"]}, version="4")["snp"]}
    fake.lock = fake.lock.model_copy(update={"firmware": other})
    changed = set(rebuilt(made(fake, out)))
    assert "firmware-snp.fd" in changed and "firmware.fd" not in changed
    with pytest.raises(MeasurementError, match="no firmware for other, expected one of"):
        built.manifest.firmware_for("other")


def test_the_caller_s_umask_does_not_change_the_output(fake: Fake, out: Path) -> None:
    fake.sandbox.write_text(
        image_fake.SANDBOX.replace(
            'if argv[0] == "systemd-repart":',
            'if argv[0] == "systemd-repart":\n'
            '    modes = [oct(p.stat().st_mode) for p in (work / "tree", *sorted((work / "tree").rglob("*")))]\n'
            '    (here / "modes.json").write_text(json.dumps(modes))',
        )
    )
    before = os.umask(0o077)
    try:
        made(fake, out)
    finally:
        os.umask(before)
    assert fake.read("modes.json") == ["0o40755", "0o100644"]
    assert out.stat().st_mode & 0o777 == 0o755


def test_each_tool_runs_once_in_order(fake: Fake, out: Path) -> None:
    made(fake, out)
    ran = [call[0] for call in fake.calls()]
    ran.remove("virt-fw-vars")  # beside the root, at any time
    assert ran == ["systemd-repart", "mkosi", "ukify"]


def test_the_manifest_describes_the_build(fake: Fake, out: Path) -> None:
    found = made(fake, out).manifest
    assert found.cmdline == " ".join((*BASE_WORDS, f"privml.root={HASH}:{SALT}:2:1"))
    assert (out / "uki.efi").read_bytes().startswith(b"kernel070701")
    assert found.cmdline.encode() in (out / "uki.efi").read_bytes()
    assert (out / "firmware.fd").read_bytes() == b"firmware without keys"
    assert found.kernel == KERNEL
    assert found.root.root_hash.hex() == found.models[0].verity.root_hash.hex() == HASH
    assert found.firmware["tdx"].derived_from == sha256(image_fake.FIRMWARE)
    assert found.engine == Engine("llama-server", "1.0")
    assert (found.name, found.variant, found.listen) == ("demo-cpu", "production", 8443)
    assert found.artefacts["uki.efi"].sha256 == sha256((out / "uki.efi").read_bytes())
    assert [package.name for package in found.packages] == ["alpha", "beta", "llama.cpp-tools"]
    assert [event.name for event in found.agent_events] == ["config", "model", "engine", "system-ready"]
    assert not found.refreshed
    assert all(":" in origin and str(out.parents[1]) not in origin for origin in found.origins.values())


def test_the_measured_configuration_is_in_the_tree_that_mkosi_sees(fake: Fake, out: Path) -> None:
    fake.mkosi.write_text(
        image_fake.MKOSI
        + '(here / "config.json").write_bytes((source / "mkosi.extra/etc/privml/config.json").read_bytes())\n'
    )
    found = made(fake, out).manifest
    data = (fake.root / "config.json").read_bytes()
    assert sha256(data) == found.config_sha256
    config = configuration.decode(data)
    assert [(model.verity.root_hash.hex(), model.file) for model in config.models] == [(HASH, "small.gguf")]
    assert stages.sequence(config) == found.agent_events
    seen = fake.read("seen.json")
    assert [name for name in seen if name.startswith("packages/")] == [
        "packages/alpha_2%3a1.0-1_amd64.deb",
        "packages/beta_2%3a1.0-1_amd64.deb",
        "packages/llama.cpp-tools_2%3a1.0-1_amd64.deb",
    ]
    assert "mkosi.extra/usr/lib/privml/privml/agent/boot.py" in seen
    assert not [name for name in seen if "privml/sim" in name or "simulated" in name]


def test_mkosi_has_no_network_and_none_of_the_caller_s_environment(
    fake: Fake, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "1")
    made(fake, out)
    words = (fake.root / "loader.words").read_text().splitlines()
    assert words[:3] == ["--library-path", f"{fake.root}/usr/lib/x86_64-linux-gnu", f"{fake.root}/usr/bin/unshare"]
    assert "--net" in words
    environment = fake.read("environment.json")
    assert environment["PYTHONPATH"] == str(fake.root / "usr/lib/python3/dist-packages")
    assert not {"SECRET_OF_THE_CALLER", "http_proxy", "VIRTUAL_ENV"} & set(environment)
    assert Path(environment["HOME"]).name == "workspace"
    assert not Path(environment["HOME"]).exists()


@pytest.mark.parametrize("lacking", [0, 1])
def test_mkosi_works_in_memory_only_where_all_that_it_may_take_is_free(
    fake: Fake, out: Path, monkeypatch: pytest.MonkeyPatch, lacking: int
) -> None:
    given: list[int] = []
    real = root.run_mkosi

    def run_mkosi(*words: Any, memory: int) -> None:
        given.append(memory)
        real(*words, memory=memory)

    monkeypatch.setattr(root, "run_mkosi", run_mkosi)
    need = root._MEMORY * sum(package.size for package in fake.lock.packages)
    assert need > 0
    monkeypatch.setattr(root, "free_memory", lambda: need - lacking)
    made(fake, out)
    assert given == [0 if lacking else need]


def test_a_second_build_runs_no_tool(fake: Fake, out: Path) -> None:
    first = made(fake, out)
    calls = len(fake.calls())
    second = made(fake, out)
    assert second.cached
    assert second.manifest == first.manifest
    assert len(fake.calls()) == calls


def test_a_refreshed_lock_is_another_build_and_marked_in_the_manifest(fake: Fake, out: Path) -> None:
    plain = made(fake, out)
    assert not plain.manifest.refreshed
    built = build(fake.order(refreshed=True), out)
    assert not built.cached
    assert manifest.read(out).refreshed
    assert built.manifest.artefacts == plain.manifest.artefacts


def test_leftovers_of_a_killed_build_are_removed_by_the_next(fake: Fake, out: Path) -> None:
    names = [f".{out.name}.abcd1234", f".{out.name}.old.abcd1234", f".{out.name}-dev.abcd1234"]
    for name in names:
        (out.parent / name / "was").mkdir(parents=True)
    made(fake, out)
    assert [name for name in names if (out.parent / name).exists()] == names[2:]


def test_force_rebuilds_and_gives_the_same_bytes(fake: Fake, out: Path) -> None:
    first = made(fake, out)
    bodies = {name: (out / name).read_bytes() for name in PARTS}
    second = made(fake, out, force=True)
    assert not second.cached
    assert second.manifest == first.manifest
    assert {name: (out / name).read_bytes() for name in PARTS} == bodies
    assert listing(out.parent) == [".demo-cpu.lock", "demo-cpu"]


@pytest.mark.parametrize("harm", ["change", "remove", "manifest", "no manifest", "inputs", "inputs not canonical"])
def test_a_damaged_image_is_rebuilt(fake: Fake, out: Path, harm: str) -> None:
    whole = made(fake, out).manifest
    if harm == "change":
        data = (out / "root.raw").read_bytes()
        (out / "root.raw").write_bytes(data[:-1] + b"x")
    elif harm == "manifest":
        (out / "manifest.json").write_text("{}")
    elif harm == "inputs not canonical":
        (out / ".inputs.json").write_bytes((out / ".inputs.json").read_bytes() + b"\n")
    else:
        (out / {"remove": "uki.efi", "no manifest": "manifest.json", "inputs": ".inputs.json"}[harm]).unlink()
    again = made(fake, out)
    assert not again.cached
    assert again.manifest == whole
    check_artefacts(out, whole.artefacts)


ALL = {"model.raw", "firmware.fd", *inputs.STEPS}


def rebuilt(built: BuildResult) -> dict[str, str]:
    """The steps that ran, each with its reason."""
    return {step: ", ".join(because) for step, because in built.because.items() if because}


def programs(fake: Fake) -> list[str]:
    """The programs that ran since the last call; unordered, because firmware and root are made in parallel."""
    found = sorted(call[0] for call in fake.calls())
    (fake.root / "calls.jsonl").unlink(missing_ok=True)
    return found


def tree(entries: Tree, path: str, digest: str) -> Tree:
    files = [file for file in entries.files if file.path != path]
    return Tree.of([*files, TreeFile(path=path, kind="file", sha256=digest * 64, size=1)])


def test_a_first_build_runs_every_step(fake: Fake, out: Path) -> None:
    found = made(fake, out)
    assert set(rebuilt(found)) == ALL
    assert rebuilt(found)["model.raw"] == "there is no earlier image"
    assert programs(fake) == ["mkosi", "systemd-repart", "ukify", "virt-fw-vars"]
    assert rebuilt(made(fake, out)) == {}
    assert programs(fake) == []


@pytest.mark.parametrize(
    ("change", "steps", "ran"),
    [
        ("an agent file", {"root.raw": "agent file privml/agent/boot.py changed"}, ["mkosi", "ukify"]),
        ("a guest file", {"root.raw": "guest file guest/common/etc/new is new"}, ["mkosi", "ukify"]),
        ("finalize", {"root.raw": "template mkosi/finalize.py is new"}, ["mkosi", "ukify"]),
        (
            "mkosi.conf",
            {"base tree": "template mkosi/mkosi.conf.j2 is new", "root.raw": "base tree changed, "
             "template mkosi/mkosi.conf.j2 is new"},
            ["mkosi", "ukify"],
        ),
        ("a package", {BASE: "package beta 2:1.0-1 -> 3", "root.raw": "base tree changed"}, ["mkosi", "ukify"]),
        ("a package less", {BASE: "package beta was removed", "root.raw": "base tree changed"}, ["mkosi", "ukify"]),
        ("other bytes", {BASE: "package beta changed", "root.raw": "base tree changed"}, ["mkosi", "ukify"]),
        ("the firmware", {"firmware.fd": "firmware ovmf-inteltdx 2:1.0-1 -> 4"}, ["virt-fw-vars"]),
        (
            "the model",
            {"model.raw": "model name smollm2-135m-instruct -> b",
             "root.raw": "configuration engine.argv changed, "
             "configuration models[0].name smollm2-135m-instruct -> b"},
            ["mkosi", "systemd-repart", "ukify"],
        ),
        ("the wheel", {"manifest.json": "lock changed"}, []),
        ("the port", {"root.raw": "configuration agent.listen 8443 -> 9443"}, ["mkosi", "ukify"]),
        ("a comment", {"manifest.json": "recipe changed"}, []),
        ("the archives", {"manifest.json": "lock changed"}, []),
    ],
)  # fmt: skip
def test_changed_steps_are_rebuilt_and_named(
    fake: Fake, out: Path, change: str, steps: dict[str, str], ran: list[str]
) -> None:
    made(fake, out)
    programs(fake)
    alpha, beta, engine = fake.lock.packages
    agent = fake.recipe.content.agent.model_copy(update={"listen": 9443})
    updates: dict[str, object] = {
        "an agent file": {"agent": tree(fake.lock.agent, "privml/agent/boot.py", "9")},
        "a guest file": {"guest": tree(fake.lock.guest, "guest/common/etc/new", "9")},
        "finalize": {"guest": tree(fake.lock.guest, "mkosi/finalize.py", "9")},
        "mkosi.conf": {"guest": tree(fake.lock.guest, "mkosi/mkosi.conf.j2", "9")},
        "a package": {"packages": (alpha, beta.model_copy(update={"version": "3"}), engine)},
        "a package less": {"packages": (alpha, engine)},
        "other bytes": {"packages": (alpha, beta.model_copy(update={"sha256": alpha.sha256}), engine)},
        "the firmware": {"firmware": image_fake.moved(fake.lock.firmware, version="4")},
        "the model": {"models": (fake.lock.models[0].model_copy(update={"name": "b"}),)},
        "the wheel": {"python": (fake.lock.python[0].model_copy(update={"version": "0.1.3"}),)},
        "the archives": {"packages_requested": ("alpha", "beta")},
    }
    if change == "the port":
        fake.recipe = replace(fake.recipe, content=fake.recipe.content.model_copy(update={"agent": agent}))
    elif change == "a comment":
        fake.recipe = replace(fake.recipe, effective={"content": {}})
    else:
        fake.lock = fake.lock.model_copy(update=updates[change])
    fake.installed(*fake.lock.packages)
    found = made(fake, out)
    told = rebuilt(found)
    assert {step: told[step] for step in steps} == steps
    follows = {"uki.efi"} if "root.raw" in steps else set()
    assert set(told) == set(steps) | follows | {"manifest.json", "prediction.json"}
    assert programs(fake) == ran
    check_artefacts(out, found.manifest.artefacts)
    assert rebuilt(made(fake, out)) == {}


@pytest.mark.parametrize("which", ["source_date_epoch", "tools_sha256"])
def test_a_changed_epoch_or_tools_lock_rebuilds_everything(fake: Fake, out: Path, which: str) -> None:
    made(fake, out)
    tools = image_fake.TOOLS_LOCK.model_copy(update={"source_date_epoch": 2})
    other: object = 1 if which == "source_date_epoch" else tools.digest
    if which == "tools_sha256":
        write_lock(fake.tools_lock, tools)
    fake.lock = fake.lock.model_copy(update={which: other})
    told = rebuilt(made(fake, out))
    assert set(told) == ALL
    shown = {"source_date_epoch": "source date epoch 1750000000 -> 1", "tools_sha256": "tools tree changed"}
    assert told["firmware.fd"] == told["model.raw"] == shown[which]


def test_a_step_is_rebuilt_when_its_code_changes(
    fake: Fake, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed comment, or a change in an unrelated module, rebuilds nothing."""
    made(fake, out)
    package = tmp_path / "privml"
    shutil.copytree(code._PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "data"))
    monkeypatch.setattr(code, "_PACKAGE", package)

    def changed(name: str, text: str) -> dict[str, str]:
        code._of_file.cache_clear()
        (package / name).write_text((package / name).read_text() + text)
        return rebuilt(made(fake, out))

    assert changed("measure/cpio.py", "# a remark\n") == {}
    assert changed("image/schemas.py", "MORE = 1\n") == {}
    told = changed("measure/cpio.py", "MORE = 1\n")
    assert told["uki.efi"] == "module measure/cpio.py changed"
    assert set(told) == {"root.raw", "uki.efi", "manifest.json", "prediction.json"}
    told = changed("lock/deb.py", "MORE = 1\n")
    assert told["firmware.fd"] == "module lock/deb.py changed"
    assert set(told) == {"firmware.fd", "manifest.json", "prediction.json"}
    assert set(changed("image/modelvolume.py", "MORE = 1\n")) == {"model.raw", "manifest.json", "prediction.json"}
    code._of_file.cache_clear()


def test_a_model_rebuilt_to_the_same_bytes_rebuilds_nothing_after_it(fake: Fake, out: Path) -> None:
    before = made(fake, out).manifest
    (out / "model.raw").unlink()
    found = made(fake, out)
    assert set(rebuilt(found)) == {"model.raw", "manifest.json", "prediction.json"}
    assert rebuilt(found)["model.raw"] == f"{out / 'model.raw'} is missing"
    assert found.manifest == before


def test_a_different_model_rebuilds_the_root(fake: Fake, out: Path) -> None:
    made(fake, out)
    (out / "model.raw").unlink()
    (fake.root / "model.volume").write_bytes(volume("privml-model", data=1))
    told = rebuilt(made(fake, out))
    assert set(told) == {"model.raw", "root.raw", "uki.efi", "manifest.json", "prediction.json"}
    assert "configuration models[0].verity.data_blocks 2 -> 1" in told["root.raw"]


def test_a_root_whose_uki_is_missing_is_rebuilt(fake: Fake, out: Path) -> None:
    """The UKI is the only place of its kernel."""
    before = made(fake, out).manifest
    (out / "uki.efi").unlink()
    programs(fake)
    found = made(fake, out)
    assert set(rebuilt(found)) == {"root.raw", "uki.efi", "manifest.json", "prediction.json"}
    assert programs(fake) == ["mkosi", "ukify"]
    assert found.manifest == before


def test_a_second_root_starts_from_the_cached_packages(fake: Fake, out: Path) -> None:
    first = made(fake, out)
    given = fake.read("seen.json")
    assert "mkosi.prepare" in given
    assert [name for name in given if name.startswith("packages/")]
    (out / "root.raw").unlink()
    again = made(fake, out)
    given = fake.read("seen.json")
    assert "base.tar" in given
    assert not [name for name in given if name.startswith(("packages", "mkosi.prepare"))]
    assert (fake.root / "base.seen").read_bytes() == b"tree of packages"
    assert not again.because["base tree"]
    assert again.manifest == first.manifest


def test_a_tree_with_the_same_package_from_the_base_is_not_used_for_one_from_outside(fake: Fake, out: Path) -> None:
    """It was installed without a comparison."""
    made(fake, out)
    first, *others = fake.lock.packages
    fake.lock = fake.lock.model_copy(update={"packages": (first.model_copy(update={"archive": "acme"}), *others)})
    assert [package.name for package in fake.lock.outside] == [first.name]
    why = rebuilt(made(fake, out))["base tree"]
    assert f"package from outside the base {first.name} is new" in why
    assert f"package {first.name} was removed" in why
    assert "base.tar" not in fake.read("seen.json")


def test_a_forced_build_does_not_use_cached_packages(fake: Fake, out: Path) -> None:
    made(fake, out)
    found = made(fake, out, force=True)
    assert set(rebuilt(found).values()) == {"a full rebuild was requested"}
    assert set(rebuilt(found)) == ALL
    assert "base.tar" not in fake.read("seen.json")


def test_a_damaged_tree_of_packages_is_not_used(fake: Fake, out: Path) -> None:
    made(fake, out)
    [kept] = [path for path in (fake.store.root / "derived").iterdir() if not path.suffix]
    kept.write_bytes(b"tree of packageS")
    (out / "root.raw").unlink()
    made(fake, out)
    assert "base.tar" not in fake.read("seen.json")
    (out / "root.raw").unlink()
    made(fake, out)
    assert "base.tar" in fake.read("seen.json")


def test_a_missing_tree_of_packages_is_rebuilt(fake: Fake, out: Path) -> None:
    made(fake, out)
    shutil.rmtree(fake.store.root / "derived")
    assert made(fake, out).cached
    (out / "root.raw").unlink()
    assert rebuilt(made(fake, out))["base tree"] == "it is not in the store"


def test_a_failed_root_caches_no_tree(fake: Fake, out: Path) -> None:
    fake.installed(fake.lock.packages[0])
    with pytest.raises(BuildError):
        made(fake, out)
    assert not (fake.store.root / "derived").exists()


def test_licences_are_reused_with_the_root(fake: Fake, out: Path) -> None:
    said = {"copyright": {"alpha": "Format: https://x/copyright-format/1.0/\n\nLicense: Curious-1\n"}, "common": {}}
    fake.mkosi.write_text(image_fake.MKOSI + f'(source / "licences.json").write_text({json.dumps(said)!r})\n')
    made(fake, out)
    before = (out / "sbom.cdx.json").read_bytes()
    assert b"Curious-1" in before
    (out / "firmware.fd").unlink()
    programs(fake)
    made(fake, out)
    assert programs(fake) == ["virt-fw-vars"]
    assert (out / "sbom.cdx.json").read_bytes() == before


def test_an_image_that_is_whole_needs_neither_tools_nor_input_bytes(fake: Fake, out: Path) -> None:
    def no_tools() -> ToolsTree:
        raise AssertionError("the tools are asked for")

    built = made(fake, out)
    order = fake.order(store=Store(fake.store.root.with_name("empty")), tools=no_tools)
    found = build(order, out)
    assert (found.cached, found.manifest, found.directory) == (True, built.manifest, out)
    (out / "uki.efi").unlink()
    with pytest.raises(AssertionError, match="tools are asked for"):
        build(order, out)


@pytest.mark.parametrize("name", ["prediction.json", *LOCKS])
def test_a_missing_prediction_or_lock_is_restored_without_a_tool(fake: Fake, out: Path, name: str) -> None:
    before = made(fake, out)
    body = (out / name).read_bytes()
    programs(fake)
    (out / name).unlink()
    found = made(fake, out)
    assert set(rebuilt(found)) <= {"manifest.json", "prediction.json"}
    assert rebuilt(found)
    assert programs(fake) == []
    assert (out / name).read_bytes() == body
    assert found.manifest == before.manifest
    assert made(fake, out).cached


def test_a_changed_platform_only_changes_the_prediction(
    fake: Fake, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(fake, out)
    changed = dict.fromkeys(("platform qemu-11-q35",), "2")
    monkeypatch.setattr(image_fake.Predictor, "inputs", lambda self, platforms: changed)
    assert rebuilt(made(fake, out)) == {"prediction.json": "platform qemu-11-q35 1 -> 2"}
    assert (fake.root / "predicted").read_text().count("demo-cpu") == 2


def test_a_failed_prediction_leaves_the_old_image_unchanged(
    fake: Fake, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Predicate:
        raise MeasurementError("no such machine")

    made(fake, out)
    bodies = {name: (out / name).read_bytes() for name in PARTS}
    monkeypatch.setattr(image_fake.Predictor, "predict", fails)
    with pytest.raises(MeasurementError):
        made(fake, out, force=True)
    assert {name: (out / name).read_bytes() for name in PARTS} == bodies
    assert listing(out.parent) == [".demo-cpu.lock", "demo-cpu"]


def test_reused_files_do_not_depend_on_the_old_image(fake: Fake, out: Path, tmp_path: Path) -> None:
    """Reused files are hard links, so the new image stays complete when the old one is removed."""
    made(fake, out)
    shutil.copytree(out, tmp_path / "copy")
    (out / "firmware.fd").unlink()
    built = made(fake, out)
    check_artefacts(out, built.manifest.artefacts)
    assert {path.stat().st_nlink for path in out.iterdir()} == {1}


def test_a_failing_mkosi_is_a_build_error_with_its_output(fake: Fake, out: Path) -> None:
    fake.mkosi.write_text("import sys\nprint('to stdout')\nsys.exit('E: the package is broken')\n")
    message = failing(fake, out, "mkosi failed with status 1", "  | E: the package is broken", "  | to stdout")
    assert message.startswith("mkosi failed")


def test_a_failure_leaves_the_old_image_unchanged(fake: Fake, out: Path) -> None:
    made(fake, out)
    before = (out / "manifest.json").read_bytes()
    fake.mkosi.write_text("raise SystemExit(3)\n")
    with pytest.raises(BuildError):
        made(fake, out, force=True)
    assert listing(out) == PARTS
    assert (out / "manifest.json").read_bytes() == before
    assert made(fake, out).cached


@pytest.mark.parametrize(
    "name", ["root.raw", "installed.json", "root.roothash", "base.tar", "kernel-version", "vmlinuz"]
)
def test_an_output_that_is_missing_is_a_build_error(fake: Fake, out: Path, name: str) -> None:
    fake.mkosi.write_text(image_fake.MKOSI + f'(source / "{name}").unlink()\n')
    failing(fake, out, f"mkosi succeeded but did not write {name}")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ('(source / "root.raw").write_bytes(bytes(9999))', "not a GPT disk image"),
        ('(source / "root.roothash").write_text("short")', "not a SHA-256 root hash"),
        ('(source / "root.roothash").write_text("")', "expected one word"),
        ('(source / "kernel-version").write_text("6.1 init=/bin/sh")', "expected one word"),
        ('(source / "installed.json").write_text("[{}]")', "malformed list of installed packages"),
        ('(source / "installed.json").write_text("{")', "malformed list of installed packages"),
        ("(source / 'initrd/init').unlink()", "initrd: init is missing"),
    ],
)
def test_an_output_that_is_wrong_is_a_build_error(fake: Fake, out: Path, code: str, words: str) -> None:
    fake.mkosi.write_text(image_fake.MKOSI + code + "\n")
    failing(fake, out, words)


@pytest.mark.parametrize(
    ("tool", "body", "words"),
    [
        ("systemd-repart", "sys.exit('no space')", "systemd-repart failed with status 1"),
        ("systemd-repart", "print('[]')", "root hashes [], expected one"),
        ("systemd-repart", "print('hello')", "not a list of partitions"),
        ("ukify", "sys.exit('no stub')", "ukify failed with status 1\n  | no stub"),
        ("virt-fw-vars", "sys.exit(2)", "virt-fw-vars failed with status 2"),
    ],
)
def test_a_failing_tool_is_a_build_error(fake: Fake, out: Path, tool: str, body: str, words: str) -> None:
    mine = f"import sys\nif sys.argv[sys.argv.index('--') + 1] == {tool!r}:\n    {body}\n    sys.exit()\n"
    fake.sandbox.write_text(mine + image_fake.SANDBOX)
    failing(fake, out, words)


def test_an_extra_package_is_reported(fake: Fake, out: Path) -> None:
    fake.installed(*fake.lock.packages, *fake.lock.firmware_debs)
    failing(fake, out, "not the locked ones: extra: ovmf-inteltdx 2:1.0-1 amd64; missing: none")


def test_a_missing_package_is_reported(fake: Fake, out: Path) -> None:
    fake.installed(*fake.lock.packages[1:])
    failing(fake, out, "extra: none; missing: alpha 2:1.0-1 amd64")


def test_a_different_version_is_reported_as_extra_and_missing(fake: Fake, out: Path) -> None:
    alpha, *others = fake.lock.packages
    fake.installed(alpha.model_copy(update={"version": "3"}), *others)
    failing(fake, out, "extra: alpha 3 amd64; missing: alpha 2:1.0-1 amd64")


def test_a_model_with_another_digest_than_the_locked_one_is_refused(fake: Fake, out: Path) -> None:
    (model,) = fake.lock.models
    for file, message in (
        ({"sha256": "0" * 64}, "llm/small.gguf does not match the lock"),
        ({"path": "llm/large.gguf"}, "does not contain llm/large.gguf, which the lock names"),
    ):
        other = model.model_copy(update={"files": (model.files[0].model_copy(update=file),)})
        fake.lock = fake.lock.model_copy(update={"models": (other,)})
        failing(fake, out, message)


def test_a_model_of_several_files_is_one_volume_and_the_engine_is_given_the_first(
    fake: Fake, out: Path, tmp_path: Path
) -> None:
    (model,) = fake.lock.models
    bodies = {f"Q4/m-{number}.gguf": b"part %d" % number for number in (1, 2)}
    files = tuple(ModelFile(path=path, size=len(data), sha256=sha256(data)) for path, data in bodies.items())
    parts = model.model_copy(update={"source": HubSource(repo="a/b", commit="c" * 40), "files": files})
    fake.lock = fake.lock.model_copy(update={"models": (parts,), "python": ()})
    theirs = Store(tmp_path / "theirs")
    export(theirs, [theirs.add_bytes(data) for data in bodies.values()], tmp_path / "pool")
    order = replace(fake.order(), pools=(Pool.parse(str(tmp_path / "pool")),))
    found = build(order, out).manifest
    assert fake.read("volume.json") == {Path(path).name: [0o644, data.hex()] for path, data in bodies.items()}
    assert (found.models[0].source, found.models[0].revision) == (f"hub:a/b@{'c' * 40}", "c" * 40)
    record = json.loads((out / ".inputs.json").read_bytes())
    assert record["model_files"] == ["m-1.gguf"]
    assert {name for name in record["steps"]["model.raw"] if name.startswith("model file")} == {
        f"model file {path}" for path in bodies
    }
    place = fake.store.path(files[1].sha256)
    place.chmod(0o644)
    place.write_bytes(b"other")
    with pytest.raises(InputsError, match="is damaged"):
        build(fake.order(), out, force=True)


def test_damaged_inputs_are_refused(fake: Fake, out: Path) -> None:
    place = fake.store.path(fake.lock.packages[0].sha256)
    place.chmod(0o644)
    place.write_bytes(b"other")
    failing(fake, out, "is damaged")


BUILD = """
import pathlib, sys
import image_fake
from test_image_build import made
folder = pathlib.Path(sys.argv[1])
fake = image_fake.make(folder / "killed")
fake.mkosi.write_text("import pathlib, time\\npathlib.Path(__file__).with_name('started').touch()\\ntime.sleep(9)")
made(fake, folder / "out/demo-cpu")
"""


def test_a_killed_build_leaves_no_output_and_no_lock(tmp_path: Path, out: Path) -> None:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(tmp_path)], start_new_session=True, env={**os.environ, "PYTHONPATH": paths}
    )
    started = tmp_path / "killed/tools/usr/lib/python3/dist-packages/mkosi/started"
    end = time.monotonic() + 30
    while not started.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    assert started.exists()
    assert not out.exists()
    assert not made(image_fake.make(tmp_path / "again"), out).cached


def test_a_tree_is_written_with_its_own_modes_and_times(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        root.write_tree(
            {"a/b": File(b"x"), "a/c": File(b"y", executable=True), "a/d": File(link="b")}, tmp_path, epoch=9
        )
    finally:
        os.umask(old)
    facts = {p.name: (oct(p.lstat().st_mode & 0o777), p.lstat().st_mtime) for p in (tmp_path / "a").iterdir()}
    assert facts == {"b": ("0o644", 9.0), "c": ("0o755", 9.0), "d": ("0o777", 9.0)}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755


def test_the_output_needs_no_absolute_path(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    built = made(fake, Path("out/demo-cpu"))
    assert built.directory.is_absolute()
    assert json.loads((tmp_path / "out/demo-cpu/manifest.json").read_text())["format"] == "privml-manifest/v2"


def rendered(fake: Fake, directory: Path) -> None:
    room.render_only(fake.order(), directory)


def test_what_is_rendered_is_what_mkosi_is_given(fake: Fake, out: Path, tmp_path: Path) -> None:
    rendered(fake, tmp_path / "tree")
    assert [call[0] for call in fake.calls()] == ["systemd-repart"]
    made(fake, out)
    given = fake.read("seen.json")
    tree = tmp_path / "tree"
    assert sorted(str(path.relative_to(tree)) for path in tree.rglob("*")) == given
    assert json.loads((tree / "mkosi.extra/etc/privml/config.json").read_bytes())["name"] == "demo-cpu"
    assert (tree / "packages/alpha_2%3a1.0-1_amd64.deb").read_bytes() == fake.store.read(fake.lock.packages[0].sha256)
    assert listing(tmp_path) == ["out", "store", "tools", "tools.lock.json", "tree"]


def test_rendering_twice_gives_the_same_bytes_and_times(fake: Fake, tmp_path: Path) -> None:
    def state(tree: Path) -> list[tuple[str, int, float, bytes]]:
        return [
            (str(path.relative_to(tree)), path.lstat().st_mode, path.lstat().st_mtime, path.read_bytes())
            for path in sorted(tree.rglob("*"))
            if path.is_file() and not path.is_symlink()
        ]

    for name in ("a", "b"):
        rendered(fake, tmp_path / name)
    assert state(tmp_path / "a") == state(tmp_path / "b")


def test_a_tree_is_rendered_into_an_empty_directory_only(fake: Fake, tmp_path: Path) -> None:
    directory = tmp_path / "tree"
    directory.mkdir()
    (directory / "mine").write_text("keep me")
    with pytest.raises(UsageError, match="is not empty"):
        rendered(fake, directory)
    assert listing(directory) == ["mine"]
    assert fake.calls() == []
    (directory / "mine").unlink()
    rendered(fake, directory)
    assert (directory / "mkosi.conf").is_file()


@pytest.mark.parametrize(
    "address",
    [
        "http://deb.example.invalid/debian",
        "https://example.invalid/repository",
        "file:/srv/other",
        "file:/repository-of-another",
        "cdrom://Debian",
        "mirror+file:/etc/mirrors",
    ],
)
@pytest.mark.parametrize("verb", ["Get", "Hit", "Ign", "Err"])
def test_an_address_outside_the_pool_of_packages_fails_closed(verb: str, address: str) -> None:
    said = f"Reading package lists...\n{verb}:7 {address} forky/main amd64 tool 1.0 [2 kB]\n"
    with pytest.raises(BuildError, match="expected only the pool"):
        root.check_sources(said.encode())


def test_the_pool_of_packages_is_the_only_allowed_address() -> None:
    root.check_sources(
        b"Get:1 file:/repository ./ InRelease\nIgn:1 file:/repository ./ InRelease\n"
        b"Get:2 file:///repository ./ Packages\nFetched 1 kB from http://deb.example.invalid/ in 0s\n"
    )


def test_a_build_whose_apt_used_another_address_leaves_no_output(fake: Fake, out: Path) -> None:
    fake.mkosi.write_text(image_fake.MKOSI + 'print("Get:1 http://deb.example.invalid/debian forky InRelease")\n')
    failing(fake, out, "deb.example.invalid", "pool of locked packages")


def test_an_image_without_a_model_has_no_volume_for_one(fake: Fake, tmp_path: Path) -> None:
    fake.mkosi.write_text(
        image_fake.MKOSI
        + '(here / "config.json").write_bytes((source / "mkosi.extra/etc/privml/config.json").read_bytes())\n'
    )
    out = tmp_path / "out/tdx-min"
    found = made(image_fake.without_model(fake), out).manifest
    parts = [name.replace("demo-cpu", "tdx-min") for name in PARTS if name != "model.raw"]
    assert listing(out) == sorted(parts)
    assert sorted(call[0] for call in fake.calls()) == ["mkosi", "ukify", "virt-fw-vars"]
    assert found.models == ()
    assert found.engine is None
    assert manifest.read(out) == found
    assert [event.name for event in found.agent_events] == ["config", "system-ready"]
    assert not {"model", "engine"} & found.origins.keys()
    config = configuration.decode((fake.root / "config.json").read_bytes())
    assert (config.engine, config.models) == (None, ())
    assert config.devices == ("virtio-blk", "virtio-net")
    assert not [name for name in fake.read("seen.json") if "engine" in name and "privml/agent" not in name]
    components = json.loads((out / "sbom.cdx.json").read_bytes())["components"]
    assert not [
        part for part in components if part["type"] == "machine-learning-model" or part["name"] == "model.raw"
    ]
    subjects = {row["name"] for row in json.loads((out / "provenance.json").read_bytes())["subject"]}
    assert subjects == {"firmware.fd", "root.raw", "uki.efi", "manifest.json", "sbom.cdx.json"}


def test_adding_or_removing_the_model_changes_the_image(fake: Fake, tmp_path: Path) -> None:
    out, whole = tmp_path / "out/tdx-min", (fake.recipe, fake.lock)
    bare = (image_fake.without_model(fake).recipe, fake.lock)
    assert "model.raw" not in made(fake, out).because
    assert made(fake, out).cached
    fake.recipe, fake.lock = whole
    assert made(fake, out).because["model.raw"]
    assert (out / "model.raw").is_file()
    assert made(fake, out).cached
    fake.recipe, fake.lock = bare
    assert made(fake, out).manifest.models == ()
    assert not (out / "model.raw").exists()


def test_what_is_rendered_without_a_model_needs_no_tool(fake: Fake, tmp_path: Path) -> None:
    rendered(image_fake.without_model(fake), tmp_path / "tree")
    assert fake.calls() == []
    assert json.loads((tmp_path / "tree/mkosi.extra/etc/privml/config.json").read_bytes())["models"] == []


@pytest.mark.parametrize("gains", [True, False])
def test_one_directory_can_gain_or_lose_its_model(fake: Fake, tmp_path: Path, gains: bool) -> None:
    """A model, or its absence, is never reused from an earlier image of another recipe."""
    other = image_fake.without_model(image_fake.make(tmp_path / "other"))
    out = tmp_path / "out/place"
    before, after = (other, fake) if gains else (fake, other)
    made(before, out)
    found = made(after, out)
    assert bool(found.manifest.models) is gains
    assert (out / "model.raw").exists() is gains
    assert not found.cached
    assert found.manifest == made(after, tmp_path / "fresh").manifest


def test_an_image_that_boots_from_its_disk_has_it_assembled_last(tmp_path: Path) -> None:
    fake, out = image_fake.make(tmp_path), tmp_path / "out/demo-cpu"
    content = fake.recipe.content
    fake.recipe = replace(fake.recipe, content=content.model_copy(update={"boot": "disk"}))
    first = made(fake, out)
    assert listing(out) == sorted([*PARTS, "disk.raw"])
    assert (first.manifest.boot, first.manifest.disks) == ("disk", ("disk.raw",))
    assert programs(fake) == ["mcopy", "mkfs.fat", "mkosi", "systemd-repart", "ukify", "virt-fw-vars"]
    assert (out / "uki.efi").read_bytes() in (out / "disk.raw").read_bytes()
    body = (out / "disk.raw").read_bytes()
    assert made(fake, out).cached
    (out / "disk.raw").write_bytes(b"harmed")
    assert {*rebuilt(made(fake, out))} == {"disk.raw", "manifest.json", "prediction.json"}
    assert (out / "disk.raw").read_bytes() == body
    (out / "root.raw").unlink()
    again = rebuilt(made(fake, out))
    assert again["disk.raw"] == "root.raw is rebuilt, uki.efi is rebuilt"
    assert (out / "disk.raw").read_bytes() == body
    fake.recipe = replace(fake.recipe, content=content)
    assert "disk.raw" not in made(fake, out).manifest.artefacts
    assert not (out / "disk.raw").exists()
